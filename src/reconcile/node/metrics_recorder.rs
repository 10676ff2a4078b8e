//! Passes a node loop's values to the HTTP server: the loop's heartbeat, the results of rounds, and the kernel's
//! counters.
//!
//! Not here: HTTP (`serve`), and the report, which lists what drifted (`core::report`).

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use crate::cluster::live::ErrorCounts;
use crate::core::compile::{Compiled, ExitPurpose, ExitRole};
use crate::core::facts::PodName;
use crate::core::readiness;
use crate::core::report::drift::DriftClass;
use crate::reconcile::gitops::repository::{DesiredRevision, RepositoryEvent};
use crate::reconcile::node::kernel::NodeKernel;
use crate::reconcile::node::round::{Reconciler, RoundError, RoundResult};
use crate::serve::answers::{Question, Questions, Review};
use crate::serve::{self, ApiErrorCounts, Door, Health, Metrics, ScrapeRequest, ScrapeRequests, Server};
use crate::telemetry::chain;

/// Converts a client's error counts for `serve`.
pub fn api_error_counts(errors: &ErrorCounts) -> ApiErrorCounts {
    ApiErrorCounts { requests: errors.requests(), watches: errors.watches() }
}

/// What the server asks the loop for.
pub enum Request {
    /// The kernel's counters.
    Scrape(ScrapeRequest),
    /// An answer to a person.
    Question(Question),
}

/// The loop's side of the server. Without a server the values are set all the same, and not scraped.
pub struct MetricsRecorder {
    health: Health,
    metrics: Metrics,
    scrapes: ScrapeRequests,
    questions: Questions,
    /// Problems that do not affect readiness: exits that the kernel rejected, reports that are not committed, state that
    /// is not written.
    remarks: [Option<String>; 3],
    _server: Option<Server>,
}

impl MetricsRecorder {
    /// Starts the server, if one is configured. It is not ready until something is known; `not_yet` is the reason
    /// that it gives.
    pub fn start(listen: Option<SocketAddr>, not_yet: &str) -> std::io::Result<Self> {
        Self::start_answering(listen, not_yet, None)
    }

    /// The same, with answers to whoever the review lets in.
    pub fn start_answering(listen: Option<SocketAddr>, not_yet: &str, review: Option<Review>) -> std::io::Result<Self> {
        let (health, metrics) = (Health::new(), Metrics::new());
        health.set_ready(Err(not_yet.to_owned()));
        metrics.drift(DriftClass::Missing, 0);
        let (door, questions) = review.map(Door::new).unzip();
        let server = listen.map(|listen| match door {
            Some(door) => serve::start_answering(listen, health.clone(), metrics.clone(), door),
            None => serve::start(listen, health.clone(), metrics.clone()),
        });
        let server = server.transpose()?;
        if let Some(server) = &server {
            tracing::info!(address = %server.address(), "metrics and health are served");
        }
        let questions = questions.unwrap_or_default();
        Ok(Self {
            scrapes: metrics.scrapes(),
            questions,
            health,
            metrics,
            remarks: [None, None, None],
            _server: server,
        })
    }

    /// Adds the API server's errors to the metrics.
    pub fn api_errors(&self, errors: ErrorCounts) {
        self.metrics.api_errors(move || api_error_counts(&errors));
    }

    /// The loop's heartbeat.
    pub fn beat(&self) {
        self.health.beat();
    }

    /// Whether reports are committed. A failure is shown as a remark beside readiness, which does not depend on it.
    pub fn reports(&mut self, fault: Option<String>) {
        self.remarks[1] = fault.map(|fault| format!("drift reports are not committed: {fault}"));
        self.remark();
    }

    fn remark(&self) {
        let remarks: Vec<&str> = self.remarks.iter().flatten().map(String::as_str).collect();
        self.health.set_remark((!remarks.is_empty()).then(|| remarks.join("\n")));
    }

    /// Waits until a scrape requests the counters.
    pub async fn next_scrape(&mut self) -> ScrapeRequest {
        self.scrapes.next().await
    }

    /// Waits until a scrape requests the counters, or an authorised client asks.
    pub async fn next_request(&mut self) -> Request {
        tokio::select! {
            biased;
            scrape = self.scrapes.next() => Request::Scrape(scrape),
            question = self.questions.next() => Request::Question(question),
        }
    }

    /// Reads the kernel's counters for a scrape. If they cannot be read, the last values are shown.
    pub async fn answer(&self, request: ScrapeRequest, reconciler: &mut Reconciler<impl NodeKernel>) {
        if let Some(totals) = reconciler.conntrack().await {
            self.metrics.conntrack(*totals);
        }
        self.metrics.ports(reconciler.ports.busiest().clone());
        match reconciler.counters().await {
            Ok(counters) => request.answer(counters),
            Err(error) => tracing::warn!(error = chain(&error), "the kernel's counters cannot be read"),
        }
    }

    /// How long gateways took to answer this node's last probe, by exit and family.
    pub fn probe_latencies(&self, latencies: Vec<(String, &'static str, Duration)>) {
        self.metrics.probe_latencies(latencies);
    }

    /// Records that Git answered, if it did.
    pub fn repository_event(&self, event: &RepositoryEvent) {
        match event {
            RepositoryEvent::Unchanged | RepositoryEvent::Pending(_) => self.metrics.git_fetched(SystemTime::now()),
            RepositoryEvent::Intent(intent) if intent.fetched => self.metrics.git_fetched(SystemTime::now()),
            RepositoryEvent::Intent(_) | RepositoryEvent::Fault(_) => {}
        }
        match event {
            RepositoryEvent::Intent(intent) => {
                self.metrics.commit_pending(intent.active.pending.as_ref().map(|one| one.why.as_str()));
            }
            RepositoryEvent::Pending(pending) => {
                self.metrics.commit_pending(Some(pending.why.as_str()));
                self.health.set_ready(Err(format!("no commit is active yet: {}", pending.message())));
            }
            RepositoryEvent::Unchanged | RepositoryEvent::Fault(_) => {}
        }
    }

    /// Records the result of a round.
    pub fn round(
        &mut self,
        result: &Result<RoundResult, RoundError>,
        took: Duration,
        reconciler: &Reconciler<impl NodeKernel>,
        intent: &DesiredRevision,
    ) {
        self.metrics.reconciled(result.is_ok(), took);
        self.metrics.drift_open(reconciler.report.drift.len());
        self.metrics.suspended(intent.suspended(reconciler.clock.now()));
        self.metrics.state_write_failures(reconciler.memory.failures());
        self.remarks[2] = reconciler.memory.fault().map(|fault| format!("what has to outlive a restart: {fault}"));
        match result {
            Ok(done) => {
                done.classes.iter().for_each(|(class, objects)| self.metrics.drift(*class, *objects));
                self.metrics.revision(&intent.commit.id.to_string());
                if let Some(compiled) = reconciler.applied() {
                    let used = compiled.exits.iter().filter(|(_, exit)| !exit.members.is_empty());
                    let silent = used.map(|(exit, _)| exit.identity()).map(|exit| {
                        let silent = done.silent.contains_key(&exit);
                        (exit, silent)
                    });
                    self.metrics.silent(silent.collect());
                    self.compiled(compiled);
                    self.metrics.policies(readiness::policies(compiled, &intent.set, reconciler.clock.now()));
                    self.metrics.addresses_held(compiled.addresses_held());
                }
                self.health.set_ready(Ok(()));
                let exits: Vec<String> = done
                    .refused
                    .exits
                    .iter()
                    .map(|(exit, error)| format!("{exit}: the kernel refuses to {error}"))
                    .collect();
                self.remarks[0] = (!exits.is_empty()).then(|| exits.join("\n"));
            }
            Err(error) => self.health.set_ready(Err(chain(error))),
        }
        self.remark();
    }

    fn compiled(&self, compiled: &Compiled) {
        let (gateway, source): (Vec<_>, Vec<_>) = compiled
            .exits
            .values()
            .filter(|exit| exit.purpose != ExitPurpose::Standby)
            .partition(|exit| matches!(exit.role, ExitRole::Own { .. }));
        self.metrics.exits(gateway.len(), source.len());
        let members: BTreeSet<&PodName> = compiled.members.values().flatten().collect();
        self.metrics.members(members.len());
    }
}
