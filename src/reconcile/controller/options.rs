//! What a controller is asked for, and why it ends with an error.
//!
//! Deliberately absent: the command line (`cli::controller`).

use std::net::SocketAddr;
use std::path::PathBuf;

use super::super::process::StartError;
use crate::cluster::live::{ApiError, Timing};
use crate::reconcile::gitops::pulls::ForgeTarget;
use crate::reconcile::gitops::tracked_repository::TrackedRepository;
use crate::reconcile::gitops::webhook;
use crate::reconcile::persistence::state_store::StateStoreError;

/// What `egret controller` was asked for, checked.
#[derive(Debug, Clone)]
pub struct ControllerOptions {
    /// The policy repository, and what its commits must have.
    pub following: TrackedRepository,
    /// The file of the key that reports are signed with, if they are.
    pub signing_key: Option<PathBuf>,
    /// Where mirrors and memory are.
    pub state_folder: PathBuf,
    /// The namespace of the lease.
    pub namespace: String,
    /// The lease.
    pub lease: String,
    /// This process among the candidates: the pod's name.
    pub identity: String,
    /// The lease's times.
    pub timing: Timing,
    /// Whether the startup taint is taken off nodes whose agents are done.
    pub startup_taints: bool,
    /// Whether pods' networks are read from CNIs and published.
    pub pod_networks: bool,
    /// Where metrics and health are served, if anywhere.
    pub listen: Option<SocketAddr>,
    /// Where a forge's webhook is listened to, if anywhere.
    pub webhook: Option<webhook::WebhookOptions>,
    /// Where pull requests are previewed, if anywhere.
    pub previews: Option<ForgeTarget>,
}

/// Why the process ends with an error.
#[derive(Debug, thiserror::Error)]
pub enum ControllerError {
    /// Memory is out of reach.
    #[error(transparent)]
    Memory(#[from] StateStoreError),
    /// It is not known where the API server is, or what was to be taken away there is not.
    #[error(transparent)]
    Live(#[from] ApiError),
    /// A thread, a server or a signal handler could not be had.
    #[error(transparent)]
    Start(#[from] StartError),
    /// Files cannot be watched.
    #[error("watch files")]
    Watch(#[from] crate::watch::FileWatchError),
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
