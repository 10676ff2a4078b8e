//! The controller's triggers and its reactions to them: Git, pull requests, webhooks, the cluster, the Lease, and
//! timers.
//!
//! A webhook reaches any one of the controllers. A controller that does not lead writes the time of the push into the
//! EgressConfig, where the leader reads it. Not here: a pass (`pass`). What was pushed is read from Git.

use std::time::{Duration, SystemTime};

use tokio::sync::mpsc::{Receiver, UnboundedReceiver};
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, sleep_until};

use super::pod_list::host_networks;
use super::{Controller, ControllerError, ControllerOptions, GATHER, RESYNC, page};
use crate::cluster::live::Changed;
use crate::core::facts::Facts;
use crate::reconcile::gitops::publisher::BranchAllocation;
use crate::reconcile::gitops::pulls::{PreviewCluster, PullPreviewEvent, PullPreviewOptions};
use crate::reconcile::gitops::repository::{DesiredRevision, RepositoryEvent};
use crate::reconcile::gitops::webhook::{Webhook, WebhookEvent};
use crate::reconcile::process::{StartError, Stop};
use crate::serve::Metrics;
use crate::serve::ui::PageRequest;
use crate::telemetry::chain;

/// The event that woke the loop.
enum Trigger {
    News(Option<RepositoryEvent>),
    Pushed,
    /// A webhook announced a change of a pull request.
    Proposed,
    /// The thread for pull requests.
    Pulls(PullPreviewEvent),
    Cluster(Changed),
    Role,
    /// The allocation of pools was read from the reports branch, or written.
    Allocated(Option<BranchAllocation>),
    Page(PageRequest),
    Time,
    Stop,
}

/// The sources of triggers beside those that the controller itself holds.
pub(super) struct Sources {
    pub(super) stop: Stop,
    pub(super) news: UnboundedReceiver<RepositoryEvent>,
    pub(super) pushes: Receiver<()>,
    pub(super) hook: Webhook,
    pub(super) allocations: watch::Receiver<Option<BranchAllocation>>,
}

/// The options of the thread for pull requests, if previews are enabled.
pub(super) fn pulls_of(options: &ControllerOptions, metrics: &Metrics, seed: u64) -> Option<PullPreviewOptions> {
    let target = options.previews.clone()?;
    metrics.preview(None);
    Some(PullPreviewOptions {
        following: options.following.clone(),
        mirror: options.state_folder.join("pulls.git"),
        seed,
        target,
        metrics: metrics.clone(),
    })
}

impl Controller {
    /// Runs until SIGTERM or SIGINT.
    pub(super) async fn run(mut self, mut from: Sources) -> Result<(), ControllerError> {
        tracing::info!(source = %self.options.following.source, server = self.live.server(), "egret's controller runs");
        loop {
            self.health.beat();
            let trigger = match self.next(&mut from).await {
                Trigger::Stop => break,
                trigger => trigger,
            };
            if self.react(trigger)? {
                self.gather().await;
                self.turn().await;
            }
        }
        tracing::info!("egret's controller ends; nodes go on with what was published");
        self.leading.release().await;
        self.sender.finish();
        Ok(())
    }

    async fn next(&mut self, from: &mut Sources) -> Trigger {
        let wake = self.wake();
        tokio::select! {
            biased;
            () = from.stop.wait() => Trigger::Stop,
            message = from.news.recv() => Trigger::News(message),
            Some(()) = from.pushes.recv() => Trigger::Pushed,
            event = from.hook.next_event() => {
                self.announce_push();
                match event {
                    WebhookEvent::Pushed => Trigger::Pushed,
                    WebhookEvent::Proposed => Trigger::Proposed,
                }
            }
            event = self.pulls.next_event() => Trigger::Pulls(event),
            () = self.leading.changed() => Trigger::Role,
            Ok(()) = from.allocations.changed() => Trigger::Allocated(from.allocations.borrow_and_update().clone()),
            changed = self.watching.changed() => Trigger::Cluster(changed),
            () = sleep_until(wake) => Trigger::Time,
            request = page::next(&mut self.page) => Trigger::Page(request),
        }
    }

    /// Returns whether a pass is due.
    fn react(&mut self, trigger: Trigger) -> Result<bool, ControllerError> {
        Ok(match trigger {
            Trigger::Stop => false,
            Trigger::News(Some(message)) => self.on_repository_event(message),
            Trigger::News(None) => return Err(StartError::ended("the repository's thread").into()),
            Trigger::Pushed => {
                self.repository.poll();
                self.pulls.poll();
                false
            }
            Trigger::Proposed => {
                self.pulls.poll();
                false
            }
            Trigger::Pulls(PullPreviewEvent::NeedsCluster(reply)) => {
                self.send_preview_cluster(reply);
                false
            }
            Trigger::Cluster(changed) => {
                self.on_push_announced();
                self.ends_wait(changed)
            }
            Trigger::Pulls(PullPreviewEvent::Changed) => true,
            Trigger::Allocated(branch) => {
                let resolved = self.addresses.learn(branch, &mut self.memory);
                let news = resolved.is_some();
                self.intent = resolved.or(self.intent.take());
                news
            }
            Trigger::Role => self.leading.fence() != self.last_fence,
            Trigger::Time => self.on_timer(),
            Trigger::Page(request) => {
                self.show(request);
                false
            }
        })
    }

    /// Whether a change of the cluster makes a pass due. After a pass that failed it does not, before the retry: what the
    /// pass itself wrote is a change, too. An API server that answers again is asked at once.
    fn ends_wait(&mut self, changed: Changed) -> bool {
        // Every agent renews its Lease all the time.
        if changed == (Changed { heartbeats: true, ..Changed::default() }) && !self.observe_heartbeats() {
            return false;
        }
        let recovered = changed.faults && self.watching.faults().is_empty();
        if recovered || self.retry_at.is_some_and(|at| at <= Instant::now()) {
            self.retry_at = None;
        }
        self.retry_at.is_none()
    }

    fn wake(&self) -> Instant {
        let (clock, instant) = (self.live.clock().now(), Instant::now());
        let schedule =
            self.scheduled.map(|at| instant + Duration::try_from(at.duration_since(clock)).unwrap_or_default());
        [self.due, schedule].into_iter().flatten().fold(instant + RESYNC, Instant::min)
    }

    /// Takes in an event of the repository. Returns whether it makes a pass due.
    fn on_repository_event(&mut self, event: RepositoryEvent) -> bool {
        let before = self.git_fault.clone();
        match event {
            RepositoryEvent::Intent(intent) => {
                if intent.fetched {
                    self.metrics.git_fetched(SystemTime::now());
                }
                self.git_fault = None;
                self.take(*intent);
                return true;
            }
            RepositoryEvent::Unchanged | RepositoryEvent::Pending(_) => {
                self.metrics.git_fetched(SystemTime::now());
                self.git_fault = None;
            }
            RepositoryEvent::Fault(error @ crate::git::Error::Empty { .. }) => {
                tracing::info!("{error}; waiting for the first");
                self.git_fault = Some(error.to_string());
            }
            RepositoryEvent::Fault(error) => {
                let fault = chain(&error);
                if before.as_ref() != Some(&fault) {
                    tracing::warn!(error = fault, hint = error.hint(), "Git failed; what is published stays");
                }
                self.git_fault = Some(fault);
            }
        }
        self.git_fault != before
    }

    fn take(&mut self, intent: DesiredRevision) {
        intent.log_diagnostics(self.intent.as_ref());
        self.schedule.follow(intent.set.config.schedule.as_ref());
        self.pulls.base(&intent.branch);
        self.intent = Some(self.addresses.take(intent));
    }

    /// The time that came is used up: a turn that cannot do anything, because this process does not lead or does not
    /// know enough, must not find it again at once.
    fn on_timer(&mut self) -> bool {
        self.due = None;
        let clock = self.live.clock().now();
        if self.scheduled.take_if(|at| *at <= clock).is_some() {
            // The schedule compares everything, whether or not a push was noticed.
            self.repository.poll();
        }
        true
    }

    /// Waits for a burst of events to end.
    async fn gather(&mut self) {
        let until = Instant::now() + GATHER;
        loop {
            tokio::select! {
                biased;
                () = sleep_until(until) => return,
                _ = self.watching.changed() => {}
            }
        }
    }

    /// Announces a push to the leader, unless this process is the leader. If that fails, the leader notices the push
    /// at its next poll.
    pub(super) fn announce_push(&self) {
        if self.leading.fence().is_some() {
            return;
        }
        let live = self.live.clone();
        tokio::spawn(async move {
            if let Err(error) = live.announce_push(&live.clock().now().to_string()).await {
                tracing::warn!(error = chain(&error), "the leader could not be notified of a push");
            }
        });
    }

    /// Polls Git at once if another controller announced a push.
    pub(super) fn on_push_announced(&mut self) {
        let pushed = self.watching.view().config.as_ref().and_then(|config| config.pushed.clone());
        if pushed.is_some() && pushed != self.pushed {
            self.pushed = pushed;
            self.repository.poll();
            self.pulls.poll();
        }
    }

    /// Sends the cluster's state for a preview. The controller watches no pods: it lists them in a separate task,
    /// because that may take a while. A controller that does not know enough sends nothing, and the thread requests it again.
    pub(super) fn send_preview_cluster(&self, reply: oneshot::Sender<Result<PreviewCluster, String>>) {
        if !self.watching.synced() || self.intent.is_none() {
            return;
        }
        let (live, nodes, reports) =
            (self.live.clone(), self.watching.view().facts.nodes.clone(), self.reports.clone());
        let view = self.watching.view();
        let (host_networks, held) = (host_networks(view), view.facts.held.clone());
        let pod_networks = view.facts.pod_networks.clone();
        let allocation = self.addresses.allocation().cloned().unwrap_or_default();
        tokio::spawn(async move {
            match live.list_facts().await {
                Ok(facts) => {
                    let facts = Facts { nodes, pod_networks, held, ..facts };
                    let situation = PreviewCluster { facts, host_networks, reports, allocation };
                    let _ = reply.send(Ok(situation));
                }
                Err(error) => {
                    let hint = error.hint();
                    tracing::warn!(error = chain(&error), hint, "pods cannot be listed for previews");
                    let _ = reply.send(Err(chain(&error)));
                }
            }
        });
    }
}
