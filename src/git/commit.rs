//! A commit's id and metadata. SHA-256 repositories are not supported, because libgit2 1.9 cannot read them yet.

use std::fmt;

use git2::{Commit, Oid};
use jiff::Timestamp;

use crate::core::text::short_commit;

/// The full id of a commit: 40 hexadecimal digits. The mirror need not have the commit.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CommitId(Oid);

impl CommitId {
    /// A full id, 40 hexadecimal digits; `None` for everything else.
    pub fn parse(text: &str) -> Option<Self> {
        let full = text.len() == 40 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        if full { Oid::from_str(text).ok().map(Self) } else { None }
    }

    /// Its first 12 digits, for display: unique in any repository of policies.
    pub fn short(&self) -> String {
        short_commit(&self.to_string()).to_owned()
    }

    pub(super) fn new(id: Oid) -> Self {
        Self(id)
    }

    pub(super) fn oid(self) -> Oid {
        self.0
    }
}

impl fmt::Display for CommitId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for CommitId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CommitId({})", self.0)
    }
}

/// A commit, as reports and `explain` name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommitInfo {
    /// Its id.
    pub id: CommitId,
    /// The first line of its message; bytes that are not UTF-8 are replaced.
    pub summary: String,
    /// `Name <address>` of its author, as the commit claims; not authenticated.
    pub author: String,
    /// The time of the commit, by the committer's clock.
    pub time: Timestamp,
    /// Its parents, in their order; two or more for a merge.
    pub parents: Vec<CommitId>,
}

impl CommitInfo {
    /// A commit of which only the id and the first line are known: the controller reports those to the nodes.
    pub fn reported(id: CommitId, summary: String) -> Self {
        Self { id, summary, author: String::new(), time: Timestamp::UNIX_EPOCH, parents: Vec::new() }
    }

    /// The time of the commit; none if it is not known.
    pub fn committed(&self) -> Option<Timestamp> {
        Some(self.time).filter(|time| *time != Timestamp::UNIX_EPOCH)
    }

    pub(super) fn of(commit: &Commit<'_>) -> Self {
        let author = commit.author();
        Self {
            id: CommitId::new(commit.id()),
            summary: String::from_utf8_lossy(commit.summary_bytes().unwrap_or_default()).into_owned(),
            author: format!(
                "{} <{}>",
                String::from_utf8_lossy(author.name_bytes()),
                String::from_utf8_lossy(author.email_bytes())
            ),
            // A commit may claim any second; one outside of the calendar becomes the epoch.
            time: Timestamp::from_second(commit.time().seconds()).unwrap_or(Timestamp::UNIX_EPOCH),
            parents: commit.parent_ids().map(CommitId::new).collect(),
        }
    }
}
