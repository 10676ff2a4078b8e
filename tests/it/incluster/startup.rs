//! The startup taint: on a node until its agent has what is published in the kernel, since this boot of the node.
//!
//! Deliberately absent: that pods stay away while it is there, which is Kubernetes' to see to.

use serde_json::{Value, json};

use super::stand::{LABELS, Outcome, Stand, policy};
use crate::apiserver::{Fault, Filter};
use crate::lab::Options;

const KEY: &str = "egret.dev/agent-not-ready";

fn ours() -> Value {
    json!({"key": KEY, "effect": "NoExecute"})
}

fn theirs(key: &str) -> Value {
    json!({"key": key, "value": "gpu", "effect": "NoSchedule"})
}

fn set(stand: &Stand, node: &str, taints: &Value) {
    stand.api.patch("nodes", "", node, &json!({"spec": {"taints": taints}}));
}

fn taints(stand: &Stand, node: &str) -> Value {
    stand.api.get("nodes", "", node).unwrap_or_default()["spec"]["taints"].clone()
}

fn bears(stand: &Stand, node: &str) -> bool {
    taints(stand, node).as_array().into_iter().flatten().any(|taint| taint["key"] == KEY)
}

/// What a kubelet tells of its node.
fn boots(stand: &Stand, node: &str, boot_id: &str) {
    stand.api.patch("nodes", "", node, &json!({"status": {"nodeInfo": {"bootID": boot_id}}}));
}

/// This machine's, which the agents of a lab read.
fn this_boot() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").expect("a boot id").trim().to_owned()
}

/// Writes to a node's object itself.
fn writes(stand: &Stand, node: &str) -> usize {
    stand.api.writes(&Filter::writes().resource("nodes").name(node))
}

fn is_active(stand: &Stand, node: &str) -> bool {
    let said = stand.object("egressnodes", node);
    let head = stand.object("egressconfigs", "default");
    let same = said["status"]["revision"] == head["spec"]["revision"] && said["status"]["bootID"] == *this_boot();
    same && stand.condition("egressnodes", node, "Ready").0 == "True"
}

/// The controller takes a taint off, which is a pass of it over everything that was known before.
fn await_a_pass(stand: &Stand, node: &str) -> Outcome {
    set(stand, node, &json!([theirs("dedicated"), ours()]));
    stand.await_that("a pass of the controller's", || !bears(stand, node))
}

#[test]
fn a_node_keeps_its_startup_taint_until_its_agent_has_what_is_published_since_this_boot() -> Outcome {
    let mut stand = Stand::empty(Options::default())?;
    for node in ["kind-worker", "kind-worker2"] {
        set(&stand, node, &json!([theirs("dedicated"), ours(), theirs("other")]));
        boots(&stand, node, &this_boot());
    }
    // A kubelet that told of a boot of which this agent is not.
    boots(&stand, "kind-worker2", "11111111-2222-3333-4444-555555555555");
    stand.controller("one")?;
    stand.push(&[("nodes/gateways.yaml", LABELS), ("policies/outpost.yaml", &policy("egress-gw: \"true\""))])?;
    stand.await_that("a head and what is said of it", || {
        stand.object("egressconfigs", "default")["status"]["nodeSummary"].is_string()
    })?;
    assert!(bears(&stand, "kind-worker") && bears(&stand, "kind-worker2"), "no agent has said anything");
    for node in stand.nodes() {
        stand.agent(&node)?;
    }
    stand.await_that("a node free of it", || !bears(&stand, "kind-worker"))?;
    assert!(is_active(&stand, "kind-worker"), "{}", stand.object("egressnodes", "kind-worker"));
    assert_eq!(taints(&stand, "kind-worker"), json!([theirs("dedicated"), theirs("other")]));
    assert_eq!(writes(&stand, "kind-worker"), 1);

    stand.await_that("the other active one", || is_active(&stand, "kind-worker2"))?;
    await_a_pass(&stand, "kind-worker")?;
    assert!(bears(&stand, "kind-worker2"), "its agent speaks of another boot");
    boots(&stand, "kind-worker2", &this_boot());
    stand.await_that("the other node free of it", || !bears(&stand, "kind-worker2"))?;

    // With nothing to take off nothing is written.
    let before = writes(&stand, "kind-worker2");
    boots(&stand, "kind-worker2", "again");
    boots(&stand, "kind-worker2", &this_boot());
    await_a_pass(&stand, "kind-worker")?;
    assert_eq!(writes(&stand, "kind-worker2"), before);
    Ok(())
}

#[test]
fn what_others_do_to_a_nodes_taints_meanwhile_is_kept() -> Outcome {
    let stand = Stand::applied(Options::default())?;
    boots(&stand, "kind-worker", &this_boot());
    stand.await_that("all of it active", || is_active(&stand, "kind-worker"))?;
    // What the controller read is old before it writes.
    let read = Filter::all().verb("get").resource("nodes").name("kind-worker");
    let hanging = stand.api.fault_times(read, Fault::HangAnswer, 1);
    set(&stand, "kind-worker", &json!([ours(), theirs("dedicated")]));
    stand.await_that("a controller that has read", || stand.api.met(hanging) == Some(1))?;
    set(&stand, "kind-worker", &json!([theirs("urgent"), ours(), theirs("dedicated")]));
    stand.api.clear(hanging);
    stand.await_that("a node free of it", || !bears(&stand, "kind-worker"))?;
    assert_eq!(taints(&stand, "kind-worker"), json!([theirs("urgent"), theirs("dedicated")]));
    assert_eq!(writes(&stand, "kind-worker"), 1);
    Ok(())
}

#[test]
fn a_taint_that_cannot_be_taken_off_at_once_is_taken_off_later_and_holds_up_nothing() -> Outcome {
    let stand = Stand::applied(Options::default())?;
    boots(&stand, "kind-worker", &this_boot());
    stand.await_that("all of it active", || is_active(&stand, "kind-worker"))?;
    let write = Filter::all().verb("patch").resource("nodes").name("kind-worker");
    let refusing = stand.api.fault(write, Fault::Status(503));
    set(&stand, "kind-worker", &json!([ours()]));
    stand.await_that("a refusal", || stand.api.met(refusing) >= Some(1))?;
    stand.lab.repository().remove("policies/outpost.yaml")?;
    stand.lab.repository().push("nothing steered any more")?;
    stand.await_own_way("tiefighter")?;
    assert!(bears(&stand, "kind-worker"));
    stand.api.clear(refusing);
    stand.await_that("a node free of it", || !bears(&stand, "kind-worker"))
}
