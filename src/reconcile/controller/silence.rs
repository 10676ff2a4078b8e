//! Agents that are not heard any more, as the controller reports them: in the status of their nodes, because they cannot do
//! it themselves.
//!
//! Not here: how silence is found (`heartbeats`), and what follows for other statuses (`core::status`).

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use super::super::leadership::Leadership;
use super::pass_error::PassError;
use crate::cluster::live::{ApiClient, View};
use crate::core::name::NodeName;
use crate::core::status::{ConditionType, NodeStatus, condition};

/// The silent agents, and what was reported of them.
#[derive(Debug, Default)]
pub(super) struct SilentAgents {
    since: BTreeMap<NodeName, Timestamp>,
    /// What this process reported of them.
    reported: BTreeMap<NodeName, Reported>,
}

#[derive(Debug, Clone, Copy)]
struct Reported {
    at: Instant,
    /// The view has shown it.
    shown: bool,
}

/// A report that the view does not show after this time is written once more.
const AGAIN: Duration = Duration::from_secs(30);

impl SilentAgents {
    /// Takes in who is silent now. Returns whether others are than before.
    pub(super) fn set(&mut self, silent: BTreeMap<NodeName, Timestamp>) -> bool {
        for node in silent.keys().filter(|node| !self.since.contains_key(*node)) {
            tracing::warn!(%node, "the node's agent is not heard any more; its kernel keeps what it has");
        }
        for node in self.since.keys().filter(|node| !silent.contains_key(*node)) {
            tracing::info!(%node, "the node's agent is heard again");
        }
        let changed = !silent.keys().eq(self.since.keys());
        self.reported.retain(|node, _| silent.contains_key(node));
        self.since = silent;
        changed
    }

    /// The statuses of the agents of existing nodes, with silence as their state.
    pub(super) fn statuses(&self, view: &View, now: Timestamp) -> BTreeMap<NodeName, NodeStatus> {
        let there = view.egress_nodes.iter().filter(|(name, _)| view.facts.nodes.contains_key(*name));
        let status = |name: &NodeName, status: &NodeStatus| match self.since.get(name) {
            Some(since) => status.clone().silent(*since, now),
            None => status.clone(),
        };
        there.map(|(name, node)| (name.clone(), status(name, &node.status))).collect()
    }

    /// Agents that wrote their status after this process reported their silence: that is a sign of life, which the Leases
    /// as they are known do not show. They count as not reported from now on.
    pub(super) fn contradicted(&mut self, view: &View) -> Vec<NodeName> {
        let mut contradicted = Vec::new();
        self.reported.retain(|node, reported| {
            let Some(object) = view.egress_nodes.get(node) else { return false };
            let says = object.status.silence().is_some();
            if reported.shown && !says {
                contradicted.push(node.clone());
                return false;
            }
            reported.shown |= says;
            true
        });
        contradicted
    }

    /// Writes the silence into the statuses of nodes that do not say so.
    pub(super) async fn report(
        &mut self,
        (live, leading): (&ApiClient, &Leadership),
        view: &View,
        now: Timestamp,
    ) -> Result<(), PassError> {
        let statuses = self.statuses(view, now);
        for (name, status) in statuses.iter().filter(|(name, _)| self.since.contains_key(*name)) {
            let known = view.egress_nodes.get(name).and_then(|node| node.status.silence());
            let under_way = self.reported.get(name).is_some_and(|one| !one.shown && one.at.elapsed() < AGAIN);
            let Some(ready) = condition(&status.conditions, ConditionType::Ready) else { continue };
            if known != status.silence() && !under_way {
                leading.fence().ok_or(PassError::NotLeading)?;
                live.apply_node_condition(name, ready).await?;
                self.reported.insert(name.clone(), Reported { at: Instant::now(), shown: false });
            }
        }
        Ok(())
    }
}
