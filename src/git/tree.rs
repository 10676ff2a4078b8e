//! Writes files into a repository's object database as one tree, without an index and a work tree. Executable files and links are not
//! supported; reports are plain text.

use std::collections::BTreeMap;

use git2::{ErrorCode, ObjectType, Oid, Repository, Tree};

use super::error::{Error, Result};

/// A written tree: its id, and every object in it.
pub(super) struct Written {
    pub(super) tree: Oid,
    pub(super) objects: Vec<Oid>,
}

/// Checks that a path can be a file's in a repository: relative, without `..` and `.git`.
pub(super) fn check_path(path: &str) -> Result<()> {
    let bad = |why| Err(Error::BadReportFile { path: path.escape_debug().to_string(), why });
    if path.chars().any(char::is_control) {
        return bad("its name has a control character");
    }
    if path.split('/').any(|part| matches!(part, "" | "." | "..") || part.eq_ignore_ascii_case(".git")) {
        return bad("a part of its name is empty, `.`, `..` or `.git`");
    }
    Ok(())
}

/// Writes files, path to content, as a tree. An existing blob is not written again. The caller checks the paths.
pub(super) fn write(
    repository: &Repository,
    files: &BTreeMap<&str, &str>,
) -> std::result::Result<Written, git2::Error> {
    let mut objects = Vec::new();
    let tree = write_folder(repository, files, &mut objects)?;
    Ok(Written { tree, objects })
}

fn write_folder(
    repository: &Repository,
    files: &BTreeMap<&str, &str>,
    objects: &mut Vec<Oid>,
) -> std::result::Result<Oid, git2::Error> {
    const FILE: i32 = 0o100_644;
    const FOLDER: i32 = 0o040_000;
    let mut builder = repository.treebuilder(None)?;
    let mut folders: BTreeMap<&str, BTreeMap<&str, &str>> = BTreeMap::new();
    for (path, content) in files {
        if let Some((folder, rest)) = path.split_once('/') {
            folders.entry(folder).or_default().insert(rest, content);
        } else {
            let blob = write_blob(repository, content)?;
            objects.push(blob);
            builder.insert(*path, blob, FILE)?;
        }
    }
    for (folder, files) in &folders {
        builder.insert(*folder, write_folder(repository, files, objects)?, FOLDER)?;
    }
    let tree = builder.write()?;
    objects.push(tree);
    Ok(tree)
}

fn write_blob(repository: &Repository, content: &str) -> std::result::Result<Oid, git2::Error> {
    let objects = repository.odb()?;
    let id = Oid::hash_object(ObjectType::Blob, content.as_bytes())?;
    if objects.exists(id) { Ok(id) } else { objects.write(ObjectType::Blob, content.as_bytes()) }
}

/// The text files of a tree, path to content. Files that are not UTF-8 are skipped, because Egret writes none.
pub(super) fn read(
    repository: &Repository,
    tree: &Tree<'_>,
) -> std::result::Result<BTreeMap<String, String>, git2::Error> {
    let mut files = BTreeMap::new();
    let mut fault = None;
    let walked = tree.walk(git2::TreeWalkMode::PreOrder, |folder, entry| {
        let Ok(name) = entry.name() else { return git2::TreeWalkResult::Skip };
        if entry.kind() == Some(ObjectType::Blob) {
            match repository.find_blob(entry.id()) {
                Ok(blob) => {
                    if let Ok(text) = std::str::from_utf8(blob.content()) {
                        files.insert(format!("{folder}{name}"), text.to_owned());
                    }
                }
                Err(error) => {
                    fault = Some(error);
                    return git2::TreeWalkResult::Abort;
                }
            }
        }
        git2::TreeWalkResult::Ok
    });
    match (fault, walked) {
        (Some(fault), _) => Err(fault),
        (None, Err(error)) if error.code() != ErrorCode::User => Err(error),
        _ => Ok(files),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_stays_in_the_repository() {
        for good in ["README.md", "nodes/kind-worker.yaml", ".egret-reports", "a b/ü"] {
            check_path(good).unwrap_or_else(|error| panic!("{error}"));
        }
        for bad in ["", "/etc/passwd", "a//b", "a/", "../x", "a/./b", ".git/config", "x/.GIT/y", "a\nb"] {
            assert!(check_path(bad).is_err(), "{bad:?}");
        }
    }
}
