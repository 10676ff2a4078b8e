//! Finds the pods that change their egress path: from which address to which, towards which destinations.
//!
//! Pods with the same policies on both sides are compared once. Not here: open connections (see `outcome`); they stay
//! on their path if the policy says `Keep`.

use std::collections::{BTreeMap, BTreeSet};

use super::revision::{DispositionKey, EgressPath, RevisionState};
use crate::core::cidr::{self, AddressRange};
use crate::core::compile::Disposition;
use crate::core::facts::{Facts, PodName};
use crate::core::finding::Finding;
use crate::core::name::NodeName;
use crate::core::placement::ExitKey;
use crate::core::policy::PolicyId;

/// Pods of one policy and namespace that change to the same path towards the same destinations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Move {
    /// The policy that decides after the change; if none does, the one that decided before.
    pub policy: PolicyId,
    /// The policy that decides now, if any.
    pub was: Option<PolicyId>,
    /// The pods' namespace.
    pub namespace: String,
    /// Their path now.
    pub from: Disposition,
    /// Their path after the change.
    pub to: Disposition,
    /// Whether open connections are removed from their old path.
    pub reset: bool,
    /// The destinations; disjoint, sorted.
    pub towards: Vec<AddressRange>,
    /// The pods.
    pub pods: BTreeSet<PodName>,
}

/// The results for all pods.
#[derive(Debug, Default)]
pub(super) struct PodMoves {
    pub(super) moves: Vec<Move>,
    /// Members by policy, before and after.
    pub(super) members: BTreeMap<PolicyId, (usize, usize)>,
    /// Members after the change by policy and exit.
    pub(super) carried: BTreeMap<(PolicyId, ExitKey), usize>,
    /// Pods that some policy selects, before and after.
    pub(super) selected: (usize, usize),
    /// Pods that a policy still selects, but for which other policies now decide all that it did.
    pub(super) outdone: BTreeMap<PolicyId, usize>,
    /// Overlaps after the change that were not there before.
    pub(super) overlaps: BTreeSet<Finding>,
    /// For each node, the numbers of the pod classes whose kernel state changes.
    pub(super) classes: BTreeMap<NodeName, BTreeSet<usize>>,
    /// For each node, how many of its pods change their path.
    pub(super) moved: BTreeMap<NodeName, usize>,
}

/// What all pods of one comparison share: the policies and dispositions on both sides, and the node if it excludes
/// other destinations than the rest.
type PodKind<'a> = (DispositionKey, DispositionKey, Option<&'a NodeName>);

/// The result of one comparison.
struct Difference {
    /// Whether their kernel state changes.
    kernel: bool,
    changes: Vec<Change>,
    /// Policies that still select the pods but no longer decide anything for them.
    outdone: Vec<PolicyId>,
}

/// What the pods of one move share: both policies, the namespace, the old and the new path, whether connections are
/// reset, the destinations.
type Alike = ((PolicyId, Option<PolicyId>), String, Disposition, Disposition, bool, Vec<AddressRange>);

struct Change {
    policy: PolicyId,
    was: Option<PolicyId>,
    from: Disposition,
    to: Disposition,
    reset: bool,
    towards: Vec<AddressRange>,
}

/// Compares every pod on both sides.
pub(super) fn compare(before: &RevisionState<'_>, after: &RevisionState<'_>, facts: &Facts) -> PodMoves {
    let mut result = PodMoves::default();
    let mut kinds: BTreeMap<PodKind<'_>, Vec<&PodName>> = BTreeMap::new();
    let (old, new) = (before.members(), after.members());
    for (name, pod) in facts.pods.iter().filter(|(_, pod)| pod.routable()) {
        let Some(node) = &pod.node else { continue };
        let keys = (before.key(&old, name, pod), after.key(&new, name, pod));
        if !keys.0.is_empty() || !keys.1.is_empty() {
            let special = Some(node).filter(|node| before.is_special(node) || after.is_special(node));
            kinds.entry((keys.0, keys.1, special)).or_default().push(name);
        }
    }
    let unchanged = unchanged(before, after);
    // Of nodes that exclude no more than all do; there are thousands of ranges.
    let same_everywhere = before.never_steered == after.never_steered;
    let mut overlaps = (BTreeSet::new(), BTreeSet::new());
    let mut moves: BTreeMap<Alike, BTreeSet<PodName>> = BTreeMap::new();
    for (class, ((old, new, node), pods)) in kinds.into_iter().enumerate() {
        result.count(&old, &new, pods.len());
        let same_networks =
            node.map_or(same_everywhere, |_| before.never_steered_on(node) == after.never_steered_on(node));
        if same_networks && old == new && old.iter().all(|(id, _)| unchanged.contains(id)) {
            continue;
        }
        let difference = difference(before, after, (&old, &new, node, same_networks), &mut overlaps);
        for policy in &difference.outdone {
            *result.outdone.entry(policy.clone()).or_default() += pods.len();
        }
        for pod in &pods {
            let node = facts.pods[*pod].node.clone();
            if let Some(node) = node.filter(|_| difference.kernel) {
                *result.moved.entry(node.clone()).or_default() += usize::from(!difference.changes.is_empty());
                result.classes.entry(node).or_default().insert(class);
            }
        }
        // Once for each namespace, not for each pod: there may be thousands of destinations.
        for pods in pods.chunk_by(|one, other| one.namespace == other.namespace) {
            for change in &difference.changes {
                let Change { policy, was, from, to, reset, towards } = change;
                let policies = (policy.clone(), was.clone());
                let key = (policies, pods[0].namespace.clone(), from.clone(), to.clone(), *reset, towards.clone());
                moves.entry(key).or_default().extend(pods.iter().map(|pod| (*pod).clone()));
            }
        }
    }
    result.overlaps = overlaps.1.difference(&overlaps.0).cloned().collect();
    let moves = moves.into_iter().map(|(((policy, was), namespace, from, to, reset, towards), pods)| Move {
        policy,
        was,
        namespace,
        from,
        to,
        reset,
        towards,
        pods,
    });
    result.moves = moves.collect();
    // Moves with most pods come first. The sort is stable: equals stay in the order of names.
    result.moves.sort_by_key(|one| std::cmp::Reverse(one.pods.len()));
    result
}

impl PodMoves {
    fn count(&mut self, old: &DispositionKey, new: &DispositionKey, pods: usize) {
        for (policy, _) in old {
            self.members.entry(policy.clone()).or_default().0 += pods;
        }
        for (policy, way) in new {
            self.members.entry(policy.clone()).or_default().1 += pods;
            if let Disposition::Exit(exit) = way {
                *self.carried.entry((policy.clone(), exit.clone())).or_default() += pods;
            }
        }
        self.selected.0 += if old.is_empty() { 0 } else { pods };
        self.selected.1 += if new.is_empty() { 0 } else { pods };
    }

    /// How many pods a policy selects, before and after.
    pub(super) fn members_of(&self, policy: &PolicyId) -> (usize, usize) {
        self.members.get(policy).copied().unwrap_or_default()
    }
}

/// Policies with the same content on both sides, wherever they are in the repository.
fn unchanged(before: &RevisionState<'_>, after: &RevisionState<'_>) -> BTreeSet<PolicyId> {
    let same = after.set.policies.iter().filter(|(id, policy)| {
        before.set.policies.get(id).is_some_and(|earlier| super::says_the_same(earlier, policy))
    });
    same.map(|(id, _)| id.clone()).collect()
}

fn difference(
    before: &RevisionState<'_>,
    after: &RevisionState<'_>,
    (old, new, node, same_networks): (&DispositionKey, &DispositionKey, Option<&NodeName>, bool),
    overlaps: &mut (BTreeSet<Finding>, BTreeSet<Finding>),
) -> Difference {
    let (old_lanes, new_lanes) = (before.lanes(old, &mut overlaps.0), after.lanes(new, &mut overlaps.1));
    let kernel = old != new || old_lanes != new_lanes;
    let decide = |side: &RevisionState<'_>, lanes: &[(AddressRange, EgressPath)]| {
        let steered = lanes.iter().filter(|(range, _)| side.is_steered(*range, node));
        steered.map(|(_, lane)| lane.policy.clone()).collect::<BTreeSet<_>>()
    };
    let (did, does) = (decide(before, &old_lanes), decide(after, &new_lanes));
    // Where both sides leave out the same, it is left out of the few ranges that differ.
    let (old_lanes, new_lanes) = if same_networks {
        (old_lanes, new_lanes)
    } else {
        (before.steered(&old_lanes, node), after.steered(&new_lanes, node))
    };
    let mut changes: Vec<Change> = Vec::new();
    let mut places: BTreeMap<_, usize> = BTreeMap::new();
    for (range, was, is) in cidr::differences(&old_lanes, &new_lanes) {
        let was: Option<&EgressPath> = was.map(|index| &old_lanes[index].1);
        let is: Option<&EgressPath> = is.map(|index| &new_lanes[index].1);
        let way_of = |lane: Option<&EgressPath>| lane.map_or(Disposition::Own, |lane| lane.way.clone());
        let (from, to) = (way_of(was), way_of(is));
        let Some(decides) = is.or(was).filter(|_| from != to) else { continue };
        let parts = if same_networks { after.steered_part(range, node) } else { [range].into_iter().collect() };
        if parts.is_empty() {
            continue;
        }
        let reset = is.is_some_and(|lane| lane.reset);
        let (policy, was) = (decides.policy.clone(), was.map(|lane| lane.policy.clone()));
        let alike = (policy.clone(), was.clone(), from.clone(), to.clone(), reset);
        let place = *places.entry(alike).or_insert(changes.len());
        if place == changes.len() {
            changes.push(Change { policy, was, from, to, reset, towards: Vec::new() });
        }
        changes[place].towards.extend(parts.ranges());
    }
    let outdone = new.iter().map(|(id, _)| id).filter(|id| did.contains(id) && !does.contains(id)).cloned().collect();
    Difference { kernel, changes, outdone }
}
