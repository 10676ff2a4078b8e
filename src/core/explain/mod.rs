//! Explains what becomes of a pod's packets to an address, and why: for whoever is on call.
//!
//! It decides nothing. Members, destinations, gateways and addresses are asked of the functions that decide on every node, in the way
//! that previews and assertions ask them; what a kernel holds is read from its state (`kernel`), and what has gone wrong there from the
//! findings of the node itself. Not here: reading Git, manifests and kernels (`reconcile`), and printing (`cli`).

mod advice;
mod answer;
mod claims;
mod connections;
mod exits;
mod kernel;
mod live;
mod reverse;
mod text;
mod verdict;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use jiff::Timestamp;

pub use self::answer::{
    ANSWER_FORMAT, ConnectionAnswer, Counted, Difference, ExitAnswer, ExitNumbers, KernelAnswer, KernelQuestion,
    KernelWay, TOKEN_HEADER, Told, WayOut,
};
pub use self::claims::{Claim, LostBecause, LostClaim, Missing, NearMiss, Part};
pub use self::connections::connections_told;
pub use self::kernel::{KernelView, to_ask};
pub use self::live::{LiveConnection, LiveOutcome, counted_between};
pub use self::reverse::{AddressUse, Carried, Source, leaving_as, seen_as};
pub use self::text::{ExplainedLines, address_lines, age, lines, since, verdict_line};
pub use self::verdict::{Verdict, exit_verdict};
use super::admission::PendingCommit;
use super::compile::Compiled;
use super::facts::{Facts, PodName};
use super::finding::Finding;
use super::host_network::HostNetwork;
use super::name::NodeName;
use super::neighbour_resolution::{LinkNeighbour, Resolution};
use super::placement::{ExitKey, Placement};
use super::policy::diagnostic_sink::nearest;
use super::policy::members::Members;
use super::policy::{Origin, PolicyId, PolicySet};
use super::preview::revision::RevisionState;
use super::report::history::{NodeReport, Rejected};
use super::state::NodeState;
use super::state::nft::RuleCounters;
use super::state::ownership::DatapathConfig;

/// Whose packets, and where to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// The pod.
    pub pod: PodName,
    /// The destination.
    pub destination: IpAddr,
}

/// What is known of a cluster. The more is known, the more an explanation says.
#[derive(Debug, Clone, Copy)]
pub struct Situation<'a> {
    /// Active policies, labels and configuration.
    pub set: &'a PolicySet,
    /// Nodes, namespaces and pods.
    pub facts: &'a Facts,
    /// Interfaces and addresses of the nodes whose kernel is known.
    pub host_networks: &'a BTreeMap<NodeName, HostNetwork>,
    /// The placement as it applies on a node, a handover included; none: as the policies are placed.
    pub placement: Option<&'a Placement>,
    /// What nodes report of themselves.
    pub reports: &'a BTreeMap<NodeName, NodeReport>,
    /// The kernel that was read.
    pub kernel: Option<&'a KernelReading>,
    /// What agents answered of theirs.
    pub told: &'a BTreeMap<NodeName, Told>,
    /// The newest commit, if it waits, and the policies as they will be.
    pub pending: Option<(&'a PendingCommit, Option<&'a PolicySet>)>,
    /// Why something is not active, where the commit itself is not known.
    pub waits: Option<&'a str>,
    /// Documents whose newest version is not active.
    pub rejected: &'a [Rejected],
    /// The time: it decides which suspended policies are active.
    pub now: Timestamp,
}

/// A node's kernel, as it was read.
#[derive(Debug, Clone)]
pub struct KernelReading {
    /// The node.
    pub node: NodeName,
    /// What it holds of Egret's objects.
    pub state: NodeState,
    /// What it has to hold.
    pub compiled: Compiled,
    /// Marks, tables and priorities.
    pub range: DatapathConfig,
    /// What its rules have counted.
    pub counters: RuleCounters,
    /// Neighbours that the kernel has no MAC address of: what is sent to them is dropped.
    pub unresolved: BTreeMap<LinkNeighbour, Resolution>,
    /// Whether a process of Egret's runs there.
    pub running: bool,
    /// When it was read.
    pub at: Timestamp,
}

/// What becomes of a pod's packets to an address, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// The question.
    pub question: Question,
    /// The pod's address in the destination's family.
    pub address: Option<IpAddr>,
    /// The pod's node.
    pub node: Option<NodeName>,
    /// The answer.
    pub verdict: Verdict,
    /// The exit that the packets are led to.
    pub exit: Option<ExitKey>,
    /// The exit that carries them while its gateway does not answer.
    pub carrier: Option<ExitKey>,
    /// The policy that decides.
    pub claim: Option<Claim>,
    /// Other prefixes that have the destination.
    pub lost: Vec<LostClaim>,
    /// Policies that have the destination and do not select the pod, the nearest first.
    pub near: Vec<NearMiss>,
    /// The policy's other gateways and the nodes that cannot be one, each in a sentence.
    pub elsewhere: Vec<String>,
    /// What the kernels on the way hold.
    pub kernels: Vec<KernelView>,
    /// The commit that waits, and what it would change here.
    pub pending: Option<PendingView>,
    /// Why something is not active, where the commit itself is not known.
    pub waits: Option<String>,
    /// Documents whose newest version is not active and that concern the answer.
    pub rejected: Vec<Rejected>,
    /// What to do about the cause ([`Explanation::advice`] has all).
    cause_advice: Option<String>,
    /// The commit that last changed the policy's document, as far as the caller has looked.
    pub changed: Option<DocumentChange>,
    /// The pod's connections to the destination, as far as the caller has looked.
    pub connections: Option<Vec<OpenConnection>>,
    /// A connection that the caller has tried.
    pub live: Option<LiveConnection>,
}

/// A commit that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PendingView {
    /// The commit, and why it waits.
    pub commit: PendingCommit,
    /// The answer once it is admitted, if that is another one.
    pub verdict: Option<Verdict>,
}

/// The commit that last changed a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DocumentChange {
    /// Its full id.
    pub commit: String,
    /// The first line of its message.
    pub summary: String,
    /// `Name <address>` of its author.
    pub author: String,
    /// When it was made.
    pub time: Timestamp,
}

/// An open connection, as a node on the way tracks it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenConnection {
    /// The node that tracks it.
    pub node: NodeName,
    /// Where the replies are sent to.
    pub replies_to: IpAddr,
    /// Whether a reply was seen.
    pub answered: bool,
    /// The exit whose mark it has: its identity; none: it is not steered.
    pub exit: Option<String>,
    /// Whether a new connection would take another way.
    pub older: bool,
}

/// There is no such pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownPod {
    /// The name.
    pub pod: PodName,
    /// One with a similar name.
    pub near: Option<String>,
}

impl std::fmt::Display for UnknownPod {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "there is no pod {}", self.pod)
    }
}

impl std::error::Error for UnknownPod {}

/// Explains.
pub fn explain(question: &Question, situation: &Situation<'_>) -> Result<Explanation, UnknownPod> {
    let Situation { set, facts, now, .. } = *situation;
    let Some(pod) = facts.pods.get(&question.pod) else {
        let names: Vec<String> = facts.pods.keys().map(ToString::to_string).collect();
        let near = nearest(&question.pod.to_string(), names.iter().map(String::as_str)).map(str::to_owned);
        return Err(UnknownPod { pod: question.pod.clone(), near });
    };
    let side = side(situation);
    let decided = verdict::decide(&side, question, pod, situation);
    let kernels = kernel::views(&decided, question, pod, situation);
    let (verdict, advice) = (decided.verdict.clone(), decided.advice.clone());
    let (verdict, advice) = kernel::astray(verdict, advice, &kernels);
    let (verdict, advice) = kernel::closed(verdict, advice, &kernels, question.destination, situation);
    let (verdict, advice) = kernel::elsewhere(verdict, advice, &decided, pod, situation);
    let pending = situation.pending.map(|(commit, after)| {
        let nothing = BTreeMap::new();
        let then = after.map(|after| {
            let later =
                Situation { set: after, placement: None, kernel: None, told: &nothing, pending: None, ..*situation };
            let side = RevisionState::new(after, set, facts, now);
            verdict::decide(&side, question, pod, &later).verdict
        });
        let verdict = then.filter(|then| !then.means(&verdict));
        PendingView { commit: commit.clone(), verdict }
    });
    let document = decided.claim.as_ref().map(|claim| claim.origin.file.clone());
    let concerns = |one: &&Rejected| document.is_none() || one.place.split(':').next() == document.as_deref();
    let rejected: Vec<Rejected> = situation.rejected.iter().filter(concerns).cloned().collect();
    // The policy that is meant may be the one that is not active.
    let advice = match rejected.first() {
        Some(first) if matches!(verdict, Verdict::NotSteered { reason: "NotSelected" | "NoPolicy", .. }) => {
            Some(format!("mend {}, whose newest version is not active: {}", first.place, first.message))
        }
        _ => advice,
    };
    Ok(Explanation {
        question: question.clone(),
        address: pod.addresses.iter().copied().find(|one| one.is_ipv4() == question.destination.is_ipv4()),
        node: pod.node.clone(),
        verdict,
        exit: decided.exit,
        carrier: decided.carrier,
        claim: decided.claim,
        lost: decided.lost,
        near: decided.near,
        elsewhere: decided.elsewhere,
        kernels,
        pending,
        waits: situation.waits.map(str::to_owned),
        rejected,
        cause_advice: advice,
        changed: None,
        connections: None,
        live: None,
    })
}

/// The policies with members on a node.
pub fn members_on(node: &NodeName, situation: &Situation<'_>) -> BTreeSet<PolicyId> {
    let side = side(situation);
    let index = Members::new(side.set.policies.values(), &side.facts);
    let here = side.facts.pods.iter().filter(|(_, pod)| pod.node.as_ref() == Some(node));
    here.flat_map(|(name, pod)| index.of(name, pod, &side.facts)).collect()
}

/// The policies applied to the cluster, with the placement that was read where there is one.
pub(super) fn side<'a>(situation: &Situation<'a>) -> RevisionState<'a> {
    let Situation { set, facts, placement, now, .. } = *situation;
    let mut side = RevisionState::new(set, set, facts, now);
    if let Some(placement) = placement {
        let mut findings = std::mem::take(&mut side.placement.findings);
        findings.extend(placement.findings.iter().cloned());
        findings.sort();
        findings.dedup();
        side.placement = Placement { findings, ..placement.clone() };
    }
    side
}

impl<'a> Situation<'a> {
    /// What a node reports.
    fn findings_of(&self, node: &NodeName) -> impl Iterator<Item = &'a Finding> + use<'a> {
        let reports: &'a BTreeMap<NodeName, NodeReport> = self.reports;
        reports.get(node).into_iter().flat_map(|report| &report.findings).map(|dated| &dated.finding)
    }
}

impl Situation<'_> {
    /// Since when a node reports a finding.
    pub(crate) fn since(&self, node: &NodeName, finding: &Finding) -> Option<Timestamp> {
        let report = self.reports.get(node)?;
        let same = |one: &Finding| one.code == finding.code && one.subject == finding.subject;
        report.findings.iter().find(|dated| same(&dated.finding)).map(|dated| dated.since)
    }

    /// Since when any node reports it.
    pub(super) fn since_anywhere(&self, finding: &Finding) -> Option<Timestamp> {
        self.reports.keys().filter_map(|node| self.since(node, finding)).min()
    }
}

impl Explanation {
    /// The policy's document.
    pub fn document(&self) -> Option<(&PolicyId, &Origin)> {
        self.claim.as_ref().map(|claim| (&claim.policy, &claim.origin))
    }
}
