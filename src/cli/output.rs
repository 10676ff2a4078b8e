//! How results and failures reach people: text or JSON on standard output, `error:` and `hint:` on standard error.
//!
//! Deliberately absent: logs of a running node (`telemetry`).

use std::error::Error;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use super::diagnostics::Colour;

/// The form of a command's result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Form {
    /// For people.
    Text,
    /// For programs.
    Json,
    /// For comments and pages.
    Markdown,
}

/// The exit code that says "there are changes".
pub(super) const CHANGES: u8 = 2;

/// A command that failed: what was being done to what, and what to do about it.
#[derive(Debug)]
pub(super) struct Failure {
    error: Box<dyn Error>,
    hint: Option<String>,
}

impl Failure {
    /// With a hint.
    pub(super) fn new(error: impl Into<Box<dyn Error>>, hint: Option<String>) -> Self {
        Self { error: error.into(), hint }
    }

    /// Prints it, and gives the exit code.
    pub(super) fn report(&self) -> ExitCode {
        let mut text = format!("error: {}\n", crate::telemetry::chain(self.error.as_ref()));
        if let Some(hint) = &self.hint {
            text.push_str(&format!("hint: {hint}\n"));
        }
        let _ = io::stderr().write_all(text.as_bytes());
        ExitCode::FAILURE
    }
}

/// Writes a result to standard output. A reader that has gone away, as `head` does, is no failure.
pub(super) fn print(text: &str) -> Result<(), Failure> {
    match io::stdout().write_all(text.as_bytes()).and_then(|()| io::stdout().flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Failure::new(error, None)),
        _ => Ok(()),
    }
}

/// Colours only on a terminal, and only where nobody asked for none (<https://no-color.org>).
pub(super) fn colour() -> Colour {
    let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    if wanted && io::stdout().is_terminal() { Colour::Yes } else { Colour::No }
}

/// A runtime on this thread: what opens netlink sockets must be in this network namespace.
pub(super) fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| Failure::new(error, None))
}
