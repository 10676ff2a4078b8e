//! What the real server refuses about names, labels and the few built-in kinds that we write.
//!
//! Deliberately absent: custom objects (`schema`).

use serde_json::{Value, json};

use super::resource::Resource;
use super::schema;
use super::status::Mistake;

const LABEL: &str =
    "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character";
const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start \
                         and end with an alphanumeric character (e.g. 'example.com', regex used for validation is \
                         '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";

/// Letters of one kind at both ends, and those and some more between.
fn is_word(text: &str, ends: impl Fn(char) -> bool, between: &str) -> bool {
    text.starts_with(&ends)
        && text.ends_with(&ends)
        && text.chars().all(|letter| ends(letter) || between.contains(letter))
}

fn is_subdomain(text: &str) -> bool {
    let ends = |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit();
    text.len() <= 253 && text.split('.').all(|part| is_word(part, ends, "-"))
}

/// What is wrong with the metadata. The real server looks several times at an object that it changes, and tells it each time.
pub(crate) fn metadata(resource: &Resource, new: &Value, old: Option<&Value>) -> Vec<Mistake> {
    let metadata = &new["metadata"];
    let mut mistakes = Vec::new();
    if old.is_none() {
        let name = metadata["name"].as_str().unwrap_or_default();
        let fits = resource.group == "rbac.authorization.k8s.io" || is_subdomain(name);
        if !fits {
            mistakes.push(Mistake::invalid("metadata.name", &metadata["name"], SUBDOMAIN));
        }
    }
    if old.is_some_and(|old| old["metadata"]["uid"] != metadata["uid"]) {
        mistakes.push(Mistake::invalid("metadata.uid", &metadata["uid"], "field is immutable"));
    }
    let times = match (old, &resource.schema) {
        (None, _) => 1,
        (Some(_), Some(_)) => 3,
        (Some(_), None) => 4,
    };
    for _ in 0..times {
        mistakes.extend(labels(&metadata["labels"]));
    }
    mistakes
}

fn labels(labels: &Value) -> Vec<Mistake> {
    let mut mistakes = Vec::new();
    let mut wrong = |value: &str, why: String| mistakes.push(Mistake::invalid("metadata.labels", &json!(value), why));
    let alphanumeric = |letter: char| letter.is_ascii_alphanumeric();
    for (key, value) in labels.as_object().into_iter().flatten() {
        let (prefix, name) = key.rsplit_once('/').map_or((None, key.as_str()), |(prefix, name)| (Some(prefix), name));
        if prefix.is_some_and(|prefix| !is_subdomain(prefix)) {
            wrong(key, format!("prefix part {SUBDOMAIN}"));
        }
        if name.len() > 63 {
            wrong(key, "name part must be no more than 63 bytes".to_owned());
        }
        if !is_word(name, alphanumeric, "-_.") {
            wrong(
                key,
                format!(
                    "name part {LABEL} (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is \
                     '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"
                ),
            );
        }
        let value = value.as_str().unwrap_or_default();
        if value.len() > 63 {
            wrong(value, "must be no more than 63 bytes".to_owned());
        }
        if !value.is_empty() && !is_word(value, alphanumeric, "-_.") {
            wrong(
                value,
                format!(
                    "a valid label must be an empty string or {} (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for \
                     validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')",
                    LABEL.trim_start_matches("must ")
                ),
            );
        }
    }
    mistakes
}

/// Events are about objects of their own namespace, those without one about `default`. New ones say who acts, and what it does.
pub(crate) fn event(resource: &Resource, event: &Value) -> Vec<Mistake> {
    let new = resource.group == "events.k8s.io";
    let (about, note, controller) = if new {
        ("regarding", "note", "reportingController")
    } else {
        ("involvedObject", "message", "reportingComponent")
    };
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut mistakes = Vec::new();
    let (of_it, own) = (text(&event[about]["namespace"]), text(&event["metadata"]["namespace"]));
    if (of_it.is_empty() && own != "default") || (!of_it.is_empty() && of_it != own) {
        mistakes.push(Mistake::invalid("involvedObject.namespace", &json!(of_it), "does not match event.namespace"));
    }
    if event["eventTime"].is_null() {
        if new {
            mistakes.push(Mistake::required("eventTime", ""));
        }
        return mistakes;
    }
    let limits = [(controller, 63 + 254), ("reportingInstance", 128), ("action", 128), ("reason", 128)];
    for (name, most) in limits {
        let value = text(&event[name]);
        if value.is_empty() {
            mistakes.push(Mistake::required(name, ""));
        } else if value.len() > most {
            mistakes.push(Mistake::invalid(name, &json!(""), format!("can have at most {most} characters")));
        }
    }
    if text(&event[note]).len() > 1024 {
        mistakes.push(Mistake::invalid("message", &json!(""), "can have at most 1024 characters"));
    }
    let kind = text(&event["type"]);
    if new && !["Normal", "Warning"].contains(&kind.as_str()) {
        mistakes.push(Mistake::invalid("type", &json!(""), format!("has invalid value: {kind}")));
    }
    mistakes
}

/// A pod that is there is hardly changed: it keeps its node and all that it runs.
pub(crate) fn pod_update(new: &Value, old: &Value) -> Vec<Mistake> {
    let essence = |pod: &Value| {
        let mut spec = pod["spec"].clone();
        if let Some(spec) = spec.as_object_mut() {
            spec.retain(|name, _| !["activeDeadlineSeconds", "tolerations"].contains(&name.as_str()));
        }
        for container in spec["containers"].as_array_mut().into_iter().flatten() {
            container["image"].take();
        }
        spec
    };
    let why = "Forbidden: pod updates may not change fields other than `spec.containers[*].image`,\
               `spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing \
               tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";
    let changed = essence(new) != essence(old);
    let mistake = Mistake { reason: "FieldValueForbidden", field: "spec".to_owned(), message: why.to_owned() };
    changed.then_some(mistake).into_iter().collect()
}

/// A definition has the name of what it defines, and rules that compile.
pub(crate) fn definition(definition: &Value) -> Vec<Mistake> {
    let spec = &definition["spec"];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let name = format!("{}.{}", text(&spec["names"]["plural"]), text(&spec["group"]));
    let mut mistakes = Vec::new();
    if definition["metadata"]["name"] != json!(name) {
        let why = "must be spec.names.plural+\".\"+spec.group";
        mistakes.push(Mistake::invalid("metadata.name", &definition["metadata"]["name"], why));
    }
    for (index, version) in spec["versions"].as_array().into_iter().flatten().enumerate() {
        let field = format!("spec.versions[{index}].schema.openAPIV3Schema");
        let schema = &version["schema"]["openAPIV3Schema"];
        if schema["type"] != "object" {
            mistakes.push(Mistake::required(format!("{field}.type"), "must not be empty at the root"));
        }
        for broken in schema::broken_rules(schema) {
            mistakes.push(Mistake::invalid(&field, &json!(broken), "compilation failed"));
        }
    }
    mistakes
}
