//! The prefixes that claim a destination: which one wins, why the others lose, and which label a pod lacks for a policy that does not
//! select it.
//!
//! The winner is the one of the map that nodes compile (`RevisionState::lanes`); what is here only names it. Not here: what then becomes
//! of the packet (`verdict`).

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::fmt;

use ipnet::IpNet;
use jiff::Timestamp;

use super::Question;
use crate::core::facts::Pod;
use crate::core::labels::{Labels, Operator, Requirement, Selector};
use crate::core::policy::{MemberSelector, Origin, Policy, PolicyId};
use crate::core::preview::revision::{DispositionKey, EgressPath, RevisionState};

/// At most this many policies that do not select a pod are named.
const NEAR: usize = 3;

/// The prefix that decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// Its policy.
    pub policy: PolicyId,
    /// The policy's document.
    pub origin: Origin,
    /// The prefix.
    pub net: IpNet,
    /// Whether the policy excludes it.
    pub excluded: bool,
    /// Which of the policy's selectors matches, from 1, and what it asks for.
    pub selector: (usize, String),
}

/// A prefix that has the destination and does not decide.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LostClaim {
    /// Its policy.
    pub policy: PolicyId,
    /// The policy's document.
    pub origin: Origin,
    /// The prefix.
    pub net: IpNet,
    /// Whether the policy excludes it.
    pub excluded: bool,
    /// Why it does not decide.
    pub because: LostBecause,
}

/// Why a prefix does not decide.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LostBecause {
    /// Another one is longer.
    Shorter,
    /// The same prefix of a policy with a higher priority.
    LowerPriority,
    /// The same prefix of a policy whose name comes first.
    LaterName,
    /// The policy excludes the same prefix.
    Excluded,
    /// Its policy is suspended until then.
    Suspended(Timestamp),
}

/// A policy that has the destination and does not select the pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NearMiss {
    /// The policy.
    pub policy: PolicyId,
    /// Its document.
    pub origin: Origin,
    /// Its prefix.
    pub net: IpNet,
    /// The selector that lacks least, from 1.
    pub selector: usize,
    /// What it lacks.
    pub missing: Vec<Missing>,
}

/// A part of a selector that does not match.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// Whose labels it is about.
    pub part: Part,
    /// What is asked for.
    pub wanted: Requirement,
    /// The value that is there; none: the label is not set.
    pub has: Option<String>,
}

/// What a part of a selector is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The pod.
    Pod,
    /// The pod's namespace.
    Namespace,
    /// The name of the pod's namespace.
    NamespaceName,
    /// The pod's node.
    Node,
}

/// Everything that claims a destination of one pod.
#[derive(Debug, Default)]
pub(super) struct Claims {
    pub(super) claim: Option<Claim>,
    pub(super) lost: Vec<LostClaim>,
    pub(super) near: Vec<NearMiss>,
}

/// The claims to a destination. `path`: what decides, if anything does.
pub(super) fn claims(
    side: &RevisionState<'_>,
    question: &Question,
    pod: &Pod,
    key: &DispositionKey,
    path: Option<&EgressPath>,
) -> Claims {
    let mut claims = Claims::default();
    let rank = |policy: &Policy, excluded: bool| (Reverse(policy.priority), policy.id.clone(), !excluded);
    // As `compile::groups::targets` ranks them, and `cidr::flatten` chooses.
    let mut entries: Vec<(IpNet, bool, &Policy)> = Vec::new();
    for (id, _) in key {
        let Some(policy) = side.set.policies.get(id) else { continue };
        entries.extend(having(policy, question).map(|(net, excluded)| (net, excluded, policy)));
    }
    entries.sort_by_key(|(net, excluded, policy)| (Reverse(net.prefix_len()), rank(policy, *excluded)));
    let winner = path.and_then(|path| entries.iter().position(|(_, _, policy)| policy.id == path.policy));
    let winning = winner.map(|position| entries[position]);
    claims.claim = winning.map(|(net, excluded, policy)| Claim {
        policy: policy.id.clone(),
        origin: policy.origin.clone(),
        net,
        excluded,
        selector: matching(policy, question, pod, side),
    });
    for (position, (net, excluded, policy)) in entries.iter().enumerate() {
        let Some((won, _, by)) = winning.filter(|_| winner != Some(position)) else { continue };
        let because = if net.prefix_len() < won.prefix_len() {
            LostBecause::Shorter
        } else if policy.id == by.id {
            LostBecause::Excluded
        } else if policy.priority < by.priority {
            LostBecause::LowerPriority
        } else {
            LostBecause::LaterName
        };
        claims.lost.push(lost(policy, *net, *excluded, because));
    }
    let of_key: BTreeSet<&PolicyId> = key.iter().map(|(id, _)| id).collect();
    for policy in side.set.policies.values().filter(|policy| !of_key.contains(&policy.id)) {
        let Some((net, _)) = having(policy, question).find(|(_, excluded)| !excluded) else { continue };
        let active = side.placement.policies.contains_key(&policy.id);
        match (&policy.suspend, policy.selects(&question.pod, pod, &side.facts)) {
            (Some(suspend), true) => {
                claims.lost.push(lost(policy, net, false, LostBecause::Suspended(suspend.until)));
            }
            (_, false) if active => claims.near.extend(near(policy, net, question, pod, side)),
            (_, _) => {}
        }
    }
    claims.near.sort_by_key(|near| (near.missing.len(), Reverse(near.net.prefix_len()), near.policy.clone()));
    claims.near.truncate(NEAR);
    claims
}

fn lost(policy: &Policy, net: IpNet, excluded: bool, because: LostBecause) -> LostClaim {
    LostClaim { policy: policy.id.clone(), origin: policy.origin.clone(), net, excluded, because }
}

/// The prefixes of a policy that have the destination, the longest first; with it whether the policy excludes it.
fn having<'a>(policy: &'a Policy, question: &'a Question) -> impl Iterator<Item = (IpNet, bool)> + 'a {
    let destinations = policy.destinations.iter().map(|net| (*net, false));
    let all = destinations.chain(policy.excluded.iter().map(|net| (*net, true)));
    let mut having: Vec<(IpNet, bool)> = all.filter(|(net, _)| net.contains(&question.destination)).collect();
    having.sort_by_key(|(net, _)| Reverse(net.prefix_len()));
    having.into_iter()
}

/// The first selector that matches.
fn matching(policy: &Policy, question: &Question, pod: &Pod, side: &RevisionState<'_>) -> (usize, String) {
    let found = policy.selectors.iter().position(|selector| selector.matches(&question.pod, pod, &side.facts));
    found.map_or_else(|| (0, String::new()), |position| (position + 1, selector_text(&policy.selectors[position])))
}

/// A selector in words.
fn selector_text(selector: &MemberSelector) -> String {
    let names = selector.namespace_name.iter().map(|operator| match operator {
        Operator::In(values) => format!("namespace {}", values.iter().cloned().collect::<Vec<_>>().join(" or ")),
        other => Requirement { key: "namespace".to_owned(), operator: other.clone() }.to_string(),
    });
    let labels = |what: &str, selector: &Selector| {
        (!selector.requirements.is_empty()).then(|| format!("{what}{selector}")).into_iter().collect::<Vec<_>>()
    };
    let parts: Vec<String> = labels("", &selector.pod)
        .into_iter()
        .chain(names)
        .chain(labels("namespace with ", &selector.namespace))
        .chain(labels("node with ", &selector.node))
        .collect();
    if parts.is_empty() { "every pod".to_owned() } else { parts.join(", ") }
}

/// The selector of a policy that lacks least.
fn near(policy: &Policy, net: IpNet, question: &Question, pod: &Pod, side: &RevisionState<'_>) -> Option<NearMiss> {
    let all = policy.selectors.iter().enumerate().map(|(position, selector)| {
        let missing = missing(selector, question, pod, side);
        (missing.len(), position, missing)
    });
    let (_, position, missing) = all.min_by_key(|(count, position, _)| (*count, *position))?;
    let (policy, origin) = (policy.id.clone(), policy.origin.clone());
    Some(NearMiss { policy, origin, net, selector: position + 1, missing })
}

/// What a pod lacks for a selector, part by part as [`MemberSelector::matches`] tests them.
fn missing(selector: &MemberSelector, question: &Question, pod: &Pod, side: &RevisionState<'_>) -> Vec<Missing> {
    static NONE: Labels = Labels::new();
    let namespace = &question.pod.namespace;
    let of_node = pod.node.as_ref().and_then(|node| side.facts.nodes.get(node)).map_or(&NONE, |node| &node.labels);
    let of_namespace = side.facts.namespaces.get(namespace).unwrap_or(&NONE);
    let lacking = |part: Part, selector: &Selector, labels: &Labels| -> Vec<Missing> {
        let has = |requirement: &Requirement| labels.get(&requirement.key).cloned();
        let lacking = selector.requirements.iter().filter(|one| !one.matches(has(one).as_deref()));
        lacking.map(|wanted| Missing { part, wanted: wanted.clone(), has: has(wanted) }).collect()
    };
    let mut missing = lacking(Part::Pod, &selector.pod, &pod.labels);
    missing.extend(lacking(Part::Namespace, &selector.namespace, of_namespace));
    let names = selector.namespace_name.iter().filter(|operator| !operator.matches(Some(namespace)));
    missing.extend(names.map(|operator| Missing {
        part: Part::NamespaceName,
        wanted: Requirement { key: "name".to_owned(), operator: operator.clone() },
        has: Some(namespace.clone()),
    }));
    missing.extend(lacking(Part::Node, &selector.node, of_node));
    missing
}

impl NearMiss {
    /// The commands that would make the pod a member; none if another part than labels does not match.
    pub(super) fn command(&self, question: &Question, pod: &Pod) -> Option<String> {
        let commands: Option<Vec<String>> = self.missing.iter().map(|one| one.command(question, pod)).collect();
        let commands = commands?;
        let of_pod = self.missing.iter().any(|one| one.part == Part::Pod);
        let also = if of_pod { "; and in the template that the pod is made from" } else { "" };
        (!commands.is_empty()).then(|| format!("{}{also}", commands.join(" && ")))
    }
}

impl Missing {
    fn command(&self, question: &Question, pod: &Pod) -> Option<String> {
        let change = match &self.wanted.operator {
            Operator::In(values) => format!("{}={}", self.wanted.key, values.first()?),
            Operator::Exists => format!("{}=", self.wanted.key),
            Operator::NotIn(_) | Operator::DoesNotExist => format!("{}-", self.wanted.key),
        };
        let over = if self.has.is_some() && !change.ends_with('-') { " --overwrite" } else { "" };
        Some(match self.part {
            Part::Pod => {
                format!("kubectl label pod -n {} {} {change}{over}", question.pod.namespace, question.pod.name)
            }
            Part::Namespace => format!("kubectl label namespace {} {change}{over}", question.pod.namespace),
            Part::Node => format!("kubectl label node {} {change}{over}", pod.node.as_ref()?),
            Part::NamespaceName => return None,
        })
    }
}

impl fmt::Display for Missing {
    /// `the pod has no label org, and org=empire is wanted`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { part, wanted, has } = self;
        let whose = match part {
            Part::Pod => "the pod",
            Part::Namespace => "the namespace",
            Part::Node => "the node",
            Part::NamespaceName => {
                let is = has.as_deref().unwrap_or_default();
                return match &wanted.operator {
                    Operator::In(values) => {
                        let names: Vec<&str> = values.iter().map(String::as_str).collect();
                        write!(f, "the namespace is {is}, and {} is wanted", names.join(" or "))
                    }
                    _ => write!(f, "the namespace {is} is left out"),
                };
            }
        };
        match has {
            None => write!(f, "{whose} has no label {}, and {wanted} is wanted", wanted.key),
            Some(value) => write!(f, "{whose} has {}={value}, and {wanted} is wanted", wanted.key),
        }
    }
}

impl fmt::Display for LostBecause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shorter => f.write_str("is shorter"),
            Self::LowerPriority => f.write_str("has a lower priority"),
            Self::LaterName => f.write_str("has the same priority, and its name comes later"),
            Self::Excluded => f.write_str("is excluded by the same policy"),
            Self::Suspended(until) => write!(f, "is suspended until {until}"),
        }
    }
}
