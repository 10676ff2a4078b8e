//! The port counter: a thread that counts now and then how many ports Egret's addresses on this node use.
//!
//! A count lists all connections that have a mark of Egret's, which takes some microseconds for each. So it has a thread of its own, and
//! the longer a count takes, the rarer it is: at most 1 % of one CPU. Not here: how it is counted (`core::ports`).

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::core::ports::{BusiestPorts, PortCount, PortUse};
use crate::kernel::conntrack::{ConntrackError, FlowTable};
use crate::telemetry::chain;

/// The shortest time between two counts.
const PERIOD: Duration = Duration::from_secs(10);
/// A count that takes a second is followed by none for so many.
const REST: u32 = 99;

/// What to count.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PortQuestion {
    /// The bits of connection marks that are Egret's.
    pub mask: u32,
    /// The addresses that Egret translates to; without any nothing is counted.
    pub addresses: BTreeSet<IpAddr>,
}

/// A handle on the thread, which ends when it is dropped.
#[derive(Debug)]
pub struct PortCounter {
    questions: Sender<PortQuestion>,
    question: PortQuestion,
    counted: watch::Receiver<BusiestPorts>,
}

impl PortCounter {
    /// Starts the thread. It counts nothing yet.
    pub fn start() -> std::io::Result<Self> {
        let (questions, received) = channel();
        let (tell, counted) = watch::channel(BusiestPorts::new());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let work = move || count_on(&runtime, &received, &tell);
        std::thread::Builder::new().name("egret-ports".to_owned()).spawn(work)?;
        Ok(Self { questions, question: PortQuestion::default(), counted })
    }

    /// Sets what to count.
    pub fn set(&mut self, question: PortQuestion) {
        if self.question != question {
            self.question = question.clone();
            // The thread ends only with this handle.
            let _ = self.questions.send(question);
        }
    }

    /// A count that was not taken in yet.
    pub fn news(&mut self) -> Option<BusiestPorts> {
        self.counted.has_changed().unwrap_or(false).then(|| self.counted.borrow_and_update().clone())
    }
}

fn count_on(runtime: &tokio::runtime::Runtime, questions: &Receiver<PortQuestion>, tell: &watch::Sender<BusiestPorts>) {
    let (mut question, mut wait, mut fault) = (PortQuestion::default(), Duration::MAX, None);
    loop {
        match questions.recv_timeout(wait.min(Duration::from_hours(1))) {
            Ok(next) => question = next,
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        let began = Instant::now();
        match runtime.block_on(count(&question)) {
            Ok(busiest) => drop(tell.send(busiest)),
            Err(error) => {
                let error = chain(&error);
                if fault.as_ref() != Some(&error) {
                    tracing::warn!(error, "used ports cannot be counted");
                }
                fault = Some(error);
            }
        }
        wait = if question.addresses.is_empty() { Duration::MAX } else { PERIOD.max(began.elapsed() * REST) };
    }
}

async fn count(question: &PortQuestion) -> Result<BusiestPorts, ConntrackError> {
    let mut count = PortCount::default();
    if !question.addresses.is_empty() {
        let add = |flow: crate::kernel::conntrack::Flow| {
            let address = flow.reply.destination.ip();
            if question.addresses.contains(&address) {
                count.add(address, PortUse { protocol: flow.protocol, destination: flow.reply.source });
            }
        };
        FlowTable::open()?.list(question.mask, add).await?;
    }
    Ok(count.busiest())
}
