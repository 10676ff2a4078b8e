//! The decisions of leader election: who leads, and when to write what. Pure, with the time as an argument.
//!
//! A lease has expired when *we* have not seen it change for its duration (as in client-go): clocks of other machines
//! decide nothing. A leader that cannot renew stops before that. The fencing token grows each time that a candidate
//! takes the lease, also if it held the lease before: requests of its earlier term that still arrive must be refused.
//! Not here: requests (see `super`).

use std::time::Duration;

use tokio::time::Instant;

/// Durations of leader election. The deadline should be well below the duration; the difference is for writes that
/// are still being sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// How long other candidates wait for a holder that does not renew.
    pub duration: Duration,
    /// How long a holder that cannot renew leads.
    pub deadline: Duration,
    /// The pause between two steps.
    pub retry: Duration,
}

impl Default for Timing {
    /// The values of Kubernetes' own controllers.
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self { duration: seconds(15), deadline: seconds(10), retry: seconds(2) }
    }
}

impl Timing {
    /// How long one request may take: two of them and a pause fit into the deadline.
    pub(super) fn request(&self) -> Duration {
        self.deadline.saturating_sub(self.retry) / 2
    }
}

/// The role of a candidate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LeaseRole {
    /// It leads.
    Leader {
        /// The fencing token, greater than that of every leader before. It is the `leaseTransitions` of the Lease.
        fence: i64,
        /// The leader stops at this time unless it renews.
        until: Instant,
    },
    /// Another candidate leads, or none.
    Follower {
        /// The holder of the lease when it was last seen; none if there is none.
        holder: Option<String>,
    },
}

/// The content of a lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ObservedLease {
    pub version: String,
    pub holder: String,
    pub transitions: i64,
    pub seconds: u64,
}

/// The next write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum LeaseAction {
    /// Nothing: another candidate holds the lease.
    Wait,
    /// A renewal.
    Renew,
    /// Our name, with this number of transitions.
    Take(i64),
}

/// A term of leadership.
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
    /// When it was first seen in this state.
    since: Option<Instant>,
    term: Option<Term>,
    /// The greatest fencing token seen anywhere.
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

    /// Records a lease that was read. `None`: there is none.
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

    /// Decides what to write now.
    pub(super) fn decide(&self, now: Instant) -> LeaseAction {
        let next = LeaseAction::Take(self.floor + 1);
        let Some(seen) = &self.seen else { return next };
        if seen.holder.is_empty() {
            return next;
        }
        if seen.holder == self.identity {
            // A lease with only our name on it is an earlier term's, or a write of ours whose answer was lost.
            let leads = self.leads(now).is_some_and(|term| term.fence >= self.floor);
            return if leads { LeaseAction::Renew } else { next };
        }
        // A longer duration in the lease counts, within a limit: a value that a user edited must not block us for
        // ever.
        let stated = Duration::from_secs(seen.seconds).min(self.timing.duration * 4);
        let over = self.since.is_some_and(|since| now.duration_since(since) >= self.timing.duration.max(stated));
        if over { next } else { LeaseAction::Wait }
    }

    /// Records a write that succeeded; it was sent at `sent`.
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
