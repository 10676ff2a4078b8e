//! Git: a bare mirror of the policy repository, read at a commit, and the branch that drift reports are pushed to.
//!
//! The only user of git2. Its functions block, because libgit2 does: a thread of its own calls them for each mirror (`reconcile`), and
//! a [`mirror::Mirror`] is used by one thread at a time.
//!
//! Everything on the network runs in a worker process with a deadline (decision 0011): `supervisor` starts it, `worker` and
//! `smart_protocol` run in it, `worker_protocol` is what they exchange. libgit2 itself has neither TLS nor SSH:
//! `http_relay` and `ssh_relay` connect it to Egret's own clients (decisions 0014 and 0022). There is no work tree, and the `git` program is never run.

pub mod access;
pub mod commit;
pub mod compact;
mod comparison;
pub mod credential_provider;
pub mod credentials;
pub mod error;
mod exchange;
pub mod files;
mod http_relay;
mod key_file;
pub mod known_hosts;
mod local;
mod loopback;
pub mod mirror;
pub mod object_limits;
pub mod publish;
pub mod pull_requests;
mod remote;
pub mod revision;
pub mod signature;
pub mod signing;
mod smart_http;
mod smart_protocol;
pub mod source;
mod ssh_relay;
mod supervisor;
pub mod transport_error;
mod tree;
pub mod worker;
mod worker_protocol;

pub use commit::{CommitId, CommitInfo};
pub use error::{Error, ErrorKind, Result, TokenError};
