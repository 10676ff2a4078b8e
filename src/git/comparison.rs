//! What a comparison of two commits needs: their merge base, commits that no branch leads to, and single files of any size.
//!
//! Not here: the comparison itself (`files` lists what differs, `core::preview` what it means).

use git2::{ErrorCode, ObjectType};

use super::commit::CommitId;
use super::error::{Error, Result};
use super::local;
use super::mirror::Mirror;
use super::revision::Revision;

impl Mirror {
    /// The commit of a revision, as [`Mirror::resolve`] finds it. In a repository on this machine also what only that one has: HEAD as it
    /// is checked out, branches of its remotes, and commits that no branch leads to, as CI checks them out.
    ///
    /// Errors: those of [`Mirror::resolve`].
    pub fn resolve_here(&mut self, text: &str) -> Result<CommitId> {
        let revision = Revision::parse(text)?;
        let Some(path) = self.source.is_local().map(std::path::Path::to_owned) else { return self.resolve(text) };
        match local::fetch_revision(&path, &self.source, &self.repository, &revision)? {
            Some(commit) => Ok(CommitId::new(commit)),
            None => self.resolve(text),
        }
    }

    /// The best common ancestor of two commits that the mirror has; none if they have no common history.
    pub fn merge_base(&self, one: CommitId, other: CommitId) -> Result<Option<CommitId>> {
        match self.repository.merge_base(one.oid(), other.oid()) {
            Ok(base) => Ok(Some(CommitId::new(base))),
            Err(error) if error.code() == ErrorCode::NotFound => Ok(None),
            Err(error) => Err(self.fault("find the merge base of two commits", error)),
        }
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
