//! A node's labels written into its manifest, by one process per node and all of them into the same file at once.
//!
//! Each takes the lock `.egret.lock` beside the manifests, reads, edits, and replaces the file as a whole. Owner and mode stay; a hard
//! link does not.
//!
//! Deliberately absent: what the edit is (`edit`). A lock file of another program is not known here: if somebody else writes the
//! manifest just then, the edit is done again on what they wrote.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};

use super::Stamp;
use crate::atomic_file::{folder, replace_if};
use crate::cluster::{ClusterError, LabelChanges, edit_labels};
use crate::core::name::NodeName;

/// How often an edit is done again because somebody without the lock wrote the file.
const ATTEMPTS: usize = 5;

/// The lock's name, beside the manifest whichever way it was found. Hidden: it is no manifest. It stays there.
const LOCK: &str = ".egret.lock";

/// Changes the labels of a node in one file under `root`, and tells whether anything had to be written.
///
/// Waits for other processes that are writing; they take milliseconds, and the kernel takes the lock from one that died.
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

/// Says in every error for whom it was, and what was being done.
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

    /// Where the file really is: a rename over a link would put a file in its place. A link may lead about within the folder, as
    /// in a mounted ConfigMap, but not out of it. The one file that `--cluster` names may be anywhere: somebody chose it.
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

/// Puts the text in the file's place, unless the file is no longer the one with this stamp.
fn replace(target: &Path, text: &str, stamp: Stamp) -> io::Result<bool> {
    let old = std::fs::metadata(target)?;
    let own = |new: &File| {
        let created = new.metadata()?;
        if (created.uid(), created.gid()) != (old.uid(), old.gid()) {
            fchown(new, Some(old.uid()), Some(old.gid()))?;
        }
        // After the owner: a change of owner clears bits of the mode.
        new.set_permissions(old.permissions())
    };
    replace_if(target, text.as_bytes(), own, || Ok(Stamp::of(&std::fs::metadata(target)?) == stamp))
}
