//! Gitea and Forgejo: <https://docs.gitea.com/api/> and <https://forgejo.org/docs/latest/user/api-usage/>; fields as in
//! `modules/structs` of their sources (a status says `state` where it is set, and `status` where it is read).
//!
//! Deliberately absent: reviews; paging of comments, which come all at once.

use serde_json::{Value, json};

use super::dialect::{Call, Comment, Dialect, Status, number, sha, shortened, text, text_or_empty, time};
use super::error::ForgeErrorKind;
use super::{CheckConclusion, Post, Pull};
use crate::https::Method;

#[derive(Debug, Clone)]
pub(super) struct Gitea {
    /// `OWNER/NAME`, checked.
    pub(super) project: String,
    pub(super) site: String,
}

impl Dialect for Gitea {
    fn headers(&self, token: &str) -> Vec<(&'static str, String)> {
        vec![("authorization", format!("token {token}")), ("accept", "application/json".to_owned())]
    }

    fn identity(&self) -> Call {
        Call::get("/user".to_owned())
    }

    fn login(&self, answer: &Value) -> Result<String, ForgeErrorKind> {
        text(answer, "/login")
    }

    fn pull(&self, pull: u64) -> Call {
        Call::get(format!("/repos/{}/pulls/{pull}", self.project))
    }

    /// Older ones know no filter by branch: the caller looks at the base.
    fn pulls(&self, _: &str) -> Call {
        Call::get(format!("/repos/{}/pulls?state=open&limit=50", self.project))
    }

    fn read_pull(&self, answer: &Value) -> Result<Pull, ForgeErrorKind> {
        Ok(Pull {
            number: number(answer, "/number")?,
            title: text(answer, "/title")?,
            base: text(answer, "/base/ref")?,
            head_sha: sha(answer, "/head/sha")?,
            from_fork: answer.pointer("/head/repo_id") != answer.pointer("/base/repo_id"),
            draft: answer.pointer("/draft").and_then(Value::as_bool).unwrap_or(false),
            updated: time(answer, "/updated_at")?,
        })
    }

    fn comments(&self, pull: u64) -> Call {
        Call::get(format!("/repos/{}/issues/{pull}/comments", self.project))
    }

    fn read_comment(&self, answer: &Value, _: &str) -> Result<Option<Comment>, ForgeErrorKind> {
        let url = text_or_empty(answer, "/html_url");
        let author = text_or_empty(answer, "/user/login");
        Ok(Some(Comment { id: number(answer, "/id")?, author, body: text_or_empty(answer, "/body"), url }))
    }

    fn create_comment(&self, pull: u64, body: &str) -> Call {
        Call::new(Method::POST, format!("/repos/{}/issues/{pull}/comments", self.project), json!({ "body": body }))
    }

    fn update_comment(&self, _: u64, comment: u64, body: &str) -> Call {
        let path = format!("/repos/{}/issues/comments/{comment}", self.project);
        Call::new(Method::PATCH, path, json!({ "body": body }))
    }

    fn statuses(&self, sha: &str, _: &str) -> Call {
        Call::get(format!("/repos/{}/statuses/{sha}?sort=recentupdate&limit=50", self.project))
    }

    fn read_status(&self, answer: &Value) -> Result<Status, ForgeErrorKind> {
        Ok(Status {
            id: number(answer, "/id")?,
            context: text(answer, "/context")?,
            state: text(answer, "/status")?,
            description: text_or_empty(answer, "/description"),
            author: Some(text_or_empty(answer, "/creator/login")).filter(|author| !author.is_empty()),
        })
    }

    fn create_status(&self, sha: &str, context: &str, post: &Post) -> Call {
        let path = format!("/repos/{}/statuses/{sha}", self.project);
        let description = shortened(&post.summary, self.longest_description());
        let mut body = json!({ "state": self.state(post.verdict), "context": context, "description": description });
        if let Some(url) = &post.details {
            body["target_url"] = json!(url);
        }
        Call::new(Method::POST, path, body)
    }

    fn state(&self, verdict: CheckConclusion) -> &'static str {
        match verdict {
            CheckConclusion::Pending => "pending",
            CheckConclusion::Failed => "failure",
            CheckConclusion::Changes | CheckConclusion::NoChanges => "success",
        }
    }

    fn address(&self, pull: u64) -> String {
        format!("{}/{}/pulls/{pull}", self.site, self.project)
    }

    fn longest_description(&self) -> usize {
        140
    }
}
