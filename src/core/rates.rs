//! Rates: what was counted at two times, per second between them, and the form in which agents report them.
//!
//! Not here: reading counters (`kernel`), what they mean (`compile::counters`), and the Lease that they are reported with (`cluster::live`).

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::core::compile::counters::{CountedExit, Counters};
use crate::core::name::NodeName;
use crate::core::policy::PolicyId;
use crate::core::policy::published::kind_name;
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

/// What passes in a second, as one kernel counts it, or as agents report.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Rates {
    /// The time that was counted over.
    pub over: Duration,
    exits: BTreeMap<CountedExit, Rate>,
    connections: BTreeMap<PolicyId, f64>,
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
        // What was not counted before may have counted for long, by rules that are older than this process.
        let exits =
            new.exits.iter().filter_map(|(exit, counter)| Some((exit.clone(), rate(*old.exits.get(exit)?, *counter))));
        let mut connections = BTreeMap::new();
        for (key, count) in &new.policies {
            if let Some(before) = old.policies.get(key) {
                *connections.entry(key.0.clone()).or_default() += per_second(*before, *count);
            }
        }
        // A reason that is new has dropped nothing before. One that went takes nothing from the others.
        let of_reason = |(reason, counter): (_, &RuleCounter)| {
            let before = old.dropped.get(reason).map_or(0, |counter| counter.packets);
            per_second(before, counter.packets)
        };
        let dropped = new.dropped.iter().map(of_reason).sum();
        Some(Self { over, exits: exits.collect(), connections, dropped })
    }

    /// What the agents of all nodes report: of each exit what its gateway counts, of each policy the sum of its sources.
    pub fn reported<'a>(
        nodes: impl Iterator<Item = &'a ReportedRates>,
        policies: impl Iterator<Item = &'a PolicyId>,
    ) -> Option<Self> {
        let known: BTreeMap<String, &PolicyId> = policies.map(|id| (policy_key(id), id)).collect();
        let mut all: Option<Self> = None;
        for ReportedRates { seconds, dropped, exits, connections } in nodes {
            let all = all.get_or_insert_default();
            all.over = all.over.max(Duration::try_from_secs_f64(*seconds).unwrap_or_default());
            all.dropped += dropped;
            for (identity, [packets, bytes]) in exits {
                let exit = CountedExit { identity: identity.clone(), gateway: true };
                all.exits.insert(exit, Rate { packets: *packets, bytes: *bytes });
            }
            for (name, rate) in connections {
                if let Some(id) = known.get(name) {
                    *all.connections.entry((*id).clone()).or_default() += rate;
                }
            }
        }
        all
    }

    /// What leaves by an exit: all of it, if its gateway counted, else what one node's own pods send there; and whether it is all of it.
    pub fn of_exit(&self, identity: &str) -> Option<(Rate, bool)> {
        let key = |gateway| CountedExit { identity: identity.to_owned(), gateway };
        let all = self.exits.get(&key(true)).map(|rate| (*rate, true));
        all.or_else(|| self.exits.get(&key(false)).map(|rate| (*rate, false)))
    }

    /// How many connections of a policy begin.
    pub fn connections(&self, policy: &PolicyId) -> Option<f64> {
        self.connections.get(policy).copied()
    }
}

/// The most exits and policies that an agent reports: the busiest.
const REPORTED: usize = 32;

/// What a node's agent reports of its rates with each heartbeat, for whoever reads no kernel: `egret status`, and the controller's page. A node
/// is believed for nothing but its own exits and pods.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ReportedRates {
    /// The time that was counted over.
    seconds: f64,
    /// Members' packets that are dropped there, in a second.
    dropped: f64,
    /// Packets and bytes in a second by the node's own exits.
    exits: BTreeMap<String, [f64; 2]>,
    /// Connections that its pods begin in a second, by policy.
    connections: BTreeMap<String, f64>,
}

impl ReportedRates {
    /// What a node reports of its own.
    pub fn of(rates: &Rates) -> Self {
        let own = rates.exits.iter().filter(|(exit, _)| exit.gateway);
        let exits = own.map(|(exit, rate)| (exit.identity.clone(), [rounded(rate.packets), rounded(rate.bytes)]));
        let connections = rates.connections.iter().map(|(policy, rate)| (policy_key(policy), rounded(*rate)));
        Self {
            seconds: rounded(rates.over.as_secs_f64()),
            dropped: rounded(rates.dropped),
            exits: busiest(exits.collect(), |[packets, _]| *packets),
            connections: busiest(connections.filter(|(_, rate)| *rate > 0.0).collect(), |rate| *rate),
        }
    }

    /// Members' packets that are dropped there in a minute.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a cast ends at the bounds of the type"
    )]
    pub fn dropped_per_minute(&self) -> u64 {
        (self.dropped * 60.0).round() as u64
    }

    /// What a node is believed: rates of its own exits; nothing, if it reports nonsense.
    pub fn of_node(mut self, node: &NodeName) -> Option<Self> {
        let sane = |rate: f64| rate.is_finite() && rate >= 0.0;
        let own = |identity: &str| identity.strip_prefix(node.as_str()).is_some_and(|rest| rest.starts_with(' '));
        self.exits.retain(|identity, rates| own(identity) && rates.iter().all(|rate| sane(*rate)));
        self.connections.retain(|_, rate| sane(*rate));
        (sane(self.seconds) && sane(self.dropped)).then_some(self)
    }
}

fn policy_key(policy: &PolicyId) -> String {
    format!("{}/{}", kind_name(policy.kind), policy.name)
}

fn rounded(rate: f64) -> f64 {
    (rate * 100.0).round() / 100.0
}

fn busiest<T>(mut all: Vec<(String, T)>, load: impl Fn(&T) -> f64) -> BTreeMap<String, T> {
    all.sort_by(|(_, one), (_, other)| load(other).total_cmp(&load(one)));
    all.truncate(REPORTED);
    all.into_iter().collect()
}

/// Exact up to 2^53, far beyond what a second can count.
#[expect(clippy::cast_precision_loss, reason = "a rate is shown with two digits")]
fn as_float(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::name::ObjectName;
    use crate::core::policy::PolicyKind;

    fn id(name: &str) -> PolicyId {
        PolicyId { name: ObjectName::parse(name).expect("a name"), kind: PolicyKind::Egret }
    }

    fn counted(seconds: u64, packets: u64, connections: u64) -> Counted {
        let exit = |identity: &str, gateway| CountedExit { identity: identity.to_owned(), gateway };
        let counter = RuleCounter { packets, bytes: packets * 100 };
        let counters = Counters {
            exits: [(exit("g1 dev net1", true), counter), (exit("g2 dev net1", false), counter)].into(),
            policies: [((id("outpost"), "g1 dev net1".to_owned()), connections)].into(),
            dropped: [(("outpost".to_owned(), "NoGateway"), RuleCounter { packets: packets / 2, bytes: 0 })].into(),
            ..Counters::default()
        };
        Counted { counters, at: Duration::from_secs(seconds) }
    }

    #[test]
    fn rates_are_what_was_counted_in_between_per_second() {
        let rates = Rates::between(&counted(10, 100, 5), &counted(14, 140, 6)).expect("rates");
        assert_eq!(rates.of_exit("g1 dev net1"), Some((Rate { packets: 10.0, bytes: 1000.0 }, true)));
        assert_eq!((rates.of_exit("g3"), rates.connections(&id("outpost"))), (None, Some(0.25)));
        assert!((rates.dropped - 5.0).abs() < 1e-9 && rates.connections(&id("other")).is_none());
        assert_eq!(Rates::between(&counted(10, 100, 5), &counted(10, 140, 6)), None, "too close");
        let anew = Rates::between(&counted(10, 100, 5), &counted(14, 40, 0)).expect("rates");
        assert_eq!(anew.of_exit("g1 dev net1"), Some((Rate::default(), true)), "counted anew");
        let nothing = Counted { counters: Counters::default(), at: Duration::from_secs(10) };
        let first = Rates::between(&nothing, &counted(14, 1_000_000, 9)).expect("rates");
        assert_eq!(
            (first.of_exit("g1 dev net1"), first.connections(&id("outpost"))),
            (None, None),
            "older than the process"
        );
        let mut more = counted(14, 140, 6);
        let of_another = RuleCounter { packets: 1_000_000, bytes: 0 };
        let mut before = counted(10, 100, 5);
        before.counters.dropped.insert(("deleted".to_owned(), "NoGateway"), of_another);
        more.counters.dropped.insert(("other".to_owned(), "EgressIPMissing"), RuleCounter { packets: 4, bytes: 0 });
        let rates = Rates::between(&before, &more).expect("rates");
        assert!((rates.dropped - 6.0).abs() < 1e-9, "{}", rates.dropped);
    }

    #[test]
    fn what_agents_report_is_the_sum_of_sources_and_each_gateways_own() {
        let [g1, g2] = ["g1", "g2"].map(|name| NodeName::parse(name).expect("a name"));
        let reported = ReportedRates::of(&Rates::between(&counted(10, 100, 5), &counted(30, 140, 6)).expect("rates"));
        let expected = ReportedRates {
            seconds: 20.0,
            dropped: 1.0,
            exits: [("g1 dev net1".to_owned(), [2.0, 200.0])].into(),
            connections: [("EgressPolicy/outpost".to_owned(), 0.05)].into(),
        };
        assert_eq!((reported.dropped_per_minute(), &reported), (60, &expected));
        let of_another = reported.clone().of_node(&g2).expect("sane");
        let reported = reported.of_node(&g1).expect("sane");
        let all = Rates::reported([&reported, &of_another].into_iter(), [&id("outpost")].into_iter()).expect("rates");
        assert_eq!(all.of_exit("g1 dev net1"), Some((Rate { packets: 2.0, bytes: 200.0 }, true)));
        assert_eq!((all.connections(&id("outpost")), all.dropped, all.over.as_secs()), (Some(0.1), 2.0, 20));
        assert_eq!(of_another.exits.len(), 0, "another node's exit is not its own to report");
        assert_eq!(Rates::reported(std::iter::empty(), std::iter::empty()), None);
    }

    #[test]
    fn the_busiest_exits_and_policies_are_reported() {
        let reported = ReportedRates::of(&fixture::busy("g1", 1000));
        assert_eq!((reported.exits.len(), reported.connections.len()), (REPORTED, REPORTED));
        assert!(reported.exits.keys().any(|identity| identity.starts_with("g1 999 ")));
    }
}

#[cfg(test)]
pub(crate) mod fixture {
    use super::*;
    use crate::core::name::ObjectName;
    use crate::core::policy::PolicyKind;

    /// What a node reports that does nothing but drop.
    pub(crate) fn dropping(packets: f64) -> ReportedRates {
        ReportedRates { dropped: packets, ..ReportedRates::default() }
    }

    /// So many exits and policies with the longest names.
    pub(crate) fn busy(node: &str, count: u32) -> Rates {
        let exits = (0..count).map(|number| {
            let identity = format!("{node} {number} {}", "x".repeat(110));
            (CountedExit { identity, gateway: true }, Rate { packets: f64::from(number), bytes: 1e12 })
        });
        let connections = (0..count).map(|number| {
            let name = ObjectName::parse(&format!("p{number}-{}", "x".repeat(240))).expect("a name");
            (PolicyId { name, kind: PolicyKind::Egret }, f64::from(number))
        });
        Rates { exits: exits.collect(), connections: connections.collect(), ..Rates::default() }
    }
}
