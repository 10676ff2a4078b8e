//! What is said of an assertion is what packets of every pod do, with all gateways and with each node lost: evaluated one by one, they give
//! the same verdict as the ranges of destinations give.
//!
//! Absent: what a counterexample reads like (tests/previews).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use egret::core::name::ObjectName;
use egret::core::policy::Origin;
use egret::core::policy::assertion::{Assertion, Claim};
use egret::core::preview::assertions::{AssertionInput, Counterexample, PacketFate, failed};
use egret::core::state::nft::AddressFamily;
use ipnet::IpNet;
use proptest::collection::{btree_set, vec};
use proptest::prelude::*;

use super::evaluate::{Journey, Memory, Outcome, Sent};
use super::generate::{member, prefixes, two_revisions};
use super::world::{States, World};

fn assertion() -> impl Strategy<Value = Assertion> {
    let address = prop_oneof![
        3 => (0_u8..5).prop_map(|n| IpAddr::from([10, 0, 3, 42 + n])),
        2 => (0_u8..4).prop_map(|n| IpAddr::from([172, 18, 0, 2 + n])),
        1 => (0_u16..5).prop_map(|n| IpAddr::from([0xfd00, 3, 0, 0, 0, 0, 0, 42 + n])),
    ];
    let leaves = (btree_set(address, 1..12), any::<bool>());
    let claim = prop_oneof![
        3 => leaves.prop_map(|(addresses, or_dropped)| Claim::LeavesAs { addresses, or_dropped }),
        1 => Just(Claim::NeverSteered),
    ];
    (vec(member(), 1..3), prefixes(1..3), prefixes(0..2), claim).prop_map(
        |(selectors, destinations, excluded, claim)| Assertion {
            name: ObjectName::parse("claim").expect("a name"),
            selectors,
            destinations,
            excluded,
            claim,
            origin: Origin::default(),
        },
    )
}

proptest! {
    #[test]
    fn an_assertion_holds_exactly_if_every_packet_does_what_it_says((world, _) in two_revisions(), assertion in assertion()) {
        let mut world = world;
        world.set.assertions = BTreeMap::from([(assertion.name.clone(), assertion.clone())]);
        let input = AssertionInput {
            set: &world.set,
            before: &world.set,
            facts: &world.facts,
            host_networks: &world.host_networks,
            now: world.now,
        };
        let said = failed(&input);
        let pods = world.facts.pods.iter().filter(|(name, pod)| pod.node.is_some() && assertion.selects(name, pod, &world.facts));
        let because = said.first().map(|failed| failed.because.as_ref());
        if pods.count() == 0 {
            prop_assert_eq!(because, Some(None), "no pod: a warning");
            return Ok(());
        }
        let broken = because.flatten();
        prop_assert_eq!(because.is_some(), broken.is_some());
        let mut sampled = broken_packets(&world, &assertion, broken.map(|found| found.destination));
        if sampled.is_empty() {
            for node in world.facts.nodes.keys() {
                let mut without = world.clone();
                without.facts.nodes.get_mut(node).expect("a node").ready = false;
                sampled.extend(broken_packets(&without, &assertion, broken.map(|found| found.destination)));
            }
        }
        prop_assert_eq!(broken.is_some(), !sampled.is_empty(), "{:?}: {:?}, but {:?}", assertion, broken, sampled);
        if let Some(found) = broken {
            let packet = (found.pod.to_string(), found.destination, fate(found));
            prop_assert!(sampled.contains(&packet), "{:?} is not among {:?}", packet, sampled);
        }
    }
}

/// A packet that does what the assertion forbids: its pod, its destination, what becomes of it.
type Packet = (String, IpAddr, String);

/// Of all pods, to all destinations where something begins or ends.
fn broken_packets(world: &World, assertion: &Assertion, more: Option<IpAddr>) -> BTreeSet<Packet> {
    let states = world.desired(&States::new());
    let cluster = world.cluster(&states);
    let destinations = destinations(world, assertion, more);
    let mut broken = BTreeSet::new();
    for (name, pod) in world.facts.pods.iter().filter(|(name, pod)| assertion.selects(name, pod, &world.facts)) {
        let Some(node) = &pod.node else { continue };
        for source in pod.addresses.iter().copied() {
            let family = AddressFamily::of(source);
            for destination in destinations.iter().copied().filter(|address| AddressFamily::of(*address) == family) {
                let journey = cluster.send(&Sent { node, source, destination, reply: false }, &Memory::new());
                if !is_allowed(&assertion.claim, &journey) {
                    broken.insert((name.to_string(), destination, outcome(&journey)));
                }
            }
        }
    }
    broken
}

fn is_allowed(claim: &Claim, journey: &Journey) -> bool {
    match (claim, &journey.outcome) {
        (Claim::NeverSteered, outcome) => *outcome == Outcome::Own,
        (Claim::LeavesAs { addresses, .. }, Outcome::As { address, .. }) => addresses.contains(address),
        (Claim::LeavesAs { or_dropped, .. }, outcome) => outcome.is_dropped() && *or_dropped,
    }
}

fn outcome(journey: &Journey) -> String {
    match &journey.outcome {
        Outcome::As { address, .. } => address.to_string(),
        Outcome::Own => "own".to_owned(),
        _ => "dropped".to_owned(),
    }
}

fn fate(found: &Counterexample) -> String {
    match &found.fate {
        PacketFate::As(address, _) => address.to_string(),
        PacketFate::Own(_) => "own".to_owned(),
        PacketFate::Dropped(_) => "dropped".to_owned(),
        PacketFate::Unknown(exit) => panic!("every kernel was read: {exit:?}"),
    }
}

/// The destinations of an assertion at which another range may begin or end, without what is the cluster's own.
fn destinations(world: &World, assertion: &Assertion, more: Option<IpAddr>) -> BTreeSet<IpAddr> {
    let mut beside = world.clone();
    // The edges of the assertion, and of the cluster's networks, are edges as those of policies.
    beside.set.config.exclusions.extend(assertion.destinations.iter().chain(&assertion.excluded));
    let nodes = world.facts.nodes.values();
    beside.set.config.exclusions.extend(nodes.clone().flat_map(|node| node.pod_cidrs.iter().copied()));
    beside.set.config.exclusions.extend(nodes.clone().flat_map(|node| node.addresses.iter().copied().map(IpNet::from)));
    let pods = world.facts.pods.values().flat_map(|pod| &pod.addresses);
    beside.set.config.exclusions.extend(pods.clone().copied().map(IpNet::from));
    let mut all = beside.destinations();
    all.extend(more);
    let held = |address: &IpAddr| {
        let interfaces = world.host_networks.values().flat_map(|host_network| host_network.interfaces.values());
        { interfaces }.any(|interface| interface.has(*address))
    };
    let own = |address: &IpAddr| {
        nodes
            .clone()
            .any(|node| node.addresses.contains(address) || node.pod_cidrs.iter().any(|net| net.contains(address)))
            || pods.clone().any(|pod| pod == address)
    };
    let meant = |address: &IpAddr| {
        assertion.destinations.iter().any(|net| net.contains(address))
            && !assertion.excluded.iter().any(|net| net.contains(address))
    };
    // What a node itself has is delivered there, and its kernel knows best what that is.
    all.retain(|address| meant(address) && !held(address) && !(own(address) && assertion.claim != Claim::NeverSteered));
    all
}
