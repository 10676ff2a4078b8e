//! Kustomizations over Egret's documents. Egret reads documents as they are, so one that changes them, or lists some that
//! are not selected, has to be rendered first; one that only lists what is read anyway needs no diagnostic.
//!
//! Not here: the objects of Flux and Argo CD that point at a kustomization, which are none of Egret's.

use std::collections::{BTreeMap, BTreeSet};

use super::super::diagnostic_sink::{DiagnosticSink, Span, diagnostic};
use super::super::document::{ANNOTATION_PREFIX, DocumentKind, KUSTOMIZATIONS, field};
use super::super::foreign::may_be_ours;
use super::super::yaml::{MappingEntry, YamlNode, YamlValue, read};
use super::{Catalogue, parse};
use crate::core::diagnostic::{Diagnostic, Severity};

/// Fields that list files and folders.
const RESOURCES: [&str; 3] = ["resources", "bases", "components"];
/// Fields that change every document. Labels and namespaces mean nothing to Egret.
const TRANSFORMERS: [&str; 7] =
    ["namePrefix", "nameSuffix", "replacements", "vars", "transformers", "generators", "components"];
/// Fields with patches, each for some documents.
const PATCHES: [&str; 3] = ["patches", "patchesStrategicMerge", "patchesJson6902"];

/// One kustomization.
#[derive(Debug)]
struct Kustomization {
    path: String,
    folder: String,
    root: YamlNode,
}

/// What was found about all of them.
#[derive(Debug, Clone, Default)]
pub(super) struct Kustomized {
    pub(super) mistakes: Vec<Diagnostic>,
    /// Files that are patches of a kustomization with a mistake: they are no documents by themselves.
    pub(super) patches: BTreeSet<String>,
}

impl Catalogue {
    /// Examines every kustomization of the repository, wherever it is: a base is read for one, an overlay is not.
    pub(super) fn kustomized(&self) -> Kustomized {
        let mut all = BTreeMap::new();
        for (path, file) in &self.files {
            let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
            if !KUSTOMIZATIONS.contains(&name) {
                continue;
            }
            let trees = read(&file.text, &mut DiagnosticSink::new(path));
            if let Some(root) = trees.into_iter().find_map(|tree| tree.root) {
                all.insert(folder.to_owned(), Kustomization { path: path.clone(), folder: folder.to_owned(), root });
            }
        }
        let mut found = Kustomized::default();
        for one in all.values() {
            self.examine(one, &all, &mut found);
        }
        found
    }

    fn examine(&self, one: &Kustomization, all: &BTreeMap<String, Kustomization>, found: &mut Kustomized) {
        let mut files = BTreeMap::new();
        self.collect(one, all, None, &mut BTreeSet::new(), &mut files);
        let concerns = self.selected(&one.path) || files.keys().any(|path| self.selected(path));
        let Some((first, _)) = files.first_key_value().filter(|_| concerns) else { return };
        if let Some(entry) = self.transformer(one) {
            let message = format!("`{}` changes {first}; Egret reads documents as they are", entry.key);
            found.mistakes.push(mistake(&one.path, entry.key_span, "not-rendered", message));
            found.patches.extend(self.patch_files(one));
        } else if let Some((path, at)) = files.iter().find(|(path, _)| self.selected(&one.path) && !self.selected(path))
        {
            let message = format!("this lists {path}, which is not among `paths`");
            found.mistakes.push(mistake(&one.path, *at, "not-rendered", message));
        }
    }

    /// The files with documents of Egret's that a kustomization has, also by others, with the entry that leads to each.
    fn collect(
        &self,
        one: &Kustomization,
        all: &BTreeMap<String, Kustomization>,
        by: Option<Span>,
        seen: &mut BTreeSet<String>,
        files: &mut BTreeMap<String, Span>,
    ) {
        if !seen.insert(one.folder.clone()) {
            return;
        }
        for (written, at) in RESOURCES.iter().filter_map(|name| field(&one.root, name)).flat_map(texts) {
            let Some(path) = resolved(&one.folder, written) else { continue };
            let by = by.unwrap_or(at);
            if let Some(other) = all.get(&path) {
                self.collect(other, all, Some(by), seen, files);
            } else if self.has_documents(&path) {
                files.insert(path, by);
            }
        }
    }

    fn has_documents(&self, path: &str) -> bool {
        self.files.get(path).is_some_and(|file| match &file.parsed {
            Some(parsed) => !parsed.starts.is_empty(),
            None => may_be_ours(&file.text) && !parse(path, &file.text).starts.is_empty(),
        })
    }

    /// The first field that changes documents of Egret's.
    fn transformer<'k>(&self, one: &'k Kustomization) -> Option<&'k MappingEntry> {
        let YamlValue::Mapping(entries) = &one.root.value else { return None };
        entries.iter().find(|entry| match entry.key.as_str() {
            name if TRANSFORMERS.contains(&name) => !is_empty(&entry.value),
            "commonAnnotations" => {
                matches!(&entry.value.value, YamlValue::Mapping(own) if own.iter().any(|own| own.key.starts_with(ANNOTATION_PREFIX)))
            }
            name if PATCHES.contains(&name) => {
                let YamlValue::Sequence(patches) = &entry.value.value else { return false };
                patches.iter().any(|patch| self.patches_ours(&one.folder, patch))
            }
            _ => false,
        })
    }

    /// Whether a patch is for one of Egret's kinds: by its target, or by its text, which stands there or in a file.
    fn patches_ours(&self, folder: &str, patch: &YamlNode) -> bool {
        if let Some(target) = field(patch, "target") {
            let kind = field(&target.value, "kind").and_then(|entry| scalar(&entry.value));
            return kind.is_none_or(|kind| DocumentKind::ALL.iter().any(|known| known.name() == kind));
        }
        let inline = field(patch, "patch").and_then(|entry| scalar(&entry.value)).or_else(|| scalar(patch));
        let file = field(patch, "path").and_then(|entry| scalar(&entry.value)).or_else(|| scalar(patch));
        let text = file.and_then(|file| self.text(&resolved(folder, file)?));
        text.or(inline).is_some_and(may_be_ours)
    }

    /// The files that are patches.
    fn patch_files(&self, one: &Kustomization) -> Vec<String> {
        let patches = PATCHES.iter().filter_map(|name| field(&one.root, name));
        let patches = patches.flat_map(|entry| match &entry.value.value {
            YamlValue::Sequence(patches) => patches.as_slice(),
            _ => &[],
        });
        let files = patches.filter_map(|patch| {
            let written = field(patch, "path").and_then(|entry| scalar(&entry.value)).or_else(|| scalar(patch))?;
            resolved(&one.folder, written).filter(|path| self.files.contains_key(path))
        });
        files.collect()
    }
}

fn mistake(path: &str, at: Span, code: &'static str, message: String) -> Diagnostic {
    let found = diagnostic(path, Severity::Error, at, code, message);
    let hint = "run `kustomize build` in CI and commit the result; `paths` of egret.yaml names its folder alone";
    Diagnostic { hint: Some(hint.to_owned()), ..found }
}

fn scalar(node: &YamlNode) -> Option<&str> {
    match &node.value {
        YamlValue::Scalar(scalar) => Some(&scalar.text),
        _ => None,
    }
}

fn is_empty(node: &YamlNode) -> bool {
    match &node.value {
        YamlValue::Scalar(scalar) => scalar.text.is_empty() || node.is_null(),
        YamlValue::Sequence(items) => items.is_empty(),
        YamlValue::Mapping(entries) => entries.is_empty(),
    }
}

/// The texts of a list with their places.
fn texts(entry: &MappingEntry) -> Vec<(&str, Span)> {
    let YamlValue::Sequence(items) = &entry.value.value else { return Vec::new() };
    items.iter().filter_map(|item| Some((scalar(item)?, item.span))).collect()
}

/// A path in the repository, from one that is relative to a folder. None: it is somewhere else.
fn resolved(folder: &str, written: &str) -> Option<String> {
    if written.contains("://") || written.starts_with('/') {
        return None;
    }
    let mut parts: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
    for part in written.split('/').filter(|part| !part.is_empty() && *part != ".") {
        if part == ".." {
            parts.pop()?;
        } else {
            parts.push(part);
        }
    }
    Some(parts.join("/"))
}
