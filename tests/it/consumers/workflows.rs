//! The template's workflows: every script that they have is run by a shell, as the forge's runner runs it, on clones as the forge's checkout
//! makes them. `docker` is tests/consumers/docker, which runs the real program; the API is a double.
//!
//! Absent: steps that use other people's actions, whose place the clones take.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use egret::forge::ForgeKind;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::commands::egret;
use crate::forge_double::{Double, TOKEN};
use crate::git::fixture::git_command;

const CLUSTER: &str = "apiVersion: v1
kind: List
items:
- {kind: Node, metadata: {name: kind-worker2}, spec: {podCIDRs: [10.1.1.0/24]}, status: {addresses: [{type: InternalIP, address: 172.18.0.2}]}}
- {kind: Namespace, metadata: {name: batuu}}
- {kind: Pod, metadata: {namespace: batuu, name: tiefighter, labels: {org: empire}}, spec: {nodeName: kind-worker2}, status: {podIP: 10.1.1.7}}
- {kind: EgressNode, metadata: {name: kind-worker2}, status: {interfaces: [{name: net1, addresses: [10.0.3.42/24]}]}}
";

const IMAGE: &str = "registry.example/egret:1";

/// An edit of the template's policy that a pull request proposes.
type Edit = (&'static str, &'static str);

const GOOD: Edit = ("  - 10.0.4.0/24", "  - 10.0.4.0/24\n  - 10.0.5.0/24");
const BAD: Edit = ("10.0.4.0/24", "10.0.4.7/24");
/// What the template's assertion forbids.
const FORBIDDEN: Edit = ("10.0.4.0/24", "10.0.5.0/24");

struct Stand {
    folder: TempDir,
    double: Double,
    base: String,
    head: String,
}

impl Stand {
    /// The forge's repository: the template on `main`, a pull request, and the branch with the snapshot if there is one.
    fn new(kind: ForgeKind, (from, to): Edit, snapshot: bool) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let (origin, work) = (folder.path().join("origin.git"), folder.path().join("work"));
        let text = |path: &Path| path.to_str().expect("a path").to_owned();
        assert_eq!(egret(["init", &text(&work)]).code, Some(0));
        git(folder.path(), &["init", "--quiet", "--bare", "--initial-branch=main", &text(&origin)]);
        git(&work, &["init", "--quiet", "--initial-branch=main"]);
        git(&work, &["remote", "add", "origin", &text(&origin)]);
        let commit = |message: &str| {
            git(&work, &["add", "--all"]);
            git(&work, &["commit", "--quiet", "--message", message]);
            git(&work, &["rev-parse", "HEAD"])
        };
        let base = commit("the template");
        let policy = work.join("policies/outpost.yaml");
        let edited = fs::read_to_string(&policy).expect("the policy").replace(from, to);
        fs::write(&policy, edited).expect("the policy");
        let head = commit("a change");
        git(&work, &["push", "--quiet", "origin", &format!("{base}:refs/heads/main"), "HEAD:refs/heads/change"]);
        git(&work, &["push", "--quiet", "origin", "HEAD:refs/pull/11/head"]);
        if snapshot {
            let cluster = folder.path().join("cluster.yaml");
            fs::write(&cluster, CLUSTER).expect("a file");
            git(&work, &["checkout", "--quiet", "--orphan", "reports"]);
            git(&work, &["rm", "--quiet", "-r", "--force", "."]);
            let out = text(&work.join("snapshot.yaml"));
            let said = egret(["snapshot", "--cluster", &text(&cluster), "--out", &out]);
            assert_eq!(said.code, Some(0), "{}", said.stderr);
            commit("a snapshot");
            git(&work, &["push", "--quiet", "origin", "HEAD:refs/heads/egret/reports/default"]);
        }
        let double = Double::start(kind);
        double.world().pull().head.clone_from(&head);
        Self { folder, double, base, head }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn url(&self) -> String {
        format!("file://{}", self.path("origin.git").display())
    }

    /// As the forge's checkout makes it: of one branch, whole or its last commit.
    fn clone(&self, name: &str, branch: &str, whole: bool) -> PathBuf {
        let folder = self.path(name);
        let depth: &[&str] = if whole { &[] } else { &["--depth", "1"] };
        let (url, to) = (self.url(), folder.display().to_string());
        git(self.folder.path(), &[&["clone", "--quiet", "--branch", branch], depth, &[&url, &to]].concat());
        folder
    }

    /// Runs a script in a folder with these variables and no other.
    fn shell(&self, folder: &Path, script: &str, variables: &[(String, String)]) -> Output {
        assert!(!script.contains("${{"), "a forge would put text of the pull request into the script: {script}");
        let bin = self.path("bin");
        fs::create_dir_all(&bin).expect("a folder");
        for (name, program) in [("egret", env!("CARGO_BIN_EXE_egret")), ("docker", docker())] {
            if !bin.join(name).exists() {
                std::os::unix::fs::symlink(program, bin.join(name)).expect("a link");
            }
        }
        let path = format!("{}:{}", bin.display(), std::env::var("PATH").expect("a PATH"));
        let mut command = Command::new("bash");
        command.args(["-e", "-c", script]).current_dir(folder).env_clear();
        command.env("PATH", path).env("HOME", "/nonexistent").env("GIT_CONFIG_NOSYSTEM", "1");
        command.env("EGRET_PROGRAM", env!("CARGO_BIN_EXE_egret")).env("EGRET_IMAGE", IMAGE);
        command.envs(variables.iter().map(|(name, value)| (name, value))).output().expect("bash is installed")
    }

    /// Runs the scripts of a job until one fails; returns what the last one printed.
    fn job(&self, workflow: &str, job: &str, folder: &Path, runner: &[(String, String)]) -> Output {
        let workflow: Value = serde_yaml::from_str(workflow).expect("YAML");
        let steps = workflow["jobs"][job]["steps"].as_array().expect("steps");
        let mut last = None;
        for step in steps {
            let Some(script) = step["run"].as_str() else { continue };
            let own = step["env"].as_object().into_iter().flatten();
            let own = own.map(|(name, value)| (name.clone(), self.expanded(value.as_str().expect("a text"))));
            let output = self.shell(folder, script, &own.chain(runner.iter().cloned()).collect::<Vec<_>>());
            let failed = !output.status.success();
            last = Some(output);
            if failed {
                break;
            }
        }
        last.expect("a job with a script")
    }

    /// A value of `env:` as the forge gives it.
    fn expanded(&self, value: &str) -> String {
        let Some(expression) = value.strip_prefix("${{ ").and_then(|rest| rest.strip_suffix(" }}")) else {
            assert!(!value.contains("${{"), "{value}");
            return value.to_owned();
        };
        match expression {
            "vars.EGRET_IMAGE" => IMAGE.to_owned(),
            "vars.EGRET_CLUSTERS || 'default'" => "default".to_owned(),
            "github.token" => TOKEN.to_owned(),
            "github.event.pull_request.base.sha" => self.base.clone(),
            "github.event.pull_request.head.sha" => self.head.clone(),
            "github.event.pull_request.number" => "11".to_owned(),
            other => panic!("the workflow uses {other}"),
        }
    }

    /// The variables that a runner of GitHub's, Gitea's or Forgejo's sets.
    fn runner(&self, api: &str) -> Vec<(String, String)> {
        let event = json!({"pull_request": {"number": 11, "head": {"sha": self.head}}});
        fs::write(self.path("event.json"), event.to_string()).expect("a file");
        fs::write(self.path("summary.md"), "").expect("a file");
        let text = |name: &str| self.path(name).display().to_string();
        [
            ("GITHUB_ACTIONS", "true".to_owned()),
            ("GITHUB_REPOSITORY", "mos-eisley/policies".to_owned()),
            ("GITHUB_API_URL", format!("{}{api}", self.double.url())),
            ("GITHUB_SERVER_URL", self.double.url()),
            ("GITHUB_RUN_ID", "7".to_owned()),
            ("GITHUB_EVENT_PATH", text("event.json")),
            ("GITHUB_STEP_SUMMARY", text("summary.md")),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .to_vec()
    }
}

fn docker() -> &'static str {
    concat!(env!("CARGO_MANIFEST_DIR"), "/tests/consumers/docker")
}

fn git(folder: &Path, words: &[&str]) -> String {
    let output = git_command(folder).args(words).output().expect("git is installed");
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

const GITHUB: &str = include_str!("../../../repo-template/.github/workflows/egret.yaml");
const FORGEJO: &str = include_str!("../../../repo-template/.forgejo/workflows/egret.yaml");
const GITLAB: &str = include_str!("../../../repo-template/.gitlab-ci.yml");

#[test]
fn the_job_that_validates_passes_on_githubs_and_forgejos_runners_and_fails_for_a_mistake() {
    for (workflow, sarif) in [(GITHUB, true), (FORGEJO, false)] {
        for (edit, code) in [(GOOD, 0), (BAD, 1)] {
            let stand = Stand::new(ForgeKind::GitHub, edit, false);
            let folder = stand.clone("ci", "change", false);
            let output = stand.job(workflow, "validate", &folder, &stand.runner(""));
            assert_eq!(output.status.code(), Some(code), "{}", said(&output));
            let marked = "::error file=policies/outpost.yaml,line=13,endLine=13,col=5,endColumn=15,title=host-bits::";
            assert_eq!(said(&output).contains(marked), sarif && code == 1, "{}", said(&output));
            if sarif {
                let log = fs::read_to_string(folder.join("egret.sarif")).expect("the log for code scanning");
                let log: Value = serde_json::from_str(&log).expect("JSON");
                assert_eq!(
                    log["runs"][0]["results"].as_array().map(Vec::len),
                    Some(usize::try_from(code).expect("a code"))
                );
            }
        }
    }
}

#[test]
fn the_job_that_previews_comments_and_fails_only_for_a_mistake() {
    for (workflow, kind, api) in [(GITHUB, ForgeKind::GitHub, "/api/v3"), (FORGEJO, ForgeKind::Gitea, "/api/v1")] {
        for (edit, code, words) in
            [(GOOD, 0, "would"), (BAD, 1, "It does not validate"), (FORBIDDEN, 1, "An assertion fails")]
        {
            let stand = Stand::new(kind, edit, true);
            stand.double.world().tokens.insert(TOKEN.to_owned(), "github-actions[bot]".to_owned());
            let folder = stand.clone("ci", "main", true);
            let output = stand.job(workflow, "preview", &folder, &stand.runner(api));
            assert_eq!(output.status.code(), Some(code), "{kind:?}: {}", said(&output));
            let printed = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(printed.starts_with("::stop-commands::"), "what the head says is no command: {printed}");
            let comments: Vec<String> = stand.double.world().comments.iter().map(|one| one.body.clone()).collect();
            assert_eq!(comments.len(), 1, "{kind:?}: {}", said(&output));
            assert!(comments[0].contains("### Egret · default") && comments[0].contains(words), "{}", comments[0]);
            stand.double.assert_strict();
        }
        let stand = Stand::new(kind, GOOD, false);
        let folder = stand.clone("ci", "main", true);
        let output = stand.job(workflow, "preview", &folder, &stand.runner(api));
        assert_eq!(output.status.code(), Some(0), "{kind:?}: {}", said(&output));
        assert!(
            said(&output).contains("No preview: there is no branch egret/reports/default yet."),
            "{}",
            said(&output)
        );
    }
}

#[test]
fn gitlabs_job_validates_and_keeps_the_preview_with_and_without_a_token() {
    let workflow: Value = serde_yaml::from_str(GITLAB).expect("YAML");
    let job = &workflow["egret"];
    let lines: Vec<&str> = job["script"].as_array().expect("a script").iter().filter_map(Value::as_str).collect();
    // A runner of GitLab's runs all lines in one shell, which ends at the first that fails.
    let script = lines.join("\n");
    let run = |stand: &Stand, token: Option<&str>| {
        let folder = stand.path("ci");
        if !folder.exists() {
            stand.clone("ci", "change", true);
        }
        let url = stand.double.url();
        let own = job["variables"].as_object().expect("variables").iter();
        let own = own.map(|(name, value)| (name.clone(), value.as_str().expect("a text").to_owned()));
        let runner = [
            ("GITLAB_CI", "true".to_owned()),
            ("CI_API_V4_URL", format!("{url}/api/v4")),
            ("CI_PROJECT_ID", "mos-eisley/policies".to_owned()),
            ("CI_PIPELINE_ID", "99".to_owned()),
            ("CI_MERGE_REQUEST_IID", "11".to_owned()),
            ("CI_MERGE_REQUEST_TARGET_BRANCH_NAME", "main".to_owned()),
            ("CI_COMMIT_SHA", stand.head.clone()),
        ];
        let runner = runner.map(|(name, value)| (name.to_owned(), value));
        let token = token.map(|token| ("EGRET_FORGE_TOKEN".to_owned(), token.to_owned()));
        stand.shell(&folder, &script, &own.chain(runner).chain(token).collect::<Vec<_>>())
    };
    let stand = Stand::new(ForgeKind::GitLab, GOOD, true);
    let output = run(&stand, None);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    let preview = fs::read_to_string(stand.path("ci/preview.md")).expect("the artifact");
    assert!(preview.contains("### Egret · default"), "{preview}");
    assert_eq!(stand.double.world().comments.len(), 0);
    let output = run(&stand, Some(TOKEN));
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert_eq!(stand.double.world().comments.len(), 1, "{}", said(&output));
    let stand = Stand::new(ForgeKind::GitLab, BAD, true);
    assert_eq!(run(&stand, None).status.code(), Some(1));
    let stand = Stand::new(ForgeKind::GitLab, GOOD, false);
    assert!(said(&run(&stand, None)).contains("No preview: there is no branch"), "{}", said(&run(&stand, None)));
}
