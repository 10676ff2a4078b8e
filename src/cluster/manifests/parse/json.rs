//! Reads manifests that are JSON, as `kubectl get -o json` prints them, by a JSON parser.
//!
//! Not here: errors. A text in which anything is amiss is left to the YAML parser, which knows where.

use super::{Document, Parsed, ParsedName, Reader};
use crate::core::diagnostic::SpanPoint;

/// A name is a part of the text: one with an escape is no name that Kubernetes accepts.
impl ParsedName for &str {
    fn text(&self) -> &str {
        self
    }
}

/// The objects of one JSON document without any error.
pub(super) fn parse(file: &str, text: &str) -> Option<Parsed> {
    if !text.trim_start().starts_with('{') {
        return None;
    }
    let document: Document<&str> = serde_json::from_str(text).ok()?;
    let mut places = Places { text, last: SpanPoint { offset: 0, line: 1, column: 1 } };
    let mut reader = Reader { file, parsed: Parsed::default(), place_of: |name: &&str| places.of(name) };
    reader.document(document, text).ok()?;
    Some(reader.parsed).filter(|parsed| parsed.faults.is_empty())
}

/// Finds lines and columns going on from the last one, since a dump may be one line of a hundred megabytes.
struct Places<'a> {
    text: &'a str,
    last: SpanPoint,
}

impl Places<'_> {
    /// Where a part of the text stands, with the quote before it. Parts come in their order.
    fn of(&mut self, part: &str) -> SpanPoint {
        let offset = (part.as_ptr().addr() - self.text.as_ptr().addr()).saturating_sub(1);
        for letter in self.text[self.last.offset..offset].chars() {
            if letter == '\n' {
                (self.last.line, self.last.column) = (self.last.line + 1, 1);
            } else {
                self.last.column += 1;
            }
        }
        self.last.offset = offset;
        self.last
    }
}

#[cfg(test)]
mod tests {
    use super::super::parse_yaml;
    use super::*;

    /// What kubectl prints, in its own layout and in one line.
    fn dump() -> [String; 2] {
        let pod = |name: &str, ip: &str| {
            serde_json::json!({
                "apiVersion": "v1", "kind": "Pod",
                "metadata": {
                    "name": name, "namespace": "shop", "labels": {"app": "cart", "größe": "Ä"}, "annotations": {"a": "\"é\n"},
                    "managedFields": [{"manager": "k", "fieldsV1": {"f:metadata": {}}}],
                },
                "spec": {"nodeName": "node-1", "containers": [{"name": "c", "image": "i", "ports": [{"containerPort": 80}]}]},
                "status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}], "startTime": null},
            })
        };
        let node = serde_json::json!({
            "kind": "Node", "metadata": {"name": "node-1", "labels": {"zone": "a"}}, "spec": {"podCIDR": "10.1.0.0/24"},
            "status": {"addresses": [{"type": "InternalIP", "address": "172.18.0.2"}], "conditions": [{"type": "Ready", "status": "True"}]},
        });
        let namespace = serde_json::json!({"kind": "Namespace", "metadata": {"name": "shop", "labels": null}});
        let pool = serde_json::json!({"kind": "IPPool", "metadata": {"name": "p"}, "spec": {"cidr": "10.48.0.0/16"}});
        let secret = serde_json::json!({"kind": "Secret", "metadata": {"name": 7}, "spec": "none of ours"});
        let items = [node, namespace, pod("cart-1", "10.1.0.5"), secret, pool, pod("cart-2", "10.1.0.6")];
        let list = serde_json::json!({"apiVersion": "v1", "kind": "List", "items": items, "metadata": {"resourceVersion": ""}});
        [serde_json::to_string_pretty(&list).expect("JSON"), list.to_string()]
    }

    #[test]
    fn both_parsers_read_the_same_objects_at_the_same_places() {
        for text in dump() {
            let (fast, slow) = (parse("f", &text).expect("no error"), parse_yaml("f", &text).expect("no error"));
            assert_eq!(fast.objects.len(), 5);
            assert_eq!(fast.objects, slow.objects);
        }
    }

    #[test]
    fn what_has_an_error_is_left_to_the_parser_that_knows_places() {
        let [text, _] = dump();
        for (good, bad) in [
            ("10.1.0.5", "10.1.0.500"),
            ("\"kind\": \"List\"", "\"kin\": \"List\""),
            ("cart-2", "cart-1"),
            ("\"name\": \"shop\"", "\"title\": \"shop\""),
            ("\"name\": \"cart-1\"", "\"name\": \"cart\\u002d1\""),
            ("\"zone\": \"a\"", "\"zone\": 1"),
            ("\"zone\": \"a\"", "\"zone\": \"a\", \"zone\": \"b\""),
            ("\"kind\": \"Node\"", "\"kind\": \"Node\", \"kind\": \"Pod\""),
            ("\"status\": {", "\"status\": {}, \"status\": {"),
            ("\"podIP\": ", "\"podIP\": null, \"podIP\": "),
        ] {
            assert!(text.contains(good), "{good}");
            assert!(parse("f", &text.replace(good, bad)).is_none(), "{bad}");
        }
        for text in [&text[..text.len() - 2], &format!("{text}\n{text}"), "", "[]", "kind: Pod"] {
            assert!(parse("f", text).is_none());
        }
    }
}
