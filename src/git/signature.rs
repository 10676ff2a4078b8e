//! Which commits come in, and whether all of them are signed as demanded.
//!
//! Deliberately absent: whether one signature counts (`core::signature`), and who decides what is demanded (`reconcile`). Nothing that a
//! repository can say of its own history is believed: replacements and grafts are neither fetched nor asked, and the dates of
//! commits only make the walk quick.

use std::collections::{HashSet, VecDeque};
use std::fs;
use std::path::{Path, PathBuf};

use git2::{ErrorCode, Oid};
use jiff::Timestamp;

use super::error::{Error, Result};
use super::mirror::Mirror;
use super::{CommitId, CommitInfo};
use crate::core::signature::{BadKey, KeyTexts, Keys, Require, Signatures};

/// More commits than this do not come in at once.
pub const MOST_COMMITS: usize = 10_000;
/// So far back is looked for a commit that is in force already. No repository of policies is that old.
const FURTHEST: usize = 1_000_000;

/// What flags demand. They win over egret.yaml: what they say cannot be weakened by who writes there. The files are read when they
/// are needed, so that a list that was changed counts at the next look.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Flags {
    /// Of which commits; none: what egret.yaml says.
    pub require: Option<Require>,
    /// A file in the format of `allowed_signers`.
    pub allowed_signers: Option<PathBuf>,
    /// A file of armored OpenPGP public keys.
    pub openpgp_keys: Option<PathBuf>,
}

impl Flags {
    /// What is demanded by the flags and by egret.yaml in force together: the stricter of both, and of flags that name keys those alone.
    ///
    /// Error: a file cannot be read.
    pub fn with(&self, in_force: Option<&Signatures>) -> Result<Option<Signatures>> {
        let Some(require) = self.require.max(in_force.map(|signatures| signatures.require)) else { return Ok(None) };
        let own = KeyTexts {
            allowed_signers: read(self.allowed_signers.as_deref())?,
            openpgp: read(self.openpgp_keys.as_deref())?,
        };
        let named = self.allowed_signers.is_some() || self.openpgp_keys.is_some();
        let keys = if named { own } else { in_force.map(|signatures| signatures.keys.clone()).unwrap_or_default() };
        Ok(Some(Signatures { require, keys }))
    }

    /// Whether what comes in with `head` is signed as these flags and egret.yaml in force demand it, see [`verify`].
    ///
    /// Error: the mirror or a file cannot be read, or a key cannot be taken.
    pub fn judge(
        &self,
        mirror: &Mirror,
        in_force: Option<&Signatures>,
        from: Option<CommitId>,
        head: CommitId,
    ) -> Result<std::result::Result<(), Unsigned>> {
        match self.with(in_force)? {
            Some(demanded) => verify(mirror, demanded.require, &self.keys(&demanded)?, from, head),
            None => Ok(Ok(())),
        }
    }

    /// The keys that were read.
    ///
    /// Error: one of them cannot be taken.
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

/// A commit that is not signed as demanded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unsigned {
    /// Which one: the head, or one below it.
    pub commit: CommitId,
    /// Half a sentence about it: "it has no signature".
    pub what: String,
}

/// What keeps a head from taking the place of a commit in force that the mirror does not have any more, if anything does. Whether the
/// head only goes back cannot be seen then, so it must be later, by its committer's clock, which is signed with it.
pub fn not_later(gone: CommitId, committed: Timestamp, head: &CommitInfo) -> Option<Unsigned> {
    let what = || {
        format!(
            "{}, which is in force, is not in its history, and it is not later: it is of {}, and that is of {committed}; a commit signed \
             today can take its place",
            gone.short(),
            head.time
        )
    };
    (head.time <= committed).then(|| Unsigned { commit: head.id, what: what() })
}

/// Whether what comes in with `head` is signed as demanded; `from` is what is in force.
///
/// With [`Require::Every`] this is every commit that leads to `head` and not to `from`, of all sides of a merge. Without `from`
/// it is the head alone: a repository begins somewhere. If the mirror has no such `from`, its history was thrown away, and
/// everything that leads to `head` is looked at. A head that only leaves out what is in force does not come in, whoever signed it
/// back then: to undo something is a change like any other, and needs somebody's signature today. Without `from` in the mirror that cannot
/// be seen: see [`not_later`].
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
        && goes_back(mirror, from, head.oid())?
    {
        let what = format!(
            "it only takes back commits up to {}, which is in force; a signed commit can undo them",
            CommitId::new(from).short()
        );
        return Ok(Err(Unsigned { commit: head, what }));
    }
    if require == Require::Head || from.is_none() {
        return check(mirror, keys, head.oid());
    }
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

/// Whether a head is one of the commits that led to what is in force.
fn goes_back(mirror: &Mirror, from: Oid, head: Oid) -> Result<bool> {
    // As a rule the head is a few commits above: then it cannot be below as well.
    if below(mirror, head, MOST_COMMITS, Some(from))?.contains(&from) {
        return Ok(false);
    }
    Ok(below(mirror, from, FURTHEST, Some(head))?.contains(&head))
}

/// A commit and everything below it, without a look at dates; as far as `wanted`, and so many at most.
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
