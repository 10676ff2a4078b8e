//! HTTP servers that answer what is no Git, send elsewhere, or never end: nothing follows, nothing hangs, and the error says what it was.
//!
//! Plain HTTP, which tests alone are let in with: what is tried is behind TLS, if there is any. Deliberately absent: certificates and
//! proxies (`ways_in`), and pushes (`bad_pushes`).

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use egret::core::gate::ActiveRevision;
use egret::git::access::{Access, TransferLimits};
use egret::git::credentials::Credentials;
use egret::git::{Error, ErrorKind};
use egret::reconcile::gitops::tracked_repository::TrackedRepository;

use super::bad_servers::{LIMITS, access};
use super::fixture::Origin;
use super::reading::{Reading, following};
use super::ways_in::text_of;

/// A server that answers every request as it is told to, and what it was asked.
struct Server {
    port: u16,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Server {
    /// Answers with what `answer` writes, having seen the request's head.
    fn with(host: &str, answer: impl Fn(&str, &mut TcpStream) -> std::io::Result<()> + Send + 'static) -> Self {
        let listener = TcpListener::bind((host, 0)).expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let heads = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&heads);
        // It ends with the test binary.
        thread::spawn(move || {
            for mut client in listener.incoming().flatten() {
                let lines = BufReader::new(client.try_clone().expect("a socket")).lines().map_while(Result::ok);
                let head = lines.take_while(|line| !line.is_empty()).collect::<Vec<_>>().join("\n");
                seen.lock().expect("heads").push(head.clone());
                let _ = answer(&head, &mut client);
            }
        });
        Self { port, heads }
    }

    /// Answers with this, always.
    fn start(answer: &str) -> Self {
        let answer = answer.to_owned();
        Self::with("127.0.0.1", move |_, client| client.write_all(answer.as_bytes()))
    }

    fn heads(&self) -> Vec<String> {
        self.heads.lock().expect("heads").clone()
    }

    fn source(&self) -> String {
        format!("http://127.0.0.1:{}/p", self.port)
    }
}

fn with_password(origin: &Origin, limits: TransferLimits) -> Access {
    let password = origin.path().join("password");
    std::fs::write(&password, "hunter2\n").expect("a file");
    Access { credentials: Credentials { password: Some(password), ..Credentials::default() }, ..access(limits) }
}

/// What is said of a server: without the start that all have, the address.
fn fetch_error(server: &Server) -> (String, Error) {
    let origin = Origin::new();
    let access = with_password(&origin, LIMITS);
    let error = origin.mirror_by("state", &server.source(), access).head(None).expect_err("it is no Git server");
    let text = text_of(&error);
    (text.strip_prefix(&format!("cannot connect to {}: ", server.source())).unwrap_or(&text).to_owned(), error)
}

fn answer(status: &str, headers: &str) -> String {
    format!("HTTP/1.1 {status}\r\n{headers}Content-Length: 0\r\nConnection: close\r\n\r\n")
}

#[test]
fn no_redirect_is_followed_to_another_host_nor_to_the_same() {
    let elsewhere = Server::with("127.0.0.2", |_, client| client.write_all(answer("404 Not Found", "").as_bytes()));
    for status in
        ["301 Moved Permanently", "302 Found", "303 See Other", "307 Temporary Redirect", "308 Permanent Redirect"]
    {
        let to = format!("http://127.0.0.2:{}/p", elsewhere.port);
        let here = Server::start(&answer(status, &format!("Location: {to}/info/refs?service=git-upload-pack\r\n")));
        let (text, error) = fetch_error(&here);
        assert_eq!(text, format!("it redirects to {to} ({})", &status[..3]));
        assert_eq!(error.kind(), ErrorKind::NeedsIntervention);
        assert!(error.hint().is_some_and(|hint| hint.starts_with("Egret follows no redirect")), "{error:?}");
        assert_eq!(here.heads().len(), 1, "{status}: {:?}", here.heads());
    }
    assert_eq!(elsewhere.heads(), Vec::<String>::new());
    let same = Server::start(&answer("301 Moved", "Location: /other/info/refs?service=git-upload-pack\r\n"));
    assert_eq!(fetch_error(&same).0, "it redirects to /other (301)");
    assert_eq!(same.heads().len(), 1);
}

#[test]
fn a_server_is_asked_what_git_asks_with_who_we_are_and_nothing_else() {
    let server = Server::start(&answer("404 Not Found", ""));
    fetch_error(&server);
    let heads = server.heads();
    let mut lines: Vec<&str> = heads[0].lines().collect();
    lines[1..].sort_unstable();
    let host = format!("host: 127.0.0.1:{}", server.port);
    let expected = [
        "GET /p/info/refs?service=git-upload-pack HTTP/1.1",
        "accept: application/x-git-upload-pack-advertisement",
        "authorization: Basic Z2l0Omh1bnRlcjI=",
        &host,
        "pragma: no-cache",
        concat!("user-agent: git/2.0 (egret/", env!("CARGO_PKG_VERSION"), ")"),
    ];
    assert_eq!(lines, expected);
}

#[test]
fn every_answer_that_is_no_git_is_reported_for_what_it_is() {
    let page = "HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: 6\r\n\r\n<html>";
    let dumb = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nhi";
    let missing = "the server has no such repository, or hides it from these credentials (404)";
    for (answer, text, fate) in [
        (
            page.to_owned(),
            "the server answers with \"text/html; charset=utf-8\", which is not Git's",
            ErrorKind::Transient,
        ),
        (dumb.to_owned(), "the server answers with \"text/plain\", which is not Git's", ErrorKind::Transient),
        (answer("404 Not Found", ""), missing, ErrorKind::NeedsIntervention),
        (answer("418 I'm a teapot", ""), "the server answers 418", ErrorKind::NeedsIntervention),
        (answer("500 Internal Server Error", ""), "the server answers 500", ErrorKind::Transient),
        (
            answer("429 Too Many Requests", ""),
            "the server is unavailable or limits requests (429)",
            ErrorKind::Transient,
        ),
    ] {
        let (found, error) = fetch_error(&Server::start(&answer));
        assert_eq!((found.as_str(), error.kind(), error.retry_after()), (text, fate, None));
    }
    for status in ["401 Unauthorized", "403 Forbidden"] {
        let server = Server::start(&answer(status, "WWW-Authenticate: Basic realm=\"p\"\r\n"));
        let (text, error) = fetch_error(&server);
        assert_eq!(text, format!("{} denied access (tried the password)", server.source()));
        assert_eq!((error.kind(), server.heads().len()), (ErrorKind::NeedsIntervention, 1));
    }
}

#[test]
fn a_server_that_wants_to_be_left_alone_is_for_as_long_as_it_says() {
    let busy = Server::start(&answer("503 Service Unavailable", "Retry-After: 120\r\n"));
    let (_, error) = fetch_error(&busy);
    assert_eq!((error.kind(), error.retry_after()), (ErrorKind::Transient, Some(Duration::from_mins(2))));
}

#[test]
fn the_loop_stays_away_for_as_long_as_a_server_asks() {
    let origin = Origin::new();
    let (asked, times) = std::sync::mpsc::channel();
    let server = Server::with("127.0.0.1", move |_, client| {
        asked.send(Instant::now()).expect("the test waits");
        client.write_all(answer("429 Too Many Requests", "Retry-After: 3\r\n").as_bytes())
    });
    let following =
        TrackedRepository { access: access(LIMITS), poll: Duration::from_millis(50), ..following(&server.source()) };
    let reading = Reading::start(following, origin.state(), ActiveRevision::default());
    let next = || times.recv_timeout(Duration::from_mins(1)).expect("it looks");
    let (first, second) = (next(), next());
    assert!(second - first >= Duration::from_secs(3), "{:?}", second - first);
    // Unless there is something to be seen.
    reading.thread.poll();
    assert!(next() - second < Duration::from_secs(3));
}

#[test]
fn an_answer_that_is_cut_off_or_no_http_is_reported() {
    let listing = "HTTP/1.1 200 OK\r\nContent-Type: application/x-git-upload-pack-advertisement\r\n";
    let (text, error) =
        fetch_error(&Server::start(&format!("{listing}Content-Length: 1000\r\n\r\n001e# service=git-upload")));
    assert!(text.starts_with("the answer breaks off"), "{text}");
    assert_eq!(error.kind(), ErrorKind::Transient);
    let (text, error) = fetch_error(&Server::start("SSH-2.0-OpenSSH_9.9\r\n"));
    assert!(text.starts_with("the connection broke"), "{text}");
    assert_eq!(error.kind(), ErrorKind::Transient);
    let (text, _) = fetch_error(&Server::start(&format!("{listing}Content-Length: 5\r\n\r\nhello")));
    assert!(!text.is_empty());
}

#[test]
fn an_answer_without_end_is_stopped_in_its_head_and_in_its_body() {
    let headers = Server::with("127.0.0.1", |_, client| {
        client.write_all(b"HTTP/1.1 200 OK\r\n")?;
        loop {
            client.write_all(b"X-More: and more\r\n")?;
        }
    });
    let (text, error) = fetch_error(&headers);
    assert!(text.starts_with("the connection broke"), "{text}");
    assert_eq!(error.kind(), ErrorKind::Transient);
    let listing = Server::with("127.0.0.1", |_, client| {
        client.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: application/x-git-upload-pack-advertisement\r\n\r\n")?;
        client.write_all(b"001e# service=git-upload-pack\n0000")?;
        for number in 0_u64.. {
            let line = format!("{number:040x} refs/heads/{number:020}\n");
            client.write_all(format!("{:04x}{line}", line.len() + 4).as_bytes())?;
        }
        Ok(())
    });
    let origin = Origin::new();
    let limits = TransferLimits { connect: Duration::from_mins(1), total: Duration::from_mins(1), ..LIMITS };
    let error = origin.mirror_by("state", &listing.source(), access(limits)).head(None).expect_err("it never ends");
    assert!(matches!(error, Error::TooMuch { .. }), "{error:?}");
}

#[test]
fn a_server_that_stalls_before_or_in_its_answer_is_given_up() {
    let stalls = |start: &'static str| {
        Server::with("127.0.0.1", move |_, client| {
            client.write_all(start.as_bytes())?;
            std::io::copy(client, &mut std::io::sink()).map(|_| ())
        })
    };
    for start in ["", "HTTP/1.1 200 OK\r\nContent-Type: application/x-git-upload-pack-advertisement\r\n\r\n001e"] {
        let (text, error) = fetch_error(&stalls(start));
        assert!(text.ends_with("is too slow: it did not list its branches within 1.2s"), "{text}");
        assert_eq!(error.kind(), ErrorKind::Transient);
    }
}
