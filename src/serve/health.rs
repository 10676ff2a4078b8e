//! Liveness and readiness of the process, set by its loop and read by the probes.
//!
//! The loop decides what readiness means.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The longest interval between two heartbeats of a working loop, whether or not anything happens.
pub const TURN: Duration = Duration::from_mins(1);

/// A loop without a heartbeat for this long hangs. This is twice the interval, because a long round is no fault.
const HANGS: Duration = Duration::from_mins(2);

/// The state that the loop reports. A clone is another handle on the same state.
#[derive(Debug, Clone)]
pub struct Health(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    beat: Instant,
    ready: Result<(), String>,
    /// A problem that does not affect readiness.
    remark: Option<String>,
}

impl Default for Health {
    fn default() -> Self {
        Self::new()
    }
}

impl Health {
    /// Alive, and not ready yet.
    pub fn new() -> Self {
        let ready = Err("it has just started".to_owned());
        Self(Arc::new(Mutex::new(State { beat: Instant::now(), ready, remark: None })))
    }

    /// A heartbeat of the loop: at least one every [`TURN`].
    pub fn beat(&self) {
        self.with(|state| state.beat = Instant::now());
    }

    /// Sets readiness; an error is the reason as text for operators.
    pub fn set_ready(&self, ready: Result<(), String>) {
        self.with(|state| state.ready = ready);
    }

    /// Sets a problem that operators should see and that does not affect readiness; none: there is none.
    pub fn set_remark(&self, remark: Option<String>) {
        self.with(|state| state.remark = remark);
    }

    /// Whether the loop is alive.
    pub(super) fn alive(&self) -> Result<(), String> {
        judge(self.with(|state| state.beat.elapsed()))
    }

    /// Whether the process is ready.
    pub(super) fn ready(&self) -> Result<(), String> {
        self.with(|state| state.ready.clone())
    }

    /// The problem that does not affect readiness.
    pub(super) fn remark(&self) -> Option<String> {
        self.with(|state| state.remark.clone())
    }

    fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Judges a loop by the time since its last heartbeat.
fn judge(silence: Duration) -> Result<(), String> {
    if silence < HANGS {
        return Ok(());
    }
    let (seconds, promise) = (silence.as_secs(), TURN.as_secs());
    Err(format!("the loop has not turned for {seconds} s; it promises to turn every {promise} s"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loop_that_is_silent_for_two_minutes_hangs() {
        assert_eq!(judge(Duration::from_secs(119)), Ok(()));
        let hangs = "the loop has not turned for 120 s; it promises to turn every 60 s".to_owned();
        assert_eq!(judge(Duration::from_mins(2)), Err(hangs));
        assert_eq!(Health::new().alive(), Ok(()));
    }

    #[test]
    fn whether_it_is_ready_is_the_loop_s_to_say() {
        let health = Health::new();
        assert_eq!(health.ready(), Err("it has just started".to_owned()));
        health.clone().set_ready(Ok(()));
        assert_eq!(health.ready(), Ok(()));
    }
}
