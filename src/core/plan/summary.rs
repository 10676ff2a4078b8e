//! Renders a plan for people: the node's roles, the pods concerned, and the steps.
//!
//! Not here: the diff (`text`), and the comparison of two revisions (`preview`).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use super::super::compile::{Compiled, EgressRoute, ExitRole};
use super::super::facts::PodName;
use super::super::finding::Finding;
use super::super::state::nft::{AddressFamily, NftChange, NftTransaction, TableFamily};
use super::super::state::ownership::TABLE;
use super::{Plan, Step};

/// At most this many lines of steps are shown; the diff has them all.
const SHOWN: usize = 40;

/// A new table with more parts than this is counted, not listed; the diff has its parts.
const LISTED: usize = 8;

/// Width at which lines are wrapped.
const WIDTH: usize = 100;

/// The column of a step's object, and the indent of its continuation lines.
const STEP_INDENT: usize = 17;

/// The summary, a few lines. Ends with a newline.
pub fn text(node: &str, plan: &Plan, compiled: &Compiled, findings: &[Finding]) -> String {
    let steps = match plan.steps.len() {
        0 => "nothing to do".to_owned(),
        1 => "1 step".to_owned(),
        many => format!("{many} steps"),
    };
    let mut text = format!("{node} · {steps}\n\n");
    for line in roles(compiled) {
        text.push_str(&broken(&format!("  {line}"), 4));
    }
    if !plan.steps.is_empty() {
        let lines: Vec<String> = plan.steps.iter().flat_map(lines_of).collect();
        text.push('\n');
        for line in lines.iter().take(SHOWN) {
            text.push_str(&broken(&format!("  {line}"), STEP_INDENT));
        }
        if lines.len() > SHOWN {
            let _ = writeln!(text, "  and {} more, as the diff shows", lines.len() - SHOWN);
        }
    }
    for finding in findings {
        text.push('\n');
        text.push_str(&broken(&format!("note: {}: {}", finding.subject, finding.message), 6));
        if let Some(hint) = &finding.hint {
            text.push_str(&broken(&format!("hint: {hint}"), 6));
        }
    }
    text
}

/// The node's role for each of its exits, and the policies whose members have none.
fn roles(compiled: &Compiled) -> Vec<String> {
    let mut lines = Vec::new();
    for (key, exit) in &compiled.exits {
        for policy in &exit.policies {
            let members = exit.members.get(policy).map(leaving);
            match &exit.role {
                ExitRole::Own { ways, .. } => {
                    lines.push(format!("gateway of {policy}: {}", translation(ways)));
                    lines.extend(members.map(|members| format!("source of {policy}: {members} here")));
                }
                ExitRole::Remote { outer, .. } => {
                    let peer = outer.map_or_else(|| "no address".to_owned(), |(_, peer)| peer.to_string());
                    let through = |members| {
                        format!("source of {policy}: {members} through {} ({peer}), {}", key.gateway, key.egress)
                    };
                    lines.extend(members.map(through));
                }
            }
        }
    }
    for (policy, members) in &compiled.members {
        if !compiled.exits.values().any(|exit| exit.policies.contains(policy)) {
            lines.push(format!("source of {policy}: {}, and no gateway for it", pods(members)));
        }
    }
    if lines.is_empty() {
        lines.push("neither source nor gateway of any policy".to_owned());
    }
    lines
}

fn translation(ways: &BTreeMap<AddressFamily, EgressRoute>) -> String {
    let addresses: Vec<String> = ways.values().map(|way| format!("{} on {}", way.address, way.interface)).collect();
    if addresses.is_empty() {
        return "there is no address to leave with, members' packets are dropped".to_owned();
    }
    format!("members leave as {}", addresses.join(" and "))
}

fn leaving(members: &BTreeSet<PodName>) -> String {
    format!("{} {}", pods(members), if members.len() == 1 { "leaves" } else { "leave" })
}

/// The number of pods, and the first three names.
fn pods<'a>(members: impl IntoIterator<Item = &'a PodName>) -> String {
    let named: Vec<String> = members.into_iter().map(ToString::to_string).collect();
    match named.as_slice() {
        [one] => format!("1 pod ({one})"),
        [first, second, third, _, ..] => format!("{} pods ({first}, {second}, {third}, …)", named.len()),
        few => format!("{} pods ({})", few.len(), few.join(", ")),
    }
}

/// A step as one line; an nftables transaction as a few. Without Egret's protocol number, which all routes and rules
/// have.
fn lines_of(step: &Step) -> Vec<String> {
    match step {
        Step::Nft(transaction) => nft_lines(transaction),
        Step::FlushSources(sources) => sources.to_string().lines().map(str::to_owned).collect(),
        other => {
            let line = other.to_string();
            vec![line.strip_suffix(" proto egret").unwrap_or(&line).to_owned()]
        }
    }
}

fn nft_lines(transaction: &NftTransaction) -> Vec<String> {
    let mut lines = Vec::new();
    for family in [TableFamily::Inet, TableFamily::Netdev] {
        let changes: Vec<&NftChange> =
            transaction.changes.iter().filter(|(of, _)| *of == family).map(|(_, change)| change).collect();
        // An `AddTable` beside deletions takes over an existing table.
        let new = changes.iter().any(|change| matches!(change, NftChange::AddTable { .. }))
            && !changes.iter().any(|change| takes_away(change));
        if new && changes.len() > LISTED {
            lines.push(counted(family, &changes));
        } else {
            lines.extend(changes.into_iter().map(|change| nft_line(family, change)));
        }
    }
    lines
}

fn takes_away(change: &NftChange) -> bool {
    match change {
        NftChange::DeleteTable
        | NftChange::DeleteSet(_)
        | NftChange::DeleteChain(_)
        | NftChange::FlushChain(_)
        | NftChange::DeleteElements(..) => true,
        NftChange::AddTable { .. }
        | NftChange::AddSet(..)
        | NftChange::AddChain(..)
        | NftChange::AddRule(..)
        | NftChange::AddElements(..) => false,
    }
}

/// `add     nft    inet table egret: 10 chains, 21 rules, 12 sets, 9 elements`
fn counted(family: TableFamily, changes: &[&NftChange]) -> String {
    let (mut chains, mut rules, mut sets, mut elements) = (0, 0, 0, 0);
    for change in changes {
        match change {
            NftChange::AddChain(..) => chains += 1,
            NftChange::AddRule(..) => rules += 1,
            NftChange::AddSet(..) => sets += 1,
            NftChange::AddElements(_, added) => elements += added.len(),
            _ => {}
        }
    }
    let counts = [(chains, "chain"), (rules, "rule"), (sets, "set"), (elements, "element")];
    let counts: Vec<String> = counts
        .into_iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, word)| format!("{count} {word}{}", if count == 1 { "" } else { "s" }))
        .collect();
    format!("add     nft    {family} table {TABLE}: {}", counts.join(", "))
}

/// `add     nft    inet element group_of4 { 10.1.1.177 : goto group_1 }`
fn nft_line(family: TableFamily, change: &NftChange) -> String {
    let text = change.to_string();
    let (verb, object) = text.split_once(' ').unwrap_or((&text, ""));
    let verb = if verb == "delete" { "remove" } else { verb };
    format!("{verb:<7} nft    {family} {object}")
}

/// A line with a newline, wrapped between words where it is too wide for most terminals. A longer word stays whole.
pub(crate) fn broken(line: &str, indent: usize) -> String {
    let mut text = String::new();
    let mut rest = line;
    let mut width = WIDTH;
    while rest.chars().count() > width {
        let end = rest.char_indices().nth(width + 1).map_or(rest.len(), |(at, _)| at);
        // Leading spaces and those between columns are not break points.
        let words = rest.len() - rest.trim_start().len();
        let fits = rest[words..end].rfind(' ').map(|at| words + at);
        let Some(at) = fits.or_else(|| rest[end..].find(' ').map(|at| end + at)) else { break };
        text.push_str(rest[..at].trim_end());
        text.push('\n');
        text.push_str(&" ".repeat(indent));
        rest = rest[at..].trim_start();
        width = WIDTH - indent;
    }
    text.push_str(rest);
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::super::super::state::nft::{ElementKey, NftRule};
    use super::*;

    #[test]
    fn a_new_table_is_counted_and_a_change_of_one_is_listed() {
        let element = |last| (ElementKey::Address([10, 1, 1, last].into()), None);
        let add = NftChange::AddElements("pods4".to_owned(), vec![element(1), element(2)]);
        let flush = (TableFamily::Inet, NftChange::FlushChain("guard".to_owned()));
        let mut changes = vec![(TableFamily::Inet, add), flush.clone(), (TableFamily::Netdev, NftChange::DeleteTable)];
        let expected = [
            "add     nft    inet element pods4 { 10.1.1.1, 10.1.1.2 }",
            "flush   nft    inet chain guard",
            "remove  nft    netdev table",
        ];
        assert_eq!(nft_lines(&NftTransaction { changes: changes.clone() }), expected);
        changes.insert(0, (TableFamily::Inet, NftChange::AddTable { owned: true }));
        for name in ["a", "b", "c", "d"] {
            changes.push((TableFamily::Inet, NftChange::AddChain(name.to_owned(), None, None)));
            changes.push((TableFamily::Inet, NftChange::AddRule(name.to_owned(), NftRule::default())));
        }
        assert_eq!(nft_lines(&NftTransaction { changes: changes.clone() }).len(), 12, "it was there before");
        changes.retain(|change| *change != flush);
        let expected =
            ["add     nft    inet table egret: 4 chains, 4 rules, 2 elements", "remove  nft    netdev table"];
        assert_eq!(nft_lines(&NftTransaction { changes }), expected);
    }

    #[test]
    fn lines_are_broken_between_words_and_never_lose_one() {
        assert_eq!(broken("short", 4), "short\n");
        let words = ["  add     route"].into_iter().chain(std::iter::repeat_n("0123456789", 20)).collect::<Vec<_>>();
        let line = words.join(" ");
        let text = broken(&line, STEP_INDENT);
        assert!(text.lines().all(|line| line.chars().count() <= WIDTH), "{text}");
        let rejoined: Vec<&str> = text.split_whitespace().collect();
        assert_eq!(rejoined, line.split_whitespace().collect::<Vec<_>>());
        let long = "é".repeat(150);
        assert_eq!(broken(&long, 4), format!("{long}\n"));
        assert_eq!(broken(&format!("  {long} b"), 4), format!("  {long}\n    b\n"));
    }
}
