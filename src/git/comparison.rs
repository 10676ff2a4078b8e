//! What a comparison of two commits needs: their merge base, and single files of any size.
//!
//! Not here: the comparison itself (`files` lists what differs, `core::preview` what it means).

use git2::{Commit, ErrorCode, ObjectType, Oid};

use super::commit::CommitId;
use super::error::{Error, Result};
use super::mirror::Mirror;

impl Mirror {
    /// Where two commits parted, as [`Mirror::merge_base`] finds it; fetches the history that it takes.
    ///
    /// Errors: those of [`Mirror::merge_base`], and all about the source.
    pub fn parted(&mut self, one: CommitId, other: CommitId) -> Result<Option<CommitId>> {
        match self.merge_base(one, other) {
            Err(Error::Shallow { .. }) if self.deepen()? => self.merge_base(one, other),
            found => found,
        }
    }

    /// The best common ancestor of two commits that the mirror has; none if they have no common history.
    ///
    /// Error: [`Error::Shallow`] if the history ends before it is certain.
    pub fn merge_base(&self, one: CommitId, other: CommitId) -> Result<Option<CommitId>> {
        let fault = |source| self.fault("find the merge base of two commits", source);
        let found = match self.repository.merge_base(one.oid(), other.oid()) {
            Ok(base) => Some(base),
            Err(error) if error.code() == ErrorCode::NotFound => None,
            Err(error) => return Err(fault(error)),
        };
        if !self.repository.is_shallow() {
            return Ok(found.map(CommitId::new));
        }
        // Where a history is cut before both have met, a nearer base may be behind the cut.
        if let Some(base) = found
            && !self.is_cut(one, other, base).map_err(fault)?
        {
            return Ok(Some(CommitId::new(base)));
        }
        // The last commits of a shallow history still name their parents: those of the merge commit that CI checks out are the change
        // and what it starts from. What Egret itself left out is fetched first, since the change has more commits than these.
        for (child, parent) in [(one, other), (other, one)] {
            if self.is_all_there_is() && self.names_as_parent(child, parent).map_err(fault)? {
                return Ok(Some(parent));
            }
        }
        let lacks = format!("the commit where {} and {} parted", one.short(), other.short());
        Err(Error::Shallow { repository: self.source.to_string(), lacks })
    }

    /// Whether a commit has another as a parent, as it says itself: libgit2 takes the parents off where a shallow history ends.
    fn names_as_parent(&self, child: CommitId, parent: CommitId) -> std::result::Result<bool, git2::Error> {
        let commit = self.repository.find_commit(child.oid())?;
        let line = format!("parent {parent}");
        Ok(commit.raw_header_bytes().split(|byte| *byte == b'\n').any(|header| header == line.as_bytes()))
    }

    /// Whether a history ends between two commits and their merge base.
    fn is_cut(&self, one: CommitId, other: CommitId, base: Oid) -> std::result::Result<bool, git2::Error> {
        let mut since = self.repository.revwalk()?;
        since.push(one.oid())?;
        since.push(other.oid())?;
        since.hide(base)?;
        for commit in since {
            if lacks_parents(&self.repository.find_commit(commit?)?) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The text of one file of a commit; none if it does not exist, is not UTF-8, or has more bytes than `largest`.
    pub fn text(&self, commit: CommitId, path: &str, largest: usize) -> Result<Option<String>> {
        let fault = |source| self.fault("read a file of a commit", source);
        let missing = |_| Error::MissingCommit { repository: self.source.to_string(), commit };
        let commit = self.repository.find_commit(commit.oid()).map_err(missing)?;
        let tree = commit.tree().map_err(fault)?;
        let entry = match tree.get_path(std::path::Path::new(path)) {
            Ok(entry) => entry,
            Err(error) if error.code() == ErrorCode::NotFound => return Ok(None),
            Err(error) => return Err(fault(error)),
        };
        let objects = self.repository.odb().map_err(fault)?;
        let (size, kind) = objects.read_header(entry.id()).map_err(fault)?;
        if kind != ObjectType::Blob || size > largest {
            return Ok(None);
        }
        let bytes = objects.read(entry.id()).map_err(fault)?.data().to_vec();
        Ok(String::from_utf8(bytes).ok())
    }
}

/// Whether a shallow history ends at a commit: it names more parents than libgit2 gives it.
pub(super) fn lacks_parents(commit: &Commit<'_>) -> bool {
    let named = commit.raw_header_bytes().split(|byte| *byte == b'\n').filter(|line| line.starts_with(b"parent "));
    named.count() != commit.parent_count()
}
