//! Sets of paths into an object, as `managedFields` writes them: `f:NAME`, `k:{KEYS}`, `v:VALUE`.
//!
//! Deliberately absent: what a path may be of (`shape`), and who owns it (`managers`).

use std::collections::BTreeSet;

use serde_json::{Map, Value};

/// The steps from the root of an object, each in its written form.
pub(crate) type Path = Vec<String>;

/// Paths that are members. A parent is one only where it stands in the set by itself.
pub(crate) type Set = BTreeSet<Path>;

/// The step into a field.
pub(crate) fn field(name: &str) -> String {
    format!("f:{name}")
}

/// A path of fields alone.
pub(crate) fn fields(names: &[&str]) -> Path {
    names.iter().map(|name| field(name)).collect()
}

/// The step to an item of a set.
pub(crate) fn item(value: &Value) -> String {
    format!("v:{value}")
}

/// The step to an item of a list that is a map by some of its fields.
pub(crate) fn keyed(keys: &[String], value: &Value) -> String {
    let found = keys.iter().filter_map(|key| Some((key.clone(), value.get(key)?.clone())));
    format!("k:{}", Value::Object(found.collect::<Map<_, _>>()))
}

/// `fieldsV1` from a set.
pub(crate) fn to_v1(set: &Set) -> Value {
    let mut root = Map::new();
    for path in set {
        let mut at = &mut root;
        for (index, step) in path.iter().enumerate() {
            let last = index + 1 == path.len();
            let entry = at.entry(step.clone()).or_insert_with(|| Value::Object(Map::new()));
            let Value::Object(next) = entry else { return Value::Null };
            at = next;
            if last {
                at.insert(".".to_owned(), Value::Object(Map::new()));
            }
        }
    }
    let mut value = Value::Object(root);
    plain_leaves(&mut value);
    value
}

/// A member without children has no `.` of its own.
fn plain_leaves(value: &mut Value) {
    if let Value::Object(map) = value {
        if map.len() == 1 && map.contains_key(".") {
            map.clear();
        }
        map.iter_mut().filter(|(step, _)| *step != ".").for_each(|(_, child)| plain_leaves(child));
    }
}

/// A set from `fieldsV1`.
pub(crate) fn from_v1(value: &Value) -> Set {
    let mut set = Set::new();
    collect(value, &mut Vec::new(), &mut set);
    set
}

fn collect(value: &Value, path: &mut Path, set: &mut Set) {
    let Value::Object(map) = value else { return };
    if map.is_empty() || map.contains_key(".") {
        set.insert(path.clone());
    }
    for (step, child) in map.iter().filter(|(step, _)| *step != ".") {
        path.push(step.clone());
        collect(child, path, set);
        path.pop();
    }
}

/// Every member of a set and all that lies above one.
pub(crate) fn with_parents(set: &Set) -> Set {
    set.iter().flat_map(|path| (1..=path.len()).map(move |length| path[..length].to_vec())).collect()
}

/// A set without whatever is at or below one of these paths.
pub(crate) fn without_below(set: &Set, roots: &[Path]) -> Set {
    set.iter().filter(|path| !roots.iter().any(|root| path.starts_with(root))).cloned().collect()
}

/// A path as conflicts name it: `.metadata.labels.a`, `.status.conditions[type="Ready"]`.
pub(crate) fn text(path: &[String]) -> String {
    path.iter()
        .map(|step| match step.split_at(2) {
            ("k:", keys) => {
                let keys: Map<String, Value> = serde_json::from_str(keys).unwrap_or_default();
                let pairs: Vec<String> = keys.iter().map(|(key, value)| format!("{key}={value}")).collect();
                format!("[{}]", pairs.join(","))
            }
            ("v:", value) => format!("[={value}]"),
            (_, name) => format!(".{name}"),
        })
        .collect()
}

/// Takes what these paths name out of an object. A map or list that becomes empty by that goes too, but not what it was in.
pub(crate) fn remove(value: &mut Value, paths: &Set) {
    for path in paths {
        remove_one(value, path);
    }
}

/// Whether nothing is left of the value and something was taken.
fn remove_one(value: &mut Value, path: &[String]) -> bool {
    let Some((step, rest)) = path.split_first() else { return false };
    let (kind, name) = step.split_at(2);
    match value {
        Value::Object(map) if kind == "f:" => {
            let Some(child) = map.get_mut(name) else { return false };
            let whole = rest.is_empty();
            if whole || remove_one(child, rest) {
                map.remove(name);
            }
            whole && map.is_empty()
        }
        Value::Array(items) => {
            let Some(at) = items.iter().position(|item| is_step(step, item)) else { return false };
            let whole = rest.is_empty();
            if whole || remove_one(&mut items[at], rest) {
                items.remove(at);
            }
            whole && items.is_empty()
        }
        _ => false,
    }
}

fn is_step(step: &str, candidate: &Value) -> bool {
    match step.split_at(2) {
        ("k:", keys) => {
            let keys: Map<String, Value> = serde_json::from_str(keys).unwrap_or_default();
            keys.iter().all(|(key, value)| candidate.get(key) == Some(value))
        }
        ("v:", _) => item(candidate) == step,
        _ => false,
    }
}
