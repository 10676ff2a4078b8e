//! nftables, as far as Egret speaks it: a packet through the chains of one hook.
//!
//! Written from nft(8), not from what compiles to it. Deliberately absent: counters, and routing (the parent).

use std::collections::BTreeSet;
use std::net::IpAddr;

use egret::core::state::net::Mac;
use egret::core::state::nft::{
    AddressFamily, Chain, ChainKind, ChainPolicy, ElementData, ElementKey, Field, Hook, MatchValue, NftRule, Ruleset,
    Set, Statement, Table, TableFamily, Verdict,
};

/// A packet on one node, with what the kernel knows of it.
#[derive(Debug, Clone)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is what the kernel knows of a packet, and none depends on another"
)]
pub(crate) struct Packet {
    /// The device that it came in by.
    pub(crate) iif: String,
    /// The device that it leaves by; empty before routing.
    pub(crate) oif: String,
    /// Its source.
    pub(crate) source: IpAddr,
    /// Its destination.
    pub(crate) destination: IpAddr,
    /// The port of a UDP packet.
    pub(crate) udp_port: Option<u16>,
    /// The kind of device that it came in by.
    pub(crate) iif_kind: &'static str,
    /// Its frame's destination.
    pub(crate) ether_destination: Option<Mac>,
    /// The kernel takes it for its own, whatever its frame's destination is.
    pub(crate) for_host: bool,
    /// It left a socket of this host, or has this host's address.
    pub(crate) from_this_host: bool,
    /// The addresses of the host it is on: its interfaces', and with IPVS its Services' (kube-ipvs0).
    pub(crate) local: BTreeSet<IpAddr>,
    /// The router that its route leads to.
    pub(crate) next_hop: Option<IpAddr>,
    /// The way back to its source leads through another interface.
    pub(crate) no_route_back: bool,
    /// `meta mark`
    pub(crate) mark: u32,
    /// `ct mark`
    pub(crate) connection_mark: u32,
    /// A chain of type `route` changed its mark: it is routed once more (`nf_route_table_hook4`, net/netfilter/nft_chain_route.c).
    pub(crate) rerouted: bool,
    /// `ct direction reply`
    pub(crate) reply: bool,
    /// `ct state new`; otherwise established.
    pub(crate) new: bool,
    /// `ct state untracked`
    pub(crate) untracked: bool,
    /// The source that the connection's packets are given; none: not decided yet, as in a connection's first packet.
    pub(crate) translated: Option<IpAddr>,
    /// The source of the connection's first packet, as connection tracking keeps it.
    pub(crate) begun_by: IpAddr,
    /// What a reply's destination becomes where destinations are translated: whoever began the connection.
    pub(crate) back_to: Option<IpAddr>,
}

/// A packet mark as somebody writes it: whole, whatever was there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Written {
    /// This value.
    Value(u32),
    /// What the connection's mark is (`meta mark set ct mark`).
    Connection,
}

impl Written {
    fn write(self, packet: &mut Packet) {
        packet.mark = match self {
            Self::Value(value) => value,
            Self::Connection => packet.connection_mark,
        };
    }
}

/// What others do to packets on a node.
#[derive(Debug, Clone, Default)]
pub(crate) struct Foreign {
    /// The address that a CNI translates to whatever leaves.
    pub(crate) masquerade: Option<IpAddr>,
    /// Destinations that a service turns into others, as kube-proxy does.
    pub(crate) services: Vec<(IpAddr, IpAddr)>,
    /// Services are translated as IPVS does: in the input hook, and what is to be sent on comes by the output hook.
    pub(crate) ipvs: bool,
    /// The packet mark, as somebody writes it behind destination translation and ahead of us.
    pub(crate) mark_before: Option<Written>,
    /// The same behind us, ahead of routing.
    pub(crate) mark_behind: Option<Written>,
    /// The same behind routing, ahead of source translation and of the guard.
    pub(crate) mark_leaving: Option<Written>,
    /// Bits that somebody sets in the mark of each new connection.
    pub(crate) connection_bits: u32,
}

impl Foreign {
    /// Where a packet to this destination really goes.
    pub(crate) fn endpoint(&self, destination: IpAddr) -> IpAddr {
        let service = self.services.iter().find(|(service, _)| *service == destination);
        service.map_or(destination, |(_, endpoint)| *endpoint)
    }
}

/// How a chain ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Accept,
    Drop,
    /// At its last rule, or `return`.
    Through,
}

/// What one rule says.
enum Said {
    /// Some match failed, or the rule has no verdict.
    Nothing,
    Verdict(Verdict),
}

/// The packet through all chains of one hook in the order of their priorities; false: dropped.
///
/// Connections are translated at priority 100, whatever the priority of a `nat` chain is: that only says in which order those
/// are asked (nf_nat_core.c), and the first that has an answer is the only one.
pub(crate) fn hook(
    ruleset: &Ruleset,
    family: TableFamily,
    hook: &Hook,
    packet: &mut Packet,
    foreign: &Foreign,
) -> bool {
    hook_until(ruleset, family, hook, i32::MAX, packet, foreign)
}

/// The same, up to the chains of a priority.
pub(crate) fn hook_until(
    ruleset: &Ruleset,
    family: TableFamily,
    hook: &Hook,
    end: i32,
    packet: &mut Packet,
    foreign: &Foreign,
) -> bool {
    // Destinations are translated in prerouting, sources in postrouting.
    let translation = if *hook == Hook::Postrouting { 100 } else { -100 };
    let nothing = Table::default();
    let table = ruleset.get(&family).unwrap_or(&nothing);
    let mut chains: Vec<(i32, &Chain)> = table
        .chains
        .values()
        .filter_map(|chain| chain.base.as_ref().map(|base| (base, chain)))
        .filter(|(base, _)| base.hook == *hook && base.kind != ChainKind::Nat && base.priority < end)
        .map(|(base, chain)| (base.priority, chain))
        .collect();
    chains.sort_by_key(|(priority, _)| *priority);
    if let (Hook::Postrouting, Some(mark)) = (hook, foreign.mark_leaving) {
        mark.write(packet);
    }
    let (before, behind): (Vec<_>, Vec<_>) = chains.into_iter().partition(|(priority, _)| *priority < translation);
    if !before.into_iter().all(|(_, chain)| base_chain(table, chain, packet)) {
        return false;
    }
    match hook {
        Hook::Prerouting | Hook::Output => others_on_the_way_in(hook, packet, foreign),
        _ => translate(table, hook, packet, foreign.masquerade),
    }
    let passed = behind.into_iter().all(|(_, chain)| base_chain(table, chain, packet));
    if let (Hook::Prerouting, Some(mark)) = (hook, foreign.mark_behind) {
        mark.write(packet);
    }
    passed
}

/// Destination translation, and whoever writes marks behind it. On packets of the host itself nobody writes any.
fn others_on_the_way_in(hook: &Hook, packet: &mut Packet, foreign: &Foreign) {
    if let Some(back_to) = packet.back_to.take() {
        packet.destination = back_to;
    } else if !foreign.ipvs && !packet.reply {
        packet.destination = foreign.endpoint(packet.destination);
    }
    if packet.new {
        packet.connection_mark |= foreign.connection_bits;
    }
    if let (Hook::Prerouting, Some(mark)) = (hook, foreign.mark_before) {
        mark.write(packet);
    }
}

/// Source translation: of a connection's first packet by our chains, then by the CNI's; of its others as it was decided then.
fn translate(table: &Table, hook: &Hook, packet: &mut Packet, cni: Option<IpAddr>) {
    if *hook != Hook::Postrouting || packet.reply {
        return;
    }
    for chain in table.chains.values() {
        let ours = chain.base.as_ref().is_some_and(|base| base.hook == *hook && base.kind == ChainKind::Nat);
        if ours && packet.translated.is_none() {
            base_chain(table, chain, packet);
        }
    }
    let source = packet.translated.unwrap_or(cni.unwrap_or(packet.source));
    packet.translated = Some(source);
    packet.source = source;
}

fn base_chain(table: &Table, chain: &Chain, packet: &mut Packet) -> bool {
    let policy = chain.base.as_ref().map(|base| base.policy);
    let mark = packet.mark;
    let end = walk(table, chain, packet);
    packet.rerouted |= packet.mark != mark && chain.base.as_ref().is_some_and(|base| base.kind == ChainKind::Route);
    match end {
        End::Accept => true,
        End::Drop => false,
        End::Through => policy != Some(ChainPolicy::Drop),
    }
}

fn walk(table: &Table, chain: &Chain, packet: &mut Packet) -> End {
    let go = |name: &String, packet: &mut Packet| {
        let next =
            table.chains.get(name).unwrap_or_else(|| panic!("a verdict leads to chain {name}, which is not there"));
        walk(table, next, packet)
    };
    for rule in &chain.rules {
        let Said::Verdict(verdict) = apply(table, rule, packet) else { continue };
        match verdict {
            Verdict::Accept => return End::Accept,
            Verdict::Drop => return End::Drop,
            Verdict::Return => return End::Through,
            Verdict::Goto(name) => return go(&name, packet),
            Verdict::Jump(name) => match go(&name, packet) {
                End::Through => {}
                end => return end,
            },
        }
    }
    End::Through
}

impl Packet {
    /// `NF_CT_STATE_*`
    fn state(&self) -> u32 {
        match self {
            Self { untracked: true, .. } => 64,
            Self { new: true, .. } => 8,
            _ => 2,
        }
    }
}

fn apply(table: &Table, rule: &NftRule, packet: &mut Packet) -> Said {
    for statement in &rule.0 {
        let goes_on = match statement {
            Statement::Compare { field, mask, negated, value } => {
                read(*field, *mask, packet).is_some_and(|found| (found == *value) != *negated)
            }
            Statement::InSet { fields, mask, negated, set } => {
                let key: Option<Vec<MatchValue>> = fields.iter().map(|field| read(*field, *mask, packet)).collect();
                key.is_some_and(|key| find(set_of(table, set), &key).is_some() != *negated)
            }
            Statement::VerdictMap { field, mask, map } => {
                let found = read(*field, *mask, packet).and_then(|value| find(set_of(table, map), &[value]));
                match found {
                    Some(Some(ElementData::Verdict(verdict))) => return Said::Verdict(verdict.clone()),
                    Some(other) => panic!("@{map} leads to {other:?}"),
                    None => false,
                }
            }
            Statement::CtState { bits, negated } => (bits & packet.state() != 0) != *negated,
            Statement::SetMark { field, keep, value } => {
                let mark = if *field == Field::MetaMark { &mut packet.mark } else { &mut packet.connection_mark };
                *mark = *mark & keep | value;
                true
            }
            Statement::MarkFromMap { field, map } => {
                let found = read(*field, None, packet).and_then(|value| find(set_of(table, map), &[value]));
                match found {
                    Some(Some(ElementData::Mark(mark))) => packet.mark = *mark,
                    Some(other) => panic!("@{map} leads to {other:?}"),
                    None => return Said::Nothing,
                }
                true
            }
            Statement::SnatMap { family, mask, map } => {
                let key = [MatchValue::Mark(packet.connection_mark & mask)];
                match find(set_of(table, map), &key).filter(|_| AddressFamily::of(packet.source) == *family) {
                    Some(Some(ElementData::Address(address))) => return snat(packet, *address),
                    Some(other) => panic!("@{map} leads to {other:?}"),
                    None => false,
                }
            }
            Statement::SnatTo { address } if address.is_ipv4() == packet.source.is_ipv4() => {
                return snat(packet, *address);
            }
            // The rule for all protocols follows, with the same address.
            Statement::SnatTo { .. } | Statement::SnatTcpTo { .. } => false,
            Statement::PacketForHost => {
                packet.for_host = true;
                true
            }
            // No packet here is a probe, whose address nobody else sends to.
            Statement::Reset => return Said::Verdict(Verdict::Drop),
            // Packets here begin connections or answer them.
            Statement::WithoutSyn => !packet.new,
            Statement::NoRouteBack => packet.no_route_back,
            Statement::FromThisHost => packet.from_this_host,
            Statement::ToThisHost => packet.local.contains(&packet.destination),
            Statement::NoTrack => {
                packet.untracked = true;
                true
            }
            // Lowering a segment size changes no address and no way.
            Statement::ClampMss | Statement::Counter => true,
            Statement::Verdict(verdict) => return Said::Verdict(verdict.clone()),
            Statement::Unknown(text) => panic!("Egret wrote something that it does not know: {text}"),
        };
        if !goes_on {
            return Said::Nothing;
        }
    }
    Said::Nothing
}

fn snat(packet: &mut Packet, address: IpAddr) -> Said {
    packet.translated = Some(address);
    Said::Verdict(Verdict::Accept)
}

fn set_of<'a>(table: &'a Table, name: &str) -> &'a Set {
    table.sets.get(name).unwrap_or_else(|| panic!("a rule asks @{name}, which is not there"))
}

/// A field's value; none where the packet has no such field, and then no match on it holds, negated or not.
fn read(field: Field, mask: Option<u32>, packet: &Packet) -> Option<MatchValue> {
    let bits = mask.unwrap_or(u32::MAX);
    let v4 = |address: IpAddr| address.is_ipv4().then_some(MatchValue::Address(address));
    let v6 = |address: IpAddr| address.is_ipv6().then_some(MatchValue::Address(address));
    match field {
        Field::MetaMark => Some(MatchValue::Mark(packet.mark & bits)),
        Field::CtMark => Some(MatchValue::Mark(packet.connection_mark & bits)),
        Field::CtDirection => Some(MatchValue::Reply(packet.reply)),
        Field::Iifname => Some(MatchValue::Interface(packet.iif.clone())),
        Field::Oifname => Some(MatchValue::Interface(packet.oif.clone())),
        Field::Ip4Saddr => v4(packet.source),
        Field::Ip4Daddr => v4(packet.destination),
        Field::Ip6Saddr => v6(packet.source),
        Field::Ip6Daddr => v6(packet.destination),
        Field::UdpDport => packet.udp_port.map(MatchValue::Port),
        Field::EtherDaddr => packet.ether_destination.map(MatchValue::Mac),
        Field::Iifkind => Some(MatchValue::Interface(packet.iif_kind.to_owned())),
        Field::CtOriginal4 => v4(packet.begun_by),
        Field::CtOriginal6 => v6(packet.begun_by),
        Field::CtReply4 => v4(packet.translated.unwrap_or(packet.begun_by)),
        Field::CtReply6 => v6(packet.translated.unwrap_or(packet.begun_by)),
        // `rt_nexthop` (include/net/route.h): the destination where there is no router of the packet's family.
        Field::RtNexthop4 if packet.destination.is_ipv4() => {
            v4(packet.next_hop.filter(IpAddr::is_ipv4).unwrap_or(packet.destination))
        }
        Field::RtNexthop6 if packet.destination.is_ipv6() => v6(packet.next_hop.unwrap_or(packet.destination)),
        // Only rules about probes ask for the port, and they are no packets of pods.
        Field::RtNexthop4 | Field::RtNexthop6 | Field::TcpDport => None,
    }
}

/// The element that a key finds, with its data. An interval map must not hold two that fit: the kernel would refuse it.
fn find<'a>(set: &'a Set, key: &[MatchValue]) -> Option<&'a Option<ElementData>> {
    let fits = |element: &ElementKey| match (element, key) {
        (ElementKey::Address(a), [MatchValue::Address(b)]) => a == b,
        (ElementKey::Range(first, last), [MatchValue::Address(b)]) => first <= b && b <= last,
        (ElementKey::Mark(a), [MatchValue::Mark(b)]) => a == b,
        (ElementKey::MarkAddress(mark, address), [MatchValue::Mark(a), MatchValue::Address(b)]) => {
            mark == a && address == b
        }
        (ElementKey::Interface(a), [MatchValue::Interface(b)]) => a == b,
        (ElementKey::Mac(a), [MatchValue::Mac(b)]) => a == b,
        (element, key) => panic!("an element {element} in a set that is asked for {key:?}"),
    };
    let mut found = set.elements.iter().filter(|(element, _)| fits(element));
    let first = found.next();
    assert!(found.next().is_none(), "two elements of one set fit {key:?}");
    first.map(|(_, data)| data)
}
