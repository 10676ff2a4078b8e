//! Parses one file of the repository into checked documents and diagnostics.
//!
//! Not here: other files, and earlier versions of this one (`catalogue`).

use std::collections::BTreeSet;
use std::sync::Arc;

use super::check::{Checked, CheckedNodeLabels, CheckedPolicy, ConfigDocument, DocumentIdentity, check, identity};
use super::diagnostic_sink::DiagnosticSink;
use super::document::{CONFIG_FILE, DocumentKind, Recognised, head, recognise};
use super::yaml::{YamlNode, read};
use crate::core::diagnostic::Diagnostic;

/// The result of parsing a file.
#[derive(Debug, Default)]
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
    let mut file = Reading { findings, parsed: ParsedFile::default(), foreign: false, configs: 0, more };
    for tree in read(text, &mut file.findings) {
        file.parsed.starts.push(tree.start.offset);
        if let Some(root) = &tree.root {
            file.document(root, tree.broken, false);
        }
    }
    let Reading { findings, mut parsed, .. } = file;
    parsed.clean = findings.errors() == 0;
    parsed.diagnostics = findings.into_diagnostics();
    parsed
}

struct Reading<'f> {
    findings: DiagnosticSink<'f>,
    parsed: ParsedFile,
    /// Whether a foreign object was reported, which is done once for each file.
    foreign: bool,
    configs: usize,
    more: MoreChecks,
}

impl Reading<'_> {
    fn document(&mut self, root: &YamlNode, broken: bool, in_list: bool) {
        match recognise(root, &mut self.findings) {
            Recognised::Ours(kind) => self.ours(kind, root, broken),
            // kubectl never writes nested lists.
            Recognised::List(items) if !in_list => {
                for item in items {
                    self.document(item, broken, true);
                }
            }
            Recognised::Foreign(kind) if !self.foreign => {
                self.foreign = true;
                let message = format!("a {kind} is none of Egret's kinds and is left alone");
                self.findings
                    .warning(root.span.head(), "foreign-document", message)
                    .hint("keep it in a folder that is not among `paths` of egret.yaml");
            }
            Recognised::List(_) | Recognised::Nothing => {
                let message = "this is no Kubernetes object: it has not both apiVersion and kind";
                self.findings
                    .warning(root.span.head(), "no-object", message)
                    .hint("keep it in a folder that is not among `paths` of egret.yaml");
            }
            Recognised::Foreign(_) | Recognised::Mistaken => {}
        }
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
        let document = head(kind, root, &mut self.findings);
        let identity = identity(&document);
        let checked = check(&document, &mut self.findings);
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

impl Checked {
    /// The policy, if it is one.
    pub fn policy(&self) -> Option<&CheckedPolicy> {
        match self {
            Self::Policy(policy) => Some(policy),
            Self::NodeLabels(_) | Self::Config(_) => None,
        }
    }

    /// The node labels, if it is such a document.
    pub fn node_labels(&self) -> Option<&CheckedNodeLabels> {
        match self {
            Self::NodeLabels(labels) => Some(labels),
            Self::Policy(_) | Self::Config(_) => None,
        }
    }

    /// The configuration, if it is one.
    pub fn config(&self) -> Option<&ConfigDocument> {
        match self {
            Self::Config(config) => Some(config),
            Self::Policy(_) | Self::NodeLabels(_) => None,
        }
    }
}
