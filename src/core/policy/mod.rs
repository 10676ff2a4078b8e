//! Policies: what the repository asks for, checked. The only way to make one is through [`document`] and [`check`].
//!
//! Deliberately absent: which node answers for a policy (`placement`), and Git.

pub mod catalogue;
pub mod check;
pub mod config;
pub mod diagnostic_sink;
pub mod document;
pub mod file;
pub mod grants;
pub mod lint;
pub mod mapping_reader;
pub mod published;
pub mod schema;
pub mod spans;
pub mod yaml;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use jiff::Timestamp;

use self::config::Config;
use self::grants::Grant;
use super::facts::{Facts, Pod, PodName};
use super::labels::{Labels, Operator, Selector};
use super::name::{Interface, NodeName, ObjectName};

/// Everything that is in force: the checked documents of a repository, or the last good versions of those that are not good now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PolicySet {
    /// Egress policies.
    pub policies: BTreeMap<PolicyId, Policy>,
    /// Node labels, by the document's name.
    pub node_labels: BTreeMap<ObjectName, NodeLabels>,
    /// egret.yaml, or its defaults.
    pub config: Config,
    /// What Git gives of the labels that gateways are chosen by, where no other counts ([`grants`]).
    pub grants: Option<Vec<Grant>>,
}

/// Which kind of document a policy came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PolicyKind {
    /// `cilium.io/v2 CiliumEgressGatewayPolicy`
    Cilium,
    /// `egret.dev/v1alpha1 EgressPolicy`
    Egret,
}

/// A policy's identity. Policies are ordered by name first: names decide between equals.
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

/// Where in the repository something was written.
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
    /// Who: a pod is a member if any of them matches. Never empty.
    pub selectors: Vec<MemberSelector>,
    /// Where to. Never empty; without host bits.
    pub destinations: Vec<IpNet>,
    /// Where to, but not: as if there were no policy.
    pub excluded: Vec<IpNet>,
    /// Through what. Never empty; each gives one exit at most.
    pub gateways: Vec<GatewaySpec>,
    /// Between policies with the same prefix the higher one wins. 0 unless it says otherwise.
    pub priority: i32,
    /// What becomes of members' packets while no gateway is fit.
    pub on_no_gateway: OnNoGateway,
    /// What becomes of live connections when their way changes.
    pub existing_connections: ExistingConnections,
    /// Not in force until then.
    pub suspend: Option<Suspend>,
    /// Its document.
    pub origin: Origin,
}

/// Which pods. All four parts must match; an empty part matches everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
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

/// One entry of `egressGateway(s)`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GatewaySpec {
    /// Which nodes; the first fit one in the order of names answers.
    pub node: Selector,
    /// With which address.
    pub egress: Egress,
    /// The router behind the interface, one a family at most; none: from the interface's own routes.
    pub next_hops: Vec<IpAddr>,
}

/// How a gateway finds the address that packets leave with.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Egress {
    /// `egressIP`: this address, on whatever interface has it.
    Address(IpAddr),
    /// `interface`: its first global address of each family.
    Interface(Interface),
    /// Neither: the first global address of the interface that has the default route.
    DefaultRoute,
}

impl fmt::Display for Egress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => write!(f, "{address}"),
            Self::Interface(name) => write!(f, "dev {name}"),
            Self::DefaultRoute => f.write_str("default"),
        }
    }
}

/// What becomes of members' packets while no gateway is fit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OnNoGateway {
    /// They are dropped: no packet leaves with a wrong address.
    #[default]
    Drop,
    /// They leave as if there were no policy.
    Passthrough,
}

/// What becomes of live connections when their way changes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ExistingConnections {
    /// They stay on the way they began on while it exists.
    #[default]
    Keep,
    /// Every packet goes the new way; the peers reset the connection.
    Reset,
}

/// A policy that is taken out of force for a while. It has an end, so that it is not forgotten.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Suspend {
    /// Until when.
    pub until: Timestamp,
    /// Whom to ask.
    pub owner: Option<String>,
    /// Why.
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
    /// Nodes by name; empty if a selector says which.
    pub nodes: Vec<NodeName>,
    /// Nodes by their labels.
    pub node_selector: Option<Selector>,
    /// The labels they are to have.
    pub labels: Labels,
    /// Its document.
    pub origin: Origin,
}

impl NodeLabels {
    /// Whether it is about this node.
    pub fn covers(&self, name: &NodeName, labels: &Labels) -> bool {
        self.nodes.contains(name) || self.node_selector.as_ref().is_some_and(|selector| selector.matches(labels))
    }
}

impl MemberSelector {
    /// Whether it says which namespaces a member is in, by name or by labels that these must have. Without it, whoever may create pods in
    /// any namespace can make one a member.
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

    /// Whether a pod is a member by this selector. The caller has checked that it is [`Pod::routable`].
    pub fn matches(&self, name: &PodName, pod: &Pod, facts: &Facts) -> bool {
        static NONE: Labels = Labels::new();
        let namespace = facts.namespaces.get(&name.namespace).unwrap_or(&NONE);
        let node = pod.node.as_ref().and_then(|node| facts.nodes.get(node)).map_or(&NONE, |node| &node.labels);
        self.namespace_name.iter().all(|operator| name_matches(operator, &name.namespace))
            && self.pod.matches(&pod.labels)
            && self.namespace.matches(namespace)
            && self.node.matches(node)
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
    /// Whether a pod is a member: any selector matches, and it has a network of its own.
    pub fn selects(&self, name: &PodName, pod: &Pod, facts: &Facts) -> bool {
        pod.routable() && self.selectors.iter().any(|selector| selector.matches(name, pod, facts))
    }

    /// Whether it is out of force at this time.
    pub fn suspended(&self, now: Timestamp) -> bool {
        self.suspend.as_ref().is_some_and(|suspend| now < suspend.until)
    }
}

impl PolicySet {
    /// The labels that a node is to have from Git. Where two documents that meet on this node disagree, neither counts: one
    /// by names and one by a selector can only be seen to disagree once a node has both.
    pub fn labels_of(&self, node: &NodeName, labels: &Labels) -> Labels {
        let mut wanted = Labels::new();
        let mut disputed = BTreeSet::new();
        for document in self.node_labels.values().filter(|document| document.covers(node, labels)) {
            for (key, value) in &document.labels {
                if wanted.insert(key.clone(), value.clone()).is_some_and(|before| before != *value) {
                    disputed.insert(key.clone());
                }
            }
        }
        wanted.retain(|key, _| !disputed.contains(key));
        wanted
    }

    /// The facts as they will be once every node has the labels that Git asks for.
    pub fn labelled(&self, facts: &Facts) -> Facts {
        let mut facts = facts.clone();
        for (name, node) in &mut facts.nodes {
            let wanted = self.labels_of(name, &node.labels);
            node.labels.extend(wanted);
        }
        facts
    }
}
