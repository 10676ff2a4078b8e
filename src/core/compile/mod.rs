//! Compile: what one node's kernel has to hold so that the placement comes true.
//!
//! Deliberately absent: which node answers (`placement`), what the kernel holds now and in which order to change it (`plan`).

pub mod counters;
mod groups;
pub mod marks;
mod own_exits;
mod peers;
mod routing;
mod table;

pub use groups::{Target, Way};
pub(crate) use groups::{targets, way};
pub(crate) use own_exits::{NO_WAY_OUT, egress_address};
pub use own_exits::{OutRoute, WayOut};
pub use table::{EXITS, RP_FILTER_BEFORE};

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use self::groups::Grouping;
use self::marks::Marks;
use super::cidr::RangeSet;
use super::facts::{Facts, PodName};
use super::finding::Finding;
use super::ground::Ground;
use super::name::NodeName;
use super::placement::{ExitKey, Placement};
use super::policy::{PolicyId, PolicySet};
use super::state::NodeState;
use super::state::nft::AddressFamily;
use super::state::ownership::Range;

/// Everything that decides a node's state.
#[derive(Debug, Clone, Copy)]
pub struct Input<'a> {
    /// The node. It must be among the facts.
    pub node: &'a NodeName,
    /// Policies, labels and configuration in force.
    pub set: &'a PolicySet,
    /// Where the policies lead.
    pub placement: &'a Placement,
    /// The cluster; of pods only this node's matter.
    pub facts: &'a Facts,
    /// This node's kernel, without what is ours.
    pub ground: &'a Ground,
    /// The marks that were given out before.
    pub marks: &'a Marks,
}

/// What a node has to hold, and what a person should know of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Compiled {
    /// The state.
    pub desired: NodeState,
    /// What a person should know, sorted.
    pub findings: Vec<Finding>,
    /// The exits that this node knows.
    pub exits: BTreeMap<ExitKey, NodeExit>,
    /// Members on this node by policy.
    pub members: BTreeMap<PolicyId, Vec<PodName>>,
    /// Policies that each group of pods stands for, by the group's name: for reports.
    pub groups: BTreeMap<String, BTreeSet<PolicyId>>,
    /// Policies' ways through exits, by the name of the chain that counts each.
    pub policy_chains: BTreeMap<String, PolicyChain>,
}

/// What a policy's chain is of: the connections of its members on this node that leave by one exit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyChain {
    /// The policy.
    pub policy: PolicyId,
    /// The exit.
    pub exit: ExitKey,
}

/// An exit as one node sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeExit {
    /// Its small number: mark, table and priority follow from it.
    pub id: u32,
    /// Where packets go from here.
    pub role: Role,
    /// The policies that lead there.
    pub policies: BTreeSet<PolicyId>,
    /// Pods of this node that leave by it, by policy. A policy whose destinations all go to others has none.
    pub members: BTreeMap<PolicyId, BTreeSet<PodName>>,
}

/// Which end of an exit a node is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// Into the tunnel, to the gateway.
    Remote {
        /// The tunnel's identifier.
        vni: u32,
        /// The gateway.
        peer: IpAddr,
    },
    /// Out of this node.
    Own {
        /// The tunnel's identifier, as others send it.
        vni: u32,
        /// By family.
        ways: BTreeMap<AddressFamily, WayOut>,
    },
}

/// The networks that decide what is looked at and what is left alone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Networks {
    /// Destinations inside the cluster, and those egret.yaml exempts: never steered.
    pub(crate) cluster: RangeSet,
    /// Addresses of pods of this node.
    pub(crate) local_pods: RangeSet,
    /// Addresses of pods of any node; empty where some node does not tell and egret.yaml does not either.
    pub(crate) all_pods: RangeSet,
    /// Destinations that some policy names: a pod that nobody has classified yet must not reach them.
    pub(crate) guarded: RangeSet,
    /// Tunnel addresses of the other nodes.
    pub(crate) peers: BTreeSet<IpAddr>,
}

/// Compiles one node. With no policy in force there is nothing to hold: not even a table.
pub fn compile(input: &Input<'_>) -> Compiled {
    let mut compiled = Compiled::default();
    let labels = input.facts.nodes.get(input.node).map(|node| &node.labels);
    compiled.desired.labels = labels.map(|labels| input.set.labels_of(input.node, labels)).unwrap_or_default();
    if input.placement.policies.is_empty() {
        return compiled;
    }
    let families = families(input, &mut compiled.findings);
    let grouping = groups::gather(input);
    let networks = networks(input, &grouping, &mut compiled.findings);
    compiled.exits = exits(input, &grouping, &families, &mut compiled.findings);
    let is_gateway = compiled.exits.values().any(|exit| matches!(exit.role, Role::Own { .. }));
    compiled.findings.extend(peers::findings(input, is_gateway));
    routing::add(&mut compiled.desired, input, &networks, &families, &compiled.exits);
    compiled.policy_chains = table::add(&mut compiled.desired, input, &grouping, &networks, &families, &compiled.exits);
    compiled.groups = grouping
        .groups
        .iter()
        .map(|group| (group.name.clone(), group.policies.iter().map(|(policy, _)| policy.clone()).collect()))
        .collect();
    compiled.members = grouping.members;
    compiled.findings.extend(grouping.findings);
    compiled.findings.sort();
    compiled.findings.dedup();
    compiled
}

/// The families that some policy names destinations of.
fn families(input: &Input<'_>, findings: &mut Vec<Finding>) -> Vec<AddressFamily> {
    let named: BTreeSet<AddressFamily> = input
        .placement
        .policies
        .keys()
        .flat_map(|policy| &input.set.policies[policy].destinations)
        .map(|net| AddressFamily::of(net.addr()))
        .collect();
    let mut families: Vec<AddressFamily> = named.into_iter().collect();
    if families.contains(&AddressFamily::V6) && !input.ground.features.ipv6 {
        families.retain(|family| *family == AddressFamily::V4);
        let message = "policies name IPv6 destinations and this node's kernel has IPv6 switched off";
        findings.push(Finding::new("no-ipv6", input.node, message));
    }
    families
}

/// What no router forwards, and so no gateway: loopback, link-local (a cloud's metadata service, a node's own DNS cache) and
/// multicast, neighbour discovery among it (RFC 1122 3.2.1.3, RFC 3927 2.7, RFC 4291 2.4). A destination as wide as 0.0.0.0/0
/// does not mean them.
const NEVER_FORWARDED: [&str; 7] =
    ["127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "255.255.255.255/32", "::1/128", "fe80::/10", "ff00::/8"];

fn networks(input: &Input<'_>, grouping: &Grouping, findings: &mut Vec<Finding>) -> Networks {
    let config = &input.set.config;
    let nodes = &input.facts.nodes;
    let node_addresses = nodes.values().flat_map(|node| &node.addresses).map(|address| IpNet::from(*address));
    let node_cidrs = || nodes.values().flat_map(|node| node.pod_cidrs.iter().copied());
    let cluster = NEVER_FORWARDED
        .iter()
        .filter_map(|net| net.parse::<IpNet>().ok())
        .chain(node_addresses)
        .chain(node_cidrs())
        .chain(config.pod_cidrs.iter().copied())
        .chain(config.service_cidrs.iter().copied())
        .chain(config.exclusions.iter().copied())
        .collect();
    let own: Vec<IpNet> = nodes.get(input.node).map(|node| node.pod_cidrs.clone()).unwrap_or_default();
    let own = if own.is_empty() { config.pod_cidrs.clone() } else { own };
    if own.is_empty() {
        let message = "no pod network is known: a pod that starts is not held back until it is classified";
        findings.push(Finding::new("no-pod-network", input.node, message).hint("set podCIDRs in egret.yaml"));
    }
    // A pod outside its node's network (some CNIs hand addresses out like that) is still classified by its own address.
    let local_pods =
        own.iter().copied().chain(grouping.addresses.keys().map(|address| IpNet::from(*address))).collect();
    let told = !config.pod_cidrs.is_empty() || nodes.values().all(|node| !node.pod_cidrs.is_empty());
    let all_pods =
        if told { node_cidrs().chain(config.pod_cidrs.iter().copied()).collect() } else { RangeSet::default() };
    let guarded = input
        .placement
        .policies
        .keys()
        .flat_map(|policy| input.set.policies[policy].destinations.iter().copied())
        .collect();
    let others = nodes.iter().filter(|(name, _)| *name != input.node).filter_map(|(_, node)| node.tunnel_address());
    let peers = others.filter(|address| !peers::is_own(input, *address)).collect();
    Networks { cluster, local_pods, all_pods, guarded, peers }
}

/// Exits by the policies that lead there.
fn used_exits(input: &Input<'_>, grouping: &Grouping) -> BTreeMap<ExitKey, BTreeSet<PolicyId>> {
    let mut policies: BTreeMap<ExitKey, BTreeSet<PolicyId>> = BTreeMap::new();
    for (policy, way) in grouping.groups.iter().flat_map(|group| &group.policies) {
        if let Way::Exit(exit) = way {
            policies.entry(exit.clone()).or_default().insert(policy.clone());
        }
    }
    for (policy, placed) in &input.placement.policies {
        for exit in placed.exits.iter().filter(|exit| exit.gateway == *input.node) {
            policies.entry(exit.clone()).or_default().insert(policy.clone());
        }
    }
    // An exit that others still use stays known here, too, when no member of this node uses it any more: live connections
    // that began on it stay on it.
    let mut kept: BTreeMap<ExitKey, BTreeSet<PolicyId>> = BTreeMap::new();
    for (policy, placed) in &input.placement.policies {
        for exit in placed.exits.iter().filter(|exit| input.marks.knows(exit) && !policies.contains_key(*exit)) {
            kept.entry(exit.clone()).or_default().insert(policy.clone());
        }
    }
    for (exit, left_by) in &input.placement.left {
        if exit.gateway == *input.node || input.marks.knows(exit) {
            kept.entry(exit.clone()).or_default().extend(left_by.iter().cloned());
        }
    }
    kept.retain(|exit, _| !policies.contains_key(exit));
    policies.extend(kept);
    policies
}

/// The exits that members of this node use, and those that this node is the gateway of.
fn exits(
    input: &Input<'_>,
    grouping: &Grouping,
    families: &[AddressFamily],
    findings: &mut Vec<Finding>,
) -> BTreeMap<ExitKey, NodeExit> {
    let policies = used_exits(input, grouping);
    let range: Range = input.set.config.range;
    let ids = input.marks.assign(&policies.keys().cloned().collect(), range);
    let mut exits = BTreeMap::new();
    for (key, policies) in policies {
        let (Some(id), Some(exit)) = (ids.get(&key).copied(), input.placement.exits.get(&key)) else {
            let message =
                format!("is exit number {} of this node and marks are used up; its members are dropped", ids.len() + 1);
            findings.push(Finding::new("marks-used-up", &key, message).hint("a wider datapath.markMask in egret.yaml"));
            continue;
        };
        let role = if key.gateway == *input.node {
            if input.ground.features.blind_tunnels {
                let message =
                    "this gateway's nftables cannot read a tunnel's identifier; other nodes' members are dropped here";
                findings.push(
                    Finding::new("no-nft-tunnel", &key, message).hint("`modprobe nft_tunnel` (CONFIG_NFT_TUNNEL)"),
                );
            }
            let (ways, missing) = own_exits::resolve(&key, families, input.ground);
            findings.extend(missing);
            Role::Own { vni: exit.vni, ways }
        } else if peers::is_own(input, exit.peer) {
            let message = format!(
                "{}, the InternalIP of its gateway, is an address of this node itself; its members are dropped",
                exit.peer
            );
            findings.push(
                Finding::new("peer-is-own-address", &key, message).hint("each node needs an InternalIP of its own"),
            );
            continue;
        } else {
            Role::Remote { vni: exit.vni, peer: exit.peer }
        };
        let members = members_of(&key, grouping);
        exits.insert(key, NodeExit { id, role, policies, members });
    }
    exits
}

/// Who leaves by an exit. A group may have a policy that leads there and no destination left to it: another policy's won.
fn members_of(exit: &ExitKey, grouping: &Grouping) -> BTreeMap<PolicyId, BTreeSet<PodName>> {
    let leads = |way: &Way| matches!(way, Way::Exit(to) if to == exit);
    let mut members: BTreeMap<PolicyId, BTreeSet<PodName>> = BTreeMap::new();
    for group in grouping.groups.iter().filter(|group| group.targets.iter().any(|(_, target)| leads(&target.way))) {
        for (policy, _) in group.policies.iter().filter(|(_, way)| leads(way)) {
            members.entry(policy.clone()).or_default().extend(group.pods.iter().cloned());
        }
    }
    members
}

#[cfg(test)]
mod tests;
