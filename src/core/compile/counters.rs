//! Maps the kernel's rule counters to their meaning: packets dropped and why, packets and connections by exit and policy.
//!
//! A rule's counter restarts at zero when the rule is recreated; [`Totals`] keeps the sums. Not here: reading counters
//! (`kernel::nft`) and exporting them (`serve`).

use std::collections::{BTreeMap, BTreeSet};
use std::ops::AddAssign;

use super::table::{ARRIVE, ARRIVED, CLASSIFY, GROUP, INTO_TUNNEL, LEAVING, PEERS, RAW, WARD};
use super::{Compiled, ExitRole, NodeExit, exit_ids};
use crate::core::finding::Finding;
use crate::core::placement::ExitKey;
use crate::core::policy::PolicyId;
use crate::core::state::nft::{
    AddressFamily, CounterPlace, Field, NftRule, RuleCounter, RuleCounters, Statement, TableFamily, Verdict,
};

/// Why a packet from the tunnel was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TunnelDrop {
    /// Its outer source is not a node of the cluster, or a pod sent it.
    Node,
    /// Its inner source does not stand for the node that sent it, and it is not a reply to this node.
    Source,
    /// Its frame is addressed to an exit that this node does not serve (yet, or any more).
    Exit,
    /// No policy of its exit has its destination.
    Destination,
    /// It is addressed to the host itself.
    Host,
}

/// One exit, as counted on one node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CountedExit {
    /// `kind-worker2 dev net1`
    pub identity: String,
    /// Whether this node is its gateway, and counts all members' packets; otherwise it is a source and counts those of
    /// its own pods. A packet through the tunnel is counted once at each end.
    pub gateway: bool,
}

/// Sums of all counters.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counters {
    /// Dropped because they would have left with a wrong source address.
    pub leak_guard: RuleCounter,
    /// Dropped because their pod was not known yet, or a map was just being filled.
    pub start_guard: RuleCounter,
    /// Dropped on arrival from the tunnel.
    pub tunnel: BTreeMap<TunnelDrop, RuleCounter>,
    /// Packets of members by exit, replies not included. A packet that the kernel merged from several (GRO) counts as
    /// one.
    pub exits: BTreeMap<CountedExit, RuleCounter>,
    /// New connections of this node's pods, by policy and the identity of the exit it leads to. A first packet that was
    /// dropped and is retransmitted counts again.
    pub policies: BTreeMap<(PolicyId, String), u64>,
    /// Members' packets that are dropped, by policy and reason. Policies that share an exit which drops are named together.
    pub dropped: BTreeMap<(String, &'static str), RuleCounter>,
}

/// The meaning of one counter.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Counted {
    LeakGuard,
    StartGuard,
    Tunnel(TunnelDrop),
    Exit(CountedExit),
    Policy((PolicyId, String)),
    /// Of policies, for a reason; at an exit, if its chain counts.
    Dropped {
        policies: String,
        reason: &'static str,
        exit: Option<CountedExit>,
    },
}

/// The meaning of each counter in the active tables.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CounterIndex(BTreeMap<CounterPlace, Counted>);

impl CounterIndex {
    /// Whether a rule goes on counting and means something else with another index: what it has counted until then is to be read first.
    pub fn turns_into(&self, next: &Self) -> bool {
        self.0.iter().any(|(place, counted)| {
            let other = next.0.get(place).filter(|other| *other != counted);
            other.and_then(Counted::exit).is_some_and(|exit| counted.exit() == Some(exit))
        })
    }

    /// The counters of a compiled state.
    pub fn of(compiled: &Compiled) -> Self {
        let mut entries = BTreeMap::new();
        for (family, table) in &compiled.desired.nft {
            for (name, chain) in &table.chains {
                let counting = chain.rules.iter().enumerate().filter(|(_, rule)| rule.0.contains(&Statement::Counter));
                for (index, rule) in counting {
                    if let Some(counted) = counted(compiled, *family, name, rule) {
                        entries.insert((*family, name.clone(), index), counted);
                    }
                }
            }
        }
        Self(entries)
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
        let counted = CountedExit { identity: key.identity(), gateway };
        return Some(match compiled.drop_reason(key, exit, &counted_families(exit, rule)) {
            Some(reason) => Counted::Dropped { policies: names(&exit.policies), reason, exit: Some(counted) },
            None => Counted::Exit(counted),
        });
    }
    if let Some(policy) = compiled.drop_chains.get(chain) {
        let lacks_marks = |finding: &Finding| finding.code == "marks-used-up";
        let no_gateway = |finding: &Finding| finding.code == "no-gateway" && finding.subject == policy.name.as_str();
        let marks = compiled.findings.iter().any(lacks_marks) && !compiled.findings.iter().any(no_gateway);
        let reason = if marks { "MarksUsedUp" } else { "NoGateway" };
        return Some(Counted::Dropped { policies: policy.name.to_string(), reason, exit: None });
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
        // Probes are counted there, too.
        _ if chain.starts_with(ARRIVED) && rule.0.last() != Some(&Statement::Verdict(Verdict::Drop)) => None,
        _ if chain.starts_with(ARRIVED) => Some(Counted::Tunnel(TunnelDrop::Destination)),
        _ if chain.starts_with(CLASSIFY) || chain.starts_with(GROUP) => Some(Counted::StartGuard),
        _ => None,
    }
}

/// Sums that continue when a rule is recreated and counts from zero. What the old rule counted after the last read is
/// lost.
#[derive(Debug, Clone, Default)]
pub struct Totals {
    seen: BTreeMap<CounterPlace, (Counted, RuleCounter)>,
    sums: Counters,
}

impl Totals {
    /// Adds the counters just read. Exits and policies that are no longer in the index are removed.
    pub fn add(&mut self, index: &CounterIndex, read: &RuleCounters) -> &Counters {
        self.forget_but(index);
        let mut seen = BTreeMap::new();
        for (place, counted) in &index.0 {
            let now = read.get(place).copied().unwrap_or_default();
            let before = match self.seen.get(place) {
                // An exit's rule goes on counting when the exit begins to drop.
                Some((same, before))
                    if same == counted || same.exit().is_some_and(|exit| counted.exit() == Some(exit)) =>
                {
                    *before
                }
                _ => RuleCounter::default(),
            };
            self.sums.add(counted, since(before, now));
            seen.insert(place.clone(), (counted.clone(), now));
        }
        self.seen = seen;
        &self.sums
    }

    fn forget_but(&mut self, index: &CounterIndex) {
        let (mut exits, mut policies, mut dropped) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        for counted in index.0.values() {
            match counted {
                Counted::Exit(exit) => {
                    exits.insert(exit);
                }
                Counted::Policy(policy) => {
                    policies.insert(policy);
                }
                Counted::Dropped { policies, exit, .. } => {
                    exits.extend(exit);
                    dropped.insert(policies);
                }
                Counted::LeakGuard | Counted::StartGuard | Counted::Tunnel(_) => {}
            }
        }
        self.sums.exits.retain(|exit, _| exits.contains(exit));
        self.sums.policies.retain(|policy, _| policies.contains(policy));
        // What was dropped stays on the page for as long as the policy has members or exits here: an increase would be lost.
        let here: BTreeSet<&str> = policies.iter().map(|(policy, _)| policy.name.as_str()).collect();
        self.sums
            .dropped
            .retain(|(names, _), _| dropped.contains(names) || names.split(',').any(|name| here.contains(name)));
    }
}

/// A counter only decreases by restarting at zero.
fn since(before: RuleCounter, now: RuleCounter) -> RuleCounter {
    match (now.packets.checked_sub(before.packets), now.bytes.checked_sub(before.bytes)) {
        (Some(packets), Some(bytes)) => RuleCounter { packets, bytes },
        _ => now,
    }
}

impl Counted {
    /// The exit whose chain counts.
    fn exit(&self) -> Option<&CountedExit> {
        match self {
            Self::Exit(exit) | Self::Dropped { exit: Some(exit), .. } => Some(exit),
            _ => None,
        }
    }
}

/// The families whose packets a rule of an exit's chain counts (`Builder::exit_chains`).
fn counted_families(exit: &NodeExit, rule: &NftRule) -> Vec<AddressFamily> {
    let of_ipv6 = |statement: &Statement| matches!(statement, Statement::Compare { field: Field::Ip6Saddr, .. });
    match (exit.families.len(), rule.0.iter().any(of_ipv6)) {
        (0, _) => AddressFamily::BOTH.to_vec(),
        (1, _) => exit.families.iter().copied().collect(),
        (_, true) => vec![AddressFamily::V6],
        (_, false) => vec![AddressFamily::V4],
    }
}

/// Names with commas between them.
fn names(policies: &BTreeSet<PolicyId>) -> String {
    policies.iter().map(|policy| policy.name.as_str()).collect::<Vec<_>>().join(",")
}

impl Compiled {
    /// Why all packets of these families are dropped that come to an exit here: there is no way on, and no detour.
    fn drop_reason(&self, key: &ExitKey, exit: &NodeExit, families: &[AddressFamily]) -> Option<&'static str> {
        let is_closed = |family: &AddressFamily| match &exit.role {
            _ if exit.detours.contains_key(family) => false,
            ExitRole::Own { routes, .. } => !routes.contains_key(family),
            ExitRole::Remote { outer, .. } => outer.is_none() || exit.refused,
        };
        if exit.policies.is_empty() || !families.iter().all(is_closed) {
            return None;
        }
        let (identity, text) = (key.identity(), key.to_string());
        let of_exit = |finding: &&Finding| finding.subject == identity || finding.subject == text;
        let reasons = self.findings.iter().filter(of_exit);
        let reasons = reasons.filter_map(|finding| {
            Some((families.iter().any(|family| finding.is_about(*family)), finding.drop_reason()?))
        });
        // Of the other family's finding only if there is none of this one.
        Some(reasons.min_by_key(|(of_family, _)| !of_family).map_or("EgressIPMissing", |(_, reason)| reason))
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
            Counted::Dropped { policies, reason, .. } => {
                *self.dropped.entry((policies.clone(), reason)).or_default() += more;
            }
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
    use crate::core::compile::ExitPurpose;
    use crate::core::compile::{EgressRoute, NodeExit, PolicyChain};
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

    /// A node with these chains; `exit_1` belongs to a gateway's exit, and `policy_a` to a policy that uses it.
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
        let of = NodeExit {
            id: 1,
            role,
            purpose: ExitPurpose::Placed,
            families: BTreeSet::new(),
            standbys: Vec::new(),
            detours: BTreeMap::new(),
            refused: false,
            assigned: false,
            policies: BTreeSet::new(),
            members: BTreeMap::new(),
        };
        compiled.exits.insert(exit(gateway), of);
        compiled.policy_chains.insert("policy_a".to_owned(), PolicyChain { policy: outpost(), exit: exit(gateway) });
        compiled
    }

    fn read(counts: &[(TableFamily, &str, usize, u64)]) -> RuleCounters {
        let counter = |packets| RuleCounter { packets, bytes: packets * 100 };
        counts
            .iter()
            .map(|(family, chain, index, packets)| ((*family, (*chain).to_owned(), *index), counter(*packets)))
            .collect()
    }

    #[test]
    fn each_counter_is_attributed_by_its_chain() {
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
        let index = CounterIndex::of(&compiled(&chains, "n2"));
        let inet = TableFamily::Inet;
        let counted = read(&[
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
            dropped: BTreeMap::new(),
        };
        assert_eq!(*Totals::default().add(&index, &counted), expected);
    }

    #[test]
    fn an_exit_that_has_no_way_out_in_one_family_drops_that_one() {
        let accept = Statement::Verdict(Verdict::Accept);
        let of_ipv6 = Statement::Compare {
            field: Field::Ip6Saddr,
            mask: None,
            negated: true,
            value: crate::core::state::nft::MatchValue::Address(std::net::Ipv6Addr::UNSPECIFIED.into()),
        };
        let rules =
            vec![NftRule(vec![of_ipv6, Statement::Counter, accept.clone()]), NftRule(vec![Statement::Counter, accept])];
        let mut compiled = compiled(&[("exit_1", rules)], "n2");
        let route = |family: AddressFamily| {
            let address = if family == AddressFamily::V4 { "10.0.3.42" } else { "fd00::42" };
            let address = address.parse().unwrap();
            (family, EgressRoute { address, interface: "net1".to_owned(), routes: Vec::new() })
        };
        let mut with = |ways: &[AddressFamily], findings: &[&str]| {
            let of = compiled.exits.get_mut(&exit("n2")).unwrap();
            of.role = ExitRole::Own { mac: exit("n2").mac(), routes: ways.iter().copied().map(route).collect() };
            of.families = AddressFamily::BOTH.into();
            of.policies = [outpost()].into();
            let finding = |message: &&str| Finding::new("egress-address-missing", exit("n2"), *message);
            compiled.findings = findings.iter().map(finding).collect();
            let read = read(&[(TableFamily::Inet, "exit_1", 0, 10), (TableFamily::Inet, "exit_1", 1, 7)]);
            let counters = Totals::default().add(&CounterIndex::of(&compiled), &read).clone();
            let exit = counters.exits.values().map(|counter| counter.packets).sum::<u64>();
            let dropped: Vec<(String, &str, u64)> = counters
                .dropped
                .into_iter()
                .map(|((names, reason), counter)| (names, reason, counter.packets))
                .collect();
            (exit, dropped)
        };
        let (v4, v6) = (AddressFamily::V4, AddressFamily::V6);
        let dropped = |packets| vec![("outpost".to_owned(), "EgressIPMissing", packets)];
        assert_eq!(with(&[v4, v6], &[]), (17, Vec::new()));
        assert_eq!(with(&[v6], &["net1 has no global IPv4 address"]), (10, dropped(7)));
        assert_eq!(with(&[v4], &["net1 has no global IPv6 address"]), (7, dropped(10)));
        assert_eq!(with(&[], &[]), (0, dropped(17)));
    }

    #[test]
    fn sums_continue_for_a_recreated_rule_and_not_for_another_exit() {
        let chains = [("exit_1", vec![drops()])];
        let (first, second) = (CounterIndex::of(&compiled(&chains, "n2")), CounterIndex::of(&compiled(&chains, "n3")));
        let mut totals = Totals::default();
        let packets = |totals: &mut Totals, index: &CounterIndex, now: u64| -> Vec<(String, u64)> {
            let counters = totals.add(index, &read(&[(TableFamily::Inet, "exit_1", 0, now)]));
            counters.exits.iter().map(|(exit, counter)| (exit.identity.clone(), counter.packets)).collect()
        };
        assert_eq!(packets(&mut totals, &first, 10), [("n2 default".to_owned(), 10)]);
        assert_eq!(packets(&mut totals, &first, 15), [("n2 default".to_owned(), 15)]);
        assert_eq!(packets(&mut totals, &first, 3), [("n2 default".to_owned(), 18)]);
        assert_eq!(packets(&mut totals, &second, 4), [("n3 default".to_owned(), 4)]);
        assert_eq!(totals.add(&CounterIndex::default(), &RuleCounters::new()).exits, BTreeMap::new());
    }
}
