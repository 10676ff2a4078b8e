//! One seed's world: a cluster, its API server, Git, and Egret's processes, on simulated time.
//!
//! It goes through episodes: things happen and go wrong, then everything is well again, and within a bound the world has to be settled.
//! Not here: what happens (`happenings`), and what settled means (`settled`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use egret::clock::Clock;
use egret::core::host_network::{HostNetwork, HostRoute, Interface, KernelFeatures};
use jiff::{SignedDuration, Timestamp};
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::checker::{Checker, RunningPod};
use super::happenings::Lasting;
use super::history::GitServer;
use super::kernel::Machine;
use super::log::Log;
use super::model::{self, Revision, TEAMS, draw, egress_address, node_address, pod_address};
use super::network::Weather;
use super::process::{self, Process, Surroundings};
use super::random::Random;
use super::reports::Reports;
use crate::apiserver::ApiServer;

/// The custom resource definitions, as the chart installs them.
const DEFINITIONS: [&str; 3] = [
    include_str!("../../charts/egret/crds/egressconfigs.yaml"),
    include_str!("../../charts/egret/crds/egressnodes.yaml"),
    include_str!("../../charts/egret/crds/publishedegresspolicies.yaml"),
];

pub(crate) const CONTROLLERS: [&str; 2] = ["alpha", "beta"];

pub(crate) struct World {
    pub(crate) random: Random,
    pub(crate) api: ApiServer,
    pub(crate) git: GitServer,
    pub(crate) reports: Reports,
    pub(crate) checker: Checker,
    pub(crate) machines: Vec<Machine>,
    pub(crate) controllers: Vec<Process>,
    pub(crate) agents: Vec<Process>,
    pub(crate) revision: Revision,
    /// What was pushed, by position in the branch.
    pub(crate) pushed: Vec<Revision>,
    pub(crate) ready: BTreeSet<u8>,
    pub(crate) weather: Weather,
    pub(crate) log: Log,
    pub(crate) offset: Arc<AtomicI64>,
    /// Until when everything is found that only a comparison from time to time finds.
    pub(crate) compared: Instant,
    seen: Seen,
    surroundings: Surroundings,
    starts: u64,
    /// Last used host number of each node's pod network.
    hosts: BTreeMap<u8, u8>,
    pods: u32,
    _disks: tempfile::TempDir,
}

impl World {
    /// A cluster with pods and a repository, and no Egret yet.
    pub(crate) fn new(seed: u64, log: Log) -> Self {
        let nodes = 2 + draw(&mut Random::new(seed).fork("nodes"), 3);
        Self::of_nodes(seed, nodes, log)
    }

    /// The same with this number of nodes.
    pub(crate) fn of_nodes(seed: u64, nodes: u8, log: Log) -> Self {
        let mut random = Random::new(seed);
        let (began, offset) = (Instant::now(), Arc::new(AtomicI64::new(0)));
        let epoch: Timestamp = "2026-03-28T00:00:00Z".parse().expect("a time");
        let true_time = move || epoch + SignedDuration::try_from(began.elapsed()).expect("a short time");
        let jumped = Arc::clone(&offset);
        let clock = Clock::new(move || true_time() + SignedDuration::from_secs(jumped.load(Ordering::SeqCst)));
        let api = ApiServer::in_memory(true_time);
        let machines: Vec<Machine> = (0..nodes).map(|number| Machine::new(host_network(number))).collect();
        let checker = Checker::new(random.fork("packets"), machines.clone());
        let disks = tempfile::Builder::new().prefix("egret-sim").tempdir_in("/dev/shm").expect("a folder");
        let (git, reports) = (GitServer::default(), Reports::default());
        let follow = checker.clone();
        let surroundings = Surroundings {
            server: api.router(),
            git: git.clone(),
            reports: reports.clone(),
            disks: disks.path().to_owned(),
            clock,
            random: random.fork("processes"),
            after_step: Arc::new(move || follow.after_step()),
        };
        let revision = Revision::first(&mut random, nodes);
        let mut world = Self {
            random,
            api,
            git,
            reports,
            checker,
            machines,
            controllers: Vec::new(),
            agents: Vec::new(),
            revision,
            pushed: Vec::new(),
            ready: (0..nodes).collect(),
            weather: Weather::default(),
            log,
            offset,
            compared: Instant::now(),
            seen: Seen::default(),
            surroundings,
            starts: 0,
            hosts: BTreeMap::new(),
            pods: 0,
            _disks: disks,
        };
        world.populate();
        world
    }

    fn populate(&mut self) {
        for definition in DEFINITIONS {
            self.api.create(&serde_yaml::from_str(definition).expect("a definition"));
        }
        self.api.create(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "egret-system"}}));
        self.api.create(&model::namespace());
        for number in 0..self.nodes() {
            self.api.create(&model::node(number, true));
        }
        for _ in 0..6 {
            self.start_pod();
        }
        self.push();
    }

    pub(crate) fn nodes(&self) -> u8 {
        u8::try_from(self.machines.len()).expect("a few nodes")
    }

    /// What is published.
    pub(crate) fn published(&self) -> Revision {
        let config = self.api.stored("egressconfigs.egret.dev", "", "default").unwrap_or_default();
        let position = config["spec"]["revision"].as_str().and_then(|revision| self.git.position(revision));
        position.map(|position| self.pushed[position].clone()).unwrap_or_default()
    }

    /// Starts every process.
    pub(crate) fn start(&mut self) {
        self.controllers = CONTROLLERS.iter().map(|name| self.controller(name)).collect();
        self.agents = (0..self.nodes()).map(|node| self.agent(node)).collect();
    }

    fn next_start(&mut self) -> u64 {
        self.starts += 1;
        self.starts
    }

    pub(crate) fn controller(&mut self, name: &str) -> Process {
        let (start, weather) = (self.next_start(), self.weather.clone());
        process::controller(&self.surroundings, name, start, weather)
    }

    pub(crate) fn agent(&mut self, node: u8) -> Process {
        let (start, weather) = (self.next_start(), self.weather.clone());
        process::agent(&self.surroundings, node, start, &self.machines[usize::from(node)], weather)
    }

    pub(crate) fn processes(&self) -> impl Iterator<Item = &Process> {
        self.controllers.iter().chain(&self.agents)
    }

    /// Edits the files of the next commit.
    pub(crate) fn edit(&mut self, random: &mut Random) {
        let nodes = self.nodes();
        let mut stable = self.checker.stable_policies();
        // What an earlier edit of the same push changed has no last good version that would stay.
        let pushed = self.pushed.last().map(|pushed| &pushed.policies);
        stable.retain(|name| pushed.and_then(|pushed| pushed.get(name)) == self.revision.policies.get(name));
        self.revision.change(random, nodes, &stable);
    }

    /// Pushes the revision as it is now.
    pub(crate) fn push(&mut self) {
        self.checker.pushed(self.revision.clone());
        self.pushed.push(self.revision.clone());
        self.git.commit(self.revision.files(), self.surroundings.clock.now());
    }

    pub(crate) fn start_pod(&mut self) {
        let (node, team) =
            (draw(&mut self.random, u8::try_from(self.machines.len()).unwrap_or(1)), draw(&mut self.random, TEAMS));
        let host = self.hosts.entry(node).or_insert(1);
        // Addresses are not used again: that a new pod has the address of one that ended is known only once both were heard of.
        *host += 1;
        let address = pod_address(node, *host);
        self.pods += 1;
        let name = format!("pod{}", self.pods);
        self.checker.pod_runs(&name, RunningPod { team, node, address });
        self.api.create(&model::pod(&name, team, node, address));
    }

    pub(crate) fn end_pod(&mut self) {
        let pods: Vec<String> = self.checker.pods().into_keys().collect();
        if pods.len() > 3 {
            let name = self.random.pick(&pods).clone();
            self.checker.pod_ended(&name);
            self.api.delete("pods", "apps", &name);
        }
    }

    pub(crate) fn set_ready(&mut self, node: u8, ready: bool) {
        if ready {
            self.ready.insert(node);
        } else {
            self.ready.remove(&node);
        }
        let conditions = model::node(node, ready)["status"].clone();
        self.api.patch("nodes", "", &model::node_name(node), &json!({"status": conditions}));
    }

    /// Changes the weather of every line.
    pub(crate) fn set_weather(&mut self, change: impl Fn(&mut Weather)) {
        change(&mut self.weather);
        for process in self.processes() {
            process.line.set_weather(&change);
        }
    }

    /// Waits, and stops at the first fault.
    pub(crate) async fn wait(&self, time: Duration) -> Result<(), String> {
        sleep(time).await;
        self.check()
    }

    /// What must hold of the objects in the API server at any time.
    pub(crate) fn watch(&mut self, lasting: &Lasting) -> Result<(), String> {
        let config = self.api.stored("egressconfigs.egret.dev", "", "default").unwrap_or_default();
        let fence = config["spec"]["fence"].as_i64().unwrap_or_default();
        if fence < self.seen.fence || fence > 10_000 {
            return Err(format!("the fencing token went from {} to {fence}", self.seen.fence));
        }
        self.seen.fence = fence;
        let position = config["spec"]["revision"].as_str().and_then(|revision| self.git.position(revision));
        if position < self.seen.published {
            return Err(format!("published was commit {:?}, and is {position:?} now", self.seen.published));
        }
        self.seen.published = position;
        // The truth is known to somebody who could tell it: nothing is cut off, and the repository was polled twice since.
        let newest = self.pushed.last();
        let behind =
            !position.is_some_and(|position| newest.is_some_and(|newest| newest.asks_the_same(&self.pushed[position])));
        if !behind || lasting.harms() {
            self.seen.behind = None;
            return Ok(());
        }
        let since = *self.seen.behind.get_or_insert_with(Instant::now);
        let ready = config["status"]["conditions"]
            .as_array()
            .into_iter()
            .flatten()
            .any(|one| one["type"] == "Ready" && one["status"] == "True");
        if ready && since.elapsed() > Duration::from_secs(75) {
            return Err(format!(
                "commit {position:?} is published, and all is said to be well with {}",
                self.pushed.len() - 1
            ));
        }
        Ok(())
    }

    /// What must hold at any time.
    pub(crate) fn check(&self) -> Result<(), String> {
        if let Some(fault) = self.checker.faults().into_iter().next() {
            return Err(fault);
        }
        match self.processes().find(|process| process.has_ended()) {
            Some(process) => Err(format!("{} ended by itself", process.name)),
            None => Ok(()),
        }
    }
}

/// What was seen in the API server until now.
#[derive(Default)]
struct Seen {
    fence: i64,
    published: Option<usize>,
    /// Since when what is published is not what was pushed.
    behind: Option<Instant>,
}

/// `eth0` with the default route, and `net1` with the egress address.
pub(crate) fn host_network(number: u8) -> HostNetwork {
    let features = KernelFeatures { owned_tables: true, interface_kinds: true, resets: true, ipv6: false };
    let mut host = HostNetwork { features, ..HostNetwork::default() };
    for (name, address, length) in [("eth0", node_address(number), 16), ("net1", egress_address(number), 24)] {
        let addresses = vec![ipnet::IpNet::new(address, length).expect("a network")];
        let interface = Interface { up: true, addresses, mtu: 1500, ..Interface::default() };
        host.interfaces.insert(name.to_owned(), interface);
    }
    host.routes.push(HostRoute {
        destination: "0.0.0.0/0".parse().expect("a network"),
        interface: "eth0".to_owned(),
        gateway: Some("172.18.0.1".parse().expect("an address")),
        metric: 100,
        ..HostRoute::default()
    });
    host
}
