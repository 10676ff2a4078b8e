//! Requests in, answers out: who asks, what goes wrong on the way, what is done, what is written down.
//!
//! Deliberately absent: HTTP/2, TLS, protobuf, aggregated discovery and OpenAPI.

use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::extract::connect_info::ConnectInfo;
use axum::http::{HeaderMap, header, request};
use axum::response::Response;
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};

use super::delete;
use super::faults::{Fault, FaultId};
use super::proxy;
use super::rbac::{self, User};
use super::read;
use super::resource::{self, Target};
use super::selectors::Selector;
use super::serve::{Peer, Shared};
use super::status::{self, Outcome, Refusal};
use super::watch::{News, Watch};
use super::world::{Request, World};
use super::write::{self, Answer, Call};

/// A request, taken apart.
pub(crate) struct Asked {
    method: String,
    path: String,
    query: String,
    kind: String,
    agent: String,
    authorization: Option<String>,
    partial: bool,
    body: Bytes,
    /// All headers, for those who are led on.
    headers: HeaderMap,
}

impl Asked {
    fn new(parts: &request::Parts, body: Bytes) -> Self {
        let text =
            |headers: &HeaderMap, name| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let accept = text(&parts.headers, header::ACCEPT).unwrap_or_default();
        let kind = text(&parts.headers, header::CONTENT_TYPE).unwrap_or_default();
        Self {
            method: parts.method.to_string(),
            path: parts.uri.path().to_owned(),
            query: parts.uri.query().unwrap_or_default().to_owned(),
            kind: kind.split(';').next().unwrap_or_default().to_owned(),
            agent: text(&parts.headers, header::USER_AGENT).unwrap_or_else(|| "unknown".to_owned()),
            authorization: text(&parts.headers, header::AUTHORIZATION),
            partial: accept.contains("as=PartialObjectMetadata"),
            body,
            headers: parts.headers.clone(),
        }
    }

    /// A request that a test makes by itself.
    pub(crate) fn direct(method: &str, path: &str, kind: &str, body: &Value) -> Self {
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        Self {
            method: method.to_owned(),
            path: path.to_owned(),
            query: query.to_owned(),
            kind: kind.to_owned(),
            agent: "test".to_owned(),
            authorization: None,
            partial: false,
            headers: HeaderMap::new(),
            body: if body.is_null() {
                Bytes::new()
            } else {
                Bytes::from(egret::core::escape::json_as_yaml(&body.to_string()))
            },
        }
    }

    fn query(&self, name: &str) -> String {
        let pairs = self.query.split('&').filter_map(|pair| pair.split_once('='));
        pairs.filter(|(key, _)| *key == name).map(|(_, value)| decoded(value)).next().unwrap_or_default()
    }

    fn json(&self) -> Outcome<Value> {
        if self.body.is_empty() {
            return Ok(Value::Null);
        }
        let read = serde_json::from_slice(&self.body);
        read.map_err(|error| status::bad_request(format!("the body of the request is no JSON: {error}")))
    }

    /// The verb that RBAC knows it by.
    fn verb(&self, target: Option<&Target>) -> &'static str {
        let all = target.is_none_or(|target| target.name.is_empty());
        match self.method.as_str() {
            "GET" if ["true", "1"].contains(&self.query("watch").as_str()) => "watch",
            "GET" if all && target.is_some() => "list",
            "GET" => "get",
            "POST" => "create",
            "PUT" => "update",
            "PATCH" => "patch",
            "DELETE" if all => "deletecollection",
            "DELETE" => "delete",
            _ => "unknown",
        }
    }
}

/// `a%3Db+c` is `a=b c`.
fn decoded(text: &str) -> String {
    let text = text.replace('+', " ");
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let code = after.get(..2).filter(|_| *first == b'%');
        let code = code.and_then(|code| u8::from_str_radix(std::str::from_utf8(code).ok()?, 16).ok());
        bytes.push(code.unwrap_or(*first));
        rest = if code.is_some() { &after[2..] } else { after };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// What comes of a request.
pub(crate) enum Reply {
    /// This.
    Whole(u16, Value),
    /// Events, as they happen.
    Events(Box<Watch>),
}

/// The largest body that is read.
const MAX_BODY: usize = 3 << 20;

/// Answers one request.
pub(crate) async fn answer(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    request: axum::extract::Request,
) -> Response {
    let (parts, body) = request.into_parts();
    // A body that ends early belongs to a connection that is gone: nobody reads the answer.
    let body = axum::body::to_bytes(body, usize::MAX).await.unwrap_or_default();
    let too_large = (body.len() > MAX_BODY).then(|| status::body_too_large(MAX_BODY));
    let asked = Asked::new(&parts, body);
    let fault = meet(&shared, &asked);
    let refused = match &fault {
        _ if too_large.is_some() => too_large,
        Some((_, Fault::Status(code))) => Some(status::any(*code)),
        Some((_, Fault::Denied(why))) => Some(status::denied(why)),
        Some((_, Fault::TooManyRequests(seconds))) => Some(status::too_many(*seconds)),
        Some((_, Fault::Drop)) => {
            note(&mut shared.world(), &asked, 0, false);
            peer.0.cut();
            return Response::default();
        }
        _ => None,
    };
    match &fault {
        // The delay is the fault that was asked for.
        Some((_, Fault::Delay(time))) => tokio::time::sleep(*time).await,
        Some((id, Fault::Hang)) => wait_for_end(&shared, *id).await,
        _ => {}
    }
    let reply = match refused {
        Some(refusal) => {
            note(&mut shared.world(), &asked, refusal.code, false);
            Reply::Whole(refusal.code, refusal.body)
        }
        None => match lead_on(&shared, &asked) {
            Some(Ok(way)) => return way.go().await,
            Some(Err(Refusal { code, body })) => Reply::Whole(code, body),
            None => execute(&shared, &asked),
        },
    };
    match fault {
        Some((_, Fault::LoseAnswer)) => peer.0.cut(),
        Some((id, Fault::HangAnswer)) => wait_for_end(&shared, id).await,
        _ => {}
    }
    match reply {
        Reply::Whole(code, body) => whole(code, &body, &parts.headers),
        Reply::Events(watch) => events(shared, watch),
    }
}

/// The way of a request to `pods/proxy`, if it is one that may go it; it is written down here.
fn lead_on(shared: &Shared, asked: &Asked) -> Option<Outcome<proxy::Way>> {
    let mut world = shared.world();
    let target = Target::parse(&asked.path, &world.customs).filter(|target| target.subresource == "proxy")?;
    let way = rbac::authenticate(&world, asked.authorization.as_deref())
        .and_then(|user| rbac::authorize(&world, &user, asked.verb(Some(&target)), &target))
        .and_then(|()| proxy::Way::find(&world, &target, &asked.method, &asked.path, &asked.query, &asked.headers));
    note(&mut world, asked, way.as_ref().map_or_else(|refusal| refusal.code, |_| 200), false);
    Some(way)
}

/// The fault that a test set for this request.
fn meet(shared: &Shared, asked: &Asked) -> Option<(FaultId, Fault)> {
    let mut world = shared.world();
    if world.faults.is_empty() {
        return None;
    }
    let target = Target::parse(&asked.path, &world.customs);
    let (verb, resource) = (asked.verb(target.as_ref()), resource_of(asked, target.as_ref()));
    let user = rbac::authenticate(&world, asked.authorization.as_deref()).map(|user| user.name).unwrap_or_default();
    let fault = world.faults.take(verb, &resource, &name_of(asked, target.as_ref()), &user);
    drop(world);
    if fault.is_some() {
        shared.notify();
    }
    fault
}

async fn wait_for_end(shared: &Shared, id: FaultId) {
    let mut changed = shared.changed.subscribe();
    while shared.world().faults.met(id).is_some() {
        changed.changed().await;
    }
}

/// `nodes/status`, or the path of what is no resource.
fn resource_of(asked: &Asked, target: Option<&Target>) -> String {
    match target {
        None => asked.path.clone(),
        Some(Target { resource, subresource, .. }) if subresource.is_empty() => resource.id().to_owned(),
        Some(Target { resource, subresource, .. }) => format!("{}/{subresource}", resource.id()),
    }
}

fn name_of(asked: &Asked, target: Option<&Target>) -> String {
    let of_path = target.map(|target| target.name.clone()).unwrap_or_default();
    if of_path.is_empty() && asked.method == "POST" {
        let body = asked.json().unwrap_or_default();
        return body["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    }
    of_path
}

/// Writes a request down.
fn note(world: &mut World, asked: &Asked, status: u16, wrote: bool) {
    let target = Target::parse(&asked.path, &world.customs);
    let user = rbac::authenticate(world, asked.authorization.as_deref()).map(|user| user.name).unwrap_or_default();
    let request = Request {
        user,
        agent: asked.agent.clone(),
        verb: asked.verb(target.as_ref()).to_owned(),
        resource: resource_of(asked, target.as_ref()),
        namespace: target.as_ref().map(|target| target.namespace.clone()).unwrap_or_default(),
        name: name_of(asked, target.as_ref()),
        query: asked.query.clone(),
        body: String::from_utf8_lossy(&asked.body).into_owned(),
        status,
        wrote,
    };
    world.requests.push(request);
}

/// Does what a request asks for, and writes it down.
fn execute(shared: &Shared, asked: &Asked) -> Reply {
    let mut world = shared.world();
    let before = world.store.version();
    let reply = rbac::authenticate(&world, asked.authorization.as_deref())
        .and_then(|user| act(&mut world, &user, asked))
        .unwrap_or_else(|Refusal { code, body }| Reply::Whole(code, body));
    let code = if let Reply::Whole(code, _) = &reply { *code } else { 200 };
    let wrote = world.store.version() != before;
    note(&mut world, asked, code, wrote);
    let written = world.store.take_written();
    drop(world);
    shared.notify_written(&written);
    reply
}

/// The same for a request of the test itself, which is an admin's and is not written down.
pub(crate) fn execute_as_admin(shared: &Shared, asked: &Asked) -> (u16, Value) {
    let mut world = shared.world();
    let reply = act(&mut world, &User::admin("test"), asked);
    let written = world.store.take_written();
    drop(world);
    shared.notify_written(&written);
    match reply {
        Ok(Reply::Whole(code, body)) | Err(Refusal { code, body }) => (code, body),
        Ok(Reply::Events(_)) => (200, Value::Null),
    }
}

fn act(world: &mut World, user: &User, asked: &Asked) -> Outcome<Reply> {
    if (asked.method.as_str(), asked.path.as_str()) == ("POST", rbac::WHO_AM_I) {
        return Ok(Reply::Whole(201, rbac::who_am_i(user)));
    }
    let Some(target) = Target::parse(&asked.path, &world.customs) else {
        return discovery(world, &asked.path).map(|body| Reply::Whole(200, body));
    };
    let verb = asked.verb(Some(&target));
    rbac::authorize(world, user, verb, &target)?;
    let query = |name: &str| asked.query(name);
    let whole = |answer: Answer| answer.map(|(code, body)| Reply::Whole(code, body));
    let call = Call {
        target: &target,
        query: &query,
        agent: &asked.agent,
        user,
        may_create: rbac::authorize(world, user, "create", &target),
    };
    match (verb, target.subresource.as_str()) {
        ("create", "") if target.resource.kind == "TokenReview" => {
            let (code, body) = rbac::review(world, &asked.json()?);
            Ok(Reply::Whole(code, body))
        }
        (_, _) if target.resource.kind == "TokenReview" => Err(status::not_allowed()),
        ("get", "" | "status") => whole(read::get(world, &target, asked.partial)),
        ("list", _) => whole(read::list(world, &target, &query, asked.partial)),
        ("watch", "") => {
            Watch::begin(world, &target, &query, asked.partial).map(|watch| Reply::Events(Box::new(watch)))
        }
        ("create", "token") => whole(rbac::request_token(world, &target, &asked.json()?)),
        ("create", "") if target.name.is_empty() => whole(write::create(world, &call, asked.json()?)),
        ("update", "" | "status" | "finalize") => whole(write::replace(world, &call, asked.json()?)),
        ("patch", "" | "status") if !target.name.is_empty() => {
            whole(write::change(world, &call, &asked.kind, &asked.body))
        }
        ("delete" | "deletecollection", "") => {
            let options = delete::Options {
                body: asked.json()?,
                grace: query("gracePeriodSeconds").parse().ok(),
                policy: query("propagationPolicy"),
                dry: query("dryRun") == "All",
            };
            if verb == "delete" {
                return whole(delete::one(world, user, &target, &options));
            }
            let id = target.resource.id();
            let selector = Selector::parse(id, &query("labelSelector"), &query("fieldSelector"))?;
            whole(delete::all(world, user, &target, &selector, &options))
        }
        _ => Err(status::not_allowed()),
    }
}

/// What clients ask about the server itself.
fn discovery(world: &World, path: &str) -> Outcome<Value> {
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let group = |name: &str| {
        let mut versions: Vec<String> =
            resource::all(&world.customs).filter(|one| one.group == name).map(|one| one.version.clone()).collect();
        versions.sort();
        versions.dedup();
        let described = |version: &String| json!({"groupVersion": format!("{name}/{version}"), "version": version});
        let versions: Vec<Value> = versions.iter().map(described).collect();
        json!({"name": name, "versions": versions, "preferredVersion": versions.first()})
    };
    match parts[..] {
        ["version"] => Ok(json!({
            "major": "1", "minor": "36", "emulationMajor": "1", "emulationMinor": "36", "minCompatibilityMajor": "1",
            "minCompatibilityMinor": "35", "gitVersion": "v1.36.0-double", "gitCommit": "", "gitTreeState": "clean",
            "buildDate": "1970-01-01T00:00:00Z", "goVersion": "", "compiler": "rustc", "platform": "linux/amd64",
        })),
        ["healthz" | "livez" | "readyz"] => Ok(json!("ok")),
        ["api"] => Ok(json!({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []})),
        ["apis"] => {
            let all = resource::all(&world.customs).map(|one| one.group.as_str()).filter(|name| !name.is_empty());
            let mut names: Vec<&str> = all.collect();
            names.sort_unstable();
            names.dedup();
            let groups: Vec<Value> = names.into_iter().map(group).collect();
            Ok(json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}))
        }
        ["apis", name] if resource::all(&world.customs).any(|one| one.group == name) => {
            let mut group = group(name);
            group["kind"] = json!("APIGroup");
            group["apiVersion"] = json!("v1");
            Ok(group)
        }
        ["api", version] => resources(world, "", version),
        ["apis", name, version] => resources(world, name, version),
        _ => Err(status::no_page()),
    }
}

fn resources(world: &World, group: &str, version: &str) -> Outcome<Value> {
    let of_it = resource::all(&world.customs).filter(|one| one.group == group && one.version == version);
    let (names, described): (Vec<String>, Vec<Vec<Value>>) =
        of_it.map(|one| (one.api_version(), one.described())).unzip();
    let name = names.first().ok_or_else(status::no_page)?;
    Ok(json!({
        "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": name, "resources": described.concat(),
    }))
}

/// Answers of this length are compressed for those who take that (`compressionThreshold` and `contentEncodingPriority`,
/// k8s.io/apiserver pkg/endpoints/handlers/responsewriters/writers.go).
const COMPRESSED: usize = 128 << 10;

fn whole(code: u16, body: &Value, asked: &HeaderMap) -> Response {
    let (kind, text) = match body {
        Value::String(text) => ("text/plain; charset=utf-8", text.clone()),
        body => ("application/json", body.to_string()),
    };
    let accepted = asked.get_all(header::ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    let gzip = text.len() >= COMPRESSED && { accepted }.any(|value| value.split(',').any(|one| one.trim() == "gzip"));
    let mut response = Response::builder().status(code).header(header::CONTENT_TYPE, kind);
    if let Some(seconds) = body["details"]["retryAfterSeconds"].as_u64() {
        response = response.header(header::RETRY_AFTER, seconds);
    }
    if !gzip {
        return response.body(Body::from(text)).unwrap_or_default();
    }
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(text.as_bytes()).expect("memory");
    let response = response.header(header::CONTENT_ENCODING, "gzip").header(header::VARY, "Accept-Encoding");
    response.body(Body::from(encoder.finish().expect("memory"))).unwrap_or_default()
}

fn events(shared: Arc<Shared>, watch: Box<Watch>) -> Response {
    let changed = shared.of_resource(watch.resource());
    let stream = futures::stream::unfold((shared, watch, changed), |(shared, mut watch, mut changed)| async move {
        loop {
            changed.mark_seen();
            let news = watch.news(&shared.world());
            match news {
                News::Events(lines) => {
                    return Some((Ok::<_, std::convert::Infallible>(Bytes::from(lines)), (shared, watch, changed)));
                }
                News::Nothing(until) => {
                    let left = until.saturating_duration_since(tokio::time::Instant::now());
                    let left = left.max(Duration::from_millis(1));
                    // Both ways there may be news.
                    drop(tokio::time::timeout(left, changed.changed()).await);
                }
                News::Over => return None,
            }
        }
    });
    let response = Response::builder().status(200).header(header::CONTENT_TYPE, "application/json");
    response.body(Body::from_stream(stream)).unwrap_or_default()
}
