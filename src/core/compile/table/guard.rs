//! Postrouting rules: with which source address a packet leaves, and what is dropped instead of leaking.
//!
//! Not here: which packets are steered (`steer`).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use super::statements::{
    accept, address_key, began_by, daddr, device, drop, goto, in_set, is_reply, multicast_range, next_hop, saddr,
    translated_to,
};
use super::{Builder, GUARD, INTO_TUNNEL, LAST, LEAVES, LEAVING};
use crate::core::compile::{ExitRole, NodeExit, routing};
use crate::core::state::nft::{
    AddressFamily, ChainKind, DataType, ElementData, ElementKey, Field, Hook, KeyType, MatchValue, Statement,
};

/// Just before `srcnat` (100), where a CNI masquerades: the first chain that translates a connection is the only one.
const TRANSLATE: i32 = 99;
/// Where what goes into the tunnel loses its mark.
const UNTAG: &str = "untag";

impl Builder<'_> {
    /// Source translation: into the tunnel, to what stands for this node; out of an exit, to its address.
    pub(super) fn translate(&mut self) {
        let mut rules = Vec::new();
        for family in self.families.iter().copied() {
            if let Some(own) = self.tunnel {
                // By chance, so that two nodes rarely have the same port at a gateway, which keeps it: a connection whose port was
                // changed there has another one at the next gateway. UDP keeps its port, on which hole punching relies.
                let address = own.inner(family);
                rules.push(vec![device(Field::Oifname), Statement::SnatTcpTo { address }]);
                rules.push(vec![device(Field::Oifname), Statement::SnatTo { address }]);
            }
            let addresses = self.own_addresses(family);
            if !addresses.is_empty() {
                let map = format!("egress_ip{}", family.suffix());
                // Whoever writes marks behind `steer` may give both to a packet of who is no member.
                for set in ["others", "host"] {
                    rules.push(vec![in_set(began_by(family), false, format!("{set}{}", family.suffix())), accept()]);
                }
                // The connection's mark alone may be another daemon's: it does not make the connection Egret's.
                let by_mark = Statement::SnatMap { family, mask: self.range.mask, map: map.clone() };
                rules.push(vec![self.of_an_exit(Field::MetaMark, false), by_mark]);
                let data = match family {
                    AddressFamily::V4 => DataType::Ipv4Addr,
                    AddressFamily::V6 => DataType::Ipv6Addr,
                };
                let elements = addresses
                    .into_iter()
                    .map(|(mark, address)| (ElementKey::Mark(mark), Some(ElementData::Address(address))));
                self.set(&map, &[KeyType::Mark], Some(data), false, elements.collect());
            }
        }
        self.base("translate", ChainKind::Nat, Hook::Postrouting, TRANSLATE, rules);
    }

    /// A packet with an exit's mark leaves with that exit's address or is dropped, even if another program deleted a rule or a
    /// route or translated it, or the gateway lost the address. The conntrack mark counts too: a CNI may have overwritten the
    /// packet mark after `steer`.
    ///
    /// It exists for both families, whichever the policies name: a node that does not know yet that the last policy of a family
    /// is gone may still send its packets here.
    pub(super) fn guard(&mut self) {
        for family in AddressFamily::BOTH {
            let range = [(multicast_range(family), None)].into();
            self.set(&multicast(family), &[address_key(family)], None, true, range);
        }
        let mut rules = Vec::new();
        if self.tunnel.is_some() {
            rules.push(vec![device(Field::Oifname), goto(INTO_TUNNEL)]);
            self.tunnel_entry();
        }
        rules.push(vec![is_reply(), accept()]);
        rules.push(vec![self.of_an_exit(Field::MetaMark, false), goto(LEAVING)]);
        rules.push(vec![self.of_an_exit(Field::CtMark, true), accept()]);
        // Only the conntrack mark is an exit's: a CNI removed the packet mark, or another daemon uses the same bits. Packets of
        // non-members and of the host, and destinations that no policy names, are left to that daemon.
        for family in self.families.iter().copied() {
            let set = |name: &str| format!("{name}{}", family.suffix());
            // What came out of the tunnel is a member's, wherever it goes: one node's pod may be outside of the cluster for another.
            if self.tunnel.is_some() && self.is_gateway {
                rules.push(vec![in_set(began_by(family), false, set("tunnels")), goto(LEAVING)]);
            }
            rules.push(vec![in_set(began_by(family), false, set("others")), accept()]);
            rules.push(vec![in_set(began_by(family), false, set("host")), accept()]);
            rules.push(vec![in_set(daddr(family), false, set("cluster")), accept()]);
            rules.push(vec![in_set(translated_to(family), false, set("translated")), goto(LEAVING)]);
            rules.push(vec![in_set(daddr(family), false, set("guarded")), goto(LEAVING)]);
            self.set(&set("host"), &[address_key(family)], None, false, self.host_addresses(family));
        }
        self.base(GUARD, ChainKind::Filter, Hook::Postrouting, LAST, rules);
        self.leaving();
    }

    /// Packets that leave by another interface than the tunnel need the address of their connection's exit.
    ///
    /// The kernel's own multicast (MLD and IGMP reports) passes: in those packets the mark is the kernel's scratch space
    /// (`reserved_tailroom` shares a union with `mark` in `struct sk_buff`, include/linux/skbuff.h) and has any value.
    fn leaving(&mut self) {
        let mut rules = Vec::new();
        for family in self.families.iter().copied() {
            let addresses = self.own_addresses(family);
            if !addresses.is_empty() {
                let set = format!("{LEAVES}{}", family.suffix());
                let fields = vec![Field::CtMark, saddr(family)];
                let leaves = Statement::InSet { fields, mask: Some(self.range.mask), negated: false, set: set.clone() };
                rules.push(vec![leaves, accept()]);
                let elements = addresses
                    .into_iter()
                    .map(|(mark, address)| (ElementKey::MarkAddress(mark, address), None))
                    .collect();
                self.set(&set, &[KeyType::Mark, address_key(family)], None, false, elements);
            }
        }
        for family in AddressFamily::BOTH {
            rules.push(vec![in_set(daddr(family), true, multicast(family)), Statement::Counter, drop()]);
        }
        self.chain(LEAVING, rules);
    }

    /// Into the tunnel go replies, and Egret's connections with the tunnel address and the next hop of the conntrack mark's exit.
    /// Another daemon that writes marks between `steer` and routing may have sent the packet to another exit and changed the mark
    /// again; the next hop cannot be hidden, since each exit has its own. The mark is cleared here, or the outer packets would
    /// be routed into the tunnel by it.
    fn tunnel_entry(&mut self) {
        let Some(own) = self.tunnel else { return };
        // The kernel's own, which the device drops for want of a peer.
        let mut rules: Vec<Vec<Statement>> =
            AddressFamily::BOTH.map(|family| vec![in_set(daddr(family), false, multicast(family)), accept()]).into();
        rules.push(vec![is_reply(), goto(UNTAG)]);
        rules.extend(self.probes_leave(own, UNTAG));
        // A gateway without a way out leads its own pods to a standby, and does not pass on what other nodes send: they see that it
        // does not answer.
        let leads_on = |exit: &NodeExit| matches!(exit.role, ExitRole::Own { .. }) && !exit.detours.is_empty();
        if self.exits.values().any(leads_on) {
            for family in self.families.iter().copied() {
                let set = format!("tunnels{}", family.suffix());
                rules.push(vec![in_set(began_by(family), false, set), Statement::Counter, drop()]);
            }
        }
        for family in self.families.iter().copied() {
            let value = MatchValue::Address(own.inner(family));
            let stands = Statement::Compare { field: saddr(family), mask: None, negated: false, value };
            let set = format!("ways{}", family.suffix());
            let fields = vec![Field::CtMark, next_hop(family)];
            let its_way = Statement::InSet { fields, mask: Some(self.range.mask), negated: false, set: set.clone() };
            rules.push(vec![stands, its_way, goto(UNTAG)]);
            let led_there =
                |exit: &&NodeExit| matches!(exit.role, ExitRole::Remote { .. }) || exit.detours.contains_key(&family);
            let remote = self.exits.values().filter(led_there);
            let way = |exit: &NodeExit| {
                let taken = exit.detours.get(&family).and_then(|to| self.exits.get(to)).unwrap_or(exit);
                ElementKey::MarkAddress(self.range.mark(exit.id), routing::next_hop(family, taken.id))
            };
            let elements = remote.map(|exit| (way(exit), None)).collect();
            self.set(&set, &[KeyType::Mark, address_key(family)], None, false, elements);
        }
        rules.push(vec![Statement::Counter, drop()]);
        self.chain(INTO_TUNNEL, rules);
        let clean = self.set_mark(Field::MetaMark, 0);
        // Neither the pod nor the other end knows of the tunnel, and the ICMP that would report its MTU is often filtered.
        self.chain(UNTAG, vec![vec![clean], vec![Statement::ClampMss]]);
    }

    /// Marks and egress addresses of the exits of this node.
    fn own_addresses(&self, family: AddressFamily) -> BTreeSet<(u32, IpAddr)> {
        let address = |exit: &NodeExit| match &exit.role {
            ExitRole::Own { routes, .. } => routes.get(&family).map(|way| way.address),
            ExitRole::Remote { .. } => None,
        };
        let taken = |exit: &NodeExit| match exit.detours.get(&family).and_then(|to| self.exits.get(to)) {
            Some(here) => address(here),
            None => address(exit),
        };
        self.exits.values().filter_map(|exit| Some((self.range.mark(exit.id), taken(exit)?))).collect()
    }

    /// Addresses of this host, by its kernel and by its Node object.
    fn host_addresses(&self, family: AddressFamily) -> BTreeMap<ElementKey, Option<ElementData>> {
        let of_interfaces =
            self.input.host_network.interfaces.values().flat_map(|interface| &interface.addresses).map(IpNet::addr);
        let node = self.input.facts.nodes.get(self.input.node);
        let of_node = node.into_iter().flat_map(|node| node.addresses.iter().copied());
        let of_family = of_interfaces.chain(of_node).filter(|address| AddressFamily::of(*address) == family);
        of_family.map(|address| (ElementKey::Address(address), None)).collect()
    }
}

fn multicast(family: AddressFamily) -> String {
    format!("multicast{}", family.suffix())
}
