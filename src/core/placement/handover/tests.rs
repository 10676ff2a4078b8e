//! Tests of handover: one policy, two gateways, and a third node with its members.

use std::net::IpAddr;

use super::*;
use crate::core::facts::Node;
use crate::core::labels::{Labels, Operator, Requirement, Selector};
use crate::core::name::ObjectName;
use crate::core::placement::place;
use crate::core::policy::{Egress, GatewaySpec, MemberSelector, OnNoGateway, Origin, Policy, PolicyKind};

fn name(text: &str) -> NodeName {
    NodeName::parse(text).unwrap()
}

fn set(existing_connections: ExistingConnections) -> PolicySet {
    let gateway = GatewaySpec {
        node: Selector {
            requirements: vec![Requirement { key: "gw".to_owned(), operator: Operator::In(["a".to_owned()].into()) }],
        },
        egress: Egress::DefaultRoute,
        next_hops: Vec::new(),
        assign: None,
    };
    let policy = Policy {
        id: PolicyId { name: ObjectName::parse("p").unwrap(), kind: PolicyKind::Egret },
        selectors: vec![MemberSelector::default()],
        destinations: vec!["10.0.4.0/24".parse().unwrap()],
        excluded: Vec::new(),
        gateways: vec![gateway],
        priority: 0,
        on_no_gateway: OnNoGateway::Drop,
        existing_connections,
        suspend: None,
        origin: Origin::default(),
    };
    PolicySet { policies: [(policy.id.clone(), policy)].into(), ..PolicySet::default() }
}

/// Three nodes; `labelled` has the gateway label, and those in `dead` are not Ready.
fn facts(labelled: &str, dead: &[&str]) -> Facts {
    let mut facts = Facts::default();
    for (number, node) in ["one", "three", "two"].into_iter().enumerate() {
        let labels = if node == labelled { Labels::from([("gw".to_owned(), "a".to_owned())]) } else { Labels::new() };
        let addresses = vec![format!("172.18.0.{}", number + 2).parse().unwrap()];
        facts.nodes.insert(name(node), Node { labels, addresses, ready: !dead.contains(&node), ..Node::default() });
    }
    facts
}

fn serving(nodes: &[&str]) -> Serving {
    nodes.iter().map(|node| (name(node), BTreeSet::from([format!("{node} default")]))).collect()
}

/// No node probes.
fn reports(serving: &Serving) -> GatewayKnowledge<'_> {
    const NONE: &BTreeSet<ExitKey> = &BTreeSet::new();
    GatewayKnowledge { serving: Some(serving), answering: NONE, silent: NONE, replaced: NONE }
}

struct Stage {
    set: PolicySet,
    memory: Handover,
    silent: BTreeSet<ExitKey>,
}

impl Stage {
    fn new(existing: ExistingConnections) -> Self {
        Self { set: set(existing), memory: Handover::default(), silent: BTreeSet::new() }
    }

    /// The gateways that carry the policy, and the exits being drained, on node `own` at a second.
    fn at(
        &mut self,
        own: &str,
        labelled: &str,
        dead: &[&str],
        serve: &[&str],
        second: i64,
    ) -> (Vec<String>, Vec<String>) {
        let (facts, now) = (facts(labelled, dead), Timestamp::from_second(second).unwrap());
        let placed = place(&self.set, &facts, now);
        let serving = serving(serve);
        let known = GatewayKnowledge { silent: &self.silent, ..reports(&serving) };
        let placement = self.memory.next(placed, &name(own), &self.set, &facts, known, now);
        let carried = placement.policies.values().flat_map(|placed| placed.exits.iter().map(ExitKey::identity));
        let left: Vec<String> = placement.left.keys().map(ExitKey::identity).collect();
        assert!(placement.left.keys().all(|exit| placement.exits.contains_key(exit)));
        (carried.collect(), left)
    }
}

fn is(carried: &str, left: &[&str]) -> (Vec<String>, Vec<String>) {
    (vec![format!("{carried} default")], left.iter().map(|node| format!("{node} default")).collect())
}

#[test]
fn the_old_gateway_carries_until_the_new_one_is_ready_and_then_drains() {
    let mut stage = Stage::new(ExistingConnections::Keep);
    assert_eq!(stage.at("three", "one", &[], &["one"], 0), is("one", &[]));
    assert_eq!(stage.at("three", "two", &[], &["one"], 1), is("one", &[]));
    assert_eq!(stage.at("three", "two", &[], &["one", "two"], 2), is("two", &["one"]));
    assert_eq!(stage.memory.wake(), Some(Timestamp::from_second(602).unwrap()));
    assert_eq!(stage.at("three", "two", &[], &["one", "two"], 601), is("two", &["one"]));
    assert_eq!(stage.at("three", "two", &[], &["two"], 602), is("two", &[]));
}

#[test]
fn the_new_gateway_takes_its_own_place_at_once() {
    let mut stage = Stage::new(ExistingConnections::Keep);
    assert_eq!(stage.at("two", "one", &[], &["one"], 0), is("one", &[]));
    assert_eq!(stage.at("two", "two", &[], &["one"], 1), is("two", &["one"]));
}

#[test]
fn members_move_at_once_if_the_old_gateway_is_dead() {
    let mut stage = Stage::new(ExistingConnections::Keep);
    assert_eq!(stage.at("three", "one", &[], &["one"], 0), is("one", &[]));
    assert_eq!(stage.at("three", "two", &["one"], &["one"], 1), is("two", &[]));
}

#[test]
fn a_draining_exit_ends_when_its_gateway_dies_or_is_placed_again() {
    let mut stage = Stage::new(ExistingConnections::Keep);
    stage.at("three", "one", &[], &["one", "two"], 0);
    assert_eq!(stage.at("three", "two", &[], &["one", "two"], 1), is("two", &["one"]));
    assert_eq!(stage.at("three", "one", &[], &["one", "two"], 2), is("one", &["two"]));
    assert_eq!(stage.at("three", "one", &["two"], &["one", "two"], 3), is("one", &[]));
}

#[test]
fn a_draining_exit_whose_gateway_answers_no_probe_ends_and_does_not_come_back() {
    let mut stage = Stage::new(ExistingConnections::Keep);
    stage.at("three", "one", &[], &["one", "two"], 0);
    assert_eq!(stage.at("three", "two", &[], &["one", "two"], 1), is("two", &["one"]));
    let one = stage.memory.exits().find(|exit| exit.gateway == name("one")).cloned().unwrap();
    stage.silent.insert(one);
    assert_eq!(
        stage.at("one", "two", &[], &["one", "two"], 2),
        is("two", &["one"]),
        "the gateway itself probes nothing"
    );
    assert_eq!(stage.at("three", "two", &[], &["one", "two"], 3), is("two", &[]));
    stage.silent.clear();
    assert_eq!(stage.at("three", "two", &[], &["one", "two"], 4), is("two", &[]));
}

#[test]
fn a_policy_that_resets_connections_drains_no_exit() {
    let mut stage = Stage::new(ExistingConnections::Reset);
    stage.at("three", "one", &[], &["one", "two"], 0);
    assert_eq!(stage.at("three", "two", &[], &["one", "two"], 1), is("two", &[]));
}

#[test]
fn a_deleted_policy_drains_nothing() {
    let mut stage = Stage::new(ExistingConnections::Keep);
    stage.at("three", "one", &[], &["one", "two"], 0);
    stage.at("three", "two", &[], &["one", "two"], 1);
    stage.set.policies.clear();
    assert_eq!(stage.at("three", "two", &[], &["one", "two"], 2), (Vec::new(), Vec::new()));
}

#[test]
fn a_policy_without_a_fit_gateway_stays_on_a_live_one_for_a_moment() {
    let unplaced = |left: &[&str]| (Vec::<String>::new(), is("", left).1);
    let mut stage = Stage::new(ExistingConnections::Keep);
    assert_eq!(stage.at("three", "one", &[], &["one"], 0), is("one", &[]));
    assert_eq!(stage.at("three", "", &[], &["one"], 10), is("one", &[]));
    assert_eq!(stage.memory.wake(), Some(Timestamp::from_second(15).unwrap()));
    assert_eq!(stage.at("three", "", &[], &["one"], 14), is("one", &[]));
    assert_eq!(stage.at("three", "", &[], &["one"], 15), unplaced(&["one"]));
    assert_eq!(stage.at("three", "", &[], &["one"], 16), unplaced(&["one"]), "once it is over it does not begin again");
    assert_eq!(stage.at("three", "one", &[], &["one"], 20), is("one", &[]));
    assert_eq!(stage.at("three", "", &["one"], &["one"], 21), unplaced(&[]), "a dead gateway carries no members");
}

#[test]
fn a_clock_that_is_set_back_prolongs_neither_a_hold_nor_a_drain() {
    let unplaced = |left: &[&str]| (Vec::<String>::new(), is("", left).1);
    let mut stage = Stage::new(ExistingConnections::Keep);
    assert_eq!(stage.at("three", "one", &[], &["one"], 86_400), is("one", &[]));
    assert_eq!(stage.at("three", "", &[], &["one"], 86_400), is("one", &[]));
    assert_eq!(stage.at("three", "", &[], &["one"], 0), is("one", &[]));
    assert_eq!(stage.at("three", "", &[], &["one"], 5), unplaced(&["one"]));
    assert_eq!(stage.at("three", "two", &[], &["two"], 86_400), is("two", &[]));
    assert_eq!(stage.at("three", "one", &[], &["one"], 86_400), is("one", &["two"]));
    assert_eq!(stage.at("three", "one", &[], &["one"], 0), is("one", &["two"]));
    assert_eq!(stage.at("three", "one", &[], &["one"], 600), is("one", &[]));
}

#[test]
fn a_restarted_node_continues_the_handover() {
    let again = |stage: &mut Stage| stage.memory = PersistedHandover::from(&stage.memory).into();
    let mut stage = Stage::new(ExistingConnections::Keep);
    stage.at("three", "one", &[], &["one"], 0);
    again(&mut stage);
    assert_eq!(stage.at("three", "two", &[], &["one"], 1), is("one", &[]));
    assert_eq!(stage.at("three", "two", &[], &["one", "two"], 2), is("two", &["one"]));
    let before = stage.memory.clone();
    again(&mut stage);
    assert_eq!(stage.memory, before);
    assert_eq!(stage.at("three", "two", &[], &["one", "two"], 601), is("two", &["one"]));
    assert_eq!(stage.at("three", "two", &[], &["two"], 602), is("two", &[]));
}

#[test]
fn a_policy_that_means_other_packets_than_before_does_not_stay_on_its_former_exit() {
    let mut stage = Stage::new(ExistingConnections::Keep);
    assert_eq!(stage.at("three", "one", &[], &["one"], 0), is("one", &[]));
    stage.set.policies.values_mut().for_each(|policy| policy.destinations = vec!["10.0.5.0/24".parse().unwrap()]);
    assert_eq!(stage.at("three", "two", &[], &["one"], 1), is("two", &["one"]), "dropped until two serves");
    assert_eq!(stage.at("three", "two", &[], &["one", "two"], 2), is("two", &["one"]));
}

#[test]
fn every_kind_of_exit_survives_a_restart() {
    let egresses = [
        Egress::Address("fd00:10:3::42".parse().unwrap()),
        Egress::Interface(crate::core::name::Interface::parse("default").unwrap()),
        Egress::DefaultRoute,
    ];
    let next_hops = vec!["10.0.3.1".parse().unwrap()];
    let exits = egresses.map(|egress| ExitKey { gateway: name("one"), egress, next_hops: next_hops.clone() });
    let id = |kind| PolicyId { name: ObjectName::parse("p").unwrap(), kind };
    let carried = BTreeMap::from([
        (id(PolicyKind::Cilium), Carried { exits: exits.to_vec(), scope: Some(u64::MAX) }),
        (id(PolicyKind::Egret), Carried::default()),
    ]);
    let handover = Handover { carried, ..Handover::default() };
    assert_eq!(Handover::from(PersistedHandover::from(&handover)), handover);
}

#[test]
fn members_follow_a_moved_address_once_its_new_node_serves_it() {
    let address: IpAddr = "10.0.3.9".parse().unwrap();
    let mut set = set(ExistingConnections::Keep);
    for policy in set.policies.values_mut() {
        policy.gateways[0].egress = Egress::Address(address);
    }
    let mut facts = facts("one", &[]);
    facts.nodes.get_mut(&name("two")).unwrap().labels.insert("gw".to_owned(), "a".to_owned());
    let mut memory = Handover::default();
    let mut at = |holds: &[(&str, i64)], serve: &[&str], second: i64| {
        let now = Timestamp::from_second(second).unwrap();
        facts.held = holds
            .iter()
            .map(|(node, since)| (name(node), BTreeMap::from([(address, Timestamp::from_second(*since).unwrap())])))
            .collect();
        let serving: Serving = ["one", "two"]
            .into_iter()
            .map(|node| {
                (name(node), serve.iter().filter(|by| **by == node).map(|by| format!("{by} {address}")).collect())
            })
            .collect();
        let placed = place(&set, &facts, now);
        let placement = memory.next(placed, &name("three"), &set, &facts, reports(&serving), now);
        let carried: Vec<String> =
            placement.policies.values().flat_map(|placed| &placed.exits).map(ExitKey::identity).collect();
        (carried, placement.left.keys().map(ExitKey::identity).collect::<Vec<String>>())
    };
    let is = |node: &str, left: &[&str]| {
        (
            vec![format!("{node} {address}")],
            left.iter().map(|node| format!("{node} {address}")).collect::<Vec<String>>(),
        )
    };
    assert_eq!(at(&[("two", 0)], &["two"], 0), is("two", &[]), "the second of two has it");
    // The first takes it over, and the second does not know yet.
    assert_eq!(at(&[("two", 0), ("one", 5)], &["two"], 5), is("two", &[]), "until the first serves it");
    assert_eq!(at(&[("two", 0), ("one", 5)], &["one", "two"], 6), is("one", &["two"]));
    // The second has lost it: connections that began there continue where the address is.
    assert_eq!(at(&[("one", 5)], &["one"], 7), is("one", &[]));
}
