//! The status of the EgressConfig: how many nodes have applied what is published, and why the others have not.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::condition::{
    Condition, ConditionStatus, ConditionType, LONGEST_MESSAGE, Reason, condition, is_ready, observe, readable,
    with_progress, with_transition_times,
};
use super::node::NodeStatus;
use super::summary;
use crate::core::admission::{PendingCommit, PendingReason};
use crate::core::facts::Node;
use crate::core::finding::Finding;
use crate::core::name::NodeName;
use crate::core::report::history::Rejected;
use crate::core::text::{short_commit, shortened};

/// The most documents that a status names; the reports branch names all.
const CARRIED: usize = 20;

/// `status` of the EgressConfig.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HeadStatus {
    /// The `metadata.generation` that was observed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The first digits of the published commit, for a column.
    pub revision_summary: String,
    /// The leading controller.
    pub leader: String,
    /// Nodes by state.
    pub nodes: NodeCounts,
    /// `3/3`, for a column.
    pub node_summary: String,
    /// Documents that are not published as they stand in the repository.
    pub rejected: Vec<Rejected>,
    /// See `docs/conditions.md`.
    #[serde(deserialize_with = "readable")]
    pub conditions: Vec<Condition>,
}

/// Nodes by state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeCounts {
    /// Nodes of the cluster.
    pub total: u64,
    /// Nodes with this revision in their kernel.
    pub current: u64,
    /// Nodes with drift that could not be corrected.
    pub drifted: u64,
}

/// What is known of the repository's assertions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AssertionState<'a> {
    /// Pods are not listed yet. What was reported before stays.
    Unchecked,
    /// Pods cannot be listed, for this reason.
    Unknown(&'a str),
    /// All hold.
    Kept,
    /// The first that does not hold, and how many such there are.
    Broken(&'a Finding, usize),
}

/// The inputs, as the controller has them.
#[derive(Debug, Clone, Copy)]
pub struct HeadStatusInput<'a> {
    /// The controller's own name.
    pub leader: &'a str,
    /// The published revision.
    pub revision: &'a str,
    /// The generation of the object that was published.
    pub generation: Option<i64>,
    /// The nodes of the cluster.
    pub cluster: &'a BTreeMap<NodeName, Node>,
    /// What their agents reported.
    pub nodes: &'a BTreeMap<NodeName, NodeStatus>,
    /// Documents that were not accepted.
    pub rejected: &'a [Rejected],
    /// The newest commit, if it is pending.
    pub pending: Option<&'a PendingCommit>,
    /// Why Git cannot be read.
    pub git_fault: Option<&'a str>,
    /// Why not everything is published.
    pub publish_fault: Option<&'a str>,
    /// Whether reports are committed, or why not; none if reports are off.
    pub reports: Option<Result<(), &'a str>>,
    /// Whether pull requests are previewed, or why not all of them; none if previews are off.
    pub previews: Option<Result<(), &'a str>>,
    /// What is known of the repository's assertions; none if it has none.
    pub assertions: Option<AssertionState<'a>>,
}

/// The status of the EgressConfig. `before` is the previous one.
pub fn head_status(facts: HeadStatusInput<'_>, before: &HeadStatus, now: Timestamp) -> HeadStatus {
    let nodes = NodeCounts {
        total: facts.cluster.len() as u64,
        current: facts.nodes.values().filter(|node| facts.is_current(node)).count() as u64,
        drifted: facts.nodes.values().filter(|node| node.drift > 0).count() as u64,
    };
    let is = |kind, status: bool, reason, message: &str| Condition::new(kind, status, reason, message, now);
    let git = match facts.git_fault {
        None => is(ConditionType::GitReachable, true, Reason::Fetched, "the repository can be read"),
        Some(fault) => is(ConditionType::GitReachable, false, Reason::GitOperationFailed, fault),
    };
    let up_to_date = match facts.pending {
        None => is(ConditionType::UpToDate, true, Reason::Published, "the newest commit for this cluster is published"),
        Some(pending) => is(ConditionType::UpToDate, false, Reason::from(&pending.why), &pending.message()),
    };
    let accepted = match facts.rejected() {
        None => {
            let message = "every document is published as it stands in Git";
            is(ConditionType::PoliciesAccepted, true, Reason::Accepted, message)
        }
        Some(message) => is(ConditionType::PoliciesAccepted, false, Reason::Invalid, &message),
    };
    let reports = facts.reports.map(|reports| match reports {
        Ok(()) => is(ConditionType::ReportsPublished, true, Reason::Pushed, "drift reports are pushed"),
        Err(fault) => is(ConditionType::ReportsPublished, false, Reason::PushFailed, fault),
    });
    let previews = facts.previews.map(|previews| match previews {
        Ok(()) => is(ConditionType::PreviewsPosted, true, Reason::Posted, "open pull requests have a preview"),
        Err(fault) => is(ConditionType::PreviewsPosted, false, Reason::PostFailed, fault),
    });
    let (status, reason, message) = facts.ready();
    let ready = Condition::new(ConditionType::Ready, status, reason, message, now);
    let others = [git, up_to_date, accepted].into_iter().chain(reports).chain(previews);
    let said = condition(&before.conditions, ConditionType::AssertionsHold);
    let unchecked = said.filter(|_| facts.assertions == Some(AssertionState::Unchecked));
    let asserted = facts.assertions.filter(|_| unchecked.is_none()).map(|state| assertions(state, now));
    let mut conditions = observe(with_progress(ready, others.chain(asserted)), facts.generation);
    // Of the generation that it was found of.
    conditions.extend(unchecked.cloned());
    // Paths, and names of documents that are held together, can be longer than the schema takes.
    let short = |text: &str| shortened(text, LONGEST_MESSAGE);
    let rejected = facts.rejected.iter().take(CARRIED).map(|Rejected { place, message, instead }| Rejected {
        place: short(place),
        message: short(message),
        instead: short(instead),
    });
    HeadStatus {
        observed_generation: facts.generation,
        revision_summary: short_commit(facts.revision).to_owned(),
        leader: facts.leader.to_owned(),
        node_summary: format!("{}/{}", nodes.current, nodes.total),
        nodes,
        rejected: rejected.collect(),
        conditions: with_transition_times(conditions, &before.conditions),
    }
}

/// The status of the EgressConfig where the leader could not read Git since it began. The rest stays as reported before.
pub fn head_status_without_git(leader: &str, fault: &str, before: &HeadStatus, now: Timestamp) -> HeadStatus {
    use ConditionType::{GitReachable, Ready, Reconciling, Stalled};
    let is = |kind| Condition::new(kind, false, Reason::GitOperationFailed, fault, now);
    let others = before
        .conditions
        .iter()
        .filter(|condition| !matches!(condition.kind, GitReachable | Ready | Reconciling | Stalled));
    let others: Vec<Condition> = [is(GitReachable)].into_iter().chain(others.cloned()).collect();
    let conditions = observe(with_progress(is(Ready), others), before.observed_generation);
    HeadStatus {
        leader: leader.to_owned(),
        conditions: with_transition_times(conditions, &before.conditions),
        ..before.clone()
    }
}

/// Whether the assertions hold.
fn assertions(state: AssertionState<'_>, now: Timestamp) -> Condition {
    let is = |status: ConditionStatus, reason, message: &str| {
        Condition::new(ConditionType::AssertionsHold, status, reason, message, now)
    };
    match state {
        AssertionState::Unchecked => {
            is(ConditionStatus::Unknown, Reason::Pending, "the cluster's pods are being listed")
        }
        AssertionState::Unknown(fault) => is(ConditionStatus::Unknown, Reason::PodsNotListed, fault),
        AssertionState::Kept => {
            let message =
                "every assertion holds, with all gateways and with each one lost, as far as addresses are known";
            is(ConditionStatus::True, Reason::AssertionsKept, message)
        }
        AssertionState::Broken(first, all) => {
            let message = format!("{} {}; broken in all: {all}", first.subject, first.message);
            is(ConditionStatus::False, Reason::AssertionBroken, &message)
        }
    }
}

impl HeadStatusInput<'_> {
    fn is_current(&self, node: &NodeStatus) -> bool {
        node.revision == self.revision && is_ready(&node.conditions)
    }

    fn rejected(&self) -> Option<String> {
        let first = self.rejected.first()?;
        Some(format!("{}: {}, and {} in all", first.place, first.message, self.rejected.len()))
    }

    /// Whether the kernels have what Git asks for. A commit that waits for a window or because the cluster is
    /// suspended does not count: a user asked for that, and `UpToDate` reports it.
    fn ready(&self) -> (ConditionStatus, Reason, String) {
        let no = |reason, message: String| (ConditionStatus::False, reason, message);
        if let Some(fault) = self.publish_fault {
            return no(Reason::PublicationFailed, fault.to_owned());
        }
        if let Some(fault) = self.git_fault {
            return no(Reason::GitOperationFailed, fault.to_owned());
        }
        if let Some(pending) = self.pending.filter(|one| matches!(one.why, PendingReason::Unsigned { .. })) {
            return no(Reason::SignatureRefused, pending.message());
        }
        if let Some(message) = self.rejected() {
            return no(Reason::Invalid, message);
        }
        self.nodes_ready()
    }

    /// Whether all nodes are Ready. Nodes that are not Ready in Kubernetes' sense, and those without an agent, do not
    /// count.
    fn nodes_ready(&self) -> (ConditionStatus, Reason, String) {
        let is_up = |name: &NodeName| self.cluster.get(name).is_some_and(|node| node.ready);
        let agents = || self.nodes.iter().filter(|(name, _)| is_up(name));
        let failed = agents().find_map(|(name, node)| {
            let ready = condition(&node.conditions, ConditionType::Ready)?;
            (ready.status == ConditionStatus::False).then_some((name, ready))
        });
        if let Some((name, ready)) = failed {
            let message = format!("{name}: {} ({})", ready.message, ready.reason);
            return (ConditionStatus::False, Reason::NodesNotReady, message);
        }
        if let Some((name, why)) = agents().find_map(|(name, node)| Some((name, node.silence()?))) {
            return (ConditionStatus::Unknown, Reason::AgentNotResponding, format!("{name}: {why}"));
        }
        let behind = agents().filter(|(_, node)| !self.is_current(node)).map(|(name, _)| name);
        let behind = summary(behind);
        if !behind.is_empty() {
            let message = format!("waiting for the agents of {behind} to apply what is published");
            return (ConditionStatus::Unknown, Reason::Pending, message);
        }
        if agents().next().is_none() && self.cluster.values().any(|node| node.ready) {
            let message = "waiting for the first agent to report".to_owned();
            return (ConditionStatus::Unknown, Reason::Pending, message);
        }
        let message = "what is published is in the kernel of every Ready node with an agent";
        (ConditionStatus::True, Reason::Programmed, message.to_owned())
    }
}
