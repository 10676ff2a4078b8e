//! Takes the controller's snapshots of the whole cluster, each in its own task: listing every pod takes seconds in a
//! large cluster, and no pass waits for it.
//!
//! Not here: when a snapshot is due (`gitops::report_sender`), and what it contains (`core::snapshot`).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::cluster::live::{ApiClient, ApiError, View};
use crate::core::facts::Facts;
use crate::core::gateway_interfaces;
use crate::core::host_network::HostNetwork;
use crate::core::name::NodeName;
use crate::reconcile::gitops::publisher::ClusterSnapshot;
use crate::reconcile::gitops::report_sender::SnapshotSource;
use crate::reconcile::gitops::repository::Repository;
use crate::telemetry::chain;

/// The wait after a snapshot that failed.
const PAUSE: Duration = Duration::from_mins(5);
/// How soon to check whether a snapshot is done.
const SOON: Duration = Duration::from_secs(1);

/// The result of a snapshot.
type Found = Arc<Mutex<Option<Result<(Facts, Timestamp), ApiError>>>>;

/// The running snapshot and its result.
#[derive(Default)]
pub(super) struct Snapshotter {
    task: Option<JoinHandle<()>>,
    found: Found,
    /// No snapshot before this time, because one failed.
    pause: Option<Instant>,
    /// Why the last snapshot failed.
    last_error: Option<String>,
    /// The interfaces of the last snapshot that was handed over.
    host_networks: BTreeMap<NodeName, HostNetwork>,
}

impl Snapshotter {
    /// Starts a snapshot, unless one is running or has just failed.
    pub(super) fn start(&mut self, live: &ApiClient) {
        if self.task.is_some() || self.pause.is_some_and(|pause| pause > Instant::now()) {
            return;
        }
        let (live, found) = (live.clone(), Arc::clone(&self.found));
        self.task = Some(tokio::spawn(async move {
            // The result may not be collected for a while. Its time is the start of the snapshot.
            let began = live.clock().now();
            let result = live.list_facts().await.map(|facts| (facts, began));
            *found.lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
        }));
    }

    /// When to check for the result; none if no snapshot is running.
    pub(super) fn due(&self) -> Option<Instant> {
        self.task.as_ref().map(|_| Instant::now() + SOON)
    }

    /// The result of a snapshot, with nodes and interfaces as they are known now.
    pub(super) fn taken(&mut self, view: &View) -> Option<ClusterSnapshot> {
        let found = self.found.lock().unwrap_or_else(PoisonError::into_inner).take()?;
        self.task = None;
        match found {
            Ok((facts, taken)) => {
                (self.pause, self.last_error) = (None, None);
                self.host_networks = host_networks(view);
                let facts = Facts {
                    nodes: view.facts.nodes.clone(),
                    pod_networks: view.facts.pod_networks.clone(),
                    held: view.facts.held.clone(),
                    host_networks: self.host_networks.clone(),
                    ..facts
                };
                Some(ClusterSnapshot { facts, taken, only_own: false, own: None })
            }
            Err(error) => {
                self.pause = Some(Instant::now() + PAUSE);
                let why = chain(&error);
                if self.last_error.as_ref() != Some(&why) {
                    tracing::warn!(error = why, hint = error.hint(), "no snapshot of the cluster can be taken");
                }
                self.last_error = Some(why);
                None
            }
        }
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
        self.snapshotter.start(self.live);
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

impl Drop for Snapshotter {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// The interfaces that the agents of existing nodes report.
pub(super) fn host_networks(view: &View) -> BTreeMap<NodeName, HostNetwork> {
    let nodes = view.egress_nodes.iter().filter(|(name, _)| view.facts.nodes.contains_key(*name));
    nodes
        .filter_map(|(name, node)| Some((name.clone(), gateway_interfaces::host_network(&node.status.interfaces)?)))
        .collect()
}
