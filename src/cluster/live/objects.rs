//! Writes custom resources by forced server-side apply: only Egret owns them, and changes by other clients are
//! reverted. The caller decides whether a write is needed: an apply without a change costs a request all the same.

use kube::core::Request;
use kube::core::params::{DeleteParams, GetParams, Patch, PatchParams, Preconditions};
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::error::ApiError;
use super::resources::{API_VERSION, CONFIG_NAME, ConfigSpec, ConfigStatus, GATEWAY_LABEL, NodeStatus, PolicyStatus};
use super::view::EgressNodeObject;
use super::wire::{Configs, EgressNodes, Meta, Policies, Slim, Watched};
use super::{ANSWER, ApiClient};
use crate::core::escape::json_as_yaml;
use crate::core::name::NodeName;
use crate::core::status::Condition;

/// The field manager of policies and the configuration.
pub(super) const CONTROLLER: &str = "egret-controller";
/// The field manager of a node's own object.
const AGENT: &str = "egret-agent";

/// A kind of custom resource.
struct Kind {
    name: &'static str,
    path: &'static str,
    manager: &'static str,
}

const POLICY: Kind = Kind { name: "PublishedEgressPolicy", path: Policies::<Slim>::PATH, manager: CONTROLLER };
const CONFIG: Kind = Kind { name: "EgressConfig", path: Configs::<Slim>::PATH, manager: CONTROLLER };
/// With a field manager of its own: the fields of the published spec keep their owner.
const PUSHED: Kind = Kind { manager: "egret-webhook", ..CONFIG };
const NODE: Kind = Kind { name: "EgressNode", path: EgressNodes::PATH, manager: AGENT };

/// An object after it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// Distinguishes it from a later object of the same name.
    pub uid: String,
    /// Grows with every write that changed something.
    pub resource_version: String,
    /// Grows with every change of the spec; what a condition's `observedGeneration` means.
    pub generation: i64,
}

#[derive(Deserialize)]
struct Answer {
    metadata: Meta<IgnoredAny>,
}

impl ApiClient {
    /// Publishes a policy: creates it, or makes its spec this one.
    pub async fn apply_policy(&self, name: &str, spec: &Value) -> Result<Written, ApiError> {
        self.apply(&POLICY, name, None, &json!({"metadata": {"name": name}, "spec": spec})).await
    }

    /// Makes a policy's status this one. 404 if there is no such policy.
    pub async fn apply_policy_status(&self, name: &str, status: &PolicyStatus) -> Result<Written, ApiError> {
        self.apply_status(&POLICY, name, status).await
    }

    /// Deletes a policy; false if it was gone already. With a resource version, only that version: 409 if it was
    /// written since.
    pub async fn delete_policy(&self, name: &str, resource_version: Option<&str>) -> Result<bool, ApiError> {
        self.delete(&POLICY, name, resource_version).await
    }

    /// The names of all policies in the cluster, for deleting them.
    pub async fn policy_names(&self) -> Result<Vec<String>, ApiError> {
        self.names(POLICY.name, POLICY.path).await
    }

    /// Publishes the EgressConfig.
    pub async fn apply_config(&self, spec: &ConfigSpec) -> Result<Written, ApiError> {
        self.apply(&CONFIG, CONFIG_NAME, None, &json!({"metadata": {"name": CONFIG_NAME}, "spec": spec})).await
    }

    /// The same, unless the configuration has another version by now: then 409.
    pub async fn claim_config(&self, spec: &ConfigSpec, version: &str) -> Result<Written, ApiError> {
        let metadata = json!({"name": CONFIG_NAME, "resourceVersion": version});
        self.apply(&CONFIG, CONFIG_NAME, None, &json!({"metadata": metadata, "spec": spec})).await
    }

    /// Notifies the leader of a push. An error where nothing was published yet.
    pub async fn announce_push(&self, when: &str) -> Result<Written, ApiError> {
        let metadata = json!({"name": CONFIG_NAME, "annotations": {"egret.dev/pushed": when}});
        self.apply(&PUSHED, CONFIG_NAME, None, &json!({"metadata": metadata})).await
    }

    /// Makes the configuration's status this one. 404 if nothing was published yet.
    pub async fn apply_config_status(&self, status: &ConfigStatus) -> Result<Written, ApiError> {
        self.apply_status(&CONFIG, CONFIG_NAME, status).await
    }

    /// Deletes the configuration; false if it was gone already.
    pub async fn delete_config(&self) -> Result<bool, ApiError> {
        self.delete(&CONFIG, CONFIG_NAME, None).await
    }

    /// Creates this node's object, or corrects its label. It is deleted together with the Node with this uid.
    pub async fn apply_node(&self, node: &NodeName, owner_uid: &str, is_gateway: bool) -> Result<Written, ApiError> {
        let owner = json!({"apiVersion": "v1", "kind": "Node", "name": node.as_str(), "uid": owner_uid});
        let mut metadata = json!({"name": node.as_str(), "ownerReferences": [owner]});
        if is_gateway {
            metadata["labels"] = json!({GATEWAY_LABEL: "true"});
        }
        self.apply(&NODE, node.as_str(), None, &json!({"metadata": metadata, "spec": {}})).await
    }

    /// Makes the status of this node's object this one. 404 if there is no such object.
    pub async fn apply_node_status(&self, node: &NodeName, status: &NodeStatus) -> Result<Written, ApiError> {
        self.apply_status(&NODE, node.as_str(), status).await
    }

    /// Makes one condition of a node's status this one, in the controller's name: its agent does not say so itself. The
    /// agent takes the condition back with its next status.
    pub async fn apply_node_condition(&self, node: &NodeName, condition: &Condition) -> Result<Written, ApiError> {
        let kind = Kind { manager: CONTROLLER, ..NODE };
        self.apply_status(&kind, node.as_str(), &json!({"conditions": [condition]})).await
    }

    /// A node's object as it is now: agents do not watch their own.
    pub async fn egress_node(&self, node: &NodeName) -> Result<Option<EgressNodeObject>, ApiError> {
        let doing = format!("reading {} {node}", NODE.name);
        let request = Request::new(NODE.path).get(node.as_str(), &GetParams::default());
        match self.call::<<EgressNodes as Watched>::Wire>(&doing, request, ANSWER).await {
            Ok(wire) => Ok(EgressNodes::read(wire).map(|(_, object)| object)),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Deletes a node's object; false if it was gone already.
    pub async fn delete_node(&self, node: &str) -> Result<bool, ApiError> {
        self.delete(&NODE, node, None).await
    }

    /// Deletes the object with this UID of a node that is gone; false if the Node exists, or the object is another.
    pub async fn delete_node_if_gone(&self, node: &NodeName, uid: &str) -> Result<bool, ApiError> {
        let request = Request::new("/api/v1/nodes").get(node.as_str(), &GetParams::default());
        match self.call::<IgnoredAny>(&format!("reading node {node}"), request, ANSWER).await {
            Ok(_) => return Ok(false),
            Err(error) if is_absent(&error) => {}
            Err(error) => return Err(error),
        }
        let preconditions = Some(Preconditions { resource_version: None, uid: Some(uid.to_owned()) });
        match self.delete_when(&NODE, node.as_str(), preconditions).await {
            Err(error) if error.code() == Some(409) => Ok(false),
            result => result,
        }
    }

    async fn apply_status(&self, kind: &Kind, name: &str, status: &impl Serialize) -> Result<Written, ApiError> {
        self.apply(kind, name, Some("status"), &json!({"metadata": {"name": name}, "status": status})).await
    }

    async fn apply(&self, kind: &Kind, name: &str, part: Option<&str>, body: &Value) -> Result<Written, ApiError> {
        let mut body = body.clone();
        body["apiVersion"] = json!(API_VERSION);
        body["kind"] = json!(kind.name);
        let parameters = PatchParams::apply(kind.manager).force();
        let (doing, request) = match part {
            Some(part) => (
                format!("writing the {part} of {} {name}", kind.name),
                Request::new(kind.path).patch_subresource(part, name, &parameters, &Patch::Apply(body)),
            ),
            None => (
                format!("writing {} {name}", kind.name),
                Request::new(kind.path).patch(name, &parameters, &Patch::Apply(body)),
            ),
        };
        // The server reads an apply as YAML.
        let request =
            request.map(|request| request.map(|body| json_as_yaml(&String::from_utf8_lossy(&body)).into_bytes()));
        let Answer { metadata } = self.call(&doing, request, ANSWER).await?;
        let generation = metadata.generation.unwrap_or_default();
        Ok(Written { uid: metadata.uid, resource_version: metadata.resource_version, generation })
    }

    async fn delete(&self, kind: &Kind, name: &str, version: Option<&str>) -> Result<bool, ApiError> {
        let resource_version = version.map(str::to_owned);
        let preconditions =
            resource_version.map(|version| Preconditions { resource_version: Some(version), uid: None });
        self.delete_when(kind, name, preconditions).await
    }

    async fn delete_when(
        &self,
        kind: &Kind,
        name: &str,
        preconditions: Option<Preconditions>,
    ) -> Result<bool, ApiError> {
        let parameters = DeleteParams { preconditions, ..DeleteParams::default() };
        let request = Request::new(kind.path).delete(name, &parameters);
        match self.call::<IgnoredAny>(&format!("deleting {} {name}", kind.name), request, ANSWER).await {
            Ok(_) => Ok(true),
            Err(error) if is_absent(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

fn is_absent(error: &ApiError) -> bool {
    error.code() == Some(404)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_yaml_does_not_take_is_escaped_and_read_back_as_it_was() {
        let body = json!({"reason": "a\u{7f}\u{85}\u{9f}\u{a0}\u{2028}\u{feff}\u{ffff}é😀\n", "\u{80}": "\\"});
        let text = json_as_yaml(&body.to_string());
        assert!(text.contains(r"a\u007f\u0085\u009f") && text.contains("é😀") && text.contains('\u{a0}'), "{text}");
        assert_eq!(serde_json::from_str::<Value>(&text).expect("JSON"), body);
    }
}
