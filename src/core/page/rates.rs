//! Rates: what was counted at two times, per second between them.
//!
//! Not here: reading counters (`kernel`), and what they mean (`compile::counters`).

use std::collections::BTreeMap;
use std::time::Duration;

use crate::core::compile::counters::{CountedExit, Counters};
use crate::core::policy::PolicyId;
use crate::core::state::nft::RuleCounter;

/// What was counted until a moment.
#[derive(Debug, Clone)]
pub struct Counted {
    /// The counters.
    pub counters: Counters,
    /// Time since some beginning that is the same for all moments: it does not jump, as the time of day may.
    pub at: Duration,
}

/// What passes in a second.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Rate {
    /// Packets.
    pub packets: f64,
    /// Bytes, from the network header on.
    pub bytes: f64,
}

/// What passed between two moments.
#[derive(Debug, Clone, PartialEq)]
pub struct Rates {
    /// The time between them.
    pub over: Duration,
    exits: BTreeMap<CountedExit, Rate>,
    connections: BTreeMap<(PolicyId, String), f64>,
    /// Members' packets that are dropped, all policies together.
    pub dropped: f64,
}

/// Rates over a shorter time are mostly noise.
const SHORTEST: Duration = Duration::from_millis(800);

impl Rates {
    /// What passed between two moments; none if they are too close. A counter that went back was begun anew.
    pub fn between(before: &Counted, after: &Counted) -> Option<Self> {
        let over = after.at.checked_sub(before.at).filter(|over| *over >= SHORTEST)?;
        let per_second = |before: u64, after: u64| as_float(after.saturating_sub(before)) / over.as_secs_f64();
        let rate = |before: RuleCounter, after: RuleCounter| Rate {
            packets: per_second(before.packets, after.packets),
            bytes: per_second(before.bytes, after.bytes),
        };
        let (old, new) = (&before.counters, &after.counters);
        let exits = new.exits.iter().map(|(exit, counter)| {
            let before = old.exits.get(exit).copied().unwrap_or_default();
            (exit.clone(), rate(before, *counter))
        });
        let connections = new.policies.iter().map(|(key, count)| {
            let before = old.policies.get(key).copied().unwrap_or_default();
            (key.clone(), per_second(before, *count))
        });
        let dropped = |counters: &Counters| counters.dropped.values().map(|counter| counter.packets).sum();
        Some(Self {
            over,
            exits: exits.collect(),
            connections: connections.collect(),
            dropped: per_second(dropped(old), dropped(new)),
        })
    }

    /// What leaves by an exit: all of it, if this node is its gateway, else what its own pods send there; and whether it is all of it.
    pub fn of_exit(&self, identity: &str) -> Option<(Rate, bool)> {
        let key = |gateway| CountedExit { identity: identity.to_owned(), gateway };
        let all = self.exits.get(&key(true)).map(|rate| (*rate, true));
        all.or_else(|| self.exits.get(&key(false)).map(|rate| (*rate, false)))
    }

    /// How many connections of a policy begin on this node.
    pub fn connections(&self, policy: &PolicyId) -> Option<f64> {
        let of_it: Vec<f64> =
            self.connections.iter().filter(|((one, _), _)| one == policy).map(|(_, rate)| *rate).collect();
        (!of_it.is_empty()).then(|| of_it.iter().sum())
    }
}

/// Exact up to 2^53, far beyond what a second can count.
#[expect(clippy::cast_precision_loss, reason = "a rate is shown with two digits")]
fn as_float(count: u64) -> f64 {
    count as f64
}
