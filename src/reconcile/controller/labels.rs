//! Applies each node's label decision to the API server, and keeps what other clients changed for the reports.
//!
//! The controller sets a label before it publishes the policies of the label's commit, and removes one after the
//! agents have taken the policies over: agents receive nodes and policies in no particular order, and a label that an
//! active policy selects gateways by must exist. Not here: the decision (`core::labelling`).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use crate::cluster::live::{ApiClient, ApiError, LabelManager, LabelOutcome, Operation, View};
use crate::core::labelling::{FIGHT, FIGHT_WINDOW, LabelDecision, LabelHistory, LabelOwner, ObservedLabels, reachable};
use crate::core::name::NodeName;
use crate::core::policy::PolicySet;
use crate::core::report::history::{NodeReport, ObservedDrift, RequestedBy};
use crate::core::status::Reason;
use crate::telemetry::chain;

/// The field manager of labels.
const MANAGER: &str = "egret";

/// How long the removal of a label waits for agents that have not reported the commit. A dead agent leaves its kernel
/// as it is. An agent that was cut off may find on reconnection that its policies lead nowhere until it has the new
/// ones.
const PATIENCE: Duration = Duration::from_secs(30);

fn is_own(owner: &LabelManager) -> bool {
    owner.manager == MANAGER && owner.operation == Operation::Apply
}

/// What is known of every node's labels.
#[derive(Debug, Default)]
pub(super) struct LabelReconciler {
    nodes: BTreeMap<NodeName, Known>,
    /// The commit whose labels were last requested, and since when.
    since: Option<(String, Instant)>,
}

#[derive(Debug)]
struct Known {
    /// The Node's UID: a Node that was recreated is another one.
    uid: String,
    memory: LabelHistory,
    report: NodeReport,
}

/// A change of one node's labels that is recorded as an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LabelEvent {
    /// The node.
    pub(super) node: NodeName,
    /// Its UID.
    pub(super) uid: String,
    /// `DriftDetected` or `LabelConflict`.
    pub(super) reason: Reason,
    /// The message.
    pub(super) note: String,
}

impl LabelReconciler {
    /// Applies the set's labels to all nodes. A node that fails does not stop the others; the first error is
    /// returned.
    pub(super) async fn apply(
        &mut self,
        live: &ApiClient,
        view: &View,
        set: &PolicySet,
        commit: &str,
        events: &mut Vec<LabelEvent>,
        now: Timestamp,
    ) -> Result<(), ApiError> {
        let taken_over = self.is_taken_over(view, commit, Instant::now());
        self.nodes.retain(|name, known| view.nodes.get(name).is_some_and(|meta| meta.uid == known.uid));
        let mut fault = Ok(());
        for (name, meta) in &view.nodes {
            let Some(node) = view.facts.nodes.get(name) else { continue };
            let known = self.nodes.entry(name.clone()).or_insert_with(|| Known {
                uid: meta.uid.clone(),
                memory: LabelHistory::default(),
                report: NodeReport::new(name.as_str()),
            });
            let owners: Vec<LabelOwner> = meta
                .label_managers
                .iter()
                .map(|owner| LabelOwner {
                    manager: owner.manager.clone(),
                    applies: owner.operation == Operation::Apply,
                    time: owner.time,
                    keys: owner.keys.clone(),
                })
                .collect();
            let mut desired = set.labels_of(name, &node.labels);
            if !taken_over {
                let owned = meta.label_managers.iter().filter(|owner| is_own(owner)).flat_map(|owner| &owner.keys);
                for (key, value) in owned.filter_map(|key| node.labels.get_key_value(key)) {
                    desired.entry(key.clone()).or_insert_with(|| value.clone());
                }
            }
            let seen = ObservedLabels { labels: &node.labels, owners: &owners };
            let desired = reachable(desired, seen, MANAGER, &set.config.label_keys);
            let decision = known.memory.decide(&desired, seen, MANAGER, set.config.on_label_drift, now);
            known.note(name, &decision, set, commit, events, now);
            if let Err(error) = known.carry_out(live, name, &decision, now).await {
                known.report.mark_uncorrected(&chain(&error));
                fault = fault.and(Err(error));
            }
        }
        fault
    }

    /// Whether every agent that can be waited for has taken the commit over, or the wait has timed out.
    fn is_taken_over(&mut self, view: &View, commit: &str, now: Instant) -> bool {
        let since = self.since.take().filter(|(awaited, _)| awaited == commit).map_or(now, |(_, since)| since);
        self.since = Some((commit.to_owned(), since));
        let behind = view.egress_nodes.iter().any(|(name, object)| {
            let ready = view.facts.nodes.get(name).is_some_and(|node| node.ready);
            ready && object.status.revision != commit
        });
        !behind || now.duration_since(since) >= PATIENCE
    }

    /// The part of a node's report that concerns its labels.
    pub(super) fn report(&self, node: &NodeName) -> Option<&NodeReport> {
        self.nodes.get(node).map(|known| &known.report)
    }

    /// Forgets all decisions. Needed after a time without leadership.
    pub(super) fn forget(&mut self) {
        self.nodes.clear();
    }
}

impl Known {
    /// Records a decision in the report, and what is new of it as events.
    fn note(
        &mut self,
        name: &NodeName,
        decision: &LabelDecision,
        set: &PolicySet,
        commit: &str,
        events: &mut Vec<LabelEvent>,
        now: Timestamp,
    ) {
        let drifts = decision.drift.iter().map(|(drift, by)| ObservedDrift {
            drift: drift.clone(),
            by: by.clone(),
            wanted_by: wanted_by(set, drift, commit),
        });
        let mut notes = self.note_drift(drifts.collect(), now);
        notes.extend(self.note_given_up(decision));
        self.note_corrected(decision, now);
        for (reason, note) in notes {
            tracing::warn!(node = %name, "{note}");
            events.push(LabelEvent { node: name.clone(), uid: self.uid.clone(), reason, note });
        }
    }

    fn note_drift(&mut self, drifts: Vec<ObservedDrift>, now: Timestamp) -> Vec<(Reason, String)> {
        let open: BTreeSet<&str> = self.report.drift.iter().map(|record| record.object.as_str()).collect();
        let new = drifts.iter().filter(|one| !open.contains(one.drift.object.as_str()));
        let notes = new.map(|one| {
            let by = one.by.as_ref().map_or("somebody", |by| by.guess.as_str());
            let found = one.drift.observed.as_deref().unwrap_or("it is gone");
            (Reason::DriftDetected, format!("{}: {by} changed it, {found}", one.drift.object))
        });
        let notes = notes.collect();
        self.report.seen(drifts, now);
        notes
    }

    fn note_given_up(&mut self, decision: &LabelDecision) -> Vec<(Reason, String)> {
        let mut notes = Vec::new();
        for (key, value) in &decision.given_up {
            let object = format!("label {key}");
            let why = format!("somebody else wants \"{value}\" and was corrected {FIGHT} times in {FIGHT_WINDOW:#}");
            let action = format!("given up: {why}");
            let record = self.report.drift.iter_mut().find(|record| record.object == object);
            if let Some(record) = record.filter(|record| record.action != action) {
                notes.push((Reason::LabelConflict, format!("{object} is not fought for any more: {why}")));
                record.action = action;
                record.hint = Some("find the other controller, or take the label out of the repository".to_owned());
            }
        }
        notes
    }

    /// A label that is correct again counts as corrected, no matter which client did it.
    fn note_corrected(&mut self, decision: &LabelDecision, now: Timestamp) {
        let still = |object: &str| decision.drift.iter().any(|(drift, _)| drift.object == object);
        if !self.report.drift.iter().all(|record| still(&record.object)) {
            let (open, corrected) =
                std::mem::take(&mut self.report.drift).into_iter().partition(|record| still(&record.object));
            self.report.drift = corrected;
            self.report.mark_corrected(now);
            self.report.drift = open;
        }
    }

    async fn carry_out(
        &mut self,
        live: &ApiClient,
        name: &NodeName,
        decision: &LabelDecision,
        now: Timestamp,
    ) -> Result<(), ApiError> {
        let Some(apply) = &decision.apply else { return Ok(()) };
        match live.apply_labels(name, &self.uid, &apply.labels, apply.force).await? {
            LabelOutcome::Applied { changed } => {
                if changed {
                    tracing::info!(node = %name, labels = ?apply.labels, "labels applied");
                }
                self.memory.applied = apply.labels.clone();
                if apply.force {
                    let keys = decision.drift.iter().filter_map(|(drift, _)| drift.object.strip_prefix("label "));
                    let corrected = keys.filter(|key| apply.labels.contains_key(*key)).map(ToOwned::to_owned);
                    self.memory.corrected(corrected, now);
                }
            }
            // The view is behind: the change that it does not contain yet will arrive and cause a new decision.
            LabelOutcome::Conflict(conflicts) => {
                tracing::debug!(node = %name, ?conflicts, "another client changed the label first");
            }
            LabelOutcome::Gone => tracing::debug!(node = %name, "the node is gone"),
        }
        Ok(())
    }
}

fn wanted_by(set: &PolicySet, drift: &crate::core::report::drift::Drift, commit: &str) -> Vec<RequestedBy> {
    let key = drift.object.strip_prefix("label ").unwrap_or_default();
    let documents = set.node_labels.values().filter(|document| document.labels.contains_key(key));
    documents
        .map(|document| RequestedBy {
            policy: document.name.to_string(),
            file: document.origin.to_string(),
            commit: commit.to_owned(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::live::EgressNodeObject;
    use crate::core::facts::Node;

    /// Nodes with the commit that their agents report as active, and whether they are Ready.
    fn view(nodes: &[(&str, &str, bool)]) -> View {
        let mut view = View::default();
        for (name, revision, ready) in nodes {
            let name = NodeName::parse(name).expect("a name");
            view.facts.nodes.insert(name.clone(), Node { ready: *ready, ..Node::default() });
            let mut object = EgressNodeObject::default();
            object.status.revision = (*revision).to_owned();
            view.egress_nodes.insert(name, object);
        }
        view
    }

    #[test]
    fn a_label_that_is_to_go_waits_for_agents_that_can_be_waited_for_and_not_for_ever() {
        let began = Instant::now();
        let at = |second| began + Duration::from_secs(second);
        let mut labels = LabelReconciler::default();
        assert!(labels.is_taken_over(&view(&[]), "a", at(0)), "there is no agent to wait for");
        let behind = view(&[("one", "b", true), ("two", "a", true)]);
        assert!(!labels.is_taken_over(&behind, "b", at(1)));
        assert!(labels.is_taken_over(&view(&[("one", "b", true), ("two", "a", false)]), "b", at(2)));
        assert!(labels.is_taken_over(&view(&[("one", "b", true), ("two", "b", true)]), "b", at(3)));
        assert!(!labels.is_taken_over(&behind, "b", at(30)));
        assert!(labels.is_taken_over(&behind, "b", at(31)));
        assert!(!labels.is_taken_over(&behind, "c", at(32)), "another commit is waited for anew");
    }
}
