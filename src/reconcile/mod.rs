//! Reconcile: the loop that joins the edges. Triggers in, one round at a time, bursts merged.
//!
//! `repository` and `publisher` are threads that own what blocks on Git; `round` is one pass from a look at the kernel to an
//! empty plan; `node` is the standalone process around it. Deliberately absent: every decision, which is `core`'s.

pub mod agent;
pub mod app;
mod blame;
pub mod controller;
pub mod following;
pub mod hook;
pub mod keeper;
pub mod leading;
pub mod lock;
pub mod marks;
pub mod memory;
pub mod node;
pub mod previewing;
pub mod process;
pub mod published;
pub mod publisher;
pub mod pulls;
pub mod repository;
pub mod round;
pub mod schedule;
pub mod teller;
pub mod telling;
