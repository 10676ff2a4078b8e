//! What an agent's Lease says: that it is alive, and what its node's kernel counts.
//!
//! Not here: the Lease itself (`cluster::live`), and what follows from silence (`reconcile::controller`).

use jiff::Timestamp;

use super::rates::ReportedRates;

/// A heartbeat.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Heartbeat {
    /// When the Lease was renewed, by the node's clock.
    pub renewed: Option<Timestamp>,
    /// What the node's kernel counts, if its agent reports it.
    pub rates: Option<ReportedRates>,
}
