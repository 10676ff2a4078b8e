//! What `egret run` would do on this node, found without doing it: read by the same reader, judged by the same rules, planned by the same
//! reconciler.
//!
//! Printing is absent (`cli::plan`).

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use crate::cluster::Cluster;
use crate::core::admission::PendingCommit;
use crate::core::facts::Facts;
use crate::core::finding::Finding;
use crate::core::name::NodeName;
use crate::core::policy::PolicySet;
use crate::core::policy::catalogue::{Catalogue, FileUpdate};
use crate::core::report::history::Rejected;
use crate::git;
use crate::kernel::{Kernel, KernelError};
use crate::reconcile::gitops::repository::{self, DesiredRevision, RepositoryOptions, read_once};
use crate::reconcile::gitops::tracked_repository::TrackedRepository;
use crate::reconcile::node::round::{NodePlan, Reconciler, RoundError};
use crate::reconcile::persistence::state_store::StateStore;

/// Documents of the repository that is followed.
#[derive(Debug, Clone)]
pub enum DocumentSource {
    /// Of a revision, or of the tip of the branch, as a node would let it in.
    Git {
        /// A revision in place of the branch.
        rev: Option<String>,
        /// An empty folder for a mirror.
        mirror: PathBuf,
    },
    /// Files as they lie in a folder without Git.
    Files(BTreeMap<String, FileUpdate>),
}

/// What `egret plan` was asked for, checked.
#[derive(Debug)]
pub struct DryRunOptions {
    /// The policy repository, and what its commits must have.
    pub following: TrackedRepository,
    /// What is read of it.
    pub source: DocumentSource,
    /// The cluster.
    pub facts: Facts,
    /// This node.
    pub node: NodeName,
    /// Where the state of nodes is; a folder for each below it. It need not be there.
    pub state_folder: PathBuf,
}

/// Why nothing can be said.
#[derive(Debug, thiserror::Error)]
pub enum DryRunError {
    /// Git failed.
    #[error(transparent)]
    Git(#[from] git::Error),
    /// The kernel cannot be asked.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The first half of a round failed.
    #[error(transparent)]
    Round(#[from] RoundError),
}

impl DryRunError {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Git(error) => error.hint(),
            Self::Kernel(error) => error.hint(),
            Self::Round(error) => error.hint(),
        }
    }
}

/// What a run would do.
#[derive(Debug)]
pub struct DryRun {
    /// The revision that was asked about: its short name.
    pub revision: String,
    /// What happens now, with what is active. None: nothing is, and nothing happens.
    pub now: Option<NodePlan>,
    /// If the revision waits: for what, and what happens once it is let in.
    pub pending: Option<(PendingCommit, NodePlan)>,
    /// Errors in the revision's documents, and what is active in their place.
    pub rejected: Vec<Rejected>,
}

impl DryRun {
    /// The plan of the revision that was asked about.
    pub fn shown(&self) -> Option<&NodePlan> {
        self.pending.as_ref().map(|(_, plan)| plan).or(self.now.as_ref())
    }

    /// What a person should know: findings, documents with errors, and what happens before a pending revision does.
    pub fn findings(&self) -> Vec<Finding> {
        let rejected = self.rejected.iter().map(|rejected| {
            Finding::new("rejected-document", &rejected.place, rejected.message.clone()).hint(&rejected.instead)
        });
        let due = self.now.as_ref().filter(|now| self.pending.is_some() && !now.plan.is_empty()).map(|now| {
            let message =
                format!("is pending; `run` takes {} other steps at once, for what is active", now.plan.steps.len());
            Finding::new("due-now", &self.revision, message)
        });
        let found = self.shown().map(|shown| shown.evaluation.findings()).unwrap_or_default();
        rejected.chain(due).chain(found).collect()
    }
}

/// Documents that were read.
struct Documents {
    revision: String,
    active: Option<Arc<PolicySet>>,
    pending: Option<(PendingCommit, Arc<PolicySet>)>,
    rejected: Vec<Rejected>,
}

/// Finds what a run would do. Reading Git blocks, so this does; `runtime` is for asking the kernel.
pub fn dry_run(options: DryRunOptions, runtime: &tokio::runtime::Runtime) -> Result<DryRun, DryRunError> {
    let DryRunOptions { following, source, facts, node, state_folder } = options;
    let memory = StateStore::read(&state_folder.join(node.as_str()));
    let documents = match source {
        DocumentSource::Git { rev, mirror } => of_git(following, mirror, rev.as_deref(), &memory)?,
        DocumentSource::Files(files) => of_files(&following, files, &memory),
    };
    runtime.block_on(async {
        let mut kernel = Kernel::open(memory.kept().range().unwrap_or_default()).await?;
        kernel.look_only();
        let mut reconciler = Reconciler::new(kernel, Cluster::Fixed(facts), node, memory);
        let now = match &documents.active {
            Some(set) => Some(reconciler.plan(set).await?),
            None => None,
        };
        let pending = match documents.pending {
            Some((commit, set)) => Some((commit, reconciler.plan(&set).await?)),
            None => None,
        };
        Ok(DryRun { revision: documents.revision, now, pending, rejected: documents.rejected })
    })
}

fn of_git(
    following: TrackedRepository,
    mirror: PathBuf,
    rev: Option<&str>,
    memory: &StateStore,
) -> Result<Documents, DryRunError> {
    let read = read_once(RepositoryOptions { following, mirror, seed: 0 }, memory.kept().active.clone(), rev)?;
    let shown = read.pending.as_ref().map(|(_, revision)| revision).or(read.active.as_ref());
    Ok(Documents {
        revision: read.head.short(),
        rejected: shown.map(|revision: &DesiredRevision| revision.rejected.clone()).unwrap_or_default(),
        active: read.active.map(|revision| revision.set),
        pending: read.pending.map(|(commit, revision)| (commit, revision.set)),
    })
}

/// Files without a history: nobody judges them, and what is bad among them has the last good version that the node keeps.
fn of_files(following: &TrackedRepository, files: BTreeMap<String, FileUpdate>, memory: &StateStore) -> Documents {
    let mut catalogue = Catalogue::new(&following.cluster).with_label_keys(following.label_keys.as_deref());
    catalogue.import_good(&memory.kept().active.good);
    catalogue.update(files);
    let rejected = repository::rejected(&catalogue, &catalogue.diagnostics());
    let active = Some(Arc::new(catalogue.policies().clone()));
    Documents { revision: "the files as they are".to_owned(), active, pending: None, rejected }
}
