//! Which agents are not heard any more: their Lease has not changed for a while, by this process's own clock, and a read of
//! the Leases found them as the watch did.
//!
//! A watch may be late, or its connection may be dead without an error yet. Then no agent seems to renew its Lease, and
//! a silence that is reported stands in the node's status until its agent looks.
//!
//! Not here: what follows for statuses (`core::status`).

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use crate::cluster::live::SILENCE;
use crate::core::heartbeat::Heartbeat;
use crate::core::name::NodeName;

/// After a read that failed the next one is tried.
const READ_AGAIN: Duration = Duration::from_secs(5);

/// When an agent renewed its Lease, by its own clock.
type Renewed = Option<Timestamp>;

/// When each agent was last heard.
#[derive(Debug, Default)]
pub(super) struct HeartbeatMonitor {
    agents: BTreeMap<NodeName, Heard>,
    /// No read before.
    read_from: Option<Instant>,
}

#[derive(Debug)]
struct Heard {
    /// As the watch had it.
    watched: Renewed,
    /// As a read had it that found more than the watch.
    read: Option<Renewed>,
    at: Instant,
    clock: Timestamp,
    /// A read found it unchanged.
    confirmed: bool,
}

impl Heard {
    fn now(watched: Renewed, read: Option<Renewed>, clock: Timestamp) -> Self {
        Self { watched, read, at: Instant::now(), clock, confirmed: false }
    }

    fn seems_silent(&self) -> bool {
        self.at.elapsed() >= SILENCE
    }
}

impl HeartbeatMonitor {
    /// Takes in the Leases as the watch has them. `blind`: they cannot be watched, so that nothing follows from silence.
    pub(super) fn observe(&mut self, leases: &BTreeMap<NodeName, Heartbeat>, blind: bool, clock: Timestamp) {
        self.agents.retain(|name, _| leases.contains_key(name));
        for (name, Heartbeat { renewed, .. }) in leases {
            let heard = self.agents.entry(name.clone()).or_insert_with(|| Heard::now(*renewed, None, clock));
            if blind || heard.watched != *renewed {
                *heard = Heard::now(*renewed, None, clock);
            }
        }
    }

    /// Whether the Leases are to be read now: some agent seems to be silent.
    pub(super) fn wants_read(&self) -> bool {
        self.read_from.is_none_or(|from| from <= Instant::now()) && self.suspects().next().is_some()
    }

    /// Takes in the Leases as they were read; none: they could not be.
    pub(super) fn read(&mut self, leases: Option<&BTreeMap<NodeName, Heartbeat>>, clock: Timestamp) {
        let Some(leases) = leases else {
            self.read_from = Some(Instant::now() + READ_AGAIN);
            return;
        };
        self.read_from = None;
        for (name, heard) in self.agents.iter_mut().filter(|(_, heard)| heard.seems_silent() && !heard.confirmed) {
            match leases.get(name).map(|lease| lease.renewed) {
                Some(renewed) if renewed == heard.read.unwrap_or(heard.watched) => heard.confirmed = true,
                Some(renewed) => *heard = Heard::now(heard.watched, Some(renewed), clock),
                // It was deleted: an agent without a Lease is of an older version, or removed.
                None => *heard = Heard::now(heard.watched, heard.read, clock),
            }
        }
    }

    /// An agent that is silent shows a sign of life elsewhere: the Leases are read again.
    pub(super) fn doubt(&mut self, node: &NodeName) {
        if let Some(heard) = self.agents.get_mut(node) {
            (heard.confirmed, self.read_from) = (false, None);
        }
    }

    /// The agents that are not heard any more, and since when.
    pub(super) fn silent(&self) -> BTreeMap<NodeName, Timestamp> {
        let silent = self.agents.iter().filter(|(_, heard)| heard.seems_silent() && heard.confirmed);
        silent.map(|(name, heard)| (name.clone(), heard.clock)).collect()
    }

    /// When the next one may seem silent, or the next read is due.
    pub(super) fn due(&self) -> Option<Instant> {
        let heard = self.agents.values().filter(|heard| !heard.seems_silent()).map(|heard| heard.at + SILENCE);
        let read = self.suspects().next().map(|_| self.read_from.unwrap_or_else(Instant::now));
        heard.chain(read).min()
    }

    fn suspects(&self) -> impl Iterator<Item = &Heard> {
        self.agents.values().filter(|heard| heard.seems_silent() && !heard.confirmed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_agent_is_silent_once_its_lease_stands_still_for_long_and_this_process_could_see_it() {
        let node = NodeName::parse("kind-worker").expect("a name");
        let second = |second| Timestamp::from_second(second).expect("a time");
        let lease =
            |renewed| BTreeMap::from([(node.clone(), Heartbeat { renewed: Some(second(renewed)), rates: None })]);
        let mut monitor = HeartbeatMonitor::default();
        monitor.observe(&lease(7), false, second(100));
        tokio::time::advance(SILENCE.saturating_sub(Duration::from_secs(1))).await;
        monitor.observe(&lease(7), false, second(141));
        assert!(monitor.silent().is_empty());
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(monitor.wants_read() && monitor.silent().is_empty(), "the watch alone is not believed");
        monitor.read(Some(&lease(7)), second(142));
        assert_eq!(monitor.silent(), BTreeMap::from([(node.clone(), second(100))]));
        assert!(!monitor.wants_read());
        // Its clock may go back: a change is a change.
        monitor.observe(&lease(3), false, second(142));
        assert!(monitor.silent().is_empty());
        tokio::time::advance(SILENCE).await;
        monitor.observe(&lease(3), true, second(184));
        assert!(monitor.silent().is_empty(), "nobody could see it");
        monitor.observe(&BTreeMap::new(), false, second(185));
        tokio::time::advance(SILENCE).await;
        assert!(monitor.silent().is_empty(), "an agent without a Lease is of an older version, or removed");
    }

    #[tokio::test(start_paused = true)]
    async fn an_agent_whose_lease_changes_unseen_by_the_watch_is_not_silent() {
        let node = NodeName::parse("kind-worker").expect("a name");
        let second = |second| Timestamp::from_second(second).expect("a time");
        let lease =
            |renewed| BTreeMap::from([(node.clone(), Heartbeat { renewed: Some(second(renewed)), rates: None })]);
        let mut monitor = HeartbeatMonitor::default();
        monitor.observe(&lease(7), false, second(100));
        tokio::time::advance(SILENCE).await;
        monitor.read(None, second(142));
        assert!(!monitor.wants_read() && monitor.silent().is_empty(), "it could not be read");
        assert_eq!(monitor.due(), Some(Instant::now() + READ_AGAIN));
        tokio::time::advance(READ_AGAIN).await;
        assert!(monitor.wants_read());
        monitor.read(Some(&lease(45)), second(147));
        monitor.observe(&lease(7), false, second(148));
        tokio::time::advance(SILENCE).await;
        assert!(monitor.wants_read() && monitor.silent().is_empty());
        monitor.read(Some(&lease(45)), second(189));
        assert_eq!(monitor.silent(), BTreeMap::from([(node.clone(), second(147))]), "it did not change since");
        monitor.observe(&lease(30), false, second(190));
        assert!(monitor.silent().is_empty(), "the watch goes on");
        tokio::time::advance(SILENCE).await;
        monitor.read(Some(&BTreeMap::new()), second(232));
        assert!(!monitor.wants_read() && monitor.silent().is_empty(), "its Lease is deleted");
    }
}
