//! What a change of way comes to for those it concerns: whether packets still arrive, from which address they come, and what becomes of
//! connections that are open.
//!
//! Deliberately absent: the words for it (`words`).

use super::revision::RevisionState;
use super::{Move, PreviewInput};
use crate::core::cidr::AddressRange;
use crate::core::compile::{Disposition, egress_address};
use crate::core::placement::ExitKey;
use crate::core::policy::{ExistingConnections, PolicyId};
use crate::core::state::nft::AddressFamily;

use super::named::leaves_as;

/// What a change of way comes to, the worst first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum MoveOutcome {
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
pub enum ConnectionFate {
    /// They are cut.
    Cut,
    /// They keep their way for as long as an exit that was left is kept.
    Drained,
    /// They keep their way until they end.
    Kept,
}

/// What a move comes to.
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

/// Whether packets that go this way are dropped.
fn is_dropped(input: &PreviewInput<'_>, way: &Disposition, towards: &[AddressRange]) -> bool {
    match way {
        Disposition::Drop => true,
        Disposition::Own => false,
        Disposition::Exit(exit) => has_no_address(input, exit, towards),
    }
}

/// Whether an exit is known to have no address for any of these destinations: its gateway drops what would leave there.
pub(super) fn has_no_address(input: &PreviewInput<'_>, exit: &ExitKey, towards: &[AddressRange]) -> bool {
    input.host_networks.get(&exit.gateway).is_some_and(|host_network| {
        // An exit that does not use a family has no address of it, either.
        let address = |range: &AddressRange| egress_address(exit, AddressFamily::of(range.first()), host_network);
        !towards.iter().any(|range| matches!(address(range), Ok(Some(_))))
    })
}

/// Whether two exits are known to have the same address.
pub(super) fn same_address(input: &PreviewInput<'_>, one: &ExitKey, other: &ExitKey, towards: &[AddressRange]) -> bool {
    let known = |exit: &ExitKey| {
        input.host_networks.contains_key(&exit.gateway)
            || matches!(exit.egress, crate::core::policy::Egress::Address(_))
    };
    known(one) && known(other) && leaves_as(input, one, towards) == leaves_as(input, other, towards)
}

/// What becomes of open connections of each move: as agents do it, see `core::placement::handover`.
pub(super) fn fates(before: &RevisionState<'_>, after: &RevisionState<'_>, moves: &[Move]) -> Vec<ConnectionFate> {
    let keeps = |id: &PolicyId| {
        after.placement.policies.contains_key(id)
            && after.set.policies.get(id).is_some_and(|policy| policy.existing_connections == ExistingConnections::Keep)
    };
    let fate = |one: &Move| match &one.from {
        _ if one.reset => ConnectionFate::Cut,
        // A connection without an exit is none of Egret's until it ends; one that is dropped is not open.
        Disposition::Own | Disposition::Drop => ConnectionFate::Kept,
        Disposition::Exit(exit) if after.placement.exits.contains_key(exit) => ConnectionFate::Kept,
        Disposition::Exit(exit) => {
            let carried = before.placement.policies.iter().filter(|(_, placed)| placed.exits.contains(exit));
            let alive = after.facts.nodes.get(&exit.gateway).is_some_and(|node| node.ready);
            if alive && carried.map(|(id, _)| id).any(keeps) { ConnectionFate::Drained } else { ConnectionFate::Cut }
        }
    };
    moves.iter().map(fate).collect()
}
