//! The reduced forms in which watched objects are read: serde skips the other fields while parsing. Full pods are
//! fifty times the size of the fields that matter.
//!
//! One invalid value in one object never fails the watch: what cannot be read is left out of that object. Not here:
//! requests (see `reflector`) and the current state (see `view`).

use std::collections::BTreeSet;
use std::fmt;

use jiff::Timestamp;
use serde::de::{DeserializeOwned, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::resources::{CONFIG_NAME, ConfigSpec, STARTUP_TAINT};
use super::view::{ConfigObject, EgressNodeObject, LabelManager, Manager, NodeMeta, Operation, PolicyObject};
use crate::core::facts::{Node, Pod, PodName};
use crate::core::labels::Labels;
use crate::core::name::NodeName;

/// A kind of object that can be watched.
pub(super) trait Watched: Send + Sync + 'static {
    /// Its plural, with the group if it is ours.
    const NAME: &'static str;
    /// Its path on the API server.
    const PATH: &'static str;
    /// The fields that are read.
    type Wire: DeserializeOwned + Clone + Send;
    /// Its key.
    type Key: Ord + Clone + Send;
    /// The part that is kept.
    type Value: Send;
    /// The key, and the part that is kept. `None` if the name is not valid in a cluster.
    fn read(wire: Self::Wire) -> Option<(Self::Key, Self::Value)>;
    /// What identifies one state of an object.
    fn identity(wire: &Self::Wire) -> Identity<'_>;
}

/// The name and the version of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Identity<'a> {
    pub namespace: Option<&'a str>,
    pub name: &'a str,
    /// To continue watching from.
    pub version: &'a str,
}

impl Identity<'_> {
    /// `namespace/name`, or the name of an object that is in none.
    pub(super) fn key(&self) -> String {
        match self.namespace {
            Some(namespace) => format!("{namespace}/{}", self.name),
            None => self.name.to_owned(),
        }
    }
}

/// The level of detail.
pub(super) trait Detail: Send + Sync + 'static {
    /// `managedFields`
    type Managers: DeserializeOwned + Default + Clone + Send;
    /// `status` of a custom resource that is not watched for its status.
    type Status: DeserializeOwned + Default + Clone + Send;
    /// Whether nodes with the startup taint are recorded.
    const STARTING: bool;
    /// The entries.
    fn managers(managers: Self::Managers) -> Vec<ManagedFieldsEntry>;
    /// The status.
    fn status(status: Self::Status) -> Option<Value>;
}

/// The detail that an agent needs.
pub(super) struct Slim;

/// The detail that the controller needs: also field managers, and its own statuses.
pub(super) struct Whole;

impl Detail for Slim {
    type Managers = IgnoredAny;
    type Status = IgnoredAny;
    const STARTING: bool = false;

    fn managers(_: IgnoredAny) -> Vec<ManagedFieldsEntry> {
        Vec::new()
    }

    fn status(_: IgnoredAny) -> Option<Value> {
        None
    }
}

impl Detail for Whole {
    type Managers = Option<Vec<ManagedFieldsEntry>>;
    type Status = Option<Value>;
    const STARTING: bool = true;

    fn managers(managers: Option<Vec<ManagedFieldsEntry>>) -> Vec<ManagedFieldsEntry> {
        managers.unwrap_or_default()
    }

    fn status(status: Option<Value>) -> Option<Value> {
        status
    }
}

/// Fields of metadata.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Meta<M: Default> {
    pub name: String,
    pub namespace: Option<String>,
    pub uid: String,
    pub resource_version: String,
    pub generation: Option<i64>,
    pub labels: Option<Labels>,
    deletion_timestamp: Option<IgnoredAny>,
    pub annotations: Option<Annotations>,
    pub managed_fields: M,
}

impl<M: Default> Meta<M> {
    pub(super) fn identity(&self) -> Identity<'_> {
        Identity { namespace: self.namespace.as_deref(), name: &self.name, version: &self.resource_version }
    }
}

/// The annotations that are read.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Annotations {
    #[serde(rename = "egret.dev/pushed")]
    pushed: Option<String>,
    #[serde(rename = "egret.dev/rates")]
    pub(super) rates: Option<String>,
}

/// One entry of managedFields.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct ManagedFieldsEntry {
    manager: String,
    operation: String,
    subresource: Option<String>,
    time: Option<String>,
    fields_v1: Option<Fields>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Fields {
    #[serde(rename = "f:metadata")]
    metadata: Option<MetadataFields>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct MetadataFields {
    #[serde(rename = "f:labels")]
    labels: Option<FieldNames>,
}

/// Names of fields; what is below them is skipped.
#[derive(Debug, Clone, Default)]
struct FieldNames(BTreeSet<String>);

impl<'de> Deserialize<'de> for FieldNames {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_map(FieldNamesVisitor)
    }
}

struct FieldNamesVisitor;

impl<'de> Visitor<'de> for FieldNamesVisitor {
    type Value = FieldNames;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("fields")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<FieldNames, A::Error> {
        let mut names = BTreeSet::new();
        while let Some((name, IgnoredAny)) = map.next_entry::<String, IgnoredAny>()? {
            // `f:` is a field's name; `.` is the map itself.
            names.extend(name.strip_prefix("f:").map(str::to_owned));
        }
        Ok(FieldNames(names))
    }
}

impl ManagedFieldsEntry {
    fn operation(&self) -> Operation {
        if self.operation == "Apply" { Operation::Apply } else { Operation::Update }
    }

    fn time(&self) -> Option<Timestamp> {
        self.time.as_deref().and_then(|time| time.parse().ok())
    }

    pub(super) fn labels(&self) -> Option<LabelManager> {
        let labels = self.fields_v1.as_ref()?.metadata.as_ref()?.labels.as_ref()?;
        let keys = labels.0.clone();
        Some(LabelManager { manager: self.manager.clone(), operation: self.operation(), time: self.time(), keys })
    }

    fn writer(&self) -> Option<Manager> {
        let writer = Manager { manager: self.manager.clone(), operation: self.operation(), time: self.time() };
        self.subresource.as_deref().unwrap_or_default().is_empty().then_some(writer)
    }
}

/// Nodes.
pub(super) struct Nodes<D>(std::marker::PhantomData<D>);

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct NodeWire<M: Default> {
    pub metadata: Meta<M>,
    spec: NodeSpec,
    status: NodeStatusWire,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct NodeSpec {
    unschedulable: Option<bool>,
    #[serde(rename = "podCIDR")]
    pod_cidr: Option<String>,
    #[serde(rename = "podCIDRs")]
    pod_cidrs: Option<Vec<String>>,
    taints: Option<Vec<TaintWire>>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct TaintWire {
    key: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct NodeStatusWire {
    addresses: Option<Vec<Address>>,
    conditions: Option<Vec<ConditionWire>>,
    node_info: NodeInfo,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct NodeInfo {
    #[serde(rename = "bootID")]
    boot_id: String,
}

#[derive(Debug, Clone, Deserialize)]
struct Address {
    #[serde(rename = "type")]
    kind: String,
    address: String,
}

#[derive(Debug, Clone, Deserialize)]
struct ConditionWire {
    #[serde(rename = "type")]
    kind: String,
    status: String,
}

impl<M: Default> NodeWire<M> {
    /// The boot ID of a node with the startup taint.
    fn starting(&mut self) -> Option<String> {
        let taints = self.spec.taints.take().unwrap_or_default();
        let boot_id = std::mem::take(&mut self.status.node_info.boot_id);
        taints.iter().any(|taint| taint.key == STARTUP_TAINT).then_some(boot_id)
    }

    fn facts(&mut self) -> Node {
        let cidrs = match (self.spec.pod_cidrs.take(), self.spec.pod_cidr.take()) {
            (Some(cidrs), _) if !cidrs.is_empty() => cidrs,
            (_, single) => single.into_iter().collect(),
        };
        let addresses = self.status.addresses.take().unwrap_or_default();
        let internal = addresses.iter().filter(|address| address.kind == "InternalIP");
        let conditions = self.status.conditions.take().unwrap_or_default();
        Node {
            labels: self.metadata.labels.take().unwrap_or_default(),
            addresses: internal.filter_map(|address| address.address.parse().ok()).collect(),
            pod_cidrs: cidrs.iter().filter_map(|cidr| cidr.parse().ok()).collect(),
            // Not the rule for manifests written by hand: a real node has the condition from its first heartbeat on.
            ready: conditions.iter().any(|condition| condition.kind == "Ready" && condition.status == "True"),
            unschedulable: self.spec.unschedulable.unwrap_or_default(),
        }
    }
}

impl<D: Detail> Watched for Nodes<D> {
    const NAME: &'static str = "nodes";
    const PATH: &'static str = "/api/v1/nodes";
    type Wire = NodeWire<D::Managers>;
    type Key = NodeName;
    type Value = (Node, NodeMeta);

    fn read(mut wire: Self::Wire) -> Option<(NodeName, Self::Value)> {
        let name = NodeName::parse(&wire.metadata.name).ok()?;
        let facts = wire.facts();
        let starting = wire.starting().filter(|_| D::STARTING);
        let managers = D::managers(wire.metadata.managed_fields);
        let label_managers = managers.iter().filter_map(ManagedFieldsEntry::labels).collect();
        Some((name, (facts, NodeMeta { uid: wire.metadata.uid, label_managers, starting })))
    }

    fn identity(wire: &Self::Wire) -> Identity<'_> {
        wire.metadata.identity()
    }
}

/// Namespaces.
pub(super) struct Namespaces;

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct MetaWire {
    metadata: Meta<IgnoredAny>,
}

impl MetaWire {
    pub(super) fn named(self) -> (String, Labels) {
        (self.metadata.name, self.metadata.labels.unwrap_or_default())
    }
}

impl Watched for Namespaces {
    const NAME: &'static str = "namespaces";
    const PATH: &'static str = "/api/v1/namespaces";
    type Wire = MetaWire;
    type Key = String;
    type Value = Labels;

    fn read(wire: MetaWire) -> Option<(String, Labels)> {
        Some(wire.named())
    }

    fn identity(wire: &MetaWire) -> Identity<'_> {
        wire.metadata.identity()
    }
}

/// Pods.
pub(super) struct Pods;

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct PodWire {
    metadata: Meta<IgnoredAny>,
    spec: PodSpec,
    status: PodStatus,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct PodSpec {
    node_name: Option<String>,
    host_network: Option<bool>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct PodStatus {
    phase: Option<String>,
    #[serde(rename = "podIP")]
    pod_ip: Option<String>,
    #[serde(rename = "podIPs")]
    pod_ips: Option<Vec<PodIp>>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct PodIp {
    ip: String,
}

impl Watched for Pods {
    const NAME: &'static str = "pods";
    const PATH: &'static str = "/api/v1/pods";
    type Wire = PodWire;
    type Key = PodName;
    type Value = Pod;

    fn read(wire: PodWire) -> Option<(PodName, Pod)> {
        let PodWire { metadata, spec, status } = wire;
        let listed: Vec<String> = status.pod_ips.unwrap_or_default().into_iter().map(|one| one.ip).collect();
        let addresses = if listed.is_empty() { status.pod_ip.into_iter().collect() } else { listed };
        let pod = Pod {
            labels: metadata.labels.unwrap_or_default(),
            node: spec.node_name.and_then(|node| NodeName::parse(&node).ok()),
            addresses: addresses.iter().filter_map(|address| address.parse().ok()).collect(),
            host_network: spec.host_network.unwrap_or_default(),
            finished: matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")),
            terminating: metadata.deletion_timestamp.is_some(),
        };
        Some((PodName { namespace: metadata.namespace.unwrap_or_default(), name: metadata.name }, pod))
    }

    fn identity(wire: &PodWire) -> Identity<'_> {
        wire.metadata.identity()
    }
}

/// A custom resource: spec and status as plain values.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct CustomWire<M: Default, S: Default> {
    metadata: Meta<M>,
    spec: Value,
    status: S,
}

/// PublishedEgressPolicies.
pub(super) struct Policies<D>(std::marker::PhantomData<D>);

impl<D: Detail> Watched for Policies<D> {
    const NAME: &'static str = "publishedegresspolicies";
    const PATH: &'static str = "/apis/egret.dev/v1alpha1/publishedegresspolicies";
    type Wire = CustomWire<D::Managers, D::Status>;
    type Key = String;
    type Value = PolicyObject;

    fn read(wire: Self::Wire) -> Option<(String, PolicyObject)> {
        let CustomWire { metadata, spec, status } = wire;
        let object = PolicyObject {
            uid: metadata.uid,
            resource_version: metadata.resource_version,
            generation: metadata.generation.unwrap_or_default(),
            managers: D::managers(metadata.managed_fields).iter().filter_map(ManagedFieldsEntry::writer).collect(),
            spec,
            status: D::status(status).and_then(|status| serde_json::from_value(status).ok()),
        };
        Some((metadata.name, object))
    }

    fn identity(wire: &Self::Wire) -> Identity<'_> {
        wire.metadata.identity()
    }
}

/// The EgressConfig.
pub(super) struct Configs<D>(std::marker::PhantomData<D>);

impl<D: Detail> Watched for Configs<D> {
    const NAME: &'static str = "egressconfigs";
    const PATH: &'static str = "/apis/egret.dev/v1alpha1/egressconfigs";
    type Wire = CustomWire<D::Managers, D::Status>;
    type Key = ();
    type Value = ConfigObject;

    fn read(wire: Self::Wire) -> Option<((), ConfigObject)> {
        let CustomWire { metadata, spec, status } = wire;
        let object = ConfigObject {
            uid: metadata.uid,
            resource_version: metadata.resource_version,
            generation: metadata.generation.unwrap_or_default(),
            pushed: metadata.annotations.and_then(|annotations| annotations.pushed),
            spec: serde_json::from_value::<ConfigSpec>(spec).map_err(|error| error.to_string()),
            status: D::status(status).and_then(|status| serde_json::from_value(status).ok()),
        };
        (metadata.name == CONFIG_NAME).then_some(((), object))
    }

    fn identity(wire: &Self::Wire) -> Identity<'_> {
        wire.metadata.identity()
    }
}

/// EgressNodes: they are watched for their status.
pub(super) struct EgressNodes;

impl Watched for EgressNodes {
    const NAME: &'static str = "egressnodes";
    const PATH: &'static str = "/apis/egret.dev/v1alpha1/egressnodes";
    type Wire = CustomWire<IgnoredAny, Option<Value>>;
    type Key = NodeName;
    type Value = EgressNodeObject;

    fn read(wire: Self::Wire) -> Option<(NodeName, EgressNodeObject)> {
        let name = NodeName::parse(&wire.metadata.name).ok()?;
        let object = EgressNodeObject {
            uid: wire.metadata.uid,
            generation: wire.metadata.generation.unwrap_or_default(),
            labels: wire.metadata.labels.unwrap_or_default(),
            status: wire.status.and_then(|status| serde_json::from_value(status).ok()).unwrap_or_default(),
        };
        Some((name, object))
    }

    fn identity(wire: &Self::Wire) -> Identity<'_> {
        wire.metadata.identity()
    }
}

#[cfg(test)]
mod tests;
