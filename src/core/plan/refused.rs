//! Which parts of the desired state depend on a step that the kernel refuses (decision 0019).
//!
//! A step belongs to the exits in whose tables it works, or to the return path to one node; any other step is shared by all.

use std::collections::BTreeSet;

use super::Step;
use crate::core::compile::{Compiled, ExitRole, RefusedParts};
use crate::core::state::NodeState;
use crate::core::state::net::{Neighbour, Route, RouteKey};
use crate::core::state::ownership::DatapathConfig;

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
                let leaves = |role: &ExitRole| matches!(role, ExitRole::Own { routes, .. } if routes.values().any(|way| way.interface == sysctl.link));
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
            | Step::FlushTranslated { .. }
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
