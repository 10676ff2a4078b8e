//! Tests of status: what people read of a policy that works, and of each way in which one does not.

use std::collections::BTreeMap;

use super::*;
use crate::core::admission::{PendingCommit, PendingReason};
use crate::core::facts::{Facts, Node};
use crate::core::finding::Finding;
use crate::core::labels::{Labels, Operator, Requirement, Selector};
use crate::core::name::{NodeName, ObjectName};
use crate::core::placement::place;
use crate::core::policy::{
    Egress, ExistingConnections, GatewaySpec, MemberSelector, OnNoGateway, Origin, Policy, PolicyId, PolicyKind,
    PolicySet, Suspend,
};
use crate::core::report::history::{NodeReport, Rejected};

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn policy() -> Policy {
    let requirement = Requirement { key: "gw".to_owned(), operator: Operator::In(["a".to_owned()].into()) };
    Policy {
        id: PolicyId { name: ObjectName::parse("outpost").unwrap(), kind: PolicyKind::Cilium },
        selectors: vec![MemberSelector::default()],
        destinations: vec!["10.0.4.0/24".parse().unwrap()],
        excluded: Vec::new(),
        gateways: vec![GatewaySpec {
            node: Selector { requirements: vec![requirement] },
            egress: Egress::DefaultRoute,
            next_hops: Vec::new(),
        }],
        priority: 0,
        on_no_gateway: OnNoGateway::Drop,
        existing_connections: ExistingConnections::Keep,
        suspend: None,
        origin: Origin { file: "policies/outpost.yaml".to_owned(), line: 1 },
    }
}

fn facts(ready: bool) -> Facts {
    let labels = Labels::from([("gw".to_owned(), "a".to_owned())]);
    let node = Node { labels, addresses: vec!["172.18.0.3".parse().unwrap()], ready, ..Node::default() };
    Facts { nodes: BTreeMap::from([(NodeName::parse("gate").unwrap(), node)]), ..Facts::default() }
}

/// What the gateway says: with an address, without one, or nothing.
fn said(addresses: Option<&[&str]>) -> BTreeMap<NodeName, NodeStatus> {
    let Some(addresses) = addresses else { return BTreeMap::new() };
    let egress_ips = addresses.iter().map(|address| (*address).to_owned()).collect();
    let mut report = NodeReport::new("gate");
    if addresses.is_empty() {
        let finding = Finding::new("egress-address-missing", "gate default", "eth0 has no global IPv4 address");
        report.set_findings(vec![finding], at(0));
    }
    let status = NodeStatus {
        exits: vec![ServedExit { identity: "gate default".to_owned(), egress_ips }],
        policies: vec![PolicyMembers {
            name: "outpost".to_owned(),
            kind: "CiliumEgressGatewayPolicy".to_owned(),
            members: 3,
        }],
        report: Some(report),
        ..NodeStatus::default()
    };
    BTreeMap::from([(NodeName::parse("gate").unwrap(), status)])
}

fn status(
    policy: &Policy,
    facts: &Facts,
    said: &BTreeMap<NodeName, NodeStatus>,
    rejected: &[Rejected],
) -> PolicyStatus {
    let set = PolicySet { policies: BTreeMap::from([(policy.id.clone(), policy.clone())]), ..PolicySet::default() };
    let placement = place(&set, facts, at(10));
    policy_status(policy, &placement, said, rejected, "0123", &PolicyStatus::default(), at(10))
}

fn ready(status: &PolicyStatus) -> (bool, String, String) {
    let condition = status.conditions.iter().find(|condition| condition.kind == "Ready").unwrap();
    (condition.is_true(), condition.reason.clone(), condition.message.clone())
}

#[test]
fn a_policy_in_force_says_as_whom_and_through_whom() {
    let status = status(&policy(), &facts(true), &said(Some(&["10.0.3.42", "fd00:3::42"])), &[]);
    assert_eq!(
        ready(&status),
        (true, "InForce".to_owned(), "members leave as 10.0.3.42 and fd00:3::42 through gate".to_owned())
    );
    assert_eq!((status.members, status.nodes, status.gateways[0].ready), (3, 1, true));
    assert_eq!((status.gateway_summary.as_str(), status.egress_ip_summary.as_str()), ("gate", "10.0.3.42, fd00:3::42"));
}

#[test]
fn a_policy_that_is_not_in_force_says_why() {
    let sick = status(&policy(), &facts(false), &said(None), &[]);
    assert_eq!((ready(&sick).0, ready(&sick).1.as_str()), (false, "NoGateway"));
    assert!(ready(&sick).2.contains("gate is not Ready"), "{}", ready(&sick).2);
    let waiting = status(&policy(), &facts(true), &said(None), &[]);
    assert_eq!(ready(&waiting).1, "GatewayNotReady");
    let bare = status(&policy(), &facts(true), &said(Some(&[])), &[]);
    assert_eq!(ready(&bare).1, "EgressIPMissing");
    assert!(ready(&bare).2.contains("eth0 has no global IPv4 address"), "{}", ready(&bare).2);
    let suspend = Some(Suspend { until: at(20), owner: None, reason: "a window".to_owned() });
    let suspended = status(&Policy { suspend, ..policy() }, &facts(true), &said(None), &[]);
    assert_eq!(ready(&suspended).1, "Suspended");
}

#[test]
fn a_document_that_was_rejected_is_told_on_the_policy_that_is_in_force_in_its_place() {
    let rejected = Rejected {
        place: "policies/outpost.yaml:12:5".to_owned(),
        message: "a destination has host bits set".to_owned(),
        instead: "the version of 0123".to_owned(),
    };
    let status = status(&policy(), &facts(true), &said(Some(&["10.0.3.42"])), &[rejected]);
    let condition = status.conditions.iter().find(|condition| condition.kind == "Rejected").unwrap();
    assert!(condition.is_true() && condition.message.starts_with("policies/outpost.yaml:12:5: "));
    assert!(ready(&status).0);
}

#[test]
fn a_condition_keeps_its_time_while_it_stays_what_it_is() {
    let (policy, facts) = (policy(), facts(true));
    let set = PolicySet { policies: BTreeMap::from([(policy.id.clone(), policy.clone())]), ..PolicySet::default() };
    let placement = place(&set, &facts, at(10));
    let told = |said: &BTreeMap<NodeName, NodeStatus>, before: &PolicyStatus, second: i64| {
        policy_status(&policy, &placement, said, &[], "0123", before, at(second))
    };
    let first = told(&said(Some(&["10.0.3.42"])), &PolicyStatus::default(), 10);
    assert_eq!(told(&said(Some(&["10.0.3.42"])), &first, 20), first);
    let lost = told(&said(None), &first, 30);
    assert_eq!(lost.conditions[0].last_transition_time, at(30));
}

#[test]
fn the_head_counts_nodes_that_have_its_revision_in_force() {
    let in_force = |revision: &str, ready: bool, drift: u64| NodeStatus {
        revision: revision.to_owned(),
        drift,
        conditions: vec![Condition::new("Ready", ready, "InForce", "", at(0))],
        ..NodeStatus::default()
    };
    let nodes = BTreeMap::from(
        [("a", in_force("1", true, 0)), ("b", in_force("0", true, 0)), ("c", in_force("1", false, 2))]
            .map(|(name, status)| (NodeName::parse(name).unwrap(), status)),
    );
    let facts = HeadStatusInput {
        leader: "one",
        revision: "1",
        total: 4,
        nodes: &nodes,
        rejected: &[],
        withheld: None,
        git_fault: Some("connection refused"),
        reports: Some(Ok(())),
        previews: None,
    };
    let status = head_status(facts, &HeadStatus::default(), at(1));
    assert_eq!((status.nodes.in_force, status.nodes.drifting, status.node_summary.as_str()), (1, 1, "1/4"));
    let is: Vec<(&str, bool)> =
        status.conditions.iter().map(|condition| (condition.kind.as_str(), condition.is_true())).collect();
    let expected =
        [("GitReachable", false), ("UpToDate", true), ("PoliciesAccepted", true), ("ReportsPublished", true)];
    assert_eq!(is, expected);
    let off = head_status(HeadStatusInput { reports: None, ..facts }, &status, at(2));
    assert!(off.conditions.iter().all(|condition| condition.kind != "ReportsPublished"), "{:?}", off.conditions);
    let withheld = PendingCommit {
        commit: "a".repeat(40),
        summary: "more".to_owned(),
        author: "Leia".to_owned(),
        since: at(2),
        why: PendingReason::Suspended { until: Some(at(60)), owner: "Han".to_owned(), reason: "we move".to_owned() },
    };
    let status = head_status(HeadStatusInput { withheld: Some(&withheld), ..facts }, &status, at(3));
    let message =
        "aaaaaaaaaaaa \"more\" of Leia waits: Han suspended the cluster until Thu 1970-01-01 00:01 UTC (we move)";
    assert_eq!(status.conditions[1], Condition::new("UpToDate", false, "Suspended", message, at(3)));
    for (previews, shown) in [(Ok(()), true), (Err("pull request 7: too many requests"), false)] {
        let status = head_status(HeadStatusInput { previews: Some(previews), ..facts }, &status, at(2));
        let last = status.conditions.last().unwrap();
        assert_eq!((last.kind.as_str(), last.is_true()), ("PreviewsPosted", shown), "{}", last.message);
    }
}

#[test]
fn a_column_names_three_and_counts_the_rest() {
    assert_eq!(summary(["a", "b"]), "a, b");
    assert_eq!(summary(["a", "b", "c", "d", "e"]), "a, b, c +2");
}

#[test]
fn what_was_in_place_before_the_node_booted_is_not_in_place_any_more() {
    let conditions = |ready| vec![Condition::new("Ready", ready, "InForce", "", at(0))];
    let said = |boot_id: &str, ready| NodeStatus {
        revision: "0123".to_owned(),
        boot_id: boot_id.to_owned(),
        conditions: conditions(ready),
        ..NodeStatus::default()
    };
    assert!(said("b1", true).is_in_place("0123", "b1"));
    assert!(!said("b1", true).is_in_place("0123", "b2"), "another boot");
    assert!(!said("b1", true).is_in_place("4567", "b1"), "another commit");
    assert!(!said("b1", false).is_in_place("0123", "b1"), "not all of it");
    assert!(!said("", true).is_in_place("0123", ""), "nobody says which boot");
    assert!(!NodeStatus::default().is_in_place("", "b1"), "nobody said anything");
}
