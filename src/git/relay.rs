//! What stands between libgit2 and an HTTPS server, inside the worker process: libgit2 speaks plain HTTP with a port on loopback, and
//! each of its requests is made anew by Egret's own client (`crate::https`), which has the credentials, the certificates and the proxy.
//!
//! Nothing that libgit2 knows is worth anything elsewhere: its address for the repository is a random path on that port, for as long as
//! the process lives. Deliberately absent: redirects, any request but Git's four (`errand`), and a deadline: whoever started the
//! process has one (`overseer`).

use std::convert::Infallible;
use std::fs::File;
use std::hint::black_box;
use std::io::{self, Read as _};
use std::net::{Ipv4Addr, TcpListener};
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

use super::errand::{Errand, Service, encoded};
use super::error::{Error, Result};
use super::trouble::Trouble;
use super::wire::{Request, Task};
use crate::https;

/// Some servers take only those for Git that say so.
const AGENT: &str = concat!("git/2.0 (egret/", env!("CARGO_PKG_VERSION"), ")");
/// A question up to this size is sent with its length, since not every server and proxy takes one without; as Git's own
/// `http.postBuffer`.
const WHOLE: usize = 1 << 20;
/// The first bytes of a request, its headers and all, may take this long and be this large. libgit2 needs a millisecond and 300 bytes.
const HEAD_TIME: Duration = Duration::from_secs(10);
const HEAD_SIZE: usize = 16 << 10;
/// So many connections at a time. libgit2 has one.
const CONNECTIONS: usize = 8;
const ONE_MOMENT: Duration = Duration::from_millis(20);
/// Whoever started us counts the time.
const UNCOUNTED: Duration = Duration::from_hours(24);
/// Of an answer that is not the pack: what frames it, and what the server tells.
const BESIDE: u64 = 16 << 20;

/// The port, for as long as the process lives.
pub(super) struct Relay {
    url: String,
    shared: Arc<Shared>,
}

struct Shared {
    secret: String,
    /// The repository's own address.
    there: String,
    service: Service,
    request: Request,
    client: https::Client,
    /// Why a request came to nothing: the first reason. libgit2 only hears a number.
    fault: Mutex<Option<Error>>,
}

impl Relay {
    /// Opens the port for this request's repository.
    pub(super) fn start(request: &Request) -> Result<Self> {
        let repository = || request.source.to_string();
        let failed = |error: io::Error| Error::Worker { repository: repository(), what: error.to_string() };
        let service = match request.task {
            Task::Look => Service::Upload,
            Task::Push { .. } => Service::Receive,
        };
        let shared = Arc::new(Shared {
            secret: secret().map_err(failed)?,
            there: encoded(request.source.url()),
            service,
            request: request.clone(),
            client: client(request).map_err(|error| fault(&error, "connect to", request))?,
            fault: Mutex::new(None),
        });
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let port = listener.local_addr().map_err(failed)?.port();
        let url = format!("http://127.0.0.1:{port}/{}", shared.secret);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let serving = Arc::clone(&shared);
        let thread = thread::Builder::new().name("git-relay".to_owned());
        thread.spawn(move || runtime.block_on(serve(listener, serving))).map_err(failed)?;
        Ok(Self { url, shared })
    }

    /// The repository's address, for libgit2.
    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// Why a request came to nothing, if one did.
    pub(super) fn fault(&self) -> Option<Error> {
        self.shared.fault.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// 32 random bytes, in hexadecimal digits.
fn secret() -> io::Result<String> {
    let mut bytes = [0; 32];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .filter_map(|digit| char::from_digit(digit.into(), 16))
        .collect())
}

/// Takes as long for any two texts of one length.
fn same(one: &[u8], other: &[u8]) -> bool {
    let difference = one.iter().zip(other).fold(0, |sum, (one, other)| black_box(sum | (one ^ other)));
    one.len() == other.len() && difference == 0
}

fn client(request: &Request) -> std::result::Result<https::Client, https::HttpError> {
    https::Client::new(https::ClientOptions {
        roots: request.ca_file.clone(),
        identity: request
            .client_certificate
            .as_ref()
            .map(|own| https::ClientIdentity { certificate: own.certificate.clone(), key: own.key.clone() }),
        proxy: request.proxy.clone(),
        // Only a source that was let in as such has such an address.
        plain: true,
        limits: https::RequestLimits {
            connect: request.connect,
            idle: UNCOUNTED,
            total: UNCOUNTED,
            most: request.most.saturating_add(BESIDE),
        },
    })
}

async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
    let places = Arc::new(tokio::sync::Semaphore::new(CONNECTIONS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let Ok((socket, peer)) = listener.accept().await else {
            // Out of files, say: not to be asked again at once.
            tokio::time::sleep(ONE_MOMENT).await;
            continue;
        };
        if !peer.ip().is_loopback() {
            continue;
        }
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            let answering = service_fn(|asked| {
                let shared = Arc::clone(&shared);
                async move { Ok::<_, Infallible>(shared.answer(asked).await) }
            });
            let mut connection = http1::Builder::new();
            connection.timer(TokioTimer::new()).header_read_timeout(HEAD_TIME).max_buf_size(HEAD_SIZE);
            // If libgit2 breaks off there is nothing to say to it.
            let _ = connection.serve_connection(TokioIo::new(socket), answering).await;
            drop(place);
        });
    }
}

impl Shared {
    async fn answer(self: &Arc<Self>, asked: hyper::Request<Incoming>) -> Response<https::Body> {
        let Some(errand) = self.errand(&asked) else { return refusal(StatusCode::NOT_FOUND) };
        match self.pass_on(errand, asked.into_body()).await {
            Ok(answer) => answer,
            Err(error) => {
                self.note(error);
                refusal(StatusCode::BAD_GATEWAY)
            }
        }
    }

    /// What is asked for. None: by somebody else than libgit2, or something that is no business of this conversation.
    fn errand(&self, asked: &hyper::Request<Incoming>) -> Option<Errand> {
        let (secret, path) = asked.uri().path().strip_prefix('/')?.split_at_checked(self.secret.len())?;
        if !same(secret.as_bytes(), self.secret.as_bytes()) {
            return None;
        }
        Errand::of(asked.method().as_str(), path, asked.uri().query(), self.service)
    }

    fn note(&self, error: Error) {
        self.fault.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
    }

    /// Asks the server the same, as ourselves.
    async fn pass_on(self: &Arc<Self>, errand: Errand, body: Incoming) -> Result<Response<https::Body>> {
        let broken = |what: String| Error::Worker { repository: self.request.source.to_string(), what };
        let body = question(body).await.map_err(|error| broken(error.to_string()))?;
        let method = if errand.question().is_some() { https::Method::POST } else { https::Method::GET };
        let mut asking = https::Request::builder()
            .method(method)
            .uri(format!("{}{}", self.there, errand.target()))
            .header(USER_AGENT, AGENT)
            .header(ACCEPT, errand.answer())
            .header(PRAGMA, "no-cache");
        if let Some(kind) = errand.question() {
            asking = asking.header(CONTENT_TYPE, kind);
        }
        if let Some(proof) = self.authorization()? {
            asking = asking.header(AUTHORIZATION, proof);
        }
        let asking = asking.body(body).map_err(|error| {
            let trouble = Trouble::Setup(format!("the address can't be asked: {error}"));
            Error::Web { doing: errand.doing(), repository: self.request.source.to_string(), source: trouble }
        })?;
        let there = self.client.start(asking).await.map_err(|error| fault(&error, errand.doing(), &self.request))?;
        self.check(errand, there.status, &there.headers)?;
        let (shared, doing) = (Arc::clone(self), errand.doing());
        let pieces = stream::unfold(Some(there), move |there| {
            let shared = Arc::clone(&shared);
            async move {
                let mut there = there?;
                match there.next().await {
                    Ok(piece) => piece.map(|piece| (Ok(Frame::data(piece)), Some(there))),
                    Err(error) => {
                        shared.note(fault(&error, doing, &shared.request));
                        Some((Err::<Frame<Bytes>, _>(error), None))
                    }
                }
            }
        });
        let mut answer = Response::new(https::body(StreamBody::new(pieces)));
        if let Ok(kind) = HeaderValue::from_str(&errand.answer()) {
            answer.headers_mut().insert(CONTENT_TYPE, kind);
        }
        Ok(answer)
    }

    /// Who we are. The file is read anew: a rotated token is used at the next request.
    fn authorization(&self) -> Result<Option<HeaderValue>> {
        let Request { source, credentials, .. } = &self.request;
        let read = credentials.read_password()?;
        let Some(password) = read.as_ref().or(source.password()) else { return Ok(None) };
        // Hosts that take a token take any name with it.
        let user = credentials.user.as_deref().or(source.user()).unwrap_or("git");
        let proof = STANDARD.encode(format!("{user}:{}", password.reveal()));
        Ok(HeaderValue::from_str(&format!("Basic {proof}")).ok().map(|mut value| {
            value.set_sensitive(true);
            value
        }))
    }

    /// Whether the answer is Git's.
    fn check(&self, errand: Errand, status: StatusCode, headers: &HeaderMap) -> Result<()> {
        let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
        let kind = text(CONTENT_TYPE).unwrap_or_default();
        // A kind may have parameters behind it.
        if status == StatusCode::OK && kind.split(';').next().is_some_and(|kind| kind.trim() == errand.answer()) {
            return Ok(());
        }
        let repository = self.request.source.to_string();
        if status == StatusCode::UNAUTHORIZED || status == StatusCode::FORBIDDEN {
            let Request { credentials, source, .. } = &self.request;
            let proven = credentials.password.is_some() || source.password().is_some();
            let tried = if proven { "tried the password" } else { "nothing to prove who we are" };
            return Err(Error::Denied { repository, tried: tried.to_owned(), source: None });
        }
        let source = Trouble::of_answer(status.as_u16(), text(LOCATION), text(RETRY_AFTER), kind);
        Err(Error::Web { doing: errand.doing(), repository, source })
    }
}

/// A no, after which the connection is closed.
fn refusal(status: StatusCode) -> Response<https::Body> {
    let mut answer = Response::new(https::full(""));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    answer
}

/// What libgit2 says, whole if it is small, else as it comes.
async fn question(mut body: Incoming) -> std::result::Result<https::Body, hyper::Error> {
    let mut start = Vec::new();
    while let Some(frame) = body.frame().await {
        if let Ok(piece) = frame?.into_data() {
            start.extend_from_slice(&piece);
        }
        if start.len() > WHOLE {
            let first = stream::iter([Ok(Frame::data(Bytes::from(start)))]);
            return Ok(https::body(StreamBody::new(first.chain(BodyStream::new(body)))));
        }
    }
    Ok(https::full(start))
}

/// Our client's error, as one of Git's.
fn fault(error: &https::HttpError, doing: &'static str, request: &Request) -> Error {
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
        HttpErrorCause::TooLarge { .. } => return Error::TooMuch { repository, most: request.most },
        HttpErrorCause::Address(_) | HttpErrorCause::Pem { .. } | HttpErrorCause::NoRoots => Trouble::Setup(text),
        HttpErrorCause::Timeout { .. } if request.proxy.is_some() => {
            Trouble::Proxy(format!("{text}, by way of the proxy"))
        }
        HttpErrorCause::Dns { .. } | HttpErrorCause::Connect(_) | HttpErrorCause::Timeout { .. } => {
            Trouble::Connect(text)
        }
        HttpErrorCause::Tls(TlsError::UnknownAuthority) => Trouble::Authority(text),
        HttpErrorCause::Tls(TlsError::WantsClientCertificate(_)) => Trouble::ClientCertificate(text),
        HttpErrorCause::Tls(_) => Trouble::Certificate(text),
        HttpErrorCause::Proxy(_) => Trouble::Proxy(text),
        HttpErrorCause::Broken(_) => Trouble::Broken(text),
    };
    Error::Web { doing, repository, source }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader, Write as _};
    use std::net::TcpStream;

    use super::*;
    use crate::git::source::{Insecure, Source};

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

    fn relay(port: u16) -> Relay {
        let source = Source::parse(&format!("http://127.0.0.1:{port}/p.git"), Insecure::Allow).expect("a source");
        let request = Request {
            source,
            credentials: crate::git::credentials::Credentials::default(),
            ca_file: None,
            client_certificate: None,
            proxy: None,
            connect: Duration::from_secs(5),
            home: None,
            mirror: "/nonexistent".into(),
            parent: 0,
            most: 1 << 20,
            task: Task::Look,
        };
        Relay::start(&request).expect("a relay")
    }

    /// Everything that the relay answers, until it closes.
    fn ask(relay: &Relay, line: &str) -> String {
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
    fn whoever_does_not_know_the_path_is_shown_out_and_the_server_never_hears_of_it() {
        let (port, asked) = server();
        let relay = relay(port);
        let path = relay.url().rsplit('/').next().expect("a path").to_owned();
        let wrong = "0".repeat(64);
        for line in [
            format!("GET /{wrong}/info/refs?service=git-upload-pack"),
            format!("GET /{}/info/refs?service=git-upload-pack", &path[..63]),
            "GET /info/refs?service=git-upload-pack".to_owned(),
            "GET /".to_owned(),
            // What knows it, and asks for something that this conversation is not about.
            format!("GET /{path}/info/refs?service=git-receive-pack"),
            format!("POST /{path}/git-receive-pack"),
            format!("GET /{path}/HEAD"),
            format!("CONNECT 127.0.0.1:{port}"),
        ] {
            let answer = ask(&relay, &line);
            assert!(answer.starts_with("HTTP/1.1 404 Not Found\r\n"), "{line}: {answer}");
        }
        assert!(relay.fault().is_none() && !asked.is_finished());
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

    #[test]
    fn a_secret_is_64_digits_and_never_the_same() {
        let (one, other) = (secret().expect("a secret"), secret().expect("a secret"));
        assert!(one.len() == 64 && one.bytes().all(|digit| digit.is_ascii_hexdigit()), "{one}");
        assert!(!same(one.as_bytes(), other.as_bytes()));
        assert!(same(one.as_bytes(), one.as_bytes()));
        assert!(!same(one.as_bytes(), &one.as_bytes()[..63]));
    }
}
