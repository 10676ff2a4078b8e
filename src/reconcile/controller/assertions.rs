//! Checks the active commit's assertions in a running cluster: again with each commit, when nodes or gateways change, and
//! with the pods as they are listed every few minutes.
//!
//! The controller watches no pods: a watch would bring it every one of them, each with every change of its status. So a
//! pod is seen as late as counts of pods are. Not here: whether an assertion holds (`core::preview::assertions`).

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use super::pod_list::{PodLister, complete, completed, is_complete};
use crate::cluster::live::{ApiClient, View};
use crate::core::facts::Facts;
use crate::core::finding::Finding;
use crate::core::name::NodeName;
use crate::core::policy::{PolicyId, PolicySet};
use crate::core::preview::assertions::broken;
use crate::core::report::history::{DatedFinding, NodeReport};
use crate::core::status::AssertionState;
use crate::git::CommitId;
use crate::reconcile::gitops::repository::DesiredRevision;

/// How often pods are listed, in clusters of up to 30,000 pods.
const EVERY: Duration = Duration::from_mins(5);
/// In larger ones, for each pod: a hundred pods a second on average.
const EVERY_FOR_A_POD: Duration = Duration::from_millis(10);
/// The shortest time between two lists. A commit often comes with its pods.
const SHORTEST: Duration = Duration::from_mins(1);
/// The shortest time between two checks of one commit: nodes that change mostly change several times.
const GATHER: Duration = Duration::from_secs(5);

/// An assertion that does not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BrokenAssertion {
    /// What a report says of it.
    pub(super) finding: DatedFinding,
    /// The node of the pod whose packet shows it.
    node: Option<NodeName>,
}

/// The last check, and what it was of.
#[derive(Debug)]
struct Check {
    commit: CommitId,
    /// Policies that were suspended.
    suspended: BTreeSet<PolicyId>,
    at: Instant,
    broken: Vec<BrokenAssertion>,
}

/// Which assertions do not hold, as of the last check.
#[derive(Debug, Default)]
pub(super) struct AssertionMonitor {
    pods: PodLister,
    /// When the last list began.
    listed: Option<Instant>,
    /// The cluster as it was last listed, and completed at the last check.
    facts: Option<Facts>,
    last: Option<Check>,
    /// A check waits for the end of a burst.
    waits: bool,
    /// Broken assertions that were reported by an event.
    recorded: BTreeSet<String>,
}

impl AssertionMonitor {
    /// Checks all assertions if something has changed that they depend on. Without assertions it does nothing and sends
    /// no request.
    pub(super) fn check(&mut self, live: &ApiClient, view: &View, intent: &DesiredRevision, now: Timestamp) {
        let (set, commit) = (&intent.set, intent.commit.id);
        if set.assertions.is_empty() {
            *self = Self::default();
            return;
        }
        let listed = self.pods.take("assertions cannot be checked").map(|(listed, _)| completed(listed, view));
        let is_listed = listed.is_some();
        self.facts = listed.or(self.facts.take());
        let is_new = self.last.as_ref().is_none_or(|last| last.commit != commit);
        self.list(live, is_new);
        let Some(facts) = &mut self.facts else { return };
        let suspended: BTreeSet<PolicyId> = suspended(set, now);
        let differs = is_listed || !is_complete(facts, view);
        let differs = differs || self.last.as_ref().is_none_or(|last| last.suspended != suspended);
        self.waits = self.last.as_ref().is_some_and(|last| last.at.elapsed() < GATHER) && !is_listed && !is_new;
        if !is_new && (!differs || self.waits) {
            self.waits &= differs;
            return;
        }
        complete(facts, view);
        let before = self.last.take().map(|last| last.broken).unwrap_or_default();
        let broken = check(set, facts, &before, now);
        log(&before, &broken);
        self.last = Some(Check { commit, suspended, at: Instant::now(), broken });
    }

    /// Lists the pods, if that is due.
    fn list(&mut self, live: &ApiClient, is_new: bool) {
        let every = if is_new { SHORTEST } else { self.every() };
        let due = self.pods.fault().is_some() || self.listed.is_none_or(|listed| listed.elapsed() >= every);
        if due && self.pods.start(live) {
            self.listed = Some(Instant::now());
        }
    }

    fn every(&self) -> Duration {
        let pods = self.facts.as_ref().map_or(0, |facts| facts.pods.len());
        EVERY.max(EVERY_FOR_A_POD * u32::try_from(pods).unwrap_or(u32::MAX))
    }

    /// When something is to be done without an event; none if there are no assertions.
    pub(super) fn due(&self) -> Option<Instant> {
        let waiting = self.last.as_ref().filter(|_| self.waits).map(|last| last.at + GATHER);
        let list = self.listed.map(|listed| listed + self.every());
        let due = [self.pods.due(), waiting, list].into_iter().flatten();
        due.filter(|at| *at > Instant::now()).min()
    }

    /// What the status shows; none without assertions.
    pub(super) fn state(&self, set: &PolicySet) -> Option<AssertionState<'_>> {
        let state = match (self.pods.fault(), &self.last) {
            _ if set.assertions.is_empty() => return None,
            (Some(fault), _) => AssertionState::Unknown(fault),
            (None, None) => AssertionState::Unchecked,
            (None, Some(last)) => match last.broken.first() {
                None => AssertionState::Kept,
                Some(first) => AssertionState::Broken(&first.finding.finding, last.broken.len()),
            },
        };
        Some(state)
    }

    /// The broken assertions that no event has reported yet.
    pub(super) fn news(&mut self) -> Vec<Finding> {
        let broken: Vec<&Finding> =
            self.last.iter().flat_map(|last| &last.broken).map(|one| &one.finding.finding).collect();
        let news =
            broken.iter().filter(|one| !self.recorded.contains(&one.subject)).map(|one| (*one).clone()).collect();
        self.recorded = broken.into_iter().map(|one| one.subject.clone()).collect();
        news
    }

    /// Writes each broken assertion into one report: that of the pod's node, or the first if that node has none.
    pub(super) fn report(&self, reports: &mut [NodeReport]) {
        for BrokenAssertion { finding, node } in self.last.iter().flat_map(|last| &last.broken) {
            let of_node =
                reports.iter().position(|report| node.as_ref().is_some_and(|node| report.node == node.as_str()));
            if let Some(report) = reports.get_mut(of_node.unwrap_or(0)) {
                report.findings.push(finding.clone());
                report.findings.sort();
            }
        }
    }
}

fn suspended(set: &PolicySet, now: Timestamp) -> BTreeSet<PolicyId> {
    set.policies.values().filter(|policy| policy.suspended(now)).map(|policy| policy.id.clone()).collect()
}

/// The assertions that do not hold. One that was broken in the same way before keeps its time.
fn check(set: &PolicySet, facts: &Facts, before: &[BrokenAssertion], now: Timestamp) -> Vec<BrokenAssertion> {
    let broken = broken(set, facts, &facts.host_networks, now);
    let broken = broken.iter().filter_map(|failed| {
        let (finding, pod) = (failed.finding()?, &failed.because.as_ref()?.pod);
        let node = facts.pods.get(pod).and_then(|pod| pod.node.clone());
        let known = before.iter().find(|known| known.finding.finding == finding);
        let since = known.map_or(now, |known| known.finding.since);
        Some(BrokenAssertion { finding: DatedFinding { finding, since }, node })
    });
    broken.collect()
}

fn log(before: &[BrokenAssertion], now: &[BrokenAssertion]) {
    let subject = |one: &BrokenAssertion| one.finding.finding.subject.clone();
    let names = |all: &[BrokenAssertion]| all.iter().map(subject).collect::<BTreeSet<_>>();
    let (known, broken) = (names(before), names(now));
    for one in now.iter().filter(|one| !known.contains(&one.finding.finding.subject)) {
        let Finding { subject, message, hint, .. } = &one.finding.finding;
        tracing::warn!(assertion = subject, hint, "{message}");
    }
    for assertion in known.difference(&broken) {
        tracing::info!(assertion, "the assertion holds again, or is gone");
    }
}
