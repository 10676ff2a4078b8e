//! Rules that protect the tunnel: who may send to its port, and which packets from it are accepted.
//!
//! A CNI that masquerades what pods send to nodes makes a pod's packet look like a node's (Calico by default, flannel,
//! kindnet). So the outer source alone proves nothing: pods may not send to the tunnel's port at all, and a packet with a
//! node's address must not arrive where that node is not. Both hold on every node of a cluster with an active policy. Not
//! here: what an accepted packet may do (`steer`).

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::statements::{accept, address_key, daddr, device, drop, in_set, saddr};
use super::{ARRIVE, Builder, LAST, PEERS, RAW, WARD};
use crate::core::compile::ExitRole;
use crate::core::placement::ExitKey;
use crate::core::state::nft::{
    AddressFamily, BaseChain, Chain, ChainKind, ChainPolicy, DataType, ElementData, ElementKey, Field, Hook, KeyType,
    MatchValue, NftRule, Set, Statement, Table, Verdict,
};
use crate::core::state::ownership::TUNNEL;

/// Before connection tracking (-200), and before `raw` (-300), where other programs exempt packets from it.
const BEFORE_TRACKING: i32 = -310;
/// `NF_CT_STATE_BIT` of IP_CT_NEW, and `NF_CT_STATE_INVALID_BIT` (include/uapi/linux/netfilter/nf_conntrack_common.h): by
/// `nf_conntrack_tcp_loose` a segment in the middle of an unknown connection is one or the other.
const NEW: u32 = 8;
/// See [`NEW`].
const INVALID: u32 = 1;
/// `NF_CT_STATE_UNTRACKED_BIT` of the same file.
const UNTRACKED: u32 = 64;
/// `filter`
const FILTER: i32 = 0;

fn is(field: fn(AddressFamily) -> Field, address: IpAddr) -> Statement {
    let (field, value) = (field(AddressFamily::of(address)), MatchValue::Address(address));
    Statement::Compare { field, mask: None, negated: false, value }
}

/// The set of all nodes' addresses.
fn nodes(family: AddressFamily) -> String {
    format!("nodes{}", family.suffix())
}

impl Builder<'_> {
    /// The chains for outer packets.
    pub(super) fn underlay(&mut self) {
        let own: Vec<IpAddr> = self.tunnel.map(|own| own.outer.clone()).unwrap_or_default();
        self.before_tracking(&own);
        self.ward();
        if self.tunnel.is_some() {
            self.untracked_output(&own);
            self.peers(&own);
            self.probes_answered();
        }
    }

    fn port(&self) -> Statement {
        let value = MatchValue::Port(self.range.port);
        Statement::Compare { field: Field::UdpDport, mask: None, negated: false, value }
    }

    /// Drops outer packets with a forged source, and exempts those to this node from connection tracking. Both are about packets from
    /// nodes to this node alone: a connection may have the tunnel's number as its own port, and an answer to it looks the same otherwise.
    /// What others send to the tunnel, `peers` drops.
    fn before_tracking(&mut self, own: &[IpAddr]) {
        let foreign = self.uplink_match(true);
        let to_tunnel = |address: &IpAddr| {
            let family = AddressFamily::of(*address);
            vec![self.port(), is(daddr, *address), in_set(saddr(family), false, nodes(family))]
        };
        // If the route back to the source uses another interface, the source is forged, except on interfaces that lead
        // out of the node: with several network cards routing may be asymmetric.
        let no_way_back = || foreign.clone().into_iter().chain([Statement::NoRouteBack, Statement::Counter, drop()]);
        let forged = own.iter().map(|address| to_tunnel(address).into_iter().chain(no_way_back()).collect());
        let mut rules: Vec<Vec<Statement>> = forged.collect();
        // One flow of a pod would be two entries on each node, and no node ever replies from port to port.
        rules.extend(own.iter().map(|address| to_tunnel(address).into_iter().chain([Statement::NoTrack]).collect()));
        rules.extend(self.expected());
        self.base(RAW, ChainKind::Filter, Hook::Prerouting, BEFORE_TRACKING, rules);
    }

    /// Drops what pods send to the tunnel's port of any node.
    fn ward(&mut self) {
        let port = self.port();
        let mut rules = Vec::new();
        for family in AddressFamily::BOTH {
            rules.push(vec![port.clone(), in_set(daddr(family), false, nodes(family)), Statement::Counter, drop()]);
            let of_family = self.networks.nodes.iter().filter(|address| AddressFamily::of(**address) == family);
            let elements = of_family.map(|address| (ElementKey::Address(*address), None)).collect();
            self.set(&nodes(family), &[address_key(family)], None, false, elements);
        }
        self.base(WARD, ChainKind::Filter, Hook::Forward, FILTER, rules);
    }

    /// Exempts outer packets from this node from connection tracking.
    fn untracked_output(&mut self, own: &[IpAddr]) {
        let port = self.port();
        let rules = own.iter().map(|address| vec![port.clone(), is(saddr, *address), Statement::NoTrack]).collect();
        self.base("raw_output", ChainKind::Filter, Hook::Output, BEFORE_TRACKING, rules);
    }

    /// Accepts outer packets of other nodes, which get their node's mark, and drops all others.
    fn peers(&mut self, own: &[IpAddr]) {
        let port = self.port();
        let name = |family: AddressFamily| format!("peers{}", family.suffix());
        for family in AddressFamily::BOTH {
            let ends =
                self.networks.others.values().flat_map(|end| end.outer.iter().map(move |address| (address, end)));
            let of_family = ends.filter(|(address, _)| AddressFamily::of(**address) == family);
            let elements =
                of_family.map(|(address, end)| (ElementKey::Address(*address), Some(ElementData::Mark(end.id))));
            self.set(&name(family), &[address_key(family)], Some(DataType::Mark), false, elements.collect());
        }
        // No packet from the tunnel is for this node's own sockets: a reply whose connection was flushed must not make
        // the host send a reset.
        let mut rules = self.for_sockets();
        rules.extend(self.quiet());
        rules.push(vec![device(Field::Iifname), Statement::Counter, drop()]);
        // Only to the address that nodes send to: only a pod would send to another one, an egress address for example. And only what
        // `before_tracking` has exempted: a Service that leads to this port is translated, and what is translated is tracked.
        rules.extend(own.iter().map(|address| {
            let family = AddressFamily::of(*address);
            let known = Statement::MarkFromMap { field: saddr(family), map: name(family) };
            let untracked = Statement::CtState { bits: UNTRACKED, negated: false };
            vec![port.clone(), is(daddr, *address), untracked, known, accept()]
        }));
        rules.push(vec![port, Statement::Counter, drop()]);
        self.base(PEERS, ChainKind::Filter, Hook::Input, LAST, rules);
    }

    /// What comes for an egress address in the middle of a connection that is not known here: it began on another gateway, from which the
    /// address has just come. A reset would end it. With silence the other end sends again, and the member's next packet brings the
    /// connection here. Only addresses that policies name move; a node's own answers as ever.
    fn quiet(&mut self) -> Vec<Vec<Statement>> {
        let mut rules = Vec::new();
        for family in self.families.iter().copied() {
            let moves = |key: &ExitKey| {
                key.egress.address_in(family).is_some_and(|address| !self.networks.nodes.contains(&address))
            };
            let own = self.exits.iter().filter(|(key, _)| moves(key)).filter_map(|(_, exit)| match &exit.role {
                ExitRole::Own { routes, .. } => routes.get(&family).map(|way| way.address),
                ExitRole::Remote { .. } => None,
            });
            let addresses: BTreeMap<_, _> = own.map(|address| (ElementKey::Address(address), None)).collect();
            if addresses.is_empty() {
                continue;
            }
            let set = format!("egress{}", family.suffix());
            let unknown = Statement::CtState { bits: NEW | INVALID, negated: false };
            let to_it = in_set(daddr(family), false, set.clone());
            rules.push(vec![to_it, unknown, Statement::WithoutSyn, Statement::Counter, drop()]);
            self.set(&set, &[address_key(family)], None, false, addresses);
        }
        rules
    }

    /// Packets that arrive for an egress address on the exit's interface bear the exit's mark until `steer`: a firewall
    /// that checks the reverse path (firewalld's `IPv6_rpfilter`, at -140) looks it up with the mark, and so in the
    /// exit's table; the main table may lead elsewhere. These are the last rules of their chain.
    fn expected(&mut self) -> Vec<Vec<Statement>> {
        let mut rules = Vec::new();
        for family in self.families.iter().copied() {
            let mut of_address = BTreeMap::new();
            for exit in self.exits.values() {
                let ExitRole::Own { routes, .. } = &exit.role else { continue };
                let Some(way) = routes.get(&family) else { continue };
                let chain = format!("expected_{}", exit.id);
                let rules = way.interfaces().into_iter().map(|name| {
                    let value = MatchValue::Interface(name.to_owned());
                    let by = Statement::Compare { field: Field::Iifname, mask: None, negated: false, value };
                    vec![by, self.set_mark(Field::MetaMark, self.range.mark(exit.id))]
                });
                let rules = rules.collect();
                self.chain(&chain, rules);
                of_address
                    .entry(ElementKey::Address(way.address))
                    .or_insert(Some(ElementData::Verdict(Verdict::Goto(chain))));
            }
            if !of_address.is_empty() {
                let map = format!("expected{}", family.suffix());
                rules.push(vec![Statement::VerdictMap { field: daddr(family), mask: None, map: map.clone() }]);
                self.set(&map, &[address_key(family)], Some(DataType::Verdict), false, of_address);
            }
        }
        rules
    }

    /// `iifname @uplinks`, or `!=`; nothing where no such interface is known.
    pub(super) fn uplink_match(&mut self, negated: bool) -> Option<Statement> {
        const UPLINKS: &str = "uplinks";
        if self.networks.uplinks.is_empty() {
            return None;
        }
        let elements = self.networks.uplinks.iter().map(|name| (ElementKey::Interface(name.clone()), None)).collect();
        self.set(UPLINKS, &[KeyType::Ifname], None, false, elements);
        Some(in_set(Field::Iifname, negated, UPLINKS.to_owned()))
    }

    /// Rules for packets from the tunnel, before anything else of the node sees them. Here the mark still identifies the
    /// node that sent the outer packet: the inner source must be what stands for that node, or the packet must be
    /// addressed to what stands for this one and come from a gateway that this node uses. Then the packet gets the
    /// replies' mark, so that a reverse-path check that uses it finds the device.
    pub(super) fn arrivals(&self) -> Table {
        let reply = Statement::SetMark { field: Field::MetaMark, keep: 0, value: self.range.reply_mark() };
        let take = [Statement::PacketForHost, reply, accept()];
        let (mut rules, mut sets) = (Vec::new(), BTreeMap::new());
        let mut set = |name: &str, key: &[KeyType], elements: BTreeMap<ElementKey, Option<ElementData>>| {
            sets.insert(name.to_owned(), Set { key: key.to_vec(), data: None, interval: false, elements });
        };
        if self.is_gateway {
            for family in self.families.iter().copied() {
                let name = format!("sources{}", family.suffix());
                let fields = vec![Field::MetaMark, saddr(family)];
                let bound = Statement::InSet { fields, mask: None, negated: false, set: name.clone() };
                rules.push([&[bound][..], &take].concat());
                let others = self.networks.others.values();
                let elements = others.map(|end| (ElementKey::MarkAddress(end.id, end.inner(family)), None)).collect();
                set(&name, &[KeyType::Mark, address_key(family)], elements);
            }
        }
        let gateways: BTreeMap<ElementKey, Option<ElementData>> = self
            .exits
            .iter()
            .filter(|(_, exit)| matches!(exit.role, ExitRole::Remote { .. }))
            .filter_map(|(key, _)| self.networks.others.get(&key.gateway))
            .map(|end| (ElementKey::Mark(end.id), None))
            .collect();
        if let (Some(own), false) = (self.tunnel, gateways.is_empty()) {
            for family in self.families.iter().copied() {
                let value = MatchValue::Address(own.inner(family));
                let to_us = Statement::Compare { field: daddr(family), mask: None, negated: false, value };
                rules.push([&[to_us, in_set(Field::MetaMark, false, "gateways".to_owned())][..], &take].concat());
            }
            set("gateways", &[KeyType::Mark], gateways);
        }
        // The chain's policy would drop as well, but without counting.
        rules.push(vec![Statement::Counter, drop()]);
        let hook = Hook::Ingress(TUNNEL.to_owned());
        let base = BaseChain { kind: ChainKind::Filter, hook, priority: FILTER, policy: ChainPolicy::Drop };
        let chain = Chain { base: Some(base), comment: None, rules: rules.into_iter().map(NftRule).collect() };
        let owned = self.table.owned;
        Table { owned, chains: BTreeMap::from([(ARRIVE.to_owned(), chain)]), sets, ..Table::default() }
    }
}
