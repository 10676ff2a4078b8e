//! Wakes everybody who waits for a change, in the order in which they began to wait. (tokio's watch channel wakes in an order that it draws,
//! so that a simulated world would not be the same twice.)

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Notify;

/// Counts changes.
#[derive(Clone, Default)]
pub(crate) struct Signal(Arc<(AtomicU64, Notify)>);

impl Signal {
    /// Something changed.
    pub(crate) fn send(&self) {
        self.0.0.fetch_add(1, Ordering::SeqCst);
        self.0.1.notify_waiters();
    }

    /// What changes from here on can be waited for.
    pub(crate) fn subscribe(&self) -> Changes {
        let seen = self.0.0.load(Ordering::SeqCst);
        Changes { signal: self.clone(), seen }
    }
}

/// What one who waits has seen.
pub(crate) struct Changes {
    signal: Signal,
    seen: u64,
}

impl Changes {
    /// Whatever changed until now is seen.
    pub(crate) fn mark_seen(&mut self) {
        self.seen = self.signal.0.0.load(Ordering::SeqCst);
    }

    /// Waits until there is something that is not seen, which it is then.
    pub(crate) async fn changed(&mut self) {
        let (count, notify) = &*self.signal.0;
        loop {
            let mut notified = pin!(notify.notified());
            notified.as_mut().enable();
            let now = count.load(Ordering::SeqCst);
            if now != self.seen {
                self.seen = now;
                return;
            }
            notified.await;
        }
    }
}
