//! Tests of an edit on every form of labels, byte by byte. Larger files and random ones: `tests/it/manifests.rs`.

use super::*;

/// Edits the node `a`: `k=v` sets, `k-` removes, as in `kubectl label`.
fn edit(text: &str, changes: &[&str]) -> Result<String, EditError> {
    let set = changes.iter().filter_map(|change| change.split_once('='));
    let set = set.map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
    let remove =
        changes.iter().filter(|change| !change.contains('=')).map(|change| change.trim_end_matches('-').to_owned());
    edit_labels(text, &NodeName::parse("a").expect("a name"), &set, &remove.collect())
}

/// Each case: its subject, the text, the changes, the text expected.
fn assert_edits(cases: &[(&str, &str, &[&str], &str)]) {
    for (about, text, changes, expected) in cases {
        let edited = edit(text, changes).unwrap_or_else(|error| panic!("{about}: {error}"));
        assert_eq!(edited, *expected, "{about}");
        assert_eq!(edit(&edited, changes).as_deref(), Ok(*expected), "{about}: a second time");
    }
}

#[test]
fn labels_in_lines_are_changed_line_by_line() {
    assert_edits(&[
        (
            "added in order, with the others' comments and quotes kept",
            "kind: Node # n\nmetadata:\n  labels:\n    # the first\n    b: 'x'   # bee\n    d: \"y\"\n  name: a\nspec: {}\n",
            &["a=1", "c=on", "e=z"],
            "kind: Node # n\nmetadata:\n  labels:\n    # the first\n    a: \"1\"\n    b: 'x'   # bee\n    c: \"on\"\n    d: \"y\"\n    e: z\n  name: a\nspec: {}\n",
        ),
        (
            "changed in their own quotes",
            "kind: Node\nmetadata:\n  name: a\n  labels:\n    a: 'x' # one\n    b: \"x\"\n    c: x\n    d: x\n    e:   # none\n    f: null\n    g: x\n",
            &["a=w", "b=w", "c=w", "d=true", "e=w", "f=null", "g="],
            "kind: Node\nmetadata:\n  name: a\n  labels:\n    a: 'w' # one\n    b: \"w\"\n    c: w\n    d: \"true\"\n    e: w   # none\n    f: \"null\"\n    g: \"\"\n",
        ),
        (
            "removed with their lines",
            "kind: Node\nmetadata:\n  labels:\n    a: x # gone\n    # stays\n    b: y\n    c: z\n  name: a",
            &["a-", "c-", "d-"],
            "kind: Node\nmetadata:\n  labels:\n    # stays\n    b: y\n  name: a",
        ),
        (
            "all removed",
            "kind: Node\nmetadata:\n  labels: # of a\n    a: x\n    b: y\n  name: a\n",
            &["a-", "b-"],
            "kind: Node\nmetadata:\n  labels: {} # of a\n  name: a\n",
        ),
        (
            "all replaced, at the end of a file without a last newline",
            "kind: Node\nmetadata:\n  name: a\n  labels:\n    a: x\n    b: y",
            &["a-", "b-", "c=z"],
            "kind: Node\nmetadata:\n  name: a\n  labels:\n    c: z\n",
        ),
        (
            "added at the end of a file without a last newline",
            "kind: Node\r\nmetadata:\r\n  name: a\r\n  labels:\r\n    a: x",
            &["b=w", "c=z"],
            "kind: Node\r\nmetadata:\r\n  name: a\r\n  labels:\r\n    a: x\r\n    b: w\r\n    c: z",
        ),
        (
            "CRLF, and characters of several bytes",
            "\u{feff}# Überschrift\r\nkind: Node\r\nmetadata:\r\n  labels:\r\n    z: é\r\n  name: a\r\n",
            &["b=w"],
            "\u{feff}# Überschrift\r\nkind: Node\r\nmetadata:\r\n  labels:\r\n    b: w\r\n    z: é\r\n  name: a\r\n",
        ),
    ]);
}

#[test]
fn labels_that_are_not_there_yet_get_their_place_behind_the_name() {
    assert_edits(&[
        (
            "no labels",
            "kind: Node\nmetadata:\n    name: a # me\nspec: {}\n",
            &["a=1", "b=w"],
            "kind: Node\nmetadata:\n    name: a # me\n    labels:\n      a: \"1\"\n      b: w\nspec: {}\n",
        ),
        (
            "no labels, no newline",
            "kind: Node\nmetadata:\n  name: a",
            &["b=w"],
            "kind: Node\nmetadata:\n  name: a\n  labels:\n    b: w",
        ),
        (
            "nothing behind labels",
            "kind: Node\nmetadata:\n  labels: # none\n  name: a\n",
            &["b=w"],
            "kind: Node\nmetadata:\n  labels: # none\n    b: w\n  name: a\n",
        ),
        (
            "null",
            "kind: Node\nmetadata:\n  labels: null\n  name: a\n",
            &["b=w"],
            "kind: Node\nmetadata:\n  labels: {b: w}\n  name: a\n",
        ),
        (
            "empty",
            "kind: Node\nmetadata:\n  labels: {}\n  name: a\n",
            &["b=w", "c=1"],
            "kind: Node\nmetadata:\n  labels: {b: w, c: \"1\"}\n  name: a\n",
        ),
        (
            "within braces",
            "kind: Node\nmetadata: {name: a}\n",
            &["b=w"],
            "kind: Node\nmetadata: {name: a, labels: {b: w}}\n",
        ),
        (
            "without a value",
            "{kind: Node, metadata: {labels, name: a}}",
            &["b=w"],
            "{kind: Node, metadata: {labels: {b: w}, name: a}}",
        ),
        (
            "with a colon only",
            "{kind: Node, metadata: {labels: , name: a}}",
            &["b=w"],
            "{kind: Node, metadata: {labels: {b: w} , name: a}}",
        ),
    ]);
}

#[test]
fn labels_within_braces_keep_their_layout() {
    assert_edits(&[
        (
            "added",
            "{kind: Node, metadata: {name: a, labels: {b: x,  d: y}}}",
            &["a=1", "c=v", "e=v"],
            "{kind: Node, metadata: {name: a, labels: {a: \"1\",  b: x,  c: v,  d: y,  e: v}}}",
        ),
        (
            "removed in front",
            "{kind: Node, metadata: {name: a, labels: {a: x, b: y, c: z}}}",
            &["a-", "b-"],
            "{kind: Node, metadata: {name: a, labels: {c: z}}}",
        ),
        (
            "removed behind",
            "{kind: Node, metadata: {name: a, labels: {a: x, b: y, c: z, }}}",
            &["b-", "c-"],
            "{kind: Node, metadata: {name: a, labels: {a: x, }}}",
        ),
        (
            "all removed",
            "{kind: Node, metadata: {name: a, labels: { a: x, b: y }}}",
            &["b-", "a-"],
            "{kind: Node, metadata: {name: a, labels: {}}}",
        ),
        (
            "all replaced",
            "{kind: Node, metadata: {name: a, labels: {a: x}}}",
            &["a-", "b=w"],
            "{kind: Node, metadata: {name: a, labels: {b: w}}}",
        ),
        (
            "keys without values",
            "{kind: Node, metadata: {name: a, labels: {a, b: , c: z}}}",
            &["a=1", "b=2", "c-"],
            "{kind: Node, metadata: {name: a, labels: {a: \"1\", b: \"2\"}}}",
        ),
        (
            "behind a key without value",
            "{kind: Node, metadata: {name: a, labels: {a: , d: x}}}",
            &["b=w"],
            "{kind: Node, metadata: {name: a, labels: {a: , b: w , d: x}}}",
        ),
    ]);
}

#[test]
fn json_stays_json_compact_or_pretty() {
    let pretty = "{\n\t\"kind\": \"Node\",\n\t\"metadata\": {\n\t\t\"labels\": {\n\t\t\t\"b\": \"x\",\n\t\t\t\"d\": null\n\t\t},\n\t\t\"name\": \"a\"\n\t}\n}\n";
    assert_edits(&[
        (
            "compact",
            r#"{"kind":"Node","metadata":{"name":"a","labels":{"b":"x"}}}"#,
            &["a=1", "c=true"],
            r#"{"kind":"Node","metadata":{"name":"a","labels":{"a":"1","b":"x","c":"true"}}}"#,
        ),
        (
            "compact, no labels",
            r#"{"kind":"Node","metadata":{"name":"a","uid":"u"}}"#,
            &["a=1", "b=x"],
            r#"{"kind":"Node","metadata":{"name":"a","labels":{"a":"1","b":"x"},"uid":"u"}}"#,
        ),
        (
            "compact, empty",
            r#"{"kind":"Node","metadata":{"name":"a","labels":{}}}"#,
            &["a=1", "b=x"],
            r#"{"kind":"Node","metadata":{"name":"a","labels":{"a":"1","b":"x"}}}"#,
        ),
        (
            "null",
            r#"{"kind":"Node","metadata":{"name":"a","labels":null}}"#,
            &["b=x"],
            r#"{"kind":"Node","metadata":{"name":"a","labels":{"b":"x"}}}"#,
        ),
        (
            "pretty, added",
            pretty,
            &["a=1", "e=f"],
            &pretty
                .replace("\"b\": \"x\"", "\"a\": \"1\",\n\t\t\t\"b\": \"x\"")
                .replace("null", "null,\n\t\t\t\"e\": \"f\""),
        ),
        (
            "pretty, changed and removed",
            pretty,
            &["b-", "d=y"],
            &pretty.replace("\"b\": \"x\",\n\t\t\t", "").replace("null", "\"y\""),
        ),
        (
            "pretty, no labels",
            "{\n  \"kind\": \"Node\",\n  \"metadata\": {\n    \"name\": \"a\"\n  }\n}",
            &["b=x"],
            "{\n  \"kind\": \"Node\",\n  \"metadata\": {\n    \"name\": \"a\",\n    \"labels\": {\"b\": \"x\"}\n  }\n}",
        ),
    ]);
    for text in [pretty, r#"{"kind":"Node","metadata":{"name":"a","labels":{}}}"#] {
        let edited = edit(text, &["b-", "no=n", "x=1.5"]).expect("edited");
        let json: serde_json::Value = serde_json::from_str(&edited).expect(&edited);
        assert_eq!((&json["metadata"]["labels"]["no"], &json["metadata"]["labels"]["x"]), (&"n".into(), &"1.5".into()));
    }
}

#[test]
fn only_the_nodes_own_manifest_is_edited() {
    let others = "# a pod has the node's name\nkind: Pod\nmetadata:\n  name: a\n---\nkind: ConfigMap\nmetadata: {name: c}\ndata:\n  dump: |\n    ---\n    kind: Node\n    metadata:\n      name: a\n---\nkind: Node\nmetadata:\n  name: b\n...\n";
    let list = "---\napiVersion: v1\nitems:\n- kind: Node\n  metadata:\n    labels:\n      x: y\n    name: b\n- kind: Node\n  metadata:\n    labels:\n      x: y\n    name: a\nkind: List\n";
    let text = format!("{others}{list}");
    let expected =
        format!("{others}{}", list.replace("x: y\n    name: a", "egress-gw: \"true\"\n      x: y\n    name: a"));
    assert_eq!(edit(&text, &["egress-gw=true"]), Ok(expected));
    // The API server's own list: the items have no kind.
    let raw = r#"{"kind":"NodeList","items":[{"metadata":{"name":"b"}},{"metadata":{"name":"a"}}]}"#;
    assert_eq!(edit(raw, &["k=v"]), Ok(raw.replace(r#""a""#, r#""a","labels":{"k":"v"}"#)));
    // Of two manifests the last one counts, as when facts are read.
    let twice = "kind: Node\nmetadata: {name: a, labels: {k: x}}\n---\nkind: Node\nmetadata: {name: a}\n";
    assert_eq!(edit(twice, &["k=v"]), Ok(twice.replace("name: a}", "name: a, labels: {k: v}}")));
    assert_eq!(edit(others, &["k=v"]), Err(EditError::NoSuchNode));
}

#[test]
fn what_cannot_be_edited_safely_is_refused_with_its_line() {
    let labels = |labels: &str| format!("kind: Node\nmetadata:\n  name: a\n  labels:{labels}\nspec: {{}}\n");
    for (text, line, what) in [
        (labels("\n    b: &x y"), 5, "an anchor, an alias, a tag or a nested value among the labels"),
        (labels("\n    b: !!str y"), 5, "an anchor, an alias, a tag or a nested value among the labels"),
        (labels("\n    b: {c: d}"), 5, "an anchor, an alias, a tag or a nested value among the labels"),
        (labels("\n    b: |\n      y"), 6, "a block scalar among the labels"),
        (labels("\n    b: x\n    b: y"), 6, "a label that is there twice"),
        (labels("\n    ? b\n    : y"), 5, "a key that does not begin its line"),
        (labels(" &all\n    b: y"), 5, "labels that are no plain mapping"),
        (labels(" [b]"), 4, "labels that are no plain mapping"),
        ("kind: Node\nmetadata:\n  <<: {labels: {x: y}}\n  name: a\n".to_owned(), 3, "a merge key in metadata"),
        (labels("\n    <<: {x: y}"), 5, "a merge key among the labels"),
    ] {
        let error = edit(&text, &["k=v"]);
        if what == "a merge key among the labels" {
            assert!(matches!(error, Err(EditError::Unusual { line: 5, .. })), "{text}: {error:?}");
        } else {
            assert_eq!(error, Err(EditError::Unusual { line, what }), "{text}");
        }
    }
    let syntax = edit("kind: Node\nmetadata: {name: a\nspec: 1\n", &["k=v"]);
    assert!(matches!(syntax, Err(EditError::Syntax { line: 3, .. })), "{syntax:?}");
}

#[test]
fn what_is_no_label_is_not_written() {
    let text = "kind: Node\nmetadata: {name: a}\n";
    for change in ["a b=x", "a=x: y", "a=-x", "a=\"", "=x"] {
        assert!(matches!(edit(text, &[change]), Err(EditError::Label { .. })), "{change}");
    }
}

#[test]
fn every_value_is_read_back_as_the_string_it_is() {
    let values =
        "true True yes NO on y null Null nan inf 1 0x1f 0o7 1e3 1.5 1_000 2024-01-01 12e 00 infinity a e3 v1.2-x";
    for value in values.split(' ').chain([""]) {
        for text in [
            "kind: Node\nmetadata: {name: a}\n",
            "kind: Node\nmetadata:\n  name: a\n",
            "kind: Node\nmetadata:\n  name: a\n  labels:\n    k: old\n",
        ] {
            let edited = edit(text, &[&format!("k={value}")]).expect(value);
            let document: serde_json::Value = serde_yaml::from_str(&edited).expect(&edited);
            assert_eq!(document["metadata"]["labels"], serde_json::json!({ "k": value }), "{edited}");
        }
    }
}
