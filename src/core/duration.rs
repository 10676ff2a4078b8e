//! Durations as people write them, in options as in documents: `90s`, `1h 30m`, `2d`, or ISO 8601's `PT90M`.
//!
//! Months and years have no length of their own and are refused. Which durations make sense where is for the caller to check.

use jiff::{SignedDuration, Span, SpanRelativeTo};

/// The units of `shown`, in seconds.
const UNITS: [(char, u64); 5] = [('s', 1), ('m', 60), ('h', 3_600), ('d', 86_400), ('w', 604_800)];

/// The duration that a text means: jiff's "friendly" format or ISO 8601. A day has 24 hours, a week 7 days.
pub fn parse(text: &str) -> Option<SignedDuration> {
    text.parse::<Span>().ok()?.to_duration(SpanRelativeTo::days_are_24_hours()).ok()
}

/// Seconds in the largest unit that they are a whole number of.
pub fn shown(seconds: u64) -> String {
    let unit = UNITS.into_iter().rev().find(|(_, unit)| seconds >= *unit && seconds.is_multiple_of(*unit));
    unit.map_or_else(|| format!("{seconds}s"), |(letter, unit)| format!("{}{letter}", seconds / unit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_a_sum_of_numbers_with_units() {
        let seconds = |text| parse(text).map(|duration: SignedDuration| duration.as_millis());
        for (text, expected) in [
            ("90d", 90 * 86_400_000),
            ("1h", 3_600_000),
            ("30m", 1_800_000),
            ("2w", 14 * 86_400_000),
            ("5s", 5_000),
            ("007d", 7 * 86_400_000),
            ("100ms", 100),
            ("1h30m", 5_400_000),
            ("1h 30m", 5_400_000),
            ("1.5h", 5_400_000),
            ("2 days", 2 * 86_400_000),
            ("PT90M", 5_400_000),
            ("-1h", -3_600_000),
        ] {
            assert_eq!(seconds(text), Some(expected), "{text}");
        }
        for text in ["", "d", "1", "é", "1 fortnight", "1mo", "1y", "99999999999d"] {
            assert_eq!(seconds(text), None, "{text}");
        }
    }

    #[test]
    fn a_whole_number_of_a_unit_is_shown_in_it() {
        assert_eq!([60, 3_600, 86_400, 90, 604_800, 0].map(shown), ["1m", "1h", "1d", "90s", "1w", "0s"]);
    }
}
