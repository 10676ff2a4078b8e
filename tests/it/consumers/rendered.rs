//! docs/rendered-manifests.md as it stands: its files, its scripts and its workflow are taken out of the page and run in a repository, by
//! helm and kubectl as they are released.
//!
//! Absent: Flux, which no registry has as a program; the page says so.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;

use crate::commands::{Said, egret};
use crate::fetched;
use crate::git::fixture::git_command;

const PAGE: &str = include_str!("../../../docs/rendered-manifests.md");

const POLICY: &str = "apiVersion: egret.dev/v1alpha1
kind: EgressPolicy
metadata: {name: outpost}
spec:
  selectors:
  - podSelector: {matchLabels: {org: empire, io.kubernetes.pod.namespace: batuu}}
  destinationCIDRs: [10.0.4.0/24]
  egressGateway:
    nodeSelector: {matchLabels: {egress-gw: \"true\"}}
    egressIP: 10.0.3.42
";

/// What the page leaves to the reader.
const DEV: &str = "resources: [../../base]
namePrefix: dev-
patches:
- target: {kind: EgressPolicy}
  patch: |-
    - {op: replace, path: /spec/egressGateway/egressIP, value: 10.0.3.43}
";

/// The blocks of code below a heading of the page.
fn blocks(heading: &str) -> Vec<String> {
    let section = PAGE.split("\n## ").find(|section| section.starts_with(&format!("{heading}\n")));
    let mut blocks: Vec<Vec<&str>> = vec![Vec::new()];
    for line in section.unwrap_or_else(|| panic!("the page has no section {heading}")).lines() {
        match (line.strip_prefix("    "), blocks.last_mut()) {
            (Some(code), Some(block)) => block.push(code),
            // A blank line within a block is followed by more of it.
            (None, Some(block)) if line.is_empty() && !block.is_empty() => block.push(""),
            _ => blocks.push(Vec::new()),
        }
    }
    let text = |block: Vec<&str>| format!("{}\n", block.join("\n").trim_end());
    blocks.into_iter().filter(|block| !block.is_empty()).map(text).collect()
}

/// The script of the page's workflow.
fn workflow() -> String {
    let [text] = &blocks("Workflow")[..] else { panic!("one workflow") };
    let workflow: Value = serde_yaml::from_str(text).expect("YAML");
    let steps = workflow["jobs"]["rendered"]["steps"].as_array().cloned().unwrap_or_default();
    let scripts: Vec<&str> = steps.iter().filter_map(|step| step["run"].as_str()).collect();
    let [script] = scripts[..] else { panic!("one script: {scripts:?}") };
    assert!(!script.contains("${{"), "{script}");
    script.to_owned()
}

struct Stand {
    folder: TempDir,
    programs: PathBuf,
}

impl Stand {
    /// A repository with the page's egret.yaml, render.sh and these sources, rendered and committed.
    fn new(render: &str, sources: &[(&str, &str)]) -> Self {
        let [_, config, _] = &blocks("Layout")[..] else { panic!("a layout, egret.yaml and render.sh") };
        let programs = fetched::programs().expect("helm and kubectl");
        let stand = Self { folder: tempfile::tempdir().expect("a folder"), programs };
        fs::create_dir(stand.work()).expect("a folder");
        stand.git(&["init", "--quiet", "--initial-branch=main"]);
        for (path, text) in [("egret.yaml", config.as_str()), ("render.sh", render)].iter().chain(sources) {
            stand.write(path, text);
        }
        let output = stand.shell(&stand.work(), "sh render.sh");
        assert!(output.status.success(), "{}", told(&output));
        stand.commit();
        stand
    }

    /// The same as the page has it, with two overlays.
    fn overlays() -> Self {
        let [layout, _, render] = &blocks("Layout")[..] else { panic!("a layout, egret.yaml and render.sh") };
        let prod = "resources: [../../base]\n";
        let base = layout.lines().find_map(|line| line.strip_prefix("base/kustomization.yaml")).map(str::trim);
        let sources = [
            ("base/kustomization.yaml", base.expect("what the base has")),
            ("base/outpost.yaml", POLICY),
            ("overlays/dev/kustomization.yaml", DEV),
            ("overlays/prod/kustomization.yaml", prod),
        ];
        let stand = Self::new(render, &sources);
        let mut laid_out: Vec<&str> = layout.lines().filter_map(|line| line.split_whitespace().next()).collect();
        laid_out.sort_unstable();
        let files = stand.git(&["ls-files"]);
        assert_eq!(files.lines().collect::<Vec<_>>(), laid_out, "the layout is what comes of it");
        stand
    }

    fn work(&self) -> PathBuf {
        self.folder.path().join("work")
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.work().join(path);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        fs::write(path, text).expect("a file");
    }

    fn replace(&self, path: &str, from: &str, to: &str) {
        let text = self.read(path);
        assert!(text.contains(from), "{text}");
        self.write(path, &text.replace(from, to));
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.work().join(path)).expect("a file")
    }

    fn commit(&self) {
        self.git(&["add", "--all"]);
        self.git(&["commit", "--quiet", "--message=change"]);
    }

    /// Runs git in the repository.
    fn git(&self, words: &[&str]) -> String {
        let output = git_command(&self.work()).args(words).output().expect("git is installed");
        assert!(output.status.success(), "{words:?}: {}", told(&output));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn shell(&self, folder: &Path, script: &str) -> Output {
        let path = format!("{}:{}", self.programs.display(), std::env::var("PATH").expect("a PATH"));
        let mut command = Command::new("bash");
        command.args(["-e", "-c", script]).current_dir(folder).env_clear().env("PATH", path);
        // Nothing here may ask a cluster.
        command.env("HOME", self.folder.path()).env("KUBECONFIG", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1");
        command.output().expect("bash is installed")
    }

    /// The workflow on a fresh clone of what is committed: whether it passes, and what it prints.
    fn workflow(&self) -> (bool, String) {
        let clone = tempfile::tempdir_in(self.folder.path()).expect("a folder");
        let (from, to) = (self.work().display().to_string(), clone.path().display().to_string());
        self.git(&["clone", "--quiet", "--depth=1", &format!("file://{from}"), &to]);
        let output = self.shell(clone.path(), &workflow());
        (output.status.success(), told(&output))
    }

    fn validate(&self) -> Said {
        egret(["validate", "--repo", self.work().to_str().expect("a path")])
    }
}

fn told(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned()
}

fn fine(said: &str) -> Said {
    Said { code: Some(0), stdout: said.to_owned(), stderr: String::new() }
}

const BOTH: &str = "3 documents are fine, in the clusters dev, prod\n2 policies, 0 node labels in 2 files\n";

#[test]
fn the_pages_workflow_passes_what_is_rendered_and_fails_what_is_not_with_the_difference() {
    let stand = Stand::overlays();
    assert!(stand.read("rendered/dev/policies.yaml").contains("egressIP: 10.0.3.43"));
    assert!(stand.read("rendered/prod/policies.yaml").contains("egressIP: 10.0.3.42"));
    assert_eq!(stand.workflow(), (true, String::new()));
    assert_eq!(stand.validate(), fine(BOTH));

    stand.replace("base/outpost.yaml", "10.0.4.0/24", "10.0.5.0/24");
    stand.commit();
    let (passes, said) = stand.workflow();
    assert!(!passes, "{said}");
    for words in
        ["+++ b/rendered/dev/policies.yaml", "+++ b/rendered/prod/policies.yaml", "-  - 10.0.4.0/24\n+  - 10.0.5.0/24"]
    {
        assert!(said.contains(words), "{words}: {said}");
    }
    assert!(stand.shell(&stand.work(), "sh render.sh").status.success());
    stand.commit();
    assert_eq!(stand.workflow(), (true, String::new()));

    // Files that nobody added are a difference as well, and so are those that nothing renders any more.
    stand.write("overlays/stage/kustomization.yaml", &DEV.replace("dev-", "stage-").replace("10.0.3.43", "10.0.5.1"));
    stand.git(&["rm", "--quiet", "-r", "overlays/dev"]);
    stand.commit();
    let (passes, said) = stand.workflow();
    assert!(!passes, "{said}");
    assert!(
        said.contains("+++ b/rendered/stage/policies.yaml") && said.contains("--- a/rendered/dev/policies.yaml"),
        "{said}"
    );

    // A source that cannot be rendered.
    stand.write("overlays/stage/kustomization.yaml", "resources: [../../bass]\n");
    stand.commit();
    assert!(!stand.workflow().0);
}

#[test]
fn paths_that_name_the_sources_are_told_what_the_page_says() {
    let stand = Stand::overlays();
    stand.replace("egret.yaml", "[rendered/prod]", "[overlays/prod]");
    stand.replace("egret.yaml", "[rendered/dev]", "[overlays/dev, base]");
    let said = stand.validate();
    assert_eq!(said.code, Some(1), "{said:?}");
    for words in [
        "error: `namePrefix` changes base/outpost.yaml; Egret reads documents as they are\n  ╭▸ overlays/dev/kustomization.yaml:2:1\n",
        "error: this lists base/outpost.yaml, which is not among `paths`\n  ╭▸ overlays/prod/kustomization.yaml:1:13\n",
        "commit the result; `paths` of egret.yaml names its folder alone",
    ] {
        assert!(said.stdout.contains(words), "{words}: {}", said.stdout);
    }
    assert_eq!(said.stdout.matches("error: ").count(), 2, "once for each file: {}", said.stdout);
}

#[test]
fn the_pages_lines_for_helm_render_what_is_committed() {
    let [render] = &blocks("Helm")[..] else { panic!("one script") };
    let template = POLICY.replace("10.0.3.42", "{{ .Values.egressIP }}");
    let sources = [
        ("charts/egress/Chart.yaml", "apiVersion: v2\nname: egress\nversion: 1.0.0\n"),
        ("charts/egress/templates/outpost.yaml", template.as_str()),
        ("values/dev.yaml", "egressIP: 10.0.3.43\n"),
        ("values/prod.yaml", "egressIP: 10.0.3.42\n"),
    ];
    let stand = Stand::new(render, &sources);
    for (cluster, address) in [("dev", "10.0.3.43"), ("prod", "10.0.3.42")] {
        let rendered = stand.read(&format!("rendered/{cluster}/policies.yaml"));
        assert!(rendered.contains(&format!("egressIP: {address}")), "{rendered}");
    }
    assert_eq!(stand.workflow(), (true, String::new()));
    assert_eq!(stand.validate(), fine(BOTH));
    stand.write("values/prod.yaml", "egressIP: 10.0.3.44\n");
    stand.commit();
    let (passes, said) = stand.workflow();
    assert!(!passes && said.contains("-    egressIP: 10.0.3.42\n+    egressIP: 10.0.3.44"), "{said}");

    // The chart itself cannot be read.
    stand.replace("egret.yaml", "[rendered/prod]", "[charts]");
    let said = stand.validate();
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(
        said.stdout.contains("error: ") && said.stdout.contains("charts/egress/templates/outpost.yaml:"),
        "{}",
        said.stdout
    );
}
