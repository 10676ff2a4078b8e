//! Objects in memory with all that ever happened to them: a small etcd.
//!
//! Deliberately absent: what is written is right already (`write`); who reads is let in already (`http`).

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use serde_json::Value;

/// Where an object is. The order is that of lists.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Key {
    /// `nodes`, `gadgets.egret.dev`.
    pub(crate) resource: String,
    /// Empty where objects have none.
    pub(crate) namespace: String,
    /// Its name.
    pub(crate) name: String,
}

impl Key {
    pub(crate) fn new(resource: &str, namespace: &str, name: &str) -> Self {
        Self { resource: resource.to_owned(), namespace: namespace.to_owned(), name: name.to_owned() }
    }
}

/// One write.
#[derive(Debug, Clone)]
pub(crate) struct Change {
    /// The version that it made.
    pub(crate) version: u64,
    /// Of which object.
    pub(crate) key: Key,
    /// The object before, if it was there.
    pub(crate) before: Option<Arc<Value>>,
    /// The object after; of a deletion the last one, with the deletion's version.
    pub(crate) object: Arc<Value>,
    /// Whether it is gone.
    pub(crate) deleted: bool,
    text: OnceCell<String>,
}

impl Change {
    /// The object after as JSON: every watch of it sends the same.
    pub(crate) fn text(&self) -> &str {
        self.text.get_or_init(|| self.object.to_string())
    }
}

/// Objects, and what happened to them since the last compaction.
#[derive(Debug, Default)]
pub(crate) struct Store {
    objects: BTreeMap<Key, Arc<Value>>,
    log: Vec<Change>,
    version: u64,
    compacted: u64,
    /// The resources that were written to since somebody asked.
    written: BTreeSet<String>,
}

impl Store {
    /// The version of the last write.
    pub(crate) fn version(&self) -> u64 {
        self.version
    }

    /// An object.
    pub(crate) fn get(&self, key: &Key) -> Option<Arc<Value>> {
        self.objects.get(key).cloned()
    }

    /// Writes an object and gives it back with its version.
    pub(crate) fn put(&mut self, key: &Key, mut object: Value) -> Arc<Value> {
        self.version += 1;
        object["metadata"]["resourceVersion"] = Value::String(self.version.to_string());
        let object = Arc::new(object);
        let before = self.objects.insert(key.clone(), Arc::clone(&object));
        self.note(key, before, Arc::clone(&object), false);
        object
    }

    /// Takes an object away.
    pub(crate) fn remove(&mut self, key: &Key) {
        if let Some(before) = self.objects.remove(key) {
            self.version += 1;
            let mut last = Value::clone(&before);
            last["metadata"]["resourceVersion"] = Value::String(self.version.to_string());
            self.note(key, Some(before), Arc::new(last), true);
        }
    }

    fn note(&mut self, key: &Key, before: Option<Arc<Value>>, object: Arc<Value>, deleted: bool) {
        if !self.written.contains(&key.resource) {
            self.written.insert(key.resource.clone());
        }
        let text = OnceCell::new();
        self.log.push(Change { version: self.version, key: key.clone(), before, object, deleted, text });
    }

    /// The resources that were written to since this was last asked.
    pub(crate) fn take_written(&mut self) -> BTreeSet<String> {
        std::mem::take(&mut self.written)
    }

    /// The objects of a resource, in all namespaces or in one, in order.
    pub(crate) fn list(&self, resource: &str, namespace: &str) -> BTreeMap<Key, Arc<Value>> {
        let from = Key::new(resource, namespace, "");
        let of_it = |key: &Key| key.resource == resource && (namespace.is_empty() || key.namespace == namespace);
        self.objects
            .range((Bound::Included(from), Bound::Unbounded))
            .take_while(|(key, _)| of_it(key))
            .map(|(key, object)| (key.clone(), Arc::clone(object)))
            .collect()
    }

    /// The same as it was at a version; nothing where nobody remembers.
    pub(crate) fn list_at(&self, resource: &str, namespace: &str, version: u64) -> Option<BTreeMap<Key, Arc<Value>>> {
        if version < self.compacted {
            return None;
        }
        let mut objects = self.list(resource, namespace);
        let in_it = |key: &Key| key.resource == resource && (namespace.is_empty() || key.namespace == namespace);
        for change in self.log.iter().rev().take_while(|change| change.version > version) {
            if in_it(&change.key) {
                match &change.before {
                    Some(before) => objects.insert(change.key.clone(), Arc::clone(before)),
                    None => objects.remove(&change.key),
                };
            }
        }
        Some(objects)
    }

    /// What happened after a version; nothing where nobody remembers.
    pub(crate) fn since(&self, version: u64) -> Option<&[Change]> {
        let from = self.log.partition_point(|change| change.version <= version);
        (version >= self.compacted).then(|| &self.log[from..])
    }

    /// Forgets what happened up to now.
    pub(crate) fn compact(&mut self) {
        self.log.clear();
        self.compacted = self.version;
    }
}
