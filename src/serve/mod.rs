//! The HTTP server of a process that runs: `/metrics` for Prometheus, `/healthz` and `/readyz` for whoever restarts or waits.
//!
//! Whatever is asked here, the loop goes on: it tells what it knows ([`Metrics`], [`Health`]), and what it counts in the kernel
//! only when somebody wants to know ([`Questions`]). Deliberately absent: TLS and passwords, because nothing here changes anything
//! and no secret is among it; who may ask is the network's to say.

mod health;
mod limits;
mod metrics;
mod page;
mod scrape;
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

pub use health::{Health, TURN};
pub use metrics::{ApiErrorCounts, Metrics, PreviewResult};
pub use page::{FAMILIES, MetricFamily};
pub use scrape::{ScrapeRequest, ScrapeRequests};

/// The running server. It ends when this is dropped; answers that are on their way are given.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    /// Nothing is ever sent: that it is dropped is the message.
    _stop: oneshot::Sender<()>,
}

impl Server {
    /// Where it listens: with the port that the kernel chose, if 0 was asked for.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

/// Listens, and answers on the present runtime. An error says what is wrong with the address, a port in use for instance.
pub fn start(listen: SocketAddr, health: Health, metrics: Metrics) -> io::Result<Server> {
    let told = |error: io::Error| io::Error::new(error.kind(), format!("listen on {listen}: {error}"));
    let listener = limits::Limited::bind(listen).map_err(told)?;
    let address = axum::serve::Listener::local_addr(&listener).map_err(told)?;
    let (stop, stopped) = oneshot::channel::<()>();
    let served = axum::serve(listener, router(health, metrics)).with_graceful_shutdown(async {
        // An error is the sender's end, which is what is waited for.
        let _ = stopped.await;
    });
    tokio::spawn(async { served.await });
    Ok(Server { address, _stop: stop })
}

/// Other methods are 405, other paths 404.
fn router(health: Health, metrics: Metrics) -> Router {
    let probes = Router::new().route("/healthz", get(healthz)).route("/readyz", get(readyz)).with_state(health);
    let metrics = Router::new().route("/metrics", get(exposition)).with_state(metrics);
    probes.merge(metrics).layer(map_response(last_of_its_connection))
}

async fn healthz(State(health): State<Health>) -> Response {
    told(health.alive())
}

async fn readyz(State(health): State<Health>) -> Response {
    match (health.ready(), health.remark()) {
        (Ok(()), Some(remark)) => (StatusCode::OK, format!("ok\n{remark}\n")).into_response(),
        (ready, _) => told(ready),
    }
}

fn told(state: Result<(), String>) -> Response {
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

/// Who comes every half a minute needs no connection in between.
async fn last_of_its_connection(mut response: Response) -> Response {
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    response
}
