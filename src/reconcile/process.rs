//! What every process that runs on has around its loop: the signals that end it, and the error for what could not be started.
//!
//! Deliberately absent: what is done at the end.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// A thread, a server or a signal handler could not be had.
#[derive(Debug, thiserror::Error)]
#[error("start {what}")]
pub struct StartError {
    what: &'static str,
    #[source]
    source: io::Error,
}

impl StartError {
    /// Says what was to be started.
    pub fn of(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self { what, source }
    }

    /// A thread without which there is nothing to do has ended.
    pub fn ended(what: &'static str) -> Self {
        Self { what, source: io::Error::other("it has ended") }
    }
}

/// SIGTERM and SIGINT.
#[derive(Debug)]
pub struct Stop {
    terminate: Signal,
    interrupt: Signal,
}

impl Stop {
    /// From now on these signals end nothing by themselves.
    pub fn listen() -> Result<Self, StartError> {
        let handler = |kind| signal(kind).map_err(StartError::of("a signal handler"));
        Ok(Self { terminate: handler(SignalKind::terminate())?, interrupt: handler(SignalKind::interrupt())? })
    }

    /// Waits until somebody wants the process to end.
    pub async fn asked(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
