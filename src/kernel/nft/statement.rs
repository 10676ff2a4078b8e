//! Encodes statements as nftables expressions, with nft's syntax above the code that builds each.
//!
//! The output is canonical: a statement has one form only, the one that the nft program builds too, so that `nft list`
//! prints it as [`Statement`]'s text. Not here: decoding (`recognise`) and the bytes (`expression`).

use std::net::IpAddr;

use crate::core::state::nft::{AddressFamily, Field, MatchValue, NftRule, Statement, TableFamily};

use super::expression::{Expression, Found, Register};
use super::mss;
use super::uapi::*;

/// What a rule has to have tested before it may load a field of the packet.
///
/// In the `inet` family an IPv6 packet has no `ip saddr`, yet there are bytes at its place: nft therefore puts `meta
/// nfproto ipv4` before it, `meta l4proto udp` before a port, and `meta iiftype ether` before a MAC address. In `netdev`,
/// `meta protocol ip` identifies IPv4.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dependency {
    /// `meta nfproto ipv4` or `ipv6`.
    Network(AddressFamily),
    /// The same in `netdev`: `meta protocol ip` or `ip6`.
    Protocol(AddressFamily),
    /// `meta l4proto udp`.
    Udp,
    /// `meta l4proto tcp`.
    Tcp,
    /// `meta iiftype ether`.
    Ethernet,
}

/// `IPPROTO_UDP`
const UDP: u8 = 17;
/// `IPPROTO_TCP`
const TCP: u8 = 6;

/// What the statements of a rule so far have established.
#[derive(Debug, Clone, Copy)]
pub(super) struct Established {
    family: TableFamily,
    network: Option<AddressFamily>,
    udp: bool,
    tcp: bool,
    ethernet: bool,
}

impl Established {
    /// At the beginning of a rule.
    pub(super) fn nothing(family: TableFamily) -> Self {
        Self { family, network: None, udp: false, tcp: false, ethernet: false }
    }

    /// The dependencies that these fields need and the rule has not established yet; marks them as established.
    pub(super) fn missing_for(&mut self, fields: &[Field]) -> Vec<Dependency> {
        let mut missing = Vec::new();
        for field in fields {
            match dependency(*field) {
                Some(Dependency::Network(network)) if self.network != Some(network) => {
                    self.network = Some(network);
                    missing.push(match self.family {
                        TableFamily::Inet => Dependency::Network(network),
                        TableFamily::Netdev => Dependency::Protocol(network),
                    });
                }
                Some(Dependency::Ethernet) if !self.ethernet => {
                    self.ethernet = true;
                    missing.push(Dependency::Ethernet);
                }
                Some(Dependency::Udp) if !self.udp => {
                    self.udp = true;
                    missing.push(Dependency::Udp);
                }
                Some(Dependency::Tcp) if !self.tcp => {
                    self.tcp = true;
                    missing.push(Dependency::Tcp);
                }
                _ => {}
            }
        }
        missing
    }
}

fn dependency(field: Field) -> Option<Dependency> {
    match field {
        Field::Ip4Saddr | Field::Ip4Daddr => Some(Dependency::Network(AddressFamily::V4)),
        Field::Ip6Saddr | Field::Ip6Daddr => Some(Dependency::Network(AddressFamily::V6)),
        Field::UdpDport => Some(Dependency::Udp),
        Field::TcpDport => Some(Dependency::Tcp),
        Field::EtherDaddr => Some(Dependency::Ethernet),
        // A connection without such an address does not match, whatever its family (net/netfilter/nft_ct.c).
        Field::CtOriginal4
        | Field::CtOriginal6
        | Field::CtReply4
        | Field::CtReply6
        // Nor does a route of the other family (net/netfilter/nft_rt.c).
        | Field::RtNexthop4
        | Field::RtNexthop6
        | Field::MetaMark
        | Field::CtMark
        | Field::CtDirection
        | Field::Iifname
        | Field::Oifname
        | Field::Iifkind => None,
    }
}

impl Dependency {
    /// All dependencies.
    pub(super) const ALL: [Self; 7] = [
        Self::Network(AddressFamily::V4),
        Self::Network(AddressFamily::V6),
        Self::Protocol(AddressFamily::V4),
        Self::Protocol(AddressFamily::V6),
        Self::Udp,
        Self::Tcp,
        Self::Ethernet,
    ];

    /// `meta nfproto ipv4`, `meta protocol ip6`, `meta l4proto udp`, `meta iiftype ether`.
    pub(super) fn expressions(self) -> [Expression; 2] {
        let (key, value) = match self {
            Self::Network(family) => (NFT_META_NFPROTO, vec![super::expression::protocol(family)]),
            Self::Protocol(AddressFamily::V4) => (NFT_META_PROTOCOL, ETH_P_IP.to_be_bytes().to_vec()),
            Self::Protocol(AddressFamily::V6) => (NFT_META_PROTOCOL, ETH_P_IPV6.to_be_bytes().to_vec()),
            Self::Udp => (NFT_META_L4PROTO, vec![UDP]),
            Self::Tcp => (NFT_META_L4PROTO, vec![TCP]),
            Self::Ethernet => (NFT_META_IIFTYPE, ARPHRD_ETHER.to_ne_bytes().to_vec()),
        };
        let register = Register::FIRST;
        [Expression::Meta { key, register }, Expression::Compare { register, negated: false, value }]
    }
}

/// The fields of a statement that need a dependency.
pub(super) fn fields(statement: &Statement) -> Vec<Field> {
    match statement {
        Statement::Compare { field, .. }
        | Statement::VerdictMap { field, .. }
        | Statement::MarkFromMap { field, .. }
        | Statement::SetMark { field, .. } => vec![*field],
        Statement::InSet { fields, .. } => fields.clone(),
        // `snat ip` itself skips packets of the other family (net/netfilter/nft_nat.c, nft_nat_inet_eval).
        Statement::SnatMap { .. }
        | Statement::SnatTo { .. }
        | Statement::SnatTcpTo { .. }
        | Statement::PacketForHost
        | Statement::Reset
        | Statement::WithoutSyn
        | Statement::NoTrack
        | Statement::NoRouteBack
        | Statement::FromThisHost
        | Statement::ToThisHost
        | Statement::CtState { .. }
        | Statement::ClampMss
        | Statement::Counter
        | Statement::Verdict(_)
        | Statement::Unknown(_) => Vec::new(),
    }
}

/// The expressions of a rule; the error is the statement that cannot be expressed.
pub(super) fn expressions_of(family: TableFamily, rule: &NftRule) -> Result<Vec<Expression>, &Statement> {
    let mut established = Established::nothing(family);
    let mut expressions = Vec::new();
    for statement in &rule.0 {
        let missing = established.missing_for(&fields(statement));
        expressions.extend(missing.into_iter().flat_map(Dependency::expressions));
        expressions.extend(own_expressions(statement).ok_or(statement)?);
    }
    Ok(expressions)
}

/// A statement's own expressions, without its dependencies. None for an invalid statement: a port that is compared with
/// an address, a mask on a name, or anything unknown.
pub(super) fn own_expressions(statement: &Statement) -> Option<Vec<Expression>> {
    let register = Register::FIRST;
    match statement {
        // meta mark & 0x1fff == 0x3
        Statement::Compare { field, mask, negated, value } => {
            let compare = Expression::Compare { register, negated: *negated, value: value_bytes(*field, value)? };
            Some([load(*field, *mask, register)?, vec![compare]].concat())
        }
        Statement::InSet { fields, mask, negated, set } => in_set(fields, *mask, *negated, set),
        // ip daddr vmap @destinations
        Statement::VerdictMap { field, mask, map } => {
            Some([load(*field, *mask, register)?, vec![mapped(map, Found::Verdict)]].concat())
        }
        // ct state new: any of the bits, hence "not equal to 0"
        Statement::CtState { bits, negated } => Some(vec![
            Expression::Ct { key: NFT_CT_STATE, register },
            Expression::Bitwise { register, mask: *bits, xor: 0 },
            Expression::Compare { register, negated: !negated, value: vec![0; 4] },
        ]),
        Statement::SetMark { field, keep, value } => set_mark(*field, *keep, *value),
        // meta mark set ip saddr map @peers4
        Statement::MarkFromMap { field, map } => {
            let set = Expression::SetMeta { key: NFT_META_MARK, register };
            Some([load(*field, None, register)?, vec![mapped(map, Found::Register(register)), set]].concat())
        }
        // snat ip to ct mark & 0x1fff map @egress_ip4
        Statement::SnatMap { family, mask, map } => Some(vec![
            Expression::Ct { key: NFT_CT_MARK, register },
            Expression::Bitwise { register, mask: *mask, xor: 0 },
            mapped(map, Found::Register(register)),
            Expression::Snat { family: *family, register, random: false },
        ]),
        // snat ip to 10.1.1.254
        Statement::SnatTo { address } => Some(vec![
            Expression::Value { register, value: octets(*address) },
            Expression::Snat { family: AddressFamily::of(*address), register, random: false },
        ]),
        // meta l4proto tcp snat ip to 10.1.1.254 fully-random
        Statement::SnatTcpTo { address } => Some(vec![
            Expression::Meta { key: NFT_META_L4PROTO, register },
            Expression::Compare { register, negated: false, value: vec![mss::TCP] },
            Expression::Value { register, value: octets(*address) },
            Expression::Snat { family: AddressFamily::of(*address), register, random: true },
        ]),
        // meta pkttype set host
        Statement::PacketForHost => Some(vec![
            Expression::Value { register, value: vec![PACKET_HOST] },
            Expression::SetMeta { key: NFT_META_PKTTYPE, register },
        ]),
        // reject with tcp reset
        Statement::Reset => Some(reset()),
        // tcp flags ! syn
        Statement::WithoutSyn => Some(without_syn()),
        // notrack
        Statement::NoTrack => Some(vec![Expression::NoTrack]),
        // fib saddr . iif oif missing
        Statement::NoRouteBack => Some(no_route_back()),
        // fib saddr type local
        Statement::FromThisHost => Some(is_local(NFTA_FIB_F_SADDR)),
        // fib daddr type local
        Statement::ToThisHost => Some(is_local(NFTA_FIB_F_DADDR)),
        // tcp flags syn tcp option maxseg size set rt mtu
        Statement::ClampMss => Some(clamp_mss()),
        // counter
        Statement::Counter => Some(vec![Expression::Counter { packets: 0, bytes: 0 }]),
        // goto group_1
        Statement::Verdict(verdict) => Some(vec![Expression::Verdict(verdict.clone())]),
        Statement::Unknown(_) => None,
    }
}

/// What a map has for the first register.
fn mapped(map: &str, found: Found) -> Expression {
    Expression::Lookup { set: map.to_owned(), key: Register::FIRST, found, negated: false }
}

fn no_route_back() -> Vec<Expression> {
    let (register, flags) = (Register::FIRST, NFTA_FIB_F_SADDR | NFTA_FIB_F_IIF | NFTA_FIB_F_PRESENT);
    vec![
        Expression::Fib { result: NFT_FIB_RESULT_OIF, flags, register },
        Expression::Compare { register, negated: false, value: vec![0; 4] },
    ]
}

fn is_local(flags: u32) -> Vec<Expression> {
    let register = Register::FIRST;
    vec![
        Expression::Fib { result: NFT_FIB_RESULT_ADDRTYPE, flags, register },
        Expression::Compare { register, negated: false, value: RTN_LOCAL.to_ne_bytes().to_vec() },
    ]
}

/// `reject with tcp reset`, behind what nft puts before it: `meta l4proto tcp`.
pub(super) fn reset() -> Vec<Expression> {
    let register = Register::FIRST;
    vec![
        Expression::Meta { key: NFT_META_L4PROTO, register },
        Expression::Compare { register, negated: false, value: vec![mss::TCP] },
        Expression::Reset,
    ]
}

/// `tcp flags ! syn`
pub(super) fn without_syn() -> Vec<Expression> {
    syn(false)
}

/// `tcp flags syn` or `tcp flags ! syn`
fn syn(set: bool) -> Vec<Expression> {
    let register = Register::FIRST;
    vec![
        Expression::Meta { key: NFT_META_L4PROTO, register },
        Expression::Compare { register, negated: false, value: vec![mss::TCP] },
        Expression::Payload { base: NFT_PAYLOAD_TRANSPORT_HEADER, offset: mss::FLAGS_OFFSET, length: 1, register },
        Expression::Mss(mss::Part::SynFlag),
        Expression::Compare { register, negated: set, value: vec![0] },
    ]
}

/// `tcp flags syn tcp option maxseg size set rt mtu`
pub(super) fn clamp_mss() -> Vec<Expression> {
    let register = Register::FIRST;
    let mut expressions = syn(true);
    expressions.extend([
        Expression::Rt { key: NFT_RT_TCPMSS, register },
        Expression::Mss(mss::Part::NetworkOrder),
        Expression::Mss(mss::Part::Write),
    ]);
    expressions
}

/// `meta mark & 0x1fff . ip saddr @egress`: the fields are concatenated, each starting at a word boundary.
fn in_set(fields: &[Field], mask: Option<u32>, negated: bool, set: &str) -> Option<Vec<Expression>> {
    let mut expressions = Vec::new();
    let mut word = 0;
    for (position, field) in fields.iter().enumerate() {
        let mask = if position == 0 { mask } else { None };
        expressions.extend(load(*field, mask, Register(word))?);
        word += words(*field);
    }
    // The registers have sixteen words; without a field there is nothing to look up.
    if fields.is_empty() || word > 16 {
        return None;
    }
    expressions.push(Expression::Lookup { set: set.to_owned(), key: Register::FIRST, found: Found::Nowhere, negated });
    Some(expressions)
}

/// `meta mark set meta mark & 0xffffe000 | 0x3`: one bitwise expression, as nft builds it. XOR acts as OR because the
/// bits that are set are not among those that are kept. With no bit kept it is `meta mark set 0x3`.
fn set_mark(field: Field, keep: u32, value: u32) -> Option<Vec<Expression>> {
    let register = Register::FIRST;
    let (load, store) = match field {
        Field::MetaMark => {
            (Expression::Meta { key: NFT_META_MARK, register }, Expression::SetMeta { key: NFT_META_MARK, register })
        }
        Field::CtMark => {
            (Expression::Ct { key: NFT_CT_MARK, register }, Expression::SetCt { key: NFT_CT_MARK, register })
        }
        _ => return None,
    };
    if keep == 0 {
        return Some(vec![Expression::Value { register, value: value.to_ne_bytes().to_vec() }, store]);
    }
    (keep & value == 0).then(|| vec![load, Expression::Bitwise { register, mask: keep, xor: value }, store])
}

/// Loads a field, and masks it.
fn load(field: Field, mask: Option<u32>, register: Register) -> Option<Vec<Expression>> {
    let mut expressions = vec![load_plain(field, register)];
    match (mask, field) {
        (None, _) => {}
        (Some(mask), Field::MetaMark | Field::CtMark) => {
            expressions.push(Expression::Bitwise { register, mask, xor: 0 });
        }
        (Some(_), _) => return None,
    }
    Some(expressions)
}

/// Offsets are those of `saddr` and `daddr` in RFC 791 and RFC 8200, and of the destination port in RFC 768.
pub(super) fn load_plain(field: Field, register: Register) -> Expression {
    let network = |offset, length| Expression::Payload { base: NFT_PAYLOAD_NETWORK_HEADER, offset, length, register };
    match field {
        Field::MetaMark => Expression::Meta { key: NFT_META_MARK, register },
        Field::CtMark => Expression::Ct { key: NFT_CT_MARK, register },
        Field::CtDirection => Expression::Ct { key: NFT_CT_DIRECTION, register },
        Field::Iifname => Expression::Meta { key: NFT_META_IIFNAME, register },
        Field::Oifname => Expression::Meta { key: NFT_META_OIFNAME, register },
        Field::Ip4Saddr => network(12, 4),
        Field::Ip4Daddr => network(16, 4),
        Field::Ip6Saddr => network(8, 16),
        Field::Ip6Daddr => network(24, 16),
        Field::UdpDport | Field::TcpDport => {
            Expression::Payload { base: NFT_PAYLOAD_TRANSPORT_HEADER, offset: 2, length: 2, register }
        }
        Field::EtherDaddr => Expression::Payload { base: NFT_PAYLOAD_LL_HEADER, offset: 0, length: 6, register },
        Field::Iifkind => Expression::Meta { key: NFT_META_IIFKIND, register },
        Field::CtOriginal4 => Expression::CtOf { key: NFT_CT_SRC_IP, reply: false, register },
        Field::CtOriginal6 => Expression::CtOf { key: NFT_CT_SRC_IP6, reply: false, register },
        Field::CtReply4 => Expression::CtOf { key: NFT_CT_DST_IP, reply: true, register },
        Field::CtReply6 => Expression::CtOf { key: NFT_CT_DST_IP6, reply: true, register },
        Field::RtNexthop4 => Expression::Rt { key: NFT_RT_NEXTHOP4, register },
        Field::RtNexthop6 => Expression::Rt { key: NFT_RT_NEXTHOP6, register },
    }
}

/// The number of 32-bit register words a field takes.
pub(super) fn words(field: Field) -> u32 {
    match field {
        Field::Iifname
        | Field::Oifname
        | Field::Iifkind
        | Field::Ip6Saddr
        | Field::Ip6Daddr
        | Field::CtOriginal6
        | Field::CtReply6
        | Field::RtNexthop6 => 4,
        Field::EtherDaddr => 2,
        Field::MetaMark
        | Field::CtMark
        | Field::CtDirection
        | Field::Ip4Saddr
        | Field::Ip4Daddr
        | Field::CtOriginal4
        | Field::CtReply4
        | Field::RtNexthop4
        | Field::UdpDport
        | Field::TcpDport => 1,
    }
}

/// The register's bytes for this value: the kernel's own numbers in host order, the packet's in network order.
fn value_bytes(field: Field, value: &MatchValue) -> Option<Vec<u8>> {
    match (field, value) {
        (Field::MetaMark | Field::CtMark, MatchValue::Mark(number)) => Some(number.to_ne_bytes().to_vec()),
        (Field::CtDirection, MatchValue::Reply(reply)) => Some(vec![u8::from(*reply)]),
        (Field::Iifname | Field::Oifname | Field::Iifkind, MatchValue::Interface(name)) => {
            interface_bytes(name).map(Vec::from)
        }
        (Field::EtherDaddr, MatchValue::Mac(mac)) => Some(mac.0.to_vec()),
        (Field::UdpDport | Field::TcpDport, MatchValue::Port(port)) => Some(port.to_be_bytes().to_vec()),
        (
            Field::Ip4Saddr | Field::Ip4Daddr | Field::CtOriginal4 | Field::CtReply4 | Field::RtNexthop4,
            MatchValue::Address(IpAddr::V4(address)),
        ) => Some(address.octets().to_vec()),
        (
            Field::Ip6Saddr | Field::Ip6Daddr | Field::CtOriginal6 | Field::CtReply6 | Field::RtNexthop6,
            MatchValue::Address(IpAddr::V6(address)),
        ) => Some(address.octets().to_vec()),
        _ => None,
    }
}

/// An address in network order.
pub(super) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// A name as the kernel stores it: `IFNAMSIZ`, sixteen bytes, at least the last of them NUL.
pub(super) fn interface_bytes(name: &str) -> Option<[u8; 16]> {
    let mut bytes = [0; 16];
    let fits = !name.is_empty() && name.len() < bytes.len() && !name.contains('\0');
    fits.then(|| {
        bytes[..name.len()].copy_from_slice(name.as_bytes());
        bytes
    })
}

/// The name in sixteen bytes; none without a NUL terminator, or with bytes behind it: nft's encoding of `"eth*"`.
pub(super) fn interface_name(bytes: &[u8]) -> Option<String> {
    let name = bytes.split(|byte| *byte == 0).next()?;
    let name = std::str::from_utf8(name).ok()?;
    interface_bytes(name).filter(|whole| whole == bytes).map(|_| name.to_owned())
}
