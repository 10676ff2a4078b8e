//! The parts of a report about pending commits, and about those that passed a closed change window.
//!
//! Not here: the decision (see `core::admission`).

use std::collections::BTreeMap;
use std::fmt::Write;

use jiff::Timestamp;

use super::history::NodeReport;
use super::{names, short};
use crate::core::admission::{Emergency, PendingCommit, by_the_clock};
use crate::core::escape::inert;

/// The page's lines: which commits are pending on which nodes, and which were let through.
pub(super) fn page(page: &mut String, reports: &[NodeReport]) {
    let mut waiting: BTreeMap<(String, String), (Timestamp, Vec<&str>)> = BTreeMap::new();
    let mut passed: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for report in reports {
        if let Some(PendingCommit { commit, summary, author, since, why }) = report.pending.as_deref() {
            let what = format!("{} “{}” of {}", short(commit), inert(summary), inert(author));
            // Each node has a clock of its own, and saw the commit at another time.
            let (first, nodes) = waiting.entry((what, inert(&why.to_string()))).or_insert((*since, Vec::new()));
            *first = (*first).min(*since);
            nodes.push(&report.node);
        }
        if let Some(Emergency { commit, author, trailer, reason }) = report.emergency.as_deref() {
            let (author, reason, trailer) = (inert(author), inert(reason), inert(trailer));
            let line = format!("{} by {author}, because: {reason} ({trailer})", short(commit));
            passed.entry(line).or_default().push(&report.node);
        }
    }
    for ((what, why), (since, nodes)) in waiting {
        let (since, nodes) = (by_the_clock(since, "UTC"), names(nodes));
        let _ = writeln!(page, "**Waiting** since {since}: {what}: {why}. On {nodes}.\n");
    }
    for (line, nodes) in passed {
        let _ = writeln!(page, "**Applied outside the change window:** {line}. On {}.\n", names(nodes));
    }
}

/// The subject of a commit whose only change is that a commit is pending or was let through.
pub(super) fn subject(before: Option<&NodeReport>, after: &NodeReport) -> Option<String> {
    if let Some(emergency) = &after.emergency
        && before.and_then(|report| report.emergency.as_ref()) != Some(emergency)
    {
        return Some(emergency.message());
    }
    let pending = after.pending.as_ref()?;
    let known = before.and_then(|report| report.pending.as_ref()) == Some(pending);
    (!known).then(|| pending.message())
}
