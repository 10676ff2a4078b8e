//! Options of a GitHub App: by which Git gets in, and by which previews are posted.
//!
//! The key is a file and never on the command line. Deliberately absent: the exchange (`forge::app`).

use std::path::PathBuf;
use std::sync::Arc;

use super::output::Failure;
use super::posting::is_loopback;
use crate::forge::app::{self, GitHubApp};
use crate::git::access::Access;
use crate::git::source::Source;
use crate::https;
use crate::reconcile::gitops::github_app::credential_provider;

/// Which App, if any. Its options stand among those of the repository: clap can't tell whether a group is given that has another in it.
#[derive(Debug, Clone, Default)]
pub(super) struct AppOptions {
    pub(super) id: Option<String>,
    pub(super) key_file: Option<PathBuf>,
    pub(super) installation: Option<u64>,
    pub(super) api: Option<String>,
}

impl AppOptions {
    /// The App, if there is one, for the repository at a source, or for one that is named.
    pub(super) fn app(
        &self,
        source: &Source,
        https: https::ClientOptions,
        named: Option<&str>,
    ) -> Result<Option<Arc<GitHubApp>>, Failure> {
        let (Some(id), Some(key_file)) = (&self.id, &self.key_file) else { return Ok(None) };
        let (host, path) = source.place().unwrap_or_default();
        let project = named.unwrap_or(&path).to_owned();
        if project.split('/').count() != 2 || (host.is_empty() && self.api.is_none()) {
            let message = format!("use a GitHub App: {source} is no repository of GitHub's");
            return Err(Failure::new(message, Some("such a one is https://HOST/OWNER/NAME".to_owned())));
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

    /// Has Git get in as the App, where the repository is reached by https.
    pub(super) fn sign_in(&self, source: &Source, access: Access) -> Result<Access, Failure> {
        // A password that was named is meant for Git, and the App for previews alone.
        if !source.is_web() || access.credentials.password.is_some() {
            return Ok(access);
        }
        let https =
            https::ClientOptions { roots: access.ca_file.clone(), proxy: access.proxy.clone(), ..Default::default() };
        let Some(app) = self.app(source, https, None)? else { return Ok(access) };
        let own = app.git_host().unwrap_or_default();
        if source.place().is_none_or(|(host, _)| host != own) {
            let message = format!("sign in to {source} as a GitHub App: it is not on {own}, where the App is");
            let hint = "name the API of that host by --github-api, or use --password-file".to_owned();
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
