//! What one node has to hold, from policies, facts and its host network: placement, handover, compilation.
//!
//! A round of the reconciler, `egret plan`, previews and tests all ask here. What the kernel holds is compared elsewhere (`plan`); reading it,
//! and reading facts, is absent.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use jiff::Timestamp;

use super::assignment::holding::{Claims, HoldingView};
use super::assignment::{self, AssignmentInput, NodeAssignments};
use super::compile::detours::{findings as detour_findings, observed as observed_detours, own_paths};
use super::compile::exit_ids::ExitIds;
use super::compile::{CompileInput, Compiled, RefusedParts, compile};
use super::detours::{self, Detours};
use super::facts::Facts;
use super::finding::Finding;
use super::gateway_interfaces;
use super::host_network::HostNetwork;
use super::labels::Labels;
use super::liveness::{LivenessView, PathState};
use super::name::NodeName;
use super::placement::handover::{GatewayKnowledge, Handover, Serving};
use super::placement::{ExitKey, GatewayReports, Placement, UnfitExits, place, place_with};
use super::policy::PolicySet;
use super::state::NodeState;
use super::state::net::InterfaceAddress;
use super::state::nft::AddressFamily;

/// A node, and everything that decides what it has to hold.
#[derive(Debug, Clone, Copy)]
pub struct NodeInput<'a> {
    /// The node. It must be among the facts.
    pub node: &'a NodeName,
    /// Active policies, labels and configuration.
    pub set: &'a PolicySet,
    /// The cluster.
    pub facts: &'a Facts,
    /// The node's kernel, without Egret's objects.
    pub host_network: &'a HostNetwork,
    /// Egret's objects in it: exits keep the ids that they have there.
    pub observed: &'a NodeState,
    /// What the kernel refused, and is to do without.
    pub refused: &'a RefusedParts,
    /// Which gateways answer this node's probes.
    pub liveness: &'a LivenessView,
    /// Which of the egress addresses that Egret assigns this node may hold.
    pub holding: &'a HoldingView,
}

/// What gateways report of themselves, and what was made of it so far.
#[derive(Debug, Clone, Default)]
pub struct GatewayState {
    /// Which exits each gateway reports that it serves; none where no gateway can report.
    pub serving: Option<Serving>,
    /// Which exits each reports that it could not serve.
    pub unfit: UnfitExits,
    /// Egress addresses that this node has, since when: it reports them.
    pub holds: BTreeMap<IpAddr, Timestamp>,
    /// Which exits carried which policies, and which were left.
    pub handover: Handover,
}

/// What a node has to hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evaluation {
    /// Its state. The findings are those that concern this node.
    pub compiled: Compiled,
    /// Findings about policies that have neither members nor exits here.
    pub elsewhere: Vec<Finding>,
    /// The assigned addresses that this node holds or stands by for.
    pub claims: Claims,
    /// The placement that applies, without its findings.
    pub placement: Placement,
}

impl Evaluation {
    /// All findings, sorted.
    pub fn findings(&self) -> Vec<Finding> {
        let mut findings = [self.elsewhere.as_slice(), &self.compiled.findings].concat();
        findings.sort();
        findings.dedup();
        findings
    }
}

/// Places, hands over and compiles. Without `gateways` nothing is handed over.
pub fn evaluate(input: &NodeInput<'_>, gateways: Option<&mut GatewayState>, now: Timestamp) -> Evaluation {
    let ids = ExitIds::observed(&input.observed.nft, input.set.config.range);
    let enabled = input.set.config.failover.is_some();
    let (mut placement, before) = if let Some(gateways) = gateways {
        gateways.place(input, &ids, now)
    } else {
        let placement = place(input.set, input.facts, now);
        let before = observed_detours(placement.exits.keys(), &ids, input.observed, input.set.config.range);
        (placement, before)
    };
    let mut own = input.assignments(&placement);
    let observed_addresses = &input.observed.addresses;
    let host_network = assignment::applied(input.host_network, observed_addresses, &own.addresses);
    let input = &NodeInput { host_network: &host_network, ..*input };
    let detours = if enabled {
        let own = own_paths(input.node, &placement, &AddressFamily::BOTH, input.host_network);
        detours::decide(&placement, input.node, &input.liveness.with(own), &before)
    } else {
        Detours::new()
    };
    let mut compiled = input.compile_with(&placement, &detours, &ids, &own.addresses);
    let known = (input.node, &placement, input.liveness);
    assignment::count_members(&mut own.claims, compiled.members.keys(), known);
    if !enabled {
        assignment::want_placed(&mut own.claims);
    }
    compiled.findings.extend(own.findings);
    let silent = detour_findings(&compiled, input.liveness);
    compiled.findings.extend(silent);
    let (here, elsewhere) = std::mem::take(&mut placement.findings)
        .into_iter()
        .partition::<Vec<_>, _>(|finding| concerns(finding, &compiled));
    compiled.findings.extend(here);
    compiled.findings.sort();
    compiled.findings.dedup();
    Evaluation { compiled, elsewhere, claims: own.claims, placement }
}

impl NodeInput<'_> {
    /// Compiles a placement that is known already.
    pub fn compile(&self, placement: &Placement) -> Compiled {
        let ids = ExitIds::observed(&self.observed.nft, self.set.config.range);
        let own = self.assignments(placement);
        let host_network = assignment::applied(self.host_network, &self.observed.addresses, &own.addresses);
        let input = NodeInput { host_network: &host_network, ..*self };
        input.compile_with(placement, &Detours::new(), &ids, &own.addresses)
    }

    fn compile_with(
        &self,
        placement: &Placement,
        detours: &Detours,
        marks: &ExitIds,
        assigned: &BTreeSet<InterfaceAddress>,
    ) -> Compiled {
        let Self { node, set, facts, host_network, refused, .. } = *self;
        compile(&CompileInput { node, set, placement, detours, facts, host_network, marks, refused, assigned })
    }

    fn assignments(&self, placement: &Placement) -> NodeAssignments {
        let Self { node, set, host_network, observed, holding, .. } = *self;
        assignment::of_node(&AssignmentInput {
            node,
            set,
            placement,
            host_network,
            observed: &observed.addresses,
            holding,
        })
    }
}

impl GatewayState {
    /// The placement that applies now, and the detours in the kernel.
    fn place(&mut self, input: &NodeInput<'_>, ids: &ExitIds, now: Timestamp) -> (Placement, Detours) {
        let NodeInput { node, set, facts, host_network, observed, liveness, .. } = *input;
        let labels = facts.nodes.get(node).map(|node| node.labels.clone()).unwrap_or_default();
        // What this node's kernel has is known here before any other node learns it.
        let mut here = gateway_interfaces::held(host_network, set, &labels);
        self.holds.retain(|address, _| here.remove(address));
        self.holds.extend(here.into_iter().map(|address| (address, now)));
        let mut held = facts.held.clone();
        held.insert(node.clone(), self.holds.clone());
        let placement = place_with(set, facts, GatewayReports { held: &held, unfit: &self.unfit }, now);
        let exits: BTreeSet<&ExitKey> = placement.exits.keys().chain(self.handover.exits()).collect();
        let before = observed_detours(exits.iter().copied(), ids, observed, set.config.range);
        let answers = |exit: &ExitKey| AddressFamily::BOTH.iter().any(|family| liveness.of(exit, *family).answers());
        let is_silent = |exit: &ExitKey| {
            let silent = |family: &AddressFamily| liveness.of(exit, *family) == PathState::Silent;
            !answers(exit) && AddressFamily::BOTH.iter().any(silent)
        };
        let silent = exits.iter().filter(|exit| is_silent(exit)).map(|exit| (*exit).clone()).collect();
        let answering = exits.into_iter().filter(|exit| answers(exit)).cloned().collect();
        let replaced = before.keys().map(|(exit, _)| exit.clone()).collect();
        let known = GatewayKnowledge {
            serving: self.serving.as_ref(),
            answering: &answering,
            silent: &silent,
            replaced: &replaced,
        };
        let mut placement = self.handover.next(placement, node, set, facts, known, now);
        // Connections of a gateway that forwards nothing are lost; they may begin anew elsewhere.
        placement.left.retain(|exit, _| !exit.is_among(&self.unfit));
        (placement, before)
    }
}

/// Of a node's labels those that are compared: the ones that Git asks for, and the ones that Egret wrote. One that another process has
/// since given another value belongs to that process.
pub fn own_labels(labels: &Labels, desired: &Labels, written: &Labels) -> Labels {
    let own = labels.iter().filter(|(key, value)| desired.contains_key(*key) || written.get(*key) == Some(*value));
    own.map(|(key, value)| (key.clone(), value.clone())).collect()
}

/// Findings about policies concern every node that has members or exits of them; the gateway's name and the like, this node.
fn concerns(finding: &Finding, compiled: &Compiled) -> bool {
    let of_members = compiled.members.keys().any(|policy| policy.name.as_str() == finding.subject);
    let of_exits = compiled.exits.iter().any(|(key, exit)| {
        key.identity() == finding.subject || exit.policies.iter().any(|policy| policy.name.as_str() == finding.subject)
    });
    of_members || of_exits
}
