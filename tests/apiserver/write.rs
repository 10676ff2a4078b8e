//! Creating, changing and deleting objects, in the order in which the real server does it.
//!
//! Deliberately absent: how a patch is put into an object (`patch`), and who may do it (`rbac`).

use std::sync::Arc;

use serde_json::{Value, json};

use super::admission;
use super::builtin;
use super::managers::{self, Manager, Managers, Writing};
use super::merge;
use super::patch;
use super::rbac::User;
use super::resource::Target;
use super::schema;
use super::status::{self, Mistake, Outcome};
use super::store::Key;
use super::validate;
use super::world::World;

/// What the server says to a stale writer.
const MODIFIED: &str = "the object has been modified; please apply your changes to the latest version and try again";

/// What comes with an object: where to, and how.
pub(crate) struct Call<'a> {
    /// Where to.
    pub(crate) target: &'a Target,
    /// What the query says of a name, or nothing.
    pub(crate) query: &'a dyn Fn(&str) -> String,
    /// The program that asks, who is the manager where nobody is named.
    pub(crate) agent: &'a str,
    /// Who asks.
    pub(crate) user: &'a User,
    /// Whether this caller may create the object too.
    pub(crate) may_create: Outcome<()>,
}

/// The status and the object.
pub(crate) type Answer = Outcome<(u16, Value)>;

impl Call<'_> {
    fn dry(&self) -> bool {
        (self.query)("dryRun") == "All"
    }

    fn strict(&self) -> bool {
        (self.query)("fieldValidation") == "Strict"
    }

    fn manager(&self, operation: &'static str) -> Manager {
        let named = (self.query)("fieldManager");
        let agent = self.agent.split('/').next().unwrap_or_default();
        let subresource = self.target.subresource.clone();
        let api_version = self.target.resource.api_version();
        let name = if named.is_empty() { agent.to_owned() } else { named };
        Manager { operation, name, api_version, subresource }
    }
}

/// POST of an object.
pub(crate) fn create(world: &mut World, call: &Call<'_>, mut new: Value) -> Answer {
    let resource = &call.target.resource;
    identify(call, &mut new)?;
    if !new["metadata"]["resourceVersion"].as_str().unwrap_or_default().is_empty() {
        return Err(status::bad_request("resourceVersion should not be set on objects to be created"));
    }
    if let (Some(prefix), true) = (new["metadata"]["generateName"].as_str(), new["metadata"]["name"].is_null()) {
        let letters = world.uid();
        new["metadata"]["name"] = json!(format!("{prefix}{}", &letters[letters.len() - 5..]));
    }
    managers::take(&mut new);
    known_fields(call, &mut new)?;
    without_status(call, &mut new);
    settle(call, &mut new);
    let live = blank(call, &new);
    let (shape, now) = (&resource.shape, world.now());
    let ignored = builtin::ignored(resource, "");
    let writing = Writing { shape, manager: call.manager("Update"), ignored: &ignored, now: &now };
    let managers = managers::update(&writing, &live, &new, Managers::new());
    finish_create(world, call, new, &managers)
}

/// PUT of an object. Those that are written often are made by it too.
pub(crate) fn replace(world: &mut World, call: &Call<'_>, mut new: Value) -> Answer {
    let made = ["Lease", "Event"].contains(&call.target.resource.kind.as_str());
    if made && world.store.get(&World::key(call.target)).is_none() {
        call.may_create.clone()?;
        without_version(&mut new);
        return create(world, call, new);
    }
    let live = existing(world, call)?;
    identify(call, &mut new)?;
    let (resource, name) = (&call.target.resource, &call.target.name);
    let (given, present) = (&new["metadata"]["uid"], &live["metadata"]["uid"]);
    if !given.is_null() && given != present {
        let [given, present] = [given, present].map(|uid| uid.as_str().unwrap_or_default());
        let why = format!("Precondition failed: UID in precondition: {given}, UID in object meta: {present}");
        return Err(status::conflict(resource.named(name), &why));
    }
    let unconditional =
        resource.schema.is_none() && !["Lease", "CustomResourceDefinition"].contains(&resource.kind.as_str());
    if new["metadata"]["resourceVersion"].is_null() && !unconditional {
        let why = "must be specified for an update";
        let mistake = Mistake::invalid("metadata.resourceVersion", &json!(0), why);
        return Err(status::invalid(resource.named(name), &[mistake]));
    }
    update(world, call, &live, new)
}

/// PATCH of an object, by whatever kind of patch.
pub(crate) fn change(world: &mut World, call: &Call<'_>, kind: &str, body: &[u8]) -> Answer {
    let custom = call.target.resource.schema.is_some();
    match kind {
        "application/apply-patch+yaml" => {
            // JSON is read as YAML too, which is narrower.
            let control = |c: char| matches!(c, '\u{7f}'..='\u{84}' | '\u{86}'..='\u{9f}' | '\u{fffe}' | '\u{ffff}');
            if String::from_utf8_lossy(body).contains(control) {
                return Err(status::bad_request("error decoding YAML: yaml: control characters are not allowed"));
            }
            let applied = serde_json::from_slice(body).or_else(|_| {
                let text = String::from_utf8_lossy(body);
                serde_yaml::from_str(&text)
                    .map_err(|error| status::bad_request(format!("error decoding YAML: {error}")))
            })?;
            apply(world, call, applied)
        }
        "application/merge-patch+json" | "application/json-patch+json" => patched(world, call, kind, body),
        "application/strategic-merge-patch+json" if !custom => patched(world, call, kind, body),
        _ => {
            let strategic = if custom { "" } else { ",application/strategic-merge-patch+json" };
            Err(status::unsupported(&format!(
                "application/json-patch+json,application/merge-patch+json,application/apply-patch+yaml{strategic}"
            )))
        }
    }
}

fn patched(world: &mut World, call: &Call<'_>, kind: &str, body: &[u8]) -> Answer {
    let live = existing(world, call)?;
    let new = patch::patched(&call.target.resource.shape, &live, kind, body)?;
    update(world, call, &live, new)
}

/// A whole new object in the place of one that is there.
fn update(world: &mut World, call: &Call<'_>, live: &Arc<Value>, mut new: Value) -> Answer {
    let resource = &call.target.resource;
    fresh(call, live, &new)?;
    // Entries that come with the object take the place of those that are there: whoever may write it may forget them.
    let given = managers::take(&mut new);
    let mut bare = Value::clone(live);
    let there = managers::take(&mut bare);
    let managers = if given.is_empty() { there } else { given };
    known_fields(call, &mut new)?;
    settle(call, &mut new);
    let (ignored, now) = (builtin::ignored(resource, &call.target.subresource), world.now());
    let manager = call.manager("Update");
    let writing = Writing { shape: &resource.shape, manager, ignored: &ignored, now: &now };
    let managers = managers::update(&writing, &bare, &new, managers);
    finish_update(world, call, live, new, &managers)
}

/// Server-side apply.
fn apply(world: &mut World, call: &Call<'_>, mut applied: Value) -> Answer {
    let (resource, name) = (&call.target.resource, &call.target.name);
    if (call.query)("fieldManager").is_empty() {
        let named = status::Named { group: "meta.k8s.io", kind: "PatchOptions", name: "" };
        let mistake = Mistake::required("fieldManager", "is required for apply patch");
        return Err(status::invalid(named, &[mistake]));
    }
    if !applied["metadata"]["managedFields"].is_null() {
        return Err(status::bad_request("metadata.managedFields must be nil"));
    }
    identify(call, &mut applied)?;
    well_formed(call, &applied)?;
    let key = World::key(call.target);
    let live = world.store.get(&key);
    if live.is_none() && !call.target.subresource.is_empty() {
        return Err(status::not_found(resource.named(name)));
    }
    if let (None, Some(uid)) = (&live, applied["metadata"]["uid"].as_str()) {
        let why = format!("uid mismatch: the provided object specified uid {uid}, and no existing object was found");
        return Err(status::conflict(resource.named(name), &why));
    }
    if let Some(live) = &live {
        fresh(call, live, &applied)?;
    } else {
        call.may_create.clone()?;
    }
    let mut bare = live.as_ref().map_or_else(|| blank(call, &applied), |live| Value::clone(live));
    let managers = managers::take(&mut bare);
    let (ignored, now) = (builtin::ignored(resource, &call.target.subresource), world.now());
    let (manager, force) = (call.manager("Apply"), (call.query)("force") == "true");
    let writing = Writing { shape: &resource.shape, manager, ignored: &ignored, now: &now };
    let (mut new, managers) = managers::apply(&writing, &bare, &applied, managers, force).map_err(|conflicts| {
        let (causes, message) = managers::refusal(&conflicts);
        status::apply_conflict(&causes, &message)
    })?;
    settle(call, &mut new);
    if let Some(live) = live {
        return finish_update(world, call, &live, new, &managers);
    }
    without_status(call, &mut new);
    without_version(&mut new);
    finish_create(world, call, new, &managers)
}

fn without_version(object: &mut Value) {
    if let Some(metadata) = object["metadata"].as_object_mut() {
        metadata.remove("resourceVersion");
    }
}

/// What is applied has to fit the kind's form, whatever `fieldValidation` says.
fn well_formed(call: &Call<'_>, applied: &Value) -> Outcome<()> {
    let resource = &call.target.resource;
    let mut wrong = merge::misfit(&resource.shape, applied, &mut Vec::new());
    if resource.schema.is_none() && wrong.is_none() {
        wrong = match builtin::unknown_fields(resource, applied) {
            Ok(unknown) => unknown.first().map(|path| format!(".{path}: field not declared in schema")),
            Err(what) => Some(what),
        };
    }
    let gvk = format!("{}/{}, Kind={}", resource.group, resource.version, resource.kind);
    wrong.map_or(Ok(()), |wrong| {
        let (namespace, name) = (&call.target.namespace, &call.target.name);
        Err(status::internal(&format!("failed to create typed patch object ({namespace}/{name}; {gvk}): {wrong}")))
    })
}

fn existing(world: &World, call: &Call<'_>) -> Outcome<Arc<Value>> {
    let named = call.target.resource.named(&call.target.name);
    world.store.get(&World::key(call.target)).ok_or_else(|| status::not_found(named))
}

/// Who the object says it is has to be what the path says.
fn identify(call: &Call<'_>, object: &mut Value) -> Outcome<()> {
    let Target { resource, namespace, name, .. } = call.target;
    if !object.is_object() {
        return Err(status::bad_request("the body of the request is no object"));
    }
    let expected = [("apiVersion", resource.api_version()), ("kind", resource.kind.clone())];
    for (field, wanted) in expected {
        if object[field].is_null() {
            object[field] = json!(wanted);
        } else if object[field] != json!(wanted) {
            return Err(status::bad_request(format!(
                "the {field} in the data ({}) does not match the expected one ({wanted})",
                object[field].as_str().unwrap_or_default()
            )));
        }
    }
    if !object["metadata"].is_object() {
        object["metadata"] = json!({});
    }
    let said = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
    if !said("namespace").is_empty() && said("namespace") != *namespace {
        let why = "the namespace of the provided object does not match the namespace sent on the request";
        return Err(status::bad_request(why));
    }
    if !name.is_empty() && !said("name").is_empty() && said("name") != *name {
        let why = format!("the name of the object ({}) does not match the name on the URL ({name})", said("name"));
        return Err(status::bad_request(why));
    }
    if !name.is_empty() {
        object["metadata"]["name"] = json!(name);
    }
    if !namespace.is_empty() {
        object["metadata"]["namespace"] = json!(namespace);
    }
    Ok(())
}

/// A version that the object bears has to be the present one.
fn fresh(call: &Call<'_>, live: &Value, new: &Value) -> Outcome<()> {
    let version = |object: &Value| object["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned();
    if version(new).is_empty() || version(new) == version(live) {
        return Ok(());
    }
    Err(status::conflict(call.target.resource.named(&call.target.name), MODIFIED))
}

/// Unknown fields: pruned from custom objects, or refused. Of built-in ones they are always refused, which is stricter than the real
/// server: nobody here has a reason to send one.
fn known_fields(call: &Call<'_>, object: &mut Value) -> Outcome<()> {
    let resource = &call.target.resource;
    let unknown = match &resource.schema {
        Some(schema) => schema::prune(schema, object),
        None => builtin::unknown_fields(resource, object).map_err(|what| {
            let Value::String(kind) = &object["kind"] else { return status::bad_request(&what) };
            let version = &resource.version;
            status::bad_request(format!("{kind} in version {version:?} cannot be handled as a {kind}: {what}"))
        })?,
    };
    if unknown.is_empty() || (resource.schema.is_some() && !call.strict()) {
        return Ok(());
    }
    let fields: Vec<String> = unknown.iter().map(|path| format!("unknown field {path:?}")).collect();
    Err(status::bad_request(format!("strict decoding error: {}", fields.join(", "))))
}

fn settle(call: &Call<'_>, object: &mut Value) {
    let resource = &call.target.resource;
    builtin::settle(resource, object);
    if let Some(schema) = &resource.schema {
        schema::fill(schema, object);
    }
}

/// A custom object's status is written by its subresource alone.
fn without_status(call: &Call<'_>, object: &mut Value) {
    let resource = &call.target.resource;
    if let (true, Some(object)) = (resource.schema.is_some() && resource.status, object.as_object_mut()) {
        object.remove("status");
    }
}

/// What stands for an object that is not there, to compare a new one with.
fn blank(call: &Call<'_>, new: &Value) -> Value {
    let mut blank = builtin::empty(&call.target.resource);
    for name in ["apiVersion", "kind"] {
        blank[name] = new[name].clone();
    }
    blank
}

fn valid(world: &mut World, call: &Call<'_>, new: &Value, old: Option<&Value>) -> Outcome<()> {
    let resource = &call.target.resource;
    let mut mistakes = validate::metadata(resource, new, old);
    mistakes.extend(builtin::validate(resource, new, old));
    if let Some(schema) = &resource.schema {
        mistakes.extend(world.known(schema::validate_with(schema, resource.rules, new, old))?);
    }
    let name = new["metadata"]["name"].as_str().unwrap_or_default();
    if mistakes.is_empty() { Ok(()) } else { Err(status::invalid(resource.of_kind(name), &mistakes)) }
}

fn finish_create(world: &mut World, call: &Call<'_>, mut new: Value, managers: &Managers) -> Answer {
    let Target { resource, namespace, .. } = call.target;
    let name = new["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let key = Key::new(resource.id(), namespace, &name);
    if !namespace.is_empty() && world.store.get(&Key::new("namespaces", "", namespace)).is_none() {
        return Err(status::not_found(status::Named { group: "", kind: "namespaces", name: namespace }));
    }
    builtin::admit(resource, &mut new);
    let metadata = &mut new["metadata"];
    metadata["uid"] = json!(world.uid());
    metadata["creationTimestamp"] = json!(world.now());
    if resource.generation {
        metadata["generation"] = json!(1);
    }
    valid(world, call, &new, None)?;
    let write = admission::Write { operation: "CREATE", object: &new, old: &Value::Null };
    admission::validate(world, call.user, call.target, write)?;
    if world.store.get(&key).is_some() {
        return Err(status::already_exists(resource.named(&name)));
    }
    managers::put(&mut new, managers);
    storable(&new)?;
    if call.dry() {
        return Ok((201, new));
    }
    let object = world.store.put(&key, new);
    after(world, call, &key);
    Ok((201, Value::clone(&object)))
}

fn finish_update(world: &mut World, call: &Call<'_>, live: &Arc<Value>, mut new: Value, managers: &Managers) -> Answer {
    let Target { resource, subresource, .. } = call.target;
    let mut bare = Value::clone(live);
    managers::take(&mut bare);
    builtin::keep(resource, subresource, &bare, &mut new);
    let given = new["metadata"]["uid"].clone();
    let kept = ["name", "namespace", "uid", "resourceVersion", "creationTimestamp", "generation"];
    for name in kept.into_iter().chain(["deletionTimestamp", "deletionGracePeriodSeconds", "generateName"]) {
        match bare["metadata"].get(name) {
            Some(value) => new["metadata"][name] = value.clone(),
            None => drop(new["metadata"].as_object_mut().map(|metadata| metadata.remove(name))),
        }
    }
    if !given.is_null() {
        new["metadata"]["uid"] = given;
    }
    valid(world, call, &new, Some(&bare))?;
    let write = admission::Write { operation: "UPDATE", object: &new, old: &bare };
    admission::validate(world, call.user, call.target, write)?;
    if resource.generation && !essence(call, &new).eq(essence(call, &bare)) {
        new["metadata"]["generation"] = json!(bare["metadata"]["generation"].as_i64().unwrap_or_default() + 1);
    }
    managers::put(&mut new, managers);
    if is_same_but_for_times(&new, live) {
        return Ok((200, Value::clone(live)));
    }
    if call.dry() {
        return Ok((200, new));
    }
    let key = World::key(call.target);
    storable(&new)?;
    if is_over(&new) {
        world.store.remove(&key);
        return Ok((200, new));
    }
    let object = world.store.put(&key, new);
    after(world, call, &key);
    Ok((200, Value::clone(&object)))
}

/// The largest request that etcd takes, and the overhead of one with an object.
const MAX_REQUEST: usize = 1_572_864 - 1024;

fn storable(object: &Value) -> Outcome<()> {
    if longest(object) > MAX_REQUEST && object.to_string().len() > MAX_REQUEST {
        Err(status::internal("etcdserver: request is too large"))
    } else {
        Ok(())
    }
}

/// More bytes than an object has as JSON, without writing it: of a text every byte may be escaped.
fn longest(value: &Value) -> usize {
    match value {
        Value::Null | Value::Bool(_) => 5,
        Value::Number(_) => 32,
        Value::String(text) => 6 * text.len() + 2,
        Value::Array(items) => items.iter().map(|item| longest(item) + 1).sum::<usize>() + 2,
        Value::Object(map) => map.iter().map(|(name, value)| 6 * name.len() + 4 + longest(value)).sum::<usize>() + 2,
    }
}

/// What the generation counts the changes of.
fn essence<'a>(call: &Call<'_>, object: &'a Value) -> impl Iterator<Item = (&'a String, &'a Value)> {
    let status = call.target.resource.status;
    let counted = move |name: &str| name != "metadata" && !(status && name == "status");
    object.as_object().into_iter().flatten().filter(move |(name, _)| counted(name))
}

/// A write that changes nothing but when somebody last wrote is none.
fn is_same_but_for_times(one: &Value, other: &Value) -> bool {
    fn parts<'a>(value: &'a Value, without: &'a str) -> impl Iterator<Item = (&'a String, &'a Value)> {
        value.as_object().into_iter().flatten().filter(move |(name, _)| *name != without)
    }
    fn entries(object: &Value) -> &[Value] {
        object["metadata"]["managedFields"].as_array().map(Vec::as_slice).unwrap_or_default()
    }
    parts(one, "metadata").eq(parts(other, "metadata"))
        && parts(&one["metadata"], "managedFields").eq(parts(&other["metadata"], "managedFields"))
        && entries(one).len() == entries(other).len()
        && entries(one).iter().zip(entries(other)).all(|(one, other)| parts(one, "time").eq(parts(other, "time")))
}

/// Whether it is to be deleted and nobody holds it any more.
fn is_over(object: &Value) -> bool {
    let metadata = &object["metadata"];
    let empty = |list: &Value| list.as_array().is_none_or(Vec::is_empty);
    !metadata["deletionTimestamp"].is_null()
        && metadata["deletionGracePeriodSeconds"].as_i64().unwrap_or_default() == 0
        && empty(&metadata["finalizers"])
        && empty(&object["spec"]["finalizers"])
}

/// The server's own controller: a definition is accepted as soon as it is written.
fn after(world: &mut World, call: &Call<'_>, key: &Key) {
    if call.target.resource.kind != "CustomResourceDefinition" {
        return;
    }
    let Some(definition) = world.store.get(key) else { return };
    world.define(&definition);
    let now = world.now();
    let condition = |kind: &str, reason: &str, message: &str| json!({"type": kind, "status": "True", "reason": reason, "message": message, "lastTransitionTime": now});
    let conditions = [
        condition("NamesAccepted", "NoConflicts", "no conflicts found"),
        condition("Established", "InitialNamesAccepted", "the initial names have been accepted"),
    ];
    let mut new = Value::clone(&definition);
    let managers = managers::take(&mut new);
    let live = new.clone();
    new["status"]["acceptedNames"] = new["spec"]["names"].clone();
    if new["status"]["conditions"].is_null() {
        new["status"]["conditions"] = json!(conditions);
    }
    let manager = Manager {
        operation: "Update",
        name: "kube-apiserver".to_owned(),
        api_version: call.target.resource.api_version(),
        subresource: "status".to_owned(),
    };
    let writing = Writing { shape: &call.target.resource.shape, manager, ignored: &[], now: &now };
    let managers = managers::update(&writing, &live, &new, managers);
    managers::put(&mut new, &managers);
    if !is_same_but_for_times(&new, &definition) {
        world.store.put(key, new);
    }
}
