//! Lists the cluster's pods and namespaces in a task of its own, and completes them with what the controller watches: a
//! list takes seconds in a large cluster, and no pass waits for it.
//!
//! Not here: what the lists are for (`snapshotter`, `assertions`).

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
use crate::telemetry::chain;

/// The wait after a list that failed: twice as long after each, up to the longest.
const PAUSE: Duration = Duration::from_secs(15);
const LONGEST_PAUSE: Duration = Duration::from_mins(5);
/// How soon to check whether a list is complete.
const SOON: Duration = Duration::from_secs(1);

/// The result of a list, and when it began.
type Found = Arc<Mutex<Option<Result<(Facts, Timestamp), ApiError>>>>;

/// The running list and its result.
#[derive(Debug, Default)]
pub(super) struct PodLister {
    task: Option<JoinHandle<()>>,
    found: Found,
    /// No list before this time, because one failed.
    pause: Option<Instant>,
    /// How many lists failed since one was complete.
    failures: u32,
    /// Why the last list failed.
    last_error: Option<String>,
}

impl PodLister {
    /// Starts a list, unless one is running or has just failed. Returns whether it did.
    pub(super) fn start(&mut self, live: &ApiClient) -> bool {
        if self.task.is_some() || self.pause.is_some_and(|pause| pause > Instant::now()) {
            return false;
        }
        let (live, found) = (live.clone(), Arc::clone(&self.found));
        self.task = Some(tokio::spawn(async move {
            // The result may not be collected for a while. Its time is that of the start.
            let began = live.clock().now();
            let result = live.list_facts().await.map(|facts| (facts, began));
            *found.lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
        }));
        true
    }

    /// When to check for the result, or to list again; none if no list is running, and none failed.
    pub(super) fn due(&self) -> Option<Instant> {
        self.task.as_ref().map(|_| Instant::now() + SOON).or(self.pause.filter(|pause| *pause > Instant::now()))
    }

    /// The result of a list: pods and namespaces, and nothing else. `what` cannot be done while it fails.
    pub(super) fn take(&mut self, what: &str) -> Option<(Facts, Timestamp)> {
        let found = self.found.lock().unwrap_or_else(PoisonError::into_inner).take()?;
        self.task = None;
        match found {
            Ok(found) => {
                (self.pause, self.last_error, self.failures) = (None, None, 0);
                Some(found)
            }
            Err(error) => {
                self.pause = Some(Instant::now() + LONGEST_PAUSE.min(PAUSE * 2_u32.pow(self.failures.min(8))));
                self.failures += 1;
                let why = chain(&error);
                if self.last_error.as_ref() != Some(&why) {
                    tracing::warn!(error = why, hint = error.hint(), "{what}");
                }
                self.last_error = Some(why);
                None
            }
        }
    }

    /// Why the last list failed, if it did.
    pub(super) fn fault(&self) -> Option<&str> {
        self.last_error.as_deref()
    }
}

impl Drop for PodLister {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// Listed pods and namespaces with all else that is known of the cluster now.
pub(super) fn completed(mut listed: Facts, view: &View) -> Facts {
    complete(&mut listed, view);
    listed
}

/// Brings all but pods and namespaces up to date.
pub(super) fn complete(facts: &mut Facts, view: &View) {
    facts.nodes.clone_from(&view.facts.nodes);
    facts.pod_networks.clone_from(&view.facts.pod_networks);
    facts.held.clone_from(&view.facts.held);
    facts.host_networks = host_networks(view);
}

/// Whether all but pods and namespaces is up to date.
pub(super) fn is_complete(facts: &Facts, view: &View) -> bool {
    let Facts { nodes, pod_networks, held, .. } = &view.facts;
    facts.nodes == *nodes
        && facts.pod_networks == *pod_networks
        && facts.held == *held
        && facts.host_networks == host_networks(view)
}

/// The interfaces that the agents of existing nodes report.
pub(super) fn host_networks(view: &View) -> BTreeMap<NodeName, HostNetwork> {
    let nodes = view.egress_nodes.iter().filter(|(name, _)| view.facts.nodes.contains_key(*name));
    nodes
        .filter_map(|(name, node)| Some((name.clone(), gateway_interfaces::host_network(&node.status.interfaces)?)))
        .collect()
}
