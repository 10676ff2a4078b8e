//! The catalogue: all files of the repository as they are now, and the active version of each document.
//!
//! One rule decides everything: while a document is bad, for whatever reason, its last good version stays active. A
//! document is identified by kind and name, not by file, so it may move. It ends when no file mentions it any more and
//! the file it was in has no error: while that file has one, it is unknown whether the document is still wanted.
//!
//! Only changed files are parsed again. The texts of all files with a fitting name are kept, also of those outside of
//! `paths`: when `paths` changes, the catalogue selects again and needs no files from Git. For a repository of 10,000
//! policies that is some 10 MB.
//!
//! Not here: Git (the caller passes changes), checks against the cluster (`lint`), and storage:
//! [`Catalogue::export_good`] returns what has to be persisted, [`Catalogue::import_good`] restores it.

mod conflicts;
mod effective;
mod last_good;
mod publishable;
mod requirements;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::PolicySet;
use super::check::{Checked, ConfigDocument, DocumentIdentity};
use super::config::Config;
use super::diagnostic_sink::{Span, diagnostic};
use super::document::CONFIG_FILE;
use super::file::{ParsedFile, parse_with};
use super::limits;
use super::spans::Spans;
use super::yaml::MAX_BYTES;
use crate::core::diagnostic::{Diagnostic, Severity};
use crate::core::labels::keys::KeyPattern;

pub use self::conflicts::{LabelConflict, disagreements};
pub use self::last_good::{LastGoodDocuments, LastGoodText};
pub(super) use self::requirements::{NAME_ONE, NO_NAMESPACE};

/// A change of a file between two commits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileUpdate {
    /// It is new, or has a new text.
    Text(String),
    /// It was deleted.
    Removed,
    /// It exists and must not or cannot be read.
    Refused(FileRefusal),
}

/// Why a file is not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileRefusal {
    /// It is a symbolic link: its target is not reviewed with the repository.
    Symlink,
    /// It is larger than [`MAX_BYTES`].
    TooLarge,
    /// It is not UTF-8.
    NotUtf8,
    /// Its path is absolute or contains `..`.
    Outside,
}

impl FileRefusal {
    fn code(self) -> &'static str {
        match self {
            Self::Symlink => "symlink",
            Self::TooLarge => "too-large",
            Self::NotUtf8 => "not-utf8",
            Self::Outside => "outside",
        }
    }

    fn message(self) -> &'static str {
        match self {
            Self::Symlink => "the file is a symbolic link",
            Self::TooLarge => "the file is too large to be read",
            Self::NotUtf8 => "the file is no UTF-8 text",
            Self::Outside => "the file's path leaves the repository",
        }
    }

    fn hint(self) -> String {
        match self {
            Self::Symlink => "commit the file itself".to_owned(),
            Self::TooLarge => format!("split it into files of {MAX_BYTES} bytes at most"),
            Self::NotUtf8 => "save it as UTF-8".to_owned(),
            Self::Outside => "a path has names between `/`, none of them `..`".to_owned(),
        }
    }
}

/// A document whose last good version is active because the one in the repository is bad.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct HeldDocument {
    /// The file of the good version.
    pub path: String,
    /// The document.
    pub identity: DocumentIdentity,
    /// Why, in a few words.
    pub why: String,
}

/// Totals for the last line of a validation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DiagnosticCounts {
    /// Errors.
    pub errors: usize,
    /// Warnings.
    pub warnings: usize,
    /// Documents with either.
    pub touched: usize,
    /// All documents that were read.
    pub documents: usize,
}

/// All files and the active documents; see the module's documentation.
#[derive(Debug)]
pub struct Catalogue {
    cluster: String,
    /// The node labels that the operator allows, if configured.
    label_keys: Option<Vec<KeyPattern>>,
    files: BTreeMap<String, File>,
    /// Good documents of the current files: by identity, the paths and positions where each is found.
    candidates: BTreeMap<DocumentIdentity, BTreeSet<(String, usize)>>,
    /// Bad documents of the current files, with their paths.
    wanted: BTreeMap<DocumentIdentity, BTreeSet<String>>,
    /// The active documents.
    standing: BTreeMap<DocumentIdentity, Standing>,
    /// Diagnostics about several documents.
    between: BTreeMap<DocumentIdentity, Vec<Diagnostic>>,
    set: PolicySet,
    spans: Spans,
}

/// A file's current content.
#[derive(Debug, Default)]
struct File {
    text: Arc<str>,
    refused: Option<FileRefusal>,
    /// None: outside of `paths`, or refused.
    parsed: Option<ParsedFile>,
}

/// An active document.
#[derive(Debug, Clone)]
struct Standing {
    path: String,
    /// The text it was read from, to be persisted while it is held.
    text: Arc<str>,
    document: Arc<Checked>,
    /// Why it is active although the repository has another version, none, or an unreadable one.
    held: Option<String>,
}

impl Catalogue {
    /// An empty catalogue. The cluster's name selects an entry of `clusters` in egret.yaml, and replaces `<cluster>` in
    /// its branch.
    pub fn new(cluster: &str) -> Self {
        let mut catalogue = Self {
            cluster: cluster.to_owned(),
            label_keys: None,
            files: BTreeMap::new(),
            candidates: BTreeMap::new(),
            wanted: BTreeMap::new(),
            standing: BTreeMap::new(),
            between: BTreeMap::new(),
            set: PolicySet::default(),
            spans: Spans::default(),
        };
        catalogue.apply_config();
        catalogue
    }

    /// Sets the node labels that Egret may write, before anything is read. egret.yaml can only narrow the list.
    #[must_use]
    pub fn with_label_keys(mut self, label_keys: Option<&[KeyPattern]>) -> Self {
        self.label_keys = label_keys.map(<[KeyPattern]>::to_vec);
        self.apply_config();
        self
    }

    /// Applies changes by path. Files with other names are ignored, so the whole list of a commit can be passed.
    pub fn update(&mut self, mut changes: BTreeMap<String, FileUpdate>) {
        // Held documents are always reconsidered, as no file may mention them any more. There are few.
        let mut touched = self.held_identities();
        // The configuration comes first, as it decides which other files count.
        if let Some(change) = changes.remove(CONFIG_FILE) {
            self.change(CONFIG_FILE, change, &mut touched);
            touched.insert(DocumentIdentity::Config);
        }
        if touched.remove(&DocumentIdentity::Config) {
            self.update_config(&mut touched);
        }
        for (path, change) in changes {
            if fits(&path) {
                self.change(&path, change, &mut touched);
            }
        }
        self.settle_all(&touched);
    }

    fn held_identities(&self) -> BTreeSet<DocumentIdentity> {
        let held = self.standing.iter().filter(|(_, standing)| standing.held.is_some());
        held.map(|(identity, _)| identity.clone()).collect()
    }

    fn update_config(&mut self, touched: &mut BTreeSet<DocumentIdentity>) {
        let before = self.set.config.clone();
        self.choose_version(&DocumentIdentity::Config);
        self.apply_config();
        if self.set.config == before {
            return;
        }
        if self.set.config.paths != before.paths {
            self.select_again(touched);
        }
        // Policies with defaults from the configuration follow it, and its requirements apply to all documents.
        touched.extend(self.standing.keys().chain(self.candidates.keys()).cloned());
        touched.remove(&DocumentIdentity::Config);
    }

    fn change(&mut self, path: &str, change: FileUpdate, touched: &mut BTreeSet<DocumentIdentity>) {
        let outside = path.starts_with('/') || path.split('/').any(|part| part == "..");
        let change = match change {
            FileUpdate::Text(_) if outside => FileUpdate::Refused(FileRefusal::Outside),
            FileUpdate::Text(text) if text.len() > MAX_BYTES => FileUpdate::Refused(FileRefusal::TooLarge),
            other => other,
        };
        touched.extend(self.forget(path));
        match change {
            FileUpdate::Removed => {
                self.files.remove(path);
                return;
            }
            FileUpdate::Refused(refusal) => {
                self.files.insert(path.to_owned(), File { refused: Some(refusal), ..File::default() });
            }
            FileUpdate::Text(text) => {
                self.files.insert(path.to_owned(), File { text: text.into(), ..File::default() });
            }
        }
        if self.selected(path) {
            touched.extend(self.learn(path));
        }
    }

    /// Removes a file's documents from the indexes; returns their identities.
    fn forget(&mut self, path: &str) -> BTreeSet<DocumentIdentity> {
        let Some(parsed) = self.files.get_mut(path).and_then(|file| file.parsed.take()) else { return BTreeSet::new() };
        let mut gone: BTreeSet<DocumentIdentity> = parsed.bad.clone();
        for identity in parsed.bad {
            if let Some(paths) = self.wanted.get_mut(&identity) {
                paths.remove(path);
                if paths.is_empty() {
                    self.wanted.remove(&identity);
                }
            }
        }
        for (place, (identity, _)) in parsed.good.into_iter().enumerate() {
            if let Some(places) = self.candidates.get_mut(&identity) {
                places.remove(&(path.to_owned(), place));
                if places.is_empty() {
                    self.candidates.remove(&identity);
                }
            }
            gone.insert(identity);
        }
        gone
    }

    /// Parses a file and adds its documents to the indexes; returns their identities.
    fn learn(&mut self, path: &str) -> BTreeSet<DocumentIdentity> {
        let Some(file) = self.files.get_mut(path).filter(|file| file.refused.is_none()) else { return BTreeSet::new() };
        let parsed = parse(path, &file.text);
        let mut new: BTreeSet<DocumentIdentity> = parsed.bad.clone();
        for identity in &parsed.bad {
            self.wanted.entry(identity.clone()).or_default().insert(path.to_owned());
        }
        for (place, (identity, _)) in parsed.good.iter().enumerate() {
            self.candidates.entry(identity.clone()).or_default().insert((path.to_owned(), place));
            new.insert(identity.clone());
        }
        file.parsed = Some(parsed);
        new
    }

    /// Applies a new `paths`: parses files that are now selected, drops the others.
    fn select_again(&mut self, touched: &mut BTreeSet<DocumentIdentity>) {
        let paths: Vec<String> = self.files.keys().cloned().collect();
        for path in paths {
            let parsed = self.files.get(&path).is_some_and(|file| file.parsed.is_some());
            match (self.selected(&path), parsed) {
                (true, false) => touched.extend(self.learn(&path)),
                (false, true) => touched.extend(self.forget(&path)),
                _ => {}
            }
        }
    }

    /// Whether a file is selected by `paths`.
    fn selected(&self, path: &str) -> bool {
        path == CONFIG_FILE || self.set.config.paths.iter().any(|folder| is_below(path, folder))
    }

    /// Whether a file is selected and could not be parsed as a whole.
    fn unclean(&self, path: &str) -> bool {
        self.selected(path)
            && self.files.get(path).is_some_and(|file| match &file.parsed {
                Some(parsed) => !parsed.clean,
                None => file.refused.is_some(),
            })
    }

    /// Whether any of these changes concerns a selected file. Files outside of `paths` are irrelevant: only egret.yaml
    /// could select them.
    pub fn concerned(&self, changes: &BTreeMap<String, FileUpdate>) -> bool {
        let differs = |path: &str, change: &FileUpdate| match (change, self.files.get(path)) {
            (FileUpdate::Text(text), Some(file)) => file.refused.is_some() || *file.text != **text,
            (FileUpdate::Removed, None) => false,
            _ => true,
        };
        changes.iter().any(|(path, change)| fits(path) && self.selected(path) && differs(path, change))
    }

    /// The configuration of this cluster after these changes; none if egret.yaml cannot be read.
    pub fn config_after(&self, changes: &BTreeMap<String, FileUpdate>) -> Option<Config> {
        let text = match changes.get(CONFIG_FILE) {
            None => return Some(self.set.config.clone()),
            Some(FileUpdate::Removed) => return Some(ConfigDocument::default().of(&self.cluster)),
            Some(FileUpdate::Refused(_)) => return None,
            Some(FileUpdate::Text(text)) => text,
        };
        let parsed = parse(CONFIG_FILE, text);
        let config = parsed.good.iter().find_map(|(_, document)| document.config());
        match config {
            Some(document) => Some(document.of(&self.cluster)),
            None if parsed.clean => Some(ConfigDocument::default().of(&self.cluster)),
            None => None,
        }
    }

    /// The active documents.
    pub fn policies(&self) -> &PolicySet {
        &self.set
    }

    /// Locations in the texts of active documents; held ones have none.
    pub fn spans(&self) -> &Spans {
        &self.spans
    }

    /// A file's current text, to show a diagnostic in it.
    pub fn text(&self, path: &str) -> Option<&str> {
        self.files.get(path).map(|file| &*file.text)
    }

    /// All diagnostics of the current files, sorted by file and location. `lint` adds to them.
    pub fn diagnostics(&self) -> Vec<Diagnostic> {
        let selected = || self.files.iter().filter(|(path, _)| self.selected(path));
        let parsed = selected().filter_map(|(_, file)| file.parsed.as_ref()).flat_map(|parsed| &parsed.diagnostics);
        let refused = selected().filter_map(|(path, file)| Some(refusal_of(path, file.refused?)));
        let more = refused.chain(publishable::mistakes(&self.set, &self.spans));
        let mut all: Vec<Diagnostic> = parsed.chain(self.between.values().flatten()).cloned().chain(more).collect();
        all.sort();
        all
    }

    /// Documents whose last good version is active, sorted.
    pub fn held(&self) -> Vec<HeldDocument> {
        let held = self.standing.iter().filter_map(|(identity, standing)| {
            let why = standing.held.clone()?;
            Some(HeldDocument { path: standing.path.clone(), identity: identity.clone(), why })
        });
        let mut held: Vec<HeldDocument> = held.collect();
        held.sort();
        held
    }

    /// Counts documents, and those with diagnostics. A file that is not read counts as one.
    pub fn tally(&self, diagnostics: &[Diagnostic]) -> DiagnosticCounts {
        let errors = diagnostics.iter().filter(|one| one.severity == Severity::Error).count();
        let touched: BTreeSet<(&str, usize)> = diagnostics
            .iter()
            .map(|one| {
                let parsed = self.files.get(&one.file).and_then(|file| file.parsed.as_ref());
                // The last document that begins before the location; what precedes the first one belongs to it.
                let index =
                    parsed.map_or(0, |parsed| parsed.starts.partition_point(|start| *start <= one.start.offset));
                (one.file.as_str(), index.max(1))
            })
            .collect();
        let documents = self.files.iter().filter(|(path, _)| self.selected(path)).map(|(_, file)| match &file.parsed {
            Some(parsed) => parsed.starts.len(),
            None => 1,
        });
        let documents = documents.sum::<usize>().max(touched.len());
        DiagnosticCounts { errors, warnings: diagnostics.len() - errors, touched: touched.len(), documents }
    }
}

/// Parses a file of the repository. What the API server has accepted already is read without the limits.
fn parse(path: &str, text: &str) -> ParsedFile {
    parse_with(path, text, limits::check)
}

fn refusal_of(path: &str, refusal: FileRefusal) -> Diagnostic {
    let message = refusal.message().to_owned();
    let found = diagnostic(path, Severity::Error, Span::default(), refusal.code(), message);
    Diagnostic { hint: Some(refusal.hint()), ..found }
}

/// Whether a path may hold documents: YAML or JSON, and not in a hidden folder, where other tools keep their files.
fn fits(path: &str) -> bool {
    let suffix = path.rsplit_once('.').map_or("", |(_, suffix)| suffix);
    let hidden = path.split('/').any(|part| part.starts_with('.') && part != "..");
    matches!(suffix, "yaml" | "yml" | "json") && !hidden
}

fn is_below(path: &str, folder: &str) -> bool {
    folder.is_empty() || path.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'))
}
