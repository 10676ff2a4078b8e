//! Labels of nodes: from Git, corrected, given back, and never fought for without end.
//!
//! Deliberately absent: the decisions one by one (`core::labelling`).

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::api::{APPLY, Outcome, fault, message};
use super::suite::{PAUSE, Suite};
use crate::lab::wait_until_every;

const EVENTS: &str = "/apis/events.k8s.io/v1/namespaces/default/events";
const FILE: &str = "nodes/more.yaml";

/// A label as it stands on the gateway.
fn label(suite: &Suite, label: &str) -> Outcome<Value> {
    let node = suite.node("kind-worker2")?.unwrap_or_default();
    Ok(node["metadata"]["labels"][suite.named(label)].clone())
}

fn await_label(suite: &Suite, key: &str, value: &Value) -> Outcome {
    suite.await_that(&format!("{value} as label {key}"), || Ok(label(suite, key)? == *value))
}

/// A label written as `kubectl label --overwrite` does.
fn by_hand(suite: &Suite, node: &str, label: &str, value: &str) -> Outcome {
    let path = format!("/api/v1/nodes/{}?fieldManager=kubectl-label", suite.named(node));
    suite.api.merge(&path, &json!({"metadata": {"labels": {suite.named(label): value}}})).map(|_| ())
}

fn push(suite: &Suite, labels: &[(&str, &str)]) -> Outcome {
    suite.push(&[(FILE, &suite.labels_document("more", &["kind-worker2", "ghost"], labels))])
}

/// An event about the gateway with this reason and these words.
fn await_event(suite: &Suite, reason: &str, words: &[&str]) -> Outcome {
    suite.await_that(&format!("an event {reason} with {words:?}"), || {
        let events = suite.api.list(EVENTS)?;
        Ok(events.iter().any(|event| {
            let note = event["note"].as_str().unwrap_or_default();
            event["regarding"]["name"] == suite.named("kind-worker2")
                && event["reason"] == reason
                && words.iter().all(|word| note.contains(word))
        }))
    })
}

pub(super) fn from_git(suite: &mut Suite) -> Outcome {
    await_label(suite, "gw", &json!("true"))?;
    let theirs = json!({"metadata": {"labels": {suite.named("theirs"): "kept"}}});
    let path = format!("/api/v1/nodes/{}?fieldManager=somebody-else", suite.named("kind-worker2"));
    suite.api.merge(&path, &theirs)?;
    push(suite, &[("extra", "one"), ("third", "yes")])?;
    await_label(suite, "extra", &json!("one"))?;
    await_label(suite, "third", &json!("yes"))?;
    let other = suite.node("kind-worker")?.unwrap_or_default();
    if !other["metadata"]["labels"][suite.named("extra")].is_null() {
        return Err(fault("a node that no document names has the label"));
    }
    Ok(())
}

pub(super) fn hand_edit(suite: &mut Suite) -> Outcome {
    let begun = Instant::now();
    by_hand(suite, "kind-worker2", "extra", "maybe")?;
    await_label(suite, "extra", &json!("one"))?;
    suite.log(&format!("      measured: a hand edit corrected: {:.2?}", begun.elapsed()));
    let node = suite.node("kind-worker2")?.unwrap_or_default();
    let managers = node["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
    let field = format!("f:{}", suite.named("extra"));
    let owner = managers.iter().find(|entry| !entry["fieldsV1"]["f:metadata"]["f:labels"][&field].is_null());
    let owner = owner.map(|entry| (entry["manager"].clone(), entry["operation"].clone()));
    if owner != Some((json!("egret"), json!("Apply"))) {
        return Err(fault(format!("the label is {owner:?}'s after the correction")));
    }
    await_event(suite, "DriftDetected", &["kubectl-label changed it", "maybe"])?;
    let file = format!("egret/reports/{}:nodes/{}.yaml", suite.prefix, suite.named("kind-worker2"));
    suite.await_that("a report in Git that names kubectl-label", || {
        Ok(suite.lab.repository().show(&file)?.contains("kubectl-label"))
    })
}

pub(super) fn removed(suite: &mut Suite) -> Outcome {
    push(suite, &[("extra", "one")])?;
    await_label(suite, "third", &Value::Null)?;
    for (key, value) in [("extra", "one"), ("gw", "true"), ("theirs", "kept")] {
        let found = label(suite, key)?;
        if found != value {
            return Err(fault(format!("the label {key} is {found}, not {value:?}")));
        }
    }
    Ok(())
}

pub(super) fn gone(suite: &mut Suite) -> Outcome {
    let ghost = suite.named("ghost");
    let object = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": ghost}});
    let made = suite.api.create("/api/v1/nodes", &object)?;
    suite.await_that("the label on a node that comes later", || {
        Ok(suite.node("ghost")?.unwrap_or_default()["metadata"]["labels"][suite.named("extra")] == "one")
    })?;
    suite.api.delete(&format!("/api/v1/nodes/{ghost}"))?;
    // As a controller that has not heard of the deletion: the uid is what keeps the apply from making a node.
    let (_, controller) = suite.account("egret-controller", None)?;
    let uid = made["metadata"]["uid"].clone();
    let late = json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": ghost, "uid": uid, "labels": {suite.named("extra"): "one"}},
    });
    let path = format!("/api/v1/nodes/{ghost}?fieldManager=egret");
    let (code, answer) = controller.send("PATCH", &path, APPLY, &late)?;
    if !matches!(code, 403 | 404 | 409) {
        return Err(fault(format!("an apply to a node that is gone was answered {code} {}", message(&answer))));
    }
    push(suite, &[("extra", "two")])?;
    await_label(suite, "extra", &json!("two"))?;
    if suite.node("ghost")?.is_some() {
        return Err(fault("the node that was deleted is there again"));
    }
    // Another value in Git is no drift: the one before was Egret's own. That no event comes is seen by waiting alone.
    std::thread::sleep(Duration::from_secs(1));
    let events = suite.api.list(EVENTS)?;
    let of_nobody = events.iter().filter(|event| {
        event["regarding"]["name"] == suite.named("kind-worker2")
            && event["note"].as_str().is_some_and(|note| note.contains("somebody changed it"))
    });
    let notes: Vec<&Value> = of_nobody.map(|event| &event["note"]).collect();
    if notes.is_empty() { Ok(()) } else { Err(fault(format!("drift that nobody made: {notes:?}"))) }
}

/// How often the label is edited at most, and how long a correction is waited for.
const EDITS: usize = 12;
const CORRECTION: Duration = Duration::from_secs(6);

pub(super) fn fight(suite: &mut Suite) -> Outcome {
    let mut corrected = 0;
    let given_up = (0..EDITS).any(|edit| {
        let mine = format!("mine-{edit}");
        if by_hand(suite, "kind-worker2", "extra", &mine).is_err() {
            return false;
        }
        let put_right = wait_until_every(PAUSE, CORRECTION, || label(suite, "extra").is_ok_and(|found| found == "two"));
        corrected += usize::from(put_right);
        !put_right
    });
    if !given_up || !(3..=6).contains(&corrected) {
        let why = format!("{corrected} of at most {EDITS} hand edits were corrected; given up: {given_up}");
        return Err(fault(why));
    }
    suite.log(&format!("      {corrected} corrections, then no more"));
    await_event(suite, "LabelConflict", &["is not fought for any more"])?;
    await_label(suite, "gw", &json!("true"))?;
    // Out of Git, it is the other's.
    let before = label(suite, "extra")?;
    suite.lab.repository().remove(FILE)?;
    suite.push(&[])?;
    let revision = suite.lab.repository().in_clone(["rev-parse", "HEAD"])?.trim().to_owned();
    suite.await_that("the head of what is published", || {
        Ok(suite.object("egressconfigs", "default")?["spec"]["revision"] == *revision)
    })?;
    let is_gone =
        || !label(suite, "extra").is_ok_and(|found| found.as_str().is_some_and(|found| found.starts_with("mine-")));
    if wait_until_every(Duration::from_millis(200), Duration::from_secs(1), is_gone) {
        let node = suite.node("kind-worker2")?.unwrap_or_default();
        let managers = &node["metadata"]["managedFields"];
        let why = format!("another's label {before} went away with the document; {managers}\n{}", suite.seen());
        return Err(fault(why));
    }
    Ok(())
}
