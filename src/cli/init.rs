//! `egret init DIR`: a policy repository to start from, ready to be committed and pushed.
//!
//! What is written is the folder `repo-template`, as it was when the program was built. No Git repository is made: with which history one
//! begins is for its owner to choose.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::output::{self, Failure};

/// Every file of the template.
const TEMPLATE: &[(&str, &str)] = &[
    (".forgejo/workflows/egret.yaml", include_str!("../../repo-template/.forgejo/workflows/egret.yaml")),
    (".github/workflows/egret.yaml", include_str!("../../repo-template/.github/workflows/egret.yaml")),
    (".gitlab-ci.yml", include_str!("../../repo-template/.gitlab-ci.yml")),
    (".pre-commit-config.yaml", include_str!("../../repo-template/.pre-commit-config.yaml")),
    (".vscode/settings.json", include_str!("../../repo-template/.vscode/settings.json")),
    ("README.md", include_str!("../../repo-template/README.md")),
    ("egret.yaml", include_str!("../../repo-template/egret.yaml")),
    ("hooks/pre-receive", include_str!("../../repo-template/hooks/pre-receive")),
    ("nodes/gateways.yaml", include_str!("../../repo-template/nodes/gateways.yaml")),
    ("policies/assertions.yaml", include_str!("../../repo-template/policies/assertions.yaml")),
    ("policies/outpost.yaml", include_str!("../../repo-template/policies/outpost.yaml")),
    ("schemas/config.json", include_str!("../../repo-template/schemas/config.json")),
    ("schemas/document.json", include_str!("../../repo-template/schemas/document.json")),
];

#[derive(Debug, clap::Args)]
pub(super) struct InitArgs {
    /// The folder; it is made if it does not exist. Files that exist are left as they are.
    #[arg(value_name = "DIR")]
    folder: PathBuf,
}

pub(super) fn run(args: &InitArgs) -> Result<ExitCode, Failure> {
    output::print(&write_missing(&args.folder)?)?;
    Ok(ExitCode::SUCCESS)
}

/// Writes what is missing, and returns what was done.
fn write_missing(folder: &Path) -> Result<String, Failure> {
    let mut left: Vec<&str> = Vec::new();
    for (path, text) in TEMPLATE {
        if !write(&folder.join(path), text)? {
            left.push(path);
        }
    }
    let (shown, written) = (folder.display(), TEMPLATE.len() - left.len());
    let mut text = match written {
        0 => format!("{shown} has all files; nothing was written."),
        1 => format!("1 file written to {shown}."),
        many => format!("{many} files written to {shown}."),
    };
    if written > 0 && !left.is_empty() {
        let _ = write!(text, " Left as they were: {}.", left.join(", "));
    }
    if written > 0 {
        let start = if folder.join(".git").exists() { "" } else { "git init -b main && " };
        let _ =
            write!(text, " Next:\n\n    cd {shown} && {start}git add -A && git commit -m 'egress'\n    egret validate");
    }
    Ok(text + "\n")
}

/// Whether the file was written: one that exists stays as it is, also if another process was faster.
fn write(path: &Path, text: &str) -> Result<bool, Failure> {
    let failed = |error: std::io::Error| Failure::new(format!("write {}: {error}", path.display()), None);
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(failed)?;
    }
    match File::create_new(path) {
        Ok(mut file) => file.write_all(text.as_bytes()).map(|()| true).map_err(failed),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(failed(error)),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_file_of_the_template_is_written_and_none_else() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("repo-template");
        let (mut found, mut folders) = (BTreeSet::new(), vec![root.clone()]);
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    found.insert(path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned());
                }
            }
        }
        let written: BTreeSet<String> = TEMPLATE.iter().map(|(path, _)| (*path).to_owned()).collect();
        assert_eq!(written, found);
    }

    #[test]
    fn what_is_missing_is_written_and_what_is_there_is_left_and_named() {
        let folder = tempfile::tempdir().unwrap();
        let shown = folder.path().display();
        fs::write(folder.path().join("README.md"), "mine").unwrap();
        fs::create_dir(folder.path().join("nodes")).unwrap();
        fs::write(folder.path().join("nodes/gateways.yaml"), "").unwrap();
        let output = write_missing(folder.path()).unwrap();
        let expected = format!(
            "11 files written to {shown}. Left as they were: README.md, nodes/gateways.yaml. Next:\n\n    cd {shown} && git init -b main \
             && git add -A && git commit -m 'egress'\n    egret validate\n"
        );
        assert_eq!(output, expected);
        for (path, text) in TEMPLATE {
            let expected = match *path {
                "README.md" => "mine",
                "nodes/gateways.yaml" => "",
                _ => text,
            };
            assert_eq!(fs::read_to_string(folder.path().join(path)).unwrap(), expected, "{path}");
        }
        let again = write_missing(folder.path()).unwrap();
        assert_eq!(again, format!("{shown} has all files; nothing was written.\n"));
    }

    #[test]
    fn a_link_that_leads_nowhere_is_left_too() {
        let folder = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/nonexistent/file", folder.path().join("README.md")).unwrap();
        assert!(write_missing(folder.path()).unwrap().contains("Left as they were: README.md."));
    }
}
