//! Repositories on this machine: objects are copied as one pack, references are compared and swapped under Git's own locks.
//!
//! Deliberately absent: running hooks. A repository with a hook that may say no is not written to at all, see [`push`];
//! `post-receive` is not run, and whoever needs it reaches the repository by ssh.

use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use git2::{ErrorCode, Oid, PackBuilder, Reference, Repository};

use super::error::{Error, Result};
use super::remote::{Choose, Listing, Outgoing, Pushed};
use super::revision::{Base, Revision};
use super::sizes;
use super::source::Source;

/// Hooks that can refuse a push (githooks(5)).
const GATES: [&str; 3] = ["pre-receive", "update", "reference-transaction"];

/// The files that a push changes, and not the objects, of which there are many. Where there is no repository yet, all of it.
pub(super) fn references(path: &Path) -> Vec<PathBuf> {
    match Repository::open(path) {
        Ok(there) => ["HEAD", "packed-refs", "refs"].iter().map(|name| there.commondir().join(name)).collect(),
        Err(_) => vec![path.to_owned()],
    }
}

/// Lists what the repository has and copies what `choose` wants of it.
pub(super) fn look(path: &Path, source: &Source, mirror: &Repository, choose: &mut Choose<'_>) -> Result<Listing> {
    let there = open(path, source)?;
    let talking = |doing| move |error| Error::talking(doing, &source.to_string(), error);
    let listing = list(&there).map_err(talking("list the branches of"))?;
    for want in choose(&listing) {
        // Heads of pull requests are asked for by name and not listed.
        let tip = listing.refs.get(&want.name).copied().or_else(|| current(&there, &want.name));
        let Some(tip) = tip else { continue };
        copy_missing(&there, mirror, tip).map_err(talking("fetch from"))?;
        sizes::check(mirror, &source.to_string(), &|| ())?;
        mirror.reference(&want.into, tip, true, "").map_err(|error| Error::Mirror {
            doing: "note what was fetched",
            repository: source.to_string(),
            source: error,
        })?;
    }
    Ok(listing)
}

/// Copies the commit that a revision names here, whatever leads to it; none if this repository has no such commit.
pub(super) fn bring(path: &Path, source: &Source, mirror: &Repository, revision: &Revision) -> Result<Option<Oid>> {
    let there = open(path, source)?;
    let of_reference = |name: &str| there.find_reference(name).and_then(|reference| reference.peel_to_commit());
    let found = match &revision.base {
        Base::Head => of_reference("HEAD").ok(),
        Base::Id(id) => there.find_commit(id.oid()).ok(),
        Base::Name(name) => ["refs/heads/", "refs/tags/", "refs/remotes/origin/", "refs/remotes/"]
            .iter()
            .find_map(|folder| of_reference(&format!("{folder}{name}")).ok()),
    };
    let Some(mut commit) = found else { return Ok(None) };
    for _ in 0..revision.back {
        let Ok(parent) = commit.parent(0) else { return Ok(None) };
        commit = parent;
    }
    let talking = |doing| move |error| Error::talking(doing, &source.to_string(), error);
    copy_missing(&there, mirror, commit.id()).map_err(talking("fetch from"))?;
    sizes::check(mirror, &source.to_string(), &|| ())?;
    let name = format!("refs/egret/commits/{}", commit.id());
    mirror.reference(&name, commit.id(), true, "").map_err(talking("note what was fetched from"))?;
    Ok(Some(commit.id()))
}

/// Copies the commit's objects and moves the reference. A repository with a hook that may refuse is left alone, because
/// writing past it would be going behind its owner's back. The pack is written first: killed in between, it is garbage that
/// `git gc` takes away.
pub(super) fn push(path: &Path, source: &Source, mirror: &Repository, outgoing: &Outgoing<'_>) -> Result<Pushed> {
    let there = open(path, source)?;
    if let Some(gate) = gate(&there) {
        return Ok(Pushed::Refused(format!("its hook {} decides about pushes, and only ssh runs it", gate.display())));
    }
    if there.head().is_ok_and(|head| !there.is_bare() && head.name_bytes() == outgoing.name.as_bytes()) {
        return Ok(Pushed::Refused("the branch is checked out there".to_owned()));
    }
    let rewrites =
        outgoing.expected.is_some_and(|tip| !mirror.graph_descendant_of(outgoing.commit, tip).unwrap_or(false));
    if rewrites && there.config().and_then(|config| config.get_bool("receive.denyNonFastForwards")).unwrap_or(false) {
        return Ok(Pushed::Refused("it takes no other history for a branch (receive.denyNonFastForwards)".to_owned()));
    }
    match write(&there, mirror, outgoing) {
        Ok(()) => Ok(Pushed::Done),
        Err(error) => match (error.code(), current(&there, outgoing.name) == outgoing.expected) {
            // Git holds the reference's lock for a moment only: whoever has it is about to be faster than us.
            (ErrorCode::Locked, _) | (_, false) => Ok(Pushed::Overtaken),
            (_, true) if denies_writing(error.message()) => Ok(Pushed::Refused(error.message().to_owned())),
            (_, true) => Err(Error::talking("push to", &source.to_string(), error)),
        },
    }
}

fn open(path: &Path, source: &Source) -> Result<Repository> {
    Repository::open(path).map_err(|error| Error::talking("open", &source.to_string(), error))
}

fn list(there: &Repository) -> std::result::Result<Listing, git2::Error> {
    let mut listing = Listing::default();
    if let Ok(head) = there.find_reference("HEAD") {
        let target = head.symbolic_target_bytes().and_then(|name| std::str::from_utf8(name).ok());
        listing.default_branch = target.and_then(|name| name.strip_prefix("refs/heads/")).map(str::to_owned);
    }
    for reference in there.references()? {
        // One broken reference is no reason not to see the others, as with `git for-each-ref`.
        let Ok((name, target)) = reference.and_then(|reference| Ok((name(&reference), reference.resolve()?.target())))
        else {
            continue;
        };
        if let (Some(name), Some(target)) = (name, target) {
            listing.refs.insert(name, target);
        }
    }
    Ok(listing)
}

/// The name of a branch or tag; what is not UTF-8 can't be asked for and is passed over.
fn name(reference: &Reference<'_>) -> Option<String> {
    let name = std::str::from_utf8(reference.name_bytes()).ok()?;
    (name.starts_with("refs/heads/") || name.starts_with("refs/tags/")).then(|| name.to_owned())
}

/// Copies what leads to `tip` and is not behind any reference of the mirror already: the cost is that of the change.
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

/// Puts a pack into a repository: a pack, not loose files, because those would make folders under `objects/` that belong
/// to us, and its owner's next push could not write there.
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

fn write(there: &Repository, mirror: &Repository, outgoing: &Outgoing<'_>) -> std::result::Result<(), git2::Error> {
    let known = there.odb()?;
    let mut pack = mirror.packbuilder()?;
    for object in outgoing.objects.iter().filter(|object| !known.exists(**object)) {
        pack.insert_object(*object, None)?;
    }
    write_pack(&mut pack, there)?;
    // Zero means "not there", and is compared under the lock. To create without force is no such thing: libgit2 looks whether
    // the reference exists before it takes the lock, so that of two who create it at once both succeed and one is lost.
    let expected = outgoing.expected.unwrap_or(Oid::ZERO_SHA1);
    there.reference_matching(outgoing.name, outgoing.commit, true, expected, "push by egret")?;
    Ok(())
}

fn current(there: &Repository, name: &str) -> Option<Oid> {
    there.find_reference(name).ok().and_then(|reference| reference.target())
}

fn gate(there: &Repository) -> Option<PathBuf> {
    let configured = there.config().ok().and_then(|config| config.get_path("core.hooksPath").ok());
    let hooks = configured.map_or_else(|| there.commondir().join("hooks"), |hooks| there.path().join(hooks));
    let executable =
        |path: &PathBuf| path.metadata().is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0);
    GATES.iter().map(|gate| hooks.join(gate)).find(executable)
}

/// libgit2 gives no code for it: the kernel's words are at the end of its message.
fn denies_writing(message: &str) -> bool {
    message.contains("Permission denied") || message.contains("Read-only file system")
}
