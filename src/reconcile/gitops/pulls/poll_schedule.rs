//! Schedules polls of pull requests: at an interval, soon after an announced change, and never before the time that a
//! rate-limiting forge asks for.
//!
//! The caller passes the time, and the wait after a failure.

use std::time::{Duration, Instant};

/// The shortest time between two polls, however many changes are announced.
const PAUSE: Duration = Duration::from_secs(3);

/// When the next poll is due.
#[derive(Debug)]
pub(super) struct PollSchedule {
    due: Instant,
    last: Option<Instant>,
    /// The forge asked for no request before this time.
    not_before: Option<Instant>,
}

impl PollSchedule {
    /// The first poll is due at once.
    pub(super) fn new(now: Instant) -> Self {
        Self { due: now, last: None, not_before: None }
    }

    /// How long until the next poll.
    pub(super) fn wait(&self, now: Instant) -> Duration {
        self.due.saturating_duration_since(now)
    }

    /// Something changed. Several changes cause one poll.
    pub(super) fn request(&mut self, now: Instant) {
        let soon = self.due.min(self.last.map_or(now, |last| last + PAUSE));
        self.due = self.not_before.map_or(soon, |not_before| soon.max(not_before));
    }

    /// A poll begins.
    pub(super) fn begin(&mut self, now: Instant) {
        self.last = Some(now);
    }

    /// The poll is over; the next one is due after `wait`. `retry_after`: how long the forge accepts no request,
    /// whatever changes.
    pub(super) fn next(&mut self, now: Instant, wait: Duration, retry_after: Option<Duration>) {
        self.not_before = retry_after.map(|wait| now + wait);
        self.due = now + wait.max(retry_after.unwrap_or_default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_causes_a_poll_soon_but_not_before_retry_after() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let seconds = |schedule: &PollSchedule, now: u64| schedule.wait(at(now)).as_secs();
        let mut schedule = PollSchedule::new(start);
        assert_eq!(seconds(&schedule, 0), 0);
        schedule.begin(at(0));
        schedule.next(at(1), Duration::from_mins(1), None);
        assert_eq!(seconds(&schedule, 1), 60);
        schedule.request(at(2));
        assert_eq!(seconds(&schedule, 2), 1, "three seconds after the last poll");
        schedule.begin(at(3));
        schedule.next(at(3), Duration::from_secs(2), Some(Duration::from_mins(10)));
        schedule.request(at(10));
        assert_eq!(seconds(&schedule, 10), 593, "the forge set this time");
        schedule.begin(at(603));
        schedule.next(at(604), Duration::from_mins(1), None);
        schedule.request(at(610));
        assert_eq!(seconds(&schedule, 610), 0, "that is over");
    }
}
