//! Removals: what a commit deactivates, and whether it has to confirm that.
//!
//! A wrong path, a bad merge or a generator that failed can remove nearly everything, and a selector that became too narrow
//! nearly every member; those pods leave with their own addresses. Not here: counting them (`core::removals`).

use std::fmt;

use serde::{Deserialize, Serialize};

/// The trailer by which a commit confirms that it removes as much as it does; its value is the reason.
pub const CONFIRMATION: &str = "Egret-Confirm-Removals";

/// How many of how many go.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    /// Those that go.
    pub removed: usize,
    /// Those that there are.
    pub of: usize,
}

/// What a commit removes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removals {
    /// Policies.
    pub policies: Share,
    /// Pods that are members of some policy, and of none afterwards. None of none, where the pods are not known.
    #[serde(default)]
    pub members: Share,
    /// The percentage of either that may go without being confirmed.
    pub max: u8,
}

impl Share {
    fn exceeds(self, max: u8) -> bool {
        self.removed * 100 > self.of * usize::from(max)
    }
}

impl Removals {
    /// Whether they have to be confirmed.
    pub fn exceed(self) -> bool {
        self.policies.exceeds(self.max) || self.members.exceeds(self.max)
    }
}

impl fmt::Display for Removals {
    /// `it removes 3 of 4 policies and 10 of 12 members, more than 50 %`: what exceeds.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shares = [(self.policies, "policies"), (self.members, "members")];
        let exceeding = shares.iter().filter(|(share, _)| share.exceeds(self.max));
        let all: Vec<String> =
            exceeding.map(|(Share { removed, of }, what)| format!("{removed} of {of} {what}")).collect();
        write!(f, "it removes {}, more than {} %", all.join(" and "), self.max)
    }
}
