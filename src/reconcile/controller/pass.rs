//! A pass of the controller: compares what is published with the desired revision and writes the difference: first
//! policies, then the EgressConfig, then statuses.
//!
//! Before every write the pass checks that this process still leads, and the write bears its fencing token. A pass
//! that is interrupted leaves agents with their active set: they take over only a set that an EgressConfig describes.
//! Not here: when a pass is due (the parent module).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures::stream::{self, StreamExt as _};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::super::leadership::Leadership;
use super::labels::LabelReconciler;
use super::pass_error::PassError;
use super::sent::SentPolicies;
use super::silence::SilentAgents;
use crate::cluster::live::resources::{ConfigSpec, PolicyDigest};
use crate::cluster::live::{ApiClient, ApiError, PolicyObject, View, Written};
use crate::core::address_class::mapped_ipv4;
use crate::core::name::NodeName;
use crate::core::placement::{GatewayReports, Placement, place_with};
use crate::core::policy::limits::{max_pod_networks, refuses_set};
use crate::core::policy::published::{FENCE, Published, hash_of, read_policy, resource_name, spec};
use crate::core::policy::{Egress, Policy, PolicySet};
use crate::core::pools::Network;
use crate::core::report::history::{NodeReport, Rejected};
use crate::core::status::{
    AssertionState, Condition, ConditionStatus, ConditionType, HeadStatusInput, NodeStatus, PolicyStatus,
    PolicyStatusInput, Reason, behind, condition, head_status, policy_status, unfit,
};
use crate::reconcile::gitops::repository::DesiredRevision;
use crate::telemetry::chain;

/// How many writes are sent at once. An API server answers a write in some tens of milliseconds, and priority and
/// fairness grants a single client not many more at a time.
const PARALLEL: usize = 16;

/// The inputs of a pass.
#[derive(Clone, Copy)]
pub(super) struct Pass<'a> {
    /// The API server.
    pub(super) live: &'a ApiClient,
    /// The leadership of this process.
    pub(super) leading: &'a Leadership,
    /// The known state of the cluster.
    pub(super) view: &'a View,
    /// The desired revision of Git.
    pub(super) intent: &'a DesiredRevision,
    /// Whether pod networks are read from CNIs.
    pub(super) pools: bool,
    /// The cluster's name.
    pub(super) cluster: &'a str,
    /// The identity of this process.
    pub(super) identity: &'a str,
    /// Why Git cannot be read.
    pub(super) git_fault: Option<&'a str>,
    /// Whether reports are committed; none if reports are disabled.
    pub(super) reports_published: Option<Result<(), &'a str>>,
    /// Whether pull requests are previewed; none if previews are disabled.
    pub(super) previews: Option<Result<(), &'a str>>,
    /// The policies that this leader saw published after its last pass.
    pub(super) published_before: &'a BTreeSet<String>,
    /// What was written and the view does not show yet.
    pub(super) sent: &'a SentPolicies,
    /// Agents that are not heard any more.
    pub(super) silent: &'a SilentAgents,
    /// The time of this pass.
    pub(super) now: Timestamp,
    /// Whether something was published a moment ago: that agents have not applied it yet is not reported.
    pub(super) patient: bool,
}

/// A policy whose `Ready` condition changed its reason, and is True or False now. Unknown is an intermediate state
/// and causes no event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ReadyTransition {
    /// The name of its resource.
    pub(super) name: String,
    /// The UID of its resource.
    pub(super) uid: String,
    /// Whether it was working or pending before and does not work now. The first state of a new policy is never
    /// worse.
    pub(super) worse: bool,
    /// The condition's reason.
    pub(super) reason: Reason,
    /// The condition's message.
    pub(super) message: String,
}

fn transition(name: &str, uid: &str, before: &PolicyStatus, now: &PolicyStatus) -> Option<ReadyTransition> {
    let ready = |status: &PolicyStatus| condition(&status.conditions, ConditionType::Ready).cloned();
    let now = ready(now).filter(|now| now.status != ConditionStatus::Unknown)?;
    let before = ready(before);
    if before.as_ref().is_some_and(|before| before.reason == now.reason) {
        return None;
    }
    let Condition { status, reason, message, .. } = now;
    let worse = before.is_some() && status == ConditionStatus::False;
    Some(ReadyTransition { name: name.to_owned(), uid: uid.to_owned(), worse, reason, message })
}

/// What a publication found.
#[derive(Debug, Default)]
pub(super) struct PublicationResult {
    /// Policies that a client edited in the cluster, by resource name, with that client's name.
    pub(super) edited: BTreeMap<String, String>,
    /// Policies that another client deleted in the cluster, by resource name.
    pub(super) deleted: Vec<String>,
    /// Policies that the API server rejects although they are valid documents.
    pub(super) refused: Vec<Rejected>,
    /// Whether anything was written.
    pub(super) wrote: bool,
    /// Generations that the view does not have yet: of policies by resource name, and of the EgressConfig.
    generations: BTreeMap<String, i64>,
    config_generation: Option<i64>,
}

impl Pass<'_> {
    /// The fencing token, or an error if this process has lost leadership.
    fn fence(&self) -> Result<i64, PassError> {
        self.leading.fence().ok_or(PassError::NotLeading)
    }

    /// Writes this leader's fencing token into the head that the view has. From then on the API server refuses heads of
    /// former leaders. An error if one of them has written another meanwhile: whether this leader's revision may replace
    /// that one is to be decided anew.
    pub(super) async fn claim(&self) -> Result<(), PassError> {
        let fence = self.fence()?;
        let Some(config) = &self.view.config else { return Ok(()) };
        let Some(head) = config.spec.as_ref().ok().filter(|head| head.fence < fence) else { return Ok(()) };
        let claimed = ConfigSpec { fence, ..head.clone() };
        self.live.claim_config(&claimed, &config.resource_version).await?;
        Ok(())
    }

    /// Publishes policies and, after all of them, the EgressConfig. A policy that the API server rejects stops no
    /// other: its previous version stays active, and the rejection is reported.
    pub(super) async fn publish(&self) -> Result<PublicationResult, PassError> {
        // A deletion bears no token that the API server could refuse, as it does with everything that is written: the token of a Lease
        // that was deleted begins anew, and is raised only once this leader has seen the greater one.
        let greatest = self.view.config.as_ref().and_then(|config| config.spec.as_ref().ok()).map(|head| head.fence);
        if greatest > Some(self.fence()?) {
            return Err(PassError::NotLeading);
        }
        if let Some((why, _)) = refuses_set(&self.intent.set) {
            return Err(PassError::TooLarge(why));
        }
        self.sent.seen(|name| self.view.policies.get(name).map(|found| found.resource_version.as_str()));
        let wanted = Published::of(&self.intent.set);
        let mut published = wanted.clone();
        let mut publication = PublicationResult::default();
        let differ = wanted.policies.iter().filter(|(name, wanted)| {
            let found = self.view.policies.get(*name);
            let version = found.map(|found| found.resource_version.as_str());
            !found.is_some_and(|found| is_equivalent(name, &found.spec, wanted))
                && !self.sent.is_under_way(name, version, Some(wanted))
        });
        let writes = differ.map(|(name, wanted)| async move { (name, wanted, self.write_policy(name, wanted).await) });
        // In their order, so that of several errors the same one is reported each time.
        let mut writes = stream::iter(writes).buffered(PARALLEL);
        while let Some((name, wanted, result)) = writes.next().await {
            let found = self.view.policies.get(name);
            match result {
                Ok(written) => {
                    publication.wrote = true;
                    let version = found.map(|found| found.resource_version.as_str());
                    self.sent.note(name, version, Some(wanted));
                    publication.generations.insert(name.clone(), written.generation);
                    if let Some(other) = found.and_then(other_manager) {
                        publication.edited.insert(name.clone(), other.to_owned());
                    }
                    if found.is_none() && self.published_before.contains(name) {
                        publication.deleted.push(name.clone());
                    }
                }
                Err(PassError::Live(error)) if error.refuses_content() => {
                    let before = found.and_then(|found| read_policy(name, &found.spec).ok());
                    publication.refused.push(refused(wanted, &error, before.is_some()));
                    match before {
                        Some(before) => published.policies.insert(name.clone(), spec(&before)),
                        None => published.policies.remove(name),
                    };
                }
                Err(error) => return Err(error),
            }
        }
        publication.wrote |= self.delete_others(&published).await?;
        let head = self.head(&published)?;
        if !self.view.config.as_ref().is_some_and(|found| found.spec.as_ref() == Ok(&head)) {
            publication.config_generation = Some(self.live.apply_config(&head).await?.generation);
            publication.wrote = true;
        }
        Ok(publication)
    }

    async fn write_policy(&self, name: &str, wanted: &Value) -> Result<Written, PassError> {
        let mut fenced = wanted.clone();
        fenced[FENCE] = json!(self.fence()?);
        Ok(self.live.apply_policy(name, &fenced).await?)
    }

    /// Deletes the policies that are not to be published. Returns whether there were any.
    async fn delete_others(&self, published: &Published) -> Result<bool, PassError> {
        let others = self.view.policies.iter().filter(|(name, found)| {
            let version = Some(found.resource_version.as_str());
            !published.policies.contains_key(*name) && !self.sent.is_under_way(name, version, None)
        });
        let deletions = others.map(|(name, found)| async move {
            self.fence()?;
            let deleted = self.live.delete_policy(name, Some(&found.resource_version)).await?;
            self.sent.note(name, Some(&found.resource_version), None);
            tracing::debug!(
                name,
                deleted,
                commit = self.intent.commit.id.short(),
                "a published policy is not wanted any more"
            );
            Ok::<_, PassError>(deleted)
        });
        let mut deletions = stream::iter(deletions).buffered(PARALLEL);
        let mut any = false;
        while let Some(deleted) = deletions.next().await {
            any |= deleted?;
        }
        Ok(any)
    }

    /// The EgressConfig that describes what is published.
    fn head(&self, published: &Published) -> Result<ConfigSpec, PassError> {
        Ok(ConfigSpec {
            cluster: self.cluster.to_owned(),
            revision: self.intent.commit.id.to_string(),
            committed: self.intent.commit.committed(),
            summary: one_line(&self.intent.commit.summary),
            fence: self.fence()?,
            policies: PolicyDigest {
                count: u32::try_from(published.policies.len()).unwrap_or(u32::MAX),
                digest: published.digest(),
            },
            config: published.config.clone(),
            pod_networks: self.pod_networks(),
        })
    }

    /// The pod networks that CNIs report, as far as the API server accepts them.
    fn pod_networks(&self) -> Vec<Network> {
        let mut networks = if self.pools { self.view.networks_of_pools() } else { Vec::new() };
        networks.retain(|network| mapped_ipv4(network.addr()).is_none());
        let most = max_pod_networks();
        if networks.len() > most {
            let (all, hint) = (networks.len(), "name networks that contain them as podCIDRs in egret.yaml");
            tracing::warn!(all, hint, "CNIs report more pod networks than can be published; the first {most} are");
            networks.truncate(most);
        }
        networks
    }

    /// Writes the status of every policy and of the EgressConfig where it changed. Returns the policies whose `Ready`
    /// changed.
    pub(super) async fn write_statuses(
        &self,
        publication: &PublicationResult,
        rejected: &[Rejected],
        assertions: Option<AssertionState<'_>>,
        now: Timestamp,
    ) -> Result<Vec<ReadyTransition>, PassError> {
        let transitions = self.write_policy_statuses(publication, rejected, now).await?;
        self.write_config_status(publication.config_generation, rejected, (None, assertions), now).await?;
        Ok(transitions)
    }

    async fn write_policy_statuses(
        &self,
        publication: &PublicationResult,
        rejected: &[Rejected],
        now: Timestamp,
    ) -> Result<Vec<ReadyTransition>, PassError> {
        let set = &self.intent.set;
        let revision = self.intent.commit.id.to_string();
        let nodes = self.nodes();
        let placement = self.placement(now);
        let behind = behind(&self.view.facts.nodes, &nodes, &revision);
        let mut changed = Vec::new();
        for policy in set.policies.values() {
            let name = resource_name(set, &policy.id);
            let Some(found) = self.view.policies.get(&name) else { continue };
            let before = found.status.clone().unwrap_or_default();
            let facts = PolicyStatusInput {
                policy,
                generation: Some(publication.generations.get(&name).copied().unwrap_or(found.generation)),
                placement: &placement,
                nodes: &nodes,
                behind: &behind,
                rejected,
                revision: &revision,
            };
            let status = policy_status(facts, &before, now);
            if status != before && !(self.patient && is_waiting(&status.conditions)) {
                changed.push((name, &found.uid, before, status));
            }
        }
        let writes = changed.iter().map(|(name, uid, before, status)| async move {
            self.fence()?;
            self.live.apply_policy_status(name, status).await?;
            Ok::<_, PassError>(transition(name, uid, before, status))
        });
        let mut writes = stream::iter(writes).buffered(PARALLEL);
        let mut transitions = Vec::new();
        while let Some(transition) = writes.next().await {
            transitions.extend(transition?);
        }
        Ok(transitions)
    }

    /// Writes why not everything is published into the status of the EgressConfig. The statuses of what is published go
    /// on.
    pub(super) async fn report_failure(
        &self,
        error: &PassError,
        assertions: Option<AssertionState<'_>>,
        now: Timestamp,
    ) {
        let (nothing, rejected) = (PublicationResult::default(), &self.intent.rejected);
        let written = self.write_config_status(None, rejected, (Some(&chain(error)), assertions), now).await;
        let written = match written {
            Ok(()) => self.write_policy_statuses(&nothing, rejected, now).await.map(drop),
            failed => failed,
        };
        if let Err(error) = written {
            tracing::debug!(error = chain(&error), "a status is not written, either");
        }
    }

    /// Writes the status of the EgressConfig, if there is one and it changed. `fault`: why not everything is
    /// published.
    pub(super) async fn write_config_status(
        &self,
        generation: Option<i64>,
        rejected: &[Rejected],
        (fault, assertions): (Option<&str>, Option<AssertionState<'_>>),
        now: Timestamp,
    ) -> Result<(), PassError> {
        let Some(config) = &self.view.config else { return Ok(()) };
        let before = config.status.clone().unwrap_or_default();
        let facts = HeadStatusInput {
            leader: self.identity,
            revision: &self.intent.commit.id.to_string(),
            generation: Some(generation.unwrap_or(config.generation)),
            cluster: &self.view.facts.nodes,
            nodes: &self.nodes(),
            rejected,
            pending: self.intent.active.pending.as_ref(),
            git_fault: self.git_fault,
            publish_fault: fault,
            reports: self.reports_published,
            previews: self.previews,
            assertions,
        };
        let status = head_status(facts, &before, now);
        if status != before && !(self.patient && is_waiting(&status.conditions)) {
            self.fence()?;
            self.live.apply_config_status(&status).await?;
        }
        Ok(())
    }

    /// Deletes the EgressNodes of nodes that are gone: not every API server has a garbage collector. The view of nodes may
    /// be older than that of EgressNodes, so each node is read first.
    pub(super) async fn sweep(&self) -> Result<(), PassError> {
        let gone = self.view.egress_nodes.iter().filter(|(name, _)| !self.view.facts.nodes.contains_key(*name));
        for (name, object) in gone {
            self.fence()?;
            if self.live.delete_node_if_gone(name, &object.uid).await? {
                tracing::info!(node = %name, "the EgressNode of a deleted node is deleted");
            }
        }
        Ok(())
    }

    /// The statuses of the agents of existing nodes.
    pub(super) fn nodes(&self) -> BTreeMap<NodeName, NodeStatus> {
        self.silent.statuses(self.view, self.now)
    }

    /// Agents' reports of their nodes, with what the controller saw of the nodes' labels.
    pub(super) fn reports(&self, labels: &LabelReconciler, rejected: &[Rejected]) -> Vec<NodeReport> {
        let mut reports = Vec::new();
        for (name, status) in self.nodes() {
            let Some(mut report) = status.report else { continue };
            report.rejected = rejected.to_vec();
            report.pending = self.intent.active.pending.clone().map(Box::new);
            report.emergency = self.intent.active.emergency.clone().map(Box::new);
            if let Some(own) = labels.report(&name) {
                report.drift.extend(own.drift.iter().cloned());
                report.corrected.extend(own.corrected.iter().cloned());
                report.corrected.sort_by_key(|record| std::cmp::Reverse(record.corrected));
            }
            reports.push(report);
        }
        reports
    }

    fn placement(&self, now: Timestamp) -> Placement {
        let nodes = &self.view.egress_nodes;
        let unfit = unfit(nodes.iter().map(|(name, node)| (name, &node.status)));
        let facts = &self.view.facts;
        place_with(&self.intent.set, facts, GatewayReports { held: &facts.held, unfit: &unfit }, now)
    }
}

/// The policies as they are to be published while the allocation of pools is not known: one that asks a pool stays as it is
/// published, as it may have addresses already.
pub(super) fn waiting_as_published(set: &Arc<PolicySet>, view: &View) -> Arc<PolicySet> {
    let waits = |policy: &&Policy| policy.gateways.iter().any(|spec| matches!(spec.egress, Egress::Pool(_)));
    // Most repositories have no pools, and a pass comes with every burst of statuses.
    if !set.policies.values().any(|policy| waits(&policy)) {
        return Arc::clone(set);
    }
    let mut waiting = PolicySet::clone(set);
    for policy in set.policies.values().filter(waits) {
        let name = resource_name(set, &policy.id);
        let before = view.policies.get(&name).and_then(|found| read_policy(&name, &found.spec).ok());
        if let Some(before) = before.filter(|before| before.id == policy.id) {
            waiting.policies.insert(before.id.clone(), before);
        }
    }
    waiting.into()
}

/// Whether `Ready` only waits for agents.
fn is_waiting(conditions: &[Condition]) -> bool {
    condition(conditions, ConditionType::Ready).is_some_and(|ready| ready.reason == Reason::Pending)
}

/// The client that last wrote the spec of a published policy, if it is not the controller.
fn other_manager(found: &PolicyObject) -> Option<&str> {
    let others = found.managers.iter().filter(|manager| manager.manager != "egret-controller");
    others.max_by_key(|manager| manager.time).map(|manager| manager.manager.as_str())
}

fn refused(wanted: &Value, error: &ApiError, has_before: bool) -> Rejected {
    let source = &wanted["source"];
    let instead = if has_before { "its previous version stays active" } else { "no earlier version is active" };
    Rejected {
        place: format!("{}:{}", source["file"].as_str().unwrap_or_default(), source["line"]),
        message: format!("the API server refuses it: {}", error.cause()),
        instead: instead.to_owned(),
    }
}

/// Whether a published policy means the same as the wanted one, ignoring the fencing token and what the server added.
fn is_equivalent(name: &str, found: &Value, wanted: &Value) -> bool {
    fn unfenced(spec: &Value) -> impl Iterator<Item = (&String, &Value)> {
        spec.as_object().into_iter().flatten().filter(|(name, _)| *name != FENCE)
    }
    // A pass compares every policy, nearly all are as they were written, and parsing one costs much more.
    if unfenced(found).eq(unfenced(wanted)) {
        return true;
    }
    let same_source = found["source"] == wanted["source"];
    same_source && read_policy(name, found).is_ok_and(|policy| hash_of(name, &spec(&policy)) == hash_of(name, wanted))
}

/// The schema limits the summary's length.
fn one_line(summary: &str) -> String {
    const LONGEST: usize = 200;
    summary.chars().filter(|character| !character.is_control()).take(LONGEST).collect()
}
