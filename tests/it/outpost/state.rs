//! The state folder of a node that cannot be written, was deleted, or is lost: packets go on, it is told, and nothing comes into force
//! because of it.
//!
//! Deliberately absent: the files by themselves (`reconcile::persistence`), mirrors (`git::rot`), and agents (`incluster::state`).

use std::fs;
use std::path::PathBuf;

use egret::core::admission::PendingReason;

use super::metrics::fetch;
use super::stand::{DEADLINE, Document, Outcome, Stand, WAYS, labels};
use super::windows::{CLOSED, through_the_other};
use crate::lab::{Answer, OUTPOST, Options, wait_until};

fn folder(stand: &Stand, node: &str) -> PathBuf {
    stand.lab.folder().join(format!("state-{node}")).join(node)
}

#[test]
fn a_state_folder_that_is_deleted_is_made_anew_and_a_push_takes_effect() -> Outcome {
    let mut stand = Stand::applied(Options::default())?;
    for node in stand.nodes() {
        // At once, while Egret may be writing there.
        let folder = folder(&stand, &node);
        fs::rename(&folder, folder.with_extension("gone")).expect("moved away");
    }
    stand.push("policies/outpost.yaml", &Document { excluded: "", ..Document::default() }.text())?;
    for (_, excluded, egress) in WAYS {
        stand.await_answer("tiefighter", excluded, Answer::Granted(egress))?;
    }
    for node in stand.nodes() {
        for name in ["memory.json", "memory.json.copy", "policy.git/egret-mirror"] {
            let path = folder(&stand, &node).join(name);
            assert!(wait_until(DEADLINE, || path.exists()), "{}\n{}", path.display(), stand.log(&node));
        }
        let log = stand.log(&node);
        assert!(!log.contains("there is no Git repository") && !log.contains("not applied"), "{log}");
        // What is kept is enough for a restart.
        stand.kill9(&node)?;
        stand.start(&node)?;
    }
    stand.await_settled()?;
    stand.assert_no_leak_but(&[])
}

#[test]
fn what_cannot_be_written_is_a_finding_and_only_a_label_waits_for_it() -> Outcome {
    const NODE: &str = "kind-worker";
    let stand = Stand::applied(Options::default())?;
    // A folder in the place of the file that is written before it is renamed. Mirrors are as they were.
    let obstacle = folder(&stand, NODE).join(".egret-memory.json.tmp");
    fs::create_dir_all(&obstacle).expect("a folder");
    stand.push("policies/outpost.yaml", &Document { excluded: "", ..Document::default() }.text())?;
    for (_, excluded, egress) in WAYS {
        stand.await_answer("tiefighter", excluded, Answer::Granted(egress))?;
    }
    let said = |report: &egret::core::report::history::NodeReport| {
        report.findings.iter().any(|since| since.finding.code == "state-not-written")
    };
    // What an earlier round could not write is found as well.
    let of_the_push = |report: &egret::core::report::history::NodeReport| {
        let active = report.active.as_ref().map(|commit| commit.summary.as_str());
        said(report) && active == Some("another policies/outpost.yaml")
    };
    stand.await_report(NODE, "what is not written", of_the_push);
    let (status, text) = fetch(&stand, NODE, "/readyz")?;
    assert!(status == 200 && text.contains("what has to outlive a restart: cannot write "), "{status} {text}");
    let page = fetch(&stand, NODE, "/metrics")?.1;
    assert!(page.contains("egret_state_write_failures_total ") && !page.contains("write_failures_total 0\n"), "{page}");
    let log = stand.log(NODE);
    assert_eq!(log.matches("a restart would not know").count(), 1, "{log}");
    assert!(!log.contains("not applied"), "{log}");
    // A label that nothing would own is not written.
    stand.push("nodes/gateways.yaml", &labels("kind-worker2, kind-worker"))?;
    stand.egret(NODE).wait_for("not applied", DEADLINE)?;
    let manifest = stand.lab.cluster_dir().join("nodes.yaml");
    let labelled = || fs::read_to_string(&manifest).is_ok_and(|text| text.matches("egress-gw: ").count() == 2);
    assert!(!labelled());
    fs::remove_dir(&obstacle).expect("removed");
    assert!(wait_until(2 * DEADLINE, labelled), "{}", stand.log(NODE));
    stand.await_report(NODE, "that all is written", |report| !said(report));
    stand.egret(NODE).wait_for("the state folder is written again", DEADLINE)
}

#[test]
fn a_memory_that_cannot_be_read_opens_no_window() -> Outcome {
    let mut stand = Stand::applied(Options { gateways: 2, ..Options::default() })?;
    stand.push("egret.yaml", CLOSED)?;
    stand.push("policies/outpost.yaml", &Document::through("kind-worker3").text())?;
    let waiting = |stand: &Stand| {
        let report = stand.await_report("kind-worker", "what waits", |report| report.pending.is_some());
        report.pending.expect("it was just seen")
    };
    let before = waiting(&stand);
    assert!(matches!(before.why, PendingReason::Window { .. }), "{before:?}");
    for node in stand.nodes() {
        stand.kill9(&node)?;
        fs::write(folder(&stand, &node).join("memory.json"), "").expect("truncated");
        stand.start(&node)?;
    }
    for node in stand.nodes() {
        stand.egret(&node).wait_for(" applied commit=", DEADLINE)?;
    }
    assert_eq!(waiting(&stand), before, "there was a copy");
    stand.await_granted("tiefighter")?;
    for node in stand.nodes() {
        stand.kill9(&node)?;
        for name in ["memory.json", "memory.json.copy"] {
            fs::write(folder(&stand, &node).join(name), "{\"commit\": \"").expect("truncated");
        }
        stand.start(&node)?;
    }
    for node in stand.nodes() {
        stand.egret(&node).wait_for("no state is left of an earlier process", DEADLINE)?;
        stand.egret(&node).wait_for("waits: the change window is closed; it opens ", DEADLINE)?;
    }
    assert_eq!(stand.lab.ask("tiefighter", OUTPOST)?, Answer::Granted(WAYS[0].2), "the kernel has what it had");
    let (status, text) = fetch(&stand, "kind-worker", "/readyz")?;
    assert!(status == 503 && text.contains("no commit is active yet: "), "{status} {text}");
    assert_eq!(stand.plan("kind-worker")?.0, Some(2), "what is pending");
    stand.push_saying("now\n\nEgret-Emergency: the file is gone", &[("README.md", "")])?;
    stand.await_answer("tiefighter", OUTPOST, through_the_other())?;
    let kept = folder(&stand, "kind-worker").join("memory.json.unreadable");
    assert!(wait_until(DEADLINE, || kept.exists()));
    stand.await_report("kind-worker", "that labels may be left", |report| {
        report.findings.iter().any(|since| since.finding.code == "state-unreadable")
    });
    stand.assert_no_leak_but(&[])
}
