//! What processes log, by simulated time: warnings are counted, and a failing seed prints everything.

use std::fmt::{self, Write as _};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::time::Instant;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};
use tracing_subscriber::registry;

#[derive(Debug, Clone)]
pub(crate) struct Line {
    pub(crate) at: Instant,
    pub(crate) level: Level,
    pub(crate) text: String,
}

/// All lines of one world. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<Line>>>);

impl Log {
    /// Takes in what this thread logs, as long as the guard lives.
    pub(crate) fn record(&self) -> tracing::subscriber::DefaultGuard {
        tracing::subscriber::set_default(registry().with(self.clone()))
    }

    /// A line of the simulation's own.
    pub(crate) fn note(&self, text: &str) {
        self.push(Line { at: Instant::now(), level: Level::INFO, text: format!("---- {text}") });
    }

    fn push(&self, line: Line) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(line);
    }

    pub(crate) fn lines(&self) -> Vec<Line> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many warnings and errors there are since a time.
    pub(crate) fn warnings_since(&self, since: Instant) -> usize {
        let lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().filter(|line| line.at >= since && line.level <= Level::WARN).count()
    }
}

impl fmt::Display for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines = self.lines();
        let Some(first) = lines.first() else { return Ok(()) };
        lines.iter().try_for_each(|line| {
            writeln!(f, "{:9.3} {:5} {}", (line.at - first.at).as_secs_f64(), line.level.as_str(), line.text)
        })
    }
}

impl<S: Subscriber> Layer<S> for Log {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        if *event.metadata().level() > Level::DEBUG || !event.metadata().target().starts_with("egret") {
            return;
        }
        let mut words = Words(String::new());
        event.record(&mut words);
        self.push(Line { at: Instant::now(), level: *event.metadata().level(), text: words.0 });
    }
}

struct Words(String);

impl Visit for Words {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing to a string does not fail.
        let _ = match field.name() {
            "message" => write!(self.0, "{value:?} "),
            name => write!(self.0, "{name}={value:?} "),
        };
    }
}
