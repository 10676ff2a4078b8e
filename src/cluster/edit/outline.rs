//! Finds a node's labels in a text of manifests, and how they are written.
//!
//! Not here: editing (see `splice`).

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;

use serde_yaml::granit_parser::{Event, ScalarStyle, StructureStyle};

use super::EditError;
use super::events::{self, YamlEvent};
use crate::cluster::LISTS;
use crate::core::diagnostic::SpanPoint;
use crate::core::name::NodeName;

/// A whole text.
pub(super) struct Outline<'text> {
    /// The text that was read.
    pub text: &'text str,
    items: Vec<YamlEvent<'text>>,
}

/// The position of a node's labels, or where they would be. All numbers are indexes of events.
#[derive(Debug)]
pub(super) struct MetadataEntries {
    /// The mapping `metadata`.
    pub metadata: usize,
    /// Its entry `name`.
    pub name: EventEntry,
    /// Its entry `labels`.
    pub labels: Option<EventEntry>,
}

/// One entry of a mapping: the events at which its key and its value begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct EventEntry {
    pub key: usize,
    pub value: usize,
}

/// The form of the value of `labels`.
pub(super) enum Shape {
    /// Nothing, `~` or `null`.
    Null,
    /// One entry per line.
    Block(Vec<EventEntry>),
    /// Within braces.
    Flow(Vec<EventEntry>),
}

impl<'text> Outline<'text> {
    /// Reads a text.
    pub(super) fn read(text: &'text str) -> Result<Self, EditError> {
        events::read(text).map(|items| Self { text, items })
    }

    /// The last manifest of a node, as a document or in a list.
    pub(super) fn find(&self, node: &NodeName) -> Option<MetadataEntries> {
        let roots = self.items.iter().enumerate().filter(|(_, item)| matches!(item.event, Event::DocumentStart(..)));
        let mut found = None;
        for (start, _) in roots {
            let root = start + 1;
            let kind = self.field(root, "kind").and_then(|kind| self.scalar(kind.value)).unwrap_or_default();
            if LISTS.contains(&kind) {
                let items = self.field(root, "items").map(|items| self.items(items.value)).unwrap_or_default();
                let of_items = kind.strip_suffix("List").unwrap_or_default();
                found = items.into_iter().filter_map(|item| self.node(item, of_items, node)).next_back().or(found);
            } else {
                found = self.node(root, "", node).or(found);
            }
        }
        found
    }

    /// The entries of an object, if it is the node's. The API server leaves `kind` out of a list's items.
    fn node(&self, object: usize, default_kind: &str, node: &NodeName) -> Option<MetadataEntries> {
        let kind = self.field(object, "kind").and_then(|kind| self.scalar(kind.value)).unwrap_or(default_kind);
        let metadata = self.field(object, "metadata").filter(|_| kind == "Node")?.value;
        let name = self.field(metadata, "name")?;
        (self.scalar(name.value)? == node.as_str()).then(|| MetadataEntries {
            metadata,
            name,
            labels: self.field(metadata, "labels"),
        })
    }

    /// The labels. An error if they are written in a form that cannot be edited.
    pub(super) fn labels(&self, target: &MetadataEntries) -> Result<BTreeMap<String, String>, EditError> {
        let mut labels = BTreeMap::new();
        if let Some(entry) = self.entries(target.metadata).iter().find(|entry| self.scalar(entry.key) == Some("<<")) {
            return Err(self.unusual(entry.key, "a merge key in metadata"));
        }
        let Some(shape) = target.labels.map(|labels| self.shape(labels)).transpose()? else { return Ok(labels) };
        let (Shape::Block(entries) | Shape::Flow(entries)) = shape else { return Ok(labels) };
        for entry in entries {
            let key = self.simple(entry.key)?;
            self.simple(entry.value)?;
            if key == "<<" {
                return Err(self.unusual(entry.key, "a merge key among the labels"));
            }
            if labels.insert(key.to_owned(), self.label(entry).to_owned()).is_some() {
                return Err(self.unusual(entry.key, "a label that is there twice"));
            }
        }
        Ok(labels)
    }

    /// How the labels are written.
    pub(super) fn shape(&self, labels: EventEntry) -> Result<Shape, EditError> {
        match &self.items[labels.value].event {
            Event::MappingStart(StructureStyle::Block, 0, None) => Ok(Shape::Block(self.entries(labels.value))),
            Event::MappingStart(StructureStyle::Flow, 0, None) => Ok(Shape::Flow(self.entries(labels.value))),
            _ if self.is_null(labels.value) => Ok(Shape::Null),
            _ => Err(self.unusual(labels.value, "labels that are no plain mapping")),
        }
    }

    /// The events of the labels' value; an empty range right after the name if there are none.
    pub(super) fn labels_events(&self, target: &MetadataEntries) -> Range<usize> {
        match target.labels {
            Some(labels) => labels.value..self.behind(labels.value),
            None => self.behind(target.name.value)..self.behind(target.name.value),
        }
    }

    /// Whether everything outside of one range of each means the same: kinds, values, styles, anchors and tags, but
    /// not positions.
    pub(super) fn same_around(&self, ours: &Range<usize>, other: &Self, theirs: &Range<usize>) -> bool {
        let same =
            |a: &[YamlEvent<'_>], b: &[YamlEvent<'_>]| a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.is_like(b));
        same(&self.items[..ours.start], &other.items[..theirs.start])
            && same(&self.items[ours.end..], &other.items[theirs.end..])
    }

    /// The bytes of an event.
    pub(super) fn bytes(&self, event: usize) -> Range<usize> {
        self.items[event].bytes.clone()
    }

    /// Where the closing brace of a flow mapping begins.
    pub(super) fn closing(&self, mapping: usize) -> usize {
        self.bytes(self.behind(mapping) - 1).start
    }

    /// How a scalar is quoted.
    pub(super) fn style(&self, event: usize) -> ScalarStyle {
        match &self.items[event].event {
            Event::Scalar(_, style, ..) => *style,
            _ => ScalarStyle::Plain,
        }
    }

    /// Whether a mapping is written within braces.
    pub(super) fn is_flow(&self, mapping: usize) -> bool {
        matches!(self.items[mapping].event, Event::MappingStart(StructureStyle::Flow, ..))
    }

    /// The text of a scalar.
    pub(super) fn scalar(&self, event: usize) -> Option<&str> {
        match &self.items[event].event {
            Event::Scalar(text, ..) => Some(text),
            _ => None,
        }
    }

    /// The value of a label, with the rule for reading facts: null is an empty value.
    pub(super) fn label(&self, entry: EventEntry) -> &str {
        if self.is_null(entry.value) { "" } else { self.scalar(entry.value).unwrap_or_default() }
    }

    /// The entries of a mapping; none for any other event.
    pub(super) fn entries(&self, mapping: usize) -> Vec<EventEntry> {
        let mut entries = Vec::new();
        if matches!(self.items.get(mapping).map(|item| &item.event), Some(Event::MappingStart(..))) {
            let mut key = mapping + 1;
            while !matches!(self.items[key].event, Event::MappingEnd) {
                let value = self.behind(key);
                entries.push(EventEntry { key, value });
                key = self.behind(value);
            }
        }
        entries
    }

    /// An error at the position of an event.
    pub(super) fn unusual(&self, event: usize, what: &'static str) -> EditError {
        EditError::Unusual { line: SpanPoint::at(self.text, self.items[event].bytes.start).line, what }
    }

    fn field(&self, mapping: usize, name: &str) -> Option<EventEntry> {
        self.entries(mapping).into_iter().find(|entry| self.scalar(entry.key) == Some(name))
    }

    fn items(&self, sequence: usize) -> Vec<usize> {
        let mut items = Vec::new();
        if matches!(self.items[sequence].event, Event::SequenceStart(..)) {
            let mut item = sequence + 1;
            while !matches!(self.items[item].event, Event::SequenceEnd) {
                items.push(item);
                item = self.behind(item);
            }
        }
        items
    }

    /// The event after a whole node. The parser closes what it opens, or fails.
    fn behind(&self, node: usize) -> usize {
        let mut depth = 0_usize;
        for (offset, item) in self.items[node..].iter().enumerate() {
            match item.event {
                Event::MappingStart(..) | Event::SequenceStart(..) => depth += 1,
                Event::MappingEnd | Event::SequenceEnd => depth = depth.saturating_sub(1),
                _ => {}
            }
            if depth == 0 {
                return node + offset + 1;
            }
        }
        self.items.len()
    }

    fn is_null(&self, event: usize) -> bool {
        let null = |text: &Cow<'_, str>| matches!(text.as_ref(), "" | "~" | "null" | "Null" | "NULL");
        matches!(&self.items[event].event, Event::Scalar(text, ScalarStyle::Plain, 0, None) if null(text))
    }

    /// A scalar whose bytes can be cut out: quoted or plain, and not referred to elsewhere.
    fn simple(&self, event: usize) -> Result<&str, EditError> {
        match &self.items[event].event {
            Event::Scalar(_, ScalarStyle::Literal | ScalarStyle::Folded, ..) => {
                Err(self.unusual(event, "a block scalar among the labels"))
            }
            Event::Scalar(text, _, 0, None) => Ok(text),
            _ => Err(self.unusual(event, "an anchor, an alias, a tag or a nested value among the labels")),
        }
    }
}
