//! Requests for the kernel's counters, from a scrape to the loop. The counters are read only for a scrape, so that an
//! idle node sleeps.
//!
//! The loop answers between two of its rounds. A scrape waits for [`PATIENCE`] at most and then shows the last known
//! values, so that neither blocks the other. Not here: how counters are read (`kernel`).

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout};

use super::Metrics;
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
            Some(question) => question,
            None => std::future::pending().await,
        }
    }
}

/// A request for the counters. Dropping it is an answer, too: the last known values are shown.
#[derive(Debug)]
pub struct ScrapeRequest {
    metrics: Metrics,
    done: oneshot::Sender<()>,
}

impl ScrapeRequest {
    /// Answers the request. A late answer is shown to the next scrape.
    pub fn answer(self, counters: &Counters) {
        self.metrics.counters(counters);
        // The scrape no longer waits.
        let _ = self.done.send(());
    }
}

/// The server's end: sends requests, if there is a loop that answers them.
#[derive(Debug, Default)]
pub(super) struct ScrapeRelay {
    to: Mutex<Option<mpsc::Sender<ScrapeRequest>>>,
    /// The time of the last request. Locked while an answer is awaited, so that one request is open at a time.
    asked: tokio::sync::Mutex<Option<Instant>>,
}

impl ScrapeRelay {
    /// Sends requests to the returned receiver from now on.
    pub(super) fn listen(&self) -> ScrapeRequests {
        let (sender, receiver) = mpsc::channel(1);
        *self.to.lock().unwrap_or_else(PoisonError::into_inner) = Some(sender);
        ScrapeRequests(receiver)
    }

    /// Requests the counters, and waits for the answer or [`PATIENCE`].
    pub(super) async fn ask(&self, metrics: &Metrics) {
        let Some(to) = self.to.lock().unwrap_or_else(PoisonError::into_inner).clone() else { return };
        let mut asked = self.asked.lock().await;
        if asked.is_some_and(|at| at.elapsed() < FRESH) {
            return;
        }
        let (done, answered) = oneshot::channel();
        // Full: the loop has not handled the last request yet.
        if to.try_send(ScrapeRequest { metrics: metrics.clone(), done }).is_ok() {
            // Late or dropped: the last known values are shown.
            let _ = timeout(PATIENCE, answered).await;
        }
        *asked = Some(Instant::now());
    }
}
