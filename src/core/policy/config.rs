//! `egret.yaml`, checked: what holds for a whole cluster.
//!
//! Deliberately absent: its form as written (`document`), and flags of the command line, which win over it (`cli`).

use std::time::Duration;

use ipnet::IpNet;

use super::{ExistingConnections, OnNoGateway};
use crate::core::admission::{ChangeWindows, Suspension};
use crate::core::facts::Facts;
use crate::core::labelling::OnLabelDrift;
use crate::core::labels::keys::LabelKeys;
use crate::core::signature::Signatures;
use crate::core::state::ownership::DatapathConfig;

/// The configuration in force for one cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a choice of its own in egret.yaml")]
pub struct Config {
    /// Folders that hold this cluster's documents, without `/` at either end; `""` is the whole repository.
    pub paths: Vec<String>,
    /// The branch for drift reports; `<cluster>` was put in.
    pub reports_branch: String,
    /// Whether reports are committed at all.
    pub reports: bool,
    /// How long each report stays a commit of its own; older ones are folded into one.
    pub reports_keep: Duration,
    /// How old the snapshot on the reports branch may be while the cluster is another; none: no snapshot is kept there.
    pub snapshot_every: Option<Duration>,
    /// When to compare everything even though nothing changed.
    pub schedule: Option<Schedule>,
    /// When commits may come into force.
    pub change_windows: ChangeWindows,
    /// Until when no commit comes into force.
    pub suspend: Option<Suspension>,
    /// Whose signature a commit must have to come into force; none: nobody's.
    pub signatures: Option<Signatures>,
    /// For policies that say nothing of it.
    pub on_no_gateway: OnNoGateway,
    /// For policies that say nothing of it.
    pub existing_connections: ExistingConnections,
    /// What becomes of a node label of ours that somebody changed in the cluster.
    pub on_label_drift: OnLabelDrift,
    /// Only nodes that Git's NodeLabels give the labels of a gateway's nodeSelector may be one ([`super::grants`]).
    pub only_labelled_from_git: bool,
    /// Which labels of nodes Egret may write.
    pub label_keys: LabelKeys,
    /// A policy's selectors must say which namespaces its members are in.
    pub require_namespace: bool,
    /// Pod networks of the cluster, where nodes do not tell theirs.
    pub pod_cidrs: Vec<IpNet>,
    /// Service networks of the cluster.
    pub service_cidrs: Vec<IpNet>,
    /// Destinations that are never steered, whatever a policy says.
    pub exclusions: Vec<IpNet>,
    /// Marks, tables, port, MTU. Where each node takes its mark bits itself, the default ones until it has.
    pub range: DatapathConfig,
    /// Each node takes mark bits that nobody else on it uses (`markMask: auto`), as [`choose`](crate::core::state::mask::choose) says.
    pub mask_is_auto: bool,
}

/// A crontab line and the time zone it is meant in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule {
    /// Five fields, POSIX crontab.
    pub cron: String,
    /// IANA name; UTC unless it says otherwise.
    pub time_zone: String,
}

impl Config {
    /// Networks that pods have their addresses from, whichever node they are on: of nodes, of egret.yaml, of CNIs.
    pub fn pod_networks<'a>(&'a self, facts: &'a Facts) -> impl Iterator<Item = IpNet> + 'a {
        let of_nodes = facts.nodes.values().flat_map(|node| &node.pod_cidrs);
        of_nodes.chain(&self.pod_cidrs).chain(&facts.pod_networks).copied()
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            paths: vec![String::new()],
            reports_branch: "egret/reports/default".to_owned(),
            reports: true,
            reports_keep: Duration::from_hours(90 * 24),
            snapshot_every: Some(Duration::from_hours(1)),
            schedule: None,
            change_windows: ChangeWindows::default(),
            suspend: None,
            signatures: None,
            on_no_gateway: OnNoGateway::default(),
            existing_connections: ExistingConnections::default(),
            on_label_drift: OnLabelDrift::default(),
            only_labelled_from_git: false,
            label_keys: LabelKeys::default(),
            require_namespace: false,
            pod_cidrs: Vec::new(),
            service_cidrs: Vec::new(),
            exclusions: Vec::new(),
            range: DatapathConfig::default(),
            mask_is_auto: true,
        }
    }
}
