//! Finds NodeLabels that give one node two values of one label.
//!
//! Not here: nodes that a selector and a name both match, which needs the cluster's nodes (`lint`).

use std::collections::BTreeMap;

use super::super::{NodeLabels, ObjectName};
use crate::core::labels::Requirement;

/// Two documents that conflict.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct LabelConflict {
    /// The first document, by name.
    pub one: ObjectName,
    /// The other.
    pub other: ObjectName,
    /// The label's key.
    pub key: String,
    /// What they give different values to: a node's name, with the number of further ones; or a selector.
    pub on: String,
}

/// The nodes labelled, as written.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Whom<'l> {
    Node(&'l str),
    Selector(Vec<&'l Requirement>),
}

/// Finds documents that conflict for a node they both name, or by the same selector. Once for each pair and key, sorted.
pub fn disagreements<'l>(all: impl IntoIterator<Item = (&'l ObjectName, &'l NodeLabels)>) -> Vec<LabelConflict> {
    let mut first: BTreeMap<(Whom<'l>, &'l str), (&'l str, &'l ObjectName)> = BTreeMap::new();
    let mut found: BTreeMap<(&ObjectName, &ObjectName, &str), (String, usize)> = BTreeMap::new();
    for (name, document) in all {
        for (key, value) in &document.labels {
            for whom in whom(document) {
                let label = match &whom {
                    Whom::Node(node) => (*node).to_owned(),
                    Whom::Selector(_) => document.node_selector.as_ref().map(ToString::to_string).unwrap_or_default(),
                };
                match first.get(&(whom.clone(), key.as_str())) {
                    None => {
                        first.insert((whom, key), (value, name));
                    }
                    Some((other_value, other)) if *other_value != value => {
                        found.entry((*other, name, key)).and_modify(|(_, more)| *more += 1).or_insert((label, 0));
                    }
                    Some(_) => {}
                }
            }
        }
    }
    found
        .into_iter()
        .map(|((one, other, key), (label, more))| LabelConflict {
            one: one.clone(),
            other: other.clone(),
            key: key.to_owned(),
            on: if more == 0 { label } else { format!("{label} and {more} more") },
        })
        .collect()
}

fn whom(document: &NodeLabels) -> Vec<Whom<'_>> {
    let by_name = document.nodes.iter().map(|node| Whom::Node(node.as_str()));
    let by_selector = document.node_selector.iter().map(|selector| {
        // The order of requirements is irrelevant.
        let mut requirements: Vec<&Requirement> = selector.requirements.iter().collect();
        requirements.sort();
        Whom::Selector(requirements)
    });
    by_name.chain(by_selector).collect()
}
