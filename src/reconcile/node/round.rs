//! A reconciliation round of one node: read the kernel, evaluate the policies, plan, apply, read again. A round is
//! done when the second plan is empty. `egret plan` runs the first half.
//!
//! Not here: when a round is due (`round_driver`), and the pure functions that it calls (`core`).

mod apply;
mod reading;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use crate::clock::Clock;
use crate::cluster::{Cluster, ClusterError};
use crate::core::assignment::holding::{Claims, HoldingView};
use crate::core::compile::counters::{CounterIndex, Counters, Totals};
use crate::core::compile::detours::SILENT;
use crate::core::compile::{Compiled, RefusedParts, needed_next_hops, unfit};
use crate::core::conntrack::{ConntrackTotals, ConntrackWatch};
use crate::core::evaluation::{Evaluation, GatewayState, NodeInput, evaluate, own_labels};
use crate::core::facts::{Facts, PodName};
use crate::core::gate::ActiveRevision;
use crate::core::gateway_interfaces::{GatewayInterface, reported};
use crate::core::host_network::{HostNetwork, KernelFeatures};
use crate::core::labels::Labels;
use crate::core::liveness::LivenessView;
use crate::core::name::NodeName;
use crate::core::neighbour_resolution::{LinkNeighbour, ResolutionWatch};
use crate::core::placement::Placement;
use crate::core::plan::conntrack::AddressHolders;
use crate::core::plan::{Plan, PlanContext, Step, plan_with};
use crate::core::policy::{PolicyId, PolicySet};
use crate::core::ports::PortWatch;
use crate::core::preview::assertions;
use crate::core::report::drift::{self, DriftClass};
use crate::core::report::history::{NodeReport, ObservedDrift};
use crate::core::state::NodeState;
use crate::core::state::nft::TableFamily;
use crate::core::state::ownership::DatapathConfig;
use crate::kernel::nft::Generation;
use crate::kernel::watch::KernelEvent;
use crate::kernel::{Kernel, KernelError, Observed};
use crate::reconcile::gitops::repository::DesiredRevision;
use crate::reconcile::node::attribution::{wanted_by, who};
use crate::reconcile::node::kernel::NodeKernel;
use crate::reconcile::node::mark_mask::MarkMaskChooser;
use crate::reconcile::persistence::state_file::StateFileError;
use crate::reconcile::persistence::state_store::StateStore;
use crate::telemetry::chain;

/// How often a round starts over because another process changed nftables meanwhile, or caused another conflict.
const ATTEMPTS: usize = 8;

/// How often rounds read the statistics of connection tracking.
const CONNTRACK_INTERVAL: Duration = Duration::from_mins(1);

/// Why a round did not finish. The kernel may be partly changed; the next round continues from there.
#[derive(Debug, thiserror::Error)]
pub enum RoundError {
    /// The kernel rejected a step.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The cluster's facts could not be read, or a label could not be written.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// What has to be persisted before a step could not be: a label is not written then.
    #[error(transparent)]
    Memory(#[from] StateFileError),
    /// The facts do not contain this node, so its duties are unknown.
    #[error("{0} is not among the nodes of the cluster; its kernel is left as it is")]
    UnknownNode(NodeName),
    /// Every step was applied, and still something differs.
    #[error("after {ATTEMPTS} attempts this is still to do: {0}")]
    NotConverged(String),
}

impl RoundError {
    /// What the operator can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Kernel(error) => error.hint(),
            Self::UnknownNode(_) => Some("compare --node with the names of the Node manifests".to_owned()),
            Self::NotConverged(_) => {
                Some("something else on this node changes the same objects; `egret doctor` may know it".to_owned())
            }
            Self::Memory(error) => Some(error.hint()),
            Self::Cluster(_) => None,
        }
    }
}

/// What a round would do.
#[derive(Debug)]
pub struct NodePlan {
    /// The steps.
    pub plan: Plan,
    /// The state of the kernel, with the node's labels.
    pub observed: NodeState,
    /// The state that the node should have.
    pub evaluation: Evaluation,
    /// The rest of the kernel that matters.
    pub host_network: HostNetwork,
    /// The mark bits, tables and priorities of this node.
    pub range: DatapathConfig,
}

/// The result of a round.
#[derive(Debug, Default)]
pub struct RoundResult {
    /// The steps taken, in order.
    pub steps: Vec<Step>,
    /// The policies that the steps concern; none if only drift was corrected.
    pub policies: BTreeSet<PolicyId>,
    /// The number of objects that had drifted.
    pub drifted: usize,
    /// The same, by how they differed.
    pub classes: BTreeMap<DriftClass, usize>,
    /// The time from the first read to the last.
    pub took: Duration,
    /// The kernel's features.
    pub features: KernelFeatures,
    /// The interfaces that the node reports.
    pub interfaces: Vec<GatewayInterface>,
    /// The parts that the kernel rejected; the rest is applied without them.
    pub refused: RefusedParts,
    /// Exits that members use and whose gateway does not answer, with the finding.
    pub silent: BTreeMap<String, String>,
    /// The exits that this node cannot serve, whether or not it is asked to, with the reason.
    pub unfit: BTreeMap<String, String>,
    /// The next time at which something changes without an event: a suspension ends.
    pub wake: Option<Timestamp>,
    /// The time after which it is worth reading again what the kernel has found of next hops.
    pub look_again: Option<Duration>,
}

/// One node: its kernel, its cluster's facts, and what is known of both.
pub struct Reconciler<K = Kernel> {
    /// The kernel.
    pub kernel: K,
    /// The cluster.
    pub cluster: Cluster,
    /// The node's name.
    pub node: NodeName,
    /// The persisted state.
    pub memory: StateStore,
    /// The wall clock.
    pub clock: Clock,
    /// The report of this node.
    pub report: NodeReport,
    /// What is known of gateways, and what was made of it.
    pub gateway_state: GatewayState,
    /// Which gateways answer this node's probes.
    pub liveness: LivenessView,
    /// Which of the addresses that Egret assigns this node is to have.
    pub holding: HoldingView,
    /// The addresses that this node holds or stands by for, as of the last complete round.
    claims: Claims,
    /// The applied state as last read; none before the first round, and after one that failed.
    applied: Option<(NodeState, Compiled)>,
    /// The placement that it follows from, handovers included.
    placement: Option<Placement>,
    /// The pod of each address when everything was last applied; none before the first time.
    holders: Option<BTreeMap<IpAddr, PodName>>,
    /// What each kernel counter counts, as of the last complete round, and the totals.
    counter_index: CounterIndex,
    totals: Totals,
    /// This node's mark bits.
    marks: MarkMaskChooser,
    /// Connection tracking, and when it was last read.
    conntrack: ConntrackWatch,
    /// Used ports.
    pub ports: PortWatch,
    /// Neighbours that are being asked for.
    resolutions: ResolutionWatch,
    conntrack_read: Option<Instant>,
    /// nftables generations that this process made: their events are its own changes.
    own_generations: VecDeque<Generation>,
}

impl<K: NodeKernel> Reconciler<K> {
    /// Creates a reconciler from its parts.
    pub fn new(kernel: K, cluster: Cluster, node: NodeName, memory: StateStore, clock: Clock) -> Self {
        let report = NodeReport::new(node.as_str());
        let gateway_state = GatewayState { handover: memory.handover().clone(), ..GatewayState::default() };
        Self {
            kernel,
            cluster,
            node,
            memory,
            clock,
            report,
            gateway_state,
            liveness: LivenessView::default(),
            holding: HoldingView::default(),
            claims: Claims::default(),
            applied: None,
            placement: None,
            holders: None,
            counter_index: CounterIndex::default(),
            totals: Totals::default(),
            marks: MarkMaskChooser::default(),
            conntrack: ConntrackWatch::default(),
            ports: PortWatch::default(),
            resolutions: ResolutionWatch::default(),
            conntrack_read: None,
            own_generations: VecDeque::new(),
        }
    }

    /// The applied state as last read.
    pub fn applied(&self) -> Option<&Compiled> {
        self.applied.as_ref().map(|(_, compiled)| compiled)
    }

    /// The addresses that this node holds or stands by for.
    pub fn claims(&self) -> &Claims {
        &self.claims
    }

    /// What the kernel has counted until now.
    pub async fn counters(&mut self) -> Result<&Counters, KernelError> {
        let values = self.kernel.counters().await?;
        Ok(self.totals.add(&self.counter_index, &values))
    }

    /// The statistics of connection tracking, read now; those of before if they cannot be read.
    pub async fn conntrack(&mut self) -> Option<&ConntrackTotals> {
        match self.kernel.conntrack_statistics().await {
            Ok(seen) => self.conntrack.read(self.clock.now(), seen),
            Err(error) => tracing::debug!(error = chain(&error), "connection tracking tells no statistics"),
        }
        self.conntrack_read = Some(Instant::now());
        self.conntrack.totals()
    }

    /// What is known of the active revision at the start. If no file names one and the kernel has Egret's table, one is
    /// active that is not known: this is no first start, whatever became of the files. Without both, nothing keeps
    /// members' packets from leaving with wrong addresses, so it is one.
    pub async fn known(&mut self) -> Result<ActiveRevision, KernelError> {
        let mut known = self.memory.kept().active.clone();
        known.lost =
            self.memory.knows_nothing() && self.kernel.observe().await?.state.nft.contains_key(&TableFamily::Inet);
        Ok(known)
    }

    /// Whether an event was caused by this process.
    pub fn is_own(&self, event: &KernelEvent) -> bool {
        event.generation.is_some_and(|generation| self.own_generations.contains(&generation))
    }

    /// Reads the kernel and the facts, including labels.
    pub async fn observe(&mut self, desired: &Labels) -> Result<Observed, RoundError> {
        let mut observed = self.kernel.observe().await?;
        observed.state.labels = self.observed_labels(desired);
        Ok(observed)
    }

    fn observed_labels(&self, desired: &Labels) -> Labels {
        match self.cluster.facts().nodes.get(&self.node) {
            Some(node) if self.cluster.labels_nodes() => own_labels(&node.labels, desired, &self.memory.kept().labels),
            _ => Labels::new(),
        }
    }

    /// Brings the node to the desired state. `events` are those since the last round, and `seen` is when the first of
    /// them came.
    pub async fn round(
        &mut self,
        intent: &DesiredRevision,
        events: &[KernelEvent],
        seen: Timestamp,
    ) -> Result<RoundResult, RoundError> {
        let began = Instant::now();
        let set = self.begin(&intent.set, events).await?;
        let resolved = (!Arc::ptr_eq(&set, &intent.set)).then(|| DesiredRevision { set, ..intent.clone() });
        let intent = resolved.as_ref().unwrap_or(intent);
        let range = intent.set.config.range;
        self.adopt_range(range);
        let mut done = RoundResult::default();
        let mut left = Plan::default();
        let mut attempts = 0;
        while attempts < ATTEMPTS {
            attempts += 1;
            let now = self.clock.now();
            let (evaluation, observed) = self.observe_and_compile(&intent.set, None, &done.refused, now).await?;
            self.claims = evaluation.claims;
            self.placement = Some(evaluation.placement);
            let compiled = evaluation.compiled;
            for class in self.note_drift(&compiled, &observed, intent, events, seen) {
                done.drifted += 1;
                *done.classes.entry(class).or_default() += 1;
            }
            let context = self.context(&compiled, &observed).await;
            left = plan_with(&compiled.desired, &observed.state, range, &context);
            if left.is_empty() {
                done.took = began.elapsed();
                if self.conntrack_read.is_none_or(|read| read.elapsed() >= CONNTRACK_INTERVAL) {
                    self.conntrack().await;
                }
                if self.counter_index.turns_into(&CounterIndex::of(&compiled)) {
                    // What was counted until now was not dropped. If it cannot be read, the next scrape says so.
                    drop(self.counters().await);
                }
                let next_hops = needed_next_hops(&compiled.exits, &intent.set);
                self.complete(intent, compiled, &observed, now, &mut done);
                self.ask_for(&next_hops).await;
                done.look_again = observed.host_network.look_again(&next_hops);
                return Ok(done);
            }
            if done.steps.is_empty() {
                done.policies = compiled.policies_that_differ(self.applied.as_ref().map(|(_, before)| before));
            }
            if self.label_first(&left, &mut done.steps) {
                // The facts have changed with the labels: the rest is planned anew, as `plan` foresees it.
                self.applied = None;
                continue;
            }
            if self.apply_and_note(&left, &observed, compiled, range, &mut done).await? {
                // One part less remains, so this terminates.
                attempts -= 1;
            }
        }
        Err(RoundError::NotConverged(left.to_string().lines().take(3).collect::<Vec<_>>().join("; ")))
    }

    /// Makes the kernel ask for next hops, so that one that is silent is known before a member sends a packet.
    async fn ask_for(&mut self, next_hops: &BTreeSet<LinkNeighbour>) {
        self.resolutions.asked(next_hops);
        for hop in next_hops {
            if let Err(error) = self.kernel.ask_for(hop).await {
                tracing::debug!(interface = hop.0, address = %hop.1, error = chain(&error), "a next hop is not asked for");
            }
        }
    }

    /// Applies a plan, and notes what is applied now. Returns whether the kernel rejected parts that it had not rejected
    /// before in this round.
    async fn apply_and_note(
        &mut self,
        left: &Plan,
        observed: &Observed,
        compiled: Compiled,
        range: DatapathConfig,
        done: &mut RoundResult,
    ) -> Result<bool, RoundError> {
        let result = self.apply(left, observed.generation, &compiled, range, &mut done.steps).await;
        self.applied = None;
        match result {
            // If the next read still differs, another process made the change meanwhile.
            Ok(refused) if refused.is_empty() => {
                self.holders = Some(compiled.holders.clone());
                self.applied = Some((compiled.desired.clone(), compiled));
                Ok(false)
            }
            Ok(refused) => {
                refused.exits.keys().for_each(|exit| self.gateway_state.handover.forget(exit));
                Ok(done.refused.extend(refused))
            }
            Err(RoundError::Kernel(error)) if error.is_stale() => Ok(false),
            Err(error) => {
                self.report.mark_uncorrected(&chain(&error));
                Err(error)
            }
        }
    }

    /// What a round would do now. It changes neither the kernel nor the disk. Every node is assumed to have the
    /// labels that Git asks for: a plan that ended at a label would not show what follows from it.
    pub async fn plan(&mut self, set: &Arc<PolicySet>) -> Result<NodePlan, RoundError> {
        let set = self.begin(set, &[]).await?;
        let range = set.config.range;
        self.set_ranges(range);
        let facts = set.labelled(self.cluster.facts());
        let now = self.clock.now();
        let (mut evaluation, mut observed) =
            self.observe_and_compile(&set, Some(&facts), RefusedParts::NOTHING, now).await?;
        self.assert(&mut evaluation.compiled, &set, &facts, &observed.host_network, now);
        // That no Egret runs just now is no difference: the next process takes the tables over.
        for table in observed.state.nft.values_mut().filter(|table| table.abandoned) {
            (table.owned, table.abandoned) = (true, false);
        }
        let context = self.context(&evaluation.compiled, &observed).await;
        let plan = plan_with(&evaluation.compiled.desired, &observed.state, range, &context);
        Ok(NodePlan { plan, observed: observed.state, evaluation, host_network: observed.host_network, range })
    }

    /// The policy set with this node's mark bits.
    async fn begin(&mut self, set: &Arc<PolicySet>, events: &[KernelEvent]) -> Result<Arc<PolicySet>, RoundError> {
        if !self.cluster.facts().nodes.contains_key(&self.node) {
            return Err(RoundError::UnknownNode(self.node.clone()));
        }
        Ok(self.marks.resolve(&self.kernel, set, self.memory.kept().range(), events).await)
    }

    /// Everything is applied: persists and remembers the result.
    fn complete(
        &mut self,
        intent: &DesiredRevision,
        mut compiled: Compiled,
        observed: &Observed,
        now: Timestamp,
        done: &mut RoundResult,
    ) {
        self.assert(&mut compiled, &intent.set, self.cluster.facts(), &observed.host_network, now);
        done.features = observed.host_network.features;
        if let Some(node) = self.cluster.facts().nodes.get(&self.node) {
            done.interfaces = reported(&observed.host_network, &intent.set, &node.labels);
            done.unfit = unfit(&self.node, &node.labels, &intent.set, &observed.host_network);
        }
        // One that was left is done without.
        done.refused.exits.retain(|exit, _| compiled.exits.contains_key(exit));
        let silent = compiled.findings.iter().filter(|finding| finding.code == SILENT);
        done.silent = silent.map(|finding| (finding.subject.clone(), finding.message.clone())).collect();
        let left = self.gateway_state.handover.wake();
        done.wake = [next_wake(intent, now), left].into_iter().flatten().min();
        self.persist_result(intent, compiled);
    }

    /// Reads the kernel, and compiles the state that this node should have. `facts`: those of the cluster, or as they
    /// will be.
    async fn observe_and_compile(
        &mut self,
        set: &PolicySet,
        facts: Option<&Facts>,
        refused: &RefusedParts,
        now: Timestamp,
    ) -> Result<(Evaluation, Observed), RoundError> {
        let node = self.node.clone();
        let labels = self.cluster.facts().nodes.get(&node).map(|node| node.labels.clone()).unwrap_or_default();
        let mut observed = self.observe(&set.labels_of(&node, &labels)).await?;
        let HostNetwork { unresolved, resolved, .. } = &mut observed.host_network;
        self.resolutions.correct(unresolved, resolved, now);
        let facts = facts.unwrap_or_else(|| self.cluster.facts());
        let (host_network, state) = (&observed.host_network, &observed.state);
        let (liveness, holding) = (&self.liveness, &self.holding);
        let input = NodeInput { node: &node, set, facts, host_network, observed: state, refused, liveness, holding };
        let mut evaluation = evaluate(&input, Some(&mut self.gateway_state), now);
        evaluation.compiled.findings.extend(self.marks.findings(&node));
        evaluation.compiled.findings.sort();
        evaluation.compiled.findings.dedup();
        Ok((evaluation, observed))
    }

    /// Adds the assertions that do not hold. It may take some tenths of a second, so packets do not wait for it.
    fn assert(&self, compiled: &mut Compiled, set: &PolicySet, facts: &Facts, own: &HostNetwork, now: Timestamp) {
        compiled.findings.extend(assertions::findings(set, facts, (&self.node, own), now));
        compiled.findings.sort();
    }

    /// The inputs of a plan beside the two states.
    async fn context(&self, compiled: &Compiled, observed: &Observed) -> PlanContext {
        let holders = AddressHolders { before: self.holders.clone(), now: compiled.holders.clone() };
        let first = compiled.desired.nft.contains_key(&TableFamily::Inet)
            && !observed.state.nft.contains_key(&TableFamily::Inet);
        let untracked = first && !self.kernel.tracks_connections().await;
        PlanContext { holders, untracked }
    }

    /// Records what was changed by others since everything was last applied.
    fn note_drift(
        &mut self,
        compiled: &Compiled,
        observed: &Observed,
        intent: &DesiredRevision,
        events: &[KernelEvent],
        seen: Timestamp,
    ) -> Vec<DriftClass> {
        let Some((before, known)) = &self.applied else { return Vec::new() };
        let drifts: Vec<ObservedDrift> = drift::between(before, &observed.state)
            .into_iter()
            .map(|drift| ObservedDrift {
                by: who(&drift.place, events),
                wanted_by: wanted_by(&drift.place, known, compiled, intent),
                drift,
            })
            .collect();
        for drift in &drifts {
            tracing::warn!(
                object = drift.drift.object,
                class = ?drift.drift.class,
                by = drift.by.as_ref().map(|by| by.guess.as_str()),
                "drift"
            );
        }
        let classes = drifts.iter().map(|drift| drift.drift.class).collect();
        self.report.seen(drifts, seen);
        classes
    }
}

/// The earliest end of a suspension.
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
