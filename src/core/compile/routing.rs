//! The tunnel, and policy routing into it, out of it and back.
//!
//! Deliberately absent: which packets get a mark (`table`).

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

use super::{Input, Networks, NodeExit, Role};
use crate::core::cidr::Range as Addresses;
use crate::core::ground::Ground;
use crate::core::placement::ExitKey;
use crate::core::state::NodeState;
use crate::core::state::net::{Address, Encap, Link, Mac, Neighbour, Route, RouteKey, Rule, Sysctl, default_metric};
use crate::core::state::nft::AddressFamily;
use crate::core::state::ownership::{REPLY_VNI, Range, TUNNEL};

/// The metric of the unreachable route that ends each exit's table: behind every other.
const LAST: u32 = 4_278_198_272;

/// Adds links, addresses, settings, rules, routes and neighbours.
pub(super) fn add(
    desired: &mut NodeState,
    input: &Input<'_>,
    networks: &Networks,
    families: &[AddressFamily],
    exits: &BTreeMap<ExitKey, NodeExit>,
) {
    let range = input.set.config.range;
    let is_gateway = exits.values().any(|exit| matches!(exit.role, Role::Own { .. }));
    if needs_tunnel(exits, networks) {
        add_tunnel(desired, input, range);
    }
    for exit in exits.values() {
        add_exit(desired, exit, networks, families, range);
    }
    if is_gateway {
        add_replies(desired, input, families, range);
        loosen_reverse_path_filters(desired, input, exits);
    }
}

/// A node that sends into the tunnel, or that others send to.
pub(super) fn needs_tunnel(exits: &BTreeMap<ExitKey, NodeExit>, networks: &Networks) -> bool {
    exits.values().any(|exit| match exit.role {
        Role::Remote { .. } => true,
        Role::Own { .. } => !networks.peers.is_empty(),
    })
}

fn add_tunnel(desired: &mut NodeState, input: &Input<'_>, range: Range) {
    let Some(own) = input.facts.nodes.get(input.node).and_then(crate::core::facts::Node::tunnel_address) else {
        return;
    };
    let mtu = tunnel_mtu(input.ground, own, range);
    let link = Link { port: range.port, mac: Mac::of_node(own), mtu, up: true, external: true };
    desired.links.insert(TUNNEL.to_owned(), link);
    // Without an address of its own the kernel fails the reverse-path check on this device in every mode but 0, and 0 is not
    // to be had where conf.all says 1 or 2: the larger of the two counts.
    let address = Address { link: TUNNEL.to_owned(), address: IpNet::from(IpAddr::from([169, 254, 90, 1])) };
    desired.addresses.insert(address);
    let setting = |family, name| Sysctl { family, link: TUNNEL.to_owned(), name };
    desired.sysctls.insert(setting(AddressFamily::V4, "rp_filter"), "2".to_owned());
    if input.ground.features.ipv6 {
        desired.sysctls.insert(setting(AddressFamily::V6, "disable_ipv6"), "0".to_owned());
    }
}

/// What fits into the packets of the interface below: more would be sent in fragments, or not at all. An interface that nobody
/// knows is taken for Ethernet. The headers are the kernel's `VXLAN_HEADROOM` and `VXLAN6_HEADROOM` (include/net/vxlan.h).
fn tunnel_mtu(ground: &Ground, own: IpAddr, range: Range) -> u32 {
    const ETHERNET: u32 = 1500;
    let headers = if own.is_ipv4() { 50 } else { 70 };
    let below = ground.holder(own).and_then(|name| ground.interfaces.get(name)).map(|interface| interface.mtu);
    range.mtu.min(below.filter(|mtu| *mtu > headers).unwrap_or(ETHERNET) - headers)
}

/// The next hop towards a peer inside the tunnel. IPv4 between nodes with IPv4 addresses is the peer's own address, as
/// `ip route` shows it best; everything else is the link-local address that goes with the peer's hardware address.
fn next_hop(family: AddressFamily, peer: IpAddr) -> IpAddr {
    match (family, peer) {
        (AddressFamily::V4, IpAddr::V4(_)) => peer,
        _ => IpAddr::V6(Mac::of_node(peer).link_local()),
    }
}

fn tunnel_route(desired: &mut NodeState, key: RouteKey, id: u32, peer: IpAddr) {
    let hop = next_hop(key.family, peer);
    let neighbour = Neighbour { link: TUNNEL.to_owned(), address: hop, mac: Mac::of_node(peer) };
    desired.neighbours.insert(neighbour);
    let route =
        Route::Via { link: TUNNEL.to_owned(), gateway: Some(hop), onlink: true, encap: Some(Encap { id, peer }) };
    desired.routes.entry(key).or_insert(route);
}

fn everything(family: AddressFamily) -> IpNet {
    match family {
        AddressFamily::V4 => IpNet::V4(ipnet::Ipv4Net::default()),
        AddressFamily::V6 => IpNet::V6(ipnet::Ipv6Net::default()),
    }
}

fn add_exit(desired: &mut NodeState, exit: &NodeExit, networks: &Networks, families: &[AddressFamily], range: Range) {
    let table = range.table(exit.id);
    for family in families.iter().copied() {
        let key = |destination, metric| RouteKey { family, table, destination, metric };
        desired.rules.insert(Rule {
            family,
            priority: table,
            mark: range.mark(exit.id),
            mask: range.mask,
            table,
            odd: None,
        });
        // A packet with our mark never falls through to the main table: with no other route left it ends here.
        desired.routes.insert(key(everything(family), LAST), Route::Unreachable);
        match &exit.role {
            Role::Remote { vni, peer } => {
                tunnel_route(desired, key(everything(family), default_metric(family)), *vni, *peer);
            }
            Role::Own { ways, .. } => {
                for out in ways.get(&family).into_iter().flat_map(|way| &way.routes) {
                    let route = Route::Via {
                        link: out.interface.clone(),
                        gateway: out.gateway,
                        onlink: out.onlink,
                        encap: None,
                    };
                    desired.routes.insert(key(out.destination, default_metric(family)), route);
                }
            }
        }
        // Where src_valid_mark is on, the reverse-path check of a pod's own packet is made in this table; a strict one
        // must find the pod's interface, which the main table knows.
        for net in prefixes(&networks.local_pods, family) {
            desired.routes.entry(key(net, default_metric(family))).or_insert(Route::Throw);
        }
    }
}

/// Ranges that are whole prefixes, as pod networks are.
fn prefixes(set: &crate::core::cidr::RangeSet, family: AddressFamily) -> Vec<IpNet> {
    let prefix = |range: &Addresses| {
        let length = crate::core::state::nft::prefix_of(range.first(), range.last())?;
        IpNet::new(range.first(), length).ok()
    };
    set.ranges()
        .iter()
        .filter(|range| AddressFamily::of(range.first()) == family && range.first() != range.last())
        .filter_map(prefix)
        .collect()
}

/// Replies of what this gateway translated go back through the tunnel to the pod's node. Where a node does not tell its pod
/// network, its replies go the CNI's way: the rule finds nothing and the main table decides.
fn add_replies(desired: &mut NodeState, input: &Input<'_>, families: &[AddressFamily], range: Range) {
    let table = range.table(0);
    for family in families.iter().copied() {
        let mut any = false;
        for (name, peer) in super::peers::peers(input) {
            let Some(node) = input.facts.nodes.get(name) else { continue };
            for net in node.pod_cidrs.iter().filter(|net| AddressFamily::of(net.addr()) == family) {
                let key = RouteKey { family, table, destination: net.trunc(), metric: default_metric(family) };
                tunnel_route(desired, key, REPLY_VNI, peer);
                any = true;
            }
        }
        if any {
            desired.rules.insert(Rule {
                family,
                priority: table,
                mark: range.reply_mark(),
                mask: range.mask,
                table,
                odd: None,
            });
        }
    }
}

/// Replies arrive at the egress interface from where the main table may not send: a strict reverse-path filter would drop them.
/// It is loosened on that interface alone, and only where it is strict; what it was is remembered in our table.
fn loosen_reverse_path_filters(desired: &mut NodeState, input: &Input<'_>, exits: &BTreeMap<ExitKey, NodeExit>) {
    for interface in strict_interfaces(input, exits).into_keys() {
        let sysctl = Sysctl { family: AddressFamily::V4, link: interface, name: "rp_filter" };
        desired.sysctls.insert(sysctl, "2".to_owned());
    }
}

/// Egress interfaces with a strict filter, and the value each had before Egret.
pub(super) fn strict_interfaces(input: &Input<'_>, exits: &BTreeMap<ExitKey, NodeExit>) -> BTreeMap<String, u8> {
    let ground = input.ground;
    let mut strict = BTreeMap::new();
    for exit in exits.values() {
        let Role::Own { ways, .. } = &exit.role else { continue };
        let Some(way) = ways.get(&AddressFamily::V4) else { continue };
        for name in way.interfaces() {
            let Some(interface) = ground.interfaces.get(name) else { continue };
            if let Some(before) = ground.loosened.get(name) {
                strict.insert(name.to_owned(), *before);
            } else if interface.rp_filter.max(ground.rp_filter_all) == 1 {
                strict.insert(name.to_owned(), interface.rp_filter);
            }
        }
    }
    strict
}
