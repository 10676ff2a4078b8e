//! Removals: how many policies a commit takes out of force, and whether it has to confirm that.
//!
//! A wrong path, a bad merge or a generator that failed can remove nearly everything, and the members of a policy that is
//! gone leave with their own addresses. Not here: which policies are gone (`PolicySet::removals`).

use serde::{Deserialize, Serialize};

/// The trailer by which a commit confirms that it removes as many policies as it does; its value is the reason.
pub const CONFIRMATION: &str = "Egret-Confirm-Removals";

/// What a commit removes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removals {
    /// The policies that go.
    pub removed: usize,
    /// The policies that are active.
    pub of: usize,
    /// The percentage that may go without being confirmed.
    pub max: u8,
}

impl Removals {
    /// Whether they have to be confirmed.
    pub fn exceed(self) -> bool {
        self.removed * 100 > self.of * usize::from(self.max)
    }
}
