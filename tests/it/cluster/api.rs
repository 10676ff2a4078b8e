//! Requests to whatever API server there is, as whoever a kubeconfig or a token says.
//!
//! From threads without a runtime, one request at a time. Deliberately absent: types. What is compared are whole JSON objects.

use std::sync::Arc;
use std::time::{Duration, Instant};

use kube::Config;
use kube::client::{Body, ClientBuilder};
use serde_json::Value;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

pub(super) use crate::harness::Outcome;
use crate::lab::LabError;

/// A server that is busy, or a connection that was lost, is asked again for this long.
const PATIENCE: Duration = Duration::from_secs(30);
/// One answer.
const ANSWER: Duration = Duration::from_secs(30);

pub(super) const JSON: &str = "application/json";
pub(super) const MERGE: &str = "application/merge-patch+json";
pub(super) const APPLY: &str = "application/apply-patch+yaml";

/// For `?` and `map_err`.
pub(super) fn fault(text: impl std::fmt::Display) -> LabError {
    LabError::Found(text.to_string())
}

/// A thread that drives connections. It ends with the last handle.
struct Background {
    handle: Handle,
    _stop: oneshot::Sender<()>,
}

impl Background {
    fn start() -> Outcome<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(fault)?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel::<()>();
        std::thread::spawn(move || runtime.block_on(stopped));
        Ok(Self { handle, _stop: stop })
    }
}

/// Somebody who asks.
#[derive(Clone)]
pub(super) struct Api {
    config: Config,
    client: kube::Client,
    background: Arc<Background>,
}

impl Api {
    /// As this configuration says.
    pub(super) fn new(config: Config) -> Outcome<Self> {
        Self::with(config, &Arc::new(Background::start()?))
    }

    fn with(config: Config, background: &Arc<Background>) -> Outcome<Self> {
        let _inside = background.handle.enter();
        let builder = ClientBuilder::try_from(config.clone()).map_err(|error| fault(chain(&error)))?;
        let client = builder.build();
        Ok(Self { config, client, background: Arc::clone(background) })
    }

    /// The same server, as whoever this token was given to.
    pub(super) fn with_token(&self, token: &str) -> Outcome<Self> {
        let auth_info = kube::config::AuthInfo { token: Some(token.to_owned().into()), ..Default::default() };
        let mut config = self.config.clone();
        config.auth_info = auth_info;
        Self::with(config, &self.background)
    }

    /// The answer's status and body, whatever they are. A refusal for being busy is asked again; so is what only reads, when the
    /// connection is lost.
    pub(super) fn send(&self, method: &str, path: &str, kind: &str, body: &Value) -> Outcome<(u16, Value)> {
        let begun = Instant::now();
        loop {
            let answer = self.once(method, path, kind, body);
            let again = match &answer {
                Ok((code, _)) => matches!(code, 429 | 503 | 504),
                Err(_) => method == "GET",
            };
            if !again || begun.elapsed() > PATIENCE {
                return answer;
            }
            // Before the server is asked again.
            std::thread::sleep(Duration::from_millis(500));
        }
    }

    fn once(&self, method: &str, path: &str, kind: &str, body: &Value) -> Outcome<(u16, Value)> {
        let doing = |error: &dyn std::error::Error| fault(format!("{method} {path}: {}", chain(error)));
        let bytes = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        let request = http::Request::builder().method(method).uri(path).header("Content-Type", kind);
        let request = request.header("Accept", JSON).body(Body::from(bytes)).map_err(|error| doing(&error))?;
        let exchange = async {
            let answer = self.client.send(request).await?;
            let code = answer.status().as_u16();
            answer.into_body().collect_bytes().await.map(|bytes| (code, bytes))
        };
        let limited = async { tokio::time::timeout(ANSWER, exchange).await };
        let answer = self.background.handle.block_on(limited);
        let answer = answer.map_err(|_| fault(format!("{method} {path}: no answer within {ANSWER:?}")))?;
        let (code, bytes) = answer.map_err(|error| doing(&error))?;
        let body = serde_json::from_slice(&bytes)
            .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&bytes).into_owned()));
        Ok((code, body))
    }

    /// The same; anything but success is a fault.
    pub(super) fn done(&self, method: &str, path: &str, kind: &str, body: &Value) -> Outcome<Value> {
        match self.send(method, path, kind, body)? {
            (200..300, answer) => Ok(answer),
            (code, answer) => Err(fault(format!("{method} {path}: {code} {}", message(&answer)))),
        }
    }

    /// An object, or nothing where it, or its kind, is not there.
    pub(super) fn get(&self, path: &str) -> Outcome<Option<Value>> {
        match self.send("GET", path, JSON, &Value::Null)? {
            (200, object) => Ok(Some(object)),
            (404, _) => Ok(None),
            (code, answer) => Err(fault(format!("GET {path}: {code} {}", message(&answer)))),
        }
    }

    /// The objects of a list; none where there is no such kind.
    pub(super) fn list(&self, path: &str) -> Outcome<Vec<Value>> {
        let list = self.get(path)?.unwrap_or_default();
        Ok(list["items"].as_array().cloned().unwrap_or_default())
    }

    /// Creates an object.
    pub(super) fn create(&self, path: &str, object: &Value) -> Outcome<Value> {
        self.done("POST", path, JSON, object)
    }

    /// Puts a merge patch into an object.
    pub(super) fn merge(&self, path: &str, patch: &Value) -> Outcome<Value> {
        self.done("PATCH", path, MERGE, patch)
    }

    /// Deletes an object at once. What is gone already is fine.
    pub(super) fn delete(&self, path: &str) -> Outcome {
        match self.send("DELETE", &format!("{path}?gracePeriodSeconds=0"), JSON, &Value::Null)? {
            (200..300 | 404, _) => Ok(()),
            (code, answer) => Err(fault(format!("DELETE {path}: {code} {}", message(&answer)))),
        }
    }

    /// Creates an object, trying again while the server does not know yet what it depends on: informers inside the server learn of new
    /// service accounts and namespaces a moment later.
    pub(super) fn create_soon(&self, path: &str, object: &Value) -> Outcome<Value> {
        let begun = Instant::now();
        loop {
            match self.send("POST", path, JSON, object)? {
                (200..300, answer) => return Ok(answer),
                (403 | 404 | 409, answer)
                    if begun.elapsed() < Duration::from_secs(15) && answer["reason"] != "AlreadyExists" =>
                {
                    drop(answer);
                    // Informers inside the server can only be asked.
                    std::thread::sleep(Duration::from_millis(200));
                }
                (code, answer) => return Err(fault(format!("POST {path}: {code} {}", message(&answer)))),
            }
        }
    }
}

/// A refusal's sentence.
pub(super) fn message(answer: &Value) -> String {
    answer["message"].as_str().map_or_else(|| answer.to_string(), str::to_owned)
}

/// A name in an object's metadata.
pub(super) fn name(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap_or_default()
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let more = cause.to_string();
        if !text.ends_with(&more) {
            text = format!("{text}: {more}");
        }
        next = cause.source();
    }
    text
}
