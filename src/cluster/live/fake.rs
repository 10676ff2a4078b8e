//! A test server that hands each request to the test, which provides the response.
//!
//! Not here: an API server's behaviour (see `tests/`, which has a double of one).

use std::convert::Infallible;
use std::io::Write as _;
use std::net::TcpListener;
use std::thread;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::response::Response;
use flate2::Compression;
use flate2::write::GzEncoder;
use futures::stream;
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};

use super::ApiClient;

/// Longer than any of our pauses after a first failure.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

/// The server. Dropping it closes all of its connections.
pub(super) struct Fake {
    pub(super) address: String,
    requests: mpsc::UnboundedReceiver<FakeRequest>,
    thread: Option<(oneshot::Sender<()>, thread::JoinHandle<()>)>,
}

/// A request that waits for its answer.
pub(super) struct FakeRequest {
    pub(super) method: String,
    /// The path with its query.
    pub(super) path: String,
    pub(super) body: String,
    pub(super) authorization: Option<String>,
    answer: oneshot::Sender<Response>,
}

/// The server's end of a watch. Dropping it ends the watch regularly.
pub(super) struct FakeWatch(mpsc::UnboundedSender<Bytes>);

impl Fake {
    pub(super) fn start() -> Self {
        Self::listen("127.0.0.1:0")
    }

    /// A server at the address of an earlier one.
    pub(super) fn start_at(address: &str) -> Self {
        Self::listen(address.trim_start_matches("http://"))
    }

    /// In a runtime of its own: its end closes all connections.
    fn listen(address: &str) -> Self {
        let listener = TcpListener::bind(address).expect("a port");
        listener.set_nonblocking(true).expect("a listener");
        let address = format!("http://{}", listener.local_addr().expect("an address"));
        let (sender, requests) = mpsc::unbounded_channel();
        let (stop, stopped) = oneshot::channel();
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
                tokio::select! {
                    biased;
                    ended = axum::serve(listener, router(sender)) => ended.expect("a server"),
                    _ = stopped => {}
                }
            });
        });
        Self { address, requests, thread: Some((stop, thread)) }
    }

    pub(super) fn client(&self) -> ApiClient {
        ApiClient::at(&self.address)
    }

    /// The next request.
    pub(super) async fn next_request(&mut self) -> FakeRequest {
        tokio::time::timeout(PATIENCE, self.requests.recv()).await.expect("a request in time").expect("a server")
    }

    /// Whether no request arrives within this time.
    pub(super) async fn quiet(&mut self, time: Duration) -> bool {
        tokio::time::timeout(time, self.requests.recv()).await.is_err()
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        if let Some((stop, thread)) = self.thread.take() {
            drop(stop);
            // The panic message was printed already.
            let _ = thread.join();
        }
    }
}

/// Hands over each request.
pub(super) fn router(sender: mpsc::UnboundedSender<FakeRequest>) -> Router {
    Router::new().fallback(hand_over).with_state(sender)
}

async fn hand_over(State(sender): State<mpsc::UnboundedSender<FakeRequest>>, request: Request) -> Response {
    let method = request.method().to_string();
    let path = request.uri().to_string();
    let authorization = request.headers().get("authorization").and_then(|value| value.to_str().ok()).map(str::to_owned);
    let body = axum::body::to_bytes(request.into_body(), usize::MAX).await.expect("a body");
    let body = String::from_utf8(body.to_vec()).expect("a text");
    let (answer, answered) = oneshot::channel();
    sender.send(FakeRequest { method, path, body, authorization, answer }).expect("a test");
    // A request that is dropped without an answer stays unanswered.
    match answered.await {
        Ok(response) => response,
        Err(_) => std::future::pending().await,
    }
}

/// A server whose answers say whether they are compressed, which they are for who takes that. Its address.
pub(super) async fn compressing() -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = format!("http://{}", listener.local_addr().expect("an address"));
    tokio::spawn(axum::serve(listener, Router::new().fallback(compressed)).into_future());
    address
}

async fn compressed(request: Request) -> Response {
    let gzip = request.headers().get("accept-encoding").is_some_and(|value| value == "gzip");
    let text = json!({"compressed": gzip, "padding": "x".repeat(1 << 20)}).to_string();
    if !gzip {
        return Response::new(Body::from(text));
    }
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(text.as_bytes()).expect("memory");
    let body = Body::from(encoder.finish().expect("memory"));
    Response::builder().header("content-encoding", "gzip").body(body).expect("an answer")
}

impl FakeRequest {
    /// Whether it is a watch, and from this version.
    pub(super) fn watches_from(&self, version: &str) -> bool {
        self.path.contains("watch=true") && self.path.ends_with(&format!("&resourceVersion={version}"))
    }

    pub(super) fn answer(self, status: u16, body: &Value) {
        let body = Body::from(body.to_string());
        let response = Response::builder().status(status).header("content-type", "application/json").body(body);
        // The client may have given up.
        let _ = self.answer.send(response.expect("a response"));
    }

    /// Answers with a Status.
    pub(super) fn refuse(self, status: u16, reason: &str, message: &str) {
        self.answer(status, &status_object(status, reason, message));
    }

    /// Answers with a watch.
    pub(super) fn stream(self) -> FakeWatch {
        let (lines, rest) = mpsc::unbounded_channel::<Bytes>();
        let lines_of = stream::unfold(rest, async |mut rest| {
            let line = rest.recv().await?;
            Some((Ok::<_, Infallible>(line), rest))
        });
        let response = Response::builder().body(Body::from_stream(lines_of)).expect("a response");
        let _ = self.answer.send(response);
        FakeWatch(lines)
    }
}

impl FakeWatch {
    pub(super) fn send(&self, kind: &str, object: &Value) {
        let line = format!("{}\n", serde_json::json!({"type": kind, "object": object}));
        self.0.send(Bytes::from(line)).expect("a watch");
    }

    /// Reports that the version has expired.
    pub(super) fn expire(&self) {
        self.send("ERROR", &status_object(410, "Expired", "too old resource version: 1 (9)"));
    }
}

fn status_object(code: u16, reason: &str, message: &str) -> Value {
    serde_json::json!({"kind": "Status", "status": "Failure", "message": message, "reason": reason, "code": code})
}
