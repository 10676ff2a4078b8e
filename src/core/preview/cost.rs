//! Cost limits for previews: an estimate of the work that a change causes, made before the work is done, so that a
//! proposed change cannot exhaust a controller's memory and time.
//!
//! What the cluster costs on its own does not count, as no change can reduce it.

use super::{PolicyDifference, PolicySet};
use crate::core::facts::Facts;
use crate::core::name::ObjectName;
use crate::core::policy::members::Members;
use crate::core::policy::{NodeLabels, Origin, Policy, PolicyId};

/// Upper bounds for one change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CostLimits {
    /// Policies and node-label documents that differ.
    pub documents: usize,
    /// Destinations and exclusions of those policies.
    pub networks: usize,
    /// Comparisons of a pod with one of their selectors.
    pub questions: usize,
    /// Selections of a pod by such a policy, beyond one for each pod.
    pub members: usize,
}

impl CostLimits {
    /// The limits for a proposed change, whoever wrote it.
    pub const PROPOSED: Self = Self { documents: 1_000, networks: 20_000, questions: 30_000_000, members: 50_000 };
    /// No limit.
    pub const ANY: Self =
        Self { documents: usize::MAX, networks: usize::MAX, questions: usize::MAX, members: usize::MAX };
}

/// The first limit that the change exceeds, if any.
pub fn exceeded_limit(before: &PolicySet, after: &PolicySet, facts: &Facts, most: CostLimits) -> Option<&'static str> {
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
    let indexes = sides.each_ref().map(|side| Members::new(side.iter(), facts));
    let room = most.members.saturating_add(facts.pods.len());
    let mut members = 0;
    for (name, pod) in &facts.pods {
        members += indexes.iter().map(|index| index.selecting(name, pod, facts).len()).max().unwrap_or_default();
        if members > room {
            return Some("policies that it changes select too many pods between them");
        }
    }
    None
}

/// Documents of node labels whose content differs, by name.
fn labels_differ(before: &PolicySet, after: &PolicySet) -> usize {
    let names = before
        .node_labels
        .keys()
        .chain(after.node_labels.keys().filter(|name| !before.node_labels.contains_key(*name)));
    let content = |set: &PolicySet, name: &ObjectName| {
        set.node_labels.get(name).map(|one| NodeLabels { origin: Origin::default(), ..one.clone() })
    };
    names.filter(|name| content(before, name) != content(after, name)).count()
}
