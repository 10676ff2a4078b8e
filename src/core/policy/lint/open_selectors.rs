//! Warns of selectors that let pods of any namespace be members, and of labels by which a node could make itself a
//! gateway.
//!
//! Not here: refusing them (`catalogue::requirements`), and the effect on the choice of gateways (`grants`).

use std::collections::{BTreeMap, BTreeSet};

use super::super::catalogue::{NAME_ONE, NO_NAMESPACE};
use super::super::diagnostic_sink::{Span, diagnostic};
use super::super::grants::{asks_for, own_word as word_of};
use super::super::spans::NodeLabelsSpans;
use super::super::{NodeLabels, Policy, PolicySet};
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

/// The values that NodeLabels give to some node of its own accord, by label; `None` where any label counts.
pub(super) struct Gifts<'a>(Option<BTreeMap<&'a str, BTreeSet<&'a str>>>);

impl<'a> Gifts<'a> {
    /// The gifts of a set.
    pub(super) fn of(set: &'a PolicySet) -> Self {
        Self(set.grants.as_ref().map(|grants| {
            let mut gifts: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
            for (key, value) in grants.iter().filter(|grant| grant.is_sound()).flat_map(|grant| &grant.labels) {
                gifts.entry(key).or_default().insert(value);
            }
            gifts
        }))
    }

    /// Which label required by a gateway's nodeSelector no NodeLabels gives, where only Git's labels count. `None` if
    /// some node could match.
    pub(super) fn lack(&self, selector: &Selector) -> Option<String> {
        let gifts = self.0.as_ref()?;
        let mut some = false;
        for requirement in selector.requirements.iter().filter(|requirement| asks_for(requirement)) {
            let values = gifts.get(requirement.key.as_str());
            let given = values.is_some_and(|values| values.iter().any(|value| requirement.matches(Some(value))));
            some |= given;
            if !given && !kept_from_kubelets(&requirement.key) {
                return Some(format!("no NodeLabels gives a node {requirement}"));
            }
        }
        (!some).then(|| format!("the nodeSelector ({selector}) asks for no label that NodeLabels give"))
    }
}

/// A gateway entry that no node can match, for this reason.
pub(super) fn unlabelled(lack: &str, file: &str, span: Span) -> Diagnostic {
    let message = format!("{lack}, so no node may be this gateway");
    let hint = "egret.yaml has gateways.onlyLabelledFromGit: give the labels by a NodeLabels that names the nodes";
    warning(file, span, "gateway-not-from-git", message, hint)
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
