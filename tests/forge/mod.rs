//! A double of GitHub, GitLab and Gitea, as far as a preview is posted to them: strict about paths, methods, headers, bodies, tokens and
//! rights; with pages, and with the troubles that forges have.
//!
//! What it did not expect is kept, and a test asks for that at its end. Deliberately absent: everything else that forges can do, and TLS.

mod answers;
mod routes;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use egret::forge::Kind;
use serde_json::{Value, json};

/// The one token that is let in.
pub(crate) const TOKEN: &str = "forge-token-1";
/// The head of the pull request.
pub(crate) const HEAD: &str = "1111111111111111111111111111111111111111";

/// Something that goes wrong with one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// It is done, and the answer breaks off.
    LostAnswer,
    /// It is not done, and something between says 502.
    BadGateway,
    /// Too often: `Retry-After` in seconds, with this status.
    RetryAfter(u16, u64),
    /// Too often: nothing is left, and so many seconds until there is.
    Spent(u64),
    /// No answer at all.
    Hang,
    /// The repository was moved.
    Moved,
    /// Understood, and not wanted.
    NotTaken,
}

/// A comment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Comment {
    pub(crate) id: u64,
    pub(crate) author: String,
    pub(crate) body: String,
    pub(crate) system: bool,
}

/// What the forge has, and how it behaves.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a right, or a fact of its own")]
pub(crate) struct World {
    pub(crate) kind: Kind,
    pub(crate) head: String,
    pub(crate) from_fork: bool,
    /// Whom the token is of.
    pub(crate) me: String,
    /// Whether it is an app's installation: it may not ask who it is.
    pub(crate) app: bool,
    pub(crate) may_comment: bool,
    pub(crate) may_status: bool,
    pub(crate) may_check: bool,
    pub(crate) comments: Vec<Comment>,
    /// As they were sent, the newest last.
    pub(crate) statuses: Vec<Value>,
    pub(crate) checks: Vec<Value>,
    /// Troubles for requests of this method whose path has this in it, one after the other.
    pub(crate) troubles: Vec<(&'static str, &'static str, Trouble)>,
    /// `POST /repos/…`, everything that came.
    pub(crate) log: Vec<String>,
    /// What no forge would take.
    pub(crate) wrong: Vec<String>,
    next: u64,
    pub(crate) port: u16,
}

/// A running double.
pub(crate) struct Double {
    pub(crate) port: u16,
    world: Arc<Mutex<World>>,
}

impl Double {
    pub(crate) fn start(kind: Kind) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a socket");
        listener.set_nonblocking(true).expect("a socket");
        let port = listener.local_addr().expect("an address").port();
        let world = Arc::new(Mutex::new(World {
            kind,
            head: HEAD.to_owned(),
            from_fork: false,
            me: "egret-bot".to_owned(),
            app: false,
            may_comment: true,
            may_status: true,
            may_check: true,
            comments: Vec::new(),
            statuses: Vec::new(),
            checks: Vec::new(),
            troubles: Vec::new(),
            log: Vec::new(),
            wrong: Vec::new(),
            next: 1000,
            port,
        }));
        let router = Router::new().fallback(answer).with_state(world.clone());
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).expect("a socket");
                axum::serve(listener, router).await.expect("a server");
            });
        });
        Self { port, world }
    }

    /// The forge's address; the API's root is made of it.
    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub(crate) fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The requests that wrote something, or tried to, since the last time somebody asked.
    pub(crate) fn writes(&self) -> Vec<String> {
        let log = std::mem::take(&mut self.world().log);
        log.into_iter().filter(|line| !line.starts_with("GET ")).collect()
    }

    /// Fails where something came that no forge would take.
    pub(crate) fn assert_strict(&self) {
        assert_eq!(self.world().wrong, Vec::<String>::new());
    }
}

impl World {
    pub(crate) fn say(&mut self, author: &str, body: &str) -> u64 {
        self.next += 1;
        let (id, author, body) = (self.next, author.to_owned(), body.to_owned());
        self.comments.push(Comment { id, author, body, system: false });
        id
    }

    fn fresh(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// The trouble that this request is for, if any.
    fn trouble(&mut self, method: &str, path: &str) -> Option<Trouble> {
        let at = self.troubles.iter().position(|(of, part, _)| *of == method && path.contains(part))?;
        Some(self.troubles.remove(at).2)
    }
}

/// What is asked, taken apart.
struct Asked {
    method: String,
    /// Below the API's root, decoded by nobody.
    path: String,
    query: Vec<(String, String)>,
    body: Value,
}

impl Asked {
    fn query(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    fn number(&self, name: &str) -> Option<usize> {
        self.query(name)?.parse().ok()
    }
}

fn said(status: u16, value: &Value) -> Response {
    let body = if value.is_null() { String::new() } else { value.to_string() };
    let builder = Response::builder().status(StatusCode::from_u16(status).expect("a status"));
    builder.header("content-type", "application/json; charset=utf-8").body(Body::from(body)).expect("an answer")
}

async fn answer(State(world): State<Arc<Mutex<World>>>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let bytes = to_bytes(body, 4 << 20).await.unwrap_or_default();
    let trouble = {
        let mut world = world.lock().unwrap_or_else(PoisonError::into_inner);
        let line = format!("{} {}", head.method, head.uri);
        world.log.push(line);
        world.trouble(head.method.as_str(), head.uri.path())
    };
    match trouble {
        Some(Trouble::Hang) => std::future::pending::<()>().await,
        Some(Trouble::BadGateway) => return said(502, &json!("<html>")),
        Some(Trouble::RetryAfter(status, seconds)) => {
            let mut answer = said(status, &json!({ "message": "You have exceeded a secondary rate limit" }));
            answer.headers_mut().insert("retry-after", seconds.into());
            return answer;
        }
        Some(Trouble::Spent(seconds)) => {
            let at = jiff::Timestamp::now().as_second() + i64::try_from(seconds).expect("small");
            let (status, prefix) = {
                let world = world.lock().unwrap_or_else(PoisonError::into_inner);
                if world.kind == Kind::GitHub { (403, "x-ratelimit") } else { (429, "ratelimit") }
            };
            let mut answer = said(status, &json!({ "message": "too often" }));
            for (name, value) in [("remaining", 0), ("reset", at)] {
                let name: axum::http::HeaderName = format!("{prefix}-{name}").parse().expect("a name");
                answer.headers_mut().insert(name, value.into());
            }
            return answer;
        }
        Some(Trouble::NotTaken) => {
            return said(400, &json!({ "message": "Cannot transition status via :run from :running" }));
        }
        Some(Trouble::Moved) => {
            let mut answer = said(301, &json!({ "message": "Moved Permanently" }));
            answer.headers_mut().insert("location", "https://elsewhere.example/x?token=y".parse().expect("a header"));
            return answer;
        }
        Some(Trouble::LostAnswer) | None => {}
    }
    let done = {
        let mut world = world.lock().unwrap_or_else(PoisonError::into_inner);
        routes::route(&mut world, &head, &bytes)
    };
    if trouble == Some(Trouble::LostAnswer) {
        let broken = futures::stream::iter([Err::<Vec<u8>, _>(std::io::Error::other("cut"))]);
        return Response::builder().status(done.status()).body(Body::from_stream(broken)).expect("an answer");
    }
    done
}
