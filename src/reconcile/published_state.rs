//! A cluster as its API server has it: the published policies, what agents report of them, and what follows from both. For `egret explain` and
//! `egret status` by a kubeconfig, and for the controller's page.
//!
//! Not here: reading it (`cluster::live`).

use std::collections::BTreeMap;

use jiff::Timestamp;

use crate::cluster::live::{SILENCE, View};
use crate::core::explain::DocumentChange;
use crate::core::facts::Facts;
use crate::core::name::NodeName;
use crate::core::overview::{ClusterState, Overview, PublishedPolicy};
use crate::core::placement::{GatewayReports, Placement, place_with};
use crate::core::policy::published::{Published, Unreadable, resource_name};
use crate::core::policy::{PolicyId, PolicySet};
use crate::core::rates::Rates;
use crate::core::report::history::{NodeReport, Rejected};
use crate::core::status::{ConditionType, HeadStatus, condition, unfit};

/// The objects, read.
pub struct PublishedState {
    view: View,
    /// The published policies.
    pub set: PolicySet,
    /// The gateways, with what agents report of them.
    pub placement: Placement,
    /// Whether heartbeats of agents may be read.
    leases: bool,
    now: Timestamp,
}

/// Why the objects say nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StateError {
    /// No controller has published anything.
    #[error("this cluster has no EgressConfig")]
    NoConfig,
    /// Another version wrote it.
    #[error("read the EgressConfig: {0}")]
    Config(String),
    /// Another writer, or another version, wrote them.
    #[error("read the published policies: {0}")]
    Policies(String),
}

impl PublishedState {
    /// Reads the objects. `leases`: heartbeats of agents are among them.
    pub fn new(view: View, leases: bool, now: Timestamp) -> Result<Self, StateError> {
        let config = view.config.as_ref().ok_or(StateError::NoConfig)?;
        let spec = config.spec.as_ref().map_err(|why| StateError::Config(why.clone()))?;
        let specs = view.policies.iter().map(|(name, object)| (name, &object.spec));
        let set = Published::read(specs, &spec.config).map_err(|faults| {
            let faults: Vec<String> = faults.iter().map(Unreadable::to_string).collect();
            StateError::Policies(faults.join("; "))
        })?;
        let unfit = unfit(view.egress_nodes.iter().map(|(name, node)| (name, &node.status)));
        let reports = GatewayReports { held: &view.facts.held, unfit: &unfit };
        let placement = place_with(&set, &view.facts, reports, now);
        Ok(Self { view, set, placement, leases, now })
    }

    /// Nodes, namespaces and pods.
    pub fn facts(&self) -> &Facts {
        &self.view.facts
    }

    /// The parts that are used up: policies, nodes and pods, gateways.
    pub fn into_parts(self) -> (PolicySet, Facts, Placement) {
        (self.set, self.view.facts, self.placement)
    }

    /// What agents report.
    pub fn reports(&self) -> BTreeMap<NodeName, NodeReport> {
        let reports = self.view.egress_nodes.iter().filter_map(|(name, node)| {
            let mut report = node.status.report.clone()?;
            if report.active.is_none() && !node.status.revision.is_empty() {
                report.set_active(&node.status.revision, "", self.now);
            }
            Some((name.clone(), report))
        });
        reports.collect()
    }

    /// The cluster's name in egret.yaml.
    pub fn cluster(&self) -> &str {
        let spec = self.view.config.as_ref().and_then(|config| config.spec.as_ref().ok());
        spec.map_or("default", |spec| spec.cluster.as_str())
    }

    /// The published commit.
    pub fn revision(&self) -> &str {
        let spec = self.view.config.as_ref().and_then(|config| config.spec.as_ref().ok());
        spec.map_or("", |spec| spec.revision.as_str())
    }

    fn head(&self) -> Option<&HeadStatus> {
        self.view.config.as_ref()?.status.as_ref()
    }

    /// Why the newest commit is not published.
    pub fn waits(&self) -> Option<String> {
        let condition = condition(&self.head()?.conditions, ConditionType::UpToDate)?;
        (!condition.is_true()).then(|| format!("{} ({})", condition.message, condition.reason))
    }

    /// Documents whose newest version is not published.
    pub fn rejected(&self) -> Vec<Rejected> {
        self.head().map(|head| head.rejected.clone()).unwrap_or_default()
    }

    /// The commit with which a policy was last published.
    pub fn changed(&self, policy: &PolicyId) -> Option<DocumentChange> {
        let object = self.view.policies.get(&resource_name(&self.set, policy))?;
        let status = object.status.as_ref().filter(|status| !status.revision.is_empty())?;
        let time = object.managers.iter().filter_map(|manager| manager.time).max()?;
        let (summary, author) = (String::new(), String::new());
        Some(DocumentChange { commit: status.revision.clone(), summary, author, time })
    }

    /// The cluster at a glance.
    pub fn overview(&self) -> Overview {
        self.state().overview()
    }

    /// What passes in a second, as agents report.
    pub fn rates(&self) -> Option<Rates> {
        self.state().rates()
    }

    fn state(&self) -> ClusterState<'_> {
        let policies = self.set.policies.values().map(|policy| PublishedPolicy {
            policy,
            status: self.view.policies.get(&resource_name(&self.set, &policy.id)).and_then(|one| one.status.as_ref()),
        });
        ClusterState {
            cluster: self.cluster(),
            revision: self.revision(),
            head: self.head(),
            policies: policies.collect(),
            nodes: &self.view.facts.nodes,
            statuses: self.view.egress_nodes.iter().map(|(name, node)| (name, &node.status)).collect(),
            heartbeats: self.leases.then_some(&self.view.heartbeats),
            silence: SILENCE,
            now: self.now,
        }
    }
}
