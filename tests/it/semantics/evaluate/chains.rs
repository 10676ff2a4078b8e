//! nftables, as far as Egret speaks it: a packet through the chains of one hook.
//!
//! Written from nft(8), not from what compiles to it. Deliberately absent: counters, and routing (the parent).

use std::net::IpAddr;

use egret::core::state::nft::{
    AddressFamily, Chain, ChainKind, Data, Family, Field, Hook, Key, Policy, Rule, Ruleset, Set, Statement, Table,
    Value, Verdict,
};

/// A packet on one node, with what the kernel knows of it.
#[derive(Debug, Clone)]
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
    /// The network identifier of the tunnel that it came out of.
    pub(crate) tunnel_id: Option<u32>,
    /// `meta mark`
    pub(crate) mark: u32,
    /// `ct mark`
    pub(crate) connection_mark: u32,
    /// `ct direction reply`
    pub(crate) reply: bool,
    /// `ct state new`; otherwise established.
    pub(crate) new: bool,
    /// The source that the connection's packets are given; none: not decided yet, as in a connection's first packet.
    pub(crate) translated: Option<IpAddr>,
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
pub(crate) fn hook(ruleset: &Ruleset, family: Family, hook: &Hook, packet: &mut Packet, cni: Option<IpAddr>) -> bool {
    const SOURCE_TRANSLATION: i32 = 100;
    let Some(table) = ruleset.get(&family) else {
        translate(None, hook, packet, cni);
        return true;
    };
    let mut chains: Vec<(i32, &Chain)> = table
        .chains
        .values()
        .filter_map(|chain| chain.base.as_ref().map(|base| (base, chain)))
        .filter(|(base, _)| base.hook == *hook && base.kind == ChainKind::Filter)
        .map(|(base, chain)| (base.priority, chain))
        .collect();
    chains.sort_by_key(|(priority, _)| *priority);
    let (before, behind): (Vec<_>, Vec<_>) =
        chains.into_iter().partition(|(priority, _)| *priority < SOURCE_TRANSLATION);
    if !before.into_iter().all(|(_, chain)| base_chain(table, chain, packet)) {
        return false;
    }
    translate(Some(table), hook, packet, cni);
    behind.into_iter().all(|(_, chain)| base_chain(table, chain, packet))
}

/// Source translation: of a connection's first packet by our chains, then by the CNI's; of its others as it was decided then.
fn translate(table: Option<&Table>, hook: &Hook, packet: &mut Packet, cni: Option<IpAddr>) {
    if *hook != Hook::Postrouting || packet.reply {
        return;
    }
    for chain in table.into_iter().flat_map(|table| table.chains.values()) {
        let ours = chain.base.as_ref().is_some_and(|base| base.hook == *hook && base.kind == ChainKind::Nat);
        if let (true, Some(table), None) = (ours, table, packet.translated) {
            base_chain(table, chain, packet);
        }
    }
    let source = packet.translated.unwrap_or(cni.unwrap_or(packet.source));
    packet.translated = Some(source);
    packet.source = source;
}

fn base_chain(table: &Table, chain: &Chain, packet: &mut Packet) -> bool {
    let policy = chain.base.as_ref().map(|base| base.policy);
    match walk(table, chain, packet) {
        End::Accept => true,
        End::Drop => false,
        End::Through => policy != Some(Policy::Drop),
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

fn apply(table: &Table, rule: &Rule, packet: &mut Packet) -> Said {
    for statement in &rule.0 {
        let goes_on = match statement {
            Statement::Compare { field, mask, negated, value } => {
                read(*field, *mask, packet).is_some_and(|found| (found == *value) != *negated)
            }
            Statement::InSet { fields, mask, negated, set } => {
                let key: Option<Vec<Value>> = fields.iter().map(|field| read(*field, *mask, packet)).collect();
                key.is_some_and(|key| find(set_of(table, set), &key).is_some() != *negated)
            }
            Statement::VerdictMap { field, mask, map } => {
                let found = read(*field, *mask, packet).and_then(|value| find(set_of(table, map), &[value]));
                match found {
                    Some(Some(Data::Verdict(verdict))) => return Said::Verdict(verdict.clone()),
                    Some(other) => panic!("@{map} leads to {other:?}"),
                    None => false,
                }
            }
            Statement::CtState { bits, negated } => {
                let state = if packet.new { 8 } else { 2 };
                (bits & state != 0) != *negated
            }
            Statement::SetMark { field: Field::MetaMark, keep, value } => {
                packet.mark = packet.mark & keep | value;
                true
            }
            Statement::SetMark { keep, value, .. } => {
                packet.connection_mark = packet.connection_mark & keep | value;
                true
            }
            Statement::SnatMap { family, mask, map } => {
                let key = [Value::Mark(packet.mark & mask)];
                match find(set_of(table, map), &key).filter(|_| AddressFamily::of(packet.source) == *family) {
                    Some(Some(Data::Address(address))) => return snat(packet, *address),
                    Some(other) => panic!("@{map} leads to {other:?}"),
                    None => false,
                }
            }
            Statement::SnatToSelf { family } if AddressFamily::of(packet.source) == *family => {
                return snat(packet, packet.source);
            }
            Statement::SnatToSelf { .. } => false,
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
fn read(field: Field, mask: Option<u32>, packet: &Packet) -> Option<Value> {
    let bits = mask.unwrap_or(u32::MAX);
    let v4 = |address: IpAddr| address.is_ipv4().then_some(Value::Address(address));
    let v6 = |address: IpAddr| address.is_ipv6().then_some(Value::Address(address));
    match field {
        Field::MetaMark => Some(Value::Mark(packet.mark & bits)),
        Field::CtMark => Some(Value::Mark(packet.connection_mark & bits)),
        Field::CtDirection => Some(Value::Reply(packet.reply)),
        Field::Iifname => Some(Value::Interface(packet.iif.clone())),
        Field::Oifname => Some(Value::Interface(packet.oif.clone())),
        Field::Ip4Saddr => v4(packet.source),
        Field::Ip4Daddr => v4(packet.destination),
        Field::Ip6Saddr => v6(packet.source),
        Field::Ip6Daddr => v6(packet.destination),
        Field::UdpDport => packet.udp_port.map(Value::Port),
        Field::TunnelId => packet.tunnel_id.map(Value::TunnelId),
    }
}

/// The element that a key finds, with its data. An interval map must not hold two that fit: the kernel would refuse it.
fn find<'a>(set: &'a Set, key: &[Value]) -> Option<&'a Option<Data>> {
    let fits = |element: &Key| match (element, key) {
        (Key::Address(a), [Value::Address(b)]) => a == b,
        (Key::Range(first, last), [Value::Address(b)]) => first <= b && b <= last,
        (Key::Mark(a), [Value::Mark(b)]) => a == b,
        (Key::MarkAddress(mark, address), [Value::Mark(a), Value::Address(b)]) => mark == a && address == b,
        (Key::Interface(a), [Value::Interface(b)]) => a == b,
        (element, key) => panic!("an element {element} in a set that is asked for {key:?}"),
    };
    let mut found = set.elements.iter().filter(|(element, _)| fits(element));
    let first = found.next();
    assert!(found.next().is_none(), "two elements of one set fit {key:?}");
    first.map(|(_, data)| data)
}
