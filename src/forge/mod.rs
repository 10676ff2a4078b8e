//! Posts previews to GitHub, GitLab, Gitea and Forgejo: a comment, a commit status and a check run.
//!
//! An edge: the content was decided before. The current state is read before each write, so that the same preview
//! posted twice is written once, and a write whose answer was lost is not repeated. Calls block, for a time that
//! `patience` limits, and must not be made on a thread that runs a tokio runtime. Redirects are not followed. Not
//! here: Git (see `git`) and webhooks (see `serve`).

mod api;
pub mod app;
mod check_runs;
mod dialect;
mod error;
mod github_like;
mod gitlab;
mod post;
mod posting;

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use self::api::Api;
use self::check_runs::CheckRuns;
use self::dialect::Dialect;
pub use self::error::{ForgeError, ForgeErrorKind, ForgeOperation};
use self::github_like::{GITEA, GITHUB, GitHubLike};
use self::gitlab::GitLab;
pub use self::post::{Annotation, CheckConclusion, Post};
use crate::https;
use crate::secret::Secret;

/// The forge's kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ForgeKind {
    /// github.com and GitHub Enterprise.
    GitHub,
    /// gitlab.com and self-managed GitLab.
    GitLab,
    /// Gitea and Forgejo.
    Gitea,
}

/// Provides the token. It is called once for each call, so that a rotated token is used; it may block, and its error
/// text explains why there is no token.
pub type Token = Arc<dyn Fn() -> Result<Secret, String> + Send + Sync>;

/// The forge, the repository, and the connection.
#[derive(Debug, Clone)]
pub struct ForgeOptions {
    /// The forge's kind.
    pub kind: ForgeKind,
    /// The API's root, or the forge's address, from which the root is derived. None: github.com or gitlab.com.
    pub url: Option<String>,
    /// `OWNER/NAME`; for GitLab also `GROUP/SUBGROUP/NAME` or the project's number.
    pub project: String,
    /// The login that the token's comments have, if it is known: an app's installation token cannot query it.
    pub author: Option<String>,
    /// The login to assume if neither the token nor a status that this very call set with it reveals the login.
    pub assumed_author: Option<String>,
    /// GitLab: the pipeline for statuses.
    pub pipeline: Option<u64>,
    /// Whether to write a check run if the forge has them.
    pub checks: bool,
    /// Options of the HTTP client.
    pub https: https::ClientOptions,
    /// The longest time that a call may wait and retry in all.
    pub patience: Duration,
}

impl ForgeOptions {
    /// A repository of a forge with default options.
    pub fn new(kind: ForgeKind, project: impl Into<String>) -> Self {
        let limits = https::RequestLimits { total: Duration::from_secs(30), ..https::RequestLimits::default() };
        Self {
            kind,
            url: None,
            project: project.into(),
            author: None,
            assumed_author: None,
            pipeline: None,
            checks: true,
            https: https::ClientOptions { limits, ..https::ClientOptions::default() },
            patience: Duration::from_mins(2),
        }
    }
}

/// An open pull request (merge request).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pull {
    /// Its number in the repository.
    pub number: u64,
    /// Its title: untrusted text.
    pub title: String,
    /// The target branch.
    pub base: String,
    /// Its newest commit.
    pub head_sha: String,
    /// Whether that commit is in another repository, whose author may lack write access to this one.
    pub from_fork: bool,
    /// Whether it is a draft.
    pub draft: bool,
    /// When it last changed, comments included.
    pub updated: Timestamp,
}

/// The results of a post.
#[derive(Debug)]
pub struct Posted {
    /// The comment's result.
    pub comment: PostAction,
    /// The commit status' result.
    pub status: PostAction,
    /// The check run's result. None if the forge has none, or none was requested.
    pub check: Option<PostAction>,
}

/// The result for one part. The texts are web addresses.
#[derive(Debug)]
pub enum PostAction {
    /// It did not exist.
    Created(String),
    /// It had another content.
    Updated(String),
    /// It exists with the same content: nothing was written.
    Same(String),
    /// Nothing changes, and there is no earlier comment to correct.
    Unneeded,
    /// The pull request has a newer head by now, whose own run will post.
    Overtaken,
    /// The forge refused it: the token lacks a permission, for instance.
    Refused(ForgeError),
}

/// A repository on a forge.
#[derive(Clone)]
pub struct Forge {
    options: ForgeOptions,
    /// Without a trailing slash.
    root: String,
    dialect: Arc<dyn Dialect>,
    /// Only for GitHub.
    check_runs: Option<CheckRuns>,
    token: Token,
}

impl std::fmt::Debug for Forge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Forge")
            .field("root", &self.root)
            .field("project", &self.options.project)
            .finish_non_exhaustive()
    }
}

impl Forge {
    /// A repository on a forge. Nothing is sent yet.
    pub fn new(options: ForgeOptions, token: Token) -> Result<Self, ForgeError> {
        let wrong = |what: String| ForgeError {
            act: ForgeOperation::Pulls,
            place: options.project.clone(),
            kind: options.kind,
            fault: ForgeErrorKind::Setup(what),
        };
        if !is_project(options.kind, &options.project) {
            return Err(wrong("a project is OWNER/NAME, of letters, digits and `-_.`".to_owned()));
        }
        let (root, site) = root_and_site(options.kind, options.url.as_deref()).map_err(wrong)?;
        let project = options.project.clone();
        let check_runs = CheckRuns { project: project.clone() };
        let (dialect, check_runs): (Arc<dyn Dialect>, _) = match options.kind {
            ForgeKind::GitHub => (Arc::new(GitHubLike { project, site, differences: &GITHUB }), Some(check_runs)),
            ForgeKind::Gitea => (Arc::new(GitHubLike { project, site, differences: &GITEA }), None),
            ForgeKind::GitLab => (Arc::new(GitLab { project, site, pipeline: options.pipeline }), None),
        };
        Ok(Self { options, root, dialect, check_runs, token })
    }

    /// Open pull requests into a branch, by number.
    pub fn open_pulls(&self, base: &str) -> Result<Vec<Pull>, ForgeError> {
        self.run(ForgeOperation::Pulls, async |api| posting::open_pulls(self, api, base).await)
    }

    /// Posts to a pull request at a head. Content that is there already is not posted again.
    pub fn post(&self, pull: u64, head_sha: &str, post: &Post) -> Result<Posted, ForgeError> {
        self.run(ForgeOperation::WriteComment, async |api| posting::post(self, api, pull, head_sha, post).await)
    }

    /// The web page of a pull request.
    pub fn page(&self, pull: u64) -> String {
        self.dialect.address(pull)
    }

    fn run<'f, T>(
        &'f self,
        act: ForgeOperation,
        what: impl AsyncFnOnce(&mut Api<'f>) -> Result<T, ForgeError>,
    ) -> Result<T, ForgeError> {
        // Before the runtime starts: it may read a file, or request a token with a runtime of its own.
        let token = (self.token)().map_err(|why| self.failed(act, ForgeErrorKind::Token(why)))?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime =
            runtime.map_err(|error| self.failed(act, ForgeErrorKind::Setup(format!("no runtime: {error}"))))?;
        let mut api = Api::new(self, self.dialect.as_ref(), token)?;
        runtime.block_on(what(&mut api))
    }

    fn failed(&self, act: ForgeOperation, fault: ForgeErrorKind) -> ForgeError {
        let host = self.root.split("://").nth(1).and_then(|rest| rest.split('/').next()).unwrap_or(&self.root);
        ForgeError { act, place: format!("{host}/{}", self.options.project), kind: self.options.kind, fault }
    }
}

/// Only characters that need no escaping in a path, so that no project leads to another path.
fn is_project(kind: ForgeKind, project: &str) -> bool {
    let part = |part: &str| {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        !part.is_empty() && part.bytes().all(plain) && part != "." && part != ".."
    };
    let parts = project.split('/').count();
    let enough = match kind {
        ForgeKind::GitLab => parts >= 2 || project.bytes().all(|byte| byte.is_ascii_digit()),
        ForgeKind::GitHub | ForgeKind::Gitea => parts == 2,
    };
    enough && project.split('/').all(part)
}

/// The API's root, and the web site.
fn root_and_site(kind: ForgeKind, url: Option<&str>) -> Result<(String, String), String> {
    let (suffix, usual) = match kind {
        ForgeKind::GitHub => ("/api/v3", Some("https://api.github.com")),
        ForgeKind::GitLab => ("/api/v4", Some("https://gitlab.com")),
        ForgeKind::Gitea => ("/api/v1", None),
    };
    let url = url.or(usual).ok_or("a forge of one's own has an address: name it by --forge-url")?;
    let url = url.trim_end_matches('/');
    let (scheme, rest) = url.split_once("://").ok_or("a forge's address starts with https://")?;
    if rest.is_empty() || rest.contains(['@', '?', '#', ' ']) {
        return Err("a forge's address is https://HOST, with a path at most".to_owned());
    }
    if kind == ForgeKind::GitHub && matches!(rest, "github.com" | "api.github.com") {
        return Ok((format!("{scheme}://api.github.com"), format!("{scheme}://github.com")));
    }
    if let Some(site) = url.strip_suffix(suffix) {
        return Ok((url.to_owned(), site.to_owned()));
    }
    // GitHub Enterprise Cloud with data residency has API hosts of its own: https://api.OCTOCORP.ghe.com.
    if let Some(host) = rest.strip_prefix("api.").filter(|_| kind == ForgeKind::GitHub) {
        return Ok((url.to_owned(), format!("{scheme}://{host}")));
    }
    Ok((format!("{url}{suffix}"), url.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forges_address_or_its_apis_root_are_both_understood() {
        let both = |kind, url: Option<&str>| root_and_site(kind, url).expect("an address");
        let pair = |root: &str, site: &str| (root.to_owned(), site.to_owned());
        assert_eq!(both(ForgeKind::GitHub, None), pair("https://api.github.com", "https://github.com"));
        assert_eq!(
            both(ForgeKind::GitHub, Some("https://github.com/")),
            pair("https://api.github.com", "https://github.com")
        );
        assert_eq!(
            both(ForgeKind::GitHub, Some("https://ghe.example")),
            pair("https://ghe.example/api/v3", "https://ghe.example")
        );
        assert_eq!(
            both(ForgeKind::GitHub, Some("https://api.corp.ghe.com")),
            pair("https://api.corp.ghe.com", "https://corp.ghe.com")
        );
        assert_eq!(both(ForgeKind::GitLab, None), pair("https://gitlab.com/api/v4", "https://gitlab.com"));
        let gitea = pair("https://git.example/forge/api/v1", "https://git.example/forge");
        assert_eq!(both(ForgeKind::Gitea, Some("https://git.example/forge/api/v1/")), gitea);
        assert_eq!(both(ForgeKind::Gitea, Some("https://git.example/forge")), gitea);
        for (kind, url) in [
            (ForgeKind::Gitea, None),
            (ForgeKind::GitHub, Some("ghe.example")),
            (ForgeKind::GitLab, Some("https://u:p@h")),
        ] {
            assert!(root_and_site(kind, url).is_err(), "{url:?}");
        }
    }

    #[test]
    fn a_project_leads_nowhere_else() {
        assert!(is_project(ForgeKind::GitHub, "mos-eisley/policies.git_1"));
        assert!(is_project(ForgeKind::GitLab, "a/b/c") && is_project(ForgeKind::GitLab, "42"));
        for project in ["policies", "a/b/c", "a/..", "a/b?c", "/b", "a/b%2f", ""] {
            assert!(!is_project(ForgeKind::Gitea, project), "{project}");
        }
        assert!(!is_project(ForgeKind::GitLab, "a/../b"));
    }
}
