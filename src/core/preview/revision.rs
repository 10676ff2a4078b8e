//! One side of a preview: a revision's policies applied to the cluster's facts, with the egress path of each pod.
//!
//! Not here: the comparison of two sides (see `moves`), and kernel state (see `nodes`).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use jiff::Timestamp;

use crate::core::cidr::{self, AddressRange, RangeSet};
use crate::core::compile::{Disposition, targets, way};
use crate::core::facts::{Facts, Pod, PodName};
use crate::core::finding::Finding;
use crate::core::name::NodeName;
use crate::core::networks::OwnNetworks;
use crate::core::placement::{Placement, place};
use crate::core::policy::members::Members;
use crate::core::policy::node_index::{NodeIndex, NodeLabelsIndex};
use crate::core::policy::{Policy, PolicyId, PolicySet};

/// A pod's policies with the disposition of each: pods with equal keys are alike.
pub(crate) type DispositionKey = Vec<(PolicyId, Disposition)>;

/// The decision for a destination range: the disposition, the deciding policy, and whether open connections have to
/// follow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct EgressPath {
    pub(crate) way: Disposition,
    pub(crate) policy: PolicyId,
    pub(crate) reset: bool,
}

/// Whether the policy of a decision is passed through as a whole, for lack of a gateway.
pub(crate) fn passes(key: &DispositionKey, path: &EgressPath) -> bool {
    key.iter().any(|(id, way)| *id == path.policy && *way == Disposition::Own)
}

/// A revision's policies applied to the cluster.
pub(crate) struct RevisionState<'a> {
    pub(crate) set: &'a PolicySet,
    /// The cluster's facts, with the labels that the revision sets.
    pub(crate) facts: Facts,
    pub(crate) placement: Placement,
    /// Destinations that are never steered, on nodes whose pods are all in known networks.
    pub(crate) never_steered: RangeSet,
    /// The same for each of the other nodes.
    never_steered_on: BTreeMap<NodeName, RangeSet>,
}

impl<'a> RevisionState<'a> {
    /// The state once every node has the set's labels. Labels that `earlier` set and `set` does not are removed.
    pub(crate) fn new(set: &'a PolicySet, earlier: &PolicySet, facts: &Facts, now: Timestamp) -> Self {
        let mut facts = facts.clone();
        let (old, new) = (NodeLabelsIndex::new(earlier), NodeLabelsIndex::new(set));
        for (name, node) in &mut facts.nodes {
            let (old, new) = (old.labels_of(name, &node.labels), new.labels_of(name, &node.labels));
            node.labels.retain(|key, value| new.contains_key(key) || old.get(key) != Some(value));
            node.labels.extend(new);
        }
        let placement = place(set, &facts, now);
        let networks = OwnNetworks::of(&set.config, &facts);
        let (never_steered, never_steered_on) = (networks.never_steered(&[]), with_pods_outside(&networks, &facts));
        Self { set, facts, placement, never_steered, never_steered_on }
    }

    /// An index of the active policies.
    pub(crate) fn members(&self) -> Members<'_> {
        let placed = self.set.policies.values().filter(|policy| self.placement.policies.contains_key(&policy.id));
        Members::new(placed, &self.facts)
    }

    /// A pod's policies and the disposition of each.
    pub(crate) fn key(&self, index: &Members<'_>, name: &PodName, pod: &Pod) -> DispositionKey {
        let policies = index.of(name, pod, &self.facts).into_iter();
        policies.map(|id| (id.clone(), way(&self.placement.policies[&id], name))).collect()
    }

    /// The decisions for pods with a key. Destinations in none of the ranges are not steered.
    pub(crate) fn lanes(
        &self,
        key: &DispositionKey,
        overlaps: &mut BTreeSet<Finding>,
    ) -> Vec<(AddressRange, EgressPath)> {
        let entries = targets(self.set, key, overlaps).into_iter().map(|(net, rank, target)| {
            let lane = EgressPath { way: target.way, policy: rank.1.clone(), reset: target.reset };
            (net, rank, lane)
        });
        let entries: Vec<_> = entries.collect();
        let flat = cidr::flatten(&entries);
        flat.v4.into_iter().chain(flat.v6).collect()
    }

    /// Whether a node excludes more destinations than others.
    pub(crate) fn is_special(&self, node: &NodeName) -> bool {
        self.never_steered_on.contains_key(node)
    }

    /// Destinations that a node never steers; without a node, those that no node steers.
    pub(crate) fn never_steered_on(&self, node: Option<&NodeName>) -> &RangeSet {
        node.and_then(|node| self.never_steered_on.get(node)).unwrap_or(&self.never_steered)
    }

    /// The lanes without the destinations that a node never steers.
    pub(crate) fn steered(
        &self,
        lanes: &[(AddressRange, EgressPath)],
        node: Option<&NodeName>,
    ) -> Vec<(AddressRange, EgressPath)> {
        let parts = |(range, lane): &(AddressRange, EgressPath)| {
            let parts = self.steered_part(*range, node).ranges().to_vec();
            parts.into_iter().map(|part| (part, lane.clone())).collect::<Vec<_>>()
        };
        lanes.iter().flat_map(parts).collect()
    }

    /// A range without the destinations that a node never steers.
    pub(crate) fn steered_part(&self, range: AddressRange, node: Option<&NodeName>) -> RangeSet {
        let inside = self.never_steered_on(node).ranges();
        let begins = inside.partition_point(|hole| hole.last() < range.first());
        let holes = inside[begins..].iter().take_while(|hole| hole.first() <= range.last()).copied();
        [range].into_iter().collect::<RangeSet>().subtract(&holes.collect())
    }

    /// Whether a node steers anything in a range.
    pub(crate) fn is_steered(&self, range: AddressRange, node: Option<&NodeName>) -> bool {
        let inside = self.never_steered_on(node).ranges();
        let begins = inside.partition_point(|hole| hole.last() < range.first());
        inside.get(begins).is_none_or(|hole| range.first() < hole.first() || hole.last() < range.last())
    }

    /// An index of the nodes that could be gateways, of those that `wanted` names.
    pub(crate) fn candidates(&self, wanted: impl Fn(&NodeName) -> bool) -> NodeIndex<'_> {
        let nodes = self.facts.nodes.iter().filter(|(name, node)| node.unfit().is_none() && wanted(name));
        NodeIndex::new(self.set, nodes.map(|(name, node)| (name, &node.labels)))
    }
}

/// The nodes of an index that could be a gateway of a policy, `most` at most.
pub(crate) fn candidates_of<'a>(index: &NodeIndex<'a>, policy: &Policy, most: usize) -> BTreeSet<&'a NodeName> {
    let mut candidates = BTreeSet::new();
    for node in policy.gateways.iter().flat_map(|spec| index.answering(&spec.node)) {
        candidates.insert(node);
        if candidates.len() == most {
            break;
        }
    }
    candidates
}

/// The destinations that nodes with pods outside of every known network never steer: they differ by these pods'
/// addresses.
fn with_pods_outside(networks: &OwnNetworks, facts: &Facts) -> BTreeMap<NodeName, RangeSet> {
    let mut addresses: BTreeMap<&NodeName, Vec<IpAddr>> = BTreeMap::new();
    for pod in facts.pods.values().filter(|pod| pod.routable()) {
        let outside = networks.outside(pod.addresses.iter().copied());
        if let Some(node) = pod.node.as_ref().filter(|_| !outside.is_empty()) {
            addresses.entry(node).or_default().extend(outside);
        }
    }
    addresses.into_iter().map(|(node, outside)| (node.clone(), networks.never_steered(&outside))).collect()
}
