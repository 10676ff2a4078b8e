//! Tests of trees and locations, document boundaries, and limits.

use super::*;

fn trees(text: &str) -> (Vec<YamlTree>, Vec<String>) {
    let mut findings = DiagnosticSink::new("f.yaml");
    let trees = read(text, &mut findings);
    (trees, findings.into_diagnostics().iter().map(ToString::to_string).collect())
}

/// A tree without its places, in JSON's syntax.
fn plain(node: &YamlNode) -> String {
    match &node.value {
        YamlValue::Scalar(scalar) if scalar.plain => scalar.text.clone(),
        YamlValue::Scalar(scalar) => format!("{:?}", scalar.text),
        YamlValue::Sequence(items) => format!("[{}]", items.iter().map(plain).collect::<Vec<_>>().join(", ")),
        YamlValue::Mapping(entries) => {
            let entries = entries.iter().map(|entry| format!("{}: {}", entry.key, plain(&entry.value)));
            format!("{{{}}}", entries.collect::<Vec<_>>().join(", "))
        }
    }
}

fn plains(text: &str) -> Vec<String> {
    let (trees, findings) = trees(text);
    assert_eq!(findings, [""; 0], "{text:?}");
    trees.iter().filter_map(|tree| tree.root.as_ref().map(plain)).collect()
}

fn check_places(text: &str, node: &YamlNode) {
    for point in [node.span.start, node.span.end] {
        let mut expected = SpanPoint::at(text, point.offset);
        if text.starts_with('\u{feff}') && expected.line == 1 {
            expected.column -= 1;
        }
        assert_eq!(point, expected, "{text:?}");
    }
    match &node.value {
        YamlValue::Scalar(_) => {}
        YamlValue::Sequence(items) => items.iter().for_each(|item| check_places(text, item)),
        YamlValue::Mapping(entries) => entries.iter().for_each(|entry| {
            assert_eq!(&text[entry.key_span.start.offset..entry.key_span.end.offset].trim_matches('"'), &entry.key);
            check_places(text, &entry.value);
        }),
    }
}

#[test]
fn locations_are_those_of_the_text_with_any_line_ends_and_byte_order_marks() {
    for text in [
        "a:\n  b: \"x\"\n  c:\nd: [1, {e: f}]\n",
        "\u{feff}a: 1\r\nb: \u{e9}\u{1f600}\r\nc:\r\n- 'x'\r\n",
        "{\n\t\"a\": [\n\t\t1\n\t]\n}\n",
    ] {
        let (trees, findings) = trees(text);
        assert_eq!(findings, [""; 0]);
        check_places(text, trees[0].root.as_ref().unwrap());
    }
}

#[test]
fn documents_are_separated_by_the_parser_and_empty_ones_are_skipped() {
    assert_eq!(plains("---\na: |\n  ---\n  x\n---\n# nothing\n---\nb: 1\n...\n"), [r#"{a: "---\nx\n"}"#, "{b: 1}"]);
}

#[test]
fn a_broken_document_does_not_hide_the_next() {
    let (trees, findings) = trees("a: 1\n---\nb: [1\n---\nc: 1\n---\nd: 1\nd: 2\n");
    let roots: Vec<Option<String>> = trees.iter().map(|tree| tree.root.as_ref().map(plain)).collect();
    assert_eq!(roots, [Some("{a: 1}".to_owned()), None, Some("{c: 1}".to_owned()), Some("{d: 1}".to_owned())]);
    assert_eq!(trees.iter().map(|tree| tree.broken).collect::<Vec<_>>(), [false, true, false, true]);
    assert_eq!(
        findings,
        [
            "f.yaml:3:4: error: the document is not YAML: unclosed bracket '['",
            "f.yaml:8:1: error: `d` is given twice (hint: it stands on line 7 already)",
        ]
    );
}

#[test]
fn aliases_and_merge_keys_are_expanded() {
    assert_eq!(
        plains("a: &x {b: 1, c: 2}\nd:\n  <<: *x\n  b: 3\ne: *x\n"),
        ["{a: {b: 1, c: 2}, d: {b: 3, c: 2}, e: {b: 1, c: 2}}"]
    );
}

#[test]
fn alias_bombs_and_deep_nesting_are_refused() {
    let lines = (1..20).map(|level| {
        let aliases = vec![format!("*a{}", level - 1); 10].join(", ");
        format!("a{level}: &a{level} [{aliases}]\n")
    });
    let laughs: String = std::iter::once("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned()).chain(lines).collect();
    let (_, findings) = trees(&laughs);
    assert_eq!(findings.len(), 1);
    assert!(findings[0].contains("more than 400000 values"), "{findings:?}");
    for deep in ["[".repeat(5000), "- ".repeat(5000), "{a: ".repeat(5000)] {
        let (trees, findings) = trees(&deep);
        assert_eq!((trees.len(), findings.len()), (1, 1), "{findings:?}");
    }
    assert_eq!(trees(&"x".repeat(MAX_BYTES + 1)).1.len(), 1);
}

#[test]
fn scalars_have_the_types_of_the_kubernetes_api() {
    for (text, kind) in [
        ("true", ScalarKind::Boolean(true)),
        ("no", ScalarKind::Boolean(false)),
        ("1", ScalarKind::Number),
        ("-1.5e3", ScalarKind::Number),
        ("0x1fff", ScalarKind::Number),
        (".5", ScalarKind::Number),
        ("~", ScalarKind::Null),
        ("", ScalarKind::Null),
        ("10.0.4.0/24", ScalarKind::Text),
        ("10.0.3.42", ScalarKind::Text),
        ("infinity", ScalarKind::Text),
        ("2026-12-31T18:00:00Z", ScalarKind::Text),
        ("0xyz", ScalarKind::Text),
    ] {
        assert_eq!(Scalar { text: text.to_owned(), plain: true }.kind(), kind, "{text}");
        assert_eq!(Scalar { text: text.to_owned(), plain: false }.kind(), ScalarKind::Text, "{text}");
    }
}
