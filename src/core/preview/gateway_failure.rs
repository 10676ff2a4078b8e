//! Simulates the failure of each gateway after the change.
//!
//! Each gateway is marked unfit in turn, and the policies that it serves are placed again by the same function that
//! every node uses. Two failures at once are not simulated.

use std::collections::{BTreeMap, BTreeSet};

use super::PreviewInput;
use super::moves::PodMoves;
use super::outcome::has_no_address;
use super::revision::RevisionState;
use crate::core::cidr::AddressRange;
use crate::core::name::NodeName;
use crate::core::placement::{ExitKey, place};
use crate::core::policy::{OnNoGateway, PolicyId, PolicySet};

/// What happens to one policy's pods when a gateway fails.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GatewayFailure {
    /// The failed gateway.
    pub gateway: NodeName,
    /// The policy.
    pub policy: PolicyId,
    /// The number of its pods that leave through the gateway.
    pub pods: usize,
    /// The outcome for them.
    pub then: FailureOutcome,
    /// Sources lead them there by themselves, as soon as the gateway does not answer; otherwise it takes until the cluster reports
    /// that the node is not Ready.
    pub standby: bool,
}

/// The outcome for pods that lose their gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FailureOutcome {
    /// They leave through others.
    Through(Vec<ExitKey>),
    /// They are dropped.
    Dropped,
    /// They leave with their own addresses, by the node's own routing.
    Own,
}

/// Simulates the failure of every gateway of the touched policies, one at a time. Sorted by gateway and policy.
pub(super) fn each(
    input: &PreviewInput<'_>,
    after: &mut RevisionState<'_>,
    moves: &PodMoves,
    touched: &BTreeSet<PolicyId>,
) -> Vec<GatewayFailure> {
    let mut serves: BTreeMap<NodeName, BTreeMap<PolicyId, usize>> = BTreeMap::new();
    for (policy, placed) in after.placement.policies.iter().filter(|(id, _)| touched.contains(id)) {
        // Pods whose packets are dropped while the gateway works lose nothing when it fails.
        let destinations: Vec<AddressRange> = match after.set.policies.get(policy) {
            Some(policy) => policy.destinations.iter().copied().map(AddressRange::from).collect(),
            None => Vec::new(),
        };
        for exit in placed.exits.iter().filter(|exit| !has_no_address(input, exit, &destinations)) {
            let pods = moves.carried.get(&(policy.clone(), exit.clone())).copied().unwrap_or_default();
            *serves.entry(exit.gateway.clone()).or_default().entry(policy.clone()).or_default() += pods;
        }
    }
    let standbys: BTreeSet<ExitKey> = after.placement.standbys().into_keys().cloned().collect();
    let mut failures = Vec::new();
    for (gateway, policies) in serves.into_iter().take(input.limits.gateways) {
        let of_policy = |id: &PolicyId| after.set.policies.get(id).map(|policy| (id.clone(), policy.clone()));
        let set = PolicySet {
            policies: policies.keys().filter_map(of_policy).collect(),
            config: after.set.config.clone(),
            grants: after.set.grants.clone(),
            ..PolicySet::default()
        };
        let was = after.facts.nodes.get_mut(&gateway).map(|node| std::mem::replace(&mut node.ready, false));
        let placement = place(&set, &after.facts, input.now);
        if let (Some(was), Some(node)) = (was, after.facts.nodes.get_mut(&gateway)) {
            node.ready = was;
        }
        for (policy, pods) in policies.into_iter().filter(|(_, pods)| *pods > 0) {
            let Some(placed) = placement.policies.get(&policy) else { continue };
            let then = match (placed.exits.as_slice(), placed.on_no_gateway) {
                ([], OnNoGateway::Drop) => FailureOutcome::Dropped,
                ([], OnNoGateway::Passthrough) => FailureOutcome::Own,
                (exits, _) => FailureOutcome::Through(exits.to_vec()),
            };
            let served = after.placement.policies.get(&policy).into_iter().flat_map(|placed| &placed.exits);
            let standby = served.filter(|exit| exit.gateway == gateway).all(|exit| standbys.contains(exit));
            failures.push(GatewayFailure { gateway: gateway.clone(), policy, pods, then, standby });
        }
    }
    failures
}
