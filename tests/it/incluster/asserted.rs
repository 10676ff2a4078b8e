//! Assertions in a running cluster: what the controller says of one that does not hold, until it is mended.

use serde_json::{Value, json};

use crate::apiserver::{Fault, Filter};
use crate::lab::Options;

use super::stand::{Outcome, Stand, policy};

const ASSERTION: &str = "apiVersion: egret.dev/v1alpha1
kind: EgressAssertion
metadata: {name: one-address}
spec:
  selectors: [{podSelector: {matchLabels: {org: empire, io.kubernetes.pod.namespace: batuu}}}]
  destinationCIDRs: [10.0.4.0/24]
  leavesAs: [10.0.3.42]
  orDropped: true
";

const FILE: &str = "assertions/outpost.yaml";

fn state(stand: &Stand) -> (String, String) {
    stand.condition("egressconfigs", "default", "AssertionsHold")
}

fn message(stand: &Stand) -> String {
    let head = stand.object("egressconfigs", "default");
    let conditions = head["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let found = conditions.iter().find(|one| one["type"] == "AssertionsHold").map(|one| one["message"].clone());
    found.unwrap_or_default().as_str().unwrap_or_default().to_owned()
}

fn is(status: &str, reason: &str) -> (String, String) {
    (status.to_owned(), reason.to_owned())
}

/// The notes of the events about assertions.
fn events(stand: &Stand) -> Vec<String> {
    let events = stand.api.list("events.events.k8s.io");
    let of_it = events.iter().filter(|event| event["reason"] == "AssertionBroken");
    of_it
        .map(|event| {
            assert_eq!((&event["type"], &event["regarding"]["kind"]), (&json!("Warning"), &json!("EgressConfig")));
            event["note"].as_str().unwrap_or_default().to_owned()
        })
        .collect()
}

/// What the reports branch has.
fn report(stand: &Stand, path: &str) -> String {
    stand.lab.repository().show(&format!("egret/reports/default:{path}")).unwrap_or_default()
}

#[test]
fn an_assertion_that_a_commit_breaks_is_told_in_status_event_and_report_until_a_commit_mends_it() -> Outcome {
    let stand = Stand::applied(Options::default())?;
    assert_eq!(state(&stand), (String::new(), String::new()), "there are no assertions");
    stand.push(&[(FILE, ASSERTION)])?;
    stand.await_that("an assertion that holds", || state(&stand) == is("True", "AssertionsKept"))?;
    let good = policy("egress-gw: \"true\"");
    stand.push(&[("policies/outpost.yaml", &good.replace("10.0.4.0/24", "10.0.4.0/25"))])?;
    stand.await_that("an assertion that does not hold", || state(&stand) == is("False", "AssertionBroken"))?;
    let because = "does not hold: batuu/tiefighter to 10.0.4.128 leaves without a gateway, as no policy has the destination \
                   (assertions/outpost.yaml:1)";
    assert_eq!(message(&stand), format!("one-address {because}; broken in all: 1"));
    stand.await_that("an event", || events(&stand) == [format!("the assertion one-address {because}")])?;
    stand.await_that("the finding in the report", || report(&stand, "README.md").contains("to 10.0.4.128 leaves"))?;
    let of = |node: &str| report(&stand, &format!("nodes/{node}.yaml")).contains("code: assertion-broken");
    assert_eq!((of("kind-worker"), of("kind-worker2")), (true, false), "it is told once, of the node of the pod");
    // The commit is in force all the same.
    stand.await_that("Ready", || stand.condition("egressconfigs", "default", "Ready").0 == "True")?;

    stand.push(&[("policies/outpost.yaml", &good)])?;
    stand.await_that("an assertion that holds again", || state(&stand) == is("True", "AssertionsKept"))?;
    stand.await_that("nothing in the report", || {
        !report(&stand, "README.md").contains("10.0.4.128") && !of("kind-worker") && !of("kind-worker2")
    })?;
    assert_eq!(events(&stand).len(), 1, "{:?}", events(&stand));
    stand.lab.repository().remove(FILE)?;
    stand.lab.repository().push("nothing is asserted any more")?;
    stand.await_that("no condition any more", || state(&stand) == (String::new(), String::new()))
}

#[test]
fn an_assertion_follows_nodes_and_pods_and_what_tells_nothing_new_is_not_written() -> Outcome {
    let stand = Stand::applied(Options::default())?;
    let strict = ASSERTION.replace("  orDropped: true\n", "");
    stand.push(&[(FILE, &strict)])?;
    stand.await_that("what the loss of the only gateway breaks", || {
        message(&stand).contains("with kind-worker2 lost, batuu/tiefighter to 10.0.4.0 is dropped")
    })?;
    let label = |node: &str, labels: Value| {
        let path = format!("/api/v1/nodes/{node}?fieldManager=test");
        stand.api.send("PATCH", &path, "application/merge-patch+json", &json!({"metadata": {"labels": labels}}))
    };
    stand.await_quiet()?;
    label("kind-worker", json!({"a": "b"}));
    stand.lab.add_pod("newborn", "kind-worker", &[("org", "alliance")])?;
    stand.announce(&["pods.yaml"]);
    stand.await_quiet()?;
    assert_eq!(stand.api.writes(&Filter::writes().resource("egressconfigs")), 0);

    stand.set_ready("kind-worker2", false);
    stand.await_that("that it is lost", || {
        message(&stand).contains("does not hold: batuu/tiefighter to 10.0.4.0 is dropped, as no gateway is fit")
    })?;
    stand.set_ready("kind-worker2", true);
    stand.await_that("that it is back", || message(&stand).contains("with kind-worker2 lost"))?;
    assert_eq!(events(&stand).len(), 1, "the same assertion is broken all the time: {:?}", events(&stand));
    stand.push(&[(FILE, ASSERTION)])?;
    stand.await_that("an assertion that holds", || state(&stand) == is("True", "AssertionsKept"))
}

#[test]
fn pods_that_cannot_be_listed_are_told() -> Outcome {
    let stand = Stand::applied(Options::default())?;
    stand.api.fault(Filter::all().verb("list").resource("pods"), Fault::Status(403));
    stand.push(&[(FILE, ASSERTION)])?;
    stand.await_that("that nobody knows", || state(&stand) == is("Unknown", "PodsNotListed"))?;
    assert!(message(&stand).contains("listing pods"), "{}", message(&stand));
    stand.await_that("Ready", || stand.condition("egressconfigs", "default", "Ready").0 == "True")
}
