//! Checks a document and converts it to the typed form: every rule that a single document can break.
//!
//! A checked value is returned only if reading the whole document added no error; readers continue after each mistake, so
//! that all of them are reported. Not here: rules between documents (`catalogue`), and those that need the cluster
//! (`lint`).

mod address;
mod admission;
mod assertion;
mod assign;
mod config;
mod duration;
mod egress;
mod node_labels;
mod policy;
mod pool;
mod schedule;
mod selector;
mod signatures;

use std::fmt;

use super::assertion::Assertion;
use super::diagnostic_sink::DiagnosticSink;
use super::document::{Document, DocumentKind};
use super::pool::EgressPool;
use super::spans::{AssertionSpans, NodeLabelsSpans, PolicySpans, PoolSpans};
use super::{NodeLabels, ObjectName, Policy, PolicyId, PolicyKind};

pub use self::admission::windows_file;
pub use self::config::{ConfigDocument, ConfigFields};
pub(super) use self::policy::{EXISTING_CONNECTIONS, ON_NO_GATEWAY};
pub(super) use self::selector::NAMESPACE_NAME;
pub(super) use self::signatures::REQUIRE;

/// The identity of a document.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DocumentIdentity {
    /// egret.yaml.
    Config,
    /// A policy of either kind.
    Policy(PolicyId),
    /// A NodeLabels.
    NodeLabels(ObjectName),
    /// An EgressAssertion.
    Assertion(ObjectName),
    /// An EgressPool.
    Pool(ObjectName),
}

impl fmt::Display for DocumentIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config => f.write_str("Config"),
            Self::NodeLabels(name) => write!(f, "NodeLabels {name}"),
            Self::Assertion(name) => write!(f, "EgressAssertion {name}"),
            Self::Pool(name) => write!(f, "EgressPool {name}"),
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
    /// An assertion.
    Assertion(CheckedAssertion),
    /// A pool.
    Pool(CheckedPool),
    /// The configuration.
    Config(ConfigDocument),
}

/// A policy, and which of its values come from the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckedPolicy {
    /// The policy, with Egret's defaults for fields that are not set.
    pub policy: Policy,
    /// Whether it sets `onNoGateway` itself.
    pub says_on_no_gateway: bool,
    /// Whether it sets `existingConnections` itself.
    pub says_existing_connections: bool,
    /// Locations of its parts.
    pub spans: PolicySpans,
}

/// A NodeLabels with its locations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckedNodeLabels {
    /// The labels.
    pub node_labels: NodeLabels,
    /// Locations of its parts.
    pub spans: NodeLabelsSpans,
}

/// An EgressAssertion with its locations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckedAssertion {
    /// The assertion.
    pub assertion: Assertion,
    /// Locations of its parts.
    pub spans: AssertionSpans,
}

/// An EgressPool with its locations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckedPool {
    /// The pool.
    pub pool: EgressPool,
    /// Locations of its parts.
    pub spans: PoolSpans,
}

/// The identity of a document, good or not; `None` if its name cannot be read.
pub fn identity(document: &Document<'_>) -> Option<DocumentIdentity> {
    let policy = |kind| document.name.clone().map(|name| DocumentIdentity::Policy(PolicyId { name, kind }));
    match document.kind {
        DocumentKind::CiliumEgressGatewayPolicy => policy(PolicyKind::Cilium),
        DocumentKind::EgressPolicy => policy(PolicyKind::Egret),
        DocumentKind::NodeLabels => document.name.clone().map(DocumentIdentity::NodeLabels),
        DocumentKind::EgressAssertion => document.name.clone().map(DocumentIdentity::Assertion),
        DocumentKind::EgressPool => document.name.clone().map(DocumentIdentity::Pool),
        DocumentKind::Config => Some(DocumentIdentity::Config),
    }
}

/// Checks a document. `None` only if an error was reported here or in its head.
pub fn check(document: &Document<'_>, out: &mut DiagnosticSink<'_>) -> Option<Checked> {
    match document.kind {
        DocumentKind::CiliumEgressGatewayPolicy => policy::read(document, PolicyKind::Cilium, out).map(Checked::Policy),
        DocumentKind::EgressPolicy => policy::read(document, PolicyKind::Egret, out).map(Checked::Policy),
        DocumentKind::NodeLabels => node_labels::read(document, out).map(Checked::NodeLabels),
        DocumentKind::EgressAssertion => assertion::read(document, out).map(Checked::Assertion),
        DocumentKind::EgressPool => pool::read(document, out).map(Checked::Pool),
        DocumentKind::Config => config::read(document, out).map(Checked::Config),
    }
}
