//! Errors of a GitHub App that gets no token, for the administrator who set it up.
//!
//! They never contain the key, tokens, or any part of an answer except GitHub's own message.

use std::io;
use std::path::PathBuf;

use crate::https;

/// The cause of a missing token.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each variant's message says what it is; the fields are what the message shows")]
pub enum AppError {
    #[error("cannot read the key of the GitHub App, {}", path.display())]
    KeyFile { path: PathBuf, source: io::Error },
    #[error("the key of the GitHub App, {}, {what}", path.display())]
    Key { path: PathBuf, what: String },
    #[error("sign in as the GitHub App {id}")]
    Https { id: String, source: https::HttpError },
    #[error("{host} rejects the GitHub App {id}: {message}")]
    Rejected { host: String, id: String, message: String, ahead: Option<i64> },
    #[error("the GitHub App {id} is not installed for {project}")]
    NotInstalled { id: String, project: String },
    #[error("the GitHub App {id} may not `{permission}` in {project}")]
    Lacks { id: String, project: String, permission: String },
    #[error("{host} gives the GitHub App {id} no token: {status} {message}")]
    Refused { host: String, id: String, status: u16, message: String },
    #[error("{host} answers what is no token")]
    Nonsense { host: String },
    #[error("start what asks for a token")]
    Start(#[source] io::Error),
}

impl AppError {
    /// A hint for the user.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::KeyFile { .. } => "is the secret mounted, and may Egret read it?".to_owned(),
            Self::Key { .. } => {
                "it is the .pem file that the App's page gives under \"Private keys\", as it was downloaded".to_owned()
            }
            Self::Https { source, .. } => return source.hint().map(str::to_owned),
            Self::Rejected { ahead: Some(ahead), .. } => {
                let (seconds, way) = (ahead.abs(), if *ahead > 0 { "ahead of" } else { "behind" });
                format!(
                    "this machine's clock is {seconds} seconds {way} the server's: set it right, by NTP for instance"
                )
            }
            Self::Rejected { .. } => {
                "is the App's id right, and is the key one of that App that was not deleted?".to_owned()
            }
            Self::NotInstalled { .. } => {
                "install the App for that repository, from the App's page under \"Install App\"".to_owned()
            }
            Self::Lacks { permission, .. } => {
                format!(
                    "give the App `{permission}` under \"Permissions & events\", and accept that where it is installed"
                )
            }
            Self::Refused { status: 403 | 429, .. } => "it is tried again".to_owned(),
            Self::Refused { .. } | Self::Nonsense { .. } | Self::Start(_) => return None,
        })
    }

    /// Whether a retry may succeed. A missing key too: a secret may be mounted late, or be in replacement.
    pub fn retryable(&self) -> bool {
        match self {
            Self::KeyFile { .. } | Self::Start(_) | Self::Nonsense { .. } => true,
            Self::Https { source, .. } => source.retryable(),
            Self::Refused { status, .. } => *status >= 500 || *status == 429 || *status == 403,
            Self::Rejected { ahead, .. } => ahead.is_some(),
            Self::Key { .. } | Self::NotInstalled { .. } | Self::Lacks { .. } => false,
        }
    }
}
