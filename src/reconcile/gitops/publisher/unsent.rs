//! Persists reports that could not be committed, in a file beside the mirror: a process that restarts while the
//! repository is unavailable continues with them.
//!
//! Open drift is not persisted: a process that restarts detects again what differs.

use std::path::Path;

use crate::core::report::history::NodeReport;
use crate::reconcile::persistence::state_file::StateFile;

/// Reports, merged with what only earlier reports of the same nodes contain.
pub(super) fn following(reports: &[NodeReport], before: &[NodeReport]) -> Vec<NodeReport> {
    let before = |node: &str| before.iter().find(|known| known.node == node);
    reports.iter().map(|report| report.clone().after(before(&report.node))).collect()
}

/// The file.
#[derive(Debug)]
pub(super) struct Unsent(StateFile<Vec<NodeReport>>);

impl Unsent {
    /// Opens the file of a mirror. A file that cannot be parsed counts as empty.
    pub(super) fn open(mirror: &Path) -> Self {
        Self(StateFile::open([mirror.with_extension("unsent.json")]))
    }

    /// The reports that could not be committed until now, of an earlier process, too.
    pub(super) fn reports(&self) -> &[NodeReport] {
        self.0.value()
    }

    /// Keeps these reports, which are not committed, together with the earlier ones.
    ///
    /// The next batch may not contain them: its agent may have restarted meanwhile.
    pub(super) fn keep(&mut self, reports: &[NodeReport]) {
        self.0.keep(|kept| {
            let mut all = following(reports, kept);
            all.extend(kept.drain(..).filter(|known| !reports.iter().any(|new| new.node == known.node)));
            *kept = all;
        });
    }

    /// All reports are committed.
    pub(super) fn clear(&mut self) {
        if !self.0.is_missing() {
            // If the file cannot be removed, its reports are planned once more and found to be on the branch already.
            let _ = self.0.forget();
        }
    }
}
