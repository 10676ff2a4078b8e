//! Egret's processes in a simulated world: the real controller and the real agents, on simulated edges. Each can be killed between any two
//! steps and started again with what it left on its disk.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use egret::clock::Clock;
use egret::cluster::live::{ApiClient, Lease, Timing};
use egret::core::name::NodeName;
use egret::git::access::Access;
use egret::git::signature::SignatureFlags;
use egret::git::source::{Insecure, Source};
use egret::reconcile::agent::{self, AgentEdges, AgentOptions};
use egret::reconcile::controller::{self, ControllerEdges, ControllerOptions};
use egret::reconcile::gitops::publisher::{Publisher, PublisherOptions};
use egret::reconcile::gitops::pulls::PullPreviews;
use egret::reconcile::gitops::repository::{KnownFacts, Repository, RepositoryOptions};
use egret::reconcile::gitops::tracked_repository::TrackedRepository;
use egret::reconcile::gitops::webhook::Webhook;
use egret::reconcile::leadership::Leadership;
use egret::reconcile::persistence::state_store::StateStore;
use egret::reconcile::process::Stop;
use egret::serve::webhook::WebhookEvents;
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, spawn_local};

use super::history::{GitServer, URL};
use super::kernel::Machine;
use super::model::node_name;
use super::network::{Line, Weather};
use super::random::Random;
use super::reports::Reports;

/// What every process of a world needs.
#[derive(Clone)]
pub(crate) struct Surroundings {
    pub(crate) server: Router,
    pub(crate) git: GitServer,
    pub(crate) reports: Reports,
    pub(crate) disks: PathBuf,
    pub(crate) clock: Clock,
    pub(crate) random: Random,
    pub(crate) after_step: Arc<dyn Fn() + Send + Sync>,
}

/// A process that runs, or was killed.
pub(crate) struct Process {
    pub(crate) name: String,
    pub(crate) line: Arc<Line>,
    task: JoinHandle<()>,
    /// A forge's webhook to this replica.
    webhook: Option<mpsc::Sender<()>>,
}

impl Process {
    /// Ends it without a word (SIGKILL).
    pub(crate) fn kill(&self) {
        self.line.kill();
        self.task.abort();
    }

    /// Whether it ended by itself, which none should.
    pub(crate) fn has_ended(&self) -> bool {
        self.task.is_finished() && !self.line.is_dead()
    }

    /// A push is announced to this replica. One announcement that it has not heard yet is as good as two.
    pub(crate) fn announce_push(&self) {
        if let Some(webhook) = &self.webhook {
            let _ = webhook.try_send(());
        }
    }
}

/// The repository, polled this often.
pub(crate) fn tracked(poll: Duration) -> TrackedRepository {
    TrackedRepository {
        source: Source::parse(URL, Insecure::Refuse).expect("an address"),
        branch: Some("main".to_owned()),
        access: Access::default(),
        signatures: SignatureFlags::default(),
        windows: None,
        label_keys: None,
        cluster: "prod".to_owned(),
        poll,
        max_lag: Duration::from_mins(2),
    }
}

/// A controller's options, for candidates of one Lease.
fn controller_options(name: &str, disk: PathBuf) -> ControllerOptions {
    ControllerOptions {
        following: tracked(Duration::from_secs(30)),
        signing_key: None,
        state_folder: disk,
        namespace: "egret-system".to_owned(),
        lease: "egret-controller".to_owned(),
        identity: name.to_owned(),
        timing: Timing::default(),
        startup_taints: false,
        pod_networks: false,
        listen: None,
        ui: None,
        webhook: None,
        previews: None,
    }
}

/// Starts a controller.
pub(crate) fn controller(surroundings: &Surroundings, name: &str, incarnation: u64, weather: Weather) -> Process {
    let random = surroundings.random.fork(&format!("{name} {incarnation}"));
    let line = Line::new(random.clone(), weather);
    let disk = surroundings.disks.join(name);
    let options = controller_options(name, disk.clone());
    let live =
        ApiClient::of_service(line.service(surroundings.server.clone()), "simulated", surroundings.clock.clone());
    let (webhook, announced) = mpsc::channel(1);
    let seed = random.clone().next();
    let (surroundings, to_line, identity) = (surroundings.clone(), Arc::clone(&line), name.to_owned());
    let life = Arc::clone(&line);
    let task = spawn_local(async move {
        let memory = StateStore::open(&disk);
        let (sender, news) = mpsc::unbounded_channel();
        let reading = RepositoryOptions {
            following: options.following.clone(),
            mirror: disk.join("policy.git"),
            seed,
            facts: KnownFacts::default(),
        };
        let (git, by, line) = (surroundings.git.clone(), identity.clone(), Arc::clone(&to_line));
        let open = move |_: &RepositoryOptions| Ok(git.mirror(&by, Arc::clone(&line)));
        let (repository, work) = Repository::reading(reading, open, sender, surroundings.clock.clone());
        spawn_local(work);
        let lease = Lease::new(live.clone(), &options.namespace, &options.lease, &options.identity, options.timing);
        let leading = Leadership::start(lease, options.timing);
        let writing = PublisherOptions {
            source: options.following.source.clone(),
            access: options.following.access.clone(),
            mirror: disk.join("reports.git"),
            cluster: options.following.cluster.clone(),
            signing_key: None,
            seed,
        };
        let reports = surroundings.reports.clone();
        let open = move |_: &PublisherOptions| Ok(reports.of(&identity, Arc::clone(&to_line)));
        let clock = surroundings.clock.clone();
        let (publisher, work) = Publisher::writing(writing, open, Box::new(leading.is_leader()), clock);
        spawn_local(work);
        let (_pushes, pushes) = mpsc::channel(1);
        let (_pulls, pulls) = mpsc::channel(1);
        let edges = ControllerEdges {
            live,
            leading,
            repository,
            news,
            publisher,
            pulls: PullPreviews::default(),
            memory,
            stop: Stop::never(),
            pushes,
            hook: Webhook::of_events(WebhookEvents { pushes: announced, pulls }),
            seed,
        };
        let ended = Box::pin(life.of_process(controller::serve(options, edges))).await;
        panic!("a controller ended by itself: {ended:?}");
    });
    Process { name: name.to_owned(), line, task, webhook: Some(webhook) }
}

/// Starts a node's agent.
pub(crate) fn agent(
    surroundings: &Surroundings,
    node: u8,
    incarnation: u64,
    machine: &Machine,
    weather: Weather,
) -> Process {
    let name = node_name(node);
    let random = surroundings.random.fork(&format!("{name} {incarnation}"));
    let line = Line::new(random.clone(), weather);
    let disk = surroundings.disks.join(&name);
    let live =
        ApiClient::of_service(line.service(surroundings.server.clone()), "simulated", surroundings.clock.clone());
    let kernel = machine.opened(Arc::clone(&line), random.fork("kernel"), Arc::clone(&surroundings.after_step));
    let events = machine.events();
    let seed = random.clone().next();
    let life = Arc::clone(&line);
    let options = AgentOptions {
        nat_record: None,
        node: NodeName::parse(&name).expect("a name"),
        state_folder: disk.clone(),
        remove: false,
        listen: None,
        namespace: Some("egret-system".to_owned()),
    };
    let task = spawn_local(async move {
        let memory = StateStore::open(&disk);
        let edges =
            AgentEdges { kernel, events, live, memory, stop: Stop::never(), watchers: None, recorder: None, seed };
        let ended = Box::pin(life.of_process(agent::serve(options, edges))).await;
        panic!("an agent ended by itself: {ended:?}");
    });
    Process { name, line, task, webhook: None }
}
