//! Groups the pods of a node: pods with the same list of policies share one map of destinations.
//!
//! A pod is one element that leads to its group; a group has one interval map that leads to exits. So the state grows
//! with pods plus destinations, not with their product. Not here: nftables (`table`) and ids (`exit_ids`).

use std::cmp::Reverse;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::net::IpAddr;

use ipnet::IpNet;

use super::CompileInput;
use crate::core::cidr::{self, AddressRange};
use crate::core::facts::{Pod, PodName};
use crate::core::finding::Finding;
use crate::core::placement::{ExitKey, PlacedPolicy};
use crate::core::policy::members::Members;
use crate::core::policy::{ExistingConnections, OnNoGateway, Policy, PolicyId, PolicySet};
use crate::core::state::net::fnv1a;

/// What happens to a packet.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Disposition {
    /// It leaves through an exit.
    Exit(ExitKey),
    /// It is dropped: no gateway is fit.
    Drop,
    /// It is not steered: it is excluded, or passed through for lack of a gateway.
    Own,
}

/// What happens to packets to a range of addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteTarget {
    /// The disposition.
    pub way: Disposition,
    /// Whether live connections are steered too, whatever exit they began on.
    pub reset: bool,
    /// The policy with this destination, if packets leave through an exit or are dropped: its chain counts them.
    pub policy: Option<PolicyId>,
}

/// Pods with the same policies and dispositions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Group {
    /// Derived from the policies and dispositions, so that it stays the same when other groups come and go.
    pub name: String,
    /// Its policies, each with its disposition.
    pub policies: Vec<(PolicyId, Disposition)>,
    /// Its pods.
    pub pods: Vec<PodName>,
    /// Destinations, disjoint and sorted, IPv4 first. Packets to other addresses are not steered.
    pub targets: Vec<(AddressRange, RouteTarget)>,
}

/// The pods of one node, in groups.
#[derive(Debug, Default)]
pub(super) struct Grouping {
    /// Groups in order of name.
    pub groups: Vec<Group>,
    /// Every address of a pod of this node, with the name of its group; none: no policy selects it.
    pub addresses: BTreeMap<IpAddr, Option<String>>,
    /// The pod of each pod address on this node.
    pub holders: BTreeMap<IpAddr, PodName>,
    /// Members on this node by policy.
    pub members: BTreeMap<PolicyId, Vec<PodName>>,
    /// Overlapping policies, and addresses that two pods claim.
    pub findings: Vec<Finding>,
}

/// The pod that owns an address. Of two pods with one address it is the one that is not being deleted: its address was
/// reassigned. Of two that are both running, or both being deleted, the one with the later name.
struct Owner<'a> {
    name: &'a PodName,
    terminating: bool,
    group: Option<String>,
}

/// Sorts the node's pods into groups.
pub(super) fn gather(input: &CompileInput<'_>) -> Grouping {
    let mut grouping = Grouping::default();
    let placed = input.set.policies.values().filter(|policy| input.placement.policies.contains_key(&policy.id));
    let index = Members::new(placed, input.facts);
    let mut groups: BTreeMap<Vec<(PolicyId, Disposition)>, Vec<PodName>> = BTreeMap::new();
    let mut owners: BTreeMap<IpAddr, Owner<'_>> = BTreeMap::new();
    for (name, pod) in local_pods(input) {
        let policies: Vec<(PolicyId, Disposition)> = index
            .of(name, pod, input.facts)
            .into_iter()
            .map(|id| (id.clone(), way(&input.placement.policies[&id], name)))
            .collect();
        for (policy, _) in &policies {
            grouping.members.entry(policy.clone()).or_default().push(name.clone());
        }
        let group = (!policies.is_empty()).then(|| group_name(&policies));
        for address in pod.addresses.iter().collect::<BTreeSet<_>>() {
            let owner = Owner { name, terminating: pod.terminating, group: group.clone() };
            match owners.entry(*address) {
                Entry::Vacant(vacant) => {
                    vacant.insert(owner);
                }
                Entry::Occupied(mut other) => {
                    if !other.get().terminating && !owner.terminating {
                        let message = format!("has the address {address} of {} too; {name} counts", other.get().name);
                        grouping.findings.push(Finding::new("address-twice", name, message));
                    }
                    // Pods are iterated in order of name.
                    if other.get().terminating || !owner.terminating {
                        other.insert(owner);
                    }
                }
            }
        }
        if !policies.is_empty() {
            groups.entry(policies).or_default().push(name.clone());
        }
    }
    grouping.holders = owners.iter().map(|(address, owner)| (*address, owner.name.clone())).collect();
    grouping.addresses = owners.into_iter().map(|(address, owner)| (address, owner.group)).collect();
    let mut overlaps = BTreeSet::new();
    for (policies, pods) in groups {
        let flat = cidr::flatten(&targets(input.set, &policies, &mut overlaps));
        let targets = flat.v4.into_iter().chain(flat.v6).collect();
        grouping.groups.push(Group { name: group_name(&policies), policies, pods, targets });
    }
    grouping.groups.sort_by(|a, b| a.name.cmp(&b.name));
    grouping.findings.extend(overlaps);
    grouping
}

/// The pods of this node with a network namespace of their own (no `hostNetwork`).
pub(super) fn local_pods<'a>(input: &CompileInput<'a>) -> impl Iterator<Item = (&'a PodName, &'a Pod)> {
    let node = input.node;
    input.facts.pods.iter().filter(move |(_, pod)| pod.routable() && pod.node.as_ref() == Some(node))
}

/// The disposition of a policy's packets from one of its members.
pub(crate) fn way(placed: &PlacedPolicy, pod: &PodName) -> Disposition {
    match (placed.exit_of(pod), placed.on_no_gateway) {
        (Some(exit), _) => Disposition::Exit(exit.clone()),
        (None, OnNoGateway::Drop) => Disposition::Drop,
        (None, OnNoGateway::Passthrough) => Disposition::Own,
    }
}

/// Twelve hexadecimal digits: the chance that two of a node's thousand groups collide is one in 500 million.
fn group_name(policies: &[(PolicyId, Disposition)]) -> String {
    let mut text = String::new();
    for (policy, way) in policies {
        // Writing to a string cannot fail.
        let _ = write!(text, "{:?}/{}=", policy.kind, policy.name);
        match way {
            Disposition::Exit(exit) => text.push_str(&exit.to_string()),
            Disposition::Drop => text.push_str("!drop"),
            Disposition::Own => text.push_str("!own"),
        }
        text.push('\n');
    }
    format!("{:012x}", fnv1a(text.as_bytes()) & 0xffff_ffff_ffff)
}

/// Precedence between equal prefixes: the higher priority, then the name that comes first, and within one policy the
/// exclusion.
pub(crate) type Rank = (Reverse<i32>, PolicyId, bool);

/// The input of [`cidr::flatten`]: the longest prefix wins over all policies of a pod, destinations and exclusions alike.
pub(crate) fn targets(
    set: &PolicySet,
    policies: &[(PolicyId, Disposition)],
    overlaps: &mut BTreeSet<Finding>,
) -> Vec<(IpNet, Rank, RouteTarget)> {
    let mut entries: Vec<(IpNet, Rank, RouteTarget)> = Vec::new();
    let mut first_of: BTreeMap<IpNet, &Policy> = BTreeMap::new();
    for (id, way) in policies {
        let policy = &set.policies[id];
        let reset = policy.existing_connections == ExistingConnections::Reset;
        for net in &policy.destinations {
            note_overlap(&mut first_of, *net, policy, overlaps);
            let by = (*way != Disposition::Own).then(|| id.clone());
            let target = RouteTarget { way: way.clone(), reset, policy: by };
            entries.push((*net, (Reverse(policy.priority), id.clone(), true), target));
        }
        for net in &policy.excluded {
            let target = RouteTarget { way: Disposition::Own, reset: false, policy: None };
            entries.push((*net, (Reverse(policy.priority), id.clone(), false), target));
        }
    }
    entries
}

fn note_overlap<'a>(
    first_of: &mut BTreeMap<IpNet, &'a Policy>,
    net: IpNet,
    policy: &'a Policy,
    overlaps: &mut BTreeSet<Finding>,
) {
    let Some(other) = first_of.insert(net, policy) else { return };
    if other.id == policy.id {
        return;
    }
    let rank = |policy: &Policy| (Reverse(policy.priority), policy.id.clone());
    let (winner, loser) = if rank(other) < rank(policy) { (other, policy) } else { (policy, other) };
    first_of.insert(net, winner);
    let why = if winner.priority > loser.priority { "its priority is higher" } else { "its name comes first" };
    let message = format!("{net} is a destination of {} too, which wins: {why} ({})", winner.id, winner.origin);
    overlaps.insert(Finding::new("overlap", &loser.id, message).hint("a priority says which is meant to win"));
}
