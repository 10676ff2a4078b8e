//! Parses durations: `90d`, `1h`, `30m`.
//!
//! Months and years, which have no fixed length, and sums as in `1h30m` are not accepted.

use std::time::Duration;

use crate::core::policy::diagnostic_sink::{DiagnosticSink, quoted};
use crate::core::policy::mapping_reader::text;
use crate::core::policy::yaml::MappingEntry;

/// Units by letter, in seconds.
const UNITS: [(char, u64); 5] = [('s', 1), ('m', 60), ('h', 3_600), ('d', 86_400), ('w', 604_800)];

/// A field as a duration of at least `least` seconds and at most ten years.
pub(super) fn duration(entry: &MappingEntry, least: u64, out: &mut DiagnosticSink<'_>) -> Option<Duration> {
    const MOST: u64 = 3_653 * 86_400;
    let what = quoted(&entry.key);
    let written = text(&entry.value, &what, out)?;
    let found = parse(written).filter(|seconds| (least..=MOST).contains(seconds));
    if found.is_none() {
        out.error(entry.value.span, "bad-duration", format!("{what} is {}", quoted(written)))
            .hint(format!("a number with one of the units s, m, h, d and w, from {} to 3653d", shown(least)));
    }
    found.map(Duration::from_secs)
}

fn parse(text: &str) -> Option<u64> {
    let (_, seconds) = UNITS.into_iter().find(|(letter, _)| text.ends_with(*letter))?;
    let digits = &text[..text.len() - 1];
    let plain = !digits.is_empty() && digits.len() < 12 && digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse::<u64>().ok().filter(|_| plain)?.checked_mul(seconds)
}

/// Seconds in the largest unit that divides them.
fn shown(seconds: u64) -> String {
    let unit = UNITS.into_iter().rev().find(|(_, unit)| seconds >= *unit && seconds.is_multiple_of(*unit));
    unit.map_or_else(|| format!("{seconds}s"), |(letter, unit)| format!("{}{letter}", seconds / unit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_a_number_and_a_unit() {
        let given = ["90d", "1h", "30m", "2w", "5s", "", "d", "1", "1.5h", "-1h", "1h30m", "99999999999d", "1 h", "é"];
        let found = given.map(parse);
        let days = |days: u64| Some(days * 86_400);
        let none = None;
        let expected = [
            days(90),
            Some(3_600),
            Some(1_800),
            days(14),
            Some(5),
            none,
            none,
            none,
            none,
            none,
            none,
            Some(99_999_999_999 * 86_400),
            none,
            none,
        ];
        assert_eq!(found, expected);
        assert_eq!([60, 3_600, 86_400, 90].map(shown), ["1m", "1h", "1d", "90s"]);
    }
}
