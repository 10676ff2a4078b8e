//! What to do about what was explained.
//!
//! Not here: what is said of the cause itself, which comes with it (`verdict`), and of a connection that was tried (`live`).

use jiff::{SignedDuration, Timestamp};

use super::text::age;
use super::{Explanation, Verdict};
use crate::core::text::short_commit;

impl Explanation {
    /// What to do: about the cause, and if a commit has just brought it, how to take that back.
    pub fn advice(&self, now: Timestamp) -> Option<String> {
        /// A fault that is reported within this time of the commit may come of it.
        const SOON: SignedDuration = SignedDuration::from_mins(10);
        /// What a document may ask for in vain.
        const OF_DOCUMENTS: [&str; 4] = ["EgressIPMissing", "NoGateway", "NoRoute", "PoolAddressMissing"];
        /// What a commit excludes is noticed on the same day.
        const LATELY: SignedDuration = SignedDuration::from_hours(24);
        let Self { verdict, changed, live, cause_advice, .. } = self;
        let changed = changed.as_ref().filter(|changed| !changed.summary.is_empty());
        let back = changed.and_then(|changed| {
            let commit = short_commit(&changed.commit);
            let document = self.claim.as_ref()?.origin.file.as_str();
            if let Some(one) = self.rejected.iter().find(|one| one.place.split(':').next() == Some(document)) {
                return Some(format!("correct {}, or `git revert {commit}`", one.place));
            }
            let is_cause = match verdict {
                Verdict::Dropped { since, reason, .. } if OF_DOCUMENTS.contains(reason) => {
                    let after = since.map(|since| since.duration_since(changed.time));
                    after.is_some_and(|after| after.abs() < SOON && !after.is_negative())
                }
                Verdict::NotSteered { reason, .. } => {
                    *reason == "Excluded" && now.duration_since(changed.time) < LATELY
                }
                _ => false,
            };
            let age = age(changed.time, now);
            is_cause.then(|| format!("{document} was changed {age} ago: `git revert {commit}` takes that back"))
        });
        let lost = live.as_ref().and_then(|live| live.advice(verdict));
        let all: Vec<String> = [cause_advice.clone(), back, lost].into_iter().flatten().collect();
        (!all.is_empty()).then(|| all.join("; "))
    }
}
