//! The controller's side of previews: what their thread is to do, and what it is told of the cluster.
//!
//! Deliberately absent: previews (`pulls`).

use tokio::sync::oneshot;

use super::snapshotter::host_networks;
use super::{Controller, ControllerOptions};
use crate::core::facts::Facts;
use crate::reconcile::gitops::pulls::{self, PreviewCluster};
use crate::serve::Metrics;
use crate::telemetry::chain;

/// What the thread for pull requests is to do, if anything.
pub(super) fn pulls_of(options: &ControllerOptions, metrics: &Metrics, seed: u64) -> Option<pulls::PullPreviewOptions> {
    let board = options.previews.clone()?;
    metrics.preview(None);
    Some(pulls::PullPreviewOptions {
        following: options.following.clone(),
        mirror: options.state_folder.join("pulls.git"),
        seed,
        board,
        metrics: metrics.clone(),
    })
}

impl Controller {
    /// Tells what a preview has to know of the cluster. The controller follows no pods: it looks at them on a task of its own, because
    /// that may take a while. Who does not know enough says nothing, and is asked again.
    pub(super) fn look_for(&self, tell: oneshot::Sender<Result<PreviewCluster, String>>) {
        if !self.watching.synced() || self.intent.is_none() {
            return;
        }
        let (live, nodes, reports) =
            (self.live.clone(), self.watching.view().facts.nodes.clone(), self.reports.clone());
        let view = self.watching.view();
        let (host_networks, held) = (host_networks(view), view.facts.held.clone());
        let pod_networks = view.facts.pod_networks.clone();
        tokio::spawn(async move {
            match live.look().await {
                Ok(facts) => {
                    let facts = Facts { nodes, pod_networks, held, ..facts };
                    let situation = PreviewCluster { facts, host_networks, reports };
                    let _ = tell.send(Ok(situation));
                }
                Err(error) => {
                    let hint = error.hint();
                    tracing::warn!(error = chain(&error), hint, "pods cannot be looked at for previews");
                    let _ = tell.send(Err(chain(&error)));
                }
            }
        });
    }
}
