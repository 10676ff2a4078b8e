//! Diagnostics as SARIF 2.1.0 (OASIS), for code scanning: GitHub, GitLab and editors show them at their lines.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::core::diagnostic::{Diagnostic, Severity};
use crate::core::text::url_part;

/// The log of one run.
pub(crate) fn to_sarif(diagnostics: &[Diagnostic]) -> String {
    let rules: BTreeMap<&str, usize> = {
        let codes: std::collections::BTreeSet<&str> = diagnostics.iter().map(|diagnostic| diagnostic.code).collect();
        codes.into_iter().enumerate().map(|(index, code)| (code, index)).collect()
    };
    let log = json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": {"driver": {
                "name": "egret",
                "version": env!("CARGO_PKG_VERSION"),
                "rules": rules.keys().map(|code| json!({"id": code})).collect::<Vec<_>>(),
            }},
            // What a column counts; without this a reader would take them for UTF-16 units (3.14.17).
            "columnKind": "unicodeCodePoints",
            "results": diagnostics.iter().map(|diagnostic| result(diagnostic, &rules)).collect::<Vec<_>>(),
        }],
    });
    format!("{log:#}\n")
}

fn result(diagnostic: &Diagnostic, rules: &BTreeMap<&str, usize>) -> Value {
    let level = match diagnostic.severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
    };
    let mut message = diagnostic.message.clone();
    for more in
        [Some(&diagnostic.label).filter(|label| !label.is_empty()), diagnostic.hint.as_ref()].into_iter().flatten()
    {
        message.push_str(". ");
        message.push_str(more);
    }
    let mut region = json!({"startLine": diagnostic.start.line.max(1)});
    if diagnostic.start.column > 0 {
        region["startColumn"] = json!(diagnostic.start.column);
    }
    // The end is that of the last character and one (3.30.7), as ours is; a place where something is missing has none.
    if diagnostic.end.line >= diagnostic.start.line && diagnostic.end > diagnostic.start {
        region["endLine"] = json!(diagnostic.end.line);
        region["endColumn"] = json!(diagnostic.end.column);
    }
    json!({
        "ruleId": diagnostic.code,
        "ruleIndex": rules.get(diagnostic.code),
        "level": level,
        "message": {"text": message},
        "locations": [{"physicalLocation": {
            "artifactLocation": {"uri": uri(&diagnostic.file)},
            "region": region,
        }}],
    })
}

/// A path as a relative reference (RFC 3986): whatever is not unreserved or `/` is escaped, so that no file's name is read as a scheme.
fn uri(path: &str) -> String {
    path.split('/').map(url_part).collect::<Vec<_>>().join("/")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::diagnostic::SpanPoint;

    #[test]
    fn a_result_names_rule_file_and_region_and_escapes_paths() {
        let text = "a: 10.0.4.7/24\n";
        let diagnostic = Diagnostic {
            file: "policies/an outpost:1.yaml".to_owned(),
            start: SpanPoint::at(text, 3),
            end: SpanPoint::at(text, 14),
            severity: Severity::Error,
            code: "host-bits",
            message: "a destination has host bits set".to_owned(),
            label: String::new(),
            hint: Some("10.0.4.0/24 for the network".to_owned()),
        };
        let log: Value = serde_json::from_str(&to_sarif(&[diagnostic])).expect("JSON");
        assert_eq!(log["runs"][0]["tool"]["driver"]["rules"], json!([{"id": "host-bits"}]));
        assert_eq!(
            log["runs"][0]["results"][0],
            json!({
                "ruleId": "host-bits", "ruleIndex": 0, "level": "error",
                "message": {"text": "a destination has host bits set. 10.0.4.0/24 for the network"},
                "locations": [{"physicalLocation": {
                    "artifactLocation": {"uri": "policies/an%20outpost%3A1.yaml"},
                    "region": {"startLine": 1, "startColumn": 4, "endLine": 1, "endColumn": 15},
                }}],
            })
        );
    }

    #[test]
    fn nothing_found_is_a_run_with_no_result() {
        let log: Value = serde_json::from_str(&to_sarif(&[])).expect("JSON");
        assert_eq!(log["runs"][0]["results"], json!([]));
    }
}
