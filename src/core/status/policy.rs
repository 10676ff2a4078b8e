//! The status of one policy: who answers for it, with which addresses, for how many pods; and if not, why not.
//!
//! Deliberately absent: how the placement came about.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::node::NodeStatus;
use super::{Condition, since, summary};
use crate::core::finding::Finding;
use crate::core::name::NodeName;
use crate::core::placement::{ExitKey, Placement};
use crate::core::policy::Policy;
use crate::core::report::history::Rejected;

/// `status` of an EgressPolicy.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PolicyStatus {
    /// The commit that was in force when this was written.
    pub revision: String,
    /// Its exits.
    pub gateways: Vec<GatewayStatus>,
    /// Their nodes, for a column.
    pub gateway_summary: String,
    /// Their addresses, for a column.
    #[serde(rename = "egressIPSummary")]
    pub egress_ip_summary: String,
    /// Pods that it selects, as the nodes last told.
    pub members: u64,
    /// Nodes with such pods.
    pub nodes: u64,
    /// Ready; Rejected and Conflict where they are so.
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
    /// The addresses that packets leave with, as the gateway's kernel has them.
    #[serde(rename = "egressIPs")]
    pub egress_ips: Vec<String>,
    /// The gateway serves it.
    pub ready: bool,
}

/// The status of a policy. `nodes` is what every node last said; `before` the status until now.
pub fn policy_status(
    policy: &Policy,
    placement: &Placement,
    nodes: &BTreeMap<NodeName, NodeStatus>,
    rejected: &[Rejected],
    revision: &str,
    before: &PolicyStatus,
    now: Timestamp,
) -> PolicyStatus {
    let exits = placement.policies.get(&policy.id).map(|placed| placed.exits.as_slice()).unwrap_or_default();
    let gateways: Vec<GatewayStatus> = exits.iter().map(|exit| gateway(exit, nodes)).collect();
    let told = |node: &&NodeStatus| node.policies.iter().any(|told| told.is_of(&policy.id) && told.members > 0);
    let members = nodes.values().flat_map(|node| &node.policies).filter(|told| told.is_of(&policy.id));
    let addresses: BTreeSet<&String> = gateways.iter().flat_map(|gateway| &gateway.egress_ips).collect();
    let mut conditions = vec![ready(policy, placement, &gateways, nodes, now)];
    let file = &policy.origin.file;
    let refused = rejected.iter().find(|refused| refused.place.split(':').next() == Some(file.as_str()));
    if let Some(refused) = refused {
        let message = format!("{}: {}; in force is {}", refused.place, refused.message, refused.instead);
        conditions.push(Condition::new("Rejected", true, "DocumentRejected", message, now));
    }
    if let Some(overlap) = overlap(policy, nodes) {
        conditions.push(Condition::new("Conflict", true, "Overlap", overlap.message.clone(), now));
    }
    PolicyStatus {
        revision: revision.to_owned(),
        gateway_summary: summary(gateways.iter().map(|gateway| &gateway.node).collect::<BTreeSet<_>>()),
        egress_ip_summary: summary(addresses),
        members: members.map(|told| told.members).sum(),
        nodes: nodes.values().filter(told).count() as u64,
        gateways,
        conditions: since(conditions, &before.conditions),
    }
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
    now: Timestamp,
) -> Condition {
    let is = |ready: bool, reason: &str, message: String| Condition::new("Ready", ready, reason, message, now);
    let found = |code: &str| {
        placement.findings.iter().find(|finding| finding.code == code && finding.subject == policy.id.name.as_str())
    };
    if let Some(finding) = found("suspended") {
        return is(false, "Suspended", finding.message.clone());
    }
    if gateways.is_empty() {
        let why = found("no-gateway").map_or("no gateway is fit", |finding| finding.message.as_str());
        return is(false, "NoGateway", why.to_owned());
    }
    for gateway in gateways.iter().filter(|gateway| !gateway.ready) {
        let reasons = [
            ("egress-address-missing", "EgressIPMissing"),
            ("kernel-refused", "KernelRefused"),
            ("not-forwarding", "NotForwarding"),
        ];
        for (code, reason) in reasons {
            if let Some(finding) = finding_of(gateway, code, nodes) {
                return is(false, reason, format!("{}: {}", gateway.exit, finding.message));
            }
        }
    }
    let waiting: Vec<&str> =
        gateways.iter().filter(|gateway| !gateway.ready).map(|gateway| gateway.exit.as_str()).collect();
    if !waiting.is_empty() {
        let message = format!("waiting for {} to serve it; its agent has not said so yet", waiting.join(" and "));
        return is(false, "GatewayNotReady", message);
    }
    for gateway in gateways {
        if let Some((node, finding)) = refused_elsewhere(gateway, nodes) {
            return is(false, "KernelRefused", format!("{} on {node}: {}", gateway.exit, finding.message));
        }
    }
    let exits: Vec<String> = gateways
        .iter()
        .map(|gateway| format!("{} through {}", gateway.egress_ips.join(" and "), gateway.node))
        .collect();
    is(true, "InForce", format!("members leave as {}", exits.join(", ")))
}

/// What the gateway itself found about an exit.
fn finding_of<'n>(
    gateway: &GatewayStatus,
    code: &str,
    nodes: &'n BTreeMap<NodeName, NodeStatus>,
) -> Option<&'n Finding> {
    let node = nodes.iter().find(|(name, _)| name.as_str() == gateway.node)?.1;
    let findings = node.report.iter().flat_map(|report| &report.findings).map(|since| &since.finding);
    findings.into_iter().find(|finding| finding.code == code && finding.subject == gateway.exit)
}

/// What a node with members could not put in force of an exit that its gateway serves.
fn refused_elsewhere<'n>(
    gateway: &GatewayStatus,
    nodes: &'n BTreeMap<NodeName, NodeStatus>,
) -> Option<(&'n NodeName, &'n Finding)> {
    let is_it = |finding: &&Finding| finding.code == "kernel-refused" && finding.subject == gateway.exit;
    let findings = |status: &'n NodeStatus| status.report.iter().flat_map(|report| &report.findings);
    nodes.iter().find_map(|(name, status)| Some((name, findings(status).map(|since| &since.finding).find(is_it)?)))
}

/// What the nodes with members found about it and another policy.
fn overlap<'n>(policy: &Policy, nodes: &'n BTreeMap<NodeName, NodeStatus>) -> Option<&'n Finding> {
    let findings = nodes.values().flat_map(|node| &node.report).flat_map(|report| &report.findings);
    findings
        .map(|since| &since.finding)
        .find(|finding| finding.code == "overlap" && finding.subject == policy.id.name.as_str())
}
