//! The agent (`egret agent`): applies the published policies to the kernel of one node of a live cluster. It has no
//! access to Git and no secrets.
//!
//! The agent reads policies from the custom resources that the controller writes. A pod that starts on the node
//! triggers a round; no other process reacts to pod starts. While the API server is unavailable, the node keeps what
//! it last knew. Not here: what a round does (`node::round`), publication and node labels (`controller`).

mod answers;
pub mod heartbeat;
pub mod policy_cache;
mod rate_meter;
mod removal;
pub mod status_writer;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep_until};

use crate::cluster::Cluster;
use crate::cluster::live::{self, ApiClient, ApiError, Changed, ClusterWatch, WatchScope};
use crate::core::compile::RefusedParts;
use crate::core::gate::ActiveRevision;
use crate::core::gateway_interfaces::GatewayInterface;
use crate::core::host_network::KernelFeatures;
use crate::core::name::NodeName;
use crate::core::placement::handover::Serving;
use crate::core::state::net::fnv1a;
use crate::core::status::{
    ConditionStatus, NodeFault, NodeStatus, NodeStatusInput, Reason, node_status, serving, unfit,
};
use crate::git::{CommitId, CommitInfo};
use crate::kernel::watch::{KernelEvent, KernelWatch};
use crate::kernel::{Kernel, KernelError};
use crate::reconcile::agent::heartbeat::Heartbeat;
use crate::reconcile::agent::policy_cache::{CacheError, PolicyCache, PublishedHead};
use crate::reconcile::agent::status_writer::{EventNote, StatusUpdate, StatusWriter};
use crate::reconcile::fault_log::WatchLog;
use crate::reconcile::gitops::repository::DesiredRevision;
use crate::reconcile::node::kernel::{KernelEvents, NodeKernel};
use crate::reconcile::node::metrics_recorder::{MetricsRecorder, Request};
use crate::reconcile::node::recorder::{self, Recorder};
use crate::reconcile::node::round::{Reconciler, RoundError};
use crate::reconcile::node::round_driver::{RoundDriver, Wakeup};
use crate::reconcile::node::watchers::{self, Seen, Watchers};
use crate::reconcile::persistence::lock::{Lock, LockError};
use crate::reconcile::persistence::state_store::StateStore;
use crate::reconcile::process::{StartError, Stop};
use crate::telemetry::chain;

/// How long a publication may be incomplete before that is reported.
const PARTIAL: Duration = Duration::from_secs(10);

/// The options of `egret agent`, validated.
#[derive(Debug, Clone)]
pub struct AgentOptions {
    /// The node's name.
    pub node: NodeName,
    /// The state folder; each node has a folder below it.
    pub state_folder: PathBuf,
    /// Remove everything from the node, then exit.
    pub remove: bool,
    /// The address of metrics and health, if they are served.
    pub listen: Option<SocketAddr>,
    /// The namespace of the Lease that is the agent's heartbeat; none: there is no heartbeat.
    pub namespace: Option<String>,
    /// The most bytes that the NAT record may have; none: there is no record.
    pub nat_record: Option<u64>,
}

/// Why the agent exits with an error.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// Another Egret process holds the lock.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The kernel cannot be accessed.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The API server's address is unknown.
    #[error(transparent)]
    Live(#[from] ApiError),
    /// The node is clean, and its object is still in the cluster.
    #[error("the node is clean, but its EgressNode could not be deleted")]
    Left(#[source] ApiError),
    /// Something could not be removed.
    #[error(transparent)]
    Round(#[from] RoundError),
    /// A server or a signal handler could not be started.
    #[error(transparent)]
    Start(#[from] StartError),
}

impl AgentError {
    /// What the operator can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Lock(_) => Some(
                "stop the other process of this node first: `egret run` and `egret agent` exclude each other"
                    .to_owned(),
            ),
            Self::Kernel(error) => error.hint(),
            Self::Live(error) | Self::Left(error) => error.hint(),
            Self::Round(error) => error.hint(),
            Self::Start(_) => None,
        }
    }
}

/// Runs until SIGTERM or SIGINT. Both leave the datapath applied.
pub async fn run(options: AgentOptions) -> Result<(), AgentError> {
    let _lock = Lock::take()?;
    let folder = options.state_folder.join(options.node.as_str());
    let memory = StateStore::open(&folder);
    let range = memory.kept().range().unwrap_or_default();
    let kernel = Kernel::open(range).await?;
    for check in crate::kernel::doctor::blockers(range).await {
        tracing::error!(code = check.code, "{check}");
    }
    if options.remove {
        return removal::remove(kernel, range, options, memory).await;
    }
    let live = ApiClient::connect().await?;
    let seed = fnv1a(options.node.as_str().as_bytes()) ^ u64::from(std::process::id());
    let events = KernelWatch::open(&kernel)?;
    let stop = Stop::listen()?;
    let watchers = Some(Watchers::start().map_err(StartError::of("the threads that watch gateways"))?);
    let recorder =
        recorder::start(options.nat_record, &folder).map_err(StartError::of("the thread of the NAT record"))?;
    serve(options, AgentEdges { kernel, events, live, memory, stop, watchers, recorder, seed }).await
}

/// The edges of an agent: normally those of this machine; a simulation has its own.
pub struct AgentEdges<K, E> {
    /// The node's kernel.
    pub kernel: K,
    /// Its events.
    pub events: E,
    /// The API server, and the wall clock.
    pub live: ApiClient,
    /// The persisted state.
    pub memory: StateStore,
    /// Ends the agent.
    pub stop: Stop,
    /// Threads that watch gateways, addresses and connections; none in a simulation.
    pub watchers: Option<Watchers>,
    /// Writes the NAT record, if that is switched on.
    pub recorder: Option<Recorder>,
    /// For jitter: it differs between nodes.
    pub seed: u64,
}

/// Runs on these edges until it is stopped.
pub async fn serve<K: NodeKernel, E: KernelEvents>(
    options: AgentOptions,
    edges: AgentEdges<K, E>,
) -> Result<(), AgentError> {
    let AgentEdges { kernel, events, live, memory, stop, watchers, recorder, seed } = edges;
    let review = options.namespace.clone().map(|namespace| answers::review(&live, namespace, &options.node));
    let metrics = MetricsRecorder::start_answering(options.listen, "not all is known of the cluster yet", review)
        .map_err(StartError::of("the HTTP server"))?;
    metrics.api_errors(live.errors());
    let scope = WatchScope::Agent { node: options.node.clone() };
    let watching = ClusterWatch::open(&live, &scope, live::WatchOptions { seed, ..live::WatchOptions::default() });
    let cache = PolicyCache::default();
    let (cluster, clock) = (Cluster::Watched(Box::new(watching)), live.clock().clone());
    let mut reconciler = Reconciler::new(kernel, cluster, options.node.clone(), memory, clock);
    reconciler.gateway_state.serving = Some(Serving::default());
    let status_writer = StatusWriter::start(live.clone(), options.node.clone(), seed);
    tracing::info!(node = %options.node, server = live.server(), "egret runs");
    let beat = |namespace: String| Heartbeat::start(live.clone(), namespace, options.node.clone(), seed);
    let heartbeat = options.namespace.clone().map(beat);
    let driver = RoundDriver::new(reconciler, metrics, seed).recording(recorder);
    let driver = match watchers {
        Some(watchers) => driver.watching(watchers),
        None => driver,
    };
    Agent::new(driver, cache, status_writer, heartbeat).run(events, stop).await
}

/// The state of the agent's loop.
struct Agent<K> {
    driver: RoundDriver<K>,
    cache: PolicyCache,
    status_writer: StatusWriter,
    heartbeat: Option<Heartbeat>,
    /// Whether nothing is published, as far as was logged.
    unpublished: bool,
    /// Why the published policies are not applied, and since when.
    not_taken: Option<(CacheError, Instant)>,
    /// Why the last round failed.
    failed: Option<String>,
    features: KernelFeatures,
    interfaces: Vec<GatewayInterface>,
    unfit: BTreeMap<String, String>,
    refused: RefusedParts,
    /// Exits whose gateways are known to be silent.
    silent: BTreeSet<String>,
    /// Addresses whose ports are almost used up, as far as events say so.
    almost: BTreeSet<String>,
    kernel: String,
    /// The node's boot ID, as the kubelet reads it.
    boot_id: String,
    /// The status that was last reported.
    last_status: NodeStatus,
    /// Whether other nodes see this node's status, and how often a client removed it while they needed it.
    seen: bool,
    lost: u64,
    watch_log: WatchLog,
    /// Answers that are made beside the loop.
    beside: Arc<Semaphore>,
}

/// Waits until the agent is heard again after a silence.
async fn returned(heartbeat: &mut Option<Heartbeat>) {
    match heartbeat {
        Some(heartbeat) => heartbeat.returned().await,
        None => std::future::pending().await,
    }
}

/// The event that woke the loop.
enum Trigger {
    Cluster(Changed),
    Kernel(Result<KernelEvent, KernelError>),
    Seen(Seen),
    Time,
    Request(Request),
    /// The agent is heard again.
    Returned,
    Stop,
}

impl<K: NodeKernel> Agent<K> {
    fn new(
        driver: RoundDriver<K>,
        cache: PolicyCache,
        status_writer: StatusWriter,
        heartbeat: Option<Heartbeat>,
    ) -> Self {
        let of_kernel =
            |name: &str| std::fs::read_to_string(Path::new("/proc/sys/kernel").join(name)).unwrap_or_default();
        Self {
            driver,
            cache,
            status_writer,
            heartbeat,
            unpublished: false,
            not_taken: None,
            failed: None,
            features: KernelFeatures::default(),
            interfaces: Vec::new(),
            unfit: BTreeMap::new(),
            refused: RefusedParts::default(),
            silent: BTreeSet::new(),
            almost: BTreeSet::new(),
            kernel: of_kernel("osrelease").trim().to_owned(),
            boot_id: of_kernel("random/boot_id").trim().to_owned(),
            last_status: NodeStatus::default(),
            seen: false,
            lost: 0,
            watch_log: WatchLog::default(),
            beside: Arc::new(Semaphore::new(answers::BESIDE)),
        }
    }

    async fn run(&mut self, mut kernel: impl KernelEvents, mut stop: Stop) -> Result<(), AgentError> {
        loop {
            self.driver.metrics.beat();
            self.beat().await;
            if let Some(watching) = self.driver.reconciler.cluster.watching() {
                self.watch_log.note(watching);
            }
            let own = [self.partial_until(), self.heartbeat.as_ref().map(Heartbeat::due)];
            let wake = own.into_iter().flatten().fold(self.driver.next_wake(), Instant::min);
            let trigger = self.next(&mut stop, &mut kernel, wake).await;
            let due = match trigger {
                Trigger::Stop => {
                    tracing::info!("egret ends; the datapath stays applied");
                    return Ok(());
                }
                Trigger::Cluster(changed) => self.on_cluster_change(changed),
                Trigger::Kernel(event) => self.driver.on_kernel_event(event?),
                Trigger::Seen(seen) => {
                    self.driver.see(seen);
                    true
                }
                Trigger::Time => {
                    if self.not_taken.is_some() {
                        self.write_status();
                    }
                    matches!(self.driver.wakeup(), Wakeup::Round | Wakeup::Wall)
                }
                Trigger::Request(request) => {
                    match request {
                        Request::Scrape(scrape) => self.driver.answer(scrape).await,
                        Request::Question(question) => self.answer(question).await,
                    }
                    false
                }
                Trigger::Returned => {
                    self.lost += 1;
                    self.write_status();
                    false
                }
            };
            if due && self.ready_for_round() {
                self.gather(&mut kernel).await?;
                self.round().await;
            }
        }
    }

    async fn next(&mut self, stop: &mut Stop, kernel: &mut impl KernelEvents, wake: Instant) -> Trigger {
        tokio::select! {
            biased;
            () = stop.wait() => Trigger::Stop,
            changed = self.driver.reconciler.cluster.changed() => Trigger::Cluster(changed),
            event = kernel.next() => Trigger::Kernel(event),
            seen = watchers::changed(&mut self.driver.watchers) => Trigger::Seen(seen),
            () = sleep_until(wake) => Trigger::Time,
            request = self.driver.metrics.next_request() => Trigger::Request(request),
            () = returned(&mut self.heartbeat) => Trigger::Returned,
        }
    }

    /// The loop runs: so does the heartbeat.
    async fn beat(&mut self) {
        let Some(heartbeat) = &mut self.heartbeat else { return };
        let reconciler = &mut self.driver.reconciler;
        heartbeat.measure(reconciler).await;
        let node = reconciler.cluster.watching().and_then(|watching| watching.view().nodes.get(&reconciler.node));
        heartbeat.beat(node.map(|meta| meta.uid.as_str()));
    }

    /// Whether the agent knows enough to act. Until all lists are complete, a missing object may only not have
    /// arrived yet.
    fn ready_for_round(&self) -> bool {
        self.watching().is_some_and(ClusterWatch::synced) && self.driver.intent.is_some()
    }

    fn watching(&self) -> Option<&ClusterWatch> {
        self.driver.reconciler.cluster.watching()
    }

    /// Takes in a change of the cluster. Returns whether it makes a round due.
    fn on_cluster_change(&mut self, changed: Changed) -> bool {
        let Some(watching) = self.driver.reconciler.cluster.watching() else { return false };
        if !watching.synced() {
            return false;
        }
        let mut due = changed.synced || changed.facts();
        if changed.synced || changed.egress_nodes {
            let state = &mut self.driver.reconciler.gateway_state;
            let nodes = &watching.view().egress_nodes;
            let now = serving(nodes.iter().map(|(name, node)| (name, &node.status)));
            let cannot = unfit(nodes.iter().map(|(name, node)| (name, &node.status)));
            due |= state.serving.as_ref() != Some(&now) || state.unfit != cannot;
            state.serving = Some(now);
            state.unfit = cannot;
            // The status from before a restart of this agent: a restart does not change since when an address is
            // there.
            if changed.synced
                && let Some(own) = nodes.get(&self.driver.reconciler.node)
            {
                state.holds.extend(own.status.holds.iter().map(|one| (one.address, one.since)));
            }
            let seen = nodes.contains_key(&self.driver.reconciler.node);
            if std::mem::replace(&mut self.seen, seen) && !seen && self.last_status.concerns_others() {
                tracing::warn!("another client changed or deleted this node's status; it is written again");
                self.lost += 1;
                due = true;
            }
        }
        if changed.synced || changed.policies || changed.config {
            due |= self.take_over();
        }
        due
    }

    /// Takes over the published policies if they are complete. Returns whether the desired revision changed.
    fn take_over(&mut self) -> bool {
        let Some(view) = self.watching().map(ClusterWatch::view) else { return false };
        let specs: Vec<(String, Value)> =
            view.policies.iter().map(|(name, policy)| (name.clone(), policy.spec.clone())).collect();
        let head = match view.config.as_ref().map(|config| &config.spec) {
            None => {
                // Nothing was ever published, or a user deleted all of it. Neither is a reason to let packets out.
                if !std::mem::replace(&mut self.unpublished, true) {
                    tracing::info!("nothing is published in the cluster; the active revision stays applied");
                }
                return false;
            }
            Some(Err(why)) => return self.refuse(CacheError::Unreadable(why.clone())),
            Some(Ok(head)) => PublishedHead {
                revision: head.revision.clone(),
                summary: head.summary.clone(),
                count: head.policies.count as usize,
                digest: head.policies.digest.clone(),
                config: head.config.clone(),
            },
        };
        self.unpublished = false;
        self.cache.update(specs.iter().map(|(name, spec)| (name, spec)));
        match self.cache.take(&head) {
            Ok(set) => {
                let Some(id) = CommitId::parse(&head.revision) else {
                    return self.refuse(CacheError::Unreadable(format!("`{}` is no commit", head.revision)));
                };
                let commit = CommitInfo::reported(id, head.summary);
                let refused = self.not_taken.take().is_some();
                let same =
                    self.driver.intent.as_ref().is_some_and(|intent| intent.commit == commit && intent.set == set);
                let active = ActiveRevision {
                    commit: Some(id.to_string()),
                    signatures: set.config.signatures.clone(),
                    windows: Some(set.config.change_windows.clone()),
                    ..ActiveRevision::default()
                };
                self.driver.intent = Some(DesiredRevision {
                    asked: None,
                    set,
                    commit,
                    branch: String::new(),
                    diagnostics: Vec::new(),
                    rejected: Vec::new(),
                    active,
                    predecessors: Arc::default(),
                    fetched: true,
                });
                // The obstacle is gone and nothing else changed: only the status changes.
                if same && refused {
                    self.write_status();
                }
                !same
            }
            Err(why) => self.refuse(why),
        }
    }

    fn refuse(&mut self, why: CacheError) -> bool {
        let before = self.not_taken.take();
        if before.as_ref().map(|(before, _)| before) != Some(&why) {
            match &why {
                // Watches usually see a publication while the controller is still writing it.
                CacheError::Partial { .. } => tracing::debug!("{why}; the active revision stays applied"),
                CacheError::Unreadable(_) => {
                    tracing::warn!("{why}; the active revision stays applied");
                }
            }
        }
        let partial = |why: &CacheError| matches!(why, CacheError::Partial { .. });
        let same = |(before, _): &(CacheError, Instant)| partial(before) == partial(&why);
        let since = before.filter(same).map_or_else(Instant::now, |(_, since)| since);
        let is_partial = partial(&why);
        self.not_taken = Some((why, since));
        if !is_partial {
            self.write_status();
        }
        false
    }

    /// Why the published policies are not applied. That a publication is still being written is no reason until it
    /// lasts: agents see the middle of each, and reporting it would be two writes of every node for every push.
    fn lasting_obstacle(&self) -> Option<&CacheError> {
        let (why, since) = self.not_taken.as_ref()?;
        let lasts = !matches!(why, CacheError::Partial { .. }) || since.elapsed() >= PARTIAL;
        lasts.then_some(why)
    }

    /// When an incomplete publication is to be reported.
    fn partial_until(&self) -> Option<Instant> {
        let (_, since) = self.not_taken.as_ref()?;
        Some(*since + PARTIAL).filter(|until| *until > Instant::now())
    }

    /// Waits for a burst of events to end, so that it becomes one round.
    async fn gather(&mut self, kernel: &mut impl KernelEvents) -> Result<(), AgentError> {
        let until = Instant::now() + self.driver.gather_time();
        loop {
            tokio::select! {
                biased;
                () = sleep_until(until) => return Ok(()),
                changed = self.driver.reconciler.cluster.changed() => { self.on_cluster_change(changed); }
                event = kernel.next() => { self.driver.on_kernel_event(event?); }
                seen = watchers::changed(&mut self.driver.watchers) => self.driver.see(seen),
            }
        }
    }

    async fn round(&mut self) {
        match self.driver.round(None).await {
            None => return,
            Some(Ok(done)) => {
                if done.drifted > 0 {
                    self.note_drift(done.drifted);
                }
                self.failed = None;
                self.features = done.features;
                self.interfaces = done.interfaces;
                self.unfit = done.unfit;
                for (exit, message) in &done.silent {
                    if !self.silent.contains(exit) {
                        self.note(Reason::GatewaySilent, format!("{exit}: {message}"));
                    }
                }
                self.silent = done.silent.into_keys().collect();
                let almost = self.driver.reconciler.ports.almost();
                for message in almost.difference(&self.almost) {
                    self.note(Reason::PortsAlmostUsedUp, message.clone());
                }
                self.almost = almost;
                if self.refused != done.refused {
                    for (exit, error) in
                        done.refused.exits.iter().filter(|(exit, _)| !self.refused.exits.contains_key(*exit))
                    {
                        self.note(
                            Reason::KernelRefused,
                            format!("{exit} is not applied here: the kernel refuses to {error}"),
                        );
                    }
                    self.refused = done.refused;
                }
            }
            Some(Err(error)) => {
                let why = chain(&error);
                if self.failed.as_ref() != Some(&why) {
                    self.note(Reason::ReconciliationFailed, why.clone());
                }
                self.failed = Some(why);
            }
        }
        self.write_status();
    }

    /// The drift that was just corrected is at the front of the report's corrected drift.
    fn note_drift(&self, objects: usize) {
        let texts = self.driver.reconciler.report.corrected.iter().take(objects).map(|record| {
            let by = record.by.as_ref().map_or("another process", |by| by.guess.as_str());
            format!("{} drifted ({:?}, by {by}) and was corrected", record.object, record.class)
        });
        for text in texts.collect::<std::collections::BTreeSet<_>>() {
            self.note(Reason::DriftCorrected, text);
        }
    }

    fn note(&self, reason: Reason, text: String) {
        let Some(view) = self.watching().map(ClusterWatch::view) else { return };
        if let Some(meta) = view.nodes.get(&self.driver.reconciler.node) {
            self.status_writer.note(EventNote { uid: meta.uid.clone(), reason, text });
        }
    }

    /// Reports the node's status if it differs from the last report.
    fn write_status(&mut self) {
        let Some(watching) = self.driver.reconciler.cluster.watching() else { return };
        let known = &watching.view().nodes;
        let Some(uid) = known.get(&self.driver.reconciler.node).map(|meta| meta.uid.clone()) else { return };
        let nodes = known.len();
        let intent = self.driver.intent.as_ref();
        let obstacle = self.lasting_obstacle();
        let refused = obstacle.map(ToString::to_string);
        let fault = |status, reason, message| NodeFault { status, reason, message };
        let fault = match (&self.failed, refused.as_deref().zip(obstacle)) {
            (Some(failed), _) => Some(fault(ConditionStatus::False, Reason::ReconciliationFailed, failed.as_str())),
            (None, Some((refused, why))) => Some(match why {
                CacheError::Partial { .. } => fault(ConditionStatus::Unknown, Reason::Pending, refused),
                CacheError::Unreadable(_) => fault(ConditionStatus::False, Reason::Invalid, refused),
            }),
            (None, None) => None,
        };
        let revision = intent.map(|intent| intent.commit.id.to_string()).unwrap_or_default();
        let holds = self.driver.reconciler.gateway_state.holds.clone();
        let facts = NodeStatusInput {
            revision: &revision,
            boot_id: &self.boot_id,
            compiled: self.driver.reconciler.applied(),
            report: &self.driver.reconciler.report,
            features: self.features,
            holds: &holds,
            interfaces: &self.interfaces,
            range: self.driver.reconciler.memory.kept().range(),
            unfit: &self.unfit,
            kernel: &self.kernel,
            fault,
        };
        let status = node_status(facts, &self.last_status, self.driver.reconciler.clock.now());
        self.last_status = status.clone();
        self.status_writer.write(StatusUpdate { status, uid, lost: self.lost }, nodes);
    }
}
