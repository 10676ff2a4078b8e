//! The controller's events, at the objects that they are about.
//!
//! Not here: what is worth an event (the other modules), and reports.

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
    /// Writes events. One that cannot be written is lost: what it says stands in the reports as well.
    pub(super) async fn record(
        &mut self,
        admission: Vec<(Reason, String)>,
        told: &[LabelEvent],
        came_upon: &PublicationResult,
        turned: &[ReadyTransition],
    ) {
        let mut events = Vec::new();
        let config = self.watching.view().config.as_ref().map(|config| config.uid.clone());
        for ((reason, note), uid) in admission.into_iter().zip(config.iter().cycle()) {
            events.push((Regarding::Config { uid: uid.clone() }, EventKind::Warning, reason, note));
        }
        let rejected = self.intent.iter().flat_map(|intent| &intent.rejected).chain(&came_upon.refused);
        let rejected: BTreeSet<Rejected> = rejected.cloned().collect();
        let news: Vec<&Rejected> = rejected.difference(&self.told_rejected).collect();
        for (rejected, uid) in news.into_iter().zip(config.iter().cycle()) {
            let note = format!("{}: {}; published is {}", rejected.place, rejected.message, rejected.instead);
            let regarding = Regarding::Config { uid: uid.clone() };
            events.push((regarding, EventKind::Warning, Reason::Invalid, note));
        }
        self.told_rejected = rejected;
        for one in turned {
            let regarding = Regarding::Policy { name: one.name.clone(), uid: one.uid.clone() };
            let kind = if one.worse { EventKind::Warning } else { EventKind::Normal };
            events.push((regarding, kind, one.reason, one.message.clone()));
        }
        for one in told {
            let node = Regarding::Node { name: one.node.to_string(), uid: one.uid.clone() };
            events.push((node, EventKind::Warning, one.reason, one.note.clone()));
        }
        for (name, by) in &came_upon.edited {
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
        for (regarding, kind, reason, note) in events {
            if let Err(error) = self.recorder.event(&regarding, kind, reason, &note).await {
                tracing::warn!(error = chain(&error), reason = reason.as_str(), "an event is not written");
            }
        }
    }
}

/// What people are told of once: a commit that waits, and one that came through a closed window. `before` is what was remembered.
pub(super) fn admission_news(active: &ActiveRevision, before: &ActiveRevision) -> Vec<(Reason, String)> {
    let what = |withheld: &PendingCommit| (withheld.commit.clone(), withheld.why.word());
    let mut news = Vec::new();
    if let Some(withheld) = &active.withheld
        && before.withheld.as_ref().map(what) != Some(what(withheld))
    {
        news.push((Reason::from(&withheld.why), withheld.message()));
    }
    if let Some(emergency) = active.emergency.as_ref().filter(|one| before.emergency.as_ref() != Some(one)) {
        news.push((Reason::EmergencyApplied, emergency.message()));
    }
    news
}
