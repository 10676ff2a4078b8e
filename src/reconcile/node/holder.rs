//! The holder: a thread that asks who has the addresses that Egret assigns, announces this node's, and reports to the
//! node's loop which it is to have.
//!
//! Not here: sockets (`kernel::conflict`), who is to have an address (`core::assignment::holding`), and putting it on an interface, which
//! is a step of a round like any other.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::core::assignment::holding::{Claims, HoldingMonitor, HoldingView, Message, Says};
use crate::core::policy::config::ProbeTiming;
use crate::kernel::conflict::{LinkSockets, Waker};
use crate::kernel::nft::Nft;

/// How often the interfaces are read again without a new plan.
const REFRESH: Duration = Duration::from_secs(10);

/// So many readings in a row that failed are reported.
const UNCOUNTED: u32 = 20;

/// What to hold, and how often to ask.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HolderPlan {
    /// The addresses.
    pub claims: Claims,
    /// The chains that count the probes of sources that want each address here.
    pub counted_by: BTreeMap<IpAddr, Vec<String>>,
    /// Sources probe.
    pub probed: bool,
    /// How often; as sources probe.
    pub timing: ProbeTiming,
}

/// A handle on the thread, which ends when it is dropped.
#[derive(Debug)]
pub struct Holder {
    plans: Sender<HolderPlan>,
    wake: Waker,
    plan: HolderPlan,
    seen: watch::Receiver<HoldingView>,
}

impl Holder {
    /// Starts the thread. It holds nothing yet.
    pub fn start() -> std::io::Result<Self> {
        let (plans, received) = channel();
        let (tell, seen) = watch::channel(HoldingView::default());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let wake = Waker::new()?;
        let woken = wake.clone();
        let run = move || HolderThread::new(received, woken, tell, runtime).run();
        std::thread::Builder::new().name("egret-holder".to_owned()).spawn(run)?;
        Ok(Self { plans, wake, plan: HolderPlan::default(), seen })
    }

    /// Sets what to hold.
    pub fn set(&mut self, plan: HolderPlan) {
        if self.plan != plan {
            self.plan = plan.clone();
            // The thread ends only with this handle.
            let _ = self.plans.send(plan);
            self.wake.wake();
        }
    }

    /// Waits until this node is to have other addresses; none: the thread has ended. Cancel-safe.
    pub(super) async fn changed(&mut self) -> Option<HoldingView> {
        self.seen.changed().await.ok()?;
        Some(self.seen.borrow_and_update().clone())
    }
}

/// What probes of sources counted, with the time of each reading.
#[derive(Default)]
struct Demand(BTreeMap<IpAddr, VecDeque<(Duration, u64)>>);

impl Demand {
    /// Adds a reading; returns how many sources send probes as often as `timing` says, lately; none after the first reading.
    fn add(&mut self, address: IpAddr, now: Duration, packets: u64, timing: ProbeTiming) -> Option<u32> {
        let window = timing.interval * 2;
        let readings = self.0.entry(address).or_default();
        // A chain that was recreated counts from zero, and an old reading shows nothing of the present.
        if readings.back().is_some_and(|(at, before)| *before > packets || *at + window < now) {
            readings.clear();
        }
        readings.push_back((now, packets));
        while readings.get(1).is_some_and(|(at, _)| *at + window <= now) {
            readings.pop_front();
        }
        let (at, first) = readings.front()?;
        let intervals = now.saturating_sub(*at).as_secs_f64() / timing.interval.as_secs_f64();
        if intervals < 1.0 {
            return None;
        }
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a number of nodes"
        )]
        let sources = ((packets - first) as f64 / intervals).ceil() as u32;
        Some(sources)
    }
}

/// The thread's state.
struct HolderThread {
    plans: Receiver<HolderPlan>,
    woken: Waker,
    tell: watch::Sender<HoldingView>,
    runtime: tokio::runtime::Runtime,
    began: Instant,
    plan: HolderPlan,
    monitor: HoldingMonitor,
    demand: Demand,
    sockets: Option<LinkSockets>,
    nft: Option<Nft>,
    /// When the interfaces were last read.
    refreshed: Option<Instant>,
    /// When the counters were last read, and how often in a row they could not be.
    counted: Option<Duration>,
    uncounted: u32,
    /// Why the last message could not be sent.
    fault: Option<i32>,
}

impl HolderThread {
    fn new(
        plans: Receiver<HolderPlan>,
        woken: Waker,
        tell: watch::Sender<HoldingView>,
        runtime: tokio::runtime::Runtime,
    ) -> Self {
        Self {
            plans,
            woken,
            tell,
            runtime,
            began: Instant::now(),
            plan: HolderPlan::default(),
            monitor: HoldingMonitor::default(),
            demand: Demand::default(),
            sockets: None,
            nft: None,
            refreshed: None,
            counted: None,
            uncounted: 0,
            fault: None,
        }
    }

    fn run(mut self) {
        while let Some(changed) = self.next_plan() {
            if changed || self.refreshed.is_none_or(|at| at.elapsed() >= REFRESH) {
                self.renew();
            }
            self.listen();
            self.count();
            // No node takes an address without having asked: without sockets everything stays as it is.
            if self.sockets.is_some() {
                self.monitor.judge(self.began.elapsed());
                let due = self.monitor.due(self.began.elapsed());
                self.send(due);
                self.monitor.said();
            }
            let view = self.monitor.view(self.began.elapsed());
            self.tell.send_if_modified(|before| {
                let differs = *before != view;
                *before = view;
                differs
            });
            self.wait();
        }
    }

    /// Whether there is a new plan; none: the handle is gone. Without claims there is nothing to do but wait for some.
    fn next_plan(&mut self) -> Option<bool> {
        let next = if self.monitor.is_empty() {
            self.plans.recv_timeout(Duration::from_hours(1))
        } else {
            self.plans.try_recv().or(Err(RecvTimeoutError::Timeout))
        };
        let changed = match next {
            Ok(next) => {
                self.plan = next;
                true
            }
            Err(RecvTimeoutError::Timeout) => false,
            Err(RecvTimeoutError::Disconnected) => return None,
        };
        (!self.tell.is_closed()).then_some(changed)
    }

    /// Reads the interfaces again, and sets the claims.
    fn renew(&mut self) {
        self.refreshed = Some(Instant::now());
        if self.sockets.is_none() {
            match LinkSockets::open() {
                Ok(opened) => self.sockets = Some(opened),
                Err(error) => tracing::warn!(%error, "no packet socket: egress addresses cannot be assigned"),
            }
        }
        let own = self.sockets.as_mut().and_then(|sockets| sockets.refresh().ok()).unwrap_or_default();
        self.monitor.set(&self.plan.claims, own, self.plan.timing, self.began.elapsed());
        // Nothing is counted before the first round of a process. Its address must not go meanwhile.
        let uncounted = if self.plan.probed { None } else { Some(0) };
        for address in self.plan.claims.keys().filter(|address| !self.plan.counted_by.contains_key(*address)) {
            self.monitor.wanted(*address, uncounted);
        }
        if self.nft.is_none() && !self.plan.claims.is_empty() {
            self.nft = self.runtime.block_on(async { Nft::open() }).ok();
        }
    }

    fn listen(&mut self) {
        let heard = self.sockets.as_ref().map(LinkSockets::received).unwrap_or_default();
        for (link, address, heard) in heard {
            if self.monitor.link(address) == Some(link.as_str()) {
                if heard.says != Says::Has {
                    tracing::debug!(%address, link, from = %heard.from, says = ?heard.says, "heard");
                }
                let answers = self.monitor.heard(address, heard, self.began.elapsed());
                self.send(answers);
            }
        }
    }

    /// Counts the sources that want each address here. A counter that cannot be read, or not often enough, is no sign
    /// that none does: the last number stays.
    fn count(&mut self) {
        let now = self.began.elapsed();
        let pause = self.plan.timing.interval / 2;
        let Some(nft) = self.nft.as_mut().filter(|_| self.counted.is_none_or(|at| now >= at + pause)) else { return };
        self.counted = Some(now);
        let mut error = None;
        for (address, chains) in &self.plan.counted_by {
            let counters = chains.iter().map(|chain| self.runtime.block_on(nft.first_counters(chain)));
            match counters.sum::<Result<u64, _>>() {
                Ok(packets) => {
                    if let Some(sources) = self.demand.add(*address, now, packets, self.plan.timing) {
                        self.monitor.wanted(*address, Some(sources));
                    }
                }
                Err(unread) => error = Some(unread),
            }
        }
        self.uncounted = if error.is_some() { self.uncounted.saturating_add(1) } else { 0 };
        // A round that changes the table meanwhile interrupts a reading.
        if let Some(error) = error
            && self.uncounted == UNCOUNTED
        {
            tracing::warn!(%error, "the sources that want an egress address here cannot be counted");
        }
    }

    fn send(&mut self, messages: Vec<(IpAddr, Message)>) {
        let Some(sockets) = &self.sockets else { return };
        for (address, message) in messages {
            let Some(link) = self.monitor.link(address).map(str::to_owned) else { continue };
            match sockets.send(&link, address, &message) {
                Ok(()) if message == Message::Announce => tracing::info!(%address, link, "announced"),
                Ok(()) if message == Message::Ask => {}
                Ok(()) => tracing::debug!(%address, link, ?message, "said"),
                Err(error) => {
                    self.monitor.not_asked(address);
                    let before = std::mem::replace(&mut self.fault, error.raw_os_error());
                    if before != self.fault {
                        tracing::warn!(%error, %address, link, "nobody can be asked who has the address");
                    }
                }
            }
        }
    }

    fn wait(&self) {
        if !self.monitor.is_empty() {
            self.woken.wait(self.sockets.as_ref(), self.monitor.interval());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn demand_is_the_number_of_sources_that_probe_at_full_rate() {
        let (mut demand, timing) = (Demand::default(), ProbeTiming::default());
        let address = IpAddr::from([10, 0, 3, 100]);
        let mut packets = 0;
        let mut wanted = Vec::new();
        for step in 0..12_u32 {
            // Five sources, then none.
            packets += if step < 6 { 5 } else { 0 };
            wanted.push(demand.add(address, timing.interval * step, packets, timing));
        }
        let known = [5, 5, 5, 5, 5, 3, 0, 0, 0, 0, 0].map(Some);
        assert_eq!(wanted, [&[None][..], &known].concat());
        assert_eq!(demand.add(address, timing.interval * 12, 1, timing), None, "a chain that counts anew");
        assert_eq!(demand.add(address, timing.interval * 13, 2, timing), Some(1));
        assert_eq!(demand.add(address, timing.interval * 90, 40, timing), None, "the node was no candidate meanwhile");
        assert_eq!(demand.add(address, timing.interval * 91, 40, timing), Some(0));
    }
}
