//! The connection to the API server: HTTP/2, so that one TLS connection carries every watch and every request of a
//! process; HTTP/1.1 where the server, or what stands before it, does not offer more (ALPN, RFC 7301).
//!
//! kube's own client has neither HTTP/2 nor keepalive nor a time limit for a TLS handshake. Not here: credentials
//! (kube's layers), and retries: a request that the server did not begin because it was closing the connection is sent
//! again by hyper; every other failure is the caller's.

use std::error::Error;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use http::header::RETRY_AFTER;
use http::{Request, Response, Uri};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper_rustls::{FixedServerNameResolver, HttpsConnector, HttpsConnectorBuilder, MaybeHttpsStream};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::{Connection as _, HttpConnector};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use kube::Config;
use kube::client::{Body, ConfigExt as _};
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio_rustls::rustls::pki_types::ServerName;
use tower::{BoxError, Service};

/// The time limit for a TCP connection.
const CONNECT: Duration = Duration::from_secs(5);
/// The time limit for a connection with its TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// A connection that was silent for this long is probed. A watch may be silent for minutes, and only the probes
/// distinguish that from a server that has lost its power.
const KEEPALIVE: Duration = Duration::from_secs(15);
/// HTTP/2: how long the answer to a PING may take. A dead server is noticed after 30 s.
const PONG: Duration = Duration::from_secs(15);
/// HTTP/1.1: TCP probes three times, with this pause between.
const KEEPALIVE_PAUSE: Duration = Duration::from_secs(5);
const KEEPALIVE_TRIES: u32 = 3;
/// The bytes of one answer that the server may send ahead of its reader.
const STREAM_WINDOW: u32 = 1 << 20;
/// The same for all answers together. More than all streams at once can fill: a watch that is not read for a while
/// never stops another one, a write, or the lease.
const CONNECTION_WINDOW: u32 = 24 * STREAM_WINDOW;

type Https = HttpsConnector<HttpConnector>;
type Answering<T, E> = Pin<Box<dyn Future<Output = Result<T, E>> + Send>>;

/// Sends requests. Cheap to clone; all clones share the connection.
#[derive(Clone)]
pub(super) struct Transport {
    http2: Client<Connector, Full<Bytes>>,
    http1: Client<Connector, Full<Bytes>>,
    /// Whether the server speaks HTTP/1.1 only, as far as is known.
    only_http1: Arc<AtomicBool>,
    turn: Arc<Mutex<()>>,
    secure: bool,
}

impl Transport {
    pub(super) fn new(config: &Config) -> Result<Self, BoxError> {
        let secure = config.cluster_url.scheme_str() == Some("https");
        let connector = |http2| Ok::<_, BoxError>(Connector { inner: https(config, http2)?, http2 });
        // `http2_only`: then the pool opens one connection for any number of requests that wait for it. With the
        // version left open it opens one for each, and drops all but one after their handshakes.
        let http2 = Client::builder(TokioExecutor::new())
            .http2_only(true)
            .http2_keep_alive_interval(KEEPALIVE)
            .http2_keep_alive_timeout(PONG)
            .http2_keep_alive_while_idle(true)
            .http2_initial_stream_window_size(STREAM_WINDOW)
            .http2_initial_connection_window_size(CONNECTION_WINDOW)
            // A connection on which no request began for a while still carries watches.
            .pool_idle_timeout(None)
            .timer(TokioTimer::new())
            .build(connector(true)?);
        let http1 = Client::builder(TokioExecutor::new()).build(connector(false)?);
        Ok(Self { http2, http1, only_http1: Arc::new(AtomicBool::new(!secure)), turn: Arc::default(), secure })
    }

    async fn send(self, request: Request<Body>) -> Result<Response<Incoming>, BoxError> {
        let (parts, body) = request.into_parts();
        // The bodies are bytes in memory.
        let body = body.collect_bytes().await?;
        let again = || Request::from_parts(parts.clone(), Full::new(body.clone()));
        let mut turn = None;
        while !self.only_http1.load(Ordering::Relaxed) {
            let error = match self.http2.request(again()).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            match connect_error(&error) {
                Some(ConnectError::NoHttp2) => self.only_http1.store(true, Ordering::Relaxed),
                // It waited for the connection that another request opened, and there is none now. Nothing was sent.
                // Each request tries again to find out why, one after another.
                None if error.is_connect() && turn.is_none() => turn = Some(self.turn.lock().await),
                _ => return Err(error.into()),
            }
        }
        drop(turn);
        let answer = self.http1.request(again()).await;
        if answer.as_ref().is_err_and(|error| self.secure && error.is_connect()) {
            // It may come back as another one.
            self.only_http1.store(false, Ordering::Relaxed);
        }
        Ok(answer?)
    }
}

impl Service<Request<Body>> for Transport {
    type Response = Response<Incoming>;
    type Error = BoxError;
    type Future = Answering<Self::Response, BoxError>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Box::pin(self.clone().send(request))
    }
}

/// kube's connector, and the versions of HTTP that it offers beside it.
fn https(config: &Config, http2: bool) -> Result<Https, BoxError> {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(CONNECT));
    tcp.set_keepalive(Some(KEEPALIVE));
    tcp.set_keepalive_interval(Some(KEEPALIVE_PAUSE));
    tcp.set_keepalive_retries(Some(KEEPALIVE_TRIES));
    tcp.set_tcp_user_timeout(Some(KEEPALIVE + KEEPALIVE_PAUSE * KEEPALIVE_TRIES));
    let mut builder = HttpsConnectorBuilder::new().with_tls_config(config.rustls_client_config()?).https_or_http();
    if let Some(name) = &config.tls_server_name {
        builder = builder.with_server_name_resolver(FixedServerNameResolver::new(ServerName::try_from(name.clone())?));
    }
    let builder = builder.enable_http1();
    Ok(if http2 { builder.enable_http2().wrap_connector(tcp) } else { builder.wrap_connector(tcp) })
}

/// Opens connections within a time limit.
#[derive(Clone)]
struct Connector {
    inner: Https,
    /// Whether only HTTP/2 will do.
    http2: bool,
}

/// Why there is no connection. Nothing was sent.
#[derive(Debug, thiserror::Error)]
enum ConnectError {
    #[error("the server does not speak HTTP/2")]
    NoHttp2,
    #[error("no connection within {} s", HANDSHAKE.as_secs())]
    Timeout,
    #[error(transparent)]
    Failed(BoxError),
}

impl Service<Uri> for Connector {
    type Response = MaybeHttpsStream<TokioIo<TcpStream>>;
    type Error = ConnectError;
    type Future = Answering<Self::Response, ConnectError>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        self.inner.poll_ready(context).map_err(ConnectError::Failed)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let (opening, http2) = (self.inner.call(uri), self.http2);
        Box::pin(async move {
            let opened = tokio::time::timeout(HANDSHAKE, opening).await;
            let stream = opened.map_err(|_| ConnectError::Timeout)?.map_err(ConnectError::Failed)?;
            if http2 && !stream.connected().is_negotiated_h2() {
                return Err(ConnectError::NoHttp2);
            }
            Ok(stream)
        })
    }
}

/// Why this very request found no connection; none if it waited for another one's.
fn connect_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a ConnectError> {
    error.downcast_ref().or_else(|| connect_error(error.source()?))
}

/// What the server says about when to ask again. In the extensions of a request: kube's errors have no headers, and
/// priority and fairness refuses without a Status.
#[derive(Debug, Clone, Default)]
pub(super) struct RetryAfter(Arc<OnceLock<Duration>>);

impl RetryAfter {
    pub(super) fn get(&self) -> Option<Duration> {
        self.0.get().copied()
    }
}

/// Notes the header `Retry-After` for those who ask.
#[derive(Clone)]
pub(super) struct NoteRetryAfter<S>(pub(super) S);

impl<S, B> Service<Request<Body>> for NoteRetryAfter<S>
where
    S: Service<Request<Body>, Response = Response<B>, Future: Send + 'static>,
{
    type Response = Response<B>;
    type Error = S::Error;
    type Future = Answering<Response<B>, S::Error>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let note = request.extensions().get::<RetryAfter>().cloned();
        let answering = self.0.call(request);
        Box::pin(async move {
            let answer = answering.await?;
            let seconds = answer.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
            if let (Some(RetryAfter(note)), Some(seconds)) = (note, seconds) {
                // A request has one answer.
                let _ = note.set(Duration::from_secs(seconds));
            }
            Ok(answer)
        })
    }
}

#[cfg(test)]
mod secure;
#[cfg(test)]
mod tests;
