//! Detours as a node's kernel has them, and what the node reports of them.
//!
//! Not here: which detours apply (`core::detours`).

use std::collections::BTreeMap;

use super::exit_ids::ExitIds;
use super::{Compiled, ExitRole, NEXT_HOP_SILENT, forwarding, own_exits, routing};
use crate::core::detours::Detours;
use crate::core::finding::Finding;
use crate::core::host_network::HostNetwork;
use crate::core::liveness::{LivenessView, PathKey, PathState};
use crate::core::name::NodeName;
use crate::core::placement::{ExitKey, Placement};
use crate::core::state::NodeState;
use crate::core::state::net::Route;
use crate::core::state::nft::AddressFamily;
use crate::core::state::ownership::DatapathConfig;

/// The detours that are in the kernel: the default route of an exit's table leads to another exit's next hop. So a new process goes
/// on where the last one stopped.
pub(crate) fn observed<'e>(
    exits: impl Iterator<Item = &'e ExitKey>,
    ids: &ExitIds,
    state: &NodeState,
    range: DatapathConfig,
) -> Detours {
    let by_id: BTreeMap<u32, &ExitKey> = exits.filter_map(|exit| Some((ids.of(exit)?, exit))).collect();
    let mut detours = Detours::new();
    for (key, route) in &state.routes {
        let Route::Via { gateway: Some(hop), encap: Some(_), .. } = route else { continue };
        if key.destination.prefix_len() > 0 || key.table <= range.first {
            continue;
        }
        let exit = by_id.get(&(key.table - range.first));
        let to = routing::exit_of_next_hop(*hop).and_then(|id| by_id.get(&id));
        if let (Some(exit), Some(to)) = (exit, to)
            && exit != to
        {
            detours.insert(((*exit).clone(), key.family), (*to).clone());
        }
    }
    detours
}

/// What this node knows of the exits that it is the gateway of: whether it has a way out.
pub(crate) fn own_paths(
    node: &NodeName,
    placement: &Placement,
    families: &[AddressFamily],
    host_network: &HostNetwork,
) -> Vec<(PathKey, PathState)> {
    let mut paths = Vec::new();
    for exit in placement.exits.keys().filter(|exit| exit.gateway == *node) {
        let (mut routes, _) = own_exits::resolve(exit, families, host_network);
        forwarding::close(exit, &mut routes, host_network);
        for family in families {
            let state = if routes.contains_key(family) { PathState::Answering } else { PathState::Silent };
            paths.push(((exit.clone(), *family), state));
        }
    }
    paths
}

/// Code of [`findings`].
pub const SILENT: &str = "gateway-silent";

/// The gateway that a finding says does not answer.
pub fn silent_gateway(finding: &Finding) -> Option<NodeName> {
    // An exit's identity begins with its gateway.
    let gateway = finding.subject.split(' ').next().filter(|_| finding.code == SILENT)?;
    NodeName::parse(gateway).ok()
}

/// Whether what a gateway reports is why it does not answer: without a way out it answers no probe either.
pub fn causes(reported: &Finding, silent: &Finding) -> bool {
    let drops = reported.drop_reason().is_some_and(|reason| reason != "NoRoute");
    // A probe is answered without the next hop.
    let other = ![SILENT, NEXT_HOP_SILENT].contains(&reported.code.as_str());
    drops && other && reported.subject == silent.subject
}

/// What a source reports of gateways that do not answer: one finding for each exit that its members use.
pub(crate) fn findings(compiled: &Compiled, view: &LivenessView) -> Vec<Finding> {
    const HINT: &str = "look at the gateway, its link, and firewalls on both nodes that take the tunnel's UDP port (`egret doctor` there); members return when it has answered for a while";
    let mut findings = Vec::new();
    for (key, exit) in compiled.exits.iter().filter(|(_, exit)| !exit.members.is_empty()) {
        let is_silent =
            |family: &AddressFamily| exit.detours.contains_key(family) || view.of(key, *family) == PathState::Silent;
        let families: Vec<&AddressFamily> = exit.families.iter().filter(|family| is_silent(family)).collect();
        let silent = AddressFamily::BOTH.into_iter().any(|family| view.of(key, family) == PathState::Silent);
        let mut carriers: Vec<String> = exit.detours.values().map(ExitKey::identity).collect();
        carriers.dedup();
        let consequence = match carriers.as_slice() {
            [] if !silent => continue,
            [] => "no standby answers either; members' packets are lost on the way".to_owned(),
            carriers => format!("{}{CARRIES}", carriers.join(" and ")),
        };
        let over = match families.as_slice() {
            [family] if exit.families.len() > 1 => format!(" over {}", family.version()),
            _ => String::new(),
        };
        let fault = match exit.role {
            ExitRole::Remote { .. } => "its gateway does not answer this node's probes",
            ExitRole::Own { .. } => "this node has no way out for it",
        };
        findings.push(Finding::new(SILENT, key.identity(), format!("{fault}{over}; {consequence}")).hint(HINT));
    }
    findings
}

/// How the message of a silent exit ends whose members others carry.
const CARRIES: &str = " carries its members meanwhile";

/// What a source reports of an exit in a family ([`findings`]): whether its gateway does not answer.
pub(crate) fn is_silent(finding: &Finding, family: AddressFamily) -> bool {
    finding.code == SILENT && finding.is_about(family)
}

/// The identity of the exit that carries the members of a silent one, as the finding has it; none: they are lost.
pub(crate) fn carrier(finding: &Finding) -> Option<&str> {
    let carriers = finding.message.strip_suffix(CARRIES)?.rsplit_once("; ")?.1;
    Some(carriers.split_once(" and ").map_or(carriers, |(first, _)| first))
}
