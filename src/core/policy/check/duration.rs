//! A field that is a duration: within its limits, or a finding. How durations are written is in `core::duration`.

use std::time::Duration;

use crate::core::duration::{parse, shown};
use crate::core::policy::diagnostic_sink::{DiagnosticSink, quoted};
use crate::core::policy::mapping_reader::text;
use crate::core::policy::yaml::MappingEntry;

/// A field as a duration within these limits, which the hint states.
pub(super) fn within(
    entry: &MappingEntry,
    limits: std::ops::RangeInclusive<Duration>,
    hint: &str,
    out: &mut DiagnosticSink<'_>,
) -> Option<Duration> {
    let what = quoted(&entry.key);
    let written = text(&entry.value, &what, out)?;
    let found = parse(written).and_then(|duration| Duration::try_from(duration).ok());
    let found = found.filter(|found| limits.contains(found));
    if found.is_none() {
        out.error(entry.value.span, "bad-duration", format!("{what} is {}", quoted(written))).hint(hint);
    }
    found
}

/// A field as a duration of at least so many seconds; ten years are the most.
pub(super) fn duration(entry: &MappingEntry, least: u64, out: &mut DiagnosticSink<'_>) -> Option<Duration> {
    const MOST: u64 = 3_653 * 86_400;
    let hint = format!("a duration from {} to 3653d, as in 90d, 1h 30m, 45m", shown(least));
    within(entry, Duration::from_secs(least)..=Duration::from_secs(MOST), &hint, out)
}
