//! One of every kind of table, chain, rule, set and element, and short ways to write them down.
//!
//! Deliberately absent: any claim about them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use egret::core::state::net::Mac;
use egret::core::state::nft::{
    AddressFamily, BaseChain, Chain, ChainKind, ChainPolicy, DataType, ElementData, ElementKey, Field, Hook, KeyType,
    MatchValue, NftRule, Set, Statement, Table, Verdict,
};

pub(super) fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

pub(super) fn range(first: &str, last: &str) -> ElementKey {
    ElementKey::Range(address(first), address(last))
}

pub(super) fn goto(chain: &str) -> ElementData {
    ElementData::Verdict(Verdict::Goto(chain.to_owned()))
}

pub(super) fn set(
    key: &[KeyType],
    data: Option<DataType>,
    interval: bool,
    elements: &[(ElementKey, Option<ElementData>)],
) -> Set {
    Set { key: key.to_vec(), data, interval, elements: elements.iter().cloned().collect() }
}

pub(super) fn chain(rules: Vec<Vec<Statement>>) -> Chain {
    Chain { base: None, comment: None, rules: rules.into_iter().map(NftRule).collect() }
}

pub(super) fn base(
    kind: ChainKind,
    hook: Hook,
    priority: i32,
    policy: ChainPolicy,
    rules: Vec<Vec<Statement>>,
) -> Chain {
    Chain { base: Some(BaseChain { kind, hook, priority, policy }), ..chain(rules) }
}

pub(super) fn compare(field: Field, mask: Option<u32>, negated: bool, value: MatchValue) -> Statement {
    Statement::Compare { field, mask, negated, value }
}

pub(super) fn in_set(fields: &[Field], mask: Option<u32>, negated: bool, set: &str) -> Statement {
    Statement::InSet { fields: fields.to_vec(), mask, negated, set: set.to_owned() }
}

fn every_set() -> BTreeMap<String, Set> {
    use KeyType::{Ifname, Ipv4Addr, Ipv6Addr, Mark};
    let one = address("10.1.1.1");
    let one6 = address("fd00::1");
    let sets = [
        ("addresses4", set(&[Ipv4Addr], None, false, &[(ElementKey::Address(one), None)])),
        ("addresses6", set(&[Ipv6Addr], None, false, &[(ElementKey::Address(one6), None)])),
        ("names", set(&[Ifname], None, false, &[(ElementKey::Interface("a-name-of-15-by".to_owned()), None)])),
        ("marks", set(&[Mark], None, false, &[(ElementKey::Mark(0x1fff), None)])),
        ("pairs4", set(&[Mark, Ipv4Addr], None, false, &[(ElementKey::MarkAddress(3, one), None)])),
        ("pairs6", set(&[Mark, Ipv6Addr], None, false, &[(ElementKey::MarkAddress(3, one6), None)])),
        ("ranges4", set(&[Ipv4Addr], None, true, &[(range("10.0.0.0", "10.0.0.255"), None)])),
        ("ranges6", set(&[Ipv6Addr], None, true, &[(range("fd00::", "fd00::ffff"), None)])),
        (
            "groups4",
            set(&[Ipv4Addr], Some(DataType::Verdict), false, &[(ElementKey::Address(one), Some(goto("plain")))]),
        ),
        (
            "groups6",
            set(&[Ipv6Addr], Some(DataType::Verdict), false, &[(ElementKey::Address(one6), Some(goto("plain")))]),
        ),
        (
            "egress4",
            set(&[Mark], Some(DataType::Ipv4Addr), false, &[(ElementKey::Mark(3), Some(ElementData::Address(one)))]),
        ),
        (
            "egress6",
            set(&[Mark], Some(DataType::Ipv6Addr), false, &[(ElementKey::Mark(3), Some(ElementData::Address(one6)))]),
        ),
        (
            "mark_of",
            set(&[Ipv4Addr], Some(DataType::Mark), false, &[(ElementKey::Address(one), Some(ElementData::Mark(7)))]),
        ),
        (
            "macs",
            set(
                &[KeyType::EtherAddr],
                Some(DataType::Verdict),
                false,
                &[(ElementKey::Mac(Mac([2, 0xe9, 1, 2, 3, 4])), Some(goto("plain")))],
            ),
        ),
        (
            "exits",
            set(
                &[Mark],
                Some(DataType::Verdict),
                false,
                &[
                    (ElementKey::Mark(1), Some(ElementData::Verdict(Verdict::Accept))),
                    (ElementKey::Mark(2), Some(ElementData::Verdict(Verdict::Drop))),
                    (ElementKey::Mark(3), Some(ElementData::Verdict(Verdict::Return))),
                    (ElementKey::Mark(4), Some(ElementData::Verdict(Verdict::Jump("plain".to_owned())))),
                ],
            ),
        ),
        (
            "destinations",
            set(&[Ipv4Addr], Some(DataType::Verdict), true, &[(range("10.0.0.7", "10.0.0.9"), Some(goto("plain")))]),
        ),
    ];
    sets.into_iter().map(|(name, set)| (name.to_owned(), set)).collect()
}

fn matches() -> Vec<Vec<Statement>> {
    use Field::{
        CtDirection, CtMark, CtOriginal4, CtOriginal6, CtReply4, CtReply6, EtherDaddr, Iifkind, Iifname, Ip4Daddr,
        Ip4Saddr, Ip6Daddr, Ip6Saddr, MetaMark, Oifname, RtNexthop4, RtNexthop6, UdpDport,
    };
    let mask = Some(0x1fff);
    let drop = || Statement::Verdict(Verdict::Drop);
    let interface = |name: &str| MatchValue::Interface(name.to_owned());
    vec![
        vec![compare(MetaMark, mask, false, MatchValue::Mark(3)), compare(CtMark, None, true, MatchValue::Mark(5))],
        vec![compare(MetaMark, mask, true, MatchValue::Mark(0)), Statement::Counter, drop()],
        vec![compare(CtDirection, None, false, MatchValue::Reply(true))],
        vec![compare(CtDirection, None, false, MatchValue::Reply(false))],
        vec![compare(Iifname, None, false, interface("eth0")), compare(Oifname, None, true, interface("eth1"))],
        vec![
            compare(Ip4Saddr, None, false, MatchValue::Address(address("10.1.1.1"))),
            compare(Ip4Daddr, None, true, MatchValue::Address(address("10.2.2.2"))),
            compare(UdpDport, None, false, MatchValue::Port(4790)),
        ],
        vec![
            compare(Ip6Saddr, None, false, MatchValue::Address(address("fd00::1"))),
            compare(Ip6Daddr, None, true, MatchValue::Address(address("fd00::2"))),
        ],
        vec![
            compare(UdpDport, None, true, MatchValue::Port(53)),
            in_set(&[Ip4Saddr], None, true, "addresses4"),
            drop(),
        ],
        vec![in_set(&[Ip6Saddr], None, false, "addresses6")],
        vec![in_set(&[Ip4Saddr], None, false, "ranges4"), in_set(&[Ip4Daddr], None, true, "ranges4")],
        vec![in_set(&[Iifname], None, false, "names"), in_set(&[MetaMark], mask, false, "marks")],
        vec![in_set(&[MetaMark, Ip4Saddr], mask, false, "pairs4")],
        vec![in_set(&[CtMark, Ip6Daddr], None, true, "pairs6")],
        vec![Statement::CtState { bits: 8, negated: false }, Statement::CtState { bits: 8, negated: true }],
        vec![Statement::CtState { bits: 2 | 8, negated: false }],
        vec![compare(Iifkind, None, false, interface("veth")), compare(Iifkind, None, true, interface("bridge"))],
        vec![in_set(&[CtOriginal4], None, false, "addresses4"), in_set(&[CtOriginal6], None, true, "addresses6")],
        vec![
            compare(CtReply4, None, true, MatchValue::Address(address("10.1.1.254"))),
            compare(CtReply6, None, false, MatchValue::Address(address("fd00::1"))),
        ],
        vec![
            compare(EtherDaddr, None, false, MatchValue::Mac(Mac([2, 0xe9, 1, 2, 3, 4]))),
            compare(UdpDport, None, false, MatchValue::Port(1)),
        ],
        vec![Statement::NoRouteBack, Statement::Counter, drop()],
        vec![Statement::FromThisHost],
        vec![Statement::ToThisHost, drop()],
        vec![in_set(&[CtMark, RtNexthop4], mask, false, "pairs4"), in_set(&[CtMark, RtNexthop6], mask, true, "pairs6")],
        vec![
            compare(RtNexthop4, None, false, MatchValue::Address(address("169.254.128.1"))),
            compare(RtNexthop6, None, true, MatchValue::Address(address("fe80::1"))),
        ],
    ]
}

fn acts() -> Vec<Vec<Statement>> {
    let vmap = |field, mask, map: &str| Statement::VerdictMap { field, mask, map: map.to_owned() };
    let set_mark = |field, keep, value| Statement::SetMark { field, keep, value };
    let verdict = |verdict| vec![Statement::Verdict(verdict)];
    vec![
        vec![vmap(Field::Ip4Daddr, None, "destinations")],
        vec![vmap(Field::Ip4Saddr, None, "groups4")],
        vec![vmap(Field::Ip6Saddr, None, "groups6")],
        vec![vmap(Field::CtMark, Some(0x1fff), "exits")],
        vec![vmap(Field::EtherDaddr, None, "macs")],
        vec![set_mark(Field::MetaMark, 0, 0x1fff), set_mark(Field::CtMark, 0, 7)],
        vec![Statement::MarkFromMap { field: Field::Ip4Saddr, map: "mark_of".to_owned() }],
        vec![set_mark(Field::MetaMark, 0xffff_e000, 3), set_mark(Field::CtMark, 0xffff_e000, 3)],
        vec![set_mark(Field::MetaMark, 0xffff_e000, 0)],
        verdict(Verdict::Jump("plain".to_owned())),
        verdict(Verdict::Return),
        verdict(Verdict::Accept),
        verdict(Verdict::Goto("plain".to_owned())),
    ]
}

fn translations() -> Vec<Vec<Statement>> {
    let [v4, v6] = AddressFamily::BOTH;
    let map = |family, map: &str| Statement::SnatMap { family, mask: 0x1fff, map: map.to_owned() };
    vec![
        vec![map(v4, "egress4")],
        vec![map(v6, "egress6")],
        vec![Statement::SnatTo { address: address("10.1.1.254") }],
        vec![Statement::SnatTo { address: address("fd00::fe") }],
        vec![Statement::SnatTcpTo { address: address("10.1.1.254") }],
        vec![Statement::SnatTcpTo { address: address("fd00::fe") }],
    ]
}

/// A table in each family with every kind of set, statement, verdict and hook that Egret has a word for.
pub(crate) fn every_kind() -> (Table, Table) {
    use ChainKind::{Filter, Nat, Route};
    let plain = Chain { comment: Some("exit kind-worker2 10.0.3.42".to_owned()), ..chain(vec![]) };
    let chains = [
        ("plain", plain),
        ("match", base(Filter, Hook::Prerouting, -150, ChainPolicy::Accept, matches())),
        ("act", base(Filter, Hook::Forward, 0, ChainPolicy::Drop, acts())),
        ("translate", base(Nat, Hook::Postrouting, 100, ChainPolicy::Accept, translations())),
        ("guard", base(Filter, Hook::Postrouting, 101, ChainPolicy::Accept, vec![vec![Statement::ClampMss]])),
        (
            "peers",
            base(
                Filter,
                Hook::Input,
                0,
                ChainPolicy::Accept,
                vec![vec![Statement::Reset], vec![Statement::WithoutSyn, Statement::Counter]],
            ),
        ),
        ("own", base(Route, Hook::Output, 1000, ChainPolicy::Accept, vec![])),
        ("raw", base(Filter, Hook::Prerouting, -310, ChainPolicy::Accept, vec![vec![Statement::NoTrack]])),
    ];
    let chains = chains.into_iter().map(|(name, chain)| (name.to_owned(), chain)).collect();
    let table = Table { owned: true, abandoned: false, chains, sets: every_set() };
    let take = |matches: Statement| {
        let mark = Statement::SetMark { field: Field::MetaMark, keep: 0, value: 7 };
        vec![matches, Statement::PacketForHost, mark, Statement::Verdict(Verdict::Accept)]
    };
    let rules = vec![
        take(in_set(&[Field::MetaMark, Field::Ip4Saddr], None, false, "sources4")),
        take(in_set(&[Field::MetaMark, Field::Ip6Saddr], None, false, "sources6")),
        take(compare(Field::Ip6Daddr, None, false, MatchValue::Address(address("fd00::fe")))),
        take(compare(Field::EtherDaddr, None, false, MatchValue::Mac(Mac([2, 0xe9, 0, 0, 0, 0])))),
    ];
    let arrive = base(Filter, Hook::Ingress("lo".to_owned()), 0, ChainPolicy::Accept, rules);
    let pair = |other, address_text: &str| {
        set(
            &[KeyType::Mark, other],
            None,
            false,
            &[(ElementKey::MarkAddress(0xac12_0002, address(address_text)), None)],
        )
    };
    let netdev = Table {
        owned: true,
        abandoned: false,
        chains: BTreeMap::from([("arrive".to_owned(), arrive)]),
        sets: BTreeMap::from([
            ("sources4".to_owned(), pair(KeyType::Ipv4Addr, "10.1.1.254")),
            ("sources6".to_owned(), pair(KeyType::Ipv6Addr, "fd00::fe")),
        ]),
    };
    (table, netdev)
}
