//! The controller (`egret controller`): publishes the policies of the Git repository to the cluster, labels nodes,
//! collects agents' statuses and commits drift reports. It is the only process with Git credentials.
//!
//! Two replicas run and one leads, by a Lease. Both read Git, so that a new leader can act at once. Not here: the
//! kernel and the path of packets. Agents handle both, also without a controller (`agent`).

mod assertions;
mod events;
mod heartbeats;
mod labels;
mod options;
mod page;
mod pass;
mod pass_error;
mod pod_list;
mod removal;
mod sent;
mod silence;
mod snapshotter;
mod taints;
mod triggers;

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use tokio::sync::mpsc::{Receiver, UnboundedReceiver};
use tokio::time::{Instant, timeout};

use self::assertions::AssertionMonitor;
use self::events::admission_news;
use self::heartbeats::HeartbeatMonitor;
use self::labels::LabelReconciler;
pub use self::options::{ControllerError, ControllerOptions};
use self::page::ControllerPage;
use self::pass::{Pass, waiting_as_published};
use self::pass_error::PassError;
pub use self::removal::{Removal, RemovalError, remove};
use self::sent::SentPolicies;
use self::silence::SilentAgents;
use self::snapshotter::{Snapshotter, ViewSnapshots};
use self::taints::TaintRemover;
use self::triggers::{Sources, pulls_of};
use crate::backoff::Backoff;
use crate::cluster::live::{self, ApiClient, ClusterWatch, Lease, Recorder, View, WatchScope};
use crate::core::gate::ActiveRevision;
use crate::core::policy::published::read_config;
use crate::core::report::history::{NodeReport, Rejected};
use crate::core::state::net::fnv1a;
use crate::core::status::head_status_without_git;
use crate::git::CommitId;

use crate::reconcile::fault_log::WatchLog;
use crate::reconcile::gitops::pool_addresses::PoolAddresses;
use crate::reconcile::gitops::publisher::Publisher;
use crate::reconcile::gitops::pulls::PullPreviews;
use crate::reconcile::gitops::report_sender::ReportSender;
use crate::reconcile::gitops::repository::{DesiredRevision, Repository, RepositoryEvent};
use crate::reconcile::gitops::webhook::Webhook;
use crate::reconcile::leadership::Leadership;
use crate::reconcile::node::metrics_recorder::api_error_counts;
use crate::reconcile::node::schedule::EffectiveSchedule;
use crate::reconcile::persistence::state_store::StateStore;
use crate::reconcile::process::{StartError, Stop};
use crate::serve::{self, Health, Metrics};
use crate::telemetry::chain;
use crate::watch::Watcher;

/// How long events are gathered before a pass: statuses change with every node, in bursts.
const GATHER: Duration = Duration::from_millis(20);
/// The longest delay until the status shows whether reports are committed.
const SETTLES: Duration = Duration::from_secs(5);
/// How long agents may take to apply a publication before statuses report that they are waited for: usually they need
/// a fraction of a second, and each such status would be one more write of every policy.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long the Leases are read for, to see whether an agent is silent.
const LEASES_READ: Duration = Duration::from_secs(5);
/// How often everything is compared again. A write whose response was lost is noticed at the latest then.
const RESYNC: Duration = Duration::from_mins(1);

/// Runs until SIGTERM or SIGINT.
pub async fn run(options: ControllerOptions) -> Result<(), ControllerError> {
    let memory = StateStore::open(&options.state_folder);
    let (health, metrics) = (Health::new(), Metrics::new());
    let serving = options.listen.map(|listen| serve::start(listen, health.clone(), metrics.clone())).transpose();
    let _server = serving.map_err(StartError::of("the HTTP server"))?;
    health.set_ready(Err("not all is known of the cluster yet".to_owned()));
    metrics.git_fetched(SystemTime::now());
    let live = ApiClient::connect().await?;
    let errors = live.errors();
    metrics.api_errors(move || api_error_counts(&errors));
    let seed = fnv1a(options.identity.as_bytes()) ^ u64::from(std::process::id());
    let (repository, news) = options.following.start(&options.state_folder, seed)?;
    let lease = Lease::new(live.clone(), &options.namespace, &options.lease, &options.identity, options.timing);
    let leading = Leadership::start(lease, options.timing);
    let (following, key) = (&options.following, options.signing_key.clone());
    let publisher = following.publisher(&options.state_folder, key, seed, Box::new(leading.is_leader()))?;
    let pulls = PullPreviews::start(pulls_of(&options, &metrics, seed), Box::new(leading.is_leader()))
        .map_err(StartError::of("the thread for pull requests"))?;
    let (_watcher, pushes) = Watcher::new(&options.following.source.watched())?;
    let hook = Webhook::start(options.webhook.clone(), options.following.branch.clone(), options.previews.is_some())
        .map_err(StartError::of("the webhook"))?;
    let stop = Stop::listen()?;
    let edges = ControllerEdges { live, leading, repository, news, publisher, pulls, memory, stop, pushes, hook, seed };
    let page = ControllerPage::start(&options).map_err(StartError::of("the page's HTTP server"))?;
    Box::pin(serve_with(options, edges, (health, metrics), page)).await
}

/// The edges of a controller: normally those of this machine; a simulation has its own.
pub struct ControllerEdges {
    /// The API server, and the wall clock.
    pub live: ApiClient,
    /// The candidacy for the Lease.
    pub leading: Leadership,
    /// Reads the policy repository.
    pub repository: Repository,
    /// What it sends.
    pub news: UnboundedReceiver<RepositoryEvent>,
    /// Writes reports, while `leading` leads.
    pub publisher: Publisher,
    /// Previews pull requests, if that is enabled.
    pub pulls: PullPreviews,
    /// The persisted state.
    pub memory: StateStore,
    /// Ends the controller.
    pub stop: Stop,
    /// Something in a local repository changed.
    pub pushes: Receiver<()>,
    /// The forge's webhook.
    pub hook: Webhook,
    /// For jitter: it differs between replicas.
    pub seed: u64,
}

/// Runs on these edges until it is stopped.
pub async fn serve(options: ControllerOptions, edges: ControllerEdges) -> Result<(), ControllerError> {
    Box::pin(serve_with(options, edges, (Health::new(), Metrics::new()), None)).await
}

async fn serve_with(
    options: ControllerOptions,
    edges: ControllerEdges,
    (health, metrics): (Health, Metrics),
    page: Option<ControllerPage>,
) -> Result<(), ControllerError> {
    let ControllerEdges { live, leading, repository, news, publisher, pulls, memory, stop, pushes, hook, seed } = edges;
    let namespace = Some(options.namespace.clone());
    let scope = WatchScope::Controller { pools: options.pod_networks, heartbeats: namespace };
    let watching = ClusterWatch::open(&live, &scope, live::WatchOptions { seed, ..live::WatchOptions::default() });
    let controller = Controller {
        health,
        metrics,
        leading,
        pulls,
        reports: Vec::new(),
        recorder: live.recorder("egret.dev/controller", &options.identity),
        watching,
        repository,
        sender: ReportSender::new(publisher),
        addresses: PoolAddresses::open(&memory),
        memory,
        intent: None,
        git_fault: None,
        labels: LabelReconciler::default(),
        taints: TaintRemover::new(options.startup_taints),
        heartbeats: HeartbeatMonitor::default(),
        silent: SilentAgents::default(),
        snapshotter: Snapshotter::default(),
        assertions: AssertionMonitor::default(),
        schedule: EffectiveSchedule::default(),
        backoff: Backoff::new(seed),
        due: None,
        scheduled: None,
        published_at: None,
        retry_at: None,
        last_fence: None,
        claimed: None,
        published_before: BTreeSet::new(),
        sent: SentPolicies::default(),
        recorded_rejected: BTreeSet::new(),
        reading: false,
        followed: None,
        pushed: None,
        watch_log: WatchLog::default(),
        page,
        live,
        options,
    };
    let allocations = controller.sender.publisher().allocations();
    Box::pin(controller.run(Sources { stop, news, pushes, hook, allocations })).await
}

/// The state of the controller's loop.
struct Controller {
    options: ControllerOptions,
    live: ApiClient,
    watching: ClusterWatch,
    leading: Leadership,
    repository: Repository,
    sender: ReportSender,
    pulls: PullPreviews,
    recorder: Recorder,
    health: Health,
    metrics: Metrics,
    memory: StateStore,
    intent: Option<DesiredRevision>,
    /// The addresses that policies have of pools.
    addresses: PoolAddresses,
    git_fault: Option<String>,
    labels: LabelReconciler,
    taints: TaintRemover,
    heartbeats: HeartbeatMonitor,
    /// The agents that are not heard any more.
    silent: SilentAgents,
    /// The nodes' reports as of the last pass.
    reports: Vec<NodeReport>,
    snapshotter: Snapshotter,
    assertions: AssertionMonitor,
    schedule: EffectiveSchedule,
    backoff: Backoff,
    /// When the next pass is due without an event.
    due: Option<Instant>,
    /// When egret.yaml's schedule wants everything compared, Git included.
    scheduled: Option<Timestamp>,
    /// When this process last published something.
    published_at: Option<Instant>,
    /// The last pass failed: until then, no change of the cluster causes another one.
    retry_at: Option<Instant>,
    /// The fencing token of the last pass.
    last_fence: Option<i64>,
    /// The fencing token that the head was claimed with.
    claimed: Option<i64>,
    /// Whether Git is being read. Reading starts once the published commit is known, because that one must not be
    /// taken back.
    reading: bool,
    /// The published commit that was last handled.
    followed: Option<CommitId>,
    /// The last push that another controller announced.
    pushed: Option<String>,
    /// The policies that were published when the last pass ended and the cluster had answered.
    published_before: BTreeSet<String>,
    sent: SentPolicies,
    /// Rejected documents for which an event was already recorded.
    recorded_rejected: BTreeSet<Rejected>,
    watch_log: WatchLog,
    /// The page for people, if it is served.
    page: Option<ControllerPage>,
}

impl Controller {
    /// Does what is due: one pass, if this process leads and knows enough.
    async fn turn(&mut self) {
        self.watch_log.note(&self.watching);
        self.observe_heartbeats();
        if let Some(fence) = greatest_fence(self.watching.view()) {
            self.leading.seen_fence(fence);
        }
        let fence = self.leading.fence();
        if fence.is_some() {
            self.metrics.leads();
        } else {
            self.metrics.follows();
        }
        if fence != self.last_fence {
            self.on_role(fence);
        }
        if !self.watching.synced() {
            return;
        }
        self.health.set_ready(Ok(()));
        self.follow();
        if fence.is_none() {
            return;
        }
        self.confirm_silence().await;
        if let Err(error) = self.report_silence().await {
            tracing::debug!(error = chain(&error), "that an agent is silent is not written");
        }
        self.untaint().await;
        if self.may_replace_published() {
            self.reconcile().await;
        } else {
            self.report_git().await;
        }
    }

    /// Another process led meanwhile, or does now: what this one remembers of its writes may not hold any more.
    fn on_role(&mut self, fence: Option<i64>) {
        // The other may have corrected what this process remembers as contested.
        self.labels.forget();
        self.published_before.clear();
        self.sent = SentPolicies::default();
        // It may have allocated addresses of pools, too.
        self.intent = self.addresses.outdated().or(self.intent.take());
        // It has also written newer reports than those still queued here.
        self.sender.stop();
        self.snapshotter = Snapshotter::default();
        self.assertions = AssertionMonitor::default();
        self.last_fence = fence;
        self.pulls.poll();
    }

    async fn reconcile(&mut self) {
        let began = Instant::now();
        let result = self.pass(self.live.clock().now()).await;
        self.metrics.reconciled(result.is_ok(), began.elapsed());
        match result {
            Ok(()) => {
                self.backoff.reset();
                self.retry_at = None;
                self.due = Some(self.next_due());
                self.scheduled = self.schedule.next_after(self.live.clock().now());
                if let Some(intent) = &self.intent {
                    self.metrics.revision(&intent.commit.id.to_string());
                    self.metrics.commit_pending(intent.active.pending.as_ref().map(|pending| pending.why.as_str()));
                    self.metrics.suspended(intent.suspended(self.live.clock().now()));
                }
                tracing::debug!(took = ?began.elapsed(), "published");
            }
            Err(PassError::NotLeading) => {}
            Err(error) => {
                let wait = self.backoff.next_wait();
                let hint = if let PassError::Live(error) = &error { error.hint() } else { None };
                tracing::error!(error = chain(&error), hint, retry = ?wait, "not all is published");
                self.due = Some(Instant::now() + wait);
                self.retry_at = self.due;
            }
        }
    }

    /// Looks for agents that fell silent or are heard again. Returns whether there are any.
    fn observe_heartbeats(&mut self) -> bool {
        let watch = &self.watching;
        let blind = !watch.synced() || watch.faults().contains_key("leases") || watch.closed().contains_key("leases");
        self.heartbeats.observe(&watch.view().heartbeats, blind, self.live.clock().now());
        self.silent.set(self.heartbeats.silent())
    }

    /// Reads the Leases where some agent seems silent: the watch alone is not believed.
    async fn confirm_silence(&mut self) {
        for node in self.silent.contradicted(self.watching.view()) {
            self.heartbeats.doubt(&node);
        }
        if !self.heartbeats.wants_read() {
            return;
        }
        let read = timeout(LEASES_READ, self.live.read_heartbeats(&self.options.namespace)).await;
        let read = read.map_err(|_| format!("no answer within {} s", LEASES_READ.as_secs()));
        let read = read.and_then(|read| read.map_err(|error| chain(&error)));
        if let Err(error) = &read {
            tracing::debug!(error, "whether an agent is silent is not known: its Lease cannot be read");
        }
        self.heartbeats.read(read.ok().as_ref(), self.live.clock().now());
        self.observe_heartbeats();
    }

    async fn report_silence(&mut self) -> Result<(), PassError> {
        let now = self.live.clock().now();
        self.silent.report((&self.live, &self.leading), self.watching.view(), now).await
    }

    /// Reports that Git cannot be read where this process has read nothing yet that it may publish: a leader that began
    /// meanwhile. All else in the status stays as the former leader wrote it.
    async fn report_git(&mut self) {
        self.due = Some(self.next_due());
        let Some((fault, config)) = self.git_fault.as_deref().zip(self.watching.view().config.as_ref()) else { return };
        let before = config.status.clone().unwrap_or_default();
        let status = head_status_without_git(&self.options.identity, fault, &before, self.live.clock().now());
        if status != before
            && self.leading.fence().is_some()
            && let Err(error) = self.live.apply_config_status(&status).await
        {
            tracing::debug!(error = chain(&error), "that Git cannot be read is not written");
        }
    }

    /// The published commit, if there is one.
    fn published(&self) -> Option<CommitId> {
        let head = self.watching.view().config.as_ref()?.spec.as_ref().ok()?;
        CommitId::parse(&head.revision)
    }

    /// The published commit's time. Older versions of Egret did not publish it.
    fn published_time(&self) -> Option<Timestamp> {
        let head = self.watching.view().config.as_ref()?.spec.as_ref().ok()?;
        let kept = self.memory.kept();
        head.committed.or_else(|| kept.active.committed.filter(|_| kept.active.commit.as_ref() == Some(&head.revision)))
    }

    /// The revision known from earlier. What is published takes precedence: it also has the requirements of
    /// egret.yaml for commits.
    fn known(&self) -> ActiveRevision {
        let kept = &self.memory.kept().active;
        let mut known = kept.clone();
        let head = self.watching.view().config.as_ref().and_then(|config| config.spec.as_ref().ok());
        let Some((head, published)) = head.zip(self.published()) else { return known };
        known.committed = self.published_time();
        known.commit = Some(published.to_string());
        let specs = &self.watching.view().policies;
        known.good.published = specs.iter().map(|(name, policy)| (name.clone(), policy.spec.clone())).collect();
        // Older versions published less.
        known.windows = known.windows.filter(|_| kept.commit == known.commit);
        if let Ok(config) = read_config(&head.config) {
            known.signatures = config.signatures.or(known.signatures);
            known.windows = Some(config.change_windows).filter(|windows| !windows.open.is_empty()).or(known.windows);
        }
        known
    }

    /// Starts reading Git once the published commit is known; after that, passes on what another leader publishes. What
    /// that leader admitted is not taken back: its clock may have been behind ours when a window closed, and its replica of
    /// the repository ahead of ours.
    fn follow(&mut self) {
        let published = self.published();
        if !self.reading {
            self.reading = true;
            self.repository.begin(self.known());
        } else if let Some(published) = published.filter(|one| self.followed != Some(*one) && !self.is_replaced(*one)) {
            self.repository.published(published, self.published_time());
        }
        self.followed = published;
    }

    /// Whether a published commit is the desired one, or one that was active before it.
    fn is_replaced(&self, published: CommitId) -> bool {
        let intent = self.intent.as_ref();
        intent.is_some_and(|intent| intent.commit.id == published || intent.predecessors.contains(&published))
    }

    /// Whether the desired revision is known to be at least as new as the published one.
    fn may_replace_published(&self) -> bool {
        self.intent.is_some() && self.published().is_none_or(|published| self.is_replaced(published))
    }

    fn next_due(&self) -> Instant {
        let soon = self.sender.publisher().unsettled().then(|| Instant::now() + SETTLES);
        let patience = self.published_at.map(|at| at + PATIENCE).filter(|at| *at > Instant::now());
        let all =
            [self.snapshotter.due(), self.assertions.due(), self.taints.due(), self.heartbeats.due(), soon, patience];
        all.into_iter().flatten().fold(Instant::now() + RESYNC, Instant::min)
    }

    async fn pass(&mut self, now: Timestamp) -> Result<(), PassError> {
        let Some(mut intent) = self.intent.clone() else { return Ok(()) };
        if !self.addresses.known() {
            intent.set = waiting_as_published(&intent.set, self.watching.view());
        }
        let commit = intent.commit.id.to_string();
        let mut label_events = Vec::new();
        let report_fault = self.sender.publisher().fault();
        let reports_published = intent.set.config.reports.then(|| report_fault.as_deref().map_or(Ok(()), Err));
        let previews = self.pulls.fault();
        let pass = Pass {
            live: &self.live,
            leading: &self.leading,
            view: self.watching.view(),
            intent: &intent,
            pools: self.options.pod_networks,
            cluster: &self.options.following.cluster,
            identity: &self.options.identity,
            git_fault: self.git_fault.as_deref(),
            reports_published,
            previews: previews.as_ref().map(|fault| fault.as_ref().copied().map_err(String::as_str)),
            published_before: &self.published_before,
            sent: &self.sent,
            silent: &self.silent,
            now,
            patient: self.published_at.is_some_and(|at| at.elapsed() < PATIENCE),
        };
        if self.claimed != self.last_fence {
            pass.claim().await?;
            self.claimed = self.last_fence;
        }
        // A label that cannot be written does not prevent the publication of policies.
        let labelled = self.labels.apply(&self.live, pass.view, &intent.set, &commit, &mut label_events, now).await;
        let publication = match pass.publish().await {
            Ok(publication) => publication,
            Err(error) => {
                if error.is_reportable() {
                    pass.report_failure(&error, self.assertions.state(&intent.set), now).await;
                }
                return Err(error);
            }
        };
        let patient = pass.patient || publication.wrote;
        let pass = Pass { patient, ..pass };
        pass.sweep().await?;
        let rejected = [intent.rejected.as_slice(), publication.refused.as_slice()].concat();
        self.assertions.check(&self.live, pass.view, &intent, now);
        let asserted = self.assertions.state(&intent.set);
        let transitions = pass.write_statuses(&publication, &rejected, asserted, now).await?;
        let mut reports = pass.reports(&self.labels, &rejected);
        self.assertions.report(&mut reports);
        if publication.wrote {
            self.published_at = Some(Instant::now());
        }
        let admission = admission_news(&intent.active, &self.memory.kept().active);
        self.memory.keep(|kept| kept.active.clone_from(&intent.active));
        self.reports.clone_from(&reports);
        let mut snapshots = ViewSnapshots {
            snapshotter: &mut self.snapshotter,
            live: &self.live,
            view: self.watching.view(),
            repository: &self.repository,
        };
        self.sender.send(reports, &intent, &mut snapshots);
        self.record(admission, &label_events, &publication, &transitions).await;
        // As the view has them: one that was just written is there once the watch has sent it.
        self.published_before = self.watching.view().policies.keys().cloned().collect();
        Ok(labelled?)
    }
}

/// The greatest fencing token of what is published: the API server takes no smaller one. Only controllers write these
/// objects; what an agent reports of itself affects no other process. A deleted Lease counts from one again.
fn greatest_fence(view: &View) -> Option<i64> {
    /// Greater tokens come only from a user's edit. The Lease cannot count much further, and this process could never
    /// acquire it.
    const BEYOND: i64 = 1 << 30;
    let head = view.config.iter().filter_map(|config| config.spec.as_ref().ok()).map(|head| head.fence);
    let policies = view.policies.values().filter_map(|policy| policy.spec["fence"].as_i64());
    head.chain(policies).filter(|fence| *fence < BEYOND).max()
}
