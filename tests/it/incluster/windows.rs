//! Commits that wait, and commits that are no business of this cluster's: who writes what of it.
//!
//! Deliberately absent: the gate's own cases (`git::admission`), and packets on a standalone node (`outpost::windows`).

use jiff::{SignedDuration, Timestamp};

use super::stand::{DEADLINE, Outcome, Stand, WAYS, policy};
use crate::apiserver::Filter;
use crate::lab::{Answer, OUTPOST, Options};

const OTHER: &str = "10.0.3.43";

fn config(rest: &str) -> String {
    format!("apiVersion: egret.dev/v1alpha1\nkind: Config\n{rest}")
}

/// Open in the first minute of a year alone.
fn closed() -> String {
    config(
        "changeWindows:\n  open: [{name: new year, cron: 0 0 1 1 *, duration: 1m}]\n  emergencyTrailer: Egret-Emergency\n",
    )
}

fn up_to_date(stand: &Stand) -> (String, String) {
    stand.condition("egressconfigs", "default", "UpToDate")
}

fn revision(stand: &Stand) -> String {
    stand.object("egressconfigs", "default")["spec"]["revision"].as_str().unwrap_or_default().to_owned()
}

fn events(stand: &Stand, reason: &str) -> usize {
    stand.api.list("events.events.k8s.io").iter().filter(|event| event["reason"] == reason).count()
}

fn says(status: &str, reason: &str) -> (String, String) {
    (status.to_owned(), reason.to_owned())
}

fn through_the_other() -> Answer {
    Answer::Granted(OTHER.parse().expect("an address"))
}

#[test]
fn a_push_outside_the_window_is_reported_and_waits_whoever_leads() -> Outcome {
    let mut stand = Stand::applied(Options { gateways: 2, ..Options::default() })?;
    stand.await_that("a head that is up to date", || up_to_date(&stand) == says("True", "Published"))?;
    stand.push(&[("egret.yaml", &closed())])?;
    let pushed = stand.lab.repository().in_clone(["rev-parse", "HEAD"])?.trim().to_owned();
    stand.await_that("the windows active", || revision(&stand) == pushed)?;
    stand.push(&[("policies/outpost.yaml", &policy("kubernetes.io/hostname: kind-worker3"))])?;
    stand.await_that("a head that waits", || up_to_date(&stand) == says("False", "ChangeWindowClosed"))?;
    stand.await_that("an event", || events(&stand, "ChangeWindowClosed") == 1)?;
    // A controller that has never seen the repository takes over, and lets nothing in either.
    stand.terminate("controller-one")?;
    stand.controller("two")?;
    stand
        .await_that("the other as leader", || stand.object("egressconfigs", "default")["status"]["leader"] == "two")?;
    assert_eq!(revision(&stand), pushed);
    assert_eq!(up_to_date(&stand), says("False", "ChangeWindowClosed"));
    stand.await_granted("tiefighter")?;
    let text = policy("kubernetes.io/hostname: kind-worker3").replace("spec:", "spec: # at once");
    stand.lab.repository().write("policies/outpost.yaml", &text)?;
    let emergency = stand.lab.repository().push("now\n\nEgret-Emergency: the rebels are here")?;
    stand.await_answer("tiefighter", OUTPOST, through_the_other())?;
    assert_eq!(revision(&stand), emergency);
    stand.await_that("a head that is up to date", || up_to_date(&stand) == says("True", "Published"))?;
    stand.await_that("an event", || events(&stand, "EmergencyApplied") == 1)?;
    stand.assert_no_leak_but(&[])
}

#[test]
fn an_emptied_repository_is_a_condition_until_it_is_confirmed_whoever_leads() -> Outcome {
    let mut stand = Stand::applied(Options::default())?;
    stand.await_that("a head that is up to date", || up_to_date(&stand) == says("True", "Published"))?;
    let active = revision(&stand);
    let repository = stand.lab.repository();
    repository.remove("policies/outpost.yaml")?;
    repository.push_unconfirmed("by mistake")?;
    stand.await_that("a head that waits", || up_to_date(&stand) == says("False", "RemovalsUnconfirmed"))?;
    stand.await_that("an event", || events(&stand, "RemovalsUnconfirmed") == 1)?;
    let head = stand.object("egressconfigs", "default")["status"]["conditions"].to_string();
    assert!(head.contains("it removes 1 of 1 policies") && head.contains("Egret-Confirm-Removals"), "{head}");
    stand.terminate("controller-one")?;
    stand.controller("two")?;
    stand
        .await_that("the other as leader", || stand.object("egressconfigs", "default")["status"]["leader"] == "two")?;
    assert_eq!((revision(&stand), up_to_date(&stand)), (active, says("False", "RemovalsUnconfirmed")));
    stand.await_granted("tiefighter")?;
    let confirmed = stand.lab.repository().push_empty("it is closed")?;
    stand.await_that("the confirmed commit", || revision(&stand) == confirmed)?;
    stand.await_that("a head that is up to date", || up_to_date(&stand) == says("True", "Published"))
}

#[test]
fn what_waits_for_the_end_of_a_suspension_is_published_when_it_ends() -> Outcome {
    let stand = Stand::applied(Options { gateways: 2, ..Options::default() })?;
    let until = Timestamp::now() + SignedDuration::from_secs(6);
    let suspended = config(&format!("suspend: {{until: \"{until}\", owner: Han, reason: we move}}\n"));
    let other = policy("kubernetes.io/hostname: kind-worker3");
    stand.push(&[("egret.yaml", &suspended), ("policies/outpost.yaml", &other)])?;
    stand.await_that("a head that waits", || up_to_date(&stand) == says("False", "Suspended"))?;
    assert_eq!(stand.lab.ask("tiefighter", OUTPOST)?, Answer::Granted(WAYS[0].1));
    assert!(Timestamp::now() < until, "all of that was before its end");
    stand.await_answer("tiefighter", OUTPOST, through_the_other())?;
    assert!(Timestamp::now() >= until);
    stand.await_that("a head that is up to date", || up_to_date(&stand) == says("True", "Published"))
}

#[test]
fn a_commit_of_another_clusters_costs_no_write() -> Outcome {
    let stand = Stand::applied(Options::default())?;
    let paths = config("clusters: {default: {paths: [nodes, policies]}, other: {paths: [other]}}\n");
    stand.push(&[("egret.yaml", &paths)])?;
    let pushed = stand.lab.repository().in_clone(["rev-parse", "HEAD"])?.trim().to_owned();
    stand.await_that("a head that counts both nodes", || {
        revision(&stand) == pushed && stand.object("egressconfigs", "default")["status"]["nodeSummary"] == "2/2"
    })?;
    stand.await_quiet()?;
    let reports = stand.lab.repository().log("egret/reports/default")?;
    let other = policy("egress-gw: \"true\"").replace("name: outpost", "name: other");
    stand.push(&[("other/policy.yaml", &other), ("README.md", "words\n")])?;
    let passed_over = "nothing of this cluster's has changed";
    stand.process("controller-one").wait_for(passed_over, DEADLINE)?;
    stand.lab.repository().remove("other/policy.yaml")?;
    stand.push(&[])?;
    stand.await_that("both passed over", || stand.logs().matches(passed_over).count() == 2)?;
    // That nothing comes of it is seen by waiting alone: longer than bursts are gathered.
    std::thread::sleep(std::time::Duration::from_secs(2));
    let leases = stand.api.writes(&Filter::writes().resource("leases"));
    assert_eq!(stand.api.writes(&Filter::writes()), leases, "{:#?}", stand.api.requests());
    assert_eq!(stand.lab.repository().log("egret/reports/default")?, reports);
    assert_eq!(revision(&stand), pushed);
    // The next one that is its business is active as ever.
    stand.lab.repository().remove("policies/outpost.yaml")?;
    stand.push(&[])?;
    stand.await_own_way("tiefighter")
}
