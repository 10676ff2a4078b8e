//! Repositories elsewhere, by https and ssh: libgit2's smart protocol, with every question it may ask answered by us.
//! It runs in the worker process only, and may hang there.
//!
//! Deliberately absent: HTTPS. libgit2 gets an address on loopback, and `relay` stands behind it.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};

use git2::{
    AutotagOption, CertificateCheckStatus, Cred, CredentialType, Direction, ErrorClass, FetchOptions, PushOptions,
    PushUpdate, RemoteCallbacks, RemoteConnection, RemoteRedirect, RemoteUpdateFlags, Repository,
};

use git2::cert::Cert;

use super::error::{Error, Result};
use super::key_file;
use super::known_hosts::{OfferedKey, Verdict, verdict};
use super::relay::Relay;
use super::remote::{Listing, Outgoing, Pushed, Want};
use super::sizes;
use super::wire::Request;
use super::worker::forget_known_hosts;

/// libgit2 asks again for as long as it gets answers: once for a name, and once for each way to prove it, is enough.
const MOST_ANSWERS: usize = 3;

/// Of what a server's hooks say beside a refusal, so many bytes are kept.
const MOST_WORDS: usize = 1_000;

/// Who asks for what, and whom to tell that something arrived: so many bytes until now.
pub(super) struct Conversation<'a> {
    pub(super) request: &'a Request,
    /// By which an HTTPS server is reached.
    pub(super) relay: Option<&'a Relay>,
    pub(super) alive: &'a dyn Fn(u64),
}

/// Chooses what to fetch, on the other side of the pipe.
type Choose<'a> = dyn FnMut(&Listing) -> Result<Vec<Want>> + 'a;

/// One connection: why it was broken off. libgit2 carries only a number and a text through its own frames.
struct Talk<'a> {
    conversation: &'a Conversation<'a>,
    answered: RefCell<Vec<&'static str>>,
    fault: RefCell<Option<Error>>,
}

/// Lists what the repository has and fetches what `choose` wants of it, over one connection.
pub(super) fn look(conversation: &Conversation<'_>, mirror: &Repository, choose: &mut Choose<'_>) -> Result<Listing> {
    match look_once(conversation, mirror, choose) {
        // Its keys are all of kinds that we don't know it by: have it show one, so that the error can name it.
        Err(Error::Unreachable { doing, repository, source }) if no_common_key(&source) => {
            forget_known_hosts();
            match look_once(conversation, mirror, choose) {
                Err(shown @ Error::HostKey { .. }) => Err(shown),
                _ => Err(Error::Unreachable { doing, repository, source }),
            }
        }
        result => result,
    }
}

/// libssh2's words are all there is to tell it by.
fn no_common_key(error: &git2::Error) -> bool {
    error.class() == ErrorClass::Ssh && error.message().contains("failed to start SSH session")
}

fn look_once(conversation: &Conversation<'_>, mirror: &Repository, choose: &mut Choose<'_>) -> Result<Listing> {
    let talk = Talk::new(conversation);
    let mut there = mirror.remote_anonymous(talk.url()).map_err(|error| talk.fault("name", error))?;
    let mut connection = there
        .connect_auth(Direction::Fetch, Some(talk.callbacks()), None)
        .map_err(|error| talk.fault("connect to", error))?;
    let listing = list(&connection).map_err(|error| talk.fault("list the branches of", error))?;
    let wants: Vec<String> = choose(&listing)?.iter().map(|want| format!("+{}:{}", want.name, want.into)).collect();
    if !wants.is_empty() {
        let mut options = FetchOptions::new();
        options
            .remote_callbacks(talk.callbacks())
            .follow_redirects(RemoteRedirect::None)
            .download_tags(AutotagOption::None)
            .update_fetchhead(false);
        connection.remote().download(&wants, Some(&mut options)).map_err(|error| talk.fault("fetch from", error))?;
        // No reference leads to what nobody has looked at: what is known by a reference is not fetched again.
        sizes::check(mirror, &talk.request().source.to_string(), &|| (conversation.alive)(0))?;
        let noted = connection.remote().update_tips(None, RemoteUpdateFlags::empty(), AutotagOption::None, None);
        noted.map_err(|error| talk.fault("fetch from", error))?;
    }
    Ok(listing)
}

/// Pushes a commit. libgit2 says Ok to a push that was refused, and to one that the server said nothing of: the truth is in the status
/// of the reference.
pub(super) fn push(conversation: &Conversation<'_>, mirror: &Repository, outgoing: &Outgoing<'_>) -> Result<Pushed> {
    let talk = Talk::new(conversation);
    let overtaken = RefCell::new(false);
    let status = RefCell::new(None);
    let said = RefCell::new(Vec::new());
    let mut callbacks = talk.callbacks();
    callbacks.push_negotiation(|updates: &[PushUpdate<'_>]| {
        // What the server says the reference is now; it compares again, under its lock, before it moves it.
        let as_expected =
            updates.iter().all(|update| update.src() == outgoing.expected.unwrap_or(git2::Oid::ZERO_SHA1));
        if as_expected {
            Ok(())
        } else {
            *overtaken.borrow_mut() = true;
            Err(git2::Error::from_str("somebody else pushed first"))
        }
    });
    callbacks.push_update_reference(|name, refused| {
        if name == outgoing.name {
            *status.borrow_mut() = Some(refused.map(str::to_owned));
        }
        Ok(())
    });
    callbacks.sideband_progress(|text| {
        (conversation.alive)(0);
        let mut said = said.borrow_mut();
        let room = MOST_WORDS.saturating_sub(said.len());
        said.extend_from_slice(&text[..text.len().min(room)]);
        true
    });
    let mut options = PushOptions::new();
    options.remote_callbacks(callbacks).follow_redirects(RemoteRedirect::None);
    let mut there = mirror.remote_anonymous(talk.url()).map_err(|error| talk.fault("name", error))?;
    // Forced, because folded reports are no descendants of what is there. Nothing is overwritten by it: the branch must be as expected,
    // which was asked above and is compared by the server under its lock.
    let result = there.push(&[format!("+{}:{}", outgoing.commit, outgoing.name)], Some(&mut options));
    drop(options);
    if overtaken.into_inner() {
        return Ok(Pushed::Overtaken);
    }
    match (result, status.into_inner()) {
        (Ok(()), Some(None)) => Ok(Pushed::Done),
        (_, Some(Some(why))) => Ok(Pushed::Refused(with_words(&why, &said.into_inner()))),
        (Ok(()), None) => {
            Err(talk.fault("push to", git2::Error::from_str("the server does not say what became of it")))
        }
        (Err(error), _) if error.code() == git2::ErrorCode::NotFastForward => Ok(Pushed::Overtaken),
        (Err(error), _) if forbids(&error).is_some() => Ok(Pushed::Refused(forbids(&error).unwrap_or_default())),
        (Err(error), _) => match talk.fault("push to", error) {
            // The same credentials have just read from there: that they may not write is another thing to tell.
            Error::Denied { .. } => Ok(Pushed::Refused(MAY_READ.to_owned())),
            other => Err(other),
        },
    }
}

/// What is told of credentials that have just let us read.
const MAY_READ: &str = "the credentials may read, and not push";

/// Whether a push failed because we may only read, and not because something is out of order. libgit2 has no code for it.
fn forbids(error: &git2::Error) -> Option<String> {
    /// What forges write to an SSH client: GitHub, GitLab, Gitea and Forgejo.
    const WORDS: [&str; 6] = ["read only", "read-only", "denied", "not allowed", "not authorized", "write access"];
    let message = error.message();
    match error.class() {
        // A key for which upload-pack is run, whatever it asks for.
        ErrorClass::Ssh if message.contains("upload-pack") => Some(MAY_READ.to_owned()),
        ErrorClass::Ssh if WORDS.iter().any(|word| message.to_ascii_lowercase().contains(word)) => {
            Some(with_words(MAY_READ, message.as_bytes()))
        }
        _ => None,
    }
}

/// A refusal with what a hook said of it, in one line, and nothing in it that a terminal would obey.
fn with_words(why: &str, said: &[u8]) -> String {
    let said = String::from_utf8_lossy(said);
    let clean = said.replace(char::is_control, " ");
    let words: Vec<&str> = clean.split_whitespace().collect();
    if words.is_empty() { why.to_owned() } else { format!("{why}: {}", words.join(" ")) }
}

fn list(connection: &RemoteConnection<'_, '_, '_>) -> std::result::Result<Listing, git2::Error> {
    let mut listing = Listing::default();
    for head in connection.list()? {
        // git2 panics on a name that is not UTF-8, and whoever may push can push one. Such a branch can't be asked for.
        let Ok(name) = catch_unwind(AssertUnwindSafe(|| head.name().to_owned())) else { continue };
        if name == "HEAD" {
            let target = catch_unwind(AssertUnwindSafe(|| head.symref_target().map(str::to_owned))).ok().flatten();
            listing.default_branch = target.and_then(|name| name.strip_prefix("refs/heads/").map(str::to_owned));
        } else if (name.starts_with("refs/heads/") || name.starts_with("refs/tags/")) && !name.ends_with("^{}") {
            listing.refs.insert(name, head.oid());
        }
    }
    Ok(listing)
}

impl<'a> Talk<'a> {
    fn new(conversation: &'a Conversation<'a>) -> Self {
        Self { conversation, answered: RefCell::new(Vec::new()), fault: RefCell::new(None) }
    }

    fn request(&self) -> &'a Request {
        self.conversation.request
    }

    fn url(&self) -> &'a str {
        self.conversation.relay.map_or(self.request().source.url(), Relay::url)
    }

    /// Something arrived. Past the most that may, libgit2 is told to stop.
    fn arrived(&self, bytes: usize) -> bool {
        (self.conversation.alive)(bytes as u64);
        let most = self.request().most;
        let enough = bytes as u64 > most;
        if enough {
            self.break_off(Error::TooMuch { repository: self.request().source.to_string(), most });
        }
        !enough
    }

    /// Our own reason if there is one, else libgit2's.
    fn fault(&self, doing: &'static str, error: git2::Error) -> Error {
        self.fault
            .borrow_mut()
            .take()
            .or_else(|| self.conversation.relay.and_then(Relay::fault))
            .unwrap_or_else(|| Error::talking(doing, &self.request().source.to_string(), error))
    }

    /// Keeps our reason, and gives libgit2 something to carry. `GIT_EAUTH` would make it ask again.
    fn break_off(&self, fault: Error) -> git2::Error {
        *self.fault.borrow_mut() = Some(fault);
        git2::Error::from_str("broken off by egret")
    }

    fn callbacks(&self) -> RemoteCallbacks<'_> {
        let mut callbacks = RemoteCallbacks::new();
        callbacks.credentials(|_, user, allowed| self.answer(user, allowed));
        callbacks.certificate_check(|certificate, host| self.check_server(certificate, host));
        callbacks.transfer_progress(|progress| self.arrived(progress.received_bytes()));
        callbacks.sideband_progress(|_| {
            (self.conversation.alive)(0);
            true
        });
        callbacks
    }

    fn answer(&self, user: Option<&str>, allowed: CredentialType) -> std::result::Result<Cred, git2::Error> {
        let Request { source, credentials, .. } = self.request();
        let user = user.or(source.user()).unwrap_or("git");
        let tried = self.answered.borrow().clone();
        if allowed.contains(CredentialType::USERNAME) && tried.len() < MOST_ANSWERS {
            self.answered.borrow_mut().push("the user's name");
            return Cred::username(user);
        }
        let untried = |way| !tried.contains(&way) && tried.len() < MOST_ANSWERS;
        if allowed.contains(CredentialType::SSH_KEY) {
            if let Some(key) = credentials.ssh_key.as_deref().filter(|_| untried("the SSH key")) {
                self.answered.borrow_mut().push("the SSH key");
                key_file::check(key).map_err(|fault| self.break_off(fault))?;
                return Cred::ssh_key(user, None, key, None);
            }
            if credentials.ssh_key.is_none() && std::env::var_os("SSH_AUTH_SOCK").is_some() && untried("the SSH agent")
            {
                self.answered.borrow_mut().push("the SSH agent");
                return Cred::ssh_key_from_agent(user);
            }
        }
        if allowed.contains(CredentialType::USER_PASS_PLAINTEXT) && untried("the password") {
            let password = credentials.read_password().map_err(|fault| self.break_off(fault))?;
            if let Some(password) = password.as_ref().or(source.password()) {
                self.answered.borrow_mut().push("the password");
                return Cred::userpass_plaintext(credentials.user.as_deref().unwrap_or(user), password.reveal());
            }
        }
        Err(self.break_off(Error::Denied {
            repository: source.to_string(),
            tried: if tried.is_empty() {
                "nothing to prove who we are".to_owned()
            } else {
                format!("tried {}", tried.join(", "))
            },
            source: None,
        }))
    }

    /// An SSH server must be in `known_hosts`. TLS is not libgit2's.
    fn check_server(
        &self,
        certificate: &Cert<'_>,
        host: &str,
    ) -> std::result::Result<CertificateCheckStatus, git2::Error> {
        let Some(hostkey) = certificate.as_hostkey() else { return Ok(CertificateCheckStatus::CertificatePassthrough) };
        let Request { source, credentials, .. } = self.request();
        let offered = OfferedKey {
            kind: hostkey.hostkey_type().map_or("unknown", |kind| kind.name()).to_owned(),
            blob: hostkey.hostkey().unwrap_or_default().to_vec(),
            sha256: hostkey.hash_sha256().copied().unwrap_or_default(),
        };
        let file =
            credentials.read_known_hosts(self.request().home.as_deref()).map_err(|fault| self.break_off(fault))?;
        match verdict(&file, host, source.ssh_host().map_or(22, |(_, port)| port), &offered) {
            Verdict::Known => Ok(CertificateCheckStatus::CertificateOk),
            verdict => {
                let (repository, host) = (source.to_string(), host.to_owned());
                Err(self.break_off(Error::HostKey { repository, host, offered: offered.to_string(), verdict }))
            }
        }
    }
}
