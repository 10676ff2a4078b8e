//! What is said from time to time: of each node to the reports branch, and once of commits that wait.
//!
//! Deliberately absent: sending it (the parent).

use super::labels::LabelReconciler;
use super::pass::Pass;
use crate::core::admission::PendingCommit;
use crate::core::gate::ActiveRevision;
use crate::core::report::history::{NodeReport, Rejected};

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

/// What agents say of their nodes, and what the controller saw of their labels.
pub(super) fn reports(pass: &Pass<'_>, labels: &LabelReconciler, rejected: &[Rejected]) -> Vec<NodeReport> {
    let mut reports = Vec::new();
    for (name, status) in pass.nodes() {
        let Some(mut report) = status.report else { continue };
        report.rejected = rejected.to_vec();
        report.withheld = pass.intent.active.withheld.clone().map(Box::new);
        report.emergency = pass.intent.active.emergency.clone().map(Box::new);
        if let Some(own) = labels.report(&name) {
            report.drift.extend(own.drift.iter().cloned());
            report.corrected.extend(own.corrected.iter().cloned());
            report.corrected.sort_by_key(|record| std::cmp::Reverse(record.corrected));
        }
        reports.push(report);
    }
    reports
}
