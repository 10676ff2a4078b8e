//! The template's pre-receive hook, in a bare repository that Git itself pushes to.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Output;

use tempfile::TempDir;

use crate::commands::egret;
use crate::git::fixture::git_command;

struct Stand {
    folder: TempDir,
}

impl Stand {
    /// A bare repository with the hook, and a clone that has the template, not pushed yet.
    fn new() -> Self {
        let stand = Self { folder: tempfile::tempdir().expect("a folder") };
        fs::create_dir(stand.path("bin")).expect("a folder");
        symlink(env!("CARGO_BIN_EXE_egret"), stand.path("bin/egret")).expect("a link");
        let work = stand.path("work");
        assert_eq!(egret(["init", work.to_str().expect("a path")]).code, Some(0));
        let origin = stand.path("origin.git");
        stand.git(&work, &["init", "--quiet", "--bare", "--initial-branch=main", origin.to_str().expect("a path")]);
        let hook = origin.join("hooks/pre-receive");
        fs::copy(work.join("hooks/pre-receive"), &hook).expect("a copy");
        fs::set_permissions(&hook, fs::Permissions::from_mode(0o755)).expect("it may be run");
        stand.git(&work, &["init", "--quiet", "--initial-branch=main"]);
        stand.git(&work, &["remote", "add", "origin", origin.to_str().expect("a path")]);
        stand.commit("policies/more.yaml", "# none yet\n");
        stand
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn run(&self, folder: &Path, words: &[&str]) -> Output {
        let path = std::env::var("PATH").expect("a PATH");
        let path = format!("{}:{path}", self.path("bin").display());
        git_command(folder).args(words).env("PATH", path).output().expect("git is installed")
    }

    fn git(&self, folder: &Path, words: &[&str]) -> String {
        let output = self.run(folder, words);
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    fn commit(&self, path: &str, text: &str) {
        fs::write(self.path("work").join(path), text).expect("a file");
        self.git(&self.path("work"), &["add", "--all"]);
        self.git(&self.path("work"), &["commit", "--quiet", "--message=change"]);
    }

    /// Whether a push is taken, and what the pusher reads.
    fn push(&self, words: &[&str]) -> (bool, String) {
        let output = self.run(&self.path("work"), &[&["push", "--quiet", "origin"], words].concat());
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    }

    fn main(&self) -> String {
        self.git(&self.path("origin.git"), &["rev-parse", "main"])
    }
}

const BAD: &str = "apiVersion: cilium.io/v2
kind: CiliumEgressGatewayPolicy
metadata: {name: bad}
spec:
  selectors: [{podSelector: {matchLabels: {io.kubernetes.pod.namespace: batuu}}}]
  destinationCIDRs: [10.0.4.7/24]
  egressGateway: {nodeSelector: {}}
";

#[test]
fn a_push_without_a_mistake_is_taken_and_one_with_a_mistake_is_refused_with_its_place() {
    let stand = Stand::new();
    let (taken, said) = stand.push(&["main"]);
    assert!(taken, "{said}");
    let good = stand.main();
    stand.commit("policies/more.yaml", BAD);
    let (taken, said) = stand.push(&["main"]);
    assert!(!taken, "{said}");
    for words in [
        "remote: error: a destination has host bits set",
        "policies/more.yaml:6:22",
        "correct the documents above",
        "pre-receive hook declined",
    ] {
        assert!(said.contains(words), "{words}: {said}");
    }
    assert_eq!(stand.main(), good, "nothing of it is in the branch");
    // Attributes that hide a file from `git archive`, and a branch that nobody follows.
    stand.commit(".gitattributes", "* export-ignore\n");
    assert!(!stand.push(&["main"]).0);
    assert!(stand.push(&["main:refs/heads/draft"]).0);
    stand.commit("policies/more.yaml", &BAD.replace("10.0.4.7/24", "10.0.4.0/24"));
    let (taken, said) = stand.push(&["main"]);
    assert!(taken, "{said}");
    assert!(stand.push(&["--delete", "draft"]).0, "a branch may be deleted");
}
