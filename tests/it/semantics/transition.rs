//! Plans: they arrive where they are to, from wherever they start; and on their way no packet leaves that would not have left
//! so before or will not leave so afterwards.
//!
//! Deliberately absent: what the two ends mean (`agreement`).

use std::collections::BTreeSet;
use std::net::IpAddr;

use egret::core::name::NodeName;
use egret::core::plan::{Plan, StateListing, Step, plan, simulate};
use egret::core::state::NodeState;
use egret::core::state::ownership::DatapathConfig;
use proptest::prelude::*;

use super::damage::{Damage, damage};
use super::evaluate::{Memory, Outcome, Sent};
use super::generate::change;
use super::world::{States, World, flows};

/// What a state becomes by the first `count` steps of a plan.
fn after(state: &NodeState, plan: &Plan, count: usize) -> NodeState {
    let mut state = state.clone();
    plan.steps.iter().take(count).for_each(|step| simulate::apply(step, &mut state));
    state
}

/// Asserts that the plan leads from the one state to the other, and that there is nothing to do then.
fn arrives(desired: &NodeState, observed: &NodeState) -> Result<(), TestCaseError> {
    let way = plan(desired, observed, DatapathConfig::default());
    let reached = after(observed, &way, way.steps.len());
    prop_assert_eq!(StateListing(&reached).to_string(), StateListing(desired).to_string(), "after\n{}", way);
    prop_assert_eq!(&reached, desired, "after\n{}", way);
    prop_assert_eq!(plan(desired, &reached, DatapathConfig::default()), Plan::default());
    Ok(())
}

proptest! {
    #[test]
    fn a_plan_leads_from_any_world_to_any_other_and_back_to_nothing((old, new) in change()) {
        let nothing = NodeState::default();
        let before = old.desired(&States::new());
        for (node, desired) in new.desired(&before) {
            arrives(&before[&node], &nothing)?;
            arrives(&desired, &before[&node])?;
            arrives(&nothing, &desired)?;
        }
    }

    #[test]
    fn a_plan_repairs_whatever_was_damaged((old, new) in change(), damages in proptest::collection::vec(Damage::any(), 1..6)) {
        let mut before = old.desired(&States::new());
        for (node, state) in &mut before {
            let elsewhere = new.compiled(node, &NodeState::default()).desired;
            for one in &damages {
                damage(state, &elsewhere, one);
            }
        }
        for (node, desired) in new.desired(&before) {
            arrives(&desired, &before[&node])?;
        }
    }

    #[test]
    fn a_packet_that_is_overtaken_by_a_plan_goes_its_old_way_or_its_new_one_or_nowhere((old, new) in change()) {
        let before = old.desired(&States::new());
        let afterwards = new.desired(&before);
        let trips = trips(&old, &before, &new, &afterwards);
        for changing in before.keys() {
            let way = plan(&afterwards[changing], &before[changing], DatapathConfig::default());
            let views = views(&before[changing], &way);
            for (position, (early, last)) in views.iter().enumerate() {
                let overtaken = BTreeSet::from([position, position + 1, position + 2, *last]);
                for later in overtaken.into_iter().filter(|later| later <= last) {
                    for others in [&before, &afterwards] {
                        let mut cluster = new.cluster(others);
                        let host = cluster.hosts.get_mut(changing).expect("every node is in the cluster");
                        (host.state, host.later) = (early, &views[later].0);
                        for trip in &trips {
                            let now = cluster.send(&sent(&trip.flow), &trip.memory).outcome;
                            // Whose way does not change does not notice. A way through another exit is another one, also if it
                            // ends the same: a gateway that has heard sooner no longer lets out of the old one what no policy of
                            // that exit names.
                            prop_assert!(
                                trip.before.is_dropped() || !trip.same_way || now == trip.before,
                                "{now:?}, come in at {position} and gone out at {later} of {changing}: {trip:?}\n{way}"
                            );
                            prop_assert!(
                                now.is_dropped() || now == trip.before || now == trip.at_last,
                                "{now:?}, come in at {position} and gone out at {later} of {changing}: {trip:?}\n{way}"
                            );
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn on_a_plans_way_a_packet_goes_its_old_way_or_its_new_one_or_nowhere((old, new) in change()) {
        let before = old.desired(&States::new());
        let afterwards = new.desired(&before);
        let trips = trips(&old, &before, &new, &afterwards);
        for changing in before.keys() {
            let way = plan(&afterwards[changing], &before[changing], DatapathConfig::default());
            for count in 0..=way.steps.len() {
                let halfway = after(&before[changing], &way, count);
                for (others, have) in [(&before, "not begun"), (&afterwards, "arrived")] {
                    let mut states = others.clone();
                    states.insert(changing.clone(), halfway.clone());
                    for trip in &trips {
                        let now = outcome(&new, &states, &trip.flow, &trip.memory);
                        prop_assert!(
                            now.is_dropped() || now == trip.before || now == trip.at_last,
                            "{now:?} after {count} steps of {changing} while the others have {have}: {trip:?}\n{way}"
                        );
                    }
                }
            }
        }
    }
}

/// A node's state as a packet finds it that looks things up while a transaction is committed: the rules are read by the
/// generation that the packet began with, and sets by the one that is current at each lookup (`nft_do_chain` and
/// `nft_genmask_cur`, net/netfilter). A chain that comes with the transaction is there for such a packet, and empty.
fn torn(before: &NodeState, after: &NodeState) -> NodeState {
    let mut state = before.clone();
    for (family, table) in &mut state.nft {
        let next = after.nft.get(family);
        for (name, set) in &mut table.sets {
            set.elements =
                next.and_then(|next| next.sets.get(name)).map(|set| set.elements.clone()).unwrap_or_default();
        }
        for (name, _) in next.into_iter().flat_map(|next| &next.chains).filter(|(_, chain)| chain.base.is_none()) {
            table.chains.entry(name.clone()).or_default();
        }
    }
    state
}

/// Every state of a node that is changed by a plan, with those between the generations of nftables; and for each the last one
/// that a packet may still meet on its way out which came in at this one: the plan waits until those in flight have passed.
fn views(state: &NodeState, way: &Plan) -> Vec<(NodeState, usize)> {
    let mut views = vec![state.clone()];
    let mut ends = Vec::new();
    for (count, step) in way.steps.iter().enumerate() {
        let next = after(state, way, count + 1);
        if *step == Step::RcuBarrier {
            ends.resize(views.len(), views.len() - 1);
        }
        if matches!(step, Step::Nft(_)) {
            views.push(torn(&after(state, way, count), &next));
        }
        views.push(next);
    }
    ends.resize(views.len(), views.len() - 1);
    views.into_iter().zip(ends).collect()
}

type Flow = (NodeName, IpAddr, IpAddr);

/// Flows of either world, between the addresses of both.
fn all_flows(old: &World, new: &World) -> Vec<Flow> {
    let mut all = BTreeSet::new();
    for world in [old, new] {
        for node in world.facts.nodes.keys() {
            all.extend(flows(world, node).into_iter().map(|(source, destination)| (node.clone(), source, destination)));
        }
    }
    all.into_iter().collect()
}

/// A connection's packet, and how it ends before anything changes and when all has.
#[derive(Debug)]
struct Trip {
    flow: Flow,
    memory: Memory,
    before: Outcome,
    at_last: Outcome,
    /// Through the same exit, if through any, and with the same end.
    same_way: bool,
}

/// How many connections are followed through one change, at most: there are some dozen states on the way, for each node.
const FOLLOWED: usize = 60;

/// New connections, and those that began in the old world. Those that are on their own way before and after are left out:
/// steering is all that could leak.
fn trips(old: &World, before: &States, new: &World, afterwards: &States) -> Vec<Trip> {
    let mut trips = Vec::new();
    for flow in all_flows(old, new) {
        let (node, source, destination) = &flow;
        let sent = Sent { node, source: *source, destination: *destination, reply: false };
        let begun = old.cluster(before).send(&sent, &Memory::new()).memory;
        for memory in [Memory::new(), begun] {
            let journey = |world: &World, states: &States| world.cluster(states).send(&sent, &memory);
            let (first, last) = (journey(old, before), journey(new, afterwards));
            let same_way = (&first.outcome, &first.exit) == (&last.outcome, &last.exit);
            let (before, at_last) = (first.outcome, last.outcome);
            if (&before, &at_last) != (&Outcome::Own, &Outcome::Own) {
                trips.push(Trip { flow: flow.clone(), memory, before, at_last, same_way });
            }
        }
    }
    let stride = trips.len().div_ceil(FOLLOWED).max(1);
    trips.into_iter().step_by(stride).collect()
}

fn sent((node, source, destination): &Flow) -> Sent<'_> {
    Sent { node, source: *source, destination: *destination, reply: false }
}

fn outcome(world: &World, states: &States, flow: &Flow, memory: &Memory) -> Outcome {
    world.cluster(states).send(&sent(flow), memory).outcome
}
