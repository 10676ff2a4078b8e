//! kube's own client and watcher against the double.
//!
//! Deliberately absent: what goes wrong (`trouble`).

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::pin::pin;

use futures::{Stream, StreamExt, TryStreamExt};
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{
    Api, ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams, Preconditions,
    WatchEvent, WatchParams,
};
use kube::core::PartialObjectMeta;
use kube::{Resource, ResourceExt};
use kube_runtime::watcher::{self, Event, watcher};
use serde_json::json;

use super::{SOON, client, node, pod, server, widget, widgets};

/// The names that a watcher knows when it has listed, and afterwards each thing that happens.
async fn next<K: ResourceExt>(stream: &mut (impl Stream<Item = watcher::Result<Event<K>>> + Unpin)) -> String {
    let event = tokio::time::timeout(SOON, stream.try_next()).await.expect("an event soon").expect("no error");
    match event.expect("no end") {
        Event::Init => "init".to_owned(),
        Event::InitApply(object) => format!("has {}", object.name_any()),
        Event::InitDone => "done".to_owned(),
        Event::Apply(object) => format!("apply {}", object.name_any()),
        Event::Delete(object) => format!("delete {}", object.name_any()),
    }
}

async fn several<K: ResourceExt>(
    stream: &mut (impl Stream<Item = watcher::Result<Event<K>>> + Unpin),
    count: usize,
) -> Vec<String> {
    let mut all = Vec::new();
    for _ in 0..count {
        all.push(next(stream).await);
    }
    all
}

async fn a_watcher_sees_all_and_what_happens_next(config: watcher::Config) {
    let server = server();
    for name in ["a", "b", "c"] {
        server.create(&pod(name, "kind-worker"));
    }
    server.create(&pod("elsewhere", "kind-worker2"));
    let api: Api<Pod> = Api::all(client(&server));
    let mut stream = pin!(watcher(api, config.fields("spec.nodeName=kind-worker")));
    assert_eq!(several(&mut stream, 5).await, ["init", "has a", "has b", "has c", "done"]);
    server.create(&pod("d", "kind-worker"));
    assert_eq!(several(&mut stream, 2).await, ["apply d", "apply d"], "the pod, and its status");
    server.create(&pod("e", "kind-worker2"));
    server.delete("pods", "default", "a");
    assert_eq!(next(&mut stream).await, "delete a");
}

#[tokio::test]
async fn a_watcher_that_lists_in_pages_sees_everything() {
    a_watcher_sees_all_and_what_happens_next(watcher::Config::default().page_size(2)).await;
}

#[tokio::test]
async fn a_watcher_that_streams_its_list_sees_everything() {
    a_watcher_sees_all_and_what_happens_next(watcher::Config::default().streaming_lists()).await;
}

#[tokio::test]
async fn metadata_alone_can_be_listed_and_watched() {
    let server = server();
    server.create(&node("a"));
    let api: Api<PartialObjectMeta<Node>> = Api::all(client(&server));
    let list = api.list(&ListParams::default()).await.expect("a list");
    let types: Vec<_> = list.items.iter().map(|one| one.types.clone().expect("a type").kind).collect();
    assert_eq!(types, ["PartialObjectMetadata"]);
    for config in [watcher::Config::default(), watcher::Config::default().streaming_lists()] {
        let mut stream = pin!(watcher(api.clone(), config));
        assert_eq!(several(&mut stream, 3).await, ["init", "has a", "done"]);
    }
}

#[tokio::test]
async fn labels_are_applied_shared_fought_over_and_taken_back() {
    let server = server();
    server.create(&node("a"));
    let api: Api<Node> = Api::all(client(&server));
    let label = |value: Option<&str>| {
        let labels = value.map_or_else(|| json!({}), |value| json!({"egress-gw": value}));
        json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "a", "labels": labels}})
    };
    let egret = PatchParams::apply("egret");
    let applied = api.patch("a", &egret, &Patch::Apply(label(Some("true")))).await.expect("an apply");
    assert_eq!(applied.labels()["egress-gw"], "true");
    // The same value is shared, and stays when one of the two lets go.
    api.patch("a", &PatchParams::apply("other"), &Patch::Apply(label(Some("true")))).await.expect("an apply");
    let shared = api.patch("a", &egret, &Patch::Apply(label(None))).await.expect("an apply");
    assert_eq!(shared.labels().get("egress-gw").map(String::as_str), Some("true"));
    let refused = api.patch("a", &egret, &Patch::Apply(label(Some("false")))).await.expect_err("a conflict");
    let kube::Error::Api(status) = refused else { panic!("{refused}") };
    assert_eq!(status.message, r#"Apply failed with 1 conflict: conflict with "other": .metadata.labels.egress-gw"#);
    let forced = api.patch("a", &egret.clone().force(), &Patch::Apply(label(Some("false")))).await.expect("an apply");
    let managers: BTreeSet<_> =
        forced.managed_fields().iter().filter_map(|one| one.manager.clone()).filter(|name| name != "test").collect();
    assert_eq!((forced.labels()["egress-gw"].as_str(), managers), ("false", BTreeSet::from(["egret".to_owned()])));
    let gone = api.patch("a", &egret, &Patch::Apply(label(None))).await.expect("an apply");
    assert_eq!(gone.labels().get("egress-gw"), None);
    let ghost = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "ghost", "resourceVersion": "1"}});
    api.patch("ghost", &egret, &Patch::Apply(&ghost)).await.expect("an apply that creates, whatever the version");
    let stale = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "a", "resourceVersion": "1"}});
    refused_with(api.patch("a", &egret, &Patch::Apply(&stale)).await, 409, "the object has been modified");
    let wrong = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "a", "uid": "another"}});
    refused_with(api.patch("a", &egret, &Patch::Apply(&wrong)).await, 422, "field is immutable");
}

/// Fails where the answer is another one.
pub(super) fn refused_with<T: Debug>(answer: kube::Result<T>, code: u16, words: &str) {
    match answer {
        Err(kube::Error::Api(status)) => {
            assert!(status.code == code && status.message.contains(words), "{} {}", status.code, status.message);
        }
        other => panic!("{code} was expected, not {other:?}"),
    }
}

#[tokio::test]
async fn a_lease_changes_hands_once() {
    let server = server();
    let api: Api<Lease> = Api::namespaced(client(&server), "default");
    let mut lease = Lease { spec: Some(LeaseSpec::default()), ..Lease::default() };
    lease.meta_mut().name = Some("leader".to_owned());
    let mine = api.create(&PostParams::default(), &lease).await.expect("a lease");
    refused_with(api.create(&PostParams::default(), &lease).await, 409, "already exists");
    let mut theirs = mine.clone();
    theirs.spec = Some(LeaseSpec { holder_identity: Some("b".to_owned()), ..LeaseSpec::default() });
    api.replace("leader", &PostParams::default(), &theirs).await.expect("an update");
    refused_with(api.replace("leader", &PostParams::default(), &mine).await, 409, "the object has been modified");
    refused_with(api.replace("leader", &PostParams::default(), &lease).await, 422, "must be specified for an update");
    assert_eq!(
        server.get("leases.coordination.k8s.io", "default", "leader").expect("it")["spec"]["holderIdentity"],
        "b"
    );
}

#[tokio::test]
async fn custom_objects_are_served_once_they_are_defined() {
    let server = server();
    let kind = ApiResource {
        group: "egret.dev".to_owned(),
        version: "v1alpha1".to_owned(),
        api_version: "egret.dev/v1alpha1".to_owned(),
        kind: "Widget".to_owned(),
        plural: "widgets".to_owned(),
    };
    let api: Api<DynamicObject> = Api::all_with(client(&server), &kind);
    api.list(&ListParams::default()).await.expect_err("nobody defined them");
    let definitions: Api<DynamicObject> = Api::all_with(
        client(&server),
        &ApiResource {
            group: "apiextensions.k8s.io".to_owned(),
            version: "v1".to_owned(),
            api_version: "apiextensions.k8s.io/v1".to_owned(),
            kind: "CustomResourceDefinition".to_owned(),
            plural: "customresourcedefinitions".to_owned(),
        },
    );
    let definition = widgets();
    definitions
        .patch("widgets.egret.dev", &PatchParams::apply("chart"), &Patch::Apply(&definition))
        .await
        .expect("a definition that is applied");
    let defined = definitions.get("widgets.egret.dev").await.expect("it");
    assert_eq!(defined.data["status"]["conditions"][1]["type"], "Established");
    let egret = PatchParams::apply("egret");
    let object = widget("one", &json!({"fence": 1, "cidrs": ["10.0.0.0/8"]}));
    let created = api.patch("one", &egret, &Patch::Apply(&object)).await.expect("an object");
    assert_eq!(created.data["spec"], json!({"fence": 1, "cidrs": ["10.0.0.0/8"], "mode": "Drop"}));
    let status = json!({
        "apiVersion": "egret.dev/v1alpha1", "kind": "Widget",
        "status": {"revision": "abc", "conditions": [{"type": "Ready", "status": "True"}]},
    });
    let told = api.patch_status("one", &egret, &Patch::Apply(&status)).await.expect("a status");
    assert_eq!((told.meta().generation, &told.data["status"]), (Some(1), &status["status"]));
    let again = api.patch_status("one", &egret, &Patch::Apply(&status)).await.expect("a status");
    assert_eq!(again.resource_version(), told.resource_version(), "nothing changed");
    let moved = widget("one", &json!({"fence": 2}));
    let moved = api.patch("one", &egret, &Patch::Apply(&moved)).await.expect("an object");
    assert_eq!(
        (moved.meta().generation, &moved.data["spec"], &moved.data["status"]["revision"]),
        (Some(2), &json!({"fence": 2, "mode": "Drop"}), &json!("abc"))
    );
}

#[tokio::test]
async fn a_precondition_keeps_from_deleting_another_object_of_the_name() {
    let server = server();
    server.create(&node("a"));
    let api: Api<Node> = Api::all(client(&server));
    let preconditions = Preconditions { uid: Some("another".to_owned()), resource_version: None };
    let careful = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
    refused_with(api.delete("a", &careful).await, 409, "the UID in the precondition (another) does not match");
    assert!(api.delete("a", &DeleteParams::default()).await.expect("a deletion").is_right());
    refused_with(api.get("a").await, 404, r#"nodes "a" not found"#);
}

#[tokio::test]
async fn a_pod_on_a_node_ends_with_grace() {
    let server = server();
    server.create(&pod("a", "kind-worker"));
    let api: Api<Pod> = Api::namespaced(client(&server), "default");
    let ending = api.delete("a", &DeleteParams::default()).await.expect("a deletion").left().expect("a pod");
    assert_eq!(ending.metadata.deletion_grace_period_seconds, Some(30));
    assert!(server.get("pods", "default", "a").is_some(), "the kubelet takes it away, and there is none");
    api.delete("a", &DeleteParams::default().grace_period(0)).await.expect("a deletion");
    assert!(server.get("pods", "default", "a").is_none());
}

#[tokio::test]
async fn a_watch_by_hand_gets_events_of_objects_that_leave_its_selection() {
    let server = server();
    server.create(&node("a"));
    let api: Api<Node> = Api::all(client(&server));
    let from = server.version().to_string();
    let params = WatchParams::default().labels("role in (gateway, both),!old");
    let mut stream = api.watch(&params, &from).await.expect("a watch").boxed();
    for (label, expected) in [("gateway", "ADDED"), ("both", "MODIFIED"), ("none", "DELETED")] {
        server.patch("nodes", "", "a", &json!({"metadata": {"labels": {"role": label}}}));
        let event = tokio::time::timeout(SOON, stream.try_next()).await.expect("an event soon").expect("no error");
        let seen = match event.expect("no end") {
            WatchEvent::Added(_) => "ADDED",
            WatchEvent::Modified(_) => "MODIFIED",
            WatchEvent::Deleted(_) => "DELETED",
            WatchEvent::Bookmark(_) => "BOOKMARK",
            WatchEvent::Error(_) => "ERROR",
        };
        assert_eq!(seen, expected, "{label}");
    }
}

#[tokio::test]
async fn a_list_in_pages_is_a_list_of_one_moment() {
    let server = server();
    for name in ["a", "b", "c"] {
        server.create(&node(name));
    }
    let api: Api<Node> = Api::all(client(&server));
    let first = api.list(&ListParams::default().limit(2)).await.expect("a page");
    server.create(&node("bb"));
    server.delete("nodes", "", "c");
    let token = first.metadata.continue_.clone().expect("more");
    let next = api.list(&ListParams::default().limit(2).continue_token(&token)).await.expect("a page");
    let names: Vec<_> = first.items.iter().chain(&next.items).map(ResourceExt::name_any).collect();
    assert_eq!(
        (names, next.metadata.resource_version),
        (vec!["a".into(), "b".into(), "c".into()], first.metadata.resource_version)
    );
    server.compact();
    server.create(&node("d"));
    refused_with(api.list(&ListParams::default().limit(2).continue_token(&token)).await, 410, "too old");
}
