//! Finds the nodes that a nodeSelector matches, by an index instead of testing every node: ten thousand policies must
//! not each scan five thousand nodes.
//!
//! Not here: whether a node is fit to be a gateway (`placement`).

use std::collections::{BTreeMap, HashMap};

use super::PolicySet;
use super::grants::{Granted, granted};
use crate::core::labels::{Labels, Operator, Selector};
use crate::core::name::NodeName;

/// Nodes by their labels, and what Git grants to each.
pub struct NodeIndex<'a> {
    nodes: Vec<Indexed<'a>>,
    /// Positions in `nodes`, which is in order of name.
    by_label: HashMap<(&'a str, &'a str), Vec<usize>>,
    by_key: HashMap<&'a str, Vec<usize>>,
}

struct Indexed<'a> {
    name: &'a NodeName,
    labels: &'a Labels,
    /// `None` where any label counts.
    granted: Option<Granted<'a>>,
}

/// A node whose labels match a selector.
#[derive(Debug, Clone, Copy)]
pub struct Match<'a> {
    /// The node.
    pub node: &'a NodeName,
    /// Whether Git gives it the labels, where only those count ([`PolicySet::may_answer`]).
    pub may_answer: bool,
}

impl<'a> NodeIndex<'a> {
    /// Indexes nodes, which come in order of name.
    pub fn new(set: &'a PolicySet, nodes: impl Iterator<Item = (&'a NodeName, &'a Labels)>) -> Self {
        let mut index = Self { nodes: Vec::new(), by_label: HashMap::new(), by_key: HashMap::new() };
        for (position, (name, labels)) in nodes.enumerate() {
            for (key, value) in labels {
                index.by_label.entry((key.as_str(), value.as_str())).or_default().push(position);
                index.by_key.entry(key.as_str()).or_default().push(position);
            }
            let granted = set.grants.as_ref().map(|grants| granted(grants, name, labels));
            index.nodes.push(Indexed { name, labels, granted });
        }
        index
    }

    /// The nodes whose labels match, in order of name.
    pub fn matching<'s>(&'s self, selector: &'s Selector) -> impl Iterator<Item = Match<'a>> + 's {
        let nodes = self.candidates(selector).map(|position| &self.nodes[position]);
        nodes.filter(|node| selector.matches(node.labels)).map(|node| Match {
            node: node.name,
            may_answer: node.granted.as_ref().is_none_or(|granted| granted.answer(selector)),
        })
    }

    /// The nodes that may be a gateway by a nodeSelector, in order of name.
    pub fn answering<'s>(&'s self, selector: &'s Selector) -> impl Iterator<Item = &'a NodeName> + 's {
        self.matching(selector).filter(|found| found.may_answer).map(|found| found.node)
    }

    /// Those with a label of the requirement that the fewest have; all if no requirement asks for a label.
    fn candidates<'s>(&'s self, selector: &'s Selector) -> Box<dyn Iterator<Item = usize> + 's> {
        let with = |key: &'s str, value: &'s str| self.by_label.get(&(key, value)).map_or(&[][..], Vec::as_slice);
        let lists = selector.requirements.iter().filter_map(|requirement| {
            let key = requirement.key.as_str();
            match &requirement.operator {
                Operator::In(values) => Some(values.iter().map(|value| with(key, value)).collect()),
                Operator::Exists => Some(vec![self.by_key.get(key).map_or(&[][..], Vec::as_slice)]),
                Operator::NotIn(_) | Operator::DoesNotExist => None,
            }
        });
        let fewest = lists.min_by_key(|lists: &Vec<&[usize]>| lists.iter().map(|list| list.len()).sum::<usize>());
        match fewest.as_deref() {
            None => Box::new(0..self.nodes.len()),
            Some([only]) => Box::new(only.iter().copied()),
            Some(several) => {
                let mut merged = several.concat();
                merged.sort_unstable();
                Box::new(merged.into_iter())
            }
        }
    }
}

/// NodeLabels by the nodes that they name, so that not each of a thousand nodes looks through a thousand lists.
pub struct NodeLabelsIndex<'a> {
    /// In order of name.
    documents: Vec<&'a super::NodeLabels>,
    named: BTreeMap<&'a NodeName, Vec<usize>>,
    selecting: Vec<usize>,
}

impl<'a> NodeLabelsIndex<'a> {
    /// Indexes all documents of a set.
    pub fn new(set: &'a PolicySet) -> Self {
        let documents: Vec<_> = set.node_labels.values().collect();
        let mut named: BTreeMap<&NodeName, Vec<usize>> = BTreeMap::new();
        let mut selecting = Vec::new();
        for (position, document) in documents.iter().enumerate() {
            document.nodes.iter().for_each(|node| named.entry(node).or_default().push(position));
            if document.node_selector.is_some() {
                selecting.push(position);
            }
        }
        Self { documents, named, selecting }
    }

    /// The documents that apply to a node, in order of name.
    pub fn covering(&self, node: &NodeName, labels: &Labels) -> impl Iterator<Item = &'a super::NodeLabels> {
        let named = self.named.get(node).map_or(&[][..], Vec::as_slice);
        let mut positions = [named, &self.selecting].concat();
        positions.sort_unstable();
        positions.dedup();
        let documents = positions.into_iter().map(|position| self.documents[position]);
        documents.filter(|document| document.covers(node, labels)).collect::<Vec<_>>().into_iter()
    }

    /// What [`PolicySet::labels_of`] returns.
    pub fn labels_of(&self, node: &NodeName, labels: &Labels) -> Labels {
        super::merged(self.covering(node, labels))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::core::labels::Requirement;
    use crate::core::name::ObjectName;
    use crate::core::policy::grants::Grant;
    use crate::core::policy::{NodeLabels, Origin};

    const KEYS: [&str; 3] = ["gateway", "zone", "node-restriction.kubernetes.io/pool"];

    fn labels() -> impl Strategy<Value = Labels> {
        prop::collection::btree_map(prop::sample::select(KEYS.as_slice()).prop_map(str::to_owned), "[abc]", 0..3)
    }

    fn operator() -> impl Strategy<Value = Operator> {
        let values = || prop::collection::btree_set("[abc]", 1..3);
        prop_oneof![
            4 => values().prop_map(Operator::In),
            1 => values().prop_map(Operator::NotIn),
            1 => Just(Operator::Exists),
            1 => Just(Operator::DoesNotExist),
        ]
    }

    fn selector() -> impl Strategy<Value = Selector> {
        let requirement = (prop::sample::select(KEYS.as_slice()), operator())
            .prop_map(|(key, operator)| Requirement { key: key.to_owned(), operator });
        prop::collection::vec(requirement, 0..3).prop_map(|requirements| Selector { requirements })
    }

    fn node_name(number: u8) -> NodeName {
        NodeName::parse(&format!("node-{number}")).expect("a name")
    }

    /// The nodes that a document covers, as it names or selects them.
    fn covers() -> impl Strategy<Value = (BTreeSet<NodeName>, Option<Selector>)> {
        prop_oneof![
            prop::collection::btree_set((0_u8..12).prop_map(node_name), 1..4).prop_map(|nodes| (nodes, None)),
            selector().prop_map(|selector| (BTreeSet::new(), Some(selector))),
        ]
    }

    proptest! {
        /// The index answers as testing every node does, with and without grants.
        #[test]
        fn the_index_finds_the_nodes_that_testing_each_finds(
            nodes in prop::collection::btree_map((0_u8..12).prop_map(node_name), labels(), 0..12),
            selector in selector(),
            grants in prop::option::of(prop::collection::vec((covers(), labels()), 0..4)),
        ) {
            let grant = |((nodes, node_selector), labels)| Grant { nodes, node_selector, labels };
            let grants = grants.map(|grants| grants.into_iter().map(grant).collect());
            let set = PolicySet { grants, ..PolicySet::default() };
            let index = NodeIndex::new(&set, nodes.iter());
            let matching: Vec<_> = index.matching(&selector).map(|found| found.node).collect();
            let tested = nodes.iter().filter(|(_, labels)| selector.matches(labels)).map(|(name, _)| name);
            prop_assert_eq!(matching, tested.collect::<Vec<_>>());
            let answering: Vec<_> = index.answering(&selector).collect();
            let tested = nodes.iter().filter(|(name, labels)| set.may_answer(&selector, name, labels));
            prop_assert_eq!(answering, tested.map(|(name, _)| name).collect::<Vec<_>>());
        }

        /// A node has the labels that asking every document gives it.
        #[test]
        fn the_index_of_documents_gives_the_labels_that_asking_each_gives(
            documents in prop::collection::vec((covers(), labels()), 0..6),
            number in 0_u8..12,
            has in labels(),
        ) {
            let document = |(number, ((nodes, node_selector), labels)): (usize, ((BTreeSet<NodeName>, _), _))| {
                let name = ObjectName::parse(&format!("d{number}")).expect("a name");
                let nodes = nodes.into_iter().collect();
                (name.clone(), NodeLabels { name, nodes, node_selector, labels, origin: Origin::default() })
            };
            let node_labels = documents.into_iter().enumerate().map(document).collect();
            let set = PolicySet { node_labels, ..PolicySet::default() };
            let (index, node) = (NodeLabelsIndex::new(&set), node_name(number));
            prop_assert_eq!(index.labels_of(&node, &has), set.labels_of(&node, &has));
        }
    }
}
