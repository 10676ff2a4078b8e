//! Facts about a cluster that decisions need: nodes, namespaces and pods, from the API server or a folder of manifests.
//!
//! Not here: reading and watching them (`cluster`), and a live node's kernel (`host_network`, `state`).

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use jiff::Timestamp;

use super::host_network::HostNetwork;
use super::labels::Labels;
use super::name::NodeName;

/// All facts about a cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// Nodes by name.
    pub nodes: BTreeMap<NodeName, Node>,
    /// Labels of namespaces.
    pub namespaces: BTreeMap<String, Labels>,
    /// Pods by namespace and name.
    pub pods: BTreeMap<PodName, Pod>,
    /// Pod networks from CNIs' objects, sorted: pods' addresses need not be from their node's podCIDRs.
    pub pod_networks: Vec<IpNet>,
    /// Egress addresses of policies that nodes report having, and since when: the newest holder wins.
    pub held: BTreeMap<NodeName, BTreeMap<IpAddr, Timestamp>>,
    /// Nodes' interfaces, if a snapshot has them. Only previews use them: a node reads its own kernel.
    pub host_networks: BTreeMap<NodeName, HostNetwork>,
}

/// The owner of an InternalIP, from the point of view of a node that has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddressOwner<'a> {
    /// This node.
    This,
    /// Another node: that one is Ready, and this one is not.
    Another(&'a NodeName),
    /// Not known: this other node has it and is equally Ready.
    Shared(&'a NodeName),
}

/// The nodes that have each InternalIP.
#[derive(Debug)]
pub struct AddressOwners<'a>(BTreeMap<IpAddr, Vec<(&'a NodeName, bool)>>);

impl<'a> AddressOwners<'a> {
    /// The owner of an address, from the point of view of a node that has it. A stale Node object is not Ready, and does
    /// not take an address from a Ready one.
    pub fn of(&self, node: &NodeName, address: IpAddr) -> AddressOwner<'a> {
        let all = self.0.get(&address).map_or(&[][..], Vec::as_slice);
        let is_ready = all.iter().any(|(name, ready)| *name == node && *ready);
        let mut others = all.iter().filter(|(name, _)| *name != node);
        let rival = others.clone().find(|(_, ready)| *ready);
        match (is_ready, rival, others.next()) {
            (true, Some((name, _)), _) | (false, None, Some((name, _))) => AddressOwner::Shared(name),
            (false, Some((name, _)), _) => AddressOwner::Another(name),
            (_, None, _) => AddressOwner::This,
        }
    }
}

impl Facts {
    /// What gateways are chosen from: everything but pods and namespaces.
    #[must_use]
    pub fn of_nodes(&self) -> Self {
        Self {
            nodes: self.nodes.clone(),
            pod_networks: self.pod_networks.clone(),
            held: self.held.clone(),
            host_networks: self.host_networks.clone(),
            ..Self::default()
        }
    }

    /// The nodes that have each InternalIP.
    pub fn owners(&self) -> AddressOwners<'_> {
        let mut owners: BTreeMap<IpAddr, Vec<(&NodeName, bool)>> = BTreeMap::new();
        for (name, node) in &self.nodes {
            // A node may list an address twice.
            for address in node.addresses.iter().collect::<std::collections::BTreeSet<_>>() {
                owners.entry(*address).or_default().push((name, node.ready));
            }
        }
        AddressOwners(owners)
    }
}

/// A pod's namespace and name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PodName {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl std::fmt::Display for PodName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Node {
    /// Its labels.
    pub labels: Labels,
    /// `status.addresses` of type InternalIP, in their order.
    pub addresses: Vec<IpAddr>,
    /// `spec.podCIDRs`; empty where the CNI does not publish them.
    pub pod_cidrs: Vec<IpNet>,
    /// Whether the condition Ready is True. A node without that condition counts as ready: hand-written manifests have
    /// none.
    pub ready: bool,
    /// Cordoned.
    pub unschedulable: bool,
}

impl Node {
    /// The tunnel's outer address: the first IPv4 address, otherwise the first of all.
    pub fn tunnel_address(&self) -> Option<IpAddr> {
        self.addresses.iter().copied().find(IpAddr::is_ipv4).or_else(|| self.addresses.first().copied())
    }

    /// Why the node cannot be a gateway: not ready, cordoned, or without an address to send to.
    pub fn unfit(&self) -> Option<&'static str> {
        if !self.ready {
            Some("is not Ready")
        } else if self.unschedulable {
            Some("is cordoned")
        } else if self.addresses.is_empty() {
            Some("has no InternalIP")
        } else {
            None
        }
    }
}

/// A pod.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pod {
    /// Its labels.
    pub labels: Labels,
    /// The node it is bound to; none while it is unscheduled.
    pub node: Option<NodeName>,
    /// `status.podIPs`, or `status.podIP` alone.
    pub addresses: Vec<IpAddr>,
    /// Shares its node's network namespace: never a member, its address is the node's.
    pub host_network: bool,
    /// Phase Succeeded or Failed: its address may already be another pod's.
    pub finished: bool,
    /// Has a deletionTimestamp. It keeps its address until it is gone, or until another pod has it: its sandbox, and with
    /// it the address, may be removed long before the object.
    pub terminating: bool,
}

impl Pod {
    /// Whether it has addresses of its own, whose packets can be steered.
    pub fn routable(&self) -> bool {
        !self.host_network && !self.finished && !self.addresses.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_belongs_to_the_ready_node_or_to_neither() {
        let name = |text: &str| NodeName::parse(text).unwrap();
        let shared: IpAddr = [10, 0, 2, 15].into();
        let node = |ready| Node { addresses: vec![shared, shared], ready, ..Node::default() };
        let owner = |a: bool, b: bool| {
            let facts =
                Facts { nodes: BTreeMap::from([(name("a"), node(a)), (name("b"), node(b))]), ..Facts::default() };
            let owner = facts.owners().of(&name("a"), shared);
            format!("{owner:?}")
        };
        assert!(owner(true, true).starts_with("Shared"));
        assert!(owner(false, false).starts_with("Shared"));
        assert!(owner(false, true).starts_with("Another"));
        assert_eq!(owner(true, false), "This");
        let alone = Facts { nodes: BTreeMap::from([(name("a"), node(false))]), ..Facts::default() };
        assert_eq!(alone.owners().of(&name("a"), shared), AddressOwner::This);
    }
}
