//! Networks of pods from a CNI's own objects: read by the controller, published for all nodes, and what a new pod is held back by.
//!
//! Deliberately absent: CNIs. Their definitions here are as wide as can be; the objects are as theirs.

use std::time::Duration;

use serde_json::{Value, json};

use super::stand::{LABELS, Outcome, Stand, policy};
use crate::lab::{Answer, OUTPOST, Options, Pod};

/// A definition of another project's, without its schema.
fn definition(group: &str, version: &str, kind: &str, plural: &str) -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{plural}.{group}")},
        "spec": {
            "group": group, "scope": "Cluster",
            "names": {"kind": kind, "plural": plural, "singular": kind.to_lowercase(), "listKind": format!("{kind}List")},
            "versions": [{
                "name": version, "served": true, "storage": true,
                "schema": {"openAPIV3Schema": {"type": "object", "properties": {
                    "spec": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
                }}},
            }],
        },
    })
}

fn calico(stand: &Stand) {
    stand.api.create(&definition("crd.projectcalico.org", "v1", "IPPool", "ippools"));
}

fn cilium(stand: &Stand) {
    stand.api.create(&definition("cilium.io", "v2alpha1", "CiliumPodIPPool", "ciliumpodippools"));
    stand.api.create(&definition("cilium.io", "v2", "CiliumNode", "ciliumnodes"));
}

fn object(api_version: &str, kind: &str, name: &str, spec: &Value) -> Value {
    json!({"apiVersion": api_version, "kind": kind, "metadata": {"name": name}, "spec": spec})
}

fn pool(name: &str, spec: &Value) -> Value {
    object("crd.projectcalico.org/v1", "IPPool", name, spec)
}

fn published(stand: &Stand) -> Value {
    stand.object("egressconfigs", "default")["spec"]["podNetworks"].clone()
}

fn push(stand: &Stand) -> Outcome {
    stand.push(&[("nodes/gateways.yaml", LABELS), ("policies/outpost.yaml", &policy("egress-gw: \"true\""))])
}

#[test]
fn pools_of_cnis_are_published_and_what_no_pod_gets_an_address_of_is_not() -> Outcome {
    let mut stand = Stand::empty(Options::default())?;
    calico(&stand);
    cilium(&stand);
    stand.api.create(&pool("default-ipv4", &json!({"cidr": "10.48.0.0/16", "blockSize": 26})));
    stand.api.create(&pool("on-premises", &json!({"cidr": "10.0.4.0/24", "disabled": true})));
    let green = json!({"ipv4": {"cidrs": ["10.20.0.0/16"], "maskSize": 24}, "ipv6": {"cidrs": ["fd20::/104"], "maskSize": 120}});
    stand.api.create(&object("cilium.io/v2alpha1", "CiliumPodIPPool", "green", &green));
    for (node, net) in [("kind-worker", "10.21.0.0/24"), ("kind-worker2", "10.21.1.0/24")] {
        stand.api.create(&object("cilium.io/v2", "CiliumNode", node, &json!({"ipam": {"podCIDRs": [net]}})));
    }
    stand.controller_with("one", &["--pod-networks-from-cni"])?;
    push(&stand)?;
    let all = json!(["10.20.0.0/16", "10.21.0.0/23", "10.48.0.0/16", "fd20::/104"]);
    stand.await_that("every network, and as few as there can be", || published(&stand) == all)?;
    stand.api.create(&pool("second", &json!({"cidr": "10.49.0.0/16"})));
    stand.api.delete("ciliumpodippools.cilium.io", "", "green");
    stand.await_that("what is there now", || published(&stand) == json!(["10.21.0.0/23", "10.48.0.0/15"]))
}

#[test]
fn a_cluster_without_these_objects_is_no_fault_and_neither_is_one_that_does_not_ask_for_them() -> Outcome {
    let mut stand = Stand::empty(Options::default())?;
    stand.controller_with("one", &["--pod-networks-from-cni"])?;
    push(&stand)?;
    stand.await_that("a head", || stand.object("egressconfigs", "default").is_object())?;
    assert_eq!(published(&stand), Value::Null);
    let said = stand.logs();
    assert!(!said.contains("WARN") && !said.contains("ERROR"), "{said}");
    stand.kill9("controller-one")?;
    stand.api.forget_requests();
    calico(&stand);
    stand.api.create(&pool("default-ipv4", &json!({"cidr": "10.48.0.0/16"})));
    stand.controller("two")?;
    stand.lab.repository().write("policies/readme.md", "nothing")?;
    stand.push(&[])?;
    stand
        .await_that("a head of the second", || stand.object("egressconfigs", "default")["status"]["leader"] == "two")?;
    assert_eq!(published(&stand), Value::Null);
    let requests = stand.api.requests();
    let asked = |resource: &str| requests.iter().any(|request| request.resource.starts_with(resource));
    assert!(!asked("ippools") && !asked("cilium"), "{requests:?}");
    Ok(())
}

#[test]
fn a_pod_that_nobody_knows_yet_is_held_back_where_only_a_pool_contains_its_network() -> Outcome {
    let mut stand = Stand::empty(Options::default())?;
    // As Calico's own IPAM and Cilium's cluster pool leave Nodes.
    for node in stand.nodes() {
        stand.api.patch("nodes", "", &node, &json!({"spec": {"podCIDR": null, "podCIDRs": null}}));
    }
    calico(&stand);
    stand.controller_with("one", &["--pod-networks-from-cni"])?;
    for node in stand.nodes() {
        stand.agent(&node)?;
    }
    stand.api.create(&pool("default-ipv4", &json!({"cidr": "10.1.0.0/16"})));
    push(&stand)?;
    stand.await_answer("tiefighter", OUTPOST, Answer::Granted(crate::lab::EGRESS))?;
    let pod = Pod::new("interceptor", "kind-worker", 77, &[("org", "empire")]);
    stand.lab.wire_pod(pod)?;
    assert_eq!(stand.lab.ask_within("interceptor", OUTPOST, Duration::from_millis(300))?, Answer::NoAnswer);
    stand.assert_no_leak_but(&stand.lab.pod_addresses("tiefighter")?)
}
