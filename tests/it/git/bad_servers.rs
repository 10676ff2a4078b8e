//! Servers that hang, trickle, break off, lie or are gone: the loop goes on, what is active stays, the error says what to do, and
//! all is well when the server is.
//!
//! Deliberately absent: bad repositories on this machine (`git`), what HTTP adds (`bad_web`, `bad_pushes`), and servers that merely refuse (`ssh`,
//! `servers`).

use std::time::{Duration, Instant};

use egret::core::gate::ActiveRevision;
use egret::git::access::{Access, TransferLimits};
use egret::git::mirror::Mirror;
use egret::git::{CommitId, Error, ErrorKind};
use egret::reconcile::gitops::repository::RepositoryEvent;
use egret::reconcile::gitops::tracked_repository::TrackedRepository;

use super::crooked::{Crooked, Mood, Serving, git_daemon};
use super::fixture::{Origin, PROGRAM};
use super::reading::{Reading, following};

/// Short enough for a test, long enough for a loaded machine.
pub(super) const LIMITS: TransferLimits = TransferLimits {
    connect: Duration::from_millis(1200),
    idle: Duration::from_millis(700),
    total: Duration::from_secs(2),
    min_rate: 64 << 10,
    max_bytes: 8 << 20,
    depth: 0,
};
/// Nothing takes this long; a thread that is held for ever does.
pub(super) const FOR_EVER: Duration = Duration::from_mins(1);

pub(super) fn access(limits: TransferLimits) -> Access {
    Access { program: PROGRAM.into(), limits, ..Access::default() }
}

/// The loop's own thread on a repository behind a relay.
struct Loop {
    origin: Origin,
    relay: Crooked,
    _daemon: Serving,
    reading: Reading,
}

impl Loop {
    fn start(limits: TransferLimits) -> Self {
        let origin = Origin::new();
        let (daemon, port) = git_daemon(&origin);
        let relay = Crooked::before(port);
        let source = format!("git://127.0.0.1:{}{}", relay.port, origin.bare.display());
        let following = TrackedRepository {
            branch: Some("main".to_owned()),
            access: access(limits),
            poll: Duration::from_millis(50),
            ..following(&source)
        };
        let reading = Reading::start(following, origin.state(), ActiveRevision::default());
        Self { origin, relay, _daemon: daemon, reading }
    }

    fn push(&self, content: &str) -> CommitId {
        self.origin.push(&[("notes.yaml", &format!("# {content}\n"))], content)
    }

    /// The first news that the test is waiting for.
    fn wait<T>(&mut self, what: &str, mut wanted: impl FnMut(RepositoryEvent) -> Option<T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        let end = Instant::now() + FOR_EVER;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let news = runtime.block_on(async { tokio::time::timeout(left, self.reading.news.recv()).await });
            let news = news.unwrap_or_else(|_| panic!("the thread never says {what}")).expect("the thread lives");
            if let Some(found) = wanted(news) {
                return found;
            }
        }
    }

    fn await_active(&mut self, commit: CommitId) {
        self.wait("the commit", |news| {
            matches!(news, RepositoryEvent::Intent(intent) if intent.commit.id == commit).then_some(())
        });
    }

    fn fault(&mut self) -> Error {
        self.wait("a fault", |news| match news {
            RepositoryEvent::Fault(error) => Some(error),
            RepositoryEvent::Intent(intent) => panic!("{intent:?}"),
            RepositoryEvent::Unchanged | RepositoryEvent::Pending(_) => None,
        })
    }

    /// What is said of a mood, and that it is got over.
    fn through(mood: Mood, limits: TransferLimits) -> Error {
        let mut this = Self::start(limits);
        let first = this.push("first");
        this.await_active(first);
        this.relay.set(mood);
        let second = this.push("second");
        let error = this.fault();
        assert_eq!(error.kind(), ErrorKind::Transient, "{error:?}");
        assert!(error.hint().is_some(), "{error:?}");
        this.relay.set(Mood::Good);
        this.reading.thread.poll();
        this.await_active(second);
        this.origin.assert_mirror_is_sound();
        error
    }
}

fn ends_with(error: &Error, end: &str) {
    assert!(error.to_string().ends_with(end), "{error}");
}

#[test]
fn a_server_that_says_nothing_is_given_up() {
    ends_with(&Loop::through(Mood::Stall, LIMITS), "is too slow: it did not list its branches within 1.2s");
}

#[test]
fn a_server_that_trickles_is_given_up() {
    ends_with(&Loop::through(Mood::Trickle, LIMITS), "is too slow: it did not list its branches within 1.2s");
}

#[test]
fn a_pack_that_trickles_is_given_up_although_something_always_comes() {
    let limits = TransferLimits { idle: FOR_EVER, ..LIMITS };
    ends_with(&Loop::through(Mood::TrickleInPack, limits), "is too slow: it was not done after 2s");
}

#[test]
fn a_pack_that_stops_coming_is_given_up() {
    let error = Loop::through(Mood::StallInPack, LIMITS);
    ends_with(&error, "is too slow: it sent nothing for 700ms in the middle of a fetch");
}

#[test]
fn a_connection_that_is_reset_is_reported() {
    let error = Loop::through(Mood::Reset, LIMITS);
    assert!(matches!(&error, Error::Unreachable { source, .. } if source.message().contains("reset")), "{error:?}");
}

#[test]
fn a_pack_that_is_cut_off_is_reported() {
    let error = Loop::through(Mood::Truncate, LIMITS);
    assert!(matches!(&error, Error::Unreachable { action: "fetch from", .. }), "{error:?}");
}

#[test]
fn a_pack_without_end_is_stopped() {
    ends_with(&Loop::through(Mood::Endless, LIMITS), "sends more than 8 MiB");
}

#[test]
fn what_people_do_to_a_branch_is_followed_or_told() {
    let mut this = Loop::start(LIMITS);
    let empty = this.fault();
    assert!(matches!(empty, Error::Empty { .. }), "{empty:?}");
    let first = this.push("first");
    this.await_active(first);
    let second = this.push("second");
    this.await_active(second);
    this.origin.git(&["reset", "--quiet", "--hard", &first.to_string()]);
    let other = this.origin.commit(&[("notes.yaml", "# other\n")], "other");
    this.origin.git(&["push", "--quiet", "--force", "origin", "main"]);
    this.await_active(other);
    this.origin.in_bare(&["update-ref", "-d", "refs/heads/main"]);
    let deleted = this.fault();
    assert!(matches!(deleted, Error::BranchDeleted { last, .. } if last == other), "{deleted:?}");
    let third = this.push("third");
    this.await_active(third);
}

#[test]
fn a_server_that_is_away_at_the_start_leaves_the_mirror_alone() {
    let origin = Origin::new();
    let source = {
        let (_daemon, port) = git_daemon(&origin);
        format!("git://127.0.0.1:{port}{}", origin.bare.display())
    };
    let mut mirror = origin.mirror_by("state", &source, access(LIMITS));
    let error = mirror.head(None).expect_err("nobody listens");
    assert_eq!(error.kind(), ErrorKind::Transient);
    assert!(error.hint().is_some_and(|hint| hint.contains("that the server is up")), "{error:?} {:?}", error.hint());
}

#[test]
fn a_worker_that_is_killed_at_any_moment_leaves_a_mirror_that_works() {
    let origin = Origin::new();
    let (_daemon, port) = git_daemon(&origin);
    let source = format!("git://127.0.0.1:{port}{}", origin.bare.display());
    let mut given_up = 0;
    for round in 0..30_u64 {
        let commit = origin.push(&[("a.yaml", &format!("a: {round}\n"))], "round");
        let short = TransferLimits { total: Duration::from_micros(500 * (round + 1)), ..LIMITS };
        match origin.mirror_by("state", &source, access(short)).head(None) {
            Ok(head) => assert_eq!(head.commit, commit),
            Err(error) => {
                assert!(matches!(error, Error::TooSlow { .. }), "{error:?}");
                given_up += 1;
            }
        }
        // The same folder, opened by the next process.
        let mut mirror: Mirror = origin.mirror_by("state", &source, access(TransferLimits::default()));
        assert_eq!(mirror.head(None).expect("it works").commit, commit);
    }
    assert!(given_up > 3, "{given_up} of 30");
    origin.assert_mirror_is_sound();
}

#[test]
fn a_lock_that_a_killed_process_left_is_nobodys() {
    let origin = Origin::new();
    let (_daemon, port) = git_daemon(&origin);
    let source = format!("git://127.0.0.1:{port}{}", origin.bare.display());
    origin.push(&[("a.yaml", "a: 1\n")], "first");
    origin.mirror_by("state", &source, access(TransferLimits::default())).head(None).expect("a look");
    for name in ["refs/egret/heads/main.lock", "packed-refs.lock", "objects/pack/pack_git2_abcdef"] {
        std::fs::write(origin.state().join(name), "").expect("a file");
    }
    let second = origin.push(&[("a.yaml", "a: 2\n")], "second");
    let mut mirror = origin.mirror_by("state", &source, access(TransferLimits::default()));
    assert_eq!(mirror.head(None).expect("a look").commit, second);
    origin.assert_mirror_is_sound();
}

#[test]
fn a_worker_that_cannot_start_is_reported() {
    let origin = Origin::new();
    let access = Access { program: "/nonexistent/egret".into(), ..Access::default() };
    let error = origin.mirror_by("state", "git://127.0.0.1:1/p", access).head(None).expect_err("no program");
    assert_eq!(error.to_string(), "cannot start the process for Git /nonexistent/egret");
    let access = Access { program: "/bin/false".into(), ..Access::default() };
    let error = origin.mirror_by("state", "git://127.0.0.1:1/p", access).head(None).expect_err("no worker");
    let expected = "the Git worker process for git://127.0.0.1:1/p failed: it ended without an answer (exit status: 1)";
    assert_eq!(error.to_string(), expected);
}
