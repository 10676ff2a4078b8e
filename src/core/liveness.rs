//! Which gateways answer this node's probes: when a path is probed, when it counts as silent, and when it is trusted again.
//!
//! A path is an exit in one family, as packets of this node take it. Times are durations since the prober began; this module has no
//! clock and sends nothing. Not here: sockets (`kernel::probe`), and what follows from silence (`placement::detour`).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::placement::ExitKey;
use super::policy::config::ProbeTiming;
use super::state::nft::AddressFamily;

/// A path.
pub type PathKey = (ExitKey, AddressFamily);

/// Between two probes of a path that is not in use: a standby, and a path that is silent while a standby carries its
/// packets.
const IDLE: Duration = Duration::from_secs(1);
/// How long a gateway may take to answer for the first time: it may be setting the exit up just now, and that is no failure.
const FIRST: Duration = Duration::from_secs(5);
/// How long a path has to answer before it is used again after a silence; doubled each time it falls silent again soon.
pub const RECOVERY: Duration = Duration::from_secs(10);
/// The longest [`RECOVERY`].
const LONGEST_RECOVERY: Duration = Duration::from_mins(5);
/// A silence this long after the last one is not the same trouble.
const SOON: Duration = Duration::from_mins(10);

/// What is known of a path.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum PathState {
    /// Nothing yet.
    #[default]
    Unknown,
    /// The gateway answers.
    Answering,
    /// It answers again after a silence, and not for long enough to be trusted.
    Recovering,
    /// It does not.
    Silent,
}

/// What is known of all paths.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LivenessView(BTreeMap<PathKey, PathState>);

impl PathState {
    /// Whether the gateway answers now.
    pub fn answers(self) -> bool {
        matches!(self, Self::Answering | Self::Recovering)
    }
}

impl LivenessView {
    /// Nothing is known: no node probes.
    pub const NOTHING: &'static Self = &Self(BTreeMap::new());

    /// The same with what is known of more paths.
    #[must_use]
    pub fn with(&self, more: Vec<(PathKey, PathState)>) -> Self {
        Self(self.0.iter().map(|(key, state)| (key.clone(), *state)).chain(more).collect())
    }

    /// What is known of one path.
    pub fn of(&self, exit: &ExitKey, family: AddressFamily) -> PathState {
        self.0.get(&(exit.clone(), family)).copied().unwrap_or_default()
    }
}

impl FromIterator<(PathKey, PathState)> for LivenessView {
    fn from_iter<I: IntoIterator<Item = (PathKey, PathState)>>(paths: I) -> Self {
        Self(paths.into_iter().collect())
    }
}

/// A path that is to be probed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeTarget {
    /// The packet mark that leads there.
    pub mark: u32,
    /// It stands by for another and carries nothing now.
    pub standby: bool,
    /// The path has a detour.
    pub replaced: bool,
    /// No policy is placed on the exit any more.
    pub left: bool,
    /// The exits that stand by for it.
    pub standbys: Vec<ExitKey>,
}

/// A probe to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DueProbe {
    /// The path.
    pub key: PathKey,
    /// The packet mark that leads there.
    pub mark: u32,
    /// No packets of members take the path now, nor would they if it answered.
    pub idle: bool,
}

/// One path's history.
#[derive(Debug, Clone)]
struct Path {
    target: ProbeTarget,
    state: PathState,
    /// Probes since the last answer, and when the first of them was sent.
    unanswered: u32,
    first_unanswered: Duration,
    /// When the next probe is due.
    due: Duration,
    /// Since when it answers again after a silence.
    answers_since: Option<Duration>,
    /// How long it then has to answer, and when it last fell silent.
    recovery: Duration,
    silent_at: Option<Duration>,
}

impl Path {
    fn new(target: ProbeTarget, now: Duration) -> Self {
        Self {
            target,
            state: PathState::Unknown,
            unanswered: 0,
            first_unanswered: now,
            due: now,
            answers_since: None,
            recovery: RECOVERY,
            silent_at: None,
        }
    }

    fn answered(&mut self, now: Duration) {
        self.unanswered = 0;
        let trusted = match self.state {
            PathState::Answering => true,
            PathState::Unknown => !self.target.replaced,
            PathState::Recovering | PathState::Silent => false,
        };
        let since = *self.answers_since.get_or_insert(now);
        self.state = if trusted || now.saturating_sub(since) >= self.recovery {
            PathState::Answering
        } else {
            PathState::Recovering
        };
    }

    /// Whether a probe is overdue that long that the path counts as silent.
    fn judge(&mut self, now: Duration, timing: ProbeTiming) {
        let waited = now.saturating_sub(self.first_unanswered);
        let patience = timing.interval * timing.misses;
        let patience = if self.state == PathState::Unknown { patience.max(FIRST) } else { patience };
        if self.unanswered < timing.misses || waited < patience {
            return;
        }
        self.answers_since = None;
        let trusted = matches!(self.state, PathState::Answering | PathState::Unknown);
        self.state = PathState::Silent;
        if trusted {
            let again = self.silent_at.is_some_and(|at| now.saturating_sub(at) < SOON);
            self.recovery = if again { (self.recovery * 2).min(LONGEST_RECOVERY) } else { RECOVERY };
            self.silent_at = Some(now);
        }
    }
}

/// All paths of a node.
#[derive(Debug, Clone, Default)]
pub struct PathMonitor {
    paths: BTreeMap<PathKey, Path>,
    timing: ProbeTiming,
}

impl PathMonitor {
    /// Sets the paths to probe. What is known of those that stay is kept.
    pub fn set(&mut self, targets: &BTreeMap<PathKey, ProbeTarget>, timing: ProbeTiming, now: Duration) {
        self.timing = timing;
        self.paths.retain(|key, _| targets.contains_key(key));
        for (key, target) in targets {
            self.paths.entry(key.clone()).or_insert_with(|| Path::new(target.clone(), now)).target.clone_from(target);
        }
    }

    /// Whether there is nothing to probe.
    pub fn is_empty(&self) -> bool {
        self.paths.is_empty()
    }

    /// The paths that are to be probed now; they count as sent.
    pub fn due(&mut self, now: Duration) -> Vec<DueProbe> {
        let (timing, needed, unknown) = (self.timing, self.needed(), self.unknown_beside_another());
        let mut due = Vec::new();
        for (key, path) in &mut self.paths {
            let needed = needed.contains(key);
            let seldom = !needed && (path.target.standby || path.state == PathState::Silent);
            let idle = !needed && (seldom || path.target.replaced || path.target.left || unknown.contains(key));
            let interval = if seldom { timing.interval.max(IDLE) } else { timing.interval };
            // The interval may have become shorter since the next probe was planned.
            if now < path.due && path.due <= now + interval {
                continue;
            }
            if path.unanswered == 0 {
                path.first_unanswered = now;
            }
            path.unanswered += 1;
            path.due = now + interval;
            due.push(DueProbe { key: key.clone(), mark: path.target.mark, idle });
        }
        due
    }

    /// A probe that was due could not be sent: that no answer comes does not count.
    pub fn unsent(&mut self, key: &PathKey) {
        if let Some(path) = self.paths.get_mut(key) {
            path.unanswered = path.unanswered.saturating_sub(1);
        }
    }

    /// Paths of which nothing is known while a standby answers.
    fn unknown_beside_another(&self) -> BTreeSet<PathKey> {
        let answers = |key: PathKey| self.paths.get(&key).is_some_and(|path| path.state.answers());
        let beside = |(key, path): &(&PathKey, &Path)| {
            path.state == PathState::Unknown && path.target.standbys.iter().any(|exit| answers((exit.clone(), key.1)))
        };
        self.paths.iter().filter(beside).map(|(key, _)| key.clone()).collect()
    }

    /// Paths that may be needed at once: the standbys of paths that begin to be silent, and a silent path with its standbys if none of
    /// them answers. A path that never answered may be just on its way.
    fn needed(&self) -> BTreeSet<PathKey> {
        let mut needed = BTreeSet::new();
        let doubtful = |path: &Path| {
            !path.target.standby && (path.unanswered > 1 || path.target.replaced) && path.state != PathState::Unknown
        };
        for (key, path) in self.paths.iter().filter(|(_, path)| doubtful(path)) {
            let standbys = || path.target.standbys.iter().map(|exit| (exit.clone(), key.1));
            let answers =
                |key: &PathKey| self.paths.get(key).is_some_and(|path| path.state.answers() && path.unanswered < 2);
            let carried = path.state == PathState::Silent || path.target.replaced;
            if !carried || !standbys().any(|standby| answers(&standby)) {
                needed.extend(standbys());
                needed.extend((carried && !path.target.left).then(|| key.clone()));
            }
        }
        needed
    }

    /// When something is due next: a probe, or a judgement.
    pub fn next(&self) -> Option<Duration> {
        let timing = self.timing;
        let of = |path: &Path| {
            let silent = path.first_unanswered + timing.interval * timing.misses;
            let judged =
                path.unanswered >= timing.misses && !matches!(path.state, PathState::Silent | PathState::Unknown);
            if judged { path.due.min(silent) } else { path.due }
        };
        self.paths.values().map(of).min()
    }

    /// A gateway answered.
    pub fn answered(&mut self, key: &PathKey, now: Duration) {
        if let Some(path) = self.paths.get_mut(key) {
            path.answered(now);
        }
    }

    /// Judges all paths, once all answers that have come are taken in. What happened while this process did not run is no silence:
    /// only probes count that were sent.
    pub fn judge(&mut self, now: Duration) {
        let timing = self.timing;
        self.paths.values_mut().for_each(|path| path.judge(now, timing));
    }

    /// What is known.
    pub fn view(&self) -> LivenessView {
        self.paths.iter().map(|(key, path)| (key.clone(), path.state)).collect()
    }
}

#[cfg(test)]
mod tests;
