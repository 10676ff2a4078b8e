//! Errors of a forge: the operation, the forge's message, and the missing permission.
//!
//! Not here: retries (see `api`).

use jiff::Timestamp;

use super::ForgeKind;
use crate::https;

/// A failed operation and its cause.
#[derive(Debug, thiserror::Error)]
#[error("{act} on {place}")]
pub struct ForgeError {
    pub(super) act: ForgeOperation,
    /// `github.com/mos-eisley/policies`, without secrets.
    pub(super) place: String,
    pub(super) kind: ForgeKind,
    #[source]
    pub(super) fault: ForgeErrorKind,
}

/// The operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ForgeOperation {
    /// Reading the token's user.
    Identity,
    /// Reading the list of pull requests, or one of them.
    Pulls,
    /// Reading the comments of a pull request.
    ReadComments,
    /// Writing a comment.
    WriteComment,
    /// Reading or writing a commit's status.
    Status,
    /// Reading or writing a check run.
    Check,
}

impl std::fmt::Display for ForgeOperation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Identity => "ask who the token is of",
            Self::Pulls => "read pull requests",
            Self::ReadComments => "read the comments of a pull request",
            Self::WriteComment => "write a comment",
            Self::Status => "set the status of a commit",
            Self::Check => "write a check run",
        })
    }
}

/// The cause.
#[derive(Debug, thiserror::Error)]
pub enum ForgeErrorKind {
    /// The options are invalid.
    #[error("{0}")]
    Setup(String),
    /// There is no token.
    #[error("{0}")]
    Token(String),
    /// There was no answer.
    #[error(transparent)]
    Http(#[from] https::HttpError),
    /// The forge refused or failed.
    #[error("the forge answers {status}: {message}")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// Its message.
        message: String,
    },
    /// The rate limit is reached.
    #[error("the forge takes no more requests until {until}")]
    Limited {
        /// When it ends.
        until: Timestamp,
    },
    /// The forge redirects. Redirects are not followed: a token is only for the configured host.
    #[error("the forge redirects to {to}")]
    Moved {
        /// The target.
        to: String,
    },
    /// An answer that cannot be read.
    #[error("the answer cannot be read: {0}")]
    Answer(String),
    /// A list continues on another host.
    #[error("the list continues on another host: {0}")]
    Elsewhere(String),
    /// The token's user is not known.
    #[error("the forge does not name the account of the token")]
    Nobody,
}

impl ForgeError {
    /// The cause.
    pub fn fault(&self) -> &ForgeErrorKind {
        &self.fault
    }

    /// Whether the token lacks the permission: that may be intended for pull requests from forks.
    pub fn denied(&self) -> bool {
        matches!(self.fault, ForgeErrorKind::Refused { status: 401 | 403 | 404, .. })
    }

    /// Whether the forge understood the request and refused it. The comment is posted even if the status was refused:
    /// GitLab has no statuses for a commit of a fork, and does not allow all transitions between states.
    pub(super) fn is_no(&self) -> bool {
        matches!(self.fault, ForgeErrorKind::Refused { status: 400..500, .. })
    }

    /// Whether the same request may succeed later, without a user's action.
    pub fn retryable(&self) -> bool {
        match &self.fault {
            ForgeErrorKind::Http(error) => error.retryable(),
            ForgeErrorKind::Refused { status, .. } => *status >= 500,
            ForgeErrorKind::Limited { .. } => true,
            _ => false,
        }
    }

    /// When to retry, if the forge reported it.
    pub fn until(&self) -> Option<Timestamp> {
        match self.fault {
            ForgeErrorKind::Limited { until } => Some(until),
            _ => None,
        }
    }

    /// Whether a write may have happened despite the error.
    pub(super) fn unknown(&self) -> bool {
        match &self.fault {
            ForgeErrorKind::Http(error) => error.unknown(),
            ForgeErrorKind::Refused { status, .. } => *status >= 500,
            ForgeErrorKind::Answer(_) => true,
            _ => false,
        }
    }

    /// A hint for the user.
    pub fn hint(&self) -> Option<String> {
        match &self.fault {
            ForgeErrorKind::Refused { status: 401, .. } => Some("the token is not valid (any more)".to_owned()),
            ForgeErrorKind::Refused { status: 403 | 404, .. } => Some(format!("the token needs {}", self.right())),
            ForgeErrorKind::Refused { status: 422, .. } if self.act == ForgeOperation::Status => {
                Some("is the commit in that repository?".to_owned())
            }
            ForgeErrorKind::Moved { .. } => {
                Some("was the repository moved or renamed? name its new place by --project or --forge-url".to_owned())
            }
            ForgeErrorKind::Nobody => {
                Some("name the author of the token's comments by --forge-author, `egret[bot]` for an app".to_owned())
            }
            ForgeErrorKind::Token(_) => Some("give a token by --forge-token-file or EGRET_FORGE_TOKEN".to_owned()),
            ForgeErrorKind::Http(error) => error.hint().map(str::to_owned),
            _ => None,
        }
    }

    /// The permission that an operation needs, in the forge's own terms.
    fn right(&self) -> &'static str {
        match (self.kind, self.act) {
            (ForgeKind::GitHub, ForgeOperation::Pulls | ForgeOperation::ReadComments) => {
                "`pull-requests: read`, and the repository must be there"
            }
            (ForgeKind::GitHub, ForgeOperation::WriteComment) => "`pull-requests: write`",
            (ForgeKind::GitHub, ForgeOperation::Status) => "`statuses: write`",
            (ForgeKind::GitHub, ForgeOperation::Check) => "`checks: write`, which apps and GITHUB_TOKEN can have",
            (ForgeKind::GitHub, ForgeOperation::Identity) => {
                "to be of a user, or its author to be named by --forge-author"
            }
            (ForgeKind::GitLab, _) => "the scope `api` and the role Developer, and the project must be there",
            (ForgeKind::Gitea, ForgeOperation::Identity) => {
                "the scope `read:user`, or its author to be named by --forge-author"
            }
            (ForgeKind::Gitea, ForgeOperation::Pulls) => {
                "the scope `read:repository`, and the repository must be there"
            }
            (ForgeKind::Gitea, ForgeOperation::ReadComments) => {
                "the scope `read:issue`, and the repository must be there"
            }
            (ForgeKind::Gitea, ForgeOperation::WriteComment) => "the scope `write:issue`",
            (ForgeKind::Gitea, ForgeOperation::Status | ForgeOperation::Check) => "the scope `write:repository`",
        }
    }
}
