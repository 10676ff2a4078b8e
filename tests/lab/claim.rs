//! A lab's right to its names: claimed before anything is made, given back after everything is gone, however the lab ends.
//!
//! Every namespace of a lab is called `egret-PID-NUMBER-ROLE` and its folder `egret-PID-NUMBER`, so that a lab can be taken down knowing
//! no more than these two numbers: on drop, on a signal, or by the next lab when its process is long dead.
//! Deliberately absent: what a lab is made of.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, mpsc};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::signal::unix::{SignalKind, signal};

use super::error::{LabError, run};
use super::namespace::{NAMED, Namespace};

/// Numbers of this process's labs that stand or are being built.
static LIVE: Mutex<BTreeSet<u32>> = Mutex::new(BTreeSet::new());

/// Held for reading while something is being added to a lab, for writing by the signal that ends the process: nothing can appear between
/// its taking down and its exit.
static GROWING: RwLock<()> = RwLock::new(());

/// The names of one lab.
#[derive(Debug)]
pub(crate) struct Claim {
    number: u32,
    folder: PathBuf,
}

impl Claim {
    /// Claims the next number and makes the lab's folder.
    pub(crate) fn new() -> Result<Self, LabError> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        live().insert(number);
        let claim = Self { number, folder: folder_of(std::process::id(), number) };
        fs::create_dir(&claim.folder)
            .map_err(LabError::doing(format!("make the folder {}", claim.folder.display())))?;
        Ok(claim)
    }

    /// The lab's folder for everything it keeps in files.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The namespace for a role.
    pub(crate) fn namespace(&self, role: &str) -> Namespace {
        Namespace::named(format!("{}-{role}", prefix_of(std::process::id(), self.number)))
    }

    /// Makes the namespaces for these roles, in one process.
    pub(crate) fn make_namespaces<'a>(&self, roles: impl IntoIterator<Item = &'a str>) -> Result<(), LabError> {
        let lines: Vec<_> =
            roles.into_iter().map(|role| format!("netns add {}\n", self.namespace(role).name())).collect();
        run(Command::new("ip").args(["-batch", "-"]), &lines.concat()).map(|_| ())
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        // What cannot be taken down now is left to the next lab's sweep: a drop must not panic, and may be running because of one.
        let _ = take_down(std::process::id(), self.number);
        live().remove(&self.number);
    }
}

/// Held while something is added to a lab.
pub(crate) fn growing() -> RwLockReadGuard<'static, ()> {
    GROWING.read().unwrap_or_else(PoisonError::into_inner)
}

/// Takes away what is left of labs whose process no longer exists, or whose number this process (with a dead one's id) has not claimed.
pub(crate) fn sweep() -> Result<(), LabError> {
    for (pid, number) in standing()? {
        let alive = if pid == std::process::id() {
            live().contains(&number)
        } else {
            Path::new("/proc").join(pid.to_string()).exists()
        };
        if !alive {
            take_down(pid, number)?;
        }
    }
    Ok(())
}

/// From now on SIGINT and SIGTERM take all labs of this process down and end it with 128 + the signal's number, as a shell reports it.
/// Only for programs that live for their labs: the handler belongs to the whole process.
pub(crate) fn take_down_on_signals() -> Result<(), LabError> {
    let doing = || LabError::doing("watch for signals");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().map_err(doing())?;
    let (ready, is_ready) = mpsc::channel();
    std::thread::spawn(move || {
        let watched = runtime.block_on(async {
            let both = signal(SignalKind::interrupt()).and_then(|int| signal(SignalKind::terminate()).map(|term| (int, term)));
            match both {
                Ok((mut interrupt, mut terminate)) => {
                    let _ = ready.send(Ok(()));
                    Some(tokio::select! { _ = interrupt.recv() => Signal::SIGINT, _ = terminate.recv() => Signal::SIGTERM })
                }
                Err(error) => {
                    let _ = ready.send(Err(error));
                    None
                }
            }
        });
        if let Some(signal) = watched {
            let _still = GROWING.write().unwrap_or_else(PoisonError::into_inner);
            for number in live().clone() {
                let _ = take_down(std::process::id(), number);
            }
            std::process::exit(128 + signal as i32);
        }
    });
    // The thread sends exactly once before it waits; if it died instead, that is a fault to be told.
    is_ready.recv().unwrap_or_else(|_| Err(std::io::ErrorKind::BrokenPipe.into())).map_err(doing())
}

fn live() -> MutexGuard<'static, BTreeSet<u32>> {
    LIVE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn prefix_of(pid: u32, number: u32) -> String {
    format!("egret-{pid}-{number}")
}

fn folder_of(pid: u32, number: u32) -> PathBuf {
    std::env::temp_dir().join(prefix_of(pid, number))
}

/// The process and number in the name of a lab's namespace or folder.
fn owner(name: &str) -> Option<(u32, u32)> {
    let mut parts = name.strip_prefix("egret-")?.splitn(3, '-');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// All labs of which a namespace or a folder is there.
fn standing() -> Result<BTreeSet<(u32, u32)>, LabError> {
    let folders = names_in(&std::env::temp_dir())?;
    Ok(names_in(Path::new(NAMED))?.iter().chain(&folders).filter_map(|name| owner(name)).collect())
}

fn names_in(folder: &Path) -> Result<Vec<String>, LabError> {
    let doing = || LabError::doing(format!("list {}", folder.display()));
    match fs::read_dir(folder) {
        Ok(entries) => {
            let names = entries.map(|entry| entry.map(|entry| entry.file_name().to_string_lossy().into_owned()));
            names.collect::<Result<_, _>>().map_err(doing())
        }
        // No namespace was ever named on this machine.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(doing()(error)),
    }
}

/// Ends the processes inside a lab's namespaces, deletes these and the lab's folder. What is gone already is fine: two may be sweeping.
fn take_down(pid: u32, number: u32) -> Result<(), LabError> {
    let prefix = format!("{}-", prefix_of(pid, number));
    let ours =
        || Ok(names_in(Path::new(NAMED))?.into_iter().filter(|name| name.starts_with(&prefix)).collect::<Vec<_>>());
    let names = ours()?;
    end_processes_in(&names);
    let lines: Vec<_> = names.iter().map(|name| format!("netns delete {name}\n")).collect();
    let deleted = run(Command::new("ip").args(["-force", "-batch", "-"]), &lines.concat());
    let folder = folder_of(pid, number);
    match fs::remove_dir_all(&folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(LabError::doing(format!("delete the folder {}", folder.display()))(error));
        }
        _ => {}
    }
    // `ip` also complains where somebody else was quicker; only what is still there is a fault.
    if ours()?.is_empty() { Ok(()) } else { deleted.map(|_| ()) }
}

/// Kills what runs inside these namespaces. A process that outlived a killed lab would keep its devices alive for ever.
fn end_processes_in(names: &[String]) {
    let inodes: BTreeSet<u64> =
        names.iter().filter_map(|name| fs::metadata(Path::new(NAMED).join(name)).ok()).map(|file| file.ino()).collect();
    let processes = names_in(Path::new("/proc")).unwrap_or_default();
    for process in processes.iter().filter_map(|name| name.parse::<i32>().ok()).map(Pid::from_raw) {
        let inside = fs::metadata(format!("/proc/{process}/ns/net")).is_ok_and(|file| inodes.contains(&file.ino()));
        if inside && process != Pid::this() {
            // It may have ended meanwhile.
            let _ = kill(process, Signal::SIGKILL);
        }
    }
}
