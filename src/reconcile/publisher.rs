//! The publisher's thread: puts nodes' reports on the reports branch, when they say something new.
//!
//! A report is planned anew on whatever is on the branch: other nodes write there, too. Deliberately absent: what a report says.

use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, SystemTime};

use jiff::Timestamp;

use crate::backoff::Backoff;
use crate::core::report::history::NodeReport;
use crate::core::report::{files, message};
use crate::git::access::Access;
use crate::git::mirror::Mirror;
use crate::git::publish::{Author, BranchState, Draft, Published, Target, publish};
use crate::git::signing::Signer;
use crate::git::source::Source;
use crate::git::{self, Fate};

/// Where reports go.
#[derive(Debug, Clone)]
pub struct Options {
    /// The repository.
    pub source: Source,
    /// How to get in.
    pub access: Access,
    /// The folder of a mirror of its own: fetching policies does not wait for it.
    pub mirror: PathBuf,
    /// The cluster's name: the branch's identity.
    pub cluster: String,
    /// The file of the key that reports are signed with, if they are. It is read for each: a rotated secret counts at once.
    pub signing_key: Option<PathBuf>,
    /// For jitter.
    pub seed: u64,
}

/// Reports and where they go.
#[derive(Debug, Clone, PartialEq)]
pub struct Letter {
    /// The reports, one a node: of the standalone node its own, of the controller everybody's.
    pub reports: Vec<NodeReport>,
    /// The reports branch.
    pub branch: String,
    /// The branch that policies are read from.
    pub policy_branch: String,
}

/// So long is waited for more before a report is written: drift comes in bursts.
const SETTLE: Duration = Duration::from_millis(150);

/// A handle on the thread.
#[derive(Debug)]
pub struct Publisher {
    letters: Option<Sender<Letter>>,
    thread: Option<thread::JoinHandle<()>>,
    fault: Fault,
}

/// Why the last try was in vain.
type Fault = Arc<Mutex<Option<String>>>;

impl Publisher {
    /// Starts the thread.
    pub fn start(options: Options) -> std::io::Result<Self> {
        let (letters, received) = channel();
        let fault = Fault::default();
        let told = Arc::clone(&fault);
        let thread =
            thread::Builder::new().name("publisher".to_owned()).spawn(move || serve(&options, &received, &told))?;
        Ok(Self { letters: Some(letters), thread: Some(thread), fault })
    }

    /// Hands over a report. The newest counts.
    pub fn send(&self, letter: Letter) {
        if let Some(letters) = &self.letters {
            let _ = letters.send(letter);
        }
    }

    /// Why the last reports are not committed; none where they are.
    pub fn fault(&self) -> Option<String> {
        self.fault.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until what was handed over is written, or was tried once more in vain.
    pub fn finish(mut self) {
        self.letters = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serve(options: &Options, received: &Receiver<Letter>, fault: &Fault) {
    let tell = |why: Option<String>| *fault.lock().unwrap_or_else(PoisonError::into_inner) = why;
    let mut mirror = None;
    let mut backoff = Backoff::new(options.seed);
    while let Ok(mut letter) = received.recv() {
        let mut wait = SETTLE;
        loop {
            let ended = loop {
                match received.recv_timeout(wait) {
                    Ok(newer) => letter = newer,
                    Err(RecvTimeoutError::Timeout) => break false,
                    Err(RecvTimeoutError::Disconnected) => break true,
                }
            };
            match write(options, &mut mirror, &letter) {
                Ok(published) => {
                    backoff.reset();
                    tell(None);
                    log(&published, &letter);
                    break;
                }
                Err(error) => {
                    tell(Some(crate::telemetry::chain(&error)));
                    tracing::warn!(
                        error = crate::telemetry::chain(&error),
                        hint = error.hint(),
                        branch = letter.branch,
                        "the drift report is not committed"
                    );
                    // What needs a person is tried again with the next report.
                    if ended || error.fate() == Fate::NeedsPerson {
                        break;
                    }
                    wait = backoff.next_wait();
                }
            }
        }
    }
}

fn log(published: &Published, letter: &Letter) {
    if let Published::Committed { commit, tries } = published {
        tracing::info!(branch = letter.branch, commit = commit.short(), tries, "drift report committed");
    }
}

fn write(options: &Options, mirror: &mut Option<Mirror>, letter: &Letter) -> git::Result<Published> {
    let mirror = match mirror {
        Some(mirror) => mirror,
        None => mirror.insert(Mirror::open(&options.mirror, options.source.clone(), options.access.clone())?),
    };
    let target = Target {
        branch: letter.branch.clone(),
        policy_branch: letter.policy_branch.clone(),
        identity: options.cluster.clone(),
        author: Author::default(),
        time: Timestamp::try_from(SystemTime::now()).unwrap_or(Timestamp::UNIX_EPOCH),
        signer: options.signing_key.as_deref().map(Signer::read).transpose()?,
    };
    let mut backoff = Backoff::new(options.seed);
    publish(mirror, &target, &mut |state| draft(options, letter, state), &mut |_| {
        // Another node was faster: it takes milliseconds, so a short wait will do.
        thread::sleep(backoff.next_wait().min(Duration::from_millis(300)));
    })
}

/// The branch as it is to be. Nothing where only the times of nothing new would differ.
fn draft(options: &Options, letter: &Letter, state: &BranchState) -> Option<Draft> {
    let known = |node: &str| state.files.get(&files::path_of(node)).and_then(|text| files::read_node_file(text));
    let changed: Vec<(Option<NodeReport>, NodeReport)> = letter
        .reports
        .iter()
        .map(|report| {
            let before = known(&report.node);
            let after = report.clone().after(before.as_ref());
            (before, after)
        })
        .filter(|(before, after)| before.as_ref() != Some(after))
        .collect();
    let subject = message::subject_of(&changed)?;
    let reports: Vec<NodeReport> = changed.into_iter().map(|(_, after)| after).collect();
    let tree = match files::tree(&state.files, &options.cluster, &reports) {
        Ok(tree) => tree,
        Err(error) => {
            tracing::error!(%error, "a drift report cannot be written as YAML");
            return None;
        }
    };
    let mut trailers = vec![("Egret-Cluster".to_owned(), options.cluster.clone())];
    if let Some(commit) = reports.iter().find_map(|report| report.in_force.as_ref()) {
        trailers.push(("Egret-Policy-Commit".to_owned(), commit.commit.clone()));
    }
    let records = reports.iter().flat_map(|report| report.drift.iter().chain(&report.corrected));
    let seen = records.map(|record| record.last_seen).max();
    if let Some(seen) = seen {
        trailers.push(("Egret-Observed-At".to_owned(), seen.to_string()));
    }
    Some(Draft { files: tree, message: subject, trailers })
}
