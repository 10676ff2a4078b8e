//! The outpost scenario in a cluster: from a push to packets, and back; leaders and agents that come and go.
//!
//! Deliberately absent: labels (`labels`), pods (`pods`), and an API server that misbehaves (`faults`).

use std::net::IpAddr;
use std::time::Instant;

use crate::apiserver::Filter;
use crate::lab::{Answer, OUTPOST, Options};

use super::stand::{LABELS, Outcome, Stand, WAYS, policy};

#[test]
fn a_push_lets_the_empire_in_and_a_removal_gives_everybody_their_own_way() -> Outcome {
    let stand = Stand::up(Options::default())?;
    stand.await_own_way("tiefighter")?;
    let begun = Instant::now();
    stand.push(&[("nodes/gateways.yaml", LABELS), ("policies/outpost.yaml", &policy("egress-gw: \"true\""))])?;
    stand.await_granted("tiefighter")?;
    println!("measured: push to both families let in, in a cluster: {:.1?}", begun.elapsed());
    stand.await_own_way("xwing")?;
    let ready = |status: &str, reason: &str| (status.to_owned(), reason.to_owned());
    stand.await_that("a policy that says it is active", || {
        stand.condition("publishedegresspolicies", "outpost", "Ready") == ready("True", "Programmed")
    })?;
    let policy = stand.object("publishedegresspolicies", "outpost");
    assert_eq!(policy["status"]["gatewaySummary"], "kind-worker2");
    assert_eq!(policy["status"]["egressIPSummary"], "10.0.3.42, fd00:10:3::42");
    stand.await_that("a head that counts both nodes", || {
        stand.object("egressconfigs", "default")["status"]["nodeSummary"] == "2/2"
    })?;
    let source = stand.object("egressnodes", "kind-worker");
    assert_eq!((&source["status"]["members"], &source["status"]["drift"]), (&1.into(), &0.into()));
    stand.lab.repository().remove("policies/outpost.yaml")?;
    stand.lab.repository().push("no more policy")?;
    stand.await_own_way("tiefighter")?;
    stand.await_that("no policy in the cluster", || stand.api.list("publishedegresspolicies.egret.dev").is_empty())
}

#[test]
fn with_nothing_to_do_nobody_writes() -> Outcome {
    let stand = Stand::applied(Options::default())?;
    stand.await_that("a head that counts both nodes", || {
        stand.object("egressconfigs", "default")["status"]["nodeSummary"] == "2/2"
    })?;
    stand.await_quiet()?;
    // That nothing comes is seen by waiting alone: longer than a lease is renewed and Git is polled.
    std::thread::sleep(std::time::Duration::from_secs(5));
    let leases = stand.api.writes(&Filter::writes().resource("leases"));
    let writes = stand.api.writes(&Filter::writes());
    assert_eq!(writes, leases, "{:#?}", stand.api.requests());
    Ok(())
}

#[test]
fn another_leader_takes_over_and_loses_nothing() -> Outcome {
    let mut stand = Stand::applied(Options { gateways: 2, ..Options::default() })?;
    stand.controller("two")?;
    let fence = stand.object("egressconfigs", "default")["spec"]["fence"].as_i64();
    stand.kill9("controller-one")?;
    stand.push(&[("policies/outpost.yaml", &policy("kubernetes.io/hostname: kind-worker3"))])?;
    stand.await_answer("tiefighter", OUTPOST, Answer::Granted("10.0.3.43".parse().expect("an address")))?;
    let now = stand.object("egressconfigs", "default")["spec"]["fence"].as_i64();
    assert!(now > fence, "{fence:?} then {now:?}");
    stand.assert_no_leak_but(&[])
}

#[test]
fn a_leader_that_ends_gives_the_lease_back_and_the_other_leads_at_once() -> Outcome {
    let mut stand = Stand::applied(Options::default())?;
    stand.controller("two")?;
    stand.terminate("controller-one")?;
    stand.await_that("the other controller as holder", || {
        let lease = stand.api.get("leases.coordination.k8s.io", "egret-system", "egret-controller").unwrap_or_default();
        lease["spec"]["holderIdentity"] == "two"
    })
}

#[test]
fn agents_that_die_or_are_started_anew_let_no_packet_out_wrongly() -> Outcome {
    let mut stand = Stand::applied(Options::default())?;
    let hammers = [stand.lab.hammer("tiefighter", WAYS[0].0)?, stand.lab.hammer("tiefighter", WAYS[1].0)?];
    for node in ["kind-worker", "kind-worker2"] {
        stand.kill9(node)?;
        stand.await_granted("tiefighter")?;
        stand.agent(node)?;
        stand.await_granted("tiefighter")?;
    }
    for (hammer, (_, egress)) in hammers.into_iter().zip(WAYS) {
        let requests = hammer.stop();
        let other: Vec<_> = requests.iter().filter(|request| request.answer != Answer::Granted(egress)).collect();
        assert!(other.is_empty(), "of {}: {other:?}", requests.len());
    }
    stand.assert_no_leak_but(&[])
}

/// Adds or deletes an address of net1 on a node, as keepalived, kube-vip or Pacemaker do.
fn move_address(stand: &Stand, what: &str, address: IpAddr, node: &str) -> Outcome {
    let words = ["ip", "address", what, &format!("{address}/32"), "dev", "net1"];
    stand.lab.node(node)?.exec(words)?;
    // Who moves an address announces it, which `ip address add` does not.
    stand.lab.router().exec(["ip", "neigh", "flush", "dev", "br1"]).map(|_| ())
}

#[test]
fn a_named_address_is_followed_to_the_node_that_has_it() -> Outcome {
    let mut stand = Stand::up(Options { gateways: 2, ..Options::default() })?;
    let vip = IpAddr::from([10, 0, 3, 99]);
    stand.lab.outpost().allow([vip]);
    move_address(&stand, "add", vip, "kind-worker3")?;
    let text = policy("egress-gw: \"true\"").replace("interface: net1", "egressIP: 10.0.3.99");
    let text = text.replace(", \"fd00:10:4::/64\"", "");
    let labels = LABELS.replace("[kind-worker2]", "[kind-worker2, kind-worker3]");
    stand.push(&[("nodes/gateways.yaml", &labels), ("policies/outpost.yaml", &text)])?;
    stand.await_answer("tiefighter", OUTPOST, Answer::Granted(vip))?;
    stand.lab.forget()?;
    let gateway =
        |stand: &Stand| stand.object("publishedegresspolicies", "outpost")["status"]["gatewaySummary"].clone();
    stand.await_that("the second of both nodes as gateway", || gateway(&stand) == "kind-worker3")?;
    for (from, to) in [("kind-worker3", "kind-worker2"), ("kind-worker2", "kind-worker3")] {
        let begun = Instant::now();
        move_address(&stand, "del", vip, from)?;
        move_address(&stand, "add", vip, to)?;
        stand.await_answer("tiefighter", OUTPOST, Answer::Granted(vip))?;
        println!("measured: an address moved to another node to the first request let in: {:.1?}", begun.elapsed());
        stand.await_that("the policy's status", || gateway(&stand) == to)?;
    }
    // It comes to the other before this one has lost it: the last counts.
    move_address(&stand, "add", vip, "kind-worker2")?;
    stand.await_that("the gateway that took it over", || gateway(&stand) == "kind-worker2")?;
    move_address(&stand, "del", vip, "kind-worker3")?;
    stand.await_answer("tiefighter", OUTPOST, Answer::Granted(vip))?;
    // Whose agent is dead says what it said before.
    stand.kill9("kind-worker2")?;
    move_address(&stand, "del", vip, "kind-worker2")?;
    move_address(&stand, "add", vip, "kind-worker3")?;
    stand.await_answer("tiefighter", OUTPOST, Answer::Granted(vip))?;
    assert_eq!(stand.object("egressnodes", "kind-worker2")["status"]["holds"][0]["address"], "10.0.3.99");
    stand.assert_no_leak_but(&[vip])
}
