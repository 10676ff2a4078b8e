//! The status of one node, as its agent tells it.
//!
//! Deliberately absent: when it is told: counts of pods wait for something else to be said, since a pod's start writes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use jiff::Timestamp;
use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer, Serialize};

use super::{Condition, since, summary};
use crate::core::compile::{Compiled, ExitRole};
use crate::core::gateway_interfaces::GatewayInterface;
use crate::core::host_network::KernelFeatures;
use crate::core::name::NodeName;
use crate::core::placement::handover::Serving;
use crate::core::placement::{HeldAddresses, UnfitExits};
use crate::core::policy::{PolicyId, PolicyKind};
use crate::core::report::history::NodeReport;
use crate::core::state::ownership::DatapathConfig;
use crate::core::text::shortened;

/// Records that a status carries of each kind; the reports branch has more.
const CARRIED: usize = 20;

/// `status` of an EgressNode.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeStatus {
    /// The commit that is in force.
    pub revision: String,
    /// The fence of the head that was accepted with it.
    pub fence: i64,
    /// Since which boot of the node that is so: a kernel forgets everything when it ends, and a status does not.
    #[serde(rename = "bootID", skip_serializing_if = "String::is_empty")]
    pub boot_id: String,
    /// Exits that this node serves, in its kernel now.
    pub exits: Vec<ServedExit>,
    /// Their addresses, for a column.
    pub exit_summary: String,
    /// Exits that it could not serve if it were asked to, with the reason: it is passed over.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unfit: Vec<UnfitExit>,
    /// Egress addresses that policies name and that it has, where a policy could choose it: policies follow them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub holds: Vec<HeldAddress>,
    /// Its interfaces, where a policy could choose it for a gateway: for previews.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub interfaces: Vec<GatewayInterface>,
    /// Policies with pods here.
    pub policies: Vec<PolicyMembers>,
    /// Pods that some policy selects.
    pub members: u64,
    /// What the kernel can do.
    pub features: NodeFeatures,
    /// The kernel's numbers that are Egret's there; none before the first round.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub datapath: Option<NodeDatapath>,
    /// Objects that differ and are not put right.
    pub drift: u64,
    /// What had drifted, and findings.
    /// One that another version wrote and this one cannot read is none.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "readable")]
    pub report: Option<NodeReport>,
    /// Ready, Drifting.
    pub conditions: Vec<Condition>,
}

/// What another version wrote in another form is as good as nothing, and hides nothing else.
fn readable<'de, D: Deserializer<'de>>(from: D) -> Result<Option<NodeReport>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Either {
        Report(Box<NodeReport>),
        Other(IgnoredAny),
    }
    Ok(match Option::<Either>::deserialize(from)? {
        Some(Either::Report(report)) => Some(*report),
        Some(Either::Other(_)) | None => None,
    })
}

/// An exit and its addresses.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServedExit {
    /// `kind-worker2 dev net1`
    pub identity: String,
    /// The addresses that packets leave with.
    #[serde(rename = "egressIPs")]
    pub egress_ips: Vec<String>,
}

/// An exit that a node could not serve.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct UnfitExit {
    /// `kind-worker2 dev net1`
    pub identity: String,
    /// `net.ipv4.conf.net1.forwarding is 0`
    pub reason: String,
}

/// An egress address that a node has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HeldAddress {
    /// The address.
    pub address: IpAddr,
    /// Since when its agent sees it there. Of several nodes that have it the last is followed: so an address moves.
    pub since: Timestamp,
}

/// How many pods of a node a policy selects.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PolicyMembers {
    /// The policy.
    pub name: String,
    /// Its document's kind.
    pub kind: String,
    /// Its pods here.
    pub members: u64,
}

/// What a node's kernel can do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeFeatures {
    /// Its release: `6.18.44`.
    pub kernel: String,
    /// nftables can ask for the kind of interface that a packet came in by.
    pub interface_kinds: bool,
    /// Nobody else can flush our table.
    pub owned_tables: bool,
    /// IPv6 is on.
    pub ipv6: bool,
}

/// Numbers of the kernel's that are Egret's on a node. Nodes may have other marks than each other.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeDatapath {
    /// The bits of marks, as `0x1fff`.
    pub mark_mask: String,
    /// The first routing table and rule priority, and the last.
    pub tables: [u32; 2],
    /// The tunnel's UDP port.
    pub port: u16,
}

impl From<DatapathConfig> for NodeDatapath {
    fn from(range: DatapathConfig) -> Self {
        Self {
            mark_mask: format!("{:#x}", range.mask),
            tables: [range.table(0), range.table(range.last_id())],
            port: range.port,
        }
    }
}

/// What an agent knows of its node.
#[derive(Debug, Clone, Copy)]
pub struct NodeStatusInput<'a> {
    /// The commit in force.
    pub revision: &'a str,
    /// The fence of its head.
    pub fence: i64,
    /// Which boot of the node this is.
    pub boot_id: &'a str,
    /// What was compiled and is in force; none before the first time.
    pub compiled: Option<&'a Compiled>,
    /// The report.
    pub report: &'a NodeReport,
    /// What the kernel can do.
    pub features: KernelFeatures,
    /// Which egress addresses it has, and since when.
    pub holds: &'a BTreeMap<IpAddr, Timestamp>,
    /// What it tells of its interfaces.
    pub interfaces: &'a [GatewayInterface],
    /// The range of what is in the kernel.
    pub range: Option<DatapathConfig>,
    /// Which exits it could not serve, with the reason.
    pub unfit: &'a BTreeMap<String, String>,
    /// The kernel's release.
    pub kernel: &'a str,
    /// Why what is asked for is not in force: a reason and a sentence.
    pub fault: Option<(&'a str, &'a str)>,
}

impl NodeStatus {
    /// Whether other nodes have to hear of it as a gateway: it serves an exit that has an address, or says that it could not serve one.
    pub fn is_gateway(&self) -> bool {
        !self.unfit.is_empty() || self.exits.iter().any(|exit| !exit.egress_ips.is_empty())
    }

    /// Whether a commit is in this node's kernel, and was put there since this boot. An older version does not say when it was.
    pub fn is_in_place(&self, revision: &str, boot_id: &str) -> bool {
        let ready = || self.conditions.iter().any(|condition| condition.kind == "Ready" && condition.is_true());
        !boot_id.is_empty() && self.boot_id == boot_id && self.revision == revision && ready()
    }

    /// Whether other nodes' agents have to know what it says: of one that could serve, too, as it has the address.
    pub fn concerns_others(&self) -> bool {
        self.is_gateway() || !self.holds.is_empty()
    }
}

impl PolicyMembers {
    /// Whether it speaks of this policy.
    pub fn is_of(&self, id: &PolicyId) -> bool {
        self.name == id.name.as_str() && self.kind == kind_name(id.kind)
    }
}

fn kind_name(kind: PolicyKind) -> &'static str {
    match kind {
        PolicyKind::Cilium => "CiliumEgressGatewayPolicy",
        PolicyKind::Egret => "EgressPolicy",
    }
}

/// The status of a node. `before` is the one until now.
pub fn node_status(facts: NodeStatusInput<'_>, before: &NodeStatus, now: Timestamp) -> NodeStatus {
    let report = carried(facts.report);
    let exits = facts.compiled.map(served).unwrap_or_default();
    let policies = facts.compiled.map(members).unwrap_or_default();
    let pods: BTreeSet<_> =
        facts.compiled.into_iter().flat_map(|compiled| compiled.members.values().flatten()).collect();
    let drift = facts.report.drift.len();
    let conditions = vec![ready(facts, now), drifting(facts.report, now)];
    NodeStatus {
        revision: facts.revision.to_owned(),
        fence: facts.fence,
        boot_id: facts.boot_id.to_owned(),
        exit_summary: summary(exits.iter().flat_map(|exit| &exit.egress_ips).collect::<BTreeSet<_>>()),
        exits,
        unfit: facts
            .unfit
            .iter()
            .map(|(identity, reason)| UnfitExit { identity: identity.clone(), reason: reason.clone() })
            .collect(),
        holds: facts.holds.iter().map(|(address, since)| HeldAddress { address: *address, since: *since }).collect(),
        interfaces: facts.interfaces.to_vec(),
        policies,
        members: pods.len() as u64,
        features: NodeFeatures {
            kernel: facts.kernel.to_owned(),
            interface_kinds: facts.features.interface_kinds,
            owned_tables: facts.features.owned_tables,
            ipv6: facts.features.ipv6,
        },
        datapath: facts.range.map(NodeDatapath::from),
        drift: drift as u64,
        report: Some(report),
        conditions: since(conditions, &before.conditions),
    }
}

/// As much of a report as a status can carry: the reports branch has the rest of what is told once, and the node the rest of each text.
fn carried(report: &NodeReport) -> NodeReport {
    let mut report = report.clone();
    report.drift.truncate(CARRIED);
    report.corrected.truncate(CARRIED);
    report.findings.truncate(CARRIED);
    report.rejected.truncate(CARRIED);
    for record in report.drift.iter_mut().chain(&mut report.corrected) {
        record.wanted_by.truncate(CARRIED);
        for text in [&mut record.desired, &mut record.observed].into_iter().flatten() {
            *text = shortened(text, super::LONGEST_MESSAGE);
        }
    }
    report
}

fn ready(facts: NodeStatusInput<'_>, now: Timestamp) -> Condition {
    match (facts.fault, facts.compiled) {
        (Some((reason, message)), _) => Condition::new("Ready", false, reason, message, now),
        (None, None) => Condition::new("Ready", false, "Waiting", "waiting for policies to be published", now),
        (None, Some(compiled)) if compiled.desired.nft.is_empty() => {
            Condition::new("Ready", true, "NoPolicies", "no policy is in force", now)
        }
        (None, Some(_)) => Condition::new("Ready", true, "InForce", "what is asked for is in the kernel", now),
    }
}

fn drifting(report: &NodeReport, now: Timestamp) -> Condition {
    match report.drift.first() {
        None => Condition::new("Drifting", false, "None", "nothing differs", now),
        Some(first) => {
            let message = format!("{}: {}, and {} in all", first.object, first.action, report.drift.len());
            Condition::new("Drifting", true, "NotPutRight", message, now)
        }
    }
}

fn served(compiled: &Compiled) -> Vec<ServedExit> {
    let own = compiled.exits.iter().filter_map(|(key, exit)| match &exit.role {
        ExitRole::Own { ways, .. } => Some((key, ways)),
        ExitRole::Remote { .. } => None,
    });
    own.map(|(key, ways)| ServedExit {
        identity: key.identity(),
        egress_ips: ways.values().map(|way| way.address.to_string()).collect(),
    })
    .collect()
}

fn members(compiled: &Compiled) -> Vec<PolicyMembers> {
    let counts = compiled.members.iter().filter(|(_, pods)| !pods.is_empty());
    counts
        .map(|(id, pods)| PolicyMembers {
            name: id.name.to_string(),
            kind: kind_name(id.kind).to_owned(),
            members: pods.len() as u64,
        })
        .collect()
}

/// Which exits each node says it could not serve.
pub fn unfit<'n>(nodes: impl IntoIterator<Item = (&'n NodeName, &'n NodeStatus)>) -> UnfitExits {
    let with = nodes.into_iter().filter(|(_, status)| !status.unfit.is_empty());
    let exits =
        |status: &NodeStatus| status.unfit.iter().map(|exit| (exit.identity.clone(), exit.reason.clone())).collect();
    with.map(|(name, status)| (name.clone(), exits(status))).collect()
}

/// Which exits each node says it serves. One without an address has nothing to serve with.
pub fn serving<'n>(nodes: impl IntoIterator<Item = (&'n NodeName, &'n NodeStatus)>) -> Serving {
    let served = |status: &NodeStatus| -> BTreeSet<String> {
        let exits = status.exits.iter().filter(|exit| !exit.egress_ips.is_empty());
        exits.map(|exit| exit.identity.clone()).collect()
    };
    nodes.into_iter().map(|(name, status)| (name.clone(), served(status))).collect::<BTreeMap<_, _>>()
}

/// Which node has which of the addresses that policies name, and since when.
pub fn held<'n>(nodes: impl IntoIterator<Item = (&'n NodeName, &'n NodeStatus)>) -> HeldAddresses {
    let told = nodes.into_iter().filter(|(_, status)| !status.holds.is_empty());
    told.map(|(name, status)| (name.clone(), status.holds.iter().map(|one| (one.address, one.since)).collect()))
        .collect()
}
