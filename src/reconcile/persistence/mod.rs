//! Persistence: the state store, and the lock that keeps a second process out of its network namespace.

pub mod lock;
pub mod state_file;
pub mod state_store;
