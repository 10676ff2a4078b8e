//! What can go wrong in the lab, and the one way to run a program to its end.
//!
//! Deliberately absent: retries. A lab that cannot be built as asked is a fault of the machine or of the test, and says which.

use std::ffi::OsStr;
use std::io::{self, Write};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

/// A fault of the lab.
#[derive(thiserror::Error)]
pub(crate) enum LabError {
    /// The system refused something.
    #[error("cannot {doing}")]
    System {
        /// What was being done to what.
        doing: String,
        /// The system's reason.
        source: io::Error,
    },
    /// A program ended badly.
    #[error("`{command}` ended with {status}: {stderr}")]
    Failed {
        /// The command as one would type it.
        command: String,
        /// How it ended.
        status: ExitStatus,
        /// What it said.
        stderr: String,
    },
    /// The lab was asked about something it does not have.
    #[error("the lab has no {kind} `{name}`")]
    Unknown {
        /// "node", "pod" …
        kind: &'static str,
        /// The name asked for.
        name: String,
    },
    /// A pod that cannot be put in.
    #[error("pod `{name}` cannot be added: {reason}")]
    Pod {
        /// Its name.
        name: String,
        /// Why not.
        reason: &'static str,
    },
    /// Something awaited did not happen.
    #[error("{awaited} did not happen within {deadline:?}; seen so far:\n{seen}")]
    Late {
        /// What was awaited.
        awaited: String,
        /// How long.
        deadline: Duration,
        /// What there was instead.
        seen: String,
    },
    /// A program's output was not what it is documented to be.
    #[error("cannot make sense of {what}")]
    Nonsense {
        /// Whose output.
        what: &'static str,
    },
    /// What a test found, in its words.
    #[error("{0}")]
    Found(String),
}

impl std::fmt::Debug for LabError {
    /// Plain, with its causes: `main` and `#[test]` show errors so.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self}")?;
        let mut next = std::error::Error::source(self);
        while let Some(cause) = next {
            write!(f, ": {cause}")?;
            next = cause.source();
        }
        Ok(())
    }
}

impl LabError {
    /// For `map_err`: what was being done when the system refused.
    pub(crate) fn doing(doing: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let doing = doing.into();
        move |source| Self::System { doing, source }
    }
}

/// A command with these arguments.
pub(crate) fn command(words: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Command {
    let mut words = words.into_iter();
    // Without any word the spawn fails and names the empty program: no case of its own is needed.
    let mut command = words.next().map_or_else(|| Command::new(""), Command::new);
    command.args(words);
    command
}

/// Runs a command to its end with `input` on its standard input and gives its standard output; anything but success is an error.
pub(crate) fn run(command: &mut Command, input: &str) -> Result<String, LabError> {
    let shown = shown(command);
    let doing = || LabError::doing(format!("run `{shown}`"));
    let stdin = if input.is_empty() { Stdio::null() } else { Stdio::piped() };
    let mut child = command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().map_err(doing())?;
    if let Some(mut pipe) = child.stdin.take()
        && let Err(error) = pipe.write_all(input.as_bytes())
        // A program that found a mistake may stop reading; its own words, below, say more than a broken pipe.
        && error.kind() != io::ErrorKind::BrokenPipe
    {
        return Err(doing()(error));
    }
    let output = child.wait_with_output().map_err(doing())?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        let stderr = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        Err(LabError::Failed { command: shown, status: output.status, stderr })
    }
}

/// The command as one would type it, without quotes.
pub(crate) fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
}
