//! Leadership: the task that holds the Lease. It is a separate task, so that a slow write elsewhere does not lose the
//! Lease.
//!
//! Not here: the Lease protocol (`cluster::live`), and what a leader does (`controller`).

use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use crate::cluster::live::{Lease, LeaseRole, Timing};
use crate::reconcile::fault_log::FaultLog;
use crate::telemetry::chain;

/// Whether this process leads, for another thread: checked before each write that others read.
pub type IsLeader = Box<dyn Fn() -> bool + Send>;

/// A handle on the task.
#[derive(Debug)]
pub struct Leadership {
    role: watch::Receiver<LeaseRole>,
    seen: watch::Sender<i64>,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

impl Leadership {
    /// Starts to compete for the Lease.
    pub fn start(lease: Lease, timing: Timing) -> Self {
        let (role_sender, role) = watch::channel(LeaseRole::Follower { holder: None });
        let (seen, fences) = watch::channel(0);
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(compete(lease, timing.retry, role_sender, fences, stopped));
        Self { role, seen, stop: Some(stop), task }
    }

    /// The fencing token to write with, while this process leads. Checked before every write: a leader that could not
    /// renew stops leading when its time is over, even if its task has not reported that yet.
    pub fn fence(&self) -> Option<i64> {
        match &*self.role.borrow() {
            LeaseRole::Leader { fence, until } if Instant::now() < *until => Some(*fence),
            _ => None,
        }
    }

    /// The same check for another thread.
    pub fn is_leader(&self) -> impl Fn() -> bool + Send + 'static {
        let role = self.role.clone();
        move || matches!(&*role.borrow(), LeaseRole::Leader { until, .. } if Instant::now() < *until)
    }

    /// Waits until the role changes. Each renewal is a change.
    pub async fn changed(&mut self) {
        if self.role.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Reports a fencing token that was seen in the cluster: this process's must not be smaller.
    pub fn seen_fence(&self, fence: i64) {
        self.seen.send_if_modified(|seen| {
            let greater = fence > *seen;
            *seen = fence.max(*seen);
            greater
        });
    }

    /// Releases the Lease, so that another process can lead at once.
    pub async fn release(mut self) {
        drop(self.stop.take());
        // The task ends on its own. It can only fail by a panic, which is logged.
        let _ = (&mut self.task).await;
    }
}

async fn compete(
    mut lease: Lease,
    pause: Duration,
    roles: watch::Sender<LeaseRole>,
    mut fences: watch::Receiver<i64>,
    mut stopped: oneshot::Receiver<()>,
) {
    let mut log = FaultLog::default();
    loop {
        lease.seen_fence(*fences.borrow_and_update());
        match lease.step().await {
            Ok(_) if log.works() => tracing::info!("the Lease is read and renewed again"),
            Ok(_) => {}
            Err(error) => {
                let cause = chain(&error);
                if log.failed(&cause) {
                    tracing::warn!(error = cause, hint = error.hint(), "the Lease can be neither read nor renewed");
                }
            }
        }
        let role = lease.role();
        let before = roles.send_replace(role.clone());
        match (&before, &role) {
            (LeaseRole::Follower { .. }, LeaseRole::Leader { fence, .. }) => {
                tracing::info!(fence, "this controller became the leader");
            }
            (LeaseRole::Leader { .. }, LeaseRole::Follower { .. }) => tracing::warn!("this controller lost leadership"),
            _ => {}
        }
        tokio::select! {
            biased;
            _ = &mut stopped => break,
            () = sleep(pause) => {}
        }
    }
    if let Err(error) = lease.release().await {
        tracing::warn!(error = chain(&error), "the Lease is not released; it expires by itself");
    }
}
