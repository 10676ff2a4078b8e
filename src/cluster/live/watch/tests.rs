//! Tests of watches over HTTP, against a server that each test controls.

use std::time::Duration;

use serde_json::{Value, json};

use super::super::fake::{Fake, FakeWatch};
use super::*;
use crate::core::facts::PodName;
use crate::core::pools::PoolKind;

/// Watches what `follow` starts and nothing else.
fn watching(live: &ApiClient, options: WatchOptions, follow: impl FnOnce(&mut Start<'_>)) -> ClusterWatch {
    let (out, news) = mpsc::channel(QUEUE);
    let (tasks, outage) = (JoinSet::new(), Outage::new());
    let mut start = Start { live, options, out, outage, tasks, missing: BTreeSet::new() };
    follow(&mut start);
    start.done(news)
}

/// Watches the pods of one node and nothing else.
fn pods(live: &ApiClient, options: WatchOptions) -> ClusterWatch {
    let query = Query { fields: Some("spec.nodeName=kind-worker".to_owned()), page: Some(2), ..Query::default() };
    watching(live, options, |start| start.follow::<Pods>(query, WatchItem::Pods))
}

fn pod(name: &str, version: &str, address: &str) -> Value {
    json!({
        "metadata": {"namespace": "batuu", "name": name, "resourceVersion": version, "uid": name},
        "spec": {"nodeName": "kind-worker", "containers": [{"name": "c"}]},
        "status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]},
    })
}

fn page(version: &str, next: &str, items: &[Value]) -> Value {
    json!({"kind": "PodList", "metadata": {"resourceVersion": version, "continue": next}, "items": items})
}

/// Names and addresses of the pods that are known.
fn known(watching: &ClusterWatch) -> Vec<String> {
    let one = |(name, pod): (&PodName, &crate::core::facts::Pod)| format!("{} {}", name.name, pod.addresses[0]);
    watching.view().facts.pods.iter().map(one).collect()
}

async fn changed(watching: &mut ClusterWatch) -> Changed {
    tokio::time::timeout(Duration::from_secs(20), watching.changed()).await.expect("a change in time")
}

/// Waits until these pods are known.
async fn until(watching: &mut ClusterWatch, pods: &[&str]) {
    while known(watching) != pods {
        changed(watching).await;
    }
}

/// A watch with one known pod, at version 5.
async fn synced(fake: &mut Fake) -> (ClusterWatch, FakeWatch) {
    let mut watching = pods(&fake.client(), WatchOptions::default());
    fake.next_request().await.answer(200, &page("5", "", &[pod("xwing", "3", "10.1.1.1")]));
    let request = fake.next_request().await;
    assert!(request.watches_from("5"), "{}", request.path);
    let watch = request.stream();
    until(&mut watching, &["xwing 10.1.1.1"]).await;
    (watching, watch)
}

#[tokio::test]
async fn a_list_of_pages_and_then_what_changes_in_its_order() {
    let mut fake = Fake::start();
    let mut watching = pods(&fake.client(), WatchOptions::default());
    let first = fake.next_request().await;
    assert_eq!(first.path, "/api/v1/pods?&fieldSelector=spec.nodeName%3Dkind-worker&limit=2");
    first.answer(200, &page("5", "more", &[pod("xwing", "3", "10.1.1.1")]));
    let second = fake.next_request().await;
    assert!(second.path.ends_with("&limit=2&continue=more"), "{}", second.path);
    assert!(!watching.synced());
    second.answer(200, &page("5", "", &[pod("tiefighter", "4", "10.1.1.2")]));
    let all = Changed { pods: true, synced: true, ..Changed::default() };
    assert_eq!(changed(&mut watching).await, all);
    assert_eq!(known(&watching), ["tiefighter 10.1.1.2", "xwing 10.1.1.1"]);

    let watch = fake.next_request().await.stream();
    // The address of a deleted pod can belong to another one at once.
    watch.send("DELETED", &pod("xwing", "6", "10.1.1.1"));
    watch.send("ADDED", &pod("ywing", "7", "10.1.1.1"));
    watch.send("BOOKMARK", &json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"resourceVersion": "9"}}));
    until(&mut watching, &["tiefighter 10.1.1.2", "ywing 10.1.1.1"]).await;
    // A regular end: the next watch continues from the last bookmark, without a pause and without an error.
    drop(watch);
    let request = fake.next_request().await;
    assert!(request.watches_from("9"), "{}", request.path);
    assert_eq!(watching.faults().len(), 0);
}

#[tokio::test]
async fn what_is_missing_from_a_new_list_goes_only_when_the_list_is_whole() {
    let mut fake = Fake::start();
    let (mut watching, watch) = synced(&mut fake).await;
    watch.expire();
    fake.next_request().await.answer(200, &page("12", "more", &[pod("tiefighter", "10", "10.1.1.2")]));
    let second = fake.next_request().await;
    assert!(
        tokio::time::timeout(Duration::from_millis(100), watching.changed()).await.is_err(),
        "half a list is no news"
    );
    assert_eq!(known(&watching), ["xwing 10.1.1.1"]);
    second.answer(200, &page("12", "", &[]));
    let pods = Changed { pods: true, ..Changed::default() };
    assert_eq!(changed(&mut watching).await, pods);
    assert_eq!(known(&watching), ["tiefighter 10.1.1.2"]);
    assert!(fake.next_request().await.watches_from("12"));
}

#[tokio::test]
async fn a_new_list_that_says_the_same_is_no_news() {
    let mut fake = Fake::start();
    let (mut watching, watch) = synced(&mut fake).await;
    watch.expire();
    fake.next_request().await.answer(200, &page("12", "", &[pod("xwing", "3", "10.1.1.1")]));
    let watch = fake.next_request().await.stream();
    watch.send("MODIFIED", &pod("xwing", "13", "10.1.1.9"));
    let pods = Changed { pods: true, ..Changed::default() };
    assert_eq!(changed(&mut watching).await, pods, "the first news after the list");
    assert_eq!(known(&watching), ["xwing 10.1.1.9"]);
}

#[tokio::test]
async fn a_version_that_is_refused_as_gone_before_the_watch_begins_is_listed_anew() {
    let mut fake = Fake::start();
    let (mut watching, watch) = synced(&mut fake).await;
    watch.send("MODIFIED", &pod("xwing", "6", "10.1.1.1"));
    drop(watch);
    let request = fake.next_request().await;
    assert!(request.watches_from("6"), "{}", request.path);
    request.refuse(410, "Expired", "too old resource version");
    fake.next_request().await.answer(200, &page("20", "", &[]));
    until(&mut watching, &[]).await;
}

#[tokio::test]
async fn a_list_too_long_for_its_pages_is_asked_for_in_one() {
    let mut fake = Fake::start();
    let mut watching = pods(&fake.client(), WatchOptions::default());
    fake.next_request().await.answer(200, &page("5", "more", &[]));
    fake.next_request().await.refuse(410, "Expired", "The provided continue parameter is too old");
    let request = fake.next_request().await;
    assert!(!request.path.contains("limit"), "{}", request.path);
    request.answer(200, &page("6", "", &[pod("xwing", "3", "10.1.1.1")]));
    until(&mut watching, &["xwing 10.1.1.1"]).await;
}

#[tokio::test]
async fn while_the_server_is_away_everything_stays_known_and_the_fault_is_reported() {
    let mut fake = Fake::start();
    let (mut watching, watch) = synced(&mut fake).await;
    watch.send("ADDED", &pod("ywing", "7", "10.1.1.2"));
    until(&mut watching, &["xwing 10.1.1.1", "ywing 10.1.1.2"]).await;
    let address = fake.address.clone();
    drop((watch, fake));
    while watching.faults().is_empty() {
        changed(&mut watching).await;
    }
    let fault = &watching.faults()["pods"];
    assert!(fault.message.starts_with("watching pods: "), "{}", fault.message);
    assert_eq!(known(&watching), ["xwing 10.1.1.1", "ywing 10.1.1.2"]);

    let mut fake = Fake::start_at(&address);
    let request = fake.next_request().await;
    assert!(request.watches_from("7"), "it goes on from where it was: {}", request.path);
    let _watch = request.stream();
    while !watching.faults().is_empty() {
        changed(&mut watching).await;
    }
}

#[tokio::test]
async fn a_server_that_was_put_back_to_a_backup_is_asked_for_everything() {
    let mut fake = Fake::start();
    let (mut watching, watch) = synced(&mut fake).await;
    drop(watch);
    for _ in 0..3 {
        let request = fake.next_request().await;
        assert!(request.watches_from("5"), "{}", request.path);
        request.refuse(504, "Timeout", "Too large resource version: 5, current: 2");
    }
    let request = fake.next_request().await;
    assert!(!request.path.contains("watch"), "{}", request.path);
    request.answer(200, &page("2", "", &[]));
    until(&mut watching, &[]).await;
}

#[tokio::test]
async fn a_watch_that_ends_at_once_is_a_fault_and_not_asked_for_without_a_pause() {
    let mut fake = Fake::start();
    let (mut watching, watch) = synced(&mut fake).await;
    drop(watch);
    for _ in 0..3 {
        drop(fake.next_request().await.stream());
        while watching.faults().is_empty() {
            changed(&mut watching).await;
        }
    }
    assert_eq!(watching.faults()["pods"].message, "watching pods: the server ends the watch at once");
    let _watch = fake.next_request().await.stream();
    while !watching.faults().is_empty() {
        changed(&mut watching).await;
    }
    assert!(fake.quiet(Duration::from_millis(100)).await);
}

#[tokio::test]
async fn a_missing_right_is_reported_with_what_to_do() {
    let mut fake = Fake::start();
    let mut watching = pods(&fake.client(), WatchOptions::default());
    let message = "pods is forbidden: User \"system:serviceaccount:default:egret-agent\" cannot list resource \"pods\" in API \
                   group \"\" at the cluster scope";
    fake.next_request().await.refuse(403, "Forbidden", message);
    let faults = Changed { faults: true, ..Changed::default() };
    assert_eq!(changed(&mut watching).await, faults);
    let fault = watching.faults()["pods"].clone();
    assert_eq!(fault.message, format!("listing pods: {message}"));
    let hint = "its role lacks a rule with apiGroups [\"\"], resources [\"pods\"], verbs [\"list\"]";
    assert_eq!((fault.hint.as_deref(), fault.count), (Some(hint), 1));
    assert!(!watching.synced());
}

#[tokio::test]
async fn nothing_more_is_asked_for_once_nobody_watches() {
    let mut fake = Fake::start();
    let (watching, watch) = synced(&mut fake).await;
    drop(watching);
    drop(watch);
    assert!(fake.quiet(Duration::from_millis(300)).await);
}

/// Watches Calico's pools, which are optional, and nothing else.
fn optional(live: &ApiClient) -> ClusterWatch {
    watching(live, WatchOptions::default(), |start| {
        let query = Query { optional: Some(Duration::from_millis(20)), ..start.all() };
        start.follow::<CalicoPools>(query, |news| WatchItem::Pools(CalicoPools::KIND, news));
    })
}

fn pools(names: &[(&str, &str)]) -> Value {
    let pool = |(name, cidr): &(&str, &str)| json!({"metadata": {"name": name, "resourceVersion": "3"}, "spec": {"cidr": cidr}});
    page("5", "", &names.iter().map(pool).collect::<Vec<_>>())
}

fn networks(watching: &ClusterWatch) -> Vec<String> {
    watching.view().networks_of_pools().iter().map(ToString::to_string).collect()
}

#[tokio::test]
async fn a_kind_that_is_not_installed_holds_nothing_up_and_is_looked_for_again() {
    let mut fake = Fake::start();
    let mut watching = optional(&fake.client());
    let request = fake.next_request().await;
    assert_eq!(request.path, "/apis/crd.projectcalico.org/v1/ippools?&limit=500");
    request.refuse(404, "NotFound", "the server could not find the requested resource");
    assert!(changed(&mut watching).await.synced);
    assert_eq!((networks(&watching), watching.faults().len()), (Vec::new(), 0));
    fake.next_request().await.answer(200, &pools(&[("default-ipv4", "10.48.0.0/16")]));
    assert!(changed(&mut watching).await.pod_networks);
    assert_eq!(networks(&watching), ["10.48.0.0/16"]);
    // The CRD is deleted, and with it all objects of the kind.
    drop(fake.next_request().await.stream());
    let mut gone = fake.next_request().await;
    while !gone.path.contains("limit") {
        gone.refuse(404, "NotFound", "the server could not find the requested resource");
        gone = fake.next_request().await;
    }
    gone.refuse(404, "NotFound", "the server could not find the requested resource");
    while !networks(&watching).is_empty() {
        changed(&mut watching).await;
    }
}

#[tokio::test]
async fn a_kind_that_may_not_be_read_holds_nothing_up_and_what_is_known_of_it_stays() {
    const FORBIDDEN: &str = "ippools.crd.projectcalico.org is forbidden";
    let mut fake = Fake::start();
    let mut watching = optional(&fake.client());
    fake.next_request().await.refuse(403, "Forbidden", FORBIDDEN);
    let once = changed(&mut watching).await;
    assert!(once.synced && once.faults);
    assert_eq!((watching.faults().len(), watching.closed().len()), (0, 1));
    // What is published already stays published while the pools cannot be read.
    let known = watching.view.facts.pod_networks.clone();
    assert_eq!(known, []);
    watching.view.facts.pod_networks = vec!["10.40.0.0/16".parse().expect("a network")];
    assert_eq!(networks(&watching), ["10.40.0.0/16"]);

    fake.next_request().await.refuse(403, "Forbidden", FORBIDDEN);
    fake.next_request().await.answer(200, &pools(&[("default-ipv4", "10.48.0.0/16")]));
    let next = changed(&mut watching).await;
    assert!(next.pod_networks && !next.faults, "a second refusal is no news");
    assert!(watching.closed().is_empty());
    let watch = fake.next_request().await.stream();
    watch.expire();
    fake.next_request().await.refuse(403, "Forbidden", FORBIDDEN);
    assert!(changed(&mut watching).await.faults);
    assert_eq!(watching.view.pools[&PoolKind::Calico].len(), 1);
    fake.next_request().await.answer(200, &pools(&[("default-ipv4", "10.48.0.0/16"), ("second", "10.50.0.0/16")]));
    assert!(changed(&mut watching).await.pod_networks);
    assert!(networks(&watching).contains(&"10.48.0.0/16".to_owned()));
    assert_eq!(watching.faults().len(), 0);
}
