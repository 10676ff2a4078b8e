//! What happens in an episode: people push and edit, pods come and go, and everything between the processes goes wrong.
//!
//! What lasts ends by itself; at the end of an episode everything that still lasts is ended.

use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use super::model::{draw, node_name};
use super::network::{Link, Weather};
use super::process::Process;
use super::random::Random;
use super::world::World;
use crate::apiserver::{Fault, FaultId, Filter};

/// A node reads its status back at least once in this time, unless it watches it.
const READ_BACK: Duration = Duration::from_mins(10);
/// What a watch lost is found within this time, by comparing versions (docs/api-server.md).
const VERSIONS_COMPARED: Duration = Duration::from_mins(15);

/// The kinds of happenings. A test may ask for some of them alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Push,
    /// A push of many policies while writes are slow.
    LargePush,
    Pods,
    Readiness,
    AgentDies,
    ControllerDies,
    ControllerStops,
    Partition,
    ServerRestarts,
    GitAway,
    GitLags,
    BadWeather,
    KernelDrift,
    EditByHand,
    NodeLies,
    LeaseDeleted,
    PublishingRefused,
    WatchSwallowed,
    ClockJumps,
}

impl Kind {
    pub(crate) const ALL: [Self; 19] = [
        Self::Push,
        Self::LargePush,
        Self::Pods,
        Self::Readiness,
        Self::AgentDies,
        Self::ControllerDies,
        Self::ControllerStops,
        Self::Partition,
        Self::ServerRestarts,
        Self::GitAway,
        Self::GitLags,
        Self::BadWeather,
        Self::KernelDrift,
        Self::EditByHand,
        Self::NodeLies,
        Self::LeaseDeleted,
        Self::PublishingRefused,
        Self::WatchSwallowed,
        Self::ClockJumps,
    ];

    /// Whether the world is not well while it lasts, so that nothing can be asked for within a bound.
    pub(crate) fn harms(self) -> bool {
        !matches!(self, Self::Push | Self::Pods | Self::Readiness | Self::PublishingRefused)
    }
}

/// How something that lasts ends.
#[derive(Clone, Copy)]
enum Undo {
    StartAgent(u8),
    StartController(usize),
    Thaw(usize),
    Reconnect(Place),
    ServerBack,
    GitBack,
    CatchUp,
    FairWeather,
    ClearFault(FaultId),
    HearAgain(Place),
    ClockBack,
}

/// One of the world's processes, by its place.
#[derive(Debug, Clone, Copy)]
enum Place {
    Controller(usize),
    Agent(usize),
}

/// What lasts at the moment.
#[derive(Default)]
pub(crate) struct Lasting(Vec<(Instant, Kind, Undo)>);

impl Lasting {
    pub(crate) fn has(&self, kind: Kind) -> bool {
        self.0.iter().any(|(_, lasting, _)| *lasting == kind)
    }

    pub(crate) fn harms(&self) -> bool {
        self.0.iter().any(|(_, kind, _)| kind.harms())
    }

    /// Ends what is over by now; all of it if `all`.
    pub(crate) fn end(&mut self, world: &mut World, all: bool) {
        let now = Instant::now();
        let (over, lasting) = std::mem::take(&mut self.0).into_iter().partition(|(until, ..)| all || *until <= now);
        self.0 = lasting;
        for (_, kind, undo) in over {
            world.log.note(&format!("{kind:?} ends"));
            world.undo(undo);
        }
    }

    fn add(&mut self, random: &mut Random, seconds: (u64, u64), kind: Kind, undo: Undo) {
        let time = random.time((Duration::from_secs(seconds.0), Duration::from_secs(seconds.1)));
        self.0.push((Instant::now() + time, kind, undo));
    }

    /// Lets something happen, unless the same lasts already.
    #[expect(clippy::too_many_lines, reason = "one arm for each kind")]
    pub(crate) fn happen(&mut self, world: &mut World, kind: Kind) {
        if self.has(kind) {
            return;
        }
        world.log.note(&format!("{kind:?}"));
        let mut random = world.random.clone();
        match kind {
            Kind::Push => {
                world.edit(&mut random);
                world.push();
                if random.permille(800) {
                    let to = random.below(world.controllers.len());
                    world.controllers[to].announce_push();
                }
            }
            Kind::LargePush => {
                let slow = Some((Duration::from_millis(20), Duration::from_millis(80)));
                world.set_weather(|weather| weather.slow_writes = slow);
                for _ in 0..12 {
                    world.edit(&mut random);
                }
                world.push();
                self.add(&mut random, (20, 40), kind, Undo::FairWeather);
            }
            Kind::Pods => {
                for _ in 0..=random.below(3) {
                    if random.permille(500) {
                        world.start_pod();
                    } else {
                        world.end_pod();
                    }
                }
            }
            Kind::Readiness => {
                let node = draw(&mut random, world.nodes());
                let ready = !world.ready.contains(&node);
                world.set_ready(node, ready);
            }
            Kind::AgentDies => {
                let node = draw(&mut random, world.nodes());
                let agent = &world.agents[usize::from(node)];
                if !agent.line.is_dead() {
                    // Half of them die in the middle of something.
                    agent.line.doom(if random.permille(500) { 1 } else { steps(&mut random) });
                    self.add(&mut random, (5, 40), kind, Undo::StartAgent(node));
                }
            }
            Kind::ControllerDies => {
                let place = random.below(world.controllers.len());
                if !world.controllers[place].line.is_dead() {
                    world.controllers[place].line.doom(if random.permille(500) { 1 } else { steps(&mut random) });
                    self.add(&mut random, (5, 40), kind, Undo::StartController(place));
                }
            }
            Kind::ControllerStops => {
                let place = random.below(world.controllers.len());
                world.controllers[place].line.freeze(true);
                self.add(&mut random, (5, 40), kind, Undo::Thaw(place));
            }
            Kind::Partition => {
                let process = any_process(world, &mut random);
                let link = if random.permille(500) { Link::Refused } else { Link::Silent };
                world.process(process).line.set_weather(|weather| weather.link = link);
                self.add(&mut random, (3, 45), kind, Undo::Reconnect(process));
            }
            Kind::ServerRestarts => {
                world.set_weather(|weather| weather.link = Link::Refused);
                self.add(&mut random, (1, 40), kind, Undo::ServerBack);
            }
            Kind::GitAway => {
                world.git.set_away(true);
                self.add(&mut random, (5, 60), kind, Undo::GitBack);
            }
            Kind::GitLags => {
                world.git.lag();
                self.add(&mut random, (30, 90), kind, Undo::CatchUp);
            }
            Kind::BadWeather => {
                let milliseconds = |from, to| Some((Duration::from_millis(from), Duration::from_millis(to)));
                let drawn = [random.below(150), random.below(100), random.below(150)]
                    .map(|number| u32::try_from(number).expect("a small number"));
                let lag = random.permille(600).then(|| milliseconds(0, 3000)).flatten();
                world.set_weather(|weather| {
                    (weather.lost, weather.unanswered, weather.refused) = (drawn[0], drawn[1], drawn[2]);
                    (weather.slow_writes, weather.lag) = (milliseconds(5, 300), lag);
                });
                self.add(&mut random, (20, 60), kind, Undo::FairWeather);
            }
            Kind::KernelDrift => {
                let node = random.below(world.machines.len());
                let what = random.below(3);
                world.machines[node].disturb(|state| match what {
                    0 => state.rules.clear(),
                    1 => state.routes.clear(),
                    _ => state.neighbours.clear(),
                });
            }
            Kind::EditByHand => edit_by_hand(world, &mut random),
            Kind::NodeLies => {
                let node = node_name(draw(&mut random, world.nodes()));
                if world.api.get("egressnodes.egret.dev", "", &node).is_some() {
                    let status = json!({"status": {"fence": 1_073_741_823}});
                    world.api.patch("egressnodes.egret.dev", "", &node, &status);
                }
            }
            Kind::LeaseDeleted => {
                if world.api.get("leases.coordination.k8s.io", "egret-system", "egret-controller").is_some() {
                    world.api.delete("leases.coordination.k8s.io", "egret-system", "egret-controller");
                }
            }
            Kind::PublishingRefused => {
                let resource = *random.pick(&["egressconfigs", "publishedegresspolicies"]);
                let refused = Filter::all().verb("patch").resource(&format!("{resource}/"));
                let fault = world.api.fault(refused, Fault::Status(403));
                world.edit(&mut random);
                world.push();
                world.controllers.iter().for_each(Process::announce_push);
                self.add(&mut random, (60, 100), kind, Undo::ClearFault(fault));
            }
            Kind::WatchSwallowed => {
                let process = any_process(world, &mut random);
                let lost = *random.pick(&["pods", "nodes", "egressconfigs", "publishedegresspolicies"]);
                world.process(process).line.set_weather(|weather| weather.swallowed.push(lost));
                self.add(&mut random, (5, 60), kind, Undo::HearAgain(process));
            }
            Kind::ClockJumps => {
                let jump = *random.pick(&[-3600, -90, 75, 3600, 86_400 * 400]);
                world.offset.store(jump, std::sync::atomic::Ordering::SeqCst);
                self.add(&mut random, (10, 60), kind, Undo::ClockBack);
            }
        }
        world.random = random.fork("next");
    }
}

/// After how many steps a process dies in the middle of something.
fn steps(random: &mut Random) -> u32 {
    u32::try_from(2 + random.below(60)).expect("a small number")
}

fn any_process(world: &World, random: &mut Random) -> Place {
    let place = random.below(world.controllers.len() + world.agents.len());
    match place.checked_sub(world.controllers.len()) {
        None => Place::Controller(place),
        Some(place) => Place::Agent(place),
    }
}

/// Somebody is not content with Git alone.
fn edit_by_hand(world: &mut World, random: &mut Random) {
    let policies = world.api.list("publishedegresspolicies.egret.dev");
    match random.below(4) {
        0 if !policies.is_empty() => {
            let name = random.pick(&policies)["metadata"]["name"].as_str().unwrap_or_default().to_owned();
            world.api.delete("publishedegresspolicies.egret.dev", "", &name);
        }
        1 if !policies.is_empty() => {
            let name = random.pick(&policies)["metadata"]["name"].as_str().unwrap_or_default().to_owned();
            let patch = json!({"spec": {"destinationCIDRs": ["10.9.9.0/24"]}});
            world.api.patch("publishedegresspolicies.egret.dev", "", &name, &patch);
        }
        2 => {
            let node = node_name(draw(random, world.nodes()));
            world.api.patch("nodes", "", &node, &json!({"metadata": {"labels": {"egress": null}}}));
        }
        _ => {
            let node = node_name(draw(random, world.nodes()));
            if world.api.get("egressnodes.egret.dev", "", &node).is_some() {
                world.is_compared_within(READ_BACK);
                world.api.delete("egressnodes.egret.dev", "", &node);
            }
        }
    }
}

impl World {
    fn process(&self, place: Place) -> &Process {
        match place {
            Place::Controller(place) => &self.controllers[place],
            Place::Agent(place) => &self.agents[place],
        }
    }

    /// Something happened that is found by a comparison within this time.
    fn is_compared_within(&mut self, time: Duration) {
        self.compared = self.compared.max(Instant::now() + time);
    }

    fn undo(&mut self, undo: Undo) {
        match undo {
            Undo::StartAgent(node) => {
                self.agents[usize::from(node)].kill();
                self.machines[usize::from(node)].owner_died();
                self.agents[usize::from(node)] = self.agent(node);
            }
            Undo::StartController(place) => {
                self.controllers[place].kill();
                self.controllers[place] = self.controller(super::world::CONTROLLERS[place]);
            }
            Undo::Thaw(place) => self.controllers[place].line.freeze(false),
            Undo::Reconnect(process) => self.process(process).line.set_weather(|weather| weather.link = Link::Up),
            Undo::ServerBack => {
                // The real server forgets the past: every older watch is answered 410.
                self.api.compact();
                self.set_weather(|weather| weather.link = Link::Up);
                self.processes().for_each(|process| process.line.cut());
            }
            Undo::GitBack => self.git.set_away(false),
            Undo::CatchUp => self.git.catch_up(),
            Undo::FairWeather => self.set_weather(|weather| {
                let (link, swallowed) = (weather.link, std::mem::take(&mut weather.swallowed));
                *weather = Weather { link, swallowed, ..Weather::default() };
            }),
            Undo::ClearFault(fault) => self.api.clear(fault),
            Undo::HearAgain(process) => {
                self.process(process).line.set_weather(|weather| weather.swallowed.clear());
                self.is_compared_within(VERSIONS_COMPARED);
            }
            Undo::ClockBack => self.offset.store(0, std::sync::atomic::Ordering::SeqCst),
        }
    }
}
