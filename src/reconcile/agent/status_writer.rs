//! The teller: writes what an agent says of its node, when it says something new. On a task of its own, so that an API server that is
//! slow or away holds up no round.
//!
//! Counts of pods wait: a pod's start is enforced without any write. What somebody took away or changed is said again: at once where the
//! agent hears of it, as a gateway does, else when it looks. Events go the same way, beside it. Deliberately absent: what is said
//! (`core::status`).

use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use crate::backoff::Backoff;
use crate::cluster::live::{ApiClient, ApiError, EventKind, Recorder, Regarding};
use crate::core::name::NodeName;
use crate::core::status::NodeStatus;
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
    /// One word in CamelCase.
    pub reason: &'static str,
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
            tracing::warn!(error = chain(&error), reason = note.reason, "an event is not written");
        }
    }
}

async fn tell(live: ApiClient, node: NodeName, mut words: watch::Receiver<Option<StatusUpdate>>, mut backoff: Backoff) {
    let mut told: Option<(StatusUpdate, Instant)> = None;
    loop {
        let look = backoff.spread(LOOK);
        tokio::select! {
            more = words.changed() => if more.is_err() { return },
            () = sleep(look) => if !stands(&live, &node, told.as_ref().map(|(word, _)| word)).await { told = None },
        }
        loop {
            let Some(word) = words.borrow_and_update().clone() else { break };
            if let Some((before, at)) = &told {
                if *before == word {
                    break;
                }
                if before.pressing() == word.pressing() {
                    let left = COUNTS.saturating_sub(at.elapsed());
                    if !left.is_zero() {
                        tokio::select! {
                            () = sleep(left) => {}
                            more = words.changed() => if more.is_err() { return },
                        }
                        continue;
                    }
                }
            }
            match write(&live, &node, &word, told.as_ref().map(|(before, _)| before)).await {
                Ok(()) => {
                    backoff.reset();
                    told = Some((word, Instant::now()));
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

/// Whether what was told is there. Where that cannot be seen it is taken to be: the next look comes.
async fn stands(live: &ApiClient, node: &NodeName, told: Option<&StatusUpdate>) -> bool {
    let Some(word) = told else { return true };
    match live.egress_node(node).await {
        Ok(Some(found)) if found.status == word.status && found.is_gateway() == word.status.concerns_others() => true,
        Ok(_) => {
            tracing::warn!("somebody changed what was said of this node; it is said again");
            false
        }
        Err(error) => {
            tracing::debug!(error = chain(&error), "what was said of this node cannot be looked at");
            true
        }
    }
}

/// The object first: a status has nothing to stand in before. Its label is what others watch it by; one whose status does not name an
/// exit yet serves none for them.
async fn write(
    live: &ApiClient,
    node: &NodeName,
    word: &StatusUpdate,
    before: Option<&StatusUpdate>,
) -> Result<(), ApiError> {
    if before.is_none_or(|before| {
        (&before.uid, before.lost, before.status.concerns_others())
            != (&word.uid, word.lost, word.status.concerns_others())
    }) {
        live.apply_node(node, &word.uid, word.status.concerns_others()).await?;
    }
    live.apply_node_status(node, &word.status).await?;
    Ok(())
}
