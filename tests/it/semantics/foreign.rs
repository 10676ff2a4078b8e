//! Clusters of other people: services, marks, source translation and addresses of pods that others decide. Whatever they are, a
//! member's packet to a named destination leaves with its exit's address or not at all, and nobody else's ever does.
//!
//! What is right is decided by where a packet really goes, behind destination translation. No packet is allowed a wrong address.
//! What is allowed instead of the right way, and why nothing can be done about it:
//! - whoever writes packets' marks behind `steer` (in prerouting, behind priority 1000) decides on their route, for routing looks
//!   with the mark (`ip_route_input_slow`, net/ipv4/route.c). A member's packet is dropped then (the guard sees its connection's mark
//!   and the next hop), and so is anybody's to whom an exit's mark is given or the replies' ([`Flow::may_be_dropped`]): by a rule
//!   that counts, or where the exit's table ends.
//! - a gateway translates what bears an exit's mark, so whoever writes marks ahead of translation has members dropped there.
//! - where an exit's mark is written ahead of routing and is gone behind it, a packet that goes its own way leaves by the exit's
//!   interface with its own address ([`Flow::is_misrouted`]). The main table may lead the same way, so the route tells nothing.
//!
//! Deliberately absent: foreign rules that drop or forge packets, and what others do to the tunnel's outer packets.

mod faults;

use std::collections::BTreeSet;
use std::net::IpAddr;

use egret::core::name::NodeName;
use egret::core::state::NodeState;
use egret::core::state::nft::{AddressFamily, ElementKey, TableFamily};
use ipnet::IpNet;
use proptest::collection::vec;
use proptest::option::weighted as maybe;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use super::evaluate::{Cluster, Foreign, Journey, Memory, Outcome, Sent, Written};
use super::generate::world;
use super::oracle::{Connection, Exit, Fate, egress_address, fate};
use super::world::{States, World, flows};

/// Addresses of services and where each leads: out of the cluster to what may be named or not, to a pod, and from an address that
/// may be named itself, as a load balancer's is.
const SERVICES: [(&str, &str); 9] = [
    ("10.96.0.50", "10.0.4.2"),
    ("10.96.0.51", "198.51.100.7"),
    ("10.96.0.52", "10.1.0.10"),
    ("10.0.4.5", "10.1.1.11"),
    ("10.0.4.6", "10.99.0.12"),
    ("10.0.4.7", "10.0.4.1"),
    ("10.0.4.12", "10.0.4.3"),
    ("fd00:96::50", "fd00:4::2"),
    ("fd00:4::5", "fd00:1:1::11"),
];

/// Marks that others write whole: of AWS VPC CNI, all bits, none, and what stands for an exit, for replies, for what nobody has
/// classified, or for nothing.
const MARKS: [Written; 9] = [
    Written::Connection,
    Written::Value(0x80),
    Written::Value(u32::MAX),
    Written::Value(0),
    Written::Value(1),
    Written::Value(0x4000_0002),
    Written::Value(0x1fff),
    Written::Value(0x1ffe),
    Written::Value(0x0004_0000),
];

/// Bits that others set in the mark of a connection: often none, and of ours as above.
const CONNECTION_BITS: [u32; 8] = [0, 0, 0, 0x0001_0000, 0x80, 1, 2, 0x1fff];

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn others() -> impl Strategy<Value = Foreign> {
    let services = subsequence(&SERVICES[..], 1..4);
    let masquerade = maybe(0.3, select(&["203.0.113.7", "172.18.0.250", "fd00:ffff::7"][..]));
    let mark = |often| maybe(often, select(&MARKS[..]));
    let marks = (mark(0.4), mark(0.3), mark(0.3), select(&CONNECTION_BITS[..]));
    (services, proptest::bool::weighted(0.25), masquerade, marks).prop_map(
        |(services, ipvs, masquerade, (mark_before, mark_behind, mark_leaving, connection_bits))| Foreign {
            masquerade: masquerade.map(address),
            services: services.into_iter().map(|(from, to)| (address(from), address(to))).collect(),
            ipvs,
            mark_before,
            mark_behind,
            mark_leaving,
            connection_bits,
        },
    )
}

/// A world whose pods have addresses, and whose nodes have pod networks, as a foreign IPAM gives them.
pub(crate) fn foreign_world() -> impl Strategy<Value = World> {
    (world(), others(), vec(0_u8..6, 8), 0_u8..7).prop_map(|(mut world, foreign, places, networks)| {
        world.foreign = foreign;
        for ((number, pod), place) in (0_u8..).zip(world.facts.pods.values_mut()).zip(places) {
            for address in &mut pod.addresses {
                *address = placed(*address, place, number);
            }
        }
        let told: Vec<Vec<IpNet>> = world.facts.nodes.values().map(|node| node.pod_cidrs.clone()).collect();
        let net = |text: &str| text.parse::<IpNet>().expect("a network");
        for (number, node) in world.facts.nodes.values_mut().enumerate() {
            match networks {
                0 => node.pod_cidrs.clear(),
                // Each node tells the next one's.
                1 => node.pod_cidrs.clone_from(&told[(number + 1) % told.len()]),
                2 => node.pod_cidrs = vec![net("10.1.0.0/24"), net("fd00:1::/64")],
                // The first one's has all others' in it.
                3 if number == 0 => node.pod_cidrs = vec![net("10.1.0.0/16"), net("fd00:1::/32")],
                // Pods and nodes in one network.
                4 => node.pod_cidrs = vec![net("172.18.0.0/24")],
                _ => {}
            }
        }
        world
    })
}

/// A pod's address: in its node's network, in another node's, in nobody's, or in that of the nodes.
fn placed(own: IpAddr, place: u8, number: u8) -> IpAddr {
    let host = u16::from(number);
    match (own, place) {
        (IpAddr::V4(v4), 3) => IpAddr::from([10, 1, (v4.octets()[2] + 1) % 4, 30 + number]),
        (IpAddr::V4(_), 4) => IpAddr::from([10, 99, 0, 10 + number]),
        (IpAddr::V4(_), 5) => IpAddr::from([172, 18, 0, 100 + number]),
        (IpAddr::V6(v6), 3) => IpAddr::from([0xfd00, 1, (v6.segments()[2] + 1) % 4, 0, 0, 0, 0, 0x30 + host]),
        (IpAddr::V6(_), 4) => IpAddr::from([0xfd99, 0, 0, 0, 0, 0, 1, 0x10 + host]),
        (IpAddr::V6(_), 5) => IpAddr::from([0xfd00, 0x18, 0, 0, 0, 0, 0, 0x100 + host]),
        (own, _) => own,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases / 2, ..ProptestConfig::default() })]

    #[test]
    fn that_address_or_not_at_all_whatever_others_do(world in foreign_world(), offset in 0_usize..100) {
        let states = world.desired(&States::new());
        let found = violation(&world, &states, offset);
        prop_assert!(found.is_none(), "{}\nwith {:?}", found.unwrap_or_default(), world.foreign);
    }
}

/// How many packets of a node are followed in one world, at most, beside those to services.
const FOLLOWED: usize = 50;

/// A packet that goes where it must not; none where all is as it has to be.
fn violation(world: &World, states: &States, offset: usize) -> Option<String> {
    let cluster = world.cluster(states);
    for node in world.facts.nodes.keys() {
        let all = flows(world, node);
        let stride = all.len().div_ceil(FOLLOWED).max(1);
        let ordinary = all.into_iter().skip(offset % stride).step_by(stride);
        let services = world.foreign.services.iter().map(|(service, _)| *service);
        let on = |source: IpAddr| world.host_networks[node].features.ipv6 || source.is_ipv4();
        let sources: Vec<IpAddr> = world.sources(node).into_iter().filter(|source| on(*source)).collect();
        let to_services = services.flat_map(|service| sources.iter().map(move |source| (*source, service)));
        let to_services = to_services.filter(|(source, service)| source.is_ipv4() == service.is_ipv4());
        for (source, destination) in ordinary.chain(to_services) {
            let packet = Flow { world, states, node, source, destination };
            if let Some(wrong) = packet.wrong(&cluster) {
                return Some(wrong);
            }
        }
    }
    None
}

/// The packets of one connection.
struct Flow<'a> {
    world: &'a World,
    states: &'a States,
    node: &'a NodeName,
    source: IpAddr,
    destination: IpAddr,
}

impl Flow<'_> {
    /// What is wrong with the connection's first packet, its second, or the answer.
    fn wrong(&self, cluster: &Cluster<'_>) -> Option<String> {
        let (node, source, destination) = (self.node, self.source, self.destination);
        let sent = Sent { node, source, destination, reply: false };
        let real = self.real();
        let fate = fate(self.world, node, source, real, &Connection::New);
        let first = cluster.send(&sent, &Memory::new());
        let say = |what: &str, journey: &Journey| {
            let to = if real == destination { String::new() } else { format!(", which is {real}") };
            Some(format!("{what}: {source} on {node} to {destination}{to}: {fate:?}, but {journey:?}"))
        };
        if !self.is_right(&fate, &first) {
            return say("the first packet", &first);
        }
        first.left.as_ref()?;
        let second = cluster.send(&sent, &first.memory);
        let as_before = second.left == first.left || second.left.is_none();
        if !as_before || !self.is_right(&fate, &second) {
            return say("the second packet", &second);
        }
        if let Outcome::As { node: gateway, interface, address } = &first.outcome
            && self.disturbed().is_empty()
        {
            let sent = Sent { destination: real, ..sent };
            let home = cluster.answer(&sent, (gateway, interface, *address), &first.memory);
            if home.as_ref() != Some(node) {
                return say(&format!("the answer goes to {home:?}"), &first);
            }
        }
        None
    }

    /// Where the packet really goes. IPVS translates what comes in, and the host's own like that; here only the former.
    fn real(&self) -> IpAddr {
        let foreign = &self.world.foreign;
        let of_host = self.world.facts.nodes[self.node].addresses.contains(&self.source);
        if of_host && foreign.ipvs { self.destination } else { foreign.endpoint(self.destination) }
    }

    fn is_right(&self, fate: &Fate, journey: &Journey) -> bool {
        let dropped = journey.left.is_none();
        match fate {
            Fate::OwnWay => self.is_own_way(journey) || dropped && self.may_be_dropped() || self.is_misrouted(journey),
            Fate::Dropped => dropped,
            Fate::Through(exits) => {
                self.addresses(exits).contains(&journey.left) || dropped && !self.disturbed().is_empty()
            }
        }
    }

    /// What may be seen of the packets that leave through these: none where there is no right address.
    fn addresses(&self, exits: &BTreeSet<Exit>) -> BTreeSet<Option<(NodeName, IpAddr)>> {
        let family = AddressFamily::of(self.source);
        let seen = |exit: &Exit| {
            let host_network = &self.world.host_networks[&exit.gateway];
            let address = egress_address(host_network, &exit.egress, family);
            let address = address.filter(|_| family == AddressFamily::V4 || host_network.features.ipv6);
            address.map(|address| (exit.gateway.clone(), address))
        };
        exits.iter().map(seen).collect()
    }

    /// By the main table of its node, with its own address or what the CNI makes of it.
    fn is_own_way(&self, journey: &Journey) -> bool {
        let by_main = matches!(journey.outcome, Outcome::Own | Outcome::Leaked { .. });
        by_main && self.keeps_its_address(journey)
    }

    fn keeps_its_address(&self, journey: &Journey) -> bool {
        !journey.tunnelled && journey.left == Some((self.node.clone(), self.translated()))
    }

    /// Its own address, or what the CNI makes of it.
    fn translated(&self) -> IpAddr {
        let of_family = |address: &IpAddr| address.is_ipv4() == self.source.is_ipv4();
        let own = self.world.facts.nodes[self.node].addresses.iter().copied().find(of_family);
        let cni = self.world.foreign.masquerade.filter(of_family).or(own.filter(|_| self.world.masquerade));
        cni.unwrap_or(self.source)
    }

    /// What others write behind us into the packet mark, as far as the bits are ours.
    fn disturbed(&self) -> BTreeSet<u32> {
        let foreign = &self.world.foreign;
        [foreign.mark_behind, foreign.mark_leaving].into_iter().flatten().map(|mark| self.bits(mark)).collect()
    }

    fn bits(&self, mark: Written) -> u32 {
        let mask = self.world.set.config.range.mask;
        match mark {
            Written::Value(value) => value & mask,
            Written::Connection => self.world.foreign.connection_bits & mask,
        }
    }

    /// What goes its own way without others and is dropped with them: an exit's mark is written behind us, or, ahead of routing, the
    /// replies'. The guard counts it.
    fn may_be_dropped(&self) -> bool {
        let replies = self.world.set.config.range.reply_mark();
        let astray = self.world.foreign.mark_behind.is_some_and(|mark| self.bits(mark) == replies);
        astray || !self.disturbed().is_disjoint(&marks(&self.states[self.node]))
    }

    /// By an exit's interface, with its own address: an exit's mark was written behind us, and taken away ahead of the guard. The
    /// connection has none, so that its mark, where it is written, takes it away too.
    fn is_misrouted(&self, journey: &Journey) -> bool {
        let exits = marks(&self.states[self.node]);
        let foreign = &self.world.foreign;
        let written = foreign.mark_behind.is_some_and(|mark| exits.contains(&self.bits(mark)));
        let hides = |mark| mark == Written::Connection || !exits.contains(&self.bits(mark));
        written && foreign.mark_leaving.is_some_and(hides) && self.keeps_its_address(journey)
    }
}

/// The marks of the exits that a node knows.
fn marks(state: &NodeState) -> BTreeSet<u32> {
    let exits = state.nft.get(&TableFamily::Inet).and_then(|table| table.sets.get("exits"));
    let keys = exits.into_iter().flat_map(|set| set.elements.keys());
    keys.filter_map(|key| if let ElementKey::Mark(mark) = key { Some(*mark) } else { None }).collect()
}
