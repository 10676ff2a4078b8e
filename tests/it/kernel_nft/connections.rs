//! Connections in this machine's kernel: those of a pod's address that are chosen end, whatever translated them, and no others.
//!
//! Deliberately absent: which are chosen, which is `core::plan::sources`; and pods (`outpost::connections`).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use egret::core::plan::conntrack::{ConntrackFlush, FlushScope};
use egret::core::plan::{Step, plan};
use egret::core::state::NodeState;
use egret::core::state::nft::{DataType, ElementData, Field, KeyType, Statement, Table, TableFamily, Verdict};
use egret::core::state::ownership::DatapathConfig;
use egret::kernel::conntrack;

use super::oracle::nft;
use super::samples::{chain, goto, range, set};
use super::{ElementKey, alone};

const POD: &str = "10.1.1.7";
const POD6: &str = "fd00:10:1:1::7";
const OUTPOST: &str = "10.0.4.2";
/// For what takes a second.
const DEADLINE: Duration = Duration::from_mins(1);

fn ip(text: &str) -> IpAddr {
    text.parse().expect(text)
}

/// A device with these addresses, and a router behind it that is not there and so swallows everything; what they send each other goes over `lo`.
///
/// Connections to ports 7001 and 7002 have a mark, those to 10.96.0.1 end elsewhere, those to port 7004 are of another zone.
fn network() {
    let ip = |words: &str| {
        let done = std::process::Command::new("ip").args(words.split(' ')).status().expect("the ip program");
        assert!(done.success(), "ip {words}");
    };
    ip("link add d0 type veth peer name d1");
    ip("link set d0 up");
    ip("link set d1 up");
    for address in [POD, "10.1.1.8", OUTPOST, "10.1.9.9"] {
        ip(&format!("address add {address}/32 dev d0"));
    }
    ip(&format!("address add {POD6}/128 dev d0 nodad"));
    for (router, all) in [("10.255.0.2", "10.0.0.0/8"), ("fd00:ff::2", "fd00::/16")] {
        ip(&format!("neighbour add {router} lladdr 02:00:00:00:00:01 dev d0 nud permanent"));
        ip(&format!("route add {all} via {router} dev d0 onlink"));
    }
    nft(&["table inet other {
        chain zones { type filter hook output priority -300; udp dport 7004 ct zone set 7; }
        chain marks { type filter hook output priority 0; udp dport 7001 ct mark set 0x101; udp dport 7002 ct mark set 2; }
        chain services { type nat hook output priority -100; ip daddr 10.96.0.1 dnat ip to 10.1.9.9; }
        chain post { type nat hook postrouting priority 100; ip daddr 10.0.5.0/24 snat ip to 10.1.1.8; }
    }"])
    .expect("a table");
}

fn sent(from: &str, to: &str, port: u16) -> UdpSocket {
    let socket = UdpSocket::bind(SocketAddr::new(ip(from), 0)).expect("an address of this namespace");
    socket.send_to(b"?", SocketAddr::new(ip(to), port)).expect("a way there");
    socket
}

/// The same, and an answer.
fn answered(from: &str, to: &str, port: u16) -> UdpSocket {
    let server = UdpSocket::bind(SocketAddr::new(ip(to), port)).expect("an address of this namespace");
    let client = sent(from, to, port);
    let (_, caller) = server.recv_from(&mut [0; 8]).expect("a datagram");
    server.send_to(b"!", caller).expect("a way back");
    client.recv_from(&mut [0; 8]).expect("an answer");
    client
}

/// Under the mask of these tests.
const MASK: u32 = 0xff;
/// The mark of connections that are flushed and linger.
const FLUSHED: u32 = 0xfe;

/// The kernel's own listing: source, destination and port of each connection as it was opened. Not those that are flushed and
/// linger.
fn listed() -> BTreeSet<String> {
    let text = fs::read_to_string("/proc/thread-self/net/nf_conntrack").expect("CONFIG_NF_CONNTRACK_PROCFS");
    let field = |line: &str, name: &str| {
        let value = line.split(' ').find_map(|word| word.strip_prefix(name)).unwrap_or_default();
        value.parse::<IpAddr>().map_or_else(|_| value.to_owned(), |address| address.to_string())
    };
    text.lines()
        .filter(|line| line.contains(" udp "))
        .filter(|line| field(line, "mark=").parse::<u32>().expect("CONFIG_NF_CONNTRACK_MARK") & MASK != FLUSHED)
        .map(|line| format!("{} {} {}", field(line, "src="), field(line, "dst="), field(line, "dport=")))
        .collect()
}

fn texts(lines: &[&str]) -> BTreeSet<String> {
    lines.iter().map(|line| (*line).to_owned()).collect()
}

fn every(addresses: impl IntoIterator<Item = IpAddr>) -> ConntrackFlush {
    let addresses = addresses.into_iter().map(|address| (address, FlushScope::All)).collect();
    ConntrackFlush { addresses, mask: MASK, ..ConntrackFlush::default() }
}

#[test]
fn an_address_that_is_given_up_takes_all_its_connections_with_it_and_nobody_elses() {
    alone(|| async {
        network();
        let _open = [
            sent(POD, OUTPOST, 7000),
            sent(POD, OUTPOST, 7001),
            answered(POD, OUTPOST, 7003),
            sent(POD, "10.96.0.1", 7000),
            sent(POD, "10.0.5.1", 7000),
            sent(POD, OUTPOST, 7004),
            sent(POD6, "fd00:99::1", 7000),
            sent("10.1.1.8", OUTPOST, 7000),
            answered(OUTPOST, POD, 7005),
        ];
        assert_eq!(listed().len(), 9);
        let gone = every([ip(POD), ip(POD6)]);
        assert_eq!(conntrack::flush_sources(&gone).await.unwrap(), 7);
        let left = texts(&["10.1.1.8 10.0.4.2 7000", "10.0.4.2 10.1.1.7 7005"]);
        assert_eq!(listed(), left, "another pod's, and what somebody else opened to this one");
        assert_eq!(conntrack::flush_sources(&gone).await.unwrap(), 0);
    });
}

/// What a plan forgets of the pod when the map of pods changes from this to that.
fn planned(from: Option<Verdict>, to: Verdict) -> ConntrackFlush {
    let state = |verdict: Option<Verdict>| {
        let pods: Vec<_> = verdict
            .into_iter()
            .map(|verdict| (ElementKey::Address(ip(POD)), Some(ElementData::Verdict(verdict))))
            .collect();
        let mark = Statement::SetMark { field: Field::CtMark, keep: !0xff, value: 1 };
        let lookup = Statement::VerdictMap { field: Field::Ip4Daddr, mask: None, map: "to4_a".to_owned() };
        let outposts = [(range("10.0.4.0", "10.0.4.255"), Some(goto("exit_1")))];
        let table = Table {
            chains: BTreeMap::from([
                ("exit_1".to_owned(), chain(vec![vec![mark]])),
                ("group_a".to_owned(), chain(vec![vec![lookup]])),
            ]),
            sets: BTreeMap::from([
                ("group_of4".to_owned(), set(&[KeyType::Ipv4Addr], Some(DataType::Verdict), false, &pods)),
                ("to4_a".to_owned(), set(&[KeyType::Ipv4Addr], Some(DataType::Verdict), true, &outposts)),
            ]),
            ..Table::default()
        };
        NodeState { nft: BTreeMap::from([(TableFamily::Inet, table)]), ..NodeState::default() }
    };
    let range = DatapathConfig { mask: 0xff, ..DatapathConfig::default() };
    let steps = plan(&state(Some(to)), &state(from), range).steps;
    let mut sources = steps.into_iter().filter_map(|step| match step {
        Step::FlushSources(sources) => Some(sources),
        _ => None,
    });
    sources.next().expect("something is forgotten")
}

#[test]
fn a_pod_that_gets_an_address_keeps_what_it_has_itself_and_inherits_nothing() {
    alone(|| async {
        network();
        let open = || {
            [
                sent(POD, OUTPOST, 7000),
                sent(POD, OUTPOST, 7001),
                sent(POD, OUTPOST, 7002),
                answered(POD, OUTPOST, 7003),
                sent(POD, "10.0.6.1", 7001),
                sent(POD, "10.0.6.1", 7003),
                answered(POD, "10.1.9.9", 7003),
                sent(POD, "10.96.0.1", 7000),
            ]
        };
        let own = texts(&["10.1.1.7 10.0.6.1 7003", "10.1.1.7 10.1.9.9 7003", "10.1.1.7 10.96.0.1 7000"]);
        let _first = open();
        conntrack::flush_sources(&planned(None, Verdict::Goto("group_a".to_owned()))).await.unwrap();
        let mut member = own.clone();
        // The mark is that of its own exit: it leads where the member is led.
        member.insert("10.1.1.7 10.0.4.2 7001".to_owned());
        assert_eq!(listed(), member, "a member");
        conntrack::flush_sources(&every([ip(POD)])).await.unwrap();
        let _second = open();
        conntrack::flush_sources(&planned(None, Verdict::Accept)).await.unwrap();
        let mut other = own;
        other.extend(texts(&["10.1.1.7 10.0.4.2 7000", "10.1.1.7 10.0.4.2 7003"]));
        assert_eq!(listed(), other, "a pod that no policy selects");
    });
}

#[test]
fn a_pod_that_becomes_a_member_loses_what_nobody_has_answered_and_keeps_what_lives() {
    alone(|| async {
        network();
        let _open = [
            sent(POD, OUTPOST, 7000),
            sent(POD, OUTPOST, 7002),
            answered(POD, OUTPOST, 7003),
            sent(POD, "10.0.6.1", 7000),
            sent(POD, "10.96.0.1", 7000),
        ];
        let sources = planned(Some(Verdict::Accept), Verdict::Goto("group_a".to_owned()));
        assert_eq!(conntrack::flush_sources(&sources).await.unwrap(), 1);
        assert!(!listed().contains("10.1.1.7 10.0.4.2 7000"));
    });
}

/// Waits until no connection lingers; `meanwhile` runs between two reads.
async fn ended(mut meanwhile: impl FnMut()) {
    let begun = Instant::now();
    while conntrack::count(FLUSHED, MASK).await.expect("a count") > 0 {
        assert!(begun.elapsed() < DEADLINE, "its packets prolong it");
        meanwhile();
    }
}

#[test]
fn a_flushed_connection_that_the_other_end_sees_with_the_pods_address_ends_soon_whatever_passes() {
    alone(|| async {
        network();
        let server = UdpSocket::bind(SocketAddr::new(ip(OUTPOST), 7003)).unwrap();
        let begun = Instant::now();
        let (client, caller) = loop {
            assert!(begun.elapsed() < DEADLINE, "it never took less than a second");
            let client = sent(POD, OUTPOST, 7003);
            let (_, caller) = server.recv_from(&mut [0; 8]).unwrap();
            let _others = [sent(POD, "10.0.5.1", 7000), sent(POD6, "fd00:99::1", 7001)];
            let flushed = Instant::now();
            let seen = [
                conntrack::flush_sources(&every([ip(POD), ip(POD6)])).await.unwrap(),
                conntrack::count(FLUSHED, MASK).await.unwrap(),
                conntrack::count(0x1fe, 0x1ff).await.unwrap(),
                conntrack::flush_sources(&every([ip(POD), ip(POD6)])).await.unwrap(),
            ];
            // They linger for a second. What stood still for as long has not seen them, and begins again.
            if flushed.elapsed() < Duration::from_secs(1) {
                assert_eq!(seen, [3, 2, 1, 0], "not the translated one; with the bits of others; once is enough");
                break (client, caller);
            }
            ended(|| ()).await;
        };
        ended(|| {
            client.send_to(b"?", SocketAddr::new(ip(OUTPOST), 7003)).unwrap();
            server.send_to(b"!", caller).unwrap();
        })
        .await;
        client.send_to(b"?", SocketAddr::new(ip(OUTPOST), 7003)).unwrap();
        // Whose packet was the first once the entry had ended is chance.
        let port = caller.port();
        let new = [texts(&["10.1.1.7 10.0.4.2 7003"]), texts(&[&format!("10.0.4.2 10.1.1.7 {port}")])];
        assert!(new.contains(&listed()), "a new one: {:?}", listed());
    });
}

#[test]
fn whether_connections_are_tracked_is_found_out_where_there_are_none() {
    alone(|| async {
        assert!(!conntrack::at_work().await.unwrap());
        assert_eq!(conntrack::tracked().await.unwrap(), 0, "the question does not begin it");
        nft(&["table inet other { chain c { type filter hook forward priority 0; ct state established accept; }; }"])
            .unwrap();
        assert_eq!(conntrack::tracked().await.unwrap(), 0);
        assert!(conntrack::at_work().await.unwrap());
    });
}

#[test]
fn of_a_hundred_thousand_connections_those_of_one_address_and_of_twenty_are_found() {
    alone(|| async {
        network();
        let socket = UdpSocket::bind(SocketAddr::new(ip("10.1.1.8"), 0)).unwrap();
        let all = (0..100_000_u32).map(|number| Ipv4Addr::from(0x0a40_0000 + number));
        for to in all {
            socket.send_to(b"?", (to, 9)).unwrap();
        }
        let _few = [sent(POD, OUTPOST, 7000), sent(POD, OUTPOST, 7002)];
        assert_eq!(conntrack::tracked().await.unwrap(), 100_002);
        let begun = Instant::now();
        assert_eq!(conntrack::flush_sources(&every([ip("10.1.1.99")])).await.unwrap(), 0);
        println!("measured: one address that has none of 100,000 connections: {:.1?}", begun.elapsed());
        let begun = Instant::now();
        assert_eq!(conntrack::flush_sources(&every([ip(POD)])).await.unwrap(), 2);
        println!("measured: one address that has two of them: {:.1?}", begun.elapsed());
        let begun = Instant::now();
        let twenty = (100..120).map(|last| IpAddr::from([10, 1, 1, last]));
        assert_eq!(conntrack::flush_sources(&every(twenty)).await.unwrap(), 0);
        println!("measured: twenty addresses that have none: {:.1?}", begun.elapsed());
        let begun = Instant::now();
        assert_eq!(conntrack::flush_sources(&every([ip("10.1.1.8")])).await.unwrap(), 100_000);
        println!("measured: one address that has 100,000: {:.1?}", begun.elapsed());
        assert_eq!(listed(), BTreeSet::new());
    });
}
