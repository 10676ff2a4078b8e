//! The agent: one node of a cluster, without Git and without secrets. It is told what is in force, and looks after its own node alone.
//!
//! A pod that starts is a trigger here and nowhere else. While the API server is away the node goes on with what it knows. Deliberately
//! absent: what a round does (`round`), who publishes (`controller`), and labels of nodes, which are the controller's.

pub mod policy_cache;
pub mod status_writer;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tokio::time::{Instant, sleep_until};

use crate::cluster::Cluster;
use crate::cluster::live::{self, ApiClient, ApiError, Changed, ClusterWatch, WatchScope};
use crate::core::compile::RefusedParts;
use crate::core::evaluation::GatewayState;
use crate::core::facts::Facts;
use crate::core::gate::ActiveRevision;
use crate::core::gateway_interfaces::GatewayInterface;
use crate::core::host_network::KernelFeatures;
use crate::core::name::NodeName;
use crate::core::state::net::fnv1a;
use crate::core::status::{
    ConditionStatus, NodeFault, NodeStatus, NodeStatusInput, Reason, node_status, serving, unfit,
};
use crate::git::{CommitId, CommitInfo};
use crate::kernel::watch::{KernelEvent, KernelWatch};
use crate::kernel::{Kernel, KernelError};
use crate::reconcile::agent::policy_cache::{CacheError, PolicyCache, PublishedHead};
use crate::reconcile::agent::status_writer::{EventNote, StatusUpdate, StatusWriter};
use crate::reconcile::gitops::repository::DesiredRevision;
use crate::reconcile::node::metrics_recorder::MetricsRecorder;
use crate::reconcile::node::round::{Reconciler, RoundError};
use crate::reconcile::node::round_driver::{RoundDriver, Wakeup, log_steps};
use crate::reconcile::now;
use crate::reconcile::persistence::lock::{Lock, LockError};
use crate::reconcile::persistence::state_store::{StateStore, StateStoreError};
use crate::reconcile::process::{StartError, Stop};
use crate::serve::ScrapeRequest;
use crate::telemetry::chain;

/// What `egret agent` was asked for, checked.
#[derive(Debug, Clone)]
pub struct AgentOptions {
    /// This node.
    pub node: NodeName,
    /// Where memory is; a folder for the node below it.
    pub state_folder: PathBuf,
    /// Take everything away, and end.
    pub remove: bool,
    /// Where metrics and health are served, if anywhere.
    pub listen: Option<SocketAddr>,
}

/// Why the process ends with an error.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// There is another one.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// Memory is out of reach.
    #[error(transparent)]
    Memory(#[from] StateStoreError),
    /// The kernel cannot be spoken to.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// It is not known where the API server is, or what was to be taken away there is not.
    #[error(transparent)]
    Live(#[from] ApiError),
    /// Something could not be taken away.
    #[error(transparent)]
    Round(#[from] RoundError),
    /// A server or a signal handler could not be had.
    #[error(transparent)]
    Start(#[from] StartError),
}

impl AgentError {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Lock(_) => Some(
                "stop the other process of this node first: `egret run` and `egret agent` exclude each other"
                    .to_owned(),
            ),
            Self::Kernel(error) => error.hint(),
            Self::Live(error) => error.hint(),
            Self::Round(error) => error.hint(),
            Self::Memory(_) | Self::Start(_) => None,
        }
    }
}

/// Runs until SIGTERM or SIGINT, which leave the datapath in force.
pub async fn run(options: AgentOptions) -> Result<(), AgentError> {
    let _lock = Lock::take()?;
    let memory = StateStore::open(&options.state_folder.join(options.node.as_str()))?;
    let range = memory.kept().range().unwrap_or_default();
    let kernel = Kernel::open(range).await?;
    for check in crate::kernel::doctor::blockers(range).await {
        tracing::error!(code = check.code, "{check}");
    }
    let live = ApiClient::connect().await?;
    let seed = fnv1a(options.node.as_str().as_bytes()) ^ u64::from(std::process::id());
    if options.remove {
        let mut engine = Reconciler::new(kernel, Cluster::Fixed(Facts::default()), options.node.clone(), memory);
        let steps = engine.remove(range).await?;
        tracing::info!(steps = steps.len(), "everything of Egret's is gone from this node");
        log_steps(&steps);
        live.delete_node(&options.node).await?;
        return Ok(());
    }
    let telling = MetricsRecorder::start(options.listen, "not all is known of the cluster yet")
        .map_err(StartError::of("the HTTP server"))?;
    telling.api_errors(live.errors());
    let events = KernelWatch::open(kernel.ports())?;
    let scope = WatchScope::Agent { node: options.node.clone() };
    let watching = ClusterWatch::open(&live, &scope, live::WatchOptions { seed, ..live::WatchOptions::default() });
    let shelf = PolicyCache::new(memory.kept().fence);
    let handover = memory.ways().clone();
    let mut engine = Reconciler::new(kernel, Cluster::Watched(Box::new(watching)), options.node.clone(), memory);
    engine.told = Some(GatewayState { handover, ..GatewayState::default() });
    let teller = StatusWriter::start(live.clone(), options.node.clone(), seed);
    tracing::info!(node = %options.node, server = live.server(), "egret runs");
    Agent::new(RoundDriver::new(engine, telling, seed), shelf, teller).forever(events).await
}

/// What the loop holds.
struct Agent {
    keeper: RoundDriver,
    shelf: PolicyCache,
    teller: StatusWriter,
    /// Why what is published is not in force.
    not_taken: Option<CacheError>,
    /// Why the last round failed.
    failed: Option<String>,
    features: KernelFeatures,
    interfaces: Vec<GatewayInterface>,
    unfit: BTreeMap<String, String>,
    refused: RefusedParts,
    kernel: String,
    /// Which boot of the node this is; as the kubelet reads it.
    boot_id: String,
    /// What was last said.
    said: NodeStatus,
    /// Whether others see this node as a gateway, and how often somebody took that away while it was one.
    seen: bool,
    lost: u64,
}

/// What woke the loop.
enum Trigger {
    Cluster(Changed),
    Kernel(Result<KernelEvent, KernelError>),
    Time,
    Asked(ScrapeRequest),
    Stop,
}

impl Agent {
    fn new(keeper: RoundDriver, shelf: PolicyCache, teller: StatusWriter) -> Self {
        let of_kernel =
            |name: &str| std::fs::read_to_string(Path::new("/proc/sys/kernel").join(name)).unwrap_or_default();
        Self {
            keeper,
            shelf,
            teller,
            not_taken: None,
            failed: None,
            features: KernelFeatures::default(),
            interfaces: Vec::new(),
            unfit: BTreeMap::new(),
            refused: RefusedParts::default(),
            kernel: of_kernel("osrelease").trim().to_owned(),
            boot_id: of_kernel("random/boot_id").trim().to_owned(),
            said: NodeStatus::default(),
            seen: false,
            lost: 0,
        }
    }

    async fn forever(&mut self, mut kernel: KernelWatch) -> Result<(), AgentError> {
        let mut stop = Stop::listen()?;
        loop {
            self.keeper.telling.beat();
            let wake = self.keeper.next_wake();
            let trigger = self.next(&mut stop, &mut kernel, wake).await;
            let due = match trigger {
                Trigger::Stop => {
                    tracing::info!("egret ends; the datapath stays in force");
                    return Ok(());
                }
                Trigger::Cluster(changed) => self.heard(changed),
                Trigger::Kernel(event) => self.keeper.happened(event?),
                Trigger::Time => matches!(self.keeper.time_came(), Wakeup::Round | Wakeup::Wall),
                Trigger::Asked(question) => {
                    self.keeper.answer(question).await;
                    false
                }
            };
            if due && self.is_told() {
                self.gather(&mut kernel).await?;
                self.round().await;
            }
        }
    }

    async fn next(&mut self, stop: &mut Stop, kernel: &mut KernelWatch, wake: Instant) -> Trigger {
        tokio::select! {
            biased;
            () = stop.asked() => Trigger::Stop,
            changed = self.keeper.engine.cluster.changed() => Trigger::Cluster(changed),
            event = kernel.next() => Trigger::Kernel(event),
            () = sleep_until(wake) => Trigger::Time,
            question = self.keeper.telling.asked() => Trigger::Asked(question),
        }
    }

    /// Whether enough is known to do anything: until all lists are in, what is missing may only not have come yet.
    fn is_told(&self) -> bool {
        self.watching().is_some_and(ClusterWatch::synced) && self.keeper.intent.is_some()
    }

    fn watching(&self) -> Option<&ClusterWatch> {
        self.keeper.engine.cluster.watching()
    }

    /// Takes news of the cluster in; tells whether a round is due because of them.
    fn heard(&mut self, changed: Changed) -> bool {
        let Some(watching) = self.keeper.engine.cluster.watching() else { return false };
        if changed.faults {
            for (what, fault) in watching.faults() {
                tracing::warn!(what, hint = fault.hint, "{}; what is known of it stays", fault.message);
            }
        }
        if !watching.synced() {
            return false;
        }
        let mut due = changed.synced || changed.facts();
        if (changed.synced || changed.egress_nodes)
            && let Some(told) = &mut self.keeper.engine.told
        {
            let nodes = &watching.view().egress_nodes;
            let now = serving(nodes.iter().map(|(name, node)| (name, &node.status)));
            let cannot = unfit(nodes.iter().map(|(name, node)| (name, &node.status)));
            due |= told.serving != now || told.unfit != cannot;
            told.serving = now;
            told.unfit = cannot;
            // What this agent said before it was started anew: an address is not here since now because of that.
            if changed.synced
                && let Some(own) = nodes.get(&self.keeper.engine.node)
            {
                told.holds.extend(own.status.holds.iter().map(|one| (one.address, one.since)));
            }
            let seen = nodes.contains_key(&self.keeper.engine.node);
            if std::mem::replace(&mut self.seen, seen) && !seen && self.said.concerns_others() {
                tracing::warn!("somebody took away what was said of this node; it is said again");
                self.lost += 1;
                due = true;
            }
        }
        if changed.synced || changed.policies || changed.config {
            due |= self.take_over();
        }
        due
    }

    /// Takes over what is published, if it is whole. Tells whether something else is asked for now.
    fn take_over(&mut self) -> bool {
        let Some(view) = self.watching().map(ClusterWatch::view) else { return false };
        let specs: Vec<(String, Value)> =
            view.policies.iter().map(|(name, policy)| (name.clone(), policy.spec.clone())).collect();
        let head = match view.config.as_ref().map(|config| &config.spec) {
            None => {
                // Nothing was ever published, or it was all taken away by hand: neither is a reason to let packets out.
                tracing::info!("nothing is published in the cluster; what is in force stays");
                return false;
            }
            Some(Err(why)) => return self.refuse(CacheError::Unreadable(why.clone())),
            Some(Ok(head)) => PublishedHead {
                revision: head.revision.clone(),
                summary: head.summary.clone(),
                fence: head.fence,
                count: head.policies.count as usize,
                digest: head.policies.digest.clone(),
                config: head.config.clone(),
            },
        };
        self.shelf.update(specs.iter().map(|(name, spec)| (name, spec)));
        match self.shelf.take(&head) {
            Ok(set) => {
                let Some(id) = CommitId::parse(&head.revision) else {
                    return self.refuse(CacheError::Unreadable(format!("`{}` is no commit", head.revision)));
                };
                let commit = CommitInfo::reported(id, head.summary);
                let refused = self.not_taken.take().is_some();
                let same =
                    self.keeper.intent.as_ref().is_some_and(|intent| intent.commit == commit && intent.set == set);
                let active = ActiveRevision {
                    commit: Some(id.to_string()),
                    signatures: set.config.signatures.clone(),
                    windows: Some(set.config.change_windows.clone()),
                    ..ActiveRevision::default()
                };
                self.keeper.intent = Some(DesiredRevision {
                    set,
                    commit,
                    branch: String::new(),
                    diagnostics: Vec::new(),
                    rejected: Vec::new(),
                    active,
                    fetched: true,
                });
                // What was in the way is gone and nothing is to be done: only that is to be said.
                if same && refused {
                    self.say();
                }
                !same
            }
            Err(why) => self.refuse(why),
        }
    }

    fn refuse(&mut self, why: CacheError) -> bool {
        if self.not_taken.as_ref() != Some(&why) {
            match &why {
                // A publication in the making is seen from the middle as a rule.
                CacheError::Partial { .. } => tracing::debug!("{why}; what is in force stays"),
                CacheError::Stale { .. } | CacheError::Unreadable(_) => tracing::warn!("{why}; what is in force stays"),
            }
        }
        self.not_taken = Some(why);
        self.say();
        false
    }

    /// Lets a burst end, so that it is one round.
    async fn gather(&mut self, kernel: &mut KernelWatch) -> Result<(), AgentError> {
        let until = Instant::now() + self.keeper.gathering();
        loop {
            tokio::select! {
                () = sleep_until(until) => return Ok(()),
                changed = self.keeper.engine.cluster.changed() => { self.heard(changed); }
                event = kernel.next() => { self.keeper.happened(event?); }
            }
        }
    }

    async fn round(&mut self) {
        match self.keeper.round(None).await {
            None => return,
            Some(Ok(done)) => {
                if done.drifted > 0 {
                    self.note_drift(done.drifted);
                }
                self.failed = None;
                self.features = done.features;
                self.interfaces = done.interfaces;
                self.unfit = done.unfit;
                if self.refused != done.refused {
                    for (exit, words) in
                        done.refused.exits.iter().filter(|(exit, _)| !self.refused.exits.contains_key(*exit))
                    {
                        self.note(
                            Reason::KernelRefused,
                            format!("{exit} is not applied here: the kernel refuses to {words}"),
                        );
                    }
                    self.refused = done.refused;
                }
                let fence = self.shelf.fence();
                if let Err(error) = self.keeper.engine.memory.keep(|kept| kept.fence = fence) {
                    tracing::warn!(error = chain(&error), "the leader's generation is not remembered over a restart");
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
        self.say();
    }

    /// The drift that was just put right stands first among what was.
    fn note_drift(&self, objects: usize) {
        let texts = self.keeper.engine.report.corrected.iter().take(objects).map(|record| {
            let by = record.by.as_ref().map_or("another process", |by| by.guess.as_str());
            format!("{} drifted ({:?}, by {by}) and was corrected", record.object, record.class)
        });
        for text in texts.collect::<std::collections::BTreeSet<_>>() {
            self.note(Reason::DriftCorrected, text);
        }
    }

    fn note(&self, reason: Reason, text: String) {
        let Some(view) = self.watching().map(ClusterWatch::view) else { return };
        if let Some(meta) = view.nodes.get(&self.keeper.engine.node) {
            self.teller.note(EventNote { uid: meta.uid.clone(), reason, text });
        }
    }

    /// Says how the node stands, if that is different from what was said.
    fn say(&mut self) {
        let Some(watching) = self.keeper.engine.cluster.watching() else { return };
        let Some(uid) = watching.view().nodes.get(&self.keeper.engine.node).map(|meta| meta.uid.clone()) else {
            return;
        };
        let intent = self.keeper.intent.as_ref();
        let refused = self.not_taken.as_ref().map(ToString::to_string);
        let fault = |status, reason, message| NodeFault { status, reason, message };
        let fault = match (&self.failed, refused.as_deref().zip(self.not_taken.as_ref())) {
            (Some(failed), _) => Some(fault(ConditionStatus::False, Reason::ReconciliationFailed, failed.as_str())),
            (None, Some((refused, why))) => Some(match why {
                CacheError::Partial { .. } => fault(ConditionStatus::Unknown, Reason::Pending, refused),
                CacheError::Stale { .. } => fault(ConditionStatus::False, Reason::StaleFencingToken, refused),
                CacheError::Unreadable(_) => fault(ConditionStatus::False, Reason::Invalid, refused),
            }),
            (None, None) => None,
        };
        let revision = intent.map(|intent| intent.commit.id.to_string()).unwrap_or_default();
        let holds = self.keeper.engine.told.as_ref().map(|told| told.holds.clone()).unwrap_or_default();
        let facts = NodeStatusInput {
            revision: &revision,
            fence: self.shelf.fence(),
            boot_id: &self.boot_id,
            compiled: self.keeper.engine.in_force(),
            report: &self.keeper.engine.report,
            features: self.features,
            holds: &holds,
            interfaces: &self.interfaces,
            range: self.keeper.engine.memory.kept().range(),
            unfit: &self.unfit,
            kernel: &self.kernel,
            fault,
        };
        let status = node_status(facts, &self.said, now());
        self.said = status.clone();
        self.teller.say(StatusUpdate { status, uid, lost: self.lost });
    }
}
