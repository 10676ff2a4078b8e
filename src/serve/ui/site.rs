//! What the server keeps between requests: the last knowledge, drawn up once for all who look at it, and how it gets newer.
//!
//! Not here: HTML.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Mutex, Semaphore, mpsc, oneshot};
use tokio::time::timeout;

use super::PATIENCE;
use crate::core::explain::DocumentChange;
use crate::core::facts::PodName;
use crate::core::page::{Knowledge, Model};
use crate::core::rates::{Counted, Rates};

/// Knowledge this fresh is shown again.
const FRESH: Duration = Duration::from_secs(1);
/// Of a large cluster, whose picture takes longer, it is drawn up so seldom that this part of a core is enough: one in four.
const SHARE: u32 = 3;
/// Shown while nothing else is known.
const SILENT: &str = "the process does not answer: it is busy, or it hangs";
/// How many commits of the repository are shown.
const COMMITS: usize = 40;
/// How many answers are worked out at once: each takes a core.
const AT_ONCE: usize = 2;

/// The history of the policy repository, as far as this process has it. Functions block.
pub trait PolicyLog: Send + Sync {
    /// The commit that last changed a file, as of a commit.
    fn last_change(&self, file: &str, commit: &str) -> Option<DocumentChange>;

    /// The newest commits, from this one back.
    fn recent(&self, commit: &str, most: usize) -> Vec<DocumentChange>;
}

/// A viewer requests what the process knows. If the request is dropped, what was last known is shown.
pub struct PageRequest {
    /// The pod that has to be among the facts, if it exists.
    pub pod: Option<PodName>,
    reply: oneshot::Sender<Result<Arc<Knowledge>, String>>,
}

impl PageRequest {
    /// Answers: with what is known, or why nothing is known yet.
    pub fn answer(self, known: Result<Arc<Knowledge>, String>) {
        // It fails if the viewer no longer waits.
        let _ = self.reply.send(known);
    }
}

impl fmt::Debug for PageRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PageRequest").field("pod", &self.pod).finish_non_exhaustive()
    }
}

/// The loop's end: receives the requests.
#[derive(Debug)]
pub struct PageRequests(mpsc::Receiver<PageRequest>);

impl PageRequests {
    pub(super) fn new(receiver: mpsc::Receiver<PageRequest>) -> Self {
        Self(receiver)
    }

    /// Waits for the next request; for ever if there is no server any more. Cancelling the wait loses nothing.
    pub async fn next(&mut self) -> PageRequest {
        match self.0.recv().await {
            Some(request) => request,
            None => std::future::pending().await,
        }
    }
}

/// What is shown, and how old it is.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) model: Arc<Model>,
    /// The loop did not answer in time: it is this old.
    pub(super) stale: Option<Duration>,
    /// How long it is shown.
    fresh: Duration,
}

/// What is kept between requests.
pub(super) struct Site {
    requests: mpsc::Sender<PageRequest>,
    log: Arc<dyn PolicyLog>,
    last: Mutex<Last>,
    drawing: Semaphore,
    began: Instant,
}

#[derive(Default)]
struct Last {
    seen: Option<(Instant, Arc<Seen>)>,
    /// When the loop last did not answer.
    missed: Option<Instant>,
    /// The counters that the next rates are measured from.
    counted: Option<Counted>,
    /// The commits that were read last, and from which one.
    commits: (String, Vec<DocumentChange>),
}

impl Site {
    pub(super) fn new(requests: mpsc::Sender<PageRequest>, log: Arc<dyn PolicyLog>) -> Self {
        Self { requests, log, last: Mutex::default(), drawing: Semaphore::new(AT_ONCE), began: Instant::now() }
    }

    pub(super) fn log(&self) -> Arc<dyn PolicyLog> {
        Arc::clone(&self.log)
    }

    /// What is known now: at most a second old, if the loop answers in time. Those who come meanwhile wait for the same answer.
    pub(super) async fn seen(&self) -> Result<Arc<Seen>, String> {
        let mut last = self.last.lock().await;
        if let Some((_, seen)) = last.seen.as_ref().filter(|(at, seen)| at.elapsed() < seen.fresh) {
            return Ok(Arc::clone(seen));
        }
        // While the loop does not answer, no other request waits for it.
        let asks = last.missed.is_none_or(|at| at.elapsed() >= FRESH);
        let answer = if asks { self.ask(None).await } else { None };
        match answer {
            Some(Ok(known)) => {
                let seen = self.drawn_up(known, &mut last).await?;
                last.seen = Some((Instant::now(), Arc::clone(&seen)));
                last.missed = None;
                Ok(seen)
            }
            Some(Err(why)) => Err(why),
            None => {
                if asks {
                    last.missed = Some(Instant::now());
                }
                let (at, seen) = last.seen.as_ref().ok_or(SILENT)?;
                let (model, stale) = (Arc::clone(&seen.model), Some(at.elapsed()));
                Ok(Arc::new(Seen { model, stale, fresh: FRESH }))
            }
        }
    }

    /// What is known, with a pod.
    pub(super) async fn about(&self, pod: &PodName) -> Result<Arc<Knowledge>, String> {
        match self.ask(Some(pod.clone())).await {
            Some(known) => known,
            None => Err(SILENT.to_owned()),
        }
    }

    /// Asks the loop; none if it does not answer in time.
    async fn ask(&self, pod: Option<PodName>) -> Option<Result<Arc<Knowledge>, String>> {
        let (reply, answer) = oneshot::channel();
        // Full: the loop has not come to the last ones yet.
        self.requests.try_send(PageRequest { pod, reply }).ok()?;
        timeout(PATIENCE, answer).await.ok()?.ok()
    }

    /// Draws up what is shown, beside the loop.
    async fn drawn_up(&self, known: Arc<Knowledge>, last: &mut Last) -> Result<Arc<Seen>, String> {
        let counted = known.counters.clone().map(|counters| Counted { counters, at: self.began.elapsed() });
        let rates = match (&last.counted, &counted) {
            (Some(before), Some(now)) => Rates::between(before, now),
            _ => known.rates.clone(),
        };
        if counted.is_some() && (rates.is_some() || last.counted.is_none()) {
            last.counted = counted;
        }
        let log = self.log();
        let commits = std::mem::take(&mut last.commits);
        let drawn = tokio::task::spawn_blocking(move || {
            let commits = match known.revision.as_str() {
                revision if revision == commits.0 => commits,
                revision => (revision.to_owned(), log.recent(revision, COMMITS)),
            };
            let began = Instant::now();
            let model = Arc::new(Model::new(known, &commits.1, rates));
            let fresh = FRESH.max(began.elapsed() * SHARE);
            (Arc::new(Seen { model, stale: None, fresh }), commits)
        });
        let (seen, commits) = drawn.await.map_err(|_| "what is known could not be drawn up".to_owned())?;
        last.commits = commits;
        Ok(seen)
    }

    /// Works something out, a few at a time.
    pub(super) async fn drawing<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        let _place = self.drawing.acquire().await.ok()?;
        tokio::task::spawn_blocking(work).await.ok()
    }
}
