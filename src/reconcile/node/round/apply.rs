//! Applies a plan, persists the result, and removes everything.
//!
//! Not here: the loop of a round (the parent module). All choices are made by the plan.

use std::collections::BTreeSet;

use super::{ATTEMPTS, Reconciler, RoundError};
use crate::cluster::LabelChanges;
use crate::core::compile::counters::CounterIndex;
use crate::core::compile::{Compiled, RefusedParts};
use crate::core::labels::Labels;
use crate::core::plan::{Plan, Step, plan};
use crate::core::state::NodeState;
use crate::core::state::ownership::DatapathConfig;
use crate::kernel::nft::Generation;
use crate::reconcile::gitops::repository::DesiredRevision;
use crate::reconcile::node::kernel::NodeKernel;
use crate::telemetry::chain;

impl<K: NodeKernel> Reconciler<K> {
    /// Applies a plan. Returns the exits and return paths that the kernel rejected; the rest can do without them.
    /// After a rejection the plan stops at the first step that does not belong to such a part, and has to be made
    /// again without the rejected ones.
    pub(super) async fn apply(
        &mut self,
        plan: &Plan,
        mut generation: Generation,
        compiled: &Compiled,
        range: DatapathConfig,
        taken: &mut Vec<Step>,
    ) -> Result<RefusedParts, RoundError> {
        // A label that cannot be written, as in a read-only folder, does not keep any packets from their path.
        let labelled = self.apply_labels(plan);
        let mut refused = RefusedParts::default();
        for step in &plan.steps {
            if !refused.is_empty() {
                let parts = compiled.refused(step, "", range);
                if parts.is_empty() {
                    break;
                }
                // Other steps of a rejected part would only be undone.
                if refused.covers(&parts) {
                    continue;
                }
            }
            let before = generation;
            match self.kernel.apply(step, &mut generation).await {
                Ok(()) => {}
                Err(error) if error.is_refusal() => {
                    // The text of a step is aligned in columns.
                    let text: Vec<String> = chain(&error).split_whitespace().map(str::to_owned).collect();
                    let parts = compiled.refused(step, &text.join(" "), range);
                    if parts.is_empty() {
                        return Err(error.into());
                    }
                    refused.extend(parts);
                    continue;
                }
                Err(error) => return Err(error.into()),
            }
            if generation != before {
                self.own_generations.push_back(generation);
                if self.own_generations.len() > 64 {
                    self.own_generations.pop_front();
                }
            }
            if labelled.is_ok() || !matches!(step, Step::SetLabel(..) | Step::RemoveLabel(..)) {
                taken.push(step.clone());
            }
        }
        labelled.map(|()| refused)
    }

    /// Writes the labels of a plan, if it has any. Returns whether they were written.
    pub(super) fn label_first(&mut self, plan: &Plan, taken: &mut Vec<Step>) -> bool {
        let of_labels = |step: &&Step| matches!(step, Step::SetLabel(..) | Step::RemoveLabel(..));
        let labels: Vec<&Step> = plan.steps.iter().filter(of_labels).collect();
        if labels.is_empty() || !self.cluster.labels_nodes() || self.apply_labels(plan).is_err() {
            return false;
        }
        taken.extend(labels.into_iter().cloned());
        true
    }

    /// Labels are persisted before they are written. A crash in between leaves a persisted label that does not exist,
    /// which is harmless; in the other order it would leave a label that nothing owns, and that keeps the node a gateway
    /// after Git has withdrawn it. So a label that cannot be persisted is not written, and that is the error: the other
    /// nodes keep to the gateways they know.
    fn apply_labels(&mut self, plan: &Plan) -> Result<(), RoundError> {
        let mut changes = LabelChanges::default();
        for step in &plan.steps {
            match step {
                Step::SetLabel(key, value, _) => {
                    changes.set.insert(key.clone(), value.clone());
                }
                Step::RemoveLabel(key, _) => {
                    changes.remove.insert(key.clone());
                }
                _ => {}
            }
        }
        if changes == LabelChanges::default() {
            return Ok(());
        }
        self.memory.keep_first(|kept| kept.labels.extend(changes.set.clone()))?;
        self.cluster.label(&self.node, &changes)?;
        let removed: BTreeSet<String> = changes.remove;
        self.memory.keep(|kept| kept.labels.retain(|key, _| !removed.contains(key)));
        Ok(())
    }

    /// While the kernel still has objects of another configuration, both belong to Egret: the new ones are made
    /// before the old ones go.
    pub(super) fn set_ranges(&mut self, range: DatapathConfig) {
        let before = self.memory.kept().range().unwrap_or(range);
        self.kernel.set_ranges(if before == range { vec![range] } else { vec![range, before] });
    }

    /// Reads objects of this configuration from now on, and persists it. If it cannot be persisted, the next process
    /// finds it by the objects' own marks (`MarkMaskChooser`).
    pub(super) fn adopt_range(&mut self, range: DatapathConfig) {
        self.set_ranges(range);
        if self.memory.kept().range.is_none() {
            self.memory.keep(|kept| kept.range = Some((range.mask, range.first, range.port, range.mtu)));
        }
    }

    /// Everything is applied.
    pub(super) fn persist_result(&mut self, intent: &DesiredRevision, compiled: Compiled) {
        let now = self.clock.now();
        let range = intent.set.config.range;
        self.memory.keep(|kept| {
            kept.active.clone_from(&intent.active);
            kept.range = Some((range.mask, range.first, range.port, range.mtu));
        });
        self.memory.keep_handover(&self.gateway_state.handover);
        self.report.mark_corrected(now);
        self.report.set_active(&intent.commit.id.to_string(), &intent.commit.summary, now);
        self.report.rejected.clone_from(&intent.rejected);
        self.report.pending = intent.active.pending.clone().map(Box::new);
        self.report.emergency = intent.active.emergency.clone().map(Box::new);
        let mut findings = compiled.findings.clone();
        findings.extend(self.memory.findings(&self.node));
        // Without an exit, connections that are lost here are none of Egret's.
        if !compiled.exits.is_empty() {
            findings.extend(self.conntrack.findings(&self.node));
            findings.extend(self.ports.findings(&self.node));
        }
        self.report.set_findings(findings, now);
        self.counter_index = CounterIndex::of(&compiled);
        self.holders = Some(compiled.holders.clone());
        self.applied = Some((compiled.desired.clone(), compiled));
    }

    /// Removes everything of Egret's, kernel objects and labels. Returns the steps taken.
    pub async fn remove(&mut self, range: DatapathConfig) -> Result<Vec<Step>, RoundError> {
        let mut taken = Vec::new();
        for _ in 0..ATTEMPTS {
            let observed = self.observe(&Labels::new()).await?;
            let left = plan(&NodeState::default(), &observed.state, range);
            if left.is_empty() {
                self.memory.clear()?;
                return Ok(taken);
            }
            match self.apply(&left, observed.generation, &Compiled::default(), range, &mut taken).await {
                Err(RoundError::Kernel(error)) if error.is_stale() => {}
                other => drop(other?),
            }
        }
        Err(RoundError::NotConverged("take everything away".to_owned()))
    }
}
