//! Gateways that do not answer: a packet leaves by a standby that its policy names, or not at all, and nobody else's packet notices.
//!
//! Deliberately absent: when a gateway counts as silent (`core::liveness`), and connections that a real kernel takes up
//! (`outpost::failover`).

use std::collections::BTreeSet;
use std::net::IpAddr;

use egret::core::liveness::{LivenessView, PathState};
use egret::core::name::NodeName;
use egret::core::placement::{ExitKey, place};
use egret::core::state::nft::AddressFamily;
use proptest::prelude::*;

use super::evaluate::{Memory, Outcome, Sent};
use super::generate::world;
use super::oracle::{deciding_policy, egress_address};
use super::world::{States, World, flows};

proptest! {
    #[test]
    fn behind_a_silent_gateway_packets_leave_as_their_policy_says_or_not_at_all(world in world(), silent in any::<u16>()) {
        let exits: Vec<ExitKey> = place(&world.set, &world.facts, world.now).exits.into_keys().collect();
        let is_silent = |place: usize| silent >> (place % 16) & 1 == 1;
        let state = |place| if is_silent(place) { PathState::Silent } else { PathState::Answering };
        let view: LivenessView = exits
            .iter()
            .enumerate()
            .flat_map(|(place, exit)| AddressFamily::BOTH.map(|family| ((exit.clone(), family), state(place))))
            .collect();
        let silent: BTreeSet<String> =
            exits.iter().enumerate().filter(|(place, _)| is_silent(*place)).map(|(_, exit)| exit.identity()).collect();
        let before = world.desired(&States::new());
        let after = world.desired_seeing(&before, &view);
        let (before, after) = (world.cluster(&before), world.cluster(&after));
        for node in world.facts.nodes.keys() {
            for (source, destination) in flows(&world, node) {
                let sent = Sent { node, source, destination, reply: false };
                let first = before.send(&sent, &Memory::new());
                for (what, memory) in [("new", &Memory::new()), ("live", &first.memory)] {
                    let then = after.send(&sent, memory).outcome;
                    let flow = format!("{what} {source} to {destination} on {node}: {:?}, then {then:?}", first.outcome);
                    let fails = |exit: &String| {
                        silent.contains(exit) || first.outcome.is_dropped() && exit.starts_with(&format!("{node} "))
                    };
                    let on_silent = first.exit.as_ref().is_some_and(fails);
                    match &then {
                        Outcome::As { node: gateway, address, .. } if on_silent => {
                            prop_assert!(is_named(&world, (node, source, destination), gateway, *address), "{}", flow);
                        }
                        other if on_silent => prop_assert!(other.is_dropped(), "{}", flow),
                        // What is dropped may be dropped elsewhere.
                        other if first.outcome.is_dropped() => prop_assert!(other.is_dropped(), "{}", flow),
                        other => prop_assert_eq!(other, &first.outcome, "{}", flow),
                    }
                }
            }
        }
    }
}

/// Whether the policy that decides over a packet names a node and its address.
fn is_named(
    world: &World,
    (node, source, destination): (&NodeName, IpAddr, IpAddr),
    gateway: &NodeName,
    address: IpAddr,
) -> bool {
    let Some(policy) = deciding_policy(world, node, source, destination) else { return false };
    let labels = &world.facts.nodes[gateway].labels;
    let leaves_as = |entry: &egret::core::policy::GatewaySpec| {
        egress_address(&world.host_networks[gateway], &entry.egress, AddressFamily::of(source))
    };
    policy.gateways.iter().any(|entry| entry.node.matches(labels) && leaves_as(entry) == Some(address))
}
