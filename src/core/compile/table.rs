//! The nftables tables: which packets get a mark, which address they leave with, and what must never leave.
//!
//! Chains follow from the exits and groups; with pods only elements change. The packet's way through them is drawn in
//! docs/datapath.md. Deliberately absent: netlink, and routing (`routing`).

mod words;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use self::words::{
    accept, address_key, daddr, device, drop, goto, in_set, is_reply, multicast_range, ranges, saddr, whole,
};
use super::groups::{Grouping, Way};
use super::marks::EXIT_CHAIN;
use super::{Input, Networks, NodeExit, PolicyChain, Role, Target, routing};
use crate::core::cidr::{Range as Addresses, RangeSet};
use crate::core::placement::ExitKey;
use crate::core::policy::PolicyId;
use crate::core::state::NodeState;
use crate::core::state::net::fnv1a;
use crate::core::state::nft::{
    AddressFamily, Base, COMMENT_LIMIT, Chain, ChainKind, Data, DataType, Family, Field, Hook, Key, KeyType, Policy,
    Rule, Set, Statement, Table, Value, Verdict,
};
use crate::core::state::ownership::{REPLY_VNI, Range, TUNNEL};

/// The map that remembers `rp_filter` of the interfaces that were loosened.
pub const RP_FILTER_BEFORE: &str = "rp_filter_before";

/// The set of the marks that stand for exits: what bears one leaves with its exit's address or not at all.
pub const EXITS: &str = "exits";

/// The chain that drops what would leave with a wrong address.
pub(crate) const GUARD: &str = "guard";
/// The chains of what comes out of the tunnel, one in each family.
pub(crate) const ARRIVE: &str = "arrive";
/// The chain that knows from whom tunnel packets are taken.
pub(crate) const PEERS: &str = "peers";
/// What a family's chain is called that knows the group of each pod: this and the family's digit.
pub(crate) const CLASSIFY: &str = "classify";
/// What a group's chain is called: this and its name.
pub(crate) const GROUP: &str = "group_";
/// What the chain of a policy's way through one exit is called: this and a hash of both.
const POLICY: &str = "policy_";

/// `mangle`: after connection tracking (-200), before destination NAT (-100).
const MANGLE: i32 = -150;
/// Just before `srcnat` (100), where a CNI masquerades: the first chain that translates a connection is the only one.
const TRANSLATE: i32 = 99;
/// Just behind `srcnat`: sees the address that a packet really leaves with.
const GUARDING: i32 = 101;

/// Adds both tables. Returns the chains that count for a policy, by name.
pub(super) fn add(
    desired: &mut NodeState,
    input: &Input<'_>,
    grouping: &Grouping,
    networks: &Networks,
    families: &[AddressFamily],
    exits: &BTreeMap<ExitKey, NodeExit>,
) -> BTreeMap<String, PolicyChain> {
    let owned = input.ground.features.owned_tables;
    let tunnel = routing::needs_tunnel(exits, networks);
    let mut builder = Builder {
        table: Table { owned, ..Table::default() },
        policies: BTreeMap::new(),
        range: input.set.config.range,
        families,
        is_gateway: exits.values().any(|exit| matches!(exit.role, Role::Own { .. })),
    };
    builder.exit_chains(exits);
    builder.group_chains(grouping, exits);
    builder.steer(networks, grouping, tunnel);
    builder.translate(exits, tunnel);
    builder.guard(exits);
    if tunnel {
        builder.peers(networks);
        // Without it nothing that arrives has a mark, and the chain `arrive` lets only replies in.
        if !input.ground.features.blind_tunnels {
            desired.nft.insert(Family::Netdev, arrivals(exits, builder.range, owned));
        }
    }
    let strict = routing::strict_interfaces(input, exits);
    if !strict.is_empty() {
        let elements =
            strict.into_iter().map(|(name, before)| (Key::Interface(name), Some(Data::Mark(u32::from(before)))));
        builder.set(RP_FILTER_BEFORE, &[KeyType::Ifname], Some(DataType::Mark), false, elements.collect());
    }
    desired.nft.insert(Family::Inet, builder.table);
    builder.policies
}

/// The table while it is being made.
struct Builder<'a> {
    table: Table,
    policies: BTreeMap<String, PolicyChain>,
    range: Range,
    families: &'a [AddressFamily],
    is_gateway: bool,
}

fn exit_chain(id: u32) -> String {
    format!("{EXIT_CHAIN}{id}")
}

/// Sixteen hexadecimal digits: of two ways with one name one would lead to the other's exit.
fn policy_chain(policy: &PolicyId, exit: &ExitKey) -> String {
    format!("{POLICY}{:016x}", fnv1a(format!("{:?}/{}\n{exit}", policy.kind, policy.name).as_bytes()))
}

impl Builder<'_> {
    fn chain(&mut self, name: &str, rules: Vec<Vec<Statement>>) {
        let chain = Chain { base: None, comment: None, rules: rules.into_iter().map(Rule).collect() };
        self.table.chains.insert(name.to_owned(), chain);
    }

    fn base(&mut self, name: &str, kind: ChainKind, hook: Hook, priority: i32, rules: Vec<Vec<Statement>>) {
        let base = Base { kind, hook, priority, policy: Policy::Accept };
        let chain = Chain { base: Some(base), comment: None, rules: rules.into_iter().map(Rule).collect() };
        self.table.chains.insert(name.to_owned(), chain);
    }

    fn set(
        &mut self,
        name: &str,
        key: &[KeyType],
        data: Option<DataType>,
        interval: bool,
        elements: BTreeMap<Key, Option<Data>>,
    ) {
        self.table.sets.insert(name.to_owned(), Set { key: key.to_vec(), data, interval, elements });
    }

    /// `FIELD & MASK == 0`, or `!= 0`.
    fn unmarked(&self, field: Field, negated: bool) -> Statement {
        Statement::Compare { field, mask: Some(self.range.mask), negated, value: Value::Mark(0) }
    }

    fn by_mark(&self, field: Field, map: &str) -> Statement {
        Statement::VerdictMap { field, mask: Some(self.range.mask), map: map.to_owned() }
    }

    fn set_mark(&self, field: Field, value: u32) -> Statement {
        Statement::SetMark { field, keep: self.range.others(), value }
    }

    /// One chain for each exit sets the mark, in the packet and in the connection. Only some bits are ours, and setting some
    /// bits from a map cannot be done before kernel 6.13: hence constants, and maps that lead to them.
    fn exit_chains(&mut self, exits: &BTreeMap<ExitKey, NodeExit>) {
        let mut of_mark = BTreeMap::new();
        for (key, exit) in exits {
            let (name, mark) = (exit_chain(exit.id), self.range.mark(exit.id));
            let rules = vec![
                vec![self.set_mark(Field::MetaMark, mark)],
                vec![self.set_mark(Field::CtMark, mark)],
                vec![Statement::Counter, accept()],
            ];
            self.chain(&name, rules);
            if let Some(chain) = self.table.chains.get_mut(&name) {
                chain.comment = Some(key.identity());
            }
            of_mark.insert(Key::Mark(mark), Some(Data::Verdict(Verdict::Goto(name))));
        }
        self.set("exit_of_mark", &[KeyType::Mark], Some(DataType::Verdict), false, of_mark);
    }

    /// One chain for each policy's way through an exit counts the connections that take it; their other packets come to the
    /// exit's chain by the connection's mark. A counter in each element of the maps would be one for each range and CPU.
    fn policy_chain(&mut self, policy: &PolicyId, key: &ExitKey, exit: &NodeExit) -> String {
        let name = policy_chain(policy, key);
        if !self.policies.contains_key(&name) {
            // Of `existingConnections: Reset` every packet comes here. Only the first bears no mark yet.
            let count = vec![self.unmarked(Field::CtMark, false), Statement::Counter];
            self.chain(&name, vec![count, vec![goto(&exit_chain(exit.id))]]);
            if let Some(chain) = self.table.chains.get_mut(&name) {
                // For people: nothing reads it.
                chain.comment = Some(policy.name.as_str().chars().take(COMMENT_LIMIT).collect());
            }
            self.policies.insert(name.clone(), PolicyChain { policy: policy.clone(), exit: key.clone() });
        }
        name
    }

    /// None for what goes its own way. An exit that got no mark drops.
    fn verdict_of(&mut self, target: &Target, exits: &BTreeMap<ExitKey, NodeExit>) -> Option<Verdict> {
        match (&target.way, &target.policy) {
            (Way::Exit(key), Some(policy)) => match exits.get(key) {
                Some(exit) => Some(Verdict::Goto(self.policy_chain(policy, key, exit))),
                None => Some(Verdict::Drop),
            },
            (Way::Drop | Way::Exit(_), _) => Some(Verdict::Drop),
            (Way::Own, _) => None,
        }
    }

    /// One chain and one map a family for each group. The map names every address there is, and what is in no map is
    /// dropped: an interval map that comes in a transaction is empty for a moment after the rules that use it are in force
    /// (`nft_rbtree_commit`, net/netfilter/nft_set_rbtree.c, which builds the array that is searched), and "not found" must
    /// not mean "its own way" then.
    fn group_chains(&mut self, grouping: &Grouping, exits: &BTreeMap<ExitKey, NodeExit>) {
        for group in &grouping.groups {
            let mut lookups = Vec::new();
            let mut resets = Vec::new();
            for family in self.families.iter().copied() {
                let of_family = group.targets.iter().filter(|(range, _)| AddressFamily::of(range.first()) == family);
                let led: Vec<(&Addresses, bool, Option<Verdict>)> =
                    of_family.map(|(range, target)| (range, target.reset, self.verdict_of(target, exits))).collect();
                let element = |range: &Addresses, verdict: &Verdict| {
                    (Key::Range(range.first(), range.last()), Some(Data::Verdict(verdict.clone())))
                };
                let led_away: RangeSet =
                    led.iter().filter(|(.., verdict)| verdict.is_some()).map(|(range, ..)| **range).collect();
                let own_way = ranges(&whole(family).subtract(&led_away), family).into_keys();
                let own_way = own_way.map(|range| (range, Some(Data::Verdict(Verdict::Accept))));
                let away = led.iter().filter_map(|(range, _, verdict)| verdict.as_ref().map(|to| element(range, to)));
                let all: BTreeMap<_, _> = away.chain(own_way).collect();
                // A live connection whose new way is its own must leave its exit too: for it that is a verdict like any other.
                let again = led.iter().filter(|(_, reset, _)| *reset);
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
                self.chain(&format!("reset_{}", group.name), resets);
            }
        }
    }

    /// Prerouting: who is steered, who is held back, who comes back.
    fn steer(&mut self, networks: &Networks, grouping: &Grouping, tunnel: bool) {
        let mut rules = Vec::new();
        if tunnel {
            rules.push(vec![device(Field::Iifname), goto(ARRIVE)]);
            self.arrive(networks);
        }
        if self.is_gateway {
            rules.push(vec![is_reply(), goto("reply")]);
            let reply = self.set_mark(Field::MetaMark, self.range.reply_mark());
            self.chain("reply", vec![vec![self.unmarked(Field::CtMark, false), accept()], vec![reply, accept()]]);
        } else {
            rules.push(vec![is_reply(), accept()]);
        }
        for family in self.families.iter().copied() {
            let name = format!("cluster{}", family.suffix());
            rules.push(vec![in_set(daddr(family), false, name.clone()), accept()]);
            self.set(&name, &[address_key(family)], None, true, ranges(&networks.cluster, family));
        }
        rules.extend(self.resets(grouping));
        // A live connection stays on its exit. One whose exit is gone is classified anew; one that has no mark began before
        // any policy did and stays as it is.
        rules.push(vec![self.by_mark(Field::CtMark, "exit_of_mark")]);
        let old = Statement::CtState { bits: 8, negated: true };
        rules.push(vec![old, self.unmarked(Field::CtMark, false), accept()]);
        for family in self.families.iter().copied() {
            let (pods, guarded) = (format!("pods{}", family.suffix()), format!("guarded{}", family.suffix()));
            let classify = format!("{CLASSIFY}{}", family.suffix());
            rules.push(vec![
                in_set(saddr(family), false, pods.clone()),
                in_set(daddr(family), false, guarded.clone()),
                goto(&classify),
            ]);
            self.set(&pods, &[address_key(family)], None, true, ranges(&networks.local_pods, family));
            self.set(&guarded, &[address_key(family)], None, true, ranges(&networks.guarded, family));
            self.classify(grouping, family, &classify);
        }
        self.base("steer", ChainKind::Filter, Hook::Prerouting, MANGLE, rules);
    }

    /// Every pod of this node is in the map; one that is not has just started and is held back, not leaked.
    fn classify(&mut self, grouping: &Grouping, family: AddressFamily, chain: &str) {
        let map = format!("group_of{}", family.suffix());
        let lookup = Statement::VerdictMap { field: saddr(family), mask: None, map: map.clone() };
        self.chain(chain, vec![vec![lookup], vec![Statement::Counter, drop()]]);
        let of_family = |(address, _): &(&IpAddr, _)| AddressFamily::of(**address) == family;
        let elements = grouping.addresses.iter().filter(of_family).map(|(address, group)| {
            let verdict = group.as_ref().map_or(Verdict::Accept, |name| Verdict::Goto(format!("{GROUP}{name}")));
            (Key::Address(*address), Some(Data::Verdict(verdict)))
        });
        self.set(&map, &[address_key(family)], Some(DataType::Verdict), false, elements.collect());
    }

    /// Members of policies with `existingConnections: Reset`: every packet is classified, whatever its connection remembers.
    fn resets(&mut self, grouping: &Grouping) -> Vec<Vec<Statement>> {
        let mut rules = Vec::new();
        for family in self.families.iter().copied() {
            let mut elements = BTreeMap::new();
            for (address, group) in &grouping.addresses {
                let chain = group.as_ref().map(|name| format!("reset_{name}"));
                if let Some(chain) = chain.filter(|chain| self.table.chains.contains_key(chain))
                    && AddressFamily::of(*address) == family
                {
                    elements.insert(Key::Address(*address), Some(Data::Verdict(Verdict::Jump(chain))));
                }
            }
            if !elements.is_empty() {
                let map = format!("reset_of{}", family.suffix());
                rules.push(vec![Statement::VerdictMap { field: saddr(family), mask: None, map: map.clone() }]);
                self.set(&map, &[address_key(family)], Some(DataType::Verdict), false, elements);
            }
        }
        rules
    }

    /// What comes out of the tunnel: replies go on to the pod; members' packets, marked at ingress by their tunnel
    /// identifier, go on to their exit; anything else was not meant for it.
    fn arrive(&mut self, networks: &Networks) {
        let mut rules = vec![vec![is_reply(), accept()]];
        if !networks.all_pods.is_empty() {
            for family in self.families.iter().copied() {
                let name = format!("podnets{}", family.suffix());
                rules.push(vec![in_set(saddr(family), true, name.clone()), Statement::Counter, drop()]);
                self.set(&name, &[address_key(family)], None, true, ranges(&networks.all_pods, family));
            }
        }
        rules.push(vec![self.by_mark(Field::MetaMark, "exit_of_mark")]);
        rules.push(vec![Statement::Counter, drop()]);
        self.chain(ARRIVE, rules);
    }

    /// Postrouting: our marks end at the tunnel, or the tunnel's own packets would be routed by them into the tunnel again;
    /// and each exit's packets get its address.
    fn translate(&mut self, exits: &BTreeMap<ExitKey, NodeExit>, tunnel: bool) {
        if tunnel {
            let untag = vec![device(Field::Oifname), self.set_mark(Field::MetaMark, 0)];
            // A pod does not know that its packets go through a tunnel, nor does the other end; and the ICMP that would tell
            // the other end is often filtered on its way.
            let clamp = vec![device(Field::Oifname), Statement::ClampMss];
            self.base("untag", ChainKind::Filter, Hook::Postrouting, MANGLE, vec![untag, clamp]);
        }
        let mut rules = Vec::new();
        for family in self.families.iter().copied() {
            if tunnel {
                // Translated to what it is already: a CNI's masquerading behind us then leaves it alone, and the gateway
                // sees the pod.
                rules.push(vec![device(Field::Oifname), Statement::SnatToSelf { family }]);
            }
            let addresses = own_addresses(exits, family, self.range);
            if !addresses.is_empty() {
                let map = format!("egress_ip{}", family.suffix());
                rules.push(vec![Statement::SnatMap { family, mask: self.range.mask, map: map.clone() }]);
                let data = match family {
                    AddressFamily::V4 => DataType::Ipv4Addr,
                    AddressFamily::V6 => DataType::Ipv6Addr,
                };
                let elements =
                    addresses.into_iter().map(|(mark, address)| (Key::Mark(mark), Some(Data::Address(address))));
                self.set(&map, &[KeyType::Mark], Some(data), false, elements.collect());
            }
        }
        self.base("translate", ChainKind::Nat, Hook::Postrouting, TRANSLATE, rules);
    }

    /// What bears an exit's mark leaves with that exit's address or not at all: whoever took a rule or route away, whoever
    /// translated it to something else, and whatever address the gateway has lost.
    ///
    /// The kernel's own multicast (MLD and IGMP reports) is let pass: in those packets the mark is the kernel's scratch space
    /// (`reserved_tailroom` shares a union with `mark` in `struct sk_buff`, include/linux/skbuff.h) and says anything.
    ///
    /// It stands for both families, whichever are named: a node that has not heard yet that one is named no longer may still
    /// send its packets here.
    fn guard(&mut self, exits: &BTreeMap<ExitKey, NodeExit>) {
        // Bits of ours that say something else were set by somebody who does not know that they are ours: left alone.
        let marks = exits.values().map(|exit| (Key::Mark(self.range.mark(exit.id)), None)).collect();
        self.set(EXITS, &[KeyType::Mark], None, false, marks);
        let no_exit = Statement::InSet {
            fields: vec![Field::MetaMark],
            mask: Some(self.range.mask),
            negated: true,
            set: EXITS.to_owned(),
        };
        let mut rules = vec![vec![no_exit, accept()]];
        for family in self.families.iter().copied() {
            let addresses = own_addresses(exits, family, self.range);
            if !addresses.is_empty() {
                let set = format!("leaves{}", family.suffix());
                let fields = vec![Field::MetaMark, saddr(family)];
                let leaves = Statement::InSet { fields, mask: Some(self.range.mask), negated: false, set: set.clone() };
                rules.push(vec![leaves, accept()]);
                let elements =
                    addresses.into_iter().map(|(mark, address)| (Key::MarkAddress(mark, address), None)).collect();
                self.set(&set, &[KeyType::Mark, address_key(family)], None, false, elements);
            }
        }
        for family in AddressFamily::BOTH {
            let multicast = format!("multicast{}", family.suffix());
            rules.push(vec![in_set(daddr(family), true, multicast.clone()), Statement::Counter, drop()]);
            self.set(&multicast, &[address_key(family)], None, true, [(multicast_range(family), None)].into());
        }
        self.base(GUARD, ChainKind::Filter, Hook::Postrouting, GUARDING, rules);
    }

    /// Tunnel packets are taken from known nodes only.
    fn peers(&mut self, networks: &Networks) {
        let mut rules = Vec::new();
        for family in AddressFamily::BOTH {
            let name = format!("nodes{}", family.suffix());
            let port = Statement::Compare {
                field: Field::UdpDport,
                mask: None,
                negated: false,
                value: Value::Port(self.range.port),
            };
            rules.push(vec![port, in_set(saddr(family), true, name.clone()), Statement::Counter, drop()]);
            let of_family = |address: &&IpAddr| AddressFamily::of(**address) == family;
            let elements = networks.peers.iter().filter(of_family).map(|address| (Key::Address(*address), None));
            self.set(&name, &[address_key(family)], None, false, elements.collect());
        }
        self.base(PEERS, ChainKind::Filter, Hook::Input, 0, rules);
    }
}

/// Marks and egress addresses of the exits of this node.
fn own_addresses(exits: &BTreeMap<ExitKey, NodeExit>, family: AddressFamily, range: Range) -> BTreeSet<(u32, IpAddr)> {
    exits
        .values()
        .filter_map(|exit| match &exit.role {
            Role::Own { ways, .. } => ways.get(&family).map(|way| (range.mark(exit.id), way.address)),
            Role::Remote { .. } => None,
        })
        .collect()
}

/// `netdev`: the only family that can read a tunnel's identifier. An identifier that is no exit of ours is dropped.
fn arrivals(exits: &BTreeMap<ExitKey, NodeExit>, range: Range, owned: bool) -> Table {
    let arrived =
        |vni| Statement::Compare { field: Field::TunnelId, mask: None, negated: false, value: Value::TunnelId(vni) };
    let mark = |value| Statement::SetMark { field: Field::MetaMark, keep: range.others(), value };
    let mut rules: Vec<Rule> = exits
        .values()
        .filter_map(|exit| match &exit.role {
            Role::Own { vni, .. } => Some(Rule(vec![arrived(*vni), mark(range.mark(exit.id)), accept()])),
            Role::Remote { .. } => None,
        })
        .collect();
    rules.push(Rule(vec![arrived(REPLY_VNI), mark(0), accept()]));
    // The policy of the chain would do, and count nothing.
    rules.push(Rule(vec![Statement::Counter, drop()]));
    let base =
        Base { kind: ChainKind::Filter, hook: Hook::Ingress(TUNNEL.to_owned()), priority: 0, policy: Policy::Drop };
    let chain = Chain { base: Some(base), comment: None, rules };
    Table { owned, chains: BTreeMap::from([(ARRIVE.to_owned(), chain)]), ..Table::default() }
}
