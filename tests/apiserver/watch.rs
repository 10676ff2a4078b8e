//! Watches: what happened since a version, as it happens, with bookmarks and initial events.
//!
//! Deliberately absent: how bytes get to the client (`http`).

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::builtin;
use super::read;
use super::resource::Target;
use super::selectors::Selector;
use super::status::{self, Mistake, Outcome};
use super::store::Change;
use super::world::World;

/// How often bookmarks come by themselves, as the real server sends them.
const BOOKMARKS: Duration = Duration::from_mins(1);

/// One watch, and how far it has been told.
pub(crate) struct Watch {
    target: Target,
    selector: Selector,
    partial: bool,
    bookmarks: bool,
    /// What is to be sent, before anything that happens: events as lines.
    pending: String,
    position: u64,
    epoch: u64,
    asked: u64,
    next_bookmark: Instant,
    /// When it is over by itself.
    pub(crate) deadline: Instant,
    ended: bool,
}

/// What a watch has to say.
pub(crate) enum News {
    /// These events, a line each.
    Events(String),
    /// Nothing until something changes, or this moment.
    Nothing(Instant),
    /// It is over.
    Over,
}

impl Watch {
    /// Begins a watch.
    pub(crate) fn begin(
        world: &World,
        target: &Target,
        query: &dyn Fn(&str) -> String,
        partial: bool,
    ) -> Outcome<Self> {
        let id = target.resource.id();
        let mut fields = query("fieldSelector");
        if !target.name.is_empty() {
            fields = format!("metadata.name={}", target.name);
        }
        let selector = Selector::parse(id, &query("labelSelector"), &fields)?;
        let position = read::version(&query("resourceVersion"))?;
        let seconds = query("timeoutSeconds").parse().ok().filter(|seconds| *seconds > 0).unwrap_or(1800);
        let now = Instant::now();
        let mut watch = Self {
            target: target.clone(),
            selector,
            partial,
            bookmarks: query("allowWatchBookmarks") == "true",
            pending: String::new(),
            position,
            epoch: world.epoch,
            asked: world.bookmarks,
            next_bookmark: now + BOOKMARKS,
            deadline: now + Duration::from_secs(seconds),
            ended: false,
        };
        let initial = query("sendInitialEvents");
        if initial == "true" && query("resourceVersionMatch") != "NotOlderThan" {
            let named = status::Named { group: "meta.k8s.io", kind: "ListOptions", name: "" };
            let why = "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided";
            let message = format!("Forbidden: {why}");
            let field = "resourceVersionMatch".to_owned();
            return Err(status::invalid(named, &[Mistake { reason: "FieldValueForbidden", field, message }]));
        }
        if initial == "true" || (position == 0 && initial.is_empty()) {
            watch.initial_events(world, initial == "true");
        } else if position == 0 {
            watch.position = world.visible(id);
        } else if world.store.since(position).is_none() {
            watch.expire(world);
        }
        Ok(watch)
    }

    fn initial_events(&mut self, world: &World, marked: bool) {
        let id = self.target.resource.id();
        let at = world.stale.get(id).copied().unwrap_or_else(|| world.visible(id));
        let objects = world.store.list_at(id, &self.target.namespace, at).unwrap_or_default();
        let selected = objects.values().filter(|object| self.selects(object));
        self.pending = selected.map(|object| self.event("ADDED", object)).collect();
        self.position = at;
        if marked && self.bookmarks {
            let annotations = json!({"k8s.io/initial-events-end": "true"});
            let bookmark = self.bookmark(json!({"resourceVersion": at.to_string(), "annotations": annotations}));
            self.pending.push_str(&bookmark);
        }
    }

    /// What it asks for is no longer known: it is told so, and over.
    fn expire(&mut self, world: &World) {
        let message = format!("too old resource version: {} ({})", self.position, world.store.version());
        self.pending.push_str(&line("ERROR", &status::expired(&message).body.to_string()));
        self.ended = true;
    }

    fn selects(&self, object: &Value) -> bool {
        self.selector.selects(object)
    }

    fn event(&self, kind: &str, object: &Value) -> String {
        if self.partial {
            return line(kind, &read::metadata_of(object).to_string());
        }
        line(kind, &object.to_string())
    }

    fn bookmark(&self, metadata: Value) -> String {
        let resource = &self.target.resource;
        let mut object = builtin::empty(resource);
        object["kind"] = json!(resource.kind);
        object["apiVersion"] = json!(resource.api_version());
        object["metadata"] = metadata;
        self.event("BOOKMARK", &object)
    }

    /// The resource that it is of.
    pub(crate) fn resource(&self) -> &str {
        self.target.resource.id()
    }

    /// What it has to say now.
    pub(crate) fn news(&mut self, world: &World) -> News {
        if !self.pending.is_empty() {
            return News::Events(std::mem::take(&mut self.pending));
        }
        let now = Instant::now();
        if self.ended || self.epoch != world.epoch || now >= self.deadline {
            return News::Over;
        }
        let visible = world.visible(self.target.resource.id());
        if visible > self.position {
            let Some(changes) = world.store.since(self.position) else {
                self.expire(world);
                return News::Events(std::mem::take(&mut self.pending));
            };
            let told = changes.iter().take_while(|change| change.version <= visible);
            let events: String = told.filter_map(|change| self.event_for(change)).collect();
            self.position = visible;
            if !events.is_empty() {
                return News::Events(events);
            }
        }
        let asked = self.asked != world.bookmarks;
        self.asked = world.bookmarks;
        if self.bookmarks && (asked || now >= self.next_bookmark) {
            self.next_bookmark = now + BOOKMARKS;
            return News::Events(self.bookmark(json!({"resourceVersion": self.position.to_string()})));
        }
        News::Nothing(self.deadline.min(self.next_bookmark.max(now + Duration::from_millis(1))))
    }

    /// A change as this watch sees it: an object that is no longer selected is gone for it.
    fn event_for(&self, change: &Change) -> Option<String> {
        let Target { resource, namespace, .. } = &self.target;
        let in_it =
            change.key.resource == resource.id() && (namespace.is_empty() || change.key.namespace == *namespace);
        if !in_it {
            return None;
        }
        let before = change.before.as_ref().filter(|object| self.selects(object));
        let after = (!change.deleted && self.selects(&change.object)).then_some(&change.object);
        let whole = |kind: &str| {
            if self.partial { self.event(kind, &change.object) } else { line(kind, change.text()) }
        };
        match (before, after) {
            (None, Some(_)) => Some(whole("ADDED")),
            (Some(_), Some(_)) => Some(whole("MODIFIED")),
            (Some(_), None) if change.deleted => Some(whole("DELETED")),
            (Some(before), None) => {
                let mut last = Value::clone(before);
                last["metadata"]["resourceVersion"] = json!(change.version.to_string());
                Some(self.event("DELETED", &last))
            }
            (None, None) => None,
        }
    }
}

fn line(kind: &str, object: &str) -> String {
    format!("{{\"object\":{object},\"type\":\"{kind}\"}}\n")
}
