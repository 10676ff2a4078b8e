//! The status of the head: how far the cluster is with what was published, and how Git fares.
//!
//! Deliberately absent: each node's and each policy's own status.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::node::NodeStatus;
use super::{Condition, since};
use crate::core::admission::PendingCommit;
use crate::core::name::NodeName;
use crate::core::report::history::Rejected;

/// Documents that a status names; the reports branch names all.
const CARRIED: usize = 20;

/// `status` of the EgressConfig.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HeadStatus {
    /// The controller that leads.
    pub leader: String,
    /// Nodes by how far they are.
    pub nodes: NodeCounts,
    /// `3/3`, for a column.
    pub node_summary: String,
    /// Documents that are not in force as they stand in the repository.
    pub rejected: Vec<Rejected>,
    /// GitReachable, UpToDate, PoliciesAccepted; ReportsPublished and PreviewsPosted where somebody wants reports and previews.
    pub conditions: Vec<Condition>,
}

/// Nodes by how far they are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeCounts {
    /// Nodes of the cluster.
    pub total: u64,
    /// Those that have this revision in force.
    pub in_force: u64,
    /// Those with drift that is not put right.
    pub drifting: u64,
}

/// What the controller knows.
#[derive(Debug, Clone, Copy)]
pub struct HeadStatusInput<'a> {
    /// Itself.
    pub leader: &'a str,
    /// What is published.
    pub revision: &'a str,
    /// How many nodes the cluster has.
    pub total: usize,
    /// What they said.
    pub nodes: &'a BTreeMap<NodeName, NodeStatus>,
    /// Documents that were not accepted.
    pub rejected: &'a [Rejected],
    /// The newest commit, if it is not in force but waits.
    pub withheld: Option<&'a PendingCommit>,
    /// Why Git cannot be read.
    pub git_fault: Option<&'a str>,
    /// Whether reports are committed, or why not; none where nobody wants that.
    pub reports: Option<Result<(), &'a str>>,
    /// Whether pull requests are previewed, or why not all of them; none where nobody wants that.
    pub previews: Option<Result<(), &'a str>>,
}

/// The status of the head. `before` is the one until now.
pub fn head_status(facts: HeadStatusInput<'_>, before: &HeadStatus, now: Timestamp) -> HeadStatus {
    let has = |node: &&NodeStatus| {
        node.revision == facts.revision
            && node.conditions.iter().any(|condition| condition.kind == "Ready" && condition.is_true())
    };
    let nodes = NodeCounts {
        total: facts.total as u64,
        in_force: facts.nodes.values().filter(has).count() as u64,
        drifting: facts.nodes.values().filter(|node| node.drift > 0).count() as u64,
    };
    let git = match facts.git_fault {
        None => Condition::new("GitReachable", true, "Fetched", "the repository can be read", now),
        Some(fault) => Condition::new("GitReachable", false, "GitFailed", fault, now),
    };
    let up_to_date = match facts.withheld {
        None => Condition::new("UpToDate", true, "InForce", "what the branch asks of this cluster is in force", now),
        Some(withheld) => Condition::new("UpToDate", false, withheld.why.word(), withheld.message(), now),
    };
    let accepted = match facts.rejected {
        [] => Condition::new("PoliciesAccepted", true, "AllAccepted", "every document is in force as it stands", now),
        [first, ..] => {
            let message = format!("{}: {}, and {} in all", first.place, first.message, facts.rejected.len());
            Condition::new("PoliciesAccepted", false, "DocumentRejected", message, now)
        }
    };
    let reports = facts.reports.map(|reports| match reports {
        Ok(()) => Condition::new("ReportsPublished", true, "Published", "drift reports are committed", now),
        Err(fault) => Condition::new("ReportsPublished", false, "NotPublished", fault, now),
    });
    let previews = facts.previews.map(|previews| match previews {
        Ok(()) => Condition::new("PreviewsPosted", true, "Posted", "open pull requests are previewed", now),
        Err(fault) => Condition::new("PreviewsPosted", false, "NotPosted", fault, now),
    });
    let mut rejected = facts.rejected.to_vec();
    rejected.truncate(CARRIED);
    HeadStatus {
        leader: facts.leader.to_owned(),
        node_summary: format!("{}/{}", nodes.in_force, nodes.total),
        nodes,
        rejected,
        conditions: since(
            [git, up_to_date, accepted].into_iter().chain(reports).chain(previews).collect(),
            &before.conditions,
        ),
    }
}
