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
    let before = suite.api.get(&path)?.unwrap_or_default()["spec"]["taints"].clone();
    let others = before.as_array().cloned().unwrap_or_default();
    if others.is_empty() {
        return Err(fault("the suite's node bears no taint of somebody else's"));
    }
    // NoSchedule: where there is somebody to evict pods, these have no part in it.
    let own = json!({"key": KEY, "effect": "NoSchedule"});
    let tainted: Vec<&Value> = [&own].into_iter().chain(&others).collect();
    suite.api.merge(&path, &json!({"spec": {"taints": tainted}}))?;
    let tell = |boot_id: &str| {
        suite.api.merge(&format!("{path}/status"), &json!({"status": {"nodeInfo": {"bootID": boot_id}}})).map(|_| ())
    };
    tell("11111111-2222-3333-4444-555555555555")?;
    suite.await_that("an agent that says which boot this is", || {
        Ok(suite.object("egressnodes", &suite.named("kind-worker"))?["status"]["bootID"] == *boot_id)
    })?;
    let taints = || Outcome::Ok(suite.api.get(&path)?.unwrap_or_default()["spec"]["taints"].clone());
    if taints()? == before {
        return Err(fault("the taint went though the agent speaks of another boot"));
    }
    tell(&boot_id)?;
    suite.await_that("a node with the taints of others", || Ok(taints()? == before))
}
