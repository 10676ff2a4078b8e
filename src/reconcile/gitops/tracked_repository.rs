//! What is followed: a repository and its branch, how to get in, and what its commits must have to come into force. The standalone node,
//! the controller and its previews are asked for the same.
//!
//! Deliberately absent: the command line (`cli::options`), and what is done with a commit (`repository`).

use std::path::Path;
use std::time::Duration;

use crate::core::admission::ChangeWindows;
use crate::core::labels::keys::KeyPattern;
use crate::git;
use crate::git::access::Access;
use crate::git::mirror::Mirror;
use crate::git::signature::SignatureFlags;
use crate::git::source::Source;

/// The policy repository, as somebody asked to follow it.
#[derive(Debug, Clone)]
pub struct TrackedRepository {
    /// The repository.
    pub source: Source,
    /// Its branch; none: its default branch.
    pub branch: Option<String>,
    /// How to get in.
    pub access: Access,
    /// Whose signatures the flags demand.
    pub signatures: SignatureFlags,
    /// When commits may come into force, whatever egret.yaml says of it.
    pub windows: Option<ChangeWindows>,
    /// Which labels of nodes Egret may write, whatever egret.yaml says of it; none: all but Kubernetes' own.
    pub label_keys: Option<Vec<KeyPattern>>,
    /// The cluster's name: whose entry in egret.yaml counts, and whose reports branch is written.
    pub cluster: String,
    /// How often to look although nobody said that something changed.
    pub poll: Duration,
}

impl TrackedRepository {
    /// A mirror of the repository in a folder.
    pub fn mirror(&self, folder: &Path) -> git::Result<Mirror> {
        Mirror::open(folder, self.source.clone(), self.access.clone())
    }
}
