//! Encodes rules, routes, neighbours, addresses and links as rtnetlink messages. Each function names the equivalent `ip`
//! command.

use std::net::IpAddr;

use ipnet::IpNet;
use rtnetlink::packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressScope, CacheInfo,
};
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use rtnetlink::packet_route::neighbour::{NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteIp6Tunnel, RouteIp6TunnelFlags, RouteIpTunnel, RouteIpTunnelFlags,
    RouteLwEnCapType, RouteLwTunnelEncap, RouteMessage, RouteProtocol, RouteScope, RouteType, RouteVia,
};
use rtnetlink::packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use rtnetlink::packet_route::{AddressFamily as NetlinkFamily, RouteNetlinkMessage};
use rtnetlink::{LinkMessageBuilder, LinkVxlan};

use crate::core::state::net::{Encap, InterfaceAddress, Link, Neighbour, Route, RouteKey, RoutingRule};
use crate::core::state::nft::AddressFamily;
use crate::core::state::ownership::{PROTOCOL, is_of_tunnel};

pub(super) fn family(family: AddressFamily) -> NetlinkFamily {
    match family {
        AddressFamily::V4 => NetlinkFamily::Inet,
        AddressFamily::V6 => NetlinkFamily::Inet6,
    }
}

/// `ip rule add fwmark 0x1/0x1fff lookup 9001 priority 501 protocol 180`
pub(super) fn rule(rule: &RoutingRule) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.family = family(rule.family);
    message.header.action = RuleAction::ToTable;
    message.attributes = vec![
        RuleAttribute::Priority(rule.priority),
        RuleAttribute::Table(rule.table),
        RuleAttribute::Protocol(RouteProtocol::Other(PROTOCOL.0)),
    ];
    match rule.from {
        // ip rule add from 169.254.90.2 lookup 9000 priority 500 protocol 180
        Some(source) => {
            message.header.src_len = if source.is_ipv4() { 32 } else { 128 };
            message.attributes.push(RuleAttribute::Source(source));
        }
        None => message.attributes.extend([RuleAttribute::FwMark(rule.mark), RuleAttribute::FwMask(rule.mask)]),
    }
    message
}

/// `ip rule del priority 501 lookup 9001 protocol 180`: the kernel treats an attribute that is left out as a wildcard, so
/// a rule that another program altered, or that an older version left, is deleted too.
pub(super) fn rule_deletion(rule: &RoutingRule) -> RuleMessage {
    let mut message = self::rule(rule);
    message.header.action = RuleAction::Unspec;
    if rule.odd.is_some() {
        message
            .attributes
            .retain(|attribute| !matches!(attribute, RuleAttribute::FwMark(_) | RuleAttribute::FwMask(_)));
    }
    message
}

/// The part of a route message that adding and deleting share.
fn route_key(key: &RouteKey, kind: RouteType) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family(key.family);
    message.header.destination_prefix_length = key.destination.prefix_len();
    message.header.protocol = RouteProtocol::Other(PROTOCOL.0);
    message.header.kind = kind;
    if key.destination.prefix_len() > 0 {
        message.attributes.push(RouteAttribute::Destination(RouteAddress::from(key.destination.network())));
    }
    message.attributes.push(RouteAttribute::Table(key.table));
    if key.metric > 0 {
        message.attributes.push(RouteAttribute::Priority(key.metric));
    }
    message
}

fn kind_of(route: &Route) -> RouteType {
    match route {
        Route::Unreachable => RouteType::Unreachable,
        Route::Blackhole => RouteType::BlackHole,
        Route::Throw => RouteType::Throw,
        Route::Local { .. } => RouteType::Local,
        Route::Via { .. } | Route::Unknown(_) => RouteType::Unicast,
    }
}

/// `ip route replace default encap ip id 1 src 172.18.0.2 dst 172.18.0.3 via 169.254.128.1 dev egret0 onlink table 9001
/// proto 180`; `index` is the device's index, for routes that have one.
pub(super) fn route(key: &RouteKey, route: &Route, index: u32) -> RouteMessage {
    let mut message = route_key(key, kind_of(route));
    message.header.scope = RouteScope::Universe;
    if let Route::Local { .. } = route {
        message.header.scope = RouteScope::Host;
        message.attributes.push(RouteAttribute::Oif(index));
    }
    let Route::Via { gateway, onlink, encap, .. } = route else { return message };
    if gateway.is_none() && key.family == AddressFamily::V4 {
        message.header.scope = RouteScope::Link;
    }
    if *onlink {
        message.header.flags.insert(RouteFlags::Onlink);
    }
    message.attributes.push(RouteAttribute::Oif(index));
    match gateway {
        // via inet6 fe80::1
        Some(IpAddr::V6(hop)) if key.family == AddressFamily::V4 => {
            message.attributes.push(RouteAttribute::Via(RouteVia::Inet6(*hop)));
        }
        Some(hop) => message.attributes.push(RouteAttribute::Gateway(RouteAddress::from(*hop))),
        None => {}
    }
    if let Some(encap) = encap {
        message.attributes.extend(encapsulation(*encap));
    }
    message
}

/// `encap ip id 1 src 172.18.0.2 dst 172.18.0.3`, `encap ip6 id 1 src fd00::2 dst fd00::3 csum`
fn encapsulation(Encap { id, source, peer, checksum }: Encap) -> [RouteAttribute; 2] {
    let id = u64::from(id);
    let (kind, parts) = match peer {
        IpAddr::V4(peer) => {
            let mut parts = vec![RouteIpTunnel::Id(id), RouteIpTunnel::Destination(peer)];
            if let Some(IpAddr::V4(source)) = source {
                parts.push(RouteIpTunnel::Source(source));
            }
            if checksum {
                parts.push(RouteIpTunnel::Flags(RouteIpTunnelFlags::Checksum));
            }
            (RouteLwEnCapType::Ip, parts.into_iter().map(RouteLwTunnelEncap::Ip).collect())
        }
        IpAddr::V6(peer) => {
            let mut parts = vec![RouteIp6Tunnel::Id(id), RouteIp6Tunnel::Destination(peer)];
            if let Some(IpAddr::V6(source)) = source {
                parts.push(RouteIp6Tunnel::Source(source));
            }
            if checksum {
                parts.push(RouteIp6Tunnel::Flags(RouteIp6TunnelFlags::Checksum));
            }
            (RouteLwEnCapType::Ip6, parts.into_iter().map(RouteLwTunnelEncap::Ip6).collect())
        }
    };
    [RouteAttribute::EncapType(kind), RouteAttribute::Encap(parts)]
}

/// `ip route del ...`: without the next hop, so that a route another program altered is deleted too.
pub(super) fn route_deletion(key: &RouteKey) -> RouteMessage {
    let mut message = route_key(key, RouteType::Unspec);
    message.header.scope = RouteScope::NoWhere;
    message
}

/// `ip neigh replace 172.18.0.3 dev egret0 lladdr 02:00:ac:12:00:03 nud permanent`
pub(super) fn neighbour(neighbour: &Neighbour, index: u32) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = family(AddressFamily::of(neighbour.address));
    message.header.ifindex = index;
    message.header.state = NeighbourState::Permanent;
    message.attributes = vec![
        NeighbourAttribute::Destination(neighbour.address.into()),
        NeighbourAttribute::LinkLayerAddress(neighbour.mac.0.to_vec()),
    ];
    message
}

/// `ip neigh add 10.0.3.1 dev net1 use`: the kernel asks for the neighbour as for a packet (`NTF_USE`, `neigh_add` in net/core/neighbour.c).
pub(super) fn use_of_neighbour(address: IpAddr, index: u32) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = family(AddressFamily::of(address));
    message.header.ifindex = index;
    message.header.flags = NeighbourFlags::Use;
    message.attributes = vec![NeighbourAttribute::Destination(address.into())];
    message
}

/// `ip addr add 169.254.90.1/32 scope link dev egret0`
pub(super) fn address(address: &InterfaceAddress, index: u32) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = family(AddressFamily::of(address.address.addr()));
    message.header.prefix_len = address.address.prefix_len();
    message.header.scope = if is_of_tunnel(address) { AddressScope::Link } else { AddressScope::Universe };
    message.header.flags = AddressHeaderFlags::empty();
    message.header.index = index;
    if !is_of_tunnel(address) {
        // Deprecated, so that the node's own connections never begin with it; the kernel need not ask whether another host has it, as
        // that is known (`core::assignment::holding`).
        let mut lifetimes = CacheInfo::default();
        (lifetimes.ifa_preferred, lifetimes.ifa_valid) = (0, u32::MAX);
        message.attributes.push(AddressAttribute::CacheInfo(lifetimes));
        message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad | AddressFlags::Noprefixroute));
    }
    message.attributes.push(AddressAttribute::Address(address.address.addr()));
    if let IpNet::V4(_) = address.address {
        message.attributes.push(AddressAttribute::Local(address.address.addr()));
    }
    message
}

/// `ip link add egret0 type vxlan external dstport 4790 nolearning address 02:00:... mtu 1450 up`
pub(super) fn link(name: &str, link: &Link) -> LinkMessage {
    let builder = LinkMessageBuilder::<LinkVxlan>::new(name)
        .collect_metadata(link.external)
        .port(link.port)
        .learning(false)
        .address(link.mac.0.to_vec())
        .mtu(link.mtu);
    if link.up { builder.up().build() } else { builder.build() }
}

/// `ip link set egret0 mtu 1450 up`
pub(super) fn link_change(index: u32, link: &Link) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.attributes.push(LinkAttribute::Mtu(link.mtu));
    message.header.change_mask = LinkFlags::Up;
    if link.up {
        message.header.flags = LinkFlags::Up;
    }
    message
}

/// `ip route get`: the route to another node from an address of this one, for a packet without a mark.
pub(super) fn route_to(peer: IpAddr, from: IpAddr) -> RouteNetlinkMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family(AddressFamily::of(peer));
    let whole = if peer.is_ipv4() { 32 } else { 128 };
    message.header.destination_prefix_length = whole;
    message.attributes.push(RouteAttribute::Destination(RouteAddress::from(peer)));
    if peer.is_ipv4() == from.is_ipv4() {
        message.header.source_prefix_length = whole;
        message.attributes.push(RouteAttribute::Source(RouteAddress::from(from)));
    }
    RouteNetlinkMessage::GetRoute(message)
}

/// A dump request for the routes of one family: Egret's, or those of the main table.
pub(super) fn route_dump(of: AddressFamily, main: bool) -> RouteNetlinkMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family(of);
    if main {
        message.header.table = rtnetlink::packet_route::route::RouteHeader::RT_TABLE_MAIN;
    } else {
        message.header.protocol = RouteProtocol::Other(PROTOCOL.0);
    }
    RouteNetlinkMessage::GetRoute(message)
}
