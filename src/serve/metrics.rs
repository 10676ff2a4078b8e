//! The values of the metrics, kept until they are scraped.
//!
//! A metric that is never set is never shown: a controller has no exits. Not here: names and help texts (`page`).

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use prometheus_client::metrics::histogram::Histogram;

use super::scrape::{ScrapeRelay, ScrapeRequests};
use crate::core::compile::counters::Counters;
use crate::core::conntrack::ConntrackTotals;
use crate::core::policy::PolicyId;
use crate::core::ports::BusiestPorts;
use crate::core::readiness::Readiness;
use crate::core::report::drift::DriftClass;

/// Upper bounds of the histogram of rounds, in seconds: from a round with nothing to do to that of a new node.
const BUCKETS: [f64; 13] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0];

/// What a pending commit waits for ([`PendingReason::word`](crate::core::admission::PendingReason::word)).
const REASONS: [&str; 4] = ["ChangeWindowClosed", "RemovalsUnconfirmed", "SignatureRefused", "Suspended"];

/// What a process counts and measures. A clone is another handle on the same values.
#[derive(Debug, Clone)]
pub struct Metrics(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    values: Mutex<Values>,
    asking: ScrapeRelay,
    api: OnceLock<ApiErrorSource>,
}

/// Returns the API server's errors when the page is written.
struct ApiErrorSource(Box<dyn Fn() -> ApiErrorCounts + Send + Sync>);

impl fmt::Debug for ApiErrorSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiErrorSource")
    }
}

/// The counts of failures at the API server.
#[derive(Debug, Clone, Default)]
pub struct ApiErrorCounts {
    /// Requests, by operation: `patch egressnodes/status`.
    pub requests: BTreeMap<String, u64>,
    /// Watches, by resource.
    pub watches: BTreeMap<&'static str, u64>,
}

/// The result of a preview of a pull request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PreviewResult {
    /// It was posted or updated.
    Posted,
    /// The pull request already had it.
    Unchanged,
    /// It could not be made or posted.
    Failed,
}

impl PreviewResult {
    fn as_str(self) -> &'static str {
        match self {
            Self::Posted => "posted",
            Self::Unchanged => "unchanged",
            Self::Failed => "failed",
        }
    }
}

/// All values that were set.
#[derive(Debug)]
pub(super) struct Values {
    pub(super) reconciled: Option<Reconciled>,
    pub(super) drift: Option<BTreeMap<DriftClass, u64>>,
    pub(super) drift_open: Option<usize>,
    pub(super) exits: Option<(usize, usize)>,
    pub(super) silent: Option<Vec<(String, bool)>>,
    pub(super) ports: BusiestPorts,
    pub(super) members: Option<usize>,
    pub(super) policies: BTreeMap<PolicyId, Readiness>,
    pub(super) held: BTreeMap<IpAddr, bool>,
    pub(super) latencies: Vec<(String, &'static str, Duration)>,
    pub(super) counters: Option<Counters>,
    pub(super) git_fetched: Option<SystemTime>,
    pub(super) previews: Option<BTreeMap<&'static str, u64>>,
    pub(super) leader: Option<bool>,
    pub(super) revision: Option<String>,
    pub(super) pending: BTreeMap<&'static str, bool>,
    pub(super) suspended: BTreeMap<String, u64>,
    pub(super) state_write_failures: Option<u64>,
    pub(super) conntrack: Option<ConntrackTotals>,
}

/// The values of rounds.
#[derive(Debug)]
pub(super) struct Reconciled {
    pub(super) succeeded: u64,
    pub(super) failed: u64,
    pub(super) took: Histogram,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// No value is set yet.
    pub fn new() -> Self {
        let values = Values {
            reconciled: None,
            drift: None,
            drift_open: None,
            exits: None,
            silent: None,
            ports: BusiestPorts::new(),
            members: None,
            policies: BTreeMap::new(),
            held: BTreeMap::new(),
            latencies: Vec::new(),
            counters: None,
            git_fetched: None,
            previews: None,
            leader: None,
            revision: None,
            pending: BTreeMap::new(),
            suspended: BTreeMap::new(),
            state_write_failures: None,
            conntrack: None,
        };
        Self(Arc::new(Inner { values: Mutex::new(values), asking: ScrapeRelay::default(), api: OnceLock::new() }))
    }

    /// Counts a round.
    pub fn reconciled(&self, succeeded: bool, took: Duration) {
        self.with(|values| {
            let new = || Reconciled { succeeded: 0, failed: 0, took: Histogram::new(BUCKETS) };
            let reconciled = values.reconciled.get_or_insert_with(new);
            *(if succeeded { &mut reconciled.succeeded } else { &mut reconciled.failed }) += 1;
            reconciled.took.observe(took.as_secs_f64());
        });
    }

    /// Counts objects that had drifted. One call with zero is useful: `increase()` needs a first value.
    pub fn drift(&self, class: DriftClass, objects: usize) {
        self.with(|values| {
            let new = || [DriftClass::Missing, DriftClass::Extra, DriftClass::Changed].map(|class| (class, 0)).into();
            let drift: &mut BTreeMap<DriftClass, u64> = values.drift.get_or_insert_with(new);
            *drift.entry(class).or_default() += u64::try_from(objects).unwrap_or(u64::MAX);
        });
    }

    /// The number of objects that drifted and are not corrected yet.
    pub fn drift_open(&self, objects: usize) {
        self.with(|values| values.drift_open = Some(objects));
    }

    /// The number of exits of which the node is a gateway, and of those of which it is only a source.
    pub fn exits(&self, gateway: usize, source: usize) {
        self.with(|values| values.exits = Some((gateway, source)));
    }

    /// The exits that members use, and whether their gateways do not answer.
    pub fn silent(&self, exits: Vec<(String, bool)>) {
        self.with(|values| values.silent = Some(exits));
    }

    /// The ports in use of each address, towards its busiest destination.
    pub fn ports(&self, busiest: BusiestPorts) {
        self.with(|values| values.ports = busiest);
    }

    /// The number of pods of this node that a policy selects.
    pub fn members(&self, pods: usize) {
        self.with(|values| values.members = Some(pods));
    }

    /// Whether each policy works here, or why not. One that is missing is no longer shown.
    pub fn policies(&self, policies: BTreeMap<PolicyId, Readiness>) {
        self.with(|values| values.policies = policies);
    }

    /// The egress addresses that this node is to serve, and whether it has them.
    pub fn addresses_held(&self, held: BTreeMap<IpAddr, bool>) {
        self.with(|values| values.held = held);
    }

    /// How long gateways took to answer the last probe, by exit and family.
    pub fn probe_latencies(&self, latencies: Vec<(String, &'static str, Duration)>) {
        self.with(|values| values.latencies = latencies);
    }

    /// The kernel's counters, as [`Totals`](crate::core::compile::counters::Totals) sums them up. Exits and policies
    /// that are missing in it are no longer shown.
    pub fn counters(&self, counters: &Counters) {
        self.with(|values| values.counters = Some(counters.clone()));
    }

    /// The time of Git's last answer, with a new commit or without.
    pub fn git_fetched(&self, at: SystemTime) {
        self.with(|values| values.git_fetched = Some(at));
    }

    /// The source of the API server's errors. Only the first call counts: a process has one API server.
    pub fn api_errors(&self, source: impl Fn() -> ApiErrorCounts + Send + Sync + 'static) {
        // An error means that there is a source already.
        let _ = self.0.api.set(ApiErrorSource(Box::new(source)));
    }

    pub(super) fn api_error_counts(&self) -> Option<ApiErrorCounts> {
        self.0.api.get().map(|source| (source.0)())
    }

    /// Counts the result of a preview. One call with none is useful: `increase()` needs a first value.
    pub fn preview(&self, became: Option<PreviewResult>) {
        self.with(|values| {
            let new = || {
                [PreviewResult::Posted, PreviewResult::Unchanged, PreviewResult::Failed]
                    .map(|became| (became.as_str(), 0))
                    .into()
            };
            let previews: &mut BTreeMap<&'static str, u64> = values.previews.get_or_insert_with(new);
            if let Some(became) = became {
                *previews.entry(became.as_str()).or_default() += 1;
            }
        });
    }

    /// This process leads.
    pub fn leads(&self) {
        self.with(|values| values.leader = Some(true));
    }

    /// This process does not lead, or no longer: the leader shows what is known of commits.
    pub fn follows(&self) {
        self.with(|values| {
            (values.leader, values.revision) = (Some(false), None);
            values.pending.clear();
            values.suspended.clear();
        });
    }

    /// The active commit.
    pub fn revision(&self, commit: &str) {
        self.with(|values| {
            if values.revision.as_deref() != Some(commit) {
                values.revision = Some(commit.to_owned());
            }
        });
    }

    /// What the newest commit waits for, if it is pending: one of [`REASONS`].
    pub fn commit_pending(&self, reason: Option<&'static str>) {
        self.with(|values| values.pending = REASONS.map(|one| (one, reason == Some(one))).into());
    }

    /// What is suspended, and until when, in seconds since the epoch. What is missing in it is no longer shown.
    pub fn suspended(&self, until: BTreeMap<String, u64>) {
        self.with(|values| values.suspended = until);
    }

    /// What connection tracking counts in the node's network namespace.
    pub fn conntrack(&self, totals: ConntrackTotals) {
        self.with(|values| values.conntrack = Some(totals));
    }

    /// How often the state folder could not be written.
    pub fn state_write_failures(&self, failures: u64) {
        self.with(|values| values.state_write_failures = Some(failures));
    }

    /// The receiving end of requests for the kernel's counters, for the loop that reads them.
    pub fn scrapes(&self) -> ScrapeRequests {
        self.0.asking.listen()
    }

    /// Asks the loop for the kernel's counters, and waits a second at most.
    pub(super) async fn refresh(&self) {
        let metrics = self.clone();
        self.0.asking.ask(Box::new(move |counters| metrics.counters(counters))).await;
    }

    pub(super) fn with<T>(&self, change: impl FnOnce(&mut Values) -> T) -> T {
        change(&mut self.0.values.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
