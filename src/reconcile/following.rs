//! What is followed: a repository and its branch, how to get in, and what its commits must have to come into force. The standalone node,
//! the controller and its previews are asked for the same.
//!
//! Deliberately absent: the command line (`cli::options`), and what is done with a commit (`repository`).

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::process::StartError;
use super::publisher::{self, Publisher};
use super::repository::{self, News, Repository};
use crate::core::admission::ChangeWindows;
use crate::git;
use crate::git::access::Access;
use crate::git::mirror::Mirror;
use crate::git::signature::Flags;
use crate::git::source::Source;

/// The policy repository, as somebody asked to follow it.
#[derive(Debug, Clone)]
pub struct Following {
    /// The repository.
    pub source: Source,
    /// Its branch; none: its default branch.
    pub branch: Option<String>,
    /// How to get in.
    pub access: Access,
    /// Whose signatures the flags demand.
    pub signatures: Flags,
    /// When commits may come into force, whatever egret.yaml says of it.
    pub windows: Option<ChangeWindows>,
    /// The cluster's name: whose entry in egret.yaml counts, and whose reports branch is written.
    pub cluster: String,
    /// How often to look although nobody said that something changed.
    pub poll: Duration,
}

impl Following {
    /// A mirror of the repository in a folder.
    pub fn mirror(&self, folder: &Path) -> git::Result<Mirror> {
        Mirror::open(folder, self.source.clone(), self.access.clone())
    }

    /// Starts the thread that reads the repository and the one that writes reports to it, by a key if they are signed. Each has a mirror of
    /// its own in the folder. `seed` is for jitter.
    pub fn start(
        &self,
        folder: &Path,
        signing_key: Option<PathBuf>,
        seed: u64,
    ) -> Result<(Repository, UnboundedReceiver<News>, Publisher), StartError> {
        let (sender, news) = unbounded_channel();
        let mirror = folder.join("policy.git");
        let repository = Repository::start(repository::Options { following: self.clone(), mirror, seed }, sender)
            .map_err(StartError::of("the repository's thread"))?;
        let publisher = Publisher::start(publisher::Options {
            source: self.source.clone(),
            access: self.access.clone(),
            mirror: folder.join("reports.git"),
            cluster: self.cluster.clone(),
            signing_key,
            seed,
        })
        .map_err(StartError::of("the publisher's thread"))?;
        Ok((repository, news, publisher))
    }
}
