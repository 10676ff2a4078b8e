//! The Git edge: a bare mirror of the policy repository, read at a commit, and the branch that drift reports go to.
//!
//! The only place of git2. It is blocking on purpose, because libgit2 is: the loop calls it from `spawn_blocking`.
//! A [`mirror::Mirror`] is `Send`, and one thread at a time works with it.
//!
//! What goes over the network runs in a process of its own, with a deadline: `overseer` here, `worker` and `smart` there,
//! `wire` between them. HTTPS is Egret's own client: `relay` stands between it and libgit2 (decision 0014). Deliberately absent: a work tree, the `git` program, and what the files mean (`core::policy`).

pub mod access;
pub mod commit;
pub mod compact;
mod compare;
pub mod credentials;
mod digest;
mod errand;
pub mod error;
pub mod files;
mod key_file;
pub mod known_hosts;
mod local;
pub mod mirror;
mod overseer;
pub mod publish;
pub mod pulls;
mod relay;
mod remote;
pub mod revision;
pub mod signature;
pub mod signing;
pub mod sizes;
mod smart;
pub mod source;
pub mod tokens;
mod tree;
pub mod trouble;
mod wire;
pub mod worker;

pub use commit::{CommitId, CommitInfo};
pub use error::{Error, Fate, Result};
