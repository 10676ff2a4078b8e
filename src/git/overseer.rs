//! This side of the worker process: starts it, answers it, counts its time, and kills it with its group when that is up.
//!
//! libgit2 waits for each read alone, so that a server which sends a byte a second holds it for ever, and it can't be called off.
//! A process can. Deliberately absent: what is fetched (`mirror`) and what is pushed (`publish`).

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

use super::access::Limits;
use super::credentials::Credentials;
use super::error::{Error, Result};
use super::remote::{Choose, Listing, Outgoing, Pushed, Remote};
use super::wire::{self, Request, Task, Wants, Word};

/// No line is longer: a million references.
const LONGEST_LINE: u64 = 128 << 20;
/// Of the time until the branches are listed, so much may go into the connection: past that the error says what was waited for.
const CONNECTING: (u32, u32) = (4, 5);
/// So long may a worker take to end after its last word, and the kernel to end one that was killed.
const LAST: Duration = Duration::from_secs(2);

/// Lists what the repository has, and has fetched what `choose` wants of it.
pub(super) fn look(remote: &Remote<'_>, mirror: &Repository, choose: &mut Choose<'_>) -> Result<Listing> {
    let mut worker = Worker::start(remote, mirror, Task::Look)?;
    let result = (|| {
        let listing = loop {
            match worker.hear(Stage::Connect)? {
                Word::Listing { default_branch, refs } => break wire::listing(default_branch, refs),
                Word::Alive { .. } => {}
                other => return Err(worker.unexpected(other)),
            }
        };
        worker.say(&Wants::of(choose(&listing)))?;
        loop {
            match worker.hear(Stage::Fetch)? {
                Word::Fetched => return Ok(listing),
                Word::Alive { bytes } => worker.bytes = bytes,
                other => return Err(worker.unexpected(other)),
            }
        }
    })();
    noted(remote, worker.end(mirror.path(), result))
}

/// Has a reference moved there.
pub(super) fn push(remote: &Remote<'_>, mirror: &Repository, outgoing: &Outgoing<'_>) -> Result<Pushed> {
    let task = Task::Push {
        commit: outgoing.commit.to_string(),
        name: outgoing.name.to_owned(),
        expected: outgoing.expected.map(|id| id.to_string()),
    };
    let mut worker = Worker::start(remote, mirror, task)?;
    let result = loop {
        match worker.hear(Stage::Push) {
            Ok(Word::Pushed(outcome)) => break Ok(outcome.pushed()),
            Ok(Word::Alive { .. }) => {}
            Ok(other) => break Err(worker.unexpected(other)),
            Err(error) => break Err(error),
        }
    };
    noted(remote, worker.end(mirror.path(), result))
}

/// Tells who gave a token that it was not taken.
fn noted<T>(remote: &Remote<'_>, result: Result<T>) -> Result<T> {
    if let (Err(Error::Denied { .. }), Some(giver)) = (&result, &remote.access.giver) {
        giver.tokens.refused();
    }
    result
}

/// What is being waited for.
#[derive(Debug, Clone, Copy)]
enum Stage {
    Connect,
    Fetch,
    /// Hooks of the server may take their time without a word.
    Push,
}

struct Worker {
    child: Child,
    input: ChildStdin,
    /// None: what it said is no word.
    words: Receiver<Option<Word>>,
    limits: Limits,
    /// The repository, as it is shown.
    there: String,
    started: Instant,
    heard: Instant,
    bytes: u64,
}

impl Worker {
    fn start(remote: &Remote<'_>, mirror: &Repository, task: Task) -> Result<Self> {
        let there = remote.source.to_string();
        let failed = |error: std::io::Error| Error::Worker { repository: there.clone(), what: error.to_string() };
        let access = remote.access;
        let (source, credentials) = match &access.giver {
            Some(giver) if remote.source.is_web() => (giver.sign_in(remote.source)?, Credentials::default()),
            _ => (remote.source.clone(), access.credentials.clone()),
        };
        let request = Request {
            source,
            credentials,
            ca_file: access.ca_file.clone(),
            client_certificate: access.client_certificate.clone(),
            proxy: access.proxy.clone(),
            connect: access.limits.connect * CONNECTING.0 / CONNECTING.1,
            home: std::env::var_os("HOME").map(Into::into),
            mirror: mirror.path().to_owned(),
            parent: std::process::id(),
            most: access.limits.most,
            task,
        };
        let mut command = Command::new(&access.program);
        command.arg("git-worker").process_group(0).env_clear().env("HOME", mirror.path().join("egret-home"));
        // Where the system's authorities are, for whoever keeps them in an unusual place.
        keep(&mut command, &["SSL_CERT_FILE", "SSL_CERT_DIR"]);
        if access.credentials.ssh_key.is_none() {
            keep(&mut command, &["SSH_AUTH_SOCK"]);
        }
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().map_err(|source| {
                Error::State { doing: "start the process for Git", path: access.program.clone(), source }
            })?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(failed(std::io::Error::other("it has no pipes")));
        };
        let (sender, words) = sync_channel(64);
        let reading = thread::Builder::new().name("git-worker".to_owned()).spawn(move || {
            let mut output = BufReader::new(output);
            loop {
                let mut line = Vec::new();
                match (&mut output).take(LONGEST_LINE).read_until(b'\n', &mut line) {
                    Ok(0) | Err(_) => return,
                    Ok(_) => {}
                }
                let word = serde_json::from_slice(&line).ok();
                let last = word.is_none();
                if sender.send(word).is_err() || last {
                    return;
                }
            }
        });
        let now = Instant::now();
        let limits = access.limits;
        let mut worker = Self { child, input, words, limits, there, started: now, heard: now, bytes: 0 };
        let said = reading.map_err(|error| worker.failed(error.to_string())).and_then(|_| worker.say(&request));
        match said {
            Ok(()) => Ok(worker),
            Err(error) => worker.end(mirror.path(), Err(error)),
        }
    }

    fn failed(&self, what: String) -> Error {
        Error::Worker { repository: self.there.clone(), what }
    }

    fn say(&mut self, what: &impl serde::Serialize) -> Result<()> {
        let line = serde_json::to_string(what).map_err(|error| self.failed(error.to_string()))?;
        match writeln!(self.input, "{line}") {
            // It has ended: why, is heard next.
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
            result => result.map_err(|error| self.failed(error.to_string())),
        }
    }

    /// The next word, if it comes in time.
    fn hear(&mut self, stage: Stage) -> Result<Word> {
        let bought = Duration::from_secs(self.bytes / self.limits.slowest.max(1));
        let total = (self.started + self.limits.total + bought, self.limits.total);
        let (until, given) = match stage {
            Stage::Connect => (self.started + self.limits.connect, self.limits.connect).min(total),
            Stage::Fetch => (self.heard + self.limits.idle, self.limits.idle).min(total),
            Stage::Push => total,
        };
        match self.words.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(Some(Word::Failed(fault))) => Err(fault.error()),
            Ok(Some(word)) => {
                self.heard = Instant::now();
                Ok(word)
            }
            Ok(None) => Err(self.failed("it says what is no answer".to_owned())),
            Err(RecvTimeoutError::Timeout) => {
                let what = match stage {
                    _ if until == total.0 => format!("was not done after {given:?}"),
                    Stage::Connect => format!("did not list its branches within {given:?}"),
                    Stage::Fetch | Stage::Push => format!("said nothing for {given:?} in the middle of a fetch"),
                };
                Err(Error::TooSlow { repository: self.there.clone(), what })
            }
            Err(RecvTimeoutError::Disconnected) => {
                let status = self.reap();
                if status.and_then(|status| status.signal()) == Some(Signal::SIGXFSZ as i32) {
                    return Err(Error::TooMuch { repository: self.there.clone(), most: self.limits.most });
                }
                Err(self.failed(status.map_or_else(|| "it does not end".to_owned(), ended)))
            }
        }
    }

    fn unexpected(&self, word: Word) -> Error {
        drop(word);
        self.failed("it answers what nobody asked".to_owned())
    }

    /// Ends the process, whatever it is doing. What a killed one left in the mirror is swept up.
    fn end<T>(mut self, mirror: &Path, result: Result<T>) -> Result<T> {
        let by_itself = result.is_ok() && self.words.recv_timeout(LAST).err() == Some(RecvTimeoutError::Disconnected);
        if !by_itself && let Ok(id) = i32::try_from(self.child.id()) {
            let _ = killpg(Pid::from_raw(id), Signal::SIGKILL);
        }
        if self.reap().is_none() {
            // Somewhere in the kernel, on a file system that is away. Not our thread's to wait for.
            let mut child = self.child;
            let _ = thread::Builder::new().name("git-worker".to_owned()).spawn(move || child.wait());
        }
        if !by_itself {
            sweep(mirror);
        }
        result
    }

    fn reap(&mut self) -> Option<ExitStatus> {
        let until = Instant::now() + LAST;
        loop {
            match self.child.try_wait() {
                Ok(Some(status)) => return Some(status),
                Ok(None) if Instant::now() < until => thread::sleep(Duration::from_millis(1)),
                _ => return None,
            }
        }
    }
}

/// Lets variables through that say where things of the system are.
fn keep(command: &mut Command, names: &[&str]) {
    for name in names {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
}

fn ended(status: ExitStatus) -> String {
    match status.signal() {
        Some(signal) => {
            let name = Signal::try_from(signal).map_or("a signal", Signal::as_str);
            format!("it was ended by {name}")
        }
        None => format!("it ended without an answer ({status})"),
    }
}

/// Takes away what a process that was killed leaves in a repository: locks, and halves of packs. Nobody else works in it.
pub(super) fn sweep(mirror: &Path) {
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
