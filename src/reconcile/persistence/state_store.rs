//! The state store: persists what must outlive the process and can be read from neither the kernel nor Git nor the
//! cluster: the labels that Egret wrote, and the active revision with its held documents.
//!
//! It consists of small JSON files in the state folder, each replaced as a whole.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::atomic_file;
use crate::core::gate::ActiveRevision;
use crate::core::labels::Labels;
use crate::core::placement::handover::{self, Handover};
use crate::core::state::ownership::DatapathConfig;

/// The files and their content.
#[derive(Debug)]
pub struct StateStore {
    path: PathBuf,
    kept: PersistedState,
    /// A separate file: it grows with the policies, and is compared in every round.
    handover_path: PathBuf,
    handover: Handover,
}

/// The persisted state.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct PersistedState {
    /// The active revision when the last round ended, and the commit that was pending then.
    #[serde(flatten)]
    pub active: ActiveRevision,
    /// Labels on this node that Egret wrote, with their values.
    pub labels: Labels,
    /// The datapath configuration of the kernel's objects, until all of them have another: mask, first table, port,
    /// MTU.
    pub range: Option<(u32, u32, u16, u32)>,
}

impl PersistedState {
    /// The datapath configuration of what is in the kernel, if it is known.
    pub fn range(&self) -> Option<DatapathConfig> {
        self.range.map(|(mask, first, port, mtu)| DatapathConfig { mask, first, port, mtu })
    }
}

/// Why a file could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("{doing} {}", path.display())]
pub struct StateStoreError {
    doing: &'static str,
    path: PathBuf,
    #[source]
    source: io::Error,
}

impl StateStore {
    /// Opens the files in a folder, which is created if needed. A file that cannot be parsed is renamed, not
    /// overwritten: a node without state still works, it only no longer knows its labels.
    pub fn open(folder: &Path) -> Result<Self, StateStoreError> {
        let path = folder.join("memory.json");
        let fault = |doing| {
            let path = path.clone();
            move |source| StateStoreError { doing, path, source }
        };
        fs::create_dir_all(folder).map_err(fault("make the folder of"))?;
        let kept = match fs::read(&path) {
            Ok(bytes) => match serde_json::from_slice(&bytes) {
                Ok(kept) => kept,
                Err(error) => {
                    tracing::warn!(file = %path.display(), %error, "memory is not readable; it is set aside");
                    fs::rename(&path, folder.join("memory.json.unreadable")).map_err(fault("set aside"))?;
                    PersistedState::default()
                }
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => PersistedState::default(),
            Err(error) => return Err(fault("read")(error)),
        };
        let handover_path = folder.join("ways.json");
        let handover = read_handover(&handover_path);
        Ok(Self { path, kept, handover_path, handover })
    }

    /// Reads a folder for a process that changes nothing: it creates no folder and renames no file. What cannot be
    /// read counts as missing.
    pub fn read(folder: &Path) -> Self {
        let (path, handover_path) = (folder.join("memory.json"), folder.join("ways.json"));
        let kept = fs::read(&path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
        let handover = read_handover(&handover_path);
        Self { path, kept, handover_path, handover }
    }

    /// The applied egress paths, and those that were left.
    pub fn handover(&self) -> &Handover {
        &self.handover
    }

    /// Persists other egress paths; writes only if they differ.
    pub fn keep_handover(&mut self, handover: &Handover) -> Result<(), StateStoreError> {
        if *handover == self.handover {
            return Ok(());
        }
        write(&self.handover_path, &handover::PersistedHandover::from(handover))?;
        self.handover = handover.clone();
        Ok(())
    }

    /// The persisted state.
    pub fn kept(&self) -> &PersistedState {
        &self.kept
    }

    /// Persists a change; writes only if something differs.
    pub fn keep(&mut self, change: impl FnOnce(&mut PersistedState)) -> Result<(), StateStoreError> {
        let mut kept = self.kept.clone();
        change(&mut kept);
        if kept == self.kept {
            return Ok(());
        }
        write(&self.path, &kept)?;
        self.kept = kept;
        Ok(())
    }

    /// Deletes the files, and the folder if nothing else is in it.
    pub fn clear(&mut self) -> Result<(), StateStoreError> {
        for path in [&self.path, &self.handover_path] {
            match fs::remove_file(path) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    return Err(StateStoreError { doing: "delete", path: path.clone(), source });
                }
                _ => {}
            }
        }
        (self.kept, self.handover) = (PersistedState::default(), Handover::default());
        // The mirror, or a file that was set aside, is not the state store's.
        let _ = self.path.parent().map(fs::remove_dir);
        Ok(())
    }
}

fn write(path: &Path, what: &impl Serialize) -> Result<(), StateStoreError> {
    let written = serde_json::to_vec_pretty(what).map_err(io::Error::from);
    let written = written.and_then(|bytes| atomic_file::replace(path, &bytes));
    written.map_err(|source| StateStoreError { doing: "write", path: path.to_owned(), source })
}

/// Empty if the file cannot be parsed: then a handover that was under way is not continued.
fn read_handover(path: &Path) -> Handover {
    let Ok(text) = fs::read(path) else { return Handover::default() };
    match serde_json::from_slice::<handover::PersistedHandover>(&text) {
        Ok(kept) => kept.into(),
        Err(error) => {
            tracing::warn!(file = %path.display(), %error, "the stored handover is not readable");
            Handover::default()
        }
    }
}
