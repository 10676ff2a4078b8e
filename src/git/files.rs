//! The files of a commit that differ from another commit's. Subtrees with the same id are never opened. Renames are not detected: a renamed
//! file is removed and new. Not here: the meaning of the files (`core::policy`).

use std::collections::BTreeMap;
use std::fmt;

use git2::{Commit, ObjectType, Oid, Repository, Tree, TreeEntry};

use super::commit::{CommitId, CommitInfo};
use super::error::{Error, Result};
use super::mirror::Mirror;
use super::object_limits::LARGEST_FOLDER;
use crate::core::policy::document::{is_config_name, is_read};
use crate::core::policy::foreign::{bytes_may_be_ours, may_be_ours};

/// A larger file is refused: no policy is that long, and every file that is read is parsed.
pub const LARGEST_FILE: usize = 1 << 20;
/// A commit may have this many files below the configured paths.
pub const MOST_FILES: usize = 100_000;
/// The files that differ between two commits may have this many bytes in all.
pub const MOST_TEXT: usize = 256 << 20;
/// Folders may be nested this deep.
pub const DEEPEST: usize = 64;
/// The last paragraph of a message may have this many bytes.
pub const LONGEST_TRAILERS: usize = 64 << 10;
/// The most names that are read, of both commits and of all paths: a few kilobytes of a pack may stand for billions of names, if trees
/// contain each other many times.
pub const MOST_NAMES: usize = 4_000_000;
/// The most names in memory at a time: those of a folder and of its parents.
pub const MOST_NAMES_KEPT: usize = 400_000;
/// [`Mirror::last_change`] reads this many commits at most.
pub const FURTHEST: usize = 10_000;

/// The mode of a symbolic link in a tree.
const LINK: i32 = 0o120_000;

/// The change of one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileChange {
    /// It is new or differs; its text.
    Text(String),
    /// It was removed.
    Removed,
    /// It is new or differs, and is refused.
    Refused(Refusal),
}

/// Why a file is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// A symbolic link: it could lead out of the repository, or to another cluster's folder.
    Symlink,
    /// A submodule: another repository, with other permissions.
    Submodule,
    /// Its bytes are not UTF-8, and words of Egret's are among them.
    NotUtf8,
    /// Its bytes are not UTF-8, or no file may have its name; nothing of it is Egret's.
    Binary,
    /// More than [`LARGEST_FILE`]; its size in bytes.
    TooLarge(usize),
    /// It may have a document of Egret's, and its name is `.` or `..`, or has a `/`, a control character, or bytes that are
    /// not UTF-8.
    Name,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Symlink => f.write_str("is a symbolic link; put the file itself there"),
            Self::Submodule => f.write_str("is a submodule; put the files themselves there"),
            Self::NotUtf8 | Self::Binary => f.write_str("is not UTF-8 text"),
            Self::TooLarge(size) => write!(f, "has {size} bytes; the limit is {LARGEST_FILE}"),
            Self::Name => f.write_str("has a name that no file may have: `..`, a control character, or not UTF-8"),
        }
    }
}

impl Mirror {
    /// The metadata of a commit. Error: [`Error::MissingCommit`].
    pub fn commit_info(&self, commit: CommitId) -> Result<CommitInfo> {
        Ok(CommitInfo::of(&self.find_commit(commit)?))
    }

    /// Trailers of a commit's message, by Git's own rules (`git interpret-trailers`): the last paragraph, names and values in their order.
    /// A message that is not UTF-8, or whose last paragraph is longer than [`LONGEST_TRAILERS`], has none. Error: [`Error::MissingCommit`].
    pub fn trailers(&self, commit: CommitId) -> Result<Vec<(String, String)>> {
        let commit = self.find_commit(commit)?;
        let text = String::from_utf8_lossy(end_of(commit.message_raw_bytes())).into_owned();
        let Ok(trailers) = git2::message_trailers_strs(&text) else { return Ok(Vec::new()) };
        Ok(trailers.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
    }

    /// Every `.yaml`, `.yml` and `.json` file of a commit below `paths` (folders or files without `/` at either end; `""` is
    /// all), as [`Mirror::changes`] from nothing.
    pub fn files(&self, commit: CommitId, paths: &[String]) -> Result<BTreeMap<String, FileChange>> {
        self.changes(None, commit, paths)
    }

    /// The changes between two commits, by path; without `from`, every file is new. Hidden files and folders (`.github`) are skipped. A
    /// name with control characters is escaped.
    ///
    /// Errors: [`Error::MissingCommit`] (the history was rewritten and its old commits are gone: compare without `from`),
    /// [`Error::TooLarge`], [`Error::Mirror`].
    pub fn changes(
        &self,
        from: Option<CommitId>,
        to: CommitId,
        paths: &[String],
    ) -> Result<BTreeMap<String, FileChange>> {
        self.changes_within(MOST_TEXT, from, to, paths)
    }

    /// The same with a lower limit of bytes, for pull requests, which anyone may open. A megabyte of one letter is a kilobyte in a pack, so
    /// that a small fetch may still be a lot to read.
    pub fn changes_within(
        &self,
        most: usize,
        from: Option<CommitId>,
        to: CommitId,
        paths: &[String],
    ) -> Result<BTreeMap<String, FileChange>> {
        let fault = |source| self.fault("read the files of a commit", source);
        let old = from.map(|from| self.find_commit(from).map(|commit| commit.tree_id())).transpose()?;
        let new = self.find_commit(to)?.tree_id();
        let mut comparison = Comparison {
            repository: &self.repository,
            paths,
            seen: 0,
            names: (0, 0),
            room: most,
            changes: BTreeMap::new(),
        };
        match comparison.root(old, new) {
            Ok(()) => Ok(comparison.changes),
            Err(Stop::TooLarge(what)) => Err(Error::TooLarge { commit: to, what }),
            Err(Stop::WireError(source)) => Err(fault(source)),
        }
    }

    /// The commit at or before `commit` that gave a file its present content, or removed it: `git log -1 -- PATH`. Of a merge, the parent with
    /// the same content is followed. None: the file was the same [`FURTHEST`] commits back.
    pub fn last_change(&self, path: &str, commit: CommitId) -> Result<Option<CommitInfo>> {
        let fault = |source| self.fault("look through the history", source);
        let mut commit = self.find_commit(commit)?;
        let mut content = content_at(&commit, path).map_err(fault)?;
        for _ in 0..FURTHEST {
            let mut same = None;
            for parent in commit.parents() {
                let there = content_at(&parent, path).map_err(fault)?;
                if there == content {
                    same = Some((parent, there));
                    break;
                }
            }
            match same {
                Some((parent, there)) => (commit, content) = (parent, there),
                None if content.is_none() && commit.parent_count() == 0 => return Ok(None),
                None => return Ok(Some(CommitInfo::of(&commit))),
            }
        }
        Ok(None)
    }

    /// The newest commits of a history, from this one back along first parents: of a merge what was merged, not what it was made of. Fewer
    /// where the mirror ends. Error: [`Error::MissingCommit`].
    pub fn recent(&self, commit: CommitId, most: usize) -> Result<Vec<CommitInfo>> {
        let mut next = Some(self.find_commit(commit)?);
        let mut found = Vec::new();
        while let Some(commit) = next.filter(|_| found.len() < most) {
            found.push(CommitInfo::of(&commit));
            next = commit.parent(0).ok();
        }
        Ok(found)
    }

    /// Whether the mirror has a commit.
    pub fn has(&self, commit: CommitId) -> bool {
        self.repository.find_commit(commit.oid()).is_ok()
    }

    fn find_commit(&self, commit: CommitId) -> Result<Commit<'_>> {
        let repository = self.source().to_string();
        self.repository.find_commit(commit.oid()).map_err(|_| Error::MissingCommit { repository, commit })
    }
}

fn content_at(commit: &Commit<'_>, path: &str) -> std::result::Result<Option<Oid>, git2::Error> {
    match commit.tree()?.get_path(std::path::Path::new(path)) {
        Ok(entry) => Ok(Some(entry.id())),
        Err(error) if error.code() == git2::ErrorCode::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The last lines of a message, as many as are read.
fn end_of(message: &[u8]) -> &[u8] {
    let Some(cut) = message.len().checked_sub(LONGEST_TRAILERS) else { return message };
    // The first line after the cut may be incomplete.
    let line = message[cut..].iter().position(|byte| *byte == b'\n').map_or(message.len(), |end| cut + end + 1);
    &message[line..]
}

enum Stop {
    TooLarge(&'static str),
    WireError(git2::Error),
}

impl From<git2::Error> for Stop {
    fn from(error: git2::Error) -> Self {
        Self::WireError(error)
    }
}

struct Comparison<'a> {
    repository: &'a Repository,
    paths: &'a [String],
    seen: usize,
    /// Names that were read, and that are in memory now.
    names: (usize, usize),
    /// Bytes of text that may still be read.
    room: usize,
    changes: BTreeMap<String, FileChange>,
}

type Entries<'tree> = BTreeMap<Vec<u8>, TreeEntry<'tree>>;

fn entries<'tree>(tree: Option<&'tree Tree<'_>>) -> Entries<'tree> {
    tree.into_iter().flat_map(Tree::iter).map(|entry| (entry.name_bytes().to_vec(), entry)).collect()
}

impl<'a> Comparison<'a> {
    fn root(&mut self, old: Option<Oid>, new: Oid) -> std::result::Result<(), Stop> {
        let (old, new) = (self.tree(old)?, self.tree(Some(new))?);
        self.folder("", old.as_ref(), new.as_ref(), 0)
    }

    fn folder(
        &mut self,
        prefix: &str,
        old: Option<&Tree<'_>>,
        new: Option<&Tree<'_>>,
        depth: usize,
    ) -> std::result::Result<(), Stop> {
        if depth > DEEPEST {
            return Err(Stop::TooLarge("its folders are nested more than 64 deep"));
        }
        let count = old.map_or(0, Tree::len) + new.map_or(0, Tree::len);
        self.names = (self.names.0 + count, self.names.1 + count);
        if self.names.0 > MOST_NAMES || self.names.1 > MOST_NAMES_KEPT {
            return Err(Stop::TooLarge("there are too many names in its folders"));
        }
        let (old, new) = (entries(old), entries(new));
        for (name, entry) in &old {
            let kept = new.get(name);
            if kept.is_none_or(|kept| kept.kind() != entry.kind()) {
                self.entry(prefix, name, Some(entry), None, depth)?;
            }
        }
        for (name, entry) in &new {
            let before = old.get(name).filter(|before| before.kind() == entry.kind());
            let same =
                before.is_some_and(|before| before.id() == entry.id() && before.filemode_raw() == entry.filemode_raw());
            if !same {
                self.entry(prefix, name, before, Some(entry), depth)?;
            }
        }
        self.names.1 -= count;
        Ok(())
    }

    /// One name that differs; both entries are of one kind where there are two.
    fn entry(
        &mut self,
        prefix: &str,
        name: &[u8],
        old: Option<&TreeEntry<'_>>,
        new: Option<&TreeEntry<'_>>,
        depth: usize,
    ) -> std::result::Result<(), Stop> {
        let kind = new.or(old).and_then(TreeEntry::kind);
        let shown = String::from_utf8_lossy(name);
        let path = format!("{prefix}{}", shown.escape_debug());
        let good = is_good_name(name);
        let link = new.or(old).is_some_and(|entry| entry.filemode_raw() == LINK);
        if good && (is_hidden(&path, &shown) || !self.is_relevant(&path, kind, link)) {
            return Ok(());
        }
        if !good && kind == Some(ObjectType::Blob) && !is_read(&shown) {
            return Ok(());
        }
        self.seen += 1;
        if self.seen > MOST_FILES {
            return Err(Stop::TooLarge("more than 100000 of its files are below the paths of this cluster"));
        }
        match (kind, new) {
            (Some(ObjectType::Blob), Some(entry)) if !good => {
                let refusal = if self.may_be_ours(entry)? { Refusal::Name } else { Refusal::Binary };
                self.note(path, FileChange::Refused(refusal));
            }
            (_, Some(_)) if !good => self.note(path, FileChange::Refused(Refusal::Binary)),
            (_, None) if !good => self.note(path, FileChange::Removed),
            (Some(ObjectType::Tree), _) => {
                let (old, new) = (self.tree(old.map(TreeEntry::id))?, self.tree(new.map(TreeEntry::id))?);
                self.folder(&format!("{path}/"), old.as_ref(), new.as_ref(), depth + 1)?;
            }
            (_, None) => self.note(path, FileChange::Removed),
            (_, Some(entry)) => {
                let change = self.read(entry)?;
                self.note(path, change);
            }
        }
        Ok(())
    }

    /// A folder. A fetch has refused one that is too large already; a repository that is read where it is has no fetch.
    fn tree(&self, id: Option<Oid>) -> std::result::Result<Option<Tree<'a>>, Stop> {
        let Some(id) = id else { return Ok(None) };
        let (size, _) = self.repository.odb()?.read_header(id)?;
        if size > LARGEST_FOLDER {
            return Err(Stop::TooLarge("a folder has more than 8 MiB of names"));
        }
        Ok(Some(self.repository.find_tree(id)?))
    }

    fn note(&mut self, path: String, change: FileChange) {
        self.changes.insert(path, change);
    }

    /// Whether a path is below a configured one, or, if it is a folder, above one.
    fn is_relevant(&self, path: &str, kind: Option<ObjectType>, link: bool) -> bool {
        let below = |outer: &str, inner: &str| inner.strip_prefix(outer).is_some_and(|rest| rest.starts_with('/'));
        let is_below = |wanted: &String| wanted.is_empty() || wanted == path || below(wanted, path);
        match kind {
            Some(ObjectType::Tree) => self.paths.iter().any(|wanted| is_below(wanted) || below(path, wanted)),
            // They may stand in the place of a folder with documents.
            Some(ObjectType::Commit) => self.paths.iter().any(is_below),
            _ if link => self.paths.iter().any(is_below),
            _ => is_read(path) && self.paths.iter().any(is_below),
        }
    }

    /// Whether a file may have a document of Egret's, so that its name is reported.
    fn may_be_ours(&mut self, entry: &TreeEntry<'_>) -> std::result::Result<bool, Stop> {
        Ok(match self.read(entry)? {
            FileChange::Text(text) => may_be_ours(&text),
            FileChange::Refused(refusal) => refusal == Refusal::NotUtf8,
            FileChange::Removed => false,
        })
    }

    fn read(&mut self, entry: &TreeEntry<'_>) -> std::result::Result<FileChange, Stop> {
        if entry.kind() == Some(ObjectType::Commit) {
            return Ok(FileChange::Refused(Refusal::Submodule));
        }
        if entry.filemode_raw() == LINK {
            return Ok(FileChange::Refused(Refusal::Symlink));
        }
        let objects = self.repository.odb()?;
        // The size is in the object's header, so that a huge file is refused without being unpacked.
        let (size, _) = objects.read_header(entry.id())?;
        if size > LARGEST_FILE {
            return Ok(FileChange::Refused(Refusal::TooLarge(size)));
        }
        self.room = self.room.checked_sub(size).ok_or(Stop::TooLarge("there is too much text in what differs"))?;
        let bytes = objects.read(entry.id())?.data().to_vec();
        Ok(match String::from_utf8(bytes) {
            Ok(text) => FileChange::Text(text),
            Err(error) if bytes_may_be_ours(error.as_bytes()) => FileChange::Refused(Refusal::NotUtf8),
            Err(_) => FileChange::Refused(Refusal::Binary),
        })
    }
}

/// Whether a file could have a tree entry's name. Git checks it when it creates trees; a client that pushes need not be Git.
fn is_good_name(name: &[u8]) -> bool {
    let text = std::str::from_utf8(name);
    !matches!(name, b"" | b"." | b"..")
        && text.is_ok_and(|text| !text.chars().any(|letter| letter == '/' || letter.is_control()))
}

/// Whether a name is hidden. A hidden egret.yaml is read, to be reported.
fn is_hidden(path: &str, name: &str) -> bool {
    name.starts_with('.') && (path != name || !is_config_name(path))
}
