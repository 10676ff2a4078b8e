//! The network between one process and the API server: latency, lost requests and answers, partitions, watches that lag or fall
//! silent; and the process's own death and sleep, as far as others notice them.
//!
//! A request that its client gave up is still carried out: the server does not know. Not here: what the server answers
//! (`tests/apiserver`).

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::{Request, Response};
use futures::{Stream, StreamExt as _};
use tokio::time::{Instant, sleep};
use tower::{BoxError, Service, ServiceExt as _};

use super::random::Random;
use crate::apiserver::signal::Signal;

type Latency = (Duration, Duration);

/// Whether packets arrive.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Link {
    #[default]
    Up,
    /// Connections are refused, and there are none: the server is being restarted.
    Refused,
    /// Packets are lost. Nothing is answered, and nothing ends.
    Silent,
}

/// The faults of a line. None by default.
#[derive(Debug, Clone, Default)]
pub(crate) struct Weather {
    pub(crate) link: Link,
    /// Of a thousand requests, how many are lost, are done and their answer is lost, or are refused with a status.
    pub(crate) lost: u32,
    pub(crate) unanswered: u32,
    pub(crate) refused: u32,
    /// How long a write takes, beside the way there and back.
    pub(crate) slow_writes: Option<Latency>,
    /// How far watches are behind; each draws its own.
    pub(crate) lag: Option<Latency>,
    /// Kinds whose watches lose every line from now on.
    pub(crate) swallowed: Vec<&'static str>,
}

/// What a process asked of the API server, by simulated time.
#[derive(Debug, Clone)]
pub(crate) struct Sent {
    pub(crate) at: Instant,
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) watch: bool,
}

impl Sent {
    pub(crate) fn is_write(&self) -> bool {
        self.method != "GET"
    }
}

#[derive(Debug, Default)]
struct State {
    weather: Weather,
    /// Watches that began in another epoch are cut.
    epoch: u64,
    frozen: bool,
    dead: bool,
    /// After how many more steps the process dies.
    doomed: Option<u32>,
    sent: Vec<Sent>,
    /// Tasks that wait for the process to go on.
    stopped: Vec<Waker>,
}

/// The line of one process, from its start to its death.
pub(crate) struct Line {
    state: Mutex<State>,
    random: Mutex<Random>,
    changed: Signal,
}

impl Line {
    pub(crate) fn new(random: Random, weather: Weather) -> Arc<Self> {
        let state = State { weather, ..State::default() };
        Arc::new(Self { state: Mutex::new(state), random: Mutex::new(random), changed: Signal::default() })
    }

    /// What answers the process's requests.
    pub(crate) fn service(self: &Arc<Self>, server: Router) -> Wire {
        Wire { line: Arc::clone(self), server }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state());
        self.changed.send();
    }

    pub(crate) fn set_weather(&self, change: impl FnOnce(&mut Weather)) {
        self.change(|state| change(&mut state.weather));
    }

    /// Ends all connections.
    pub(crate) fn cut(&self) {
        self.change(|state| state.epoch += 1);
    }

    /// Nothing that the process does reaches anybody any more, and nothing reaches it.
    pub(crate) fn kill(&self) {
        self.change(|state| state.dead = true);
    }

    /// The process dies after so many requests to the API server and to its kernel.
    pub(crate) fn doom(&self, steps: u32) {
        self.change(|state| state.doomed = Some(steps));
    }

    /// Whether it is dead, or soon will be.
    pub(crate) fn is_doomed(&self) -> bool {
        let state = self.state();
        state.dead || state.doomed.is_some()
    }

    /// The process takes a step, unless it is its last.
    fn step(&self) {
        let mut state = self.state();
        state.doomed = state.doomed.map(|left| left.saturating_sub(1));
        state.dead |= state.doomed == Some(0);
    }

    /// The process is stopped (SIGSTOP), or continues.
    pub(crate) fn freeze(&self, frozen: bool) {
        self.change(|state| state.frozen = frozen);
        let stopped = std::mem::take(&mut self.state().stopped);
        stopped.into_iter().for_each(Waker::wake);
    }

    /// The same future, which does not go on while the process is stopped.
    pub(crate) async fn of_process<F: Future>(self: Arc<Self>, future: F) -> F::Output {
        let mut future = std::pin::pin!(future);
        futures::future::poll_fn(|context| {
            let mut state = self.state();
            if state.frozen {
                state.stopped.push(context.waker().clone());
                return Poll::Pending;
            }
            drop(state);
            future.as_mut().poll(context)
        })
        .await
    }

    pub(crate) fn is_dead(&self) -> bool {
        self.state().dead
    }

    /// What was sent since a time.
    pub(crate) fn sent_since(&self, since: Instant) -> Vec<Sent> {
        let state = self.state();
        let from = state.sent.partition_point(|sent| sent.at < since);
        state.sent[from..].to_vec()
    }

    /// Waits until the condition holds.
    async fn until(&self, holds: impl Fn(&State) -> bool) {
        let mut changed = self.changed.subscribe();
        while !holds(&self.state()) {
            changed.changed().await;
        }
    }

    /// Takes a step: waits while the process is stopped, and for ever once it is dead.
    pub(crate) async fn awake(&self) {
        self.step();
        self.until(|state| !state.frozen && !state.dead).await;
    }

    fn draw<T>(&self, draw: impl FnOnce(&mut Random) -> T) -> T {
        draw(&mut self.random.lock().unwrap_or_else(PoisonError::into_inner))
    }

    async fn travel(&self) -> Result<(), BoxError> {
        let latency = self.draw(|random| random.time((Duration::from_micros(200), Duration::from_millis(4))));
        sleep(latency).await;
        self.awake().await;
        let link = self.state().weather.link;
        match link {
            Link::Up => Ok(()),
            Link::Refused => Err(reset()),
            Link::Silent => {
                self.until(|state| state.weather.link != Link::Silent).await;
                Err(reset())
            }
        }
    }
}

fn reset() -> BoxError {
    Box::new(io::Error::from(io::ErrorKind::ConnectionReset))
}

/// The client's end: a service as kube's client wants one.
#[derive(Clone)]
pub(crate) struct Wire {
    line: Arc<Line>,
    server: Router,
}

impl<B> Service<Request<B>> for Wire
where
    B: hyper::body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let (line, server) = (Arc::clone(&self.line), self.server.clone());
        Box::pin(exchange(line, server, request.map(Body::new)))
    }
}

async fn exchange(line: Arc<Line>, server: Router, request: Request<Body>) -> Result<Response<Body>, BoxError> {
    line.awake().await;
    let query = request.uri().query().unwrap_or_default().to_owned();
    let watch = query.contains("watch=true") || query.contains("watch=1");
    let sent =
        Sent { at: Instant::now(), method: request.method().to_string(), path: request.uri().path().to_owned(), watch };
    let (path, write) = (sent.path.clone(), sent.is_write());
    line.state().sent.push(sent);
    line.travel().await?;
    let weather = line.state().weather.clone();
    if line.draw(|random| random.permille(weather.lost)) {
        return Err(reset());
    }
    if line.draw(|random| random.permille(weather.refused)) {
        let code = line.draw(|random| *random.pick(&[429_u16, 500, 503]));
        return Ok(status(code));
    }
    let work = weather.slow_writes.filter(|_| write).map(|slow| line.draw(|random| random.time(slow)));
    // The server carries it out even if the client does not wait for the answer.
    let done = tokio::spawn(async move {
        sleep(work.unwrap_or_default()).await;
        server.oneshot(request).await
    });
    let Ok(response) = done.await?;
    line.travel().await?;
    if line.draw(|random| random.permille(weather.unanswered)) {
        return Err(reset());
    }
    if !watch {
        return Ok(response);
    }
    let lag = weather.lag.map(|lag| line.draw(|random| random.time(lag))).unwrap_or_default();
    let epoch = line.state().epoch;
    Ok(response.map(|body| Body::from_stream(watched(line, body, path, lag, epoch))))
}

/// An answer of the API server's, which is busy or not well.
fn status(code: u16) -> Response<Body> {
    let (reason, message) = match code {
        429 => ("TooManyRequests", "storage is (re)initializing"),
        503 => ("ServiceUnavailable", "the server is currently unable to handle the request"),
        _ => ("InternalError", "etcdserver: leader changed"),
    };
    let body = serde_json::json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message, "reason": reason, "code": code,
    });
    let response = Response::builder().status(code).header("content-type", "application/json");
    response.body(Body::from(body.to_string())).expect("a response")
}

/// A watch's lines as the process gets them.
fn watched(
    line: Arc<Line>,
    body: Body,
    path: String,
    lag: Duration,
    epoch: u64,
) -> impl Stream<Item = Result<Bytes, BoxError>> + Send {
    struct Reading {
        line: Arc<Line>,
        lines: axum::body::BodyDataStream,
        path: String,
        lag: Duration,
        epoch: u64,
        over: bool,
    }
    let reading = Reading { line, lines: body.into_data_stream(), path, lag, epoch, over: false };
    futures::stream::unfold(reading, |mut reading| async move {
        loop {
            if reading.over {
                return None;
            }
            let line = Arc::clone(&reading.line);
            let began = reading.epoch;
            let broken = line.until(|state| state.epoch != began || state.weather.link == Link::Refused);
            let next = tokio::select! {
                biased;
                () = broken => None,
                next = reading.lines.next() => Some(next),
            };
            let chunk = match next {
                Some(Some(Ok(chunk))) => chunk,
                Some(_) => return None,
                None => {
                    reading.over = true;
                    line.awake().await;
                    return Some((Err(reset()), reading));
                }
            };
            sleep(
                reading.lag + line.draw(|random| random.time((Duration::from_micros(100), Duration::from_millis(3)))),
            )
            .await;
            line.awake().await;
            // A connection over which nothing comes is noticed by its keepalive.
            if line.state().weather.link == Link::Silent {
                reading.over = true;
                sleep(Duration::from_secs(30)).await;
                return Some((Err(reset()), reading));
            }
            if line.state().weather.swallowed.iter().any(|kind| reading.path.ends_with(kind)) {
                continue;
            }
            return Some((Ok(chunk), reading));
        }
    })
}

/// Requests by the kind of what they did, for a message.
pub(crate) fn tally(sent: &[Sent]) -> BTreeMap<String, usize> {
    let mut tally = BTreeMap::new();
    for one in sent {
        let verb = if one.watch { "WATCH" } else { one.method.as_str() };
        *tally.entry(format!("{verb} {}", one.path)).or_insert(0) += 1;
    }
    tally
}
