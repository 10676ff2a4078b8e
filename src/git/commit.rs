//! A commit's name, and what people want to know of it.
//!
//! Deliberately absent: its files (`files`), and SHA-256 repositories, which libgit2 1.9 cannot read yet.

use std::fmt;

use git2::{Commit, Oid};
use jiff::Timestamp;

/// The full name of a commit: 40 hexadecimal digits. That a mirror has it is not said by it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CommitId(Oid);

impl CommitId {
    /// A full name, 40 hexadecimal digits; everything else is `None`.
    pub fn parse(text: &str) -> Option<Self> {
        let full = text.len() == 40 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        if full { Oid::from_str(text).ok().map(Self) } else { None }
    }

    /// Its first 12 digits, for people. Enough to be the only one in any repository Egret will read.
    pub fn short(&self) -> String {
        let mut text = self.to_string();
        text.truncate(12);
        text
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
    /// Its name.
    pub id: CommitId,
    /// The first line of its message; bytes that are not UTF-8 are replaced.
    pub summary: String,
    /// `Name <address>` of its author. What the author wrote, proven by nobody.
    pub author: String,
    /// When it was committed, by the committer's clock.
    pub time: Timestamp,
    /// Its parents, in their order; two or more for a merge.
    pub parents: Vec<CommitId>,
}

impl CommitInfo {
    /// A commit of which only its name and first line were told, by whoever read the repository.
    pub fn told(id: CommitId, summary: String) -> Self {
        Self { id, summary, author: String::new(), time: Timestamp::UNIX_EPOCH, parents: Vec::new() }
    }

    /// When it was committed; none where nobody told.
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
            // A commit may claim any second at all; what no calendar has becomes the epoch.
            time: Timestamp::from_second(commit.time().seconds()).unwrap_or(Timestamp::UNIX_EPOCH),
            parents: commit.parent_ids().map(CommitId::new).collect(),
        }
    }
}
