//! Checks `egret.dev/v1alpha1 NodeLabels`.
//!
//! Not here: whether the nodes exist (`lint`), and conflicting documents (`catalogue`).

use std::collections::BTreeSet;

use super::CheckedNodeLabels;
use super::selector::{LabelsOf, label_key, label_value, nodes};
use crate::core::labels::Labels;
use crate::core::name::NodeName;
use crate::core::policy::NodeLabels;
use crate::core::policy::diagnostic_sink::{DiagnosticSink, quoted};
use crate::core::policy::document::{Document, NODE_LABELS_SPEC, ROOT};
use crate::core::policy::mapping_reader::{MappingReader, list, mapping, text};
use crate::core::policy::spans::NodeLabelsSpans;
use crate::core::policy::yaml::{MappingEntry, YamlNode};

pub(super) fn read(document: &Document<'_>, out: &mut DiagnosticSink<'_>) -> Option<CheckedNodeLabels> {
    let root = MappingReader::read(document.root, "a NodeLabels", document.root.span.head(), ROOT, out)?;
    let spec = root.required("spec", out)?;
    let spec = MappingReader::read(&spec.value, "spec", spec.key_span, NODE_LABELS_SPEC, out)?;
    let mut spans = NodeLabelsSpans { name: document.name_span, ..NodeLabelsSpans::default() };
    spans.acknowledged = document.acknowledged.clone();
    let (by_name, by_selector) = (spec.get("nodes"), spec.get("nodeSelector"));
    match (by_name, by_selector) {
        (Some(_), Some(selector)) => {
            out.error(selector.key_span, "nodes-and-selector", "nodes and nodeSelector are both given")
                .hint("keep one, or write two documents");
        }
        (None, None) => {
            out.error(spec.at(), "missing-field", "spec has neither nodes nor nodeSelector")
                .hint("nodes: [\"…\"] for nodes by name");
        }
        _ => {}
    }
    let node_names = by_name.map(|entry| names(entry, &mut spans, out)).unwrap_or_default();
    let node_selector = by_selector.map(|entry| {
        spans.node_selector = Some(entry.key_span);
        nodes(entry, out)
    });
    let labels = spec.required("labels", out).map(|entry| labels(entry, &mut spans, out)).unwrap_or_default();
    let name = document.name.clone()?;
    let origin = document.origin.clone();
    Some(CheckedNodeLabels {
        node_labels: NodeLabels { name, nodes: node_names, node_selector, labels, origin },
        spans,
    })
}

fn names(entry: &MappingEntry, spans: &mut NodeLabelsSpans, out: &mut DiagnosticSink<'_>) -> Vec<NodeName> {
    let items = list(&entry.value, "`nodes`", out);
    if items.is_some_and(<[YamlNode]>::is_empty) {
        out.error(entry.key_span, "no-nodes", "`nodes` is empty: no node gets these labels");
    }
    let mut found: Vec<NodeName> = Vec::new();
    let mut seen = BTreeSet::new();
    for node in items.unwrap_or(&[]) {
        let Some(written) = text(node, "a node's name", out) else { continue };
        match NodeName::parse(written) {
            Ok(name) if !seen.insert(name.clone()) => {
                out.warning(node.span, "duplicate-node", format!("{name} stands in `nodes` already"))
                    .hint("take one out");
            }
            Ok(name) => {
                found.push(name);
                spans.nodes.push(node.span);
            }
            Err(error) => {
                out.error(node.span, "bad-name", format!("{} is no node's name", quoted(written)))
                    .hint(error.to_string());
            }
        }
    }
    found
}

fn labels(entry: &MappingEntry, spans: &mut NodeLabelsSpans, out: &mut DiagnosticSink<'_>) -> Labels {
    let mut found = Labels::new();
    let entries = mapping(&entry.value, "`labels`", out);
    if entries.is_some_and(<[MappingEntry]>::is_empty) {
        out.error(entry.key_span, "no-labels", "`labels` is empty: the document does nothing");
    }
    for label in entries.unwrap_or(&[]) {
        let key = label_key(&label.key, label.key_span, LabelsOf::Nodes, out);
        let value = label_value(&label.value, out);
        if let (Some(key), Some(value)) = (key, value) {
            spans.labels.insert(key.clone(), label.value.span);
            found.insert(key, value);
        }
    }
    found
}
