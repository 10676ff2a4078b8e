//! Pull requests: the thread that previews them and says so where they are talked about.
//!
//! It has a thread and a mirror of its own, so that a forge that is slow or away holds up no policy. Only the controller that leads does it,
//! and asks whether it still does before each word. What is proposed is data: no word of it decides where something is read or said.
//! Deliberately absent: what a preview says (`core::preview`), and how a forge is talked to (`forge`).

mod poll;
mod poll_schedule;
mod posted;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;

use self::poll::{PollOutcome, Poller};
use self::poll_schedule::PollSchedule;
use crate::backoff::Backoff;
use crate::core::facts::Facts;
use crate::core::host_network::HostNetwork;
use crate::core::name::NodeName;
use crate::core::report::history::NodeReport;
use crate::forge::app::GitHubApp;
use crate::forge::{Forge, ForgeKind};
use crate::reconcile::gitops::tracked_repository::TrackedRepository;
use crate::reconcile::leadership::IsLeader;
use crate::serve::Metrics;
use crate::telemetry::chain;

/// The list of open pull requests is looked at this often, although nobody said that something changed.
const LOOK: Duration = Duration::from_mins(1);
/// A commit that a forge knows of and Git does not yet is looked for again so soon.
const SOON: Duration = Duration::from_secs(2);

/// Where pull requests are.
#[derive(Debug, Clone)]
pub struct ForgeTarget {
    /// The repository there.
    pub forge: Forge,
    /// Which forge it is: each has its own names for heads.
    pub kind: ForgeKind,
    /// By which tokens are had, where they are a GitHub App's.
    pub app: Option<Arc<GitHubApp>>,
}

/// What to preview, and where.
#[derive(Debug, Clone)]
pub struct PullPreviewOptions {
    /// The policy repository, and what its commits must have.
    pub following: TrackedRepository,
    /// The folder of a mirror of its own.
    pub mirror: PathBuf,
    /// For jitter.
    pub seed: u64,
    /// Where they are.
    pub board: ForgeTarget,
    /// What is counted.
    pub metrics: Metrics,
}

/// What a preview has to know of the cluster.
#[derive(Debug, Clone)]
pub struct PreviewCluster {
    /// Nodes, namespaces and pods.
    pub facts: Facts,
    /// Nodes' interfaces and addresses, of those that told.
    pub host_networks: BTreeMap<NodeName, HostNetwork>,
    /// What nodes report.
    pub reports: Vec<NodeReport>,
}

/// What the thread says to the loop.
#[derive(Debug)]
pub enum PullPreviewEvent {
    /// It has to know what the cluster is like. Who does not know (yet) drops it.
    Ask(oneshot::Sender<Result<PreviewCluster, String>>),
    /// What [`Pulls::fault`] says is another thing now.
    Changed,
}

/// What the loop says to the thread.
#[derive(Debug)]
enum PullPreviewCommand {
    Look,
    Branch(String),
}

/// A handle on the thread, or on none; it ends when this is dropped.
#[derive(Debug, Default)]
pub struct PullPreviews {
    running: Option<(Sender<PullPreviewCommand>, UnboundedReceiver<PullPreviewEvent>)>,
    branch: Option<String>,
    fault: Fault,
}

/// Why the last round was not all it should have been.
type Fault = Arc<Mutex<Option<String>>>;

impl PullPreviews {
    /// Starts the thread, if there is something to do for it.
    pub fn start(options: Option<PullPreviewOptions>, leads: IsLeader) -> std::io::Result<Self> {
        let Some(options) = options else { return Ok(Self::default()) };
        let (wishes, wished) = channel();
        let (words, said) = unbounded_channel();
        let fault = Fault::default();
        let told = Arc::clone(&fault);
        thread::Builder::new()
            .name("pulls".to_owned())
            .spawn(move || Thread { options, leads, wished, words, fault: told }.serve())?;
        Ok(Self { running: Some((wishes, said)), branch: None, fault })
    }

    /// Something may have changed: a pull request, or who leads.
    pub fn look(&self) {
        self.wish(PullPreviewCommand::Look);
    }

    /// The branch that policies are read from has news.
    pub fn base(&mut self, branch: &str) {
        if self.branch.as_deref() == Some(branch) {
            return self.look();
        }
        self.branch = Some(branch.to_owned());
        self.wish(PullPreviewCommand::Branch(branch.to_owned()));
    }

    fn wish(&self, wish: PullPreviewCommand) {
        if let Some((wishes, _)) = &self.running {
            let _ = wishes.send(wish);
        }
    }

    /// The next word of the thread; there never is one where there is no thread.
    pub async fn word(&mut self) -> PullPreviewEvent {
        let word = match &mut self.running {
            Some((_, words)) => words.recv().await,
            None => None,
        };
        match word {
            Some(word) => word,
            None => std::future::pending().await,
        }
    }

    /// How it fares: none where nobody wants previews, else why not all of them are posted.
    pub fn fault(&self) -> Option<Result<(), String>> {
        self.running.as_ref()?;
        let fault = self.fault.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Some(fault.map_or(Ok(()), Err))
    }
}

/// What lives on the thread.
struct Thread {
    options: PullPreviewOptions,
    leads: IsLeader,
    wished: Receiver<PullPreviewCommand>,
    words: UnboundedSender<PullPreviewEvent>,
    fault: Fault,
}

impl Thread {
    fn serve(self) {
        let mut backoff = Backoff::new(self.options.seed);
        let mut rounds = Poller::new(&self.options, &self.leads, &self.words);
        let mut branch = None;
        let mut agenda = PollSchedule::new(Instant::now());
        loop {
            match self.wished.recv_timeout(agenda.wait(Instant::now())) {
                Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => {}
                Ok(wish) => {
                    if let PullPreviewCommand::Branch(name) = wish {
                        branch = Some(name);
                    }
                    agenda.wish(Instant::now());
                }
            }
            if !agenda.wait(Instant::now()).is_zero() {
                continue;
            }
            agenda.begin(Instant::now());
            let Some(branch) = branch.as_deref().filter(|_| (self.leads)()) else {
                rounds.forget();
                agenda.next(Instant::now(), LOOK, None);
                continue;
            };
            let mut asked = None;
            let wait = match rounds.round(branch) {
                Ok(done) => {
                    self.tell(done.fault);
                    match done.done {
                        PollOutcome::All => {
                            backoff.reset();
                            backoff.spread(LOOK)
                        }
                        PollOutcome::Soon => SOON,
                        PollOutcome::NotNow => backoff.next_wait().max(SOON),
                    }
                }
                Err(error) => {
                    asked = error.wait();
                    let wait = backoff.next_wait().max(SOON).max(asked.unwrap_or_default());
                    tracing::warn!(error = chain(&error), hint = error.hint(), retry = ?wait, "pull requests cannot be previewed");
                    self.tell(Some(chain(&error)));
                    wait
                }
            };
            agenda.next(Instant::now(), wait, asked);
        }
    }

    fn tell(&self, fault: Option<String>) {
        let mut known = self.fault.lock().unwrap_or_else(PoisonError::into_inner);
        if *known != fault {
            *known = fault;
            let _ = self.words.send(PullPreviewEvent::Changed);
        }
    }
}
