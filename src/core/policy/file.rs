//! Parses one file of the repository into checked documents and diagnostics.
//!
//! Not here: other files, and earlier versions of this one (`catalogue`).

use std::collections::BTreeSet;
use std::sync::Arc;

use super::check::{
    Checked, CheckedAssertion, CheckedNodeLabels, CheckedPolicy, CheckedPool, ConfigDocument, DocumentIdentity, check,
    identity,
};
use super::diagnostic_sink::{DiagnosticSink, Span};
use super::document::{
    ANNOTATION_PREFIX, CONFIG_FILE, DocumentKind, Recognised, field, head, is_config_name, recognise,
};
use super::foreign::{Placeholder, may_be_ours, placeholder, was_meant};
use super::migrate::Source;
use super::yaml::{YamlNode, YamlPart, YamlTree, YamlValue, parts};
use crate::core::diagnostic::Diagnostic;

/// The result of parsing a file.
#[derive(Debug, Clone, Default)]
pub struct ParsedFile {
    /// Documents without an error, in file order, with their identities. An identity may occur twice.
    pub good: Vec<(DocumentIdentity, Arc<Checked>)>,
    /// Documents of Egret's with errors whose name could be read.
    pub bad: BTreeSet<DocumentIdentity>,
    /// Byte offsets at which documents of any kind begin, in order.
    pub starts: Vec<usize>,
    /// All diagnostics.
    pub diagnostics: Vec<Diagnostic>,
    /// Whether there was no error: then documents that are not in it are not wanted any more.
    pub clean: bool,
}

/// Checks a document beyond what its reader does.
pub(super) type MoreChecks = fn(&Checked, &YamlNode, &mut DiagnosticSink<'_>);

/// Parses a file.
pub fn parse(path: &str, text: &str) -> ParsedFile {
    parse_with(path, text, |_, _, _| {})
}

/// Parses a file whose good documents have to pass another check as well.
pub(super) fn parse_with(path: &str, text: &str, more: MoreChecks) -> ParsedFile {
    let findings = DiagnosticSink::new(path);
    let mut file = Reading { text, findings, parsed: ParsedFile::default(), configs: 0, nodes: 0, raw: false, more };
    for part in parts(text) {
        file.part(&part);
    }
    if path == CONFIG_FILE && file.configs == 0 && file.findings.errors() == 0 {
        file.no_config(Span::default());
    }
    let Reading { findings, mut parsed, .. } = file;
    parsed.clean = findings.errors() == 0;
    parsed.diagnostics = findings.into_diagnostics();
    parsed
}

struct Reading<'f> {
    text: &'f str,
    findings: DiagnosticSink<'f>,
    parsed: ParsedFile,
    configs: usize,
    /// How many values there are so far.
    nodes: usize,
    /// Whether it was reported that the file has to be rendered first.
    raw: bool,
    more: MoreChecks,
}

impl Reading<'_> {
    /// A part is left alone, whatever is wrong with it, if none of its documents is Egret's. In egret.yaml all are.
    fn part(&mut self, part: &YamlPart<'_>) {
        let path = self.findings.file();
        let is_config_file = path == CONFIG_FILE;
        if !is_config_file && !is_config_name(path) && !may_be_ours(part.text) {
            return;
        }
        let mut syntax = DiagnosticSink::new(path);
        let trees = part.read(&mut self.nodes, &mut syntax);
        let ours = |tree: &YamlTree| match &tree.root {
            Some(root) => is_ours(root, path),
            None => was_meant(part.text),
        };
        if !is_config_file && !trees.iter().any(ours) {
            trees.iter().filter_map(|tree| tree.root.as_ref()).for_each(|root| self.of_another_gateway(root));
            return;
        }
        let broken = trees.iter().any(|tree| tree.broken);
        let raw = placeholder(part.text).filter(|_| broken);
        match raw {
            // What follows from it is not worth a line.
            Some((what, at)) => self.not_rendered(what, part.place(self.text, at)),
            None => self.findings.absorb(syntax),
        }
        for tree in &trees {
            self.parsed.starts.push(tree.start.offset);
            if let Some(root) = &tree.root {
                self.document(root, tree.broken, raw.is_some(), false);
            }
        }
    }

    fn not_rendered(&mut self, what: Placeholder, at: Span) {
        if !self.raw {
            self.raw = true;
            self.findings
                .error(at, "not-rendered", format!("{} stands here; documents are read as they are", what.what()))
                .hint("render the manifests in CI and commit the result; `paths` of egret.yaml names its folder");
        }
    }

    fn no_config(&mut self, at: Span) {
        let expected = format!("apiVersion: {}, kind: Config", DocumentKind::Config.api_version());
        self.findings.error(at, "no-config", "egret.yaml holds no Config").hint(expected);
    }

    fn document(&mut self, root: &YamlNode, broken: bool, raw: bool, in_list: bool) {
        match recognise(root, &mut self.findings) {
            Recognised::Ours(kind) if raw => self.unrendered(kind, root),
            Recognised::Ours(kind) => match placeholder_in(kind, root) {
                Some((what, at)) => {
                    self.not_rendered(what, at);
                    self.unrendered(kind, root);
                }
                None => self.ours(kind, root, broken),
            },
            // kubectl never writes nested lists.
            Recognised::List(items) if !in_list => {
                for item in items {
                    self.document(item, broken, raw, true);
                }
            }
            Recognised::List(_) | Recognised::Nothing | Recognised::Foreign
                if self.findings.file() == CONFIG_FILE && self.findings.errors() == 0 =>
            {
                self.no_config(root.span.head());
            }
            // It may have been meant to be egret.yaml.
            Recognised::Mistaken if is_config_name(self.findings.file()) => {
                self.parsed.bad.insert(DocumentIdentity::Config);
            }
            Recognised::Foreign => self.of_another_gateway(root),
            Recognised::List(_) | Recognised::Nothing | Recognised::Mistaken => {}
        }
    }

    /// Warns of policies that steer in another way than the user may think, here or in a list.
    fn of_another_gateway(&mut self, root: &YamlNode) {
        if let Some(YamlValue::Sequence(items)) = field(root, "items").map(|entry| &entry.value.value) {
            for item in items {
                self.of_another_gateway(item);
            }
        }
        if let Some(source) = Source::of(root) {
            let at = field(root, "kind").map_or(root.span.head(), |entry| entry.value.span);
            let message = format!("Egret does not read the kind {}: it steers nothing here", source.name());
            let hint = format!("`egret migrate {}` prints it as an EgressPolicy", self.findings.file());
            self.findings.warning(at, "other-gateway", message).hint(hint);
        }
    }

    /// A document whose mistakes are those of its template.
    fn unrendered(&mut self, kind: DocumentKind, root: &YamlNode) {
        let document = head(kind, root, &mut DiagnosticSink::new(self.findings.file()));
        self.configs += usize::from(kind == DocumentKind::Config);
        self.parsed.bad.extend(identity(&document));
    }

    fn ours(&mut self, kind: DocumentKind, root: &YamlNode, broken: bool) {
        let errors = self.findings.errors();
        let at = root.span.head();
        let in_its_place = (kind == DocumentKind::Config) == (self.findings.file() == CONFIG_FILE);
        if !in_its_place {
            let (message, hint) = if kind == DocumentKind::Config {
                ("a Config counts only in egret.yaml at the root of the repository", "move it there")
            } else {
                ("egret.yaml holds the Config and nothing else", "move the document into a file of its own")
            };
            self.findings.error(at, "wrong-place", message).hint(hint);
        }
        if kind == DocumentKind::Config {
            self.configs += 1;
            if self.configs > 1 {
                self.findings
                    .error(at, "duplicate-document", "there is a Config in this file already")
                    .hint("keep one");
            }
        }
        let earlier = self.findings.count();
        let document = head(kind, root, &mut self.findings);
        let identity = identity(&document);
        let checked = check(&document, &mut self.findings);
        self.findings.drop_warnings(earlier, |code| document.acknowledged.has(code));
        if let Some(checked) = checked.as_ref().filter(|_| self.findings.errors() == errors) {
            (self.more)(checked, root, &mut self.findings);
        }
        match (identity, checked) {
            (Some(identity), Some(checked)) if !broken && self.findings.errors() == errors => {
                self.parsed.good.push((identity, Arc::new(checked)));
            }
            (Some(identity), _) => {
                self.parsed.bad.insert(identity);
            }
            (None, _) => {}
        }
    }
}

/// Whether a document is one of Egret's, or was meant to be, or is a list with such a one.
fn is_ours(root: &YamlNode, path: &str) -> bool {
    match recognise(root, &mut DiagnosticSink::new(path)) {
        Recognised::Ours(_) | Recognised::Mistaken => true,
        Recognised::List(items) => items.iter().any(|item| {
            matches!(recognise(item, &mut DiagnosticSink::new(path)), Recognised::Ours(_) | Recognised::Mistaken)
        }),
        Recognised::Foreign | Recognised::Nothing => false,
    }
}

/// The first placeholder among the values that count. Labels and annotations of other programs may have any text.
fn placeholder_in(kind: DocumentKind, root: &YamlNode) -> Option<(Placeholder, Span)> {
    if kind == DocumentKind::Config {
        return placeholder_below(root);
    }
    let metadata = field(root, "metadata").map(|entry| &entry.value);
    let name = metadata.and_then(|metadata| field(metadata, "name")).map(|entry| &entry.value);
    let annotations = metadata.and_then(|metadata| field(metadata, "annotations")).map(|entry| &entry.value.value);
    let own = match annotations {
        Some(YamlValue::Mapping(entries)) => entries.as_slice(),
        _ => &[],
    };
    let own = own.iter().filter(|entry| entry.key.starts_with(ANNOTATION_PREFIX)).map(|entry| &entry.value);
    let spec = field(root, "spec").map(|entry| &entry.value);
    name.into_iter().chain(own).chain(spec).find_map(placeholder_below)
}

fn placeholder_below(node: &YamlNode) -> Option<(Placeholder, Span)> {
    match &node.value {
        YamlValue::Scalar(scalar) => placeholder(&scalar.text).map(|(what, _)| (what, node.span)),
        YamlValue::Sequence(items) => items.iter().find_map(placeholder_below),
        YamlValue::Mapping(entries) => entries.iter().find_map(|entry| {
            placeholder(&entry.key).map(|(what, _)| (what, entry.key_span)).or_else(|| placeholder_below(&entry.value))
        }),
    }
}

impl Checked {
    /// The policy, if it is one.
    pub fn policy(&self) -> Option<&CheckedPolicy> {
        if let Self::Policy(policy) = self { Some(policy) } else { None }
    }

    /// The node labels, if it is such a document.
    pub fn node_labels(&self) -> Option<&CheckedNodeLabels> {
        if let Self::NodeLabels(labels) = self { Some(labels) } else { None }
    }

    /// The assertion, if it is one.
    pub fn assertion(&self) -> Option<&CheckedAssertion> {
        if let Self::Assertion(assertion) = self { Some(assertion) } else { None }
    }

    /// The pool, if it is one.
    pub fn pool(&self) -> Option<&CheckedPool> {
        if let Self::Pool(pool) = self { Some(pool) } else { None }
    }

    /// The configuration, if it is one.
    pub fn config(&self) -> Option<&ConfigDocument> {
        if let Self::Config(config) = self { Some(config) } else { None }
    }
}
