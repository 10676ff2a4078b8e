//! Logging: the tracing subscriber, and errors with all their causes in one line. `cli` prints the results of
//! commands.

use std::error::Error;

use tracing_subscriber::EnvFilter;
pub use tracing_subscriber::filter::LevelFilter as Level;
use tracing_subscriber::fmt::format::FmtSpan;

/// Text for reading, or one JSON object per line for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Text, in colour on a terminal.
    Text,
    /// One JSON object a line.
    Json,
}

/// Starts logging to standard error: at the level of `EGRET_LOG`, else of `RUST_LOG`, else at the given one.
pub fn start(form: Form, level: Level) {
    let from_environment = || ["EGRET_LOG", "RUST_LOG"].into_iter().find_map(|name| EnvFilter::try_from_env(name).ok());
    // Below INFO only Egret's own messages are logged: those of HTTP clients would hide them.
    let own = if level > Level::INFO { format!("info,egret={level}") } else { level.to_string() };
    let filter = from_environment().unwrap_or_else(|| EnvFilter::new(own));
    let colours = anstream::AutoStream::choice(&std::io::stderr()) != anstream::ColorChoice::Never;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(colours)
        .with_span_events(FmtSpan::NONE)
        .with_target(false);
    // A second subscriber, as in tests that start two, is not an error.
    let _ = match form {
        Form::Text => builder.try_init(),
        Form::Json => builder.json().try_init(),
    };
}

/// An error and its causes, joined by `: `; each contributes only its own text.
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
