//! An explanation for programs: docs/commands.md describes the fields.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::Serialize;

use crate::clock::Clock;
use crate::core::explain::{
    AddressUse, Explanation, KernelView, LiveConnection, LiveOutcome, OpenConnection, Source, Verdict,
};
use crate::core::name::NodeName;

/// What becomes of a pod's packets to an address.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ExplanationJson<'a> {
    namespace: &'a str,
    pod: &'a str,
    address: Option<IpAddr>,
    node: Option<&'a str>,
    destination: IpAddr,
    revision: &'a str,
    #[serde(flatten)]
    verdict: VerdictJson<'a>,
    policy: Option<PolicyJson<'a>>,
    lost: Vec<LostJson<'a>>,
    near: Vec<NearJson<'a>>,
    elsewhere: &'a [String],
    kernels: Vec<KernelJson<'a>>,
    pending: Option<PendingJson<'a>>,
    waits: Option<&'a str>,
    rejected: &'a [crate::core::report::history::Rejected],
    #[serde(skip_serializing_if = "Option::is_none")]
    seen: Option<SeenJson>,
    #[serde(skip_serializing_if = "Option::is_none")]
    connections: Option<Vec<ConnectionJson<'a>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    live: Option<LiveJson<'a>>,
    advice: Option<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct LiveJson<'a> {
    port: u16,
    outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
    milliseconds: u64,
    /// Packets by node; none: its kernel counts none of the exit.
    counted: BTreeMap<&'a str, Option<u64>>,
}

impl<'a> From<&'a LiveConnection> for LiveJson<'a> {
    fn from(live: &'a LiveConnection) -> Self {
        let (outcome, error) = match &live.outcome {
            LiveOutcome::Connected => ("connected", None),
            LiveOutcome::Refused => ("refused", None),
            LiveOutcome::Failed(why) => ("failed", Some(why.as_str())),
        };
        let counted = live.counted.iter().map(|(node, packets)| (node.as_str(), *packets)).collect();
        let milliseconds = u64::try_from(live.took.as_millis()).unwrap_or(u64::MAX);
        Self { port: live.port, outcome, error, milliseconds, counted }
    }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct VerdictJson<'a> {
    verdict: &'static str,
    reason: &'static str,
    cause: Option<&'a str>,
    egress_address: Option<IpAddr>,
    gateway: Option<&'a str>,
    at: Option<&'a str>,
    since: Option<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct PolicyJson<'a> {
    name: &'a str,
    file: &'a str,
    line: usize,
    selector: usize,
    matched: &'a str,
    prefix: String,
    excluded: bool,
    commit: Option<&'a str>,
    summary: Option<&'a str>,
    author: Option<&'a str>,
    changed: Option<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct LostJson<'a> {
    policy: &'a str,
    at: String,
    prefix: String,
    excluded: bool,
    because: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct NearJson<'a> {
    policy: &'a str,
    at: String,
    prefix: String,
    selector: usize,
    missing: Vec<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct KernelJson<'a> {
    node: &'a str,
    read: Option<String>,
    way: Option<String>,
    packets: Option<u64>,
    dropped: Option<u64>,
    running: Option<bool>,
    differs: Vec<DifferenceJson<'a>>,
    unanswered: Option<&'a str>,
    reported_commit: Option<&'a str>,
}

impl<'a> KernelJson<'a> {
    fn not_read(node: &'a NodeName, reported_commit: Option<&'a str>, unanswered: Option<&'a str>) -> Self {
        Self {
            node: node.as_str(),
            read: None,
            way: None,
            packets: None,
            dropped: None,
            running: None,
            differs: Vec::new(),
            unanswered,
            reported_commit,
        }
    }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct DifferenceJson<'a> {
    object: &'a str,
    desired: Option<&'a str>,
    observed: Option<&'a str>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct PendingJson<'a> {
    commit: &'a str,
    summary: &'a str,
    author: &'a str,
    since: String,
    why: &'a crate::core::admission::PendingReason,
    then: Option<VerdictJson<'a>>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct SeenJson {
    address: IpAddr,
    of: &'static str,
    name: Option<String>,
    this_pod: bool,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ConnectionJson<'a> {
    node: &'a str,
    replies_to: IpAddr,
    exit: Option<&'a str>,
    answered: bool,
    older: bool,
}

impl<'a> ExplanationJson<'a> {
    pub(super) fn new(found: &'a Explanation, revision: &'a str, seen: Option<&(IpAddr, Source)>) -> Self {
        let changed = found.changed.as_ref();
        let policy = found.claim.as_ref().map(|claim| PolicyJson {
            name: claim.policy.name.as_str(),
            file: &claim.origin.file,
            line: claim.origin.line,
            selector: claim.selector.0,
            matched: &claim.selector.1,
            prefix: claim.net.to_string(),
            excluded: claim.excluded,
            commit: changed.map(|changed| changed.commit.as_str()),
            summary: changed.map(|changed| changed.summary.as_str()),
            author: changed.map(|changed| changed.author.as_str()),
            changed: changed.map(|changed| changed.time.to_string()),
        });
        let lost = found.lost.iter().map(|lost| LostJson {
            policy: lost.policy.name.as_str(),
            at: lost.origin.to_string(),
            prefix: lost.net.to_string(),
            excluded: lost.excluded,
            because: lost.because.to_string(),
        });
        let near = found.near.iter().map(|near| NearJson {
            policy: near.policy.name.as_str(),
            at: near.origin.to_string(),
            prefix: near.net.to_string(),
            selector: near.selector,
            missing: near.missing.iter().map(ToString::to_string).collect(),
        });
        Self {
            namespace: &found.question.pod.namespace,
            pod: &found.question.pod.name,
            address: found.address,
            node: found.node.as_ref().map(NodeName::as_str),
            destination: found.question.destination,
            revision,
            verdict: VerdictJson::from(&found.verdict),
            policy,
            lost: lost.collect(),
            near: near.collect(),
            elsewhere: &found.elsewhere,
            kernels: found.kernels.iter().map(KernelJson::from).collect(),
            pending: found.pending.as_ref().map(|pending| PendingJson {
                commit: &pending.commit.commit,
                summary: &pending.commit.summary,
                author: &pending.commit.author,
                since: pending.commit.since.to_string(),
                why: &pending.commit.why,
                then: pending.verdict.as_ref().map(VerdictJson::from),
            }),
            waits: found.waits.as_deref(),
            rejected: &found.rejected,
            seen: seen.map(|(address, source)| SeenJson::new(*address, source)),
            connections: found.connections.as_ref().map(|all| all.iter().map(ConnectionJson::from).collect()),
            live: found.live.as_ref().map(LiveJson::from),
            advice: found.advice(Clock::system().now()),
        }
    }
}

impl<'a> From<&'a Verdict> for VerdictJson<'a> {
    fn from(verdict: &'a Verdict) -> Self {
        let none = Self {
            verdict: "leaves",
            reason: verdict.reason(),
            cause: None,
            egress_address: None,
            gateway: None,
            at: None,
            since: None,
        };
        match verdict {
            Verdict::Leaves { address, gateway, .. } => {
                Self { egress_address: Some(*address), gateway: Some(gateway.as_str()), ..none }
            }
            Verdict::AddressUnknown { exit } => Self { gateway: Some(exit.gateway.as_str()), ..none },
            Verdict::Dropped { node, cause, since, .. } => Self {
                verdict: "dropped",
                cause: Some(cause),
                at: node.as_ref().map(NodeName::as_str),
                since: since.map(|since| since.to_string()),
                ..none
            },
            Verdict::NotSteered { cause, .. } => Self { verdict: "notSteered", cause: Some(cause), ..none },
            Verdict::Differs { node, cause, .. } => {
                Self { verdict: "differs", cause: Some(cause), at: Some(node.as_str()), ..none }
            }
        }
    }
}

impl<'a> From<&'a KernelView> for KernelJson<'a> {
    fn from(view: &'a KernelView) -> Self {
        match view {
            KernelView::Read { node, at, way, counted, differs, running } => {
                let differs = differs.iter().map(|drift| DifferenceJson {
                    object: &drift.object,
                    desired: drift.desired.as_deref(),
                    observed: drift.observed.as_deref(),
                });
                Self {
                    node: node.as_str(),
                    read: Some(at.to_string()),
                    way: Some(way.to_string()),
                    packets: counted.packets,
                    dropped: counted.dropped,
                    running: Some(*running),
                    differs: differs.collect(),
                    unanswered: None,
                    reported_commit: None,
                }
            }
            KernelView::Unanswered { node, why, commit } => Self::not_read(node, commit.as_deref(), Some(why)),
            KernelView::Reported { node, commit, .. } => Self::not_read(node, commit.as_deref(), None),
        }
    }
}

impl SeenJson {
    fn new(address: IpAddr, source: &Source) -> Self {
        let (of, name, this_pod) = match source {
            Source::Policy(carried, member) => ("policy", Some(carried.policy.to_string()), *member),
            Source::Node(node) => ("node", Some(node.to_string()), false),
            Source::Pod(pod) => ("pod", Some(pod.to_string()), false),
            Source::Nobody => ("nobody", None, false),
        };
        Self { address, of, name, this_pod }
    }
}

impl<'a> From<&'a OpenConnection> for ConnectionJson<'a> {
    fn from(one: &'a OpenConnection) -> Self {
        Self {
            node: one.node.as_str(),
            replies_to: one.replies_to,
            exit: one.exit.as_deref(),
            answered: one.answered,
            older: one.older,
        }
    }
}

/// Who leaves with an address.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct AddressJson<'a> {
    address: IpAddr,
    carried: Vec<CarriedJson<'a>>,
    nodes: Vec<&'a str>,
    pod: Option<String>,
    unknown_exits: Vec<&'a str>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct CarriedJson<'a> {
    policy: &'a str,
    at: String,
    gateway: &'a str,
    destinations: Vec<String>,
    except: Vec<String>,
    pods: Vec<String>,
}

impl<'a> AddressJson<'a> {
    pub(super) fn new(address: IpAddr, found: &'a AddressUse) -> Self {
        let carried = found.carried.iter().map(|one| CarriedJson {
            policy: one.policy.name.as_str(),
            at: one.origin.to_string(),
            gateway: one.gateway.as_str(),
            destinations: one.destinations.iter().map(ToString::to_string).collect(),
            except: one.except.iter().map(ToString::to_string).collect(),
            pods: one.pods.iter().map(ToString::to_string).collect(),
        });
        Self {
            address,
            carried: carried.collect(),
            nodes: found.nodes.iter().map(NodeName::as_str).collect(),
            pod: found.pod.as_ref().map(ToString::to_string),
            unknown_exits: found.unknown.iter().map(String::as_str).collect(),
        }
    }
}
