//! The other process: `egret git-worker`, which talks to one repository on the network, once, and ends.
//!
//! It may be killed at any moment, and whatever a server makes of libgit2, it makes of this process alone. It holds itself to
//! limits first, because nobody can set them from outside without unsafe code. Deliberately absent: its deadline (`overseer`).

use std::cell::{Cell, RefCell};
use std::fs;
use std::io::{self, BufRead, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use git2::{Oid, Repository};
use nix::sys::prctl::{set_no_new_privs, set_pdeathsig};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::Signal;
use nix::unistd::getppid;

use super::error::{Error, Result};
use super::known_hosts;
use super::relay::Relay;
use super::remote::Outgoing;
use super::smart::{self, Conversation};
use super::wire::{Fault, Request, Task, Wants, Word};

/// A sign of life is passed on this often; or whenever this much has arrived.
const BREATH: Duration = Duration::from_millis(50);
const GULP: u64 = 256 << 10;

/// Room for the program itself, beside what a fetch may take.
const OWN_MEMORY: u64 = 512 << 20;

/// Does what the first line of `input` asks for and says on `output` what came of it. Errors: the pipes, and what is no request.
pub fn serve(mut input: impl BufRead, output: impl Write) -> io::Result<()> {
    let mut line = String::new();
    input.read_line(&mut line)?;
    let request: Request = serde_json::from_str(&line)?;
    confine(&request)?;
    let mouth = Mouth { output: RefCell::new(output), breath: Cell::new(Instant::now()), bytes: Cell::new(0) };
    let word = work(&request, input, &mouth)
        .unwrap_or_else(|error| Word::Failed(Fault::of(error, &request.source.to_string())));
    mouth.say(&word)
}

/// The pipe to whoever asked.
struct Mouth<Output> {
    output: RefCell<Output>,
    breath: Cell<Instant>,
    bytes: Cell<u64>,
}

impl<Output: Write> Mouth<Output> {
    fn say(&self, word: &impl serde::Serialize) -> io::Result<()> {
        let mut line = serde_json::to_vec(word)?;
        line.push(b'\n');
        let mut output = self.output.borrow_mut();
        output.write_all(&line).and_then(|()| output.flush())
    }

    /// Something arrived. A pipe that nobody reads is no reason to stop: who asked will kill us.
    fn breathe(&self, bytes: u64) {
        if self.breath.get().elapsed() >= BREATH || bytes >= self.bytes.get() + GULP {
            self.breath.set(Instant::now());
            self.bytes.set(bytes);
            let _ = self.say(&Word::Alive { bytes });
        }
    }
}

/// Gives up what this process will not need: memory and files without end, more rights, a life of its own.
fn confine(request: &Request) -> io::Result<()> {
    set_pdeathsig(Signal::SIGKILL)?;
    if getppid().as_raw().cast_unsigned() != request.parent {
        return Err(io::Error::other("whoever asked is gone"));
    }
    set_no_new_privs()?;
    let memory = request.most.saturating_mul(2).saturating_add(OWN_MEMORY);
    setrlimit(Resource::RLIMIT_AS, memory, memory)?;
    // The fetch is broken off with words before that; this is for what libgit2 may do without telling.
    let file = request.most.saturating_add(1 << 20);
    setrlimit(Resource::RLIMIT_FSIZE, file, file)?;
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    Ok(())
}

fn work<Output: Write>(request: &Request, mut input: impl BufRead, mouth: &Mouth<Output>) -> Result<Word> {
    let there = request.source.to_string();
    let mirror = Repository::open_bare(&request.mirror).map_err(|source| Error::Mirror {
        doing: "open what was just made",
        repository: there.clone(),
        source,
    })?;
    let broken = |error: io::Error| Error::Worker { repository: there.clone(), what: error.to_string() };
    tell_known_hosts(request);
    let alive = |bytes| mouth.breathe(bytes);
    let relay = request.source.is_web().then(|| Relay::start(request)).transpose()?;
    let conversation = Conversation { request, relay: relay.as_ref(), alive: &alive };
    match &request.task {
        Task::Look => {
            smart::look(&conversation, &mirror, &mut |listing| {
                mouth.say(&Word::listing(listing)).map_err(broken)?;
                let mut line = String::new();
                input.read_line(&mut line).map_err(broken)?;
                serde_json::from_str::<Wants>(&line).map(Wants::wants).map_err(|error| broken(error.into()))
            })?;
            Ok(Word::Fetched)
        }
        Task::Push { commit, name, expected } => {
            let id = |text: &str| Oid::from_str(text).map_err(|error| broken(io::Error::other(error)));
            let outgoing = Outgoing {
                commit: id(commit)?,
                objects: &[],
                name,
                expected: expected.as_deref().map(id).transpose()?,
            };
            smart::push(&conversation, &mirror, &outgoing).map(Word::pushed)
        }
    }
}

/// Puts the keys that we know of this host where libgit2 looks for them. It does not decide by them, but it asks the server for a
/// key of a kind that is there: else a server with several keys would offer one that nobody has pinned.
fn tell_known_hosts(request: &Request) {
    let (Some(home), Some((host, port))) = (std::env::var_os("HOME"), request.source.ssh_host()) else { return };
    let Ok(file) = request.credentials.read_known_hosts(request.home.as_deref()) else { return };
    let folder = Path::new(&home).join(".ssh");
    let lines = known_hosts::lines_of(&file, host, port);
    let _ = fs::create_dir_all(&folder).and_then(|()| fs::write(folder.join("known_hosts"), lines));
}

/// Makes libgit2 forget the keys again, so that a server without any of them shows the one that it has.
pub(super) fn forget_known_hosts() {
    if let Some(home) = std::env::var_os("HOME") {
        let _ = fs::remove_file(Path::new(&home).join(".ssh/known_hosts"));
    }
}
