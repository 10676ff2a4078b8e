//! What is said between this process and the worker that talks to the network: one JSON object a line.
//!
//! An error crosses with everything that people and the loop make of it: its kind, its text, its cause. Secrets that stand in an
//! address cross too, and the pipe is the only place where they do. Deliberately absent: who says what when (`overseer`, `worker`).

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use git2::{ErrorClass, ErrorCode, Oid};
use serde::{Deserialize, Serialize};

use super::access::ClientCertificate;
use super::credentials::{Credentials, Secret};
use super::error::Error;
use super::known_hosts::Verdict;
use super::remote::{Listing, Pushed, Want};
use super::source::Source;
use super::trouble::Trouble;

/// What the worker is to do, in its first line.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Request {
    /// The repository to talk to.
    pub(super) source: Source,
    pub(super) credentials: Credentials,
    pub(super) ca_file: Option<PathBuf>,
    pub(super) client_certificate: Option<ClientCertificate>,
    pub(super) proxy: Option<Secret>,
    /// How long a connection may take to come about.
    pub(super) connect: Duration,
    /// The home of whoever asks: its `known_hosts` counts, not that of the worker's empty home.
    pub(super) home: Option<PathBuf>,
    /// The bare repository that objects come into or from.
    pub(super) mirror: PathBuf,
    /// Who asks. If it is gone, nobody needs the answer.
    pub(super) parent: u32,
    /// The most bytes that a fetch may bring.
    pub(super) most: u64,
    pub(super) task: Task,
}

/// One conversation.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum Task {
    /// List the references, wait to be told which to fetch, and fetch them.
    Look,
    /// Move a reference.
    Push { commit: String, name: String, expected: Option<String> },
}

/// What to fetch, in the second line of a look: name there, name here.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Wants(Vec<(String, String)>);

/// A line of the worker.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Word {
    /// What there is.
    Listing { default_branch: Option<String>, refs: BTreeMap<String, String> },
    /// So many bytes have arrived; or the other side said something that is not for us.
    Alive { bytes: u64 },
    /// A look is done.
    Fetched,
    /// A push is done.
    Pushed(Outcome),
    /// It failed.
    Failed(Fault),
}

/// [`Pushed`].
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Outcome {
    Done,
    Overtaken,
    Refused(String),
}

/// An error of a conversation. Others don't arise there.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Fault {
    Credential { path: PathBuf, cause: System },
    Denied { repository: String, tried: String, cause: Option<Cause> },
    HostKey { repository: String, host: String, offered: String, verdict: Verdict },
    Unreachable { doing: String, repository: String, cause: Cause },
    NoRepository { repository: String, cause: Cause },
    Web { doing: String, repository: String, trouble: Trouble },
    TooMuch { repository: String, most: u64 },
    Oversized { repository: String, id: String, what: String },
    Mirror { doing: String, repository: String, cause: Cause },
    Other { repository: String, text: String },
}

/// An error of libgit2, by its own numbers.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Cause {
    code: i32,
    class: u32,
    message: String,
}

/// An error of the system.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct System {
    number: Option<i32>,
    message: String,
}

/// What can be tried in a conversation, as errors name it.
pub(super) const DOINGS: [&str; 6] =
    ["name", "connect to", "list the branches of", "fetch from", "push to", "note what was fetched"];

/// Those that something depends on, here or in a hint; any other is as good as none.
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

impl Wants {
    pub(super) fn of(wants: Vec<Want>) -> Self {
        Self(wants.into_iter().map(|want| (want.name, want.into)).collect())
    }

    pub(super) fn wants(self) -> Vec<Want> {
        self.0.into_iter().map(|(name, into)| Want { name, into }).collect()
    }
}

impl Word {
    pub(super) fn listing(listing: &Listing) -> Self {
        Self::Listing {
            default_branch: listing.default_branch.clone(),
            refs: listing.refs.iter().map(|(name, id)| (name.clone(), id.to_string())).collect(),
        }
    }

    pub(super) fn pushed(pushed: Pushed) -> Self {
        Self::Pushed(match pushed {
            Pushed::Done => Outcome::Done,
            Pushed::Overtaken => Outcome::Overtaken,
            Pushed::Refused(why) => Outcome::Refused(why),
        })
    }
}

impl Outcome {
    pub(super) fn pushed(self) -> Pushed {
        match self {
            Self::Done => Pushed::Done,
            Self::Overtaken => Pushed::Overtaken,
            Self::Refused(why) => Pushed::Refused(why),
        }
    }
}

/// A listing as it was before it crossed.
pub(super) fn listing(default_branch: Option<String>, refs: BTreeMap<String, String>) -> Listing {
    let refs = refs.into_iter().filter_map(|(name, id)| Some((name, Oid::from_str(&id).ok()?)));
    Listing { default_branch, refs: refs.collect() }
}

impl Fault {
    pub(super) fn of(error: Error, repository: &str) -> Self {
        match error {
            Error::Credential { path, source } => Self::Credential { path, cause: System::of(&source) },
            Error::Denied { repository, tried, source } => {
                Self::Denied { repository, tried, cause: source.as_ref().map(Cause::of) }
            }
            Error::HostKey { repository, host, offered, verdict } => {
                Self::HostKey { repository, host, offered, verdict }
            }
            Error::Unreachable { doing, repository, source } => {
                Self::Unreachable { doing: doing.to_owned(), repository, cause: Cause::of(&source) }
            }
            Error::NoRepository { repository, source } => Self::NoRepository { repository, cause: Cause::of(&source) },
            Error::Web { doing, repository, source } => {
                Self::Web { doing: doing.to_owned(), repository, trouble: source }
            }
            Error::TooMuch { repository, most } => Self::TooMuch { repository, most },
            Error::Oversized { repository, id, what } => Self::Oversized { repository, id, what },
            Error::Mirror { doing, repository, source } => {
                Self::Mirror { doing: doing.to_owned(), repository, cause: Cause::of(&source) }
            }
            other => Self::Other { repository: repository.to_owned(), text: other.to_string() },
        }
    }

    pub(super) fn error(self) -> Error {
        match self {
            Self::Credential { path, cause } => Error::Credential { path, source: cause.error() },
            Self::Denied { repository, tried, cause } => {
                Error::Denied { repository, tried, source: cause.map(Cause::error) }
            }
            Self::HostKey { repository, host, offered, verdict } => {
                Error::HostKey { repository, host, offered, verdict }
            }
            Self::Unreachable { doing, repository, cause } => {
                Error::Unreachable { doing: known(&doing), repository, source: cause.error() }
            }
            Self::NoRepository { repository, cause } => Error::NoRepository { repository, source: cause.error() },
            Self::Web { doing, repository, trouble } => {
                Error::Web { doing: known(&doing), repository, source: trouble }
            }
            Self::TooMuch { repository, most } => Error::TooMuch { repository, most },
            Self::Oversized { repository, id, what } => Error::Oversized { repository, id, what },
            Self::Mirror { doing, repository, cause } => {
                Error::Mirror { doing: known(&doing), repository, source: cause.error() }
            }
            Self::Other { repository, text } => Error::Worker { repository, what: text },
        }
    }
}

fn known(doing: &str) -> &'static str {
    DOINGS.into_iter().find(|known| *known == doing).unwrap_or("talk to")
}

impl Cause {
    fn of(error: &git2::Error) -> Self {
        Self { code: error.raw_code(), class: error.raw_class(), message: error.message().to_owned() }
    }

    fn error(self) -> git2::Error {
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

impl System {
    fn of(error: &io::Error) -> Self {
        Self { number: error.raw_os_error(), message: error.to_string() }
    }

    fn error(self) -> io::Error {
        self.number.map_or_else(|| io::Error::other(self.message), io::Error::from_raw_os_error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn crossed(error: Error) -> Error {
        let line = serde_json::to_string(&Fault::of(error, "https://h/p")).expect("JSON");
        serde_json::from_str::<Fault>(&line).expect("a fault").error()
    }

    #[test]
    fn an_error_is_the_same_on_the_other_side() {
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
                verdict: Verdict::OtherKinds(vec!["ssh-rsa".to_owned()]),
            },
            |repository, source, _| Error::Unreachable { doing: "fetch from", repository, source },
            |repository, source, _| Error::NoRepository { repository, source },
            |repository, _, _| Error::Web {
                doing: "push to",
                repository,
                source: Trouble::Busy { status: 429, seconds: Some(3) },
            },
            |repository, _, _| Error::TooMuch { repository, most: 1 << 20 },
            |repository, _, _| Error::Oversized { repository, id: "0a".to_owned(), what: "a commit".to_owned() },
        ];
        for error in errors {
            let (there, here) =
                (error(repository(), cause(), missing()), crossed(error(repository(), cause(), missing())));
            assert_eq!(format!("{there:?}"), format!("{here:?}"));
            assert_eq!((there.to_string(), there.hint(), there.fate()), (here.to_string(), here.hint(), here.fate()));
        }
    }

    #[test]
    fn an_error_that_no_conversation_has_keeps_its_text() {
        let other = crossed(Error::Empty { repository: "https://h/p".to_owned() });
        assert_eq!(
            other.to_string(),
            "the process that talks to https://h/p failed: https://h/p is empty: nothing was pushed to it yet"
        );
    }
}
