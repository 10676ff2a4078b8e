//! A program that runs in one of the lab's namespaces, with everything it says kept in a file.
//!
//! Deliberately absent: what the program is. `Lab::egret` gives the arguments; any other will do.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::claim::growing;
use super::error::{LabError, shown};
use super::namespace::Namespace;
use super::repository::with_own_home;

/// How often a condition is looked at: often against what is awaited, rarely against what a look costs.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// Waits until a condition holds; `false` when the deadline passed first. The condition is looked at once at least.
pub(crate) fn wait_until(deadline: Duration, condition: impl FnMut() -> bool) -> bool {
    wait_until_every(LOOK_AGAIN, deadline, condition)
}

/// The same where a look costs more, or disturbs what is looked at.
pub(crate) fn wait_until_every(pause: Duration, deadline: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let begun = Instant::now();
    loop {
        if condition() {
            return true;
        }
        if begun.elapsed() >= deadline {
            return false;
        }
        std::thread::sleep(pause);
    }
}

/// A running program. Dropping it kills it.
pub(crate) struct Process {
    child: Child,
    shown: String,
    log: PathBuf,
}

impl Process {
    /// Starts a program inside a namespace with its output going to a file.
    pub(crate) fn start<Word: AsRef<OsStr>>(
        namespace: &Namespace,
        words: impl IntoIterator<Item = Word>,
        home: &Path,
        log: PathBuf,
    ) -> Result<Self, LabError> {
        // `ip netns exec` also gives it the /sys of the namespace. It is born inside, not only led there: whoever takes the lab down at
        // this moment finds it.
        let mut command = Command::new("ip");
        command.args(["netns", "exec", namespace.name()]).args(words);
        let shown = shown(&command);
        let doing = || LabError::doing(format!("start `{shown}` with its output in {}", log.display()));
        let file = File::options().create_new(true).append(true).open(&log).map_err(doing())?;
        let same_file = file.try_clone().map_err(doing())?;
        with_own_home(&mut command, home).stdin(Stdio::null()).stdout(file).stderr(same_file);
        let _growing = growing();
        let child = namespace.enter(|| command.spawn())?.map_err(doing())?;
        Ok(Self { child, shown, log })
    }

    /// Its process id. `ip netns exec` becomes the program it runs, so this is the program's own.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Everything it said so far, on both outputs.
    pub(crate) fn output(&self) -> Result<String, LabError> {
        let said = fs::read(&self.log).map_err(LabError::doing(format!("read {}", self.log.display())))?;
        Ok(String::from_utf8_lossy(&said).into_owned())
    }

    /// Waits until it has said this. An error with all it said, where it did not in time.
    pub(crate) fn wait_for(&self, text: &str, deadline: Duration) -> Result<(), LabError> {
        let mut seen = self.output()?;
        wait_until(deadline, || {
            seen = self.output().unwrap_or_default();
            seen.contains(text)
        });
        let late = |seen| LabError::Late { awaited: format!("the words `{text}` of `{}`", self.shown), deadline, seen };
        if seen.contains(text) { Ok(()) } else { Err(late(seen)) }
    }

    /// Asks it to end, with SIGTERM.
    pub(crate) fn terminate(&mut self) -> Result<(), LabError> {
        self.signal(Signal::SIGTERM)
    }

    /// Kills it and waits for its end.
    pub(crate) fn kill9(&mut self) -> Result<(), LabError> {
        let doing = || LabError::doing(format!("kill `{}`", self.shown));
        self.child.kill().map_err(doing())?;
        self.child.wait().map(|_| ()).map_err(doing())
    }

    /// Sends it a signal. Nothing to do where it has ended.
    pub(crate) fn signal(&mut self, signal: Signal) -> Result<(), LabError> {
        if self.ended()?.is_some() {
            return Ok(());
        }
        // Not reaped yet, so the id is still its own.
        let id = Pid::from_raw(self.child.id().cast_signed());
        kill(id, signal).map_err(|errno| LabError::doing(format!("send {signal} to `{}`", self.shown))(errno.into()))
    }

    /// Waits for its end. An error with all it said, where it goes on.
    pub(crate) fn wait_exit(&mut self, deadline: Duration) -> Result<ExitStatus, LabError> {
        let mut outcome = self.ended();
        wait_until(deadline, || {
            outcome = self.ended();
            !matches!(outcome, Ok(None))
        });
        let late = |seen| LabError::Late { awaited: format!("the end of `{}`", self.shown), deadline, seen };
        match outcome? {
            Some(status) => Ok(status),
            None => Err(late(self.output()?)),
        }
    }

    fn ended(&mut self) -> Result<Option<ExitStatus>, LabError> {
        self.child.try_wait().map_err(LabError::doing(format!("look whether `{}` has ended", self.shown)))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.kill9();
    }
}

/// The signal that ended a process, if one did.
pub(crate) fn ended_by(status: ExitStatus) -> Option<Signal> {
    status.signal().and_then(|number| Signal::try_from(number).ok())
}
