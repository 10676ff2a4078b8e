//! Talking to the repository at a source: what it has, fetching, pushing. Two ways that look the same to the rest.
//!
//! libgit2 has a transport for local paths too, and it is not used: it fetches every branch of the repository, however
//! little was asked for, and its push overwrites whatever somebody else pushed in the meantime (`local_push_update_remote_ref`
//! in libgit2's transports/local.c). Deliberately absent: deciding what to fetch or push (`mirror`, `publish`).

use std::collections::BTreeMap;

use git2::{Oid, Repository};

use super::access::Access;
use super::error::Result;
use super::source::Source;
use super::{local, overseer};

/// What a repository has.
#[derive(Debug, Default)]
pub(super) struct Listing {
    /// The branch that its HEAD names, without `refs/heads/`. It need not exist.
    pub(super) default_branch: Option<String>,
    /// `refs/heads/...` and `refs/tags/...`; an annotated tag as the tag's own object.
    pub(super) refs: BTreeMap<String, Oid>,
}

impl Listing {
    pub(super) fn branches(&self) -> Vec<String> {
        self.refs.keys().filter_map(|name| name.strip_prefix("refs/heads/")).map(str::to_owned).collect()
    }
}

/// A reference to fetch, and the mirror's reference that is to follow it, wherever it goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Want {
    /// Its full name there.
    pub(super) name: String,
    /// Its full name here.
    pub(super) into: String,
}

/// Chooses what to fetch once it is known what there is.
pub(super) type Choose<'a> = dyn FnMut(&Listing) -> Vec<Want> + 'a;

/// A commit to push.
pub(super) struct Outgoing<'a> {
    /// The commit; the mirror has it.
    pub(super) commit: Oid,
    /// It and everything that it may need and the remote may lack.
    pub(super) objects: &'a [Oid],
    /// The full name of the reference to move.
    pub(super) name: &'a str,
    /// What the reference must still be: none, not there.
    pub(super) expected: Option<Oid>,
}

/// What became of a push that reached the repository.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Pushed {
    /// The reference is at the commit.
    Done,
    /// The reference is not what was expected.
    Overtaken,
    /// The repository said no, and why.
    Refused(String),
}

/// The repository at a source.
pub(super) struct Remote<'a> {
    pub(super) source: &'a Source,
    pub(super) access: &'a Access,
}

impl Remote<'_> {
    /// Lists the references, then fetches what `choose` wants of them into `mirror`, over the same connection.
    pub(super) fn look(&self, mirror: &Repository, choose: &mut Choose<'_>) -> Result<Listing> {
        match self.source.is_local() {
            Some(path) => local::look(path, self.source, mirror, choose),
            None => overseer::look(self, mirror, choose),
        }
    }

    /// Moves a reference there if it is still where it is expected, and never otherwise.
    pub(super) fn push(&self, mirror: &Repository, outgoing: &Outgoing<'_>) -> Result<Pushed> {
        match self.source.is_local() {
            Some(path) => local::push(path, self.source, mirror, outgoing),
            None => overseer::push(self, mirror, outgoing),
        }
    }
}
