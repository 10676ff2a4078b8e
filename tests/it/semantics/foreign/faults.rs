//! The property finds what was wrong once: each fault of the datapath's first form (its worlds 2, 3 and 7) and of its second, made
//! again in what is compiled today, leads some packet of some random world astray.
//!
//! Deliberately absent: faults that nobody has made yet (`damage` breaks anything).

use std::net::IpAddr;

use egret::core::name::NodeName;
use egret::core::state::NodeState;
use egret::core::state::net::{Route, RouteKey};
use egret::core::state::nft::{Chain, ElementKey, Field, Hook, MatchValue, NftRule, Statement, TableFamily, Verdict};
use ipnet::IpNet;
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;

use super::{foreign_world, violation};
use crate::semantics::evaluate::{Foreign, Written};
use crate::semantics::world::{States, World, stands_for};

type Fault = fn(&World, &NodeName, &mut NodeState);

/// How many worlds each fault gets to show itself in.
const WORLDS: usize = 1000;

#[test]
fn the_property_notices_steering_ahead_of_destination_translation() {
    assert_noticed(steer_early, &["Through(", "outcome: Own", ", which is "]);
}

#[test]
fn the_property_notices_a_start_guard_that_knows_the_nodes_own_network_alone() {
    assert_noticed(guard_own_network_alone, &["Dropped, but", "outcome: Own"]);
}

#[test]
fn the_property_notices_replies_that_follow_pod_networks() {
    assert_noticed_in(&ipam_alone(), replies_by_pod_network, &["the answer goes to None"]);
}

#[test]
fn the_property_notices_pods_addresses_in_the_tunnel() {
    assert_noticed_in(&ipam_alone(), pods_addresses_in_the_tunnel, &["the answer goes to Some", "tunnelled: true"]);
}

#[test]
fn the_property_notices_a_guard_that_believes_the_packets_mark_alone() {
    assert_noticed(guard_by_packet_mark, &["Through(", "tunnelled: false, left: Some"]);
}

#[test]
fn the_property_notices_a_tunnel_that_takes_a_connection_to_another_exit() {
    assert_noticed_in(&second_exit_written(), any_way, &["Through(", "tunnelled: true"]);
}

#[test]
fn the_property_notices_classification_by_an_address_of_ipvs() {
    assert_noticed(classify_what_is_for_the_host, &[", which is "]);
}

#[test]
fn the_property_notices_connections_that_keep_what_others_wrote() {
    assert_noticed(keep_connection_marks, &["OwnWay, but"]);
}

#[test]
fn the_property_notices_pods_that_ipvs_makes_unknown() {
    assert_noticed(forget_interfaces, &["Dropped, but", ", which is "]);
}

/// Random worlds, always the same, until a packet goes astray with the fault, and in the way that was seen, that does not without.
fn assert_noticed(fault: Fault, as_seen: &[&str]) {
    assert_noticed_in(&foreign_world(), fault, as_seen);
}

/// Worlds in which others decide who has which address, and nothing else.
fn ipam_alone() -> impl Strategy<Value = World> {
    foreign_world().prop_map(|world| World { foreign: Foreign::default(), masquerade: false, ..world })
}

/// Worlds in which another daemon writes the mark of a node's second exit behind `steer`.
fn second_exit_written() -> impl Strategy<Value = World> {
    let foreign = Foreign { mark_behind: Some(Written::Value(2)), ..Foreign::default() };
    foreign_world().prop_map(move |world| World { foreign: foreign.clone(), ..world })
}

fn assert_noticed_in(worlds: &impl Strategy<Value = World>, fault: Fault, as_seen: &[&str]) {
    let mut runner = TestRunner::deterministic();
    for number in 0..WORLDS {
        let world = worlds.new_tree(&mut runner).expect("a world").current();
        let states = world.desired(&States::new());
        let mut faulty = states.clone();
        for (node, state) in &mut faulty {
            fault(&world, node, state);
        }
        if faulty == states {
            continue;
        }
        let seen = |astray: &String| as_seen.iter().all(|part| astray.contains(part));
        if violation(&world, &faulty, number).as_ref().is_some_and(seen) {
            assert_eq!(violation(&world, &states, number), None, "without the fault too");
            return;
        }
    }
    panic!("{WORLDS} worlds and not one packet astray as in {as_seen:?}");
}

fn chain<'a>(state: &'a mut NodeState, family: TableFamily, name: &str) -> Option<&'a mut Chain> {
    state.nft.get_mut(&family)?.chains.get_mut(name)
}

/// World 3: at `mangle`, as the first form had it.
fn steer_early(_: &World, _: &NodeName, state: &mut NodeState) {
    let base = chain(state, TableFamily::Inet, "steer").and_then(|chain| chain.base.as_mut());
    if let Some(base) = base {
        base.priority = -150;
    }
}

/// World 2: who is a pod is known by its node's `spec.podCIDR` and by nothing else.
fn guard_own_network_alone(world: &World, node: &NodeName, state: &mut NodeState) {
    let Some(table) = state.nft.get_mut(&TableFamily::Inet) else { return };
    let kind = |statement: &Statement| matches!(statement, Statement::Compare { field: Field::Iifkind, .. });
    for name in ["classify4", "classify6"] {
        table.chains.entry(name.to_owned()).and_modify(|chain| chain.rules.retain(|rule| !rule.0.iter().any(kind)));
    }
    for (name, v4) in [("podnets4", true), ("podnets6", false)] {
        let Some(set) = table.sets.get_mut(name) else { continue };
        let own = world.facts.nodes[node].pod_cidrs.iter().filter(|net| net.addr().is_ipv4() == v4);
        set.elements = own.map(|net| (ElementKey::Range(net.network(), net.broadcast()), None)).collect();
    }
}

/// World 2: a gateway knows the way back by pod networks of nodes.
fn replies_by_pod_network(world: &World, _: &NodeName, state: &mut NodeState) {
    let table = world.set.config.range.table(0);
    let is_back =
        |key: &RouteKey, route: &Route| key.table == table && matches!(route, Route::Via { encap: Some(_), .. });
    let back: Vec<(RouteKey, Route)> = state
        .routes
        .iter()
        .filter(|(key, route)| is_back(key, route))
        .map(|(key, route)| (key.clone(), route.clone()))
        .collect();
    state.routes.retain(|key, route| !is_back(key, route));
    for (key, route) in back {
        let Route::Via { encap: Some(encap), .. } = &route else { continue };
        let peer = world.facts.nodes.values().find(|node| node.addresses.contains(&encap.peer));
        let networks = peer.into_iter().flat_map(|node| &node.pod_cidrs);
        for network in networks.filter(|net| net.addr().is_ipv4() == key.destination.addr().is_ipv4()) {
            let destination: IpNet = *network;
            state.routes.insert(RouteKey { destination, ..key }, route.clone());
        }
    }
}

/// World 2, whole: what a pod sends keeps its address in the tunnel, and everything believes that it does.
fn pods_addresses_in_the_tunnel(world: &World, node: &NodeName, state: &mut NodeState) {
    let families = [egret::core::state::nft::AddressFamily::V4, egret::core::state::nft::AddressFamily::V6];
    let own: Vec<IpAddr> = families.iter().filter_map(|family| stands_for(state, *family)).collect();
    let bound = ["tunnels4", "tunnels6", "sources4", "sources6"];
    let told = |statement: &Statement| match statement {
        Statement::Compare {
            field: Field::Ip4Saddr | Field::Ip6Saddr | Field::Ip4Daddr | Field::Ip6Daddr,
            value,
            ..
        } => {
            matches!(value, MatchValue::Address(address) if own.contains(address))
        }
        Statement::InSet { set, .. } => bound.contains(&set.as_str()),
        _ => false,
    };
    for chain in [(TableFamily::Inet, "into_tunnel"), (TableFamily::Inet, "steer"), (TableFamily::Netdev, "arrive")] {
        let chain = self::chain(state, chain.0, chain.1);
        chain.into_iter().flat_map(|chain| &mut chain.rules).for_each(|NftRule(rule)| rule.retain(|one| !told(one)));
    }
    let to_stand = |NftRule(rule): &NftRule| {
        rule.iter().any(|one| matches!(one, Statement::SnatTo { .. } | Statement::SnatTcpTo { .. }))
    };
    let translate = chain(state, TableFamily::Inet, "translate");
    if let Some(chain) = translate {
        chain.rules.retain(|rule| !to_stand(rule));
    }
    replies_by_pod_network(world, node, state);
}

/// World 7: of the connection's mark the guard knows nothing.
fn guard_by_packet_mark(_: &World, _: &NodeName, state: &mut NodeState) {
    let Some(chain) = chain(state, TableFamily::Inet, "guard") else { return };
    assert!(chain.base.as_ref().is_some_and(|base| base.hook == Hook::Postrouting), "it is where packets leave");
    let by_mark = |NftRule(rule): &NftRule| {
        rule.iter().any(|one| matches!(one, Statement::InSet { fields, .. } if fields == &[Field::MetaMark]))
    };
    let Some(last) = chain.rules.iter().position(by_mark) else { return };
    chain.rules.truncate(last + 1);
    chain.rules.push(NftRule(vec![Statement::Verdict(Verdict::Accept)]));
}

/// Without the statements that ask this, or without the rules that have them.
fn without(state: &mut NodeState, is_asked: impl Fn(&Statement) -> bool, whole_rule: bool) {
    let Some(table) = state.nft.get_mut(&TableFamily::Inet) else { return };
    for chain in table.chains.values_mut() {
        if whole_rule {
            chain.rules.retain(|NftRule(rule)| !rule.iter().any(&is_asked));
        } else {
            chain.rules.iter_mut().for_each(|NftRule(rule)| rule.retain(|one| !is_asked(one)));
        }
    }
}

/// Whoever has T as its source may go into the tunnel, whatever exit its route leads to.
fn any_way(_: &World, _: &NodeName, state: &mut NodeState) {
    let asks = |one: &Statement| {
        matches!(one, Statement::InSet { fields, .. }
            if fields.iter().any(|field| matches!(field, Field::RtNexthop4 | Field::RtNexthop6)))
    };
    without(state, asks, false);
}

/// A Service's own address decides, and so does its endpoint.
fn classify_what_is_for_the_host(_: &World, _: &NodeName, state: &mut NodeState) {
    without(state, |one| *one == Statement::ToThisHost, true);
}

/// What others write into a new connection's mark stays.
fn keep_connection_marks(_: &World, _: &NodeName, state: &mut NodeState) {
    without(state, |one| matches!(one, Statement::SetMark { field: Field::CtMark, value: 0, .. }), true);
}

/// Behind IPVS a pod is known by its address alone.
fn forget_interfaces(_: &World, _: &NodeName, state: &mut NodeState) {
    if let Some(table) = state.nft.get_mut(&TableFamily::Inet) {
        table.chains.remove("remember");
    }
}
