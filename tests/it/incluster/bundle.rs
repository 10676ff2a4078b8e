//! `egret support-bundle` in a cluster and on a node: what it has, and that no secret and no name of others is in it.
//!
//! Deliberately absent: each kind of secret (`core::support`).

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use super::answered::answering;
use super::stand::Outcome;
use crate::lab::{LabError, Options};

/// The files of an archive, as `tar` takes them out.
pub(crate) fn unpacked(archive: &Path) -> Outcome<BTreeMap<String, String>> {
    let folder = tempfile::tempdir().map_err(LabError::doing("make a folder"))?;
    let status =
        Command::new("tar").arg("-xzf").arg(archive).arg("-C").arg(folder.path()).arg("--strip-components=1").status();
    assert!(status.map_err(LabError::doing("run tar"))?.success(), "tar takes it");
    let mut files = BTreeMap::new();
    let mut folders = vec![folder.path().to_owned()];
    while let Some(current) = folders.pop() {
        for entry in std::fs::read_dir(&current).map_err(LabError::doing("list"))?.flatten() {
            if entry.path().is_dir() {
                folders.push(entry.path());
            } else {
                let name = entry.path().strip_prefix(folder.path()).expect("below").to_string_lossy().into_owned();
                files.insert(name, std::fs::read_to_string(entry.path()).map_err(LabError::doing("read"))?);
            }
        }
    }
    Ok(files)
}

/// None of these words is in any of the files.
pub(crate) fn assert_nowhere(files: &BTreeMap<String, String>, words: &[&str]) {
    for (file, text) in files {
        for word in words {
            assert!(!text.contains(word), "{file} has {word}:\n{text}");
        }
    }
}

#[test]
fn a_bundle_of_a_cluster_has_what_explains_a_case_and_neither_secrets_nor_names_of_others() -> Outcome {
    let stand = answering(Options::default())?;
    stand.api.create(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "payroll", "labels": {"cost-centre": "k4711"}}}));
    let others = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "salaries-7", "namespace": "payroll", "labels": {"cost-centre": "k4711"}},
        "spec": {"nodeName": "kind-worker", "containers": [{"name": "a", "image": "a:1", "env": [{"name": "DB_PASSWORD", "value": "hunter2"}]}]},
        "status": {"phase": "Running", "podIP": "10.1.1.99"},
    });
    stand.api.create(&others);
    stand.api.patch("pods", "batuu", "tiefighter", &json!({"metadata": {"labels": {"cost-centre": "k4711"}}}));
    stand.api.patch("nodes", "", "kind-worker", &json!({"metadata": {"labels": {"cost-centre": "k4711"}}}));
    // Where people write what they should not.
    let suspended = "apiVersion: egret.dev/v1alpha1
kind: EgressPolicy
metadata: {name: aldhani}
spec:
  selectors: [{namespaceSelector: {}, podSelector: {matchLabels: {org: alliance}}}]
  destinationCIDRs: [10.0.5.0/24]
  egressGateways: [{nodeSelector: {matchLabels: {egress-gw: \"true\"}}, interface: net1}]
  suspend: {until: 2099-01-01T00:00:00Z, reason: \"https://ada:hunter2@git.example.com, token=glpat-0123456789abcdef0123\"}
";
    stand.push(&[("policies/aldhani.yaml", suspended)])?;
    stand.await_that("the policy published", || !stand.object("publishedegresspolicies", "aldhani").is_null())?;
    let archive = stand.lab.folder().join("case.tar.gz");
    let out = archive.display().to_string();
    let words = ["support-bundle", "--out", &out, "--pod", "batuu/tiefighter", "--to", "10.0.4.2"];
    let (code, said) = stand.say(&words)?;
    assert_eq!(code, Some(0), "{said}");
    let files = unpacked(&archive)?;
    assert_nowhere(&files, &["hunter2", "glpat-0123456789abcdef0123", "k4711", "cost-centre", "payroll", "salaries"]);
    let names: Vec<&str> = files.keys().map(String::as_str).collect();
    for wanted in [
        "MANIFEST",
        "explain/batuu-tiefighter.txt",
        "logs.txt",
        "nodes/kind-worker/doctor.json",
        "nodes/kind-worker/metrics.txt",
        "nodes/kind-worker/node.json",
        "nodes/kind-worker2/node.json",
        "options.txt",
        "policies.json",
        "reports/kind-worker2.yaml",
        "snapshot.yaml",
        "status.txt",
        "version.txt",
    ] {
        assert!(names.contains(&wanted), "{wanted} in {names:?}");
    }
    let manifest = &files["MANIFEST"];
    // Those of the agents, too.
    assert!(manifest.contains("3 pods that no policy or assertion selects"), "{manifest}");
    assert!(manifest.contains(" namespaces without such a pod"), "{manifest}");
    assert!(files["explain/batuu-tiefighter.txt"].contains("leaves as 10.0.3.42 through kind-worker2"));
    assert!(
        files["explain/batuu-tiefighter.txt"].contains("kernel  kind-worker at "),
        "{:?}",
        files["explain/batuu-tiefighter.txt"]
    );
    assert!(files["nodes/kind-worker2/metrics.txt"].contains("egret_exits"));
    let node: Value = serde_json::from_str(&files["nodes/kind-worker/node.json"]).expect("JSON");
    assert!(node["state"].as_str().is_some_and(|state| state.contains("group_of4")), "{node}");
    // An archive that is there is not written over.
    assert_eq!(stand.failing(&words)?, 1);
    // What is in it explains the case again, elsewhere.
    let snapshot = stand.lab.folder().join("snapshot.yaml");
    std::fs::write(&snapshot, &files["snapshot.yaml"]).map_err(LabError::doing("write"))?;
    let program = stand.lab.program()?;
    let mut command = Command::new(program);
    command.args(["explain", "batuu/tiefighter", "--to", "10.0.4.2", "--offline", "--cluster"]).arg(&snapshot);
    let output = command.arg("--repo").arg(stand.lab.repository().path()).env_clear().output();
    let output = output.map_err(LabError::doing("run egret"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("through kind-worker2"), "{text} {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
