//! Status: what Egret's custom resources in the cluster say of what is in force, for people and for the other half of Egret.
//!
//! Sized for etcd: nothing here grows with the number of pods, and nothing changes while nothing happens: there are no times but those at
//! which something became so. Deliberately absent: the API server (`cluster::live`) and drift reports in Git (`report`), of which a
//! node's status carries its own.

mod head;
mod node;
mod policy;

pub use head::{HeadStatus, HeadStatusInput, NodeCounts, head_status};
pub use node::{
    HeldAddress, NodeDatapath, NodeFeatures, NodeStatus, NodeStatusInput, PolicyMembers, ServedExit, UnfitExit, held,
    node_status, serving, unfit,
};
pub use policy::{GatewayStatus, PolicyStatus, policy_status};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::core::text::shortened;

/// Something that is so or not, since when and why (`meta/v1 Condition`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// `Ready`, `Rejected`.
    #[serde(rename = "type")]
    pub kind: String,
    /// `True`, `False`, or `Unknown`.
    pub status: String,
    /// One word for programs.
    pub reason: String,
    /// A sentence for people.
    pub message: String,
    /// Since when the status is what it is.
    pub last_transition_time: Timestamp,
}

impl Condition {
    /// A condition as it is now. [`since`] gives it the time of before.
    pub fn new(kind: &str, status: bool, reason: &str, message: impl Into<String>, now: Timestamp) -> Self {
        let status = if status { "True" } else { "False" };
        Self {
            kind: kind.to_owned(),
            status: status.to_owned(),
            reason: reason.to_owned(),
            message: shortened(&message.into(), LONGEST_MESSAGE),
            last_transition_time: now,
        }
    }

    /// Whether it is so.
    pub fn is_true(&self) -> bool {
        self.status == "True"
    }
}

/// Conditions with the times of those before that had the same status.
fn since(mut conditions: Vec<Condition>, before: &[Condition]) -> Vec<Condition> {
    for condition in &mut conditions {
        let known = before.iter().find(|known| known.kind == condition.kind && known.status == condition.status);
        if let Some(known) = known {
            condition.last_transition_time = known.last_transition_time;
        }
    }
    conditions
}

/// The API server takes no message above 32 KiB, and nobody reads one of that length.
const LONGEST_MESSAGE: usize = 1024;

/// A few names, for a column: `a, b, c +2`.
fn summary<T: ToString>(names: impl IntoIterator<Item = T>) -> String {
    const SHOWN: usize = 3;
    let names: Vec<String> = names.into_iter().map(|name| name.to_string()).collect();
    let shown = names.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
    if names.len() > SHOWN { format!("{shown} +{}", names.len() - SHOWN) } else { shown }
}

#[cfg(test)]
mod tests;
