//! Finds the risks of a change that a reviewer should check before merging.
//!
//! Only risks that the change introduces are listed. Errors in documents are diagnostics and not listed here;
//! warnings that the change introduces are, with their own text.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use super::PreviewInput;
use super::moves::{Move, PodMoves};
use super::named::{policy as named, source, towards};
use super::outcome::{self, MoveOutcome, same_address};
use super::revision::{RevisionState, candidates_of};
use crate::core::cidr::{AddressRange, RangeSet};
use crate::core::compile::{Disposition, egress_address};
use crate::core::diagnostic::Severity;
use crate::core::escape::EscapedText;
use crate::core::facts::Facts;
use crate::core::placement::ExitKey;
use crate::core::policy::node_index::NodeIndex;
use crate::core::policy::{OnNoGateway, Policy, PolicyId};
use crate::core::state::nft::AddressFamily;
use crate::core::state::ownership::DatapathConfig as Ports;
use crate::core::text::counted;

/// The limit of comparisons between destinations of different policies; time and memory grow with the square of a
/// change.
const MOST_COMPARISONS: usize = 1_000_000;
/// The most overlaps that are listed.
const MOST_PAIRS: usize = 1_000;

/// The severity of a risk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum RiskLevel {
    /// Packets are lost or leave with a wrong address unless a user acts.
    Danger,
    /// A reviewer should check this.
    Warning,
    /// For information.
    Note,
    /// The change becomes active later, or earlier than others would.
    Waits,
}

/// One risk. Ordered by severity.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Risk {
    /// The severity.
    pub level: RiskLevel,
    /// A stable identifier: `firewall`, `one-gateway`.
    pub code: &'static str,
    /// Two or three words.
    pub title: &'static str,
    /// The full sentence.
    pub text: EscapedText,
}

struct Finder<'a, 'w> {
    input: &'a PreviewInput<'a>,
    before: &'a RevisionState<'w>,
    after: &'a RevisionState<'w>,
    moves: &'a PodMoves,
    /// Nodes that could be gateways, before and after.
    candidates: [NodeIndex<'a>; 2],
    /// What of the cluster a destination may cover by mistake: what it is, and the names and addresses there.
    cluster: [(&'static str, Vec<(String, IpAddr)>); 2],
    found: BTreeSet<Risk>,
}

/// A destination of one policy within a wider one of another, which loses there.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Nested<'a> {
    winner: &'a PolicyId,
    net: IpNet,
    loser: &'a PolicyId,
    wider: IpNet,
}

/// The destinations of a policy within those of another.
fn nested<'a>(inner: &'a Policy, outer: &'a Policy) -> impl Iterator<Item = Nested<'a>> {
    let pairs = inner.destinations.iter().flat_map(|net| outer.destinations.iter().map(move |wider| (net, wider)));
    let within = pairs.filter(|(net, wider)| net != wider && wider.contains(*net));
    within.map(|(net, wider)| Nested { winner: &inner.id, net: *net, loser: &outer.id, wider: *wider })
}

/// Finds all risks.
pub(super) fn find<'a>(
    input: &'a PreviewInput<'a>,
    (before, after): (&'a RevisionState<'_>, &'a RevisionState<'_>),
    moves: &'a PodMoves,
    touched: &BTreeSet<PolicyId>,
    drift: &[String],
) -> Vec<Risk> {
    let candidates = [before, after].map(|side| side.candidates(|_| true));
    let cluster = own_cluster(&after.facts);
    let mut finder = Finder { input, before, after, moves, candidates, cluster, found: BTreeSet::new() };
    for policy in touched.iter().filter_map(|id| after.set.policies.get(id)) {
        finder.gateways(policy);
        finder.missing_addresses(policy);
        finder.passthrough(policy);
        finder.nobody(policy);
        finder.own_cluster(policy);
    }
    finder.unchecked();
    finder.firewall();
    finder.removals();
    finder.overlaps(touched);
    finder.warnings();
    finder.already(drift);
    finder.first_of_all();
    finder.found.into_iter().collect()
}

impl<'a> Finder<'a, '_> {
    fn add(&mut self, level: RiskLevel, code: &'static str, title: &'static str, text: EscapedText) {
        self.found.insert(Risk { level, code, title, text });
    }

    /// Policies with no gateway, or only one.
    fn gateways(&mut self, policy: &Policy) {
        let Some(placed) = self.after.placement.policies.get(&policy.id) else {
            let until = policy.suspend.as_ref().filter(|suspend| self.input.now < suspend.until);
            if let Some(suspend) = until {
                let text = named(self.input, &policy.id).words(format!(" is not active until {}", suspend.until));
                let text = suspend.owner.iter().fold(text, |text, owner| text.words(", says ").quote(owner));
                let text = text.words(", for the reason \"").quote(suspend.reason.clone()).words("\"");
                self.add(RiskLevel::Note, "suspended", "Suspended", text);
            }
            return;
        };
        let members = self.moves.members_of(&policy.id).1;
        if placed.exits.is_empty() {
            let labels: Vec<String> = policy.gateways.iter().map(|spec| spec.node.to_string()).collect();
            let text = named(self.input, &policy.id).words(": ");
            let text = self.why_gone(policy, text).words("; no fit node has the labels ").names(labels);
            let text = match policy.on_no_gateway {
                OnNoGateway::Drop => text.words(format!(". What {} to its destinations is dropped", sends(members))),
                OnNoGateway::Passthrough => text.words(format!(". {} without a gateway", leaves(members))),
            };
            self.add(RiskLevel::Danger, "no-gateway", "No gateway", text);
            return;
        }
        // A single gateway that was single before is reported with the simulated failures.
        let [was, is] = &self.candidates;
        let earlier = self.before.set.policies.get(&policy.id);
        let had_more = earlier.is_some_and(|earlier| candidates_of(was, earlier, 2).len() > 1);
        if had_more && candidates_of(is, policy, 2).len() == 1 && members > 0 {
            let text = named(self.input, &policy.id)
                .words(" had a second gateway and would have none: ")
                .name(&placed.exits[0].gateway)
                .words(format!(" alone would carry {}", counted(members, "pod")));
            self.add(RiskLevel::Warning, "one-gateway", "One gateway left", text);
        }
    }

    /// Why a policy has no gateway.
    fn why_gone(&self, policy: &Policy, text: EscapedText) -> EscapedText {
        let had = self.before.placement.policies.get(&policy.id).map(|had| had.exits.as_slice()).unwrap_or_default();
        if had.is_empty() {
            return text.words("it has no gateway");
        }
        let lost = had.iter().filter_map(|exit| {
            let labels =
                |world: &RevisionState<'_>| world.facts.nodes.get(&exit.gateway).map(|node| node.labels.clone());
            let (old, new) = (labels(self.before)?, labels(self.after)?);
            let lost: Vec<String> = old
                .iter()
                .filter(|(key, value)| new.get(*key) != Some(value))
                .map(|(key, value)| format!("{key}={value}"))
                .collect();
            (!lost.is_empty()).then(|| (exit.gateway.clone(), lost))
        });
        let lost_by_gateway: BTreeMap<_, _> = lost.collect();
        let Some((gateway, lost)) = lost_by_gateway.first_key_value() else {
            return text.words("its last gateway is gone");
        };
        text.words("its last gateway ").name(gateway).words(" loses the label ").names(lost)
    }

    /// Addresses that a gateway's kernel does not have.
    fn missing_addresses(&mut self, policy: &Policy) {
        let families: BTreeSet<AddressFamily> =
            policy.destinations.iter().map(|net| AddressFamily::of(net.addr())).collect();
        let Some(placed) = self.after.placement.policies.get(&policy.id) else { return };
        for exit in &placed.exits {
            let Some(host_network) = self.input.host_networks.get(&exit.gateway) else { continue };
            for finding in families.iter().filter_map(|family| egress_address(exit, *family, host_network).err()) {
                let text = named(self.input, &policy.id).words(": ").quote(finding.message);
                self.add(RiskLevel::Danger, "egress-address-missing", "Address missing", text);
            }
        }
    }

    /// The protection against wrong source addresses is removed, and no path changes today.
    fn passthrough(&mut self, policy: &Policy) {
        let was = self.before.set.policies.get(&policy.id).map(|was| was.on_no_gateway);
        if was == Some(OnNoGateway::Drop) && policy.on_no_gateway == OnNoGateway::Passthrough {
            let members = self.moves.members_of(&policy.id).1;
            let text = named(self.input, &policy.id).words(format!(
                ": while no gateway is fit, what {} would leave without one, with a wrong address, and no longer be dropped",
                sends(members)
            ));
            self.add(RiskLevel::Warning, "passthrough", "Passthrough", text);
        }
    }

    /// Addresses that could not be checked, because the gateway's kernel was not read.
    fn unchecked(&mut self) {
        let news = self.moves.moves.iter().filter_map(|one| match &one.to {
            Disposition::Exit(exit) if !self.input.host_networks.contains_key(&exit.gateway) => {
                Some((exit, &one.towards))
            }
            Disposition::Exit(_) | Disposition::Drop | Disposition::Own => None,
        });
        let news: BTreeMap<&ExitKey, _> = news.collect();
        for (exit, towards) in news {
            let text = EscapedText::new()
                .words("it is not known which interfaces ")
                .name(&exit.gateway)
                .words(" has. Without ")
                .join(source(self.input, exit, towards))
                .words(" there, pods are dropped; `ip addr` on the node shows it");
            self.found.insert(Risk { level: RiskLevel::Note, code: "unchecked", title: "Not checked", text });
        }
    }

    fn nobody(&mut self, policy: &Policy) {
        let (before, after) = self.moves.members_of(&policy.id);
        if after == 0 && before > 0 && !policy.suspended(self.input.now) {
            let text = named(self.input, &policy.id)
                .words(format!(" selects no pod any more; {} before", counted(before, "pod")));
            self.add(RiskLevel::Warning, "no-member", "Selects nothing", text);
        }
    }

    /// Destinations with the API server or the cluster's DNS: they are never steered, but the author of a policy may
    /// expect it.
    fn own_cluster(&mut self, policy: &Policy) {
        let earlier = self.before.set.policies.get(&policy.id).map(|was| was.destinations.as_slice());
        let earlier: BTreeSet<&IpNet> = earlier.unwrap_or_default().iter().collect();
        let mut found = Vec::new();
        for net in policy.destinations.iter().filter(|net| !earlier.contains(net)) {
            for (what, places) in &self.cluster {
                let excluded = |address: &IpAddr| policy.excluded.iter().any(|net| net.contains(address));
                let hit = places.iter().find(|(_, address)| net.contains(address) && !excluded(address));
                if let Some((name, address)) = hit {
                    let text = named(self.input, &policy.id)
                        .words(": ")
                        .name(net)
                        .words(format!(" covers {what} ("))
                        .name(name)
                        .words(", ")
                        .name(address)
                        .words("); packets there are never steered, whatever this says");
                    found.push(text);
                }
            }
        }
        for text in found {
            self.add(RiskLevel::Warning, "covers-cluster", "Covers the cluster", text);
        }
    }

    /// Where packets will come from another address, the destination's firewall has to allow it.
    fn firewall(&mut self) {
        let mut news: BTreeMap<(PolicyId, Disposition, Disposition), Vec<AddressRange>> = BTreeMap::new();
        for one in &self.moves.moves {
            let Move { policy, from, to, towards, .. } = one;
            let outcome = outcome::of(self.input, one);
            let reported = match outcome {
                MoveOutcome::Address => !self.known_before(one),
                MoveOutcome::Bare | MoveOutcome::Restored => true,
                MoveOutcome::Cut | MoveOutcome::Gateway | MoveOutcome::Nothing => false,
            };
            if reported {
                // Dropped packets come from no address, whatever their exit was to be.
                let from = if outcome == MoveOutcome::Restored { Disposition::Drop } else { from.clone() };
                news.entry((policy.clone(), from, to.clone())).or_default().extend(towards);
            }
        }
        for ((policy, from, to), all) in news {
            let all: RangeSet = all.into_iter().collect();
            let ranges = all.ranges();
            let old = match &from {
                Disposition::Exit(exit) => Some(source(self.input, exit, ranges)),
                Disposition::Drop | Disposition::Own => None,
            };
            let text = EscapedText::new()
                .words("towards ")
                .join(towards(ranges))
                .words(", pods of ")
                .join(named(self.input, &policy));
            let text = match (&to, old) {
                (Disposition::Exit(exit), Some(old)) => {
                    let new = source(self.input, exit, ranges);
                    let text = text.words(" come from ").join(new.clone()).words(" instead of ").join(old.clone());
                    let text = text.words(". A firewall there that admits ").join(old);
                    text.words(" has to admit ").join(new).words(" before the merge")
                }
                (Disposition::Exit(exit), None) => {
                    let new = source(self.input, exit, ranges);
                    let was = if from == Disposition::Drop {
                        "are dropped today"
                    } else {
                        "no longer from their nodes or themselves"
                    };
                    let text = text.words(" come from ").join(new).words(", and ").words(was);
                    text.words(". It has to be admitted there before the merge")
                }
                (_, old) => text
                    .words(" come from their nodes or themselves")
                    .join(old.map_or_else(
                        || EscapedText::new().words(", and are dropped today"),
                        |old| EscapedText::new().words(", and no longer from ").join(old),
                    ))
                    .words(". A firewall there that admits one address only stops them"),
            };
            self.add(RiskLevel::Warning, "firewall", "Firewall", text);
        }
    }

    /// Whether a policy's packets towards the same destinations could come from this address before: a policy shares
    /// pods out among its exits.
    fn known_before(&self, one: &Move) -> bool {
        let (Disposition::Exit(from), Disposition::Exit(to)) = (&one.from, &one.to) else { return false };
        self.before.placement.policies.get(&one.policy).is_some_and(|placed| {
            let has = |exit: &ExitKey| {
                placed.exits.iter().any(|old| old == exit || same_address(self.input, old, exit, &one.towards))
            };
            has(from) && has(to)
        })
    }

    /// Removing much at once is often a mistake.
    fn removals(&mut self) {
        let percent = self.input.limits.removed_percent;
        let (before, after) = (self.before.set.policies.keys(), &self.after.set.policies);
        let had = before.len();
        let gone: Vec<&PolicyId> = before.filter(|id| !after.contains_key(*id)).collect();
        if !gone.is_empty() && gone.len() * 100 > had * percent {
            let many = gone.len() > 2 || gone.len() == had;
            let text =
                EscapedText::new().words(format!("{} of {} removed: ", gone.len(), counted(had, "policy"))).names(gone);
            // Removing one of a few is mostly intended.
            let level = if many { RiskLevel::Danger } else { RiskLevel::Warning };
            self.add(level, "removed", "Much is removed", text);
        }
        let (selected, still) = self.moves.selected;
        let lost = selected.saturating_sub(still);
        if lost * 100 > selected * percent {
            let text = EscapedText::new().words(format!(
                "{lost} of {} that an egress policy selects would be selected by none",
                counted(selected, "pod")
            ));
            self.add(RiskLevel::Danger, "members-removed", "No policy any more", text);
        }
    }

    /// Policies that name the same destinations, or parts of each other's, and which one wins.
    fn overlaps(&mut self, touched: &BTreeSet<PolicyId>) {
        for finding in &self.moves.overlaps {
            let text = EscapedText::new().name(&finding.subject).words(": ").quote(finding.message.clone());
            self.add(RiskLevel::Warning, "overlap", "Overlap", text);
        }
        for (policy, pods) in &self.moves.outdone {
            let members = self.moves.members_of(policy).1;
            let text = named(self.input, policy).words(format!(
                " would decide nothing more for {pods} of its {members} pods: others win everything there"
            ));
            self.add(RiskLevel::Warning, "outdone", "Overlap", text);
        }
        let (nested, complete) = self.nested_destinations(touched);
        for Nested { winner, net, loser, wider } in nested {
            let text = EscapedText::new().name(net).words(" of ").join(named(self.input, winner));
            let text = text.words(" lies in ").name(wider).words(" of ").join(named(self.input, loser));
            let text = text.words("; the longer prefix wins there");
            self.found.insert(Risk { level: RiskLevel::Note, code: "overlap", title: "Overlap", text });
        }
        if !complete {
            let text = "destinations that lie in those of other policies were not all looked for: there are too many";
            self.add(RiskLevel::Note, "overlap", "Overlap", EscapedText::new().words(text));
        }
    }

    /// Destinations of one policy within those of another with the same pods, and whether all were compared.
    fn nested_destinations(&self, touched: &BTreeSet<PolicyId>) -> (BTreeSet<Nested<'a>>, bool) {
        let after = self.after;
        let index = after.members();
        let mut pairs = BTreeSet::new();
        let mut comparisons = 0_usize;
        for one in &self.moves.moves {
            let Some(mine) = after.set.policies.get(&one.policy).filter(|policy| touched.contains(&policy.id)) else {
                continue;
            };
            let Some(pod) = one.pods.first() else { continue };
            let Some(known) = after.facts.pods.get(pod) else { continue };
            let others = index.of(pod, known, &after.facts).into_iter();
            let others = others.filter(|id| *id != mine.id).filter_map(|id| after.set.policies.get(&id));
            for other in others {
                comparisons =
                    comparisons.saturating_add(mine.destinations.len().saturating_mul(other.destinations.len()));
                if comparisons > MOST_COMPARISONS || pairs.len() > MOST_PAIRS {
                    break;
                }
                pairs.extend(nested(mine, other).chain(nested(other, mine)));
            }
        }
        let complete = comparisons <= MOST_COMPARISONS && pairs.len() <= MOST_PAIRS;
        // If the loser names the same network too, the prefix length does not decide; such overlaps are found per
        // pod.
        let names = |id: &PolicyId, net: &IpNet| {
            after.set.policies.get(id).is_some_and(|policy| policy.destinations.contains(net))
        };
        pairs.retain(|pair| !names(pair.loser, &pair.net));
        (pairs, complete)
    }

    /// Warnings of documents that the change introduces.
    fn warnings(&mut self) {
        let codes: BTreeSet<&str> = self.found.iter().map(|risk| risk.code).collect();
        let skip: Vec<&str> = ["no-gateway"].into_iter().filter(|code| codes.contains(code)).collect();
        let news =
            self.input.validation.found.iter().filter(|(one, known)| !known && one.severity == Severity::Warning);
        for (one, _) in news.filter(|(one, _)| !skip.contains(&one.code)) {
            let place = format!("{}:{}", one.file, one.start.line);
            let text = EscapedText::new().quote(place).words(" ").quote(one.message.clone());
            let title = match one.code {
                "unknown-node" => "Unknown node",
                "no-member" => "Selects nothing",
                _ => "Warning",
            };
            self.add(RiskLevel::Warning, one.code, title, text);
        }
    }

    /// Existing drift of what the change builds on.
    fn already(&mut self, drift: &[String]) {
        let Some(first) = drift.first() else { return };
        let text = EscapedText::new().words("not of this change, and not mended by it: ").quote(first.clone());
        let more = drift.len() - 1;
        let text = if more > 0 { text.words(format!(" (and {more} more, below)")) } else { text };
        self.add(RiskLevel::Warning, "drift", "Drift already there", text);
    }

    /// What the first policy of a cluster adds to every node besides its own rules.
    fn first_of_all(&mut self) {
        if !self.before.placement.policies.is_empty() || self.after.placement.exits.is_empty() {
            return;
        }
        let Ports { port, mtu, .. } = self.after.set.config.range;
        let text = EscapedText::new().words(format!(
            "first use of Egret here. Nodes with members and gateways get an interface egret0, a VXLAN on UDP port {port} that has to be open \
             between nodes, with an MTU of {mtu} or less; every node gets tables named egret"
        ));
        self.add(RiskLevel::Note, "first", "New on the nodes", text);
    }
}

fn sends(pods: usize) -> String {
    if pods == 1 { "1 pod sends".to_owned() } else { format!("{pods} pods send") }
}

fn leaves(pods: usize) -> String {
    if pods == 1 { "1 pod leaves".to_owned() } else { format!("{pods} pods leave") }
}

/// The API servers and the cluster's DNS.
fn own_cluster(facts: &Facts) -> [(&'static str, Vec<(String, IpAddr)>); 2] {
    const CONTROL_PLANE: &str = "node-role.kubernetes.io/control-plane";
    let servers = facts.nodes.iter().filter(|(_, node)| node.labels.contains_key(CONTROL_PLANE));
    let servers = servers.flat_map(|(name, node)| node.addresses.iter().map(|address| (name.to_string(), *address)));
    let is_dns = |app: &String| app == "kube-dns" || app == "coredns";
    let resolvers = facts.pods.iter().filter(|(_, pod)| pod.labels.get("k8s-app").is_some_and(is_dns));
    let resolvers = resolvers.flat_map(|(name, pod)| pod.addresses.iter().map(|address| (name.to_string(), *address)));
    [("the API server", servers.collect()), ("the cluster's DNS", resolvers.collect())]
}
