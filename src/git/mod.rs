//! The Git edge: a bare mirror of the policy repository, read at a commit, and the branch that drift reports go to.
//!
//! The only place of git2. It is blocking on purpose, because libgit2 is: the loop calls it from `spawn_blocking`.
//! A [`mirror::Mirror`] is `Send`, and one thread at a time works with it.
//!
//! Deliberately absent: a work tree, the `git` program, and what the files mean (`core::policy`). Timeouts too: libgit2
//! has them, but git2 offers them as `unsafe` functions only, and this package forbids those. The loop bounds each call
//! from outside: a thread that hangs in a dead connection is left behind, and a new `Mirror` is opened on the same folder.

pub mod commit;
mod compare;
pub mod credentials;
mod digest;
pub mod error;
pub mod files;
pub mod known_hosts;
mod local;
pub mod mirror;
pub mod publish;
mod remote;
pub mod revision;
mod smart;
pub mod source;
mod tree;

pub use commit::{CommitId, CommitInfo};
pub use error::{Error, Fate, Result};
