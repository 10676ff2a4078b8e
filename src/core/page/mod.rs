//! What the page shows: a cluster at a glance, who leaves where at which rate, what happened, what waits, and open pull requests.
//!
//! It decides nothing: rows are those of `core::overview`, answers those of `core::explain`. [`Knowledge`] is what a process knows at one
//! time, [`Model`] what is made of it once for all requests. Not here: HTML (`serve::ui`), and reading anything.

pub mod links;
mod picture;
mod timeline;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;

use self::links::RepositoryPages;
pub use self::picture::{ExitBox, GatewayBox, Picture, SourceBox};
pub use self::timeline::{Happening, HappeningKind};
use super::admission::PendingCommit;
use super::compile::counters::Counters;
use super::explain::{DocumentChange, Explanation, KernelReading, Question, Situation, UnknownPod, explain};
use super::facts::Facts;
use super::host_network::HostNetwork;
use super::name::NodeName;
use super::overview::{Overview, Urgency, headline};
use super::placement::Placement;
use super::policy::{PolicyId, PolicySet};
use super::rates::Rates;
use super::report::history::{NodeReport, Rejected};

/// What a process knows at one time, without references: it is handed from the loop to whoever draws.
#[derive(Debug, Clone)]
pub struct Knowledge {
    /// The cluster's name in egret.yaml.
    pub cluster: String,
    /// Whose knowledge it is: `node kind-worker`, `controller egret-controller-0`.
    pub teller: String,
    /// The active commit; empty: nothing is active.
    pub revision: String,
    /// The active policies.
    pub set: Arc<PolicySet>,
    /// Nodes, namespaces and pods. A controller has those pods only that were asked about.
    pub facts: Arc<Facts>,
    /// Interfaces and addresses of the nodes whose kernel is known.
    pub host_networks: BTreeMap<NodeName, HostNetwork>,
    /// The placement as it applies; none: as the policies are placed.
    pub placement: Option<Placement>,
    /// What nodes report of themselves.
    pub reports: BTreeMap<NodeName, NodeReport>,
    /// The kernel of the node whose process this is.
    pub kernel: Option<KernelReading>,
    /// The newest commit, if it waits.
    pub pending: Option<PendingCommit>,
    /// Why something is not active, where the commit itself is not known.
    pub waits: Option<String>,
    /// Documents whose newest version is not active.
    pub rejected: Vec<Rejected>,
    /// What goes wrong in the process itself: a round that failed, Git that cannot be read.
    pub faults: Vec<(Urgency, String)>,
    /// The rows, where they come from the custom resources; none: they are made of the rest.
    pub overview: Option<Overview>,
    /// What this node's rules have counted until now.
    pub counters: Option<Counters>,
    /// What passes in a second as the agents of all nodes report.
    pub rates: Option<Rates>,
    /// Open pull requests; none where they are not polled.
    pub pulls: Option<Vec<OpenPull>>,
    /// Where the repository can be looked at.
    pub pages: Option<RepositoryPages>,
    /// The time.
    pub now: Timestamp,
}

/// An open pull request, as it was last previewed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenPull {
    /// Its number.
    pub number: u64,
    /// Its title: untrusted text.
    pub title: String,
    /// Its page at the forge.
    pub page: String,
    /// Its newest commit.
    pub head: String,
    /// Whether it is a draft.
    pub draft: bool,
    /// What the preview says in a line; none: it is not previewed yet.
    pub summary: Option<String>,
    /// Whether a reviewer has to look: a danger, or a preview that could not be made.
    pub urgency: Urgency,
    /// When the pull request last changed.
    pub updated: Timestamp,
}

impl Knowledge {
    /// What is known before anything was read.
    pub fn nothing(cluster: &str, now: Timestamp) -> Self {
        Self {
            cluster: cluster.to_owned(),
            teller: String::new(),
            revision: String::new(),
            set: Arc::default(),
            facts: Arc::default(),
            host_networks: BTreeMap::new(),
            placement: None,
            reports: BTreeMap::new(),
            kernel: None,
            pending: None,
            waits: None,
            rejected: Vec::new(),
            faults: Vec::new(),
            overview: None,
            counters: None,
            rates: None,
            pulls: None,
            pages: None,
            now,
        }
    }

    /// Adds what other nodes report. What this process knows of a node is newer, and gets what an earlier process has reported.
    pub fn add_reports(&mut self, others: BTreeMap<NodeName, NodeReport>) {
        for (node, report) in others {
            let own = self.reports.remove(&node);
            self.reports.insert(node, own.map_or(report.clone(), |own| own.after(Some(&report))));
        }
    }

    /// Asks with everything that is known.
    pub fn with_situation<T>(&self, ask: impl FnOnce(&Situation<'_>) -> T) -> T {
        // A page is drawn of what its process knows: no other node is asked.
        let told = BTreeMap::new();
        ask(&Situation {
            set: &self.set,
            facts: &self.facts,
            host_networks: &self.host_networks,
            placement: self.placement.as_ref(),
            reports: &self.reports,
            kernel: self.kernel.as_ref(),
            told: &told,
            pending: self.pending.as_ref().map(|pending| (pending, None)),
            waits: self.waits.as_deref(),
            rejected: &self.rejected,
            now: self.now,
        })
    }

    /// What becomes of a pod's packets to an address.
    pub fn explain(&self, question: &Question) -> Result<Explanation, UnknownPod> {
        self.with_situation(|situation| explain(question, situation))
    }

    /// The cluster at a glance.
    pub fn overview(&self) -> Overview {
        let of_situation =
            || self.with_situation(|situation| Overview::of_situation(&self.cluster, &self.revision, situation));
        self.overview.clone().unwrap_or_else(of_situation)
    }
}

/// What is shown, made once of what is known.
#[derive(Debug)]
pub struct Model {
    /// What it was made of.
    pub known: Arc<Knowledge>,
    /// Policies and nodes, the worst first.
    pub overview: Overview,
    /// What happened, the newest first.
    pub timeline: Vec<Happening>,
    /// Who leaves where, the worst and the busiest first.
    pub picture: Picture,
    /// What passes in a second: as agents report, or from this kernel's counters of two times; none at first.
    pub rates: Option<Rates>,
}

impl Model {
    /// Draws up what is shown. `commits`: the newest of the policy repository, as far as they were read.
    pub fn new(known: Arc<Knowledge>, commits: &[DocumentChange], rates: Option<Rates>) -> Self {
        let overview = known.overview();
        let timeline = timeline::timeline(&known, commits);
        let picture = picture::picture(&overview, rates.as_ref());
        Self { known, overview, timeline, picture, rates }
    }

    /// The worst that is known.
    pub fn urgency(&self) -> Urgency {
        let faults = self.known.faults.iter().map(|(urgency, _)| *urgency);
        faults.chain([self.overview.urgency()]).min().unwrap_or(Urgency::Fine)
    }

    /// The one line that matters: that of `egret status`, unless only the process itself has something worse to report.
    pub fn headline(&self) -> String {
        let worst = self.known.faults.iter().min_by_key(|(urgency, _)| *urgency);
        match worst {
            Some((urgency, fault)) if *urgency < self.overview.urgency() => {
                format!("{}  {fault}", self.overview.cluster)
            }
            _ => headline(&self.overview),
        }
    }

    /// How many connections of a policy begin per second on this node.
    pub fn connections(&self, policy: &PolicyId) -> Option<f64> {
        self.rates.as_ref()?.connections(policy)
    }
}
