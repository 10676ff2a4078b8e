//! Gateways that are not there yet, or not there any more.
//!
//! Deliberately absent: a gateway whose link is cut (`outpost`).

use serde_json::json;

use crate::lab::{Answer, OUTPOST, OUTPOST6};

use super::super::stand::{Outcome, Stand, policy};
use super::Side;

#[test]
fn a_policy_stays_on_its_gateway_until_the_agent_of_the_next_one_runs() -> Outcome {
    let mut stand = Stand::at(Side::Second)?;
    let flow = stand.flow()?;
    stand.terminate("kind-worker3")?;
    let commit = stand.turn_to(Side::Third)?;
    let waits = ("Unknown".to_owned(), "Pending".to_owned());
    stand.await_that("a policy that waits for its gateway", || {
        stand.condition("publishedegresspolicies", "outpost", "Ready") == waits
            && stand.object("egressnodes", "kind-worker")["status"]["revision"] == *commit
    })?;
    stand.assert_through(&[Side::Second])?;
    // The agents that are there may be started anew meanwhile, and still know who carries it.
    for node in ["kind-worker", "kind-worker2"] {
        stand.kill9(node)?;
        stand.agent(node)?;
    }
    stand.lab.add_pod("scout", "kind-worker", &[("org", "empire")])?;
    stand.announce(&["pods.yaml"]);
    for (outpost, egress) in Side::Second.ways() {
        stand.await_answer("scout", outpost, Answer::Granted(egress))?;
    }
    stand.agent("kind-worker3")?;
    stand.await_settled(Side::Third, &commit)?;
    flow.end(&stand, &Side::BOTH);
    stand.assert_no_leak_but(&[])
}

/// The policy by a label that both gateways have, on the first of them.
fn two_gateways() -> Outcome<Stand> {
    let stand = Stand::at(Side::Second)?;
    let both = "apiVersion: egret.dev/v1alpha1
kind: NodeLabels
metadata: {name: gateways}
spec:
  nodes: [kind-worker2, kind-worker3]
  labels: {egress-gw: both}
";
    stand.lab.repository().write("nodes/gateways.yaml", both)?;
    stand.lab.repository().write("policies/outpost.yaml", &policy("egress-gw: both"))?;
    let commit = stand.lab.repository().push("two gateways")?;
    stand.await_that("both labels, and the policy active on all nodes", || {
        let head = stand.object("egressconfigs", "default");
        head["spec"]["revision"] == *commit
            && head["status"]["nodeSummary"] == "3/3"
            && Side::BOTH.iter().all(|side| stand.label(side.gateway()).as_deref() == Some("both"))
            && stand.nodes().iter().all(|node| stand.object("egressnodes", node)["status"]["revision"] == *commit)
    })?;
    stand.await_granted("tiefighter")?;
    Ok(stand)
}

#[test]
fn a_gateway_that_dies_is_replaced_with_nobody_to_say_so_and_connections_stay_there_once_somebody_does() -> Outcome {
    let mut stand = two_gateways()?;
    stand.kill9("controller-one")?;
    stand.api.away();
    stand.kill9("kind-worker2")?;
    stand.lab.node("kind-worker2")?.ip_batch("link set eth0 down\nlink set net1 down\n")?;
    let began = std::time::Instant::now();
    for (outpost, egress) in Side::Third.ways() {
        stand.await_answer("tiefighter", outpost, Answer::Granted(egress))?;
    }
    println!("measured: from a gateway's death to the next one, without an API server: {:.1?}", began.elapsed());
    let mut connections = vec![];
    for (outpost, egress) in Side::Third.ways() {
        connections.push((stand.lab.long_connection("tiefighter", outpost)?, egress));
    }
    stand.api.back();
    stand.set_ready("kind-worker2", false);
    let silent = |event: &serde_json::Value| event["reason"] == "GatewaySilent";
    stand.await_that("an event of the source", || {
        stand.api.list("events.events.k8s.io").iter().filter(|one| silent(one)).count() == 1
    })?;
    stand.await_that("that the node places the policy elsewhere", || {
        let node = stand.object("egressnodes", "kind-worker");
        !node["status"]["report"].to_string().contains("gateway-silent")
    })?;
    for (connection, egress) in &mut connections {
        assert_eq!(connection.echo()?, *egress, "a connection that began on the detour");
    }
    stand.assert_no_leak_but(&[])
}

#[test]
fn members_of_a_gateway_that_is_not_ready_any_more_leave_through_the_next_with_no_controller_about() -> Outcome {
    let mut stand = two_gateways()?;
    stand.kill9("controller-one")?;
    // As when a node dies: its agent says nothing any more.
    stand.kill9("kind-worker2")?;
    let began = std::time::Instant::now();
    stand.set_ready("kind-worker2", false);
    for (outpost, egress) in Side::Third.ways() {
        stand.await_answer("tiefighter", outpost, Answer::Granted(egress))?;
    }
    println!(
        "measured: a gateway that is not ready, to both families let in through the next: {:.1?}",
        began.elapsed()
    );
    stand.set_ready("kind-worker2", true);
    for (outpost, egress) in Side::Second.ways() {
        stand.await_answer("tiefighter", outpost, Answer::Granted(egress))?;
    }
    for outpost in [OUTPOST, OUTPOST6] {
        assert!(stand.lab.sources_towards(outpost)?.len() >= 2);
    }
    stand.assert_no_leak_but(&[])
}

#[test]
fn the_status_of_a_gateway_is_written_again_where_somebody_deleted_it() -> Outcome {
    let stand = Stand::at(Side::Second)?;
    let flow = stand.flow()?;
    let before = stand.object("egressnodes", "kind-worker2");
    stand.api.delete("egressnodes.egret.dev", "", "kind-worker2");
    stand.await_that("the same said again", || {
        let now = stand.object("egressnodes", "kind-worker2");
        now["metadata"]["labels"] == before["metadata"]["labels"] && now["status"]["exits"] == before["status"]["exits"]
    })?;
    stand.api.patch("egressnodes.egret.dev", "", "kind-worker2", &json!({"metadata": {"labels": null}}));
    stand.await_that("the label again", || {
        stand.object("egressnodes", "kind-worker2")["metadata"]["labels"] == before["metadata"]["labels"]
    })?;
    let commit = stand.turn_to(Side::Third)?;
    stand.await_settled(Side::Third, &commit)?;
    flow.end(&stand, &Side::BOTH);
    stand.assert_no_leak_but(&[])
}
