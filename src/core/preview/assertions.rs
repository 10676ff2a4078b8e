//! Checks EgressAssertions: for every pod and every destination, now and with any one gateway lost.
//!
//! Nothing is sampled. Pods with the same policies, exits and address families are one class; a class has disjoint ranges
//! of destinations, each with one outcome (`revision`), and these are compared with the ranges of the assertion. A
//! counterexample is the lowest address of such a range, of the first pod by name.
//!
//! An assertion is about what leaves the cluster: the addresses of nodes and pods, and what no router forwards, are no
//! destinations of it. What egret.yaml excludes is one, or a change of egret.yaml could silence an assertion. Not here:
//! several gateways lost at once, and open connections.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use jiff::Timestamp;

use super::revision::{DispositionKey, EgressPath, RevisionState};
use super::{PreviewInput, Risk, RiskLevel};
use crate::core::cidr::{AddressRange, RangeSet};
use crate::core::compile::{Disposition, egress_address, way};
use crate::core::diagnostic::{Diagnostic, Severity};
use crate::core::escape::EscapedText;
use crate::core::facts::{Facts, PodName};
use crate::core::finding::Finding;
use crate::core::host_network::HostNetwork;
use crate::core::name::NodeName;
use crate::core::networks::OwnNetworks;
use crate::core::placement::{ExitKey, PlacedPolicy, place};
use crate::core::policy::assertion::{Assertion, Claim};
use crate::core::policy::config::Config;
use crate::core::policy::diagnostic_sink::diagnostic;
use crate::core::policy::members::Members;
use crate::core::policy::spans::Spans;
use crate::core::policy::{Egress, Origin, PolicyId, PolicySet};
use crate::core::state::nft::AddressFamily;
use crate::core::text::counted;

/// The code of an assertion with a counterexample.
pub const BROKEN: &str = "assertion-broken";
/// The code of an assertion that may hold, but an address is not known.
pub const UNPROVEN: &str = "assertion-unproven";
/// The codes of assertions that fail.
pub(super) const CODES: [&str; 2] = [BROKEN, UNPROVEN];
/// The code of an assertion that no pod answers.
const IDLE: &str = "assertion-without-pods";

/// What assertions are checked against.
#[derive(Debug, Clone, Copy)]
pub struct AssertionInput<'a> {
    /// The policies, and the assertions about them.
    pub set: &'a PolicySet,
    /// The policies before: labels of nodes that only they set are gone.
    pub before: &'a PolicySet,
    /// Nodes, namespaces and pods.
    pub facts: &'a Facts,
    /// Interfaces and addresses of the nodes whose kernel was read.
    pub host_networks: &'a BTreeMap<NodeName, HostNetwork>,
    /// The time: it decides which suspended policies are active.
    pub now: Timestamp,
}

/// What becomes of a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PacketFate {
    /// It leaves with this address, through this gateway.
    As(IpAddr, NodeName),
    /// It leaves through this exit, whose address is not known.
    Unknown(ExitKey),
    /// It is dropped: there is no gateway, or this gateway has no address for it.
    Dropped(Option<ExitKey>),
    /// It leaves by its node's own routing, for this reason.
    Own(OwnReason),
}

/// Why a packet is not steered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OwnReason {
    /// No policy of the pod has the destination.
    NoPolicy,
    /// The policy excludes it.
    Excluded,
    /// No gateway of the policy is fit, and it says `Passthrough`.
    PassedThrough,
    /// The destination belongs to the cluster, or egret.yaml excludes it.
    NeverSteered,
}

/// A packet for which an assertion does not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counterexample {
    /// The gateway that is lost; none: all are there.
    pub lost: Option<NodeName>,
    /// The pod.
    pub pod: PodName,
    /// The destination.
    pub destination: IpAddr,
    /// The policy that decides, if one does, with its place.
    pub policy: Option<(PolicyId, String)>,
    /// What becomes of the packet.
    pub fate: PacketFate,
    /// The number of pods with such a packet.
    pub pods: usize,
}

/// An assertion that does not hold, or is not known to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailedAssertion {
    /// The assertion.
    pub assertion: Assertion,
    /// Why; none: it selects no pod.
    pub because: Option<Counterexample>,
}

/// A pod that some assertion is about.
struct Subject<'a> {
    name: &'a PodName,
    /// Its node, if that excludes other destinations than the rest.
    special: Option<&'a NodeName>,
    /// Whether it has addresses of IPv4 and IPv6.
    families: [bool; 2],
    policies: Vec<PolicyId>,
}

/// What pods of one class share.
type Class<'a> = (DispositionKey, Option<&'a NodeName>, [bool; 2]);

/// Checks every assertion of a set. Sorted by name; those that hold are left out.
pub fn failed(input: &AssertionInput<'_>) -> Vec<FailedAssertion> {
    if input.set.assertions.is_empty() {
        return Vec::new();
    }
    let side = RevisionState::new(input.set, input.before, input.facts, input.now);
    let (index, nodes, cluster) = (side.members(), side.facts.of_nodes(), own_addresses(&side.facts));
    let mut checker = Checker { input, side: &side, index, nodes, cluster };
    let failed = input.set.assertions.values().filter_map(|assertion| {
        let because = match checker.subjects(assertion) {
            subjects if subjects.is_empty() => None,
            subjects => Some(checker.counterexample(assertion, &subjects)?),
        };
        Some(FailedAssertion { assertion: assertion.clone(), because })
    });
    failed.collect()
}

/// The broken assertions for the report of a node, which knows its own kernel. What only other kernels know is left open.
pub fn findings(
    set: &PolicySet,
    facts: &Facts,
    (node, own): (&NodeName, &HostNetwork),
    now: Timestamp,
) -> Vec<Finding> {
    if set.assertions.is_empty() {
        return Vec::new();
    }
    let mut host_networks = facts.host_networks.clone();
    host_networks.insert(node.clone(), own.clone());
    let input = AssertionInput { set, before: set, facts, host_networks: &host_networks, now };
    failed(&input).iter().filter_map(FailedAssertion::finding).collect()
}

/// Assertions that the change takes away or rewrites, and whether its policies break them as they were: a change must not
/// pass by silencing what it breaks.
pub(super) fn weakened(input: &PreviewInput<'_>) -> Vec<Risk> {
    let bare = |one: &Assertion| Assertion { origin: Origin::default(), ..one.clone() };
    let stays = |one: &Assertion| input.after.assertions.get(&one.name).is_some_and(|other| bare(one) == bare(other));
    let differing = input.before.assertions.iter().filter(|(_, one)| !stays(one));
    let assertions: BTreeMap<_, _> = differing.map(|(name, one)| (name.clone(), one.clone())).collect();
    if assertions.is_empty() {
        return Vec::new();
    }
    let set = PolicySet { assertions, ..input.after.clone() };
    let PreviewInput { before, facts, host_networks, now, .. } = *input;
    let failed = failed(&AssertionInput { set: &set, before, facts, host_networks, now });
    let risk = |one: &Assertion| {
        let verb = if input.after.assertions.contains_key(&one.name) { "changes " } else { "removes " };
        let text = EscapedText::new().words("this change ").words(verb).name(&one.name).words(" (");
        let text = text.quote(one.origin.to_string()).words(")");
        let because = failed.iter().find(|other| other.assertion.name == one.name).and_then(|one| one.because.as_ref());
        match because {
            Some(because) => {
                let text = text.words(", which would not hold as it was: ").quote(because.to_string());
                Risk { level: RiskLevel::Danger, code: "assertion-weakened", title: "Assertion", text }
            }
            None => Risk { level: RiskLevel::Note, code: "assertion-changed", title: "Assertion", text },
        }
    };
    set.assertions.values().map(risk).collect()
}

/// What no assertion is about: what no router forwards, and what nodes and pods have, whatever egret.yaml says.
fn own_addresses(facts: &Facts) -> RangeSet {
    let networks = OwnNetworks::of(&Config::default(), facts);
    let pods = facts.pods.values().flat_map(|pod| pod.addresses.iter().copied());
    networks.never_steered(&networks.outside(pods))
}

struct Checker<'a> {
    input: &'a AssertionInput<'a>,
    side: &'a RevisionState<'a>,
    index: Members<'a>,
    /// The facts that gateways are chosen from; those of a lost one are changed while they are chosen.
    nodes: Facts,
    /// Addresses that no assertion is about.
    cluster: RangeSet,
}

impl<'a> Checker<'a> {
    fn subjects(&self, assertion: &Assertion) -> Vec<Subject<'a>> {
        let facts = &self.side.facts;
        let selected = facts.pods.iter().filter(|(name, pod)| assertion.selects(name, pod, facts));
        let subjects = selected.filter_map(|(name, pod)| {
            let node = pod.node.as_ref()?;
            let has = |family| pod.addresses.iter().any(|address| AddressFamily::of(*address) == family);
            Some(Subject {
                name,
                special: Some(node).filter(|node| self.side.is_special(node)),
                families: [has(AddressFamily::V4), has(AddressFamily::V6)],
                policies: self.index.of(name, pod, facts),
            })
        });
        subjects.collect()
    }

    /// The first counterexample: with all gateways, then with each lost in turn, by name.
    fn counterexample(&mut self, assertion: &Assertion, subjects: &[Subject<'a>]) -> Option<Counterexample> {
        let scope = self.scope(assertion);
        let mut known = BTreeMap::new();
        let placed = &self.side.placement.policies;
        if let Some(found) = self.first((assertion, &scope), subjects, |id| &placed[id], &mut known) {
            return Some(found);
        }
        let policies: BTreeSet<&PolicyId> = subjects.iter().flat_map(|subject| &subject.policies).collect();
        let exits = policies.iter().flat_map(|id| &placed[*id].exits);
        let gateways: BTreeSet<&NodeName> = exits.map(|exit| &exit.gateway).collect();
        gateways.into_iter().find_map(|gateway| {
            let without = self.without(gateway, &policies);
            let moves = |subject: &&Subject<'_>| subject.policies.iter().any(|id| without.contains_key(id));
            let moving = subjects.iter().filter(moves);
            let placed = |id: &PolicyId| without.get(id).unwrap_or(&placed[id]);
            let found = self.first((assertion, &scope), moving, placed, &mut known)?;
            Some(Counterexample { lost: Some(gateway.clone()), ..found })
        })
    }

    /// The policies that have an exit on a gateway, placed as they are once it is lost.
    fn without(&mut self, gateway: &NodeName, policies: &BTreeSet<&PolicyId>) -> BTreeMap<PolicyId, PlacedPolicy> {
        let side = self.side;
        let has_exit = |id: &PolicyId| side.placement.policies[id].exits.iter().any(|exit| exit.gateway == *gateway);
        let affected = policies.iter().copied().filter(|id| has_exit(id));
        let set = PolicySet {
            policies: affected.map(|id| (id.clone(), side.set.policies[id].clone())).collect(),
            config: side.set.config.clone(),
            grants: side.set.grants.clone(),
            ..PolicySet::default()
        };
        let ready = self.nodes.nodes.get_mut(gateway).map(|node| std::mem::replace(&mut node.ready, false));
        let placement = place(&set, &self.nodes, self.input.now);
        if let (Some(ready), Some(node)) = (ready, self.nodes.nodes.get_mut(gateway)) {
            node.ready = ready;
        }
        placement.policies
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
        &self,
        (assertion, scope): (&Assertion, &RangeSet),
        subjects: impl IntoIterator<Item = &'s Subject<'a>>,
        placed: impl Fn(&PolicyId) -> &'s PlacedPolicy,
        known: &mut BTreeMap<Class<'a>, Option<Counterexample>>,
    ) -> Option<Counterexample>
    where
        'a: 's,
    {
        let mut worst: [Option<Counterexample>; 2] = [None, None];
        for subject in subjects {
            let ways = subject.policies.iter().map(|id| (id.clone(), way(placed(id), subject.name)));
            let class: Class<'a> = (ways.collect(), subject.special, subject.families);
            let found = known.entry(class).or_insert_with_key(|class| self.of_class(assertion, scope, class));
            let Some(found) = found.clone() else { continue };
            let rank = usize::from(matches!(found.fate, PacketFate::Unknown(_)));
            let first = worst[rank].get_or_insert(Counterexample { pod: subject.name.clone(), pods: 0, ..found });
            first.pods += 1;
        }
        worst.into_iter().flatten().next()
    }

    /// The forbidden packet of a class with the lowest destination. Its pod and number are left open.
    fn of_class(&self, assertion: &Assertion, scope: &RangeSet, class: &Class<'a>) -> Option<Counterexample> {
        let (key, special, families) = class;
        let of_family = |range: &AddressRange| families[usize::from(range.first().is_ipv6())];
        let scope: RangeSet = scope.ranges().iter().copied().filter(of_family).collect();
        let lanes = self.side.lanes(key, &mut BTreeSet::new());
        let steered = self.side.steered(&lanes, *special);
        let decided = steered.iter().filter_map(|(range, path)| {
            let destination = scope.first_within(*range)?;
            Some((destination, Some(&path.policy), self.fate(key, path, destination)))
        });
        let rest = scope.subtract(&steered.iter().map(|(range, _)| *range).collect());
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
        let exit = match &path.way {
            Disposition::Drop => return PacketFate::Dropped(None),
            Disposition::Own => {
                let passes = key.iter().any(|(id, way)| *id == path.policy && *way == Disposition::Own);
                return PacketFate::Own(if passes { OwnReason::PassedThrough } else { OwnReason::Excluded });
            }
            Disposition::Exit(exit) => exit,
        };
        let family = AddressFamily::of(destination);
        match (self.input.host_networks.get(&exit.gateway), &exit.egress) {
            (Some(host_network), _) => match egress_address(exit, family, host_network) {
                Ok(Some((_, address))) => PacketFate::As(address, exit.gateway.clone()),
                Ok(None) | Err(_) => PacketFate::Dropped(Some(exit.clone())),
            },
            (None, Egress::Address(address)) if AddressFamily::of(*address) == family => {
                PacketFate::As(*address, exit.gateway.clone())
            }
            (None, Egress::Address(_)) => PacketFate::Dropped(Some(exit.clone())),
            (None, _) => PacketFate::Unknown(exit.clone()),
        }
    }
}

fn is_allowed(claim: &Claim, fate: &PacketFate) -> bool {
    match (claim, fate) {
        (Claim::NeverSteered, fate) => matches!(fate, PacketFate::Own(_)),
        (Claim::LeavesAs { addresses, .. }, PacketFate::As(address, _)) => addresses.contains(address),
        (Claim::LeavesAs { or_dropped, .. }, PacketFate::Dropped(_)) => *or_dropped,
        (Claim::LeavesAs { .. }, PacketFate::Unknown(_) | PacketFate::Own(_)) => false,
    }
}

impl FailedAssertion {
    /// Whether there is a counterexample, rather than an address that is not known or no pod.
    pub fn is_broken(&self) -> bool {
        self.because.as_ref().is_some_and(|found| !matches!(found.fate, PacketFate::Unknown(_)))
    }

    /// The code of its diagnostic.
    pub fn code(&self) -> &'static str {
        match &self.because {
            None => IDLE,
            Some(_) if self.is_broken() => BROKEN,
            Some(_) => UNPROVEN,
        }
    }

    /// The diagnostic at the assertion's claim. `spans` has none for a version that is held.
    pub fn diagnostic(&self, spans: &Spans) -> Diagnostic {
        let Assertion { name, origin, .. } = &self.assertion;
        let places = spans.assertions.get(name).cloned().unwrap_or_default();
        let Some(because) = &self.because else {
            let message = format!("the assertion {name} selects no pod that is there now");
            let found = diagnostic(&origin.file, Severity::Warning, places.selectors, self.code(), message);
            return Diagnostic { hint: Some("compare with `kubectl get pods --show-labels`".to_owned()), ..found };
        };
        let message = format!("the assertion {name} does not hold: {because}");
        let found = diagnostic(&origin.file, Severity::Error, places.claim, self.code(), message);
        Diagnostic { hint: Some(because.hint().to_owned()), ..found }
    }

    /// The same for a node's report, where it is broken.
    pub fn finding(&self) -> Option<Finding> {
        let because = self.because.as_ref().filter(|_| self.is_broken())?;
        let message = format!("does not hold: {because} ({})", self.assertion.origin);
        Some(Finding::new(BROKEN, &self.assertion.name, message).hint(because.hint()))
    }
}

impl Counterexample {
    fn hint(&self) -> &'static str {
        match (&self.fate, &self.lost) {
            (PacketFate::Unknown(_), _) => {
                "a snapshot has the interfaces of gateways: `egret snapshot`, or `--cluster` left out"
            }
            (PacketFate::Own(OwnReason::NeverSteered), _) => {
                "`exclusions`, `podCIDRs` and `serviceCIDRs` of egret.yaml are never steered; excludedCIDRs takes them out of the assertion"
            }
            (PacketFate::Dropped(_), Some(_)) => {
                "name a second gateway, or assert `orDropped: true` if a loss may stop these packets"
            }
            (PacketFate::Dropped(_), None) => "`orDropped: true` allows it",
            (_, _) => "change the policy, or the assertion in a change of its own",
        }
    }
}

impl std::fmt::Display for Counterexample {
    /// `batuu/tiefighter to 10.0.4.0 leaves with 10.0.3.43 through beta, by the policy outpost (policies/outpost.yaml:1)`
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(lost) = &self.lost {
            write!(f, "with {lost} lost, ")?;
        }
        write!(f, "{} to {} ", self.pod, self.destination)?;
        let own = "leaves without a gateway";
        match &self.fate {
            PacketFate::As(address, gateway) => write!(f, "leaves with {address} through {gateway}")?,
            PacketFate::Unknown(exit) => {
                write!(f, "leaves through {} ({}), whose address is not known", exit.gateway, exit.egress)?;
            }
            PacketFate::Dropped(None) => f.write_str("is dropped, as no gateway is fit")?,
            PacketFate::Dropped(Some(exit)) => {
                write!(f, "is dropped at {}, which has no address for it ({})", exit.gateway, exit.egress)?;
            }
            PacketFate::Own(OwnReason::NoPolicy) => write!(f, "{own}, as no policy has the destination")?,
            PacketFate::Own(OwnReason::Excluded) => write!(f, "{own}, as it is excluded")?,
            PacketFate::Own(OwnReason::PassedThrough) => write!(f, "{own}, as none is fit")?,
            PacketFate::Own(OwnReason::NeverSteered) => write!(f, "{own}, as the destination is never steered")?,
        }
        if let Some((policy, place)) = &self.policy {
            write!(f, ", by the policy {policy} ({place})")?;
        }
        if self.pods > 1 {
            write!(f, "; the same for {}", counted(self.pods - 1, "other pod"))?;
        }
        Ok(())
    }
}
