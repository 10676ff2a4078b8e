//! Everything that can go wrong on request, as kube's own client meets it.
//!
//! Deliberately absent: what Egret makes of it.

use std::net::{TcpListener, TcpStream};
use std::pin::pin;
use std::time::{Duration, Instant};

use futures::TryStreamExt;
use k8s_openapi::api::core::v1::{Namespace, Node};
use kube::ResourceExt;
use kube::api::{Api, ListParams, Patch, PatchParams, WatchEvent, WatchParams};
use kube_runtime::WatchStreamExt;
use kube_runtime::watcher::{self, Event, watcher};
use serde_json::{Value, json};

use super::client::refused_with;
use super::{SOON, client, node, server};
use crate::apiserver::{ApiServer, Fault, Filter};
use crate::lab::{Lab, Options};

fn label(value: &str) -> Patch<Value> {
    Patch::Merge(json!({"metadata": {"labels": {"a": value}}}))
}

#[tokio::test]
async fn a_status_is_answered_so_often_as_it_was_set() {
    let server = server();
    server.create(&node("a"));
    let api: Api<Node> = Api::all(client(&server));
    server.fault_times(Filter::all().verb("get").resource("nodes").name("a"), Fault::Status(500), 2);
    server.fault_times(Filter::writes(), Fault::TooManyRequests(0), 1);
    refused_with(api.get("a").await, 500, "");
    refused_with(api.get("a").await, 500, "");
    api.get("a").await.expect("it is over");
    refused_with(api.patch("a", &PatchParams::default(), &label("b")).await, 429, "too many requests");
    let id = server.fault(Filter::all().resource("nodes"), Fault::Status(503));
    refused_with(api.list(&ListParams::default()).await, 503, "");
    assert_eq!(server.met(id), Some(1));
    server.clear(id);
    api.list(&ListParams::default()).await.expect("it is over");
    let seen: Vec<_> = server.requests().into_iter().map(|one| (one.verb, one.status)).collect();
    let expected = [("get", 500), ("get", 500), ("get", 200), ("patch", 429), ("list", 503), ("list", 200)];
    assert_eq!(seen, expected.map(|(verb, status)| (verb.to_owned(), status)));
}

#[tokio::test]
async fn a_dropped_request_was_not_done_and_a_lost_answer_was() {
    let server = server();
    server.create(&node("a"));
    let api: Api<Node> = Api::all(client(&server));
    server.fault_times(Filter::writes(), Fault::Drop, 1);
    api.patch("a", &PatchParams::default(), &label("dropped")).await.expect_err("no answer");
    let present = || server.get("nodes", "", "a").expect("it")["metadata"]["labels"]["a"].clone();
    assert_eq!(present(), Value::Null);
    server.fault_times(Filter::writes(), Fault::LoseAnswer, 1);
    api.patch("a", &PatchParams::default(), &label("lost")).await.expect_err("no answer");
    assert_eq!(present(), "lost");
    let seen: Vec<_> = server.requests().into_iter().map(|one| (one.status, one.wrote)).collect();
    assert_eq!(seen, [(0, false), (200, true)]);
}

#[tokio::test]
async fn a_request_waits_for_its_time_or_for_the_test() {
    let server = server();
    server.create(&node("a"));
    let api: Api<Node> = Api::all(client(&server));
    server.fault_times(Filter::all(), Fault::Delay(Duration::from_millis(50)), 1);
    let begin = Instant::now();
    api.get("a").await.expect("it");
    assert!(begin.elapsed() >= Duration::from_millis(50));
    let before = server.fault(Filter::writes(), Fault::Hang);
    let hanging = tokio::spawn({
        let api = api.clone();
        async move { api.patch("a", &PatchParams::default(), &label("b")).await }
    });
    until(|| server.met(before) == Some(1)).await;
    assert_eq!(server.writes(&Filter::all()), 0);
    server.clear(before);
    hanging.await.expect("a task").expect("an answer");
    let after = server.fault(Filter::writes(), Fault::HangAnswer);
    let hanging = tokio::spawn(async move { api.patch("a", &PatchParams::default(), &label("c")).await });
    until(|| server.writes(&Filter::all()) == 2).await;
    assert!(!hanging.is_finished());
    server.clear(after);
    hanging.await.expect("a task").expect("an answer");
}

async fn until(condition: impl Fn() -> bool) {
    let waited = tokio::time::timeout(SOON, async {
        while !condition() {
            // The one look of tests that have no thread to wait in (`lab::wait_until`).
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    waited.await.expect("what is waited for");
}

#[test]
fn a_server_in_a_namespace_comes_back_there() {
    let lab = Lab::up(Options::default()).expect("a lab");
    let namespace = lab.node("kind-worker").expect("a node");
    let bind =
        || ApiServer::start(TcpListener::bind(("172.18.0.2", 6443)).expect("the node's address")).expect("a server");
    let server = namespace.enter(bind).expect("a namespace");
    let reach = || namespace.enter(|| TcpStream::connect(("172.18.0.2", 6443)).is_ok()).expect("a namespace");
    assert!(reach());
    server.away();
    assert!(!reach());
    server.back();
    assert!(reach());
}

#[tokio::test]
async fn a_server_that_was_away_comes_back_as_it_was() {
    let server = server();
    server.create(&node("a"));
    let api: Api<Node> = Api::all(client(&server));
    api.get("a").await.expect("it");
    server.away();
    api.get("a").await.expect_err("nobody is there");
    server.create(&node("b"));
    server.back();
    assert_eq!(api.list(&ListParams::default()).await.expect("a list").items.len(), 2);
}

/// The next object that a watcher tells of, whatever it has to go through.
async fn next_event(
    stream: &mut (impl futures::Stream<Item = watcher::Result<Event<Node>>> + Unpin),
) -> (String, String) {
    let next = async {
        loop {
            match stream.try_next().await {
                Ok(Some(Event::Apply(object))) => return ("apply".to_owned(), object.name_any()),
                Ok(Some(Event::InitApply(object))) => return ("has".to_owned(), object.name_any()),
                Ok(Some(Event::Delete(object))) => return ("delete".to_owned(), object.name_any()),
                Ok(Some(Event::Init | Event::InitDone)) | Err(_) => {}
                Ok(None) => panic!("a watcher does not end"),
            }
        }
    };
    tokio::time::timeout(SOON, next).await.expect("an event soon")
}

fn pair(kind: &str, name: &str) -> (String, String) {
    (kind.to_owned(), name.to_owned())
}

#[tokio::test]
async fn a_watcher_goes_on_after_every_kind_of_interruption() {
    for config in [watcher::Config::default(), watcher::Config::default().streaming_lists()] {
        let server = server();
        server.create(&node("a"));
        let api: Api<Node> = Api::all(client(&server));
        let mut stream = pin!(watcher(api, config).default_backoff());
        assert_eq!(next_event(&mut stream).await, pair("has", "a"));
        server.end_watches();
        server.create(&node("b"));
        assert_eq!(next_event(&mut stream).await, pair("apply", "b"), "an end in order is gone on from");
        server.cut_connections();
        server.create(&node("c"));
        assert_eq!(next_event(&mut stream).await, pair("apply", "c"), "a broken connection too");
        server.away();
        server.create(&node("d"));
        server.compact();
        server.delete("nodes", "", "a");
        server.back();
        // What happened since its version is forgotten: it lists anew.
        for name in ["b", "c", "d"] {
            assert_eq!(next_event(&mut stream).await, pair("has", name));
        }
        server.delete("nodes", "", "d");
        assert_eq!(next_event(&mut stream).await, pair("delete", "d"));
    }
}

#[tokio::test]
async fn a_watch_from_a_forgotten_version_gets_410_as_an_event() {
    let server = server();
    server.create(&node("a"));
    let from = server.version().to_string();
    server.create(&node("b"));
    server.compact();
    let api: Api<Node> = Api::all(client(&server));
    let mut stream = pin!(api.watch(&WatchParams::default(), &from).await.expect("a watch"));
    match stream.try_next().await.expect("no error").expect("an event") {
        WatchEvent::Error(status) => assert_eq!((status.code, status.reason.as_str()), (410, "Expired")),
        other => panic!("{other:?}"),
    }
    assert!(stream.try_next().await.expect("no error").is_none());
}

#[tokio::test]
async fn events_of_one_resource_are_held_back_while_others_flow() {
    let server = server();
    let nodes: Api<Node> = Api::all(client(&server));
    let namespaces: Api<Namespace> = Api::all(client(&server));
    let from = server.version().to_string();
    let params = WatchParams::default();
    let mut nodes = pin!(nodes.watch(&params, &from).await.expect("a watch"));
    let mut namespaces = pin!(namespaces.watch(&params, &from).await.expect("a watch"));
    server.hold("nodes");
    server.create(&node("first"));
    server.create(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "second"}}));
    let event = tokio::time::timeout(SOON, namespaces.try_next()).await.expect("soon").expect("no error");
    assert!(matches!(event, Some(WatchEvent::Added(namespace)) if namespace.name_any() == "second"));
    let none = tokio::time::timeout(Duration::from_millis(50), nodes.try_next()).await;
    assert!(none.is_err(), "{none:?}");
    server.release("nodes");
    let event = tokio::time::timeout(SOON, nodes.try_next()).await.expect("soon").expect("no error");
    assert!(matches!(event, Some(WatchEvent::Added(node)) if node.name_any() == "first"));
}

#[tokio::test]
async fn a_stale_list_is_caught_up_with_by_its_watch() {
    for config in [watcher::Config::default(), watcher::Config::default().streaming_lists()] {
        let server = server();
        server.create(&node("a"));
        let old = server.version();
        server.create(&node("b"));
        server.delete("nodes", "", "a");
        server.stale("nodes", old);
        let api: Api<Node> = Api::all(client(&server));
        let mut stream = pin!(watcher(api, config));
        assert_eq!(next_event(&mut stream).await, pair("has", "a"));
        assert_eq!(next_event(&mut stream).await, pair("apply", "b"));
        assert_eq!(next_event(&mut stream).await, pair("delete", "a"));
    }
}

#[tokio::test]
async fn a_bookmark_moves_a_watch_on_without_an_event() {
    let server = server();
    let api: Api<Node> = Api::all(client(&server));
    let from = server.version().to_string();
    let mut stream = pin!(api.watch(&WatchParams::default(), &from).await.expect("a watch"));
    server.create(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "elsewhere"}}));
    server.bookmark();
    let event = tokio::time::timeout(SOON, stream.try_next()).await.expect("soon").expect("no error");
    let Some(WatchEvent::Bookmark(bookmark)) = event else { panic!("{event:?}") };
    assert_eq!(bookmark.metadata.resource_version, server.version().to_string());
}
