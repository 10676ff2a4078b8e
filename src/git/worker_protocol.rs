//! The protocol between the supervisor and the worker process: one JSON object a line, over pipes.
//!
//! An error crosses with everything that callers use: its kind, its text, its cause. A secret that was part of an address crosses too,
//! and this pipe is the only place it goes.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use git2::{ErrorClass, ErrorCode, Oid};
use serde::{Deserialize, Serialize};

use super::access::ClientCertificate;
use super::credentials::{Credentials, Secret};
use super::error::Error;
use super::exchange::{PushOutcome, RemoteRefs};
use super::known_hosts::HostKeyStatus;
use super::smart_http::Service;
use super::source::Source;
use super::transport_error::TransportError;

/// The worker's first line of input: what it has to do.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct WorkerRequest {
    /// The repository.
    pub(super) source: Source,
    pub(super) credentials: Credentials,
    pub(super) ca_file: Option<PathBuf>,
    pub(super) client_certificate: Option<ClientCertificate>,
    pub(super) proxy: Option<Secret>,
    /// How long connecting may take.
    pub(super) connect: Duration,
    /// The supervisor's home: its `known_hosts` is read, not that of the worker's empty home.
    pub(super) home: Option<PathBuf>,
    /// The bare repository that objects come into or from.
    pub(super) mirror: PathBuf,
    /// The supervisor's process. Once it has ended, the answer is of no use.
    pub(super) parent: u32,
    /// The max_bytes bytes that a fetch may bring.
    pub(super) max_bytes: u64,
    /// How many commits of a branch's history a fetch brings; 0: all.
    pub(super) depth: u32,
    pub(super) task: Task,
}

/// One exchange.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum Task {
    /// List the references, read which of them to fetch from the second line of input (a list of `Refspec`), and fetch them.
    Fetch,
    /// Move a reference.
    Push { commit: String, name: String, expected: Option<String> },
}

impl Task {
    /// The service of the server that the task needs.
    pub(super) fn service(&self) -> Service {
        match self {
            Self::Fetch => Service::UploadPack,
            Self::Push { .. } => Service::ReceivePack,
        }
    }
}

/// A line of the worker's output.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum WorkerMessage {
    /// The references of the repository.
    Refs { default_branch: Option<String>, refs: BTreeMap<String, String> },
    /// So many bytes have arrived; or the server sent something else, such as progress text.
    Heartbeat { bytes: u64 },
    /// The fetch is complete.
    Fetched,
    /// The push has an outcome.
    Pushed(PushOutcome),
    /// The task failed.
    Failed(WireError),
}

/// An error of an exchange. Others don't occur in the worker.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum WireError {
    Credential { path: PathBuf, cause: OsCause },
    Denied { repository: String, tried: String, cause: Option<GitCause> },
    HostKey { repository: String, host: String, offered: String, status: HostKeyStatus },
    Unreachable { action: String, repository: String, cause: GitCause },
    NoRepository { repository: String, cause: GitCause },
    Transport { action: String, repository: String, cause: TransportError },
    TooMuch { repository: String, max_bytes: u64 },
    Oversized { repository: String, id: String, what: String },
    Mirror { action: String, repository: String, cause: GitCause },
    Other { repository: String, text: String },
}

/// An error of libgit2, by its own numbers.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct GitCause {
    code: i32,
    class: u32,
    message: String,
}

/// An error of the operating system.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct OsCause {
    number: Option<i32>,
    message: String,
}

/// The actions of an exchange, as errors name them.
pub(super) const ACTIONS: [&str; 8] = [
    "name",
    "connect to",
    "list the branches of",
    "fetch from",
    "push to",
    "note what was fetched",
    "check what was fetched",
    "open",
];

/// The codes and classes that a hint or a caller depends on; every other one becomes the generic one.
const CODES: [ErrorCode; 12] = [
    ErrorCode::NotFound,
    ErrorCode::Exists,
    ErrorCode::Ambiguous,
    ErrorCode::User,
    ErrorCode::NotFastForward,
    ErrorCode::Locked,
    ErrorCode::Auth,
    ErrorCode::Certificate,
    ErrorCode::Eof,
    ErrorCode::Invalid,
    ErrorCode::Owner,
    ErrorCode::Timeout,
];
const CLASSES: [ErrorClass; 17] = [
    ErrorClass::NoMemory,
    ErrorClass::Os,
    ErrorClass::Invalid,
    ErrorClass::Reference,
    ErrorClass::Zlib,
    ErrorClass::Repository,
    ErrorClass::Config,
    ErrorClass::Odb,
    ErrorClass::Object,
    ErrorClass::Net,
    ErrorClass::Tree,
    ErrorClass::Indexer,
    ErrorClass::Ssl,
    ErrorClass::Ssh,
    ErrorClass::Callback,
    ErrorClass::Filesystem,
    ErrorClass::Http,
];

impl WorkerMessage {
    pub(super) fn refs(refs: &RemoteRefs) -> Self {
        Self::Refs {
            default_branch: refs.default_branch.clone(),
            refs: refs.refs.iter().map(|(name, id)| (name.clone(), id.to_string())).collect(),
        }
    }
}

/// The references of [`WorkerMessage::Refs`].
pub(super) fn refs(default_branch: Option<String>, refs: BTreeMap<String, String>) -> RemoteRefs {
    let refs = refs.into_iter().filter_map(|(name, id)| Some((name, Oid::from_str(&id).ok()?)));
    RemoteRefs { default_branch, refs: refs.collect() }
}

impl WireError {
    pub(super) fn of(error: Error, repository: &str) -> Self {
        match error {
            Error::Credential { path, source } => Self::Credential { path, cause: OsCause::of(&source) },
            Error::Denied { repository, tried, source } => {
                Self::Denied { repository, tried, cause: source.as_ref().map(GitCause::of) }
            }
            Error::HostKey { repository, host, offered, status } => Self::HostKey { repository, host, offered, status },
            Error::Unreachable { action, repository, source } => {
                Self::Unreachable { action: action.to_owned(), repository, cause: GitCause::of(&source) }
            }
            Error::NoRepository { repository, source } => {
                Self::NoRepository { repository, cause: GitCause::of(&source) }
            }
            Error::Transport { action, repository, source } => {
                Self::Transport { action: action.to_owned(), repository, cause: source }
            }
            Error::TooMuch { repository, max_bytes } => Self::TooMuch { repository, max_bytes },
            Error::Oversized { repository, id, what } => Self::Oversized { repository, id, what },
            Error::Mirror { action, repository, source } => {
                Self::Mirror { action: action.to_owned(), repository, cause: GitCause::of(&source) }
            }
            other => Self::Other { repository: repository.to_owned(), text: other.to_string() },
        }
    }

    pub(super) fn into_error(self) -> Error {
        match self {
            Self::Credential { path, cause } => Error::Credential { path, source: cause.into_error() },
            Self::Denied { repository, tried, cause } => {
                Error::Denied { repository, tried, source: cause.map(GitCause::into_error) }
            }
            Self::HostKey { repository, host, offered, status } => Error::HostKey { repository, host, offered, status },
            Self::Unreachable { action, repository, cause } => {
                Error::Unreachable { action: known(&action), repository, source: cause.into_error() }
            }
            Self::NoRepository { repository, cause } => Error::NoRepository { repository, source: cause.into_error() },
            Self::Transport { action, repository, cause } => {
                Error::Transport { action: known(&action), repository, source: cause }
            }
            Self::TooMuch { repository, max_bytes } => Error::TooMuch { repository, max_bytes },
            Self::Oversized { repository, id, what } => Error::Oversized { repository, id, what },
            Self::Mirror { action, repository, cause } => {
                Error::Mirror { action: known(&action), repository, source: cause.into_error() }
            }
            Self::Other { repository, text } => Error::Worker { repository, what: text },
        }
    }
}

fn known(action: &str) -> &'static str {
    ACTIONS.into_iter().find(|known| *known == action).unwrap_or("talk to")
}

impl GitCause {
    fn of(error: &git2::Error) -> Self {
        Self { code: error.raw_code(), class: error.raw_class(), message: error.message().to_owned() }
    }

    fn into_error(self) -> git2::Error {
        let mut error = git2::Error::from_str(&self.message);
        let code = CODES.into_iter().find(|code| with_code(*code).raw_code() == self.code);
        let class = CLASSES.into_iter().find(|class| with_class(*class).raw_class() == self.class);
        error.set_code(code.unwrap_or(ErrorCode::GenericError));
        error.set_class(class.unwrap_or(ErrorClass::None));
        error
    }
}

fn with_code(code: ErrorCode) -> git2::Error {
    git2::Error::new(code, ErrorClass::None, "")
}

fn with_class(class: ErrorClass) -> git2::Error {
    git2::Error::new(ErrorCode::GenericError, class, "")
}

impl OsCause {
    fn of(error: &io::Error) -> Self {
        Self { number: error.raw_os_error(), message: error.to_string() }
    }

    fn into_error(self) -> io::Error {
        self.number.map_or_else(|| io::Error::other(self.message), io::Error::from_raw_os_error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent_over(error: Error) -> Error {
        let line = serde_json::to_string(&WireError::of(error, "https://h/p")).expect("JSON");
        serde_json::from_str::<WireError>(&line).expect("an error").into_error()
    }

    #[test]
    fn an_error_is_the_same_after_it_was_sent() {
        let repository = || "https://h/p".to_owned();
        let cause = || git2::Error::new(ErrorCode::Certificate, ErrorClass::Ssl, "self-signed certificate");
        let missing = || io::Error::from_raw_os_error(2);
        let errors: [fn(String, git2::Error, io::Error) -> Error; 8] = [
            |_, _, source| Error::Credential { path: "/run/key".into(), source },
            |repository, source, _| Error::Denied { repository, tried: "x".to_owned(), source: Some(source) },
            |repository, _, _| Error::HostKey {
                repository,
                host: "h".to_owned(),
                offered: "ssh-ed25519 SHA256:x".to_owned(),
                status: HostKeyStatus::OtherKinds(vec!["ssh-rsa".to_owned()]),
            },
            |repository, source, _| Error::Unreachable { action: "fetch from", repository, source },
            |repository, source, _| Error::NoRepository { repository, source },
            |repository, _, _| Error::Transport {
                action: "push to",
                repository,
                source: TransportError::Unavailable { status: 429, seconds: Some(3) },
            },
            |repository, _, _| Error::TooMuch { repository, max_bytes: 1 << 20 },
            |repository, _, _| Error::Oversized { repository, id: "0a".to_owned(), what: "a commit".to_owned() },
        ];
        for error in errors {
            let (there, here) =
                (error(repository(), cause(), missing()), sent_over(error(repository(), cause(), missing())));
            assert_eq!(format!("{there:?}"), format!("{here:?}"));
            assert_eq!((there.to_string(), there.hint(), there.kind()), (here.to_string(), here.hint(), here.kind()));
        }
    }

    #[test]
    fn an_error_that_no_exchange_has_keeps_its_text() {
        let other = sent_over(Error::Empty { repository: "https://h/p".to_owned() });
        assert_eq!(
            other.to_string(),
            "the Git worker process for https://h/p failed: https://h/p is empty: nothing was pushed to it yet"
        );
    }
}
