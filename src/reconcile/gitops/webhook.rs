//! The webhook as a loop uses it: an event for each push or pull request, or none ever if there is no webhook.
//!
//! Not here: HTTP and authentication (`serve::webhook`).

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use crate::serve::Server;
use crate::serve::webhook::{self, WebhookEvents};

/// The address and the secret of a webhook.
#[derive(Debug, Clone)]
pub struct WebhookOptions {
    /// The listen address.
    pub listen: SocketAddr,
    /// The secret's file.
    pub secret_file: PathBuf,
}

/// A webhook, or none.
#[derive(Debug, Default)]
pub struct Webhook {
    running: Option<(Option<Server>, WebhookEvents)>,
}

/// An event of a forge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WebhookEvent {
    /// A push.
    Pushed,
    /// A pull request may have changed.
    Proposed,
}

impl Webhook {
    /// Listens, if a webhook is configured. `branch`: only its pushes count, if it is given; `pulls`: whether events
    /// of pull requests are wanted.
    pub fn start(options: Option<WebhookOptions>, branch: Option<String>, pulls: bool) -> io::Result<Self> {
        let Some(WebhookOptions { listen, secret_file }) = options else { return Ok(Self::default()) };
        let (server, events) = webhook::start(webhook::WebhookListener { listen, secret_file, branch, pulls })?;
        tracing::info!(address = %server.address(), "webhooks are listened to");
        Ok(Self { running: Some((Some(server), events)) })
    }

    /// Events that come from this process itself.
    pub fn of_events(events: WebhookEvents) -> Self {
        Self { running: Some((None, events)) }
    }

    /// Waits for the next event of a forge.
    pub async fn next_event(&mut self) -> WebhookEvent {
        let event = match &mut self.running {
            Some((_, events)) => tokio::select! {
                biased;
                Some(()) = events.pushes.recv() => Some(WebhookEvent::Pushed),
                Some(()) = events.pulls.recv() => Some(WebhookEvent::Proposed),
                else => None,
            },
            None => None,
        };
        match event {
            Some(event) => event,
            None => std::future::pending().await,
        }
    }
}
