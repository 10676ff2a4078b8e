//! Which agents are not heard any more: their Lease has not changed for a while, by this process's own clock.
//!
//! Not here: what follows for statuses (`core::status`).

use std::collections::BTreeMap;

use jiff::Timestamp;
use tokio::time::Instant;

use crate::cluster::live::SILENCE;
use crate::core::name::NodeName;

/// When each agent was last heard.
#[derive(Debug, Default)]
pub(super) struct HeartbeatMonitor {
    agents: BTreeMap<NodeName, Heard>,
}

#[derive(Debug)]
struct Heard {
    renewed: Option<Timestamp>,
    at: Instant,
    clock: Timestamp,
}

impl HeartbeatMonitor {
    /// Takes in the Leases as they are now. `blind`: they cannot be watched, so that nothing follows from silence.
    pub(super) fn observe(&mut self, leases: &BTreeMap<NodeName, Option<Timestamp>>, blind: bool, clock: Timestamp) {
        let now = Instant::now();
        self.agents.retain(|name, _| leases.contains_key(name));
        for (name, renewed) in leases {
            let heard = self.agents.entry(name.clone()).or_insert(Heard { renewed: *renewed, at: now, clock });
            if blind || heard.renewed != *renewed {
                *heard = Heard { renewed: *renewed, at: now, clock };
            }
        }
    }

    /// The agents that are not heard any more, and since when.
    pub(super) fn silent(&self) -> BTreeMap<NodeName, Timestamp> {
        let silent = self.agents.iter().filter(|(_, heard)| heard.at.elapsed() >= SILENCE);
        silent.map(|(name, heard)| (name.clone(), heard.clock)).collect()
    }

    /// When the next one may fall silent.
    pub(super) fn due(&self) -> Option<Instant> {
        let heard = self.agents.values().map(|heard| heard.at + SILENCE);
        heard.filter(|at| *at > Instant::now()).min()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_agent_is_silent_once_its_lease_stands_still_for_long_and_this_process_could_see_it() {
        let node = NodeName::parse("kind-worker").expect("a name");
        let second = |second| Timestamp::from_second(second).expect("a time");
        let lease = |renewed| BTreeMap::from([(node.clone(), Some(second(renewed)))]);
        let mut monitor = HeartbeatMonitor::default();
        monitor.observe(&lease(7), false, second(100));
        tokio::time::advance(SILENCE.saturating_sub(Duration::from_secs(1))).await;
        monitor.observe(&lease(7), false, second(141));
        assert!(monitor.silent().is_empty());
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(monitor.silent(), BTreeMap::from([(node.clone(), second(100))]));
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
}
