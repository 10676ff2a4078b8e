//! The outpost scenario of DESIGN §1 with the real program, real packets and a real repository.
//!
//! `stand` is the scenario applied; every other module is one subject of what it must stand up to. Each test has a lab of its own, so they
//! run side by side. What is only measured (seconds from a push, milliseconds of a repair) is printed and never asserted.
//! Deliberately absent: what the lab does by itself (`lab_alone`).

mod addresses;
mod asserted;
mod assign;
mod bgp;
mod bundle;
mod claims;
mod connections;
mod conntrack;
mod crashes;
mod drift;
mod existing;
mod exits;
mod explained;
mod facts;
mod failover;
mod listing;
mod load;
mod marks;
mod metrics;
mod mistakes;
mod neighbours;
mod oracle;
mod page;
mod plans;
mod pods;
mod pools;
mod ports;
mod record;
mod removals;
mod reports;
mod settings;
mod signatures;
mod soak;
mod stand;
mod state;
mod stranger;
mod tested;
mod windows;
