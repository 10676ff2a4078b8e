//! The local copy of the watched objects, and how one event changes it. Pure.
//!
//! A new list replaces the previous state in one step, and changes nothing if its content is equal. Not here:
//! receiving events (see `reflector`), and their use.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde_json::Value;

use super::resources::{ConfigSpec, ConfigStatus, GATEWAY_LABEL, NodeStatus, PolicyStatus};
use crate::core::facts::{Facts, Node, Pod, PodName};
use crate::core::heartbeat::Heartbeat;
use crate::core::labels::Labels;
use crate::core::name::NodeName;
use crate::core::pools::{Network, PoolKind, union};
use crate::core::status::held;

/// The current state. A resource that is not watched is empty.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct View {
    /// Nodes, namespaces and pods.
    pub facts: Facts,
    /// Metadata of each node in `facts`.
    pub nodes: BTreeMap<NodeName, NodeMeta>,
    /// Published policies by their name in the cluster.
    pub policies: BTreeMap<String, PolicyObject>,
    /// The EgressConfig.
    pub config: Option<ConfigObject>,
    /// EgressNodes: all for the controller, those of gateways for an agent.
    pub egress_nodes: BTreeMap<NodeName, EgressNodeObject>,
    /// When the agents' Leases were renewed, by the clocks of their nodes; only for the controller.
    pub heartbeats: BTreeMap<NodeName, Heartbeat>,
    /// Networks by the CNI object that defines them; only for the controller, and without the kinds that it may not
    /// read.
    pub pools: BTreeMap<PoolKind, BTreeMap<String, Vec<Network>>>,
}

/// The fields of a node that only writers need.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeMeta {
    /// Distinguishes it from a later node of the same name.
    pub uid: String,
    /// The field managers of its labels; only for the controller.
    pub label_managers: Vec<LabelManager>,
    /// The boot ID of a node with the startup taint; none without it, and on agents.
    pub starting: Option<String>,
}

/// How a manager came to own fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    /// By server-side apply: it keeps the fields at these values.
    Apply,
    /// By any other kind of write: `kubectl label`, a controller.
    Update,
}

/// A field manager of an object's labels.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct LabelManager {
    /// `egret`, `kubectl-label`.
    pub manager: String,
    /// How it came to own them.
    pub operation: Operation,
    /// When it last changed one of its fields.
    pub time: Option<Timestamp>,
    /// The labels' keys.
    pub keys: BTreeSet<String>,
}

/// A field manager of an object (not of its status).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Manager {
    /// `egret-controller`, `kubectl-edit`.
    pub manager: String,
    /// The kind of write.
    pub operation: Operation,
    /// When it last changed one of its fields.
    pub time: Option<Timestamp>,
}

/// A PublishedEgressPolicy.
#[derive(Debug, Clone, PartialEq)]
pub struct PolicyObject {
    /// Distinguishes it from a later object of the same name.
    pub uid: String,
    /// For deleting exactly this version. It grows with every write, also of fields that are not kept here; its
    /// change alone is not a change.
    pub resource_version: String,
    /// Grows with every change of the spec.
    pub generation: i64,
    /// The writers of the spec; only for the controller.
    pub managers: Vec<Manager>,
    /// The spec as it was published, unless another client edited it.
    pub spec: Value,
    /// Its status; only for the controller.
    pub status: Option<PolicyStatus>,
}

/// The EgressConfig.
#[derive(Debug, Clone, PartialEq)]
pub struct ConfigObject {
    /// Distinguishes it from a later object.
    pub uid: String,
    /// Grows with every write; its change alone is not a change.
    pub resource_version: String,
    /// Grows with every change of the spec.
    pub generation: i64,
    /// When a controller that does not lead last recorded a push.
    pub pushed: Option<String>,
    /// The published spec, or why it cannot be read: another version may have written it.
    pub spec: Result<ConfigSpec, String>,
    /// Its status; only for the controller.
    pub status: Option<ConfigStatus>,
}

/// An EgressNode.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EgressNodeObject {
    /// Distinguishes it from a later object of the same name.
    pub uid: String,
    /// Grows with every change of the spec.
    pub generation: i64,
    /// Its labels.
    pub labels: Labels,
    /// The status that its agent wrote; empty if this version cannot read it.
    pub status: NodeStatus,
}

impl EgressNodeObject {
    /// Whether agents watch this object.
    pub fn is_gateway(&self) -> bool {
        self.labels.get(GATEWAY_LABEL).is_some_and(|value| value == "true")
    }
}

/// The kinds of objects that changed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "one for each kind, and none depends on another")]
pub struct Changed {
    /// A node, or the managers of its labels.
    pub nodes: bool,
    /// A namespace's labels.
    pub namespaces: bool,
    /// A pod.
    pub pods: bool,
    /// A policy's spec; for the controller also its status and its writers.
    pub policies: bool,
    /// The configuration; for the controller also its status.
    pub config: bool,
    /// An EgressNode's status or labels.
    pub egress_nodes: bool,
    /// The Lease of an agent.
    pub heartbeats: bool,
    /// Networks of pods: the published ones, or those of CNI objects.
    pub pod_networks: bool,
    /// The nodes that have an egress address.
    pub held: bool,
    /// The last of the first lists just arrived: from here on the state is complete.
    pub synced: bool,
    /// A watch error began or ended, or has another cause.
    pub faults: bool,
}

impl Changed {
    /// Whether anything changed.
    pub fn any(self) -> bool {
        self != Self::default()
    }

    /// Whether nodes, namespaces, pods, their networks or the nodes of egress addresses changed.
    pub fn facts(self) -> bool {
        self.nodes || self.namespaces || self.pods || self.pod_networks || self.held
    }

    /// The union of both.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            nodes: self.nodes || other.nodes,
            namespaces: self.namespaces || other.namespaces,
            pods: self.pods || other.pods,
            policies: self.policies || other.policies,
            config: self.config || other.config,
            egress_nodes: self.egress_nodes || other.egress_nodes,
            heartbeats: self.heartbeats || other.heartbeats,
            pod_networks: self.pod_networks || other.pod_networks,
            held: self.held || other.held,
            synced: self.synced || other.synced,
            faults: self.faults || other.faults,
        }
    }
}

/// A list or an event of one kind of object.
#[derive(Debug, Clone)]
pub(super) enum ListOrEvent<K, V> {
    /// A complete list.
    All(BTreeMap<K, V>),
    /// A new or changed object.
    Set(K, V),
    /// A deleted object.
    Gone(K),
}

/// A list or an event of any kind.
#[derive(Debug, Clone)]
pub(super) enum WatchItem {
    Nodes(ListOrEvent<NodeName, (Node, NodeMeta)>),
    Namespaces(ListOrEvent<String, Labels>),
    Pods(ListOrEvent<PodName, Pod>),
    Policies(ListOrEvent<String, PolicyObject>),
    Config(ListOrEvent<(), ConfigObject>),
    EgressNodes(ListOrEvent<NodeName, EgressNodeObject>),
    Heartbeats(ListOrEvent<NodeName, Heartbeat>),
    Pools(PoolKind, ListOrEvent<String, Vec<Network>>),
}

impl View {
    /// Applies a list or an event, and returns what changed.
    pub(super) fn apply(&mut self, item: WatchItem) -> Changed {
        let mut changed = Changed::default();
        match item {
            WatchItem::Nodes(news) => changed.nodes = self.apply_nodes(news),
            WatchItem::Namespaces(news) => changed.namespaces = put(&mut self.facts.namespaces, news, PartialEq::eq),
            WatchItem::Pods(news) => changed.pods = put(&mut self.facts.pods, news, PartialEq::eq),
            WatchItem::Policies(news) => changed.policies = put(&mut self.policies, news, PolicyObject::says_the_same),
            WatchItem::Config(news) => {
                changed.config = self.apply_config(news);
                changed.pod_networks = self.take_networks();
            }
            WatchItem::EgressNodes(news) => {
                changed.egress_nodes = put(&mut self.egress_nodes, news, PartialEq::eq);
                if changed.egress_nodes {
                    let held = held(self.egress_nodes.iter().map(|(name, node)| (name, &node.status)));
                    changed.held = self.facts.held != held;
                    self.facts.held = held;
                }
            }
            WatchItem::Heartbeats(news) => changed.heartbeats = put(&mut self.heartbeats, news, PartialEq::eq),
            WatchItem::Pools(kind, news) => {
                changed.pod_networks = put(self.pools.entry(kind).or_default(), news, PartialEq::eq);
            }
        }
        changed
    }

    /// Splits each wire object, as it belongs in two maps.
    fn apply_nodes(&mut self, news: ListOrEvent<NodeName, (Node, NodeMeta)>) -> bool {
        let (facts, metas) = match news {
            ListOrEvent::All(all) => {
                let (mut facts, mut metas) = (BTreeMap::new(), BTreeMap::new());
                for (name, (node, meta)) in all {
                    facts.insert(name.clone(), node);
                    metas.insert(name, meta);
                }
                (ListOrEvent::All(facts), ListOrEvent::All(metas))
            }
            ListOrEvent::Set(name, (node, meta)) => {
                (ListOrEvent::Set(name.clone(), node), ListOrEvent::Set(name, meta))
            }
            ListOrEvent::Gone(name) => (ListOrEvent::Gone(name.clone()), ListOrEvent::Gone(name)),
        };
        let facts = put(&mut self.facts.nodes, facts, PartialEq::eq);
        put(&mut self.nodes, metas, PartialEq::eq) || facts
    }

    /// Takes over the published networks. If the EgressConfig is gone, or another version wrote it, they stay.
    fn take_networks(&mut self) -> bool {
        let head = self.config.as_ref().and_then(|config| config.spec.as_ref().ok());
        let Some(published) = head.map(|head| &head.pod_networks) else { return false };
        let changed = *published != self.facts.pod_networks;
        self.facts.pod_networks.clone_from(published);
        changed
    }

    /// The networks to publish. While a kind cannot be read, all networks that are published already stay among them.
    pub fn networks_of_pools(&self) -> Vec<Network> {
        let networks = self.pools.values().flat_map(BTreeMap::values).flatten().copied();
        let all_read = PoolKind::ALL.iter().all(|kind| self.pools.contains_key(kind));
        let published = if all_read { &[][..] } else { &self.facts.pod_networks };
        union(networks.chain(published.iter().copied()))
    }

    fn apply_config(&mut self, news: ListOrEvent<(), ConfigObject>) -> bool {
        let mut one: BTreeMap<(), ConfigObject> = self.config.take().map(|config| ((), config)).into_iter().collect();
        let changed = put(&mut one, news, ConfigObject::says_the_same);
        self.config = one.remove(&());
        changed
    }
}

impl PolicyObject {
    fn says_the_same(&self, other: &Self) -> bool {
        let identity = |one: &Self| (one.uid.clone(), one.generation, one.managers.clone());
        identity(self) == identity(other) && self.spec == other.spec && self.status == other.status
    }
}

impl ConfigObject {
    fn says_the_same(&self, other: &Self) -> bool {
        let identity = |one: &Self| (one.uid.clone(), one.generation, one.pushed.clone());
        identity(self) == identity(other) && self.spec == other.spec && self.status == other.status
    }
}

/// Applies a list or an event to a map; returns whether the content changed.
fn put<K: Ord + Clone, V>(known: &mut BTreeMap<K, V>, news: ListOrEvent<K, V>, same: impl Fn(&V, &V) -> bool) -> bool {
    match news {
        ListOrEvent::All(all) => {
            let keys = |map: &BTreeMap<K, V>| map.keys().cloned().collect::<BTreeSet<K>>();
            let unchanged = known.len() == all.len()
                && keys(known) == keys(&all)
                && known.values().zip(all.values()).all(|(old, new)| same(old, new));
            *known = all;
            !unchanged
        }
        ListOrEvent::Set(key, value) => {
            let unchanged = known.get(&key).is_some_and(|old| same(old, &value));
            known.insert(key, value);
            !unchanged
        }
        ListOrEvent::Gone(key) => known.remove(&key).is_some(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(address: &str) -> Pod {
        Pod { addresses: vec![address.parse().expect("an address")], ..Pod::default() }
    }

    fn name(name: &str) -> PodName {
        PodName { namespace: "batuu".to_owned(), name: name.to_owned() }
    }

    #[test]
    fn a_list_replaces_everything_and_says_so_only_if_it_differs() {
        let mut view = View::default();
        let all = |names: &[&str]| {
            WatchItem::Pods(ListOrEvent::All(names.iter().map(|one| (name(one), pod("10.1.1.1"))).collect()))
        };
        assert!(view.apply(all(&["xwing", "tiefighter"])).pods);
        assert!(!view.apply(all(&["xwing", "tiefighter"])).any());
        assert!(view.apply(all(&["xwing", "deathstar"])).pods);
        assert!(view.apply(all(&["xwing"])).pods);
        assert_eq!(view.facts.pods.keys().cloned().collect::<Vec<_>>(), [name("xwing")]);
    }

    #[test]
    fn an_object_that_says_the_same_again_is_no_news() {
        let mut view = View::default();
        assert!(view.apply(WatchItem::Pods(ListOrEvent::Set(name("xwing"), pod("10.1.1.1")))).pods);
        assert!(!view.apply(WatchItem::Pods(ListOrEvent::Set(name("xwing"), pod("10.1.1.1")))).any());
        assert!(view.apply(WatchItem::Pods(ListOrEvent::Set(name("xwing"), pod("10.1.1.2")))).pods);
        assert!(view.apply(WatchItem::Pods(ListOrEvent::Gone(name("xwing")))).pods);
        assert!(!view.apply(WatchItem::Pods(ListOrEvent::Gone(name("xwing")))).any());
    }

    #[test]
    fn a_version_alone_is_no_news_and_still_known() {
        let mut view = View::default();
        let policy = |version: &str, spec: Value| PolicyObject {
            uid: "uid".to_owned(),
            resource_version: version.to_owned(),
            generation: 1,
            managers: Vec::new(),
            spec,
            status: None,
        };
        let set = |policy| WatchItem::Policies(ListOrEvent::Set("outpost".to_owned(), policy));
        assert!(view.apply(set(policy("1", json!({"fence": 1})))).policies);
        assert!(!view.apply(set(policy("2", json!({"fence": 1})))).any());
        assert_eq!(view.policies["outpost"].resource_version, "2");
        assert!(view.apply(set(policy("3", json!({"fence": 2})))).policies);
    }

    #[test]
    fn the_config_comes_and_goes() {
        let mut view = View::default();
        let config = ConfigObject {
            uid: "uid".to_owned(),
            resource_version: "1".to_owned(),
            generation: 1,
            pushed: None,
            spec: Err("missing field `fence`".to_owned()),
            status: None,
        };
        assert!(view.apply(WatchItem::Config(ListOrEvent::Set((), config.clone()))).config);
        assert!(!view.apply(WatchItem::Config(ListOrEvent::All(BTreeMap::from([((), config)])))).any());
        assert!(view.apply(WatchItem::Config(ListOrEvent::All(BTreeMap::new()))).config);
        assert_eq!(view.config, None);
    }

    #[test]
    fn networks_that_are_published_stay_until_a_head_says_others() {
        let mut view = View::default();
        let head = |networks: &[&str]| {
            let networks: Vec<&&str> = networks.iter().collect();
            let spec = json!({
                "cluster": "c", "revision": "r", "fence": 1, "policies": {"count": 0, "digest": ""}, "podNetworks": networks,
            });
            let spec = serde_json::from_value(spec).map_err(|error| error.to_string());
            let (uid, resource_version) = ("uid".to_owned(), "1".to_owned());
            ConfigObject { uid, resource_version, generation: 1, pushed: None, spec, status: None }
        };
        let known = |view: &View| view.facts.pod_networks.iter().map(ToString::to_string).collect::<Vec<_>>();
        let changed = view.apply(WatchItem::Config(ListOrEvent::Set((), head(&["10.48.0.0/16"]))));
        assert!(changed.pod_networks && changed.facts());
        assert_eq!(known(&view), ["10.48.0.0/16"]);
        assert!(!view.apply(WatchItem::Config(ListOrEvent::Set((), head(&["10.48.0.0/16"])))).any());
        let unreadable = ConfigObject { spec: Err("another version wrote it".to_owned()), ..head(&[]) };
        assert!(!view.apply(WatchItem::Config(ListOrEvent::Set((), unreadable))).pod_networks);
        assert!(!view.apply(WatchItem::Config(ListOrEvent::Gone(()))).pod_networks);
        assert_eq!(known(&view), ["10.48.0.0/16"]);
        assert!(view.apply(WatchItem::Config(ListOrEvent::Set((), head(&[])))).pod_networks);
        assert_eq!(known(&view), [""; 0]);
    }

    #[test]
    fn a_node_is_news_also_when_only_the_owner_of_a_label_changes() {
        let mut view = View::default();
        let node = NodeName::parse("kind-worker2").expect("a name");
        let set = |uid: &str| {
            let meta = NodeMeta { uid: uid.to_owned(), ..NodeMeta::default() };
            WatchItem::Nodes(ListOrEvent::Set(node.clone(), (Node::default(), meta)))
        };
        assert!(view.apply(set("one")).nodes);
        assert!(!view.apply(set("one")).any());
        assert!(view.apply(set("two")).nodes);
        assert!(view.apply(WatchItem::Nodes(ListOrEvent::All(BTreeMap::new()))).nodes);
        assert_eq!(view, View::default());
    }
}
