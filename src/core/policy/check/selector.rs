//! Parses label selectors, and Cilium's special keys in them.
//!
//! Not here: matching (`core::labels`, `MemberSelector::matches`).

use std::collections::BTreeSet;

use crate::core::labels::{Operator, Requirement, Selector, key_error, value_error};
use crate::core::policy::MemberSelector;
use crate::core::policy::diagnostic_sink::{DiagnosticSink, Span, nearest, quoted};
use crate::core::policy::document::{EXPRESSION, LABEL_SELECTOR, MEMBER_SELECTOR};
use crate::core::policy::mapping_reader::{MappingReader, choice, first_line, list, mapping, text};
use crate::core::policy::spans::{Lookalike, PolicySpans};
use crate::core::policy::yaml::{MappingEntry, YamlNode};

/// In a podSelector: the name of the pod's namespace.
pub(in crate::core::policy) const NAMESPACE_NAME: &str = "io.kubernetes.pod.namespace";
/// Prefix of a podSelector key that refers to a label of the pod's namespace.
const NAMESPACE_LABEL: &str = "io.cilium.k8s.namespace.labels.";
/// The label that every namespace has, with its name.
const METADATA_NAME: &str = "kubernetes.io/metadata.name";
/// Labels that Cilium derives for its identities. No pod has them in the API.
const IDENTITY_LABEL: &str = "io.cilium.k8s.policy.";

/// Whose labels a selector is about, which decides what its keys may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LabelsOf {
    Pods,
    Namespaces,
    Nodes,
}

/// A requirement with the location of its key.
type Placed = (Requirement, Span);

/// `selectors`: the member selectors; `spans` gets their locations. Empty if there was an error or no entry, which was
/// reported.
pub(super) fn members(
    entry: &MappingEntry,
    spans: &mut PolicySpans,
    out: &mut DiagnosticSink<'_>,
) -> Vec<MemberSelector> {
    let items = list(&entry.value, "`selectors`", out);
    if items.is_some_and(<[YamlNode]>::is_empty) {
        out.error(entry.key_span, "no-selector", "`selectors` is empty: no pod is selected")
            .hint("`- podSelector: {}` selects every pod");
    }
    let mut found = Vec::new();
    for node in items.unwrap_or(&[]) {
        if let Some(member) = member(node, &mut spans.lookalikes, out) {
            found.push(member);
            spans.members.push(first_line(node));
        }
    }
    found
}

fn member(node: &YamlNode, lookalikes: &mut Vec<Lookalike>, out: &mut DiagnosticSink<'_>) -> Option<MemberSelector> {
    let object = MappingReader::read(node, "an entry of selectors", first_line(node), MEMBER_SELECTOR, out)?;
    if object.get("podSelector").is_none() && object.get("namespaceSelector").is_none() {
        out.error(object.at(), "no-selector", "a selector has neither podSelector nor namespaceSelector")
            .hint("`podSelector: {}` selects every pod");
    }
    let mut member = MemberSelector::default();
    for (requirement, at) in placed(&object, "podSelector", LabelsOf::Pods, out) {
        let meant = meant_by_pod_key(&requirement.key);
        lookalikes.extend(meant.map(|meant| Lookalike {
            key: requirement.key.clone(),
            meant,
            of_pods: true,
            span: at,
        }));
        sort_in(requirement, at, &mut member, out);
    }
    for (requirement, at) in placed(&object, "namespaceSelector", LabelsOf::Namespaces, out) {
        let meant = meant_by_namespace_key(&requirement.key);
        let key = requirement.key.clone();
        lookalikes.extend(meant.map(|meant| Lookalike { key, meant, of_pods: false, span: at }));
        member.namespace.requirements.push(requirement);
    }
    member.node.requirements = bare(placed(&object, "nodeSelector", LabelsOf::Nodes, out));
    Some(member)
}

/// The key that a podSelector's key was likely meant to be, if it looks like one of a namespace.
fn meant_by_pod_key(key: &str) -> Option<String> {
    if key == NAMESPACE_NAME || key.starts_with(NAMESPACE_LABEL) {
        return None;
    }
    let name = key.rsplit('/').next().unwrap_or(key);
    if name == "namespace"
        || name.ends_with(".namespace")
        || key == METADATA_NAME
        || nearest(key, [NAMESPACE_NAME]).is_some()
    {
        return Some(NAMESPACE_NAME.to_owned());
    }
    // `io.cilium.k8s.namespace.label.team`
    let (prefix, label) = key.rsplit_once('.')?;
    let near = nearest(&format!("{prefix}."), [NAMESPACE_LABEL])?;
    Some(format!("{near}{label}"))
}

/// The key that a namespaceSelector's key was likely meant to be: these two stand for a namespace in a podSelector alone.
fn meant_by_namespace_key(key: &str) -> Option<String> {
    match key.strip_prefix(NAMESPACE_LABEL) {
        Some(label) => Some(label.to_owned()),
        None => (key == NAMESPACE_NAME).then(|| METADATA_NAME.to_owned()),
    }
}

fn bare(placed: Vec<Placed>) -> Vec<Requirement> {
    placed.into_iter().map(|(requirement, _)| requirement).collect()
}

/// Assigns a requirement of a podSelector to the part of the selector that its key refers to.
fn sort_in(requirement: Requirement, at: Span, member: &mut MemberSelector, out: &mut DiagnosticSink<'_>) {
    if requirement.key == NAMESPACE_NAME {
        member.namespace_name.push(requirement.operator);
    } else if let Some(key) = requirement.key.strip_prefix(NAMESPACE_LABEL) {
        let key = key.to_owned();
        if let Some(why) = key_error(&key) {
            out.error(at, "bad-label-key", format!("{} is no label of a namespace", quoted(&key))).hint(why);
        }
        member.namespace.requirements.push(Requirement { key, ..requirement });
    } else {
        if requirement.key.starts_with(IDENTITY_LABEL) {
            out.warning(at, "identity-label", format!("no pod has the label {}", quoted(&requirement.key)))
                .label("matches nothing here")
                .hint("it exists in Cilium's identities only; select by labels of the pod or its namespace");
        }
        member.pod.requirements.push(requirement);
    }
}

/// The label selector in a field of a mapping; without requirements if the field is missing.
fn placed(object: &MappingReader<'_>, name: &'static str, of: LabelsOf, out: &mut DiagnosticSink<'_>) -> Vec<Placed> {
    object.get(name).map(|entry| requirements(entry, name, of, out)).unwrap_or_default()
}

/// A label selector of nodes.
pub(super) fn nodes(entry: &MappingEntry, out: &mut DiagnosticSink<'_>) -> Selector {
    Selector { requirements: bare(requirements(entry, "nodeSelector", LabelsOf::Nodes, out)) }
}

fn requirements(entry: &MappingEntry, what: &'static str, of: LabelsOf, out: &mut DiagnosticSink<'_>) -> Vec<Placed> {
    let Some(object) = MappingReader::read(&entry.value, what, entry.key_span, LABEL_SELECTOR, out) else {
        return Vec::new();
    };
    let mut found = Vec::new();
    if let Some(labels) = object.get("matchLabels") {
        for entry in mapping(&labels.value, "`matchLabels`", out).unwrap_or(&[]) {
            let key = label_key(&entry.key, entry.key_span, of, out);
            if let (Some(key), Some(value)) = (key, label_value(&entry.value, out)) {
                found.push((Requirement { key, operator: Operator::In(BTreeSet::from([value])) }, entry.key_span));
            }
        }
    }
    if let Some(expressions) = object.get("matchExpressions") {
        let items = list(&expressions.value, "`matchExpressions`", out).unwrap_or(&[]);
        found.extend(items.iter().filter_map(|node| expression(node, of, out)));
    }
    found
}

fn expression(node: &YamlNode, of: LabelsOf, out: &mut DiagnosticSink<'_>) -> Option<Placed> {
    #[derive(Clone, Copy, PartialEq)]
    enum Word {
        In,
        NotIn,
        Exists,
        DoesNotExist,
    }
    const WORDS: [(&str, Word); 4] =
        [("In", Word::In), ("NotIn", Word::NotIn), ("Exists", Word::Exists), ("DoesNotExist", Word::DoesNotExist)];
    let object = MappingReader::read(node, "an entry of matchExpressions", first_line(node), EXPRESSION, out)?;
    let key = object.required("key", out).and_then(|entry| {
        let written = text(&entry.value, "`key`", out)?;
        Some((label_key(written, entry.value.span, of, out)?, entry.value.span))
    });
    let operator = object.required("operator", out);
    let word = operator.and_then(|entry| choice(&entry.value, "`operator`", &WORDS, out));
    let values = object.get("values");
    let listed: Vec<&YamlNode> =
        values.and_then(|entry| list(&entry.value, "`values`", out)).unwrap_or(&[]).iter().collect();
    let set: BTreeSet<String> = listed.iter().filter_map(|node| label_value(node, out)).collect();
    let (word, operator) = (word?, operator?);
    let takes_values = matches!(word, Word::In | Word::NotIn);
    if takes_values && listed.is_empty() {
        out.error(operator.value.span, "no-values", "In and NotIn need values").hint("values: [\"…\"]");
    } else if !takes_values && !listed.is_empty() {
        let place = values.map_or(operator.key_span, |entry| entry.key_span);
        out.error(place, "needless-values", "Exists and DoesNotExist take no values")
            .hint("take `values` out, or write In");
    }
    let operator = match word {
        Word::In => Operator::In(set),
        Word::NotIn => Operator::NotIn(set),
        Word::Exists => Operator::Exists,
        Word::DoesNotExist => Operator::DoesNotExist,
    };
    key.map(|(key, at)| (Requirement { key, operator }, at))
}

/// A label's key. Cilium's source prefixes `k8s:` and `any:` are removed except for nodes.
pub(super) fn label_key(written: &str, at: Span, of: LabelsOf, out: &mut DiagnosticSink<'_>) -> Option<String> {
    let stripped = ["k8s:", "any:"].into_iter().find_map(|source| written.strip_prefix(source));
    let key = stripped.filter(|_| of != LabelsOf::Nodes).unwrap_or(written);
    // The part behind the prefix of a namespace's label is checked as a label key itself.
    if !(of == LabelsOf::Pods && key.starts_with(NAMESPACE_LABEL))
        && let Some(why) = key_error(key)
    {
        out.error(at, "bad-label-key", format!("{} is no label's key", quoted(written))).hint(why);
        return None;
    }
    Some(key.to_owned())
}

/// A label's value.
pub(super) fn label_value(node: &YamlNode, out: &mut DiagnosticSink<'_>) -> Option<String> {
    let written = text(node, "a label's value", out)?;
    if let Some(why) = value_error(written) {
        out.error(node.span, "bad-label-value", format!("{} is no label's value", quoted(written))).hint(why);
        return None;
    }
    Some(written.to_owned())
}
