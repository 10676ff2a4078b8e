//! Deleting: at once, with grace, or as soon as nobody holds an object any more.
//!
//! Deliberately absent: the garbage collector, the namespace controller and the kubelet, as of a bare API server. A pod with a node stays
//! until somebody deletes it without grace, a namespace for good.

use serde_json::{Value, json};

use super::admission;
use super::managers;
use super::rbac::User;
use super::resource::Target;
use super::selectors::Selector;
use super::status::{self, Outcome};
use super::world::World;
use super::write::Answer;

/// How to delete.
#[derive(Debug, Default)]
pub(crate) struct Options {
    /// The body: `DeleteOptions`.
    pub(crate) body: Value,
    /// `gracePeriodSeconds` of the query.
    pub(crate) grace: Option<i64>,
    /// `propagationPolicy` of the query.
    pub(crate) policy: String,
    /// `dryRun=All`.
    pub(crate) dry: bool,
}

impl Options {
    fn grace(&self) -> Option<i64> {
        self.grace.or(self.body["gracePeriodSeconds"].as_i64())
    }

    /// The finalizer of the garbage collector, who is not there to take it away.
    fn finalizer(&self) -> Option<&'static str> {
        match self.body["propagationPolicy"].as_str().unwrap_or(&self.policy) {
            "Foreground" => Some("foregroundDeletion"),
            "Orphan" => Some("orphan"),
            _ => None,
        }
    }
}

/// DELETE of an object.
pub(crate) fn one(world: &mut World, user: &User, target: &Target, options: &Options) -> Answer {
    let Target { resource, name, .. } = target;
    let key = World::key(target);
    let live = world.store.get(&key).ok_or_else(|| status::not_found(resource.named(name)))?;
    preconditions(target, &live, options)?;
    let write = admission::Write { operation: "DELETE", object: &Value::Null, old: &live };
    admission::validate(world, user, target, write)?;
    let dry = options.dry || options.body["dryRun"] == json!(["All"]);
    let mut new = Value::clone(&live);
    if let Some(finalizer) = options.finalizer() {
        let mut finalizers = new["metadata"]["finalizers"].as_array().cloned().unwrap_or_default();
        finalizers.push(json!(finalizer));
        new["metadata"]["finalizers"] = Value::Array(finalizers);
    }
    let grace = grace(&new, options);
    let empty = |list: &Value| list.as_array().is_none_or(Vec::is_empty);
    let held = !empty(&new["metadata"]["finalizers"]) || !empty(&new["spec"]["finalizers"]);
    if grace > 0 || held {
        mark(world, &mut new, grace);
        let unchanged = new == *live;
        if dry || unchanged {
            return Ok((200, new));
        }
        return Ok((200, Value::clone(&world.store.put(&key, new))));
    }
    if !dry {
        if resource.kind == "CustomResourceDefinition" {
            world.undefine(name);
        }
        world.store.remove(&key);
    }
    if ["Pod", "ServiceAccount"].contains(&resource.kind.as_str()) {
        return Ok((200, new));
    }
    let mut details = resource.named(name).details();
    details["uid"] = live["metadata"]["uid"].clone();
    let success = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details,
    });
    Ok((200, success))
}

/// DELETE of all that a selector selects.
pub(crate) fn all(world: &mut World, user: &User, target: &Target, selector: &Selector, options: &Options) -> Answer {
    let resource = &target.resource;
    let mut items = Vec::new();
    for (key, object) in world.store.list(resource.id(), &target.namespace) {
        if selector.selects(&object) {
            let target = Target { namespace: key.namespace, name: key.name, ..target.clone() };
            one(world, user, &target, options)?;
            items.push(Value::clone(&object));
        }
    }
    let metadata = json!({"resourceVersion": world.store.version().to_string()});
    let api_version = resource.api_version();
    Ok((200, json!({"kind": resource.list_kind, "apiVersion": api_version, "metadata": metadata, "items": items})))
}

fn preconditions(target: &Target, live: &Value, options: &Options) -> Outcome<()> {
    let texts = [
        ("uid", "UID", "The object might have been deleted and then recreated"),
        ("resourceVersion", "ResourceVersion", "The object might have been modified"),
    ];
    for (field, word, what) in texts {
        let (wanted, present) = (&options.body["preconditions"][field], &live["metadata"][field]);
        if !wanted.is_null() && wanted != present {
            let [wanted, present] = [wanted, present].map(|value| value.as_str().unwrap_or_default());
            let why = format!(
                "the {word} in the precondition ({wanted}) does not match the {word} in record ({present}). {what}"
            );
            return Err(status::conflict(target.resource.named(&target.name), &why));
        }
    }
    Ok(())
}

/// Only pods have any: those that are on a node and have not ended.
fn grace(object: &Value, options: &Options) -> i64 {
    let ended = ["Succeeded", "Failed"].contains(&object["status"]["phase"].as_str().unwrap_or_default());
    let placed = !object["spec"]["nodeName"].as_str().unwrap_or_default().is_empty();
    if object["kind"] != "Pod" || ended || !placed {
        return 0;
    }
    let own = object["spec"]["terminationGracePeriodSeconds"].as_i64();
    options.grace().or(own).unwrap_or_default().max(0)
}

fn mark(world: &World, object: &mut Value, grace: i64) {
    let managers = managers::take(object);
    let namespace = object["kind"] == "Namespace";
    let metadata = &mut object["metadata"];
    if metadata["deletionTimestamp"].is_null() {
        if let Some(generation) = metadata["generation"].as_i64() {
            metadata["generation"] = json!(generation + 1);
        }
        let now: jiff::Timestamp = world.now().parse().unwrap_or_default();
        let end = now.checked_add(jiff::SignedDuration::from_secs(grace)).unwrap_or(now);
        metadata["deletionTimestamp"] = json!(end.strftime("%Y-%m-%dT%H:%M:%SZ").to_string());
        if !namespace {
            metadata["deletionGracePeriodSeconds"] = json!(grace);
        }
    } else if metadata["deletionGracePeriodSeconds"].as_i64().is_some_and(|before| grace < before) {
        metadata["deletionGracePeriodSeconds"] = json!(grace);
    }
    if namespace {
        object["status"]["phase"] = json!("Terminating");
    }
    managers::put(object, &managers);
}
