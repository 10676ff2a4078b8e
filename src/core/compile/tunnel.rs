//! Derives each node's tunnel addresses, outer and inner.
//!
//! The outer addresses of a node are its InternalIPs. Inside the tunnel one address of each family stands for it:
//! members' packets are translated to it before they enter the tunnel, so that the return path leads to nodes and needs
//! no knowledge of pods. Every node derives the same from the same Node objects. Not here: exits (`placement`), and the
//! use of these addresses (`routing`, `table`).

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use crate::core::cidr::AddressRange;
use crate::core::facts::{AddressOwner, Facts, Node};
use crate::core::host_network::{HostNetwork, InterfaceKind};
use crate::core::name::NodeName;
use crate::core::state::net::{fnv1a, mix};
use crate::core::state::nft::AddressFamily;

/// A node's tunnel endpoint, as other nodes see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TunnelEndpoint {
    /// The mark of its tunnel packets between the input hook, which sees the outer source, and the tunnel device's
    /// ingress, which sees the inner one.
    pub(crate) id: u32,
    /// Its InternalIPs that no other node claims.
    pub(crate) outer: Vec<IpAddr>,
    /// The addresses that stand for it inside the tunnel, IPv4 first. Every node has one of each family.
    pub(crate) inner: [IpAddr; 2],
}

impl TunnelEndpoint {
    /// The inner address of one family.
    pub(crate) fn inner(&self, family: AddressFamily) -> IpAddr {
        let [four, six] = self.inner;
        match family {
            AddressFamily::V4 => four,
            AddressFamily::V6 => six,
        }
    }

    /// The outer source and destination from this node to another: IPv4 where both have it, otherwise IPv6.
    pub(crate) fn to(&self, peer: &Self) -> Option<(IpAddr, IpAddr)> {
        let first =
            |end: &Self, family| end.outer.iter().copied().find(|address| AddressFamily::of(*address) == family);
        AddressFamily::BOTH.into_iter().find_map(|family| Some((first(self, family)?, first(peer, family)?)))
    }
}

/// Every node that has an address, by name.
pub(crate) type TunnelEndpoints = BTreeMap<NodeName, TunnelEndpoint>;

/// The tunnel endpoints of a cluster's nodes.
pub(crate) fn ends(facts: &Facts) -> TunnelEndpoints {
    let (nodes, owners) = (&facts.nodes, facts.owners());
    let taken: BTreeSet<IpAddr> = nodes.values().flat_map(|node| node.addresses.iter().copied()).collect();
    let shared = shared_networks(nodes);
    let mut ids = BTreeSet::from([0]);
    let mut inner = BTreeSet::new();
    let mut ends = TunnelEndpoints::new();
    for (name, node) in nodes.iter().filter(|(_, node)| !node.addresses.is_empty()) {
        let owned = |address: &IpAddr| owners.of(name, *address) == AddressOwner::This;
        let outer: Vec<IpAddr> = node.addresses.iter().copied().filter(owned).collect();
        let mut id = id_of(node);
        while !ids.insert(id) {
            id = id.wrapping_add(1);
        }
        let mut stands = |family| {
            let of_family = |address: &&IpAddr| AddressFamily::of(**address) == family;
            let network = node
                .pod_cidrs
                .iter()
                .copied()
                .find(|net| AddressFamily::of(net.addr()) == family && !shared.contains(&(name, *net)));
            let address = network
                .and_then(|network| free_host(network, |address| taken.contains(&address)))
                .or_else(|| outer.iter().find(of_family).copied())
                .unwrap_or_else(|| derived(node, family));
            let mut address = address;
            while !inner.insert(address) {
                address = behind(address);
            }
            address
        };
        let inner = [stands(AddressFamily::V4), stands(AddressFamily::V6)];
        ends.insert(name.clone(), TunnelEndpoint { id, outer, inner });
    }
    ends
}

/// Pod networks that overlap another node's: no address of theirs stands for a node.
fn shared_networks(nodes: &BTreeMap<NodeName, Node>) -> BTreeSet<(&NodeName, IpNet)> {
    let mut all: Vec<(AddressRange, &NodeName, IpNet)> = Vec::new();
    for (name, node) in nodes {
        all.extend(node.pod_cidrs.iter().map(|net| (AddressRange::from(*net), name, *net)));
    }
    all.sort_by_key(|(range, name, _)| (range.first(), range.last(), *name));
    let mut shared = BTreeSet::new();
    let mut widest: Option<&(AddressRange, &NodeName, IpNet)> = None;
    for one in &all {
        let overlapped = widest.filter(|before| before.0.contains(one.0.first()) && before.1 != one.1);
        if let Some(before) = overlapped {
            shared.extend([(before.1, before.2), (one.1, one.2)]);
        }
        if widest.is_none_or(|before| before.0.last() < one.0.last()) {
            widest = Some(one);
        }
    }
    shared
}

/// The last host address of a network that belongs to no node. Not the first addresses: bridges have those, and a gateway
/// whose own bridge has the same address would take the packet for its own.
fn free_host(network: IpNet, taken: impl Fn(IpAddr) -> bool) -> Option<IpAddr> {
    let (first, last) = (network.network(), network.broadcast());
    let mut host = if before(last) >= first { before(last) } else { last };
    for _ in 0..16 {
        if !taken(host) {
            return Some(host);
        }
        if host <= first {
            return None;
        }
        host = before(host);
    }
    None
}

fn before(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(v4) => Ipv4Addr::from(u32::from(v4).wrapping_sub(1)).into(),
        IpAddr::V6(v6) => Ipv6Addr::from(u128::from(v6).wrapping_sub(1)).into(),
    }
}

fn behind(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(v4) => Ipv4Addr::from(u32::from(v4).wrapping_add(1)).into(),
        IpAddr::V6(v6) => Ipv6Addr::from(u128::from(v6).wrapping_add(1)).into(),
    }
}

/// The inner address in a family in which a node has neither a pod network nor an InternalIP. Only the tunnel's two ends
/// ever see it: from 240.0.0.0/4, which is reserved (RFC 1112 4) and which Linux forwards, or from a unique local network
/// (RFC 4193).
fn derived(node: &Node, family: AddressFamily) -> IpAddr {
    let hash = hash_of(node);
    match family {
        AddressFamily::V4 => {
            let host = u32::try_from(hash & 0x07ff_ffff).unwrap_or(0);
            Ipv4Addr::from(0xf000_0000 | host).into()
        }
        AddressFamily::V6 => {
            const NETWORK: u128 = 0xfd65_6772_6574_0000 << 64;
            Ipv6Addr::from(NETWORK | u128::from(hash)).into()
        }
    }
}

fn id_of(node: &Node) -> u32 {
    let four = node.addresses.iter().find_map(|address| match address {
        IpAddr::V4(v4) => Some(u32::from(*v4)),
        IpAddr::V6(_) => None,
    });
    four.unwrap_or_else(|| u32::try_from(hash_of(node) >> 32).unwrap_or(1))
}

fn hash_of(node: &Node) -> u64 {
    let first = node.addresses.first().map(ToString::to_string).unwrap_or_default();
    mix(fnv1a(first.as_bytes()))
}

/// Interfaces that lead out of the node, according to its kernel: the one with the node's own InternalIP; and, unless
/// they lead to pods, those with a network of their own, a route with a next hop, or the route to another node. What
/// arrives on one is not from a pod of this node; and only there may a node's packets arrive although the route back
/// leads elsewhere, as with several network cards.
///
/// A bridge's network may be that of containers (docker0), and an interface of a CNI's own leads to pods (flannel.1,
/// antrea-gw0).
pub(crate) fn uplinks(
    host_network: &HostNetwork,
    own: &[IpAddr],
    others: &TunnelEndpoints,
    is_pod: impl Fn(IpAddr) -> bool,
) -> BTreeSet<String> {
    let is_wide = |net: &IpNet| net.prefix_len() < net.max_prefix_len();
    let leads_out = |gateway: Option<IpAddr>| gateway.is_some_and(|gateway| !is_pod(gateway));
    let mut found: BTreeSet<&str> = BTreeSet::new();
    found.extend(
        host_network.routes.iter().filter(|route| leads_out(route.gateway)).map(|route| route.interface.as_str()),
    );
    for (name, interface) in &host_network.interfaces {
        if !interface.bridge && interface.kind == InterfaceKind::Device && interface.addresses.iter().any(is_wide) {
            found.insert(name);
        }
    }
    // A pod's own route, of which many CNIs have one each, leads to no node.
    let wide: Vec<_> = host_network.routes.iter().filter(|route| is_wide(&route.destination)).collect();
    for address in others.values().flat_map(|end| &end.outer) {
        let best = wide
            .iter()
            .filter(|route| route.destination.contains(address))
            .max_by_key(|route| (route.destination.prefix_len(), std::cmp::Reverse(route.metric)));
        found.extend(best.map(|route| route.interface.as_str()));
    }
    let to_pods = |name: &str| {
        let routes =
            host_network.routes.iter().filter(|route| route.interface == name && route.destination.prefix_len() > 0);
        let networks = host_network.interfaces.get(name).into_iter().flat_map(|interface| &interface.addresses);
        routes.map(|route| route.destination.network()).chain(networks.map(IpNet::addr)).any(&is_pod)
    };
    found.retain(|name| !to_pods(name));
    found.extend(own.iter().filter_map(|address| host_network.holder(*address)));
    found.into_iter().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests;
