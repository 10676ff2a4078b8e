//! Computes the tunnel device, and policy routing into it, out of it and back.
//!
//! Not here: which packets get a mark (`table`).

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::tunnel::TunnelEndpoint;
use super::{ClusterNetworks, CompileInput, ExitRole, NodeExit};
use crate::core::host_network::HostNetwork;
use crate::core::placement::ExitKey;
use crate::core::state::NodeState;
use crate::core::state::net::{
    Encap, InterfaceAddress, Link, Mac, Neighbour, Route, RouteKey, RoutingRule, Sysctl, default_metric,
};
use crate::core::state::nft::AddressFamily;
use crate::core::state::ownership::{DatapathConfig, TUNNEL, TUNNEL_VNI};

/// The metric of the unreachable route that ends each exit's table: it comes last.
const LAST: u32 = 4_278_198_272;

/// Adds links, addresses, sysctls, rules, routes and neighbours.
pub(super) fn add(
    desired: &mut NodeState,
    input: &CompileInput<'_>,
    networks: &ClusterNetworks,
    families: &[AddressFamily],
    exits: &BTreeMap<ExitKey, NodeExit>,
) {
    let range = input.set.config.range;
    let is_gateway = exits.values().any(|exit| matches!(exit.role, ExitRole::Own { .. }));
    let tunnel = networks.own.as_ref().filter(|_| needs_tunnel(exits, networks));
    if let Some(own) = tunnel {
        let inside: Vec<AddressFamily> =
            families.iter().copied().filter(|family| fits(input, (own, networks), *family, range)).collect();
        add_tunnel(desired, input, (own, networks), range);
        add_replies(desired, (own, networks), &inside, is_gateway, range);
        for exit in exits.values() {
            add_way_in(desired, (exit, exits), &inside, range);
        }
    }
    for exit in exits.values() {
        add_exit(desired, exit, networks, families, range);
    }
    if is_gateway {
        loosen_reverse_path_filters(desired, input, exits);
    }
}

/// Whether this node sends into the tunnel or receives from it.
pub(super) fn needs_tunnel(exits: &BTreeMap<ExitKey, NodeExit>, networks: &ClusterNetworks) -> bool {
    exits.values().any(|exit| match exit.role {
        ExitRole::Remote { .. } => true,
        ExitRole::Own { .. } => !networks.others.is_empty(),
    })
}

fn add_tunnel(
    desired: &mut NodeState,
    input: &CompileInput<'_>,
    (own, networks): (&TunnelEndpoint, &ClusterNetworks),
    range: DatapathConfig,
) {
    let mtu = tunnel_mtu(input.host_network, (own, networks), range);
    let mac = Mac::of_node(own.outer.first().copied().unwrap_or(own.inner(AddressFamily::V4)));
    let link = Link { port: range.port, mac, mtu, up: true, external: true };
    desired.links.insert(TUNNEL.to_owned(), link);
    // Without an address of its own the kernel fails the reverse-path check on this device in every mode but 0, and 0
    // cannot be reached where conf.all is 1 or 2: the larger of the two counts.
    let address = InterfaceAddress { link: TUNNEL.to_owned(), address: IpNet::from(IpAddr::from([169, 254, 90, 1])) };
    desired.addresses.insert(address);
    let setting = |family, name| Sysctl { family, link: TUNNEL.to_owned(), name };
    desired.sysctls.insert(setting(AddressFamily::V4, "rp_filter"), "2".to_owned());
    // Packets from the tunnel must be forwarded, whatever `conf.default` gave the device when it was created.
    desired.sysctls.insert(setting(AddressFamily::V4, "forwarding"), "1".to_owned());
    if input.host_network.features.ipv6 && mtu >= IPV6_MINIMUM_MTU {
        desired.sysctls.insert(setting(AddressFamily::V6, "disable_ipv6"), "0".to_owned());
        let address = InterfaceAddress { link: TUNNEL.to_owned(), address: IpNet::from(IpAddr::from(OWN6)) };
        desired.addresses.insert(address);
    }
}

/// The MTU that fits the packets of the underlying interfaces: larger packets would be fragmented, or dropped. An unknown
/// interface counts as Ethernet. The header sizes are the kernel's `VXLAN_HEADROOM` and `VXLAN6_HEADROOM`
/// (include/net/vxlan.h).
fn tunnel_mtu(
    host_network: &HostNetwork,
    (own, networks): (&TunnelEndpoint, &ClusterNetworks),
    range: DatapathConfig,
) -> u32 {
    const ETHERNET: u32 = 1500;
    let ends = networks.others.values().filter_map(|end| own.to(end));
    let sources: BTreeSet<IpAddr> = ends.map(|(source, _)| source).collect();
    let room = |source: &IpAddr| {
        let headers = if source.is_ipv4() { 50 } else { 70 };
        let below = host_network
            .holder(*source)
            .and_then(|name| host_network.interfaces.get(name))
            .map(|interface| interface.mtu);
        below.filter(|mtu| *mtu > headers).unwrap_or(ETHERNET) - headers
    };
    sources.iter().map(room).fold(range.mtu, u32::min)
}

/// RFC 8200 5. A device with a smaller one has no IPv6 at all (net/ipv6/addrconf.c, `addrconf_notify`).
const IPV6_MINIMUM_MTU: u32 = 1280;

/// Whether packets of a family fit into the tunnel.
pub(super) fn fits(
    input: &CompileInput<'_>,
    ends: (&TunnelEndpoint, &ClusterNetworks),
    family: AddressFamily,
    range: DatapathConfig,
) -> bool {
    family == AddressFamily::V4 || tunnel_mtu(input.host_network, ends, range) >= IPV6_MINIMUM_MTU
}

/// What stands for an exit, or with number 0 for all nodes, as the next hop inside the tunnel. It is on this node's device
/// alone, so it only has to be another one for each exit; its neighbour entry bears the MAC address.
pub(super) fn next_hop(family: AddressFamily, number: u32) -> IpAddr {
    match family {
        // 169.254.128.0/17: link-local (RFC 3927), and not the half that contains egret0's own address.
        AddressFamily::V4 => Ipv4Addr::from(0xa9fe_8000 | number).into(),
        AddressFamily::V6 => Ipv6Addr::from((0xfe80_u128 << 112) | (0xe9 << 32) | u128::from(number)).into(),
    }
}

/// The number in a next hop; none: it is not one of [`next_hop`]'s, or stands for all nodes.
pub(super) fn exit_of_next_hop(hop: IpAddr) -> Option<u32> {
    let number = match hop {
        IpAddr::V4(v4) => u32::from(v4) & 0x7fff,
        IpAddr::V6(v6) => u32::try_from(u128::from(v6) & 0xffff_ffff).ok()?,
    };
    (number > 0 && next_hop(AddressFamily::of(hop), number) == hop).then_some(number)
}

/// What probes of a gateway are sent to: an address on no interface. A source's table of an exit leads it to that exit's gateway, and
/// the gateway's to the egress interface, where it never arrives.
pub(crate) fn probe_address(family: AddressFamily) -> IpAddr {
    match family {
        AddressFamily::V4 => PROBE4.into(),
        AddressFamily::V6 => PROBE6.into(),
    }
}

/// What transfers of connections are sent to: an address on no interface. Sources send to it as they send probes; on a gateway the
/// replies' table delivers it to the agent.
pub(crate) fn transfer_address(family: AddressFamily) -> IpAddr {
    match family {
        AddressFamily::V4 => TRANSFER4.into(),
        AddressFamily::V6 => TRANSFER6.into(),
    }
}

/// The port that transfers are sent to: not a privileged one, for which the agent would need another capability.
pub(crate) const TRANSFER_PORT: u16 = 9180;

/// The route of probes and transfers in an exit's table: their two addresses are a network of their own.
pub(super) fn probe_route(exit: &NodeExit, family: AddressFamily, range: DatapathConfig) -> RouteKey {
    let destination = IpNet::from(probe_address(family));
    let destination = destination.supernet().unwrap_or(destination);
    RouteKey { family, table: range.table(exit.id), destination, metric: default_metric(family) }
}

/// In the network of the tunnel device's own address.
const PROBE4: Ipv4Addr = Ipv4Addr::new(169, 254, 90, 2);
/// The same, and the network after that of derived tunnel addresses (`tunnel::derived`).
const PROBE6: Ipv6Addr = Ipv6Addr::new(0xfd65, 0x6772, 0x6574, 1, 0, 0, 0, 2);
/// In the same networks.
const TRANSFER4: Ipv4Addr = Ipv4Addr::new(169, 254, 90, 3);
/// See [`TRANSFER4`].
const TRANSFER6: Ipv6Addr = Ipv6Addr::new(0xfd65, 0x6772, 0x6574, 1, 0, 0, 0, 3);
/// The tunnel device's own IPv6 address, with which its probes begin.
const OWN6: Ipv6Addr = Ipv6Addr::new(0xfd65, 0x6772, 0x6574, 1, 0, 0, 0, 1);

fn tunnel_route(desired: &mut NodeState, key: RouteKey, (number, mac): (u32, Mac), (own, peer): (IpAddr, IpAddr)) {
    let hop = next_hop(key.family, number);
    desired.neighbours.insert(Neighbour { link: TUNNEL.to_owned(), address: hop, mac });
    let encap = Some(Encap::between(TUNNEL_VNI, own, peer));
    let route = Route::Via { link: TUNNEL.to_owned(), gateway: Some(hop), onlink: true, encap };
    desired.routes.entry(key).or_insert(route);
}

fn everything(family: AddressFamily) -> IpNet {
    match family {
        AddressFamily::V4 => IpNet::V4(ipnet::Ipv4Net::default()),
        AddressFamily::V6 => IpNet::V6(ipnet::Ipv6Net::default()),
    }
}

fn add_exit(
    desired: &mut NodeState,
    exit: &NodeExit,
    networks: &ClusterNetworks,
    families: &[AddressFamily],
    range: DatapathConfig,
) {
    let table = range.table(exit.id);
    for family in families.iter().copied() {
        let key = |destination, metric| RouteKey { family, table, destination, metric };
        desired.rules.insert(RoutingRule {
            family,
            priority: range.priority(exit.id),
            mark: range.mark(exit.id),
            mask: range.mask,
            from: None,
            table,
            odd: None,
        });
        // A packet with Egret's mark never falls through to the main table: without another route it ends here.
        // An address that Egret assigns may be on its way to another node: a connection that begins meanwhile must not be refused.
        let end = if exit.assigned { Route::Blackhole } else { Route::Unreachable };
        desired.routes.insert(key(everything(family), LAST), end);
        if let ExitRole::Own { routes, .. } = &exit.role
            && let Some(way) = routes.get(&family)
        {
            for out in &way.routes {
                let (link, gateway, onlink) = (out.interface.clone(), out.gateway, out.onlink);
                let route = Route::Via { link, gateway, onlink, encap: None };
                desired.routes.insert(key(out.destination, default_metric(family)), route);
            }
            // Probes go where members' packets go, as far as the forward hook, which answers. The kernel takes the route away with the
            // interface: they are not answered then, whether or not Egret runs here.
            if !networks.others.is_empty() {
                let (link, gateway, onlink) = (way.interface.clone(), None, false);
                desired
                    .routes
                    .insert(probe_route(exit, family, range), Route::Via { link, gateway, onlink, encap: None });
            }
        }
        // Where src_valid_mark is on, the reverse-path check of a pod's own packet uses this table; a strict check must
        // find the pod's interface, which the main table has.
        for net in networks.local_pods.iter().filter(|net| AddressFamily::of(net.addr()) == family) {
            desired.routes.entry(key(net.trunc(), default_metric(family))).or_insert(Route::Throw);
        }
    }
}

/// Routes into the tunnel. Probes of a remote exit's gateway always take its own way, members' packets that of a detour while there is
/// one; so do they where this node is the gateway and has no way out.
fn add_way_in(
    desired: &mut NodeState,
    (exit, exits): (&NodeExit, &BTreeMap<ExitKey, NodeExit>),
    families: &[AddressFamily],
    range: DatapathConfig,
) {
    if exit.refused {
        return;
    }
    let table = range.table(exit.id);
    for family in families.iter().copied() {
        let key = |destination| RouteKey { family, table, destination, metric: default_metric(family) };
        let detour = exit.detours.get(&family);
        let taken = match (&exit.role, detour) {
            (_, Some(to)) => exits.get(to),
            (ExitRole::Remote { .. }, None) => Some(exit),
            (ExitRole::Own { .. }, None) => None,
        };
        if let ExitRole::Remote { mac, outer: Some(outer) } = exit.role {
            tunnel_route(desired, probe_route(exit, family, range), (exit.id, mac), outer);
        }
        match taken.map(|taken| (taken.id, &taken.role)) {
            Some((id, ExitRole::Remote { mac, outer: Some(outer) })) => {
                tunnel_route(desired, key(everything(family)), (id, *mac), *outer);
            }
            Some((_, ExitRole::Own { routes, .. })) => {
                for out in routes.get(&family).into_iter().flat_map(|way| &way.routes) {
                    let (link, gateway, onlink) = (out.interface.clone(), out.gateway, out.onlink);
                    desired.routes.insert(key(out.destination), Route::Via { link, gateway, onlink, encap: None });
                }
            }
            _ => {}
        }
    }
}

/// Packets from the tunnel bear the replies' mark until they are classified, and so do replies on their way back into it.
/// The table of that mark leads to the nodes by their inner addresses. Its default route leads into the device without
/// naming a peer, which the device drops (drivers/net/vxlan, `vxlan_xmit`): it exists for reverse-path checks that use
/// the packet's mark (`src_valid_mark`; firewalld's `IPv6_rpfilter`), which then accept any source from there.
fn add_replies(
    desired: &mut NodeState,
    (own, networks): (&TunnelEndpoint, &ClusterNetworks),
    families: &[AddressFamily],
    is_gateway: bool,
    range: DatapathConfig,
) {
    let table = range.table(0);
    for family in families.iter().copied() {
        let (priority, mark, mask) = (range.priority(0), range.reply_mark(), range.mask);
        desired.rules.insert(RoutingRule { family, priority, mark, mask, from: None, table, odd: None });
        if is_gateway {
            // Answers to probes need a route before their chain gives them a mark, and a node may have no default route of the family.
            let from = Some(probe_address(family));
            desired.rules.insert(RoutingRule { family, priority, mark: 0, mask: 0, from, table, odd: None });
        }
        let key = |destination| RouteKey { family, table, destination, metric: default_metric(family) };
        if is_gateway {
            let local = Route::Local { link: TUNNEL.to_owned() };
            desired.routes.insert(key(IpNet::from(transfer_address(family))), local);
        }
        let into_the_device = Route::Via { link: TUNNEL.to_owned(), gateway: None, onlink: false, encap: None };
        desired.routes.insert(key(everything(family)), into_the_device);
        for end in networks.others.values().filter(|_| is_gateway) {
            let Some(outer) = own.to(end) else { continue };
            tunnel_route(desired, key(IpNet::from(end.inner(family))), (0, Mac::REPLIES), outer);
        }
    }
}

/// Replies arrive at the egress interface from sources that the main table may route elsewhere: a strict reverse-path
/// filter would drop them. It is loosened on that interface alone, and only where it is strict; our table remembers the
/// original value.
fn loosen_reverse_path_filters(desired: &mut NodeState, input: &CompileInput<'_>, exits: &BTreeMap<ExitKey, NodeExit>) {
    for interface in strict_interfaces(input, exits).into_keys() {
        let sysctl = Sysctl { family: AddressFamily::V4, link: interface, name: "rp_filter" };
        desired.sysctls.insert(sysctl, "2".to_owned());
    }
}

/// Egress interfaces with a strict filter, with the value each had before Egret.
pub(super) fn strict_interfaces(input: &CompileInput<'_>, exits: &BTreeMap<ExitKey, NodeExit>) -> BTreeMap<String, u8> {
    let host_network = input.host_network;
    let mut strict = BTreeMap::new();
    for exit in exits.values() {
        let ExitRole::Own { routes, .. } = &exit.role else { continue };
        let Some(way) = routes.get(&AddressFamily::V4) else { continue };
        for name in way.interfaces() {
            let Some(interface) = host_network.interfaces.get(name) else { continue };
            if let Some(before) = host_network.loosened.get(name) {
                strict.insert(name.to_owned(), *before);
            } else if interface.rp_filter.max(host_network.rp_filter_all) == 1 {
                strict.insert(name.to_owned(), interface.rp_filter);
            }
        }
    }
    strict
}
