//! What `egret explain` and `egret status` know on a node: what is active there, what waits, and what its kernel holds, all of it only read.
//!
//! Documents come from the mirror that the node's own process keeps, as it has them: no network is needed, and what is explained is what
//! the node follows. Not here: the explanation (`core::explain`), and the first half of a round, which is that of a dry run.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use crate::core::admission::PendingCommit;
use crate::core::evaluation::Evaluation;
use crate::core::explain::{KernelReading, OpenConnection, Verdict, connections_told};
use crate::core::gate::ActiveRevision;
use crate::core::host_network::HostNetwork;
use crate::core::name::NodeName;
use crate::core::placement::Placement;
use crate::core::policy::PolicySet;
use crate::core::report::history::Rejected;
use crate::git::source::{Insecure, Source};
use crate::kernel::conntrack::{self, ConntrackError};
use crate::reconcile::node::dry_run::{DocumentSource, DryRunError, DryRunOptions, prepare};
use crate::reconcile::persistence::lock::Lock;
use crate::reconcile::persistence::state_store::StateStore;

/// What is known on a node.
#[derive(Debug)]
pub struct Inquiry {
    /// The short name of the commit that was read.
    pub revision: String,
    /// What is active; none: nothing is.
    pub active: Option<Arc<PolicySet>>,
    /// The commit that waits, with its policies.
    pub pending: Option<(PendingCommit, Arc<PolicySet>)>,
    /// Documents whose newest version is not active.
    pub rejected: Vec<Rejected>,
    /// The node's kernel; none while nothing is active.
    pub kernel: Option<NodeReading>,
}

/// A node's kernel as it was read, and what it has to hold.
#[derive(Debug)]
pub struct NodeReading {
    /// The kernel.
    pub kernel: KernelReading,
    /// The rest of it that matters.
    pub host_network: HostNetwork,
    /// The placement as it applies on this node.
    pub placement: Placement,
}

/// The active revision as a node remembers it; none: Egret never ran under this name here.
pub fn remembered(state_folder: &Path, node: &NodeName) -> Option<ActiveRevision> {
    let memory = StateStore::open(&state_folder.join(node.as_str()));
    let known = memory.kept().active.clone();
    known.commit.is_some().then_some(known)
}

/// Reads what a node knows. `options` names the repository for the case that the node has no mirror of it.
pub fn inquire(mut options: DryRunOptions, runtime: &tokio::runtime::Runtime) -> Result<Inquiry, DryRunError> {
    if let DocumentSource::Git { rev: rev @ None, .. } = &mut options.source
        && let Some((mirror, commit)) = own_mirror(&options.state_folder, &options.node)
    {
        options.following.source = mirror;
        *rev = Some(commit);
    }
    let node = options.node.clone();
    let (mut reconciler, documents) = prepare(options, runtime)?;
    runtime.block_on(async {
        let kernel = match &documents.active {
            Some(set) => {
                let plan = reconciler.plan(set).await?;
                let Evaluation { compiled, placement, .. } = plan.evaluation;
                let kernel = KernelReading {
                    node,
                    state: plan.observed,
                    compiled,
                    range: plan.range,
                    counters: reconciler.kernel.counters().await?,
                    unresolved: plan.host_network.unresolved.clone(),
                    running: Lock::is_held(),
                    at: reconciler.clock.now(),
                };
                Some(NodeReading { kernel, host_network: plan.host_network, placement })
            }
            None => None,
        };
        let (active, pending) = (documents.active, documents.pending);
        Ok(Inquiry { revision: documents.revision, active, pending, rejected: documents.rejected, kernel })
    })
}

/// The mirror that the node's process keeps, and the newest commit that it knows of.
fn own_mirror(state_folder: &Path, node: &NodeName) -> Option<(Source, String)> {
    let known = remembered(state_folder, node)?;
    let newest = known.pending.map(|pending| pending.commit).or(known.commit)?;
    let mirror = state_folder.join(node.as_str()).join("policy.git");
    let source = mirror.is_dir().then(|| Source::parse(mirror.to_str()?, Insecure::Refuse).ok())??;
    Some((source, newest))
}

impl NodeReading {
    /// The connections of an address of a pod to a destination, with the exits that they are on. `verdict`: what becomes of new ones.
    pub fn connections(
        &self,
        (source, destination): (IpAddr, IpAddr),
        verdict: &Verdict,
        runtime: &tokio::runtime::Runtime,
    ) -> Result<Vec<OpenConnection>, ConntrackError> {
        let all = runtime.block_on(conntrack::of_source(source))?;
        let tracked = self.kernel.compiled.exit_numbers(self.kernel.range).connections(&all, destination);
        Ok(connections_told(&self.kernel.node, &tracked, verdict))
    }
}
