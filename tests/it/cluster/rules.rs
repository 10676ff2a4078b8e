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
    let object =
        json!({"apiVersion": "egret.dev/v1alpha1", "kind": "EgressNode", "metadata": {"name": name}, "spec": {}});
    let path = format!("{CUSTOM}/egressnodes/{name}?fieldManager=egret-agent&force=true&dryRun=All");
    api.send("PATCH", &path, APPLY, &object)
}

pub(super) fn agents(suite: &mut Suite) -> Outcome {
    let (_, agent) = suite.account("egret-agent", Some("kind-worker"))?;
    suite.await_rights("egret-agent", &agent)?;
    let (own, other) = (suite.named("kind-worker"), suite.named("kind-worker2"));
    let (code, answer) = try_node(&agent, &own)?;
    if !(200..300).contains(&code) {
        return Err(fault(format!("an agent's own EgressNode was answered {code} {}", message(&answer))));
    }
    let label = json!({"metadata": {"labels": {"egret.dev/test": "no"}}});
    let answer = agent.send("PATCH", &format!("/api/v1/nodes/{own}?dryRun=All"), MERGE, &label)?;
    refused("an agent's label on its node", answer, &[403], "cannot patch resource \"nodes\"")?;
    let words = format!("the agent of node {own} may not write the EgressNode {other}");
    // The server learns of a new policy a moment after it is written.
    suite.await_that(&format!("a refusal with {words:?}"), || {
        let answer = try_node(&agent, &other)?;
        refused("another node's EgressNode", answer, &[403, 422], &words).map(|()| true)
    })?;
    let (_, anybody) = suite.account("egret-agent", None)?;
    let answer = try_node(&anybody, &own)?;
    refused("a token of no node", answer, &[403, 422], "this agent's token does not say on which node it runs")?;
    // What is there is not deleted by others either, nor its status written.
    let object = json!({
        "apiVersion": "egret.dev/v1alpha1", "kind": "EgressNode", "metadata": {"name": other}, "spec": {},
    });
    suite.api.create(&format!("{CUSTOM}/egressnodes"), &object)?;
    let one = format!("{CUSTOM}/egressnodes/{other}");
    let deleted = agent.send("DELETE", &one, JSON, &Value::Null)?;
    let status = json!({"status": {"members": 7}});
    let written = agent.send("PATCH", &format!("{one}/status"), MERGE, &status)?;
    suite.api.delete(&one)?;
    refused("the deletion of another node's EgressNode", deleted, &[403, 422], &words)?;
    refused("the status of another node's EgressNode", written, &[403, 422], &words)
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
