//! Writes label keys and values as YAML scalars that every parser reads as strings.
//!
//! No escaping is needed: labels consist of letters, digits, `-`, `_`, `.` and `/` only, and are validated before.

use serde_yaml::granit_parser::ScalarStyle;

/// Words that begin with a letter and that YAML 1.1 (which Kubernetes reads) or 1.2 reads as a boolean, a null or a
/// number.
const WORDS: [&str; 12] = ["true", "false", "yes", "no", "on", "off", "y", "n", "null", "nan", "inf", "infinity"];

/// A label's text as a scalar: in the style of the scalar it replaces, and quoted if a plain one would not be a
/// string.
pub(super) fn scalar(text: &str, style: ScalarStyle) -> String {
    match style {
        ScalarStyle::SingleQuoted => format!("'{text}'"),
        ScalarStyle::DoubleQuoted => format!("\"{text}\""),
        _ if is_string_when_plain(text) => text.to_owned(),
        _ => format!("\"{text}\""),
    }
}

/// Numbers, dates and `.inf` do not begin with a letter; neither does anything else with a meaning in YAML.
fn is_string_when_plain(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_alphabetic())
        && !WORDS.iter().any(|word| text.eq_ignore_ascii_case(word))
}
