//! Reconcile: the loops that join the edges. Triggers in, one round at a time, bursts merged.
//!
//! `node` is the standalone process and the round that it shares with `agent`; `controller` publishes what Git asks for; `gitops` has the threads
//! that block on Git and forges; `persistence` is what outlives a process. No decision is made here: those are `core`'s.

pub mod agent;
pub mod controller;
pub mod gitops;
pub mod leadership;
pub mod node;
pub mod persistence;
pub mod process;

use jiff::Timestamp;

/// The time now.
pub fn now() -> Timestamp {
    Timestamp::now()
}
