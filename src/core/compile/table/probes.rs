//! Rules for probes, by which a source finds out whether a gateway serves an exit.
//!
//! A probe is a SYN from the source's own socket with the exit's mark: it takes the exit's way, through the tunnel to the gateway, which
//! looks the exit up as for any packet and routes it by the exit's table towards the egress interface. The forward hook there answers
//! with a reset: while all of this is in place, whether or not Egret runs. Nothing reaches a socket or leaves the node. Not here: sending
//! probes (`kernel::probe`), and what silence means (`core::liveness`).

use super::Builder;
use super::statements::{accept, address_key, daddr, device, goto, in_set, is_reply, next_hop, saddr};
use crate::core::compile::tunnel::TunnelEndpoint;
use crate::core::compile::{ExitRole, NodeExit, routing};
use crate::core::state::nft::{AddressFamily, ChainKind, ElementKey, Field, Hook, MatchValue, Statement};

/// The port of probes of a path that is in use, or would be if it answered: discard (RFC 863), which no service of a node has.
pub(crate) const PROBE_IN_USE: u16 = 9;
/// The port of probes of a standby that nobody needs now.
pub(crate) const PROBE_IDLE: u16 = 10;

/// Ahead of every filter (0) and of mangle (-150).
const AHEAD: i32 = -280;

fn is(field: Field, address: std::net::IpAddr) -> Statement {
    Statement::Compare { field, mask: None, negated: false, value: MatchValue::Address(address) }
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

    /// On a source, in the input hook: answers are for the sockets that sent probes.
    pub(super) fn probes_return(&self) -> Vec<Vec<Statement>> {
        let rule = |family: &AddressFamily| {
            let answer = is(saddr(*family), routing::probe_address(*family));
            vec![device(Field::Iifname), answer, is_reply(), accept()]
        };
        self.families.iter().map(rule).collect()
    }

    /// Into the tunnel: this node's own probes, by an exit's next hop. Another program may have removed their mark since they were
    /// routed.
    pub(super) fn probes_leave(&mut self, own: &TunnelEndpoint, untag: &str) -> Vec<Vec<Statement>> {
        let mut rules = Vec::new();
        for family in self.families.iter().copied() {
            let set = format!("hops{}", family.suffix());
            let remote = self.exits.values().filter(|exit| matches!(exit.role, ExitRole::Remote { .. }));
            let hops = remote.map(|exit| (ElementKey::Address(routing::next_hop(family, exit.id)), None)).collect();
            let stands = is(saddr(family), own.inner(family));
            rules.push(vec![to_probes(family), stands, in_set(next_hop(family), false, set.clone()), goto(untag)]);
            self.set(&set, &[address_key(family)], None, false, hops);
        }
        rules
    }
}
