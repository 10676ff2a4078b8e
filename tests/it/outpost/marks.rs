//! Mark bits that somebody else on a node uses: Egret takes others, and leaves those it had when somebody begins to use them.
//!
//! The rule of somebody else stands before ours and sends what bears its bit by the main table: with a mask that has the bit, the first exit's
//! packets would never come into the tunnel. Deliberately absent: each way in which bits can be used (`doctor`).

use super::stand::{DEADLINE, Outcome, Stand};
use crate::lab::{Lab, LabError, Namespace, Options, wait_until};

/// As AWS' CNI has one with 0x80, but with the bit that Egret's first exit has by default.
const RULE: [&str; 9] = ["ip", "rule", "add", "priority", "1024", "fwmark", "0x1/0x1", "lookup", "main"];

/// The masks of Egret's rules on a node.
fn masks(node: &Namespace) -> Result<Vec<String>, LabError> {
    let rules = node.exec(["ip", "rule", "show"])?;
    let ours = rules.lines().filter(|line| line.contains("proto 180"));
    let mut masks: Vec<String> = ours
        .filter_map(|line| line.split_once("fwmark ")?.1.split_once('/')?.1.split(' ').next())
        .map(str::to_owned)
        .collect();
    masks.sort();
    masks.dedup();
    Ok(masks)
}

#[test]
fn a_node_takes_bits_that_nobody_else_there_uses_and_another_the_default() -> Outcome {
    let lab = Lab::up(Options::default())?;
    let node = lab.node("kind-worker")?;
    node.exec(RULE)?;
    node.nft(
        "table ip cni { chain restore { type filter hook prerouting priority mangle; policy accept; \
         meta mark & 0x400 == 0x400 ct mark set ct mark or 0x800; }; }",
    )?;
    let stand = Stand::around(lab)?;
    stand.push_outpost()?;
    stand.await_granted("tiefighter")?;
    // Until the policy was active, pods left as themselves.
    stand.lab.forget()?;
    stand.await_granted("tiefighter")?;
    stand.await_settled()?;
    assert_eq!(masks(&stand.lab.node("kind-worker")?)?, ["0x1fff0000"]);
    assert_eq!(masks(&stand.lab.node("kind-worker2")?)?, ["0x1fff"], "marks never leave a node, so nodes may differ");
    let mut findings = stand.await_report("kind-worker", "it", |report| report.active.is_some()).findings;
    findings.retain(|noted| noted.finding.code.starts_with("marks"));
    assert_eq!(findings, []);
    stand.assert_no_leak_but(&[])
}

#[test]
fn bits_that_somebody_begins_to_use_are_left_to_him_and_that_is_reported() -> Outcome {
    let stand = Stand::applied(Options::default())?;
    let node = stand.lab.node("kind-worker")?;
    assert_eq!(masks(&node)?, ["0x1fff"]);
    node.exec(RULE)?;
    let mut last = Vec::new();
    let moved = wait_until(DEADLINE, || {
        last = masks(&node).unwrap_or_default();
        last == ["0x3ffe"]
    });
    assert!(moved, "{last:?}\n{}", stand.log("kind-worker"));
    stand.await_granted("tiefighter")?;
    stand.await_settled()?;
    let said = "marks 0x1fff were left for 0x3ffe, and connections with them began anew: others use some of them: the ip rule 1024 0x1";
    stand.await_report("kind-worker", "that marks have moved", |report| {
        report.findings.iter().any(|noted| noted.finding.code == "marks-moved" && noted.finding.message == said)
    });
    // What was chosen stays, also where the reason for it is gone.
    node.exec(["ip", "rule", "del", "priority", "1024"])?;
    stand.await_report("kind-worker", "that nobody uses them", |report| {
        report.findings.iter().all(|noted| noted.finding.code != "marks-moved")
    });
    assert_eq!(masks(&node)?, ["0x3ffe"]);
    stand.assert_no_leak_but(&[])
}
