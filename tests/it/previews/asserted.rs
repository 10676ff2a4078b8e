//! What an assertion says in each kind of world: its diagnostic, whole.
//!
//! Absent: whether the verdict is that of packets (`semantics::asserted`), and whole previews (tests/previews).

use std::collections::BTreeMap;

use egret::cluster::read_text;
use egret::core::diagnostic::Diagnostic;

use super::Case;

/// Two nodes with pods of two families; `a` and `b` may be gateways. Only the kernel of `a` was read.
const CLUSTER: &str = "apiVersion: v1
kind: List
items:
- {kind: Node, metadata: {name: a, labels: {gw: x}}, spec: {podCIDRs: [10.1.1.0/24]}, status: {addresses: [{type: InternalIP, address: 172.18.0.2}]}}
- {kind: Node, metadata: {name: b, labels: {gw: z}}, spec: {podCIDRs: [10.1.2.0/24]}, status: {addresses: [{type: InternalIP, address: 172.18.0.3}]}}
- {kind: Namespace, metadata: {name: batuu}}
- {kind: Pod, metadata: {namespace: batuu, name: one, labels: {org: empire}}, spec: {nodeName: a}, status: {podIP: 10.1.1.7}}
- {kind: Pod, metadata: {namespace: batuu, name: two, labels: {org: empire}}, spec: {nodeName: b}, status: {podIP: 10.1.2.7}}
- {kind: EgressNode, metadata: {name: a}, status: {interfaces: [{name: net1, addresses: [10.0.3.42/24]}]}}
";

/// What is found of one policy with these fields and one assertion with these, after `egret.yaml`.
fn found(config: &str, policy: &str, assertion: &str) -> Vec<String> {
    of_pods("empire", config, policy, assertion)
}

/// The same of an assertion about other pods than the policy's.
fn of_pods(org: &str, config: &str, policy: &str, assertion: &str) -> Vec<String> {
    let head =
        |kind: &str, name: &str| format!("apiVersion: egret.dev/v1alpha1\nkind: {kind}\nmetadata: {{name: {name}}}\n");
    let selectors = |org: &str| format!("spec:\n  selectors: [{{podSelector: {{matchLabels: {{org: {org}}}}}}}]\n");
    let files = BTreeMap::from([
        ("egret.yaml".to_owned(), format!("apiVersion: egret.dev/v1alpha1\nkind: Config\n{config}")),
        ("p.yaml".to_owned(), format!("{}{}{policy}", head("EgressPolicy", "p"), selectors("empire"))),
        ("q.yaml".to_owned(), format!("{}{}{assertion}", head("EgressAssertion", "q"), selectors(org))),
    ]);
    let (facts, faults) = read_text("cluster", CLUSTER).expect("a cluster");
    assert_eq!(faults, []);
    let case = Case::new(&files, &files, facts);
    let errors = case.validation.found.iter().map(|(one, _)| one).filter(|one| one.code.starts_with("assertion"));
    errors
        .map(|one: &Diagnostic| format!("{}:{} {}: {}", one.start.line, one.start.column, one.code, one.message))
        .collect()
}

const ONE: &str =
    "  destinationCIDRs: [10.0.4.0/24]\n  egressGateway: {nodeSelector: {matchLabels: {gw: x}}, egressIP: 10.0.3.42}\n";
const AS_42: &str = "  destinationCIDRs: [10.0.4.0/24]\n  leavesAs: [10.0.3.42]\n";

#[test]
fn leaves_as_holds_for_the_address_and_names_the_loss_that_drops_unless_that_is_allowed() {
    let dropped = "7:3 assertion-broken: the assertion q does not hold: with a lost, batuu/one to 10.0.4.0 is dropped, as no gateway is \
                   fit, by the policy p (p.yaml:1); the same for 1 other pod";
    assert_eq!(found("", ONE, AS_42), [dropped]);
    assert_eq!(found("", ONE, &format!("{AS_42}  orDropped: true\n")), Vec::<String>::new());
    let passes = format!("{ONE}  onNoGateway: Passthrough\n");
    let own = "7:3 assertion-broken: the assertion q does not hold: with a lost, batuu/one to 10.0.4.0 leaves without a gateway, as none \
               is fit, by the policy p (p.yaml:1); the same for 1 other pod";
    assert_eq!(found("", &passes, &format!("{AS_42}  orDropped: true\n")), [own]);
    // A second gateway carries what the first one lost, with an address of its own.
    let two = "  destinationCIDRs: [10.0.4.0/24]\n  egressGateways:\n  - {nodeSelector: {matchLabels: {gw: x}}, egressIP: 10.0.3.42}\n  \
               - {nodeSelector: {matchLabels: {gw: z}}, egressIP: 10.0.3.43}\n";
    let both = "  destinationCIDRs: [10.0.4.0/24]\n  leavesAs: [10.0.3.42, 10.0.3.43]\n";
    assert_eq!(found("", two, both), Vec::<String>::new());
    assert_eq!(found("", two, AS_42).len(), 1);
}

#[test]
fn part_of_a_destination_is_enough_and_egret_yaml_silences_nothing() {
    let hole = format!("{ONE}  excludedCIDRs: [10.0.4.96/28]\n");
    let excluded = "7:3 assertion-broken: the assertion q does not hold: batuu/one to 10.0.4.96 leaves without a gateway, as it is \
                    excluded, by the policy p (p.yaml:1); the same for 1 other pod";
    let lenient = format!("{AS_42}  orDropped: true\n");
    assert_eq!(found("", &hole, &lenient), [excluded]);
    let wider = "  destinationCIDRs: [10.0.4.0/23]\n  leavesAs: [10.0.3.42]\n  orDropped: true\n";
    let undecided = "7:3 assertion-broken: the assertion q does not hold: batuu/one to 10.0.5.0 leaves without a gateway, as no policy \
                     has the destination; the same for 1 other pod";
    assert_eq!(found("", ONE, wider), [undecided]);
    for field in ["exclusions", "serviceCIDRs", "podCIDRs"] {
        let never = "7:3 assertion-broken: the assertion q does not hold: batuu/one to 10.0.4.8 leaves without a gateway, as the \
                     destination is never steered; the same for 1 other pod";
        assert_eq!(found(&format!("{field}: [10.0.4.8/29]\n"), ONE, &lenient), [never], "{field}");
        let but = format!("{lenient}  excludedCIDRs: [10.0.4.8/29]\n");
        assert_eq!(found(&format!("{field}: [10.0.4.8/29]\n"), ONE, &but), Vec::<String>::new(), "{field}");
    }
    // The cluster's own addresses, and what no router forwards, are no destinations.
    let all = "  destinationCIDRs: [0.0.0.0/0]\n  egressGateway: {nodeSelector: {matchLabels: {gw: x}}, egressIP: 10.0.3.42}\n";
    let everything = "  destinationCIDRs: [0.0.0.0/0, \"::/0\"]\n  leavesAs: [10.0.3.42]\n  orDropped: true\n";
    assert_eq!(found("", all, everything), Vec::<String>::new());
}

#[test]
fn an_address_that_is_not_known_is_not_taken_for_one_that_is_allowed() {
    let known =
        "  destinationCIDRs: [10.0.4.0/24]\n  egressGateway: {nodeSelector: {matchLabels: {gw: x}}, interface: net1}\n";
    let lenient = format!("{AS_42}  orDropped: true\n");
    assert_eq!(found("", known, &lenient), Vec::<String>::new());
    let unknown = "7:3 assertion-unproven: the assertion q does not hold: batuu/one to 10.0.4.0 leaves through b (dev net1), whose address \
                   is not known, by the policy p (p.yaml:1); the same for 1 other pod";
    assert_eq!(found("", &known.replace("gw: x", "gw: z"), &lenient), [unknown]);
    let broken = "7:3 assertion-broken: the assertion q does not hold: with b lost, batuu/one to 10.0.4.0 is dropped, as no gateway is fit, by \
                  the policy p (p.yaml:1); the same for 1 other pod";
    assert_eq!(
        found("", &known.replace("gw: x", "gw: z"), AS_42),
        [broken],
        "what is known to be broken is told first"
    );
    let absent = "7:3 assertion-broken: the assertion q does not hold: batuu/one to 10.0.4.0 is dropped at a, which has no address for it \
                  (10.0.3.43), by the policy p (p.yaml:1); the same for 1 other pod";
    assert_eq!(found("", &ONE.replace("3.42", "3.43"), AS_42), [absent]);
}

#[test]
fn never_steered_holds_where_no_policy_has_the_destination_and_an_assertion_without_pods_is_a_warning() {
    let never = "  destinationCIDRs: [10.0.4.0/24]\n  neverSteered: true\n";
    let steered = "7:3 assertion-broken: the assertion q does not hold: batuu/one to 10.0.4.0 leaves with 10.0.3.42 through a, by the policy p \
                   (p.yaml:1); the same for 1 other pod";
    assert_eq!(found("", ONE, never), [steered]);
    assert_eq!(found("", &ONE.replace("10.0.4.0", "10.0.9.0"), never), Vec::<String>::new());
    let passes = format!("{}  onNoGateway: Passthrough\n", ONE.replace("gw: x", "gw: none"));
    assert_eq!(found("", &passes, never), Vec::<String>::new(), "it is as if there were no policy");
    let idle = "5:3 assertion-without-pods: the assertion q selects no pod that is there now";
    assert_eq!(of_pods("rebels", "", ONE, never), [idle]);
}
