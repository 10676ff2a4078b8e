//! The webhook as a loop sees it: somebody pushed, or nobody will ever say so.
//!
//! Deliberately absent: HTTP and whom to believe (`serve::webhook`).

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use tokio::sync::mpsc;

use crate::serve::{Server, webhook};

/// Where a webhook is listened to, and who is believed.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where.
    pub listen: SocketAddr,
    /// The secret's file.
    pub secret_file: PathBuf,
}

/// A webhook, or none.
#[derive(Debug, Default)]
pub struct Hook {
    running: Option<(Server, mpsc::Receiver<()>)>,
}

impl Hook {
    /// Listens, if there is something to listen to. `branch` is the only one whose pushes count, where it was given.
    pub fn start(options: Option<Options>, branch: Option<String>) -> io::Result<Self> {
        let Some(Options { listen, secret_file }) = options else { return Ok(Self::default()) };
        let running = webhook::start(webhook::Options { listen, secret_file, branch })?;
        tracing::info!(address = %running.0.address(), "webhooks are listened to");
        Ok(Self { running: Some(running) })
    }

    /// Waits until somebody pushed.
    pub async fn pushed(&mut self) {
        let told = match &mut self.running {
            Some((_, pushes)) => pushes.recv().await,
            None => None,
        };
        if told.is_none() {
            std::future::pending::<()>().await;
        }
    }
}
