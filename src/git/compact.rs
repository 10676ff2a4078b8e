//! The reports branch stays small: commits older than a given age are folded into one root commit, newer ones are made again on top of it.
//!
//! By compare-and-swap, as every report: who commits meanwhile wins, and the branch is as it was. Deliberately absent: folding what somebody
//! else committed, signing what Egret did not sign, deleting objects on the server (its own `git gc` does), and when to try (`reconcile::publisher`).

use std::time::Duration;

use git2::{Commit, Oid, Signature};
use jiff::Timestamp;

use super::CommitId;
use super::error::Result;
use super::mirror::Mirror;
use super::publish::{Made, Target, check_branch, make, push, read_branch, signature};
use super::remote::Pushed;
use super::signing::Signer;
use crate::core::signature::SignatureRejection;

/// Folding has to save this many commits, or the oldest has to be twice as old as what is kept.
pub const MANY: usize = 1_000;

/// What became of the history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Compacted {
    /// There is nothing to gain yet.
    NotYet,
    /// Somebody else committed to the branch: their commit is not touched, and so nothing below it is.
    Others {
        /// The newest such commit.
        commit: CommitId,
        /// Who.
        by: String,
    },
    /// The branch is at this commit now; its files are the same.
    Done {
        /// The last commit.
        commit: CommitId,
        /// So many became one.
        folded: usize,
        /// So many were made again.
        kept: usize,
    },
    /// Somebody committed meanwhile.
    Overtaken,
    /// The repository takes no other history for the branch, and says this.
    Refused(String),
}

/// Folds what is older than `keep` at the target's time. The mirror must not be behind by more than it can fetch.
///
/// Errors: those of [`super::publish::publish`] about the branch and its source. After an error the branch is as it was.
pub fn compact(mirror: &mut Mirror, target: &Target, keep: Duration) -> Result<Compacted> {
    check_branch(target)?;
    let Some(tip) = mirror.tip_of(&target.branch)? else { return Ok(Compacted::NotYet) };
    read_branch(mirror, target, Some(tip))?;
    let fault = |source| mirror.fault("fold the history of reports", source);
    let (objects, folded) = match fresh(mirror, target, tip, keep).map_err(fault)? {
        Ok(fresh) => fresh,
        Err(instead) => return Ok(instead),
    };
    let Some(last) = objects.last().copied() else { return Ok(Compacted::NotYet) };
    match push(mirror, target, Some(tip), last, &objects)? {
        Pushed::Done => {
            mirror.note_pushed(&target.branch, last)?;
            Ok(Compacted::Done { commit: CommitId::new(last), folded, kept: objects.len() - 1 })
        }
        Pushed::Overtaken => Ok(Compacted::Overtaken),
        Pushed::Refused(_) if mirror.tip_of(&target.branch)? != Some(tip) => Ok(Compacted::Overtaken),
        Pushed::Refused(why) => Ok(Compacted::Refused(why)),
    }
}

/// The commits of the shorter history, and how many the first of them stands for; or why there is none.
type Fresh = std::result::Result<(Vec<Oid>, usize), Compacted>;

fn fresh(mirror: &Mirror, target: &Target, tip: Oid, keep: Duration) -> std::result::Result<Fresh, git2::Error> {
    let history = match history(mirror, target, tip)? {
        Ok(history) => history,
        Err((commit, by)) => return Ok(Err(Compacted::Others { commit: CommitId::new(commit), by })),
    };
    let Some(fold) = worth(&history, target.time, keep) else { return Ok(Err(Compacted::NotYet)) };
    Ok(Ok((again(mirror, target, &history, fold)?, fold)))
}

/// A commit of ours.
struct Report<'r> {
    commit: Commit<'r>,
    /// By the key that is given now. What is not may be anybody's who can push, and gets no signature by being made again.
    signed: bool,
}

/// The branch's commits, the oldest first; or one that is not ours, and whose it is.
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
        let stranger = [commit.committer(), commit.author()].into_iter().find(|who| !ours(who)).map(|who| {
            format!("{} <{}>", String::from_utf8_lossy(who.name_bytes()), String::from_utf8_lossy(who.email_bytes()))
        });
        // Egret makes no merge and writes UTF-8: such a commit only bears its name.
        let stranger = stranger.or_else(|| {
            (commit.parent_count() > 1 || commit.message().is_err()).then(|| "somebody in Egret's name".to_owned())
        });
        let verdict = own.check_commit(objects.read(id)?.data());
        let stranger = stranger.or_else(|| match &verdict {
            Ok(_) | Err(SignatureRejection::Missing) => None,
            Err(SignatureRejection::NoKeys | SignatureRejection::Unknown { .. }) => {
                Some("Egret, signed by a key that is not given now".to_owned())
            }
            Err(refused) => Some(format!("somebody in Egret's name: {refused}")),
        });
        if let Some(by) = stranger {
            return Ok(Err((id, by)));
        }
        next = commit.parent_ids().next();
        commits.push(Report { commit, signed: verdict.is_ok() });
    }
    commits.reverse();
    Ok(Ok(commits))
}

/// How many of the oldest commits to fold; none where it does not pay: each time, what is kept is sent anew.
fn worth(history: &[Report<'_>], now: Timestamp, keep: Duration) -> Option<usize> {
    let age = |commit: &Commit<'_>| now.as_second().saturating_sub(commit.time().seconds());
    let keep = i64::try_from(keep.as_secs()).unwrap_or(i64::MAX);
    let fold = history.iter().take_while(|report| age(&report.commit) > keep).count();
    let oldest = history.first().map_or(0, |report| age(&report.commit));
    (fold > MANY || fold > 1 && oldest > keep.saturating_mul(2)).then_some(fold)
}

/// Makes the commits anew; the first is what the folded ones came to. Nothing points to them yet.
fn again(
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
    // The time of the newest that is in it, so that the history's times go on growing.
    let by = signature(&target.author, last.time().seconds())?;
    let root = Made { author: &by, committer: &by, message: &message, tree: last.tree_id(), parent: None };
    made.push(make(mirror, signer(all_signed), &root)?);
    for Report { commit, signed } in &history[fold..] {
        let copy = Made {
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

/// What is said of the commits that were folded, those of an earlier time included.
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
            // The root that holds them is no report.
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
