//! The policy repository: a bare one, as a Git host keeps it, and the clone of somebody who pushes to it.
//!
//! Deliberately absent: any library. It is the `git` program that users push with, without the configuration of whoever runs the test.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::error::{LabError, run};

/// A bare repository and a work clone.
pub(crate) struct Repository {
    bare: PathBuf,
    clone: PathBuf,
    home: PathBuf,
}

/// The trailer of a commit that may remove any number of policies.
const CONFIRMED: &str = "Egret-Confirm-Removals: the test wants it";

impl Repository {
    /// Makes both in a folder, with an empty branch `main`.
    pub(crate) fn create(folder: &Path) -> Result<Self, LabError> {
        let repository =
            Self { bare: folder.join("policies.git"), clone: folder.join("clone"), home: folder.join("home") };
        fs::create_dir_all(&repository.home)
            .map_err(LabError::doing(format!("make the folder {}", repository.home.display())))?;
        let (bare, clone) = (repository.bare.as_os_str(), repository.clone.as_os_str());
        repository.git(
            folder,
            [OsStr::new("init"), "--quiet".as_ref(), "--bare".as_ref(), "--initial-branch=main".as_ref(), bare],
        )?;
        repository.git(folder, [OsStr::new("clone"), "--quiet".as_ref(), bare, clone])?;
        Ok(repository)
    }

    /// The bare repository, as `--repo` takes it.
    pub(crate) fn path(&self) -> &Path {
        &self.bare
    }

    /// Writes a file of the clone, with the folders it needs.
    pub(crate) fn write(&self, path: &str, text: &str) -> Result<(), LabError> {
        let path = self.clone.join(path);
        let folder = path.parent().unwrap_or(&self.clone);
        fs::create_dir_all(folder).map_err(LabError::doing(format!("make the folder {}", folder.display())))?;
        fs::write(&path, text).map_err(LabError::doing(format!("write {}", path.display())))
    }

    /// Removes a file of the clone.
    pub(crate) fn remove(&self, path: &str) -> Result<(), LabError> {
        let path = self.clone.join(path);
        fs::remove_file(&path).map_err(LabError::doing(format!("remove {}", path.display())))
    }

    /// Commits everything in the clone and pushes it to `main`. The commit confirms what it removes: `git::admission` has
    /// those that do not. Gives the commit's id.
    pub(crate) fn push(&self, message: &str) -> Result<String, LabError> {
        self.in_clone(["add", "--all"])?;
        self.in_clone(["commit", "--quiet", "--message", message, "--trailer", CONFIRMED])?;
        self.in_clone(["push", "--quiet", "origin", "HEAD:main"])?;
        self.in_clone(["rev-parse", "HEAD"]).map(|id| id.trim_end().to_owned())
    }

    /// Pushes a commit without a change to `main` that confirms what those before it removed. Gives the commit's id.
    pub(crate) fn push_empty(&self, message: &str) -> Result<String, LabError> {
        self.in_clone(["commit", "--quiet", "--allow-empty", "--message", message, "--trailer", CONFIRMED])?;
        self.in_clone(["push", "--quiet", "origin", "HEAD:main"])?;
        self.in_clone(["rev-parse", "HEAD"]).map(|id| id.trim_end().to_owned())
    }

    /// Pushes everything in the clone to `main`, without any trailer. Gives the commit's id.
    pub(crate) fn push_unconfirmed(&self, message: &str) -> Result<String, LabError> {
        self.in_clone(["add", "--all"])?;
        self.in_clone(["commit", "--quiet", "--message", message])?;
        self.in_clone(["push", "--quiet", "origin", "HEAD:main"])?;
        self.in_clone(["rev-parse", "HEAD"]).map(|id| id.trim_end().to_owned())
    }

    /// What `git show` prints of a revision of the bare repository.
    pub(crate) fn show(&self, revision: &str) -> Result<String, LabError> {
        self.in_bare(["show", revision])
    }

    /// The commits of a branch of the bare repository, newest first, as `ID subject`.
    pub(crate) fn log(&self, branch: &str) -> Result<Vec<String>, LabError> {
        self.in_bare(["log", "--format=%H %s", branch]).map(|log| log.lines().map(str::to_owned).collect())
    }

    /// Runs `git` in the work clone.
    pub(crate) fn in_clone<'a>(&self, words: impl IntoIterator<Item = &'a str>) -> Result<String, LabError> {
        self.git(&self.clone, words.into_iter().map(OsStr::new))
    }

    /// Runs `git` in the bare repository.
    pub(crate) fn in_bare<'a>(&self, words: impl IntoIterator<Item = &'a str>) -> Result<String, LabError> {
        self.git(&self.bare, words.into_iter().map(OsStr::new))
    }

    fn git<'a>(&self, folder: &Path, words: impl IntoIterator<Item = &'a OsStr>) -> Result<String, LabError> {
        run(with_own_home(Command::new("git").arg("-C").arg(folder), &self.home).args(words), "")
    }
}

/// Keeps a command away from the configuration of whoever runs it: neither their name nor their hooks nor their signing key.
pub(crate) fn with_own_home<'a>(command: &'a mut Command, home: &Path) -> &'a mut Command {
    // A test may itself be started by a Git hook, which leaves these behind.
    for inherited in ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "XDG_CONFIG_HOME"] {
        command.env_remove(inherited);
    }
    command.env("HOME", home).env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_CONFIG_GLOBAL", "/dev/null");
    for role in ["AUTHOR", "COMMITTER"] {
        command
            .env(format!("GIT_{role}_NAME"), "Firmus Piett")
            .env(format!("GIT_{role}_EMAIL"), "piett@empire.example");
    }
    command
}
