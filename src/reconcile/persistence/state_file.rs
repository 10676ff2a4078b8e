//! One value in a JSON file: what a process keeps for its next start.
//!
//! The value in memory is the one that counts while the process runs. Failing to write it is a [`StateFileError`] to
//! show, and is retried; it stops nothing, because what the value describes has happened already. What must not happen
//! before it is written uses [`StateFile::keep_first`]. A file that was deleted or truncated meanwhile is written
//! again. Opening writes nothing, so that a dry run can do it.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use crate::atomic_file;
use crate::backoff::Backoff;
use crate::telemetry::chain;

/// What the operator can do about a file that is not written.
const HINT: &str = "make room in the state folder (--state-dir), and allow Egret to write there; Egret retries";

/// Why a file could not be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {}", path.display())]
pub struct StateFileError {
    path: PathBuf,
    #[source]
    source: io::Error,
}

impl StateFileError {
    /// What the operator can do about it.
    pub fn hint(&self) -> String {
        HINT.to_owned()
    }
}

/// The value, and the files that have it.
#[derive(Debug)]
pub struct StateFile<T> {
    value: T,
    /// The value that was last written.
    written: T,
    /// Several copies have the same content, so that the next start can do without one of them.
    copies: Vec<Copy>,
    /// Whether no copy could be read at the start, and at least one was there.
    unreadable: bool,
    fault: Option<StateFileError>,
    failures: u64,
    backoff: Backoff,
    retry: Option<Instant>,
}

/// One file.
#[derive(Debug)]
struct Copy {
    path: PathBuf,
    state: CopyState,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum CopyState {
    /// It has the written value, in this many bytes; none: there is no file.
    Written(Option<u64>),
    /// It has something else.
    Stale,
    /// It cannot be read: it is renamed, not overwritten.
    Unreadable,
}

impl Copy {
    fn open<T: DeserializeOwned>(path: PathBuf) -> (Self, Option<T>) {
        let read = match fs::read(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return (Self { path, state: CopyState::Written(None) }, None);
            }
            read => read.and_then(|bytes| Ok((serde_json::from_slice(&bytes)?, bytes.len() as u64))),
        };
        match read {
            Ok((value, length)) => (Self { path, state: CopyState::Written(Some(length)) }, Some(value)),
            Err(error) => {
                tracing::warn!(
                    file = %path.display(), %error,
                    hint = "see that the disk is sound; the file is kept beside the new one, as .unreadable",
                    "a file of the state folder cannot be read"
                );
                (Self { path, state: CopyState::Unreadable }, None)
            }
        }
    }

    /// Whether the file is as it was written.
    fn is_intact(&self) -> bool {
        let CopyState::Written(length) = self.state else { return false };
        fs::metadata(&self.path).ok().map(|metadata| metadata.len()) == length
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.state == CopyState::Unreadable {
            let mut beside = self.path.clone().into_os_string();
            beside.push(".unreadable");
            match fs::rename(&self.path, beside) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        self.state = CopyState::Stale;
        atomic_file::replace(&self.path, bytes)?;
        self.state = CopyState::Written(Some(bytes.len() as u64));
        Ok(())
    }
}

impl<T: Clone + Default + PartialEq + Serialize + DeserializeOwned> StateFile<T> {
    /// Reads a file; if it cannot be read, the next of its copies that can. `paths` has at least one.
    pub fn open(paths: impl IntoIterator<Item = PathBuf>) -> Self {
        let (mut copies, mut read) = (Vec::new(), None);
        for path in paths {
            let (mut copy, value) = Copy::open::<T>(path);
            match (&read, value) {
                (None, Some(value)) => read = Some(value),
                (Some(read), Some(value)) if *read == value => {}
                // A crash between two writes; or the copy is missing.
                (Some(_), _) if copy.state != CopyState::Unreadable => copy.state = CopyState::Stale,
                _ => {}
            }
            copies.push(copy);
        }
        if read.is_some() {
            for copy in copies.iter_mut().filter(|copy| copy.state == CopyState::Written(None)) {
                copy.state = CopyState::Stale;
            }
        }
        let unreadable = read.is_none() && copies.iter().any(|copy| copy.state == CopyState::Unreadable);
        let value = read.unwrap_or_default();
        let backoff = Backoff::new(0);
        Self { written: value.clone(), value, copies, unreadable, fault: None, failures: 0, backoff, retry: None }
    }

    /// The value.
    pub fn value(&self) -> &T {
        &self.value
    }

    /// Whether nothing was read at the start because no copy was readable.
    pub fn was_unreadable(&self) -> bool {
        self.unreadable
    }

    /// Whether there was no file at the start and none was written since.
    pub fn is_missing(&self) -> bool {
        self.copies.iter().all(|copy| copy.state == CopyState::Written(None))
    }

    /// Why the value is not written, if it is not.
    pub fn fault(&self) -> Option<&StateFileError> {
        self.fault.as_ref()
    }

    /// How often writing has failed.
    pub fn failures(&self) -> u64 {
        self.failures
    }

    /// When writing is to be retried. Any call of [`StateFile::keep`] after that retries.
    pub fn retry(&self) -> Option<Instant> {
        self.retry
    }

    /// Changes the value, and writes it if the files have another one.
    pub fn keep(&mut self, change: impl FnOnce(&mut T)) {
        change(&mut self.value);
        if self.value == self.written && self.copies.iter().all(Copy::is_intact) {
            self.settled();
        } else if self.retry.is_none_or(|retry| retry <= Instant::now()) {
            let result = self.write(&self.value.clone());
            self.note(result);
        }
    }

    /// Changes the value in memory alone: what is not part of the file.
    pub fn keep_in_memory(&mut self, change: impl FnOnce(&mut T)) {
        change(&mut self.value);
    }

    /// Changes the value once it is written; if it cannot be written, nothing changes.
    pub fn keep_first(&mut self, change: impl FnOnce(&mut T)) -> Result<(), StateFileError> {
        let mut value = self.value.clone();
        change(&mut value);
        if value == self.written && self.copies.iter().all(Copy::is_intact) {
            self.value = value;
            return Ok(());
        }
        self.write(&value)?;
        self.value = value;
        self.settled();
        Ok(())
    }

    /// Deletes the files, and forgets the value.
    pub fn forget(&mut self) -> Result<(), StateFileError> {
        (self.value, self.written) = (T::default(), T::default());
        for copy in &mut self.copies {
            copy.state = CopyState::Stale;
            match fs::remove_file(&copy.path) {
                Err(source) if source.kind() != ErrorKind::NotFound => {
                    return Err(StateFileError { path: copy.path.clone(), source });
                }
                _ => copy.state = CopyState::Written(None),
            }
        }
        self.settled();
        Ok(())
    }

    fn write(&mut self, value: &T) -> Result<(), StateFileError> {
        let first = self.copies.first().map(|copy| copy.path.clone()).unwrap_or_default();
        let bytes = serde_json::to_vec_pretty(value).map_err(io::Error::from).and_then(|bytes| {
            // The folder, too, may have been deleted.
            fs::create_dir_all(atomic_file::folder(&first))?;
            Ok(bytes)
        });
        let bytes = bytes.map_err(|source| StateFileError { path: first, source })?;
        for at in 0..self.copies.len() {
            if let Err(source) = self.copies[at].write(&bytes) {
                // Those before it have a value that is not the one last written any more.
                self.copies[..at].iter_mut().for_each(|copy| copy.state = CopyState::Stale);
                return Err(StateFileError { path: self.copies[at].path.clone(), source });
            }
        }
        self.written = value.clone();
        Ok(())
    }

    fn note(&mut self, result: Result<(), StateFileError>) {
        let Err(error) = result else { return self.settled() };
        self.failures += 1;
        self.retry = Some(Instant::now() + self.backoff.next_wait());
        if self.fault.as_ref().map(|fault| chain(fault)) != Some(chain(&error)) {
            tracing::warn!(
                error = chain(&error),
                hint = HINT,
                "a restart would not know what this process has to remember; everything else goes on"
            );
        }
        self.fault = Some(error);
    }

    fn settled(&mut self) {
        self.backoff.reset();
        self.retry = None;
        if let Some(fault) = self.fault.take() {
            tracing::info!(file = %fault.path.display(), "the state folder is written again");
        }
    }
}

/// The path of a file's copy.
pub fn copy_of(path: &Path) -> PathBuf {
    let mut copy = path.to_owned().into_os_string();
    copy.push(".copy");
    copy.into()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use super::*;

    type Value = BTreeMap<String, u32>;

    /// A folder, and the two copies of a file in a folder below it that does not exist yet.
    fn place() -> (tempfile::TempDir, [PathBuf; 2]) {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("state/a.json");
        let paths = [path.clone(), copy_of(&path)];
        (folder, paths)
    }

    fn set(file: &mut StateFile<Value>, value: u32) {
        file.keep(|map| {
            map.insert("a".to_owned(), value);
        });
    }

    fn read(path: &Path) -> Option<Value> {
        serde_json::from_slice(&fs::read(path).ok()?).ok()
    }

    fn one(value: u32) -> Value {
        [("a".to_owned(), value)].into()
    }

    #[test]
    fn nothing_is_written_before_there_is_something_to_keep() {
        let (_folder, paths) = place();
        let mut file = StateFile::<Value>::open(paths.clone());
        file.keep(|_| {});
        assert!(file.is_missing() && !file.was_unreadable() && file.fault().is_none());
        assert!(!paths[0].parent().expect("a folder").exists());
        set(&mut file, 1);
        assert_eq!(paths.map(|path| read(&path)), [Some(one(1)), Some(one(1))]);
    }

    #[test]
    fn a_deleted_folder_and_a_truncated_file_are_made_anew() {
        let (_folder, paths) = place();
        let mut file = StateFile::<Value>::open(paths.clone());
        set(&mut file, 1);
        fs::remove_dir_all(paths[0].parent().expect("a folder")).expect("deleted");
        file.keep(|_| {});
        assert_eq!(paths.clone().map(|path| read(&path)), [Some(one(1)), Some(one(1))]);
        fs::write(&paths[1], "").expect("truncated");
        file.keep(|_| {});
        assert_eq!(read(&paths[1]), Some(one(1)));
    }

    #[tokio::test(start_paused = true)]
    async fn what_cannot_be_written_is_a_fault_until_it_can() {
        let (_folder, paths) = place();
        let folder = paths[0].parent().expect("a folder");
        fs::write(folder, "a file where the folder has to be").expect("written");
        let mut file = StateFile::<Value>::open(paths.clone());
        set(&mut file, 1);
        let fault = file.fault().map(|fault| chain(fault)).expect("a fault");
        assert!(fault.starts_with(&format!("cannot write {}: ", paths[0].display())), "{fault}");
        assert_eq!((file.value(), file.failures()), (&one(1), 1), "the process goes by the value all the same");
        // Not with every call.
        file.keep(|_| {});
        assert_eq!(file.failures(), 1);
        assert!(file.keep_first(BTreeMap::clear).is_err());
        assert_eq!(file.value(), &one(1), "what has to be written first is not, and nothing changed");
        fs::remove_file(folder).expect("removed");
        tokio::time::advance(Duration::from_secs(2)).await;
        file.keep(|_| {});
        assert!(file.fault().is_none() && file.retry().is_none());
        assert_eq!(read(&paths[0]), Some(one(1)));
    }

    #[test]
    fn a_copy_that_cannot_be_read_is_set_aside_and_the_other_is_used() {
        for broken in 0..2 {
            let (_folder, paths) = place();
            set(&mut StateFile::<Value>::open(paths.clone()), 1);
            fs::write(&paths[broken], "{\"a\": ").expect("truncated");
            let mut file = StateFile::<Value>::open(paths.clone());
            assert_eq!((file.value(), file.was_unreadable()), (&one(1), false));
            file.keep(|_| {});
            assert_eq!(paths.clone().map(|path| read(&path)), [Some(one(1)), Some(one(1))]);
            let aside = format!("{}.unreadable", paths[broken].display());
            assert_eq!(fs::read_to_string(aside).expect("kept"), "{\"a\": ");
        }
    }

    #[test]
    fn if_no_copy_can_be_read_it_is_known_until_the_next_start() {
        let (_folder, paths) = place();
        set(&mut StateFile::<Value>::open(paths.clone()), 1);
        for path in &paths {
            fs::write(path, "").expect("truncated");
        }
        assert!(StateFile::<Value>::open(paths.clone()).was_unreadable());
        let mut file = StateFile::<Value>::open(paths.clone());
        assert!(file.was_unreadable() && !file.is_missing(), "opening has set nothing aside");
        set(&mut file, 2);
        assert!(file.was_unreadable());
        let file = StateFile::<Value>::open(paths);
        assert_eq!((file.value(), file.was_unreadable()), (&one(2), false));
    }

    #[test]
    fn of_two_copies_that_differ_the_first_was_written_last() {
        let (_folder, paths) = place();
        set(&mut StateFile::<Value>::open([paths[1].clone()]), 1);
        set(&mut StateFile::<Value>::open([paths[0].clone()]), 2);
        let mut file = StateFile::<Value>::open(paths.clone());
        assert_eq!(file.value(), &one(2));
        file.keep(|_| {});
        assert_eq!(read(&paths[1]), Some(one(2)));
        file.forget().expect("deleted");
        assert!(file.is_missing() && file.value().is_empty() && paths.iter().all(|path| !path.exists()));
    }
}
