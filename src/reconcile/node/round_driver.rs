//! The round driver: owns one node's reconciler and decides when its next round is due, by events, retries and
//! timers.
//!
//! Both loops use it: the standalone node, which reads Git itself, and the agent, which reads the published policies.
//! Not here: the sources of triggers (`node`, `agent`), and what a round does (`round`).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use crate::backoff::Backoff;
use crate::core::compile::RefusedParts;
use crate::core::compile::detours::SILENT;
use crate::core::finding::Finding;
use crate::core::plan::{Step, summary};
use crate::core::policy::config::Config;
use crate::kernel::Kernel;
use crate::kernel::watch::{EventSubject, KernelEvent};
use crate::reconcile::gitops::repository::DesiredRevision;
use crate::reconcile::node::holder::HolderPlan;
use crate::reconcile::node::kernel::NodeKernel;
use crate::reconcile::node::metrics_recorder::MetricsRecorder;
use crate::reconcile::node::port_counter::{PortCounter, PortQuestion};
use crate::reconcile::node::prober::ProbePlan;
use crate::reconcile::node::recorder::Recorder;
use crate::reconcile::node::round::{Reconciler, RoundError, RoundResult};
use crate::reconcile::node::watchers::{Seen, Watchers};
use crate::serve::ScrapeRequest;
use crate::telemetry::chain;

/// More drift than this within [`FIGHT_WINDOW`] is a fight with another process. It is then corrected at a pace that
/// leaves the machine usable.
const FIGHT: usize = 50;
/// See [`FIGHT`].
const FIGHT_WINDOW: Duration = Duration::from_secs(10);
/// How long events are gathered before a round: a burst of a thousand is one round.
const GATHER: Duration = Duration::from_millis(2);
/// The same during a fight.
const GATHER_IN_FIGHT: Duration = Duration::from_millis(500);
/// How often everything is compared without an event. That takes a few milliseconds and writes nothing.
const RESYNC: Duration = Duration::from_mins(1);
/// The longest single wait for a wall-clock time: a clock that jumps is noticed after it.
const CLOCK: Duration = Duration::from_secs(30);

/// One node's reconciler, and when its next round is due.
pub struct RoundDriver<K = Kernel> {
    /// The reconciler.
    pub reconciler: Reconciler<K>,
    /// Metrics and health.
    pub metrics: MetricsRecorder,
    /// The desired revision; none until it is known.
    pub intent: Option<DesiredRevision>,
    /// Threads that watch gateways, addresses and connections; none in a simulation.
    pub watchers: Option<Watchers>,
    recorder: Option<Recorder>,
    backoff: Backoff,
    facts_backoff: Backoff,
    due: Due,
    /// Events since the last round that succeeded.
    events: Vec<KernelEvent>,
    /// When the first of them came.
    seen: Option<Timestamp>,
    /// Times of drift, to detect a fight.
    fights: Vec<Instant>,
    /// What the kernel rejected in the last round that finished.
    refused: RefusedParts,
    /// Gateways that did not answer as of the last round that finished.
    silent: BTreeMap<String, String>,
    /// What was found in it, as far as it is logged.
    findings: BTreeSet<Finding>,
    /// Why the last round failed.
    fault: Option<String>,
}

/// When the loop wakes without an event. Each time has one owner, which sets and clears it: a time that one owner set
/// is not lost because another succeeds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Due {
    /// Retry of a round that failed, or of which the kernel rejected a part. Owner: rounds.
    retry: Option<Instant>,
    /// Facts that could not be read, or are not trusted yet, are read again. Owner: reads of the facts.
    facts: Option<Instant>,
    /// Everything is compared. Owner: rounds.
    resync: Option<Instant>,
    /// Next hops that do not answer are looked at again. Owner: rounds.
    look: Option<Instant>,
    /// By the wall clock: the schedule, and ends of suspensions. Owner: rounds.
    wall: Option<Timestamp>,
    /// Writing the state folder is retried, by a round. Owner: the state store.
    state: Option<Instant>,
}

/// What is due because time has passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wakeup {
    /// Nothing: the wait was cut short.
    Nothing,
    /// A read of the facts; a round only if they changed.
    Facts,
    /// A round.
    Round,
    /// A round that compares everything: the schedule, or the end of a suspension.
    Wall,
}

impl Due {
    /// What is due at this time.
    fn wakeup(&self, instant: Instant, now: Timestamp) -> Wakeup {
        let due = |at: Option<Instant>| at.is_some_and(|at| at <= instant);
        if self.wall.is_some_and(|wall| wall <= now) {
            Wakeup::Wall
        } else if due(self.retry) || due(self.resync) || due(self.state) || due(self.look) {
            Wakeup::Round
        } else if due(self.facts) {
            Wakeup::Facts
        } else {
            Wakeup::Nothing
        }
    }

    /// When to check the clock again.
    fn next(&self, instant: Instant, now: Timestamp) -> Instant {
        let wall = self.wall.map(|wall| instant + Duration::try_from(wall.duration_since(now)).unwrap_or_default());
        [self.retry, self.facts, self.resync, self.state, self.look, wall]
            .into_iter()
            .flatten()
            .fold(instant + CLOCK, Instant::min)
    }

    /// A round finished. `retry`: it is to be retried all the same.
    fn ended(&mut self, instant: Instant, retry: Option<Duration>, wall: Option<Timestamp>) {
        self.retry = retry.map(|wait| instant + wait);
        self.resync = Some(instant + RESYNC);
        (self.wall, self.look) = (wall, None);
    }

    /// A round failed.
    fn failed(&mut self, instant: Instant, wait: Duration) {
        (self.retry, self.look) = (Some(instant + wait), None);
    }

    /// The facts were read; they are to be read again after this time, if at all.
    fn facts_read(&mut self, instant: Instant, again: Option<Duration>) {
        self.facts = again.map(|wait| instant + wait);
    }
}

impl<K: NodeKernel> RoundDriver<K> {
    /// Creates a driver for a reconciler. `seed` is for jitter.
    pub fn new(reconciler: Reconciler<K>, metrics: MetricsRecorder, seed: u64) -> Self {
        Self {
            reconciler,
            metrics,
            intent: None,
            watchers: None,
            recorder: None,
            backoff: Backoff::new(seed),
            facts_backoff: Backoff::new(seed),
            due: Due::default(),
            events: Vec::new(),
            seen: None,
            fights: Vec::new(),
            refused: RefusedParts::default(),
            silent: BTreeMap::new(),
            findings: BTreeSet::new(),
            fault: None,
        }
    }

    /// From now on probes the gateways of this node's exits, asks who has the addresses that Egret assigns, gives and takes connections,
    /// and counts ports.
    #[must_use]
    pub fn watching(mut self, watchers: Watchers) -> Self {
        self.watchers = Some(watchers);
        self
    }

    /// Records translations from now on, if there is a recorder.
    #[must_use]
    pub fn recording(mut self, recorder: Option<Recorder>) -> Self {
        self.recorder = recorder;
        self
    }

    /// Takes in what a thread sees.
    pub fn see(&mut self, seen: Seen) {
        match seen {
            Seen::Liveness(view) => self.reconciler.liveness = view,
            Seen::Holding(view) => self.reconciler.holding = view,
        }
    }

    /// Takes in how many ports are used.
    fn read_ports(&mut self) {
        let counter = self.watchers.as_mut().map(|watchers| &mut watchers.ports);
        if let Some(busiest) = counter.and_then(PortCounter::news) {
            self.reconciler.ports.read(busiest);
        }
    }

    /// Tells the threads what is in the kernel now.
    fn transfer(&mut self, config: &Config) {
        let Some(compiled) = self.reconciler.applied() else { return };
        let range = self.reconciler.memory.kept().range().unwrap_or(config.range);
        if let Some(Watchers { transfers, ports, .. }) = &mut self.watchers {
            transfers.set(&compiled.transfers);
            ports.set(PortQuestion { mask: range.mask, addresses: compiled.translated() });
        }
        if let Some(recorder) = &self.recorder {
            recorder.set(compiled.record_names(range));
        }
    }

    /// Tells the threads what this node needs now.
    fn watch(&mut self, intent: &DesiredRevision) {
        let Some(Watchers { prober, holder, .. }) = &mut self.watchers else { return };
        let config = &intent.set.config;
        let range = self.reconciler.memory.kept().range().unwrap_or(config.range);
        let nodes = self.reconciler.cluster.facts().nodes.len();
        let applied = self.reconciler.applied();
        let timing = config.failover.unwrap_or_default().in_cluster(nodes);
        let targets = applied.filter(|_| config.failover.is_some()).map(|compiled| compiled.probe_targets(range));
        prober.set(ProbePlan { targets: targets.unwrap_or_default(), timing });
        let claims = self.reconciler.claims().clone();
        let counted_by = applied.map(|compiled| compiled.demand_chains(&self.reconciler.node)).unwrap_or_default();
        holder.set(HolderPlan { claims, counted_by, probed: config.failover.is_some(), timing });
    }

    /// Logs findings when they come and go. Those that are logged with what the kernel refused, or did not answer, are left out.
    fn log_findings(&mut self) {
        let Some(compiled) = self.reconciler.applied() else { return };
        let logged =
            |finding: &&Finding| finding.is_problem() && !matches!(finding.code.as_str(), "kernel-refused" | SILENT);
        let now: BTreeSet<Finding> = compiled.findings.iter().filter(logged).cloned().collect();
        for finding in now.difference(&self.findings) {
            tracing::warn!(code = finding.code, hint = finding.hint.as_deref(), "{}", compiled.sentence(finding));
        }
        // One that only reads otherwise now has just been logged.
        let replaced = |gone: &&Finding| now.iter().any(|one| (&one.code, &one.subject) == (&gone.code, &gone.subject));
        for finding in self.findings.difference(&now).filter(|gone| !replaced(gone)) {
            tracing::info!(code = finding.code, "not any more: {}: {}", finding.subject, finding.message);
        }
        self.findings = now;
    }

    /// Takes in a kernel event. Returns whether it makes a round due.
    pub fn on_kernel_event(&mut self, event: KernelEvent) -> bool {
        if self.reconciler.is_own(&event) {
            return false;
        }
        if event.subject == EventSubject::Everything {
            tracing::info!("kernel events were lost; everything is read again");
        }
        self.seen.get_or_insert_with(|| self.reconciler.clock.now());
        self.events.push(event);
        true
    }

    /// Reads the kernel's counters for a scrape.
    pub async fn answer(&mut self, request: ScrapeRequest) {
        self.read_ports();
        if let Some(watchers) = &self.watchers {
            self.metrics.probe_latencies(watchers.prober.latencies());
        }
        self.metrics.answer(request, &mut self.reconciler).await;
    }

    /// Why the last round failed, if it did.
    pub fn fault(&self) -> Option<&str> {
        self.fault.as_deref()
    }

    /// What is due now.
    pub fn wakeup(&self) -> Wakeup {
        self.due.wakeup(Instant::now(), self.reconciler.clock.now())
    }

    /// When to check the clock again.
    pub fn next_wake(&self) -> Instant {
        self.due.next(Instant::now(), self.reconciler.clock.now())
    }

    /// The facts were read. `again`: they were being written just then, and are to be read again after this time.
    pub fn facts_read(&mut self, again: Option<Duration>) {
        self.facts_backoff.reset();
        self.due.facts_read(Instant::now(), again);
    }

    /// The facts could not be read. They are read again, after a wait that grows each time.
    pub fn facts_unreadable(&mut self) {
        let wait = self.facts_backoff.next_wait();
        self.due.facts_read(Instant::now(), Some(wait));
    }

    /// How long to wait for a burst to end, so that it becomes one round.
    pub fn gather_time(&mut self) -> Duration {
        let now = Instant::now();
        self.fights.retain(|at| now.duration_since(*at) < FIGHT_WINDOW);
        if self.fights.len() > FIGHT { GATHER_IN_FIGHT } else { GATHER }
    }

    /// Runs one round, if the desired revision is known. `scheduled`: when the schedule wants the next one. A round
    /// that fails is retried.
    pub async fn round(&mut self, scheduled: Option<Timestamp>) -> Option<Result<RoundResult, RoundError>> {
        let intent = self.intent.clone()?;
        let seen = self.seen.unwrap_or_else(|| self.reconciler.clock.now());
        let began = Instant::now();
        self.read_ports();
        let result = self.reconciler.round(&intent, &self.events, seen).await;
        self.metrics.round(&result, began.elapsed(), &self.reconciler, &intent);
        self.fault = result.as_ref().err().map(|error| chain(error));
        match &result {
            Ok(done) => {
                let retry = if done.refused.is_empty() {
                    self.backoff.reset();
                    None
                } else {
                    Some(self.backoff.next_wait())
                };
                self.events.clear();
                self.seen = None;
                self.fights.extend(std::iter::repeat_n(Instant::now(), done.drifted));
                let wall = [scheduled, done.wake].into_iter().flatten().min();
                self.due.ended(Instant::now(), retry, wall);
                self.due.look = done.look_again.map(|wait| Instant::now() + wait);
                self.transfer(&intent.set.config);
                self.watch(&intent);
                log_round(&intent, done);
                self.log_findings();
                log_silent(&self.silent, &done.silent);
                self.silent.clone_from(&done.silent);
                if done.refused != self.refused {
                    log_refused(&done.refused);
                    self.refused.clone_from(&done.refused);
                }
            }
            Err(error) => {
                let wait = self.backoff.next_wait();
                tracing::error!(error = chain(error), hint = error.hint(), retry = ?wait, "not applied");
                self.due.failed(Instant::now(), wait);
            }
        }
        self.due.state = self.reconciler.memory.retry();
        Some(result)
    }
}

fn log_round(intent: &DesiredRevision, done: &RoundResult) {
    if done.steps.is_empty() {
        tracing::debug!(commit = intent.commit.id.short(), took = ?done.took, "nothing to do");
        return;
    }
    let (commit, summary) = (intent.commit.id.short(), &intent.commit.summary);
    let (steps, changes, drifted) = (done.steps.len(), summary::counts(&done.steps), done.drifted);
    tracing::info!(commit, summary, steps, changes, policies = policies(done), drifted, took = ?done.took, "applied");
    log_steps(&done.steps);
}

/// Some of the policies that a round concerned.
fn policies(done: &RoundResult) -> String {
    const NAMED: usize = 8;
    let mut names: Vec<String> = done.policies.iter().take(NAMED).map(ToString::to_string).collect();
    if done.policies.len() > NAMED {
        names.push(format!("and {} more", done.policies.len() - NAMED));
    }
    names.join(", ")
}

/// Logs gateways that fell silent, that another one carries now, or that answer again.
fn log_silent(before: &BTreeMap<String, String>, now: &BTreeMap<String, String>) {
    for (exit, message) in now.iter().filter(|(exit, message)| before.get(*exit) != Some(*message)) {
        tracing::warn!(%exit, "{message}");
    }
    for exit in before.keys().filter(|exit| !now.contains_key(*exit)) {
        tracing::info!(%exit, "its gateway answers again, or is not used any more");
    }
}

fn log_refused(refused: &RefusedParts) {
    for (exit, error) in &refused.exits {
        tracing::warn!(%exit, "the kernel refuses to {error}; the exit is not applied on this node, everything else is");
    }
    for error in refused.replies.values() {
        tracing::warn!("the kernel refuses to {error}; replies to that node's pods do not go through the tunnel");
    }
}

/// Logs the steps for debugging, a line each: a new node has hundreds. `egret plan` shows them without a log.
pub fn log_steps(steps: &[Step]) {
    for line in steps.iter().flat_map(Step::lines) {
        tracing::debug!("  {line}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AGAIN: Duration = Duration::from_millis(100);

    #[test]
    fn a_second_read_of_the_facts_is_due_whatever_rounds_do_meanwhile() {
        let (start, wall) = (Instant::now(), Timestamp::now());
        let mut due = Due::default();
        due.facts_read(start, Some(AGAIN));
        due.ended(start, None, None);
        due.failed(start, Duration::from_secs(5));
        due.ended(start, None, None);
        assert_eq!(due.next(start, wall), start + AGAIN);
        assert_eq!(due.wakeup(start, wall), Wakeup::Nothing);
        assert_eq!(due.wakeup(start + AGAIN, wall), Wakeup::Facts);
        due.facts_read(start + AGAIN, None);
        assert_eq!(due, Due { resync: Some(start + RESYNC), ..Due::default() });
    }

    #[test]
    fn a_retry_of_a_round_is_due_whatever_reads_of_the_facts_do_meanwhile() {
        let (start, wall) = (Instant::now(), Timestamp::now());
        let wait = Duration::from_secs(2);
        let mut due = Due::default();
        due.ended(start, Some(wait), None);
        due.facts_read(start, Some(AGAIN));
        due.facts_read(start + AGAIN, None);
        assert_eq!(due.next(start, wall), start + wait);
        assert_eq!(due.wakeup(start + wait, wall), Wakeup::Round);
        due.ended(start + wait, None, None);
        assert_eq!(due.wakeup(start + wait, wall), Wakeup::Nothing);
    }

    #[test]
    fn the_wall_clock_is_checked_every_half_a_minute_at_least() {
        let (start, wall) = (Instant::now(), Timestamp::now());
        let mut due = Due::default();
        assert_eq!(due.next(start, wall), start + CLOCK);
        due.ended(start, None, Some(wall));
        assert_eq!((due.next(start, wall), due.wakeup(start, wall)), (start, Wakeup::Wall));
    }
}
