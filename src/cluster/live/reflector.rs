//! Keeps one kind of object in sync: a list, then a watch from there, which is restarted indefinitely. One task per
//! kind.
//!
//! It replaces `kube::runtime::watcher`, which does not report recovery, retries an expired version if the refusal
//! comes as an HTTP status, waits without limit for a server's first byte, and loops without a pause if a watch ends
//! at once. Not here: use of the events (see `view`), and state that outlives the task.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::{Stream, StreamExt as _};
use kube::core::params::{ListParams, WatchParams};
use kube::core::{Request, WatchEvent};
use serde::Deserialize;
use tokio::sync::mpsc::Sender;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use super::error::{ApiError, ApiErrorCause};
use super::view::{ListOrEvent, WatchItem};
use super::wire::Watched;
use super::{ANSWER, ApiClient, PAGE};
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
/// The longest pause after a failure. Pods that start meanwhile are not seen.
const LONGEST: Duration = Duration::from_secs(30);
/// Once the server answers one watch again, the others of this process retry within this time.
const SOON: Duration = Duration::from_millis(500);
/// How often a server may refuse to continue from a version before everything is listed anew.
const PATIENCE: u32 = 3;

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
    /// The receiver is gone.
    Unheard,
}

/// Watches one kind of object.
pub(super) struct Reflector<W: Watched> {
    live: ApiClient,
    query: Query,
    wrap: fn(ListOrEvent<W::Key, W::Value>) -> WatchItem,
    out: Sender<Message>,
    /// Changes each time that one of the reflectors of this server recovers.
    recoveries: watch::Sender<u64>,
    backoff: Backoff,
    /// Refusals of one version in a row.
    refusals: u32,
    /// Listing takes longer than the server keeps the token for the next page, so all is listed in one page.
    whole: bool,
}

impl<W: Watched> Reflector<W> {
    pub(super) fn new(
        live: ApiClient,
        query: Query,
        wrap: fn(ListOrEvent<W::Key, W::Value>) -> WatchItem,
        out: Sender<Message>,
        recoveries: watch::Sender<u64>,
        seed: u64,
    ) -> Self {
        live.errors.watched(W::NAME);
        Self { live, query, wrap, out, recoveries, backoff: Backoff::new(seed), refusals: 0, whole: false }
    }

    /// Runs until the receiver is gone.
    pub(super) async fn run(mut self) {
        let mut version: Option<String> = None;
        loop {
            let end = match version.take() {
                Some(version) => self.watch(version).await,
                None => self.list().await,
            };
            match end {
                End::Well(next) => version = Some(next),
                End::Failed(_, error) if self.is_spared(&error) => {
                    if !self.rest(error).await {
                        return;
                    }
                }
                End::Failed(next, error) => {
                    version = self.known_version(next, &error);
                    if !self.pause(error).await {
                        return;
                    }
                }
                // A first expiry is not reported; it happens when the server was away for some minutes.
                End::Expired(error) if self.backoff.failures() > 0 => {
                    if !self.pause(error).await {
                        return;
                    }
                }
                // Counted, so that a server on which every version expires at once is not queried without a pause.
                End::Expired(_) => {
                    self.live.errors.watch(W::NAME);
                    let _ = self.backoff.next_wait();
                }
                End::Unheard => return,
            }
        }
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
        if self.out.send(Message::Fault(W::NAME, error)).await.is_err() {
            return false;
        }
        let mut until = Instant::now() + self.backoff.next_wait().min(LONGEST);
        let mut recoveries = self.recoveries.subscribe();
        let mut alone = true;
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(until) => return true,
                () = self.out.closed() => return false,
                // The events of one kind are only useful together with those of the others.
                _ = recoveries.changed(), if alone => {
                    until = until.min(Instant::now() + self.backoff.spread(SOON));
                    alone = false;
                }
            }
        }
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
            () = tokio::time::sleep(wait) => connected,
            () = self.out.closed() => false,
        }
    }

    async fn send(&self, news: ListOrEvent<W::Key, W::Value>) -> bool {
        self.out.send(Message::News(W::NAME, Box::new((self.wrap)(news)))).await.is_ok()
    }

    async fn well(&mut self) -> bool {
        if self.backoff.failures() > 0 {
            self.recoveries.send_modify(|count| *count += 1);
        }
        self.backoff.reset();
        self.refusals = 0;
        self.out.send(Message::Well(W::NAME)).await.is_ok()
    }

    /// Lists everything, page by page. All pages are of one version.
    async fn list(&mut self) -> End {
        let doing = format!("listing {}", W::NAME);
        let mut found = BTreeMap::new();
        let mut next: Option<String> = None;
        loop {
            let parameters = ListParams {
                label_selector: self.query.labels.clone(),
                field_selector: self.query.fields.clone(),
                limit: self.query.page.filter(|_| !self.whole),
                continue_token: next.clone(),
                ..ListParams::default()
            };
            let request = Request::new(self.query.path.as_deref().unwrap_or(W::PATH)).list(&parameters);
            let page: Page<W::Wire> = match self.live.call(&doing, request, PAGE).await {
                Ok(page) => page,
                Err(error) if error.code() == Some(410) => {
                    self.whole = next.is_some();
                    return End::Expired(error);
                }
                Err(error) => return End::Failed(None, error),
            };
            found.extend(page.items.unwrap_or_default().into_iter().filter_map(W::read));
            next = page.metadata.next.filter(|token| !token.is_empty());
            if next.is_none() {
                self.whole = false;
                let version = page.metadata.resource_version;
                return if self.send(ListOrEvent::All(found)).await { End::Well(version) } else { End::Unheard };
            }
        }
    }

    async fn watch(&mut self, version: String) -> End {
        match self.open(&version).await {
            Ok((stream, limit)) => self.read(stream, limit, version).await,
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
        let request = Request::new(self.query.path.as_deref().unwrap_or(W::PATH)).watch(&parameters, version);
        let request = request.map_err(|error| ApiError::of(&doing, kube::Error::BuildRequest(error)))?;
        match timeout(ANSWER, self.live.client.request_events::<W::Wire>(request)).await {
            Ok(Ok(stream)) => Ok((stream, Instant::now() + Duration::from_secs(length) + LATE)),
            Ok(Err(error)) => Err(ApiError::of(doing, error)),
            Err(_) => Err(ApiError::new(doing, ApiErrorCause::Timeout(ANSWER))),
        }
    }

    /// Reads a watch to its end.
    async fn read(&mut self, stream: impl Stream<Item = Event<W>>, limit: Instant, mut version: String) -> End {
        let mut stream = std::pin::pin!(stream);
        let (began, first) = (Instant::now(), version.clone());
        let mut well = false;
        loop {
            let wait = if well { limit } else { limit.min(began + SETTLED) };
            let next = tokio::time::timeout_at(wait, stream.next()).await;
            let lasted = began.elapsed();
            if !well && (lasted >= SETTLED || matches!(next, Ok(Some(Ok(ref event))) if !is_error(event))) {
                well = true;
                if !self.well().await {
                    return End::Unheard;
                }
            }
            let resume = Some(version.clone());
            let event = match next {
                Ok(Some(Ok(event))) => event,
                Ok(None) if lasted >= BRIEF || version != first => return End::Well(version),
                Ok(None) => return End::Failed(resume, ApiError::new(Self::watching(), ApiErrorCause::Ended)),
                Ok(Some(Err(error))) => return End::Failed(resume, ApiError::of(Self::watching(), error)),
                Err(_) if Instant::now() < limit => continue,
                Err(_) => return End::Failed(resume, ApiError::new(Self::watching(), ApiErrorCause::Timeout(lasted))),
            };
            match self.take(event, &mut version).await {
                Ok(true) => {}
                Ok(false) => return End::Unheard,
                Err(error) if error.code() == Some(410) => return End::Expired(error),
                Err(error) => return End::Failed(resume, error),
            }
        }
    }

    /// Handles one event. False if the receiver is gone.
    async fn take(&mut self, event: WatchEvent<W::Wire>, version: &mut String) -> Result<bool, ApiError> {
        let (wire, gone) = match event {
            WatchEvent::Added(wire) | WatchEvent::Modified(wire) => (wire, false),
            WatchEvent::Deleted(wire) => (wire, true),
            WatchEvent::Bookmark(bookmark) => {
                *version = bookmark.metadata.resource_version;
                return Ok(true);
            }
            WatchEvent::Error(status) => return Err(ApiError::new(Self::watching(), ApiErrorCause::from(*status))),
        };
        let newest = W::version(&wire).to_owned();
        if !newest.is_empty() {
            *version = newest;
        }
        let Some((key, value)) = W::read(wire) else { return Ok(true) };
        let news = if gone { ListOrEvent::Gone(key) } else { ListOrEvent::Set(key, value) };
        Ok(self.send(news).await)
    }

    fn watching() -> String {
        format!("watching {}", W::NAME)
    }
}

fn is_error<T>(event: &WatchEvent<T>) -> bool {
    matches!(event, WatchEvent::Error(_))
}
