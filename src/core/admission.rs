//! Admission: whether a fetched commit becomes active now, or what it waits for.
//!
//! Only new commits wait. The active one is reconciled all the time: drift, pods, labels, failover. Not here:
//! checking signatures (see `git::signature`), reading Git, and waiting.

mod removals;
mod windows;

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::core::text::short_commit;

pub use self::removals::{CONFIRMATION, Removals, Share};
pub use self::windows::{ChangeWindows, Window, by_the_clock};

/// A pending commit, and the reason. The last active commit stays active.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PendingCommit {
    /// Its full id.
    pub commit: String,
    /// The first line of its message.
    pub summary: String,
    /// `Name <address>` of its author.
    pub author: String,
    /// When it was first seen as pending.
    pub since: Timestamp,
    /// The reason.
    pub why: PendingReason,
}

/// What a commit waits for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all_fields = "camelCase")]
pub enum PendingReason {
    /// The change window is closed.
    #[serde(rename = "ChangeWindowClosed")]
    Window {
        /// The next opening; none if the crontab line names none.
        opens: Option<Timestamp>,
        /// The zone that the window is written in.
        time_zone: String,
        /// The window that opens then: its name, or its crontab line.
        window: String,
    },
    /// The cluster is suspended.
    Suspended {
        /// Until when; none: until the suspension is removed.
        until: Option<Timestamp>,
        /// Who suspended it.
        owner: String,
        /// The reason given.
        reason: String,
    },
    /// The commit, or one that it builds on, lacks the required signature.
    #[serde(rename = "SignatureRefused")]
    Unsigned {
        /// The full id of that commit.
        commit: String,
        /// What is wrong with its signature.
        what: String,
    },
    /// It removes more policies, or members, than egret.yaml lets go unconfirmed.
    #[serde(rename = "RemovalsUnconfirmed")]
    Removals(Removals),
}

impl PendingReason {
    /// The reason of a condition and of an event, for programs.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Window { .. } => "ChangeWindowClosed",
            Self::Suspended { .. } => "Suspended",
            Self::Unsigned { .. } => "SignatureRefused",
            Self::Removals(_) => "RemovalsUnconfirmed",
        }
    }

    /// When the wait ends without a user's action, if it does.
    pub fn ends(&self) -> Option<Timestamp> {
        match self {
            Self::Window { opens, .. } => *opens,
            Self::Suspended { until, .. } => *until,
            Self::Unsigned { .. } | Self::Removals(_) => None,
        }
    }
}

impl fmt::Display for PendingReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Window { opens: Some(opens), time_zone, window } => {
                write!(f, "the change window is closed; it opens {} ({window})", by_the_clock(*opens, time_zone))
            }
            Self::Window { opens: None, .. } => {
                f.write_str("the change window is closed, and no opening of it is known")
            }
            Self::Suspended { until, owner, reason } => {
                write!(f, "{owner} suspended the cluster ")?;
                if let Some(until) = until {
                    write!(f, "until {} ", by_the_clock(*until, "UTC"))?;
                }
                write!(f, "({reason})")
            }
            Self::Unsigned { commit, what } => write!(f, "{} is not signed as demanded: {what}", short_commit(commit)),
            Self::Removals(removals) => {
                write!(f, "{removals}, without the trailer {CONFIRMATION} and a reason")
            }
        }
    }
}

impl PendingCommit {
    /// One line for users.
    pub fn message(&self) -> String {
        format!("{} \"{}\" of {} waits: {}", short_commit(&self.commit), self.summary, self.author, self.why)
    }
}

/// A suspension: the cluster's commits wait until a time that a user chose. It always ends, so that it is not
/// forgotten.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Suspension {
    /// Until when.
    pub until: Timestamp,
    /// The person or team to ask.
    pub owner: String,
    /// The reason.
    pub reason: String,
}

impl Suspension {
    /// Whether the suspension is active.
    pub fn holds(&self, now: Timestamp) -> bool {
        now < self.until
    }
}

/// A commit that passed a closed window by an emergency trailer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Emergency {
    /// Its full id.
    pub commit: String,
    /// `Name <address>` of its author.
    pub author: String,
    /// The trailer that opened the window.
    pub trailer: String,
    /// The trailer's value.
    pub reason: String,
}

impl Emergency {
    /// One line for users.
    pub fn message(&self) -> String {
        let Self { commit, author, trailer, reason } = self;
        format!(
            "{} was applied outside the change window by {author}, because: {reason} ({trailer})",
            short_commit(commit)
        )
    }
}

/// The inputs of an admission decision.
#[derive(Debug, Clone)]
pub struct AdmissionRules<'a> {
    /// The missing or wrong signature of the commit or of one that it builds on, if signatures are required.
    pub unsigned: Option<PendingReason>,
    /// No commit was active before. A node with nothing applied sends packets with wrong addresses, so neither a
    /// window nor a suspension holds the first commit.
    pub first_start: bool,
    /// The windows of the active egret.yaml: a commit cannot open the window for itself.
    pub windows: &'a ChangeWindows,
    /// The suspension in the commit's own egret.yaml: it takes effect at once and can be lifted at once.
    pub suspension: Option<&'a Suspension>,
    /// What the commit removes.
    pub removals: Removals,
    /// Trailers of the commit's own message, in their order.
    pub trailers: &'a [(String, String)],
}

/// The decision about a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AdmissionDecision {
    /// It becomes active.
    Admitted,
    /// It becomes active although the window is closed, by its emergency trailer and the reason given there.
    Emergency {
        /// The trailer's name, as egret.yaml has it.
        trailer: String,
        /// The trailer's value.
        reason: String,
    },
    /// It is pending.
    Pending(PendingReason),
}

impl AdmissionRules<'_> {
    /// Decides about a commit. Signatures are checked first, then a suspension: no trailer passes it, only the commit
    /// that removes it from egret.yaml. What needs a user's action comes before what ends with time.
    pub fn judge(&self, now: Timestamp) -> AdmissionDecision {
        if let Some(unsigned) = &self.unsigned {
            return AdmissionDecision::Pending(unsigned.clone());
        }
        if self.first_start {
            return AdmissionDecision::Admitted;
        }
        if let Some(Suspension { until, owner, reason }) = self.suspension.filter(|suspension| suspension.holds(now)) {
            return AdmissionDecision::Pending(PendingReason::Suspended {
                until: Some(*until),
                owner: owner.clone(),
                reason: reason.clone(),
            });
        }
        if self.removals.exceed() && self.trailer(CONFIRMATION).is_none() {
            return AdmissionDecision::Pending(PendingReason::Removals(self.removals));
        }
        if self.windows.is_open(now) {
            return AdmissionDecision::Admitted;
        }
        if let Some((trailer, reason)) = self.emergency() {
            return AdmissionDecision::Emergency { trailer: trailer.to_owned(), reason: reason.to_owned() };
        }
        let next = self.windows.next_opening(now);
        let (opens, window) = next.map_or((None, None), |(opens, window)| (Some(opens), Some(window)));
        AdmissionDecision::Pending(PendingReason::Window {
            opens,
            time_zone: window.map_or_else(|| "UTC".to_owned(), |window| window.time_zone.clone()),
            window: window.map(ToString::to_string).unwrap_or_default(),
        })
    }

    /// The emergency trailer of egret.yaml, if the commit has it with a reason.
    pub fn emergency(&self) -> Option<(&str, &str)> {
        let name = self.windows.emergency_trailer.as_deref()?;
        Some((name, self.trailer(name)?))
    }

    /// The reason that a trailer of the commit gives. Git compares the names of trailers without regard to case.
    fn trailer(&self, name: &str) -> Option<&str> {
        let mut values = self.trailers.iter().filter(|(key, _)| key.eq_ignore_ascii_case(name));
        values.find_map(|(_, value)| Some(value.trim()).filter(|value| !value.is_empty()))
    }
}

#[cfg(test)]
mod tests;
