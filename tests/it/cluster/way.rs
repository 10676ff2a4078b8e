//! The outpost scenario: from a push to packets, and back.
//!
//! Deliberately absent: labels (`labels`), and who leads (`leaders`).

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::api::{Outcome, fault, name};
use super::host_network;
use super::suite::Suite;
use crate::lab::Pod;

pub(super) fn start(suite: &mut Suite) -> Outcome {
    for node in ["kind-worker", "kind-worker2"] {
        suite.agent(node, &["--listen", super::answers::LISTEN])?;
    }
    for node in ["kind-worker", "kind-worker2"] {
        suite.process(node).wait_for("egret runs", super::suite::DEADLINE)?;
    }
    suite.controller("one")?;
    suite.await_own_way("tiefighter")?;
    suite.await_own_way("xwing")
}

pub(super) fn push(suite: &mut Suite) -> Outcome {
    let begun = Instant::now();
    suite.push_scenario()?;
    suite.await_granted("tiefighter")?;
    suite.log(&format!("      measured: push to both families let in: {:.2?}", begun.elapsed()));
    suite.await_own_way("xwing")
}

/// Status and reason of a condition.
pub(super) fn condition(object: &Value, kind: &str) -> (String, String) {
    let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let found = conditions.into_iter().find(|condition| condition["type"] == kind).unwrap_or_default();
    let text = |field: &str| found[field].as_str().unwrap_or_default().to_owned();
    (text("status"), text("reason"))
}

pub(super) fn statuses(suite: &mut Suite) -> Outcome {
    let outpost = suite.named("outpost");
    let ready = ("True".to_owned(), "Programmed".to_owned());
    suite.await_that("a policy that says it is active, through which gateway and as which addresses", || {
        let policy = suite.object("publishedegresspolicies", &outpost)?;
        let status = &policy["status"];
        Ok(condition(&policy, "Ready") == ready
            && status["gatewaySummary"] == suite.named("kind-worker2")
            && status["egressIPSummary"] == "10.0.3.42, fd00:10:3::42")
    })?;
    let all = suite.api.list("/api/v1/nodes")?.len();
    suite.await_that("a head that counts our two nodes among all", || {
        let head = suite.object("egressconfigs", "default")?;
        let summary = format!("2/{all}");
        Ok(head["status"]["nodeSummary"] == *summary && head["spec"]["cluster"] == *suite.prefix)
    })?;
    for node in ["kind-worker", "kind-worker2"] {
        suite.await_that(&format!("an EgressNode {node} that is active"), || {
            let object = suite.object("egressnodes", &suite.named(node))?;
            let owner = &object["metadata"]["ownerReferences"][0];
            Ok(condition(&object, "Ready") == ready && owner["name"] == suite.named(node))
        })?;
    }
    super::leaders::orphan(suite, "gone")?;
    suite.await_that("an EgressNode that goes, because its Node is gone", || {
        Ok(suite.object("egressnodes", &suite.named("gone"))?.is_null())
    })?;
    let source = suite.object("egressnodes", &suite.named("kind-worker"))?;
    match (&source["status"]["members"], &source["status"]["drift"]) {
        (members, drift) if *members == 1 && *drift == 0 => Ok(()),
        (members, drift) => Err(fault(format!("{members} members and {drift} drift on the source, not 1 and 0"))),
    }
}

/// What agents and the controller have written, but for the lease: versions of objects, and how many events.
fn written(suite: &Suite) -> Outcome<BTreeMap<String, String>> {
    let mut versions = BTreeMap::new();
    for plural in ["egressconfigs", "publishedegresspolicies", "egressnodes"] {
        for object in suite.api.list(&format!("{}/{plural}", host_network::CUSTOM))? {
            let version = object["metadata"]["resourceVersion"].as_str().unwrap_or_default();
            versions.insert(format!("{plural}/{}", name(&object)), version.to_owned());
        }
    }
    for event in suite.api.list("/apis/events.k8s.io/v1/namespaces/default/events")? {
        let by = event["reportingController"].as_str().unwrap_or_default();
        let about = event["regarding"]["name"].as_str().unwrap_or_default();
        if by.starts_with("egret.dev/") && (about.starts_with(&suite.prefix) || about == "default") {
            let version = event["metadata"]["resourceVersion"].as_str().unwrap_or_default();
            versions.insert(format!("event {}", name(&event)), version.to_owned());
        }
    }
    Ok(versions)
}

/// Waits until nothing was written for two seconds.
pub(super) fn settle(suite: &Suite) -> Outcome<BTreeMap<String, String>> {
    let (mut last, mut since) = (written(suite)?, Instant::now());
    suite.await_that("two seconds without a write", || {
        let now = written(suite)?;
        if now != last {
            (last, since) = (now, Instant::now());
        }
        Ok(since.elapsed() > Duration::from_secs(2))
    })?;
    Ok(last)
}

fn unchanged(suite: &Suite, before: &BTreeMap<String, String>) -> Outcome {
    let after = written(suite)?;
    let changed: Vec<&String> = after.keys().filter(|key| before.get(*key) != after.get(*key)).collect();
    if changed.is_empty() && before.len() == after.len() {
        return Ok(());
    }
    Err(fault(format!("somebody wrote {changed:?}")))
}

pub(super) fn quiet(suite: &mut Suite) -> Outcome {
    let before = settle(suite)?;
    // That nothing comes is seen by waiting alone.
    std::thread::sleep(Duration::from_secs(5));
    unchanged(suite, &before)
}

pub(super) fn pod(suite: &mut Suite) -> Outcome {
    let before = settle(suite)?;
    let pod = Pod::new("interceptor", "kind-worker", 51, &[("org", "empire")]);
    suite.lab.wire_pod(pod.clone())?;
    // Nobody knows yet whose packets these are: they are held back, so that none leaks.
    suite.await_held_back("interceptor")?;
    let begun = Instant::now();
    host_network::make_pod(&suite.api, &suite.prefix, &pod, &suite.lab)?;
    suite.await_granted_soon("interceptor")?;
    suite.log(&format!("      measured: a pod's object to both families let in: {:.2?}", begun.elapsed()));
    // Later than any write that would come of it at once.
    std::thread::sleep(Duration::from_secs(3));
    unchanged(suite, &before)?;
    suite.api.delete(&format!("/api/v1/namespaces/{}/pods/interceptor", suite.named("batuu")))?;
    suite.await_held_back("interceptor")?;
    suite.lab.remove_pod("interceptor")
}

pub(super) fn removal(suite: &mut Suite) -> Outcome {
    suite.lab.repository().remove("policies/outpost.yaml")?;
    suite.push(&[])?;
    suite.await_own_way("tiefighter")?;
    suite.await_that("no policy in the cluster", || {
        Ok(suite.api.list(&format!("{}/publishedegresspolicies", host_network::CUSTOM))?.is_empty())
    })
}
