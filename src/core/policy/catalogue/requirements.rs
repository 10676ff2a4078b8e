//! Checks what egret.yaml and the cluster's operator require of documents: which labels NodeLabels may write, and that
//! policies name namespaces.
//!
//! The requirements depend on the cluster, so `check` cannot test them on a document alone. A document that violates one
//! is bad like any other: its last good version stays active. That also applies where the requirement is new and the
//! version is the same: deactivating a policy would send its members' packets out with their own addresses. Not here:
//! warnings (`lint`).

use super::super::check::Checked;
use super::super::config::Config;
use super::super::diagnostic_sink::diagnostic;
use crate::core::diagnostic::{Diagnostic, Severity};

/// Message for a selector that names no namespace.
pub(in crate::core::policy) const NO_NAMESPACE: &str =
    "the selector names no namespace: a user who may label pods in any namespace can use this egress IP";
/// Its hint.
pub(in crate::core::policy) const NAME_ONE: &str =
    "add a namespaceSelector, or io.kubernetes.pod.namespace to the podSelector's matchLabels";

/// Every requirement that a document violates. Empty if it is good.
pub(super) fn of(document: &Checked, file: &str, config: &Config) -> Vec<Diagnostic> {
    match document {
        Checked::Policy(checked) if config.require_namespace => {
            let selectors = checked.policy.selectors.iter().zip(&checked.spans.members);
            let unnamed = selectors.filter(|(selector, _)| !selector.names_a_namespace());
            let found = unnamed.map(|(_, span)| {
                let found = diagnostic(file, Severity::Error, *span, "no-namespace", NO_NAMESPACE.to_owned());
                Diagnostic { hint: Some(format!("{NAME_ONE}; egret.yaml has requireNamespace")), ..found }
            });
            found.collect()
        }
        Checked::NodeLabels(checked) => {
            let keys = checked.node_labels.labels.keys();
            let refused = keys.filter_map(|key| Some((key, config.label_keys.refuses(key)?)));
            let found = refused.map(|(key, refusal)| {
                let span = checked.spans.labels.get(key).copied().unwrap_or(checked.spans.name);
                let message = format!("Egret may not write the label {key}");
                let found = diagnostic(file, Severity::Error, span, "label-not-allowed", message);
                Diagnostic { hint: Some(refusal.hint()), ..found }
            });
            found.collect()
        }
        _ => Vec::new(),
    }
}
