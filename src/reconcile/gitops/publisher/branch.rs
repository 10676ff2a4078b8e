//! The reports branch as the publisher uses it: normally a mirror of the repository; a simulation has its own.
//!
//! Functions block. Not here: what is committed (`draft`).

use std::time::Duration;

use crate::git::Result;
use crate::git::compact::{self, Compacted};
use crate::git::mirror::Mirror;
use crate::git::publish::{self, BranchState, Draft, PublishOutcome, Target};

/// A branch to commit reports to.
pub trait ReportsBranch {
    /// Commits what `replan` makes of the branch's present state; it is called again, after `pause`, if another client
    /// pushed first.
    fn publish(
        &mut self,
        target: &Target,
        replan: &mut dyn FnMut(&BranchState) -> Option<Draft>,
        pause: &mut dyn FnMut(u32),
    ) -> Result<PublishOutcome>;

    /// Folds commits that are older than `keep` into one.
    fn compact(&mut self, target: &Target, keep: Duration) -> Result<Compacted>;
}

impl ReportsBranch for Mirror {
    fn publish(
        &mut self,
        target: &Target,
        replan: &mut dyn FnMut(&BranchState) -> Option<Draft>,
        pause: &mut dyn FnMut(u32),
    ) -> Result<PublishOutcome> {
        publish::publish(self, target, replan, pause)
    }

    fn compact(&mut self, target: &Target, keep: Duration) -> Result<Compacted> {
        compact::compact(self, target, keep)
    }
}
