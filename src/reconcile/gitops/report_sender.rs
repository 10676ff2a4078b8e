//! Decides which reports go to the publisher, and when a snapshot of the cluster goes with them. The standalone node
//! and the controller share it.
//!
//! Not here: committing them (`publisher`), and their content (`core::report`, `core::snapshot`).

use super::publisher::{ClusterSnapshot, Publisher, ReportBatch};
use super::repository::DesiredRevision;
use crate::core::report::history::NodeReport;

/// A source of cluster snapshots.
pub trait SnapshotSource {
    /// Whether gateways' interfaces differ from the last snapshot.
    fn interfaces_differ(&self) -> bool;
    /// Requests a snapshot, unless one is being taken.
    fn request(&mut self);
    /// The requested snapshot, once it is ready.
    fn take(&mut self) -> Option<ClusterSnapshot>;
    /// Cancels a requested snapshot, because reports are disabled.
    fn reset(&mut self);
}

/// The publisher, and what was sent to it.
#[derive(Debug)]
pub struct ReportSender {
    publisher: Publisher,
    /// The last batch.
    sent: Option<ReportBatch>,
}

impl ReportSender {
    /// Starts with nothing sent.
    pub fn new(publisher: Publisher) -> Self {
        Self { publisher, sent: None }
    }

    /// The publisher.
    pub fn publisher(&self) -> &Publisher {
        &self.publisher
    }

    /// Sends reports if their content changed or a snapshot is due. Cancels the last batch if egret.yaml disables
    /// reports.
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
            asked: intent.asked.clone(),
        };
        let asks = batch.asked.as_ref().is_some_and(|asked| !asked.demand.is_empty());
        let differs = (asks || !batch.reports.is_empty()) && self.sent.as_ref() != Some(&batch);
        if config.snapshot_every.is_some()
            && (self.publisher.wants_snapshot(differs) || differs && snapshots.interfaces_differ())
        {
            snapshots.request();
        }
        let snapshot = snapshots.take();
        if differs || snapshot.is_some() {
            self.publisher.send(batch.clone(), snapshot);
            self.sent = Some(batch);
        }
    }

    /// Cancels the last batch: another process leads.
    pub fn stop(&mut self) {
        self.publisher.stop();
        self.sent = None;
    }

    /// Waits until the last batch is committed, or one more attempt failed.
    pub fn finish(self) {
        self.publisher.finish();
    }
}
