//! The effect of a move on its pods: whether packets still arrive, from which address, and what happens to open
//! connections.
//!
//! Not here: the wording (see `sentences`).

use std::collections::BTreeSet;

use super::revision::RevisionState;
use super::{Move, PreviewInput};
use crate::core::cidr::AddressRange;
use crate::core::compile::{Disposition, egress_address};
use crate::core::placement::ExitKey;
use crate::core::policy::{ExistingConnections, PolicyId};
use crate::core::state::nft::AddressFamily;

use super::named::leaves_as;

/// The effect of a move, the worst first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum MoveOutcome {
    /// Packets that arrive today will be dropped.
    Cut,
    /// Packets that leave through a gateway today will leave without one.
    Bare,
    /// Packets will, or may, come from another address.
    Address,
    /// The address stays the same; the gateway changes.
    Gateway,
    /// Packets that are dropped today will leave.
    Restored,
    /// Packets that are dropped today will still be dropped, for another reason.
    Nothing,
}

/// What happens to connections that are open when the change becomes active.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ConnectionFate {
    /// They are cut.
    Cut,
    /// They keep their path for as long as the removed exit is retained.
    Drained,
    /// They keep their path until they end.
    Kept,
}

/// The effect of a move.
pub(super) fn of(input: &PreviewInput<'_>, one: &Move) -> MoveOutcome {
    let dropped = |way: &Disposition| is_dropped(input, way, &one.towards);
    match (&one.from, &one.to) {
        (from, to) if dropped(to) => {
            if dropped(from) {
                MoveOutcome::Nothing
            } else {
                MoveOutcome::Cut
            }
        }
        (from, _) if dropped(from) => MoveOutcome::Restored,
        (Disposition::Exit(_), Disposition::Own) => MoveOutcome::Bare,
        (Disposition::Exit(old), Disposition::Exit(new)) if same_address(input, old, new, &one.towards) => {
            MoveOutcome::Gateway
        }
        _ => MoveOutcome::Address,
    }
}

/// Whether packets with this disposition are dropped.
fn is_dropped(input: &PreviewInput<'_>, way: &Disposition, towards: &[AddressRange]) -> bool {
    match way {
        Disposition::Drop => true,
        Disposition::Own => false,
        Disposition::Exit(exit) => has_no_address(input, exit, towards),
    }
}

/// Whether an exit is known to have no address for any of these destinations: its gateway drops packets to them.
pub(super) fn has_no_address(input: &PreviewInput<'_>, exit: &ExitKey, towards: &[AddressRange]) -> bool {
    input.host_networks.get(&exit.gateway).is_some_and(|host_network| {
        // An exit that does not use a family has no address of that family either.
        let address = |range: &AddressRange| egress_address(exit, AddressFamily::of(range.first()), host_network);
        !towards.iter().any(|range| matches!(address(range), Ok(Some(_))))
    })
}

/// Whether two exits are known to have the same address.
pub(super) fn same_address(input: &PreviewInput<'_>, one: &ExitKey, other: &ExitKey, towards: &[AddressRange]) -> bool {
    let known = |exit: &ExitKey| input.host_networks.contains_key(&exit.gateway) || exit.egress.is_named();
    known(one) && known(other) && leaves_as(input, one, towards) == leaves_as(input, other, towards)
}

/// What happens to the open connections of each move; agents do the same, see `core::placement::handover`.
pub(super) fn fates(before: &RevisionState<'_>, after: &RevisionState<'_>, moves: &[Move]) -> Vec<ConnectionFate> {
    let keeps = |id: &PolicyId| {
        after.placement.policies.contains_key(id)
            && after.set.policies.get(id).is_some_and(|policy| policy.existing_connections == ExistingConnections::Keep)
    };
    let carried = before.placement.policies.iter().filter(|(id, _)| keeps(id));
    let kept: BTreeSet<&ExitKey> = carried.flat_map(|(_, placed)| &placed.exits).collect();
    let fate = |one: &Move| match &one.from {
        _ if one.reset => ConnectionFate::Cut,
        // Egret leaves a connection without an exit alone until it ends; a dropped one is not open.
        Disposition::Own | Disposition::Drop => ConnectionFate::Kept,
        Disposition::Exit(exit) if after.placement.exits.contains_key(exit) => ConnectionFate::Kept,
        Disposition::Exit(exit) => {
            let alive = after.facts.nodes.get(&exit.gateway).is_some_and(|node| node.ready);
            if alive && kept.contains(exit) { ConnectionFate::Drained } else { ConnectionFate::Cut }
        }
    };
    moves.iter().map(fate).collect()
}
