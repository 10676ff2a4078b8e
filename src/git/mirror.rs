//! The mirror: a bare repository in the state folder with everything that was fetched, so that Egret also works while the source is down.
//! It is a cache: a broken or deleted one is created anew, beside the old one, which is kept until the new one is complete.
//!
//! A command that only reads, once, needs no copy of a repository on this machine, nor all of another's history: see
//! [`Mirror::open_to_read`]. Filters of objects (partial clones) are not used, because libgit2 does not know them.
//!
//! There is no `git gc`: a mirror with many packs or loose objects is created anew as well. There is no lock between processes, since two
//! never share a state folder. Not here: reading files (`files`).

use std::cell::Cell;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use git2::{ErrorClass, ErrorCode, Oid, Repository, RepositoryInitOptions};

use super::access::Access;
use super::commit::CommitId;
use super::error::{Error, Result};
use super::exchange::{Refspec, RemoteRefs};
use super::local;
use super::remote::Remote;
use super::revision::{Base, Revision, is_branch_name, is_short_id};
use super::source::Source;
use super::supervisor::remove_leftovers;

/// The file that marks the folder as created by Egret, and names the source.
const MARKER: &str = "egret-mirror";

/// Each fetch adds a pack, and every read of an object searches all of them.
const MOST_PACKS: usize = 256;

/// The most loose objects in one of the 256 folders, which stands for some 2,500 in all, since ids are evenly distributed. Each report
/// leaves a handful, one of which may describe a whole cluster.
const MOST_LOOSE: usize = 10;

/// How much of a history is fetched for one reading, before more is known to be needed.
const RECENT: u32 = 64;

/// How much history a reading needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum History {
    /// Files of commits, and where two of them parted: the newest commits are fetched, and the others only if they are needed.
    Recent,
    /// What a walk through all of it needs: whether one commit descends from another, signatures since a commit.
    Whole,
}

/// The mirror of one source.
pub struct Mirror {
    folder: PathBuf,
    pub(super) source: Source,
    access: Access,
    pub(super) repository: Repository,
    /// Reading failed: the next fetch creates the mirror anew.
    pub(super) suspect: Cell<bool>,
    /// Commits to copy to a mirror that is created anew, even if the source no longer has them.
    kept: Vec<CommitId>,
    /// `repository` is the source itself. Nothing is written there.
    pub(super) in_place: bool,
}

/// Where a branch of the source is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// Its name, without `refs/heads/`.
    pub branch: String,
    /// Its last commit; the mirror has it, and every file of it.
    pub commit: CommitId,
    /// Whether it was fetched just now; false: the mirror had it, and only the references were listed.
    pub moved: bool,
}

impl Mirror {
    /// Opens the mirror in `folder`, or creates it. The folder may be missing or empty; content that Egret did not create is never deleted.
    /// A mirror of another source, or one that cannot be opened, is created anew. Does not access the source.
    ///
    /// Errors: [`Error::NotOurFolder`], [`Error::State`].
    pub fn open(folder: &Path, source: Source, access: impl Into<Access>) -> Result<Self> {
        let same = fs::read_to_string(folder.join(MARKER)).is_ok_and(|marked| marked.trim_end() == source.to_string());
        let opened = if same {
            // The last worker may have been killed.
            remove_leftovers(folder);
            // libgit2 opens a repository whose HEAD is invalid; Git would not.
            Repository::open_bare(folder).ok().filter(|repository| repository.find_reference("HEAD").is_ok())
        } else {
            None
        };
        let repository = match opened {
            Some(repository) => repository,
            None => create(folder, &source)?,
        };
        let (folder, access, suspect) = (folder.to_owned(), access.into(), Cell::new(false));
        Ok(Self { folder, source, access, repository, suspect, kept: Vec::new(), in_place: false })
    }

    /// Opens a repository for one reading: one on this machine where it is, which takes no longer for a long history than for a short
    /// one; for another a mirror in `folder`, an empty folder, as [`Mirror::open`] does.
    ///
    /// Errors: those of [`Mirror::open`]; [`Error::NoRepository`], [`Error::ForeignOwner`], [`Error::Partial`].
    pub fn open_to_read(folder: &Path, source: Source, access: impl Into<Access>, history: History) -> Result<Self> {
        let mut access = access.into();
        let Some(path) = source.is_local() else {
            access.limits.depth = if history == History::Recent { RECENT } else { 0 };
            return Self::open(folder, source, access);
        };
        let repository = local::open(path, &source)?;
        let (folder, suspect) = (folder.to_owned(), Cell::new(false));
        Ok(Self { folder, source, access, repository, suspect, kept: Vec::new(), in_place: true })
    }

    /// The source it mirrors.
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// Keeps these commits and their ancestors when the mirror is created anew, as far as they can still be read. Otherwise anyone who can
    /// push could make Egret lose the active commit.
    pub fn keep(&mut self, commits: impl IntoIterator<Item = CommitId>) {
        self.kept = commits.into_iter().collect();
    }

    /// The tip of a branch; none is the source's default branch. Lists the references, and fetches only if that branch moved, forward or
    /// not. No other branch is fetched.
    ///
    /// Errors: all about the source; [`Error::Empty`], [`Error::UnknownBranch`], [`Error::BranchDeleted`],
    /// [`Error::NoDefaultBranch`]. After an error the mirror is as it was.
    pub fn head(&mut self, branch: Option<&str>) -> Result<Head> {
        if let Some(name) = branch.filter(|name| !is_branch_name(name)) {
            let why = "it cannot be the name of a branch";
            return Err(Error::BadRevision { revision: name.escape_debug().to_string(), why });
        }
        self.with_healthy(|repository, remote| {
            let mut moved = false;
            let listing = remote.fetch(repository, &mut |listing| {
                let name = branch.or(listing.default_branch.as_deref()).map(|name| format!("refs/heads/{name}"));
                let refspec = name.and_then(|name| stale(repository, listing, &name));
                moved = refspec.is_some();
                refspec.into_iter().collect()
            })?;
            let (branch, tip) = chosen(repository, remote, &listing, branch)?;
            complete(repository, tip).map_err(|source| mirror_fault(remote, "read the newest commit", source))?;
            Ok(Head { branch, commit: CommitId::new(tip), moved })
        })
    }

    /// The commit of a [`Revision`]. Lists the references of the source, and fetches what is missing. In a repository that is read where it
    /// is also what only that one has: HEAD as it is checked out, branches of its remotes, and commits that no branch leads to, as CI
    /// checks them out.
    ///
    /// Errors: [`Error::BadRevision`], [`Error::UnknownRevision`], [`Error::Shallow`], and what [`Mirror::head`] says.
    pub fn resolve(&mut self, text: &str) -> Result<CommitId> {
        let revision = Revision::parse(text)?;
        let mut found = self.look_up(&revision)?;
        if found.is_none() && revision.may_be_old() && self.deepen()? {
            found = self.look_up(&revision)?;
        }
        let (repository, revision) = (self.source.to_string(), text.escape_debug().to_string());
        found.map(CommitId::new).ok_or(if self.repository.is_shallow() && self.is_all_there_is() {
            Error::Shallow { repository, lacks: revision }
        } else {
            Error::UnknownRevision { repository, revision }
        })
    }

    /// The commit of a revision, as far as the history goes that is fetched.
    fn look_up(&mut self, revision: &Revision) -> Result<Option<Oid>> {
        let here = if self.in_place { local::find(&self.repository, &revision.base) } else { None };
        let base = match &revision.base {
            _ if here.is_some() => here,
            Base::Head => Some(self.head(None)?.commit.oid()),
            Base::Id(id) if complete(&self.repository, id.oid()).is_ok() => Some(id.oid()),
            Base::Id(id) => self.with_healthy(|repository, remote| {
                remote.fetch(repository, &mut |listing| everything(repository, listing))?;
                Ok(complete(repository, id.oid()).is_ok().then(|| id.oid()))
            })?,
            Base::Name(name) => self.with_healthy(|repository, remote| named(repository, remote, name))?,
        };
        let Some(mut commit) = base.and_then(|base| self.repository.find_commit(base).ok()) else { return Ok(None) };
        for _ in 0..revision.back {
            let Ok(parent) = commit.parent(0) else { return Ok(None) };
            commit = parent;
        }
        Ok(Some(commit.id()))
    }

    /// Whether no history was left out that the source has.
    pub(super) fn is_all_there_is(&self) -> bool {
        self.in_place || self.access.limits.depth == 0
    }

    /// Fetches the history that was left out of every reference; whether some may have been.
    pub(super) fn deepen(&mut self) -> Result<bool> {
        /// Git's number for all of it (`INFINITE_DEPTH`).
        const WHOLE: u32 = 0x7fff_ffff;
        if self.is_all_there_is() {
            return Ok(false);
        }
        self.access.limits.depth = WHOLE;
        let all = |listing: &RemoteRefs| {
            let names = listing.refs.keys().cloned();
            names.map(|remote| Refspec { local: tracking(&remote), remote }).collect()
        };
        let fetched = self.with_healthy(|repository, remote| remote.fetch(repository, &mut |listing| all(listing)));
        self.access.limits.depth = 0;
        fetched.map(|_| true)
    }

    /// The tip of a branch that need not exist, fetched if it moved.
    pub(super) fn tip_of(&mut self, branch: &str) -> Result<Option<Oid>> {
        let name = format!("refs/heads/{branch}");
        self.with_healthy(|repository, remote| {
            let listing =
                remote.fetch(repository, &mut |listing| stale(repository, listing, &name).into_iter().collect())?;
            Ok(listing.refs.get(&name).copied())
        })
    }

    pub(super) fn remote(&self) -> Remote<'_> {
        Remote { source: &self.source, access: &self.access, in_place: self.in_place }
    }

    /// Records that the source's branch is at a commit that Egret pushed, so that it is not fetched back.
    pub(super) fn note_pushed(&self, branch: &str, commit: Oid) -> Result<()> {
        let name = tracking(&format!("refs/heads/{branch}"));
        let noted = self.repository.reference(&name, commit, true, "");
        noted.map(|_| ()).map_err(|source| self.fault("note what was pushed", source))
    }

    /// An error of the mirror itself. The next fetch creates it anew.
    pub(super) fn fault(&self, action: &'static str, source: git2::Error) -> Error {
        self.suspect.set(true);
        if self.in_place && local::is_partial(&self.repository) {
            return Error::Partial { repository: self.source.to_string() };
        }
        mirror_fault(&self.remote(), action, source)
    }

    /// Runs `act` with the mirror; if the mirror is broken, with a new one, which replaces the old one only after that.
    fn with_healthy<T>(&mut self, mut act: impl FnMut(&Repository, &Remote<'_>) -> Result<T>) -> Result<T> {
        if self.in_place {
            return act(&self.repository, &self.remote());
        }
        if !self.suspect.get()
            && is_marked(&self.folder)
            && packs(&self.folder) < MOST_PACKS
            && loose(&self.folder) < MOST_LOOSE
        {
            match act(&self.repository, &self.remote()) {
                // libgit2's error for a file that is missing in the mirror is the one for a source that is missing.
                Err(error) if is_mirror_broken(&error) || !is_marked(&self.folder) => self.suspect.set(true),
                // The worker process has written where the history ends.
                Ok(result) if self.access.limits.depth > 0 => {
                    self.reopen()?;
                    return Ok(result);
                }
                result => return result,
            }
        }
        let mut beside = self.folder.clone().into_os_string();
        beside.push(".new");
        let beside = PathBuf::from(beside);
        let result = {
            let fresh = create(&beside, &self.source)?;
            let result = act(&fresh, &self.remote())?;
            for commit in self.kept.iter().map(|kept| kept.oid()).filter(|kept| complete(&fresh, *kept).is_err()) {
                // If the old mirror is broken at this commit, it is lost; reading it will report that.
                let _ = copy_history(&self.repository, &fresh, commit);
            }
            result
        };
        let folder = &self.folder;
        let state = |action| move |source| Error::State { action, path: folder.clone(), source };
        check_ours(&self.folder)?;
        remove(&self.folder).map_err(state("remove the broken mirror"))?;
        fs::rename(&beside, &self.folder).map_err(state("put the new mirror at"))?;
        self.reopen()?;
        self.suspect.set(false);
        Ok(result)
    }

    /// Not `open_bare`, by which libgit2 does not read where a shallow history ends.
    fn reopen(&mut self) -> Result<()> {
        let opened = Repository::open(&self.folder);
        self.repository = opened.map_err(|source| self.fault("open what was just made", source))?;
        Ok(())
    }
}

/// Copies a commit and its ancestors from one mirror to another: all of them, or none.
fn copy_history(from: &Repository, to: &Repository, commit: Oid) -> std::result::Result<(), git2::Error> {
    let mut history = from.revwalk()?;
    history.push(commit)?;
    let mut pack = from.packbuilder()?;
    pack.insert_walk(&mut history)?;
    let odb = to.odb()?;
    let mut writer = odb.packwriter()?;
    let mut written = Ok(());
    pack.foreach(|bytes| {
        written = writer.write_all(bytes);
        written.is_ok()
    })?;
    written.map_err(|error| git2::Error::from_str(&error.to_string()))?;
    writer.commit().map(|_| ())
}

/// Whether the folder was created by Egret.
fn is_marked(folder: &Path) -> bool {
    folder.join(MARKER).exists()
}

/// A folder without the marker must not be touched, unless it is empty.
fn check_ours(folder: &Path) -> Result<()> {
    let filled = fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some());
    if filled && !is_marked(folder) { Err(Error::NotOurFolder { path: folder.to_owned() }) } else { Ok(()) }
}

/// Creates an empty mirror in the place of the old one.
fn create(folder: &Path, source: &Source) -> Result<Repository> {
    check_ours(folder)?;
    let state = |action| move |source| Error::State { action, path: folder.to_owned(), source };
    remove(folder).map_err(state("clear"))?;
    fs::create_dir_all(folder).map_err(state("make"))?;
    fs::write(folder.join(MARKER), format!("{source}\n")).map_err(state("mark"))?;
    let mut options = RepositoryInitOptions::new();
    options.bare(true).external_template(false).no_reinit(true);
    let made = Repository::init_opts(folder, &options).and_then(|repository| {
        let mut config = repository.config()?;
        config.set_bool("http.followRedirects", false)?;
        // Every fetch and every report would add a line.
        config.set_bool("core.logAllRefUpdates", false)?;
        Ok(repository)
    });
    made.map_err(|error| Error::Mirror { action: "make a repository", repository: source.to_string(), source: error })
}

fn remove(folder: &Path) -> std::io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn packs(folder: &Path) -> usize {
    let entries = fs::read_dir(folder.join("objects/pack")).into_iter().flatten().flatten();
    entries.filter(|entry| entry.path().extension().is_some_and(|extension| extension == "pack")).count()
}

/// How many loose objects are in one of the 256 folders.
fn loose(folder: &Path) -> usize {
    fs::read_dir(folder.join("objects/17")).into_iter().flatten().count()
}

/// The mirror's name for a reference of the source. Not the same name: libgit2 would treat it as a local branch.
pub(super) fn tracking(name: &str) -> String {
    format!("refs/egret/{}", name.trim_start_matches("refs/"))
}

/// The refspec for a reference of the source; none if the mirror is up to date.
fn stale(mirror: &Repository, listing: &RemoteRefs, name: &str) -> Option<Refspec> {
    let tip = listing.refs.get(name)?;
    let local = tracking(name);
    let have = mirror.find_reference(&local).ok().and_then(|reference| reference.target());
    (have != Some(*tip)).then(|| Refspec { remote: name.to_owned(), local })
}

fn everything(mirror: &Repository, listing: &RemoteRefs) -> Vec<Refspec> {
    listing.refs.keys().filter_map(|name| stale(mirror, listing, name)).collect()
}

/// The commit of a branch, a tag or an abbreviated id, in this order, as in Git; fetched if it is missing.
fn named(mirror: &Repository, remote: &Remote<'_>, name: &str) -> Result<Option<Oid>> {
    let full_names = [format!("refs/heads/{name}"), format!("refs/tags/{name}")];
    let listing =
        remote.fetch(mirror, &mut |listing| match full_names.iter().find(|name| listing.refs.contains_key(*name)) {
            Some(name) => stale(mirror, listing, name).into_iter().collect(),
            None if is_short_id(name) => everything(mirror, listing),
            None => Vec::new(),
        })?;
    let found = match full_names.iter().find_map(|name| listing.refs.get(name)) {
        Some(tip) => mirror.find_object(*tip, None).and_then(|object| object.peel_to_commit()),
        None if is_short_id(name) => mirror.find_commit_by_prefix(name),
        None => return Ok(None),
    };
    match found {
        Ok(commit) => Ok(Some(commit.id())),
        Err(error) if error.code() == ErrorCode::Ambiguous => {
            Err(Error::BadRevision { revision: name.to_owned(), why: "more than one commit begins with it" })
        }
        Err(_) => Ok(None),
    }
}

/// The chosen branch and its tip; or the error that says why there is none.
fn chosen(
    mirror: &Repository,
    remote: &Remote<'_>,
    listing: &RemoteRefs,
    branch: Option<&str>,
) -> Result<(String, Oid)> {
    let repository = remote.source.to_string();
    let name = branch.or(listing.default_branch.as_deref());
    if let Some(name) = name {
        let full_name = format!("refs/heads/{name}");
        if let Some(tip) = listing.refs.get(&full_name) {
            return Ok((name.to_owned(), *tip));
        }
        if let Some(last) = mirror.find_reference(&tracking(&full_name)).ok().and_then(|reference| reference.target()) {
            return Err(Error::BranchDeleted { repository, branch: name.to_owned(), last: CommitId::new(last) });
        }
    }
    let branches = listing.branches();
    match branch {
        _ if branches.is_empty() => Err(Error::Empty { repository }),
        None => Err(Error::NoDefaultBranch { repository, branches }),
        Some(branch) => Err(Error::UnknownBranch { repository, branch: branch.to_owned(), branches }),
    }
}

/// Whether a commit and its tree can be read. Objects come in packs, so that one object means all of them.
fn complete(mirror: &Repository, commit: Oid) -> std::result::Result<(), git2::Error> {
    mirror.find_commit(commit)?.tree().map(|_| ())
}

fn mirror_fault(remote: &Remote<'_>, action: &'static str, source: git2::Error) -> Error {
    let repository = remote.source.to_string();
    if remote.in_place {
        Error::Damaged { action, repository, source }
    } else {
        Error::Mirror { action, repository, source }
    }
}

/// Whether the error may be caused by a broken mirror: then a new mirror may help.
fn is_mirror_broken(error: &Error) -> bool {
    let broken = |source: &git2::Error| {
        use ErrorClass::{Indexer, Object, Odb, Reference, Tree, Zlib};
        matches!(source.class(), Indexer | Object | Odb | Reference | Tree | Zlib)
    };
    match error {
        Error::Mirror { .. } => true,
        Error::Unreachable { source, .. } => broken(source),
        _ => false,
    }
}
