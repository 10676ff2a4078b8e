//! Chooses the gateway nodes of each policy, and records why other nodes were passed over.
//!
//! One placement applies to the whole cluster; every node computes the same one from the same facts. Not here: the
//! resulting state of a node (`compile`), and the address of an interface, which only the gateway's own kernel knows.

mod exit;
pub mod handover;

pub use exit::{Exit, ExitKey};

use std::borrow::Cow;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use jiff::Timestamp;

use super::facts::{AddressOwner, AddressOwners, Facts, Node, PodName};
use super::finding::Finding;
use super::name::NodeName;
use super::policy::grants::NOT_FROM_GIT;
use super::policy::node_index::{Match, NodeIndex};
use super::policy::{Egress, GatewaySpec, OnNoGateway, Policy, PolicyId, PolicySet, PoolRequest, Suspend};
use super::state::net::{Mac, fnv1a, mix};
use super::text::counted;

/// The egress addresses of policies that each node has, and since when.
pub type HeldAddresses = BTreeMap<NodeName, BTreeMap<IpAddr, Timestamp>>;

/// The placement of every active policy.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Placement {
    /// By policy, without suspended ones.
    pub policies: BTreeMap<PolicyId, PlacedPolicy>,
    /// Every exit that some policy uses, and those that stand by.
    pub exits: BTreeMap<ExitKey, Exit>,
    /// Exits that no policy is placed on any more and that are kept for live connections, with the policies that left
    /// them ([`handover`]).
    pub left: BTreeMap<ExitKey, BTreeSet<PolicyId>>,
    /// Findings.
    pub findings: Vec<Finding>,
}

/// The exits of one policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlacedPolicy {
    /// Its exits, each once, in order; empty while no gateway is fit.
    pub exits: Vec<ExitKey>,
    /// For each of these exits the ones that stand in for it while its gateway does not answer, the preferred one first: those of
    /// the entry's other nodes, then the policy's other exits. An exit that is kept during a handover has none.
    pub standbys: BTreeMap<ExitKey, Vec<ExitKey>>,
    /// The choice for each entry of its gateways, in their order.
    pub choices: Vec<GatewayChoice>,
    /// What happens to members' packets while there is no exit.
    pub on_no_gateway: OnNoGateway,
}

/// The choice for one entry of `egressGateway(s)`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GatewayChoice {
    /// Of the fit nodes that match, the one that reports the address that the policy names, if any; otherwise the first.
    pub gateway: Option<NodeName>,
    /// The next fit nodes, at most [`STANDBYS`].
    pub standbys: Vec<NodeName>,
    /// Matching nodes that were passed over, with the reason.
    pub unfit: Vec<(NodeName, Cow<'static, str>)>,
}

/// How many nodes stand by for an exit. Each of them holds the exit, and each source probes it.
pub const STANDBYS: usize = 3;

impl Placement {
    /// The standbys of each exit that a policy uses: those that all policies on the exit have. Packets of an exit take a detour
    /// together, and a policy's must not leave with an address that it does not name.
    pub fn standbys(&self) -> BTreeMap<&ExitKey, Vec<&ExitKey>> {
        let mut common: BTreeMap<&ExitKey, Vec<&ExitKey>> = BTreeMap::new();
        for placed in self.policies.values() {
            for exit in &placed.exits {
                let own = placed.standbys.get(exit).map(Vec::as_slice).unwrap_or_default();
                match common.entry(exit) {
                    Entry::Vacant(vacant) => drop(vacant.insert(own.iter().collect())),
                    Entry::Occupied(mut common) => common.get_mut().retain(|standby| own.contains(standby)),
                }
            }
        }
        common.retain(|_, standbys| !standbys.is_empty());
        common
    }
}

impl PlacedPolicy {
    /// The exit of one member. With several, members are spread by rendezvous hashing: an exit that is added or removed
    /// moves only the members that it gains or loses (Thaler and Ravishankar, 1998).
    pub fn exit_of(&self, pod: &PodName) -> Option<&ExitKey> {
        match self.exits.as_slice() {
            [] => None,
            [only] => Some(only),
            several => several.iter().max_by_key(|exit| weight(pod, exit)),
        }
    }
}

fn weight(pod: &PodName, exit: &ExitKey) -> u64 {
    mix(fnv1a(format!("{pod}\0{}", exit.identity()).as_bytes()))
}

/// Exits that a gateway reports it could not serve, by identity, with the reason.
pub type UnfitExits = BTreeMap<NodeName, BTreeMap<String, String>>;

/// Places every policy that is active at `now`, without reports of gateways that could not serve.
pub fn place(set: &PolicySet, facts: &Facts, now: Timestamp) -> Placement {
    place_with(set, facts, GatewayReports { held: &facts.held, unfit: &UnfitExits::new() }, now)
}

/// What nodes report about themselves as gateways.
#[derive(Debug, Clone, Copy)]
pub struct GatewayReports<'a> {
    /// The egress addresses they have.
    pub held: &'a HeldAddresses,
    /// The exits they could not serve.
    pub unfit: &'a UnfitExits,
}

/// The same with other reports than those in the facts: a node knows its own kernel sooner than others do.
pub fn place_with(set: &PolicySet, facts: &Facts, reports: GatewayReports<'_>, now: Timestamp) -> Placement {
    let mut placement = Placement::default();
    let nodes = Nodes::new(set, facts);
    for policy in set.policies.values() {
        if policy.suspended(now) {
            placement.findings.push(suspended(policy));
            continue;
        }
        let placed = place_one(policy, facts, (&nodes, reports), &mut placement.findings);
        placement.policies.insert(policy.id.clone(), placed);
    }
    collect_exits(&mut placement, facts);
    placement.findings.sort();
    placement
}

fn suspended(policy: &Policy) -> Finding {
    let why = policy.suspend.as_ref().map(Suspend::to_string).unwrap_or_default();
    Finding::new("suspended", &policy.id, format!("is suspended {why}"))
}

fn place_one(
    policy: &Policy,
    facts: &Facts,
    nodes: (&Nodes<'_>, GatewayReports<'_>),
    findings: &mut Vec<Finding>,
) -> PlacedPolicy {
    let choices: Vec<GatewayChoice> = policy.gateways.iter().map(|gateway| choose(gateway, facts, nodes)).collect();
    let exit = |spec: &GatewaySpec, gateway: &NodeName| ExitKey {
        gateway: gateway.clone(),
        egress: spec.egress.clone(),
        next_hops: spec.next_hops.clone(),
    };
    let mut exits = BTreeSet::new();
    let mut of_entries: BTreeMap<ExitKey, BTreeSet<ExitKey>> = BTreeMap::new();
    for (spec, choice) in policy.gateways.iter().zip(&choices) {
        let Some(gateway) = &choice.gateway else { continue };
        // Two entries may have one exit; their order does not matter.
        let standbys = of_entries.entry(exit(spec, gateway)).or_default();
        standbys.extend(choice.standbys.iter().map(|node| exit(spec, node)));
        exits.insert(exit(spec, gateway));
    }
    let mut standbys = BTreeMap::new();
    for (one, of_entry) in of_entries {
        let others: Vec<ExitKey> = exits.iter().filter(|other| **other != one).cloned().collect();
        let own = of_entry.into_iter().filter(|standby| !exits.contains(standby));
        standbys.insert(one, own.chain(others).take(nodes.0.standbys).collect());
    }
    for (spec, choice) in policy.gateways.iter().zip(&choices).filter(|(_, choice)| choice.gateway.is_none()) {
        findings.push(no_gateway(policy, spec, choice, exits.is_empty()));
    }
    PlacedPolicy { exits: exits.into_iter().collect(), standbys, choices, on_no_gateway: policy.on_no_gateway }
}

/// The code of the finding of a policy that waits for an address of a pool.
pub const POOL_ADDRESS_MISSING: &str = "pool-address-missing";

fn no_gateway(policy: &Policy, spec: &GatewaySpec, choice: &GatewayChoice, none_at_all: bool) -> Finding {
    let consequence = match (none_at_all, policy.on_no_gateway) {
        (false, _) => "the others of the policy carry its members",
        (true, OnNoGateway::Drop) => "members' packets to its destinations are dropped",
        (true, OnNoGateway::Passthrough) => "members leave with their own addresses",
    };
    if let Egress::Pool(PoolRequest { pool, addresses }) = &spec.egress {
        let addresses = counted(*addresses, "address");
        let message = format!("waits for {addresses} of the pool {pool}; {consequence}");
        let hint = "addresses are given as soon as the pool has free ones and the reports branch can be written";
        return Finding::new(POOL_ADDRESS_MISSING, &policy.id, message).hint(hint);
    }
    let reason = if choice.unfit.is_empty() {
        format!("no node matches {}", spec.node)
    } else {
        let unfit: Vec<String> = choice.unfit.iter().map(|(node, reason)| format!("{node} {reason}")).collect();
        format!("no node that matches {} is fit: {}", spec.node, unfit.join(", "))
    };
    Finding::new("no-gateway", &policy.id, format!("{reason}; {consequence}"))
}

/// The gateway is the fit node that has had the address for the shortest time, or without an address the first one. Nodes behind
/// the last standby are not considered.
fn choose(spec: &GatewaySpec, facts: &Facts, (nodes, reports): (&Nodes<'_>, GatewayReports<'_>)) -> GatewayChoice {
    let mut choice = GatewayChoice { gateway: None, standbys: Vec::new(), unfit: Vec::new() };
    if matches!(spec.egress, Egress::Pool(_)) {
        return choice;
    }
    let is_named = spec.egress.is_named();
    let mut fit: Vec<&NodeName> = Vec::new();
    for Match { node: name, may_answer } in nodes.index.matching(&spec.node) {
        let unfit = if may_answer { nodes.unfit(name, &facts.nodes[name]) } else { Some(NOT_FROM_GIT.into()) };
        if let Some(reason) = unfit.or_else(|| unserved(name, spec, reports.unfit).map(Into::into)) {
            if fit.is_empty() {
                choice.unfit.push((name.clone(), reason));
            }
            continue;
        }
        fit.push(name);
        if !is_named && fit.len() > nodes.standbys {
            break;
        }
    }
    choice.gateway = last_holder(&fit, spec, facts, reports.held).or(fit.first().copied()).cloned();
    let others = fit.into_iter().filter(|name| choice.gateway.as_ref() != Some(*name));
    choice.standbys = others.take(nodes.standbys).cloned().collect();
    choice
}

/// Of these nodes the one that got the addresses last. Of two addresses that are on two nodes, one decides: an exit is on one gateway.
fn last_holder<'n>(
    fit: &[&'n NodeName],
    spec: &GatewaySpec,
    facts: &Facts,
    held: &HeldAddresses,
) -> Option<&'n NodeName> {
    let mut votes: BTreeMap<&NodeName, usize> = BTreeMap::new();
    for address in spec.egress.addresses() {
        // Of equal times the last one is taken: the first by name.
        let holders = fit.iter().rev().filter_map(|name| Some((since(name, address, facts, held)?, *name)));
        if let Some((_, holder)) = holders.max_by_key(|(since, _)| *since) {
            *votes.entry(holder).or_default() += 1;
        }
    }
    votes.into_iter().rev().max_by_key(|(_, votes)| *votes).map(|(name, _)| name)
}

/// Since when a node has an address, as it reports; a snapshot contains no time.
fn since(node: &NodeName, address: IpAddr, facts: &Facts, held: &HeldAddresses) -> Option<Timestamp> {
    let reported = held.get(node).and_then(|held| held.get(&address)).copied();
    let known = || facts.host_networks.get(node)?.holder(address).map(|_| Timestamp::MIN);
    reported.or_else(known)
}

/// The reason for placement if a node reports an exit as unserved. The node's own report has the details.
fn unserved(node: &NodeName, spec: &GatewaySpec, unfit_exits: &UnfitExits) -> Option<&'static str> {
    // Building an identity text is only worth it for the few nodes with such a report.
    unfit_exits.get(node).filter(|exits| !exits.is_empty())?;
    let exit = ExitKey { gateway: node.clone(), egress: spec.egress.clone(), next_hops: spec.next_hops.clone() };
    exit.is_among(unfit_exits).then_some("does not forward packets for it")
}

/// What `choose` knows of the nodes.
struct Nodes<'a> {
    /// How many stand by.
    standbys: usize,
    index: NodeIndex<'a>,
    owners: AddressOwners<'a>,
}

impl<'a> Nodes<'a> {
    fn new(set: &'a PolicySet, facts: &'a Facts) -> Self {
        let labels = facts.nodes.iter().map(|(name, node)| (name, &node.labels));
        let standbys = if set.config.failover.is_some() { STANDBYS } else { 0 };
        Self { standbys, index: NodeIndex::new(set, labels), owners: facts.owners() }
    }

    /// Why a node cannot be a gateway now. A node that shares its address with another cannot: it is unknown which of
    /// them a packet reaches.
    fn unfit(&self, name: &NodeName, node: &Node) -> Option<Cow<'static, str>> {
        if let Some(reason) = node.unfit() {
            return Some(Cow::Borrowed(reason));
        }
        let address = node.tunnel_address()?;
        match self.owners.of(name, address) {
            AddressOwner::This => None,
            AddressOwner::Shared(other) | AddressOwner::Another(other) => {
                Some(Cow::Owned(format!("shares its InternalIP {address} with {other}")))
            }
        }
    }
}

/// Collects the exits of all policies. Two exits of one gateway with the same MAC address (probability 7 in 10^13 for ten
/// exits) could not be reported apart on the wire: the later one is refused rather than sent out with the other's address.
fn collect_exits(placement: &mut Placement, facts: &Facts) {
    let placed: BTreeSet<&ExitKey> = placement.policies.values().flat_map(|placed| &placed.exits).collect();
    let standing_by: BTreeSet<&ExitKey> =
        placement.policies.values().flat_map(|placed| placed.standbys.values().flatten()).collect();
    let standing_by = standing_by.difference(&placed).copied();
    let wanted: Vec<ExitKey> = placed.iter().copied().chain(standing_by).cloned().collect();
    let mut taken: BTreeSet<(NodeName, Mac)> = BTreeSet::new();
    let mut refused: BTreeSet<ExitKey> = BTreeSet::new();
    for key in wanted {
        if facts.nodes.get(&key.gateway).is_none_or(|node| node.addresses.is_empty()) {
            continue;
        }
        let mac = key.mac();
        if taken.insert((key.gateway.clone(), mac)) {
            placement.exits.insert(key, Exit { mac });
        } else {
            let message = format!("has the MAC address {mac}, as another exit of its gateway; its members are dropped");
            placement.findings.push(
                Finding::new("identifier-clash", key.identity(), message)
                    .hint("name the address by egressIP instead of interface, or the other way round"),
            );
            refused.insert(key);
        }
    }
    if !refused.is_empty() {
        for placed in placement.policies.values_mut() {
            placed.exits.retain(|exit| !refused.contains(exit));
            placed.standbys.values_mut().for_each(|standbys| standbys.retain(|exit| !refused.contains(exit)));
        }
    }
}

#[cfg(test)]
mod tests;
