//! The options of a tracked policy repository: its URL and branch, the credentials, and the requirements for its
//! commits. The standalone node, the controller and its previews share them.
//!
//! Not here: the command line (`cli::options`), and what happens with a commit (`repository`).

use std::path::Path;
use std::time::Duration;

use crate::core::admission::ChangeWindows;
use crate::core::labels::keys::KeyPattern;
use crate::git;
use crate::git::access::Access;
use crate::git::mirror::{History, Mirror};
use crate::git::signature::SignatureFlags;
use crate::git::source::Source;

/// The policy repository to track.
#[derive(Debug, Clone)]
pub struct TrackedRepository {
    /// The repository.
    pub source: Source,
    /// Its branch; none: its default branch.
    pub branch: Option<String>,
    /// The credentials.
    pub access: Access,
    /// Whose signatures the flags require.
    pub signatures: SignatureFlags,
    /// The windows in which commits may become active; overrides egret.yaml.
    pub windows: Option<ChangeWindows>,
    /// The node labels that Egret may write; overrides egret.yaml. None: all but Kubernetes' own.
    pub label_keys: Option<Vec<KeyPattern>>,
    /// The cluster's name: it selects the entry in egret.yaml and the reports branch.
    pub cluster: String,
    /// The polling interval.
    pub poll: Duration,
    /// How far replicas behind the address may be behind each other. A branch that goes back is believed after this time.
    pub max_lag: Duration,
}

impl TrackedRepository {
    /// Opens a mirror of the repository in a folder.
    pub fn mirror(&self, folder: &Path) -> git::Result<Mirror> {
        Mirror::open(folder, self.source.clone(), self.access.clone())
    }

    /// Opens the repository for one reading, see [`Mirror::open_to_read`].
    pub fn open_to_read(&self, folder: &Path) -> git::Result<Mirror> {
        Mirror::open_to_read(folder, self.source.clone(), self.access.clone(), History::Whole)
    }
}
