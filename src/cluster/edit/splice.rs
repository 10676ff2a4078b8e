//! Computes which bytes to replace by which text, so that a node's labels become the wanted ones.
//!
//! Not here: verifying the result; `edit` parses it again.

use std::collections::BTreeMap;
use std::ops::Range;

use serde_yaml::granit_parser::ScalarStyle;

use super::EditError;
use super::outline::{EventEntry, MetadataEntries, Outline, Shape};
use super::quote;

/// The indent of a new block under its key.
const STEP: &str = "  ";

/// Bytes of the text, and their replacement.
pub(super) struct Splice {
    at: Range<usize>,
    with: String,
}

impl Splice {
    fn insert(at: usize, with: String) -> Self {
        Self { at: at..at, with }
    }

    fn cut(at: Range<usize>) -> Self {
        Self { at, with: String::new() }
    }
}

type Labels = BTreeMap<String, String>;

/// Applies all splices. They must not overlap; an insertion where a cut begins comes before it.
pub(super) fn apply(text: &str, mut splices: Vec<Splice>) -> Result<String, EditError> {
    splices.sort_by_key(|splice| (splice.at.start, splice.at.end));
    let mut edited = String::with_capacity(text.len() + 256);
    let mut done = 0;
    for splice in splices {
        let kept = text.get(done..splice.at.start).ok_or(EditError::NotOnlyLabels)?;
        edited.push_str(kept);
        edited.push_str(&splice.with);
        done = splice.at.end;
    }
    edited.push_str(&text[done..]);
    Ok(edited)
}

/// The splices that change a target's labels to the wanted ones.
pub(super) fn splices(
    outline: &Outline<'_>,
    target: &MetadataEntries,
    wanted: &Labels,
) -> Result<Vec<Splice>, EditError> {
    let Some(labels) = target.labels else { return new_labels(outline, target, wanted).map(|splice| vec![splice]) };
    match outline.shape(labels)? {
        Shape::Null => fill_null(outline, target, labels, wanted).map(|splice| vec![splice]),
        Shape::Block(entries) => block(outline, labels, &entries, wanted),
        Shape::Flow(entries) => Ok(flow(outline, labels, &entries, wanted)),
    }
}

/// Inserts `labels` right after `name`.
fn new_labels(outline: &Outline<'_>, target: &MetadataEntries, wanted: &Labels) -> Result<Splice, EditError> {
    let lines = Lines { text: outline.text };
    if outline.is_flow(target.metadata) {
        let metadata = outline.entries(target.metadata);
        let layout = Layout::of(outline, target.metadata, &metadata);
        let key = quote::scalar("labels", layout.style);
        let with = format!("{}{key}{}{{{}}}", layout.between, layout.colon, layout.joined(wanted));
        return Ok(Splice::insert(end_of(outline, target.name), with));
    }
    let indent = indent_of(outline, target.name)?;
    let mut block = vec![format!("{indent}labels:")];
    block.extend(wanted.iter().map(|(key, value)| entry_line(&format!("{indent}{STEP}"), key, value)));
    Ok(lines.insert_behind(end_of(outline, target.name), &block))
}

/// Entries for a `labels:` with nothing, `~` or `null` after it.
fn fill_null(
    outline: &Outline<'_>,
    target: &MetadataEntries,
    labels: EventEntry,
    wanted: &Labels,
) -> Result<Splice, EditError> {
    let null = outline.bytes(labels.value);
    if null.is_empty() && !outline.is_flow(target.metadata) {
        let indent = indent_of(outline, labels)?;
        let block: Vec<String> =
            wanted.iter().map(|(key, value)| entry_line(&format!("{indent}{STEP}"), key, value)).collect();
        return Ok(Lines { text: outline.text }.insert_behind(end_of(outline, labels), &block));
    }
    let layout = Layout::of(outline, target.metadata, &[labels]);
    let braces = format!("{{{}}}", layout.joined(wanted));
    Ok(replace_value(outline, labels, braces))
}

fn block(
    outline: &Outline<'_>,
    labels: EventEntry,
    entries: &[EventEntry],
    wanted: &Labels,
) -> Result<Vec<Splice>, EditError> {
    let lines = Lines { text: outline.text };
    let indent = indent_of(outline, entries[0])?;
    let mut splices = Vec::new();
    let mut kept = Vec::new();
    for entry in entries {
        indent_of(outline, *entry)?;
        match outline.scalar(entry.key).and_then(|key| wanted.get(key)) {
            Some(value) => {
                kept.push(*entry);
                splices.extend(new_value(outline, *entry, value, outline.style(entry.value)));
            }
            None => splices.push(Splice::cut(lines.around(outline.bytes(entry.key).start, end_of(outline, *entry)))),
        }
    }
    if wanted.is_empty() {
        splices.push(Splice::insert(end_of_key(outline, labels), " {}".to_owned()));
    }
    let first = lines.start(outline.bytes(kept.first().unwrap_or(&entries[0]).key).start);
    for (key, value) in added(outline, entries, wanted) {
        let line = entry_line(&indent, key, value);
        splices.push(match before(outline, &kept, key) {
            Some(entry) => lines.insert_behind(end_of(outline, entry), &[line]),
            None => Splice::insert(first, format!("{line}{}", lines.line_end(first))),
        });
    }
    Ok(splices)
}

fn flow(outline: &Outline<'_>, labels: EventEntry, entries: &[EventEntry], wanted: &Labels) -> Vec<Splice> {
    let layout =
        Layout::of(outline, labels.value, if entries.is_empty() { std::slice::from_ref(&labels) } else { entries });
    let is_kept = |entry: &EventEntry| outline.scalar(entry.key).is_some_and(|key| wanted.contains_key(key));
    let Some(first_kept) = entries.iter().position(is_kept) else {
        // All entries are new: what is between the braces, comments too, belonged to removed labels.
        let inside = outline.bytes(labels.value).end..outline.closing(labels.value);
        return vec![Splice { at: inside, with: layout.joined(wanted) }];
    };
    let mut splices = Vec::new();
    for (number, entry) in entries.iter().enumerate() {
        match outline.scalar(entry.key).and_then(|key| wanted.get(key)) {
            Some(value) => {
                splices.extend(new_value(outline, *entry, value, layout.value_style(outline.style(entry.value))));
            }
            // With the comma after it while nothing before it is kept, otherwise with the comma before it.
            None if number < first_kept => {
                let next = outline.bytes(entries[number + 1].key).start;
                splices.push(Splice::cut(outline.bytes(entry.key).start..next));
            }
            None => splices.push(Splice::cut(end_of(outline, entries[number - 1])..end_of(outline, *entry))),
        }
    }
    let kept: Vec<EventEntry> = entries.iter().filter(|entry| is_kept(entry)).copied().collect();
    for (key, value) in added(outline, entries, wanted) {
        let pair = layout.pair(key, value);
        splices.push(match before(outline, &kept, key) {
            Some(entry) => Splice::insert(end_of(outline, entry), format!("{}{pair}", layout.between)),
            None => Splice::insert(outline.bytes(kept[0].key).start, format!("{pair}{}", layout.between)),
        });
    }
    splices
}

/// Wanted labels that are missing, in order.
fn added<'a>(outline: &Outline<'_>, entries: &[EventEntry], wanted: &'a Labels) -> Vec<(&'a String, &'a String)> {
    let there = |key: &str| entries.iter().any(|entry| outline.scalar(entry.key) == Some(key));
    wanted.iter().filter(|(key, _)| !there(key)).collect()
}

/// The last entry that sorts before a key: sorted entries, as kubectl prints them, stay sorted.
fn before(outline: &Outline<'_>, kept: &[EventEntry], key: &str) -> Option<EventEntry> {
    kept.iter().rev().find(|entry| outline.scalar(entry.key).is_some_and(|other| other < key)).copied()
}

fn new_value(outline: &Outline<'_>, entry: EventEntry, value: &str, style: ScalarStyle) -> Option<Splice> {
    (outline.label(entry) != value).then(|| replace_value(outline, entry, quote::scalar(value, style)))
}

fn replace_value(outline: &Outline<'_>, entry: EventEntry, with: String) -> Splice {
    let value = outline.bytes(entry.value);
    if !value.is_empty() {
        return Splice { at: value, with };
    }
    let end = end_of_key(outline, entry);
    let colon = if outline.text[..end].ends_with(':') && end > outline.bytes(entry.key).end { " " } else { ": " };
    Splice::insert(end, format!("{colon}{with}"))
}

/// The end of a key's colon; of the key if it has none, as in `{key}`.
fn end_of_key(outline: &Outline<'_>, entry: EventEntry) -> usize {
    let end = outline.bytes(entry.key).end;
    let rest = &outline.text[end..];
    let spaces = rest.len() - rest.trim_start_matches([' ', '\t']).len();
    if rest[spaces..].starts_with(':') { end + spaces + 1 } else { end }
}

/// The end of an entry's value.
fn end_of(outline: &Outline<'_>, entry: EventEntry) -> usize {
    let value = outline.bytes(entry.value);
    if value.is_empty() { end_of_key(outline, entry) } else { value.end }
}

/// The indent of a block mapping's entry. An error if anything else precedes the key.
fn indent_of(outline: &Outline<'_>, entry: EventEntry) -> Result<String, EditError> {
    let key = outline.bytes(entry.key).start;
    let indent = &outline.text[Lines { text: outline.text }.start(key)..key];
    if indent.bytes().all(|byte| byte == b' ') {
        Ok(indent.to_owned())
    } else {
        Err(outline.unusual(entry.key, "a key that does not begin its line"))
    }
}

fn entry_line(indent: &str, key: &str, value: &str) -> String {
    format!("{indent}{}: {}", quote::scalar(key, ScalarStyle::Plain), quote::scalar(value, ScalarStyle::Plain))
}

/// The layout of a mapping within braces, so that new entries look like existing ones.
struct Layout {
    /// The text between a value and the next key: a comma and what follows it.
    between: String,
    /// The text between a key and its value.
    colon: String,
    /// Double quotes for everything if it is JSON.
    style: ScalarStyle,
}

impl Layout {
    /// Derived from the entries of the mapping; for an empty one, from the entry that holds it.
    fn of(outline: &Outline<'_>, mapping: usize, entries: &[EventEntry]) -> Self {
        let text = outline.text;
        let first = entries[0];
        let gap = text.get(outline.bytes(first.key).end..outline.bytes(first.value).start).unwrap_or_default();
        let colon = if gap.trim() == ":" && !gap.contains('\n') { gap.to_owned() } else { ": ".to_owned() };
        let second = entries.get(1).map(|second| end_of(outline, first)..outline.bytes(second.key).start);
        let between = second.and_then(|gap| text.get(gap)).filter(|gap| gap.trim() == ",").map(str::to_owned);
        let between = between.unwrap_or_else(|| {
            let key = outline.bytes(first.key).start;
            let lead = &text[outline.bytes(mapping).end.min(key)..key];
            match lead.rfind('\n') {
                Some(newline) if lead.trim().is_empty() => {
                    format!(",{}", &lead[newline - usize::from(lead[..newline].ends_with('\r'))..])
                }
                _ if colon == ":" => ",".to_owned(),
                _ => ", ".to_owned(),
            }
        });
        let json = outline.style(first.key) == ScalarStyle::DoubleQuoted;
        Self { between, colon, style: if json { ScalarStyle::DoubleQuoted } else { ScalarStyle::Plain } }
    }

    /// JSON has only double quotes.
    fn value_style(&self, there: ScalarStyle) -> ScalarStyle {
        if self.style == ScalarStyle::DoubleQuoted { self.style } else { there }
    }

    fn pair(&self, key: &str, value: &str) -> String {
        format!("{}{}{}", quote::scalar(key, self.style), self.colon, quote::scalar(value, self.style))
    }

    /// All labels in one line: there is no existing line to imitate.
    fn joined(&self, labels: &Labels) -> String {
        let comma = if self.colon == ":" { "," } else { ", " };
        labels.iter().map(|(key, value)| self.pair(key, value)).collect::<Vec<_>>().join(comma)
    }
}

/// The lines of a text, with any line ends.
struct Lines<'text> {
    text: &'text str,
}

impl<'text> Lines<'text> {
    fn start(&self, at: usize) -> usize {
        self.text[..at].rfind('\n').map_or(0, |newline| newline + 1)
    }

    /// The position after the line's newline, or the end of the text.
    fn end(&self, at: usize) -> usize {
        self.text[at..].find('\n').map_or(self.text.len(), |newline| at + newline + 1)
    }

    /// Whole lines from one place to another.
    fn around(&self, from: usize, to: usize) -> Range<usize> {
        self.start(from)..self.end(to)
    }

    /// The line end at a position; of the line before if it is the last one and has no line end.
    fn line_end(&self, at: usize) -> &'text str {
        let end = self.end(at);
        let line_end = if self.text[..end].ends_with('\n') { end } else { self.start(at) };
        if self.text[..line_end].ends_with("\r\n") { "\r\n" } else { "\n" }
    }

    /// Inserts lines after the line of a position, also if it is the last one and has no line end.
    fn insert_behind(&self, at: usize, new: &[String]) -> Splice {
        let end = self.end(at);
        let line_end = self.line_end(at);
        let with = if self.text[..end].ends_with('\n') {
            new.iter().flat_map(|line| [line.as_str(), line_end]).collect()
        } else {
            new.iter().flat_map(|line| [line_end, line.as_str()]).collect()
        };
        Splice::insert(end, with)
    }
}
