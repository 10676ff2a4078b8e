//! Persists reports that could not be committed, in a file beside the mirror: a process that restarts while the
//! repository is unavailable continues with them.
//!
//! Open drift is not persisted: a process that restarts detects again what differs.

use std::fs;
use std::path::{Path, PathBuf};

use crate::atomic_file;
use crate::core::report::history::NodeReport;

/// Reports, merged with what only earlier reports of the same nodes contain.
pub(super) fn following(reports: &[NodeReport], before: &[NodeReport]) -> Vec<NodeReport> {
    let before = |node: &str| before.iter().find(|known| known.node == node);
    reports.iter().map(|report| report.clone().after(before(&report.node))).collect()
}

/// The file.
#[derive(Debug)]
pub(super) struct Unsent {
    path: PathBuf,
    /// Reports of an earlier process, and of earlier batches of this one.
    reports: Vec<NodeReport>,
    /// The file's content; empty if there is no file.
    written: Vec<NodeReport>,
}

impl Unsent {
    /// Opens the file of a mirror. A file that cannot be parsed counts as empty.
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

    /// The reports that could not be committed until now.
    pub(super) fn reports(&self) -> &[NodeReport] {
        &self.reports
    }

    /// Keeps these reports, which are not committed, together with the earlier ones.
    ///
    /// The next batch may not contain them: its agent may have restarted meanwhile.
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

    /// All reports are committed.
    pub(super) fn clear(&mut self) {
        self.reports.clear();
        if !std::mem::take(&mut self.written).is_empty() {
            // If the file cannot be removed, its reports are planned once more and found to be on the branch already.
            let _ = fs::remove_file(&self.path);
        }
    }
}
