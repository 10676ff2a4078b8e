//! Clusters of other people: services, marks, source translation and addresses of pods that others decide. Whatever they are, a
//! member's packet to a named destination leaves with its exit's address or not at all, and nobody else's ever does.
//!
//! What is right is decided by where a packet really goes, behind destination translation. Where a foreign writer makes that
//! impossible the methods of [`Flow`] say exactly what is allowed instead. Deliberately absent: foreign rules that
//! drop or forge packets, and what others do to the tunnel's outer packets.

mod faults;

use std::collections::BTreeSet;
use std::net::IpAddr;

use egret::core::compile::exit_ids::EXIT_CHAIN;
use egret::core::name::NodeName;
use egret::core::placement::ExitKey;
use egret::core::policy::ExistingConnections;
use egret::core::state::NodeState;
use egret::core::state::nft::{AddressFamily, ElementKey, TableFamily};
use ipnet::IpNet;
use proptest::collection::vec;
use proptest::option::weighted as maybe;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use super::evaluate::{Cluster, Foreign, Journey, Memory, Outcome, Sent, Written};
use super::generate::world;
use super::oracle::{
    Connection, Exit, Fate, deciding_policy, egress_address, exits_of, fate, in_a_pod_network, in_force, is_bystander,
    is_known_pod,
};
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

/// Marks that others write whole: of AWS VPC CNI, all bits, none, and what stands for an exit, for the replies or for nothing.
const MARKS: [Written; 8] = [
    Written::Connection,
    Written::Value(0x80),
    Written::Value(u32::MAX),
    Written::Value(0),
    Written::Value(1),
    Written::Value(0x4000_0002),
    Written::Value(0x1fff),
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
        if !self.is_right(&fate, &first, true) {
            return say("the first packet", &first);
        }
        first.left.as_ref()?;
        let second = cluster.send(&sent, &first.memory);
        let moved = !self.told_apart(false) || self.is_moved_by_its_service(&second);
        let as_before = second.left == first.left || second.left.is_none() || moved;
        if !as_before || !self.is_right(&fate, &second, false) {
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

    fn is_right(&self, fate: &Fate, journey: &Journey, first: bool) -> bool {
        let dropped = journey.left.is_none();
        match fate {
            Fate::OwnWay => {
                self.is_own_way(journey)
                    || dropped && self.may_be_dropped(first)
                    || self.is_misrouted(journey)
                    || !first && self.is_moved_by_its_service(journey)
                    || !self.told_apart(first)
            }
            Fate::Dropped => {
                let goes_on = self.is_own_way(journey) || !self.told_apart(first);
                dropped || self.loses_its_interface() && goes_on
            }
            Fate::Through(exits) => {
                // A policy with `existingConnections: Reset` that names a service's own address moves what IPVS translates, each time.
                let torn = |by: &Fate| *by == Fate::Dropped || !first && *by != *fate && *by != Fate::OwnWay;
                let lost = !self.disturbed().is_empty() || self.by_address().is_some_and(|by| torn(&by));
                let seen = |exits| self.addresses(exits).contains(&journey.left);
                seen(exits) || dropped && lost || seen(&self.forced())
            }
        }
    }

    /// The exits whose mark is written behind us, ahead of routing: a member's packets take the way of such a one in place of
    /// its own, and where a policy of that exit names their destination they leave with its address.
    fn forced(&self) -> BTreeSet<Exit> {
        let Some(mark) = self.world.foreign.mark_behind else { return BTreeSet::new() };
        let range = self.world.set.config.range;
        let table = self.states[self.node].nft.get(&TableFamily::Inet);
        let chain = range.id(self.bits(mark)).map(|id| format!("{EXIT_CHAIN}{id}"));
        let identity = chain.and_then(|chain| table?.chains.get(&chain)?.comment.clone());
        let all = in_force(self.world).flat_map(|policy| exits_of(self.world, policy));
        all.filter(|exit| {
            let Exit { gateway, egress, next_hops } = exit.clone();
            Some(ExitKey { gateway, egress, next_hops }.identity()) == identity
        })
        .collect()
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

    /// Another daemon writes an exit's mark into the mark of connections.
    fn has_an_exits_connection_mark(&self) -> bool {
        marks(&self.states[self.node]).contains(&self.bits(Written::Connection))
    }

    /// What becomes of the source's packets to a service's own address, which is looked at before IPVS translates.
    fn by_address(&self) -> Option<Fate> {
        let translated = self.world.foreign.ipvs && self.real() != self.destination;
        translated.then(|| fate(self.world, self.node, self.source, self.destination, &Connection::New))
    }

    /// What goes its own way without others and is dropped with them:
    /// - an exit's mark is written behind us; or the replies' mark, ahead of routing.
    /// - an exit's mark is written into connections, and the source is neither the host nor a pod of no policy: where a member's
    ///   packets go their own way a connection with that mark may have lost its way.
    /// - a service of IPVS has an address for which this source is held back; or, is steered, and
    ///   somebody writes marks behind us, or it is not the first packet (`existingConnections: Reset`).
    fn may_be_dropped(&self, first: bool) -> bool {
        let exits = marks(&self.states[self.node]);
        let replies = self.world.set.config.range.reply_mark();
        let written = self.world.foreign.mark_behind.is_some();
        let astray = self.world.foreign.mark_behind.is_some_and(|mark| self.bits(mark) == replies);
        astray
            || !self.disturbed().is_disjoint(&exits)
            || self.has_an_exits_connection_mark() && !is_bystander(self.world, self.node, self.source)
            || self.by_address().is_some_and(|by| by == Fate::Dropped || by != Fate::OwnWay && (!first || written))
    }

    /// By an exit's interface, with its own address: an exit's mark was written behind us, and taken away ahead of the guard.
    fn is_misrouted(&self, journey: &Journey) -> bool {
        let exits = marks(&self.states[self.node]);
        let foreign = &self.world.foreign;
        let written = foreign.mark_behind.is_some_and(|mark| exits.contains(&self.bits(mark)));
        let hidden = foreign.mark_leaving.is_some_and(|mark| !exits.contains(&self.bits(mark)));
        written && hidden && self.keeps_its_address(journey)
    }

    /// A known hole: a policy with `existingConnections: Reset` that names a service's own address marks each later packet of its
    /// member before IPVS translates it, and where somebody writes marks behind us the first one's connection keeps one. Where the CNI translates to an address that is ours to translate to, the packet
    /// leaves with that policy's address, whatever policies say of the endpoint.
    fn is_moved_by_its_service(&self, journey: &Journey) -> bool {
        let Some(Fate::Through(exits)) = self.by_address() else { return false };
        let policy = deciding_policy(self.world, self.node, self.source, self.destination);
        let resets = policy.is_some_and(|policy| policy.existing_connections == ExistingConnections::Reset);
        let written = self.world.foreign.mark_behind.is_some();
        (resets || written) && self.addresses(&exits).contains(&journey.left)
    }

    /// Whether anything tells a packet that goes its own way from a member's. Not where others write an exit's mark into the
    /// connection, and besides
    /// - write one into the packet, behind us,
    /// - or translate the connection, whose first packet went its own way, to an address that is ours to translate to.
    fn told_apart(&self, first: bool) -> bool {
        let state = &self.states[self.node];
        let table = state.nft.get(&TableFamily::Inet);
        let ours = ["translated4", "translated6"].map(|set| table.and_then(|table| table.sets.get(set)));
        let translated = ElementKey::Address(self.translated());
        let like_ours = ours.into_iter().flatten().any(|set| set.elements.contains_key(&translated));
        let marked = !self.disturbed().is_disjoint(&marks(state));
        !self.has_an_exits_connection_mark() || !marked && (first || !like_ours)
    }

    /// What IPVS sends on came in by no interface any more. Who nobody has classified, and has an address of no known network, is
    /// not known for a pod then.
    fn loses_its_interface(&self) -> bool {
        self.world.foreign.ipvs
            && self.real() != self.destination
            && !is_known_pod(self.world, self.node, self.source)
            && !in_a_pod_network(self.world, self.source)
    }
}

/// The marks of the exits that a node knows.
fn marks(state: &NodeState) -> BTreeSet<u32> {
    let exits = state.nft.get(&TableFamily::Inet).and_then(|table| table.sets.get("exits"));
    let keys = exits.into_iter().flat_map(|set| set.elements.keys());
    keys.filter_map(|key| if let ElementKey::Mark(mark) = key { Some(*mark) } else { None }).collect()
}
