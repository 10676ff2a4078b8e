//! Authenticates as a GitHub App: signs in with the App's key, and requests tokens for one repository that expire
//! within the hour.
//!
//! A token has only the permissions that are needed, and no access to the App's other repositories. It is reused
//! until five minutes before its expiry, by GitHub's clock. Tokens are never written to disk, and users cannot sign
//! in.

mod error;
mod jwt;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, DATE, HeaderValue};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::json;

pub use self::error::AppError;
use crate::https::{self, Client, HttpResponse, Method, Request, full};
use crate::secret::Secret;

/// The time before its expiry in which a token is no longer used: a fetch takes a while.
const RESERVE: Duration = Duration::from_mins(5);
/// In seconds; a larger difference of the clocks is a likely reason for GitHub to reject the signature.
const TOLERANCE: i64 = 30;
/// The version of the API.
const VERSION: &str = "2022-11-28";

/// The App and the API.
#[derive(Debug, Clone)]
pub struct AppOptions {
    /// The API's root: `https://api.github.com`, or `https://HOST/api/v3`.
    pub api: String,
    /// The repository: `OWNER/NAME`.
    pub project: String,
    /// The App's id, or its client id.
    pub id: String,
    /// The file with its private key, in PEM.
    pub key_file: PathBuf,
    /// Its installation id; looked up through the API if it is not given.
    pub installation: Option<u64>,
    /// Options of the HTTP client.
    pub https: https::ClientOptions,
}

/// The purpose of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TokenPurpose {
    /// Fetching, and pushing reports if the App may.
    Git,
    /// Comments, statuses and checks.
    Pulls,
}

impl TokenPurpose {
    /// The permissions that are required, and those that are requested if the App has them.
    fn permissions(self) -> (&'static [Permission], &'static [Permission]) {
        match self {
            Self::Git => (&[("contents", "read")], &[("contents", "write")]),
            Self::Pulls => {
                (&[("pull_requests", "write")], &[("statuses", "write"), ("checks", "write"), ("contents", "read")])
            }
        }
    }
}

/// A permission and its level.
type Permission = (&'static str, &'static str);

/// An App, with the tokens it has received.
#[derive(Debug)]
pub struct GitHubApp {
    options: AppOptions,
    kept: Mutex<BTreeMap<TokenPurpose, Kept>>,
}

#[derive(Debug, Clone)]
struct Kept {
    token: Secret,
    until: Instant,
}

#[derive(Deserialize)]
struct Installation {
    id: u64,
    #[serde(default)]
    permissions: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Given {
    token: Secret,
    expires_at: Timestamp,
}

impl GitHubApp {
    /// An App without tokens.
    pub fn new(options: AppOptions) -> Self {
        Self { options, kept: Mutex::default() }
    }

    /// The host of the App's repositories: its tokens are sent to no other host.
    pub fn git_host(&self) -> Option<String> {
        let host = self.host();
        let host =
            host.rsplit_once(':').filter(|(_, port)| port.parse::<u16>().is_ok()).map_or(&*host, |(host, _)| host);
        let own = host == "api.github.com" || (host.starts_with("api.") && host.ends_with(".ghe.com"));
        let host = if own { host.trim_start_matches("api.") } else { host };
        (!host.is_empty()).then(|| host.to_owned())
    }

    /// A token that is valid for at least five minutes. Blocks while a token is requested; concurrent callers wait
    /// and get the same token.
    pub fn token(&self, of: TokenPurpose) -> Result<Secret, AppError> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = kept.get(&of).filter(|known| Instant::now() < known.until) {
            return Ok(known.token.clone());
        }
        kept.remove(&of);
        // In a separate thread, because the caller may be within a runtime, which must not be blocked.
        let fresh = std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name("github-app".to_owned());
            let asking = thread.spawn_scoped(scope, || self.exchange(of)).map_err(AppError::Start)?;
            asking.join().unwrap_or_else(|_| Err(AppError::Nonsense { host: self.host() }))
        })?;
        let token = fresh.token.clone();
        kept.insert(of, fresh);
        Ok(token)
    }

    /// Discards a token that was rejected: the next call requests a new one.
    pub fn forget(&self, of: TokenPurpose) {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).remove(&of);
    }

    fn host(&self) -> String {
        let rest = self.options.api.split_once("://").map_or(&*self.options.api, |(_, rest)| rest);
        rest.split('/').next().unwrap_or_default().to_owned()
    }

    fn exchange(&self, of: TokenPurpose) -> Result<Kept, AppError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(AppError::Start)?;
        runtime.block_on(async {
            let client = Client::new(self.options.https.clone()).map_err(|source| self.https(source))?;
            self.ask(&client, of).await
        })
    }

    async fn ask(&self, client: &Client, of: TokenPurpose) -> Result<Kept, AppError> {
        let AppOptions { project, installation, .. } = &self.options;
        let path = match installation {
            Some(id) => format!("app/installations/{id}"),
            None => format!("repos/{project}/installation"),
        };
        let answer = self.send(client, Method::GET, &path, None).await?;
        let installed: Installation = self.read(&answer)?;
        let permissions = self.narrowed(of, &installed.permissions)?;
        let name = project.rsplit('/').next().unwrap_or_default();
        let body = json!({"repositories": [name], "permissions": permissions});
        let path = format!("app/installations/{}/access_tokens", installed.id);
        let answer = self.send(client, Method::POST, &path, Some(body.to_string())).await?;
        let given: Given = self.read(&answer)?;
        let there = date(&answer).unwrap_or_else(Timestamp::now);
        let good = Duration::try_from(given.expires_at.duration_since(there)).unwrap_or_default();
        Ok(Kept { token: given.token, until: Instant::now() + good.saturating_sub(RESERVE) })
    }

    /// The permissions to request, as far as the App has them: a request for more is refused as a whole.
    fn narrowed(
        &self,
        of: TokenPurpose,
        granted: &BTreeMap<String, String>,
    ) -> Result<BTreeMap<&'static str, &'static str>, AppError> {
        let may = |(what, how): &Permission| granted.get(*what).is_some_and(|level| covers(level, how));
        let (needed, wanted) = of.permissions();
        if let Some((what, how)) = needed.iter().find(|permission| !may(permission)) {
            let AppOptions { id, project, .. } = &self.options;
            return Err(AppError::Lacks {
                id: id.clone(),
                project: project.clone(),
                permission: format!("{what}: {how}"),
            });
        }
        Ok(needed.iter().chain(wanted.iter().filter(|permission| may(permission))).copied().collect())
    }

    async fn send(
        &self,
        client: &Client,
        method: Method,
        path: &str,
        body: Option<String>,
    ) -> Result<HttpResponse, AppError> {
        let AppOptions { api, id, key_file, project, .. } = &self.options;
        let now = Timestamp::now();
        let assertion = jwt::assertion(id, key_file, now.as_second())?;
        let nonsense = || AppError::Nonsense { host: self.host() };
        let mut bearer = HeaderValue::from_str(&format!("Bearer {}", assertion.reveal())).map_err(|_| nonsense())?;
        bearer.set_sensitive(true);
        let request = Request::builder()
            .method(method)
            .uri(format!("{}/{path}", api.trim_end_matches('/')))
            .header(AUTHORIZATION, bearer)
            .header(ACCEPT, "application/vnd.github+json")
            .header("x-github-api-version", VERSION)
            .header(CONTENT_TYPE, "application/json")
            .body(full(body.unwrap_or_default()))
            .map_err(|_| nonsense())?;
        let answer = client.send(request).await.map_err(|source| self.https(source))?;
        let (host, id) = (self.host(), id.clone());
        match answer.status.as_u16() {
            200..=299 => Ok(answer),
            401 => {
                let ahead = date(&answer).map(|there| now.as_second() - there.as_second());
                let ahead = ahead.filter(|ahead| ahead.abs() > TOLERANCE);
                Err(AppError::Rejected { host, id, message: message_of(&answer), ahead })
            }
            404 => Err(AppError::NotInstalled { id, project: project.clone() }),
            status => Err(AppError::Refused { host, id, status, message: message_of(&answer) }),
        }
    }

    fn https(&self, source: https::HttpError) -> AppError {
        AppError::Https { id: self.options.id.clone(), source }
    }

    fn read<T: serde::de::DeserializeOwned>(&self, answer: &HttpResponse) -> Result<T, AppError> {
        // The parse error is left out: it may contain a token.
        serde_json::from_slice(&answer.body).map_err(|_| AppError::Nonsense { host: self.host() })
    }
}

/// Whether the granted level is sufficient.
fn covers(granted: &str, wanted: &str) -> bool {
    let height = |level: &str| ["read", "write", "admin"].iter().position(|known| *known == level);
    matches!((height(granted), height(wanted)), (Some(granted), Some(wanted)) if granted >= wanted)
}

/// The server's clock.
fn date(answer: &HttpResponse) -> Option<Timestamp> {
    let text = answer.headers.get(DATE)?.to_str().ok()?;
    jiff::fmt::rfc2822::parse(text).ok().map(|time| time.timestamp())
}

/// The `message` of an error answer, in one line of bounded length.
fn message_of(answer: &HttpResponse) -> String {
    const LONGEST: usize = 200;
    let body: serde_json::Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    let message = body["message"].as_str().unwrap_or("no reason given");
    message.chars().filter(|letter| !letter.is_control()).take(LONGEST).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn app(api: &str) -> GitHubApp {
        GitHubApp::new(AppOptions {
            api: api.to_owned(),
            project: "empire/policies".to_owned(),
            id: "42".to_owned(),
            key_file: "/nonexistent".into(),
            installation: None,
            https: https::ClientOptions::default(),
        })
    }

    #[test]
    fn tokens_are_for_the_apps_own_host() {
        for (api, host) in [
            ("https://api.github.com", "github.com"),
            ("https://api.empire.ghe.com/", "empire.ghe.com"),
            ("https://git.example.org:8443/api/v3", "git.example.org"),
            ("https://api.example.org", "api.example.org"),
        ] {
            assert_eq!(app(api).git_host().as_deref(), Some(host), "{api}");
        }
    }

    #[test]
    fn a_token_has_what_is_needed_of_what_was_granted_and_no_more() {
        let app = app("https://api.github.com");
        let granted = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
            pairs.iter().map(|(what, how)| ((*what).to_owned(), (*how).to_owned())).collect()
        };
        let all =
            granted(&[("contents", "write"), ("issues", "write"), ("pull_requests", "admin"), ("checks", "read")]);
        assert_eq!(app.narrowed(TokenPurpose::Git, &all).expect("granted"), BTreeMap::from([("contents", "write")]));
        let pulls = BTreeMap::from([("contents", "read"), ("pull_requests", "write")]);
        assert_eq!(app.narrowed(TokenPurpose::Pulls, &all).expect("granted"), pulls);
        let reader = granted(&[("contents", "read")]);
        assert_eq!(app.narrowed(TokenPurpose::Git, &reader).expect("granted"), BTreeMap::from([("contents", "read")]));
        let error = app.narrowed(TokenPurpose::Pulls, &reader).expect_err("it may only read");
        assert_eq!(error.to_string(), "the GitHub App 42 may not `pull_requests: write` in empire/policies");
    }
}
