//! Finds the routers that packets of this node's own exits need, and reports those that do not answer: the kernel drops what is sent to
//! them, and counts it nowhere (`neigh_error_report` ends in `dst_link_failure`).
//!
//! Not here: which routers those are (`own_exits`), and how long one may take to answer (`core::neighbour_resolution`).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use super::{CompileInput, EgressRoute, ExitPurpose, ExitRoute, NodeExit};
use crate::core::finding::Finding;
use crate::core::neighbour_resolution::{LinkNeighbour, Resolution};
use crate::core::placement::ExitKey;
use crate::core::policy::PolicySet;
use crate::core::state::nft::AddressFamily;

/// No packet of the exit in a family leaves.
pub(crate) const NEXT_HOP_SILENT: &str = "next-hop-silent";
/// Some do: other destinations have another router.
const SILENT_IN_PART: &str = "next-hop-silent-in-part";

impl EgressRoute {
    /// The route of a destination.
    pub fn towards(&self, destination: IpAddr) -> Option<&ExitRoute> {
        let routes = self.routes.iter().filter(|route| route.destination.contains(&destination));
        routes.max_by_key(|route| route.destination.prefix_len())
    }
}

/// The routes of an exit by what they lead to. There may be thousands, and as many destinations.
struct RouteIndex<'e> {
    by_destination: BTreeMap<IpNet, &'e ExitRoute>,
    /// The lengths that occur, the longest first.
    lengths: Vec<u8>,
}

impl<'e> RouteIndex<'e> {
    fn new(way: &'e EgressRoute) -> Self {
        let by_destination: BTreeMap<IpNet, &ExitRoute> =
            way.routes.iter().map(|route| (route.destination.trunc(), route)).collect();
        let lengths: BTreeSet<u8> = by_destination.keys().map(IpNet::prefix_len).collect();
        Self { by_destination, lengths: lengths.into_iter().rev().collect() }
    }

    /// The route of a whole network. Narrower ones within it are left out: those of a node's own networks, and with some CNIs one to
    /// each other node, none of which a member's packet to the outside takes.
    fn of(&self, net: IpNet) -> Option<&'e ExitRoute> {
        let fits = self.lengths.iter().filter(|length| **length <= net.prefix_len());
        let mut wider = fits.filter_map(|length| IpNet::new(net.addr(), *length).ok());
        wider.find_map(|wider| self.by_destination.get(&wider.trunc())).copied()
    }
}

impl ExitRoute {
    /// Its router.
    pub fn neighbour(&self) -> Option<LinkNeighbour> {
        Some((self.interface.clone(), self.gateway?))
    }
}

/// The routers that members' packets need on this node.
pub fn needed(exits: &BTreeMap<ExitKey, NodeExit>, set: &PolicySet) -> BTreeSet<LinkNeighbour> {
    let ways = exits
        .values()
        .filter(|exit| exit.purpose == ExitPurpose::Placed)
        .flat_map(|exit| exit.own_routes().into_iter().flatten().map(move |(family, way)| (exit, *family, way)));
    ways.flat_map(|(exit, family, way)| taken(exit, family, way, set)).filter_map(ExitRoute::neighbour).collect()
}

/// The routes that packets of an exit's policies take.
fn taken<'e>(exit: &NodeExit, family: AddressFamily, way: &'e EgressRoute, set: &PolicySet) -> Vec<&'e ExitRoute> {
    let routes = RouteIndex::new(way);
    let policies = exit.policies.iter().filter_map(|id| set.policies.get(id));
    let destinations = policies.flat_map(|policy| policy.destinations.iter().copied());
    destinations.filter(|net| AddressFamily::of(net.addr()) == family).filter_map(|net| routes.of(net)).collect()
}

/// Reports the routers of placed exits that do not answer.
pub(super) fn findings(input: &CompileInput<'_>, exits: &BTreeMap<ExitKey, NodeExit>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (key, exit) in exits.iter().filter(|(_, exit)| exit.purpose == ExitPurpose::Placed) {
        for (family, way) in exit.own_routes().into_iter().flatten() {
            let mut silent: BTreeMap<LinkNeighbour, BTreeSet<IpNet>> = BTreeMap::new();
            let mut others = false;
            for route in taken(exit, *family, way, input.set) {
                match route.neighbour().filter(|hop| input.host_network.resolution(hop) == Some(Resolution::Failed)) {
                    Some(hop) => drop(silent.entry(hop).or_default().insert(route.destination)),
                    None => others = true,
                }
            }
            findings.extend(silent.iter().map(|(hop, networks)| {
                if others { silent_in_part(key, hop, *family, networks) } else { silent_next_hop(key, hop, *family) }
            }));
        }
    }
    findings
}

/// A router that does not answer, and that all packets need.
pub(crate) fn silent_next_hop(exit: &ExitKey, (interface, hop): &LinkNeighbour, family: AddressFamily) -> Finding {
    let message = format!("{hop}, the {} next hop on {interface}, does not answer", family.version());
    let hint = format!("`ip neigh show {hop}` there; look at the router, or name another nextHop");
    Finding::new(NEXT_HOP_SILENT, exit, message).hint(hint)
}

/// One that only packets to some networks need.
fn silent_in_part(exit: &ExitKey, hop: &LinkNeighbour, family: AddressFamily, networks: &BTreeSet<IpNet>) -> Finding {
    /// Further networks are only counted.
    const NAMED: usize = 3;
    let more = networks.len().saturating_sub(NAMED);
    let mut networks: Vec<String> = networks.iter().take(NAMED).map(ToString::to_string).collect();
    networks.extend((more > 0).then(|| format!("{more} more")));
    let mut finding = silent_next_hop(exit, hop, family);
    SILENT_IN_PART.clone_into(&mut finding.code);
    finding.message = format!("{}: {} is not reached", finding.message, networks.join(", "));
    finding
}
