//! The catalogue: all files of the repository as they are now, and the active version of each document.
//!
//! One rule decides everything: while a document is bad, for whatever reason, its last good version stays active. A
//! document is identified by kind and name, not by file, so it may move. It ends when no file mentions it any more and
//! the file it was in has no error and no new text that is no object: with one, it is unknown whether the document is
//! still wanted.
//!
//! Only changed files are parsed again. The texts of all files with a fitting name are kept, also of those outside of
//! `paths`: when `paths` changes, the catalogue selects again and needs no files from Git. For a repository of 10,000
//! policies that is some 10 MB.
//!
//! Not here: Git (the caller passes changes), checks against the cluster (`lint`), and storage:
//! [`Catalogue::export_good`] returns what has to be persisted, [`Catalogue::import_good`] restores it.

mod conflicts;
mod contents;
mod effective;
mod kustomize;
mod last_good;
mod layout;
mod pools;
mod publishable;
mod refusal;
mod requirements;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::PolicySet;
use super::check::{Checked, DocumentIdentity};
use super::config::Config;
use super::document::{CONFIG_FILE, is_config_name, is_read};
use super::file::{ParsedFile, parse_with};
use super::limits;
use super::paths::selects;
use super::spans::Spans;
use super::yaml::MAX_BYTES;
use crate::core::diagnostic::{Diagnostic, Severity};
use crate::core::labels::keys::KeyPattern;

pub use self::conflicts::{LabelConflict, disagreements};
pub use self::contents::RepositoryContents;
use self::kustomize::Kustomized;
pub use self::last_good::{LastGoodDocuments, LastGoodText};
pub use self::pools::POOL_MISTAKES;
pub use self::refusal::FileRefusal;
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
#[derive(Debug, Clone)]
pub struct Catalogue {
    cluster: String,
    /// The node labels that the operator allows, if configured.
    label_keys: Option<Vec<KeyPattern>>,
    /// Whether what is read was active before.
    recalling: bool,
    files: BTreeMap<String, File>,
    /// Good documents of the current files: by identity, the paths and positions where each is found.
    candidates: BTreeMap<DocumentIdentity, BTreeSet<(String, usize)>>,
    /// Bad documents of the current files, with their paths.
    wanted: BTreeMap<DocumentIdentity, BTreeSet<String>>,
    /// The active documents.
    standing: BTreeMap<DocumentIdentity, Standing>,
    /// Diagnostics about several documents.
    between: BTreeMap<DocumentIdentity, Vec<Diagnostic>>,
    kustomized: Kustomized,
    /// Files that hold a Config and are not egret.yaml, with what is wrong with them.
    misplaced: BTreeMap<String, Vec<Diagnostic>>,
    set: PolicySet,
    spans: Spans,
}

/// A file's current content.
#[derive(Debug, Clone, Default)]
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
            recalling: false,
            files: BTreeMap::new(),
            candidates: BTreeMap::new(),
            wanted: BTreeMap::new(),
            standing: BTreeMap::new(),
            between: BTreeMap::new(),
            kustomized: Kustomized::default(),
            misplaced: BTreeMap::new(),
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

    /// Takes in the files of the commit that is active already. An egret.yaml that would be refused now counts as it is
    /// written: what is active stays active.
    pub fn recall(&mut self, changes: BTreeMap<String, FileUpdate>) {
        self.recalling = true;
        self.update(changes);
        self.recalling = false;
    }

    /// Applies changes by path. Files with other names are ignored, so the whole list of a commit can be passed.
    pub fn update(&mut self, changes: BTreeMap<String, FileUpdate>) {
        // Held documents are always reconsidered, as no file may mention them any more. There are few.
        let mut touched = self.held_identities();
        let mut changed = Vec::new();
        for (path, change) in changes {
            if fits(&path, &change) {
                self.change(&path, change, &mut touched);
                changed.push(path);
            }
        }
        // The configuration comes first, as it decides which other files count.
        touched.extend(self.learn(CONFIG_FILE));
        self.update_config(&mut touched);
        for path in &changed {
            if self.selected(path) {
                touched.extend(self.learn(path));
            }
        }
        self.settle_all(&touched);
        self.kustomized = self.kustomized();
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
    }

    fn change(&mut self, path: &str, change: FileUpdate, touched: &mut BTreeSet<DocumentIdentity>) {
        let outside = path.starts_with('/') || path.split('/').any(|part| part == "..");
        let change = match change {
            FileUpdate::Text(_) if outside => FileUpdate::Refused(FileRefusal::Outside),
            FileUpdate::Text(text) if text.len() > MAX_BYTES => FileUpdate::Refused(FileRefusal::TooLarge),
            other => other,
        };
        touched.extend(self.forget(path));
        self.misplaced.remove(path);
        if let FileUpdate::Text(text) = &change
            && path != CONFIG_FILE
            && is_config_name(path)
        {
            let parsed = parse(path, text);
            if parsed.bad.contains(&DocumentIdentity::Config) {
                self.misplaced.insert(path.to_owned(), parsed.diagnostics);
            }
        }
        match change {
            FileUpdate::Removed => {
                self.files.remove(path);
            }
            FileUpdate::Refused(refusal) => {
                self.files.insert(path.to_owned(), File { refused: Some(refusal), ..File::default() });
            }
            FileUpdate::Text(text) => {
                self.files.insert(path.to_owned(), File { text: text.into(), ..File::default() });
            }
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
        let unread = |file: &&mut File| file.refused.is_none() && file.parsed.is_none();
        let Some(file) = self.files.get_mut(path).filter(unread) else { return BTreeSet::new() };
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
        path == CONFIG_FILE
            || (!path.starts_with('.') || path.starts_with("../"))
                && self.set.config.paths.iter().any(|entry| selects(entry, path))
    }

    /// Whether a file is selected and could not be parsed as a whole.
    fn unclean(&self, path: &str) -> bool {
        let parsed = self.files.get(path).filter(|_| self.selected(path)).and_then(|file| file.parsed.as_ref());
        parsed.is_some_and(|parsed| !parsed.clean)
    }

    /// Whether any of these changes concerns a selected file. Files outside of `paths` are irrelevant: only egret.yaml
    /// could select them.
    pub fn concerned(&self, changes: &BTreeMap<String, FileUpdate>) -> bool {
        let differs = |path: &str, change: &FileUpdate| match (change, self.files.get(path)) {
            (FileUpdate::Text(text), Some(file)) => file.refused.is_some() || *file.text != **text,
            (FileUpdate::Removed, None) => false,
            _ => true,
        };
        let counts = |path: &str| self.selected(path) || is_config_name(path);
        changes.iter().any(|(path, change)| fits(path, change) && counts(path) && differs(path, change))
    }

    /// What stands in the place of an egret.yaml that is not there.
    fn in_the_place_of_config(&self) -> &BTreeMap<String, Vec<Diagnostic>> {
        static NONE: BTreeMap<String, Vec<Diagnostic>> = BTreeMap::new();
        if self.files.contains_key(CONFIG_FILE) { &NONE } else { &self.misplaced }
    }

    /// The catalogue as it would be after these changes.
    #[must_use]
    pub fn after(&self, changes: BTreeMap<String, FileUpdate>) -> Self {
        let mut after = self.clone();
        after.update(changes);
        after
    }

    /// The configuration as the repository has it; none if egret.yaml cannot be read or is not where it belongs.
    pub fn config_as_written(&self) -> Option<&Config> {
        let as_written = match self.standing.get(&DocumentIdentity::Config) {
            Some(standing) => standing.held.is_none(),
            None => !self.files.contains_key(CONFIG_FILE) && self.misplaced.is_empty(),
        };
        as_written.then_some(&self.set.config)
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
        let counted = || self.files.iter().filter(|(path, _)| self.selected(path));
        let parsed = counted().filter(|(path, _)| !self.kustomized.patches.contains(*path));
        let parsed = parsed.filter_map(|(_, file)| file.parsed.as_ref()).flat_map(|parsed| &parsed.diagnostics);
        let meant =
            |refusal: &FileRefusal| matches!(refusal, FileRefusal::NotUtf8 | FileRefusal::Name | FileRefusal::Outside);
        let refused = counted().filter_map(|(path, file)| Some((path, file.refused.filter(meant)?)));
        let refused = refused.map(|(path, refusal)| refusal.diagnostic(path));
        let more = refused.chain(publishable::mistakes(&self.set, &self.spans));
        let more = more.chain(pools::mistakes(&self.set, &self.spans));
        let parsed = parsed.chain(&self.kustomized.mistakes).chain(self.in_the_place_of_config().values().flatten());
        let mut all: Vec<Diagnostic> = parsed.chain(self.between.values().flatten()).cloned().chain(more).collect();
        all.sort();
        all.dedup();
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

    /// Counts documents, and those with diagnostics.
    pub fn tally(&self, diagnostics: &[Diagnostic]) -> DiagnosticCounts {
        let errors = diagnostics.iter().filter(|one| one.severity == Severity::Error).count();
        let touched: BTreeSet<(&str, usize)> =
            diagnostics.iter().map(|one| (one.file.as_str(), self.document_of(one).unwrap_or(1))).collect();
        let documents = self.documents().map(|(_, count)| count).sum::<usize>().max(touched.len());
        DiagnosticCounts { errors, warnings: diagnostics.len() - errors, touched: touched.len(), documents }
    }

    /// The files with documents of Egret's, and how many each has.
    pub fn documents(&self) -> impl Iterator<Item = (&str, usize)> {
        let counted = self.files.iter().filter(|(path, _)| self.selected(path));
        counted.filter_map(|(path, file)| Some((path.as_str(), file.parsed.as_ref()?.starts.len())))
    }

    /// The number of the document that a diagnostic is about: the last one that begins before it; what precedes the first
    /// one belongs to it. None: nothing was read from the file.
    pub fn document_of(&self, diagnostic: &Diagnostic) -> Option<usize> {
        let parsed = self.files.get(&diagnostic.file)?.parsed.as_ref()?;
        Some(parsed.starts.partition_point(|start| *start <= diagnostic.start.offset).max(1))
    }
}

/// Parses a file of the repository. What the API server has accepted already is read without the limits.
fn parse(path: &str, text: &str) -> ParsedFile {
    parse_with(path, text, limits::check)
}

/// Whether a path may hold documents: YAML or JSON, and not in a hidden folder, where other tools keep their files. What
/// cannot be read may stand in the place of a folder, under any name.
fn fits(path: &str, change: &FileUpdate) -> bool {
    let hidden = path.split('/').any(|part| part.starts_with('.') && part != "..");
    let document = is_read(path) || matches!(change, FileUpdate::Refused(_) | FileUpdate::Removed);
    (document && !hidden) || (is_config_name(path) && !path.contains('/'))
}
