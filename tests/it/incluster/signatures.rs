//! Commits that nobody signed, in a cluster: what is published stays, whoever leads and whatever was done to the history.
//!
//! Deliberately absent: what a good signature is, and the gate's own cases (`git::signatures`).

use std::process::Command;

use super::stand::{DEADLINE, Outcome, Stand, policy};
use crate::lab::Options;

fn revision(stand: &Stand) -> String {
    stand.object("egressconfigs", "default")["spec"]["revision"].as_str().unwrap_or_default().to_owned()
}

fn up_to_date(stand: &Stand) -> (String, String) {
    stand.condition("egressconfigs", "default", "UpToDate")
}

fn refused() -> (String, String) {
    ("False".to_owned(), "SignatureRefused".to_owned())
}

#[test]
fn an_unsigned_push_is_told_and_stays_out_also_for_a_controller_that_never_saw_the_demand() -> Outcome {
    let mut stand = Stand::in_force(Options { gateways: 2, ..Options::default() })?;
    let path = stand.lab.cluster_dir().parent().expect("a folder").join("signing-key");
    let made = Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-C", "", "-f"]).arg(&path).status();
    assert!(made.expect("ssh-keygen is installed").success());
    let public = std::fs::read_to_string(path.with_extension("pub")).expect("a public key");
    let demand = format!(
        "apiVersion: egret.dev/v1alpha1\nkind: Config\nsignatures:\n  require: Every\n  allowedSigners:\n  - piett {}\n",
        public.trim_end()
    );
    stand.push(&[("egret.yaml", &demand)])?;
    let pushed = stand.lab.repository().in_clone(["rev-parse", "HEAD"])?.trim().to_owned();
    stand.await_that("the demand in force", || revision(&stand) == pushed)?;
    stand.push(&[("policies/outpost.yaml", &policy("kubernetes.io/hostname: kind-worker3"))])?;
    stand.await_that("a head that is refused", || up_to_date(&stand) == refused())?;
    let events = || stand.api.list("events.events.k8s.io");
    stand.await_that("an event", || events().iter().any(|event| event["reason"] == "SignatureRefused"))?;
    stand.await_granted("tiefighter")?;
    // Who has push rights throws away the history that has the demand, before a controller starts that never saw it.
    stand.terminate("controller-one")?;
    let repository = stand.lab.repository();
    repository.in_clone(["checkout", "--quiet", "--orphan", "other"])?;
    repository.in_clone(["rm", "--quiet", "--cached", "egret.yaml"])?;
    repository.remove("egret.yaml")?;
    repository.in_clone(["commit", "--quiet", "--all", "--message", "everything anew"])?;
    repository.in_clone(["push", "--quiet", "--force", "origin", "HEAD:main"])?;
    stand.controller("two")?;
    stand.processes["controller-two"].wait_for("is not signed as demanded: it has no signature", DEADLINE)?;
    stand.await_granted("tiefighter")?;
    assert_eq!(revision(&stand), pushed);
    stand.assert_no_leak_but(&[])
}
