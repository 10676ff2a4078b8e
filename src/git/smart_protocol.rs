//! Fetch and push over the network by libgit2's smart protocol, with its callbacks for credentials, host keys and progress. Runs in the worker
//! process only, and may block there. HTTPS goes through `http_relay`: libgit2 gets an address on loopback.

use std::cell::RefCell;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use git2::{
    AutotagOption, CertificateCheckStatus, Cred, CredentialType, Direction, ErrorClass, FetchOptions, PushOptions,
    PushUpdate, RemoteCallbacks, RemoteConnection, RemoteRedirect, RemoteUpdateFlags, Repository,
};

use git2::cert::Cert;

use super::error::{Error, Result};
use super::exchange::{PushOutcome, PushRequest, Refspec, RemoteRefs};
use super::http_relay::HttpRelay;
use super::key_file;
use super::known_hosts::{self, HostKeyStatus, OfferedKey, check_host_key};
use super::object_limits;
use super::worker_protocol::WorkerRequest;

/// libgit2 asks until it gets no answer: once for the user name, and once for each kind of credential, is enough.
const MOST_CREDENTIALS: usize = 3;

/// The most bytes kept of the output of a server's hooks.
const MOST_OUTPUT: usize = 1_000;

/// The request, and what the exchange reports progress to.
pub(super) struct TransferContext<'a> {
    pub(super) request: &'a WorkerRequest,
    /// The relay to an HTTPS server.
    pub(super) relay: Option<&'a HttpRelay>,
    /// Called with the number of bytes received so far.
    pub(super) heartbeat: &'a dyn Fn(u64),
}

/// Selects what to fetch, in the main process.
type SelectRefs<'a> = dyn FnMut(&RemoteRefs) -> Result<Vec<Refspec>> + 'a;

/// One connection, and the error that stopped it: libgit2 passes only a number and a text through its callbacks.
struct Session<'a> {
    context: &'a TransferContext<'a>,
    tried: RefCell<Vec<&'static str>>,
    error: RefCell<Option<Error>>,
}

/// Lists the references and fetches those that `select` returns, over one connection.
pub(super) fn fetch(
    context: &TransferContext<'_>,
    mirror: &Repository,
    select: &mut SelectRefs<'_>,
) -> Result<RemoteRefs> {
    match fetch_once(context, mirror, select) {
        // It has no key of a known kind: let it offer any, so that the error can name the fingerprint.
        Err(Error::Unreachable { action, repository, source }) if no_common_key(&source) => {
            remove_known_hosts();
            match fetch_once(context, mirror, select) {
                Err(shown @ Error::HostKey { .. }) => Err(shown),
                _ => Err(Error::Unreachable { action, repository, source }),
            }
        }
        result => result,
    }
}

/// libssh2 has no code for it.
fn no_common_key(error: &git2::Error) -> bool {
    error.class() == ErrorClass::Ssh && error.message().contains("failed to start SSH session")
}

fn fetch_once(context: &TransferContext<'_>, mirror: &Repository, select: &mut SelectRefs<'_>) -> Result<RemoteRefs> {
    let session = Session::new(context);
    let mut there = mirror.remote_anonymous(session.url()).map_err(|error| session.fault("name", error))?;
    let mut connection = there
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
    let mut there = mirror.remote_anonymous(session.url()).map_err(|error| session.fault("name", error))?;
    // Forced, because a compacted branch does not descend from the old one. It overwrites nothing: the branch must be at the expected
    // commit, which is checked above, and by the server under its lock.
    let result = there.push(&[format!("+{}:{}", request.commit, request.name)], Some(&mut options));
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
        (Err(error), _) if permission_denied(&error).is_some() => {
            Ok(PushOutcome::Rejected(permission_denied(&error).unwrap_or_default()))
        }
        (Err(error), _) => match session.fault("push to", error) {
            // The same credentials have just read the repository, so they lack only the permission to write.
            Error::Denied { .. } => Ok(PushOutcome::Rejected(READ_ONLY.to_owned())),
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
fn with_output(why: &str, said: &[u8]) -> String {
    let said = String::from_utf8_lossy(said);
    let clean = said.replace(char::is_control, " ");
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
        Self { context, tried: RefCell::new(Vec::new()), error: RefCell::new(None) }
    }

    fn request(&self) -> &'a WorkerRequest {
        self.context.request
    }

    fn url(&self) -> &'a str {
        self.context.relay.map_or(self.request().source.url(), HttpRelay::url)
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

    /// The error that stopped libgit2 if there is one, else libgit2's.
    fn fault(&self, action: &'static str, error: git2::Error) -> Error {
        self.error
            .borrow_mut()
            .take()
            .or_else(|| self.context.relay.and_then(HttpRelay::take_error))
            .unwrap_or_else(|| Error::during(action, &self.request().source.to_string(), error))
    }

    /// Keeps the error, and returns one for libgit2. `GIT_EAUTH` would make libgit2 ask again.
    fn abort(&self, error: Error) -> git2::Error {
        *self.error.borrow_mut() = Some(error);
        git2::Error::from_str("aborted by egret")
    }

    fn callbacks(&self) -> RemoteCallbacks<'_> {
        let mut callbacks = RemoteCallbacks::new();
        callbacks.credentials(|_, user, allowed| self.credential(user, allowed));
        callbacks.certificate_check(|certificate, host| self.check_server(certificate, host));
        callbacks.transfer_progress(|progress| self.arrived(progress.received_bytes()));
        callbacks.sideband_progress(|_| {
            (self.context.heartbeat)(0);
            true
        });
        callbacks
    }

    fn credential(&self, user: Option<&str>, allowed: CredentialType) -> std::result::Result<Cred, git2::Error> {
        let WorkerRequest { source, credentials, .. } = self.request();
        let user = user.or(source.user()).unwrap_or("git");
        let tried = self.tried.borrow().clone();
        if allowed.contains(CredentialType::USERNAME) && tried.len() < MOST_CREDENTIALS {
            self.tried.borrow_mut().push("the user's name");
            return Cred::username(user);
        }
        let untried = |kind| !tried.contains(&kind) && tried.len() < MOST_CREDENTIALS;
        if allowed.contains(CredentialType::SSH_KEY) {
            if let Some(key) = credentials.ssh_key.as_deref().filter(|_| untried("the SSH key")) {
                self.tried.borrow_mut().push("the SSH key");
                key_file::check(key).map_err(|fault| self.abort(fault))?;
                return Cred::ssh_key(user, None, key, None);
            }
            if credentials.ssh_key.is_none() && std::env::var_os("SSH_AUTH_SOCK").is_some() && untried("the SSH agent")
            {
                self.tried.borrow_mut().push("the SSH agent");
                return Cred::ssh_key_from_agent(user);
            }
        }
        if allowed.contains(CredentialType::USER_PASS_PLAINTEXT) && untried("the password") {
            let password = credentials.read_password().map_err(|fault| self.abort(fault))?;
            if let Some(password) = password.as_ref().or(source.password()) {
                self.tried.borrow_mut().push("the password");
                return Cred::userpass_plaintext(credentials.user.as_deref().unwrap_or(user), password.reveal());
            }
        }
        Err(self.abort(Error::Denied {
            repository: source.to_string(),
            tried: if tried.is_empty() {
                "no credentials are configured".to_owned()
            } else {
                format!("tried {}", tried.join(", "))
            },
            source: None,
        }))
    }

    /// Checks an SSH server's host key against `known_hosts`. TLS does not reach libgit2.
    fn check_server(
        &self,
        certificate: &Cert<'_>,
        host: &str,
    ) -> std::result::Result<CertificateCheckStatus, git2::Error> {
        let Some(hostkey) = certificate.as_hostkey() else { return Ok(CertificateCheckStatus::CertificatePassthrough) };
        let WorkerRequest { source, credentials, .. } = self.request();
        let offered = OfferedKey {
            kind: hostkey.hostkey_type().map_or("unknown", |kind| kind.name()).to_owned(),
            blob: hostkey.hostkey().unwrap_or_default().to_vec(),
            sha256: hostkey.hash_sha256().copied().unwrap_or_default(),
        };
        let file = credentials.read_known_hosts(self.request().home.as_deref()).map_err(|fault| self.abort(fault))?;
        match check_host_key(&file, host, source.ssh_host().map_or(22, |(_, port)| port), &offered) {
            HostKeyStatus::Known => Ok(CertificateCheckStatus::CertificateOk),
            status => {
                let (repository, host) = (source.to_string(), host.to_owned());
                Err(self.abort(Error::HostKey { repository, host, offered: offered.to_string(), status }))
            }
        }
    }
}

/// Writes the known keys of this host to the file that libgit2 reads. It does not decide by them, but asks the server for a key of a kind
/// that is there: otherwise a server with several keys might offer one that is not pinned.
pub(super) fn write_known_hosts(request: &WorkerRequest) {
    let (Some(home), Some((host, port))) = (std::env::var_os("HOME"), request.source.ssh_host()) else { return };
    let Ok(file) = request.credentials.read_known_hosts(request.home.as_deref()) else { return };
    let folder = Path::new(&home).join(".ssh");
    let lines = known_hosts::lines_of(&file, host, port);
    let _ = fs::create_dir_all(&folder).and_then(|()| fs::write(folder.join("known_hosts"), lines));
}

/// Removes that file, so that a server without any of the known keys offers the one that it has.
fn remove_known_hosts() {
    if let Some(home) = std::env::var_os("HOME") {
        let _ = fs::remove_file(Path::new(&home).join(".ssh/known_hosts"));
    }
}
