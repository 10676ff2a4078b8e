//! What a controller is asked for, and why it ends with an error.
//!
//! Deliberately absent: the command line (`cli::controller`).

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::super::hook;
use super::super::memory::MemoryError;
use super::super::publisher;
use super::super::pulls::Board;
use crate::cluster::live::{LiveError, Timing};
use crate::core::admission::ChangeWindows;
use crate::git::access::Access;
use crate::git::signature::Flags;
use crate::git::source::Source;

/// What `egret controller` was asked for, checked.
#[derive(Debug, Clone)]
pub struct Options {
    /// The policy repository.
    pub source: Source,
    /// Its branch; none: its default branch.
    pub branch: Option<String>,
    /// How to get in.
    pub access: Access,
    /// Whose signatures the flags demand.
    pub signatures: Flags,
    /// The file of the key that reports are signed with, if they are.
    pub signing_key: Option<PathBuf>,
    /// When commits may come into force, whatever egret.yaml says of it.
    pub windows: Option<ChangeWindows>,
    /// The cluster's name.
    pub cluster_name: String,
    /// Where mirrors and memory are.
    pub state_folder: PathBuf,
    /// How often a remote repository is asked although nobody said that something changed.
    pub poll: Duration,
    /// The namespace of the lease.
    pub namespace: String,
    /// The lease.
    pub lease: String,
    /// This process among the candidates: the pod's name.
    pub identity: String,
    /// The lease's times.
    pub timing: Timing,
    /// Where metrics and health are served, if anywhere.
    pub listen: Option<SocketAddr>,
    /// Where a forge's webhook is listened to, if anywhere.
    pub webhook: Option<hook::Options>,
    /// Where pull requests are previewed, if anywhere.
    pub previews: Option<Board>,
}

impl Options {
    /// Where reports go.
    pub(super) fn reports(&self, seed: u64) -> publisher::Options {
        publisher::Options {
            source: self.source.clone(),
            access: self.access.clone(),
            mirror: self.state_folder.join("reports.git"),
            cluster: self.cluster_name.clone(),
            signing_key: self.signing_key.clone(),
            seed,
        }
    }
}

/// Why the process ends with an error.
#[derive(Debug, thiserror::Error)]
pub enum ControllerError {
    /// Memory is out of reach.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// It is not known where the API server is, or what was to be taken away there is not.
    #[error(transparent)]
    Live(#[from] LiveError),
    /// A thread, a watch or a signal handler could not be had.
    #[error("start {what}")]
    Start {
        /// What.
        what: &'static str,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// Files cannot be watched.
    #[error("watch files")]
    Watch(#[from] crate::watch::Error),
}

impl ControllerError {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Live(error) => error.hint(),
            _ => None,
        }
    }
}
