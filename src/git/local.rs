//! Repositories on this machine: objects are copied as one pack, references are compared and swapped under Git's own locks.
//!
//! No hook is run. A repository with a hook that may reject is not written to at all, see [`push`]; who needs `post-receive`
//! uses the repository by ssh.

use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use git2::{ErrorClass, ErrorCode, Oid, PackBuilder, Reference, Repository};

use super::error::{Error, Result};
use super::exchange::{PushOutcome, PushRequest, RemoteRefs, SelectRefs};
use super::object_limits;
use super::revision::Base;
use super::source::Source;

/// Hooks that can reject a push (githooks(5)).
const REJECTING_HOOKS: [&str; 3] = ["pre-receive", "update", "reference-transaction"];

/// Lists the references, and copies those that `select` returns.
pub(super) fn fetch(
    path: &Path,
    source: &Source,
    mirror: &Repository,
    select: &mut SelectRefs<'_>,
) -> Result<RemoteRefs> {
    let there = open(path, source)?;
    let during = |action| move |error| Error::during(action, &source.to_string(), error);
    let refs = list(&there).map_err(during("list the branches of"))?;
    for refspec in select(&refs) {
        // Heads of pull requests are fetched by name and not listed.
        let tip = refs.refs.get(&refspec.remote).copied().or_else(|| current(&there, &refspec.remote));
        let Some(tip) = tip else { continue };
        copy_missing(&there, mirror, tip).map_err(during("fetch from"))?;
        object_limits::check(mirror, &source.to_string(), &|| ())?;
        mirror.reference(&refspec.local, tip, true, "").map_err(|error| Error::Mirror {
            action: "note what was fetched",
            repository: source.to_string(),
            source: error,
        })?;
    }
    Ok(refs)
}

/// Lists the references of a repository that is read where it is.
pub(super) fn list_in_place(there: &Repository, source: &Source) -> Result<RemoteRefs> {
    list(there).map_err(|error| Error::during("list the branches of", &source.to_string(), error))
}

/// The commit where a revision starts in this repository, whatever reference leads to it; none if there is no such commit.
pub(super) fn find(there: &Repository, base: &Base) -> Option<Oid> {
    let of_reference = |name: &str| there.find_reference(name).and_then(|reference| reference.peel_to_commit());
    let found = match base {
        Base::Head => of_reference("HEAD").ok(),
        Base::Id(id) => there.find_commit(id.oid()).ok(),
        Base::Name(name) => ["refs/heads/", "refs/tags/", "refs/remotes/origin/", "refs/remotes/"]
            .iter()
            .find_map(|folder| of_reference(&format!("{folder}{name}")).ok()),
    };
    found.map(|commit| commit.id())
}

/// Whether objects may be missing on purpose: Git would fetch them when it needs them.
pub(super) fn is_partial(there: &Repository) -> bool {
    let config = there.config().and_then(|mut config| config.snapshot());
    let promises = |config: &git2::Config| {
        let mut entries = config.entries(Some("remote\\..*\\.(promisor|partialclonefilter)")).ok()?;
        entries.next().map(|entry| entry.is_ok())
    };
    config.is_ok_and(|config| promises(&config).unwrap_or(false))
}

/// Copies the commit's objects and moves the reference. A repository with a hook that may reject pushes is not written to, because
/// that would bypass the hook. The pack is written first: if Egret is killed in between, it is garbage that `git gc` removes.
pub(super) fn push(
    path: &Path,
    source: &Source,
    mirror: &Repository,
    request: &PushRequest<'_>,
) -> Result<PushOutcome> {
    let there = open(path, source)?;
    if let Some(hook) = rejecting_hook(&there) {
        return Ok(PushOutcome::Rejected(format!(
            "its hook {} may reject pushes, and runs only for a push by ssh",
            hook.display()
        )));
    }
    if there.head().is_ok_and(|head| !there.is_bare() && head.name_bytes() == request.name.as_bytes()) {
        return Ok(PushOutcome::Rejected("the branch is checked out there".to_owned()));
    }
    let rewrites =
        request.expected.is_some_and(|tip| !mirror.graph_descendant_of(request.commit, tip).unwrap_or(false));
    if rewrites && there.config().and_then(|config| config.get_bool("receive.denyNonFastForwards")).unwrap_or(false) {
        return Ok(PushOutcome::Rejected("it accepts no rewritten history (receive.denyNonFastForwards)".to_owned()));
    }
    match write(&there, mirror, request) {
        Ok(()) => Ok(PushOutcome::Updated),
        Err(error) => match (error.code(), current(&there, request.name) == request.expected) {
            // Git holds the reference's lock for a moment only: another client is about to move it.
            (ErrorCode::Locked, _) | (_, false) => Ok(PushOutcome::Stale),
            (_, true) if denies_writing(error.message()) => Ok(PushOutcome::Rejected(error.message().to_owned())),
            (_, true) => Err(Error::during("push to", &source.to_string(), error)),
        },
    }
}

pub(super) fn open(path: &Path, source: &Source) -> Result<Repository> {
    Repository::open(path).map_err(|error| match error.class() {
        // libgit2 cannot read one that Git marks as an extension of the format.
        ErrorClass::Repository if error.message().contains("extensions.partialclone") => {
            Error::Partial { repository: source.to_string() }
        }
        _ => Error::during("open", &source.to_string(), error),
    })
}

fn list(there: &Repository) -> std::result::Result<RemoteRefs, git2::Error> {
    let mut refs = RemoteRefs::default();
    if let Ok(head) = there.find_reference("HEAD") {
        let target = head.symbolic_target_bytes().and_then(|name| std::str::from_utf8(name).ok());
        refs.default_branch = target.and_then(|name| name.strip_prefix("refs/heads/")).map(str::to_owned);
    }
    for reference in there.references()? {
        // A broken reference is skipped, as `git for-each-ref` does.
        let Ok((name, target)) = reference.and_then(|reference| Ok((name(&reference), reference.resolve()?.target())))
        else {
            continue;
        };
        if let (Some(name), Some(target)) = (name, target) {
            refs.refs.insert(name, target);
        }
    }
    Ok(refs)
}

/// The name of a branch or tag; one that is not UTF-8 cannot be configured, and is skipped.
fn name(reference: &Reference<'_>) -> Option<String> {
    let name = std::str::from_utf8(reference.name_bytes()).ok()?;
    (name.starts_with("refs/heads/") || name.starts_with("refs/tags/")).then(|| name.to_owned())
}

/// Copies what `tip` needs and no reference of the mirror leads to already, so that the cost is that of the change.
fn copy_missing(there: &Repository, mirror: &Repository, tip: Oid) -> std::result::Result<(), git2::Error> {
    let mut walk = there.revwalk()?;
    let object = there.find_object(tip, None)?;
    walk.push(object.peel_to_commit()?.id())?;
    let known = there.odb()?;
    for reference in mirror.references()? {
        if let Some(have) = reference?.target().filter(|have| known.exists(*have)) {
            walk.hide(have)?;
        }
    }
    let mut pack = there.packbuilder()?;
    pack.insert_walk(&mut walk)?;
    if object.as_tag().is_some() {
        pack.insert_object(tip, None)?;
    }
    write_pack(&mut pack, mirror)
}

/// Writes a pack into a repository. Not loose objects: their folders under `objects/` would belong to Egret's user, and the next push
/// of the repository's owner could not write there.
fn write_pack(pack: &mut PackBuilder<'_>, into: &Repository) -> std::result::Result<(), git2::Error> {
    if pack.object_count() == 0 {
        return Ok(());
    }
    let objects = into.odb()?;
    let mut writer = objects.packwriter()?;
    let mut written = Ok(());
    pack.foreach(|bytes| {
        written = writer.write_all(bytes);
        written.is_ok()
    })?;
    written.map_err(|error| git2::Error::from_str(&error.to_string()))?;
    writer.commit().map(|_| ())
}

fn write(there: &Repository, mirror: &Repository, request: &PushRequest<'_>) -> std::result::Result<(), git2::Error> {
    let known = there.odb()?;
    let mut pack = mirror.packbuilder()?;
    for object in request.objects.iter().filter(|object| !known.exists(**object)) {
        pack.insert_object(*object, None)?;
    }
    write_pack(&mut pack, there)?;
    // Zero means "does not exist", and is compared under the lock. Creating without force would not do: libgit2 checks whether the
    // reference exists before it takes the lock, so that two concurrent creations both succeed and one is lost.
    let expected = request.expected.unwrap_or(Oid::ZERO_SHA1);
    there.reference_matching(request.name, request.commit, true, expected, "push by egret")?;
    Ok(())
}

fn current(there: &Repository, name: &str) -> Option<Oid> {
    there.find_reference(name).ok().and_then(|reference| reference.target())
}

fn rejecting_hook(there: &Repository) -> Option<PathBuf> {
    let configured = there.config().ok().and_then(|config| config.get_path("core.hooksPath").ok());
    let hooks = configured.map_or_else(|| there.commondir().join("hooks"), |hooks| there.path().join(hooks));
    let executable =
        |path: &PathBuf| path.metadata().is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0);
    REJECTING_HOOKS.iter().map(|name| hooks.join(name)).find(executable)
}

/// libgit2 has no code for it; the kernel's error text is at the end of its message.
fn denies_writing(message: &str) -> bool {
    message.contains("Permission denied") || message.contains("Read-only file system")
}
