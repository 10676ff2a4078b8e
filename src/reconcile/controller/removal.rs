//! `egret controller --remove`: removes everything that controllers wrote, and logs what is left.
//!
//! Labels and policies decide which way packets go as long as an agent is at work, and a controller that leads writes
//! them again. So nothing is removed before both are gone. Not here: a node's kernel (`agent`).

use std::collections::BTreeSet;
use std::time::Duration;

use crate::cluster::live::resources::STARTUP_TAINT;
use crate::cluster::live::{ApiClient, ApiError, LeaseHolder, NodeTraces};
use crate::core::labels::Labels;
use crate::telemetry::chain;

/// How long a Lease that names a holder is observed, beyond its duration.
const BEYOND: Duration = Duration::from_secs(1);
/// The longest duration of a Lease that is waited for: a value that a user edited must not block the removal.
const LONGEST: Duration = Duration::from_mins(1);
/// How often the Lease is read meanwhile.
const PAUSE: Duration = Duration::from_millis(500);

/// The options of `egret controller --remove`.
#[derive(Debug, Clone)]
pub struct Removal {
    /// The Lease's namespace.
    pub namespace: String,
    /// The Lease's name.
    pub lease: String,
}

/// Why not everything was removed.
#[derive(Debug, thiserror::Error)]
pub enum RemovalError {
    /// The API server's address is unknown, or a read failed.
    #[error("nothing was removed from the cluster")]
    Unknown(#[source] ApiError),
    /// A controller leads.
    #[error("nothing was removed from the cluster: the controller {0} leads, and would write it again")]
    Led(String),
    /// Agents use it.
    #[error("nothing was removed from the cluster: agents still serve {}, by its labels and policies", .0.join(", "))]
    Served(Vec<String>),
    /// Some requests failed.
    #[error("{0} objects could not be removed")]
    Left(usize),
}

impl RemovalError {
    /// What the operator can do about it.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Unknown(error) => return error.hint(),
            Self::Led(_) => "stop all controllers first, as the chart does with remove=true",
            Self::Served(_) => {
                "run `egret agent --remove` on these nodes first, as the chart does with remove=true; if an agent is gone for \
                 good, `kubectl delete egressnode NODE` says so"
            }
            Self::Left(_) => "run it again; it goes on where it stopped",
        };
        Some(hint.to_owned())
    }
}

/// Removes node labels, custom resources and the Lease, unless they are in use.
pub async fn remove(options: Removal) -> Result<(), RemovalError> {
    let live = ApiClient::connect().await.map_err(RemovalError::Unknown)?;
    Uninstallation { live, options, left: 0 }.run().await
}

/// A removal that is under way.
struct Uninstallation {
    live: ApiClient,
    options: Removal,
    /// How many objects could not be removed.
    left: usize,
}

impl Uninstallation {
    async fn run(mut self) -> Result<(), RemovalError> {
        let nodes = self.live.node_traces().await.map_err(RemovalError::Unknown)?;
        let agents = self.live.egress_node_names().await.map_err(RemovalError::Unknown)?;
        let lease = self.unused_lease().await?;
        // An agent that was removed has deleted its EgressNode. A node that is down has no packets that labels decide.
        let is_served = |name: &String| nodes.iter().any(|node| node.ready && node.name.as_str() == *name);
        let served: Vec<String> = agents.iter().filter(|name| is_served(name)).cloned().collect();
        if !served.is_empty() {
            for name in served {
                tracing::warn!("left: EgressNode {name}: egret agent --remove on that node");
            }
            return Err(RemovalError::Served(agents.into_iter().filter(is_served).collect()));
        }
        self.remove_from_nodes(&nodes).await;
        // The head first: whoever still reads takes over no set that is incomplete.
        let gone = self.live.delete_config().await.map(|_| ());
        self.note(gone, "EgressConfig default", "kubectl delete egressconfig default");
        match self.live.policy_names().await {
            Ok(names) => {
                for name in names {
                    let gone = self.live.delete_policy(&name, None).await.map(|_| ());
                    let command = format!("kubectl delete publishedegresspolicy {name}");
                    self.note(gone, &format!("PublishedEgressPolicy {name}"), &command);
                }
            }
            listed => {
                self.note(
                    listed.map(|_| ()),
                    "PublishedEgressPolicies",
                    "kubectl delete publishedegresspolicies --all",
                );
            }
        }
        for name in agents {
            let gone = self.live.delete_node(&name).await.map(|_| ());
            self.note(gone, &format!("EgressNode {name}"), &format!("kubectl delete egressnode {name}"));
        }
        self.remove_heartbeats().await;
        self.remove_lease(lease).await;
        self.tell_kinds().await;
        if self.left > 0 {
            return Err(RemovalError::Left(self.left));
        }
        tracing::info!("nothing of the controller's is left in the cluster");
        Ok(())
    }

    /// The Lease, if there is one and no controller holds it. A holder is alive if it renews, whatever the clocks say.
    async fn unused_lease(&self) -> Result<Option<LeaseHolder>, RemovalError> {
        let Removal { namespace, lease } = &self.options;
        let read = async || self.live.lease_holder(namespace, lease).await.map_err(RemovalError::Unknown);
        let first = read().await?;
        let Some(held) = first.as_ref().filter(|lease| !lease.identity.is_empty()) else { return Ok(first) };
        tracing::info!(holder = held.identity, "the lease has a holder; waiting whether it renews");
        let until = tokio::time::Instant::now() + Duration::from_secs(held.seconds).min(LONGEST) + BEYOND;
        while tokio::time::Instant::now() < until {
            tokio::time::sleep(PAUSE).await;
            let Some(now) = read().await? else { return Ok(None) };
            if now.identity.is_empty() {
                return Ok(Some(now));
            }
            if now.resource_version != held.resource_version {
                let Removal { namespace, lease } = &self.options;
                tracing::warn!("left: Lease {namespace}/{lease}: it is renewed by {}", now.identity);
                return Err(RemovalError::Led(now.identity));
            }
        }
        Ok(first)
    }

    async fn remove_from_nodes(&mut self, nodes: &[NodeTraces]) {
        let nothing = Labels::new();
        for node in nodes {
            let name = &node.name;
            if node.labelled {
                let applied = self.live.apply_labels(name, &node.uid, &nothing, false).await.map(|_| ());
                if applied.is_ok() {
                    tracing::info!(node = %name, "its labels are as they were without Egret");
                }
                let command = format!("kubectl label node {name} KEY-, for the keys of its managedFields `egret`");
                self.note(applied, &format!("labels of node {name}"), &command);
            }
            if node.mentioned {
                let removed = self.live.remove_mention(name, &node.uid).await;
                self.note(removed, &format!("managedFields of node {name}"), "nothing depends on it");
            }
            if node.starting {
                tracing::warn!(
                    "left: taint {STARTUP_TAINT} of node {name}, which Egret did not set: kubectl taint node {name} {STARTUP_TAINT}-"
                );
            }
        }
    }

    /// Those of agents that are gone without a removal: their nodes are not Ready, or have no EgressNode.
    async fn remove_heartbeats(&mut self) {
        let namespace = self.options.namespace.clone();
        match self.live.heartbeat_nodes(&namespace).await {
            Ok(nodes) => {
                for node in nodes {
                    let gone = self.live.delete_heartbeat(&namespace, &node).await.map(|_| ());
                    let command = format!("kubectl -n {namespace} delete lease egret-agent.{node}");
                    self.note(gone, &format!("Lease {namespace}/egret-agent.{node}"), &command);
                }
            }
            listed => self.note(
                listed.map(|_| ()),
                "Leases of agents",
                &format!("kubectl -n {namespace} delete leases -l egret.dev/heartbeat"),
            ),
        }
    }

    async fn remove_lease(&mut self, lease: Option<LeaseHolder>) {
        let Some(lease) = lease else { return };
        let (namespace, name) = (&self.options.namespace, &self.options.lease);
        let (what, command) =
            (format!("Lease {namespace}/{name}"), format!("kubectl -n {namespace} delete lease {name}"));
        let gone = self.live.delete_lease(namespace, name, &lease.resource_version).await;
        self.note(gone, &what, &command);
    }

    /// Definitions are the administrator's: deleting one deletes all its objects. Those of older versions are among
    /// them.
    async fn tell_kinds(&mut self) {
        let kinds = match self.live.installed_kinds().await {
            Ok(kinds) => kinds,
            Err(error) => {
                tracing::warn!(error = chain(&error), "which definitions are left is not known");
                BTreeSet::new()
            }
        };
        for kind in kinds {
            tracing::info!("left: CustomResourceDefinition {kind}.egret.dev: kubectl delete crd {kind}.egret.dev");
        }
    }

    /// Counts what could not be removed, and logs the command that removes it.
    fn note(&mut self, outcome: Result<(), ApiError>, what: &str, command: &str) {
        if let Err(error) = outcome {
            self.left += 1;
            tracing::warn!(error = chain(&error), hint = error.hint(), "left: {what}: {command}");
        }
    }
}
