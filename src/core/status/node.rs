//! The status of one node, as its agent reports it.
//!
//! Not here: when it is written (`reconcile::agent::status_writer`).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use jiff::Timestamp;
use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer, Serialize};

use super::condition::{
    Condition, ConditionStatus, ConditionType, Reason, condition, is_ready, observe, readable as readable_conditions,
    with_progress, with_transition_times,
};
use super::summary;
use crate::core::compile::{Compiled, ExitRole};
use crate::core::gateway_interfaces::GatewayInterface;
use crate::core::host_network::KernelFeatures;
use crate::core::name::NodeName;
use crate::core::placement::handover::Serving;
use crate::core::placement::{HeldAddresses, UnfitExits};
use crate::core::policy::PolicyId;
use crate::core::policy::published::kind_name;
use crate::core::report::history::NodeReport;
use crate::core::state::ownership::DatapathConfig;
use crate::core::text::{short_commit, shortened};

/// The most records of each kind that a status carries; the reports branch has more.
const CARRIED: usize = 20;

/// `status` of an EgressNode.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeStatus {
    /// The `metadata.generation` that was observed; none before the first status.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The commit that is applied.
    pub revision: String,
    /// Its first digits, for a column.
    pub revision_summary: String,
    /// The boot of the node at which it was applied: a reboot clears the kernel's state, but not a status.
    #[serde(rename = "bootID", skip_serializing_if = "String::is_empty")]
    pub boot_id: String,
    /// Exits that are in this node's kernel now.
    pub exits: Vec<ServedExit>,
    /// Their addresses, for a column.
    pub exit_summary: String,
    /// Exits that the node could not serve if it were chosen, with the reason: placement skips it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unfit: Vec<UnfitExit>,
    /// Egress addresses named by policies that this node has, if a policy could choose it: policies follow the
    /// addresses.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub holds: Vec<HeldAddress>,
    /// Its interfaces, if a policy could choose it as a gateway: for previews.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub interfaces: Vec<GatewayInterface>,
    /// Policies with pods here.
    pub policies: Vec<PolicyMembers>,
    /// Pods that some policy selects.
    pub members: u64,
    /// The kernel's features.
    pub features: NodeFeatures,
    /// The kernel identifiers that Egret uses on this node; none before the first round.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub datapath: Option<NodeDatapath>,
    /// Objects that differ and could not be corrected.
    pub drift: u64,
    /// Drift history and findings. A report of another version that this one cannot read is left out.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "readable")]
    pub report: Option<NodeReport>,
    /// See `docs/conditions.md`.
    #[serde(deserialize_with = "readable_conditions")]
    pub conditions: Vec<Condition>,
}

/// A field that another version wrote in another form is left out, and does not hide the others.
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
    /// The source addresses of its packets.
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
    /// Since when its agent has seen it there. If several nodes have the address, the most recent one counts: this is
    /// how an address moves.
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

/// Features of a node's kernel.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeFeatures {
    /// Its release: `6.18.44`.
    pub kernel: String,
    /// nftables can match the kind of the input interface.
    pub interface_kinds: bool,
    /// No other process can flush Egret's table.
    pub owned_tables: bool,
    /// IPv6 is on.
    pub ipv6: bool,
}

/// Kernel identifiers that Egret uses on a node. Nodes may use different mark bits.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeDatapath {
    /// The mask of the packet mark, as `0x1fff`.
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

/// The inputs, as a node's agent has them.
#[derive(Debug, Clone, Copy)]
pub struct NodeStatusInput<'a> {
    /// The commit that is applied.
    pub revision: &'a str,
    /// The node's boot ID.
    pub boot_id: &'a str,
    /// The compiled state that was applied; none before the first time.
    pub compiled: Option<&'a Compiled>,
    /// The report.
    pub report: &'a NodeReport,
    /// The kernel's features.
    pub features: KernelFeatures,
    /// Egress addresses that the node has, and since when.
    pub holds: &'a BTreeMap<IpAddr, Timestamp>,
    /// Its interfaces, for previews.
    pub interfaces: &'a [GatewayInterface],
    /// The kernel identifiers in use.
    pub range: Option<DatapathConfig>,
    /// Exits that it could not serve, with the reason.
    pub unfit: &'a BTreeMap<String, String>,
    /// The kernel's release.
    pub kernel: &'a str,
    /// Why the published state is not in the kernel.
    pub fault: Option<NodeFault<'a>>,
}

/// Why the published state is not in the kernel.
#[derive(Debug, Clone, Copy)]
pub struct NodeFault<'a> {
    /// False, or Unknown while a publication may be incomplete.
    pub status: ConditionStatus,
    /// The reason.
    pub reason: Reason,
    /// The message.
    pub message: &'a str,
}

impl NodeStatus {
    /// The status as it is written: for this generation, with the times that the API server has for equal conditions,
    /// findings and commits, and the history of drift. A restart of the agent is therefore no transition.
    #[must_use]
    pub fn as_written(&self, generation: i64, before: &Self) -> Self {
        let mut status = self.clone();
        status.observed_generation = Some(generation);
        status.conditions = observe(with_transition_times(status.conditions, &before.conditions), Some(generation));
        status.report = status.report.map(|report| carried(&report.after(before.report.as_ref())));
        status
    }

    /// The status of a node whose agent has not been heard since a time: what it reported last may not hold any more.
    #[must_use]
    pub fn silent(mut self, since: Timestamp, now: Timestamp) -> Self {
        let message = format!("its agent has not been heard since {since:.0}; its kernel keeps what it has");
        let reason = Reason::AgentNotResponding;
        let ready = Condition::new(ConditionType::Ready, ConditionStatus::Unknown, reason, message, now);
        let is_progress =
            |kind| matches!(kind, ConditionType::Ready | ConditionType::Reconciling | ConditionType::Stalled);
        let others = self.conditions.iter().filter(|condition| !is_progress(condition.kind)).cloned();
        let conditions = observe(with_progress(ready, others.collect::<Vec<_>>()), self.observed_generation);
        self.conditions = with_transition_times(conditions, &self.conditions);
        self
    }

    /// Why its agent counts as silent, if it does.
    pub fn silence(&self) -> Option<&str> {
        let ready = condition(&self.conditions, ConditionType::Ready)?;
        (ready.reason == Reason::AgentNotResponding).then_some(ready.message.as_str())
    }

    /// Whether other nodes need it as a gateway: it serves an exit that has an address, or reports that it could not
    /// serve one.
    pub fn is_gateway(&self) -> bool {
        !self.unfit.is_empty() || self.exits.iter().any(|exit| !exit.egress_ips.is_empty())
    }

    /// Whether a commit is in this node's kernel, and was applied since this boot. Older versions do not report the
    /// boot.
    pub fn is_in_place(&self, revision: &str, boot_id: &str) -> bool {
        !boot_id.is_empty() && self.boot_id == boot_id && self.revision == revision && is_ready(&self.conditions)
    }

    /// Whether other nodes' agents need its status: also if it could serve an exit, as it has the address.
    pub fn concerns_others(&self) -> bool {
        self.is_gateway() || !self.holds.is_empty()
    }
}

impl PolicyMembers {
    /// Whether it mentions this policy.
    pub fn is_of(&self, id: &PolicyId) -> bool {
        self.name == id.name.as_str() && self.kind == kind_name(id.kind)
    }
}

/// The status of a node. `before` is the previous one.
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
        revision_summary: short_commit(facts.revision).to_owned(),
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
        conditions: with_transition_times(conditions, &before.conditions),
    }
}

/// The part of a report that fits in a status: the reports branch has the other records, the node the full texts.
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
        ExitRole::Own { routes, .. } => Some((key, routes)),
        ExitRole::Remote { .. } => None,
    });
    own.map(|(key, routes)| ServedExit {
        identity: key.identity(),
        egress_ips: routes.values().map(|way| way.address.to_string()).collect(),
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

/// Exits that each node reports it could not serve.
pub fn unfit<'n>(nodes: impl IntoIterator<Item = (&'n NodeName, &'n NodeStatus)>) -> UnfitExits {
    let with = nodes.into_iter().filter(|(_, status)| !status.unfit.is_empty());
    let exits =
        |status: &NodeStatus| status.unfit.iter().map(|exit| (exit.identity.clone(), exit.reason.clone())).collect();
    with.map(|(name, status)| (name.clone(), exits(status))).collect()
}

/// Exits that each node reports it serves. An exit without an address does not count.
pub fn serving<'n>(nodes: impl IntoIterator<Item = (&'n NodeName, &'n NodeStatus)>) -> Serving {
    let served = |status: &NodeStatus| -> BTreeSet<String> {
        let exits = status.exits.iter().filter(|exit| !exit.egress_ips.is_empty());
        exits.map(|exit| exit.identity.clone()).collect()
    };
    nodes.into_iter().map(|(name, status)| (name.clone(), served(status))).collect::<BTreeMap<_, _>>()
}

/// Nodes that have the addresses named by policies, and since when.
pub fn held<'n>(nodes: impl IntoIterator<Item = (&'n NodeName, &'n NodeStatus)>) -> HeldAddresses {
    let holders = nodes.into_iter().filter(|(_, status)| !status.holds.is_empty());
    holders
        .map(|(name, status)| (name.clone(), status.holds.iter().map(|one| (one.address, one.since)).collect()))
        .collect()
}
