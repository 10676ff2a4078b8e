//! Chooses this node's mark bits if egret.yaml leaves the choice to the node (`markMask: auto`): reads which bits
//! other software on the node uses, and keeps a choice until other software uses one of its bits.
//!
//! Not here: the choice itself (`core::state::mask`), and how objects move to another mask (`round`, `plan`).

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::core::finding::Finding;
use crate::core::name::NodeName;
use crate::core::policy::PolicySet;
use crate::core::state::mask::{MarkUsage, MaskChoice, MaskReason, choose};
use crate::core::state::ownership::DatapathConfig;
use crate::kernel::marks::MarkSurvey;
use crate::kernel::watch::{EventSubject, KernelEvent};
use crate::reconcile::node::kernel::NodeKernel;
use crate::telemetry::chain;

/// How long a read of others' rules is valid. A node may have a hundred thousand of them, and a round may come every
/// few milliseconds.
const SURVEY_INTERVAL: Duration = Duration::from_mins(1);

/// The known use of mark bits on this node.
#[derive(Debug, Default)]
pub struct MarkMaskChooser {
    surveyed: Option<Instant>,
    found: MarkSurvey,
    choice: Option<MaskChoice>,
    /// The mask that was given up because others use bits of it.
    left: Option<u32>,
    /// The policy set that was last passed in, and the same with this node's bits.
    resolved: Option<(Arc<PolicySet>, Arc<PolicySet>)>,
}

impl MarkMaskChooser {
    /// The policy set with this node's bits. `before` is the persisted configuration of what is in the kernel, if
    /// known.
    pub async fn resolve(
        &mut self,
        kernel: &impl NodeKernel,
        set: &Arc<PolicySet>,
        before: Option<DatapathConfig>,
        events: &[KernelEvent],
    ) -> Arc<PolicySet> {
        let config = &set.config;
        if !config.mask_is_auto {
            *self = Self::default();
            return Arc::clone(set);
        }
        let of_rules = |event: &KernelEvent| matches!(event.subject, EventSubject::Rule(_) | EventSubject::Everything);
        if self.surveyed.is_none_or(|surveyed| surveyed.elapsed() >= SURVEY_INTERVAL) || events.iter().any(of_rules) {
            self.survey(kernel, config.range.first).await;
        }
        let before = before.map(|range| range.mask).or(self.found.own);
        let choice = choose(&self.found.used, before);
        if let Some(before) = before
            && before != choice.mask
            && self.choice != Some(choice)
        {
            self.left = Some(before);
            tracing::warn!(before = format!("{before:#x}"), now = format!("{:#x}", choice.mask), used = %self.found.used, "mark bits are moved");
        }
        if self.choice != Some(choice) {
            tracing::info!(mask = format!("{:#x}", choice.mask), why = %choice.why, others = %self.found.used, "mark bits of this node");
        }
        self.choice = Some(choice);
        if choice.mask == config.range.mask {
            return Arc::clone(set);
        }
        self.with_mask(set, choice.mask)
    }

    async fn survey(&mut self, kernel: &impl NodeKernel, first: u32) {
        match kernel.survey_marks(first).await {
            Ok(found) => {
                self.found = found;
                self.surveyed = Some(Instant::now());
            }
            // Until the bits are known, what is in the kernel stays, or the default is used.
            Err(error) => tracing::warn!(error = chain(&error), "which mark bits others use is not known"),
        }
    }

    /// A large set is copied once, not in every round.
    fn with_mask(&mut self, set: &Arc<PolicySet>, mask: u32) -> Arc<PolicySet> {
        if let Some((requested, resolved)) = &self.resolved
            && Arc::ptr_eq(requested, set)
            && resolved.config.range.mask == mask
        {
            return Arc::clone(resolved);
        }
        let mut resolved = PolicySet::clone(set);
        resolved.config.range.mask = mask;
        let resolved = Arc::new(resolved);
        self.resolved = Some((Arc::clone(set), Arc::clone(&resolved)));
        resolved
    }

    /// Findings for the operator.
    pub fn findings(&self, node: &NodeName) -> Vec<Finding> {
        let Some(choice) = self.choice else { return Vec::new() };
        findings(node, choice, &self.found.used, self.left)
    }
}

fn findings(node: &NodeName, choice: MaskChoice, used: &MarkUsage, left: Option<u32>) -> Vec<Finding> {
    let mask = choice.mask;
    let mut found = Vec::new();
    match choice.why {
        MaskReason::Kept | MaskReason::Default | MaskReason::Free => {}
        MaskReason::Narrow => {
            let room = DatapathConfig { mask, ..DatapathConfig::default() }.last_id() - 1;
            let message = format!(
                "no eight mark bits in a row are free on this node: marks {mask:#x} have room for {room} exits; others use {used}"
            );
            found.push(
                Finding::new("marks-scarce", node, message)
                    .hint("give others fewer bits, Calico's iptablesMarkMask for example"),
            );
        }
        MaskReason::Taken => {
            let message = format!(
                "no mark bits are free on this node: marks {mask:#x} are taken in spite of {}",
                used.within(mask)
            );
            found.push(
                Finding::new("marks-taken", node, message)
                    .hint("give others fewer bits, Calico's iptablesMarkMask for example"),
            );
        }
    }
    if let Some(left) = left.filter(|left| *left != mask && !used.within(*left).is_empty()) {
        let message = format!(
            "marks {left:#x} were left for {mask:#x}, and connections with them began anew: others use some of them: {}",
            used.within(left)
        );
        found.push(Finding::new("marks-moved", node, message));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_move_and_a_want_of_bits_are_findings_and_a_choice_as_it_should_be_is_none() {
        let node = NodeName::parse("kind-worker").unwrap();
        let mut used = MarkUsage::default();
        used.add("the ip rule 1024", 0x80);
        let codes = |choice: MaskChoice, used: &MarkUsage, left| -> Vec<String> {
            findings(&node, choice, used, left).into_iter().map(|finding| finding.code).collect()
        };
        assert_eq!(codes(choose(&used, None), &used, None), [""; 0]);
        let moved = findings(&node, choose(&used, Some(0x1fff)), &used, Some(0x1fff));
        let message = "marks 0x1fff were left for 0x1fff0000, and connections with them began anew: others use some of them: the ip rule 1024 0x80";
        assert_eq!(moved, [Finding::new("marks-moved", &node, message)]);
        assert_eq!(
            codes(choose(&used, None), &MarkUsage::default(), Some(0x1fff)),
            [""; 0],
            "no other program uses them any more"
        );
        used.add("Calico", 0xffff_0000);
        assert_eq!(codes(choose(&used, None), &used, None), ["marks-scarce"]);
        used.add("somebody", u32::MAX);
        assert_eq!(codes(choose(&used, None), &used, None), ["marks-taken"]);
    }
}
