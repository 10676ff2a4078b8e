//! The answer: with which address a packet leaves, or why not.
//!
//! The fate is that of `core::fate`. What only a node's kernel knows (an exit that it refuses, a detour, a way out that is closed) is taken
//! from what was compiled for that node, and otherwise from the findings that the node reports. Not here: what the kernel holds beside
//! that (`kernel`).

use std::net::IpAddr;

use jiff::Timestamp;

use super::claims::{Claim, LostBecause, LostClaim, NearMiss, claims};
use super::exits::is_fault_of;
use super::{Question, Situation};
use crate::core::cidr::AddressRange;
use crate::core::compile::detours::{SILENT, carrier, is_silent};
use crate::core::compile::{Disposition, egress_address, names_pod, silent_next_hop};
use crate::core::facts::{Pod, PodName};
use crate::core::fate::{OwnReason, PacketFate, fate};
use crate::core::finding::Finding;
use crate::core::host_network::HostNetwork;
use crate::core::name::NodeName;
use crate::core::placement::ExitKey;
use crate::core::preview::revision::{EgressPath, RevisionState, passes};
use crate::core::state::nft::AddressFamily;

/// What becomes of the packets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// They leave.
    Leaves {
        /// With this address.
        address: IpAddr,
        /// Through this gateway.
        gateway: NodeName,
        /// The exit whose gateway does not answer, if this one stands in for it.
        instead_of: Option<ExitKey>,
    },
    /// They leave through this exit, whose address is not known here.
    AddressUnknown {
        /// The exit.
        exit: ExitKey,
    },
    /// They are dropped.
    Dropped {
        /// Where.
        node: Option<NodeName>,
        /// A stable word for programs.
        reason: &'static str,
        /// The cause.
        cause: String,
        /// Since when a node reports it.
        since: Option<Timestamp>,
    },
    /// They leave by the node's own routing.
    NotSteered {
        /// A stable word for programs.
        reason: &'static str,
        /// The cause.
        cause: String,
    },
    /// A kernel on the way does not hold what was decided.
    Differs {
        /// The node.
        node: NodeName,
        /// The cause.
        cause: String,
        /// What was decided.
        decided: Box<Verdict>,
    },
}

impl Verdict {
    /// Whether another answer means the same to the pod, whatever explains it.
    pub(super) fn means(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Differs { decided, .. }, other) | (other, Self::Differs { decided, .. }) => decided.means(other),
            (Self::Leaves { address, gateway, .. }, Self::Leaves { address: to, gateway: through, .. }) => {
                (address, gateway) == (to, through)
            }
            (Self::AddressUnknown { exit }, Self::AddressUnknown { exit: other }) => exit == other,
            (Self::AddressUnknown { exit }, Self::Leaves { gateway, .. })
            | (Self::Leaves { gateway, .. }, Self::AddressUnknown { exit }) => exit.gateway == *gateway,
            (Self::Dropped { .. }, Self::Dropped { .. }) | (Self::NotSteered { .. }, Self::NotSteered { .. }) => true,
            (_, _) => false,
        }
    }

    /// What was decided, whatever the kernel holds.
    pub fn decided(&self) -> &Self {
        match self {
            Self::Differs { decided, .. } => decided,
            other => other,
        }
    }

    /// A stable word for programs.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Leaves { instead_of: None, .. } => "Steered",
            Self::Leaves { .. } => "GatewaySilent",
            Self::AddressUnknown { .. } => "AddressUnknown",
            Self::Dropped { reason, .. } | Self::NotSteered { reason, .. } => reason,
            Self::Differs { .. } => "KernelDiffers",
        }
    }
}

/// An answer, and what led to it.
pub(super) struct Decided {
    pub(super) verdict: Verdict,
    pub(super) advice: Option<String>,
    pub(super) exit: Option<ExitKey>,
    /// The exit that carries its packets while its gateway does not answer, as the pod's node has it.
    pub(super) carrier: Option<ExitKey>,
    pub(super) claim: Option<Claim>,
    pub(super) lost: Vec<LostClaim>,
    pub(super) near: Vec<NearMiss>,
    pub(super) elsewhere: Vec<String>,
}

/// Asks what becomes of a pod's packets.
pub(super) fn decide(side: &RevisionState<'_>, question: &Question, pod: &Pod, situation: &Situation<'_>) -> Decided {
    let key = side.key(&side.members(), &question.pod, pod);
    let lanes = side.lanes(&key, &mut std::collections::BTreeSet::new());
    let has = |range: &AddressRange| range.contains(question.destination);
    let path = lanes.iter().find(|(range, _)| has(range)).map(|(_, path)| path);
    let claims = claims(side, question, pod, &key, path);
    let mut decided = Decided {
        verdict: Verdict::NotSteered { reason: "NoPolicy", cause: String::new() },
        advice: None,
        exit: None,
        carrier: None,
        claim: claims.claim,
        lost: claims.lost,
        near: claims.near,
        elsewhere: Vec::new(),
    };
    if let Some((reason, cause)) = outside(side, question, pod, situation) {
        decided.verdict = Verdict::NotSteered { reason, cause };
        return decided;
    }
    let Some(path) = path else {
        unclaimed(&mut decided, question, pod, key.len());
        return decided;
    };
    if let Disposition::Exit(exit) = &path.way {
        decided.exit = Some(exit.clone());
        let reading = pod.node.as_ref().and_then(|node| situation.exit_reading(node, exit, question.destination));
        decided.carrier = reading.and_then(|reading| reading.carrier);
        decided.elsewhere = elsewhere(side, path, exit);
    }
    let passes = passes(&key, path);
    let fate = fate(&path.way, passes, question.destination, situation.host_networks);
    (decided.verdict, decided.advice) = judged(side, question, pod, situation, (path, &fate));
    if let (Verdict::NotSteered { reason: "Excluded", cause }, Some(claim)) = (&mut decided.verdict, &decided.claim) {
        *cause = format!("{} excludes {}", claim.policy, claim.net);
    }
    decided
}

/// Why no policy can have the packet, whatever it selects.
fn outside(
    side: &RevisionState<'_>,
    question: &Question,
    pod: &Pod,
    situation: &Situation<'_>,
) -> Option<(&'static str, String)> {
    let destination = question.destination;
    if pod.host_network {
        return Some((
            "HostNetwork",
            "the pod shares its node's network namespace, and is no member of any policy".into(),
        ));
    }
    if pod.finished {
        return Some(("NotRunning", "the pod has ended".into()));
    }
    if pod.node.is_none() {
        return Some(("NotRunning", "the pod is on no node yet".into()));
    }
    let family = AddressFamily::of(destination);
    if !pod.addresses.iter().any(|address| AddressFamily::of(*address) == family) {
        return Some(("NoAddress", format!("the pod has no {} address", family.version())));
    }
    if !side.never_steered_on(pod.node.as_ref()).contains(destination) {
        return None;
    }
    let Situation { set, facts, .. } = situation;
    let config = &set.config;
    let within = |mut nets: Box<dyn Iterator<Item = ipnet::IpNet> + '_>| nets.find(|net| net.contains(&destination));
    let node = facts.nodes.iter().find(|(_, node)| node.addresses.contains(&destination));
    let what = if let Some((name, _)) = node {
        format!("{destination} is the node {name}")
    } else if let Some(net) = within(Box::new(config.exclusions.iter().copied())) {
        format!("egret.yaml excludes {net}")
    } else if let Some(net) = within(Box::new(config.service_cidrs.iter().copied())) {
        format!("{net} is a network of Services")
    } else if let Some(net) = within(Box::new(config.pod_networks(facts))) {
        format!("{net} is a network of pods")
    } else if facts.pods.values().any(|pod| pod.addresses.contains(&destination)) {
        format!("{destination} is a pod")
    } else {
        format!("no router forwards packets to {destination}")
    };
    Some(("NeverSteered", format!("{what}, and destinations inside the cluster are never steered")))
}

/// No policy of the pod has the destination.
fn unclaimed(decided: &mut Decided, question: &Question, pod: &Pod, policies: usize) {
    let suspended = decided.lost.iter().find_map(|lost| match lost.because {
        LostBecause::Suspended(until) => Some((lost, until)),
        _ => None,
    });
    let (reason, cause) = if let Some((lost, until)) = suspended {
        ("Suspended", format!("{} is suspended until {until} ({})", lost.policy, lost.origin))
    } else if let Some(near) = decided.near.first() {
        let missing: Vec<String> = near.missing.iter().map(ToString::to_string).collect();
        decided.advice =
            near.command(question, pod).map(|command| format!("if {} is meant to select it: {command}", near.policy));
        ("NotSelected", format!("{} has {} and does not select the pod: {}", near.policy, near.net, missing.join("; ")))
    } else if policies > 0 {
        let of = if policies == 1 { "the pod's policy does not have" } else { "none of the pod's policies has" };
        ("NoPolicy", format!("{of} {} as a destination", question.destination))
    } else {
        ("NoPolicy", format!("no policy has {} as a destination", question.destination))
    };
    decided.verdict = Verdict::NotSteered { reason, cause };
}

/// The answer for a fate.
fn judged(
    side: &RevisionState<'_>,
    question: &Question,
    pod: &Pod,
    situation: &Situation<'_>,
    (path, fate): (&EgressPath, &PacketFate),
) -> (Verdict, Option<String>) {
    let of_policy = |code: &str| {
        let subject = path.policy.name.as_str();
        side.placement.findings.iter().find(|one| one.code == code && one.subject == subject)
    };
    match (fate, &path.way) {
        (PacketFate::Own(reason), _) => {
            let (reason, cause) = match reason {
                OwnReason::PassedThrough => {
                    let why = of_policy("no-gateway").map_or("no gateway is fit", |finding| finding.message.as_str());
                    ("PassedThrough", format!("{} passes it through, as {why}", path.policy))
                }
                OwnReason::Excluded => ("Excluded", format!("{} excludes it", path.policy)),
                OwnReason::NoPolicy | OwnReason::NeverSteered => ("NeverSteered", "it is never steered".to_owned()),
            };
            (Verdict::NotSteered { reason, cause }, None)
        }
        (_, Disposition::Exit(exit)) => {
            let (family, node) = (AddressFamily::of(question.destination), pod.node.as_ref());
            let held_up = node.and_then(|node| Some((node, held_up(&question.pod, node, family, situation)?)));
            match held_up {
                Some((node, finding)) => dropped(node, &finding, situation),
                None => through(exit, fate, question.destination, node, situation),
            }
        }
        (_, _) => {
            let finding = of_policy("no-gateway");
            let cause = finding.map_or("no gateway is fit".to_owned(), |finding| finding.message.clone());
            let since = finding.and_then(|finding| situation.since_anywhere(finding));
            let verdict = Verdict::Dropped { node: pod.node.clone(), reason: "NoGateway", cause, since };
            (verdict, Some("make one of the policy's nodes fit, or let another node match its nodeSelector".to_owned()))
        }
    }
}

/// The answer for a packet that is led to an exit: what the source's kernel and the gateway's say of it, then its address.
fn through(
    exit: &ExitKey,
    fate: &PacketFate,
    destination: IpAddr,
    source: Option<&NodeName>,
    situation: &Situation<'_>,
) -> (Verdict, Option<String>) {
    if let Some(carrier) = source.and_then(|node| carrier_at(node, exit, destination, situation)) {
        let carrier = &carrier;
        let way = Disposition::Exit(carrier.clone());
        let fate = of_way(&way, destination, situation);
        return match address_of(carrier, &fate, situation, destination) {
            (Verdict::Leaves { address, gateway, .. }, advice) => {
                (Verdict::Leaves { address, gateway, instead_of: Some(exit.clone()) }, advice)
            }
            other => other,
        };
    }
    if let Some((node, finding)) = fault(exit, destination, source, situation) {
        return dropped(&node, &finding, situation);
    }
    address_of(exit, fate, situation, destination)
}

/// The exit that carries the packets of a silent one for a source, by its kernel or else by its report.
fn carrier_at(source: &NodeName, exit: &ExitKey, destination: IpAddr, situation: &Situation<'_>) -> Option<ExitKey> {
    if let Some(reading) = situation.exit_reading(source, exit, destination) {
        return reading.carrier;
    }
    let family = AddressFamily::of(destination);
    let mut carriers =
        reported(situation, source, exit, family).filter(|finding| is_silent(finding, family)).filter_map(carrier);
    carriers.next().and_then(|identity| situation.exit_called(identity)).filter(|carrier| carrier != exit)
}

fn of_way(way: &Disposition, destination: IpAddr, situation: &Situation<'_>) -> PacketFate {
    fate(way, false, destination, situation.host_networks)
}

/// What becomes of packets that any source leads to an exit. A gateway that is gone reports nothing: its sources do.
pub fn exit_verdict(exit: &ExitKey, destination: IpAddr, situation: &Situation<'_>) -> Verdict {
    let (family, fate) =
        (AddressFamily::of(destination), of_way(&Disposition::Exit(exit.clone()), destination, situation));
    let (verdict, _) = through(exit, &fate, destination, None, situation);
    if matches!(verdict, Verdict::Dropped { .. }) {
        return verdict;
    }
    let silence = situation.reports.keys().find_map(|node| {
        let mut reported = reported(situation, node, exit, family);
        reported.find(|finding| is_lost(finding, family)).map(|finding| (node, finding))
    });
    if let Some((node, finding)) = silence {
        return dropped(node, finding, situation).0;
    }
    let read = situation.kernel.map(|kernel| &kernel.node);
    let mut sources = read.into_iter().chain(situation.reports.keys()).filter(|node| **node != exit.gateway);
    match sources.find(|node| carrier_at(node, exit, destination, situation).is_some()) {
        Some(source) => through(exit, &fate, destination, Some(source), situation).0,
        None => verdict,
    }
}

/// The answer for an exit whose gateway is not known to have a fault.
fn address_of(
    exit: &ExitKey,
    fate: &PacketFate,
    situation: &Situation<'_>,
    destination: IpAddr,
) -> (Verdict, Option<String>) {
    let family = AddressFamily::of(destination);
    let reading = situation.exit_reading(&exit.gateway, exit, destination);
    if let Some(way) = reading.and_then(|reading| reading.way_out) {
        if !way.reaches {
            let message = format!("no route of {} leads to {destination}", way.interface);
            let finding = Finding::new("no-next-hop", exit, message).hint("name the router in the policy: nextHop");
            return dropped(&exit.gateway, &finding, situation);
        }
        if let Some((hop, interface)) = way.silent {
            return dropped(&exit.gateway, &silent_next_hop(exit, &(interface, hop), family), situation);
        }
        return (Verdict::Leaves { address: way.address, gateway: exit.gateway.clone(), instead_of: None }, None);
    }
    match fate {
        PacketFate::As(address, gateway) => {
            (Verdict::Leaves { address: *address, gateway: gateway.clone(), instead_of: None }, None)
        }
        PacketFate::Unknown(exit) => (Verdict::AddressUnknown { exit: exit.clone() }, None),
        PacketFate::Dropped(_) | PacketFate::Own(_) => {
            dropped(&exit.gateway, &missing(exit, family, situation.host_networks.get(&exit.gateway)), situation)
        }
    }
}

/// Why an exit has no address.
fn missing(exit: &ExitKey, family: AddressFamily, host_network: Option<&HostNetwork>) -> Finding {
    if let Some(Err(finding)) = host_network.map(|host_network| egress_address(exit, family, host_network)) {
        return finding;
    }
    let message = format!("{} is no {} address, and the destination is one", exit.egress, family.version());
    Finding::new("egress-address-missing", exit, message).hint("name an interface, or a gateway for each family")
}

/// The fault of an exit that its packets end at, and the node that has it: as compiled for the node that was read, otherwise as the node
/// reports. That a gateway does not answer its source is the last of all: a gateway without a way out answers no probe either.
fn fault(
    exit: &ExitKey,
    destination: IpAddr,
    source: Option<&NodeName>,
    situation: &Situation<'_>,
) -> Option<(NodeName, Finding)> {
    let mut silent = None;
    for node in source.into_iter().chain(Some(&exit.gateway).filter(|gateway| source != Some(*gateway))) {
        let own = situation.exit_reading(node, exit, destination);
        let reported = || reported(situation, node, exit, AddressFamily::of(destination));
        let found = match own {
            Some(reading) => reading.fault,
            None => reported().find(|finding| finding.code != SILENT).cloned(),
        };
        if let Some(finding) = found {
            return Some((node.clone(), finding));
        }
        let unheard = reported().find(|finding| is_lost(finding, AddressFamily::of(destination)));
        silent = silent.or(unheard.map(|finding| (node.clone(), finding.clone())));
    }
    silent
}

/// A gateway that does not answer in a family, and no standby carries its members.
fn is_lost(finding: &Finding, family: AddressFamily) -> bool {
    is_silent(finding, family) && carrier(finding).is_none()
}

/// What a node reports of an exit by which packets of a family end.
fn reported<'a>(
    situation: &Situation<'a>,
    node: &NodeName,
    exit: &'a ExitKey,
    family: AddressFamily,
) -> impl Iterator<Item = &'a Finding> {
    situation.findings_of(node).filter(move |finding| is_fault_of(finding, exit) && finding.is_about(family))
}

/// What ends the pod's packets on its own node before any exit has them: its interface does not forward.
fn held_up(pod: &PodName, node: &NodeName, family: AddressFamily, situation: &Situation<'_>) -> Option<Finding> {
    let read = situation.kernel.filter(|kernel| kernel.node == *node);
    let of_kernel = read.into_iter().flat_map(|kernel| &kernel.compiled.findings);
    let mut all = of_kernel.chain(situation.findings_of(node));
    all.find(|finding| finding.is_about(family) && names_pod(finding, pod)).cloned()
}

fn dropped(node: &NodeName, finding: &Finding, situation: &Situation<'_>) -> (Verdict, Option<String>) {
    let reason = finding.drop_reason().unwrap_or("NoRoute");
    let cause = finding.message.trim_end_matches("; members' packets are dropped there").to_owned();
    let since = situation.since(node, finding);
    // What a source reports of a gateway is not to be mended at the source.
    let place = if finding.code == SILENT {
        let known = situation.exit_called(&finding.subject).and_then(|exit| of_silent(&exit.gateway, situation));
        let known = known.map(|known| format!("; {known}")).unwrap_or_default();
        format!("between {node} and {}{known}", finding.subject)
    } else {
        format!("on {node}")
    };
    let advice = finding.hint.as_ref().map(|hint| format!("{place}: {hint}"));
    (Verdict::Dropped { node: Some(node.clone()), reason, cause, since }, advice)
}

/// What else is known of a gateway that does not answer: it tells a node that is down from a tunnel that is blocked.
fn of_silent(gateway: &NodeName, situation: &Situation<'_>) -> Option<String> {
    let Some(node) = situation.facts.nodes.get(gateway) else {
        return Some(format!("{gateway} is no node of the cluster any more"));
    };
    if !node.ready {
        return Some(format!("{gateway} is not Ready, so look at that node first"));
    }
    match situation.told.get(gateway)? {
        Ok(_) => Some(format!("{gateway} is up and its agent answers, so the tunnel's packets are lost")),
        Err(why) => Some(format!("{gateway} is Ready and its agent does not answer ({why})")),
    }
}

/// The policy's other exits, the standbys of this one, and the nodes that were passed over.
fn elsewhere(side: &RevisionState<'_>, path: &EgressPath, exit: &ExitKey) -> Vec<String> {
    let Some(placed) = side.placement.policies.get(&path.policy) else { return Vec::new() };
    let mut all: Vec<String> = Vec::new();
    for other in placed.exits.iter().filter(|other| *other != exit) {
        all.push(format!("{other} carries other members"));
    }
    if let Some(standbys) = placed.standbys.get(exit) {
        all.extend(standbys.iter().filter(|one| !placed.exits.contains(one)).map(|one| format!("{one} stands by")));
    }
    for (node, why) in placed.choices.iter().flat_map(|choice| &choice.unfit) {
        all.push(format!("{node} {why}"));
    }
    if all.is_empty() {
        all.push("no other node is a gateway of the policy".to_owned());
    }
    all
}
