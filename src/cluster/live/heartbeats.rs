//! Heartbeats of agents: a Lease for each node, in the release's namespace, that its agent renews, as kubelets renew theirs in
//! `kube-node-lease`.
//!
//! Only the fact that a Lease changes counts, not the time in it: clocks of nodes differ. Not here: who renews it
//! (`reconcile::agent`), and what a missing heartbeat means (`reconcile::controller`).

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use kube::core::Request;
use kube::core::params::{DeleteParams, Patch, PatchParams};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::json;

use super::error::ApiError;
use super::lease::leases_of;
use super::wire::{Identity, Meta, Watched};
use super::{ANSWER, ApiClient};
use crate::core::name::NodeName;

/// How often an agent renews its Lease. At 5,000 nodes these are 290 small writes a second; the kubelets' own are 500.
pub const RENEWAL: Duration = Duration::from_secs(20);
/// An agent that did not renew its Lease for this long is not heard any more: two renewals, and a retry.
pub const SILENCE: Duration = Duration::from_secs(42);

/// Selects these Leases.
pub(super) const LABEL: &str = "egret.dev/heartbeat";
/// The field manager.
const MANAGER: &str = "egret-agent";
/// What the names of these Leases begin with.
const PREFIX: &str = "egret-agent.";

/// The name of a node's Lease. (A node whose own name has more than 241 characters has no heartbeat: the API server
/// refuses the name.)
fn lease_name(node: &str) -> String {
    format!("{PREFIX}{node}")
}

impl ApiClient {
    /// Renews the Lease of a node's agent, or creates it. It is deleted together with the Node with this uid.
    pub async fn renew_heartbeat(&self, namespace: &str, node: &NodeName, uid: &str) -> Result<(), ApiError> {
        let name = lease_name(node.as_str());
        let body = json!({
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {
                "name": name,
                "labels": {LABEL: "agent"},
                "ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": node.as_str(), "uid": uid}],
            },
            "spec": {
                "holderIdentity": node.as_str(),
                "leaseDurationSeconds": SILENCE.as_secs(),
                "renewTime": format!("{:.6}", self.clock.now()),
            },
        });
        let parameters = PatchParams::apply(MANAGER).force();
        let request = Request::new(leases_of(namespace)).patch(&name, &parameters, &Patch::Apply(body));
        self.call::<IgnoredAny>(&format!("renewing Lease {namespace}/{name}"), request, ANSWER).await.map(drop)
    }

    /// When each agent's Lease was renewed, by its node's clock, as it is now: a watch may be late, or say nothing at all.
    pub async fn read_heartbeats(&self, namespace: &str) -> Result<BTreeMap<NodeName, Option<Timestamp>>, ApiError> {
        let leases = self.pages::<LeaseWire>("listing Leases", &leases_of(namespace)).await?;
        Ok(leases.into_iter().filter_map(Heartbeats::read).collect())
    }

    /// The nodes that have a Lease of an agent.
    pub async fn heartbeat_nodes(&self, namespace: &str) -> Result<Vec<String>, ApiError> {
        let names = self.names("Lease", &leases_of(namespace)).await?;
        Ok(names.iter().filter_map(|name| name.strip_prefix(PREFIX)).map(str::to_owned).collect())
    }

    /// Deletes the Lease of a node's agent; false if there was none.
    pub async fn delete_heartbeat(&self, namespace: &str, node: &str) -> Result<bool, ApiError> {
        let name = lease_name(node);
        let request = Request::new(leases_of(namespace)).delete(&name, &DeleteParams::default());
        match self.call::<IgnoredAny>(&format!("deleting Lease {namespace}/{name}"), request, ANSWER).await {
            Ok(_) => Ok(true),
            Err(error) if error.code() == Some(404) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// The Leases of agents.
pub(super) struct Heartbeats;

#[derive(Deserialize, Clone)]
pub(super) struct LeaseWire {
    metadata: Meta<IgnoredAny>,
    #[serde(default)]
    spec: Spec,
}

#[derive(Deserialize, Default, Clone)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    holder_identity: Option<String>,
    renew_time: Option<Timestamp>,
}

impl Watched for Heartbeats {
    const NAME: &'static str = "leases";
    const PATH: &'static str = "/apis/coordination.k8s.io/v1/leases";
    type Wire = LeaseWire;
    type Key = NodeName;
    /// When it was renewed, by the node's clock.
    type Value = Option<Timestamp>;

    fn read(wire: Self::Wire) -> Option<(NodeName, Option<Timestamp>)> {
        let node = NodeName::parse(&wire.spec.holder_identity?).ok()?;
        (wire.metadata.name == lease_name(node.as_str())).then_some((node, wire.spec.renew_time))
    }

    fn identity(wire: &Self::Wire) -> Identity<'_> {
        wire.metadata.identity()
    }
}
