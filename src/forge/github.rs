//! GitHub, and GitHub Enterprise: <https://docs.github.com/en/rest> (`issues/comments`, `commits/statuses`, `checks/runs`, `pulls/pulls`,
//! `users/users`), version 2022-11-28. `make test-openapi` holds these calls against GitHub's own description.
//!
//! Deliberately absent: reviews, GraphQL, and making an app's token.

use serde_json::{Value, json};

use super::dialect::{Call, Comment, Dialect, Status, encoded, number, sha, shortened, text, text_or_empty, time};
use super::error::ForgeErrorKind;
use super::{Annotation, CheckConclusion, Post, Pull};
use crate::core::diagnostic::Severity;
use crate::https::Method;

/// The most annotations of one request (`checks/runs`, "Create a check run").
pub(super) const MOST_ANNOTATIONS: usize = 50;
/// The most bytes of a check run's text; in characters it is as many or fewer.
const LONGEST_TEXT: usize = 65_535;

#[derive(Debug, Clone)]
pub(super) struct GitHub {
    /// `OWNER/NAME`, checked.
    pub(super) project: String,
    /// For people.
    pub(super) site: String,
}

impl Dialect for GitHub {
    fn headers(&self, token: &str) -> Vec<(&'static str, String)> {
        vec![
            ("authorization", format!("Bearer {token}")),
            ("accept", "application/vnd.github+json".to_owned()),
            ("x-github-api-version", "2022-11-28".to_owned()),
        ]
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

    fn pulls(&self, base: &str) -> Call {
        Call::get(format!("/repos/{}/pulls?state=open&base={}&per_page=100", self.project, encoded(base)))
    }

    fn read_pull(&self, answer: &Value) -> Result<Pull, ForgeErrorKind> {
        Ok(Pull {
            number: number(answer, "/number")?,
            title: text(answer, "/title")?,
            base: text(answer, "/base/ref")?,
            head_sha: sha(answer, "/head/sha")?,
            // The head has no repository any more where its fork was deleted.
            from_fork: answer.pointer("/head/repo/id") != answer.pointer("/base/repo/id"),
            draft: answer.pointer("/draft").and_then(Value::as_bool).unwrap_or(false),
            updated: time(answer, "/updated_at")?,
        })
    }

    fn comments(&self, pull: u64) -> Call {
        Call::get(format!("/repos/{}/issues/{pull}/comments?per_page=100", self.project))
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
        Call::get(format!("/repos/{}/commits/{sha}/statuses?per_page=100", self.project))
    }

    fn read_status(&self, answer: &Value) -> Result<Status, ForgeErrorKind> {
        Ok(Status {
            id: number(answer, "/id")?,
            context: text(answer, "/context")?,
            state: text(answer, "/state")?,
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
        format!("{}/{}/pull/{pull}", self.site, self.project)
    }

    /// "Validation failed: description is too long (maximum is 140 characters)".
    fn longest_description(&self) -> usize {
        140
    }
}

impl GitHub {
    /// The newest check run of that name at a commit.
    pub(super) fn checks(&self, sha: &str, name: &str) -> Call {
        let name = encoded(name);
        Call::get(format!("/repos/{}/commits/{sha}/check-runs?check_name={name}&filter=latest", self.project))
    }

    /// The first request, with the first annotations; it completes the run where there are no more.
    pub(super) fn create_check(&self, sha: &str, name: &str, post: &Post, mark: &str) -> Call {
        let complete = post.annotations.len() <= MOST_ANNOTATIONS;
        let first = &post.annotations[..post.annotations.len().min(MOST_ANNOTATIONS)];
        let mut body = json!({
            "name": name,
            "head_sha": sha,
            "external_id": mark,
            "status": if complete { "completed" } else { "in_progress" },
            "output": output(post, first),
        });
        if complete {
            body["conclusion"] = json!(conclusion(post.verdict));
        }
        if let Some(url) = &post.details {
            body["details_url"] = json!(url);
        }
        Call::new(Method::POST, format!("/repos/{}/check-runs", self.project), body)
    }

    /// More annotations: they are added to those that are there.
    pub(super) fn continue_check(&self, id: u64, post: &Post, more: &[Annotation], last: bool) -> Call {
        let mut body =
            json!({ "status": if last { "completed" } else { "in_progress" }, "output": output(post, more) });
        if last {
            body["conclusion"] = json!(conclusion(post.verdict));
        }
        Call::new(Method::PATCH, format!("/repos/{}/check-runs/{id}", self.project), body)
    }
}

fn conclusion(verdict: CheckConclusion) -> &'static str {
    match verdict {
        CheckConclusion::Failed => "failure",
        CheckConclusion::Pending | CheckConclusion::Changes => "neutral",
        CheckConclusion::NoChanges => "success",
    }
}

fn output(post: &Post, annotations: &[Annotation]) -> Value {
    let annotations: Vec<Value> = annotations.iter().map(annotation).collect();
    let mut output = json!({ "title": post.title, "summary": post.summary, "annotations": annotations });
    if post.body.len() <= LONGEST_TEXT {
        output["text"] = json!(post.body);
    }
    output
}

fn annotation(one: &Annotation) -> Value {
    let level = match one.severity {
        Severity::Error => "failure",
        Severity::Warning => "warning",
    };
    json!({
        "path": one.file,
        "start_line": one.line,
        "end_line": one.end_line.max(one.line),
        "annotation_level": level,
        "title": one.title,
        "message": one.message,
    })
}
