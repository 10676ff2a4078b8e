//! The dry run behind `egret plan`: finds what `egret run` would do on this node without doing it, with the same
//! reader, admission rules and reconciler.
//!
//! Not here: printing (`cli::plan`).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;

use crate::clock::Clock;
use crate::cluster::Cluster;
use crate::core::admission::PendingCommit;
use crate::core::allocation::{self, AddressChange, Allocation, complete, propose};
use crate::core::facts::Facts;
use crate::core::finding::Finding;
use crate::core::gate::ActiveRevision;
use crate::core::name::NodeName;
use crate::core::policy::PolicySet;
use crate::core::policy::catalogue::{Catalogue, FileUpdate};
use crate::core::policy::demand::Demand;
use crate::core::report::history::Rejected;
use crate::core::snapshot;
use crate::git;
use crate::kernel::{Kernel, KernelError};
use crate::reconcile::gitops::repository::{self, DesiredRevision, KnownFacts, RepositoryOptions, read_once};
use crate::reconcile::gitops::tracked_repository::TrackedRepository;
use crate::reconcile::node::round::{NodePlan, Reconciler, RoundError};
use crate::reconcile::persistence::state_store::StateStore;

/// The source of the documents.
#[derive(Debug, Clone)]
pub enum DocumentSource {
    /// A revision, or the tip of the branch, as a node would admit it.
    Git {
        /// A revision instead of the branch.
        rev: Option<String>,
        /// An empty folder for a mirror.
        mirror: PathBuf,
    },
    /// Files of a folder without Git.
    Files(BTreeMap<String, FileUpdate>),
}

/// The options of `egret plan`, validated.
#[derive(Debug)]
pub struct DryRunOptions {
    /// The policy repository, and the requirements for its commits.
    pub following: TrackedRepository,
    /// The source of the documents.
    pub source: DocumentSource,
    /// The cluster's facts.
    pub facts: Facts,
    /// The node's name.
    pub node: NodeName,
    /// The folder of nodes' states, one folder below it per node. It need not exist.
    pub state_folder: PathBuf,
}

/// Why there is no plan.
#[derive(Debug, thiserror::Error)]
pub enum DryRunError {
    /// Git failed.
    #[error(transparent)]
    Git(#[from] git::Error),
    /// The kernel cannot be read.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The allocation of pools cannot be read.
    #[error(transparent)]
    Allocation(#[from] allocation::Unreadable),
    /// The first half of a round failed.
    #[error(transparent)]
    Round(#[from] RoundError),
}

impl DryRunError {
    /// What the operator can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Git(error) => error.hint(),
            Self::Kernel(error) => error.hint(),
            Self::Round(error) => error.hint(),
            Self::Allocation(_) => Some("restore the file from the history of the reports branch".to_owned()),
        }
    }
}

/// What a run would do.
#[derive(Debug)]
pub struct DryRun {
    /// The short name of the requested revision.
    pub revision: String,
    /// What happens now, with what is active. None: nothing is active, and nothing happens.
    pub now: Option<NodePlan>,
    /// If the revision is pending: what it waits for, and what happens once it is admitted.
    pub pending: Option<(PendingCommit, NodePlan)>,
    /// Errors in the revision's documents, and what is active in their place.
    pub rejected: Vec<Rejected>,
    /// What becomes of addresses of pools with the requested revision.
    pub addresses: Vec<AddressChange>,
}

/// The code of the findings of addresses that policies get of pools.
const POOL_ADDRESS: &str = "pool-address";

impl DryRun {
    /// The plan of the requested revision.
    pub fn shown(&self) -> Option<&NodePlan> {
        self.pending.as_ref().map(|(_, plan)| plan).or(self.now.as_ref())
    }

    /// Findings for the operator, documents with errors, and what happens before a pending revision does.
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
        let addresses = self.addresses.iter().map(|one| Finding::new(POOL_ADDRESS, &self.revision, one.to_string()));
        rejected.chain(due).chain(addresses).chain(found).collect()
    }
}

/// The documents that were read.
pub(super) struct Documents {
    pub(super) revision: String,
    pub(super) active: Option<Arc<PolicySet>>,
    pub(super) pending: Option<(PendingCommit, Arc<PolicySet>)>,
    pub(super) rejected: Vec<Rejected>,
    /// What becomes of addresses of pools.
    pub(super) addresses: Vec<AddressChange>,
}

/// Finds what a run would do. It blocks on Git; `runtime` is for reading the kernel.
pub fn dry_run(options: DryRunOptions, runtime: &tokio::runtime::Runtime) -> Result<DryRun, DryRunError> {
    let (mut reconciler, documents) = prepare(options, runtime)?;
    runtime.block_on(async {
        let now = match &documents.active {
            Some(set) => Some(reconciler.plan(set).await?),
            None => None,
        };
        let pending = match documents.pending {
            Some((commit, set)) => Some((commit, reconciler.plan(&set).await?)),
            None => None,
        };
        Ok(DryRun {
            revision: documents.revision,
            now,
            pending,
            rejected: documents.rejected,
            addresses: documents.addresses,
        })
    })
}

/// A reconciler that changes nothing, and the documents that it is to apply.
pub(super) fn prepare(
    options: DryRunOptions,
    runtime: &tokio::runtime::Runtime,
) -> Result<(Reconciler, Documents), DryRunError> {
    let DryRunOptions { following, source, facts, node, state_folder } = options;
    let memory = StateStore::open(&state_folder.join(node.as_str()));
    let mut kernel = runtime.block_on(Kernel::open(memory.kept().range().unwrap_or_default()))?;
    kernel.read_only();
    let pods = KnownFacts::default();
    pods.set(facts.clone());
    let mut reconciler = Reconciler::new(kernel, Cluster::Fixed(facts), node, memory, Clock::system());
    let known = runtime.block_on(reconciler.known())?;
    // As the node read it last; what the reports branch says now comes before it.
    let copy = reconciler.memory.kept().allocation.as_deref().and_then(|text| allocation::read(text).ok());
    let (mut documents, branch) = match source {
        DocumentSource::Git { rev, mirror } => {
            let options =
                RepositoryOptions { following: following.clone(), mirror: mirror.clone(), seed: 0, facts: pods };
            let documents = of_git(options, rev.as_deref(), known)?;
            let branch =
                documents.reports_branch().map(|branch| allocation_of(&following, &mirror, branch)).transpose()?;
            (documents, branch.flatten())
        }
        DocumentSource::Files(files) => (of_files(&following, files, &known), None),
    };
    documents.addresses = documents.give_addresses(&branch.or(copy).unwrap_or_default(), Clock::system().now());
    Ok((reconciler, documents))
}

impl Documents {
    /// The reports branch, where what is asked of pools is kept.
    fn reports_branch(&self) -> Option<&str> {
        let shown = self.pending.as_ref().map(|(_, set)| set).or(self.active.as_ref())?;
        (!Demand::of(shown).is_empty()).then_some(shown.config.reports_branch.as_str())
    }

    /// Puts addresses in place of what is asked of pools. Returns what is new with the requested revision.
    fn give_addresses(&mut self, known: &Allocation, now: Timestamp) -> Vec<AddressChange> {
        let mut changes = Vec::new();
        let nothing = Arc::new(PolicySet::default());
        let active = self.active.clone();
        if let Some(active) = &mut self.active {
            let addresses = complete(known, active, now);
            (*active, changes) = (Arc::new(addresses.after), addresses.changes);
        }
        if let Some((_, pending)) = &mut self.pending {
            let addresses = propose(known, active.as_ref().unwrap_or(&nothing), pending, now);
            (*pending, changes) = (Arc::new(addresses.after), addresses.changes);
        }
        changes
    }
}

/// The allocation that the reports branch has now; none without a branch.
fn allocation_of(
    following: &TrackedRepository,
    folder: &Path,
    branch: &str,
) -> Result<Option<Allocation>, DryRunError> {
    let mut mirror = following.open_to_read(folder)?;
    let Ok(commit) = mirror.resolve(branch) else { return Ok(None) };
    let text = mirror.text(commit, allocation::FILE, snapshot::LARGEST)?;
    Ok(text.map(|text| allocation::read(&text)).transpose()?)
}

fn of_git(options: RepositoryOptions, rev: Option<&str>, known: ActiveRevision) -> Result<Documents, DryRunError> {
    let read = read_once(options, known, rev)?;
    let shown = read.pending.as_ref().map(|(_, revision)| revision).or(read.active.as_ref());
    Ok(Documents {
        revision: read.head.short(),
        rejected: shown.map(|revision: &DesiredRevision| revision.rejected.clone()).unwrap_or_default(),
        active: read.active.map(|revision| revision.set),
        pending: read.pending.map(|(commit, revision)| (commit, revision.set)),
        addresses: Vec::new(),
    })
}

/// Files without a history are not subject to admission. A file with errors is replaced by the last good version that
/// the node keeps.
fn of_files(following: &TrackedRepository, files: BTreeMap<String, FileUpdate>, known: &ActiveRevision) -> Documents {
    let mut catalogue = Catalogue::new(&following.cluster).with_label_keys(following.label_keys.as_deref());
    catalogue.import_good(&known.good);
    catalogue.update(files);
    let rejected = repository::rejected(&catalogue, &catalogue.diagnostics());
    let active = Some(Arc::new(catalogue.policies().clone()));
    let (revision, addresses) = ("the files as they are".to_owned(), Vec::new());
    Documents { revision, active, pending: None, rejected, addresses }
}
