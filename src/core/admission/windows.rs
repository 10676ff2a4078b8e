//! Change windows: the times at which commits may become active.
//!
//! A window begins by a crontab line and lasts for a duration in elapsed time, not in local clock time. The current
//! time is passed in. Time zones come from the built-in copy of the database, so that every machine decides the same.

use std::fmt;
use std::str::FromStr;

use cron::Cron;
use jiff::tz::{TimeZone, TimeZoneDatabase};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

/// The times at which commits may become active.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ChangeWindows {
    /// Commits may become active while one of these windows is open; an empty list: always.
    pub open: Vec<Window>,
    /// The trailer that lets a commit pass a closed window, if there is one.
    pub emergency_trailer: Option<String>,
}

/// A recurring window.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Window {
    /// A name for users; may be empty.
    pub name: String,
    /// When it opens: five fields of crontab.
    pub cron: String,
    /// The IANA time zone of the crontab line.
    pub time_zone: String,
    /// How long it stays open.
    pub duration: SignedDuration,
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, cron) = (&self.name, &self.cron);
        if name.is_empty() { write!(f, "{cron} for {:#}", self.duration) } else { f.write_str(name) }
    }
}

impl Window {
    /// The next opening after `now`; none if there is none in the years that the crontab syntax can name.
    pub fn next_opening(&self, now: Timestamp) -> Option<Timestamp> {
        // Both were checked when egret.yaml was read.
        let cron = Cron::from_str(&self.cron).ok()?;
        let now = now.to_zoned(zone(&self.time_zone));
        cron.find_next_occurrence(&now, false).ok().map(|next| next.timestamp())
    }

    /// When it was opened, if it is open. The window includes its first moment and excludes its last.
    pub fn opened(&self, now: Timestamp) -> Option<Timestamp> {
        let before = now.checked_sub(self.duration).ok()?;
        self.next_opening(before).filter(|opened| *opened <= now)
    }
}

impl ChangeWindows {
    /// Whether commits may become active.
    pub fn is_open(&self, now: Timestamp) -> bool {
        self.open.is_empty() || self.open.iter().any(|window| window.opened(now).is_some())
    }

    /// The next opening, and its window; of two at the same time the one that is written first.
    pub fn next_opening(&self, now: Timestamp) -> Option<(Timestamp, &Window)> {
        let all = self.open.iter().filter_map(|window| Some((window.next_opening(now)?, window)));
        all.min_by_key(|(opens, _)| *opens)
    }
}

fn zone(name: &str) -> TimeZone {
    TimeZoneDatabase::bundled().get(name).unwrap_or(TimeZone::UTC)
}

/// A time in local clock time: `Tue 2026-11-24 22:00 Europe/Berlin`.
pub fn by_the_clock(time: Timestamp, time_zone: &str) -> String {
    let shown = time.to_zoned(zone(time_zone)).strftime("%a %Y-%m-%d %H:%M").to_string();
    format!("{shown} {time_zone}")
}
