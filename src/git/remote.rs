//! The repository at a source: list its references, fetch, push. A path on this machine is opened directly (`local`), everything else
//! goes through a worker process (`supervisor`).
//!
//! libgit2's own transport for local paths is not used: it fetches every branch whatever was asked for, and its push overwrites
//! what others pushed in the meantime (`local_push_update_remote_ref` in libgit2's transports/local.c).

use git2::Repository;

use super::access::Access;
use super::error::{Error, Result};
use super::exchange::{PushOutcome, PushRequest, RemoteRefs, SelectRefs};
use super::source::Source;
use super::{local, supervisor};

/// The repository at a source.
pub(super) struct Remote<'a> {
    pub(super) source: &'a Source,
    pub(super) access: &'a Access,
    /// The mirror is the repository itself: there is nothing to fetch.
    pub(super) in_place: bool,
}

impl Remote<'_> {
    /// Lists the references, then fetches those that `select` returns into `mirror`, over the same connection.
    pub(super) fn fetch(&self, mirror: &Repository, select: &mut SelectRefs<'_>) -> Result<RemoteRefs> {
        match self.source.is_local() {
            Some(_) if self.in_place => local::list_in_place(mirror, self.source),
            Some(path) => local::fetch(path, self.source, mirror, select),
            None => match supervisor::fetch(self.source, self.access, mirror, select) {
                Err(Error::Unreachable { source, .. }) if self.access.limits.depth > 0 && lacks_shallow(&source) => {
                    let mut access = self.access.clone();
                    access.limits.depth = 0;
                    supervisor::fetch(self.source, &access, mirror, select)
                }
                fetched => fetched,
            },
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

/// Whether a server cannot leave history out. libgit2 has no code for it.
fn lacks_shallow(error: &git2::Error) -> bool {
    error.message().contains("support shallow")
}
