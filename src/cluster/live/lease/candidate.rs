//! Who leads, and when to write what: pure, with the time as an argument.
//!
//! A lease is over when *we* have not seen it change for its duration (as client-go has it): clocks of other machines decide
//! nothing. A leader that cannot renew stops before that. Each time that somebody takes it the fence grows, also when it is the
//! same one again: what a former self of ours still has on the way must not count. Deliberately absent: requests (`super`).

use std::time::{Duration, Instant};

/// How long everything lasts. The holder's deadline is to be well below the duration; what is between is for writes on their way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// How long others wait for a holder that does not renew.
    pub duration: Duration,
    /// How long a holder that cannot renew leads.
    pub deadline: Duration,
    /// The pause between two steps.
    pub retry: Duration,
}

impl Default for Timing {
    /// As the controllers of Kubernetes itself.
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self { duration: seconds(15), deadline: seconds(10), retry: seconds(2) }
    }
}

impl Timing {
    /// How long one request may take: two of them, and a pause, are within the deadline.
    pub(super) fn request(&self) -> Duration {
        self.deadline.saturating_sub(self.retry) / 2
    }
}

/// What we are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LeaseRole {
    /// We lead.
    Leader {
        /// Greater than that of every leader before. It is the `leaseTransitions` of the Lease.
        fence: i64,
        /// By then we stop, unless we renew.
        until: Instant,
    },
    /// Somebody else leads, or nobody.
    Follower {
        /// Who holds the lease, as it was last seen; none if nobody does.
        holder: Option<String>,
    },
}

/// What a lease says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ObservedLease {
    pub version: String,
    pub holder: String,
    pub transitions: i64,
    pub seconds: u64,
}

/// What to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum LeaseAction {
    /// Nothing: it is somebody else's.
    Wait,
    /// That we are still here.
    Renew,
    /// Our name, and this number of transitions.
    Take(i64),
}

/// A time of leading.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Term {
    fence: i64,
    renewed: Instant,
}

#[derive(Debug, Clone)]
pub(super) struct Candidate {
    identity: String,
    timing: Timing,
    seen: Option<ObservedLease>,
    /// When it was first seen as it is.
    since: Option<Instant>,
    term: Option<Term>,
    /// The greatest fence that was seen anywhere.
    floor: i64,
}

impl Candidate {
    pub(super) fn new(identity: &str, timing: Timing) -> Self {
        Self { identity: identity.to_owned(), timing, seen: None, since: None, term: None, floor: 0 }
    }

    pub(super) fn identity(&self) -> &str {
        &self.identity
    }

    pub(super) fn timing(&self) -> &Timing {
        &self.timing
    }

    pub(super) fn raise(&mut self, fence: i64) {
        self.floor = self.floor.max(fence);
    }

    /// The lease was read. `None`: there is none.
    pub(super) fn observe(&mut self, seen: Option<ObservedLease>, now: Instant) {
        let version = |seen: &Option<ObservedLease>| seen.as_ref().map(|seen| seen.version.clone());
        if self.since.is_none() || version(&self.seen) != version(&seen) {
            self.since = Some(now);
        }
        if let Some(seen) = &seen {
            self.floor = self.floor.max(seen.transitions);
        }
        let ours = |seen: &ObservedLease, term: &Term| seen.holder == self.identity && seen.transitions == term.fence;
        let keeps = matches!((&seen, &self.term), (Some(seen), Some(term)) if ours(seen, term));
        if !keeps {
            self.term = None;
        }
        self.seen = seen;
    }

    /// What is to be written now.
    pub(super) fn decide(&self, now: Instant) -> LeaseAction {
        let next = LeaseAction::Take(self.floor + 1);
        let Some(seen) = &self.seen else { return next };
        if seen.holder.is_empty() {
            return next;
        }
        if seen.holder == self.identity {
            // Ours by name alone is a former self's, or a write of ours whose answer was lost.
            let leads = self.leads(now).is_some_and(|term| term.fence >= self.floor);
            return if leads { LeaseAction::Renew } else { next };
        }
        // What it says counts if it is longer, within reason: a number somebody wrote by hand must not stop us for ever.
        let said = Duration::from_secs(seen.seconds).min(self.timing.duration * 4);
        let over = self.since.is_some_and(|since| now.duration_since(since) >= self.timing.duration.max(said));
        if over { next } else { LeaseAction::Wait }
    }

    /// A write of ours was taken; it had been sent at `sent`.
    pub(super) fn wrote(&mut self, seen: ObservedLease, sent: Instant, now: Instant) {
        self.floor = self.floor.max(seen.transitions);
        self.term = (seen.holder == self.identity).then_some(Term { fence: seen.transitions, renewed: sent });
        self.seen = Some(seen);
        self.since = Some(now);
    }

    pub(super) fn resign(&mut self) {
        self.term = None;
    }

    pub(super) fn role(&self, now: Instant) -> LeaseRole {
        match self.leads(now) {
            Some(term) => LeaseRole::Leader { fence: term.fence, until: term.renewed + self.timing.deadline },
            None => LeaseRole::Follower {
                holder: self.seen.as_ref().map(|seen| seen.holder.clone()).filter(|holder| !holder.is_empty()),
            },
        }
    }

    fn leads(&self, now: Instant) -> Option<&Term> {
        self.term.as_ref().filter(|term| now < term.renewed + self.timing.deadline)
    }
}

#[cfg(test)]
mod tests;
