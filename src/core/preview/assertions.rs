//! Checks EgressAssertions: for every pod and every destination, now and with any one gateway lost.
//!
//! A counterexample is the lowest destination that an assertion forbids, of the first pod by name.
//!
//! An assertion is about what leaves the cluster: the addresses of nodes and pods, and what no router forwards, are no
//! destinations of it. What egret.yaml excludes is one, or a change of egret.yaml could silence an assertion. Not here:
//! how all pods and destinations are gone through (`check`), several gateways lost at once, and open connections.

mod check;

use std::collections::BTreeMap;
use std::net::IpAddr;

use jiff::Timestamp;

use self::check::Checker;
use super::revision::RevisionState;
use super::{PreviewInput, Risk, RiskLevel};
use crate::core::assignment;
use crate::core::diagnostic::{Diagnostic, Severity};
use crate::core::escape::EscapedText;
use crate::core::facts::{Facts, PodName};
pub use crate::core::fate::{OwnReason, PacketFate};
use crate::core::finding::Finding;
use crate::core::host_network::HostNetwork;
use crate::core::name::NodeName;
use crate::core::policy::assertion::{Assertion, Claim};
use crate::core::policy::diagnostic_sink::diagnostic;
use crate::core::policy::spans::Spans;
use crate::core::policy::{Origin, PolicyId, PolicySet};
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

/// Checks every assertion of a set. Sorted by name; those that hold are left out.
pub fn failed(input: &AssertionInput<'_>) -> Vec<FailedAssertion> {
    if input.set.assertions.is_empty() {
        return Vec::new();
    }
    let host_networks = assignment::expected(&[input.set], input.facts, input.host_networks);
    let input = &AssertionInput { host_networks: &host_networks, ..*input };
    let side = RevisionState::new(input.set, input.before, input.facts, input.now);
    let mut checker = Checker::new(input, &side);
    let failed = input.set.assertions.values().filter_map(|assertion| {
        let because = checker.selects_any(assertion).then(|| checker.counterexample(assertion));
        match because {
            Some(None) => None,
            because => Some(FailedAssertion { assertion: assertion.clone(), because: because.flatten() }),
        }
    });
    failed.collect()
}

/// The broken assertions, sorted by name. What depends on kernels that were not read is left open.
pub fn broken(
    set: &PolicySet,
    facts: &Facts,
    host_networks: &BTreeMap<NodeName, HostNetwork>,
    now: Timestamp,
) -> Vec<FailedAssertion> {
    let failed = failed(&AssertionInput { set, before: set, facts, host_networks, now });
    failed.into_iter().filter(FailedAssertion::is_broken).collect()
}

/// The same for the report of a node, which knows its own kernel.
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
    broken(set, facts, &host_networks, now).iter().filter_map(FailedAssertion::finding).collect()
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
        self.because.as_ref().is_some_and(Counterexample::is_known)
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
    /// Whether it is known that the packet does not do what is asserted.
    fn is_known(&self) -> bool {
        !matches!(self.fate, PacketFate::Unknown(_))
    }

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
