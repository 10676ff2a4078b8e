//! Detours: where packets of an exit go while its gateway does not answer probes.
//!
//! Each source decides alone, from its own probes ([`crate::core::liveness`]): they take the very path of its packets, so that two
//! sources may rightly see different things. A detour changes one route of the source, so that packets of all connections of the
//! exit take it. Not here: the choice of gateways and standbys (`placement`), and the route itself (`compile::routing`).

use std::collections::BTreeMap;

use super::liveness::{LivenessView, PathState};
use super::name::NodeName;
use super::placement::{ExitKey, Placement};
use super::state::nft::AddressFamily;

/// The exit that stands in for another, by family.
pub type Detours = BTreeMap<(ExitKey, AddressFamily), ExitKey>;

/// The detours that apply now. `before`: those in the kernel, for exits of which nothing is known yet.
///
/// An exit that does not answer is replaced by the first of its standbys that answers. Without such a standby nothing changes: the
/// exit may yet answer, and no other gateway would do better. An exit that no policy is placed on any more keeps its detour, for the
/// connections that began on it, as long as that answers.
pub fn decide(placement: &Placement, own: &NodeName, view: &LivenessView, before: &Detours) -> Detours {
    let mut detours = Detours::new();
    for (exit, mut standbys) in placement.standbys() {
        // An exit of this node without a way out is no reason to use another address of this node.
        if exit.gateway == *own {
            standbys.retain(|standby| standby.gateway != *own);
        }
        for family in AddressFamily::BOTH {
            let key = (exit.clone(), family);
            let kept = before.get(&key).filter(|to| standbys.contains(to));
            let answers = |to: &&ExitKey| view.of(to, family).answers();
            let to = match view.of(exit, family) {
                PathState::Answering => None,
                // Where a standby answers for the address, it is there, and the exit will not answer. That this node has the address, too,
                // says nothing of the other.
                PathState::Unknown => kept.or_else(|| {
                    let named = exit.egress.is_named();
                    let same = |to: &&&ExitKey| named && to.egress == exit.egress && to.gateway != *own;
                    let answers = |to: &&ExitKey| view.of(to, family) == PathState::Answering;
                    standbys.iter().filter(same).copied().find(answers)
                }),
                // What works stays, whatever is preferred: every change costs connections.
                PathState::Recovering => kept.filter(answers),
                PathState::Silent => {
                    let best = || standbys.iter().copied().find(|to| view.of(to, family) == PathState::Answering);
                    kept.filter(answers).or_else(best).or_else(|| standbys.iter().copied().find(answers))
                }
            };
            detours.extend(to.cloned().map(|to| (key, to)));
        }
    }
    for (exit, to) in moved(placement, own) {
        for family in AddressFamily::BOTH {
            let silent = view.of(exit, family) == PathState::Silent;
            if silent && view.of(to, family).answers() {
                detours.entry((exit.clone(), family)).or_insert_with(|| to.clone());
            }
        }
    }
    for (key, to) in before {
        if placement.left.contains_key(&key.0)
            && placement.exits.contains_key(to)
            && view.of(&key.0, key.1) != PathState::Answering
            && view.of(to, key.1) != PathState::Silent
        {
            detours.entry(key.clone()).or_insert_with(|| to.clone());
        }
    }
    detours
}

/// Exits that were left, with those that have the same address now: where an address has moved, its connections can only go on there.
fn moved<'p>(placement: &'p Placement, own: &NodeName) -> Vec<(&'p ExitKey, &'p ExitKey)> {
    let stays = |exit: &ExitKey| !placement.left.contains_key(exit) && exit.gateway != *own;
    let mut moved = Vec::new();
    for left in placement.left.keys().filter(|left| left.egress.is_named()) {
        let same = placement.exits.keys().filter(|exit| exit.egress == left.egress && stays(exit));
        moved.extend(same.map(|to| (left, to)));
    }
    moved
}

#[cfg(test)]
mod tests;
