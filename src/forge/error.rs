//! Why a forge did not do something: what was asked of it, its own words, and which right is missing.
//!
//! Deliberately absent: trying again, which is `api`'s.

use jiff::Timestamp;

use super::ForgeKind;
use crate::https;

/// What a forge did not do, and why.
#[derive(Debug, thiserror::Error)]
#[error("{act} on {place}")]
pub struct ForgeError {
    pub(super) act: ForgeOperation,
    /// `github.com/mos-eisley/policies`: no secret is in it.
    pub(super) place: String,
    pub(super) kind: ForgeKind,
    #[source]
    pub(super) fault: ForgeErrorKind,
}

/// What was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ForgeOperation {
    /// Who the token is of.
    Identity,
    /// The list of pull requests, or one of them.
    Pulls,
    /// The comments of a pull request.
    ReadComments,
    /// A comment.
    WriteComment,
    /// A commit's status.
    Status,
    /// A check run.
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

/// Why.
#[derive(Debug, thiserror::Error)]
pub enum ForgeErrorKind {
    /// The options make no forge.
    #[error("{0}")]
    Setup(String),
    /// There is no token.
    #[error("{0}")]
    Token(String),
    /// Nobody answered.
    #[error(transparent)]
    Http(#[from] https::HttpError),
    /// The forge says no, or that it can't.
    #[error("the forge says {status}: {message}")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// Its words.
        message: String,
    },
    /// Too many requests.
    #[error("the forge takes no more requests until {until}")]
    Limited {
        /// When it will.
        until: Timestamp,
    },
    /// The forge names another place. Nobody goes there: a token is for the host that was named.
    #[error("the forge says that it is elsewhere: {to}")]
    Moved {
        /// Where.
        to: String,
    },
    /// An answer that is none.
    #[error("the answer is not understood: {0}")]
    Answer(String),
    /// A list goes on somewhere else.
    #[error("the list goes on at another place: {0}")]
    Elsewhere(String),
    /// The token does not say who it is of.
    #[error("the token does not say who it is of")]
    Nobody,
}

impl ForgeError {
    /// Why.
    pub fn fault(&self) -> &ForgeErrorKind {
        &self.fault
    }

    /// Whether the token lacks the right: it may be meant so, for pull requests from forks.
    pub fn denied(&self) -> bool {
        matches!(self.fault, ForgeErrorKind::Refused { status: 401 | 403 | 404, .. })
    }

    /// Whether the forge understood, and says no. A comment is told in words all the same where a status was not taken: GitLab has none for
    /// a commit of a fork, and takes no step from one state to some others.
    pub(super) fn is_no(&self) -> bool {
        matches!(self.fault, ForgeErrorKind::Refused { status: 400..500, .. })
    }

    /// Whether the same may go well later, without anybody's doing.
    pub fn retryable(&self) -> bool {
        match &self.fault {
            ForgeErrorKind::Http(error) => error.retryable(),
            ForgeErrorKind::Refused { status, .. } => *status >= 500,
            ForgeErrorKind::Limited { .. } => true,
            _ => false,
        }
    }

    /// When to come back, where the forge said so.
    pub fn until(&self) -> Option<Timestamp> {
        match self.fault {
            ForgeErrorKind::Limited { until } => Some(until),
            _ => None,
        }
    }

    /// Whether a write may have been done all the same.
    pub(super) fn unknown(&self) -> bool {
        match &self.fault {
            ForgeErrorKind::Http(error) => error.unknown(),
            ForgeErrorKind::Refused { status, .. } => *status >= 500,
            ForgeErrorKind::Answer(_) => true,
            _ => false,
        }
    }

    /// What to do about it.
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

    /// The right that an act needs, in the forge's own words.
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
