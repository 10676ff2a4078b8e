//! What this leader has written of published policies and its view does not show yet.
//!
//! A watch may lag behind, or have lost an event. Without this every pass would write the same again until the view has caught up.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

/// What is still not there after this time is written once more.
const AGAIN: Duration = Duration::from_secs(30);

/// A write: the version of the object that the view had, and what it was to become; none: nothing.
#[derive(Debug)]
struct Sent {
    version: Option<String>,
    wanted: Option<Value>,
    at: Instant,
}

/// Writes by resource name.
#[derive(Debug, Default)]
pub(super) struct SentPolicies(Mutex<BTreeMap<String, Sent>>);

impl SentPolicies {
    /// Forgets what the view shows by now: what another client changes from here on is written again at once.
    pub(super) fn seen<'v>(&self, version: impl Fn(&str) -> Option<&'v str>) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|name, sent| sent.version.as_deref() == version(name));
    }

    /// Whether the same was written a moment ago, on the same version.
    pub(super) fn is_under_way(&self, name: &str, version: Option<&str>, wanted: Option<&Value>) -> bool {
        let sent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        sent.get(name).is_some_and(|sent| {
            sent.version.as_deref() == version && sent.wanted.as_ref() == wanted && sent.at.elapsed() < AGAIN
        })
    }

    /// It was written.
    pub(super) fn note(&self, name: &str, version: Option<&str>, wanted: Option<&Value>) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, sent| sent.at.elapsed() < AGAIN);
        let sent = Sent { version: version.map(str::to_owned), wanted: wanted.cloned(), at: Instant::now() };
        all.insert(name.to_owned(), sent);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_same_is_not_written_twice_until_the_view_has_another_version() {
        let (sent, spec) = (SentPolicies::default(), json!({"a": 1}));
        sent.note("p", Some("7"), Some(&spec));
        sent.note("gone", Some("8"), None);
        assert!(sent.is_under_way("p", Some("7"), Some(&spec)) && sent.is_under_way("gone", Some("8"), None));
        assert!(!sent.is_under_way("p", Some("9"), Some(&spec)), "somebody has changed it since");
        assert!(!sent.is_under_way("p", Some("7"), Some(&json!({"a": 2}))), "something else is wanted now");
        sent.note("new", None, Some(&spec));
        sent.seen(|name| (name == "new").then_some("1"));
        assert!(!sent.is_under_way("new", None, Some(&spec)), "it was there, and somebody has deleted it");
        assert!(!sent.is_under_way("p", Some("7"), None) && !sent.is_under_way("q", None, Some(&spec)));
    }
}
