//! The keeper: one node's engine with what decides when its next round is: events, retries, the clock.
//!
//! Both loops have one: the standalone node's, which reads Git itself, and the agent's, which is told what is in force. Deliberately
//! absent: where triggers come from, and what a round does (`round`).

use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use super::repository::Intent;
use super::round::{Done, Engine, RoundError, now};
use super::telling::Telling;
use crate::backoff::Backoff;
use crate::core::plan::Step;
use crate::kernel::watch::{Event, Subject};
use crate::serve::Question;
use crate::telemetry::chain;

/// More than this much drift in [`FIGHT_WINDOW`] is a fight with somebody: then it is put right at a pace that leaves the
/// machine usable.
const FIGHT: usize = 50;
/// See [`FIGHT`].
const FIGHT_WINDOW: Duration = Duration::from_secs(10);
/// How long events are gathered before a round: a burst of a thousand is one round.
const GATHER: Duration = Duration::from_millis(2);
/// The same during a fight.
const GATHER_IN_FIGHT: Duration = Duration::from_millis(500);
/// What no event tells, as a setting below /proc/sys, is looked at this often. A look is a few milliseconds and writes nothing.
const LOOK: Duration = Duration::from_mins(1);
/// Waits for the clock are cut into these: a clock that jumps is noticed at the next.
const CLOCK: Duration = Duration::from_secs(30);

/// One node's engine and when it is to turn.
pub struct Keeper {
    /// The engine.
    pub engine: Engine,
    /// Metrics and health.
    pub telling: Telling,
    /// What is asked for; none until somebody said.
    pub intent: Option<Intent>,
    backoff: Backoff,
    due: Due,
    /// Events that came since the last round that succeeded.
    events: Vec<Event>,
    /// When the first of them came.
    seen: Option<Timestamp>,
    /// Times of drift, for telling a fight.
    fights: Vec<Instant>,
}

/// When the loop wakes by itself.
#[derive(Debug, Clone, Copy, Default)]
struct Due {
    retry: Option<Instant>,
    look: Option<Instant>,
    /// By the clock on the wall: schedule and ends of suspensions.
    wall: Option<Timestamp>,
}

/// What is due because time has passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimeCame {
    /// Nothing: the wait was cut short.
    Nothing,
    /// A round.
    Round,
    /// A round, and a look at everything: the schedule, or the end of something.
    Wall,
}

impl Keeper {
    /// Puts an engine under this care. `seed` is for jitter.
    pub fn new(engine: Engine, telling: Telling, seed: u64) -> Self {
        Self {
            engine,
            telling,
            intent: None,
            backoff: Backoff::new(seed),
            due: Due::default(),
            events: Vec::new(),
            seen: None,
            fights: Vec::new(),
        }
    }

    /// Takes a kernel event in; tells whether a round is due because of it.
    pub fn happened(&mut self, event: Event) -> bool {
        if self.engine.is_own(&event) {
            return false;
        }
        if event.subject == Subject::Everything {
            tracing::info!("more happened in the kernel than could be followed; everything is looked at");
        }
        self.seen.get_or_insert_with(now);
        self.events.push(event);
        true
    }

    /// Reads the kernel's counters for who asked.
    pub async fn answer(&mut self, question: Question) {
        self.telling.answer(question, &mut self.engine).await;
    }

    /// What is due now.
    pub fn time_came(&self) -> TimeCame {
        let instant = Instant::now();
        let due = |at: Option<Instant>| at.is_some_and(|at| at <= instant);
        if self.due.wall.is_some_and(|wall| wall <= now()) {
            TimeCame::Wall
        } else if due(self.due.retry) || due(self.due.look) {
            TimeCame::Round
        } else {
            TimeCame::Nothing
        }
    }

    /// When to look at the clock again.
    pub fn next_wake(&self) -> Instant {
        let wall = self.due.wall.map(|wall| {
            let left = wall.duration_since(now());
            Instant::now() + Duration::try_from(left).unwrap_or_default()
        });
        let latest = Instant::now() + CLOCK;
        [self.due.retry, self.due.look, wall].into_iter().flatten().fold(latest, Instant::min)
    }

    /// A round is to be tried after this time, whatever happens.
    pub fn retry_after(&mut self, wait: Duration) {
        self.due.retry = Some(Instant::now() + wait);
    }

    /// The same with a wait that grows each time.
    pub fn retry_later(&mut self) {
        let wait = self.backoff.next_wait();
        self.retry_after(wait);
    }

    /// How long to let a burst go on, so that it is one round.
    pub fn gathering(&mut self) -> Duration {
        let now = Instant::now();
        self.fights.retain(|at| now.duration_since(*at) < FIGHT_WINDOW);
        if self.fights.len() > FIGHT { GATHER_IN_FIGHT } else { GATHER }
    }

    /// One round, if it is known what for. `scheduled` is when the schedule wants the next one. After a fault it is tried again.
    pub async fn round(&mut self, scheduled: Option<Timestamp>) -> Option<Result<Done, RoundError>> {
        let intent = self.intent.clone()?;
        let seen = self.seen.unwrap_or_else(now);
        let began = Instant::now();
        let result = self.engine.round(&intent, &self.events, seen).await;
        self.telling.round(&result, began.elapsed(), &self.engine, &intent);
        match &result {
            Ok(done) => {
                self.backoff.reset();
                self.events.clear();
                self.seen = None;
                self.fights.extend(std::iter::repeat_n(Instant::now(), done.drifted));
                let wall = [scheduled, done.wake].into_iter().flatten().min();
                self.due = Due { retry: None, look: Some(Instant::now() + LOOK), wall };
                tell(&intent, done);
            }
            Err(error) => {
                let wait = self.backoff.next_wait();
                tracing::error!(error = chain(error), hint = error.hint(), retry = ?wait, "not in force");
                self.retry_after(wait);
            }
        }
        Some(result)
    }
}

fn tell(intent: &Intent, done: &Done) {
    if done.steps.is_empty() {
        tracing::debug!(commit = intent.commit.id.short(), took = ?done.took, "nothing to do");
        return;
    }
    let (commit, summary) = (intent.commit.id.short(), &intent.commit.summary);
    tracing::info!(commit, summary, steps = done.steps.len(), drifted = done.drifted, took = ?done.took, "in force");
    log_steps(&done.steps);
}

/// The first steps, a line each: a node that is new has hundreds, and the diff of `egret plan` has them all.
pub fn log_steps(steps: &[Step]) {
    const SHOWN: usize = 60;
    let text: Vec<String> = steps.iter().map(ToString::to_string).collect();
    let lines: Vec<&str> = text.iter().flat_map(|step| step.lines()).collect();
    for line in lines.iter().take(SHOWN) {
        tracing::info!("  {line}");
    }
    if lines.len() > SHOWN {
        tracing::info!("  and {} more", lines.len() - SHOWN);
    }
}
