//! The state of an exit in one node's kernel: why its packets end there, which exit carries them instead, and the way
//! out on its gateway.
//!
//! It is found in a kernel that was read here, or in an agent's answer. Not here: what becomes of packets by it (`verdict`).

use std::net::IpAddr;

use super::answer::{ExitAnswer, WayOut};
use super::{KernelReading, Situation};
use crate::core::compile::detours::{causes, silent_gateway};
use crate::core::compile::{ExitRole, ExitRoute, NodeExit};
use crate::core::finding::Finding;
use crate::core::name::NodeName;
use crate::core::placement::{ExitKey, place};
use crate::core::state::nft::AddressFamily;

/// The state of an exit in a node's kernel.
#[derive(Debug, Clone, Default)]
pub(super) struct ExitReading {
    /// Why its packets end here.
    pub(super) fault: Option<Finding>,
    /// The exit that carries its packets while its gateway does not answer.
    pub(super) carrier: Option<ExitKey>,
    /// The way out, on its gateway.
    pub(super) way_out: Option<WayOut>,
}

impl Situation<'_> {
    /// The state of an exit in a node's kernel; none: the kernel is not known.
    pub(super) fn exit_reading(&self, node: &NodeName, exit: &ExitKey, destination: IpAddr) -> Option<ExitReading> {
        if let Some(kernel) = self.kernel.filter(|kernel| kernel.node == *node) {
            return Some(kernel.exit_reading(exit, destination));
        }
        let answer = self.told.get(node)?.as_ref().ok()?;
        let of_exit = answer.exit.clone().filter(|of_exit| of_exit.identity == exit.identity());
        let ExitAnswer { fault, carrier, way_out, .. } = of_exit?;
        let carrier = carrier.and_then(|identity| self.exit_called(&identity)).filter(|carrier| carrier != exit);
        // A node's answer counts only for its own way out.
        let way_out = way_out.filter(|_| exit.gateway == *node);
        Some(ExitReading { fault, carrier, way_out })
    }

    /// An exit of the placement, or one that stands by, by its identity.
    pub(super) fn exit_called(&self, identity: &str) -> Option<ExitKey> {
        let placed = self.placement.is_none().then(|| place(self.set, self.facts, self.now));
        let policies = self.placement.or(placed.as_ref()).into_iter().flat_map(|placement| placement.policies.values());
        let mut all = policies.flat_map(|policy| policy.exits.iter().chain(policy.standbys.values().flatten()));
        all.find(|exit| exit.identity() == identity).cloned()
    }
}

impl KernelReading {
    pub(super) fn exit_reading(&self, exit: &ExitKey, destination: IpAddr) -> ExitReading {
        let family = AddressFamily::of(destination);
        let compiled = self.compiled.exits.get(exit);
        ExitReading {
            fault: self.fault_of(exit, family),
            carrier: compiled.and_then(|compiled| compiled.detours.get(&family)).cloned(),
            way_out: compiled
                .filter(|_| exit.gateway == self.node)
                .and_then(|compiled| self.way_out(compiled, destination)),
        }
    }

    fn fault_of(&self, exit: &ExitKey, family: AddressFamily) -> Option<Finding> {
        let closed = match self.compiled.exits.get(exit) {
            None | Some(NodeExit { refused: true, .. }) => true,
            Some(NodeExit { role: ExitRole::Remote { outer, .. }, .. }) => outer.is_none(),
            Some(NodeExit { role: ExitRole::Own { routes, .. }, .. }) => !routes.contains_key(&family),
        };
        let of_exit = |finding: &&Finding| is_fault_of(finding, exit) && finding.is_about(family);
        let finding = || self.compiled.findings.iter().find(of_exit).cloned();
        closed.then(finding).flatten()
    }

    fn way_out(&self, compiled: &NodeExit, destination: IpAddr) -> Option<WayOut> {
        let ExitRole::Own { routes, .. } = &compiled.role else { return None };
        let way = routes.get(&AddressFamily::of(destination))?;
        let route = way.towards(destination);
        let hop = route.and_then(ExitRoute::neighbour).filter(|hop| self.unresolved.contains_key(hop));
        Some(WayOut {
            address: way.address,
            interface: way.interface.clone(),
            reaches: route.is_some(),
            silent: hop.map(|(interface, hop)| (hop, interface)),
        })
    }
}

impl Situation<'_> {
    /// Whether a finding only follows from another of the same exit.
    pub(crate) fn is_consequence(&self, finding: &Finding) -> bool {
        silent_gateway(finding).is_some_and(|gateway| self.findings_of(&gateway).any(|one| causes(one, finding)))
    }
}

/// Whether a finding is about an exit, and by it packets end.
pub(super) fn is_fault_of(finding: &Finding, exit: &ExitKey) -> bool {
    let of_exit = finding.subject == exit.identity() || finding.subject == exit.to_string();
    // What is only reached in part is found by its routes.
    of_exit && finding.drop_reason().is_some_and(|reason| reason != "NoRoute")
}
