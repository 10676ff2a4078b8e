//! State of each open pull request: whether its preview has to be made again, and whether its comment is posted.
//!
//! It is not persisted: a new leader checks every pull request once, and `forge` finds the existing comments. Pure:
//! no clock, no forge, no Git.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::core::state::net::fnv1a;
use crate::git::CommitId;

/// The shortest age at which a preview is made again only because the cluster changed: pods come and go all the time.
pub(super) const STALE: Duration = Duration::from_mins(15);

/// The wait before a failed post is retried if nothing changes.
const AGAIN: Duration = Duration::from_mins(5);

/// The number of polls for which a commit that the forge lists may be missing in Git before that is posted.
const PATIENCE: u32 = 5;

/// What a pull request changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum PreviewSubject {
    /// Two commits: the merge base and the head.
    Change { base: CommitId, head: CommitId },
    /// It cannot be previewed, and why.
    Refused { head: String, why: String },
}

/// What was posted on a pull request.
#[derive(Debug)]
struct PostedPreview {
    subject: PreviewSubject,
    digest: u64,
    made: Instant,
    /// Why not all of it was posted.
    fault: Option<String>,
}

/// All open pull requests.
#[derive(Debug, Default)]
pub(super) struct PostedPreviews {
    posted: BTreeMap<u64, PostedPreview>,
    /// How often each head was missing.
    absent: BTreeMap<u64, (String, u32)>,
    /// Those for which a rejected commit status was already logged.
    without_status: BTreeSet<u64>,
}

impl PostedPreviews {
    /// Whether a preview is to be made.
    pub(super) fn is_due(&self, number: u64, subject: &PreviewSubject, now: Instant) -> bool {
        let Some(posted) = self.posted.get(&number) else { return true };
        let age = now.duration_since(posted.made);
        let old = matches!(subject, PreviewSubject::Change { .. }) && age >= STALE;
        posted.subject != *subject || old || (posted.fault.is_some() && age >= AGAIN)
    }

    /// Whether this text was already posted for this subject. If so, its age starts anew.
    pub(super) fn is_posted(&mut self, number: u64, subject: &PreviewSubject, text: &str, now: Instant) -> bool {
        match self.posted.get_mut(&number) {
            Some(posted)
                if posted.fault.is_none() && posted.subject == *subject && posted.digest == fnv1a(text.as_bytes()) =>
            {
                posted.made = now;
                true
            }
            _ => false,
        }
    }

    /// Records that a preview was posted, or why not all of it was.
    pub(super) fn record(
        &mut self,
        number: u64,
        subject: PreviewSubject,
        text: &str,
        fault: Option<String>,
        now: Instant,
    ) {
        self.posted.insert(number, PostedPreview { subject, digest: fnv1a(text.as_bytes()), made: now, fault });
    }

    /// Why pull requests do not have their previews: the reason of the first one, and how many there are.
    pub(super) fn fault(&self) -> Option<String> {
        let mut faults = self.posted.iter().filter_map(|(number, posted)| Some((number, posted.fault.as_ref()?)));
        let (number, why) = faults.next()?;
        let more = faults.count();
        let more = if more > 0 { format!(", and {more} more") } else { String::new() };
        Some(format!("pull request {number}: {why}{more}"))
    }

    /// Records that a head is missing. Returns whether that is to be posted: not at once, because a forge lists a
    /// push before its Git server has it.
    pub(super) fn is_absent(&mut self, number: u64, head: &str) -> bool {
        let (known, polls) = self.absent.entry(number).or_default();
        if known != head {
            head.clone_into(known);
            *polls = 0;
        }
        *polls = polls.saturating_add(1);
        *polls >= PATIENCE
    }

    /// Records a rejected commit status. Returns whether it is the first of this pull request.
    pub(super) fn is_first_without_status(&mut self, number: u64) -> bool {
        self.without_status.insert(number)
    }

    /// Forgets pull requests that are no longer open.
    pub(super) fn keep(&mut self, open: impl Fn(u64) -> bool) {
        self.posted.retain(|number, _| open(*number));
        self.absent.retain(|number, _| open(*number));
        self.without_status.retain(|number| open(*number));
    }

    /// Forgets that a pull request's head was missing.
    pub(super) fn is_present(&mut self, number: u64) {
        self.absent.remove(&number);
    }

    /// Forgets everything. Needed after a time without leadership: another controller may have posted something
    /// meanwhile.
    pub(super) fn forget(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(base: char, head: char) -> PreviewSubject {
        let id = |digit: char| CommitId::parse(&String::from(digit).repeat(40)).expect("an id");
        PreviewSubject::Change { base: id(base), head: id(head) }
    }

    #[test]
    fn only_a_new_or_an_old_preview_is_due() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut previews = PostedPreviews::default();
        let (one, pushed, moved) = (change('a', 'b'), change('a', 'c'), change('d', 'b'));
        assert!(previews.is_due(1, &one, start));
        previews.record(1, one.clone(), "text", None, start);
        assert!(!previews.is_due(1, &one, after(60)));
        assert!(previews.is_due(1, &pushed, after(60)) && previews.is_due(1, &moved, after(60)));
        assert!(previews.is_due(1, &one, after(900)), "pods may have come and gone");
        assert!(previews.is_posted(1, &one, "text", after(900)));
        assert!(!previews.is_due(1, &one, after(901)), "its text is the same, and its age starts anew");
        assert!(!previews.is_posted(1, &one, "another text", after(900)));
        // The same text for another head: its commit has no status yet.
        assert!(!previews.is_posted(1, &pushed, "text", after(900)));
        previews.keep(|number| number != 1);
        assert!(previews.is_due(1, &one, after(902)));
    }

    #[test]
    fn why_something_is_refused_does_not_get_old() {
        let start = Instant::now();
        let mut previews = PostedPreviews::default();
        let refused = |why: &str| PreviewSubject::Refused { head: "h".to_owned(), why: why.to_owned() };
        previews.record(1, refused("too large"), "text", None, start);
        assert!(!previews.is_due(1, &refused("too large"), start + STALE * 2));
        assert!(previews.is_due(1, &refused("no history"), start));
    }

    #[test]
    fn a_failed_post_is_retried_and_reported_until_then() {
        let start = Instant::now();
        let mut previews = PostedPreviews::default();
        assert_eq!(previews.fault(), None);
        for number in [3, 2] {
            previews.record(number, change('a', 'b'), "text", Some("it may not".to_owned()), start);
        }
        assert_eq!(previews.fault().as_deref(), Some("pull request 2: it may not, and 1 more"));
        assert!(!previews.is_due(2, &change('a', 'b'), start + AGAIN / 2));
        assert!(previews.is_due(2, &change('a', 'b'), start + AGAIN));
        assert!(!previews.is_posted(2, &change('a', 'b'), "text", start + AGAIN));
        previews.record(2, change('a', 'b'), "text", None, start);
        previews.keep(|number| number == 2);
        assert_eq!(previews.fault(), None);
    }

    #[test]
    fn a_head_that_is_not_there_is_waited_for() {
        let mut previews = PostedPreviews::default();
        let polls: Vec<bool> = (0..6).map(|_| previews.is_absent(1, "head")).collect();
        assert_eq!(polls, [false, false, false, false, true, true]);
        assert!(!previews.is_absent(1, "another head"));
        assert!((0..6).any(|_| previews.is_absent(2, "head")));
        previews.is_present(2);
        assert!(!previews.is_absent(2, "head"));
    }
}
