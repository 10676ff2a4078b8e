//! Exponential backoff with full jitter: how long to wait after a failure. The caller provides the seed and does the
//! waiting.

use std::time::Duration;

/// Ceiling of the first wait.
pub const SHORTEST: Duration = Duration::from_secs(1);
/// Ceiling of every wait.
pub const LONGEST: Duration = Duration::from_mins(1);

/// Waiting times that double from [`SHORTEST`] to [`LONGEST`], each drawn evenly from zero to that ceiling.
///
/// Full jitter, because a thousand nodes lose the same Git server at the same moment and must not come back together
/// (Marc Brooker, "Exponential Backoff and Jitter", AWS Architecture Blog, 2015).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backoff {
    failures: u32,
    random: u64,
}

impl Backoff {
    /// A backoff with its own sequence of random numbers; the seed must differ between nodes, for example a hash of the
    /// node's name.
    pub fn new(seed: u64) -> Self {
        // xorshift stays at zero for ever, so zero is moved; multiplying spreads seeds that differ in one bit.
        let random = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        Self { failures: 0, random: if random == 0 { 0x9E37_79B9_7F4A_7C15 } else { random } }
    }

    /// After a success: the next failure waits the shortest time again.
    pub fn reset(&mut self) {
        self.failures = 0;
    }

    /// The number of failures since the last success.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// After a failure: how long to wait before the next try. Never longer than [`LONGEST`], and never quite zero.
    pub fn next_wait(&mut self) -> Duration {
        let ceiling = ceiling(self.failures);
        self.failures = self.failures.saturating_add(1);
        self.jitter(ceiling)
    }

    /// A random time between half of `period` and all of it, so that polls of many nodes spread out.
    pub fn spread(&mut self, period: Duration) -> Duration {
        let half = period / 2;
        half + self.jitter(half)
    }

    /// A random time up to this one, so that what many nodes have to do at once spreads out.
    pub fn jitter(&mut self, ceiling: Duration) -> Duration {
        let milliseconds = u64::try_from(ceiling.as_millis()).unwrap_or(u64::MAX).max(1);
        Duration::from_millis(1 + self.next_random() % milliseconds)
    }

    /// Marsaglia's xorshift64 (Journal of Statistical Software 8/14, 2003): enough to spread load, of no use for secrets.
    fn next_random(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }
}

/// The ceiling after this many failures in a row.
fn ceiling(failures: u32) -> Duration {
    1_u32.checked_shl(failures).map_or(LONGEST, |factor| SHORTEST.saturating_mul(factor)).min(LONGEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ceiling_doubles_from_one_second_to_one_minute_and_stays() {
        let seconds: Vec<u64> = (0..9).map(|failures| ceiling(failures).as_secs()).collect();
        assert_eq!(seconds, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        assert_eq!(ceiling(u32::MAX), LONGEST);
    }

    #[test]
    fn every_wait_is_below_its_ceiling_and_they_differ_between_seeds() {
        for seed in 0..1_000 {
            let mut backoff = Backoff::new(seed);
            for failures in 0..12 {
                let wait = backoff.next_wait();
                assert!(
                    Duration::ZERO < wait && wait <= ceiling(failures),
                    "seed {seed}, failure {failures}: {wait:?}"
                );
            }
            assert_eq!(backoff.failures(), 12);
        }
        let first_waits: std::collections::BTreeSet<_> =
            (0..1_000).map(|seed| Backoff::new(seed).next_wait()).collect();
        assert!(first_waits.len() > 500, "{} different first waits of 1000", first_waits.len());
    }

    #[test]
    fn a_success_starts_from_the_shortest_time_again() {
        let mut backoff = Backoff::new(7);
        for _ in 0..10 {
            backoff.next_wait();
        }
        backoff.reset();
        assert!(backoff.next_wait() <= SHORTEST);
    }

    #[test]
    fn polls_are_spread_over_the_second_half_of_their_period() {
        let mut backoff = Backoff::new(3);
        for _ in 0..1_000 {
            let wait = backoff.spread(Duration::from_secs(10));
            assert!((Duration::from_secs(5)..=Duration::from_secs(10)).contains(&wait), "{wait:?}");
        }
    }
}
