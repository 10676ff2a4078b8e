//! The webhook endpoint: a forge announces a push or a pull request, and Egret polls at once instead of at the next
//! interval.
//!
//! GitHub, Gitea and Forgejo sign the body with HMAC-SHA256, GitLab sends the secret itself, and any other sender can
//! do as GitHub does. A request only triggers a poll; its body is not trusted otherwise: what is fetched, and from
//! where, is as configured. Polling continues, because a webhook may get lost. Not here: fetching (`git`).

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::State;
use axum::http::header::CONTENT_LENGTH;
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::map_response;
use axum::routing::post;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use tokio::sync::{mpsc, oneshot};

use super::bucket::Bucket;
use super::{Server, last_of_its_connection, limits};

/// The longest body that is read, in bytes. A push of a thousand commits has one of about 2 MB.
const LONGEST: usize = 4 << 20;
/// The most requests per second, over all clients, and in a burst.
const RATE: (f64, f64) = (5.0, 20.0);
/// The prefix of reports branches: Egret's own pushes are ignored.
const OWN_BRANCHES: &str = "refs/heads/egret/reports/";

/// The address and the secret of a webhook.
#[derive(Debug, Clone)]
pub struct WebhookListener {
    /// The listen address.
    pub listen: SocketAddr,
    /// The secret's file. Several lines are several secrets, so that one can be rotated without a gap. It is read for
    /// every request.
    pub secret_file: PathBuf,
    /// The branch that policies are read from, if it is known: pushes to others are ignored.
    pub branch: Option<String>,
    /// Whether events of pull requests are wanted.
    pub pulls: bool,
}

/// The received events.
#[derive(Debug)]
pub struct WebhookEvents {
    /// Pushes to the branch.
    pub pushes: mpsc::Receiver<()>,
    /// Pull requests that may have changed.
    pub pulls: mpsc::Receiver<()>,
}

/// Listens. Each relevant push and each event of a pull request sends one message.
pub fn start(options: WebhookListener) -> io::Result<(Server, WebhookEvents)> {
    let listen = options.listen;
    let failed = |error: io::Error| io::Error::new(error.kind(), format!("listen on {listen}: {error}"));
    // A secret that cannot be read would otherwise be noticed only at the first push.
    if secrets(&options.secret_file)?.is_empty() {
        let error = format!("{} holds no secret", options.secret_file.display());
        return Err(io::Error::new(io::ErrorKind::InvalidData, error));
    }
    let listener = limits::Limited::bind(listen).map_err(failed)?;
    let address = axum::serve::Listener::local_addr(&listener).map_err(failed)?;
    // One queued message is enough: it triggers a poll, and a poll reads everything.
    let (pushed, pushes) = mpsc::channel(1);
    let (proposed, pulls) = mpsc::channel(1);
    let state = Arc::new(Door { options, pushed, proposed, bucket: Mutex::new(Bucket::new(RATE, Instant::now())) });
    let router =
        Router::new().route("/webhook", post(receive)).with_state(state).layer(map_response(last_of_its_connection));
    let (stop, stopped) = oneshot::channel::<()>();
    let served = axum::serve(listener, router).with_graceful_shutdown(async {
        let _ = stopped.await;
    });
    tokio::spawn(async { served.await });
    Ok((Server { address, _stop: stop }, WebhookEvents { pushes, pulls }))
}

struct Door {
    options: WebhookListener,
    pushed: mpsc::Sender<()>,
    proposed: mpsc::Sender<()>,
    bucket: Mutex<Bucket>,
}

async fn receive(State(door): State<Arc<Door>>, headers: HeaderMap, body: Body) -> (StatusCode, &'static str) {
    if !door.bucket.lock().unwrap_or_else(PoisonError::into_inner).take(Instant::now()) {
        return (StatusCode::TOO_MANY_REQUESTS, "too many requests\n");
    }
    let Some(proof) = Proof::of(&headers) else {
        return (StatusCode::UNAUTHORIZED, "there is no signature and no token\n");
    };
    let announced = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    if announced.is_some_and(|length| length > LONGEST) {
        return (StatusCode::PAYLOAD_TOO_LARGE, "the body is too long\n");
    }
    let Ok(body) = to_bytes(body, LONGEST).await else {
        return (StatusCode::PAYLOAD_TOO_LARGE, "the body is too long, or did not come in time\n");
    };
    let Ok(secrets) = secrets(&door.options.secret_file) else {
        return (StatusCode::INTERNAL_SERVER_ERROR, "the secret cannot be read\n");
    };
    if !secrets.iter().any(|secret| proof.holds(secret, &body)) {
        return (StatusCode::UNAUTHORIZED, "the signature or token is wrong\n");
    }
    match Kind::of(&headers) {
        Kind::Push => {}
        Kind::Pull if door.options.pulls => return door.propose(),
        Kind::Pull | Kind::Other => return (StatusCode::OK, "ok, and no push\n"),
    }
    match pushed_to(&body) {
        Some(reference) if reference.starts_with(OWN_BRANCHES) => (StatusCode::OK, "ok, a push of Egret's own\n"),
        // It may be the head of a pull request.
        Some(reference) if door.is_other(&reference) && door.options.pulls => door.propose(),
        Some(reference) if door.is_other(&reference) => (StatusCode::OK, "ok, a push to another branch\n"),
        _ => {
            // Full: a poll is requested already.
            let _ = door.pushed.try_send(());
            (StatusCode::ACCEPTED, "looking\n")
        }
    }
}

impl Door {
    fn propose(&self) -> (StatusCode, &'static str) {
        // Full: a poll is requested already.
        let _ = self.proposed.try_send(());
        (StatusCode::ACCEPTED, "looking at pull requests\n")
    }

    fn is_other(&self, reference: &str) -> bool {
        self.options.branch.as_ref().is_some_and(|branch| reference.strip_prefix("refs/heads/") != Some(branch))
    }
}

/// The secrets in a file, a line each.
fn secrets(file: &Path) -> io::Result<Vec<String>> {
    let text = std::fs::read_to_string(file)
        .map_err(|error| io::Error::new(error.kind(), format!("read the secret in {}: {error}", file.display())))?;
    Ok(text.lines().map(str::trim).filter(|line| !line.is_empty()).map(ToOwned::to_owned).collect())
}

/// The proof that a request's sender knows the secret.
enum Proof {
    /// HMAC-SHA256 of the body.
    Signature(Vec<u8>),
    /// The secret itself.
    Token(String),
}

impl Proof {
    /// GitHub's `X-Hub-Signature-256: sha256=HEX`, which Gitea and Forgejo send as well; their own
    /// `X-Gitea-Signature: HEX`; GitLab's `X-Gitlab-Token`.
    fn of(headers: &HeaderMap) -> Option<Self> {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let signed = text("x-hub-signature-256").and_then(|value| value.strip_prefix("sha256="));
        let signed = signed.or_else(|| text("x-forgejo-signature")).or_else(|| text("x-gitea-signature"));
        match signed {
            Some(digits) => hex::decode(digits).ok().map(Self::Signature),
            None => text("x-gitlab-token").map(|token| Self::Token(token.to_owned())),
        }
    }

    /// Compares in constant time. Tokens are compared by their HMACs under the secret, because these have one length.
    fn holds(&self, secret: &str, body: &[u8]) -> bool {
        let code = |message: &[u8]| {
            let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).ok()?;
            mac.update(message);
            Some(mac)
        };
        match self {
            Self::Signature(signature) => code(body).is_some_and(|mac| mac.verify_slice(signature).is_ok()),
            Self::Token(token) => match (code(token.as_bytes()), code(secret.as_bytes())) {
                (Some(given), Some(known)) => given.verify(&known.finalize().into_bytes()).is_ok(),
                _ => false,
            },
        }
    }
}

/// The kind of event, by the forges' names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Push,
    Pull,
    /// Includes comments, Egret's own as well.
    Other,
}

impl Kind {
    /// Forges send more than pushes. A request that names no event means a push.
    fn of(headers: &HeaderMap) -> Self {
        let event = ["x-github-event", "x-gitea-event", "x-forgejo-event", "x-gitlab-event"]
            .into_iter()
            .find_map(|name| headers.get(name).and_then(|value| value.to_str().ok()));
        match event {
            None | Some("push" | "Push Hook") => Self::Push,
            Some("pull_request" | "pull_request_sync" | "Merge Request Hook") => Self::Pull,
            Some(_) => Self::Other,
        }
    }
}

/// The `ref` at the top level of the body. It serves to recognise Egret's own pushes; a body without one is a push to
/// an unknown branch.
fn pushed_to(body: &[u8]) -> Option<String> {
    let body: serde_json::Value = serde_json::from_slice(body).ok()?;
    body.get("ref")?.as_str().map(ToOwned::to_owned)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use axum::http::{HeaderName, HeaderValue};

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &str)| {
            (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())
        };
        pairs.iter().map(pair).collect()
    }

    fn believed(pairs: &[(&'static str, &str)], secret: &str, body: &[u8]) -> bool {
        Proof::of(&headers(pairs)).is_some_and(|proof| proof.holds(secret, body))
    }

    #[test]
    fn signatures_and_tokens_are_believed_only_where_the_secret_is_right() {
        // GitHub's own example: docs.github.com, "Validating webhook deliveries".
        let (secret, body) = ("It's a Secret to Everybody", b"Hello, World!".as_slice());
        let signature = "757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";
        assert!(believed(&[("x-hub-signature-256", &format!("sha256={signature}"))], secret, body));
        assert!(believed(&[("x-gitea-signature", signature)], secret, body));
        assert!(!believed(&[("x-hub-signature-256", &format!("sha256={signature}"))], "another", body));
        assert!(!believed(&[("x-hub-signature-256", &format!("sha256={signature}"))], secret, b"Hello, World?"));
        assert!(!believed(&[("x-hub-signature-256", &format!("sha256={}", &signature[..62]))], secret, body));
        for nonsense in ["sha256=", "sha256=zz", "sha1=00", ""] {
            assert!(!believed(&[("x-hub-signature-256", nonsense)], secret, body), "{nonsense}");
        }
        assert!(believed(&[("x-gitlab-token", secret)], secret, body));
        assert!(!believed(&[("x-gitlab-token", "It's a Secret")], secret, body));
        assert!(!believed(&[], secret, body));
        // A correct token does not make up for a wrong signature.
        assert!(!believed(&[("x-gitea-signature", "00"), ("x-gitlab-token", secret)], secret, body));
    }

    #[test]
    fn only_pushes_count_and_our_own_do_not() {
        let kind = |name, event| Kind::of(&headers(&[(name, event)]));
        assert_eq!((kind("x-github-event", "push"), Kind::of(&headers(&[]))), (Kind::Push, Kind::Push));
        assert_eq!(kind("x-gitlab-event", "Push Hook"), Kind::Push);
        assert_eq!(kind("x-gitea-event", "pull_request_sync"), Kind::Pull);
        assert_eq!(kind("x-gitlab-event", "Merge Request Hook"), Kind::Pull);
        for event in ["ping", "issue_comment", "pull_request_comment", "pull_request_review"] {
            assert_eq!(kind("x-github-event", event), Kind::Other, "{event}");
        }
        assert_eq!(pushed_to(br#"{"ref": "refs/heads/main", "x": 1}"#).as_deref(), Some("refs/heads/main"));
        assert_eq!(pushed_to(b"payload=%7B%7D"), None);
    }

    #[test]
    fn a_burst_is_taken_and_a_flood_is_not() {
        let start = Instant::now();
        let mut bucket = Bucket::new(RATE, start);
        assert_eq!((0..100).filter(|_| bucket.take(start)).count(), 20);
        assert_eq!((0..100).filter(|_| bucket.take(start + Duration::from_secs(1))).count(), 5);
    }
}
