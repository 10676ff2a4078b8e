//! What the page reads of Git beside the loop: which commit last changed a document, the newest commits, and what other nodes report.
//!
//! Documents come from the mirror that the process keeps of the policy repository: no network is needed. Reports come from the repository
//! itself, and what was read before stays while it cannot be reached. Functions block. Not here: what decides (`repository`), and writing
//! reports (`publisher`).

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::cluster::read_text;
use crate::core::explain::DocumentChange;
use crate::core::host_network::HostNetwork;
use crate::core::name::NodeName;
use crate::core::page::links::{ForgeStyle, RepositoryPages};
use crate::core::report::files::read_node_file;
use crate::core::report::history::NodeReport;
use crate::core::snapshot;
use crate::forge::ForgeKind;
use crate::git::files::FileChange;
use crate::git::mirror::{History, Mirror};
use crate::git::source::{Insecure, Source};
use crate::git::{self, CommitId, CommitInfo};
use crate::reconcile::gitops::tracked_repository::TrackedRepository;
use crate::serve::ui::PolicyLog;

/// The folder of nodes' reports on the reports branch.
const NODES: &str = "nodes";

/// How old reports of a repository elsewhere may be: an open page must not be a load for its server.
const FRESH: Duration = Duration::from_secs(10);

/// Reads, where the process keeps its mirrors.
#[derive(Debug)]
pub struct HistoryReader {
    following: TrackedRepository,
    folder: PathBuf,
    reports: Mutex<Reports>,
}

/// What was read of the reports branch.
#[derive(Default)]
struct Reports {
    mirror: Option<Mirror>,
    read: Option<Instant>,
    commit: Option<CommitId>,
    nodes: BTreeMap<String, NodeReport>,
    /// Nodes' interfaces, as of the snapshot of the cluster.
    host_networks: BTreeMap<NodeName, HostNetwork>,
}

/// What the reports branch has of the nodes.
#[derive(Debug, Default)]
pub struct NodeKnowledge {
    /// What they report.
    pub reports: BTreeMap<NodeName, NodeReport>,
    /// Their interfaces and addresses.
    pub host_networks: BTreeMap<NodeName, HostNetwork>,
}

impl std::fmt::Debug for Reports {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reports").field("commit", &self.commit).finish_non_exhaustive()
    }
}

impl HistoryReader {
    /// Of a process that keeps its mirrors in this folder.
    pub fn new(following: TrackedRepository, folder: PathBuf) -> Self {
        Self { following, folder, reports: Mutex::default() }
    }

    /// Where the repository can be looked at. `kind`: of its forge, if that is known.
    pub fn pages(&self, kind: Option<ForgeKind>) -> Option<RepositoryPages> {
        let (host, path) = self.following.source.place()?;
        let style = kind.map(|kind| match kind {
            ForgeKind::GitHub => ForgeStyle::GitHub,
            ForgeKind::GitLab => ForgeStyle::GitLab,
            ForgeKind::Gitea => ForgeStyle::Gitea,
        });
        RepositoryPages::at(&host, &path, style)
    }

    /// What nodes report on a branch, and why it could not be read just now.
    pub fn nodes(&self, branch: &str) -> (NodeKnowledge, Option<git::Error>) {
        let mut reports = self.reports.lock().unwrap_or_else(PoisonError::into_inner);
        let far = self.following.source.is_local().is_none();
        let fresh = far && reports.read.is_some_and(|read| read.elapsed() < FRESH);
        let fault = if fresh { None } else { self.read(&mut reports, branch).err() };
        reports.read = Some(Instant::now());
        let nodes = reports.nodes.values();
        let known = NodeKnowledge {
            reports: nodes.filter_map(|report| Some((NodeName::parse(&report.node).ok()?, report.clone()))).collect(),
            host_networks: reports.host_networks.clone(),
        };
        (known, fault)
    }

    /// Reads what is new.
    fn read(&self, reports: &mut Reports, branch: &str) -> git::Result<()> {
        let TrackedRepository { source, access, .. } = &self.following;
        let mirror = match &mut reports.mirror {
            Some(mirror) => mirror,
            none => {
                let folder = self.folder.join("page.git");
                none.insert(Mirror::open_to_read(&folder, source.clone(), access.clone(), History::Recent)?)
            }
        };
        let commit = mirror.resolve(branch)?;
        if reports.commit == Some(commit) {
            return Ok(());
        }
        let paths = [NODES.to_owned()];
        let known = reports.commit.filter(|known| mirror.has(*known));
        if known.is_none() {
            reports.nodes.clear();
        }
        for (path, change) in mirror.changes(known, commit, &paths)? {
            match change {
                FileChange::Text(text) => match read_node_file(&text) {
                    Some(report) => drop(reports.nodes.insert(path, report)),
                    None => drop(reports.nodes.remove(&path)),
                },
                FileChange::Removed | FileChange::Refused(_) => drop(reports.nodes.remove(&path)),
            }
        }
        // It is larger than other files may be, and takes as long to read.
        let differs = !mirror.changes(known, commit, &[snapshot::FILE.to_owned()])?.is_empty();
        if differs
            && let Some(text) = mirror.text(commit, snapshot::FILE, snapshot::LARGEST)?
            && let Ok((facts, _)) = read_text(snapshot::FILE, &text)
        {
            reports.host_networks = facts.host_networks;
        }
        reports.commit = Some(commit);
        Ok(())
    }

    /// The mirror that the process keeps of the policy repository, for one reading.
    fn mirror(&self) -> Option<Mirror> {
        let folder = self.folder.join("policy.git");
        let source = Source::parse(folder.to_str()?, Insecure::Refuse).ok()?;
        Mirror::open_to_read(&folder, source, self.following.access.clone(), History::Whole).ok()
    }
}

/// What nodes report on a branch.
pub fn node_reports(mirror: &mut Mirror, branch: &str) -> BTreeMap<NodeName, NodeReport> {
    let commit = mirror.resolve(branch);
    let files = commit.and_then(|commit| mirror.files(commit, &[NODES.to_owned()])).unwrap_or_default();
    let reports = files.into_values().filter_map(|file| match file {
        FileChange::Text(text) => read_node_file(&text),
        FileChange::Removed | FileChange::Refused(_) => None,
    });
    reports.filter_map(|report| Some((NodeName::parse(&report.node).ok()?, report))).collect()
}

/// The same for an explanation.
pub fn document_change(info: CommitInfo) -> DocumentChange {
    let CommitInfo { id, summary, author, time, .. } = info;
    DocumentChange { commit: id.to_string(), summary, author, time }
}

impl PolicyLog for HistoryReader {
    fn last_change(&self, file: &str, commit: &str) -> Option<DocumentChange> {
        let info = self.mirror()?.last_change(file, CommitId::parse(commit)?).ok()??;
        Some(document_change(info))
    }

    fn recent(&self, commit: &str, most: usize) -> Vec<DocumentChange> {
        let Some((mirror, commit)) = self.mirror().zip(CommitId::parse(commit)) else { return Vec::new() };
        mirror.recent(commit, most).unwrap_or_default().into_iter().map(document_change).collect()
    }
}
