//! A plan in words: what the node does, for whom, and the steps towards it.
//!
//! Deliberately absent: the diff (`text`), and comparing two revisions, which is a preview.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use super::super::compile::{Compiled, Role, WayOut};
use super::super::facts::PodName;
use super::super::finding::Finding;
use super::super::state::nft::AddressFamily;
use super::Plan;

/// So many steps are shown; the diff has them all.
const SHOWN: usize = 40;

/// A few lines for people. Ends with a newline.
pub fn text(node: &str, plan: &Plan, compiled: &Compiled, findings: &[Finding]) -> String {
    let steps = match plan.steps.len() {
        0 => "nothing to do".to_owned(),
        1 => "1 step".to_owned(),
        many => format!("{many} steps"),
    };
    let mut text = format!("{node} · {steps}\n\n");
    for line in roles(compiled) {
        let _ = writeln!(text, "  {line}");
    }
    if !plan.steps.is_empty() {
        let lines: Vec<String> = plan.steps.iter().map(ToString::to_string).collect();
        let lines: Vec<&str> = lines.iter().flat_map(|step| step.lines()).collect();
        text.push('\n');
        for line in lines.iter().take(SHOWN) {
            let _ = writeln!(text, "  {}", shortened(line));
        }
        if lines.len() > SHOWN {
            let _ = writeln!(text, "  and {} more", lines.len() - SHOWN);
        }
    }
    for finding in findings {
        let _ = writeln!(text, "\nnote: {}: {}", finding.subject, finding.message);
        if let Some(hint) = &finding.hint {
            let _ = writeln!(text, "hint: {hint}");
        }
    }
    text
}

/// What the node is for each of its exits, and whose members have none.
fn roles(compiled: &Compiled) -> Vec<String> {
    let mut lines = Vec::new();
    for (key, exit) in &compiled.exits {
        for policy in &exit.policies {
            let members = exit.members.get(policy).map(leaving);
            match &exit.role {
                Role::Own { ways, .. } => {
                    lines.push(format!("gateway of {policy}: {}", translation(ways)));
                    lines.extend(members.map(|members| format!("source of {policy}: {members} here")));
                }
                Role::Remote { peer, .. } => {
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

fn translation(ways: &BTreeMap<AddressFamily, WayOut>) -> String {
    let addresses: Vec<String> = ways.values().map(|way| format!("{} on {}", way.address, way.interface)).collect();
    if addresses.is_empty() {
        return "there is no address to leave with, members' packets are dropped".to_owned();
    }
    format!("members leave as {}", addresses.join(" and "))
}

fn leaving(members: &BTreeSet<PodName>) -> String {
    format!("{} {}", pods(members), if members.len() == 1 { "leaves" } else { "leave" })
}

/// How many, and the first three by name.
fn pods<'a>(members: impl IntoIterator<Item = &'a PodName>) -> String {
    let named: Vec<String> = members.into_iter().map(ToString::to_string).collect();
    match named.as_slice() {
        [one] => format!("1 pod ({one})"),
        [first, second, third, _, ..] => format!("{} pods ({first}, {second}, {third}, …)", named.len()),
        few => format!("{} pods ({})", few.len(), few.join(", ")),
    }
}

/// A line that fits a terminal.
fn shortened(line: &str) -> String {
    if line.chars().count() <= 140 {
        return line.to_owned();
    }
    let cut: String = line.chars().take(139).collect();
    format!("{cut}…")
}
