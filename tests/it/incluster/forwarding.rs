//! Gateways that forward nothing: another one takes over, and everybody says why.
//!
//! Deliberately absent: what a node by itself says (`outpost::settings`).

use super::stand::{LABELS, Outcome, Stand, WAYS, policy};
use crate::lab::{Answer, OUTPOST, OUTPOST6, Options};

/// Both gateways have the label, and the first is chosen.
const BOTH: &str = "apiVersion: egret.dev/v1alpha1
kind: NodeLabels
metadata: {name: gateways}
spec:
  nodes: [kind-worker2, kind-worker3]
  labels: {egress-gw: \"true\"}
";

#[test]
fn a_gateway_that_forwards_nothing_is_passed_over_until_it_does() -> Outcome {
    let stand = Stand::up(Options { gateways: 2, ..Options::default() })?;
    stand.push(&[("nodes/gateways.yaml", BOTH), ("policies/outpost.yaml", &policy("egress-gw: \"true\""))])?;
    stand.await_granted("tiefighter")?;
    stand.lab.forget()?;
    let second = stand.lab.node("kind-worker2")?;
    for setting in ["net.ipv4.conf.net1.forwarding", "net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"] {
        second.sysctl(setting, "0")?;
        for (outpost, egress) in [(OUTPOST, "10.0.3.43"), (OUTPOST6, "fd00:10:3::43")] {
            stand.await_answer("tiefighter", outpost, Answer::Granted(egress.parse().expect("an address")))?;
        }
        let reason = match setting {
            "net.ipv4.ip_forward" => "net.ipv4.conf.net1.forwarding is 0".to_owned(),
            _ => format!("{setting} is 0"),
        };
        let unfit = serde_json::json!([{"identity": "kind-worker2 dev net1", "reason": reason}]);
        // Sources notice by themselves, before it is told.
        stand.await_that("the gateway's own word", || {
            stand.object("egressnodes", "kind-worker2")["status"]["unfit"] == unfit
        })?;
        stand.await_that("the policy's status to name the other gateway", || {
            let policy = stand.object("publishedegresspolicies", "outpost");
            policy["status"]["gatewaySummary"] == "kind-worker3"
                && stand.condition("publishedegresspolicies", "outpost", "Ready")
                    == ("True".to_owned(), "Programmed".to_owned())
        })?;
        second.sysctl(setting, "1")?;
        for (outpost, egress) in WAYS {
            stand.await_answer("tiefighter", outpost, Answer::Granted(egress))?;
        }
        stand.await_that("nothing to be said against it", || {
            stand.object("egressnodes", "kind-worker2")["status"]["unfit"].is_null()
        })?;
    }
    stand.assert_no_leak_but(&[])
}

#[test]
fn a_policy_whose_only_gateway_forwards_nothing_says_so() -> Outcome {
    let stand = Stand::applied(Options::default())?;
    stand.lab.node("kind-worker2")?.sysctl("net.ipv4.ip_forward", "0")?;
    stand.await_that("a policy without a gateway", || {
        stand.condition("publishedegresspolicies", "outpost", "Ready") == ("False".to_owned(), "NoGateway".to_owned())
    })?;
    let policy = stand.object("publishedegresspolicies", "outpost");
    let message = policy["status"]["conditions"][0]["message"].as_str().unwrap_or_default().to_owned();
    assert!(message.contains("kind-worker2 does not forward packets for it"), "{message}");
    assert_eq!(stand.lab.ask("tiefighter", OUTPOST)?, Answer::NoAnswer);
    stand.assert_no_leak_but(&[])
}

#[test]
fn a_policy_whose_exit_has_no_way_out_is_not_ready_and_says_why() -> Outcome {
    // Over IPv4 alone: an interface that goes down keeps no address of IPv6.
    let stand = Stand::up(Options { ipv6: false, ..Options::default() })?;
    stand.push(&[("nodes/gateways.yaml", LABELS), ("policies/outpost.yaml", &policy("egress-gw: \"true\""))])?;
    stand.await_answer("tiefighter", OUTPOST, Answer::Granted(WAYS[0].1))?;
    stand.lab.node("kind-worker2")?.exec(["ip", "link", "set", "net1", "down"])?;
    stand.await_that("a policy whose exit has no way out", || {
        stand.condition("publishedegresspolicies", "outpost", "Ready")
            == ("False".to_owned(), "EgressIPMissing".to_owned())
    })?;
    // The node itself has everything else applied.
    assert_eq!(stand.condition("egressnodes", "kind-worker2", "Ready").0, "True");
    stand.lab.node("kind-worker2")?.exec(["ip", "link", "set", "net1", "up"])?;
    stand.await_answer("tiefighter", OUTPOST, Answer::Granted(WAYS[0].1))?;
    stand.await_that("a policy that is active again", || {
        stand.condition("publishedegresspolicies", "outpost", "Ready") == ("True".to_owned(), "Programmed".to_owned())
    })
}
