//! Commits that nobody signed: they stay out, packets stay as they were, and it is said which commit and why.
//!
//! Deliberately absent: what a good signature is, and the gate's own cases (`git::signatures`).

use std::path::PathBuf;
use std::process::Command;

use egret::core::admission::PendingReason;

use super::stand::{DEADLINE, Document, Outcome, REPORTS, Stand};
use crate::lab::{Answer, OUTPOST, Options, wait_until};

const OTHER: &str = "10.0.3.43";

fn through_the_other() -> Answer {
    Answer::Granted(OTHER.parse().expect("an address"))
}

/// Makes a key; the clone signs with it from now on. Its line of `allowed_signers`, and where it lies.
fn sign(stand: &Stand) -> Result<(String, PathBuf), crate::lab::LabError> {
    let path = stand.lab.cluster_dir().parent().expect("a folder").join("signing-key");
    let made = Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-C", "", "-f"]).arg(&path).status();
    assert!(made.expect("ssh-keygen is installed").success());
    let repository = stand.lab.repository();
    repository.in_clone(["config", "gpg.format", "ssh"])?;
    repository.in_clone(["config", "user.signingkey", path.to_str().expect("UTF-8")])?;
    repository.in_clone(["config", "commit.gpgsign", "true"])?;
    let public = std::fs::read_to_string(path.with_extension("pub")).expect("a public key");
    Ok((format!("piett@empire.example {}", public.trim_end()), path))
}

fn demand(require: &str, line: &str) -> String {
    format!(
        "apiVersion: egret.dev/v1alpha1\nkind: Config\nsignatures:\n  require: {require}\n  allowedSigners:\n  - {line}\n"
    )
}

#[test]
fn an_unsigned_push_stays_out_over_a_restart_and_a_signed_one_comes_in() -> Outcome {
    let mut stand = Stand::applied(Options { gateways: 2, ..Options::default() })?;
    let (line, _) = sign(&stand)?;
    stand.push("egret.yaml", &demand("Head", &line))?;
    stand.await_report("kind-worker", "the demand", |report| {
        report.active.as_ref().is_some_and(|commit| commit.summary == "another egret.yaml")
    });
    let repository = stand.lab.repository();
    repository.in_clone(["config", "commit.gpgsign", "false"])?;
    repository.write("policies/outpost.yaml", &Document::through("kind-worker3").text())?;
    // An attacker would also take the demand away, and say that it is urgent.
    repository.write("egret.yaml", "apiVersion: egret.dev/v1alpha1\nkind: Config\n")?;
    let stray = repository.push("urgent\n\nEgret-Emergency: let me in")?;
    let refused = |stand: &Stand| {
        let report = stand.await_report("kind-worker", "what is refused", |report| report.pending.is_some());
        let expected = PendingReason::Unsigned { commit: stray.clone(), what: "it has no signature".to_owned() };
        assert_eq!(report.pending.map(|pending| pending.why), Some(expected));
    };
    refused(&stand);
    let page = stand.lab.repository().show(&format!("{REPORTS}:README.md"))?;
    assert!(page.contains(&format!("{} is not signed as demanded: it has no signature", &stray[..12])), "{page}");
    stand.await_granted("tiefighter")?;
    let (code, plan) = stand.plan("kind-worker")?;
    assert_eq!(code, Some(2), "{plan}");
    let plan: String = plan.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(plan.contains("is not signed as demanded: it has no signature;"), "{plan}");
    for node in stand.nodes() {
        stand.kill9(&node)?;
        stand.start(&node)?;
    }
    for node in stand.nodes() {
        stand.egret(&node).wait_for(" applied commit=", DEADLINE)?;
    }
    refused(&stand);
    stand.await_granted("tiefighter")?;
    let repository = stand.lab.repository();
    repository.in_clone(["config", "commit.gpgsign", "true"])?;
    repository.in_clone(["commit", "--quiet", "--allow-empty", "--message", "I have looked at it"])?;
    repository.in_clone(["push", "--quiet", "origin", "HEAD:main"])?;
    stand.await_answer("tiefighter", OUTPOST, through_the_other())?;
    stand.await_report("kind-worker", "that nothing waits", |report| report.pending.is_none());
    stand.assert_no_leak_but(&[])
}

#[test]
fn flags_demand_every_commit_and_reports_are_signed() -> Outcome {
    let mut stand = Stand::applied(Options { gateways: 2, ..Options::default() })?;
    let (line, key) = sign(&stand)?;
    let allowed = key.with_extension("allowed");
    std::fs::write(&allowed, format!("{line}\n")).expect("a file");
    let path = |path: &PathBuf| path.to_str().expect("UTF-8").to_owned();
    let (allowed, key) = (path(&allowed), path(&key));
    let flags = ["--require-signed", "every", "--allowed-signers", &allowed, "--signing-key", &key];
    let mut processes = Vec::new();
    for node in stand.nodes() {
        stand.terminate(&node)?;
        let process = stand.lab.egret(&node, &flags)?;
        process.wait_for("egret runs", DEADLINE)?;
        processes.push(process);
    }
    let repository = stand.lab.repository();
    repository.in_clone(["config", "commit.gpgsign", "false"])?;
    repository.in_clone(["commit", "--quiet", "--allow-empty", "--message", "unsigned"])?;
    let stray = repository.in_clone(["rev-parse", "HEAD"])?.trim_end().to_owned();
    repository.in_clone(["config", "commit.gpgsign", "true"])?;
    stand.push("policies/outpost.yaml", &Document::through("kind-worker3").text())?;
    let report = stand.await_report("kind-worker", "what is refused", |report| report.pending.is_some());
    let expected = PendingReason::Unsigned { commit: stray, what: "it has no signature".to_owned() };
    assert_eq!(report.pending.map(|pending| pending.why), Some(expected));
    stand.await_granted("tiefighter")?;
    let setting = format!("gpg.ssh.allowedSignersFile={allowed}");
    let verified =
        wait_until(DEADLINE, || stand.lab.repository().in_bare(["-c", &setting, "verify-commit", REPORTS]).is_ok());
    assert!(verified, "the newest report has a signature that git takes");
    stand.assert_no_leak_but(&[])
}
