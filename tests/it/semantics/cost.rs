//! What must not matter, and what must cost little: the order of the input, the marks of others, one more pod.
//!
//! Deliberately absent: time; benchmarks measure that.

use std::collections::BTreeMap;

use egret::core::compile::exit_ids::EXIT_CHAIN;
use egret::core::facts::{Pod, PodName};
use egret::core::name::NodeName;
use egret::core::plan::{Plan, StateListing, Step, plan};
use egret::core::state::NodeState;
use egret::core::state::nft::{AddressFamily, NftChange, TableFamily};
use egret::core::state::ownership::DatapathConfig;
use proptest::prelude::*;

use super::generate::{change, world};
use super::world::{States, World};

proptest! {
    #[test]
    fn the_order_of_the_input_never_matters(world in world(), turned in any::<usize>()) {
        let shuffled = in_another_order(&world, turned);
        let listing = |states: States| -> Vec<String> { states.values().map(|state| StateListing(state).to_string()).collect() };
        prop_assert_eq!(listing(world.desired(&States::new())), listing(shuffled.desired(&States::new())));
    }

    #[test]
    fn an_exit_keeps_its_mark_and_a_new_one_gets_none_in_use((old, new) in change()) {
        let before = old.desired(&States::new());
        for (node, after) in new.desired(&before) {
            let known = marks(&before[&node]);
            for (exit, mark) in marks(&after) {
                match known.get(&exit) {
                    Some(same) => prop_assert_eq!(mark, *same, "{} on {}", exit, node),
                    None => prop_assert!(!known.values().any(|used| *used == mark), "{exit} on {node} got {mark}: {known:?}"),
                }
            }
        }
    }

    /// Promise 3. A member of a policy with `existingConnections: Reset` is an element of one more map.
    #[test]
    fn one_more_pod_in_a_group_costs_one_element_for_each_address(world in world(), which in any::<prop::sample::Index>()) {
        let Some((bigger, node, families)) = one_more_pod(&world, which) else { return Ok(()) };
        let before = world.desired(&States::new());
        let compiled = bigger.compiled(&node, &before[&node]);
        // A twin that is spread to another exit, or is the first of its kind, makes a group.
        prop_assume!(compiled.groups == world.compiled(&node, &NodeState::default()).groups);
        let plan = plan(&compiled.desired, &before[&node], DatapathConfig::default());
        let Some(changes) = changes(&plan) else { return Err(TestCaseError::fail(plan.to_string())) };
        for family in AddressFamily::BOTH {
            let of_family = |map: &str| changes.get(&format!("{map}{}", family.suffix())).copied().unwrap_or(0);
            let tables = before[&node].nft.get(&TableFamily::Inet);
            let has = |map: &str| tables.is_some_and(|table| table.sets.contains_key(&format!("{map}{}", family.suffix())));
            let expected = usize::from(has("group_of") && families.contains(&family));
            prop_assert_eq!(of_family("group_of") + of_family("others"), expected, "{:?}", family);
            prop_assert!(of_family("reset_of") <= usize::from(has("reset_of")), "{:?}", family);
        }
        let of_pods = ["group_of", "others", "reset_of"];
        let others: Vec<&String> = changes.keys().filter(|set| !of_pods.iter().any(|of| set.starts_with(of))).collect();
        prop_assert_eq!(others, Vec::<&String>::new());
        // And on no other node anything at all.
        for (other, state) in bigger.desired(&before).into_iter().filter(|(other, _)| *other != node) {
            prop_assert_eq!(&state, &before[&other], "{} changes for a pod of {}", other, node);
        }
    }
}

/// The same world put together in another order: its maps anew, and the lists that have no order of meaning turned.
fn in_another_order(world: &World, turned: usize) -> World {
    let turn = |length: usize| turned % length.max(1);
    let mut other = world.clone();
    other.facts.pods = world.facts.pods.clone().into_iter().rev().collect();
    other.facts.nodes = world.facts.nodes.clone().into_iter().rev().collect();
    other.set.policies = world.set.policies.clone().into_iter().rev().collect();
    for policy in other.set.policies.values_mut() {
        let (selectors, destinations, excluded) =
            (policy.selectors.len(), policy.destinations.len(), policy.excluded.len());
        policy.selectors.rotate_left(turn(selectors));
        policy.destinations.rotate_left(turn(destinations));
        policy.excluded.rotate_left(turn(excluded));
        policy.gateways.reverse();
    }
    for pod in other.facts.pods.values_mut() {
        pod.addresses.reverse();
    }
    for node in other.facts.nodes.values_mut() {
        node.pod_cidrs.reverse();
    }
    other.set.config.service_cidrs.reverse();
    other
}

/// Exits by their identity, and the id that each has in this state.
fn marks(state: &NodeState) -> BTreeMap<String, u32> {
    let chains = state.nft.get(&TableFamily::Inet).map(|table| &table.chains);
    chains
        .into_iter()
        .flatten()
        .filter_map(|(name, chain)| Some((chain.comment.clone()?, name.strip_prefix(EXIT_CHAIN)?.parse().ok()?)))
        .collect()
}

/// The world with a twin of one of its members, at addresses of the same node and families that nobody has.
fn one_more_pod(world: &World, which: prop::sample::Index) -> Option<(World, NodeName, Vec<AddressFamily>)> {
    let on_a_node = |(_, pod): &(&PodName, &Pod)| {
        let node = pod.node.as_ref().map(|node| &world.facts.nodes[node]);
        pod.routable() && node.is_some_and(|node| !node.pod_cidrs.is_empty())
    };
    let members: Vec<_> = world.facts.pods.iter().filter(on_a_node).collect();
    if members.is_empty() {
        return None;
    }
    let (name, pod) = which.get(&members);
    let node = pod.node.clone()?;
    let mut twin = (*pod).clone();
    let networks = world.facts.nodes[&node].pod_cidrs.iter();
    twin.addresses = networks
        .filter(|network| pod.addresses.iter().any(|address| address.is_ipv4() == network.addr().is_ipv4()))
        .filter_map(|network| network.hosts().nth(99))
        .collect();
    let families: Vec<AddressFamily> = twin.addresses.iter().copied().map(AddressFamily::of).collect();
    let mut bigger = world.clone();
    bigger.facts.pods.insert(PodName { name: "twin".to_owned(), ..(*name).clone() }, twin);
    Some((bigger, node, families))
}

/// How many elements each set gains; none if the plan does anything else, or in more than one transaction.
fn changes(plan: &Plan) -> Option<BTreeMap<String, usize>> {
    let mut gained = BTreeMap::new();
    // Ahead of it, what is left of the addresses' connections may go.
    let steps: Vec<&Step> = plan.steps.iter().skip_while(|step| matches!(step, Step::FlushSources(_))).collect();
    match steps.as_slice() {
        [] => {}
        [Step::Nft(transaction)] => {
            for (_, change) in &transaction.changes {
                let NftChange::AddElements(set, elements) = change else { return None };
                *gained.entry(set.clone()).or_insert(0) += elements.len();
            }
        }
        _ => return None,
    }
    Some(gained)
}
