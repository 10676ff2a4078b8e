//! Sends requests to a forge's API: paging, rate limits, and retries of reads.
//!
//! A read is retried if there was no answer or the forge had a server error. A write is never retried here: whether
//! it happened is not known, and the caller reads the state first. Redirects are not followed, nor lists that
//! continue on another host. Not here: the content of requests (see `dialect`).

use std::time::{Duration, Instant};

use http::HeaderMap;
use http::header::{CONTENT_TYPE, LINK, LOCATION, RETRY_AFTER};
use jiff::Timestamp;
use serde_json::Value;

use super::Forge;
use super::dialect::{Call, Dialect};
use super::error::{ForgeError, ForgeErrorKind, ForgeOperation};
use crate::backoff::Backoff;
use crate::https::{Client, HttpResponse, Request, full};
use crate::secret::Secret;

/// The most attempts of a read.
const TRIES: u32 = 4;
/// The most pages of a list.
const PAGES: usize = 100;

/// The requests of one call: one token, one set of connections, one time limit for waiting.
pub(super) struct Api<'f> {
    forge: &'f Forge,
    dialect: &'f dyn Dialect,
    client: Client,
    token: Secret,
    /// When waiting has to end.
    end: Instant,
    backoff: Backoff,
}

impl<'f> Api<'f> {
    pub(super) fn new(forge: &'f Forge, dialect: &'f dyn Dialect, token: Secret) -> Result<Self, ForgeError> {
        let client = Client::new(forge.options.https.clone())
            .map_err(|error| forge.failed(ForgeOperation::Identity, ForgeErrorKind::Http(error)))?;
        let seed = u64::from(std::process::id());
        let end = Instant::now() + forge.options.patience;
        Ok(Self { forge, dialect, client, token, end, backoff: Backoff::new(seed) })
    }

    /// Reads one value. An empty answer is null.
    pub(super) async fn read(&mut self, act: ForgeOperation, call: &Call) -> Result<Value, ForgeError> {
        let url = self.url(&call.path);
        Ok(self.get(act, &url).await?.0)
    }

    /// Reads a list, with all its pages. `below` is the JSON pointer of the list in an answer.
    pub(super) async fn list(
        &mut self,
        act: ForgeOperation,
        call: &Call,
        below: &str,
    ) -> Result<Vec<Value>, ForgeError> {
        let mut url = self.url(&call.path);
        let mut all = Vec::new();
        for _ in 0..PAGES {
            let (page, headers) = self.get(act, &url).await?;
            match page.pointer(below) {
                Some(Value::Array(items)) => all.extend(items.iter().cloned()),
                // Gitea answers an empty list with an empty body.
                Some(Value::Null) => {}
                _ => return Err(self.failed(act, ForgeErrorKind::Answer("it is no list".to_owned()))),
            }
            match next(&headers) {
                None => return Ok(all),
                Some(there) if self.is_ours(&there) => url = there,
                Some(there) => return Err(self.failed(act, ForgeErrorKind::Elsewhere(there))),
            }
        }
        Err(self.failed(act, ForgeErrorKind::Answer(format!("the list has more than {PAGES} pages"))))
    }

    /// Writes, once; again only if the forge refused because of its rate limit, and so did nothing.
    pub(super) async fn write(&mut self, act: ForgeOperation, call: &Call) -> Result<Value, ForgeError> {
        let url = self.url(&call.path);
        loop {
            match self.once(call, &url).await {
                Ok((value, _)) => return Ok(value),
                Err(Trouble::Limited(until)) => self.wait_until(act, until).await?,
                Err(Trouble::Other(fault)) => return Err(self.failed(act, fault)),
            }
        }
    }

    /// Waits before something is read again. False if there is no time left.
    pub(super) async fn pause(&mut self, least: Duration) -> bool {
        let wait = self.backoff.next_wait() + least;
        if Instant::now() + wait > self.end {
            return false;
        }
        tokio::time::sleep(wait).await;
        true
    }

    pub(super) fn failed(&self, act: ForgeOperation, fault: ForgeErrorKind) -> ForgeError {
        self.forge.failed(act, fault)
    }

    async fn get(&mut self, act: ForgeOperation, url: &str) -> Result<(Value, HeaderMap), ForgeError> {
        let call = Call::get(String::new());
        let mut tries = 1;
        loop {
            let error = match self.once(&call, url).await {
                Ok(answer) => return Ok(answer),
                Err(Trouble::Limited(until)) => {
                    self.wait_until(act, until).await?;
                    continue;
                }
                Err(Trouble::Other(fault)) => self.failed(act, fault),
            };
            if !error.retryable() || tries >= TRIES || !self.pause(Duration::ZERO).await {
                return Err(error);
            }
            tries += 1;
        }
    }

    async fn wait_until(&mut self, act: ForgeOperation, until: Timestamp) -> Result<(), ForgeError> {
        let wait = Duration::try_from(until.duration_since(Timestamp::now())).unwrap_or_default();
        // A slow clock must not make the next request too early, and it is never sent at once.
        let wait = wait.max(Duration::from_millis(500)) + Duration::from_millis(200);
        if Instant::now() + wait > self.end {
            return Err(self.failed(act, ForgeErrorKind::Limited { until }));
        }
        tokio::time::sleep(wait).await;
        Ok(())
    }

    async fn once(&self, call: &Call, url: &str) -> Result<(Value, HeaderMap), Trouble> {
        let mut request = Request::builder().method(call.method.clone()).uri(url);
        for (name, value) in self.dialect.headers(self.token.reveal()) {
            request = request.header(name, value);
        }
        let body = match &call.body {
            Some(value) => {
                request = request.header(CONTENT_TYPE, "application/json");
                full(value.to_string())
            }
            None => full(""),
        };
        // The cause is left out: the builder's error may contain a header, and the token is in one.
        let request = request.body(body).map_err(|_| {
            ForgeErrorKind::Setup("the address or the token has a character that can't be sent".to_owned())
        })?;
        let answer = self.client.send(request).await.map_err(ForgeErrorKind::Http)?;
        read(&answer)
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.forge.root)
    }

    /// Whether an address is below the API's root: the token is sent nowhere else.
    fn is_ours(&self, url: &str) -> bool {
        url.strip_prefix(&self.forge.root).is_some_and(|rest| rest.starts_with('/'))
    }
}

/// The cause of a missing value.
enum Trouble {
    Limited(Timestamp),
    Other(ForgeErrorKind),
}

impl From<ForgeErrorKind> for Trouble {
    fn from(fault: ForgeErrorKind) -> Self {
        Self::Other(fault)
    }
}

fn read(answer: &HttpResponse) -> Result<(Value, HeaderMap), Trouble> {
    let status = answer.status.as_u16();
    if answer.status.is_success() {
        if answer.body.iter().all(u8::is_ascii_whitespace) {
            return Ok((Value::Null, answer.headers.clone()));
        }
        let value = serde_json::from_slice(&answer.body).map_err(|error| ForgeErrorKind::Answer(error.to_string()))?;
        return Ok((value, answer.headers.clone()));
    }
    if answer.status.is_redirection() {
        let to =
            answer.headers.get(LOCATION).and_then(|to| to.to_str().ok()).unwrap_or("a place that it does not name");
        // The query may be secret.
        return Err(ForgeErrorKind::Moved { to: to.split('?').next().unwrap_or_default().to_owned() }.into());
    }
    let message = message(&answer.body);
    if let Some(until) = limited(status, &answer.headers, &message, Timestamp::now()) {
        return Err(Trouble::Limited(until));
    }
    Err(ForgeErrorKind::Refused { status, message }.into())
}

/// The end of a rate limit, if an answer reports one: GitHub's "Rate limits for the REST API" and "Best practices",
/// GitLab's "Rate limits" (its `RateLimit-Reset` is a time, not a number of seconds to wait).
fn limited(status: u16, headers: &HeaderMap, message: &str, now: Timestamp) -> Option<Timestamp> {
    let number = |name: &str| headers.get(name)?.to_str().ok()?.trim().parse::<i64>().ok();
    let after = number(RETRY_AFTER.as_str());
    let spent = number("x-ratelimit-remaining") == Some(0) || number("ratelimit-remaining") == Some(0);
    let secondary = message.to_ascii_lowercase().contains("rate limit");
    if status != 429 && !(status == 403 && (after.is_some() || spent || secondary)) {
        return None;
    }
    let seconds = |seconds: i64| now.checked_add(jiff::SignedDuration::from_secs(seconds.clamp(0, 86_400))).ok();
    let reset = || number("x-ratelimit-reset").or_else(|| number("ratelimit-reset"));
    let at = || reset().filter(|_| spent || status == 429).and_then(|at| Timestamp::from_second(at).ok());
    // "Otherwise, wait for at least one minute".
    after.and_then(seconds).or_else(at).or_else(|| seconds(60))
}

/// The forge's error message: GitHub and Gitea have `message`, GitLab `message` or `error`, as a text or as a list of
/// texts by field.
fn message(body: &[u8]) -> String {
    let value: Value = serde_json::from_slice(body).unwrap_or_default();
    let message = ["message", "error"].iter().find_map(|name| match value.get(name)? {
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    });
    let mut text: String =
        message.unwrap_or_default().chars().filter(|letter| !letter.is_control()).take(300).collect();
    if let Some(Value::Array(errors)) = value.get("errors") {
        for error in errors.iter().take(3) {
            let what = error.get("message").or_else(|| error.get("code")).and_then(Value::as_str);
            text.extend([" (", what.unwrap_or("?"), ")"]);
        }
    }
    if text.is_empty() { "nothing more".to_owned() } else { text }
}

/// The next page (RFC 8288): `<https://…?page=2>; rel="next"`.
fn next(headers: &HeaderMap) -> Option<String> {
    headers.get_all(LINK).iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(',')).find_map(
        |link| {
            let (url, parameters) = link.trim().strip_prefix('<')?.split_once('>')?;
            let is_next = parameters.split(';').any(|one| matches!(one.trim(), "rel=\"next\"" | "rel=next"));
            is_next.then(|| url.to_owned())
        },
    )
}
