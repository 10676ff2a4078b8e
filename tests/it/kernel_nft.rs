//! nftables in this machine's kernel: what is sent is found there again, by us and by the nft program.
//!
//! Each test has a network namespace of its own. Deliberately absent: packets (`tests/lab`), and what should be there (`core`).

mod connections;
pub(crate) mod oracle;
mod samples;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, UdpSocket};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use egret::core::plan::{Step, plan};
use egret::core::state::NodeState;
use egret::core::state::nft::{
    BaseChain, Chain, ChainKind, ChainPolicy, DataType, ElementData, ElementKey, Field, Hook, KeyType, MatchValue,
    NftChange, NftRule, NftTransaction, RuleCounter, Ruleset, Set, Statement, Table, TableFamily, Verdict,
};
use egret::core::state::ownership::DatapathConfig;
use egret::kernel::conntrack;
use egret::kernel::nft::{Generation, Nft, NftError, NftEvent, NftEvents, NftFeatures};
use nix::sched::{CloneFlags, unshare};

use crate::fuzz_netlink::making;
use oracle::{blocks, nft};
pub(crate) use samples::every_kind;
use samples::{address, chain, compare, goto, range, set};

/// Runs a test in a network namespace of its own, with loopback up.
fn alone<T: Future<Output = ()>>(test: impl FnOnce() -> T + Send + 'static) {
    let body = || {
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace needs CAP_SYS_ADMIN");
        let up = Command::new("ip").args(["link", "set", "lo", "up"]).status();
        assert!(up.expect("the ip program is needed for these tests").success());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime needs epoll").block_on(test());
    };
    if let Err(panic) = thread::spawn(body).join() {
        std::panic::resume_unwind(panic);
    }
}

fn transaction(changes: Vec<(TableFamily, NftChange)>) -> NftTransaction {
    NftTransaction { changes }
}

fn inet(changes: Vec<NftChange>) -> NftTransaction {
    transaction(changes.into_iter().map(|change| (TableFamily::Inet, change)).collect())
}

/// Commits on top of what is there now.
async fn apply(kernel: &mut Nft, transaction: &NftTransaction) -> Result<Generation, NftError> {
    let (_, generation) = kernel.observe().await?;
    kernel.commit(transaction, generation).await
}

/// An error with all its sources.
fn whole_text(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", whole_text(source)),
        None => error.to_string(),
    }
}

#[test]
fn every_kind_is_found_again_as_it_was_sent_and_nft_lists_the_same() {
    alone(|| async {
        let (inet, netdev) = every_kind();
        let mut kernel = Nft::open().unwrap();
        let changes = [making(TableFamily::Inet, &inet), making(TableFamily::Netdev, &netdev)].concat();
        let generation = apply(&mut kernel, &transaction(changes)).await.map_err(|error| whole_text(&error)).unwrap();
        let expected = Ruleset::from([(TableFamily::Inet, inet.clone()), (TableFamily::Netdev, netdev)]);
        assert_eq!(kernel.observe().await.unwrap(), (expected, generation));
        assert_eq!(
            blocks(&nft(&["list", "table", "inet", "egret"]).unwrap()),
            blocks(&inet.listing(TableFamily::Inet))
        );
    });
}

#[test]
fn ranges_reach_from_the_bottom_to_the_top_and_touch() {
    let verdict = |verdict| Some(ElementData::Verdict(verdict));
    let adjacent = vec![
        (range("0.0.0.0", "0.0.0.0"), verdict(Verdict::Drop)),
        (range("0.0.0.1", "9.255.255.255"), verdict(Verdict::Accept)),
        (range("10.0.0.0", "10.0.0.0"), verdict(Verdict::Drop)),
        (range("10.0.0.1", "10.0.0.255"), verdict(Verdict::Accept)),
        (range("11.0.0.3", "255.255.255.254"), verdict(Verdict::Drop)),
        (range("255.255.255.255", "255.255.255.255"), verdict(Verdict::Return)),
    ];
    let all = vec![(range("0.0.0.0", "255.255.255.255"), None)];
    let top6 = vec![(range("ffff::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"), None), (range("::", "::1"), None)];
    let all6 = vec![(range("::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"), verdict(Verdict::Drop))];
    alone(move || async move {
        let sets = BTreeMap::from([
            ("adjacent".to_owned(), set(&[KeyType::Ipv4Addr], Some(DataType::Verdict), true, &adjacent)),
            ("all".to_owned(), set(&[KeyType::Ipv4Addr], None, true, &all)),
            ("top6".to_owned(), set(&[KeyType::Ipv6Addr], None, true, &top6)),
            ("all6".to_owned(), set(&[KeyType::Ipv6Addr], Some(DataType::Verdict), true, &all6)),
        ]);
        let mut table = Table { owned: true, abandoned: false, chains: BTreeMap::new(), sets };
        let mut kernel = Nft::open().unwrap();
        apply(&mut kernel, &transaction(making(TableFamily::Inet, &table))).await.unwrap();
        assert_eq!(kernel.observe().await.unwrap().0, Ruleset::from([(TableFamily::Inet, table.clone())]));
        assert_eq!(
            blocks(&nft(&["list", "table", "inet", "egret"]).unwrap()),
            blocks(&table.listing(TableFamily::Inet))
        );

        // One out of the middle, the one at the top, and a piece back into the gap, touching both sides.
        let gone = vec![adjacent[2].clone(), adjacent[5].clone()];
        let back = vec![(range("10.0.0.0", "10.0.0.0"), verdict(Verdict::Return))];
        let changes = vec![
            NftChange::DeleteElements("adjacent".to_owned(), gone.clone()),
            NftChange::AddElements("adjacent".to_owned(), back.clone()),
            NftChange::DeleteElements("all".to_owned(), all.clone()),
            NftChange::DeleteElements("all6".to_owned(), all6.clone()),
        ];
        apply(&mut kernel, &inet(changes)).await.unwrap();
        let elements = table.sets.get_mut("adjacent").map(|set| &mut set.elements).unwrap();
        for (key, _) in &gone {
            elements.remove(key);
        }
        elements.extend(back);
        table.sets.get_mut("all").unwrap().elements.clear();
        table.sets.get_mut("all6").unwrap().elements.clear();
        assert_eq!(kernel.observe().await.unwrap().0, Ruleset::from([(TableFamily::Inet, table)]));
    });
}

#[test]
fn a_hundred_thousand_elements_are_one_transaction_and_one_more_is_another() {
    alone(|| async {
        let pods = (0..100_000_u32)
            .map(|number| (ElementKey::Address(Ipv4Addr::from(0x0a00_0000 + number).into()), Some(goto("group"))));
        let pods = set(&[KeyType::Ipv4Addr], Some(DataType::Verdict), false, &pods.collect::<Vec<_>>());
        let mut table = Table {
            owned: true,
            abandoned: false,
            chains: BTreeMap::from([("group".to_owned(), chain(vec![]))]),
            sets: BTreeMap::from([("pods".to_owned(), pods)]),
        };
        let mut kernel = Nft::open().unwrap();
        apply(&mut kernel, &transaction(making(TableFamily::Inet, &table))).await.unwrap();
        let (ruleset, generation) = kernel.observe().await.unwrap();
        assert!(ruleset == Ruleset::from([(TableFamily::Inet, table.clone())]), "too large to print");

        let newborn = (ElementKey::Address(address("192.0.2.1")), Some(goto("group")));
        let gone = (ElementKey::Address(address("10.0.0.77")), Some(goto("group")));
        let changes = vec![
            NftChange::AddElements("pods".to_owned(), vec![newborn.clone()]),
            NftChange::DeleteElements("pods".to_owned(), vec![gone.clone()]),
        ];
        kernel.commit(&inet(changes), generation).await.unwrap();
        let elements = &mut table.sets.get_mut("pods").unwrap().elements;
        elements.remove(&gone.0);
        elements.extend([newborn]);
        assert!(kernel.observe().await.unwrap().0 == Ruleset::from([(TableFamily::Inet, table)]), "too large to print");
    });
}

#[test]
fn a_transaction_on_an_older_generation_is_refused_and_changes_nothing() {
    alone(|| async {
        let mut kernel = Nft::open().unwrap();
        let (_, seen) = kernel.observe().await.unwrap();
        nft(&["add", "table", "ip", "neighbour"]).unwrap();
        let error = kernel.commit(&inet(vec![NftChange::AddTable { owned: true }]), seen).await.unwrap_err();
        assert!(matches!(error, NftError::Stale), "{error}");
        let (ruleset, seen) = kernel.observe().await.unwrap();
        assert_eq!(ruleset, Ruleset::new());
        kernel.commit(&inet(vec![NftChange::AddTable { owned: true }]), seen).await.unwrap();
    });
}

#[test]
fn a_transaction_that_fails_in_its_middle_changes_nothing_and_names_the_change() {
    alone(|| async {
        let mut kernel = Nft::open().unwrap();
        let nowhere = NftRule(vec![Statement::Verdict(Verdict::Goto("nowhere".to_owned()))]);
        let changes = vec![
            NftChange::AddTable { owned: true },
            NftChange::AddChain("steer".to_owned(), None, None),
            NftChange::AddRule("steer".to_owned(), nowhere),
            NftChange::AddChain("guard".to_owned(), None, None),
        ];
        let error = apply(&mut kernel, &inet(changes)).await.unwrap_err();
        let expected = "`inet egret: add rule steer goto nowhere`: No such file or directory (os error 2)";
        assert_eq!(whole_text(&error), expected);
        assert_eq!(kernel.observe().await.unwrap().0, Ruleset::new());
    });
}

#[test]
fn of_more_refusals_than_fit_the_first_is_named() {
    alone(|| async {
        let mut kernel = Nft::open().unwrap();
        let rule = |number: u32| NftRule(vec![Statement::Verdict(Verdict::Goto(format!("nowhere{number}")))]);
        let mut changes =
            vec![NftChange::AddTable { owned: true }, NftChange::AddChain("steer".to_owned(), None, None)];
        changes.extend((0..20_000).map(|number| NftChange::AddRule("steer".to_owned(), rule(number))));
        let error = apply(&mut kernel, &inet(changes)).await.unwrap_err();
        let expected = "`inet egret: add rule steer goto nowhere0`: No such file or directory (os error 2)";
        assert_eq!(whole_text(&error), expected);
        assert_eq!(kernel.observe().await.unwrap().0, Ruleset::new());
    });
}

#[test]
fn of_many_elements_the_one_that_the_kernel_refused_is_named() {
    alone(|| async {
        let mut kernel = Nft::open().unwrap();
        let mut elements: Vec<_> = (0..5_000)
            .map(|number| (ElementKey::Address(Ipv4Addr::from(0x0a00_0000 + number).into()), Some(goto("group"))))
            .collect();
        elements[4_321].1 = Some(goto("nowhere"));
        let changes = vec![
            NftChange::AddTable { owned: true },
            NftChange::AddChain("group".to_owned(), None, None),
            NftChange::AddSet("pods".to_owned(), set(&[KeyType::Ipv4Addr], Some(DataType::Verdict), false, &[])),
            NftChange::AddElements("pods".to_owned(), elements),
        ];
        let error = apply(&mut kernel, &inet(changes)).await.unwrap_err();
        let expected =
            "`inet egret: add element pods { 10.0.16.225 : goto nowhere }`: No such file or directory (os error 2)";
        assert_eq!(whole_text(&error), expected);
    });
}

#[test]
fn an_owned_table_withstands_others_and_is_taken_over_by_the_next_process() {
    alone(|| async {
        let mut first = Nft::open().unwrap();
        let (table, _) = every_kind();
        apply(&mut first, &transaction(making(TableFamily::Inet, &table))).await.unwrap();
        nft(&["flush", "ruleset"]).unwrap();
        let refused = nft(&["delete", "table", "inet", "egret"]).unwrap_err();
        assert!(refused.contains("Operation not permitted"), "{refused}");
        assert_eq!(first.observe().await.unwrap().0, Ruleset::from([(TableFamily::Inet, table.clone())]));

        drop(first);
        let mut next = Nft::open().unwrap();
        let orphan = Table { owned: false, abandoned: true, ..table.clone() };
        assert_eq!(let_go(&mut next).await, Ruleset::from([(TableFamily::Inet, orphan)]));
        let changes = vec![NftChange::AddTable { owned: true }, NftChange::FlushChain("act".to_owned())];
        apply(&mut next, &inet(changes)).await.unwrap();
        let mut taken = table;
        taken.chains.get_mut("act").unwrap().rules.clear();
        assert_eq!(next.observe().await.unwrap().0, Ruleset::from([(TableFamily::Inet, taken)]));
        let other = Nft::open().unwrap().observe().await.unwrap().0;
        assert!(!other[&TableFamily::Inet].owned, "a table that belongs to somebody else is not ours");
    });
}

/// The tables once nobody owns them. A program that another test starts just then has its parent's sockets until it is executed.
async fn let_go(kernel: &mut Nft) -> Ruleset {
    let begun = Instant::now();
    loop {
        let seen = kernel.observe().await.expect("a listing").0;
        if seen.values().all(|table| table.abandoned) {
            return seen;
        }
        assert!(begun.elapsed() < Duration::from_mins(1), "{seen:?}");
    }
}

/// Why a plan takes a table over in a transaction of its own, which a kill between two transactions makes necessary.
#[test]
fn an_abandoned_table_gets_base_chains_only_after_it_is_taken_over() {
    alone(|| async {
        let mut first = Nft::open().unwrap();
        apply(&mut first, &inet(vec![NftChange::AddTable { owned: true }])).await.unwrap();
        drop(first);
        let mut next = Nft::open().unwrap();
        let found = NodeState { nft: let_go(&mut next).await, ..NodeState::default() };
        let base = BaseChain { kind: ChainKind::Filter, hook: Hook::Input, priority: 97, policy: ChainPolicy::Accept };
        let chains = BTreeMap::from([("remember".to_owned(), Chain { base: Some(base.clone()), ..Chain::default() })]);
        let table = Table { owned: true, chains, ..Table::default() };
        let wanted = NodeState { nft: Ruleset::from([(TableFamily::Inet, table)]), ..NodeState::default() };
        let together =
            vec![NftChange::AddTable { owned: true }, NftChange::AddChain("remember".to_owned(), Some(base), None)];
        assert!(whole_text(&apply(&mut next, &inet(together)).await.unwrap_err()).contains("Invalid argument"));
        for step in plan(&wanted, &found, DatapathConfig::default()).steps {
            let Step::Nft(transaction) = step else { panic!("{step:?}") };
            apply(&mut next, &transaction).await.unwrap();
        }
        assert_eq!(next.observe().await.unwrap().0, wanted.nft);
    });
}

#[test]
fn events_name_the_process_and_the_generation_of_our_own_commits() {
    alone(|| async {
        let mut events = NftEvents::open().unwrap();
        let mut kernel = Nft::open().unwrap();
        let own = apply(&mut kernel, &inet(vec![NftChange::AddTable { owned: false }])).await.unwrap();
        nft(&["add", "chain", "inet", "egret", "foreign"]).unwrap();
        let NftEvent::Changed(first) = events.next().await.unwrap() else { panic!("an overrun") };
        assert_eq!(first.generation, own);
        let NftEvent::Changed(second) = events.next().await.unwrap() else { panic!("an overrun") };
        assert_eq!((second.process_name.as_str(), second.generation.0), ("nft", own.0 + 1));
        assert!(second.process_id != 0);
    });
}

#[test]
fn an_overrun_of_events_is_reported_and_listening_goes_on() {
    alone(|| async {
        let mut events = NftEvents::open().unwrap();
        let mut kernel = Nft::open().unwrap();
        let pods = (0..20_000_u32).map(|number| (ElementKey::Address(Ipv4Addr::from(number).into()), None)).collect();
        let changes = vec![
            NftChange::AddTable { owned: false },
            NftChange::AddSet("pods".to_owned(), set(&[KeyType::Ipv4Addr], None, false, &[])),
            NftChange::AddElements("pods".to_owned(), pods),
        ];
        apply(&mut kernel, &inet(changes)).await.unwrap();
        assert_eq!(events.next().await.unwrap(), NftEvent::Overrun);
        nft(&["add", "chain", "inet", "egret", "foreign"]).unwrap();
        let NftEvent::Changed(change) = events.next().await.unwrap() else { panic!("a second overrun") };
        assert_eq!(change.process_name, "nft");
    });
}

#[test]
fn connections_with_a_mark_are_forgotten_and_the_others_are_not() {
    alone(|| async {
        let mut kernel = Nft::open().unwrap();
        let rule = |port, value| {
            NftRule(vec![
                compare(Field::UdpDport, None, false, MatchValue::Port(port)),
                Statement::SetMark { field: Field::CtMark, keep: 0xffff_e000, value },
                Statement::Counter,
            ])
        };
        assert_eq!(kernel.counters().await.unwrap(), BTreeMap::new(), "there is no table yet");
        let output =
            BaseChain { kind: ChainKind::Filter, hook: Hook::Output, priority: 0, policy: ChainPolicy::Accept };
        let changes = vec![
            NftChange::AddTable { owned: true },
            NftChange::AddChain("output".to_owned(), Some(output), None),
            NftChange::AddRule("output".to_owned(), rule(7001, 3)),
            NftChange::AddRule("output".to_owned(), rule(7002, 5)),
        ];
        apply(&mut kernel, &inet(changes)).await.unwrap();
        let [client4, client6] = ["127.0.0.1:0", "[::1]:0"].map(|local| UdpSocket::bind(local).unwrap());
        for port in [7001, 7002] {
            client4.send_to(b"four", ("127.0.0.1", port)).unwrap();
            client6.send_to(b"six!", ("::1", port)).unwrap();
        }
        let counted = |bytes| RuleCounter { packets: 2, bytes };
        // 20 or 40 bytes of IP, 8 of UDP, 4 of text.
        let expected = [("output", 0), ("output", 1)]
            .map(|(chain, rule)| ((TableFamily::Inet, chain.to_owned(), rule), counted(84)));
        assert_eq!(kernel.counters().await.unwrap(), BTreeMap::from(expected));
        assert_eq!(conntrack::count(3, 0x1fff).await.unwrap(), 2);
        conntrack::flush(3, 0x1fff).await.unwrap();
        assert_eq!(conntrack::count(3, 0x1fff).await.unwrap(), 0);
        assert_eq!(conntrack::count(5, 0x1fff).await.unwrap(), 2);
        conntrack::flush(3, 0x1fff).await.unwrap();
        let error = conntrack::flush(0, 0).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "flush connections with mark 0x0/0x0: the mask is empty or does not cover the mark"
        );
    });
}

#[test]
fn tables_of_others_are_neither_seen_nor_touched() {
    alone(|| async {
        let foreign = "table inet other { set s { type ipv4_addr; elements = { 1.2.3.4 }; }
            chain egret { type filter hook prerouting priority 0; ip saddr @s drop; }; }
            table ip egret { chain steer { meta mark 1 drop; }; }";
        nft(&[foreign]).unwrap();
        let before = nft(&["list", "ruleset"]).unwrap();
        let mut kernel = Nft::open().unwrap();
        assert_eq!(kernel.observe().await.unwrap().0, Ruleset::new());
        let (table, _) = every_kind();
        apply(&mut kernel, &transaction(making(TableFamily::Inet, &table))).await.unwrap();
        assert_eq!(kernel.observe().await.unwrap().0, Ruleset::from([(TableFamily::Inet, table)]));
        apply(&mut kernel, &inet(vec![NftChange::DeleteTable])).await.unwrap();
        assert_eq!(nft(&["list", "ruleset"]).unwrap(), before);
    });
}

#[test]
fn what_egret_never_writes_is_shown_and_can_be_taken_away() {
    alone(|| async {
        let foreign = "table inet egret { set ports { type inet_service; elements = { 80 }; }
            chain odd { type filter hook ingress device lo priority 5; }
            chain steer { limit rate 5/second; meta nfproto ipv4 accept; ip saddr 10.0.0.0/8 drop; }; }";
        nft(&[foreign]).unwrap();
        let mut kernel = Nft::open().unwrap();
        let table = kernel.observe().await.unwrap().0.remove(&TableFamily::Inet).unwrap();
        let unknown = Set { key: vec![], data: None, interval: false, elements: BTreeMap::new() };
        assert_eq!(table.sets, BTreeMap::from([("ports".to_owned(), unknown)]));
        let odd = vec![Statement::Unknown("type filter hook 5 priority 5".to_owned())];
        assert_eq!(table.chains["odd"], chain(vec![odd]));
        let known = |text: &str| Statement::Unknown(text.to_owned());
        let steer = &table.chains["steer"].rules;
        assert!(
            matches!(steer[0].0.as_slice(), [Statement::Unknown(text)] if text.starts_with("limit 0x")),
            "{steer:?}"
        );
        let accept = Statement::Verdict(Verdict::Accept);
        assert_eq!(steer[1].0, [known("meta load key 15 => reg 1"), known("cmp eq reg 1 0x02"), accept]);
        assert!(steer[2].0.iter().any(|statement| matches!(statement, Statement::Unknown(_))), "{steer:?}");
        let changes = [
            NftChange::FlushChain("steer".to_owned()),
            NftChange::DeleteChain("steer".to_owned()),
            NftChange::DeleteChain("odd".to_owned()),
            NftChange::DeleteSet("ports".to_owned()),
        ];
        apply(&mut kernel, &inet(changes.to_vec())).await.unwrap();
        assert_eq!(kernel.observe().await.unwrap().0, Ruleset::from([(TableFamily::Inet, Table::default())]));
    });
}

#[test]
fn finding_out_what_the_kernel_can_do_leaves_nothing() {
    alone(|| async {
        let mut kernel = Nft::open().unwrap();
        let before = kernel.observe().await.unwrap();
        let features = kernel.probe().await.unwrap();
        assert_eq!(features, NftFeatures { owned_tables: true, interface_kinds: true, resets: true }, "Linux 6.9");
        assert_eq!(kernel.observe().await.unwrap(), before);
        assert_eq!(nft(&["list", "ruleset"]).unwrap(), "");
    });
}
