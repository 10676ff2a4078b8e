//! Label keys and values as YAML scalars that every parser reads as strings.
//!
//! Deliberately absent: escaping. Labels have letters, digits, `-`, `_`, `.` and `/` only, and are checked before.

use serde_yaml::granit_parser::ScalarStyle;

/// What YAML 1.1 (which Kubernetes reads) or 1.2 takes for a boolean, a null or a number though it begins with a letter.
const WORDS: [&str; 12] = ["true", "false", "yes", "no", "on", "off", "y", "n", "null", "nan", "inf", "infinity"];

/// A label's text as a scalar: in the style of what it replaces, and quoted where a plain one would be no string.
pub(super) fn scalar(text: &str, style: ScalarStyle) -> String {
    match style {
        ScalarStyle::SingleQuoted => format!("'{text}'"),
        ScalarStyle::DoubleQuoted => format!("\"{text}\""),
        _ if is_string_when_plain(text) => text.to_owned(),
        _ => format!("\"{text}\""),
    }
}

/// Numbers, dates and `.inf` begin with no letter; nor does anything that means something else to YAML.
fn is_string_when_plain(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_alphabetic())
        && !WORDS.iter().any(|word| text.eq_ignore_ascii_case(word))
}
