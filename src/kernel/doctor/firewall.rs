//! Evaluates what foreign chains do with Egret's packets: in the forward hook with those that leave the tunnel on a gateway,
//! and the replies that re-enter it; in the input and output hooks with the tunnel's own, between the nodes.
//!
//! Each rule runs on what is known of such a packet; where a rule tests something unknown, both branches are followed.
//! The result is the set of possible verdicts. Not here: sets and maps, which count as unknown, and iptables-legacy.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

use super::super::foreign::{ForeignExpression, ForeignRule};
use super::survey::ForeignChain;
use crate::core::state::nft::AddressFamily;
use crate::core::state::ownership::TUNNEL;

/// include/uapi/linux/netfilter/nf_tables.h
const NFT_META_MARK: u32 = 3;
const NFT_META_IIFNAME: u32 = 6;
const NFT_META_OIFNAME: u32 = 7;
const NFT_META_NFPROTO: u32 = 15;
const NFT_META_L4PROTO: u32 = 16;
const NFT_CT_STATE: u32 = 0;
const NFT_PAYLOAD_NETWORK_HEADER: u32 = 1;
const NFT_PAYLOAD_TRANSPORT_HEADER: u32 = 2;
const NFT_CMP_EQ: u32 = 0;
const NFT_CMP_NEQ: u32 = 1;
const NFT_CMP_LT: u32 = 2;
const NFT_CMP_LTE: u32 = 3;
const NFT_CMP_GT: u32 = 4;
const NFT_CMP_GTE: u32 = 5;
const NFT_RANGE_NEQ: u32 = 1;
const NFT_JUMP: i32 = -3;
const NFT_GOTO: i32 = -4;
const NFT_RETURN: i32 = -5;
const NF_DROP: i32 = 0;
const NF_ACCEPT: i32 = 1;
/// include/uapi/linux/netfilter/nf_conntrack_common.h: `NF_CT_STATE_BIT` of established and of new connections.
const ESTABLISHED: u32 = 1 << 1;
const NEW: u32 = 1 << 3;
/// `NF_CT_STATE_UNTRACKED_BIT`
const UNTRACKED: u32 = 1 << 6;
/// `XT_CONNTRACK_STATE_UNTRACKED`, include/uapi/linux/netfilter/xt_conntrack.h.
const XT_UNTRACKED: u32 = 1 << 8;
/// include/uapi/linux/in.h
const IPPROTO_UDP: u8 = 17;
/// The kernel refuses deeper nesting of jumps (`NFT_JUMP_STACK_SIZE`).
const DEPTH: usize = 16;

/// Where a packet goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// Out of the tunnel, forwarded by a gateway.
    OutOfTunnel,
    /// Into the tunnel: a reply, forwarded by a gateway.
    IntoTunnel,
    /// The tunnel's own, from another node to this UDP port.
    Arrives(u16),
    /// The tunnel's own, to this UDP port of another node.
    Sent(u16),
}

/// A packet, as far as its fields are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TracedPacket {
    /// Its family.
    pub(super) family: AddressFamily,
    /// Where it goes.
    pub(super) way: Way,
    /// The addresses that stand for the node at the other end, if known: its source, or its destination where it goes there.
    pub(super) node: Option<IpNet>,
    /// The bits of its mark that are Egret's; the others are 0, as nothing else has marked it.
    pub(super) ours: u32,
}

impl TracedPacket {
    /// Whether the node at the other end is its destination.
    fn goes_there(self) -> bool {
        matches!(self.way, Way::IntoTunnel | Way::Sent(_))
    }

    /// Its UDP port.
    fn port(self) -> Option<u16> {
        match self.way {
            Way::Arrives(port) | Way::Sent(port) => Some(port),
            Way::OutOfTunnel | Way::IntoTunnel => None,
        }
    }
}

/// What may happen to a packet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct PacketVerdict {
    /// It may be let through.
    pub(super) accepted: bool,
    /// It may be dropped.
    pub(super) dropped: bool,
    /// It may reach the end of the chain.
    through: bool,
}

impl PacketVerdict {
    const ACCEPTED: Self = Self { accepted: true, dropped: false, through: false };
    const DROPPED: Self = Self { accepted: false, dropped: true, through: false };
    const THROUGH: Self = Self { accepted: false, dropped: false, through: true };
    const ANY: Self = Self { accepted: true, dropped: true, through: true };

    fn or(self, other: Self) -> Self {
        Self {
            accepted: self.accepted || other.accepted,
            dropped: self.dropped || other.dropped,
            through: self.through || other.through,
        }
    }
}

/// The possible verdicts of a base chain for a packet.
pub(super) fn fate(base: &ForeignChain, rules: &[ForeignRule], packet: TracedPacket) -> PacketVerdict {
    let fate = Walk { base, rules, packet, unknown: Meets::Perhaps }.chain(&base.name, 0);
    if !fate.through {
        return fate;
    }
    let policy = if base.drops { PacketVerdict::DROPPED } else { PacketVerdict::ACCEPTED };
    PacketVerdict { through: false, ..fate.or(policy) }
}

/// Whether a base chain drops what none of its rules is known to accept: by its policy, or by a last rule as in
/// firewalld.
pub(super) fn drops_by_default(base: &ForeignChain, rules: &[ForeignRule], packet: TracedPacket) -> bool {
    let fate = Walk { base, rules, packet, unknown: Meets::No }.chain(&base.name, 0);
    if fate.through { base.drops } else { fate.dropped }
}

struct Walk<'a> {
    base: &'a ForeignChain,
    rules: &'a [ForeignRule],
    packet: TracedPacket,
    /// What a condition that cannot be evaluated counts as.
    unknown: Meets,
}

/// Whether a packet meets a condition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Meets {
    Yes,
    No,
    Perhaps,
}

impl Meets {
    fn of(met: bool) -> Self {
        if met { Self::Yes } else { Self::No }
    }

    fn negated(self, negated: bool) -> Self {
        match self {
            Self::Yes if negated => Self::No,
            Self::No if negated => Self::Yes,
            other => other,
        }
    }
}

impl Walk<'_> {
    fn chain(&self, name: &str, depth: usize) -> PacketVerdict {
        if depth > DEPTH {
            return PacketVerdict::ANY;
        }
        let family = &self.base.family;
        let here = |rule: &&ForeignRule| {
            rule.chain == name
                && rule.table == self.base.table
                && super::super::foreign::family_name(rule.family) == *family
        };
        let mut fate = PacketVerdict::default();
        for rule in self.rules.iter().filter(here) {
            let (meets, verdict) = self.rule(rule, depth);
            let meets = if meets == Meets::Perhaps { self.unknown } else { meets };
            if meets == Meets::No {
                continue;
            }
            let Verdict { of, ends } = verdict;
            fate = fate.or(PacketVerdict { through: false, ..of });
            if meets == Meets::Yes {
                if ends {
                    return fate.or(PacketVerdict { accepted: false, dropped: false, ..of });
                }
                if !of.through {
                    return fate;
                }
            } else if ends && of.through {
                fate.through = true;
            }
        }
        PacketVerdict { through: true, ..fate }
    }

    fn rule(&self, rule: &ForeignRule, depth: usize) -> (Meets, Verdict) {
        let mut registers = BTreeMap::new();
        let mut meets = Meets::Yes;
        for expression in &rule.expressions {
            let condition = match expression.name.as_str() {
                "counter" | "log" | "notrack" | "objref" | "last" => continue,
                "immediate" if expression.register(1).is_none() => {
                    return (meets, self.verdict(expression, depth));
                }
                "reject" => return (meets, Verdict::last(PacketVerdict::DROPPED)),
                "target" => match expression.text(1) {
                    Some("REJECT") => return (meets, Verdict::last(PacketVerdict::DROPPED)),
                    // These translate or queue, with effects not modelled here; other targets only mark or count.
                    Some("NFQUEUE" | "SYNPROXY" | "TPROXY") => return (meets, Verdict::last(PacketVerdict::ANY)),
                    _ => continue,
                },
                "queue" | "fwd" | "synproxy" => return (meets, Verdict::last(PacketVerdict::ANY)),
                "match" => self.extension(expression),
                "cmp" => Self::compare(expression, &registers),
                // A verdict map: any of its verdicts, or none.
                "lookup" if expression.number(3) == Some(0) => {
                    return (Meets::Perhaps, Verdict::last(PacketVerdict::ANY));
                }
                "range" => Self::within(expression, &registers),
                "lookup" | "limit" | "quota" | "connlimit" | "dynset" => Meets::Perhaps,
                _ => {
                    self.load(expression, &mut registers);
                    continue;
                }
            };
            match condition {
                Meets::No => return (Meets::No, Verdict::next()),
                Meets::Perhaps => meets = Meets::Perhaps,
                Meets::Yes => {}
            }
        }
        (meets, Verdict::next())
    }

    fn verdict(&self, expression: &ForeignExpression, depth: usize) -> Verdict {
        use super::super::nft::wire;
        // NFTA_IMMEDIATE_DATA { NFTA_DATA_VERDICT { NFTA_VERDICT_CODE, NFTA_VERDICT_CHAIN } }
        let nested = expression.bytes(2).and_then(|data| wire::find(data, 2).ok().flatten()).unwrap_or_default();
        let code = wire::find_u32(nested, 1).ok().flatten().map(u32::cast_signed);
        let target = wire::find_text(nested, 2).ok().flatten().unwrap_or_default();
        match code {
            Some(NF_ACCEPT) => Verdict::last(PacketVerdict::ACCEPTED),
            Some(NF_DROP) => Verdict::last(PacketVerdict::DROPPED),
            Some(NFT_JUMP) => Verdict { of: self.chain(target, depth + 1), ends: false },
            Some(NFT_GOTO) => Verdict::last(self.chain(target, depth + 1)),
            Some(NFT_RETURN) => Verdict::last(PacketVerdict::THROUGH),
            _ => Verdict::last(PacketVerdict::ANY),
        }
    }

    /// Loads a value into a register, or changes one; unknown values are removed.
    fn load(&self, expression: &ForeignExpression, registers: &mut BTreeMap<u32, Value>) {
        let (to, value) = match expression.name.as_str() {
            "meta" => (expression.register(1), expression.number(2).and_then(|key| self.meta(key))),
            "ct" => {
                let state = expression.number(2) == Some(NFT_CT_STATE);
                (expression.register(1), state.then(|| Value::exact(&self.state().to_ne_bytes())))
            }
            "payload" => (expression.register(1), self.payload(expression)),
            "bitwise" => {
                let from = expression.register(1).and_then(|register| registers.get(&register));
                (expression.register(2), from.and_then(|value| value.bitwise(expression)))
            }
            // Any other expression makes its destination register unknown; most have it as their first attribute.
            _ => (expression.register(1), None),
        };
        let Some(to) = to else { return };
        match value {
            Some(value) => registers.insert(to, value),
            None => registers.remove(&to),
        };
    }

    fn meta(&self, key: u32) -> Option<Value> {
        let name = || {
            let mut bytes = [0; 16];
            bytes[..TUNNEL.len()].copy_from_slice(TUNNEL.as_bytes());
            Value::exact(&bytes)
        };
        match key {
            NFT_META_IIFNAME if self.packet.way == Way::OutOfTunnel => Some(name()),
            NFT_META_OIFNAME if self.packet.way == Way::IntoTunnel => Some(name()),
            // It has none.
            NFT_META_IIFNAME if matches!(self.packet.way, Way::Sent(_)) => None,
            NFT_META_OIFNAME if matches!(self.packet.way, Way::Arrives(_)) => None,
            // Another node is on a link of this one.
            NFT_META_IIFNAME | NFT_META_OIFNAME if self.packet.port().is_some() => {
                Some(Value { other_than: Some("lo"), ..Value::unknown(16) })
            }
            // Rules before this one may have marked it.
            NFT_META_MARK if self.packet.port().is_some() => None,
            NFT_META_L4PROTO => self.packet.port().map(|_| Value::exact(&[IPPROTO_UDP])),
            // The other interface is not known, but it is not the tunnel.
            NFT_META_IIFNAME | NFT_META_OIFNAME => Some(Value { other_than: Some(TUNNEL), ..Value::unknown(16) }),
            NFT_META_MARK => Some(Value { known: (!self.packet.ours).to_ne_bytes().to_vec(), ..Value::unknown(4) }),
            NFT_META_NFPROTO => Some(Value::exact(&[match self.packet.family {
                AddressFamily::V4 => 2,
                AddressFamily::V6 => 10,
            }])),
            _ => None,
        }
    }

    fn state(&self) -> u32 {
        match self.packet.way {
            Way::OutOfTunnel => NEW,
            Way::IntoTunnel => ESTABLISHED,
            // Egret's own table exempts them.
            Way::Arrives(_) | Way::Sent(_) => UNTRACKED,
        }
    }

    /// The address of the node's end, the protocol or the port, where the expression reads it.
    fn payload(&self, expression: &ForeignExpression) -> Option<Value> {
        let (offset, length) = (expression.number(3)?, expression.number(4)?);
        let (v4, port) = (self.packet.family == AddressFamily::V4, self.packet.port());
        match (expression.number(2)?, offset, length, port) {
            (NFT_PAYLOAD_TRANSPORT_HEADER, 2, 2, Some(port)) => return Some(Value::exact(&port.to_be_bytes())),
            // Both ports at once.
            (NFT_PAYLOAD_TRANSPORT_HEADER, 0, 4, Some(port)) => {
                let [high, low] = port.to_be_bytes();
                return Some(Value { bytes: vec![0, 0, high, low], known: vec![0, 0, 0xff, 0xff], other_than: None });
            }
            (NFT_PAYLOAD_NETWORK_HEADER, 9, 1, Some(_)) if v4 => return Some(Value::exact(&[IPPROTO_UDP])),
            (NFT_PAYLOAD_NETWORK_HEADER, 6, 1, Some(_)) if !v4 => return Some(Value::exact(&[IPPROTO_UDP])),
            (NFT_PAYLOAD_NETWORK_HEADER, ..) => {}
            _ => return None,
        }
        let (source, size) = if v4 { (12, 4) } else { (8, 16) };
        let begins = if self.packet.goes_there() { source + size } else { source };
        let (first, length) = (offset.checked_sub(begins)?, usize::try_from(length).ok()?);
        let net = self.packet.node?;
        let whole = Value::network(net);
        let first = usize::try_from(first).ok()?;
        Some(Value {
            known: whole.known.get(first..first + length)?.to_vec(),
            bytes: whole.bytes.get(first..first + length)?.to_vec(),
            other_than: None,
        })
    }

    fn compare(expression: &ForeignExpression, registers: &BTreeMap<u32, Value>) -> Meets {
        let value = expression.register(1).and_then(|register| registers.get(&register));
        let (Some(value), Some(with), Some(how)) = (value, expression.value(3), expression.number(2)) else {
            return Meets::Perhaps;
        };
        match how {
            NFT_CMP_EQ => value.equals(with),
            NFT_CMP_NEQ => value.equals(with).negated(true),
            _ => value.order(with).map_or(Meets::Perhaps, |order| match how {
                NFT_CMP_LT => Meets::of(order.is_lt()),
                NFT_CMP_LTE => Meets::of(order.is_le()),
                NFT_CMP_GT => Meets::of(order.is_gt()),
                NFT_CMP_GTE => Meets::of(order.is_ge()),
                _ => Meets::Perhaps,
            }),
        }
    }

    /// `udp dport 4700-4800`
    fn within(expression: &ForeignExpression, registers: &BTreeMap<u32, Value>) -> Meets {
        let value = expression.register(1).and_then(|register| registers.get(&register));
        let order = |with| value.zip(expression.value(with)).and_then(|(value, with)| value.order(with));
        match (order(3), order(4)) {
            (Some(first), Some(last)) => {
                Meets::of(first.is_ge() && last.is_le()).negated(expression.number(2) == Some(NFT_RANGE_NEQ))
            }
            _ => Meets::Perhaps,
        }
    }

    /// An xtables match. `conntrack` is evaluated where it tests the state alone: `struct xt_conntrack_mtinfo3`.
    fn extension(&self, expression: &ForeignExpression) -> Meets {
        const STATE_ALONE: u16 = 1;
        match (expression.text(1), expression.number(2)) {
            (Some("comment"), _) => Meets::Yes,
            (Some("addrtype"), Some(1)) => self.kind_of_address(expression.bytes(3).unwrap_or_default()),
            (Some("udp"), Some(0)) => self.ports(expression.bytes(3).unwrap_or_default()),
            // `struct xt_mark_mtinfo1`
            (Some("mark"), Some(1)) if self.packet.port().is_none() => {
                let info = expression.bytes(3).unwrap_or_default();
                let word =
                    |at: usize| info.get(at..at + 4).and_then(|four| Some(u32::from_ne_bytes(four.try_into().ok()?)));
                let (Some(mark), Some(mask), Some(inverted)) = (word(0), word(4), info.get(8)) else {
                    return Meets::Perhaps;
                };
                if mask & self.packet.ours != 0 {
                    return Meets::Perhaps;
                }
                Meets::of(mark == 0).negated(*inverted != 0)
            }
            (Some("conntrack"), Some(3)) => {
                let info = expression.bytes(3).unwrap_or_default();
                match (half(info, 146), half(info, 148), half(info, 150)) {
                    (Some(STATE_ALONE), Some(inverted), Some(states)) => {
                        // XT_CONNTRACK_STATE_BIT has the same bits as NF_CT_STATE_BIT, but for one.
                        let state = if self.state() == UNTRACKED { XT_UNTRACKED } else { self.state() };
                        let met = u32::from(states) & state != 0;
                        Meets::of(met != (inverted & STATE_ALONE != 0))
                    }
                    _ => Meets::Perhaps,
                }
            }
            _ => Meets::Perhaps,
        }
    }

    /// `struct xt_addrtype_info_v1`: what arrives is for this node.
    fn kind_of_address(&self, info: &[u8]) -> Meets {
        const LOCAL: u16 = 1 << 2;
        const INVERT_DEST: u16 = 2;
        // The lower half of the flags is the first, or with the other byte order the second.
        let flags = half(info, 4).zip(half(info, 6)).map(|(first, second)| first | second);
        match (self.packet.way, half(info, 0), half(info, 2), flags) {
            (Way::Arrives(_), Some(0), Some(to), Some(flags)) => {
                Meets::of(to & LOCAL != 0).negated(flags & INVERT_DEST != 0)
            }
            _ => Meets::Perhaps,
        }
    }

    /// `struct xt_udp`: ranges of source and destination ports, and which of the two is inverted.
    fn ports(&self, info: &[u8]) -> Meets {
        let (Some(port), Some(first), Some(last), Some(inverted)) =
            (self.packet.port(), half(info, 4), half(info, 6), info.get(8))
        else {
            return Meets::Perhaps;
        };
        match Meets::of((first..=last).contains(&port)).negated(inverted & 2 != 0) {
            Meets::Yes if (half(info, 0), half(info, 2)) != (Some(0), Some(u16::MAX)) => Meets::Perhaps,
            by_destination => by_destination,
        }
    }
}

/// 16 bits of a structure, in this machine's order.
fn half(info: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(info.get(at..at + 2)?.try_into().ok()?))
}

/// What a rule does with a packet that matches it.
struct Verdict {
    of: PacketVerdict,
    /// Whether evaluation of the chain ends here; `through` then means through this chain. Otherwise the next rule is
    /// evaluated where `of` is `through`.
    ends: bool,
}

impl Verdict {
    fn last(of: PacketVerdict) -> Self {
        Self { of, ends: true }
    }

    fn next() -> Self {
        Self { of: PacketVerdict::THROUGH, ends: false }
    }
}

/// A register's bytes, and which of their bits are known.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Value {
    bytes: Vec<u8>,
    known: Vec<u8>,
    /// A name that it is known to differ from.
    other_than: Option<&'static str>,
}

impl Value {
    fn exact(bytes: &[u8]) -> Self {
        Self { bytes: bytes.to_vec(), known: vec![0xff; bytes.len()], other_than: None }
    }

    fn unknown(length: usize) -> Self {
        Self { bytes: vec![0; length], known: vec![0; length], other_than: None }
    }

    fn network(net: IpNet) -> Self {
        let octets = |address: IpAddr| match address {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        };
        Self { bytes: octets(net.network()), known: octets(net.netmask()), other_than: None }
    }

    /// Compares with a value that may be shorter: a name's prefix, as in `iifname "veth*"`.
    fn equals(&self, with: &[u8]) -> Meets {
        if let Some(not) = self.other_than {
            let name = with.split(|byte| *byte == 0).next().unwrap_or_default();
            return if with.contains(&0) && name == not.as_bytes() { Meets::No } else { Meets::Perhaps };
        }
        let Some(mine) = self.bytes.get(..with.len()) else { return Meets::Perhaps };
        let differs = mine.iter().zip(with).zip(&self.known).any(|((mine, with), known)| (mine ^ with) & known != 0);
        let whole = self.known.iter().take(with.len()).all(|known| *known == 0xff);
        match (differs, whole) {
            (true, _) => Meets::No,
            (false, true) => Meets::Yes,
            (false, false) => Meets::Perhaps,
        }
    }

    /// The order of two values of one length, as `memcmp` has it; none if one bit is unknown.
    fn order(&self, with: &[u8]) -> Option<Ordering> {
        let known = self.other_than.is_none() && self.known.iter().all(|known| *known == 0xff);
        (known && self.bytes.len() == with.len()).then(|| self.bytes.as_slice().cmp(with))
    }

    fn bitwise(&self, expression: &ForeignExpression) -> Option<Self> {
        if expression.number(6).unwrap_or(0) != 0 || self.other_than.is_some() {
            return None;
        }
        let (mask, xor) = (expression.value(4)?, expression.value(5)?);
        let mut changed = self.clone();
        for (place, (mask, xor)) in mask.iter().zip(xor).enumerate() {
            *changed.bytes.get_mut(place)? = (self.bytes.get(place)? & mask) ^ xor;
            // A bit that is masked out is known to be 0.
            *changed.known.get_mut(place)? = self.known.get(place)? | !mask;
        }
        Some(changed)
    }
}
