//! The subject line of a report's commit: the newest event in it.
//!
//! Not here: trailers, which the caller adds, and the report's files (see `files`).

use super::drift::DriftClass;
use super::history::{DriftRecord, NodeReport};
use super::waiting;
use crate::core::text::{counted, short_commit, shortened};

/// The subject for changes on several nodes: the first node's, and how many more there are. None if nothing changed.
pub fn subject_of(changed: &[(Option<NodeReport>, NodeReport)]) -> Option<String> {
    let (before, after) = changed.first()?;
    let first = subject(before.as_ref(), after);
    Some(match changed.len() - 1 {
        0 => first,
        more => shorten(&format!("{first} (and {})", counted(more, "more node"))),
    })
}

/// The subject of a commit that only removes nodes which left the cluster.
pub fn gone(nodes: &[String]) -> Option<String> {
    let (first, more) = nodes.split_first()?;
    Some(shorten(&match more.len() {
        0 => format!("{first} is no node any more"),
        more => format!("{first} and {more} more are no nodes any more"),
    }))
}

/// `kind-worker: ip rule 501: … was gone, corrected in 38 ms`
pub fn subject(before: Option<&NodeReport>, after: &NodeReport) -> String {
    let what = corrected(before, after)
        .or_else(|| opened(before, after))
        .or_else(|| findings(before, after))
        .or_else(|| documents(before, after))
        .or_else(|| waiting::subject(before, after))
        .or_else(|| activation(before, after))
        .unwrap_or_else(|| "drift and findings are as follows".to_owned());
    shorten(&format!("{}: {what}", after.node))
}

fn fresh<'a>(before: Option<&'a [DriftRecord]>, after: &'a [DriftRecord]) -> Vec<&'a DriftRecord> {
    let known = |record: &DriftRecord| before.is_some_and(|before| before.contains(record));
    after.iter().filter(|record| !known(record)).collect()
}

fn corrected(before: Option<&NodeReport>, after: &NodeReport) -> Option<String> {
    let new = fresh(before.map(|report| report.corrected.as_slice()), &after.corrected);
    let first = new.first()?;
    let took = first.took_milliseconds().unwrap_or(0);
    Some(format!("{} {}, corrected in {took} ms{}", first.object, how(first), more(new.len())))
}

fn opened(before: Option<&NodeReport>, after: &NodeReport) -> Option<String> {
    let new = fresh(before.map(|report| report.drift.as_slice()), &after.drift);
    let first = new.first()?;
    Some(format!("{} {}, {}{}", first.object, how(first), first.action, more(new.len())))
}

fn findings(before: Option<&NodeReport>, after: &NodeReport) -> Option<String> {
    let known = before.map(|report| report.findings.as_slice()).unwrap_or_default();
    let new: Vec<_> = after.findings.iter().filter(|finding| !known.contains(finding)).collect();
    if let Some(first) = new.first() {
        return Some(format!("{}: {}{}", first.finding.subject, first.finding.message, more(new.len())));
    }
    let resolved = known.iter().find(|finding| !after.findings.contains(finding))?;
    Some(format!("{} of {} resolved", resolved.finding.code, resolved.finding.subject))
}

fn documents(before: Option<&NodeReport>, after: &NodeReport) -> Option<String> {
    let known = before.map(|report| report.rejected.as_slice()).unwrap_or_default();
    if known == after.rejected {
        return None;
    }
    Some(match after.rejected.as_slice() {
        [] => "all documents are active again".to_owned(),
        [first, ..] => format!("{} is not active: {}{}", first.place, first.message, more(after.rejected.len())),
    })
}

fn activation(before: Option<&NodeReport>, after: &NodeReport) -> Option<String> {
    let commit = after.active.as_ref()?;
    let same = before.and_then(|report| report.active.as_ref()) == Some(commit);
    (!same).then(|| format!("{} \"{}\" is active", short_commit(&commit.commit), commit.summary))
}

fn how(record: &DriftRecord) -> &'static str {
    match record.class {
        DriftClass::Missing => "was gone",
        DriftClass::Extra => "did not belong there",
        DriftClass::Changed => "was changed",
    }
}

fn more(all: usize) -> String {
    if all > 1 { format!(", and {} more", all - 1) } else { String::new() }
}

/// A subject is one line, and no longer than `git log --oneline` shows well.
fn shorten(text: &str) -> String {
    let line: String = text.chars().map(|character| if character.is_control() { ' ' } else { character }).collect();
    shortened(&line, 120)
}
