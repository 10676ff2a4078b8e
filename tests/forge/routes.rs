//! Which request means what, and which none does.
//!
//! Deliberately absent: the fields of answers (`answers`).

use axum::http::request::Parts;
use axum::response::Response;
use egret::forge::ForgeKind;
use serde_json::{Value, json};

use super::answers::{comment, pull, status};
use super::{Asked, Status, World, json_response};

pub(super) fn route(world: &mut World, head: &Parts, body: &[u8]) -> Response {
    let root = match world.kind {
        ForgeKind::GitHub => "/api/v3",
        ForgeKind::GitLab => "/api/v4",
        ForgeKind::Gitea => "/api/v1",
    };
    let line = format!("{} {}", head.method, head.uri);
    let Some(path) = head.uri.path().strip_prefix(root) else {
        world.wrong.push(format!("{line}: not below {root}"));
        return json_response(404, &json!({ "message": "Not Found" }));
    };
    if let Some(what) = headers(world.kind, head, body) {
        world.wrong.push(format!("{line}: {what}"));
        return json_response(400, &json!({ "message": what }));
    }
    let scheme = if world.kind == ForgeKind::Gitea { "token" } else { "Bearer" };
    let token = head.headers.get("authorization").and_then(|value| value.to_str().ok());
    let token = token.and_then(|text| text.strip_prefix(scheme)?.strip_prefix(' '));
    let Some(login) = token.and_then(|token| world.tokens.get(token)).cloned() else {
        return json_response(401, &json!({ "message": "Bad credentials" }));
    };
    let pairs = head.uri.query().unwrap_or_default().split('&').filter_map(|pair| pair.split_once('='));
    let asked = Asked {
        login,
        method: head.method.to_string(),
        path: path.to_owned(),
        query: pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
        body: serde_json::from_slice(body).unwrap_or_default(),
    };
    let answer = match world.kind {
        ForgeKind::GitHub => github(world, &asked),
        ForgeKind::GitLab => gitlab(world, &asked),
        ForgeKind::Gitea => gitea(world, &asked),
    };
    answer.unwrap_or_else(|| {
        world.wrong.push(format!("{line}: nothing of that kind, with {}", asked.body));
        json_response(404, &json!({ "message": "Not Found" }))
    })
}

fn headers(kind: ForgeKind, head: &Parts, body: &[u8]) -> Option<String> {
    let header = |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if !header("user-agent").starts_with("egret/") {
        return Some("GitHub refuses requests without a user agent".to_owned());
    }
    if kind == ForgeKind::GitHub && header("accept") != "application/vnd.github+json" {
        return Some(format!("accept is {:?}", header("accept")));
    }
    if kind == ForgeKind::GitHub && header("x-github-api-version") != "2022-11-28" {
        return Some("no version".to_owned());
    }
    if head.method == "GET" {
        return (!body.is_empty()).then(|| "a body with GET".to_owned());
    }
    (header("content-type") != "application/json").then(|| "the body is not said to be JSON".to_owned())
}

/// Whether a body has these texts, and nothing but these and those.
fn has(asked: &Asked, needed: &[&str], possible: &[&str]) -> bool {
    let Some(object) = asked.body.as_object() else { return false };
    needed.iter().all(|name| object.get(*name).is_some_and(Value::is_string))
        && object.keys().all(|key| needed.contains(&key.as_str()) || possible.contains(&key.as_str()))
}

fn forbidden() -> Response {
    json_response(403, &json!({ "message": "Resource not accessible by integration" }))
}

/// A page of a list, with the link to the next.
fn page(world: &World, asked: &Asked, size: &str, all: Vec<Value>, below: Option<&str>) -> Response {
    let per = asked.number(size).unwrap_or(if world.kind == ForgeKind::GitLab { 20 } else { 30 }).clamp(1, 100);
    let number = asked.number("page").unwrap_or(1).max(1);
    let total = all.len();
    let shown: Vec<Value> = all.into_iter().skip((number - 1) * per).take(per).collect();
    let value = below.map_or_else(|| json!(shown), |name| json!({ "total_count": total, name: shown }));
    let mut answer = json_response(200, &value);
    if number * per < total {
        let root = match world.kind {
            ForgeKind::GitHub => "/api/v3",
            ForgeKind::GitLab => "/api/v4",
            ForgeKind::Gitea => "/api/v1",
        };
        let others = asked.query.iter().filter(|(name, _)| name != "page");
        let others: Vec<String> = others.map(|(name, value)| format!("{name}={value}&")).collect();
        let base = format!("http://127.0.0.1:{}{root}{}?{}page=", world.port, asked.path, others.concat());
        let link = format!("<{base}1>; rel=\"first\", <{base}{}>; rel=\"next\"", number + 1);
        answer.headers_mut().insert("link", link.parse().expect("a header"));
    }
    answer
}

fn user(world: &World, asked: &Asked) -> Response {
    if asked.login.ends_with("[bot]") {
        return forbidden();
    }
    let name = if world.kind == ForgeKind::GitLab { "username" } else { "login" };
    json_response(200, &json!({ "id": 7, name: asked.login }))
}

fn create_comment(world: &mut World, asked: &Asked, number: &str) -> Option<Response> {
    let number = known(world, number)?;
    if !has(asked, &["body"], &[]) {
        return None;
    }
    if !world.may_comment {
        return Some(forbidden());
    }
    let body = asked.body["body"].as_str().unwrap_or_default().to_owned();
    if body.chars().count() > 65_536 {
        return Some(json_response(
            422,
            &json!({ "message": "Validation Failed", "errors": [{ "message": "body is too long" }] }),
        ));
    }
    let made = world.say_under(number, &asked.login, &body);
    Some(json_response(201, &comment(world, &made)))
}

fn update_comment(world: &mut World, asked: &Asked, id: &str) -> Option<Response> {
    if !has(asked, &["body"], &[]) {
        return None;
    }
    if !world.may_comment {
        return Some(forbidden());
    }
    let body = asked.body["body"].as_str().unwrap_or_default().to_owned();
    let Some(found) = world.comments.iter_mut().find(|one| one.id.to_string() == id) else {
        return Some(json_response(404, &json!({ "message": "Not Found" })));
    };
    found.body = body;
    let changed = found.clone();
    Some(json_response(200, &comment(world, &changed)))
}

/// Takes a status whose state is one of these.
fn create_status(
    world: &mut World,
    asked: &Asked,
    commit: &str,
    context: &str,
    states: &[&str],
    more: &[&str],
) -> Option<Response> {
    if !has(asked, &["state", context, "description"], more) || !states.contains(&asked.body["state"].as_str()?) {
        return None;
    }
    if !world.may_status || world.without_status.contains(commit) {
        return Some(forbidden());
    }
    if asked.body["description"].as_str()?.chars().count() > 140 {
        let why = json!([{ "message": "description is too long (maximum is 140 characters)" }]);
        return Some(json_response(422, &json!({ "message": "Validation Failed", "errors": why })));
    }
    let made = Status { commit: commit.to_owned(), author: asked.login.clone(), set: asked.body.clone() };
    world.statuses.push(made.clone());
    Some(json_response(201, &status(world, world.statuses.len(), &made)))
}

fn statuses(world: &World, commit: &str) -> Vec<Value> {
    let numbered = (1..).zip(&world.statuses).filter(|(_, one)| one.commit == commit);
    numbered.map(|(id, one)| status(world, id, one)).collect()
}

/// The number of a pull request that is there.
fn known(world: &World, number: &str) -> Option<u64> {
    number.parse().ok().filter(|number| world.pulls.contains_key(number))
}

fn one_pull(world: &World, number: &str) -> Option<Response> {
    let number = known(world, number)?;
    Some(json_response(200, &pull(world, number, &world.pulls[&number])))
}

fn open_pulls(world: &World) -> Vec<Value> {
    world.pulls.iter().filter(|(_, one)| one.open).map(|(number, one)| pull(world, *number, one)).collect()
}

fn comments(world: &World, number: &str) -> Option<Vec<Value>> {
    let number = known(world, number)?;
    Some(world.comments.iter().filter(|one| one.pull == number).map(|one| comment(world, one)).collect())
}

fn github(world: &mut World, asked: &Asked) -> Option<Response> {
    let path = asked.path.clone();
    if asked.method == "GET" && path == "/user" {
        return Some(user(world, asked));
    }
    let path = path.strip_prefix(&format!("/repos/{}/", world.project))?;
    let parts: Vec<&str> = path.split('/').collect();
    match (asked.method.as_str(), &parts[..]) {
        ("GET", ["pulls"]) if asked.query("state") == Some("open") && asked.query("base").is_some() => {
            Some(page(world, asked, "per_page", open_pulls(world), None))
        }
        ("GET", ["pulls", number]) => one_pull(world, number),
        ("GET", ["issues", number, "comments"]) => Some(page(world, asked, "per_page", comments(world, number)?, None)),
        ("POST", ["issues", number, "comments"]) => create_comment(world, asked, number),
        ("PATCH", ["issues", "comments", id]) => update_comment(world, asked, id),
        ("GET", ["commits", sha, "statuses"]) => {
            // The newest first.
            let listed = statuses(world, sha).into_iter().rev().collect();
            Some(page(world, asked, "per_page", listed, None))
        }
        ("POST", ["statuses", sha]) => {
            create_status(world, asked, sha, "context", &["error", "failure", "pending", "success"], &["target_url"])
        }
        ("GET", ["commits", sha, "check-runs"]) => {
            if !world.may_check {
                return Some(forbidden());
            }
            let newest: Vec<Value> =
                world.checks.iter().rfind(|one| one["head_sha"] == *sha).cloned().into_iter().collect();
            Some(page(world, asked, "per_page", newest, Some("check_runs")))
        }
        ("POST", ["check-runs"]) => check(world, asked, true),
        ("PATCH", ["check-runs", id]) => {
            let at = world.checks.iter().position(|one| one["id"].as_u64() == id.parse().ok())?;
            check(world, asked, false)?;
            let annotations = asked.body["output"]["annotations"].as_array()?.clone();
            let run = &mut world.checks[at];
            run["status"] = asked.body["status"].clone();
            run["conclusion"] = asked.body["conclusion"].clone();
            run["output"]["annotations"].as_array_mut()?.extend(annotations);
            Some(json_response(200, &world.checks[at].clone()))
        }
        _ => None,
    }
}

/// A check run, new or continued.
fn check(world: &mut World, asked: &Asked, new: bool) -> Option<Response> {
    let needed: &[&str] = if new { &["name", "head_sha", "external_id", "status"] } else { &["status"] };
    let completed = asked.body["status"] == "completed";
    let output = &asked.body["output"];
    let annotations = output["annotations"].as_array()?;
    let good = |one: &Value| {
        ["path", "annotation_level", "message", "title"].iter().all(|name| one[name].is_string())
            && one["start_line"].as_u64() >= Some(1)
            && one["end_line"].as_u64() >= one["start_line"].as_u64()
            && matches!(one["annotation_level"].as_str(), Some("notice" | "warning" | "failure"))
    };
    if !has(asked, needed, &["conclusion", "output", "details_url"])
        || completed != asked.body["conclusion"].is_string()
        || annotations.len() > 50
        || !annotations.iter().all(good)
        || !(output["title"].is_string() && output["summary"].is_string())
    {
        return None;
    }
    if !world.may_check {
        return Some(forbidden());
    }
    if !new {
        return Some(json_response(200, &Value::Null));
    }
    let mut run = asked.body.clone();
    run["id"] = json!(world.fresh());
    run["html_url"] = json!(format!("https://forge.example/runs/{}", run["id"]));
    world.checks.push(run.clone());
    Some(json_response(201, &run))
}

fn gitlab(world: &mut World, asked: &Asked) -> Option<Response> {
    if asked.method == "GET" && asked.path == "/user" {
        return Some(user(world, asked));
    }
    let path = asked.path.strip_prefix(&format!("/projects/{}/", world.project.replace('/', "%2F")))?;
    let parts: Vec<&str> = path.split('/').collect();
    match (asked.method.as_str(), &parts[..]) {
        ("GET", ["merge_requests"]) if asked.query("state") == Some("opened") => {
            Some(page(world, asked, "per_page", open_pulls(world), None))
        }
        ("GET", ["merge_requests", number]) => one_pull(world, number),
        ("GET", ["merge_requests", number, "notes"]) => {
            Some(page(world, asked, "per_page", comments(world, number)?, None))
        }
        ("POST", ["merge_requests", number, "notes"]) => create_comment(world, asked, number),
        ("PUT", ["merge_requests", number, "notes", id]) => {
            let number = known(world, number)?;
            world.comments.iter().find(|one| one.pull == number && one.id.to_string() == *id)?;
            update_comment(world, asked, id)
        }
        ("GET", ["repository", "commits", sha, "statuses"]) if asked.query("name").is_some() => {
            Some(page(world, asked, "per_page", statuses(world, sha), None))
        }
        ("POST", ["statuses", sha]) => {
            let states = ["pending", "running", "success", "failed", "canceled"];
            create_status(world, asked, sha, "name", &states, &["target_url", "pipeline_id"])
        }
        _ => None,
    }
}

fn gitea(world: &mut World, asked: &Asked) -> Option<Response> {
    if asked.method == "GET" && asked.path == "/user" {
        return Some(user(world, asked));
    }
    let path = asked.path.strip_prefix(&format!("/repos/{}/", world.project))?;
    let parts: Vec<&str> = path.split('/').collect();
    match (asked.method.as_str(), &parts[..]) {
        ("GET", ["pulls"]) if asked.query("state") == Some("open") => {
            Some(page(world, asked, "limit", open_pulls(world), None))
        }
        ("GET", ["pulls", number]) => one_pull(world, number),
        // All at once.
        ("GET", ["issues", number, "comments"]) => Some(json_response(200, &json!(comments(world, number)?))),
        ("POST", ["issues", number, "comments"]) => create_comment(world, asked, number),
        ("PATCH", ["issues", "comments", id]) => update_comment(world, asked, id),
        ("GET", ["statuses", sha]) => Some(page(world, asked, "limit", statuses(world, sha), None)),
        ("POST", ["statuses", sha]) => {
            let states = ["pending", "success", "error", "failure", "warning"];
            create_status(world, asked, sha, "context", &states, &["target_url"])
        }
        _ => None,
    }
}
