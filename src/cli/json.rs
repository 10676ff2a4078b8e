//! Results for programs: JSON objects with the version of their form. docs/commands.md describes each.

use serde::Serialize;

/// Counted up when a field goes, or means something else. A field that is added leaves it.
const FORMAT_VERSION: u32 = 1;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Versioned<T> {
    format_version: u32,
    #[serde(flatten)]
    result: T,
}

/// A result, which must be a struct, with `formatVersion` before its fields. Ends with a newline.
pub(super) fn text(result: impl Serialize) -> String {
    let versioned = Versioned { format_version: FORMAT_VERSION, result };
    // Fails for maps with keys that are no text, and no result has one.
    serde_json::to_string_pretty(&versioned).map(|text| text + "\n").unwrap_or_default()
}
