//! A double of as much of GitHub as previews need: pull requests, comments, statuses, check runs, and who a token is of.
//!
//! Deliberately absent: GitHub's rules for bodies, which `forge`'s own tests have.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::{Value, json};

/// Where the repository is.
pub(super) const PROJECT: &str = "git/policies";
const SHOWN: &str = "https://forge.example";

/// What the double holds.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) pulls: BTreeMap<u64, Value>,
    /// Comments by pull request.
    pub(super) comments: BTreeMap<u64, Vec<Value>>,
    /// Statuses by commit, the newest first.
    pub(super) statuses: BTreeMap<String, Vec<Value>>,
    pub(super) checks: BTreeMap<String, Vec<Value>>,
    /// Who each token is of; a name in brackets is an App's, which may not ask who it is.
    pub(super) tokens: BTreeMap<String, String>,
    /// Commits for which it takes no status.
    pub(super) without_status: BTreeSet<String>,
    /// Everything is answered with this.
    pub(super) down: bool,
    /// `METHOD path`, of requests that wrote something.
    pub(super) writes: Vec<String>,
    pub(super) reads: usize,
    last: u64,
    clock: u64,
}

/// The double. It ends with the process.
pub(super) struct Forge {
    pub(super) port: u16,
    state: Arc<Mutex<State>>,
}

impl Forge {
    pub(super) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let state = Arc::new(Mutex::new(State::default()));
        state.lock().expect("a state").tokens.insert("ghp_egret".to_owned(), "egret".to_owned());
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let shared = Arc::clone(&shared);
                // Whoever breaks off needs no answer.
                thread::spawn(move || serve(&client, &shared));
            }
        });
        Self { port, state }
    }

    pub(super) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub(super) fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        act(&mut self.state.lock().expect("nobody panicked"))
    }

    /// Opens a pull request against `main`, or tells of its new head.
    pub(super) fn open(&self, number: u64, head: &str) {
        self.with(|state| {
            state.clock += 1;
            let updated = format!("2026-01-01T{:02}:{:02}:00Z", state.clock / 60, state.clock % 60);
            let repository = json!({ "id": 1 });
            let pull = json!({
                "number": number, "title": format!("change {number}"), "state": "open", "draft": number.is_multiple_of(2),
                "base": { "ref": "main", "repo": repository },
                // Every third is from a fork.
                "head": { "sha": head, "repo": json!({ "id": if number.is_multiple_of(3) { 2 } else { 1 } }) },
                "updated_at": updated,
            });
            state.pulls.insert(number, pull);
        });
    }

    pub(super) fn close(&self, number: u64) {
        self.with(|state| state.pulls.remove(&number));
    }

    /// The bodies of the comments under a pull request.
    pub(super) fn comments(&self, number: u64) -> Vec<String> {
        self.with(|state| {
            let comments = state.comments.get(&number).map(Vec::as_slice).unwrap_or_default();
            comments.iter().map(|comment| comment["body"].as_str().unwrap_or_default().to_owned()).collect()
        })
    }

    /// State and description of the newest status of a commit.
    pub(super) fn status(&self, commit: &str) -> Option<(String, String)> {
        self.with(|state| {
            let newest = state.statuses.get(commit)?.first()?;
            let text = |field: &str| newest[field].as_str().unwrap_or_default().to_owned();
            Some((text("state"), text("description")))
        })
    }
}

fn serve(mut client: &TcpStream, state: &Mutex<State>) -> std::io::Result<()> {
    let mut reader = BufReader::new(client.try_clone()?);
    loop {
        let (mut line, mut headers) = (String::new(), BTreeMap::new());
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        loop {
            let mut header = String::new();
            reader.read_line(&mut header)?;
            let Some((name, value)) = header.trim_end().split_once(": ") else { break };
            headers.insert(name.to_ascii_lowercase(), value.to_owned());
        }
        let length = headers.get("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        let mut words = line.split(' ');
        let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let path = path.strip_prefix("/api/v3").unwrap_or(path);
        let mut state = state.lock().expect("nobody panicked");
        let (status, answer) = answer(&mut state, method, path, query, &headers, &body);
        drop(state);
        let answer = answer.to_string();
        let length = answer.len();
        write!(
            client,
            "HTTP/1.1 {status} X\r\nContent-Length: {length}\r\nContent-Type: application/json\r\n\r\n{answer}"
        )?;
    }
}

fn answer(
    state: &mut State,
    method: &str,
    path: &str,
    query: &str,
    headers: &BTreeMap<String, String>,
    body: &Value,
) -> (u16, Value) {
    if state.down {
        return (503, json!({ "message": "Unicorn!" }));
    }
    let token = headers.get("authorization").and_then(|text| text.strip_prefix("Bearer ")).unwrap_or_default();
    let Some(login) = state.tokens.get(token).cloned() else { return (401, json!({ "message": "Bad credentials" })) };
    if method == "GET" {
        state.reads += 1;
    } else {
        state.writes.push(format!("{method} {path}"));
    }
    let missing = (404, json!({ "message": "Not Found" }));
    if path == "/user" {
        let known = !login.ends_with("[bot]");
        return if known {
            (200, json!({ "login": login }))
        } else {
            (403, json!({ "message": "Resource not accessible" }))
        };
    }
    let Some(rest) = path.strip_prefix(&format!("/repos/{PROJECT}/")) else { return missing };
    let parts: Vec<&str> = rest.split('/').collect();
    state.last += 1;
    let id = state.last;
    let user = json!({ "login": login });
    match (method, &parts[..]) {
        ("GET", ["pulls"]) if query.contains("base=main") => (200, json!(state.pulls.values().collect::<Vec<_>>())),
        ("GET", ["pulls", number]) => number
            .parse()
            .ok()
            .and_then(|number: u64| state.pulls.get(&number))
            .map_or(missing, |pull| (200, pull.clone())),
        ("GET", ["issues", number, "comments"]) => (
            200,
            json!(number.parse::<u64>().ok().and_then(|number| state.comments.get(&number)).unwrap_or(&Vec::new())),
        ),
        ("POST", ["issues", number, "comments"]) => {
            let comment = json!({ "id": id, "user": user, "body": body["body"], "html_url": format!("{SHOWN}#{id}") });
            state.comments.entry(number.parse().unwrap_or(0)).or_default().push(comment.clone());
            (201, comment)
        }
        ("PATCH", ["issues", "comments", comment]) => {
            let comment: u64 = comment.parse().unwrap_or(0);
            let found = state.comments.values_mut().flatten().find(|one| one["id"] == comment);
            found.map_or(missing, |found| {
                found["body"] = body["body"].clone();
                (200, found.clone())
            })
        }
        ("GET", ["commits", sha, "statuses"]) => (200, json!(state.statuses.get(*sha).unwrap_or(&Vec::new()))),
        ("POST", ["statuses", sha]) if state.without_status.contains(*sha) => {
            (403, json!({ "message": "Resource not accessible" }))
        }
        ("POST", ["statuses", sha]) => {
            let mut status = body.clone();
            status["creator"] = user;
            let known = state.statuses.entry((*sha).to_owned()).or_default();
            status["id"] = json!(known.len() + 1);
            known.insert(0, status.clone());
            (201, status)
        }
        ("GET", ["commits", sha, "check-runs"]) => {
            (200, json!({ "check_runs": state.checks.get(*sha).unwrap_or(&Vec::new()) }))
        }
        ("POST", ["check-runs"]) => {
            let mut check = body.clone();
            (check["id"], check["html_url"]) = (json!(id), json!(SHOWN));
            let sha = body["head_sha"].as_str().unwrap_or_default().to_owned();
            state.checks.entry(sha).or_default().insert(0, check.clone());
            (201, check)
        }
        _ => missing,
    }
}
