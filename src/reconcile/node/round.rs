//! A round: look, compile, plan, apply, look again. Done means that the second plan is empty.
//!
//! Deliberately absent: when a round is due (`node`), and everything pure that it calls.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use jiff::Timestamp;

use crate::cluster::{Cluster, ClusterError, LabelChanges};
use crate::core::compile::counters::{CounterIndex, Counters, Totals};
use crate::core::compile::exit_ids::ExitIds;
use crate::core::compile::{CompileInput, Compiled, RefusedParts, compile, unfit};
use crate::core::facts::PodName;
use crate::core::finding::Finding;
use crate::core::gateway_interfaces::{self, GatewayInterface, told};
use crate::core::host_network::KernelFeatures;
use crate::core::labels::Labels;
use crate::core::name::NodeName;
use crate::core::placement::handover::{Handover, Serving};
use crate::core::placement::{GatewayReports, UnfitExits, place, place_with};
use crate::core::plan::conntrack::AddressHolders;
use crate::core::plan::{Plan, PlanContext, Step, plan, plan_with};
use crate::core::policy::PolicyId;
use crate::core::report::drift::{self, DriftClass};
use crate::core::report::history::{NodeReport, ObservedDrift};
use crate::core::state::NodeState;
use crate::core::state::nft::TableFamily;
use crate::core::state::ownership::DatapathConfig;
use crate::kernel::nft::Generation;
use crate::kernel::watch::KernelEvent;
use crate::kernel::{Kernel, KernelError, Observed, conntrack};
use crate::reconcile::gitops::repository::DesiredRevision;
use crate::reconcile::node::attribution::{wanted_by, who};
use crate::reconcile::node::mark_mask::MarkMaskChooser;
use crate::reconcile::now;
use crate::reconcile::persistence::state_store::{StateStore, StateStoreError};
use crate::telemetry::chain;

/// How often a round looks again because somebody changed nftables meanwhile, or put something else in the way.
const ATTEMPTS: usize = 8;

/// Why a round did not come to its end. The kernel is as it was, or on the way; the next round goes on from there.
#[derive(Debug, thiserror::Error)]
pub enum RoundError {
    /// The kernel refused.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The cluster's facts could not be read, or a label not be written.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// Memory could not be written.
    #[error(transparent)]
    Memory(#[from] StateStoreError),
    /// The facts do not know this node: nothing is known of what it should do.
    #[error("{0} is not among the nodes of the cluster; its kernel is left as it is")]
    UnknownNode(NodeName),
    /// Everything was carried out, and still something differs.
    #[error("after {ATTEMPTS} attempts this is still to do: {0}")]
    NotConverged(String),
}

impl RoundError {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Kernel(error) => error.hint(),
            Self::UnknownNode(_) => Some("compare --node with the names of the Node manifests".to_owned()),
            Self::NotConverged(_) => {
                Some("something else on this node changes the same objects; `egret doctor` may know it".to_owned())
            }
            Self::Cluster(_) | Self::Memory(_) => None,
        }
    }
}

/// What a round did.
#[derive(Debug, Default)]
pub struct RoundResult {
    /// Steps that were taken, in order.
    pub steps: Vec<Step>,
    /// The policies that they are about; none where only drift was corrected.
    pub policies: BTreeSet<PolicyId>,
    /// What had drifted.
    pub drifted: usize,
    /// The same by how it differed.
    pub classes: BTreeMap<DriftClass, usize>,
    /// From the first look to the last.
    pub took: Duration,
    /// What the kernel can do.
    pub features: KernelFeatures,
    /// What the node tells of its interfaces.
    pub interfaces: Vec<GatewayInterface>,
    /// What the kernel refused, and is in force without.
    pub refused: RefusedParts,
    /// The exits that this node cannot serve, whether or not it is asked to, with the reason.
    pub unfit: BTreeMap<String, String>,
    /// The next time at which something changes by itself: a suspension ends.
    pub wake: Option<Timestamp>,
}

/// What gateways tell, and what was made of it so far.
#[derive(Debug, Clone, Default)]
pub struct GatewayState {
    /// Which exits each gateway serves.
    pub serving: Serving,
    /// Which exits each says it could not serve.
    pub unfit: UnfitExits,
    /// Egress addresses that this node has, since when: they are told.
    pub holds: BTreeMap<IpAddr, Timestamp>,
    /// The ways that were in force.
    pub handover: Handover,
}

/// One node: its kernel, its cluster's facts, and what is known of both.
pub struct Reconciler {
    /// The kernel.
    pub kernel: Kernel,
    /// The cluster.
    pub cluster: Cluster,
    /// The node's name.
    pub node: NodeName,
    /// What outlives the process.
    pub memory: StateStore,
    /// The report of this node.
    pub report: NodeReport,
    /// What gateways tell of themselves, where they do: without a live cluster there is nobody to ask.
    pub told: Option<GatewayState>,
    /// What was last seen to be in force; none before the first round, and after one that failed.
    in_force: Option<(NodeState, Compiled)>,
    /// Which pod each address was when all was last in force; none before the first time.
    holders: Option<BTreeMap<IpAddr, PodName>>,
    /// What each counter in the kernel is of, since all was last in force, and what they have counted.
    legend: CounterIndex,
    totals: Totals,
    /// The mark bits of this node.
    marks: MarkMaskChooser,
    /// Generations of nftables that we made: their events are our own doing.
    own_generations: VecDeque<Generation>,
}

impl Reconciler {
    /// Puts the parts together.
    pub fn new(kernel: Kernel, cluster: Cluster, node: NodeName, memory: StateStore) -> Self {
        let report = NodeReport::new(node.as_str());
        Self {
            kernel,
            cluster,
            node,
            memory,
            report,
            told: None,
            in_force: None,
            holders: None,
            legend: CounterIndex::default(),
            totals: Totals::default(),
            marks: MarkMaskChooser::default(),
            own_generations: VecDeque::new(),
        }
    }

    /// What was last seen to be in force.
    pub fn in_force(&self) -> Option<&Compiled> {
        self.in_force.as_ref().map(|(_, compiled)| compiled)
    }

    /// What the kernel has counted until now.
    pub async fn counters(&mut self) -> Result<&Counters, KernelError> {
        let look = self.kernel.counters().await?;
        Ok(self.totals.add(&self.legend, &look))
    }

    /// Whether an event is our own doing.
    pub fn is_own(&self, event: &KernelEvent) -> bool {
        event.generation.is_some_and(|generation| self.own_generations.contains(&generation))
    }

    /// What a look at the kernel and the facts gives, labels included.
    pub async fn observe(&mut self, desired: &Labels) -> Result<Observed, RoundError> {
        let mut observed = self.kernel.observe().await?;
        observed.state.labels = self.observed_labels(desired);
        Ok(observed)
    }

    /// Of the node's labels, those that Git asks for and those that Egret wrote. One that somebody has since given another
    /// value is theirs.
    fn observed_labels(&self, desired: &Labels) -> Labels {
        let Some(node) = self.cluster.facts().nodes.get(&self.node) else { return Labels::new() };
        if !self.cluster.labels_nodes() {
            return Labels::new();
        }
        let written = &self.memory.kept().labels;
        node.labels
            .iter()
            .filter(|(key, value)| desired.contains_key(*key) || written.get(*key) == Some(*value))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect()
    }

    /// Brings the node to what is asked for. `events` are those that came since the last round, and when the first did.
    pub async fn round(
        &mut self,
        intent: &DesiredRevision,
        events: &[KernelEvent],
        seen: Timestamp,
    ) -> Result<RoundResult, RoundError> {
        let began = Instant::now();
        if !self.cluster.facts().nodes.contains_key(&self.node) {
            return Err(RoundError::UnknownNode(self.node.clone()));
        }
        let intent = &*self.marks.resolve(intent, self.memory.kept().range(), events).await;
        let range = intent.set.config.range;
        self.adopt_range(range)?;
        let mut done = RoundResult::default();
        let mut left = Plan::default();
        let mut attempts = 0;
        while attempts < ATTEMPTS {
            attempts += 1;
            let now = now();
            let (compiled, observed) = self.look_and_compile(intent, &done.refused, now).await?;
            for class in self.note_drift(&compiled, &observed, intent, events, seen) {
                done.drifted += 1;
                *done.classes.entry(class).or_default() += 1;
            }
            let beside = self.beside(&compiled, &observed).await;
            left = plan_with(&compiled.desired, &observed.state, range, &beside);
            if left.is_empty() {
                done.took = began.elapsed();
                done.features = observed.host_network.features;
                if let Some(node) = self.cluster.facts().nodes.get(&self.node) {
                    done.interfaces = told(&observed.host_network, &intent.set, &node.labels);
                    done.unfit = unfit(&self.node, &node.labels, &intent.set, &observed.host_network);
                }
                let left = self.told.as_ref().and_then(|told| told.handover.wake());
                done.wake = [next_wake(intent, now), left].into_iter().flatten().min();
                self.settle(intent, compiled)?;
                return Ok(done);
            }
            if done.steps.is_empty() {
                done.policies = compiled.policies_that_differ(self.in_force.as_ref().map(|(_, before)| before));
            }
            match self.apply(&left, observed.generation, &compiled, range, &mut done.steps).await {
                // What differs at the next look is what somebody else did meanwhile.
                Ok(refused) if refused.is_empty() => {
                    self.holders = Some(compiled.holders.clone());
                    self.in_force = Some((compiled.desired.clone(), compiled));
                }
                Ok(refused) => {
                    self.in_force = None;
                    if done.refused.extend(refused) {
                        // A part less to do: this ends by itself.
                        attempts -= 1;
                    }
                }
                Err(RoundError::Kernel(error)) if error.is_stale() => self.in_force = None,
                Err(error) => {
                    self.in_force = None;
                    self.report.not_put_right(&chain(&error));
                    return Err(error);
                }
            }
        }
        Err(RoundError::NotConverged(left.to_string().lines().take(3).collect::<Vec<_>>().join("; ")))
    }

    async fn look_and_compile(
        &mut self,
        intent: &DesiredRevision,
        refused: &RefusedParts,
        now: Timestamp,
    ) -> Result<(Compiled, Observed), RoundError> {
        let node = self.node.clone();
        let labels = self.cluster.facts().nodes.get(&node).map(|node| node.labels.clone()).unwrap_or_default();
        let wanted = intent.set.labels_of(&node, &labels);
        let observed = self.observe(&wanted).await?;
        let facts = self.cluster.facts();
        let placement = match &mut self.told {
            // What this node's kernel has is known here before anybody is told.
            Some(GatewayState { serving, holds, handover, unfit }) => {
                let mut here = gateway_interfaces::held(&observed.host_network, &intent.set, &labels);
                holds.retain(|address, _| here.remove(address));
                holds.extend(here.into_iter().map(|address| (address, now)));
                let mut held = facts.held.clone();
                held.insert(node.clone(), holds.clone());
                let placement = place_with(&intent.set, facts, GatewayReports { held: &held, unfit }, now);
                let mut placement = handover.next(placement, &node, &intent.set, facts, serving, now);
                // Connections of a gateway that forwards nothing are lost; they may begin anew elsewhere.
                placement.left.retain(|exit, _| !exit.is_among(unfit));
                placement
            }
            None => place(&intent.set, facts, now),
        };
        let marks = ExitIds::observed(&observed.state.nft, intent.set.config.range);
        let input = CompileInput {
            node: &node,
            set: &intent.set,
            placement: &placement,
            facts,
            host_network: &observed.host_network,
            marks: &marks,
            refused,
        };
        let mut compiled = compile(&input);
        let own = placement.findings.iter().filter(|finding| concerns(finding, &compiled)).cloned();
        compiled.findings.extend(own.collect::<Vec<_>>());
        compiled.findings.extend(self.marks.findings(&node));
        compiled.findings.sort();
        compiled.findings.dedup();
        Ok((compiled, observed))
    }

    /// What decides steps beside the two states.
    async fn beside(&self, compiled: &Compiled, observed: &Observed) -> PlanContext {
        let holders = AddressHolders { before: self.holders.clone(), now: compiled.holders.clone() };
        let first = compiled.desired.nft.contains_key(&TableFamily::Inet)
            && !observed.state.nft.contains_key(&TableFamily::Inet);
        let untracked = first && !conntrack::at_work().await.unwrap_or(true);
        PlanContext { holders, untracked }
    }

    /// What somebody changed since all was in force.
    fn note_drift(
        &mut self,
        compiled: &Compiled,
        observed: &Observed,
        intent: &DesiredRevision,
        events: &[KernelEvent],
        seen: Timestamp,
    ) -> Vec<DriftClass> {
        let Some((before, known)) = &self.in_force else { return Vec::new() };
        let sightings: Vec<ObservedDrift> = drift::between(before, &observed.state)
            .into_iter()
            .map(|drift| ObservedDrift {
                by: who(&drift.place, events),
                wanted_by: wanted_by(&drift.place, known, compiled, intent),
                drift,
            })
            .collect();
        for sighting in &sightings {
            tracing::warn!(
                object = sighting.drift.object,
                class = ?sighting.drift.class,
                by = sighting.by.as_ref().map(|by| by.guess.as_str()),
                "drift"
            );
        }
        let classes = sightings.iter().map(|sighting| sighting.drift.class).collect();
        self.report.seen(sightings, seen);
        classes
    }

    /// Carries a plan out. What the kernel refused of parts that the rest can do without is given back; then the plan ends where
    /// something follows that is everybody's, and has to be made again without these parts.
    async fn apply(
        &mut self,
        plan: &Plan,
        mut generation: Generation,
        compiled: &Compiled,
        range: DatapathConfig,
        taken: &mut Vec<Step>,
    ) -> Result<RefusedParts, RoundError> {
        // A label that cannot be written, as in a folder that is read-only, keeps nobody's packets from their way.
        let labelled = self.apply_labels(plan);
        let mut refused = RefusedParts::default();
        for step in &plan.steps {
            if !refused.is_empty() {
                let parts = compiled.refused(step, "", range);
                if parts.is_empty() {
                    break;
                }
                // The rest of what is refused would only be taken out again.
                if refused.covers(&parts) {
                    continue;
                }
            }
            let before = generation;
            match self.kernel.apply(step, &mut generation).await {
                Ok(()) => {}
                Err(error) if error.is_refusal() => {
                    // A step's text stands in columns.
                    let words: Vec<String> = chain(&error).split_whitespace().map(str::to_owned).collect();
                    let parts = compiled.refused(step, &words.join(" "), range);
                    if parts.is_empty() {
                        return Err(error.into());
                    }
                    refused.extend(parts);
                    continue;
                }
                Err(error) => return Err(error.into()),
            }
            if generation != before {
                self.own_generations.push_back(generation);
                if self.own_generations.len() > 64 {
                    self.own_generations.pop_front();
                }
            }
            if labelled.is_ok() || !matches!(step, Step::SetLabel(..) | Step::RemoveLabel(..)) {
                taken.push(step.clone());
            }
        }
        labelled.map(|()| refused)
    }

    /// Labels are remembered before they are written: a crash in between leaves one that is ours and not there, which is
    /// harmless; the other way round it would be there and nobody's.
    fn apply_labels(&mut self, plan: &Plan) -> Result<(), RoundError> {
        let mut changes = LabelChanges::default();
        for step in &plan.steps {
            match step {
                Step::SetLabel(key, value, _) => {
                    changes.set.insert(key.clone(), value.clone());
                }
                Step::RemoveLabel(key, _) => {
                    changes.remove.insert(key.clone());
                }
                _ => {}
            }
        }
        if changes == LabelChanges::default() {
            return Ok(());
        }
        self.memory.keep(|kept| kept.labels.extend(changes.set.clone()))?;
        self.cluster.label(&self.node, &changes)?;
        let removed: BTreeSet<String> = changes.remove;
        Ok(self.memory.keep(|kept| kept.labels.retain(|key, _| !removed.contains(key)))?)
    }

    /// While the kernel still holds objects of another range, both are ours: the new ones are made before the old ones go.
    fn adopt_range(&mut self, range: DatapathConfig) -> Result<(), RoundError> {
        let before = self.memory.kept().range().unwrap_or(range);
        self.kernel.set_ranges(if before == range { vec![range] } else { vec![range, before] });
        if self.memory.kept().range.is_none() {
            self.memory.keep(|kept| kept.range = Some((range.mask, range.first, range.port, range.mtu)))?;
        }
        Ok(())
    }

    /// All is in force.
    fn settle(&mut self, intent: &DesiredRevision, compiled: Compiled) -> Result<(), RoundError> {
        let now = now();
        let range = intent.set.config.range;
        self.memory.keep(|kept| {
            kept.commit = Some(intent.commit.id.to_string());
            kept.committed = intent.commit.committed();
            kept.good = intent.good.clone();
            kept.signatures.clone_from(&intent.set.config.signatures);
            kept.windows = Some(intent.set.config.change_windows.clone());
            kept.withheld.clone_from(&intent.withheld);
            kept.emergency.clone_from(&intent.emergency);
            kept.range = Some((range.mask, range.first, range.port, range.mtu));
        })?;
        if let Some(told) = &self.told {
            self.memory.keep_ways(&told.handover)?;
        }
        self.report.put_right(now);
        self.report.set_in_force(&intent.commit.id.to_string(), &intent.commit.summary, now);
        self.report.rejected.clone_from(&intent.rejected);
        self.report.withheld = intent.withheld.clone().map(Box::new);
        self.report.emergency = intent.emergency.clone().map(Box::new);
        self.report.set_findings(compiled.findings.clone(), now);
        self.legend = CounterIndex::of(&compiled);
        self.holders = Some(compiled.holders.clone());
        self.in_force = Some((compiled.desired.clone(), compiled));
        Ok(())
    }
}

/// Findings about policies concern every node that has members or exits of them; the gateway's name and the like, this node.
fn concerns(finding: &Finding, compiled: &Compiled) -> bool {
    let of_members = compiled.members.keys().any(|policy| policy.name.as_str() == finding.subject);
    let of_exits = compiled.exits.iter().any(|(key, exit)| {
        key.identity() == finding.subject || exit.policies.iter().any(|policy| policy.name.as_str() == finding.subject)
    });
    of_members || of_exits
}

/// The end of the first suspension that ends.
fn next_wake(intent: &DesiredRevision, now: Timestamp) -> Option<Timestamp> {
    intent
        .set
        .policies
        .values()
        .filter_map(|policy| policy.suspend.as_ref())
        .map(|suspend| suspend.until)
        .filter(|until| *until > now)
        .min()
}

impl Reconciler {
    /// Takes everything of ours away, kernel objects and labels; returns what was done.
    pub async fn remove(&mut self, range: DatapathConfig) -> Result<Vec<Step>, RoundError> {
        let mut taken = Vec::new();
        for _ in 0..ATTEMPTS {
            let observed = self.observe(&Labels::new()).await?;
            let left = plan(&NodeState::default(), &observed.state, range);
            if left.is_empty() {
                self.memory
                    .keep(|kept| *kept = crate::reconcile::persistence::state_store::PersistedState::default())?;
                return Ok(taken);
            }
            match self.apply(&left, observed.generation, &Compiled::default(), range, &mut taken).await {
                Err(RoundError::Kernel(error)) if error.is_stale() => {}
                other => drop(other?),
            }
        }
        Err(RoundError::NotConverged("take everything away".to_owned()))
    }
}
