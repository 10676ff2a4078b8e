//! The custom resources of the group egret.dev, as they go over the wire: whatever is empty is left out, so that the same content
//! is always the same bytes and applying it again changes nothing.
//!
//! Deliberately absent: how they come about, and their schemas (the chart has them). A policy's spec is a value here: `core` prints
//! and reads it.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use crate::core::report::history::NodeReport;

/// Group and version of all of them.
pub const API_VERSION: &str = "egret.dev/v1alpha1";
/// The name of the one EgressConfig.
pub const CONFIG_NAME: &str = "default";
/// On EgressNodes that serve exits, with the value `true`: what agents watch of the other nodes.
pub const GATEWAY_LABEL: &str = "egret.dev/gateway";

/// One condition of a status, as Kubernetes has them everywhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// `Ready`, `Rejected`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Whether it holds.
    pub status: Truth,
    /// One word in CamelCase.
    pub reason: String,
    /// A sentence.
    #[serde(default)]
    pub message: String,
    /// The generation of the spec that this is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// When `status` last changed.
    pub last_transition_time: Timestamp,
}

/// Whether a condition holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Truth {
    /// It does.
    True,
    /// It does not.
    False,
    /// Nobody can say.
    Unknown,
}

impl fmt::Display for Truth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        })
    }
}

/// What became of a policy.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PolicyStatus {
    /// The commit that was in force when this was written.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub revision: String,
    /// Its exits.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub gateways: Vec<PolicyGateway>,
    /// For the column: `kind-worker2`, or three of them and `+2`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub gateway_summary: String,
    /// For the column: the addresses.
    #[serde(rename = "egressIPSummary", skip_serializing_if = "String::is_empty")]
    pub egress_ip_summary: String,
    /// Pods, as the agents last told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub members: Option<u32>,
    /// Nodes with members.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nodes: Option<u32>,
    /// Ready, Rejected, Conflict.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// One exit of a policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyGateway {
    /// The node that answers.
    pub node: String,
    /// The exit: `kind-worker2 dev net1`.
    pub exit: String,
    /// The addresses packets leave with, as the node tells them.
    #[serde(rename = "egressIPs", default, skip_serializing_if = "Vec::is_empty")]
    pub egress_ips: Vec<IpAddr>,
    /// Whether the node has it in force.
    pub ready: bool,
}

/// The head of what is published: agents apply only the set of policies that it describes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ConfigSpec {
    /// The cluster's name in egret.yaml.
    pub cluster: String,
    /// The commit of the policy repository.
    pub revision: String,
    /// Its first line.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub summary: String,
    /// The generation of the leader that wrote it.
    pub fence: i64,
    /// Which policies belong to it.
    pub policies: PolicyDigest,
    /// What egret.yaml says of the datapath.
    #[serde(default)]
    pub config: ClusterConfig,
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

/// What egret.yaml says that agents need.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClusterConfig {
    /// Pod networks, where nodes do not tell theirs.
    #[serde(rename = "podCIDRs", skip_serializing_if = "Vec::is_empty")]
    pub pod_cidrs: Vec<IpNet>,
    /// Service networks.
    #[serde(rename = "serviceCIDRs", skip_serializing_if = "Vec::is_empty")]
    pub service_cidrs: Vec<IpNet>,
    /// Destinations that are never steered.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub exclusions: Vec<IpNet>,
    /// Marks, tables, port, MTU; what is left out is as the program has it.
    #[serde(skip_serializing_if = "Datapath::is_empty")]
    pub datapath: Datapath,
}

/// What Egret takes of the kernel's numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Datapath {
    /// The bits of marks that are ours.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mark_mask: Option<u32>,
    /// The first routing table and rule priority.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_table: Option<u32>,
    /// The UDP port of the tunnel.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// The MTU of the tunnel.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
}

impl Datapath {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// How the whole cluster stands.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ConfigStatus {
    /// The pod that leads.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub leader: String,
    /// Nodes by how they stand.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nodes: Option<NodeCounts>,
    /// For the column: `3/3`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub node_summary: String,
    /// Documents that are not in force as they stand in the repository.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rejected: Vec<crate::core::report::history::Rejected>,
    /// GitReachable, PoliciesAccepted, ReportsPublished.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// Nodes by how they stand.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeCounts {
    /// With an agent.
    pub total: u32,
    /// With the revision in force.
    pub in_force: u32,
    /// With drift that is not put right.
    pub drifting: u32,
}

/// What a node's agent says of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeStatus {
    /// The commit in force.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub revision: String,
    /// The fence of the configuration in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fence: Option<i64>,
    /// Exits that this node serves as gateway, in force in its kernel.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub exits: Vec<ServedExit>,
    /// For the column: the addresses.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub exit_summary: String,
    /// Policies with members here.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub policies: Vec<PolicyMembers>,
    /// Pods here that some policy selects.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub members: Option<u32>,
    /// What its kernel can.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub features: Option<Features>,
    /// Differences found and not put right.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drift: Option<u32>,
    /// The latest of its report. One that another version wrote and this one cannot read is none.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "readable")]
    pub report: Option<NodeReport>,
    /// Ready, Drifting.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// An exit in force on its gateway.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServedExit {
    /// `kind-worker2 dev net1`
    pub identity: String,
    /// The addresses packets leave with.
    #[serde(rename = "egressIPs", default, skip_serializing_if = "Vec::is_empty")]
    pub egress_ips: Vec<IpAddr>,
}

/// How many pods of a node a policy selects.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyMembers {
    /// The policy's name in its document.
    pub name: String,
    /// The document's kind.
    pub kind: String,
    /// Pods.
    pub members: u32,
}

/// What a kernel can.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Features {
    /// Its release.
    pub kernel: String,
    /// nftables sets the tunnel's key.
    #[serde(default)]
    pub nft_tunnel: bool,
    /// Tables belong to the process that made them.
    #[serde(default)]
    pub owned_tables: bool,
    /// IPv6 is on.
    #[serde(default)]
    pub ipv6: bool,
}

/// What can be read; another version's form is as good as none.
pub(super) fn readable<'de, D: Deserializer<'de>, T: serde::de::DeserializeOwned>(
    from: D,
) -> Result<Option<T>, D::Error> {
    let value = Option::<Value>::deserialize(from)?;
    Ok(value.and_then(|value| serde_json::from_value(value).ok()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_empty_is_left_out() {
        assert_eq!(serde_json::to_value(PolicyStatus::default()).expect("json"), json!({}));
        assert_eq!(serde_json::to_value(NodeStatus::default()).expect("json"), json!({}));
        assert_eq!(serde_json::to_value(ConfigStatus::default()).expect("json"), json!({}));
        assert_eq!(serde_json::to_value(ClusterConfig::default()).expect("json"), json!({}));
    }

    #[test]
    fn fields_are_called_as_the_schemas_call_them() {
        let text = json!({
            "cluster": "default", "revision": "0123", "summary": "let the empire through", "fence": 3,
            "policies": {"count": 2, "digest": "0123456789abcdef"},
            "config": {
                "podCIDRs": ["10.1.0.0/16"], "serviceCIDRs": ["10.2.0.0/16"], "exclusions": ["fd00::/8"],
                "datapath": {"markMask": 8191, "firstTable": 9000, "port": 4790, "mtu": 1450},
            },
        });
        let spec: ConfigSpec = serde_json::from_value(text.clone()).expect("a spec");
        assert_eq!(serde_json::to_value(spec).expect("json"), text);

        let text = json!({
            "revision": "0123", "fence": 3, "exits": [{"identity": "kind-worker2 dev net1", "egressIPs": ["10.0.3.42"]}],
            "exitSummary": "10.0.3.42", "policies": [{"name": "outpost", "kind": "EgressPolicy", "members": 2}], "members": 2,
            "features": {"kernel": "6.18.44", "nftTunnel": true, "ownedTables": true, "ipv6": true}, "drift": 0,
            "report": {"node": "kind-worker2", "drift": [], "corrected": []},
            "conditions": [{"type": "Ready", "status": "True", "reason": "InForce", "message": "", "observedGeneration": 1,
                            "lastTransitionTime": "2026-11-22T19:56:38Z"}],
        });
        let status: NodeStatus = serde_json::from_value(text.clone()).expect("a status");
        assert_eq!(serde_json::to_value(status).expect("json"), text);

        let text = json!({
            "revision": "0123", "gatewaySummary": "kind-worker2", "egressIPSummary": "10.0.3.42", "members": 12, "nodes": 3,
            "gateways": [{"node": "kind-worker2", "exit": "kind-worker2 dev net1", "egressIPs": ["fd00:10:3::42"], "ready": true}],
        });
        let status: PolicyStatus = serde_json::from_value(text.clone()).expect("a status");
        assert_eq!(serde_json::to_value(status).expect("json"), text);
    }

    #[test]
    fn a_report_of_another_version_does_not_hide_the_rest() {
        let status: NodeStatus =
            serde_json::from_value(json!({"revision": "0123", "report": {"unheard": "of"}})).expect("a status");
        assert_eq!(status, NodeStatus { revision: "0123".to_owned(), ..NodeStatus::default() });
    }
}
