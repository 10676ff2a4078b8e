//! The overview as text: one line that says how things are, then a table of policies and one of nodes.
//!
//! Not here: JSON and colours (`cli`).

use jiff::Timestamp;

use super::{NodeRow, Overview, PolicyRow, Urgency};
use crate::core::escape::shown;
use crate::core::explain::age;
use crate::core::report::history::Rejected;
use crate::core::text::{counted, short_commit, shortened};

/// At most this many destinations or addresses of a row are named.
const NAMED: usize = 2;
/// At most this many documents that are not active are listed.
const STALE: usize = 5;

/// The lines, each with its urgency; titles have none.
pub fn lines(overview: &Overview, now: Timestamp) -> Vec<(Option<Urgency>, String)> {
    let mut lines = vec![(Some(overview.urgency()), headline(overview))];
    lines.extend(overview.waits.iter().map(|waits| (Some(Urgency::Doubtful), shown(&format!("waits: {waits}")))));
    let rejected = |one: &Rejected| shown(&format!("stale: {}: {}. {}", one.place, one.message, one.instead));
    lines.extend(overview.rejected.iter().take(STALE).map(|one| (Some(Urgency::Doubtful), rejected(one))));
    let policies = overview.policies.iter().map(|row| (row.urgency, policy(row, now)));
    let titles = ["POLICY", "PODS", "TO", "GATEWAY", "ADDRESS", "STATE", "SINCE", "REASON"];
    lines.extend(table(titles, policies.collect()));
    lines.push((None, String::new()));
    let nodes = overview.nodes.iter().map(|row| (row.urgency, node(row, now)));
    let titles = ["NODE", "REVISION", "EXITS", "DRIFT", "DROPS/MIN", "STATE", "SINCE", "CAUSE"];
    lines.extend(table(titles, nodes.collect()));
    lines
}

/// `prod  d93c4a6  1 policy DROPS: outpost: kind-worker2: net1 has no global IPv4 address`
pub fn headline(overview: &Overview) -> String {
    let revision = if overview.revision.is_empty() { "nothing is active" } else { short_commit(&overview.revision) };
    let begin = format!("{}  {revision}", overview.cluster);
    let bad: Vec<&PolicyRow> = overview.policies.iter().filter(|row| row.urgency == Urgency::Bad).collect();
    if let Some(first) = bad.first() {
        let drops = if bad.len() == 1 { "DROPS" } else { "DROP" };
        let cause = first.cause.as_deref().unwrap_or(&first.reason);
        let text = format!("{begin}  {} {drops}: {}: {cause}", counted(bad.len(), "policy"), first.policy);
        return shown(&text);
    }
    let wrong: Vec<&NodeRow> = overview.nodes.iter().filter(|row| row.urgency == Urgency::Bad).collect();
    if let Some(first) = wrong.first() {
        let text = format!(
            "{begin}  {} {}: {}: {}",
            counted(wrong.len(), "node"),
            first.state,
            first.node,
            first.cause.as_deref().unwrap_or_default()
        );
        return shown(&text);
    }
    let doubtful = overview.policies.iter().filter(|row| row.urgency == Urgency::Doubtful).count()
        + overview.nodes.iter().filter(|row| row.urgency == Urgency::Doubtful).count()
        + overview.rejected.len();
    let all = format!("{}, {}", counted(overview.policies.len(), "policy"), counted(overview.nodes.len(), "node"));
    let rest = if doubtful == 0 { "nothing is wrong".to_owned() } else { format!("{doubtful} to look at") };
    shown(&format!("{begin}  {all}: {rest}"))
}

fn policy(row: &PolicyRow, now: Timestamp) -> [String; 8] {
    let nets: Vec<String> = row.destinations.iter().map(ToString::to_string).collect();
    [
        row.policy.to_string(),
        row.pods.to_string(),
        few(&nets),
        few(&row.gateways),
        few(&row.addresses),
        row.state.to_owned(),
        row.since.map_or("-".to_owned(), |since| age(since, now)),
        row.cause.as_ref().map_or(row.reason.clone(), |cause| format!("{}: {cause}", row.reason)),
    ]
}

fn node(row: &NodeRow, now: Timestamp) -> [String; 8] {
    [
        row.node.to_string(),
        row.revision.as_ref().map_or("-".to_owned(), |revision| short_commit(revision).to_owned()),
        few(&row.exits),
        row.drift.to_string(),
        row.dropped_per_minute.map_or("-".to_owned(), |dropped| dropped.to_string()),
        row.state.to_owned(),
        row.since.map_or("-".to_owned(), |since| age(since, now)),
        row.cause.clone().unwrap_or_default(),
    ]
}

fn few(texts: &[String]) -> String {
    let more = texts.len().saturating_sub(NAMED);
    match texts {
        [] => "-".to_owned(),
        _ if more == 0 => texts.join(","),
        _ => format!("{},+{more}", texts[..NAMED].join(",")),
    }
}

/// Columns as wide as their widest cell; the last one has no end.
fn table<const COLUMNS: usize>(
    titles: [&str; COLUMNS],
    rows: Vec<(Urgency, [String; COLUMNS])>,
) -> Vec<(Option<Urgency>, String)> {
    /// A wider cell is shortened.
    const WIDEST: usize = 40;
    let cell = |column: usize, text: &str| {
        let text = shown(text);
        if column + 1 == COLUMNS { text } else { shortened(&text, WIDEST) }
    };
    let titles: [String; COLUMNS] = titles.map(str::to_owned);
    let all = std::iter::once((None, titles)).chain(rows.into_iter().map(|(urgency, cells)| (Some(urgency), cells)));
    let all: Vec<(Option<Urgency>, Vec<String>)> = all
        .map(|(urgency, cells)| (urgency, cells.iter().enumerate().map(|(column, text)| cell(column, text)).collect()))
        .collect();
    let width = |column: usize| all.iter().map(|(_, cells)| cells[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..COLUMNS).map(width).collect();
    let line = |cells: &[String]| {
        let padded = cells.iter().zip(&widths).map(|(text, width)| format!("{text:width$}")).collect::<Vec<_>>();
        padded.join("  ").trim_end().to_owned()
    };
    all.iter().map(|(urgency, cells)| (*urgency, line(cells))).collect()
}
