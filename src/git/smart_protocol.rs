//! Fetch and push over the network by libgit2's smart protocol. Runs in the worker process only, and may block there.
//!
//! libgit2 gets an address on loopback: `http_relay` and `ssh_relay` connect it to the server, and have the credentials.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};

use git2::{
    AutotagOption, Direction, ErrorClass, FetchOptions, PushOptions, PushUpdate, RemoteCallbacks, RemoteConnection,
    RemoteRedirect, RemoteUpdateFlags, Repository,
};

use super::error::{Error, Result};
use super::exchange::{PushOutcome, PushRequest, Refspec, RemoteRefs};
use super::http_relay::HttpRelay;
use super::object_limits;
use super::ssh_relay::SshRelay;
use super::worker_protocol::WorkerRequest;

/// The most bytes kept of the output of a server's hooks.
const MOST_OUTPUT: usize = 1_000;

/// The request, and what the exchange reports progress to.
pub(super) struct TransferContext<'a> {
    pub(super) request: &'a WorkerRequest,
    pub(super) relay: &'a Relay,
    /// Called with the number of bytes received so far.
    pub(super) heartbeat: &'a dyn Fn(u64),
}

/// What libgit2 connects to.
pub(super) enum Relay {
    Http(HttpRelay),
    Ssh(SshRelay),
    /// The server itself, by `git://`.
    None,
}

impl Relay {
    /// Opens the relay for the source of a request.
    pub(super) fn start(request: &WorkerRequest) -> Result<Self> {
        if request.source.is_web() {
            HttpRelay::start(request).map(Self::Http)
        } else if request.source.ssh_host().is_some() {
            SshRelay::start(request).map(Self::Ssh)
        } else {
            Ok(Self::None)
        }
    }
}

/// Selects what to fetch, in the main process.
type SelectRefs<'a> = dyn FnMut(&RemoteRefs) -> Result<Vec<Refspec>> + 'a;

/// One connection, and the error that stopped it: libgit2 passes only a number and a text through its callbacks.
struct Session<'a> {
    context: &'a TransferContext<'a>,
    error: RefCell<Option<Error>>,
}

/// Lists the references and fetches those that `select` returns, over one connection.
pub(super) fn fetch(
    context: &TransferContext<'_>,
    mirror: &Repository,
    select: &mut SelectRefs<'_>,
) -> Result<RemoteRefs> {
    let session = Session::new(context);
    let mut remote = mirror.remote_anonymous(session.url()).map_err(|error| session.fault("name", error))?;
    let mut connection = remote
        .connect_auth(Direction::Fetch, Some(session.callbacks()), None)
        .map_err(|error| session.fault("connect to", error))?;
    let refs = list(&connection).map_err(|error| session.fault("list the branches of", error))?;
    let refspecs: Vec<String> =
        select(&refs)?.iter().map(|refspec| format!("+{}:{}", refspec.remote, refspec.local)).collect();
    if !refspecs.is_empty() {
        let mut options = FetchOptions::new();
        options
            .remote_callbacks(session.callbacks())
            .follow_redirects(RemoteRedirect::None)
            .download_tags(AutotagOption::None)
            .depth(i32::try_from(session.request().depth).unwrap_or(i32::MAX))
            .update_fetchhead(false);
        connection
            .remote()
            .download(&refspecs, Some(&mut options))
            .map_err(|error| session.fault("fetch from", error))?;
        // Before a reference leads to it: what a reference leads to is not fetched again.
        object_limits::check(mirror, &session.request().source.to_string(), &|| (context.heartbeat)(0))?;
        let noted = connection.remote().update_tips(None, RemoteUpdateFlags::empty(), AutotagOption::None, None);
        noted.map_err(|error| session.fault("fetch from", error))?;
    }
    Ok(refs)
}

/// Pushes a commit. libgit2 returns Ok also for a push that was rejected, and for one without a report from the server; only the status of
/// the reference counts.
pub(super) fn push(
    context: &TransferContext<'_>,
    mirror: &Repository,
    request: &PushRequest<'_>,
) -> Result<PushOutcome> {
    let session = Session::new(context);
    let stale = RefCell::new(false);
    let status = RefCell::new(None);
    let output = RefCell::new(Vec::new());
    let mut callbacks = session.callbacks();
    callbacks.push_negotiation(|updates: &[PushUpdate<'_>]| {
        // Where the reference is now; the server compares again, under its lock, before it moves it.
        let as_expected = updates.iter().all(|update| update.src() == request.expected.unwrap_or(git2::Oid::ZERO_SHA1));
        if as_expected {
            Ok(())
        } else {
            *stale.borrow_mut() = true;
            Err(git2::Error::from_str("another client pushed first"))
        }
    });
    callbacks.push_update_reference(|name, refused| {
        if name == request.name {
            *status.borrow_mut() = Some(refused.map(str::to_owned));
        }
        Ok(())
    });
    callbacks.sideband_progress(|text| {
        (context.heartbeat)(0);
        let mut output = output.borrow_mut();
        let room = MOST_OUTPUT.saturating_sub(output.len());
        output.extend_from_slice(&text[..text.len().min(room)]);
        true
    });
    let mut options = PushOptions::new();
    options.remote_callbacks(callbacks).follow_redirects(RemoteRedirect::None);
    let mut remote = mirror.remote_anonymous(session.url()).map_err(|error| session.fault("name", error))?;
    // Forced, because a compacted branch does not descend from the old one. It overwrites nothing: the branch must be at the expected
    // commit, which is checked above, and by the server under its lock.
    let result = remote.push(&[format!("+{}:{}", request.commit, request.name)], Some(&mut options));
    drop(options);
    if stale.into_inner() {
        return Ok(PushOutcome::Stale);
    }
    match (result, status.into_inner()) {
        (Ok(()), Some(None)) => Ok(PushOutcome::Updated),
        (_, Some(Some(why))) => Ok(PushOutcome::Rejected(with_output(&why, &output.into_inner()))),
        (Ok(()), None) => {
            Err(session.fault("push to", git2::Error::from_str("the server does not report the outcome")))
        }
        (Err(error), _) if error.code() == git2::ErrorCode::NotFastForward => Ok(PushOutcome::Stale),
        (Err(error), _) => match session.fault("push to", error) {
            // The same credentials have just read the repository, so they lack only the permission to write.
            Error::Denied { .. } => Ok(PushOutcome::Rejected(READ_ONLY.to_owned())),
            Error::Unreachable { source, action, repository } => match permission_denied(&source) {
                Some(why) => Ok(PushOutcome::Rejected(why)),
                None => Err(Error::Unreachable { source, action, repository }),
            },
            other => Err(other),
        },
    }
}

/// The reason of a rejected push whose credentials can read.
const READ_ONLY: &str = "the credentials may read, and not push";

/// The reason, if a push failed for lack of permission. libgit2 has no code for it.
fn permission_denied(error: &git2::Error) -> Option<String> {
    /// In the messages of GitHub, GitLab, Gitea and Forgejo to an SSH client.
    const PHRASES: [&str; 6] = ["read only", "read-only", "denied", "not allowed", "not authorized", "write access"];
    let message = error.message();
    match error.class() {
        // A key for which upload-pack is run, whatever it asks for.
        ErrorClass::Ssh if message.contains("upload-pack") => Some(READ_ONLY.to_owned()),
        ErrorClass::Ssh if PHRASES.iter().any(|word| message.to_ascii_lowercase().contains(word)) => {
            Some(with_output(READ_ONLY, message.as_bytes()))
        }
        _ => None,
    }
}

/// A rejection with the output of a hook, in one line without control characters.
fn with_output(why: &str, output: &[u8]) -> String {
    let clean = String::from_utf8_lossy(output).replace(char::is_control, " ");
    let words: Vec<&str> = clean.split_whitespace().collect();
    if words.is_empty() { why.to_owned() } else { format!("{why}: {}", words.join(" ")) }
}

fn list(connection: &RemoteConnection<'_, '_, '_>) -> std::result::Result<RemoteRefs, git2::Error> {
    let mut refs = RemoteRefs::default();
    for head in connection.list()? {
        // git2 panics on a name that is not UTF-8, and anyone who may push can create one. Such a branch cannot be configured.
        let Ok(name) = catch_unwind(AssertUnwindSafe(|| head.name().to_owned())) else { continue };
        if name == "HEAD" {
            let target = catch_unwind(AssertUnwindSafe(|| head.symref_target().map(str::to_owned))).ok().flatten();
            refs.default_branch = target.and_then(|name| name.strip_prefix("refs/heads/").map(str::to_owned));
        } else if (name.starts_with("refs/heads/") || name.starts_with("refs/tags/")) && !name.ends_with("^{}") {
            refs.refs.insert(name, head.oid());
        }
    }
    Ok(refs)
}

impl<'a> Session<'a> {
    fn new(context: &'a TransferContext<'a>) -> Self {
        Self { context, error: RefCell::new(None) }
    }

    fn request(&self) -> &'a WorkerRequest {
        self.context.request
    }

    fn url(&self) -> &'a str {
        match self.context.relay {
            Relay::Http(relay) => relay.url(),
            Relay::Ssh(relay) => relay.url(),
            Relay::None => self.request().source.url(),
        }
    }

    /// Reports progress. Past the limit of bytes it stops libgit2.
    fn arrived(&self, bytes: usize) -> bool {
        (self.context.heartbeat)(bytes as u64);
        let max_bytes = self.request().max_bytes;
        let too_much = bytes as u64 > max_bytes;
        if too_much {
            self.abort(Error::TooMuch { repository: self.request().source.to_string(), max_bytes });
        }
        !too_much
    }

    /// The error that stopped libgit2 if remote is one, else the server's, else libgit2's.
    fn fault(&self, action: &'static str, error: git2::Error) -> Error {
        let stopped = self.error.borrow_mut().take();
        stopped.or_else(|| self.relay_error()).unwrap_or_else(|| {
            Error::during(action, &self.request().source.to_string(), self.server_error().unwrap_or(error))
        })
    }

    fn relay_error(&self) -> Option<Error> {
        if let Relay::Http(relay) = self.context.relay { relay.take_error() } else { None }
    }

    /// What an SSH server's program reported, see [`SshRelay::server_error`].
    fn server_error(&self) -> Option<git2::Error> {
        if let Relay::Ssh(relay) = self.context.relay { relay.server_error() } else { None }
    }

    /// Keeps the error, and returns one for libgit2. `GIT_EAUTH` would make libgit2 ask again.
    fn abort(&self, error: Error) -> git2::Error {
        *self.error.borrow_mut() = Some(error);
        git2::Error::from_str("aborted by egret")
    }

    fn callbacks(&self) -> RemoteCallbacks<'_> {
        let mut callbacks = RemoteCallbacks::new();
        callbacks.transfer_progress(|progress| self.arrived(progress.received_bytes()));
        callbacks.sideband_progress(|_| {
            (self.context.heartbeat)(0);
            true
        });
        callbacks
    }
}
