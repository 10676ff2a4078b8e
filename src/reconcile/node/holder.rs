//! The holder: a thread that asks who has the addresses that Egret assigns, announces this node's, and tells the node's loop which it
//! is to have.
//!
//! Not here: sockets (`kernel::conflict`), who is to have an address (`core::assignment::holding`), and putting it on an interface, which
//! is a step of a round like any other.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::core::assignment::holding::{Claims, HoldingMonitor, HoldingView, Message};
use crate::core::policy::config::ProbeTiming;
use crate::core::state::net::Mac;
use crate::kernel::conflict::LinkSockets;
use crate::kernel::nft::Nft;

/// How often the interfaces are read again without a new plan.
const REFRESH: Duration = Duration::from_secs(10);

/// What to hold, and how often to ask.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HolderPlan {
    /// The addresses.
    pub claims: Claims,
    /// The chains that count the probes of sources that want each address here.
    pub counted_by: BTreeMap<IpAddr, Vec<String>>,
    /// How often; as sources probe.
    pub timing: ProbeTiming,
}

/// A handle on the thread, which ends when it is dropped.
#[derive(Debug)]
pub struct Holder {
    plans: Sender<HolderPlan>,
    plan: HolderPlan,
    seen: watch::Receiver<HoldingView>,
}

impl Holder {
    /// Starts the thread. It holds nothing yet.
    pub fn start() -> std::io::Result<Self> {
        let (plans, received) = channel();
        let (tell, seen) = watch::channel(HoldingView::default());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let run = move || hold(&received, &tell, &runtime);
        std::thread::Builder::new().name("egret-holder".to_owned()).spawn(run)?;
        Ok(Self { plans, plan: HolderPlan::default(), seen })
    }

    /// Sets what to hold.
    pub fn set(&mut self, plan: HolderPlan) {
        if self.plan != plan {
            self.plan = plan.clone();
            // The thread ends only with this handle.
            let _ = self.plans.send(plan);
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
    /// Adds a reading; returns how many sources send probes as often as `timing` says, lately.
    fn add(&mut self, address: IpAddr, now: Duration, packets: u64, timing: ProbeTiming) -> u32 {
        let window = timing.interval * 2;
        let readings = self.0.entry(address).or_default();
        // A chain that was recreated counts from zero.
        if readings.back().is_some_and(|(_, before)| *before > packets) {
            readings.clear();
        }
        readings.push_back((now, packets));
        while readings.get(1).is_some_and(|(at, _)| *at + window <= now) {
            readings.pop_front();
        }
        let Some((at, first)) = readings.front() else { return 0 };
        let intervals = now.saturating_sub(*at).as_secs_f64() / timing.interval.as_secs_f64();
        if intervals < 1.0 {
            return 0;
        }
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a number of nodes"
        )]
        let sources = ((packets - first) as f64 / intervals).ceil() as u32;
        sources
    }
}

fn hold(plans: &Receiver<HolderPlan>, tell: &watch::Sender<HoldingView>, runtime: &tokio::runtime::Runtime) {
    let began = Instant::now();
    let (mut monitor, mut demand, mut plan) = (HoldingMonitor::default(), Demand::default(), HolderPlan::default());
    let mut sockets: Option<LinkSockets> = None;
    let mut nft: Option<Nft> = None;
    let (mut refreshed, mut read) = (None::<Instant>, None::<Duration>);
    let mut fault = None;
    loop {
        // Without claims there is nothing to do but wait for some.
        let next = if monitor.is_empty() {
            plans.recv_timeout(Duration::from_hours(1))
        } else {
            plans.try_recv().or(Err(RecvTimeoutError::Timeout))
        };
        let mut renew = refreshed.is_none_or(|at| at.elapsed() >= REFRESH);
        match next {
            Ok(next) => (plan, renew) = (next, true),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        if tell.is_closed() {
            return;
        }
        let now = began.elapsed();
        if renew {
            refreshed = Some(Instant::now());
            let own = refresh(&mut sockets);
            monitor.set(&plan.claims, own, plan.timing, now);
            if nft.is_none() && !plan.claims.is_empty() {
                nft = runtime.block_on(async { Nft::open() }).ok();
            }
        }
        if let Some(sockets) = &sockets {
            for (link, address, heard) in sockets.received() {
                if monitor.link(address) != Some(link.as_str()) {
                    continue;
                }
                let answers = monitor.heard(address, heard, began.elapsed());
                send(sockets, &mut monitor, answers, &mut fault);
            }
        }
        if let Some(nft) = &mut nft
            && read.is_none_or(|at| now >= at + plan.timing.interval / 2)
        {
            read = Some(now);
            let wanted = plan.counted_by.iter().map(|(address, chains)| {
                let packets = chains.iter().map(|chain| runtime.block_on(nft.first_counters(chain)).unwrap_or(0)).sum();
                (*address, demand.add(*address, now, packets, plan.timing))
            });
            monitor.wanted(&wanted.collect());
        }
        // Nobody takes an address without having asked: everything stays as it is then.
        if let Some(sockets) = &sockets {
            monitor.judge(began.elapsed());
            let due = monitor.due(began.elapsed());
            send(sockets, &mut monitor, due, &mut fault);
        }
        tell.send_if_modified(|before| {
            let view = monitor.view(began.elapsed());
            let differs = *before != view;
            *before = view;
            differs
        });
        if !monitor.is_empty() {
            match &sockets {
                Some(sockets) => sockets.wait(monitor.interval()),
                None => std::thread::sleep(monitor.interval()),
            }
        }
    }
}

fn refresh(sockets: &mut Option<LinkSockets>) -> BTreeMap<String, Mac> {
    if sockets.is_none() {
        match LinkSockets::open() {
            Ok(opened) => *sockets = Some(opened),
            Err(error) => tracing::warn!(%error, "no packet socket: egress addresses cannot be assigned"),
        }
    }
    sockets.as_mut().and_then(|sockets| sockets.refresh().ok()).unwrap_or_default()
}

fn send(
    sockets: &LinkSockets,
    monitor: &mut HoldingMonitor,
    messages: Vec<(IpAddr, Message)>,
    fault: &mut Option<i32>,
) {
    for (address, message) in messages {
        let Some(link) = monitor.link(address).map(str::to_owned) else { continue };
        match sockets.send(&link, address, &message) {
            Ok(()) => {
                if message == Message::Announce {
                    tracing::info!(%address, link, "announced");
                }
            }
            Err(error) => {
                monitor.not_asked(address);
                let before = std::mem::replace(fault, error.raw_os_error());
                if before != *fault {
                    tracing::warn!(%error, %address, link, "nobody can be asked who has the address");
                }
            }
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
        assert_eq!(wanted, [0, 5, 5, 5, 5, 5, 3, 0, 0, 0, 0, 0]);
        assert_eq!(demand.add(address, timing.interval * 12, 1, timing), 0, "a chain that counts anew");
    }
}
