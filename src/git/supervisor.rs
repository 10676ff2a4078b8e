//! The supervisor of a worker process: starts it, answers it, counts its time, and kills its process group when that has run out.
//!
//! libgit2 waits for each read separately and cannot be cancelled, so that a server which sends one byte a second blocks it for ever.
//! A process can be killed.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use git2::Repository;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use super::access::{Access, TransferLimits};
use super::credentials::Credentials;
use super::error::{Error, Result};
use super::exchange::{PushOutcome, PushRequest, RemoteRefs, SelectRefs};
use super::source::Source;
use super::worker_protocol::{self, Task, WorkerMessage, WorkerRequest};

/// No line is longer: a million references.
const LONGEST_LINE: u64 = 128 << 20;
/// The share of the connect limit that the connection itself may use: past that, the worker's error says which step was slow.
const CONNECT_SHARE: (u32, u32) = (4, 5);
/// How long a worker may take to exit after its last message, and the kernel to end one that was killed.
const EXIT_TIMEOUT: Duration = Duration::from_secs(2);

/// Lists the references of the repository, and fetches those that `select` returns.
pub(super) fn fetch(
    source: &Source,
    access: &Access,
    mirror: &Repository,
    select: &mut SelectRefs<'_>,
) -> Result<RemoteRefs> {
    let mut worker = Worker::start(source, access, mirror, Task::Fetch)?;
    let result = (|| {
        let refs = loop {
            match worker.receive(Stage::Connect)? {
                WorkerMessage::Refs { default_branch, refs } => break worker_protocol::refs(default_branch, refs),
                WorkerMessage::Heartbeat { .. } => {}
                other => return Err(worker.unexpected(&other)),
            }
        };
        worker.send(&select(&refs))?;
        loop {
            match worker.receive(Stage::Fetch)? {
                WorkerMessage::Fetched => return Ok(refs),
                WorkerMessage::Heartbeat { bytes } => worker.bytes = bytes,
                other => return Err(worker.unexpected(&other)),
            }
        }
    })();
    report_rejected_token(access, worker.finish(mirror.path(), result))
}

/// Moves a reference of the repository.
pub(super) fn push(
    source: &Source,
    access: &Access,
    mirror: &Repository,
    request: &PushRequest<'_>,
) -> Result<PushOutcome> {
    let task = Task::Push {
        commit: request.commit.to_string(),
        name: request.name.to_owned(),
        expected: request.expected.map(|id| id.to_string()),
    };
    let mut worker = Worker::start(source, access, mirror, task)?;
    let result = loop {
        match worker.receive(Stage::Push) {
            Ok(WorkerMessage::Pushed(outcome)) => break Ok(outcome),
            Ok(WorkerMessage::Heartbeat { .. }) => {}
            Ok(other) => break Err(worker.unexpected(&other)),
            Err(error) => break Err(error),
        }
    };
    report_rejected_token(access, worker.finish(mirror.path(), result))
}

/// Lets the credential provider know that the server did not accept its token.
fn report_rejected_token<T>(access: &Access, result: Result<T>) -> Result<T> {
    if let (Err(Error::Denied { .. }), Some(provider)) = (&result, &access.credential_provider) {
        provider.tokens.rejected();
    }
    result
}

/// What the supervisor waits for.
#[derive(Debug, Clone, Copy)]
enum Stage {
    Connect,
    Fetch,
    /// The server's hooks may run for long without output.
    Push,
}

struct Worker {
    child: Child,
    input: ChildStdin,
    /// None: a line that is no message.
    messages: Receiver<Option<WorkerMessage>>,
    limits: TransferLimits,
    /// The repository, as it is shown.
    repository: String,
    started: Instant,
    last_message: Instant,
    bytes: u64,
}

impl Worker {
    fn start(source: &Source, access: &Access, mirror: &Repository, task: Task) -> Result<Self> {
        let repository = source.to_string();
        let failed = |error: std::io::Error| Error::Worker { repository: repository.clone(), what: error.to_string() };
        let (signed_in, credentials) = match &access.credential_provider {
            Some(provider) if source.is_web() => (provider.sign_in(source)?, Credentials::default()),
            _ => (source.clone(), access.credentials.clone()),
        };
        let request = WorkerRequest {
            source: signed_in,
            credentials,
            ca_file: access.ca_file.clone(),
            client_certificate: access.client_certificate.clone(),
            proxy: access.proxy.clone(),
            connect: access.limits.connect * CONNECT_SHARE.0 / CONNECT_SHARE.1,
            home: std::env::var_os("HOME").map(Into::into),
            mirror: mirror.path().to_owned(),
            parent: std::process::id(),
            max_bytes: access.limits.max_bytes,
            depth: access.limits.depth,
            task,
        };
        let mut command = Command::new(&access.program);
        command.arg("git-worker").process_group(0).env_clear().env("HOME", mirror.path().join("egret-home"));
        // Where the system's authorities are, if not in the usual place.
        keep(&mut command, &["SSL_CERT_FILE", "SSL_CERT_DIR"]);
        if access.credentials.ssh_key.is_none() {
            keep(&mut command, &["SSH_AUTH_SOCK"]);
        }
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().map_err(|source| {
                Error::State { action: "start the process for Git", path: access.program.clone(), source }
            })?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(failed(std::io::Error::other("it has no pipes")));
        };
        let (sender, messages) = sync_channel(64);
        let reading = thread::Builder::new().name("git-worker".to_owned()).spawn(move || {
            let mut output = BufReader::new(output);
            loop {
                let mut line = Vec::new();
                match (&mut output).take(LONGEST_LINE).read_until(b'\n', &mut line) {
                    Ok(0) | Err(_) => return,
                    Ok(_) => {}
                }
                let message = serde_json::from_slice(&line).ok();
                let last = message.is_none();
                if sender.send(message).is_err() || last {
                    return;
                }
            }
        });
        let now = Instant::now();
        let limits = access.limits;
        let mut worker = Self { child, input, messages, limits, repository, started: now, last_message: now, bytes: 0 };
        let sent = reading.map_err(|error| worker.failed(error.to_string())).and_then(|_| worker.send(&request));
        match sent {
            Ok(()) => Ok(worker),
            Err(error) => worker.finish(mirror.path(), Err(error)),
        }
    }

    fn failed(&self, what: String) -> Error {
        Error::Worker { repository: self.repository.clone(), what }
    }

    fn send(&mut self, message: &impl serde::Serialize) -> Result<()> {
        let line = serde_json::to_string(message).map_err(|error| self.failed(error.to_string()))?;
        match writeln!(self.input, "{line}") {
            // The worker has ended; its last message or its exit status, which is read next, says why.
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
            result => result.map_err(|error| self.failed(error.to_string())),
        }
    }

    /// The worker's next message, if it arrives before the deadline of this stage.
    fn receive(&mut self, stage: Stage) -> Result<WorkerMessage> {
        let extension = Duration::from_secs(self.bytes / self.limits.min_rate.max(1));
        let total = (self.started + self.limits.total + extension, self.limits.total);
        let (deadline, limit) = match stage {
            Stage::Connect => (self.started + self.limits.connect, self.limits.connect).min(total),
            Stage::Fetch => (self.last_message + self.limits.idle, self.limits.idle).min(total),
            Stage::Push => total,
        };
        match self.messages.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(Some(WorkerMessage::Failed(error))) => Err(error.into_error()),
            Ok(Some(message)) => {
                self.last_message = Instant::now();
                Ok(message)
            }
            Ok(None) => Err(self.failed("its output is not in the worker protocol".to_owned())),
            Err(RecvTimeoutError::Timeout) => {
                let what = match stage {
                    _ if deadline == total.0 => format!("was not done after {limit:?}"),
                    Stage::Connect => format!("did not list its branches within {limit:?}"),
                    Stage::Fetch | Stage::Push => format!("sent nothing for {limit:?} in the middle of a fetch"),
                };
                Err(Error::TooSlow { repository: self.repository.clone(), what })
            }
            Err(RecvTimeoutError::Disconnected) => {
                let status = self.reap();
                if status.and_then(|status| status.signal()) == Some(Signal::SIGXFSZ as i32) {
                    return Err(Error::TooMuch {
                        repository: self.repository.clone(),
                        max_bytes: self.limits.max_bytes,
                    });
                }
                Err(self.failed(status.map_or_else(|| "it does not end".to_owned(), exit_text)))
            }
        }
    }

    fn unexpected(&self, _message: &WorkerMessage) -> Error {
        self.failed("it sent a message that does not belong to this task".to_owned())
    }

    /// Ends the process, whatever it is doing. The leftovers of a killed one are removed from the mirror.
    fn finish<T>(mut self, mirror: &Path, result: Result<T>) -> Result<T> {
        let exited =
            result.is_ok() && self.messages.recv_timeout(EXIT_TIMEOUT).err() == Some(RecvTimeoutError::Disconnected);
        if !exited && let Ok(id) = i32::try_from(self.child.id()) {
            let _ = killpg(Pid::from_raw(id), Signal::SIGKILL);
        }
        if self.reap().is_none() {
            // It hangs in the kernel, on a file system that does not answer. Another thread waits for it.
            let mut child = self.child;
            let _ = thread::Builder::new().name("git-worker".to_owned()).spawn(move || child.wait());
        }
        if !exited {
            remove_leftovers(mirror);
        }
        result
    }

    fn reap(&mut self) -> Option<ExitStatus> {
        let deadline = Instant::now() + EXIT_TIMEOUT;
        loop {
            match self.child.try_wait() {
                Ok(Some(status)) => return Some(status),
                Ok(None) if Instant::now() < deadline => thread::sleep(Duration::from_millis(1)),
                _ => return None,
            }
        }
    }
}

/// Passes on variables of the environment that say where things of the system are.
fn keep(command: &mut Command, names: &[&str]) {
    for name in names {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
}

fn exit_text(status: ExitStatus) -> String {
    match status.signal() {
        Some(signal) => {
            let name = Signal::try_from(signal).map_or("a signal", Signal::as_str);
            format!("it was ended by {name}")
        }
        None => format!("it ended without an answer ({status})"),
    }
}

/// Removes what a killed process leaves in a repository: locks and partial packs. No other process works in a mirror.
pub(super) fn remove_leftovers(mirror: &Path) {
    let mut folders = vec![mirror.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            let (path, name) = (entry.path(), entry.file_name());
            let name = name.to_string_lossy();
            let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
            let pack = [("pack", "idx"), ("idx", "pack")].iter().any(|(one, other)| {
                path.extension().is_some_and(|kind| kind == *one) && path.with_extension(other).exists()
            });
            if is_folder && !name.starts_with("egret-") {
                folders.push(path);
            } else if !is_folder && (name.ends_with(".lock") || (folder.ends_with("objects/pack") && !pack)) {
                let _ = std::fs::remove_file(path);
            }
        }
    }
}
