//! The status writer: writes an agent's status of its node, when there is something new. On a task of its own, so that an API server that is
//! slow or away holds up no round.
//!
//! Counts of pods wait: a pod's start costs no write. A status that another client deleted or changed is written again: at once where the
//! agent watches it, as a gateway does, else at the next check. Events have a task of their own beside it. Not here: what a status holds
//! (`core::status`).

use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use crate::backoff::Backoff;
use crate::cluster::live::{ApiClient, ApiError, EventKind, Recorder, Regarding};
use crate::core::name::NodeName;
use crate::core::status::{NodeStatus, Reason};
use crate::telemetry::chain;

/// So late counts of pods may be told that nothing else has been said since.
const COUNTS: Duration = Duration::from_mins(5);

/// How often an agent looks whether what it said still stands: a read of one object.
const LOOK: Duration = Duration::from_mins(10);

/// What is to be told.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct StatusUpdate {
    /// The status.
    pub status: NodeStatus,
    /// The Node's uid: what is told of a node goes with it.
    pub uid: String,
    /// How often the object was seen to be taken away: then all of it is written anew.
    pub lost: u64,
}

impl StatusUpdate {
    /// The same without what can wait.
    fn pressing(&self) -> Self {
        let mut word = self.clone();
        word.status.members = 0;
        word.status.policies.clear();
        word
    }
}

/// Something that a person should see beside the Node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventNote {
    /// The Node's uid.
    pub uid: String,
    /// Why.
    pub reason: Reason,
    /// A sentence, without anything that is different each time.
    pub text: String,
}

/// So many events wait at most. They are for people: while the API server is away more of them help nobody.
const WAITING: usize = 16;

/// A handle on the tasks, which end with it.
#[derive(Debug)]
pub struct StatusWriter {
    words: watch::Sender<Option<StatusUpdate>>,
    notes: mpsc::Sender<EventNote>,
    tasks: [JoinHandle<()>; 2],
}

impl StatusWriter {
    /// Starts the task.
    pub fn start(live: ApiClient, node: NodeName, seed: u64) -> Self {
        let (words, heard) = watch::channel(None);
        let (notes, noted) = mpsc::channel(WAITING);
        let recorder = live.recorder("egret.dev/agent", node.as_str());
        let events = tokio::spawn(record(recorder, node.clone(), noted));
        let status = tokio::spawn(tell(live, node, heard, Backoff::new(seed)));
        Self { words, notes, tasks: [status, events] }
    }

    /// Writes an event, unless too many wait already.
    pub fn note(&self, note: EventNote) {
        if let Err(error) = self.notes.try_send(note) {
            tracing::debug!(%error, "an event is left out");
        }
    }

    /// Says something. The newest counts.
    pub fn say(&self, word: StatusUpdate) {
        self.words.send_if_modified(|said| {
            let new = said.as_ref() != Some(&word);
            *said = Some(word);
            new
        });
    }
}

impl Drop for StatusWriter {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

async fn record(mut recorder: Recorder, node: NodeName, mut notes: mpsc::Receiver<EventNote>) {
    while let Some(note) = notes.recv().await {
        let regarding = Regarding::Node { name: node.to_string(), uid: note.uid };
        if let Err(error) = recorder.event(&regarding, EventKind::Warning, note.reason, &note.text).await {
            tracing::warn!(error = chain(&error), reason = note.reason.as_str(), "an event is not written");
        }
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

async fn tell(live: ApiClient, node: NodeName, mut words: watch::Receiver<Option<StatusUpdate>>, mut backoff: Backoff) {
    let mut told: Option<Written> = None;
    // What the API server had last. After a restart it is read once, before the first write.
    let mut known: Option<NodeStatus> = None;
    loop {
        let look = backoff.spread(LOOK);
        tokio::select! {
            more = words.changed() => if more.is_err() { return },
            () = sleep(look) => if !stands(&live, &node, told.as_ref()).await { told = None },
        }
        loop {
            let Some(word) = words.borrow_and_update().clone() else { break };
            if let Some(before) = &told {
                if before.update == word {
                    break;
                }
                if before.update.pressing() == word.pressing() {
                    let left = COUNTS.saturating_sub(before.at.elapsed());
                    if !left.is_zero() {
                        tokio::select! {
                            () = sleep(left) => {}
                            more = words.changed() => if more.is_err() { return },
                        }
                        continue;
                    }
                }
            }
            match write(&live, &node, &word, told.as_ref(), &mut known).await {
                Ok(status) => {
                    backoff.reset();
                    told = Some(Written { update: word, status, at: Instant::now() });
                }
                Err(error) => {
                    let wait = backoff.next_wait();
                    tracing::warn!(error = chain(&error), hint = error.hint(), retry = ?wait, "the node's status is not written");
                    // It may have been written and the answer lost: all of it is written again.
                    told = None;
                    sleep(wait).await;
                }
            }
        }
    }
}

/// Whether the API server still has what was written. An error counts as yes: the next check comes.
async fn stands(live: &ApiClient, node: &NodeName, told: Option<&Written>) -> bool {
    let Some(written) = told else { return true };
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

/// The object first: a status has nothing to stand in before. Its label is what others watch it by; one whose status does not name an
/// exit yet serves none for them. Gives the status as it was written.
async fn write(
    live: &ApiClient,
    node: &NodeName,
    word: &StatusUpdate,
    before: Option<&Written>,
    known: &mut Option<NodeStatus>,
) -> Result<NodeStatus, ApiError> {
    let had = match known.take() {
        Some(had) => had,
        None => live.egress_node(node).await?.map(|found| found.status).unwrap_or_default(),
    };
    let had = known.insert(had);
    let object = |update: &StatusUpdate| (update.uid.clone(), update.lost, update.status.concerns_others());
    let same = before.filter(|before| object(&before.update) == object(word));
    let generation = match same.and_then(|before| before.status.observed_generation) {
        Some(generation) => generation,
        None => live.apply_node(node, &word.uid, word.status.concerns_others()).await?.generation,
    };
    let status = word.status.as_written(generation, had);
    live.apply_node_status(node, &status).await?;
    *had = status.clone();
    Ok(status)
}
