//! Reconcile: the loop that joins the edges. Triggers in, one round at a time, bursts merged.
//!
//! `repository` and `publisher` are threads that own what blocks on Git; `round` is one pass from a look at the kernel to an
//! empty plan; `node` is the standalone process around it. Deliberately absent: every decision, which is `core`'s.

pub mod agent;
pub mod app;
mod attribution;
pub mod controller;
pub mod leadership;
pub mod lock;
pub mod mark_mask;
pub mod metrics_recorder;
pub mod node;
pub mod policy_cache;
pub mod preview;
pub mod process;
pub mod publisher;
pub mod pulls;
pub mod repository;
pub mod round;
pub mod round_driver;
pub mod schedule;
pub mod state_store;
pub mod status_writer;
pub mod tracked_repository;
pub mod webhook;
