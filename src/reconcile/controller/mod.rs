//! The controller: the only one with Git's credentials. It publishes what Git asks for, labels nodes, gathers what agents say, and commits
//! their reports.
//!
//! Two stand by, one leads by a lease; both read Git, so that a new leader knows at once what to do. Deliberately absent: any kernel, and
//! where packets go: agents see to that by themselves, also without a controller.

mod labels;
mod options;
mod pass;
mod proposals;
mod sayings;
mod sights;

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::{Instant, sleep_until};

use self::labels::{Labels, Told};
pub use self::options::{ControllerError, Options};
use self::pass::{CameUpon, Pass, PassError, Turned};
use self::proposals::pulls_of;
use self::sayings::{admission_news, reports};
use self::sights::Sights;
use super::hook::{self, Hook};
use super::leading::Leading;
use super::memory::Memory;
use super::publisher::{self, Letter, Publisher};
use super::pulls::{Pulls, Word};
use super::repository::{self, Intent, Known, News, Repository};
use super::round::now;
use super::schedule::Timetable;
use crate::backoff::Backoff;
use crate::cluster::live::{self, EventKind, Lease, Live, Recorder, Regarding, Scope, View, Watching};
use crate::core::policy::config::Schedule;
use crate::core::policy::published::read_config;
use crate::core::report::history::{NodeReport, Rejected};
use crate::core::state::net::fnv1a;
use crate::git::CommitId;
use crate::serve::{self, Health, Metrics};
use crate::telemetry::chain;
use crate::watch::Watcher;

/// Statuses change with every node; they are told in bursts.
const GATHER: Duration = Duration::from_millis(20);
/// Whether reports are committed is told this much later at most.
const SETTLES: Duration = Duration::from_secs(5);
/// Everything is compared again this often: a write whose answer was lost is seen at the latest then.
const LOOK: Duration = Duration::from_mins(1);

/// Takes away all that the controller wrote: labels of nodes, and custom resources.
pub async fn remove() -> Result<(), ControllerError> {
    let live = Live::connect().await?;
    let mut watching = Watching::open(&live, &Scope::Controller, live::Options::default());
    while !watching.synced() {
        watching.changed().await;
        for (what, fault) in watching.faults() {
            tracing::warn!(what, hint = fault.hint, "{}", fault.message);
        }
    }
    let nothing = crate::core::labels::Labels::new();
    for (node, meta) in &watching.view().nodes {
        if labels::owns_some(&meta.label_managers) {
            live.apply_labels(node, &meta.uid, &nothing, false).await?;
            tracing::info!(%node, "its labels are as they were without Egret");
        }
    }
    live.delete_config().await?;
    for name in live.policy_names().await? {
        live.delete_policy(&name, None).await?;
    }
    tracing::info!("nothing of the controller's is left in the cluster");
    Ok(())
}

/// Runs until SIGTERM or SIGINT.
pub async fn run(options: Options) -> Result<(), ControllerError> {
    let memory = Memory::open(&options.state_folder)?;
    let (health, metrics) = (Health::new(), Metrics::new());
    let serving = options.listen.map(|listen| serve::start(listen, health.clone(), metrics.clone())).transpose();
    let _server = serving.map_err(|source| ControllerError::Start { what: "the HTTP server", source })?;
    health.set_ready(Err("not all is known of the cluster yet".to_owned()));
    let live = Live::connect().await?;
    let seed = fnv1a(options.identity.as_bytes()) ^ u64::from(std::process::id());
    let (sender, news) = unbounded_channel();
    let start = |what| move |source| ControllerError::Start { what, source };
    let repository = Repository::start(
        repository::Options {
            source: options.source.clone(),
            branch: options.branch.clone(),
            access: options.access.clone(),
            signatures: options.signatures.clone(),
            windows: options.windows.clone(),
            mirror: options.state_folder.join("policy.git"),
            cluster: options.cluster_name.clone(),
            poll: options.poll,
            seed,
        },
        sender,
    )
    .map_err(start("the repository's thread"))?;
    let publisher = Publisher::start(publisher::Options {
        source: options.source.clone(),
        access: options.access.clone(),
        mirror: options.state_folder.join("reports.git"),
        cluster: options.cluster_name.clone(),
        signing_key: options.signing_key.clone(),
        seed,
    })
    .map_err(start("the publisher's thread"))?;
    let watching = Watching::open(&live, &Scope::Controller, live::Options { seed, ..live::Options::default() });
    let lease = Lease::new(live.clone(), &options.namespace, &options.lease, &options.identity, options.timing);
    let leading = Leading::start(lease, options.timing);
    let pulls = Pulls::start(pulls_of(&options, &metrics, seed), Box::new(leading.asked()))
        .map_err(start("the thread for pull requests"))?;
    let controller = Controller {
        health,
        metrics,
        leading,
        pulls,
        reports: Vec::new(),
        recorder: live.recorder("egret.dev/controller", &options.identity),
        watching,
        repository,
        publisher,
        memory,
        intent: None,
        git_fault: None,
        labels: Labels::default(),
        sent: None,
        sights: Sights::default(),
        timetable: None,
        backoff: Backoff::new(seed),
        due: None,
        led: None,
        told_rejected: BTreeSet::new(),
        begun: false,
        asked: false,
        followed: None,
        live,
        options,
    };
    controller.forever(news).await
}

/// What the loop holds.
struct Controller {
    options: Options,
    live: Live,
    watching: Watching,
    leading: Leading,
    repository: Repository,
    publisher: Publisher,
    pulls: Pulls,
    recorder: Recorder,
    health: Health,
    metrics: Metrics,
    memory: Memory,
    intent: Option<Intent>,
    git_fault: Option<String>,
    labels: Labels,
    /// What nodes said at the last pass.
    reports: Vec<NodeReport>,
    /// The reports that were last handed over.
    sent: Option<Letter>,
    sights: Sights,
    timetable: Option<(Schedule, Timetable)>,
    backoff: Backoff,
    /// When the next pass is due although nothing happens.
    due: Option<Instant>,
    /// The fence of the last pass.
    led: Option<i64>,
    /// Whether Git is read: not before it is known what is published, which may not be taken back.
    begun: bool,
    /// Whether the repository's thread was told what another leader published, and has not said what follows from it.
    asked: bool,
    /// The published commit that was last looked at.
    followed: Option<CommitId>,
    /// Rejected documents that people were told of.
    told_rejected: BTreeSet<Rejected>,
}

/// What woke the loop.
enum Trigger {
    News(Option<News>),
    Pushed,
    /// A pull request may be another than it was.
    Proposed,
    /// The thread for pull requests.
    Pulls(Word),
    Cluster,
    Role,
    Time,
    Stop,
}

impl Controller {
    async fn forever(mut self, mut news: UnboundedReceiver<News>) -> Result<(), ControllerError> {
        let (_pushes, mut pushes) = Watcher::new(&self.options.source.watched())?;
        let mut hook =
            Hook::start(self.options.webhook.clone(), self.options.branch.clone(), self.options.previews.is_some())
                .map_err(|source| ControllerError::Start { what: "the webhook", source })?;
        let handler = |kind| signal(kind).map_err(|source| ControllerError::Start { what: "a signal handler", source });
        let (mut terminate, mut interrupt) = (handler(SignalKind::terminate())?, handler(SignalKind::interrupt())?);
        tracing::info!(source = %self.options.source, server = self.live.server(), "egret's controller runs");
        loop {
            self.health.beat();
            let wake = self.wake();
            let trigger = tokio::select! {
                biased;
                () = stopped(&mut terminate, &mut interrupt) => Trigger::Stop,
                message = news.recv() => Trigger::News(message),
                Some(()) = pushes.recv() => Trigger::Pushed,
                told = hook.told() => match told {
                    hook::Told::Pushed => Trigger::Pushed,
                    hook::Told::Proposed => Trigger::Proposed,
                },
                word = self.pulls.word() => Trigger::Pulls(word),
                () = self.leading.changed() => Trigger::Role,
                _ = self.watching.changed() => Trigger::Cluster,
                () = sleep_until(wake) => Trigger::Time,
            };
            let due = match trigger {
                Trigger::Stop => break,
                Trigger::News(Some(message)) => self.heard(message),
                Trigger::News(None) => {
                    let source = std::io::Error::other("it has ended");
                    return Err(ControllerError::Start { what: "the repository's thread", source });
                }
                Trigger::Pushed => {
                    self.repository.look();
                    self.pulls.look();
                    false
                }
                Trigger::Proposed => {
                    self.pulls.look();
                    false
                }
                Trigger::Pulls(Word::Ask(tell)) => {
                    self.look_for(tell);
                    false
                }
                Trigger::Pulls(Word::Changed) | Trigger::Cluster => true,
                Trigger::Role => self.leading.fence() != self.led,
                Trigger::Time => self.time_came(),
            };
            if due {
                self.gather().await;
                self.turn().await;
            }
        }
        tracing::info!("egret's controller ends; nodes go on with what was published");
        self.leading.release().await;
        self.publisher.finish();
        Ok(())
    }

    fn wake(&self) -> Instant {
        let latest = Instant::now() + LOOK;
        self.due.map_or(latest, |due| due.min(latest))
    }

    /// Takes news of Git in; tells whether a pass is due because of them.
    fn heard(&mut self, news: News) -> bool {
        let before = self.git_fault.clone();
        let asked = std::mem::take(&mut self.asked);
        match news {
            News::Intent(intent) => {
                if intent.fetched {
                    self.metrics.git_fetched(std::time::Instant::now());
                }
                self.git_fault = None;
                self.take(*intent);
                return true;
            }
            News::Unchanged | News::Withheld(_) => {
                self.metrics.git_fetched(std::time::Instant::now());
                self.git_fault = None;
            }
            News::Fault(error @ crate::git::Error::Empty { .. }) => {
                tracing::info!("{error}; waiting for the first");
                self.git_fault = Some(error.to_string());
            }
            News::Fault(error) => {
                tracing::warn!(error = chain(&error), hint = error.hint(), "Git failed; what is published stays");
                self.git_fault = Some(chain(&error));
            }
        }
        self.git_fault != before || asked
    }

    fn take(&mut self, intent: Intent) {
        let before = self.intent.as_ref().filter(|before| before.commit.id == intent.commit.id);
        for diagnostic in intent.diagnostics.iter().filter(|_| before.is_none()) {
            tracing::warn!("{diagnostic}");
        }
        let schedule = intent.set.config.schedule.clone();
        if schedule.as_ref() != self.timetable.as_ref().map(|(schedule, _)| schedule) {
            self.timetable = schedule.and_then(|schedule| match Timetable::new(&schedule) {
                Ok(timetable) => Some((schedule, timetable)),
                Err(error) => {
                    tracing::warn!(%error, "the schedule of egret.yaml is not followed");
                    None
                }
            });
        }
        self.pulls.base(&intent.branch);
        self.intent = Some(intent);
    }

    fn time_came(&mut self) -> bool {
        if self.due.is_none_or(|due| due > Instant::now()) {
            return self.due.is_none();
        }
        self.repository.look();
        true
    }

    /// Lets a burst end.
    async fn gather(&mut self) {
        let until = Instant::now() + GATHER;
        loop {
            tokio::select! {
                () = sleep_until(until) => return,
                _ = self.watching.changed() => {}
            }
        }
    }

    /// One pass, if this process leads and knows enough.
    async fn turn(&mut self) {
        for (what, fault) in self.watching.faults() {
            tracing::warn!(what, hint = fault.hint, "{}; what is known of it stays", fault.message);
        }
        if let Some(fence) = greatest_fence(self.watching.view()) {
            self.leading.seen_fence(fence);
        }
        let fence = self.leading.fence();
        self.metrics.leader(fence.is_some());
        if self.watching.synced() {
            self.health.set_ready(Ok(()));
        }
        let led = self.led;
        if fence != led {
            // Who led meanwhile may have corrected what we remember as fought for.
            self.labels.forget();
            self.led = fence;
            self.pulls.look();
        }
        if self.watching.synced() {
            self.follow(fence.is_some() && fence == led);
        }
        if fence.is_none() || !self.watching.synced() || self.intent.is_none() || self.asked {
            return;
        }
        let began = Instant::now();
        let result = self.pass(now()).await;
        self.metrics.reconciled(result.is_ok(), began.elapsed());
        match result {
            Ok(()) => {
                self.backoff.reset();
                self.due = Some(self.next_due());
                if let Some(intent) = &self.intent {
                    self.metrics.revision(&intent.commit.id.to_string());
                    self.metrics.commit_waits(intent.withheld.as_ref().map(|withheld| withheld.why.word()));
                    self.metrics.suspended(intent.suspended(now()));
                }
                tracing::debug!(took = ?began.elapsed(), "published");
            }
            Err(PassError::NotLeading) => {}
            Err(error) => {
                let wait = self.backoff.next_wait();
                let hint = if let PassError::Live(error) = &error { error.hint() } else { None };
                self.metrics.api_fault("publish");
                tracing::error!(error = chain(&error), hint, retry = ?wait, "not all is published");
                self.due = Some(Instant::now() + wait);
            }
        }
    }

    /// The commit that is published, if one is.
    fn published(&self) -> Option<CommitId> {
        let head = self.watching.view().config.as_ref()?.spec.as_ref().ok()?;
        CommitId::parse(&head.revision)
    }

    /// When that was committed. An older version did not publish it.
    fn published_time(&self) -> Option<Timestamp> {
        let head = self.watching.view().config.as_ref()?.spec.as_ref().ok()?;
        let kept = self.memory.kept();
        head.committed.or_else(|| kept.committed.filter(|_| kept.commit.as_ref() == Some(&head.revision)))
    }

    /// What is known of earlier. What is published wins: it also says what egret.yaml demanded of commits.
    fn known(&self) -> Known {
        let kept = self.memory.kept();
        let mut known = kept.known();
        let head = self.watching.view().config.as_ref().and_then(|config| config.spec.as_ref().ok());
        let Some((head, published)) = head.zip(self.published()) else { return known };
        known.committed = self.published_time();
        known.commit = Some(published.to_string());
        // An older version published less.
        known.windows = known.windows.filter(|_| kept.commit == known.commit);
        if let Ok(config) = read_config(&head.config) {
            known.signatures = config.signatures.or(known.signatures);
            known.windows = Some(config.change_windows).filter(|windows| !windows.open.is_empty()).or(known.windows);
        }
        known
    }

    /// Begins to read Git once it is known what is published; from then on hears of what another leader publishes. Its clock may have
    /// been before ours when a window closed: what it let in is not taken back.
    fn follow(&mut self, leads: bool) {
        let published = self.published();
        if !self.begun {
            self.begun = true;
            self.repository.begin(self.known());
        } else if let Some(published) = published.filter(|one| !leads && self.followed != Some(*one)) {
            self.asked = self.intent.as_ref().is_none_or(|intent| intent.withheld.is_some());
            self.repository.published(published, self.published_time());
        }
        self.followed = published;
    }

    fn next_due(&self) -> Instant {
        let scheduled = self.timetable.as_ref().and_then(|(_, timetable)| timetable.next_after(now()));
        let wait = scheduled.and_then(|at| Duration::try_from(at.duration_since(now())).ok());
        let due = Instant::now() + wait.map_or(LOOK, |wait| wait.min(LOOK));
        let soon = self.publisher.unsettled().then(|| Instant::now() + SETTLES);
        [self.sights.due(), soon].into_iter().flatten().fold(due, Instant::min)
    }

    async fn pass(&mut self, now: Timestamp) -> Result<(), PassError> {
        let Some(intent) = self.intent.clone() else { return Ok(()) };
        let commit = intent.commit.id.to_string();
        let mut told = Vec::new();
        let report_fault = self.publisher.fault();
        let previews = self.pulls.fault();
        let pass = Pass {
            live: &self.live,
            leading: &self.leading,
            view: self.watching.view(),
            intent: &intent,
            cluster: &self.options.cluster_name,
            identity: &self.options.identity,
            git_fault: self.git_fault.as_deref(),
            report_fault: report_fault.as_deref(),
            previews: previews.as_ref().map(|fault| fault.as_ref().copied().map_err(String::as_str)),
        };
        // A label that cannot be written keeps no policy from being published.
        let labelled = self.labels.apply(&self.live, pass.view, &intent.set, &commit, &mut told, now).await;
        let came_upon = pass.publish().await?;
        pass.sweep().await?;
        let rejected = [intent.rejected.as_slice(), came_upon.refused.as_slice()].concat();
        let turned = pass.tell(&rejected, now).await?;
        let reports = reports(&pass, &self.labels, &rejected);
        let admission = admission_news(&intent, self.memory.kept());
        if let Err(error) = self.memory.keep(|kept| {
            kept.commit = Some(commit.clone());
            kept.committed = intent.commit.committed();
            kept.good = intent.good.clone();
            kept.signatures.clone_from(&intent.set.config.signatures);
            kept.windows = Some(intent.set.config.change_windows.clone());
            kept.withheld.clone_from(&intent.withheld);
            kept.emergency.clone_from(&intent.emergency);
        }) {
            tracing::warn!(error = chain(&error), "what is in force is not remembered over a restart");
        }
        self.reports.clone_from(&reports);
        self.send(reports, &intent);
        self.record(admission, &told, &came_upon, &turned).await;
        Ok(labelled?)
    }

    /// Tells people. An event that cannot be written is lost: what it says stands in the reports as well.
    async fn record(
        &mut self,
        admission: Vec<(&'static str, String)>,
        told: &[Told],
        came_upon: &CameUpon,
        turned: &[Turned],
    ) {
        let mut events = Vec::new();
        let config = self.watching.view().config.as_ref().map(|config| config.uid.clone());
        for ((reason, note), uid) in admission.into_iter().zip(config.iter().cycle()) {
            events.push((Regarding::Config { uid: uid.clone() }, EventKind::Warning, reason.to_owned(), note));
        }
        let rejected = self.intent.iter().flat_map(|intent| &intent.rejected).chain(&came_upon.refused);
        let rejected: BTreeSet<Rejected> = rejected.cloned().collect();
        let news: Vec<&Rejected> = rejected.difference(&self.told_rejected).collect();
        for (rejected, uid) in news.into_iter().zip(config.iter().cycle()) {
            let note = format!("{}: {}; in force is {}", rejected.place, rejected.message, rejected.instead);
            let regarding = Regarding::Config { uid: uid.clone() };
            events.push((regarding, EventKind::Warning, "DocumentRejected".to_owned(), note));
        }
        self.told_rejected = rejected;
        for one in turned {
            let regarding = Regarding::Policy { name: one.name.clone(), uid: one.uid.clone() };
            let kind = if one.ready { EventKind::Normal } else { EventKind::Warning };
            events.push((regarding, kind, one.reason.clone(), one.message.clone()));
        }
        for one in told {
            let node = Regarding::Node { name: one.node.to_string(), uid: one.uid.clone() };
            events.push((node, EventKind::Warning, one.reason.to_owned(), one.note.clone()));
        }
        for (name, by) in &came_upon.edited {
            tracing::warn!(policy = name, by, "somebody edited a published policy; it is as Git has it again");
            if let Some(policy) = self.watching.view().policies.get(name) {
                let regarding = Regarding::Policy { name: name.clone(), uid: policy.uid.clone() };
                let note = format!("{by} edited it; it is as Git has it again");
                events.push((regarding, EventKind::Warning, "PolicyEdited".to_owned(), note));
            }
        }
        for (regarding, kind, reason, note) in events {
            if let Err(error) = self.recorder.event(&regarding, kind, &reason, &note).await {
                tracing::warn!(error = chain(&error), reason, "an event is not written");
            }
        }
    }
}

async fn stopped(terminate: &mut Signal, interrupt: &mut Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

/// The greatest fence that somebody will hold against us: the head and the policies are written under none that is smaller, and agents take
/// over none. They remember longer than the cluster does, which may have been installed anew or put back to a backup.
fn greatest_fence(view: &View) -> Option<i64> {
    /// What only a person writes, or an agent that lies. The lease cannot count much further, and would never be ours.
    const BEYOND: i64 = 1 << 30;
    let head = view.config.iter().filter_map(|config| config.spec.as_ref().ok()).map(|head| head.fence);
    let policies = view.policies.values().filter_map(|policy| policy.spec["fence"].as_i64());
    let agents = view.egress_nodes.values().map(|node| node.status.fence);
    head.chain(policies).chain(agents).filter(|fence| *fence < BEYOND).max()
}
