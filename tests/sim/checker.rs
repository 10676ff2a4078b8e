//! What must hold of packets at every step: a member's packet leaves with an address that its policies gave it, or not at all, and nobody
//! else's leaves with one.
//!
//! Since the world was last settled, several revisions and several teams of an address may be somebody's truth; what none of them allows is
//! a fault. In a settled world there is one truth. Packets are followed by the evaluator of `semantics`. Not here: statuses and budgets.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use egret::core::host_network::HostNetwork;
use egret::core::name::NodeName;
use egret::core::state::NodeState;
use egret::core::state::ownership::DatapathConfig;

use super::kernel::Machine;
use super::model::{NETWORKS, Revision, destination, egress_address, node_address, node_name};
use super::random::Random;
use crate::semantics::evaluate::{Cluster, Foreign, Host, Memory, Outcome, Sent};

/// A pod that runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RunningPod {
    pub(crate) team: u8,
    pub(crate) node: u8,
    pub(crate) address: IpAddr,
}

/// What is asked for, and what was since the world was last settled.
#[derive(Default)]
struct Truth {
    machines: Vec<Machine>,
    pods: BTreeMap<String, RunningPod>,
    /// The newest is the last.
    revisions: Vec<Revision>,
    /// The teams that an address had.
    teams: BTreeMap<IpAddr, BTreeSet<u8>>,
    /// Nodes on which nothing is known to be active yet: Egret was never there.
    bare: BTreeSet<u8>,
    faults: BTreeSet<String>,
}

/// Looks at packets after every step of every kernel. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Checker {
    truth: Arc<Mutex<Truth>>,
    random: Arc<Mutex<Random>>,
}

/// How many packets are followed after one step.
const SAMPLED: usize = 4;

impl Checker {
    pub(crate) fn new(random: Random, machines: Vec<Machine>) -> Self {
        let bare = (0..u8::try_from(machines.len()).expect("a few nodes")).collect();
        let truth = Truth { machines, bare, ..Truth::default() };
        Self { truth: Arc::new(Mutex::new(truth)), random: Arc::new(Mutex::new(random)) }
    }

    fn truth(&self) -> MutexGuard<'_, Truth> {
        self.truth.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn pushed(&self, revision: Revision) {
        self.truth().revisions.push(revision);
    }

    /// The policies that are the same in everything that may be somebody's truth, without an error.
    pub(crate) fn stable_policies(&self) -> BTreeSet<String> {
        let truth = self.truth();
        let Some(last) = truth.revisions.last() else { return BTreeSet::new() };
        let same = |name: &&String| {
            let all = truth.revisions.iter();
            { all }.all(|one| one.policies.get(*name) == last.policies.get(*name) && !one.broken.contains(*name))
        };
        last.policies.keys().filter(same).cloned().collect()
    }

    pub(crate) fn pod_runs(&self, name: &str, pod: RunningPod) {
        let mut truth = self.truth();
        truth.teams.entry(pod.address).or_default().insert(pod.team);
        truth.pods.insert(name.to_owned(), pod);
    }

    pub(crate) fn pod_ended(&self, name: &str) {
        self.truth().pods.remove(name);
    }

    pub(crate) fn pods(&self) -> BTreeMap<String, RunningPod> {
        self.truth().pods.clone()
    }

    pub(crate) fn faults(&self) -> BTreeSet<String> {
        self.truth().faults.clone()
    }

    /// From now on only the newest truth counts.
    pub(crate) fn settled(&self) {
        let mut truth = self.truth();
        let last = truth.revisions.pop();
        truth.revisions = last.into_iter().collect();
        truth.bare.clear();
        truth.teams.clear();
        let pods: Vec<RunningPod> = truth.pods.values().copied().collect();
        for pod in pods {
            truth.teams.entry(pod.address).or_default().insert(pod.team);
        }
    }

    /// Follows some packets, drawn anew each time.
    pub(crate) fn after_step(&self) {
        let truth = self.truth();
        let pods: Vec<(&String, &RunningPod)> = truth.pods.iter().collect();
        if pods.is_empty() {
            return;
        }
        let mut random = self.random.lock().unwrap_or_else(PoisonError::into_inner);
        let drawn: Vec<(String, RunningPod, u8)> = (0..SAMPLED)
            .map(|_| {
                let (name, pod) = random.pick(&pods);
                let network = u8::try_from(random.below(usize::from(NETWORKS) + 1)).expect("a network");
                ((*name).clone(), **pod, network)
            })
            .collect();
        drop(random);
        let mut truth = truth;
        let faults = follow(&truth, &drawn, None);
        truth.faults.extend(faults);
    }

    /// Follows a packet of every pod to every network.
    pub(crate) fn all(&self) {
        let mut truth = self.truth();
        let faults = follow(&truth, &truth.all(), None);
        truth.faults.extend(faults);
    }

    /// A packet that does not do what is asked for, with these nodes as possible gateways.
    pub(crate) fn unsettled(&self, ready: &BTreeSet<u8>) -> Option<String> {
        let truth = self.truth();
        follow(&truth, &truth.all(), Some(ready)).into_iter().next()
    }
}

/// Follows packets: pod, and network. What is wrong with them.
fn follow(truth: &Truth, packets: &[(String, RunningPod, u8)], settled: Option<&BTreeSet<u8>>) -> BTreeSet<String> {
    let states: Vec<(Arc<NodeState>, Arc<HostNetwork>)> =
        truth.machines.iter().map(|machine| (machine.egret(), machine.host())).collect();
    let hosts: BTreeMap<NodeName, Host<'_>> = (0_u8..)
        .zip(&states)
        .map(|(number, (state, host_network))| {
            let host = Host {
                state,
                later: state,
                host_network,
                addresses: vec![node_address(number)],
                foreign: Foreign::default(),
                masquerade: true,
            };
            (NodeName::parse(&node_name(number)).expect("a name"), host)
        })
        .collect();
    let cluster = Cluster { hosts, range: DatapathConfig::default() };
    let mut faults = BTreeSet::new();
    for (name, pod, network) in packets {
        let node = NodeName::parse(&node_name(pod.node)).expect("a name");
        let sent = Sent { node: &node, source: pod.address, destination: destination(*network), reply: false };
        let outcome = cluster.send(&sent, &Memory::new()).outcome;
        if let Some(fault) = truth.judge(pod, *network, &outcome, settled) {
            faults.insert(format!(
                "a packet of {name} (team {}, on n{}) to {}: {outcome:?}, and {fault}",
                pod.team,
                pod.node,
                destination(*network)
            ));
        }
    }
    faults
}

impl Truth {
    fn all(&self) -> Vec<(String, RunningPod, u8)> {
        let pods = self.pods.iter();
        pods.flat_map(|(name, pod)| (0..=NETWORKS).map(|network| (name.clone(), *pod, network))).collect()
    }

    fn judge(
        &self,
        pod: &RunningPod,
        network: u8,
        outcome: &Outcome,
        settled: Option<&BTreeSet<u8>>,
    ) -> Option<String> {
        if let Some(ready) = settled {
            let serving = self.revisions.last().and_then(|revision| {
                let policy = revision.decisive(pod.team, network)?;
                let nodes = revision.groups[&policy.group].intersection(ready);
                Some(nodes.map(|node| egress_address(*node)).collect::<BTreeSet<IpAddr>>())
            });
            let right = match (&serving, outcome) {
                (None, Outcome::Own) => true,
                (Some(addresses), Outcome::As { address, .. }) => addresses.contains(address),
                (Some(addresses), Outcome::Dropped(_)) => addresses.is_empty(),
                _ => false,
            };
            return (!right).then(|| format!("what is asked for is {serving:?}"));
        }
        let mut own = self.bare.contains(&pod.node) || self.revisions.is_empty();
        let mut addresses = BTreeSet::new();
        for team in &self.teams[&pod.address] {
            for revision in &self.revisions {
                own |= revision.addresses(*team, network).is_none();
                // A label is set before its commit's policies are published, and removed after: policies of the one commit
                // meet labels of the other.
                for labels in &self.revisions {
                    addresses.extend(revision.addresses_with(&labels.groups, *team, network).into_iter().flatten());
                }
            }
        }
        let allowed = match outcome {
            Outcome::Own => own,
            // By another interface than the exit's, because somebody removed its rules; but with the right address.
            Outcome::As { address, .. } | Outcome::Leaked { address, .. } => addresses.contains(address),
            Outcome::Dropped(_) => true,
        };
        (!allowed).then(|| format!("allowed are {addresses:?}{}", if own { " and its own" } else { "" }))
    }
}
