//! What the API server itself holds: schemas with their rules, and admission policies.
//!
//! Deliberately absent: processes. These requests are made as a process would, with its token.

use serde_json::{Value, json};

use super::api::{APPLY, Api, JSON, MERGE, Outcome, fault, message};
use super::host_network::CUSTOM;
use super::suite::Suite;

/// One policy that is right.
fn policy(name: &str) -> Value {
    json!({
        "apiVersion": "egret.dev/v1alpha1", "kind": "PublishedEgressPolicy", "metadata": {"name": name},
        "spec": {
            "selectors": [{"podSelector": {"matchLabels": {"egret.dev/test": "nobody"}}}],
            "destinationCIDRs": ["10.0.4.0/24"],
            "egressGateways": [{"nodeSelector": {"matchLabels": {"egret.dev/test": "nobody"}}, "interface": "net1"}],
            "source": {"kind": "EgressPolicy", "name": name, "file": "policies/a.yaml", "line": 1},
            "fence": 3,
        },
    })
}

/// The answer has to be a refusal with these words.
fn refused(what: &str, (code, answer): (u16, Value), codes: &[u16], words: &str) -> Outcome {
    if codes.contains(&code) && message(&answer).contains(words) {
        return Ok(());
    }
    Err(fault(format!("{what} was answered {code} {}, not {codes:?} with {words:?}", message(&answer))))
}

pub(super) fn definitions(suite: &mut Suite) -> Outcome {
    let policies = format!("{CUSTOM}/publishedegresspolicies");
    let name = suite.named("rules");
    let create = |object: &Value| suite.api.send("POST", &policies, JSON, object);
    for (what, place, value, words) in [
        (
            "interface and egressIP",
            "/spec/egressGateways/0/egressIP",
            json!("10.0.3.42"),
            "give interface or egressIP, not both",
        ),
        ("a network that is none", "/spec/destinationCIDRs/0", json!("10.0.4.0"), "not a CIDR"),
        ("no selector", "/spec/selectors", json!([]), "spec.selectors"),
        ("a selector of nothing", "/spec/selectors/0", json!({}), "a selector needs podSelector or namespaceSelector"),
    ] {
        let mut object = policy(&name);
        let (parent, field) = place.rsplit_once('/').unwrap_or_default();
        match object.pointer_mut(place) {
            Some(found) => *found = value,
            None => object.pointer_mut(parent).unwrap_or(&mut Value::Null)[field] = value,
        }
        refused(&format!("a policy with {what}"), create(&object)?, &[422], words)?;
    }
    let (code, made) = create(&policy(&name))?;
    if code != 201 {
        return Err(fault(format!("a policy that is right was answered {code} {}", message(&made))));
    }
    let one = format!("{policies}/{name}");
    let lower = suite.api.send("PATCH", &one, MERGE, &json!({"spec": {"fence": 2}}))?;
    refused("a lower fence", lower, &[422], "fence never goes back")?;
    suite.api.merge(&one, &json!({"spec": {"fence": 4}}))?;
    suite.api.delete(&one)?;
    let config = json!({
        "apiVersion": "egret.dev/v1alpha1", "kind": "EgressConfig", "metadata": {"name": suite.named("second")},
        "spec": {
            "cluster": suite.prefix, "revision": "0".repeat(40), "fence": 1,
            "policies": {"count": 0, "digest": "0".repeat(16)}, "config": {},
        },
    });
    let answer = suite.api.send("POST", &format!("{CUSTOM}/egressconfigs"), JSON, &config)?;
    refused("a second EgressConfig", answer, &[422], "there is one EgressConfig, and its name is default")
}

/// An apply that is tried and not done.
fn try_node(api: &Api, name: &str) -> Outcome<(u16, Value)> {
    let object = node(name, &json!({}));
    let path = format!("{CUSTOM}/egressnodes/{name}?fieldManager=egret-agent&force=true&dryRun=All");
    api.send("PATCH", &path, APPLY, &object)
}

/// An EgressNode with this metadata.
fn node(name: &str, metadata: &Value) -> Value {
    let mut metadata = metadata.clone();
    metadata["name"] = json!(name);
    json!({"apiVersion": "egret.dev/v1alpha1", "kind": "EgressNode", "metadata": metadata, "spec": {}})
}

/// An event of this reporter about a node.
fn event(reporter: &str, about: &str) -> Value {
    json!({
        "apiVersion": "events.k8s.io/v1", "kind": "Event",
        "metadata": {"name": format!("{about}.lie"), "namespace": "default"},
        "eventTime": jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string(),
        "reportingController": reporter, "reportingInstance": about, "action": "Reconcile", "reason": "Lie",
        "regarding": {"apiVersion": "v1", "kind": "Node", "name": about}, "note": "a lie", "type": "Warning",
    })
}

/// What an agent may not do has no effect; each with a part of the refusal.
#[expect(clippy::too_many_lines, reason = "a table")]
fn attempts(suite: &Suite) -> Vec<(&'static str, &'static str, String, &'static str, Value, String)> {
    let (own, other) = (suite.named("kind-worker"), suite.named("kind-worker2"));
    let nodes = format!("{CUSTOM}/egressnodes");
    let (mine, theirs) = (format!("{nodes}/{own}?dryRun=All"), format!("{nodes}/{other}?dryRun=All"));
    let not_own = format!("the agent of node {own} may not write the EgressNode {other}");
    let events = |namespace: &str| format!("/apis/events.k8s.io/v1/namespaces/{namespace}/events?dryRun=All");
    let owner = json!([{"apiVersion": "v1", "kind": "Node", "name": other, "uid": "1"}]);
    let metadata = |field: &str, value: Value| json!({"metadata": {field: value}});
    let cannot = |what: &str| format!("cannot {what}");
    let label = metadata("labels", json!({"egret.dev/test": "no"}));
    let system = suite.namespace();
    vec![
        ("another node's label", "PATCH", theirs.clone(), MERGE, label.clone(), not_own.clone()),
        (
            "another node's status",
            "PATCH",
            format!("{nodes}/{other}/status?dryRun=All"),
            MERGE,
            json!({"status": {"members": 7}}),
            not_own,
        ),
        (
            "an EgressNode of no node",
            "POST",
            format!("{nodes}?dryRun=All"),
            JSON,
            node(&suite.named("nobody"), &json!({})),
            "may not write the EgressNode".to_owned(),
        ),
        ("another node's deletion", "DELETE", theirs, JSON, Value::Null, cannot("delete resource \"egressnodes\"")),
        ("its own deletion", "DELETE", mine.clone(), JSON, Value::Null, cannot("delete resource \"egressnodes\"")),
        ("everybody's deletion", "DELETE", nodes.clone(), JSON, Value::Null, cannot("deletecollection")),
        ("a label", "PATCH", mine.clone(), MERGE, label.clone(), "and no other".to_owned()),
        (
            "an annotation",
            "PATCH",
            mine.clone(),
            MERGE,
            metadata("annotations", json!({"a": "b"})),
            "changes no annotation".to_owned(),
        ),
        (
            "a finalizer",
            "PATCH",
            mine.clone(),
            MERGE,
            metadata("finalizers", json!(["egret.dev/test"])),
            "sets no finalizer".to_owned(),
        ),
        (
            "another owner",
            "PATCH",
            mine,
            MERGE,
            metadata("ownerReferences", owner),
            "the owner of an EgressNode is the Node of its name".to_owned(),
        ),
        (
            "its Node's label",
            "PATCH",
            format!("/api/v1/nodes/{own}?dryRun=All"),
            MERGE,
            label.clone(),
            cannot("patch resource \"nodes\""),
        ),
        (
            "the head's annotation",
            "PATCH",
            format!("{CUSTOM}/egressconfigs/default?dryRun=All"),
            MERGE,
            metadata("annotations", json!({"egret.dev/pushed": "now"})),
            cannot("patch resource \"egressconfigs\""),
        ),
        (
            "a policy",
            "POST",
            format!("{CUSTOM}/publishedegresspolicies?dryRun=All"),
            JSON,
            policy(&suite.named("lie")),
            cannot("create resource \"publishedegresspolicies\""),
        ),
        (
            "the lease",
            "GET",
            format!("/apis/coordination.k8s.io/v1/namespaces/{system}/leases/egret-controller"),
            JSON,
            Value::Null,
            cannot("get resource \"leases\""),
        ),
        (
            "secrets",
            "GET",
            format!("/api/v1/namespaces/{system}/secrets"),
            JSON,
            Value::Null,
            cannot("list resource \"secrets\""),
        ),
        (
            "an event about another node",
            "POST",
            events("default"),
            JSON,
            event("egret.dev/agent", &other),
            "writes events about its own node".to_owned(),
        ),
        (
            "an event in another's name",
            "POST",
            events("default"),
            JSON,
            event("kubelet", &own),
            "writes its own events".to_owned(),
        ),
        (
            "an event elsewhere",
            "POST",
            events("kube-system"),
            JSON,
            {
                let mut event = event("egret.dev/agent", &own);
                event["metadata"]["namespace"] = json!("kube-system");
                event
            },
            cannot("create resource \"events\""),
        ),
    ]
}

pub(super) fn agents(suite: &mut Suite) -> Outcome {
    let (_, agent) = suite.account("egret-agent", Some("kind-worker"))?;
    suite.await_rights("egret-agent", &agent)?;
    let (own, other) = (suite.named("kind-worker"), suite.named("kind-worker2"));
    let (code, answer) = try_node(&agent, &own)?;
    if !(200..300).contains(&code) {
        return Err(fault(format!("an agent's own EgressNode was answered {code} {}", message(&answer))));
    }
    let words = format!("the agent of node {own} may not write the EgressNode {other}");
    // The server learns of a new policy a moment after it is written.
    suite.await_that(&format!("a refusal with {words:?}"), || {
        let answer = try_node(&agent, &other)?;
        refused("another node's EgressNode", answer, &[403, 422], &words).map(|()| true)
    })?;
    let (_, anybody) = suite.account("egret-agent", None)?;
    let answer = try_node(&anybody, &own)?;
    refused("a token of no node", answer, &[403, 422], "this agent's token does not say on which node it runs")?;
    let at = format!("{CUSTOM}/egressnodes");
    for name in [&own, &other] {
        suite.api.create(&at, &node(name, &json!({})))?;
    }
    let tried = try_all(suite, &agent);
    for name in [&own, &other] {
        suite.api.delete(&format!("{at}/{name}"))?;
    }
    tried
}

fn try_all(suite: &Suite, agent: &Api) -> Outcome {
    let ours = event("egret.dev/agent", &suite.named("kind-worker"));
    let events = "/apis/events.k8s.io/v1/namespaces/default/events?dryRun=All";
    agent.done("POST", events, JSON, &ours)?;
    for (what, method, path, kind, body, words) in attempts(suite) {
        refused(&format!("an agent that tries {what}"), agent.send(method, &path, kind, &body)?, &[403, 422], &words)?;
    }
    // A spec has no fields: what is said there is said to nobody.
    let own = format!("{CUSTOM}/egressnodes/{}?dryRun=All", suite.named("kind-worker"));
    let answer = agent.merge(&own, &json!({"spec": {"exits": ["all"]}}))?;
    if answer["spec"] != json!({}) {
        return Err(fault(format!("a spec of an agent's is kept: {}", answer["spec"])));
    }
    Ok(())
}

/// With `remove: true` an agent deletes its own EgressNode, and still no other.
pub(super) fn leaving(suite: &Suite) -> Outcome {
    let (_, agent) = suite.account("egret-agent", Some("kind-worker"))?;
    let path = |node: &str| format!("{CUSTOM}/egressnodes/{}?dryRun=All", suite.named(node));
    suite.await_that("an agent's right to delete its EgressNode", || {
        Ok(agent.send("DELETE", &path("kind-worker"), JSON, &Value::Null)?.0 == 200)
    })?;
    let answer = agent.send("DELETE", &path("kind-worker2"), JSON, &Value::Null)?;
    refused("the deletion of another node's EgressNode", answer, &[403, 422], "may not write the EgressNode")
}

pub(super) fn controllers(suite: &mut Suite) -> Outcome {
    let (_, controller) = suite.account("egret-controller", None)?;
    suite.await_rights("egret-controller", &controller)?;
    let path = format!("/api/v1/nodes/{}?dryRun=All", suite.named("kind-worker"));
    let label = json!({"metadata": {"labels": {"egret.dev/test": "no"}}});
    controller.merge(&path, &label)?;
    let ghost = format!("/api/v1/nodes/{}?fieldManager=egret&dryRun=All", suite.named("nobody"));
    let object = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": suite.named("nobody")}});
    let answer = controller.send("PATCH", &ghost, APPLY, &object)?;
    // The server looks for the right to create only once it knows that nothing is there, and gives no reason then.
    refused("an apply to a node that is not there", answer, &[403], "is forbidden")?;
    for (patch, words) in [
        (
            json!({"metadata": {"labels": {"node-role.kubernetes.io/control-plane": ""}}}),
            "may not change the label node-role.kubernetes.io/control-plane of a node",
        ),
        (json!({"spec": {"unschedulable": true}}), "changes labels of nodes, not their spec"),
        (
            json!({"metadata": {"annotations": {"egret.dev/test": "no"}}}),
            "changes labels of nodes, not their annotations",
        ),
        (
            json!({"metadata": {"finalizers": ["egret.dev/test"]}}),
            "changes labels of nodes, not their owners and finalizers",
        ),
    ] {
        suite.await_that(&format!("a refusal with {words:?}"), || {
            let answer = controller.send("PATCH", &path, MERGE, &patch)?;
            refused("a change of a node", answer, &[403, 422], words).map(|()| true)
        })?;
    }
    taints(suite, &controller)
}

/// What a refusal of the controller's says of taints.
const TAINTS: &str = "takes the taint egret.dev/agent-not-ready off a node";

/// Of taints, its own comes off, and no other changes.
fn taints(suite: &Suite, controller: &Api) -> Outcome {
    let path = format!("/api/v1/nodes/{}", suite.named("kind-worker"));
    let own = |effect: &str| json!({"key": super::startup::KEY, "effect": effect});
    // Read each time: where there are controllers, they write taints of new nodes too.
    let others = || -> Outcome<Vec<Value>> {
        let node = suite.api.get(&path)?.unwrap_or_default();
        let taints = node["spec"]["taints"].as_array().cloned().unwrap_or_default();
        Ok(taints.into_iter().filter(|taint| taint["key"] != super::startup::KEY).collect())
    };
    let with = |more: &[Value]| {
        let taints = [others()?.as_slice(), more].concat();
        Outcome::Ok(json!({"spec": {"taints": taints}}))
    };
    suite.api.merge(&path, &with(&[own("NoSchedule")])?)?;
    let tried = format!("{path}?dryRun=All");
    suite.await_that("the right to take the startup taint off", || {
        controller.merge(&tried, &with(&[])?).map(|_| true)
    })?;
    let mut cordoned = with(&[])?;
    cordoned["spec"]["unschedulable"] = json!(true);
    for (what, patch, words) in [
        ("all of a node's taints", json!({"spec": {"taints": null}}), TAINTS),
        ("the other taints of a node", json!({"spec": {"taints": [own("NoSchedule")]}}), TAINTS),
        ("another effect", with(&[own("NoExecute")])?, TAINTS),
        ("a taint more", with(&[own("NoSchedule"), json!({"key": "egret.dev/more", "effect": "NoSchedule"})])?, TAINTS),
        ("a cordon beside it", cordoned, "changes labels of nodes, not their spec"),
    ] {
        refused(what, controller.send("PATCH", &tried, MERGE, &patch)?, &[403, 422], words)?;
    }
    suite.api.merge(&path, &with(&[])?).map(|_| ())
}
