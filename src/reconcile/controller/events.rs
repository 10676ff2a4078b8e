//! The controller's Kubernetes events, each recorded on the object that it concerns.
//!
//! Not here: what causes an event (the other modules of `controller`), and drift reports (`core::report`).

use std::collections::BTreeSet;

use super::Controller;
use super::labels::LabelEvent;
use super::pass::{PublicationResult, ReadyTransition};
use crate::cluster::live::{EventKind, Regarding};
use crate::core::admission::PendingCommit;
use crate::core::gate::ActiveRevision;
use crate::core::report::history::Rejected;
use crate::core::status::Reason;
use crate::telemetry::chain;

impl Controller {
    /// Records events. One that cannot be written is dropped: the reports contain the same.
    pub(super) async fn record(
        &mut self,
        admission: Vec<(Reason, String)>,
        label_events: &[LabelEvent],
        publication: &PublicationResult,
        transitions: &[ReadyTransition],
    ) {
        let mut events = Vec::new();
        let config = self.watching.view().config.as_ref().map(|config| config.uid.clone());
        for ((reason, note), uid) in admission.into_iter().zip(config.iter().cycle()) {
            events.push((Regarding::Config { uid: uid.clone() }, EventKind::Warning, reason, note));
        }
        let rejected = self.intent.iter().flat_map(|intent| &intent.rejected).chain(&publication.refused);
        let rejected: BTreeSet<Rejected> = rejected.cloned().collect();
        let news: Vec<&Rejected> = rejected.difference(&self.recorded_rejected).collect();
        for (rejected, uid) in news.into_iter().zip(config.iter().cycle()) {
            let note = format!("{}: {}; published is {}", rejected.place, rejected.message, rejected.instead);
            let regarding = Regarding::Config { uid: uid.clone() };
            events.push((regarding, EventKind::Warning, Reason::Invalid, note));
        }
        self.recorded_rejected = rejected;
        let broken = if config.is_some() { self.assertions.news() } else { Vec::new() };
        for (finding, uid) in broken.into_iter().zip(config.iter().cycle()) {
            let note = format!("the assertion {} {}", finding.subject, finding.message);
            let regarding = Regarding::Config { uid: uid.clone() };
            events.push((regarding, EventKind::Warning, Reason::AssertionBroken, note));
        }
        for one in transitions {
            let regarding = Regarding::Policy { name: one.name.clone(), uid: one.uid.clone() };
            let kind = if one.worse { EventKind::Warning } else { EventKind::Normal };
            events.push((regarding, kind, one.reason, one.message.clone()));
        }
        for one in label_events {
            let node = Regarding::Node { name: one.node.to_string(), uid: one.uid.clone() };
            events.push((node, EventKind::Warning, one.reason, one.note.clone()));
        }
        for (name, by) in &publication.edited {
            tracing::warn!(
                policy = name,
                by,
                "another client edited a published policy; it is restored to what Git has"
            );
            if let Some(policy) = self.watching.view().policies.get(name) {
                let regarding = Regarding::Policy { name: name.clone(), uid: policy.uid.clone() };
                let note = format!("{by} edited it; it is restored to what Git has");
                events.push((regarding, EventKind::Warning, Reason::DriftCorrected, note));
            }
        }
        for (name, uid) in publication.deleted.iter().zip(config.iter().cycle()) {
            tracing::warn!(policy = name, "another client deleted a published policy; it is published again");
            let note = format!("PublishedEgressPolicy {name} was deleted; it is published again");
            events.push((Regarding::Config { uid: uid.clone() }, EventKind::Warning, Reason::DriftCorrected, note));
        }
        for (regarding, kind, reason, note) in events {
            if let Err(error) = self.recorder.event(&regarding, kind, reason, &note).await {
                tracing::warn!(error = chain(&error), reason = reason.as_str(), "an event is not written");
            }
        }
    }
}

/// Events that are recorded once: a commit is pending, or one was admitted through a closed window. `before` is the
/// revision as last persisted.
pub(super) fn admission_news(active: &ActiveRevision, before: &ActiveRevision) -> Vec<(Reason, String)> {
    let what = |pending: &PendingCommit| (pending.commit.clone(), pending.why.as_str());
    let mut news = Vec::new();
    if let Some(pending) = &active.pending
        && before.pending.as_ref().map(what) != Some(what(pending))
    {
        news.push((Reason::from(&pending.why), pending.message()));
    }
    if let Some(emergency) = active.emergency.as_ref().filter(|one| before.emergency.as_ref() != Some(one)) {
        news.push((Reason::EmergencyApplied, emergency.message()));
    }
    news
}
