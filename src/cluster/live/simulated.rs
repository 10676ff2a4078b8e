//! An API server in memory, for tests in simulated time: without sockets, tokio's clock advances when all tasks wait.
//!
//! Not here: what an API server says (see `tests/apiserver`). It lists, watches, and fails as a test wants it.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body as Answer, Bytes};
use futures::stream;
use http::{Request, Response};
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};
use tower::{BoxError, Service};

use super::ApiClient;
use crate::clock::Clock;

/// How long an answer takes.
const LATENCY: Duration = Duration::from_millis(2);
/// How often a watch has a bookmark.
const BOOKMARKS: Duration = Duration::from_mins(1);

/// The server. Clones are the same server.
#[derive(Clone, Default)]
pub(super) struct Simulated(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    away: bool,
    version: u64,
    /// Watches from before this version are refused as expired.
    oldest: u64,
    /// How many more requests for a path are refused with 429.
    busy: BTreeMap<String, u32>,
    objects: BTreeMap<(String, String), Value>,
    events: Vec<Event>,
    watches: BTreeMap<u64, Watch>,
    /// Paths whose watches receive no event.
    deaf: BTreeSet<String>,
    asked: Vec<Asked>,
    next: u64,
}

#[derive(Clone)]
struct Event {
    version: u64,
    path: String,
    line: Bytes,
}

struct Watch {
    path: String,
    out: mpsc::UnboundedSender<io::Result<Bytes>>,
}

/// A request as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) at: Instant,
    /// `list`, `watch`, `compare`.
    pub(super) verb: &'static str,
    pub(super) path: String,
    /// Zero if the connection was refused.
    pub(super) status: u16,
}

impl Simulated {
    pub(super) fn client(&self) -> ApiClient {
        ApiClient::of_service(self.clone(), "a simulated server", Clock::system())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no test panicked with it")
    }

    /// Changes or adds an object. Its watch loses the event if it is `lost`.
    fn put(&self, path: &str, mut object: Value, lost: bool) {
        let mut state = self.state();
        state.version += 1;
        object["metadata"]["resourceVersion"] = json!(state.version.to_string());
        let name = object["metadata"]["name"].as_str().expect("a name").to_owned();
        let known = state.objects.insert((path.to_owned(), name), object.clone()).is_some();
        let line = line(if known { "MODIFIED" } else { "ADDED" }, &object);
        if !lost {
            let event = Event { version: state.version, path: path.to_owned(), line };
            state.tell(&event);
            state.events.push(event);
        }
    }

    pub(super) fn set(&self, path: &str, object: Value) {
        self.put(path, object, false);
    }

    pub(super) fn set_unheard(&self, path: &str, object: Value) {
        self.put(path, object, true);
    }

    /// Refuses connections, and ends those there are.
    pub(super) fn leave(&self) {
        let mut state = self.state();
        state.away = true;
        for watch in std::mem::take(&mut state.watches).into_values() {
            // Its reader may be gone.
            let _ = watch.out.send(Err(io::ErrorKind::ConnectionReset.into()));
        }
    }

    /// Comes back as a server that was started anew: older versions have expired.
    pub(super) fn come_back(&self) {
        let mut state = self.state();
        state.away = false;
        state.version += 1;
        state.oldest = state.version;
    }

    /// Refuses every watch as expired, whatever was listed.
    pub(super) fn forget(&self) {
        let mut state = self.state();
        state.oldest = u64::MAX;
        state.watches.clear();
    }

    /// Refuses the next requests for a path with 429.
    pub(super) fn be_busy(&self, path: &str, times: u32) {
        self.state().busy.insert(path.to_owned(), times);
    }

    /// Tells the watches of a path nothing more, and no bookmarks either.
    pub(super) fn deafen(&self, path: &str) {
        self.state().deaf.insert(path.to_owned());
    }

    pub(super) fn hear(&self, path: &str) {
        self.state().deaf.remove(path);
    }

    /// What was requested since the last call.
    pub(super) fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut self.state().asked)
    }

    async fn answer(self, request: Request<Body>) -> Result<Response<Answer>, BoxError> {
        sleep(LATENCY).await;
        let path = request.uri().path().to_owned();
        let parameters = Parameters::of(request.uri().query().unwrap_or_default());
        let accepts = request.headers().get("accept").and_then(|value| value.to_str().ok()).unwrap_or_default();
        let verb = match (&parameters.watch, accepts.contains("PartialObjectMetadataList")) {
            (Some(_), _) => "watch",
            (None, true) => "compare",
            (None, false) => "list",
        };
        let mut state = self.state();
        let (status, answer) = state.respond(&path, &parameters);
        state.asked.push(Asked { at: Instant::now(), verb, path: path.clone(), status });
        match (status, parameters.watch) {
            (0, _) => Err(io::Error::from(io::ErrorKind::ConnectionRefused).into()),
            (200, Some(from)) => {
                let (id, body) = state.watch(&path, from);
                tokio::spawn(self.clone().run(id, path, parameters.length));
                Ok(Response::new(body))
            }
            (status, _) => {
                let response = Response::builder().status(status).body(Answer::from(answer.to_string()));
                Ok(response.expect("a response"))
            }
        }
    }

    /// Sends bookmarks, and ends a watch in time.
    async fn run(self, id: u64, path: String, length: Duration) {
        let (end, mut bookmark) = (Instant::now() + length, Instant::now() + BOOKMARKS);
        while bookmark < end {
            sleep_until(bookmark).await;
            bookmark += BOOKMARKS;
            let state = self.state();
            let Some(watch) = state.watches.get(&id) else { return };
            if !state.deaf.contains(&path) {
                let metadata = json!({"resourceVersion": state.version.to_string()});
                let object = json!({"apiVersion": "v1", "kind": "Any", "metadata": metadata});
                let _ = watch.out.send(Ok(line("BOOKMARK", &object)));
            }
        }
        sleep_until(end).await;
        self.state().watches.remove(&id);
    }
}

impl State {
    fn tell(&self, event: &Event) {
        if !self.deaf.contains(&event.path) {
            for watch in self.watches.values().filter(|watch| watch.path == event.path) {
                let _ = watch.out.send(Ok(event.line.clone()));
            }
        }
    }

    fn respond(&mut self, path: &str, parameters: &Parameters) -> (u16, Value) {
        if self.away {
            return (0, Value::Null);
        }
        let busy = self.busy.get_mut(path).filter(|left| **left > 0);
        if let Some(left) = busy {
            *left -= 1;
            let details = json!({"retryAfterSeconds": 1});
            let message = "storage is (re)initializing";
            let status = json!({"code": 429, "reason": "TooManyRequests", "message": message, "details": details});
            return (429, status);
        }
        if parameters.watch.is_some_and(|from| from < self.oldest) {
            return (410, json!({"code": 410, "reason": "Expired", "message": "too old resource version"}));
        }
        let items = self.objects.iter().filter(|((of, _), _)| of == path).map(|(_, object)| object);
        let items: Vec<&Value> = items.collect();
        (200, json!({"metadata": {"resourceVersion": self.version.to_string()}, "items": items}))
    }

    /// A watch that begins with what happened since a version.
    fn watch(&mut self, path: &str, from: u64) -> (u64, Answer) {
        let (out, lines) = mpsc::unbounded_channel();
        self.next += 1;
        let since = self.events.iter().filter(|event| event.version > from && event.path == path);
        for event in since.filter(|event| !self.deaf.contains(&event.path)) {
            let _ = out.send(Ok(event.line.clone()));
        }
        self.watches.insert(self.next, Watch { path: path.to_owned(), out });
        let lines = stream::unfold(lines, async |mut lines| Some((lines.recv().await?, lines)));
        (self.next, Answer::from_stream(lines))
    }
}

/// What a request asks for in its query.
struct Parameters {
    /// The version to watch from.
    watch: Option<u64>,
    length: Duration,
}

impl Parameters {
    fn of(query: &str) -> Self {
        let pairs: BTreeMap<&str, &str> = query.split('&').filter_map(|pair| pair.split_once('=')).collect();
        let number = |name: &str| pairs.get(name).and_then(|value| value.parse().ok()).unwrap_or_default();
        let watch = pairs.contains_key("watch").then(|| number("resourceVersion"));
        Self { watch, length: Duration::from_secs(number("timeoutSeconds")) }
    }
}

fn line(kind: &str, object: &Value) -> Bytes {
    Bytes::from(format!("{}\n", json!({"type": kind, "object": object})))
}

impl Service<Request<Body>> for Simulated {
    type Response = Response<Answer>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Answer>, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Box::pin(self.clone().answer(request))
    }
}
