//! Drift and changes in one order: commits, when they became active, what drifted and was corrected, and since when something is wrong.
//!
//! Times are those of events, as reports have them. Not here: what was before the reports begin, which is in the
//! history of the reports branch.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::Knowledge;
use crate::core::explain::DocumentChange;
use crate::core::overview::Urgency;
use crate::core::report::drift::DriftClass;
use crate::core::report::history::{DatedFinding, DriftRecord, NodeReport};
use crate::core::text::counted;

/// At most this many are kept, the newest: a cluster of 5,000 nodes may know half a million.
const KEPT: usize = 1000;

/// What something was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum HappeningKind {
    /// A commit was made.
    Commit,
    /// A commit became active.
    Active,
    /// Another process changed an object.
    Drift,
    /// A node found something.
    Finding,
}

impl HappeningKind {
    /// In a word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Commit => "commit",
            Self::Active => "active",
            Self::Drift => "drift",
            Self::Finding => "finding",
        }
    }
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Happening {
    /// When.
    pub at: Timestamp,
    /// What it was.
    pub kind: HappeningKind,
    /// How urgent it still is.
    pub urgency: Urgency,
    /// The node.
    pub node: Option<String>,
    /// In a line.
    pub text: String,
    /// More.
    pub detail: Option<String>,
    /// The commit.
    pub commit: Option<String>,
}

/// A pointer to something, so that only what is kept is made into text.
enum Source<'a> {
    Commit(&'a DocumentChange),
    Active { commit: &'a str, summary: &'a str, nodes: usize, first: &'a str },
    Drift(&'a NodeReport, &'a DriftRecord),
    Finding(&'a NodeReport, &'a DatedFinding),
}

/// What happened, the newest first.
pub(super) fn timeline(known: &Knowledge, commits: &[DocumentChange]) -> Vec<Happening> {
    let mut all: Vec<(Timestamp, Source<'_>)> = commits.iter().map(|one| (one.time, Source::Commit(one))).collect();
    let mut active: BTreeMap<&str, (Timestamp, &str, usize, &str)> = BTreeMap::new();
    for report in known.reports.values() {
        if let Some((commit, since)) = report.active.as_ref().and_then(|active| Some((active, active.since?))) {
            let fresh = (since, commit.summary.as_str(), 0, report.node.as_str());
            let entry = active.entry(&commit.commit).or_insert(fresh);
            entry.2 += 1;
            if since < entry.0 {
                (entry.0, entry.3) = (since, &report.node);
            }
        }
        let drifts = report.drift.iter().chain(&report.corrected);
        all.extend(drifts.map(|drift| (drift.last_seen, Source::Drift(report, drift))));
        all.extend(report.findings.iter().map(|one| (one.since, Source::Finding(report, one))));
    }
    let active = active
        .into_iter()
        .map(|(commit, (since, summary, nodes, first))| (since, Source::Active { commit, summary, nodes, first }));
    all.extend(active);
    all.sort_by_key(|(at, _)| std::cmp::Reverse(*at));
    all.truncate(KEPT);
    all.into_iter().map(|(at, source)| source.told(at)).collect()
}

impl Source<'_> {
    fn told(self, at: Timestamp) -> Happening {
        match self {
            Self::Commit(commit) => Happening {
                at,
                kind: HappeningKind::Commit,
                urgency: Urgency::Fine,
                node: None,
                text: commit.summary.clone(),
                detail: Some(commit.author.clone()).filter(|author| !author.is_empty()),
                commit: Some(commit.commit.clone()),
            },
            Self::Active { commit, summary, nodes, first } => Happening {
                at,
                kind: HappeningKind::Active,
                urgency: Urgency::Fine,
                node: Some(first.to_owned()).filter(|_| nodes == 1),
                text: if summary.is_empty() { "became active".to_owned() } else { format!("{summary}: became active") },
                detail: (nodes > 1).then(|| format!("on {}, first on {first}", counted(nodes, "node"))),
                commit: Some(commit.to_owned()),
            },
            Self::Drift(report, drift) => Happening {
                at,
                kind: HappeningKind::Drift,
                urgency: if drift.corrected.is_some() { Urgency::Fine } else { Urgency::Bad },
                node: Some(report.node.clone()),
                text: what(drift),
                detail: Some(became(drift)),
                commit: None,
            },
            Self::Finding(report, DatedFinding { finding, .. }) => Happening {
                at,
                kind: HappeningKind::Finding,
                urgency: match (finding.drop_reason(), finding.is_problem()) {
                    (Some(_), _) => Urgency::Bad,
                    (None, true) => Urgency::Doubtful,
                    (None, false) => Urgency::Fine,
                },
                node: Some(report.node.clone()),
                text: format!("{}: {}", finding.subject, finding.message),
                detail: finding.hint.as_ref().map(|hint| format!("to do: {hint}")),
                commit: None,
            },
        }
    }
}

fn what(drift: &DriftRecord) -> String {
    let how = match drift.class {
        DriftClass::Missing => "was gone",
        DriftClass::Extra => "did not belong there",
        DriftClass::Changed => "was changed",
    };
    let by = drift.by.as_ref().map(|by| format!(", by {}", by.guess)).unwrap_or_default();
    format!("{} {how}{by}", drift.object)
}

fn became(drift: &DriftRecord) -> String {
    let times = if drift.times > 1 { format!("; seen {} times", drift.times) } else { String::new() };
    let hint = drift.hint.as_ref().map(|hint| format!("; to do: {hint}")).unwrap_or_default();
    match drift.took_milliseconds() {
        Some(took) => format!("corrected after {took} ms{times}{hint}"),
        None => format!("{}{times}{hint}", drift.action),
    }
}
