//! Our calls to GitHub against GitHub's own description of its API, by way of Prism, which refuses what the description does not allow and
//! answers with the description's examples. Opt-in: `make test-openapi` starts Prism and names it in EGRET_TEST_PRISM.
//!
//! Deliberately absent: how GitHub behaves; the double knows as much of that as we do.

use std::sync::{Arc, Mutex};
use std::thread;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::response::Response;
use egret::core::diagnostic::Severity;
use egret::forge::{Annotation, CheckConclusion, ForgeKind, ForgeOptions, Post};
use egret::https::{self, Client, full};

use super::{forge, outcome, post};

/// What came, and what Prism said of it.
type Log = Arc<Mutex<Vec<(String, u16)>>>;

/// Stands before Prism, which serves the API at its root and knows of `application/json` only, where GitHub recommends
/// `application/vnd.github+json` for the same.
fn relay(prism: String, log: Log) -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a socket");
    listener.set_nonblocking(true).expect("a socket");
    let port = listener.local_addr().expect("an address").port();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let client =
                Client::new(https::ClientOptions { plain: true, ..https::ClientOptions::default() }).expect("a client");
            let router = Router::new().fallback(pass).with_state((prism, log, client));
            let listener = tokio::net::TcpListener::from_std(listener).expect("a socket");
            axum::serve(listener, router).await.expect("a server");
        });
    });
    port
}

async fn pass(State((prism, log, client)): State<(String, Log, Client)>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let body = to_bytes(body, 4 << 20).await.expect("a body");
    let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
    let path = path.strip_prefix("/api/v3").expect("below the API's root");
    let mut onward = https::Request::builder().method(head.method.clone()).uri(format!("{prism}{path}"));
    for name in ["content-type", "x-github-api-version", "authorization", "user-agent"] {
        if let Some(value) = head.headers.get(name) {
            onward = onward.header(name, value);
        }
    }
    assert_eq!(head.headers.get("accept").and_then(|value| value.to_str().ok()), Some("application/vnd.github+json"));
    let onward = onward.header("accept", "application/json").body(full(body)).expect("a request");
    let answer = client.send(onward).await.expect("Prism answers");
    let line = format!("{} {}", head.method, path.split('?').next().unwrap_or_default());
    // A request that is no good is answered with a problem, or has its faults in a header. Those of answers are GitHub's own: some of the
    // description's examples lack what it demands.
    let told = answer.headers.get("sl-violations").and_then(|value| value.to_str().ok()).unwrap_or_default();
    let problem = answer.headers.get("content-type").is_some_and(|kind| kind == "application/problem+json");
    let faults: Vec<serde_json::Value> = serde_json::from_str(told).unwrap_or_default();
    let ours: Vec<String> =
        faults.iter().filter(|one| one["location"][0] != "response").map(ToString::to_string).collect();
    let why = if problem { String::from_utf8_lossy(&answer.body).into_owned() } else { ours.concat() };
    let line = if why.is_empty() { line } else { format!("{line}: {why}") };
    let known = {
        let mut log = log.lock().expect("no panic");
        log.push((line, answer.status.as_u16()));
        log.iter().any(|(line, _)| line.starts_with("POST ") && line.ends_with("/comments"))
    };
    // Once we have written a comment, the example's is taken for it.
    let marker = serde_json::Value::from(super::MARKER).to_string();
    let body = String::from_utf8_lossy(&answer.body).into_owned();
    let body = if known { body.replace("\"Me too\"", &marker) } else { body };
    Response::builder()
        .status(answer.status)
        .header("content-type", "application/json")
        .body(Body::from(body))
        .expect("an answer")
}

#[test]
#[ignore = "it needs Prism and GitHub's description: make test-openapi"]
fn every_call_to_github_is_as_github_describes_it() {
    let prism = std::env::var("EGRET_TEST_PRISM").expect("EGRET_TEST_PRISM names a running Prism");
    let log = Log::default();
    let mut options = ForgeOptions::new(ForgeKind::GitHub, "mos-eisley/policies");
    options.url = Some(format!("http://127.0.0.1:{}", relay(prism.clone(), log.clone())));
    options.https.plain = true;
    let forge = forge(options, "token");
    let annotation = |line| Annotation {
        file: "policies/a.yaml".to_owned(),
        line,
        end_line: line + 1,
        severity: if line.is_multiple_of(2) { Severity::Warning } else { Severity::Error },
        title: "host-bits".to_owned(),
        message: "an address with host bits".to_owned(),
    };
    let many =
        Post { annotations: (1..=120).map(annotation).collect(), ..post(CheckConclusion::Failed, "does not validate") };
    // The example's own head, so that the run is not overtaken.
    let pulls = forge.open_pulls("master").unwrap_or_else(|error| panic!("{error:?} {:?}", log.lock()));
    let head = pulls.first().map(|pull| pull.head_sha.clone()).expect("the description's example");
    let posted = forge.post(11, &head, &many).unwrap_or_else(|error| panic!("{error:?} {:?}", log.lock()));
    assert_eq!(outcome(&posted), ["created", "created", "created"]);
    let again = forge.post(11, &head, &Post { annotations: Vec::new(), ..many }).expect("it is posted");
    assert_eq!(outcome(&again), ["updated", "created", "created"]);
    let calls = log.lock().expect("no panic").clone();
    let expected = [
        ("GET /repos/mos-eisley/policies/pulls", 200),
        ("GET /user", 200),
        ("GET /repos/mos-eisley/policies/pulls/11", 200),
        (&format!("GET /repos/mos-eisley/policies/commits/{head}/statuses"), 200),
        (&format!("POST /repos/mos-eisley/policies/statuses/{head}"), 201),
        ("GET /repos/mos-eisley/policies/issues/11/comments", 200),
        ("POST /repos/mos-eisley/policies/issues/11/comments", 201),
        (&format!("GET /repos/mos-eisley/policies/commits/{head}/check-runs"), 200),
        ("POST /repos/mos-eisley/policies/check-runs", 201),
        ("PATCH /repos/mos-eisley/policies/check-runs/4", 200),
        ("PATCH /repos/mos-eisley/policies/check-runs/4", 200),
        ("GET /user", 200),
        ("GET /repos/mos-eisley/policies/pulls/11", 200),
        (&format!("GET /repos/mos-eisley/policies/commits/{head}/statuses"), 200),
        (&format!("POST /repos/mos-eisley/policies/statuses/{head}"), 201),
        ("GET /repos/mos-eisley/policies/issues/11/comments", 200),
        ("PATCH /repos/mos-eisley/policies/issues/comments/1", 200),
        (&format!("GET /repos/mos-eisley/policies/commits/{head}/check-runs"), 200),
        ("POST /repos/mos-eisley/policies/check-runs", 201),
    ];
    let expected: Vec<(String, u16)> = expected.map(|(line, status)| (line.to_owned(), status)).to_vec();
    assert_eq!(calls, expected);
    // That Prism would have said no.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let refused = runtime.block_on(async {
        let client =
            Client::new(https::ClientOptions { plain: true, ..https::ClientOptions::default() }).expect("a client");
        let url = format!("{prism}/repos/mos-eisley/policies/statuses/{head}");
        let request = https::Request::builder().method("POST").uri(url).header("content-type", "application/json");
        client.send(request.body(full(r#"{"state":"fine"}"#)).expect("a request")).await.expect("an answer")
    });
    assert_eq!(refused.status.as_u16(), 422);
}
