//! What a policy means (DESIGN §5), written as plainly as it can be: every question walks over everything.
//!
//! Read it to learn the semantics. It was written before the compiler was looked at and uses nothing of it, nor of placing:
//! no index, no flattened ranges, no groups. Deliberately absent: marks, tunnels, tables, and whatever else is a means.

use std::collections::BTreeSet;
use std::net::IpAddr;

use egret::core::facts::{Pod, PodName};
use egret::core::host_network::HostNetwork;
use egret::core::labels::{Labels, Requirement};
use egret::core::name::NodeName;
use egret::core::policy::{Egress, ExistingConnections, OnNoGateway, Policy};
use egret::core::state::nft::AddressFamily;
use ipnet::IpNet;

use super::world::World;

/// A gateway node and how it finds the address: what a policy's members leave through.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Exit {
    /// The node that translates.
    pub(crate) gateway: NodeName,
    /// How it finds the address.
    pub(crate) egress: Egress,
    /// The routers behind the interface, where the policy names them.
    pub(crate) next_hops: Vec<IpAddr>,
}

/// What is to become of a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It goes as if Egret were not there.
    OwnWay,
    /// It leaves through one of these: always the same one for the same pod. Never empty.
    Through(BTreeSet<Exit>),
    /// Nobody gets it.
    Dropped,
}

/// What is known of the packet's connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Connection {
    /// This is its first packet.
    New,
    /// It began on the pod's own way.
    LiveOnItsOwnWay,
    /// It began through this exit, which the node still has.
    LiveThrough(Exit),
    /// It began through an exit that the node no longer has.
    LiveThroughGone,
    /// Somebody else began it; this packet answers.
    Reply,
}

/// What is to become of a packet that comes out of a pod's device on `node`.
pub(crate) fn fate(
    world: &World,
    node: &NodeName,
    source: IpAddr,
    destination: IpAddr,
    connection: &Connection,
) -> Fate {
    // Never steered, whoever asks: what stays inside the cluster, what egret.yaml exempts, and replies of inbound connections.
    let inside = in_cluster(world, destination) || pod_with(world, node, destination).is_some();
    if inside || exempt(world, destination) || *connection == Connection::Reply {
        return Fate::OwnWay;
    }
    let anew = fate_of_new(world, node, source, destination);
    // A live connection stays where it began, unless the policy that now decides over it says Reset.
    let reset = deciding_policy(world, node, source, destination)
        .is_some_and(|policy| policy.existing_connections == ExistingConnections::Reset);
    match connection {
        Connection::LiveOnItsOwnWay if !reset => Fate::OwnWay,
        Connection::LiveThrough(exit) if !reset => Fate::Through(BTreeSet::from([exit.clone()])),
        _ => anew,
    }
}

fn fate_of_new(world: &World, node: &NodeName, source: IpAddr, destination: IpAddr) -> Fate {
    let Some((name, pod)) = pod_with(world, node, source) else {
        return fate_of_unknown(world, node, source, destination);
    };
    let Some(claim) = longest_prefix(world, name, pod, destination) else { return Fate::OwnWay };
    if claim.excluded {
        return Fate::OwnWay;
    }
    let exits = exits_of(world, claim.policy);
    match claim.policy.on_no_gateway {
        _ if !exits.is_empty() => Fate::Through(exits),
        OnNoGateway::Drop => Fate::Dropped,
        OnNoGateway::Passthrough => Fate::OwnWay,
    }
}

/// What comes out of a pod's device with an address that no pod is known to have may be a pod that has just started. Whatever
/// some policy names waits for it to be known. A kernel that cannot tell a pod's device knows pods by the networks that nodes and
/// egret.yaml tell.
fn fate_of_unknown(world: &World, node: &NodeName, source: IpAddr, destination: IpAddr) -> Fate {
    if world.facts.nodes[node].addresses.contains(&source) {
        return Fate::OwnWay;
    }
    if !in_a_pod_network(world, source) && !world.host_networks[node].features.interface_kinds {
        return Fate::OwnWay;
    }
    let named =
        active_policies(world).any(|policy| policy.destinations.iter().any(|network| network.contains(&destination)));
    if named { Fate::Dropped } else { Fate::OwnWay }
}

/// In a network that nodes or egret.yaml tell.
fn in_a_pod_network(world: &World, address: IpAddr) -> bool {
    let told = world.facts.nodes.values().flat_map(|node| &node.pod_cidrs);
    { told }.chain(&world.set.config.pod_cidrs).any(|network| network.contains(&address))
}

/// One policy's word on a destination.
struct Claim<'a> {
    policy: &'a Policy,
    network: IpNet,
    excluded: bool,
}

/// The policy whose word on this destination counts for this pod: the longest prefix over all its policies, destinations and
/// exclusions alike; then the higher priority; then the names' order. What one policy both names and excludes is excluded.
fn longest_prefix<'a>(world: &'a World, name: &PodName, pod: &Pod, destination: IpAddr) -> Option<Claim<'a>> {
    let mut claims: Vec<Claim<'a>> = Vec::new();
    for policy in active_policies(world) {
        if !is_member(world, policy, name, pod) {
            continue;
        }
        for network in &policy.excluded {
            claims.push(Claim { policy, network: *network, excluded: true });
        }
        for network in &policy.destinations {
            claims.push(Claim { policy, network: *network, excluded: false });
        }
    }
    claims.retain(|claim| claim.network.contains(&destination));
    claims.sort_by(|a, b| {
        let longer = b.network.prefix_len().cmp(&a.network.prefix_len());
        let higher = b.policy.priority.cmp(&a.policy.priority);
        longer.then(higher).then(a.policy.id.cmp(&b.policy.id)).then(b.excluded.cmp(&a.excluded))
    });
    claims.into_iter().next()
}

/// The policy that a live connection asks whether it may stay: the one that steers a new connection of the same kind.
pub(crate) fn deciding_policy<'a>(
    world: &'a World,
    node: &NodeName,
    source: IpAddr,
    destination: IpAddr,
) -> Option<&'a Policy> {
    let (name, pod) = pod_with(world, node, source)?;
    longest_prefix(world, name, pod, destination).filter(|claim| !claim.excluded).map(|claim| claim.policy)
}

/// Policies that count: the others are suspended.
pub(crate) fn active_policies(world: &World) -> impl Iterator<Item = &Policy> {
    world.set.policies.values().filter(|policy| match &policy.suspend {
        Some(suspend) => suspend.until <= world.now,
        None => true,
    })
}

/// Any selector matches; within one, namespace, pod and node of the pod all match.
fn is_member(world: &World, policy: &Policy, name: &PodName, pod: &Pod) -> bool {
    if pod.host_network || pod.finished {
        return false;
    }
    let nothing = Labels::new();
    let namespace_labels = world.facts.namespaces.get(&name.namespace).unwrap_or(&nothing);
    let node_labels = match &pod.node {
        Some(node) => world.facts.nodes.get(node).map_or(&nothing, |node| &node.labels),
        None => &nothing,
    };
    policy.selectors.iter().any(|selector| {
        let in_namespace = selector.namespace_name.iter().all(|operator| {
            let requirement = Requirement { key: "name".to_owned(), operator: operator.clone() };
            requirement.matches(Some(&name.namespace))
        });
        in_namespace
            && selector.namespace.matches(namespace_labels)
            && selector.pod.matches(&pod.labels)
            && selector.node.matches(node_labels)
    })
}

/// The pod on this node that has this address now.
fn pod_with<'a>(world: &'a World, node: &NodeName, address: IpAddr) -> Option<(&'a PodName, &'a Pod)> {
    world.facts.pods.iter().find(|(_, pod)| {
        pod.node.as_ref() == Some(node) && !pod.host_network && !pod.finished && pod.addresses.contains(&address)
    })
}

/// Destinations inside the cluster: pod networks, nodes' addresses, services.
fn in_cluster(world: &World, destination: IpAddr) -> bool {
    let nodes = world.facts.nodes.values();
    let config = &world.set.config;
    nodes.clone().any(|node| node.addresses.contains(&destination))
        || nodes.clone().any(|node| node.pod_cidrs.iter().any(|network| network.contains(&destination)))
        || config.pod_cidrs.iter().any(|network| network.contains(&destination))
        || config.service_cidrs.iter().any(|network| network.contains(&destination))
}

fn exempt(world: &World, destination: IpAddr) -> bool {
    world.set.config.exclusions.iter().any(|network| network.contains(&destination))
}

/// Every entry of a policy's gateways gives one exit: the first fit node that matches, in the order of names.
pub(crate) fn exits_of(world: &World, policy: &Policy) -> BTreeSet<Exit> {
    let mut exits = BTreeSet::new();
    for entry in &policy.gateways {
        for (name, node) in &world.facts.nodes {
            let fit = node.ready && !node.unschedulable && !node.addresses.is_empty();
            if fit && entry.node.matches(&node.labels) {
                let (egress, next_hops) = (entry.egress.clone(), entry.next_hops.clone());
                exits.insert(Exit { gateway: name.clone(), egress, next_hops });
                break;
            }
        }
    }
    exits
}

/// The address that an exit's packets of one family leave the gateway with; none: they are dropped, for there is no right one.
pub(crate) fn egress_address(host_network: &HostNetwork, egress: &Egress, family: AddressFamily) -> Option<IpAddr> {
    let first_of = |interface: &str| -> Option<IpAddr> {
        let addresses = &host_network.interfaces.get(interface)?.addresses;
        addresses.iter().map(IpNet::addr).find(|address| AddressFamily::of(*address) == family)
    };
    match egress {
        Egress::Interface(interface) => first_of(interface.as_str()),
        Egress::DualStack(v4, v6) => {
            let address = if family == AddressFamily::V4 { IpAddr::V4(*v4) } else { IpAddr::V6(*v6) };
            egress_address(host_network, &Egress::Address(address), family)
        }
        // No exit has such an egress.
        Egress::Pool(_) => None,
        Egress::Address(address) => {
            let mut held = host_network.interfaces.values().flat_map(|interface| &interface.addresses);
            (AddressFamily::of(*address) == family && held.any(|net| net.addr() == *address)).then_some(*address)
        }
        Egress::DefaultRoute => {
            let defaults = host_network.routes.iter().filter(|route| {
                route.destination.prefix_len() == 0 && AddressFamily::of(route.destination.addr()) == family
            });
            first_of(&defaults.min_by_key(|route| route.metric)?.interface)
        }
    }
}
