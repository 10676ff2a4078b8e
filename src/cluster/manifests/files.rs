//! Lists the manifest files of a folder, and detects whether one of them changed.
//!
//! Not here: their content (see `parse`).

use std::collections::BTreeSet;
use std::fs::Metadata;
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// How long equal times of a file do not prove that it is unchanged: file systems round them, some to 2 s.
const RACY: Duration = Duration::from_secs(2);

/// All manifests under a path, sorted: the path itself if it is a file, otherwise all `*.yaml`, `*.yml` and `*.json`
/// below the folder. Hidden files and folders are skipped: editors, Git and ConfigMap mounts keep their own files
/// there.
pub(super) fn list(path: &Path) -> io::Result<BTreeSet<PathBuf>> {
    let mut files = BTreeSet::new();
    if std::fs::metadata(path)?.is_dir() {
        walk(path, &mut BTreeSet::new(), &mut files)?;
    } else {
        files.insert(path.to_owned());
    }
    Ok(files)
}

/// `seen` holds the resolved paths of the folders walked so far: a link to a parent folder would have no end.
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
            // A dangling link is listed, as it shows that there should be a manifest. A file that was just deleted is
            // not.
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

/// Distinguishes a file's states without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cluster) struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: Option<SystemTime>,
    /// The ctime, in seconds and nanoseconds. Unlike `modified`, a program cannot set it back.
    changed: (i64, i64),
}

impl Stamp {
    /// The stamp of a file or an open file.
    pub(in crate::cluster) fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.len(),
            modified: metadata.modified().ok(),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// Whether the file was last written at least this long ago. False if its time is in the future.
    pub(super) fn is_older_than(&self, age: Duration) -> bool {
        self.modified.and_then(|modified| modified.elapsed().ok()).is_some_and(|elapsed| elapsed >= age)
    }

    /// Whether an equal stamp later proves an equal file: not if the file can be written again within the same tick.
    pub(super) fn is_proof(&self) -> bool {
        self.is_older_than(RACY)
    }
}
