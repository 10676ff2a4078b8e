//! Check runs, which only GitHub has: <https://docs.github.com/en/rest/checks/runs>, version 2022-11-28. `make
//! test-openapi` checks these calls against GitHub's own description.
//!
//! Not here: comments and statuses (see `github_like`), and an App's token (see `app`).

use serde_json::{Value, json};

use super::dialect::Call;
use super::{Annotation, CheckConclusion, Post};
use crate::core::diagnostic::Severity;
use crate::core::text::url_part;
use crate::https::Method;

/// The most annotations in one request (`checks/runs`, "Create a check run").
pub(super) const MOST_ANNOTATIONS: usize = 50;
/// The most bytes of a check run's text; it has at most as many characters.
const LONGEST_TEXT: usize = 65_535;

/// The check runs of a repository on GitHub.
#[derive(Debug, Clone)]
pub(super) struct CheckRuns {
    /// `OWNER/NAME`, validated.
    pub(super) project: String,
}

impl CheckRuns {
    /// The newest check run with this name at a commit.
    pub(super) fn newest(&self, sha: &str, name: &str) -> Call {
        let name = url_part(name);
        Call::get(format!("/repos/{}/commits/{sha}/check-runs?check_name={name}&filter=latest", self.project))
    }

    /// The first request, with the first annotations; it completes the run if there are no more.
    pub(super) fn create(&self, sha: &str, name: &str, post: &Post, mark: &str) -> Call {
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

    /// More annotations: GitHub adds them to the existing ones.
    pub(super) fn go_on(&self, id: u64, post: &Post, more: &[Annotation], last: bool) -> Call {
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
