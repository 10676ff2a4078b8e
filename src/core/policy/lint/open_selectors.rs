//! Warns of selectors that let pods of any namespace be members, and of labels by which a node could make itself a
//! gateway.
//!
//! Not here: refusing them (`catalogue::requirements`), and the effect on the choice of gateways (`grants`).

use super::super::catalogue::{NAME_ONE, NO_NAMESPACE};
use super::super::diagnostic_sink::{Span, diagnostic};
use super::super::grants::{Grant, asks_for, own_word as word_of};
use super::super::spans::NodeLabelsSpans;
use super::super::{GatewaySpec, NodeLabels, Policy, PolicySet};
use super::warning;
use crate::core::diagnostic::{Diagnostic, Severity};
use crate::core::labels::Selector;
use crate::core::labels::keys::kept_from_kubelets;

/// Selectors that name no namespace. Where egret.yaml requires it they are errors, reported earlier.
pub(super) fn any_namespace(set: &PolicySet, policy: &Policy, file: &str, places: &[Span]) -> Vec<Diagnostic> {
    if set.config.require_namespace {
        return Vec::new();
    }
    let unnamed = policy.selectors.iter().zip(places).filter(|(selector, _)| !selector.names_a_namespace());
    let hint = format!("{NAME_ONE}; with requireNamespace in egret.yaml this is an error");
    unnamed.map(|(_, span)| warning(file, *span, "no-namespace", NO_NAMESPACE.to_owned(), &hint)).collect()
}

/// Which label required by a gateway's nodeSelector no NodeLabels gives, where only Git's labels count. `None` if some
/// node could match.
pub(super) fn no_gift(set: &PolicySet, selector: &Selector) -> Option<String> {
    let grants = set.grants.as_ref()?;
    let sound = || grants.iter().filter(|grant| grant.is_sound());
    let mut some = false;
    for requirement in selector.requirements.iter().filter(|requirement| asks_for(requirement)) {
        let gives =
            |grant: &Grant| grant.labels.get(&requirement.key).is_some_and(|value| requirement.matches(Some(value)));
        let given = sound().any(gives);
        some |= given;
        if !given && !kept_from_kubelets(&requirement.key) {
            return Some(format!("no NodeLabels gives a node {requirement}"));
        }
    }
    (!some).then(|| format!("the nodeSelector ({selector}) asks for no label that NodeLabels give"))
}

/// A gateway entry that no node can match.
pub(super) fn unlabelled(set: &PolicySet, gateway: &GatewaySpec, file: &str, span: Span) -> Option<Diagnostic> {
    let message = no_gift(set, &gateway.node)? + ", so no node may be this gateway";
    let hint = "egret.yaml has gateways.onlyLabelledFromGit: give the labels by a NodeLabels that names the nodes";
    Some(warning(file, span, "gateway-not-from-git", message, hint))
}

/// Gateway labels given to nodes that can select themselves.
pub(super) fn own_word(set: &PolicySet, document: &NodeLabels, places: &NodeLabelsSpans) -> Option<Diagnostic> {
    let grants = set.grants.as_ref()?;
    let (key, span) = (word_of(document.node_selector.as_ref()?)?, places.node_selector?);
    let of_gateways = |key: &str| grants.iter().any(|grant| grant.labels.contains_key(key));
    let label = document.labels.keys().find(|key| of_gateways(key))?;
    let how = if key.is_empty() {
        "asks for no label".to_owned()
    } else {
        format!("asks for {key}, which a kubelet can set or take off on its own node")
    };
    let message = format!("this nodeSelector {how}; {label} makes no gateway of the nodes");
    let hint = "egret.yaml has gateways.onlyLabelledFromGit: name the nodes in `nodes`, or ask for labels of \
                node-restriction.kubernetes.io/ alone";
    let found = diagnostic(&document.origin.file, Severity::Error, span, "node-labels-itself", message);
    Some(Diagnostic { hint: Some(hint.to_owned()), ..found })
}
