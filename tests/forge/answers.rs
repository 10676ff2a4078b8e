//! The fields of answers, as the forges' documentation has them, as far as anybody may look at them.
//!
//! Deliberately absent: who may ask (`routes`).

use egret::forge::Kind;
use serde_json::{Value, json};

use super::{Comment, World};

/// The one open pull request.
pub(super) fn pull(world: &World) -> Value {
    let source = if world.from_fork { 2 } else { 1 };
    let (head, time) = (&world.head, "2026-11-23T03:00:00Z");
    match world.kind {
        Kind::GitHub => json!({
            "number": 11, "title": "Let the empire through", "draft": false, "updated_at": time, "state": "open",
            "base": { "ref": "main", "repo": { "id": 1 } },
            "head": { "ref": "change", "sha": head, "repo": { "id": source } },
        }),
        Kind::GitLab => json!({
            "id": 900, "iid": 11, "title": "Let the empire through", "draft": false, "updated_at": time,
            "state": "opened", "target_branch": "main", "source_branch": "change", "sha": head,
            "source_project_id": source, "target_project_id": 1,
        }),
        Kind::Gitea => json!({
            "number": 11, "title": "Let the empire through", "draft": false, "updated_at": time, "state": "open",
            "base": { "ref": "main", "repo_id": 1 },
            "head": { "ref": "change", "sha": head, "repo_id": source },
        }),
    }
}

pub(super) fn comment(world: &World, one: &Comment) -> Value {
    let url = format!("http://127.0.0.1:{}/comment/{}", world.port, one.id);
    match world.kind {
        Kind::GitLab => json!({
            "id": one.id, "body": one.body, "system": one.system, "noteable_iid": 11,
            "author": { "id": 7, "username": one.author },
        }),
        Kind::GitHub | Kind::Gitea => {
            json!({ "id": one.id, "body": one.body, "html_url": url, "user": { "id": 7, "login": one.author } })
        }
    }
}

/// A status as it is read, of one as it was set.
pub(super) fn status(world: &World, id: usize, set: &Value) -> Value {
    let (state, description) = (&set["state"], &set["description"]);
    // A test may say that it is by somebody else.
    let setter = set["creator"].as_str().unwrap_or(&world.me);
    match world.kind {
        Kind::GitHub => json!({
            "id": id, "state": state, "context": set["context"], "description": description,
            "creator": { "login": setter },
        }),
        Kind::GitLab => json!({ "id": id, "status": state, "name": set["name"], "description": description }),
        Kind::Gitea => json!({
            "id": id, "status": state, "context": set["context"], "description": description,
            "creator": { "login": setter },
        }),
    }
}
