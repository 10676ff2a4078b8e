//! Which files of a folder are manifests, and whether one of them changed.
//!
//! Deliberately absent: what is in them.

use std::collections::BTreeSet;
use std::fs::Metadata;
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// How long a file's times are no proof that it is the same: file systems round them, some to 2 s.
const RACY: Duration = Duration::from_secs(2);

/// All manifests under a path, sorted: the path itself if it is a file, else what a folder and its folders have of
/// `*.yaml`, `*.yml` and `*.json`. Hidden files and folders are skipped: editors, Git and ConfigMap mounts keep their own there.
pub(super) fn list(path: &Path) -> io::Result<BTreeSet<PathBuf>> {
    let mut files = BTreeSet::new();
    if std::fs::metadata(path)?.is_dir() {
        walk(path, &mut BTreeSet::new(), &mut files)?;
    } else {
        files.insert(path.to_owned());
    }
    Ok(files)
}

/// `seen` holds the real places of the folders walked so far: a link to a folder above would have no end.
fn walk(folder: &Path, seen: &mut BTreeSet<PathBuf>, files: &mut BTreeSet<PathBuf>) -> io::Result<()> {
    if !seen.insert(folder.canonicalize()?) {
        return Ok(());
    }
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        if name.as_encoded_bytes().starts_with(b".") {
            continue;
        }
        let path = entry.path();
        match std::fs::metadata(&path) {
            Ok(metadata) if metadata.is_dir() => match walk(&path, seen, files) {
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                result => result?,
            },
            // A link that leads nowhere is listed: it says that there should be a manifest. A file that just went is not.
            Err(error) if error.kind() == ErrorKind::NotFound && !path.is_symlink() => {}
            _ if is_manifest(&path) => {
                files.insert(path);
            }
            _ => {}
        }
    }
    Ok(())
}

fn is_manifest(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml" || extension == "json")
}

/// What tells a file's states apart without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cluster) struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: Option<SystemTime>,
    /// Cannot be set back by a program, as `modified` can. Seconds and nanoseconds.
    changed: (i64, i64),
}

impl Stamp {
    /// Of a file, or of what an open file is.
    pub(in crate::cluster) fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.len(),
            modified: metadata.modified().ok(),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// Whether the file was last written at least this long ago. Not, if the clock says it will be in the future.
    pub(super) fn is_older_than(&self, age: Duration) -> bool {
        self.modified.and_then(|modified| modified.elapsed().ok()).is_some_and(|elapsed| elapsed >= age)
    }

    /// Whether an equal stamp later will mean an equal file: it is not if the file is written again within the same tick.
    pub(super) fn is_proof(&self) -> bool {
        self.is_older_than(RACY)
    }
}
