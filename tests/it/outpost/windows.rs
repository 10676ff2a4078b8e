//! Commits that wait: what was active stays active, and what waited becomes active by itself.
//!
//! Deliberately absent: the gate's own cases (`git::admission`), and the arithmetic of windows (`core::admission`).

use egret::core::admission::PendingReason;
use jiff::{SignedDuration, Timestamp};

use super::metrics::fetch;
use super::stand::{DEADLINE, Document, Outcome, REPORTS, Stand};
use crate::lab::{Answer, EGRESS, OUTPOST, Options};

const OTHER: &str = "10.0.3.43";

/// Open in the first minute of a year alone.
pub(super) const CLOSED: &str = "apiVersion: egret.dev/v1alpha1
kind: Config
changeWindows:
  open: [{name: new year, cron: 0 0 1 1 *, timeZone: Europe/Berlin, duration: 1m}]
  emergencyTrailer: Egret-Emergency
";

pub(super) fn through_the_other() -> Answer {
    Answer::Granted(OTHER.parse().expect("an address"))
}

#[test]
fn a_push_outside_the_window_waits_over_a_restart_and_an_emergency_passes() -> Outcome {
    let mut stand = Stand::applied(Options { gateways: 2, ..Options::default() })?;
    stand.push("egret.yaml", CLOSED)?;
    stand.push("policies/outpost.yaml", &Document::through("kind-worker3").text())?;
    let waits = |stand: &Stand, node: &str| {
        let report = stand.await_report(node, "what waits", |report| {
            report.pending.as_ref().is_some_and(|pending| pending.summary == "another policies/outpost.yaml")
        });
        let pending = report.pending.expect("it was just seen");
        assert!(matches!(&pending.why, PendingReason::Window { window, .. } if window == "new year"), "{pending:?}");
        let active = report.active.map(|commit| commit.summary);
        assert_eq!(active.as_deref(), Some("another egret.yaml"));
        pending
    };
    let before = waits(&stand, "kind-worker");
    let page = stand.lab.repository().show(&format!("{REPORTS}:README.md"))?;
    assert!(page.contains("**Waiting** since "), "{page}");
    assert!(page.contains("the change window is closed; it opens "), "{page}");
    stand.await_granted("tiefighter")?;
    for node in stand.nodes() {
        stand.kill9(&node)?;
        stand.start(&node)?;
    }
    for node in stand.nodes() {
        stand.egret(&node).wait_for(" applied commit=", DEADLINE)?;
    }
    let (code, plan) = stand.plan("kind-worker")?;
    assert_eq!(code, Some(2), "{plan}");
    assert!(plan.contains("\n  later   the change window is closed; it opens "), "{plan}");
    assert_eq!(waits(&stand, "kind-worker"), before, "it waits since then");
    stand.await_granted("tiefighter")?;
    let repository = stand.lab.repository();
    repository.write(
        "policies/outpost.yaml",
        &Document::through("kind-worker3").text().replace("spec:", "spec: # at once"),
    )?;
    repository.push("now\n\nEgret-Emergency: the rebels are here")?;
    stand.await_answer("tiefighter", OUTPOST, through_the_other())?;
    let report = stand.await_report("kind-worker", "an emergency", |report| report.emergency.is_some());
    assert_eq!(report.pending, None);
    assert_eq!(report.emergency.map(|emergency| emergency.reason).as_deref(), Some("the rebels are here"));
    let page = stand.lab.repository().show(&format!("{REPORTS}:README.md"))?;
    assert!(page.contains("**Applied outside the change window:** "), "{page}");
    stand.assert_no_leak_but(&[])
}

#[test]
fn what_waits_for_the_end_of_a_suspension_comes_into_force_when_it_ends() -> Outcome {
    let stand = Stand::applied(Options { gateways: 2, ..Options::default() })?;
    let until = Timestamp::now() + SignedDuration::from_secs(8);
    let suspended = format!(
        "apiVersion: egret.dev/v1alpha1\nkind: Config\nsuspend: {{until: \"{until}\", owner: Han, reason: we move}}\n"
    );
    stand.lab.repository().write("egret.yaml", &suspended)?;
    stand.push("policies/outpost.yaml", &Document::through("kind-worker3").text())?;
    let report = stand.await_report("kind-worker", "what waits", |report| report.pending.is_some());
    let expected =
        PendingReason::Suspended { until: Some(until), owner: "Han".to_owned(), reason: "we move".to_owned() };
    assert_eq!(report.pending.map(|pending| pending.why), Some(expected));
    assert_eq!(stand.lab.ask("tiefighter", OUTPOST)?, Answer::Granted(EGRESS));
    // It is reported, and the node is ready: what is active stays active.
    assert_eq!(fetch(&stand, "kind-worker", "/readyz")?.0, 200);
    let page = fetch(&stand, "kind-worker", "/metrics")?.1;
    for line in [
        "egret_commit_pending{reason=\"ChangeWindowClosed\"} 0\n".to_owned(),
        "egret_commit_pending{reason=\"Suspended\"} 1\n".to_owned(),
        format!("egret_suspended_until_timestamp_seconds{{what=\"cluster\"}} {}\n", until.as_second()),
    ] {
        assert!(page.contains(&line), "{line}{page}");
    }
    // What is active is looked after meanwhile.
    stand.lab.node("kind-worker")?.exec(["ip", "rule", "del", "priority", "501"])?;
    stand.await_report("kind-worker", "what was corrected", |report| !report.corrected.is_empty());
    assert_eq!(stand.lab.ask("tiefighter", OUTPOST)?, Answer::Granted(EGRESS));
    assert!(Timestamp::now() < until, "all of that was before its end");
    // Nobody pushes, and nobody asks.
    stand.await_answer("tiefighter", OUTPOST, through_the_other())?;
    assert!(Timestamp::now() >= until);
    stand.await_report("kind-worker", "that nothing waits", |report| report.pending.is_none());
    let page = fetch(&stand, "kind-worker", "/metrics")?.1;
    assert!(page.contains("egret_commit_pending{reason=\"Suspended\"} 0\n"), "{page}");
    assert!(!page.contains("egret_suspended_until"), "{page}");
    stand.assert_no_leak_but(&[])
}
