//! `egret preview --post` as CI runs it: the real program, on a real repository, against a double of the forge.
//!
//! Deliberately absent: what a preview says (`previews`).

#![expect(clippy::unwrap_used, reason = "a test that cannot be prepared has failed")]

use std::fs;
use std::process::{Command, Output};

use egret::forge::ForgeKind;
use serde_json::json;
use tempfile::TempDir;

use crate::forge_double::{Double, TOKEN};
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
- {kind: Node, metadata: {name: a, labels: {egress-gw: \"true\"}}, spec: {podCIDRs: [10.1.1.0/24]},
   status: {addresses: [{type: InternalIP, address: 172.18.0.2}]}}
- {kind: Namespace, metadata: {name: batuu}}
- {kind: Pod, metadata: {namespace: batuu, name: tiefighter, labels: {org: empire}}, spec: {nodeName: a}, status: {podIP: 10.1.1.7}}
";

struct Stand {
    folder: TempDir,
    double: Double,
    head: String,
}

impl Stand {
    /// A repository whose `change` is the head of the forge's pull request.
    fn new(kind: ForgeKind, policy: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let repository = folder.path().join("repository");
        fs::create_dir(&repository).unwrap();
        let git = |arguments: &[&str]| {
            let output = git_command(&repository).args(arguments).output().unwrap();
            assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8(output.stdout).unwrap().trim().to_owned()
        };
        git(&["init", "--quiet", "--initial-branch=main"]);
        git(&["commit", "--quiet", "--allow-empty", "--message=first"]);
        git(&["checkout", "--quiet", "-b", "change"]);
        fs::create_dir(repository.join("policies")).unwrap();
        fs::write(repository.join("policies/outpost.yaml"), policy).unwrap();
        git(&["add", "--all"]);
        git(&["commit", "--quiet", "--message=change"]);
        fs::write(folder.path().join("cluster.yaml"), CLUSTER).unwrap();
        let head = git(&["rev-parse", "HEAD"]);
        let double = Double::start(kind);
        double.world().pull().head.clone_from(&head);
        Self { folder, double, head }
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    /// With nothing in its environment but this.
    fn preview(&self, environment: &[(&str, &str)], more: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_egret"));
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default()).envs(environment.iter().copied());
        command.args(["preview", "--repo", &self.path("repository"), "--base", "main", "--head", "change"]);
        command.args(["--cluster", &self.path("cluster.yaml"), "--cluster-name", "prod", "--post"]).args(more);
        command.output().unwrap()
    }

    fn github(&self) -> Vec<(String, String)> {
        fs::write(
            self.path("event.json"),
            json!({"pull_request": {"number": 11, "head": {"sha": self.head}}}).to_string(),
        )
        .unwrap();
        [
            ("GITHUB_ACTIONS", "true".to_owned()),
            ("GITHUB_REPOSITORY", "mos-eisley/policies".to_owned()),
            ("GITHUB_API_URL", format!("{}/api/v3", self.double.url())),
            ("GITHUB_EVENT_PATH", self.path("event.json")),
            ("GITHUB_STEP_SUMMARY", self.path("summary.md")),
            ("GITHUB_TOKEN", TOKEN.to_owned()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .to_vec()
    }
}

fn borrowed(environment: &[(String, String)]) -> Vec<(&str, &str)> {
    environment.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect()
}

fn error_text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn in_githubs_ci_it_finds_everything_by_itself_and_is_quiet_the_second_time() {
    let stand = Stand::new(ForgeKind::GitHub, POLICY);
    {
        let mut world = stand.double.world();
        world.tokens.insert(TOKEN.to_owned(), "github-actions[bot]".to_owned());
    }
    let environment = stand.github();
    let first = stand.preview(&borrowed(&environment), &[]);
    assert_eq!(first.status.code(), Some(2), "{}", error_text(&first));
    assert!(error_text(&first).contains("comment created: http://127.0.0.1:"), "{}", error_text(&first));
    assert!(String::from_utf8_lossy(&first.stdout).contains("tiefighter"), "the preview is printed all the same");
    let comment = stand.double.world().comments[0].body.clone();
    assert!(comment.starts_with("<!-- egret-preview:{\"cluster\":\"prod\",\"v\":1} -->\n"), "{comment}");
    assert!(comment.contains("1 pod would come from another address"), "{comment}");
    let status = stand.double.world().statuses[0].set.clone();
    let expected = json!({
        "context": "egret/preview (prod)",
        "state": "success",
        "description": "1 pod would come from another address (1 policy added · 1 of 1 node changed)",
    });
    assert_eq!(status, expected);
    assert_eq!(stand.double.writes().len(), 3);
    let second = stand.preview(&borrowed(&environment), &[]);
    assert_eq!(second.status.code(), Some(2), "{}", error_text(&second));
    assert_eq!(stand.double.writes(), Vec::<String>::new());
    stand.double.assert_strict();
}

#[test]
fn a_document_with_an_error_fails_the_status_and_is_annotated() {
    let stand = Stand::new(ForgeKind::GitHub, &POLICY.replace("10.0.4.0/24", "10.0.4.7/24"));
    let output = stand.preview(&borrowed(&stand.github()), &[]);
    assert_eq!(output.status.code(), Some(1), "{}", error_text(&output));
    let world = stand.double.world();
    assert_eq!(world.statuses[0].set["state"], "failure");
    let annotation = &world.checks[0]["output"]["annotations"][0];
    assert_eq!((&annotation["path"], &annotation["start_line"]), (&"policies/outpost.yaml".into(), &6.into()));
    assert_eq!(annotation["annotation_level"], "failure");
}

#[test]
fn a_token_of_a_fork_leaves_the_comment_on_the_summary_page_and_fails_nothing() {
    let stand = Stand::new(ForgeKind::GitHub, POLICY);
    {
        let mut world = stand.double.world();
        world.tokens.insert(TOKEN.to_owned(), "github-actions[bot]".to_owned());
        (world.may_comment, world.may_status, world.may_check) = (false, false, false);
    }
    let output = stand.preview(&borrowed(&stand.github()), &[]);
    assert_eq!(output.status.code(), Some(2), "{}", error_text(&output));
    let text = error_text(&output);
    assert!(
        text.contains("no comment: write a comment on 127.0.0.1:") && text.contains("`pull-requests: write`"),
        "{text}"
    );
    assert!(!text.contains(TOKEN), "{text}");
    let summary = fs::read_to_string(stand.path("summary.md")).unwrap();
    assert!(summary.contains("1 pod would come from another address"), "{summary}");
    assert_eq!(stand.double.world().comments, []);
}

#[test]
fn in_gitlabs_ci_and_by_options_for_gitea() {
    let stand = Stand::new(ForgeKind::GitLab, POLICY);
    let api = format!("{}/api/v4", stand.double.url());
    let environment = [
        ("GITLAB_CI", "true"),
        ("CI_API_V4_URL", api.as_str()),
        ("CI_PROJECT_ID", "mos-eisley/policies"),
        ("CI_MERGE_REQUEST_IID", "11"),
        ("CI_COMMIT_SHA", stand.head.as_str()),
        ("CI_PIPELINE_ID", "99"),
        ("EGRET_FORGE_TOKEN", TOKEN),
    ];
    let output = stand.preview(&environment, &[]);
    assert_eq!(output.status.code(), Some(2), "{}", error_text(&output));
    {
        let world = stand.double.world();
        assert_eq!((world.comments.len(), &world.statuses[0].set["pipeline_id"]), (1, &99.into()));
    }
    stand.double.assert_strict();

    let stand = Stand::new(ForgeKind::Gitea, POLICY);
    fs::write(stand.path("token"), format!("{TOKEN}\n")).unwrap();
    let (url, token) = (stand.double.url(), stand.path("token"));
    let options = ["--forge", "gitea", "--forge-url", &url, "--project", "mos-eisley/policies", "--pull", "11"];
    let output = stand.preview(&[], &[&options[..], &["--forge-token-file", &token]].concat());
    assert_eq!(output.status.code(), Some(2), "{}", error_text(&output));
    assert_eq!(stand.double.world().comments.len(), 1);
    stand.double.assert_strict();
}

#[test]
fn what_is_missing_is_named_before_anything_is_done() {
    let stand = Stand::new(ForgeKind::GitHub, POLICY);
    let said = |environment: &[(&str, &str)], more: &[&str]| {
        let output = stand.preview(environment, more);
        assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0), "{output:?}");
        error_text(&output).lines().next().unwrap_or_default().to_owned()
    };
    assert_eq!(said(&[], &[]), "error: post the preview: the forge is not known");
    let github = ["--forge", "github"];
    assert_eq!(said(&[], &github), "error: post the preview: the repository is not known");
    let project = [&github[..], &["--project", "a/b"]].concat();
    assert_eq!(said(&[], &project), "error: post the preview: the pull request is not known");
    let pull = [&project[..], &["--pull", "1"]].concat();
    assert_eq!(said(&[], &pull), "error: post the preview: there is no token");
    // Whoever named a forge of one's own in the clear would send the token in the clear.
    let plain = [&pull[..], &["--forge-url", "http://forge.example"]].concat();
    let output = stand.preview(&[("EGRET_FORGE_TOKEN", "x")], &plain);
    assert_eq!(output.status.code(), Some(1));
    assert!(error_text(&output).contains("http:// has neither secrecy nor proof"), "{}", error_text(&output));
}
