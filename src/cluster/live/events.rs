//! Writes Kubernetes Events, for `kubectl events` and `kubectl describe`. A repeated event increments the count of
//! the first one. An event that cannot be written is lost, as everywhere in Kubernetes.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use kube::core::Request;
use kube::core::params::{Patch, PatchParams, PostParams};
use serde::de::IgnoredAny;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::error::ApiError;
use super::resources::{API_VERSION, CONFIG_NAME};
use super::{ANSWER, ApiClient};
use crate::core::status::Reason;

/// The namespace of events about cluster-scoped objects.
const PATH: &str = "/apis/events.k8s.io/v1/namespaces/default/events";
/// The shortest time between two updates of a repeated event on the server.
const PAUSE: Duration = Duration::from_mins(5);
/// An event that did not repeat for this long is written as a new one. Servers delete events after an hour.
const MEMORY: Duration = Duration::from_mins(30);
/// The most events that are tracked; beyond it the oldest is dropped, and written anew when it repeats.
const KEPT: usize = 256;
/// The server's limit for a note, in bytes.
const NOTE: usize = 1024;

/// The object of an event.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Regarding {
    /// A node.
    Node {
        /// Its name.
        name: String,
        /// Its uid.
        uid: String,
    },
    /// A PublishedEgressPolicy.
    Policy {
        /// Its name in the cluster.
        name: String,
        /// Its uid.
        uid: String,
    },
    /// The EgressConfig.
    Config {
        /// Its uid.
        uid: String,
    },
}

/// The type of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum EventKind {
    /// Information.
    Normal,
    /// Something does not work.
    Warning,
}

/// Writes events, and tracks those it has written.
#[derive(Debug)]
pub struct Recorder {
    live: ApiClient,
    controller: &'static str,
    instance: String,
    known: BTreeMap<Key, Known>,
}

/// Two events with the same key are the same event.
type Key = (Regarding, EventKind, Reason, String);

#[derive(Debug)]
struct Known {
    name: String,
    count: u32,
    last: Instant,
    written: Instant,
}

/// What to write.
#[derive(Debug, PartialEq, Eq)]
enum Write {
    New(String),
    Again(String, u32),
    Nothing,
}

impl ApiClient {
    /// A recorder for `egret.dev/controller` or `egret.dev/agent`, with the name of this pod or node.
    pub fn recorder(&self, controller: &'static str, instance: &str) -> Recorder {
        Recorder { live: self.clone(), controller, instance: cut(instance, 128).to_owned(), known: BTreeMap::new() }
    }
}

impl Recorder {
    /// Writes an event. `note` is a sentence without parts that differ each time.
    pub async fn event(
        &mut self,
        regarding: &Regarding,
        kind: EventKind,
        reason: Reason,
        note: &str,
    ) -> Result<(), ApiError> {
        let now = self.live.clock.now();
        let key = (regarding.clone(), kind, reason, note.to_owned());
        let doing = format!("writing the event {reason}");
        let (path, result) = match self.next(&key, Instant::now(), now) {
            Write::Nothing => return Ok(()),
            Write::New(name) => {
                let body = self.body(&key, &name, now);
                let request = Request::new(PATH).create(&PostParams::default(), body.to_string().into_bytes());
                (name, self.live.call::<IgnoredAny>(&doing, request, ANSWER).await)
            }
            Write::Again(name, count) => {
                let body = json!({"series": {"count": count, "lastObservedTime": micros(now)}});
                let request = Request::new(PATH).patch(&name, &PatchParams::default(), &Patch::Merge(body));
                (name, self.live.call::<IgnoredAny>(&doing, request, ANSWER).await)
            }
        };
        if let Err(error) = result {
            // The next event of this kind is written anew: the server may have deleted this one, or never received
            // it.
            self.known.retain(|_, known| known.name != path);
            return Err(error);
        }
        Ok(())
    }

    /// Counts an event, and returns what to write.
    fn next(&mut self, key: &Key, now: Instant, clock: Timestamp) -> Write {
        self.known.retain(|_, known| now.duration_since(known.last) < MEMORY);
        if let Some(known) = self.known.get_mut(key) {
            known.count += 1;
            known.last = now;
            if now.duration_since(known.written) < PAUSE {
                return Write::Nothing;
            }
            known.written = now;
            return Write::Again(known.name.clone(), known.count);
        }
        if self.known.len() >= KEPT
            && let Some(oldest) = self.known.iter().min_by_key(|(_, known)| known.last).map(|(key, _)| key.clone())
        {
            self.known.remove(&oldest);
        }
        // The naming scheme of kubelet and client-go. Names have at most 253 characters.
        let name = format!("{}.{:x}", cut(key.0.name(), 230), clock.as_nanosecond());
        self.known.insert(key.clone(), Known { name: name.clone(), count: 1, last: now, written: now });
        Write::New(name)
    }

    fn body(&self, key: &Key, name: &str, now: Timestamp) -> Value {
        let (regarding, kind, reason, note) = key;
        json!({
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {"name": name, "namespace": "default"},
            "eventTime": micros(now),
            "reportingController": self.controller,
            "reportingInstance": self.instance,
            "action": "Reconcile",
            "reason": reason,
            "regarding": regarding.reference(),
            "note": cut(note, NOTE),
            "type": match kind { EventKind::Normal => "Normal", EventKind::Warning => "Warning" },
        })
    }
}

impl Regarding {
    fn name(&self) -> &str {
        match self {
            Self::Node { name, .. } | Self::Policy { name, .. } => name,
            Self::Config { .. } => CONFIG_NAME,
        }
    }

    fn reference(&self) -> Value {
        let (version, kind, uid) = match self {
            Self::Node { uid, .. } => ("v1", "Node", uid),
            Self::Policy { uid, .. } => (API_VERSION, "PublishedEgressPolicy", uid),
            Self::Config { uid } => (API_VERSION, "EgressConfig", uid),
        };
        json!({"apiVersion": version, "kind": kind, "name": self.name(), "uid": uid})
    }
}

/// MicroTime has six digits; the server rejects more.
fn micros(time: Timestamp) -> String {
    format!("{time:.6}")
}

/// The start of a text, at most this many bytes long.
fn cut(text: &str, bytes: usize) -> &str {
    &text[..text.floor_char_boundary(bytes)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(note: &str) -> Key {
        let node = Regarding::Node { name: "kind-worker".to_owned(), uid: "uid".to_owned() };
        (node, EventKind::Warning, Reason::DriftDetected, note.to_owned())
    }

    #[tokio::test]
    async fn an_event_that_comes_again_is_counted_and_written_every_few_minutes() {
        let mut recorder = ApiClient::at("http://127.0.0.1:1").recorder("egret.dev/agent", "kind-worker");
        let (start, clock) = (Instant::now(), Timestamp::UNIX_EPOCH);
        let at = |minutes: u64| start + Duration::from_mins(minutes);
        let name = "kind-worker.0".to_owned();
        assert_eq!(recorder.next(&key("a"), at(0), clock), Write::New(name.clone()));
        assert_eq!(recorder.next(&key("a"), at(1), clock), Write::Nothing);
        assert_eq!(recorder.next(&key("b"), at(1), clock), Write::New(name.clone()));
        assert_eq!(recorder.next(&key("a"), at(6), clock), Write::Again(name.clone(), 3));
        assert_eq!(recorder.next(&key("a"), at(7), clock), Write::Nothing);
        assert_eq!(recorder.next(&key("a"), at(37), clock), Write::New(name), "it was forgotten");
    }

    #[tokio::test]
    async fn no_more_is_remembered_than_there_is_room_for() {
        let mut recorder = ApiClient::at("http://127.0.0.1:1").recorder("egret.dev/agent", "kind-worker");
        let start = Instant::now();
        for number in 0..600_u64 {
            let time = start + Duration::from_millis(number);
            let written = recorder.next(&key(&number.to_string()), time, Timestamp::UNIX_EPOCH);
            assert!(matches!(written, Write::New(_)));
        }
        assert_eq!(recorder.known.len(), KEPT);
    }

    #[test]
    fn times_have_six_digits_and_texts_fit() {
        let time: Timestamp = "2026-11-22T19:56:38.123456789Z".parse().expect("a time");
        assert_eq!(micros(time), "2026-11-22T19:56:38.123456Z");
        assert_eq!(micros(Timestamp::UNIX_EPOCH), "1970-01-01T00:00:00.000000Z");
        assert_eq!(cut("äöü", 3), "ä");
    }
}
