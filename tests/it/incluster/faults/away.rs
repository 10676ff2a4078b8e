//! An API server that is away, hangs, refuses, or drops what it was told.
//!
//! Deliberately absent: single writes that fail (`answers`), and Git (`leaders`).

use std::time::Instant;

use crate::apiserver::{Fault, Filter};
use crate::lab::{Answer, OUTPOST, OUTPOST6};

use super::super::stand::{Outcome, Stand};
use super::{HELD_BACK, Side};

const WORKER: &str = "kind-worker";

#[test]
fn while_the_server_is_away_packets_flow_drift_is_repaired_and_new_pods_wait() -> Outcome {
    let mut stand = Stand::at(Side::Second)?;
    stand.api.away();
    let commit = stand.turn_to(Side::Third)?;
    let worker = stand.lab.node(WORKER)?;
    worker.exec(["ip", "rule", "del", "priority", "501"])?;
    stand.await_that("the rule again that somebody deleted", || {
        worker.exec(["ip", "rule", "show", "priority", "501"]).is_ok_and(|rules| !rules.trim().is_empty())
    })?;
    // Until it is back packets are lost; from here on none is.
    let flow = stand.flow()?;
    // Whoever is started anew knows nothing, and leaves everything as it is.
    for name in ["kind-worker2", "controller-one"] {
        stand.kill9(name)?;
    }
    stand.agent("kind-worker2")?;
    stand.controller("one")?;
    stand.lab.add_pod("scout", WORKER, &[("org", "empire")])?;
    stand.announce(&["pods.yaml"]);
    for outpost in [OUTPOST, OUTPOST6] {
        let answer = stand.lab.ask_within("scout", outpost, HELD_BACK)?;
        assert_eq!(answer, Answer::NoAnswer, "nobody knows yet what it is");
    }
    stand.assert_through(&[Side::Second])?;
    stand.api.back();
    let began = Instant::now();
    stand.await_settled(Side::Third, &commit)?;
    println!("measured: the server is back, to all settled: {:.1?}", began.elapsed());
    for (outpost, egress) in Side::Third.ways() {
        stand.await_answer("scout", outpost, Answer::Granted(egress))?;
    }
    let corrected = stand.object("egressnodes", WORKER)["status"]["report"]["corrected"].clone();
    assert!(corrected.to_string().contains("501: from all"), "what happened meanwhile is told: {corrected}");
    stand.await_quiet()?;
    flow.end(&stand, &Side::BOTH);
    stand.assert_no_leak_but(&[])
}

#[test]
fn a_server_that_refuses_hangs_or_drops_is_outlived() -> Outcome {
    let stand = Stand::at(Side::Second)?;
    let faults = [
        Fault::Status(429),
        Fault::TooManyRequests(1),
        Fault::Status(500),
        Fault::Status(503),
        Fault::Hang,
        Fault::Drop,
    ];
    let mut side = Side::Second;
    for fault in faults {
        let set = stand.api.fault(Filter::all(), fault.clone());
        stand.api.cut_connections();
        let commit = stand.turn_to(side.other())?;
        // Three agents with six watches each, and the controller with four and a lease.
        stand.await_that(&format!("everybody to have met {fault:?}"), || stand.api.met(set) > Some(22))?;
        stand.assert_through(&[side])?;
        stand.api.clear(set);
        side = side.other();
        stand.await_settled(side, &commit)?;
    }
    stand.assert_no_leak_but(&[])
}
