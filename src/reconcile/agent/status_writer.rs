//! The status writer: writes an agent's status of its node when it changes. It runs as its own task, so that a slow
//! or unavailable API server delays no round.
//!
//! Pod counts are delayed, so that the start of a pod costs no write. A status that another client deleted or changed
//! is written again: at once if the agent watches it, as a gateway does, else at the next check. Events have a
//! separate task. Not here: what a status contains (`core::status`).

use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until};

use crate::backoff::Backoff;
use crate::cluster::live::{ApiClient, ApiError, EventKind, Recorder, Regarding};
use crate::core::name::NodeName;
use crate::core::status::{NodeStatus, Reason};
use crate::reconcile::fault_log::FaultLog;
use crate::telemetry::chain;

/// The longest delay of pod counts if nothing else of the status changes.
const COUNTS: Duration = Duration::from_mins(5);

/// How soon nodes report that they have a commit that changed nothing for them: all of them within this time for each
/// node of the cluster, so that a push costs an API server no more than a hundred such writes a second.
const CONFIRMATION: Duration = Duration::from_millis(10);

/// How often the agent checks that its status still stands: one GET of one object.
const CHECK_INTERVAL: Duration = Duration::from_mins(10);
/// The same after this agent came back: a controller that hears of it late reports the silence after this agent's
/// status.
const CHECK_AFTER_RETURN: Duration = Duration::from_secs(30);

/// A status to write.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct StatusUpdate {
    /// The status.
    pub status: NodeStatus,
    /// The Node's UID: the object has the Node as its owner.
    pub uid: String,
    /// How often the object was seen deleted. If the count rises, all of it is written again.
    pub lost: u64,
}

impl StatusUpdate {
    /// The same update without what can wait.
    fn urgent(&self) -> Self {
        let mut urgent = self.clone();
        urgent.status.members = 0;
        urgent.status.policies.clear();
        urgent
    }

    /// The same update, without the commit either.
    fn without_commit(&self) -> Self {
        let mut same = self.urgent();
        same.status.revision.clear();
        if let Some(report) = &mut same.status.report {
            report.active = None;
        }
        same
    }
}

/// An event to record on the Node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventNote {
    /// The Node's UID.
    pub uid: String,
    /// The event's reason.
    pub reason: Reason,
    /// The message. It contains nothing that varies from one occurrence to the next.
    pub text: String,
}

/// The most events that are queued. They are for operators: more are of no use while the API server is unavailable.
const WAITING: usize = 16;

/// A handle on the tasks; they end when it is dropped.
#[derive(Debug)]
pub struct StatusWriter {
    updates: watch::Sender<Option<(StatusUpdate, u32)>>,
    notes: mpsc::Sender<EventNote>,
    tasks: [JoinHandle<()>; 2],
}

impl StatusWriter {
    /// Starts the tasks.
    pub fn start(live: ApiClient, node: NodeName, seed: u64) -> Self {
        let (updates, receiver) = watch::channel(None);
        let (notes, noted) = mpsc::channel(WAITING);
        let recorder = live.recorder("egret.dev/agent", node.as_str());
        let events = tokio::spawn(record(recorder, node.clone(), noted, Backoff::new(seed)));
        let status = tokio::spawn(UpdateWriter::new(live, node, receiver, Backoff::new(seed)).run());
        Self { updates, notes, tasks: [status, events] }
    }

    /// Queues an event, unless the queue is full.
    pub fn note(&self, note: EventNote) {
        if let Err(error) = self.notes.try_send(note) {
            tracing::debug!(%error, "an event is left out");
        }
    }

    /// Sets the status to write. Only the newest is written. `nodes`: how many nodes the cluster has.
    pub fn write(&self, update: StatusUpdate, nodes: usize) {
        let nodes = u32::try_from(nodes).unwrap_or(u32::MAX);
        self.updates.send_if_modified(|last| {
            let new = last.as_ref().is_none_or(|(last, _)| *last != update);
            *last = Some((update, nodes));
            new
        });
    }
}

impl Drop for StatusWriter {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// Records events. What happens while there is no API server is recorded when it is back: a gateway may have failed with it.
async fn record(mut recorder: Recorder, node: NodeName, mut notes: mpsc::Receiver<EventNote>, mut backoff: Backoff) {
    while let Some(note) = notes.recv().await {
        let regarding = Regarding::Node { name: node.to_string(), uid: note.uid };
        while let Err(error) = recorder.event(&regarding, EventKind::Warning, note.reason, &note.text).await {
            if error.is_outage() {
                sleep(backoff.next_wait()).await;
                continue;
            }
            tracing::warn!(error = chain(&error), reason = note.reason.as_str(), "an event is not written");
            break;
        }
        backoff.reset();
    }
}

/// A status that the API server has.
struct Written {
    /// As the agent gave it.
    update: StatusUpdate,
    /// As it was written.
    status: NodeStatus,
    at: Instant,
}

/// Writes the updates of one node.
struct UpdateWriter {
    live: ApiClient,
    node: NodeName,
    updates: watch::Receiver<Option<(StatusUpdate, u32)>>,
    backoff: Backoff,
    log: FaultLog,
    written: Option<Written>,
    /// What the API server last had. After a restart it is read once, before the first write.
    known: Option<NodeStatus>,
    /// When a commit that changed nothing here is to be reported.
    confirmation: Option<Instant>,
    /// When to check next that the status still stands. Updates do not postpone it: they may come more often.
    check: Instant,
    /// Whether this agent came back, and has written nothing since.
    returned: bool,
}

impl UpdateWriter {
    fn new(
        live: ApiClient,
        node: NodeName,
        updates: watch::Receiver<Option<(StatusUpdate, u32)>>,
        mut backoff: Backoff,
    ) -> Self {
        let check = Instant::now() + backoff.spread(CHECK_INTERVAL);
        let log = FaultLog::default();
        Self {
            live,
            node,
            updates,
            backoff,
            log,
            written: None,
            known: None,
            confirmation: None,
            check,
            returned: true,
        }
    }

    /// Runs until the sender of updates is gone.
    async fn run(mut self) {
        loop {
            let due = match self.due() {
                Some((update, due)) if due <= Instant::now() => {
                    self.write(update).await;
                    continue;
                }
                due => due.map(|(_, due)| due),
            };
            tokio::select! {
                biased;
                more = self.updates.changed() => if more.is_err() { return },
                () = sleep_until(self.check) => self.check().await,
                () = sleep_until(due.unwrap_or(self.check)) => {}
            }
        }
    }

    /// The update to write and when; none if the newest one is written.
    fn due(&mut self) -> Option<(StatusUpdate, Instant)> {
        let (update, nodes) = self.updates.borrow_and_update().clone()?;
        let now = Instant::now();
        let Some(before) = &self.written else { return Some((update, now)) };
        if before.update == update {
            return None;
        }
        let due = if before.update.urgent() == update.urgent() {
            before.at + COUNTS
        } else if before.update.without_commit() == update.without_commit() {
            *self.confirmation.get_or_insert_with(|| now + self.backoff.jitter(CONFIRMATION * nodes))
        } else {
            now
        };
        Some((update, due))
    }

    async fn write(&mut self, update: StatusUpdate) {
        self.confirmation = None;
        match write(&self.live, &self.node, &update, self.written.as_ref(), &mut self.known).await {
            Ok(status) => {
                self.backoff.reset();
                if self.log.works() {
                    tracing::info!("the node's status is written again");
                }
                self.returned |= self
                    .written
                    .as_ref()
                    .is_some_and(|before| (before.update.lost, &before.update.uid) != (update.lost, &update.uid));
                if std::mem::take(&mut self.returned) {
                    self.check = Instant::now() + self.backoff.spread(CHECK_AFTER_RETURN);
                }
                self.written = Some(Written { update, status, at: Instant::now() });
            }
            Err(error) => {
                let wait = self.backoff.next_wait();
                let cause = chain(&error);
                if self.log.failed(&cause) {
                    tracing::warn!(error = cause, hint = error.hint(), retry = ?wait, "the node's status is not written");
                }
                // The write may have succeeded and its response been lost, so all of it is written again.
                self.written = None;
                sleep(wait).await;
            }
        }
    }

    /// Checks that the status still stands; otherwise it is written again.
    async fn check(&mut self) {
        self.check = Instant::now() + self.backoff.spread(CHECK_INTERVAL);
        if !stands(&self.live, &self.node, self.written.as_ref()).await {
            self.written = None;
        }
    }
}

/// Whether the API server still has what was written. An error counts as yes: the next check follows.
async fn stands(live: &ApiClient, node: &NodeName, written: Option<&Written>) -> bool {
    let Some(written) = written else { return true };
    let is_gateway = written.update.status.concerns_others();
    match live.egress_node(node).await {
        Ok(Some(found)) if found.status == written.status && found.is_gateway() == is_gateway => true,
        Ok(_) => {
            tracing::warn!("another client changed this node's status; it is written again");
            false
        }
        Err(error) => {
            tracing::debug!(error = chain(&error), "this node's status cannot be read back");
            true
        }
    }
}

/// Writes the object first, then its status, which needs the object. Watches select the object by its label. For
/// them, a node whose status does not name an exit yet serves none. Returns the status as written.
async fn write(
    live: &ApiClient,
    node: &NodeName,
    update: &StatusUpdate,
    before: Option<&Written>,
    known: &mut Option<NodeStatus>,
) -> Result<NodeStatus, ApiError> {
    let had = match known.take() {
        Some(had) => had,
        None => live.egress_node(node).await?.map(|found| found.status).unwrap_or_default(),
    };
    let had = known.insert(had);
    let object = |update: &StatusUpdate| (update.uid.clone(), update.lost, update.status.concerns_others());
    let same = before.filter(|before| object(&before.update) == object(update));
    let generation = match same.and_then(|before| before.status.observed_generation) {
        Some(generation) => generation,
        None => live.apply_node(node, &update.uid, update.status.concerns_others()).await?.generation,
    };
    let status = update.status.as_written(generation, had);
    live.apply_node_status(node, &status).await?;
    *had = status.clone();
    Ok(status)
}
