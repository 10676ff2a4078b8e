//! What an agent answers to people: `GET /v1/…`, read-only JSON, through the API server's `pods/proxy` (decision 0031).
//!
//! Whoever asks proves by a token in the header [`TOKEN_HEADER`] that the API server lets them: a token of one account, for this node alone.
//! The API server is asked whether it is one, and the verdict is kept for a minute. Tokens that are not known are few a second, and so are
//! questions; the loop answers one at a time between its rounds, as it does for scrapes. Not here: what is answered (`reconcile`), and the
//! API server (`cluster`).

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::{RawQuery, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use sha2::{Digest, Sha256};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout};

use super::bucket::Bucket;
use crate::core::explain::{KernelQuestion, TOKEN_HEADER};

/// The longest token that is looked at. A service account's has about a thousand characters.
const LONGEST_TOKEN: usize = 8 << 10;
/// The longest query.
const LONGEST_QUERY: usize = 2 << 10;
/// How long a verdict about a token counts.
const KEPT: Duration = Duration::from_mins(1);
/// The most verdicts that are kept.
const VERDICTS: usize = 64;
/// How long the API server may take for one.
const REVIEW: Duration = Duration::from_millis(1500);
/// How long the loop may take, and the checks of the machine, which are made beside it.
const PATIENCE: Duration = Duration::from_secs(1);
const CHECKS: Duration = Duration::from_secs(3);
/// Tokens that are not known yet, and questions: so many a second, and in a burst.
const TOKENS: (f64, f64) = (2.0, 8.0);
const QUESTIONS: (f64, f64) = (4.0, 12.0);
/// The largest answer in bytes: a support bundle's part is the largest.
pub const LARGEST: usize = 4 << 20;

/// The API server's verdict on a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenVerdict {
    /// It is a token of the account that may ask, for this node.
    MayAsk,
    /// It is another account's.
    Other,
    /// It is none that counts here: forged, expired, or for another audience.
    Invalid,
}

/// Asks the API server about a token; an error: it cannot be asked.
pub type Review =
    Box<dyn Fn(String) -> Pin<Box<dyn Future<Output = Result<TokenVerdict, String>> + Send>> + Send + Sync>;

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
    /// What the kernel holds for one pod and one destination.
    Kernel(KernelQuestion),
    /// The checks of `egret doctor`.
    Doctor,
    /// What a support bundle has of this node.
    Node,
}

/// A question of an authorised client. If it is dropped, the client gets 503.
pub struct Question {
    /// What.
    pub asked: Asked,
    reply: oneshot::Sender<Result<String, String>>,
}

impl Question {
    /// Whether the client no longer waits.
    pub fn is_over(&self) -> bool {
        self.reply.is_closed()
    }

    /// Answers with JSON, or with why there is no answer.
    pub fn answer(self, answer: Result<String, String>) {
        // It fails if the client no longer waits.
        let _ = self.reply.send(answer);
    }
}

impl fmt::Debug for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Question").field(&self.asked).finish()
    }
}

/// The loop's end: receives the questions.
#[derive(Debug, Default)]
pub struct Questions(Option<mpsc::Receiver<Question>>);

impl Questions {
    /// Waits for the next one; for ever where none are taken. Cancelling the wait loses nothing.
    pub async fn next(&mut self) -> Question {
        match &mut self.0 {
            Some(questions) => match questions.recv().await {
                Some(question) => question,
                None => std::future::pending().await,
            },
            None => std::future::pending().await,
        }
    }
}

/// Lets in whoever may ask.
pub struct Door(Arc<Inner>);

struct Inner {
    review: Review,
    verdicts: Mutex<Verdicts>,
    tokens: Mutex<Bucket>,
    questions: Mutex<Bucket>,
    to: mpsc::Sender<Question>,
}

/// Verdicts by the hashes of tokens, the oldest first.
#[derive(Default)]
struct Verdicts(VecDeque<([u8; 32], TokenVerdict, Instant)>);

impl Verdicts {
    fn get(&mut self, token: &[u8; 32], now: Instant) -> Option<TokenVerdict> {
        self.0.retain(|(_, _, since)| now.duration_since(*since) < KEPT);
        self.0.iter().find(|(known, ..)| known == token).map(|(_, verdict, _)| *verdict)
    }

    fn put(&mut self, token: [u8; 32], verdict: TokenVerdict, now: Instant) {
        // A client with many tokens that may not ask pushes out only such ones, while there are any.
        if self.0.len() >= VERDICTS {
            let worthless = self.0.iter().position(|(_, verdict, _)| *verdict != TokenVerdict::MayAsk);
            self.0.remove(worthless.unwrap_or(0));
        }
        self.0.push_back((token, verdict, now));
    }
}

impl Door {
    /// Whoever the review lets in may ask what the returned end receives.
    pub fn new(review: Review) -> (Self, Questions) {
        // Questions wait while another is answered. More than these get 503.
        let (to, questions) = mpsc::channel(4);
        let now = std::time::Instant::now();
        let inner = Inner {
            review,
            verdicts: Mutex::default(),
            tokens: Mutex::new(Bucket::new(TOKENS, now)),
            questions: Mutex::new(Bucket::new(QUESTIONS, now)),
            to,
        };
        (Self(Arc::new(inner)), Questions(Some(questions)))
    }

    /// Its paths.
    pub(super) fn router(self) -> Router {
        Router::new()
            .route("/v1/kernel", get(kernel))
            .route("/v1/doctor", get(doctor))
            .route("/v1/node", get(node))
            .with_state(self.0)
    }
}

type Refusal = (StatusCode, &'static str);

const TOO_MANY: Refusal = (StatusCode::TOO_MANY_REQUESTS, "too many questions, ask again in a second\n");
const BUSY: Refusal = (StatusCode::SERVICE_UNAVAILABLE, "the agent is busy, ask again in a second\n");

async fn kernel(State(door): State<Arc<Inner>>, headers: HeaderMap, RawQuery(query): RawQuery) -> Response {
    if let Err(refusal) = door.admit(&headers).await {
        return refusal.into_response();
    }
    let query = query.unwrap_or_default();
    let question = if query.len() > LONGEST_QUERY {
        Err("the question is too long".to_owned())
    } else {
        KernelQuestion::parse(&query)
    };
    match question {
        Ok(question) => door.ask(Asked::Kernel(question), PATIENCE).await,
        Err(why) => (StatusCode::BAD_REQUEST, format!("{why}\n")).into_response(),
    }
}

async fn doctor(State(door): State<Arc<Inner>>, headers: HeaderMap) -> Response {
    match door.admit(&headers).await {
        Ok(()) => door.ask(Asked::Doctor, CHECKS).await,
        Err(refusal) => refusal.into_response(),
    }
}

async fn node(State(door): State<Arc<Inner>>, headers: HeaderMap) -> Response {
    match door.admit(&headers).await {
        Ok(()) => door.ask(Asked::Node, PATIENCE).await,
        Err(refusal) => refusal.into_response(),
    }
}

impl Inner {
    /// Lets a request in by its token.
    async fn admit(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        let token = headers.get(TOKEN_HEADER).and_then(|token| token.to_str().ok());
        let token = token.filter(|token| !token.is_empty() && token.len() <= LONGEST_TOKEN);
        let token = token.ok_or((StatusCode::UNAUTHORIZED, "there is no token in the header egret-token\n"))?;
        let hash: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        let known = with(&self.verdicts, |verdicts| verdicts.get(&hash, Instant::now()));
        let verdict = match known {
            Some(verdict) => verdict,
            None => self.review(token, hash).await?,
        };
        match verdict {
            TokenVerdict::MayAsk => {}
            TokenVerdict::Other => return Err((StatusCode::FORBIDDEN, "this token's account may not ask\n")),
            TokenVerdict::Invalid => return Err((StatusCode::UNAUTHORIZED, "this token does not count here\n")),
        }
        take(&self.questions).then_some(()).ok_or(TOO_MANY)
    }

    async fn review(&self, token: &str, hash: [u8; 32]) -> Result<TokenVerdict, Refusal> {
        if !take(&self.tokens) {
            return Err(TOO_MANY);
        }
        match timeout(REVIEW, (self.review)(token.to_owned())).await {
            Ok(Ok(verdict)) => {
                with(&self.verdicts, |verdicts| verdicts.put(hash, verdict, Instant::now()));
                Ok(verdict)
            }
            Ok(Err(_)) | Err(_) => {
                Err((StatusCode::SERVICE_UNAVAILABLE, "the API server does not say whether this token counts\n"))
            }
        }
    }

    async fn ask(&self, asked: Asked, patience: Duration) -> Response {
        let (reply, answered) = oneshot::channel();
        if self.to.try_send(Question { asked, reply }).is_err() {
            return BUSY.into_response();
        }
        match timeout(patience, answered).await {
            Ok(Ok(Ok(answer))) if answer.len() <= LARGEST => {
                ([(CONTENT_TYPE, "application/json"), (CACHE_CONTROL, "no-store")], answer).into_response()
            }
            Ok(Ok(Ok(_))) => (StatusCode::INTERNAL_SERVER_ERROR, "the answer is too large\n").into_response(),
            Ok(Ok(Err(why))) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")).into_response(),
            Ok(Err(_)) | Err(_) => BUSY.into_response(),
        }
    }
}

fn take(bucket: &Mutex<Bucket>) -> bool {
    with(bucket, |bucket| bucket.take(std::time::Instant::now()))
}

fn with<V, T>(of: &Mutex<V>, change: impl FnOnce(&mut V) -> T) -> T {
    change(&mut of.lock().unwrap_or_else(PoisonError::into_inner))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_counts_for_a_minute_and_worthless_tokens_push_no_good_one_out() {
        let (mut verdicts, now) = (Verdicts::default(), Instant::now());
        verdicts.put([1; 32], TokenVerdict::MayAsk, now);
        for number in 0..200 {
            let mut token = [0; 32];
            token[0] = 2;
            token[1] = number;
            verdicts.put(token, TokenVerdict::Invalid, now);
        }
        assert_eq!((verdicts.0.len(), verdicts.get(&[1; 32], now)), (VERDICTS, Some(TokenVerdict::MayAsk)));
        assert_eq!(verdicts.get(&[9; 32], now), None);
        assert_eq!(verdicts.get(&[1; 32], now + KEPT), None);
        assert_eq!(verdicts.0.len(), 0);
    }
}
