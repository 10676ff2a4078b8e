//! The repository's thread as each process has one, and what it says.
//!
//! Deliberately absent: what is in the repository, and what is expected of it.

use std::path::PathBuf;
use std::time::Duration;

use egret::core::facts::Facts;
use egret::core::gate::ActiveRevision;
use egret::git::access::Access;
use egret::git::signature::SignatureFlags;
use egret::git::source::{Insecure, Source};
use egret::reconcile::gitops::repository::{
    DesiredRevision, KnownFacts, Repository, RepositoryEvent, RepositoryOptions,
};
use egret::reconcile::gitops::tracked_repository::TrackedRepository;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

/// A repository's default branch for the cluster `prod`, with no demands, and looked at when a test says so.
pub(super) fn following(source: &str) -> TrackedRepository {
    TrackedRepository {
        source: Source::parse(source, Insecure::Allow).expect("a source"),
        branch: None,
        access: Access::default(),
        signatures: SignatureFlags::default(),
        windows: None,
        label_keys: None,
        cluster: "prod".to_owned(),
        poll: Duration::from_mins(10),
        max_lag: Duration::ZERO,
    }
}

/// A running thread.
pub(super) struct Reading {
    pub(super) thread: Repository,
    pub(super) news: UnboundedReceiver<RepositoryEvent>,
}

impl Reading {
    pub(super) fn start(following: TrackedRepository, mirror: PathBuf, known: ActiveRevision) -> Self {
        let (sender, news) = unbounded_channel();
        let thread =
            Repository::start(RepositoryOptions { following, mirror, seed: 1, facts: KnownFacts::default() }, sender)
                .expect("a thread");
        thread.begin(known);
        Self { thread, news }
    }

    pub(super) fn next(&mut self) -> RepositoryEvent {
        self.news.blocking_recv().expect("the thread lives")
    }

    pub(super) fn intent(&mut self) -> DesiredRevision {
        match self.next() {
            RepositoryEvent::Intent(intent) => *intent,
            other => panic!("{other:?}"),
        }
    }

    /// The next event, which must be a fault.
    pub(super) fn fault(&mut self) -> String {
        match self.next() {
            RepositoryEvent::Fault(error) => error.to_string(),
            other => panic!("{other:?}"),
        }
    }

    /// The next revision, after faults that a retry repeated.
    pub(super) fn intent_after_retries(&mut self) -> DesiredRevision {
        loop {
            match self.next() {
                RepositoryEvent::Intent(intent) => return *intent,
                RepositoryEvent::Fault(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    /// Tells it which pods there are.
    pub(super) fn know(&self, facts: &Facts) {
        self.thread.know(facts);
    }

    /// What it says when it is asked to look, which must be an intent.
    pub(super) fn poll(&mut self) -> DesiredRevision {
        self.thread.poll();
        self.intent()
    }

    /// What it says once it was asked so often that it believes what it sees.
    pub(super) fn believed(&mut self) -> DesiredRevision {
        for _ in 0..10 {
            self.thread.poll();
            match self.next() {
                RepositoryEvent::Intent(intent) => return *intent,
                RepositoryEvent::Unchanged => {}
                other => panic!("{other:?}"),
            }
        }
        panic!("it is never believed")
    }

    /// Asks it to look, and it has nothing to say.
    pub(super) fn nothing(&mut self) {
        self.thread.poll();
        let news = self.next();
        assert!(matches!(news, RepositoryEvent::Unchanged), "{news:?}");
    }
}
