//! What every long-running process shares around its loop: the signals that end it, and the error for what could not
//! be started.
//!
//! Not here: what a process does on exit (`node`, `agent`, `controller`).

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// A thread, a server or a signal handler could not be started.
#[derive(Debug, thiserror::Error)]
#[error("start {what}")]
pub struct StartError {
    what: &'static str,
    #[source]
    source: io::Error,
}

impl StartError {
    /// Maps an IO error; `what` could not be started.
    pub fn of(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self { what, source }
    }

    /// A thread without which the process cannot work has ended.
    pub fn ended(what: &'static str) -> Self {
        Self { what, source: io::Error::other("it has ended") }
    }
}

/// SIGTERM and SIGINT.
#[derive(Debug)]
pub struct Stop(Option<Signals>);

#[derive(Debug)]
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Stop {
    /// From now on these signals no longer end the process themselves.
    pub fn listen() -> Result<Self, StartError> {
        let handler = |kind| signal(kind).map_err(StartError::of("a signal handler"));
        let signals =
            Signals { terminate: handler(SignalKind::terminate())?, interrupt: handler(SignalKind::interrupt())? };
        Ok(Self(Some(signals)))
    }

    /// Signals are none of this process's business: a simulation ends it.
    pub fn never() -> Self {
        Self(None)
    }

    /// Waits for one of the signals.
    pub async fn wait(&mut self) {
        let Some(Signals { terminate, interrupt }) = &mut self.0 else { return std::future::pending().await };
        tokio::select! {
            biased;
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    }
}
