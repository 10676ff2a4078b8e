//! Applies a step to a state held as a value, for previews and property tests.
//!
//! It models the kernel's own side effects: routes, neighbours and ingress chains are deleted with their device.

use super::super::compile::RP_FILTER_BEFORE;
use super::super::state::NodeState;
use super::super::state::net::Route;
use super::super::state::nft::{Chain, Hook, NftChange, Table};
use super::Step;

/// Applies one step.
pub fn apply(step: &Step, state: &mut NodeState) {
    match step {
        Step::SetLabel(key, value, _) => {
            state.labels.insert(key.clone(), value.clone());
        }
        Step::RemoveLabel(key, _) => {
            state.labels.remove(key);
        }
        Step::AddLink(name, link) | Step::ChangeLink(name, link) => {
            state.links.insert(name.clone(), link.clone());
        }
        Step::DeleteLink(name) => delete_link(name, state),
        Step::AddAddress(address) => {
            state.addresses.insert(address.clone());
        }
        Step::DeleteAddress(address) => {
            state.addresses.remove(address);
        }
        Step::SetSysctl(sysctl, value, _) => {
            state.sysctls.insert(sysctl.clone(), value.clone());
        }
        Step::SetNeighbour(neighbour) => {
            state.neighbours.retain(|old| old.link != neighbour.link || old.address != neighbour.address);
            state.neighbours.insert(neighbour.clone());
        }
        Step::DeleteNeighbour(neighbour) => {
            state.neighbours.remove(neighbour);
        }
        Step::SetRoute(key, route, _) => {
            state.routes.insert(key.clone(), route.clone());
        }
        Step::DeleteRoute(key, _) => {
            state.routes.remove(key);
        }
        Step::AddRule(rule) => {
            state.rules.insert(rule.clone());
        }
        Step::DeleteRule(rule) => {
            state.rules.remove(rule);
        }
        Step::FlushConntrack { .. }
        | Step::FlushTranslated { .. }
        | Step::FlushSources(_)
        | Step::Notice
        | Step::RcuBarrier => {}
        Step::Nft(transaction) => {
            for (family, change) in &transaction.changes {
                match change {
                    NftChange::DeleteTable => {
                        state.nft.remove(family);
                    }
                    NftChange::AddTable { owned } => {
                        let table = state.nft.entry(*family).or_default();
                        (table.owned, table.abandoned) = (*owned, false);
                    }
                    other => change_table(other, state.nft.entry(*family).or_default()),
                }
            }
            forget_restored_settings(state);
        }
    }
}

fn delete_link(name: &str, state: &mut NodeState) {
    state.links.remove(name);
    state.addresses.retain(|address| address.link != name);
    state.neighbours.retain(|neighbour| neighbour.link != name);
    state.sysctls.retain(|sysctl, _| sysctl.link != name);
    state.routes.retain(|_, route| !matches!(route, Route::Via { link, .. } | Route::Local { link } if link == name));
    for table in state.nft.values_mut() {
        table.chains.retain(|_, chain| {
            !chain.base.as_ref().is_some_and(|base| matches!(&base.hook, Hook::Ingress(device) if device == name))
        });
    }
}

fn change_table(change: &NftChange, table: &mut Table) {
    match change {
        NftChange::AddSet(name, set) => {
            table.sets.insert(name.clone(), set.clone());
        }
        NftChange::DeleteSet(name) => {
            table.sets.remove(name);
        }
        NftChange::AddChain(name, base, comment) => {
            let chain = Chain { base: base.clone(), comment: comment.clone(), rules: Vec::new() };
            table.chains.insert(name.clone(), chain);
        }
        NftChange::DeleteChain(name) => {
            table.chains.remove(name);
        }
        NftChange::FlushChain(name) => {
            if let Some(chain) = table.chains.get_mut(name) {
                chain.rules.clear();
            }
        }
        NftChange::AddRule(name, rule) => {
            if let Some(chain) = table.chains.get_mut(name) {
                chain.rules.push(rule.clone());
            }
        }
        NftChange::AddElements(name, elements) => {
            if let Some(set) = table.sets.get_mut(name) {
                set.elements.extend(elements.iter().cloned());
            }
        }
        NftChange::DeleteElements(name, elements) => {
            if let Some(set) = table.sets.get_mut(name) {
                for (key, _) in elements {
                    set.elements.remove(key);
                }
            }
        }
        NftChange::AddTable { .. } | NftChange::DeleteTable => {}
    }
}

/// A sysctl of a foreign interface is observed only while our table records it.
fn forget_restored_settings(state: &mut NodeState) {
    let remembered: Vec<String> = state
        .nft
        .values()
        .filter_map(|table| table.sets.get(RP_FILTER_BEFORE))
        .flat_map(|set| set.elements.keys().map(ToString::to_string))
        .map(|name| name.trim_matches('"').to_owned())
        .collect();
    let links = &state.links;
    state.sysctls.retain(|sysctl, _| links.contains_key(&sysctl.link) || remembered.contains(&sysctl.link));
}
