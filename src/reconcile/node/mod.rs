//! The standalone node (`egret run`): one process that reads Git and a cluster's manifests, and applies the policies
//! to one machine.
//!
//! Triggers come from Git, the manifests, the kernel and timers; each only marks what has to be read again. One round
//! runs at a time. Not here: what a round does (`round`), and the live cluster (`agent`, `controller`).

pub(in crate::reconcile) mod attribution;
pub mod dry_run;
pub mod holder;
pub mod inquiry;
pub mod kernel;
pub mod mark_mask;
pub mod metrics_recorder;
mod page;
pub mod port_counter;
pub mod prober;
pub mod recorder;
pub mod round;
pub mod round_driver;
pub mod schedule;
pub mod transfers;
pub mod watchers;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::mpsc::{Receiver, UnboundedReceiver};
use tokio::time::{Instant, sleep_until, timeout};

use crate::clock::Clock;
use crate::cluster::{Cluster, ClusterError};
use crate::core::admission::PendingCommit;
use crate::core::gateway_interfaces::{self, GatewayInterface};
use crate::core::name::NodeName;
use crate::core::plan::Step;
use crate::core::report::history::NodeReport;
use crate::core::state::net::fnv1a;
use crate::core::state::ownership::DatapathConfig;
use crate::kernel::watch::{KernelEvent, KernelWatch};
use crate::kernel::{Kernel, KernelError};
use crate::reconcile::gitops::pool_addresses::PoolAddresses;
use crate::reconcile::gitops::publisher::{BranchAllocation, ClusterSnapshot, Publisher};
use crate::reconcile::gitops::report_sender::{ReportSender, SnapshotSource};
use crate::reconcile::gitops::repository::{DesiredRevision, Repository, RepositoryEvent};
use crate::reconcile::gitops::tracked_repository::TrackedRepository;
use crate::reconcile::gitops::webhook::{self, Webhook};
use crate::reconcile::node::kernel::{KernelEvents, NodeKernel};
use crate::reconcile::node::metrics_recorder::MetricsRecorder;
use crate::reconcile::node::page::NodePage;
use crate::reconcile::node::round::{Reconciler, RoundError};
use crate::reconcile::node::round_driver::{RoundDriver, Wakeup, log_steps};
use crate::reconcile::node::schedule::EffectiveSchedule;
use crate::reconcile::node::watchers::{Seen, Watchers};
use crate::reconcile::persistence::lock::{Lock, LockError};
use crate::reconcile::persistence::state_store::StateStore;
use crate::reconcile::process::{StartError, Stop};
use crate::serve::ScrapeRequest;
use crate::serve::ui::{PageRequest, UiOptions};
use crate::telemetry::chain;
use crate::watch::Watcher;

/// The options of `egret run`, validated.
#[derive(Debug, Clone)]
pub struct StandaloneOptions {
    /// The policy repository, and the requirements for its commits.
    pub following: TrackedRepository,
    /// The file of the key that reports are signed with, if they are.
    pub signing_key: Option<PathBuf>,
    /// The cluster's manifests.
    pub cluster: PathBuf,
    /// The node's name.
    pub node: NodeName,
    /// The folder of mirrors and the state store; each node has a folder below it.
    pub state_folder: PathBuf,
    /// Run one round, then exit.
    pub once: bool,
    /// Remove everything instead of applying what Git asks for, then exit.
    pub remove: bool,
    /// The address of metrics and health, if they are served.
    pub listen: Option<SocketAddr>,
    /// The forge's webhook, if there is one.
    pub webhook: Option<webhook::WebhookOptions>,
    /// The most bytes that the NAT record may have; none: there is no record.
    pub nat_record: Option<u64>,
    /// The page for people, if it is served.
    pub ui: Option<UiOptions>,
}

/// Why the process exits with an error.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Another Egret process holds the lock.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The cluster's manifests cannot be read at all.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// The kernel cannot be accessed.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// A round failed, with `--once` or `--remove`.
    #[error(transparent)]
    Round(#[from] RoundError),
    /// Git failed, with `--once`.
    #[error(transparent)]
    Git(#[from] crate::git::Error),
    /// A thread, a server or a signal handler could not be started.
    #[error(transparent)]
    Start(#[from] StartError),
    /// Files cannot be watched.
    #[error("watch files")]
    Watch(#[from] crate::watch::FileWatchError),
}

impl RunError {
    /// What the operator can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Lock(_) => {
                Some("stop it first; `ss -xlp | grep egret.dev/node` in this network namespace names it".to_owned())
            }
            Self::Kernel(error) => error.hint(),
            Self::Round(error) => error.hint(),
            Self::Git(error) => error.hint(),
            _ => None,
        }
    }
}

/// Runs until SIGTERM or SIGINT, which leave the datapath applied; or once. Returns the steps of a single run; none:
/// nothing is active.
pub async fn run(options: StandaloneOptions) -> Result<Option<Vec<Step>>, RunError> {
    let _lock = Lock::take()?;
    let folder = options.state_folder.join(options.node.as_str());
    let memory = StateStore::open(&folder);
    let range = memory.kept().range().unwrap_or_default();
    let kernel = Kernel::open(range).await?;
    for check in crate::kernel::doctor::blockers(range).await {
        tracing::error!(code = check.code, "{check}");
    }
    let watch = KernelWatch::open(&kernel)?;
    let cluster = Cluster::open(&options.cluster)?;
    let mut reconciler = Reconciler::new(kernel, cluster, options.node.clone(), memory, Clock::system());
    if options.remove {
        return remove(&mut reconciler, range).await.map(Some);
    }
    let metrics =
        MetricsRecorder::start(options.listen.filter(|_| !options.once), "nothing has been read from Git yet")
            .map_err(StartError::of("the HTTP server"))?;
    let seed = fnv1a(options.node.as_str().as_bytes()) ^ u64::from(std::process::id());
    let following = TrackedRepository { poll: poll(&options.following), ..options.following.clone() };
    let (repository, news) = following.start(&folder, seed)?;
    // No other process writes this node's file.
    let publisher = following.publisher(&folder, options.signing_key.clone(), seed, Box::new(|| true))?;
    if options.once {
        begin(&mut reconciler, &repository).await?;
        let driver = RoundDriver::new(reconciler, metrics, seed);
        let mut node = Node::new(driver, repository, ReportSender::new(publisher));
        let result = node.once(news).await;
        node.reports.finish();
        return result;
    }
    let (_pushes, pushes) = Watcher::new(&options.following.source.watched())?;
    let places: Vec<PathBuf> = reconciler.cluster.watch_paths().into_iter().map(|place| place.path).collect();
    let (_manifests, manifests) = Watcher::new(&places)?;
    let hook = Webhook::start(options.webhook.clone(), options.following.branch.clone(), false)
        .map_err(StartError::of("the webhook"))?;
    let triggers = StandaloneTriggers { stop: Stop::listen()?, news, pushes, manifests, hook, kernel: watch };
    tracing::info!(node = %options.node, source = %options.following.source, "egret runs");
    let watchers = Watchers::start().map_err(StartError::of("the threads that watch gateways"))?;
    let recorder =
        recorder::start(options.nat_record, &folder).map_err(StartError::of("the thread of the NAT record"))?;
    let driver = RoundDriver::new(reconciler, metrics, seed).watching(watchers).recording(recorder);
    let page = options.ui.map(|ui| NodePage::start(ui, following, folder)).transpose();
    let page = page.map_err(StartError::of("the page's HTTP server"))?;
    Box::pin(serve_with(driver, repository, publisher, (triggers, page))).await.map(|()| None)
}

/// What wakes a standalone node's loop: normally this machine; a simulation has its own.
pub struct StandaloneTriggers<E> {
    /// Ends the loop.
    pub stop: Stop,
    /// What the repository's thread sends.
    pub news: UnboundedReceiver<RepositoryEvent>,
    /// Something in a local repository changed.
    pub pushes: Receiver<()>,
    /// A manifest changed.
    pub manifests: Receiver<()>,
    /// The forge's webhook.
    pub hook: Webhook,
    /// The kernel's events.
    pub kernel: E,
}

/// Runs the loop until it is stopped.
pub async fn serve<K: NodeKernel, E: KernelEvents>(
    driver: RoundDriver<K>,
    repository: Repository,
    publisher: Publisher,
    triggers: StandaloneTriggers<E>,
) -> Result<(), RunError> {
    serve_with(driver, repository, publisher, (triggers, None)).await
}

async fn serve_with<K: NodeKernel, E: KernelEvents>(
    mut driver: RoundDriver<K>,
    repository: Repository,
    publisher: Publisher,
    (triggers, page): (StandaloneTriggers<E>, Option<NodePage>),
) -> Result<(), RunError> {
    begin(&mut driver.reconciler, &repository).await?;
    let mut node = Node { page, ..Node::new(driver, repository, ReportSender::new(publisher)) };
    let result = node.run(triggers).await;
    node.reports.finish();
    result
}

/// Starts reading Git, from what is known of the active revision.
async fn begin<K: NodeKernel>(reconciler: &mut Reconciler<K>, repository: &Repository) -> Result<(), RunError> {
    let known = reconciler.known().await?;
    if known.lost {
        tracing::warn!(
            hint = "if a change window is closed, wait for it, or push a commit with the emergency trailer",
            "no state is left of an earlier process, whose rules are in the kernel; they stay until a commit is admitted"
        );
    }
    repository.know(reconciler.cluster.facts());
    repository.begin(known);
    Ok(())
}

/// A push to a repository on this machine is seen by inotify; polling is only the fallback.
fn poll(following: &TrackedRepository) -> Duration {
    let TrackedRepository { source, poll, .. } = following;
    if source.is_local().is_some() { (*poll).max(Duration::from_mins(1)) } else { *poll }
}

/// Removes everything of Egret's: kernel objects, and the labels that Egret wrote.
async fn remove(reconciler: &mut Reconciler, range: DatapathConfig) -> Result<Vec<Step>, RunError> {
    let steps = reconciler.remove(range).await?;
    tracing::info!(steps = steps.len(), "everything of Egret's is gone from this node");
    log_steps(&steps);
    Ok(steps)
}

/// The state of the loop.
struct Node<K> {
    driver: RoundDriver<K>,
    repository: Repository,
    reports: ReportSender,
    schedule: EffectiveSchedule,
    /// Why Git could not be read the last time, as it was logged.
    git_fault: Option<String>,
    /// The newest commit, if it waits and none is active yet.
    pending: Option<Box<PendingCommit>>,
    /// The addresses that policies have of pools.
    addresses: PoolAddresses,
    /// The first round waits for them.
    awaits_addresses: bool,
    /// The interfaces that the node reports.
    interfaces: Vec<GatewayInterface>,
    /// The same as of the last snapshot.
    interfaces_sent: Vec<GatewayInterface>,
    /// The page for people, if it is served.
    page: Option<NodePage>,
}

/// How often the publisher is asked whether it failed.
const ASKED_AGAIN: Duration = Duration::from_millis(50);

/// Whether policies ask pools for addresses, and these can be kept.
fn asks_pools(intent: &DesiredRevision) -> bool {
    intent.asked.as_ref().is_some_and(|asked| !asked.demand.is_empty()) && intent.set.config.reports
}

/// The cluster as its manifests are now, with this node's interfaces.
struct OwnSnapshot<'a, K> {
    reconciler: &'a Reconciler<K>,
    interfaces: &'a [GatewayInterface],
    sent: &'a mut Vec<GatewayInterface>,
    wanted: bool,
}

impl<K: NodeKernel> SnapshotSource for OwnSnapshot<'_, K> {
    fn interfaces_differ(&self) -> bool {
        self.interfaces != *self.sent
    }

    fn request(&mut self) {
        self.wanted = true;
    }

    fn take(&mut self) -> Option<ClusterSnapshot> {
        if !std::mem::take(&mut self.wanted) {
            return None;
        }
        self.sent.clear();
        self.sent.extend_from_slice(self.interfaces);
        let mut facts = self.reconciler.cluster.facts().clone();
        let own = gateway_interfaces::host_network(self.interfaces);
        facts.host_networks = own.map(|own| (self.reconciler.node.clone(), own)).into_iter().collect();
        Some(ClusterSnapshot {
            facts,
            taken: self.reconciler.clock.now(),
            only_own: true,
            own: Some(self.reconciler.node.clone()),
        })
    }

    fn reset(&mut self) {
        self.wanted = false;
    }
}

/// The event that woke the loop.
enum Trigger {
    News(Option<RepositoryEvent>),
    Pushed,
    Manifests,
    Kernel(Result<KernelEvent, KernelError>),
    Seen(Seen),
    /// The allocation of pools was read from the reports branch, or written.
    Allocated(Option<BranchAllocation>),
    Time,
    Scrape(ScrapeRequest),
    Page(PageRequest),
    Stop,
}

impl<K: NodeKernel> Node<K> {
    fn new(driver: RoundDriver<K>, repository: Repository, reports: ReportSender) -> Self {
        Self {
            addresses: PoolAddresses::open(&driver.reconciler.memory),
            awaits_addresses: false,
            driver,
            repository,
            reports,
            schedule: EffectiveSchedule::default(),
            git_fault: None,
            pending: None,
            interfaces: Vec::new(),
            interfaces_sent: Vec::new(),
            page: None,
        }
    }

    /// Runs one round, if anything is active.
    async fn once(&mut self, mut news: UnboundedReceiver<RepositoryEvent>) -> Result<Option<Vec<Step>>, RunError> {
        while let Some(message) = news.recv().await {
            match message {
                RepositoryEvent::Intent(intent) => {
                    self.take(*intent);
                    break;
                }
                RepositoryEvent::Unchanged => {}
                RepositoryEvent::Pending(_) => return Ok(None),
                RepositoryEvent::Fault(error) => return Err(error.into()),
            }
        }
        self.allocate_once().await;
        let Some(result) = self.driver.round(None).await else { return Ok(None) };
        let done = result?;
        self.interfaces = done.interfaces;
        self.send_report();
        Ok(Some(done.steps))
    }

    /// Waits until the reports branch has what policies ask of pools, or cannot be written: there is only one round.
    async fn allocate_once(&mut self) {
        if !self.driver.intent.as_ref().is_some_and(asks_pools) {
            return;
        }
        let mut allocations = self.reports.publisher().allocations();
        self.send(Vec::new());
        while self.reports.publisher().fault().is_none() {
            if let Ok(Ok(())) = timeout(ASKED_AGAIN, allocations.changed()).await {
                break;
            }
        }
        let branch = allocations.borrow_and_update().clone();
        if let Some(resolved) = self.addresses.learn(branch, &mut self.driver.reconciler.memory) {
            self.driver.intent = Some(resolved);
        }
    }

    async fn run(&mut self, triggers: StandaloneTriggers<impl KernelEvents>) -> Result<(), RunError> {
        let StandaloneTriggers { mut stop, mut news, mut pushes, mut manifests, mut hook, mut kernel } = triggers;
        let mut allocations = self.reports.publisher().allocations();
        loop {
            self.driver.metrics.beat();
            self.driver.metrics.reports(self.reports.publisher().fault());
            let soon = self.awaits_addresses.then(|| Instant::now() + ASKED_AGAIN);
            let wake = soon.into_iter().fold(self.driver.next_wake(), Instant::min);
            let trigger = tokio::select! {
                biased;
                () = stop.wait() => Trigger::Stop,
                message = news.recv() => Trigger::News(message),
                Some(()) = pushes.recv() => Trigger::Pushed,
                _ = hook.next_event() => Trigger::Pushed,
                Some(()) = manifests.recv() => Trigger::Manifests,
                event = kernel.next() => Trigger::Kernel(event),
                seen = watchers::changed(&mut self.driver.watchers) => Trigger::Seen(seen),
                Ok(()) = allocations.changed() => Trigger::Allocated(allocations.borrow_and_update().clone()),
                () = sleep_until(wake) => Trigger::Time,
                request = self.driver.metrics.next_scrape() => Trigger::Scrape(request),
                request = page::next(&mut self.page) => Trigger::Page(request),
            };
            if matches!(trigger, Trigger::Stop) {
                tracing::info!("egret ends; the datapath stays applied");
                return Ok(());
            }
            if let Trigger::Scrape(request) = trigger {
                self.driver.answer(request).await;
            } else if let Trigger::Page(request) = trigger {
                self.show(request).await;
            } else if self.react(trigger)? {
                self.gather(&mut manifests, &mut kernel).await?;
                self.round().await;
            }
        }
    }

    /// Takes in a trigger. Returns whether it makes a round due.
    fn react(&mut self, trigger: Trigger) -> Result<bool, RunError> {
        if let Trigger::News(Some(news)) = &trigger {
            self.driver.metrics.repository_event(news);
            if !matches!(news, RepositoryEvent::Fault(_)) {
                self.git_fault = None;
            }
        }
        match trigger {
            Trigger::News(Some(RepositoryEvent::Intent(intent))) => {
                self.pending = None;
                self.take(*intent);
                return Ok(true);
            }
            Trigger::News(Some(RepositoryEvent::Fault(error @ crate::git::Error::Empty { .. }))) => {
                tracing::info!("{error}; waiting for the first");
            }
            Trigger::News(Some(RepositoryEvent::Fault(error))) => {
                let fault = chain(&error);
                if self.git_fault.as_ref() != Some(&fault) {
                    tracing::warn!(error = fault, hint = error.hint(), "Git failed; the active revision stays applied");
                }
                self.git_fault = Some(fault);
                return Ok(false);
            }
            Trigger::News(Some(RepositoryEvent::Pending(pending))) => self.pending = Some(pending),
            Trigger::News(Some(RepositoryEvent::Unchanged)) | Trigger::Scrape(_) | Trigger::Page(_) | Trigger::Stop => {
            }
            Trigger::News(None) => {
                return Err(StartError::ended("the repository's thread").into());
            }
            Trigger::Pushed => self.repository.poll(),
            Trigger::Seen(seen) => {
                self.driver.see(seen);
                return Ok(true);
            }
            Trigger::Allocated(branch) => {
                let resolved = self.addresses.learn(branch, &mut self.driver.reconciler.memory);
                let news = resolved.is_some();
                self.driver.intent = resolved.or(self.driver.intent.take());
                return Ok(news);
            }
            Trigger::Manifests => return Ok(self.refresh()),
            Trigger::Kernel(event) => return Ok(self.driver.on_kernel_event(event?)),
            Trigger::Time => return Ok(self.on_timer()),
        }
        Ok(false)
    }

    /// Reads the manifests again. Returns whether their content changed.
    fn refresh(&mut self) -> bool {
        match self.driver.reconciler.cluster.refresh() {
            Ok(refresh) => {
                for fault in self.driver.reconciler.cluster.faults().iter().filter(|_| refresh.changed) {
                    tracing::warn!("{fault}");
                }
                self.driver.facts_read(refresh.again);
                if refresh.changed {
                    self.repository.know(self.driver.reconciler.cluster.facts());
                }
                refresh.changed
            }
            Err(error) => {
                tracing::warn!(error = chain(&error), "the facts cannot be read; those of before count");
                self.driver.facts_unreadable();
                false
            }
        }
    }

    fn on_timer(&mut self) -> bool {
        if std::mem::take(&mut self.awaits_addresses) {
            return true;
        }
        let wakeup = self.driver.wakeup();
        if wakeup == Wakeup::Wall {
            // The schedule compares everything, whether or not a change was announced.
            self.repository.poll();
        }
        match wakeup {
            Wakeup::Nothing => false,
            Wakeup::Facts => self.refresh(),
            Wakeup::Round | Wakeup::Wall => {
                self.refresh();
                true
            }
        }
    }

    fn take(&mut self, intent: DesiredRevision) {
        intent.log_diagnostics(self.driver.intent.as_ref());
        self.schedule.follow(intent.set.config.schedule.as_ref());
        self.driver.intent = Some(self.addresses.take(intent));
    }

    /// Waits for a burst of events to end, so that it becomes one round.
    async fn gather(&mut self, manifests: &mut Receiver<()>, kernel: &mut impl KernelEvents) -> Result<(), RunError> {
        let until = Instant::now() + self.driver.gather_time();
        loop {
            tokio::select! {
                biased;
                () = sleep_until(until) => return Ok(()),
                Some(()) = manifests.recv() => { self.refresh(); }
                event = kernel.next() => { self.driver.on_kernel_event(event?); }
                seen = watchers::changed(&mut self.driver.watchers) => self.driver.see(seen),
            }
        }
    }

    async fn round(&mut self) {
        // What an earlier process left in the kernel stays until it is known which addresses policies have, or that this cannot be known.
        let asks = self.driver.intent.as_ref().is_some_and(asks_pools);
        if asks && !self.addresses.known() && self.reports.publisher().fault().is_none() {
            self.awaits_addresses = true;
            return self.send(Vec::new());
        }
        let scheduled = self.schedule.next_after(self.driver.reconciler.clock.now());
        if let Some(result) = self.driver.round(scheduled).await {
            if let Ok(done) = result {
                self.interfaces = done.interfaces;
            }
            self.send_report();
        }
    }

    fn send_report(&mut self) {
        self.send(vec![self.driver.reconciler.report.clone()]);
    }

    fn send(&mut self, reports: Vec<NodeReport>) {
        let Some(intent) = &self.driver.intent else { return };
        let (reconciler, sent) = (&self.driver.reconciler, &mut self.interfaces_sent);
        let mut snapshot = OwnSnapshot { reconciler, interfaces: &self.interfaces, sent, wanted: false };
        self.reports.send(reports, intent, &mut snapshot);
    }
}
