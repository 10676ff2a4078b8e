//! The publisher thread: commits nodes' reports and the cluster's snapshot to the reports branch when their content
//! changes.
//!
//! Each attempt is planned on the current tip of the branch, because other nodes write there, too. A transient error
//! is retried with a growing wait, a rejection at a slow pace; reports that are not committed meanwhile are kept. Not
//! here: what a report contains (`core::report`).

mod branch;
mod draft;
mod unsent;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

pub use self::branch::ReportsBranch;
use self::draft::{AllocationChange, DraftInput, plan};
use self::unsent::{Unsent, following};
use crate::backoff::Backoff;
use crate::clock::Clock;
use crate::core::allocation::{Allocation, AllocationRequest, Unreadable};
use crate::core::facts::Facts;
use crate::core::name::NodeName;
use crate::core::report::history::NodeReport;
use crate::core::snapshot::RIDING;
use crate::git::access::Access;
use crate::git::compact::Compacted;
use crate::git::mirror::Mirror;
use crate::git::publish::{Author, PublishOutcome, Target};
use crate::git::signing::Signer;
use crate::git::source::Source;
use crate::git::{self, ErrorKind};
use crate::reconcile::leadership::IsLeader;

/// The publisher's options.
#[derive(Debug, Clone)]
pub struct PublisherOptions {
    /// The repository.
    pub source: Source,
    /// The credentials.
    pub access: Access,
    /// The folder of a separate mirror: fetching policies does not wait for it.
    pub mirror: PathBuf,
    /// The cluster's name, which names the branch.
    pub cluster: String,
    /// The file of the key that reports are signed with, if they are. It is read for each commit: a rotated secret
    /// takes effect at once.
    pub signing_key: Option<PathBuf>,
    /// The seed for jitter.
    pub seed: u64,
}

/// Reports and their destination.
#[derive(Debug, Clone, PartialEq)]
pub struct ReportBatch {
    /// One report per node: a standalone node sends its own, the controller those of all nodes.
    pub reports: Vec<NodeReport>,
    /// The reports branch.
    pub branch: String,
    /// The branch that policies are read from.
    pub policy_branch: String,
    /// How long each report stays a separate commit.
    pub keep: Duration,
    /// The maximum age of the snapshot; none: no snapshot is kept.
    pub snapshot_every: Option<Duration>,
    /// What policies ask of pools.
    pub asked: Option<Arc<AllocationRequest>>,
}

/// The allocation of pools that the branch has, or why its file cannot be read.
pub type BranchAllocation = Result<Allocation, Unreadable>;

/// The state of the cluster at a time.
#[derive(Debug, Clone, PartialEq)]
pub struct ClusterSnapshot {
    /// Nodes, namespaces, pods, and gateways' interfaces.
    pub facts: Facts,
    /// When it was taken.
    pub taken: Timestamp,
    /// Only the interfaces of the node `own` are known.
    pub only_own: bool,
    /// The node that took it; none if all interfaces are known.
    pub own: Option<NodeName>,
}

/// How long the thread waits for more before it writes a report: drift comes in bursts.
const SETTLE: Duration = Duration::from_millis(150);
/// The wait before a rejected batch is retried if nothing changed.
const REFUSED: Duration = Duration::from_mins(10);
/// The wait before a rejected batch is retried if its content changed.
const REFUSED_NEWS: Duration = Duration::from_secs(5);
/// How often the history is checked for commits that can be folded.
const FOLD: Duration = Duration::from_hours(24);

/// A handle on the thread.
#[derive(Debug)]
pub struct Publisher {
    batches: Option<UnboundedSender<Message>>,
    thread: Option<thread::JoinHandle<()>>,
    state: Arc<Mutex<PublisherState>>,
    allocations: watch::Receiver<Option<BranchAllocation>>,
}

/// A message to the thread: a batch, or none to cancel the last one.
type Message = Option<(ReportBatch, Option<ClusterSnapshot>)>;

/// State shared between the thread and its handle.
#[derive(Debug, Default)]
struct PublisherState {
    /// Why the last attempt failed.
    fault: Option<String>,
    /// A batch was sent and not attempted yet.
    busy: bool,
    /// The batch was cancelled.
    stopped: bool,
    /// The batch was dropped because another process leads.
    dropped: bool,
    /// When a snapshot is due without a report, and when it may go with one. None: now.
    alone: Option<Instant>,
    riding: Option<Instant>,
}

impl Publisher {
    /// Starts the thread. It writes only while `leads` returns true.
    pub fn start(options: PublisherOptions, leads: IsLeader) -> std::io::Result<Self> {
        let waits = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
        let open =
            |options: &PublisherOptions| Mirror::open(&options.mirror, options.source.clone(), options.access.clone());
        let (mut publisher, writing) = Self::writing(options, open, leads, Clock::system());
        let thread = thread::Builder::new().name("publisher".to_owned()).spawn(move || waits.block_on(writing))?;
        publisher.thread = Some(thread);
        Ok(publisher)
    }

    /// The handle, and the work: it blocks while it accesses Git, and ends when the handle is dropped. `open` opens the
    /// branch, or opens it again.
    pub fn writing<R: ReportsBranch>(
        options: PublisherOptions,
        open: impl FnMut(&PublisherOptions) -> git::Result<R>,
        leads: IsLeader,
        clock: Clock,
    ) -> (Self, impl Future<Output = ()>) {
        let (batches, received) = unbounded_channel();
        let state = Arc::<Mutex<PublisherState>>::default();
        let shared = Arc::clone(&state);
        let (allocation, allocations) = watch::channel(None);
        let work = async move {
            let (unsent, seed) = (Unsent::open(&options.mirror), options.seed);
            let state = shared;
            let logged = LogOnce::default();
            let writer =
                Writer { options, open, clock, leads, mirror: None, unsent, state, fold: None, logged, allocation };
            writer.serve(received, &mut Backoff::new(seed)).await;
        };
        (Self { batches: Some(batches), thread: None, state, allocations }, work)
    }

    /// Sends reports, with a snapshot of the cluster where one is due. Only the newest batch is written.
    pub fn send(&self, batch: ReportBatch, snapshot: Option<ClusterSnapshot>) {
        {
            let mut state = self.state();
            (state.busy, state.stopped, state.dropped) = (true, false, false);
        }
        if let (Some(every), Some(_)) = (batch.snapshot_every, &snapshot) {
            // A snapshot is large. While the repository is unavailable, snapshots are taken no more often than they
            // could be written.
            let next = Some(Instant::now() + every / RIDING);
            let mut state = self.state();
            (state.alone, state.riding) = (next, next);
        }
        if let Some(batches) = &self.batches {
            let _ = batches.send(Some((batch, snapshot)));
        }
    }

    /// Cancels the last batch, and clears the reason why it is not committed.
    pub fn stop(&self) {
        if let Some(batches) = &self.batches {
            self.state().stopped = true;
            let _ = batches.send(None);
        }
    }

    /// Whether the last batch was dropped because another process led. It has to be sent again.
    pub fn dropped(&self) -> bool {
        self.state().dropped
    }

    /// Whether a snapshot should go with the next batch. `news`: the batch's content changed, so that a commit is
    /// likely.
    pub fn wants_snapshot(&self, news: bool) -> bool {
        let state = self.state();
        let due = if news { state.riding } else { state.alone };
        due.is_none_or(|due| due <= Instant::now())
    }

    /// The allocation of pools that the branch has, whenever it was read; none: it was not read yet.
    pub fn allocations(&self) -> watch::Receiver<Option<BranchAllocation>> {
        self.allocations.clone()
    }

    /// Whether the value of [`Publisher::fault`] may change soon.
    pub fn unsettled(&self) -> bool {
        let state = self.state();
        state.busy || state.fault.is_some()
    }

    /// Why the last reports are not committed; none if they are.
    pub fn fault(&self) -> Option<String> {
        self.state().fault.clone()
    }

    fn state(&self) -> std::sync::MutexGuard<'_, PublisherState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the last batch is committed, or one more attempt failed.
    pub fn finish(mut self) {
        self.batches = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The state of the thread.
struct Writer<R, O> {
    options: PublisherOptions,
    open: O,
    clock: Clock,
    leads: IsLeader,
    mirror: Option<R>,
    unsent: Unsent,
    state: Arc<Mutex<PublisherState>>,
    /// When the history was last checked.
    fold: Option<Instant>,
    logged: LogOnce,
    allocation: watch::Sender<Option<BranchAllocation>>,
}

/// Messages that are logged once, however often their cause occurs.
#[derive(Default)]
struct LogOnce {
    too_large: bool,
    unfoldable: bool,
}

impl<R: ReportsBranch, O: FnMut(&PublisherOptions) -> git::Result<R>> Writer<R, O> {
    async fn serve(mut self, mut received: UnboundedReceiver<Message>, backoff: &mut Backoff) {
        while let Some(message) = received.recv().await {
            match message {
                Some((batch, snapshot)) => self.deliver(batch, snapshot, &mut received, backoff).await,
                None => self.given_up(false),
            }
            backoff.reset();
        }
    }

    /// Tries until the batch is committed or cancelled, or another process leads.
    async fn deliver(
        &mut self,
        mut batch: ReportBatch,
        mut snapshot: Option<ClusterSnapshot>,
        received: &mut UnboundedReceiver<Message>,
        backoff: &mut Backoff,
    ) {
        // The earliest and the latest time of the next attempt. They differ if the content changed after a rejection.
        let (mut early, mut late) = (SETTLE, SETTLE);
        loop {
            let began = Instant::now();
            let mut until = began + late;
            let ended = loop {
                match timeout_at(until, received.recv()).await {
                    Ok(Some(Some((newer, seen)))) => {
                        // Reports that were never attempted must be merged in: an agent that has restarted since does
                        // not send their content again.
                        let reports = following(&newer.reports, &batch.reports);
                        (batch, snapshot) = (ReportBatch { reports, ..newer }, seen.or(snapshot));
                        until = until.min((began + early).max(Instant::now() + SETTLE));
                    }
                    Ok(Some(None)) => return self.given_up(false),
                    Ok(None) => break true,
                    Err(_) => break false,
                }
            };
            match self.write(&batch, snapshot.as_ref()) {
                Ok(Some(published)) => {
                    self.committed(&published, &batch);
                    return self.fold(&batch);
                }
                Ok(None) => return self.given_up(true),
                Err(error) => {
                    self.failed(&error, &batch);
                    if ended {
                        return;
                    }
                    (early, late) = if error.kind() == ErrorKind::NeedsIntervention {
                        (REFUSED_NEWS, REFUSED)
                    } else {
                        let wait = backoff.next_wait().max(error.retry_after().unwrap_or_default());
                        (wait, wait)
                    };
                }
            }
        }
    }

    /// Whether the batch is still to be written by this process.
    fn may_write(&self) -> bool {
        (self.leads)() && !self.state.lock().unwrap_or_else(PoisonError::into_inner).stopped
    }

    /// Drops a batch. The content of earlier batches that could not be committed is kept: it is history, and replaces
    /// no newer content.
    fn given_up(&self, dropped: bool) {
        self.update_state(|state| {
            (state.fault, state.dropped) = (None, dropped && !state.stopped);
            // Another batch was sent since.
            state.busy = !dropped && !state.stopped;
            (state.alone, state.riding) = (None, None);
        });
        tracing::debug!(dropped, "what is not committed yet is not tried any more");
    }

    fn update_state(&self, change: impl FnOnce(&mut PublisherState)) {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn committed(&mut self, published: &PublishOutcome, batch: &ReportBatch) {
        let mut before = None;
        self.update_state(|state| (before, state.busy) = (state.fault.take(), false));
        self.unsent.clear();
        if before.is_some() {
            tracing::info!(branch = batch.branch, "drift reports are committed again");
        }
        if let PublishOutcome::Committed { commit, tries } = published {
            tracing::info!(branch = batch.branch, commit = commit.short(), tries, "drift report committed");
        }
    }

    fn failed(&mut self, error: &git::Error, batch: &ReportBatch) {
        let hint = error.hint();
        let text = crate::telemetry::chain(error);
        let fault = hint.as_ref().map_or_else(|| text.clone(), |hint| format!("{text} (hint: {hint})"));
        let mut before = None;
        self.update_state(|state| (before, state.busy) = (state.fault.replace(fault.clone()), false));
        self.unsent.keep(&batch.reports);
        if before.as_ref() == Some(&fault) {
            tracing::debug!(error = text, "the drift report is still not committed");
        } else {
            tracing::warn!(error = text, hint, branch = batch.branch, "the drift report is not committed");
        }
    }

    fn target(&self, batch: &ReportBatch) -> git::Result<Target> {
        Ok(Target {
            branch: batch.branch.clone(),
            policy_branch: batch.policy_branch.clone(),
            identity: self.options.cluster.clone(),
            author: Author::default(),
            time: self.clock.now(),
            signer: self.options.signing_key.as_deref().map(Signer::read).transpose()?,
        })
    }

    fn mirror(&mut self) -> git::Result<R> {
        self.mirror.take().map_or_else(|| (self.open)(&self.options), Ok)
    }

    /// None: the batch was cancelled, or another process leads.
    fn write(
        &mut self,
        batch: &ReportBatch,
        snapshot: Option<&ClusterSnapshot>,
    ) -> git::Result<Option<PublishOutcome>> {
        if !self.may_write() {
            return Ok(None);
        }
        let target = self.target(batch)?;
        let mut mirror = self.mirror()?;
        let mut backoff = Backoff::new(self.options.seed);
        let input = DraftInput { cluster: &self.options.cluster, batch, snapshot, unsent: self.unsent.reports() };
        let (mut age, mut too_large, mut given_up, mut allocated) = (None, None, false, None);
        let result = mirror.publish(
            &target,
            &mut |state| {
                // Reading the branch may have taken long.
                given_up = !self.may_write();
                if given_up {
                    return None;
                }
                let planned = plan(&input, state, self.clock.now());
                (age, too_large) = (planned.snapshot_age, planned.too_large);
                allocated = Some(planned.allocated);
                planned.draft
            },
            &mut |_| {
                // Another node pushed first. A push takes milliseconds, so a short wait is enough.
                thread::sleep(backoff.next_wait().min(Duration::from_millis(300)));
            },
        );
        self.mirror = Some(mirror);
        if given_up {
            return Ok(None);
        }
        if let Some(allocated) = allocated {
            self.learnt(allocated, result.is_ok());
        }
        if let Some(bytes) = too_large.filter(|_| !std::mem::replace(&mut self.logged.too_large, true)) {
            let most = crate::core::snapshot::LARGEST >> 20;
            tracing::warn!(
                bytes,
                "the cluster is too large for a snapshot: it may have {most} MiB; previews need --cluster"
            );
        }
        if result.is_ok() {
            self.schedule_snapshot(batch, snapshot.is_some(), age);
        }
        result.map(Some)
    }

    /// Passes on which allocation the branch has: the planned one only if it was committed. Also the same again: a
    /// receiver may have learnt that its own is outdated.
    fn learnt(&self, allocated: Result<AllocationChange, Unreadable>, committed: bool) {
        let allocation = allocated.map(|change| if committed { change.after } else { change.before });
        self.allocation.send_replace(Some(allocation));
    }

    /// Sets when the next snapshot is due.
    fn schedule_snapshot(&self, batch: &ReportBatch, seen: bool, age: Option<Duration>) {
        let now = Instant::now();
        let every = batch.snapshot_every.unwrap_or(FOLD);
        self.update_state(|state| match age {
            // A snapshot was taken just now: whatever the branch has, it is as good as new.
            _ if seen => {
                let left = age.map_or(every, |age| every.saturating_sub(age));
                state.alone = Some(now + left.max(every / RIDING));
                state.riding = Some(now + every / RIDING);
            }
            // Another client removed the snapshot from the branch.
            None if batch.snapshot_every.is_some() => (state.alone, state.riding) = (None, None),
            _ => {}
        });
    }

    /// Folds old commits once a day. A failure is logged once, and the branch keeps growing.
    fn fold(&mut self, batch: &ReportBatch) {
        if self.logged.unfoldable || self.fold.is_some_and(|at| at.elapsed() < FOLD) || !self.may_write() {
            return;
        }
        self.fold = Some(Instant::now());
        let folded = self.target(batch).and_then(|target| {
            let mut mirror = self.mirror()?;
            let folded = mirror.compact(&target, batch.keep);
            self.mirror = Some(mirror);
            folded
        });
        let branch = &batch.branch;
        match folded {
            Ok(Compacted::Done { commit, folded, kept }) => {
                tracing::info!(branch, commit = commit.short(), folded, kept, "old reports are folded into one commit");
            }
            Ok(Compacted::NotYet) => {}
            // Retried next time.
            Ok(Compacted::Overtaken) => self.fold = None,
            Ok(Compacted::Others { commit, by }) => {
                self.logged.unfoldable = true;
                tracing::warn!(
                    branch,
                    commit = commit.short(),
                    by,
                    "old reports are not folded: the branch has commits of another author"
                );
            }
            Ok(Compacted::Refused(why)) => {
                self.logged.unfoldable = true;
                tracing::warn!(
                    branch,
                    why,
                    "old reports are not folded: the repository does not take it; the branch grows on"
                );
            }
            Err(error) => tracing::warn!(branch, error = crate::telemetry::chain(&error), "old reports are not folded"),
        }
    }
}
