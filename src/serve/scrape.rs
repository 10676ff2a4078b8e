//! Asking the loop for the kernel's counters: when somebody wants to see them, and never otherwise. An idle node sleeps.
//!
//! The loop answers between two of its turns. Who asks waits for [`PATIENCE`] at most and then sees what was last known, so that
//! neither waits for the other. Deliberately absent: how they are read.

use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout};

use crate::core::compile::counters::Counters;

/// So long an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(1);

/// Who asks again so soon sees the same: whoever asks without pause must not keep the loop busy.
const FRESH: Duration = Duration::from_millis(100);

/// The loop's end: what is asked of it.
#[derive(Debug)]
pub struct ScrapeRequests(mpsc::Receiver<ScrapeRequest>);

impl ScrapeRequests {
    /// Waits for the next question; for ever where nobody asks any more. Giving up waiting loses nothing.
    pub async fn next(&mut self) -> ScrapeRequest {
        match self.0.recv().await {
            Some(question) => question,
            None => std::future::pending().await,
        }
    }
}

/// Somebody wants to know the counters. To drop it is an answer, too: what was last known is shown.
pub struct ScrapeRequest {
    record: Record,
    done: oneshot::Sender<()>,
}

/// Stores the counters where they are shown.
type Record = Box<dyn FnOnce(&Counters) + Send>;

impl ScrapeRequest {
    /// Answers. An answer that comes late is shown to the next who asks.
    pub fn answer(self, counters: &Counters) {
        (self.record)(counters);
        // Nobody waits any more.
        let _ = self.done.send(());
    }
}

impl fmt::Debug for ScrapeRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ScrapeRequest")
    }
}

/// The other end: where questions go, if there is a loop that answers any.
#[derive(Debug, Default)]
pub(super) struct ScrapeRelay {
    to: Mutex<Option<mpsc::Sender<ScrapeRequest>>>,
    /// When it was last asked. Held while an answer is waited for, so that one question is open at a time.
    asked: tokio::sync::Mutex<Option<Instant>>,
}

impl ScrapeRelay {
    /// From now on questions go to who holds the other end.
    pub(super) fn listen(&self) -> ScrapeRequests {
        let (sender, receiver) = mpsc::channel(1);
        *self.to.lock().unwrap_or_else(PoisonError::into_inner) = Some(sender);
        ScrapeRequests(receiver)
    }

    /// Asks, and waits until the answer is in or patience ends.
    pub(super) async fn ask(&self, record: Record) {
        let Some(to) = self.to.lock().unwrap_or_else(PoisonError::into_inner).clone() else { return };
        let mut asked = self.asked.lock().await;
        if asked.is_some_and(|at| at.elapsed() < FRESH) {
            return;
        }
        let (done, answered) = oneshot::channel();
        // Full: the loop has not come to the last one yet.
        if to.try_send(ScrapeRequest { record, done }).is_ok() {
            // Late or dropped: what was last known is shown.
            let _ = timeout(PATIENCE, answered).await;
        }
        *asked = Some(Instant::now());
    }
}
