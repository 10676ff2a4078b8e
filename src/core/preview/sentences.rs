//! Sentences that the comment and the terminal output share.
//!
//! Not here: their layout (see `markdown` and `terminal`).

use std::collections::{BTreeMap, BTreeSet};

use super::named::{joined, leaves_as, policy, towards};
use super::outcome::{self, ConnectionFate, MoveOutcome};
use super::{FailureOutcome, GatewayFailure, Move, NodeChange, Preview, PreviewInput, RiskLevel};
use crate::core::admission::{PendingReason, by_the_clock};
use crate::core::cidr::{AddressRange, RangeSet};
use crate::core::compile::Disposition;
use crate::core::escape::EscapedText;
use crate::core::facts::PodName;
use crate::core::policy::{Egress, PolicyId};
use crate::core::text::counted;

/// Sentences about one preview.
#[derive(Debug, Clone, Copy)]
pub struct Sentences<'p>(pub &'p Preview<'p>);

/// The text for a disposition.
pub(super) fn way(input: &PreviewInput<'_>, way: &Disposition, towards: &[AddressRange]) -> EscapedText {
    match way {
        Disposition::Own => EscapedText::new().words("no gateway"),
        Disposition::Drop => EscapedText::new().words("dropped"),
        Disposition::Exit(exit) if outcome::has_no_address(input, exit, towards) => {
            let missing = EscapedText::new().words("dropped: no ");
            let missing = match &exit.egress {
                Egress::Address(_) | Egress::DualStack(..) | Egress::Pool(_) => {
                    missing.name(joined(&exit.egress, " or "))
                }
                Egress::Interface(name) => missing.words("address on ").name(name),
                Egress::DefaultRoute => missing.words("default route"),
            };
            missing.words(" · ").name(&exit.gateway)
        }
        Disposition::Exit(exit) => {
            let hops: Vec<String> = exit.next_hops.iter().map(|hop| format!(" via {hop}")).collect();
            EscapedText::new()
                .name(leaves_as(input, exit, towards))
                .words(" · ")
                .name(&exit.gateway)
                .words(hops.concat())
        }
    }
}

impl Sentences<'_> {
    /// The overall effect, the worst first.
    pub fn verdict(&self) -> String {
        let Preview { nodes, input, .. } = self.0;
        let outcomes = self.outcomes();
        let mut parts = outcomes.iter().enumerate().map(|(position, (outcome, moves))| {
            let pods: BTreeSet<&PodName> = moves.iter().flat_map(|one| &one.pods).collect();
            let pods = if position == 0 { counted(pods.len(), "pod") } else { pods.len().to_string() };
            match outcome {
                MoveOutcome::Cut => format!("{pods} would be cut off from {}", all_towards(moves)),
                MoveOutcome::Bare => format!("{pods} would leave without a gateway"),
                MoveOutcome::Address => format!("{pods} would come from another address"),
                MoveOutcome::Gateway => format!("{pods} would leave through another gateway as before"),
                MoveOutcome::Restored => format!("{pods} would get out again"),
                MoveOutcome::Nothing => format!("{pods} would be dropped still"),
            }
        });
        let change = match (parts.next(), nodes.changed) {
            (Some(first), _) => std::iter::once(first).chain(parts).collect::<Vec<_>>().join(", "),
            (None, 0) if !self.0.changes() && !input.concerned => "nothing for this cluster".to_owned(),
            (None, 0) if !self.0.changes() => "nothing changes".to_owned(),
            (None, 0) => "nothing changes in the cluster".to_owned(),
            (None, nodes) => format!("no pod changes its way out, {} changed", is(nodes)),
        };
        let [documents, asserted] = input.validation.errors().map(|errors| errors.len());
        let fails = match asserted {
            0 => String::new(),
            1 => "1 assertion fails; ".to_owned(),
            many => format!("{many} assertions fail; "),
        };
        match (documents, outcomes.is_empty() && nodes.changed == 0) {
            (0, _) => fails + &self.when() + &change,
            (_, true) => "does not validate; it would have no effect".to_owned(),
            (_, false) => format!("does not validate; {fails}{change}"),
        }
    }

    /// When the change becomes active, if that is not at once.
    fn when(self) -> String {
        let suspends = self.0.input.before.config.suspend != self.0.input.after.config.suspend;
        match &self.0.waits {
            None => String::new(),
            Some(PendingReason::Window { opens: Some(opens), time_zone, .. }) => {
                format!("from {}: ", by_the_clock(*opens, time_zone))
            }
            Some(PendingReason::Window { opens: None, .. }) => "never, as no change window opens: ".to_owned(),
            Some(PendingReason::Suspended { .. }) if suspends => "suspends the cluster; after that ".to_owned(),
            Some(PendingReason::Suspended { .. }) => "after the suspension: ".to_owned(),
            Some(PendingReason::Removals(_)) => "once its removals are confirmed: ".to_owned(),
            Some(PendingReason::Unsigned { .. }) => "would be refused, not signed as demanded; else ".to_owned(),
        }
    }

    /// The overall severity: the worst of all moves and all risks.
    pub fn level(&self) -> Option<RiskLevel> {
        let outcome = self.outcomes().into_keys().next().and_then(|outcome| match outcome {
            MoveOutcome::Cut => Some(RiskLevel::Danger),
            MoveOutcome::Bare | MoveOutcome::Address => Some(RiskLevel::Warning),
            MoveOutcome::Gateway | MoveOutcome::Restored | MoveOutcome::Nothing => None,
        });
        let errors = self.0.input.validation.tally.errors > 0;
        let invalid = errors.then_some(RiskLevel::Danger);
        let levels = self.0.risks.iter().map(|risk| risk.level).filter(|level| *level != RiskLevel::Note);
        levels.chain(outcome).chain(invalid).min()
    }

    /// Moves by their effect, the worst first.
    fn outcomes(&self) -> BTreeMap<MoveOutcome, Vec<&Move>> {
        let mut outcomes: BTreeMap<MoveOutcome, Vec<&Move>> = BTreeMap::new();
        for one in &self.0.moves {
            outcomes.entry(outcome::of(&self.0.input, one)).or_default().push(one);
        }
        outcomes
    }

    /// Commits, cluster, validation.
    pub fn subtitle(&self) -> Vec<EscapedText> {
        let PreviewInput { commits: (base, head), facts_from, validation, .. } = self.0.input;
        let tally = validation.tally;
        let counts = format!(
            "{} checked: {}, {}",
            counted(tally.documents, "document"),
            counted(tally.errors, "error"),
            counted(tally.warnings, "warning")
        );
        vec![
            EscapedText::new().words("commit ").name(head).words(" onto ").name(base),
            EscapedText::new().words("cluster as of ").quote(facts_from),
            EscapedText::new().words(counts),
        ]
    }

    /// `1 policy added, 2 changed, 1 removed · 3 of 120 nodes`
    pub fn counts(&self) -> String {
        let policies = &self.0.policies;
        let all =
            [(policies.added.len(), "added"), (policies.changed.len(), "changed"), (policies.removed.len(), "removed")];
        let mut parts: Vec<String> = Vec::new();
        for (count, what) in all.into_iter().filter(|(count, _)| *count > 0) {
            parts.push(if parts.is_empty() {
                format!("{} {what}", counted(count, "policy"))
            } else {
                format!("{count} {what}")
            });
        }
        let nodes = &self.0.nodes;
        if nodes.relabelled > 0 {
            let labels = format!("labels of {} changed", counted(nodes.relabelled, "node"));
            parts.push(if parts.is_empty() { format!("{labels}, no policy") } else { labels });
        }
        let nodes = format!("{} of {} changed", nodes.changed, counted(nodes.total, "node"));
        if parts.is_empty() {
            format!("no policy changed · {nodes}")
        } else {
            format!("{} · {nodes}", parts.join(", "))
        }
    }

    /// A move's old path, new path and destinations.
    pub fn exits(&self, one: &Move) -> [EscapedText; 3] {
        let input = &self.0.input;
        [way(input, &one.from, &one.towards), way(input, &one.to, &one.towards), towards(&one.towards)]
    }

    /// The nodes that share one change.
    pub fn nodes(&self, one: &NodeChange) -> EscapedText {
        let phrase = EscapedText::new().name(&one.node);
        if one.alike.is_empty() { phrase } else { phrase.words(", and in the same way ").names(&one.alike) }
    }

    /// The deciding policy, and the one that decided before if it is another.
    pub fn deciding(&self, one: &Move) -> EscapedText {
        match one.was.as_ref().filter(|was| **was != one.policy) {
            Some(was) => self.policy(was).words(" → ").join(self.policy(&one.policy)),
            None => self.policy(&one.policy),
        }
    }

    /// Notes that explain a table of moves: what "no gateway" means, and that rows may share pods.
    pub fn remarks(&self) -> Vec<String> {
        let moves = &self.0.moves;
        let mut remarks = Vec::new();
        if moves.iter().any(|one| one.from == Disposition::Own || one.to == Disposition::Own) {
            remarks.push(
                "No gateway: packets leave from the pod's own node, with the node's address or the pod's, as the network plugin has it."
                    .to_owned(),
            );
        }
        if moves.iter().map(|one| one.pods.len()).sum::<usize>() > self.0.moved {
            remarks.push(format!("{} in all; some are in more than one row.", counted(self.0.moved, "pod")));
        }
        remarks
    }

    /// A policy's name.
    pub fn policy(&self, id: &PolicyId) -> EscapedText {
        policy(&self.0.input, id)
    }

    /// The outcome of a gateway's failure.
    pub fn gateway_failure(&self, failure: &GatewayFailure) -> EscapedText {
        let pods = counted(failure.pods, "pod");
        let of = EscapedText::new().words(format!("{pods} of ")).join(self.policy(&failure.policy));
        match &failure.then {
            FailureOutcome::Dropped => of.words(if failure.pods == 1 {
                " is dropped: there is no other gateway"
            } else {
                " are dropped: there is no other gateway"
            }),
            FailureOutcome::Own => {
                of.words(if failure.pods == 1 { " leaves without a gateway" } else { " leave without a gateway" })
            }
            FailureOutcome::Through(exits) => {
                let everywhere = self.0.input.after.policies.get(&failure.policy);
                let ranges: Vec<AddressRange> = everywhere
                    .into_iter()
                    .flat_map(|policy| &policy.destinations)
                    .map(|net| AddressRange::from(*net))
                    .collect();
                let later = if exits.iter().any(|exit| exit.egress.is_named()) {
                    ", as soon as the address is there"
                } else if failure.standby {
                    ", within a second"
                } else {
                    ", once the cluster reports that the node is not Ready: after some 40 s"
                };
                let phrase = exits.iter().enumerate().fold(
                    of.words(if failure.pods == 1 { " leaves as " } else { " leave as " }),
                    |phrase, (position, exit)| {
                        let phrase = if position > 0 { phrase.words(" or ") } else { phrase };
                        phrase.join(way(&self.0.input, &Disposition::Exit(exit.clone()), &ranges))
                    },
                );
                phrase.words(later)
            }
        }
    }

    /// What happens to connections that are open when the change becomes active.
    pub fn connections(&self) -> Option<EscapedText> {
        /// The ten minutes are `handover::DRAIN`.
        const DRAINED: &str = "keep their address until they end, 10 minutes at the most";
        const KEPT: &str = "keep their way until they end";
        let mut fates: BTreeMap<ConnectionFate, BTreeSet<&PolicyId>> = BTreeMap::new();
        for (one, fate) in self.0.moves.iter().zip(&self.0.fates).filter(|(one, _)| one.from != Disposition::Drop) {
            fates.entry(*fate).or_default().insert(one.was.as_ref().unwrap_or(&one.policy));
        }
        let mut rest = fates.into_iter().map(|(fate, policies)| match fate {
            ConnectionFate::Cut => ("are cut", policies),
            ConnectionFate::Drained => (DRAINED, policies),
            ConnectionFate::Kept => (KEPT, policies),
        });
        let (first, policies) = rest.next()?;
        let rest: Vec<_> = rest.collect();
        let open = EscapedText::new().words("Connections that are open then ");
        if rest.is_empty() {
            return Some(open.words(first).words("."));
        }
        let all = std::iter::once((first, policies)).chain(rest).enumerate();
        let sentence = all.fold(open, |sentence, (position, (what, policies))| {
            let joint = if position == 0 { "of " } else { ", those of " };
            sentence.words(joint).names(policies).words(format!(" {what}"))
        });
        Some(sentence.words("."))
    }
}

/// The first few destinations of several moves.
fn all_towards(moves: &[&Move]) -> EscapedText {
    let all: RangeSet = moves.iter().flat_map(|one| one.towards.iter().copied()).collect();
    towards(all.ranges())
}

fn is(nodes: usize) -> String {
    if nodes == 1 { "1 node is".to_owned() } else { format!("{nodes} nodes are") }
}
