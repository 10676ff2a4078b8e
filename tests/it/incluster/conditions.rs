//! Conditions and events of the custom resources, as `kubectl wait`, `kubectl describe` and kstatus read them.

use serde_json::{Value, json};

use crate::apiserver::{Fault, Filter};
use crate::lab::Options;

use super::stand::{Outcome, Stand, policy};

const KINDS: [(&str, &str); 4] = [
    ("publishedegresspolicies", "outpost"),
    ("egressconfigs", "default"),
    ("egressnodes", "kind-worker"),
    ("egressnodes", "kind-worker2"),
];

fn is(status: &str, reason: &str) -> (String, String) {
    (status.to_owned(), reason.to_owned())
}

/// A condition of an object, or nothing.
fn condition(object: &Value, kind: &str) -> Value {
    let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
    conditions.into_iter().find(|one| one["type"] == kind).unwrap_or_default()
}

/// kstatus' `Current`: the status is of this generation, Ready is True, and nothing is under way.
fn is_current(object: &Value) -> bool {
    let generation = &object["metadata"]["generation"];
    let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
    object["status"]["observedGeneration"] == *generation
        && conditions.iter().all(|one| one["observedGeneration"] == *generation)
        && condition(object, "Ready")["status"] == "True"
        && condition(object, "Reconciling").is_null()
        && condition(object, "Stalled").is_null()
}

#[test]
fn every_kind_is_ready_of_its_own_generation_after_a_push() -> Outcome {
    let stand = Stand::applied(Options::default())?;
    let all = || KINDS.iter().all(|(kind, name)| is_current(&stand.object(kind, name)));
    stand.await_that("all kinds current, as kstatus has it", all)?;
    let before = stand.object("publishedegresspolicies", "outpost")["metadata"]["generation"].clone();
    let text = policy("egress-gw: \"true\"").replace("10.0.4.0/24", "10.0.4.0/25");
    stand.push(&[("policies/outpost.yaml", &text)])?;
    stand.await_that("the next generation, and all kinds current again", || {
        stand.object("publishedegresspolicies", "outpost")["metadata"]["generation"] != before && all()
    })
}

#[test]
fn the_first_event_of_a_policy_is_normal_and_a_later_loss_a_warning() -> Outcome {
    let stand = Stand::applied(Options::default())?;
    let events = || -> Vec<(String, String)> {
        let mut events = stand.api.list("events.events.k8s.io");
        events.retain(|event| event["regarding"]["kind"] == "PublishedEgressPolicy");
        events.sort_by_key(|event| event["eventTime"].to_string());
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        events.iter().map(|event| (text(&event["type"]), text(&event["reason"]))).collect()
    };
    stand.await_that("an event that it is programmed", || events().contains(&is("Normal", "Programmed")))?;
    assert_eq!(events()[0].0, "Normal", "{:?}", events());
    stand.lab.repository().remove("nodes/gateways.yaml")?;
    stand.lab.repository().push("no gateway any more")?;
    stand.await_that("a warning that there is no gateway", || events().contains(&is("Warning", "NoGateway")))
}

#[test]
fn an_agent_that_starts_anew_is_no_transition() -> Outcome {
    let mut stand = Stand::applied(Options::default())?;
    for node in ["kind-worker", "kind-worker2"] {
        stand.await_that("a node that is Ready", || is_current(&stand.object("egressnodes", node)))?;
        let before = condition(&stand.object("egressnodes", node), "Ready");
        stand.kill9(node)?;
        stand.api.forget_requests();
        stand.agent(node)?;
        let written = Filter::writes().resource("egressnodes/status").name(node);
        stand.await_that("a status of the new process", || {
            stand.api.writes(&written) > 0 && is_current(&stand.object("egressnodes", node))
        })?;
        assert_eq!(condition(&stand.object("egressnodes", node), "Ready"), before, "{node}");
    }
    Ok(())
}

#[test]
fn a_publication_that_the_api_server_refuses_is_in_ready_of_the_config() -> Outcome {
    let stand = Stand::applied(Options::default())?;
    let ready = || stand.condition("egressconfigs", "default", "Ready");
    stand.await_that("a config that is Ready", || ready() == is("True", "Programmed"))?;
    let fault = stand.api.fault(Filter::writes().resource("publishedegresspolicies.egret.dev/"), Fault::Status(500));
    let text = policy("egress-gw: \"true\"").replace("10.0.4.0/24", "10.0.4.0/25");
    stand.push(&[("policies/outpost.yaml", &text)])?;
    stand.await_that("a config that is not", || ready() == is("False", "PublicationFailed"))?;
    let config = stand.object("egressconfigs", "default");
    let message = condition(&config, "Ready")["message"].as_str().unwrap_or_default().to_owned();
    assert!(message.starts_with("writing PublishedEgressPolicy outpost: "), "{message}");
    assert_eq!(condition(&config, "Reconciling")["reason"], json!("PublicationFailed"));
    stand.api.clear(fault);
    stand.await_that("a config that is Ready again", || ready() == is("True", "Programmed"))
}
