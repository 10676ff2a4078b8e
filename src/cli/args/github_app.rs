//! A GitHub App as credentials: for Git, and for the previews that are posted.
//!
//! The key is a file and never on the command line. The exchange with GitHub is in `forge::app`.

use std::path::PathBuf;
use std::sync::Arc;

use super::super::output::Failure;
use super::is_loopback;
use crate::forge::app::{self, GitHubApp};
use crate::git::access::Access;
use crate::git::source::Source;
use crate::https;
use crate::reconcile::gitops::github_app::credential_provider;

/// Which App, if any.
#[derive(Debug, Clone, Default)]
pub(in crate::cli) struct AppIdentity {
    pub(in crate::cli) id: Option<String>,
    pub(in crate::cli) key_file: Option<PathBuf>,
    pub(in crate::cli) installation: Option<u64>,
    pub(in crate::cli) api: Option<String>,
}

impl AppIdentity {
    /// The App, if there is one, for the repository at a source, or for one that is named.
    pub(in crate::cli) fn app(
        &self,
        source: &Source,
        https: https::ClientOptions,
        named: Option<&str>,
    ) -> Result<Option<Arc<GitHubApp>>, Failure> {
        let (Some(id), Some(key_file)) = (&self.id, &self.key_file) else { return Ok(None) };
        let (host, path) = source.place().unwrap_or_default();
        let project = named.unwrap_or(&path).to_owned();
        if project.split('/').count() != 2 || (host.is_empty() && self.api.is_none()) {
            let message = format!("use a GitHub App: {source} is not a repository on GitHub");
            return Err(Failure::new(message, Some("the address of one is https://HOST/OWNER/NAME".to_owned())));
        }
        let api = self.api.clone().unwrap_or_else(|| api_of(&host));
        let plain = https.plain || is_loopback(&api);
        Ok(Some(Arc::new(GitHubApp::new(app::AppOptions {
            api,
            project,
            id: id.clone(),
            key_file: key_file.clone(),
            installation: self.installation,
            https: https::ClientOptions { plain, ..https },
        }))))
    }

    /// Has Git authenticate as the App, where the repository is reached by HTTPS.
    pub(in crate::cli) fn sign_in(&self, source: &Source, access: Access) -> Result<Access, Failure> {
        // A password that was named is meant for Git, and the GitHubApp for previews alone.
        if !source.is_web() || access.credentials.password.is_some() {
            return Ok(access);
        }
        let https =
            https::ClientOptions { roots: access.ca_file.clone(), proxy: access.proxy.clone(), ..Default::default() };
        let Some(app) = self.app(source, https, None)? else { return Ok(access) };
        let own = app.git_host().unwrap_or_default();
        if source.place().is_none_or(|(host, _)| host != own) {
            let message = format!("authenticate to {source} as a GitHub App: the App is on {own}");
            let hint = "name the API of that host by --github-api, or use --git-password-file".to_owned();
            return Err(Failure::new(message, Some(hint)));
        }
        Ok(Access { credential_provider: Some(credential_provider(app)), ..access })
    }
}

/// Where the API of a host of GitHub's is.
fn api_of(host: &str) -> String {
    match host {
        "github.com" => "https://api.github.com".to_owned(),
        host if host.ends_with(".ghe.com") => format!("https://api.{host}"),
        host => format!("https://{host}/api/v3"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_api_follows_from_the_host() {
        assert_eq!(api_of("github.com"), "https://api.github.com");
        assert_eq!(api_of("empire.ghe.com"), "https://api.empire.ghe.com");
        assert_eq!(api_of("git.example.org"), "https://git.example.org/api/v3");
    }
}
