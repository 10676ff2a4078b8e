//! When pull requests are looked at: every so often, soon after somebody says that something changed, and never before a forge that has had
//! enough said that it may be asked again.
//!
//! Deliberately absent: a clock, and how long is waited after a failure.

use std::time::{Duration, Instant};

/// Between two looks, however often somebody says that something changed.
const PAUSE: Duration = Duration::from_secs(3);

/// When the next look is due.
#[derive(Debug)]
pub(super) struct PollSchedule {
    due: Instant,
    last: Option<Instant>,
    /// Whoever is on the other side asked to be left alone until then.
    not_before: Option<Instant>,
}

impl PollSchedule {
    /// A look is due at once.
    pub(super) fn new(now: Instant) -> Self {
        Self { due: now, last: None, not_before: None }
    }

    /// How long until the next look.
    pub(super) fn wait(&self, now: Instant) -> Duration {
        self.due.saturating_duration_since(now)
    }

    /// Something changed. Many words are one look.
    pub(super) fn wish(&mut self, now: Instant) {
        let soon = self.due.min(self.last.map_or(now, |last| last + PAUSE));
        self.due = self.not_before.map_or(soon, |not_before| soon.max(not_before));
    }

    /// A look begins.
    pub(super) fn begin(&mut self, now: Instant) {
        self.last = Some(now);
    }

    /// The look is over; the next one is after this time. `asked`: how long the other side wants to be left alone, whatever is wished for.
    pub(super) fn next(&mut self, now: Instant, wait: Duration, asked: Option<Duration>) {
        self.not_before = asked.map(|asked| now + asked);
        self.due = now + wait.max(asked.unwrap_or_default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wishes_are_heeded_soon_but_not_before_the_other_side_wants_to_be_asked_again() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let seconds = |agenda: &PollSchedule, now: u64| agenda.wait(at(now)).as_secs();
        let mut agenda = PollSchedule::new(start);
        assert_eq!(seconds(&agenda, 0), 0);
        agenda.begin(at(0));
        agenda.next(at(1), Duration::from_mins(1), None);
        assert_eq!(seconds(&agenda, 1), 60);
        agenda.wish(at(2));
        assert_eq!(seconds(&agenda, 2), 1, "three seconds after the last look");
        agenda.begin(at(3));
        agenda.next(at(3), Duration::from_secs(2), Some(Duration::from_mins(10)));
        agenda.wish(at(10));
        assert_eq!(seconds(&agenda, 10), 593, "it was asked for");
        agenda.begin(at(603));
        agenda.next(at(604), Duration::from_mins(1), None);
        agenda.wish(at(610));
        assert_eq!(seconds(&agenda, 610), 0, "that is over");
    }
}
