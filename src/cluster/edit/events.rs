//! Reduces a text of manifests to those parser events that may contain labels; everything else is replaced by a hash.
//! A pod in a dump has some 300 events, and a node that sets its own labels should not hold those of 20,000 pods to
//! find its own ten.
//!
//! Not here: the meaning of the events (see `outline`).

use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Range;

use serde_yaml::granit_parser::{Event, Options, Parser};

use super::EditError;

/// The keys whose values are kept whole, wherever they are. Of other mappings and sequences only the start and end
/// events are kept.
const KEPT: [&str; 3] = ["items", "metadata", "labels"];

/// One event that was kept.
pub(super) struct YamlEvent<'text> {
    pub event: Event<'text>,
    /// Its bytes: of a scalar all of it, with its quotes; of a mapping within braces only one brace.
    pub bytes: Range<usize>,
    /// At the end of a collapsed value: a hash of its content. 64 bits: this protects against bugs of ours, not
    /// against an attacker.
    folded: u64,
}

impl YamlEvent<'_> {
    /// Whether two events mean the same: kind, value, style, anchor, tag and collapsed content, but not position.
    pub(super) fn is_like(&self, other: &YamlEvent<'_>) -> bool {
        self.event == other.event && self.folded == other.folded
    }
}

/// Reads a text.
pub(super) fn read(text: &str) -> Result<Vec<YamlEvent<'_>>, EditError> {
    let mut reader = Reader { open: Vec::new(), folding: None, items: Vec::new() };
    let mut options = Options::default();
    // Comments must not become events, even if another package enables that for the whole build: what is not an event
    // is left unchanged.
    options.emit_comments = false;
    for event in Parser::new_from_str_with_options(text, options) {
        let (event, span) = event.map_err(|error| EditError::Syntax {
            line: error.marker().line(),
            column: error.marker().col() + 1,
            message: error.info(),
        })?;
        // For texts, unlike streams, the parser has all byte offsets.
        reader.event(event, span.byte_range().unwrap_or_default());
    }
    Ok(reader.items)
}

struct Reader<'text> {
    /// Open collections that are kept, outermost first.
    open: Vec<Open>,
    folding: Option<Folding>,
    items: Vec<YamlEvent<'text>>,
}

#[derive(Clone, Copy)]
enum Open {
    Sequence,
    /// A key comes next.
    Mapping,
    /// The value of a key comes next, and whether it is kept.
    Value {
        kept: bool,
    },
}

#[derive(Default)]
struct Folding {
    depth: usize,
    hasher: DefaultHasher,
}

impl<'text> Reader<'text> {
    fn event(&mut self, event: Event<'text>, bytes: Range<usize>) {
        let starts = matches!(event, Event::MappingStart(..) | Event::SequenceStart(..));
        let ends = matches!(event, Event::MappingEnd | Event::SequenceEnd);
        if let Some(folding) = &mut self.folding {
            if ends && folding.depth == 0 {
                let folded = folding.hasher.finish();
                self.folding = None;
                self.items.push(YamlEvent { event, bytes, folded });
                self.done(None);
            } else {
                hash(&event, &mut folding.hasher);
                folding.depth = if starts { folding.depth + 1 } else { folding.depth - usize::from(ends) };
            }
            return;
        }
        if starts {
            match (&event, self.open.last()) {
                (_, Some(Open::Mapping | Open::Value { kept: false })) => self.folding = Some(Folding::default()),
                (Event::SequenceStart(..), _) => self.open.push(Open::Sequence),
                _ => self.open.push(Open::Mapping),
            }
        } else if ends {
            self.open.pop();
            self.done(None);
        } else if let Event::Scalar(text, ..) = &event {
            self.done(Some(KEPT.contains(&text.as_ref())));
        } else if matches!(event, Event::Alias(_)) {
            self.done(None);
        }
        self.items.push(YamlEvent { event, bytes, folded: 0 });
    }

    /// A whole node was read: in a mapping, keys and values alternate. A key determines whether its value is kept.
    fn done(&mut self, kept: Option<bool>) {
        if let Some(open) = self.open.last_mut() {
            *open = match *open {
                Open::Sequence => Open::Sequence,
                Open::Mapping => Open::Value { kept: kept.unwrap_or(false) },
                Open::Value { .. } => Open::Mapping,
            };
        }
    }
}

/// Hashes the meaning of an event, but not its position.
fn hash(event: &Event<'_>, hasher: &mut DefaultHasher) {
    std::mem::discriminant(event).hash(hasher);
    match event {
        Event::Scalar(text, style, anchor, tag) => (text, style, anchor, tag).hash(hasher),
        Event::MappingStart(style, anchor, tag) | Event::SequenceStart(style, anchor, tag) => {
            (style, anchor, tag).hash(hasher);
        }
        Event::Alias(anchor) => anchor.hash(hasher),
        _ => {}
    }
}
