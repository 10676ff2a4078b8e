//! The reports branch of nodes that read Git themselves: one page and one snapshot, written by all of them, and what is said while nobody can.
//!
//! Deliberately absent: what a record of drift says (`drift`), and the branch on real servers (`git::refusals`).

use std::os::unix::fs::PermissionsExt as _;

use egret::core::name::NodeName;
use egret::core::snapshot;

use super::stand::{DEADLINE, LISTEN, Outcome, Stand};
use crate::lab::{LabError, Options, get, wait_until};

const BRANCH: &str = "egret/reports/default";

fn show(stand: &Stand, path: &str) -> String {
    stand.lab.repository().show(&format!("{BRANCH}:{path}")).unwrap_or_default()
}

fn await_that(stand: &Stand, awaited: &str, holds: impl FnMut() -> bool) {
    let logs: String = stand.nodes().iter().map(|node| stand.log(node)).collect();
    assert!(wait_until(DEADLINE, holds), "{awaited}\n{}\n{logs}", show(stand, "README.md"));
}

/// Takes a rule of Egret's away, and waits until it is back.
fn drift(stand: &Stand, node: &str) -> Outcome {
    let rules = || stand.lab.node(node).and_then(|place| place.exec("ip rule show priority 501".split(' ')));
    stand.lab.node(node)?.exec("ip rule del priority 501".split(' '))?;
    await_that(stand, "the rule is back", || rules().is_ok_and(|text| !text.is_empty()));
    Ok(())
}

#[test]
fn nodes_write_one_page_and_one_snapshot_together_and_come_to_rest() -> Outcome {
    let stand = Stand::applied(Options::default())?;
    await_that(&stand, "both nodes on the page", || show(&stand, "README.md").contains("on 2 of 2 nodes"));
    let gateway = NodeName::parse("kind-worker2").expect("a node");
    let told = || snapshot::host_networks(&show(&stand, snapshot::FILE));
    await_that(&stand, "the gateway's interfaces in the snapshot", || told().contains_key(&gateway));
    let host_network = &told()[&gateway];
    assert_eq!(host_network.holder("10.0.3.42".parse().expect("an address")), Some("net1"));
    assert_eq!(told().len(), 1, "a node that nobody chooses for a gateway tells nothing");
    for _ in 0..3 {
        for node in stand.nodes() {
            drift(&stand, &node)?;
        }
    }
    for node in stand.nodes() {
        let rule = "ip rule 501: from all fwmark 0x1/0x1fff lookup 9001 proto egret";
        stand.await_corrected(&node, rule, 3);
    }
    await_that(&stand, "a page that tells both", || {
        let page = show(&stand, "README.md");
        let rows = page.lines().filter(|line| line.contains("| 3, the first at ")).count();
        rows == 2 && page.contains("| outpost | policies/outpost.yaml:1 | 0 | 6 |")
    });
    // The snapshot went with first reports alone: whoever had something to add to it.
    let written = stand.lab.repository().in_bare(["log", "--format=%s", BRANCH, "--", snapshot::FILE])?;
    assert!(written.lines().count() <= 3, "{written}");
    Ok(())
}

#[test]
fn reports_that_are_not_taken_are_reported_beside_readiness_until_they_are() -> Outcome {
    let stand = Stand::applied(Options::default())?;
    let node = "kind-worker";
    await_that(&stand, "a first report", || show(&stand, "README.md").contains("on 2 of 2 nodes"));
    let hook = stand.lab.repository().path().join("hooks/pre-receive");
    std::fs::create_dir_all(hook.parent().expect("a folder")).map_err(LabError::doing("make a folder"))?;
    std::fs::write(&hook, "#!/bin/sh\nexit 1\n").map_err(LabError::doing("write a hook"))?;
    std::fs::set_permissions(&hook, std::fs::Permissions::from_mode(0o755)).map_err(LabError::doing("write a hook"))?;
    let ready = || {
        let listen = LISTEN.parse().expect("an address and a port");
        stand.lab.node(node).and_then(|place| place.enter(|| get(listen, "/readyz"))).ok().and_then(Result::ok)
    };
    let mut last = None;
    await_that(&stand, "a remark that reports are not committed", || {
        drift(&stand, node).expect("drift");
        last = ready();
        last.as_ref()
            .is_some_and(|(status, body)| *status == 200 && body.starts_with("ok\ndrift reports are not committed: "))
    });
    let (_, body) = last.unwrap_or_default();
    assert!(body.contains("hooks/pre-receive may reject pushes") && body.contains("(hint: "), "{body}");
    std::fs::remove_file(&hook).map_err(LabError::doing("take the hook away"))?;
    await_that(&stand, "that it works again", || {
        drift(&stand, node).expect("drift");
        ready() == Some((200, "ok\n".to_owned()))
    });
    let report = stand.report(node).expect("a report");
    assert!(report.corrected.iter().any(|record| record.times > 1), "{report:?}");
    Ok(())
}
