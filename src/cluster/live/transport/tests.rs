//! Tests of connections: how many there are, and what becomes of them.

use std::time::Duration;

use futures::StreamExt as _;
use kube::core::Request;
use kube::core::params::WatchParams;
use serde_json::{Value, json};
use tokio::time::{Instant, timeout};

use super::super::fake::{FakeRequest, FakeWatch};
use super::super::watch::{ClusterWatch, WatchOptions, WatchScope};
use super::super::wire::{Pods, Watched};
use super::super::{ApiClient, ApiErrorCause};
use super::secure::{Order, SecureFake};
use crate::core::name::NodeName;

/// What an agent watches.
const KINDS: usize = 6;

fn agent(client: &ApiClient) -> ClusterWatch {
    let scope = WatchScope::Agent { node: NodeName::parse("kind-worker").expect("a name") };
    ClusterWatch::open(client, &scope, WatchOptions::default())
}

/// Answers with an empty list, or with a watch.
fn accept(asked: FakeRequest) -> Option<FakeWatch> {
    if asked.path.contains("watch=true") {
        return Some(asked.stream());
    }
    asked.answer(200, &json!({"metadata": {"resourceVersion": "5"}, "items": []}));
    None
}

/// Answers until everything is watched.
async fn all_watches(fake: &mut SecureFake) -> Vec<FakeWatch> {
    let mut watches = Vec::new();
    while watches.len() < KINDS {
        watches.extend(accept(fake.asked().await));
    }
    watches
}

/// Writes something, which the server takes.
async fn write(client: &ApiClient, fake: &mut SecureFake) {
    let (deleted, ()) = tokio::join!(client.delete_policy("outpost", None), async {
        fake.asked().await.answer(200, &json!({}));
    });
    assert!(deleted.expect("deleted"));
}

#[tokio::test]
async fn a_whole_agent_has_one_connection() {
    let mut fake = SecureFake::start(&["h2", "http/1.1"]);
    let client = fake.client();
    let mut watching = agent(&client);
    let watches = all_watches(&mut fake).await;
    while !watching.synced() {
        watching.changed().await;
    }
    for _ in 0..3 {
        write(&client, &mut fake).await;
    }
    // All watches end, and begin again.
    drop(watches);
    let _watches = all_watches(&mut fake).await;
    assert_eq!(fake.connections(), 1);
}

#[tokio::test]
async fn a_server_without_http2_is_spoken_to_in_http1() {
    for versions in [&["http/1.1"][..], &[]] {
        let mut fake = SecureFake::start(versions);
        let client = fake.client();
        let mut watching = agent(&client);
        let _watches = all_watches(&mut fake).await;
        while !watching.synced() {
            watching.changed().await;
        }
        write(&client, &mut fake).await;
        assert!(watching.faults().is_empty(), "{versions:?}: {:?}", watching.faults());
        // At most one that was given up for each first request.
        assert!((KINDS..=2 * KINDS + 1).contains(&fake.connections()), "{} connections", fake.connections());
    }
}

#[tokio::test]
async fn every_request_tells_why_there_is_no_connection() {
    let fake = SecureFake::start(&["h2"]);
    let client = fake.client();
    drop(fake);
    let mut watching = agent(&client);
    while watching.faults().len() < KINDS {
        timeout(Duration::from_secs(20), watching.changed()).await.expect("a fault in time");
    }
    for fault in watching.faults().values() {
        assert!(fault.message.contains("Connection refused"), "{}", fault.message);
    }
}

#[tokio::test]
async fn a_connection_that_the_server_wants_to_end_keeps_its_watches_and_takes_no_more() {
    let mut fake = SecureFake::start(&["h2"]);
    let client = fake.client();
    let mut watching = agent(&client);
    let watches = all_watches(&mut fake).await;
    while !watching.synced() {
        watching.changed().await;
    }
    fake.order(Order::GoAway);
    for _ in 0..3 {
        write(&client, &mut fake).await;
    }
    let node = json!({"metadata": {"name": "kind-worker", "resourceVersion": "6"}});
    for watch in &watches {
        watch.send("ADDED", &node);
    }
    while watching.view().nodes.is_empty() {
        timeout(Duration::from_secs(5), watching.changed()).await.expect("an event in time");
    }
    assert!(watching.faults().is_empty(), "{:?}", watching.faults());
    // The first write may still have gone by the first connection.
    assert_eq!(fake.connections(), 2);
}

#[tokio::test]
async fn watches_that_nobody_reads_hold_up_no_write() {
    let mut fake = SecureFake::start(&["h2"]);
    let client = fake.client();
    let _unread = agent(&client);
    let watches = all_watches(&mut fake).await;
    let long = "x".repeat(16 << 10);
    for number in 0..400 {
        let metadata = json!({
            "name": format!("object-{number}"), "resourceVersion": format!("{}", 10 + number),
            "annotations": {"long": long},
        });
        for watch in &watches {
            watch.send("ADDED", &json!({"metadata": metadata}));
        }
    }
    for _ in 0..3 {
        timeout(Duration::from_secs(10), write(&client, &mut fake)).await.expect("in time");
    }
    assert_eq!(fake.connections(), 1);
}

#[tokio::test]
async fn a_server_that_is_gone_without_a_word_is_noticed_after_half_a_minute() {
    let mut fake = SecureFake::start(&["h2"]);
    let client = fake.client();
    let request = Request::new(Pods::PATH).watch(&WatchParams::default(), "5").expect("a request");
    let (stream, watch) = tokio::join!(client.client.request_events::<Value>(request), async {
        let watch = fake.asked().await.stream();
        watch.send("BOOKMARK", &json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"resourceVersion": "6"}}));
        watch
    });
    let mut stream = std::pin::pin!(stream.expect("a watch"));
    stream.next().await.expect("an event").expect("a bookmark");
    fake.order(Order::Freeze);
    // From here on nothing comes from the server: its time is of no interest.
    tokio::time::pause();
    let began = Instant::now();
    let error = stream.next().await.expect("an error").expect_err("an error");
    let lasted = began.elapsed();
    assert!((Duration::from_secs(14)..=Duration::from_secs(31)).contains(&lasted), "{lasted:?}: {error}");
    let cause = ApiErrorCause::from(error);
    assert!(matches!(cause, ApiErrorCause::Unreachable(_)), "{cause}");
    drop(watch);
}
