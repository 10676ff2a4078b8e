//! Decodes rules, routes and neighbours from rtnetlink dumps, normalised to the types of `core::state`.
//!
//! Not here: filtering by ownership beyond a message's own attributes (`observe`).

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use rtnetlink::packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteIp6Tunnel, RouteIp6TunnelFlags, RouteIpTunnel,
    RouteIpTunnelFlags, RouteLwTunnelEncap, RouteMessage, RouteMetric, RouteNextHopFlags, RouteProtocol, RouteType,
    RouteVia,
};
use rtnetlink::packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use rtnetlink::packet_route::{AddressFamily as NetlinkFamily, RouteNetlinkMessage};

use super::links::LinkState;
use crate::core::host_network::HostRoute;
use crate::core::neighbour_resolution::{LinkNeighbour, Resolution};
use crate::core::state::net::{Encap, Mac, Neighbour, Protocol, Route, RouteKey, RoutingRule};
use crate::core::state::nft::AddressFamily;

fn family_of(family: NetlinkFamily) -> Option<AddressFamily> {
    match family {
        NetlinkFamily::Inet => Some(AddressFamily::V4),
        NetlinkFamily::Inet6 => Some(AddressFamily::V6),
        _ => None,
    }
}

/// A protocol's number.
pub(super) fn protocol(protocol: RouteProtocol) -> Protocol {
    Protocol(u8::from(protocol))
}

/// A rule and its protocol.
pub(super) fn rule(message: &RuleMessage) -> Option<(RoutingRule, Protocol)> {
    let mut rule = RoutingRule {
        family: family_of(message.header.family)?,
        priority: 0,
        mark: 0,
        mask: u32::MAX,
        from: None,
        table: u32::from(message.header.table),
        odd: None,
    };
    let mut odd = Vec::new();
    let mut of = Protocol(0);
    if message.header.action != RuleAction::ToTable {
        odd.push(format!("{:?}", message.header.action).to_lowercase());
    }
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Priority(priority) => rule.priority = *priority,
            RuleAttribute::FwMark(mark) => rule.mark = *mark,
            RuleAttribute::FwMask(mask) => rule.mask = *mask,
            RuleAttribute::Source(source) if message.header.src_len == if source.is_ipv4() { 32 } else { 128 } => {
                rule.from = Some(*source);
            }
            RuleAttribute::Table(table) => rule.table = *table,
            RuleAttribute::Protocol(found) => of = protocol(*found),
            // The kernel lists this attribute even where it is not set.
            RuleAttribute::SuppressPrefixLen(u32::MAX)
            | RuleAttribute::SuppressIfGroup(u32::MAX)
            | RuleAttribute::L3MDev(false) => {}
            other => odd.push(format!("{other:?}")),
        }
    }
    if message.header.tos != 0 || message.header.flags.bits() & RULE_INVERT != 0 {
        odd.push("tos or not".to_owned());
    }
    match (rule.from, rule.mark, rule.mask) {
        (Some(_), 0, u32::MAX) => rule.mask = 0,
        (Some(_), ..) => odd.push("source and mark".to_owned()),
        (None, ..) => {}
    }
    rule.odd = (!odd.is_empty()).then(|| odd.join(" "));
    Some((rule, of))
}

/// `FIB_RULE_INVERT` (include/uapi/linux/fib_rules.h): `ip rule add not ...`
const RULE_INVERT: u32 = 2;

/// The attributes of a route message, of any owner.
struct Parts {
    destination: Option<IpAddr>,
    table: u32,
    metric: u32,
    link: Option<u32>,
    gateway: Option<IpAddr>,
    encap: Option<Encap>,
    odd: Option<String>,
}

fn parts(message: &RouteMessage) -> Parts {
    let mut parts = Parts {
        destination: None,
        table: u32::from(message.header.table),
        metric: 0,
        link: None,
        gateway: None,
        encap: None,
        odd: None,
    };
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(found) => parts.destination = address(found),
            RouteAttribute::Table(table) => parts.table = *table,
            RouteAttribute::Priority(metric) => parts.metric = *metric,
            RouteAttribute::Oif(index) => parts.link = Some(*index),
            RouteAttribute::Gateway(found) => parts.gateway = address(found),
            RouteAttribute::Via(RouteVia::Inet6(found)) => parts.gateway = Some(IpAddr::V6(*found)),
            RouteAttribute::Via(RouteVia::Inet(found)) => parts.gateway = Some(IpAddr::V4(*found)),
            RouteAttribute::Encap(found) => parts.encap = encapsulation(found),
            RouteAttribute::MultiPath(_) => parts.odd = Some("nexthop ... nexthop ...".to_owned()),
            RouteAttribute::PrefSource(found) => parts.odd = Some(format!("src {found:?}")),
            _ => {}
        }
    }
    parts
}

fn address(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(v4) => Some(IpAddr::V4(*v4)),
        RouteAddress::Inet6(v6) => Some(IpAddr::V6(*v6)),
        _ => None,
    }
}

/// The kernel lists source, TTL and TOS even where they were never set: an all-zero source means none.
fn encapsulation(parts: &[RouteLwTunnelEncap]) -> Option<Encap> {
    let mut id = None;
    let mut source = None;
    let mut peer = None;
    let mut checksum = false;
    for part in parts {
        match part {
            RouteLwTunnelEncap::Ip(RouteIpTunnel::Id(found)) | RouteLwTunnelEncap::Ip6(RouteIp6Tunnel::Id(found)) => {
                id = u32::try_from(*found).ok();
            }
            RouteLwTunnelEncap::Ip(RouteIpTunnel::Source(found)) => source = Some(IpAddr::V4(*found)),
            RouteLwTunnelEncap::Ip6(RouteIp6Tunnel::Source(found)) => source = Some(IpAddr::V6(*found)),
            RouteLwTunnelEncap::Ip(RouteIpTunnel::Flags(found)) => {
                checksum = found.contains(RouteIpTunnelFlags::Checksum);
            }
            RouteLwTunnelEncap::Ip6(RouteIp6Tunnel::Flags(found)) => {
                checksum = found.contains(RouteIp6TunnelFlags::Checksum);
            }
            RouteLwTunnelEncap::Ip(RouteIpTunnel::Destination(found)) => peer = Some(IpAddr::V4(*found)),
            RouteLwTunnelEncap::Ip6(RouteIp6Tunnel::Destination(found)) => peer = Some(IpAddr::V6(*found)),
            _ => {}
        }
    }
    Some(Encap { id: id?, source: source.filter(|source| !source.is_unspecified()), peer: peer?, checksum })
}

fn destination(message: &RouteMessage, parts: &Parts, family: AddressFamily) -> Option<IpNet> {
    let address = parts.destination.unwrap_or(crate::core::state::nft::unspecified(family));
    IpNet::new(address, message.header.destination_prefix_length).ok()
}

/// The result of a route lookup: the interface, the MTU in bytes, and whether the destination is local.
pub(super) fn lookup_result(message: &RouteMessage, links: &BTreeMap<u32, LinkState>) -> Option<(String, u32, bool)> {
    let link = links.get(&parts(message).link?)?;
    let of_route = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Metrics(metrics) => metrics.iter().find_map(|metric| match metric {
            RouteMetric::Mtu(mtu) => Some(*mtu),
            _ => None,
        }),
        _ => None,
    });
    let mtu = of_route.unwrap_or(link.mtu).min(link.mtu);
    Some((link.name.clone(), mtu, message.header.kind == RouteType::Local))
}

/// Decodes a route of Egret's.
pub(super) fn own_route(message: &RouteMessage, links: &BTreeMap<u32, LinkState>) -> Option<(RouteKey, Route)> {
    let family = family_of(message.header.address_family)?;
    let parts = parts(message);
    let key = RouteKey {
        family,
        table: parts.table,
        destination: destination(message, &parts, family)?,
        metric: parts.metric,
    };
    let route = match (message.header.kind, parts.link.and_then(|index| links.get(&index)), parts.odd) {
        (RouteType::Unreachable, ..) => Route::Unreachable,
        (RouteType::BlackHole, ..) => Route::Blackhole,
        (RouteType::Throw, ..) => Route::Throw,
        (RouteType::Local, Some(link), None) => Route::Local { link: link.name.clone() },
        (RouteType::Unicast, Some(link), None) => Route::Via {
            link: link.name.clone(),
            gateway: parts.gateway,
            onlink: message.header.flags.contains(RouteFlags::Onlink),
            encap: parts.encap,
        },
        (kind, _, odd) => Route::Unknown(odd.unwrap_or_else(|| format!("{kind:?}").to_lowercase())),
    };
    Some((key, route))
}

/// Decodes a foreign unicast route of any table through interfaces that are not Egret's: one for each next hop that is
/// alive, the heaviest first, as an exit takes the best. The kernel lists nexthop objects with their expansion, too
/// (unless `net.ipv4.nexthop_compat_mode` is 0).
pub(super) fn foreign_route(message: &RouteMessage, links: &BTreeMap<u32, LinkState>) -> Vec<HostRoute> {
    let parts = parts(message);
    let family = family_of(message.header.address_family);
    let destination = family.and_then(|family| destination(message, &parts, family));
    let (RouteType::Unicast, Some(destination)) = (message.header.kind, destination) else { return Vec::new() };
    // A source-specific route (`ip -6 route add default from 2001:db8::/64`) does not apply to other sources.
    if message.header.source_prefix_length > 0 {
        return Vec::new();
    }
    let source = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::PrefSource(found) => address(found),
        _ => None,
    });
    let mut hops: Vec<(u8, u32, Option<IpAddr>)> = Vec::new();
    if !message.header.flags.contains(RouteFlags::Dead) {
        hops.extend(parts.link.map(|link| (0, link, parts.gateway)));
    }
    for attribute in &message.attributes {
        let RouteAttribute::MultiPath(several) = attribute else { continue };
        for hop in several.iter().filter(|hop| !hop.flags.contains(RouteNextHopFlags::Dead)) {
            let gateway = hop.attributes.iter().find_map(next_hop);
            hops.push((hop.hops, hop.interface_index, gateway));
        }
    }
    // Stable: of equal weights the first listed stays first.
    hops.sort_by_key(|(weight, ..)| std::cmp::Reverse(*weight));
    let route = |(_, link, gateway): (u8, u32, Option<IpAddr>)| {
        let link = links.get(&link).filter(|link| !link.is_ours())?;
        Some(HostRoute { destination, interface: link.name.clone(), gateway, metric: parts.metric, source })
    };
    hops.into_iter().filter_map(route).collect()
}

fn next_hop(attribute: &RouteAttribute) -> Option<IpAddr> {
    match attribute {
        RouteAttribute::Gateway(found) => address(found),
        RouteAttribute::Via(RouteVia::Inet6(found)) => Some(IpAddr::V6(*found)),
        RouteAttribute::Via(RouteVia::Inet(found)) => Some(IpAddr::V4(*found)),
        _ => None,
    }
}

/// Whether a route is of the main table.
pub(super) fn is_main(message: &RouteMessage) -> bool {
    table(message) == MAIN
}

const MAIN: u32 = RouteHeader::RT_TABLE_MAIN as u32;
/// `RT_TABLE_LOCAL`, include/uapi/linux/rtnetlink.h: the kernel's own.
pub(super) const LOCAL: u32 = 255;
/// `RT_TABLE_DEFAULT`: looked up after the main table, for every packet.
const DEFAULT: u32 = 253;

/// A foreign rule that chooses a table by source address without any other condition: its priority, the addresses, the
/// table. A rule with an incoming interface, a mark, a protocol or a destination does not decide which route an address
/// uses.
pub(super) fn source_rule(message: &RuleMessage) -> Option<(u32, IpNet, u32)> {
    let header = &message.header;
    let plain = header.action == RuleAction::ToTable
        && header.src_len > 0
        && header.dst_len == 0
        && header.tos == 0
        && header.flags.bits() & RULE_INVERT == 0;
    if !plain {
        return None;
    }
    let (mut priority, mut from, mut table) = (0, None, u32::from(header.table));
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Priority(found) => priority = *found,
            RuleAttribute::Source(found) => from = Some(*found),
            RuleAttribute::Table(found) => table = *found,
            RuleAttribute::Protocol(_)
            | RuleAttribute::SuppressPrefixLen(u32::MAX)
            | RuleAttribute::SuppressIfGroup(u32::MAX)
            | RuleAttribute::L3MDev(false) => {}
            _ => return None,
        }
    }
    let from = IpNet::new(from?, header.src_len).ok()?.trunc();
    (![MAIN, LOCAL, DEFAULT].contains(&table)).then_some((priority, from, table))
}

/// The request for all routes of one table.
pub(super) fn table_dump(of: AddressFamily, table: u32) -> RouteNetlinkMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = super::encode::family(of);
    message.attributes.push(RouteAttribute::Table(table));
    RouteNetlinkMessage::GetRoute(message)
}

/// A static neighbour on one of our devices.
pub(super) fn neighbour(message: &NeighbourMessage, links: &BTreeMap<u32, LinkState>) -> Option<Neighbour> {
    let link = links.get(&message.header.ifindex).filter(|link| link.is_ours())?;
    if message.header.state != NeighbourState::Permanent {
        return None;
    }
    let mac = message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::LinkLayerAddress(bytes) => <[u8; 6]>::try_from(bytes.as_slice()).ok(),
        _ => None,
    });
    Some(Neighbour { link: link.name.clone(), address: neighbour_address(message)?, mac: Mac(mac?) })
}

pub(super) fn neighbour_address(message: &NeighbourMessage) -> Option<IpAddr> {
    message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => Some(IpAddr::V4(*v4)),
        NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => Some(IpAddr::V6(*v6)),
        _ => None,
    })
}

/// A neighbour that the kernel has no MAC address of.
pub(super) fn unresolved(
    message: &NeighbourMessage,
    links: &BTreeMap<u32, LinkState>,
) -> Option<(LinkNeighbour, Resolution)> {
    let resolution = match message.header.state {
        NeighbourState::Incomplete => Resolution::Asking,
        NeighbourState::Failed => Resolution::Failed,
        _ => return None,
    };
    let link = links.get(&message.header.ifindex).filter(|link| !link.is_ours())?;
    Some(((link.name.clone(), neighbour_address(message)?), resolution))
}

/// The table a route message is about.
pub(super) fn table(message: &RouteMessage) -> u32 {
    parts(message).table
}
