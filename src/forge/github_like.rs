//! The API of GitHub, GitHub Enterprise, Gitea and Forgejo; a table holds the differences between them.
//!
//! GitHub: <https://docs.github.com/en/rest> (`issues/comments`, `commits/statuses`, `pulls/pulls`, `users/users`),
//! version 2022-11-28; `make test-openapi` checks these calls against GitHub's own description. Gitea:
//! <https://docs.gitea.com/api/> and <https://forgejo.org/docs/latest/user/api-usage/>; fields as in
//! `modules/structs` of their sources.
//!
//! Not here: check runs (see `check_runs`).

use serde_json::{Value, json};

use super::dialect::{Call, Comment, Dialect, LONGEST_DESCRIPTION, Status, number, sha, text, text_or_empty, time};
use super::error::ForgeErrorKind;
use super::{CheckConclusion, Post, Pull};
use crate::core::text::{shortened, url_part};
use crate::https::Method;

/// The differences. In paths, `{base}` is the branch and `{sha}` the commit.
#[derive(Debug)]
pub(super) struct Differences {
    /// The authentication scheme before the token.
    scheme: &'static str,
    /// Headers beside the token's.
    headers: &'static [(&'static str, &'static str)],
    /// Open pull requests.
    pulls: &'static str,
    /// The suffix after the path of a pull request's comments.
    comments: &'static str,
    /// Statuses of a commit.
    statuses: &'static str,
    /// The field of a status that is `state` when it is set.
    state: &'static str,
    /// The field with the id of a head's or base's repository. A head has none if its fork was deleted.
    repository: &'static str,
    /// The path before a pull request's number on the web site.
    page: &'static str,
}

pub(super) static GITHUB: Differences = Differences {
    scheme: "Bearer",
    headers: &[("accept", "application/vnd.github+json"), ("x-github-api-version", "2022-11-28")],
    pulls: "pulls?state=open&base={base}&per_page=100",
    comments: "?per_page=100",
    statuses: "commits/{sha}/statuses?per_page=100",
    state: "/state",
    repository: "/repo/id",
    page: "pull",
};

/// Older versions cannot filter by branch: the caller compares the base. All comments come in one page.
pub(super) static GITEA: Differences = Differences {
    scheme: "token",
    headers: &[("accept", "application/json")],
    pulls: "pulls?state=open&limit=50",
    comments: "",
    statuses: "statuses/{sha}?sort=recentupdate&limit=50",
    state: "/status",
    repository: "/repo_id",
    page: "pulls",
};

#[derive(Debug, Clone)]
pub(super) struct GitHubLike {
    /// `OWNER/NAME`, validated.
    pub(super) project: String,
    /// The web site.
    pub(super) site: String,
    pub(super) differences: &'static Differences,
}

impl GitHubLike {
    fn path(&self, rest: &str) -> String {
        format!("/repos/{}/{rest}", self.project)
    }
}

impl Dialect for GitHubLike {
    fn headers(&self, token: &str) -> Vec<(&'static str, String)> {
        let authorization = ("authorization", format!("{} {token}", self.differences.scheme));
        let others = self.differences.headers.iter().map(|(name, value)| (*name, (*value).to_owned()));
        [authorization].into_iter().chain(others).collect()
    }

    fn identity(&self) -> Call {
        Call::get("/user".to_owned())
    }

    fn login(&self, answer: &Value) -> Result<String, ForgeErrorKind> {
        text(answer, "/login")
    }

    fn pull(&self, pull: u64) -> Call {
        Call::get(self.path(&format!("pulls/{pull}")))
    }

    fn pulls(&self, base: &str) -> Call {
        Call::get(self.path(&self.differences.pulls.replace("{base}", &url_part(base))))
    }

    fn read_pull(&self, answer: &Value) -> Result<Pull, ForgeErrorKind> {
        let repository = |end: &str| answer.pointer(&format!("{end}{}", self.differences.repository));
        Ok(Pull {
            number: number(answer, "/number")?,
            title: text(answer, "/title")?,
            base: text(answer, "/base/ref")?,
            head_sha: sha(answer, "/head/sha")?,
            from_fork: repository("/head") != repository("/base"),
            draft: answer.pointer("/draft").and_then(Value::as_bool).unwrap_or(false),
            updated: time(answer, "/updated_at")?,
        })
    }

    fn comments(&self, pull: u64) -> Call {
        Call::get(self.path(&format!("issues/{pull}/comments{}", self.differences.comments)))
    }

    fn read_comment(&self, answer: &Value, _: &str) -> Result<Option<Comment>, ForgeErrorKind> {
        let url = text_or_empty(answer, "/html_url");
        let author = text_or_empty(answer, "/user/login");
        Ok(Some(Comment { id: number(answer, "/id")?, author, body: text_or_empty(answer, "/body"), url }))
    }

    fn create_comment(&self, pull: u64, body: &str) -> Call {
        Call::new(Method::POST, self.path(&format!("issues/{pull}/comments")), json!({ "body": body }))
    }

    fn update_comment(&self, _: u64, comment: u64, body: &str) -> Call {
        Call::new(Method::PATCH, self.path(&format!("issues/comments/{comment}")), json!({ "body": body }))
    }

    fn statuses(&self, sha: &str, _: &str) -> Call {
        Call::get(self.path(&self.differences.statuses.replace("{sha}", sha)))
    }

    fn read_status(&self, answer: &Value) -> Result<Status, ForgeErrorKind> {
        Ok(Status {
            id: number(answer, "/id")?,
            context: text(answer, "/context")?,
            state: text(answer, self.differences.state)?,
            description: text_or_empty(answer, "/description"),
            author: Some(text_or_empty(answer, "/creator/login")).filter(|author| !author.is_empty()),
        })
    }

    fn create_status(&self, sha: &str, context: &str, post: &Post) -> Call {
        let description = shortened(&post.summary, LONGEST_DESCRIPTION);
        let mut body = json!({ "state": self.state(post.verdict), "context": context, "description": description });
        if let Some(url) = &post.details {
            body["target_url"] = json!(url);
        }
        Call::new(Method::POST, self.path(&format!("statuses/{sha}")), body)
    }

    fn state(&self, verdict: CheckConclusion) -> &'static str {
        match verdict {
            CheckConclusion::Pending => "pending",
            CheckConclusion::Failed => "failure",
            CheckConclusion::Changes | CheckConclusion::NoChanges => "success",
        }
    }

    fn address(&self, pull: u64) -> String {
        format!("{}/{}/{}/{pull}", self.site, self.project, self.differences.page)
    }
}
