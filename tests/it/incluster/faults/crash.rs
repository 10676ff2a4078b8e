//! Processes that die: after every single write, and at moments that nobody chose.
//!
//! Deliberately absent: death within a change of the kernel, which the standalone node's tests have (`outpost::crashes`).

use std::time::Duration;

use crate::apiserver::{Fault, FaultId, Filter};
use crate::lab::wait_until;

use super::super::stand::{Outcome, Stand};
use super::{Side, controllers_writes};

/// A status that is still to be written is written within this time.
const LAST_STATUS: Duration = Duration::from_secs(5);

impl Stand {
    /// Lets so many of these writes through; the one after them is made, and no answer to it or to a later one comes.
    fn last_write(&self, filter: &Filter, before: usize) -> FaultId {
        self.api.fault_times(filter.clone(), Fault::Delay(Duration::ZERO), before);
        self.api.fault(filter.clone(), Fault::HangAnswer)
    }
}

#[test]
fn a_controller_that_dies_after_any_write_of_a_publication_leaves_old_or_new_and_its_next_self_goes_on() -> Outcome {
    let mut stand = Stand::at(Side::Second)?;
    let (mut side, mut number) = (Side::Second, 0);
    let flow = stand.flow()?;
    loop {
        let last = stand.last_write(&controllers_writes(), number);
        let commit = stand.turn_to(side.other())?;
        side = side.other();
        let is_met = || stand.api.met(last) > Some(0);
        stand.await_that("the write after which it dies, or the end of all writes", || {
            is_met() || stand.is_settled(side, &commit)
        })?;
        // All may be settled before the last status is written.
        let met = wait_until(LAST_STATUS, is_met);
        stand.assert_through(&Side::BOTH)?;
        stand.kill9("controller-one")?;
        stand.api.clear_faults();
        stand.controller("one")?;
        stand.await_settled(side, &commit)?;
        if !met {
            break;
        }
        number += 1;
    }
    println!("measured: writes of a publication: {number}");
    assert!(number >= 6, "{number} writes: labels of two nodes, a policy, the head, two statuses");
    flow.end(&stand, &Side::BOTH);
    stand.assert_no_leak_but(&[])
}

#[test]
fn an_agent_that_dies_after_any_of_its_writes_leaves_the_packets_their_way() -> Outcome {
    let mut stand = Stand::at(Side::Second)?;
    let mut side = Side::Second;
    let flow = stand.flow()?;
    for node in stand.nodes() {
        for number in 0..2 {
            let last = stand.last_write(&Filter::writes().resource("egressnodes").name(&node), number);
            let commit = stand.turn_to(side.other())?;
            side = side.other();
            // What it waits for in between is told or not, as it is quick: there may be only one.
            stand.await_that("the write after which it dies, or the end of all writes", || {
                stand.api.met(last) > Some(0) || (number > 0 && stand.is_settled(side, &commit))
            })?;
            stand.assert_through(&Side::BOTH)?;
            stand.kill9(&node)?;
            stand.api.clear_faults();
            stand.agent(&node)?;
            stand.await_settled(side, &commit)?;
        }
    }
    flow.end(&stand, &Side::BOTH);
    stand.assert_no_leak_but(&[])
}

#[test]
fn agents_and_controller_that_die_at_any_moment_of_a_move_leave_the_packets_their_way() -> Outcome {
    let mut stand = Stand::at(Side::Second)?;
    let mut side = Side::Second;
    // Whoever dies within a change of the kernel leaves connections that have begun on the way half made; packets are lost, none leaks.
    let victims = ["kind-worker", "controller-one", "kind-worker3", "kind-worker2"];
    for (number, victim) in victims.into_iter().cycle().take(12).enumerate() {
        let moment = Duration::from_millis([3, 41, 87, 20, 130, 62][number % 6] + 7 * number as u64);
        let commit = stand.turn_to(side.other())?;
        side = side.other();
        // Any moment will do, and each is another.
        std::thread::sleep(moment);
        stand.kill9(victim)?;
        stand.lab.ask("tiefighter", side.ways()[0].0)?;
        match victim.strip_prefix("controller-") {
            Some(identity) => stand.controller(identity)?,
            None => stand.agent(victim)?,
        }
        stand.await_settled(side, &commit)?;
    }
    stand.assert_no_leak_but(&[])
}
