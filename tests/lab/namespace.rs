//! A network namespace by name, and how a thread or a program gets into it.
//!
//! Deliberately absent: making and deleting namespaces (`claim`). No process is forked to enter one: `setns(2)` moves a thread alone,
//! a program started by that thread inherits its namespace, and `/proc/sys/net` is that of the thread that opens it.

use std::ffi::OsStr;
use std::fs::File;
use std::path::PathBuf;
use std::process::Command;

use nix::sched::{CloneFlags, setns};

use super::error::{LabError, command, run};

/// Where `ip netns` keeps the names of namespaces.
pub(crate) const NAMED: &str = "/run/netns";

/// A network namespace that has a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Namespace {
    name: String,
}

impl Namespace {
    /// The namespace of this name, whether it exists or not.
    pub(crate) fn named(name: impl Into<String>) -> Self {
        Self { name: name.into() }
    }

    /// Its name, as `ip -n NAME` takes it.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The file that stands for it.
    pub(crate) fn path(&self) -> PathBuf {
        PathBuf::from(NAMED).join(&self.name)
    }

    /// Moves the calling thread into it for good. Only for a thread that has no other work: see [`Self::enter`].
    pub(crate) fn move_in(&self) -> Result<(), LabError> {
        let doing = || LabError::doing(format!("enter the namespace {}", self.name));
        let file = File::open(self.path()).map_err(doing())?;
        setns(file, CloneFlags::CLONE_NEWNET).map_err(|errno| doing()(errno.into()))
    }

    /// Does some work on a fresh thread inside the namespace and waits for it. A panic of the work is the caller's panic.
    pub(crate) fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, LabError> {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| self.move_in().map(|()| work()));
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Runs a program inside to its end and gives its standard output; anything but success is an error.
    pub(crate) fn exec(&self, words: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Result<String, LabError> {
        let mut command = command(words);
        self.enter(|| run(&mut command, ""))?
    }

    /// Feeds a ruleset to `nft -f -` inside.
    pub(crate) fn nft(&self, ruleset: &str) -> Result<(), LabError> {
        self.enter(|| run(Command::new("nft").args(["-f", "-"]), ruleset))?.map(|_| ())
    }

    /// Feeds lines to `ip -batch -` inside: one process, however many lines.
    pub(crate) fn ip_batch(&self, lines: &str) -> Result<(), LabError> {
        run(Command::new("ip").args(["-n", &self.name, "-batch", "-"]), lines).map(|_| ())
    }

    /// Sets a sysctl under `net.`, as `sysctl -w KEY=VALUE` does inside. A slash stands for a dot within a device's name.
    pub(crate) fn sysctl(&self, key: &str, value: &str) -> Result<(), LabError> {
        self.sysctls(&[(key.to_owned(), value.to_owned())])
    }

    /// Sets several sysctls in this order.
    pub(crate) fn sysctls(&self, settings: &[(String, String)]) -> Result<(), LabError> {
        self.enter(|| {
            for (key, value) in settings {
                let swapped = key.chars().map(|letter| match letter {
                    '.' => '/',
                    '/' => '.',
                    other => other,
                });
                let path = PathBuf::from("/proc/sys").join(swapped.collect::<String>());
                std::fs::write(&path, value)
                    .map_err(LabError::doing(format!("set {key}={value} in the namespace {}", self.name)))?;
            }
            Ok(())
        })?
    }
}
