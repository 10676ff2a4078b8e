//! Grants: the labels that Git gives to nodes, for `gateways.onlyLabelledFromGit` of egret.yaml. A kubelet may set nearly
//! any label on its own node and so make it a candidate for every gateway that is selected by that label; with grants the
//! label must also come from Git.
//!
//! The principle: what a node claims about itself can exclude it as a gateway, and never include it. Agents see labels of
//! nodes and no NodeLabels, so grants are published with the policies (`published`). Not here: writing labels
//! (`labelling`).

use std::collections::{BTreeMap, BTreeSet};

use super::{NodeLabels, PolicySet};
use crate::core::labels::keys::kept_from_kubelets;
use crate::core::labels::{Labels, Operator, Requirement, Selector};
use crate::core::name::NodeName;

/// Why a node whose labels match is passed over.
pub const NOT_FROM_GIT: &str = "was not given these labels by Git";

/// The gateway labels that one NodeLabels document gives.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Grant {
    /// Nodes by name; empty if there is a selector.
    pub nodes: BTreeSet<NodeName>,
    /// Nodes by their labels.
    pub node_selector: Option<Selector>,
    /// The labels.
    pub labels: Labels,
}

impl Grant {
    /// The grant of a document, restricted to some keys.
    pub fn new(document: &NodeLabels, keys: impl Fn(&str) -> bool) -> Self {
        let labels = document.labels.iter().filter(|(key, _)| keys(key));
        Self {
            nodes: document.nodes.iter().cloned().collect(),
            node_selector: document.node_selector.clone(),
            labels: labels.map(|(key, value)| (key.clone(), value.clone())).collect(),
        }
    }

    fn covers(&self, name: &NodeName, labels: &Labels) -> bool {
        self.nodes.contains(name) || self.node_selector.as_ref().is_some_and(|selector| selector.matches(labels))
    }

    /// Whether no node can make itself match it.
    pub fn is_sound(&self) -> bool {
        self.node_selector.as_ref().is_none_or(|selector| own_word(selector).is_none())
    }
}

/// Why a node can make itself match a selector of a NodeLabels: the key of a label that a kubelet can set or remove, or
/// an empty string where the selector requires no label at all. `None` if a node cannot.
pub fn own_word(selector: &Selector) -> Option<&str> {
    let forgeable = selector.requirements.iter().find(|requirement| !kept_from_kubelets(&requirement.key));
    match forgeable {
        Some(requirement) => Some(&requirement.key),
        None if selector.requirements.iter().any(asks_for) => None,
        None => Some(""),
    }
}

/// Whether a requirement is that a label is set, rather than that it is not.
pub fn asks_for(requirement: &Requirement) -> bool {
    matches!(requirement.operator, Operator::In(_) | Operator::Exists)
}

impl PolicySet {
    /// The gateway labels that Git gives; `None` where any label counts.
    pub(super) fn grants_of_documents(&self) -> Option<Vec<Grant>> {
        if !self.config.only_labelled_from_git {
            return None;
        }
        let gateways = self.policies.values().flat_map(|policy| &policy.gateways);
        let keys: BTreeSet<&str> =
            gateways.flat_map(|gateway| &gateway.node.requirements).map(|one| one.key.as_str()).collect();
        let grants = self.node_labels.values().map(|document| Grant::new(document, |key| keys.contains(key)));
        Some(grants.filter(|grant| !grant.labels.is_empty()).collect())
    }

    /// Whether a node with these labels may be a gateway by this nodeSelector. Where only labels from Git count:
    ///
    /// - Each required label must be granted. One that a kubelet cannot set may also come from elsewhere (an
    ///   administrator, a cloud), beside at least one that is granted.
    /// - A label that must not be set is neither on the node nor granted.
    pub fn may_answer(&self, selector: &Selector, name: &NodeName, labels: &Labels) -> bool {
        selector.matches(labels)
            && self.grants.as_ref().is_none_or(|grants| granted(grants, name, labels).answer(selector))
    }
}

/// The labels granted to one node.
#[derive(Debug)]
pub(super) struct Granted<'g>(BTreeMap<&'g str, &'g str>);

impl Granted<'_> {
    /// Whether a node with these may be a gateway by a nodeSelector that its labels match: see
    /// [`PolicySet::may_answer`].
    pub(super) fn answer(&self, selector: &Selector) -> bool {
        let value = |key: &str| self.0.get(key).copied();
        let mut some = false;
        let all = selector.requirements.iter().all(|requirement| {
            let by_git = requirement.matches(value(&requirement.key));
            if asks_for(requirement) {
                some |= by_git;
                by_git || kept_from_kubelets(&requirement.key)
            } else {
                by_git
            }
        });
        all && some
    }
}

/// The labels granted to a node by documents that it cannot make itself match. Where documents conflict none is granted,
/// as none is set ([`PolicySet::labels_of`]).
pub(super) fn granted<'g>(grants: &'g [Grant], name: &NodeName, labels: &Labels) -> Granted<'g> {
    let (mut given, mut sound, mut disputed) = (BTreeMap::new(), BTreeSet::new(), BTreeSet::new());
    for grant in grants.iter().filter(|grant| grant.covers(name, labels)) {
        let is_sound = grant.is_sound();
        for (key, value) in &grant.labels {
            if given.insert(key.as_str(), value.as_str()).is_some_and(|before| before != value.as_str()) {
                disputed.insert(key.as_str());
            }
            if is_sound {
                sound.insert(key.as_str());
            }
        }
    }
    given.retain(|key, _| sound.contains(key) && !disputed.contains(key));
    Granted(given)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROTECTED: &str = "node-restriction.kubernetes.io/pool";

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    fn is(key: &str, value: &str) -> Requirement {
        Requirement { key: key.to_owned(), operator: Operator::In(BTreeSet::from([value.to_owned()])) }
    }

    fn lacks(key: &str) -> Requirement {
        Requirement { key: key.to_owned(), operator: Operator::DoesNotExist }
    }

    fn selector(requirements: &[Requirement]) -> Selector {
        Selector { requirements: requirements.to_vec() }
    }

    fn node(name: &str) -> NodeName {
        NodeName::parse(name).unwrap()
    }

    fn by_name(names: &[&str], given: &[(&str, &str)]) -> Grant {
        Grant { nodes: names.iter().map(|name| node(name)).collect(), labels: labels(given), ..Grant::default() }
    }

    fn by_labels(requirements: &[Requirement], given: &[(&str, &str)]) -> Grant {
        Grant { node_selector: Some(selector(requirements)), labels: labels(given), ..Grant::default() }
    }

    fn may(grants: &[Grant], requirements: &[Requirement], name: &str, has: &[(&str, &str)]) -> bool {
        let set = PolicySet { grants: Some(grants.to_vec()), ..PolicySet::default() };
        set.may_answer(&selector(requirements), &node(name), &labels(has))
    }

    #[test]
    fn only_a_node_that_git_labels_is_a_gateway() {
        let grants = [by_name(&["good"], &[("gw", "true")])];
        assert!(may(&grants, &[is("gw", "true")], "good", &[("gw", "true")]));
        assert!(!may(&grants, &[is("gw", "true")], "evil", &[("gw", "true")]));
        assert!(!may(&grants, &[is("gw", "true")], "good", &[]), "its label is not there yet, or was taken off");
        assert!(!may(&grants, &[is("gw", "other")], "good", &[("gw", "other")]), "Git gives it another value");
        assert!(!may(&grants, &[], "good", &[("gw", "true")]), "who asks for nothing would take everybody");
        let any = PolicySet::default();
        assert!(any.may_answer(&selector(&[is("gw", "true")]), &node("evil"), &labels(&[("gw", "true")])));
    }

    #[test]
    fn a_label_that_a_kubelet_can_set_counts_only_if_granted_even_beside_a_granted_one() {
        let grants = [by_name(&["a", "b"], &[("gw", "true")]), by_name(&["a"], &[("tier", "pci")])];
        let wanted = [is("gw", "true"), is("tier", "pci")];
        let has = [("gw", "true"), ("tier", "pci")];
        assert!(may(&grants, &wanted, "a", &has));
        assert!(!may(&grants, &wanted, "b", &has));
        let zone = [is("gw", "true"), is("topology.kubernetes.io/zone", "a")];
        assert!(
            !may(&grants, &zone, "a", &[("gw", "true"), ("topology.kubernetes.io/zone", "a")]),
            "kubelets set their zone"
        );
    }

    #[test]
    fn a_protected_label_may_come_from_an_administrator_beside_a_granted_one() {
        let grants = [by_name(&["a"], &[("gw", "true")])];
        let has = [("gw", "true"), (PROTECTED, "edge")];
        assert!(may(&grants, &[is("gw", "true"), is(PROTECTED, "edge")], "a", &has));
        assert!(!may(&grants, &[is(PROTECTED, "edge")], "a", &has), "nothing of it is Git's");
    }

    #[test]
    fn a_label_that_must_not_be_set_is_checked_on_the_node_and_in_git() {
        let grants = [by_name(&["a", "b"], &[("gw", "true")]), by_name(&["b"], &[("spare", "yes")])];
        let wanted = [is("gw", "true"), lacks("spare")];
        assert!(may(&grants, &wanted, "a", &[("gw", "true")]));
        assert!(!may(&grants, &wanted, "a", &[("gw", "true"), ("spare", "yes")]));
        assert!(!may(&grants, &wanted, "b", &[("gw", "true")]), "it took Git's label off");
    }

    #[test]
    fn a_document_that_a_node_can_make_itself_match_grants_nothing() {
        for requirements in [
            vec![is("disk", "ssd")],
            vec![is(PROTECTED, "edge"), is("disk", "ssd")],
            vec![is(PROTECTED, "edge"), lacks("disk")],
            vec![lacks(PROTECTED)],
            vec![],
        ] {
            let has = [("gw", "true"), ("disk", "ssd"), (PROTECTED, "edge")];
            assert!(
                !may(&[by_labels(&requirements, &[("gw", "true")])], &[is("gw", "true")], "a", &has),
                "{requirements:?}"
            );
        }
        let grants = [by_labels(&[is(PROTECTED, "edge")], &[("gw", "true")])];
        assert!(may(&grants, &[is("gw", "true")], "a", &[("gw", "true"), (PROTECTED, "edge")]));
        assert!(!may(&grants, &[is("gw", "true")], "a", &[("gw", "true")]));
    }

    #[test]
    fn conflicting_documents_grant_nothing() {
        let grants = [by_name(&["a"], &[("gw", "true")]), by_labels(&[is("disk", "ssd")], &[("gw", "false")])];
        assert!(may(&grants, &[is("gw", "true")], "a", &[("gw", "true")]));
        assert!(!may(&grants, &[is("gw", "true")], "a", &[("gw", "true"), ("disk", "ssd")]));
    }
}
