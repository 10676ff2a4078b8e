//! What the commands print and how they exit, whole: `validate` and `plan` on the repository that `init` writes, on one with mistakes,
//! and on nodes of the lab. `command_line` has the options and forms that all of them share.

#![expect(clippy::unwrap_used, reason = "a test that cannot be prepared has failed")]

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::documents::{DEADLINE, LABELS, POLICY};
use crate::lab::{Lab, Options};

/// What a command said.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Said {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Said {
    fn fine(stdout: impl Into<String>) -> Self {
        Self { code: Some(0), stdout: stdout.into(), stderr: String::new() }
    }

    fn failed(stderr: impl Into<String>) -> Self {
        Self { code: Some(1), stdout: String::new(), stderr: stderr.into() }
    }
}

/// Runs the program in this thread's network namespace, with nothing in its environment that changes what it says.
pub(crate) fn egret<Word: Into<OsString>>(words: impl IntoIterator<Item = Word>) -> Said {
    let mut command = Command::new(env!("CARGO_BIN_EXE_egret"));
    command.args(words.into_iter().map(Into::into)).env_clear().env("HOME", "/nonexistent").env("RUST_LOG", "warn");
    let output = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Said { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

/// A copy of what people start from, outside of any work tree.
fn template() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("repo-template");
    for path in ["egret.yaml", "nodes/gateways.yaml", "policies/outpost.yaml"] {
        fs::create_dir_all(folder.path().join(path).parent().unwrap()).unwrap();
        fs::copy(from.join(path), folder.path().join(path)).unwrap();
    }
    folder
}

/// The same with a mistake and something doubtful.
fn mistaken() -> tempfile::TempDir {
    let folder = template();
    let path = folder.path().join("policies/outpost.yaml");
    let text = fs::read_to_string(&path).unwrap().replace("10.0.4.0/24", "10.0.4.7/24");
    fs::write(&path, text).unwrap();
    folder
}

fn validate(folder: &Path, more: &[&str]) -> Said {
    let words = ["validate", "--repo", folder.to_str().unwrap()];
    egret(words.into_iter().chain(more.iter().copied()))
}

/// What is said of the template as it is.
const FINE: &str = "3 documents are fine\n1 policy, 1 node label in 2 files\n";

#[test]
fn what_people_start_from_is_fine() {
    let folder = template();
    assert_eq!(validate(folder.path(), &[]), Said::fine(FINE));
    assert_eq!(validate(folder.path(), &["--output=markdown"]), Said::fine(FINE));
    assert_eq!(validate(folder.path(), &["--output=github"]), Said::fine(FINE));
    let json = "{\n  \"formatVersion\": 1,\n  \"clusters\": [\n    \"default\"\n  ],\n  \"documents\": 3,\n  \"errors\": 0,\n  \"warnings\": 0,\n  \
                \"policies\": 1,\n  \"nodeLabels\": 1,\n  \"assertions\": 0,\n  \"failedAssertions\": [],\n  \"files\": 2,\n  \"foreignFiles\": [],\n  \
                \"diagnostics\": []\n}\n";
    assert_eq!(validate(folder.path(), &["-ojson"]), Said::fine(json));
}

/// What the hook runs, it runs as the template says, in the repository's folder.
#[test]
fn the_hook_before_a_commit_lets_good_documents_pass_and_no_mistake() {
    let hook = include_str!("../../repo-template/.pre-commit-config.yaml");
    let entry = hook.lines().find_map(|line| line.trim().strip_prefix("entry: egret ")).expect("the hook's command");
    let code = |folder: &Path| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_egret"));
        command.args(entry.split(' ')).current_dir(folder).env_clear().output().unwrap().status.code()
    };
    assert_eq!((code(template().path()), code(mistaken().path())), (Some(0), Some(1)));
}

#[test]
fn a_cluster_without_documents_in_its_paths_is_reported() {
    let folder = template();
    let config = "apiVersion: egret.dev/v1alpha1\nkind: Config\nclusters: {moon: {paths: [moon]}, earth: }\n";
    fs::write(folder.path().join("egret.yaml"), config).unwrap();
    fs::create_dir(folder.path().join("moon")).unwrap();
    fs::write(folder.path().join("moon/values.yaml"), "image: x\n").unwrap();
    let said = "nothing for the cluster moon: its paths have no document\n1 document is fine\n\
                0 policies, 0 node labels in 0 files; 1 file is none of Egret's\n";
    assert_eq!(validate(folder.path(), &["--cluster-name=moon"]), Said::fine(said));
    let foreign = "1 policy, 1 node label in 2 files; 1 file is none of Egret's\n";
    let earth = format!("3 documents are fine\n{foreign}");
    assert_eq!(validate(folder.path(), &["--cluster-name=earth"]), Said::fine(&earth));
    let both = format!(
        "nothing for the cluster moon: its paths have no document\n3 documents are fine, in the clusters earth, moon\n{foreign}"
    );
    assert_eq!(validate(folder.path(), &[]), Said::fine(&both));
    let unknown = validate(folder.path(), &["--cluster-name=mooon"]);
    assert_eq!(unknown.code, Some(1));
    assert!(
        unknown.stdout.contains("egret.yaml has no cluster `mooon`") && unknown.stdout.contains("did you mean `moon`?")
    );
    // What is wrong for one cluster only is found with the others.
    fs::remove_dir_all(folder.path().join("moon")).unwrap();
    let dead = validate(folder.path(), &[]);
    assert_eq!(
        (dead.code, dead.stdout.matches("no file is at or below `moon`").count()),
        (Some(1), 1),
        "{}",
        dead.stdout
    );
}

#[test]
fn change_windows_with_a_mistake_are_refused_with_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let windows = folder.path().join("windows.yaml").display().to_string();
    fs::write(&windows, "open: [{cron: 0 0 31 6 *, duration: 1h}]\n").unwrap();
    let (state, cluster) = (folder.path().display().to_string(), folder.path().display().to_string());
    let said = egret([
        "run",
        "--repo=/",
        "--state-dir",
        &state,
        "--cluster",
        &cluster,
        "--node=a",
        "--change-windows",
        &windows,
    ]);
    let expected = format!(
        "error: read the change windows {windows}:1:15: `0 0 31 6 *` names no day that there is\nhint: check the day of the month \
         and the month: `0 0 30 2 *` is the 30th of February\n"
    );
    assert_eq!(said, Said::failed(expected));
}

#[test]
fn a_mistake_is_shown_in_every_form_and_fails() {
    let folder = mistaken();
    let bad = |stdout: String| Said { code: Some(1), ..Said::fine(stdout) };
    let excerpt = "\
error: a destination has host bits set
   ╭▸ policies/outpost.yaml:13:5
   │
13 │   - 10.0.4.7/24
   │     ━━━━━━━━━━━ /24 leaves no room for the .7
   │
   ╰ hint: 10.0.4.0/24 for the network, 10.0.4.7/32 for the host
";
    let summary = "1 error in 1 of 3 documents; the other 2 are fine\n1 policy, 1 node label in 2 files\n";
    assert_eq!(validate(folder.path(), &[]), bad(format!("{excerpt}\n{summary}")));
    assert_eq!(validate(folder.path(), &["--output=markdown"]), bad(format!("```text\n{excerpt}```\n\n{summary}")));
    let annotation = "::error file=policies/outpost.yaml,line=13,endLine=13,col=5,endColumn=15,title=host-bits::a destination \
                      has host bits set (/24 leaves no room for the .7)%0Ahint: 10.0.4.0/24 for the network, \
                      10.0.4.7/32 for the host";
    assert_eq!(validate(folder.path(), &["--output=github"]), bad(format!("{annotation}\n{summary}")));
    let json: serde_json::Value = serde_json::from_str(&validate(folder.path(), &["--output=json"]).stdout).unwrap();
    let expected = serde_json::json!({"formatVersion": 1, "clusters": ["default"], "documents": 3, "errors": 1, "warnings": 0,
        "policies": 1, "nodeLabels": 1, "assertions": 0, "failedAssertions": [], "files": 2, "foreignFiles": [], "diagnostics": [{
        "file": "policies/outpost.yaml", "line": 13, "column": 5, "endLine": 13, "endColumn": 16, "severity": "error",
        "code": "host-bits", "message": "a destination has host bits set",
        "label": "/24 leaves no room for the .7", "hint": "10.0.4.0/24 for the network, 10.0.4.7/32 for the host",
    }]});
    assert_eq!(json, expected);
}

#[test]
fn what_cannot_be_asked_says_so_with_a_hint() {
    let folder = template();
    let (repo, none) = (folder.path().to_str().unwrap(), folder.path().join("none"));
    let none = none.to_str().unwrap();
    let nodes = folder.path().join("nodes.yaml");
    fs::write(&nodes, "kind: Node\napiVersion: v1\nmetadata: {name: a}\n").unwrap();
    let nodes = nodes.to_str().unwrap();
    let no_repository = "error: read FOLDER/none: No such file or directory (os error 2)\n\
        hint: --repo takes a folder, a Git repository, or the address of one\n";
    let no_cluster = "error: listing the manifests in FOLDER/none: No such file or directory (os error 2)\n\
        hint: --cluster takes a file or folder, as `kubectl get nodes,namespaces,pods -A -o yaml` prints it, or - for standard \
        input\n";
    let insecure = "error: \"http://git.example/p\" is not the address of a Git repository: anyone on the route could change what it sends; \
        use https or ssh\nhint: write a path, or file://, https://, ssh:// or user@host:path\n";
    let unknown = "error: b is not among the nodes of FOLDER/nodes.yaml\nhint: they have a\n";
    for (words, expected) in [
        (&["validate", "--repo", none][..], no_repository),
        (&["validate", "--repo", "http://git.example/p"], insecure),
        (&["validate", "--repo", repo, "--cluster", none], no_cluster),
        (&["plan", "--repo", none, "--cluster", nodes, "--node", "a"], no_repository),
        (&["plan", "--repo", repo, "--cluster", none, "--node", "a"], no_cluster),
        (&["plan", "--repo", repo, "--cluster", nodes, "--node", "b"], unknown),
    ] {
        assert_eq!(egret(words.iter().copied()), Said::failed(expected.replace("FOLDER", repo)), "{words:?}");
    }
}

#[test]
#[expect(clippy::too_many_lines, reason = "one story, step after step")]
fn a_plan_shows_changes_until_they_are_made() {
    let lab = Lab::up(Options::default()).unwrap();
    let repository = lab.repository();
    repository.write("nodes/gateways.yaml", LABELS).unwrap();
    repository.write("policies/outpost.yaml", POLICY).unwrap();
    let commit = repository.push("let the empire through").unwrap();
    let arguments = lab.egret_arguments("kind-worker").unwrap();
    let run = |words: &[&str]| {
        let words: Vec<OsString> = words.iter().map(OsString::from).chain(arguments.iter().cloned()).collect();
        lab.node("kind-worker").unwrap().enter(|| egret(words)).unwrap()
    };
    let before = run(&["plan"]);
    assert_eq!((before.code, before.stderr.as_str()), (Some(2), ""));
    let (summary, diff) = before.stdout.split_once("\n--- ").unwrap();
    let expected = "\
kind-worker · 20 steps

  source of outpost: 1 pod (batuu/tiefighter) leaves through kind-worker2 (172.18.0.3), dev net1

  add     link   egret0 type vxlan external dstport 4790 nolearning address 02:00:ac:12:00:02 mtu 1450 down
  add     nft    netdev table { flags owner,persist; }
  add     nft    netdev set gateways { type mark; }
  add     nft    netdev chain arrive { type filter hook ingress device \"egret0\" priority 0; policy drop; }
  add     nft    netdev element gateways { 0xac120003 }
  change  link   egret0 type vxlan external dstport 4790 nolearning address 02:00:ac:12:00:02 mtu 1450 up
  set     sysctl net.ipv4.conf.egret0.forwarding = 1
  set     sysctl net.ipv4.conf.egret0.rp_filter = 2
  set     sysctl net.ipv6.conf.egret0.disable_ipv6 = 0
  add     addr   169.254.90.1/32 dev egret0
  add     addr   fd65:6772:6574:1::1/128 dev egret0
  set     neigh  169.254.128.1 dev egret0 lladdr 36:c2:80:90:a1:dc nud permanent
  add     route  unreachable default table 9001 metric 4278198272
  add     route  default dev egret0 table 9000
  add     route  default encap ip id 1 src 172.18.0.2 dst 172.18.0.3 via 169.254.128.1 dev egret0 onlink table 9001
  add     route  throw 10.1.1.0/24 table 9001
  add     route  169.254.90.2/31 encap ip id 1 src 172.18.0.2 dst 172.18.0.3 via 169.254.128.1 dev egret0 onlink table 9001
  add     rule   500: from all fwmark 0x1fff/0x1fff lookup 9000
  add     rule   501: from all fwmark 0x1/0x1fff lookup 9001
  flush   conn   mark 0x1/0x1fff
  add     nft    inet table egret: 20 chains, 79 rules, 21 sets, 32 elements
  add     nft    netdev rule arrive ip daddr 10.1.1.254 meta mark @gateways meta pkttype set host meta mark set 0x00001fff accept
  add     nft    netdev rule arrive counter drop
  wait    packet until those in flight have passed
  flush   conn   from 10.1.1.177: unanswered ones that are steered now
";
    assert_eq!(summary, expected);
    let (diff, verdict) = diff.rsplit_once("\n\n").unwrap();
    let expected = format!(
        "kind-worker: {} would take 20 steps: add 1 link, 147 nft, 2 addr, 5 route, 2 rule; change 1 link; set 3 sysctl, 1 neigh; flush 2 conn (exit \
         code 2)\n",
        &commit[..12]
    );
    assert_eq!(verdict, expected);
    let title = format!("kind-worker now\n+++ kind-worker after {}\n@@ -0,0 +1,", &commit[..12]);
    assert!(diff.starts_with(&title), "{diff}");
    assert_eq!(diff.lines().skip(3).find(|line| !line.starts_with('+')), None, "there was nothing before");

    let json: serde_json::Value = serde_json::from_str(&run(&["plan", "--output=json"]).stdout).unwrap();
    assert_eq!((&json["formatVersion"], &json["changes"]), (&1.into(), &true.into()));
    assert_eq!((&json["diff"], &json["verdict"]), (&format!("--- {diff}\n").into(), &verdict.trim_end().into()));
    let address = serde_json::json!({"action": "add", "kind": "addr", "object": "169.254.90.1/32 dev egret0"});
    assert_eq!(json["steps"].as_array().unwrap().iter().find(|step| step["kind"] == "addr"), Some(&address));
    let markdown = run(&["plan", "--output=markdown"]);
    assert_eq!(markdown.stdout, format!("{summary}\n```diff\n--- {diff}\n```\n\n{verdict}"));
    let short = run(&["plan", "--no-diff"]);
    assert_eq!(short, Said { code: Some(2), ..Said::fine(format!("{summary}\n{verdict}")) });
    let json: serde_json::Value = serde_json::from_str(&run(&["plan", "--no-diff", "-o", "json"]).stdout).unwrap();
    assert_eq!(json.get("diff"), None);

    // The gateway first: it gives itself the label that makes it one.
    let gateway = lab.egret_arguments("kind-worker2").unwrap();
    let words: Vec<OsString> = ["run", "--once"].iter().map(OsString::from).chain(gateway).collect();
    assert_eq!(lab.node("kind-worker2").unwrap().enter(|| egret(words)).unwrap().code, Some(0));
    assert_eq!(run(&["run", "--once"]).code, Some(0));
    let after = format!(
        "kind-worker · nothing to do\n\n  source of outpost: 1 pod (batuu/tiefighter) leaves through kind-worker2 (172.18.0.3), dev \
         net1\n\nkind-worker: nothing would change with {} (exit code 0)\n",
        &commit[..12]
    );
    assert_eq!(run(&["plan"]), Said::fine(after.clone()));
    // The tables belong to a running process then, which is no change either.
    let running = lab.egret("kind-worker", &[]).unwrap();
    running.wait_for(" applied commit=", DEADLINE).unwrap();
    assert_eq!(run(&["plan"]), Said::fine(after));
}
