//! The reports branch in memory: one for all controllers, committed to by compare-and-swap as Git's is.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use egret::git::compact::Compacted;
use egret::git::publish::{BranchState, Draft, PublishOutcome, Target};
use egret::git::{CommitId, Result};
use egret::reconcile::gitops::publisher::ReportsBranch;
use tokio::time::Instant;

use super::network::Line;

#[derive(Default)]
struct State {
    branch: Option<BranchState>,
    commits: Vec<(Instant, String)>,
}

/// The branch. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Reports(Arc<Mutex<State>>);

impl Reports {
    /// As one process sees it.
    pub(crate) fn of(&self, process: &str, line: Arc<Line>) -> Branch {
        Branch { reports: self.clone(), process: process.to_owned(), line }
    }

    /// How many commits were made since a time, by a process.
    pub(crate) fn commits_since(&self, since: Instant, process: &str) -> usize {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.commits.iter().filter(|(at, by)| *at >= since && by == process).count()
    }
}

/// The branch as one process sees it.
pub(crate) struct Branch {
    reports: Reports,
    process: String,
    line: Arc<Line>,
}

impl ReportsBranch for Branch {
    fn publish(
        &mut self,
        _: &Target,
        replan: &mut dyn FnMut(&BranchState) -> Option<Draft>,
        _: &mut dyn FnMut(u32),
    ) -> Result<PublishOutcome> {
        let mut state = self.reports.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = state.branch.clone().unwrap_or(BranchState { tip: None, files: BTreeMap::default() });
        if self.line.is_dead() {
            return Ok(PublishOutcome::Declined);
        }
        let Some(draft) = replan(&before) else { return Ok(PublishOutcome::Declined) };
        if draft.files == before.files {
            return Ok(PublishOutcome::Unchanged);
        }
        let number = state.commits.len() + 1;
        let commit = CommitId::parse(&format!("{number:040x}")).expect("an id");
        state.branch = Some(BranchState { tip: Some(commit), files: draft.files });
        state.commits.push((Instant::now(), self.process.clone()));
        Ok(PublishOutcome::Committed { commit, tries: 1 })
    }

    fn compact(&mut self, _: &Target, _: Duration) -> Result<Compacted> {
        Ok(Compacted::NotYet)
    }
}
