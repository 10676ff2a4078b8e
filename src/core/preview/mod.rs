//! Preview: what a change of the repository would do to a cluster, for the person who is to approve it.
//!
//! The same functions that decide on every node are asked twice, for the commit that the change began from and for its head; what differs
//! is put in the order of a reviewer's questions. Values in, text out: the same input gives the same bytes. Deliberately absent: Git, the
//! reading of snapshots, posting, and colours.
//!
//! `egret.yaml` of the head decides what would happen, since it would be in force; nothing that steers the preview itself comes from the
//! head: not its limits, not where its snapshot is read.

mod admission;
mod assumed_network;
mod cost;
mod diagram;
mod existing_drift;
mod gateway_failure;
mod markdown;
mod moves;
mod named;
mod nodes;
mod outcome;
mod refusal;
mod revision;
mod risks;
mod sentences;
mod terminal;

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

pub use self::cost::{CostLimits, burden};
pub use self::gateway_failure::{FailureOutcome, GatewayFailure};
pub use self::markdown::{markdown, marker};
pub use self::moves::Move;
use self::moves::PodMoves;
pub use self::nodes::{NodeChange, NodeChanges};
pub use self::outcome::{ConnectionFate, MoveOutcome};
pub use self::refusal::refusal;
use self::revision::RevisionState;
pub use self::risks::{Risk, RiskLevel};
pub use self::sentences::Sentences;
pub use self::terminal::{Line, LineStyle, TextForm, lines};
use super::admission::{AdmissionDecision, PendingReason};
use super::diagnostic::{Diagnostic, Severity};
use super::facts::{Facts, PodName};
use super::host_network::HostNetwork;
use super::name::NodeName;
use super::policy::catalogue::{DiagnosticCounts, HeldDocument};
use super::policy::{NodeLabels, Origin, Policy, PolicyId, PolicySet};
use super::report::history::NodeReport;

/// Everything that decides a preview.
#[derive(Debug, Clone, Copy)]
pub struct PreviewInput<'a> {
    /// The cluster's name in egret.yaml.
    pub cluster: &'a str,
    /// The commit that the change began from, and its head, as they are shown.
    pub commits: (&'a str, &'a str),
    /// What is in force before the change.
    pub before: &'a PolicySet,
    /// What will be.
    pub after: &'a PolicySet,
    /// Nodes, namespaces and pods.
    pub facts: &'a Facts,
    /// Where the facts are from, for the line below the title.
    pub facts_from: &'a str,
    /// Nodes' interfaces and addresses, of those that somebody has looked at.
    pub host_networks: &'a BTreeMap<NodeName, HostNetwork>,
    /// The time: it decides which suspended policies are in force.
    pub now: Timestamp,
    /// Whether the change has a file in it that counts for this cluster.
    pub concerned: bool,
    /// Trailers of the head's message.
    pub trailers: &'a [(String, String)],
    /// A commit of the change that is not signed as demanded: its full name, and half a sentence about it.
    pub unsigned: Option<(&'a str, &'a str)>,
    /// What was found in the documents.
    pub validation: &'a Validation,
    /// How `egret.yaml` changes, as a unified diff.
    pub config_diff: &'a str,
    /// What nodes report; what has drifted of the objects that the change is about is told apart.
    pub reports: &'a [NodeReport],
    /// How much is told.
    pub limits: DisplayLimits,
}

/// What was found in the documents of the head.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Validation {
    /// Everything, sorted, with whether the commit before had it too.
    pub found: Vec<(Diagnostic, bool)>,
    /// Counted.
    pub tally: DiagnosticCounts,
    /// Documents whose version of before stays in force.
    pub held: Vec<HeldDocument>,
}

impl Validation {
    /// Compares what was found before with what is found now. Places may move; file, kind and words stay.
    pub fn new(
        before: &[Diagnostic],
        after: Vec<Diagnostic>,
        tally: DiagnosticCounts,
        held: Vec<HeldDocument>,
    ) -> Self {
        let known: BTreeSet<(&str, &str, &str)> =
            before.iter().map(|one| (one.file.as_str(), one.code, one.message.as_str())).collect();
        let is_known = |one: &Diagnostic| known.contains(&(one.file.as_str(), one.code, one.message.as_str()));
        let found = after.into_iter().map(|one| (is_known(&one), one)).map(|(known, one)| (one, known)).collect();
        Self { found, tally, held }
    }

    /// Whether a document has an error.
    pub fn fails(&self) -> bool {
        self.found.iter().any(|(one, _)| one.severity == Severity::Error)
    }
}

/// How much is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DisplayLimits {
    /// Names of pods in a list.
    pub names: usize,
    /// Nodes whose exact changes are shown.
    pub nodes: usize,
    /// Lines of one node's changes.
    pub lines: usize,
    /// Gateways that are let die.
    pub gateways: usize,
    /// So many percent of policies, or of the pods that they select, may go without a warning.
    pub removed_percent: usize,
    /// The most bytes of a comment. GitHub, which takes least, says "65536 characters" and has counted bytes, UTF-16 units and code
    /// points at different times; no text has fewer bytes than any of them.
    pub comment: usize,
}

impl Default for DisplayLimits {
    fn default() -> Self {
        Self { names: 20, nodes: 10, lines: 120, gateways: 20, removed_percent: 20, comment: 65_000 }
    }
}

/// Policies that differ.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PolicyDifference {
    /// Only the head has them.
    pub added: Vec<PolicyId>,
    /// They say something else.
    pub changed: Vec<PolicyId>,
    /// The head has them no more.
    pub removed: Vec<PolicyId>,
}

/// What a change would do.
#[derive(Debug, Clone)]
pub struct Preview<'a> {
    /// What it was made from.
    pub input: PreviewInput<'a>,
    /// Policies that differ.
    pub policies: PolicyDifference,
    /// Who changes the way out.
    pub moves: Vec<Move>,
    /// What becomes of open connections, for each of them.
    pub fates: Vec<ConnectionFate>,
    /// How many pods that are.
    pub moved: usize,
    /// What to look at before it is merged; the worst first.
    pub dangers: Vec<Risk>,
    /// What happens if a gateway dies.
    pub losses: Vec<GatewayFailure>,
    /// Gateways that were not let die, because there are too many.
    pub losses_left_out: usize,
    /// What changes on nodes.
    pub nodes: NodeChanges,
    /// What has drifted already, of the objects that the change is about.
    pub drift: Vec<String>,
    /// Why it would not come into force at once.
    pub waits: Option<PendingReason>,
}

impl Preview<'_> {
    /// Whether anything would be another than it is.
    pub fn changes(&self) -> bool {
        let PolicyDifference { added, changed, removed } = &self.policies;
        self.nodes.changed > 0
            || !self.moves.is_empty()
            || !self.input.config_diff.is_empty()
            || [added, changed, removed].iter().any(|some| !some.is_empty())
            || labels_say(self.input.before) != labels_say(self.input.after)
            || self.input.validation.found.iter().any(|(_, known)| !known)
    }
}

/// Makes a preview.
pub fn preview(input: PreviewInput<'_>) -> Preview<'_> {
    let before = RevisionState::new(input.before, input.before, input.facts, input.now);
    let mut after = RevisionState::new(input.after, input.before, input.facts, input.now);
    let policies = nodes::changed_policies(input.before, input.after);
    let ways = moves::compare(&before, &after, input.facts);
    let moved: BTreeSet<&PodName> = ways.moves.iter().flat_map(|one| &one.pods).collect();
    let moved = moved.len();
    let nodes = nodes::compare(&input, &before, &after, &ways);
    let touched = touched(&before, &after, &policies, &ways);
    let fates = outcome::fates(&before, &after, &ways.moves);
    let drift = existing_drift::drift(input.reports, &policies, &ways, &nodes);
    let dangers = risks::find(&input, (&before, &after), &ways, &touched, &drift);
    let losses = gateway_failure::each(&input, &mut after, &ways, &touched);
    let gateways: BTreeSet<&NodeName> = after
        .placement
        .policies
        .iter()
        .filter(|(id, _)| touched.contains(id))
        .flat_map(|(_, placed)| placed.exits.iter().map(|exit| &exit.gateway))
        .collect();
    let losses_left_out = gateways.len().saturating_sub(input.limits.gateways);
    let mut preview = Preview {
        input,
        policies,
        moves: ways.moves,
        fates,
        moved,
        dangers,
        losses,
        losses_left_out,
        nodes,
        drift,
        waits: None,
    };
    // What changes nothing waits for nothing.
    if preview.changes() {
        let verdict = admission::verdict(&input);
        if let AdmissionDecision::Withheld(why) = &verdict {
            preview.waits = Some(why.clone());
        }
        preview.dangers.extend(admission::told(&input, verdict));
        preview.dangers.sort();
    }
    preview
}

/// Policies that the change is about: their words, their gateways or their members differ.
fn touched(
    before: &RevisionState<'_>,
    after: &RevisionState<'_>,
    policies: &PolicyDifference,
    ways: &PodMoves,
) -> BTreeSet<PolicyId> {
    let mut touched: BTreeSet<PolicyId> = policies.added.iter().chain(&policies.changed).cloned().collect();
    touched.extend(ways.moves.iter().map(|one| one.policy.clone()));
    let relabelled: Vec<&NodeName> = before
        .facts
        .nodes
        .iter()
        .filter(|(name, node)| after.facts.nodes.get(*name) != Some(node))
        .map(|(name, _)| name)
        .collect();
    for (id, policy) in &after.set.policies {
        let (old, new) = (before.placement.policies.get(id), after.placement.policies.get(id));
        let standby =
            || relabelled.iter().any(|node| before.is_candidate(policy, node) != after.is_candidate(policy, node));
        if old != new || ways.members_of(id).0 != ways.members_of(id).1 || standby() {
            touched.insert(id.clone());
        }
    }
    touched
}

/// What documents say of labels, wherever they stand.
fn labels_say(set: &PolicySet) -> Vec<NodeLabels> {
    set.node_labels.values().map(|one| NodeLabels { origin: Origin::default(), ..one.clone() }).collect()
}

/// Whether two versions of a policy differ in nothing but their place.
fn says_the_same(one: &Policy, other: &Policy) -> bool {
    Policy { origin: Origin::default(), ..one.clone() } == Policy { origin: Origin::default(), ..other.clone() }
}
