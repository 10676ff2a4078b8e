//! Tests of hours and of outages, in simulated time.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};

use super::super::simulated::Simulated;
use super::super::wire::{Configs, EgressNodes, Namespaces, Nodes, Pods, Policies, Slim, Watched};
use super::*;
use crate::core::facts::PodName;

const NODES: &str = Nodes::<Slim>::PATH;
const NAMESPACES: &str = Namespaces::PATH;
const PODS: &str = Pods::PATH;
const POLICIES: &str = Policies::<Slim>::PATH;
const CONFIGS: &str = Configs::<Slim>::PATH;
const EGRESS_NODES: &str = EgressNodes::PATH;

/// The kinds that an agent watches.
const KINDS: [&str; 6] = [NODES, NAMESPACES, PODS, POLICIES, CONFIGS, EGRESS_NODES];
const CUSTOM: [&str; 3] = [POLICIES, CONFIGS, EGRESS_NODES];

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn pod(name: &str, address: &str) -> Value {
    json!({
        "metadata": {"namespace": "batuu", "name": name, "uid": name},
        "spec": {"nodeName": "kind-worker"},
        "status": {"phase": "Running", "podIP": address},
    })
}

/// An agent's watch of a server with one pod.
fn agent(server: &Simulated, seed: u64) -> ClusterWatch {
    agent_of(&server.client(), server, seed)
}

fn agent_of(client: &ApiClient, server: &Simulated, seed: u64) -> ClusterWatch {
    server.set(PODS, pod("xwing", "10.1.1.1"));
    let scope = WatchScope::Agent { node: NodeName::parse("kind-worker").expect("a name") };
    ClusterWatch::open(client, &scope, WatchOptions { seed, ..WatchOptions::default() })
}

fn address(watching: &ClusterWatch, pod: &str) -> Option<String> {
    let name = PodName { namespace: "batuu".to_owned(), name: pod.to_owned() };
    watching.view().facts.pods.get(&name).map(|pod| pod.addresses[0].to_string())
}

/// Follows the watch for so long.
async fn follow(watching: &mut ClusterWatch, time: Duration) {
    let end = Instant::now() + time;
    while timeout(end - Instant::now(), watching.changed()).await.is_ok() {}
}

/// Follows it until this holds, and returns how long it took.
async fn until(watching: &mut ClusterWatch, most: Duration, holds: impl Fn(&ClusterWatch) -> bool) -> Duration {
    let began = Instant::now();
    while !holds(watching) {
        timeout(most, watching.changed()).await.expect("a change in time");
        assert!(began.elapsed() <= most, "it takes longer than {most:?}");
    }
    began.elapsed()
}

#[tokio::test(start_paused = true)]
async fn after_an_outage_everything_is_known_again_within_two_seconds() {
    for seed in 0..50 {
        let server = Simulated::default();
        let mut watching = agent(&server, seed);
        until(&mut watching, seconds(1), ClusterWatch::synced).await;
        follow(&mut watching, seconds(100)).await;

        server.leave();
        server.asked();
        follow(&mut watching, seconds(40)).await;
        assert!(!watching.faults().is_empty());
        // One kind probes, the others ask now and then.
        let probes = server.asked().len();
        assert!((40..100).contains(&probes), "{probes} attempts in 40 s");

        for path in CUSTOM {
            server.be_busy(path, 1);
        }
        server.come_back();
        server.set(PODS, pod("ywing", "10.1.1.2"));
        server.set(NODES, json!({"metadata": {"name": "kind-worker3", "uid": "u"}}));
        let all =
            |watching: &ClusterWatch| address(watching, "ywing").is_some() && watching.view().facts.nodes.len() == 1;
        until(&mut watching, seconds(2), all).await;
        // What the server asked to wait, and the pause of a first refusal.
        let began = Instant::now();
        until(&mut watching, seconds(8), |watching| watching.faults().is_empty()).await;
        let asked = server.asked();
        for path in KINDS {
            let of_it: Vec<_> = asked.iter().filter(|one| one.path == path && one.status != 0).collect();
            let busy = of_it.iter().find(|one| one.status == 429);
            assert_eq!(busy.is_some(), CUSTOM.contains(&path), "{path}");
            if let Some(busy) = busy {
                let next = of_it.iter().find(|one| one.at > busy.at).expect("another request");
                assert!(next.at - busy.at >= seconds(1), "Retry-After is heeded: {:?}", next.at - busy.at);
            }
            let listed = of_it.iter().filter(|one| one.verb == "list").count();
            assert_eq!(listed, 1, "{path} is listed once: {of_it:?}");
        }
        assert!(asked.len() < 40, "{} requests in {:?}", asked.len(), began.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_on_which_every_version_expires_at_once_is_asked_with_pauses() {
    let server = Simulated::default();
    let mut watching = agent(&server, 1);
    until(&mut watching, seconds(1), ClusterWatch::synced).await;
    follow(&mut watching, seconds(10)).await;
    server.asked();
    server.forget();
    follow(&mut watching, seconds(600)).await;
    let asked = server.asked();
    let lists: Vec<_> = asked.iter().filter(|one| one.path == PODS && one.verb == "list").collect();
    assert!((20..=60).contains(&lists.len()), "{} lists in ten minutes", lists.len());
    // The first at once.
    assert!(lists[0].at - asked[0].at < seconds(1));
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_is_told_nothing_is_listed_anew_after_three_minutes_and_its_loss_is_reported() {
    let server = Simulated::default();
    let client = server.client();
    let mut watching = agent_of(&client, &server, 3);
    until(&mut watching, seconds(1), ClusterWatch::synced).await;
    follow(&mut watching, seconds(10)).await;
    server.deafen(PODS);
    follow(&mut watching, seconds(100)).await;
    server.set(PODS, pod("xwing", "10.1.1.9"));
    until(&mut watching, seconds(200), |watching| !watching.faults().is_empty()).await;
    let message = "watching pods: a change of batuu/xwing did not arrive; everything is listed anew";
    assert_eq!(watching.faults()["pods"].message, message);
    assert_eq!(client.errors().watches()["pods"], 1);
    until(&mut watching, seconds(1), |watching| address(watching, "xwing").as_deref() == Some("10.1.1.9")).await;
    server.hear(PODS);
    until(&mut watching, seconds(3), |watching| watching.faults().is_empty()).await;
}

#[tokio::test(start_paused = true)]
async fn a_server_without_bookmarks_is_no_fault_and_is_not_listed_every_three_minutes() {
    let server = Simulated::default();
    let mut watching = agent(&server, 4);
    until(&mut watching, seconds(1), ClusterWatch::synced).await;
    for path in KINDS {
        server.deafen(path);
    }
    server.asked();
    follow(&mut watching, Duration::from_hours(1)).await;
    assert!(watching.faults().is_empty());
    let lists = server.asked().iter().filter(|one| one.path == PODS && one.verb == "list").count();
    assert!((2..=5).contains(&lists), "{lists} lists in an hour");
}

#[tokio::test(start_paused = true)]
async fn one_event_that_is_lost_is_found_within_a_quarter_of_an_hour() {
    for seed in 0..10 {
        let server = Simulated::default();
        let mut watching = agent(&server, seed);
        until(&mut watching, seconds(1), ClusterWatch::synced).await;
        follow(&mut watching, seconds(10)).await;
        server.set_unheard(PODS, pod("xwing", "10.1.1.9"));
        // Later events arrive.
        server.set(PODS, pod("ywing", "10.1.1.2"));
        follow(&mut watching, seconds(1)).await;
        assert_eq!(address(&watching, "xwing").as_deref(), Some("10.1.1.1"));
        let found = until(&mut watching, seconds(16 * 60), |watching| !watching.faults().is_empty()).await;
        assert!(found > seconds(9 * 60), "{found:?}");
        assert!(watching.faults()["pods"].message.contains("batuu/xwing"));
        until(&mut watching, seconds(1), |watching| address(watching, "xwing").as_deref() == Some("10.1.1.9")).await;
        until(&mut watching, seconds(3), |watching| watching.faults().is_empty()).await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_hour_without_faults_costs_few_requests_and_finds_nothing_lost() {
    let server = Simulated::default();
    let mut watching = agent(&server, 5);
    until(&mut watching, seconds(1), ClusterWatch::synced).await;
    server.asked();
    let changes = server.clone();
    let changing = tokio::spawn(async move {
        for turn in 0_u32.. {
            changes.set(PODS, pod("xwing", &format!("10.1.2.{}", turn % 250)));
            sleep(Duration::from_millis(700)).await;
        }
    });
    follow(&mut watching, Duration::from_hours(1)).await;
    changing.abort();
    assert!(watching.faults().is_empty(), "{:?}", watching.faults());
    let asked = server.asked();
    let count = |verb| asked.iter().filter(|one| one.verb == verb).count();
    // docs/api-server.md has these numbers.
    assert_eq!(count("list"), 0);
    assert_eq!((count("watch"), count("compare")), (102, 25));
}
