//! The repository thread: fetches the policy repository, reads what changed, and sends the desired revision to the
//! loop.
//!
//! libgit2 blocks, so it runs on its own thread, with a runtime for its waits. The thread also sets its own pace: it
//! polls, and backs off while Git is unavailable. Not here: applying a revision (`node`, `controller`), and writing to Git (`publisher`).

mod history;
mod reader;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use jiff::Timestamp;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

pub use self::history::PolicyHistory;
use self::reader::RepositoryReader;
use crate::clock::Clock;
use crate::core::admission::{PendingCommit, PendingReason};
use crate::core::allocation::AllocationRequest;
use crate::core::diagnostic::{Diagnostic, Severity};
use crate::core::facts::Facts;
use crate::core::gate::ActiveRevision;
use crate::core::policy::PolicySet;
use crate::core::policy::catalogue::{Catalogue, FileRefusal, FileUpdate, POOL_MISTAKES};
use crate::core::report::history::Rejected;
use crate::git::files::{FileChange, Refusal};
use crate::git::mirror::Mirror;
use crate::git::{self, CommitId, CommitInfo};
use crate::reconcile::gitops::tracked_repository::TrackedRepository;

/// The thread's options.
#[derive(Debug, Clone)]
pub struct RepositoryOptions {
    /// The repository, and the requirements for its commits.
    pub following: TrackedRepository,
    /// The mirror's folder.
    pub mirror: PathBuf,
    /// The seed for jitter: it differs between nodes.
    pub seed: u64,
    /// The cluster's pods, as the loop knows them.
    pub facts: KnownFacts,
}

/// What the loop knows of the cluster, for whoever judges commits: what was set last.
#[derive(Debug, Clone, Default)]
pub struct KnownFacts(Arc<Mutex<Option<Arc<Facts>>>>);

impl KnownFacts {
    /// Sets it.
    pub fn set(&self, facts: Facts) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(facts));
    }

    /// What was set last; none at the start.
    pub fn get(&self) -> Option<Arc<Facts>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The revision that the repository asks for.
#[derive(Debug, Clone)]
pub struct DesiredRevision {
    /// Active policies, labels and configuration.
    pub set: Arc<PolicySet>,
    /// The commit.
    pub commit: CommitInfo,
    /// The branch it is on.
    pub branch: String,
    /// All diagnostics of the files as they are now.
    pub diagnostics: Vec<Diagnostic>,
    /// Documents that are not active as they are in the repository.
    pub rejected: Vec<Rejected>,
    /// What has to be persisted, and the newest commit if it is pending.
    pub active: ActiveRevision,
    /// Commits that were active before this one: what is published may be one of them. Any other is newer, or this
    /// process does not know it yet, and must not be replaced.
    pub predecessors: Arc<BTreeSet<CommitId>>,
    /// What its policies ask of pools; none for an agent, which is given addresses.
    pub asked: Option<Arc<AllocationRequest>>,
    /// Git has just answered; else this is the last active revision, used while Git is unavailable.
    pub fetched: bool,
}

impl DesiredRevision {
    /// Logs the diagnostics, unless they were logged for the same commit `before`.
    pub fn log_diagnostics(&self, before: Option<&Self>) {
        if before.is_none_or(|before| before.commit.id != self.commit.id) {
            for diagnostic in &self.diagnostics {
                tracing::warn!("{diagnostic}");
            }
        }
    }

    /// What is suspended, the cluster or policies, and until when, in seconds since the epoch.
    pub fn suspended(&self, now: Timestamp) -> BTreeMap<String, u64> {
        let waits = match self.active.pending.as_ref().map(|pending| &pending.why) {
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

/// An event that the thread sends.
#[derive(Debug)]
pub enum RepositoryEvent {
    /// The desired revision changed.
    Intent(Box<DesiredRevision>),
    /// The repository was polled and nothing changed.
    Unchanged,
    /// The newest commit is not admitted, and none was active before.
    Pending(Box<PendingCommit>),
    /// Git failed. The thread retries.
    Fault(git::Error),
}

/// The result of reading a repository once.
#[derive(Debug)]
pub struct RevisionReading {
    /// The revision that was read.
    pub head: CommitId,
    /// What is active with it: the revision itself, or the previous one if it is pending. None: nothing.
    pub active: Option<DesiredRevision>,
    /// The revision as it will be once it is admitted, if it is pending.
    pub pending: Option<(PendingCommit, DesiredRevision)>,
}

/// Reads a repository once, as the thread does at its start: a revision, or the tracked branch. `known`: the active
/// revision.
pub fn read_once(options: RepositoryOptions, known: ActiveRevision, rev: Option<&str>) -> git::Result<RevisionReading> {
    let open = |options: &RepositoryOptions| options.following.open_to_read(&options.mirror);
    let mut reader = RepositoryReader::new(options, open, known, Clock::system());
    reader.read_once(rev)
}

/// A command to the thread.
enum Command {
    /// Starts polling. Until then the active revision is not known.
    Begin(Box<ActiveRevision>),
    /// Polls now.
    Poll,
    /// Another process made this commit, of this time, active; polls now.
    Published(CommitId, Option<Timestamp>),
}

/// A handle on the thread; the thread ends when it is dropped.
#[derive(Debug)]
pub struct Repository {
    commands: UnboundedSender<Command>,
    facts: KnownFacts,
}

impl Repository {
    /// Starts the thread, which waits for [`Repository::begin`].
    pub fn start(options: RepositoryOptions, news: UnboundedSender<RepositoryEvent>) -> std::io::Result<Self> {
        let waits = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
        let (repository, reading) = Self::reading(options, mirror_of, news, Clock::system());
        thread::Builder::new().name("repository".to_owned()).spawn(move || waits.block_on(reading))?;
        Ok(repository)
    }

    /// The handle, and the work: it blocks while it accesses Git, and ends when the handle is dropped. `open` makes the
    /// copy of the history, or opens it again.
    pub fn reading<H: PolicyHistory>(
        options: RepositoryOptions,
        open: impl FnMut(&RepositoryOptions) -> git::Result<H>,
        news: UnboundedSender<RepositoryEvent>,
        clock: Clock,
    ) -> (Self, impl Future<Output = ()>) {
        let (commands, mut received) = unbounded_channel();
        let facts = options.facts.clone();
        let work = async move {
            loop {
                match received.recv().await {
                    Some(Command::Begin(known)) => {
                        let reader = RepositoryReader::new(options, open, *known, clock);
                        return reader.serve(received, news).await;
                    }
                    Some(Command::Poll | Command::Published(..)) => {}
                    None => return,
                }
            }
        };
        (Self { commands, facts }, work)
    }

    /// Sets which pods there are: a commit that takes their egress address from most of them has to be confirmed.
    pub fn know(&self, facts: &Facts) {
        self.facts.set(facts.clone());
    }

    /// The pods that were set last.
    pub fn facts(&self) -> Option<Arc<Facts>> {
        self.facts.get()
    }

    /// Starts polling from the active revision.
    pub fn begin(&self, known: ActiveRevision) {
        let _ = self.commands.send(Command::Begin(Box::new(known)));
    }

    /// Requests a poll now.
    pub fn poll(&self) {
        let _ = self.commands.send(Command::Poll);
    }

    /// Passes on the commit that another process made active, and requests a poll.
    pub fn published(&self, commit: CommitId, committed: Option<Timestamp>) {
        let _ = self.commands.send(Command::Published(commit, committed));
    }
}

fn mirror_of(options: &RepositoryOptions) -> git::Result<Mirror> {
    options.following.mirror(&options.mirror)
}

/// Converts Git's file changes to the catalogue's.
pub fn changes(files: BTreeMap<String, FileChange>) -> BTreeMap<String, FileUpdate> {
    let change = |change| match change {
        FileChange::Text(text) => FileUpdate::Text(text),
        FileChange::Removed => FileUpdate::Removed,
        FileChange::Refused(refusal) => FileUpdate::Refused(match refusal {
            Refusal::Symlink => FileRefusal::Symlink,
            Refusal::TooLarge { .. } => FileRefusal::TooLarge,
            Refusal::NotUtf8 => FileRefusal::NotUtf8,
            Refusal::Submodule => FileRefusal::Submodule,
            Refusal::Name => FileRefusal::Name,
            Refusal::Binary => FileRefusal::Binary,
        }),
    };
    files.into_iter().map(|(path, file)| (path, change(file))).collect()
}

/// Documents with errors, and what is active in their place.
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
                instead: if POOL_MISTAKES.contains(&error.code) {
                    "The document is active, and policies keep the addresses of pools that they have".to_owned()
                } else if instead.is_empty() {
                    "No earlier version is active".to_owned()
                } else {
                    format!("The last good version of {} stays active", instead.join(", "))
                },
            }
        })
        .collect();
    rejected.sort();
    rejected.dedup();
    rejected
}
