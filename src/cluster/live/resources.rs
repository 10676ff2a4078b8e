//! The custom resources of the group egret.dev, as they go over the wire: the same content is always the same bytes, so that applying it
//! again changes nothing.
//!
//! Not here: their statuses (`core::status`), and their schemas (the chart has them). A policy's spec is a value here: `core` prints and
//! reads it.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::core::pools::Network;
pub use crate::core::status::{HeadStatus as ConfigStatus, NodeStatus, PolicyStatus};

/// Group and version of all of them.
pub const API_VERSION: &str = "egret.dev/v1alpha1";
/// The name of the one EgressConfig.
pub const CONFIG_NAME: &str = "default";
/// On EgressNodes that serve exits, with the value `true`: what agents watch of the other nodes.
pub const GATEWAY_LABEL: &str = "egret.dev/gateway";

/// Set on new nodes by what creates them, and removed by the controller when their agents are done. While it is there, only pods that
/// tolerate it start.
pub const STARTUP_TAINT: &str = "egret.dev/agent-not-ready";

/// The head of what is published: agents apply only the set of policies that it describes.
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
    /// The generation of the leader that wrote it.
    pub fence: i64,
    /// Which policies belong to it.
    pub policies: PolicyDigest,
    /// What egret.yaml says that agents need, as `core` prints and reads it.
    #[serde(default)]
    pub config: Value,
    /// Networks of pods that CNIs tell the controller: one reads them for all nodes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pod_networks: Vec<Network>,
}

/// By what a set of policies is known to be whole.
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
