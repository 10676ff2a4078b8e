//! The client of the Kubernetes API: watches and writes. The only module that uses `kube` and `k8s-openapi`.
//!
//! An edge: it observes and executes; all decisions are made elsewhere. Nothing here hangs: requests have a time
//! limit, watches end after a while, and a connection whose other end is gone is closed after half a minute.
//!
//! Objects are not read in full: fields that decide nothing are skipped while an answer is parsed. Not here: the
//! content of specs and statuses (the caller brings them whole), and retries of writes (the caller reads the object
//! again first).

mod agents;
mod error;
mod error_counts;
mod events;
#[cfg(test)]
mod fake;
mod heartbeats;
mod known;
mod labels;
mod lease;
mod list;
mod objects;
mod once;
mod outage;
mod pools;
mod reflector;
mod removal;
pub mod resources;
#[cfg(test)]
mod simulated;
mod taints;
mod transport;
mod view;
mod watch;
mod wire;

use std::time::Duration;

use http::header::{CONTENT_TYPE, HeaderValue, USER_AGENT};
use http::{Request as HttpRequest, Response};
use hyper::body::{Body as HttpBody, Bytes};
use kube::client::{Body, ClientBuilder, ConfigExt as _};
use kube::config::KubeConfigOptions;
use kube::{Client, Config};
use serde::de::DeserializeOwned;
use tower::util::option_layer;
use tower::{BoxError, Layer as _, Service};
use tower_http::decompression::DecompressionLayer;

use crate::clock::Clock;

pub use agents::{Agents, PATIENCE, Reviewed, Unanswered, VIEWER};
pub use error::{ApiError, ApiErrorCause, RefusedField};
pub use error_counts::ErrorCounts;
pub use events::{EventKind, Recorder, Regarding};
pub use heartbeats::{RENEWAL, SILENCE};
pub use labels::{FieldConflict, LabelOutcome};
pub use lease::{Lease, LeaseRole, Timing};
pub use objects::Written;
pub use once::PodsRead;
pub use removal::{LeaseHolder, NodeTraces};
pub use taints::TaintOutcome;
pub use view::{
    Changed, ConfigObject, EgressNodeObject, LabelManager, Manager, NodeMeta, Operation, PolicyObject, View,
};
pub use watch::{ClusterWatch, WatchError, WatchOptions, WatchScope};

use transport::{NoteRetryAfter, RetryAfter, Transport};

/// The time limit for reading one object, or for a write.
const ANSWER: Duration = Duration::from_secs(15);
/// The time limit for one page of a list.
const PAGE: Duration = Duration::from_secs(30);

/// A request as kube builds it.
type Built = Result<HttpRequest<Vec<u8>>, kube::core::request::Error>;

/// A JSON patch of one object. kube's own type for it needs one more package.
fn json_patch(path: &str, manager: &str, patch: &serde_json::Value) -> Built {
    HttpRequest::patch(format!("{path}?fieldManager={manager}"))
        .header(CONTENT_TYPE, "application/json-patch+json")
        .body(patch.to_string().into_bytes())
        .map_err(kube::core::request::Error::BuildRequest)
}

/// The request, and where its answer's `Retry-After` is noted.
fn noted(mut request: HttpRequest<Vec<u8>>) -> (HttpRequest<Vec<u8>>, RetryAfter) {
    let note = RetryAfter::default();
    request.extensions_mut().insert(note.clone());
    (request, note)
}

/// A client of an API server. Cheap to clone.
#[derive(Clone)]
pub struct ApiClient {
    client: Client,
    server: String,
    errors: ErrorCounts,
    clock: Clock,
}

impl std::fmt::Debug for ApiClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Live").field("server", &self.server).finish_non_exhaustive()
    }
}

/// In which form answers are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Encoding {
    /// As it is: what runs in the cluster is near the API server, whose processor time it would cost, and reads little at once.
    Plain,
    /// Compressed, from 128 KiB on (`compressionThreshold`, k8s.io/apiserver responsewriters): who reads a large cluster from afar waits for the network.
    Gzip,
}

impl ApiClient {
    /// Connects to the API server of the file named by KUBECONFIG; without KUBECONFIG, to that of the cluster this
    /// pod runs in. Nothing is sent yet. A token or certificate in a file is read again every minute, as the kubelet
    /// rotates it.
    pub async fn connect() -> Result<Self, ApiError> {
        let failed = |why: String| ApiError::new("finding the API server", ApiErrorCause::Configuration(why));
        match std::env::var_os("KUBECONFIG").filter(|value| !value.is_empty()) {
            Some(_) => {
                let options = KubeConfigOptions::default();
                let config = Config::from_kubeconfig(&options).await;
                Self::open(config.map_err(|error| failed(format!("KUBECONFIG: {error}")))?, Encoding::Plain)
            }
            None => Self::open(Config::incluster().map_err(|error| failed(error.to_string()))?, Encoding::Plain),
        }
    }

    /// Failed requests and watches of this client and its clones.
    pub fn errors(&self) -> ErrorCounts {
        self.errors.clone()
    }

    /// The API server's address, without secrets.
    pub fn server(&self) -> &str {
        &self.server
    }

    /// With a transport of our own; kube's client also retries automatically what must be reported here.
    fn open(mut config: Config, encoding: Encoding) -> Result<Self, ApiError> {
        let server = config.cluster_url.to_string();
        let failed = |why: String| ApiError::new(format!("connecting to {server}"), ApiErrorCause::Configuration(why));
        if let Some(proxy) = &config.proxy_url {
            return Err(failed(format!("the proxy {proxy} is not supported")));
        }
        config.headers.push((USER_AGENT, HeaderValue::from_static(concat!("egret/", env!("CARGO_PKG_VERSION")))));
        let refused = |error: kube::Error| ApiError::of(format!("connecting to {server}"), error);
        let transport = Transport::new(&config).map_err(|error| refused(kube::Error::Service(error)))?;
        let auth = config.auth_layer().map_err(refused)?;
        let gzip = encoding == Encoding::Gzip && !config.disable_compression;
        let transport = DecompressionLayer::new().gzip(gzip).layer(transport);
        let client = ClientBuilder::new(NoteRetryAfter(transport), config.default_namespace.clone())
            .with_layer(&config.extra_headers_layer().map_err(refused)?)
            .with_layer(&option_layer(auth))
            .with_layer(&config.base_uri_layer())
            .build();
        Ok(Self { client, server, errors: ErrorCounts::default(), clock: Clock::system() })
    }

    /// A client whose requests a service in this process answers, and that lives by this clock.
    pub fn of_service<S, B>(service: S, server: &str, clock: Clock) -> Self
    where
        S: Service<HttpRequest<Body>, Response = Response<B>> + Send + 'static,
        S::Future: Send + 'static,
        S::Error: Into<BoxError>,
        B: HttpBody<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let client = Client::new(NoteRetryAfter(service), "default");
        Self { client, server: server.to_owned(), errors: ErrorCounts::default(), clock }
    }

    /// The wall clock of what is written.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Sends a request and reads the answer, within a time limit.
    async fn call<T: DeserializeOwned>(&self, doing: &str, request: Built, limit: Duration) -> Result<T, ApiError> {
        let request = request.map_err(|error| ApiError::of(doing, kube::Error::BuildRequest(error)))?;
        let operation = error_counts::operation(request.method().as_str(), request.uri().path());
        let (request, note) = noted(request);
        let answer = match tokio::time::timeout(limit, self.client.request_text(request)).await {
            Ok(Ok(text)) => {
                serde_json::from_str(&text).map_err(|error| ApiError::new(doing, ApiErrorCause::Answer(error)))
            }
            Ok(Err(error)) => Err(ApiError::of(doing, error).or_retry_after(note.get())),
            Err(_) => Err(ApiError::new(doing, ApiErrorCause::Timeout(limit))),
        };
        answer.inspect_err(|error| self.errors.request(&operation, error))
    }
}

#[cfg(test)]
impl ApiClient {
    /// A server without a name or credentials, for tests.
    fn at(address: &str) -> Self {
        Self::open(Config::new(address.parse().expect("an address")), Encoding::Plain).expect("a client")
    }
}

#[cfg(test)]
mod tests;
