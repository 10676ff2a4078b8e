//! News that end, come in another order than they happened, are old, or never come.
//!
//! Deliberately absent: what nobody can tell from news, as a pod with the address of one that is gone while nobody hears of either.

use crate::apiserver::{Fault, Filter};
use crate::lab::Answer;

use super::super::stand::{Outcome, Stand};
use super::{HELD_BACK, Side};

const WATCHED: [&str; 6] = [
    "nodes",
    "namespaces",
    "pods",
    "publishedegresspolicies.egret.dev",
    "egressconfigs.egret.dev",
    "egressnodes.egret.dev",
];

#[test]
fn watches_that_end_are_cut_or_forgotten_lose_no_change() -> Outcome {
    let stand = Stand::at(Side::Second)?;
    let flow = stand.flow()?;
    let commit = stand.turn_to(Side::Third)?;
    stand.api.end_watches();
    stand.await_settled(Side::Third, &commit)?;
    let commit = stand.turn_to(Side::Second)?;
    stand.api.cut_connections();
    stand.await_settled(Side::Second, &commit)?;
    // Every watch is refused while the change happens, and when it is let in again nobody remembers from where.
    stand.api.fault_times(Filter::all().verb("watch"), Fault::Status(503), 22);
    stand.api.end_watches();
    let commit = stand.turn_to(Side::Third)?;
    stand.await_that("a new head", || stand.object("egressconfigs", "default")["spec"]["revision"] == *commit)?;
    stand.api.compact();
    stand.await_settled(Side::Third, &commit)?;
    stand.await_quiet()?;
    flow.end(&stand, &Side::BOTH);
    stand.assert_no_leak_but(&[])
}

#[test]
fn in_whatever_order_news_come_the_old_is_active_or_the_new_and_no_mixture() -> Outcome {
    let stand = Stand::at(Side::Second)?;
    let flow = stand.flow()?;
    let mut side = Side::Second;
    let some = [&WATCHED[0..1], &WATCHED[3..4], &WATCHED[4..5], &WATCHED[5..6], &WATCHED[3..6], &WATCHED[0..3]];
    for held in some {
        for resource in held {
            stand.api.hold(resource);
        }
        let commit = stand.turn_to(side.other())?;
        stand.await_that("a new head", || stand.object("egressconfigs", "default")["spec"]["revision"] == *commit)?;
        side = side.other();
        stand.assert_through(&Side::BOTH)?;
        for resource in held {
            stand.api.release(resource);
        }
        stand.await_settled(side, &commit)?;
    }
    flow.end(&stand, &Side::BOTH);
    stand.assert_no_leak_but(&[])
}

#[test]
fn lists_from_the_past_let_no_packet_out_wrongly_and_are_caught_up_with() -> Outcome {
    let stand = Stand::at(Side::Second)?;
    let past = stand.api.version();
    let commit = stand.turn_to(Side::Third)?;
    stand.await_settled(Side::Third, &commit)?;
    stand.lab.add_pod("scout", "kind-worker", &[("org", "empire")])?;
    stand.announce(&["pods.yaml"]);
    for (outpost, egress) in Side::Third.ways() {
        stand.await_answer("scout", outpost, Answer::Granted(egress))?;
    }
    // Everybody has to list anew, gets what was, and is told of nothing since.
    for resource in WATCHED {
        stand.api.stale(resource, past);
    }
    let gone = stand.api.fault_times(Filter::all().verb("watch"), Fault::Status(410), 22);
    let refused = stand.api.fault(Filter::all().verb("watch"), Fault::Status(503));
    stand.api.end_watches();
    stand
        .await_that("everybody in the past", || stand.api.met(gone) == Some(22) && stand.api.met(refused) > Some(21))?;
    stand.lab.add_pod("rebel", "kind-worker", &[("org", "empire")])?;
    stand.announce(&["pods.yaml"]);
    for (outpost, _) in Side::Third.ways() {
        assert_eq!(stand.lab.ask_within("rebel", outpost, HELD_BACK)?, Answer::NoAnswer);
        stand.lab.ask_within("scout", outpost, HELD_BACK)?;
        stand.lab.ask_within("tiefighter", outpost, HELD_BACK)?;
    }
    for resource in WATCHED {
        stand.api.fresh(resource);
    }
    stand.api.clear_faults();
    stand.await_settled(Side::Third, &commit)?;
    for (outpost, egress) in Side::Third.ways() {
        stand.await_answer("scout", outpost, Answer::Granted(egress))?;
        stand.await_answer("rebel", outpost, Answer::Granted(egress))?;
    }
    stand.assert_no_leak_but(&[])
}

#[test]
fn an_end_that_was_missed_is_known_when_all_is_listed_again() -> Outcome {
    let stand = Stand::at(Side::Second)?;
    let addresses = stand.lab.add_pod("scout", "kind-worker", &[("org", "empire")])?;
    stand.announce(&["pods.yaml"]);
    for (outpost, egress) in Side::Second.ways() {
        stand.await_answer("scout", outpost, Answer::Granted(egress))?;
    }
    let refused = stand.api.fault(Filter::all().verb("watch").resource("pods"), Fault::Status(503));
    stand.api.end_watches();
    stand.await_that("agents that hear of no pod", || stand.api.met(refused) > Some(2))?;
    // The first free addresses are the former's.
    stand.lab.remove_pod("scout")?;
    assert_eq!(stand.lab.add_pod("rebel", "kind-worker", &[("org", "alliance")])?, addresses);
    stand.announce(&["pods.yaml"]);
    stand.api.compact();
    stand.api.clear(refused);
    stand.await_own_way("rebel")?;
    stand.assert_through(&[Side::Second])?;
    stand.assert_no_leak_but(&addresses)
}
