//! Takes the controller's snapshots of the whole cluster.
//!
//! Not here: listing the pods (`pod_list`), when a snapshot is due (`gitops::report_sender`), and what it contains
//! (`core::snapshot`).

use std::collections::BTreeMap;

use tokio::time::Instant;

use super::pod_list::{PodLister, completed, host_networks};
use crate::cluster::live::{ApiClient, View};
use crate::core::host_network::HostNetwork;
use crate::core::name::NodeName;
use crate::reconcile::gitops::publisher::ClusterSnapshot;
use crate::reconcile::gitops::report_sender::SnapshotSource;
use crate::reconcile::gitops::repository::Repository;

/// The running snapshot and its result.
#[derive(Default)]
pub(super) struct Snapshotter {
    pods: PodLister,
    /// The interfaces of the last snapshot that was handed over.
    host_networks: BTreeMap<NodeName, HostNetwork>,
}

impl Snapshotter {
    /// When to check for the result; none if no snapshot is being taken.
    pub(super) fn due(&self) -> Option<Instant> {
        self.pods.due()
    }

    /// The result of a snapshot, with nodes and interfaces as they are known now.
    pub(super) fn taken(&mut self, view: &View) -> Option<ClusterSnapshot> {
        let (listed, taken) = self.pods.take("no snapshot of the cluster can be taken")?;
        let facts = completed(listed, view);
        self.host_networks.clone_from(&facts.host_networks);
        Some(ClusterSnapshot { facts, taken, only_own: false, own: None })
    }
}

/// A snapshot source for the whole cluster, with the known interfaces of gateways.
pub(super) struct ViewSnapshots<'a> {
    pub(super) snapshotter: &'a mut Snapshotter,
    pub(super) live: &'a ApiClient,
    pub(super) view: &'a View,
    /// It judges commits by the pods of the latest snapshot.
    pub(super) repository: &'a Repository,
}

impl SnapshotSource for ViewSnapshots<'_> {
    fn interfaces_differ(&self) -> bool {
        host_networks(self.view) != self.snapshotter.host_networks
    }

    fn request(&mut self) {
        self.snapshotter.pods.start(self.live);
    }

    fn take(&mut self) -> Option<ClusterSnapshot> {
        let taken = self.snapshotter.taken(self.view)?;
        self.repository.know(&taken.facts);
        Some(taken)
    }

    fn reset(&mut self) {
        *self.snapshotter = Snapshotter::default();
    }
}
