//! Watching a cluster: a task for each kind of object, one queue of news, one view of what is known.
//!
//! While the API server is away everything known stays known, and the fault stands beside it. Deliberately absent: waiting for more
//! news before telling of some; who wants that can.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::ApiClient;
use super::pools::{CalicoPools, CiliumNodes, CiliumPools, Pools};
use super::reflector::{Message, Query, Reflector};
use super::resources::GATEWAY_LABEL;
use super::view::{Changed, ListOrEvent, View, WatchItem};
use super::wire::{Configs, EgressNodes, Namespaces, Nodes, Pods, Policies, Slim, Watched, Whole};
use crate::core::name::NodeName;
use crate::core::pools::PoolKind;

/// News that nobody has taken yet. The servers' connections fill up behind it.
const QUEUE: usize = 256;
/// News that are taken in at once, so that a flood of them does not keep the caller from turning.
const AT_ONCE: usize = 1024;

/// How often a CNI is looked for that is not there.
const RARELY: Duration = Duration::from_mins(5);

/// Who watches, and so what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WatchScope {
    /// A node's agent: nodes, namespaces, its own pods, what is published, and the EgressNodes of gateways.
    Agent {
        /// The node.
        node: NodeName,
    },
    /// The controller: nodes and who owns their labels, and all custom resources with their statuses. No namespace and no pod.
    Controller {
        /// Also what CNIs tell of pods' networks.
        pools: bool,
    },
}

/// How to watch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WatchOptions {
    /// Objects a page of a list.
    pub page: u32,
    /// For pauses that differ between nodes: a hash of the node's name for instance.
    pub seed: u64,
}

impl Default for WatchOptions {
    fn default() -> Self {
        Self { page: 500, seed: 0 }
    }
}

/// Something that cannot be watched at the moment. What was known of it stays known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatchError {
    /// What fails and why, in one line.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
    /// Since when.
    pub since: Timestamp,
    /// How often it failed since then.
    pub count: u64,
}

/// Watches for as long as it lives.
#[derive(Debug)]
pub struct ClusterWatch {
    news: mpsc::Receiver<Message>,
    view: View,
    faults: BTreeMap<&'static str, WatchError>,
    /// Kinds that may not be read, and need not be: why, and what to do about it.
    closed: BTreeMap<&'static str, (String, Option<String>)>,
    /// Kinds whose first list is not in yet.
    missing: BTreeSet<&'static str>,
    // They end with it.
    _tasks: JoinSet<()>,
}

/// The tasks while they are being started.
struct Start<'a> {
    live: &'a ApiClient,
    options: WatchOptions,
    out: mpsc::Sender<Message>,
    recoveries: watch::Sender<u64>,
    tasks: JoinSet<()>,
    missing: BTreeSet<&'static str>,
}

impl Start<'_> {
    fn follow<W: Watched>(&mut self, query: Query, wrap: fn(ListOrEvent<W::Key, W::Value>) -> WatchItem) {
        let seed = self.options.seed.wrapping_add(self.missing.len() as u64);
        self.missing.insert(W::NAME);
        let (out, recoveries) = (self.out.clone(), self.recoveries.clone());
        let follower = Reflector::<W>::new(self.live.clone(), query, wrap, out, recoveries, seed);
        self.tasks.spawn(follower.run());
    }

    fn pools(&mut self, kind: PoolKind) {
        match kind {
            PoolKind::Calico => self.pools_as::<CalicoPools>(),
            PoolKind::Cilium => self.pools_as::<CiliumPools>(),
            PoolKind::CiliumNode => self.pools_as::<CiliumNodes>(),
        }
    }

    fn pools_as<W: Pools>(&mut self) {
        let query = Query { optional: Some(RARELY), ..self.all() };
        self.follow::<W>(query, |news| WatchItem::Pools(W::KIND, news));
    }

    fn all(&self) -> Query {
        Query { page: Some(self.options.page), ..Query::default() }
    }

    /// Namespaces, and the pods of one node. They are few: a page would have the server look through all pods for each.
    fn pods_of(&mut self, node: &NodeName) {
        self.follow::<Namespaces>(self.all(), WatchItem::Namespaces);
        let of_node = Query { fields: Some(format!("spec.nodeName={node}")), ..Query::default() };
        self.follow::<Pods>(of_node, WatchItem::Pods);
    }
}

impl ClusterWatch {
    /// Begins to watch. Needs a tokio runtime; nothing is waited for.
    pub fn open(live: &ApiClient, scope: &WatchScope, options: WatchOptions) -> Self {
        let (out, news) = mpsc::channel(QUEUE);
        let mut start = Start {
            live,
            options,
            out,
            recoveries: watch::Sender::new(0),
            tasks: JoinSet::new(),
            missing: BTreeSet::new(),
        };
        match scope {
            WatchScope::Agent { node } => {
                start.follow::<Nodes<Slim>>(start.all(), WatchItem::Nodes);
                start.pods_of(node);
                start.follow::<Policies<Slim>>(start.all(), WatchItem::Policies);
                start.follow::<Configs<Slim>>(start.all(), WatchItem::Config);
                let gateways = Query { labels: Some(format!("{GATEWAY_LABEL}=true")), ..start.all() };
                start.follow::<EgressNodes>(gateways, WatchItem::EgressNodes);
            }
            WatchScope::Controller { pools } => {
                start.follow::<Nodes<Whole>>(start.all(), WatchItem::Nodes);
                start.follow::<Policies<Whole>>(start.all(), WatchItem::Policies);
                start.follow::<Configs<Whole>>(start.all(), WatchItem::Config);
                start.follow::<EgressNodes>(start.all(), WatchItem::EgressNodes);
                if *pools {
                    for kind in PoolKind::ALL {
                        start.pools(*kind);
                    }
                }
            }
        }
        let (tasks, missing) = (start.tasks, start.missing);
        Self { news, view: View::default(), faults: BTreeMap::new(), closed: BTreeMap::new(), missing, _tasks: tasks }
    }

    /// Waits until something is different, takes in all news that are there by then, in their order, and tells what kinds of things
    /// they change. May be dropped while it waits: nothing is lost.
    pub async fn changed(&mut self) -> Changed {
        loop {
            let Some(first) = self.news.recv().await else {
                // The tasks end only with this value.
                return std::future::pending().await;
            };
            let mut changed = self.take(first);
            for _ in 1..AT_ONCE {
                let Ok(next) = self.news.try_recv() else { break };
                changed = changed.and(self.take(next));
            }
            if changed.any() {
                return changed;
            }
        }
    }

    /// Whether every list came in once: before that, what is missing may only be not known yet.
    pub fn synced(&self) -> bool {
        self.missing.is_empty()
    }

    /// What is known.
    pub fn view(&self) -> &View {
        &self.view
    }

    /// What cannot be watched at the moment, by its plural.
    pub fn faults(&self) -> &BTreeMap<&'static str, WatchError> {
        &self.faults
    }

    /// Kinds that may not be read, and need not be, by their plural: why, and what to do about it.
    pub fn closed(&self) -> &BTreeMap<&'static str, (String, Option<String>)> {
        &self.closed
    }

    fn take(&mut self, message: Message) -> Changed {
        match message {
            Message::News(kind, item) => {
                self.closed.remove(kind);
                let first = self.missing.remove(kind);
                let synced = first && self.missing.is_empty();
                Changed { synced, ..self.view.apply(*item) }
            }
            Message::Closed(kind, error) => {
                let first = self.missing.remove(kind);
                let faults = self.closed.insert(kind, (crate::telemetry::chain(&error), error.hint())).is_none();
                Changed { synced: first && self.missing.is_empty(), faults, ..Changed::default() }
            }
            Message::Well(kind) => Changed { faults: self.faults.remove(kind).is_some(), ..Changed::default() },
            Message::Fault(kind, error) => {
                let before = self.faults.remove(kind);
                let fault = WatchError {
                    message: crate::telemetry::chain(&error),
                    hint: error.hint(),
                    since: before.as_ref().map_or_else(Timestamp::now, |fault| fault.since),
                    count: before.as_ref().map_or(0, |fault| fault.count) + 1,
                };
                let told = before.is_some_and(|before| before.message == fault.message);
                self.faults.insert(kind, fault);
                Changed { faults: !told, ..Changed::default() }
            }
        }
    }
}

#[cfg(test)]
mod tests;
