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
use crate::core::heartbeat::Heartbeat;
use crate::core::name::NodeName;
use crate::core::rates::ReportedRates;

/// How often an agent renews its Lease. At 5,000 nodes these are 290 small writes a second; the kubelets' own are 500.
pub const RENEWAL: Duration = Duration::from_secs(20);
/// An agent that did not renew its Lease for this long is not heard any more: two renewals, and a retry.
pub const SILENCE: Duration = Duration::from_secs(42);

/// The annotation with what the node's kernel counts: [`ReportedRates`]. It is read in `wire`.
const RATES: &str = "egret.dev/rates";
/// A longer one is not read, in bytes: an exit's identity has at most 127, a policy's name 253.
const LONGEST: usize = 16 << 10;

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
    /// Renews the Lease of a node's agent, or creates it. It is deleted together with the Node with this uid. `rates`: what its kernel
    /// counts.
    pub async fn renew_heartbeat(
        &self,
        namespace: &str,
        node: &NodeName,
        uid: &str,
        rates: Option<&ReportedRates>,
    ) -> Result<(), ApiError> {
        let name = lease_name(node.as_str());
        let annotations: BTreeMap<&str, String> =
            rates.and_then(|rates| Some((RATES, serde_json::to_string(rates).ok()?))).into_iter().collect();
        let body = json!({
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {
                "name": name,
                "labels": {LABEL: "agent"},
                "annotations": annotations,
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

    /// Each agent's heartbeat as it is now: a watch may be late, or say nothing at all.
    pub async fn read_heartbeats(&self, namespace: &str) -> Result<BTreeMap<NodeName, Heartbeat>, ApiError> {
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

/// What a node reports of its rates; nothing, if that is not of this form.
fn reported(text: &str, node: &NodeName) -> Option<ReportedRates> {
    let text = Some(text).filter(|text| text.len() <= LONGEST)?;
    serde_json::from_str::<ReportedRates>(text).ok()?.of_node(node)
}

impl Watched for Heartbeats {
    const NAME: &'static str = "leases";
    const PATH: &'static str = "/apis/coordination.k8s.io/v1/leases";
    type Wire = LeaseWire;
    type Key = NodeName;
    type Value = Heartbeat;

    fn read(wire: Self::Wire) -> Option<(NodeName, Heartbeat)> {
        let node = NodeName::parse(&wire.spec.holder_identity?).ok()?;
        let rates =
            wire.metadata.annotations.and_then(|annotations| annotations.rates).and_then(|text| reported(&text, &node));
        let heartbeat = Heartbeat { renewed: wire.spec.renew_time, rates };
        (wire.metadata.name == lease_name(node.as_str())).then_some((node, heartbeat))
    }

    fn identity(wire: &Self::Wire) -> Identity<'_> {
        wire.metadata.identity()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node() -> NodeName {
        NodeName::parse("g1").expect("a name")
    }

    #[test]
    fn what_no_agent_reports_is_nothing() {
        for wrong in ["", "7", "{", r#"{"seconds":-1}"#, r#"{"dropped":1e999}"#, r#"{"exits":{"g1 dev net1":[1]}}"#] {
            assert_eq!(reported(wrong, &node()), None, "{wrong}");
        }
        let long = format!(r#"{{"connections":{{"{}":1}}}}"#, "x".repeat(LONGEST));
        assert_eq!(reported(&long, &node()), None);
        let odd = reported(r#"{"exits":{"g10 dev net1":[1,2],"g1 dev net1":[-1,2]},"more":1}"#, &node());
        assert_eq!(odd, Some(ReportedRates::default()));
    }

    #[test]
    fn an_agent_of_a_thousand_busy_exits_reports_what_is_read() {
        let rates = crate::core::rates::fixture::busy("g1", 1000);
        let text = serde_json::to_string(&ReportedRates::of(&rates)).expect("text");
        assert!(reported(&text, &node()).is_some(), "{} bytes", text.len());
    }
}
