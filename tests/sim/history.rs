//! The policy repository in memory: one branch, replicas that may be behind, and the mirror that each process has of it.
//!
//! Not here: signatures, and Git's own formats (`tests/it/git`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use egret::core::signature::{Keys, Require};
use egret::git::files::FileChange;
use egret::git::mirror::Head;
use egret::git::signature::Unsigned;
use egret::git::transport_error::TransportError;
use egret::git::{CommitId, CommitInfo, Error, Result};
use egret::reconcile::gitops::repository::PolicyHistory;
use jiff::Timestamp;
use tokio::time::Instant;

use super::network::Line;

/// Where it is said to be.
pub(crate) const URL: &str = "https://git.example/policies.git";

/// The files of a commit, by path.
pub(crate) type Files = BTreeMap<String, String>;

#[derive(Debug)]
struct Commit {
    info: CommitInfo,
    files: Files,
}

#[derive(Debug, Default)]
struct State {
    commits: Vec<Commit>,
    /// The tips that the replicas answer with, in turn.
    replicas: Vec<usize>,
    turn: usize,
    away: bool,
    asked: Vec<(Instant, String)>,
}

/// The Git server.
#[derive(Debug, Clone, Default)]
pub(crate) struct GitServer(Arc<Mutex<State>>);

impl GitServer {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Commits a whole tree on the branch. All replicas have it at once, unless they lag.
    pub(crate) fn commit(&self, files: Files, time: Timestamp) -> CommitId {
        let mut state = self.state();
        let number = state.commits.len();
        let id = CommitId::parse(&format!("{:040x}", (number + 1) * 0x0123_4567)).expect("an id");
        let parents = state.commits.last().map(|commit| commit.info.id).into_iter().collect();
        let info =
            CommitInfo { id, summary: format!("commit {number}"), author: "A <a@example>".to_owned(), time, parents };
        state.commits.push(Commit { info, files });
        if state.replicas.len() <= 1 {
            state.replicas = vec![number];
        } else {
            state.replicas[0] = number;
        }
        id
    }

    /// From now on a second replica answers every other request, with the branch as it is now: pushes do not reach it.
    pub(crate) fn lag(&self) {
        let mut state = self.state();
        let tip = state.commits.len().saturating_sub(1);
        state.replicas = vec![tip, tip];
    }

    /// All replicas are up to date.
    pub(crate) fn catch_up(&self) {
        let mut state = self.state();
        state.replicas = vec![state.commits.len().saturating_sub(1)];
    }

    pub(crate) fn set_away(&self, away: bool) {
        self.state().away = away;
    }

    /// How often a process asked since a time.
    pub(crate) fn asked_since(&self, since: Instant, process: &str) -> usize {
        self.state().asked.iter().filter(|(at, by)| *at >= since && by == process).count()
    }

    /// The position of a commit in the branch.
    pub(crate) fn position(&self, commit: &str) -> Option<usize> {
        self.state().commits.iter().position(|known| known.info.id.to_string() == commit)
    }

    /// A process's mirror of it, with nothing fetched.
    pub(crate) fn mirror(&self, process: &str, line: Arc<Line>) -> Mirrored {
        Mirrored { server: self.clone(), process: process.to_owned(), line, fetched: BTreeSet::new() }
    }
}

/// The mirror of one process.
pub(crate) struct Mirrored {
    server: GitServer,
    process: String,
    line: Arc<Line>,
    fetched: BTreeSet<CommitId>,
}

impl Mirrored {
    fn find<T>(&self, commit: CommitId, read: impl FnOnce(&Commit) -> T) -> Result<T> {
        let state = self.server.state();
        let found = state.commits.iter().find(|known| known.info.id == commit && self.fetched.contains(&commit));
        found.map(read).ok_or(Error::MissingCommit { repository: URL.to_owned(), commit })
    }
}

impl PolicyHistory for Mirrored {
    fn keep(&mut self, _: Vec<CommitId>) {}

    fn head(&mut self, _: Option<&str>) -> Result<Head> {
        let mut state = self.server.state();
        state.asked.push((Instant::now(), self.process.clone()));
        let unreachable = || Error::Transport {
            action: "fetch from",
            repository: URL.to_owned(),
            source: TransportError::Connect("connection refused".to_owned()),
        };
        if state.away || self.line.is_dead() {
            return Err(unreachable());
        }
        if state.commits.is_empty() {
            return Err(Error::Empty { repository: URL.to_owned() });
        }
        state.turn += 1;
        let tip = state.replicas[state.turn % state.replicas.len()];
        let before = self.fetched.len();
        self.fetched.extend(state.commits[..=tip].iter().map(|commit| commit.info.id));
        let commit = state.commits[tip].info.id;
        Ok(Head { branch: "main".to_owned(), commit, moved: self.fetched.len() != before })
    }

    fn resolve(&mut self, revision: &str) -> Result<CommitId> {
        let unknown = || Error::UnknownRevision { repository: URL.to_owned(), revision: revision.to_owned() };
        CommitId::parse(revision).filter(|commit| self.fetched.contains(commit)).ok_or_else(unknown)
    }

    fn has(&self, commit: CommitId) -> bool {
        self.fetched.contains(&commit)
    }

    fn is_ancestor(&self, older: CommitId, newer: CommitId) -> Result<bool> {
        let position = |commit: CommitId| self.server.position(&commit.to_string());
        Ok(position(older) < position(newer))
    }

    fn commit_info(&self, commit: CommitId) -> Result<CommitInfo> {
        self.find(commit, |commit| commit.info.clone())
    }

    fn changes(&self, from: Option<CommitId>, to: CommitId) -> Result<BTreeMap<String, FileChange>> {
        let old = from.map(|from| self.find(from, |commit| commit.files.clone())).transpose()?.unwrap_or_default();
        let new = self.find(to, |commit| commit.files.clone())?;
        let gone = old.keys().filter(|path| !new.contains_key(*path)).map(|path| (path.clone(), FileChange::Removed));
        let changed = new.iter().filter(|(path, text)| old.get(*path) != Some(text));
        Ok(changed.map(|(path, text)| (path.clone(), FileChange::Text(text.clone()))).chain(gone).collect())
    }

    fn trailers(&self, _: CommitId) -> Result<Vec<(String, String)>> {
        // The model removes any number of policies.
        Ok(vec![("Egret-Confirm-Removals".to_owned(), "the model wants it".to_owned())])
    }

    fn verify(
        &self,
        _: Require,
        _: &Keys,
        _: Option<CommitId>,
        _: CommitId,
    ) -> Result<std::result::Result<(), Unsigned>> {
        Ok(Ok(()))
    }
}
