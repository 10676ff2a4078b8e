//! Taking away all that the controller wrote, without Git and without a lease.
//!
//! Deliberately absent: what agents did to their nodes, which they take away themselves.

use super::labels;
use super::options::ControllerError;
use crate::cluster::live::{self, ApiClient, ClusterWatch, WatchScope};

/// Takes away all that the controller wrote: labels of nodes, and custom resources.
pub async fn remove() -> Result<(), ControllerError> {
    let live = ApiClient::connect().await?;
    let mut watching =
        ClusterWatch::open(&live, &WatchScope::Controller { pools: false }, live::WatchOptions::default());
    while !watching.synced() {
        watching.changed().await;
        for (what, fault) in watching.faults() {
            tracing::warn!(what, hint = fault.hint, "{}", fault.message);
        }
    }
    let nothing = crate::core::labels::Labels::new();
    for (node, meta) in &watching.view().nodes {
        if labels::owns_some(&meta.label_managers) {
            live.apply_labels(node, &meta.uid, &nothing, false).await?;
            tracing::info!(%node, "its labels are as they were without Egret");
        }
    }
    live.delete_config().await?;
    for name in live.policy_names().await? {
        live.delete_policy(&name, None).await?;
    }
    tracing::info!("nothing of the controller's is left in the cluster");
    Ok(())
}
