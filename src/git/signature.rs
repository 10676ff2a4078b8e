//! Verifies that every commit that would become active is signed as required.
//!
//! A repository's own claims about its history are not trusted: replacements and grafts are neither fetched nor read, and commit dates only
//! speed up the walk. Not here: whether one signature is valid (`core::signature`).

use std::collections::{HashSet, VecDeque};
use std::fs;
use std::path::{Path, PathBuf};

use git2::{ErrorCode, Oid};
use jiff::Timestamp;

use super::commit::{CommitId, CommitInfo};
use super::comparison::lacks_parents;
use super::error::{Error, Result};
use super::mirror::Mirror;
use crate::core::signature::{BadKey, KeyTexts, Keys, Require, Signatures};

/// The most new commits at once.
pub const MOST_COMMITS: usize = 10_000;
/// How far back the active commit is searched. No repository of policies has a longer history.
const FURTHEST: usize = 1_000_000;

/// The signatures that flags require. They win over egret.yaml, so that who can write there cannot weaken them. The files are read for
/// each check, so that a changed list takes effect at the next poll.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SignatureFlags {
    /// Which commits must be signed; none: what egret.yaml says.
    pub require: Option<Require>,
    /// A file in the format of `allowed_signers`.
    pub allowed_signers: Option<PathBuf>,
    /// A file of armored OpenPGP public keys.
    pub openpgp_keys: Option<PathBuf>,
}

impl SignatureFlags {
    /// What the flags and the active egret.yaml require together: the stricter of both. If a flag names keys, only those count.
    ///
    /// Error: a file cannot be read.
    pub fn with(&self, active: Option<&Signatures>) -> Result<Option<Signatures>> {
        let Some(require) = self.require.max(active.map(|signatures| signatures.require)) else { return Ok(None) };
        let own = KeyTexts {
            allowed_signers: read(self.allowed_signers.as_deref())?,
            openpgp: read(self.openpgp_keys.as_deref())?,
        };
        let named = self.allowed_signers.is_some() || self.openpgp_keys.is_some();
        let keys = if named { own } else { active.map(|signatures| signatures.keys.clone()).unwrap_or_default() };
        Ok(Some(Signatures { require, keys }))
    }

    /// Whether the new commits up to `head` are signed as these flags and the active egret.yaml require, see [`verify`].
    ///
    /// Error: the mirror or a file cannot be read, or a key is malformed.
    pub fn judge(
        &self,
        mirror: &Mirror,
        active: Option<&Signatures>,
        from: Option<CommitId>,
        head: CommitId,
    ) -> Result<std::result::Result<(), Unsigned>> {
        match self.with(active)? {
            Some(demanded) => verify(mirror, demanded.require, &self.keys(&demanded)?, from, head),
            None => Ok(Ok(())),
        }
    }

    /// The keys.
    ///
    /// Error: one of them is malformed.
    pub fn keys(&self, signatures: &Signatures) -> Result<Keys> {
        let bad = |from: Option<&Path>, bad: &BadKey| {
            let from = from.map_or_else(|| "egret.yaml".to_owned(), |path| path.display().to_string());
            Error::Keys { from, what: bad.to_string(), hint: bad.hint }
        };
        let mut keys = Keys::default();
        for text in &signatures.keys.allowed_signers {
            keys.add_allowed_signers(text).map_err(|error| bad(self.allowed_signers.as_deref(), &error))?;
        }
        for text in &signatures.keys.openpgp {
            keys.add_openpgp(text).map_err(|error| bad(self.openpgp_keys.as_deref(), &error))?;
        }
        Ok(keys)
    }
}

fn read(path: Option<&Path>) -> Result<Vec<String>> {
    let read =
        |path: &Path| fs::read_to_string(path).map_err(|source| Error::Credential { path: path.to_owned(), source });
    Ok(path.map(read).transpose()?.into_iter().collect())
}

/// A commit that is not signed as required.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unsigned {
    /// The head, or a commit below it.
    pub commit: CommitId,
    /// Half a sentence about it: "it has no signature".
    pub what: String,
}

/// Why a head must not replace an active commit that the mirror no longer has, if there is a reason. Without that commit a rollback
/// cannot be detected, so the head must be later by its committer's clock, which its signature covers.
pub fn not_later(gone: CommitId, committed: Timestamp, head: &CommitInfo) -> Option<Unsigned> {
    let what = || {
        format!(
            "{}, which is active, is not in its history, and it is not later: it is of {}, and that is of {committed}; a commit signed \
             today can replace it",
            gone.short(),
            head.time
        )
    };
    (head.time <= committed).then(|| Unsigned { commit: head.id, what: what() })
}

/// Whether the commits up to `head` are signed as required; `from` is the active commit.
///
/// With [`Require::Every`] this is every commit that `head` reaches and `from` does not, of all parents of a merge. Without `from` it is
/// the head alone: the first commit of Egret's history is trusted by its own signature. If the mirror does not have `from`, the history was
/// rewritten, and every commit below `head` is checked. A head below `from` is a rollback and is refused, whoever signed it at the time: a
/// revert is a change like any other, and needs a new signature. Without `from` in the mirror that cannot be seen: see [`not_later`].
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
    let known = from.filter(|from| mirror.has(*from)).map(CommitId::oid);
    if let Some(from) = known
        && is_ancestor(mirror, head, CommitId::new(from))?
    {
        let what = format!(
            "it is a rollback from {}, which is active; revert by a new, signed commit",
            CommitId::new(from).short()
        );
        return Ok(Err(Unsigned { commit: head, what }));
    }
    if require == Require::Head || from.is_none() {
        return check(mirror, keys, head.oid());
    }
    let Some(incoming) = incoming(mirror, known, head.oid())? else {
        let what = format!("it brings more than {MOST_COMMITS} new commits at once, too many to check");
        return Ok(Err(Unsigned { commit: head, what }));
    };
    if let Some(last) = last_of_cut(mirror, &incoming)? {
        let what = "the clone is shallow: what it brings before this commit cannot be checked".to_owned();
        return Ok(Err(Unsigned { commit: last, what }));
    }
    let mut ancestors = None;
    // From the oldest on, so that the error names the first unsigned one.
    for commit in incoming.into_iter().rev() {
        let Err(unsigned) = check(mirror, keys, commit)? else { continue };
        if let Some(from) = known {
            // With wrong commit dates the walk may also list ancestors of the active commit. It never omits a new one.
            if ancestors.is_none() {
                ancestors = Some(below(mirror, from, FURTHEST, None)?);
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

/// The commits that `head` reaches and `known` does not, newest first, and perhaps a few more; none if they are too many.
fn incoming(mirror: &Mirror, known: Option<Oid>, head: Oid) -> Result<Option<Vec<Oid>>> {
    let fault = |source| mirror.fault("list the new commits", source);
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

/// The commit among these at which a shallow history ends.
fn last_of_cut(mirror: &Mirror, commits: &[Oid]) -> Result<Option<CommitId>> {
    if !mirror.repository.is_shallow() {
        return Ok(None);
    }
    for one in commits {
        let commit = mirror.repository.find_commit(*one);
        if lacks_parents(&commit.map_err(|source| mirror.fault("list the new commits", source))?) {
            return Ok(Some(CommitId::new(*one)));
        }
    }
    Ok(None)
}

/// Whether the head is an ancestor of the active commit.
pub fn is_ancestor(mirror: &Mirror, older: CommitId, newer: CommitId) -> Result<bool> {
    let (older, newer) = (older.oid(), newer.oid());
    // Usually it is the other way round, and by a few commits.
    if below(mirror, older, MOST_COMMITS, Some(newer))?.contains(&newer) {
        return Ok(false);
    }
    Ok(below(mirror, newer, FURTHEST, Some(older))?.contains(&older))
}

/// A commit and its ancestors, without use of dates; stops at `wanted`, and at `most`.
fn below(mirror: &Mirror, commit: Oid, most: usize, wanted: Option<Oid>) -> Result<HashSet<Oid>> {
    let fault = |source| mirror.fault("walk the history of a commit", source);
    let mut seen = HashSet::from([commit]);
    let mut next = VecDeque::from([commit]);
    while let Some(one) = next.pop_front() {
        let commit = match mirror.repository.find_commit(one) {
            Ok(commit) => commit,
            // A shallow history ends somewhere.
            Err(error) if error.code() == ErrorCode::NotFound => continue,
            Err(error) => return Err(fault(error)),
        };
        next.extend(commit.parent_ids().filter(|parent| seen.len() < most && seen.insert(*parent)));
        if wanted.is_some_and(|wanted| seen.contains(&wanted)) {
            break;
        }
    }
    Ok(seen)
}
