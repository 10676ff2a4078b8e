//! Which failures of what is tried again and again are logged.
//!
//! Not here: how soon it is tried again (`backoff`).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use crate::cluster::live::ClusterWatch;

/// How often at most a fault that comes and goes is logged.
const FAULT_PAUSE: Duration = Duration::from_mins(1);

/// Decides which failures of one thing that is tried again and again are logged: the first, another cause after a while,
/// and the end of what was logged. An API server that is restarted fails each request several times, with several causes.
#[derive(Debug, Clone, Default)]
pub(in crate::reconcile) struct FaultLog(Option<Logged>);

#[derive(Debug, Clone)]
struct Logged {
    cause: String,
    at: Instant,
    over: bool,
}

impl FaultLog {
    /// It failed. Returns whether that is to be logged.
    pub(in crate::reconcile) fn failed(&mut self, cause: &str) -> bool {
        let known = self
            .0
            .as_ref()
            .is_some_and(|logged| logged.at.elapsed() < FAULT_PAUSE || !logged.over && logged.cause == cause);
        if !known {
            self.0 = Some(Logged { cause: cause.to_owned(), at: Instant::now(), over: false });
        }
        !known
    }

    /// It works. Returns whether the end of a failure is to be logged.
    pub(in crate::reconcile) fn works(&mut self) -> bool {
        self.0.as_mut().is_some_and(|logged| !std::mem::replace(&mut logged.over, true))
    }
}

/// The log of what cannot be watched, by kind.
#[derive(Debug, Default)]
pub(in crate::reconcile) struct WatchLog {
    faults: BTreeMap<&'static str, FaultLog>,
    closed: BTreeSet<&'static str>,
}

impl WatchLog {
    /// Logs what has failed since, and what is watched again.
    pub(in crate::reconcile) fn note(&mut self, watching: &ClusterWatch) {
        let faults = watching.faults();
        for (what, fault) in faults {
            if self.faults.entry(what).or_default().failed(&fault.message) {
                tracing::warn!(what, hint = fault.hint, "{}; what is known of it stays", fault.message);
            }
        }
        for (what, log) in self.faults.iter_mut().filter(|(what, _)| !faults.contains_key(*what)) {
            if log.works() {
                tracing::info!(what, "{what} are watched again");
            }
        }
        let closed = watching.closed();
        for (what, (why, hint)) in closed.iter().filter(|(what, _)| !self.closed.contains(*what)) {
            tracing::warn!(what, hint, "{why}; what is known of it stays");
        }
        self.closed = closed.keys().copied().collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_failure_is_logged_once_and_its_end_and_another_cause_after_a_while() {
        let mut log = FaultLog::default();
        assert!(!log.works(), "it never failed");
        assert!(log.failed("connection reset") && !log.failed("connection reset") && !log.failed("too old"));
        assert!(log.works() && !log.works());
        assert!(!log.failed("connection reset"), "a moment later");
        assert!(!log.works(), "what was not logged does not end in the log");
        tokio::time::advance(FAULT_PAUSE).await;
        assert!(log.failed("connection reset"));
        tokio::time::advance(FAULT_PAUSE).await;
        assert!(!log.failed("connection reset"), "it is known");
        assert!(log.failed("forbidden"));
        assert!(log.works());
    }
}
