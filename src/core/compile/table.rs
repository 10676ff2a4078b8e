//! Computes the nftables tables: which packets get a mark, with which address they leave, and what is dropped.
//!
//! Chains follow from the exits and groups; when pods change, only set elements change. docs/datapath.md has a diagram of
//! a packet's path through them. Not here: netlink encoding (`kernel::nft`), and routing (`routing`).

mod guard;
mod probes;
mod statements;
mod steer;
mod underlay;

use std::collections::BTreeMap;

pub(crate) use self::probes::{PROBE_IDLE, PROBE_IN_USE};
use self::statements::{accept, address_key, any_ipv6, daddr, drop, goto, ranges, whole};
use super::exit_ids::EXIT_CHAIN;
use super::groups::{Disposition, Grouping};
use super::tunnel::TunnelEndpoint;
use super::{ClusterNetworks, CompileInput, ExitRole, NodeExit, PolicyChain, RouteTarget, routing};
use crate::core::assignment::record;
use crate::core::cidr::{AddressRange as Addresses, RangeSet};
use crate::core::placement::ExitKey;
use crate::core::policy::PolicyId;
use crate::core::state::NodeState;
use crate::core::state::net::{InterfaceAddress, fnv1a};
use crate::core::state::nft::{
    AddressFamily, BaseChain, COMMENT_LIMIT, Chain, ChainKind, ChainPolicy, DataType, ElementData, ElementKey, Field,
    Hook, KeyType, MatchValue, NftRule, Set, Statement, Table, TableFamily, Verdict,
};
use crate::core::state::ownership::DatapathConfig;

/// The map with the original `rp_filter` of the interfaces that were loosened.
pub const RP_FILTER_BEFORE: &str = "rp_filter_before";

/// The set of exits' marks: a packet with one leaves with its exit's address or not at all.
pub const EXITS: &str = "exits";
/// Which address the packets of an own exit leave with, by mark: the name of the set, without its family.
pub const LEAVES: &str = "leaves";

/// The chain that drops what would leave with a wrong address, and the chains it leads to.
pub(crate) const GUARD: &str = "guard";
/// For packets that leave this node other than by the tunnel.
pub(crate) const LEAVING: &str = "leaving";
/// For packets that leave by the tunnel.
pub(crate) const INTO_TUNNEL: &str = "into_tunnel";
/// The chains for packets from the tunnel, one in each family.
pub(crate) const ARRIVE: &str = "arrive";
/// Prefix of the chain for packets that arrive for one exit; the exit's id follows.
pub(crate) const ARRIVED: &str = "arrived_";
/// The chain with the nodes from which tunnel packets are accepted.
pub(crate) const PEERS: &str = "peers";
/// The chains that keep all senders but nodes away from the tunnel's port: before connection tracking, and in forwarding.
pub(crate) const RAW: &str = "raw";
/// See [`RAW`].
pub(crate) const WARD: &str = "ward";
/// Prefix of the chain that looks up the group of a pod; the family's digit follows.
pub(crate) const CLASSIFY: &str = "classify";
/// Prefix of a group's chain; its name follows.
pub(crate) const GROUP: &str = "group_";
/// Prefix of the chain that counts a policy's connections through one exit; a hash of both follows.
const POLICY: &str = "policy_";
/// Prefix of the chain that counts what is dropped of a policy; a hash of it follows.
pub(crate) const DROP: &str = "drop_";

/// Priority behind all other programs of a hook, so that rules see the final destination and marks: behind destination
/// NAT (-100 in prerouting), and behind CNIs that write marks.
const LAST: i32 = 1000;

/// Adds both tables. Returns the chains that count for a policy, by name: connections through an exit, and what is dropped.
pub(super) fn add(
    desired: &mut NodeState,
    input: &CompileInput<'_>,
    grouping: &Grouping,
    networks: &ClusterNetworks,
    families: &[AddressFamily],
    exits: &BTreeMap<ExitKey, NodeExit>,
) -> (BTreeMap<String, PolicyChain>, BTreeMap<String, PolicyId>) {
    let owned = input.host_network.features.owned_tables;
    let tunnel = networks.own.as_ref().filter(|_| routing::needs_tunnel(exits, networks));
    let mut builder = Builder {
        table: Table { owned, ..Table::default() },
        policies: BTreeMap::new(),
        drops: BTreeMap::new(),
        range: input.set.config.range,
        input,
        grouping,
        networks,
        families,
        exits,
        tunnel,
        is_gateway: exits.values().any(|exit| matches!(exit.role, ExitRole::Own { .. })),
    };
    builder.exit_chains();
    builder.group_chains();
    builder.steer();
    builder.translate();
    builder.guard();
    builder.underlay();
    if tunnel.is_some() {
        let arrivals = builder.arrivals();
        desired.nft.insert(TableFamily::Netdev, arrivals);
    }
    let strict = routing::strict_interfaces(input, exits);
    if !strict.is_empty() {
        let elements = strict
            .into_iter()
            .map(|(name, before)| (ElementKey::Interface(name), Some(ElementData::Mark(u32::from(before)))));
        builder.set(RP_FILTER_BEFORE, &[KeyType::Ifname], Some(DataType::Mark), false, elements.collect());
    }
    builder.assigned();
    desired.nft.insert(TableFamily::Inet, builder.table);
    (builder.policies, builder.drops)
}

/// The table under construction.
struct Builder<'a> {
    table: Table,
    policies: BTreeMap<String, PolicyChain>,
    drops: BTreeMap<String, PolicyId>,
    range: DatapathConfig,
    input: &'a CompileInput<'a>,
    grouping: &'a Grouping,
    networks: &'a ClusterNetworks,
    families: &'a [AddressFamily],
    exits: &'a BTreeMap<ExitKey, NodeExit>,
    /// This node's tunnel endpoint, where it has the tunnel device.
    tunnel: Option<&'a TunnelEndpoint>,
    is_gateway: bool,
}

fn recorded(one: &InterfaceAddress) -> (ElementKey, Option<ElementData>) {
    (ElementKey::Address(one.address.addr()), None)
}

fn exit_chain(id: u32) -> String {
    format!("{EXIT_CHAIN}{id}")
}

/// Sixteen hexadecimal digits: if two policies' chains had one name, packets would take the other's exit.
fn policy_chain(policy: &PolicyId, exit: &ExitKey) -> String {
    format!("{POLICY}{:016x}", fnv1a(format!("{:?}/{}\n{exit}", policy.kind, policy.name).as_bytes()))
}

impl Builder<'_> {
    fn chain(&mut self, name: &str, rules: Vec<Vec<Statement>>) {
        let chain = Chain { base: None, comment: None, rules: rules.into_iter().map(NftRule).collect() };
        self.table.chains.insert(name.to_owned(), chain);
    }

    fn base(&mut self, name: &str, kind: ChainKind, hook: Hook, priority: i32, rules: Vec<Vec<Statement>>) {
        let base = BaseChain { kind, hook, priority, policy: ChainPolicy::Accept };
        let chain = Chain { base: Some(base), comment: None, rules: rules.into_iter().map(NftRule).collect() };
        self.table.chains.insert(name.to_owned(), chain);
    }

    fn set(
        &mut self,
        name: &str,
        key: &[KeyType],
        data: Option<DataType>,
        interval: bool,
        elements: BTreeMap<ElementKey, Option<ElementData>>,
    ) {
        self.table.sets.insert(name.to_owned(), Set { key: key.to_vec(), data, interval, elements });
    }

    /// `FIELD & MASK == 0`, or `!= 0`.
    fn unmarked(&self, field: Field, negated: bool) -> Statement {
        Statement::Compare { field, mask: Some(self.range.mask), negated, value: MatchValue::Mark(0) }
    }

    /// `FIELD & MASK @exits`, or `!=`.
    fn of_an_exit(&self, field: Field, negated: bool) -> Statement {
        Statement::InSet { fields: vec![field], mask: Some(self.range.mask), negated, set: EXITS.to_owned() }
    }

    fn set_mark(&self, field: Field, value: u32) -> Statement {
        Statement::SetMark { field, keep: self.range.others(), value }
    }

    /// What Egret has put on interfaces: before IFA_PROTO of Linux 5.18 nothing else records whose an address is.
    fn assigned(&mut self) {
        for family in AddressFamily::BOTH {
            let of_family = |one: &&InterfaceAddress| AddressFamily::of(one.address.addr()) == family;
            let elements: BTreeMap<_, _> = self.input.assigned.iter().filter(of_family).map(recorded).collect();
            if !elements.is_empty() {
                self.set(&record(family), &[address_key(family)], None, false, elements);
            }
        }
    }

    /// One chain for each exit sets the mark, in the packet and in the connection, and counts. Only some bits are Egret's, and
    /// kernels before 6.13 cannot set some bits from a map: hence constants, and maps that lead to them.
    fn exit_chains(&mut self) {
        let mut of_mark = BTreeMap::new();
        for (key, exit) in self.exits {
            let (name, mark) = (exit_chain(exit.id), self.range.mark(exit.id));
            let mut rules = vec![vec![self.set_mark(Field::MetaMark, mark)], vec![self.set_mark(Field::CtMark, mark)]];
            // In one family it may drop while it carries in the other.
            if exit.families.len() > 1 {
                rules.push(vec![any_ipv6(), Statement::Counter, accept()]);
            }
            rules.push(vec![Statement::Counter, accept()]);
            self.chain(&name, rules);
            if let Some(chain) = self.table.chains.get_mut(&name) {
                chain.comment = Some(key.identity());
            }
            of_mark.insert(ElementKey::Mark(mark), Some(ElementData::Verdict(Verdict::Goto(name))));
        }
        self.set("exit_of_mark", &[KeyType::Mark], Some(DataType::Verdict), false, of_mark);
        let marks = self.exits.values().map(|exit| (ElementKey::Mark(self.range.mark(exit.id)), None)).collect();
        self.set(EXITS, &[KeyType::Mark], None, false, marks);
    }

    /// One chain for each policy and exit counts the connections; their later packets reach the exit's chain by the
    /// connection mark. A counter in each map element would cost one for each range and CPU.
    fn policy_chain(&mut self, policy: &PolicyId, key: &ExitKey, exit: &NodeExit) -> String {
        let name = policy_chain(policy, key);
        if !self.policies.contains_key(&name) {
            // With `existingConnections: Reset` every packet comes here. Only the first has no mark yet.
            let count = vec![self.unmarked(Field::CtMark, false), Statement::Counter];
            self.chain(&name, vec![count, vec![goto(&exit_chain(exit.id))]]);
            self.comment(&name, policy);
            self.policies.insert(name.clone(), PolicyChain { policy: policy.clone(), exit: key.clone() });
        }
        name
    }

    /// One chain for each policy of which something is dropped counts it: a verdict of a map counts nothing.
    fn drop_chain(&mut self, policy: &PolicyId) -> String {
        let name = format!("{DROP}{:016x}", fnv1a(format!("{:?}/{}", policy.kind, policy.name).as_bytes()));
        if self.drops.insert(name.clone(), policy.clone()).is_none() {
            self.chain(&name, vec![vec![Statement::Counter, drop()]]);
            self.comment(&name, policy);
        }
        name
    }

    /// Names the policy of a chain for a reader of `nft list` alone: Egret does not read it.
    fn comment(&mut self, chain: &str, policy: &PolicyId) {
        if let Some(chain) = self.table.chains.get_mut(chain) {
            let name = policy.name.as_str();
            chain.comment = Some(name[..name.floor_char_boundary(COMMENT_LIMIT)].to_owned());
        }
    }

    /// None for what is not steered. An exit without a mark drops.
    fn verdict_of(&mut self, target: &RouteTarget) -> Option<Verdict> {
        match (&target.way, &target.policy) {
            (Disposition::Exit(key), Some(policy)) => match self.exits.get(key) {
                Some(exit) => Some(Verdict::Goto(self.policy_chain(policy, key, exit))),
                None => Some(Verdict::Goto(self.drop_chain(policy))),
            },
            (Disposition::Drop, Some(policy)) => Some(Verdict::Goto(self.drop_chain(policy))),
            (Disposition::Drop | Disposition::Exit(_), None) => Some(Verdict::Drop),
            (Disposition::Own, _) => None,
        }
    }

    /// One chain and one map a family for each group. The map covers all addresses, and a packet that is in no map is
    /// dropped: an interval map that comes in a transaction is empty for a moment after the rules that use it are active
    /// (`nft_rbtree_commit`, net/netfilter/nft_set_rbtree.c, which builds the array that is searched), and "not found"
    /// must not mean "not steered" then.
    fn group_chains(&mut self) {
        for group in &self.grouping.groups {
            let mut lookups = Vec::new();
            let mut resets = Vec::new();
            for family in self.families.iter().copied() {
                let of_family = group.targets.iter().filter(|(range, _)| AddressFamily::of(range.first()) == family);
                let translated: Vec<(&Addresses, bool, Option<Verdict>)> =
                    of_family.map(|(range, target)| (range, target.reset, self.verdict_of(target))).collect();
                let element = |range: &Addresses, verdict: &Verdict| {
                    (ElementKey::Range(range.first(), range.last()), Some(ElementData::Verdict(verdict.clone())))
                };
                let led_away: RangeSet =
                    translated.iter().filter(|(.., verdict)| verdict.is_some()).map(|(range, ..)| **range).collect();
                let own_way = ranges(&whole(family).subtract(&led_away), family).into_keys();
                let own_way = own_way.map(|range| (range, Some(ElementData::Verdict(Verdict::Accept))));
                let away =
                    translated.iter().filter_map(|(range, _, verdict)| verdict.as_ref().map(|to| element(range, to)));
                let all: BTreeMap<_, _> = away.chain(own_way).collect();
                // A live connection that is no longer steered must leave its exit too: for it that is a verdict like any
                // other.
                let again = translated.iter().filter(|(_, reset, _)| *reset);
                let reset: BTreeMap<_, _> = again
                    .map(|(range, _, verdict)| element(range, verdict.as_ref().unwrap_or(&Verdict::Accept)))
                    .collect();
                for (prefix, elements, rules) in [("to", all, &mut lookups), ("reset", reset, &mut resets)] {
                    if elements.is_empty() {
                        continue;
                    }
                    let name = format!("{prefix}{}_{}", family.suffix(), group.name);
                    rules.push(vec![Statement::VerdictMap { field: daddr(family), mask: None, map: name.clone() }]);
                    self.set(&name, &[address_key(family)], Some(DataType::Verdict), true, elements);
                }
            }
            lookups.push(vec![Statement::Counter, drop()]);
            self.chain(&format!("{GROUP}{}", group.name), lookups);
            if !resets.is_empty() {
                // As `classify` has it; there what goes on here comes again.
                resets.insert(0, vec![Statement::ToThisHost, Statement::Verdict(Verdict::Return)]);
                self.chain(&format!("reset_{}", group.name), resets);
            }
        }
    }
}
