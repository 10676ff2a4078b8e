//! The API of GitLab: <https://docs.gitlab.com/api/> (`notes`, `commits` for statuses, `merge_requests`, `users`;
//! `rest` for tokens, whose "OAuth-compliant headers" any kind of token may use, and for paths, in which a project's
//! `/` is `%2F`).
//!
//! Job tokens are not supported, as they may not write notes.

use serde_json::{Value, json};

use super::dialect::{Call, Comment, Dialect, LONGEST_DESCRIPTION, Status, number, sha, text, text_or_empty, time};
use super::error::ForgeErrorKind;
use super::{CheckConclusion, Post, Pull};
use crate::core::text::{shortened, url_part};
use crate::https::Method;

#[derive(Debug, Clone)]
pub(super) struct GitLab {
    /// `GROUP/NAME`, or the project's number.
    pub(super) project: String,
    pub(super) site: String,
    /// The pipeline for statuses. Without it, GitLab looks for one, and creates one if there is none.
    pub(super) pipeline: Option<u64>,
}

impl GitLab {
    fn path(&self, rest: &str) -> String {
        format!("/projects/{}/{rest}", url_part(&self.project))
    }
}

impl Dialect for GitLab {
    fn headers(&self, token: &str) -> Vec<(&'static str, String)> {
        vec![("authorization", format!("Bearer {token}")), ("accept", "application/json".to_owned())]
    }

    fn identity(&self) -> Call {
        Call::get("/user".to_owned())
    }

    fn login(&self, answer: &Value) -> Result<String, ForgeErrorKind> {
        text(answer, "/username")
    }

    fn pull(&self, pull: u64) -> Call {
        Call::get(self.path(&format!("merge_requests/{pull}")))
    }

    fn pulls(&self, base: &str) -> Call {
        let query = format!("state=opened&target_branch={}&per_page=100", url_part(base));
        Call::get(self.path(&format!("merge_requests?{query}")))
    }

    fn read_pull(&self, answer: &Value) -> Result<Pull, ForgeErrorKind> {
        Ok(Pull {
            number: number(answer, "/iid")?,
            title: text(answer, "/title")?,
            base: text(answer, "/target_branch")?,
            head_sha: sha(answer, "/sha")?,
            from_fork: answer.pointer("/source_project_id") != answer.pointer("/target_project_id"),
            draft: answer.pointer("/draft").and_then(Value::as_bool).unwrap_or(false),
            updated: time(answer, "/updated_at")?,
        })
    }

    fn comments(&self, pull: u64) -> Call {
        Call::get(self.path(&format!("merge_requests/{pull}/notes?sort=asc&order_by=created_at&per_page=100")))
    }

    fn read_comment(&self, answer: &Value, pull: &str) -> Result<Option<Comment>, ForgeErrorKind> {
        // System notes: "changed the title", and the like.
        if answer.pointer("/system").and_then(Value::as_bool) == Some(true) {
            return Ok(None);
        }
        let id = number(answer, "/id")?;
        let author = text_or_empty(answer, "/author/username");
        Ok(Some(Comment { id, author, body: text_or_empty(answer, "/body"), url: format!("{pull}#note_{id}") }))
    }

    fn create_comment(&self, pull: u64, body: &str) -> Call {
        Call::new(Method::POST, self.path(&format!("merge_requests/{pull}/notes")), json!({ "body": body }))
    }

    fn update_comment(&self, pull: u64, comment: u64, body: &str) -> Call {
        Call::new(Method::PUT, self.path(&format!("merge_requests/{pull}/notes/{comment}")), json!({ "body": body }))
    }

    fn statuses(&self, sha: &str, context: &str) -> Call {
        let query = format!("name={}&per_page=100", url_part(context));
        Call::get(self.path(&format!("repository/commits/{sha}/statuses?{query}")))
    }

    fn read_status(&self, answer: &Value) -> Result<Status, ForgeErrorKind> {
        Ok(Status {
            id: number(answer, "/id")?,
            context: text(answer, "/name")?,
            state: text(answer, "/status")?,
            description: text_or_empty(answer, "/description"),
            author: None,
        })
    }

    fn create_status(&self, sha: &str, context: &str, post: &Post) -> Call {
        let description = shortened(&post.summary, LONGEST_DESCRIPTION);
        let mut body = json!({ "state": self.state(post.verdict), "name": context, "description": description });
        if let Some(url) = post.details.as_ref().filter(|url| url.len() <= 255) {
            body["target_url"] = json!(url);
        }
        if let Some(pipeline) = self.pipeline {
            body["pipeline_id"] = json!(pipeline);
        }
        Call::new(Method::POST, self.path(&format!("statuses/{sha}")), body)
    }

    fn state(&self, verdict: CheckConclusion) -> &'static str {
        match verdict {
            CheckConclusion::Pending => "pending",
            CheckConclusion::Failed => "failed",
            CheckConclusion::Changes | CheckConclusion::NoChanges => "success",
        }
    }

    fn address(&self, pull: u64) -> String {
        format!("{}/{}/-/merge_requests/{pull}", self.site, self.project)
    }
}
