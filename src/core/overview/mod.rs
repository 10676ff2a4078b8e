//! A cluster at a glance, for `egret status`: its policies and nodes, the worst first, with what is dropped, since when and why.
//!
//! Two sources give the same rows: what a node and the reports branch know (`standalone`), and the custom resources (`cluster`). Decisions
//! are those of `core::explain` and `core::status`. Not here: one pod and one destination (`explain`), and reading anything.

mod cluster;
mod standalone;
mod text;

use ipnet::IpNet;
use jiff::Timestamp;

pub use self::cluster::{ClusterState, PublishedPolicy};
pub use self::text::{headline, lines};
use super::name::NodeName;
use super::policy::PolicyId;
use super::report::history::Rejected;

/// How urgent a row is; the most urgent first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Urgency {
    /// Packets are dropped, or a kernel does not hold what it has to.
    Bad,
    /// It may not work, or a user asked for that.
    Doubtful,
    /// It works.
    Fine,
}

/// A cluster at a glance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overview {
    /// The cluster's name in egret.yaml.
    pub cluster: String,
    /// The active commit; empty: nothing is active.
    pub revision: String,
    /// Why the newest commit is not active, or Git cannot be read.
    pub waits: Option<String>,
    /// Documents whose newest version is not active.
    pub rejected: Vec<Rejected>,
    /// The policies, the worst first, then by name.
    pub policies: Vec<PolicyRow>,
    /// The nodes, the worst first, then by name.
    pub nodes: Vec<NodeRow>,
}

/// A policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyRow {
    /// How urgent it is.
    pub urgency: Urgency,
    /// The policy.
    pub policy: PolicyId,
    /// The pods that it selects.
    pub pods: u64,
    /// Its destinations.
    pub destinations: Vec<IpNet>,
    /// Its gateways.
    pub gateways: Vec<String>,
    /// Its egress addresses.
    pub addresses: Vec<String>,
    /// Its exits, each with its addresses.
    pub ways: Vec<Way>,
    /// `ok`, `DROPS`, `passes`, `suspended` or `unknown`.
    pub state: &'static str,
    /// Since when, as far as it is known.
    pub since: Option<Timestamp>,
    /// A stable word for programs.
    pub reason: String,
    /// The cause, where it does not work.
    pub cause: Option<String>,
}

/// A way that members of a policy take: an exit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Way {
    /// The exit: `kind-worker2 dev net1`.
    pub exit: String,
    /// Its gateway.
    pub gateway: String,
    /// The addresses that packets leave with, as far as they are known.
    pub addresses: Vec<String>,
}

/// A node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeRow {
    /// How urgent it is.
    pub urgency: Urgency,
    /// The node.
    pub node: NodeName,
    /// The commit that it has; none: it is not known.
    pub revision: Option<String>,
    /// The egress addresses that it serves.
    pub exits: Vec<String>,
    /// Objects that differ and could not be corrected.
    pub drift: u64,
    /// `ok`, `DIFFERS`, `unheard`, `not ready`, `behind`, `finding` or `unknown`.
    pub state: &'static str,
    /// Since when, as far as it is known.
    pub since: Option<Timestamp>,
    /// The cause, where something is wrong.
    pub cause: Option<String>,
    /// When it was last heard, as far as that is known.
    pub heard: Option<Timestamp>,
    /// Members' packets that it drops in a minute, if its agent reports it.
    pub dropped_per_minute: Option<u64>,
}

impl Overview {
    /// The worst of all rows.
    pub fn urgency(&self) -> Urgency {
        let policies = self.policies.iter().map(|row| row.urgency);
        let all = policies.chain(self.nodes.iter().map(|row| row.urgency));
        let all = all.chain(self.rejected.first().map(|_| Urgency::Doubtful));
        all.min().unwrap_or(Urgency::Fine)
    }

    /// The worst first.
    fn sorted(mut self) -> Self {
        self.policies.sort_by(|a, b| (a.urgency, &a.policy).cmp(&(b.urgency, &b.policy)));
        self.nodes.sort_by(|a, b| (a.urgency, &a.node).cmp(&(b.urgency, &b.node)));
        self
    }
}
