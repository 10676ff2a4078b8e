//! Comparing two objects, merging one into another, and naming all fields of one: the heart of structured-merge-diff.
//!
//! Deliberately absent: who owns what (`managers`); conversion between versions of a kind, and items that a list has twice.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::fields::{self, Path, Set};
use super::shape::{Shape, UNKNOWN};

/// What differs between two objects.
#[derive(Debug, Default)]
pub(crate) struct Comparison {
    /// Only the new one has these.
    pub(crate) added: Set,
    /// Both have these, with another value.
    pub(crate) modified: Set,
    /// Only the old one has these.
    pub(crate) removed: Set,
}

/// Compares two objects of a form.
pub(crate) fn compare(shape: &Shape, old: &Value, new: &Value) -> Comparison {
    let mut comparison = Comparison::default();
    comparison.walk(shape, &mut Vec::new(), Some(old), Some(new));
    comparison
}

impl Comparison {
    /// The same without whatever is at or below one of these paths.
    pub(crate) fn without_below(&self, roots: &[Path]) -> Self {
        let [added, modified, removed] =
            [&self.added, &self.modified, &self.removed].map(|set| fields::without_below(set, roots));
        Self { added, modified, removed }
    }

    fn walk(&mut self, shape: &Shape, path: &mut Path, old: Option<&Value>, new: Option<&Value>) {
        let children = children(shape, old, new);
        if children.is_empty() {
            return self.leaf(path, old, new);
        }
        for (step, shape, old, new) in children {
            path.push(step);
            self.walk(shape, path, old, new);
            path.pop();
        }
        match (old, new) {
            (None, _) => drop(self.added.insert(path.clone())),
            (_, None) => drop(self.removed.insert(path.clone())),
            _ => {}
        }
    }

    fn leaf(&mut self, path: &Path, old: Option<&Value>, new: Option<&Value>) {
        match (old, new) {
            (None, _) => drop(self.added.insert(path.clone())),
            (_, None) => drop(self.removed.insert(path.clone())),
            (old, new) if old != new => drop(self.modified.insert(path.clone())),
            _ => {}
        }
    }
}

type Child<'a> = (String, &'a Shape, Option<&'a Value>, Option<&'a Value>);

/// The parts in which two values are compared; none where they are one piece, or both empty.
fn children<'a>(shape: &'a Shape, old: Option<&'a Value>, new: Option<&'a Value>) -> Vec<Child<'a>> {
    let maps = [old, new].map(|value| value.and_then(Value::as_object));
    let lists = [old, new].map(|value| value.and_then(Value::as_array));
    match shape {
        Shape::Leaf(_) => Vec::new(),
        Shape::Struct { .. } | Shape::Map(_) | Shape::Free => {
            let names: BTreeSet<&String> = maps.iter().flatten().flat_map(|map| map.keys()).collect();
            let child = |name: &'a String| {
                let [old, new] = maps.map(|map| map.and_then(|map| map.get(name)));
                (fields::field(name), shape.field(name).unwrap_or(&UNKNOWN), old, new)
            };
            names.into_iter().map(child).collect()
        }
        Shape::Keyed { item, .. } => {
            let mut steps: Vec<String> = Vec::new();
            for step in lists.iter().flatten().flat_map(|list| list.iter()).filter_map(|item| step(shape, item)) {
                if !steps.contains(&step) {
                    steps.push(step);
                }
            }
            let find = |list: Option<&'a Vec<Value>>, wanted: &String| {
                list.and_then(|list| list.iter().find(|item| step(shape, item).as_ref() == Some(wanted)))
            };
            let child = |step: String| {
                let [old, new] = lists.map(|list| find(list, &step));
                (step, item.as_ref(), old, new)
            };
            steps.into_iter().map(child).collect()
        }
        Shape::Set => {
            static SCALAR: Shape = Shape::Leaf(None);
            let all: BTreeSet<String> = lists.iter().flatten().flat_map(|list| list.iter()).map(fields::item).collect();
            let child = |step: String| {
                let [old, new] =
                    lists.map(|list| list.and_then(|list| list.iter().find(|item| fields::item(item) == step)));
                (step, &SCALAR, old, new)
            };
            all.into_iter().map(child).collect()
        }
    }
}

/// The step to an item of a list of this form.
fn step(shape: &Shape, item: &Value) -> Option<String> {
    match shape {
        Shape::Keyed { keys, .. } => Some(fields::keyed(keys, item)),
        Shape::Set => Some(fields::item(item)),
        _ => None,
    }
}

/// All fields of an object, as somebody who applies it owns them.
pub(crate) fn fields_of(shape: &Shape, value: &Value) -> Set {
    let mut set = Set::new();
    collect(shape, value, &mut Vec::new(), &mut set);
    set
}

fn collect(shape: &Shape, value: &Value, path: &mut Path, set: &mut Set) {
    match (shape, value) {
        (Shape::Struct { .. } | Shape::Map(_) | Shape::Free, Value::Object(map)) => {
            for (name, child) in map {
                path.push(fields::field(name));
                collect(shape.field(name).unwrap_or(&UNKNOWN), child, path, set);
                let empty = child.is_null() || child.as_object().is_some_and(Map::is_empty);
                if empty || shape.is_map() {
                    set.insert(path.clone());
                }
                path.pop();
            }
        }
        (Shape::Keyed { .. } | Shape::Set, Value::Array(items)) if !items.is_empty() => {
            for item in items {
                let Some(step) = step(shape, item) else { continue };
                path.push(step);
                if let Shape::Keyed { item: shape, .. } = shape {
                    collect(shape, item, path, set);
                }
                set.insert(path.clone());
                path.pop();
            }
        }
        _ => drop(set.insert(path.clone())),
    }
}

/// What is there, with what somebody applies put into it.
pub(crate) fn merged(shape: &Shape, live: &Value, applied: &Value) -> Value {
    match (shape, live, applied) {
        (Shape::Struct { .. } | Shape::Map(_) | Shape::Free, Value::Object(live), Value::Object(applied)) => {
            let mut map = live.clone();
            for (name, value) in applied {
                let form = shape.field(name).unwrap_or(&UNKNOWN);
                let value = live.get(name).map_or_else(|| value.clone(), |live| merged(form, live, value));
                map.insert(name.clone(), value);
            }
            Value::Object(map)
        }
        (Shape::Keyed { .. } | Shape::Set, Value::Array(live), Value::Array(applied)) => {
            Value::Array(merged_list(shape, live, applied))
        }
        _ => applied.clone(),
    }
}

/// Items of others keep their places; those that are applied come in the order in which they are applied.
fn merged_list(shape: &Shape, live: &[Value], applied: &[Value]) -> Vec<Value> {
    let is = |one: &Value, other: &Value| step(shape, one) == step(shape, other);
    let mut rest = applied.iter();
    let mut list: Vec<Value> = live
        .iter()
        .filter_map(|item| if applied.iter().any(|one| is(one, item)) { rest.next() } else { Some(item) })
        .cloned()
        .collect();
    list.extend(rest.cloned());
    if let Shape::Keyed { item: form, .. } = shape {
        for item in &mut list {
            let (old, new) = (live.iter().find(|one| is(one, item)), applied.iter().find(|one| is(one, item)));
            if let (Some(old), Some(new)) = (old, new) {
                *item = merged(form, old, new);
            }
        }
    }
    list
}

/// The first place at which a value has not the form that somebody who applies it has to keep, and what is wrong there.
pub(crate) fn misfit(shape: &Shape, value: &Value, path: &mut Path) -> Option<String> {
    let wrong = |path: &Path, what: &str| Some(format!("{}: {what}", fields::text(path)));
    match (shape, value) {
        (_, Value::Null)
        | (Shape::Free | Shape::Leaf(None), _)
        | (Shape::Set, Value::Array(_))
        | (Shape::Leaf(Some("string")), Value::String(_))
        | (Shape::Leaf(Some("boolean")), Value::Bool(_))
        | (Shape::Leaf(Some("numeric")), Value::Number(_)) => None,
        (Shape::Struct { .. } | Shape::Map(_), Value::Object(map)) => map.iter().find_map(|(name, child)| {
            path.push(fields::field(name));
            let found = match shape.field(name) {
                None => wrong(path, "field not declared in schema"),
                Some(shape) if shape == &UNKNOWN => None,
                Some(shape) => misfit(shape, child, path),
            };
            path.pop();
            found
        }),
        (Shape::Struct { .. } | Shape::Map(_), other) => wrong(path, &format!("expected map, got &{{{other}}}")),
        (Shape::Keyed { keys, item }, Value::Array(items)) => items.iter().find_map(|one| {
            if let Some(key) = keys.iter().find(|key| one.get(key.as_str()).is_none()) {
                let what = format!("element 0: associative list with keys has an element that omits key field {key:?}");
                return wrong(path, &what);
            }
            path.push(fields::keyed(keys, one));
            let found = misfit(item, one, path);
            path.pop();
            found
        }),
        (Shape::Keyed { .. } | Shape::Set, other) => wrong(path, &format!("expected list, got &{{{other}}}")),
        (Shape::Leaf(Some("numeric")), other) => wrong(path, &format!("expected numeric (int or float), got {other}")),
        (Shape::Leaf(Some(kind)), other) => wrong(path, &format!("expected {kind}, got &{{{other}}}")),
    }
}
