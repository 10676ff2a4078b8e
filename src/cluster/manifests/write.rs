//! Writes a node's labels into its manifest; one process per node may write to the same file at once.
//!
//! Each process takes the lock `.egret.lock` beside the manifests, reads, edits, and replaces the file as a whole.
//! Owner and mode stay; a hard link does not. A program that does not take this lock is detected: if it writes the
//! manifest meanwhile, the edit is repeated on the new content.
//!
//! Not here: the edit (see `edit`).

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};

use super::Stamp;
use crate::atomic_file::{folder, replace_if};
use crate::cluster::{ClusterError, LabelChanges, edit_labels};
use crate::core::name::NodeName;

/// How often an edit is repeated because a process without the lock wrote the file.
const ATTEMPTS: usize = 5;

/// The lock file, in the folder of the resolved manifest. It is hidden, so that it is no manifest, and never deleted.
const LOCK: &str = ".egret.lock";

/// Changes the labels of a node in one file under `root`, and returns whether a write was necessary.
///
/// Waits for other processes that are writing; they take milliseconds, and the kernel releases the lock of a dead
/// process.
pub(super) fn label(root: &Path, file: &Path, node: &NodeName, changes: &LabelChanges) -> Result<bool, ClusterError> {
    let writer = Writer { node };
    let target = writer.resolve(root, file)?;
    let _lock = writer.doing("locking", &folder(&target).join(LOCK), lock)?;
    for _ in 0..ATTEMPTS {
        let (stamp, text) = writer.doing("reading", &target, read)?;
        let edited = edit_labels(&text, node, &changes.set, &changes.remove).map_err(|source| ClusterError::Edit {
            node: node.clone(),
            file: file.to_owned(),
            source,
        })?;
        if edited == text {
            return Ok(false);
        }
        if writer.doing("writing", &target, |target| replace(target, &edited, stamp))? {
            return Ok(true);
        }
    }
    Err(ClusterError::Busy { node: node.clone(), file: file.to_owned() })
}

/// Adds the node and the operation to every error.
struct Writer<'a> {
    node: &'a NodeName,
}

impl Writer<'_> {
    fn doing<T>(
        &self,
        doing: &'static str,
        file: &Path,
        act: impl FnOnce(&Path) -> io::Result<T>,
    ) -> Result<T, ClusterError> {
        act(file).map_err(|source| ClusterError::File { node: self.node.clone(), doing, file: file.to_owned(), source })
    }

    /// The resolved path: a rename over a link would replace the link by a file. A link may lead to another place
    /// within the folder, as in a mounted ConfigMap, but not out of it. A single file that `--cluster` names may be
    /// anywhere: the user chose it.
    fn resolve(&self, root: &Path, file: &Path) -> Result<PathBuf, ClusterError> {
        let target = self.doing("resolving", file, Path::canonicalize)?;
        let home = self.doing("resolving", root, Path::canonicalize)?;
        if target.starts_with(&home) {
            Ok(target)
        } else {
            Err(ClusterError::Outside { node: self.node.clone(), file: file.to_owned(), target })
        }
    }
}

/// The lock is held until the file is dropped.
fn lock(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().create(true).append(true).mode(0o644).open(path)?;
    file.lock()?;
    Ok(file)
}

fn read(path: &Path) -> io::Result<(Stamp, String)> {
    let file = File::open(path)?;
    let stamp = Stamp::of(&file.metadata()?);
    Ok((stamp, io::read_to_string(file)?))
}

/// Replaces the file's content, unless the file no longer has this stamp.
fn replace(target: &Path, text: &str, stamp: Stamp) -> io::Result<bool> {
    let old = std::fs::metadata(target)?;
    let own = |new: &File| {
        let created = new.metadata()?;
        if (created.uid(), created.gid()) != (old.uid(), old.gid()) {
            fchown(new, Some(old.uid()), Some(old.gid()))?;
        }
        // After the owner: changing the owner clears bits of the mode.
        new.set_permissions(old.permissions())
    };
    replace_if(target, text.as_bytes(), own, || Ok(Stamp::of(&std::fs::metadata(target)?) == stamp))
}
