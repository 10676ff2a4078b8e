//! Node labels in a cluster: applied, given back, taken back from whoever changed them, and not fought for forever.
//!
//! Deliberately absent: what a decision rests on (`core::labelling`), and packets.

use serde_json::{Value, json};

use crate::apiserver::Filter;
use crate::lab::Options;

use super::stand::{LABELS, Outcome, Stand, policy};

fn labels(stand: &Stand, node: &str) -> Value {
    stand.api.get("nodes", "", node).unwrap_or_default()["metadata"]["labels"].clone()
}

fn set_by_hand(stand: &Stand, node: &str, value: &Value) {
    let path = format!("/api/v1/nodes/{node}?fieldManager=kubectl-label");
    let patch = json!({"metadata": {"labels": {"egress-gw": value}}});
    let (code, answer) = stand.api.send("PATCH", &path, "application/merge-patch+json", &patch);
    assert_eq!(code, 200, "{answer}");
}

fn reported(stand: &Stand, node: &str, words: &[&str]) -> bool {
    let report = stand.lab.repository().show(&format!("egret/reports/default:nodes/{node}.yaml")).unwrap_or_default();
    words.iter().all(|word| report.contains(word))
}

#[test]
fn a_label_changed_by_hand_is_taken_back_and_reported_with_the_name_of_the_hand() -> Outcome {
    let stand = Stand::applied(Options::default())?;
    for value in [json!("maybe"), Value::Null] {
        set_by_hand(&stand, "kind-worker2", &value);
        stand.await_that("the label as Git has it", || labels(&stand, "kind-worker2")["egress-gw"] == "true")?;
    }
    stand.await_that("a report that names the hand", || {
        reported(&stand, "kind-worker2", &["label egress-gw", "kubectl-label", "nodes/gateways.yaml", "missing"])
    })?;
    stand.await_that("an event on the node", || {
        let events = stand.api.list("events.events.k8s.io");
        events.iter().any(|event| event["reason"] == "DriftDetected" && event["regarding"]["name"] == "kind-worker2")
    })?;
    stand.assert_no_leak_but(&[])
}

#[test]
fn a_label_that_git_drops_is_given_back_and_others_stay() -> Outcome {
    let stand = Stand::applied(Options::default())?;
    let before = labels(&stand, "kind-worker2");
    assert_eq!(before["egress-gw"], "true");
    stand.lab.repository().remove("nodes/gateways.yaml")?;
    stand.lab.repository().push("no gateway any more")?;
    stand.await_that("the label gone", || labels(&stand, "kind-worker2")["egress-gw"].is_null())?;
    let mut expected = before;
    expected.as_object_mut().expect("labels").remove("egress-gw");
    assert_eq!(labels(&stand, "kind-worker2"), expected);
    stand.await_that("a policy that says why nobody answers", || {
        stand.condition("publishedegresspolicies", "outpost", "Ready") == ("False".to_owned(), "NoGateway".to_owned())
    })?;
    stand.assert_no_leak_but(&[])
}

#[test]
fn a_node_that_is_gone_is_not_made_again_by_labelling_it() -> Outcome {
    let stand = Stand::up(Options::default())?;
    stand.push(&[("nodes/gateways.yaml", &LABELS.replace("[kind-worker2]", "[kind-worker2, ghost]"))])?;
    stand.await_that("the label", || labels(&stand, "kind-worker2")["egress-gw"] == "true")?;
    stand.api.delete("nodes", "", "kind-worker2");
    stand.push(&[("policies/outpost.yaml", &policy("egress-gw: \"true\""))])?;
    stand.await_that("the policy", || stand.object("publishedegresspolicies", "outpost").is_object())?;
    stand.await_that("nothing said of the node that is gone", || {
        stand.object("egressnodes", "kind-worker2").is_null()
    })?;
    assert_eq!(stand.api.get("nodes", "", "kind-worker2"), None);
    assert_eq!(stand.api.get("nodes", "", "ghost"), None);
    Ok(())
}

#[test]
fn where_drift_is_only_to_be_reported_the_manual_change_stays() -> Outcome {
    let stand = Stand::applied(Options::default())?;
    stand.push(&[(
        "egret.yaml",
        "apiVersion: egret.dev/v1alpha1\nkind: Config\npaths: [nodes, policies]\nonLabelDrift: Report\n",
    )])?;
    let revision = stand.lab.repository().show("HEAD").unwrap_or_default();
    let head = revision.split_whitespace().nth(1).unwrap_or_default().to_owned();
    stand.await_that("the new head", || stand.object("egressconfigs", "default")["spec"]["revision"] == *head)?;
    set_by_hand(&stand, "kind-worker2", &json!("maybe"));
    stand.await_that("a report of it", || reported(&stand, "kind-worker2", &["label egress-gw", "kubectl-label"]))?;
    assert_eq!(labels(&stand, "kind-worker2")["egress-gw"], "maybe");
    stand.assert_no_leak_but(&[])
}

#[test]
fn a_fight_with_another_controller_is_given_up_and_reported() -> Outcome {
    let stand = Stand::applied(Options::default())?;
    let forced = || stand.api.writes(&Filter::writes().resource("nodes").name("kind-worker2").user("admin"));
    let begun = forced();
    let mut fights = 0;
    stand.await_that("a report that the fight was given up", || {
        if labels(&stand, "kind-worker2")["egress-gw"] == "true" {
            set_by_hand(&stand, "kind-worker2", &json!("maybe"));
            fights += 1;
        }
        reported(&stand, "kind-worker2", &["given up"])
    })?;
    assert_eq!((labels(&stand, "kind-worker2")["egress-gw"].as_str(), fights), (Some("maybe"), 6));
    assert!(forced() - begun <= 6, "{}", forced() - begun);
    stand.assert_no_leak_but(&[])
}
