//! Patches that are no apply: merge, strategic merge by the keys of lists, JSON.
//!
//! Deliberately absent: of strategic merges, everything but `$patch: delete` and `$patch: replace` for maps and items.

use serde_json::{Map, Value};

use super::fields;
use super::shape::{Shape, UNKNOWN};
use super::status::{Outcome, bad_request, rejected};

/// The object with a patch in it.
pub(crate) fn patched(shape: &Shape, live: &Value, kind: &str, body: &[u8]) -> Outcome<Value> {
    let unreadable = |error: serde_json::Error| bad_request(format!("error decoding patch: {error}"));
    let mut object = live.clone();
    match kind {
        "application/json-patch+json" => {
            let patch: json_patch::Patch = serde_json::from_slice(body).map_err(unreadable)?;
            json_patch::patch(&mut object, &patch).map_err(|_| rejected())?;
        }
        "application/merge-patch+json" => {
            json_patch::merge(&mut object, &serde_json::from_slice(body).map_err(unreadable)?);
        }
        _ => strategic(shape, &mut object, &serde_json::from_slice(body).map_err(unreadable)?),
    }
    Ok(object)
}

fn strategic(shape: &Shape, value: &mut Value, patch: &Value) {
    match (shape, patch) {
        (_, Value::Object(patch)) => {
            if patch.get("$patch").is_some_and(|what| what == "replace") {
                *value = Value::Object(patch.iter().filter(|(name, _)| *name != "$patch").map(owned).collect());
                return;
            }
            if !value.is_object() {
                *value = Value::Object(Map::new());
            }
            let Value::Object(map) = value else { return };
            for (name, patch) in patch.iter().filter(|(name, _)| !name.starts_with('$')) {
                if patch.is_null() || patch.get("$patch").is_some_and(|what| what == "delete") {
                    map.remove(name);
                    continue;
                }
                let child = map.entry(name.clone()).or_insert(Value::Null);
                strategic(shape.field(name).unwrap_or(&UNKNOWN), child, patch);
            }
        }
        (Shape::Keyed { keys, item }, Value::Array(patches)) => {
            let mut items = value.as_array().cloned().unwrap_or_default();
            for patch in patches {
                let found = items.iter().position(|one| fields::keyed(keys, one) == fields::keyed(keys, patch));
                let delete = patch.get("$patch").is_some_and(|what| what == "delete");
                match found {
                    Some(at) if delete => drop(items.remove(at)),
                    Some(at) => strategic(item, &mut items[at], patch),
                    None if delete => {}
                    None => items.push(patch.clone()),
                }
            }
            *value = Value::Array(items);
        }
        (Shape::Set, Value::Array(patches)) => {
            let mut items = value.as_array().cloned().unwrap_or_default();
            items.extend(patches.iter().filter(|one| !items.contains(one)).cloned().collect::<Vec<_>>());
            *value = Value::Array(items);
        }
        _ => *value = patch.clone(),
    }
}

fn owned((name, value): (&String, &Value)) -> (String, Value) {
    (name.clone(), value.clone())
}
