//! The repository's thread: fetches, reads what changed, and says what is in force now.
//!
//! libgit2 blocks, so it has a thread of its own; it also keeps its own pace: polling, and backing off while Git is away.
//! Deliberately absent: applying anything, and writing to Git (`publisher`).

mod reader;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread;

use jiff::Timestamp;
use tokio::sync::mpsc::UnboundedSender;

use self::reader::RepositoryReader;
use crate::core::admission::{PendingCommit, PendingReason};
use crate::core::diagnostic::{Diagnostic, Severity};
use crate::core::gate::ActiveRevision;
use crate::core::policy::PolicySet;
use crate::core::policy::catalogue::{Catalogue, FileRefusal, FileUpdate};
use crate::core::report::history::Rejected;
use crate::git::files::{FileChange, Refusal};
use crate::git::{self, CommitId, CommitInfo};
use crate::reconcile::gitops::tracked_repository::TrackedRepository;

/// What to read, and from where.
#[derive(Debug, Clone)]
pub struct RepositoryOptions {
    /// The repository, and what its commits must have.
    pub following: TrackedRepository,
    /// The folder of the mirror.
    pub mirror: PathBuf,
    /// For jitter: differs between nodes.
    pub seed: u64,
}

/// What the repository asks for.
#[derive(Debug, Clone)]
pub struct DesiredRevision {
    /// Policies, labels and configuration in force.
    pub set: Arc<PolicySet>,
    /// The commit.
    pub commit: CommitInfo,
    /// The branch it is on.
    pub branch: String,
    /// Everything that is wrong with the files as they are now.
    pub diagnostics: Vec<Diagnostic>,
    /// Documents that are not in force as they stand in the repository.
    pub rejected: Vec<Rejected>,
    /// What has to be kept of it, and the newest commit if it waits.
    pub active: ActiveRevision,
    /// Git has just answered; else it is what was last in force, because Git is away.
    pub fetched: bool,
}

impl DesiredRevision {
    /// Logs what is wrong with the files, unless it was logged of the same commit `before`.
    pub fn log_diagnostics(&self, before: Option<&Self>) {
        if before.is_none_or(|before| before.commit.id != self.commit.id) {
            for diagnostic in &self.diagnostics {
                tracing::warn!("{diagnostic}");
            }
        }
    }

    /// What somebody suspended, the cluster and policies, and until when, in seconds since the epoch.
    pub fn suspended(&self, now: Timestamp) -> BTreeMap<String, u64> {
        let waits = match self.active.withheld.as_ref().map(|withheld| &withheld.why) {
            Some(PendingReason::Suspended { until, .. }) => *until,
            _ => self.set.config.suspend.as_ref().map(|suspension| suspension.until),
        };
        let policies = self.set.policies.values();
        let policies =
            policies.filter_map(|policy| Some((format!("policy {}", policy.id), policy.suspend.as_ref()?.until)));
        let all = waits.map(|until| ("cluster".to_owned(), until)).into_iter().chain(policies);
        all.filter(|(_, until)| now < *until).map(|(what, until)| (what, until.as_second().unsigned_abs())).collect()
    }
}

/// What the thread says.
#[derive(Debug)]
pub enum RepositoryEvent {
    /// Something else is asked for.
    Intent(Box<DesiredRevision>),
    /// It was looked, and all is as before.
    Unchanged,
    /// The newest commit is not let in, and nothing was in force before.
    Withheld(Box<PendingCommit>),
    /// Git failed. It is tried again.
    Fault(git::Error),
}

/// A repository that was read once.
#[derive(Debug)]
pub struct RevisionReading {
    /// The revision that was read.
    pub head: CommitId,
    /// What is active with it: the revision itself, or the one before if it waits. None: nothing.
    pub active: Option<DesiredRevision>,
    /// The revision as it is once it is let in, if it waits.
    pub pending: Option<(PendingCommit, DesiredRevision)>,
}

/// Reads a repository once, as the thread does at its start: a revision, or the branch that is followed. `known`: what is active.
pub fn read_once(options: RepositoryOptions, known: ActiveRevision, rev: Option<&str>) -> git::Result<RevisionReading> {
    RepositoryReader::new(options, known).read_once(rev)
}

/// What is asked of the thread.
enum Wish {
    /// The first look: until then it is not known what is in force.
    Begin(Box<ActiveRevision>),
    /// A look.
    Look,
    /// A look, and to know that another process put this commit in force, of this time.
    Published(CommitId, Option<Timestamp>),
}

/// A handle on the thread; it ends when this is dropped.
#[derive(Debug)]
pub struct Repository {
    wishes: Sender<Wish>,
}

impl Repository {
    /// Starts the thread, which waits for [`Repository::begin`].
    pub fn start(options: RepositoryOptions, news: UnboundedSender<RepositoryEvent>) -> std::io::Result<Self> {
        let (wishes, wished) = channel();
        thread::Builder::new().name("repository".to_owned()).spawn(move || {
            loop {
                match wished.recv() {
                    Ok(Wish::Begin(known)) => return RepositoryReader::new(options, *known).serve(&wished, &news),
                    Ok(Wish::Look | Wish::Published(..)) => {}
                    Err(_) => return,
                }
            }
        })?;
        Ok(Self { wishes })
    }

    /// Begins with what is in force.
    pub fn begin(&self, known: ActiveRevision) {
        let _ = self.wishes.send(Wish::Begin(Box::new(known)));
    }

    /// Asks for a look now.
    pub fn look(&self) {
        let _ = self.wishes.send(Wish::Look);
    }

    /// Says what another process has put in force, and asks for a look.
    pub fn published(&self, commit: CommitId, committed: Option<Timestamp>) {
        let _ = self.wishes.send(Wish::Published(commit, committed));
    }
}

/// Git's words for what became of a file, as the catalogue's.
pub fn changes(files: BTreeMap<String, FileChange>) -> BTreeMap<String, FileUpdate> {
    let change = |change| match change {
        FileChange::Text(text) => FileUpdate::Text(text),
        FileChange::Removed => FileUpdate::Removed,
        FileChange::Refused(refusal) => FileUpdate::Refused(match refusal {
            Refusal::Symlink => FileRefusal::Symlink,
            Refusal::TooLarge { .. } => FileRefusal::TooLarge,
            Refusal::NotUtf8 => FileRefusal::NotUtf8,
            _ => FileRefusal::Outside,
        }),
    };
    files.into_iter().map(|(path, file)| (path, change(file))).collect()
}

/// Errors, and what is in force in place of what has them.
pub fn rejected(catalogue: &Catalogue, diagnostics: &[Diagnostic]) -> Vec<Rejected> {
    let held = catalogue.held();
    let errors = diagnostics.iter().filter(|diagnostic| diagnostic.severity == Severity::Error);
    let mut rejected: Vec<Rejected> = errors
        .map(|error| {
            let instead: Vec<String> =
                held.iter().filter(|held| held.path == error.file).map(|held| held.identity.to_string()).collect();
            Rejected {
                place: format!("{}:{}:{}", error.file, error.start.line, error.start.column),
                message: error.message.clone(),
                instead: if instead.is_empty() {
                    "No earlier version is in force".to_owned()
                } else {
                    format!("The last good version of {} stays in force", instead.join(", "))
                },
            }
        })
        .collect();
    rejected.sort();
    rejected.dedup();
    rejected
}
