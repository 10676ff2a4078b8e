//! SARIF against the schema of OASIS (tests/consumers).
//!
//! The validator knows the keywords that this schema has and no other; one that it does not know fails.

use serde_json::Value;

use super::{mistakes, validate};
use crate::commands::egret;

const SCHEMA: &str = include_str!("../../consumers/sarif-schema-2.1.0.json");

/// Keywords that demand nothing.
const SILENT: [&str; 7] = ["$schema", "$id", "title", "description", "default", "definitions", "format"];

/// What is wrong with a value, each with its place.
fn mistakes_in(root: &Value, schema: &Value, value: &Value, place: &str, found: &mut Vec<String>) {
    for (keyword, rule) in schema.as_object().expect("a schema") {
        let fails = |rule: &Value| {
            let mut found = Vec::new();
            mistakes_in(root, rule, value, place, &mut found);
            !found.is_empty()
        };
        let is_good = match keyword.as_str() {
            "$ref" => {
                let pointer = rule.as_str().and_then(|text| text.strip_prefix('#')).expect("a reference in this file");
                mistakes_in(root, root.pointer(pointer).expect("a definition"), value, place, found);
                true
            }
            "type" => match rule.as_str().expect("one type") {
                "object" => value.is_object(),
                "array" => value.is_array(),
                "string" => value.is_string(),
                "boolean" => value.is_boolean(),
                "integer" => value.is_i64() || value.is_u64(),
                "number" => value.is_number(),
                other => panic!("the type {other}"),
            },
            "enum" => rule.as_array().expect("a list").contains(value),
            "required" => {
                rule.as_array().expect("a list").iter().all(|name| !value[name.as_str().expect("a name")].is_null())
            }
            "minItems" => value.as_array().is_none_or(|items| items.len() as u64 >= rule.as_u64().expect("a number")),
            "uniqueItems" => value.as_array().is_none_or(|items| {
                rule == &Value::Bool(false) || items.iter().enumerate().all(|(at, item)| !items[..at].contains(item))
            }),
            "minimum" => value.as_i64().is_none_or(|number| number >= rule.as_i64().expect("a number")),
            "maximum" => value.as_i64().is_none_or(|number| number <= rule.as_i64().expect("a number")),
            "pattern" => value.as_str().is_none_or(|text| regex_lite(rule.as_str().expect("a pattern"), text)),
            "anyOf" => rule.as_array().expect("a list").iter().any(|rule| !fails(rule)),
            "oneOf" => rule.as_array().expect("a list").iter().filter(|rule| !fails(rule)).count() == 1,
            "items" => {
                for (at, item) in value.as_array().into_iter().flatten().enumerate() {
                    mistakes_in(root, rule, item, &format!("{place}/{at}"), found);
                }
                true
            }
            "properties" | "additionalProperties" => {
                properties(root, schema, (keyword, rule), value, place, found);
                true
            }
            silent => SILENT.contains(&silent),
        };
        if !is_good {
            found.push(format!("{place}: {keyword} {rule}"));
        }
    }
}

fn properties(
    root: &Value,
    schema: &Value,
    (keyword, rule): (&str, &Value),
    value: &Value,
    place: &str,
    found: &mut Vec<String>,
) {
    for (name, below) in value.as_object().into_iter().flatten() {
        let place = format!("{place}/{name}");
        let known = &schema["properties"][name];
        match (keyword, known.is_null(), rule) {
            ("properties", false, _) => mistakes_in(root, known, below, &place, found),
            ("additionalProperties", true, Value::Bool(false)) => found.push(format!("{place}: no such property")),
            ("additionalProperties", true, Value::Object(_)) => mistakes_in(root, rule, below, &place, found),
            _ => {}
        }
    }
}

/// The patterns of the schema that our texts meet are those of ids and languages; each is anchored.
fn regex_lite(pattern: &str, text: &str) -> bool {
    regex::Regex::new(pattern).expect("a pattern").is_match(text)
}

fn faults(log: &Value) -> Vec<String> {
    let schema: Value = serde_json::from_str(SCHEMA).expect("JSON");
    let mut found = Vec::new();
    mistakes_in(&schema, &schema, log, "", &mut found);
    found
}

#[test]
fn a_validation_is_a_log_by_the_schema_of_oasis_with_and_without_results() {
    let folder = mistakes();
    let said = validate(folder.path(), "sarif");
    assert_eq!(said.code, Some(1), "{}", said.stderr);
    let log: Value = serde_json::from_str(&said.stdout).expect("JSON");
    assert_eq!(faults(&log), Vec::<String>::new());
    let results = log["runs"][0]["results"].as_array().expect("a list");
    assert!(results.len() > 100, "{}", results.len());
    let uris: Vec<&str> = results
        .iter()
        .filter_map(|one| one["locations"][0]["physicalLocation"]["artifactLocation"]["uri"].as_str())
        .collect();
    assert!(uris.contains(&"100%25%2C%20a%3Ab/%C3%A4%F0%9F%98%80.yaml"), "{uris:?}");
    let fine = tempfile::tempdir().expect("a folder");
    assert_eq!(egret(["init", fine.path().to_str().expect("a path")]).code, Some(0));
    let log: Value = serde_json::from_str(&validate(fine.path(), "sarif").stdout).expect("JSON");
    assert_eq!((faults(&log), log["runs"][0]["results"].as_array().map(Vec::len)), (Vec::new(), Some(0)));
}

#[test]
fn the_validator_finds_what_the_schema_forbids() {
    let folder = mistakes();
    let log: Value = serde_json::from_str(&validate(folder.path(), "sarif").stdout).expect("JSON");
    let with = |pointer: &str, value: Value| {
        let mut log = log.clone();
        *log.pointer_mut(pointer).expect(pointer) = value;
        faults(&log)
    };
    assert_eq!(with("/version", "2.0".into()), ["/version: enum [\"2.1.0\"]"]);
    assert_eq!(
        with("/runs/0/results/0/level", "bad".into()),
        ["/runs/0/results/0/level: enum [\"none\",\"note\",\"warning\",\"error\"]"]
    );
    let region = "/runs/0/results/0/locations/0/physicalLocation/region/startLine";
    assert_eq!(with(region, 0.into()), [format!("{region}: minimum 1")]);
    assert_eq!(with("/runs/0/tool/driver", serde_json::json!({})), ["/runs/0/tool/driver: required [\"name\"]"]);
    let extra = serde_json::json!({"driver": {"name": "egret", "names": 1}});
    assert_eq!(with("/runs/0/tool", extra), ["/runs/0/tool/driver/names: no such property"]);
}
