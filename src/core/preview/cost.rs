//! How much work a change is, known before it is done: what anybody may propose must not take a controller's memory and time.
//!
//! Deliberately absent: what a cluster costs by itself, which no change can help, and a limit for who makes previews of their own.

use super::{PolicyDifference, PolicySet, labels_say};
use crate::core::facts::Facts;
use crate::core::placement::Members;
use crate::core::policy::{Policy, PolicyId};

/// So much may a change be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CostLimits {
    /// Policies and documents of node labels that differ.
    pub documents: usize,
    /// Destinations and exclusions of such policies.
    pub networks: usize,
    /// Times that a pod is compared with a selector of theirs.
    pub questions: usize,
    /// Times that such a policy selects a pod, beside once for each pod.
    pub members: usize,
}

impl CostLimits {
    /// What anybody may propose.
    pub const PROPOSED: Self = Self { documents: 1_000, networks: 20_000, questions: 30_000_000, members: 50_000 };
    /// No limit.
    pub const ANY: Self =
        Self { documents: usize::MAX, networks: usize::MAX, questions: usize::MAX, members: usize::MAX };
}

/// What of a change is more than that, if anything is.
pub fn burden(before: &PolicySet, after: &PolicySet, facts: &Facts, most: CostLimits) -> Option<&'static str> {
    let PolicyDifference { added, changed, removed } = super::nodes::changed_policies(before, after);
    let labels = labels_differ(before, after);
    if added.len() + changed.len() + removed.len() + labels > most.documents {
        return Some("it changes too many policies");
    }
    let side = |set: &'_ PolicySet, ids: [&[PolicyId]; 2]| -> Vec<Policy> {
        ids.concat().iter().filter_map(|id| set.policies.get(id).cloned()).collect()
    };
    let sides = [side(before, [&changed, &removed]), side(after, [&changed, &added])];
    let networks: usize = sides.iter().flatten().map(|policy| policy.destinations.len() + policy.excluded.len()).sum();
    if networks > most.networks {
        return Some("policies that it changes have too many destinations");
    }
    let selectors: usize = sides.iter().flatten().map(|policy| policy.selectors.len()).sum();
    if selectors.saturating_mul(facts.pods.len()) > most.questions {
        return Some("policies that it changes have too many selectors for so many pods");
    }
    let indexes = sides.each_ref().map(|side| Members::new(side.iter()));
    let room = most.members.saturating_add(facts.pods.len());
    let mut members = 0;
    for (name, pod) in &facts.pods {
        members += indexes.iter().map(|index| index.of(name, pod, facts).len()).max().unwrap_or_default();
        if members > room {
            return Some("policies that it changes select too many pods between them");
        }
    }
    None
}

fn labels_differ(before: &PolicySet, after: &PolicySet) -> usize {
    let names = before
        .node_labels
        .keys()
        .chain(after.node_labels.keys().filter(|name| !before.node_labels.contains_key(*name)));
    names
        .filter(|name| {
            let only = |set: &PolicySet| {
                let one = set.node_labels.get(*name).map(|one| ((*name).clone(), one.clone()));
                labels_say(&PolicySet { node_labels: one.into_iter().collect(), ..PolicySet::default() })
            };
            only(before) != only(after)
        })
        .count()
}
