//! Labels and label selectors, with Kubernetes' rules (`apimachinery/pkg/labels`, `apimachinery/pkg/util/validation`).
//!
//! Not here: Cilium's special keys (`policy::check` resolves them).

pub mod keys;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// An object's labels.
pub type Labels = BTreeMap<String, String>;

/// A selector: all of its requirements must hold. An empty one matches everything.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Selector {
    /// The requirements, in the order they were written.
    pub requirements: Vec<Requirement>,
}

/// One requirement on one label.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Requirement {
    /// The label's key.
    pub key: String,
    /// The condition.
    pub operator: Operator,
}

/// A condition on a label.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Operator {
    /// It is set to one of these values. `matchLabels` is this with one value.
    In(BTreeSet<String>),
    /// It is not set, or to another value.
    NotIn(BTreeSet<String>),
    /// It is set.
    Exists,
    /// It is not set.
    DoesNotExist,
}

impl Selector {
    /// Whether the labels satisfy every requirement.
    pub fn matches(&self, labels: &Labels) -> bool {
        self.requirements
            .iter()
            .all(|requirement| requirement.matches(labels.get(&requirement.key).map(String::as_str)))
    }
}

impl Requirement {
    /// Whether a label with this value (or none) satisfies it.
    pub fn matches(&self, value: Option<&str>) -> bool {
        self.operator.matches(value)
    }
}

impl Operator {
    /// Whether a label with this value (or none) satisfies it.
    pub fn matches(&self, value: Option<&str>) -> bool {
        match self {
            Self::In(values) => value.is_some_and(|value| values.contains(value)),
            Self::NotIn(values) => value.is_none_or(|value| !values.contains(value)),
            Self::Exists => value.is_some(),
            Self::DoesNotExist => value.is_none(),
        }
    }
}

impl fmt::Display for Selector {
    /// In the syntax of `kubectl get -l`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.requirements.is_empty() {
            return f.write_str("everything");
        }
        for (position, requirement) in self.requirements.iter().enumerate() {
            if position > 0 {
                f.write_str(",")?;
            }
            write!(f, "{requirement}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |values: &BTreeSet<String>| values.iter().cloned().collect::<Vec<_>>().join(",");
        match &self.operator {
            Operator::In(values) if values.len() == 1 => write!(f, "{}={}", self.key, list(values)),
            Operator::In(values) => write!(f, "{} in ({})", self.key, list(values)),
            Operator::NotIn(values) => write!(f, "{} notin ({})", self.key, list(values)),
            Operator::Exists => write!(f, "{}", self.key),
            Operator::DoesNotExist => write!(f, "!{}", self.key),
        }
    }
}

/// Why a text is not a valid label key; `None` if it is: an optional DNS prefix and `/`, then 1 to 63 of `[A-Za-z0-9._-]`
/// between letters or digits.
pub fn key_error(key: &str) -> Option<&'static str> {
    let (prefix, name) = match key.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, key),
    };
    if let Some(prefix) = prefix
        && super::name::ObjectName::parse(prefix).is_err()
    {
        return Some("the part before `/` must be a DNS name: lower case letters, digits, `-` and `.`, 253 at most");
    }
    if name.is_empty() || !is_qualified(name) {
        return Some(
            "a label's name has 1 to 63 letters, digits, `-`, `_` and `.`, and starts and ends with a letter or digit",
        );
    }
    None
}

/// Why a text is not a valid label value; `None` if it is: empty, or at most 63 of `[A-Za-z0-9._-]` between letters or
/// digits.
pub fn value_error(value: &str) -> Option<&'static str> {
    (!value.is_empty() && !is_qualified(value)).then_some(
        "a label's value has 63 letters, digits, `-`, `_` and `.` at most, and starts and ends with a letter or digit",
    )
}

fn is_qualified(text: &str) -> bool {
    let edge = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    bytes.len() <= 63
        && edge(bytes.first())
        && edge(bytes.last())
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    fn requirement(key: &str, operator: Operator) -> Selector {
        Selector { requirements: vec![Requirement { key: key.to_owned(), operator }] }
    }

    #[test]
    fn operators_as_kubernetes_defines_them() {
        let values = BTreeSet::from(["a".to_owned(), "b".to_owned()]);
        let there = labels(&[("k", "a")]);
        let other = labels(&[("k", "c")]);
        let absent = labels(&[]);
        for (operator, expected) in [
            (Operator::In(values.clone()), [true, false, false]),
            (Operator::NotIn(values), [false, true, true]),
            (Operator::Exists, [true, true, false]),
            (Operator::DoesNotExist, [false, false, true]),
        ] {
            let selector = requirement("k", operator);
            assert_eq!([&there, &other, &absent].map(|labels| selector.matches(labels)), expected, "{selector}");
        }
        assert!(Selector::default().matches(&absent));
    }

    #[test]
    fn keys_and_values_have_their_rules() {
        for key in ["egress-gw", "io.kubernetes.pod.namespace", "example.com/a_b.c", "A"] {
            assert_eq!(key_error(key), None, "{key}");
        }
        for key in ["", "-a", "a/", "/a", "Ex.com/a", "a/b/c", "a b", &"a".repeat(64)] {
            assert!(key_error(key).is_some(), "{key}");
        }
        assert_eq!(value_error(""), None);
        assert!(value_error("a b").is_some() && value_error("-a").is_some() && value_error(&"a".repeat(64)).is_some());
    }
}
