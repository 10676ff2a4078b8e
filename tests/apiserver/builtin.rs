//! What the real server makes of built-in objects: zero values, defaults, what admission puts in, what is refused.
//!
//! Deliberately absent: every default and rule that no test of ours meets. Fields are checked against the types of k8s-openapi.

use k8s_openapi::api::{coordination, core, events, rbac};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions;
use serde_json::{Map, Value, json};

use super::fields::{self, Path};
use super::resource::Resource;
use super::shape::Shape;
use super::status::Mistake;
use super::validate;

/// An object of which nothing is said, as the real server writes it: fields that its types always have.
pub(crate) fn empty(resource: &Resource) -> Value {
    let mut object = match resource.kind.as_str() {
        _ if resource.schema.is_some() => return json!({"metadata": {}}),
        "Node" => json!({
            "spec": {},
            "status": {
                "daemonEndpoints": {"kubeletEndpoint": {"Port": 0}},
                "nodeInfo": {
                    "machineID": "", "systemUUID": "", "bootID": "", "kernelVersion": "", "osImage": "",
                    "containerRuntimeVersion": "", "kubeletVersion": "", "kubeProxyVersion": "", "operatingSystem": "",
                    "architecture": "",
                },
            },
        }),
        "Pod" => json!({"spec": {"containers": null}, "status": {}}),
        "Namespace" => json!({"spec": {}, "status": {}}),
        "Lease" => json!({"spec": {}}),
        "CustomResourceDefinition" => json!({
            "spec": {"group": "", "names": {"plural": "", "kind": ""}, "scope": "", "versions": null},
            "status": {"conditions": null, "acceptedNames": {"plural": "", "kind": ""}, "storedVersions": null},
        }),
        _ => json!({}),
    };
    object["metadata"] = json!({});
    object
}

/// What this endpoint does not let anybody change.
pub(crate) fn ignored(resource: &Resource, subresource: &str) -> Vec<Path> {
    match (subresource, resource.schema.as_ref()) {
        ("status", Some(schema)) => {
            let names = schema["properties"].as_object().into_iter().flatten().map(|(name, _)| name.as_str());
            let names = names.chain(["metadata", "spec"]).filter(|name| *name != "status");
            names.map(|name| fields::fields(&[name])).collect()
        }
        ("status", None) => vec![fields::fields(&["spec"])],
        _ if resource.status => vec![fields::fields(&["status"])],
        _ => Vec::new(),
    }
}

/// Brings a written object into the form that the real server's types give it, with the defaults of its version.
pub(crate) fn settle(resource: &Resource, object: &mut Value) {
    let mut metadata = object["metadata"].take();
    without_empty(&Shape::Free, &mut metadata);
    object["metadata"] = if metadata.is_null() { json!({}) } else { metadata };
    if resource.schema.is_some() {
        return;
    }
    if resource.kind != "CustomResourceDefinition" {
        without_empty(&resource.shape, object);
    }
    fill(object, &empty(resource));
    match resource.kind.as_str() {
        "Node" => times(object, &["lastHeartbeatTime", "lastTransitionTime"]),
        "Namespace" => {
            let name = object["metadata"]["name"].clone();
            object["metadata"]["labels"]["kubernetes.io/metadata.name"] = name;
        }
        "Pod" => {
            times(object, &["lastProbeTime", "lastTransitionTime"]);
            pod(&mut object["spec"]);
        }
        "CustomResourceDefinition" => definition(&mut object["spec"]),
        _ => {}
    }
}

/// Nulls and what is empty are not written, but for structs without fields. A label may be empty, labels may not.
fn without_empty(shape: &Shape, value: &mut Value) {
    let Value::Object(map) = value else { return };
    for (name, child) in map.iter_mut() {
        if let Some(shape) = shape.field(name) {
            without_empty(shape, child);
        }
    }
    map.retain(|name, child| match child {
        Value::Null => false,
        Value::Array(items) => !items.is_empty(),
        Value::Object(child) => !(child.is_empty() && shape.field(name).is_some_and(Shape::is_map)),
        _ => true,
    });
}

/// Puts what is missing into an object.
fn fill(value: &mut Value, with: &Value) {
    if let (Value::Object(map), Value::Object(with)) = (value, with) {
        for (name, with) in with {
            match map.get_mut(name) {
                Some(child) => fill(child, with),
                None => drop(map.insert(name.clone(), with.clone())),
            }
        }
    }
}

/// Times of conditions that are always written, though nobody set them.
fn times(object: &mut Value, names: &[&str]) {
    let conditions = object.pointer_mut("/status/conditions").and_then(Value::as_array_mut);
    for condition in conditions.into_iter().flatten() {
        let missing: Map<String, Value> = names.iter().map(|name| ((*name).to_owned(), Value::Null)).collect();
        fill(condition, &Value::Object(missing));
    }
}

fn pod(spec: &mut Value) {
    for container in spec["containers"].as_array_mut().into_iter().flatten() {
        let image = container["image"].as_str().unwrap_or_default();
        let floating = !image.contains('@') && image.rsplit_once(':').is_none_or(|(_, tag)| tag == "latest");
        let policy = if floating { "Always" } else { "IfNotPresent" };
        let defaults = json!({
            "resources": {}, "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
            "imagePullPolicy": policy,
        });
        fill(container, &defaults);
    }
    let defaults = json!({
        "restartPolicy": "Always", "terminationGracePeriodSeconds": 30, "dnsPolicy": "ClusterFirst", "securityContext": {},
        "schedulerName": "default-scheduler", "enableServiceLinks": true,
    });
    fill(spec, &defaults);
}

fn definition(spec: &mut Value) {
    let kind = spec["names"]["kind"].as_str().unwrap_or_default().to_owned();
    let defaults = json!({
        "names": {"singular": kind.to_lowercase(), "listKind": format!("{kind}List")}, "conversion": {"strategy": "None"},
    });
    fill(spec, &defaults);
}

/// What admission and the registry put into a new object, owned by nobody.
pub(crate) fn admit(resource: &Resource, object: &mut Value) {
    match resource.kind.as_str() {
        "Node" => {
            let taint = json!({"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"});
            let taints = object["spec"]["taints"].take();
            let mut taints = taints.as_array().cloned().unwrap_or_default();
            if !taints.iter().any(|one| one["key"] == taint["key"]) {
                taints.push(taint);
            }
            object["spec"]["taints"] = Value::Array(taints);
        }
        "Namespace" => {
            fill(&mut object["spec"], &json!({"finalizers": ["kubernetes"]}));
            object["status"] = json!({"phase": "Active"});
        }
        "Pod" => {
            let tolerations = ["not-ready", "unreachable"].map(|what| {
                json!({
                    "key": format!("node.kubernetes.io/{what}"), "operator": "Exists", "effect": "NoExecute",
                    "tolerationSeconds": 300,
                })
            });
            let present = object["spec"]["tolerations"].take();
            let mut list = present.as_array().cloned().unwrap_or_default();
            let missing = tolerations.into_iter().filter(|one| !list.iter().any(|other| tolerates(other, one)));
            let missing: Vec<Value> = missing.collect();
            list.extend(missing);
            object["spec"]["tolerations"] = Value::Array(list);
            fill(&mut object["spec"], &json!({"priority": 0, "preemptionPolicy": "PreemptLowerPriority"}));
            object["status"] = json!({"phase": "Pending", "qosClass": "BestEffort"});
        }
        "CustomResourceDefinition" => {
            let versions = object["spec"]["versions"].as_array().into_iter().flatten();
            let stored = versions.filter(|version| version["storage"] == true).map(|version| version["name"].clone());
            let stored: Value = stored.collect();
            object["status"]["storedVersions"] = stored;
        }
        _ => {}
    }
}

/// Whether a toleration covers what another one is for.
fn tolerates(toleration: &Value, other: &Value) -> bool {
    let covers = |name: &str| toleration.get(name).is_none_or(|value| *value == other[name]);
    covers("key") && covers("effect")
}

/// Puts back what an update of this endpoint does not change.
pub(crate) fn keep(resource: &Resource, subresource: &str, live: &Value, new: &mut Value) {
    let custom = resource.schema.is_some();
    if subresource == "status" {
        let status = new.get("status").cloned();
        let metadata = new["metadata"].take();
        let kept = live.as_object().into_iter().flatten().filter(|(name, _)| *name != "status");
        *new = kept.map(|(name, value)| (name.clone(), value.clone())).collect();
        if let Some(status) = status {
            new["status"] = status;
        }
        if !custom {
            new["metadata"] = metadata;
        }
    } else if resource.status {
        match (live.get("status"), new.as_object_mut()) {
            (Some(status), Some(new)) => drop(new.insert("status".to_owned(), status.clone())),
            (None, Some(new)) => drop(new.remove("status")),
            _ => {}
        }
    }
    if resource.kind == "Namespace" && subresource != "finalize" {
        new["spec"]["finalizers"] = live["spec"]["finalizers"].clone();
    }
}

/// What is wrong with a built-in object.
pub(crate) fn validate(resource: &Resource, new: &Value, old: Option<&Value>) -> Vec<Mistake> {
    match resource.kind.as_str() {
        "Event" if old.is_none() => validate::event(resource, new),
        "Pod" => old.map_or_else(Vec::new, |old| validate::pod_update(new, old)),
        "CustomResourceDefinition" => validate::definition(new),
        _ => Vec::new(),
    }
}

/// Fields of a built-in object that its type does not have; an error is a value that does not fit.
pub(crate) fn unknown_fields(resource: &Resource, object: &Value) -> Result<Vec<String>, String> {
    let seen = match (resource.group.as_str(), resource.kind.as_str()) {
        ("", "Node") => seen::<core::v1::Node>(object),
        ("", "Namespace") => seen::<core::v1::Namespace>(object),
        ("", "Pod") => seen::<core::v1::Pod>(object),
        ("", "Event") => seen::<core::v1::Event>(object),
        ("", "ServiceAccount") => seen::<core::v1::ServiceAccount>(object),
        ("", "Secret") => seen::<core::v1::Secret>(object),
        ("", "ConfigMap") => seen::<core::v1::ConfigMap>(object),
        ("events.k8s.io", _) => seen::<events::v1::Event>(object),
        ("coordination.k8s.io", _) => seen::<coordination::v1::Lease>(object),
        ("apiextensions.k8s.io", _) => seen::<apiextensions::v1::CustomResourceDefinition>(object),
        (_, "ClusterRole") => seen::<rbac::v1::ClusterRole>(object),
        (_, "ClusterRoleBinding") => seen::<rbac::v1::ClusterRoleBinding>(object),
        (_, "Role") => seen::<rbac::v1::Role>(object),
        (_, "RoleBinding") => seen::<rbac::v1::RoleBinding>(object),
        _ => Ok(object.clone()),
    }?;
    let mut unknown = Vec::new();
    missing(object, &seen, "", &mut unknown);
    Ok(unknown)
}

/// What a type keeps of an object.
fn seen<T: serde::Serialize + serde::de::DeserializeOwned>(object: &Value) -> Result<Value, String> {
    let typed: T = serde_json::from_value(object.clone()).map_err(|error| error.to_string())?;
    serde_json::to_value(typed).map_err(|error| error.to_string())
}

fn missing(object: &Value, seen: &Value, path: &str, unknown: &mut Vec<String>) {
    match (object, seen) {
        (Value::Object(map), Value::Object(seen)) => {
            for (name, child) in map {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                match seen.get(name) {
                    Some(seen) => missing(child, seen, &path, unknown),
                    None if child.is_null() => {}
                    None => unknown.push(path),
                }
            }
        }
        (Value::Array(items), Value::Array(seen)) => {
            for (index, (item, seen)) in items.iter().zip(seen).enumerate() {
                missing(item, seen, &format!("{path}[{index}]"), unknown);
            }
        }
        _ => {}
    }
}
