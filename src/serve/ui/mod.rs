//! The page for people on call: HTML over HTTP, read-only, without JavaScript.
//!
//! A request is answered from what the loop knew last: the loop is asked at most once a second, hands over values, and draws nothing.
//! Drawing happens beside it, and never more than a little at a time. The server has no password; [`UiOptions`] lists
//! the names to which it answers, so that no web site can read it through a viewer's browser by a name of its own (DNS
//! rebinding). Not here: what is shown (`core::page`), and where it comes from (`reconcile`).

mod explained;
mod happenings;
mod layout;
mod overview;
mod picture;
mod query;
mod site;
mod tables;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri};
use axum::middleware::{Next, from_fn_with_state, map_response};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use base64::prelude::{BASE64_STANDARD, Engine as _};
use maud::{Markup, html};
use sha2::{Digest as _, Sha256};
use tokio::sync::{mpsc, oneshot};

use self::layout::{Frame, STYLE, Tab};
use self::query::Query;
pub use self::site::{PageRequest, PageRequests, PolicyLog};
use self::site::{Seen, Site};
use super::{Server, last_of_its_connection, limits};
use crate::core::explain::UnknownPod;

/// Where the page is served, and for whom.
#[derive(Debug, Clone)]
pub struct UiOptions {
    /// The listen address.
    pub listen: SocketAddr,
    /// The names under which it answers, beside addresses and `localhost`.
    pub hosts: Vec<String>,
}

/// How long the loop may take to answer. Then what was known before is shown, and that it is old.
const PATIENCE: Duration = Duration::from_secs(2);

/// Listens, and serves on the current runtime. Requests for what is known go to the returned receiver.
pub fn start(options: UiOptions, log: Arc<dyn PolicyLog>) -> io::Result<(Server, PageRequests)> {
    let listen = options.listen;
    let failed = |error: io::Error| io::Error::new(error.kind(), format!("listen on {listen}: {error}"));
    let listener = limits::Limited::bind(listen).map_err(failed)?;
    let address = axum::serve::Listener::local_addr(&listener).map_err(failed)?;
    // A request more than this waits: those that are drawn take memory.
    let (sender, receiver) = mpsc::channel(8);
    let site = Arc::new(Site::new(sender, log));
    let (stop, stopped) = oneshot::channel::<()>();
    let served = axum::serve(listener, router(site, options.hosts)).with_graceful_shutdown(async {
        // An error means that the sender was dropped, which is the signal.
        let _ = stopped.await;
    });
    tokio::spawn(async { served.await });
    Ok((Server { address, _stop: stop }, PageRequests::new(receiver)))
}

/// Other methods get 405, other paths 404.
fn router(site: Arc<Site>, hosts: Vec<String>) -> Router {
    Router::new()
        .route("/", get(front))
        .route("/policies", get(policies))
        .route("/policy", get(policy))
        .route("/nodes", get(nodes))
        .route("/changes", get(changes))
        .route("/explain", get(explain))
        .fallback(nowhere)
        .with_state(site)
        .layer(from_fn_with_state(Arc::new(hosts), known_host))
        .layer(map_response(guarded))
        .layer(map_response(last_of_its_connection))
}

async fn front(State(site): State<Arc<Site>>, uri: Uri) -> Response {
    show(&site, Tab::Overview, &uri, |seen, query| Some(overview::front(seen, query))).await
}

async fn policies(State(site): State<Arc<Site>>, uri: Uri) -> Response {
    show(&site, Tab::Policies, &uri, |seen, query| Some(tables::policies(seen, query))).await
}

async fn nodes(State(site): State<Arc<Site>>, uri: Uri) -> Response {
    show(&site, Tab::Nodes, &uri, |seen, query| Some(tables::nodes(seen, query))).await
}

async fn changes(State(site): State<Arc<Site>>, uri: Uri) -> Response {
    show(&site, Tab::Changes, &uri, |seen, query| Some(happenings::changes(seen, query))).await
}

async fn policy(State(site): State<Arc<Site>>, uri: Uri) -> Response {
    let log = site.log();
    show(&site, Tab::Policies, &uri, move |seen, query| tables::policy(seen, query, log.as_ref())).await
}

/// Draws a page from what is known, beside the loop. None: there is no such thing.
async fn show(
    site: &Site,
    tab: Tab,
    uri: &Uri,
    draw: impl FnOnce(&Seen, &Query) -> Option<Markup> + Send + 'static,
) -> Response {
    let query = Query::of(uri);
    let seen = match site.seen().await {
        Ok(seen) => seen,
        Err(why) => return unknown_yet(&why),
    };
    let drawn = tokio::task::spawn_blocking(move || {
        let body = draw(&seen, &query)?;
        Some(Frame { tab, seen: Some(&seen), query: &query }.page(&body))
    });
    match drawn.await {
        Ok(Some(page)) => html_page(StatusCode::OK, page),
        Ok(None) => not_found("There is no such policy (any more)."),
        Err(_) => failed(),
    }
}

async fn explain(State(site): State<Arc<Site>>, uri: Uri) -> Response {
    let query = Query::of(&uri);
    let asked = explained::Asked::of(&query);
    let seen = match site.seen().await {
        Ok(seen) => seen,
        Err(why) => return unknown_yet(&why),
    };
    let answer = match &asked {
        explained::Asked::Nothing => {
            let known = &seen.model.known;
            (StatusCode::OK, html! { h1 { "Why is this pod denied?" } (explained::fields(&query, known)) })
        }
        explained::Asked::Mistake(mistake) => {
            let mistake = html! { p.note.bad { span.mark { "✕ " } (mistake) } };
            let page = html! { h1 { "This cannot be asked" } (mistake) (explained::form(&query, None)) };
            (StatusCode::BAD_REQUEST, page)
        }
        explained::Asked::Pod(question) => match site.about(&question.pod).await {
            Err(why) => return unknown_yet(&why),
            Ok(known) => {
                let (question, log, shown) = (question.clone(), site.log(), query.clone());
                let drawn = site.drawing(move || explained::answer(&known, &question, log.as_ref(), &shown)).await;
                match drawn {
                    Some(Ok(body)) => (StatusCode::OK, body),
                    Some(Err(unknown)) => (StatusCode::NOT_FOUND, explained::unknown(&query, &unknown)),
                    None => return failed(),
                }
            }
        },
        explained::Asked::Address(address) => {
            let (address, seen, shown) = (*address, Arc::clone(&seen), query.clone());
            match site.drawing(move || explained::leaving(&seen.model.known, address, &shown)).await {
                Some(body) => (StatusCode::OK, body),
                None => return failed(),
            }
        }
    };
    let page = Frame { tab: Tab::Explain, seen: Some(&seen), query: &query }.page(&answer.1);
    html_page(answer.0, page)
}

async fn nowhere() -> Response {
    not_found("There is no such page.")
}

fn not_found(what: &str) -> Response {
    let query = Query::default();
    let body = html! { h1 { (what) } p { a href="/" { "The overview" } " leads to all that there is." } };
    html_page(StatusCode::NOT_FOUND, Frame { tab: Tab::None, seen: None, query: &query }.page(&body))
}

/// Nothing has been read, or the loop does not answer and has never answered.
fn unknown_yet(why: &str) -> Response {
    let query = Query::default();
    let body = html! {
        h1 { "Nothing can be shown yet" }
        p.note.doubtful { span.mark { "! " } (why) }
        p { a href="" { "Try again" } }
    };
    html_page(StatusCode::SERVICE_UNAVAILABLE, Frame { tab: Tab::None, seen: None, query: &query }.page(&body))
}

fn failed() -> Response {
    (StatusCode::INTERNAL_SERVER_ERROR, "the page could not be drawn\n").into_response()
}

fn html_page(status: StatusCode, page: Markup) -> Response {
    let kind = HeaderValue::from_static("text/html; charset=utf-8");
    (status, [(CONTENT_TYPE, kind)], page.into_string()).into_response()
}

/// Refuses host names that are not this server's: a web site whose name suddenly resolves to it could otherwise read it
/// through a viewer's browser.
async fn known_host(State(hosts): State<Arc<Vec<String>>>, request: Request, next: Next) -> Response {
    if is_known(request.headers(), request.uri(), &hosts) {
        return next.run(request).await;
    }
    let hint = "this server answers to its addresses, to localhost, and to the names that --ui-host gives it\n";
    (StatusCode::MISDIRECTED_REQUEST, hint).into_response()
}

fn is_known(headers: &HeaderMap, uri: &Uri, hosts: &[String]) -> bool {
    let of_header = headers.get(HOST).and_then(|host| host.to_str().ok());
    let of_uri = uri.authority().map(Authority::as_str);
    let Some(authority) = of_uri.or(of_header) else { return false };
    let host = match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address,
        None => authority.split(':').next().unwrap_or_default(),
    };
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    host.parse::<IpAddr>().is_ok()
        || host == "localhost"
        || host.ends_with(".localhost")
        || hosts.iter().any(|known| known.eq_ignore_ascii_case(&host))
}

/// Nothing but the page's own style is loaded or run, nothing is sent elsewhere, and no other site shows it in a frame.
static POLICY: LazyLock<String> = LazyLock::new(|| {
    let style = BASE64_STANDARD.encode(Sha256::digest(STYLE));
    format!(
        "default-src 'none'; style-src 'sha256-{style}'; img-src data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    )
});

async fn guarded(mut response: Response) -> Response {
    let headers = response.headers_mut();
    if let Ok(policy) = HeaderValue::from_str(&POLICY) {
        headers.insert(CONTENT_SECURITY_POLICY, policy);
    }
    for (name, value) in [
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
        (CACHE_CONTROL, "no-store"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

/// What a command line would say to it.
fn hint_of(unknown: &UnknownPod) -> String {
    match &unknown.near {
        Some(near) => format!("did you mean {near}?"),
        None => "`kubectl get pods -A` lists them".to_owned(),
    }
}
