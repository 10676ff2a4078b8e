//! Readers of single fields: a node as a value of a known type, or a diagnostic.
//!
//! Readers return `None` after they have reported; the caller continues with what it has.

use std::ops::RangeInclusive;

use super::diagnostic_sink::{DiagnosticSink, Span, nearest, quoted};
use super::yaml::{MappingEntry, Scalar, ScalarKind, YamlNode, YamlValue};

/// A mapping whose keys are known.
#[derive(Debug, Clone, Copy)]
pub struct MappingReader<'n> {
    entries: &'n [MappingEntry],
    /// The fields it may have.
    fields: &'static [&'static str],
    /// Its name in messages: `spec`.
    what: &'static str,
    /// Where to point if a field is missing: its own key, or its beginning.
    at: Span,
}

impl<'n> MappingReader<'n> {
    /// A node as a mapping with these fields. Reports every other field.
    pub fn read(
        node: &'n YamlNode,
        what: &'static str,
        at: Span,
        fields: &'static [&'static str],
        out: &mut DiagnosticSink<'_>,
    ) -> Option<Self> {
        Self::read_with(node, what, at, fields, |_| None, out)
    }

    /// The same, with better hints for some unknown fields than the nearest word.
    pub fn read_with(
        node: &'n YamlNode,
        what: &'static str,
        at: Span,
        fields: &'static [&'static str],
        hint: impl Fn(&str) -> Option<String>,
        out: &mut DiagnosticSink<'_>,
    ) -> Option<Self> {
        let entries = mapping(node, what, out)?;
        for entry in entries.iter().filter(|entry| !fields.contains(&entry.key.as_str())) {
            out.error(entry.key_span, "unknown-field", format!("{} is no field of {what}", quoted(&entry.key)))
                .hint(hint(&entry.key).unwrap_or_else(|| did_you_mean(&entry.key, fields)));
        }
        Some(Self { entries, fields, what, at })
    }

    /// A field with a value.
    pub fn get(&self, name: &str) -> Option<&'n MappingEntry> {
        self.entries.iter().find(|entry| entry.key == name && !entry.value.is_null())
    }

    /// A required field.
    pub fn required(&self, name: &str, out: &mut DiagnosticSink<'_>) -> Option<&'n MappingEntry> {
        let found = self.get(name);
        if found.is_none() {
            self.missing(name, out);
        }
        found
    }

    /// Reports a missing field, unless a field that was reported as unknown was meant to be it.
    pub fn missing(&self, name: &str, out: &mut DiagnosticSink<'_>) {
        let unknown = self.entries.iter().map(|entry| entry.key.as_str()).filter(|key| !self.fields.contains(key));
        if unknown.into_iter().any(|key| nearest(key, self.fields.iter().copied()) == Some(name)) {
            return;
        }
        let place = self.entries.iter().find(|entry| entry.key == name).map_or(self.at, |entry| entry.key_span);
        out.error(place, "missing-field", format!("{} has no `{name}`", self.what)).hint(format!("add `{name}`"));
    }

    /// Where to point for a mistake about it as a whole.
    pub fn at(&self) -> Span {
        self.at
    }
}

fn did_you_mean(word: &str, candidates: &[&str]) -> String {
    match nearest(word, candidates.iter().copied()) {
        Some(candidate) => format!("did you mean `{candidate}`?"),
        None => format!("there are {}", candidates.join(", ")),
    }
}

/// A node as a mapping with any keys.
pub fn mapping<'n>(node: &'n YamlNode, what: &str, out: &mut DiagnosticSink<'_>) -> Option<&'n [MappingEntry]> {
    if let YamlValue::Mapping(entries) = &node.value {
        return Some(entries);
    }
    wrong_type(node, what, "a mapping", out);
    None
}

/// A node as a list.
pub fn list<'n>(node: &'n YamlNode, what: &str, out: &mut DiagnosticSink<'_>) -> Option<&'n [YamlNode]> {
    if let YamlValue::Sequence(items) = &node.value {
        return Some(items);
    }
    wrong_type(node, what, "a list", out);
    None
}

/// A node as text.
pub fn text<'n>(node: &'n YamlNode, what: &str, out: &mut DiagnosticSink<'_>) -> Option<&'n str> {
    if let YamlValue::Scalar(scalar) = &node.value
        && scalar.kind() == ScalarKind::Text
    {
        return Some(&scalar.text);
    }
    wrong_type(node, what, "text", out);
    None
}

/// A node as `true` or `false`.
pub fn boolean(node: &YamlNode, what: &str, out: &mut DiagnosticSink<'_>) -> Option<bool> {
    if let YamlValue::Scalar(scalar) = &node.value
        && let ScalarKind::Boolean(value) = scalar.kind()
    {
        return Some(value);
    }
    wrong_type(node, what, "true or false", out);
    None
}

/// A node as a whole number of a range.
pub fn integer(node: &YamlNode, what: &str, range: RangeInclusive<i64>, out: &mut DiagnosticSink<'_>) -> Option<i64> {
    match &node.value {
        YamlValue::Scalar(scalar) if scalar.kind() == ScalarKind::Number => {
            in_range(scalar, node.span, what, range, out)
        }
        _ => {
            wrong_type(node, what, "a number", out);
            None
        }
    }
}

/// A scalar's text, quoted or not, as a whole number of a range: annotations have no numbers.
pub fn in_range(
    scalar: &Scalar,
    at: Span,
    what: &str,
    range: RangeInclusive<i64>,
    out: &mut DiagnosticSink<'_>,
) -> Option<i64> {
    let number = scalar.integer().filter(|number| range.contains(number));
    if number.is_none() {
        out.error(at, "out-of-range", format!("{what} is {}", quoted(&scalar.text))).hint(format!(
            "a whole number from {} to {}",
            range.start(),
            range.end()
        ));
    }
    number
}

/// A node as one of several keywords.
pub fn choice<T: Copy>(node: &YamlNode, what: &str, words: &[(&str, T)], out: &mut DiagnosticSink<'_>) -> Option<T> {
    let text = text(node, what, out)?;
    let found = words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
    if found.is_none() {
        let candidates: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        out.error(node.span, "unknown-value", format!("{what} cannot be {}", quoted(text)))
            .hint(did_you_mean(text, &candidates));
    }
    found
}

/// Reports a value of the wrong type.
pub fn wrong_type(node: &YamlNode, what: &str, expected: &str, out: &mut DiagnosticSink<'_>) {
    let (found, text) = match &node.value {
        YamlValue::Sequence(_) => ("a list", None),
        YamlValue::Mapping(_) => ("a mapping", None),
        YamlValue::Scalar(scalar) => match scalar.kind() {
            ScalarKind::Null => ("nothing", None),
            ScalarKind::Boolean(_) => ("true or false", Some(&scalar.text)),
            ScalarKind::Number => ("a number", Some(&scalar.text)),
            ScalarKind::Text => ("text", None),
        },
    };
    let hint = text.filter(|_| expected == "text").map(|text| format!("put it in quotes: \"{text}\""));
    out.error(first_line(node), "wrong-type", format!("{what} must be {expected}"))
        .label(format!("this is {found}"))
        .hint_if(hint);
}

/// A scalar's text; of a collection only its first line, since it may span many.
pub fn first_line(node: &YamlNode) -> Span {
    match &node.value {
        YamlValue::Scalar(_) => node.span,
        _ if node.span.start.line == node.span.end.line => node.span,
        YamlValue::Mapping(entries) => entries.first().map_or(node.span.head(), |entry| entry.key_span),
        YamlValue::Sequence(items) => items.first().map_or(node.span.head(), first_line),
    }
}
