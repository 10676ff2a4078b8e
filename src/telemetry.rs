//! What the program says while it runs: the tracing subscriber, and errors with all their causes in one line.
//!
//! Deliberately absent: what commands print as their result (`cli`).

use std::error::Error;
use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::FmtSpan;

/// Text for people, or a JSON object a line for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Text; in colour on a terminal.
    Text,
    /// JSON.
    Json,
}

/// Starts logging to standard error. `RUST_LOG` says how much; `info` unless it does.
pub fn start(form: Form) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_span_events(FmtSpan::NONE)
        .with_target(false);
    // A second subscriber, as in tests that start two, is no reason to fail.
    let _ = match form {
        Form::Text => builder.try_init(),
        Form::Json => builder.json().try_init(),
    };
}

/// An error and its causes, joined by `: `; each says only what it adds.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}
