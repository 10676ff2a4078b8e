//! The netlink decoder against bytes that may be anything, and every ruleset there and back in memory.
//!
//! Deliberately absent: the kernel (`kernel_nft`).

use std::collections::BTreeMap;
use std::net::IpAddr;

use egret::core::state::net::Mac;
use egret::core::state::nft::{
    AddressFamily, BaseChain, Chain, ChainKind, ChainPolicy, DataType, ElementData, ElementKey, Field, Hook, KeyType,
    MatchValue, NftChange, NftRule, NftTransaction, Ruleset, Set, Statement, Table, TableFamily, Verdict,
};
use egret::kernel::nft::{Batch, decode};
use proptest::collection::vec;
use proptest::prelude::*;

#[test]
fn arbitrary_bytes_are_read_or_refused() {
    bolero::check!().for_each(|bytes: &[u8]| {
        let _ = decode(bytes, 1);
    });
}

#[test]
fn arbitrary_damage_to_a_real_batch_is_read_or_refused() {
    let batch = Batch::encode(&NftTransaction { changes: everything() }, None, 1).unwrap();
    let whole = batch.bytes().to_vec();
    assert!(decode(&whole, 1).is_ok());
    bolero::check!().with_type::<Vec<(u16, u8)>>().for_each(|damage| {
        let mut bytes = whole.clone();
        for (position, byte) in damage {
            let position = usize::from(*position) % bytes.len();
            bytes[position] = *byte;
        }
        let _ = decode(&bytes, 1);
    });
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 400, ..ProptestConfig::default() })]
    #[test]
    fn what_is_encoded_is_decoded(inet in table(TableFamily::Inet), netdev in table(TableFamily::Netdev)) {
        let ruleset = Ruleset::from([(TableFamily::Inet, inet), (TableFamily::Netdev, netdev)]);
        let changes = ruleset.iter().flat_map(|(family, table)| making(*family, table)).collect();
        let batch = Batch::encode(&NftTransaction { changes }, None, 7).unwrap();
        prop_assert_eq!(decode(batch.bytes(), 1).unwrap(), ruleset);
    }
}

/// The changes that make a table out of nothing.
pub(crate) fn making(family: TableFamily, table: &Table) -> Vec<(TableFamily, NftChange)> {
    let mut changes = vec![NftChange::AddTable { owned: table.owned }];
    for (name, set) in &table.sets {
        changes.push(NftChange::AddSet(name.clone(), Set { elements: BTreeMap::new(), ..set.clone() }));
    }
    for (name, chain) in &table.chains {
        changes.push(NftChange::AddChain(name.clone(), chain.base.clone(), chain.comment.clone()));
    }
    for (name, set) in &table.sets {
        let elements = set.elements.iter().map(|(key, data)| (key.clone(), data.clone())).collect();
        changes.push(NftChange::AddElements(name.clone(), elements));
    }
    for (name, chain) in &table.chains {
        changes.extend(chain.rules.iter().map(|rule| NftChange::AddRule(name.clone(), rule.clone())));
    }
    changes.into_iter().map(|change| (family, change)).collect()
}

fn everything() -> Vec<(TableFamily, NftChange)> {
    let (inet, netdev) = crate::kernel_nft::every_kind();
    [making(TableFamily::Inet, &inet), making(TableFamily::Netdev, &netdev)].concat()
}

fn table(family: TableFamily) -> impl Strategy<Value = Table> {
    let chains = proptest::collection::btree_map("[a-z]{1,8}", chain(family), 0..4);
    let sets = proptest::collection::btree_map("[a-z]{1,8}", set(), 0..4);
    (any::<bool>(), chains, sets).prop_map(|(owned, chains, sets)| Table { owned, abandoned: false, chains, sets })
}

fn chain(family: TableFamily) -> impl Strategy<Value = Chain> {
    let hook = match family {
        TableFamily::Netdev => "[a-z]{1,15}".prop_map(Hook::Ingress).boxed(),
        TableFamily::Inet => prop_oneof![
            Just(Hook::Prerouting),
            Just(Hook::Input),
            Just(Hook::Forward),
            Just(Hook::Output),
            Just(Hook::Postrouting)
        ]
        .boxed(),
    };
    let kind = prop_oneof![Just(ChainKind::Filter), Just(ChainKind::Nat)];
    let policy = prop_oneof![Just(ChainPolicy::Accept), Just(ChainPolicy::Drop)];
    let base = (kind, hook, any::<i32>(), policy);
    let base = base.prop_map(|(kind, hook, priority, policy)| BaseChain { kind, hook, priority, policy });
    let rule = vec(statement(), 0..6).prop_map(NftRule);
    (proptest::option::of(base), proptest::option::of("[ -~]{0,127}"), vec(rule, 0..4))
        .prop_map(|(base, comment, rules)| Chain { base, comment, rules })
}

fn verdict() -> impl Strategy<Value = Verdict> {
    prop_oneof![
        Just(Verdict::Accept),
        Just(Verdict::Drop),
        Just(Verdict::Return),
        "[a-z]{1,8}".prop_map(Verdict::Goto),
        "[a-z]{1,8}".prop_map(Verdict::Jump),
    ]
}

fn field() -> impl Strategy<Value = Field> {
    prop_oneof![
        Just(Field::MetaMark),
        Just(Field::CtMark),
        Just(Field::CtDirection),
        Just(Field::Iifname),
        Just(Field::Oifname),
        Just(Field::Ip4Saddr),
        Just(Field::Ip4Daddr),
        Just(Field::Ip6Saddr),
        Just(Field::Ip6Daddr),
        // `TcpDport` is loaded alike: which of the two is meant is told by what a rule compares before, so it is used in a comparison alone.
        Just(Field::UdpDport),
        Just(Field::EtherDaddr),
        Just(Field::Iifkind),
        Just(Field::CtOriginal4),
        Just(Field::CtOriginal6),
        Just(Field::CtReply4),
        Just(Field::CtReply6),
        Just(Field::RtNexthop4),
        Just(Field::RtNexthop6),
    ]
}

fn value(field: Field) -> BoxedStrategy<MatchValue> {
    match field {
        Field::MetaMark | Field::CtMark => any::<u32>().prop_map(MatchValue::Mark).boxed(),
        Field::CtDirection => any::<bool>().prop_map(MatchValue::Reply).boxed(),
        Field::Iifname | Field::Oifname | Field::Iifkind => "[a-z0-9]{1,15}".prop_map(MatchValue::Interface).boxed(),
        Field::Ip4Saddr | Field::Ip4Daddr | Field::CtOriginal4 | Field::CtReply4 | Field::RtNexthop4 => {
            any::<[u8; 4]>().prop_map(|a| MatchValue::Address(IpAddr::from(a))).boxed()
        }
        Field::Ip6Saddr | Field::Ip6Daddr | Field::CtOriginal6 | Field::CtReply6 | Field::RtNexthop6 => {
            any::<[u8; 16]>().prop_map(|a| MatchValue::Address(IpAddr::from(a))).boxed()
        }
        Field::UdpDport | Field::TcpDport => any::<u16>().prop_map(MatchValue::Port).boxed(),
        Field::EtherDaddr => any::<[u8; 6]>().prop_map(|mac| MatchValue::Mac(Mac(mac))).boxed(),
    }
}

/// A mask where the field may have one.
fn mask(field: Field) -> BoxedStrategy<Option<u32>> {
    match field {
        Field::MetaMark | Field::CtMark => proptest::option::of(any::<u32>()).boxed(),
        _ => Just(None).boxed(),
    }
}

fn family() -> impl Strategy<Value = AddressFamily> {
    prop_oneof![Just(AddressFamily::V4), Just(AddressFamily::V6)]
}

fn statement() -> impl Strategy<Value = Statement> {
    let compare = field().prop_flat_map(|field| {
        (Just(field), mask(field), any::<bool>(), value(field))
            .prop_map(|(field, mask, negated, value)| Statement::Compare { field, mask, negated, value })
    });
    let in_set = vec(field(), 1..3).prop_flat_map(|fields| {
        (mask(fields[0]), Just(fields), any::<bool>(), "[a-z]{1,8}")
            .prop_map(|(mask, fields, negated, set)| Statement::InSet { fields, mask, negated, set })
    });
    let verdict_map = field().prop_flat_map(|field| {
        (Just(field), mask(field), "[a-z]{1,8}").prop_map(|(field, mask, map)| Statement::VerdictMap {
            field,
            mask,
            map,
        })
    });
    let set_mark = (prop_oneof![Just(Field::MetaMark), Just(Field::CtMark)], any::<u32>(), any::<u32>())
        .prop_map(|(field, keep, value)| Statement::SetMark { field, keep, value: value & !keep });
    prop_oneof![
        compare,
        in_set,
        verdict_map,
        (any::<u32>(), any::<bool>()).prop_map(|(bits, negated)| Statement::CtState { bits, negated }),
        set_mark,
        (family(), any::<u32>(), "[a-z]{1,8}").prop_map(|(family, mask, map)| Statement::SnatMap { family, mask, map }),
        any::<[u8; 4]>().prop_map(|a| Statement::SnatTo { address: a.into() }),
        any::<[u8; 16]>().prop_map(|a| Statement::SnatTo { address: a.into() }),
        any::<[u8; 4]>().prop_map(|a| Statement::SnatTcpTo { address: a.into() }),
        any::<[u8; 16]>().prop_map(|a| Statement::SnatTcpTo { address: a.into() }),
        (field(), "[a-z]{1,8}").prop_map(|(field, map)| Statement::MarkFromMap { field, map }),
        Just(Statement::PacketForHost),
        Just(Statement::Reset),
        Just(Statement::WithoutSyn),
        Just(Statement::NoTrack),
        Just(Statement::NoRouteBack),
        Just(Statement::FromThisHost),
        Just(Statement::ToThisHost),
        Just(Statement::Counter),
        Just(Statement::ClampMss),
        verdict().prop_map(Statement::Verdict),
    ]
}

fn set() -> impl Strategy<Value = Set> {
    let data = prop_oneof![
        Just(None),
        Just(Some(DataType::Verdict)),
        Just(Some(DataType::Ipv4Addr)),
        Just(Some(DataType::Ipv6Addr)),
        Just(Some(DataType::Mark)),
    ];
    let key = prop_oneof![
        Just((vec![KeyType::Ipv4Addr], false)),
        Just((vec![KeyType::Ipv4Addr], true)),
        Just((vec![KeyType::Ipv6Addr], true)),
        Just((vec![KeyType::Mark], false)),
        Just((vec![KeyType::Ifname], false)),
        Just((vec![KeyType::EtherAddr], false)),
        Just((vec![KeyType::Mark, KeyType::Ipv4Addr], false)),
        Just((vec![KeyType::Mark, KeyType::Ipv6Addr], false)),
    ];
    (data, key).prop_flat_map(|(data, (key, interval))| {
        let keys = keys(&key, interval);
        let values = vec(data_of(data), 32);
        (Just(data), Just(key), Just(interval), keys, values).prop_map(|(data, key, interval, keys, values)| Set {
            key,
            data,
            interval,
            elements: keys.into_iter().zip(values).collect(),
        })
    })
}

fn data_of(data: Option<DataType>) -> BoxedStrategy<Option<ElementData>> {
    match data {
        None => Just(None).boxed(),
        Some(DataType::Verdict) => verdict().prop_map(ElementData::Verdict).prop_map(Some).boxed(),
        Some(DataType::Mark) => any::<u32>().prop_map(ElementData::Mark).prop_map(Some).boxed(),
        Some(DataType::Ipv4Addr) => any::<[u8; 4]>().prop_map(|a| Some(ElementData::Address(a.into()))).boxed(),
        Some(DataType::Ipv6Addr) => any::<[u8; 16]>().prop_map(|a| Some(ElementData::Address(a.into()))).boxed(),
    }
}

fn keys(key: &[KeyType], interval: bool) -> BoxedStrategy<Vec<ElementKey>> {
    match (key, interval) {
        ([KeyType::Ipv4Addr], true) => vec(any::<u32>(), 0..32).prop_map(ranges4).boxed(),
        ([KeyType::Ipv6Addr], true) => vec(any::<u128>(), 0..32).prop_map(ranges6).boxed(),
        ([KeyType::Mark], _) => vec(any::<u32>().prop_map(ElementKey::Mark), 0..32).boxed(),
        ([KeyType::EtherAddr], _) => vec(any::<[u8; 6]>().prop_map(|mac| ElementKey::Mac(Mac(mac))), 0..32).boxed(),
        ([KeyType::Ifname], _) => vec("[a-z0-9]{1,15}".prop_map(ElementKey::Interface), 0..32).boxed(),
        ([KeyType::Mark, KeyType::Ipv4Addr], _) => {
            vec(any::<(u32, [u8; 4])>().prop_map(|(mark, a)| ElementKey::MarkAddress(mark, a.into())), 0..32).boxed()
        }
        ([KeyType::Mark, _], _) => {
            vec(any::<(u32, [u8; 16])>().prop_map(|(mark, a)| ElementKey::MarkAddress(mark, a.into())), 0..32).boxed()
        }
        _ => vec(any::<[u8; 4]>().prop_map(|a| ElementKey::Address(a.into())), 0..32).boxed(),
    }
}

/// Disjoint ranges, each pair of them adjacent, from the bottom to the top of the address space.
fn ranges4(mut cuts: Vec<u32>) -> Vec<ElementKey> {
    cuts.sort_unstable();
    cuts.dedup();
    let lasts: Vec<u32> = cuts.iter().skip(1).map(|next| next - 1).chain([u32::MAX]).collect();
    cuts.into_iter()
        .zip(lasts)
        .map(|(first, last)| ElementKey::Range(IpAddr::V4(first.into()), IpAddr::V4(last.into())))
        .collect()
}

fn ranges6(mut cuts: Vec<u128>) -> Vec<ElementKey> {
    cuts.sort_unstable();
    cuts.dedup();
    let lasts: Vec<u128> = cuts.iter().skip(1).map(|next| next - 1).chain([u128::MAX]).collect();
    cuts.into_iter()
        .zip(lasts)
        .map(|(first, last)| ElementKey::Range(IpAddr::V6(first.into()), IpAddr::V6(last.into())))
        .collect()
}
