//! What a change of way comes to for those it concerns: whether packets still arrive, from which address they come, and what becomes of
//! connections that are open.
//!
//! Deliberately absent: the words for it (`words`).

use super::world::World;
use super::{Input, Move};
use crate::core::cidr::Range;
use crate::core::compile::{Way, egress_address};
use crate::core::placement::ExitKey;
use crate::core::policy::{ExistingConnections, PolicyId};
use crate::core::state::nft::AddressFamily;

use super::words::leaves_as;

/// What a change of way comes to, the worst first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// Packets that arrive today are dropped.
    Cut,
    /// Packets that leave through a gateway today leave without one.
    Bare,
    /// Packets come from another address, or may.
    Address,
    /// The address stays; the gateway does not.
    Gateway,
    /// Packets that are dropped today get out.
    Restored,
    /// Packets that are dropped today are dropped still, for another reason.
    Nothing,
}

/// What becomes of connections that are open when the change comes into force.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fate {
    /// They are cut.
    Cut,
    /// They keep their way for as long as an exit that was left is kept.
    Drained,
    /// They keep their way until they end.
    Kept,
}

/// What a move comes to.
pub(super) fn of(input: &Input<'_>, one: &Move) -> Outcome {
    let dropped = |way: &Way| is_dropped(input, way, &one.towards);
    match (&one.from, &one.to) {
        (from, to) if dropped(to) => {
            if dropped(from) {
                Outcome::Nothing
            } else {
                Outcome::Cut
            }
        }
        (from, _) if dropped(from) => Outcome::Restored,
        (Way::Exit(_), Way::Own) => Outcome::Bare,
        (Way::Exit(old), Way::Exit(new)) if same_address(input, old, new, &one.towards) => Outcome::Gateway,
        _ => Outcome::Address,
    }
}

/// Whether packets that go this way are dropped.
fn is_dropped(input: &Input<'_>, way: &Way, towards: &[Range]) -> bool {
    match way {
        Way::Drop => true,
        Way::Own => false,
        Way::Exit(exit) => has_no_address(input, exit, towards),
    }
}

/// Whether an exit is known to have no address for any of these destinations: its gateway drops what would leave there.
pub(super) fn has_no_address(input: &Input<'_>, exit: &ExitKey, towards: &[Range]) -> bool {
    input.grounds.get(&exit.gateway).is_some_and(|ground| {
        towards.iter().all(|range| egress_address(exit, AddressFamily::of(range.first()), ground).is_err())
    })
}

/// Whether two exits are known to have the same address.
pub(super) fn same_address(input: &Input<'_>, one: &ExitKey, other: &ExitKey, towards: &[Range]) -> bool {
    let known = |exit: &ExitKey| {
        input.grounds.contains_key(&exit.gateway) || matches!(exit.egress, crate::core::policy::Egress::Address(_))
    };
    known(one) && known(other) && leaves_as(input, one, towards) == leaves_as(input, other, towards)
}

/// What becomes of open connections of each move: as agents do it, see `core::placement::handover`.
pub(super) fn fates(before: &World<'_>, after: &World<'_>, moves: &[Move]) -> Vec<Fate> {
    let keeps = |id: &PolicyId| {
        after.placement.policies.contains_key(id)
            && after.set.policies.get(id).is_some_and(|policy| policy.existing_connections == ExistingConnections::Keep)
    };
    let fate = |one: &Move| match &one.from {
        _ if one.reset => Fate::Cut,
        // A connection without an exit is none of Egret's until it ends; one that is dropped is not open.
        Way::Own | Way::Drop => Fate::Kept,
        Way::Exit(exit) if after.placement.exits.contains_key(exit) => Fate::Kept,
        Way::Exit(exit) => {
            let carried = before.placement.policies.iter().filter(|(_, placed)| placed.exits.contains(exit));
            let alive = after.facts.nodes.get(&exit.gateway).is_some_and(|node| node.ready);
            if alive && carried.map(|(id, _)| id).any(keeps) { Fate::Drained } else { Fate::Cut }
        }
    };
    moves.iter().map(fate).collect()
}
