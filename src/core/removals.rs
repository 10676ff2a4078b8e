//! Counts what one set of policies has and a later one has not: policies, and pods that are members of none any more.
//!
//! Not here: how many may go (`admission`).

use std::collections::HashSet;

use super::admission::{Removals, Share};
use super::facts::Facts;
use super::policy::members::Members;
use super::policy::{Policy, PolicySet};

/// What goes. Without facts only policies are counted.
pub fn removals(before: &PolicySet, after: &PolicySet, facts: Option<&Facts>) -> Removals {
    let members = facts.filter(|_| before.policies != after.policies).map(|facts| members(before, after, facts));
    Removals {
        policies: policies(before, after),
        members: members.unwrap_or_default(),
        max: before.config.max_removals,
    }
}

/// The policies that are not in the later set: neither by their names nor, under other names, by what they say.
fn policies(before: &PolicySet, after: &PolicySet) -> Share {
    let said = |policy: &Policy| (policy.selectors.clone(), policy.destinations.clone(), policy.gateways.clone());
    let missing: Vec<&Policy> =
        before.policies.values().filter(|policy| !after.policies.contains_key(&policy.id)).collect();
    let mut renamed = HashSet::new();
    if !missing.is_empty() {
        let new = after.policies.values().filter(|policy| !before.policies.contains_key(&policy.id));
        renamed.extend(new.map(said));
    }
    let removed = missing.into_iter().filter(|policy| !renamed.contains(&said(policy))).count();
    Share { removed, of: before.policies.len() }
}

fn members(before: &PolicySet, after: &PolicySet, facts: &Facts) -> Share {
    let [before, after] = [before, after].map(|set| Members::new(set.policies.values(), facts));
    let members = facts.pods.iter().filter(|(name, pod)| !before.selecting(name, pod, facts).is_empty());
    let gone = members.map(|(name, pod)| after.selecting(name, pod, facts).is_empty());
    gone.fold(Share::default(), |share, gone| Share { removed: share.removed + usize::from(gone), of: share.of + 1 })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::core::facts::{Pod, PodName};
    use crate::core::policy::catalogue::{Catalogue, FileUpdate};

    /// Policies by name, each for the pods with one `app`.
    fn set(policies: &[(&str, &str)]) -> PolicySet {
        let mut catalogue = Catalogue::new("prod");
        let text = |name: &str, app: &str| {
            format!(
                "apiVersion: cilium.io/v2\nkind: CiliumEgressGatewayPolicy\nmetadata: {{name: {name}}}\nspec:\n  selectors:\n  \
                 - podSelector: {{matchLabels: {{app: {app}}}}}\n  destinationCIDRs: [192.0.2.0/24]\n  \
                 egressGateway: {{nodeSelector: {{}}}}\n"
            )
        };
        let files = policies.iter().map(|(name, app)| (format!("{name}.yaml"), FileUpdate::Text(text(name, app))));
        catalogue.update(files.collect());
        catalogue.policies().clone()
    }

    fn facts(apps: &[&str]) -> Facts {
        let pods = (1..).zip(apps).map(|(last, app)| {
            let labels = BTreeMap::from([("app".to_owned(), (*app).to_owned())]);
            let pod = Pod { labels, addresses: vec![[10, 1, 1, last].into()], ..Pod::default() };
            (PodName { namespace: "shop".to_owned(), name: format!("pod-{last}") }, pod)
        });
        Facts { pods: pods.collect(), ..Facts::default() }
    }

    #[test]
    fn policies_and_members_are_counted_by_what_is_left_of_them() {
        let facts = facts(&["a", "a", "b", "c", "none"]);
        let before = set(&[("one", "a"), ("two", "b"), ("three", "c")]);
        for (after, policies, members) in [
            (vec![("one", "a"), ("two", "b"), ("three", "c")], 0, 0),
            (vec![("one", "a"), ("two", "b")], 1, 1),
            (vec![], 3, 4),
            // Under another name it is the same policy.
            (vec![("other", "a"), ("two", "b"), ("three", "c")], 0, 0),
            (vec![("other", "x"), ("two", "b"), ("three", "c")], 1, 2),
            // It is there, and has no members any more.
            (vec![("one", "typo"), ("two", "b"), ("three", "c")], 0, 2),
            // Its members are another's.
            (vec![("one", "typo"), ("two", "a"), ("three", "c")], 0, 1),
        ] {
            let after_set = set(&after);
            let found = removals(&before, &after_set, Some(&facts));
            let expected = Removals { policies: Share { removed: policies, of: 3 }, members: found.members, max: 50 };
            assert_eq!(found, expected, "{after:?}");
            assert_eq!(found.members.removed, members, "{after:?}");
            assert_eq!(found.members.of, if after_set.policies == before.policies { 0 } else { 4 });
            assert_eq!(removals(&before, &after_set, None).members, Share::default());
        }
    }
}
