//! What the reflectors of one process know together of an API server that is away: one of them probes it, the others
//! wait for its answer.
//!
//! Not here: how long each waits (see `reflector`).

use std::sync::Arc;

use tokio::sync::{Mutex, OwnedMutexGuard, broadcast};

/// Shared by all reflectors of one process.
#[derive(Debug, Clone)]
pub(super) struct Outage {
    /// The ends of outages. (Not a watch channel, which wakes its receivers in an order that it draws: a simulation
    /// would not be repeatable.)
    ends: broadcast::Sender<()>,
    probe: Arc<Mutex<()>>,
}

/// Who holds it asks often; for all.
pub(super) type Probe = OwnedMutexGuard<()>;

impl Outage {
    pub(super) fn new() -> Self {
        Self { ends: broadcast::Sender::new(1), probe: Arc::default() }
    }

    /// The right to ask often, unless another reflector has it.
    pub(super) fn probe(&self) -> Option<Probe> {
        Arc::clone(&self.probe).try_lock_owned().ok()
    }

    /// The server answers again.
    pub(super) fn end(&self) {
        // It fails without a receiver: then nothing waits.
        drop(self.ends.send(()));
    }

    /// Receives when the server answers again.
    pub(super) fn ends(&self) -> broadcast::Receiver<()> {
        self.ends.subscribe()
    }
}
