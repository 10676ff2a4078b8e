//! Carrying a plan out, keeping what is known of it, and taking everything away.
//!
//! The loop of a round is absent (the parent), and so is every choice: a plan holds them.

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
use crate::reconcile::now;
use crate::reconcile::persistence::state_store::PersistedState;
use crate::telemetry::chain;

impl Reconciler {
    /// Carries a plan out. What the kernel refused of parts that the rest can do without is given back; then the plan ends where
    /// something follows that is everybody's, and has to be made again without these parts.
    pub(super) async fn apply(
        &mut self,
        plan: &Plan,
        mut generation: Generation,
        compiled: &Compiled,
        range: DatapathConfig,
        taken: &mut Vec<Step>,
    ) -> Result<RefusedParts, RoundError> {
        // A label that cannot be written, as in a folder that is read-only, keeps nobody's packets from their way.
        let labelled = self.apply_labels(plan);
        let mut refused = RefusedParts::default();
        for step in &plan.steps {
            if !refused.is_empty() {
                let parts = compiled.refused(step, "", range);
                if parts.is_empty() {
                    break;
                }
                // The rest of what is refused would only be taken out again.
                if refused.covers(&parts) {
                    continue;
                }
            }
            let before = generation;
            match self.kernel.apply(step, &mut generation).await {
                Ok(()) => {}
                Err(error) if error.is_refusal() => {
                    // A step's text stands in columns.
                    let words: Vec<String> = chain(&error).split_whitespace().map(str::to_owned).collect();
                    let parts = compiled.refused(step, &words.join(" "), range);
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

    /// Writes the labels of a plan, if it has any and they can be written: whether it did.
    pub(super) fn label_first(&mut self, plan: &Plan, taken: &mut Vec<Step>) -> bool {
        let of_labels = |step: &&Step| matches!(step, Step::SetLabel(..) | Step::RemoveLabel(..));
        let labels: Vec<&Step> = plan.steps.iter().filter(of_labels).collect();
        if labels.is_empty() || !self.cluster.labels_nodes() || self.apply_labels(plan).is_err() {
            return false;
        }
        taken.extend(labels.into_iter().cloned());
        true
    }

    /// Labels are remembered before they are written: a crash in between leaves one that is ours and not there, which is
    /// harmless; the other way round it would be there and nobody's.
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
        self.memory.keep(|kept| kept.labels.extend(changes.set.clone()))?;
        self.cluster.label(&self.node, &changes)?;
        let removed: BTreeSet<String> = changes.remove;
        Ok(self.memory.keep(|kept| kept.labels.retain(|key, _| !removed.contains(key)))?)
    }

    /// While the kernel still holds objects of another range, both are ours: the new ones are made before the old ones go.
    pub(super) fn look_in(&mut self, range: DatapathConfig) {
        let before = self.memory.kept().range().unwrap_or(range);
        self.kernel.set_ranges(if before == range { vec![range] } else { vec![range, before] });
    }

    /// Looks in a range from now on, and keeps it.
    pub(super) fn adopt_range(&mut self, range: DatapathConfig) -> Result<(), RoundError> {
        self.look_in(range);
        if self.memory.kept().range.is_none() {
            self.memory.keep(|kept| kept.range = Some((range.mask, range.first, range.port, range.mtu)))?;
        }
        Ok(())
    }

    /// All is in force.
    pub(super) fn settle(&mut self, intent: &DesiredRevision, compiled: Compiled) -> Result<(), RoundError> {
        let now = now();
        let range = intent.set.config.range;
        self.memory.keep(|kept| {
            kept.active.clone_from(&intent.active);
            kept.range = Some((range.mask, range.first, range.port, range.mtu));
        })?;
        if let Some(told) = &self.told {
            self.memory.keep_ways(&told.handover)?;
        }
        self.report.put_right(now);
        self.report.set_in_force(&intent.commit.id.to_string(), &intent.commit.summary, now);
        self.report.rejected.clone_from(&intent.rejected);
        self.report.withheld = intent.active.withheld.clone().map(Box::new);
        self.report.emergency = intent.active.emergency.clone().map(Box::new);
        self.report.set_findings(compiled.findings.clone(), now);
        self.legend = CounterIndex::of(&compiled);
        self.holders = Some(compiled.holders.clone());
        self.in_force = Some((compiled.desired.clone(), compiled));
        Ok(())
    }

    /// Takes everything of ours away, kernel objects and labels; returns what was done.
    pub async fn remove(&mut self, range: DatapathConfig) -> Result<Vec<Step>, RoundError> {
        let mut taken = Vec::new();
        for _ in 0..ATTEMPTS {
            let observed = self.observe(&Labels::new()).await?;
            let left = plan(&NodeState::default(), &observed.state, range);
            if left.is_empty() {
                self.memory.keep(|kept| *kept = PersistedState::default())?;
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
