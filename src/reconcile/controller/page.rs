//! The controller's page: hands over what it watches, when a viewer asks.
//!
//! Each controller has one, the leader or not: it shows what is published and what agents report of it. The controller
//! watches no pods; one that a viewer asks about is read then. Not here: what is shown (`core::page`), and HTTP
//! (`serve::ui`).

use std::sync::Arc;

use super::pod_list::host_networks;
use super::{Controller, ControllerOptions};
use crate::cluster::live::{ApiClient, View};
use crate::core::facts::PodName;
use crate::core::overview::Urgency;
use crate::core::page::Knowledge;
use crate::reconcile::gitops::history_reader::HistoryReader;
use crate::reconcile::published_state::PublishedState;
use crate::serve::Server;
use crate::serve::ui::{self, PageRequest, PageRequests};
use crate::telemetry::chain;

/// The server, and what it asks.
pub(super) struct ControllerPage {
    requests: PageRequests,
    history: Arc<HistoryReader>,
    _server: Server,
}

impl ControllerPage {
    /// Starts the server, if there is one.
    pub(super) fn start(options: &ControllerOptions) -> std::io::Result<Option<Self>> {
        let Some(ui) = options.ui.clone() else { return Ok(None) };
        let history = Arc::new(HistoryReader::new(options.following.clone(), options.state_folder.clone()));
        let (server, requests) = ui::start(ui, Arc::clone(&history) as _)?;
        tracing::info!(address = %server.address(), "the page is served");
        Ok(Some(Self { requests, history, _server: server }))
    }
}

/// The next request; never, if there is no page.
pub(super) async fn next(page: &mut Option<ControllerPage>) -> PageRequest {
    match page {
        Some(page) => page.requests.next().await,
        None => std::future::pending().await,
    }
}

impl Controller {
    /// Answers a request, beside the loop.
    pub(super) fn show(&self, request: PageRequest) {
        let Some(page) = &self.page else { return };
        if !self.watching.synced() {
            return request.answer(Err("not all is known of the cluster yet".to_owned()));
        }
        let mut known = Knowledge::nothing(&self.options.following.cluster, self.live.clock().now());
        let leads = if self.leading.fence().is_some() { "leads" } else { "does not lead" };
        known.teller = format!("controller {}, which {leads}", self.options.identity);
        known.pages = page.history.pages(self.options.previews.as_ref().map(|target| target.kind));
        known.pulls = self.pulls.open();
        known.faults = self.faults();
        if let Some(intent) = &self.intent {
            known.pending.clone_from(&intent.active.pending);
        }
        let leases = !self.watching.closed().contains_key("leases");
        let (mut view, live) = (self.watching.view().clone(), self.live.clone());
        tokio::spawn(async move {
            if let Some(pod) = &request.pod
                && let Err(why) = add_pod(&live, pod, &mut view).await
            {
                return request.answer(Err(why));
            }
            let done = tokio::task::spawn_blocking(move || completed(known, view, leases)).await;
            request.answer(done.unwrap_or_else(|_| Err("what is published could not be read".to_owned())));
        });
    }

    /// What goes wrong in this process.
    fn faults(&self) -> Vec<(Urgency, String)> {
        let git = self.git_fault.as_ref().map(|fault| format!("Git cannot be read: {fault}"));
        let leads = self.leading.fence().is_some();
        let reports = self.sender.publisher().fault().filter(|_| leads);
        let reports = reports.map(|fault| format!("drift reports are not committed: {fault}"));
        let previews = self.pulls.fault().and_then(Result::err).filter(|_| leads);
        let previews = previews.map(|fault| format!("pull requests are not previewed: {fault}"));
        let watches =
            self.watching.faults().values().map(|fault| format!("{}; what is known of it stays", fault.message));
        [git, reports, previews].into_iter().flatten().chain(watches).map(|fault| (Urgency::Doubtful, fault)).collect()
    }
}

/// Reads a pod and its namespace.
async fn add_pod(live: &ApiClient, name: &PodName, view: &mut View) -> Result<(), String> {
    let read = live.pod(name).await.map_err(|error| format!("the pod cannot be read: {}", chain(&error)))?;
    if let Some((pod, namespace)) = read {
        view.facts.pods.insert(name.clone(), pod);
        view.facts.namespaces.insert(name.namespace.clone(), namespace);
    }
    Ok(())
}

/// What is published, and what follows from it.
fn completed(mut known: Knowledge, view: View, leases: bool) -> Result<Arc<Knowledge>, String> {
    known.host_networks = host_networks(&view);
    let state = PublishedState::new(view, leases, known.now).map_err(|error| error.to_string())?;
    state.cluster().clone_into(&mut known.cluster);
    state.revision().clone_into(&mut known.revision);
    (known.overview, known.rates) = (Some(state.overview()), state.rates());
    known.reports = state.reports();
    known.waits = state.waits();
    known.rejected = state.rejected();
    let (set, mut facts, placement) = state.into_parts();
    facts.host_networks.clone_from(&known.host_networks);
    (known.set, known.facts, known.placement) = (Arc::new(set), Arc::new(facts), Some(placement));
    Ok(Arc::new(known))
}
