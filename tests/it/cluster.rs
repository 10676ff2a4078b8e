//! The outpost scenario and the label cases against an API server, with controller and agents under the chart's own service accounts.
//!
//! `make test-cluster` runs them against whatever KUBECONFIG names, also against a bare API server: without kubelets, a scheduler or
//! controllers. The same run against the double keeps the suite itself from rotting. Deliberately absent: an API server that misbehaves
//! (`incluster`).

mod account;
mod api;
mod chart;
mod ground;
mod labels;
mod leaders;
mod relay;
mod rules;
mod suite;
mod way;

use std::panic::{AssertUnwindSafe, catch_unwind};

use kube::config::Kubeconfig;

use self::api::{Outcome, fault};
use self::suite::Suite;
use crate::apiserver::ApiServer;

/// One thing to see.
type Step = fn(&mut Suite) -> Outcome;

/// What is done, in this order: each step begins with what the one before left.
const STEPS: &[(&str, Step)] = &[
    ("the definitions refuse what is wrong, in our words", rules::definitions),
    ("agents write their own node's object alone", rules::agents),
    ("the controller changes labels of nodes and nothing else", rules::controllers),
    ("controller and agents start, and everybody goes their own way", way::start),
    ("a push lets the empire in, and nobody else", way::push),
    ("the custom resources say so", way::statuses),
    ("with nothing to do nobody writes", way::quiet),
    ("a pod that starts is let in without any write", way::pod),
    ("labels come from Git, beside those of others", labels::from_git),
    ("a hand edit is put right, and reported with who did it", labels::hand_edit),
    ("a label that leaves Git leaves the node", labels::removed),
    ("a node that is gone is not made anew", labels::gone),
    ("a fight over a label is given up", labels::fight),
    ("a policy that leaves Git leaves the nodes", way::removal),
    ("another leader takes over with a higher fence", leaders::failover),
    ("a write with a lower fence is refused", leaders::fence),
    ("agents take everything of theirs away", leaders::remove_agents),
    ("the controller leaves labels as they were, and no object", leaders::remove_controller),
    ("nobody missed a right, and no other node was touched", leaders::nobody_missed_a_right),
];

/// Every step, also after one that failed: what comes of the others says more than silence.
fn run(kubeconfig: Kubeconfig) -> Outcome {
    let mut suite = Suite::up(kubeconfig)?;
    let mut faults = Vec::new();
    for (number, (name, step)) in STEPS.iter().enumerate() {
        suite.say(&format!("{:2}/{} {name}", number + 1, STEPS.len()));
        let outcome = catch_unwind(AssertUnwindSafe(|| step(&mut suite)));
        let outcome = outcome.unwrap_or_else(|_| Err(fault("it panicked, with the message above")));
        if let Err(fault) = outcome {
            suite.say(&format!("      FAILED: {fault:?}"));
            faults.push(format!("{name}: {fault:?}"));
        }
    }
    suite.say("taking everything out");
    faults.extend(suite.down());
    suite.say(&if faults.is_empty() { "passed".to_owned() } else { format!("{} faults", faults.len()) });
    if faults.is_empty() { Ok(()) } else { Err(fault(faults.join("\n\n"))) }
}

#[test]
fn the_scenario_holds_against_the_double_as_it_has_to_against_a_real_api_server() -> Outcome {
    let api = ApiServer::local().map_err(fault)?;
    api.admin("admin", "the admin's token");
    run(Kubeconfig::from_yaml(&api.kubeconfig(Some("the admin's token"))).map_err(fault)?)
}

#[test]
#[ignore = "needs an API server: `make test-cluster` with KUBECONFIG"]
fn the_scenario_holds_against_the_cluster_that_kubeconfig_names() -> Outcome {
    let named = std::env::var_os("KUBECONFIG").filter(|value| !value.is_empty());
    let why = "KUBECONFIG must name the cluster to test against, with an admin as its user; the suite makes nodes, namespaces, custom \
               resource definitions and rights in it, and takes them away again";
    named.ok_or_else(|| fault(why))?;
    let kubeconfig = Kubeconfig::from_env().map_err(|error| fault(format!("KUBECONFIG: {error}")))?;
    run(kubeconfig.ok_or_else(|| fault(why))?)
}
