//! What an agent's Lease says: that it is alive, and what its node's kernel counts.
//!
//! Not here: the Lease itself (`cluster::live`), and what follows from silence (`reconcile::controller`).

use jiff::Timestamp;

use super::rates::ToldRates;

/// A heartbeat.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Heartbeat {
    /// When the Lease was renewed, by the node's clock.
    pub renewed: Option<Timestamp>,
    /// What the node's kernel counts, if its agent tells.
    pub rates: Option<ToldRates>,
}
