//! Policies and the other documents of the repository, checked and typed. Only [`document`] and [`check`] construct them.
//!
//! Not here: the choice of gateways (`placement`), and Git.

pub mod acknowledged;
pub mod assertion;
pub mod catalogue;
pub mod check;
pub mod config;
pub mod demand;
pub mod diagnostic_sink;
pub mod document;
mod egress;
pub mod file;
pub mod foreign;
pub mod grants;
pub mod limits;
pub mod lint;
pub mod mapping_reader;
pub mod members;
pub mod migrate;
pub mod node_index;
pub mod paths;
pub mod pool;
pub mod published;
pub mod schema;
pub mod spans;
pub mod yaml;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use jiff::Timestamp;

use self::assertion::Assertion;
use self::config::Config;
pub use self::egress::{Egress, PoolRequest};
use self::grants::Grant;
use self::node_index::NodeLabelsIndex;
use self::pool::EgressPool;
use super::facts::{Facts, Pod, PodName};
use super::labels::{Labels, Operator, Selector};
use super::name::{Interface, NodeName, ObjectName};

/// All active documents: the checked documents of a repository, or the last good versions of bad ones.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PolicySet {
    /// Egress policies.
    pub policies: BTreeMap<PolicyId, Policy>,
    /// Node labels, by the document's name.
    pub node_labels: BTreeMap<ObjectName, NodeLabels>,
    /// Assertions. They are not published: agents have none.
    pub assertions: BTreeMap<ObjectName, Assertion>,
    /// Pools of addresses. They are not published: agents get the addresses.
    pub pools: BTreeMap<ObjectName, EgressPool>,
    /// egret.yaml, or its defaults.
    pub config: Config,
    /// The gateway labels that Git gives, where no others count ([`grants`]).
    pub grants: Option<Vec<Grant>>,
}

/// The kind of a policy's document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PolicyKind {
    /// `cilium.io/v2 CiliumEgressGatewayPolicy`
    Cilium,
    /// `egret.dev/v1alpha1 EgressPolicy`
    Egret,
}

/// A policy's identity. Ordered by name first, which decides between policies of equal priority.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PolicyId {
    /// `metadata.name`
    pub name: ObjectName,
    /// The document's kind.
    pub kind: PolicyKind,
}

impl fmt::Display for PolicyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name.as_str())
    }
}

/// Where a document was written.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Origin {
    /// Path in the repository.
    pub file: String,
    /// Line of the document's first key, from 1.
    pub line: usize,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// An egress policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Kind and name.
    pub id: PolicyId,
    /// Its members: a pod is one if any selector matches. Never empty.
    pub selectors: Vec<MemberSelector>,
    /// Destinations. Never empty; without host bits.
    pub destinations: Vec<IpNet>,
    /// Destinations that are not steered.
    pub excluded: Vec<IpNet>,
    /// Its gateways. Never empty; each gives at most one exit.
    pub gateways: Vec<GatewaySpec>,
    /// Between policies with the same prefix the higher one wins. The default is 0.
    pub priority: i32,
    /// What happens to members' packets while no gateway is fit.
    pub on_no_gateway: OnNoGateway,
    /// What happens to live connections when their exit changes.
    pub existing_connections: ExistingConnections,
    /// Inactive until then.
    pub suspend: Option<Suspend>,
    /// Its document.
    pub origin: Origin,
}

/// Selects pods. All four parts must match; an empty part matches everything.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemberSelector {
    /// Labels of the pod's namespace: `namespaceSelector`, and `io.cilium.k8s.namespace.labels.KEY` of a podSelector.
    pub namespace: Selector,
    /// The namespace's name: `io.kubernetes.pod.namespace` of a podSelector.
    pub namespace_name: Vec<Operator>,
    /// Labels of the pod.
    pub pod: Selector,
    /// Labels of the pod's node.
    pub node: Selector,
}

/// One entry of `egressGateway(s)`; one with several addresses is several, one for each exit.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct GatewaySpec {
    /// Candidate nodes; the first fit one by name is the gateway.
    pub node: Selector,
    /// How the egress address is found.
    pub egress: Egress,
    /// The next hops, at most one a family; none: from the interface's own routes.
    pub next_hops: Vec<IpAddr>,
    /// Egret puts the address on an interface of the gateway, and moves it. Only with addresses that the policy names, or that a pool gives.
    pub assign: Option<Assign>,
}

/// How Egret assigns an egress address.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Assign {
    /// The interface; none: the one with the network that contains the address.
    pub interface: Option<Interface>,
    /// The address returns to the first fit node when that is back. Otherwise it stays where it is.
    pub failback: bool,
}

/// What happens to members' packets while no gateway is fit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OnNoGateway {
    /// They are dropped: no packet leaves with a wrong address.
    #[default]
    Drop,
    /// They are not steered, as if there were no policy.
    Passthrough,
}

/// What happens to live connections when their exit changes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ExistingConnections {
    /// They stay on their exit while it exists.
    #[default]
    Keep,
    /// Every packet uses the new exit; the peers reset the connection.
    Reset,
}

/// A temporary deactivation of a policy. It has an end, so that it is not forgotten.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Suspend {
    /// When it ends.
    pub until: Timestamp,
    /// The contact.
    pub owner: Option<String>,
    /// The reason.
    pub reason: String,
}

impl fmt::Display for Suspend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "until {}", self.until)?;
        if let Some(owner) = &self.owner {
            write!(f, " by {owner}")?;
        }
        write!(f, ": {}", self.reason)
    }
}

/// `egret.dev/v1alpha1 NodeLabels`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeLabels {
    /// `metadata.name`
    pub name: ObjectName,
    /// Nodes by name; empty if there is a selector.
    pub nodes: Vec<NodeName>,
    /// Nodes by their labels.
    pub node_selector: Option<Selector>,
    /// The labels to set.
    pub labels: Labels,
    /// Its document.
    pub origin: Origin,
}

impl NodeLabels {
    /// Whether it applies to this node.
    pub fn covers(&self, name: &NodeName, labels: &Labels) -> bool {
        self.nodes.contains(name) || self.node_selector.as_ref().is_some_and(|selector| selector.matches(labels))
    }
}

impl MemberSelector {
    /// Whether it restricts its members' namespaces, by name or by required labels. Without that, a user who may create
    /// pods in any namespace can make one a member.
    pub fn names_a_namespace(&self) -> bool {
        // Every namespace has this label, with its name.
        const NAME: &str = "kubernetes.io/metadata.name";
        self.namespace_name.iter().any(|operator| matches!(operator, Operator::In(_)))
            || self.namespace.requirements.iter().any(|requirement| match requirement.operator {
                Operator::In(_) => true,
                Operator::Exists => requirement.key != NAME,
                Operator::NotIn(_) | Operator::DoesNotExist => false,
            })
    }

    /// Whether a pod is a member by this selector. The caller has checked [`Pod::routable`].
    pub fn matches(&self, name: &PodName, pod: &Pod, facts: &Facts) -> bool {
        static NONE: Labels = Labels::new();
        // Few selectors ask for them, and each is a search through thousands of names.
        let namespace = || facts.namespaces.get(&name.namespace).unwrap_or(&NONE);
        let node = || pod.node.as_ref().and_then(|node| facts.nodes.get(node)).map_or(&NONE, |node| &node.labels);
        self.namespace_name.iter().all(|operator| name_matches(operator, &name.namespace))
            && self.pod.matches(&pod.labels)
            && (self.namespace.requirements.is_empty() || self.namespace.matches(namespace()))
            && (self.node.requirements.is_empty() || self.node.matches(node()))
    }
}

fn name_matches(operator: &Operator, namespace: &str) -> bool {
    match operator {
        Operator::In(values) => values.contains(namespace),
        Operator::NotIn(values) => !values.contains(namespace),
        Operator::Exists => true,
        Operator::DoesNotExist => false,
    }
}

impl Policy {
    /// Whether a pod is a member: any selector matches, and it has a network namespace of its own.
    pub fn selects(&self, name: &PodName, pod: &Pod, facts: &Facts) -> bool {
        pod.routable() && self.selectors.iter().any(|selector| selector.matches(name, pod, facts))
    }

    /// Whether it is inactive at this time.
    pub fn suspended(&self, now: Timestamp) -> bool {
        self.suspend.as_ref().is_some_and(|suspend| now < suspend.until)
    }
}

impl PolicySet {
    /// The labels that Git gives a node. Where two documents conflict on this node neither counts: a conflict between
    /// names and a selector only shows once a node matches both.
    pub fn labels_of(&self, node: &NodeName, labels: &Labels) -> Labels {
        merged(self.node_labels.values().filter(|document| document.covers(node, labels)))
    }

    /// The facts as they will be once every node has Git's labels.
    pub fn labelled(&self, facts: &Facts) -> Facts {
        let (mut facts, index) = (facts.clone(), NodeLabelsIndex::new(self));
        for (name, node) in &mut facts.nodes {
            let wanted = index.labels_of(name, &node.labels);
            node.labels.extend(wanted);
        }
        facts
    }
}

/// The labels of documents that apply to one node, without those that they disagree about.
fn merged<'d>(documents: impl Iterator<Item = &'d NodeLabels>) -> Labels {
    let mut wanted = Labels::new();
    let mut disputed = BTreeSet::new();
    for document in documents {
        for (key, value) in &document.labels {
            if wanted.insert(key.clone(), value.clone()).is_some_and(|before| before != *value) {
                disputed.insert(key.clone());
            }
        }
    }
    wanted.retain(|key, _| !disputed.contains(key));
    wanted
}
