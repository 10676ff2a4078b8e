//! The threads that watch what no netlink event reports: which gateways answer, who has an address, which connections
//! have to move, how many ports are used.
//!
//! Threads of their own, because a round may take longer than a gateway has to answer. Not here: what each of them does (`prober`,
//! `holder`, `transfers`, `port_counter`).

use crate::core::assignment::holding::HoldingView;
use crate::core::liveness::LivenessView;
use crate::reconcile::node::holder::Holder;
use crate::reconcile::node::port_counter::PortCounter;
use crate::reconcile::node::prober::Prober;
use crate::reconcile::node::transfers::Transfers;

/// Handles on the threads, which end when they are dropped.
#[derive(Debug)]
pub struct Watchers {
    /// Probes gateways.
    pub prober: Prober,
    /// Asks who has the addresses that Egret assigns.
    pub holder: Holder,
    /// Gives and takes connections.
    pub transfers: Transfers,
    /// Counts ports.
    pub ports: PortCounter,
}

/// What a thread sees now.
#[derive(Debug)]
pub enum Seen {
    /// Which gateways answer.
    Liveness(LivenessView),
    /// Which addresses this node is to have.
    Holding(HoldingView),
}

impl Watchers {
    /// Starts the threads.
    pub fn start() -> std::io::Result<Self> {
        let (transfers, ports) = (Transfers::start()?, PortCounter::start()?);
        Ok(Self { prober: Prober::start()?, holder: Holder::start()?, transfers, ports })
    }
}

/// Waits until one of the threads sees something else; for ever without them, as in a simulation. Cancel-safe.
pub async fn changed(watchers: &mut Option<Watchers>) -> Seen {
    if let Some(Watchers { prober, holder, .. }) = watchers {
        let seen = tokio::select! {
            view = prober.changed() => view.map(Seen::Liveness),
            view = holder.changed() => view.map(Seen::Holding),
        };
        if let Some(seen) = seen {
            return seen;
        }
    }
    std::future::pending().await
}
