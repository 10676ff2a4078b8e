//! The controller's options and its fatal errors.
//!
//! Not here: the command line (`cli::controller`).

use std::net::SocketAddr;
use std::path::PathBuf;

use super::super::process::StartError;
use super::removal::RemovalError;
use crate::cluster::live::{ApiError, Timing};
use crate::reconcile::gitops::pulls::ForgeTarget;
use crate::reconcile::gitops::tracked_repository::TrackedRepository;
use crate::reconcile::gitops::webhook;
use crate::serve::ui::UiOptions;

/// The options of `egret controller`, validated.
#[derive(Debug, Clone)]
pub struct ControllerOptions {
    /// The policy repository, and the requirements for its commits.
    pub following: TrackedRepository,
    /// The file of the key that reports are signed with, if they are.
    pub signing_key: Option<PathBuf>,
    /// The folder of mirrors and the state store.
    pub state_folder: PathBuf,
    /// The Lease's namespace.
    pub namespace: String,
    /// The Lease's name.
    pub lease: String,
    /// This process's identity among the candidates: the pod's name.
    pub identity: String,
    /// The Lease's times.
    pub timing: Timing,
    /// Whether the startup taint is removed from nodes whose agents are ready.
    pub startup_taints: bool,
    /// Whether pod networks are read from CNIs and published.
    pub pod_networks: bool,
    /// The address of metrics and health, if they are served.
    pub listen: Option<SocketAddr>,
    /// The forge's webhook, if there is one.
    pub webhook: Option<webhook::WebhookOptions>,
    /// The forge whose pull requests are previewed, if any.
    pub previews: Option<ForgeTarget>,
    /// The page for people, if it is served.
    pub ui: Option<UiOptions>,
}

/// Why the controller exits with an error.
#[derive(Debug, thiserror::Error)]
pub enum ControllerError {
    /// The API server's address is unknown.
    #[error(transparent)]
    Live(#[from] ApiError),
    /// Not everything was removed.
    #[error(transparent)]
    Removal(#[from] RemovalError),
    /// A thread, a server or a signal handler could not be started.
    #[error(transparent)]
    Start(#[from] StartError),
    /// Files cannot be watched.
    #[error("watch files")]
    Watch(#[from] crate::watch::FileWatchError),
}

impl ControllerError {
    /// What the operator can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Live(error) => error.hint(),
            Self::Removal(error) => error.hint(),
            Self::Start(_) | Self::Watch(_) => None,
        }
    }
}
