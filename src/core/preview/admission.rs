//! When a previewed change would become active, if that is not right after the merge.
//!
//! Not here: checking signatures (see `git::signature`). The merge commit or squash commit that a forge creates has a
//! signature of its own.

use super::{PreviewInput, Risk, RiskLevel};
use crate::core::admission::{AdmissionDecision, AdmissionRules, CONFIRMATION, PendingReason, by_the_clock};
use crate::core::escape::EscapedText;
use crate::core::removals::removals;
use crate::core::text::short_commit;

/// The admission decision for the head once it is merged: its signature, the windows of the revision before, the
/// suspension of the one after.
pub(super) fn verdict(input: &PreviewInput<'_>) -> AdmissionDecision {
    let unsigned = input
        .unsigned
        .map(|(commit, what)| PendingReason::Unsigned { commit: commit.to_owned(), what: what.to_owned() });
    let rules = AdmissionRules {
        unsigned,
        first_start: false,
        windows: &input.before.config.change_windows,
        suspension: input.after.config.suspend.as_ref(),
        removals: removals(input.before, input.after, Some(input.facts)),
        trailers: input.trailers,
    };
    rules.judge(input.now)
}

/// The risks that report which commit waits for what, and which one passes.
pub(super) fn risks(input: &PreviewInput<'_>, verdict: AdmissionDecision) -> Vec<Risk> {
    let danger = |code, title, text| Risk { level: RiskLevel::Waits, code, title, text };
    match verdict {
        AdmissionDecision::Pending(PendingReason::Suspended { until, owner, reason }) => {
            let suspended_before = input.before.config.suspend == input.after.config.suspend;
            let text = EscapedText::new().words(if suspended_before {
                "the cluster is suspended by "
            } else {
                "this change suspends the cluster, by "
            });
            let text = text.name(owner).words(" ");
            let text = match until {
                Some(until) => text.words(format!("until {} (", by_the_clock(until, "UTC"))),
                None => text.words("("),
            };
            let text = text
                .quote(reason)
                .words("); no commit comes into force before, and then only in an open change window");
            vec![danger("suspended", "Suspended", text)]
        }
        AdmissionDecision::Pending(PendingReason::Window { opens, time_zone, window }) => {
            let text = EscapedText::new().words("closed. It ");
            let text = match opens {
                Some(opens) => text.words(format!("opens {} (", by_the_clock(opens, &time_zone))),
                None => text.words("never opens ("),
            };
            vec![danger("change-window", "Change window", text.quote(window).words("); until then nothing happens"))]
        }
        AdmissionDecision::Emergency { trailer, reason } => {
            let text = EscapedText::new().words("closed, and the head passes it by its trailer ").name(trailer);
            let text = text
                .words(" (")
                .quote(reason)
                .words("). A merge commit passes only with that line as the last paragraph of its own message");
            vec![Risk { level: RiskLevel::Warning, ..danger("emergency", "Change window", text) }]
        }
        AdmissionDecision::Pending(PendingReason::Unsigned { commit, what }) => {
            let text = EscapedText::new().name(short_commit(&commit)).words(" would be refused: ").quote(what);
            let text = text.words(". The active commit stays until one comes that is signed as demanded; the forge's merge button makes one of its own");
            vec![Risk { level: RiskLevel::Danger, ..danger("unsigned", "Signature", text) }]
        }
        AdmissionDecision::Pending(PendingReason::Removals(removals)) => {
            let text = format!(
                "{removals}. It takes effect only if the commit on the branch, which may be the merge commit, has the trailer "
            );
            let text = EscapedText::new().words(text).name(CONFIRMATION).words(" with a reason");
            vec![danger("removals-unconfirmed", "Removals", text)]
        }
        AdmissionDecision::Admitted => Vec::new(),
    }
}
