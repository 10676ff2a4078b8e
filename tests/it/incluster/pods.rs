//! Pods in a cluster: each start, change and end is the matter of one node, and costs no write.
//!
//! Deliberately absent: pods of a standalone node (`outpost::pods`), which go the same way from there on.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::apiserver::Filter;
use crate::lab::{Answer, EGRESS, OUTPOST, Options, Pod};

use super::stand::{LABELS, Outcome, Stand, policy};

/// Writes of anybody but to leases, which tick.
fn writes(stand: &Stand) -> Vec<String> {
    let requests = stand.api.requests();
    let told = requests.iter().filter(|request| request.wrote && !request.resource.starts_with("leases"));
    told.map(|request| format!("{} {} {}", request.verb, request.resource, request.name)).collect()
}

#[test]
fn a_pod_is_enforced_from_its_first_packet_without_any_write() -> Outcome {
    let stand = Stand::applied(Options::default())?;
    stand.await_that("a head that counts both nodes", || {
        stand.object("egressconfigs", "default")["status"]["nodeSummary"] == "2/2"
    })?;
    stand.await_quiet()?;
    let mut took = Vec::new();
    for number in 0..5_u8 {
        let name = format!("tie{number}");
        let pod = Pod::new(&name, "kind-worker", 60 + number, &[("org", "empire")]);
        stand.lab.wire_pod(pod)?;
        // Its first packets come before anybody knows it: they are held back.
        assert_eq!(stand.lab.ask_within(&name, OUTPOST, Duration::from_millis(200))?, Answer::NoAnswer);
        stand.lab.announce_pod(&name)?;
        stand.api.forget_requests();
        let begun = Instant::now();
        stand.announce(&["pods.yaml"]);
        // With a patience this short a lost first packet costs the next try no more.
        let patience = Duration::from_millis(10);
        stand.await_that("the pod let in", || {
            stand.lab.ask_within(&name, OUTPOST, patience).is_ok_and(|answer| answer == Answer::Granted(EGRESS))
        })?;
        took.push(begun.elapsed());
    }
    took.sort();
    println!("measured: a pod told to the API server to its first request let in: {:.1?} median", took[2]);
    assert_eq!(writes(&stand), Vec::<String>::new());
    stand.assert_no_leak_but(&[])
}

#[test]
fn a_label_that_changes_moves_the_pod_and_one_that_ends_has_no_way_any_more() -> Outcome {
    let stand = Stand::applied(Options::default())?;
    stand.api.patch("pods", "batuu", "xwing", &json!({"metadata": {"labels": {"org": "empire"}}}));
    stand.await_granted("xwing")?;
    stand.api.patch("pods", "batuu", "xwing", &json!({"metadata": {"labels": {"org": "alliance"}}}));
    stand.await_own_way("xwing")?;
    stand.api.patch("pods", "batuu", "tiefighter", &json!({"status": {"phase": "Succeeded"}}));
    stand.await_that("a finished pod held back", || {
        stand.lab.ask_within("tiefighter", OUTPOST, Duration::from_millis(300)).is_ok_and(|a| a == Answer::NoAnswer)
    })
}

#[test]
fn a_pod_that_moves_to_another_node_is_let_in_from_there() -> Outcome {
    let stand = Stand::applied(Options { workers: 2, ..Options::default() })?;
    let old = stand.lab.pod_addresses("tiefighter")?;
    stand.lab.move_pod("tiefighter", "kind-worker3")?;
    stand.announce(&["pods.yaml"]);
    // The manifests name it as before, so the object is made anew, as a StatefulSet does.
    stand.api.delete("pods", "batuu", "tiefighter");
    stand.announce(&["pods.yaml"]);
    stand.await_granted("tiefighter")?;
    // Its old address belongs to whoever gets it next.
    let host = match old[0] {
        IpAddr::V4(address) => address.octets()[3],
        IpAddr::V6(_) => unreachable!("the first address is IPv4"),
    };
    stand.lab.wire_pod(Pod::new("ywing", "kind-worker", host, &[("org", "alliance")]))?;
    stand.lab.announce_pod("ywing")?;
    stand.announce(&["pods.yaml"]);
    stand.await_own_way("ywing")?;
    // The node itself tells the outpost that nobody has the old address any more, where an answer was still on its way.
    let node = stand.lab.nodes()[0].addresses().to_vec();
    let others = [old, stand.lab.pod_addresses("ywing")?, node].concat();
    stand.assert_no_leak_but(&others)
}

#[test]
fn an_agent_asks_for_the_pods_of_its_own_node_alone_and_for_no_secret() -> Outcome {
    // Of a snapshot the controller would ask for all.
    let stand = Stand::up(Options::default())?;
    let config = "apiVersion: egret.dev/v1alpha1\nkind: Config\nreports: {snapshot: {enabled: false}}\n";
    let policy = policy("egress-gw: \"true\"");
    stand.push(&[("egret.yaml", config), ("nodes/gateways.yaml", LABELS), ("policies/outpost.yaml", &policy)])?;
    stand.await_granted("tiefighter")?;
    let lists = stand.api.requests().into_iter().filter(|request| request.resource == "pods").collect::<Vec<_>>();
    assert!(!lists.is_empty());
    for request in lists {
        assert!(request.query.contains("spec.nodeName"), "{}", request.query);
    }
    let writes = stand.api.writes(&Filter::writes().resource("pods"));
    assert_eq!(writes, 0);
    Ok(())
}

#[test]
fn for_a_snapshot_the_controller_lists_all_pods_a_page_at_a_time_and_watches_none() -> Outcome {
    let stand = Stand::applied(Options::default())?;
    let requests = stand.api.requests().into_iter().filter(|request| request.resource == "pods");
    let of_all: Vec<_> = requests.filter(|request| !request.query.contains("spec.nodeName")).collect();
    // Once at the start and once when the gateway has told its interfaces.
    assert!(of_all.len() <= 3, "{of_all:?}");
    for request in of_all {
        assert_eq!((request.verb.as_str(), request.query.contains("limit=500")), ("list", true), "{request:?}");
    }
    Ok(())
}
