//! The status of one node, as its agent reports it.
//!
//! Not here: when it is written (`reconcile::agent::status_writer`).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use jiff::Timestamp;
use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer, Serialize};

use super::condition::{
    Condition, ConditionStatus, ConditionType, Reason, is_ready, observe, readable as readable_conditions, settle,
    with_progress,
};
use super::summary;
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
    /// The `metadata.generation` that this is about; none before it was written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The commit that is applied.
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
    /// Objects that differ and could not be corrected.
    pub drift: u64,
    /// What had drifted, and findings.
    /// One that another version wrote and this one cannot read is none.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "readable")]
    pub report: Option<NodeReport>,
    /// See `docs/conditions.md`.
    #[serde(deserialize_with = "readable_conditions")]
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
    /// The commit that is applied.
    pub revision: &'a str,
    /// The fence of its head.
    pub fence: i64,
    /// Which boot of the node this is.
    pub boot_id: &'a str,
    /// What was compiled and applied; none before the first time.
    pub compiled: Option<&'a Compiled>,
    /// The report.
    pub report: &'a NodeReport,
    /// What the kernel can do.
    pub features: KernelFeatures,
    /// Which egress addresses it has, and since when.
    pub holds: &'a BTreeMap<IpAddr, Timestamp>,
    /// Its interfaces, for previews.
    pub interfaces: &'a [GatewayInterface],
    /// The range of what is in the kernel.
    pub range: Option<DatapathConfig>,
    /// Which exits it could not serve, with the reason.
    pub unfit: &'a BTreeMap<String, String>,
    /// The kernel's release.
    pub kernel: &'a str,
    /// Why what is published is not in the kernel.
    pub fault: Option<NodeFault<'a>>,
}

/// Why what is published is not in the kernel.
#[derive(Debug, Clone, Copy)]
pub struct NodeFault<'a> {
    /// False, or Unknown where the rest of a publication may still be coming.
    pub status: ConditionStatus,
    /// The reason.
    pub reason: Reason,
    /// A sentence.
    pub message: &'a str,
}

impl NodeStatus {
    /// The same as it is written: about this generation, and with the times of what the API server has, where that says the same. So a
    /// restart of the agent is no transition.
    #[must_use]
    pub fn as_written(&self, generation: i64, before: &Self) -> Self {
        let mut status = self.clone();
        status.observed_generation = Some(generation);
        status.conditions = observe(settle(status.conditions, &before.conditions), Some(generation));
        status
    }

    /// Whether other nodes have to hear of it as a gateway: it serves an exit that has an address, or says that it could not serve one.
    pub fn is_gateway(&self) -> bool {
        !self.unfit.is_empty() || self.exits.iter().any(|exit| !exit.egress_ips.is_empty())
    }

    /// Whether a commit is in this node's kernel, and was put there since this boot. An older version does not say when it was.
    pub fn is_in_place(&self, revision: &str, boot_id: &str) -> bool {
        !boot_id.is_empty() && self.boot_id == boot_id && self.revision == revision && is_ready(&self.conditions)
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
    let conditions = with_progress(ready(facts, now), drifted(facts.report, now));
    NodeStatus {
        observed_generation: None,
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
        conditions: settle(conditions, &before.conditions),
    }
}

/// As much of a report as a status can carry: the reports branch has the rest of its records, and the node the rest of each text.
fn carried(report: &NodeReport) -> NodeReport {
    let mut report = report.clone();
    report.drift.truncate(CARRIED);
    report.corrected.truncate(CARRIED);
    report.findings.truncate(CARRIED);
    report.rejected.truncate(CARRIED);
    for record in report.drift.iter_mut().chain(&mut report.corrected) {
        record.wanted_by.truncate(CARRIED);
        for text in [&mut record.desired, &mut record.observed].into_iter().flatten() {
            *text = shortened(text, super::condition::LONGEST_MESSAGE);
        }
    }
    report
}

fn ready(facts: NodeStatusInput<'_>, now: Timestamp) -> Condition {
    let is = |status, reason, message: &str| Condition::new(ConditionType::Ready, status, reason, message, now);
    match (facts.fault, facts.compiled) {
        (Some(fault), _) => is(fault.status, fault.reason, fault.message),
        (None, None) => is(ConditionStatus::Unknown, Reason::Pending, "waiting for policies to be published"),
        (None, Some(compiled)) if compiled.desired.nft.is_empty() => {
            is(ConditionStatus::True, Reason::NoPolicies, "no policy is published")
        }
        (None, Some(_)) => is(ConditionStatus::True, Reason::Programmed, "what is published is in the kernel"),
    }
}

fn drifted(report: &NodeReport, now: Timestamp) -> Option<Condition> {
    let first = report.drift.first()?;
    let message = format!("{}: {}, and {} in all", first.object, first.action, report.drift.len());
    Some(Condition::new(ConditionType::Drifted, true, Reason::DriftNotCorrected, message, now))
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
    let holders = nodes.into_iter().filter(|(_, status)| !status.holds.is_empty());
    holders
        .map(|(name, status)| (name.clone(), status.holds.iter().map(|one| (one.address, one.since)).collect()))
        .collect()
}
