//! The four requests of Git's smart HTTP protocol (gitprotocol-http(5)); the relay answers no other.
//!
//! Not here: sending them (`http_relay`), and the "dumb" protocol, which reads files one by one.

use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

/// What an exchange is for: one that fetches must not push.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Service {
    /// List and fetch.
    UploadPack,
    /// Push.
    ReceivePack,
}

/// One of the four requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SmartRequest {
    /// Reference discovery: `GET info/refs?service=…`.
    Discovery(Service),
    /// `POST git-upload-pack`, `POST git-receive-pack`.
    Rpc(Service),
}

impl Service {
    /// The protocol's name for it, which is also the program that an SSH server runs.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::UploadPack => "git-upload-pack",
            Self::ReceivePack => "git-receive-pack",
        }
    }
}

impl SmartRequest {
    /// The request with this method, and this path and query after the repository's address. None: none of the four, or of another service.
    pub(super) fn parse(method: &str, path: &str, query: Option<&str>, service: Service) -> Option<Self> {
        let name = service.name();
        match (method, path, query) {
            ("GET", "/info/refs", Some(query)) if query.strip_prefix("service=") == Some(name) => {
                Some(Self::Discovery(service))
            }
            ("POST", path, None) if path.strip_prefix('/') == Some(name) => Some(Self::Rpc(service)),
            _ => None,
        }
    }

    /// Path and query after the repository's address.
    pub(super) fn path_and_query(self) -> String {
        match self {
            Self::Discovery(service) => format!("/info/refs?service={}", service.name()),
            Self::Rpc(service) => format!("/{}", service.name()),
        }
    }

    /// The only content type that its response may have.
    pub(super) fn response_type(self) -> String {
        match self {
            Self::Discovery(service) => format!("application/x-{}-advertisement", service.name()),
            Self::Rpc(service) => format!("application/x-{}-result", service.name()),
        }
    }

    /// The content type of its body; none if it has no body.
    pub(super) fn body_type(self) -> Option<String> {
        match self {
            Self::Discovery(_) => None,
            Self::Rpc(service) => Some(format!("application/x-{}-request", service.name())),
        }
    }

    /// What it does to the repository, as errors name it.
    pub(super) const fn action(self) -> &'static str {
        match self {
            Self::Discovery(_) => "connect to",
            Self::Rpc(Service::UploadPack) => "fetch from",
            Self::Rpc(Service::ReceivePack) => "push to",
        }
    }
}

/// What RFC 3986 does not allow in a URL; `%` stays, because the address may be encoded already.
const NOT_IN_URL: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'<')
    .add(b'>')
    .add(b'?')
    .add(b'\\')
    .add(b'^')
    .add(b'`')
    .add(b'{')
    .add(b'|')
    .add(b'}');

/// An address as HTTP needs it: percent-encoded, and without a `/` at its end.
pub(super) fn encode_url(url: &str) -> String {
    utf8_percent_encode(url.trim_end_matches('/'), NOT_IN_URL).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_four_smart_http_requests_are_accepted() {
        let fetching = |method, path, query| SmartRequest::parse(method, path, query, Service::UploadPack);
        assert_eq!(
            fetching("GET", "/info/refs", Some("service=git-upload-pack")),
            Some(SmartRequest::Discovery(Service::UploadPack))
        );
        assert_eq!(fetching("POST", "/git-upload-pack", None), Some(SmartRequest::Rpc(Service::UploadPack)));
        for (method, path, query) in [
            ("GET", "/info/refs", Some("service=git-receive-pack")),
            ("GET", "/info/refs", None),
            ("GET", "/HEAD", None),
            ("PUT", "/git-upload-pack", None),
            ("POST", "/git-upload-pack", Some("x")),
            ("POST", "/git-receive-pack", None),
            ("POST", "/../other/git-upload-pack", None),
            ("POST", "//git-upload-pack", None),
        ] {
            assert_eq!(fetching(method, path, query), None, "{method} {path} {query:?}");
        }
        assert_eq!(
            SmartRequest::parse("POST", "/git-receive-pack", None, Service::ReceivePack)
                .map(SmartRequest::path_and_query),
            Some("/git-receive-pack".to_owned())
        );
    }

    #[test]
    fn an_address_is_percent_encoded_once() {
        assert_eq!(encode_url("https://[::1]:8443/a b/ä%20c.git/"), "https://[::1]:8443/a%20b/%C3%A4%20c.git");
    }
}
