//! A double of GitHub, GitLab and Gitea, as far as a preview is posted to them: strict about paths, methods, headers, bodies, tokens and
//! rights; with pages, and with the troubles that forges have.
//!
//! What it did not expect is kept, and a test asks for that at its end. Deliberately absent: everything else that forges can do, and TLS.

mod answers;
mod routes;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use egret::forge::ForgeKind;
use serde_json::{Value, json};

/// The token that is let in, of `egret-bot`.
pub(crate) const TOKEN: &str = "forge-token-1";
/// The pull request that is open from the start.
pub(crate) const PULL: u64 = 11;
/// Its head.
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

/// A pull request, or a merge request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pull {
    pub(crate) head: String,
    pub(crate) title: String,
    pub(crate) from_fork: bool,
    pub(crate) draft: bool,
    pub(crate) open: bool,
    pub(crate) updated: String,
}

/// A comment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Comment {
    /// Under which pull request.
    pub(crate) pull: u64,
    pub(crate) id: u64,
    pub(crate) author: String,
    pub(crate) body: String,
    pub(crate) system: bool,
}

/// A status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Status {
    pub(crate) commit: String,
    pub(crate) author: String,
    /// As it was sent.
    pub(crate) set: Value,
}

/// What the forge has, and how it behaves.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a right, or a fact of its own")]
pub(crate) struct World {
    pub(crate) kind: ForgeKind,
    /// The repository: `OWNER/NAME`.
    pub(crate) project: String,
    /// All against `main`.
    pub(crate) pulls: BTreeMap<u64, Pull>,
    /// Whom each token is of. A name that ends with `[bot]` is an app's: its installation may not ask who it is.
    pub(crate) tokens: BTreeMap<String, String>,
    /// Everything is answered with 503.
    pub(crate) down: bool,
    pub(crate) may_comment: bool,
    pub(crate) may_status: bool,
    /// Commits for which no status is taken.
    pub(crate) without_status: BTreeSet<String>,
    pub(crate) may_check: bool,
    pub(crate) comments: Vec<Comment>,
    /// The newest last, as check runs are.
    pub(crate) statuses: Vec<Status>,
    /// As they were sent.
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
    pub(crate) fn start(kind: ForgeKind) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a socket");
        listener.set_nonblocking(true).expect("a socket");
        let port = listener.local_addr().expect("an address").port();
        let first = Pull {
            head: HEAD.to_owned(),
            title: "Let the empire through".to_owned(),
            from_fork: false,
            draft: false,
            open: true,
            updated: "2026-11-23T03:00:00Z".to_owned(),
        };
        let world = Arc::new(Mutex::new(World {
            kind,
            project: "mos-eisley/policies".to_owned(),
            pulls: BTreeMap::from([(PULL, first)]),
            tokens: BTreeMap::from([(TOKEN.to_owned(), "egret-bot".to_owned())]),
            down: false,
            may_comment: true,
            may_status: true,
            may_check: true,
            comments: Vec::new(),
            without_status: BTreeSet::new(),
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

    /// Opens a pull request, or tells of its new head.
    pub(crate) fn open(&self, number: u64, head: &str) {
        let mut world = self.world();
        let clock = world.fresh();
        let pull = Pull {
            head: head.to_owned(),
            title: format!("change {number}"),
            // Every third, and every second.
            from_fork: number.is_multiple_of(3),
            draft: number.is_multiple_of(2),
            open: true,
            updated: format!("2026-01-01T{:02}:{:02}:00Z", clock / 60 % 24, clock % 60),
        };
        world.pulls.insert(number, pull);
    }

    pub(crate) fn close(&self, number: u64) {
        self.world().pulls.get_mut(&number).expect("such a pull request").open = false;
    }

    /// The bodies of the comments under a pull request.
    pub(crate) fn comments(&self, number: u64) -> Vec<String> {
        let world = self.world();
        world.comments.iter().filter(|one| one.pull == number).map(|one| one.body.clone()).collect()
    }

    /// State and description of the newest status of a commit.
    pub(crate) fn status(&self, commit: &str) -> Option<(String, String)> {
        let world = self.world();
        let newest = world.statuses.iter().rfind(|one| one.commit == commit)?;
        let text = |field: &str| newest.set[field].as_str().unwrap_or_default().to_owned();
        Some((text("state"), text("description")))
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
    /// The pull request that is open from the start.
    pub(crate) fn pull(&mut self) -> &mut Pull {
        self.pulls.get_mut(&PULL).expect("nobody took it away")
    }

    /// Says something under it.
    pub(crate) fn comment(&mut self, author: &str, body: &str) -> u64 {
        self.say_under(PULL, author, body).id
    }

    fn say_under(&mut self, pull: u64, author: &str, body: &str) -> Comment {
        let (id, author, body) = (self.fresh(), author.to_owned(), body.to_owned());
        let comment = Comment { pull, id, author, body, system: false };
        self.comments.push(comment.clone());
        comment
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
    /// Whom the token is of.
    login: String,
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

fn json_response(status: u16, value: &Value) -> Response {
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
        if world.down {
            return json_response(503, &json!({ "message": "Unicorn!" }));
        }
        world.trouble(head.method.as_str(), head.uri.path())
    };
    match trouble {
        Some(Trouble::Hang) => std::future::pending::<()>().await,
        Some(Trouble::BadGateway) => return json_response(502, &json!("<html>")),
        Some(Trouble::RetryAfter(status, seconds)) => {
            let mut answer = json_response(status, &json!({ "message": "You have exceeded a secondary rate limit" }));
            answer.headers_mut().insert("retry-after", seconds.into());
            return answer;
        }
        Some(Trouble::Spent(seconds)) => {
            let at = jiff::Timestamp::now().as_second() + i64::try_from(seconds).expect("small");
            let (status, prefix) = {
                let world = world.lock().unwrap_or_else(PoisonError::into_inner);
                if world.kind == ForgeKind::GitHub { (403, "x-ratelimit") } else { (429, "ratelimit") }
            };
            let mut answer = json_response(status, &json!({ "message": "too often" }));
            for (name, value) in [("remaining", 0), ("reset", at)] {
                let name: axum::http::HeaderName = format!("{prefix}-{name}").parse().expect("a name");
                answer.headers_mut().insert(name, value.into());
            }
            return answer;
        }
        Some(Trouble::NotTaken) => {
            return json_response(400, &json!({ "message": "Cannot transition status via :run from :running" }));
        }
        Some(Trouble::Moved) => {
            let mut answer = json_response(301, &json!({ "message": "Moved Permanently" }));
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
