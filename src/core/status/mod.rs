//! Status of the custom resources: what is applied where, for users, and for exchange between controller and agents.
//!
//! Sized for etcd: no status grows with the number of pods, and none changes while nothing happens: the only times
//! are those of transitions. Not here: the API server (see `cluster::live`), and drift reports in Git (see `report`);
//! a node's status carries the node's own report.

mod condition;
mod head;
mod node;
mod policy;

use std::collections::BTreeMap;

use crate::core::facts::Node;
use crate::core::name::NodeName;

pub use condition::{Condition, ConditionStatus, ConditionType, Reason, condition, is_ready};
pub use head::{AssertionState, HeadStatus, HeadStatusInput, NodeCounts, head_status, head_status_without_git};
pub use node::{
    HeldAddress, NodeDatapath, NodeFault, NodeFeatures, NodeStatus, NodeStatusInput, PolicyMembers, ServedExit,
    UnfitExit, held, node_status, serving, unfit,
};
pub use policy::{GatewayStatus, PolicyStatus, PolicyStatusInput, policy_status};

/// Agents on Ready nodes that do not have a commit yet. Nodes that are not Ready in Kubernetes' sense do not count.
pub fn behind<'n>(
    cluster: &BTreeMap<NodeName, Node>,
    nodes: &'n BTreeMap<NodeName, NodeStatus>,
    revision: &str,
) -> Vec<&'n NodeName> {
    let is_up = |name: &NodeName| cluster.get(name).is_some_and(|node| node.ready);
    nodes.iter().filter(|(name, node)| is_up(name) && node.revision != revision).map(|(name, _)| name).collect()
}

/// The first names of a list, for a column: `a, b, c +2`.
fn summary<T: ToString>(names: impl IntoIterator<Item = T>) -> String {
    const SHOWN: usize = 3;
    let names: Vec<String> = names.into_iter().map(|name| name.to_string()).collect();
    let shown = names.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
    if names.len() > SHOWN { format!("{shown} +{}", names.len() - SHOWN) } else { shown }
}

#[cfg(test)]
mod tests;
