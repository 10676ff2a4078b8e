//! The relay between libgit2 and an HTTPS server, inside the worker process (decision 0014): libgit2 sends plain HTTP to a port on loopback,
//! and Egret's own client (`crate::https`), which has the credentials, the certificates and the proxy, sends each request to the server.
//!
//! libgit2 knows no secret that is useful elsewhere: its address of the repository is a random path on that port, valid while the process
//! lives. Redirects and requests other than the four of `smart_http` are refused. The deadline is the supervisor's.

use std::convert::Infallible;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures::StreamExt as _;
use futures::stream;
use http_body_util::{BodyExt as _, BodyStream, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::header::{
    ACCEPT, AUTHORIZATION, CONNECTION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, LOCATION, PRAGMA, RETRY_AFTER,
    USER_AGENT,
};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;

use super::error::{Error, Result};
use super::loopback::{self, SecretPath};
use super::smart_http::{Service, SmartRequest, encode_url};
use super::transport_error::TransportError;
use super::worker_protocol::WorkerRequest;
use crate::https;

/// Some servers speak Git only with clients that have `git/` in their name.
const USER_AGENT_NAME: &str = concat!("git/2.0 (egret/", env!("CARGO_PKG_VERSION"), ")");
/// A request body up to this size is sent with its length, since some servers and proxies require one; as Git's own
/// `http.postBuffer`.
const POST_BUFFER: usize = 1 << 20;
/// The largest head of a request. libgit2's has 300 bytes.
const HEAD_SIZE: usize = 16 << 10;
/// The supervisor has the deadline.
const NO_LIMIT: Duration = Duration::from_hours(24);
/// Allowance for the part of a response that is not the pack: framing and progress text.
const OVERHEAD: u64 = 16 << 20;

/// The port on loopback, open while the process lives.
pub(super) struct HttpRelay {
    url: String,
    shared: Arc<Shared>,
}

struct Shared {
    secret: SecretPath,
    /// The repository's own address.
    address: String,
    service: Service,
    request: WorkerRequest,
    client: https::Client,
    /// The first error of a request. libgit2 only gets a status.
    error: Mutex<Option<Error>>,
}

impl HttpRelay {
    /// Opens the port for the repository of this request.
    pub(super) fn start(request: &WorkerRequest) -> Result<Self> {
        let repository = || request.source.to_string();
        let failed = |error: io::Error| Error::Worker { repository: repository(), what: error.to_string() };
        let shared = Arc::new(Shared {
            secret: SecretPath::new().map_err(failed)?,
            address: encode_url(request.source.url()),
            service: request.task.service(),
            request: request.clone(),
            client: client(request).map_err(|error| from_client(&error, "connect to", request))?,
            error: Mutex::new(None),
        });
        let (listener, port) = loopback::listen().map_err(failed)?;
        let url = shared.secret.url("http", port);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let serving = Arc::clone(&shared);
        let thread = thread::Builder::new().name("git-relay".to_owned());
        let serve = move |socket| serve(socket, Arc::clone(&serving));
        thread.spawn(move || runtime.block_on(loopback::accept(listener, serve))).map_err(failed)?;
        Ok(Self { url, shared })
    }

    /// The repository's address, for libgit2.
    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// The error of a request that failed, if one did.
    pub(super) fn take_error(&self) -> Option<Error> {
        self.shared.error.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

fn client(request: &WorkerRequest) -> std::result::Result<https::Client, https::HttpError> {
    https::Client::new(https::ClientOptions {
        roots: request.ca_file.clone(),
        identity: request
            .client_certificate
            .as_ref()
            .map(|own| https::ClientIdentity { certificate: own.certificate.clone(), key: own.key.clone() }),
        proxy: request.proxy.clone(),
        // Only a source that was parsed with `Insecure::Allow` has a plain address.
        plain: true,
        limits: https::RequestLimits {
            connect: request.connect,
            idle: NO_LIMIT,
            total: NO_LIMIT,
            most: request.max_bytes.saturating_add(OVERHEAD),
        },
    })
}

/// Answers the requests of one connection.
async fn serve(socket: TcpStream, shared: Arc<Shared>) {
    let service = service_fn(|received| {
        let shared = Arc::clone(&shared);
        async move { Ok::<_, Infallible>(shared.answer(received).await) }
    });
    let mut connection = http1::Builder::new();
    connection.timer(TokioTimer::new()).header_read_timeout(loopback::HEAD_TIME).max_buf_size(HEAD_SIZE);
    // An error means that libgit2 has closed the connection.
    let _ = connection.serve_connection(TokioIo::new(socket), service).await;
}

impl Shared {
    async fn answer(self: &Arc<Self>, received: hyper::Request<Incoming>) -> Response<https::Body> {
        let Some(request) = self.authorized(&received) else { return error_response(StatusCode::NOT_FOUND) };
        match self.forward(request, received.into_body()).await {
            Ok(response) => response,
            Err(error) => {
                self.note(error);
                error_response(StatusCode::BAD_GATEWAY)
            }
        }
    }

    /// The request, if it has the secret path and belongs to this exchange.
    fn authorized(&self, received: &hyper::Request<Incoming>) -> Option<SmartRequest> {
        let path = self.secret.strip(received.uri().path())?;
        SmartRequest::parse(received.method().as_str(), path, received.uri().query(), self.service)
    }

    fn note(&self, error: Error) {
        self.error.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
    }

    /// Sends the request to the server, with Egret's credentials.
    async fn forward(self: &Arc<Self>, request: SmartRequest, body: Incoming) -> Result<Response<https::Body>> {
        let failed = |what: String| Error::Worker { repository: self.request.source.to_string(), what };
        let body = request_body(body).await.map_err(|error| failed(error.to_string()))?;
        let method = if request.body_type().is_some() { https::Method::POST } else { https::Method::GET };
        let mut builder = https::Request::builder()
            .method(method)
            .uri(format!("{}{}", self.address, request.path_and_query()))
            .header(USER_AGENT, USER_AGENT_NAME)
            .header(ACCEPT, request.response_type())
            .header(PRAGMA, "no-cache");
        if let Some(kind) = request.body_type() {
            builder = builder.header(CONTENT_TYPE, kind);
        }
        if let Some(credentials) = self.authorization()? {
            builder = builder.header(AUTHORIZATION, credentials);
        }
        let outgoing = builder.body(body).map_err(|error| {
            let source = TransportError::Configuration(format!("the address is not valid for HTTP: {error}"));
            Error::Transport { action: request.action(), repository: self.request.source.to_string(), source }
        })?;
        let response =
            self.client.start(outgoing).await.map_err(|error| from_client(&error, request.action(), &self.request))?;
        self.check(request, response.status, &response.headers)?;
        let (shared, action) = (Arc::clone(self), request.action());
        let pieces = stream::unfold(Some(response), move |response| {
            let shared = Arc::clone(&shared);
            async move {
                let mut response = response?;
                match response.next().await {
                    Ok(piece) => piece.map(|piece| (Ok(Frame::data(piece)), Some(response))),
                    Err(error) => {
                        shared.note(from_client(&error, action, &shared.request));
                        Some((Err::<Frame<Bytes>, _>(error), None))
                    }
                }
            }
        });
        let mut answer = Response::new(https::body(StreamBody::new(pieces)));
        if let Ok(kind) = HeaderValue::from_str(&request.response_type()) {
            answer.headers_mut().insert(CONTENT_TYPE, kind);
        }
        Ok(answer)
    }

    /// The `Authorization` header. The password file is read for each request, so that a rotated token is used at once.
    fn authorization(&self) -> Result<Option<HeaderValue>> {
        let WorkerRequest { source, credentials, .. } = &self.request;
        let read = credentials.read_password()?;
        let Some(password) = read.as_ref().or(source.password()) else { return Ok(None) };
        // Forges accept any user name with a token.
        let user = credentials.user.as_deref().or(source.user()).unwrap_or("git");
        let basic = STANDARD.encode(format!("{user}:{}", password.reveal()));
        Ok(HeaderValue::from_str(&format!("Basic {basic}")).ok().map(|mut value| {
            value.set_sensitive(true);
            value
        }))
    }

    /// Error: the response is not Git's.
    fn check(&self, request: SmartRequest, status: StatusCode, headers: &HeaderMap) -> Result<()> {
        let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
        let kind = text(CONTENT_TYPE).unwrap_or_default();
        // A content type may have parameters.
        if status == StatusCode::OK && kind.split(';').next().is_some_and(|kind| kind.trim() == request.response_type())
        {
            return Ok(());
        }
        let repository = self.request.source.to_string();
        if status == StatusCode::UNAUTHORIZED || status == StatusCode::FORBIDDEN {
            let WorkerRequest { credentials, source, .. } = &self.request;
            let has_password = credentials.password.is_some() || source.password().is_some();
            let tried = if has_password { "tried the password" } else { "no credentials are configured" };
            return Err(Error::Denied { repository, tried: tried.to_owned(), source: None });
        }
        let source = TransportError::from_response(status.as_u16(), text(LOCATION), text(RETRY_AFTER), kind);
        Err(Error::Transport { action: request.action(), repository, source })
    }
}

/// An error response, after which the connection is closed.
fn error_response(status: StatusCode) -> Response<https::Body> {
    let mut answer = Response::new(https::full(""));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    answer
}

/// The body that libgit2 sends: buffered if it is small, else streamed.
async fn request_body(mut body: Incoming) -> std::result::Result<https::Body, hyper::Error> {
    let mut start = Vec::new();
    while let Some(frame) = body.frame().await {
        if let Ok(piece) = frame?.into_data() {
            start.extend_from_slice(&piece);
        }
        if start.len() > POST_BUFFER {
            let first = stream::iter([Ok(Frame::data(Bytes::from(start)))]);
            return Ok(https::body(StreamBody::new(first.chain(BodyStream::new(body)))));
        }
    }
    Ok(https::full(start))
}

/// An error of the HTTPS client, as one of this folder's.
fn from_client(error: &https::HttpError, action: &'static str, request: &WorkerRequest) -> Error {
    use https::{HttpErrorCause, TlsError};
    let repository = request.source.to_string();
    let text = error.cause().to_string();
    let source = match error.cause() {
        HttpErrorCause::File { path, source } => {
            let source = source
                .raw_os_error()
                .map_or_else(|| io::Error::other(source.to_string()), io::Error::from_raw_os_error);
            return Error::Credential { path: path.clone(), source };
        }
        HttpErrorCause::TooLarge { .. } => return Error::TooMuch { repository, max_bytes: request.max_bytes },
        HttpErrorCause::Address(_) | HttpErrorCause::Pem { .. } | HttpErrorCause::NoRoots => {
            TransportError::Configuration(text)
        }
        HttpErrorCause::Timeout { .. } if request.proxy.is_some() => {
            TransportError::Proxy(format!("{text}, through the proxy"))
        }
        HttpErrorCause::Dns { .. } | HttpErrorCause::Connect(_) | HttpErrorCause::Timeout { .. } => {
            TransportError::Connect(text)
        }
        HttpErrorCause::Tls(TlsError::UnknownAuthority) => TransportError::UnknownAuthority(text),
        HttpErrorCause::Tls(TlsError::WantsClientCertificate(_)) => TransportError::ClientCertificate(text),
        HttpErrorCause::Tls(_) => TransportError::Certificate(text),
        HttpErrorCause::Proxy(_) => TransportError::Proxy(text),
        HttpErrorCause::Broken(_) => TransportError::Interrupted(text),
    };
    Error::Transport { action, repository, source }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader, Read as _, Write as _};
    use std::net::{Ipv4Addr, TcpListener, TcpStream};

    use super::*;
    use crate::git::source::{Insecure, Source};
    use crate::git::worker_protocol::Task;

    const ANSWER: &str = "HTTP/1.1 200 OK\r\nContent-Type: application/x-git-upload-pack-advertisement\r\nConnection: close\r\n\
                          Set-Cookie: a=b\r\nContent-Length: 4\r\n\r\n0000";

    /// A server that answers once, and the first line that it was asked.
    fn server() -> (u16, thread::JoinHandle<String>) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let thread = thread::spawn(move || {
            let (mut client, _) = listener.accept().expect("a client");
            let mut line = String::new();
            BufReader::new(client.try_clone().expect("a socket")).read_line(&mut line).expect("a line");
            client.write_all(ANSWER.as_bytes()).expect("it reads");
            line
        });
        (port, thread)
    }

    fn relay(port: u16) -> HttpRelay {
        let source = Source::parse(&format!("http://127.0.0.1:{port}/p.git"), Insecure::Allow).expect("a source");
        let request = WorkerRequest {
            source,
            credentials: crate::git::credentials::Credentials::default(),
            ca_file: None,
            client_certificate: None,
            proxy: None,
            connect: Duration::from_secs(5),
            home: None,
            mirror: "/nonexistent".into(),
            parent: 0,
            max_bytes: 1 << 20,
            depth: 0,
            task: Task::Fetch,
        };
        HttpRelay::start(&request).expect("a relay")
    }

    /// Everything that the relay answers, until it closes.
    fn ask(relay: &HttpRelay, line: &str) -> String {
        let place = relay.url().split('/').nth(2).expect("a port");
        let mut socket = TcpStream::connect(place).expect("it listens");
        socket
            .write_all(format!("{line} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n").as_bytes())
            .expect("it reads");
        let mut answer = String::new();
        socket.read_to_string(&mut answer).expect("it closes");
        answer
    }

    #[test]
    fn a_request_without_the_secret_path_is_404_and_never_forwarded() {
        let (port, asked) = server();
        let relay = relay(port);
        let path = relay.url().rsplit('/').next().expect("a path").to_owned();
        let wrong = "0".repeat(43);
        for line in [
            format!("GET /{wrong}/info/refs?service=git-upload-pack"),
            format!("GET /{}/info/refs?service=git-upload-pack", &path[..42]),
            "GET /info/refs?service=git-upload-pack".to_owned(),
            "GET /".to_owned(),
            // With the secret, but not a request of this exchange.
            format!("GET /{path}/info/refs?service=git-receive-pack"),
            format!("POST /{path}/git-receive-pack"),
            format!("GET /{path}/HEAD"),
            format!("CONNECT 127.0.0.1:{port}"),
        ] {
            let answer = ask(&relay, &line);
            assert!(answer.starts_with("HTTP/1.1 404 Not Found\r\n"), "{line}: {answer}");
        }
        assert!(relay.take_error().is_none() && !asked.is_finished());
        let place = relay.url().split('/').nth(2).expect("a port");
        let mut socket = TcpStream::connect(place).expect("it listens");
        let question =
            format!("GET /{path}/info/refs?service=git-upload-pack HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        socket.write_all(question.as_bytes()).expect("it reads");
        let mut answer = String::new();
        socket.read_to_string(&mut answer).expect("it closes");
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.contains("0000"), "{answer}");
        assert!(!answer.to_lowercase().contains("cookie"), "{answer}");
        assert_eq!(asked.join().expect("it was asked"), "GET /p.git/info/refs?service=git-upload-pack HTTP/1.1\r\n");
    }
}
