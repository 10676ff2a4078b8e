//! Facts: what the API server, or a folder of manifests, says of nodes, namespaces and pods. Only what decides something.
//!
//! Deliberately absent: how they are read and watched (`cluster`), and what the kernel of a live node says (`ground`, `state`).

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use jiff::Timestamp;

use super::host_network::HostNetwork;
use super::labels::Labels;
use super::name::NodeName;

/// Everything known of a cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// Nodes by name.
    pub nodes: BTreeMap<NodeName, Node>,
    /// Labels of namespaces.
    pub namespaces: BTreeMap<String, Labels>,
    /// Pods by namespace and name.
    pub pods: BTreeMap<PodName, Pod>,
    /// Networks of pods that CNIs tell, in order: beside those of nodes, of which pods' addresses need not be.
    pub pod_networks: Vec<IpNet>,
    /// Egress addresses that policies name and that nodes tell to have, and since when: whoever moves an address moves it to the last.
    pub held: BTreeMap<NodeName, BTreeMap<IpAddr, Timestamp>>,
    /// Interfaces of nodes, where a snapshot tells them. Previews ask them, and nothing else: a node looks at its own kernel.
    pub host_networks: BTreeMap<NodeName, HostNetwork>,
}

/// Whose an InternalIP is, seen from a node that has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddressOwner<'a> {
    /// That node's.
    This,
    /// Another's: that one is Ready, and this one is not.
    Another(&'a NodeName),
    /// Nobody can tell: this is another node that has it and is as Ready.
    Shared(&'a NodeName),
}

/// Which nodes have which InternalIPs.
#[derive(Debug)]
pub struct AddressOwners<'a>(BTreeMap<IpAddr, Vec<(&'a NodeName, bool)>>);

impl<'a> AddressOwners<'a> {
    /// Whose an address is, seen from a node that has it. A Node object that was left behind is not Ready, and takes no address from one
    /// that is.
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
    /// Which nodes have which InternalIPs.
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
    /// `spec.podCIDRs`; empty where the CNI keeps them to itself.
    pub pod_cidrs: Vec<IpNet>,
    /// Condition Ready is True. A node without that condition counts as ready: manifests written by hand have none.
    pub ready: bool,
    /// Cordoned.
    pub unschedulable: bool,
}

impl Node {
    /// The address that tunnels lead to: the first IPv4, else the first of all.
    pub fn tunnel_address(&self) -> Option<IpAddr> {
        self.addresses.iter().copied().find(IpAddr::is_ipv4).or_else(|| self.addresses.first().copied())
    }

    /// Fit to be a gateway: ready and not cordoned, with an address to send to.
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
    /// The node it was bound to; none while it is unscheduled.
    pub node: Option<NodeName>,
    /// `status.podIPs`, or `status.podIP` alone.
    pub addresses: Vec<IpAddr>,
    /// Shares its node's network: never a member, its address is the node's.
    pub host_network: bool,
    /// Phase Succeeded or Failed: its address may already be another pod's.
    pub finished: bool,
    /// Has a deletionTimestamp. It keeps its address until it is gone, or until another pod has it: its sandbox, and with it the
    /// address, may go long before the object does.
    pub terminating: bool,
}

impl Pod {
    /// Whether it has addresses of its own that can be steered.
    pub fn routable(&self) -> bool {
        !self.host_network && !self.finished && !self.addresses.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_the_ready_nodes_and_of_two_alike_nobodys() {
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
