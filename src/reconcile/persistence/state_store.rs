//! The state store: persists what must outlive the process and can be read from neither the kernel nor Git nor the
//! cluster: the labels that Egret wrote, and the active revision with its held documents.
//!
//! It consists of small JSON files in the state folder. Not here: how a file is written ([`StateFile`]).

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::state_file::{StateFile, StateFileError, copy_of};
use crate::core::finding::Finding;
use crate::core::gate::ActiveRevision;
use crate::core::labels::Labels;
use crate::core::name::NodeName;
use crate::core::placement::handover::Handover;
use crate::core::state::ownership::DatapathConfig;
use crate::telemetry::chain;

/// The files and their content.
#[derive(Debug)]
pub struct StateStore {
    folder: PathBuf,
    kept: Box<StateFile<PersistedState>>,
    /// A separate file: it grows with the policies, and is compared in every round.
    handover: Box<StateFile<Handover>>,
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
    /// The allocation of pools as it was last read from the reports branch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allocation: Option<String>,
}

impl PersistedState {
    /// The datapath configuration of what is in the kernel, if it is known.
    pub fn range(&self) -> Option<DatapathConfig> {
        self.range.map(|(mask, first, port, mtu)| DatapathConfig { mask, first, port, mtu })
    }
}

impl StateStore {
    /// Opens the files in a folder. What cannot be read counts as missing, but is not forgotten
    /// ([`ActiveRevision::lost`]).
    pub fn open(folder: &Path) -> Self {
        let path = folder.join("memory.json");
        // If it is lost, the labels that Egret wrote have no owner, and the active commit is not known.
        let mut kept = StateFile::<PersistedState>::open([path.clone(), copy_of(&path)]);
        if kept.was_unreadable() {
            kept.keep_in_memory(|kept| kept.active.lost = true);
        }
        // If it is lost, a handover that was under way is not continued.
        Self {
            folder: folder.to_owned(),
            kept: Box::new(kept),
            handover: Box::new(StateFile::open([folder.join("ways.json")])),
        }
    }

    /// Whether nothing is known from earlier, because there was no file or none was readable.
    pub fn knows_nothing(&self) -> bool {
        self.kept.was_unreadable() || self.kept.is_missing()
    }

    /// The applied egress paths, and those that were left.
    pub fn handover(&self) -> &Handover {
        self.handover.value()
    }

    /// Keeps other egress paths.
    pub fn keep_handover(&mut self, handover: &Handover) {
        self.handover.keep(|kept| {
            if kept != handover {
                kept.clone_from(handover);
            }
        });
    }

    /// The persisted state.
    pub fn kept(&self) -> &PersistedState {
        self.kept.value()
    }

    /// Keeps a change of what has happened already, see [`StateFile::keep`].
    pub fn keep(&mut self, change: impl FnOnce(&mut PersistedState)) {
        self.kept.keep(change);
    }

    /// Keeps a change that has to be persisted before what it describes happens.
    pub fn keep_first(&mut self, change: impl FnOnce(&mut PersistedState)) -> Result<(), StateFileError> {
        self.kept.keep_first(change)
    }

    /// Deletes the files, and the folder if nothing else is in it.
    pub fn clear(&mut self) -> Result<(), StateFileError> {
        self.handover.forget()?;
        self.kept.forget()?;
        // The mirror, or a file that was set aside, is not the state store's.
        let _ = fs::remove_dir(&self.folder);
        Ok(())
    }

    fn faults(&self) -> impl Iterator<Item = &StateFileError> {
        self.kept.fault().into_iter().chain(self.handover.fault())
    }

    /// Why not everything is written, for operators.
    pub fn fault(&self) -> Option<String> {
        self.faults().next().map(|fault| chain(fault))
    }

    /// How often writing has failed.
    pub fn failures(&self) -> u64 {
        self.kept.failures() + self.handover.failures()
    }

    /// When writing is to be retried.
    pub fn retry(&self) -> Option<Instant> {
        self.kept.retry().into_iter().chain(self.handover.retry()).min()
    }

    /// What an operator should know about the files.
    pub fn findings(&self, node: &NodeName) -> Vec<Finding> {
        let unwritten = self.faults().map(|fault| {
            let message = format!("a restart would not know what Egret has to remember here: {}", chain(fault));
            Finding::new("state-not-written", node, message).hint(fault.hint())
        });
        let unreadable = self.kept.was_unreadable().then(|| {
            let message =
                "memory.json could not be read at the start: which labels of this node Egret wrote is not known";
            Finding::new("state-unreadable", node, message).hint(
                "remove labels that Git does not ask for any more by hand; memory.json.unreadable has what was left",
            )
        });
        unwritten.chain(unreadable).collect()
    }
}
