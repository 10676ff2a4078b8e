//! Tests of reports: differences, the history of them, and the page.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use super::drift::{Drift, DriftClass, DriftPlace, between};
use super::files::{node_file, path_of, read_node_file, tree};
use super::history::{DriftActor, DriftRecord, EffectiveCommit, NodeReport, ObservedDrift, Rejected, RequestedBy};
use super::message::{gone, subject};
use super::page::page;
use crate::core::admission::{Emergency, PendingCommit, PendingReason};
use crate::core::finding::Finding;
use crate::core::state::NodeState;
use crate::core::state::net::{Link, Mac, Route, RouteKey, RoutingRule, Sysctl};
use crate::core::state::nft::{
    AddressFamily, Chain, DataType, ElementData, ElementKey, KeyType, NftRule, Set, Statement, Table, TableFamily,
    Verdict,
};

fn at(second: u8) -> Timestamp {
    format!("2026-06-01T12:00:{second:02}Z").parse().expect("a time")
}

fn rule(odd: Option<&str>) -> RoutingRule {
    let odd = odd.map(ToOwned::to_owned);
    RoutingRule { family: AddressFamily::V4, priority: 501, mark: 1, mask: 0x1fff, from: None, table: 9001, odd }
}

fn map(addresses: &[u8]) -> Set {
    let accept = || Some(ElementData::Verdict(Verdict::Accept));
    let elements = addresses.iter().map(|last| (ElementKey::Address([10, 1, 1, *last].into()), accept()));
    Set { key: vec![KeyType::Ipv4Addr], data: Some(DataType::Verdict), interval: false, elements: elements.collect() }
}

fn state() -> NodeState {
    let accept = NftRule(vec![Statement::Verdict(Verdict::Accept)]);
    let link = Link { port: 4790, mac: Mac([2, 0, 172, 18, 0, 2]), mtu: 1450, up: true, external: true };
    let route = RouteKey {
        family: AddressFamily::V6,
        table: 9001,
        destination: "::/0".parse().expect("a network"),
        metric: 4_278_198_272,
    };
    let setting = Sysctl { family: AddressFamily::V4, link: "net1".to_owned(), name: "rp_filter" };
    NodeState {
        labels: BTreeMap::from([("rack".to_owned(), "r1".to_owned())]),
        links: BTreeMap::from([("egret0".to_owned(), link)]),
        sysctls: BTreeMap::from([(setting, "2".to_owned())]),
        rules: BTreeSet::from([rule(None)]),
        routes: BTreeMap::from([(route, Route::Unreachable)]),
        nft: BTreeMap::from([(
            TableFamily::Inet,
            Table {
                owned: true,
                abandoned: false,
                chains: BTreeMap::from([("steer".to_owned(), Chain { rules: vec![accept], ..Chain::default() })]),
                sets: BTreeMap::from([("group_of4".to_owned(), map(&[1, 2]))]),
            },
        )]),
        ..NodeState::default()
    }
}

/// `class object | desired | observed | place` of each drift.
fn lines(desired: &NodeState, observed: &NodeState) -> Vec<String> {
    let line = |drift: Drift| {
        let or_none = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        let (desired, observed) = (or_none(drift.desired), or_none(drift.observed));
        format!("{:?} {} | {desired} | {observed} | {:?}", drift.class, drift.object, drift.place)
    };
    between(desired, observed).into_iter().map(line).collect()
}

#[test]
fn what_is_the_same_has_not_drifted() {
    assert_eq!(between(&state(), &state()), []);
}

#[test]
fn each_object_differs_in_its_own_words() {
    let mut observed = state();
    observed.labels.insert("rack".to_owned(), "r2".to_owned());
    observed.links.clear();
    observed.sysctls.values_mut().for_each(|value| "1".clone_into(value));
    observed.rules = BTreeSet::from([rule(Some("iif eth0"))]);
    observed.routes.clear();
    let table = observed.nft.get_mut(&TableFamily::Inet).expect("a table");
    table.owned = false;
    table.chains.values_mut().for_each(|chain| chain.rules.clear());
    table.sets =
        BTreeMap::from([("group_of4".to_owned(), map(&[2, 3, 4, 5, 6, 7, 8, 9])), ("odd".to_owned(), map(&[]))]);
    assert_eq!(
        lines(&state(), &observed),
        [
            "Missing ip link egret0 | egret0 type vxlan external dstport 4790 nolearning address 02:00:ac:12:00:02 mtu 1450 up \
             | - | Link(\"egret0\")",
            "Missing ip route -6 default table 9001 metric 4278198272 | -6 unreachable default table 9001 metric 4278198272 \
             proto egret | - | Route(9001)",
            "Extra ip rule 501: from all fwmark 0x1/0x1fff iif eth0 lookup 9001 proto egret | - | 501: from all fwmark \
             0x1/0x1fff iif eth0 lookup 9001 proto egret | Rule(501)",
            "Missing ip rule 501: from all fwmark 0x1/0x1fff lookup 9001 proto egret | 501: from all fwmark 0x1/0x1fff \
             lookup 9001 proto egret | - | Rule(501)",
            "Changed label rack | rack: \"r1\" | rack: \"r2\" | Label",
            "Changed nft inet egret chain steer | accept |  | Nft(\"steer\")",
            "Changed nft inet egret map group_of4 | 10.1.1.1 : accept | 10.1.1.3 : accept, 10.1.1.4 : accept, 10.1.1.5 : accept, \
             10.1.1.6 : accept, 10.1.1.7 : accept, and 2 more | Nft(\"group_of4\")",
            "Extra nft inet egret map odd | - | type ipv4_addr : verdict; | Nft(\"odd\")",
            "Changed nft table inet egret | flags owner,persist | no owner | Nft(\"\")",
            "Changed sysctl net.ipv4.conf.net1.rp_filter | net.ipv4.conf.net1.rp_filter = 2 | net.ipv4.conf.net1.rp_filter = 1 \
             | Link(\"net1\")",
        ]
    );
}

#[test]
fn a_table_that_is_gone_is_one_drift() {
    let observed = NodeState { nft: BTreeMap::new(), ..state() };
    assert_eq!(lines(&state(), &observed), ["Missing nft table inet egret | 1 chain, 1 set or map | - | Nft(\"\")"]);
}

fn observed(object: &str, observed: Option<&str>) -> ObservedDrift {
    let drift = Drift {
        object: object.to_owned(),
        class: if observed.is_some() { DriftClass::Changed } else { DriftClass::Missing },
        desired: Some("as it should be".to_owned()),
        observed: observed.map(ToOwned::to_owned),
        place: DriftPlace::Neighbour,
    };
    let by = DriftActor { guess: "nft".to_owned(), because: "the message names process 7".to_owned() };
    let wanted = RequestedBy {
        policy: "outpost".to_owned(),
        file: "policies/outpost.yaml:1".to_owned(),
        commit: "c0ffee".to_owned(),
    };
    ObservedDrift { drift, by: Some(by), wanted_by: vec![wanted] }
}

fn record(object: &str, first: u8, last: u8, corrected: Option<u8>, times: u32) -> DriftRecord {
    let ObservedDrift { drift, by, wanted_by } = observed(object, None);
    DriftRecord {
        object: drift.object,
        class: drift.class,
        desired: drift.desired,
        observed: drift.observed,
        by,
        first_seen: at(first),
        last_seen: at(last),
        corrected: corrected.map(at),
        times,
        action: if corrected.is_some() { "corrected" } else { "being corrected" }.to_owned(),
        wanted_by,
        hint: None,
    }
}

#[test]
fn an_object_that_drifts_again_is_opened_again_with_its_count() {
    let mut report = NodeReport::new("a");
    report.seen(vec![observed("rule", None), observed("link", None)], at(1));
    assert_eq!(report.drift, [record("link", 1, 1, None, 1), record("rule", 1, 1, None, 1)]);
    report.mark_corrected(at(2));
    assert_eq!(report.drift, []);
    assert_eq!(report.corrected, [record("link", 1, 1, Some(2), 1), record("rule", 1, 1, Some(2), 1)]);
    report.seen(vec![observed("rule", None)], at(3));
    assert_eq!(report.drift, [record("rule", 1, 3, None, 2)]);
    assert_eq!(report.corrected, [record("link", 1, 1, Some(2), 1)]);
    report.mark_corrected(at(4));
    assert_eq!(report.corrected, [record("rule", 1, 3, Some(4), 2), record("link", 1, 1, Some(2), 1)]);
}

#[test]
fn drift_that_stays_open_is_one_record_and_says_why_it_stays() {
    let mut report = NodeReport::new("a");
    report.seen(vec![observed("rule", None)], at(1));
    report.mark_uncorrected("the kernel refused");
    report.seen(vec![observed("rule", None)], at(5));
    let open = DriftRecord { action: "not corrected: the kernel refused".to_owned(), ..record("rule", 1, 1, None, 1) };
    assert_eq!(report.drift, [open]);
}

#[test]
fn the_newest_hundred_corrected_records_are_kept() {
    let mut report = NodeReport::new("a");
    for number in 0..103 {
        report.seen(vec![observed(&format!("rule {number}"), None)], at(1));
        report.mark_corrected(at(2));
    }
    let kept: Vec<String> = report.corrected.iter().map(|record| record.object.clone()).collect();
    let expected: Vec<String> = (3..103).rev().map(|number| format!("rule {number}")).collect();
    assert_eq!(kept, expected);
}

#[test]
fn a_finding_that_stays_keeps_its_time() {
    let (one, two) = (Finding::new("no-gateway", "p", "one"), Finding::new("no-gateway", "p", "two"));
    let mut report = NodeReport::new("a");
    report.set_findings(vec![one.clone()], at(1));
    report.set_findings(vec![one, two], at(2));
    assert_eq!(report.findings.iter().map(|since| since.since).collect::<Vec<_>>(), [at(1), at(2)]);
    report.set_findings(Vec::new(), at(3));
    assert_eq!(report.findings, []);
}

/// A node with every kind of record, all of it text that attacks the page.
fn full() -> NodeReport {
    let mut report = NodeReport::new("kind-worker");
    report.pending = Some(Box::new(PendingCommit {
        commit: "decaf00123456789".to_owned(),
        summary: "c | d @all".to_owned(),
        author: "Leia <leia@alderaan>".to_owned(),
        since: at(7),
        why: PendingReason::Window {
            opens: Some("2026-06-01T13:00:00Z".parse().unwrap()),
            time_zone: "Europe/Berlin".to_owned(),
            window: "`nights`".to_owned(),
        },
    }));
    report.emergency = Some(Box::new(Emergency {
        commit: "c0ffee0123456789".to_owned(),
        author: "Han".to_owned(),
        trailer: "Egret-Emergency".to_owned(),
        reason: "the *bank* is down".to_owned(),
    }));
    report.set_active("c0ffee0123456789", "a | b @all <img>", at(0));
    report.seen(vec![observed("ip rule 9001", None)], at(1));
    report.mark_corrected(at(2));
    report.seen(vec![observed("ip rule 9001", None)], at(3));
    report.mark_corrected(at(4));
    report.seen(vec![observed("nft inet egret map x", Some("`[a](b)`\n# c"))], at(5));
    report.mark_uncorrected("*somebody* | holds it");
    report.rejected = vec![Rejected {
        place: "policies/bad.yaml:3:1".to_owned(),
        message: "unknown_field".to_owned(),
        instead: "nothing of it".to_owned(),
    }];
    report.set_findings(vec![Finding::new("no-gateway", "outpost", "no node\nmatches").hint("label <one>")], at(6));
    report
}

#[test]
fn the_page_says_it_all_and_nothing_in_it_is_markup_of_others() {
    let mut quiet = NodeReport { active: full().active, ..NodeReport::new("kind-worker2") };
    quiet.set_findings(vec![Finding::new("overlap", "a|b", "loses *here*").hint("a priority")], at(7));
    let mut behind = NodeReport::new("kind-worker3");
    behind.set_active("77d02fb000000000", "before", Timestamp::UNIX_EPOCH);
    let nothing = NodeReport::new("kind-worker4");
    let given = page("prod", "egret/reports/prod", &[full(), quiet, behind, nothing]).replace('\u{200b}', "~");
    // The same as `tests/it/golden.rs` does for the integration tests.
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/core/report/page.md");
    if std::env::var_os("EGRET_BLESS").is_some() {
        std::fs::write(path, &given).expect("a file");
    }
    assert_eq!(given, std::fs::read_to_string(path).expect("the page"), "`make bless` writes it down");
}

#[test]
fn the_page_of_a_cluster_without_drift_says_so() {
    let mut report = NodeReport::new("a");
    report.set_active("77d02fb000000000", "first", at(0));
    let page = page("prod", "egret/reports/prod", &[report]);
    let before_history = page.split("## Reading the history").next();
    assert_eq!(
        before_history,
        Some(
            "# prod: 0 open, 0 corrected\n\nEgret writes this page when something changes. Times are UTC.\n\n**Active:** `77d02fb00000` \
             “first” on 1 of 1 node, first at 2026-06-01 12:00:00.\n\n## What differs now\n\nNothing.\n\n## By node\n\n| node | active \
             | since | open | times it drifted | last |\n|---|---|---|---|---|---|\n| a | `77d02fb00000` | 2026-06-01 12:00:00 | 0 | 0 |  |\n\n"
        )
    );
}

#[test]
fn an_active_commit_keeps_its_time_over_rounds_and_restarts() {
    let mut report = NodeReport::new("a");
    report.set_active("one", "", at(1));
    report.set_active("one", "", at(2));
    let since = |report: &NodeReport| report.active.as_ref().and_then(|own| own.since);
    assert_eq!(since(&report), Some(at(1)));
    let mut restarted = NodeReport::new("a");
    restarted.set_active("one", "", at(3));
    assert_eq!(since(&restarted.after(Some(&report))), Some(at(1)));
    report.set_active("two", "", at(4));
    assert_eq!(since(&report), Some(at(4)));
}

#[test]
fn nodes_that_left_are_named_in_the_subject() {
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    assert_eq!(gone(&names(&[])), None);
    assert_eq!(gone(&names(&["a"])).as_deref(), Some("a is no node any more"));
    assert_eq!(gone(&names(&["a", "b", "c"])).as_deref(), Some("a and 2 more are no nodes any more"));
}

#[test]
fn a_nodes_file_is_read_back_as_it_was() {
    let text = node_file(&full()).expect("a file");
    assert_eq!(read_node_file(&text), Some(full()));
    assert_eq!(read_node_file("somebody's notes"), None);
}

#[test]
fn a_tree_keeps_the_other_nodes_and_what_people_put_there() {
    let notes = ("notes.txt".to_owned(), "ours".to_owned());
    let other = NodeReport::new("b");
    let current = BTreeMap::from([notes.clone(), (path_of("b"), node_file(&other).expect("a file"))]);
    let own = NodeReport::new("a");
    let expected = BTreeMap::from([
        notes,
        (path_of("a"), node_file(&own).expect("a file")),
        (path_of("b"), node_file(&other).expect("a file")),
        ("README.md".to_owned(), page("prod", "egret/reports/prod", &[own.clone(), other])),
    ]);
    assert_eq!(tree(&current, "prod", "egret/reports/prod", std::slice::from_ref(&own)).expect("a tree"), expected);
}

#[test]
fn a_clock_that_jumps_back_makes_no_time_negative() {
    let before = NodeReport { drift: vec![record("rule", 9, 9, None, 1)], ..NodeReport::new("a") };
    let mut after = before.clone();
    after.mark_corrected(at(1));
    assert_eq!(subject(Some(&before), &after), "a: rule was gone, corrected in 0 ms");
    let page = page("prod", "egret/reports/prod", &[after]);
    let row = page.lines().find(|line| line.starts_with("| a |"));
    assert_eq!(row, Some("| a | rule was gone, by nft | outpost | 2026-06-01 12:00:09 | after 0 ms | 1 |"));
}

#[test]
fn the_subject_names_the_finding_that_is_resolved_and_not_one_that_stays() {
    let (stays, goes) = (Finding::new("a-stays", "p", "one"), Finding::new("b-goes", "q", "two"));
    let mut before = NodeReport::new("a");
    before.set_findings(vec![stays.clone(), goes], at(1));
    let mut after = before.clone();
    after.set_findings(vec![stays], at(2));
    assert_eq!(subject(Some(&before), &after), "a: b-goes of q resolved");
}

#[test]
fn the_subject_says_what_is_new() {
    let empty = NodeReport::new("a");
    let mut open = empty.clone();
    open.seen(vec![observed("ip rule 9001", None), observed("ip link egret0", Some("down"))], at(1));
    let mut right = open.clone();
    right.mark_corrected(at(2));
    let mut finding = right.clone();
    finding.set_findings(vec![Finding::new("no-gateway", "outpost", "no node\nmatches")], at(3));
    let rejected = NodeReport { rejected: full().rejected, ..finding.clone() };
    let active = NodeReport { active: full().active, ..rejected.clone() };
    let resolved = NodeReport { findings: Vec::new(), ..active.clone() };
    let good = NodeReport { rejected: Vec::new(), ..resolved.clone() };
    let long = NodeReport {
        active: Some(EffectiveCommit { commit: "abc".to_owned(), summary: "x".repeat(200), since: None }),
        ..good.clone()
    };
    let waits = NodeReport { pending: full().pending, ..long.clone() };
    let emergency = NodeReport { pending: None, emergency: full().emergency, ..waits.clone() };
    let steps = [empty, open, right, finding, rejected, active, resolved, good, long, waits, emergency];
    let subjects: Vec<String> = steps.windows(2).map(|pair| subject(Some(&pair[0]), &pair[1])).collect();
    assert_eq!(
        subjects,
        [
            "a: ip link egret0 was changed, being corrected, and 1 more".to_owned(),
            "a: ip link egret0 was changed, corrected in 1000 ms, and 1 more".to_owned(),
            "a: outpost: no node matches".to_owned(),
            "a: policies/bad.yaml:3:1 is not active: unknown_field".to_owned(),
            "a: c0ffee012345 \"a | b @all <img>\" is active".to_owned(),
            "a: no-gateway of outpost resolved".to_owned(),
            "a: all documents are active again".to_owned(),
            format!("a: abc \"{}…", "x".repeat(111)),
            "a: decaf0012345 \"c | d @all\" of Leia <leia@alderaan> waits: the change window is closed; it opens Mon 2026-06-01 15:00 …"
                .to_owned(),
            "a: c0ffee012345 was applied outside the change window by Han, because: the *bank* is down (Egret-Emergency)"
                .to_owned(),
        ]
    );
    assert_eq!(subject(None, &NodeReport::new("a")), "a: drift and findings are as follows");
}
