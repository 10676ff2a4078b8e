//! What could not be committed, in a file beside the mirror: a process that starts anew while the repository is away goes on with it.
//!
//! Deliberately absent: what is open. Whoever starts anew sees by itself what differs.

use std::fs;
use std::path::{Path, PathBuf};

use crate::atomic_file;
use crate::core::report::history::NodeReport;

/// Reports with what only earlier ones of the same nodes know.
pub(super) fn following(reports: &[NodeReport], before: &[NodeReport]) -> Vec<NodeReport> {
    let before = |node: &str| before.iter().find(|known| known.node == node);
    reports.iter().map(|report| report.clone().after(before(&report.node))).collect()
}

/// The file.
#[derive(Debug)]
pub(super) struct Unsent {
    path: PathBuf,
    /// Of an earlier process, and of earlier letters of this one.
    reports: Vec<NodeReport>,
    /// What is in the file, or nothing where there is none.
    written: Vec<NodeReport>,
}

impl Unsent {
    /// Opens the file of a mirror. One that cannot be understood is as good as none.
    pub(super) fn open(mirror: &Path) -> Self {
        let path = mirror.with_extension("unsent.json");
        let reports: Vec<NodeReport> = match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_else(|error| {
                tracing::warn!(file = %path.display(), %error, "reports that were not committed cannot be read");
                Vec::new()
            }),
            Err(_) => Vec::new(),
        };
        Self { path, written: reports.clone(), reports }
    }

    /// What could not be committed until now.
    pub(super) fn reports(&self) -> &[NodeReport] {
        &self.reports
    }

    /// These are not committed: they and those of before are kept.
    ///
    /// The next letter may know nothing of them: its agent may have started anew meanwhile.
    pub(super) fn keep(&mut self, reports: &[NodeReport]) {
        let mut all = following(reports, &self.reports);
        all.extend(self.reports.iter().filter(|known| !reports.iter().any(|new| new.node == known.node)).cloned());
        self.reports = all;
        if self.reports == self.written {
            return;
        }
        match self.write(&self.reports) {
            Ok(()) => self.written.clone_from(&self.reports),
            Err(error) => {
                tracing::warn!(file = %self.path.display(), %error, "what is not committed is not kept over a restart");
            }
        }
    }

    fn write(&self, reports: &[NodeReport]) -> std::io::Result<()> {
        if let Some(folder) = self.path.parent() {
            fs::create_dir_all(folder)?;
        }
        atomic_file::replace(&self.path, &serde_json::to_vec(reports)?)
    }

    /// All is committed.
    pub(super) fn clear(&mut self) {
        self.reports.clear();
        if !std::mem::take(&mut self.written).is_empty() {
            // What is left there would be said once more, and found to be there already.
            let _ = fs::remove_file(&self.path);
        }
    }
}
