//! Refused: what one kernel does not take, so that everything else is in its place without it (decision 0019).
//!
//! A step belongs to the exits in whose tables it works, or to the way back to one node; what belongs to neither is everybody's.
//! Deliberately absent: the kernel's answer, which comes from who applies, and when it is asked again.

use std::collections::{BTreeMap, BTreeSet};

use super::{Compiled, ExitRole};
use crate::core::finding::Finding;
use crate::core::name::NodeName;
use crate::core::placement::ExitKey;
use crate::core::plan::Step;
use crate::core::state::NodeState;
use crate::core::state::net::{Neighbour, Route, RouteKey};
use crate::core::state::ownership::DatapathConfig;

/// Parts that a kernel refused, each with what it said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RefusedParts {
    /// Exits: their members' packets end on this node.
    pub exits: BTreeMap<ExitKey, String>,
    /// Ways back to a node: replies to its pods end on this one.
    pub replies: BTreeMap<RouteKey, String>,
}

impl RefusedParts {
    /// Nothing was refused.
    pub const NOTHING: &'static Self = &Self { exits: BTreeMap::new(), replies: BTreeMap::new() };

    /// Nothing was.
    pub fn is_empty(&self) -> bool {
        self.exits.is_empty() && self.replies.is_empty()
    }

    /// Whether all of these parts are among it.
    pub fn covers(&self, parts: &Self) -> bool {
        parts.exits.keys().all(|exit| self.exits.contains_key(exit))
            && parts.replies.keys().all(|route| self.replies.contains_key(route))
    }

    /// Takes more in; tells whether any of it is new.
    pub fn extend(&mut self, more: Self) -> bool {
        let before = self.exits.len() + self.replies.len();
        for (exit, words) in more.exits {
            self.exits.entry(exit).or_insert(words);
        }
        for (route, words) in more.replies {
            self.replies.entry(route).or_insert(words);
        }
        self.exits.len() + self.replies.len() > before
    }

    /// Takes the ways back out of the state, and says of everything that was refused what comes of it.
    pub(super) fn apply(&self, node: &NodeName, compiled: &mut Compiled) {
        compiled.desired.routes.retain(|key, _| !self.replies.contains_key(key));
        for (exit, words) in self.exits.iter().filter(|(exit, _)| compiled.exits.contains_key(*exit)) {
            let ends = if exit.gateway == *node {
                "members' packets are dropped there"
            } else {
                "members' packets are dropped here"
            };
            let message = format!("{node}'s kernel refuses to {words}; {ends}, and everything else is in force");
            compiled.findings.push(Finding::new(CODE, exit, message).hint(HINT));
        }
        for words in self.replies.values() {
            let message = format!("the kernel refuses to {words}; replies to that node's pods are dropped");
            compiled.findings.push(Finding::new(CODE, node, message).hint(HINT));
        }
    }
}

/// What the finding is called.
const CODE: &str = "kernel-refused";
const HINT: &str = "see that the interface is up and the next hop is another host's address on its network; it is tried again by itself";

impl Compiled {
    /// What has to be left out if the kernel refuses a step with these words. Empty: the step is everybody's.
    pub fn refused(&self, step: &Step, words: &str, range: DatapathConfig) -> RefusedParts {
        let mut refused = RefusedParts::default();
        match step {
            Step::SetRoute(key, ..) | Step::DeleteRoute(key, _) => self.refuse_route(key, words, range, &mut refused),
            Step::AddRule(rule) | Step::DeleteRule(rule) => self.refuse_table(rule.table, words, range, &mut refused),
            Step::SetNeighbour(neighbour) | Step::DeleteNeighbour(neighbour) => {
                for key in routes_by(neighbour, &self.desired) {
                    self.refuse_route(key, words, range, &mut refused);
                }
            }
            Step::SetSysctl(sysctl, ..) => {
                let leaves = |role: &ExitRole| matches!(role, ExitRole::Own { ways, .. } if ways.values().any(|way| way.interface == sysctl.link));
                let exits = self.exits.iter().filter(|(_, exit)| leaves(&exit.role));
                refused.exits.extend(exits.map(|(key, _)| (key.clone(), words.to_owned())));
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

    fn refuse_table(&self, table: u32, words: &str, range: DatapathConfig, refused: &mut RefusedParts) {
        let exits = self.exits.iter().filter(|(_, exit)| range.table(exit.id) == table);
        refused.exits.extend(exits.map(|(key, _)| (key.clone(), words.to_owned())));
    }

    fn refuse_route(&self, key: &RouteKey, words: &str, range: DatapathConfig, refused: &mut RefusedParts) {
        if key.table == range.table(0) {
            // The default route of that table is nobody's way.
            if key.destination.prefix_len() > 0 {
                refused.replies.insert(key.clone(), words.to_owned());
            }
        } else {
            self.refuse_table(key.table, words, range, refused);
        }
    }
}

/// The routes that lead to a neighbour.
fn routes_by<'a>(neighbour: &'a Neighbour, desired: &'a NodeState) -> BTreeSet<&'a RouteKey> {
    let leads = |route: &Route| matches!(route, Route::Via { link, gateway: Some(hop), .. } if *link == neighbour.link && *hop == neighbour.address);
    desired.routes.iter().filter(|(_, route)| leads(route)).map(|(key, _)| key).collect()
}
