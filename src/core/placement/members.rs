//! Finds the policies that select a pod, by an index instead of testing every policy.
//!
//! Not here: the meaning of a selector ([`crate::core::policy::MemberSelector`]).

use std::collections::{BTreeSet, HashMap};

use crate::core::facts::{Facts, Pod, PodName};
use crate::core::labels::{Operator, Selector};
use crate::core::policy::{MemberSelector, Policy, PolicyId};

/// An index of policies by one label that a member must have. 100,000 pods times 10,000 policies would be a billion
/// tests; most selectors require a label's exact value, which leaves a handful.
pub struct Members<'a> {
    by_label: HashMap<(&'a str, &'a str), Vec<&'a Policy>>,
    by_namespace: HashMap<&'a str, Vec<&'a Policy>>,
    others: Vec<&'a Policy>,
}

impl<'a> Members<'a> {
    /// Indexes policies.
    pub fn new(policies: impl Iterator<Item = &'a Policy>) -> Self {
        let mut index = Self { by_label: HashMap::new(), by_namespace: HashMap::new(), others: Vec::new() };
        for policy in policies {
            for selector in &policy.selectors {
                index.add(policy, selector);
            }
        }
        index
    }

    fn add(&mut self, policy: &'a Policy, selector: &'a MemberSelector) {
        if let Some(label) = single_label(&selector.pod) {
            self.by_label.entry(label).or_default().push(policy);
        } else if let Some(names) = namespaces(selector) {
            for name in names {
                self.by_namespace.entry(name).or_default().push(policy);
            }
        } else {
            self.others.push(policy);
        }
    }

    /// The policies that select a pod, each once, in order of name.
    pub fn of(&self, name: &PodName, pod: &Pod, facts: &Facts) -> Vec<PolicyId> {
        let labelled = pod.labels.iter().filter_map(|(key, value)| self.by_label.get(&(key.as_str(), value.as_str())));
        let selected: BTreeSet<&PolicyId> = labelled
            .chain(self.by_namespace.get(name.namespace.as_str()))
            .flatten()
            .chain(&self.others)
            .filter(|policy| policy.selects(name, pod, facts))
            .map(|policy| &policy.id)
            .collect();
        selected.into_iter().cloned().collect()
    }
}

/// A label value that every match of the selector must have.
pub(super) fn single_label(selector: &Selector) -> Option<(&str, &str)> {
    selector.requirements.iter().find_map(|requirement| match &requirement.operator {
        Operator::In(values) if values.len() == 1 => {
            values.first().map(|value| (requirement.key.as_str(), value.as_str()))
        }
        _ => None,
    })
}

fn namespaces(selector: &MemberSelector) -> Option<&BTreeSet<String>> {
    selector.namespace_name.iter().find_map(|operator| match operator {
        Operator::In(values) => Some(values),
        _ => None,
    })
}
