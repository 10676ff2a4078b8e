//! Which reports go to the publisher, and when a snapshot of the cluster goes with them: the same for the standalone node and the controller.
//!
//! Committing them is absent (`publisher`), and so is what is in them.

use super::publisher::{ClusterSnapshot, Publisher, ReportBatch};
use super::repository::DesiredRevision;
use crate::core::report::history::NodeReport;

/// Where a snapshot of the cluster is from.
pub trait SnapshotSource {
    /// Whether gateways' interfaces are others than in the last snapshot.
    fn interfaces_differ(&self) -> bool;
    /// Asks for a snapshot, unless one is on its way.
    fn request(&mut self);
    /// The snapshot that was asked for, once it is there.
    fn take(&mut self) -> Option<ClusterSnapshot>;
    /// No reports are wanted: what was asked for is not, either.
    fn reset(&mut self);
}

/// The publisher, and what it was handed.
#[derive(Debug)]
pub struct ReportSender {
    publisher: Publisher,
    /// The last batch.
    sent: Option<ReportBatch>,
}

impl ReportSender {
    /// Nothing was handed over yet.
    pub fn new(publisher: Publisher) -> Self {
        Self { publisher, sent: None }
    }

    /// The thread.
    pub fn publisher(&self) -> &Publisher {
        &self.publisher
    }

    /// Hands reports over if they say something else than the last ones, or if a snapshot is due. What was handed over is taken back where
    /// egret.yaml wants no reports.
    pub fn send(&mut self, reports: Vec<NodeReport>, intent: &DesiredRevision, snapshots: &mut impl SnapshotSource) {
        let config = &intent.set.config;
        if !config.reports {
            if self.sent.take().is_some() {
                self.publisher.stop();
            }
            snapshots.reset();
            return;
        }
        if self.publisher.dropped() {
            self.sent = None;
        }
        let batch = ReportBatch {
            reports,
            branch: config.reports_branch.clone(),
            policy_branch: intent.branch.clone(),
            keep: config.reports_keep,
            snapshot_every: config.snapshot_every,
        };
        let differs = !batch.reports.is_empty() && self.sent.as_ref() != Some(&batch);
        if config.snapshot_every.is_some()
            && (self.publisher.wants_sight(differs) || differs && snapshots.interfaces_differ())
        {
            snapshots.request();
        }
        let snapshot = snapshots.take();
        if differs || snapshot.is_some() {
            self.publisher.send(batch.clone(), snapshot);
            self.sent = Some(batch);
        }
    }

    /// Takes back what was handed over: another process leads.
    pub fn stop(&mut self) {
        self.publisher.stop();
        self.sent = None;
    }

    /// Waits until what was handed over is written, or was tried once more in vain.
    pub fn finish(self) {
        self.publisher.finish();
    }
}
