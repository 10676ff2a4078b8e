//! Logging: the tracing subscriber, and errors with all their causes in one line. `cli` prints the results of
//! commands.

use std::error::Error;
use std::time::Duration;

use tokio::time::Instant;
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

/// How often at most a fault that comes and goes is logged.
const FAULT_PAUSE: Duration = Duration::from_mins(1);

/// Decides which failures of one thing that is tried again and again are logged: the first, another cause after a while,
/// and the end of what was logged. An API server that is restarted fails each request several times, with several causes.
#[derive(Debug, Clone, Default)]
pub struct FaultLog(Option<Logged>);

#[derive(Debug, Clone)]
struct Logged {
    cause: String,
    at: Instant,
    over: bool,
}

impl FaultLog {
    /// It failed. Returns whether that is to be logged.
    pub fn failed(&mut self, cause: &str) -> bool {
        let known = self.0.as_ref().is_some_and(|logged| {
            logged.at.elapsed() < FAULT_PAUSE || !logged.over && logged.cause == cause
        });
        if !known {
            self.0 = Some(Logged { cause: cause.to_owned(), at: Instant::now(), over: false });
        }
        !known
    }

    /// It works. Returns whether the end of a failure is to be logged.
    pub fn works(&mut self) -> bool {
        self.0.as_mut().is_some_and(|logged| !std::mem::replace(&mut logged.over, true))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_failure_is_logged_once_and_its_end_and_another_cause_after_a_while() {
        let mut log = FaultLog::default();
        assert!(!log.works(), "it never failed");
        assert!(log.failed("connection reset") && !log.failed("connection reset") && !log.failed("too old"));
        assert!(log.works() && !log.works());
        assert!(!log.failed("connection reset"), "a moment later");
        assert!(!log.works(), "what was not logged does not end in the log");
        tokio::time::advance(FAULT_PAUSE).await;
        assert!(log.failed("connection reset"));
        tokio::time::advance(FAULT_PAUSE).await;
        assert!(!log.failed("connection reset"), "it is known");
        assert!(log.failed("forbidden"));
        assert!(log.works());
    }
}
