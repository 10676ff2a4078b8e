//! A node's kernel in memory. It outlives the agent: a step that was applied stays applied, a table whose owner died is abandoned.
//!
//! It is `core::plan::simulate`, with generations and events. Not here: what packets do with it (`checker`).

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use egret::core::compile::RP_FILTER_BEFORE;
use egret::core::conntrack::ConntrackStatistics;
use egret::core::host_network::HostNetwork;
use egret::core::neighbour_resolution::LinkNeighbour;
use egret::core::plan::{Step, simulate};
use egret::core::state::NodeState;
use egret::core::state::nft::{ElementData, ElementKey, RuleCounters, TableFamily};
use egret::core::state::ownership::DatapathConfig;
use egret::kernel::conntrack::ConntrackError;
use egret::kernel::marks::{MarkSurvey, MarkSurveyError};
use egret::kernel::nft::{Generation, NftError};
use egret::kernel::watch::{Actor, EventSubject, KernelEvent};
use egret::kernel::{KernelError, Observed};
use egret::reconcile::node::kernel::{KernelEvents, NodeKernel};
use tokio::time::sleep;

use super::network::Line;
use super::random::Random;
use crate::apiserver::signal::{Changes, Signal};

struct State {
    egret: Arc<NodeState>,
    host: Arc<HostNetwork>,
    generation: u32,
    events: VecDeque<KernelEvent>,
}

/// A node's kernel. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Machine {
    state: Arc<Mutex<State>>,
    changed: Signal,
}

impl Machine {
    pub(crate) fn new(host: HostNetwork) -> Self {
        let state = State { egret: Arc::default(), host: Arc::new(host), generation: 1, events: VecDeque::new() };
        Self { state: Arc::new(Mutex::new(state)), changed: Signal::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn egret(&self) -> Arc<NodeState> {
        Arc::clone(&self.state().egret)
    }

    pub(crate) fn host(&self) -> Arc<HostNetwork> {
        Arc::clone(&self.state().host)
    }

    /// The agent's sockets are closed: the kernel keeps tables with the flag `persist`, without an owner.
    pub(crate) fn owner_died(&self) {
        for table in Arc::make_mut(&mut self.state().egret).nft.values_mut() {
            (table.owned, table.abandoned) = (false, true);
        }
    }

    /// Somebody else changes Egret's objects.
    pub(crate) fn disturb(&self, change: impl FnOnce(&mut NodeState)) {
        let mut state = self.state();
        change(Arc::make_mut(&mut state.egret));
        state.generation += 1;
        let actor = Actor::Process(4242, Some("ip".to_owned()));
        state.events.push_back(KernelEvent { subject: EventSubject::Everything, actor, generation: None });
        drop(state);
        self.changed.send();
    }

    /// The agent's end of it.
    pub(crate) fn opened(&self, line: Arc<Line>, random: Random, after_step: Arc<dyn Fn() + Send + Sync>) -> Sockets {
        self.state().events.clear();
        Sockets { machine: self.clone(), line, random, after_step }
    }

    pub(crate) fn events(&self) -> Events {
        Events { machine: self.clone(), changed: self.changed.subscribe() }
    }
}

/// The sockets of one agent.
pub(crate) struct Sockets {
    machine: Machine,
    line: Arc<Line>,
    random: Random,
    after_step: Arc<dyn Fn() + Send + Sync>,
}

impl Sockets {
    /// The kernel takes its time, and an agent that dies meanwhile does nothing more.
    async fn work(&mut self) {
        sleep(self.random.time((Duration::from_micros(50), Duration::from_millis(2)))).await;
        self.line.awake().await;
    }
}

impl NodeKernel for Sockets {
    async fn observe(&mut self) -> Result<Observed, KernelError> {
        self.work().await;
        let state = self.machine.state();
        let (egret, host) = (NodeState::clone(&state.egret), HostNetwork::clone(&state.host));
        let generation = Generation(state.generation);
        Ok(Observed { host_network: with_loosened(host, &egret), state: egret, generation })
    }

    async fn apply(&mut self, step: &Step, generation: &mut Generation) -> Result<(), KernelError> {
        self.work().await;
        let mut state = self.machine.state();
        if matches!(step, Step::Nft(_)) {
            if state.generation != generation.0 {
                return Err(KernelError::Nft(NftError::Stale));
            }
            state.generation += 1;
            *generation = Generation(state.generation);
        }
        simulate::apply(step, Arc::make_mut(&mut state.egret));
        drop(state);
        (self.after_step)();
        Ok(())
    }

    async fn counters(&mut self) -> Result<RuleCounters, KernelError> {
        Ok(RuleCounters::new())
    }

    async fn ask_for(&self, _: &LinkNeighbour) -> Result<(), KernelError> {
        Ok(())
    }

    fn set_ranges(&mut self, _: Vec<DatapathConfig>) {}

    async fn tracks_connections(&self) -> bool {
        true
    }

    async fn conntrack_statistics(&self) -> Result<ConntrackStatistics, ConntrackError> {
        Ok(ConntrackStatistics::default())
    }

    async fn survey_marks(&self, _: u32) -> Result<MarkSurvey, MarkSurveyError> {
        Ok(MarkSurvey::default())
    }
}

/// The kernel's events as one agent hears them.
pub(crate) struct Events {
    machine: Machine,
    changed: Changes,
}

impl KernelEvents for Events {
    async fn next(&mut self) -> Result<KernelEvent, KernelError> {
        loop {
            let event = self.machine.state().events.pop_front();
            if let Some(event) = event {
                return Ok(event);
            }
            // The sender lives as long as the machine.
            self.changed.changed().await;
        }
    }
}

/// The host network as an observation has it: filters that Egret loosened are loose, and their former value is known.
fn with_loosened(mut host: HostNetwork, egret: &NodeState) -> HostNetwork {
    let remembered = egret.nft.get(&TableFamily::Inet).and_then(|table| table.sets.get(RP_FILTER_BEFORE));
    for (key, data) in remembered.into_iter().flat_map(|set| &set.elements) {
        let (ElementKey::Interface(name), Some(ElementData::Mark(before))) = (key, data) else { continue };
        host.loosened.insert(name.clone(), u8::try_from(*before).expect("a filter is 0, 1 or 2"));
        if let Some(interface) = host.interfaces.get_mut(name) {
            interface.rp_filter = 2;
        }
    }
    host
}
