//! The size limits of commits, tags and trees, checked once for each fetched pack, before any reference leads to it.
//!
//! libgit2 unpacks a commit or a tree whole when it walks past it, and a gigabyte of one repeated letter is a megabyte in a pack. A pack that
//! has such an object is removed from the mirror. Not here: blobs (`files` checks their size before it reads them).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use git2::{ObjectType, Oid, Repository};

use super::error::{Error, Result};

/// A larger commit or tag is refused. Its message is the only long part of one.
pub const LARGEST_COMMIT: usize = 1 << 20;
/// A larger tree is refused. That is some 150,000 names directly in it.
pub const LARGEST_FOLDER: usize = 8 << 20;

/// The folder that records which packs were checked. Not beside the packs: `supervisor::remove_leftovers` removes other files there.
const CHECKED: &str = "egret-packs";

/// Checks the packs that came since the last time; `heartbeat` is called at intervals.
///
/// Errors: [`Error::Oversized`], and then that pack is gone; [`Error::Mirror`], [`Error::State`].
pub(super) fn check(mirror: &Repository, repository: &str, heartbeat: &dyn Fn()) -> Result<()> {
    let state = |action, path: &Path| {
        let path = path.to_owned();
        move |source| Error::State { action, path, source }
    };
    let checked = mirror.path().join(CHECKED);
    for index in new_indexes(mirror.path(), &checked) {
        let bytes = fs::read(&index).map_err(state("read", &index))?;
        let fault =
            |source| Error::Mirror { action: "check what was fetched", repository: repository.to_owned(), source };
        // A handle of its own: one that has a pack open still sees the pack's objects after it was removed.
        let alone = Repository::open_bare(mirror.path()).map_err(fault)?;
        let objects = alone.odb().map_err(fault)?;
        for (number, id) in listed(&bytes).map_err(state("read", &index))?.enumerate() {
            if number % 1_000 == 0 {
                heartbeat();
            }
            let (size, kind) = objects.read_header(id).map_err(fault)?;
            let Some(what) = excess(kind, size) else { continue };
            // The pack first: an index alone is harmless.
            for path in [index.with_extension("pack"), index.clone()] {
                remove(&path).map_err(state("remove", &path))?;
            }
            let id = id.to_string();
            return Err(Error::Oversized { repository: repository.to_owned(), id, what: what.to_owned() });
        }
        if let Some(name) = index.file_stem() {
            let marker = checked.join(name);
            fs::create_dir_all(&checked).and_then(|()| fs::write(&marker, "")).map_err(state("write", &marker))?;
        }
    }
    Ok(())
}

fn excess(kind: ObjectType, size: usize) -> Option<&'static str> {
    match kind {
        ObjectType::Commit if size > LARGEST_COMMIT => Some("a commit of more than 1 MiB"),
        ObjectType::Tag if size > LARGEST_COMMIT => Some("a tag of more than 1 MiB"),
        ObjectType::Tree if size > LARGEST_FOLDER => Some("a folder with more than 8 MiB of names"),
        _ => None,
    }
}

fn new_indexes(mirror: &Path, checked: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(mirror.join("objects/pack")).into_iter().flatten().flatten();
    let indexes = entries.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|kind| kind == "idx"));
    let mut new: Vec<PathBuf> =
        indexes.filter(|path| path.file_stem().is_some_and(|name| !checked.join(name).exists())).collect();
    new.sort();
    new
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// The objects that an index of a pack lists, by gitformat-pack(5): version 2, which is what libgit2 writes.
fn listed(index: &[u8]) -> io::Result<impl Iterator<Item = Oid>> {
    const NAME: usize = 20;
    const NAMES_BEGIN: usize = 8 + 256 * 4;
    let broken = || io::Error::new(io::ErrorKind::InvalidData, "it is not the index of a pack");
    let count = index.get(NAMES_BEGIN - 4..NAMES_BEGIN).and_then(|count| count.try_into().ok()).map(u32::from_be_bytes);
    let length = count.and_then(|count| usize::try_from(count).ok()?.checked_mul(NAME)).ok_or_else(broken)?;
    let names = length.checked_add(NAMES_BEGIN).and_then(|end| index.get(NAMES_BEGIN..end));
    let names = names.filter(|_| index.starts_with(&[0xff, b't', b'O', b'c', 0, 0, 0, 2])).ok_or_else(broken)?;
    Ok(names.chunks_exact(NAME).filter_map(|name| Oid::from_bytes(name).ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_malformed_index_is_an_error_and_not_an_empty_one() {
        let mut index = vec![0xff, b't', b'O', b'c', 0, 0, 0, 2];
        index.resize(8 + 256 * 4, 0);
        assert_eq!(listed(&index).expect("an index").count(), 0);
        index.splice(8 + 255 * 4.., [0, 0, 0, 1]);
        assert!(listed(&index).is_err(), "it says that it has one");
        index.extend([7; 20]);
        assert_eq!(listed(&index).expect("an index").collect::<Vec<_>>(), [Oid::from_bytes(&[7; 20]).expect("an id")]);
        index[7] = 3;
        assert!(listed(&index).is_err(), "another version");
        assert!(listed(b"").is_err());
    }
}
