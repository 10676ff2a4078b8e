//! One side of a preview: what a revision makes of a cluster, and the way out of each of its pods.
//!
//! The other side is absent (`moves`), and so are kernels (`nodes`).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use jiff::Timestamp;

use crate::core::cidr::{self, AddressRange, RangeSet};
use crate::core::compile::{Disposition, targets, way};
use crate::core::facts::{Facts, Node, Pod, PodName};
use crate::core::finding::Finding;
use crate::core::labels::Labels;
use crate::core::name::NodeName;
use crate::core::networks::OwnNetworks;
use crate::core::placement::{Members, Placement, place};
use crate::core::policy::{GatewaySpec, Policy, PolicyId, PolicySet};

/// A pod's policies and where each leads: pods with the same are alike.
pub(super) type DispositionKey = Vec<(PolicyId, Disposition)>;

/// Where packets to a range go: the way, by which policy, and whether live connections are to follow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct EgressPath {
    pub(super) way: Disposition,
    pub(super) policy: PolicyId,
    pub(super) reset: bool,
}

/// A revision's policies on the cluster.
pub(super) struct RevisionState<'a> {
    pub(super) set: &'a PolicySet,
    /// The cluster with the labels that the revision gives it.
    pub(super) facts: Facts,
    pub(super) placement: Placement,
    /// Destinations that are never steered, on nodes whose pods are all in known networks.
    pub(super) never_steered: RangeSet,
    /// The same on each of the other nodes.
    never_steered_on: BTreeMap<NodeName, RangeSet>,
}

impl<'a> RevisionState<'a> {
    /// As a set makes it once every node has its labels. Labels that `earlier` set and `set` does not are gone.
    pub(super) fn new(set: &'a PolicySet, earlier: &PolicySet, facts: &Facts, now: Timestamp) -> Self {
        let mut facts = facts.clone();
        for (name, node) in &mut facts.nodes {
            node.labels = labels(name, node, earlier, set);
        }
        let placement = place(set, &facts, now);
        let networks = OwnNetworks::of(&set.config, &facts);
        let (never_steered, never_steered_on) = (networks.never_steered(&[]), with_pods_outside(&networks, &facts));
        Self { set, facts, placement, never_steered, never_steered_on }
    }

    /// An index of the policies that are in force.
    pub(super) fn members(&self) -> Members<'a> {
        let set: &'a PolicySet = self.set;
        Members::new(set.policies.values().filter(|policy| self.placement.policies.contains_key(&policy.id)))
    }

    /// A pod's policies and where each leads.
    pub(super) fn key(&self, index: &Members<'_>, name: &PodName, pod: &Pod) -> DispositionKey {
        let policies = index.of(name, pod, &self.facts).into_iter();
        policies.map(|id| (id.clone(), way(&self.placement, &id, name))).collect()
    }

    /// Where packets of pods with a key go. Ranges that are in none go their own way.
    pub(super) fn lanes(
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

    /// Whether a node leaves more alone than others do.
    pub(super) fn is_special(&self, node: &NodeName) -> bool {
        self.never_steered_on.contains_key(node)
    }

    /// Destinations that a node never steers; of no node in particular, those that none does.
    pub(super) fn never_steered_on(&self, node: Option<&NodeName>) -> &RangeSet {
        node.and_then(|node| self.never_steered_on.get(node)).unwrap_or(&self.never_steered)
    }

    /// The lanes without what is never steered on a node.
    pub(super) fn steered(
        &self,
        lanes: &[(AddressRange, EgressPath)],
        node: Option<&NodeName>,
    ) -> Vec<(AddressRange, EgressPath)> {
        let inside = self.never_steered_on(node).ranges();
        let mut left = Vec::with_capacity(lanes.len());
        for (range, lane) in lanes {
            let begins = inside.partition_point(|hole| hole.last() < range.first());
            let holes = inside[begins..].iter().take_while(|hole| hole.first() <= range.last()).copied();
            let rest = [*range].into_iter().collect::<RangeSet>().subtract(&holes.collect());
            left.extend(rest.ranges().iter().map(|range| (*range, lane.clone())));
        }
        left
    }

    /// Whether a node could answer for a policy.
    pub(super) fn is_candidate(&self, policy: &Policy, node: &NodeName) -> bool {
        let of = |spec: &GatewaySpec, known: &Node| self.set.may_answer(&spec.node, node, &known.labels);
        let known = self.facts.nodes.get(node).filter(|known| known.unfit().is_none());
        known.is_some_and(|known| policy.gateways.iter().any(|spec| of(spec, known)))
    }

    /// How many nodes could answer for a policy; counting ends at two.
    pub(super) fn candidates(&self, policy: &Policy) -> usize {
        self.facts.nodes.keys().filter(|node| self.is_candidate(policy, node)).take(2).count()
    }
}

/// The labels a node has once a revision is in force: what the one before set and this one does not is taken off again.
pub(super) fn labels(name: &NodeName, node: &Node, earlier: &PolicySet, set: &PolicySet) -> Labels {
    let mut labels = node.labels.clone();
    let old = earlier.labels_of(name, &node.labels);
    let new = set.labels_of(name, &node.labels);
    labels.retain(|key, value| new.contains_key(key) || old.get(key) != Some(value));
    labels.extend(new);
    labels
}

/// What nodes with pods outside of every known network never steer: it differs from node to node by these pods' addresses.
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
