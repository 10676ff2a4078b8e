//! Commits that nobody signed, in a cluster: what is published stays, whoever leads and whatever was done to the history.
//!
//! Deliberately absent: what a good signature is, and the gate's own cases (`git::signatures`).

use std::process::Command;

use serde_json::json;

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
fn an_unsigned_push_is_reported_and_stays_out_also_for_a_controller_that_never_saw_the_demand() -> Outcome {
    let mut stand = Stand::applied(Options { gateways: 2, ..Options::default() })?;
    let path = stand.lab.cluster_dir().parent().expect("a folder").join("signing-key");
    let made = Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-C", "", "-f"]).arg(&path).status();
    assert!(made.expect("ssh-keygen is installed").success());
    let public = std::fs::read_to_string(path.with_extension("pub")).expect("a public key");
    let demand = format!(
        "apiVersion: egret.dev/v1alpha1\nkind: Config\nsignatures:\n  require: Every\n  allowedSigners:\n  - piett {}\n\
         changeWindows: {{open: [{{cron: 0 0 1 1 *, duration: 90m}}], emergencyTrailer: Now}}\n",
        public.trim_end()
    );
    stand.push(&[("egret.yaml", &demand)])?;
    let pushed = stand.lab.repository().in_clone(["rev-parse", "HEAD"])?.trim().to_owned();
    stand.await_that("the demand active", || revision(&stand) == pushed)?;
    // What a controller has to know that begins with nothing.
    let seconds = stand.lab.repository().in_clone(["show", "--no-patch", "--format=%ct", &pushed])?;
    let spec = stand.object("egressconfigs", "default")["spec"].clone();
    let committed: Option<jiff::Timestamp> = spec["committed"].as_str().and_then(|time| time.parse().ok());
    assert_eq!(committed.map(|time| time.as_second().to_string()).as_deref(), Some(seconds.trim()));
    let window = json!({"cron": "0 0 1 1 *", "timeZone": "UTC", "duration": "1h 30m"});
    assert_eq!(spec["config"]["changeWindows"], json!({"open": [window], "emergencyTrailer": "Now"}));
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
    stand.process("controller-two").wait_for("is not signed as demanded: it has no signature", DEADLINE)?;
    stand.await_granted("tiefighter")?;
    assert_eq!(revision(&stand), pushed);
    stand.assert_no_leak_but(&[])
}
