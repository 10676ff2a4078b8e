//! The reconcile loops, which join the edges: triggers come in, bursts are merged, and one round runs at a time.
//!
//! `node` is the standalone process and the round that it shares with `agent`; `controller` publishes what Git asks
//! for; `gitops` has the threads that block on Git and forges; `persistence` is the state that outlives a process.
//! All decisions are in `core`.

pub mod agent;
pub mod controller;
mod fault_log;
pub mod gitops;
pub mod leadership;
pub mod node;
pub mod persistence;
pub mod process;
pub mod published_state;
