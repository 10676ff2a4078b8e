//! Prerouting and output rules: which packets are steered, dropped until their pod is known, or returned into the tunnel.
//!
//! Not here: what a mark then means (`guard` and `routing`).

use std::collections::BTreeMap;

use super::statements::{
    accept, address_key, daddr, device, drop, goto, in_set, is_original, is_reply, ranges, saddr, translated_to,
};
use super::{ARRIVE, ARRIVED, Builder, CLASSIFY, GROUP, LAST, exit_chain};
use crate::core::compile::{ExitRole, allowed};
use crate::core::state::nft::{
    AddressFamily, ChainKind, DataType, ElementData, ElementKey, Field, Hook, KeyType, MatchValue, Statement, Verdict,
};

/// Where what a pod sends goes on from prerouting and from the host's output.
const OUTBOUND: &str = "outbound";
/// Where replies to what came out of the tunnel turn back into it.
const REPLY: &str = "reply";
/// Where a reply that came out of the tunnel goes on.
const HOME: &str = "home";
/// Ahead of IPVS, which takes its packets out of the input hook at 98 and 99 (`ip_vs_ops4`, net/netfilter/ipvs/ip_vs_core.c).
const BEFORE_IPVS: i32 = 97;

/// `NF_CT_STATE_BIT(IP_CT_NEW)` (include/uapi/linux/netfilter/nf_conntrack_common.h).
const NEW: u32 = 8;
/// `NF_CT_STATE_BIT(IP_CT_RELATED)`.
const RELATED: u32 = 4;

impl Builder<'_> {
    /// The chains of prerouting and output, and what they lead to.
    pub(super) fn steer(&mut self) {
        // Ahead of everything that accepts: a flushed connection's replies still find its entry, and open none.
        let flushed = self.range.flushed_mark().map(|flushed| {
            let flushed = Statement::Compare {
                field: Field::CtMark,
                mask: Some(self.range.mask),
                negated: false,
                value: MatchValue::Mark(flushed),
            };
            vec![flushed, Statement::Counter, drop()]
        });
        let mut rules = Vec::from_iter(flushed.clone());
        if self.tunnel.is_some() {
            rules.push(vec![device(Field::Iifname), goto(ARRIVE)]);
            self.arrive();
        }
        // A packet that arrives with an exit's mark got it from another program, and policy routing would send it through that
        // exit. Other bits, and values of Egret's bits that mean nothing here, stay: their writer may need them.
        let clean = self.set_mark(Field::MetaMark, 0);
        rules.push(vec![self.of_an_exit(Field::MetaMark, false), clean.clone()]);
        rules.push(vec![self.marked(self.range.reply_mark()), clean.clone()]);
        rules.extend(self.range.unknown_mark().map(|unknown| vec![self.marked(unknown), clean.clone()]));
        let turn_back = self.turn_back();
        rules.extend(turn_back.iter().cloned());
        rules.push(vec![is_reply(), accept()]);
        // A packet from outside the node with a member's address is not the member's, unless the route to the member leads there.
        if let Some(from_outside) = self.uplink_match(false) {
            rules.push(vec![from_outside, Statement::NoRouteBack, accept()]);
        }
        rules.push(vec![goto(OUTBOUND)]);
        self.base("steer", ChainKind::Filter, Hook::Prerouting, LAST, rules);
        // What comes by the output hook has its route already, and is routed once more if its mark changes in the second look: so it
        // comes there without one.
        let unsteer =
            vec![vec![Statement::FromThisHost, accept()], vec![self.of_an_exit(Field::MetaMark, false), clean]];
        self.base("unsteer_output", ChainKind::Filter, Hook::Output, LAST - 1, unsteer);
        // A second look, at what never was forwarded: kube-proxy in IPVS mode translates in the input hook and sends on from the
        // output hook (net/netfilter/ipvs/ip_vs_xmit.c), and a proxy on the host may speak with a pod's address. What this
        // kernel answers for connections out of the tunnel, as an ICMP error, takes the tunnel too.
        let mut again = Vec::from_iter(flushed);
        if self.is_gateway {
            // An error about a reply, as that it is too large for the tunnel, goes to the outside by the exit that the connection has.
            let about_a_reply = Statement::CtState { bits: RELATED, negated: false };
            let by_mark = Statement::VerdictMap {
                field: Field::CtMark,
                mask: Some(self.range.mask),
                map: "exit_of_mark".to_owned(),
            };
            again.push(vec![about_a_reply, is_original(), by_mark]);
        }
        again.extend(turn_back);
        again.extend(self.tunnel.map(|_| self.provocations()));
        again.push(vec![is_reply(), accept()]);
        again.push(vec![Statement::FromThisHost, accept()]);
        again.push(vec![goto(OUTBOUND)]);
        self.base("steer_output", ChainKind::Route, Hook::Output, LAST, again);
        self.outbound();
        self.remember();
    }

    /// Packets that IPVS forwards have no input interface in the output hook, and an unclassified pod may be recognisable by
    /// its interface alone. So they get a mark before IPVS, which [`Self::classify`] drops after it has matched members.
    fn remember(&mut self) {
        let Some(unknown) = self.range.unknown_mark().filter(|_| !self.families.is_empty()) else { return };
        let remember = self.set_mark(Field::MetaMark, unknown);
        // Another program that wrote this mark after `steer` must not decide which packets are a pod's.
        let clean = self.set_mark(Field::MetaMark, 0);
        let mut rules = vec![vec![self.marked(unknown), clean], vec![is_reply(), accept()]];
        rules.extend(self.uplink_match(false).map(|from_outside| vec![from_outside, accept()]));
        for family in self.families.iter().copied() {
            for set in ["others", "host"] {
                rules.push(vec![in_set(saddr(family), false, format!("{set}{}", family.suffix())), accept()]);
            }
        }
        for family in self.families.iter().copied() {
            rules.push(vec![in_set(saddr(family), false, format!("podnets{}", family.suffix())), remember.clone()]);
        }
        rules.extend(self.of_a_pod().map(|of_a_pod| vec![of_a_pod, remember]));
        self.base("remember", ChainKind::Filter, Hook::Input, BEFORE_IPVS, rules);
    }

    /// Came in by a pod's interface; none where the kernel can't say what kind an interface is of.
    fn of_a_pod(&self) -> Option<Statement> {
        let value = MatchValue::Interface("veth".to_owned());
        let of_a_pod = Statement::Compare { field: Field::Iifkind, mask: None, negated: false, value };
        self.input.host_network.features.interface_kinds.then_some(of_a_pod)
    }

    /// `meta mark & MASK == VALUE`
    pub(super) fn marked(&self, value: u32) -> Statement {
        let (mask, value) = (Some(self.range.mask), MatchValue::Mark(value));
        Statement::Compare { field: Field::MetaMark, mask, negated: false, value }
    }

    /// Replies to what came out of the tunnel. Behind destination NAT they are addressed to what stands for the node.
    fn turn_back(&mut self) -> Vec<Vec<Statement>> {
        if self.tunnel.is_none() || !self.is_gateway {
            return Vec::new();
        }
        let reply = self.set_mark(Field::MetaMark, self.range.reply_mark());
        self.chain(REPLY, vec![vec![reply, accept()]]);
        let mut rules = Vec::new();
        for family in self.families.iter().copied() {
            let set = format!("tunnels{}", family.suffix());
            let others = self.networks.others.values().map(|end| (ElementKey::Address(end.inner(family)), None));
            self.set(&set, &[address_key(family)], None, false, others.collect());
            let to_a_node = in_set(daddr(family), false, set);
            rules.push(vec![is_reply(), to_a_node, self.of_an_exit(Field::CtMark, false), goto(REPLY)]);
        }
        rules
    }

    /// Packets of connections that a pod opens.
    fn outbound(&mut self) {
        let mut rules = Vec::new();
        // Another daemon wrote an exit's mark that a new connection has: it would look like a member's connection that lost its
        // route. A connection of Egret's has one of its translations by the second packet.
        for family in self.families.iter().copied() {
            let new = Statement::CtState { bits: NEW, negated: false };
            let not_ours = in_set(translated_to(family), true, format!("translated{}", family.suffix()));
            let clean = self.set_mark(Field::CtMark, 0);
            rules.push(vec![new, self.of_an_exit(Field::CtMark, false), not_ours, clean]);
        }
        for family in self.families.iter().copied() {
            let name = format!("cluster{}", family.suffix());
            rules.push(vec![in_set(daddr(family), false, name.clone()), accept()]);
            self.set(&name, &[address_key(family)], None, true, ranges(&self.networks.cluster, family));
        }
        rules.extend(self.resets());
        // A live connection stays on its exit: one that has the exit's mark and a translation of ours. The mark alone is not
        // enough, for another daemon may use the same bits.
        for family in self.families.iter().copied() {
            let name = format!("translated{}", family.suffix());
            let by_mark = Statement::VerdictMap {
                field: Field::CtMark,
                mask: Some(self.range.mask),
                map: "exit_of_mark".to_owned(),
            };
            rules.push(vec![in_set(translated_to(family), false, name.clone()), by_mark]);
            self.set(&name, &[address_key(family)], None, false, self.translations(family));
        }
        for family in self.families.iter().copied() {
            let guarded = format!("guarded{}", family.suffix());
            let classify = format!("{CLASSIFY}{}", family.suffix());
            rules.push(vec![in_set(daddr(family), false, guarded.clone()), goto(&classify)]);
            self.set(&guarded, &[address_key(family)], None, true, ranges(&self.networks.guarded, family));
            self.classify(family, &classify);
        }
        self.chain(OUTBOUND, rules);
    }

    /// Every known pod of this node is in the map or in the set. Packets of a pod in neither, which has just started, are dropped.
    fn classify(&mut self, family: AddressFamily, chain: &str) {
        let (members, others) = (format!("group_of{}", family.suffix()), format!("others{}", family.suffix()));
        let (mut of_group, mut of_none) = (BTreeMap::new(), BTreeMap::new());
        for (address, group) in
            self.grouping.addresses.iter().filter(|(address, _)| AddressFamily::of(**address) == family)
        {
            match group {
                Some(name) => {
                    let verdict = ElementData::Verdict(Verdict::Goto(format!("{GROUP}{name}")));
                    of_group.insert(ElementKey::Address(*address), Some(verdict));
                }
                None => {
                    of_none.insert(ElementKey::Address(*address), None);
                }
            }
        }
        // What is for an address of this host is for a socket, or for a Service of IPVS, whose endpoint the output hook sees.
        let mut rules = vec![
            self.older_than_its_policy(family),
            vec![in_set(saddr(family), false, others.clone()), accept()],
            vec![Statement::ToThisHost, accept()],
            vec![Statement::VerdictMap { field: saddr(family), mask: None, map: members.clone() }],
        ];
        // An unclassified pod is recognised by its address or its interface. A packet from outside the node is no pod's, whatever
        // its address: in some clouds pods and nodes share a network.
        if let Some(from_outside) = self.uplink_match(false) {
            rules.push(vec![from_outside, accept()]);
        }
        let podnets = format!("podnets{}", family.suffix());
        rules.push(vec![in_set(saddr(family), false, podnets.clone()), Statement::Counter, drop()]);
        rules.extend(self.of_a_pod().map(|of_a_pod| vec![of_a_pod, Statement::Counter, drop()]));
        rules.extend(self.range.unknown_mark().map(|unknown| vec![self.marked(unknown), Statement::Counter, drop()]));
        self.chain(chain, rules);
        self.set(&members, &[address_key(family)], Some(DataType::Verdict), false, of_group);
        self.set(&others, &[address_key(family)], None, false, of_none);
        self.set(&podnets, &[address_key(family)], None, true, ranges(&self.networks.pods, family));
    }

    /// A connection without a mark is older than any policy and stays as it is, unless its translation can only be Egret's: then
    /// another program removed the mark, and it is classified again, like one whose exit is gone.
    fn older_than_its_policy(&self, family: AddressFamily) -> Vec<Statement> {
        let mut rule = vec![Statement::CtState { bits: NEW, negated: true }, self.unmarked(Field::CtMark, false)];
        let stands = self.tunnel.map(|own| own.inner(family));
        // A CNI translates to the node's own address, too.
        if let Some(own) = stands.filter(|own| !self.networks.nodes.contains(own)) {
            let value = MatchValue::Address(own);
            rule.push(Statement::Compare { field: translated_to(family), mask: None, negated: true, value });
        }
        rule.push(accept());
        rule
    }

    /// What connections of ours are translated to on this node.
    fn translations(&self, family: AddressFamily) -> BTreeMap<ElementKey, Option<ElementData>> {
        let addresses = self.exits.values().filter_map(|exit| match &exit.role {
            ExitRole::Own { routes, .. } => routes.get(&family).map(|way| way.address),
            ExitRole::Remote { .. } => None,
        });
        let own = self.tunnel.map(|own| own.inner(family));
        addresses.chain(own).map(|address| (ElementKey::Address(address), None)).collect()
    }

    /// Members of policies with `existingConnections: Reset`: every packet is classified, whatever its connection remembers.
    fn resets(&mut self) -> Vec<Vec<Statement>> {
        let mut rules = Vec::new();
        for family in self.families.iter().copied() {
            let mut elements = BTreeMap::new();
            for (address, group) in &self.grouping.addresses {
                let chain = group.as_ref().map(|name| format!("reset_{name}"));
                if let Some(chain) = chain.filter(|chain| self.table.chains.contains_key(chain))
                    && AddressFamily::of(*address) == family
                {
                    elements.insert(ElementKey::Address(*address), Some(ElementData::Verdict(Verdict::Jump(chain))));
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

    /// What comes out of the tunnel: replies go on to the pod; members' packets to the exit that their frame is addressed to, if
    /// a policy of that exit names where they go; anything else was not meant for it.
    fn arrive(&mut self) {
        let clean = self.set_mark(Field::MetaMark, 0);
        self.chain(HOME, vec![vec![clean, accept()]]);
        let exit = Statement::VerdictMap { field: Field::EtherDaddr, mask: None, map: "exit_of_mac".to_owned() };
        let mut rules = vec![vec![is_reply(), goto(HOME)]];
        rules.extend(self.transfers_arrive());
        rules.extend([vec![exit], vec![Statement::Counter, drop()]]);
        self.chain(ARRIVE, rules);
        let mut of_mac = BTreeMap::new();
        for exit in self.exits.values() {
            let ExitRole::Own { mac, .. } = exit.role else { continue };
            let chain = format!("{ARRIVED}{}", exit.id);
            // A connection that was let through stays, also if its destination is named no longer.
            let mark = MatchValue::Mark(self.range.mark(exit.id));
            let known =
                Statement::Compare { field: Field::CtMark, mask: Some(self.range.mask), negated: false, value: mark };
            let old = Statement::CtState { bits: NEW, negated: true };
            let mut rules = self.probes_of(exit);
            rules.push(vec![old, known, goto(&exit_chain(exit.id))]);
            let named = allowed(self.input.set, &exit.policies);
            for family in self.families.iter().copied() {
                let set = format!("allowed{}_{}", family.suffix(), exit.id);
                rules.push(vec![in_set(daddr(family), false, set.clone()), goto(&exit_chain(exit.id))]);
                self.set(&set, &[address_key(family)], None, true, ranges(&named, family));
            }
            rules.push(vec![Statement::Counter, drop()]);
            self.chain(&chain, rules);
            of_mac.insert(ElementKey::Mac(mac), Some(ElementData::Verdict(Verdict::Goto(chain))));
        }
        self.set("exit_of_mac", &[KeyType::EtherAddr], Some(DataType::Verdict), false, of_mac);
    }
}
