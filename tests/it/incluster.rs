//! Egret in a cluster: the controller and the agents as real processes against a double of the API server, with real packets.
//!
//! Deliberately absent: a real API server, which `make test-cluster` has.

mod addresses;
mod answered;
mod asserted;
pub(crate) mod bundle;
mod conditions;
mod dashboard;
mod explained;
mod faults;
mod forwarding;
mod labels;
mod metrics;
mod page;
mod pods;
mod pools;
mod removal;
mod reports;
mod signatures;
mod stand;
mod startup;
mod state;
mod strangers;
mod way;
mod windows;
