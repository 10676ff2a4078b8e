//! The wall clock, as a value: a simulation has its own. Waits are measured by tokio's `Instant`, which a simulation pauses.

use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;

/// A wall clock. Cheap to clone.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> Timestamp + Send + Sync>);

impl Clock {
    /// This machine's.
    pub fn system() -> Self {
        Self::new(Timestamp::now)
    }

    /// A clock that shows what the function returns.
    pub fn new(now: impl Fn() -> Timestamp + Send + Sync + 'static) -> Self {
        Self(Arc::new(now))
    }

    /// The current time.
    pub fn now(&self) -> Timestamp {
        (self.0)()
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Clock").field(&self.now()).finish()
    }
}
