//! Finds the policies, or the assertions, that select a pod, by an index instead of testing every one.
//!
//! Not here: the meaning of a selector ([`MemberSelector`]).

use std::collections::{BTreeMap, HashMap};

use super::assertion::Assertion;
use super::{MemberSelector, ObjectName, Policy, PolicyId};
use crate::core::facts::{Facts, Pod, PodName};
use crate::core::labels::{Labels, Operator, Requirement, Selector};

/// A selector of more namespaces than these is found by its pod labels alone: it would be in the index once for each.
const MOST_NAMESPACES: usize = 16;

/// What selects pods.
pub trait SelectsPods {
    /// What identifies it.
    type Id: Ord;
    /// Its id.
    fn id(&self) -> &Self::Id;
    /// The pods that any of these matches.
    fn selectors(&self) -> &[MemberSelector];
}

impl SelectsPods for Policy {
    type Id = PolicyId;
    fn id(&self) -> &PolicyId {
        &self.id
    }
    fn selectors(&self) -> &[MemberSelector] {
        &self.selectors
    }
}

impl SelectsPods for Assertion {
    type Id = ObjectName;
    fn id(&self) -> &ObjectName {
        &self.name
    }
    fn selectors(&self) -> &[MemberSelector] {
        &self.selectors
    }
}

/// An index of policies by their members' namespaces, and by the label that the fewest of them ask for. 100,000 pods
/// times 10,000 policies would be a billion tests; of `app: web` alone, which every team has, still a hundred million.
pub struct Members<'a, T = Policy> {
    in_namespace: HashMap<&'a str, ByLabel<'a, T>>,
    anywhere: ByLabel<'a, T>,
}

/// A selector of a policy, in one of the places where a pod that matches it looks.
type Entry<'a, T> = (&'a T, &'a MemberSelector);

struct ByLabel<'a, T> {
    labelled: HashMap<(&'a str, &'a str), Vec<Entry<'a, T>>>,
    others: Vec<Entry<'a, T>>,
}

impl<T> Default for ByLabel<'_, T> {
    fn default() -> Self {
        Self { labelled: HashMap::new(), others: Vec::new() }
    }
}

impl<'a, T: SelectsPods> Members<'a, T> {
    /// Indexes policies. Selectors of namespaces' labels are resolved by these facts.
    pub fn new(policies: impl Iterator<Item = &'a T> + Clone, facts: &'a Facts) -> Self {
        let entries = policies.flat_map(|policy| policy.selectors().iter().map(move |selector| (policy, selector)));
        let mut asked: HashMap<(&str, &str), usize> = HashMap::new();
        for label in entries.clone().flat_map(|(_, selector)| alternatives(&selector.pod)).flatten() {
            *asked.entry(label).or_default() += 1;
        }
        let mut namespaces = Namespaces { all: &facts.namespaces, by_label: None };
        let mut index = Self { in_namespace: HashMap::new(), anywhere: ByLabel::default() };
        for entry in entries {
            let selector = entry.1;
            let count = |labels: &Vec<(&str, &str)>| labels.iter().map(|label| asked[label]).sum::<usize>();
            let labels = alternatives(&selector.pod).min_by_key(count);
            let named = namespaces.of(selector);
            match named.filter(|named| labels.is_none() || named.len() <= MOST_NAMESPACES) {
                Some(named) => {
                    for namespace in named {
                        index.in_namespace.entry(namespace).or_default().add(labels.as_deref(), entry);
                    }
                }
                None => index.anywhere.add(labels.as_deref(), entry),
            }
        }
        index
    }

    /// The policies that select a pod, each once, in order of name.
    pub fn selecting(&self, name: &PodName, pod: &Pod, facts: &Facts) -> Vec<&'a T> {
        if !pod.routable() {
            return Vec::new();
        }
        let places = self.in_namespace.get(name.namespace.as_str()).into_iter().chain([&self.anywhere]);
        let entries = places.flat_map(|place| place.of(&pod.labels));
        let matching = entries.filter(|(_, selector)| selector.matches(name, pod, facts));
        let mut selecting: Vec<&T> = matching.map(|(policy, _)| *policy).collect();
        selecting.sort_unstable_by_key(|policy| policy.id());
        selecting.dedup_by_key(|policy| policy.id());
        selecting
    }
}

impl Members<'_> {
    /// The names of the policies that select a pod.
    pub fn of(&self, name: &PodName, pod: &Pod, facts: &Facts) -> Vec<PolicyId> {
        self.selecting(name, pod, facts).into_iter().map(|policy| policy.id.clone()).collect()
    }
}

impl<'a, T> ByLabel<'a, T> {
    /// Adds a selector whose matches have one of these labels; none: any.
    fn add(&mut self, labels: Option<&[(&'a str, &'a str)]>, entry: Entry<'a, T>) {
        match labels {
            Some(labels) => labels.iter().for_each(|label| self.labelled.entry(*label).or_default().push(entry)),
            None => self.others.push(entry),
        }
    }

    /// The selectors that a pod with these labels may match.
    fn of<'s>(&'s self, labels: &'s Labels) -> impl Iterator<Item = &'s Entry<'a, T>> {
        let labelled = labels.iter().filter_map(|(key, value)| self.labelled.get(&(key.as_str(), value.as_str())));
        labelled.flatten().chain(&self.others)
    }
}

/// For each requirement that names values, the labels of which a match must have one.
fn alternatives(selector: &Selector) -> impl Iterator<Item = Vec<(&str, &str)>> {
    selector.requirements.iter().filter_map(|Requirement { key, operator }| match operator {
        Operator::In(values) => Some(values.iter().map(|value| (key.as_str(), value.as_str())).collect()),
        Operator::NotIn(_) | Operator::Exists | Operator::DoesNotExist => None,
    })
}

/// The cluster's namespaces, by label from the first selector on that asks for one.
struct Namespaces<'a> {
    all: &'a BTreeMap<String, Labels>,
    by_label: Option<HashMap<(&'a str, &'a str), Vec<&'a str>>>,
}

impl<'a> Namespaces<'a> {
    /// The namespaces that a selector's matches must be in, by their names or one of their labels; none: any.
    fn of(&mut self, selector: &'a MemberSelector) -> Option<Vec<&'a str>> {
        let named = selector.namespace_name.iter().filter_map(|operator| match operator {
            Operator::In(names) => Some(names.iter().map(String::as_str).collect::<Vec<_>>()),
            Operator::NotIn(_) | Operator::Exists | Operator::DoesNotExist => None,
        });
        if let Some(named) = named.min_by_key(Vec::len) {
            return Some(named);
        }
        let all = self.all;
        let labelled = alternatives(&selector.namespace).map(|labels| {
            let by_label = self.by_label.get_or_insert_with(|| by_label(all));
            labels.iter().filter_map(|label| by_label.get(label)).flatten().copied().collect::<Vec<_>>()
        });
        labelled.min_by_key(Vec::len)
    }
}

fn by_label(namespaces: &BTreeMap<String, Labels>) -> HashMap<(&str, &str), Vec<&str>> {
    let mut by_label: HashMap<_, Vec<&str>> = HashMap::new();
    for (name, labels) in namespaces {
        for (key, value) in labels {
            by_label.entry((key.as_str(), value.as_str())).or_default().push(name.as_str());
        }
    }
    by_label
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::core::facts::Node;
    use crate::core::name::{NodeName, ObjectName};
    use crate::core::policy::{ExistingConnections, OnNoGateway, Origin, PolicyKind};

    fn names(names: &'static [&'static str]) -> impl Strategy<Value = String> {
        prop::sample::select(names).prop_map(str::to_owned)
    }

    fn namespace() -> impl Strategy<Value = String> {
        names(&["batuu", "endor", "hoth", "naboo"])
    }

    fn labels() -> impl Strategy<Value = Labels> {
        prop::collection::btree_map(names(&["app", "env", "team"]), names(&["a", "b", "c"]), 0..3)
    }

    fn operator(values: impl Strategy<Value = String>) -> impl Strategy<Value = Operator> {
        let values = prop::collection::btree_set(values, 1..3);
        (0_u8..7, values).prop_map(|(kind, values)| match kind {
            0 => Operator::NotIn(values),
            1 => Operator::Exists,
            2 => Operator::DoesNotExist,
            _ => Operator::In(values),
        })
    }

    fn selector(most: usize) -> impl Strategy<Value = Selector> {
        let requirement = (names(&["app", "env", "team"]), operator(names(&["a", "b", "c"])));
        let requirement = requirement.prop_map(|(key, operator)| Requirement { key, operator });
        prop::collection::vec(requirement, 0..=most).prop_map(|requirements| Selector { requirements })
    }

    fn member_selector() -> impl Strategy<Value = MemberSelector> {
        let namespace_name = prop::collection::vec(operator(namespace()), 0..3);
        (selector(1), namespace_name, selector(2), selector(1))
            .prop_map(|(namespace, namespace_name, pod, node)| MemberSelector { namespace, namespace_name, pod, node })
    }

    fn policy(number: usize, selectors: Vec<MemberSelector>) -> Policy {
        Policy {
            id: PolicyId { name: ObjectName::parse(&format!("p{number}")).expect("a name"), kind: PolicyKind::Egret },
            selectors,
            destinations: Vec::new(),
            excluded: Vec::new(),
            gateways: Vec::new(),
            priority: 0,
            on_no_gateway: OnNoGateway::Drop,
            existing_connections: ExistingConnections::Keep,
            suspend: None,
            origin: Origin::default(),
        }
    }

    fn node_name(number: usize) -> NodeName {
        NodeName::parse(&format!("node-{number}")).expect("a name")
    }

    fn pod() -> impl Strategy<Value = Pod> {
        // Of three nodes there are two.
        (labels(), prop::option::of(0_usize..3), prop::bool::weighted(0.9)).prop_map(|(labels, node, routable)| Pod {
            labels,
            node: node.map(node_name),
            addresses: routable.then(|| [10, 1, 1, 1].into()).into_iter().collect(),
            ..Pod::default()
        })
    }

    fn facts() -> impl Strategy<Value = Facts> {
        // A pod's namespace may be missing.
        let namespaces = prop::collection::btree_map(namespace(), labels(), 0..4);
        let nodes = prop::collection::vec(labels(), 2);
        let pods = prop::collection::vec((namespace(), pod()), 0..12);
        (namespaces, nodes, pods).prop_map(|(namespaces, nodes, pods)| Facts {
            namespaces,
            nodes: (0..)
                .zip(nodes)
                .map(|(number, labels)| (node_name(number), Node { labels, ..Node::default() }))
                .collect(),
            pods: (0..)
                .zip(pods)
                .map(|(number, (namespace, pod)): (usize, _)| {
                    (PodName { namespace, name: format!("pod-{number}") }, pod)
                })
                .collect(),
            ..Facts::default()
        })
    }

    proptest! {
        #[test]
        fn the_index_finds_the_policies_that_testing_each_finds(
            selectors in prop::collection::vec(prop::collection::vec(member_selector(), 1..3), 0..12),
            facts in facts(),
        ) {
            let policies: Vec<Policy> =
                selectors.into_iter().enumerate().map(|(number, selectors)| policy(number, selectors)).collect();
            let index = Members::new(policies.iter(), &facts);
            for (name, pod) in &facts.pods {
                let selecting = policies.iter().filter(|policy| policy.selects(name, pod, &facts));
                let tested: BTreeSet<PolicyId> = selecting.map(|policy| policy.id.clone()).collect();
                prop_assert_eq!(index.of(name, pod, &facts), tested.into_iter().collect::<Vec<_>>(), "{}", name);
            }
        }
    }
}
