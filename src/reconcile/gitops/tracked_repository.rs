//! The options of a tracked policy repository: its URL and branch, the credentials, and the requirements for its
//! commits. The standalone node, the controller and its previews share them.
//!
//! Not here: the command line (`cli::options`), and what happens with a commit (`repository`).

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use crate::core::admission::ChangeWindows;
use crate::core::labels::keys::KeyPattern;
use crate::git;
use crate::git::access::Access;
use crate::git::mirror::Mirror;
use crate::git::signature::SignatureFlags;
use crate::git::source::Source;
use crate::reconcile::gitops::publisher::{self, Publisher};
use crate::reconcile::gitops::repository::{self, Repository, RepositoryEvent};
use crate::reconcile::leadership::IsLeader;
use crate::reconcile::process::StartError;

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
}

impl TrackedRepository {
    /// Opens a mirror of the repository in a folder.
    pub fn mirror(&self, folder: &Path) -> git::Result<Mirror> {
        Mirror::open(folder, self.source.clone(), self.access.clone())
    }

    /// Starts the thread that reads the repository, with its own mirror in the folder. `seed` is for jitter.
    pub fn start(
        &self,
        folder: &Path,
        seed: u64,
    ) -> Result<(Repository, UnboundedReceiver<RepositoryEvent>), StartError> {
        let (sender, news) = unbounded_channel();
        let mirror = folder.join("policy.git");
        let repository =
            Repository::start(repository::RepositoryOptions { following: self.clone(), mirror, seed }, sender)
                .map_err(StartError::of("the repository's thread"))?;
        Ok((repository, news))
    }

    /// Starts the thread that writes reports to the repository, signed if there is a key, and while `leads` returns
    /// true. It has its own mirror, too.
    pub fn publisher(
        &self,
        folder: &Path,
        signing_key: Option<PathBuf>,
        seed: u64,
        leads: IsLeader,
    ) -> Result<Publisher, StartError> {
        let options = publisher::PublisherOptions {
            source: self.source.clone(),
            access: self.access.clone(),
            mirror: folder.join("reports.git"),
            cluster: self.cluster.clone(),
            signing_key,
            seed,
        };
        Publisher::start(options, leads).map_err(StartError::of("the publisher's thread"))
    }
}
