//! `egret preview` and `egret snapshot` as people and CI run them: on a real repository, with real exit codes.
//!
//! Deliberately absent: what a preview says of each change; the folders of tests/previews have that.

#![expect(clippy::unwrap_used, reason = "a test that cannot be prepared has failed")]

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::commands::{Said, egret};
use crate::git::fixture::git_command;

const POLICY: &str = "apiVersion: cilium.io/v2
kind: CiliumEgressGatewayPolicy
metadata: {name: outpost}
spec:
  selectors: [{podSelector: {matchLabels: {org: empire}}}]
  destinationCIDRs: [10.0.4.0/24]
  egressGateway: {nodeSelector: {matchLabels: {egress-gw: \"true\"}}, egressIP: 10.0.3.42}
";

const CLUSTER: &str = "apiVersion: v1
kind: List
items:
- {kind: Node, metadata: {name: a, labels: {egress-gw: \"true\"}, annotations: {password: hunter2}}, spec: {podCIDRs: [10.1.1.0/24]},
   status: {addresses: [{type: InternalIP, address: 172.18.0.2}]}}
- {kind: Namespace, metadata: {name: batuu}}
- {kind: Pod, metadata: {namespace: batuu, name: tiefighter, labels: {org: empire}},
   spec: {nodeName: a, containers: [{image: secret/image, env: [{name: PASSWORD, value: hunter2}]}]}, status: {podIP: 10.1.1.7}}
";

struct Stand {
    folder: TempDir,
}

impl Stand {
    /// `main` has one policy, and one commit more that `change` does not have; a work tree is on `change`.
    fn new() -> Self {
        let stand = Self { folder: tempfile::tempdir().unwrap() };
        fs::create_dir(stand.repository()).unwrap();
        stand.git(&["init", "--quiet", "--initial-branch=main"]);
        stand.commit("policies/outpost.yaml", POLICY);
        stand.git(&["checkout", "--quiet", "-b", "change"]);
        stand.git(&["checkout", "--quiet", "main"]);
        stand.commit("policies/later.yaml", &POLICY.replace("outpost", "later"));
        stand.git(&["checkout", "--quiet", "change"]);
        fs::write(stand.path("cluster.yaml"), CLUSTER).unwrap();
        stand
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn repository(&self) -> PathBuf {
        self.path("repository")
    }

    fn git(&self, arguments: &[&str]) -> String {
        let output = git_command(&self.repository()).args(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    fn commit(&self, path: &str, text: &str) {
        let file = self.repository().join(path);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, text).unwrap();
        self.git(&["add", "--all"]);
        self.git(&["commit", "--quiet", "--message=change"]);
    }

    fn preview(&self, more: &[&str]) -> Said {
        let repository = self.repository().display().to_string();
        egret([&["preview", "--repo", &repository], more].concat())
    }

    fn with_cluster(&self, more: &[&str]) -> Said {
        let cluster = self.path("cluster.yaml").display().to_string();
        self.preview(&[&["--cluster", &cluster], more].concat())
    }
}

fn has(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "{word}: {text}");
    }
}

#[test]
fn what_main_gained_meanwhile_is_no_part_of_the_change() {
    let stand = Stand::new();
    let said = stand.with_cluster(&["--base", "main", "--head", "change"]);
    assert_eq!(said.code, Some(0), "{}", said.stdout);
    has(&said.stderr, &["note: both are the same commit"]);
    has(&said.stdout, &["default · nothing for this cluster\n"]);
    stand.commit("policies/outpost.yaml", &POLICY.replace("10.0.3.42", "10.0.3.43"));
    let said = stand.with_cluster(&["--base", "main", "--head", "change"]);
    assert_eq!((said.code, said.stderr.as_str()), (Some(2), ""));
    has(
        &said.stdout,
        &[
            "1 pod would come from another address",
            "- 10.0.3.42 · a",
            "+ 10.0.3.43 · a",
            "1 policy changed · 1 of 1 node",
        ],
    );
    // As CI has it: no branch, a commit only.
    let commit = stand.git(&["rev-parse", "HEAD"]);
    stand.git(&["checkout", "--quiet", "--detach"]);
    stand.git(&["branch", "--quiet", "--delete", "--force", "change"]);
    assert_eq!(stand.with_cluster(&["--head", &commit]), said);
    assert_eq!(stand.with_cluster(&[]), said, "main and HEAD are meant");
    let comment = stand.with_cluster(&["--output=markdown"]);
    assert!(
        comment
            .stdout
            .starts_with("<!-- egret-preview:{\"cluster\":\"default\",\"v\":1} -->\n### Egret · default · ⚠️ 1 pod")
    );
    let json: serde_json::Value = serde_json::from_str(&stand.with_cluster(&["--output=json"]).stdout).unwrap();
    assert_eq!((json["podsMoved"].as_u64(), json["changes"].as_bool()), (Some(1), Some(true)));
    assert_eq!(json["moves"][0]["pods"][0].as_str(), Some("tiefighter"));
}

#[test]
fn a_preview_ends_with_the_verdict_and_leaves_the_diff_out_if_it_is_not_wanted() {
    let stand = Stand::new();
    let end = |said: &Said| {
        said.stdout.lines().rev().take(3).collect::<Vec<_>>().into_iter().rev().collect::<Vec<_>>().join("\n")
    };
    let nothing = stand.with_cluster(&["-q"]);
    let expected = "\ndefault: nothing for this cluster\nexit code 0: nothing would change";
    assert_eq!((end(&nothing).as_str(), nothing.stderr.as_str()), (expected, ""));
    stand.commit("policies/outpost.yaml", &POLICY.replace("10.0.3.42", "10.0.3.43"));
    let whole = stand.with_cluster(&[]);
    let expected = "\ndefault: 1 pod would come from another address\nexit code 2: there are changes";
    assert_eq!(end(&whole), expected);
    let short = stand.with_cluster(&["--no-diff"]);
    assert_eq!((end(&short).as_str(), short.code), (expected, Some(2)));
    has(&whole.stdout, &["Exact changes on 1 of 1 node", "    @@"]);
    has(&short.stdout, &["Exact changes on 1 of 1 node"]);
    assert!(!short.stdout.contains("    @@"), "{}", short.stdout);
    let json = |more: &[&str]| -> serde_json::Value {
        serde_json::from_str(&stand.with_cluster(&[&["--output=json"], more].concat()).stdout).unwrap()
    };
    assert_eq!(json(&[])["formatVersion"], 1);
    assert!(json(&[])["nodes"]["shown"][0]["diff"].as_str().is_some_and(|diff| diff.starts_with("@@")));
    assert_eq!(json(&["--no-diff"])["nodes"]["shown"][0].get("diff"), None);
    stand.commit("policies/outpost.yaml", &POLICY.replace("10.0.4.0/24", "10.0.4.7/24"));
    assert!(stand.with_cluster(&[]).stdout.ends_with("\nexit code 1: a document has an error\n"));
}

#[test]
fn a_change_is_judged_by_what_main_demands_now_and_not_when_it_began() {
    let stand = Stand::new();
    stand.commit("policies/outpost.yaml", &POLICY.replace("10.0.3.42", "10.0.3.43"));
    stand.git(&["checkout", "--quiet", "main"]);
    let window = "changeWindows: {open: [{cron: \"0 22 * * *\", timeZone: UTC, duration: 1h}]}";
    stand.commit("egret.yaml", &format!("apiVersion: egret.dev/v1alpha1\nkind: Config\n{window}\n"));
    stand.git(&["checkout", "--quiet", "change"]);
    let said = stand.with_cluster(&["--base", "main", "--head", "change", "--at", "2026-06-01T12:00:00Z"]);
    assert_eq!((said.code, said.stderr.as_str()), (Some(2), ""));
    has(&said.stdout, &["default · from Mon 2026-06-01 22:00 UTC: 1 pod would come from another address"]);
}

#[test]
fn a_head_with_errors_is_previewed_and_fails() {
    let stand = Stand::new();
    stand.commit("policies/outpost.yaml", &POLICY.replace("10.0.4.0/24", "10.0.4.7/24"));
    let said = stand.with_cluster(&[]);
    assert_eq!((said.code, said.stderr.as_str()), (Some(1), ""));
    has(&said.stdout, &["does not validate", "policies/outpost.yaml:6:22: error: a destination has host bits set"]);
}

#[test]
fn without_a_cluster_the_snapshot_of_the_reports_branch_counts_and_the_head_cannot_choose_it() {
    let stand = Stand::new();
    let none = stand.preview(&[]);
    assert_eq!((none.code, none.stdout.as_str()), (Some(1), ""));
    has(&none.stderr, &["egret/reports/default", "hint: give a snapshot by --cluster; `egret snapshot` writes one"]);

    let (cluster, file) = (stand.path("cluster.yaml"), stand.path("snapshot.yaml"));
    let arguments = ["snapshot", "--cluster", cluster.to_str().unwrap(), "-o", file.to_str().unwrap()];
    assert_eq!(egret(arguments), Said { code: Some(0), stdout: String::new(), stderr: String::new() });
    let text = fs::read_to_string(&file).unwrap();
    has(
        &text,
        &["- {kind: Pod, metadata: {namespace: batuu, name: tiefighter, labels: {org: empire}}, spec: {nodeName: a}, "],
    );
    assert!(!text.contains("hunter2") && !text.contains("image"), "{text}");
    put(&stand, "egret/reports/default", &file);

    stand.commit("policies/outpost.yaml", &POLICY.replace("10.0.3.42", "10.0.3.43"));
    stand
        .commit("egret.yaml", "apiVersion: egret.dev/v1alpha1\nkind: Config\nreports: {branch: egret/reports/other}\n");
    let said = stand.preview(&[]);
    assert_eq!((said.code, said.stderr.as_str()), (Some(2), ""));
    has(
        &said.stdout,
        &["1 pod would come from another address", "egret/reports/default", "egret.yaml changes", "+reports:"],
    );
}

/// Commits one file to a branch of its own.
fn put(stand: &Stand, branch: &str, file: &Path) {
    let change = stand.git(&["rev-parse", "--abbrev-ref", "HEAD"]);
    stand.git(&["checkout", "--quiet", "--orphan", branch]);
    stand.git(&["rm", "--quiet", "-r", "--force", "."]);
    stand.commit("snapshot.yaml", &fs::read_to_string(file).unwrap());
    stand.git(&["checkout", "--quiet", &change]);
}

#[test]
fn in_a_shallow_clone_what_is_there_is_read_and_what_is_missing_is_told() {
    let stand = Stand::new();
    stand.commit("policies/outpost.yaml", &POLICY.replace("10.0.3.42", "10.0.3.43"));
    let (clone, cluster) =
        (stand.path("clone").display().to_string(), stand.path("cluster.yaml").display().to_string());
    let url = format!("file://{}", stand.repository().display());
    stand.git(&["clone", "--quiet", "--depth=1", "--branch=change", &url, &clone]);
    let validated = egret(["validate", "--repo", &clone, "--rev", "HEAD"]);
    assert_eq!((validated.code, validated.stderr.as_str()), (Some(0), ""), "{}", validated.stdout);
    let preview = || egret(["preview", "--repo", &clone, "--cluster", &cluster]);
    let said = preview();
    assert_eq!((said.code, said.stdout.as_str()), (Some(1), ""));
    has(&said.stderr, &["is a shallow clone, which lacks main\nhint: fetch all of its history", "`fetch-depth: 0`"]);
    stand.git(&["-C", &clone, "fetch", "--quiet", "--depth=1", "origin", "main:main"]);
    has(&preview().stderr, &["is a shallow clone, which lacks the commit where "]);
    stand.git(&["-C", &clone, "fetch", "--quiet", "--unshallow", "origin", "main:main"]);
    assert_eq!(preview(), stand.with_cluster(&[]));
}

#[test]
fn a_change_that_nobody_on_the_list_signed_is_reported_before_it_is_merged() {
    let stand = Stand::new();
    stand.commit("policies/outpost.yaml", &POLICY.replace("10.0.3.42", "10.0.3.43"));
    let key = stand.path("key");
    let made =
        std::process::Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key).status();
    assert!(made.unwrap().success());
    let public = fs::read_to_string(key.with_extension("pub")).unwrap();
    let allowed = stand.path("allowed_signers").display().to_string();
    fs::write(&allowed, format!("ada {public}")).unwrap();
    let demand = ["--require-signed", "every", "--allowed-signers", &allowed];
    let said = stand.with_cluster(&demand);
    assert_eq!((said.code, said.stderr.as_str()), (Some(2), ""));
    let commit = stand.git(&["rev-parse", "--short=12", "HEAD"]);
    has(&said.stdout, &[&format!("danger  Signature: {commit} would be refused: it has no signature")]);
    let json: serde_json::Value =
        serde_json::from_str(&stand.with_cluster(&[&demand[..], &["--output=json"]].concat()).stdout).unwrap();
    assert_eq!(json["dangers"][0]["code"].as_str(), Some("unsigned"));
    let key = format!("user.signingkey={}", key.display());
    let sign = ["-c", "gpg.format=ssh", "-c", &key, "commit", "--quiet", "--amend", "--no-edit", "-S"];
    stand.git(&sign);
    let said = stand.with_cluster(&demand);
    assert!(!said.stdout.contains("Signature"), "{}", said.stdout);
}

const ASSERTION: &str = "apiVersion: egret.dev/v1alpha1
kind: EgressAssertion
metadata: {name: one-address}
spec:
  selectors: [{podSelector: {matchLabels: {org: empire}}}]
  destinationCIDRs: [10.0.4.0/24]
  leavesAs: [10.0.3.42]
";

#[test]
fn a_comment_ends_with_0_and_a_broken_assertion_with_1_and_its_counterexample() {
    let stand = Stand::new();
    stand.commit("policies/outpost.yaml", &format!("# why\n{POLICY}"));
    let said = stand.with_cluster(&[]);
    assert_eq!(said.code, Some(0), "{}", said.stdout);
    has(&said.stdout, &["exit code 0: nothing would change"]);
    // The only gateway's loss drops packets, which leavesAs alone does not allow.
    stand.commit("policies/assertion.yaml", ASSERTION);
    let said = stand.with_cluster(&[]);
    assert_eq!(said.code, Some(1), "{}", said.stdout);
    let message = "policies/assertion.yaml:7:3: error: the assertion one-address does not hold: with a lost, batuu/tiefighter to 10.0.4.0 is \
                   dropped, as no gateway is fit, by the policy outpost (policies/outpost.yaml:2)";
    has(&said.stdout, &["An assertion fails\n", message, "exit code 1: an assertion fails"]);
    stand.commit("policies/assertion.yaml", &format!("{ASSERTION}  orDropped: true\n"));
    let said = stand.with_cluster(&[]);
    assert_eq!(said.code, Some(0), "{}", said.stdout);
    stand.commit("policies/outpost.yaml", &POLICY.replace("10.0.3.42", "10.0.3.43"));
    let json: serde_json::Value = serde_json::from_str(&stand.with_cluster(&["--output=json"]).stdout).unwrap();
    let expected = serde_json::json!([{
        "assertion": "one-address", "file": "policies/assertion.yaml", "line": 1, "code": "assertion-broken",
        "counterexample": {
            "lostGateway": null, "namespace": "batuu", "pod": "tiefighter", "pods": 1, "destination": "10.0.4.0", "way": "exit",
            "address": "10.0.3.43", "gateway": "a", "policy": "outpost", "policyAt": "policies/outpost.yaml:1",
        },
    }]);
    assert_eq!(json["validation"]["failedAssertions"], expected);
    // `validate` says the same of the files as they are, and without a cluster nothing.
    let (repository, cluster) =
        (stand.repository().display().to_string(), stand.path("cluster.yaml").display().to_string());
    let said = egret(["validate", "--repo", &repository, "--cluster", &cluster, "--output", "json"]);
    let json: serde_json::Value = serde_json::from_str(&said.stdout).unwrap();
    assert_eq!((said.code, &json["failedAssertions"]), (Some(1), &expected));
    assert_eq!(egret(["validate", "--repo", &repository]).code, Some(0));
}
