//! Renders `README.md` of the reports branch: what an auditor asks about a cluster, in the order of the questions.
//!
//! The sections: which commit is active, which nodes are behind and what is pending; what differs now; when each
//! drift began and ended; the same by policy and by node; how to read the history. The page is made from all nodes'
//! files alone, with the times of events and not of writing, so that any node writes the same page. Names and texts
//! from a repository or cluster are escaped (`core::escape`). Not here: all records in full; the nodes' files have
//! them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use jiff::Timestamp;

use super::drift::DriftClass;
use super::history::{DatedFinding, DriftRecord, EffectiveCommit, NodeReport};
use super::{names, short, waiting};
use crate::core::escape::{inert, inert_name};
use crate::core::text::counted;

/// Rows of corrected drift; each node's file has a hundred records, the branch's history has all.
const RIGHT: usize = 50;
/// Rows of the other tables: forges limit the length of a page.
const ROWS: usize = 200;

/// The page. `branch` is the branch it is on.
pub fn page(cluster: &str, branch: &str, reports: &[NodeReport]) -> String {
    let open: usize = reports.iter().map(|report| report.drift.len() + problems(report).count()).sum();
    let right: usize = reports.iter().map(|report| report.corrected.len()).sum();
    let mut page = format!("# {}: {open} open, {right} corrected\n\n", inert_name(cluster));
    page.push_str("Egret writes this page when something changes. Times are UTC.\n\n");
    active_commits(&mut page, reports);
    waiting::page(&mut page, reports);
    rejected(&mut page, reports);
    differs(&mut page, reports);
    came_back(&mut page, reports);
    by_policy(&mut page, reports);
    by_node(&mut page, reports);
    notes(&mut page, reports);
    history(&mut page, branch);
    page
}

fn problems(report: &NodeReport) -> impl Iterator<Item = &DatedFinding> {
    report.findings.iter().filter(|since| since.finding.is_problem())
}

/// A time for readers: to the second, without the parts that all times share.
fn time(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d %H:%M:%S").to_string()
}

/// The revision that most nodes should have: of the active revisions the one that came last, which is the one whose
/// first node has had it for the shortest time.
fn newest(reports: &[NodeReport]) -> Option<&EffectiveCommit> {
    let mut first: BTreeMap<&str, (Option<Timestamp>, usize, &EffectiveCommit)> = BTreeMap::new();
    for commit in reports.iter().filter_map(|report| report.active.as_ref()) {
        let known = first.entry(&commit.commit).or_insert((commit.since, 0, commit));
        known.0 = known.0.min(commit.since);
        known.1 += 1;
    }
    first.into_values().max_by_key(|(since, nodes, _)| (*since, *nodes)).map(|(_, _, commit)| commit)
}

fn active_commits(page: &mut String, reports: &[NodeReport]) {
    let Some(newest) = newest(reports) else {
        page.push_str("Nothing is active yet.\n\n");
        return;
    };
    let has = |report: &&NodeReport| report.active.as_ref().is_some_and(|own| own.commit == newest.commit);
    let (ahead, behind): (Vec<&NodeReport>, Vec<&NodeReport>) = reports.iter().partition(has);
    let first = ahead.iter().filter_map(|report| report.active.as_ref()?.since).min();
    let since = first.map(|since| format!(", first at {}", time(since))).unwrap_or_default();
    let nodes = counted(reports.len(), "node");
    let _ = writeln!(
        page,
        "**Active:** {} “{}” on {} of {nodes}{since}.\n",
        short(&newest.commit),
        inert(&newest.summary),
        ahead.len()
    );
    let mut others: BTreeMap<Option<(&str, &str)>, Vec<&str>> = BTreeMap::new();
    for report in behind {
        let has = report.active.as_ref().map(|own| (own.commit.as_str(), own.summary.as_str()));
        others.entry(has).or_default().push(&report.node);
    }
    for (has, nodes) in others {
        let has = has.map_or_else(
            || "nothing is active there yet".to_owned(),
            |(commit, summary)| format!("{} “{}” is active there", short(commit), inert(summary)),
        );
        let _ = writeln!(page, "**Behind:** {}; {has}.\n", names(nodes));
    }
}

fn rejected(page: &mut String, reports: &[NodeReport]) {
    let all: BTreeSet<_> = reports.iter().flat_map(|report| &report.rejected).collect();
    if all.is_empty() {
        return;
    }
    page.push_str("## Documents that are not active\n\n");
    for document in all {
        let _ = writeln!(
            page,
            "- {}: {}. {}.",
            inert(&document.place),
            inert(&document.message),
            inert(document.instead.trim_end_matches('.'))
        );
    }
    page.push('\n');
}

fn differs(page: &mut String, reports: &[NodeReport]) {
    page.push_str("## What differs now\n\n");
    let mut rows: Vec<(&str, Timestamp, String, String, String)> = Vec::new();
    for report in reports {
        for since in problems(report) {
            let hint = since.finding.hint.as_deref().map(inert).unwrap_or_default();
            let what = inert(&since.finding.message);
            rows.push((&report.node, since.since, what, inert_name(&since.finding.subject), hint));
        }
        for record in &report.drift {
            let hint = record.hint.as_deref().map(|hint| format!(" {}", inert(hint))).unwrap_or_default();
            let state = format!("{}.{hint}", inert(record.action.trim_end_matches('.')));
            rows.push((&report.node, record.first_seen, what(record), policies(record), state));
        }
    }
    if rows.is_empty() {
        page.push_str("Nothing.\n\n");
        return;
    }
    page.push_str("| node | what | wanted by | since | what to do |\n|---|---|---|---|---|\n");
    for (node, since, what, of, state) in rows.iter().take(ROWS) {
        let _ = writeln!(page, "| {} | {what} | {of} | {} | {state} |", inert_name(node), time(*since));
    }
    left_out(page, rows.len());
}

fn came_back(page: &mut String, reports: &[NodeReport]) {
    let mut all: Vec<(&str, &DriftRecord)> = reports
        .iter()
        .flat_map(|report| report.corrected.iter().map(|record| (report.node.as_str(), record)))
        .collect();
    if all.is_empty() {
        return;
    }
    all.sort_by(|(node, a), (other, b)| {
        (b.corrected, node, &a.object, a.class).cmp(&(a.corrected, other, &b.object, b.class))
    });
    page.push_str("## What drifted and came back\n\n");
    page.push_str("| node | what | wanted by | drifted | back | times |\n|---|---|---|---|---|---|\n");
    for (node, record) in all.iter().take(RIGHT) {
        let back = record.took_milliseconds().map(|took| format!("after {}", span(took))).unwrap_or_default();
        let times = if record.times > 1 {
            format!("{}, the first at {}", record.times, time(record.first_seen))
        } else {
            record.times.to_string()
        };
        let drifted = time(record.last_seen);
        let (what, of) = (what(record), policies(record));
        let _ = writeln!(page, "| {} | {what} | {of} | {drifted} | {back} | {times} |", inert_name(node));
    }
    let more = all.len().saturating_sub(RIGHT);
    if more > 0 {
        let _ = writeln!(page, "\nand {more} earlier ones, in the nodes' files.");
    }
    page.push('\n');
}

/// Milliseconds for readers.
fn span(milliseconds: i128) -> String {
    match milliseconds {
        0..=9_999 => format!("{milliseconds} ms"),
        10_000..=599_999 => format!("{} s", milliseconds / 1_000),
        _ => format!("{} min", milliseconds / 60_000),
    }
}

/// What the page shows of one policy.
#[derive(Default)]
struct OfPolicy<'r> {
    files: BTreeSet<&'r str>,
    nodes: BTreeSet<&'r str>,
    open: usize,
    times: u64,
    last: Option<Timestamp>,
}

fn by_policy(page: &mut String, reports: &[NodeReport]) {
    let mut policies: BTreeMap<&str, OfPolicy<'_>> = BTreeMap::new();
    for report in reports {
        for (record, open) in
            report.drift.iter().map(|record| (record, 1)).chain(report.corrected.iter().map(|record| (record, 0)))
        {
            for wanted in &record.wanted_by {
                let policy = policies.entry(&wanted.policy).or_default();
                policy.files.insert(&wanted.file);
                policy.nodes.insert(&report.node);
                policy.open += open;
                policy.times += u64::from(record.times);
                policy.last = policy.last.max(Some(record.last_seen));
            }
        }
    }
    if policies.is_empty() {
        return;
    }
    page.push_str(
        "## By policy\n\n| policy | document | open | times it drifted | last | nodes |\n|---|---|---|---|---|---|\n",
    );
    for (name, policy) in policies.iter().take(ROWS) {
        let last = policy.last.map(time).unwrap_or_default();
        let (files, nodes) = (names(policy.files.iter().copied()), names(policy.nodes.iter().copied()));
        let _ = writeln!(
            page,
            "| {} | {files} | {} | {} | {last} | {nodes} |",
            inert_name(name),
            policy.open,
            policy.times
        );
    }
    left_out(page, policies.len());
}

fn by_node(page: &mut String, reports: &[NodeReport]) {
    if reports.is_empty() {
        return;
    }
    page.push_str(
        "## By node\n\n| node | active | since | open | times it drifted | last |\n|---|---|---|---|---|---|\n",
    );
    for report in reports.iter().take(ROWS) {
        let (active, since) = report
            .active
            .as_ref()
            .map_or_else(Default::default, |own| (short(&own.commit), own.since.map(time).unwrap_or_default()));
        let open = report.drift.len() + problems(report).count();
        let records = || report.drift.iter().chain(&report.corrected);
        let times: u64 = records().map(|record| u64::from(record.times)).sum();
        let last = records().map(|record| record.last_seen).max().map(time).unwrap_or_default();
        let _ = writeln!(page, "| {} | {active} | {since} | {open} | {times} | {last} |", inert_name(&report.node));
    }
    left_out(page, reports.len());
}

fn left_out(page: &mut String, rows: usize) {
    let more = rows.saturating_sub(ROWS);
    if more > 0 {
        let _ = writeln!(page, "\nand {more} more, in the folder `nodes`.");
    }
    page.push('\n');
}

fn notes(page: &mut String, reports: &[NodeReport]) {
    let mut all: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
    for report in reports {
        for since in report.findings.iter().filter(|since| !since.finding.is_problem()) {
            let hint = since.finding.hint.as_deref().map(|hint| format!(" ({})", inert(hint))).unwrap_or_default();
            let note = format!("{}: {}{hint}", inert_name(&since.finding.subject), inert(&since.finding.message));
            all.entry(note).or_default().insert(&report.node);
        }
    }
    if all.is_empty() {
        return;
    }
    page.push_str("## For knowing\n\n");
    for (note, nodes) in all {
        let _ = writeln!(page, "- {note} — {}", names(nodes));
    }
    page.push('\n');
}

fn history(page: &mut String, branch: &str) {
    // A branch's name may contain a quote, and git takes a name that begins with a dash for an option.
    let branch = format!("origin/{branch}").replace('\'', "'\\''");
    let _ = write!(
        page,
        "## Reading the history\n\nEach change of this branch is a commit. In a clone of the repository, after `git fetch`:\n\n```sh\n\
         # when what became different on a node, and when it was corrected\n\
         git log --patch '{branch}' -- nodes/NODE.yaml\n\
         # everything of one policy\n\
         git log --patch -S'policy: NAME' '{branch}' -- nodes\n\
         # which commit was active at which time\n\
         git log --format='%cI  %(trailers:key=Egret-Policy-Commit,valueonly,separator=%x20)  %s' '{branch}'\n\
         # this page as it was at a time\n\
         git show \"$(git rev-list -1 --before='2026-06-01T12:00Z' '{branch}')\":README.md\n\
         # what is older than reports.keep: how many reports became one commit, and of which time\n\
         git log --max-parents=0 '{branch}'\n```\n"
    );
}

fn policies(record: &DriftRecord) -> String {
    names(record.wanted_by.iter().map(|wanted| wanted.policy.as_str()).collect::<BTreeSet<_>>())
}

fn what(record: &DriftRecord) -> String {
    let how = match record.class {
        DriftClass::Missing => "was gone",
        DriftClass::Extra => "did not belong there",
        DriftClass::Changed => "was changed",
    };
    let by = record.by.as_ref().map(|by| format!(", by {}", inert(&by.guess))).unwrap_or_default();
    format!("{} {how}{by}", inert(&record.object))
}
