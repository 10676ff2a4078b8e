//! Which policies a change of a node's state concerns, for the log.

use std::collections::BTreeSet;

use super::Compiled;
use crate::core::policy::PolicyId;

impl Compiled {
    /// Policies with another exit, or other members here, than before; all where nothing was applied before.
    pub fn policies_that_differ(&self, before: Option<&Compiled>) -> BTreeSet<PolicyId> {
        let nothing = Compiled::default();
        let before = before.unwrap_or(&nothing);
        let mut differ = BTreeSet::new();
        for (these, others) in [(self, before), (before, self)] {
            let exits = these.exits.iter().filter(|(key, exit)| others.exits.get(*key) != Some(*exit));
            differ.extend(exits.flat_map(|(_, exit)| exit.policies.iter().cloned()));
            let members = these.members.iter().filter(|(policy, pods)| others.members.get(*policy) != Some(*pods));
            differ.extend(members.map(|(policy, _)| policy.clone()));
        }
        differ
    }
}
