//! Decides what to apply to one node so that it has the labels that Git asks for, and which changes by others are drift.
//!
//! Server-side apply records the owner of each field; a label that a manager no longer applies is removed. A write by
//! hand takes over ownership, and the next apply conflicts: that is how drift of a label is detected. Not here: the
//! requests (`cluster::live`), and which labels Git asks for ([`super::policy::PolicySet::labels_of`]).

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use jiff::{SignedDuration, Timestamp};

use super::labels::Labels;
use super::labels::keys::LabelKeys;
use super::report::drift::{Drift, DriftClass, DriftPlace};
use super::report::history::DriftActor;

/// This many corrections of one label in [`FIGHT_WINDOW`] mean that another writer insists on another value: Egret stops
/// correcting it.
pub const FIGHT: usize = 5;
/// See [`FIGHT`]. Also how long Egret waits before it corrects such a label again.
pub const FIGHT_WINDOW: SignedDuration = SignedDuration::from_mins(10);

/// A field manager and the labels it owns, from `metadata.managedFields`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabelOwner {
    /// The manager.
    pub manager: String,
    /// Whether it uses server-side apply; otherwise it made another kind of write.
    pub applies: bool,
    /// When it last changed something.
    pub time: Option<Timestamp>,
    /// Keys of labels.
    pub keys: BTreeSet<String>,
}

/// What to do about a label that another writer changed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OnLabelDrift {
    /// Correct and report it.
    #[default]
    Correct,
    /// Only report it.
    Report,
}

/// The labels of one node, as observed.
#[derive(Debug, Clone, Copy)]
pub struct ObservedLabels<'a> {
    /// All of them.
    pub labels: &'a Labels,
    /// The owners of labels.
    pub owners: &'a [LabelOwner],
}

/// What to do about one node's labels.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LabelDecision {
    /// The apply request to send, if any.
    pub apply: Option<LabelApply>,
    /// Changes by other writers, with the writer.
    pub drift: Vec<(Drift, Option<DriftActor>)>,
    /// Labels that are no longer corrected, with the value another writer wants.
    pub given_up: BTreeMap<String, String>,
}

/// One server-side apply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabelApply {
    /// All labels that Egret owns.
    pub labels: Labels,
    /// Take over ownership from other managers.
    pub force: bool,
}

/// The desired labels of a node, except that labels which the API server does not let Egret change keep their current
/// value: a request to remove one would be refused, and with it changes of all other labels.
pub fn reachable(desired: Labels, seen: ObservedLabels<'_>, manager: &str, keys: &LabelKeys) -> Labels {
    let ours =
        seen.owners.iter().filter(|owner| owner.applies && owner.manager == manager).flat_map(|owner| &owner.keys);
    let kept = ours.filter(|key| !keys.within_reach(key)).filter_map(|key| seen.labels.get_key_value(key));
    let wanted = desired.into_iter().filter(|(key, _)| keys.within_reach(key));
    wanted.chain(kept.map(|(key, value)| (key.clone(), value.clone()))).collect()
}

/// The persisted state of one node's labels.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LabelHistory {
    /// What was last applied.
    pub applied: Labels,
    corrections: BTreeMap<String, VecDeque<Timestamp>>,
}

impl LabelHistory {
    /// Decides what to do. The caller sets [`LabelHistory::applied`] once the apply has succeeded.
    pub fn decide(
        &mut self,
        desired: &Labels,
        seen: ObservedLabels<'_>,
        manager: &str,
        on: OnLabelDrift,
        now: Timestamp,
    ) -> LabelDecision {
        let own = |owner: &&LabelOwner| owner.applies && owner.manager == manager;
        let owned: BTreeSet<&String> = seen.owners.iter().filter(own).flat_map(|owner| &owner.keys).collect();
        let mut decision = LabelDecision::default();
        let mut labels = desired.clone();
        let mut force = false;
        self.corrections.retain(|key, _| desired.contains_key(key));
        for (key, wanted) in desired {
            let found = seen.labels.get(key);
            if found == Some(wanted) {
                continue;
            }
            let other = seen.owners.iter().find(|owner| owner.keys.contains(key) && !own(owner));
            // A writer that changes a label becomes its owner: a label that only Egret owns is Egret's last value, and
            // Git asks for another one now.
            if other.is_none() && found.is_some() && owned.contains(key) {
                continue;
            }
            let by = other.map(by);
            // A label that was never applied and is missing is new, not drift.
            let Some(class) = class(found, self.applied.get(key) == Some(wanted)) else { continue };
            decision.drift.push((drift(key, class, wanted, found), by));
            let fighting = on == OnLabelDrift::Correct && self.fights(key, now);
            if fighting {
                decision.given_up.insert(key.clone(), found.cloned().unwrap_or_default());
            }
            if on == OnLabelDrift::Report || fighting {
                labels.remove(key);
            } else {
                force = true;
            }
        }
        let applied = labels.keys().collect::<BTreeSet<_>>() == owned
            && labels.iter().all(|(key, value)| seen.labels.get(key) == Some(value));
        decision.apply = (!applied).then_some(LabelApply { labels, force });
        decision
    }

    /// Records corrections.
    pub fn corrected(&mut self, keys: impl IntoIterator<Item = String>, now: Timestamp) {
        for key in keys {
            self.corrections.entry(key).or_default().push_back(now);
        }
    }

    fn fights(&mut self, key: &str, now: Timestamp) -> bool {
        let Some(times) = self.corrections.get_mut(key) else { return false };
        while times.front().is_some_and(|first| now.duration_since(*first) >= FIGHT_WINDOW) {
            times.pop_front();
        }
        times.len() >= FIGHT
    }
}

fn class(found: Option<&String>, was_applied: bool) -> Option<DriftClass> {
    match found {
        Some(_) => Some(DriftClass::Changed),
        None => was_applied.then_some(DriftClass::Missing),
    }
}

fn drift(key: &str, class: DriftClass, wanted: &str, found: Option<&String>) -> Drift {
    Drift {
        object: format!("label {key}"),
        class,
        desired: Some(format!("{key}: \"{wanted}\"")),
        observed: found.map(|value| format!("{key}: \"{value}\"")),
        place: DriftPlace::Label,
    }
}

fn by(owner: &LabelOwner) -> DriftActor {
    let how = if owner.applies { "applied" } else { "wrote" };
    let when = owner.time.map(|time| format!(" at {time}")).unwrap_or_default();
    DriftActor { guess: owner.manager.clone(), because: format!("managedFields: it {how} the label{when}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANAGER: &str = "egret";

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    fn owner(manager: &str, applies: bool, keys: &[&str]) -> LabelOwner {
        let keys = keys.iter().map(|key| (*key).to_owned()).collect();
        LabelOwner { manager: manager.to_owned(), applies, time: None, keys }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn decide(
        memory: &mut LabelHistory,
        desired: &Labels,
        found: &Labels,
        owners: &[LabelOwner],
        second: i64,
    ) -> LabelDecision {
        let seen = ObservedLabels { labels: found, owners };
        memory.decide(desired, seen, MANAGER, OnLabelDrift::Correct, at(second))
    }

    #[test]
    fn desired_labels_need_no_request_and_a_new_label_is_no_drift() {
        let desired = labels(&[("egress-gw", "true")]);
        let mut memory = LabelHistory::default();
        let new = decide(&mut memory, &desired, &labels(&[("os", "linux")]), &[], 0);
        assert_eq!(new.apply, Some(LabelApply { labels: desired.clone(), force: false }));
        assert_eq!(new.drift, []);
        let found = labels(&[("os", "linux"), ("egress-gw", "true")]);
        let own = [owner(MANAGER, true, &["egress-gw"])];
        assert_eq!(decide(&mut memory, &desired, &found, &own, 1), LabelDecision::default());
    }

    #[test]
    fn a_new_value_in_git_is_no_drift_unless_another_writer_wants_the_old_one() {
        let (before, desired) = (labels(&[("zone", "a")]), labels(&[("zone", "b")]));
        let own = owner(MANAGER, true, &["zone"]);
        let mut memory = LabelHistory { applied: before.clone(), ..LabelHistory::default() };
        let decision = decide(&mut memory, &desired, &before, std::slice::from_ref(&own), 0);
        assert_eq!(decision.apply, Some(LabelApply { labels: desired.clone(), force: false }));
        assert_eq!(decision.drift, []);
        let shared = decide(&mut memory, &desired, &before, &[own, owner("other", true, &["zone"])], 0);
        assert_eq!(shared.apply, Some(LabelApply { labels: desired, force: true }));
        assert_eq!(shared.drift.len(), 1);
    }

    #[test]
    fn a_label_removed_from_git_is_released_and_foreign_labels_are_ignored() {
        let found = labels(&[("egress-gw", "true"), ("os", "linux")]);
        let own = [owner(MANAGER, true, &["egress-gw"]), owner("kubelet", false, &["os"])];
        let decision = decide(&mut LabelHistory::default(), &Labels::new(), &found, &own, 0);
        assert_eq!(decision.apply, Some(LabelApply { labels: Labels::new(), force: false }));
        assert_eq!(decision.drift, []);
    }

    #[test]
    fn a_label_that_another_writer_set_to_the_same_value_is_applied_too() {
        let desired = labels(&[("egress-gw", "true")]);
        let hers = [owner("kubectl-label", false, &["egress-gw"])];
        let decision = decide(&mut LabelHistory::default(), &desired, &desired, &hers, 0);
        assert_eq!(decision.apply, Some(LabelApply { labels: desired.clone(), force: false }));
        assert_eq!(decision.drift, []);
    }

    #[test]
    fn a_hand_edit_is_drift_with_its_writer_and_is_corrected() {
        let desired = labels(&[("egress-gw", "true")]);
        let found = labels(&[("egress-gw", "maybe")]);
        let hand = [owner(MANAGER, true, &[]), owner("kubectl-label", false, &["egress-gw"])];
        let mut memory = LabelHistory { applied: desired.clone(), ..LabelHistory::default() };
        let decision = decide(&mut memory, &desired, &found, &hand, 0);
        assert_eq!(decision.apply, Some(LabelApply { labels: desired.clone(), force: true }));
        let (drift, by) = &decision.drift[0];
        assert_eq!((drift.class, drift.observed.as_deref()), (DriftClass::Changed, Some("egress-gw: \"maybe\"")));
        assert_eq!(by.as_ref().unwrap().guess, "kubectl-label");
        let gone = decide(&mut memory, &desired, &Labels::new(), &[], 1);
        assert_eq!((gone.drift[0].0.class, gone.apply.unwrap().force), (DriftClass::Missing, true));
    }

    #[test]
    fn with_report_only_a_drifted_label_is_left_alone() {
        let desired = labels(&[("egress-gw", "true"), ("rack", "r1")]);
        let found = labels(&[("egress-gw", "maybe"), ("rack", "r1")]);
        let owners = [owner(MANAGER, true, &["rack"]), owner("kubectl-label", false, &["egress-gw"])];
        let seen = ObservedLabels { labels: &found, owners: &owners };
        let mut memory = LabelHistory { applied: desired.clone(), ..LabelHistory::default() };
        let decision = memory.decide(&desired, seen, MANAGER, OnLabelDrift::Report, at(0));
        assert_eq!((decision.apply, decision.drift.len()), (None, 1));
    }

    #[test]
    fn a_label_that_may_no_longer_be_written_stays_and_others_change() {
        let role = "node-role.kubernetes.io/egress";
        let found = labels(&[("egress-gw", "true"), (role, ""), ("os", "linux")]);
        let owners = [owner(MANAGER, true, &["egress-gw", role]), owner("kubelet", false, &["os"])];
        let seen = ObservedLabels { labels: &found, owners: &owners };
        let reach = |desired: &Labels| reachable(desired.clone(), seen, MANAGER, &LabelKeys::default());
        assert_eq!(reach(&labels(&[("rack", "r1")])), labels(&[("rack", "r1"), (role, "")]));
        assert_eq!(reach(&labels(&[("rack", "r1"), (role, "other")])), labels(&[("rack", "r1"), (role, "")]));
        let theirs = ObservedLabels { labels: &found, owners: &owners[1..] };
        assert_eq!(reachable(labels(&[(role, "x")]), theirs, MANAGER, &LabelKeys::default()), Labels::new());
    }

    #[test]
    fn correction_stops_after_repeated_conflicts_and_resumes_later() {
        let desired = labels(&[("egress-gw", "true")]);
        let found = labels(&[("egress-gw", "maybe")]);
        let other = [owner("operator", true, &["egress-gw"])];
        let mut memory = LabelHistory { applied: desired.clone(), ..LabelHistory::default() };
        for second in 0..5 {
            let decision = decide(&mut memory, &desired, &found, &other, second);
            assert!(decision.apply.is_some_and(|apply| apply.force));
            memory.corrected(["egress-gw".to_owned()], at(second));
        }
        let given_up = decide(&mut memory, &desired, &found, &other, 5);
        assert_eq!(given_up.given_up, BTreeMap::from([("egress-gw".to_owned(), "maybe".to_owned())]));
        assert_eq!((given_up.apply, given_up.drift.len()), (None, 1));
        assert!(decide(&mut memory, &desired, &found, &other, 601).apply.is_some());
    }
}
