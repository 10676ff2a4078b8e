//! Leaders that come and go, their fence, and Egret's own end.
//!
//! Deliberately absent: a crash after every single write (`incluster`).

use std::time::Instant;

use serde_json::{Value, json};

use super::api::{APPLY, JSON, Outcome, fault, message};
use super::host_network::{self, CUSTOM};
use super::suite::Suite;

fn fence_of(suite: &Suite) -> Outcome<i64> {
    let head = suite.object("egressconfigs", "default")?;
    head["spec"]["fence"].as_i64().ok_or_else(|| fault(format!("a head without a fence: {head}")))
}

pub(super) fn failover(suite: &mut Suite) -> Outcome {
    suite.controller("two")?;
    let before = fence_of(suite)?;
    suite.kill9("controller-one")?;
    let begun = Instant::now();
    suite.push_scenario()?;
    suite.await_granted("tiefighter")?;
    suite.log(&format!("      measured: a leader killed, and a push active by the next: {:.2?}", begun.elapsed()));
    let after = fence_of(suite)?;
    if after <= before {
        return Err(fault(format!("the fence was {before} and is {after}")));
    }
    let lease = format!("/apis/coordination.k8s.io/v1/namespaces/{}/leases/egret-controller", suite.namespace());
    let lease = suite.api.get(&lease)?.unwrap_or_default();
    if lease["spec"]["holderIdentity"] != suite.identity("two") {
        return Err(fault(format!("the lease is held by {}", lease["spec"]["holderIdentity"])));
    }
    suite.await_own_way("xwing")
}

pub(super) fn fence(suite: &mut Suite) -> Outcome {
    let (_, controller) = suite.account("egret-controller", None)?;
    let words = "fence never goes back; a newer leader has written since, and this one must stop";
    for (plural, kind, name) in [
        ("egressconfigs", "EgressConfig", "default".to_owned()),
        ("publishedegresspolicies", "PublishedEgressPolicy", suite.named("outpost")),
    ] {
        let mut spec = suite.object(plural, &name)?["spec"].clone();
        spec["fence"] = json!(spec["fence"].as_i64().unwrap_or_default() - 1);
        let late = json!({"apiVersion": "egret.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec});
        let path = format!("{CUSTOM}/{plural}/{name}?fieldManager=egret-controller&force=true");
        let (code, answer) = controller.send("PATCH", &path, APPLY, &late)?;
        if code != 422 || !message(&answer).contains(words) {
            return Err(fault(format!("a lower fence in the {kind} was answered {code} {}", message(&answer))));
        }
    }
    Ok(())
}

pub(super) fn remove_agents(suite: &mut Suite) -> Outcome {
    suite.end("controller-five")?;
    for node in ["kind-worker", "kind-worker2"] {
        suite.end(node)?;
    }
    // What is active stays when processes end.
    suite.await_granted("tiefighter")?;
    suite.upgrade_to_remove()?;
    super::rules::leaving(suite)?;
    for node in ["kind-worker", "kind-worker2"] {
        suite.agent(node, &["--remove"])?;
        suite.await_good_end(node)?;
    }
    suite.await_own_way("tiefighter")?;
    let left = suite.api.list(&format!("{CUSTOM}/egressnodes"))?;
    if left.is_empty() { Ok(()) } else { Err(fault(format!("EgressNodes are left: {left:?}"))) }
}

/// An EgressNode whose agent cannot delete it any more.
pub(super) fn orphan(suite: &Suite, name: &str) -> Outcome {
    let name = suite.named(name);
    let object =
        json!({"apiVersion": "egret.dev/v1alpha1", "kind": "EgressNode", "metadata": {"name": name}, "spec": {}});
    suite.api.create(&format!("{CUSTOM}/egressnodes"), &object).map(|_| ())
}

pub(super) fn remove_controller(suite: &mut Suite) -> Outcome {
    orphan(suite, "crashed")?;
    suite.remove()?;
    let lease = format!("/apis/coordination.k8s.io/v1/namespaces/{}/leases/egret-controller", suite.namespace());
    if let Some(lease) = suite.api.get(&lease)? {
        return Err(fault(format!("the lease is left: {lease}")));
    }
    for plural in ["publishedegresspolicies", "egressconfigs", "egressnodes"] {
        let left = suite.api.list(&format!("{CUSTOM}/{plural}"))?;
        if !left.is_empty() {
            return Err(fault(format!("{plural} are left: {left:?}")));
        }
    }
    for node in ["kind-worker", "kind-worker2"] {
        let found = suite.node(node)?.unwrap_or_default();
        let mut expected = suite.labels_before.get(&suite.named(node)).cloned().unwrap_or_default();
        if node == "kind-worker2" {
            // What others wrote meanwhile is none of Egret's.
            expected[suite.named("theirs")] = json!("kept");
            expected[suite.named("extra")] = found["metadata"]["labels"][suite.named("extra")].clone();
        }
        if found["metadata"]["labels"] != expected || host_network::is_ours(&found) {
            return Err(fault(format!("{node} has labels {}, not {expected}", found["metadata"]["labels"])));
        }
        let mentioned = found["metadata"]["managedFields"].to_string().contains("\"egret");
        if mentioned {
            return Err(fault(format!("{node} has managedFields {}", found["metadata"]["managedFields"])));
        }
    }
    Ok(())
}

pub(super) fn nobody_missed_a_right(suite: &mut Suite) -> Outcome {
    let harmed = suite.harmed()?;
    if !harmed.is_empty() {
        return Err(fault(format!("nodes that are not the suite's bear Egret's labels: {harmed:?}")));
    }
    let (code, _) = suite.api.send("GET", "/api/v1/nodes?limit=1", JSON, &Value::Null)?;
    let refusals = suite.refusals()?;
    match (code, refusals.is_empty()) {
        (200, true) => Ok(()),
        _ => Err(fault(format!("refused for want of a right:\n{}", refusals.join("\n")))),
    }
}
