//! Checks that the active documents can be published together: the EgressConfig has labels of all NodeLabels, and each
//! policy has a resource of its own name.
//!
//! Such a mistake has no one document that is bad, so the documents stay active; the controller does not publish a set
//! whose EgressConfig is too large. Not here: what one document can break (`limits`).

use super::super::diagnostic_sink::diagnostic;
use super::super::document::CONFIG_FILE;
use super::super::published::resource_name;
use super::super::spans::Spans;
use super::super::{ObjectName, PolicyId, PolicyKind, PolicySet, limits};
use crate::core::diagnostic::{Diagnostic, Severity};

/// Every mistake of the set.
pub(super) fn mistakes(set: &PolicySet, spans: &Spans) -> Vec<Diagnostic> {
    let config = limits::refuses_set(set).map(|(message, hint)| {
        let at = spans.only_labelled.unwrap_or_default();
        let found = diagnostic(CONFIG_FILE, Severity::Error, at, "too-large", message);
        Diagnostic { hint: Some(hint.to_owned()), ..found }
    });
    set.policies.keys().filter_map(|id| nameless(set, spans, id)).chain(config).collect()
}

/// A Cilium policy beside an EgressPolicy of its name has a longer name in the cluster.
fn nameless(set: &PolicySet, spans: &Spans, id: &PolicyId) -> Option<Diagnostic> {
    let name = resource_name(set, id);
    let why = match ObjectName::parse(&name) {
        _ if name == id.name.as_str() => return None,
        Err(_) => "which is too long".to_owned(),
        Ok(name) => {
            let taken = [PolicyKind::Cilium, PolicyKind::Egret].into_iter().any(|kind| {
                let other = PolicyId { name: name.clone(), kind };
                set.policies.contains_key(&other)
            });
            if !taken {
                return None;
            }
            "which is the name of another policy".to_owned()
        }
    };
    let at = spans.policies.get(id).map(|spans| spans.name).unwrap_or_default();
    let file = set.policies.get(id).map(|policy| policy.origin.file.as_str()).unwrap_or_default();
    let message = format!("beside the EgressPolicy {} it is published as {name}, {why}", id.name);
    let found = diagnostic(file, Severity::Error, at, "name-taken", message);
    Some(Diagnostic { hint: Some("rename one of the two".to_owned()), ..found })
}
