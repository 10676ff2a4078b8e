//! The compiled program, packet by packet, against what policies mean.
//!
//! Deliberately absent: states on their way from one to another (`transition`).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use egret::core::compile::exit_ids::EXIT_CHAIN;
use egret::core::name::NodeName;
use egret::core::placement::ExitKey;
use egret::core::policy::ExistingConnections;
use egret::core::state::NodeState;
use egret::core::state::nft::{AddressFamily, TableFamily};
use egret::core::state::ownership::DatapathConfig;
use proptest::prelude::*;

use super::evaluate::{Cluster, Journey, Memory, Outcome, Sent, Tracked};
use super::generate::world;
use super::oracle::{Connection, Exit, Fate, active_policies, deciding_policy, egress_address, exits_of, fate};
use super::world::{States, World, flows, stands_for};

proptest! {
    #[test]
    fn every_packet_goes_where_the_policies_say(world in world()) {
        let states = world.desired(&States::new());
        let cluster = world.cluster(&states);
        for node in world.facts.nodes.keys() {
            for (source, destination) in flows(&world, node) {
                for (connection, memory) in connections(&world, &cluster, node, source) {
                    check(&world, &cluster, node, (source, destination), &connection, &memory)?;
                }
            }
        }
    }

    #[test]
    fn the_answer_to_what_was_steered_comes_back_to_the_pods_node(world in world()) {
        let states = world.desired(&States::new());
        let cluster = world.cluster(&states);
        for node in world.facts.nodes.keys() {
            for (source, destination) in flows(&world, node) {
                let sent = Sent { node, source, destination, reply: false };
                let journey = cluster.send(&sent, &Memory::new());
                let Outcome::As { node: gateway, interface, address } = journey.outcome else { continue };
                let home = cluster.answer(&sent, (&gateway, &interface, address), &journey.memory);
                prop_assert_eq!(home.as_ref(), Some(node), "{} to {} by {}", source, destination, gateway);
            }
        }
    }

    /// Nor do its replies: any that passed would be the first packet of another connection once the entry has ended.
    #[test]
    fn no_packet_of_a_flushed_connection_passes_as_long_as_its_entry_lives(world in world()) {
        let states = world.desired(&States::new());
        let cluster = world.cluster(&states);
        let mark = DatapathConfig::default().flushed_mark().expect("it has bits enough");
        for (node, _) in states.iter().filter(|(_, state)| state.nft.contains_key(&TableFamily::Inet)) {
            for (source, destination) in flows(&world, node) {
                let memory = Memory::from([(node.clone(), Tracked { mark, translated: source })]);
                for reply in [false, true] {
                    let outcome = cluster.send(&Sent { node, source, destination, reply }, &memory).outcome;
                    prop_assert!(outcome.is_dropped(), "{source} to {destination} on {node}, reply {reply}: {outcome:?}");
                }
            }
        }
    }

    #[test]
    fn a_pod_has_one_exit_of_a_policy_and_losing_another_moves_nobody(world in world(), lost in 0_usize..3) {
        let before = chosen(&world);
        let mut smaller = world.clone();
        let mut gone: BTreeSet<String> = BTreeSet::new();
        for policy in smaller.set.policies.values_mut().filter(|policy| policy.gateways.len() > 1) {
            let whole = exits_of(&world, policy);
            policy.gateways.remove(lost % policy.gateways.len());
            gone.extend(whole.difference(&exits_of(&world, policy)).map(identity));
        }
        let after = chosen(&smaller);
        for (flow, exit) in &before {
            if !gone.contains(exit) {
                prop_assert_eq!(after.get(flow), Some(exit), "{:?} moved", flow);
            }
        }
    }
}

/// The exit that the node chose for each steered new connection.
fn chosen(world: &World) -> BTreeMap<(NodeName, IpAddr, IpAddr), String> {
    let states = world.desired(&States::new());
    let cluster = world.cluster(&states);
    let mut chosen = BTreeMap::new();
    for node in world.facts.nodes.keys() {
        for (source, destination) in flows(world, node) {
            let journey = cluster.send(&Sent { node, source, destination, reply: false }, &Memory::new());
            if let Some(exit) = journey.exit {
                chosen.insert((node.clone(), source, destination), exit);
            }
        }
    }
    chosen
}

/// An exit as its chain names it.
fn identity(exit: &Exit) -> String {
    let Exit { gateway, egress, next_hops } = exit.clone();
    ExitKey { gateway, egress, next_hops }.identity()
}

/// Connections of every kind that a packet may belong to, and what the nodes remember of each.
fn connections(world: &World, cluster: &Cluster<'_>, node: &NodeName, source: IpAddr) -> Vec<(Connection, Memory)> {
    let remembers = |node: &NodeName, mark, translated| (node.clone(), Tracked { mark, translated });
    let unmarked = Memory::from([remembers(node, 0, source)]);
    let range = world.set.config.range;
    let family = AddressFamily::of(source);
    let stands = stands_for(cluster.hosts[node].state, family).unwrap_or(source);
    let gone = Memory::from([remembers(node, range.mark(range.last_id()), stands)]);
    let mut connections = vec![
        (Connection::New, Memory::new()),
        (Connection::Reply, unmarked.clone()),
        (Connection::LiveOnItsOwnWay, unmarked),
        (Connection::LiveThroughGone, gone),
    ];
    // A family that no policy names is not compiled: exits have no way for it, and what began when one was named goes its own.
    // And a node's own packets never come out of a pod's device, so no exit was ever theirs.
    let own = world.facts.nodes[node].addresses.contains(&source);
    if own || !family_is_named(world, AddressFamily::of(source)) {
        return connections;
    }
    for policy in world.set.policies.values() {
        for exit in exits_of(world, policy) {
            let mark = |state: &NodeState| mark_of(state, &exit);
            let Some(here) = mark(cluster.hosts[node].state) else { continue };
            let address = egress_address(&world.host_networks[&exit.gateway], &exit.egress, family);
            // A connection through an exit that has no address any more bears an address that nothing here tells from a CNI's.
            if exit.gateway == *node && address.is_none() {
                continue;
            }
            let here_as = if exit.gateway == *node { address.unwrap_or(source) } else { stands };
            let mut memory = Memory::from([remembers(node, here, here_as)]);
            if let (Some(there), Some(address)) = (mark(cluster.hosts[&exit.gateway].state), address) {
                memory.extend([remembers(&exit.gateway, there, address)]);
            }
            connections.push((Connection::LiveThrough(exit), memory));
        }
    }
    connections
}

fn family_is_named(world: &World, family: AddressFamily) -> bool {
    let destinations = active_policies(world).flat_map(|policy| &policy.destinations);
    { destinations }.any(|network| AddressFamily::of(network.addr()) == family)
}

/// The mark that an exit has on a node, if the node has the exit.
fn mark_of(state: &NodeState, exit: &Exit) -> Option<u32> {
    let chains = &state.nft.get(&TableFamily::Inet)?.chains;
    let (name, _) = chains.iter().find(|(_, chain)| chain.comment.as_deref() == Some(&identity(exit)))?;
    name.strip_prefix(EXIT_CHAIN)?.parse().ok().map(|id| DatapathConfig::default().mark(id))
}

fn check(
    world: &World,
    cluster: &Cluster<'_>,
    node: &NodeName,
    (source, destination): (IpAddr, IpAddr),
    connection: &Connection,
    memory: &Memory,
) -> Result<(), TestCaseError> {
    let reply = *connection == Connection::Reply;
    let journey = cluster.send(&Sent { node, source, destination, reply }, memory);
    let expected = fate(world, node, source, destination, connection);
    let context = format!("{source} on {node} to {destination}, {connection:?}: {expected:?}, but {journey:?}");
    match &expected {
        Fate::OwnWay => {
            // Reset takes a connection from its exit and forgets it. A packet that comes before it is forgotten bears the connection's
            // mark alone: the guard cannot tell it from one whose own mark a CNI took, and drops it. Nothing else may.
            let reset = deciding_policy(world, node, source, destination)
                .is_some_and(|policy| policy.existing_connections == ExistingConnections::Reset);
            let translated = memory.get(node).is_some_and(|tracked| tracked.translated != source);
            let moved = reset && translated && matches!(connection, Connection::LiveThrough(_));
            let lost = moved && journey.outcome == Outcome::Dropped("postrouting");
            prop_assert!(lost || journey.outcome == Outcome::Own, "{}", context);
        }
        Fate::Dropped => prop_assert!(journey.outcome.is_dropped(), "{}", context),
        Fate::Through(exits) => {
            let chosen = exits.iter().find(|exit| Some(identity(exit)) == journey.exit);
            let Some(exit) = chosen else { return Err(TestCaseError::fail(context)) };
            // A live connection that has to change its way may be lost: its translation was made for the old one.
            let moved = *connection != Connection::New && *connection != Connection::LiveThrough(exit.clone());
            let lost = moved && journey.outcome.is_dropped();
            prop_assert!(lost || leaves_through(world, exit, source, &journey), "{}", context);
        }
    }
    Ok(())
}

/// Whether the packet left as this exit means it: with its address, by the interface that has it; dropped if it has none.
fn leaves_through(world: &World, exit: &Exit, source: IpAddr, journey: &Journey) -> bool {
    let host_network = &world.host_networks[&exit.gateway];
    let family = AddressFamily::of(source);
    let address = egress_address(host_network, &exit.egress, family)
        .filter(|_| family == AddressFamily::V4 || host_network.features.ipv6);
    match (address, &journey.outcome) {
        (Some(right), Outcome::As { node, interface, address }) => {
            *node == exit.gateway && *address == right && host_network.holder(right) == Some(interface)
        }
        (None, outcome) => outcome.is_dropped(),
        _ => false,
    }
}
