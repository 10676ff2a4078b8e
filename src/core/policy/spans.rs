//! Locations of a checked document's parts in its text, for later diagnostics (`lint`, and those about several
//! documents).
//!
//! A span is 48 bytes; a policy has about one per destination.

use std::collections::BTreeMap;

use super::acknowledged::Acknowledged;
use super::diagnostic_sink::Span;
use super::{ObjectName, PolicyId};

/// Locations in one policy.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PolicySpans {
    /// `metadata.name`.
    pub name: Span,
    /// The key `selectors`.
    pub selectors: Span,
    /// Its entries, in the order of [`super::Policy::selectors`].
    pub members: Vec<Span>,
    /// Keys in them that look like what selects a namespace there, and do not.
    pub lookalikes: Vec<Lookalike>,
    /// Destinations, in the order of [`super::Policy::destinations`].
    pub destinations: Vec<Span>,
    /// Exclusions, in the order of [`super::Policy::excluded`].
    pub excluded: Vec<Span>,
    /// Gateway entries' `nodeSelector`, in the order of [`super::Policy::gateways`].
    pub gateways: Vec<Span>,
    /// How each of them finds the egress address: the value of `egressIP`, of `egressPool`'s name; in the same order.
    pub egresses: Vec<Span>,
    /// The suspension.
    pub suspend: Option<Span>,
    /// The warnings that it acknowledges.
    pub acknowledged: Acknowledged,
}

/// A key of a selector that was likely meant for another one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lookalike {
    /// The key.
    pub key: String,
    /// What was likely meant.
    pub meant: String,
    /// Whether it is in a podSelector; else it is in a namespaceSelector.
    pub of_pods: bool,
    /// Its location.
    pub span: Span,
}

/// Locations in one NodeLabels document.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeLabelsSpans {
    /// `metadata.name`.
    pub name: Span,
    /// Node names, in the order of [`super::NodeLabels::nodes`].
    pub nodes: Vec<Span>,
    /// The key `nodeSelector`, if present.
    pub node_selector: Option<Span>,
    /// Each label.
    pub labels: BTreeMap<String, Span>,
    /// The warnings that it acknowledges.
    pub acknowledged: Acknowledged,
}

/// Locations in one EgressAssertion.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AssertionSpans {
    /// `metadata.name`.
    pub name: Span,
    /// The key `selectors`.
    pub selectors: Span,
    /// The key of its claim: `leavesAs`, `neverSteered`.
    pub claim: Span,
}

/// Locations in one EgressPool.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PoolSpans {
    /// `metadata.name`.
    pub name: Span,
    /// Addresses, in the order of [`super::pool::EgressPool::addresses`].
    pub addresses: Vec<Span>,
}

/// Locations in all documents whose active version is the repository's. Held documents are left out: their locations
/// refer to an older text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Spans {
    /// Of policies.
    pub policies: BTreeMap<PolicyId, PolicySpans>,
    /// The suspension of the cluster in egret.yaml.
    pub suspend: Option<Span>,
    /// `onlyLabelledFromGit` of the cluster in egret.yaml.
    pub only_labelled: Option<Span>,
    /// Of NodeLabels.
    pub node_labels: BTreeMap<ObjectName, NodeLabelsSpans>,
    /// Of EgressAssertions.
    pub assertions: BTreeMap<ObjectName, AssertionSpans>,
    /// Of EgressPools.
    pub pools: BTreeMap<ObjectName, PoolSpans>,
}
