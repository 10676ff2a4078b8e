//! The startup taint of a node, taken off by the controller under the chart's rights.
//!
//! Deliberately absent: kubelets. Their word for the boot is said here.

use serde_json::{Value, json};

use super::api::{Outcome, fault};
use super::suite::Suite;

pub(super) const KEY: &str = "egret.dev/agent-not-ready";

pub(super) fn taint(suite: &mut Suite) -> Outcome {
    let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").map_err(fault)?.trim().to_owned();
    let path = format!("/api/v1/nodes/{}", suite.named("kind-worker"));
    let taints = || -> Outcome<Vec<Value>> {
        let node = suite.api.get(&path)?.unwrap_or_default();
        Ok(node["spec"]["taints"].as_array().cloned().unwrap_or_default())
    };
    // NoSchedule: where a controller evicts pods, these have no part in it.
    let mut tainted = taints()?;
    tainted.insert(0, json!({"key": KEY, "effect": "NoSchedule"}));
    suite.api.merge(&path, &json!({"spec": {"taints": tainted}}))?;
    let bears = |key: &str| Outcome::Ok(taints()?.iter().any(|taint| taint["key"] == key));
    let tell = |boot_id: &str| {
        suite.api.merge(&format!("{path}/status"), &json!({"status": {"nodeInfo": {"bootID": boot_id}}})).map(|_| ())
    };
    tell("11111111-2222-3333-4444-555555555555")?;
    suite.await_that("an agent that says which boot this is", || {
        Ok(suite.object("egressnodes", &suite.named("kind-worker"))?["status"]["bootID"] == *boot_id)
    })?;
    if !bears(KEY)? {
        return Err(fault("the taint went though the agent speaks of another boot"));
    }
    tell(&boot_id)?;
    suite.await_that("a node without the startup taint", || Ok(!bears(KEY)?))?;
    if !bears(super::chart::MARK)? {
        return Err(fault("another taint went with it"));
    }
    Ok(())
}
