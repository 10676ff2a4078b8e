//! The address of a repository: the value of `--repo`.
//!
//! A password in an address is separated at once, sent only to the server, and never shown. Host aliases of `~/.ssh/config` are not read.

use std::borrow::Cow;
use std::fmt;
use std::path::{Path, PathBuf};

use git2::Repository;
use percent_encoding::percent_decode_str;
use serde::{Deserialize, Serialize};

use super::credentials::Secret;
use super::error::{Error, Result};

/// A repository's address, checked. Two sources are equal if address, user and password are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    kind: Kind,
    /// The address for libgit2. It never has a password in it, because libgit2 quotes addresses in its messages.
    url: String,
    user: Option<String>,
    password: Option<Secret>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum Kind {
    Local(PathBuf),
    Ssh { host: String, port: u16 },
    Http,
    Daemon,
}

/// Whether transports are accepted that anyone on the route can tamper with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Insecure {
    /// `http://` and `git://` are refused.
    Refuse,
    /// They are accepted: for tests on loopback.
    Allow,
}

impl Source {
    /// Checks an address: a path (made absolute), `file://`, `https://`, `ssh://`, `user@host:path`.
    /// Error: [`Error::BadSource`], with any secret in the text taken out.
    pub fn parse(text: &str, insecure: Insecure) -> Result<Self> {
        let bad = |why| Error::BadSource { text: redact(text), why };
        if text.is_empty() || text.chars().any(char::is_control) {
            return Err(bad("it is empty or has control characters"));
        }
        if let Some((scheme, rest)) = text.split_once("://") {
            return match (scheme, insecure) {
                ("file", _) => {
                    let path = rest.strip_prefix("localhost").unwrap_or(rest);
                    Self::local(&percent_decoded(path).ok_or_else(|| bad("a `%` must begin two hexadecimal digits"))?)
                }
                ("https", _) | ("http", Insecure::Allow) => Self::with_host(scheme, rest).map(|(source, ..)| source),
                ("ssh", _) => Self::with_host(scheme, rest).map(|(source, host, port)| {
                    let port = port.unwrap_or(22);
                    Self { kind: Kind::Ssh { host, port }, ..source }
                }),
                ("git", Insecure::Allow) => {
                    Self::with_host(scheme, rest).map(|(source, ..)| Self { kind: Kind::Daemon, ..source })
                }
                ("http" | "git", Insecure::Refuse) => {
                    Err("anyone on the route could change what it sends; use https or ssh")
                }
                _ => Err("this scheme is unknown"),
            }
            .map_err(bad);
        }
        Self::scp_like(text).unwrap_or_else(|| Self::local(text)).map_err(bad)
    }

    /// The path, if the repository is on this machine.
    pub fn is_local(&self) -> Option<&Path> {
        match &self.kind {
            Kind::Local(path) => Some(path),
            _ => None,
        }
    }

    /// The files to watch to notice a push to a repository on this machine at once; empty for all others, which are polled. A push changes
    /// references; objects, of which there are many, are not watched. Where there is no repository yet, its whole folder.
    pub fn watched(&self) -> Vec<PathBuf> {
        let Some(path) = self.is_local() else { return Vec::new() };
        match Repository::open(path) {
            Ok(there) => ["HEAD", "packed-refs", "refs"].iter().map(|name| there.commondir().join(name)).collect(),
            Err(_) => vec![path.to_owned()],
        }
    }

    /// Its host, and its path there without `.git`: `github.com` and `empire/policies`. None for a path on this machine.
    pub fn place(&self) -> Option<(String, String)> {
        let (authority, path) = match self.url.split_once("://") {
            Some((_, rest)) => rest.split_once('/')?,
            None if self.is_local().is_some() => return None,
            None => self.url.split_once(':')?,
        };
        let address = authority.rsplit('@').next()?;
        let (host, _) = host_and_port(address).ok()?;
        let path = path.trim_matches('/');
        Some((host, path.strip_suffix(".git").unwrap_or(path).to_owned()))
    }

    /// The same with another user and password.
    pub(super) fn with_password(&self, user: &str, password: Secret) -> Self {
        Self { user: Some(user.to_owned()), password: Some(password), ..self.clone() }
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }

    pub(super) fn user(&self) -> Option<&str> {
        self.user.as_deref()
    }

    pub(super) fn password(&self) -> Option<&Secret> {
        self.password.as_ref()
    }

    /// The path on an SSH server: `ssh://host/path` is absolute, `ssh://host/~user/path` and `host:path` begin at a home.
    pub(super) fn ssh_path(&self) -> Option<&str> {
        if !matches!(self.kind, Kind::Ssh { .. }) {
            return None;
        }
        match self.url.split_once("://") {
            Some((_, rest)) => {
                rest.find('/').map(|at| &rest[at..]).map(|path| if path.starts_with("/~") { &path[1..] } else { path })
            }
            None => self.url.split_once(':').map(|(_, path)| path),
        }
    }

    /// Whether it is reached by HTTPS (or HTTP, where that is allowed).
    pub fn is_web(&self) -> bool {
        self.kind == Kind::Http
    }

    /// The host and port that SSH connects to, as `known_hosts` names them.
    pub(super) fn ssh_host(&self) -> Option<(&str, u16)> {
        match &self.kind {
            Kind::Ssh { host, port } => Some((host, *port)),
            _ => None,
        }
    }

    fn local(text: &str) -> std::result::Result<Self, &'static str> {
        let path = std::path::absolute(text).map_err(|_| "it is no path")?;
        let url = path.to_str().ok_or("the current folder's name is not UTF-8")?.to_owned();
        Ok(Self { kind: Kind::Local(path), url, user: None, password: None })
    }

    /// `[user[:password]@]host[:port]/path`, with the scheme that was before it.
    fn with_host(scheme: &str, rest: &str) -> std::result::Result<(Self, String, Option<u16>), &'static str> {
        let (authority, path) = rest.split_once('/').ok_or("it has a host but no path")?;
        let (userinfo, address) = match authority.rsplit_once('@') {
            Some((userinfo, address)) => (Some(userinfo), address),
            None => (None, authority),
        };
        let (host, port) = host_and_port(address)?;
        if path.is_empty() || path.contains(['?', '#']) {
            return Err("its path is empty, or has a `?` or `#`");
        }
        let decoded = |text: &str| percent_decoded(text).ok_or("a `%` must begin two hexadecimal digits");
        let (user, password) = match userinfo.map(|userinfo| userinfo.split_once(':').unwrap_or((userinfo, ""))) {
            None => (None, None),
            Some((user, "")) if scheme.starts_with("http") => (None, Some(Secret::new(decoded(user)?))),
            Some((user, "")) => (Some(decoded(user)?), None),
            Some((user, password)) => (Some(decoded(user)?), Some(Secret::new(decoded(password)?))),
        };
        let url = format!("{scheme}://{address}/{path}");
        Ok((Self { kind: Kind::Http, url, user, password }, host, port))
    }

    /// `user@host:path`, or `host:path`. None if it is a path: Git takes it for one where a `/` is before the first `:`.
    fn scp_like(text: &str) -> Option<std::result::Result<Self, &'static str>> {
        let (place, path) = text.split_once(':')?;
        if place.contains('/') || place.is_empty() {
            return None;
        }
        let (user, host) = place.rsplit_once('@').unwrap_or(("git", place));
        Some(
            if host.is_empty() || host.starts_with('-') || user.is_empty() || path.is_empty() || path.starts_with('-') {
                Err("the user, the host or the path is empty, or begins with `-`")
            } else {
                let kind = Kind::Ssh { host: host.to_owned(), port: 22 };
                Ok(Self { kind, url: format!("{user}@{host}:{path}"), user: Some(user.to_owned()), password: None })
            },
        )
    }
}

impl fmt::Display for Source {
    /// The address without any secret: as the log, reports and errors show it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.kind, self.url.split_once("://"), &self.user, &self.password) {
            (Kind::Local(_), ..) | (_, None, ..) | (_, _, None, None) => f.write_str(&self.url),
            (_, Some((scheme, rest)), Some(user), None) => write!(f, "{scheme}://{user}@{rest}"),
            (_, Some((scheme, rest)), Some(user), Some(_)) => write!(f, "{scheme}://{user}:***@{rest}"),
            (_, Some((scheme, rest)), None, Some(_)) => write!(f, "{scheme}://***@{rest}"),
        }
    }
}

/// The host's name, and the port if one is given. IPv6 addresses stand in brackets.
fn host_and_port(address: &str) -> std::result::Result<(String, Option<u16>), &'static str> {
    let (host, port) = match address.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, "")) => (host, None),
        Some((host, port)) => {
            (host, Some(port.strip_prefix(':').ok_or("something other than a port follows the host")?))
        }
        None => address.split_once(':').map_or((address, None), |(host, port)| (host, Some(port))),
    };
    if host.is_empty() || host.starts_with('-') {
        return Err("the host is empty or begins with `-`");
    }
    let port = port.map(|port| port.parse().map_err(|_| "the port is no number up to 65535")).transpose()?;
    Ok((host.to_owned(), port))
}

fn percent_decoded(text: &str) -> Option<String> {
    // The decoder leaves a `%` that begins no escape as it is; in an address that is a mistake.
    let is_escape =
        |part: &str| part.as_bytes().get(..2).is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit));
    if !text.split('%').skip(1).all(is_escape) {
        return None;
    }
    percent_decode_str(text).decode_utf8().ok().map(Cow::into_owned)
}

/// A text that may hold a password, for an error message: everything before the last `@` is removed.
fn redact(text: &str) -> String {
    match (text.find("://"), text.rfind('@')) {
        (Some(scheme), Some(at)) if scheme < at => format!("{}***{}", &text[..scheme + 3], &text[at..]),
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: &str) -> Source {
        Source::parse(text, Insecure::Refuse).unwrap_or_else(|error| panic!("{error}"))
    }

    #[test]
    fn paths_and_file_urls_are_local_and_absolute() {
        for text in ["/srv/policies.git", "file:///srv/policies.git", "file://localhost/srv/policies%2egit"] {
            assert_eq!(source(text).is_local(), Some(Path::new("/srv/policies.git")), "{text}");
            assert_eq!(source(text).to_string(), "/srv/policies.git");
        }
        assert!(source("policies").is_local().expect("a path").is_absolute());
        assert!(source("./a:b").is_local().is_some(), "a `/` before the `:` makes it a path");
    }

    #[test]
    fn ssh_has_two_forms_and_knows_its_port() {
        assert_eq!(source("git@example.org:team/policies").to_string(), "git@example.org:team/policies");
        assert_eq!(source("example.org:policies").user(), Some("git"));
        assert_eq!(source("git@example.org:p").ssh_host(), Some(("example.org", 22)));
        let url = source("ssh://me@[::1]:2222/srv/p.git");
        assert_eq!((url.ssh_host(), url.user(), url.is_local()), (Some(("::1", 2222)), Some("me"), None));
        assert_eq!(url.to_string(), "ssh://me@[::1]:2222/srv/p.git");
        for (text, path) in [
            ("ssh://me@[::1]:2222/srv/p.git", "/srv/p.git"),
            ("ssh://host/~ada/p", "~ada/p"),
            ("git@example.org:team/policies", "team/policies"),
            ("example.org:/srv/p", "/srv/p"),
        ] {
            assert_eq!(source(text).ssh_path(), Some(path), "{text}");
        }
        assert_eq!(source("https://example.org/p").ssh_path(), None);
    }

    #[test]
    fn a_source_has_a_host_and_a_path_there() {
        for text in [
            "https://me:hunter2@example.org:8443/team/policies.git",
            "https://example.org/team/policies/",
            "git@example.org:team/policies.git",
            "ssh://git@example.org:2222/team/policies",
        ] {
            let place = source(text).place();
            assert_eq!(place, Some(("example.org".to_owned(), "team/policies".to_owned())), "{text}");
        }
        assert_eq!(source("/srv/policies.git").place(), None);
        let given =
            source("https://me:hunter2@example.org/p").with_password("x-access-token", Secret::new("ghs_1".to_owned()));
        assert_eq!((given.user(), given.password().map(Secret::reveal)), (Some("x-access-token"), Some("ghs_1")));
        assert!(!given.to_string().contains("ghs_1") && !given.url().contains("hunter2"), "{given}");
    }

    #[test]
    fn secrets_in_an_address_are_kept_apart_and_never_shown() {
        for (text, shown, secret) in [
            ("https://me:hun%40ter2@example.org/p", "https://me:***@example.org/p", "hun@ter2"),
            ("https://hunter2@example.org:8443/p", "https://***@example.org:8443/p", "hunter2"),
        ] {
            let source = source(text);
            assert_eq!(source.to_string(), shown);
            assert_eq!(source.password().map(Secret::reveal), Some(secret));
            assert!(!format!("{source:?}").contains("hunter2") && !source.url().contains('@'), "{source:?}");
        }
        let error =
            Source::parse("ftp://me:hunter2@example.org/p", Insecure::Refuse).expect_err("a scheme we don't know");
        assert_eq!(
            error.to_string(),
            r#""ftp://***@example.org/p" is not the address of a Git repository: this scheme is unknown"#
        );
    }

    #[test]
    fn unprotected_transports_must_be_asked_for() {
        for text in ["http://127.0.0.1/p", "git://127.0.0.1/p"] {
            assert!(Source::parse(text, Insecure::Refuse).is_err(), "{text}");
            assert_eq!(Source::parse(text, Insecure::Allow).expect(text).to_string(), text);
        }
    }

    #[test]
    fn an_address_that_could_be_an_option_or_has_no_path_is_refused() {
        for text in [
            "",
            "ssh://-oProxyCommand=x/p",
            "git@-x:p",
            "git@host:-p",
            "https://host",
            "https:///p",
            "ssh://h:99999/p",
            "a\nb",
            "file:///%zz",
        ] {
            assert!(Source::parse(text, Insecure::Refuse).is_err(), "{text:?}");
        }
    }
}
