//! The page of a standalone node: hands over what the loop knows, when a viewer asks.
//!
//! The loop reads its kernel, which takes milliseconds, and copies what it decides by. What other nodes report is read from Git beside it.
//! Not here: what is shown (`core::page`), and HTTP (`serve::ui`).

use std::path::PathBuf;
use std::sync::Arc;

use super::Node;
use crate::core::overview::Urgency;
use crate::core::page::Knowledge;
use crate::reconcile::gitops::history_reader::HistoryReader;
use crate::reconcile::gitops::tracked_repository::TrackedRepository;
use crate::reconcile::node::kernel::NodeKernel;
use crate::serve::Server;
use crate::serve::ui::{self, PageRequest, PageRequests, UiOptions};
use crate::telemetry::chain;

/// The server, and what it asks.
pub(super) struct NodePage {
    requests: PageRequests,
    history: Arc<HistoryReader>,
    cluster: String,
    _server: Server,
}

impl NodePage {
    /// Starts the server. The process keeps its mirrors in this folder.
    pub(super) fn start(options: UiOptions, following: TrackedRepository, folder: PathBuf) -> std::io::Result<Self> {
        let cluster = following.cluster.clone();
        let history = Arc::new(HistoryReader::new(following, folder));
        let (server, requests) = ui::start(options, Arc::clone(&history) as _)?;
        tracing::info!(address = %server.address(), "the page is served");
        Ok(Self { requests, history, cluster, _server: server })
    }
}

/// The next request; never, if there is no page.
pub(super) async fn next(page: &mut Option<NodePage>) -> PageRequest {
    match page {
        Some(page) => page.requests.next().await,
        None => std::future::pending().await,
    }
}

impl<K: NodeKernel> Node<K> {
    /// Answers a request: with what is known here at once, and with what others report once that is read.
    pub(super) async fn show(&mut self, request: PageRequest) {
        let Some(page) = &self.page else { return };
        let (history, cluster) = (Arc::clone(&page.history), page.cluster.clone());
        let mut known = self.knowledge(&cluster).await;
        known.pages = history.pages(None);
        let branch = self.driver.intent.as_ref().map(|intent| &intent.set.config);
        let branch = branch.filter(|config| config.reports).map(|config| config.reports_branch.clone());
        tokio::spawn(async move {
            if let Some(branch) = branch {
                let read = tokio::task::spawn_blocking(move || {
                    let (others, fault) = history.nodes(&branch);
                    (others, fault.map(|fault| chain(&fault)))
                });
                let (others, fault) = read.await.unwrap_or_default();
                known.add_reports(others.reports);
                for (node, network) in others.host_networks {
                    known.host_networks.entry(node).or_insert(network);
                }
                let told = |fault| (Urgency::Doubtful, format!("what other nodes report cannot be read: {fault}"));
                known.faults.extend(fault.map(told));
            }
            request.answer(Ok(Arc::new(known)));
        });
    }

    /// What is known here.
    async fn knowledge(&mut self, cluster: &str) -> Knowledge {
        let now = self.driver.reconciler.clock.now();
        let mut known = Knowledge::nothing(cluster, now);
        let reconciler = &mut self.driver.reconciler;
        known.teller = format!("process on the node {}", reconciler.node);
        match reconciler.reading().await {
            Ok(Some(reading)) => {
                known.host_networks = [(reconciler.node.clone(), reading.host_network)].into();
                known.placement = reading.placement;
                known.kernel = Some(reading.kernel);
                known.counters = Some(reading.counted);
            }
            Ok(None) => {}
            Err(error) => known.faults.push((Urgency::Bad, format!("the kernel cannot be read: {}", chain(&error)))),
        }
        known.reports = [(reconciler.node.clone(), reconciler.report.clone())].into();
        let read = self.repository.facts();
        known.facts = read.unwrap_or_else(|| Arc::new(reconciler.cluster.facts().clone()));
        let failed = self.driver.fault().map(|fault| (Urgency::Bad, format!("not applied: {fault}")));
        let git = self.git_fault.as_ref().map(|fault| (Urgency::Doubtful, format!("Git cannot be read: {fault}")));
        let reports = self.reports.publisher().fault();
        let reports = reports.map(|fault| (Urgency::Doubtful, format!("drift reports are not committed: {fault}")));
        known.faults.extend([failed, git, reports].into_iter().flatten());
        if let Some(intent) = &self.driver.intent {
            known.revision = intent.commit.id.to_string();
            known.set = Arc::clone(&intent.set);
            known.rejected.clone_from(&intent.rejected);
            known.pending.clone_from(&intent.active.pending);
        } else if let Some(pending) = &self.pending {
            known.pending = Some(pending.as_ref().clone());
        }
        known
    }
}
