//! The HTTP client for forges and for Git over HTTPS.
//!
//! It uses hyper and rustls, which are dependencies of kube's client already. Nothing hangs: a connection, an
//! answer's head, each piece of its body and the whole of it have a time limit; every answer has a size limit.
//! HTTP/1.1 only: there are few requests, one after the other. It must be used within a tokio runtime with IO and
//! time enabled.
//!
//! It never follows redirects (a token is only for the configured host, and the answer comes from it), and has no
//! retries, cookies, caches, compression, or proxy from the environment.

mod connect;
pub mod echo;
mod error;
mod trust;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header::{self, HeaderValue};
use http::uri::Scheme;
use http::{HeaderMap, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::Client as Pool;
use hyper_util::rt::{TokioExecutor, TokioTimer};

pub use error::{HttpError, HttpErrorCause, TlsError};
pub use http::{Method, Request};
pub use hyper::body::Bytes;
pub use trust::ClientIdentity;

use self::connect::{Connector, Proxy};
use self::error::{cause_of, cause_of_body};
use self::trust::TrustAnchors;
use crate::secret::Secret;

/// The User-Agent header.
const USER_AGENT: &str = concat!("egret/", env!("CARGO_PKG_VERSION"));

/// A request's body. One that is not known in advance is made by [`body`].
pub type Body = http_body_util::combinators::UnsyncBoxBody<Bytes, Box<dyn std::error::Error + Send + Sync>>;

/// Options of the client.
#[derive(Debug, Clone, Default)]
pub struct ClientOptions {
    /// A PEM file with the trusted authorities. None: the system's, see `trust`.
    pub roots: Option<PathBuf>,
    /// Our certificate, for servers that require one.
    pub identity: Option<ClientIdentity>,
    /// `http://[user:password@]host:port`. None: no proxy, whatever the environment says.
    pub proxy: Option<Secret>,
    /// Whether `http://` is allowed. A token is then sent in clear text.
    pub plain: bool,
    /// Time and size limits.
    pub limits: RequestLimits,
}

/// Time and size limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestLimits {
    /// For name resolution, connecting, the proxy and TLS.
    pub connect: Duration,
    /// From the request to the answer's head, and between two pieces of its body.
    pub idle: Duration,
    /// From the request to the answer's end.
    pub total: Duration,
    /// The most bytes of an answer.
    pub most: u64,
}

impl Default for RequestLimits {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            idle: Duration::from_secs(30),
            total: Duration::from_mins(1),
            most: 16 << 20,
        }
    }
}

/// A client with its connection pool. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Client {
    pool: Pool<Connector, Body>,
    proxy: Option<Arc<Proxy>>,
    plain: bool,
    limits: RequestLimits,
}

impl Client {
    /// A client. Nothing is sent yet, but configured files are read, so that a wrong one is reported at the start.
    pub fn new(options: ClientOptions) -> Result<Self, HttpError> {
        let failed = |cause| HttpError::new("set up HTTPS", cause);
        let named = options.roots.is_some() || options.identity.is_some();
        let trust = Arc::new(TrustAnchors::new(options.roots, options.identity));
        if named {
            trust.config().map_err(failed)?;
        }
        let proxy = options.proxy.as_ref().map(Proxy::parse).transpose().map_err(failed)?.map(Arc::new);
        let connector = Connector { trust, proxy: proxy.clone(), limit: options.limits.connect };
        // Forges close idle connections after a minute; closing them earlier ourselves avoids a close in the middle
        // of a request.
        let pool = Pool::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(Duration::from_secs(15))
            .pool_max_idle_per_host(2)
            .build(connector);
        Ok(Self { pool, proxy, plain: options.plain, limits: options.limits })
    }

    /// Sends a request and reads the whole answer.
    pub async fn send(&self, request: Request<Body>) -> Result<HttpResponse, HttpError> {
        self.start(request).await?.whole().await
    }

    /// Sends a request and returns as soon as the answer's head has arrived. The request's body is sent concurrently
    /// with the answer's.
    pub async fn start(&self, mut request: Request<Body>) -> Result<Incoming, HttpError> {
        let doing = shown(&request);
        let secure = request.uri().scheme() == Some(&Scheme::HTTPS);
        if let Err(cause) = self.permitted(&request) {
            return Err(HttpError::new(doing, cause));
        }
        let headers = request.headers_mut();
        headers.entry(header::USER_AGENT).or_insert(HeaderValue::from_static(USER_AGENT));
        let proof = self.proxy.as_ref().filter(|_| !secure).and_then(|proxy| proxy.authorization.as_ref());
        if let Some(mut value) = proof.and_then(|proof| HeaderValue::from_str(proof.reveal()).ok()) {
            value.set_sensitive(true);
            headers.insert(header::PROXY_AUTHORIZATION, value);
        }
        let deadline = Instant::now() + self.limits.total;
        // A connection may have to be made first, which has a time limit of its own.
        let after = (self.limits.connect + self.limits.idle).min(self.limits.total);
        let answer = match tokio::time::timeout(after, self.pool.request(request)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => return Err(HttpError::new(doing, cause_of(&error))),
            Err(_) => return Err(HttpError::new(doing, HttpErrorCause::Timeout { what: "no answer", after })),
        };
        let (head, body) = answer.into_parts();
        let declared =
            head.headers.get(header::CONTENT_LENGTH).and_then(|text| text.to_str().ok()?.parse::<u64>().ok());
        if declared.is_some_and(|length| length > self.limits.most) {
            return Err(HttpError::new(doing, HttpErrorCause::TooLarge { most: self.limits.most }));
        }
        let (status, headers) = (head.status, head.headers);
        Ok(Incoming { status, headers, doing, body, deadline, limits: self.limits, taken: 0 })
    }

    fn permitted(&self, request: &Request<Body>) -> Result<(), HttpErrorCause> {
        let uri = request.uri();
        if uri.host().is_none_or(str::is_empty) {
            return Err(HttpErrorCause::Address("the address names no server".to_owned()));
        }
        // hyper would send it on as an unintended authorization.
        if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
            return Err(HttpErrorCause::Address("the address has a user in it".to_owned()));
        }
        match uri.scheme() {
            Some(scheme) if *scheme == Scheme::HTTPS => Ok(()),
            Some(scheme) if *scheme == Scheme::HTTP && self.plain => Ok(()),
            Some(scheme) if *scheme == Scheme::HTTP => {
                Err(HttpErrorCause::Address("http:// has neither secrecy nor proof: use https://".to_owned()))
            }
            _ => Err(HttpErrorCause::Address("only https:// is spoken".to_owned())),
        }
    }
}

/// A complete answer.
#[derive(Debug, Clone)]
pub struct HttpResponse {
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
}

/// An answer whose head has arrived, and whose body is read piece by piece.
#[derive(Debug)]
pub struct Incoming {
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    doing: String,
    body: hyper::body::Incoming,
    deadline: Instant,
    limits: RequestLimits,
    taken: u64,
}

impl Incoming {
    /// The next piece; none at the end.
    pub async fn next(&mut self) -> Result<Option<Bytes>, HttpError> {
        loop {
            let left = self.deadline.saturating_duration_since(Instant::now());
            let wait = self.limits.idle.min(left);
            let (what, after) = if left < self.limits.idle {
                ("the answer was not complete", self.limits.total)
            } else {
                ("the answer did not go on", self.limits.idle)
            };
            let frame = match tokio::time::timeout(wait, self.body.frame()).await {
                Ok(None) => return Ok(None),
                Ok(Some(Ok(frame))) => frame,
                Ok(Some(Err(error))) => return Err(self.failed(cause_of_body(&error))),
                Err(_) => return Err(self.failed(HttpErrorCause::Timeout { what, after })),
            };
            // A frame without data is a trailer, which is ignored.
            let Ok(data) = frame.into_data() else { continue };
            self.taken = self.taken.saturating_add(u64::try_from(data.len()).unwrap_or(u64::MAX));
            if self.taken > self.limits.most {
                return Err(self.failed(HttpErrorCause::TooLarge { most: self.limits.most }));
            }
            return Ok(Some(data));
        }
    }

    /// Reads the rest.
    pub async fn whole(mut self) -> Result<HttpResponse, HttpError> {
        let mut body = Vec::new();
        while let Some(piece) = self.next().await? {
            body.extend_from_slice(&piece);
        }
        Ok(HttpResponse { status: self.status, headers: self.headers, body: body.into() })
    }

    fn failed(&self, cause: HttpErrorCause) -> HttpError {
        HttpError::new(self.doing.clone(), cause)
    }
}

/// A body from bytes; an empty one is `full("")`.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// Any other body.
pub fn body<B, E>(body: B) -> Body
where
    B: hyper::body::Body<Data = Bytes, Error = E> + Send + 'static,
    E: Into<Box<dyn std::error::Error + Send + Sync>> + 'static,
{
    body.map_err(Into::into).boxed_unsync()
}

/// A request's method and address, without parts that may be secret: the query, a user.
fn shown(request: &Request<Body>) -> String {
    let uri = request.uri();
    let place = uri.authority().map_or("", |authority| authority.as_str());
    let place = place.rsplit('@').next().unwrap_or_default();
    format!("{} {}://{place}{}", request.method(), uri.scheme_str().unwrap_or("?"), uri.path())
}
