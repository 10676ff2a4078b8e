//! What can go wrong between Egret and an HTTPS server, in words for the person who has to act.
//!
//! Deliberately absent: what a server says in an error page (nobody knows what is in it), and secrets: where a server wanted to
//! send us is shown without what stands behind the `?`.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The longest that a server may put us off: past that, it is asked again all the same.
const LONGEST_WAIT: Duration = Duration::from_hours(1);
/// Of a text that a server chose, so many characters are shown.
const SHOWN: usize = 200;

/// Why a conversation over HTTPS came to nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Trouble {
    /// What we were given to begin with: a file, an address.
    #[error("{0}")]
    Setup(String),
    /// Its name, its port, or the way there.
    #[error("{0}")]
    Connect(String),
    /// Nobody whom we believe says who the server is.
    #[error("{0}")]
    Authority(String),
    /// The server could not prove who it is, in any other way.
    #[error("{0}")]
    Certificate(String),
    /// Our own certificate: its file, or what the server says to it.
    #[error("{0}")]
    ClientCertificate(String),
    /// The proxy is away, or says no.
    #[error("{0}")]
    Proxy(String),
    /// It sends us elsewhere.
    #[error("it redirects to {to} ({status})")]
    Redirect {
        /// 301, 302, 303, 307 or 308.
        status: u16,
        /// The address, without the part that Git adds.
        to: String,
    },
    /// 404 or 410.
    #[error("the server has no such repository, or does not show it to us ({status})")]
    Missing {
        /// What it said.
        status: u16,
    },
    /// 429 or 503.
    #[error("the server asks to be left alone for a while ({status})")]
    Busy {
        /// What it said.
        status: u16,
        /// For so many seconds, if it says so.
        seconds: Option<u64>,
    },
    /// Any other answer but 200.
    #[error("the server answers {status}")]
    Status {
        /// What it said.
        status: u16,
    },
    /// 200 with something else than Git.
    #[error("the server answers with {content_type:?}, which is not Git's")]
    NotGit {
        /// What it says that it is.
        content_type: String,
    },
    /// The connection ended in the middle.
    #[error("{0}")]
    Broken(String),
}

impl Trouble {
    /// Whether trying again soon can help.
    pub(super) fn may_pass(&self) -> bool {
        match self {
            // Secrets are mounted late and certificates renewed late; a page in the place of Git is maintenance, often.
            Self::Setup(_)
            | Self::Connect(_)
            | Self::Authority(_)
            | Self::Certificate(_)
            | Self::ClientCertificate(_)
            | Self::Proxy(_)
            | Self::Busy { .. }
            | Self::NotGit { .. }
            | Self::Broken(_) => true,
            Self::Status { status } => *status >= 500 || *status == 408,
            Self::Redirect { .. } | Self::Missing { .. } => false,
        }
    }

    /// How long the server asked us to stay away.
    pub(super) fn wait(&self) -> Option<Duration> {
        match self {
            Self::Busy { seconds, .. } => seconds.map(|seconds| Duration::from_secs(seconds).min(LONGEST_WAIT)),
            _ => None,
        }
    }

    /// What to do about it.
    pub(super) fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Connect(_) => {
                "is the address right, is the server up, and does every firewall on the way let Egret through? A proxy is \
                 used only if --git-proxy names it"
            }
            Self::Certificate(_) => {
                "does the address have a name that the certificate is for, and is the clock right here and there?"
            }
            Self::Authority(_) => {
                "if an authority of your own signed the server's certificate, name its file by --git-ca-file"
            }
            Self::ClientCertificate(_) => {
                "name a certificate that the server takes by --git-client-certificate, and its key by --git-client-key"
            }
            Self::Proxy(_) => "see --git-proxy; a user and a password for it stand in its address, before an @",
            Self::Redirect { .. } => {
                "Egret follows no redirect, because its credentials would go with it: give the address that it leads to"
            }
            Self::Missing { .. } => {
                "is the address right? Many forges say so, too, of what a token may not see: give one that may read it"
            }
            Self::Status { status } if *status >= 500 => "what was in force stays in force, and it is tried again",
            Self::Busy { .. } | Self::Broken(_) => "what was in force stays in force, and it is tried again",
            Self::NotGit { .. } => {
                "is it the repository's own address, as `git clone` takes it, and not a page to sign in at?"
            }
            Self::Setup(_) | Self::Status { .. } => return None,
        };
        Some(hint.to_owned())
    }

    /// What an answer other than "200, and this is Git" means; 401 and 403 are somebody else's to tell.
    pub(super) fn of_answer(
        status: u16,
        location: Option<&str>,
        retry_after: Option<&str>,
        content_type: &str,
    ) -> Self {
        match status {
            200 => Self::NotGit { content_type: shown(content_type) },
            301 | 302 | 303 | 307 | 308 => Self::Redirect { status, to: redirected(location.unwrap_or_default()) },
            404 | 410 => Self::Missing { status },
            // Retry-After may be a date, too; then the usual pace has to do.
            429 | 503 => Self::Busy { status, seconds: retry_after.and_then(|text| text.trim().parse().ok()) },
            _ => Self::Status { status },
        }
    }
}

/// A server's text, fit to be shown.
fn shown(text: &str) -> String {
    text.chars().filter(|letter| !letter.is_control()).take(SHOWN).collect()
}

/// The address that a server wants us to use: as a person would write it behind `--repo`.
fn redirected(location: &str) -> String {
    let location = location.split(['?', '#']).next().unwrap_or_default();
    let location = ["/info/refs", "/git-upload-pack", "/git-receive-pack"]
        .iter()
        .find_map(|end| location.strip_suffix(end))
        .unwrap_or(location);
    // A password in it would be somebody's secret.
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
    fn where_a_server_sends_us_is_shown_as_people_write_it_and_without_secrets() {
        let location = |to| Trouble::of_answer(302, Some(to), None, "text/html").to_string();
        assert_eq!(
            location("https://new.example/team/p.git/info/refs?service=git-upload-pack"),
            "it redirects to https://new.example/team/p.git (302)"
        );
        assert_eq!(
            location("https://ada:hunter2@sso.example/in?token=s3cret"),
            "it redirects to https://sso.example/in (302)"
        );
        assert_eq!(location("/sign-in\n\x1b[2J"), "it redirects to /sign-in[2J (302)");
        assert_eq!(Trouble::of_answer(301, None, None, "").to_string(), "it redirects to nowhere (301)");
    }

    #[test]
    fn a_server_may_put_us_off_and_not_for_ever() {
        let wait = |text| Trouble::of_answer(429, None, Some(text), "").wait();
        assert_eq!(wait("7"), Some(Duration::from_secs(7)));
        assert_eq!(wait("999999999"), Some(LONGEST_WAIT));
        assert_eq!(wait("Wed, 21 Oct 2026 07:28:00 GMT"), None);
        assert_eq!(wait("-1"), None);
    }

    #[test]
    fn what_may_pass_is_tried_again_soon_and_the_rest_is_a_persons() {
        let may_pass = |status| Trouble::of_answer(status, None, None, "text/html").may_pass();
        let passing: Vec<u16> = [200, 301, 400, 404, 408, 410, 418, 429, 500, 502, 503, 504]
            .into_iter()
            .filter(|status| may_pass(*status))
            .collect();
        assert_eq!(passing, [200, 408, 429, 500, 502, 503, 504]);
    }
}
