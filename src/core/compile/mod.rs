//! Computes what one node's kernel has to hold so that a placement takes effect.
//!
//! Not here: the choice of gateways (`placement`), and the steps from the current state to this one (`plan`).

mod concerned;
pub mod counters;
pub mod detours;
pub mod exit_ids;
mod forwarding;
mod groups;
mod next_hops;
mod own_exits;
mod peers;
mod refused;
mod routing;
mod table;
mod transfers;
mod tunnel;

pub use forwarding::unfit;
pub(crate) use forwarding::{drops_pods, names_pod};
pub use groups::{Disposition, RouteTarget};
pub(crate) use groups::{targets, way};
pub use next_hops::needed as needed_next_hops;
pub(crate) use next_hops::{NEXT_HOP_SILENT, silent_next_hop};
pub use own_exits::{EgressRoute, ExitRoute};
pub(crate) use own_exits::{NO_WAY_OUT, egress_address};
pub use refused::RefusedParts;
pub(crate) use routing::{TRANSFER_PORT, probe_address, transfer_address};
pub(crate) use table::{ARRIVED, CLASSIFY, DROP, GROUP, PROBE_IDLE, PROBE_IN_USE};
pub use table::{EXITS, LEAVES, RP_FILTER_BEFORE};

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use self::exit_ids::ExitIds;
use self::groups::Grouping;
use self::tunnel::{TunnelEndpoint, TunnelEndpoints};
use super::assignment;
use super::cidr::RangeSet;
use super::detours::Detours;
use super::facts::{Facts, PodName};
use super::finding::Finding;
use super::host_network::HostNetwork;
use super::liveness::{PathKey, ProbeTarget};
use super::name::NodeName;
use super::nat_record::RecordNames;
use super::networks::{self, OwnNetworks};
use super::placement::{ExitKey, Placement};
use super::policy::{PolicyId, PolicySet};
use super::state::NodeState;
use super::state::net::{InterfaceAddress, Mac};
use super::state::nft::{AddressFamily, ElementKey, TableFamily};
use super::state::ownership::DatapathConfig;
use super::transfer::TransferPlan;

/// All inputs that determine a node's state.
#[derive(Debug, Clone, Copy)]
pub struct CompileInput<'a> {
    /// The node. It must be among the facts.
    pub node: &'a NodeName,
    /// The active policies, labels and configuration.
    pub set: &'a PolicySet,
    /// The gateways of the policies.
    pub placement: &'a Placement,
    /// Where packets of exits go whose gateways do not answer.
    pub detours: &'a Detours,
    /// The cluster; only this node's pods matter.
    pub facts: &'a Facts,
    /// This node's host network, without Egret's objects.
    pub host_network: &'a HostNetwork,
    /// The exit ids in use.
    pub marks: &'a ExitIds,
    /// What this node's kernel refused, which is left out.
    pub refused: &'a RefusedParts,
    /// The egress addresses that Egret puts on this node's interfaces; the host network has them already.
    pub assigned: &'a BTreeSet<InterfaceAddress>,
}

/// The desired state of a node, with findings.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Compiled {
    /// The state.
    pub desired: NodeState,
    /// Findings, sorted.
    pub findings: Vec<Finding>,
    /// The exits that this node has rules for.
    pub exits: BTreeMap<ExitKey, NodeExit>,
    /// Members on this node by policy.
    pub members: BTreeMap<PolicyId, Vec<PodName>>,
    /// The policies of each group of pods, by the group's name: for reports.
    pub groups: BTreeMap<String, BTreeSet<PolicyId>>,
    /// The pod of each pod address on this node.
    pub holders: BTreeMap<IpAddr, PodName>,
    /// The policy and exit of each policy chain, by chain name.
    pub policy_chains: BTreeMap<String, PolicyChain>,
    /// What it needs to give connections to other gateways, and to take them.
    pub transfers: TransferPlan,
    /// The policy of each chain that counts what is dropped, by chain name.
    pub drop_chains: BTreeMap<String, PolicyId>,
}

/// What a policy's chain counts: connections of its members on this node that leave by one exit.
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
    /// Its number: mark, table and priority follow from it.
    pub id: u32,
    /// What this node does with its packets.
    pub role: ExitRole,
    /// What it is for.
    pub purpose: ExitPurpose,
    /// The families in which its policies may send packets to it: those of their destinations, and of its address if they name one.
    pub families: BTreeSet<AddressFamily>,
    /// The exits that stand by for it, for a source.
    pub standbys: Vec<ExitKey>,
    /// The exit that its packets take, by family, while its gateway does not answer; for a source.
    pub detours: BTreeMap<AddressFamily, ExitKey>,
    /// The kernel refused a part of it: its packets are dropped.
    pub refused: bool,
    /// Egret puts its address on an interface.
    pub assigned: bool,
    /// The policies that lead to it.
    pub policies: BTreeSet<PolicyId>,
    /// Pods of this node that leave by it, by policy. A policy whose destinations are all won by others has none.
    pub members: BTreeMap<PolicyId, BTreeSet<PodName>>,
}

impl NodeExit {
    /// The route out by family, if this node is the gateway.
    pub(crate) fn own_routes(&self) -> Option<&BTreeMap<AddressFamily, EgressRoute>> {
        match &self.role {
            ExitRole::Own { routes, .. } => Some(routes),
            ExitRole::Remote { .. } => None,
        }
    }
}

/// What a node has an exit for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ExitPurpose {
    /// A policy is placed on it.
    Placed,
    /// It stands by for another.
    Standby,
    /// It is kept for connections that began on it.
    Kept,
}

/// This node's role for an exit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExitRole {
    /// A source: it sends into the tunnel, to the gateway.
    Remote {
        /// Destination MAC address of the inner frame.
        mac: Mac,
        /// The outer packet's source and destination; none if the two nodes have no address family in common.
        outer: Option<(IpAddr, IpAddr)>,
    },
    /// The gateway: packets leave from this node.
    Own {
        /// Destination MAC address of inner frames from other nodes.
        mac: Mac,
        /// The route out, by family.
        routes: BTreeMap<AddressFamily, EgressRoute>,
    },
}

/// The networks that decide which packets are classified and which are never steered.
#[derive(Debug, Clone)]
pub(crate) struct ClusterNetworks {
    /// Destinations that are never steered: see [`OwnNetworks`].
    pub(crate) cluster: RangeSet,
    /// Networks of pods' addresses, on all nodes.
    pub(crate) pods: RangeSet,
    /// Networks of this node's pods, for which the main table has routes; single addresses where there is no network for
    /// them.
    pub(crate) local_pods: Vec<IpNet>,
    /// Destinations of any policy: packets to them from a pod that is not known yet are dropped.
    pub(crate) guarded: RangeSet,
    /// Every InternalIP of every node, this one's included.
    pub(crate) nodes: BTreeSet<IpAddr>,
    /// This node's tunnel endpoint; none where it has no InternalIP.
    pub(crate) own: Option<TunnelEndpoint>,
    /// The other nodes' tunnel endpoints.
    pub(crate) others: TunnelEndpoints,
    /// Interfaces that lead out of this node.
    pub(crate) uplinks: BTreeSet<String>,
}

/// Compiles one node. Without an active policy the state is empty: not even a table.
pub fn compile(input: &CompileInput<'_>) -> Compiled {
    let mut compiled = Compiled::default();
    let labels = input.facts.nodes.get(input.node).map(|node| &node.labels);
    compiled.desired.labels = labels.map(|labels| input.set.labels_of(input.node, labels)).unwrap_or_default();
    if input.placement.policies.is_empty() {
        return compiled;
    }
    let families = families(input, &mut compiled.findings);
    let grouping = groups::gather(input);
    let networks = cluster_networks(input, &grouping, &mut compiled.findings);
    compiled.exits = exits(input, &grouping, &networks, &families, &mut compiled.findings);
    compiled.findings.extend(too_small_for_ipv6(input, &networks, &families, &compiled.exits));
    let is_gateway = compiled.exits.values().any(|exit| matches!(exit.role, ExitRole::Own { .. }));
    compiled.findings.extend(peers::findings(input, is_gateway));
    compiled.findings.extend(next_hops::findings(input, &compiled.exits));
    compiled.transfers = transfers::plan(input, &networks, &compiled.exits);
    routing::add(&mut compiled.desired, input, &networks, &families, &compiled.exits);
    compiled.desired.addresses.extend(input.assigned.iter().cloned());
    (compiled.policy_chains, compiled.drop_chains) =
        table::add(&mut compiled.desired, input, &grouping, &networks, &families, &compiled.exits);
    compiled.groups = grouping
        .groups
        .iter()
        .map(|group| (group.name.clone(), group.policies.iter().map(|(policy, _)| policy.clone()).collect()))
        .collect();
    compiled.members = grouping.members;
    compiled.holders = grouping.holders;
    compiled.findings.extend(grouping.findings);
    compiled.findings.extend(forwarding::of_pods(input, &compiled.members, &families));
    input.refused.apply(input.node, &mut compiled);
    compiled.findings.sort();
    compiled.findings.dedup();
    compiled
}

/// The families for which some policy has destinations.
fn families(input: &CompileInput<'_>, findings: &mut Vec<Finding>) -> Vec<AddressFamily> {
    let destinations = networks::destinations(input.set, input.placement);
    let named: BTreeSet<AddressFamily> = destinations.map(|net| AddressFamily::of(net.addr())).collect();
    let mut families: Vec<AddressFamily> = named.into_iter().collect();
    if families.contains(&AddressFamily::V6) && !input.host_network.features.ipv6 {
        families.retain(|family| *family == AddressFamily::V4);
        let message = "policies name IPv6 destinations and this node's kernel has IPv6 switched off";
        findings.push(Finding::new("no-ipv6", input.node, message));
    }
    families
}

fn cluster_networks(input: &CompileInput<'_>, grouping: &Grouping, findings: &mut Vec<Finding>) -> ClusterNetworks {
    let config = &input.set.config;
    let nodes = &input.facts.nodes;
    let known = OwnNetworks::of(config, input.facts);
    let outside = known.outside(grouping.addresses.keys().copied());
    findings.extend(outside_pod_networks(input, &outside));
    let (cluster, pods) = (known.never_steered(&outside), known.pods);
    let own_cidrs = nodes.get(input.node).map(|node| node.pod_cidrs.clone()).unwrap_or_default();
    let single = outside.into_iter().filter(|_| input.host_network.src_valid_mark).map(IpNet::from);
    // Of a CNI's networks, those with a pod on this node: there may be one for each node.
    let has_pod = |net: &IpNet| grouping.addresses.keys().any(|address| net.contains(address));
    let of_cni = input.facts.pod_networks.iter().copied().filter(has_pod);
    let local_pods =
        own_cidrs.into_iter().chain(config.pod_cidrs.iter().copied()).chain(of_cni).chain(single).collect();
    let guarded = networks::guarded(input.set, input.placement);
    let mut others = tunnel::ends(input.facts);
    let own = others.remove(input.node);
    // The kernel does not accept one of its own addresses as a peer's.
    for end in others.values_mut() {
        end.outer.retain(|address| !peers::is_own(input, *address));
    }
    let own_addresses = nodes.get(input.node).map(|node| node.addresses.as_slice()).unwrap_or_default();
    let is_pod = |address| grouping.addresses.contains_key(&address) || pods.contains(address);
    let uplinks = tunnel::uplinks(input.host_network, own_addresses, &others, is_pod);
    let nodes = nodes.values().flat_map(|node| node.addresses.iter().copied()).collect();
    ClusterNetworks { cluster, pods, local_pods, guarded, nodes, own, others, uplinks }
}

/// Reports pods of this node that are in no known pod network. They are classified by address like all others; but a new
/// one is recognised as a pod only where the kernel can match the kind of its interface, and such a pod on another node
/// is not recognised as a cluster-internal destination.
fn outside_pod_networks(input: &CompileInput<'_>, outside: &[IpAddr]) -> Option<Finding> {
    let first = outside.first()?;
    let held = if input.host_network.features.interface_kinds {
        ""
    } else {
        "packets of a new pod there are not dropped until it is classified; "
    };
    let message = format!(
        "{} of this node's pods (the first: {first}) have addresses outside of every pod network that is known; {held}policies \
         whose destinations include such addresses on other nodes would steer connections between pods",
        outside.len()
    );
    Some(Finding::new("pod-outside-networks", input.node, message).hint("name the network in podCIDRs of egret.yaml"))
}

/// Codes of findings by which a node has no way for any exit in a family.
pub(crate) const CLOSES_ALL: [&str; 2] = ["mtu-too-small-for-ipv6", "no-ipv6"];

/// IPv6 needs 1280 bytes inside the tunnel (RFC 8200 5).
fn too_small_for_ipv6(
    input: &CompileInput<'_>,
    networks: &ClusterNetworks,
    families: &[AddressFamily],
    exits: &BTreeMap<ExitKey, NodeExit>,
) -> Option<Finding> {
    let own = networks.own.as_ref().filter(|_| routing::needs_tunnel(exits, networks))?;
    let named = families.contains(&AddressFamily::V6);
    if !named || routing::fits(input, (own, networks), AddressFamily::V6, input.set.config.range) {
        return None;
    }
    let message = "the network between nodes is too small for IPv6 inside the tunnel: members' IPv6 packets that must take it are dropped";
    let hint = "IPv6 needs an MTU of 1330 bytes between nodes over IPv4, 1350 over IPv6; datapath.mtu in egret.yaml must be 1280 or more";
    Some(Finding::new("mtu-too-small-for-ipv6", input.node, message).hint(hint))
}

/// Exits with their policies.
type UsedExits = BTreeMap<ExitKey, (BTreeSet<PolicyId>, ExitPurpose)>;

/// Exits, with the policies that lead to them. A source has the standbys of the exits that its members use, and a gateway the exits
/// that it stands by for.
fn exits_with_standbys(input: &CompileInput<'_>, grouping: &Grouping) -> UsedExits {
    let used = used_exits(input, grouping);
    let mut all: UsedExits =
        used.iter().map(|(exit, policies)| (exit.clone(), (policies.clone(), ExitPurpose::Placed))).collect();
    let kept = kept_exits(input);
    let of_members: BTreeSet<&ExitKey> = grouping
        .groups
        .iter()
        .flat_map(|group| &group.policies)
        .filter_map(|(_, way)| if let Disposition::Exit(exit) = way { Some(exit) } else { None })
        .collect();
    for (exit, standbys) in input.placement.standbys() {
        let placed = input.placement.policies.iter().filter(|(_, placed)| placed.exits.contains(exit));
        let policies: BTreeSet<PolicyId> = placed.map(|(policy, _)| policy.clone()).collect();
        for standby in standbys {
            let here = standby.gateway == *input.node;
            if here || of_members.contains(exit) {
                let new = || (BTreeSet::new(), ExitPurpose::Standby);
                let (of, _) = all.entry(standby.clone()).or_insert_with(new);
                // A gateway lets through what policies name that may come to it.
                of.extend(policies.iter().cloned());
            }
        }
    }
    // What carries the connections of an exit that was left.
    for ((exit, _), to) in input.detours {
        if kept.contains_key(exit) && input.placement.exits.contains_key(to) {
            all.entry(to.clone()).or_insert_with(|| (BTreeSet::new(), ExitPurpose::Standby));
        }
    }
    for (exit, policies) in kept {
        all.entry(exit).or_insert((policies, ExitPurpose::Kept));
    }
    all
}

/// The exits that members of this node use, and those that this node is the gateway of, with the policies that lead to them.
fn used_exits(input: &CompileInput<'_>, grouping: &Grouping) -> BTreeMap<ExitKey, BTreeSet<PolicyId>> {
    let mut policies: BTreeMap<ExitKey, BTreeSet<PolicyId>> = BTreeMap::new();
    for (policy, way) in grouping.groups.iter().flat_map(|group| &group.policies) {
        if let Disposition::Exit(exit) = way {
            policies.entry(exit.clone()).or_default().insert(policy.clone());
        }
    }
    for (policy, placed) in &input.placement.policies {
        for exit in placed.exits.iter().filter(|exit| exit.gateway == *input.node) {
            policies.entry(exit.clone()).or_default().insert(policy.clone());
        }
    }
    policies
}

/// Exits that other nodes still use are kept here when no member of this node uses them any more, and so are exits that were left: live
/// connections that began on them stay on them.
fn kept_exits(input: &CompileInput<'_>) -> BTreeMap<ExitKey, BTreeSet<PolicyId>> {
    let mut kept: BTreeMap<ExitKey, BTreeSet<PolicyId>> = BTreeMap::new();
    for (policy, placed) in &input.placement.policies {
        for exit in placed.exits.iter().filter(|exit| input.marks.knows(exit)) {
            kept.entry(exit.clone()).or_default().insert(policy.clone());
        }
    }
    for (exit, left_by) in &input.placement.left {
        if exit.gateway == *input.node || input.marks.knows(exit) {
            kept.entry(exit.clone()).or_default().extend(left_by.iter().cloned());
        }
    }
    kept
}

/// The destinations that a gateway accepts for an exit: those of the policies that lead to it.
pub(crate) fn allowed(set: &PolicySet, policies: &BTreeSet<PolicyId>) -> RangeSet {
    let policies = policies.iter().filter_map(|policy| set.policies.get(policy));
    policies.flat_map(|policy| policy.destinations.iter().copied()).collect()
}

/// The exits that members of this node use, and those that this node is the gateway of.
fn exits(
    input: &CompileInput<'_>,
    grouping: &Grouping,
    networks: &ClusterNetworks,
    families: &[AddressFamily],
    findings: &mut Vec<Finding>,
) -> BTreeMap<ExitKey, NodeExit> {
    let used = exits_with_standbys(input, grouping);
    let range: DatapathConfig = input.set.config.range;
    // Standbys must not take the last marks.
    let mut wanted: Vec<&ExitKey> = used.keys().collect();
    wanted.sort_by_key(|exit| used[*exit].1 == ExitPurpose::Standby);
    let ids = input.marks.assign(&wanted, range);
    let standbys = input.placement.standbys();
    let mut exits = BTreeMap::new();
    for (key, (policies, purpose)) in used {
        let (Some(id), Some(exit)) = (ids.get(&key).copied(), input.placement.exits.get(&key)) else {
            if purpose == ExitPurpose::Standby {
                continue;
            }
            let message =
                format!("is exit number {} of this node and marks are used up; its members are dropped", ids.len() + 1);
            findings.push(Finding::new("marks-used-up", &key, message).hint("a wider datapath.markMask in egret.yaml"));
            continue;
        };
        let refused = input.refused.exits.contains_key(&key);
        let role = if key.gateway == *input.node {
            let (mut routes, mut missing) = own_exits::resolve(&key, families, input.host_network);
            missing.extend(forwarding::close(&key, &mut routes, input.host_network));
            // A node that only stands by need not have the address, and nothing begins on an exit that was left.
            findings.extend(missing.into_iter().filter(|_| purpose == ExitPurpose::Placed));
            if refused {
                routes.clear();
            }
            ExitRole::Own { mac: exit.mac, routes }
        } else {
            let outer =
                networks.own.as_ref().zip(networks.others.get(&key.gateway)).and_then(|(own, peer)| own.to(peer));
            if outer.is_none() && purpose == ExitPurpose::Placed {
                findings.push(peers::unreachable(input, &key));
            }
            ExitRole::Remote { mac: exit.mac, outer }
        };
        let members = members_of(&key, grouping);
        let detours = BTreeMap::new();
        let standbys = standbys.get(&key).into_iter().flatten().map(|standby| (*standby).clone()).collect();
        let families = families_of(&key, input.set, &policies);
        let assigned = assignment::is_assigned(&key, input.set, &policies);
        let exit = NodeExit { id, role, purpose, families, standbys, detours, refused, assigned, policies, members };
        exits.insert(key, exit);
    }
    add_detours(input, &mut exits);
    exits
}

/// The families in which packets may come to an exit. In any other no gateway has to answer for it.
fn families_of(exit: &ExitKey, set: &PolicySet, policies: &BTreeSet<PolicyId>) -> BTreeSet<AddressFamily> {
    let policies = policies.iter().filter_map(|policy| set.policies.get(policy));
    let named = policies.flat_map(|policy| &policy.destinations).map(|net| AddressFamily::of(net.addr()));
    let has = |family: &AddressFamily| !exit.egress.is_named() || exit.egress.address_in(*family).is_some();
    named.filter(has).collect()
}

impl Compiled {
    /// The addresses that this node translates to: those of its exits, and its own in the tunnel.
    pub fn translated(&self) -> BTreeSet<IpAddr> {
        let table = self.desired.nft.get(&TableFamily::Inet).into_iter();
        let sets = table.flat_map(|table| {
            AddressFamily::BOTH
                .into_iter()
                .filter_map(|family| table.sets.get(&format!("translated{}", family.suffix())))
        });
        let keys = sets.flat_map(|set| set.elements.keys());
        keys.filter_map(|key| if let ElementKey::Address(address) = key { Some(*address) } else { None }).collect()
    }

    /// What a NAT record needs to know: exits, their policies and pods, and the other nodes.
    pub fn record_names(&self, range: DatapathConfig) -> RecordNames {
        let exits = self.exits.iter();
        RecordNames {
            mask: range.mask,
            pods: self.holders.clone(),
            nodes: self.transfers.nodes.clone(),
            exits: exits.map(|(key, exit)| (range.mark(exit.id), (key.identity(), exit.members.clone()))).collect(),
        }
    }

    /// The egress addresses of the exits that this node serves, sorted.
    pub fn served_addresses(&self) -> Vec<String> {
        let own = self.exits.values().filter_map(|exit| match &exit.role {
            ExitRole::Own { routes, .. } => Some(routes.values().map(|way| way.address)),
            ExitRole::Remote { .. } => None,
        });
        let addresses: BTreeSet<IpAddr> = own.flatten().collect();
        addresses.iter().map(ToString::to_string).collect()
    }

    /// The paths that this node probes: those to gateways that its members use or may need.
    pub fn probe_targets(&self, range: DatapathConfig) -> BTreeMap<PathKey, ProbeTarget> {
        let in_use = |key: &ExitKey| self.exits.values().any(|exit| exit.detours.values().any(|to| to == key));
        let mut targets = BTreeMap::new();
        for (key, exit) in self.exits.iter().filter(|(_, exit)| matches!(exit.role, ExitRole::Remote { .. })) {
            for family in exit.families.iter().copied() {
                if self.desired.routes.contains_key(&routing::probe_route(exit, family, range)) {
                    let standby = exit.purpose == ExitPurpose::Standby && !in_use(key);
                    let replaced = exit.detours.contains_key(&family);
                    let standbys = exit.standbys.clone();
                    let left = exit.purpose == ExitPurpose::Kept && !in_use(key);
                    let target = ProbeTarget { mark: range.mark(exit.id), standby, replaced, left, standbys };
                    targets.insert((key.clone(), family), target);
                }
            }
        }
        targets
    }
}

impl Compiled {
    /// The chains that count the probes of sources that want an address of this node's, by address.
    pub fn demand_chains(&self, node: &NodeName) -> BTreeMap<IpAddr, Vec<String>> {
        let mut chains: BTreeMap<IpAddr, Vec<String>> = BTreeMap::new();
        for (key, exit) in self.exits.iter().filter(|(key, exit)| exit.assigned && key.gateway == *node) {
            for address in key.egress.addresses() {
                chains.entry(address).or_default().push(format!("{ARRIVED}{}", exit.id));
            }
        }
        chains
    }
}

/// Notes the detours that this node can take.
fn add_detours(input: &CompileInput<'_>, exits: &mut BTreeMap<ExitKey, NodeExit>) {
    for ((from, family), to) in input.detours {
        let leads_on = exits.get(to).is_some_and(|exit| match &exit.role {
            ExitRole::Remote { outer, .. } => outer.is_some() && !exit.refused,
            ExitRole::Own { routes, .. } => routes.contains_key(family),
        });
        if let Some(exit) = exits.get_mut(from)
            && leads_on
            && !matches!(&exit.role, ExitRole::Own { routes, .. } if routes.contains_key(family))
        {
            exit.detours.insert(*family, to.clone());
        }
    }
}

/// The members that leave by an exit. A group may have a policy that leads there but whose destinations are all won by
/// other policies.
fn members_of(exit: &ExitKey, grouping: &Grouping) -> BTreeMap<PolicyId, BTreeSet<PodName>> {
    let leads = |way: &Disposition| matches!(way, Disposition::Exit(to) if to == exit);
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
