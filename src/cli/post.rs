//! `egret preview --post`: the pull request, the token, and the result of posting.
//!
//! In CI all of it is found in the environment; options take precedence. A token that may not write is no failure: pull requests from
//! forks have such a one, and the preview is then printed instead.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use serde_json::Value;

use super::args::is_loopback;
use super::output::{self, Failure, Verbosity};
use crate::core::preview::Preview;
use crate::forge::{self, Forge, ForgeKind, Post, PostAction, Token};
use crate::secret::Secret;

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Pull requests")]
pub(super) struct PostArgs {
    /// Post the preview to a pull request: a comment that is kept up to date, a commit status, on GitHub a check run. In CI, forge and
    /// pull request are found in the environment.
    #[arg(long)]
    pub(super) post: bool,
    /// Which forge the repository is on. Forgejo is `gitea`.
    #[arg(long, value_name = "KIND", value_enum, requires = "post")]
    forge: Option<ForgeArg>,
    /// The forge's address, or its API's root [default: github.com or gitlab.com].
    #[arg(long, value_name = "URL", requires = "post")]
    forge_url: Option<String>,
    /// The repository on the forge.
    #[arg(long, value_name = "OWNER/NAME", requires = "post")]
    project: Option<String>,
    /// The number of the pull request.
    #[arg(long, value_name = "N", requires = "post")]
    pull: Option<u64>,
    /// A file with the token [default: the environment variable EGRET_FORGE_TOKEN; in GitHub's, Gitea's and Forgejo's CI also GITHUB_TOKEN].
    #[arg(long, value_name = "FILE", env = "EGRET_FORGE_TOKEN_FILE")]
    forge_token_file: Option<PathBuf>,
    /// The author of the token's comments, where the forge's API does not return it: `egret[bot]` for an app of that name.
    #[arg(long, value_name = "LOGIN", env = "EGRET_FORGE_AUTHOR")]
    forge_author: Option<String>,
    /// The certificate authorities of the forge, in PEM [default: the system's].
    #[arg(long, value_name = "FILE", env = "EGRET_FORGE_CA_FILE")]
    forge_ca_file: Option<PathBuf>,
    /// An HTTP proxy for the forge, http://[user:password@]host:port [default: none].
    #[arg(long, value_name = "URL", env = "EGRET_FORGE_PROXY", hide_env_values = true)]
    forge_proxy: Option<String>,
}

/// Which forge, on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum ForgeArg {
    Github,
    Gitlab,
    Gitea,
}

impl From<ForgeArg> for ForgeKind {
    fn from(kind: ForgeArg) -> Self {
        match kind {
            ForgeArg::Github => Self::GitHub,
            ForgeArg::Gitlab => Self::GitLab,
            ForgeArg::Gitea => Self::Gitea,
        }
    }
}

/// Where a CI run is, as far as its environment has it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Place {
    kind: Option<ForgeKind>,
    url: Option<String>,
    project: Option<String>,
    pull: Option<u64>,
    /// The head that people see; what is checked out may be a merge that the forge made.
    head: Option<String>,
    pipeline: Option<u64>,
    /// The run's page.
    details: Option<String>,
    /// The variables that may hold a token, and whom comments with the forge's own token are by.
    tokens: &'static [&'static str],
    author: Option<&'static str>,
}

/// Variables by name; empty ones are none.
type Environment<'e> = &'e dyn Fn(&str) -> Option<String>;

impl Place {
    /// The variables are those of docs.github.com/actions/reference/variables-reference, docs.gitlab.com/ci/variables/predefined_variables,
    /// docs.gitea.com/usage/actions and forgejo.org/docs/latest/user/actions, whose runners set GitHub's too.
    fn of(environment: Environment<'_>, read: &dyn Fn(&str) -> Option<Value>) -> Self {
        if environment("GITLAB_CI").is_some() {
            return Self::gitlab(environment);
        }
        if environment("GITHUB_ACTIONS").is_none() && environment("GITEA_ACTIONS").is_none() {
            return Self::default();
        }
        let (kind, author) = match (environment("GITEA_ACTIONS"), environment("FORGEJO_ACTIONS")) {
            (_, Some(_)) => (ForgeKind::Gitea, "forgejo-actions"),
            (Some(_), None) => (ForgeKind::Gitea, "gitea-actions"),
            (None, None) => (ForgeKind::GitHub, "github-actions[bot]"),
        };
        let event = environment("GITHUB_EVENT_PATH").and_then(|path| read(&path)).unwrap_or_default();
        let by_reference = || environment("GITHUB_REF")?.strip_prefix("refs/pull/")?.split('/').next()?.parse().ok();
        let project = environment("GITHUB_REPOSITORY");
        let run = [environment("GITHUB_SERVER_URL"), project.clone(), environment("GITHUB_RUN_ID")];
        let details = match run {
            [Some(server), Some(project), Some(run)] => Some(format!("{server}/{project}/actions/runs/{run}")),
            _ => None,
        };
        Self {
            kind: Some(kind),
            url: environment("GITHUB_API_URL"),
            project,
            pull: event.pointer("/pull_request/number").and_then(Value::as_u64).or_else(by_reference),
            head: event.pointer("/pull_request/head/sha").and_then(Value::as_str).map(str::to_owned),
            pipeline: None,
            details,
            tokens: &["GITHUB_TOKEN", "GITEA_TOKEN", "FORGEJO_TOKEN"],
            author: Some(author),
        }
    }

    fn gitlab(environment: Environment<'_>) -> Self {
        // A merge request from a fork has its pipeline in the fork.
        let here = environment("CI_PROJECT_ID");
        let project = environment("CI_MERGE_REQUEST_PROJECT_ID").or_else(|| here.clone());
        let pipeline = environment("CI_PIPELINE_ID").and_then(|id| id.parse().ok()).filter(|_| project == here);
        Self {
            kind: Some(ForgeKind::GitLab),
            url: environment("CI_API_V4_URL"),
            project,
            pull: environment("CI_MERGE_REQUEST_IID").and_then(|iid| iid.parse().ok()),
            // Set where what is checked out is a merge that GitLab made.
            head: environment("CI_MERGE_REQUEST_SOURCE_BRANCH_SHA").or_else(|| environment("CI_COMMIT_SHA")),
            pipeline,
            details: environment("CI_JOB_URL"),
            tokens: &[],
            author: None,
        }
    }
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn json_file(path: &str) -> Option<Value> {
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}

/// A forge, a pull request, and its head.
#[derive(Debug)]
pub(super) struct Target {
    forge: Forge,
    pull: u64,
    head: Option<String>,
    details: Option<String>,
}

impl PostArgs {
    /// Where to post; none without --post. Read before anything is computed.
    pub(super) fn target(&self) -> Result<Option<Target>, Failure> {
        if self.post { self.found(Place::of(&variable, &json_file), &variable).map(Some) } else { Ok(None) }
    }

    fn found(&self, place: Place, environment: Environment<'_>) -> Result<Target, Failure> {
        let missing = |what: &str, flag: &str| {
            Failure::new(
                format!("post the preview: {what} is not known"),
                Some(format!("name it by {flag}, or run in a forge's CI for pull requests")),
            )
        };
        let kind = self.forge.map(ForgeKind::from).or(place.kind).ok_or_else(|| missing("the forge", "--forge"))?;
        // The environment of another forge is of no use for this one.
        let place = if place.kind == Some(kind) { place } else { Place::default() };
        let project = self.project.clone().or(place.project).ok_or_else(|| missing("the repository", "--project"))?;
        let pull = self.pull.or(place.pull).ok_or_else(|| missing("the pull request", "--pull"))?;
        let (token, own) = self.token(place.tokens, environment)?;
        let url = self.forge_url.clone().or(place.url);
        let mut options = forge::ForgeOptions::new(kind, project);
        options.https.plain = url.as_deref().is_some_and(is_loopback);
        options.https.roots.clone_from(&self.forge_ca_file);
        options.https.proxy = self.forge_proxy.clone().map(Secret::new);
        options.url = url;
        options.author.clone_from(&self.forge_author);
        options.assumed_author = place.author.filter(|_| own).map(str::to_owned);
        options.pipeline = place.pipeline;
        let forge = Forge::new(options, token).map_err(failure)?;
        Ok(Target { forge, pull, head: place.head, details: place.details })
    }

    /// The token, and whether it is the forge's own of this run.
    fn token(&self, names: &[&str], environment: Environment<'_>) -> Result<(Token, bool), Failure> {
        if let Some(path) = self.forge_token_file.clone() {
            return Ok((token_in(path), false));
        }
        let given = environment("EGRET_FORGE_TOKEN").map(|token| (token, false));
        let own = || names.iter().find_map(|name| environment(name)).map(|token| (token, true));
        let (token, own) = given.or_else(own).ok_or_else(|| {
            let hint = "name a file by --forge-token-file, or set EGRET_FORGE_TOKEN; GitHub's CI has `env: {GITHUB_TOKEN: ${{ github.token }}}`";
            Failure::new("post the preview: there is no token", Some(hint.to_owned()))
        })?;
        let secret = Secret::new(token.trim().to_owned());
        Ok((Arc::new(move || Ok(secret.clone())), own))
    }
}

/// A token in a file, read anew each time.
pub(super) fn token_in(path: PathBuf) -> Token {
    Arc::new(move || match std::fs::read_to_string(&path) {
        Ok(text) if !text.trim().is_empty() => Ok(Secret::new(text.trim().to_owned())),
        Ok(_) => Err(format!("{} is empty", path.display())),
        Err(error) => Err(format!("cannot read {}: {error}", path.display())),
    })
}

fn failure(error: forge::ForgeError) -> Failure {
    let hint = error.hint();
    Failure::new(error, hint)
}

impl Target {
    /// Posts, and notes the result on standard error. Where the token may not write, the comment is put where it can be read instead.
    pub(super) fn post(&self, preview: &Preview<'_>, head: &str, verbosity: &Verbosity) -> Result<(), Failure> {
        let post = Post::of(preview, self.details.clone());
        let posted = match self.forge.post(self.pull, self.head.as_deref().unwrap_or(head), &post) {
            Err(error) if error.denied() => return instead(&post, error, verbosity),
            posted => posted.map_err(failure)?,
        };
        report("commit status", posted.status, verbosity);
        if let Some(check) = posted.check {
            report("check run", check, verbosity);
        }
        match posted.comment {
            PostAction::Refused(error) => instead(&post, error, verbosity),
            done => {
                report("comment", done, verbosity);
                Ok(())
            }
        }
    }
}

/// The comment on the run's page, or in its log.
fn instead(post: &Post, error: forge::ForgeError, verbosity: &Verbosity) -> Result<(), Failure> {
    report("comment", PostAction::Refused(error), verbosity);
    let Some(path) = variable("GITHUB_STEP_SUMMARY") else { return output::print(&post.body) };
    let written = OpenOptions::new().append(true).create(true).open(&path);
    written
        .and_then(|mut file| file.write_all(post.body.as_bytes()))
        .map_err(|error| Failure::new(format!("write to {path}: {error}"), None))?;
    output::note("the comment is on the run's summary page instead", verbosity);
    Ok(())
}

fn report(what: &str, done: PostAction, verbosity: &Verbosity) {
    let note = |text: String| output::note(&text, verbosity);
    match done {
        PostAction::Created(url) => note(format!("{what} created: {url}")),
        PostAction::Updated(url) => note(format!("{what} updated: {url}")),
        PostAction::Same(url) => note(format!("{what} is up to date: {url}")),
        PostAction::Unneeded => note(format!("no {what}: nothing changes")),
        PostAction::Overtaken => note(format!("no {what}: the pull request has a newer head")),
        PostAction::Refused(error) => {
            let (error, hint) = failure(error).parts();
            note(format!("no {what}: {error}"));
            if let Some(hint) = hint {
                note(format!("hint: {hint}"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::json;

    use super::*;

    fn place(variables: &[(&str, &str)], event: &Value) -> Place {
        let variables: BTreeMap<&str, &str> = variables.iter().copied().collect();
        Place::of(&|name| variables.get(name).map(|value| (*value).to_owned()), &|path| {
            (path == "/event").then(|| event.clone())
        })
    }

    #[test]
    fn github_is_known_by_its_environment_and_its_event() {
        let variables = [
            ("GITHUB_ACTIONS", "true"),
            ("GITHUB_REPOSITORY", "mos-eisley/policies"),
            ("GITHUB_API_URL", "https://api.github.com"),
            ("GITHUB_SERVER_URL", "https://github.com"),
            ("GITHUB_RUN_ID", "7"),
            ("GITHUB_EVENT_PATH", "/event"),
            ("GITHUB_REF", "refs/pull/12/merge"),
        ];
        let found = place(&variables, &json!({"pull_request": {"number": 11, "head": {"sha": "abc"}}}));
        let expected = Place {
            kind: Some(ForgeKind::GitHub),
            url: Some("https://api.github.com".to_owned()),
            project: Some("mos-eisley/policies".to_owned()),
            pull: Some(11),
            head: Some("abc".to_owned()),
            pipeline: None,
            details: Some("https://github.com/mos-eisley/policies/actions/runs/7".to_owned()),
            tokens: &["GITHUB_TOKEN", "GITEA_TOKEN", "FORGEJO_TOKEN"],
            author: Some("github-actions[bot]"),
        };
        assert_eq!(found, expected);
        let no_event = place(&variables, &Value::Null);
        assert_eq!((no_event.pull, no_event.head), (Some(12), None));
        let kind = |more: &[(&str, &str)]| {
            let found = place(&[&variables[..], more].concat(), &Value::Null);
            (found.kind, found.author)
        };
        assert_eq!(kind(&[("GITEA_ACTIONS", "true")]), (Some(ForgeKind::Gitea), Some("gitea-actions")));
        let forgejo = [("GITEA_ACTIONS", "true"), ("FORGEJO_ACTIONS", "true")];
        assert_eq!(kind(&forgejo), (Some(ForgeKind::Gitea), Some("forgejo-actions")));
    }

    #[test]
    fn gitlab_is_known_by_its_environment_also_in_a_forks_pipeline() {
        let variables = [
            ("GITLAB_CI", "true"),
            ("CI_API_V4_URL", "https://gitlab.example/api/v4"),
            ("CI_PROJECT_ID", "42"),
            ("CI_MERGE_REQUEST_IID", "3"),
            ("CI_COMMIT_SHA", "abc"),
            ("CI_PIPELINE_ID", "99"),
            ("CI_JOB_URL", "https://gitlab.example/job"),
        ];
        let expected = Place {
            kind: Some(ForgeKind::GitLab),
            url: Some("https://gitlab.example/api/v4".to_owned()),
            project: Some("42".to_owned()),
            pull: Some(3),
            head: Some("abc".to_owned()),
            pipeline: Some(99),
            details: Some("https://gitlab.example/job".to_owned()),
            ..Place::default()
        };
        assert_eq!(place(&variables, &Value::Null), expected);
        let fork = [("CI_MERGE_REQUEST_PROJECT_ID", "7"), ("CI_MERGE_REQUEST_SOURCE_BRANCH_SHA", "def")];
        let expected =
            Place { project: Some("7".to_owned()), pipeline: None, head: Some("def".to_owned()), ..expected };
        assert_eq!(place(&[&variables[..], &fork].concat(), &Value::Null), expected);
        assert_eq!(place(&[], &Value::Null), Place::default());
    }
}
