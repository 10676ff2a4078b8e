//! The reverse questions: who leaves with an address, and whose an address is that a server has seen.
//!
//! Pods with the same policies are asked together. Not here: one pod and one destination (`verdict`).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use super::{Question, Situation, side};
use crate::core::cidr::{AddressRange, RangeSet};
use crate::core::compile::Disposition;
use crate::core::facts::PodName;
use crate::core::fate::{PacketFate, fate};
use crate::core::name::NodeName;
use crate::core::policy::{Origin, Policy, PolicyId};
use crate::core::preview::revision::{DispositionKey, passes};
use crate::core::text::counted;

/// What an address is used for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AddressUse {
    /// The policies whose members leave with it, or would.
    pub carried: Vec<Carried>,
    /// The nodes whose InternalIP it is: what is not steered there mostly leaves with it.
    pub nodes: Vec<NodeName>,
    /// The pod that has it.
    pub pod: Option<PodName>,
    /// Exits whose address is not known, each in words: they may have it.
    pub unknown: BTreeSet<String>,
}

/// Members of a policy that leave with an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Carried {
    /// The policy.
    pub policy: PolicyId,
    /// Its document.
    pub origin: Origin,
    /// The gateway.
    pub gateway: NodeName,
    /// The policy's destinations.
    pub destinations: Vec<IpNet>,
    /// Those of the address's family to which these pods do not leave with it: other policies have them, or the policy excludes them.
    pub except: Vec<AddressRange>,
    /// The pods, sorted.
    pub pods: Vec<PodName>,
}

/// Whose an address is that a server has seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// The egress address of a policy; whether the pod that was asked about is a member that leaves with it.
    Policy(Carried, bool),
    /// A node's own: the packets were not steered.
    Node(NodeName),
    /// A pod's own: the packets were neither steered nor translated.
    Pod(PodName),
    /// Of no known owner.
    Nobody,
}

/// Who leaves with an address.
pub fn leaving_as(address: IpAddr, situation: &Situation<'_>) -> AddressUse {
    let side = side(situation);
    let index = side.members();
    let mut classes: BTreeMap<DispositionKey, Vec<&PodName>> = BTreeMap::new();
    for (name, pod) in &side.facts.pods {
        let key = side.key(&index, name, pod);
        if !key.is_empty() {
            classes.entry(key).or_default().push(name);
        }
    }
    let mut carried: BTreeMap<Carriage, BTreeSet<PodName>> = BTreeMap::new();
    let mut unknown = BTreeSet::new();
    for (key, pods) in &classes {
        let mut taken: BTreeMap<(PolicyId, NodeName), Vec<AddressRange>> = BTreeMap::new();
        for (range, path) in side.lanes(key, &mut BTreeSet::new()) {
            match fate(&path.way, passes(key, &path), range.first(), situation.host_networks) {
                PacketFate::As(found, gateway) if found == address => {
                    taken.entry((path.policy, gateway)).or_default().push(range);
                }
                PacketFate::Unknown(exit) => unknown.extend([exit.to_string()]),
                _ => {}
            }
        }
        for ((policy, gateway), ranges) in taken {
            let except = side.set.policies.get(&policy).map(|document| but(document, address, ranges));
            let members = carried.entry((policy, gateway, except.unwrap_or_default())).or_default();
            members.extend(pods.iter().map(|pod| (*pod).clone()));
        }
    }
    let mut assigned = BTreeSet::new();
    // An address is a policy's also where none of its pods is known: it has ended, or pods are not known here at all.
    for (policy, placed) in &side.placement.policies {
        let Some(document) = side.set.policies.get(policy) else { continue };
        for exit in placed.exits.iter().chain(placed.standbys.values().flatten()) {
            let way = Disposition::Exit(exit.clone());
            for net in &document.destinations {
                match fate(&way, false, net.addr(), situation.host_networks) {
                    PacketFate::As(found, gateway) if found == address => {
                        assigned.insert((policy.clone(), gateway));
                    }
                    PacketFate::Unknown(exit) => unknown.extend([exit.to_string()]),
                    _ => {}
                }
            }
        }
    }
    for (policy, gateway) in assigned {
        if !carried.keys().any(|(of, through, _)| (of, through) == (&policy, &gateway)) {
            carried.insert((policy, gateway, RangeSet::default()), BTreeSet::new());
        }
    }
    let carried = carried.into_iter().filter_map(|((policy, gateway, except), pods)| {
        let document = side.set.policies.get(&policy)?;
        let (origin, destinations) = (document.origin.clone(), document.destinations.clone());
        let except = except.ranges().to_vec();
        Some(Carried { policy, origin, gateway, destinations, except, pods: pods.into_iter().collect() })
    });
    let has = |addresses: &[IpAddr]| addresses.contains(&address);
    AddressUse {
        carried: carried.collect(),
        nodes: side.facts.nodes.iter().filter(|(_, node)| has(&node.addresses)).map(|(name, _)| name.clone()).collect(),
        pod: side
            .facts
            .pods
            .iter()
            .find(|(_, pod)| pod.routable() && has(&pod.addresses))
            .map(|(name, _)| name.clone()),
        unknown,
    }
}

/// The policy and the gateway by which pods leave with an address, and the policy's destinations to which they do not.
type Carriage = (PolicyId, NodeName, RangeSet);

/// A policy's destinations of an address's family without some ranges.
fn but(policy: &Policy, address: IpAddr, ranges: Vec<AddressRange>) -> RangeSet {
    let of_family = policy.destinations.iter().copied().filter(|net| net.addr().is_ipv4() == address.is_ipv4());
    of_family.collect::<RangeSet>().subtract(&ranges.into_iter().collect())
}

/// Whose an address is that a server has seen in the place of a pod's. Of several policies the one that has the destination comes first.
pub fn seen_as(address: IpAddr, question: &Question, situation: &Situation<'_>) -> Source {
    let AddressUse { mut carried, nodes, pod, .. } = leaving_as(address, situation);
    let is_member = |one: &Carried| one.pods.contains(&question.pod);
    let has = |one: &Carried| {
        let destination = question.destination;
        let among = one.destinations.iter().any(|net| net.contains(&destination));
        among && !one.except.iter().any(|range| range.contains(destination))
    };
    carried.sort_by_key(|one| (!is_member(one), !has(one)));
    match (carried.into_iter().next(), nodes.into_iter().next(), pod) {
        (Some(one), ..) => {
            let member = is_member(&one);
            Source::Policy(one, member)
        }
        (None, Some(node), _) => Source::Node(node),
        (None, None, Some(pod)) => Source::Pod(pod),
        (None, None, None) => Source::Nobody,
    }
}

/// The verb for so many pods.
pub(super) fn leave(pods: usize) -> &'static str {
    if pods == 1 { "leaves" } else { "leave" }
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Policy(one, member) => {
                let pods = counted(one.pods.len(), "pod");
                let leave = leave(one.pods.len());
                let (policy, origin, gateway) = (&one.policy, &one.origin, &one.gateway);
                if one.pods.is_empty() {
                    return write!(f, "the address of {policy} ({origin}) through {gateway}; no pod of it is known");
                }
                write!(f, "the address of {policy} ({origin}), with which {pods} {leave} through {gateway}")?;
                f.write_str(if *member { ", this one among them" } else { ", and this one does not" })
            }
            Self::Node(node) => write!(f, "the address of the node {node}: these packets were not steered"),
            Self::Pod(pod) => {
                write!(f, "the address of the pod {pod}: these packets were neither steered nor translated")
            }
            Self::Nobody => f.write_str("no address of a policy, a node or a pod that is known"),
        }
    }
}
