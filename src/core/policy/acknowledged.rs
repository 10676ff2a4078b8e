//! Warnings that a document acknowledges: `egret.dev/acknowledge.CODE: why`. They are not reported.
//!
//! What is meant needs no reminder in every pull request, and its reason stands beside it. Errors cannot be acknowledged.

use std::collections::BTreeSet;

/// What an annotation begins with that acknowledges a warning, behind Egret's prefix; the warning's code follows.
pub const ACKNOWLEDGE: &str = "acknowledge.";

/// The warnings about policies and node labels that can be acknowledged. A suspension that is over is not among them, nor
/// is what has no effect and can be taken out.
pub const CODES: [&str; 18] = [
    "covers-everything",
    "covers-nodes",
    "covers-pods",
    "covers-services",
    "excluded-destination",
    "family-mismatch",
    "gateway-not-from-git",
    "idle-exclusion",
    "ignored-gateway",
    "namespace-lookalike",
    "never-forwarded",
    "no-gateway",
    "no-match",
    "no-member",
    "no-namespace",
    "node-address-shared",
    "services-unknown",
    "unknown-node",
];

/// The codes that a document acknowledges.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Acknowledged(BTreeSet<&'static str>);

impl Acknowledged {
    /// Adds a code.
    pub fn insert(&mut self, code: &'static str) {
        self.0.insert(code);
    }

    /// Whether a warning with this code is acknowledged.
    pub fn has(&self, code: &str) -> bool {
        self.0.contains(code)
    }
}
