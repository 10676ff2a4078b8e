//! A cluster by its API server, for `egret explain` and `egret status`: the custom resources, nodes and pods, read once with the rights of a
//! kubeconfig's user.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use super::output::{self, Failure};
use crate::clock::Clock;
use crate::cluster::live::{ApiClient, ApiError, PATIENCE, SILENCE, Unanswered, View};
use crate::core::explain::{ANSWER_FORMAT, DocumentChange, KernelAnswer, KernelQuestion, Told};
use crate::core::facts::Facts;
use crate::core::name::NodeName;
use crate::core::overview::{ClusterState, Overview, PublishedPolicy};
use crate::core::placement::{GatewayReports, Placement, place_with};
use crate::core::policy::published::{Published, Unreadable, resource_name};
use crate::core::policy::{PolicyId, PolicySet};
use crate::core::report::history::{NodeReport, Rejected};
use crate::core::status::{ConditionType, HeadStatus, condition, unfit};
use crate::core::text::shortened;
use crate::telemetry::chain;

/// The value of --kubeconfig that stands for the account of this pod.
const IN_CLUSTER: &str = "in-cluster";

/// The largest answer about one kernel, in bytes.
const LARGEST: usize = 128 << 10;

/// A cluster as its API server has it.
pub(super) struct ApiCluster {
    client: ApiClient,
    view: View,
    pub(super) set: PolicySet,
    pub(super) placement: Placement,
    /// Whether heartbeats of agents may be read.
    leases: bool,
}

impl ApiCluster {
    /// Reads it. `pods`: with pods and namespaces.
    pub(super) fn read(kubeconfig: &Path, pods: bool, runtime: &output::Runtime) -> Result<Self, Failure> {
        let client = connect(kubeconfig, runtime)?;
        let (view, leases) = runtime.block_on(client.read_once(pods)).map_err(refused)?;
        let config = view.config.as_ref().ok_or_else(|| {
            let hint = "a controller writes it: `kubectl get pods -n egret-system`";
            Failure::new("this cluster has no EgressConfig", Some(hint.to_owned()))
        })?;
        let spec = config.spec.as_ref().map_err(|why| Failure::new(format!("read the EgressConfig: {why}"), None))?;
        let specs = view.policies.iter().map(|(name, object)| (name, &object.spec));
        let set = Published::read(specs, &spec.config).map_err(|faults| {
            let faults: Vec<String> = faults.iter().map(Unreadable::to_string).collect();
            Failure::new(format!("read the published policies: {}", faults.join("; ")), None)
        })?;
        let unfit = unfit(view.egress_nodes.iter().map(|(name, node)| (name, &node.status)));
        let reports = GatewayReports { held: &view.facts.held, unfit: &unfit };
        let placement = place_with(&set, &view.facts, reports, Clock::system().now());
        Ok(Self { client, view, set, placement, leases })
    }

    /// The client by which it was read.
    pub(super) fn client(&self) -> &ApiClient {
        &self.client
    }

    /// Asks agents what their kernels hold. `namespace`: that of the release.
    pub(super) fn ask(
        &self,
        namespace: &str,
        questions: &[(NodeName, KernelQuestion)],
        runtime: &output::Runtime,
    ) -> BTreeMap<NodeName, Told> {
        let asked = questions.iter().map(|(node, question)| (node.clone(), format!("/v1/kernel?{}", question.query())));
        let asked = asked.collect();
        let answers = runtime.block_on(ask(&self.client, namespace, asked, LARGEST, PATIENCE));
        answers.into_iter().map(|(node, answer)| (node, answer.and_then(|bytes| kernel_answer(&bytes)))).collect()
    }

    /// Nodes, namespaces and pods.
    pub(super) fn facts(&self) -> &Facts {
        &self.view.facts
    }

    /// What agents report.
    pub(super) fn reports(&self) -> BTreeMap<NodeName, NodeReport> {
        let reports = self.view.egress_nodes.iter().filter_map(|(name, node)| {
            let mut report = node.status.report.clone()?;
            if report.active.is_none() && !node.status.revision.is_empty() {
                report.set_active(&node.status.revision, "", Clock::system().now());
            }
            Some((name.clone(), report))
        });
        reports.collect()
    }

    /// The published commit.
    pub(super) fn revision(&self) -> &str {
        let spec = self.view.config.as_ref().and_then(|config| config.spec.as_ref().ok());
        spec.map_or("", |spec| spec.revision.as_str())
    }

    fn head(&self) -> Option<&HeadStatus> {
        self.view.config.as_ref()?.status.as_ref()
    }

    /// Why the newest commit is not published.
    pub(super) fn waits(&self) -> Option<String> {
        let condition = condition(&self.head()?.conditions, ConditionType::UpToDate)?;
        (!condition.is_true()).then(|| format!("{} ({})", condition.message, condition.reason))
    }

    /// Documents whose newest version is not published.
    pub(super) fn rejected(&self) -> Vec<Rejected> {
        self.head().map(|head| head.rejected.clone()).unwrap_or_default()
    }

    /// The commit with which a policy was last published.
    pub(super) fn changed(&self, policy: &PolicyId) -> Option<DocumentChange> {
        let object = self.view.policies.get(&resource_name(&self.set, policy))?;
        let status = object.status.as_ref().filter(|status| !status.revision.is_empty())?;
        let time = object.managers.iter().filter_map(|manager| manager.time).max()?;
        let (summary, author) = (String::new(), String::new());
        Some(DocumentChange { commit: status.revision.clone(), summary, author, time })
    }

    /// The cluster at a glance.
    pub(super) fn overview(&self) -> Overview {
        let config = self.view.config.as_ref().and_then(|config| config.spec.as_ref().ok());
        let policies = self.set.policies.values().map(|policy| PublishedPolicy {
            policy,
            status: self.view.policies.get(&resource_name(&self.set, &policy.id)).and_then(|one| one.status.as_ref()),
        });
        let state = ClusterState {
            cluster: config.map_or("default", |spec| spec.cluster.as_str()),
            revision: self.revision(),
            head: self.head(),
            policies: policies.collect(),
            nodes: &self.view.facts.nodes,
            statuses: self.view.egress_nodes.iter().map(|(name, node)| (name, &node.status)).collect(),
            heartbeats: self.leases.then_some(&self.view.heartbeats),
            silence: SILENCE,
            now: Clock::system().now(),
        };
        state.overview()
    }
}

/// A client for the cluster of a kubeconfig.
pub(super) fn connect(kubeconfig: &Path, runtime: &output::Runtime) -> Result<ApiClient, Failure> {
    let connected = runtime.block_on(async {
        if kubeconfig == Path::new(IN_CLUSTER) {
            ApiClient::connect().await
        } else {
            ApiClient::connect_by(kubeconfig).await
        }
    });
    connected.map_err(refused)
}

/// Asks agents, each with a path of its own. That their pods cannot be listed is why none answers.
pub(super) async fn ask(
    client: &ApiClient,
    namespace: &str,
    questions: Vec<(NodeName, String)>,
    largest: usize,
    patience: Duration,
) -> BTreeMap<NodeName, Result<Vec<u8>, Unanswered>> {
    match client.agents(namespace).await {
        Ok(agents) => client.ask_agents(&agents, questions, largest, patience).await,
        Err(error) => {
            let why = shortened(&chain(&error), 300);
            questions.into_iter().map(|(node, _)| (node, Err(why.clone()))).collect()
        }
    }
}

fn kernel_answer(bytes: &[u8]) -> Told {
    let answer: KernelAnswer =
        serde_json::from_slice(bytes).map_err(|_| "its answer cannot be read by this version of egret".to_owned())?;
    match answer.format_version {
        ANSWER_FORMAT => Ok(answer.bounded()),
        other => Err(format!("it answers in form {other}, and this egret knows form {ANSWER_FORMAT}")),
    }
}

pub(super) fn refused(error: ApiError) -> Failure {
    let hint = match error.code() {
        Some(401 | 403) => Some("the chart's ClusterRole egret-explain has the rights that this needs".to_owned()),
        Some(404) => Some("Egret's custom resource definitions are not in this cluster".to_owned()),
        _ => None,
    };
    Failure::new(error, hint)
}
