//! Errors of the transport to a Git server: HTTPS, its certificates and proxy, and SSH.
//!
//! Nothing of a server's error page is shown, because it may hold anything; the target of a redirect is shown without its query, which
//! may hold a secret.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The longest `Retry-After` that is honoured.
const LONGEST_WAIT: Duration = Duration::from_hours(1);
/// The most characters shown of a text that the server chose.
const SHOWN: usize = 200;

/// Why an exchange with a Git server failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum TransportError {
    /// Egret's own configuration is wrong: a file, an address.
    #[error("{0}")]
    Configuration(String),
    /// The server cannot be reached: its name, its port, or the route to it.
    #[error("{0}")]
    Connect(String),
    /// The server's certificate is by an authority that is not trusted.
    #[error("{0}")]
    UnknownAuthority(String),
    /// Any other problem with the server's certificate.
    #[error("{0}")]
    Certificate(String),
    /// Egret's client certificate: its file, or the server's answer to it.
    #[error("{0}")]
    ClientCertificate(String),
    /// The proxy is unreachable or refuses.
    #[error("{0}")]
    Proxy(String),
    /// The server redirects.
    #[error("it redirects to {to} ({status})")]
    Redirect {
        /// 301, 302, 303, 307 or 308.
        status: u16,
        /// The address, without the part that Git adds.
        to: String,
    },
    /// 404 or 410.
    #[error("the server has no such repository, or hides it from these credentials ({status})")]
    NotFound {
        /// The response's status.
        status: u16,
    },
    /// 429 or 503.
    #[error("the server is unavailable or limits requests ({status})")]
    Unavailable {
        /// The response's status.
        status: u16,
        /// Its `Retry-After` in seconds, if it has one.
        seconds: Option<u64>,
    },
    /// Any other status but 200.
    #[error("the server answers {status}")]
    Status {
        /// The response's status.
        status: u16,
    },
    /// 200 with a content type that is not Git's.
    #[error("the server answers with {content_type:?}, which is not Git's")]
    NotGit {
        /// The response's content type.
        content_type: String,
    },
    /// The connection ended early.
    #[error("{0}")]
    Interrupted(String),
}

impl TransportError {
    /// Whether retrying soon can help.
    pub(super) fn is_transient(&self) -> bool {
        match self {
            // Secrets are mounted late and certificates renewed late; a web page in the place of Git is often maintenance.
            Self::Configuration(_)
            | Self::Connect(_)
            | Self::UnknownAuthority(_)
            | Self::Certificate(_)
            | Self::ClientCertificate(_)
            | Self::Proxy(_)
            | Self::Unavailable { .. }
            | Self::NotGit { .. }
            | Self::Interrupted(_) => true,
            Self::Status { status } => *status >= 500 || *status == 408,
            Self::Redirect { .. } | Self::NotFound { .. } => false,
        }
    }

    /// How long the server asked clients to wait.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Unavailable { seconds, .. } => seconds.map(|seconds| Duration::from_secs(seconds).min(LONGEST_WAIT)),
            _ => None,
        }
    }

    /// What to do about it.
    pub(super) fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Connect(_) => {
                "check the address, that the server is up, and that every firewall on the route allows Egret. HTTPS goes \
                 through a proxy only if --git-proxy names it"
            }
            Self::Certificate(_) => {
                "check that the certificate is for the name in the address, and that both clocks are right"
            }
            Self::UnknownAuthority(_) => {
                "if a private authority signed the server's certificate, name its file by --git-ca-file"
            }
            Self::ClientCertificate(_) => {
                "name a certificate that the server accepts by --git-client-certificate, and its key by --git-client-key"
            }
            Self::Proxy(_) => {
                "see --git-proxy; a user and a password for the proxy are part of its address, before an @"
            }
            Self::Redirect { .. } => {
                "Egret follows no redirect, because its credentials would go with it: use the address that it leads to"
            }
            Self::NotFound { .. } => {
                "check the address. Many forges answer this, too, if a token may not read the repository: use one that may"
            }
            Self::Status { status } if *status >= 500 => "the active commit stays active, and Egret retries",
            Self::Unavailable { .. } | Self::Interrupted(_) => "the active commit stays active, and Egret retries",
            Self::NotGit { .. } => {
                "check that the address is the one that `git clone` takes, and not that of a sign-in page"
            }
            Self::Configuration(_) | Self::Status { .. } => return None,
        };
        Some(hint.to_owned())
    }

    /// The error of a response that is not a 200 with Git's content type; the caller handles 401 and 403.
    pub(super) fn from_response(
        status: u16,
        location: Option<&str>,
        retry_after: Option<&str>,
        content_type: &str,
    ) -> Self {
        match status {
            200 => Self::NotGit { content_type: shown(content_type) },
            301 | 302 | 303 | 307 | 308 => Self::Redirect { status, to: redirected(location.unwrap_or_default()) },
            404 | 410 => Self::NotFound { status },
            // Retry-After may also be a date; then the usual backoff applies.
            429 | 503 => Self::Unavailable { status, seconds: retry_after.and_then(|text| text.trim().parse().ok()) },
            _ => Self::Status { status },
        }
    }
}

/// A text from the server, without control characters and cut.
fn shown(text: &str) -> String {
    text.chars().filter(|letter| !letter.is_control()).take(SHOWN).collect()
}

/// The target of a redirect, as a user would write it after `--repo`.
fn redirected(location: &str) -> String {
    let location = location.split(['?', '#']).next().unwrap_or_default();
    let location = ["/info/refs", "/git-upload-pack", "/git-receive-pack"]
        .iter()
        .find_map(|end| location.strip_suffix(end))
        .unwrap_or(location);
    // It may hold a password.
    let location = match location.split_once("://") {
        Some((scheme, rest)) => {
            let host = rest.split('/').next().unwrap_or_default();
            format!("{scheme}://{}", &rest[host.rfind('@').map_or(0, |at| at + 1)..])
        }
        None => location.to_owned(),
    };
    if location.is_empty() { "nowhere".to_owned() } else { shown(&location) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_target_of_a_redirect_is_shown_as_an_address_for_repo_and_without_secrets() {
        let location = |to| TransportError::from_response(302, Some(to), None, "text/html").to_string();
        assert_eq!(
            location("https://new.example/team/p.git/info/refs?service=git-upload-pack"),
            "it redirects to https://new.example/team/p.git (302)"
        );
        assert_eq!(
            location("https://ada:hunter2@sso.example/in?token=s3cret"),
            "it redirects to https://sso.example/in (302)"
        );
        assert_eq!(location("/sign-in\n\x1b[2J"), "it redirects to /sign-in[2J (302)");
        assert_eq!(TransportError::from_response(301, None, None, "").to_string(), "it redirects to nowhere (301)");
    }

    #[test]
    fn retry_after_is_honoured_up_to_an_hour() {
        let retry_after = |text| TransportError::from_response(429, None, Some(text), "").retry_after();
        assert_eq!(retry_after("7"), Some(Duration::from_secs(7)));
        assert_eq!(retry_after("999999999"), Some(LONGEST_WAIT));
        assert_eq!(retry_after("Wed, 21 Oct 2026 07:28:00 GMT"), None);
        assert_eq!(retry_after("-1"), None);
    }

    #[test]
    fn statuses_that_may_pass_are_transient_and_others_are_not() {
        let is_transient = |status| TransportError::from_response(status, None, None, "text/html").is_transient();
        let transient: Vec<u16> = [200, 301, 400, 404, 408, 410, 418, 429, 500, 502, 503, 504]
            .into_iter()
            .filter(|status| is_transient(*status))
            .collect();
        assert_eq!(transient, [200, 408, 429, 500, 502, 503, 504]);
    }
}
