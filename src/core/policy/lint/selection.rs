//! Warns of selectors that match nothing: which part of one nothing in the cluster meets, and which label was likely meant.
//!
//! A policy without members and a selector that can have none are told apart: the first may be waiting for its pods. Not
//! here: which policies have members (`lint`).

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};

use super::super::check::NAMESPACE_NAME;
use super::super::diagnostic_sink::{Span, nearest};
use super::super::spans::{Lookalike, PolicySpans};
use super::super::{MemberSelector, Policy};
use super::warning;
use crate::core::diagnostic::Diagnostic;
use crate::core::facts::Facts;
use crate::core::labels::{Labels, Operator, Requirement, Selector};
use crate::core::name::NodeName;

/// Among more values none is looked for: a label with so many is an identifier.
const MOST_VALUES: usize = 1_000;

/// The labels of many objects of one kind.
#[derive(Debug, Default)]
struct Vocabulary<'a> {
    objects: usize,
    /// How many objects have each value of each key.
    keys: BTreeMap<&'a str, BTreeMap<&'a str, usize>>,
}

impl<'a> Vocabulary<'a> {
    fn of(all: impl Iterator<Item = &'a Labels>) -> Self {
        let mut vocabulary = Self::default();
        all.for_each(|labels| vocabulary.add(labels));
        vocabulary
    }

    fn add(&mut self, labels: &'a Labels) {
        self.objects += 1;
        for (key, value) in labels {
            *self.keys.entry(key).or_default().entry(value).or_default() += 1;
        }
    }

    /// Whether some object meets a requirement.
    fn meets(&self, requirement: &Requirement) -> bool {
        let values = self.keys.get(requirement.key.as_str());
        let having = || values.map_or(0, |values| values.values().sum());
        let with = |wanted: &str| values.and_then(|values| values.get(wanted)).copied().unwrap_or(0);
        match &requirement.operator {
            Operator::In(wanted) => wanted.iter().any(|wanted| with(wanted) > 0),
            Operator::NotIn(wanted) => wanted.iter().map(|wanted| with(wanted)).sum::<usize>() < self.objects,
            Operator::Exists => having() > 0,
            Operator::DoesNotExist => having() < self.objects,
        }
    }

    /// The label that was likely meant by a requirement that nothing meets.
    fn near(&self, requirement: &Requirement) -> Option<String> {
        let wanted: Vec<&str> = match &requirement.operator {
            Operator::In(wanted) => wanted.iter().map(String::as_str).collect(),
            Operator::NotIn(_) | Operator::Exists | Operator::DoesNotExist => Vec::new(),
        };
        if let Some(values) = self.keys.get(requirement.key.as_str()) {
            let few = values.len() <= MOST_VALUES;
            let near = wanted
                .iter()
                .filter(|wanted| few && wanted.len() > 2)
                .find_map(|wanted| nearest(wanted, values.keys().copied()));
            let Some(near) = near else {
                return (values.len() <= 5).then(|| {
                    let all: Vec<&str> = values.keys().copied().collect();
                    format!("the values of `{}` there: {}", requirement.key, all.join(", "))
                });
            };
            return Some(format!("did you mean `{}={near}`?", requirement.key));
        }
        let with_value = |key: &str| wanted.iter().find(|wanted| self.keys[key].contains_key(**wanted));
        if let Some(key) = nearest(&requirement.key, self.keys.keys().copied()) {
            return Some(match with_value(key) {
                Some(value) => format!("did you mean `{key}={value}`?"),
                None => format!("did you mean the label `{key}`?"),
            });
        }
        let (key, value) = self.keys.keys().find_map(|key| Some((key, with_value(key)?)))?;
        Some(format!("did you mean `{key}={value}`?"))
    }
}

/// The labels of a cluster's objects. They are gathered when the first selector without a match asks: mostly there is none,
/// and there may be 100,000 pods.
#[derive(Debug)]
pub(super) struct KnownLabels<'a> {
    facts: &'a Facts,
    /// Of nodes, with those that they get from Git.
    labelled: &'a BTreeMap<NodeName, Labels>,
    pods: OnceCell<Vocabulary<'a>>,
    /// The pods of each namespace.
    pods_of: OnceCell<BTreeMap<&'a str, Vocabulary<'a>>>,
    namespaces: OnceCell<Vocabulary<'a>>,
    nodes: OnceCell<Vocabulary<'a>>,
}

/// Why a selector matches nothing.
struct Lack {
    message: String,
    hint: Option<String>,
}

impl<'a> KnownLabels<'a> {
    /// `labelled`: the labels of nodes, with those that they get from Git.
    pub(super) fn new(facts: &'a Facts, labelled: &'a BTreeMap<NodeName, Labels>) -> Self {
        Self {
            facts,
            labelled,
            pods: OnceCell::new(),
            pods_of: OnceCell::new(),
            namespaces: OnceCell::new(),
            nodes: OnceCell::new(),
        }
    }

    fn pods(&self) -> &Vocabulary<'a> {
        let pods = || self.facts.pods.values().filter(|pod| pod.routable());
        self.pods.get_or_init(|| Vocabulary::of(pods().map(|pod| &pod.labels)))
    }

    fn pods_of(&self) -> &BTreeMap<&'a str, Vocabulary<'a>> {
        self.pods_of.get_or_init(|| {
            let mut all: BTreeMap<&str, Vocabulary<'_>> = BTreeMap::new();
            for (name, pod) in self.facts.pods.iter().filter(|(_, pod)| pod.routable()) {
                all.entry(&name.namespace).or_default().add(&pod.labels);
            }
            all
        })
    }

    fn namespaces(&self) -> &Vocabulary<'a> {
        self.namespaces.get_or_init(|| Vocabulary::of(self.facts.namespaces.values()))
    }

    fn nodes(&self) -> &Vocabulary<'a> {
        self.nodes.get_or_init(|| Vocabulary::of(self.labelled.values()))
    }

    /// Which label was likely meant by a selector of nodes that no node meets.
    pub(super) fn near_of_nodes(&self, selector: &Selector) -> Option<String> {
        let lacking = selector.requirements.iter().find(|requirement| !self.nodes().meets(requirement))?;
        self.nodes().near(lacking)
    }

    /// The first part of a selector that nothing in the cluster meets.
    fn lack(&self, selector: &MemberSelector) -> Option<Lack> {
        self.unknown_namespace(selector)
            .or_else(|| lacking(self.namespaces(), &selector.namespace, "namespace"))
            .or_else(|| lacking(self.pods(), &selector.pod, "pod"))
            .or_else(|| self.elsewhere(selector))
            .or_else(|| lacking(self.nodes(), &selector.node, "node"))
    }

    fn unknown_namespace(&self, selector: &MemberSelector) -> Option<Lack> {
        let names = named(selector)?;
        // A namespace's object may be missing where its pods are known.
        let pods_of = self.pods_of();
        if names.iter().any(|name| self.facts.namespaces.contains_key(name) || pods_of.contains_key(name.as_str())) {
            return None;
        }
        let known = self.facts.namespaces.keys().map(String::as_str).chain(pods_of.keys().copied());
        let near = nearest(names.first()?, known);
        let list = names.iter().map(String::as_str).collect::<Vec<_>>().join(" or ");
        Some(Lack {
            message: format!("there is no namespace {list}"),
            hint: near.map(|near| format!("did you mean the namespace `{near}`?")),
        })
    }

    /// A label that pods have, but none in the namespaces that the selector names.
    fn elsewhere(&self, selector: &MemberSelector) -> Option<Lack> {
        let names = named(selector)?;
        let there: Vec<&Vocabulary<'_>> = names.iter().filter_map(|name| self.pods_of().get(name.as_str())).collect();
        let list = names.iter().map(String::as_str).collect::<Vec<_>>().join(" or ");
        if there.is_empty() {
            return Some(Lack { message: format!("there is no pod in the namespace {list}"), hint: None });
        }
        let met = |requirement: &Requirement| there.iter().any(|pods| pods.meets(requirement));
        let requirement = selector.pod.requirements.iter().find(|requirement| !met(requirement))?;
        let near = there.iter().find_map(|pods| pods.near(requirement));
        let other = || self.pods_of().iter().find(|(_, pods)| pods.meets(requirement)).map(|(name, _)| *name);
        Some(Lack {
            message: format!("no pod in the namespace {list} has {requirement}"),
            hint: other().map(|name| format!("pods in the namespace `{name}` have it")).or(near),
        })
    }
}

/// The names of namespaces that a selector asks for.
fn named(selector: &MemberSelector) -> Option<&BTreeSet<String>> {
    selector.namespace_name.iter().find_map(|operator| match operator {
        Operator::In(names) => Some(names),
        Operator::NotIn(_) | Operator::Exists | Operator::DoesNotExist => None,
    })
}

fn lacking(vocabulary: &Vocabulary<'_>, selector: &Selector, what: &str) -> Option<Lack> {
    let requirement = selector.requirements.iter().find(|requirement| !vocabulary.meets(requirement))?;
    Some(Lack { message: format!("no {what} has {requirement}"), hint: vocabulary.near(requirement) })
}

/// Requirements on one label that exclude each other.
fn contradiction(selector: &MemberSelector) -> Option<Lack> {
    let key = [&selector.namespace, &selector.pod, &selector.node].into_iter().find_map(contradicted);
    let names: Vec<&Operator> = selector.namespace_name.iter().collect();
    let key = key.or_else(|| exclude_each_other(&names).then_some(NAMESPACE_NAME))?;
    let hint = Some("take one of the requirements out".to_owned());
    Some(Lack { message: format!("what is asked of `{key}` excludes itself"), hint })
}

/// Warns of a gateway's selector that no node can match, whatever its labels are.
pub(super) fn of_gateway(selector: &Selector, file: &str, span: Span) -> Option<Diagnostic> {
    let key = contradicted(selector)?;
    let message = format!("this selector matches no node: what is asked of `{key}` excludes itself");
    Some(warning(file, span, "no-match", message, "take one of the requirements out"))
}

/// The first label of which a selector asks what nothing can meet.
fn contradicted(selector: &Selector) -> Option<&str> {
    let mut by_key: BTreeMap<&str, Vec<&Operator>> = BTreeMap::new();
    for requirement in &selector.requirements {
        by_key.entry(&requirement.key).or_default().push(&requirement.operator);
    }
    by_key.into_iter().find(|(_, operators)| exclude_each_other(operators)).map(|(key, _)| key)
}

fn exclude_each_other(operators: &[&Operator]) -> bool {
    let meets = |value: Option<&str>| operators.iter().all(|operator| operator.matches(value));
    let mut named = operators.iter().filter_map(|operator| match operator {
        Operator::In(values) => Some(values),
        Operator::NotIn(_) | Operator::Exists | Operator::DoesNotExist => None,
    });
    // A label's value has no blank, so this one stands for all that no requirement names.
    let met = meets(None) || meets(Some(" ")) || named.any(|values| values.iter().any(|value| meets(Some(value))));
    !met
}

/// Checks a policy's selectors. `selects`: whether it has members, if the cluster is known.
pub(super) fn check(
    policy: &Policy,
    known: Option<&KnownLabels<'_>>,
    selects: bool,
    file: &str,
    places: &PolicySpans,
) -> Vec<Diagnostic> {
    // The only selector of a policy with members has them.
    let doubtful = policy.selectors.iter().zip(&places.members).filter(|_| !selects || policy.selectors.len() > 1);
    let lacks = doubtful.filter_map(|(selector, span)| {
        let lack = contradiction(selector).or_else(|| known?.lack(selector))?;
        Some((lack, *span))
    });
    let lacks: Vec<(Lack, Span)> = lacks.collect();
    let mut found = lookalikes(known, file, places);
    if known.is_some() && !selects {
        let (why, hint) = match lacks.into_iter().next() {
            Some((Lack { message, hint }, _)) => (format!(": {message}"), hint),
            None => (String::new(), None),
        };
        let message = format!("the policy {} selects no pod that is there now{why}", policy.id);
        let hint = hint.unwrap_or_else(|| "compare with `kubectl get pods --show-labels`".to_owned());
        found.push(warning(file, places.selectors, "no-member", message, &hint));
        return found;
    }
    found.extend(lacks.into_iter().map(|(Lack { message, hint }, span)| {
        let hint = hint.unwrap_or_else(|| "the policy's other selectors do; take this one out, or mend it".to_owned());
        warning(file, span, "no-match", format!("this selector matches no pod: {message}"), &hint)
    }));
    found
}

/// Keys that look like what selects a namespace. A label of this name that objects have is meant as it stands.
fn lookalikes(known: Option<&KnownLabels<'_>>, file: &str, places: &PolicySpans) -> Vec<Diagnostic> {
    let is_label = |one: &&Lookalike| {
        known.is_some_and(|known| {
            let labels = if one.of_pods { known.pods() } else { known.namespaces() };
            labels.keys.contains_key(one.key.as_str())
        })
    };
    let found = places.lookalikes.iter().filter(|one| !is_label(one)).map(|one| {
        let Lookalike { key, meant, of_pods, span } = one;
        let message = if *of_pods {
            format!("`{key}` in a podSelector is a label of the pod, not of its namespace")
        } else {
            format!("`{key}` in a namespaceSelector is a label that namespaces do not have")
        };
        warning(file, *span, "namespace-lookalike", message, &format!("did you mean `{meant}`?"))
    });
    found.collect()
}
