//! Where the parts of a checked document stand in its text, for findings that come later (`lint`, and what documents say of each other).
//!
//! Deliberately absent: the text itself. A span is 48 bytes; a policy has about one per destination.

use std::collections::BTreeMap;

use super::diagnostic_sink::Span;
use super::{ObjectName, PolicyId};

/// The places in one policy.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PolicySpans {
    /// `metadata.name`.
    pub name: Span,
    /// The key `selectors`.
    pub selectors: Span,
    /// Its entries, in the order of [`super::Policy::selectors`].
    pub members: Vec<Span>,
    /// Destinations, in the order of [`super::Policy::destinations`].
    pub destinations: Vec<Span>,
    /// Gateway entries' `nodeSelector`, in the order of [`super::Policy::gateways`].
    pub gateways: Vec<Span>,
    /// What says that it is suspended.
    pub suspend: Option<Span>,
}

/// The places in one NodeLabels document.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeLabelsSpans {
    /// `metadata.name`.
    pub name: Span,
    /// Node names, in the order of [`super::NodeLabels::nodes`].
    pub nodes: Vec<Span>,
    /// The key `nodeSelector`, if it is there.
    pub node_selector: Option<Span>,
    /// Each label.
    pub labels: BTreeMap<String, Span>,
}

/// The places in all documents whose text is the one in the repository now. Those of a document whose last good version is
/// in force are not among them: its text has other places.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Spans {
    /// Of policies.
    pub policies: BTreeMap<PolicyId, PolicySpans>,
    /// What says in egret.yaml that the cluster is suspended.
    pub suspend: Option<Span>,
    /// Of NodeLabels.
    pub node_labels: BTreeMap<ObjectName, NodeLabelsSpans>,
}
