//! Options of `egret controller` for previews of pull requests.
//!
//! Deliberately absent: `egret preview --post`, which finds itself in a CI's environment (`posting`), and tokens on the command line.

use std::path::PathBuf;
use std::sync::Arc;

use super::options::RepositoryOptions;
use super::output::Failure;
use super::posting::{ForgeArg, is_loopback, token_in};
use crate::forge::app::TokenPurpose;
use crate::forge::{self, Forge, ForgeKind, Token};
use crate::reconcile::gitops::pulls::ForgeTarget;
use crate::secret::Secret;
use crate::telemetry::chain;

/// Where pull requests are previewed, if anywhere.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct PreviewsOptions {
    /// Preview open pull requests of the policy repository on this forge, and post what they would do: a comment, a commit status, on GitHub
    /// a check run. Forgejo is `gitea`.
    #[arg(long, value_name = "FORGE", env = "EGRET_PREVIEWS", value_enum)]
    previews: Option<ForgeArg>,
    /// The forge's address, or its API's root; github.com or gitlab.com otherwise.
    #[arg(long, value_name = "URL", env = "EGRET_FORGE_URL", requires = "previews")]
    forge_url: Option<String>,
    /// The repository on the forge; what the policy repository's address says otherwise.
    #[arg(long, value_name = "OWNER/NAME", env = "EGRET_PROJECT", requires = "previews")]
    project: Option<String>,
    /// A file with a token for the forge, read anew each time; a GitHub App needs none.
    #[arg(long, value_name = "FILE", env = "EGRET_FORGE_TOKEN_FILE", requires = "previews")]
    forge_token_file: Option<PathBuf>,
    /// Whom the token's comments are by, where it does not say itself.
    #[arg(long, value_name = "LOGIN", env = "EGRET_FORGE_AUTHOR", requires = "previews")]
    forge_author: Option<String>,
    /// The authorities that the forge's certificate may be by, in PEM; those of --ca-file otherwise.
    #[arg(long, value_name = "FILE", env = "EGRET_FORGE_CA_FILE", requires = "previews")]
    forge_ca_file: Option<PathBuf>,
    /// An HTTP proxy for the forge, http://[user:password@]host:port; that of --git-proxy otherwise.
    #[arg(long, value_name = "URL", env = "EGRET_FORGE_PROXY", hide_env_values = true, requires = "previews")]
    forge_proxy: Option<String>,
}

impl PreviewsOptions {
    /// The forge, and how we get in; none where nobody wants previews.
    pub(super) fn board(&self, repository: &RepositoryOptions) -> Result<Option<ForgeTarget>, Failure> {
        let Some(kind) = self.previews.map(ForgeKind::from) else { return Ok(None) };
        let failed =
            |what: &str, hint: &str| Failure::new(format!("preview pull requests: {what}"), Some(hint.to_owned()));
        let source = repository.source()?;
        let project = self.project.clone().or_else(|| source.place().map(|(_, path)| path)).ok_or_else(|| {
            failed("it is not known which repository of the forge it is", "name it by --project OWNER/NAME")
        })?;
        let mut options = forge::ForgeOptions::new(kind, project);
        options.https.plain = self.forge_url.as_deref().is_some_and(is_loopback);
        options.https.roots = self.forge_ca_file.clone().or_else(|| repository.ca_file());
        options.https.proxy = self.forge_proxy.clone().map(Secret::new).or_else(|| repository.proxy());
        options.url.clone_from(&self.forge_url);
        options.author.clone_from(&self.forge_author);
        let app = match (&self.forge_token_file, kind) {
            (None, ForgeKind::GitHub) => repository.app(&source, options.https.clone(), &options.project)?,
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
