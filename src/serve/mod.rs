//! The HTTP server of a long-running process: `/metrics` for Prometheus, `/healthz` and `/readyz` for the kubelet's
//! probes.
//!
//! Requests do not stop the loop: it sets what it knows ([`Metrics`], [`Health`]), and reads the kernel's counters
//! only when a scrape requests them ([`ScrapeRequests`]). There is no TLS and no authentication, because a request
//! changes nothing and a response contains no secret; restrict access by network means. What an agent answers to people
//! is the exception ([`answers`]).

pub mod answers;
mod bucket;
mod health;
mod limits;
mod metrics;
mod page;
mod scrape;
pub mod ui;
pub mod webhook;

use std::io;
use std::net::SocketAddr;

use axum::Router;
use axum::extract::State;
use axum::http::header::{CONNECTION, CONTENT_TYPE};
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::map_response;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::sync::oneshot;

pub use answers::Door;
pub use health::{Health, TURN};
pub use metrics::{ApiErrorCounts, Metrics, PreviewResult};
pub use page::{FAMILIES, MetricFamily};
pub use scrape::{ScrapeRequest, ScrapeRequests};

/// The running server. It stops when this is dropped; responses in progress are completed.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    /// Nothing is ever sent: dropping it is the signal.
    _stop: oneshot::Sender<()>,
}

impl Server {
    /// The address that it listens on, with the port that the kernel chose if 0 was requested.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

/// Listens, and serves on the current runtime. An error says what is wrong with the address, for instance a port in
/// use.
pub fn start(listen: SocketAddr, health: Health, metrics: Metrics) -> io::Result<Server> {
    start_with(listen, router(health, metrics))
}

/// The same, with answers to whoever this door lets in.
pub fn start_answering(listen: SocketAddr, health: Health, metrics: Metrics, door: Door) -> io::Result<Server> {
    start_with(listen, router(health, metrics).merge(door.router()))
}

fn start_with(listen: SocketAddr, router: Router) -> io::Result<Server> {
    let failed = |error: io::Error| io::Error::new(error.kind(), format!("listen on {listen}: {error}"));
    let listener = limits::Limited::bind(listen).map_err(failed)?;
    let address = axum::serve::Listener::local_addr(&listener).map_err(failed)?;
    let (stop, stopped) = oneshot::channel::<()>();
    let served =
        axum::serve(listener, router.layer(map_response(last_of_its_connection))).with_graceful_shutdown(async {
            // An error means that the sender was dropped, which is the signal.
            let _ = stopped.await;
        });
    tokio::spawn(async { served.await });
    Ok(Server { address, _stop: stop })
}

/// Other methods get 405, other paths 404.
fn router(health: Health, metrics: Metrics) -> Router {
    let probes = Router::new().route("/healthz", get(healthz)).route("/readyz", get(readyz)).with_state(health);
    let metrics = Router::new().route("/metrics", get(exposition)).with_state(metrics);
    probes.merge(metrics)
}

async fn healthz(State(health): State<Health>) -> Response {
    response(health.alive())
}

async fn readyz(State(health): State<Health>) -> Response {
    match (health.ready(), health.remark()) {
        (Ok(()), Some(remark)) => (StatusCode::OK, format!("ok\n{remark}\n")).into_response(),
        (ready, _) => response(ready),
    }
}

fn response(state: Result<(), String>) -> Response {
    match state {
        Ok(()) => (StatusCode::OK, "ok\n".to_owned()).into_response(),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")).into_response(),
    }
}

async fn exposition(State(metrics): State<Metrics>) -> Response {
    match page::page(&metrics).await {
        Ok(page) => ([(CONTENT_TYPE, page::CONTENT_TYPE)], page).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("write the metrics: {error}\n")).into_response(),
    }
}

/// A client that comes every half minute needs no connection in between.
async fn last_of_its_connection(mut response: Response) -> Response {
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    response
}
