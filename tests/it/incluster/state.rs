//! State folders of agents that fill up or are deleted: what is published is in the kernel, and it is told that a restart would not know all.
//!
//! Deliberately absent: a standalone node, and what is lost with its files (`outpost::state`).

use std::fs;

use super::stand::{LABELS, Outcome, Stand, policy};
use crate::disk::Disk;
use crate::lab::Options;

#[test]
fn an_agent_whose_disk_is_full_or_whose_folder_is_deleted_applies_what_is_published() -> Outcome {
    const FULL: &str = "kind-worker2";
    const DELETED: &str = "kind-worker";
    let mut stand = Stand::empty(Options::default())?;
    let disk = Disk::mount(&stand.state(FULL)?, "size=64k");
    stand.controller("one")?;
    for node in stand.nodes() {
        stand.agent(&node)?;
    }
    stand.push(&[("nodes/gateways.yaml", LABELS), ("policies/outpost.yaml", &policy("egress-gw: \"true\""))])?;
    stand.await_granted("tiefighter")?;
    let memory = |stand: &Stand, node: &str| Ok(stand.state(node)?.join(node).join("memory.json"));
    for node in [FULL, DELETED] {
        let path = memory(&stand, node)?;
        stand.await_that("a memory", || path.exists())?;
    }

    let filler = disk.fill();
    // Its agent may be writing there.
    let folder = stand.state(DELETED)?;
    stand.await_that("its folder deleted", || fs::remove_dir_all(&folder).is_ok())?;
    stand.push(&[("policies/outpost.yaml", &policy("egress-gw: \"true\"").replace("10.0.4.0/24", "10.0.4.0/25"))])?;
    let pushed = stand.lab.repository().in_clone(["rev-parse", "HEAD"])?.trim().to_owned();
    let ready = |stand: &Stand, node: &str| {
        stand.object("egressnodes", node)["status"]["revision"] == *pushed
            && stand.condition("egressnodes", node, "Ready") == ("True".to_owned(), "Programmed".to_owned())
    };
    let says = |stand: &Stand| {
        let findings = &stand.object("egressnodes", FULL)["status"]["report"]["findings"];
        findings.as_array().is_some_and(|all| all.iter().any(|one| one["code"] == "state-not-written"))
    };
    stand.await_that("both nodes ready", || [FULL, DELETED].iter().all(|node| ready(&stand, node)))?;
    stand.await_that("that it is told", || says(&stand))?;
    let remade = memory(&stand, DELETED)?;
    stand.await_that("a memory made anew", || remade.exists())?;
    let events = stand.api.list("events.events.k8s.io");
    let failed =
        |event: &serde_json::Value| event["reason"] == "ReconciliationFailed" || event["reason"] == "KernelRefused";
    assert!(!events.iter().any(failed), "{events:?}");
    let log = stand.log(FULL);
    for name in ["memory.json", "ways.json"] {
        assert!(log.matches(&format!("/{name}: No space left")).count() <= 1, "told once a file: {log}");
    }

    fs::remove_file(filler).expect("deleted");
    stand.await_that("that it is not told any more", || !says(&stand))?;
    assert!(ready(&stand, FULL));
    let text = fs::read_to_string(memory(&stand, FULL)?).expect("a memory");
    assert!(text.contains(&pushed), "{text}");
    Ok(())
}
