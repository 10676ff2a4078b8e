//! Compaction of the reports branch: commits older than a given age are folded into one root commit, newer ones are recreated on top of it.
//!
//! By compare-and-swap, as every report: if another client commits meanwhile, the branch stays as it is. Commits of others are never
//! folded, and commits that Egret did not sign are not signed. The server's own `git gc` deletes the old objects; `reconcile::publisher`
//! decides when to compact.

use std::time::Duration;

use git2::{Commit, Oid, Signature};
use jiff::Timestamp;

use super::commit::CommitId;
use super::error::Result;
use super::exchange::PushOutcome;
use super::mirror::Mirror;
use super::publish::{CommitSpec, Target, check_branch, make, push, read_branch, signature};
use super::signing::Signer;
use crate::core::signature::SignatureRejection;

/// Compaction pays off when it saves this many commits, or when the oldest is twice as old as the age to keep.
pub const MANY: usize = 1_000;

/// The outcome of a compaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Compacted {
    /// It does not pay off yet.
    NotYet,
    /// The branch has a commit of another author: it is not touched, and so nothing below it is.
    Others {
        /// The newest such commit.
        commit: CommitId,
        /// Its author.
        by: String,
    },
    /// The branch is at this commit now, with the same files.
    Done {
        /// The last commit.
        commit: CommitId,
        /// How many commits became one.
        folded: usize,
        /// How many commits were recreated.
        kept: usize,
    },
    /// Another client pushed meanwhile.
    Overtaken,
    /// The repository accepts no rewritten history for the branch, with this reason.
    Refused(String),
}

/// Folds commits that are older than `keep` at the target's time.
///
/// Errors: those of [`super::publish::publish`] about the branch and its source. After an error the branch is as it was.
pub fn compact(mirror: &mut Mirror, target: &Target, keep: Duration) -> Result<Compacted> {
    check_branch(target)?;
    let Some(tip) = mirror.tip_of(&target.branch)? else { return Ok(Compacted::NotYet) };
    read_branch(mirror, target, Some(tip))?;
    let fault = |source| mirror.fault("fold the history of reports", source);
    let (objects, folded) = match rewrite(mirror, target, tip, keep).map_err(fault)? {
        Ok(rewritten) => rewritten,
        Err(instead) => return Ok(instead),
    };
    let Some(last) = objects.last().copied() else { return Ok(Compacted::NotYet) };
    match push(mirror, target, Some(tip), last, &objects)? {
        PushOutcome::Updated => {
            mirror.note_pushed(&target.branch, last)?;
            Ok(Compacted::Done { commit: CommitId::new(last), folded, kept: objects.len() - 1 })
        }
        PushOutcome::Stale => Ok(Compacted::Overtaken),
        PushOutcome::Rejected(_) if mirror.tip_of(&target.branch)? != Some(tip) => Ok(Compacted::Overtaken),
        PushOutcome::Rejected(why) => Ok(Compacted::Refused(why)),
    }
}

/// The commits of the new history, and how many were folded into its first; or why there is none.
type Rewritten = std::result::Result<(Vec<Oid>, usize), Compacted>;

fn rewrite(mirror: &Mirror, target: &Target, tip: Oid, keep: Duration) -> std::result::Result<Rewritten, git2::Error> {
    let history = match history(mirror, target, tip)? {
        Ok(history) => history,
        Err((commit, by)) => return Ok(Err(Compacted::Others { commit: CommitId::new(commit), by })),
    };
    let Some(fold) = commits_to_fold(&history, target.time, keep) else { return Ok(Err(Compacted::NotYet)) };
    Ok(Ok((recreate(mirror, target, &history, fold)?, fold)))
}

/// A commit of this Egret.
struct Report<'r> {
    commit: Commit<'r>,
    /// By the present signing key. An unsigned commit may be by anyone who can push, and stays unsigned when it is recreated.
    signed: bool,
}

/// The branch's commits, the oldest first; or the newest foreign one and its author.
type History<'r> = std::result::Result<Vec<Report<'r>>, (Oid, String)>;

fn history<'r>(mirror: &'r Mirror, target: &Target, tip: Oid) -> std::result::Result<History<'r>, git2::Error> {
    let own = target.signer.as_ref().map(Signer::keys).unwrap_or_default();
    let objects = mirror.repository.odb()?;
    let mut commits = Vec::new();
    let mut next = Some(tip);
    while let Some(id) = next {
        let commit = mirror.repository.find_commit(id)?;
        let ours = |of: &Signature<'_>| {
            of.name_bytes() == target.author.name.as_bytes() && of.email_bytes() == target.author.email.as_bytes()
        };
        let foreign = [commit.committer(), commit.author()].into_iter().find(|who| !ours(who)).map(|who| {
            format!("{} <{}>", String::from_utf8_lossy(who.name_bytes()), String::from_utf8_lossy(who.email_bytes()))
        });
        // Egret creates no merges and writes UTF-8: such a commit only uses its name.
        let foreign = foreign.or_else(|| {
            (commit.parent_count() > 1 || commit.message().is_err())
                .then(|| "another author who uses Egret's name".to_owned())
        });
        let verdict = own.check_commit(objects.read(id)?.data());
        let foreign = foreign.or_else(|| match &verdict {
            Ok(_) | Err(SignatureRejection::Missing) => None,
            Err(SignatureRejection::NoKeys | SignatureRejection::Unknown { .. }) => {
                Some("Egret, signed with a key other than the present one".to_owned())
            }
            Err(refused) => Some(format!("another author who uses Egret's name: {refused}")),
        });
        if let Some(by) = foreign {
            return Ok(Err((id, by)));
        }
        next = commit.parent_ids().next();
        commits.push(Report { commit, signed: verdict.is_ok() });
    }
    commits.reverse();
    Ok(Ok(commits))
}

/// How many of the oldest commits to fold; none if it does not pay off, since every compaction pushes the kept commits again.
fn commits_to_fold(history: &[Report<'_>], now: Timestamp, keep: Duration) -> Option<usize> {
    let age = |commit: &Commit<'_>| now.as_second().saturating_sub(commit.time().seconds());
    let keep = i64::try_from(keep.as_secs()).unwrap_or(i64::MAX);
    let fold = history.iter().take_while(|report| age(&report.commit) > keep).count();
    let oldest = history.first().map_or(0, |report| age(&report.commit));
    (fold > MANY || fold > 1 && oldest > keep.saturating_mul(2)).then_some(fold)
}

/// Creates the new commits; the first has the files of the last folded one. No reference leads to them yet.
fn recreate(
    mirror: &Mirror,
    target: &Target,
    history: &[Report<'_>],
    fold: usize,
) -> std::result::Result<Vec<Oid>, git2::Error> {
    let mut made: Vec<Oid> = Vec::new();
    let Some((last, folded)) = history.get(..fold).and_then(<[Report<'_>]>::split_last) else { return Ok(made) };
    let signer = |signed: bool| target.signer.as_ref().filter(|_| signed);
    let all_signed = last.signed && folded.iter().all(|report| report.signed);
    let last = &last.commit;
    let message =
        Folded::of(folded.first().map_or(last, |report| &report.commit), last, fold).message(&target.identity);
    // The time of the newest folded commit, so that times grow along the history.
    let by = signature(&target.author, last.time().seconds())?;
    let root = CommitSpec { author: &by, committer: &by, message: &message, tree: last.tree_id(), parent: None };
    made.push(make(mirror, signer(all_signed), &root)?);
    for Report { commit, signed } in &history[fold..] {
        let copy = CommitSpec {
            author: &commit.author(),
            committer: &commit.committer(),
            message: commit.message()?,
            tree: commit.tree_id(),
            parent: made.last().copied(),
        };
        made.push(make(mirror, signer(*signed), &copy)?);
    }
    Ok(made)
}

/// The message of the root commit: what was folded, earlier compactions included.
#[derive(Debug, PartialEq, Eq)]
struct Folded {
    count: usize,
    first: String,
    last: String,
    tip: String,
}

const COUNT: &str = "Egret-Folded-Commits: ";
const FIRST: &str = "Egret-Folded-From: ";

impl Folded {
    fn of(oldest: &Commit<'_>, newest: &Commit<'_>, fold: usize) -> Self {
        let time = |commit: &Commit<'_>| {
            Timestamp::from_second(commit.time().seconds()).unwrap_or(Timestamp::UNIX_EPOCH).to_string()
        };
        let message = oldest.message().unwrap_or_default().to_owned();
        let trailer = |key: &str| message.lines().find_map(|line| line.strip_prefix(key).map(str::to_owned));
        let earlier = trailer(COUNT).and_then(|count| count.parse::<usize>().ok());
        Self {
            // The root commit of an earlier compaction is not a report.
            count: fold.saturating_sub(usize::from(earlier.is_some())) + earlier.unwrap_or(0),
            first: trailer(FIRST).filter(|_| earlier.is_some()).unwrap_or_else(|| time(oldest)),
            last: time(newest),
            tip: newest.id().to_string(),
        }
    }

    fn message(&self, identity: &str) -> String {
        let Self { count, first, last, tip } = self;
        format!(
            "{count} earlier reports, folded into one\n\nThey are from {first} to {last}. The files are those of the last of them, \
             commit {tip}.\nreports.keep in egret.yaml says for how long each stays a commit of its own.\n\n\
             Egret-Cluster: {}\n{COUNT}{count}\n{FIRST}{first}\nEgret-Folded-To: {last}\nEgret-Folded-Tip: {tip}\n",
            identity.trim_end()
        )
    }
}
