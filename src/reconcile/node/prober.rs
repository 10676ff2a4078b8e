//! The prober: a thread that probes the gateways of this node's exits, and reports to the node's loop what it sees.
//!
//! A thread of its own, because a round may take longer than a gateway has to answer. Not here: sockets (`kernel::probe`), and
//! what silence means (`core::liveness`).

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::core::compile::{PROBE_IDLE, PROBE_IN_USE, probe_address};
use crate::core::liveness::{DueProbe, LivenessView, PathKey, PathMonitor, ProbeTarget};
use crate::core::policy::config::ProbeTiming;
use crate::core::state::nft::AddressFamily;
use crate::kernel::probe::{Probe, SendError};

/// The kernel sends a SYN again after a second: a probe is given up before.
const GIVEN_UP: Duration = Duration::from_millis(900);
/// Probes of one path that are awaited: each is a socket, and a node that is cut off has many silent paths.
const AWAITED: usize = 8;

/// What to probe, and how often.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProbePlan {
    /// The paths.
    pub targets: BTreeMap<PathKey, ProbeTarget>,
    /// How often.
    pub timing: ProbeTiming,
}

/// A handle on the thread, which ends when it is dropped.
#[derive(Debug)]
pub struct Prober {
    plans: Sender<ProbePlan>,
    plan: ProbePlan,
    seen: watch::Receiver<LivenessView>,
    latencies: Latencies,
}

/// How long the gateway of each path took to answer its last probe.
type Latencies = Arc<Mutex<BTreeMap<PathKey, Duration>>>;

impl Prober {
    /// Starts the thread. It probes nothing yet.
    pub fn start() -> std::io::Result<Self> {
        let (plans, received) = channel();
        let (tell, seen) = watch::channel(LivenessView::default());
        let latencies = Latencies::default();
        let told = Arc::clone(&latencies);
        std::thread::Builder::new().name("egret-probes".to_owned()).spawn(move || probe(&received, &tell, &told))?;
        Ok(Self { plans, plan: ProbePlan::default(), seen, latencies })
    }

    /// How long gateways took to answer the last probe, by exit and family, for the paths that are probed.
    pub fn latencies(&self) -> Vec<(String, &'static str, Duration)> {
        let known = self.latencies.lock().unwrap_or_else(PoisonError::into_inner);
        let probed = known.iter().filter(|(key, _)| self.plan.targets.contains_key(*key));
        let family = |family| if family == AddressFamily::V4 { "ipv4" } else { "ipv6" };
        probed.map(|((exit, of), latency)| (exit.identity(), family(*of), *latency)).collect()
    }

    /// Sets what to probe.
    pub fn set(&mut self, plan: ProbePlan) {
        if self.plan != plan {
            self.plan = plan.clone();
            // The thread ends only with this handle.
            let _ = self.plans.send(plan);
        }
    }

    /// Waits until gateways answer that did not, or the other way round; none: the thread has ended. Cancel-safe.
    pub(super) async fn changed(&mut self) -> Option<LivenessView> {
        self.seen.changed().await.ok()?;
        Some(self.seen.borrow_and_update().clone())
    }
}

/// A probe that was sent.
struct Sent {
    key: PathKey,
    probe: Probe,
    at: Instant,
}

/// Sends a probe. `fault`: why one could not be sent before, as it was logged.
fn send(
    DueProbe { key, mark, idle }: DueProbe,
    monitor: &mut PathMonitor,
    sent: &mut Vec<Sent>,
    fault: &mut Option<SendError>,
) {
    let port = if idle { PROBE_IDLE } else { PROBE_IN_USE };
    match Probe::send(mark, SocketAddr::new(probe_address(key.1), port)) {
        Ok(probe) => {
            if sent.iter().filter(|one| one.key == key).count() >= AWAITED
                && let Some(oldest) = sent.iter().position(|one| one.key == key)
            {
                sent.remove(oldest);
            }
            sent.push(Sent { key, probe, at: Instant::now() });
        }
        Err(error) => {
            monitor.unsent(&key);
            if fault.replace(error) != Some(error) {
                tracing::warn!(%error, "probes of gateways cannot be sent; a gateway that fails is noticed late");
            }
        }
    }
}

fn probe(plans: &Receiver<ProbePlan>, tell: &watch::Sender<LivenessView>, latencies: &Latencies) {
    let began = Instant::now();
    let mut monitor = PathMonitor::default();
    let mut sent: Vec<Sent> = Vec::new();
    let mut fault = None;
    loop {
        // Without paths there is nothing to do but wait for some.
        let plan = if monitor.is_empty() {
            plans.recv_timeout(Duration::from_hours(1))
        } else {
            plans.try_recv().or(Err(RecvTimeoutError::Timeout))
        };
        match plan {
            Ok(plan) => {
                monitor.set(&plan.targets, plan.timing, began.elapsed());
                let mut known = latencies.lock().unwrap_or_else(PoisonError::into_inner);
                known.retain(|key, _| plan.targets.contains_key(key));
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        // Answers before judgements: what came while this thread did not run counts.
        sent.retain(|one| match one.probe.answer() {
            Some(answered) => {
                if answered {
                    monitor.answered(&one.key, began.elapsed());
                    let mut known = latencies.lock().unwrap_or_else(PoisonError::into_inner);
                    known.insert(one.key.clone(), one.at.elapsed());
                }
                false
            }
            None => one.at.elapsed() < GIVEN_UP,
        });
        monitor.judge(began.elapsed());
        for due in monitor.due(began.elapsed()) {
            send(due, &mut monitor, &mut sent, &mut fault);
        }
        tell.send_if_modified(|before| {
            let view = monitor.view();
            let differs = *before != view;
            *before = view;
            differs
        });
        if tell.is_closed() {
            return;
        }
        if let Some(next) = monitor.next() {
            Probe::wait(sent.iter().map(|one| &one.probe), next.saturating_sub(began.elapsed()));
        }
    }
}
