//! Tests of flushing: each way in which an address can change, and which of its connections are flushed.

use super::super::super::state::nft::{Chain, DataType, KeyType, NftRule, Set};
use super::*;

const RANGE: DatapathConfig = DatapathConfig { mask: 0xff, first: 9000, port: 4790, mtu: 1450 };
const OUTPOST: &str = "10.0.4.2";
const SERVICE: &str = "10.1.9.9";
const ELSEWHERE: &str = "192.0.2.1";

fn ip(text: &str) -> IpAddr {
    text.parse().expect(text)
}

fn name(text: &str) -> PodName {
    PodName { namespace: "batuu".to_owned(), name: text.to_owned() }
}

fn set(interval: bool, data: bool, elements: impl IntoIterator<Item = (ElementKey, Option<ElementData>)>) -> Set {
    let data = data.then_some(DataType::Verdict);
    Set { key: vec![KeyType::Ipv4Addr], data, interval, elements: elements.into_iter().collect() }
}

#[expect(clippy::unnecessary_wraps, reason = "as elements have it")]
fn goto(chain: &str) -> Option<ElementData> {
    Some(ElementData::Verdict(Verdict::Goto(chain.to_owned())))
}

fn network(text: &str) -> ElementKey {
    let range = Addresses::from(text.parse::<ipnet::IpNet>().expect(text));
    ElementKey::Range(range.first(), range.last())
}

/// A table as `compile` makes it: groups `a` and `b` lead 10.0.4.0/24 to exits 1 and 2; `r` leads it to exit 1, live
/// connections too; `d` drops packets to it. Each pod is an address and its group; `-`: no policy selects it.
fn ruleset(pods: &[(&str, &str)]) -> Ruleset {
    let mut table = Table::default();
    let mut chain = |name: &str, statement| {
        let chain = Chain { rules: vec![NftRule(vec![statement])], ..Chain::default() };
        table.chains.insert(name.to_owned(), chain);
    };
    for mark in [1, 2] {
        chain(&format!("exit_{mark}"), Statement::SetMark { field: Field::CtMark, keep: !RANGE.mask, value: mark });
        let goto = Verdict::Goto(format!("exit_{mark}"));
        chain(&format!("policy_{mark}"), Statement::Verdict(goto));
    }
    let lookup = |map: &str| Statement::VerdictMap { field: Field::Ip4Daddr, mask: None, map: map.to_owned() };
    for group in ["a", "b", "r", "d"] {
        chain(&format!("group_{group}"), lookup(&format!("to4_{group}")));
    }
    chain("reset_r", lookup("reset4_r"));
    let outposts = network("10.0.4.0/24");
    for (group, to) in [("a", goto("policy_1")), ("b", goto("policy_2")), ("r", goto("policy_1")), ("d", None)] {
        let to = to.or(Some(ElementData::Verdict(Verdict::Drop)));
        let own = (network("192.0.2.0/24"), Some(ElementData::Verdict(Verdict::Accept)));
        // As wide as 0.0.0.0/0 would be: the cluster is inside.
        let cluster = (network("10.1.0.0/16"), to.clone());
        table.sets.insert(format!("to4_{group}"), set(true, true, [(outposts.clone(), to), own, cluster]));
    }
    table.sets.insert("reset4_r".to_owned(), set(true, true, [(outposts.clone(), goto("policy_1"))]));
    table.sets.insert("guarded4".to_owned(), set(true, false, [(outposts, None)]));
    table.sets.insert("cluster4".to_owned(), set(true, false, [(network("10.1.0.0/16"), None)]));
    let of = |group: &str| match group {
        "-" => Some(ElementData::Verdict(Verdict::Accept)),
        group => goto(&format!("group_{group}")),
    };
    let all = pods.iter().map(|(address, group)| (ElementKey::Address(ip(address)), of(group)));
    table.sets.insert("group_of4".to_owned(), set(false, true, all));
    let reset = pods.iter().filter(|(_, group)| *group == "r").map(|(address, _)| {
        (ElementKey::Address(ip(address)), Some(ElementData::Verdict(Verdict::Jump("reset_r".to_owned()))))
    });
    table.sets.insert("reset_of4".to_owned(), set(false, true, reset));
    Ruleset::from([(TableFamily::Inet, table)])
}

/// The same with a pod without a policy as an element of a plain set.
fn with_others(mut ruleset: Ruleset) -> Ruleset {
    let table = ruleset.get_mut(&TableFamily::Inet).expect("a table");
    let groups = table.sets.get_mut("group_of4").expect("a map");
    let (others, members): (Vec<_>, Vec<_>) = std::mem::take(&mut groups.elements)
        .into_iter()
        .partition(|(_, data)| *data == Some(ElementData::Verdict(Verdict::Accept)));
    groups.elements = members.into_iter().collect();
    let others = others.into_iter().map(|(key, _)| (key, None));
    table.sets.insert("others4".to_owned(), set(false, false, others));
    ruleset
}

fn lines(sources: Option<ConntrackFlush>) -> String {
    sources.map(|sources| sources.to_string()).unwrap_or_default()
}

/// The text of both parts of a change from one list of pods to another, for both forms in which the table has pods
/// without a policy.
fn change(from: &[(&str, &str)], to: &[(&str, &str)], holders: &AddressHolders) -> [String; 2] {
    let (observed, desired) = (ruleset(from), ruleset(to));
    let DueFlushes { ahead, behind } = due(&desired, &observed, RANGE, holders);
    let plain = due(&with_others(desired), &with_others(observed), RANGE, holders);
    assert_eq!((&plain.ahead, &plain.behind), (&ahead, &behind));
    [lines(ahead), lines(behind)]
}

const P: &str = "10.1.1.7";

#[test]
fn each_change_of_an_address_flushes_what_it_must_and_no_more() {
    let unknown = AddressHolders::default();
    let nothing = [String::new(), String::new()];
    let ahead = |text: &str| [format!("from {P}: {text}"), String::new()];
    let behind = |text: &str| [String::new(), format!("from {P}: {text}")];
    let earlier = "those of an earlier pod";
    let moved = "unanswered ones that are steered now";
    let reset = "unanswered ones that are steered now, live ones that are reset";
    let cases: [(&[_], &[_], [String; 2]); 14] = [
        (&[(P, "a")], &[], behind("all")),
        (&[(P, "-")], &[], behind("all")),
        (&[], &[(P, "a")], ahead(earlier)),
        (&[], &[(P, "-")], ahead(earlier)),
        (&[], &[(P, "r")], ahead(earlier)),
        (&[(P, "-")], &[(P, "a")], behind(moved)),
        (&[(P, "a")], &[(P, "b")], behind(moved)),
        (&[(P, "-")], &[(P, "r")], behind(reset)),
        (&[(P, "a")], &[(P, "r")], [format!("from {P}: live ones that are reset"), behind(reset)[1].clone()]),
        // It is not known which pod has the address now: it may have been reassigned.
        (&[(P, "a")], &[(P, "-")], behind(earlier)),
        (&[(P, "r")], &[(P, "a")], behind(moved)),
        // No gateway any more: nothing is steered.
        (&[(P, "a")], &[(P, "d")], nothing.clone()),
        (&[(P, "a")], &[(P, "a")], nothing.clone()),
        (&[(P, "-")], &[(P, "-")], nothing),
    ];
    for (from, to, expected) in cases {
        assert_eq!(change(from, to, &unknown), expected, "{from:?} → {to:?}");
    }
}

#[test]
fn the_addresss_pod_decides_where_it_is_known() {
    let holders = |before: &str, now: &str| AddressHolders {
        before: Some(BTreeMap::from([(ip(P), name(before))])),
        now: BTreeMap::from([(ip(P), name(now))]),
    };
    let (same, other) = (holders("one", "one"), holders("one", "two"));
    let nothing = [String::new(), String::new()];
    let earlier = [String::new(), format!("from {P}: those of an earlier pod")];
    // A pod that loses its label keeps its connections.
    assert_eq!(change(&[(P, "a")], &[(P, "-")], &same), nothing);
    for (from, to) in [("a", "-"), ("-", "a"), ("a", "b"), ("a", "a"), ("-", "-"), ("-", "d")] {
        assert_eq!(change(&[(P, from)], &[(P, to)], &other), earlier, "{from} → {to}");
    }
    // Another process removed the element from the map; the pod is the same.
    let moved = [String::new(), format!("from {P}: unanswered ones that are steered now")];
    assert_eq!(change(&[], &[(P, "a")], &same), moved);
    assert_eq!(change(&[], &[(P, "-")], &same), nothing);
}

#[test]
fn no_address_is_new_without_an_old_table_or_gone_without_a_new_one() {
    let unknown = AddressHolders::default();
    let pods = ruleset(&[(P, "a"), ("10.1.1.8", "-"), ("10.1.1.9", "r")]);
    let first = due(&pods, &Ruleset::new(), RANGE, &unknown);
    assert_eq!(lines(first.ahead), "");
    assert_eq!(
        lines(first.behind),
        "from 10.1.1.7: unanswered ones that are steered now\n\
         from 10.1.1.9: unanswered ones that are steered now, live ones that are reset"
    );
    let last = due(&Ruleset::new(), &pods, RANGE, &unknown);
    assert_eq!((last.ahead, last.behind), (None, None));
}

#[test]
fn a_new_destination_flushes_connections_without_a_reply() {
    let mut before = ruleset(&[(P, "a")]);
    let table = before.get_mut(&TableFamily::Inet).expect("a table");
    for set in ["to4_a", "guarded4"] {
        table.sets.get_mut(set).expect(set).elements.remove(&network("10.0.4.0/24"));
    }
    let after = ruleset(&[(P, "a"), ("10.1.1.8", "b")]);
    let due = due(&after, &before, RANGE, &AddressHolders::default());
    assert_eq!(lines(due.ahead), "from 10.1.1.8: those of an earlier pod");
    assert_eq!(lines(due.behind), "from 10.1.1.7, 10.1.1.8: unanswered ones that are steered now");
}

/// Which of these connections of the pod are flushed: `destination mark answered`.
fn flushed(sources: &ConntrackFlush) -> Vec<String> {
    let mut flushed = Vec::new();
    for destination in [OUTPOST, SERVICE, ELSEWHERE] {
        for mark in [0, 0x100, 1, 2, 0x102] {
            for answered in [false, true] {
                let connection =
                    Connection { source: ip(P), destination: ip(destination), mark, answered, replies_to: ip(P) };
                let other = Connection { source: ip("10.1.1.200"), ..connection };
                assert!(!sources.include(&other), "{other:?}");
                if sources.include(&connection) {
                    let answered = if answered { "answered" } else { "unanswered" };
                    flushed.push(format!("{destination} {mark:#x} {answered}"));
                }
            }
        }
    }
    flushed
}

/// Which mark it gets is not the plan's alone: packets with it are dropped (`compile::table::steer`).
#[test]
fn a_connection_whose_replies_reach_the_pod_without_its_entry_lingers_and_is_flushed_once() {
    let flush = |mask| ConntrackFlush {
        addresses: BTreeMap::from([(ip(P), FlushScope::All)]),
        mask,
        ..ConntrackFlush::default()
    };
    let own = Connection { source: ip(P), destination: ip(OUTPOST), mark: 0x101, answered: true, replies_to: ip(P) };
    let translated = Connection { replies_to: ip("10.1.1.254"), ..own };
    let all = flush(0xff);
    assert_eq!([own, translated].map(|connection| all.lingers(&connection)), [Some(0xfe), None]);
    assert_eq!(flush(0x3).lingers(&own), None, "two bits have no value for it");
    let marks = [0x101, 0x1fe, 0xfe, 0xff, 0];
    assert_eq!(marks.map(|mark| all.include(&Connection { mark, ..own })), [true, false, false, true, true]);
    assert!(flush(0x3).include(&Connection { mark: 0x2, ..own }));
}

/// Bits of the mark that belong to other programs never count.
#[test]
fn for_a_new_address_only_connections_its_pod_cannot_have_are_flushed() {
    let ahead = |group| {
        due(&ruleset(&[(P, group)]), &ruleset(&[]), RANGE, &AddressHolders::default())
            .ahead
            .expect("something is forgotten")
    };
    let marked = |destination: &str, marks: &[&str]| -> Vec<String> {
        let both = |mark: &&str| ["unanswered", "answered"].map(|word| format!("{destination} {mark} {word}"));
        marks.iter().flat_map(both).collect()
    };
    // A member: connections without its exit's mark there, and with any mark elsewhere; the Service's connection without
    // one stays.
    let others = [marked(SERVICE, &["0x1", "0x2", "0x102"]), marked(ELSEWHERE, &["0x1", "0x2", "0x102"])].concat();
    assert_eq!(flushed(&ahead("a")), [marked(OUTPOST, &["0x0", "0x100", "0x2", "0x102"]), others.clone()].concat());
    assert_eq!(
        flushed(&ahead("d")),
        [marked(OUTPOST, &["0x0", "0x100", "0x1", "0x2", "0x102"]), others.clone()].concat()
    );
    assert_eq!(flushed(&ahead("-")), [marked(OUTPOST, &["0x1", "0x2", "0x102"]), others].concat());
}

#[test]
fn when_a_group_changes_live_connections_stay_unless_they_are_reset() {
    let behind = |from, to| {
        let due = due(&ruleset(&[(P, to)]), &ruleset(&[(P, from)]), RANGE, &AddressHolders::default());
        due.behind.expect("something is forgotten")
    };
    let unanswered = ["0x0", "0x100", "0x1"].map(|mark| format!("{OUTPOST} {mark} unanswered"));
    assert_eq!(flushed(&behind("-", "a")), unanswered);
    assert_eq!(flushed(&behind("b", "a")), unanswered);
    let reset = [
        "0x0 unanswered",
        "0x0 answered",
        "0x100 unanswered",
        "0x100 answered",
        "0x2 unanswered",
        "0x2 answered",
        "0x102 unanswered",
        "0x102 answered",
    ]
    .map(|text| format!("{OUTPOST} {text}"));
    let marked = ["0x1 unanswered", "0x1 answered"].map(|text| format!("{OUTPOST} {text}"));
    let mut all = [reset.clone().to_vec(), marked.to_vec()].concat();
    all.sort();
    let sorted = |mut flushed: Vec<String>| {
        flushed.sort();
        flushed
    };
    // Another exit until now: the switch may have given any of them its mark already.
    assert_eq!(sorted(flushed(&behind("b", "r"))), all);
    // The same exit until now: the mark shows which use it, and before the switch nothing else sets it.
    assert_eq!(flushed(&behind("a", "r")), reset);
    let ahead = due(&ruleset(&[(P, "r")]), &ruleset(&[(P, "a")]), RANGE, &AddressHolders::default()).ahead;
    assert_eq!(flushed(&ahead.expect("live ones")), reset);
    let ahead = due(&ruleset(&[(P, "r")]), &ruleset(&[(P, "b")]), RANGE, &AddressHolders::default()).ahead;
    assert_eq!(flushed(&ahead.expect("a step")), Vec::<String>::new());
    let gone = due(&ruleset(&[]), &ruleset(&[(P, "a")]), RANGE, &AddressHolders::default()).behind.expect("all");
    assert_eq!(flushed(&gone).len(), 30);
}
