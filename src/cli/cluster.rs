//! A cluster by its API server, for `egret explain` and `egret status`: the custom resources, nodes and pods, read once with the rights of a
//! kubeconfig's user. What follows from them is in `reconcile::published_state`.

use std::path::Path;

use super::output::{self, Failure};
use crate::clock::Clock;
use crate::cluster::live::{ApiClient, ApiError};
use crate::reconcile::published_state::{PublishedState, StateError};

/// The value of --kubeconfig that stands for the account of this pod.
const IN_CLUSTER: &str = "in-cluster";

/// Reads it. `pods`: with pods and namespaces.
pub(super) fn read(kubeconfig: &Path, pods: bool, runtime: &output::Runtime) -> Result<PublishedState, Failure> {
    let read = runtime.block_on(async {
        let client = if kubeconfig == Path::new(IN_CLUSTER) {
            ApiClient::connect().await?
        } else {
            ApiClient::connect_by(kubeconfig).await?
        };
        client.read_once(pods).await
    });
    let (view, leases) = read.map_err(refused)?;
    PublishedState::new(view, leases, Clock::system().now()).map_err(|error| {
        let hint = "a controller writes it: `kubectl get pods -n egret-system`";
        let hint = matches!(error, StateError::NoConfig).then(|| hint.to_owned());
        Failure::new(error, hint)
    })
}

fn refused(error: ApiError) -> Failure {
    let hint = match error.code() {
        Some(401 | 403) => Some("the chart's ClusterRole egret-explain has the rights that this needs".to_owned()),
        Some(404) => Some("Egret's custom resource definitions are not in this cluster".to_owned()),
        _ => None,
    };
    Failure::new(error, hint)
}
