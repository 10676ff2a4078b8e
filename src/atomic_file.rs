//! Replaces files atomically: a reader sees the old content or the new one, also after a crash or a power cut.
//!
//! The new content is written to a file beside the old one, and reaches the disk before the rename; the folder's
//! entry follows it (fsync(2): a file's fsync does not write its folder). There is no lock: the writers of one file
//! must take turns.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

/// Replaces a file with these bytes. Every user may read it.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let readable = |file: &File| file.set_permissions(Permissions::from_mode(0o644));
    replace_if(path, bytes, readable, || Ok(true)).map(drop)
}

/// Replaces a file with these bytes. `own` sets owner and mode of the new file, which has mode 0600 until then. `may`
/// is called last, when all but the rename is done; if it returns false, the old file stays. Returns what `may`
/// returned.
pub fn replace_if(
    path: &Path,
    bytes: &[u8],
    own: impl FnOnce(&File) -> io::Result<()>,
    may: impl FnOnce() -> io::Result<bool>,
) -> io::Result<bool> {
    // One fixed name for each file, so that the next writer finds and removes what a killed process left.
    let name = path.file_name().ok_or(ErrorKind::IsADirectory)?;
    let beside = folder(path).join(format!(".egret-{}.tmp", name.to_string_lossy()));
    match std::fs::remove_file(&beside) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let done = write(&beside, bytes, own).and_then(|()| may()).and_then(|may| {
        if may {
            std::fs::rename(&beside, path)?;
            File::open(folder(path))?.sync_all()?;
        }
        Ok(may)
    });
    if !matches!(done, Ok(true)) {
        // The first error is the one to return. If this fails as well, the next writer removes the file.
        let _ = std::fs::remove_file(&beside);
    }
    done
}

fn write(path: &Path, bytes: &[u8], own: impl FnOnce(&File) -> io::Result<()>) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    own(&file)?;
    file.sync_all()
}

/// The folder that a file is in; `.` for a bare name.
pub fn folder(file: &Path) -> &Path {
    match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::MetadataExt;

    use super::*;

    /// A folder with the file `a.json`, whose content is `old`.
    fn old() -> (tempfile::TempDir, std::path::PathBuf) {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.json");
        fs::write(&path, "old").expect("written");
        (folder, path)
    }

    fn files(folder: &tempfile::TempDir) -> Vec<String> {
        let names = fs::read_dir(folder.path()).expect("a folder").map(|entry| entry.expect("an entry").file_name());
        names.map(|name| name.to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn an_open_reader_keeps_the_old_content_and_a_new_one_gets_the_new() {
        let (folder, path) = old();
        let reader = File::open(&path).expect("open");
        replace(&path, b"new").expect("replaced");
        assert_eq!(io::read_to_string(reader).expect("read"), "old");
        assert_eq!(fs::read_to_string(&path).expect("read"), "new");
        assert_eq!(fs::metadata(&path).expect("a file").mode() & 0o777, 0o644);
        assert_eq!(files(&folder), ["a.json"]);
        let other = folder.path().join("b");
        replace(&other, b"first").expect("made");
        assert_eq!(fs::read_to_string(&other).expect("read"), "first");
    }

    #[test]
    fn the_remains_of_a_killed_process_are_replaced() {
        let (folder, path) = old();
        fs::write(folder.path().join(".egret-a.json.tmp"), "half of the n").expect("written");
        replace(&path, b"new").expect("replaced");
        assert_eq!(fs::read_to_string(&path).expect("read"), "new");
        assert_eq!(files(&folder), ["a.json"]);
    }

    #[test]
    fn a_refusal_and_an_error_leave_the_old_file_alone() {
        let (folder, path) = old();
        let mut seen = String::new();
        let beside = folder.path().join(".egret-a.json.tmp");
        let read = || {
            seen = fs::read_to_string(&beside)?;
            Ok(false)
        };
        assert!(!replace_if(&path, b"new", |_| Ok(()), read).expect("answered"));
        assert_eq!(seen, "new", "the question comes last");
        let refused = replace_if(&path, b"new", |_| Err(ErrorKind::PermissionDenied.into()), || Ok(true));
        assert_eq!(refused.expect_err("an error").kind(), ErrorKind::PermissionDenied);
        assert_eq!(
            (fs::read_to_string(&path).expect("read"), files(&folder)),
            ("old".to_owned(), vec!["a.json".to_owned()])
        );
        assert!(replace(Path::new("/"), b"").is_err());
    }

    #[test]
    fn a_bare_name_is_in_the_current_folder() {
        assert_eq!((folder(Path::new("a")), folder(Path::new("b/a"))), (Path::new("."), Path::new("b")));
    }
}
