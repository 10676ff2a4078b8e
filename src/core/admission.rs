//! Admission: whether a commit that was fetched comes into force now, or what it waits for.
//!
//! Only commits wait. The active one is looked after all the time: drift, pods, labels, failover. The checking of signatures is absent
//! (`git::signature`), and so are reading Git and waiting.

mod windows;

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::core::text::short_commit;

pub use self::windows::{ChangeWindows, Window, by_the_clock};

/// A fetched commit that is not in force, and why. The last one in force stays.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PendingCommit {
    /// Its full name.
    pub commit: String,
    /// The first line of its message.
    pub summary: String,
    /// `Name <address>` of its author.
    pub author: String,
    /// When it was first seen to wait.
    pub since: Timestamp,
    /// What it waits for.
    pub why: PendingReason,
}

/// What a commit waits for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all_fields = "camelCase")]
pub enum PendingReason {
    /// The change window is closed.
    #[serde(rename = "ChangeWindowClosed")]
    Window {
        /// The next opening; none if there is none in the years of the calendar.
        opens: Option<Timestamp>,
        /// The zone that the window is written in.
        time_zone: String,
        /// The window that opens then: its name, or its crontab line.
        window: String,
    },
    /// Somebody suspended the cluster.
    Suspended {
        /// Until when; none: until somebody lifts it.
        until: Option<Timestamp>,
        /// Who did it.
        owner: String,
        /// What for.
        reason: String,
    },
    /// It, or a commit below it, is not signed as demanded.
    #[serde(rename = "SignatureRefused")]
    Unsigned {
        /// Which commit: its full name.
        commit: String,
        /// What is wrong with its signature.
        what: String,
    },
}

impl PendingReason {
    /// One word for programs: the reason of a condition and of an event.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Window { .. } => "ChangeWindowClosed",
            Self::Suspended { .. } => "Suspended",
            Self::Unsigned { .. } => "SignatureRefused",
        }
    }

    /// When it ends by itself, if it does.
    pub fn ends(&self) -> Option<Timestamp> {
        match self {
            Self::Window { opens, .. } => *opens,
            Self::Suspended { until, .. } => *until,
            Self::Unsigned { .. } => None,
        }
    }
}

impl fmt::Display for PendingReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Window { opens: Some(opens), time_zone, window } => {
                write!(f, "the change window is closed; it opens {} ({window})", by_the_clock(*opens, time_zone))
            }
            Self::Window { opens: None, .. } => f.write_str("the change window is closed and never opens"),
            Self::Suspended { until, owner, reason } => {
                write!(f, "{owner} suspended the cluster ")?;
                if let Some(until) = until {
                    write!(f, "until {} ", by_the_clock(*until, "UTC"))?;
                }
                write!(f, "({reason})")
            }
            Self::Unsigned { commit, what } => write!(f, "{} is not signed as demanded: {what}", short_commit(commit)),
        }
    }
}

impl PendingCommit {
    /// One line for people.
    pub fn message(&self) -> String {
        format!("{} \"{}\" of {} waits: {}", short_commit(&self.commit), self.summary, self.author, self.why)
    }
}

/// A cluster whose commits wait until a time that somebody chose. It has an end, so that it is not forgotten.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Suspension {
    /// Until when.
    pub until: Timestamp,
    /// Whom to ask.
    pub owner: String,
    /// What for.
    pub reason: String,
}

impl Suspension {
    /// Whether commits wait because of it.
    pub fn holds(&self, now: Timestamp) -> bool {
        now < self.until
    }
}

/// A commit that went through a closed window, since it says that it must.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Emergency {
    /// Its full name.
    pub commit: String,
    /// `Name <address>` of its author.
    pub author: String,
    /// The trailer that opened the window.
    pub trailer: String,
    /// What the trailer says.
    pub reason: String,
}

impl Emergency {
    /// One line for people.
    pub fn message(&self) -> String {
        let Self { commit, author, trailer, reason } = self;
        format!(
            "{} was applied outside the change window by {author}, because: {reason} ({trailer})",
            short_commit(commit)
        )
    }
}

/// What a commit is judged by.
#[derive(Debug, Clone)]
pub struct AdmissionRules<'a> {
    /// What is wrong with its signatures, or with those of a commit below it, if they are not as demanded.
    pub unsigned: Option<PendingReason>,
    /// Nothing was ever active: who has nothing applied sends packets with wrong addresses, whatever the time.
    pub first_start: bool,
    /// Those of the active egret.yaml: a commit cannot open the window for itself.
    pub windows: &'a ChangeWindows,
    /// That of egret.yaml in the commit itself, so that it holds at once and can be lifted at once.
    pub suspension: Option<&'a Suspension>,
    /// Trailers of the commit's own message, in their order.
    pub trailers: &'a [(String, String)],
}

/// What becomes of a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AdmissionDecision {
    /// It comes into force.
    Admitted,
    /// It comes into force although the window is closed: the trailer that it names, and the reason given there.
    Emergency {
        /// The trailer's name, as egret.yaml has it.
        trailer: String,
        /// What it says.
        reason: String,
    },
    /// It waits.
    Withheld(PendingReason),
}

impl AdmissionRules<'_> {
    /// Judges a commit: its signatures first. Then comes a suspension: no trailer passes it, only the commit that takes it out of
    /// egret.yaml.
    pub fn judge(&self, now: Timestamp) -> AdmissionDecision {
        if let Some(unsigned) = &self.unsigned {
            return AdmissionDecision::Withheld(unsigned.clone());
        }
        if self.first_start {
            return AdmissionDecision::Admitted;
        }
        if let Some(Suspension { until, owner, reason }) = self.suspension.filter(|suspension| suspension.holds(now)) {
            return AdmissionDecision::Withheld(PendingReason::Suspended {
                until: Some(*until),
                owner: owner.clone(),
                reason: reason.clone(),
            });
        }
        if self.windows.is_open(now) {
            return AdmissionDecision::Admitted;
        }
        if let Some((trailer, reason)) = self.emergency() {
            return AdmissionDecision::Emergency { trailer: trailer.to_owned(), reason: reason.to_owned() };
        }
        let next = self.windows.next_opening(now);
        let (opens, window) = next.map_or((None, None), |(opens, window)| (Some(opens), Some(window)));
        AdmissionDecision::Withheld(PendingReason::Window {
            opens,
            time_zone: window.map_or_else(|| "UTC".to_owned(), |window| window.time_zone.clone()),
            window: window.map(ToString::to_string).unwrap_or_default(),
        })
    }

    /// The trailer that egret.yaml lets through, if the commit has it with a reason. Git does not tell upper case in trailers.
    pub fn emergency(&self) -> Option<(&str, &str)> {
        let name = self.windows.emergency_trailer.as_deref()?;
        let found =
            self.trailers.iter().find(|(key, value)| key.eq_ignore_ascii_case(name) && !value.trim().is_empty());
        found.map(|(_, reason)| (name, reason.trim()))
    }
}

#[cfg(test)]
mod tests;
