//! Conditions and events of the custom resources, as `kubectl wait`, `kubectl describe` and kstatus read them.

use serde_json::{Value, json};

use crate::apiserver::{Fault, Filter, Request};
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
        stand.await_quiet()?;
        let before = stand.object("egressnodes", node)["status"].clone();
        stand.kill9(node)?;
        stand.api.forget_requests();
        stand.agent(node)?;
        let is_it =
            |one: &Request| one.verb == "patch" && one.resource == "egressnodes.egret.dev/status" && one.name == node;
        stand.await_that("a status of the new process", || {
            stand.api.requests().iter().any(is_it) && is_current(&stand.object("egressnodes", node))
        })?;
        stand.await_quiet()?;
        assert_eq!(stand.object("egressnodes", node)["status"], before, "{node}");
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

#[test]
fn why_the_api_server_refuses_a_policy_is_told_in_its_own_words() -> Outcome {
    let stand = Stand::applied(Options::default())?;
    // A definition that is older than the program, and takes less.
    let name = "publishedegresspolicies.egret.dev";
    let mut definition =
        stand.api.get("customresourcedefinitions.apiextensions.k8s.io", "", name).expect("a definition");
    let spec = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/destinationCIDRs/maxItems";
    *definition.pointer_mut(spec).expect("a limit") = json!(2);
    let path = format!("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}");
    assert_eq!(stand.api.send("PUT", &path, "application/json", &definition).0, 200);
    let webhook = Filter::writes().resource("publishedegresspolicies").name("guarded");
    stand.api.fault(webhook, Fault::Denied("policy\n  needs an owner:\n  label `team`"));
    let text = policy("egress-gw: \"true\"");
    let named = |name: &str| text.replace("outpost", name);
    let larger = text.replace("10.0.4.0/24", "10.0.4.0/25\", \"10.0.4.128/25");
    let files = [
        ("policies/guarded.yaml", named("guarded")),
        ("policies/outpost.yaml", larger),
        ("policies/other.yaml", named("other")),
    ];
    let files: Vec<(&str, &str)> = files.iter().map(|(path, text)| (*path, text.as_str())).collect();
    stand.push(&files)?;
    let config = || stand.object("egressconfigs", "default");
    stand.await_that("two refusals", || config()["status"]["rejected"].as_array().is_some_and(|all| all.len() == 2))?;
    let webhook = "the API server refuses it: admission webhook \"policies.example.com\" denied the request: policy needs an owner: \
                   label `team`";
    let schema = "the API server refuses it: PublishedEgressPolicy.egret.dev \"outpost\" is invalid: [spec.destinationCIDRs: Too many: \
                  3: must have at most 2 items";
    let rejected = config()["status"]["rejected"].clone();
    let told = |index: usize| (rejected[index]["place"].as_str(), rejected[index]["message"].as_str());
    assert_eq!(told(0), (Some("policies/guarded.yaml:1"), Some(webhook)));
    let (place, message) = told(1);
    assert_eq!(place, Some("policies/outpost.yaml:1"));
    assert!(message.is_some_and(|message| message.starts_with(schema)), "{message:?}");
    assert_eq!(rejected[1]["instead"], json!("its previous version stays active"));
    let accepted = condition(&config(), "PoliciesAccepted")["message"].clone();
    assert_eq!(accepted, json!(format!("policies/guarded.yaml:1: {webhook}, and 2 in all")));
    // The one beside them is published.
    assert_eq!(stand.object("publishedegresspolicies", "other")["spec"]["source"]["name"], json!("other"));
    assert_eq!(stand.object("publishedegresspolicies", "guarded"), Value::Null);
    stand.await_that("an event with the same words", || {
        let notes = stand.api.list("events.events.k8s.io");
        notes.iter().any(|event| event["note"].as_str().is_some_and(|note| note.contains(webhook)))
    })
}
