//! Options of `egret controller` for previews of pull requests. `egret preview --post` has its own (`post`).

use std::path::PathBuf;
use std::sync::Arc;

use super::args::{Repository, is_loopback};
use super::output::Failure;
use super::post::{ForgeArg, token_in};
use crate::forge::app::TokenPurpose;
use crate::forge::{self, Forge, ForgeKind, Token};
use crate::reconcile::gitops::pulls::ForgeTarget;
use crate::secret::Secret;
use crate::telemetry::chain;

/// Where pull requests are previewed, if anywhere.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Pull requests")]
pub(super) struct PullRequestArgs {
    /// Preview open pull requests of the policy repository on this forge, and post each preview: a comment, a commit status, on GitHub
    /// a check run. Forgejo is `gitea`.
    #[arg(long, value_name = "FORGE", env = "EGRET_PREVIEWS", value_enum)]
    previews: Option<ForgeArg>,
    /// The forge's address, or its API's root [default: github.com or gitlab.com].
    #[arg(long, value_name = "URL", env = "EGRET_FORGE_URL", requires = "previews")]
    forge_url: Option<String>,
    /// The repository on the forge [default: from the policy repository's address].
    #[arg(long, value_name = "OWNER/NAME", env = "EGRET_PROJECT", requires = "previews")]
    project: Option<String>,
    /// A file with a token for the forge, read for each request. A GitHub App needs none.
    #[arg(long, value_name = "FILE", env = "EGRET_FORGE_TOKEN_FILE", requires = "previews")]
    forge_token_file: Option<PathBuf>,
    /// The author of the token's comments, where the forge's API does not return it.
    #[arg(long, value_name = "LOGIN", env = "EGRET_FORGE_AUTHOR", requires = "previews")]
    forge_author: Option<String>,
    /// The certificate authorities of the forge, in PEM [default: those of --git-ca-file].
    #[arg(long, value_name = "FILE", env = "EGRET_FORGE_CA_FILE", requires = "previews")]
    forge_ca_file: Option<PathBuf>,
    /// An HTTP proxy for the forge, http://[user:password@]host:port [default: that of --git-proxy].
    #[arg(long, value_name = "URL", env = "EGRET_FORGE_PROXY", hide_env_values = true, requires = "previews")]
    forge_proxy: Option<String>,
}

impl PullRequestArgs {
    /// The forge, with credentials; none without --previews.
    pub(super) fn board(&self, repository: Repository<'_>) -> Result<Option<ForgeTarget>, Failure> {
        let Some(kind) = self.previews.map(ForgeKind::from) else { return Ok(None) };
        let failed =
            |what: &str, hint: &str| Failure::new(format!("preview pull requests: {what}"), Some(hint.to_owned()));
        let source = repository.source()?;
        let project = self
            .project
            .clone()
            .or_else(|| source.place().map(|(_, path)| path))
            .ok_or_else(|| failed("the repository on the forge is not known", "name it by --project OWNER/NAME"))?;
        let mut options = forge::ForgeOptions::new(kind, project);
        options.https.plain = self.forge_url.as_deref().is_some_and(is_loopback);
        options.https.roots = self.forge_ca_file.clone().or_else(|| repository.ca_file());
        options.https.proxy = self.forge_proxy.clone().map(Secret::new).or_else(|| repository.proxy());
        options.url.clone_from(&self.forge_url);
        options.author.clone_from(&self.forge_author);
        let app = match (&self.forge_token_file, kind) {
            (None, ForgeKind::GitHub) => repository.app(options.https.clone(), &options.project)?,
            _ => None,
        };
        let token: Token = match (&app, self.forge_token_file.clone()) {
            (Some(app), _) => {
                let app = Arc::clone(app);
                Arc::new(move || {
                    app.token(TokenPurpose::Pulls).map_err(|error| match error.hint() {
                        Some(hint) => format!("{}; {hint}", chain(&error)),
                        None => chain(&error),
                    })
                })
            }
            (None, Some(path)) => token_in(path),
            (None, None) => {
                return Err(failed(
                    "there is no token for the forge",
                    "name a file by --forge-token-file, or a GitHub App",
                ));
            }
        };
        let forge = Forge::new(options, token).map_err(|error| {
            let hint = error.hint();
            Failure::new(error, hint)
        })?;
        Ok(Some(ForgeTarget { forge, kind, app }))
    }
}
