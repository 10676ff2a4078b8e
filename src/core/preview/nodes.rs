//! The exact changes on each node: labels and kernel state, in the syntax of `ip` and `nft`.
//!
//! Which nodes change is found without compiling any of them, so that a preview of a thousand nodes costs no more
//! than the nodes it shows. Nodes that have only the changes that all nodes share are alike; one stands for all of
//! them. The comparison does not start from what nodes hold at this moment: exits are numbered as on a new node, and
//! may have other numbers on a real one.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use super::assumed_network::AssumedNetwork;
use super::moves::PodMoves;
use super::named::policy as named;
use super::revision::RevisionState;
use super::{PreviewInput, says_the_same};
use crate::core::assignment::holding::HoldingView;
use crate::core::cidr::RangeSet;
use crate::core::compile;
use crate::core::escape::EscapedText;
use crate::core::evaluation::NodeInput;
use crate::core::labels::Labels;
use crate::core::liveness::LivenessView;
use crate::core::name::NodeName;
use crate::core::networks;
use crate::core::placement::ExitKey;
use crate::core::plan::unified_diff;
use crate::core::policy::config::Config;
use crate::core::policy::node_index::NodeLabelsIndex;
use crate::core::policy::{PolicyId, PolicySet};
use crate::core::state::NodeState;
use crate::core::state::nft::AddressFamily;
use crate::core::text::counted;

/// The changes of one node, or of one that represents others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeChange {
    /// The node.
    pub node: NodeName,
    /// Nodes with the same changes.
    pub alike: Vec<NodeName>,
    /// A short description.
    pub title: EscapedText,
    /// Hunks of a unified diff; empty if it is not shown.
    pub diff: String,
    /// Lines left out of the diff.
    pub cut: usize,
}

/// All nodes that change.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeChanges {
    /// How many nodes there are.
    pub total: usize,
    /// How many of them change.
    pub changed: usize,
    /// How many get other labels.
    pub relabelled: usize,
    /// Those that are shown: gateways first, then those with most pods that move.
    pub shown: Vec<NodeChange>,
    /// Nodes with changes of their own that are not shown.
    pub more: Vec<NodeName>,
}

/// A node's part in the change.
#[derive(Default)]
struct Role {
    /// Labels that are added or changed, and labels that are removed.
    labels: (Labels, Labels),
    /// Policies that it is a gateway of, with their exits: added, unchanged, removed.
    serves: [BTreeSet<Served>; 3],
    /// Whether exits are added or removed.
    exits_change: bool,
    /// Classes of its pods whose state changes.
    classes: usize,
    moved: usize,
}

/// A policy, and its exit that a gateway serves.
type Served = (PolicyId, ExitKey);

/// Finds the nodes that change, and the exact changes of `limit` of them.
pub(super) fn compare(
    input: &PreviewInput<'_>,
    before: &RevisionState<'_>,
    after: &RevisionState<'_>,
    moves: &PodMoves,
) -> NodeChanges {
    let mut roles = roles(input, before, after, moves);
    let everywhere = Everywhere::of(before).difference(&Everywhere::of(after));
    let total = input.facts.nodes.len();
    let changed = if everywhere.is_some() { total } else { roles.len() };
    let relabelled = roles.values().filter(|role| role.labels != Default::default()).count();
    let mut nodes = NodeChanges { total, changed, relabelled, ..NodeChanges::default() };
    let moved: BTreeSet<_> = moves.moves.iter().flat_map(|one| &one.pods).collect();
    let mut order: Vec<NodeName> = roles.keys().cloned().collect();
    order.sort_by_key(|name| {
        let role = &roles[name];
        (!role.exits_change && role.labels == Default::default(), Reverse(role.moved), name.clone())
    });
    let own: BTreeSet<NodeName> = order.iter().cloned().collect();
    let shown = order.len().min(input.limits.nodes);
    nodes.more = order.split_off(shown);
    for name in order {
        let role = roles.remove(&name).unwrap_or_default();
        let title = title(input, &role, moved.len());
        nodes.shown.push(change(input, before, after, &name, title, Vec::new()));
    }
    if let Some(what) = everywhere {
        let others: Vec<NodeName> = input.facts.nodes.keys().filter(|name| !own.contains(name)).cloned().collect();
        if let Some((first, alike)) = others.split_first() {
            nodes.shown.push(change(input, before, after, first, EscapedText::new().words(what), alike.to_vec()));
        }
    }
    // A change without a difference in the kernel does not count.
    let idle =
        nodes.shown.iter().filter(|shown| shown.diff.is_empty()).map(|shown| shown.alike.len() + 1).sum::<usize>();
    nodes.changed -= idle;
    nodes.shown.retain(|shown| !shown.diff.is_empty());
    nodes
}

/// The destinations that each exit of a gateway lets out.
fn let_out(served: &BTreeSet<Served>, set: &PolicySet) -> BTreeMap<ExitKey, RangeSet> {
    let mut policies: BTreeMap<ExitKey, BTreeSet<PolicyId>> = BTreeMap::new();
    for (policy, exit) in served {
        policies.entry(exit.clone()).or_default().insert(policy.clone());
    }
    policies.into_iter().map(|(exit, policies)| (exit, compile::allowed(set, &policies))).collect()
}

fn roles(
    input: &PreviewInput<'_>,
    before: &RevisionState<'_>,
    after: &RevisionState<'_>,
    moves: &PodMoves,
) -> BTreeMap<NodeName, Role> {
    let mut roles: BTreeMap<NodeName, Role> = BTreeMap::new();
    let labels = [input.before, input.after].map(NodeLabelsIndex::new);
    for (name, node) in &input.facts.nodes {
        let [old, new] = labels.each_ref().map(|documents| documents.labels_of(name, &node.labels));
        if old != new {
            let only = |of: &Labels, other: &Labels| -> Labels {
                let differ = of.iter().filter(|(key, value)| other.get(*key) != Some(value));
                differ.map(|(key, value)| (key.clone(), value.clone())).collect()
            };
            let role = roles.entry(name.clone()).or_default();
            role.labels = (only(&new, &old), only(&old, &new));
            role.labels.1.retain(|key, _| !new.contains_key(key));
        }
    }
    let (old, new) = (served(before), served(after));
    let exits = |of: &BTreeSet<Served>| of.iter().map(|(_, exit)| exit.clone()).collect::<BTreeSet<_>>();
    for name in old.keys().chain(new.keys()).collect::<BTreeSet<_>>() {
        let none = BTreeSet::new();
        let (old, new) = (old.get(name).unwrap_or(&none), new.get(name).unwrap_or(&none));
        // A gateway's rules also hold the destinations of each exit.
        if let_out(old, input.before) != let_out(new, input.after) {
            let role = roles.entry((*name).clone()).or_default();
            role.exits_change = exits(old) != exits(new);
            role.serves = [new - old, old & new, old - new];
        }
    }
    for (name, classes) in &moves.classes {
        let role = roles.entry(name.clone()).or_default();
        role.classes = classes.len();
        role.moved = moves.moved.get(name).copied().unwrap_or_default();
    }
    roles
}

/// The exits that each gateway serves.
fn served(world: &RevisionState<'_>) -> BTreeMap<NodeName, BTreeSet<Served>> {
    let mut served: BTreeMap<NodeName, BTreeSet<Served>> = BTreeMap::new();
    for (policy, placed) in &world.placement.policies {
        for exit in &placed.exits {
            served.entry(exit.gateway.clone()).or_default().insert((policy.clone(), exit.clone()));
        }
    }
    served
}

/// Inputs that affect every node, whatever pods it has.
#[derive(PartialEq, Eq)]
struct Everywhere {
    /// Destinations that some policy names: packets of a pod that is not known yet are dropped there. None: no policy
    /// is active.
    guarded: Option<RangeSet>,
    families: BTreeSet<AddressFamily>,
    never_steered: RangeSet,
    config: Option<Config>,
}

impl Everywhere {
    fn of(world: &RevisionState<'_>) -> Self {
        let destinations = networks::destinations(world.set, &world.placement);
        let active = !world.placement.policies.is_empty();
        let Config { pod_cidrs, service_cidrs, exclusions, range, .. } = world.set.config.clone();
        Self {
            guarded: active.then(|| networks::guarded(world.set, &world.placement)),
            families: destinations.map(|net| AddressFamily::of(net.addr())).collect(),
            never_steered: if active { world.never_steered.clone() } else { RangeSet::default() },
            // Only the settings that reach a kernel.
            config: active.then(|| Config { pod_cidrs, service_cidrs, exclusions, range, ..Config::default() }),
        }
    }

    /// A short description of what changes for every node.
    fn difference(&self, after: &Self) -> Option<&'static str> {
        match (&self.guarded, &after.guarded) {
            _ if self == after => None,
            (None, Some(_)) => Some("gets Egret's tables, which hold back what nobody has classified"),
            (Some(_), None) => Some("Egret's tables go"),
            _ if self.config != after.config => Some("the settings of egret.yaml for nodes change"),
            _ if self.never_steered != after.never_steered => Some("the list of the cluster's own networks changes"),
            _ => Some("only the list of destinations that policies name changes"),
        }
    }
}

fn title(input: &PreviewInput<'_>, role: &Role, moved: usize) -> EscapedText {
    let [comes, stays, goes] = &role.serves;
    // The node is named elsewhere.
    let list = |phrase: EscapedText, served: &BTreeSet<Served>| {
        served.iter().enumerate().fold(phrase, |phrase, (position, (policy, exit))| {
            let joint = if position == 0 { "" } else { ", " };
            let phrase = phrase.words(joint).join(named(input, policy)).words(" (");
            let egress = exit.egress.to_string();
            phrase.name(egress.strip_prefix("dev ").unwrap_or(&egress)).words(")")
        })
    };
    let mut parts: Vec<EscapedText> = Vec::new();
    if !comes.is_empty() {
        let what =
            if stays.is_empty() && goes.is_empty() { "becomes a gateway, of " } else { "becomes the gateway of " };
        parts.push(list(EscapedText::new().words(what), comes));
    }
    if !goes.is_empty() {
        let none = stays.is_empty() && comes.is_empty();
        let what = if none { "is no gateway any more; it was that of " } else { "is no longer the gateway of " };
        parts.push(list(EscapedText::new().words(what), goes));
    }
    if !stays.is_empty() {
        parts.push(list(EscapedText::new().words("stays the gateway of "), stays));
    }
    let pair = |(key, value): (&String, &String)| format!("{key}={value}");
    if !role.labels.0.is_empty() {
        parts.push(EscapedText::new().words("gets ").names(role.labels.0.iter().map(pair)));
    }
    if !role.labels.1.is_empty() {
        parts.push(EscapedText::new().words("loses ").names(role.labels.1.iter().map(pair)));
    }
    if role.moved > 0 {
        let here = if role.moved == moved { "all".to_owned() } else { role.moved.to_string() };
        let run = if role.moved == 1 { "runs" } else { "run" };
        parts.push(EscapedText::new().words(format!("{here} of the {} {run} here", counted(moved, "pod"))));
    } else if role.classes > 0 && parts.is_empty() {
        parts.push(EscapedText::new().words("holds its pods' policies in another form"));
    }
    let mut title = EscapedText::new();
    for (position, part) in parts.into_iter().enumerate() {
        title = if position > 0 { title.words("; ").join(part) } else { part };
    }
    title
}

/// Compiles both sides for one node.
fn change(
    input: &PreviewInput<'_>,
    before: &RevisionState<'_>,
    after: &RevisionState<'_>,
    node: &NodeName,
    title: EscapedText,
    alike: Vec<NodeName>,
) -> NodeChange {
    let exits = || [before, after].into_iter().flat_map(|world| world.placement.exits.keys());
    let network = match input.host_networks.get(node) {
        Some(host_network) => AssumedNetwork::known(host_network),
        None => AssumedNetwork::assumed(exits().filter(|exit| exit.gateway == *node)),
    };
    let state = |world: &RevisionState<'_>, observed: &NodeState| {
        let RevisionState { set, facts, placement, .. } = world;
        let (host_network, refused) = (&network.host_network, compile::RefusedParts::NOTHING);
        let (liveness, holding) = (LivenessView::NOTHING, HoldingView::PLACED);
        NodeInput { node, set, facts, host_network, observed, refused, liveness, holding }.compile(placement).desired
    };
    let old = state(before, &NodeState::default());
    let new = state(after, &old);
    let whole = unified_diff(&old, &new, "", "");
    // The first two lines are the file names, which carry no information here.
    let lines: Vec<&str> = whole.lines().skip(2).collect();
    let shown = lines.len().min(input.limits.lines);
    let diff: String = lines[..shown].iter().flat_map(|line| [*line, "\n"]).collect();
    NodeChange { node: node.clone(), alike, title, diff: network.named(&diff), cut: lines.len() - shown }
}

/// Names of policies that differ.
pub(super) fn changed_policies(before: &PolicySet, after: &PolicySet) -> super::PolicyDifference {
    let mut policies = super::PolicyDifference::default();
    for (id, policy) in &after.policies {
        match before.policies.get(id) {
            None => policies.added.push(id.clone()),
            Some(earlier) if !says_the_same(earlier, policy) => policies.changed.push(id.clone()),
            Some(_) => {}
        }
    }
    let gone = before.policies.keys().filter(|id| !after.policies.contains_key(id));
    policies.removed = gone.cloned().collect();
    policies
}
