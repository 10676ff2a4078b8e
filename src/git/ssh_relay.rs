//! The relay between libgit2 and an SSH server, inside the worker process (decision 0022): libgit2 speaks `git://` to a port on loopback, and
//! Egret's SSH client (russh) runs Git's program on the server and copies the bytes both ways.
//!
//! The two protocols are the same after the first line, so that nothing of Git is interpreted here. libgit2 knows neither the server nor a
//! credential. The connection is made and authenticated before libgit2 starts; the deadline of everything after is the supervisor's.

use std::borrow::Cow;
use std::io;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use git2::{ErrorClass, ErrorCode};
use russh::client::{self, AuthResult, Handle, Msg};
use russh::keys::agent::AgentIdentity;
use russh::keys::agent::client::AgentClient;
use russh::keys::ssh_key::LineEnding;
use russh::keys::{
    Algorithm, Error as KeyError, HashAlg, PrivateKey, PrivateKeyWithHashAlg, PublicKey, PublicKeyOrCertificate,
};
use russh::{AgentAuthError, Channel, ChannelMsg, ChannelReadHalf, MethodKind, Preferred, Signer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedWriteHalf;

use super::error::{Error, Result};
use super::key_file;
use super::known_hosts::{self, HostKeyStatus, OfferedKey};
use super::loopback::{self, SecretPath};
use super::signing;
use super::smart_http::Service;
use super::transport_error::TransportError;
use super::worker_protocol::WorkerRequest;

/// The most keys of an agent that are tried: OpenSSH's server disconnects after six (`MaxAuthTries`).
const MOST_AGENT_KEYS: usize = 5;
/// The most bytes kept of what the server's program writes to its standard error.
const MOST_STDERR: usize = 1_000;
/// How long an error of libgit2 waits for the server's own message about it.
const STDERR_WAIT: Duration = Duration::from_secs(2);
/// The longest first line of `git://`. libgit2's has 100 bytes.
const LONGEST_LINE: usize = 512;

/// An authenticated SSH connection to the server, and the port on loopback that leads to it.
pub(super) struct SshRelay {
    url: String,
    outcome: Arc<Outcome>,
}

/// How Git's program ended on the server.
#[derive(Default)]
struct Outcome {
    ended: Mutex<Ended>,
    changed: Condvar,
}

#[derive(Default)]
struct Ended {
    stderr: Vec<u8>,
    failed: bool,
    closed: bool,
}

impl SshRelay {
    /// Connects, authenticates, starts Git's program on the server, and opens the port.
    pub(super) fn start(request: &WorkerRequest) -> Result<Self> {
        let repository = request.source.to_string();
        let failed = |error: io::Error| Error::Worker { repository: repository.clone(), what: error.to_string() };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let service = request.task.service();
        let connection = runtime.block_on(async {
            let connecting = tokio::time::timeout(request.connect, connect(request, service));
            connecting.await.unwrap_or_else(|_| {
                Err(transport(request, TransportError::Connect(format!("no connection within {:?}", request.connect))))
            })
        })?;
        let secret = SecretPath::new().map_err(failed)?;
        let (listener, port) = loopback::listen().map_err(failed)?;
        let url = secret.url("git", port);
        let outcome = Arc::new(Outcome::default());
        let (shared, connection) = (Arc::clone(&outcome), Arc::new(Mutex::new(Some(connection))));
        let serving = move || {
            runtime.block_on(loopback::accept(listener, move |socket| {
                serve(socket, secret.clone(), service, Arc::clone(&connection), Arc::clone(&shared))
            }));
        };
        thread::Builder::new().name("git-relay".to_owned()).spawn(serving).map_err(failed)?;
        Ok(Self { url, outcome })
    }

    /// The repository's address, for libgit2.
    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// The server's own message, if its program has failed: libgit2 only sees that the connection ended.
    pub(super) fn server_error(&self) -> Option<git2::Error> {
        let ended = self.outcome.lock();
        let (ended, _) = self
            .outcome
            .changed
            .wait_timeout_while(ended, STDERR_WAIT, |ended| !ended.closed)
            .unwrap_or_else(PoisonError::into_inner);
        let text = String::from_utf8_lossy(&ended.stderr);
        (ended.failed && !text.trim().is_empty())
            .then(|| git2::Error::new(ErrorCode::GenericError, ErrorClass::Ssh, text.trim()))
    }
}

impl Outcome {
    fn lock(&self) -> MutexGuard<'_, Ended> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }
}

/// A program on the server. The connection ends when its handle is dropped.
struct Connection {
    _handle: Handle<HostKeyCheck>,
    channel: Channel<Msg>,
}

/// Checks the server's key, see `known_hosts`.
struct HostKeyCheck {
    repository: String,
    host: String,
    port: u16,
    known_hosts: String,
}

/// Why there is no connection.
#[derive(Debug)]
enum Failure {
    Egret(Box<Error>),
    Ssh(russh::Error),
}

impl From<russh::Error> for Failure {
    fn from(error: russh::Error) -> Self {
        Self::Ssh(error)
    }
}

impl client::Handler for HostKeyCheck {
    type Error = Failure;

    async fn check_server_key(&mut self, offered: &PublicKeyOrCertificate) -> std::result::Result<bool, Failure> {
        // Certificates are not asked for.
        let PublicKeyOrCertificate::PublicKey { key, .. } = offered else { return Ok(false) };
        let blob = key.to_bytes().map_err(|_| russh::Error::UnknownKey)?;
        let offered = OfferedKey { kind: kind_of(&key.algorithm()).to_owned(), blob };
        match known_hosts::check_host_key(&self.known_hosts, &self.host, self.port, &offered) {
            HostKeyStatus::Known => Ok(true),
            status => Err(Failure::Egret(Box::new(Error::HostKey {
                repository: self.repository.clone(),
                host: self.host.clone(),
                offered: offered.to_string(),
                status,
            }))),
        }
    }
}

async fn connect(request: &WorkerRequest, service: Service) -> Result<Connection> {
    let source = &request.source;
    let (Some((host, port)), Some(path)) = (source.ssh_host(), source.ssh_path()) else {
        return Err(transport(request, TransportError::Configuration("it is not an SSH address".to_owned())));
    };
    let known_hosts = request.credentials.read_known_hosts(request.home.as_deref())?;
    let known_kinds = known_hosts::kinds_of(&known_hosts, host, port);
    let config = client::Config {
        preferred: Preferred { key: Cow::Owned(host_key_algorithms(&known_kinds)), ..Preferred::default() },
        nodelay: true,
        ..client::Config::default()
    };
    let socket = TcpStream::connect((host, port))
        .await
        .map_err(|error| transport(request, TransportError::Connect(error.to_string())))?;
    let check = HostKeyCheck { repository: source.to_string(), host: host.to_owned(), port, known_hosts };
    let ssh = |error| from_ssh(request, error);
    let mut handle =
        client::connect_stream(Arc::new(config), socket, check).await.map_err(|failure| match failure {
            Failure::Egret(error) => *error,
            Failure::Ssh(error) => ssh(error),
        })?;
    authenticate(&mut handle, request).await?;
    let channel = handle.channel_open_session().await.map_err(ssh)?;
    channel.exec(true, format!("{} {}", service.name(), quoted(path))).await.map_err(ssh)?;
    Ok(Connection { _handle: handle, channel })
}

/// The host key algorithms to ask for: first those of known keys, since a server with several keys offers one of the client's choice;
/// then the others, so that the error can name the fingerprint. RSA with SHA-1 is not among them.
fn host_key_algorithms(known_kinds: &[String]) -> Vec<Algorithm> {
    let sha1 = Algorithm::Rsa { hash: None };
    let supported = Preferred::default().key.iter().filter(|one| **one != sha1).cloned().collect::<Vec<_>>();
    let is_known = |one: &Algorithm| known_kinds.iter().any(|kind| kind == kind_of(one));
    let (known, other): (Vec<_>, Vec<_>) = supported.into_iter().partition(is_known);
    known.into_iter().chain(other).collect()
}

/// The kind of key of an algorithm, as `known_hosts` names it: RSA keys have one name with each hash.
fn kind_of(algorithm: &Algorithm) -> &str {
    match algorithm {
        Algorithm::Rsa { .. } => "ssh-rsa",
        other => other.as_str(),
    }
}

/// An argument for the server's shell.
fn quoted(path: &str) -> String {
    format!("'{}'", path.replace('\'', "'\\''").replace('!', "'\\!'"))
}

/// By the key file, else by the agent's keys; then by a password, if the server accepts one.
async fn authenticate(handle: &mut Handle<HostKeyCheck>, request: &WorkerRequest) -> Result<()> {
    let (source, credentials) = (&request.source, &request.credentials);
    let user = source.user().unwrap_or("git");
    let ssh = |error| from_ssh(request, error);
    let mut tried = Vec::new();
    let mut accepts_password = true;
    let mut is_done = |result: AuthResult| match result {
        AuthResult::Success => true,
        AuthResult::Failure { remaining_methods, .. } => {
            accepts_password = remaining_methods.contains(&MethodKind::Password);
            false
        }
    };
    if let Some(path) = credentials.ssh_key.as_deref() {
        let key = key_file::read(path)?;
        tried.push("the SSH key");
        let result = if let Some(hash) = rsa_hash(&key.algorithm()) {
            let (public, mut signer) = (key.public_key().clone(), BlindedRsa::new(&key).map_err(ssh)?);
            let signed = handle.authenticate_publickey_with(user, public, Some(hash), &mut signer).await;
            signed.map_err(|error| ssh(russh::Error::IO(io::Error::other(error))))?
        } else {
            handle.authenticate_publickey(user, PrivateKeyWithHashAlg::new(Arc::new(key), None)).await.map_err(ssh)?
        };
        if is_done(result) {
            return Ok(());
        }
    } else if let Some(socket) = std::env::var_os("SSH_AUTH_SOCK") {
        tried.push("the SSH agent");
        // An agent that is away or declines is like one without keys.
        if let Ok((mut agent, keys)) = agent(Path::new(&socket)).await {
            for key in keys {
                let hash = rsa_hash(&key.algorithm());
                let Ok(result) = handle.authenticate_publickey_with(user, key, hash, &mut agent).await else {
                    continue;
                };
                if is_done(result) {
                    return Ok(());
                }
            }
        }
    }
    let password = credentials.read_password()?;
    if let Some(password) = password.as_ref().or(source.password()).filter(|_| accepts_password) {
        tried.push("the password");
        let user = credentials.user.as_deref().unwrap_or(user);
        if handle.authenticate_password(user, password.reveal()).await.map_err(ssh)?.success() {
            return Ok(());
        }
    }
    let tried = if tried.is_empty() {
        "no credentials are configured".to_owned()
    } else {
        format!("tried {}", tried.join(", "))
    };
    Err(Error::Denied { repository: source.to_string(), tried, source: None })
}

type Agent = AgentClient<tokio::net::UnixStream>;

/// The agent and its first keys.
async fn agent(socket: &Path) -> std::result::Result<(Agent, Vec<PublicKey>), russh::keys::Error> {
    let mut agent = AgentClient::connect_uds(socket).await?;
    let identities = agent.request_identities().await?;
    let keys = identities.into_iter().filter_map(|identity| match identity {
        AgentIdentity::PublicKey { key, .. } => Some(key),
        AgentIdentity::Certificate { .. } => None,
    });
    let keys = keys.take(MOST_AGENT_KEYS).collect();
    Ok((agent, keys))
}

/// The hash for signatures of an RSA key: SHA-512, which every server since OpenSSH 7.2 (2016) accepts (RFC 8332). None: another kind of key.
fn rsa_hash(algorithm: &Algorithm) -> Option<HashAlg> {
    matches!(algorithm, Algorithm::Rsa { .. }).then_some(HashAlg::Sha512)
}

/// Signs with an RSA key by `signing`, with blinding, which russh leaves out: the server can measure how long a signature takes.
struct BlindedRsa {
    openssh: String,
}

impl BlindedRsa {
    fn new(key: &PrivateKey) -> std::result::Result<Self, russh::Error> {
        Ok(Self { openssh: key.to_openssh(LineEnding::LF)?.to_string() })
    }
}

impl Signer for BlindedRsa {
    type Error = AgentAuthError;

    /// Appends the signature to what is signed, as russh's agent does: in the format of RFC 4253 §6.6.
    async fn auth_sign(
        &mut self,
        _key: &AgentIdentity,
        _hash: Option<HashAlg>,
        mut data: Vec<u8>,
    ) -> std::result::Result<Vec<u8>, AgentAuthError> {
        let string = |bytes: &[u8]| {
            let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
            [&length.to_be_bytes()[..], bytes].concat()
        };
        let signature = signing::rsa_sha512(&self.openssh, &data).ok_or(KeyError::CouldNotReadKey)?;
        data.extend(string(&[string(b"rsa-sha2-512"), string(&signature)].concat()));
        Ok(data)
    }
}

/// Serves one connection to the port: the first with the secret gets the program on the server.
async fn serve(
    mut socket: TcpStream,
    secret: SecretPath,
    service: Service,
    connection: Arc<Mutex<Option<Connection>>>,
    outcome: Arc<Outcome>,
) {
    let first_line = tokio::time::timeout(loopback::HEAD_TIME, first_line(&mut socket)).await;
    if !first_line.is_ok_and(|line| line.is_some_and(|line| is_authorized(&line, &secret, service))) {
        return;
    }
    let Some(connection) = connection.lock().unwrap_or_else(PoisonError::into_inner).take() else { return };
    let (mut from_git, to_git) = socket.into_split();
    let (from_server, to_server) = connection.channel.split();
    let upload = async move {
        let mut writer = to_server.make_writer();
        // An error means that the server has closed the channel; `download` reports how.
        let _ = tokio::io::copy(&mut from_git, &mut writer).await;
        let _ = to_server.eof().await;
    };
    let download = async {
        download(from_server, to_git, &outcome).await;
        outcome.close();
    };
    tokio::join!(upload, download);
}

/// The first line of `git://` (gitprotocol-pack(5), "Git Transport"): a pkt-line.
async fn first_line(socket: &mut TcpStream) -> Option<Vec<u8>> {
    let mut length = [0; 4];
    socket.read_exact(&mut length).await.ok()?;
    let length = usize::from_str_radix(std::str::from_utf8(&length).ok()?, 16).ok()?;
    let mut line = vec![0; length.checked_sub(4).filter(|length| *length <= LONGEST_LINE)?];
    socket.read_exact(&mut line).await.ok()?;
    Some(line)
}

/// Whether a first line asks for this exchange's service at the secret path: `git-upload-pack /PATH\0host=...\0`.
fn is_authorized(line: &[u8], secret: &SecretPath, service: Service) -> bool {
    let command = line.split(|byte| *byte == 0).next().and_then(|command| std::str::from_utf8(command).ok());
    let path = command.and_then(|asked| asked.strip_prefix(service.name())?.strip_prefix(' '));
    path.and_then(|path| secret.strip(path)) == Some("")
}

/// Copies the program's output to libgit2 until the channel is closed. libgit2's connection is closed after that, so that the server's message
/// is known when libgit2 sees the end.
async fn download(mut from_server: ChannelReadHalf, mut to_git: OwnedWriteHalf, outcome: &Outcome) {
    while let Some(message) = from_server.wait().await {
        match message {
            ChannelMsg::Data { data } => {
                // It fails where libgit2 has closed its side: for it the exchange is over, and the rest is read for its end.
                let _ = to_git.write_all(&data).await;
            }
            ChannelMsg::ExtendedData { data, .. } => {
                let mut ended = outcome.lock();
                let room = MOST_STDERR.saturating_sub(ended.stderr.len());
                ended.stderr.extend_from_slice(&data[..data.len().min(room)]);
            }
            ChannelMsg::ExitStatus { exit_status } => outcome.lock().failed |= exit_status != 0,
            ChannelMsg::ExitSignal { .. } | ChannelMsg::Failure => outcome.lock().failed = true,
            ChannelMsg::Close => break,
            _ => {}
        }
    }
}

fn transport(request: &WorkerRequest, source: TransportError) -> Error {
    Error::Transport { action: "connect to", repository: request.source.to_string(), source }
}

/// An error of the SSH client, as one of this folder's.
fn from_ssh(request: &WorkerRequest, error: russh::Error) -> Error {
    let source = match error {
        russh::Error::NoCommonAlgo { kind, theirs, .. } => TransportError::Connect(format!(
            "there is no common SSH algorithm ({kind:?}); the server offers {}",
            theirs.join(", ").replace(char::is_control, " ")
        )),
        russh::Error::IO(error) => TransportError::Connect(error.to_string()),
        other => {
            TransportError::Interrupted(format!("the SSH connection failed: {other}").replace(char::is_control, " "))
        }
    };
    transport(request, source)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_one_argument_for_the_servers_shell() {
        assert_eq!(quoted("/srv/p.git"), "'/srv/p.git'");
        assert_eq!(quoted("it's!"), r"'it'\''s'\!''");
    }

    #[test]
    fn known_kinds_of_host_keys_are_asked_for_first_and_sha_1_never() {
        let listed = |kinds: &[&str]| {
            let kinds: Vec<String> = kinds.iter().map(|kind| (*kind).to_owned()).collect();
            host_key_algorithms(&kinds).iter().map(|one| one.as_str().to_owned()).collect::<Vec<_>>()
        };
        let (first, all) = (listed(&["ssh-rsa"]), listed(&[]));
        assert_eq!(first[..2], ["rsa-sha2-512", "rsa-sha2-256"]);
        assert_eq!(all.len(), first.len());
        assert_eq!(all[0], "ssh-ed25519");
        assert!(!first.contains(&"ssh-rsa".to_owned()) && !all.contains(&"ssh-rsa".to_owned()));
    }

    #[test]
    fn only_the_exchanges_own_service_at_the_secret_path_is_let_through() {
        let secret = SecretPath::new().expect("a secret");
        let url = secret.url("git", 1);
        let path = url.rsplit('/').next().expect("a path");
        let asks = |line: &str| is_authorized(line.as_bytes(), &secret, Service::UploadPack);
        assert!(asks(&format!("git-upload-pack /{path}\0host=127.0.0.1\0")));
        for line in [
            format!("git-receive-pack /{path}\0host=127.0.0.1\0"),
            format!("git-upload-pack /{path}/x\0host=127.0.0.1\0"),
            format!("git-upload-pack /{}\0", &path[1..]),
            "git-upload-pack /\0".to_owned(),
            String::new(),
        ] {
            assert!(!asks(&line), "{line}");
        }
    }
}
