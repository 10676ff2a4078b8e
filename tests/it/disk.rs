//! A file system of its own for a state folder: it can fill up and become read-only, which root does not notice of a folder's mode.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A tmpfs; gone with the test.
pub(crate) struct Disk(PathBuf);

impl Disk {
    pub(crate) fn mount(place: &Path, options: &str) -> Self {
        fs::create_dir_all(place).expect("a folder");
        let disk = Self(place.to_owned());
        disk.run("mount", &["-t", "tmpfs", "-o", options, "egret-test"]);
        disk
    }

    pub(crate) fn again(&self, options: &str) {
        self.run("mount", &["-o", &format!("remount,{options}")]);
    }

    /// Leaves no room, until the returned file is deleted.
    pub(crate) fn fill(&self) -> PathBuf {
        let path = self.0.join("filler");
        let mut filler = fs::File::create(&path).expect("a file");
        while filler.write_all(&[b'x'; 1024]).is_ok() {}
        path
    }

    fn run(&self, program: &str, arguments: &[&str]) {
        let status = Command::new(program).args(arguments).arg(&self.0).status();
        assert!(status.expect("mount is installed").success(), "{program} {arguments:?}");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}
