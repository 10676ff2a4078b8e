//! What all commands share: help and its width, colours, standard input, exit codes, completion, manual pages, and their documentation.

#![expect(clippy::unwrap_used, reason = "a test that cannot be prepared has failed")]

use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::commands::Said;
use crate::documents::{LABELS, POLICY};
use crate::lab::{Lab, Options};

const COMMANDS: [&str; 20] = [
    "run",
    "controller",
    "agent",
    "validate",
    "init",
    "migrate",
    "schema",
    "plan",
    "explain",
    "status",
    "preview",
    "snapshot",
    "remove",
    "doctor",
    "support-bundle",
    "test",
    "who",
    "completion",
    "man",
    "version",
];

/// Runs the program with these variables and no other, and with this standard input.
fn egret(words: &[&str], variables: &[(&str, &str)], input: &str) -> Said {
    let mut command = Command::new(env!("CARGO_BIN_EXE_egret"));
    command.args(words).env_clear().env("HOME", "/nonexistent").envs(variables.iter().copied());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // A program that does not read it has closed it by now.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Said { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

fn plain(words: &[&str]) -> Said {
    egret(words, &[], "")
}

fn document(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// A repository with a mistake.
fn mistaken() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let text = document("repo-template/policies/outpost.yaml").replace("10.0.4.0/24", "10.0.4.7/24");
    std::fs::write(folder.path().join("outpost.yaml"), text).unwrap();
    folder
}

#[test]
fn help_is_wrapped_at_the_given_width_and_not_at_all_in_a_pipe() {
    for command in COMMANDS {
        for option in ["-h", "--help"] {
            for width in [80, 200] {
                let said = egret(&[command, option], &[("COLUMNS", &width.to_string())], "");
                let wide: Vec<&str> = said.stdout.lines().filter(|line| line.chars().count() > width).collect();
                assert_eq!((said.code, wide), (Some(0), Vec::new()), "{command} {option} at {width}");
            }
        }
        let piped = plain(&[command, "-h"]).stdout;
        let unwrapped = piped.lines().filter(|line| line.trim_start().starts_with("--color"));
        assert_eq!(
            unwrapped.filter(|line| line.ends_with("[possible values: auto, always, never]")).count(),
            1,
            "{piped}"
        );
    }
}

#[test]
fn a_usage_error_exits_with_64_and_help_with_0() {
    for words in
        [&["plan", "--nonsense"][..], &["plan"], &["nonsense"], &[], &["validate", "-o", "xml"], &["run", "-q", "-v"]]
    {
        let said = plain(words);
        assert_eq!((said.code, said.stdout.as_str()), (Some(64), ""), "{words:?}: {}", said.stderr);
    }
    for words in [&["help"][..], &["help", "plan"], &["--help"], &["--version"], &["plan", "-h"], &["version"]] {
        let said = plain(words);
        assert_eq!((said.code, said.stderr.as_str()), (Some(0), ""), "{words:?}");
    }
}

#[test]
fn every_exit_code_and_every_command_is_documented() {
    let page = document("docs/commands.md");
    let help = plain(&["--help"]).stdout;
    let codes = help.split("Exit codes:\n").nth(1).unwrap();
    let mut seen = BTreeSet::new();
    for line in codes.lines() {
        let (code, meaning) = line.trim().split_once(char::is_whitespace).unwrap();
        seen.insert(code);
        let meaning = meaning.trim();
        assert!(page.contains(&format!("| {code} | {meaning}")), "docs/commands.md lacks: {code} {meaning}");
    }
    assert_eq!(seen, BTreeSet::from(["0", "1", "2", "64"]));
    let listed = help.split("Commands:\n").nth(1).unwrap().lines().take_while(|line| !line.is_empty());
    let listed: BTreeSet<&str> = listed.filter_map(|line| line.split_whitespace().next()).collect();
    assert_eq!(listed, COMMANDS.into_iter().chain(["help"]).collect());
    for command in COMMANDS {
        assert!(page.contains(&format!("| `egret {command}")), "docs/commands.md lacks {command}");
    }
}

#[test]
fn colours_are_as_the_option_says_and_else_as_terminal_and_environment_do() {
    let folder = mistaken();
    let folder = folder.path().to_str().unwrap();
    let coloured = |words: &[&str], variables: &[(&str, &str)]| {
        let said = egret(&[&["validate", folder], words].concat(), variables, "");
        assert_eq!(said.code, Some(1), "{}", said.stderr);
        said.stdout.contains('\u{1b}')
    };
    assert!(!coloured(&[], &[]), "a pipe has none");
    assert!(coloured(&["--color", "always"], &[]));
    assert!(coloured(&["--color=always"], &[("NO_COLOR", "1")]), "the option is the nearer wish");
    assert!(!coloured(&["--color=never"], &[("CLICOLOR_FORCE", "1")]));
    assert!(coloured(&[], &[("CLICOLOR_FORCE", "1")]));
    assert!(!coloured(&["--color=always", "-o", "markdown"], &[]), "a page has none");
}

#[test]
fn validate_takes_a_folder_in_the_place_of_the_repository() {
    let folder = mistaken();
    let path = folder.path().to_str().unwrap();
    let named = plain(&["validate", path]);
    assert_eq!(named.code, Some(1), "{}", named.stderr);
    assert_eq!(named, plain(&["validate", "--repo", path]));
    assert_eq!(
        named,
        egret(&["validate", path], &[("EGRET_REPO", "/nonexistent")], ""),
        "it is nearer than the environment"
    );
}

#[test]
fn manifests_are_read_from_standard_input_where_they_are_read_once() {
    let node = "kind: Node\napiVersion: v1\nmetadata: {name: a}\n";
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("nodes.yaml");
    std::fs::write(&file, node).unwrap();
    let by_file = plain(&["snapshot", "--cluster", file.to_str().unwrap()]);
    assert_eq!(by_file.code, Some(0), "{}", by_file.stderr);
    assert_eq!(egret(&["snapshot", "--cluster", "-"], &[], node), by_file);
    let template = folder.path().join("policies");
    assert_eq!(plain(&["init", template.to_str().unwrap()]).code, Some(0));
    let template = template.to_str().unwrap();
    let validated = egret(&["validate", template, "--cluster", "-"], &[], node);
    assert_eq!(validated.code, Some(0), "{}{}", validated.stdout, validated.stderr);
    assert_eq!(validated, plain(&["validate", template, "--cluster", file.to_str().unwrap()]));
    let unknown = egret(&["plan", "--repo", template, "--cluster", "-", "--node", "b"], &[], node);
    assert_eq!(unknown.stderr, "error: b is not among the nodes of standard input\nhint: they have a\n");
    let followed = egret(&["run", "--cluster", "-", "--node", "a", "--repo", template], &[], node);
    let expected = "error: --cluster - is standard input, which cannot be followed\nhint: name a file or folder: this command follows its \
                    changes and writes labels into it\n";
    assert_eq!((followed.code, followed.stderr.as_str()), (Some(1), expected));
}

#[test]
fn a_file_that_a_snapshot_is_written_to_is_named_by_out_and_by_its_former_letter() {
    let node = "kind: Node\napiVersion: v1\nmetadata: {name: a}\n";
    let folder = tempfile::tempdir().unwrap();
    let printed = egret(&["snapshot", "--cluster", "-"], &[], node).stdout;
    for option in ["--out", "-o"] {
        let file = folder.path().join(option);
        let said = egret(&["snapshot", "--cluster", "-", option, file.to_str().unwrap()], &[], node);
        assert_eq!((said.code, std::fs::read_to_string(file).unwrap()), (Some(0), printed.clone()), "{option}");
    }
}

#[test]
fn every_shell_gets_a_completion_with_every_command() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let said = plain(&["completion", shell]);
        assert_eq!((said.code, said.stderr.as_str()), (Some(0), ""), "{shell}");
        assert!(!said.stdout.contains("git-worker"), "{shell} offers a command that is hidden");
        let missing = COMMANDS.iter().filter(|command| !said.stdout.contains(**command));
        assert_eq!(missing.collect::<Vec<_>>(), Vec::<&&str>::new(), "{shell}");
        assert!(
            said.stdout.contains("git-ssh-key") && !said.stdout.contains("\"--ssh-key"),
            "{shell} offers a former name"
        );
    }
}

#[test]
fn every_command_has_a_manual_page_and_the_hidden_one_has_none() {
    let folder = tempfile::tempdir().unwrap();
    let pages = folder.path().join("man1");
    assert_eq!(
        plain(&["man", "--dir", pages.to_str().unwrap()]),
        Said { code: Some(0), stdout: String::new(), stderr: String::new() }
    );
    let written: BTreeSet<String> =
        std::fs::read_dir(&pages).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    let expected = COMMANDS.iter().map(|command| format!("egret-{command}.1")).chain(["egret.1".to_owned()]).collect();
    let own: BTreeSet<String> = written.into_iter().filter(|page| !page.starts_with("egret-help")).collect();
    assert_eq!(own, expected);
    assert_eq!(plain(&["man"]).stdout, std::fs::read_to_string(pages.join("egret.1")).unwrap());
}

#[test]
fn the_version_is_printed_for_people_and_programs() {
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(plain(&["--version"]).stdout, format!("egret {version}\n"));
    assert!(plain(&["version"]).stdout.starts_with(&format!("egret {version}")));
    let json: serde_json::Value = serde_json::from_str(&plain(&["version", "-o", "json"]).stdout).unwrap();
    assert_eq!((&json["formatVersion"], &json["version"]), (&1.into(), &version.into()));
}

#[test]
fn a_plan_is_logged_in_one_line_and_its_steps_only_if_more_is_asked_for() {
    let lab = Lab::up(Options::default()).unwrap();
    lab.repository().write("nodes/gateways.yaml", LABELS).unwrap();
    lab.repository().write("policies/outpost.yaml", POLICY).unwrap();
    lab.repository().push("let the empire through").unwrap();
    let run = |node: &str, more: &[&str], variables: &[(&str, &str)]| {
        let arguments = lab.egret_arguments(node).unwrap().into_iter().map(|word| word.into_string().unwrap());
        let words: Vec<String> = ["run".to_owned()].into_iter().chain(arguments).collect();
        let words: Vec<&str> = words.iter().map(String::as_str).chain(more.iter().copied()).collect();
        let said = lab.node(node).unwrap().enter(|| egret(&words, variables, "")).unwrap();
        assert_eq!(said.code, Some(0), "{}", said.stderr);
        said.stderr
    };
    // The gateway first: it gives itself the label that makes it one.
    run("kind-worker2", &["--once"], &[]);
    let log = |more: &[&str], variables: &[(&str, &str)]| {
        let log = run("kind-worker", &[&["--once"], more].concat(), variables);
        // The next one has the same to do.
        run("kind-worker", &["--remove"], &[]);
        log
    };
    let usual = log(&[], &[]);
    let lines: Vec<&str> = usual.lines().filter(|line| line.contains(" applied commit=")).collect();
    assert_eq!(lines.len(), 1, "{usual}");
    for word in ["changes=\"add 1 link, ", "policies=\"outpost\"", "steps="] {
        assert!(lines[0].contains(word), "{word}: {}", lines[0]);
    }
    let step = "default dev egret0 table 9000";
    assert!(usual.contains("INFO") && !usual.contains("DEBUG") && !usual.contains(step), "{usual}");
    let verbose = log(&["-v"], &[]);
    assert!(verbose.contains("DEBUG") && verbose.contains(step), "{verbose}");
    let quiet = log(&["-q"], &[]);
    assert!(!quiet.contains("INFO"), "{quiet}");
    // The environment is first, and of it Egret's own variable.
    assert!(log(&["-q"], &[("EGRET_LOG", "info")]).contains("INFO"));
    assert!(!log(&["-v"], &[("EGRET_LOG", "warn"), ("RUST_LOG", "info")]).contains("INFO"));
}

#[test]
fn migrate_prints_translations_or_writes_them_and_fails_where_something_is_left() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("old.yaml");
    let nat = "apiVersion: cilium.io/v2alpha1\nkind: CiliumEgressNATPolicy\nmetadata: {name: old}\nspec:\n  egress: [{podSelector: {}}]\n  \
               destinationCIDRs: [192.0.2.0/24]\n  egressSourceIP: 198.51.100.7\n";
    let other = "# ours\nkind: ConfigMap\n";
    std::fs::write(&file, format!("{other}---\n{nat}")).unwrap();
    let path = file.to_str().unwrap();
    let printed = plain(&["migrate", path]);
    assert_eq!((printed.code, printed.stderr.as_str()), (Some(0), ""));
    assert!(
        printed.stdout.contains("kind: EgressPolicy\n") && !printed.stdout.contains("ConfigMap"),
        "{}",
        printed.stdout
    );
    let written = plain(&["migrate", "--write", path]);
    assert_eq!((written.code, written.stdout), (Some(0), format!("{path}: 1 document translated\n")));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), format!("{other}---\n{}", printed.stdout));
    assert_eq!(plain(&["validate", folder.path().to_str().unwrap()]).code, Some(0));
    let again = plain(&["migrate", path]);
    assert_eq!((again.code, again.stdout.as_str()), (Some(0), ""));
    std::fs::write(&file, format!("apiVersion: v1\nkind: List\nitems:\n- {}", nat.replace('\n', "\n  ").trim_end()))
        .unwrap();
    let left = plain(&["migrate", path]);
    assert_eq!((left.code, left.stdout.as_str()), (Some(1), ""));
    assert!(left.stderr.contains("old.yaml:1: it stands in a list"), "{}", left.stderr);
    assert_eq!(plain(&["migrate"]).code, Some(64));
}
