//! The four requests that Git's smart protocol makes of an HTTP server (gitprotocol-http(5)), and no other.
//!
//! Deliberately absent: sending them (`relay`), and the older "dumb" protocol, which reads files one by one.

/// What a conversation is for: one that fetches has no business with pushing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Service {
    /// List and fetch.
    Upload,
    /// Push.
    Receive,
}

/// One of the four requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Errand {
    /// What references there are: `GET info/refs?service=…`.
    List(Service),
    /// `POST git-upload-pack`, `POST git-receive-pack`.
    Talk(Service),
}

impl Service {
    /// As the protocol names it.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Upload => "git-upload-pack",
            Self::Receive => "git-receive-pack",
        }
    }
}

impl Errand {
    /// What is asked for by a method and what stands behind the repository's own address. None: something else.
    pub(super) fn of(method: &str, path: &str, query: Option<&str>, service: Service) -> Option<Self> {
        let name = service.name();
        match (method, path, query) {
            ("GET", "/info/refs", Some(query)) if query.strip_prefix("service=") == Some(name) => {
                Some(Self::List(service))
            }
            ("POST", path, None) if path.strip_prefix('/') == Some(name) => Some(Self::Talk(service)),
            _ => None,
        }
    }

    /// What stands behind the repository's address.
    pub(super) fn target(self) -> String {
        match self {
            Self::List(service) => format!("/info/refs?service={}", service.name()),
            Self::Talk(service) => format!("/{}", service.name()),
        }
    }

    /// The only kind of answer to it.
    pub(super) fn answer(self) -> String {
        match self {
            Self::List(service) => format!("application/x-{}-advertisement", service.name()),
            Self::Talk(service) => format!("application/x-{}-result", service.name()),
        }
    }

    /// What it carries; nothing, if it only asks.
    pub(super) fn question(self) -> Option<String> {
        match self {
            Self::List(_) => None,
            Self::Talk(service) => Some(format!("application/x-{}-request", service.name())),
        }
    }

    /// What is being done to the repository, as errors say it.
    pub(super) const fn doing(self) -> &'static str {
        match self {
            Self::List(_) => "connect to",
            Self::Talk(Service::Upload) => "fetch from",
            Self::Talk(Service::Receive) => "push to",
        }
    }
}

/// An address as HTTP writes it: what may not stand there is written as `%` and two digits, and no `/` ends it.
pub(super) fn encoded(url: &str) -> String {
    const PLAIN: &[u8] = b"-._~:/[]@!$&'()*+,;=%";
    let mut text = String::with_capacity(url.len());
    for byte in url.trim_end_matches('/').bytes() {
        if byte.is_ascii_alphanumeric() || PLAIN.contains(&byte) {
            text.push(char::from(byte));
        } else {
            text.extend(['%', hexadecimal(byte >> 4), hexadecimal(byte & 15)]);
        }
    }
    text
}

fn hexadecimal(digit: u8) -> char {
    char::from_digit(digit.into(), 16).unwrap_or('0').to_ascii_uppercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_but_the_four_requests_is_an_errand() {
        let fetching = |method, path, query| Errand::of(method, path, query, Service::Upload);
        assert_eq!(fetching("GET", "/info/refs", Some("service=git-upload-pack")), Some(Errand::List(Service::Upload)));
        assert_eq!(fetching("POST", "/git-upload-pack", None), Some(Errand::Talk(Service::Upload)));
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
            Errand::of("POST", "/git-receive-pack", None, Service::Receive).map(Errand::target),
            Some("/git-receive-pack".to_owned())
        );
    }

    #[test]
    fn an_address_is_written_as_http_wants_it() {
        assert_eq!(encoded("https://[::1]:8443/a b/ä%20c.git/"), "https://[::1]:8443/a%20b/%C3%A4%20c.git");
    }
}
