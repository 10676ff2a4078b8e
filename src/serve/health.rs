//! Whether the loop turns, and whether what it is for is done.
//!
//! Deliberately absent: any opinion of what readiness is. The loop says so.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The loop promises to turn at least this often, whether or not anything happens.
pub const TURN: Duration = Duration::from_mins(1);

/// A loop that has not turned for this long hangs: twice what it promises, for a long round is no fault.
const HANGS: Duration = Duration::from_mins(2);

/// What the loop says of itself. A clone is another handle on the same.
#[derive(Debug, Clone)]
pub struct Health(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    beat: Instant,
    ready: Result<(), String>,
    /// What is told beside that, and is no reason not to be ready.
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
        let ready = Err("it has only just begun".to_owned());
        Self(Arc::new(Mutex::new(State { beat: Instant::now(), ready, remark: None })))
    }

    /// The loop turns. It promises to say so every [`TURN`] at least.
    pub fn beat(&self) {
        self.with(|state| state.beat = Instant::now());
    }

    /// What the process is for is done; or why not, in words for people.
    pub fn set_ready(&self, ready: Result<(), String>) {
        self.with(|state| state.ready = ready);
    }

    /// Something that a person should see, and that keeps nothing from being done; none: there is nothing.
    pub fn set_remark(&self, remark: Option<String>) {
        self.with(|state| state.remark = remark);
    }

    /// Whether the loop turns.
    pub(super) fn alive(&self) -> Result<(), String> {
        judge(self.with(|state| state.beat.elapsed()))
    }

    /// Whether all is done.
    pub(super) fn ready(&self) -> Result<(), String> {
        self.with(|state| state.ready.clone())
    }

    /// What a person should see beside that.
    pub(super) fn remark(&self) -> Option<String> {
        self.with(|state| state.remark.clone())
    }

    fn with<T>(&self, look: impl FnOnce(&mut State) -> T) -> T {
        look(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Of a loop that has been silent for this long.
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
        assert_eq!(health.ready(), Err("it has only just begun".to_owned()));
        health.clone().set_ready(Ok(()));
        assert_eq!(health.ready(), Ok(()));
    }
}
