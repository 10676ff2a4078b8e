//! Pushes to servers that hang, break off, lie, or lose the answer: nothing hangs, nothing is pushed twice, and the report is there in
//! the end.
//!
//! A relay stands before a real server and spoils what becomes of a push. Deliberately absent: servers that spoil a fetch (`bad_servers`,
//! `bad_web`).

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use egret::git::access::{Access, TransferLimits};
use egret::git::publish::PublishOutcome;
use egret::git::{Error, ErrorKind};

use super::bad_servers::LIMITS;
use super::fixture::Origin;
use super::https::{Demand, GOOD, Https, LOOPBACK};
use super::publishing::{BRANCH, files_on_branch, publish_file};
use super::ways_in::text_of;
use crate::lab::wait_until_every;

/// What becomes of a push.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mood {
    Good,
    /// It is not passed on, and nothing is answered.
    Swallow,
    /// The connection is reset in its middle.
    Reset,
    /// It is passed on; the answer is not.
    LoseAnswer,
    /// It is passed on, and the line is held without an answer.
    HoldAnswer,
    /// It is not passed on, and this is answered.
    Say(&'static str),
}

/// A relay before an HTTP server.
struct Spoiler {
    port: u16,
    mood: Arc<Mutex<Mood>>,
}

impl Spoiler {
    fn before(upstream: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let mood = Arc::new(Mutex::new(Mood::Good));
        let spoiler = Self { port, mood: Arc::clone(&mood) };
        // It ends with the test binary.
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let mood = *mood.lock().expect("a mood");
                thread::spawn(move || relay(client, upstream, mood));
            }
        });
        spoiler
    }

    fn set(&self, mood: Mood) {
        *self.mood.lock().expect("a mood") = mood;
    }
}

fn relay(mut client: TcpStream, upstream: u16, mood: Mood) -> io::Result<()> {
    let mut server = TcpStream::connect(("127.0.0.1", upstream))?;
    let pushing = Arc::new(AtomicBool::new(false));
    let (mut back, mut answers, pushed) = (client.try_clone()?, server.try_clone()?, Arc::clone(&pushing));
    thread::spawn(move || answered(&mut answers, &mut back, &pushed, mood));
    let mut piece = vec![0; 64 << 10];
    loop {
        let length = client.peek(&mut piece)?;
        if length == 0 {
            return server.shutdown(Shutdown::Both);
        }
        let push = piece[..length].windows(5).any(|word| word == b"POST ");
        pushing.fetch_or(push, Ordering::SeqCst);
        let spoiled = pushing.load(Ordering::SeqCst);
        if spoiled && mood == Mood::Reset {
            // A socket that is closed with something unread in it sends a reset; the other thread has it, too, and ends with its server.
            return server.shutdown(Shutdown::Both);
        }
        client.read_exact(&mut piece[..length])?;
        match (spoiled, mood) {
            (false, _) | (true, Mood::Good | Mood::LoseAnswer | Mood::HoldAnswer | Mood::Reset) => {
                server.write_all(&piece[..length])?;
            }
            // Until the other side gives up.
            (true, Mood::Swallow) => return io::copy(&mut client, &mut io::sink()).map(|_| ()),
            (true, Mood::Say(answer)) => {
                client.write_all(answer.as_bytes())?;
                client.shutdown(Shutdown::Write)?;
                // Closed with something unread it would send a reset, which may overtake the answer.
                return io::copy(&mut client, &mut io::sink()).map(|_| ());
            }
        }
    }
}

fn answered(server: &mut TcpStream, client: &mut TcpStream, pushing: &AtomicBool, mood: Mood) -> io::Result<()> {
    let mut piece = vec![0; 64 << 10];
    loop {
        let length = server.read(&mut piece)?;
        match (pushing.load(Ordering::SeqCst), mood) {
            _ if length == 0 && mood == Mood::Reset => return Ok(()),
            _ if length == 0 => return client.shutdown(Shutdown::Both),
            (true, Mood::LoseAnswer) => return client.shutdown(Shutdown::Both),
            (true, Mood::HoldAnswer) => {}
            _ => client.write_all(&piece[..length])?,
        }
    }
}

/// A repository behind a spoiler, with one report in it.
struct Scene {
    origin: Origin,
    _server: Https,
    spoiler: Spoiler,
    source: String,
    access: Access,
}

impl Scene {
    fn set() -> Self {
        let origin = Origin::new();
        let server = Https::with(&origin, Demand::Plain, LOOPBACK, GOOD);
        origin.push(&[("a.yaml", "a: 1\n")], "first");
        let spoiler = Spoiler::before(server.port);
        let source = format!("http://127.0.0.1:{}/git/policies.git", spoiler.port);
        // A push through a CGI takes a while on a busy machine: a good one has all the time, and a bad one little.
        let access = Access { limits: TransferLimits::default(), ca_file: None, ..server.ada() };
        let mut mirror = origin.mirror_by("state", &source, access.clone());
        publish_file(&mut mirror, "one", "drift\n").unwrap_or_else(|error| panic!("{}", text_of(&error)));
        Self { origin, _server: server, spoiler, source, access }
    }

    fn count(&self) -> String {
        self.origin.in_bare(&["rev-list", "--count", BRANCH])
    }

    /// Publishes while the server is in this mood, and then again when it is well: what was said first, and what came of it then.
    fn through(&self, mood: Mood, limits: TransferLimits) -> (Error, PublishOutcome) {
        self.spoiler.set(mood);
        let begun = Instant::now();
        let mut mirror = self.origin.mirror_by("state", &self.source, Access { limits, ..self.access.clone() });
        let error = publish_file(&mut mirror, "two", "drift\n").expect_err("the push is spoiled");
        assert!(begun.elapsed() < Duration::from_secs(30), "{mood:?} took {:?}", begun.elapsed());
        self.spoiler.set(Mood::Good);
        // The server goes on with what it has, whoever waits for it.
        let done = || !matches!(mood, Mood::LoseAnswer | Mood::HoldAnswer) || self.count() == "2";
        assert!(wait_until_every(Duration::from_millis(20), Duration::from_mins(1), done), "the server never does it");
        let mut mirror = self.origin.mirror_by("state", &self.source, self.access.clone());
        let published =
            publish_file(&mut mirror, "two", "drift\n").unwrap_or_else(|error| panic!("{}", text_of(&error)));
        assert_eq!(self.count(), "2", "{mood:?}: once, and not twice");
        assert_eq!(files_on_branch(&self.origin).into_keys().collect::<Vec<_>>(), [".egret-reports", "one", "two"]);
        self.origin.assert_mirror_is_sound();
        (error, published)
    }
}

fn committed(published: &PublishOutcome) -> bool {
    matches!(published, PublishOutcome::Committed { .. })
}

#[test]
fn a_push_that_is_not_answered_is_given_up_and_made_again() {
    let scene = Scene::set();
    let (error, published) = scene.through(Mood::Swallow, LIMITS);
    assert!(text_of(&error).ends_with("is too slow: it was not done after 2s"), "{}", text_of(&error));
    assert_eq!((error.kind(), committed(&published)), (ErrorKind::Transient, true));
}

#[test]
fn a_push_that_is_reset_is_made_again() {
    let scene = Scene::set();
    let (error, published) = scene.through(Mood::Reset, TransferLimits::default());
    assert!(
        text_of(&error).starts_with(&format!("cannot push to {}: the connection broke: ", scene.source)),
        "{error:?}"
    );
    assert!(text_of(&error).contains("reset"), "{error:?}");
    assert_eq!((error.kind(), committed(&published)), (ErrorKind::Transient, true));
}

#[test]
fn a_push_whose_answer_is_lost_is_known_to_be_there_and_not_made_again() {
    let scene = Scene::set();
    let (error, published) = scene.through(Mood::LoseAnswer, TransferLimits::default());
    assert!(text_of(&error).starts_with(&format!("cannot push to {}: ", scene.source)), "{}", text_of(&error));
    assert_eq!((error.kind(), published), (ErrorKind::Transient, PublishOutcome::Unchanged));
}

#[test]
fn a_push_that_is_done_and_never_answered_is_known_to_be_there_and_not_made_again() {
    let scene = Scene::set();
    let (error, published) =
        scene.through(Mood::HoldAnswer, TransferLimits { total: Duration::from_secs(3), ..TransferLimits::default() });
    assert!(text_of(&error).ends_with("is too slow: it was not done after 3s"), "{}", text_of(&error));
    assert_eq!((error.kind(), published), (ErrorKind::Transient, PublishOutcome::Unchanged));
}

#[test]
fn an_answer_to_a_push_that_is_none_is_no_success() {
    let scene = Scene::set();
    let result = "Content-Type: application/x-git-receive-pack-result\r\nConnection: close\r\n";
    let says = [
        "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 7\r\n\r\nthanks!".to_owned(),
        // No report at all, an empty one, one of another branch, garbage, one that ends early.
        format!("HTTP/1.1 200 OK\r\n{result}Content-Length: 0\r\n\r\n"),
        format!("HTTP/1.1 200 OK\r\n{result}Content-Length: 4\r\n\r\n0000"),
        format!("HTTP/1.1 200 OK\r\n{result}\r\n0030\x01000eunpack ok\n0019ok refs/heads/other\n00000000"),
        format!("HTTP/1.1 200 OK\r\n{result}\r\nzzzzgarbage"),
        format!("HTTP/1.1 200 OK\r\n{result}Content-Length: 900\r\n\r\n0030\x01000eunpack ok\n"),
        "HTTP/1.1 413 Payload Too Large\r\nContent-Length: 0\r\n\r\n".to_owned(),
        "HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n".to_owned(),
    ];
    let before = scene.origin.in_bare(&["rev-parse", BRANCH]);
    for answer in says {
        let answer: &'static str = answer.leak();
        scene.spoiler.set(Mood::Say(answer));
        let mut mirror = scene.origin.mirror_by("state", &scene.source, scene.access.clone());
        let result = publish_file(&mut mirror, "two", "drift\n");
        assert!(result.is_err(), "{answer:?}: {result:?}");
        assert_eq!(scene.origin.in_bare(&["rev-parse", BRANCH]), before);
    }
    let (_, published) = scene.through(Mood::Reset, TransferLimits::default());
    assert!(committed(&published), "{published:?}");
}

#[test]
fn what_a_hook_says_against_a_push_is_reported() {
    let scene = Scene::set();
    scene.origin.hook("pre-receive", "echo 'GH006: Protected branch update failed' >&2; printf '\\033[2J' >&2; exit 1");
    let mut mirror = scene.origin.mirror_by("state", &scene.source, scene.access.clone());
    let error = publish_file(&mut mirror, "two", "drift\n").expect_err("a hook says no");
    let end = "pre-receive hook declined: GH006: Protected branch update failed";
    assert!(text_of(&error).contains(end) && !text_of(&error).contains('\u{1b}'), "{}", text_of(&error));
    assert_eq!(error.kind(), ErrorKind::NeedsIntervention);
}

#[test]
fn a_large_push_is_passed_on_as_it_comes() {
    let scene = Scene::set();
    let mut mirror = scene.origin.mirror_by("state", &scene.source, scene.access.clone());
    // Nothing that zlib could make small.
    let mut state = 1_u64;
    let noise: String = (0..4 << 20)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            char::from(b' ' + u8::try_from((state >> 33) % 90).expect("a letter"))
        })
        .collect();
    let published = publish_file(&mut mirror, "large", &noise).unwrap_or_else(|error| panic!("{}", text_of(&error)));
    assert!(committed(&published), "{published:?}");
    assert_eq!(scene.origin.in_bare(&["cat-file", "-s", &format!("{BRANCH}:large")]), noise.len().to_string());
}
