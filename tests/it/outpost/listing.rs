//! What `ip` and `nft` themselves say of a node, as text that stays the same as long as nothing is different.
//!
//! Deliberately absent: Egret's own view, and numbers that the kernel counts up by itself.

use std::collections::BTreeSet;

use crate::lab::{LabError, Namespace};

/// Everything that Egret could touch, sorted line by line, without device numbers and counters.
pub(super) fn everything(node: &Namespace) -> Result<String, LabError> {
    let mut text = String::new();
    for words in [
        "ip -d link",
        "ip address",
        "ip rule",
        "ip -6 rule",
        "ip -d route show table all",
        "ip -6 -d route show table all",
        "ip neigh show nud permanent",
        "ip -6 neigh show nud permanent",
    ] {
        text.extend(["# ", words, "\n"]);
        text += &sorted(&node.exec(words.split(' '))?);
    }
    text += "# rp_filter\n";
    text += &sorted(&node.exec(["sysctl", "-ar", r"rp_filter|disable_ipv6"])?);
    text += "# nft\n";
    text += &without_counts(&node.exec(["nft", "list", "ruleset"])?);
    Ok(text)
}

/// Lines that one listing has and the other has not, as a person would want them shown.
pub(super) fn difference(before: &str, after: &str) -> String {
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<BTreeSet<_>>();
    let (before, after) = (lines(before), lines(after));
    let gone = before.difference(&after).map(|line| format!("- {line}\n"));
    gone.chain(after.difference(&before).map(|line| format!("+ {line}\n"))).collect()
}

/// A device made anew has another number, and a peer in another namespace has one there; the kernel also lists in the order of making.
fn sorted(text: &str) -> String {
    let lines: BTreeSet<String> = text.replace("\n    ", " ").lines().map(plain).collect();
    lines.into_iter().map(|line| line + "\n").collect()
}

fn plain(line: &str) -> String {
    let numbered = line.split_once(": ").filter(|(number, _)| number.parse::<u32>().is_ok());
    // `ip rule` numbers its lines by priority, and a priority matters.
    let line = match numbered {
        Some((_, rest)) if rest.contains("mtu") => rest,
        _ => line,
    };
    let mut words = Vec::new();
    let mut skip = false;
    for word in line.split_whitespace() {
        // `expires 86397sec`, `preferred_lft forever` and the like stay; what counts down goes.
        if std::mem::take(&mut skip) {
            continue;
        }
        skip = matches!(word, "expires" | "gc_timer" | "hello_timer" | "tcn_timer" | "topology_change_timer");
        if !skip {
            words.push(word.split("@if").next().unwrap_or(word));
        }
    }
    words.join(" ")
}

/// A ruleset without what its counters have counted.
pub(super) fn without_counts(text: &str) -> String {
    let mut plain = String::new();
    for line in text.lines() {
        match line.split_once("counter packets ") {
            Some((before, rest)) => {
                let rest = rest.split_once(" bytes ").map_or("", |(_, rest)| rest.trim_start_matches(char::is_numeric));
                plain.extend([before, "counter", rest, "\n"]);
            }
            None => plain.extend([line, "\n"]),
        }
    }
    plain
}
