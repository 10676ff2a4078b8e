//! Keeps one kind of object in sync: a list, then a watch from there, which is restarted indefinitely. One task per
//! kind.
//!
//! It replaces `kube::runtime::watcher`, which does not report recovery, retries an expired version if the refusal
//! comes as an HTTP status, waits without limit for a server's first byte, and loops without a pause if a watch ends
//! at once. Not here: use of the events (see `view`), and state that outlives the task.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{Stream, StreamExt as _};
use kube::core::params::{ListParams, WatchParams};
use kube::core::{Request, WatchEvent};
use serde::Deserialize;
use tokio::sync::mpsc::Sender;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::error::{ApiError, ApiErrorCause};
use super::known::{Known, Lost, Versions};
use super::outage::{Outage, Probe};
use super::view::{ListOrEvent, WatchItem};
use super::wire::Watched;
use super::{ANSWER, ApiClient, PAGE, noted};
use crate::backoff::Backoff;

/// A watch without events is taken as working after this time.
const SETTLED: Duration = Duration::from_secs(2);
/// A watch that ends sooner, without progress, is an error.
const BRIEF: Duration = Duration::from_secs(1);
/// The longest duration of a watch: drawn from the upper half, so that a cluster's agents do not all reconnect at
/// once. (kube allows no more.)
const WATCH: Duration = Duration::from_secs(290);
/// How much later than requested a server may end a watch.
const LATE: Duration = Duration::from_secs(15);
/// The longest pause after a refusal. Pods that start meanwhile are not seen.
const LONGEST: Duration = Duration::from_secs(30);
/// While the server is away, one reflector of each process asks once in this time, drawn from the upper half. 5,000
/// agents are 6,700 attempts a second, which a closed port refuses at once; a server that returns has 5,000 handshakes
/// within a second, and priority and fairness puts off what is too much (429).
const PROBE: Duration = Duration::from_secs(1);
/// Once the server answers one of them, the others of this process ask within this time.
const SOON: Duration = Duration::from_millis(500);
/// A version that expires at once again after this time is listed without a pause.
const RARE: Duration = Duration::from_secs(30);
/// How often a server may refuse to continue from a version before everything is listed anew.
const PATIENCE: u32 = 3;
/// A server sends a bookmark once a minute. A watch without an event or a bookmark for this long may be deaf:
/// everything is listed. If that shows nothing new, the time doubles: a server may have no bookmarks.
const SILENCE: Duration = Duration::from_mins(3);
/// A single event that is lost is found by comparing versions every two to three times this long.
const CHECK: Duration = Duration::from_mins(5);
/// Up to this number of objects. More are compared as much more rarely, so that a process reads at most this number of
/// one kind in ten minutes.
const CHECK_OBJECTS: u32 = 1000;
/// How late an event may be after a list that shows its change already.
const GRACE: Duration = Duration::from_secs(30);

/// The messages of the tasks.
#[derive(Debug)]
pub(super) enum Message {
    /// Events for this kind of object.
    News(&'static str, Box<WatchItem>),
    /// The watch of this kind works.
    Well(&'static str),
    /// The watch of this kind fails.
    Fault(&'static str, ApiError),
    /// This kind may not be read, and is optional.
    Closed(&'static str, ApiError),
}

/// The part of a kind that is watched.
#[derive(Debug, Clone, Default)]
pub(super) struct Query {
    /// Where the objects are, if not at the kind's own path: in one namespace.
    pub path: Option<String>,
    pub labels: Option<String>,
    pub fields: Option<String>,
    /// Objects per page. None if the server has to search many objects for few: it does so for every page.
    pub page: Option<u32>,
    /// The kind is optional, where it is not installed or may not be read: it is tried again after this time.
    pub optional: Option<Duration>,
}

impl Query {
    /// Where the objects are.
    pub(super) fn path<W: Watched>(&self) -> &str {
        self.path.as_deref().unwrap_or(W::PATH)
    }

    pub(super) fn list(&self, limit: Option<u32>, continue_token: Option<String>) -> ListParams {
        let (label_selector, field_selector) = (self.labels.clone(), self.fields.clone());
        ListParams { label_selector, field_selector, limit, continue_token, ..ListParams::default() }
    }
}

/// One line of a watch.
type Event<W> = kube::Result<WatchEvent<<W as Watched>::Wire>>;

/// The answer to a list.
#[derive(Deserialize)]
#[serde(bound = "T: serde::de::DeserializeOwned")]
pub(super) struct Page<T> {
    #[serde(default)]
    pub(super) metadata: PageMeta,
    pub(super) items: Option<Vec<T>>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct PageMeta {
    resource_version: String,
    #[serde(rename = "continue")]
    pub(super) next: Option<String>,
}

/// The end of a list or a watch.
enum End {
    /// Regular: continue from this version.
    Well(String),
    /// Failed: continue from this version, after a pause; without one, from a new list.
    Failed(Option<String>, ApiError),
    /// The version has expired on the server.
    Expired(ApiError),
    /// The server sent nothing for long.
    Silent,
    /// It did not report a change.
    Lost(Lost),
    /// The receiver is gone.
    Unheard,
}

/// What a watch waited for.
enum Next<W: Watched> {
    Event(Option<Event<W>>),
    Compared(Result<Versions, ApiError>),
    Time,
}

/// Watches one kind of object.
pub(super) struct Reflector<W: Watched> {
    live: ApiClient,
    query: Query,
    wrap: fn(ListOrEvent<W::Key, W::Value>) -> WatchItem,
    out: Sender<Message>,
    outage: Outage,
    /// Whether the server is away for this reflector, and whether it probes for all of them.
    away: bool,
    probe: Option<Probe>,
    /// Refusals in a row.
    backoff: Backoff,
    /// Refusals of one version in a row.
    refusals: u32,
    /// When a version last expired.
    expired: Option<Instant>,
    /// Listing takes longer than the server keeps the token for the next page, so all is listed in one page.
    whole: bool,
    known: Known,
    /// When the server last sent something of this kind; none after a failure.
    heard: Option<Instant>,
    silence: Duration,
    /// Whether the list that comes is because of the silence.
    suspect: bool,
    next_check: Instant,
    /// A list to compare with, at a time when the watch must have reported everything in it.
    check: Option<BoxFuture<'static, Result<Versions, ApiError>>>,
}

impl<W: Watched> Reflector<W> {
    pub(super) fn new(
        live: ApiClient,
        query: Query,
        wrap: fn(ListOrEvent<W::Key, W::Value>) -> WatchItem,
        out: Sender<Message>,
        outage: Outage,
        seed: u64,
    ) -> Self {
        live.errors.watched(W::NAME);
        Self {
            live,
            query,
            wrap,
            out,
            outage,
            away: false,
            probe: None,
            backoff: Backoff::new(seed),
            refusals: 0,
            expired: None,
            whole: false,
            known: Known::default(),
            heard: None,
            silence: SILENCE,
            suspect: false,
            next_check: Instant::now(),
            check: None,
        }
    }

    /// Runs until the receiver is gone.
    pub(super) async fn run(mut self) {
        let mut version: Option<String> = None;
        loop {
            let end = match version.take() {
                Some(version) => self.watch(version).await,
                None => self.list().await,
            };
            let goes_on = match end {
                End::Well(next) => {
                    version = Some(next);
                    true
                }
                End::Failed(_, error) if self.is_spared(&error) => self.rest(error).await,
                End::Failed(next, error) => {
                    version = self.known_version(next, &error);
                    self.pause(error).await
                }
                End::Expired(error) => self.expire(error).await,
                End::Silent => {
                    self.suspect = true;
                    true
                }
                End::Lost(lost) => self.report(lost).await,
                End::Unheard => false,
            };
            if !goes_on {
                return;
            }
        }
    }

    /// A version expires when the server was away for some minutes, or was started anew: that is not reported, and
    /// everything is listed at once. Not if it expired just before: a server on which every version expires would be
    /// asked without a pause. False if the receiver is gone.
    async fn expire(&mut self, error: ApiError) -> bool {
        let before = self.expired.replace(Instant::now());
        if before.is_some_and(|before| before.elapsed() < RARE) {
            return self.pause(error).await;
        }
        self.live.errors.watch(W::NAME);
        true
    }

    /// Reports that a watch lost something. False if the receiver is gone.
    async fn report(&mut self, Lost { first, count }: Lost) -> bool {
        self.live.errors.watch(W::NAME);
        let error = ApiError::new(Self::watching(), ApiErrorCause::EventsLost { first, count });
        self.out.send(Message::Fault(W::NAME, error)).await.is_ok()
    }

    /// The version to continue from after a failure. A server that was restored from a backup refuses versions that
    /// it has not reached yet; a line that cannot be read would be sent again and again.
    fn known_version(&mut self, version: Option<String>, error: &ApiError) -> Option<String> {
        let of_version = match error.cause() {
            ApiErrorCause::Refused { code, .. } => !matches!(code, 401 | 403 | 429 | 503),
            ApiErrorCause::Answer(_) => true,
            _ => false,
        };
        self.refusals += u32::from(of_version);
        version.filter(|_| self.refusals < PATIENCE)
    }

    /// Reports a failure and waits. False if the receiver is gone.
    async fn pause(&mut self, error: ApiError) -> bool {
        self.live.errors.watch(W::NAME);
        // What happened meanwhile was not lost.
        (self.heard, self.suspect, self.check) = (None, false, None);
        let (outage, expired, least) = (error.is_outage(), error.code() == Some(410), error.retry_after());
        if self.out.send(Message::Fault(W::NAME, error)).await.is_err() {
            return false;
        }
        let mut ends = self.outage.ends();
        let wait = if outage { self.outage_wait() } else { self.backoff.next_wait().min(LONGEST) };
        // What the server asks for is not shortened.
        let least = Instant::now() + least;
        let mut until = if outage { least.max(Instant::now() + wait) } else { least + wait };
        let mut alone = self.probe.is_none() && !expired;
        loop {
            tokio::select! {
                // The end before the time: after both there is nothing more to do.
                biased;
                () = self.out.closed() => return false,
                // The events of one kind are only useful together with those of the others.
                _ = ends.recv(), if alone => {
                    until = until.min(least.max(Instant::now() + self.backoff.spread(SOON)));
                    alone = false;
                }
                () = sleep_until(until) => return true,
            }
        }
    }

    /// The pause while the server is away. Who does not probe waits for the one who does; but not for ever, as its
    /// request may be one that is never answered.
    fn outage_wait(&mut self) -> Duration {
        self.away = true;
        self.probe = self.probe.take().or_else(|| self.outage.probe());
        self.backoff.spread(if self.probe.is_some() { PROBE } else { LONGEST })
    }

    /// Takes note of an answer of the server, whatever it says.
    fn answered(&mut self) {
        self.probe = None;
        if std::mem::take(&mut self.away) {
            self.outage.end();
        }
    }

    /// The same for a refusal, unless it is of something before the server.
    fn refused(&mut self, error: ApiError) -> ApiError {
        if !error.is_outage() {
            self.answered();
        }
        error
    }

    /// Whether the kind is not installed or not readable, and optional.
    fn is_spared(&self, error: &ApiError) -> bool {
        self.query.optional.is_some() && matches!(error.code(), Some(403 | 404))
    }

    /// Reports that there are no objects, or that they cannot be read, and waits for a long time. False if the
    /// receiver is gone.
    async fn rest(&mut self, error: ApiError) -> bool {
        let connected = match error.code() {
            Some(404) => self.send(ListOrEvent::All(BTreeMap::new())).await,
            _ => self.out.send(Message::Closed(W::NAME, error)).await.is_ok(),
        };
        let wait = self.backoff.spread(self.query.optional.unwrap_or(LONGEST));
        tokio::select! {
            biased;
            () = self.out.closed() => false,
            () = sleep(wait) => connected,
        }
    }

    async fn send(&mut self, news: ListOrEvent<W::Key, W::Value>) -> bool {
        self.out.send(Message::News(W::NAME, Box::new((self.wrap)(news)))).await.is_ok()
    }

    async fn well(&mut self) -> bool {
        if self.backoff.failures() > 0 {
            self.outage.end();
        }
        self.backoff.reset();
        self.refusals = 0;
        self.out.send(Message::Well(W::NAME)).await.is_ok()
    }

    /// Lists everything, page by page. All pages are of one version.
    async fn list(&mut self) -> End {
        let doing = format!("listing {}", W::NAME);
        let (mut found, mut versions) = (BTreeMap::new(), Versions::new());
        let mut next: Option<String> = None;
        loop {
            let limit = self.query.page.filter(|_| !self.whole);
            let request = Request::new(self.query.path::<W>()).list(&self.query.list(limit, next.clone()));
            let page: Page<W::Wire> = match self.live.call(&doing, request, PAGE).await.map_err(|e| self.refused(e)) {
                Ok(page) => page,
                Err(error) if error.code() == Some(410) => {
                    self.whole = next.is_some();
                    return End::Expired(error);
                }
                Err(error) => return End::Failed(None, error),
            };
            self.answered();
            for wire in page.items.unwrap_or_default() {
                let object = W::identity(&wire);
                versions.insert(object.key(), object.version.to_owned());
                found.extend(W::read(wire));
            }
            next = page.metadata.next.filter(|token| !token.is_empty());
            if next.is_none() {
                self.whole = false;
                let told = self.listed(versions).await && self.send(ListOrEvent::All(found)).await;
                return if told { End::Well(page.metadata.resource_version) } else { End::Unheard };
            }
        }
    }

    /// Compares a complete list with what the watch reported, if it was silent. False if the receiver is gone.
    async fn listed(&mut self, versions: Versions) -> bool {
        self.heard = Some(Instant::now());
        self.check = None;
        let lost = self.known.replace(versions);
        self.plan_check();
        match (std::mem::take(&mut self.suspect), lost) {
            (true, Some(lost)) => {
                self.silence = SILENCE;
                self.report(lost).await
            }
            (true, None) => {
                self.silence *= 2;
                true
            }
            (false, _) => true,
        }
    }

    fn plan_check(&mut self) {
        let times = 1 + u32::try_from(self.known.len()).unwrap_or(u32::MAX) / CHECK_OBJECTS;
        self.next_check = Instant::now() + (CHECK + self.backoff.spread(2 * CHECK)) * times;
    }

    /// Requests the versions of all objects, without interrupting the watch.
    fn begin_check(&mut self) {
        self.known.begin();
        let listing = self.live.clone().versions::<W>(self.query.clone());
        self.check = Some(Box::pin(async {
            let versions = listing.await?;
            sleep(GRACE).await;
            Ok(versions)
        }));
    }

    /// Judges the versions.
    fn end_check(&mut self, versions: Result<Versions, ApiError>) -> Option<Lost> {
        self.check = None;
        self.plan_check();
        // A failure is counted already, and the watch will meet its cause too.
        self.known.finish(&versions.ok()?)
    }

    async fn watch(&mut self, version: String) -> End {
        match self.open(&version).await.map_err(|error| self.refused(error)) {
            Ok((stream, limit)) => {
                self.answered();
                self.heard.get_or_insert_with(Instant::now);
                self.read(stream, limit, version).await
            }
            Err(error) if error.code() == Some(410) => End::Expired(error),
            Err(error) => End::Failed(Some(version), error),
        }
    }

    /// The stream of a watch, and the time at which it must have ended.
    async fn open(&mut self, version: &str) -> Result<(impl Stream<Item = Event<W>> + use<W>, Instant), ApiError> {
        let doing = Self::watching();
        let length = self.backoff.spread(WATCH).as_secs();
        let parameters = WatchParams {
            label_selector: self.query.labels.clone(),
            field_selector: self.query.fields.clone(),
            timeout: Some(u32::try_from(length).unwrap_or(u32::MAX)),
            bookmarks: true,
            ..WatchParams::default()
        };
        let request = Request::new(self.query.path::<W>()).watch(&parameters, version);
        let (request, note) = noted(request.map_err(|error| ApiError::of(&doing, kube::Error::BuildRequest(error)))?);
        match timeout(ANSWER, self.live.client.request_events::<W::Wire>(request)).await {
            Ok(Ok(stream)) => Ok((stream, Instant::now() + Duration::from_secs(length) + LATE)),
            Ok(Err(error)) => Err(ApiError::of(doing, error).or_retry_after(note.get())),
            Err(_) => Err(ApiError::new(doing, ApiErrorCause::Timeout(ANSWER))),
        }
    }

    /// Reads a watch to its end.
    async fn read(&mut self, stream: impl Stream<Item = Event<W>>, limit: Instant, mut version: String) -> End {
        let mut stream = std::pin::pin!(stream);
        let (began, first) = (Instant::now(), version.clone());
        let mut well = false;
        loop {
            let deaf = self.heard.unwrap_or(began) + self.silence;
            let check = if self.check.is_none() { self.next_check } else { limit };
            let settled = if well { limit } else { began + SETTLED };
            let next = tokio::select! {
                // What has arrived, before it is judged what is missing.
                biased;
                event = stream.next() => Next::<W>::Event(event),
                // Not at the beginning of a watch: its first events are on their way.
                versions = done(&mut self.check), if well => Next::Compared(versions),
                () = sleep_until(limit.min(deaf).min(check).min(settled)) => Next::Time,
            };
            let lasted = began.elapsed();
            if !well && (lasted >= SETTLED || matches!(next, Next::Event(Some(Ok(ref event))) if !is_error(event))) {
                well = true;
                if !self.well().await {
                    return End::Unheard;
                }
            }
            let failed = |error| End::Failed(Some(version.clone()), error);
            let event = match next {
                Next::Event(Some(Ok(event))) => event,
                Next::Event(None) if lasted >= BRIEF || version != first => return End::Well(version),
                Next::Event(None) => return failed(ApiError::new(Self::watching(), ApiErrorCause::Ended)),
                Next::Event(Some(Err(error))) => return failed(ApiError::of(Self::watching(), error)),
                Next::Compared(versions) => match self.end_check(versions) {
                    Some(lost) => return End::Lost(lost),
                    None => continue,
                },
                Next::Time if Instant::now() >= limit => {
                    return failed(ApiError::new(Self::watching(), ApiErrorCause::Timeout(lasted)));
                }
                Next::Time if Instant::now() >= deaf => return End::Silent,
                Next::Time if Instant::now() >= check => {
                    self.begin_check();
                    continue;
                }
                Next::Time => continue,
            };
            let resume = version.clone();
            match self.take(event, &mut version).await {
                Ok(true) => {}
                Ok(false) => return End::Unheard,
                Err(error) if error.code() == Some(410) => return End::Expired(error),
                Err(error) => return End::Failed(Some(resume), error),
            }
        }
    }

    /// Handles one event. False if the receiver is gone.
    async fn take(&mut self, event: WatchEvent<W::Wire>, version: &mut String) -> Result<bool, ApiError> {
        let (wire, gone) = match event {
            WatchEvent::Added(wire) | WatchEvent::Modified(wire) => (wire, false),
            WatchEvent::Deleted(wire) => (wire, true),
            WatchEvent::Bookmark(bookmark) => {
                self.hear();
                *version = bookmark.metadata.resource_version;
                return Ok(true);
            }
            WatchEvent::Error(status) => return Err(ApiError::new(Self::watching(), ApiErrorCause::from(*status))),
        };
        self.hear();
        let object = W::identity(&wire);
        if !object.version.is_empty() {
            object.version.clone_into(version);
        }
        self.known.report(object, gone);
        let Some((key, value)) = W::read(wire) else { return Ok(true) };
        let news = if gone { ListOrEvent::Gone(key) } else { ListOrEvent::Set(key, value) };
        Ok(self.send(news).await)
    }

    /// Takes note that the watch is not deaf.
    fn hear(&mut self) {
        self.heard = Some(Instant::now());
        self.silence = SILENCE;
    }

    fn watching() -> String {
        format!("watching {}", W::NAME)
    }
}

/// The result of a check; never, without one.
async fn done(check: &mut Option<BoxFuture<'static, Result<Versions, ApiError>>>) -> Result<Versions, ApiError> {
    match check {
        Some(check) => check.await,
        None => std::future::pending().await,
    }
}

fn is_error<T>(event: &WatchEvent<T>) -> bool {
    matches!(event, WatchEvent::Error(_))
}
