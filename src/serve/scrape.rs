//! Requests for the kernel's counters, from a scrape to the loop. The counters are read only for a scrape, so that an
//! idle node sleeps.
//!
//! The loop answers between two of its rounds. A scrape waits for [`PATIENCE`] at most and then shows the last known
//! values, so that neither blocks the other. Not here: how counters are read (`kernel`).

use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout};

use crate::core::compile::counters::Counters;

/// The longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(1);

/// A scrape this soon after another shows the same values: a client that scrapes without pause must not keep the loop
/// busy.
const FRESH: Duration = Duration::from_millis(100);

/// The loop's end: receives the requests.
#[derive(Debug)]
pub struct ScrapeRequests(mpsc::Receiver<ScrapeRequest>);

impl ScrapeRequests {
    /// Waits for the next request; for ever if there is no sender any more. Cancelling the wait loses nothing.
    pub async fn next(&mut self) -> ScrapeRequest {
        match self.0.recv().await {
            Some(request) => request,
            None => std::future::pending().await,
        }
    }
}

/// A scrape requests the counters. If the request is dropped, what was last known is shown.
pub struct ScrapeRequest {
    record: Record,
    done: oneshot::Sender<()>,
}

/// Stores the counters where they are shown.
type Record = Box<dyn FnOnce(&Counters) + Send>;

impl ScrapeRequest {
    /// Answers the request. A late answer is shown to the next scrape.
    pub fn answer(self, counters: &Counters) {
        (self.record)(counters);
        // It fails if the scrape no longer waits.
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
    /// The time of the last request. Locked while an answer is awaited, so that one request is open at a time.
    last: tokio::sync::Mutex<Option<Instant>>,
}

impl ScrapeRelay {
    /// Sends requests to the returned receiver from now on.
    pub(super) fn listen(&self) -> ScrapeRequests {
        let (sender, receiver) = mpsc::channel(1);
        *self.to.lock().unwrap_or_else(PoisonError::into_inner) = Some(sender);
        ScrapeRequests(receiver)
    }

    /// Asks, and waits until the answer is in or patience ends.
    pub(super) async fn ask(&self, record: Record) {
        let Some(to) = self.to.lock().unwrap_or_else(PoisonError::into_inner).clone() else { return };
        let mut last = self.last.lock().await;
        if last.is_some_and(|at| at.elapsed() < FRESH) {
            return;
        }
        let (done, answered) = oneshot::channel();
        // Full: the loop has not come to the last one yet.
        if to.try_send(ScrapeRequest { record, done }).is_ok() {
            // Late or dropped: what was last known is shown.
            let _ = timeout(PATIENCE, answered).await;
        }
        *last = Some(Instant::now());
    }
}
