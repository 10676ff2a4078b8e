//! The wire format of the custom resources in the group egret.dev: equal content is always equal bytes, so that
//! applying it again changes nothing.
//!
//! Not here: their statuses (see `core::status`), and their schemas (in the chart). A policy's spec is a plain value
//! here: `core` prints and parses it.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::core::pools::Network;
pub use crate::core::status::{HeadStatus as ConfigStatus, NodeStatus, PolicyStatus};

/// Their group and version.
pub const API_VERSION: &str = "egret.dev/v1alpha1";
/// The name of the one EgressConfig.
pub const CONFIG_NAME: &str = "default";
/// The label, with the value `true`, of EgressNodes that serve exits: agents watch only these of the other nodes.
pub const GATEWAY_LABEL: &str = "egret.dev/gateway";

/// The startup taint: set when a node is created, and removed by the controller once the node's agent is ready. While
/// it is there, only pods that tolerate it start.
pub const STARTUP_TAINT: &str = "egret.dev/agent-not-ready";

/// The EgressConfig's spec: agents apply only the set of policies that it describes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ConfigSpec {
    /// The cluster's name in egret.yaml.
    pub cluster: String,
    /// The commit of the policy repository.
    pub revision: String,
    /// When it was committed, by the committer's clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub committed: Option<Timestamp>,
    /// Its first line.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub summary: String,
    /// The fencing token of the leader that wrote it.
    pub fence: i64,
    /// The policies that belong to it.
    pub policies: PolicyDigest,
    /// The settings of egret.yaml that agents need, as `core` prints and parses them.
    #[serde(default)]
    pub config: Value,
    /// Pod networks that CNI objects define: only the controller reads those objects, for all nodes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pod_networks: Vec<Network>,
}

/// Identifies a complete set of policies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyDigest {
    /// How many.
    pub count: u32,
    /// 16 hex digits over all of their specs.
    pub digest: String,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn fields_are_called_as_the_schemas_call_them() {
        let text = json!({
            "cluster": "default", "revision": "0123", "committed": "2026-11-23T05:12:43Z", "summary": "let the empire through", "fence": 3,
            "policies": {"count": 2, "digest": "0123456789abcdef"},
            "config": {"podCIDRs": ["10.1.0.0/16"], "datapath": {"markMask": 8191, "firstTable": 9000, "port": 4790, "mtu": 1450}},
            "podNetworks": ["10.48.0.0/16", "fd00:48::/56"],
        });
        let spec: ConfigSpec = serde_json::from_value(text.clone()).expect("a spec");
        assert_eq!(serde_json::to_value(spec).expect("json"), text);
    }
}
