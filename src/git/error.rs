//! What can go wrong with Git, in words for the person who has to act.
//!
//! Deliberately absent: secrets (a source is shown by its redacting `Display`), and retrying: [`Error::fate`] says
//! whether it could help, the loop does it.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use git2::{ErrorClass, ErrorCode};

use super::CommitId;
use super::known_hosts::Verdict;
use super::tokens::NoToken;
use super::trouble::Trouble;

/// The result of everything in this folder.
pub type Result<T> = std::result::Result<T, Error>;

/// Whether trying again can help.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It may pass by itself: try again after a while.
    Retry,
    /// Somebody has to change something. Look again at the usual pace, not sooner.
    NeedsPerson,
}

/// What went wrong. `from` and `repository` are sources as they are shown, without secrets.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each variant's message says what it is; the fields are what the message shows")]
pub enum Error {
    #[error("{text:?} is no source of a Git repository: {why}")]
    BadSource { text: String, why: &'static str },
    #[error("cannot read the credential file {}", path.display())]
    Credential { path: PathBuf, source: io::Error },
    #[error("cannot take the keys of {from} that commits must be signed with: {what}")]
    Keys { from: String, what: String, hint: &'static str },
    #[error("cannot sign with the key {}: {what}", path.display())]
    SigningKey { path: PathBuf, what: &'static str },
    #[error("{repository} did not let Egret in ({tried})")]
    Denied { repository: String, tried: String, source: Option<git2::Error> },
    #[error("there is no token for {repository}")]
    NoToken { repository: String, source: NoToken },
    #[error(
        "the SSH server {host} of {repository} is not the known one: it offers {offered}, and {}",
        verdict_words(verdict)
    )]
    HostKey { repository: String, host: String, offered: String, verdict: Verdict },
    #[error("cannot {doing} {repository}")]
    Unreachable { doing: &'static str, repository: String, source: git2::Error },
    #[error("cannot {doing} {repository}")]
    Web { doing: &'static str, repository: String, source: Trouble },
    #[error("{repository} is too slow: it {what}")]
    TooSlow { repository: String, what: String },
    #[error("{repository} sends more than {} MiB", most >> 20)]
    TooMuch { repository: String, most: u64 },
    #[error("{repository} has {what}, {id}, which is not looked at")]
    Oversized { repository: String, id: String, what: String },
    #[error("the process that talks to {repository} failed: {what}")]
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
    #[error("{revision:?} is no revision: {why}")]
    BadRevision { revision: String, why: &'static str },
    #[error("{repository} has nothing named {revision:?}")]
    UnknownRevision { repository: String, revision: String },
    #[error("the mirror of {repository} does not have the commit {commit}")]
    MissingCommit { repository: String, commit: CommitId },
    #[error("the commit {commit} is too large: {what}")]
    TooLarge { commit: CommitId, what: &'static str },
    #[error("cannot {doing} in the mirror of {repository}")]
    Mirror { doing: &'static str, repository: String, source: git2::Error },
    #[error("cannot {doing} {}", path.display())]
    State { doing: &'static str, path: PathBuf, source: io::Error },
    #[error("{} is not empty, and Egret did not make it", path.display())]
    NotOurFolder { path: PathBuf },
    #[error("reports cannot go to the branch {branch:?}: {why}")]
    BadReportsBranch { branch: String, why: &'static str },
    #[error("a report cannot have the file {path:?}: {why}")]
    BadReportFile { path: String, why: &'static str },
    #[error("the branch {branch:?} of {repository} was not made by this cluster's Egret: {why}")]
    ForeignBranch { repository: String, branch: String, why: String },
    #[error("{repository} does not take commits on the branch {branch:?}: {why}")]
    ReadOnly { repository: String, branch: String, why: String },
    #[error("others were faster {tries} times in a row with the branch {branch:?} of {repository}")]
    LostRace { repository: String, branch: String, tries: u32 },
}

impl Error {
    /// Whether trying again can help.
    pub fn fate(&self) -> Fate {
        match self {
            // A credential too: a secret is mounted late, or is being replaced.
            Self::Unreachable { .. }
            | Self::TooSlow { .. }
            | Self::TooMuch { .. }
            | Self::Worker { .. }
            | Self::Mirror { .. }
            | Self::State { .. }
            | Self::LostRace { .. }
            | Self::Credential { .. }
            | Self::Keys { .. }
            | Self::SigningKey { .. } => Fate::Retry,
            Self::NoToken { source, .. } if source.passes => Fate::Retry,
            Self::Web { source, .. } if source.may_pass() => Fate::Retry,
            _ => Fate::NeedsPerson,
        }
    }

    /// How long the server asked to be left alone.
    pub fn wait(&self) -> Option<Duration> {
        match self {
            Self::Web { source, .. } => source.wait(),
            _ => None,
        }
    }

    /// What to do about it, where there is something to say that the message does not.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::BadSource { .. } => "write a path, or file://, https://, ssh:// or user@host:path".to_owned(),
            // Else it was read, and the cause says what is wrong with it.
            Self::Credential { source, .. } if source.raw_os_error().is_none() => return None,
            Self::Credential { .. } => "is the secret mounted, and may Egret read it?".to_owned(),
            Self::Keys { hint, .. } => (*hint).to_owned(),
            Self::SigningKey { .. } => "make one: ssh-keygen -t ed25519 -N '' -f FILE".to_owned(),
            Self::NoToken { source, .. } => return source.hint.clone(),
            Self::Denied { .. } => "give a key (--git-ssh-key) or a token that may read the repository".to_owned(),
            Self::HostKey { host, verdict, offered, .. } => host_key_hint(host, verdict, offered),
            Self::NoRepository { .. } => "the path must be a bare repository or a work tree's top folder".to_owned(),
            Self::ForeignOwner { repository, .. } => {
                format!("run Egret as its owner, or trust it: git config --global --add safe.directory {repository}")
            }
            Self::Empty { .. } => "push a first commit; repo-template/ is a start".to_owned(),
            Self::NoDefaultBranch { branches, .. } | Self::UnknownBranch { branches, .. } => branches_hint(branches),
            Self::BranchDeleted { .. } => {
                "what was in force stays in force; push the branch again or name another".to_owned()
            }
            Self::BadRevision { .. } => {
                "write a branch, a tag, an id, HEAD, or one of them with ~n behind it".to_owned()
            }
            Self::UnknownRevision { .. } => "was it pushed?".to_owned(),
            Self::MissingCommit { .. } => {
                "it was in a history that is gone; compare with everything instead".to_owned()
            }
            Self::TooLarge { .. } => "name the folders of this cluster under `paths` in egret.yaml".to_owned(),
            Self::NotOurFolder { .. } => "name an empty folder, or one that is not there yet".to_owned(),
            Self::ForeignBranch { .. } => "rename that branch, or set another reports.branch in egret.yaml".to_owned(),
            Self::ReadOnly { .. } => {
                "let Egret's key push to that branch, or set `reports: {enabled: false}` in egret.yaml".to_owned()
            }
            Self::BadReportsBranch { .. } => "set another reports.branch in egret.yaml".to_owned(),
            Self::Unreachable { source, .. } => return unreachable_hint(source),
            Self::Web { source, .. } => return source.hint(),
            Self::TooSlow { .. } => {
                "what was in force stays in force, and it is tried again; --git-timeout gives it more time".to_owned()
            }
            Self::TooMuch { .. } => "if the repository is that large, raise --git-max-size".to_owned(),
            Self::Oversized { .. } => {
                "take it out of the history (git commit --amend, git rebase); what was in force stays in force"
                    .to_owned()
            }
            Self::Worker { .. } => "what was in force stays in force, and it is tried again".to_owned(),
            Self::Mirror { .. } | Self::State { .. } | Self::BadReportFile { .. } => return None,
            Self::LostRace { .. } => {
                "if nobody else pushes there, look for a stale .lock file in the repository".to_owned()
            }
        })
    }

    /// A fault of libgit2 while it talked to a repository.
    pub(super) fn talking(doing: &'static str, repository: &str, source: git2::Error) -> Self {
        let repository = repository.to_owned();
        match (source.code(), source.class()) {
            (ErrorCode::Auth, _) => {
                Self::Denied { repository, tried: "wrong credentials".to_owned(), source: Some(source) }
            }
            (ErrorCode::Owner, _) => Self::ForeignOwner { repository, source },
            (ErrorCode::NotFound, ErrorClass::Repository | ErrorClass::Os) => Self::NoRepository { repository, source },
            _ => Self::Unreachable { doing, repository, source },
        }
    }
}

/// libgit2's classes tell where it went wrong; its texts change.
fn unreachable_hint(source: &git2::Error) -> Option<String> {
    // The system's own words, whatever was being written.
    let ours = ["No space left on device", "Disk quota exceeded", "Read-only file system"];
    let hint = match (source.code(), source.class()) {
        _ if ours.iter().any(|words| source.message().contains(words)) => {
            "make room in the state folder (--state-dir), and let Egret write there; what was in force stays in force"
        }
        (_, ErrorClass::Net | ErrorClass::Os) => {
            "is the address right, is the server up, and does every firewall on the way let Egret through?"
        }
        (_, ErrorClass::Indexer | ErrorClass::Odb | ErrorClass::Zlib) => {
            "what the server sent is broken; `git fsck` there tells whether the repository is"
        }
        _ => return None,
    };
    Some(hint.to_owned())
}

fn verdict_words(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Known => "known_hosts has it".to_owned(),
        Verdict::Unknown => "known_hosts has no line for it".to_owned(),
        Verdict::Changed => "known_hosts has another key for it".to_owned(),
        Verdict::OtherKinds(kinds) => format!("known_hosts has only its {} key", kinds.join(" and its ")),
        Verdict::Revoked => "known_hosts has revoked it".to_owned(),
    }
}

fn host_key_hint(host: &str, verdict: &Verdict, offered: &str) -> String {
    match verdict {
        Verdict::Changed | Verdict::Revoked => {
            "somebody may be in between; compare the fingerprint with what the server's operator publishes".to_owned()
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
