//! The parts of the loops that block on Git or a forge, each on its own thread: reading the policy repository,
//! publishing reports and previewing pull requests; and the webhook that triggers them.

pub mod github_app;
pub mod history_reader;
pub mod pool_addresses;
pub mod preview;
pub mod publisher;
pub mod pulls;
pub mod report_sender;
pub mod repository;
pub mod tracked_repository;
pub mod webhook;

use std::path::{Path, PathBuf};

use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use publisher::{Publisher, PublisherOptions};
use repository::{KnownFacts, Repository, RepositoryEvent, RepositoryOptions};
use tracked_repository::TrackedRepository;

use crate::reconcile::leadership::IsLeader;
use crate::reconcile::process::StartError;

impl TrackedRepository {
    /// Starts the thread that reads the repository, with a mirror of its own in the folder. `seed` is for jitter.
    pub fn start(
        &self,
        folder: &Path,
        seed: u64,
    ) -> Result<(Repository, UnboundedReceiver<RepositoryEvent>), StartError> {
        let (sender, news) = unbounded_channel();
        let mirror = folder.join("policy.git");
        let repository = Repository::start(
            RepositoryOptions { following: self.clone(), mirror, seed, facts: KnownFacts::default() },
            sender,
        )
        .map_err(StartError::of("the repository's thread"))?;
        Ok((repository, news))
    }

    /// Starts the thread that writes reports to the repository while `leads` returns true; with a key, they are signed.
    /// It has a mirror of its own, too.
    pub fn publisher(
        &self,
        folder: &Path,
        signing_key: Option<PathBuf>,
        seed: u64,
        leads: IsLeader,
    ) -> Result<Publisher, StartError> {
        let options = PublisherOptions {
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
