//! The types of one exchange with a repository: the references it has, what to fetch or push, and the outcome of a push.

use std::collections::BTreeMap;

use git2::Oid;
use serde::{Deserialize, Serialize};

/// The references of a repository, as `git ls-remote --symref` lists them.
#[derive(Debug, Default)]
pub(super) struct RemoteRefs {
    /// The branch that its HEAD names, without `refs/heads/`. It need not exist.
    pub(super) default_branch: Option<String>,
    /// `refs/heads/...` and `refs/tags/...`; an annotated tag as the tag's own object.
    pub(super) refs: BTreeMap<String, Oid>,
}

impl RemoteRefs {
    pub(super) fn branches(&self) -> Vec<String> {
        self.refs.keys().filter_map(|name| name.strip_prefix("refs/heads/")).map(str::to_owned).collect()
    }
}

/// A reference to fetch, and the mirror's reference that follows it, also when its history was rewritten (`+remote:local`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Refspec {
    /// The full name in the repository.
    pub(super) remote: String,
    /// The full name in the mirror.
    pub(super) local: String,
}

/// Selects what to fetch from the references that the repository has.
pub(super) type SelectRefs<'a> = dyn FnMut(&RemoteRefs) -> Vec<Refspec> + 'a;

/// A commit to push.
pub(super) struct PushRequest<'a> {
    /// The commit; the mirror has it.
    pub(super) commit: Oid,
    /// The commit and every object that it needs and the repository may lack.
    pub(super) objects: &'a [Oid],
    /// The full name of the reference to move.
    pub(super) name: &'a str,
    /// Where the reference must still be (compare-and-swap); none: it must not exist.
    pub(super) expected: Option<Oid>,
}

/// What a repository that was reached did with a push.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum PushOutcome {
    /// The reference is at the commit.
    Updated,
    /// The reference is not where it was expected.
    Stale,
    /// The repository rejected the push, with this reason.
    Rejected(String),
}
