//! Persistence: the state store, the files of the NAT record, and the lock that keeps a second process out of its network namespace.

pub mod lock;
pub mod record_files;
pub mod state_file;
pub mod state_store;
