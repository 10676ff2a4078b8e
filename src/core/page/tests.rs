//! What is shown, from what is known.

use super::*;
use crate::core::finding::Finding;
use crate::core::name::ObjectName;
use crate::core::overview::{NodeRow, PolicyRow, Way};
use crate::core::policy::PolicyKind;
use crate::core::report::drift::DriftClass;
use crate::core::report::history::{DatedFinding, DriftActor, DriftRecord, EffectiveCommit};

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_790_000_000 + second).expect("a time")
}

fn id(name: &str) -> PolicyId {
    PolicyId { name: ObjectName::parse(name).expect("a name"), kind: PolicyKind::Egret }
}

fn row(name: &str, urgency: Urgency, pods: u64, ways: &[(&str, &str)]) -> PolicyRow {
    PolicyRow {
        urgency,
        policy: id(name),
        pods,
        destinations: vec!["10.0.4.0/24".parse().expect("a network")],
        gateways: ways.iter().map(|(gateway, _)| (*gateway).to_owned()).collect(),
        addresses: ways.iter().map(|(_, address)| (*address).to_owned()).collect(),
        ways: ways
            .iter()
            .map(|(gateway, address)| Way {
                exit: format!("{gateway} dev net1"),
                gateway: (*gateway).to_owned(),
                addresses: vec![(*address).to_owned()],
            })
            .collect(),
        state: if urgency == Urgency::Bad { "DROPS" } else { "ok" },
        since: None,
        reason: "Programmed".to_owned(),
        cause: None,
    }
}

fn node(name: &str) -> NodeRow {
    NodeRow {
        urgency: Urgency::Fine,
        node: NodeName::parse(name).expect("a name"),
        revision: None,
        exits: Vec::new(),
        drift: 0,
        state: "ok",
        since: None,
        cause: None,
        heard: None,
        dropped_per_minute: None,
    }
}

fn overview(policies: Vec<PolicyRow>, nodes: Vec<NodeRow>) -> Overview {
    Overview {
        cluster: "prod".to_owned(),
        revision: "a".repeat(40),
        waits: None,
        rejected: Vec::new(),
        policies,
        nodes,
    }
}

fn model(overview: Overview, reports: Vec<NodeReport>, commits: &[DocumentChange]) -> Model {
    let mut known = Knowledge::nothing("prod", at(0));
    known.overview = Some(overview);
    known.reports =
        reports.into_iter().map(|report| (NodeName::parse(&report.node).expect("a name"), report)).collect();
    Model::new(Arc::new(known), commits, None)
}

fn drift(object: &str, seen: i64, corrected: Option<i64>) -> DriftRecord {
    DriftRecord {
        object: object.to_owned(),
        class: DriftClass::Missing,
        desired: None,
        observed: None,
        by: Some(DriftActor { guess: "nft".to_owned(), because: "its process id".to_owned() }),
        first_seen: at(seen),
        last_seen: at(seen),
        corrected: corrected.map(at),
        times: 2,
        action: if corrected.is_some() { "corrected" } else { "not corrected: no memory" }.to_owned(),
        wanted_by: Vec::new(),
        hint: None,
    }
}

#[test]
fn drift_and_changes_are_one_timeline_with_the_newest_first() {
    let mut one = NodeReport::new("n1");
    one.active = Some(EffectiveCommit { commit: "c2".to_owned(), summary: "more".to_owned(), since: Some(at(20)) });
    one.drift = vec![drift("ip rule 501", 40, None)];
    one.corrected = vec![drift("table inet egret", 30, Some(31))];
    one.findings = vec![DatedFinding {
        finding: Finding::new("egress-address-missing", "n1 dev net1", "net1 has no global IPv4 address"),
        since: at(50),
    }];
    let mut other = NodeReport::new("n2");
    other.active = Some(EffectiveCommit { since: Some(at(10)), ..one.active.clone().expect("it") });
    let commits = [DocumentChange {
        commit: "c2".to_owned(),
        summary: "more".to_owned(),
        author: "Ada <ada@example.com>".to_owned(),
        time: at(5),
    }];
    let model = model(overview(vec![], vec![]), vec![one, other], &commits);
    let told: Vec<String> = model
        .timeline
        .iter()
        .map(|one| {
            let seconds = one.at.duration_since(at(0)).as_secs();
            let detail = one.detail.as_deref().unwrap_or("-");
            format!("{seconds} {} {:?} {} | {detail}", one.kind.word(), one.urgency, one.text)
        })
        .collect();
    assert_eq!(
        told,
        [
            "50 finding Bad n1 dev net1: net1 has no global IPv4 address | -",
            "40 drift Bad ip rule 501 was gone, by nft | not corrected: no memory; seen 2 times",
            "30 drift Fine table inet egret was gone, by nft | corrected after 1000 ms; seen 2 times",
            "10 active Fine more: became active | on 2 nodes, first on n2",
            "5 commit Fine more | Ada <ada@example.com>",
        ]
    );
}

#[test]
fn the_timeline_of_a_large_cluster_is_bounded() {
    let reports = (0..200).map(|number| {
        let mut report = NodeReport::new(&format!("n{number}"));
        report.corrected = (0..100).map(|one| drift("ip rule 501", number * 100 + one, Some(30_000))).collect();
        report
    });
    let model = model(overview(vec![], vec![]), reports.collect(), &[]);
    assert_eq!(model.timeline.len(), 1000);
    assert_eq!(model.timeline[0].at, at(19_999), "the newest are kept");
}

#[test]
fn the_picture_has_the_worst_and_then_the_largest_policies_and_shared_exits_once() {
    let mut policies = vec![row("lost", Urgency::Bad, 1, &[])];
    policies.extend(
        (0..20).map(|number| {
            row(&format!("p{number:02}"), Urgency::Fine, number, &[("g1", "10.0.3.1"), ("g2", "10.0.3.2")])
        }),
    );
    let model = model(overview(policies, vec![node("g1")]), vec![], &[]);
    let picture = &model.picture;
    let names: Vec<&str> = picture.sources.iter().map(|one| one.name.as_str()).collect();
    assert_eq!(names[..3], ["lost", "p19", "p18"]);
    assert_eq!((names.len(), picture.more), (12, 9));
    let gateways: Vec<(&str, &str)> = picture.gateways.iter().map(|one| (one.node.as_str(), one.state)).collect();
    assert_eq!(gateways, [("g1", "ok"), ("g2", "")], "of one that is no node nothing is known");
    let exits: Vec<(&str, usize)> = picture.exits.iter().map(|one| (one.exit.as_str(), one.gateway)).collect();
    assert_eq!(exits, [("g1 dev net1", 0), ("g2 dev net1", 1)]);
    assert_eq!(picture.lines[..3], [(0, None), (1, Some(0)), (1, Some(1))]);
}

#[test]
fn what_goes_wrong_in_the_process_is_the_first_line_if_nothing_is_worse() {
    let mut known = Knowledge::nothing("prod", at(0));
    known.faults =
        vec![(Urgency::Doubtful, "Git cannot be read".to_owned()), (Urgency::Bad, "not applied: no memory".to_owned())];
    let fine = Model::new(Arc::new(known.clone()), &[], None);
    assert_eq!((fine.urgency(), fine.headline()), (Urgency::Bad, "prod  not applied: no memory".to_owned()));
    known.overview = Some(overview(vec![row("lost", Urgency::Bad, 1, &[])], vec![]));
    let worse = Model::new(Arc::new(known), &[], None);
    assert_eq!(worse.headline(), "prod  aaaaaaaaaaaa  1 policy DROPS: lost: Programmed");
}
