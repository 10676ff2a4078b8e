//! A bare repository, a work tree that pushes to it, and a state folder; all in one temporary folder.
//!
//! Deliberately absent: the user's own Git configuration, which no test may depend on.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use egret::git::access::Access;
use egret::git::credentials::Credentials;
use egret::git::mirror::Mirror;
use egret::git::source::{Insecure, Source};
use egret::git::{CommitId, Error};
use tempfile::TempDir;

/// The program whose worker talks to servers: this binary has none.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_egret");

/// The whole repository.
pub(crate) fn all() -> Vec<String> {
    vec![String::new()]
}

/// A command without the user's and the system's Git configuration, with a fixed author and time.
pub(crate) fn git_command(folder: &Path) -> Command {
    let mut command = Command::new("git");
    command.current_dir(folder).env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_CONFIG_GLOBAL", "/dev/null");
    for role in ["AUTHOR", "COMMITTER"] {
        command
            .env(format!("GIT_{role}_NAME"), "Ada")
            .env(format!("GIT_{role}_EMAIL"), "ada@example.org")
            .env(format!("GIT_{role}_DATE"), "2025-01-02T03:04:05Z");
    }
    command
}

fn output(command: &mut Command, input: &[u8]) -> String {
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("git is installed");
    child.stdin.take().expect("a pipe").write_all(input).expect("git reads");
    let output = child.wait_with_output().expect("git ends");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8").trim_end().to_owned()
}

pub(crate) struct Origin {
    folder: TempDir,
    pub(crate) bare: PathBuf,
    pub(crate) work: PathBuf,
}

impl Origin {
    pub(crate) fn new() -> Self {
        let folder = TempDir::new().expect("a temporary folder");
        let (bare, work) = (folder.path().join("policies.git"), folder.path().join("work"));
        let origin = Self { folder, bare, work };
        let bare = origin.bare.to_str().expect("UTF-8");
        output(git_command(origin.path()).args(["init", "--quiet", "--bare", "--initial-branch=main", bare]), b"");
        output(git_command(origin.path()).args(["init", "--quiet", "--initial-branch=main", "work"]), b"");
        origin.git(&["remote", "add", "origin", bare]);
        origin
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.path().join("state")
    }

    /// Runs git in the work tree.
    pub(crate) fn git(&self, arguments: &[&str]) -> String {
        output(git_command(&self.work).args(arguments), b"")
    }

    /// Runs git in the work tree, by another clock.
    pub(crate) fn git_at(&self, date: &str, arguments: &[&str]) -> String {
        let mut command = git_command(&self.work);
        output(command.env("GIT_AUTHOR_DATE", date).env("GIT_COMMITTER_DATE", date).args(arguments), b"")
    }

    /// Runs git in the bare repository.
    pub(crate) fn in_bare(&self, arguments: &[&str]) -> String {
        output(git_command(&self.bare).args(arguments), b"")
    }

    pub(crate) fn commit(&self, files: &[(&str, &str)], message: &str) -> CommitId {
        for (path, content) in files {
            let path = self.work.join(path);
            fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
            fs::write(path, content).expect("a file");
        }
        self.git(&["add", "--all", "--ignore-removal", "."]);
        self.git(&["commit", "--quiet", "--allow-empty", "-m", message]);
        CommitId::parse(&self.git(&["rev-parse", "HEAD"])).expect("a commit")
    }

    pub(crate) fn push(&self, files: &[(&str, &str)], message: &str) -> CommitId {
        let commit = self.commit(files, message);
        self.git(&["push", "--quiet", "origin", "main"]);
        commit
    }

    pub(crate) fn remove(&self, path: &str) {
        self.git(&["rm", "--quiet", path]);
    }

    pub(crate) fn mirror(&self) -> Mirror {
        self.try_mirror().expect("a mirror")
    }

    pub(crate) fn try_mirror(&self) -> Result<Mirror, Error> {
        let source = Source::parse(self.bare.to_str().expect("UTF-8"), Insecure::Refuse)?;
        Mirror::open(&self.state(), source, Credentials::default())
    }

    pub(crate) fn mirror_of(&self, source: &str) -> Mirror {
        self.mirror_at("state", source, Credentials::default())
    }

    pub(crate) fn mirror_at(&self, name: &str, source: &str, credentials: Credentials) -> Mirror {
        self.mirror_by(name, source, Access { program: PROGRAM.into(), ..credentials.into() })
    }

    pub(crate) fn mirror_by(&self, name: &str, source: &str, access: Access) -> Mirror {
        let source = Source::parse(source, Insecure::Allow).expect("a source");
        Mirror::open(&self.path().join(name), source, access).expect("a mirror")
    }

    /// Cuts every pack of the mirror in half, as a full disk would.
    pub(crate) fn break_mirror(&self) {
        let packs: Vec<PathBuf> = fs::read_dir(self.state().join("objects/pack"))
            .expect("packs")
            .map(|entry| entry.expect("an entry").path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "pack"))
            .collect();
        assert!(!packs.is_empty());
        for pack in packs {
            let half = fs::read(&pack).expect("a pack");
            fs::remove_file(&pack).expect("it goes");
            fs::write(&pack, &half[..half.len() / 2]).expect("half of it comes back");
        }
    }

    /// Nothing is missing from the mirror, and nobody left anything in it.
    pub(crate) fn assert_mirror_is_sound(&self) {
        output(git_command(&self.state()).args(["fsck", "--strict"]), b"");
        let packs = fs::read_dir(self.state().join("objects/pack")).expect("packs");
        let left: Vec<_> = packs
            .map(|entry| entry.expect("an entry").path())
            .filter(|path| path.extension().is_none_or(|kind| kind != "pack" && kind != "idx"))
            .collect();
        assert_eq!(left, Vec::<PathBuf>::new());
    }

    /// Takes one object away from the mirror, named as the bare repository knows it.
    pub(crate) fn forget_in_mirror(&self, revision: &str) {
        let packs = self.state().join("objects/pack");
        for entry in fs::read_dir(&packs).expect("packs") {
            let pack = entry.expect("an entry").path();
            // Git does not unpack what it has: the pack has to go first.
            let bytes = fs::read(&pack).expect("a pack");
            fs::remove_file(&pack).expect("it goes");
            if pack.extension().is_some_and(|extension| extension == "pack") {
                output(git_command(&self.state()).args(["unpack-objects", "-q"]), &bytes);
            }
        }
        let id = self.in_bare(&["rev-parse", revision]);
        fs::remove_file(self.state().join("objects").join(&id[..2]).join(&id[2..])).expect("the object was there");
    }

    /// Makes what a stream has (git-fast-import(1)), wherever it says.
    pub(crate) fn import(&self, stream: &str) {
        output(git_command(&self.bare).args(["fast-import", "--quiet"]), stream.as_bytes());
    }

    /// Makes a folder of these lines (git-mktree(1)) in the repository. Returns its id.
    pub(crate) fn tree_of(&self, lines: &str) -> String {
        output(git_command(&self.bare).args(["mktree", "--missing"]), lines.as_bytes())
    }

    /// Makes a branch whose name is not UTF-8.
    pub(crate) fn push_latin1_branch(&self) {
        use std::os::unix::ffi::OsStrExt as _;
        let name = std::ffi::OsStr::from_bytes(b"refs/heads/f\xfcnf");
        output(git_command(&self.bare).arg("update-ref").arg(name).arg("main"), b"");
    }

    /// Writes a tree with names that no honest Git would write. `(mode, name, id)`, in Git's order.
    pub(crate) fn tree_by_hand(&self, entries: &[(&str, &str, &str)]) -> String {
        let mut bytes = Vec::new();
        for (mode, name, id) in entries {
            bytes.extend_from_slice(format!("{mode} {name}\0").as_bytes());
            let digits: Vec<u8> = (0..20).map(|at| u8::from_str_radix(&id[2 * at..][..2], 16).expect("hex")).collect();
            bytes.extend_from_slice(&digits);
        }
        output(git_command(&self.bare).args(["hash-object", "-t", "tree", "--literally", "-w", "--stdin"]), &bytes)
    }

    /// Puts a hook into the bare repository.
    pub(crate) fn hook(&self, name: &str, script: &str) {
        use std::os::unix::fs::PermissionsExt as _;
        let path = self.bare.join("hooks").join(name);
        fs::create_dir_all(self.bare.join("hooks")).expect("a folder");
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("a hook");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("an executable hook");
    }
}
