//! Egress addresses that Egret assigns: which nodes may have one, on which interface, and which of them this node has.
//!
//! Placement says which nodes are candidates; [`holding`] decides, from what answers on the link, which one has the address. Not here:
//! packets (`kernel::conflict`), and addresses that another program moves (`placement`).

pub mod holding;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use self::holding::{Claim, Claims, HoldingView};
use super::facts::Facts;
use super::finding::Finding;
use super::host_network::{HostNetwork, Interface, InterfaceKind, is_of_services};
use super::labels::Labels;
use super::liveness::{LivenessView, PathState};
use super::name::NodeName;
use super::placement::{ExitKey, Placement};
use super::policy::{Assign, PolicyId, PolicySet};
use super::state::net::InterfaceAddress;
use super::state::nft::AddressFamily;

/// The set of addresses that Egret has put on interfaces, by family: a new process takes them back.
pub fn record(family: AddressFamily) -> String {
    format!("assigned{}", family.suffix())
}

/// Whether any of these policies assigns an exit's address.
pub fn is_assigned(exit: &ExitKey, set: &PolicySet, policies: &BTreeSet<PolicyId>) -> bool {
    let assigns = |policy: &PolicyId| {
        let gateways = set.policies.get(policy).into_iter().flat_map(|policy| &policy.gateways);
        gateways.into_iter().any(|spec| spec.egress == exit.egress && spec.assign.is_some())
    };
    policies.iter().any(assigns)
}

/// An address that policies assign.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Assigned {
    /// How the first policy that assigns it wants it.
    assign: Assign,
    /// That policy.
    policy: PolicyId,
    /// Policies that want it otherwise.
    differ: BTreeSet<PolicyId>,
    /// The gateway of each exit with the address, and its standbys in order.
    gateways: BTreeMap<NodeName, Vec<NodeName>>,
}

/// All assigned addresses.
fn assigned(set: &PolicySet, placement: &Placement) -> BTreeMap<IpAddr, Assigned> {
    let mut all: BTreeMap<IpAddr, Assigned> = BTreeMap::new();
    for (id, placed) in &placement.policies {
        let Some(policy) = set.policies.get(id) else { continue };
        for (spec, choice) in policy.gateways.iter().zip(&placed.choices) {
            let Some(assign) = &spec.assign else { continue };
            for address in spec.egress.addresses() {
                let one = all.entry(address).or_insert_with(|| Assigned {
                    assign: assign.clone(),
                    policy: id.clone(),
                    differ: BTreeSet::new(),
                    gateways: BTreeMap::new(),
                });
                if one.assign != *assign {
                    one.differ.insert(id.clone());
                }
                if let Some(gateway) = &choice.gateway {
                    one.gateways.entry(gateway.clone()).or_default().extend(choice.standbys.iter().cloned());
                }
            }
        }
    }
    all
}

impl Assigned {
    /// How many nodes take the address before this one; none if it is no candidate.
    fn rank(&self, node: &NodeName) -> Option<u32> {
        if self.gateways.contains_key(node) {
            return Some(0);
        }
        let places = self.gateways.values().filter_map(|standbys| standbys.iter().position(|standby| standby == node));
        places.min().and_then(|place| u32::try_from(place).ok())
    }

    /// Whether this node is the first candidate by name, which the address returns to.
    fn is_first(&self, node: &NodeName) -> bool {
        let candidates = self.gateways.iter().flat_map(|(gateway, standbys)| standbys.iter().chain([gateway]));
        candidates.min() == Some(node)
    }
}

/// The part of one node in all assignments.
#[derive(Debug, Clone, Default)]
pub struct NodeAssignments {
    /// What it has, or is to have at once.
    pub addresses: BTreeSet<InterfaceAddress>,
    /// What it holds or stands by for.
    pub claims: Claims,
    /// Findings.
    pub findings: Vec<Finding>,
}

/// What decides about a node's assignments.
#[derive(Debug, Clone, Copy)]
pub struct AssignmentInput<'a> {
    /// The node.
    pub node: &'a NodeName,
    /// The policies.
    pub set: &'a PolicySet,
    /// Their gateways.
    pub placement: &'a Placement,
    /// Its kernel, without Egret's objects.
    pub host_network: &'a HostNetwork,
    /// The addresses that Egret has put on its interfaces.
    pub observed: &'a BTreeSet<InterfaceAddress>,
    /// Which addresses it may hold.
    pub holding: &'a HoldingView,
}

/// Computes the assignments of one node.
pub fn of_node(input: &AssignmentInput<'_>) -> NodeAssignments {
    let mut own = NodeAssignments::default();
    for (address, assigned) in assigned(input.set, input.placement) {
        let rank = assigned.rank(input.node);
        let there = input.observed.iter().find(|one| one.address.addr() == address);
        if rank.is_none() && there.is_none() {
            continue;
        }
        if !assigned.differ.is_empty() {
            own.findings.push(differs(address, &assigned));
        }
        let wanted = interface_for(address, &assigned.assign, input.host_network);
        let link = match (wanted, there) {
            (Ok(link), _) => link,
            (Err(finding), there) => {
                own.findings.push(finding.of(address, input.node));
                let Some(there) = there else { continue };
                there.link.clone()
            }
        };
        let works = input.host_network.interfaces.get(&link).is_some_and(Interface::works);
        let on_loopback = input.host_network.interfaces.get(&link).is_some_and(is_loopback);
        let present = input.host_network.interfaces.get(&link).is_some_and(|interface| interface.has(address));
        let placed = assigned.gateways.contains_key(input.node);
        let claim = Claim {
            link: link.clone(),
            on_loopback,
            rank,
            placed,
            preferred: assigned.assign.failback && assigned.is_first(input.node),
            present,
            works,
            local: 0,
        };
        // Without carrier no host can be asked who has it: the node looks again when it is back.
        let holds = works && input.holding.holds(address, placed, there.is_some());
        if holds {
            own.addresses.insert(InterfaceAddress { link, address: IpNet::from(address) });
        }
        if let Some(mac) = input.holding.conflict(address).filter(|_| rank.is_some()) {
            own.findings.push(conflict(address, &claim.link, mac, holds));
        }
        own.claims.insert(address, claim);
    }
    own
}

/// Notes which claims members of this node want: their packets leave without a probe where this node is the gateway.
pub fn count_members<'m>(
    claims: &mut Claims,
    members: impl Iterator<Item = &'m PolicyId>,
    (node, placement, liveness): (&NodeName, &Placement, &LivenessView),
) {
    for placed in members.filter_map(|policy| placement.policies.get(policy)) {
        for (exit, address) in placed.exits.iter().flat_map(|exit| exit.egress.addresses().map(move |one| (exit, one)))
        {
            let Some(claim) = claims.get_mut(&address) else { continue };
            let silent = || liveness.of(exit, AddressFamily::of(address)) == PathState::Silent;
            if claim.present || exit.gateway == *node || silent() {
                claim.local = 1;
            }
        }
    }
}

/// Without probes no node hears from sources: each address is wanted where policies are placed.
pub fn want_placed(claims: &mut Claims) {
    for claim in claims.values_mut() {
        claim.local = claim.local.max(u32::from(claim.placed));
    }
}

/// The host network as it will be with these addresses, and without those that are taken away.
pub fn applied<'h>(
    host_network: &'h HostNetwork,
    observed: &BTreeSet<InterfaceAddress>,
    addresses: &BTreeSet<InterfaceAddress>,
) -> Cow<'h, HostNetwork> {
    let (gone, new) = (observed.difference(addresses), addresses.iter());
    let missing = |one: &&InterfaceAddress| {
        host_network.interfaces.get(&one.link).is_some_and(|interface| !interface.has(one.address.addr()))
    };
    let (gone, new): (Vec<_>, Vec<_>) = (gone.collect(), new.filter(missing).collect());
    if gone.is_empty() && new.is_empty() {
        return Cow::Borrowed(host_network);
    }
    let mut changed = host_network.clone();
    for one in gone {
        if let Some(interface) = changed.interfaces.get_mut(&one.link) {
            interface.addresses.retain(|net| *net != one.address);
        }
    }
    for one in new {
        if let Some(interface) = changed.interfaces.get_mut(&one.link) {
            interface.addresses.push(one.address);
            // As the kernel lists it: nothing but the exit uses it.
            interface.only_named.insert(one.address.addr());
        }
    }
    Cow::Owned(changed)
}

/// The host networks of nodes with the addresses that any of these policies would assign there, for what has not happened yet: every
/// node that may get an address counts as having it.
pub fn expected<'h>(
    sets: &[&PolicySet],
    facts: &Facts,
    host_networks: &'h BTreeMap<NodeName, HostNetwork>,
) -> Cow<'h, BTreeMap<NodeName, HostNetwork>> {
    let gateways = sets.iter().flat_map(|set| set.policies.values()).flat_map(|policy| &policy.gateways);
    let mut expected = Cow::Borrowed(host_networks);
    for (spec, address) in gateways.flat_map(|spec| spec.egress.addresses().map(move |address| (spec, address))) {
        let Some(assign) = &spec.assign else { continue };
        // By today's labels and those that Git will give: a node more does no harm, as only exits of gateways are looked up.
        for (node, host_network) in host_networks {
            let labels = facts.nodes.get(node).map(|known| &known.labels);
            let given = labels.map(|labels| sets.iter().map(|set| set.labels_of(node, labels)).collect::<Vec<_>>());
            let matches = labels.is_some_and(|labels| {
                let with =
                    |given: &Labels| spec.node.matches(&labels.clone().into_iter().chain(given.clone()).collect());
                spec.node.matches(labels) || given.iter().flatten().any(with)
            });
            if !matches || expected[node].holder(address).is_some() {
                continue;
            }
            if let Ok(link) = interface_for(address, assign, host_network)
                && let Some(known) = expected.to_mut().get_mut(node)
            {
                let one = InterfaceAddress { link, address: IpNet::from(address) };
                *known = applied(known, &BTreeSet::new(), &BTreeSet::from([one])).into_owned();
            }
        }
    }
    expected
}

fn is_loopback(interface: &Interface) -> bool {
    matches!(interface.kind, InterfaceKind::Loopback | InterfaceKind::Dummy)
}

/// Why there is no interface for an address.
enum NoInterface {
    /// The policy's is not there.
    Missing(String),
    /// No network contains the address.
    NoNetwork,
}

impl NoInterface {
    fn of(self, address: IpAddr, node: &NodeName) -> Finding {
        let (message, hint) = match self {
            Self::Missing(name) => (
                format!("{node} has no interface {name}, which assign.interface names for {address}"),
                "`ip link` there shows its interfaces",
            ),
            Self::NoNetwork => (
                format!("no interface of {node} has a network that contains {address}, so it cannot be assigned there"),
                "name one by assign.interface: `lo` where a routing daemon announces the address",
            ),
        };
        Finding::new("assign-no-interface", node, message).hint(hint)
    }
}

/// The interface that an address is put on.
fn interface_for(address: IpAddr, assign: &Assign, host_network: &HostNetwork) -> Result<String, NoInterface> {
    if let Some(name) = &assign.interface {
        let found = host_network.interface(name.as_str()).map(|(name, _)| name.to_owned());
        return found.ok_or_else(|| NoInterface::Missing(name.to_string()));
    }
    let contains = |interface: &Interface| {
        interface.addresses.iter().any(|net| net.prefix_len() < net.max_prefix_len() && net.contains(&address))
    };
    let fitting = host_network
        .interfaces
        .iter()
        .filter(|(name, interface)| !is_of_services(name) && !is_loopback(interface) && contains(interface));
    // One that can send, first.
    let best = fitting.min_by_key(|(_, interface)| !interface.works());
    best.map(|(name, _)| name.clone()).ok_or(NoInterface::NoNetwork)
}

fn differs(address: IpAddr, assigned: &Assigned) -> Finding {
    let others: Vec<String> = assigned.differ.iter().map(ToString::to_string).collect();
    let message = format!(
        "{} and {} assign {address} in different ways; {}'s counts",
        assigned.policy,
        others.join(", "),
        assigned.policy
    );
    Finding::new("assign-differs", &assigned.policy, message)
        .hint("write the same `assign` in all policies with one address")
}

fn conflict(address: IpAddr, link: &str, mac: super::state::net::Mac, holds: bool) -> Finding {
    let consequence = if holds { "this node has it, too, and defends it" } else { "this node does not take it" };
    let message = format!("{mac} answers for {address} on {link}, and is no gateway that gives way; {consequence}");
    Finding::new("address-conflict", address, message)
        .hint("find the host with this MAC address, and take the egress address off it")
}

#[cfg(test)]
mod tests;
