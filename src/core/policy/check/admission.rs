//! Parses `changeWindows` and `suspend` of egret.yaml, which delay commits.
//!
//! Not here: whether a window is open, or a suspension is over, at a time (`core::admission`).

use jiff::{SignedDuration, Timestamp};

use super::policy::timestamp;
use super::schedule::{crontab, time_zone};
use crate::core::admission::{ChangeWindows, Suspension, Window};
use crate::core::diagnostic::{Diagnostic, SpanPoint};
use crate::core::duration::parse;
use crate::core::policy::diagnostic_sink::{DiagnosticSink, Span, quoted};
use crate::core::policy::document::{CHANGE_WINDOW, CHANGE_WINDOWS, SUSPEND};
use crate::core::policy::mapping_reader::{MappingReader, list, text};
use crate::core::policy::yaml::{MappingEntry, YamlNode, read};

/// A window that is open for longer is open nearly always.
const LONGEST: SignedDuration = SignedDuration::from_hours(7 * 24);

/// Parses a file that contains the value of egret.yaml's `changeWindows`. Diagnostics have locations in it.
pub fn windows_file(path: &str, text: &str) -> Result<ChangeWindows, Vec<Diagnostic>> {
    let mut findings = DiagnosticSink::new(path);
    let trees = read(text, &mut findings);
    let root = trees.first().and_then(|tree| tree.root.as_ref());
    let windows = root.and_then(|root| windows(root, root.span.head(), &mut findings));
    if findings.errors() == 0 && windows.as_ref().is_none_or(|windows| windows.open.is_empty()) {
        let first = SpanPoint { offset: 0, line: 1, column: 1 };
        let place = root.map_or(Span { start: first, end: first }, |root| root.span.head());
        findings.error(place, "no-window", "there is no window in it").hint("open: [{cron: …, duration: …}]");
    }
    match windows {
        Some(windows) if findings.errors() == 0 => Ok(windows),
        _ => Err(findings.into_diagnostics()),
    }
}

/// Parses `changeWindows`. None after an error: then the document is not activated.
pub(super) fn change_windows(entry: &MappingEntry, out: &mut DiagnosticSink<'_>) -> Option<ChangeWindows> {
    windows(&entry.value, entry.key_span, out)
}

fn windows(node: &YamlNode, at: Span, out: &mut DiagnosticSink<'_>) -> Option<ChangeWindows> {
    let object = MappingReader::read(node, "changeWindows", at, CHANGE_WINDOWS, out)?;
    let mut found = ChangeWindows::default();
    if let Some(entry) = object.get("open") {
        let windows = list(&entry.value, "`open`", out).unwrap_or(&[]);
        found.open = windows.iter().filter_map(|node| window(node, out)).collect();
    }
    if let Some(entry) = object.get("emergencyTrailer") {
        found.emergency_trailer = trailer(&entry.value, out);
    }
    Some(found)
}

fn window(node: &YamlNode, out: &mut DiagnosticSink<'_>) -> Option<Window> {
    let object = MappingReader::read(node, "a window", node.span.head(), CHANGE_WINDOW, out)?;
    let line = object.required("cron", out);
    let cron = line.and_then(|entry| crontab(&entry.value, out));
    let zone = object.get("timeZone").map_or(Some("UTC"), |entry| time_zone(&entry.value, out));
    let duration = object.required("duration", out).and_then(|entry| duration(&entry.value, out));
    let name = object.get("name").map_or(Some(""), |entry| text(&entry.value, "`name`", out));
    let window =
        Window { name: name?.to_owned(), cron: cron?.to_owned(), time_zone: zone?.to_owned(), duration: duration? };
    // The start time is irrelevant: the calendar repeats itself after 400 years.
    if window.next_opening(Timestamp::UNIX_EPOCH).is_none() {
        let place = line.map_or(object.at(), |entry| entry.value.span);
        out.error(place, "never-opens", format!("{} names no day that there is", quoted(&window.cron)))
            .hint("check the day of the month and the month: `0 0 30 2 *` is the 30th of February");
        return None;
    }
    Some(window)
}

fn duration(node: &YamlNode, out: &mut DiagnosticSink<'_>) -> Option<SignedDuration> {
    let written = text(node, "`duration`", out)?;
    let Some(length) = parse(written) else {
        out.error(node.span, "bad-duration", format!("{} is no length of time", quoted(written)))
            .hint("as in 4h, 90m, 1h 30m, 2d");
        return None;
    };
    if !length.is_positive() || length > LONGEST {
        out.error(node.span, "bad-duration", format!("a window cannot be open for {}", quoted(written)))
            .hint("for more than no time, and for 7d at most; without any window changes are always let in");
        return None;
    }
    Some(length)
}

/// A valid Git trailer name: letters, digits and hyphens.
fn trailer(node: &YamlNode, out: &mut DiagnosticSink<'_>) -> Option<String> {
    let name = text(node, "`emergencyTrailer`", out)?;
    let good = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
    if !good {
        out.error(node.span, "bad-trailer", format!("{} is no name of a trailer", quoted(name)))
            .hint("letters, digits and hyphens, as in Egret-Emergency");
    }
    good.then(|| name.to_owned())
}

/// Parses `suspend`. None after an error.
pub(super) fn suspension(entry: &MappingEntry, out: &mut DiagnosticSink<'_>) -> Option<Suspension> {
    let object = MappingReader::read(&entry.value, "suspend", entry.key_span, SUSPEND, out)?;
    let until = object.required("until", out).and_then(|entry| timestamp(&entry.value, out));
    let mut required = |name, what| {
        let entry = object.required(name, out)?;
        let value = text(&entry.value, what, out)?;
        if value.trim().is_empty() {
            out.error(entry.value.span, "empty", format!("{what} is empty"))
                .hint("a text for other users, shown where the cluster is suspended");
            return None;
        }
        Some(value.trim().to_owned())
    };
    let (owner, reason) = (required("owner", "`owner`"), required("reason", "`reason`"));
    Some(Suspension { until: until?, owner: owner?, reason: reason? })
}
