//! `egret init DIR`: a policy repository to start from, ready to be committed and pushed.
//!
//! What is written is the folder `repo-template`, as it was when the program was built. Deliberately absent: Git: whose repository it becomes,
//! and with which history, is not ours to say.

use std::fs::{self, File};
use std::io::Write;
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
    ("nodes/gateways.yaml", include_str!("../../repo-template/nodes/gateways.yaml")),
    ("policies/outpost.yaml", include_str!("../../repo-template/policies/outpost.yaml")),
    ("schemas/config.json", include_str!("../../repo-template/schemas/config.json")),
    ("schemas/document.json", include_str!("../../repo-template/schemas/document.json")),
];

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The folder; it is made if it is not there. Nothing that is there is overwritten.
    #[arg(value_name = "DIR")]
    folder: PathBuf,
}

pub(super) fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let folder = &arguments.folder;
    // All or nothing, as far as can be seen beforehand.
    let there: Vec<&str> =
        TEMPLATE.iter().map(|(path, _)| *path).filter(|path| folder.join(path).symlink_metadata().is_ok()).collect();
    if let Some(first) = there.first() {
        let hint = "give a folder that is empty or not there; what is missing can be copied from there";
        let error = format!("{} is there already; nothing was written", folder.join(first).display());
        return Err(Failure::new(error, Some(hint.to_owned())));
    }
    for (path, text) in TEMPLATE {
        write(&folder.join(path), text)?;
    }
    let shown = folder.display();
    output::print(&format!(
        "{} files in {shown}. Next:\n\n    cd {shown} && git init -b main && git add -A && git commit -m 'egress'\n    \
         egret validate\n",
        TEMPLATE.len()
    ))?;
    Ok(ExitCode::SUCCESS)
}

/// Only where nothing is: somebody may have been faster.
fn write(path: &Path, text: &str) -> Result<(), Failure> {
    let failed = |error: std::io::Error| Failure::new(format!("write {}: {error}", path.display()), None);
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(failed)?;
    }
    File::create_new(path).and_then(|mut file| file.write_all(text.as_bytes())).map_err(failed)
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
    fn what_is_there_is_not_overwritten_and_nothing_else_is_written_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("README.md"), "mine").unwrap();
        let failure = run(&Arguments { folder: folder.path().to_owned() }).unwrap_err();
        assert!(failure.parts().0.ends_with("README.md is there already; nothing was written"), "{failure:?}");
        assert_eq!(fs::read_to_string(folder.path().join("README.md")).unwrap(), "mine");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
