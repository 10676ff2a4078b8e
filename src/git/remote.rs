//! The repository at a source: list its references, fetch, push. A path on this machine is opened directly (`local`), everything else
//! goes through a worker process (`supervisor`).
//!
//! libgit2's own transport for local paths is not used: it fetches every branch whatever was asked for, and its push overwrites
//! what others pushed in the meantime (`local_push_update_remote_ref` in libgit2's transports/local.c).

use git2::Repository;

use super::access::Access;
use super::error::Result;
use super::exchange::{PushOutcome, PushRequest, RemoteRefs, SelectRefs};
use super::source::Source;
use super::{local, supervisor};

/// The repository at a source.
pub(super) struct Remote<'a> {
    pub(super) source: &'a Source,
    pub(super) access: &'a Access,
}

impl Remote<'_> {
    /// Lists the references, then fetches those that `select` returns into `mirror`, over the same connection.
    pub(super) fn fetch(&self, mirror: &Repository, select: &mut SelectRefs<'_>) -> Result<RemoteRefs> {
        match self.source.is_local() {
            Some(path) => local::fetch(path, self.source, mirror, select),
            None => supervisor::fetch(self.source, self.access, mirror, select),
        }
    }

    /// Moves a reference if it is still where it is expected (compare-and-swap), and never otherwise.
    pub(super) fn push(&self, mirror: &Repository, request: &PushRequest<'_>) -> Result<PushOutcome> {
        match self.source.is_local() {
            Some(path) => local::push(path, self.source, mirror, request),
            None => supervisor::push(self.source, self.access, mirror, request),
        }
    }
}
