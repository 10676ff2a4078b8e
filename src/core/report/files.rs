//! The files of the reports branch: `nodes/<node>.yaml` for programs and diffs, `README.md` for people.
//!
//! README.md is made from all nodes' files alone, so that whichever node writes last writes the same. Deliberately absent: Git.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::history::{NodeReport, Record, Since};
use super::waiting;

/// Where a node's file stands.
pub fn path_of(node: &str) -> String {
    format!("nodes/{node}.yaml")
}

/// A node's file.
pub fn node_file(report: &NodeReport) -> Result<String, serde_yaml::ser::Error> {
    serde_yaml::to_string(report)
}

/// Reads a node's file back; nothing if it is none, as when a person put something else there.
pub fn read_node_file(text: &str) -> Option<NodeReport> {
    serde_yaml::from_str(text).ok()
}

/// The whole tree after these nodes' reports have changed: everything that was there, these nodes' files, and the page for people.
pub fn tree(
    current: &BTreeMap<String, String>,
    cluster: &str,
    changed: &[NodeReport],
) -> Result<BTreeMap<String, String>, serde_yaml::ser::Error> {
    let mut files = current.clone();
    for report in changed {
        files.insert(path_of(&report.node), node_file(report)?);
    }
    let reports: Vec<NodeReport> = files
        .iter()
        .filter(|(path, _)| path.starts_with("nodes/"))
        .filter_map(|(_, text)| read_node_file(text))
        .collect();
    files.insert("README.md".to_owned(), readme(cluster, &reports));
    Ok(files)
}

/// The page that people read: what is open, what was put right, what is not in force, and what is for knowing.
pub fn readme(cluster: &str, reports: &[NodeReport]) -> String {
    let open: usize = reports.iter().map(|report| report.drift.len() + problems(report).count()).sum();
    let corrected: usize = reports.iter().map(|report| report.corrected.len()).sum();
    let mut page = format!("# {}: {open} open, {corrected} put right\n\n", plain(cluster));
    in_force(&mut page, reports);
    waiting::page(&mut page, reports);
    rejected(&mut page, reports);
    if open + corrected == 0 {
        page.push_str("Nothing has drifted.\n");
    } else {
        table(&mut page, reports);
    }
    notes(&mut page, reports);
    page.push_str(
        "\nHistory of a node: `git log -p nodes/NODE.yaml`. Everything of one policy: `git log -p -S'policy: NAME'`.\n",
    );
    page
}

fn problems(report: &NodeReport) -> impl Iterator<Item = &Since> {
    report.findings.iter().filter(|since| since.finding.is_problem())
}

fn table(page: &mut String, reports: &[NodeReport]) {
    let _ = writeln!(page, "| node | what | since | state |\n|---|---|---|---|");
    for report in reports {
        for since in problems(report) {
            let hint = since.finding.hint.as_ref().map(|hint| format!(": {hint}")).unwrap_or_default();
            let state = format!("**open**{}", plain(&hint));
            row(page, &report.node, &finding(since), &since.since.to_string(), &state);
        }
        for record in &report.drift {
            let state = format!("**open**: {}", plain(&record.action));
            row(page, &report.node, &what(record), &record.first_seen.to_string(), &state);
        }
    }
    for report in reports {
        for record in &report.corrected {
            row(page, &report.node, &what(record), &record.last_seen.to_string(), &corrected_state(record));
        }
    }
}

fn notes(page: &mut String, reports: &[NodeReport]) {
    let notes = reports.iter().flat_map(|report| {
        report.findings.iter().filter(|since| !since.finding.is_problem()).map(move |since| (&report.node, since))
    });
    for (position, (node, since)) in notes.enumerate() {
        page.push_str(if position == 0 { "\nFor knowing:\n\n" } else { "" });
        let hint = since.finding.hint.as_ref().map(|hint| format!(" ({hint})")).unwrap_or_default();
        let _ = writeln!(page, "- {}: {}{}", plain(node), finding(since), plain(&hint));
    }
}

fn finding(since: &Since) -> String {
    format!("**{}** {}", plain(&since.finding.subject), plain(&since.finding.message))
}

fn in_force(page: &mut String, reports: &[NodeReport]) {
    let mut nodes: BTreeMap<(String, String), Vec<&str>> = BTreeMap::new();
    for report in reports {
        if let Some(commit) = &report.in_force {
            nodes.entry((commit.commit.clone(), commit.summary.clone())).or_default().push(&report.node);
        }
    }
    for ((commit, summary), nodes) in nodes {
        let short: String = commit.chars().take(7).collect();
        let _ = writeln!(page, "In force: `{short}` \"{}\" on {}.\n", plain(&summary), plain(&nodes.join(", ")));
    }
}

fn rejected(page: &mut String, reports: &[NodeReport]) {
    let mut all: Vec<_> = reports.iter().flat_map(|report| &report.rejected).collect();
    all.sort();
    all.dedup();
    for document in all {
        let _ = writeln!(
            page,
            "Not in force: {}: {}. {}.\n",
            plain(&document.place),
            plain(&document.message),
            plain(&document.instead)
        );
    }
}

fn row(page: &mut String, node: &str, what: &str, since: &str, state: &str) {
    let _ = writeln!(page, "| {} | {what} | {since} | {state} |", plain(node));
}

fn what(record: &Record) -> String {
    let policies: Vec<String> =
        record.wanted_by.iter().map(|wanted| format!("**{}**", plain(&wanted.policy))).collect();
    let of = if policies.is_empty() { String::new() } else { format!(" of {}", policies.join(", ")) };
    let how = match record.class {
        super::drift::Class::Missing => "was gone",
        super::drift::Class::Extra => "did not belong there",
        super::drift::Class::Changed => "was changed",
    };
    let by = record.by.as_ref().map(|by| format!(", by {}", plain(&by.guess))).unwrap_or_default();
    format!("{}{of} {how}{by}", plain(&record.object))
}

fn corrected_state(record: &Record) -> String {
    let times = if record.times > 1 { format!(", {} times so far", record.times) } else { String::new() };
    match record.took_milliseconds() {
        Some(milliseconds) => format!("put right after {milliseconds} ms{times}"),
        None => format!("put right{times}"),
    }
}

/// Text from a repository or a kernel, so that it is text in a Markdown table and nothing else.
pub(super) fn plain(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\n' | '\r' | '\t' => escaped.push(' '),
            '|' | '<' | '>' | '`' | '*' | '_' | '[' | ']' | '@' | '#' | '\\' => {
                escaped.push('\\');
                escaped.push(character);
            }
            control if control.is_control() => {}
            other => escaped.push(other),
        }
    }
    escaped
}
