//! Tests of status: a working policy and each fault of one; the EgressConfig; and conditions.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::json;

use super::*;
use crate::core::admission::{PendingCommit, PendingReason};
use crate::core::facts::{Facts, Node};
use crate::core::finding::Finding;
use crate::core::labels::{Labels, Operator, Requirement, Selector};
use crate::core::name::{NodeName, ObjectName};
use crate::core::placement::{Placement, place};
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
            assign: None,
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

/// The gateway's status: with an address, without one, or no status.
fn reported(addresses: Option<&[&str]>) -> BTreeMap<NodeName, NodeStatus> {
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

fn input<'a>(
    policy: &'a Policy,
    placement: &'a Placement,
    nodes: &'a BTreeMap<NodeName, NodeStatus>,
    rejected: &'a [Rejected],
) -> PolicyStatusInput<'a> {
    PolicyStatusInput { policy, generation: Some(4), placement, nodes, behind: &[], rejected, revision: "0123" }
}

fn placement(policy: &Policy, facts: &Facts) -> Placement {
    let set = PolicySet { policies: BTreeMap::from([(policy.id.clone(), policy.clone())]), ..PolicySet::default() };
    place(&set, facts, at(10))
}

fn status(
    policy: &Policy,
    facts: &Facts,
    nodes: &BTreeMap<NodeName, NodeStatus>,
    rejected: &[Rejected],
) -> PolicyStatus {
    policy_status(input(policy, &placement(policy, facts), nodes, rejected), &PolicyStatus::default(), at(10))
}

fn ready(status: &PolicyStatus) -> (ConditionStatus, Reason, String) {
    let condition = condition(&status.conditions, ConditionType::Ready).unwrap();
    (condition.status, condition.reason, condition.message.clone())
}

fn types(conditions: &[Condition]) -> Vec<(ConditionType, ConditionStatus)> {
    conditions.iter().map(|condition| (condition.kind, condition.status)).collect()
}

use ConditionStatus::{False, True, Unknown};

#[test]
fn an_active_policy_has_its_address_and_its_gateway() {
    let status = status(&policy(), &facts(true), &reported(Some(&["10.0.3.42", "fd00:3::42"])), &[]);
    assert_eq!(
        ready(&status),
        (True, Reason::Programmed, "members leave as 10.0.3.42 and fd00:3::42 through gate".to_owned())
    );
    assert_eq!((status.members, status.nodes, status.gateways[0].ready), (3, 1, true));
    assert_eq!((status.gateway_summary.as_str(), status.egress_ip_summary.as_str()), ("gate", "10.0.3.42, fd00:3::42"));
}

#[test]
fn a_policy_that_does_not_work_has_the_reason() {
    let sick = status(&policy(), &facts(false), &reported(None), &[]);
    assert_eq!((ready(&sick).0, ready(&sick).1), (False, Reason::NoGateway));
    assert!(ready(&sick).2.contains("gate is not Ready"), "{}", ready(&sick).2);
    let waiting = status(&policy(), &facts(true), &reported(None), &[]);
    assert_eq!((ready(&waiting).0, ready(&waiting).1), (Unknown, Reason::Pending));
    let bare = status(&policy(), &facts(true), &reported(Some(&[])), &[]);
    assert_eq!(ready(&bare).1, Reason::EgressIPMissing);
    assert!(ready(&bare).2.contains("eth0 has no global IPv4 address"), "{}", ready(&bare).2);
    let suspend = Some(Suspend { until: at(20), owner: None, reason: "a window".to_owned() });
    let suspended = status(&Policy { suspend, ..policy() }, &facts(true), &reported(None), &[]);
    assert_eq!(ready(&suspended).1, Reason::Suspended);
}

#[test]
fn a_family_in_which_a_gateway_has_no_way_out_is_named_where_the_policy_has_destinations_of_it() {
    let mut nodes = reported(Some(&["10.0.3.42"]));
    let report = nodes.values_mut().next().unwrap().report.as_mut().unwrap();
    let finding = Finding::new("egress-address-missing", "gate default", "eth0 has no global IPv6 address");
    report.set_findings(vec![finding], at(0));
    let message = |policy: &Policy| ready(&status(policy, &facts(true), &nodes, &[])).2;
    let mut both = policy();
    both.destinations.push("fd00:4::/64".parse().unwrap());
    let expected =
        "members leave as 10.0.3.42 through gate; not over IPv6: gate default: eth0 has no global IPv6 address";
    assert_eq!(message(&both), expected);
    assert_eq!(message(&policy()), "members leave as 10.0.3.42 through gate", "it has no such destinations");
}

#[test]
fn a_router_that_does_not_answer_is_the_reason_where_no_packet_of_the_policy_leaves() {
    let with = |addresses: &[&str], messages: &[&str], policy: &Policy| {
        let mut nodes = reported(Some(addresses));
        let findings = messages.iter().map(|message| Finding::new("next-hop-silent", "gate default", *message));
        nodes.values_mut().next().unwrap().report.as_mut().unwrap().set_findings(findings.collect(), at(0));
        let (status, reason, message) = ready(&status(policy, &facts(true), &nodes, &[]));
        (status, reason, message)
    };
    let v4 = "10.0.3.1, the IPv4 next hop on eth0, does not answer";
    let v6 = "fd00:3::1, the IPv6 next hop on eth0, does not answer";
    let two = ["10.0.3.42", "fd00:3::42"];
    let dropped = (False, Reason::NextHopSilent, format!("gate default: {v4}"));
    assert_eq!(with(&["10.0.3.42"], &[v4], &policy()), dropped);
    assert_eq!(with(&two, &[v4], &policy()), dropped, "its destinations are of one family");
    let mut both = policy();
    both.destinations.push("fd00:4::/64".parse().unwrap());
    assert_eq!(with(&two, &[v4, v6], &both), dropped);
    let (of, reason, message) = with(&two, &[v6], &both);
    assert_eq!((of, reason), (True, Reason::Programmed), "{message}");
    assert!(message.ends_with(&format!("; not over IPv6: gate default: {v6}")), "{message}");
}

#[test]
fn reconciling_and_stalled_are_there_only_while_true_as_kstatus_has_them() {
    use ConditionType::{Accepted, Ready, Reconciling, Stalled};
    let of = |ready: bool, nodes: &BTreeMap<_, _>| types(&status(&policy(), &facts(ready), nodes, &[]).conditions);
    assert_eq!(of(true, &reported(Some(&["10.0.3.42"]))), [(Ready, True), (Accepted, True)]);
    assert_eq!(of(true, &reported(None)), [(Ready, Unknown), (Reconciling, True), (Accepted, True)]);
    assert_eq!(of(true, &reported(Some(&[]))), [(Ready, False), (Stalled, True), (Accepted, True)]);
    let suspend = Some(Suspend { until: at(20), owner: None, reason: "a window".to_owned() });
    let suspended = status(&Policy { suspend, ..policy() }, &facts(true), &reported(None), &[]);
    assert_eq!(types(&suspended.conditions), [(Ready, False), (Accepted, True)], "a user wants it so");
    let stalled = &status(&policy(), &facts(true), &reported(Some(&[])), &[]).conditions;
    assert_eq!((stalled[1].reason, &stalled[1].message), (stalled[0].reason, &stalled[0].message));
}

#[test]
fn a_rejected_document_leaves_the_last_good_one_ready_and_not_accepted() {
    let rejected = Rejected {
        place: "policies/outpost.yaml:12:5".to_owned(),
        message: "a destination has host bits set".to_owned(),
        instead: "the version of 0123".to_owned(),
    };
    let status = status(&policy(), &facts(true), &reported(Some(&["10.0.3.42"])), &[rejected]);
    let accepted = condition(&status.conditions, ConditionType::Accepted).unwrap();
    assert_eq!((accepted.status, accepted.reason), (False, Reason::Invalid));
    assert!(accepted.message.starts_with("policies/outpost.yaml:12:5: "), "{}", accepted.message);
    assert_eq!(ready(&status).0, True);
}

#[test]
fn last_transition_time_changes_only_with_status() {
    let (policy, facts) = (policy(), facts(true));
    let placement = placement(&policy, &facts);
    let next = |nodes: &BTreeMap<NodeName, NodeStatus>, before: &PolicyStatus, second: i64| {
        policy_status(input(&policy, &placement, nodes, &[]), before, at(second))
    };
    let first = next(&reported(Some(&["10.0.3.42"])), &PolicyStatus::default(), 10);
    assert_eq!(next(&reported(Some(&["10.0.3.42"])), &first, 20), first);
    let moved = next(&reported(Some(&["10.0.3.43"])), &first, 20);
    assert_ne!(moved.conditions[0].message, first.conditions[0].message);
    assert_eq!(moved.conditions[0].last_transition_time, at(10), "another address is no transition");
    let lost = next(&reported(None), &first, 30);
    assert_eq!(lost.conditions[0].last_transition_time, at(30));
    assert_eq!(condition(&lost.conditions, ConditionType::Accepted).unwrap().last_transition_time, at(10));
}

#[test]
fn a_new_version_of_a_policy_is_ready_when_every_agent_has_it_and_stays_so() {
    let (policy, facts, nodes) = (policy(), facts(true), reported(Some(&["10.0.3.42"])));
    let placement = placement(&policy, &facts);
    let name = NodeName::parse("late").unwrap();
    let late = [&name];
    let of = |generation, behind, before: &PolicyStatus| {
        let facts =
            PolicyStatusInput { generation: Some(generation), behind, ..input(&policy, &placement, &nodes, &[]) };
        policy_status(facts, before, at(10))
    };
    let first = of(4, &late, &PolicyStatus::default());
    assert_eq!(ready(&first), (Unknown, Reason::Pending, "waiting for the agents of late to apply it".to_owned()));
    assert_eq!(ready(&of(4, &late, &first)).0, Unknown, "still");
    let applied = of(4, &[], &first);
    assert_eq!(ready(&applied).0, True);
    assert_eq!(ready(&of(4, &late, &applied)).0, True, "another commit left this policy as it is");
    assert_eq!(ready(&of(5, &late, &applied)).0, Unknown, "another commit changed it");
}

#[test]
fn agents_on_nodes_that_are_down_are_not_behind() {
    let nodes = named([("a", node_that("1", True, 0)), ("b", node_that("0", True, 0)), ("c", node_that("0", True, 0))]);
    let name = |name| NodeName::parse(name).unwrap();
    let mut cluster = cluster(&["a", "b", "c"]);
    cluster.get_mut(&name("c")).unwrap().ready = false;
    assert_eq!(behind(&cluster, &nodes, "1"), [&name("b")]);
}

#[test]
fn every_condition_has_the_generation_that_it_was_found_of() {
    let status = status(&policy(), &facts(true), &reported(Some(&[])), &[]);
    assert_eq!(status.observed_generation, Some(4));
    assert!(status.conditions.iter().all(|condition| condition.observed_generation == Some(4)));
    let written = serde_json::to_value(&status).unwrap();
    assert_eq!(
        (&written["observedGeneration"], &written["conditions"][0]["observedGeneration"]),
        (&json!(4), &json!(4))
    );
}

#[test]
fn an_agent_that_starts_anew_keeps_the_times_of_what_stays_as_it_was() {
    let ready = |status: ConditionStatus, second| {
        vec![Condition::new(ConditionType::Ready, status, Reason::Programmed, "", at(second))]
    };
    let before = NodeStatus { conditions: ready(True, 10), ..NodeStatus::default() };
    let after = NodeStatus { conditions: ready(True, 50), ..NodeStatus::default() };
    let written = after.as_written(1, &before);
    assert_eq!((written.conditions[0].last_transition_time, written.observed_generation), (at(10), Some(1)));
    assert_eq!(written.conditions[0].observed_generation, Some(1));
    let changed = NodeStatus { conditions: ready(False, 50), ..NodeStatus::default() }.as_written(1, &before);
    assert_eq!(changed.conditions[0].last_transition_time, at(50));
}

#[test]
fn a_condition_of_another_version_hides_nothing_else() {
    let time = "2026-11-23T09:12:00Z";
    let status: NodeStatus = serde_json::from_value(json!({"revision": "0123", "conditions": [
        {"type": "Ready", "status": "True", "reason": "InForce", "message": "", "lastTransitionTime": time},
        {"type": "Shining", "status": "True", "reason": "Programmed", "message": "", "lastTransitionTime": time},
        {"type": "Ready", "status": "True"},
    ]}))
    .unwrap();
    assert_eq!((status.revision.as_str(), status.conditions.len()), ("0123", 1));
    assert!(is_ready(&status.conditions));
    assert_eq!(status.conditions[0].reason, Reason::Unrecognised);
}

fn node_that(revision: &str, ready: ConditionStatus, drift: u64) -> NodeStatus {
    let conditions = vec![Condition::new(ConditionType::Ready, ready, Reason::Programmed, "why", at(0))];
    NodeStatus { revision: revision.to_owned(), drift, conditions, ..NodeStatus::default() }
}

fn named<T>(of: impl IntoIterator<Item = (&'static str, T)>) -> BTreeMap<NodeName, T> {
    of.into_iter().map(|(name, value)| (NodeName::parse(name).unwrap(), value)).collect()
}

fn cluster(names: &[&'static str]) -> BTreeMap<NodeName, Node> {
    named(names.iter().map(|name| (*name, Node { ready: true, ..Node::default() })))
}

fn head<'a>(cluster: &'a BTreeMap<NodeName, Node>, nodes: &'a BTreeMap<NodeName, NodeStatus>) -> HeadStatusInput<'a> {
    HeadStatusInput {
        leader: "one",
        revision: "1",
        generation: Some(7),
        cluster,
        nodes,
        rejected: &[],
        pending: None,
        git_fault: None,
        publish_fault: None,
        reports: None,
        previews: None,
        assertions: None,
    }
}

fn head_ready(facts: HeadStatusInput<'_>) -> (ConditionStatus, Reason, String) {
    let status = head_status(facts, &HeadStatus::default(), at(1));
    let ready = condition(&status.conditions, ConditionType::Ready).unwrap();
    (ready.status, ready.reason, ready.message.clone())
}

fn pending(why: PendingReason) -> PendingCommit {
    let (commit, summary, author) = ("a".repeat(40), "more".to_owned(), "Leia".to_owned());
    PendingCommit { commit, summary, author, since: at(2), why }
}

#[test]
fn the_config_is_ready_when_every_agent_on_a_ready_node_has_what_is_published() {
    let two = cluster(&["a", "b"]);
    let of = |nodes: &BTreeMap<_, _>| head_ready(head(&two, nodes));
    let current = || node_that("1", True, 0);
    assert_eq!(of(&named([("a", current()), ("b", current())])).0, True);
    assert_eq!(of(&named([("a", current())])).0, True, "a node without an agent is not waited for");
    let (status, reason, message) = of(&named([("a", current()), ("b", node_that("0", True, 0))]));
    assert_eq!((status, reason), (Unknown, Reason::Pending));
    assert!(message.contains("the agents of b "), "{message}");
    let (status, reason, message) = of(&named([("a", current()), ("b", node_that("1", False, 0))]));
    assert_eq!((status, reason, message.as_str()), (False, Reason::NodesNotReady, "b: why (Programmed)"));
    assert_eq!(of(&BTreeMap::new()), (Unknown, Reason::Pending, "waiting for the first agent to report".to_owned()));
    let mut down = two.clone();
    for node in down.values_mut() {
        node.ready = false;
    }
    let behind = named([("a", node_that("0", False, 0))]);
    assert_eq!(head_ready(head(&down, &behind)).0, True, "a node that is down is not waited for");
}

#[test]
fn whatever_keeps_the_repository_from_being_applied_is_in_ready_of_the_config() {
    let (cluster, nodes) = (cluster(&["a"]), named([("a", node_that("1", True, 0))]));
    let well = head(&cluster, &nodes);
    assert_eq!(head_ready(well).0, True);
    let rejected =
        [Rejected { place: "a.yaml:1:1".to_owned(), message: "no".to_owned(), instead: "nothing".to_owned() }];
    let unsigned = pending(PendingReason::Unsigned { commit: "a".repeat(40), what: "no signature".to_owned() });
    for (facts, reason) in [
        (HeadStatusInput { publish_fault: Some("patch: forbidden"), ..well }, Reason::PublicationFailed),
        (HeadStatusInput { git_fault: Some("connection refused"), ..well }, Reason::GitOperationFailed),
        (HeadStatusInput { pending: Some(&unsigned), ..well }, Reason::SignatureRefused),
        (HeadStatusInput { rejected: &rejected, ..well }, Reason::Invalid),
    ] {
        assert_eq!((head_ready(facts).0, head_ready(facts).1), (False, reason));
    }
    let why = PendingReason::Suspended { until: Some(at(60)), owner: "Han".to_owned(), reason: "we move".to_owned() };
    let suspended = pending(why);
    let waits = HeadStatusInput { pending: Some(&suspended), ..well };
    assert_eq!(head_ready(waits).0, True, "a user wants it so");
    let status = head_status(waits, &HeadStatus::default(), at(3));
    let message =
        "aaaaaaaaaaaa \"more\" of Leia waits: Han suspended the cluster until Thu 1970-01-01 00:01 UTC (we move)";
    let up_to_date = condition(&status.conditions, ConditionType::UpToDate).unwrap();
    assert_eq!(
        (up_to_date.status, up_to_date.reason, up_to_date.message.as_str()),
        (False, Reason::Suspended, message)
    );
}

#[test]
fn the_config_counts_nodes_that_have_its_revision() {
    let nodes =
        named([("a", node_that("1", True, 0)), ("b", node_that("0", True, 0)), ("c", node_that("1", False, 2))]);
    let cluster = cluster(&["a", "b", "c", "d"]);
    let facts =
        HeadStatusInput { git_fault: Some("connection refused"), reports: Some(Ok(())), ..head(&cluster, &nodes) };
    let status = head_status(facts, &HeadStatus::default(), at(1));
    assert_eq!((status.nodes.current, status.nodes.drifted, status.node_summary.as_str()), (1, 1, "1/4"));
    let expected = [
        (ConditionType::Ready, False),
        (ConditionType::Reconciling, True),
        (ConditionType::GitReachable, False),
        (ConditionType::UpToDate, True),
        (ConditionType::PoliciesAccepted, True),
        (ConditionType::ReportsPublished, True),
    ];
    assert_eq!(types(&status.conditions), expected);
    let off = head_status(HeadStatusInput { reports: None, ..facts }, &status, at(2));
    assert_eq!(condition(&off.conditions, ConditionType::ReportsPublished), None);
    for (previews, shown) in [(Ok(()), true), (Err("pull request 7: too many requests"), false)] {
        let status = head_status(HeadStatusInput { previews: Some(previews), ..facts }, &status, at(2));
        let last = status.conditions.last().unwrap();
        assert_eq!((last.kind, last.is_true()), (ConditionType::PreviewsPosted, shown), "{}", last.message);
    }
}

#[test]
fn a_column_names_three_and_counts_the_rest() {
    assert_eq!(summary(["a", "b"]), "a, b");
    assert_eq!(summary(["a", "b", "c", "d", "e"]), "a, b, c +2");
}

#[test]
fn what_was_in_place_before_the_node_booted_is_not_in_place_any_more() {
    let conditions = |ready| vec![Condition::new(ConditionType::Ready, ready, Reason::Programmed, "", at(0))];
    let status = |boot_id: &str, ready| NodeStatus {
        revision: "0123".to_owned(),
        boot_id: boot_id.to_owned(),
        conditions: conditions(ready),
        ..NodeStatus::default()
    };
    assert!(status("b1", true).is_in_place("0123", "b1"));
    assert!(!status("b1", true).is_in_place("0123", "b2"), "another boot");
    assert!(!status("b1", true).is_in_place("4567", "b1"), "another commit");
    assert!(!status("b1", false).is_in_place("0123", "b1"), "not all of it");
    assert!(!status("", true).is_in_place("0123", ""), "the boot is not known");
    assert!(!NodeStatus::default().is_in_place("", "b1"), "no agent has reported");
}

#[test]
fn assertions_are_a_condition_that_leaves_ready_alone_and_stays_until_they_are_checked_again() {
    let (cluster, nodes) = (cluster(&["a"]), named([("a", node_that("1", True, 0))]));
    let of = |assertions, generation, before: &HeadStatus| {
        let facts = HeadStatusInput { assertions, generation: Some(generation), ..head(&cluster, &nodes) };
        head_status(facts, before, at(generation))
    };
    let of_it = |status: &HeadStatus| condition(&status.conditions, ConditionType::AssertionsHold).cloned();
    let is = |status: &HeadStatus| of_it(status).map(|one| (one.status, one.reason, one.observed_generation));
    let none = of(None, 1, &HeadStatus::default());
    assert_eq!(is(&none), None);
    let first = of(Some(AssertionState::Unchecked), 2, &none);
    assert_eq!(is(&first), Some((Unknown, Reason::Pending, Some(2))));
    let finding = Finding::new("assertion-broken", "one-address", "does not hold: why");
    let broken = of(Some(AssertionState::Broken(&finding, 3)), 3, &first);
    assert_eq!(is(&broken), Some((False, Reason::AssertionBroken, Some(3))));
    assert_eq!(of_it(&broken).unwrap().message, "one-address does not hold: why; broken in all: 3");
    assert!(is_ready(&broken.conditions), "what is published is in the kernels");
    let restarted = of(Some(AssertionState::Unchecked), 4, &broken);
    assert_eq!(of_it(&restarted), of_it(&broken), "with the generation that it was found of");
    let unknown = of(Some(AssertionState::Unknown("listing pods: forbidden")), 4, &restarted);
    assert_eq!(is(&unknown), Some((Unknown, Reason::PodsNotListed, Some(4))));
    let kept = of(Some(AssertionState::Kept), 5, &unknown);
    assert_eq!(is(&kept), Some((True, Reason::AssertionsKept, Some(5))));
    assert_eq!(is(&of(None, 6, &kept)), None);
}
