//! What an uninstallation has to know, and removes: nodes with Egret's traces, agents' objects, the Lease, and which
//! kinds are installed.
//!
//! Plain lists in place of watches: an uninstallation ends, also when kinds are missing. Not here: labels (`labels`),
//! published objects (`objects`), and what may be removed while others still use it (the caller).

use std::collections::BTreeSet;

use kube::core::Request;
use kube::core::params::{DeleteParams, GetParams, Preconditions};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Value, json};

use super::error::ApiError;
use super::labels;
use super::lease::leases_of;
use super::objects::CONTROLLER;
use super::resources::{API_VERSION, STARTUP_TAINT};
use super::wire::{EgressNodes, Meta, Nodes, Slim, Watched};
use super::{ANSWER, ApiClient};
use crate::core::name::NodeName;

/// A node, and what of it is Egret's.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "facts that do not exclude each other")]
pub struct NodeTraces {
    /// Its name.
    pub name: NodeName,
    /// Distinguishes it from a later node of the same name.
    pub uid: String,
    /// Its kubelet says that it is Ready.
    pub ready: bool,
    /// Egret's field manager owns labels.
    pub labelled: bool,
    /// It has the startup taint, which something outside of Egret set.
    pub starting: bool,
    /// `managedFields` still names the controller, which removed a taint.
    pub mentioned: bool,
}

/// A Lease and its holder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseHolder {
    /// Empty if it was released.
    pub identity: String,
    /// Changes with each renewal.
    pub resource_version: String,
    /// The duration, in seconds.
    pub seconds: u64,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct NodeWire {
    metadata: Meta<Option<Vec<Entry>>>,
    spec: Spec,
    status: Status,
}

#[derive(Debug, Clone, Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Entry {
    manager: String,
    operation: String,
    fields_v1: Value,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Spec {
    taints: Option<Vec<Taint>>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Taint {
    key: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Status {
    conditions: Option<Vec<Condition>>,
}

#[derive(Deserialize)]
struct Condition {
    #[serde(rename = "type")]
    kind: String,
    status: String,
}

#[derive(Deserialize)]
struct LeaseWire {
    metadata: Meta<IgnoredAny>,
    #[serde(default)]
    spec: LeaseSpec,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct LeaseSpec {
    holder_identity: Option<String>,
    lease_duration_seconds: Option<u64>,
}

#[derive(Deserialize)]
struct Kinds {
    resources: Vec<Resource>,
}

#[derive(Deserialize)]
struct Resource {
    name: String,
}

#[derive(Deserialize)]
struct Named {
    metadata: Meta<IgnoredAny>,
}

impl NodeWire {
    fn traces(self) -> Option<NodeTraces> {
        let entries = self.metadata.managed_fields.unwrap_or_default();
        let owns_labels = |entry: &Entry| {
            let labels = &entry.fields_v1["f:metadata"]["f:labels"];
            entry.manager == labels::MANAGER && entry.operation == "Apply" && !labels.is_null()
        };
        let taints = self.spec.taints.unwrap_or_default();
        let conditions = self.status.conditions.unwrap_or_default();
        Some(NodeTraces {
            name: NodeName::parse(&self.metadata.name).ok()?,
            uid: self.metadata.uid,
            ready: conditions.iter().any(|one| one.kind == "Ready" && one.status == "True"),
            labelled: entries.iter().any(owns_labels),
            starting: taints.iter().any(|taint| taint.key == STARTUP_TAINT),
            mentioned: mention(&entries).is_some(),
        })
    }
}

/// The place of the entry that the controller's removal of a taint left.
fn mention(entries: &[Entry]) -> Option<usize> {
    entries.iter().position(|entry| entry.manager == CONTROLLER && entry.operation == "Update")
}

impl ApiClient {
    /// All nodes.
    pub async fn node_traces(&self) -> Result<Vec<NodeTraces>, ApiError> {
        let nodes: Vec<NodeWire> = self.pages("listing nodes", Nodes::<Slim>::PATH).await?;
        Ok(nodes.into_iter().filter_map(NodeWire::traces).collect())
    }

    /// Nodes that have an EgressNode: none if the kind is not installed.
    pub async fn egress_node_names(&self) -> Result<Vec<String>, ApiError> {
        self.names("EgressNode", EgressNodes::PATH).await
    }

    /// The names of all objects of a kind, for deleting them. A kind that is not installed has none.
    pub(super) async fn names(&self, kind: &str, path: &str) -> Result<Vec<String>, ApiError> {
        match self.pages::<Named>(&format!("listing {kind}s"), path).await {
            Ok(objects) => Ok(objects.into_iter().map(|one| one.metadata.name).collect()),
            Err(error) if error.code() == Some(404) => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// Removes the controller from a node's `managedFields`. Once the taint is gone, the entry of whoever removed it
    /// claims the other taints, which that removal did not change.
    pub async fn remove_mention(&self, node: &NodeName, uid: &str) -> Result<(), ApiError> {
        let doing = format!("removing {CONTROLLER} from the managedFields of node {node}");
        let patch = |found: &NodeWire| {
            if found.metadata.uid != uid {
                return None;
            }
            let place = mention(found.metadata.managed_fields.as_deref().unwrap_or_default())?;
            let path = format!("/metadata/managedFields/{place}");
            Some(json!([
                {"op": "test", "path": "/metadata/uid", "value": uid},
                {"op": "test", "path": format!("{path}/manager"), "value": CONTROLLER},
                {"op": "test", "path": format!("{path}/operation"), "value": "Update"},
                {"op": "remove", "path": path},
            ]))
        };
        self.patch_tested(&doing, node, patch).await.map(|_| ())
    }

    /// The Lease; none if there is none.
    pub async fn lease_holder(&self, namespace: &str, name: &str) -> Result<Option<LeaseHolder>, ApiError> {
        let request = Request::new(leases_of(namespace)).get(name, &GetParams::default());
        match self.call::<LeaseWire>(&format!("reading Lease {namespace}/{name}"), request, ANSWER).await {
            Ok(LeaseWire { metadata, spec }) => Ok(Some(LeaseHolder {
                identity: spec.holder_identity.unwrap_or_default(),
                resource_version: metadata.resource_version,
                seconds: spec.lease_duration_seconds.unwrap_or_default(),
            })),
            Err(error) if error.code() == Some(404) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Deletes the Lease, unless it was written since this resourceVersion.
    pub async fn delete_lease(&self, namespace: &str, name: &str, resource_version: &str) -> Result<(), ApiError> {
        let preconditions = Preconditions { resource_version: Some(resource_version.to_owned()), uid: None };
        let parameters = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        let request = Request::new(leases_of(namespace)).delete(name, &parameters);
        match self.call::<IgnoredAny>(&format!("deleting Lease {namespace}/{name}"), request, ANSWER).await {
            Err(error) if error.code() != Some(404) => Err(error),
            _ => Ok(()),
        }
    }

    /// The plurals of the kinds that are installed in Egret's group, also those of older versions of Egret.
    pub async fn installed_kinds(&self) -> Result<BTreeSet<String>, ApiError> {
        let request = Request::new("/apis").get(API_VERSION, &GetParams::default());
        match self.call::<Kinds>("asking which custom resources are installed", request, ANSWER).await {
            Ok(kinds) => {
                let names = kinds.resources.into_iter().map(|resource| resource.name);
                Ok(names.filter(|name| !name.contains('/')).collect())
            }
            Err(error) if error.code() == Some(404) => Ok(BTreeSet::new()),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn traces(node: &Value) -> NodeTraces {
        let wire: NodeWire = serde_json::from_value(node.clone()).expect("a node");
        wire.traces().expect("a name")
    }

    #[test]
    fn only_what_egret_wrote_is_a_trace() {
        let entry = |manager: &str, operation: &str, fields: Value| json!({"manager": manager, "operation": operation, "fieldsV1": fields});
        let labels = json!({"f:metadata": {"f:labels": {"f:egress-gw": {}}}});
        let taints = json!({"f:spec": {"f:taints": {}}});
        let node = |entries: &[Value]| {
            json!({
                "metadata": {"name": "kind-worker", "uid": "u", "managedFields": entries},
                "spec": {"taints": [{"key": "dedicated", "effect": "NoSchedule"}]},
                "status": {"conditions": [{"type": "Ready", "status": "True"}]},
            })
        };
        let none = traces(&node(&[
            entry("kubectl-label", "Update", labels.clone()),
            entry("kubelet", "Update", taints.clone()),
            entry("egret", "Update", labels.clone()),
            entry("egret-controller", "Apply", taints.clone()),
        ]));
        assert!(none.ready && !none.labelled && !none.mentioned && !none.starting);
        assert!(traces(&node(&[entry("egret", "Apply", labels)])).labelled);
        assert!(traces(&node(&[entry("egret-controller", "Update", taints)])).mentioned);
        let bare = traces(&json!({"metadata": {"name": "a"}, "spec": {"taints": [{"key": STARTUP_TAINT}]}}));
        assert!(bare.starting && !bare.ready);
    }
}
