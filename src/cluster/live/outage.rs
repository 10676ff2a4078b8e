//! What the reflectors of one process know together of an API server that is away: one of them probes it, the others
//! wait for its answer.
//!
//! Not here: how long each waits (see `reflector`).

use std::sync::Arc;

use tokio::sync::{Mutex, OwnedMutexGuard, watch};

/// Shared by all reflectors of one process.
#[derive(Debug, Clone)]
pub(super) struct Outage {
    /// Counts the ends of outages.
    ends: watch::Sender<u64>,
    probe: Arc<Mutex<()>>,
}

/// Who holds it asks often; for all.
pub(super) type Probe = OwnedMutexGuard<()>;

impl Outage {
    pub(super) fn new() -> Self {
        Self { ends: watch::Sender::new(0), probe: Arc::default() }
    }

    /// The right to ask often, unless another reflector has it.
    pub(super) fn probe(&self) -> Option<Probe> {
        Arc::clone(&self.probe).try_lock_owned().ok()
    }

    /// The server answers again.
    pub(super) fn end(&self) {
        self.ends.send_modify(|count| *count += 1);
    }

    /// Changes when the server answers again.
    pub(super) fn ends(&self) -> watch::Receiver<u64> {
        self.ends.subscribe()
    }
}
