//! Errors of requests that got no answer: the request, the cause, and a hint for the user.
//!
//! An error status is no error here: a 404 is an answer, which the caller interprets.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use tokio_rustls::rustls::{self, AlertDescription, CertificateError};

/// A request without an answer.
#[derive(Debug, thiserror::Error)]
#[error("{doing}")]
pub struct HttpError {
    /// `GET https://api.github.com/repos`: no query, no user, no password.
    doing: String,
    #[source]
    cause: HttpErrorCause,
}

/// The cause.
#[derive(Debug, thiserror::Error)]
pub enum HttpErrorCause {
    /// The address is invalid or not allowed.
    #[error("{0}")]
    Address(String),
    /// A file with certificates or a key can't be read.
    #[error("cannot read {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A file has invalid content.
    #[error("{} {what}", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// The problem.
        what: String,
    },
    /// The system has no trusted CA certificates.
    #[error("this system has no certificates of authorities")]
    NoRoots,
    /// The name does not resolve.
    #[error("the name {host} is not found")]
    Dns {
        /// The name.
        host: String,
        /// The resolver's error.
        source: io::Error,
    },
    /// The connection was refused or failed.
    #[error("no connection: {0}")]
    Connect(String),
    /// The TLS handshake failed. The text names the problem, with the certificate for instance.
    #[error("{0}")]
    Tls(TlsError),
    /// The proxy refused the tunnel.
    #[error("the proxy {0}")]
    Proxy(String),
    /// A time limit has passed.
    #[error("{what} within {after:?}")]
    Timeout {
        /// The step that timed out.
        what: &'static str,
        /// The time limit.
        after: Duration,
    },
    /// The answer is larger than the limit.
    #[error("the answer has more than {most} bytes")]
    TooLarge {
        /// The limit in bytes.
        most: u64,
    },
    /// The connection broke, or the answer is not HTTP.
    #[error("{0}")]
    Broken(String),
}

/// The problem with the server's certificate, or with ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TlsError {
    /// The certificate's authority is not trusted.
    UnknownAuthority,
    /// The certificate is for other names.
    WrongName {
        /// The requested name.
        expected: String,
        /// The certificate's names.
        presented: Vec<String>,
    },
    /// The certificate has expired.
    Expired,
    /// The certificate is not valid yet.
    NotYet,
    /// The server requires a client certificate, or another one.
    WantsClientCertificate(String),
    /// Any other problem, in the TLS library's words.
    Other(String),
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownAuthority => f.write_str("its certificate is by an authority that is not known"),
            Self::WrongName { expected, presented } if presented.is_empty() => {
                write!(f, "its certificate is not for {expected}, and names nobody")
            }
            Self::WrongName { expected, presented } => {
                write!(f, "its certificate is not for {expected} but for {}", presented.join(", "))
            }
            Self::Expired => f.write_str("its certificate has run out"),
            Self::NotYet => f.write_str("its certificate is not valid yet"),
            Self::WantsClientCertificate(alert) => {
                write!(f, "the server does not take our certificate, or the lack of one ({alert})")
            }
            Self::Other(text) => write!(f, "no agreement on TLS: {text}"),
        }
    }
}

impl From<&rustls::Error> for TlsError {
    fn from(error: &rustls::Error) -> Self {
        match error {
            rustls::Error::InvalidCertificate(certificate) => match certificate {
                // A bad signature: an authority of that name is trusted, but has another key.
                CertificateError::UnknownIssuer | CertificateError::BadSignature => Self::UnknownAuthority,
                CertificateError::Expired | CertificateError::ExpiredContext { .. } => Self::Expired,
                CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => Self::NotYet,
                CertificateError::NotValidForNameContext { expected, presented } => Self::WrongName {
                    expected: expected.to_str().into_owned(),
                    presented: presented.iter().map(|name| plain_name(name)).collect(),
                },
                other => Self::Other(other.to_string()),
            },
            rustls::Error::AlertReceived(alert) => match alert {
                AlertDescription::CertificateRequired
                | AlertDescription::BadCertificate
                | AlertDescription::UnsupportedCertificate
                | AlertDescription::CertificateRevoked
                | AlertDescription::CertificateExpired
                | AlertDescription::CertificateUnknown
                | AlertDescription::UnknownCA
                | AlertDescription::AccessDenied => Self::WantsClientCertificate(format!("{alert:?}")),
                other => Self::Other(format!("the server breaks off with {other:?}")),
            },
            other => Self::Other(other.to_string()),
        }
    }
}

/// rustls shows names as `DnsName("example.org")`.
fn plain_name(shown: &str) -> String {
    shown.split('"').nth(1).unwrap_or(shown).to_owned()
}

impl HttpError {
    pub(super) fn new(doing: impl Into<String>, cause: HttpErrorCause) -> Self {
        Self { doing: doing.into(), cause }
    }

    /// The cause.
    pub fn cause(&self) -> &HttpErrorCause {
        &self.cause
    }

    /// Whether the same request may succeed later without a user's action.
    pub fn retryable(&self) -> bool {
        match &self.cause {
            HttpErrorCause::Dns { .. }
            | HttpErrorCause::Connect(_)
            | HttpErrorCause::Timeout { .. }
            | HttpErrorCause::Broken(_)
            | HttpErrorCause::Proxy(_) => true,
            HttpErrorCause::Tls(tls) => matches!(tls, TlsError::Other(_)),
            HttpErrorCause::Address(_)
            | HttpErrorCause::File { .. }
            | HttpErrorCause::Pem { .. }
            | HttpErrorCause::NoRoots
            | HttpErrorCause::TooLarge { .. } => false,
        }
    }

    /// Whether the server may have executed the request although no answer arrived.
    pub fn unknown(&self) -> bool {
        match &self.cause {
            HttpErrorCause::Timeout { what, .. } => *what != NO_CONNECTION,
            HttpErrorCause::Broken(_) | HttpErrorCause::TooLarge { .. } => true,
            _ => false,
        }
    }

    /// A hint for the user.
    pub fn hint(&self) -> Option<&'static str> {
        match &self.cause {
            HttpErrorCause::Tls(TlsError::UnknownAuthority) => {
                Some("if the server has an authority of its own, name the file with its certificate")
            }
            HttpErrorCause::Tls(TlsError::WrongName { .. }) => {
                Some("use a name or an address that the server's certificate has")
            }
            HttpErrorCause::Tls(TlsError::Expired | TlsError::NotYet) => Some("is the clock right here, and there?"),
            HttpErrorCause::Tls(TlsError::WantsClientCertificate(_)) => {
                Some("name a client certificate and its key that the server knows")
            }
            HttpErrorCause::NoRoots => {
                Some("install ca-certificates, set SSL_CERT_FILE, or name a file with an authority")
            }
            HttpErrorCause::Dns { .. } => Some("is the name right, and does it need a proxy to be reached?"),
            HttpErrorCause::Connect(_) | HttpErrorCause::Timeout { what: NO_CONNECTION, .. } => {
                Some("is the server up, does a firewall stand between, does it need a proxy?")
            }
            HttpErrorCause::Proxy(_) => {
                Some("a proxy is http://[user:password@]host:port, and has to let CONNECT through")
            }
            _ => None,
        }
    }
}

/// The step that timed out if nothing was sent yet.
pub(super) const NO_CONNECTION: &str = "no connection";

/// The cause below hyper's error. A connector's error arrives unchanged; all others end in a rustls error or a text.
pub(super) fn cause_of(error: &(dyn StdError + 'static)) -> HttpErrorCause {
    borrowed(error).unwrap_or_else(|| HttpErrorCause::Broken(format!("the connection broke: {}", last(error))))
}

/// The cause of a truncated answer.
pub(super) fn cause_of_body(error: &(dyn StdError + 'static)) -> HttpErrorCause {
    borrowed(error).unwrap_or_else(|| HttpErrorCause::Broken(format!("the answer breaks off: {}", last(error))))
}

fn last(error: &(dyn StdError + 'static)) -> String {
    error.source().map_or_else(|| error.to_string(), last)
}

/// A TLS error, or a connector's error, anywhere in the chain.
fn borrowed(error: &(dyn StdError + 'static)) -> Option<HttpErrorCause> {
    let mut next = Some(error);
    while let Some(one) = next {
        if let Some(Shared(cause)) = one.downcast_ref::<Shared>() {
            return cause.lock().ok().and_then(|mut cause| cause.take());
        }
        if let Some(tls) = one.downcast_ref::<rustls::Error>() {
            return Some(HttpErrorCause::Tls(tls.into()));
        }
        // An io::Error's source is its inner error's source: the inner error itself would be skipped.
        if let Some(inner) = one.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            return borrowed(inner);
        }
        next = one.source();
    }
    None
}

/// Carries a cause through hyper, which returns errors by reference only.
#[derive(Debug)]
pub(super) struct Shared(std::sync::Mutex<Option<HttpErrorCause>>);

impl From<HttpErrorCause> for Shared {
    fn from(cause: HttpErrorCause) -> Self {
        Self(std::sync::Mutex::new(Some(cause)))
    }
}

impl fmt::Display for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no connection")
    }
}

impl StdError for Shared {}
