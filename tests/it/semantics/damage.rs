//! What somebody with root may do to our objects: take one away, change one, add one of the same kind.
//!
//! Deliberately absent: objects that are not ours, which observation never shows.

use std::collections::{BTreeMap, BTreeSet};

use egret::core::plan::{Step, simulate};
use egret::core::state::NodeState;
use egret::core::state::net::{Mac, Route};
use egret::core::state::nft::{ChainPolicy, NftRule, NftTransaction, Statement, Verdict};
use proptest::prelude::*;

/// One act: what is done to the object with this number among those of its kind.
#[derive(Debug, Clone)]
pub(crate) struct Damage {
    kind: u8,
    position: usize,
    act: Act,
}

#[derive(Debug, Clone, Copy)]
enum Act {
    Remove,
    Change,
    /// Take over what another world has of that kind.
    Add,
}

impl Damage {
    /// Any damage.
    pub(crate) fn any() -> impl Strategy<Value = Self> {
        let acts = proptest::sample::select(&[Act::Remove, Act::Change, Act::Add][..]);
        (0_u8..9, any::<usize>(), acts).prop_map(|(kind, position, act)| Self { kind, position, act })
    }
}

/// Does it; `elsewhere` is a state to take foreign objects from.
pub(crate) fn damage(state: &mut NodeState, elsewhere: &NodeState, damage: &Damage) {
    let Damage { kind, position, act } = damage;
    match kind {
        0 => links(state, *position, *act),
        1 => map(&mut state.routes, &elsewhere.routes, *position, *act, |route| *route = Route::Unreachable),
        2 => set(&mut state.rules, &elsewhere.rules, *position, *act, |rule| rule.table += 1),
        3 => {
            set(&mut state.neighbours, &elsewhere.neighbours, *position, *act, |one| one.mac = Mac([2, 0, 0, 9, 9, 9]));
        }
        4 => set(&mut state.addresses, &elsewhere.addresses, *position, *act, |_| {}),
        5 => chains(state, elsewhere, *position, *act),
        6 => elements(state, elsewhere, *position, *act),
        7 => map(&mut state.nft, &elsewhere.nft, *position, *act, |table| table.owned = !table.owned),
        _ => map(&mut state.labels, &elsewhere.labels, *position, *act, |value| value.push('x')),
    }
    // A next hop has one hardware address.
    let mut hops = BTreeSet::new();
    state.neighbours.retain(|neighbour| hops.insert((neighbour.link.clone(), neighbour.address)));
    // Settings of others' interfaces are observed only while our table remembers them; any transaction sees to that.
    simulate::apply(&Step::Nft(NftTransaction { changes: Vec::new() }), state);
}

/// A device takes what hangs on it with it, as the kernel does.
fn links(state: &mut NodeState, position: usize, act: Act) {
    let Some(name) = pick(state.links.keys(), position).cloned() else { return };
    match act {
        Act::Remove => simulate::apply(&Step::DeleteLink(name), state),
        Act::Change if position.is_multiple_of(2) => state.links.values_mut().for_each(|link| link.mtu = 1280),
        Act::Change => state.links.values_mut().for_each(|link| link.port += 1),
        Act::Add => {
            let another = state.links[&name].clone();
            state.links.insert("egret9".to_owned(), another);
        }
    }
}

fn chains(state: &mut NodeState, elsewhere: &NodeState, position: usize, act: Act) {
    for (family, table) in &mut state.nft {
        let Some(others) = elsewhere.nft.get(family) else { continue };
        map(&mut table.chains, &others.chains, position, act, |chain| match position % 3 {
            0 => chain.rules.push(NftRule(vec![Statement::Verdict(Verdict::Drop)])),
            1 => chain.rules.insert(0, NftRule(vec![Statement::Unknown("a match of another program".to_owned())])),
            _ => chain.base.iter_mut().for_each(|base| base.policy = ChainPolicy::Drop),
        });
    }
}

fn elements(state: &mut NodeState, elsewhere: &NodeState, position: usize, act: Act) {
    for (family, table) in &mut state.nft {
        let Some(name) = pick(table.sets.keys(), position).cloned() else { continue };
        let Some(set) = table.sets.get_mut(&name) else { continue };
        let others = elsewhere.nft.get(family).and_then(|table| table.sets.get(&name));
        let none = BTreeMap::new();
        let others = others.map_or(&none, |set| &set.elements);
        map(&mut set.elements, others, position / 7, act, |_| {});
    }
}

fn pick<'a, T>(mut all: impl ExactSizeIterator<Item = &'a T>, position: usize) -> Option<&'a T> {
    let count = all.len();
    if count == 0 { None } else { all.nth(position % count) }
}

fn map<K: Ord + Clone, V: Clone>(
    own: &mut BTreeMap<K, V>,
    others: &BTreeMap<K, V>,
    position: usize,
    act: Act,
    change: impl Fn(&mut V),
) {
    match act {
        Act::Remove | Act::Change => {
            let Some(key) = pick(own.keys(), position).cloned() else { return };
            match act {
                Act::Remove => drop(own.remove(&key)),
                _ => own.get_mut(&key).into_iter().for_each(change),
            }
        }
        Act::Add => {
            let Some(key) = pick(others.keys(), position) else { return };
            own.insert(key.clone(), others[key].clone());
        }
    }
}

fn set<T: Ord + Clone>(
    own: &mut BTreeSet<T>,
    others: &BTreeSet<T>,
    position: usize,
    act: Act,
    change: impl Fn(&mut T),
) {
    let from = if matches!(act, Act::Add) { others } else { &*own };
    let Some(mut chosen) = pick(from.iter(), position).cloned() else { return };
    if !matches!(act, Act::Add) {
        own.remove(&chosen);
    }
    if matches!(act, Act::Change) {
        change(&mut chosen);
    }
    if !matches!(act, Act::Remove) {
        own.insert(chosen);
    }
}
