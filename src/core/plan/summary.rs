//! Renders a plan for people: the node's roles, the pods concerned, and the steps.
//!
//! Not here: the diff (`text`), and the comparison of two revisions (`preview`).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use super::super::compile::{Compiled, EgressRoute, ExitPurpose, ExitRole};
use super::super::facts::PodName;
use super::super::finding::Finding;
use super::super::state::nft::{AddressFamily, NftChange, NftTransaction, TableFamily};
use super::super::state::ownership::TABLE;
use super::super::text::{counted, wrapped};
use super::text::{StepLine, nft_line};
use super::{Plan, Step};

/// At most this many lines of steps are shown; the diff has them all.
const SHOWN: usize = 40;

/// A new table with more parts than this is counted, not listed; the diff has its parts.
const LISTED: usize = 8;

/// Where a step's object begins, and so where its broken line goes on.
const STEP_INDENT: usize = 17;

/// A few lines for people, wrapped at a width if there is one. Ends with a newline.
pub fn text(node: &str, plan: &Plan, compiled: &Compiled, findings: &[Finding], width: Option<usize>) -> String {
    let broken = |line: &str, indent| wrapped(line, indent, width);
    let mut text = format!("{node} · {}\n\n", steps(plan));
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

fn steps(plan: &Plan) -> String {
    match plan.steps.len() {
        0 => "nothing to do".to_owned(),
        1 => "1 step".to_owned(),
        many => format!("{many} steps"),
    }
}

/// How many objects of each kind a plan touches, by what it does to them: `add 1 link, 3 route, 61 nft; remove 1 rule`. Empty for an
/// empty plan. What is only waited for or forgotten is left out.
pub fn counts(steps: &[Step]) -> String {
    const ACTIONS: [&str; 5] = ["add", "change", "set", "flush", "remove"];
    let lines: Vec<StepLine> = steps.iter().flat_map(Step::lines).collect();
    let of = |action: &str| {
        let mut kinds: Vec<(&str, usize)> = Vec::new();
        for line in lines.iter().filter(|line| line.action == action) {
            match kinds.iter_mut().find(|(kind, _)| *kind == line.kind) {
                Some((_, count)) => *count += 1,
                None => kinds.push((line.kind, 1)),
            }
        }
        let kinds: Vec<String> = kinds.into_iter().map(|(kind, count)| format!("{count} {kind}")).collect();
        (!kinds.is_empty()).then(|| format!("{action} {}", kinds.join(", ")))
    };
    ACTIONS.into_iter().filter_map(of).collect::<Vec<_>>().join("; ")
}

/// The node's role for each of its exits, and the policies whose members have none.
fn roles(compiled: &Compiled) -> Vec<String> {
    let mut lines = Vec::new();
    for (key, exit) in &compiled.exits {
        for policy in &exit.policies {
            let members = exit.members.get(policy).map(leaving);
            match &exit.role {
                ExitRole::Own { routes, .. } if exit.purpose == ExitPurpose::Standby => {
                    lines.push(format!("stands by for the gateway of {policy}: {}", translation(routes)));
                }
                ExitRole::Own { routes, .. } => {
                    lines.push(format!("gateway of {policy}: {}", translation(routes)));
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

fn translation(routes: &BTreeMap<AddressFamily, EgressRoute>) -> String {
    let addresses: Vec<String> = routes.values().map(|way| format!("{} on {}", way.address, way.interface)).collect();
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
    if let Step::Nft(transaction) = step {
        return nft_lines(transaction);
    }
    let plain = |line: StepLine| {
        let line = line.to_string();
        line.strip_suffix(" proto egret").unwrap_or(&line).to_owned()
    };
    step.lines().into_iter().map(plain).collect()
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
            lines.push(new_table(family, &changes));
        } else {
            lines.extend(changes.into_iter().map(|change| nft_line(family, change).to_string()));
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
fn new_table(family: TableFamily, changes: &[&NftChange]) -> String {
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
    let counts: Vec<String> =
        counts.into_iter().filter(|(count, _)| *count > 0).map(|(count, word)| counted(count, word)).collect();
    format!("add     nft    {family} table {TABLE}: {}", counts.join(", "))
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
    fn a_plan_is_counted_by_what_it_does_to_which_kind_of_object() {
        let change = NftChange::AddChain("a".to_owned(), None, None);
        let nft = vec![
            (TableFamily::Inet, change.clone()),
            (TableFamily::Inet, change),
            (TableFamily::Netdev, NftChange::DeleteTable),
        ];
        let label = Step::SetLabel("a".to_owned(), "b".to_owned(), None);
        let steps = [label.clone(), Step::RcuBarrier, Step::Nft(NftTransaction { changes: nft }), label];
        assert_eq!(counts(&steps), "add 2 label, 2 nft; remove 1 nft");
        assert_eq!(counts(&[]), "");
    }
}
