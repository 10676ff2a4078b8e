//! Parses YAML into trees of nodes with locations. The only file that uses `serde_yaml`.
//!
//! serde stops at the first mistake, whereas reading a tree can continue; so this builds [`YamlNode`]s directly from the
//! parser's events. Not here: the meaning of fields (`document`, `check`).
//!
//! A stream is split at its `---` lines first, so that one broken document never hides the others. No content can have such
//! a line, neither a quoted scalar nor a block scalar (YAML 1.2.2, §9.1.2 `c-forbidden`). JSON is YAML (§1.2).

mod plain;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use serde_yaml::granit_parser::{
    Event, Marker, Options, Parser, ScalarStyle, ScanError, StrInput, StructureStyle, Tag,
};

use self::plain::{Plain, resolve};
use super::diagnostic_sink::{DiagnosticSink, Span, quoted};
use crate::core::diagnostic::SpanPoint;

/// Maximum size of a file in bytes.
pub const MAX_BYTES: usize = 1 << 20;
/// Maximum nesting depth.
pub const MAX_DEPTH: usize = 32;
/// Maximum number of nodes of a file after aliases are expanded; limits the memory of a file to some 50 MB.
pub const MAX_NODES: usize = 400_000;

/// A value and its location.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct YamlNode {
    /// The value.
    pub value: YamlValue,
    /// Its location. A value from an alias has that of the anchor, where it must be fixed.
    pub span: Span,
}

/// The three kinds of nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum YamlValue {
    /// Text, number, boolean or null; see [`Scalar::kind`].
    Scalar(Scalar),
    /// A list.
    Sequence(Vec<YamlNode>),
    /// A mapping in the order it was written, without duplicate keys.
    Mapping(Vec<MappingEntry>),
}

/// One key of a mapping with its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MappingEntry {
    /// The key.
    pub key: String,
    /// The key's text.
    pub key_span: Span,
    /// The value.
    pub value: YamlNode,
}

/// A scalar, without quotes and escapes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scalar {
    /// Its text.
    pub text: String,
    /// Whether it was written without quotes: then its text decides the type.
    pub plain: bool,
}

/// The type of a scalar in the Kubernetes API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScalarKind {
    /// Null: the same as a missing field.
    Null,
    /// `true`, `yes`, `y`, `on` and their opposites.
    Boolean(bool),
    /// A number, integer or not.
    Number,
    /// Everything else, and everything in quotes.
    Text,
}

impl Scalar {
    /// Its type.
    pub fn kind(&self) -> ScalarKind {
        if !self.plain {
            return ScalarKind::Text;
        }
        match resolve(&self.text) {
            Plain::Null => ScalarKind::Null,
            Plain::Boolean(value) => ScalarKind::Boolean(value),
            Plain::Integer(_) | Plain::Fraction => ScalarKind::Number,
            Plain::Text => ScalarKind::Text,
        }
    }

    /// Its integer value; `None` if it is not an integer. In quotes it is decimal, or hexadecimal behind `0x`.
    pub fn integer(&self) -> Option<i64> {
        match resolve(&self.text) {
            Plain::Integer(number) if self.plain || self.text.starts_with("0x") => number.try_into().ok(),
            _ => self.text.parse().ok().filter(|_| !self.plain),
        }
    }

    /// Why it cannot be a key, where Kubernetes would take another text for one than stands here.
    fn no_key(&self) -> Option<&'static str> {
        if !self.plain {
            return None;
        }
        let what = match resolve(&self.text) {
            Plain::Text => return None,
            Plain::Integer(number) if number.to_string() == self.text => return None,
            Plain::Boolean(value) if value.to_string() == self.text => return None,
            Plain::Null => "nothing",
            Plain::Boolean(_) => "true or false",
            Plain::Integer(_) | Plain::Fraction => "a number",
        };
        Some(what)
    }
}

impl YamlNode {
    /// Whether it is null: Kubernetes treats a null field as missing.
    pub fn is_null(&self) -> bool {
        matches!(&self.value, YamlValue::Scalar(scalar) if scalar.kind() == ScalarKind::Null)
    }

    /// The number of nodes, itself included.
    fn size(&self) -> usize {
        1 + match &self.value {
            YamlValue::Scalar(_) => 0,
            YamlValue::Sequence(items) => items.iter().map(Self::size).sum(),
            YamlValue::Mapping(entries) => entries.iter().map(|entry| 1 + entry.value.size()).sum(),
        }
    }
}

/// One document of a stream. Empty ones are left out, unless they are broken.
#[derive(Debug, PartialEq, Eq)]
pub struct YamlTree {
    /// Its content; `None` if it is not YAML.
    pub root: Option<YamlNode>,
    /// Where it begins.
    pub start: SpanPoint,
    /// Whether an error was reported while it was parsed: its content may still be read for more errors.
    pub broken: bool,
}

/// A part of a stream that begins with a line `---`, or where the stream begins. It has one document, or several that
/// `...` separates.
#[derive(Debug, Clone, Copy)]
pub struct YamlPart<'t> {
    /// Its text.
    pub text: &'t str,
    /// Where it begins in the file.
    start: SpanPoint,
}

/// Splits a stream at its `---` lines.
pub fn parts(text: &str) -> Vec<YamlPart<'_>> {
    let mut parts = Vec::new();
    let mut start = SpanPoint { offset: 0, line: 1, column: 1 };
    // Directives (`%YAML 1.2`) stand before the `---` of their document.
    let mut only_prefix = true;
    let mut at = SpanPoint { offset: 0, line: 0, column: 1 };
    for line in lines(text) {
        at.line += 1;
        if is_document_start(line) && !only_prefix {
            parts.push(YamlPart { text: &text[start.offset..at.offset], start });
            start = at;
        }
        let content = line.trim_start_matches('\u{feff}').trim_start();
        only_prefix = match content.bytes().next() {
            _ if is_document_start(line) => false,
            _ if is_document_end(line) => true,
            None | Some(b'#' | b'%') => only_prefix,
            Some(_) => false,
        };
        at.offset += line.len();
    }
    parts.push(YamlPart { text: &text[start.offset..], start });
    parts
}

/// The lines of a text with their ends: `\n`, `\r\n`, or `\r`.
fn lines(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let end = match rest.find(['\n', '\r']) {
            Some(at) if rest[at..].starts_with("\r\n") => at + 2,
            Some(at) => at + 1,
            None => rest.len(),
        };
        let (line, after) = rest.split_at(end);
        rest = after;
        (!line.is_empty()).then_some(line)
    })
}

fn is_document_start(line: &str) -> bool {
    line.strip_prefix("---").is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\n', '\r']))
}

fn is_document_end(line: &str) -> bool {
    line.strip_prefix("...").is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\n', '\r']))
}

/// Parses all documents of a text. Never fails: mistakes go to `findings`.
pub fn read(text: &str, findings: &mut DiagnosticSink<'_>) -> Vec<YamlTree> {
    if text.len() > MAX_BYTES {
        let message = format!("the file has {} bytes; {MAX_BYTES} are the most that is read", text.len());
        findings.error(Span::default(), "too-large", message).hint("split it into several files");
        return vec![YamlTree { root: None, start: SpanPoint::default(), broken: true }];
    }
    let mut nodes = 0;
    parts(text).iter().flat_map(|part| part.read(&mut nodes, findings)).collect()
}

impl YamlPart<'_> {
    /// The place of one of its bytes in the file, whose text is given.
    pub fn place(&self, file: &str, offset: usize) -> Span {
        let at = SpanPoint::at(file, self.start.offset + offset);
        Span { start: at, end: at }
    }

    /// Parses its documents. `nodes`: how many values of the file there are so far.
    pub fn read(&self, nodes: &mut usize, findings: &mut DiagnosticSink<'_>) -> Vec<YamlTree> {
        let mut options = Options::default();
        options.flow_nesting_limit = MAX_DEPTH;
        options.block_nesting_limit = MAX_DEPTH;
        // The parser would emit comments as events between values if another package enabled that feature for the
        // whole build.
        options.emit_comments = false;
        let mut composer = Composer {
            parser: Parser::new_from_str_with_options(self.text, options),
            start: self.start,
            findings,
            anchors: BTreeMap::new(),
            nodes,
            last: Span::default(),
        };
        composer.stream()
    }
}

/// Why a document was abandoned.
enum Stop {
    /// The parser failed; not reported yet.
    Syntax(ScanError),
    /// A limit was exceeded; reported.
    Limit,
}

struct Composer<'t, 'c, 'f> {
    parser: Parser<'t, StrInput<'t>>,
    /// Where the part begins in the file.
    start: SpanPoint,
    findings: &'c mut DiagnosticSink<'f>,
    /// The value of each anchor of this document, and its number of nodes.
    anchors: BTreeMap<usize, (YamlNode, usize)>,
    /// Nodes created so far, over all documents of the file.
    nodes: &'c mut usize,
    /// The last event's location.
    last: Span,
}

impl<'t> Composer<'t, '_, '_> {
    fn stream(&mut self) -> Vec<YamlTree> {
        let mut trees = Vec::new();
        loop {
            let errors = self.findings.errors();
            let stop = match self.document() {
                Ok(Some(root)) => {
                    let broken = self.findings.errors() > errors;
                    if !root.is_null() || broken {
                        trees.push(YamlTree { start: root.span.start, root: Some(root), broken });
                    }
                    continue;
                }
                Ok(None) => return trees,
                Err(stop) => stop,
            };
            let start = self.give_up(stop);
            trees.push(YamlTree { root: None, start, broken: true });
            // Nothing is read beyond a limit: the next document could not add a node either.
            if *self.nodes > MAX_NODES || !matches!(self.parser.proceed_next_document(), Ok(true)) {
                return trees;
            }
        }
    }

    /// Reports why a document was abandoned, and returns where.
    fn give_up(&mut self, stop: Stop) -> SpanPoint {
        match stop {
            Stop::Limit => self.last.start,
            Stop::Syntax(error) => {
                let at = self.point(error.marker());
                let message = format!("the document is not YAML: {}", error.info());
                let found = self.findings.error(Span { start: at, end: at }, "yaml-syntax", message);
                // A stream of JSON objects, which kubectl reads.
                if error.info().contains("document start") {
                    found.hint("documents that follow each other need a line `---` between them");
                }
                at
            }
        }
    }

    /// The next document's root; `None` after the last one.
    fn document(&mut self) -> Result<Option<YamlNode>, Stop> {
        self.anchors.clear();
        loop {
            match self.next()? {
                None | Some((Event::StreamEnd, _)) => return Ok(None),
                Some((Event::StreamStart | Event::DocumentStart(..) | Event::DocumentEnd, _)) => {}
                Some((event, span)) => return self.node(event, span, 0).map(Some),
            }
        }
    }

    fn next(&mut self) -> Result<Option<(Event<'t>, Span)>, Stop> {
        match self.parser.next_event() {
            None => Ok(None),
            Some(Err(error)) => Err(Stop::Syntax(error)),
            Some(Ok((event, place))) => {
                self.last = Span { start: self.point(&place.start), end: self.point(&place.end) };
                Ok(Some((event, self.last)))
            }
        }
    }

    fn node(&mut self, event: Event<'t>, span: Span, depth: usize) -> Result<YamlNode, Stop> {
        self.count(1, span)?;
        if depth > MAX_DEPTH {
            let message = format!("lists and mappings are nested more than {MAX_DEPTH} deep");
            self.findings.error(span, "too-deep", message);
            return Err(Stop::Limit);
        }
        let (node, anchor) = match event {
            Event::Scalar(text, style, anchor, tag) => (self.scalar(&text, style, tag.as_deref(), span), anchor),
            Event::SequenceStart(style, anchor, tag) => {
                self.check_tag(tag.as_deref(), "seq", span);
                (self.sequence(style, span, depth)?, anchor)
            }
            Event::MappingStart(style, anchor, tag) => {
                self.check_tag(tag.as_deref(), "map", span);
                (self.mapping(style, span, depth)?, anchor)
            }
            Event::Alias(anchor) => return self.alias(anchor, span),
            // All other events end or announce something; the parser never emits one where a node must be.
            _ => (YamlNode { value: YamlValue::Scalar(Scalar { text: String::new(), plain: true }), span }, 0),
        };
        if anchor != 0 {
            let size = node.size();
            self.count(size, span)?;
            self.anchors.insert(anchor, (node.clone(), size));
        }
        Ok(node)
    }

    fn count(&mut self, more: usize, span: Span) -> Result<(), Stop> {
        *self.nodes = self.nodes.saturating_add(more);
        if *self.nodes <= MAX_NODES {
            return Ok(());
        }
        let message = format!("the file has more than {MAX_NODES} values, counting what its aliases stand for");
        self.findings.error(span, "too-many-values", message).hint("split the file, and write out what aliases repeat");
        Err(Stop::Limit)
    }

    fn alias(&mut self, anchor: usize, span: Span) -> Result<YamlNode, Stop> {
        let Some((node, size)) = self.anchors.get(&anchor).cloned() else {
            self.findings.error(span, "yaml-alias", "an alias stands inside of what it stands for");
            return Err(Stop::Limit);
        };
        self.count(size, span)?;
        Ok(node)
    }

    fn scalar(&mut self, text: &str, style: ScalarStyle, tag: Option<&Tag>, span: Span) -> YamlNode {
        let mut plain = style == ScalarStyle::Plain;
        match tag.map(|tag| (tag, tag.core_suffix())) {
            None | Some((_, Some("int" | "float" | "bool" | "null"))) => {}
            Some((_, Some("str"))) => plain = false,
            Some((tag, _)) => self.unknown_tag(tag, span),
        }
        YamlNode { value: YamlValue::Scalar(Scalar { text: text.to_owned(), plain }), span }
    }

    fn check_tag(&mut self, tag: Option<&Tag>, expected: &str, span: Span) {
        if let Some(tag) = tag
            && tag.core_suffix() != Some(expected)
        {
            self.unknown_tag(tag, span);
        }
    }

    fn unknown_tag(&mut self, tag: &Tag, span: Span) {
        let message = format!("the tag {} means nothing here", quoted(&tag.original()));
        self.findings.error(span.head(), "yaml-tag", message).hint("leave it out");
    }

    fn sequence(&mut self, style: StructureStyle, start: Span, depth: usize) -> Result<YamlNode, Stop> {
        let mut items = Vec::new();
        while let Some((event, span)) = self.next()? {
            if event == Event::SequenceEnd {
                break;
            }
            items.push(self.node(event, span, depth + 1)?);
        }
        let span = self.whole(style, start, items.last().map(|last| last.span));
        Ok(YamlNode { value: YamlValue::Sequence(items), span })
    }

    fn mapping(&mut self, style: StructureStyle, start: Span, depth: usize) -> Result<YamlNode, Stop> {
        let mut entries: Vec<MappingEntry> = Vec::new();
        let mut places: BTreeMap<String, usize> = BTreeMap::new();
        let mut merged: Vec<YamlNode> = Vec::new();
        let mut last = None;
        while let Some((event, span)) = self.next()? {
            if event == Event::MappingEnd {
                break;
            }
            let merge = matches!(&event, Event::Scalar(text, ScalarStyle::Plain, _, _) if text == "<<");
            let key = self.node(event, span, depth + 1)?;
            let Some((event, span)) = self.next()? else { break };
            let value = self.node(event, span, depth + 1)?;
            last = Some(if value.is_null() { key.span } else { value.span });
            let YamlValue::Scalar(scalar) = key.value else {
                self.findings.error(key.span, "yaml-key", "a key must be text, not a list or a mapping");
                continue;
            };
            if let Some(what) = scalar.no_key().filter(|_| !merge) {
                let message = format!("the key {} is not text", quoted(&scalar.text));
                self.findings
                    .error(key.span, "yaml-key", message)
                    .label(format!("this is {what}"))
                    .hint(format!("put it in quotes: \"{}\"", scalar.text));
            }
            let text = scalar.text;
            if merge {
                merged.push(value);
            } else if let Some(first) = places.get(&text) {
                let line = entries[*first].key_span.start.line;
                let message = format!("{} is given twice", quoted(&text));
                self.findings
                    .error(key.span, "duplicate-key", message)
                    .hint(format!("it stands on line {line} already"));
            } else {
                places.insert(text.clone(), entries.len());
                entries.push(MappingEntry { key: text, key_span: key.span, value });
            }
        }
        for node in merged {
            self.merge(node, &mut entries, &mut places);
        }
        let span = self.whole(style, start, last);
        Ok(YamlNode { value: YamlValue::Mapping(entries), span })
    }

    /// `<<`: keys of one or several mappings that are not set beside it (<https://yaml.org/type/merge.html>).
    fn merge(&mut self, node: YamlNode, entries: &mut Vec<MappingEntry>, places: &mut BTreeMap<String, usize>) {
        match node.value {
            YamlValue::Mapping(more) => {
                for entry in more {
                    if !places.contains_key(&entry.key) {
                        places.insert(entry.key.clone(), entries.len());
                        entries.push(entry);
                    }
                }
            }
            YamlValue::Sequence(items) if items.iter().all(|item| matches!(item.value, YamlValue::Mapping(_))) => {
                for item in items {
                    self.merge(item, entries, places);
                }
            }
            _ => {
                self.findings.error(node.span, "yaml-merge", "`<<` takes an alias of a mapping, or a list of them");
            }
        }
    }

    /// A collection's location. A block collection's end event is behind the white space that follows it.
    fn whole(&self, style: StructureStyle, start: Span, last: Option<Span>) -> Span {
        let end = match (style, last) {
            (StructureStyle::Block, Some(last)) if last.end >= start.start => last.end,
            (StructureStyle::Flow, _) => self.last.end,
            _ => start.end,
        };
        Span { start: start.start, end }
    }

    /// A place in the file. The parser counts columns from 0; its lines from 1, as Egret's.
    fn point(&self, marker: &Marker) -> SpanPoint {
        SpanPoint {
            offset: self.start.offset + marker.byte_offset().unwrap_or(0),
            line: self.start.line + marker.line().saturating_sub(1),
            column: marker.col() + 1,
        }
    }
}
