//! Files that exist and are not read, and what that means for documents that were read from them before.
//!
//! A repository has many of them (images, links, archives with a fitting name). They are no mistake, unless a document
//! of Egret's was in one, or below it: a folder that became a link or a submodule.

use super::super::diagnostic_sink::{Span, diagnostic};
use super::super::foreign::shapeless;
use super::super::paths::selects;
use super::super::yaml::MAX_BYTES;
use super::effective::join;
use super::{Catalogue, DocumentIdentity, Standing, parse};
use crate::core::diagnostic::{Diagnostic, Severity};

/// Why a file is not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileRefusal {
    /// It is a symbolic link: its target is not reviewed with the repository.
    Symlink,
    /// It is a submodule: another repository, with other permissions.
    Submodule,
    /// It is larger than [`MAX_BYTES`].
    TooLarge,
    /// It is not UTF-8, and has words of Egret's.
    NotUtf8,
    /// It is no text.
    Binary,
    /// No file may have its name, and it may have a document of Egret's.
    Name,
    /// Its path is absolute or contains `..`.
    Outside,
}

impl FileRefusal {
    fn code(self) -> &'static str {
        match self {
            Self::Symlink => "symlink",
            Self::Submodule => "submodule",
            Self::TooLarge => "too-large",
            Self::NotUtf8 | Self::Binary => "not-utf8",
            Self::Name => "bad-name",
            Self::Outside => "outside",
        }
    }

    fn message(self) -> &'static str {
        match self {
            Self::Symlink => "the file is a symbolic link",
            Self::Submodule => "this is a submodule",
            Self::TooLarge => "the file is too large to be read",
            Self::NotUtf8 | Self::Binary => "the file is no UTF-8 text",
            Self::Name => "the file's name has a control character, or is not UTF-8",
            Self::Outside => "the file's path leaves the repository",
        }
    }

    fn hint(self) -> String {
        match self {
            Self::Symlink => "commit the file itself".to_owned(),
            Self::Submodule => "commit the files themselves".to_owned(),
            Self::TooLarge => format!("split it into files of {MAX_BYTES} bytes at most"),
            Self::NotUtf8 | Self::Binary => "save it as UTF-8".to_owned(),
            Self::Name => "rename it; until then it is not read".to_owned(),
            Self::Outside => "a path has names between `/`, none of them `..`".to_owned(),
        }
    }

    pub(super) fn diagnostic(self, path: &str) -> Diagnostic {
        let found = diagnostic(path, Severity::Error, Span::default(), self.code(), self.message().to_owned());
        Diagnostic { hint: Some(self.hint()), ..found }
    }
}

impl Catalogue {
    /// Why a document without a good version stays active, and the mistake if it is not reported yet. `None`: it is no
    /// longer wanted.
    pub(super) fn why_held(
        &self,
        identity: &DocumentIdentity,
        last: &Standing,
    ) -> Option<(String, Option<Diagnostic>)> {
        let path = last.path.as_str();
        if let Some(paths) = self.wanted.get(identity) {
            return Some((format!("it has errors in {}", join(paths.iter().map(String::as_str))), None));
        }
        if let (DocumentIdentity::Config, Some((place, _))) =
            (identity, self.in_the_place_of_config().first_key_value())
        {
            return Some((format!("it stands in {place}"), None));
        }
        if self.unclean(path) {
            return Some((format!("{path} has errors, so it is unknown whether the document is still wanted"), None));
        }
        if !self.selected(path) {
            return None;
        }
        if let Some(place) = self.moved_out_of_paths(identity, path) {
            return Some((format!("it stands in {place}, which no entry of `paths` selects"), None));
        }
        if let Some((place, refusal)) = self.refused_at(path) {
            return Some((format!("{place}: {}", refusal.message()), Some(refusal.diagnostic(place))));
        }
        let text = self.text(path)?;
        let before = shapeless(&last.text);
        let is_new = |part: &str| before.iter().all(|(_, other)| *other != part);
        let (at, _) = shapeless(text).into_iter().find(|(_, part)| is_new(part))?;
        let message = "what stands here is no Kubernetes object, and documents of Egret's were in this file".to_owned();
        let found = diagnostic(path, Severity::Error, at, "no-object", message);
        let hint = "put them back; to remove them, take the file away, or leave the rest of it as it was";
        let found = Diagnostic { hint: Some(hint.to_owned()), ..found };
        Some((format!("what is in {path} now is no Kubernetes object"), Some(found)))
    }

    /// Where a document stands now whose folder was renamed, so that the entry of `paths` that selected it selects nothing any more:
    /// that entry is an error (`layout`), and the document was not removed.
    fn moved_out_of_paths(&self, identity: &DocumentIdentity, path: &str) -> Option<&str> {
        let mut entries = self.set.config.paths.iter().filter(|entry| selects(entry, path));
        if self.files.contains_key(path) || entries.any(|entry| self.selects_any(entry)) {
            return None;
        }
        let others = self.files.iter().filter(|(place, file)| file.parsed.is_none() && !self.selected(place));
        let mut with_it =
            others.filter(|(place, file)| parse(place, &file.text).good.iter().any(|(one, _)| one == identity));
        with_it.next().map(|(place, _)| place.as_str())
    }

    /// The refused file at a path, or in the place of one of its folders.
    fn refused_at<'p>(&self, path: &'p str) -> Option<(&'p str, FileRefusal)> {
        let folders = path.match_indices('/').map(|(at, _)| &path[..at]);
        folders.chain([path]).find_map(|place| Some((place, self.files.get(place)?.refused?)))
    }
}
