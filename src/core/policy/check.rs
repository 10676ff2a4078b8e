//! From a document as written to the checked types: every rule of DESIGN §5 that one document alone can break.
//!
//! Deliberately absent: rules between documents (`catalogue`) and those that need to know the cluster (`lint`).
//!
//! A checked value comes out only where reading the whole document added no error; what is wrong goes to the findings, all of
//! it, since readers go on after each.

mod address;
mod admission;
mod config;
mod duration;
mod node_labels;
mod policy;
mod schedule;
mod selector;
mod signatures;

use std::fmt;

use super::diagnostic_sink::DiagnosticSink;
use super::document::{Document, DocumentKind};
use super::spans::{NodeLabelsSpans, PolicySpans};
use super::{NodeLabels, ObjectName, Policy, PolicyId, PolicyKind};

pub use self::admission::windows_file;
pub use self::config::{ConfigDocument, ConfigFields};
pub use self::policy::MAX_GATEWAYS;
pub(super) use self::policy::{EXISTING_CONNECTIONS, ON_NO_GATEWAY};
pub(super) use self::signatures::REQUIRE;

/// What makes two documents the same one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DocumentIdentity {
    /// egret.yaml.
    Config,
    /// A policy of either kind.
    Policy(PolicyId),
    /// A NodeLabels.
    NodeLabels(ObjectName),
}

impl fmt::Display for DocumentIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config => f.write_str("Config"),
            Self::NodeLabels(name) => write!(f, "NodeLabels {name}"),
            Self::Policy(id) => write!(f, "{} {}", kind_of(id.kind).name(), id.name),
        }
    }
}

fn kind_of(kind: PolicyKind) -> DocumentKind {
    match kind {
        PolicyKind::Cilium => DocumentKind::CiliumEgressGatewayPolicy,
        PolicyKind::Egret => DocumentKind::EgressPolicy,
    }
}

/// A document without an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Checked {
    /// A policy.
    Policy(CheckedPolicy),
    /// Node labels.
    NodeLabels(CheckedNodeLabels),
    /// The configuration.
    Config(ConfigDocument),
}

/// A policy, and what it leaves to the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckedPolicy {
    /// The policy, with the defaults of Egret where it says nothing.
    pub policy: Policy,
    /// It says `onNoGateway` itself.
    pub says_on_no_gateway: bool,
    /// It says `existingConnections` itself.
    pub says_existing_connections: bool,
    /// Its places.
    pub spans: PolicySpans,
}

/// A NodeLabels and its places.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckedNodeLabels {
    /// The labels.
    pub node_labels: NodeLabels,
    /// Its places.
    pub spans: NodeLabelsSpans,
}

/// Who a document is, good or not; `None` if its name cannot be read.
pub fn identity(document: &Document<'_>) -> Option<DocumentIdentity> {
    let policy = |kind| document.name.clone().map(|name| DocumentIdentity::Policy(PolicyId { name, kind }));
    match document.kind {
        DocumentKind::CiliumEgressGatewayPolicy => policy(PolicyKind::Cilium),
        DocumentKind::EgressPolicy => policy(PolicyKind::Egret),
        DocumentKind::NodeLabels => document.name.clone().map(DocumentIdentity::NodeLabels),
        DocumentKind::Config => Some(DocumentIdentity::Config),
    }
}

/// Checks a document. `None` only if an error was reported here or in its head.
pub fn check(document: &Document<'_>, out: &mut DiagnosticSink<'_>) -> Option<Checked> {
    match document.kind {
        DocumentKind::CiliumEgressGatewayPolicy => policy::read(document, PolicyKind::Cilium, out).map(Checked::Policy),
        DocumentKind::EgressPolicy => policy::read(document, PolicyKind::Egret, out).map(Checked::Policy),
        DocumentKind::NodeLabels => node_labels::read(document, out).map(Checked::NodeLabels),
        DocumentKind::Config => config::read(document, out).map(Checked::Config),
    }
}
