//! Warnings that need the cluster or the configuration: what a policy would cut off, and what matches nothing.
//!
//! Only documents whose active version is the one in the repository are checked; a held one has an error to fix first.
//! The diagnostics here never deactivate a document, except conflicting node labels, by name and by selector, that meet
//! on a node. Not here: mistakes of a document alone or between documents (`check`, `catalogue`).

mod coverage;
mod open_selectors;
mod reach;
mod selection;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use jiff::{SignedDuration, Timestamp};

use self::open_selectors::Gifts;
use self::selection::KnownLabels;
use super::diagnostic_sink::{Span, diagnostic};
use super::document::CONFIG_FILE;
use super::members::Members;
use super::node_index::{NodeIndex, NodeLabelsIndex};
use super::spans::{NodeLabelsSpans, Spans};
use super::{NodeLabels, ObjectName, PolicyId, PolicySet};
use crate::core::diagnostic::{Diagnostic, Severity};
use crate::core::facts::{AddressOwner, Facts};
use crate::core::labels::{Labels, Selector};
use crate::core::name::NodeName;

/// A suspension that ends later than this is likely forgotten.
const FAR: SignedDuration = SignedDuration::from_hours(90 * 24);

/// Checks all active documents; without facts only against the configuration. Sorted by file and location.
pub fn lint(set: &PolicySet, facts: Option<&Facts>, spans: &Spans) -> Vec<Diagnostic> {
    let mut all = Vec::new();
    let (inside, gifts) = (coverage::Inside::of(set, facts), Gifts::of(set));
    let labels = facts.map(|facts| labels_by_node(set, facts)).unwrap_or_default();
    let cluster = facts.map(|facts| KnownCluster::new(set, facts, &labels));
    let known = cluster.as_ref().map(|cluster| &cluster.labels);
    for policy in set.policies.values() {
        let Some(places) = spans.policies.get(&policy.id) else { continue };
        let file = policy.origin.file.as_str();
        let mut found = inside.check(policy, file, places);
        found.extend(open_selectors::any_namespace(set, policy, file, &places.members));
        found.extend(reach::check(set, policy, file, places));
        let selects = cluster.as_ref().is_some_and(|cluster| cluster.selecting.contains(&policy.id));
        found.extend(selection::check(policy, known, selects, file, places));
        for (gateway, span) in policy.gateways.iter().zip(&places.gateways) {
            // Of a selector that no node can ever match nothing else is worth telling.
            if let Some(one) = selection::of_gateway(&gateway.node, file, *span) {
                found.push(one);
            } else if let Some(lack) = gifts.lack(&gateway.node) {
                found.push(open_selectors::unlabelled(&lack, file, *span));
            } else if let Some(cluster) = &cluster {
                found.extend(cluster.no_gateway(&gateway.node, file, *span));
                found.extend(cluster.shared_address(&gateway.node, file, *span));
            }
        }
        all.extend(found.into_iter().filter(|one| !places.acknowledged.has(one.code)));
    }
    for labels in set.node_labels.values() {
        let Some(places) = spans.node_labels.get(&labels.name) else { continue };
        all.extend(open_selectors::own_word(set, labels, places));
        let unknown = facts.into_iter().flat_map(|facts| unknown_nodes(labels, places, facts));
        all.extend(unknown.filter(|one| !places.acknowledged.has(one.code)));
    }
    if let Some(facts) = facts {
        all.extend(disagreements(set, facts).iter().flat_map(|one| one.diagnostics(set, spans)));
    }
    all.sort();
    // A gateway entry with several addresses is several.
    all.dedup();
    all
}

/// Checks suspensions: those that have ended, and those that end too far ahead. Sorted.
pub fn suspensions(set: &PolicySet, spans: &Spans, now: Timestamp) -> Vec<Diagnostic> {
    let cluster = set.config.suspend.as_ref().zip(spans.suspend);
    let cluster = cluster.map(|(suspension, span)| (CONFIG_FILE, "the cluster", suspension.until, span));
    let policies = set.policies.values().filter_map(|policy| {
        let span = spans.policies.get(&policy.id)?.suspend?;
        Some((policy.origin.file.as_str(), "the policy", policy.suspend.as_ref()?.until, span))
    });
    let mut found: Vec<Diagnostic> = cluster
        .into_iter()
        .chain(policies)
        .filter_map(|(file, what, until, span)| {
            if until <= now {
                let message = format!("the suspension of {what} ended at {until}");
                Some(warning(file, span, "suspension-ended", message, "take `suspend` out"))
            } else if until.duration_since(now) > FAR {
                let message = format!("{what} is suspended for more than 90 days, until {until}");
                Some(warning(file, span, "suspension-far", message, "set a nearer end; it can be extended later"))
            } else {
                None
            }
        })
        .collect();
    found.sort();
    found
}

fn warning(file: &str, span: Span, code: &'static str, message: String, hint: &str) -> Diagnostic {
    Diagnostic { hint: Some(hint.to_owned()), ..diagnostic(file, Severity::Warning, span, code, message) }
}

/// What policies are compared with, searched and not scanned: every policy with every pod or node would be the square of
/// a cluster.
struct KnownCluster<'a> {
    nodes: NodeIndex<'a>,
    /// Nodes that share an InternalIP with another, the address, and the other node.
    shared: BTreeMap<&'a NodeName, (IpAddr, &'a NodeName)>,
    sharing: NodeIndex<'a>,
    /// Policies that select a pod.
    selecting: BTreeSet<&'a PolicyId>,
    labels: KnownLabels<'a>,
}

impl<'a> KnownCluster<'a> {
    /// `labels` are those of the nodes once Git's are applied.
    fn new(set: &'a PolicySet, facts: &'a Facts, labels: &'a BTreeMap<NodeName, Labels>) -> Self {
        let shared = shared_addresses(facts);
        let sharing = labels.iter().filter(|(name, _)| shared.contains_key(name));
        let sharing = NodeIndex::new(set, sharing);
        let members = Members::new(set.policies.values(), facts);
        let selecting = facts.pods.iter().flat_map(|(name, pod)| members.selecting(name, pod, facts));
        let selecting = selecting.map(|policy| &policy.id).collect();
        let (nodes, labels) = (NodeIndex::new(set, labels.iter()), KnownLabels::new(facts, labels));
        Self { nodes, shared, sharing, selecting, labels }
    }

    fn no_gateway(&self, selector: &Selector, file: &str, span: Span) -> Option<Diagnostic> {
        let message = format!("no node has the labels {selector}");
        if self.nodes.answering(selector).next().is_some() {
            return None;
        }
        let near = self.labels.near_of_nodes(selector);
        let hint = "the policy's packets are dropped, or pass through if it says so, until a node has them";
        Some(warning(file, span, "no-gateway", message, near.as_deref().unwrap_or(hint)))
    }

    /// A node that matches and shares an InternalIP with another: neither can be a gateway.
    fn shared_address(&self, selector: &Selector, file: &str, span: Span) -> Option<Diagnostic> {
        let name = self.sharing.matching(selector).next()?.node;
        let (address, other) = self.shared[name];
        let message = format!("{name} and {other} have the same InternalIP {address}; neither can be a gateway");
        let hint = "delete the Node object of a machine that is gone, or give the kubelets --node-ip";
        Some(warning(file, span, "node-address-shared", message, hint))
    }
}

fn shared_addresses(facts: &Facts) -> BTreeMap<&NodeName, (IpAddr, &NodeName)> {
    let owners = facts.owners();
    let shared = facts.nodes.iter().filter_map(|(name, node)| {
        let address = node.tunnel_address()?;
        match owners.of(name, address) {
            AddressOwner::Shared(other) => Some((name, (address, other))),
            AddressOwner::This | AddressOwner::Another(_) => None,
        }
    });
    shared.collect()
}

fn unknown_nodes(labels: &NodeLabels, places: &NodeLabelsSpans, facts: &Facts) -> Vec<Diagnostic> {
    let unknown = labels.nodes.iter().zip(&places.nodes).filter(|(name, _)| !facts.nodes.contains_key(*name));
    unknown
        .map(|(name, span)| {
            let message = format!("the cluster has no node {name}");
            warning(&labels.origin.file, *span, "unknown-node", message, "it is labelled when it comes")
        })
        .collect()
}

/// Two documents that give a node two values of one label, by names or selectors.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct LabelDisagreement {
    /// The first document, by name.
    pub one: ObjectName,
    /// The other.
    pub other: ObjectName,
    /// The label's key.
    pub key: String,
    /// The first node, by name, that both match.
    pub node: NodeName,
}

impl LabelDisagreement {
    fn diagnostics(&self, set: &PolicySet, spans: &Spans) -> Vec<Diagnostic> {
        let Self { one, other, key, node } = self;
        let pairs = [(one, other), (other, one)].into_iter();
        pairs
            .filter_map(|(mine, other)| {
                let (mine, other) = (set.node_labels.get(mine)?, set.node_labels.get(other)?);
                let span = *spans.node_labels.get(&mine.name)?.labels.get(key)?;
                let message = format!("{} and {} give {node} different values of {key}", mine.name, other.name);
                let found = diagnostic(&mine.origin.file, Severity::Error, span, "labels-disagree", message);
                let hint = format!("the other one is in {}; make them agree", other.origin);
                Some(Diagnostic { hint: Some(hint), ..found })
            })
            .collect()
    }
}

/// Finds node labels that conflict on a known node, once for each pair and key. Such keys are not applied: it is unknown
/// which document is right.
pub fn disagreements(set: &PolicySet, facts: &Facts) -> BTreeSet<LabelDisagreement> {
    let mut found: BTreeMap<(&ObjectName, &ObjectName, &str), &NodeName> = BTreeMap::new();
    let index = NodeLabelsIndex::new(set);
    for (node, known) in &facts.nodes {
        let mut first: BTreeMap<&str, (&str, &ObjectName)> = BTreeMap::new();
        for document in index.covering(node, &known.labels) {
            for (key, value) in &document.labels {
                let (other_value, other) = *first.entry(key).or_insert((value, &document.name));
                if other_value != value {
                    found.entry((other, &document.name, key)).or_insert(node);
                }
            }
        }
    }
    let found = found.into_iter().map(|((one, other, key), node)| LabelDisagreement {
        one: one.clone(),
        other: other.clone(),
        key: key.to_owned(),
        node: node.clone(),
    });
    found.collect()
}

/// The labels of nodes once Git's are applied.
fn labels_by_node(set: &PolicySet, facts: &Facts) -> BTreeMap<NodeName, Labels> {
    let index = NodeLabelsIndex::new(set);
    let merged = facts.nodes.iter().map(|(name, node)| {
        let mut labels = node.labels.clone();
        labels.extend(index.labels_of(name, &node.labels));
        (name.clone(), labels)
    });
    merged.collect()
}
