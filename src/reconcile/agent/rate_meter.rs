//! Measures what the kernel counts between two heartbeats, which report it.
//!
//! Not here: what a counter means (`core::compile::counters`), and scrapes of metrics.

use std::sync::Arc;

use tokio::time::Instant;

use crate::cluster::live::RENEWAL;
use crate::core::rates::{Counted, Rates, ReportedRates};
use crate::reconcile::node::kernel::NodeKernel;
use crate::reconcile::node::round::Reconciler;
use crate::telemetry::chain;

/// What was counted last, and when to count again.
#[derive(Debug)]
pub(super) struct RateMeter {
    began: Instant,
    last: Option<Counted>,
    reported: Option<Arc<ReportedRates>>,
    due: Instant,
}

impl RateMeter {
    /// Counts as soon as it can, and soon again: a new agent reports its rates early.
    pub(super) fn new() -> Self {
        let now = Instant::now();
        Self { began: now, last: None, reported: None, due: now }
    }

    /// When to count again.
    pub(super) fn due(&self) -> Instant {
        self.due
    }

    /// What is counted between the last two times; nothing at first, and while the counters cannot be read.
    pub(super) fn reported(&self) -> Option<Arc<ReportedRates>> {
        self.reported.clone()
    }

    /// Counts, if that is due.
    pub(super) async fn measure<K: NodeKernel>(&mut self, reconciler: &mut Reconciler<K>) {
        let now = Instant::now();
        if now < self.due {
            return;
        }
        self.due = now + if self.last.is_none() { RENEWAL / 4 } else { RENEWAL };
        // Until a round says what each rule means, nothing is counted; then all that the rules have counted before this process.
        if reconciler.applied().is_none() {
            return;
        }
        let counted = match reconciler.counters().await {
            Ok(counters) => Some(Counted { counters: counters.clone(), at: now.duration_since(self.began) }),
            Err(error) => {
                tracing::debug!(error = chain(&error), "the kernel's counters cannot be read for the heartbeat");
                None
            }
        };
        let rates = self.last.as_ref().zip(counted.as_ref()).and_then(|(before, now)| Rates::between(before, now));
        self.reported = rates.map(|rates| Arc::new(ReportedRates::of(&rates)));
        self.last = counted;
    }
}
