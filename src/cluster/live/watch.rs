//! Watches a cluster: a task for each kind of object, one queue of events, one view of the current state.
//!
//! While the API server is unreachable the known state stays, with the error beside it. Events are not collected for
//! a while before they are reported; a caller can do that.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::ApiClient;
use super::heartbeats::{Heartbeats, LABEL as HEARTBEAT_LABEL};
use super::lease::leases_of;
use super::outage::Outage;
use super::pools::{CalicoPools, CiliumNodes, CiliumPools, Pools};
use super::reflector::{Message, Query, Reflector};
use super::resources::GATEWAY_LABEL;
use super::view::{Changed, ListOrEvent, View, WatchItem};
use super::wire::{Configs, EgressNodes, Namespaces, Nodes, Pods, Policies, Slim, Watched, Whole};
use crate::clock::Clock;
use crate::core::name::NodeName;
use crate::core::pools::PoolKind;
use crate::telemetry::chain;

/// Events that were not received yet. When the queue is full, the connections to the server fill up.
const QUEUE: usize = 256;
/// The most events that are handled at once, so that a flood of them does not block the caller.
const AT_ONCE: usize = 1024;

/// How often to check again for a CNI that is not installed.
const RARELY: Duration = Duration::from_mins(5);

/// The watching component, which determines the objects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WatchScope {
    /// A node's agent: nodes, namespaces, its own pods, what is published, and the EgressNodes of gateways.
    Agent {
        /// The node.
        node: NodeName,
    },
    /// The controller: nodes with the managers of their labels, and all custom resources with their statuses. No
    /// namespaces and no pods.
    Controller {
        /// Whether to watch CNI objects that define pod networks.
        pools: bool,
        /// The namespace of the agents' Leases; none: they are not watched.
        heartbeats: Option<String>,
    },
}

/// Options of a watch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WatchOptions {
    /// Objects per page of a list.
    pub page: u32,
    /// Makes pauses differ between nodes: for instance a hash of the node's name.
    pub seed: u64,
}

impl Default for WatchOptions {
    fn default() -> Self {
        Self { page: 500, seed: 0 }
    }
}

/// A kind that cannot be watched at the moment. Its known objects stay known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatchError {
    /// The operation and the cause, in one line.
    pub message: String,
    /// A hint for the user.
    pub hint: Option<String>,
    /// Since when.
    pub since: Timestamp,
    /// How many failures since then.
    pub count: u64,
}

/// Watches until it is dropped.
#[derive(Debug)]
pub struct ClusterWatch {
    news: mpsc::Receiver<Message>,
    view: View,
    faults: BTreeMap<&'static str, WatchError>,
    /// Those faults that the caller has not seen yet, and whether they ended meanwhile.
    unseen: BTreeMap<&'static str, bool>,
    /// Optional kinds that may not be read: the cause, and a hint.
    closed: BTreeMap<&'static str, (String, Option<String>)>,
    /// Kinds whose first list is outstanding.
    missing: BTreeSet<&'static str>,
    clock: Clock,
    // Dropping it ends the tasks.
    _tasks: JoinSet<()>,
}

/// The tasks while they are started.
struct Start<'a> {
    live: &'a ApiClient,
    options: WatchOptions,
    out: mpsc::Sender<Message>,
    outage: Outage,
    tasks: JoinSet<()>,
    missing: BTreeSet<&'static str>,
}

impl Start<'_> {
    fn done(self, news: mpsc::Receiver<Message>) -> ClusterWatch {
        ClusterWatch {
            news,
            view: View::default(),
            faults: BTreeMap::new(),
            unseen: BTreeMap::new(),
            closed: BTreeMap::new(),
            missing: self.missing,
            clock: self.live.clock().clone(),
            _tasks: self.tasks,
        }
    }

    fn follow<W: Watched>(&mut self, query: Query, wrap: fn(ListOrEvent<W::Key, W::Value>) -> WatchItem) {
        let seed = self.options.seed.wrapping_add(self.missing.len() as u64);
        self.missing.insert(W::NAME);
        let (out, outage) = (self.out.clone(), self.outage.clone());
        let follower = Reflector::<W>::new(self.live.clone(), query, wrap, out, outage, seed);
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

    /// Namespaces, and the pods of one node. They are few: with pages, the server would search all pods for each
    /// page.
    fn pods_of(&mut self, node: &NodeName) {
        self.follow::<Namespaces>(self.all(), WatchItem::Namespaces);
        let of_node = Query { fields: Some(format!("spec.nodeName={node}")), ..Query::default() };
        self.follow::<Pods>(of_node, WatchItem::Pods);
    }
}

impl ClusterWatch {
    /// Starts watching. Needs a tokio runtime; does not wait.
    pub fn open(live: &ApiClient, scope: &WatchScope, options: WatchOptions) -> Self {
        let (out, news) = mpsc::channel(QUEUE);
        let mut start =
            Start { live, options, out, outage: Outage::new(), tasks: JoinSet::new(), missing: BTreeSet::new() };
        match scope {
            WatchScope::Agent { node } => {
                start.follow::<Nodes<Slim>>(start.all(), WatchItem::Nodes);
                start.pods_of(node);
                start.follow::<Policies<Slim>>(start.all(), WatchItem::Policies);
                start.follow::<Configs<Slim>>(start.all(), WatchItem::Config);
                let gateways = Query { labels: Some(format!("{GATEWAY_LABEL}=true")), ..start.all() };
                start.follow::<EgressNodes>(gateways, WatchItem::EgressNodes);
            }
            WatchScope::Controller { pools, heartbeats } => {
                start.follow::<Nodes<Whole>>(start.all(), WatchItem::Nodes);
                start.follow::<Policies<Whole>>(start.all(), WatchItem::Policies);
                start.follow::<Configs<Whole>>(start.all(), WatchItem::Config);
                start.follow::<EgressNodes>(start.all(), WatchItem::EgressNodes);
                if let Some(namespace) = heartbeats {
                    let of_agents = Query {
                        path: Some(leases_of(namespace)),
                        labels: Some(format!("{HEARTBEAT_LABEL}=agent")),
                        optional: Some(RARELY),
                        ..start.all()
                    };
                    start.follow::<Heartbeats>(of_agents, WatchItem::Heartbeats);
                }
                if *pools {
                    for kind in PoolKind::ALL {
                        start.pools(*kind);
                    }
                }
            }
        }
        start.done(news)
    }

    /// Waits until something changes, applies all events that have arrived, in their order, and returns which kinds
    /// of objects changed. Cancel safe: no event is lost if the future is dropped.
    pub async fn changed(&mut self) -> Changed {
        let over: Vec<&str> = self.unseen.iter().filter(|(_, over)| **over).map(|(kind, _)| *kind).collect();
        self.unseen.clear();
        if !over.is_empty() {
            self.faults.retain(|kind, _| !over.contains(kind));
            return Changed { faults: true, ..Changed::default() };
        }
        loop {
            let Some(first) = self.news.recv().await else {
                // The tasks end only together with this value.
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

    /// Whether every kind was listed once: before that, a missing object may exist.
    pub fn synced(&self) -> bool {
        self.missing.is_empty()
    }

    /// The current state.
    pub fn view(&self) -> &View {
        &self.view
    }

    /// Kinds that cannot be watched at the moment, by plural.
    pub fn faults(&self) -> &BTreeMap<&'static str, WatchError> {
        &self.faults
    }

    /// Optional kinds that may not be read, by plural: the cause, and a hint.
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
                let (why, hint) = (chain(&error), error.hint());
                let faults = !self.closed.contains_key(kind);
                self.closed.insert(kind, (why, hint));
                Changed { synced: first && self.missing.is_empty(), faults, ..Changed::default() }
            }
            Message::Well(kind) => match self.unseen.get_mut(kind) {
                // It stays for one return of `changed`: a short one is reported, too.
                Some(over) => {
                    *over = true;
                    Changed::default()
                }
                None => Changed { faults: self.faults.remove(kind).is_some(), ..Changed::default() },
            },
            Message::Fault(kind, error) => {
                let before = self.faults.remove(kind);
                let fault = WatchError {
                    message: chain(&error),
                    hint: error.hint(),
                    since: before.as_ref().map_or_else(|| self.clock.now(), |fault| fault.since),
                    count: before.as_ref().map_or(0, |fault| fault.count) + 1,
                };
                let reported = before.is_some_and(|before| before.message == fault.message);
                self.faults.insert(kind, fault);
                if !reported || self.unseen.contains_key(kind) {
                    self.unseen.insert(kind, false);
                }
                Changed { faults: !reported, ..Changed::default() }
            }
        }
    }
}

#[cfg(test)]
mod in_time;
#[cfg(test)]
mod tests;
