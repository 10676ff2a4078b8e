//! A cluster by its API server, for `egret explain`, `egret status` and the like: the custom resources, nodes and pods, read once with the
//! rights of a kubeconfig's user, and the agents that answer through it. What follows from the objects is in `reconcile::published_state`.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use super::output::{self, Failure};
use crate::clock::Clock;
use crate::cluster::live::{ApiClient, ApiError, PATIENCE, PodsRead, Unanswered};
use crate::core::explain::{ANSWER_FORMAT, KernelAnswer, KernelQuestion, Told};
use crate::core::name::NodeName;
use crate::core::text::shortened;
use crate::reconcile::published_state::{PublishedState, StateError};
use crate::telemetry::chain;

/// The value of --kubeconfig that stands for the account of this pod.
const IN_CLUSTER: &str = "in-cluster";

/// The largest answer about one kernel, in bytes.
const LARGEST: usize = 128 << 10;

/// A cluster as its API server has it.
pub(super) struct ApiCluster {
    client: ApiClient,
    pub(super) state: PublishedState,
}

impl ApiCluster {
    /// Reads it. `namespace`: that of the release.
    pub(super) fn read(
        kubeconfig: &Path,
        namespace: &str,
        pods: PodsRead<'_>,
        runtime: &output::Runtime,
    ) -> Result<Self, Failure> {
        let client = connect(kubeconfig, runtime)?;
        let (view, leases) = runtime.block_on(client.read_once(namespace, pods)).map_err(refused)?;
        let state = PublishedState::new(view, leases, Clock::system().now()).map_err(|error| {
            let hint = "a controller writes it: `kubectl get pods -n egret-system`";
            let hint = matches!(error, StateError::NoConfig).then(|| hint.to_owned());
            Failure::new(error, hint)
        })?;
        Ok(Self { client, state })
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
