//! The rows from what a standalone node and the reports branch know.
//!
//! Not here: a cluster with an API server (`cluster`).

use std::collections::{BTreeMap, BTreeSet};

use super::{NodeRow, Overview, PolicyRow, Urgency, Way};
use crate::core::compile::drops_pods;
use crate::core::explain::{Situation, Verdict, exit_verdict, side};
use crate::core::facts::Node;
use crate::core::finding::Finding;
use crate::core::name::NodeName;
use crate::core::policy::{OnNoGateway, Policy, PolicyId};
use crate::core::preview::revision::RevisionState;
use crate::core::report::drift::{between, how};
use crate::core::state::nft::AddressFamily;
use crate::core::text::counted;

impl Overview {
    /// Of what is known of a cluster without an API server. `revision`: the active commit.
    pub fn of_situation(cluster: &str, revision: &str, situation: &Situation<'_>) -> Self {
        let side = side(situation);
        let members = members(&side);
        let row = |policy: &Policy| policy_row(policy, members.get(&policy.id).copied().unwrap_or(0), &side, situation);
        let pending = situation.pending.map(|(commit, _)| commit.message());
        let policies: Vec<PolicyRow> = situation.set.policies.values().map(row).collect();
        let mut nodes: Vec<NodeRow> =
            side.facts.nodes.iter().map(|(name, node)| node_row(name, node, situation)).collect();
        // Of another node's kernel nothing else is known than what its policies lead to.
        let mut led_to: BTreeMap<&str, BTreeSet<&String>> = BTreeMap::new();
        for way in policies.iter().flat_map(|policy| &policy.ways) {
            led_to.entry(&way.gateway).or_default().extend(&way.addresses);
        }
        for node in nodes.iter_mut().filter(|node| situation.kernel.is_none_or(|kernel| kernel.node != node.node)) {
            let addresses = led_to.get(node.node.as_str()).into_iter().flatten();
            node.exits = addresses.map(|address| (*address).clone()).collect();
        }
        Self {
            cluster: cluster.to_owned(),
            revision: revision.to_owned(),
            waits: pending.or_else(|| situation.waits.map(str::to_owned)),
            rejected: situation.rejected.to_vec(),
            policies,
            nodes,
        }
        .sorted()
    }
}

/// How many pods each policy selects.
fn members(side: &RevisionState<'_>) -> BTreeMap<PolicyId, u64> {
    let index = crate::core::policy::members::Members::new(side.set.policies.values(), &side.facts);
    let mut members: BTreeMap<PolicyId, u64> = BTreeMap::new();
    for (name, pod) in &side.facts.pods {
        for policy in index.of(name, pod, &side.facts) {
            *members.entry(policy).or_default() += 1;
        }
    }
    members
}

fn policy_row(policy: &Policy, pods: u64, side: &RevisionState<'_>, situation: &Situation<'_>) -> PolicyRow {
    let mut row = PolicyRow {
        urgency: Urgency::Fine,
        policy: policy.id.clone(),
        pods,
        destinations: policy.destinations.clone(),
        gateways: Vec::new(),
        addresses: Vec::new(),
        ways: Vec::new(),
        state: "ok",
        since: None,
        reason: "Programmed".to_owned(),
        cause: None,
    };
    let finding = |code: &str| {
        let subject = policy.id.name.as_str();
        side.placement.findings.iter().find(|one| one.code == code && one.subject == subject)
    };
    let Some(placed) = side.placement.policies.get(&policy.id) else {
        (row.urgency, row.state, row.reason) = (Urgency::Doubtful, "suspended", "Suspended".to_owned());
        row.cause = finding("suspended").map(|finding| finding.message.clone());
        return row;
    };
    if placed.exits.is_empty() {
        (row.urgency, row.state) = match placed.on_no_gateway {
            OnNoGateway::Drop => (Urgency::Bad, "DROPS"),
            OnNoGateway::Passthrough => (Urgency::Doubtful, "passes"),
        };
        "NoGateway".clone_into(&mut row.reason);
        let found = finding("no-gateway");
        row.since = found.and_then(|finding| situation.since_anywhere(finding));
        row.cause = Some(found.map_or("no gateway is fit".to_owned(), |finding| finding.message.clone()));
        return row;
    }
    row.gateways = placed.exits.iter().map(|exit| exit.gateway.to_string()).collect();
    row.gateways.dedup();
    let mut families: BTreeMap<AddressFamily, std::net::IpAddr> = BTreeMap::new();
    for net in &policy.destinations {
        families.entry(AddressFamily::of(net.addr())).or_insert(net.addr());
    }
    for exit in &placed.exits {
        let mut addresses = BTreeSet::new();
        for destination in families.values() {
            match exit_verdict(exit, *destination, situation) {
                Verdict::Leaves { address, instead_of: None, .. } => addresses.extend([address.to_string()]),
                verdict @ Verdict::Leaves { .. } => {
                    row.mark(Urgency::Doubtful, "standby", verdict.reason(), None, "a standby carries it");
                }
                Verdict::AddressUnknown { exit } => {
                    addresses.extend([format!("{} of {}", exit.egress, exit.gateway)]);
                }
                Verdict::Dropped { reason, cause, since, node } => {
                    let node = node.map(|node| format!("{node}: ")).unwrap_or_default();
                    row.mark(Urgency::Bad, "DROPS", reason, since, &format!("{node}{cause}"));
                }
                verdict => row.mark(Urgency::Doubtful, "unknown", verdict.reason(), None, "it is not known"),
            }
        }
        let (gateway, addresses) = (exit.gateway.to_string(), addresses.into_iter().collect());
        row.ways.push(Way { exit: exit.identity(), gateway, addresses });
    }
    let all: BTreeSet<String> = row.ways.iter().flat_map(|way| way.addresses.clone()).collect();
    row.addresses = all.into_iter().collect();
    row
}

impl PolicyRow {
    /// Notes what is wrong, unless something worse is known.
    fn mark(
        &mut self,
        urgency: Urgency,
        state: &'static str,
        reason: &str,
        since: Option<jiff::Timestamp>,
        cause: &str,
    ) {
        if urgency < self.urgency {
            (self.urgency, self.state, self.since) = (urgency, state, since);
            (self.reason, self.cause) = (reason.to_owned(), Some(cause.to_owned()));
        }
    }
}

fn node_row(name: &NodeName, node: &Node, situation: &Situation<'_>) -> NodeRow {
    let report = situation.reports.get(name);
    let active = report.and_then(|report| report.active.as_ref());
    let drift = report.map_or(0, |report| report.drift.len() as u64);
    let mut row = NodeRow {
        urgency: Urgency::Fine,
        node: name.clone(),
        revision: active.map(|active| active.commit.clone()),
        exits: Vec::new(),
        drift,
        state: "ok",
        since: active.and_then(|active| active.since),
        cause: None,
        heard: None,
        dropped_per_minute: None,
    };
    if let Some(kernel) = situation.kernel.filter(|kernel| kernel.node == *name) {
        let differs = between(&kernel.compiled.desired, &kernel.state);
        row.heard = kernel.running.then_some(kernel.at);
        row.exits = kernel.compiled.served_addresses();
        if let Some(first) = differs.first() {
            let process = if kernel.running { "egret runs there" } else { "no egret runs there" };
            let more = match differs.len() - 1 {
                0 => String::new(),
                more => format!(" and {}", counted(more, "other difference")),
            };
            let what =
                format!("{} {}{more}; {process}", first.object, how(first.desired.is_some(), first.observed.is_some()));
            // When that began nobody has seen, or the report would say so.
            (row.urgency, row.state, row.since, row.cause) = (Urgency::Bad, "DIFFERS", None, Some(what));
            row.drift = differs.len() as u64;
        } else if !kernel.running && !kernel.state.nft.is_empty() {
            row.doubt("stopped", "no egret runs there; the kernel keeps what it has");
        }
    } else if report.is_none() {
        row.doubt("unknown", "it reports nothing, and its kernel is not read here");
    } else if drift > 0 {
        let first = report.and_then(|report| report.drift.first());
        (row.urgency, row.state, row.since) = (Urgency::Bad, "DIFFERS", first.map(|drift| drift.first_seen));
        row.cause = first.map(|drift| format!("{}: {}", drift.object, drift.action));
    }
    if let Some(why) = node.unfit() {
        row.doubt("not ready", why);
    }
    let of_kernel = situation.kernel.filter(|kernel| kernel.node == *name).map(|kernel| &kernel.compiled.findings);
    let of_kernel = of_kernel.into_iter().flatten().map(|finding| (finding, situation.since(name, finding)));
    let reported = report.into_iter().flat_map(|report| &report.findings);
    let reported = reported.map(|dated| (&dated.finding, Some(dated.since)));
    let is_cause = |finding: &Finding| !situation.is_consequence(finding);
    row.doubt_by_findings(of_kernel.chain(reported).filter(|(finding, _)| is_cause(finding)));
    row
}

impl NodeRow {
    /// Notes what is doubtful, unless something is known already.
    pub(super) fn doubt(&mut self, state: &'static str, cause: &str) {
        if self.urgency == Urgency::Fine {
            (self.urgency, self.state, self.cause) = (Urgency::Doubtful, state, Some(cause.to_owned()));
            // That is the time of what it has, not of what is wrong.
            self.since = None;
        }
    }

    /// Notes the first finding by which something does not work, unless something is known already. One by which pods of this node
    /// are dropped here, whatever their policies' exits do, comes before all others.
    pub(super) fn doubt_by_findings<'f>(
        &mut self,
        findings: impl Iterator<Item = (&'f Finding, Option<jiff::Timestamp>)>,
    ) {
        let problems: Vec<_> = findings.filter(|(finding, _)| finding.is_problem()).collect();
        let drops = problems.iter().find(|(finding, _)| drops_pods(finding));
        let Some((first, since)) = drops.or(problems.first()) else { return };
        let of_node = first.subject == self.node.as_str();
        let cause = if of_node { first.message.clone() } else { format!("{}: {}", first.subject, first.message) };
        if drops.is_some() && self.urgency != Urgency::Bad {
            (self.urgency, self.state, self.cause) = (Urgency::Bad, "DROPS", Some(cause));
        } else if self.urgency == Urgency::Fine {
            self.doubt("finding", &cause);
        } else {
            return;
        }
        self.since = *since;
    }
}
