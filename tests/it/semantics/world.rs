//! A small cluster as a value: policies, facts, and what is under each node's feet; and what Egret makes of it on each node.
//!
//! Deliberately absent: what it means (`oracle`), what packets do in it (`evaluate`), and how worlds are made up (`generate`).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use egret::core::assignment::holding::HoldingView;
use egret::core::compile::{Compiled, RP_FILTER_BEFORE, RefusedParts};
use egret::core::evaluation::{NodeInput, evaluate};
use egret::core::facts::Facts;
use egret::core::host_network::HostNetwork;
use egret::core::liveness::LivenessView;
use egret::core::name::NodeName;
use egret::core::policy::PolicySet;
use egret::core::state::NodeState;
use egret::core::state::nft::{AddressFamily, ElementData, ElementKey, Statement, TableFamily};
use ipnet::IpNet;
use jiff::Timestamp;

use super::evaluate::{Cluster, Foreign, Host};

/// Everything that decides what becomes of a packet.
#[derive(Debug, Clone)]
pub(crate) struct World {
    /// The active policies and configuration.
    pub(crate) set: PolicySet,
    /// Nodes, namespaces, pods.
    pub(crate) facts: Facts,
    /// Each node's kernel, without what is Egret's.
    pub(crate) host_networks: BTreeMap<NodeName, HostNetwork>,
    /// The time, for suspended policies.
    pub(crate) now: Timestamp,
    /// Whether the CNI translates what leaves a node to the node's address.
    pub(crate) masquerade: bool,
    /// What others do to packets on every node.
    pub(crate) foreign: Foreign,
}

/// The state of every node.
pub(crate) type States = BTreeMap<NodeName, NodeState>;

impl World {
    /// What Egret wants of one node that holds `before`.
    pub(crate) fn compiled(&self, node: &NodeName, before: &NodeState) -> Compiled {
        self.compiled_seeing(node, before, LivenessView::NOTHING)
    }

    /// The same where it has probed gateways.
    fn compiled_seeing(&self, node: &NodeName, before: &NodeState, liveness: &LivenessView) -> Compiled {
        let host_network = observed_ground(&self.host_networks[node], before);
        let (host_network, refused) = (&host_network, RefusedParts::NOTHING);
        let (set, facts, holding) = (&self.set, &self.facts, HoldingView::PLACED);
        let input = NodeInput { node, set, facts, host_network, observed: before, refused, liveness, holding };
        evaluate(&input, None, self.now).compiled
    }

    /// What Egret wants of every node; `before` is what they hold. A node that is not there holds nothing.
    pub(crate) fn desired(&self, before: &States) -> States {
        let nothing = NodeState::default();
        let one = |node: &NodeName| self.compiled(node, before.get(node).unwrap_or(&nothing)).desired;
        self.facts.nodes.keys().map(|node| (node.clone(), one(node))).collect()
    }

    /// The same where all nodes see this of the gateways.
    pub(crate) fn desired_seeing(&self, before: &States, liveness: &LivenessView) -> States {
        let one = |node: &NodeName| self.compiled_seeing(node, &before[node], liveness).desired;
        self.facts.nodes.keys().map(|node| (node.clone(), one(node))).collect()
    }

    /// The nodes with these states, for packets to travel in.
    pub(crate) fn cluster<'a>(&'a self, states: &'a States) -> Cluster<'a> {
        let hosts = states.iter().map(|(name, state)| {
            let node = &self.facts.nodes[name];
            let host = Host {
                state,
                later: state,
                host_network: &self.host_networks[name],
                addresses: node.addresses.clone(),
                foreign: self.foreign.clone(),
                masquerade: self.masquerade,
            };
            (name.clone(), host)
        });
        Cluster { hosts: hosts.collect(), range: self.set.config.range }
    }

    /// Sources worth a look on a node: every address of a pod that was ever bound to it, the node's own, one of its pod network
    /// that nobody has, and one in no network that anybody knows.
    pub(crate) fn sources(&self, node: &NodeName) -> BTreeSet<IpAddr> {
        let pods = self.facts.pods.values().filter(|pod| pod.node.as_ref() == Some(node));
        let mut sources: BTreeSet<IpAddr> = pods.flat_map(|pod| pod.addresses.iter().copied()).collect();
        let known = &self.facts.nodes[node];
        sources.extend(known.addresses.iter().copied());
        sources.extend(known.pod_cidrs.iter().map(last));
        sources.extend([IpAddr::from([192, 0, 2, 9]), IpAddr::from([0xfd99, 0, 0, 0, 0, 0, 0, 9])]);
        sources
    }

    /// Destinations worth a look: both edges of every prefix that somebody wrote, the addresses beside them, and the cluster's.
    pub(crate) fn destinations(&self) -> BTreeSet<IpAddr> {
        let config = &self.set.config;
        let written = self.set.policies.values().flat_map(|policy| policy.destinations.iter().chain(&policy.excluded));
        let configured = config.service_cidrs.iter().chain(&config.exclusions).chain(&config.pod_cidrs);
        let mut found = BTreeSet::new();
        for network in written.chain(configured) {
            found.extend([network.network(), last(network)]);
            found.extend([step(network.network(), false), step(last(network), true)].into_iter().flatten());
        }
        for node in self.facts.nodes.values() {
            found.extend(node.addresses.iter().copied());
            found.extend(node.pod_cidrs.iter().map(IpNet::network));
        }
        found.retain(|address| is_ordinary(*address));
        found
    }
}

/// The ground as a node's observation tells it when the node holds `state`: filters that were loosened are, and are remembered.
fn observed_ground(host_network: &HostNetwork, state: &NodeState) -> HostNetwork {
    let mut host_network = host_network.clone();
    let remembered = state.nft.get(&TableFamily::Inet).and_then(|table| table.sets.get(RP_FILTER_BEFORE));
    for (key, data) in remembered.into_iter().flat_map(|set| &set.elements) {
        let (ElementKey::Interface(name), Some(ElementData::Mark(before))) = (key, data) else { continue };
        host_network.loosened.insert(name.clone(), u8::try_from(*before).expect("a filter is 0, 1 or 2"));
        if let Some(interface) = host_network.interfaces.get_mut(name) {
            interface.rp_filter = 2;
        }
    }
    host_network
}

/// What stands for a node inside the tunnel, by its state: none where it sends nothing into it.
pub(crate) fn stands_for(state: &NodeState, family: AddressFamily) -> Option<IpAddr> {
    let chain = state.nft.get(&TableFamily::Inet)?.chains.get("translate")?;
    chain.rules.iter().flat_map(|rule| &rule.0).find_map(|statement| match statement {
        Statement::SnatTo { address } if AddressFamily::of(*address) == family => Some(*address),
        _ => None,
    })
}

/// The last address of a network, the broadcast address of IPv4 included.
fn last(network: &IpNet) -> IpAddr {
    network.broadcast()
}

/// The address behind (or before) this one.
fn step(address: IpAddr, up: bool) -> Option<IpAddr> {
    match address {
        IpAddr::V4(v4) => {
            let number = u32::from(v4);
            let next = if up { number.checked_add(1) } else { number.checked_sub(1) };
            next.map(|number| IpAddr::V4(number.into()))
        }
        IpAddr::V6(v6) => {
            let number = u128::from(v6);
            let next = if up { number.checked_add(1) } else { number.checked_sub(1) };
            next.map(|number| IpAddr::V6(number.into()))
        }
    }
}

/// An address that a router forwards to: no multicast, loopback, link-local or unspecified one.
fn is_ordinary(address: IpAddr) -> bool {
    let special = address.is_multicast() || address.is_loopback() || address.is_unspecified();
    !special
        && match address {
            IpAddr::V4(v4) => v4.octets()[0] < 224 && !v4.is_link_local(),
            IpAddr::V6(v6) => !v6.is_unicast_link_local(),
        }
}

/// Pairs of source and destination of one family, and that family is on at the node.
pub(crate) fn flows(world: &World, node: &NodeName) -> Vec<(IpAddr, IpAddr)> {
    let ipv6 = world.host_networks[node].features.ipv6;
    let destinations = world.destinations();
    let mut flows = Vec::new();
    for source in world.sources(node) {
        for destination in &destinations {
            let family = AddressFamily::of(source);
            if AddressFamily::of(*destination) == family && (ipv6 || family == AddressFamily::V4) {
                flows.push((source, *destination));
            }
        }
    }
    flows
}
