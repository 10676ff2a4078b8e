//! The fields of answers, as the forges' documentation has them, as far as anybody may look at them.
//!
//! Deliberately absent: who may ask (`routes`).

use egret::forge::ForgeKind;
use serde_json::{Value, json};

use super::{Comment, Pull, Status, World};

pub(super) fn pull(world: &World, number: u64, one: &Pull) -> Value {
    let source = if one.from_fork { 2 } else { 1 };
    let Pull { head, title, draft, updated: time, .. } = one;
    let state = match world.kind {
        _ if !one.open => "closed",
        ForgeKind::GitLab => "opened",
        ForgeKind::GitHub | ForgeKind::Gitea => "open",
    };
    match world.kind {
        ForgeKind::GitHub => json!({
            "number": number, "title": title, "draft": draft, "updated_at": time, "state": state,
            "base": { "ref": "main", "repo": { "id": 1 } },
            "head": { "ref": "change", "sha": head, "repo": { "id": source } },
        }),
        ForgeKind::GitLab => json!({
            "id": 900 + number, "iid": number, "title": title, "draft": draft, "updated_at": time,
            "state": state, "target_branch": "main", "source_branch": "change", "sha": head,
            "source_project_id": source, "target_project_id": 1,
        }),
        ForgeKind::Gitea => json!({
            "number": number, "title": title, "draft": draft, "updated_at": time, "state": state,
            "base": { "ref": "main", "repo_id": 1 },
            "head": { "ref": "change", "sha": head, "repo_id": source },
        }),
    }
}

pub(super) fn comment(world: &World, one: &Comment) -> Value {
    let url = format!("http://127.0.0.1:{}/comment/{}", world.port, one.id);
    match world.kind {
        ForgeKind::GitLab => json!({
            "id": one.id, "body": one.body, "system": one.system, "noteable_iid": one.pull,
            "author": { "id": 7, "username": one.author },
        }),
        ForgeKind::GitHub | ForgeKind::Gitea => {
            json!({ "id": one.id, "body": one.body, "html_url": url, "user": { "id": 7, "login": one.author } })
        }
    }
}

/// A status as it is read, of one as it was set.
pub(super) fn status(world: &World, id: usize, one: &Status) -> Value {
    let set = &one.set;
    let (state, description) = (&set["state"], &set["description"]);
    match world.kind {
        ForgeKind::GitHub => json!({
            "id": id, "state": state, "context": set["context"], "description": description,
            "creator": { "login": one.author },
        }),
        ForgeKind::GitLab => json!({ "id": id, "status": state, "name": set["name"], "description": description }),
        ForgeKind::Gitea => json!({
            "id": id, "status": state, "context": set["context"], "description": description,
            "creator": { "login": one.author },
        }),
    }
}
