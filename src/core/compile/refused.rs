//! Leaves out what a kernel refused, so that everything else takes effect without it (decision 0019).
//!
//! A step belongs to the exits in whose tables it works, or to the return path to one node; any other step is shared by
//! all. Not here: the kernel's answer, which the caller passes in, and when the step is tried again.

use std::collections::{BTreeMap, BTreeSet};

use super::{Compiled, ExitRole};
use crate::core::finding::Finding;
use crate::core::name::NodeName;
use crate::core::placement::ExitKey;
use crate::core::plan::Step;
use crate::core::state::NodeState;
use crate::core::state::net::{Neighbour, Route, RouteKey};
use crate::core::state::ownership::DatapathConfig;

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
            let message = format!("{node}'s kernel refuses to {error}; {ends}, and everything else is in force");
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
const HINT: &str = "see that the interface is up and the next hop is another host's address on its network; it is tried again by itself";

impl Compiled {
    /// What to leave out if the kernel refuses a step with this error. Empty if the step is shared by all.
    pub fn refused(&self, step: &Step, error: &str, range: DatapathConfig) -> RefusedParts {
        let mut refused = RefusedParts::default();
        match step {
            Step::SetRoute(key, ..) | Step::DeleteRoute(key, _) => self.refuse_route(key, error, range, &mut refused),
            Step::AddRule(rule) | Step::DeleteRule(rule) => self.refuse_table(rule.table, error, range, &mut refused),
            Step::SetNeighbour(neighbour) | Step::DeleteNeighbour(neighbour) => {
                for key in routes_by(neighbour, &self.desired) {
                    self.refuse_route(key, error, range, &mut refused);
                }
            }
            Step::SetSysctl(sysctl, ..) => {
                let leaves = |role: &ExitRole| matches!(role, ExitRole::Own { ways, .. } if ways.values().any(|way| way.interface == sysctl.link));
                let exits = self.exits.iter().filter(|(_, exit)| leaves(&exit.role));
                refused.exits.extend(exits.map(|(key, _)| (key.clone(), error.to_owned())));
            }
            Step::SetLabel(..)
            | Step::RemoveLabel(..)
            | Step::AddLink(..)
            | Step::ChangeLink(..)
            | Step::DeleteLink(..)
            | Step::AddAddress(..)
            | Step::DeleteAddress(..)
            | Step::FlushConntrack { .. }
            | Step::FlushSources(_)
            | Step::Notice
            | Step::RcuBarrier
            | Step::Nft(..) => {}
        }
        refused
    }

    fn refuse_table(&self, table: u32, error: &str, range: DatapathConfig, refused: &mut RefusedParts) {
        let exits = self.exits.iter().filter(|(_, exit)| range.table(exit.id) == table);
        refused.exits.extend(exits.map(|(key, _)| (key.clone(), error.to_owned())));
    }

    fn refuse_route(&self, key: &RouteKey, error: &str, range: DatapathConfig, refused: &mut RefusedParts) {
        if key.table == range.table(0) {
            // No reply uses the default route of that table.
            if key.destination.prefix_len() > 0 {
                refused.replies.insert(key.clone(), error.to_owned());
            }
        } else {
            self.refuse_table(key.table, error, range, refused);
        }
    }
}

/// The routes that use a neighbour as next hop.
fn routes_by<'a>(neighbour: &'a Neighbour, desired: &'a NodeState) -> BTreeSet<&'a RouteKey> {
    let leads = |route: &Route| matches!(route, Route::Via { link, gateway: Some(hop), .. } if *link == neighbour.link && *hop == neighbour.address);
    desired.routes.iter().filter(|(_, route)| leads(route)).map(|(key, _)| key).collect()
}
