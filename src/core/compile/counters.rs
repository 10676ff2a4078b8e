//! What the kernel has counted in our rules, in words: what was held back and why, what left by which exit, for which policy.
//!
//! Counters start at zero when their rule is made anew; [`Totals`] goes on from what it has seen. Deliberately absent: reading
//! them (`kernel::nft`) and telling them (`serve`).

use std::collections::{BTreeMap, BTreeSet};
use std::ops::AddAssign;

use super::table::{ARRIVE, ARRIVED, CLASSIFY, GROUP, INTO_TUNNEL, LEAVING, PEERS, RAW, WARD};
use super::{Compiled, ExitRole, exit_ids};
use crate::core::policy::PolicyId;
use crate::core::state::nft::{CounterPlace, Field, NftRule, RuleCounter, RuleCounters, Statement, TableFamily};

/// Why a packet was not taken from the tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TunnelDrop {
    /// Its outer sender is no node of the cluster, or a pod wrote it.
    Node,
    /// The address inside does not stand for the node that sent it, nor is it a reply to this node.
    Source,
    /// Its frame is addressed to no exit that this node serves: or not yet, or no more.
    Exit,
    /// No policy of its exit names where it goes.
    Destination,
    /// It is for the host itself.
    Host,
}

/// One exit as one node counts it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CountedExit {
    /// `kind-worker2 dev net1`
    pub identity: String,
    /// This node is its gateway, and counts everybody's packets; else a source, and counts those of its own pods. A packet
    /// through the tunnel is counted once at each end.
    pub gateway: bool,
}

/// What was counted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counters {
    /// Dropped because they would have left with a wrong address.
    pub leak_guard: RuleCounter,
    /// Held back because nobody had classified their pod yet, or a map was just being filled.
    pub start_guard: RuleCounter,
    /// Not taken from the tunnel.
    pub tunnel: BTreeMap<TunnelDrop, RuleCounter>,
    /// Packets of members by exit: there, not back. What the kernel had put together to one packet (GRO) is one.
    pub exits: BTreeMap<CountedExit, RuleCounter>,
    /// Connections of this node's pods that took a policy's way. A first packet that was dropped on its way and is sent again
    /// is one again. By policy and the identity of the exit it led to.
    pub policies: BTreeMap<(PolicyId, String), u64>,
}

/// What a counter counts.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Counted {
    LeakGuard,
    StartGuard,
    Tunnel(TunnelDrop),
    Exit(CountedExit),
    Policy((PolicyId, String)),
}

/// Which counter counts what, in the tables that are in force.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CounterIndex(BTreeMap<CounterPlace, Counted>);

impl CounterIndex {
    /// Of what was compiled.
    pub fn of(compiled: &Compiled) -> Self {
        let mut legend = BTreeMap::new();
        for (family, table) in &compiled.desired.nft {
            for (name, chain) in &table.chains {
                let counting = chain.rules.iter().enumerate().filter(|(_, rule)| rule.0.contains(&Statement::Counter));
                for (index, rule) in counting {
                    if let Some(counted) = counted(compiled, *family, name, rule) {
                        legend.insert((*family, name.clone(), index), counted);
                    }
                }
            }
        }
        Self(legend)
    }
}

fn counted(compiled: &Compiled, family: TableFamily, chain: &str, rule: &NftRule) -> Option<Counted> {
    if family == TableFamily::Netdev {
        return (chain == ARRIVE).then_some(Counted::Tunnel(TunnelDrop::Source));
    }
    if let Some(of) = compiled.policy_chains.get(chain) {
        return Some(Counted::Policy((of.policy.clone(), of.exit.identity())));
    }
    if let Some(id) = chain.strip_prefix(exit_ids::EXIT_CHAIN).and_then(|id| id.parse::<u32>().ok()) {
        let (key, exit) = compiled.exits.iter().find(|(_, exit)| exit.id == id)?;
        let gateway = matches!(exit.role, ExitRole::Own { .. });
        return Some(Counted::Exit(CountedExit { identity: key.identity(), gateway }));
    }
    match chain {
        LEAVING | INTO_TUNNEL => Some(Counted::LeakGuard),
        PEERS
            if rule.0.iter().any(|statement| matches!(statement, Statement::Compare { field: Field::Iifname, .. })) =>
        {
            Some(Counted::Tunnel(TunnelDrop::Host))
        }
        PEERS | RAW | WARD => Some(Counted::Tunnel(TunnelDrop::Node)),
        ARRIVE => Some(Counted::Tunnel(TunnelDrop::Exit)),
        _ if chain.starts_with(ARRIVED) => Some(Counted::Tunnel(TunnelDrop::Destination)),
        _ if chain.starts_with(CLASSIFY) || chain.starts_with(GROUP) => Some(Counted::StartGuard),
        _ => None,
    }
}

/// Sums that go on where a rule was made anew and counts from zero. What such a rule counted after the last look is lost.
#[derive(Debug, Clone, Default)]
pub struct Totals {
    seen: BTreeMap<CounterPlace, (Counted, RuleCounter)>,
    sums: Counters,
}

impl Totals {
    /// Takes a look at the counters in. Exits and policies that the legend does not know any more are forgotten.
    pub fn add(&mut self, legend: &CounterIndex, look: &RuleCounters) -> &Counters {
        self.forget_but(legend);
        let mut seen = BTreeMap::new();
        for (place, counted) in &legend.0 {
            let now = look.get(place).copied().unwrap_or_default();
            let before = match self.seen.get(place) {
                Some((same, before)) if same == counted => *before,
                _ => RuleCounter::default(),
            };
            self.sums.add(counted, since(before, now));
            seen.insert(place.clone(), (counted.clone(), now));
        }
        self.seen = seen;
        &self.sums
    }

    fn forget_but(&mut self, legend: &CounterIndex) {
        let (mut exits, mut policies) = (BTreeSet::new(), BTreeSet::new());
        for counted in legend.0.values() {
            match counted {
                Counted::Exit(exit) => {
                    exits.insert(exit);
                }
                Counted::Policy(policy) => {
                    policies.insert(policy);
                }
                Counted::LeakGuard | Counted::StartGuard | Counted::Tunnel(_) => {}
            }
        }
        self.sums.exits.retain(|exit, _| exits.contains(exit));
        self.sums.policies.retain(|policy, _| policies.contains(policy));
    }
}

/// A counter only goes down by starting anew.
fn since(before: RuleCounter, now: RuleCounter) -> RuleCounter {
    match (now.packets.checked_sub(before.packets), now.bytes.checked_sub(before.bytes)) {
        (Some(packets), Some(bytes)) => RuleCounter { packets, bytes },
        _ => now,
    }
}

impl Counters {
    fn add(&mut self, counted: &Counted, more: RuleCounter) {
        match counted {
            Counted::LeakGuard => self.leak_guard += more,
            Counted::StartGuard => self.start_guard += more,
            Counted::Tunnel(why) => *self.tunnel.entry(*why).or_default() += more,
            Counted::Exit(exit) => *self.exits.entry(exit.clone()).or_default() += more,
            Counted::Policy(policy) => *self.policies.entry(policy.clone()).or_default() += more.packets,
        }
    }
}

impl AddAssign for RuleCounter {
    fn add_assign(&mut self, more: Self) {
        self.packets += more.packets;
        self.bytes += more.bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::compile::{NodeExit, PolicyChain};
    use crate::core::name::{NodeName, ObjectName};
    use crate::core::placement::ExitKey;
    use crate::core::policy::{Egress, PolicyKind};
    use crate::core::state::nft::{Chain, Table, Verdict};

    fn drops() -> NftRule {
        NftRule(vec![Statement::Counter, Statement::Verdict(Verdict::Drop)])
    }

    fn exit(node: &str) -> ExitKey {
        ExitKey { gateway: NodeName::parse(node).unwrap(), egress: Egress::DefaultRoute, next_hops: Vec::new() }
    }

    fn outpost() -> PolicyId {
        PolicyId { name: ObjectName::parse("outpost").unwrap(), kind: PolicyKind::Egret }
    }

    /// A node with these chains, of which `exit_1` is that of a gateway's exit, and `policy_a` that of a policy through it.
    fn compiled(chains: &[(&str, Vec<NftRule>)], gateway: &str) -> Compiled {
        let chains =
            chains.iter().map(|(name, rules)| ((*name).to_owned(), Chain { rules: rules.clone(), ..Chain::default() }));
        let table = Table { chains: chains.collect(), ..Table::default() };
        let arrive = Table {
            chains: BTreeMap::from([("arrive".to_owned(), Chain { rules: vec![drops()], ..Chain::default() })]),
            ..Table::default()
        };
        let mut compiled = Compiled::default();
        compiled.desired.nft = BTreeMap::from([(TableFamily::Inet, table), (TableFamily::Netdev, arrive)]);
        let role = ExitRole::Remote { mac: exit(gateway).mac(), outer: None };
        let of = NodeExit { id: 1, role, refused: false, policies: BTreeSet::new(), members: BTreeMap::new() };
        compiled.exits.insert(exit(gateway), of);
        compiled.policy_chains.insert("policy_a".to_owned(), PolicyChain { policy: outpost(), exit: exit(gateway) });
        compiled
    }

    fn look(counts: &[(TableFamily, &str, usize, u64)]) -> RuleCounters {
        let counter = |packets| RuleCounter { packets, bytes: packets * 100 };
        counts
            .iter()
            .map(|(family, chain, index, packets)| ((*family, (*chain).to_owned(), *index), counter(*packets)))
            .collect()
    }

    #[test]
    fn each_counter_is_of_what_its_chain_is_for() {
        let tunnel = crate::core::state::nft::MatchValue::Interface("egret0".to_owned());
        let for_the_host = Statement::Compare { field: Field::Iifname, mask: None, negated: false, value: tunnel };
        let accepts = NftRule(vec![Statement::Verdict(Verdict::Accept)]);
        let for_the_host = NftRule([vec![for_the_host], drops().0].concat());
        let chains = [
            ("arrive", vec![accepts.clone(), drops()]),
            ("arrived_1", vec![accepts.clone(), drops()]),
            ("classify4", vec![accepts.clone(), drops()]),
            ("exit_1", vec![accepts.clone(), drops()]),
            ("foreign", vec![drops()]),
            ("group_b", vec![drops()]),
            ("into_tunnel", vec![drops()]),
            ("leaving", vec![drops()]),
            ("peers", vec![for_the_host, drops()]),
            ("policy_a", vec![drops(), accepts]),
        ];
        let legend = CounterIndex::of(&compiled(&chains, "n2"));
        let inet = TableFamily::Inet;
        let counted = look(&[
            (inet, "arrived_1", 1, 1),
            (inet, "arrive", 1, 2),
            (TableFamily::Netdev, "arrive", 0, 4),
            (inet, "classify4", 1, 8),
            (inet, "exit_1", 1, 16),
            (inet, "foreign", 0, 32),
            (inet, "group_b", 0, 64),
            (inet, "into_tunnel", 0, 128),
            (inet, "leaving", 0, 256),
            (inet, "peers", 0, 2048),
            (inet, "peers", 1, 512),
            (inet, "policy_a", 0, 1024),
        ]);
        let of = |packets| RuleCounter { packets, bytes: packets * 100 };
        let expected = Counters {
            leak_guard: of(128 + 256),
            start_guard: of(8 + 64),
            tunnel: BTreeMap::from([
                (TunnelDrop::Node, of(512)),
                (TunnelDrop::Source, of(4)),
                (TunnelDrop::Exit, of(2)),
                (TunnelDrop::Destination, of(1)),
                (TunnelDrop::Host, of(2048)),
            ]),
            exits: BTreeMap::from([(CountedExit { identity: "n2 default".to_owned(), gateway: false }, of(16))]),
            policies: BTreeMap::from([((outpost(), "n2 default".to_owned()), 1024)]),
        };
        assert_eq!(*Totals::default().add(&legend, &counted), expected);
    }

    #[test]
    fn a_rule_made_anew_goes_on_counting_and_an_exit_that_is_another_one_does_not() {
        let chains = [("exit_1", vec![drops()])];
        let (first, second) = (CounterIndex::of(&compiled(&chains, "n2")), CounterIndex::of(&compiled(&chains, "n3")));
        let mut totals = Totals::default();
        let packets = |totals: &mut Totals, legend: &CounterIndex, now: u64| -> Vec<(String, u64)> {
            let counters = totals.add(legend, &look(&[(TableFamily::Inet, "exit_1", 0, now)]));
            counters.exits.iter().map(|(exit, counter)| (exit.identity.clone(), counter.packets)).collect()
        };
        assert_eq!(packets(&mut totals, &first, 10), [("n2 default".to_owned(), 10)]);
        assert_eq!(packets(&mut totals, &first, 15), [("n2 default".to_owned(), 15)]);
        assert_eq!(packets(&mut totals, &first, 3), [("n2 default".to_owned(), 18)]);
        assert_eq!(packets(&mut totals, &second, 4), [("n3 default".to_owned(), 4)]);
        assert_eq!(totals.add(&CounterIndex::default(), &RuleCounters::new()).exits, BTreeMap::new());
    }
}
