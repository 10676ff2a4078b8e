//! The status of one published policy: its gateways and their addresses, how many pods it selects, and why it does
//! not work.
//!
//! Not here: choosing the gateways (see `core::placement`).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::condition::{
    Condition, ConditionStatus, ConditionType, Reason, condition, observe, readable, with_progress,
    with_transition_times,
};
use super::node::NodeStatus;
use super::summary;
use crate::core::compile::{NEXT_HOP_SILENT, NO_WAY_OUT};
use crate::core::finding::Finding;
use crate::core::name::NodeName;
use crate::core::placement::{ExitKey, POOL_ADDRESS_MISSING, Placement};
use crate::core::policy::Policy;
use crate::core::report::history::Rejected;
use crate::core::state::nft::AddressFamily;

/// `status` of a PublishedEgressPolicy.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PolicyStatus {
    /// The `metadata.generation` that was observed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The commit with which this generation was published.
    pub revision: String,
    /// Its exits.
    pub gateways: Vec<GatewayStatus>,
    /// Their nodes, for a column.
    pub gateway_summary: String,
    /// Their addresses, for a column.
    #[serde(rename = "egressIPSummary")]
    pub egress_ip_summary: String,
    /// Pods that it selects, by the nodes' latest reports.
    pub members: u64,
    /// Nodes with such pods.
    pub nodes: u64,
    /// See `docs/conditions.md`.
    #[serde(deserialize_with = "readable")]
    pub conditions: Vec<Condition>,
}

/// One exit of a policy.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GatewayStatus {
    /// The gateway.
    pub node: String,
    /// The exit: `kind-worker2 dev net1`.
    pub exit: String,
    /// The source addresses of its packets, as the gateway's kernel has them.
    #[serde(rename = "egressIPs")]
    pub egress_ips: Vec<String>,
    /// Whether the gateway serves it.
    pub ready: bool,
}

/// The inputs of a policy's status.
#[derive(Debug, Clone, Copy)]
pub struct PolicyStatusInput<'a> {
    /// The published policy.
    pub policy: &'a Policy,
    /// The generation of the object that was published.
    pub generation: Option<i64>,
    /// The chosen exits.
    pub placement: &'a Placement,
    /// The agents' latest status of every node.
    pub nodes: &'a BTreeMap<NodeName, NodeStatus>,
    /// Agents that do not have the published commit yet ([`behind`](super::behind)).
    pub behind: &'a [&'a NodeName],
    /// Documents that were not accepted.
    pub rejected: &'a [Rejected],
    /// The published commit.
    pub revision: &'a str,
}

/// The status of a policy. `before` is the previous one.
pub fn policy_status(facts: PolicyStatusInput<'_>, before: &PolicyStatus, now: Timestamp) -> PolicyStatus {
    let PolicyStatusInput { policy, placement, nodes, rejected, .. } = facts;
    let exits = placement.policies.get(&policy.id).map(|placed| placed.exits.as_slice()).unwrap_or_default();
    let gateways: Vec<GatewayStatus> = exits.iter().map(|exit| gateway(exit, nodes)).collect();
    let selects = |node: &&NodeStatus| node.policies.iter().any(|one| one.is_of(&policy.id) && one.members > 0);
    let members = nodes.values().flat_map(|node| &node.policies).filter(|one| one.is_of(&policy.id));
    let addresses: BTreeSet<&String> = gateways.iter().flat_map(|gateway| &gateway.egress_ips).collect();
    let (mut status, mut reason, mut message) = ready(policy, placement, &gateways, nodes);
    // A kernel goes on without its agent, but it is not known for how long.
    if status == ConditionStatus::True
        && let Some((node, why)) = silent(policy, &gateways, nodes)
    {
        (status, reason, message) = (ConditionStatus::Unknown, Reason::AgentNotResponding, format!("{node}: {why}"));
    }
    // Gateways serve the previous version as well. A version becomes Ready once every agent has it, and stays Ready
    // when other policies change.
    if status == ConditionStatus::True && !facts.behind.is_empty() && is_new(facts.generation, before) {
        (status, reason) = (ConditionStatus::Unknown, Reason::Pending);
        message = format!("waiting for the agents of {} to apply it", summary(facts.behind));
    }
    let ready = Condition::new(ConditionType::Ready, status, reason, message, now);
    let conflicted = overlap(policy, nodes).map(|overlap| {
        let message = overlap.message.clone();
        Condition::new(ConditionType::Conflicted, true, Reason::OverlappingDestinations, message, now)
    });
    let others = [accepted(policy, rejected, now)].into_iter().chain(conflicted);
    let conditions = observe(with_progress(ready, others), facts.generation);
    PolicyStatus {
        observed_generation: facts.generation,
        revision: known_revision(facts.generation, before).unwrap_or(facts.revision).to_owned(),
        gateway_summary: summary(gateways.iter().map(|gateway| &gateway.node).collect::<BTreeSet<_>>()),
        egress_ip_summary: summary(addresses),
        members: members.map(|one| one.members).sum(),
        nodes: nodes.values().filter(selects).count() as u64,
        gateways,
        conditions: with_transition_times(conditions, &before.conditions),
    }
}

/// The commit of this generation, if the status has it already: a later commit that leaves the policy as it is costs no
/// write.
fn known_revision(generation: Option<i64>, before: &PolicyStatus) -> Option<&str> {
    let same = before.observed_generation == generation && generation.is_some();
    Some(before.revision.as_str()).filter(|revision| same && !revision.is_empty())
}

/// Whether this generation was neither Ready nor found faulty yet.
fn is_new(generation: Option<i64>, before: &PolicyStatus) -> bool {
    let ready = condition(&before.conditions, ConditionType::Ready);
    before.observed_generation != generation || ready.is_none_or(|ready| ready.status == ConditionStatus::Unknown)
}

/// Whether the newest version of the document is the published one.
fn accepted(policy: &Policy, rejected: &[Rejected], now: Timestamp) -> Condition {
    let file = policy.origin.file.as_str();
    let (is, reason, message) = match rejected.iter().find(|one| one.place.split(':').next() == Some(file)) {
        None => (true, Reason::Accepted, "the document is published as it stands in Git".to_owned()),
        Some(Rejected { place, message, instead }) => {
            (false, Reason::Invalid, format!("{place}: {message}; published is {instead}"))
        }
    };
    Condition::new(ConditionType::Accepted, is, reason, message, now)
}

fn gateway(exit: &ExitKey, nodes: &BTreeMap<NodeName, NodeStatus>) -> GatewayStatus {
    let identity = exit.identity();
    let served = nodes.get(&exit.gateway).and_then(|node| node.exits.iter().find(|served| served.identity == identity));
    GatewayStatus {
        node: exit.gateway.to_string(),
        egress_ips: served.map(|served| served.egress_ips.clone()).unwrap_or_default(),
        ready: served.is_some_and(|served| !served.egress_ips.is_empty()),
        exit: identity,
    }
}

fn ready(
    policy: &Policy,
    placement: &Placement,
    gateways: &[GatewayStatus],
    nodes: &BTreeMap<NodeName, NodeStatus>,
) -> (ConditionStatus, Reason, String) {
    let no = |reason: Reason, message: String| (ConditionStatus::False, reason, message);
    let found = |code: &str| {
        placement.findings.iter().find(|finding| finding.code == code && finding.subject == policy.id.name.as_str())
    };
    if let Some(finding) = found("suspended") {
        return no(Reason::Suspended, finding.message.clone());
    }
    if let (true, Some(finding)) = (gateways.is_empty(), found(POOL_ADDRESS_MISSING)) {
        return no(Reason::PoolAddressMissing, finding.message.clone());
    }
    if gateways.is_empty() {
        let why = found("no-gateway").map_or("no gateway is fit", |finding| finding.message.as_str());
        return no(Reason::NoGateway, why.to_owned());
    }
    for gateway in gateways.iter().filter(|gateway| !gateway.ready) {
        let known = [("kernel-refused", Reason::KernelRefused), ("not-forwarding", Reason::GatewayNotForwarding)];
        for (code, reason) in known {
            if let Some(finding) = finding_of(gateway, code, nodes) {
                return no(reason, format!("{}: {}", gateway.exit, finding.message));
            }
        }
        if let Some(finding) = NO_WAY_OUT.iter().find_map(|code| finding_of(gateway, code, nodes)) {
            return no(Reason::EgressIPMissing, format!("{}: {}", gateway.exit, finding.message));
        }
    }
    let pending: Vec<&str> =
        gateways.iter().filter(|gateway| !gateway.ready).map(|gateway| gateway.exit.as_str()).collect();
    if !pending.is_empty() {
        let message = format!("waiting for {} to serve it; its agent has not reported that yet", pending.join(" and "));
        return (ConditionStatus::Unknown, Reason::Pending, message);
    }
    for gateway in gateways {
        if let Some((node, finding)) = refused_elsewhere(gateway, nodes) {
            return no(Reason::KernelRefused, format!("{} on {node}: {}", gateway.exit, finding.message));
        }
    }
    let silent: Vec<_> =
        gateways.iter().filter_map(|gateway| Some((gateway, silent_next_hop(policy, gateway, nodes)?))).collect();
    if let Some((gateway, (finding, None))) = silent.iter().find(|(_, (_, family))| family.is_none()) {
        return no(Reason::NextHopSilent, format!("{}: {}", gateway.exit, finding.message));
    }
    let exits: Vec<String> = gateways
        .iter()
        .map(|gateway| format!("{} through {}", gateway.egress_ips.join(" and "), gateway.node))
        .collect();
    let mut message = format!("members leave as {}", exits.join(", "));
    for gateway in gateways {
        if let Some((family, finding)) = without_way(policy, gateway, nodes) {
            let _ = write!(message, "; not over {}: {}: {}", family.version(), gateway.exit, finding.message);
        }
    }
    for (gateway, (finding, family)) in silent {
        let Some(family) = family else { continue };
        let _ = write!(message, "; not over {}: {}: {}", family.version(), gateway.exit, finding.message);
    }
    (ConditionStatus::True, Reason::Programmed, message)
}

/// A family of the policy's destinations in which an exit that is served has no way out. Whether a member has addresses of
/// the family is not known here, so the policy may work all the same.
fn without_way<'n>(
    policy: &Policy,
    gateway: &GatewayStatus,
    nodes: &'n BTreeMap<NodeName, NodeStatus>,
) -> Option<(AddressFamily, &'n Finding)> {
    let family = *families_wanted(policy).difference(&families_served(gateway)).next()?;
    Some((family, NO_WAY_OUT.iter().find_map(|code| finding_of(gateway, code, nodes))?))
}

/// A next hop of an exit that does not answer, and the family that is lost by it; none: no packet of the policy leaves by the exit.
fn silent_next_hop<'n>(
    policy: &Policy,
    gateway: &GatewayStatus,
    nodes: &'n BTreeMap<NodeName, NodeStatus>,
) -> Option<(&'n Finding, Option<AddressFamily>)> {
    let (served, wanted) = (families_served(gateway), families_wanted(policy));
    let silent: Vec<&Finding> = findings_of(gateway, NEXT_HOP_SILENT, nodes).collect();
    let (lost, left): (Vec<_>, Vec<_>) = served
        .intersection(&wanted)
        .map(|family| (*family, silent.iter().copied().find(|finding| finding.is_about(*family))))
        .partition(|(_, finding)| finding.is_some());
    let (family, finding) = *lost.first()?;
    Some((finding?, Some(family).filter(|_| !left.is_empty())))
}

/// The families in which a gateway has an egress address.
fn families_served(gateway: &GatewayStatus) -> BTreeSet<AddressFamily> {
    gateway.egress_ips.iter().filter_map(|address| address.parse().ok().map(AddressFamily::of)).collect()
}

/// The families of a policy's destinations.
fn families_wanted(policy: &Policy) -> BTreeSet<AddressFamily> {
    policy.destinations.iter().map(|network| AddressFamily::of(network.addr())).collect()
}

/// The gateway's own finding about an exit.
fn finding_of<'n>(
    gateway: &GatewayStatus,
    code: &str,
    nodes: &'n BTreeMap<NodeName, NodeStatus>,
) -> Option<&'n Finding> {
    findings_of(gateway, code, nodes).next()
}

fn findings_of<'n>(
    gateway: &GatewayStatus,
    code: &str,
    nodes: &'n BTreeMap<NodeName, NodeStatus>,
) -> impl Iterator<Item = &'n Finding> {
    let node = nodes.iter().find(|(name, _)| name.as_str() == gateway.node).map(|(_, node)| node);
    let findings = node.into_iter().flat_map(|node| &node.report).flat_map(|report| &report.findings);
    findings.map(|since| &since.finding).filter(move |finding| finding.code == code && finding.subject == gateway.exit)
}

/// An exit that its gateway serves, but that a node with members could not apply.
fn refused_elsewhere<'n>(
    gateway: &GatewayStatus,
    nodes: &'n BTreeMap<NodeName, NodeStatus>,
) -> Option<(&'n NodeName, &'n Finding)> {
    let is_it = |finding: &&Finding| finding.code == "kernel-refused" && finding.subject == gateway.exit;
    let findings = |status: &'n NodeStatus| status.report.iter().flat_map(|report| &report.findings);
    nodes.iter().find_map(|(name, status)| Some((name, findings(status).map(|since| &since.finding).find(is_it)?)))
}

/// A gateway or a node with members whose agent is not heard.
fn silent<'n>(
    policy: &Policy,
    gateways: &[GatewayStatus],
    nodes: &'n BTreeMap<NodeName, NodeStatus>,
) -> Option<(&'n NodeName, &'n str)> {
    let concerned = |name: &NodeName, node: &NodeStatus| {
        gateways.iter().any(|gateway| gateway.node == name.as_str())
            || node.policies.iter().any(|one| one.is_of(&policy.id) && one.members > 0)
    };
    nodes.iter().filter(|(name, node)| concerned(name, node)).find_map(|(name, node)| Some((name, node.silence()?)))
}

/// A finding of a node with members about this policy and another one.
fn overlap<'n>(policy: &Policy, nodes: &'n BTreeMap<NodeName, NodeStatus>) -> Option<&'n Finding> {
    let findings = nodes.values().flat_map(|node| &node.report).flat_map(|report| &report.findings);
    findings
        .map(|since| &since.finding)
        .find(|finding| finding.code == "overlap" && finding.subject == policy.id.name.as_str())
}
