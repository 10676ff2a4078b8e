//! One poll of all open pull requests: lists them, finds those that are due, reads what each changes, and posts the
//! previews.
//!
//! A pull request that fails does not affect the others: its failure is posted on it and counted. Not here: when a
//! poll is due (`poll_schedule`).

use std::collections::BTreeMap;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::oneshot;

use super::posted::{PostedPreviews, PreviewSubject};
use super::{IsLeader, Open, PreviewCluster, PullPreviewEvent, PullPreviewOptions};
use crate::core::overview::Urgency;
use crate::core::page::OpenPull;
use crate::core::preview::{CostLimits, DisplayLimits, refusal};
use crate::core::text::short_commit;
use crate::forge::app::TokenPurpose;
use crate::forge::{self, CheckConclusion, ForgeErrorKind, ForgeKind, Post, Posted, Pull};
use crate::git::mirror::Mirror;
use crate::git::pull_requests::PullHead;
use crate::git::{self, CommitId, ErrorKind};
use crate::reconcile::gitops::preview::{ClusterContext, MergeBase, ProposedChange};
use crate::serve::PreviewResult;
use crate::telemetry::chain;

/// The most pull requests that are previewed: those updated last.
const MOST_PULLS: usize = 50;
/// The most bytes of text that may differ in a pull request. All of it is read, parsed and compiled; no reviewer
/// reads more either.
const MOST_TEXT: usize = 2 << 20;
/// The largest size of the mirror, in bytes. Beyond it the mirror is created anew, without the objects of closed pull
/// requests.
const ROOM: u64 = 256 << 20;
/// The shortest time between two renewals of the mirror.
const RENEW: Duration = Duration::from_hours(6);

/// The longest `Retry-After` of a forge that is respected.
const LONGEST: Duration = Duration::from_hours(1);

/// Why no pull request could be handled.
#[derive(Debug, thiserror::Error)]
pub(super) enum PollError {
    /// The policy repository is unavailable.
    #[error("fetch pull requests")]
    Git(#[from] git::Error),
    /// The forge is unavailable, or denies access.
    #[error("talk to the forge about pull requests")]
    Forge(#[from] forge::ForgeError),
}

impl PollError {
    /// What the operator can do about it.
    pub(super) fn hint(&self) -> Option<String> {
        match self {
            Self::Git(error) => error.hint(),
            Self::Forge(error) => error.hint(),
        }
    }

    /// How long the forge or the Git server asks to wait.
    pub(super) fn wait(&self) -> Option<Duration> {
        match self {
            Self::Git(error) => error.retry_after(),
            Self::Forge(error) => {
                let wait = error.until()?.duration_since(Timestamp::now());
                Some(Duration::try_from(wait).unwrap_or_default().min(LONGEST))
            }
        }
    }
}

/// The result of a poll.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PollResult {
    pub(super) done: PollOutcome,
    /// Why some pull request does not have its preview.
    pub(super) fault: Option<String>,
}

/// How far the poll got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PollOutcome {
    /// Everything is posted.
    All,
    /// The Git server does not have all commits yet that the forge lists.
    Soon,
    /// Not enough is known of the cluster, or another controller leads.
    NotNow,
}

/// State kept from one poll to the next.
pub(super) struct Poller<'a> {
    options: &'a PullPreviewOptions,
    leads: &'a IsLeader,
    events: &'a UnboundedSender<PullPreviewEvent>,
    open: &'a Open,
    mirror: Option<Mirror>,
    previews: PostedPreviews,
    /// Heads that are not fetched again, and why.
    hopeless: BTreeMap<PullHead, String>,
    renewed: Option<Instant>,
    /// The tip of the target branch.
    tip: Option<CommitId>,
    left_out: usize,
}

/// A pull request and what it changes.
struct Due {
    pull: Pull,
    subject: PreviewSubject,
}

impl<'a> Poller<'a> {
    pub(super) fn new(
        options: &'a PullPreviewOptions,
        leads: &'a IsLeader,
        events: &'a UnboundedSender<PullPreviewEvent>,
        open: &'a Open,
    ) -> Self {
        Self {
            options,
            leads,
            events,
            open,
            mirror: None,
            previews: PostedPreviews::default(),
            hopeless: BTreeMap::new(),
            renewed: None,
            tip: None,
            left_out: 0,
        }
    }

    /// Another process leads: what is remembered is no longer true.
    pub(super) fn forget(&mut self) {
        self.previews.forget();
        self.hopeless.clear();
        self.listed(Vec::clear);
    }

    /// Changes the list of open pull requests.
    fn listed(&self, change: impl FnOnce(&mut Vec<OpenPull>)) {
        change(&mut self.open.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Lists the pull requests that are open now; what is known of their previews stays.
    fn list(&self, pulls: &[Pull]) {
        self.listed(|open| {
            let known = std::mem::take(open);
            open.extend(pulls.iter().map(|pull| {
                let before = known.iter().find(|one| one.number == pull.number && one.head == pull.head_sha);
                OpenPull {
                    number: pull.number,
                    title: pull.title.clone(),
                    page: self.options.target.forge.page(pull.number),
                    head: pull.head_sha.clone(),
                    draft: pull.draft,
                    summary: before.and_then(|one| one.summary.clone()),
                    urgency: before.map_or(Urgency::Fine, |one| one.urgency),
                    updated: pull.updated,
                }
            }));
        });
    }

    /// Notes what a preview says.
    fn note(&self, number: u64, summary: &str, verdict: CheckConclusion) {
        let failed = verdict == CheckConclusion::Failed;
        self.listed(|open| {
            for one in open.iter_mut().filter(|one| one.number == number) {
                one.summary = Some(summary.to_owned());
                one.urgency = if failed { Urgency::Doubtful } else { Urgency::Fine };
            }
        });
    }

    /// Polls the pull requests against a branch.
    pub(super) fn poll(&mut self, branch: &str) -> Result<PollResult, PollError> {
        let pulls = self.open_pulls(branch)?;
        let mut mirror = match self.mirror.take() {
            Some(mirror) => mirror,
            None => self.options.following.mirror(&self.options.mirror)?,
        };
        let result = self.poll_with(&mut mirror, branch, pulls);
        self.mirror = Some(mirror);
        result
    }

    fn open_pulls(&mut self, branch: &str) -> Result<Vec<Pull>, PollError> {
        let mut pulls = self.options.target.forge.open_pulls(branch).map_err(|error| self.noted(error))?;
        pulls.sort_by_key(|pull| (std::cmp::Reverse(pull.updated), pull.number));
        let left_out = pulls.len().saturating_sub(MOST_PULLS);
        if left_out > 0 && left_out != self.left_out {
            tracing::warn!(left_out, "only the {MOST_PULLS} pull requests that were touched last are previewed");
        }
        self.left_out = left_out;
        pulls.truncate(MOST_PULLS);
        self.previews.keep(|number| pulls.iter().any(|pull| pull.number == number));
        self.list(&pulls);
        Ok(pulls)
    }

    fn poll_with(&mut self, mirror: &mut Mirror, branch: &str, pulls: Vec<Pull>) -> Result<PollResult, PollError> {
        let now = Instant::now();
        if mirror.size() > ROOM && self.renewed.is_none_or(|renewed| now.duration_since(renewed) >= RENEW) {
            self.renewed = Some(now);
            mirror.renew();
            self.hopeless.clear();
        }
        let tip = mirror.head(Some(branch))?.commit;
        self.tip = Some(tip);
        let absent = self.fetch(mirror, &pulls)?;
        let mut done = PollOutcome::All;
        let mut due = Vec::new();
        for pull in pulls {
            match self.subject(mirror, tip, &pull, &absent) {
                None => done = PollOutcome::Soon,
                Some(subject) if self.previews.is_due(pull.number, &subject, now) => due.push(Due { pull, subject }),
                Some(_) => {}
            }
        }
        if !due.is_empty() {
            done = match self.request_cluster() {
                Some(Ok(situation)) => self.post_all(mirror, due, &situation, done)?,
                Some(Err(why)) => return Ok(PollResult { done: PollOutcome::NotNow, fault: Some(why) }),
                None => PollOutcome::NotNow,
            };
        }
        Ok(PollResult { done, fault: self.previews.fault() })
    }

    fn post_all(
        &mut self,
        mirror: &Mirror,
        due: Vec<Due>,
        situation: &PreviewCluster,
        mut done: PollOutcome,
    ) -> Result<PollOutcome, PollError> {
        for one in due {
            if !(self.leads)() {
                return Ok(PollOutcome::NotNow);
            }
            match self.post(mirror, one, situation) {
                Ok(true) => {}
                Ok(false) => done = PollOutcome::Soon,
                Err(error) => {
                    self.options.metrics.preview(Some(PreviewResult::Failed));
                    return Err(error);
                }
            }
        }
        Ok(done)
    }

    /// Fetches missing heads. Returns those that are still missing, and why.
    fn fetch(&mut self, mirror: &mut Mirror, pulls: &[Pull]) -> Result<BTreeMap<PullHead, Option<String>>, PollError> {
        let heads: Vec<PullHead> = pulls.iter().filter_map(|pull| self.head_of(pull)).collect();
        self.hopeless.retain(|head, _| heads.contains(head));
        let mut absent: BTreeMap<PullHead, Option<String>> =
            self.hopeless.iter().map(|(head, why)| (head.clone(), Some(why.clone()))).collect();
        let wanted: Vec<PullHead> = heads.into_iter().filter(|head| !self.hopeless.contains_key(head)).collect();
        for (head, error) in mirror.pull_heads(&wanted, ROOM)? {
            let why = error.as_ref().map(|error| chain(error));
            let large = matches!(error, Some(git::Error::TooMuch { .. } | git::Error::Oversized { .. }));
            if let Some(why) = why.as_ref().filter(|_| large) {
                self.hopeless.insert(head.clone(), why.clone());
            }
            absent.insert(head, why);
        }
        Ok(absent)
    }

    fn head_of(&self, pull: &Pull) -> Option<PullHead> {
        let commit = CommitId::parse(&pull.head_sha)?;
        let name = match self.options.target.kind {
            ForgeKind::GitLab => format!("refs/merge-requests/{}/head", pull.number),
            ForgeKind::GitHub | ForgeKind::Gitea => format!("refs/pull/{}/head", pull.number),
        };
        Some(PullHead { name, commit })
    }

    /// What a pull request changes; none if that is not known yet.
    fn subject(
        &mut self,
        mirror: &Mirror,
        tip: CommitId,
        pull: &Pull,
        absent: &BTreeMap<PullHead, Option<String>>,
    ) -> Option<PreviewSubject> {
        let refused = |why: String| Some(PreviewSubject::Refused { head: pull.head_sha.clone(), why });
        let Some(head) = self.head_of(pull) else {
            return refused(format!("the forge reports the head {}, which is no commit", pull.head_sha));
        };
        if let Some(why) = absent.get(&head) {
            let permanent = self.hopeless.contains_key(&head) || self.previews.is_absent(pull.number, &pull.head_sha);
            let unknown = || format!("its head is not what {} leads to in the repository", head.name);
            return if permanent { refused(why.clone().unwrap_or_else(unknown)) } else { None };
        }
        match mirror.merge_base(tip, head.commit) {
            Ok(Some(base)) => {
                self.previews.is_present(pull.number);
                Some(PreviewSubject::Change { base, head: head.commit })
            }
            Ok(None) => refused("it has no history in common with the branch that policies are read from".to_owned()),
            Err(error) if self.previews.is_absent(pull.number, &pull.head_sha) => refused(chain(&error)),
            Err(_) => None,
        }
    }

    /// Asks the loop for the cluster's state.
    fn request_cluster(&self) -> Option<Result<PreviewCluster, String>> {
        let (reply, answer) = oneshot::channel();
        self.events.send(PullPreviewEvent::NeedsCluster(reply)).ok()?;
        answer.blocking_recv().ok()
    }

    /// Posts the preview of one pull request unless it is posted already. Returns whether the previewed commit was
    /// still its head.
    fn post(&mut self, mirror: &Mirror, due: Due, situation: &PreviewCluster) -> Result<bool, PollError> {
        let Due { pull, subject } = due;
        let number = pull.number;
        let began = Instant::now();
        let post = match &subject {
            PreviewSubject::Change { base, head } => match self.preview(mirror, *base, *head, situation) {
                Ok(post) => post,
                // The next attempt would fail the same way.
                Err(error) if error.kind() == ErrorKind::NeedsIntervention => self.refused(&pull, &chain(&error)),
                Err(error) => {
                    self.failed(number, subject, "", (chain(&error), error.hint()), began);
                    return Ok(true);
                }
            },
            PreviewSubject::Refused { why, .. } => self.refused(&pull, why),
        };
        self.note(number, &post.summary, post.verdict);
        if self.previews.is_posted(number, &subject, &post.body, began) || !(self.leads)() {
            return Ok(true);
        }
        let posted = match self.options.target.forge.post(number, &pull.head_sha, &post) {
            Ok(posted) => posted,
            Err(error) if concerns_all(&error) => return Err(self.noted(error).into()),
            Err(error) => {
                self.failed(number, subject, &post.body, (chain(&error), error.hint()), began);
                return Ok(true);
            }
        };
        if matches!(posted.comment, forge::PostAction::Overtaken) {
            return Ok(false);
        }
        if let forge::PostAction::Refused(error) = &posted.comment {
            self.failed(number, subject, &post.body, (chain(error), error.hint()), began);
            return Ok(true);
        }
        self.without_status(number, &posted);
        let became = if is_news(&posted) { PreviewResult::Posted } else { PreviewResult::Unchanged };
        self.options.metrics.preview(Some(became));
        self.previews.record(number, subject, &post.body, None, began);
        tracing::info!(number, head = pull.head_sha, took = ?began.elapsed(), "pull request previewed, {}", post.title);
        Ok(true)
    }

    /// A rejected status does not hide the comment, and would be rejected the next time, too: GitLab accepts none for
    /// a commit of a fork. It is logged once.
    fn without_status(&mut self, number: u64, posted: &Posted) {
        match &posted.status {
            forge::PostAction::Refused(error) if self.previews.is_first_without_status(number) => {
                tracing::warn!(error = chain(error), hint = error.hint(), number, "the commit's status is not taken");
            }
            _ => {}
        }
    }

    fn failed(
        &mut self,
        number: u64,
        subject: PreviewSubject,
        text: &str,
        (why, hint): (String, Option<String>),
        now: Instant,
    ) {
        self.note(number, &format!("not previewed: {why}"), CheckConclusion::Failed);
        self.options.metrics.preview(Some(PreviewResult::Failed));
        tracing::warn!(error = why, hint, number, "a pull request is not previewed");
        self.previews.record(number, subject, text, Some(why), now);
    }

    /// A token that was rejected is not used again.
    fn noted(&self, error: forge::ForgeError) -> forge::ForgeError {
        if let (Some(app), ForgeErrorKind::Refused { status: 401, .. }) = (&self.options.target.app, error.fault()) {
            app.forget(TokenPurpose::Pulls);
        }
        error
    }

    fn preview(
        &self,
        mirror: &Mirror,
        base: CommitId,
        head: CommitId,
        situation: &PreviewCluster,
    ) -> git::Result<Post> {
        let cluster = &self.options.following.cluster;
        let keys = self.options.following.label_keys.as_deref();
        let base = MergeBase::read(mirror, base, self.tip.unwrap_or(base), cluster, keys)?;
        let surroundings = ClusterContext {
            facts: &situation.facts,
            // This contains no time: the same preview must give the same comment.
            facts_from: "this preview",
            host_networks: &situation.host_networks,
            reports: &situation.reports,
            allocation: &situation.allocation,
            now: Timestamp::now(),
            signatures: &self.options.following.signatures,
            windows: self.options.following.windows.as_ref(),
            limits: DisplayLimits::default(),
            most: MOST_TEXT,
            work: CostLimits::PROPOSED,
        };
        let change = ProposedChange::read(mirror, cluster, base, head, surroundings)?;
        let preview = change.preview(surroundings);
        Ok(Post::of(&preview, None))
    }

    fn refused(&self, pull: &Pull, why: &str) -> Post {
        Post {
            cluster: self.options.following.cluster.clone(),
            body: refusal(&self.options.following.cluster, short_commit(&pull.head_sha), why),
            title: format!("{}: not previewed", self.options.following.cluster),
            summary: why.to_owned(),
            verdict: CheckConclusion::Failed,
            details: None,
            annotations: Vec::new(),
        }
    }
}

/// Whether the error concerns all pull requests. Comments of ours may be recognised by the status of one commit, and
/// not of another.
fn concerns_all(error: &forge::ForgeError) -> bool {
    match error.fault() {
        ForgeErrorKind::Refused { status, .. } => *status == 401 || *status >= 500,
        ForgeErrorKind::Answer(_) | ForgeErrorKind::Elsewhere(_) | ForgeErrorKind::Nobody => false,
        _ => true,
    }
}

/// Whether anything was written.
fn is_news(posted: &Posted) -> bool {
    let parts = [Some(&posted.comment), Some(&posted.status), posted.check.as_ref()];
    parts
        .into_iter()
        .flatten()
        .any(|done| matches!(done, forge::PostAction::Created(_) | forge::PostAction::Updated(_)))
}
