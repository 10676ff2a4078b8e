//! Label and field selectors, as lists and watches have them.
//!
//! Deliberately absent: selectors in objects.

use serde_json::Value;

use super::status::{Outcome, bad_request};

/// One condition.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Condition {
    In(String, Vec<String>),
    NotIn(String, Vec<String>),
    Exists(String),
    Missing(String),
    Field { path: Vec<String>, equal: bool, value: String },
}

/// All conditions of a request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Selector(Vec<Condition>);

/// Fields by which the built-in resources can be selected, beside name and namespace.
const FIELDS: &[(&str, &[&str])] = &[
    (
        "pods",
        &[
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "spec.hostNetwork",
            "status.phase",
            "status.podIP",
            "status.nominatedNodeName",
        ],
    ),
    ("nodes", &["spec.unschedulable"]),
    ("namespaces", &["status.phase"]),
    (
        "events",
        &[
            "involvedObject.kind",
            "involvedObject.name",
            "involvedObject.namespace",
            "involvedObject.uid",
            "reason",
            "type",
        ],
    ),
    ("events.events.k8s.io", &["regarding.kind", "regarding.name", "regarding.namespace", "reason", "type"]),
];

impl Selector {
    /// Reads both selectors of a request to a resource.
    pub(crate) fn parse(resource: &str, labels: &str, fields: &str) -> Outcome<Self> {
        let mut conditions = parse_labels(labels)?;
        for term in fields.split(',').filter(|term| !term.is_empty()) {
            let (path, equal, value) = [("!=", false), ("==", true), ("=", true)]
                .iter()
                .find_map(|(sign, equal)| term.split_once(sign).map(|(path, value)| (path, *equal, value)))
                .ok_or_else(|| bad_request(format!("invalid selector: '{fields}'; can't understand '{term}'")))?;
            let known = ["metadata.name", "metadata.namespace"].contains(&path)
                || FIELDS.iter().any(|(name, fields)| *name == resource && fields.contains(&path));
            if !known {
                return Err(bad_request(format!("field label not supported: {path}")));
            }
            let path = path.split('.').map(str::to_owned).collect();
            conditions.push(Condition::Field { path, equal, value: value.to_owned() });
        }
        Ok(Self(conditions))
    }

    /// Whether it selects everything.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether it selects this object.
    pub(crate) fn selects(&self, object: &Value) -> bool {
        self.0.iter().all(|condition| condition.holds(object))
    }
}

impl Condition {
    fn holds(&self, object: &Value) -> bool {
        let label = |key: &String| object["metadata"]["labels"].get(key).and_then(Value::as_str);
        match self {
            Self::In(key, values) => label(key).is_some_and(|value| values.iter().any(|one| one == value)),
            Self::NotIn(key, values) => !label(key).is_some_and(|value| values.iter().any(|one| one == value)),
            Self::Exists(key) => label(key).is_some(),
            Self::Missing(key) => label(key).is_none(),
            Self::Field { path, equal, value } => {
                let found = path.iter().try_fold(object, |at, name| at.get(name));
                let found = match found {
                    Some(Value::String(text)) => text.clone(),
                    Some(Value::Null) | None => String::new(),
                    Some(other) => other.to_string(),
                };
                (found == *value) == *equal
            }
        }
    }
}

/// `a=b,c!=d,e in (f,g),h notin (i),j,!k`
fn parse_labels(text: &str) -> Outcome<Vec<Condition>> {
    let mut terms = Vec::new();
    let (mut depth, mut start) = (0, 0);
    for (at, letter) in text.char_indices() {
        match letter {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                terms.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    terms.push(&text[start..]);
    terms.into_iter().map(str::trim).filter(|term| !term.is_empty()).map(parse_label).collect()
}

fn parse_label(term: &str) -> Outcome<Condition> {
    let list = |text: &str| -> Option<Vec<String>> {
        let inside = text.trim().strip_prefix('(')?.strip_suffix(')')?;
        Some(inside.split(',').map(|value| value.trim().to_owned()).collect())
    };
    let set = [(" notin ", false), (" in ", true)].iter().find_map(|(sign, is_in)| {
        let (key, values) = term.split_once(sign)?;
        Some((key.trim().to_owned(), list(values)?, *is_in))
    });
    if let Some((key, values, is_in)) = set {
        return Ok(if is_in { Condition::In(key, values) } else { Condition::NotIn(key, values) });
    }
    let equality = [("!=", false), ("==", true), ("=", true)].iter().find_map(|(sign, equal)| {
        let (key, value) = term.split_once(sign)?;
        Some((key.trim().to_owned(), vec![value.trim().to_owned()], *equal))
    });
    if let Some((key, value, equal)) = equality {
        return Ok(if equal { Condition::In(key, value) } else { Condition::NotIn(key, value) });
    }
    let key = term.strip_prefix('!').unwrap_or(term);
    if key.chars().any(|letter| !(letter.is_alphanumeric() || "-_./".contains(letter))) {
        return Err(bad_request(format!("unable to parse requirement: found '{term}'")));
    }
    let (key, exists) = (key.to_owned(), !term.starts_with('!'));
    Ok(if exists { Condition::Exists(key) } else { Condition::Missing(key) })
}
