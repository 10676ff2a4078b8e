//! The repository's thread: fetches, reads what changed, and says what is in force now.
//!
//! libgit2 blocks, so it has a thread of its own; it also keeps its own pace: polling, and backing off while Git is away.
//! Deliberately absent: applying anything, and writing to Git (`publisher`).

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Duration;

use tokio::sync::mpsc::UnboundedSender;

use crate::backoff::Backoff;
use crate::core::diagnostic::{Diagnostic, Severity};
use crate::core::policy::PolicySet;
use crate::core::policy::catalogue::{Catalogue, Change, GoodDocuments, Refusal as Refused};
use crate::core::report::history::Rejected;
use crate::git::access::Access;
use crate::git::files::{FileChange, Refusal};
use crate::git::mirror::Mirror;
use crate::git::source::Source;
use crate::git::{self, CommitId, CommitInfo, Fate};

/// What to read, and from where.
#[derive(Debug, Clone)]
pub struct Options {
    /// The repository.
    pub source: Source,
    /// Its branch; none: its default branch.
    pub branch: Option<String>,
    /// How to get in.
    pub access: Access,
    /// The folder of the mirror.
    pub mirror: PathBuf,
    /// Whose paths and settings of egret.yaml count.
    pub cluster: String,
    /// How often to look although nobody said that something changed.
    pub poll: Duration,
    /// For jitter: differs between nodes.
    pub seed: u64,
}

/// What the repository asks for.
#[derive(Debug, Clone)]
pub struct Intent {
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
    /// What to remember so that they are still in force after a restart.
    pub good: GoodDocuments,
    /// Git has just answered; else it is what was last in force, because Git is away.
    pub fetched: bool,
}

/// What the thread says.
#[derive(Debug)]
pub enum News {
    /// Something else is asked for.
    Intent(Box<Intent>),
    /// It was looked, and all is as before.
    Unchanged,
    /// Git failed. It is tried again.
    Fault(git::Error),
}

/// A handle on the thread; it ends when this is dropped.
#[derive(Debug)]
pub struct Repository {
    wishes: Sender<()>,
}

impl Repository {
    /// Starts the thread. `known` is the commit that was last in force, `good` what was remembered with it.
    pub fn start(
        options: Options,
        known: Option<String>,
        good: GoodDocuments,
        news: UnboundedSender<News>,
    ) -> std::io::Result<Self> {
        let (wishes, wished) = channel();
        let _ = wishes.send(());
        thread::Builder::new().name("repository".to_owned()).spawn(move || {
            Reader::new(options, &good).serve(known, &wished, &news);
        })?;
        Ok(Self { wishes })
    }

    /// Asks for a look now.
    pub fn look(&self) {
        let _ = self.wishes.send(());
    }
}

/// What lives on the thread.
struct Reader {
    options: Options,
    mirror: Option<Mirror>,
    catalogue: Catalogue,
    /// The commit that the catalogue is of.
    current: Option<CommitId>,
    /// The paths that the catalogue was told of: when a whole tree is read again, what is not in it is gone.
    paths: BTreeSet<String>,
    branch: String,
    /// Whether anybody was told what is asked for.
    told: bool,
}

impl Reader {
    fn new(options: Options, good: &GoodDocuments) -> Self {
        let mut catalogue = Catalogue::new(&options.cluster);
        catalogue.import_good(good);
        let branch = options.branch.clone().unwrap_or_default();
        Self { options, mirror: None, catalogue, current: None, paths: BTreeSet::new(), branch, told: false }
    }

    fn serve(mut self, known: Option<String>, wished: &Receiver<()>, news: &UnboundedSender<News>) {
        let mut backoff = Backoff::new(self.options.seed);
        let mut known = known.and_then(|id| CommitId::parse(&id));
        let mut wait = Duration::ZERO;
        loop {
            match wished.recv_timeout(wait) {
                Err(RecvTimeoutError::Disconnected) => return,
                Ok(()) | Err(RecvTimeoutError::Timeout) => while wished.try_recv().is_ok() {},
            }
            let result = self.look(known.take());
            wait = match &result {
                // A server that asks to be left alone is, unless somebody pushes.
                Err(error) if error.fate() == Fate::Retry => backoff.next_wait().max(error.wait().unwrap_or_default()),
                Ok(_) => {
                    backoff.reset();
                    backoff.spread(self.options.poll)
                }
                Err(_) => backoff.spread(self.options.poll),
            };
            let messages = match result {
                Ok(None) => vec![News::Unchanged],
                Ok(Some(intent)) => vec![News::Intent(intent)],
                // Git is away at the start: what was in force is still in the mirror.
                Err(error) => match self.last_in_force() {
                    Some(intent) => vec![News::Intent(intent), News::Fault(error)],
                    None => vec![News::Fault(error)],
                },
            };
            if messages.into_iter().any(|message| news.send(message).is_err()) {
                return;
            }
        }
    }

    /// Looks where the branch is, and reads what changed. `known`: the commit to begin with, so that documents which became
    /// bad since then are recognised as such.
    fn look(&mut self, known: Option<CommitId>) -> git::Result<Option<Box<Intent>>> {
        let mut mirror = if let Some(mirror) = self.mirror.take() {
            mirror
        } else {
            let Options { mirror, source, access, .. } = &self.options;
            Mirror::open(mirror, source.clone(), access.clone())?
        };
        let result = self.look_at(&mut mirror, known);
        self.mirror = Some(mirror);
        result
    }

    fn look_at(&mut self, mirror: &mut Mirror, known: Option<CommitId>) -> git::Result<Option<Box<Intent>>> {
        if let Some(known) = known.filter(|known| self.current.is_none() && mirror.has(*known)) {
            self.update(mirror.files(known, &everything())?, true);
            self.current = Some(known);
        }
        let head = mirror.head(self.options.branch.as_deref())?;
        if self.told && self.current == Some(head.commit) && self.branch == head.branch {
            return Ok(None);
        }
        let from = self.current.filter(|current| mirror.has(*current));
        let changed = mirror.changes(from, head.commit, &everything())?;
        let info = mirror.commit_info(head.commit)?;
        self.update(changed, from.is_none());
        self.current = Some(head.commit);
        self.branch = head.branch;
        self.told = true;
        Ok(Some(Box::new(self.intent(info, true))))
    }

    /// Takes in what changed; `whole` if it is all there is.
    fn update(&mut self, files: BTreeMap<String, FileChange>, whole: bool) {
        let mut changes = changes(files);
        if whole {
            for path in &self.paths {
                changes.entry(path.clone()).or_insert(Change::Removed);
            }
        }
        for (path, change) in &changes {
            if *change == Change::Removed {
                self.paths.remove(path);
            } else {
                self.paths.insert(path.clone());
            }
        }
        self.catalogue.update(changes);
    }

    /// What was last in force, if the first look failed and the mirror still has it.
    fn last_in_force(&mut self) -> Option<Box<Intent>> {
        let (Some(current), Some(mirror), false) = (self.current, &self.mirror, self.told) else { return None };
        let info = mirror.commit_info(current).ok()?;
        self.told = true;
        Some(Box::new(self.intent(info, false)))
    }

    fn intent(&self, commit: CommitInfo, fetched: bool) -> Intent {
        let diagnostics = self.catalogue.diagnostics();
        Intent {
            set: Arc::new(self.catalogue.policies().clone()),
            commit,
            branch: self.branch.clone(),
            rejected: rejected(&self.catalogue, &diagnostics),
            good: self.catalogue.export_good(),
            diagnostics,
            fetched,
        }
    }
}

/// The catalogue selects by itself: it knows egret.yaml's paths.
fn everything() -> [String; 1] {
    [String::new()]
}

/// Git's words for what became of a file, as the catalogue's.
pub fn changes(files: BTreeMap<String, FileChange>) -> BTreeMap<String, Change> {
    let change = |change| match change {
        FileChange::Text(text) => Change::Text(text),
        FileChange::Removed => Change::Removed,
        FileChange::Refused(refusal) => Change::Refused(match refusal {
            Refusal::Symlink => Refused::Symlink,
            Refusal::TooLarge { .. } => Refused::TooLarge,
            Refusal::NotUtf8 => Refused::NotUtf8,
            _ => Refused::Outside,
        }),
    };
    files.into_iter().map(|(path, file)| (path, change(file))).collect()
}

/// Errors, and what is in force in place of what has them.
fn rejected(catalogue: &Catalogue, diagnostics: &[Diagnostic]) -> Vec<Rejected> {
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
