//! The policy repository's history as the reader uses it: normally a mirror of the repository; a simulation has its own.
//!
//! Functions block. Not here: what is read from it (`reader`).

use std::collections::BTreeMap;

use crate::core::signature::{Keys, Require};
use crate::git::files::FileChange;
use crate::git::mirror::{Head, Mirror};
use crate::git::signature::{self, Unsigned};
use crate::git::{CommitId, CommitInfo, Result};

/// A copy of the repository's history, which is fetched into.
pub trait PolicyHistory {
    /// Keeps these commits, even if the copy is made anew.
    fn keep(&mut self, commits: Vec<CommitId>);

    /// Fetches the tip of a branch; none: the default branch.
    fn head(&mut self, branch: Option<&str>) -> Result<Head>;

    /// The commit of a revision.
    fn resolve(&mut self, revision: &str) -> Result<CommitId>;

    /// Whether the copy has a commit.
    fn has(&self, commit: CommitId) -> bool;

    /// Whether a commit is in the history of another. Both are in the copy.
    fn is_ancestor(&self, older: CommitId, newer: CommitId) -> Result<bool>;

    /// Author, time and first line of a commit.
    fn commit_info(&self, commit: CommitId) -> Result<CommitInfo>;

    /// The files that differ; without `from`, all of them.
    fn changes(&self, from: Option<CommitId>, to: CommitId) -> Result<BTreeMap<String, FileChange>>;

    /// The trailers of a commit's message.
    fn trailers(&self, commit: CommitId) -> Result<Vec<(String, String)>>;

    /// Whether the commits between two are signed as required.
    fn verify(
        &self,
        require: Require,
        keys: &Keys,
        from: Option<CommitId>,
        head: CommitId,
    ) -> Result<std::result::Result<(), Unsigned>>;
}

impl PolicyHistory for Mirror {
    fn keep(&mut self, commits: Vec<CommitId>) {
        Self::keep(self, commits);
    }

    fn head(&mut self, branch: Option<&str>) -> Result<Head> {
        Self::head(self, branch)
    }

    fn resolve(&mut self, revision: &str) -> Result<CommitId> {
        Self::resolve(self, revision)
    }

    fn has(&self, commit: CommitId) -> bool {
        Self::has(self, commit)
    }

    fn is_ancestor(&self, older: CommitId, newer: CommitId) -> Result<bool> {
        signature::is_ancestor(self, older, newer)
    }

    fn commit_info(&self, commit: CommitId) -> Result<CommitInfo> {
        Self::commit_info(self, commit)
    }

    /// The catalogue selects the paths itself: it knows those of egret.yaml.
    fn changes(&self, from: Option<CommitId>, to: CommitId) -> Result<BTreeMap<String, FileChange>> {
        Self::changes(self, from, to, &[String::new()])
    }

    fn trailers(&self, commit: CommitId) -> Result<Vec<(String, String)>> {
        Self::trailers(self, commit)
    }

    fn verify(
        &self,
        require: Require,
        keys: &Keys,
        from: Option<CommitId>,
        head: CommitId,
    ) -> Result<std::result::Result<(), Unsigned>> {
        signature::verify(self, require, keys, from, head)
    }
}
