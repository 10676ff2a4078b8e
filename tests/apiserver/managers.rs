//! Who owns which fields: `metadata.managedFields` over updates and server-side applies.
//!
//! Deliberately absent: where the objects come from and go to (`write`); sets in the versions of a kind that nobody asked for.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::fields::{self, Path, Set};
use super::merge::{self, Comparison};
use super::shape::Shape;

/// Whose entry it is. The order is the one in which entries are written, but for their times.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Manager {
    /// `Apply` or `Update`.
    pub(crate) operation: &'static str,
    /// Its name.
    pub(crate) name: String,
    /// The version of the kind it wrote.
    pub(crate) api_version: String,
    /// The subresource it wrote to, empty for the object itself.
    pub(crate) subresource: String,
}

impl Manager {
    /// As conflicts call it.
    fn text(&self) -> String {
        let Self { operation, name, api_version, subresource } = self;
        let of = if subresource.is_empty() { String::new() } else { format!(" with subresource {subresource:?}") };
        let using = if *operation == "Update" { format!(" using {api_version}") } else { String::new() };
        format!("{name:?}{of}{using}")
    }
}

/// What one of them owns, and when it last changed something.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    set: Set,
    time: String,
}

/// All entries of an object.
pub(crate) type Managers = BTreeMap<Manager, Entry>;

/// Everything that a write is, but for the objects.
pub(crate) struct Writing<'a> {
    /// The form of the kind.
    pub(crate) shape: &'a Shape,
    /// Who writes.
    pub(crate) manager: Manager,
    /// What this endpoint does not let anybody change, and so nobody owns by it.
    pub(crate) ignored: &'a [Path],
    /// When.
    pub(crate) now: &'a str,
}

/// Fields that somebody else owns, with another value.
pub(crate) type Conflicts = BTreeMap<Manager, Set>;

/// What nobody owns: who an object is, and what the server keeps in it.
fn nobodys() -> Set {
    let below = ["name", "namespace", "creationTimestamp", "uid", "generation", "managedFields", "resourceVersion"];
    let mut set: Set = below.iter().map(|name| fields::fields(&["metadata", name])).collect();
    set.extend([fields::fields(&["apiVersion"]), fields::fields(&["kind"]), fields::fields(&["metadata"])]);
    set
}

/// Takes the entries out of an object.
pub(crate) fn take(object: &mut Value) -> Managers {
    let Some(metadata) = object["metadata"].as_object_mut() else { return Managers::new() };
    let Some(Value::Array(entries)) = metadata.remove("managedFields") else { return Managers::new() };
    let text = |entry: &Value, name: &str| entry[name].as_str().unwrap_or_default().to_owned();
    entries
        .iter()
        .map(|entry| {
            let manager = Manager {
                operation: if entry["operation"] == "Apply" { "Apply" } else { "Update" },
                name: text(entry, "manager"),
                api_version: text(entry, "apiVersion"),
                subresource: text(entry, "subresource"),
            };
            (manager, Entry { set: fields::from_v1(&entry["fieldsV1"]), time: text(entry, "time") })
        })
        .collect()
}

/// Puts the entries into an object.
pub(crate) fn put(object: &mut Value, managers: &Managers) {
    let nobodys = nobodys();
    let mut entries: Vec<(&Manager, &Entry, Set)> = managers
        .iter()
        .map(|(manager, entry)| (manager, entry, entry.set.difference(&nobodys).cloned().collect::<Set>()))
        .filter(|(_, _, set)| !set.is_empty())
        .collect();
    entries.sort_by_key(|(manager, entry, _)| (manager.operation, &entry.time, *manager));
    let written = |(manager, entry, set): &(&Manager, &Entry, Set)| {
        let mut written = json!({
            "manager": manager.name, "operation": manager.operation, "apiVersion": manager.api_version,
            "time": entry.time, "fieldsType": "FieldsV1", "fieldsV1": fields::to_v1(set),
        });
        if !manager.subresource.is_empty() {
            written["subresource"] = json!(manager.subresource);
        }
        written
    };
    if !entries.is_empty() {
        object["metadata"]["managedFields"] = entries.iter().map(written).collect();
    }
}

/// Who owns what after an update: the writer owns whatever it added or changed, and the others no longer do.
pub(crate) fn update(writing: &Writing<'_>, live: &Value, new: &Value, mut managers: Managers) -> Managers {
    let comparison = merge::compare(writing.shape, live, new).without_below(writing.ignored);
    let taken: Set = comparison.added.union(&comparison.modified).cloned().collect();
    for entry in managers.values_mut() {
        entry.set.retain(|path| !taken.contains(path) && !comparison.removed.contains(path));
    }
    if !taken.is_empty() {
        let fresh = Entry { set: Set::new(), time: writing.now.to_owned() };
        let entry = managers.entry(writing.manager.clone()).or_insert(fresh);
        entry.set.extend(taken);
        writing.now.clone_into(&mut entry.time);
    }
    managers.retain(|_, entry| !entry.set.is_empty());
    managers
}

/// The object after an apply and who owns what in it, or whose fields are in the way.
pub(crate) fn apply(
    writing: &Writing<'_>,
    live: &Value,
    applied: &Value,
    mut managers: Managers,
    force: bool,
) -> Result<(Value, Managers), Conflicts> {
    let mut new = merge::merged(writing.shape, live, applied);
    let set = fields::without_below(&merge::fields_of(writing.shape, applied), writing.ignored);
    let entry = Entry { set, time: writing.now.to_owned() };
    let last = managers.insert(writing.manager.clone(), entry);
    if let Some(last) = &last {
        // What it applied last time and does not now goes, unless somebody else owns it.
        let owned: Set = managers.values().flat_map(|entry| fields::with_parents(&entry.set)).collect();
        let dropped: Set = fields::with_parents(&last.set).difference(&owned).cloned().collect();
        fields::remove(&mut new, &dropped);
    }
    let comparison = merge::compare(writing.shape, live, &new).without_below(writing.ignored);
    let conflicts = conflicts(&managers, &writing.manager, &comparison);
    if !force && !conflicts.is_empty() {
        return Err(conflicts);
    }
    for (manager, entry) in managers.iter_mut().filter(|(manager, _)| **manager != writing.manager) {
        let lost = conflicts.get(manager);
        entry.set.retain(|path| !lost.is_some_and(|lost| lost.contains(path)) && !comparison.removed.contains(path));
    }
    if let (Some(entry), Some(last)) = (managers.get_mut(&writing.manager), last)
        && *live == new
    {
        entry.time = last.time;
    }
    managers.retain(|_, entry| !entry.set.is_empty());
    Ok((new, managers))
}

fn conflicts(managers: &Managers, writer: &Manager, comparison: &Comparison) -> Conflicts {
    let changed: Set = comparison.added.union(&comparison.modified).cloned().collect();
    let others = managers.iter().filter(|(manager, _)| *manager != writer);
    let theirs = others.map(|(manager, entry)| (manager.clone(), entry.set.intersection(&changed).cloned().collect()));
    theirs.filter(|(_, set): &(Manager, Set)| !set.is_empty()).collect()
}

/// The causes and the message of a refused apply.
pub(crate) fn refusal(conflicts: &Conflicts) -> (Vec<Value>, String) {
    let each = || conflicts.iter().flat_map(|(manager, set)| set.iter().map(move |path| (manager, path)));
    let cause = |(manager, path): (&Manager, &Path)| {
        json!({
            "reason": "FieldManagerConflict",
            "message": format!("conflict with {}", manager.text()),
            "field": fields::text(path),
        })
    };
    let count = each().count();
    let message = match each().next() {
        Some((manager, path)) if count == 1 => {
            format!("Apply failed with 1 conflict: conflict with {}: {}", manager.text(), fields::text(path))
        }
        _ => {
            let lines = conflicts.iter().flat_map(|(manager, set)| {
                let head = format!("conflicts with {}:", manager.text());
                std::iter::once(head).chain(set.iter().map(|path| format!("- {}", fields::text(path))))
            });
            format!("Apply failed with {count} conflicts: {}", lines.collect::<Vec<_>>().join("\n"))
        }
    };
    (each().map(cause).collect(), message)
}
