//! The reports branch: an orphan branch in the policy repository that only Egret writes, by compare-and-swap, so that no commit of another
//! client is ever overwritten.
//!
//! Not here: the content of a report (`core::report`), the wait between two tries (the caller's `pause`), and `compact`.

use std::collections::BTreeMap;

use git2::{Oid, Signature, Time};
use jiff::Timestamp;

use super::commit::CommitId;
use super::error::{Error, Result};
use super::exchange::{PushOutcome, PushRequest};
use super::mirror::Mirror;
use super::revision::is_branch_name;
use super::signing::{Signer, store};
use super::tree;

/// The file that names the cluster that owns the branch.
pub const MARKER: &str = ".egret-reports";
/// The most tries of one report, if other clients push first.
pub const MOST_TRIES: u32 = 5;

/// Where reports are pushed, and by which author.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The reports branch, without `refs/heads/`.
    pub branch: String,
    /// The branch that policies are read from; reports are never pushed there.
    pub policy_branch: String,
    /// The content of the file [`MARKER`]: the cluster's name. A branch with other content there belongs to another owner.
    pub identity: String,
    /// The author and committer.
    pub author: Author,
    /// The time of the commit.
    pub time: Timestamp,
    /// The signing key, if commits are signed.
    pub signer: Option<Signer>,
}

/// An author and committer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Author {
    /// The name, without `<` and `>`.
    pub name: String,
    /// The address.
    pub email: String,
}

impl Default for Author {
    fn default() -> Self {
        Self { name: "Egret".to_owned(), email: "egret@localhost".to_owned() }
    }
}

/// The present state of the branch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BranchState {
    /// Its last commit; none: the branch does not exist yet.
    pub tip: Option<CommitId>,
    /// Its files without [`MARKER`]; text only.
    pub files: BTreeMap<String, String>,
}

/// The desired state of the branch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Draft {
    /// All its files, path to content, without [`MARKER`]. Other files of the branch are removed.
    pub files: BTreeMap<String, String>,
    /// The commit's message: a subject, an empty line, a body.
    pub message: String,
    /// Trailers of the message: `Egret-Policy-Commit: 1234`. Newlines in them become spaces.
    pub trailers: Vec<(String, String)>,
}

/// The outcome of [`publish`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PublishOutcome {
    /// The branch is at a new commit.
    Committed {
        /// The new commit.
        commit: CommitId,
        /// 1 if no other client pushed first.
        tries: u32,
    },
    /// The branch has exactly these files already: no commit.
    Unchanged,
    /// `replan` returned nothing to publish.
    Declined,
}

/// Commits a report to the reports branch of the mirror's source.
///
/// `replan` computes the desired state from the present one; it is called again whenever another client pushed first, after `pause` was
/// called with the number of tries so far.
///
/// Errors: [`Error::BadReportsBranch`], [`Error::BadReportFile`], [`Error::ForeignBranch`], [`Error::ReadOnly`],
/// [`Error::LostRace`] after [`MOST_TRIES`], and everything about the source. After an error the branch is as it was.
pub fn publish(
    mirror: &mut Mirror,
    target: &Target,
    replan: &mut dyn FnMut(&BranchState) -> Option<Draft>,
    pause: &mut dyn FnMut(u32),
) -> Result<PublishOutcome> {
    check_branch(target)?;
    for tries in 1..=MOST_TRIES {
        let tip = mirror.tip_of(&target.branch)?;
        let state = read_branch(mirror, target, tip)?;
        let Some(draft) = replan(&state) else { return Ok(PublishOutcome::Declined) };
        let Some(prepared) = prepare(mirror, target, tip, &draft)? else { return Ok(PublishOutcome::Unchanged) };
        match push(mirror, target, tip, prepared.commit, &prepared.objects)? {
            PushOutcome::Updated => {
                mirror.note_pushed(&target.branch, prepared.commit)?;
                return Ok(PublishOutcome::Committed { commit: CommitId::new(prepared.commit), tries });
            }
            // Servers report a lost race in different words; if the branch has moved, it was one.
            PushOutcome::Rejected(why) if mirror.tip_of(&target.branch)? == tip => {
                let (repository, branch) = (mirror.source().to_string(), target.branch.clone());
                return Err(Error::ReadOnly { repository, branch, why });
            }
            PushOutcome::Rejected(_) | PushOutcome::Stale => {}
        }
        if tries < MOST_TRIES {
            pause(tries);
        }
    }
    Err(Error::LostRace { repository: mirror.source().to_string(), branch: target.branch.clone(), tries: MOST_TRIES })
}

pub(super) fn check_branch(target: &Target) -> Result<()> {
    let (branch, policy_branch) = (&target.branch, &target.policy_branch);
    let bad = |why| Err(Error::BadReportsBranch { branch: branch.clone(), why });
    let inside = |outer: &str, inner: &str| inner.strip_prefix(outer).is_some_and(|rest| rest.starts_with('/'));
    if !is_branch_name(branch) {
        bad("it cannot be the name of a branch")
    } else if branch == policy_branch {
        bad("policies are read from it")
    } else if inside(branch, policy_branch) || inside(policy_branch, branch) {
        bad("Git cannot have it beside the branch that policies are read from: one is a folder of the other")
    } else {
        Ok(())
    }
}

/// The state of the branch. Error: [`Error::ForeignBranch`] if it belongs to another owner.
pub(super) fn read_branch(mirror: &Mirror, target: &Target, tip: Option<Oid>) -> Result<BranchState> {
    let Some(tip) = tip else { return Ok(BranchState::default()) };
    let fault = |source| mirror.fault("read the reports branch", source);
    let tree = mirror.repository.find_commit(tip).and_then(|commit| commit.tree()).map_err(fault)?;
    let foreign = |why| {
        let (repository, branch) = (mirror.source().to_string(), target.branch.clone());
        Err(Error::ForeignBranch { repository, branch, why })
    };
    // The marker first: a foreign branch may be large, and is not read.
    let marker =
        tree.get_name(MARKER).map(|entry| mirror.repository.find_blob(entry.id())).transpose().map_err(fault)?;
    match marker {
        None => return foreign(format!("it has no file {MARKER}")),
        Some(marker) if marker.content() != identity(target).as_bytes() => {
            let text = String::from_utf8_lossy(marker.content());
            return foreign(format!("its {MARKER} says {:?}", text.trim_end()));
        }
        Some(_) => {}
    }
    let mut files = tree::read(&mirror.repository, &tree).map_err(fault)?;
    files.remove(MARKER);
    Ok(BranchState { tip: Some(CommitId::new(tip)), files })
}

fn identity(target: &Target) -> String {
    format!("{}\n", target.identity.trim_end())
}

/// A commit in the mirror's object database that no reference leads to yet.
struct Prepared {
    commit: Oid,
    objects: Vec<Oid>,
}

/// Writes tree and commit; none if the branch has that tree already.
fn prepare(mirror: &Mirror, target: &Target, tip: Option<Oid>, draft: &Draft) -> Result<Option<Prepared>> {
    let identity = identity(target);
    let mut files = BTreeMap::from([(MARKER, identity.as_str())]);
    for (path, content) in &draft.files {
        tree::check_path(path)?;
        files.insert(path, content);
    }
    check_folders(&files)?;
    let write = || -> std::result::Result<Option<Prepared>, git2::Error> {
        let repository = &mirror.repository;
        let written = tree::write(repository, &files)?;
        let parent = tip.map(|tip| repository.find_commit(tip)).transpose()?;
        if parent.as_ref().is_some_and(|parent| parent.tree_id() == written.tree) {
            return Ok(None);
        }
        let by = signature(&target.author, target.time.as_second())?;
        let message = message(draft);
        let commit = make(
            mirror,
            target.signer.as_ref(),
            &CommitSpec { author: &by, committer: &by, message: &message, tree: written.tree, parent: tip },
        )?;
        let objects = written.objects.into_iter().chain([commit]).collect();
        Ok(Some(Prepared { commit, objects }))
    };
    write().map_err(|source| mirror.fault("write a report", source))
}

/// A name cannot be a file's and a folder's at once.
fn check_folders(files: &BTreeMap<&str, &str>) -> Result<()> {
    for path in files.keys() {
        let mut folders = path.match_indices('/').map(|(end, _)| &path[..end]);
        if let Some(folder) = folders.find(|folder| files.contains_key(folder)) {
            return Err(Error::BadReportFile {
                path: folder.to_owned(),
                why: "another file is in a folder of that name",
            });
        }
    }
    Ok(())
}

/// The parts of a new commit.
pub(super) struct CommitSpec<'a> {
    pub(super) author: &'a Signature<'a>,
    pub(super) committer: &'a Signature<'a>,
    pub(super) message: &'a str,
    pub(super) tree: Oid,
    pub(super) parent: Option<Oid>,
}

/// Creates a commit that no reference leads to yet, signed if there is a key: the one place for new reports and for those that `compact`
/// recreates.
pub(super) fn make(
    mirror: &Mirror,
    signer: Option<&Signer>,
    commit: &CommitSpec<'_>,
) -> std::result::Result<Oid, git2::Error> {
    let repository = &mirror.repository;
    let tree = repository.find_tree(commit.tree)?;
    let parent = commit.parent.map(|parent| repository.find_commit(parent)).transpose()?;
    let parents: Vec<_> = parent.iter().collect();
    let bytes = repository.commit_create_buffer(commit.author, commit.committer, commit.message, &tree, &parents)?;
    store(repository, signer, &bytes)
}

/// An author at a second of the epoch.
pub(super) fn signature(author: &Author, second: i64) -> std::result::Result<Signature<'static>, git2::Error> {
    Signature::new(&author.name, &author.email, &Time::new(second, 0))
}

/// Moves the branch to a commit if it is still at `tip`.
pub(super) fn push(
    mirror: &Mirror,
    target: &Target,
    tip: Option<Oid>,
    commit: Oid,
    objects: &[Oid],
) -> Result<PushOutcome> {
    let name = format!("refs/heads/{}", target.branch);
    mirror.remote().push(&mirror.repository, &PushRequest { commit, objects, name: &name, expected: tip })
}

fn message(draft: &Draft) -> String {
    let mut message = format!("{}\n", draft.message.trim_end());
    if !draft.trailers.is_empty() {
        message.push('\n');
    }
    for (key, value) in &draft.trailers {
        let value = value.split_whitespace().collect::<Vec<_>>().join(" ");
        message.extend([key.as_str(), ": ", value.as_str(), "\n"]);
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(branch: &str, policy_branch: &str) -> Target {
        Target {
            branch: branch.to_owned(),
            policy_branch: policy_branch.to_owned(),
            identity: "kind".to_owned(),
            author: Author::default(),
            time: Timestamp::UNIX_EPOCH,
            signer: None,
        }
    }

    #[test]
    fn reports_never_go_to_the_policy_branch_nor_to_a_name_that_conflicts_with_it() {
        assert!(check_branch(&target("egret/reports/kind", "main")).is_ok());
        assert!(check_branch(&target("egret/reports/kind", "egret/reports/kin")).is_ok());
        for (branch, policy_branch) in
            [("main", "main"), ("main/reports", "main"), ("team", "team/main"), ("a..b", "main"), ("", "main")]
        {
            assert!(check_branch(&target(branch, policy_branch)).is_err(), "{branch:?} beside {policy_branch:?}");
        }
    }

    #[test]
    fn trailers_stand_apart_at_the_end_and_are_one_line_each() {
        let trailers =
            vec![("Egret-Node".to_owned(), "kind-worker".to_owned()), ("Egret-Why".to_owned(), "a\nb".to_owned())];
        let draft = Draft { files: BTreeMap::new(), message: "Drift on kind-worker\n\nA rule.\n".to_owned(), trailers };
        assert_eq!(message(&draft), "Drift on kind-worker\n\nA rule.\n\nEgret-Node: kind-worker\nEgret-Why: a b\n");
    }
}
