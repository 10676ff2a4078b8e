//! Leaves out what a kernel refused, so that everything else takes effect without it (decision 0019).
//!
//! Not here: which parts a step of a plan belongs to (`plan::refused`), the kernel's answer, which the caller passes in, and when the
//! step is tried again.

use std::collections::BTreeMap;

use super::Compiled;
use crate::core::finding::Finding;
use crate::core::name::NodeName;
use crate::core::placement::ExitKey;
use crate::core::state::net::RouteKey;

/// Parts that a kernel refused, each with its error.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RefusedParts {
    /// Refused exits: their members' packets are dropped on this node.
    pub exits: BTreeMap<ExitKey, String>,
    /// Refused return paths to a node: replies to its pods are dropped on this one.
    pub replies: BTreeMap<RouteKey, String>,
}

impl RefusedParts {
    /// Nothing is refused.
    pub const NOTHING: &'static Self = &Self { exits: BTreeMap::new(), replies: BTreeMap::new() };

    /// Whether nothing is refused.
    pub fn is_empty(&self) -> bool {
        self.exits.is_empty() && self.replies.is_empty()
    }

    /// Whether it contains all of these parts.
    pub fn covers(&self, parts: &Self) -> bool {
        parts.exits.keys().all(|exit| self.exits.contains_key(exit))
            && parts.replies.keys().all(|route| self.replies.contains_key(route))
    }

    /// Adds more parts; returns whether any of them is new.
    pub fn extend(&mut self, more: Self) -> bool {
        let before = self.exits.len() + self.replies.len();
        for (exit, error) in more.exits {
            self.exits.entry(exit).or_insert(error);
        }
        for (route, error) in more.replies {
            self.replies.entry(route).or_insert(error);
        }
        self.exits.len() + self.replies.len() > before
    }

    /// Removes the return paths from the state, and adds a finding with the consequence for everything that was refused.
    pub(super) fn apply(&self, node: &NodeName, compiled: &mut Compiled) {
        compiled.desired.routes.retain(|key, _| !self.replies.contains_key(key));
        for (exit, error) in self.exits.iter().filter(|(exit, _)| compiled.exits.contains_key(*exit)) {
            let ends = if exit.gateway == *node {
                "members' packets are dropped there"
            } else {
                "members' packets are dropped here"
            };
            let message = format!("{node}'s kernel refuses to {error}; {ends}, and everything else is applied");
            compiled.findings.push(Finding::new(CODE, exit, message).hint(HINT));
        }
        for error in self.replies.values() {
            let message = format!("the kernel refuses to {error}; replies to that node's pods are dropped");
            compiled.findings.push(Finding::new(CODE, node, message).hint(HINT));
        }
    }
}

/// Code of the finding.
const CODE: &str = "kernel-refused";
const HINT: &str = "see that the interface is up and the next hop is another host's address on its network; Egret retries automatically";
