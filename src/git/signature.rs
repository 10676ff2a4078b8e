//! Which commits come in, and whether all of them are signed as demanded.
//!
//! Deliberately absent: whether one signature counts (`core::signature`), and who decides what is demanded (`reconcile`). Nothing that a
//! repository can say of its own history is believed: replacements and grafts are neither fetched nor asked, and the dates of
//! commits only make the walk quick.

use std::collections::{HashSet, VecDeque};

use git2::{ErrorCode, Oid};

use super::CommitId;
use super::error::Result;
use super::mirror::Mirror;
use crate::core::signature::{Keys, Require};

/// More commits than this do not come in at once.
pub const MOST_COMMITS: usize = 10_000;
/// So far back is looked for a commit that is in force already. No repository of policies is that old.
const FURTHEST: usize = 1_000_000;

/// A commit that is not signed as demanded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unsigned {
    /// Which one: the head, or one below it.
    pub commit: CommitId,
    /// Half a sentence about it: "it has no signature".
    pub what: String,
}

/// Whether what comes in with `head` is signed as demanded; `from` is what is in force.
///
/// With [`Require::Every`] this is every commit that leads to `head` and not to `from`, of all sides of a merge. Without `from`
/// it is the head alone: a repository begins somewhere. If the mirror has no such `from`, its history was thrown away, and
/// everything that leads to `head` is looked at.
///
/// Error: the mirror cannot be read.
pub fn verify(
    mirror: &Mirror,
    require: Require,
    keys: &Keys,
    from: Option<CommitId>,
    head: CommitId,
) -> Result<std::result::Result<(), Unsigned>> {
    if from == Some(head) {
        return Ok(Ok(()));
    }
    let (Require::Every, Some(from)) = (require, from) else { return check(mirror, keys, head.oid()) };
    let known = mirror.has(from).then_some(from.oid());
    let Some(incoming) = incoming(mirror, known, head.oid())? else {
        let what = format!("more than {MOST_COMMITS} commits come in with it at once, too many to look at");
        return Ok(Err(Unsigned { commit: head, what }));
    };
    let mut ancestors = None;
    // From the oldest on: the first that is not signed is the one to ask about.
    for commit in incoming.into_iter().rev() {
        let Err(unsigned) = check(mirror, keys, commit)? else { continue };
        if let Some(from) = known {
            // The walk may list a commit whose descendant is in force, if somebody's clock was wrong. It never leaves one out.
            if ancestors.is_none() {
                ancestors = Some(all_below(mirror, from)?);
            }
            if ancestors.as_ref().is_some_and(|ancestors| ancestors.contains(&commit)) {
                continue;
            }
        }
        return Ok(Err(unsigned));
    }
    Ok(Ok(()))
}

fn check(mirror: &Mirror, keys: &Keys, commit: Oid) -> Result<std::result::Result<(), Unsigned>> {
    let fault = |source| mirror.fault("read a commit to check its signature", source);
    let objects = mirror.repository.odb().map_err(fault)?;
    let object = objects.read(commit).map_err(fault)?;
    let refused = keys.check_commit(object.data()).err();
    Ok(refused.map_or(Ok(()), |refused| Err(Unsigned { commit: CommitId::new(commit), what: refused.to_string() })))
}

/// The commits that lead to `head` and not to `known`, newest first, and perhaps a few more; none if they are too many.
fn incoming(mirror: &Mirror, known: Option<Oid>, head: Oid) -> Result<Option<Vec<Oid>>> {
    let fault = |source| mirror.fault("list the commits that come in", source);
    let mut walk = mirror.repository.revwalk().map_err(fault)?;
    walk.set_sorting(git2::Sort::TOPOLOGICAL).map_err(fault)?;
    walk.push(head).map_err(fault)?;
    if let Some(known) = known {
        walk.hide(known).map_err(fault)?;
    }
    let mut found = Vec::new();
    for commit in walk {
        found.push(commit.map_err(fault)?);
        if found.len() > MOST_COMMITS {
            return Ok(None);
        }
    }
    Ok(Some(found))
}

/// A commit and everything below it, without a look at dates.
fn all_below(mirror: &Mirror, commit: Oid) -> Result<HashSet<Oid>> {
    let fault = |source| mirror.fault("list the commits that are in force", source);
    let mut seen = HashSet::from([commit]);
    let mut next = VecDeque::from([commit]);
    while let Some(one) = next.pop_front() {
        let commit = match mirror.repository.find_commit(one) {
            Ok(commit) => commit,
            // A shallow history ends somewhere.
            Err(error) if error.code() == ErrorCode::NotFound => continue,
            Err(error) => return Err(fault(error)),
        };
        next.extend(commit.parent_ids().filter(|parent| seen.len() < FURTHEST && seen.insert(*parent)));
    }
    Ok(seen)
}
