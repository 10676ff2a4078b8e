//! Helpers that build nft statements: fields of a family, verdicts, sets of addresses.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};

use ipnet::IpNet;

use crate::core::cidr::{AddressRange as Addresses, RangeSet};
use crate::core::state::nft::{AddressFamily, ElementData, ElementKey, Field, KeyType, MatchValue, Statement, Verdict};
use crate::core::state::ownership::TUNNEL;

pub(super) fn saddr(family: AddressFamily) -> Field {
    match family {
        AddressFamily::V4 => Field::Ip4Saddr,
        AddressFamily::V6 => Field::Ip6Saddr,
    }
}

pub(super) fn daddr(family: AddressFamily) -> Field {
    match family {
        AddressFamily::V4 => Field::Ip4Daddr,
        AddressFamily::V6 => Field::Ip6Daddr,
    }
}

/// The original source of the connection.
pub(super) fn began_by(family: AddressFamily) -> Field {
    match family {
        AddressFamily::V4 => Field::CtOriginal4,
        AddressFamily::V6 => Field::CtOriginal6,
    }
}

/// The address that the connection's source was translated to.
pub(super) fn translated_to(family: AddressFamily) -> Field {
    match family {
        AddressFamily::V4 => Field::CtReply4,
        AddressFamily::V6 => Field::CtReply6,
    }
}

/// Where its route leads the packet.
pub(super) fn next_hop(family: AddressFamily) -> Field {
    match family {
        AddressFamily::V4 => Field::RtNexthop4,
        AddressFamily::V6 => Field::RtNexthop6,
    }
}

pub(super) fn address_key(family: AddressFamily) -> KeyType {
    match family {
        AddressFamily::V4 => KeyType::Ipv4Addr,
        AddressFamily::V6 => KeyType::Ipv6Addr,
    }
}

pub(super) fn accept() -> Statement {
    Statement::Verdict(Verdict::Accept)
}

pub(super) fn drop() -> Statement {
    Statement::Verdict(Verdict::Drop)
}

pub(super) fn goto(chain: &str) -> Statement {
    Statement::Verdict(Verdict::Goto(chain.to_owned()))
}

pub(super) fn is_reply() -> Statement {
    Statement::Compare { field: Field::CtDirection, mask: None, negated: false, value: MatchValue::Reply(true) }
}

/// Every IPv6 packet that a router forwards: the unspecified address is no source of one (RFC 4291, 2.5.2).
pub(super) fn any_ipv6() -> Statement {
    let value = MatchValue::Address(Ipv6Addr::UNSPECIFIED.into());
    Statement::Compare { field: Field::Ip6Saddr, mask: None, negated: true, value }
}

pub(super) fn is_original() -> Statement {
    Statement::Compare { field: Field::CtDirection, mask: None, negated: false, value: MatchValue::Reply(false) }
}

pub(super) fn in_set(field: Field, negated: bool, set: String) -> Statement {
    Statement::InSet { fields: vec![field], mask: None, negated, set }
}

pub(super) fn device(field: Field) -> Statement {
    Statement::Compare { field, mask: None, negated: false, value: MatchValue::Interface(TUNNEL.to_owned()) }
}

pub(super) fn ranges(set: &RangeSet, family: AddressFamily) -> BTreeMap<ElementKey, Option<ElementData>> {
    let of_family = |range: &&Addresses| AddressFamily::of(range.first()) == family;
    set.ranges().iter().filter(of_family).map(|range| (ElementKey::Range(range.first(), range.last()), None)).collect()
}

/// Every address of a family.
pub(super) fn whole(family: AddressFamily) -> RangeSet {
    let everything = match family {
        AddressFamily::V4 => IpNet::V4(ipnet::Ipv4Net::default()),
        AddressFamily::V6 => IpNet::V6(ipnet::Ipv6Net::default()),
    };
    [everything].into_iter().collect()
}

/// 224.0.0.0/4 (RFC 5771) and ff00::/8 (RFC 4291).
pub(super) fn multicast_range(family: AddressFamily) -> ElementKey {
    let (first, last): (IpAddr, IpAddr) = match family {
        AddressFamily::V4 => ([224, 0, 0, 0].into(), [239, 255, 255, 255].into()),
        AddressFamily::V6 => ([0xff00, 0, 0, 0, 0, 0, 0, 0].into(), [0xffff; 8].into()),
    };
    ElementKey::Range(first, last)
}
