//! Goes through every pod and every destination, with all gateways and with each one lost.
//!
//! Nothing is sampled. Pods with the same policies and address families are one class. A class has disjoint ranges of
//! destinations, each with one outcome (`revision`), and these are compared with the ranges of the assertion. Only if one
//! of its policies spreads its members over several exits, each pod is checked separately. What a class may reach
//! depends on no assertion and is found once: a hundred assertions about 20,000 pods are a few thousand classes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::rc::Rc;

use super::super::revision::{DispositionKey, EgressPath, RevisionState, passes};
use super::{AssertionInput, Counterexample, OwnReason, PacketFate, is_allowed};
use crate::core::cidr::{AddressRange, RangeSet};
use crate::core::compile::{Disposition, way};
use crate::core::facts::{Facts, PodName};
use crate::core::fate::fate;
use crate::core::name::{NodeName, ObjectName};
use crate::core::networks::OwnNetworks;
use crate::core::placement::{PlacedPolicy, place};
use crate::core::policy::assertion::{Assertion, Claim};
use crate::core::policy::config::Config;
use crate::core::policy::members::Members;
use crate::core::policy::{PolicyId, PolicySet};
use crate::core::state::nft::AddressFamily;

/// What pods of one class share.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct PodClass<'a> {
    policies: Vec<&'a PolicyId>,
    /// Their node, if that excludes other destinations than the rest.
    special: Option<&'a NodeName>,
    /// Whether they have addresses of IPv4 and IPv6.
    families: [bool; 2],
}

/// The pods that one assertion is about, by the number of their class and in order of name.
type Subjects<'a> = BTreeMap<usize, Vec<&'a PodName>>;

/// What becomes of packets of pods with one key.
struct Decided {
    key: DispositionKey,
    /// Destinations that some policy names.
    lanes: Vec<(AddressRange, EgressPath)>,
    /// Those of them that are steered or dropped.
    steered: Vec<(AddressRange, EgressPath)>,
    /// The same destinations alone.
    covered: RangeSet,
}

/// Placements without a gateway, of the policies that have an exit on it.
type Without = Rc<BTreeMap<PolicyId, PlacedPolicy>>;

pub(super) struct Checker<'a> {
    input: &'a AssertionInput<'a>,
    side: &'a RevisionState<'a>,
    classes: Vec<PodClass<'a>>,
    subjects: BTreeMap<&'a ObjectName, Subjects<'a>>,
    /// The facts that gateways are chosen from; those of a lost one are changed while they are chosen.
    nodes: Facts,
    /// Addresses that no assertion is about.
    cluster: RangeSet,
    decided: BTreeMap<(DispositionKey, Option<&'a NodeName>), Rc<Decided>>,
    /// The same for classes none of whose policies has several exits, by the gateway that is lost.
    decided_classes: BTreeMap<(usize, Option<&'a NodeName>), Rc<Decided>>,
    without: BTreeMap<NodeName, Without>,
}

impl<'a> Checker<'a> {
    pub(super) fn new(input: &'a AssertionInput<'a>, side: &'a RevisionState<'a>) -> Self {
        let (classes, subjects) = subjects(input.set, side);
        Self {
            input,
            side,
            decided_classes: BTreeMap::new(),
            classes,
            subjects,
            nodes: side.facts.of_nodes(),
            cluster: own_addresses(&side.facts),
            decided: BTreeMap::new(),
            without: BTreeMap::new(),
        }
    }

    /// Whether an assertion is about any pod.
    pub(super) fn selects_any(&self, assertion: &Assertion) -> bool {
        self.subjects.contains_key(&assertion.name)
    }

    /// The first counterexample: with all gateways, then with each lost in turn, by name; one that is broken before one
    /// that is not known.
    pub(super) fn counterexample(&mut self, assertion: &Assertion) -> Option<Counterexample> {
        let subjects = self.subjects.remove(&assertion.name)?;
        let mut comparison = Comparison { assertion, scope: self.scope(assertion), known: BTreeMap::new() };
        let mut unknown = match self.first(&mut comparison, subjects.iter(), None) {
            Some(found) if found.is_known() => return Some(found),
            found => found,
        };
        let side = self.side;
        let placed = &side.placement.policies;
        let mut of_gateway: BTreeMap<&'a NodeName, Vec<_>> = BTreeMap::new();
        for subject in &subjects {
            let exits = self.classes[*subject.0].policies.iter().flat_map(|id| &placed[*id].exits);
            for gateway in exits.map(|exit| &exit.gateway).collect::<BTreeSet<_>>() {
                of_gateway.entry(gateway).or_default().push(subject);
            }
        }
        for (gateway, subjects) in of_gateway {
            let without = self.without(gateway);
            let found = self.first(&mut comparison, subjects.into_iter(), Some((gateway, &without)));
            match found.map(|found| Counterexample { lost: Some(gateway.clone()), ..found }) {
                Some(found) if found.is_known() => return Some(found),
                found => unknown = unknown.or(found),
            }
        }
        unknown
    }

    /// The policies that have an exit on a gateway, placed as they are once it is lost.
    fn without(&mut self, gateway: &NodeName) -> Without {
        if let Some(known) = self.without.get(gateway) {
            return Rc::clone(known);
        }
        let side = self.side;
        let has_exit = |placed: &PlacedPolicy| placed.exits.iter().any(|exit| exit.gateway == *gateway);
        let affected = side.placement.policies.iter().filter(|(_, placed)| has_exit(placed));
        let set = PolicySet {
            policies: affected.map(|(id, _)| (id.clone(), side.set.policies[id].clone())).collect(),
            config: side.set.config.clone(),
            grants: side.set.grants.clone(),
            ..PolicySet::default()
        };
        let ready = self.nodes.nodes.get_mut(gateway).map(|node| std::mem::replace(&mut node.ready, false));
        let placement = place(&set, &self.nodes, self.input.now);
        if let (Some(ready), Some(node)) = (ready, self.nodes.nodes.get_mut(gateway)) {
            node.ready = ready;
        }
        Rc::clone(self.without.entry(gateway.clone()).or_insert_with(|| Rc::new(placement.policies)))
    }

    /// The destinations that an assertion is about.
    fn scope(&self, assertion: &Assertion) -> RangeSet {
        let destinations: RangeSet = assertion.destinations.iter().copied().collect();
        let scope = destinations.subtract(&assertion.excluded.iter().copied().collect());
        match assertion.claim {
            Claim::LeavesAs { .. } => scope.subtract(&self.cluster),
            Claim::NeverSteered => scope,
        }
    }

    /// The first pod with a packet that the claim forbids, and how many such pods there are. What is broken comes before
    /// what is not known.
    fn first<'s>(
        &mut self,
        comparison: &mut Comparison<'_>,
        subjects: impl Iterator<Item = (&'s usize, &'s Vec<&'a PodName>)>,
        lost: Option<(&'a NodeName, &Without)>,
    ) -> Option<Counterexample>
    where
        'a: 's,
    {
        let side = self.side;
        let placed =
            |id: &PolicyId| lost.and_then(|(_, one)| one.get(id)).unwrap_or_else(|| &side.placement.policies[id]);
        let mut worst: [Option<Counterexample>; 2] = [None, None];
        for (number, pods) in subjects {
            let class = &self.classes[*number];
            let (families, special) = (class.families, class.special);
            let several = class.policies.iter().any(|id| placed(id).exits.len() > 1);
            for pods in pods.chunks(if several { 1 } else { pods.len() }) {
                let of_class = (*number, lost.map(|(gateway, _)| gateway));
                let known = self.decided_classes.get(&of_class).filter(|_| !several);
                let decided = if let Some(known) = known {
                    Rc::clone(known)
                } else {
                    let policies = self.classes[*number].policies.iter();
                    let ways = policies.map(|id| ((*id).clone(), way(placed(id), pods[0])));
                    self.decided(ways.collect(), special)
                };
                if !several {
                    self.decided_classes.entry(of_class).or_insert_with(|| Rc::clone(&decided));
                }
                let Some(found) = self.of_class(comparison, &decided, families) else { continue };
                let worst = &mut worst[usize::from(!found.is_known())];
                let count = worst.as_ref().map_or(0, |one| one.pods) + pods.len();
                *worst = Some(match worst.take() {
                    Some(first) if first.pod < *pods[0] => Counterexample { pods: count, ..first },
                    _ => Counterexample { pod: pods[0].clone(), pods: count, ..found },
                });
            }
        }
        worst.into_iter().flatten().next()
    }

    fn decided(&mut self, key: DispositionKey, special: Option<&'a NodeName>) -> Rc<Decided> {
        let side = self.side;
        let decided = self.decided.entry((key, special)).or_insert_with_key(|(key, special)| {
            let lanes = side.lanes(key, &mut BTreeSet::new());
            let steered = side.steered(&lanes, *special);
            let covered = steered.iter().map(|(range, _)| *range).collect();
            Rc::new(Decided { key: key.clone(), lanes, steered, covered })
        });
        Rc::clone(decided)
    }

    /// The forbidden packet of a class with the lowest destination. Its pod and number are left open.
    fn of_class(
        &self,
        Comparison { assertion, scope, known }: &mut Comparison<'_>,
        decided: &Rc<Decided>,
        families: [bool; 2],
    ) -> Option<Counterexample> {
        // What was decided lives as long as the checker.
        let found = known.entry((Rc::as_ptr(decided).addr(), families));
        found.or_insert_with(|| self.compare(assertion, scope, decided, families)).clone()
    }

    fn compare(
        &self,
        assertion: &Assertion,
        scope: &RangeSet,
        Decided { key, lanes, steered, covered }: &Decided,
        families: [bool; 2],
    ) -> Option<Counterexample> {
        let of_family = |range: &AddressRange| families[usize::from(range.first().is_ipv6())];
        let scope: RangeSet = scope.ranges().iter().copied().filter(of_family).collect();
        // Why a packet is not steered is of no interest where it must not be.
        let asked = |path: &EgressPath| path.way != Disposition::Own || assertion.claim != Claim::NeverSteered;
        let steered = steered.iter().filter(|(_, path)| asked(path));
        let within = steered.filter_map(|(range, path)| Some((scope.first_within(*range)?, path)));
        let decided =
            within.map(|(destination, path)| (destination, Some(&path.policy), self.fate(key, path, destination)));
        let rest = scope.subtract(covered);
        let undecided = rest.ranges().first().map(|range| {
            let named = lanes.iter().any(|(lane, _)| lane.contains(range.first()));
            let why = if named { OwnReason::NeverSteered } else { OwnReason::NoPolicy };
            (range.first(), None, PacketFate::Own(why))
        });
        let wrong = decided.chain(undecided).filter(|(_, _, fate)| !is_allowed(&assertion.claim, fate));
        let first = wrong.min_by_key(|(destination, _, fate)| (matches!(fate, PacketFate::Unknown(_)), *destination));
        first.map(|(destination, policy, fate)| Counterexample {
            lost: None,
            pod: PodName { namespace: String::new(), name: String::new() },
            destination,
            policy: policy.map(|id| (id.clone(), self.side.set.policies[id].origin.to_string())),
            fate,
            pods: 0,
        })
    }

    fn fate(&self, key: &DispositionKey, path: &EgressPath, destination: IpAddr) -> PacketFate {
        fate(&path.way, passes(key, path), destination, self.input.host_networks)
    }
}

/// One assertion, and what was found of it.
struct Comparison<'s> {
    assertion: &'s Assertion,
    scope: RangeSet,
    /// By what is decided, and the families of addresses.
    known: BTreeMap<(usize, [bool; 2]), Option<Counterexample>>,
}

/// The classes of pods, and the pods of each assertion that is about any.
fn subjects<'a>(
    set: &'a PolicySet,
    side: &'a RevisionState<'a>,
) -> (Vec<PodClass<'a>>, BTreeMap<&'a ObjectName, Subjects<'a>>) {
    let facts = &side.facts;
    let (policies, assertions) = (side.members(), Members::new(set.assertions.values(), facts));
    let mut numbers: BTreeMap<PodClass<'a>, usize> = BTreeMap::new();
    let mut subjects: BTreeMap<&ObjectName, Subjects<'a>> = BTreeMap::new();
    for (name, pod) in &facts.pods {
        let (selecting, Some(node)) = (assertions.selecting(name, pod, facts), &pod.node) else { continue };
        if selecting.is_empty() {
            continue;
        }
        let has = |family| pod.addresses.iter().any(|address| AddressFamily::of(*address) == family);
        let class = PodClass {
            policies: policies.selecting(name, pod, facts).into_iter().map(|policy| &policy.id).collect(),
            special: Some(node).filter(|node| side.is_special(node)),
            families: [has(AddressFamily::V4), has(AddressFamily::V6)],
        };
        let next = numbers.len();
        let number = *numbers.entry(class).or_insert(next);
        for assertion in selecting {
            subjects.entry(&assertion.name).or_default().entry(number).or_default().push(name);
        }
    }
    let mut classes: Vec<(PodClass<'a>, usize)> = numbers.into_iter().collect();
    classes.sort_unstable_by_key(|(_, number)| *number);
    (classes.into_iter().map(|(class, _)| class).collect(), subjects)
}

/// What no assertion is about: what no router forwards, and what nodes and pods have, whatever egret.yaml says.
fn own_addresses(facts: &Facts) -> RangeSet {
    let networks = OwnNetworks::of(&Config::default(), facts);
    let pods = facts.pods.values().flat_map(|pod| pod.addresses.iter().copied());
    networks.never_steered(&networks.outside(pods))
}
