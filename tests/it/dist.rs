//! What people install: the packages have what they should, the unit is one that systemd takes, the action of GitHub runs, the hooks call
//! a command that there is, and kubectl finds its plugin.
//!
//! The program in the packages is a script that runs the tested one: what is packed is all the same to the packer. Not here: static
//! programs and the rpm (`make dist`), and that a release is published.

#![expect(clippy::unwrap_used, reason = "a test that cannot be prepared has failed")]

use std::collections::BTreeSet;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// systemd's measure of what a service could do: 10 is everything. The node's network alone is 1.3 of it.
const EXPOSURE: &str = "30";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap()
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{command:?}: {}{}", said(&output.stdout), said(&output.stderr));
    said(&output.stdout)
}

/// deb(5)'s name of this machine.
fn architecture() -> &'static str {
    if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }
}

/// A folder with the packages in `dist`.
fn packed() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("egret");
    std::fs::write(&program, format!("#!/bin/sh\nexec {} \"$@\"\n", env!("CARGO_BIN_EXE_egret"))).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut build = Command::new(root().join("packaging/build"));
    build.arg("--program").arg(&program).arg("--out").arg(folder.path().join("dist"));
    run(build.env("SOURCE_DATE_EPOCH", "1700000000").env("EGRET_HOME", "https://git.example/egret"));
    folder
}

/// Paths in a listing of tar.
fn paths(listing: &str) -> BTreeSet<String> {
    listing
        .lines()
        .map(|line| line.trim_start_matches("./").to_owned())
        .filter(|path| !path.ends_with('/') && !path.is_empty())
        .collect()
}

/// Manual pages of all commands.
fn pages() -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    run(Command::new(env!("CARGO_BIN_EXE_egret")).args(["man", "--dir"]).arg(folder.path()));
    let entries = std::fs::read_dir(folder.path()).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn packages_have_the_program_its_pages_completions_and_a_service() {
    let folder = packed();
    let dist = folder.path().join("dist");
    let deb = dist.join(format!("egret_{VERSION}_{}.deb", architecture()));
    let tree = folder.path().join("unpacked");
    run(Command::new("dpkg-deb").arg("--extract").arg(&deb).arg(&tree));
    let listing = run(Command::new("sh").args(["-c", "dpkg-deb --fsys-tarfile \"$1\" | tar -tf -", "sh"]).arg(&deb));
    let fixed = [
        "etc/default/egret",
        "usr/bin/egret",
        "usr/bin/kubectl-egret",
        "usr/bin/kubectl_complete-egret",
        "usr/lib/systemd/system/egret.service",
        "usr/share/bash-completion/completions/egret",
        "usr/share/doc/egret/changelog.gz",
        "usr/share/doc/egret/copyright",
        "usr/share/egret/monitoring/alerts.yaml",
        "usr/share/egret/monitoring/dashboard.json",
        "usr/share/egret/schemas/config.json",
        "usr/share/egret/schemas/document.json",
        "usr/share/fish/vendor_completions.d/egret.fish",
        "usr/share/zsh/vendor-completions/_egret",
    ];
    let pages = pages().into_iter().map(|page| format!("usr/share/man/man1/{page}.gz"));
    let wanted: BTreeSet<String> = fixed.into_iter().map(str::to_owned).chain(pages).collect();
    assert_eq!(paths(&listing), wanted);
    let field = |name: &str| run(Command::new("dpkg-deb").arg("--field").arg(&deb).arg(name)).trim().to_owned();
    assert_eq!([field("Package"), field("Version"), field("Architecture")], ["egret", VERSION, architecture()]);
    let control = folder.path().join("control");
    run(Command::new("dpkg-deb").arg("--control").arg(&deb).arg(&control));
    assert_eq!(std::fs::read_to_string(control.join("conffiles")).unwrap(), "/etc/default/egret\n");
    for script in ["postinst", "prerm", "postrm"] {
        run(Command::new("sh").arg("-n").arg(control.join(script)));
    }
    // The rpm has the same, but for zsh's folder.
    let spec = read("packaging/rpm/egret.spec");
    let files = spec.split("%files\n").nth(1).unwrap().lines();
    let files: Vec<&str> = files.filter_map(|line| line.split_whitespace().last()?.strip_prefix('/')).collect();
    for path in wanted.iter().map(|path| path.replace("vendor-completions/_", "site-functions/_")) {
        let page = path.starts_with("usr/share/man/man1/egret") && files.contains(&"usr/share/man/man1/egret*.1.gz");
        let listed = files.iter().any(|file| path == *file || path.starts_with(&format!("{file}/")));
        assert!(listed || page, "packaging/rpm/egret.spec lacks {path}");
    }
    check_unit(&tree);
}

/// systemd's own verifier reads the unit as it is in the package, with the program that it names.
fn check_unit(tree: &Path) {
    let root = format!("--root={}", tree.display());
    run(Command::new("systemd-analyze").args(["verify", "--man=no", "--recursive-errors=no", &root, "egret.service"]));
    let threshold = format!("--threshold={EXPOSURE}");
    run(Command::new("systemd-analyze").args(["security", "--offline=true", &threshold, &root, "egret.service"]));
    // Every variable of the defaults is one of `egret run`.
    let help = run(Command::new(env!("CARGO_BIN_EXE_egret")).args(["run", "--help"]));
    let defaults = std::fs::read_to_string(tree.join("etc/default/egret")).unwrap();
    let variables: Vec<&str> = defaults
        .lines()
        .filter_map(|line| line.trim_start_matches('#').split_once('='))
        .map(|(name, _)| name)
        .collect();
    assert!(variables.len() > 5, "{variables:?}");
    for name in variables.into_iter().filter(|name| !name.contains(' ')) {
        assert!(help.contains(&format!("[env: {name}=")), "egret run has no {name}");
    }
}

#[test]
fn the_archive_can_be_unpacked_anywhere_and_its_sum_and_krews_are_those_of_the_files() {
    let folder = packed();
    let dist = folder.path().join("dist");
    run(Command::new("sha256sum").args(["--check", "--strict", "--quiet", "SHA256SUMS"]).current_dir(&dist));
    let archive = dist.join(format!("egret-{VERSION}-linux-{}.tar.gz", architecture()));
    let listing = paths(&run(Command::new("tar").arg("-tzf").arg(&archive)));
    for path in [
        "egret",
        "LICENSE",
        "man1/egret.1.gz",
        "man1/egret-run.1.gz",
        "completions/egret.bash",
        "systemd/egret.service",
    ] {
        assert!(listing.contains(path), "{listing:?} lacks {path}");
    }
    let krew: Value = serde_yaml::from_str(&std::fs::read_to_string(dist.join("egret.yaml")).unwrap()).unwrap();
    assert_eq!(krew["spec"]["version"], format!("v{VERSION}"));
    let platforms = krew["spec"]["platforms"].as_array().unwrap();
    assert_eq!(platforms.len(), 1);
    let uri = platforms[0]["uri"].as_str().unwrap();
    let file = uri.strip_prefix(&format!("https://git.example/egret/releases/download/v{VERSION}/")).unwrap();
    let sum = run(Command::new("sha256sum").arg(dist.join(file)));
    assert_eq!(platforms[0]["sha256"].as_str(), sum.split_whitespace().next());
    let plugin = folder.path().join("plugin");
    std::fs::create_dir(&plugin).unwrap();
    run(Command::new("tar").arg("-xzf").arg(dist.join(file)).arg("-C").arg(&plugin));
    let name = platforms[0]["bin"].as_str().unwrap();
    assert!(run(Command::new(plugin.join(name)).arg("version")).starts_with("egret "));
}

#[test]
fn one_commit_gives_the_same_archives() {
    let (one, other) = (packed(), packed());
    let sums = |folder: &TempDir| std::fs::read_to_string(folder.path().join("dist/SHA256SUMS")).unwrap();
    assert_eq!(sums(&one), sums(&other));
}

/// The program by another name.
fn called(name: &str, words: &[&str]) -> Output {
    let folder = tempfile::tempdir().unwrap();
    let link = folder.path().join(name);
    symlink(env!("CARGO_BIN_EXE_egret"), &link).unwrap();
    Command::new(link).args(words).env_clear().output().unwrap()
}

#[test]
fn as_a_plugin_of_kubectl_it_says_so_in_usage_lines_and_completes_words() {
    let help = String::from_utf8(called("kubectl-egret", &["plan", "--help"]).stdout).unwrap();
    assert!(help.contains("Usage: kubectl egret plan "), "{help}");
    let wrong = called("kubectl-egret", &["plan", "--nonsense"]);
    assert_eq!(wrong.status.code(), Some(64));
    assert!(String::from_utf8(wrong.stderr).unwrap().contains("Usage: kubectl egret plan "));
    let help = String::from_utf8(called("egret", &["plan", "--help"]).stdout).unwrap();
    assert!(help.contains("Usage: egret plan "), "{help}");
    let words = String::from_utf8(called("kubectl_complete-egret", &["plan", "--cluster-n"]).stdout).unwrap();
    let lines: Vec<&str> = words.lines().collect();
    assert_eq!(lines.len(), 2, "{words}");
    assert!(lines[0].starts_with("--cluster-name\t"), "{words}");
    assert_eq!(lines[1], ":4");
}

#[test]
fn hooks_of_pre_commit_call_a_command_that_there_is() {
    let hooks: Vec<Value> = serde_yaml::from_str(&read(".pre-commit-hooks.yaml")).unwrap();
    assert_eq!(hooks.len(), 2);
    let folder = tempfile::tempdir().unwrap();
    run(Command::new(env!("CARGO_BIN_EXE_egret")).arg("init").arg(folder.path()));
    for hook in hooks {
        let entry: Vec<&str> = hook["entry"].as_str().unwrap().split(' ').collect();
        assert_eq!(entry[0], "egret");
        assert_eq!(hook["pass_filenames"], false);
        run(Command::new(env!("CARGO_BIN_EXE_egret")).args(&entry[1..]).current_dir(folder.path()));
    }
}

/// The scripts of an action or a workflow, each with its variables.
fn steps(text: &str) -> Vec<Value> {
    let read: Value = serde_yaml::from_str(text).unwrap();
    let jobs = read["jobs"].as_object().into_iter().flat_map(|jobs| jobs.values());
    let lists = jobs.map(|job| &job["steps"]).chain([&read["runs"]["steps"]]);
    lists.filter_map(Value::as_array).flatten().cloned().collect()
}

#[test]
fn no_script_of_a_workflow_has_an_expression_in_it_and_every_action_is_pinned() {
    for file in ["action.yml", ".github/workflows/release.yaml"] {
        let steps = steps(&read(file));
        assert!(!steps.is_empty());
        for step in steps {
            if let Some(uses) = step["uses"].as_str() {
                let pin = uses.split('@').nth(1).unwrap();
                assert!(pin.len() == 40 && pin.chars().all(|c| c.is_ascii_hexdigit()), "{file}: {uses}");
                continue;
            }
            let script = step["run"].as_str().unwrap();
            assert!(!script.contains("${{"), "{file}: a forge would put foreign text into {script}");
            run(Command::new("bash").args(["-n", "-c", script]));
        }
    }
}

#[test]
fn the_release_says_what_is_wrong_with_a_tag() {
    let check = steps(&read(".github/workflows/release.yaml"));
    let script = check.iter().find(|step| step["name"] == "the tag is the version").unwrap()["run"].as_str().unwrap();
    let output = Command::new("bash")
        .args(["-e", "-c", script])
        .env("GITHUB_REF_NAME", "v9.9.9")
        .current_dir(root())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(said, format!("::error::the tag is v9.9.9, Cargo.toml has {VERSION}\n"));
}

/// Runs a step of the action with these inputs, as a runner does: defaults that are expressions are empty.
fn act(step: &str, inputs: &[(&str, &str)], variables: &[(&str, &str)], folder: &Path) -> Output {
    let action: Value = serde_yaml::from_str(&read("action.yml")).unwrap();
    let steps = action["runs"]["steps"].as_array().unwrap();
    let step = steps.iter().find(|one| one["name"] == step).unwrap();
    let input = |name: &str| {
        let given = inputs.iter().find(|(input, _)| *input == name).map(|(_, value)| (*value).to_owned());
        let default = action["inputs"][name]["default"].as_str().unwrap_or_else(|| panic!("no input {name}"));
        given.unwrap_or_else(|| if default.contains("${{") { String::new() } else { default.to_owned() })
    };
    let mut command = Command::new("bash");
    command.args(["-e", "-c", step["run"].as_str().unwrap()]).current_dir(folder).env_clear();
    command.env("PATH", std::env::var("PATH").unwrap()).env("GITHUB_ACTION_PATH", root());
    for (name, value) in step["env"].as_object().unwrap() {
        let value = value.as_str().unwrap();
        let value = match value.strip_prefix("${{ inputs.").and_then(|rest| rest.strip_suffix(" }}")) {
            Some(name) => input(name),
            None => value.to_owned(),
        };
        command.env(name, value);
    }
    command.envs(variables.iter().copied()).output().unwrap()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn the_action_installs_a_release_and_validates_with_it() {
    let folder = packed();
    // As a forge lays a release's files out.
    let releases = folder.path().join("releases");
    std::fs::create_dir(&releases).unwrap();
    std::fs::rename(folder.path().join("dist"), releases.join(format!("v{VERSION}"))).unwrap();
    let temporary = folder.path().join("temporary");
    let path_file = folder.path().join("path");
    let downloads = format!("file://{}", releases.display());
    let variables =
        [("DOWNLOADS", downloads.as_str()), ("RUNNER_TEMP", text(&temporary)), ("GITHUB_PATH", text(&path_file))];
    let version = format!("v{VERSION}");
    let said = act("install", &[("version", &version)], &variables, folder.path());
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    let added = PathBuf::from(std::fs::read_to_string(&path_file).unwrap().trim());
    assert!(added.join("egret").is_file(), "{}", added.display());

    let refused = act("install", &[("version", "main")], &variables, folder.path());
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8(refused.stdout).unwrap().contains("is no release"));
    let sums = releases.join(&version).join("SHA256SUMS");
    std::fs::write(&sums, std::fs::read_to_string(&sums).unwrap().replace(['a', 'b', 'c'], "0")).unwrap();
    assert!(!act("install", &[("version", &version)], &variables, folder.path()).status.success(), "a wrong checksum");

    let repository = folder.path().join("repository");
    run(Command::new(env!("CARGO_BIN_EXE_egret")).arg("init").arg(&repository));
    let program = added.join("egret");
    let inputs = [("repo", text(&repository)), ("program", text(&program))];
    assert!(act("run", &inputs, &[], folder.path()).status.success());
    let policy = repository.join("policies/outpost.yaml");
    std::fs::write(&policy, std::fs::read_to_string(&policy).unwrap().replace("10.0.4.0/24", "10.0.4.7/24")).unwrap();
    let said = act("run", &inputs, &[], folder.path());
    assert_eq!(said.status.code(), Some(1));
    assert!(String::from_utf8(said.stdout).unwrap().contains("::error file=policies/outpost.yaml,line="));
    let wrong = act("run", &[("command", "deploy"), inputs[1]], &[], folder.path());
    assert_eq!(wrong.status.code(), Some(64));
    let alone = act("run", &[("command", "preview"), inputs[0], inputs[1]], &[], folder.path());
    assert!(String::from_utf8(alone.stdout).unwrap().contains("a preview needs two commits"));
}
