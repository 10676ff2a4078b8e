//! Takes an agent's node out of Egret: its kernel, its heartbeat, its object.
//!
//! Not here: what a kernel has of Egret's (`node::round`).

use super::{AgentError, AgentOptions};
use crate::clock::Clock;
use crate::cluster::Cluster;
use crate::cluster::live::ApiClient;
use crate::core::facts::Facts;
use crate::core::state::ownership::DatapathConfig;
use crate::kernel::Kernel;
use crate::reconcile::node::round::Reconciler;
use crate::reconcile::node::round_driver::log_steps;
use crate::reconcile::persistence::state_store::StateStore;

/// Removes everything from the node, and then its object from the cluster. The kernel needs no API server.
pub(super) async fn remove(
    kernel: Kernel,
    range: DatapathConfig,
    options: AgentOptions,
    memory: StateStore,
) -> Result<(), AgentError> {
    let AgentOptions { node, namespace, .. } = options;
    let nothing = Cluster::Fixed(Facts::default());
    let mut reconciler = Reconciler::new(kernel, nothing, node.clone(), memory, Clock::system());
    let steps = reconciler.remove(range).await?;
    tracing::info!(steps = steps.len(), "everything of Egret's is gone from this node");
    log_steps(&steps);
    // The heartbeat first: an EgressNode without one is not reported as silent.
    let gone = async {
        let live = ApiClient::connect().await?;
        if let Some(namespace) = &namespace {
            live.delete_heartbeat(namespace, node.as_str()).await?;
        }
        live.delete_node(node.as_str()).await
    };
    if let Err(error) = gone.await {
        if let Some(namespace) = namespace {
            tracing::warn!(
                "left, unless it is gone: the Lease egret-agent.{node}: kubectl -n {namespace} delete lease egret-agent.{node}"
            );
        }
        tracing::warn!("left: EgressNode {node}: kubectl delete egressnode {node}");
        return Err(AgentError::Left(error));
    }
    Ok(())
}
