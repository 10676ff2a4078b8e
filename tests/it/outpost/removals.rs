//! A commit that removes most policies, or takes their egress address from most members, is held back: the kernel stays as it is,
//! plan, preview, report and metrics tell what waits and how to confirm it, and a later commit's trailer lets it in.
//!
//! Deliberately absent: the gate's own cases (`git::admission`), and the condition in a cluster (`incluster::windows`).

use std::process::Command;

use egret::core::admission::{PendingReason, Removals, Share};

use super::metrics::fetch;
use super::stand::{DEADLINE, Document, Outcome, Stand, labels};
use crate::lab::{Answer, EGRESS, LabError, OUTPOST, Options, wait_until};

const NODE: &str = "kind-worker";
const METRIC: &str = "egret_commit_pending{reason=\"RemovalsUnconfirmed\"}";

/// Checks what was said of a commit that waits.
fn assert_told(said: &str, what: &str) {
    let told = format!("it removes {what}, more than 50 %");
    assert!(said.contains(&told), "{told}: {said}");
    assert!(said.contains("Egret-Confirm-Removals"), "{said}");
}

/// What a preview of the newest commit says.
fn preview(stand: &Stand) -> Result<String, LabError> {
    let repository = stand.lab.repository();
    let commit = |rev: &str| repository.in_clone(["rev-parse", rev]).map(|id| id.trim().to_owned());
    let (base, head) = (commit("HEAD~1")?, commit("HEAD")?);
    let output = Command::new(stand.lab.program()?)
        .arg("preview")
        .args(["--base", &base, "--head", &head, "--repo"])
        .arg(repository.path())
        .arg("--cluster")
        .arg(stand.lab.cluster_dir())
        .output()
        .map_err(LabError::doing("run egret preview"))?;
    assert_eq!(output.status.code(), Some(2), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// What the kernel holds of Egret's objects on a node.
fn kernel(stand: &Stand) -> Result<[String; 3], LabError> {
    let node = stand.lab.node(NODE)?;
    // Counters count.
    let tables = node.exec(["nft", "--stateless", "list", "ruleset"])?;
    Ok([tables, node.exec(["ip", "rule"])?, node.exec(["ip", "route", "show", "table", "all", "proto", "180"])?])
}

fn await_held(stand: &Stand, policies: Share, members: Share) {
    let report = stand.await_report(NODE, "what waits", |report| report.pending.is_some());
    let why = PendingReason::Removals(Removals { policies, members, max: 50 });
    assert_eq!(report.pending.map(|pending| pending.why), Some(why));
}

#[test]
fn an_emptied_repository_is_held_back_shown_everywhere_and_confirmed_by_a_later_commit() -> Outcome {
    let mut stand = Stand::applied(Options::default())?;
    stand.await_settled()?;
    let before = kernel(&stand)?;
    stand.lab.repository().remove("policies/outpost.yaml")?;
    stand.lab.repository().remove("nodes/gateways.yaml")?;
    stand.lab.repository().push_unconfirmed("by mistake")?;
    let (policies, members) = (Share { removed: 1, of: 1 }, Share { removed: 1, of: 1 });
    await_held(&stand, policies, members);
    let told = "1 of 1 policies and 1 of 1 members";
    let page = stand.lab.repository().show(&format!("{}:README.md", super::stand::REPORTS))?;
    assert_told(&page, told);
    let page = fetch(&stand, NODE, "/metrics")?.1;
    assert!(page.contains(&format!("{METRIC} 1\n")), "{page}");
    let (code, plan) = stand.plan(NODE)?;
    assert_eq!(code, Some(2), "{plan}");
    assert!(plan.contains("\n  later   it removes "), "{plan}");
    assert_told(&plan, told);
    assert_told(&preview(&stand)?, told);
    // A restart lets nothing in.
    stand.kill9(NODE)?;
    stand.start(NODE)?;
    stand.egret(NODE).wait_for(" applied commit=", DEADLINE)?;
    await_held(&stand, policies, members);
    assert_eq!(kernel(&stand)?, before);
    assert_eq!(stand.lab.ask("tiefighter", OUTPOST)?, Answer::Granted(EGRESS));
    stand.lab.repository().push_empty("the outpost is closed")?;
    let report = stand.await_report(NODE, "that nothing waits", |report| report.pending.is_none());
    assert_eq!(report.active.map(|commit| commit.summary).as_deref(), Some("the outpost is closed"));
    let gone = || kernel(&stand).is_ok_and(|[_, rules, routes]| !rules.contains("fwmark") && routes.trim().is_empty());
    assert!(wait_until(DEADLINE, gone), "{:?}", kernel(&stand)?);
    let page = fetch(&stand, NODE, "/metrics")?.1;
    assert!(page.contains(&format!("{METRIC} 0\n")), "{page}");
    Ok(())
}

#[test]
fn a_selector_that_loses_its_members_is_held_back_though_no_policy_goes() -> Outcome {
    let stand = Stand::applied(Options::default())?;
    let typo = Document { org: "empier", ..Document::default() }.text();
    stand.lab.repository().write("policies/outpost.yaml", &typo)?;
    stand.lab.repository().write("nodes/gateways.yaml", &labels("kind-worker2"))?;
    stand.lab.repository().push_unconfirmed("by mistake")?;
    await_held(&stand, Share { removed: 0, of: 1 }, Share { removed: 1, of: 1 });
    assert_told(&stand.plan(NODE)?.1, "1 of 1 members");
    assert_told(&preview(&stand)?, "1 of 1 members");
    assert_eq!(stand.lab.ask("tiefighter", OUTPOST)?, Answer::Granted(EGRESS));
    // What was meant needs no word.
    let mended = Document { excluded: "10.0.4.99/32", ..Document::default() }.text();
    stand.lab.repository().write("policies/outpost.yaml", &mended)?;
    let mended = stand.lab.repository().push_unconfirmed("by mistake")?;
    stand.await_report(NODE, "that nothing waits", |report| {
        report.pending.is_none() && report.active.as_ref().is_some_and(|active| active.commit == mended)
    });
    stand.await_granted("tiefighter")
}
