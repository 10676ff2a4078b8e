//! The file format of a handover, so that a restarted agent continues it.
//!
//! The kernel has the exits, but not the policies they carry, nor until when a drained one is kept. Not here: policies
//! without a fit gateway, whose wait is over in seconds, and file access.

use std::net::IpAddr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Carried, Handover, Left};
use crate::core::name::{NodeName, ObjectName};
use crate::core::placement::{Exit, ExitKey};
use crate::core::policy::{Egress, PolicyId, PolicyKind};

/// The persisted part of a handover.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct PersistedHandover {
    carried: Vec<KeptPolicy>,
    left: Vec<KeptLeft>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct KeptPolicy {
    name: String,
    cilium: bool,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    exits: Vec<KeptExit>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    scope: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct KeptExit {
    gateway: String,
    /// As printed: `dev net1`, an address, `default`.
    egress: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    next_hops: Vec<IpAddr>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct KeptLeft {
    exit: KeptExit,
    policies: Vec<KeptPolicy>,
    until: Timestamp,
}

impl From<&Handover> for PersistedHandover {
    fn from(handover: &Handover) -> Self {
        let carried = handover.carried.iter().map(|(id, carried)| KeptPolicy::new(id, carried)).collect();
        let left = handover.left.iter().map(|(key, left)| KeptLeft {
            exit: KeptExit::from(key),
            policies: left.policies.iter().map(|id| KeptPolicy::new(id, &Carried::default())).collect(),
            until: left.until,
        });
        Self { carried, left: left.collect() }
    }
}

impl From<Handover> for PersistedHandover {
    fn from(handover: Handover) -> Self {
        Self::from(&handover)
    }
}

impl From<PersistedHandover> for Handover {
    /// Entries that cannot be parsed are dropped.
    fn from(kept: PersistedHandover) -> Self {
        let carried = kept
            .carried
            .iter()
            .filter_map(|policy| Some((policy.id()?, Carried { exits: keys(&policy.exits), scope: policy.scope })));
        let carried = carried.collect();
        let left = kept.left.iter().filter_map(|left| {
            let key = left.exit.key()?;
            let exit = Exit { mac: key.mac() };
            let policies = left.policies.iter().filter_map(KeptPolicy::id).collect();
            Some((key, Left { exit, policies, until: left.until }))
        });
        Self { carried, left: left.collect(), ..Self::default() }
    }
}

fn keys(exits: &[KeptExit]) -> Vec<ExitKey> {
    exits.iter().filter_map(KeptExit::key).collect()
}

impl KeptPolicy {
    fn new(id: &PolicyId, carried: &Carried) -> Self {
        let cilium = id.kind == PolicyKind::Cilium;
        Self {
            name: id.name.to_string(),
            cilium,
            exits: carried.exits.iter().map(KeptExit::from).collect(),
            scope: carried.scope,
        }
    }

    fn id(&self) -> Option<PolicyId> {
        let kind = if self.cilium { PolicyKind::Cilium } else { PolicyKind::Egret };
        Some(PolicyId { name: ObjectName::parse(&self.name).ok()?, kind })
    }
}

impl From<&ExitKey> for KeptExit {
    fn from(key: &ExitKey) -> Self {
        Self { gateway: key.gateway.to_string(), egress: key.egress.to_string(), next_hops: key.next_hops.clone() }
    }
}

impl KeptExit {
    fn key(&self) -> Option<ExitKey> {
        let egress = Egress::parse(&self.egress)?;
        let gateway = NodeName::parse(&self.gateway).ok()?;
        Some(ExitKey { gateway, egress, next_hops: self.next_hops.clone() })
    }
}
