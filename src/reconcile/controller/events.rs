//! Events in the cluster: what people are told where they look for it.
//!
//! Deliberately absent: what is worth telling (the others here), and reports.

use std::collections::BTreeSet;

use super::Controller;
use super::labels::LabelEvent;
use super::pass::{PublicationResult, ReadyTransition};
use crate::cluster::live::{EventKind, Regarding};
use crate::core::admission::PendingCommit;
use crate::core::gate::ActiveRevision;
use crate::core::report::history::Rejected;
use crate::telemetry::chain;

impl Controller {
    /// Tells people. An event that cannot be written is lost: what it says stands in the reports as well.
    pub(super) async fn record(
        &mut self,
        admission: Vec<(&'static str, String)>,
        told: &[LabelEvent],
        came_upon: &PublicationResult,
        turned: &[ReadyTransition],
    ) {
        let mut events = Vec::new();
        let config = self.watching.view().config.as_ref().map(|config| config.uid.clone());
        for ((reason, note), uid) in admission.into_iter().zip(config.iter().cycle()) {
            events.push((Regarding::Config { uid: uid.clone() }, EventKind::Warning, reason.to_owned(), note));
        }
        let rejected = self.intent.iter().flat_map(|intent| &intent.rejected).chain(&came_upon.refused);
        let rejected: BTreeSet<Rejected> = rejected.cloned().collect();
        let news: Vec<&Rejected> = rejected.difference(&self.told_rejected).collect();
        for (rejected, uid) in news.into_iter().zip(config.iter().cycle()) {
            let note = format!("{}: {}; in force is {}", rejected.place, rejected.message, rejected.instead);
            let regarding = Regarding::Config { uid: uid.clone() };
            events.push((regarding, EventKind::Warning, "DocumentRejected".to_owned(), note));
        }
        self.told_rejected = rejected;
        for one in turned {
            let regarding = Regarding::Policy { name: one.name.clone(), uid: one.uid.clone() };
            let kind = if one.ready { EventKind::Normal } else { EventKind::Warning };
            events.push((regarding, kind, one.reason.clone(), one.message.clone()));
        }
        for one in told {
            let node = Regarding::Node { name: one.node.to_string(), uid: one.uid.clone() };
            events.push((node, EventKind::Warning, one.reason.to_owned(), one.note.clone()));
        }
        for (name, by) in &came_upon.edited {
            tracing::warn!(policy = name, by, "somebody edited a published policy; it is as Git has it again");
            if let Some(policy) = self.watching.view().policies.get(name) {
                let regarding = Regarding::Policy { name: name.clone(), uid: policy.uid.clone() };
                let note = format!("{by} edited it; it is as Git has it again");
                events.push((regarding, EventKind::Warning, "PolicyEdited".to_owned(), note));
            }
        }
        for (regarding, kind, reason, note) in events {
            if let Err(error) = self.recorder.event(&regarding, kind, &reason, &note).await {
                tracing::warn!(error = chain(&error), reason, "an event is not written");
            }
        }
    }
}

/// What people are told of once: a commit that waits, and one that came through a closed window. `before` is what was remembered.
pub(super) fn admission_news(active: &ActiveRevision, before: &ActiveRevision) -> Vec<(&'static str, String)> {
    let what = |withheld: &PendingCommit| (withheld.commit.clone(), withheld.why.word());
    let mut news = Vec::new();
    if let Some(withheld) = &active.withheld
        && before.withheld.as_ref().map(what) != Some(what(withheld))
    {
        news.push((withheld.why.word(), withheld.message()));
    }
    if let Some(emergency) = active.emergency.as_ref().filter(|one| before.emergency.as_ref() != Some(one)) {
        news.push(("EmergencyApplied", emergency.message()));
    }
    news
}
