//! Change windows: from when to when commits may come into force.
//!
//! A window begins by a crontab line and lasts a time that is counted in hours that pass, not in hours that a clock shows. Deliberately
//! absent: the clock. Zones come from the copy of the database that is built in, so that every machine says the same.

use std::fmt;
use std::str::FromStr;

use cron::Cron;
use jiff::tz::{TimeZone, TimeZoneDatabase};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

/// When commits may come into force.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ChangeWindows {
    /// It is open while one of them is; none: always.
    pub open: Vec<Window>,
    /// The trailer that lets a commit through a closed window, if any does.
    pub emergency_trailer: Option<String>,
}

/// A time that comes again and again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Window {
    /// What people call it; may be empty.
    pub name: String,
    /// When it opens: five fields of crontab.
    pub cron: String,
    /// The zone in which that is meant: an IANA name.
    pub time_zone: String,
    /// For how long.
    pub duration: SignedDuration,
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, cron) = (&self.name, &self.cron);
        if name.is_empty() { write!(f, "{cron} for {:#}", self.duration) } else { f.write_str(name) }
    }
}

impl Window {
    /// The next time it opens after `now`; none if there is none in the years that the crontab syntax can name.
    pub fn next_opening(&self, now: Timestamp) -> Option<Timestamp> {
        // Both were checked when egret.yaml was read.
        let cron = Cron::from_str(&self.cron).ok()?;
        let now = now.to_zoned(zone(&self.time_zone));
        cron.find_next_occurrence(&now, false).ok().map(|next| next.timestamp())
    }

    /// When it was opened, if it is open. It is at the first moment, and is not at the last.
    pub fn opened(&self, now: Timestamp) -> Option<Timestamp> {
        let before = now.checked_sub(self.duration).ok()?;
        self.next_opening(before).filter(|opened| *opened <= now)
    }
}

impl ChangeWindows {
    /// Whether commits may come into force.
    pub fn is_open(&self, now: Timestamp) -> bool {
        self.open.is_empty() || self.open.iter().any(|window| window.opened(now).is_some())
    }

    /// The next time that one opens, and which; of two at the same time the one that is written first.
    pub fn next_opening(&self, now: Timestamp) -> Option<(Timestamp, &Window)> {
        let all = self.open.iter().filter_map(|window| Some((window.next_opening(now)?, window)));
        all.min_by_key(|(opens, _)| *opens)
    }
}

fn zone(name: &str) -> TimeZone {
    TimeZoneDatabase::bundled().get(name).unwrap_or(TimeZone::UTC)
}

/// A time as the clocks of a zone show it: `Tue 2026-11-24 22:00 Europe/Berlin`.
pub fn by_the_clock(time: Timestamp, time_zone: &str) -> String {
    let shown = time.to_zoned(zone(time_zone)).strftime("%a %Y-%m-%d %H:%M").to_string();
    format!("{shown} {time_zone}")
}
