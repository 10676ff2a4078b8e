//! The webhook as a loop sees it: somebody pushed or proposed something, or nobody will ever say so.
//!
//! Deliberately absent: HTTP and whom to believe (`serve::webhook`).

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use crate::serve::Server;
use crate::serve::webhook::{self, WebhookEvents};

/// Where a webhook is listened to, and who is believed.
#[derive(Debug, Clone)]
pub struct WebhookOptions {
    /// Where.
    pub listen: SocketAddr,
    /// The secret's file.
    pub secret_file: PathBuf,
}

/// A webhook, or none.
#[derive(Debug, Default)]
pub struct Webhook {
    running: Option<(Server, WebhookEvents)>,
}

/// What a forge tells of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WebhookEvent {
    /// Somebody pushed.
    Pushed,
    /// A pull request may be another than it was.
    Proposed,
}

impl Webhook {
    /// Listens, if there is something to listen to. `branch` is the only one whose pushes count, where it was given; `pulls`: whether
    /// somebody wants to hear of pull requests.
    pub fn start(options: Option<WebhookOptions>, branch: Option<String>, pulls: bool) -> io::Result<Self> {
        let Some(WebhookOptions { listen, secret_file }) = options else { return Ok(Self::default()) };
        let running = webhook::start(webhook::WebhookListener { listen, secret_file, branch, pulls })?;
        tracing::info!(address = %running.0.address(), "webhooks are listened to");
        Ok(Self { running: Some(running) })
    }

    /// Waits until a forge tells of something.
    pub async fn told(&mut self) -> WebhookEvent {
        let told = match &mut self.running {
            Some((_, events)) => tokio::select! {
                Some(()) = events.pushes.recv() => Some(WebhookEvent::Pushed),
                Some(()) = events.pulls.recv() => Some(WebhookEvent::Proposed),
                else => None,
            },
            None => None,
        };
        match told {
            Some(told) => told,
            None => std::future::pending().await,
        }
    }
}
