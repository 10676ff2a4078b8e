//! Plans the next commit of the reports branch on its current content: nodes' files, README.md, the snapshot.
//!
//! Not here: Git (`git`), and when a commit is attempted (the parent module).

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;

use super::{ClusterSnapshot, ReportBatch};
use crate::core::allocation::{self, Allocation, Unreadable};
use crate::core::facts::Facts;
use crate::core::report::history::{DriftRecord, NodeReport};
use crate::core::report::{files, message};
use crate::core::snapshot;
use crate::git::publish::{BranchState, Draft};

/// The inputs of a plan.
pub(super) struct DraftInput<'a> {
    pub(super) cluster: &'a str,
    pub(super) batch: &'a ReportBatch,
    pub(super) snapshot: Option<&'a ClusterSnapshot>,
    /// Reports that an earlier process could not commit.
    pub(super) unsent: &'a [NodeReport],
}

/// The allocation of pools on the branch, and what it becomes.
#[derive(Default)]
pub(super) struct AllocationChange {
    pub(super) before: Allocation,
    pub(super) after: Allocation,
}

/// The result of planning.
pub(super) struct PlannedDraft {
    /// The planned content of the branch; none if only timestamps would differ.
    pub(super) draft: Option<Draft>,
    /// The age of the snapshot on the branch after the commit; none if there is none.
    pub(super) snapshot_age: Option<Duration>,
    /// The snapshot's size in bytes, if the cluster is too large for one.
    pub(super) too_large: Option<usize>,
    /// The allocation of pools before and after the commit.
    pub(super) allocated: Result<AllocationChange, Unreadable>,
}

/// Plans the commit.
pub(super) fn plan(plan: &DraftInput<'_>, state: &BranchState, now: Timestamp) -> PlannedDraft {
    let changed = changed(plan, state);
    let allocated = allocate(plan, state, now);
    let difference = allocated.as_ref().ok().and_then(|change| change.before.difference(&change.after));
    let mut tree = state.files.clone();
    let gone = gone(plan.snapshot, &mut tree);
    let given = keep_allocation(&allocated, &mut tree);
    let news = given || !changed.is_empty() || !gone.is_empty();
    let mut planned = PlannedDraft { draft: None, snapshot_age: None, too_large: None, allocated };
    let has_snapshot = add_snapshot(plan, &mut tree, news, &mut planned);
    if let Some(text) = tree.get(snapshot::FILE) {
        // A snapshot with an unreadable time counts as old.
        planned.snapshot_age = snapshot::taken(text).map(|taken| now.duration_since(taken).unsigned_abs());
    }
    if !news && !has_snapshot {
        return planned;
    }
    let subject = difference
        .or_else(|| message::subject_of(&changed))
        .or_else(|| message::gone(&gone))
        .unwrap_or_else(|| snapshot_subject(plan.snapshot));
    let reports: Vec<NodeReport> = changed.into_iter().map(|(_, after)| after).collect();
    match files::tree(&tree, plan.cluster, &plan.batch.branch, &reports) {
        Ok(mut tree) => {
            let pools = tree.get(allocation::FILE).map(|file| allocation::page(file));
            if let (Some(page), Some(pools)) = (tree.get_mut(files::PAGE), pools) {
                page.push_str(&pools);
            }
            planned.draft = Some(Draft { files: tree, message: subject, trailers: trailers(plan.cluster, &reports) });
        }
        Err(error) => tracing::error!(%error, "a drift report cannot be written as YAML"),
    }
    planned
}

/// Gives policies what they ask of pools. A file that cannot be read stays as it is: with an empty one, policies would get other addresses.
fn allocate(plan: &DraftInput<'_>, state: &BranchState, now: Timestamp) -> Result<AllocationChange, Unreadable> {
    let text = state.files.get(allocation::FILE);
    let before = text.map_or_else(|| Ok(Allocation::default()), |text| allocation::read(text))?;
    let after = match &plan.batch.asked {
        Some(asked) => before.next(asked, now),
        None => before.clone(),
    };
    Ok(AllocationChange { before, after })
}

/// Puts a new allocation into the tree; returns whether there is one.
fn keep_allocation(allocated: &Result<AllocationChange, Unreadable>, tree: &mut BTreeMap<String, String>) -> bool {
    let Ok(AllocationChange { before, after }) = allocated else { return false };
    if before == after {
        return false;
    }
    if after.holdings.is_empty() {
        tree.remove(allocation::FILE);
    } else {
        tree.insert(allocation::FILE.to_owned(), allocation::write(after));
    }
    true
}

/// Reports whose content differs from the branch, with the branch's version.
fn changed(plan: &DraftInput<'_>, state: &BranchState) -> Vec<(Option<NodeReport>, NodeReport)> {
    let known = |node: &str| state.files.get(&files::path_of(node)).and_then(|text| files::read_node_file(text));
    let reports = plan.batch.reports.iter().map(|report| {
        let before = known(&report.node);
        let unsent = plan.unsent.iter().find(|unsent| unsent.node == report.node);
        let unsent = unsent.map(|unsent| newer(unsent, before.as_ref()));
        let after = report.clone().after(unsent.as_ref()).after(before.as_ref());
        (before, after)
    });
    reports.filter(|(before, after)| before.as_ref() != Some(after)).collect()
}

/// An uncommitted report without what another leader has committed since.
fn newer(unsent: &NodeReport, before: Option<&NodeReport>) -> NodeReport {
    let mut unsent = unsent.clone();
    let known = |record: &DriftRecord| {
        before.iter().flat_map(|before| &before.corrected).any(|known| {
            known.object == record.object && known.class == record.class && known.last_seen >= record.last_seen
        })
    };
    unsent.corrected.retain(|record| !known(record));
    unsent
}

/// Removes the files of nodes that are no longer in the cluster: they would stay outdated for ever. Their history
/// stays.
fn gone(snapshot: Option<&ClusterSnapshot>, tree: &mut BTreeMap<String, String>) -> Vec<String> {
    let Some(ClusterSnapshot { facts, .. }) = snapshot.filter(|snapshot| !snapshot.facts.nodes.is_empty()) else {
        return Vec::new();
    };
    let there: std::collections::BTreeSet<String> =
        facts.nodes.keys().map(|node| files::path_of(node.as_str())).collect();
    let gone: Vec<String> =
        tree.keys().filter(|path| files::node_of(path).is_some() && !there.contains(*path)).cloned().collect();
    gone.iter().filter_map(|path| tree.remove(path).and(files::node_of(path)).map(str::to_owned)).collect()
}

/// Adds the snapshot if it is due; returns whether it justifies a commit of its own.
fn add_snapshot(
    plan: &DraftInput<'_>,
    tree: &mut BTreeMap<String, String>,
    riding: bool,
    planned: &mut PlannedDraft,
) -> bool {
    let Some(every) = plan.batch.snapshot_every else {
        // No process keeps the snapshot up to date any more.
        if riding {
            tree.remove(snapshot::FILE);
        }
        return false;
    };
    let Some(snapshot) = plan.snapshot else { return false };
    let there = tree.get(snapshot::FILE);
    let text = snapshot::stamped(&whole(snapshot, there.map(String::as_str)), snapshot.taken);
    if text.len() > snapshot::LARGEST {
        planned.too_large = Some(text.len());
        return false;
    }
    let due = snapshot::worth(there.map(String::as_str), &text, every, riding);
    if due {
        tree.insert(snapshot::FILE.to_owned(), text);
    }
    due
}

/// The facts, completed with what other gateways reported of their interfaces before.
fn whole(snapshot: &ClusterSnapshot, there: Option<&str>) -> Facts {
    let mut facts = snapshot.facts.clone();
    if snapshot.only_own {
        let others = there.map(snapshot::host_networks).unwrap_or_default();
        for (node, host_network) in others
            .into_iter()
            .filter(|(node, _)| Some(node) != snapshot.own.as_ref() && snapshot.facts.nodes.contains_key(node))
        {
            facts.host_networks.entry(node).or_insert(host_network);
        }
    }
    facts
}

fn snapshot_subject(snapshot: Option<&ClusterSnapshot>) -> String {
    let Some(ClusterSnapshot { facts, .. }) = snapshot else { return "snapshot of the cluster".to_owned() };
    format!("snapshot of the cluster: {} nodes, {} pods", facts.nodes.len(), facts.pods.len())
}

fn trailers(cluster: &str, reports: &[NodeReport]) -> Vec<(String, String)> {
    let mut trailers = vec![("Egret-Cluster".to_owned(), cluster.to_owned())];
    if let Some(commit) = reports.iter().find_map(|report| report.active.as_ref()) {
        trailers.push(("Egret-Policy-Commit".to_owned(), commit.commit.clone()));
    }
    let records = reports.iter().flat_map(|report| report.drift.iter().chain(&report.corrected));
    if let Some(seen) = records.map(|record| record.last_seen).max() {
        trailers.push(("Egret-Observed-At".to_owned(), seen.to_string()));
    }
    trailers
}
