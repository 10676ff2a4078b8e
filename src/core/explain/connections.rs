//! The open connections of a pod to a destination, as kernels on the way track them, and which of them are older than what is decided.
//!
//! Not here: reading connection tracking (`kernel`).

use super::answer::ConnectionAnswer;
use super::{OpenConnection, Verdict};
use crate::core::name::NodeName;

/// The connections that one node answered with. `verdict`: what becomes of new ones.
pub fn connections_told(node: &NodeName, connections: &[ConnectionAnswer], verdict: &Verdict) -> Vec<OpenConnection> {
    let all = connections.iter();
    all.map(|one| OpenConnection {
        node: node.clone(),
        replies_to: one.replies_to,
        answered: one.answered,
        exit: one.exit.clone(),
        older: is_older(node, one, verdict),
    })
    .collect()
}

/// Whether a new connection would take another way.
fn is_older(node: &NodeName, one: &ConnectionAnswer, verdict: &Verdict) -> bool {
    let new = match verdict.decided() {
        Verdict::Leaves { gateway, address, .. } => Some((gateway, Some(*address))),
        Verdict::AddressUnknown { exit } => Some((&exit.gateway, None)),
        _ => None,
    };
    match (new, &one.gateway) {
        (None, exit) => exit.is_some(),
        (Some(_), None) => true,
        // Behind the tunnel the gateway translates: only its own node sees the address.
        (Some((gateway, address)), Some(through)) => {
            let own = gateway == node && address.is_some_and(|address| address != one.replies_to);
            through != gateway.as_str() || own
        }
    }
}
