//! What lives on the repository's thread: the mirror, the catalogue of what is in force, and the gate between both.
//!
//! A commit that was fetched is judged, and either read and in force, or withheld; then the last one stays in force. A commit that
//! changes nothing of this cluster's is neither: it is passed over. Deliberately absent: anything that has to do with another thread
//! but the channel it ends with, and what the rules are (`core::admission`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::sync::mpsc::UnboundedSender;

use super::{DesiredRevision, KnownRevision, RepositoryEvent, RepositoryOptions, Wish, changes, rejected};
use crate::backoff::Backoff;
use crate::core::admission::{
    AdmissionDecision, AdmissionRules, ChangeWindows, Emergency, PendingCommit, PendingReason, Suspension,
};
use crate::core::diagnostic::{Diagnostic, Severity};
use crate::core::policy::catalogue::{Catalogue, FileUpdate};
use crate::core::policy::document::CONFIG_FILE;
use crate::core::signature::Signatures;
use crate::git::mirror::{Head, Mirror};
use crate::git::signature::{Unsigned, not_later, verify};
use crate::git::{self, CommitId, CommitInfo, ErrorKind};
use crate::reconcile::now;

/// Waits for the clock are cut into these: a clock that jumps is noticed at the next.
const CLOCK: Duration = Duration::from_secs(10);

/// What lives on the thread.
pub(super) struct RepositoryReader {
    options: RepositoryOptions,
    mirror: Option<Mirror>,
    catalogue: Catalogue,
    /// What was in force when we began, as long as it was not found.
    known: Option<CommitId>,
    /// The same, if it is in no history any more. Nothing of what leads to the head was in force, as far as we know.
    gone: Option<CommitId>,
    /// When it, or the known one, was committed.
    committed: Option<Timestamp>,
    /// What egret.yaml demanded of commits when it could last be read.
    signatures: Option<Signatures>,
    /// When egret.yaml let commits in when it could last be read.
    windows: Option<ChangeWindows>,
    /// What was found of the signatures of the head that waits.
    checked: Option<Checked>,
    /// The commit that is in force: the catalogue is of it.
    current: Option<CommitInfo>,
    /// The head that was last judged.
    seen: Option<CommitId>,
    /// The same, if it waits.
    pending: Option<Pending>,
    withheld: Option<PendingCommit>,
    /// How the commit in force came through a closed window, if it did.
    emergency: Option<Emergency>,
    /// The paths that the catalogue was told of: when a whole tree is read again, what is not in it is gone.
    paths: BTreeSet<String>,
    branch: String,
    /// Whether anybody was told what is asked for.
    told: bool,
    /// When it was last looked.
    looked: Timestamp,
}

/// A head, and what it would change.
struct Pending {
    info: CommitInfo,
    changes: BTreeMap<String, FileUpdate>,
    trailers: Vec<(String, String)>,
    suspension: Option<Suspension>,
    /// What its own egret.yaml demands: at a first start there is no other.
    signatures: Option<Signatures>,
}

/// Signatures that were looked at, and what was found: it stays so while the question is the same.
struct Checked {
    demanded: Signatures,
    from: Option<CommitId>,
    head: CommitId,
    found: Result<(), Unsigned>,
}

impl RepositoryReader {
    pub(super) fn new(options: RepositoryOptions, known: KnownRevision) -> Self {
        let mut catalogue = Catalogue::new(&options.following.cluster);
        catalogue = catalogue.with_label_keys(options.following.label_keys.as_deref());
        catalogue.import_good(&known.good);
        let branch = options.following.branch.clone().unwrap_or_default();
        Self {
            options,
            mirror: None,
            catalogue,
            known: known.commit.and_then(|id| CommitId::parse(&id)),
            gone: None,
            committed: known.committed,
            signatures: known.signatures,
            windows: known.windows,
            checked: None,
            current: None,
            seen: None,
            pending: None,
            withheld: known.withheld,
            emergency: known.emergency,
            paths: BTreeSet::new(),
            branch,
            told: false,
            looked: Timestamp::UNIX_EPOCH,
        }
    }

    /// Looks and tells until nobody listens any more.
    pub(super) fn serve(mut self, wished: &Receiver<Wish>, news: &UnboundedSender<RepositoryEvent>) {
        let mut backoff = Backoff::new(self.options.seed);
        loop {
            let result = self.look();
            let wait = match &result {
                // A server that asks to be left alone is, unless somebody pushes.
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
                // Git is away at the start: what was in force is still in the mirror.
                Err(error) => match self.last_in_force() {
                    Some(intent) => vec![RepositoryEvent::Intent(intent), RepositoryEvent::Fault(error)],
                    None => vec![RepositoryEvent::Fault(error)],
                },
            };
            if messages.into_iter().any(|message| news.send(message).is_err()) || !self.wait(wished, wait) {
                return;
            }
        }
    }

    /// Waits until the next look is due: this time has passed, somebody wishes one, or what a commit waits for has come. False: it is
    /// time to end.
    fn wait(&mut self, wished: &Receiver<Wish>, wait: Duration) -> bool {
        let until = Instant::now() + wait;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            // What came before the last look and changed nothing, as Git was away, is tried again with everything else.
            let ends = self.withheld.as_ref().and_then(|withheld| withheld.why.ends());
            let ends = ends.filter(|ends| *ends > self.looked);
            let by_clock = ends.map(|ends| Duration::try_from(ends.duration_since(now())).unwrap_or_default());
            let slice = by_clock.map_or(left, |by_clock| left.min(by_clock).min(CLOCK));
            match wished.recv_timeout(slice) {
                Err(RecvTimeoutError::Disconnected) => return false,
                Err(RecvTimeoutError::Timeout) if left.is_zero() || ends.is_some_and(|ends| ends <= now()) => {
                    return true;
                }
                Err(RecvTimeoutError::Timeout) => {}
                Ok(wish) => {
                    self.heed(&wish);
                    while let Ok(wish) = wished.try_recv() {
                        self.heed(&wish);
                    }
                    return true;
                }
            }
        }
    }

    /// While a commit waits here, what another process put in force meanwhile counts: it must not be taken back by us.
    fn heed(&mut self, wish: &Wish) {
        if let Wish::Published(commit, committed) = *wish
            && self.withheld.is_some()
            && self.current.as_ref().is_none_or(|current| current.id != commit)
        {
            self.known = Some(commit);
            self.committed = committed;
            self.pending = None;
            self.seen = None;
        }
    }

    /// Looks where the branch is, and judges what is there.
    fn look(&mut self) -> git::Result<RepositoryEvent> {
        self.looked = now();
        let mut mirror = if let Some(mirror) = self.mirror.take() {
            mirror
        } else {
            self.options.following.mirror(&self.options.mirror)?
        };
        let result = self.look_at(&mut mirror);
        self.mirror = Some(mirror);
        result
    }

    fn look_at(&mut self, mirror: &mut Mirror) -> git::Result<RepositoryEvent> {
        self.recall(mirror)?;
        mirror.keep(self.current.as_ref().map(|current| current.id).into_iter().chain(self.known).chain(self.gone));
        let head = mirror.head(self.options.following.branch.as_deref())?;
        // A mirror that was made just now has the history only since then.
        self.recall(mirror)?;
        if let Some(known) = self.known.take() {
            tracing::warn!(commit = %known, "what was in force is not in the repository any more; the branch is taken as it is");
            self.gone = Some(known);
        }
        let same_branch = self.branch == head.branch;
        let settled = self.pending.is_none() && self.seen == Some(head.commit);
        if self.told && settled && same_branch {
            return Ok(RepositoryEvent::Unchanged);
        }
        if self.seen != Some(head.commit) {
            self.prepare(mirror, &head)?;
        }
        self.branch = head.branch;
        Ok(match self.pass(mirror)? {
            RepositoryEvent::Unchanged if !same_branch => self.tell(true),
            news => news,
        })
    }

    /// Goes back to what is in force already, so that documents which became bad since then are recognised as such, and nothing that
    /// waits slips in.
    fn recall(&mut self, mirror: &Mirror) -> git::Result<()> {
        let Some(known) = self.known.filter(|known| mirror.has(*known)) else { return Ok(()) };
        let (info, changes) = (mirror.commit_info(known)?, self.changes(mirror, known)?);
        self.take_in(changes);
        self.current = Some(info);
        self.known = None;
        self.emergency.take_if(|emergency| emergency.commit != known.to_string());
        // Whoever is told of it next has to hear of it.
        self.told = false;
        Ok(())
    }

    /// What a commit would change in what is in force.
    fn changes(&self, mirror: &Mirror, to: CommitId) -> git::Result<BTreeMap<String, FileUpdate>> {
        let from = self.current.as_ref().map(|current| current.id).filter(|current| mirror.has(*current));
        let mut changes = changes(mirror.changes(from, to, &everything())?);
        if from.is_none() {
            for path in &self.paths {
                changes.entry(path.clone()).or_insert(FileUpdate::Removed);
            }
        }
        Ok(changes)
    }

    /// Reads what is needed to judge a head. Nothing is kept of one that changes nothing of ours.
    fn prepare(&mut self, mirror: &Mirror, head: &Head) -> git::Result<()> {
        let info = mirror.commit_info(head.commit)?;
        let changes = self.changes(mirror, head.commit)?;
        let trailers = mirror.trailers(head.commit)?;
        self.seen = Some(head.commit);
        self.pending = None;
        if self.current.is_some() && !self.catalogue.concerned(&changes) {
            tracing::info!(commit = info.id.short(), "nothing of this cluster's has changed");
            return Ok(());
        }
        let (suspension, signatures) = match self.catalogue.config_after(&changes) {
            Some(config) => (config.suspend, config.signatures),
            // An egret.yaml that cannot be read lifts nothing.
            None => (self.last_suspension(), None),
        };
        self.pending = Some(Pending { info, changes, trailers, suspension, signatures });
        Ok(())
    }

    /// The suspension that was last known to hold.
    fn last_suspension(&self) -> Option<Suspension> {
        match self.withheld.as_ref().map(|withheld| &withheld.why) {
            Some(PendingReason::Suspended { until: Some(until), owner, reason }) => {
                Some(Suspension { until: *until, owner: owner.clone(), reason: reason.clone() })
            }
            _ => self.catalogue.policies().config.suspend.clone(),
        }
    }

    /// Lets the head in, or not.
    fn pass(&mut self, mirror: &Mirror) -> git::Result<RepositoryEvent> {
        let Some(pending) = self.pending.take() else {
            let waited = self.withheld.take().is_some();
            return Ok(if waited || !self.told { self.tell(true) } else { RepositoryEvent::Unchanged });
        };
        let why = match self.judge(mirror, &pending) {
            Ok(AdmissionDecision::Withheld(why)) => why,
            Ok(verdict) => return Ok(self.admit(pending, verdict)),
            Err(error) => {
                self.pending = Some(pending);
                return Err(error);
            }
        };
        let CommitInfo { id, summary, author, .. } = &pending.info;
        let commit = id.to_string();
        let before = self.withheld.as_ref().filter(|before| before.commit == commit);
        let since = before.map_or(self.looked, |before| before.since);
        let withheld = PendingCommit { commit, summary: summary.clone(), author: author.clone(), since, why };
        let same = before == Some(&withheld);
        if !same {
            tracing::warn!(reason = withheld.why.word(), "{}", withheld.message());
        }
        self.withheld = Some(withheld.clone());
        self.pending = Some(pending);
        Ok(match &self.current {
            _ if self.told && same => RepositoryEvent::Unchanged,
            Some(_) => self.tell(true),
            None => {
                self.told = true;
                RepositoryEvent::Withheld(Box::new(withheld))
            }
        })
    }

    /// Whether a head comes into force: its signature first, then a suspension, then the windows. A first start is let in whatever the
    /// time: who has nothing in force sends packets with wrong addresses.
    fn judge(&mut self, mirror: &Mirror, pending: &Pending) -> git::Result<AdmissionDecision> {
        if let Err(Unsigned { commit, what }) = self.check_signatures(mirror, pending)? {
            return Ok(AdmissionDecision::Withheld(PendingReason::Unsigned { commit: commit.to_string(), what }));
        }
        if self.current.is_none() && self.gone.is_none() {
            return Ok(AdmissionDecision::Admitted);
        }
        let windows = self.options.following.windows.clone().unwrap_or_else(|| self.windows());
        let rules =
            AdmissionRules { windows: &windows, suspension: pending.suspension.as_ref(), trailers: &pending.trailers };
        Ok(rules.judge(self.looked))
    }

    /// Whether what comes in is signed as flags and egret.yaml in force demand it. What the commit itself says of it counts only where
    /// nothing is in force: whoever can write the first commit can write all of it.
    fn check_signatures(&mut self, mirror: &Mirror, pending: &Pending) -> git::Result<Result<(), Unsigned>> {
        let first = self.current.is_none() && self.gone.is_none();
        let in_force = if first { pending.signatures.clone() } else { self.demanded() };
        let flags = &self.options.following.signatures;
        let Some(demanded) = flags.with(in_force.as_ref())? else { return Ok(Ok(())) };
        let from = self.current.as_ref().map(|current| current.id).or(self.gone);
        let head = pending.info.id;
        let same = |checked: &&Checked| checked.head == head && checked.from == from && checked.demanded == demanded;
        if let Some(checked) = self.checked.as_ref().filter(same) {
            return Ok(checked.found.clone());
        }
        let mut found = verify(mirror, demanded.require, &flags.keys(&demanded)?, from, head)?;
        if let (Ok(()), Some((gone, committed))) = (&found, self.out_of_reach(mirror)) {
            found = not_later(gone, committed, &pending.info).map_or(Ok(()), Err);
        }
        self.checked = Some(Checked { demanded, from, head, found: found.clone() });
        Ok(found)
    }

    /// What is in force, and since when, if the mirror does not have it any more.
    fn out_of_reach(&self, mirror: &Mirror) -> Option<(CommitId, Timestamp)> {
        let current = self.current.as_ref().map(|current| (current.id, current.time));
        let all = self.gone.zip(self.committed).into_iter().chain(current);
        all.filter(|(commit, _)| !mirror.has(*commit)).max_by_key(|(_, committed)| *committed)
    }

    /// What egret.yaml in force demands of commits. One that cannot be read takes nothing back.
    fn demanded(&self) -> Option<Signatures> {
        let own = self.catalogue.policies().config.signatures.clone();
        if self.unread() { own.or_else(|| self.signatures.clone()) } else { own }
    }

    /// When egret.yaml in force lets commits in. One that cannot be read opens nothing.
    fn windows(&self) -> ChangeWindows {
        let own = &self.catalogue.policies().config.change_windows;
        let last = self.windows.as_ref().filter(|_| own.open.is_empty() && self.unread());
        last.unwrap_or(own).clone()
    }

    /// Whether egret.yaml in force cannot be read, or is out of reach.
    fn unread(&self) -> bool {
        let broken = |one: &Diagnostic| one.file == CONFIG_FILE && one.severity == Severity::Error;
        self.current.is_none() || self.catalogue.diagnostics().iter().any(broken)
    }

    fn admit(&mut self, pending: Pending, verdict: AdmissionDecision) -> RepositoryEvent {
        let Pending { info, changes, .. } = pending;
        self.withheld = None;
        self.emergency = match verdict {
            AdmissionDecision::Emergency { trailer, reason } => {
                let emergency = Emergency { commit: info.id.to_string(), author: info.author.clone(), trailer, reason };
                tracing::warn!("{}", emergency.message());
                Some(emergency)
            }
            AdmissionDecision::Admitted | AdmissionDecision::Withheld(_) => None,
        };
        self.take_in(changes);
        self.current = Some(info);
        self.gone = None;
        self.tell(true)
    }

    /// Takes in what changed.
    fn take_in(&mut self, changes: BTreeMap<String, FileUpdate>) {
        for (path, change) in &changes {
            if *change == FileUpdate::Removed {
                self.paths.remove(path);
            } else {
                self.paths.insert(path.clone());
            }
        }
        self.catalogue.update(changes);
    }

    /// What was last in force, if the first look failed and the mirror still has it.
    fn last_in_force(&mut self) -> Option<Box<DesiredRevision>> {
        if self.told {
            return None;
        }
        match self.tell(false) {
            RepositoryEvent::Intent(intent) => Some(intent),
            _ => None,
        }
    }

    fn tell(&mut self, fetched: bool) -> RepositoryEvent {
        let Some(commit) = self.current.clone() else { return RepositoryEvent::Unchanged };
        self.told = true;
        let diagnostics = self.catalogue.diagnostics();
        let mut set = self.catalogue.policies().clone();
        set.config.signatures = self.demanded();
        self.signatures.clone_from(&set.config.signatures);
        set.config.change_windows = self.windows();
        self.windows = Some(set.config.change_windows.clone());
        RepositoryEvent::Intent(Box::new(DesiredRevision {
            set: Arc::new(set),
            commit,
            branch: self.branch.clone(),
            rejected: rejected(&self.catalogue, &diagnostics),
            good: self.catalogue.export_good(),
            diagnostics,
            withheld: self.withheld.clone(),
            emergency: self.emergency.clone(),
            fetched,
        }))
    }
}

/// The catalogue selects by itself: it knows egret.yaml's paths.
fn everything() -> [String; 1] {
    [String::new()]
}
