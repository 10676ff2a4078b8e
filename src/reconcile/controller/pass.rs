//! A pass: what is published compared with what Git asks for, and the difference written: policies, then the head, then statuses.
//!
//! Every write is asked whether this process still leads, and bears its fence. A pass that is cut short anywhere leaves agents with what
//! they had: they take no set of policies but one that a head describes. Deliberately absent: when a pass is due (the parent).

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::super::leading::Leading;
use super::super::repository::Intent;
use crate::cluster::live::resources::{ConfigSpec, PolicyDigest};
use crate::cluster::live::{Live, LiveError, View};
use crate::core::name::NodeName;
use crate::core::placement::{Placement, place};
use crate::core::policy::published::{Published, hash_of, read_policy, resource_name, spec};
use crate::core::status::{HeadFacts, NodeStatus, PolicyStatus, head_status, policy_status};

/// Why a pass did not come to its end.
#[derive(Debug, thiserror::Error)]
pub(super) enum PassError {
    /// The API server refused, or is away.
    #[error(transparent)]
    Live(#[from] LiveError),
    /// Another controller leads.
    #[error("another controller leads now")]
    NotLeading,
}

/// Everything a pass is made from.
#[derive(Clone, Copy)]
pub(super) struct Pass<'a> {
    /// The API server.
    pub(super) live: &'a Live,
    /// Whether we lead.
    pub(super) leading: &'a Leading,
    /// What is known of the cluster.
    pub(super) view: &'a View,
    /// What Git asks for.
    pub(super) intent: &'a Intent,
    /// The cluster's name.
    pub(super) cluster: &'a str,
    /// This process.
    pub(super) identity: &'a str,
    /// Why Git cannot be read.
    pub(super) git_fault: Option<&'a str>,
    /// Why reports are not committed.
    pub(super) report_fault: Option<&'a str>,
}

/// Policies that somebody edited in the cluster, by the name of their resource, with who did.
pub(super) type Edited = BTreeMap<String, String>;

impl Pass<'_> {
    /// The fence, or that we lead no more.
    fn fence(&self) -> Result<i64, PassError> {
        self.leading.fence().ok_or(PassError::NotLeading)
    }

    /// Publishes policies and, behind all of them, the head. Tells which policies were found edited.
    pub(super) async fn publish(&self) -> Result<Edited, PassError> {
        let published = Published::of(&self.intent.set);
        let mut edited = Edited::new();
        for (name, wanted) in &published.policies {
            let found = self.view.policies.get(name);
            if found.is_some_and(|found| says_the_same(name, &found.spec, wanted)) {
                continue;
            }
            if let Some(found) = found {
                let others = found.managers.iter().filter(|manager| manager.manager != "egret-controller");
                if let Some(other) = others.max_by_key(|manager| manager.time) {
                    edited.insert(name.clone(), other.manager.clone());
                }
            }
            let mut fenced = wanted.clone();
            fenced["fence"] = json!(self.fence()?);
            self.live.apply_policy(name, &fenced).await?;
        }
        for (name, found) in self.view.policies.iter().filter(|(name, _)| !published.policies.contains_key(*name)) {
            self.fence()?;
            self.live.delete_policy(name, Some(&found.resource_version)).await?;
        }
        let head = ConfigSpec {
            cluster: self.cluster.to_owned(),
            revision: self.intent.commit.id.to_string(),
            summary: one_line(&self.intent.commit.summary),
            fence: self.fence()?,
            policies: PolicyDigest {
                count: u32::try_from(published.policies.len()).unwrap_or(u32::MAX),
                digest: published.digest(),
            },
            config: published.config.clone(),
        };
        if !self.view.config.as_ref().is_some_and(|found| found.spec.as_ref() == Ok(&head)) {
            self.live.apply_config(&head).await?;
        }
        Ok(edited)
    }

    /// Says of every policy, and of the head, what became of it. Only what is different is written.
    pub(super) async fn tell(&self, now: Timestamp) -> Result<(), PassError> {
        let set = &self.intent.set;
        let revision = self.intent.commit.id.to_string();
        let nodes = self.nodes();
        let placement = self.placement(now);
        for policy in set.policies.values() {
            let name = resource_name(set, &policy.id);
            let Some(found) = self.view.policies.get(&name) else { continue };
            let before = found.status.clone().unwrap_or_default();
            let rejected = &self.intent.rejected;
            let status: PolicyStatus = policy_status(policy, &placement, &nodes, rejected, &revision, &before, now);
            if status != before {
                self.fence()?;
                self.live.apply_policy_status(&name, &status).await?;
            }
        }
        let Some(config) = &self.view.config else { return Ok(()) };
        let before = config.status.clone().unwrap_or_default();
        let facts = HeadFacts {
            leader: self.identity,
            revision: &revision,
            total: self.view.facts.nodes.len(),
            nodes: &nodes,
            rejected: &self.intent.rejected,
            git_fault: self.git_fault,
            report_fault: self.report_fault,
        };
        let status = head_status(facts, &before, now);
        if status != before {
            self.fence()?;
            self.live.apply_config_status(&status).await?;
        }
        Ok(())
    }

    /// Takes away what is said of nodes that are gone: not every API server has somebody to collect it.
    pub(super) async fn sweep(&self) -> Result<(), PassError> {
        for name in self.view.egress_nodes.keys().filter(|name| !self.view.facts.nodes.contains_key(*name)) {
            self.fence()?;
            self.live.delete_node(name).await?;
            tracing::info!(node = %name, "the node is gone, and what was said of it");
        }
        Ok(())
    }

    /// What the agents of nodes that are there say.
    pub(super) fn nodes(&self) -> BTreeMap<NodeName, NodeStatus> {
        let there = self.view.egress_nodes.iter().filter(|(name, _)| self.view.facts.nodes.contains_key(*name));
        there.map(|(name, node)| (name.clone(), node.status.clone())).collect()
    }

    fn placement(&self, now: Timestamp) -> Placement {
        place(&self.intent.set, &self.view.facts, now)
    }
}

/// Whether a published policy means the wanted one, whatever its fence and whatever the server added.
fn says_the_same(name: &str, found: &Value, wanted: &Value) -> bool {
    let same_source = found["source"] == wanted["source"];
    same_source && read_policy(name, found).is_ok_and(|policy| hash_of(name, &spec(&policy)) == hash_of(name, wanted))
}

/// A schema holds the summary's length.
fn one_line(summary: &str) -> String {
    const LONGEST: usize = 200;
    summary.chars().filter(|character| !character.is_control()).take(LONGEST).collect()
}
