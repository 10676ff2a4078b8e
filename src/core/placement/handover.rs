//! Moves a policy from the exits that carried its members to the newly placed ones without a gap.
//!
//! A newly placed gateway takes a moment to be ready, and one that was left still carries live connections. Every node
//! decides this itself from the same facts; nodes differ only in when, and in which order, they receive them: that no
//! node is fit may only mean that a label has not arrived yet. Not here: the choice of gateways ([`super::place`]), and
//! connections.

mod persisted;

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

pub use self::persisted::PersistedHandover;
use super::{Exit, ExitKey, Placement};
use crate::core::facts::{AddressOwner, AddressOwners, Facts};
use crate::core::finding::Finding;
use crate::core::name::NodeName;
use crate::core::policy::{ExistingConnections, Policy, PolicyId, PolicySet};
use crate::core::state::net::Mac;

/// The exits that each gateway reports as served, by identity.
pub type Serving = BTreeMap<NodeName, BTreeSet<String>>;

/// What a node knows of gateways.
#[derive(Debug, Clone, Copy)]
pub struct GatewayKnowledge<'a> {
    /// What they report; none where no gateway can report, so that every exit counts as ready.
    pub serving: Option<&'a Serving>,
    /// Exits whose gateway answers this node's probes.
    pub answering: &'a BTreeSet<ExitKey>,
    /// Exits whose gateway answers none of this node's probes, in no family.
    pub silent: &'a BTreeSet<ExitKey>,
    /// Exits whose packets another gateway carries.
    pub replaced: &'a BTreeSet<ExitKey>,
}

impl GatewayKnowledge<'_> {
    /// Whether packets may be sent to an exit.
    fn is_ready(&self, exit: &ExitKey, own: &NodeName) -> bool {
        let Some(serving) = self.serving else { return true };
        let says = serving.get(&exit.gateway).is_some_and(|exits| exits.contains(&exit.identity()));
        exit.gateway == *own || says || self.answering.contains(exit)
    }

    /// Whether an exit's address was moved to another node: its connections can only continue there.
    fn has_moved(&self, exit: &ExitKey, own: &NodeName) -> bool {
        let Some(serving) = self.serving else { return false };
        let says = serving.get(&exit.gateway).map(|exits| exits.contains(&exit.identity()));
        exit.egress.is_named() && !says.unwrap_or(exit.gateway == *own)
    }
}

/// How long an exit that was left is kept for the connections that began on it. Most end sooner; the others are then
/// moved as if their gateway had failed.
pub const DRAIN: SignedDuration = SignedDuration::from_mins(10);

/// How long a policy without a fit gateway stays on the exits that carried it, if their gateways are there: labels and
/// policies arrive in no fixed order, and a label that a user removed is restored at once.
pub const HOLD: SignedDuration = SignedDuration::from_secs(5);

/// A node's persisted state of exits in use and being drained.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "PersistedHandover", into = "PersistedHandover")]
pub struct Handover {
    /// The exits of each policy.
    carried: BTreeMap<PolicyId, Carried>,
    /// Exits being drained, with the policies that left them, and until when they are kept.
    left: BTreeMap<ExitKey, Left>,
    /// Policies without a fit gateway, and until when they stay on their exits.
    held: BTreeMap<PolicyId, Timestamp>,
}

/// The exits that carry a policy, and what they carry.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Carried {
    exits: Vec<ExitKey>,
    /// A hash of whose packets to where the policy means. None: an older version did not persist it.
    scope: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Left {
    exit: Exit,
    policies: BTreeSet<PolicyId>,
    until: Timestamp,
}

impl Handover {
    /// Returns the placement that applies now on the node `own`, given the one that applied before, and stores it.
    ///
    /// While a newly placed gateway does not report that it serves an exit, the policy stays on the exits that carried
    /// it, as long as one of their gateways is there; without any fit gateway, for [`HOLD`]. Exits without a placed
    /// policy are kept for [`DRAIN`].
    ///
    /// A policy that selects other pods or destinations than before does not stay: neither the former version nor the
    /// new one gives these packets the former exit's address, so they are dropped until the new gateway serves.
    pub fn next(
        &mut self,
        mut placement: Placement,
        own: &NodeName,
        set: &PolicySet,
        facts: &Facts,
        known: GatewayKnowledge<'_>,
        now: Timestamp,
    ) -> Placement {
        let ready = |exit: &ExitKey| known.is_ready(exit, own);
        let owners = facts.owners();
        let before = std::mem::take(self);
        let mut carried = BTreeMap::new();
        for (policy, placed) in &mut placement.policies {
            let scope = set.policies.get(policy).map(scope_of);
            let carried_by = || {
                let old = before.carried.get(policy).filter(|old| old.scope.is_none() || old.scope == scope);
                let old = old.into_iter().flat_map(|old| &old.exits).cloned();
                old.filter(|exit| is_there(exit, facts, &owners) && ready(exit)).collect::<Vec<ExitKey>>()
            };
            if placed.exits.is_empty() {
                let alive = carried_by();
                let until = ends_by(now, HOLD, before.held.get(policy).copied());
                // Where no node reports, all changes come from one source, in order.
                if known.serving.is_some() && !alive.is_empty() && now < until {
                    placed.exits = alive;
                    self.held.insert(policy.clone(), until);
                }
            } else if let Some(waiting) = placed.exits.iter().find(|exit| !ready(exit)) {
                let waits_for = waiting.identity();
                let alive = carried_by();
                let message = if alive.is_empty() {
                    format!("{waits_for} is not ready yet; members' packets to its destinations are dropped")
                } else {
                    let by: Vec<String> = alive.iter().map(ExitKey::identity).collect();
                    format!("{waits_for} is not ready yet; {} carries its members until then", by.join(" and "))
                };
                placement.findings.push(Finding::new("gateway-not-ready", policy, message));
                if !alive.is_empty() {
                    placed.exits = alive;
                }
            }
            carried.insert(policy.clone(), Carried { exits: placed.exits.clone(), scope });
        }
        self.carried = carried;
        self.leave(&before, &placement, (set, facts), known.replaced, now);
        // A drained exit has no standbys: connections on a gateway that does not answer begin anew elsewhere, unless another
        // exit has the address and carries them.
        let carried = |exit: &ExitKey| {
            let mut others = placement.exits.keys().filter(|other| *other != exit);
            exit.egress.is_named() && others.any(|other| other.egress == exit.egress)
        };
        let is_lost = |exit: &ExitKey| exit.gateway != *own && known.silent.contains(exit) && !carried(exit);
        self.left.retain(|exit, _| known.replaced.contains(exit) || !known.has_moved(exit, own) && !is_lost(exit));
        self.keep(&mut placement, facts);
        placement.findings.sort();
        placement
    }

    /// When the first drained exit is dropped, or the first policy without a gateway is released.
    pub fn wake(&self) -> Option<Timestamp> {
        self.left.values().map(|left| left.until).chain(self.held.values().copied()).min()
    }

    /// Drains an exit no longer: no connection can be on it.
    pub fn forget(&mut self, exit: &ExitKey) {
        self.left.remove(exit);
    }

    /// The exits that carry a policy, or are drained.
    pub fn exits(&self) -> impl Iterator<Item = &ExitKey> {
        self.carried.values().flat_map(|carried| &carried.exits).chain(self.left.keys())
    }

    /// Records which exits each policy has left, and until when each is kept.
    fn leave(
        &mut self,
        before: &Self,
        placement: &Placement,
        (set, facts): (&PolicySet, &Facts),
        replaced: &BTreeSet<ExitKey>,
        now: Timestamp,
    ) {
        let owners = facts.owners();
        let used: BTreeSet<&ExitKey> = placement.policies.values().flat_map(|placed| &placed.exits).collect();
        let keeps = |policy: &PolicyId| {
            placement.policies.contains_key(policy)
                && set
                    .policies
                    .get(policy)
                    .is_some_and(|policy| policy.existing_connections == ExistingConnections::Keep)
        };
        let mut left = before.left.clone();
        for left in left.values_mut() {
            left.until = ends_by(now, DRAIN, Some(left.until));
        }
        for (policy, carried) in before.carried.iter().filter(|(policy, _)| keeps(policy)) {
            for exit in carried.exits.iter().filter(|exit| !used.contains(exit)) {
                let entry = left.entry(exit.clone()).or_insert_with(|| Left {
                    exit: Exit { mac: exit.mac() },
                    policies: BTreeSet::new(),
                    until: ends_by(now, DRAIN, None),
                });
                entry.policies.insert(policy.clone());
            }
        }
        left.retain(|exit, left| {
            left.policies.retain(|policy| keeps(policy));
            let carried = replaced.contains(exit) || is_there(exit, facts, &owners);
            !left.policies.is_empty() && !used.contains(exit) && carried && now < left.until
        });
        self.left = left;
    }

    /// Adds drained exits to the placement, unless another exit of the same gateway has the same MAC address.
    fn keep(&self, placement: &mut Placement, facts: &Facts) {
        let taken: BTreeSet<(NodeName, Mac)> =
            placement.exits.iter().map(|(key, exit)| (key.gateway.clone(), exit.mac)).collect();
        for (key, left) in &self.left {
            // It may stand by already.
            if placement.exits.contains_key(key) || !taken.contains(&(key.gateway.clone(), left.exit.mac)) {
                placement.exits.insert(key.clone(), left.exit.clone());
                placement.left.insert(key.clone(), left.policies.clone());
            }
        }
        // Exits that carry a policy until its new gateway is ready must be part of it, too.
        let carrying: Vec<ExitKey> = placement.policies.values().flat_map(|placed| placed.exits.clone()).collect();
        let owners = facts.owners();
        for key in carrying {
            if is_there(&key, facts, &owners) {
                placement.exits.entry(key.clone()).or_insert_with(|| Exit { mac: key.mac() });
            }
        }
    }
}

/// When something ends that lasts for `time`: when it was to end, but no later than `time` from now. A clock that was set back must not prolong
/// it by as much.
fn ends_by(now: Timestamp, time: SignedDuration, known: Option<Timestamp>) -> Timestamp {
    let latest = now.saturating_add(time).unwrap_or(now);
    known.map_or(latest, |until| until.min(latest))
}

/// A hash of whose packets to where a policy means.
fn scope_of(policy: &Policy) -> u64 {
    let mut hasher = DefaultHasher::new();
    (&policy.selectors, &policy.destinations, &policy.excluded).hash(&mut hasher);
    hasher.finish()
}

/// Whether a gateway can still carry members: it may be cordoned or without its label, but it is alive.
fn is_there(exit: &ExitKey, facts: &Facts, owners: &AddressOwners<'_>) -> bool {
    let Some(node) = facts.nodes.get(&exit.gateway).filter(|node| node.ready) else { return false };
    node.tunnel_address().is_some_and(|address| owners.of(&exit.gateway, address) == AddressOwner::This)
}

#[cfg(test)]
mod tests;
