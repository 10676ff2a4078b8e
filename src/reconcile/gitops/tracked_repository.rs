//! What is followed: a repository and its branch, how to get in, and what its commits must have to come into force. The standalone node,
//! the controller and its previews are asked for the same.
//!
//! Deliberately absent: the command line (`cli::options`), and what is done with a commit (`repository`).

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

    /// Starts the thread that reads the repository, with a mirror of its own in the folder. `seed` is for jitter.
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

    /// Starts the thread that writes reports to the repository, by a key if they are signed, and while `leads` says so. It has a mirror of
    /// its own, too.
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
