//! Standalone nodes in a simulated world: each reads Git itself, and all share one folder of manifests, which people edit and into which each
//! node writes its own label.
//!
//! Not here: clusters with an API server (`world`).

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use egret::clock::Clock;
use egret::cluster::Cluster;
use egret::core::name::NodeName;
use egret::reconcile::gitops::publisher::{Publisher, PublisherOptions};
use egret::reconcile::gitops::repository::{KnownFacts, Repository, RepositoryOptions};
use egret::reconcile::gitops::webhook::Webhook;
use egret::reconcile::node::metrics_recorder::MetricsRecorder;
use egret::reconcile::node::round::Reconciler;
use egret::reconcile::node::round_driver::RoundDriver;
use egret::reconcile::node::{self, StandaloneTriggers};
use egret::reconcile::persistence::state_store::StateStore;
use egret::reconcile::process::Stop;
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, spawn_local};
use tokio::time::{Instant, sleep};

use super::checker::{Checker, RunningPod};
use super::history::GitServer;
use super::kernel::Machine;
use super::log::Log;
use super::model::{self, Revision, TEAMS, draw, node_name, pod_address};
use super::network::{Line, Weather};
use super::process::tracked;
use super::random::Random;
use super::reports::Reports;
use super::world::host_network;
use super::{in_world, seeds};

/// Until when everything has to be as it should be: the repository is polled every two seconds, failures back off to a minute, and a
/// branch that goes back is believed after two.
const BOUND: Duration = Duration::from_mins(4);

/// How long nothing may be missing until it is said: a node that has not heard of the newest commit does the right thing by chance, as long as
/// no pod shows the difference, and asks again within a minute.
const QUIET: Duration = Duration::from_mins(1).saturating_add(Duration::from_secs(15));

struct Process {
    line: Arc<Line>,
    task: JoinHandle<()>,
    manifests: mpsc::Sender<()>,
}

struct Standalone {
    random: Random,
    git: GitServer,
    reports: Reports,
    checker: Checker,
    machines: Vec<Machine>,
    processes: Vec<Process>,
    revision: Revision,
    ready: BTreeSet<u8>,
    log: Log,
    clock: Clock,
    offset: Arc<AtomicI64>,
    folder: tempfile::TempDir,
    starts: u64,
    pods: u8,
}

impl Standalone {
    fn new(seed: u64, log: Log) -> Self {
        let mut random = Random::new(seed).fork("standalone");
        let nodes = 2 + draw(&mut random, 2);
        let (began, offset) = (Instant::now(), Arc::new(AtomicI64::new(0)));
        let epoch: Timestamp = "2026-10-24T22:00:00Z".parse().expect("a time");
        let jumped = Arc::clone(&offset);
        let clock = Clock::new(move || {
            let elapsed = SignedDuration::try_from(began.elapsed()).expect("a short time");
            epoch + elapsed + SignedDuration::from_secs(jumped.load(Ordering::SeqCst))
        });
        let machines: Vec<Machine> = (0..nodes).map(|number| Machine::new(host_network(number))).collect();
        let revision = Revision::first(&mut random, nodes);
        let mut world = Self {
            git: GitServer::default(),
            reports: Reports::default(),
            checker: Checker::new(random.fork("packets"), machines.clone()),
            machines,
            processes: Vec::new(),
            revision,
            ready: (0..nodes).collect(),
            log,
            clock,
            offset,
            folder: tempfile::Builder::new().prefix("egret-sim").tempdir_in("/dev/shm").expect("a folder"),
            starts: 0,
            pods: 1,
            random,
        };
        world.write("namespaces/apps.yaml", &model::namespace());
        for number in 0..nodes {
            world.write(&format!("nodes/{}.yaml", node_name(number)), &model::node(number, true));
        }
        for _ in 0..5 {
            world.start_pod();
        }
        world.push();
        world.processes = (0..nodes).map(|node| world.start(node)).collect();
        world
    }

    fn manifests(&self) -> PathBuf {
        self.folder.path().join("manifests")
    }

    fn write(&self, file: &str, object: &Value) {
        let path = self.manifests().join(file);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        // As an editor does: readers see the old file or the new one.
        let new = path.with_extension("new");
        std::fs::write(&new, serde_yaml::to_string(object).expect("YAML")).expect("a file");
        std::fs::rename(new, path).expect("a file");
        self.notify();
    }

    /// What inotify would do.
    fn notify(&self) {
        for process in &self.processes {
            // One that was not heard yet is as good as two.
            let _ = process.manifests.try_send(());
        }
    }

    fn push(&mut self) {
        self.checker.pushed(self.revision.clone());
        self.git.commit(self.revision.files(), self.clock.now());
    }

    fn start_pod(&mut self) {
        let (node, team) =
            (draw(&mut self.random, u8::try_from(self.machines.len()).unwrap_or(1)), draw(&mut self.random, TEAMS));
        self.pods += 1;
        let (name, address) = (format!("pod{}", self.pods), pod_address(node, self.pods));
        self.checker.pod_runs(&name, RunningPod { team, node, address });
        self.write(&format!("pods/{name}.yaml"), &model::pod(&name, team, node, address));
    }

    fn end_pod(&mut self) {
        let pods: Vec<String> = self.checker.pods().into_keys().collect();
        if pods.len() > 3 {
            let name = self.random.pick(&pods).clone();
            self.checker.pod_ended(&name);
            std::fs::remove_file(self.manifests().join(format!("pods/{name}.yaml"))).expect("its file");
            self.notify();
        }
    }

    fn turn_readiness(&mut self, node: u8) {
        let path = self.manifests().join(format!("nodes/{}.yaml", node_name(node)));
        let text = std::fs::read_to_string(&path).expect("a manifest");
        let mut manifest: Value = serde_yaml::from_str(&text).expect("YAML");
        let ready = !self.ready.contains(&node);
        manifest["status"] = model::node(node, ready)["status"].clone();
        if ready {
            self.ready.insert(node)
        } else {
            self.ready.remove(&node)
        };
        self.write(&format!("nodes/{}.yaml", node_name(node)), &manifest);
    }

    fn start(&mut self, number: u8) -> Process {
        self.starts += 1;
        let name = node_name(number);
        let random = self.random.fork(&format!("{name} {}", self.starts));
        let (seed, line) = (random.clone().next(), Line::new(random.clone(), Weather::default()));
        let disk = self.folder.path().join(&name);
        let machine = self.machines[usize::from(number)].clone();
        let checker = self.checker.clone();
        let kernel = machine.opened(Arc::clone(&line), random.fork("kernel"), Arc::new(move || checker.after_step()));
        let (manifests, changed) = mpsc::channel(1);
        let (git, reports, clock, folder) =
            (self.git.clone(), self.reports.clone(), self.clock.clone(), self.manifests());
        let life = Arc::clone(&line);
        let task = spawn_local(async move {
            let memory = StateStore::open(&disk);
            let following = tracked(Duration::from_secs(2));
            let (sender, news) = mpsc::unbounded_channel();
            let reading = RepositoryOptions {
                following: following.clone(),
                mirror: disk.join("policy.git"),
                seed,
                facts: KnownFacts::default(),
            };
            let (by, to_line) = (name.clone(), Arc::clone(&life));
            let open = move |_: &RepositoryOptions| Ok(git.mirror(&by, Arc::clone(&to_line)));
            let (repository, work) = Repository::reading(reading, open, sender, clock.clone());
            spawn_local(work);
            let writing = PublisherOptions {
                source: following.source.clone(),
                access: following.access.clone(),
                mirror: disk.join("reports.git"),
                cluster: following.cluster.clone(),
                signing_key: None,
                seed,
            };
            let (by, to_line) = (name.clone(), Arc::clone(&life));
            let open = move |_: &PublisherOptions| Ok(reports.of(&by, Arc::clone(&to_line)));
            let (publisher, work) = Publisher::writing(writing, open, Box::new(|| true), clock.clone());
            spawn_local(work);
            let cluster = Cluster::open(&folder).expect("manifests");
            let name = NodeName::parse(&name).expect("a name");
            let metrics = MetricsRecorder::start(None, "").expect("no server");
            let driver = RoundDriver::new(Reconciler::new(kernel, cluster, name, memory, clock), metrics, seed);
            let (_pushes, pushes) = mpsc::channel(1);
            let triggers = StandaloneTriggers {
                stop: Stop::never(),
                news,
                pushes,
                manifests: changed,
                hook: Webhook::default(),
                kernel: machine.events(),
            };
            let ended = Box::pin(life.of_process(node::serve(driver, repository, publisher, triggers))).await;
            panic!("a node ended by itself: {ended:?}");
        });
        Process { line, task, manifests }
    }

    fn restart(&mut self, place: usize) {
        let before = &self.processes[place];
        before.line.kill();
        before.task.abort();
        self.machines[place].owner_died();
        self.processes[place] = self.start(u8::try_from(place).expect("a small number"));
    }

    fn check(&self) -> Result<(), String> {
        if let Some(fault) = self.checker.faults().into_iter().next() {
            return Err(fault);
        }
        let ended = self.processes.iter().any(|process| process.task.is_finished() && !process.line.is_dead());
        if ended { Err("a node ended by itself".to_owned()) } else { Ok(()) }
    }

    /// Why the world is not settled.
    fn unsettled(&self) -> Option<String> {
        for number in 0..u8::try_from(self.machines.len()).expect("a few nodes") {
            let wanted = self.revision.groups.iter().find(|(_, nodes)| nodes.contains(&number));
            let wanted = wanted.map(|(group, _)| format!("g{group}"));
            let label = label(&self.manifests(), number);
            if label != wanted {
                return Some(format!("n{number} is labelled {label:?}, not {wanted:?}"));
            }
        }
        self.checker.unsettled(&self.ready)
    }

    async fn settle(&self) -> Result<(), String> {
        let began = Instant::now();
        let mut quiet = began;
        while quiet.elapsed() < QUIET {
            self.check()?;
            if let Some(why) = self.unsettled() {
                if began.elapsed() > BOUND {
                    return Err(format!("not settled {} s after the last fault: {why}", BOUND.as_secs()));
                }
                quiet = Instant::now();
            }
            sleep(Duration::from_millis(500)).await;
        }
        self.log.note(&format!("settled after {:?}", began.elapsed()));
        self.checker.settled();
        Ok(())
    }

    /// Things happen for two minutes; then all is well.
    async fn episode(&mut self) -> Result<(), String> {
        for _ in 0..120 {
            if self.random.permille(200) {
                self.happen();
            }
            sleep(Duration::from_secs(1)).await;
            self.checker.all();
            self.check()?;
        }
        self.git.set_away(false);
        self.git.catch_up();
        self.offset.store(0, Ordering::SeqCst);
        for place in 0..self.processes.len() {
            if self.processes[place].line.is_doomed() {
                self.restart(place);
            }
        }
        self.settle().await
    }

    fn happen(&mut self) {
        let mut random = self.random.clone();
        let place = random.below(self.machines.len());
        let what = random.below(9);
        self.log.note(&format!("happening {what} at {place}"));
        match what {
            0 | 1 => {
                let nodes = u8::try_from(self.machines.len()).expect("a few nodes");
                self.revision.change(&mut random, nodes, &self.checker.stable_policies());
                self.push();
            }
            2 => self.start_pod(),
            3 => self.end_pod(),
            4 => self.turn_readiness(u8::try_from(place).expect("a small number")),
            5 if self.processes[place].line.is_dead() => self.restart(place),
            5 => self.processes[place].line.doom(u32::try_from(1 + random.below(60)).expect("a small number")),
            6 => self.git.set_away(random.permille(500)),
            7 if random.permille(500) => self.git.lag(),
            7 => self.git.catch_up(),
            _ if random.permille(500) => self.machines[place].disturb(|state| state.rules.clear()),
            _ => self.offset.store(*random.pick(&[-3600, 75, 3600, 86_400 * 30]), Ordering::SeqCst),
        }
        self.random = random.fork("next");
    }

    async fn idle(&self) -> Result<(), String> {
        // A branch that goes back is believed after two minutes, and exits that were left are kept for ten.
        sleep(Duration::from_mins(12)).await;
        self.check()?;
        let since = Instant::now();
        sleep(Duration::from_mins(2)).await;
        let warnings = self.log.warnings_since(since);
        for number in 0..self.machines.len() {
            let name = node_name(u8::try_from(number).expect("a small number"));
            let (asked, commits) = (self.git.asked_since(since, &name), self.reports.commits_since(since, &name));
            if asked > 130 || commits > 0 || warnings > 0 {
                return Err(format!(
                    "{name} is busy in an idle world: {asked} to Git, {commits} commits, {warnings} warnings"
                ));
            }
        }
        Ok(())
    }
}

/// The label of a node's manifest.
fn label(manifests: &Path, node: u8) -> Option<String> {
    let text = std::fs::read_to_string(manifests.join(format!("nodes/{}.yaml", node_name(node)))).ok()?;
    let manifest: Value = serde_yaml::from_str(&text).ok()?;
    manifest["metadata"]["labels"]["egress"].as_str().map(str::to_owned)
}

fn run(seed: u64) -> (Log, Result<(), String>) {
    in_world(async |log| {
        let mut world = Standalone::new(seed, log.clone());
        let lived = async {
            world.settle().await.map_err(|why| format!("at the start: {why}"))?;
            world.episode().await?;
            world.episode().await?;
            world.idle().await
        };
        let result = lived.await;
        (log, result)
    })
}

#[test]
fn no_world_of_standalone_nodes_lets_a_packet_out_with_a_wrong_address_or_does_not_settle() {
    seeds(run);
}
