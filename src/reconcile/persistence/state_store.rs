//! Memory: what must outlive the process and can be observed nowhere: which labels Egret wrote, and documents that are held.
//!
//! Small JSON files in the state folder, each replaced as a whole. Deliberately absent: anything that the kernel, Git or the
//! cluster can say.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::atomic_file;
use crate::core::admission::{ChangeWindows, Emergency, PendingCommit};
use crate::core::labels::Labels;
use crate::core::placement::handover::{self, Handover};
use crate::core::policy::catalogue::LastGoodDocuments;
use crate::core::signature::Signatures;
use crate::core::state::ownership::DatapathConfig;
use crate::reconcile::gitops::repository::KnownRevision;

/// The file and what is in it.
#[derive(Debug)]
pub struct StateStore {
    path: PathBuf,
    kept: PersistedState,
    /// By itself: it grows with the policies, and is looked at in every round.
    ways_path: PathBuf,
    ways: Handover,
}

/// What is kept.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct PersistedState {
    /// The commit that was last in force.
    pub commit: Option<String>,
    /// When it was committed.
    pub committed: Option<Timestamp>,
    /// Texts of documents whose last good version is in force.
    pub good: LastGoodDocuments,
    /// What egret.yaml in force demands of commits that come in.
    pub signatures: Option<Signatures>,
    /// When egret.yaml in force lets commits come into force.
    pub windows: Option<ChangeWindows>,
    /// The commit that waited when the last round ended.
    pub withheld: Option<PendingCommit>,
    /// How the commit in force came through a closed change window.
    pub emergency: Option<Emergency>,
    /// Labels on this node that Egret wrote, with the values it wrote.
    pub labels: Labels,
    /// The range of marks and tables that the kernel's objects are in, until all of them are in another: mask, first, port, MTU.
    pub range: Option<(u32, u32, u16, u32)>,
    /// The generation of the last leader whose publication was taken over.
    pub fence: i64,
}

impl PersistedState {
    /// What the repository's thread begins with.
    pub fn known(&self) -> KnownRevision {
        let Self { commit, committed, good, signatures, windows, withheld, emergency, .. } = self.clone();
        KnownRevision { commit, committed, good, signatures, windows, withheld, emergency }
    }

    /// The range of what is in the kernel, if it is known.
    pub fn range(&self) -> Option<DatapathConfig> {
        self.range.map(|(mask, first, port, mtu)| DatapathConfig { mask, first, port, mtu })
    }
}

/// Why it could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("{doing} {}", path.display())]
pub struct StateStoreError {
    doing: &'static str,
    path: PathBuf,
    #[source]
    source: io::Error,
}

impl StateStore {
    /// Opens the file in a folder, which is made if need be. One that cannot be understood is set aside, not overwritten: a
    /// node without memory still works, it only no longer knows its labels.
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
        let ways_path = folder.join("ways.json");
        let ways = read_ways(&ways_path);
        Ok(Self { path, kept, ways_path, ways })
    }

    /// The ways that were in force, and those that were left.
    pub fn ways(&self) -> &Handover {
        &self.ways
    }

    /// Keeps other ways; writes only what differs.
    pub fn keep_ways(&mut self, ways: &Handover) -> Result<(), StateStoreError> {
        if *ways == self.ways {
            return Ok(());
        }
        write(&self.ways_path, &handover::PersistedHandover::from(ways))?;
        self.ways = ways.clone();
        Ok(())
    }

    /// What is kept.
    pub fn kept(&self) -> &PersistedState {
        &self.kept
    }

    /// Keeps something else; writes only what differs.
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
}

fn write(path: &Path, what: &impl Serialize) -> Result<(), StateStoreError> {
    let written = serde_json::to_vec_pretty(what).map_err(io::Error::from);
    let written = written.and_then(|bytes| atomic_file::replace(path, &bytes));
    written.map_err(|source| StateStoreError { doing: "write", path: path.to_owned(), source })
}

/// Nothing, where nothing can be understood: then a handover that was under way is not gone on with.
fn read_ways(path: &Path) -> Handover {
    let Ok(text) = fs::read(path) else { return Handover::default() };
    match serde_json::from_slice::<handover::PersistedHandover>(&text) {
        Ok(kept) => kept.into(),
        Err(error) => {
            tracing::warn!(file = %path.display(), %error, "the ways that were in force are not readable");
            Handover::default()
        }
    }
}
