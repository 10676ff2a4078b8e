//! The posting procedure: read what is there, write what differs, and read again if it is not known whether a write
//! happened.
//!
//! Comments of others are never changed, whatever marker they bear. Nothing is deleted: of several comments of ours
//! the newest is updated.

use std::time::Duration;

use serde_json::Value;
use sha2::{Digest, Sha256};

use super::api::Api;
use super::check_runs::{CheckRuns, MOST_ANNOTATIONS};
use super::dialect::{Call, Comment, LONGEST_DESCRIPTION, Status, number, text_or_empty};
use super::error::{ForgeError, ForgeErrorKind, ForgeOperation};
use super::{CheckConclusion, Forge, Post, PostAction, Posted, Pull};
use crate::core::preview::marker;
use crate::core::text::shortened;

/// The most attempts to read and write one part.
const ROUNDS: usize = 4;
/// A forge may list a comment only a moment after it was written.
const MOMENT: Duration = Duration::from_secs(1);

pub(super) async fn open_pulls(forge: &Forge, api: &mut Api<'_>, base: &str) -> Result<Vec<Pull>, ForgeError> {
    let answers = api.list(ForgeOperation::Pulls, &forge.dialect.pulls(base), "").await?;
    let pulls: Result<Vec<Pull>, ForgeErrorKind> =
        answers.iter().map(|answer| forge.dialect.read_pull(answer)).collect();
    let mut pulls = pulls.map_err(|fault| api.failed(ForgeOperation::Pulls, fault))?;
    pulls.retain(|pull| pull.base == base);
    pulls.sort_by_key(|pull| pull.number);
    Ok(pulls)
}

pub(super) async fn post<'f>(
    forge: &'f Forge,
    api: &mut Api<'f>,
    number: u64,
    sha: &str,
    post: &Post,
) -> Result<Posted, ForgeError> {
    let author = identity(forge, api).await?;
    let answer = api.read(ForgeOperation::Pulls, &forge.dialect.pull(number)).await?;
    let pull = forge.dialect.read_pull(&answer).map_err(|fault| api.failed(ForgeOperation::Pulls, fault))?;
    let mut this = Posting { forge, api, pull: number, sha, post };
    let (status, setter) = this.status(author.is_some()).await?;
    let comment = if pull.head_sha == sha {
        let author = author.or(setter).or_else(|| forge.options.assumed_author.clone());
        let author = author.ok_or_else(|| this.api.failed(ForgeOperation::Identity, ForgeErrorKind::Nobody))?;
        this.comment(&author).await?
    } else {
        PostAction::Overtaken
    };
    let check = match &forge.check_runs {
        Some(check_runs) if forge.options.checks && post.verdict != CheckConclusion::Pending => {
            Some(this.check(check_runs).await?)
        }
        _ => None,
    };
    Ok(Posted { comment, status, check })
}

/// The token's login. An app's installation token, GITHUB_TOKEN for instance, may not query it.
async fn identity(forge: &Forge, api: &mut Api<'_>) -> Result<Option<String>, ForgeError> {
    if let Some(author) = &forge.options.author {
        return Ok(Some(author.clone()));
    }
    match api.read(ForgeOperation::Identity, &forge.dialect.identity()).await {
        Ok(answer) => {
            forge.dialect.login(&answer).map(Some).map_err(|fault| api.failed(ForgeOperation::Identity, fault))
        }
        Err(error) if matches!(error.fault, ForgeErrorKind::Refused { status: 403 | 404, .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

struct Posting<'p, 'f> {
    forge: &'f Forge,
    api: &'p mut Api<'f>,
    pull: u64,
    sha: &'p str,
    post: &'p Post,
}

impl Posting<'_, '_> {
    /// Sets the commit's status; returns our login if the answer reveals it. An existing status may be another
    /// user's: if the login has to come from the status, and the status is not by the assumed author, it is set
    /// again.
    async fn status(&mut self, known_author: bool) -> Result<(PostAction, Option<String>), ForgeError> {
        let dialect = self.forge.dialect.clone();
        let context = format!("egret/preview ({})", self.post.cluster);
        let state = dialect.state(self.post.verdict);
        let description = shortened(&self.post.summary, LONGEST_DESCRIPTION);
        let call = dialect.create_status(self.sha, &context, self.post);
        let place = dialect.address(self.pull);
        let mut wrote = false;
        let mut round = 0;
        loop {
            round += 1;
            let listed = match self.api.list(ForgeOperation::Status, &dialect.statuses(self.sha, &context), "").await {
                Err(error) if error.is_no() => return Ok((PostAction::Refused(error), None)),
                listed => listed?,
            };
            let read: Result<Vec<Status>, ForgeErrorKind> =
                listed.iter().map(|answer| dialect.read_status(answer)).collect();
            let read = read.map_err(|fault| self.api.failed(ForgeOperation::Status, fault))?;
            let newest = read.into_iter().filter(|one| one.context == context).max_by_key(|one| one.id);
            let known = newest.is_some();
            let assumed = &self.forge.options.assumed_author;
            let tells = |one: &Status| known_author || one.author.is_none() || one.author == *assumed;
            if newest.is_some_and(|one| one.state == state && one.description == description && tells(&one)) {
                return Ok((if wrote { PostAction::Created(place) } else { PostAction::Same(place) }, None));
            }
            match self.api.write(ForgeOperation::Status, &call).await {
                Ok(answer) => {
                    let setter = Some(text_or_empty(&answer, "/creator/login")).filter(|login| !login.is_empty());
                    return Ok((if known { PostAction::Updated(place) } else { PostAction::Created(place) }, setter));
                }
                Err(error) if error.is_no() => return Ok((PostAction::Refused(error), None)),
                Err(error) if !error.unknown() || round >= ROUNDS || !self.api.pause(MOMENT).await => {
                    return Err(error);
                }
                Err(_) => wrote = true,
            }
        }
    }

    /// Creates or updates the comment by this author with our marker.
    async fn comment(&mut self, author: &str) -> Result<PostAction, ForgeError> {
        if self.post.verdict == CheckConclusion::Pending {
            return Ok(PostAction::Unneeded);
        }
        let dialect = self.forge.dialect.clone();
        let mut tried = None;
        let mut round = 0;
        loop {
            round += 1;
            let listed = match self.api.list(ForgeOperation::ReadComments, &dialect.comments(self.pull), "").await {
                Err(error) if error.denied() => return Ok(PostAction::Refused(error)),
                listed => listed?,
            };
            let ours = self.ours(&listed, author)?;
            let (call, known) = match ours {
                Some(comment) if same(&comment.body, &self.post.body) => {
                    return Ok(match tried {
                        None => PostAction::Same(comment.url),
                        Some(false) => PostAction::Created(comment.url),
                        Some(true) => PostAction::Updated(comment.url),
                    });
                }
                Some(comment) => (dialect.update_comment(self.pull, comment.id, &self.post.body), true),
                None if self.post.verdict == CheckConclusion::NoChanges => return Ok(PostAction::Unneeded),
                None => (dialect.create_comment(self.pull, &self.post.body), false),
            };
            let error = match self.api.write(ForgeOperation::WriteComment, &call).await {
                Ok(answer) => return Ok(self.written(&answer, known)),
                Err(error) => error,
            };
            // Another user deleted it after it was read.
            let gone = known && matches!(error.fault, ForgeErrorKind::Refused { status: 404, .. }) && round == 1;
            if error.denied() && !gone {
                return Ok(PostAction::Refused(error));
            }
            if !(gone || error.unknown()) || round >= ROUNDS || !self.api.pause(MOMENT).await {
                return Err(error);
            }
            tried = (!gone).then_some(known);
        }
    }

    fn ours(&self, listed: &[Value], author: &str) -> Result<Option<Comment>, ForgeError> {
        let marker = marker(&self.post.cluster);
        let place = self.forge.dialect.address(self.pull);
        let comments: Result<Vec<Option<Comment>>, ForgeErrorKind> =
            listed.iter().map(|answer| self.forge.dialect.read_comment(answer, &place)).collect();
        let comments = comments.map_err(|fault| self.api.failed(ForgeOperation::ReadComments, fault))?;
        let mine = |one: &Comment| one.author.eq_ignore_ascii_case(author) && one.body.starts_with(&marker);
        Ok(comments.into_iter().flatten().filter(mine).max_by_key(|comment| comment.id))
    }

    fn written(&self, answer: &Value, known: bool) -> PostAction {
        let place = self.forge.dialect.address(self.pull);
        let comment = self.forge.dialect.read_comment(answer, &place).ok().flatten();
        let url = comment.map(|comment| comment.url).filter(|url| !url.is_empty()).unwrap_or(place);
        if known { PostAction::Updated(url) } else { PostAction::Created(url) }
    }

    /// The check run: one for each content, of which GitHub shows the newest.
    async fn check(&mut self, check_runs: &CheckRuns) -> Result<PostAction, ForgeError> {
        let name = format!("egret preview ({})", self.post.cluster);
        let mark = mark(self.post);
        let mut tried = false;
        let mut round = 0;
        loop {
            round += 1;
            let listed =
                match self.api.list(ForgeOperation::Check, &check_runs.newest(self.sha, &name), "/check_runs").await {
                    Err(error) if error.is_no() => return Ok(PostAction::Refused(error)),
                    listed => listed?,
                };
            let is_same = |one: &&Value| {
                text_or_empty(one, "/external_id") == mark && text_or_empty(one, "/status") == "completed"
            };
            if let Some(same) = listed.iter().find(is_same) {
                let url = text_or_empty(same, "/html_url");
                return Ok(if tried { PostAction::Created(url) } else { PostAction::Same(url) });
            }
            match self.write_check(check_runs, &name, &mark).await {
                Ok(url) => return Ok(PostAction::Created(url)),
                Err(error) if error.is_no() => return Ok(PostAction::Refused(error)),
                Err(error) if !error.unknown() || round >= ROUNDS || !self.api.pause(MOMENT).await => {
                    return Err(error);
                }
                Err(_) => tried = true,
            }
        }
    }

    async fn write_check(&mut self, check_runs: &CheckRuns, name: &str, mark: &str) -> Result<String, ForgeError> {
        let first = self.api.write(ForgeOperation::Check, &check_runs.create(self.sha, name, self.post, mark)).await?;
        let id = number(&first, "/id").map_err(|fault| self.api.failed(ForgeOperation::Check, fault))?;
        let rest = self.post.annotations.get(MOST_ANNOTATIONS..).unwrap_or_default();
        let batches: Vec<_> = rest.chunks(MOST_ANNOTATIONS).collect();
        for (index, more) in batches.iter().enumerate() {
            let last = index + 1 == batches.len();
            let call: Call = check_runs.go_on(id, self.post, more, last);
            self.api.write(ForgeOperation::Check, &call).await?;
        }
        Ok(text_or_empty(&first, "/html_url"))
    }
}

/// Forges may change line ends.
fn same(there: &str, here: &str) -> bool {
    there.trim_end().lines().eq(here.trim_end().lines())
}

/// Identifies the content of a check run.
fn mark(post: &Post) -> String {
    // Without the details page: its address differs in each run.
    let content = (post.verdict, &post.title, &post.summary, &post.body, &post.annotations);
    hex::encode(&Sha256::digest(format!("{content:?}"))[..16])
}
