//! The schedule of full comparisons, from the crontab line in egret.yaml. This is the only file that names `cron`.
//!
//! Pure: the current time is passed in, and the caller waits.

use std::str::FromStr;

use cron::Cron;
use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};

use crate::core::policy::config::Schedule;

/// A crontab line in a time zone.
#[derive(Debug, Clone)]
pub struct CronSchedule {
    cron: Cron,
    zone: TimeZone,
}

/// The schedule of the active egret.yaml.
#[derive(Debug, Default)]
pub struct EffectiveSchedule {
    timetable: Option<(Schedule, CronSchedule)>,
}

/// Why a schedule is invalid.
#[derive(Debug, thiserror::Error)]
pub enum ScheduleError {
    /// The five fields cannot be parsed.
    #[error("`{line}` is no crontab line: {why}")]
    Line {
        /// The line.
        line: String,
        /// What is wrong.
        why: String,
    },
    /// The zone is not in the IANA database.
    #[error("`{0}` is no time zone")]
    Zone(String),
}

impl CronSchedule {
    /// Parses a schedule of egret.yaml.
    pub fn new(schedule: &Schedule) -> Result<Self, ScheduleError> {
        let zone = TimeZone::get(&schedule.time_zone).map_err(|_| ScheduleError::Zone(schedule.time_zone.clone()))?;
        let line = |why: String| ScheduleError::Line { line: schedule.cron.clone(), why };
        let cron = Cron::from_str(&schedule.cron).map_err(|error| line(error.to_string()))?;
        Ok(Self { cron, zone })
    }

    /// The first time after `now`; none if there is none within the years that the crontab syntax can name.
    pub fn next_after(&self, now: Timestamp) -> Option<Timestamp> {
        let now: Zoned = now.to_zoned(self.zone.clone());
        self.cron.find_next_occurrence(&now, false).ok().map(|next| next.timestamp())
    }
}

impl EffectiveSchedule {
    /// Uses this schedule from now on. An invalid one is logged and ignored.
    pub fn follow(&mut self, schedule: Option<&Schedule>) {
        if schedule == self.timetable.as_ref().map(|(schedule, _)| schedule) {
            return;
        }
        self.timetable = schedule.and_then(|schedule| match CronSchedule::new(schedule) {
            Ok(timetable) => Some((schedule.clone(), timetable)),
            Err(error) => {
                tracing::warn!(%error, "the schedule of egret.yaml is not followed");
                None
            }
        });
    }

    /// The next time after `now`, if there is a schedule.
    pub fn next_after(&self, now: Timestamp) -> Option<Timestamp> {
        self.timetable.as_ref().and_then(|(_, timetable)| timetable.next_after(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(cron: &str, zone: &str, now: &str) -> String {
        let schedule = Schedule { cron: cron.into(), time_zone: zone.into() };
        CronSchedule::new(&schedule).unwrap().next_after(now.parse().unwrap()).unwrap().to_string()
    }

    #[test]
    fn a_time_that_daylight_saving_skips_comes_right_after_the_gap() {
        // Europe/Berlin goes from 02:00 to 03:00 on 2026-03-29.
        assert_eq!(next("30 2 * * *", "Europe/Berlin", "2026-03-28T12:00:00Z"), "2026-03-29T01:00:00Z");
        assert_eq!(next("30 2 * * *", "Europe/Berlin", "2026-03-29T12:00:00Z"), "2026-03-30T00:30:00Z");
    }

    #[test]
    fn a_time_that_daylight_saving_repeats_comes_once() {
        // Europe/Berlin goes from 03:00 back to 02:00 on 2026-10-25.
        let first = next("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00:00Z");
        assert_eq!(first, "2026-10-25T00:30:00Z");
        assert_eq!(next("30 2 * * *", "Europe/Berlin", &first), "2026-10-26T01:30:00Z");
    }

    #[test]
    fn every_ten_minutes_goes_on_through_both_changes() {
        assert_eq!(next("*/10 * * * *", "Europe/Berlin", "2026-03-29T00:55:00Z"), "2026-03-29T01:00:00Z");
        assert_eq!(next("*/10 * * * *", "UTC", "2026-11-22T12:00:00Z"), "2026-11-22T12:10:00Z");
    }

    #[test]
    fn nonsense_is_refused_with_the_line() {
        let of = |cron: &str, zone: &str| CronSchedule::new(&Schedule { cron: cron.into(), time_zone: zone.into() });
        assert!(of("61 * * * *", "UTC").unwrap_err().to_string().starts_with("`61 * * * *` is no crontab line"));
        assert_eq!(of("* * * * *", "Mars/Base").unwrap_err().to_string(), "`Mars/Base` is no time zone");
    }
}
