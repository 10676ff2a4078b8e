//! Why a pass of the controller did not finish.

use crate::cluster::live::ApiError;

/// Why a pass did not finish.
#[derive(Debug, thiserror::Error)]
pub(super) enum PassError {
    /// The API server rejected a request, or is unavailable.
    #[error(transparent)]
    Live(#[from] ApiError),
    /// The EgressConfig of the desired revision is larger than the API server takes. Nothing was written.
    #[error("{0}")]
    TooLarge(String),
    /// Another controller leads.
    #[error("another controller leads now")]
    NotLeading,
}

impl PassError {
    /// Whether the status of the EgressConfig can report it: a server that does not answer accepts no status either.
    pub(super) fn is_reportable(&self) -> bool {
        match self {
            Self::Live(error) => error.code().is_some(),
            Self::TooLarge(_) => true,
            Self::NotLeading => false,
        }
    }
}
