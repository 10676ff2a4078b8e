//! Writes that were done and whose answer was lost.
//!
//! Deliberately absent: writes that were not done, which the next pass makes (`away`).

use crate::apiserver::{Fault, FaultId, Filter};

use super::super::stand::{Outcome, Stand};
use super::Side;

/// Every kind of write there is, with who makes it.
const WRITES: [(&str, &str); 8] = [
    ("patch", "nodes"),
    ("patch", "publishedegresspolicies.egret.dev/"),
    ("patch", "publishedegresspolicies.egret.dev/status"),
    ("patch", "egressconfigs.egret.dev/"),
    ("patch", "egressconfigs.egret.dev/status"),
    ("patch", "egressnodes.egret.dev/"),
    ("patch", "egressnodes.egret.dev/status"),
    ("update", "leases"),
];

#[test]
fn a_write_whose_answer_is_lost_is_made_again_and_does_no_harm() -> Outcome {
    let stand = Stand::at(Side::Second)?;
    let flow = stand.flow()?;
    let lose = |(verb, resource): (&str, &str)| {
        stand.api.fault_times(Filter::writes().verb(verb).resource(resource), Fault::LoseAnswer, 1)
    };
    let lost: Vec<FaultId> = WRITES.into_iter().map(lose).collect();
    let commit = stand.turn_to(Side::Third)?;
    stand.await_settled(Side::Third, &commit)?;
    stand
        .await_that("the loss of every kind of answer", || lost.iter().all(|fault| stand.api.met(*fault) == Some(1)))?;
    stand.await_settled(Side::Third, &commit)?;
    let deleted = lose(("delete", "publishedegresspolicies"));
    flow.end(&stand, &Side::BOTH);
    stand.lab.repository().remove("policies/outpost.yaml")?;
    stand.lab.repository().push("no more policy")?;
    stand.await_own_way("tiefighter")?;
    assert_eq!(stand.api.met(deleted), Some(1));
    let own = stand.lab.pod_addresses("tiefighter")?;
    stand.assert_no_leak_but(&own)?;
    stand.await_that("no policy in the head", || {
        stand.object("egressconfigs", "default")["spec"]["policies"]["count"] == 0
            && stand.object("egressconfigs", "default")["status"]["nodeSummary"] == "3/3"
    })?;
    stand.await_quiet()?;
    Ok(())
}
