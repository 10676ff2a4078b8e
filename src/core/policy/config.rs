//! The checked configuration of one cluster, from `egret.yaml`.
//!
//! Not here: the document's form (`document`), and command-line options, which take precedence (`cli`).

use std::time::Duration;

use ipnet::IpNet;

use super::{ExistingConnections, OnNoGateway};
use crate::core::admission::{ChangeWindows, Suspension};
use crate::core::facts::Facts;
use crate::core::labelling::OnLabelDrift;
use crate::core::labels::keys::LabelKeys;
use crate::core::signature::Signatures;
use crate::core::state::ownership::DatapathConfig;

/// The active configuration of one cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a choice of its own in egret.yaml")]
pub struct Config {
    /// Folders with this cluster's documents, without `/` at either end; `""` is the whole repository.
    pub paths: Vec<String>,
    /// The branch for drift reports, with `<cluster>` replaced.
    pub reports_branch: String,
    /// Whether reports are committed.
    pub reports: bool,
    /// How long each report stays a separate commit; older ones are squashed.
    pub reports_keep: Duration,
    /// Maximum age of a changed cluster's snapshot on the reports branch; none: no snapshot is committed.
    pub snapshot_every: Option<Duration>,
    /// When to run a full comparison even though nothing changed.
    pub schedule: Option<Schedule>,
    /// When commits may be activated.
    pub change_windows: ChangeWindows,
    /// Until when no commit is activated.
    pub suspend: Option<Suspension>,
    /// Keys by which a commit must be signed to be activated; none: signatures are not required.
    pub signatures: Option<Signatures>,
    /// Default for policies that do not set it.
    pub on_no_gateway: OnNoGateway,
    /// Default for policies that do not set it.
    pub existing_connections: ExistingConnections,
    /// What to do about a node label that another writer changed.
    pub on_label_drift: OnLabelDrift,
    /// Only nodes to which Git's NodeLabels give the labels of a gateway's nodeSelector can be gateways
    /// ([`super::grants`]).
    pub only_labelled_from_git: bool,
    /// The node labels that Egret may write.
    pub label_keys: LabelKeys,
    /// The percentage of policies that a commit may remove without confirming it.
    pub max_removals: u8,
    /// Whether a policy's selectors must name their members' namespaces.
    pub require_namespace: bool,
    /// Pod networks of the cluster, where they are not in Node objects.
    pub pod_cidrs: Vec<IpNet>,
    /// Service networks of the cluster.
    pub service_cidrs: Vec<IpNet>,
    /// Destinations that are never steered, regardless of policies.
    pub exclusions: Vec<IpNet>,
    /// Marks, tables, port, MTU. Where each node chooses its mark bits, the default ones until it has.
    pub range: DatapathConfig,
    /// Whether each node chooses mark bits that no other program uses (`markMask: auto`,
    /// [`choose`](crate::core::state::mask::choose)).
    pub mask_is_auto: bool,
    /// How gateways are probed; none: they are not, and no standby stands in for one that fails.
    pub failover: Option<ProbeTiming>,
}

/// A crontab line with its time zone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule {
    /// Five fields, POSIX crontab.
    pub cron: String,
    /// IANA name; the default is UTC.
    pub time_zone: String,
}

/// How often probes are sent, and when silence counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProbeTiming {
    /// Between two probes of a path that is in use.
    pub interval: Duration,
    /// How many probes in a row without an answer make a path silent.
    pub misses: u32,
}

impl Default for ProbeTiming {
    fn default() -> Self {
        Self { interval: Duration::from_millis(75), misses: 3 }
    }
}

/// At least this much time for each node of the cluster between two probes of a path: a gateway answers at most 10,000 a second,
/// if all nodes are sources.
const PER_NODE: Duration = Duration::from_micros(100);
impl ProbeTiming {
    /// The timing in a cluster of this many nodes.
    #[must_use]
    pub fn in_cluster(self, nodes: usize) -> Self {
        let least = PER_NODE * u32::try_from(nodes).unwrap_or(u32::MAX);
        Self { interval: self.interval.max(least), ..self }
    }
}

impl Config {
    /// Networks that pods have their addresses from, whichever node they are on: of nodes, of egret.yaml, of CNIs.
    pub fn pod_networks<'a>(&'a self, facts: &'a Facts) -> impl Iterator<Item = IpNet> + 'a {
        let of_nodes = facts.nodes.values().flat_map(|node| &node.pod_cidrs);
        of_nodes.chain(&self.pod_cidrs).chain(&facts.pod_networks).copied()
    }

    /// Whether both mean the same for a cluster with the same documents. Some settings only decide which documents there are
    /// and what they say.
    pub fn has_the_effect_of(&self, other: &Self) -> bool {
        let Self { paths, on_no_gateway, existing_connections, .. } = other;
        let (on_no_gateway, existing_connections) = (*on_no_gateway, *existing_connections);
        Self { paths: paths.clone(), on_no_gateway, existing_connections, ..self.clone() } == *other
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
            max_removals: 50,
            require_namespace: false,
            pod_cidrs: Vec::new(),
            service_cidrs: Vec::new(),
            exclusions: Vec::new(),
            range: DatapathConfig::default(),
            mask_is_auto: true,
            failover: Some(ProbeTiming::default()),
        }
    }
}
