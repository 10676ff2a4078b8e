//! A plan in words: what the node does, for whom, and the steps towards it.
//!
//! Deliberately absent: the diff (`text`), and comparing two revisions, which is a preview.

use std::fmt::Write;

use super::super::compile::{Compiled, Role};
use super::super::finding::Finding;
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

/// What the node is for each of its exits, and where members stay who have none.
fn roles(compiled: &Compiled) -> Vec<String> {
    let mut lines = Vec::new();
    for (key, exit) in &compiled.exits {
        for policy in &exit.policies {
            let members = compiled.members.get(policy).map(Vec::as_slice).unwrap_or_default();
            match &exit.role {
                Role::Own { ways, .. } => {
                    let addresses: Vec<String> =
                        ways.values().map(|way| format!("{} on {}", way.address, way.interface)).collect();
                    let addresses =
                        if addresses.is_empty() { "no address: dropped".to_owned() } else { addresses.join(" and ") };
                    lines.push(format!("gateway of {policy}: members leave as {addresses}"));
                    if !members.is_empty() {
                        lines.push(format!("source of {policy}: {} of this node leave here", pods(members)));
                    }
                }
                Role::Remote { peer, .. } => {
                    lines.push(format!(
                        "source of {policy}: {} leave through {} ({peer}), {}",
                        pods(members),
                        key.gateway,
                        key.egress
                    ));
                }
            }
        }
    }
    if lines.is_empty() {
        lines.push("neither source nor gateway of any policy".to_owned());
    }
    lines
}

fn pods<T: std::fmt::Display>(members: &[T]) -> String {
    let named: Vec<String> = members.iter().take(3).map(ToString::to_string).collect();
    match members.len() {
        0 => "no pod".to_owned(),
        1 => format!("1 pod ({})", named.join(", ")),
        few if few <= 3 => format!("{few} pods ({})", named.join(", ")),
        many => format!("{many} pods ({}, …)", named.join(", ")),
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
