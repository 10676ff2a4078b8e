//! Previews: what a change of the policy repository would do to a cluster, for the reviewer who approves it.
//!
//! The functions that decide on every node run twice, for the commit that the change starts from and for its head;
//! the differences are listed in the order of a reviewer's questions. Values in, text out: the same input gives the
//! same bytes. Not here: Git, loading snapshots, posting (see `forge`), and colours (see `cli`).
//!
//! `egret.yaml` of the head decides what would happen, as it would be active. Settings of the preview itself never
//! come from the head: neither its limits nor the place of its snapshot.

mod addresses;
mod admission;
pub mod assertions;
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
pub(crate) mod revision;
mod risks;
mod sentences;
mod terminal;

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use self::assertions::FailedAssertion;
pub use self::cost::{CostLimits, exceeded_limit};
pub use self::gateway_failure::{FailureOutcome, GatewayFailure};
pub use self::markdown::{markdown, marker};
pub use self::moves::Move;
use self::moves::PodMoves;
pub use self::nodes::{NodeChange, NodeChanges};
pub use self::outcome::{ConnectionFate, MoveOutcome};
pub use self::refusal::refusal;
use self::revision::{RevisionState, candidates_of};
pub use self::risks::{Risk, RiskLevel};
pub use self::sentences::Sentences;
pub use self::terminal::{Line, LineStyle, TextForm, lines};
use super::admission::{AdmissionDecision, PendingReason};
use super::allocation::AddressChange;
use super::diagnostic::{Diagnostic, Severity};
use super::facts::{Facts, PodName};
use super::host_network::HostNetwork;
use super::labels::{Labels, Selector};
use super::name::NodeName;
use super::policy::catalogue::{DiagnosticCounts, HeldDocument};
use super::policy::{Origin, Policy, PolicyId, PolicySet};
use super::report::history::NodeReport;

/// All inputs of a preview.
#[derive(Debug, Clone, Copy)]
pub struct PreviewInput<'a> {
    /// The cluster's name in egret.yaml.
    pub cluster: &'a str,
    /// The commit that the change starts from, and its head, in the form to display.
    pub commits: (&'a str, &'a str),
    /// The policies before the change.
    pub before: &'a PolicySet,
    /// The policies after it.
    pub after: &'a PolicySet,
    /// Nodes, namespaces and pods.
    pub facts: &'a Facts,
    /// The source of the facts, for the line below the title.
    pub facts_from: &'a str,
    /// Interfaces and addresses of the nodes whose kernel was read.
    pub host_networks: &'a BTreeMap<NodeName, HostNetwork>,
    /// The time: it decides which suspended policies are active.
    pub now: Timestamp,
    /// Whether the change touches a file that counts for this cluster.
    pub concerned: bool,
    /// Trailers of the head's commit message.
    pub trailers: &'a [(String, String)],
    /// A commit of the change that lacks the required signature: its full id, and a clause that explains why.
    pub unsigned: Option<(&'a str, &'a str)>,
    /// What the change does to addresses of pools.
    pub addresses: &'a [AddressChange],
    /// Diagnostics of the documents.
    pub validation: &'a Validation,
    /// The change of `egret.yaml`, as a unified diff.
    pub config_diff: &'a str,
    /// Whether a setting of it has another effect on this cluster.
    pub settings_change: bool,
    /// The nodes' reports; drift of the objects that the change touches is listed separately.
    pub reports: &'a [NodeReport],
    /// How much is shown.
    pub limits: DisplayLimits,
}

/// Diagnostics of the head's documents.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Validation {
    /// All diagnostics, sorted, with whether the commit before had each too.
    pub found: Vec<(Diagnostic, bool)>,
    /// Their counts.
    pub tally: DiagnosticCounts,
    /// Documents whose previous version stays active.
    pub held: Vec<HeldDocument>,
    /// Assertions that do not hold. They are among what was found, too.
    pub assertions: Vec<FailedAssertion>,
}

impl Validation {
    /// Compares the diagnostics before with those now. The position may differ; file, kind and message must be equal.
    pub fn new(
        before: &[Diagnostic],
        after: Vec<Diagnostic>,
        tally: DiagnosticCounts,
        held: Vec<HeldDocument>,
        assertions: Vec<FailedAssertion>,
    ) -> Self {
        let known: BTreeSet<(&str, &str, &str)> =
            before.iter().map(|one| (one.file.as_str(), one.code, one.message.as_str())).collect();
        let is_known = |one: &Diagnostic| known.contains(&(one.file.as_str(), one.code, one.message.as_str()));
        let found = after.into_iter().map(|one| (is_known(&one), one)).map(|(known, one)| (one, known)).collect();
        Self { found, tally, held, assertions }
    }

    /// Whether a document has an error, or an assertion fails.
    pub fn fails(&self) -> bool {
        self.found.iter().any(|(one, _)| one.severity == Severity::Error)
    }

    /// The errors of documents, and the assertions that fail, each with whether the commit before had it too.
    pub fn errors(&self) -> [Vec<&(Diagnostic, bool)>; 2] {
        let errors = self.found.iter().filter(|(one, _)| one.severity == Severity::Error);
        let (asserted, documents) = errors.partition(|(one, _)| assertions::CODES.contains(&one.code));
        [documents, asserted]
    }
}

/// How much of a preview is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DisplayLimits {
    /// Pod names in a list.
    pub names: usize,
    /// Nodes whose exact changes are shown.
    pub nodes: usize,
    /// Lines of one node's diff.
    pub lines: usize,
    /// Gateways whose failure is simulated.
    pub gateways: usize,
    /// The percentage of policies, or of the pods that they select, that may be removed without a warning.
    pub removed_percent: usize,
    /// The most bytes of a comment. GitHub has the lowest limit, says "65536 characters", and has counted bytes,
    /// UTF-16 units and code points at different times; the number of bytes is never smaller than any of these.
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
    /// Only in the head.
    pub added: Vec<PolicyId>,
    /// With another content.
    pub changed: Vec<PolicyId>,
    /// No longer in the head.
    pub removed: Vec<PolicyId>,
}

/// The effects of a change.
#[derive(Debug, Clone)]
pub struct Preview<'a> {
    /// The input that it was made from.
    pub input: PreviewInput<'a>,
    /// Policies that differ.
    pub policies: PolicyDifference,
    /// Pods that change their path.
    pub moves: Vec<Move>,
    /// What happens to open connections, for each move.
    pub fates: Vec<ConnectionFate>,
    /// The number of pods that move.
    pub moved: usize,
    /// What a reviewer should check before merging; the worst first.
    pub risks: Vec<Risk>,
    /// The outcome of each gateway's failure.
    pub gateway_failures: Vec<GatewayFailure>,
    /// Gateways whose failure was not simulated, because there are too many.
    pub losses_left_out: usize,
    /// Changes on nodes.
    pub nodes: NodeChanges,
    /// Existing drift of the objects that the change touches.
    pub drift: Vec<String>,
    /// Why it would not become active at once.
    pub waits: Option<PendingReason>,
}

impl Preview<'_> {
    /// Whether something changes in the cluster: what nodes have to do, what is published to them, or a setting. Comments,
    /// order and style of the documents, the files that they are in, and warnings change nothing.
    pub fn changes(&self) -> bool {
        let PolicyDifference { added, changed, removed } = &self.policies;
        self.nodes.changed > 0
            || !self.moves.is_empty()
            || self.input.settings_change
            || [added, changed, removed].iter().any(|some| !some.is_empty())
            || labels_say(self.input.before) != labels_say(self.input.after)
    }
}

/// Makes a preview.
pub fn preview(input: PreviewInput<'_>) -> Preview<'_> {
    let before = RevisionState::new(input.before, input.before, input.facts, input.now);
    let mut after = RevisionState::new(input.after, input.before, input.facts, input.now);
    let policies = nodes::changed_policies(input.before, input.after);
    let moves = moves::compare(&before, &after, input.facts);
    let moved: BTreeSet<&PodName> = moves.moves.iter().flat_map(|one| &one.pods).collect();
    let moved = moved.len();
    let nodes = nodes::compare(&input, &before, &after, &moves);
    let touched = touched(&before, &after, &policies, &moves);
    let fates = outcome::fates(&before, &after, &moves.moves);
    let drift = existing_drift::drift(input.reports, &policies, &moves, &nodes);
    let mut risks = risks::find(&input, (&before, &after), &moves, &touched, &drift);
    risks.extend(assertions::weakened(&input));
    risks.extend(input.addresses.iter().map(addresses::risk));
    risks.sort();
    let gateway_failures = gateway_failure::each(&input, &mut after, &moves, &touched);
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
        moves: moves.moves,
        fates,
        moved,
        risks,
        gateway_failures,
        losses_left_out,
        nodes,
        drift,
        waits: None,
    };
    // A change without an effect waits for nothing.
    if preview.changes() {
        let verdict = admission::verdict(&input);
        if let AdmissionDecision::Pending(why) = &verdict {
            preview.waits = Some(why.clone());
        }
        preview.risks.extend(admission::risks(&input, verdict));
        preview.risks.sort();
    }
    preview
}

/// Policies that the change touches: their content, their gateways or their members differ.
fn touched(
    before: &RevisionState<'_>,
    after: &RevisionState<'_>,
    policies: &PolicyDifference,
    moves: &PodMoves,
) -> BTreeSet<PolicyId> {
    let mut touched: BTreeSet<PolicyId> = policies.added.iter().chain(&policies.changed).cloned().collect();
    touched.extend(moves.moves.iter().map(|one| one.policy.clone()));
    let relabelled: BTreeSet<&NodeName> = before
        .facts
        .nodes
        .iter()
        .filter(|(name, node)| after.facts.nodes.get(*name) != Some(node))
        .map(|(name, _)| name)
        .collect();
    let [was, is] = [before, after].map(|side| side.candidates(|node| relabelled.contains(node)));
    for (id, policy) in &after.set.policies {
        let (old, new) = (before.placement.policies.get(id), after.placement.policies.get(id));
        let standby = || candidates_of(&was, policy, usize::MAX) != candidates_of(&is, policy, usize::MAX);
        if old != new || moves.members_of(id).0 != moves.members_of(id).1 || standby() {
            touched.insert(id.clone());
        }
    }
    touched
}

/// What one document of node labels says: the nodes by name or by their labels, and the labels.
type LabelsSaid<'a> = (BTreeSet<&'a NodeName>, Option<Selector>, &'a Labels);

/// What all documents of node labels say, whatever their names and files are.
fn labels_say(set: &PolicySet) -> Vec<LabelsSaid<'_>> {
    let said = set.node_labels.values().map(|one| {
        let selector = one.node_selector.as_ref().map(in_order);
        (one.nodes.iter().collect(), selector, &one.labels)
    });
    let mut said: Vec<LabelsSaid<'_>> = said.collect();
    said.sort();
    said
}

/// Whether two versions of a policy differ only in their position, or in an order that has no meaning.
fn says_the_same(one: &Policy, other: &Policy) -> bool {
    let bare = |policy: &Policy| Policy { origin: Origin::default(), ..policy.clone() };
    let (one, other) = (bare(one), bare(other));
    one == other || without_order(one) == without_order(other)
}

/// A policy with its lists in one order. The order of the gateways is left, as it is in what nodes compute with.
fn without_order(mut policy: Policy) -> Policy {
    for member in &mut policy.selectors {
        for selector in [&mut member.namespace, &mut member.pod, &mut member.node] {
            selector.requirements.sort();
        }
        member.namespace_name.sort();
    }
    for gateway in &mut policy.gateways {
        gateway.node.requirements.sort();
    }
    policy.selectors.sort();
    policy.destinations.sort();
    policy.excluded.sort();
    policy
}

/// A selector with its requirements in one order.
fn in_order(selector: &Selector) -> Selector {
    let mut selector = selector.clone();
    selector.requirements.sort();
    selector
}
