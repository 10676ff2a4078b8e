//! The structural schema of a CustomResourceDefinition: what is pruned, what is filled in, what is refused, in the real server's words.
//!
//! Not here: `oneOf` and its like, embedded resources, most formats, and ratcheting.

use std::collections::BTreeMap;
use std::sync::Mutex;

use regex::Regex;
use serde_json::{Map, Value};

use super::cel;
use super::fields;
use super::status::Mistake;

/// What every object has beside its schema.
const ALWAYS: [&str; 3] = ["apiVersion", "kind", "metadata"];

/// Removes what the schema does not know, and gives the paths of it.
pub(crate) fn prune(schema: &Value, object: &mut Value) -> Vec<String> {
    let mut pruned = Vec::new();
    prune_below(schema, object, "", &mut pruned);
    pruned
}

fn joined(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

fn prune_below(schema: &Value, value: &mut Value, path: &str, pruned: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            let more = schema.get("additionalProperties").filter(|more| more.is_object());
            let preserves = schema["x-kubernetes-preserve-unknown-fields"] == true
                || schema["additionalProperties"] == true
                || schema["x-kubernetes-embedded-resource"] == true;
            let names: Vec<String> = map.keys().cloned().collect();
            for name in names.iter().filter(|name| !(path.is_empty() && ALWAYS.contains(&name.as_str()))) {
                match (schema["properties"].get(name).or(more), map.get_mut(name)) {
                    (Some(schema), Some(child)) => prune_below(schema, child, &joined(path, name), pruned),
                    _ if preserves => {}
                    _ => {
                        map.remove(name);
                        pruned.push(joined(path, name));
                    }
                }
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter_mut().enumerate() {
                prune_below(&schema["items"], item, &format!("{path}[{index}]"), pruned);
            }
        }
        _ => {}
    }
}

/// Fills in defaults, and takes away nulls that must not be.
pub(crate) fn fill(schema: &Value, value: &mut Value) {
    match value {
        Value::Object(map) => {
            let nullable = |name: &str| schema["properties"][name]["nullable"] == true;
            map.retain(|name, value| !value.is_null() || nullable(name));
            for (name, child) in schema["properties"].as_object().into_iter().flatten() {
                if let Some(default) = child.get("default").filter(|_| !map.contains_key(name)) {
                    map.insert(name.clone(), default.clone());
                }
            }
            for (name, child) in map {
                let schema = schema["properties"].get(name).unwrap_or(&schema["additionalProperties"]);
                fill(schema, child);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| fill(&schema["items"], item)),
        _ => {}
    }
}

/// Everything that is wrong with an object. The error is a rule that could not be evaluated.
pub(crate) fn validate(schema: &Value, object: &Value, old: Option<&Value>) -> Result<Vec<Mistake>, String> {
    validate_with(schema, has_rules(schema), object, old)
}

/// The same where it is known whether the schema has rules.
pub(crate) fn validate_with(
    schema: &Value,
    rules: bool,
    object: &Value,
    old: Option<&Value>,
) -> Result<Vec<Mistake>, String> {
    let mut mistakes = Vec::new();
    check(schema, object, "", &mut mistakes);
    if mistakes.iter().any(|one| one.reason != "FieldValueInvalid") {
        if rules {
            let why = "some validation rules were not checked because the object was invalid; correct the existing errors to \
                       complete validation";
            mistakes.push(Mistake::invalid("", &Value::Null, why));
        }
        return Ok(mistakes);
    }
    if rules {
        evaluate(schema, object, old, "", &mut mistakes)?;
    }
    Ok(mistakes)
}

/// A rule at the root sees of the metadata the names alone.
fn rooted(object: &Value) -> Value {
    let mut object = object.clone();
    if let Some(metadata) = object["metadata"].as_object_mut() {
        metadata.retain(|name, _| name == "name" || name == "generateName");
    }
    object
}

/// Whether there is a rule anywhere in a schema.
pub(crate) fn has_rules(schema: &Value) -> bool {
    match schema {
        Value::Object(map) => map.contains_key("x-kubernetes-validations") || map.values().any(has_rules),
        _ => false,
    }
}

/// Every rule of a schema that does not compile.
pub(crate) fn broken_rules(schema: &Value) -> Vec<String> {
    let own = schema["x-kubernetes-validations"].as_array().into_iter().flatten();
    let mut broken: Vec<String> =
        own.filter_map(|rule| cel::check(rule["rule"].as_str().unwrap_or_default()).err()).collect();
    if let Value::Object(map) = schema {
        broken.extend(map.values().flat_map(broken_rules));
    }
    broken
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_i64() || number.is_u64() => "integer",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn check(schema: &Value, value: &Value, path: &str, mistakes: &mut Vec<Mistake>) {
    let (kind, wanted) = (kind_of(value), schema["type"].as_str().unwrap_or_default());
    let either = schema["x-kubernetes-int-or-string"] == true && ["integer", "string"].contains(&kind);
    let fits = wanted.is_empty() || kind == wanted || (wanted == "number" && kind == "integer") || either;
    let absent = value.is_null() && schema["nullable"] == true;
    if !fits && !absent {
        let message = format!("Invalid value: {kind:?}: {path} in body must be of type {wanted}: {kind:?}");
        mistakes.push(Mistake { reason: "FieldValueTypeInvalid", field: path.to_owned(), message });
        return;
    }
    if let Some(values) = schema["enum"].as_array().filter(|values| !values.contains(value)) {
        let supported: Vec<String> = values.iter().map(Value::to_string).collect();
        let message = format!("Unsupported value: {value}: supported values: {}", supported.join(", "));
        mistakes.push(Mistake { reason: "FieldValueNotSupported", field: path.to_owned(), message });
    }
    match value {
        Value::String(text) => check_text(schema, text, path, mistakes),
        Value::Number(number) => check_number(schema, number.as_f64().unwrap_or_default(), value, path, mistakes),
        Value::Array(items) => {
            check_count(schema, ["minItems", "maxItems"], items.len(), "items", path, mistakes);
            check_twice(schema, items, path, mistakes);
            for (index, item) in items.iter().enumerate() {
                check(&schema["items"], item, &format!("{path}[{index}]"), mistakes);
            }
        }
        Value::Object(map) => check_map(schema, map, path, mistakes),
        Value::Null | Value::Bool(_) => {}
    }
}

fn check_map(schema: &Value, map: &Map<String, Value>, path: &str, mistakes: &mut Vec<Mistake>) {
    check_count(schema, ["minProperties", "maxProperties"], map.len(), "properties", path, mistakes);
    let required = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
    mistakes
        .extend(required.filter(|name| !map.contains_key(*name)).map(|name| Mistake::required(joined(path, name), "")));
    for (name, child) in map.iter().filter(|(name, _)| !(path.is_empty() && ALWAYS.contains(&name.as_str()))) {
        let schema = schema["properties"].get(name).unwrap_or(&schema["additionalProperties"]);
        if schema.is_object() {
            check(schema, child, &joined(path, name), mistakes);
        }
    }
}

fn check_text(schema: &Value, text: &str, path: &str, mistakes: &mut Vec<Mistake>) {
    let value = Value::String(text.to_owned());
    let length = text.chars().count() as u64;
    if let Some(most) = schema["maxLength"].as_u64().filter(|most| length > *most) {
        let message = format!("Too long: may not be more than {most} bytes");
        mistakes.push(Mistake { reason: "FieldValueTooLong", field: path.to_owned(), message });
    }
    if let Some(least) = schema["minLength"].as_u64().filter(|least| length < *least) {
        let why = format!("{path} in body should be at least {least} chars long");
        mistakes.push(Mistake::invalid(path, &value, why));
    }
    if let Some(pattern) = schema["pattern"].as_str()
        && !fits(pattern, text)
    {
        mistakes.push(Mistake::invalid(path, &value, format!("{path} in body should match '{pattern}'")));
    }
    if schema["format"] == "date-time" && text.parse::<jiff::Timestamp>().is_err() {
        let why = format!("{path} in body must be of type date-time: {text:?}");
        mistakes.push(Mistake::invalid(path, &value, why));
    }
}

/// Whether a pattern matches. Patterns are few, and large ones are slow to compile.
pub(crate) fn fits(pattern: &str, text: &str) -> bool {
    static COMPILED: Mutex<BTreeMap<String, Regex>> = Mutex::new(BTreeMap::new());
    let compiled = |pattern: &str| Regex::new(pattern).expect("a pattern that this regex crate reads");
    let mut all = COMPILED.lock().expect("no thread has panicked here");
    all.entry(pattern.to_owned()).or_insert_with(|| compiled(pattern)).is_match(text)
}

fn check_number(schema: &Value, number: f64, value: &Value, path: &str, mistakes: &mut Vec<Mistake>) {
    if let Some(least) = schema["minimum"].as_f64().filter(|least| number < *least) {
        let why = format!("{path} in body should be greater than or equal to {least}");
        mistakes.push(Mistake::invalid(path, value, why));
    }
    if let Some(most) = schema["maximum"].as_f64().filter(|most| number > *most) {
        let why = format!("{path} in body should be less than or equal to {most}");
        mistakes.push(Mistake::invalid(path, value, why));
    }
}

fn check_count(schema: &Value, limits: [&str; 2], count: usize, what: &str, path: &str, mistakes: &mut Vec<Mistake>) {
    let [least, most] = limits.map(|name| schema[name].as_u64());
    if let Some(least) = least.filter(|least| (count as u64) < *least) {
        let why = format!("{path} in body should have at least {least} {what}");
        mistakes.push(Mistake::invalid(path, &Value::from(count), why));
    }
    if let Some(most) = most.filter(|most| count as u64 > *most) {
        let message = format!("Too many: {count}: must have at most {most} items");
        mistakes.push(Mistake { reason: "FieldValueTooMany", field: path.to_owned(), message });
    }
}

fn check_twice(schema: &Value, items: &[Value], path: &str, mistakes: &mut Vec<Mistake>) {
    let keys: Vec<String> = serde_json::from_value(schema["x-kubernetes-list-map-keys"].clone()).unwrap_or_default();
    let identity = |item: &Value| match schema["x-kubernetes-list-type"].as_str() {
        Some("set") => Some(item.to_string()),
        Some("map") => Some(fields::keyed(&keys, item)),
        _ => None,
    };
    for (index, item) in items.iter().enumerate() {
        let found = identity(item);
        if found.is_some() && items[..index].iter().any(|earlier| identity(earlier) == found) {
            let message = format!("Duplicate value: {}", found.unwrap_or_default().trim_start_matches("k:"));
            let field = format!("{path}[{index}]");
            mistakes.push(Mistake { reason: "FieldValueDuplicate", field, message });
        }
    }
}

fn evaluate(
    schema: &Value,
    value: &Value,
    old: Option<&Value>,
    path: &str,
    mistakes: &mut Vec<Mistake>,
) -> Result<(), String> {
    let rules = schema["x-kubernetes-validations"].as_array().map(Vec::as_slice).unwrap_or_default();
    if path.is_empty() && !rules.is_empty() {
        let (root, old) = (rooted(value), old.map(rooted));
        for rule in rules {
            mistakes.extend(broken_by(rule, &root, old.as_ref(), path)?);
        }
    } else {
        for rule in rules {
            mistakes.extend(broken_by(rule, value, old, path)?);
        }
    }
    match value {
        Value::Object(map) => {
            for (name, child) in map {
                let schema = schema["properties"].get(name).unwrap_or(&schema["additionalProperties"]);
                evaluate(schema, child, old.and_then(|old| old.get(name)), &joined(path, name), mistakes)?;
            }
        }
        Value::Array(items) => {
            let keys: Vec<String> =
                serde_json::from_value(schema["x-kubernetes-list-map-keys"].clone()).unwrap_or_default();
            for (index, item) in items.iter().enumerate() {
                let same = |old: &&Value| !keys.is_empty() && fields::keyed(&keys, old) == fields::keyed(&keys, item);
                let old = old.and_then(Value::as_array).and_then(|old| old.iter().find(same));
                evaluate(&schema["items"], item, old, &format!("{path}[{index}]"), mistakes)?;
            }
        }
        _ => {}
    }
    Ok(())
}

/// What a rule says against a value. A rule about what was before says nothing where nothing was.
fn broken_by(rule: &Value, value: &Value, old: Option<&Value>, path: &str) -> Result<Option<Mistake>, String> {
    let text = rule["rule"].as_str().unwrap_or_default();
    if rule["optionalOldSelf"] == true {
        return Err(format!("{text}: optionalOldSelf is not known here"));
    }
    if (cel::is_transition(text) && old.is_none()) || cel::holds(text, value, old)? {
        return Ok(None);
    }
    let why = match (rule["messageExpression"].as_str(), rule["message"].as_str()) {
        (Some(expression), _) => cel::message(expression, value, old)?,
        (None, Some(message)) => message.to_owned(),
        (None, None) => format!("failed rule: {text}"),
    };
    let field = rule["fieldPath"].as_str().map_or_else(|| path.to_owned(), |below| format!("{path}{below}"));
    let shown = match value {
        Value::Object(_) => Value::from("object"),
        Value::Array(_) => Value::from("array"),
        scalar => scalar.clone(),
    };
    let mistake = match rule["reason"].as_str() {
        Some("FieldValueForbidden") => {
            Mistake { reason: "FieldValueForbidden", field, message: format!("Forbidden: {why}") }
        }
        Some("FieldValueRequired") => Mistake::required(field, &why),
        Some("FieldValueDuplicate") => {
            Mistake { reason: "FieldValueDuplicate", field, message: format!("Duplicate value: {shown}") }
        }
        _ => Mistake::invalid(field, &shown, why),
    };
    Ok(Some(mistake))
}
