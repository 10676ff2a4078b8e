//! The pull request thread: previews open pull requests and posts the result as comments and commit statuses.
//!
//! It has its own thread and mirror, so that a slow or unavailable forge delays no policy. Only the controller that
//! leads runs it, and the thread checks the leadership again before each post. A pull request is data: its content
//! decides neither what is read nor where a comment is posted. Not here: a preview's text (`core::preview`), and the
//! forges' APIs (`forge`).

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
use crate::core::allocation::Allocation;
use crate::core::facts::Facts;
use crate::core::host_network::HostNetwork;
use crate::core::name::NodeName;
use crate::core::page::OpenPull;
use crate::core::report::history::NodeReport;
use crate::forge::app::GitHubApp;
use crate::forge::{Forge, ForgeKind};
use crate::reconcile::gitops::tracked_repository::TrackedRepository;
use crate::reconcile::leadership::IsLeader;
use crate::serve::Metrics;
use crate::telemetry::chain;

/// How often open pull requests are polled without a webhook.
const POLL_INTERVAL: Duration = Duration::from_mins(1);
/// The wait for a commit that the forge's API lists and its Git server does not have yet.
const SOON: Duration = Duration::from_secs(2);

/// The forge whose pull requests are previewed.
#[derive(Debug, Clone)]
pub struct ForgeTarget {
    /// The repository at the forge.
    pub forge: Forge,
    /// The kind of forge: each has its own names for the refs of heads.
    pub kind: ForgeKind,
    /// The GitHub App that issues the tokens, if one does.
    pub app: Option<Arc<GitHubApp>>,
}

/// The options of the thread.
#[derive(Debug, Clone)]
pub struct PullPreviewOptions {
    /// The policy repository, and the requirements for its commits.
    pub following: TrackedRepository,
    /// The folder of a separate mirror.
    pub mirror: PathBuf,
    /// The seed for jitter.
    pub seed: u64,
    /// The forge.
    pub target: ForgeTarget,
    /// The metrics.
    pub metrics: Metrics,
}

/// What a preview needs of the cluster.
#[derive(Debug, Clone)]
pub struct PreviewCluster {
    /// Nodes, namespaces and pods.
    pub facts: Facts,
    /// The interfaces and addresses of nodes that report them.
    pub host_networks: BTreeMap<NodeName, HostNetwork>,
    /// Nodes' reports.
    pub reports: Vec<NodeReport>,
    /// Which policies have which addresses of pools.
    pub allocation: Allocation,
}

/// An event that the thread sends to the loop.
#[derive(Debug)]
pub enum PullPreviewEvent {
    /// The thread needs the cluster's state. A loop that does not know it (yet) drops the sender.
    NeedsCluster(oneshot::Sender<Result<PreviewCluster, String>>),
    /// The value of [`PullPreviews::fault`] changed.
    Changed,
}

/// A command that the loop sends to the thread.
#[derive(Debug)]
enum PullPreviewCommand {
    Poll,
    Branch(String),
}

/// A handle on the thread, if there is one; the thread ends when it is dropped.
#[derive(Debug, Default)]
pub struct PullPreviews {
    running: Option<(Sender<PullPreviewCommand>, UnboundedReceiver<PullPreviewEvent>)>,
    branch: Option<String>,
    fault: Fault,
    open: Open,
}

/// Open pull requests, as they were last polled.
type Open = Arc<Mutex<Vec<OpenPull>>>;

/// Why the last poll was incomplete.
type Fault = Arc<Mutex<Option<String>>>;

impl PullPreviews {
    /// Starts the thread, if previews are enabled.
    pub fn start(options: Option<PullPreviewOptions>, leads: IsLeader) -> std::io::Result<Self> {
        let Some(options) = options else { return Ok(Self::default()) };
        let (commands, received) = channel();
        let (events, event_receiver) = unbounded_channel();
        let fault = Fault::default();
        let open = Open::default();
        let (shared, listed) = (Arc::clone(&fault), Arc::clone(&open));
        thread::Builder::new().name("pulls".to_owned()).spawn(move || {
            Thread { options, leads, commands: received, events, fault: shared, open: listed }.serve();
        })?;
        Ok(Self { running: Some((commands, event_receiver)), branch: None, fault, open })
    }

    /// Announces that something may have changed: a pull request, or the leader.
    pub fn poll(&self) {
        self.send(PullPreviewCommand::Poll);
    }

    /// Announces that the branch of policies has changed.
    pub fn base(&mut self, branch: &str) {
        if self.branch.as_deref() == Some(branch) {
            return self.poll();
        }
        self.branch = Some(branch.to_owned());
        self.send(PullPreviewCommand::Branch(branch.to_owned()));
    }

    fn send(&self, command: PullPreviewCommand) {
        if let Some((commands, _)) = &self.running {
            let _ = commands.send(command);
        }
    }

    /// The next event of the thread. Never resolves if there is no thread.
    pub async fn next_event(&mut self) -> PullPreviewEvent {
        let event = match &mut self.running {
            Some((_, events)) => events.recv().await,
            None => None,
        };
        match event {
            Some(event) => event,
            None => std::future::pending().await,
        }
    }

    /// Open pull requests, as the leader last polled them; none if previews are disabled.
    pub fn open(&self) -> Option<Vec<OpenPull>> {
        self.running.as_ref()?;
        Some(self.open.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }

    /// The state of previews: none if they are disabled, else why not all of them are posted.
    pub fn fault(&self) -> Option<Result<(), String>> {
        self.running.as_ref()?;
        let fault = self.fault.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Some(fault.map_or(Ok(()), Err))
    }
}

/// The state of the thread.
struct Thread {
    options: PullPreviewOptions,
    leads: IsLeader,
    commands: Receiver<PullPreviewCommand>,
    events: UnboundedSender<PullPreviewEvent>,
    fault: Fault,
    open: Open,
}

impl Thread {
    fn serve(self) {
        let mut backoff = Backoff::new(self.options.seed);
        let mut poller = Poller::new(&self.options, &self.leads, &self.events, &self.open);
        let mut branch = None;
        let mut schedule = PollSchedule::new(Instant::now());
        loop {
            match self.commands.recv_timeout(schedule.wait(Instant::now())) {
                Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => {}
                Ok(command) => {
                    if let PullPreviewCommand::Branch(name) = command {
                        branch = Some(name);
                    }
                    schedule.request(Instant::now());
                }
            }
            if !schedule.wait(Instant::now()).is_zero() {
                continue;
            }
            schedule.begin(Instant::now());
            let Some(branch) = branch.as_deref().filter(|_| (self.leads)()) else {
                poller.forget();
                schedule.next(Instant::now(), POLL_INTERVAL, None);
                continue;
            };
            let mut retry_after = None;
            let wait = match poller.poll(branch) {
                Ok(done) => {
                    self.set_fault(done.fault);
                    match done.done {
                        PollOutcome::All => {
                            backoff.reset();
                            backoff.spread(POLL_INTERVAL)
                        }
                        PollOutcome::Soon => SOON,
                        PollOutcome::NotNow => backoff.next_wait().max(SOON),
                    }
                }
                Err(error) => {
                    retry_after = error.wait();
                    let wait = backoff.next_wait().max(SOON).max(retry_after.unwrap_or_default());
                    tracing::warn!(error = chain(&error), hint = error.hint(), retry = ?wait, "pull requests cannot be previewed");
                    self.set_fault(Some(chain(&error)));
                    wait
                }
            };
            schedule.next(Instant::now(), wait, retry_after);
        }
    }

    fn set_fault(&self, fault: Option<String>) {
        let mut known = self.fault.lock().unwrap_or_else(PoisonError::into_inner);
        if *known != fault {
            *known = fault;
            let _ = self.events.send(PullPreviewEvent::Changed);
        }
    }
}
