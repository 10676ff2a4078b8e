//! Rules for probes, by which a source finds out whether a gateway serves an exit.
//!
//! A probe is a SYN from the source's own socket with the exit's mark: it takes the exit's way, through the tunnel to the gateway, which
//! looks the exit up as for any packet and routes it by the exit's table towards the egress interface. The forward hook there answers
//! with a reset: while all of this is in place, whether or not Egret runs. Nothing reaches a socket or leaves the node. Transfers of
//! connections take the same way to an address beside it, and end at the agent of the gateway. Not here: sending probes
//! (`kernel::probe`), what silence means (`core::liveness`), and what a transfer says (`core::transfer`).

use super::Builder;
use super::statements::{accept, address_key, daddr, device, goto, in_set, is_reply, next_hop, saddr};
use crate::core::compile::tunnel::TunnelEndpoint;
use crate::core::compile::{ExitRole, NodeExit, routing};
use crate::core::state::nft::{AddressFamily, ChainKind, ElementKey, Field, Hook, MatchValue, Statement};

/// The port of probes of a path that is in use, or would be if it answered: discard (RFC 863), which no service of a node has.
pub(crate) const PROBE_IN_USE: u16 = 9;
/// The port of probes of a standby that is not needed now.
pub(crate) const PROBE_IDLE: u16 = 10;

/// Ahead of every filter (0) and of mangle (-150).
const AHEAD: i32 = -280;

fn is(field: Field, address: std::net::IpAddr) -> Statement {
    Statement::Compare { field, mask: None, negated: false, value: MatchValue::Address(address) }
}

/// The set of the addresses that probes and transfers are sent to.
fn control(family: AddressFamily) -> String {
    format!("control{}", family.suffix())
}

/// To the agent of a gateway.
fn to_agent(family: AddressFamily) -> [Statement; 2] {
    let port = MatchValue::Port(routing::TRANSFER_PORT);
    let port = Statement::Compare { field: Field::UdpDport, mask: None, negated: false, value: port };
    [port, is(daddr(family), routing::transfer_address(family))]
}

/// To the probes' address.
fn to_probes(family: AddressFamily) -> Statement {
    is(daddr(family), routing::probe_address(family))
}

/// Counts probes of a path that is in use.
fn counted(family: AddressFamily) -> Vec<Statement> {
    let port = MatchValue::Port(PROBE_IN_USE);
    let in_use = Statement::Compare { field: Field::TcpDport, mask: None, negated: false, value: port };
    vec![to_probes(family), in_use, Statement::Counter]
}

impl Builder<'_> {
    /// On a gateway, in the chain of what arrives for an exit: a probe gets the exit's mark, and with it the exit's table. It is not
    /// counted as the exit's traffic.
    pub(super) fn probes_of(&self, exit: &NodeExit) -> Vec<Vec<Statement>> {
        if !self.input.host_network.features.resets {
            return Vec::new();
        }
        let mark = self.range.mark(exit.id);
        // How many sources want an address that Egret assigns decides who has it (`core::assignment::holding`).
        let counts = exit.assigned.then(|| self.families.iter().map(|family| counted(*family)));
        let marks = [self.set_mark(Field::MetaMark, mark), self.set_mark(Field::CtMark, mark), accept()];
        let marked = self.families.iter().map(|family| [&[to_probes(*family)][..], &marks].concat());
        counts.into_iter().flatten().chain(marked).collect()
    }

    /// On a gateway, in the forward hook: the answers. Ahead of others' filters, which may drop what they do not know.
    pub(super) fn probes_answered(&mut self) {
        if !self.is_gateway || self.tunnel.is_none() || !self.input.host_network.features.resets {
            return;
        }
        // Another program may have removed the mark of the packet since it was routed.
        let of_an_exit = self.of_an_exit(Field::CtMark, false);
        let rule = |family: &AddressFamily| {
            vec![device(Field::Iifname), to_probes(*family), of_an_exit.clone(), Statement::Reset]
        };
        let rules = self.families.iter().map(rule).collect();
        self.base("probes", ChainKind::Filter, Hook::Forward, AHEAD, rules);
    }

    /// In the input hook: on a source, answers are for the sockets that sent probes or transfers; on a gateway, transfers are for the
    /// agent.
    pub(super) fn for_sockets(&mut self) -> Vec<Vec<Statement>> {
        let mut rules = Vec::new();
        for family in self.families.iter().copied() {
            let answer = in_set(saddr(family), false, control(family));
            rules.push(vec![device(Field::Iifname), answer, is_reply(), accept()]);
            let addresses = [routing::probe_address(family), routing::transfer_address(family)];
            let elements = addresses.into_iter().map(|address| (ElementKey::Address(address), None)).collect();
            self.set(&control(family), &[address_key(family)], None, false, elements);
        }
        if self.is_gateway {
            for family in self.families.iter().copied() {
                rules.push([&[device(Field::Iifname)][..], &to_agent(family), &[accept()]].concat());
            }
        }
        rules
    }

    /// On a gateway, among what comes out of the tunnel: transfers keep the replies' mark, whose table delivers them. The ingress chain
    /// has seen that they have the tunnel address of the node that sent them.
    pub(super) fn transfers_arrive(&self) -> Vec<Vec<Statement>> {
        if !self.is_gateway {
            return Vec::new();
        }
        self.families.iter().map(|family| [&to_agent(*family)[..], &[accept()]].concat()).collect()
    }

    /// In the output hook: what the agent sends as the other end of a member's connection, so that the member speaks
    /// (`kernel::provoke`). By the replies' mark it has a route until connection tracking has found out to which pod it goes; without
    /// it, it is routed there.
    pub(super) fn provocations(&self) -> Vec<Statement> {
        let (of_an_exit, sent) = (self.of_an_exit(Field::CtMark, false), self.marked(self.range.reply_mark()));
        vec![is_reply(), of_an_exit, sent, self.set_mark(Field::MetaMark, 0), accept()]
    }

    /// Into the tunnel: this node's own probes and transfers, by an exit's next hop. Another program may have removed their mark since they were
    /// routed.
    pub(super) fn probes_leave(&mut self, own: &TunnelEndpoint, untag: &str) -> Vec<Vec<Statement>> {
        let mut rules = Vec::new();
        for family in self.families.iter().copied() {
            let set = format!("hops{}", family.suffix());
            let remote = self.exits.values().filter(|exit| matches!(exit.role, ExitRole::Remote { .. }));
            let hops = remote.map(|exit| (ElementKey::Address(routing::next_hop(family, exit.id)), None)).collect();
            let stands = is(saddr(family), own.inner(family));
            let sent = in_set(daddr(family), false, control(family));
            rules.push(vec![sent, stands, in_set(next_hop(family), false, set.clone()), goto(untag)]);
            self.set(&set, &[address_key(family)], None, false, hops);
        }
        rules
    }
}
