//! The worker process, `egret git-worker`: one exchange with one repository on the network, then it ends.
//!
//! It may be killed at any moment, and a server that exploits libgit2 has this process only. It first sets its own resource limits, because
//! the parent cannot set them without unsafe code. The deadline is the supervisor's.

use std::cell::{Cell, RefCell};
use std::io::{self, BufRead, Write};
use std::time::{Duration, Instant};

use git2::{Oid, Repository};
use nix::sys::prctl::{set_no_new_privs, set_pdeathsig};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::Signal;
use nix::unistd::getppid;

use super::error::{Error, Result};
use super::exchange::{PushRequest, Refspec};
use super::smart_protocol::{self, Relay, TransferContext};
use super::worker_protocol::{Task, WireError, WorkerMessage, WorkerRequest};

/// A heartbeat is sent at most this often, or whenever this much has arrived.
const HEARTBEAT_INTERVAL: Duration = Duration::from_millis(50);
const HEARTBEAT_BYTES: u64 = 256 << 10;

/// Memory for the program itself, besides that of a fetch.
const OWN_MEMORY: u64 = 512 << 20;

/// Runs the task of the first line of `input` and writes its messages to `output`. Errors: the pipes, or a malformed request.
pub fn serve(mut input: impl BufRead, output: impl Write) -> io::Result<()> {
    let mut line = String::new();
    input.read_line(&mut line)?;
    let request: WorkerRequest = serde_json::from_str(&line)?;
    confine(&request)?;
    let progress =
        ProgressWriter { output: RefCell::new(output), last_sent: Cell::new(Instant::now()), bytes: Cell::new(0) };
    let message = run(&request, input, &progress)
        .unwrap_or_else(|error| WorkerMessage::Failed(WireError::of(error, &request.source.to_string())));
    progress.send(&message)
}

/// Writes messages and heartbeats to the supervisor.
struct ProgressWriter<Output> {
    output: RefCell<Output>,
    last_sent: Cell<Instant>,
    bytes: Cell<u64>,
}

impl<Output: Write> ProgressWriter<Output> {
    fn send(&self, message: &impl serde::Serialize) -> io::Result<()> {
        let mut line = serde_json::to_vec(message)?;
        line.push(b'\n');
        let mut output = self.output.borrow_mut();
        output.write_all(&line).and_then(|()| output.flush())
    }

    /// Something arrived. A broken pipe is not an error here: the supervisor kills this process.
    fn heartbeat(&self, bytes: u64) {
        if self.last_sent.get().elapsed() >= HEARTBEAT_INTERVAL || bytes >= self.bytes.get() + HEARTBEAT_BYTES {
            self.last_sent.set(Instant::now());
            self.bytes.set(bytes);
            let _ = self.send(&WorkerMessage::Heartbeat { bytes });
        }
    }
}

/// Limits memory and file sizes, drops the right to gain privileges, and ends this process with its parent.
fn confine(request: &WorkerRequest) -> io::Result<()> {
    set_pdeathsig(Signal::SIGKILL)?;
    if getppid().as_raw().cast_unsigned() != request.parent {
        return Err(io::Error::other("the supervisor has ended"));
    }
    set_no_new_privs()?;
    let memory = request.max_bytes.saturating_mul(2).saturating_add(OWN_MEMORY);
    setrlimit(Resource::RLIMIT_AS, memory, memory)?;
    // A fetch is stopped with an error before that; this is for files that libgit2 writes without progress callbacks.
    let file = request.max_bytes.saturating_add(1 << 20);
    setrlimit(Resource::RLIMIT_FSIZE, file, file)?;
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    Ok(())
}

fn run<Output: Write>(
    request: &WorkerRequest,
    mut input: impl BufRead,
    progress: &ProgressWriter<Output>,
) -> Result<WorkerMessage> {
    let repository = request.source.to_string();
    let mirror = Repository::open_bare(&request.mirror).map_err(|source| Error::Mirror {
        action: "open",
        repository: repository.clone(),
        source,
    })?;
    let failed = |error: io::Error| Error::Worker { repository: repository.clone(), what: error.to_string() };
    let heartbeat = |bytes| progress.heartbeat(bytes);
    let relay = Relay::start(request)?;
    let context = TransferContext { request, relay: &relay, heartbeat: &heartbeat };
    match &request.task {
        Task::Fetch => {
            smart_protocol::fetch(&context, &mirror, &mut |refs| {
                progress.send(&WorkerMessage::refs(refs)).map_err(failed)?;
                let mut line = String::new();
                input.read_line(&mut line).map_err(failed)?;
                serde_json::from_str::<Vec<Refspec>>(&line).map_err(|error| failed(error.into()))
            })?;
            Ok(WorkerMessage::Fetched)
        }
        Task::Push { commit, name, expected } => {
            let id = |text: &str| Oid::from_str(text).map_err(|error| failed(io::Error::other(error)));
            let push = PushRequest {
                commit: id(commit)?,
                objects: &[],
                name,
                expected: expected.as_deref().map(id).transpose()?,
            };
            smart_protocol::push(&context, &mirror, &push).map(WorkerMessage::Pushed)
        }
    }
}
