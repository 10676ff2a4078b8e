//! What `egret explain` says where only the repository and the cluster's manifests are known, as whole texts: who is a member, which prefix
//! wins, which label is missing, what waits.
//!
//! Deliberately absent: kernels that were read (`outpost::explained`).

#![expect(clippy::unwrap_used, reason = "a test that cannot be prepared has failed")]

mod reported;

use std::collections::BTreeMap;
use std::net::IpAddr;

use egret::cluster::read_text;
use egret::core::explain::{
    Question, Situation, Source, Told, UnknownPod, address_lines, explain, leaving_as, lines, seen_as,
};
use egret::core::facts::{Facts, PodName};
use egret::core::name::NodeName;
use egret::core::policy::PolicySet;
use egret::core::policy::catalogue::{Catalogue, FileUpdate};
use egret::core::report::history::NodeReport;
use jiff::Timestamp;

/// Two nodes, of which beta is a gateway, two namespaces, and a pod for each case.
const CLUSTER: &str = "
apiVersion: v1
kind: Node
metadata: {name: alpha}
spec: {podCIDRs: [10.61.1.0/24]}
status: {addresses: [{type: InternalIP, address: 172.18.0.2}]}
---
apiVersion: v1
kind: Node
metadata: {name: beta, labels: {egress-gw: \"true\"}}
spec: {podCIDRs: [10.61.2.0/24]}
status: {addresses: [{type: InternalIP, address: 172.18.0.3}]}
---
{apiVersion: v1, kind: Namespace, metadata: {name: batuu, labels: {team: blue}}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: hoth, labels: {}}}
---
apiVersion: v1
kind: Pod
metadata: {name: tie, namespace: batuu, labels: {org: empire}}
spec: {nodeName: alpha}
status: {phase: Running, podIP: 10.61.1.177, podIPs: [{ip: 10.61.1.177}]}
---
apiVersion: v1
kind: Pod
metadata: {name: xwing, namespace: batuu, labels: {org: alliance}}
spec: {nodeName: alpha}
status: {phase: Running, podIP: 10.61.1.178, podIPs: [{ip: 10.61.1.178}]}
---
apiVersion: v1
kind: Pod
metadata: {name: walker, namespace: hoth, labels: {org: empire}}
spec: {nodeName: alpha}
status: {phase: Running, podIP: 10.61.1.179, podIPs: [{ip: 10.61.1.179}]}
";

/// A policy of pods with `org: empire` in namespaces with `team: blue`.
fn policy(name: &str, to: &str, more: &str, egress: &str) -> String {
    format!(
        "apiVersion: egret.dev/v1alpha1
kind: EgressPolicy
metadata: {{name: {name}}}
spec:
  selectors:
  - podSelector: {{matchLabels: {{org: empire}}}}
    namespaceSelector: {{matchLabels: {{team: blue}}}}
  destinationCIDRs: [{to}]
  egressGateway: {{nodeSelector: {{matchLabels: {{egress-gw: \"true\"}}}}, egressIP: {egress}}}
{more}"
    )
}

fn outpost() -> String {
    policy("outpost", "10.88.4.0/24", "", "10.77.3.42")
}

fn set(documents: &[String]) -> PolicySet {
    let mut catalogue = Catalogue::new("default");
    let files = documents
        .iter()
        .enumerate()
        .map(|(number, text)| (format!("policies/{number}.yaml"), FileUpdate::Text(text.clone())));
    catalogue.update(files.collect());
    assert_eq!(catalogue.diagnostics(), [], "the documents are fine");
    catalogue.policies().clone()
}

fn facts(change: impl Fn(String) -> String) -> Facts {
    read_text("cluster.yaml", &change(CLUSTER.to_owned())).unwrap().0
}

fn now() -> Timestamp {
    "2026-11-30T12:00:00Z".parse().unwrap()
}

fn question(pod: &str, to: &str) -> Question {
    let (namespace, name) = pod.split_once('/').unwrap();
    let pod = PodName { namespace: namespace.to_owned(), name: name.to_owned() };
    Question { pod, destination: to.parse().unwrap() }
}

fn with<T>(set: &PolicySet, facts: &Facts, ask: impl FnOnce(&Situation<'_>) -> T) -> T {
    with_reports(set, facts, (&[], &BTreeMap::new()), ask)
}

/// The same with what nodes report of themselves, and what their agents answered.
fn with_reports<T>(
    set: &PolicySet,
    facts: &Facts,
    (reports, told): (&[NodeReport], &BTreeMap<NodeName, Told>),
    ask: impl FnOnce(&Situation<'_>) -> T,
) -> T {
    let reports = reports.iter().map(|report| (NodeName::parse(&report.node).unwrap(), report.clone())).collect();
    ask(&Situation {
        set,
        facts,
        host_networks: &BTreeMap::new(),
        placement: None,
        reports: &reports,
        kernel: None,
        told,
        pending: None,
        waits: None,
        rejected: &[],
        now: now(),
    })
}

/// All that is said, as it is printed.
fn said(documents: &[String], facts: &Facts, pod: &str, to: &str) -> String {
    with(&set(documents), facts, |situation| {
        let (head, lines) = lines(&explain(&question(pod, to), situation).unwrap(), None, now());
        lines.into_iter().fold(head, |text, (label, line)| format!("{text}\n  {label:<8}{line}"))
    })
}

fn first(documents: &[String], facts: &Facts, pod: &str, to: &str) -> String {
    said(documents, facts, pod, to).lines().next().unwrap().to_owned()
}

#[test]
fn a_member_leaves_with_the_address_of_its_policy() {
    let expected = "batuu/tie (10.61.1.177, alpha) → 10.88.4.2   leaves as 10.77.3.42 through beta
  policy  outpost, policies/0.yaml:1
  match   selector 1: org=empire, namespace with team=blue · 10.88.4.0/24, longest of 1 prefix
  else    no other node is a gateway of the policy
  waits   nothing is known of it: no node was read, and none reports";
    assert_eq!(said(&[outpost()], &facts(|text| text), "batuu/tie", "10.88.4.2"), expected);
}

#[test]
fn of_overlapping_policies_the_longer_prefix_wins_and_the_other_is_named() {
    let partner = policy("partner", "10.88.4.2/32", "", "10.77.3.43");
    let expected = "batuu/tie (10.61.1.177, alpha) → 10.88.4.2   leaves as 10.77.3.43 through beta
  policy  partner, policies/1.yaml:1
  match   selector 1: org=empire, namespace with team=blue · 10.88.4.2/32, longest of 2 prefixes
  not     outpost (policies/0.yaml:1): 10.88.4.0/24 is shorter
  else    no other node is a gateway of the policy
  waits   nothing is known of it: no node was read, and none reports";
    assert_eq!(said(&[outpost(), partner], &facts(|text| text), "batuu/tie", "10.88.4.2"), expected);
    let excluding = policy("outpost", "10.88.4.0/24", "  excludedCIDRs: [10.88.4.2/32]\n", "10.77.3.42");
    let head = first(&[excluding], &facts(|text| text), "batuu/tie", "10.88.4.2");
    assert_eq!(head, "batuu/tie (10.61.1.177, alpha) → 10.88.4.2   NOT STEERED: outpost excludes 10.88.4.2/32");
    let higher = policy("later", "10.88.4.0/24", "  priority: 5\n", "10.77.3.44");
    let text = said(&[outpost(), higher], &facts(|text| text), "batuu/tie", "10.88.4.9");
    assert!(text.contains("leaves as 10.77.3.44"), "{text}");
    assert!(text.contains("not     outpost (policies/0.yaml:1): 10.88.4.0/24 has a lower priority"), "{text}");
    let same = policy("partner", "10.88.4.0/24", "", "10.77.3.44");
    let text = said(&[outpost(), same], &facts(|text| text), "batuu/tie", "10.88.4.9");
    assert!(
        text.contains("partner (policies/1.yaml:1): 10.88.4.0/24 has the same priority, and its name comes later"),
        "{text}"
    );
}

#[test]
fn a_pod_that_is_no_member_is_told_which_label_it_lacks() {
    let expected = "batuu/xwing (10.61.1.178, alpha) → 10.88.4.2   NOT STEERED: outpost has 10.88.4.0/24 and does not select the pod: \
                    the pod has org=alliance, and org=empire is wanted
  so      the packets leave by alpha's own routing, with the pod's address or, if the CNI translates it, the node's
  near    outpost (policies/0.yaml:1), 10.88.4.0/24, selector 1: the pod has org=alliance, and org=empire is wanted
  waits   nothing is known of it: no node was read, and none reports
  do      if outpost is meant to select it: kubectl label pod -n batuu xwing org=empire --overwrite; and in the template that the pod is made from";
    assert_eq!(said(&[outpost()], &facts(|text| text), "batuu/xwing", "10.88.4.2"), expected);
    let text = said(&[outpost()], &facts(|text| text), "hoth/walker", "10.88.4.2");
    assert!(
        text.lines().next().unwrap().ends_with("the namespace has no label team, and team=blue is wanted"),
        "{text}"
    );
    assert!(
        text.ends_with("do      if outpost is meant to select it: kubectl label namespace hoth team=blue"),
        "{text}"
    );
    // The one that lacks least comes first.
    let other = outpost().replace("name: outpost", "name: another").replace("org: empire", "org: empire, class: x");
    let text = said(&[outpost(), other], &facts(|text| text), "hoth/walker", "10.88.4.2");
    assert!(text.contains("NOT STEERED: outpost has"), "{text}");
    assert!(text.contains("near    another (policies/1.yaml:1)"), "{text}");
}

#[test]
fn without_a_fit_gateway_the_first_line_says_why() {
    let cordoned = |text: String| text.replace("spec: {podCIDRs: [10.61.2.0/24]}", "spec: {unschedulable: true}");
    let head = first(&[outpost()], &facts(cordoned), "batuu/tie", "10.88.4.2");
    let expected = "batuu/tie (10.61.1.177, alpha) → 10.88.4.2   DROPPED on alpha: no node that matches egress-gw=true is fit: beta is cordoned; \
                    members' packets to its destinations are dropped";
    assert_eq!(head, expected);
    let passing = policy("outpost", "10.88.4.0/24", "  onNoGateway: Passthrough\n", "10.77.3.42");
    let head = first(&[passing], &facts(cordoned), "batuu/tie", "10.88.4.2");
    assert!(head.contains("NOT STEERED: outpost passes it through, as no node that matches"), "{head}");
}

#[test]
fn what_no_policy_can_have_is_said_with_its_reason() {
    let of = |to: &str| first(&[outpost()], &facts(|text| text), "batuu/tie", to);
    let never = "destinations inside the cluster are never steered";
    for (to, cause) in [
        ("172.18.0.3", format!("172.18.0.3 is the node beta, and {never}")),
        ("10.61.2.9", format!("10.61.2.0/24 is a network of pods, and {never}")),
        ("169.254.169.254", format!("no router forwards packets to 169.254.169.254, and {never}")),
        ("192.0.2.1", "the pod's policy does not have 192.0.2.1 as a destination".to_owned()),
        ("2001:db8::1", "the pod has no IPv6 address".to_owned()),
    ] {
        assert!(of(to).ends_with(&format!("NOT STEERED: {cause}")), "{}", of(to));
    }
    let suspended = policy(
        "outpost",
        "10.88.4.0/24",
        "  suspend: {until: \"2026-12-01T00:00:00Z\", reason: a test}\n",
        "10.77.3.42",
    );
    let head = first(&[suspended], &facts(|text| text), "batuu/tie", "10.88.4.2");
    assert!(
        head.ends_with("NOT STEERED: outpost is suspended until 2026-12-01T00:00:00Z (policies/0.yaml:1)"),
        "{head}"
    );
    let on_host =
        |text: String| text.replacen("spec: {nodeName: alpha}", "spec: {nodeName: alpha, hostNetwork: true}", 1);
    let head = first(&[outpost()], &facts(on_host), "batuu/tie", "10.88.4.2");
    assert!(head.ends_with("the pod shares its node's network namespace, and is no member of any policy"), "{head}");
}

#[test]
fn an_unknown_pod_is_an_error_with_the_nearest_name() {
    let (set, facts) = (set(&[outpost()]), facts(|text| text));
    let error = with(&set, &facts, |situation| explain(&question("batuu/tye", "10.88.4.2"), situation).unwrap_err());
    let pod = question("batuu/tye", "10.88.4.2").pod;
    assert_eq!(error, UnknownPod { pod, near: Some("batuu/tie".to_owned()) });
}

#[test]
fn who_leaves_with_an_address_is_answered_by_policies_nodes_and_pods() {
    let (set, facts) = (set(&[outpost()]), facts(|text| text));
    let head = |address: &str| {
        let address: IpAddr = address.parse().unwrap();
        with(&set, &facts, |situation| address_lines(address, &leaving_as(address, situation)))
    };
    let (first, lines) = head("10.77.3.42");
    assert_eq!(first, "1 pod leaves as 10.77.3.42, by 1 policy");
    let expected = [("policy", "outpost, policies/0.yaml:1, through beta to 10.88.4.0/24"), ("pods", "batuu/tie")];
    assert_eq!(lines, expected.map(|(label, text)| (label, text.to_owned())));
    assert_eq!(head("172.18.0.2").0, "172.18.0.2 is the address of the node alpha; no policy leads anything to it");
    assert_eq!(
        head("10.61.1.178").0,
        "10.61.1.178 is the address of the pod batuu/xwing; no policy leads anything to it"
    );
    assert_eq!(head("192.0.2.7").0, "nobody leaves as 192.0.2.7");
    let seen = |address: &str, pod: &str| {
        let address: IpAddr = address.parse().unwrap();
        with(&set, &facts, |situation| seen_as(address, &question(pod, "10.88.4.2"), situation).to_string())
    };
    let of_policy = "the address of outpost (policies/0.yaml:1), with which 1 pod leaves through beta";
    assert_eq!(seen("10.77.3.42", "batuu/tie"), format!("{of_policy}, this one among them"));
    assert_eq!(seen("10.77.3.42", "batuu/xwing"), format!("{of_policy}, and this one does not"));
    assert_eq!(seen("172.18.0.2", "batuu/xwing"), "the address of the node alpha: these packets were not steered");
    assert_eq!(seen("192.0.2.7", "batuu/xwing"), "no address of a policy, a node or a pod that is known");
}

#[test]
fn destinations_that_another_policy_has_are_not_a_pods_way_to_the_address() {
    // `tie` is a member of both: of partner's destinations it has none by outpost. The other pods of outpost have all of them.
    let partner = policy("partner", "10.88.4.128/25", "", "10.77.3.43").replace("org: empire", "class: tie");
    let both = set(&[outpost(), partner]);
    let more = facts(|text| text.replace("org: empire", "org: empire, class: tie"));
    let address: IpAddr = "10.77.3.42".parse().unwrap();
    let of = |facts: &Facts| with(&both, facts, |situation| address_lines(address, &leaving_as(address, situation)).1);
    let policy = "outpost, policies/0.yaml:1, through beta to 10.88.4.0/24";
    assert_eq!(of(&more)[0].1, format!("{policy} but not to 10.88.4.128/25"));
    assert_eq!(of(&facts(|text| text))[0].1, policy);
    let seen = |to: &str| {
        with(&both, &more, |situation| seen_as("10.77.3.43".parse().unwrap(), &question("batuu/tie", to), situation))
    };
    assert!(matches!(seen("10.88.4.200"), Source::Policy(one, true) if one.policy.name.as_str() == "partner"));
}

#[test]
fn an_address_is_a_policys_also_where_none_of_its_pods_is_known() {
    let set = set(&[outpost()]);
    let mut facts = facts(|text| text);
    facts.pods.clear();
    let address: IpAddr = "10.77.3.42".parse().unwrap();
    let (head, lines) = with(&set, &facts, |situation| address_lines(address, &leaving_as(address, situation)));
    assert_eq!(head, "10.77.3.42 is the address of 1 policy, and no pod of it is known");
    assert_eq!(lines, [("policy", "outpost, policies/0.yaml:1, through beta to 10.88.4.0/24".to_owned())]);
    let question = question("batuu/tie", "10.88.4.2");
    let seen = with(&set, &facts, |situation| seen_as(address, &question, situation).to_string());
    assert_eq!(seen, "the address of outpost (policies/0.yaml:1) through beta; no pod of it is known");
}
