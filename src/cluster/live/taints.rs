//! Removes the startup taint from a node, and no other taint.
//!
//! It uses a JSON patch that first tests what it removes. Taints are one atomic list (`listType=atomic`), which
//! kubelets, node controllers, autoscalers and users write too: server-side apply would own all of it, and a merge
//! patch writes all of it. The server itself retries a patch on the newest object if another writer was faster, so
//! the test holds for what is really written. Egret never adds a taint: that permission would allow it to drain every
//! node.

use kube::core::Request;
use kube::core::params::GetParams;
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::{Value, json};

use super::error::ApiError;
use super::objects::CONTROLLER;
use super::resources::STARTUP_TAINT;
use super::wire::{Meta, Nodes, Slim, Watched};
use super::{ANSWER, ApiClient, json_patch};
use crate::core::name::NodeName;

/// How often a list that changes under the patch is read anew.
const TRIES: u32 = 4;

/// The result of a removal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TaintOutcome {
    /// The taint was there, and is removed.
    Removed,
    /// It was gone already. Nothing was written.
    Absent,
    /// The node is gone: there is none of that name, or another one with a new uid.
    Gone,
}

/// The current taints of a node: a patch has to repeat the one it removes.
#[derive(Deserialize)]
struct Tainted {
    metadata: Meta<IgnoredAny>,
    #[serde(default)]
    spec: Spec,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Spec {
    taints: Option<Vec<Value>>,
}

impl ApiClient {
    /// Removes the startup taint, with any effect, from the node with this uid. Concurrent changes of other taints
    /// are not lost.
    pub async fn remove_startup_taint(&self, node: &NodeName, uid: &str) -> Result<TaintOutcome, ApiError> {
        let doing = format!("taking the taint {STARTUP_TAINT} off node {node}");
        let patch = |found: &Tainted| {
            if found.metadata.uid != uid {
                return Err(TaintOutcome::Gone);
            }
            removal(uid, found.spec.taints.as_deref().unwrap_or_default()).ok_or(TaintOutcome::Absent)
        };
        let mut nothing = TaintOutcome::Gone;
        let patched = self.patch_tested(&doing, node, |found| patch(found).map_err(|why| nothing = why).ok()).await?;
        Ok(if patched { TaintOutcome::Removed } else { nothing })
    }

    /// Reads a node, and sends the JSON patch made for it; anew if the patch's tests fail because the node was written
    /// in between. False if the node is gone, or there is nothing to patch.
    pub(super) async fn patch_tested<T: DeserializeOwned>(
        &self,
        doing: &str,
        node: &NodeName,
        mut patch: impl FnMut(&T) -> Option<Value>,
    ) -> Result<bool, ApiError> {
        let mut tries = 0;
        loop {
            let request = Request::new(Nodes::<Slim>::PATH).get(node.as_str(), &GetParams::default());
            let found: T = match self.call(doing, request, ANSWER).await {
                Ok(found) => found,
                Err(error) if error.code() == Some(404) => return Ok(false),
                Err(error) => return Err(error),
            };
            let Some(patch) = patch(&found) else { return Ok(false) };
            tries += 1;
            let request = json_patch(&format!("{}/{node}", Nodes::<Slim>::PATH), CONTROLLER, &patch);
            match self.call::<IgnoredAny>(doing, request, ANSWER).await {
                Ok(_) => return Ok(true),
                Err(error) if error.code() == Some(404) => return Ok(false),
                // 422: a test did not hold. 409: the server gave up retrying.
                Err(error) if tries < TRIES && matches!(error.code(), Some(409 | 422)) => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// The patch; none if there is nothing to remove. From the last to the first, so that the indexes stay right.
fn removal(uid: &str, taints: &[Value]) -> Option<Value> {
    let ours = taints.iter().enumerate().rev().filter(|(_, taint)| taint["key"] == STARTUP_TAINT);
    let steps: Vec<Value> = ours
        .flat_map(|(index, taint)| {
            let path = format!("/spec/taints/{index}");
            [json!({"op": "test", "path": path, "value": taint}), json!({"op": "remove", "path": path})]
        })
        .collect();
    let same = json!({"op": "test", "path": "/metadata/uid", "value": uid});
    (!steps.is_empty()).then(|| [same].into_iter().chain(steps).collect())
}

#[cfg(test)]
mod tests {
    use super::super::fake::Fake;
    use super::*;

    fn node() -> NodeName {
        NodeName::parse("kind-worker").expect("a name")
    }

    fn tainted(uid: &str, taints: &Value) -> Value {
        json!({"metadata": {"name": "kind-worker", "uid": uid}, "spec": {"taints": taints}})
    }

    fn ours(effect: &str) -> Value {
        json!({"key": STARTUP_TAINT, "effect": effect})
    }

    fn other(key: &str) -> Value {
        json!({"key": key, "effect": "NoSchedule"})
    }

    #[test]
    fn each_step_tests_what_it_takes_away_and_the_last_goes_first() {
        assert_eq!(removal("u", &[other("a")]), None);
        let patch = removal("u", &[ours("NoExecute"), other("a"), ours("NoSchedule")]);
        let wanted = json!([
            {"op": "test", "path": "/metadata/uid", "value": "u"},
            {"op": "test", "path": "/spec/taints/2", "value": ours("NoSchedule")},
            {"op": "remove", "path": "/spec/taints/2"},
            {"op": "test", "path": "/spec/taints/0", "value": ours("NoExecute")},
            {"op": "remove", "path": "/spec/taints/0"},
        ]);
        assert_eq!(patch, Some(wanted));
    }

    #[tokio::test]
    async fn a_list_that_somebody_changes_meanwhile_is_read_anew() {
        let mut fake = Fake::start();
        let live = fake.client();
        let removing = tokio::spawn(async move { live.remove_startup_taint(&node(), "u").await });
        fake.next_request().await.answer(200, &tainted("u", &json!([ours("NoExecute")])));
        let first = fake.next_request().await;
        assert_eq!(
            (first.method.as_str(), first.path.as_str()),
            ("PATCH", "/api/v1/nodes/kind-worker?fieldManager=egret-controller")
        );
        assert!(first.body.contains("/spec/taints/0"), "{}", first.body);
        first.refuse(422, "Invalid", "the server rejected our request due to an error in our request");
        fake.next_request().await.answer(200, &tainted("u", &json!([other("a"), ours("NoExecute")])));
        let second = fake.next_request().await;
        assert!(second.body.contains("/spec/taints/1") && !second.body.contains("/spec/taints/0"), "{}", second.body);
        second.answer(200, &tainted("u", &json!([other("a")])));
        assert_eq!(removing.await.expect("a task").expect("an outcome"), TaintOutcome::Removed);
    }

    #[tokio::test]
    async fn nothing_is_written_where_it_is_gone_or_the_node_is_another() {
        for (uid, taints, outcome) in [
            ("u", json!([other("a")]), TaintOutcome::Absent),
            ("u", Value::Null, TaintOutcome::Absent),
            ("later", json!([ours("NoExecute")]), TaintOutcome::Gone),
        ] {
            let mut fake = Fake::start();
            let live = fake.client();
            let removing = tokio::spawn(async move { live.remove_startup_taint(&node(), "u").await });
            fake.next_request().await.answer(200, &tainted(uid, &taints));
            // It ends without another request.
            assert_eq!(removing.await.expect("a task").expect("an outcome"), outcome);
        }
    }

    #[tokio::test]
    async fn a_list_that_never_holds_still_is_an_error_in_the_end() {
        let mut fake = Fake::start();
        let live = fake.client();
        let removing = tokio::spawn(async move { live.remove_startup_taint(&node(), "u").await });
        for _ in 0..TRIES {
            fake.next_request().await.answer(200, &tainted("u", &json!([ours("NoExecute")])));
            fake.next_request().await.refuse(409, "Conflict", "the object has been modified");
        }
        assert_eq!(removing.await.expect("a task").expect_err("an error").code(), Some(409));
    }
}
