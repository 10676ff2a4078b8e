//! The controller's snapshots of the whole cluster, each made by a task of its own: listing every pod takes seconds in a large cluster, and no
//! pass waits for it.
//!
//! When one is due is absent (`report_sender`), and so is what it holds (`core::snapshot`).

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
use crate::reconcile::now;
use crate::telemetry::chain;

/// A look that failed is followed by another after this.
const PAUSE: Duration = Duration::from_mins(5);
/// How soon to see whether a look is done.
const SOON: Duration = Duration::from_secs(1);

/// What a look brings.
type Found = Arc<Mutex<Option<Result<(Facts, Timestamp), ApiError>>>>;

/// Looks, and what they brought.
#[derive(Default)]
pub(super) struct Snapshotter {
    task: Option<JoinHandle<()>>,
    found: Found,
    /// No look before this, because one failed.
    pause: Option<Instant>,
    /// Why the last look failed.
    told: Option<String>,
    /// The interfaces that were last handed over.
    host_networks: BTreeMap<NodeName, HostNetwork>,
}

impl Snapshotter {
    /// Begins a look, unless one is under way or has just failed.
    pub(super) fn look(&mut self, live: &ApiClient) {
        if self.task.is_some() || self.pause.is_some_and(|pause| pause > Instant::now()) {
            return;
        }
        let (live, found) = (live.clone(), Arc::clone(&self.found));
        self.task = Some(tokio::spawn(async move {
            // What is found may lie there for a while. It is no younger than when the look began.
            let began = now();
            let result = live.look().await.map(|facts| (facts, began));
            *found.lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
        }));
    }

    /// When to come back for what a look brings; none: none is under way.
    pub(super) fn due(&self) -> Option<Instant> {
        self.task.as_ref().map(|_| Instant::now() + SOON)
    }

    /// What a look brought, with nodes and interfaces as they are known.
    pub(super) fn taken(&mut self, view: &View) -> Option<ClusterSnapshot> {
        let found = self.found.lock().unwrap_or_else(PoisonError::into_inner).take()?;
        self.task = None;
        match found {
            Ok((facts, taken)) => {
                (self.pause, self.told) = (None, None);
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
                if self.told.as_ref() != Some(&why) {
                    tracing::warn!(error = why, hint = error.hint(), "no snapshot of the cluster can be taken");
                }
                self.told = Some(why);
                None
            }
        }
    }
}

/// A look at the whole cluster, with gateways' interfaces as they are known.
pub(super) struct ViewSnapshots<'a> {
    pub(super) sights: &'a mut Snapshotter,
    pub(super) live: &'a ApiClient,
    pub(super) view: &'a View,
}

impl SnapshotSource for ViewSnapshots<'_> {
    fn interfaces_differ(&self) -> bool {
        host_networks(self.view) != self.sights.host_networks
    }

    fn request(&mut self) {
        self.sights.look(self.live);
    }

    fn take(&mut self) -> Option<ClusterSnapshot> {
        self.sights.taken(self.view)
    }

    fn reset(&mut self) {
        *self.sights = Snapshotter::default();
    }
}

impl Drop for Snapshotter {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// What agents of nodes that are there tell of their interfaces.
pub(super) fn host_networks(view: &View) -> BTreeMap<NodeName, HostNetwork> {
    let told = view.egress_nodes.iter().filter(|(name, _)| view.facts.nodes.contains_key(*name));
    told.filter_map(|(name, node)| Some((name.clone(), gateway_interfaces::host_network(&node.status.interfaces)?)))
        .collect()
}
