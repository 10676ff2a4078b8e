//! The state of the repository thread: the mirror, the catalogue of active documents, and the admission gate between
//! both.
//!
//! Each fetched commit is judged. It is either read and becomes active, or is pending, and then the previous commit
//! stays active. A commit that changes nothing for this cluster is skipped. `egret plan` uses the same reader for one
//! read. Not here: the admission rules (`core::admission`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};
use tokio::time::{Instant, timeout_at};

use super::{
    Command, DesiredRevision, PolicyHistory, RepositoryEvent, RepositoryOptions, RevisionReading, changes, rejected,
};
use crate::backoff::Backoff;
use crate::clock::Clock;
use crate::core::admission::{AdmissionDecision, Emergency, PendingCommit, PendingReason};
use crate::core::allocation::{AllocatedFor, AllocationRequest};
use crate::core::gate::{ActiveRevision, Candidate, Gate};
use crate::core::policy::catalogue::{Catalogue, FileUpdate};
use crate::core::policy::demand::Demand;
use crate::core::signature::Signatures;
use crate::git::mirror::Head;
use crate::git::signature::{Unsigned, not_later};
use crate::git::{self, CommitId, CommitInfo, ErrorKind};

/// How long a repository may be behind what is active before that is reported: with two replicas, every other poll may be.
const UNREPORTED: Duration = Duration::from_secs(40);
/// How often in a row a repository has to be behind before it is believed.
const BELIEVED: u32 = 4;

/// The longest single wait for a wall-clock time: a clock that jumps is noticed after it.
const CLOCK: Duration = Duration::from_secs(10);

/// The state of the thread.
pub(super) struct RepositoryReader<H, O> {
    options: RepositoryOptions,
    open: O,
    clock: Clock,
    /// The revision to read instead of the branch's tip.
    rev: Option<String>,
    mirror: Option<H>,
    catalogue: Catalogue,
    /// The commit that was active at the start, as long as it was not found.
    known: Option<CommitId>,
    /// The same commit, if it is no longer in any history. As far as is known, no ancestor of the branch's tip was
    /// active.
    gone: Option<CommitId>,
    /// The persisted state of the active revision. Its commit is the one known at the start, or published by another
    /// process.
    active: ActiveRevision,
    /// The repository is behind what is active: since when, and how many polls found that.
    behind: Option<(Instant, u32)>,
    /// Commits that were active before the current one.
    predecessors: Arc<BTreeSet<CommitId>>,
    /// The result of checking the signatures of the pending tip.
    checked: Option<Checked>,
    /// The active commit; the catalogue has its documents.
    current: Option<CommitInfo>,
    /// The tip that was last judged.
    seen: Option<CommitId>,
    /// The same, if it is pending.
    pending: Option<Pending>,
    /// The paths given to the catalogue. When a whole tree is read again, a path that is not in it was deleted.
    paths: BTreeSet<String>,
    branch: String,
    /// Whether the desired revision was sent.
    sent: bool,
    /// When the repository was last polled.
    polled: Timestamp,
}

/// The branch's tip, and what it would change.
struct Pending {
    info: CommitInfo,
    /// The paths that are read with it.
    paths: BTreeSet<String>,
    /// The documents after it.
    after: Catalogue,
    candidate: Candidate,
}

/// Signatures that were checked, and the result, which is valid as long as the same is required.
struct Checked {
    demanded: Signatures,
    from: Option<CommitId>,
    head: CommitId,
    found: Result<(), Unsigned>,
}

impl<H: PolicyHistory, O: FnMut(&RepositoryOptions) -> git::Result<H>> RepositoryReader<H, O> {
    pub(super) fn new(options: RepositoryOptions, open: O, active: ActiveRevision, clock: Clock) -> Self {
        let mut catalogue = Catalogue::new(&options.following.cluster);
        catalogue = catalogue.with_label_keys(options.following.label_keys.as_deref());
        catalogue.import_good(&active.good);
        let branch = options.following.branch.clone().unwrap_or_default();
        Self {
            options,
            open,
            clock,
            rev: None,
            mirror: None,
            catalogue,
            known: active.commit.as_deref().and_then(CommitId::parse),
            gone: None,
            active,
            behind: None,
            predecessors: Arc::default(),
            checked: None,
            current: None,
            seen: None,
            pending: None,
            paths: BTreeSet::new(),
            branch,
            sent: false,
            polled: Timestamp::UNIX_EPOCH,
        }
    }

    /// Reads a revision once, or the tip of the branch.
    pub(super) fn read_once(&mut self, rev: Option<&str>) -> git::Result<RevisionReading> {
        self.rev = rev.map(str::to_owned);
        let active = match self.poll()? {
            RepositoryEvent::Intent(active) => Some(*active),
            _ => None,
        };
        // If nothing of this cluster's has changed, the active documents are those of the revision, too.
        let head = self.seen.or(self.current.as_ref().map(|current| current.id));
        let empty = || git::Error::Empty { repository: self.options.following.source.to_string() };
        let head = head.ok_or_else(empty)?;
        let pending = self.pending.take().zip(self.active.pending.clone());
        let pending = pending.and_then(|(pending, why)| match self.admit(pending, AdmissionDecision::Admitted) {
            RepositoryEvent::Intent(admitted) => Some((why, *admitted)),
            _ => None,
        });
        Ok(RevisionReading { head, active, pending })
    }

    /// Polls and sends events until the receiver is gone.
    pub(super) async fn serve(
        mut self,
        mut commands: UnboundedReceiver<Command>,
        news: UnboundedSender<RepositoryEvent>,
    ) {
        let mut backoff = Backoff::new(self.options.seed);
        loop {
            let result = self.poll();
            let wait = match &result {
                // A server's request to wait is respected, unless a command arrives.
                Err(error) if error.kind() == ErrorKind::Transient => {
                    backoff.next_wait().max(error.retry_after().unwrap_or_default())
                }
                Ok(_) => {
                    backoff.reset();
                    backoff.spread(self.options.following.poll)
                }
                Err(_) => backoff.spread(self.options.following.poll),
            };
            let messages = match result {
                Ok(message) => vec![message],
                // Git is unavailable at the start: the mirror still has the active revision.
                Err(error) => match self.last_active() {
                    Some(intent) => vec![RepositoryEvent::Intent(intent), RepositoryEvent::Fault(error)],
                    None => vec![RepositoryEvent::Fault(error)],
                },
            };
            if messages.into_iter().any(|message| news.send(message).is_err()) || !self.wait(&mut commands, wait).await
            {
                return;
            }
        }
    }

    /// Waits until the next poll is due: the interval has passed, a command arrives, or the time has come that a
    /// commit waits for. Returns false when the thread has to end.
    async fn wait(&mut self, commands: &mut UnboundedReceiver<Command>, wait: Duration) -> bool {
        let until = Instant::now() + wait;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            // An end that passed before the last poll without effect, because Git was unavailable, is handled by the
            // retries.
            let ends = self.active.pending.as_ref().and_then(|pending| pending.why.ends());
            let ends = ends.filter(|ends| *ends > self.polled);
            let by_clock =
                ends.map(|ends| Duration::try_from(ends.duration_since(self.clock.now())).unwrap_or_default());
            let slice = by_clock.map_or(left, |by_clock| left.min(by_clock).min(CLOCK));
            match timeout_at(Instant::now() + slice, commands.recv()).await {
                Ok(None) => return false,
                Err(_) if left.is_zero() || ends.is_some_and(|ends| ends <= self.clock.now()) => return true,
                Err(_) => {}
                Ok(Some(command)) => {
                    self.apply_command(&command);
                    while let Ok(command) = commands.try_recv() {
                        self.apply_command(&command);
                    }
                    return true;
                }
            }
        }
    }

    /// A commit that another process made active counts: this process must not take it back.
    fn apply_command(&mut self, command: &Command) {
        let Command::Published(commit, committed) = *command else { return };
        let Some(current) = self.current.as_ref().map(|current| current.id).filter(|current| *current != commit) else {
            if self.current.is_none() {
                self.recall_published(commit, committed);
            }
            return;
        };
        let older = self.mirror.as_ref().is_some_and(|mirror| {
            mirror.has(commit) && mirror.has(current) && mirror.is_ancestor(commit, current).unwrap_or(false)
        });
        // What was published has been replaced here already, and a commit that waits here was admitted there.
        if older && self.active.pending.is_none() {
            self.replaced(commit);
            self.sent = false;
        } else {
            self.recall_published(commit, committed);
        }
    }

    fn recall_published(&mut self, commit: CommitId, committed: Option<Timestamp>) {
        self.known = Some(commit);
        self.active.committed = committed;
        self.pending = None;
        self.seen = None;
        self.behind = None;
    }

    /// Records a commit that was active before the current one.
    fn replaced(&mut self, commit: CommitId) {
        Arc::make_mut(&mut self.predecessors).insert(commit);
    }

    /// Finds the branch's tip and judges it.
    fn poll(&mut self) -> git::Result<RepositoryEvent> {
        self.polled = self.clock.now();
        let mut mirror = if let Some(mirror) = self.mirror.take() { mirror } else { (self.open)(&self.options)? };
        let result = self.poll_mirror(&mut mirror);
        self.mirror = Some(mirror);
        result
    }

    fn poll_mirror(&mut self, mirror: &mut H) -> git::Result<RepositoryEvent> {
        self.recall(mirror)?;
        let known = [self.current.as_ref().map(|current| current.id), self.known, self.gone];
        mirror.keep(known.into_iter().flatten().collect());
        let head = match &self.rev {
            Some(rev) => Head { branch: rev.clone(), commit: mirror.resolve(rev)?, moved: true },
            None => mirror.head(self.options.following.branch.as_deref())?,
        };
        // A mirror that was created just now has the history only since then.
        self.recall(mirror)?;
        if let Some(held) = self.hold(mirror, &head)? {
            return Ok(held);
        }
        if let Some(known) = self.known.take() {
            tracing::warn!(commit = %known, "the active commit is not in the repository any more; the branch is taken as it is");
            self.replaced(known);
            self.sent = false;
            self.gone = Some(known);
        }
        let same_branch = self.branch == head.branch;
        let judged = self.pending.is_none() && self.seen == Some(head.commit);
        if self.sent && judged && same_branch {
            return Ok(RepositoryEvent::Unchanged);
        }
        if self.seen != Some(head.commit) {
            self.prepare(mirror, &head)?;
        }
        self.branch = head.branch;
        Ok(match self.pass(mirror)? {
            RepositoryEvent::Unchanged if !same_branch => self.desired_revision(true),
            news => news,
        })
    }

    /// Keeps what is active while the repository is behind it. Replicas behind one address may lag, and then every other
    /// poll finds an older tip: going back and forth would move pods between addresses each time.
    fn hold(&mut self, mirror: &H, head: &Head) -> git::Result<Option<RepositoryEvent>> {
        let lag = self.options.following.max_lag;
        let Some(active) = self.ahead_of(mirror, head).filter(|_| !lag.is_zero() && self.rev.is_none()) else {
            self.behind = None;
            return Ok(None);
        };
        let (since, polls) = self.behind.get_or_insert_with(|| (Instant::now(), 0));
        *polls += 1;
        let (lasted, polls) = (since.elapsed(), *polls);
        if lasted >= lag && polls >= BELIEVED {
            tracing::warn!(from = active.short(), to = head.commit.short(), "the branch went back, and stays there");
            self.behind = None;
            return Ok(None);
        }
        tracing::debug!(active = active.short(), tip = head.commit.short(), "the repository is behind what is active");
        if lasted < UNREPORTED {
            return Ok(Some(RepositoryEvent::Unchanged));
        }
        let repository = self.options.following.source.to_string();
        Err(git::Error::Behind { repository, tip: head.commit, active })
    }

    /// The commit that is active or was seen last, if the tip is behind it.
    fn ahead_of(&self, mirror: &H, head: &Head) -> Option<CommitId> {
        let newest = self.seen.or(self.current.as_ref().map(|current| current.id));
        let is_ahead = |newest: &CommitId| {
            // A history that cannot be walked says nothing.
            mirror.has(*newest) && mirror.is_ancestor(head.commit, *newest).unwrap_or(false)
        };
        self.known.or(newest.filter(|newest| *newest != head.commit).filter(is_ahead))
    }

    /// Returns to the active revision, so that documents that became invalid since then are recognised as such, and
    /// nothing pending becomes active.
    fn recall(&mut self, mirror: &H) -> git::Result<()> {
        let Some(known) = self.known.filter(|known| mirror.has(*known)) else { return Ok(()) };
        let (info, changes) = (mirror.commit_info(known)?, self.changes(mirror, known)?);
        self.paths = self.paths_after(&changes);
        self.catalogue.recall(changes);
        self.set_current(info);
        self.known = None;
        self.active.emergency.take_if(|emergency| emergency.commit != known.to_string());
        // The next receiver has to get the revision.
        self.sent = false;
        Ok(())
    }

    /// What a commit would change in the active revision.
    fn changes(&self, mirror: &H, to: CommitId) -> git::Result<BTreeMap<String, FileUpdate>> {
        let from = self.current.as_ref().map(|current| current.id).filter(|current| mirror.has(*current));
        let mut changes = changes(mirror.changes(from, to)?);
        if from.is_none() {
            for path in &self.paths {
                changes.entry(path.clone()).or_insert(FileUpdate::Removed);
            }
        }
        Ok(changes)
    }

    /// Reads what is needed to judge a tip. Nothing is kept of one that changes nothing for this cluster.
    fn prepare(&mut self, mirror: &H, head: &Head) -> git::Result<()> {
        let info = mirror.commit_info(head.commit)?;
        let changes = self.changes(mirror, head.commit)?;
        let trailers = mirror.trailers(head.commit)?;
        self.seen = Some(head.commit);
        self.pending = None;
        if self.current.is_some() && !self.catalogue.concerned(&changes) {
            tracing::info!(commit = info.id.short(), "nothing of this cluster's has changed");
            return Ok(());
        }
        let paths = self.paths_after(&changes);
        let after = self.catalogue.after(changes);
        let facts = self.options.facts.get();
        let candidate = self.gate().candidate(&info.id.to_string(), &after, trailers, facts.as_deref());
        self.pending = Some(Pending { info, paths, after, candidate });
        Ok(())
    }

    /// The gate that a new commit has to pass.
    fn gate(&self) -> Gate<'_> {
        Gate {
            active: &self.active,
            catalogue: &self.catalogue,
            reached: self.current.is_some(),
            first_start: self.current.is_none() && self.gone.is_none() && !self.active.lost,
            lost: self.current.is_none() && self.gone.is_none() && self.active.lost,
            windows: self.options.following.windows.as_ref(),
        }
    }

    /// Admits the tip, or leaves it pending.
    fn pass(&mut self, mirror: &H) -> git::Result<RepositoryEvent> {
        let Some(pending) = self.pending.take() else {
            let waited = self.active.pending.take().is_some();
            return Ok(if waited || !self.sent { self.desired_revision(true) } else { RepositoryEvent::Unchanged });
        };
        let why = match self.judge(mirror, &pending) {
            Ok(AdmissionDecision::Pending(why)) => why,
            Ok(verdict) => return Ok(self.admit(pending, verdict)),
            Err(error) => {
                self.pending = Some(pending);
                return Err(error);
            }
        };
        let CommitInfo { id, summary, author, .. } = &pending.info;
        let commit = id.to_string();
        let before = self.active.pending.as_ref().filter(|before| before.commit == commit);
        let since = before.map_or(self.polled, |before| before.since);
        let pending_commit = PendingCommit { commit, summary: summary.clone(), author: author.clone(), since, why };
        let same = before == Some(&pending_commit);
        if !same {
            tracing::warn!(reason = pending_commit.why.as_str(), "{}", pending_commit.message());
        }
        self.active.pending = Some(pending_commit.clone());
        self.pending = Some(pending);
        Ok(match &self.current {
            _ if self.sent && same => RepositoryEvent::Unchanged,
            Some(_) => self.desired_revision(true),
            None => {
                self.sent = true;
                RepositoryEvent::Pending(Box::new(pending_commit))
            }
        })
    }

    /// Judges whether a tip becomes active.
    fn judge(&mut self, mirror: &H, pending: &Pending) -> git::Result<AdmissionDecision> {
        let unsigned = self.check_signatures(mirror, pending)?.err();
        let unsigned =
            unsigned.map(|Unsigned { commit, what }| PendingReason::Unsigned { commit: commit.to_string(), what });
        Ok(self.gate().judge(&pending.candidate, unsigned, self.polled))
    }

    /// Whether a new commit is signed as the flags and the active egret.yaml require.
    fn check_signatures(&mut self, mirror: &H, pending: &Pending) -> git::Result<Result<(), Unsigned>> {
        let active = self.gate().signatures(&pending.candidate);
        let flags = &self.options.following.signatures;
        let Some(demanded) = flags.with(active.as_ref())? else { return Ok(Ok(())) };
        let from = self.current.as_ref().map(|current| current.id).or(self.gone);
        let head = pending.info.id;
        let same = |checked: &&Checked| checked.head == head && checked.from == from && checked.demanded == demanded;
        if let Some(checked) = self.checked.as_ref().filter(same) {
            return Ok(checked.found.clone());
        }
        let mut found = mirror.verify(demanded.require, &flags.keys(&demanded)?, from, head)?;
        if let (Ok(()), Some((gone, committed))) = (&found, self.out_of_reach(mirror)) {
            found = not_later(gone, committed, &pending.info).map_or(Ok(()), Err);
        }
        self.checked = Some(Checked { demanded, from, head, found: found.clone() });
        Ok(found)
    }

    /// The active commit and its time, if the mirror does not have it any more.
    fn out_of_reach(&self, mirror: &H) -> Option<(CommitId, Timestamp)> {
        let current = self.current.as_ref().map(|current| (current.id, current.time));
        let all = self.gone.zip(self.active.committed).into_iter().chain(current);
        all.filter(|(commit, _)| !mirror.has(*commit)).max_by_key(|(_, committed)| *committed)
    }

    fn admit(&mut self, pending: Pending, verdict: AdmissionDecision) -> RepositoryEvent {
        let Pending { info, paths, after, .. } = pending;
        self.active.pending = None;
        self.active.emergency = match verdict {
            AdmissionDecision::Emergency { trailer, reason } => {
                let emergency = Emergency { commit: info.id.to_string(), author: info.author.clone(), trailer, reason };
                tracing::warn!("{}", emergency.message());
                Some(emergency)
            }
            AdmissionDecision::Admitted | AdmissionDecision::Pending(_) => None,
        };
        (self.paths, self.catalogue) = (paths, after);
        self.set_current(info);
        self.gone = None;
        self.desired_revision(true)
    }

    fn set_current(&mut self, commit: CommitInfo) {
        if let Some(before) = self.current.replace(commit) {
            self.replaced(before.id);
        }
    }

    fn paths_after(&self, changes: &BTreeMap<String, FileUpdate>) -> BTreeSet<String> {
        let mut paths = self.paths.clone();
        for (path, change) in changes {
            if *change == FileUpdate::Removed {
                paths.remove(path);
            } else {
                paths.insert(path.clone());
            }
        }
        paths
    }

    /// The last active revision, if the first poll failed and the mirror still has it.
    fn last_active(&mut self) -> Option<Box<DesiredRevision>> {
        if self.sent {
            return None;
        }
        match self.desired_revision(false) {
            RepositoryEvent::Intent(intent) => Some(intent),
            _ => None,
        }
    }

    fn desired_revision(&mut self, fetched: bool) -> RepositoryEvent {
        let Some(commit) = self.current.clone() else { return RepositoryEvent::Unchanged };
        self.sent = true;
        let diagnostics = self.catalogue.diagnostics();
        let mut set = self.catalogue.policies().clone();
        set.config.signatures = self.gate().active_signatures();
        self.active.signatures.clone_from(&set.config.signatures);
        set.config.change_windows = self.gate().active_windows();
        self.active.windows = Some(set.config.change_windows.clone());
        let active = ActiveRevision {
            commit: Some(commit.id.to_string()),
            committed: commit.committed(),
            good: self.catalogue.export_good(),
            lost: false,
            ..self.active.clone()
        };
        let by = AllocatedFor { commit: commit.id.to_string(), committed: commit.committed() };
        let asked = AllocationRequest { demand: Demand::of(&set), by };
        RepositoryEvent::Intent(Box::new(DesiredRevision {
            set: Arc::new(set),
            asked: Some(Arc::new(asked)),
            commit,
            branch: self.branch.clone(),
            rejected: rejected(&self.catalogue, &diagnostics),
            diagnostics,
            active,
            predecessors: Arc::clone(&self.predecessors),
            fetched,
        }))
    }
}
