//! Errors of Git: what is wrong with what, a hint what to do, and whether retrying can help ([`Error::kind`]).
//!
//! No error has a secret in it: a source is shown by its redacting `Display`.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use git2::{ErrorClass, ErrorCode};

use super::commit::CommitId;
use super::known_hosts::HostKeyStatus;
use super::transport_error::TransportError;

/// The result of every function of this folder that can fail.
pub type Result<T> = std::result::Result<T, Error>;

/// Whether retrying can help.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// It may pass: retry with backoff.
    Transient,
    /// A user has to change something. Poll at the usual interval, not sooner.
    NeedsIntervention,
}

/// Why a credential provider has no token.
#[derive(Debug)]
pub struct TokenError {
    /// What happened.
    pub cause: Box<dyn std::error::Error + Send + Sync>,
    /// What to do about it.
    pub hint: Option<String>,
    /// Whether retrying can help.
    pub retryable: bool,
}

impl fmt::Display for TokenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.cause.fmt(f)
    }
}

impl std::error::Error for TokenError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.cause.source()
    }
}

/// An error of Git. `from` and `repository` are sources as they are shown, without secrets.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each variant's message says what it is; the fields are what the message shows")]
pub enum Error {
    #[error("{text:?} is not the address of a Git repository: {why}")]
    BadSource { text: String, why: &'static str },
    #[error("cannot read the credential file {}", path.display())]
    Credential { path: PathBuf, source: io::Error },
    #[error("cannot use {from} as the list of keys that commits must be signed with: {what}")]
    Keys { from: String, what: String, hint: &'static str },
    #[error("cannot sign with the key {}: {what}", path.display())]
    SigningKey { path: PathBuf, what: &'static str },
    #[error("{repository} denied access ({tried})")]
    Denied { repository: String, tried: String, source: Option<git2::Error> },
    #[error("there is no token for {repository}")]
    NoToken { repository: String, source: TokenError },
    #[error("the SSH server {host} of {repository} offers the host key {offered}, and {}", host_key_text(status))]
    HostKey { repository: String, host: String, offered: String, status: HostKeyStatus },
    #[error("cannot {action} {repository}")]
    Unreachable { action: &'static str, repository: String, source: git2::Error },
    #[error("cannot {action} {repository}")]
    Transport { action: &'static str, repository: String, source: TransportError },
    #[error("{repository} is too slow: it {what}")]
    TooSlow { repository: String, what: String },
    #[error("{repository} sends more than {} MiB", max_bytes >> 20)]
    TooMuch { repository: String, max_bytes: u64 },
    #[error("{repository} has {what}, {id}, which is refused")]
    Oversized { repository: String, id: String, what: String },
    #[error("the Git worker process for {repository} failed: {what}")]
    Worker { repository: String, what: String },
    #[error("there is no Git repository at {repository}")]
    NoRepository { repository: String, source: git2::Error },
    #[error("the Git repository at {repository} belongs to another user")]
    ForeignOwner { repository: String, source: git2::Error },
    #[error("{repository} is empty: nothing was pushed to it yet")]
    Empty { repository: String },
    #[error("{repository} has no default branch: its HEAD names none of its branches")]
    NoDefaultBranch { repository: String, branches: Vec<String> },
    #[error("{repository} has no branch {branch:?}")]
    UnknownBranch { repository: String, branch: String, branches: Vec<String> },
    #[error("the branch {branch:?} of {repository} was deleted; its last commit was {last}")]
    BranchDeleted { repository: String, branch: String, last: CommitId },
    #[error("{revision:?} is not a revision: {why}")]
    BadRevision { revision: String, why: &'static str },
    #[error("{repository} answers with the older commit {tip}: {active} is active, and is not in its history", tip = tip.short(), active = active.short())]
    Behind { repository: String, tip: CommitId, active: CommitId },
    #[error("{repository} has nothing named {revision:?}")]
    UnknownRevision { repository: String, revision: String },
    #[error("{repository} is a shallow clone, which lacks {lacks}")]
    Shallow { repository: String, lacks: String },
    #[error("{repository} is a partial clone, which lacks files until Git fetches them")]
    Partial { repository: String },
    #[error("the mirror of {repository} does not have the commit {commit}")]
    MissingCommit { repository: String, commit: CommitId },
    #[error("the commit {commit} is too large: {what}")]
    TooLarge { commit: CommitId, what: &'static str },
    #[error("cannot {action} in the mirror of {repository}")]
    Mirror { action: &'static str, repository: String, source: git2::Error },
    #[error("cannot {action} in {repository}")]
    Damaged { action: &'static str, repository: String, source: git2::Error },
    #[error("cannot {action} {}", path.display())]
    State { action: &'static str, path: PathBuf, source: io::Error },
    #[error("{} is not empty, and Egret did not create it", path.display())]
    NotOurFolder { path: PathBuf },
    #[error("reports cannot go to the branch {branch:?}: {why}")]
    BadReportsBranch { branch: String, why: &'static str },
    #[error("a report cannot have the file {path:?}: {why}")]
    BadReportFile { path: String, why: &'static str },
    #[error("the branch {branch:?} of {repository} was not created by this cluster's Egret: {why}")]
    ForeignBranch { repository: String, branch: String, why: String },
    #[error("{repository} does not accept commits on the branch {branch:?}: {why}")]
    ReadOnly { repository: String, branch: String, why: String },
    #[error("another client pushed first {tries} times in a row to the branch {branch:?} of {repository}")]
    LostRace { repository: String, branch: String, tries: u32 },
}

impl Error {
    /// Whether retrying can help.
    pub fn kind(&self) -> ErrorKind {
        match self {
            // Credential files too: a Secret is mounted late, or is being replaced.
            Self::Unreachable { .. }
            | Self::TooSlow { .. }
            | Self::TooMuch { .. }
            | Self::Worker { .. }
            | Self::Mirror { .. }
            | Self::State { .. }
            | Self::LostRace { .. }
            | Self::Behind { .. }
            | Self::Credential { .. }
            | Self::Keys { .. }
            | Self::SigningKey { .. } => ErrorKind::Transient,
            Self::NoToken { source, .. } if source.retryable => ErrorKind::Transient,
            Self::Transport { source, .. } if source.is_transient() => ErrorKind::Transient,
            _ => ErrorKind::NeedsIntervention,
        }
    }

    /// How long the server asked clients to wait before the next request (`Retry-After`).
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Transport { source, .. } => source.retry_after(),
            _ => None,
        }
    }

    /// What to do about it, where the message does not say it.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::BadSource { .. } => "write a path, or file://, https://, ssh:// or user@host:path".to_owned(),
            // The file was read, and the cause says what is wrong with its content.
            Self::Credential { source, .. } if source.raw_os_error().is_none() => return None,
            Self::Credential { .. } => "check that the Secret is mounted and that Egret may read the file".to_owned(),
            Self::Keys { hint, .. } => (*hint).to_owned(),
            Self::SigningKey { .. } => "create one: ssh-keygen -t ed25519 -N '' -f FILE".to_owned(),
            Self::NoToken { source, .. } => return source.hint.clone(),
            Self::Denied { .. } => {
                "give an SSH key (--git-ssh-key) or a token (--git-password-file) that may read the repository"
                    .to_owned()
            }
            Self::HostKey { host, status, offered, .. } => host_key_hint(host, status, offered),
            Self::NoRepository { .. } => "the path must be a bare repository or a work tree's top folder".to_owned(),
            Self::ForeignOwner { repository, .. } => {
                format!("run Egret as its owner, or trust it: git config --global --add safe.directory {repository}")
            }
            Self::Empty { .. } => "push a first commit; repo-template/ is a start".to_owned(),
            Self::NoDefaultBranch { branches, .. } | Self::UnknownBranch { branches, .. } => branches_hint(branches),
            Self::BranchDeleted { .. } => {
                "the active commit stays active; push the branch again or name another".to_owned()
            }
            Self::BadRevision { .. } => "write a branch, a tag, an id, HEAD, or one of them followed by ~n".to_owned(),
            Self::Behind { .. } => {
                "a replica lags, or the branch was reset; after --git-max-lag it is taken as it is. Revert by a new commit"
                    .to_owned()
            }
            Self::UnknownRevision { .. } => "check the spelling, and whether it was pushed".to_owned(),
            Self::Shallow { .. } => {
                "fetch all of its history: `git fetch --unshallow`; in CI, `fetch-depth: 0` of actions/checkout, or GIT_DEPTH: 0 in GitLab"
                    .to_owned()
            }
            Self::Partial { .. } => {
                "clone it without a filter; in CI, actions/checkout without `filter` and `sparse-checkout`".to_owned()
            }
            Self::Damaged { .. } => "`git fsck` there shows whether it is broken".to_owned(),
            Self::MissingCommit { .. } => "the history was rewritten; compare with the empty tree instead".to_owned(),
            Self::TooLarge { .. } => "name the folders of this cluster under `paths` in egret.yaml".to_owned(),
            Self::NotOurFolder { .. } => "name an empty folder, or one that does not exist yet".to_owned(),
            Self::ForeignBranch { .. } => "rename that branch, or set another reports.branch in egret.yaml".to_owned(),
            Self::ReadOnly { .. } => {
                "allow Egret's key to push to that branch, or set `reports: {enabled: false}` in egret.yaml".to_owned()
            }
            Self::BadReportsBranch { .. } => "set another reports.branch in egret.yaml".to_owned(),
            Self::Unreachable { source, .. } => return unreachable_hint(source),
            Self::Transport { source, .. } => return source.hint(),
            Self::TooSlow { .. } => {
                "the active commit stays active, and Egret retries; --git-timeout gives the server more time".to_owned()
            }
            Self::TooMuch { .. } => "if the repository is that large, raise --git-max-size".to_owned(),
            Self::Oversized { .. } => {
                "remove it from the history (git commit --amend, git rebase); the active commit stays active".to_owned()
            }
            Self::Worker { .. } => "the active commit stays active, and Egret retries".to_owned(),
            Self::Mirror { .. } | Self::State { .. } | Self::BadReportFile { .. } => return None,
            Self::LostRace { .. } => {
                "if no other client pushes there, look for a stale .lock file in the repository".to_owned()
            }
        })
    }

    /// An error of libgit2 during an exchange with a repository.
    pub(super) fn during(action: &'static str, repository: &str, source: git2::Error) -> Self {
        let repository = repository.to_owned();
        match (source.code(), source.class()) {
            (ErrorCode::Auth, _) => {
                Self::Denied { repository, tried: "wrong credentials".to_owned(), source: Some(source) }
            }
            (ErrorCode::Owner, _) => Self::ForeignOwner { repository, source },
            (ErrorCode::NotFound, ErrorClass::Repository | ErrorClass::Os) => Self::NoRepository { repository, source },
            _ => Self::Unreachable { action, repository, source },
        }
    }
}

/// By libgit2's classes, because its texts change.
fn unreachable_hint(source: &git2::Error) -> Option<String> {
    // The kernel's error texts for a full or read-only file system, whatever was being written.
    let state_folder = ["No space left on device", "Disk quota exceeded", "Read-only file system"];
    let hint = match (source.code(), source.class()) {
        _ if state_folder.iter().any(|words| source.message().contains(words)) => {
            "make room in the state folder (--state-dir), and allow Egret to write there; the active commit stays active"
        }
        (_, ErrorClass::Net | ErrorClass::Os) => {
            "check the address, that the server is up, and that every firewall on the route allows Egret"
        }
        (_, ErrorClass::Indexer | ErrorClass::Odb | ErrorClass::Zlib) => {
            "the server sent broken data; `git fsck` on the server shows whether its repository is broken"
        }
        _ => return None,
    };
    Some(hint.to_owned())
}

fn host_key_text(status: &HostKeyStatus) -> String {
    match status {
        HostKeyStatus::Known => "known_hosts has it".to_owned(),
        HostKeyStatus::Unknown => "known_hosts has no line for it".to_owned(),
        HostKeyStatus::Changed => "known_hosts has another key for it".to_owned(),
        HostKeyStatus::OtherKinds(kinds) => format!("known_hosts has only its {} key", kinds.join(" and its ")),
        HostKeyStatus::Revoked => "known_hosts has revoked it".to_owned(),
    }
}

fn host_key_hint(host: &str, status: &HostKeyStatus, offered: &str) -> String {
    match status {
        HostKeyStatus::Changed | HostKeyStatus::Revoked => {
            "this may be an attack; compare the fingerprint with the one that the server's operator publishes"
                .to_owned()
        }
        _ => format!(
            "if the operator publishes that fingerprint, add the {} line of `ssh-keyscan {host}` to known_hosts",
            offered.split(' ').next().unwrap_or_default()
        ),
    }
}

fn branches_hint(branches: &[String]) -> String {
    const SHOWN: usize = 10;
    let more = branches.len().saturating_sub(SHOWN);
    let names = branches.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
    if more > 0 { format!("it has {names} and {more} more") } else { format!("it has {names}") }
}
