//! The outpost scenario and the label cases against an API server, with controller and agents under the chart's own service accounts.
//!
//! `make test-cluster` runs them against whatever KUBECONFIG names, also against a bare API server: without kubelets, a scheduler or
//! controllers. The same run against the double keeps the suite itself from rotting. Deliberately absent: an API server that misbehaves
//! (`incluster`).

mod account;
mod answers;
mod api;
mod chart;
mod host_network;
mod labels;
mod leaders;
mod relay;
mod rights;
mod rules;
mod startup;
mod suite;
mod trouble;
mod way;
mod writes;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use kube::config::Kubeconfig;
use serde_json::{Value, json};

use self::api::{Outcome, fault};
use self::suite::{Restart, Suite};
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
    ("whoever RBAC lets ask is answered by agents, and nobody else", answers::who_may),
    ("a startup taint goes when the node's agent is done, and no other", startup::taint),
    ("kubectl waits for the head", trouble::kubectl_waits),
    ("with nothing to do nobody writes", way::quiet),
    ("a push of one policy is written once, and told once by each node", writes::one_policy),
    ("a route that somebody deletes is put back, and told in an event", trouble::drift),
    ("a pod that starts is let in without any write", way::pod),
    ("labels come from Git, beside those of others", labels::from_git),
    ("a hand edit is corrected, and reported with who did it", labels::hand_edit),
    ("a label that leaves Git leaves the node", labels::removed),
    ("a node that is gone is not made anew", labels::gone),
    ("a fight over a label is given up", labels::fight),
    ("a policy that leaves Git leaves the nodes", way::removal),
    ("another leader takes over with a higher fence", leaders::failover),
    ("a write with a lower fence is refused", leaders::fence),
    ("an API server that restarts is outlived", trouble::restart),
    ("a webhook to the replica that does not lead reaches the one that does", trouble::webhook),
    ("an agent's token that lies about its leader stops nobody", trouble::liar),
    ("an installation anew is followed by agents of the former", trouble::reinstallation),
    ("agents take everything of theirs away", leaders::remove_agents),
    ("the controller leaves labels as they were, and no object", leaders::remove_controller),
    ("nobody missed a right, and no other node was touched", leaders::nobody_missed_a_right),
];

/// Every step, also after one that failed: what comes of the others says more than silence.
fn run(kubeconfig: Kubeconfig, restart: Option<Restart>) -> Outcome {
    let mut suite = Suite::up(kubeconfig, restart)?;
    let mut faults = Vec::new();
    for (number, (name, step)) in STEPS.iter().enumerate() {
        suite.log(&format!("{:2}/{} {name}", number + 1, STEPS.len()));
        let outcome = catch_unwind(AssertUnwindSafe(|| step(&mut suite)));
        let outcome = outcome.unwrap_or_else(|_| Err(fault("it panicked, with the message above")));
        if let Err(fault) = outcome {
            suite.log(&format!("      FAILED: {fault:?}"));
            faults.push(format!("{name}: {fault:?}"));
        }
    }
    suite.log("taking everything out");
    faults.extend(suite.down());
    suite.log(&if faults.is_empty() { "passed".to_owned() } else { format!("{} faults", faults.len()) });
    if faults.is_empty() { Ok(()) } else { Err(fault(faults.join("\n\n"))) }
}

/// The double with an admin, and a kubeconfig for them.
fn double() -> Outcome<(ApiServer, Kubeconfig)> {
    let api = ApiServer::local().map_err(fault)?;
    api.admin("admin", "the admin's token");
    let kubeconfig = Kubeconfig::from_yaml(&api.kubeconfig(Some("the admin's token"))).map_err(fault)?;
    Ok((api, kubeconfig))
}

/// What a suite could have left, by resource and name. The events' namespace and those that every cluster has stay.
fn left(api: &ApiServer) -> Vec<String> {
    let resources = [
        "nodes",
        "pods",
        "namespaces",
        "serviceaccounts",
        "events.events.k8s.io",
        "leases.coordination.k8s.io",
        "customresourcedefinitions.apiextensions.k8s.io",
        "clusterroles.rbac.authorization.k8s.io",
        "clusterrolebindings.rbac.authorization.k8s.io",
        "roles.rbac.authorization.k8s.io",
        "rolebindings.rbac.authorization.k8s.io",
        "validatingadmissionpolicies.admissionregistration.k8s.io",
        "validatingadmissionpolicybindings.admissionregistration.k8s.io",
    ];
    let named = |resource: &str, object: &Value| format!("{resource} {}", api::name(object));
    let all = resources.iter().flat_map(|resource| {
        let objects = api.list(resource).into_iter();
        objects.map(|object| named(resource, &object)).collect::<Vec<_>>()
    });
    let usual = ["default", "kube-node-lease", "kube-public", "kube-system"].map(|name| format!("namespaces {name}"));
    all.filter(|one| !usual.contains(one)).collect()
}

#[test]
fn the_scenario_holds_against_the_double_as_it_has_to_against_a_real_api_server() -> Outcome {
    let (api, kubeconfig) = double()?;
    let api = Arc::new(api);
    let restarted = Arc::clone(&api);
    let restart: Restart = Arc::new(move || {
        restarted.away();
        // A restarted server has no history: each watch is answered 410.
        restarted.compact();
        restarted.back();
        Ok(())
    });
    run(kubeconfig, Some(restart))?;
    assert_eq!(left(&api), Vec::<String>::new());
    rights::compare(&api.requests())
}

#[test]
fn a_cluster_in_which_egret_is_in_use_is_left_as_it_is() -> Outcome {
    let (api, kubeconfig) = double()?;
    let role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "egret-agent"},
        "rules": [{"apiGroups": [""], "resources": ["nodes"], "verbs": ["get"]}],
    });
    let role = api.create(&role);
    let refused = Suite::up(kubeconfig, None).err().map(|fault| fault.to_string()).unwrap_or_default();
    assert!(refused.contains("ClusterRole egret-agent is there already with other content"), "{refused}");
    assert_eq!(left(&api), ["clusterroles.rbac.authorization.k8s.io egret-agent"]);
    assert_eq!(api.get("clusterroles.rbac.authorization.k8s.io", "", "egret-agent"), Some(role));
    Ok(())
}

/// RESTART_API is a command that restarts the API server, and returns once it is on its way: `systemctl restart k3s`.
fn restart_by_command() -> Option<Restart> {
    let command = std::env::var("RESTART_API").ok().filter(|command| !command.is_empty())?;
    Some(Arc::new(move || {
        let status = std::process::Command::new("sh").arg("-c").arg(&command).status().map_err(fault)?;
        if status.success() { Ok(()) } else { Err(fault(format!("RESTART_API: `{command}` ended with {status}"))) }
    }))
}

#[test]
#[ignore = "needs an API server: `make test-cluster` with KUBECONFIG"]
fn the_scenario_holds_against_the_cluster_that_kubeconfig_names() -> Outcome {
    let named = std::env::var_os("KUBECONFIG").filter(|value| !value.is_empty());
    let why = "KUBECONFIG must name the cluster to test against, with an admin as its user; the suite makes nodes, namespaces, custom \
               resource definitions and rights in it, and takes them away again";
    named.ok_or_else(|| fault(why))?;
    let kubeconfig = Kubeconfig::from_env().map_err(|error| fault(format!("KUBECONFIG: {error}")))?;
    run(kubeconfig.ok_or_else(|| fault(why))?, restart_by_command())
}
