//! Tests of detours: who stands in for whom.

use super::*;
use crate::core::name::{NodeName, ObjectName};
use crate::core::placement::{Exit, PlacedPolicy};
use crate::core::policy::{Egress, OnNoGateway, PolicyId, PolicyKind};

const V4: AddressFamily = AddressFamily::V4;

fn exit(node: &str) -> ExitKey {
    ExitKey { gateway: NodeName::parse(node).unwrap(), egress: Egress::DefaultRoute, next_hops: Vec::new() }
}

fn own() -> NodeName {
    NodeName::parse("source").unwrap()
}

/// Policies with their exit and its standbys.
fn placement(policies: &[(&str, &str, &[&str])]) -> Placement {
    let mut placement = Placement::default();
    for (name, on, standbys) in policies {
        let id = PolicyId { name: ObjectName::parse(name).unwrap(), kind: PolicyKind::Cilium };
        let standbys: Vec<ExitKey> = standbys.iter().map(|node| exit(node)).collect();
        for one in standbys.iter().chain([&exit(on)]) {
            placement.exits.insert(one.clone(), Exit { mac: one.mac() });
        }
        let placed = PlacedPolicy {
            exits: vec![exit(on)],
            standbys: BTreeMap::from([(exit(on), standbys)]),
            choices: Vec::new(),
            on_no_gateway: OnNoGateway::Drop,
        };
        placement.policies.insert(id, placed);
    }
    placement
}

fn view(paths: &[(&str, PathState)]) -> LivenessView {
    paths.iter().map(|(node, state)| ((exit(node), V4), *state)).collect()
}

fn to(detours: &Detours, node: &str) -> Option<String> {
    detours.get(&(exit(node), V4)).map(|to| to.gateway.to_string())
}

#[test]
fn the_first_standby_that_answers_stands_in_for_a_silent_gateway() {
    use PathState::{Answering, Recovering, Silent};
    let placement = placement(&[("p", "a", &["b", "c"])]);
    let decided = |paths: &[_]| to(&decide(&placement, &own(), &view(paths), &Detours::new()), "a");
    assert_eq!(decided(&[("a", Answering), ("b", Answering)]), None);
    assert_eq!(decided(&[("a", Silent), ("b", Answering), ("c", Answering)]), Some("b".into()));
    assert_eq!(decided(&[("a", Silent), ("b", Silent), ("c", Answering)]), Some("c".into()));
    assert_eq!(decided(&[("a", Silent), ("b", Silent), ("c", Silent)]), None, "no other would do better");
    assert_eq!(decided(&[("a", Silent)]), None, "nobody is known to serve");
    assert_eq!(decided(&[("a", Silent), ("b", Recovering), ("c", Answering)]), Some("c".into()));
    assert_eq!(
        decided(&[("a", Silent), ("b", Recovering), ("c", Silent)]),
        Some("b".into()),
        "an address has just moved there"
    );
}

#[test]
fn a_standby_that_carries_packets_stays_when_a_better_one_returns() {
    use PathState::{Answering, Recovering, Silent};
    let placement = placement(&[("p", "a", &["b", "c"])]);
    let before = Detours::from([((exit("a"), V4), exit("c"))]);
    let decided = |paths: &[_]| to(&decide(&placement, &own(), &view(paths), &before), "a");
    assert_eq!(decided(&[("a", Silent), ("b", Answering), ("c", Answering)]), Some("c".into()));
    assert_eq!(decided(&[("a", Silent), ("b", Answering), ("c", Silent)]), Some("b".into()));
    assert_eq!(decided(&[("a", Answering), ("b", Answering), ("c", Answering)]), None);
    assert_eq!(decided(&[("a", Recovering), ("b", Answering), ("c", Answering)]), Some("c".into()));
    assert_eq!(
        decided(&[("a", Recovering), ("b", Answering), ("c", Silent)]),
        None,
        "who answers is better than who does not"
    );
}

#[test]
fn a_new_process_keeps_the_detours_that_it_finds_until_it_knows_better() {
    let placement = placement(&[("p", "a", &["b"])]);
    let before = Detours::from([((exit("a"), V4), exit("b"))]);
    assert_eq!(to(&decide(&placement, &own(), LivenessView::NOTHING, &before), "a"), Some("b".into()));
    let elsewhere = Detours::from([((exit("a"), V4), exit("x"))]);
    assert_eq!(to(&decide(&placement, &own(), LivenessView::NOTHING, &elsewhere), "a"), None, "x stands by for nobody");
}

/// Both policies' packets take the same exit; one of them does not name the second node.
#[test]
fn a_policy_that_names_one_node_alone_never_leaves_by_another() {
    use PathState::{Answering, Silent};
    let placement = placement(&[("any", "a", &["b", "c"]), ("pinned", "a", &["c"])]);
    let decided = |paths: &[_]| to(&decide(&placement, &own(), &view(paths), &Detours::new()), "a");
    assert_eq!(decided(&[("a", Silent), ("b", Answering), ("c", Answering)]), Some("c".into()));
    assert_eq!(decided(&[("a", Silent), ("b", Answering), ("c", Silent)]), None);
}

#[test]
fn an_address_that_answers_on_a_standby_is_not_awaited_at_the_placed_gateway() {
    use PathState::{Answering, Recovering, Unknown};
    let at = |node: NodeName, egress: &Egress, state: PathState, standby: PathState| {
        let named = |node: &str| ExitKey { egress: egress.clone(), ..exit(node) };
        let mut placement = placement(&[("p", "a", &["b"])]);
        let placed = placement.policies.values_mut().next().unwrap();
        (placed.exits, placed.standbys) = (vec![named("a")], BTreeMap::from([(named("a"), vec![named("b")])]));
        let view = [((named("a"), V4), state), ((named("b"), V4), standby)].into_iter().collect();
        let detours = decide(&placement, &node, &view, &Detours::new());
        detours.get(&(named("a"), V4)).map(|to| to.gateway.to_string())
    };
    let decided = |egress: &Egress, state, standby| at(own(), egress, state, standby);
    let address = Egress::Address("10.0.3.100".parse().unwrap());
    assert_eq!(decided(&address, Unknown, Answering), Some("b".into()));
    assert_eq!(decided(&address, Unknown, Recovering), None, "it may be moving away");
    assert_eq!(decided(&address, Answering, Answering), None);
    assert_eq!(decided(&Egress::DefaultRoute, Unknown, Answering), None, "another address");
    assert_eq!(at(NodeName::parse("b").unwrap(), &address, Unknown, Answering), None, "two nodes have it");
}
