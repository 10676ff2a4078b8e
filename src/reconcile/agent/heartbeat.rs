//! The heartbeat task: renews the Lease by which the controller knows that this agent is alive. It is a separate task,
//! but it stops with the loop: a loop that hangs is not alive.

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use crate::backoff::Backoff;
use crate::cluster::live::{ApiClient, RENEWAL, SILENCE};
use crate::core::name::NodeName;
use crate::core::rates::ReportedRates;
use crate::reconcile::agent::rate_meter::RateMeter;
use crate::reconcile::fault_log::FaultLog;
use crate::reconcile::node::kernel::NodeKernel;
use crate::reconcile::node::round::Reconciler;
use crate::telemetry::chain;

/// How long the loop may take between two iterations before it counts as hanging: longer than any round.
const HANGING: Duration = Duration::from_mins(2);

/// After this time without a renewal the controller may have reported the agent as silent: it counts from another
/// answer than this task does.
const MAYBE_SILENT: Duration = SILENCE.saturating_sub(Duration::from_secs(RENEWAL.as_secs() / 2));

/// A handle on the task; it ends when it is dropped.
#[derive(Debug)]
pub struct Heartbeat {
    beats: watch::Sender<Beat>,
    returns: watch::Receiver<u64>,
    meter: RateMeter,
    task: JoinHandle<()>,
}

/// What the loop sends to the task.
#[derive(Debug, Clone)]
struct Beat {
    at: Instant,
    /// The Node's UID; none until it is known.
    uid: Option<String>,
    /// What the kernel counts.
    rates: Option<Arc<ReportedRates>>,
}

impl Heartbeat {
    /// Starts the task.
    pub fn start(live: ApiClient, namespace: String, node: NodeName, seed: u64) -> Self {
        let (beats, receiver) = watch::channel(Beat { at: Instant::now(), uid: None, rates: None });
        let (returned, returns) = watch::channel(0);
        let task = tokio::spawn(renew(live, namespace, node, receiver, returned, Backoff::new(seed)));
        Self { beats, returns, meter: RateMeter::new(), task }
    }

    /// When the kernel's counters are read for it next.
    pub(super) fn due(&self) -> Instant {
        self.meter.due()
    }

    /// Reads the kernel's counters, if that is due.
    pub(super) async fn measure<K: NodeKernel>(&mut self, reconciler: &mut Reconciler<K>) {
        self.meter.measure(reconciler).await;
    }

    /// The loop runs.
    pub fn beat(&self, uid: Option<&str>) {
        let rates = self.meter.reported();
        let known = self.beats.borrow().uid.as_deref() == uid;
        let change = |beat: &mut Beat| {
            beat.at = Instant::now();
            beat.rates = rates;
            if !known {
                beat.uid = uid.map(str::to_owned);
            }
            // Only the first UID has to wake the task.
            !known
        };
        self.beats.send_if_modified(change);
    }

    /// Waits until this agent comes back after the controller may have reported it as silent: then its status has to be
    /// written again.
    pub async fn returned(&mut self) {
        if self.returns.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

impl Drop for Heartbeat {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Whether the controller may have reported a silence meanwhile. While a virtual machine is paused or suspended, its
/// monotonic clock stands still, and only the wall clock shows it, after it was set.
fn was_away(elapsed: Duration, clock: SignedDuration) -> bool {
    elapsed >= MAYBE_SILENT || Duration::try_from(clock).is_ok_and(|clock| clock >= MAYBE_SILENT)
}

async fn renew(
    live: ApiClient,
    namespace: String,
    node: NodeName,
    mut beats: watch::Receiver<Beat>,
    returned: watch::Sender<u64>,
    mut backoff: Backoff,
) {
    let mut last: Option<(Instant, Timestamp)> = None;
    let mut log = FaultLog::default();
    loop {
        let Beat { at, uid, rates } = beats.borrow_and_update().clone();
        let Some(uid) = uid.filter(|_| at.elapsed() < HANGING) else {
            tokio::select! {
                biased;
                more = beats.changed() => if more.is_err() { return },
                () = sleep(RENEWAL) => {}
            }
            continue;
        };
        let wait = match live.renew_heartbeat(&namespace, &node, &uid, rates.as_deref()).await {
            Ok(()) => {
                backoff.reset();
                if log.works() {
                    tracing::info!("the heartbeat is written again");
                }
                let now = live.clock().now();
                let before = last.replace((Instant::now(), now));
                if before.is_some_and(|(instant, clock)| was_away(instant.elapsed(), now.duration_since(clock))) {
                    returned.send_modify(|times| *times += 1);
                }
                backoff.spread(RENEWAL / 2) + RENEWAL / 2
            }
            Err(error) => {
                let cause = chain(&error);
                if log.failed(&cause) {
                    tracing::warn!(error = cause, hint = error.hint(), "the heartbeat is not written");
                }
                backoff.next_wait().min(RENEWAL / 4)
            }
        };
        sleep(wait).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_that_was_paused_was_away_by_its_wall_clock_alone() {
        let (renewal, clock) = (RENEWAL, SignedDuration::from_secs);
        assert!(!was_away(renewal, clock(20)));
        assert!(was_away(MAYBE_SILENT, clock(0)), "the wall clock was set back meanwhile");
        assert!(was_away(renewal, clock(600)), "the monotonic clock stood still");
        assert!(!was_away(renewal, clock(-3600)));
    }
}
