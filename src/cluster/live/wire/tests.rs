//! Tests of the fields read from a real API server's objects (Kubernetes 1.36; shortened only in what is skipped).

use serde_json::json;

use super::*;

#[test]
fn a_node_is_its_labels_addresses_networks_and_whether_it_is_ready() {
    let node = json!({
        "kind": "Node", "apiVersion": "v1",
        "metadata": {
            "name": "kind-worker2", "uid": "248d2d37-96a0-415a-9d76-5a29b473ea64", "resourceVersion": "233",
            "creationTimestamp": "2026-11-22T19:56:38Z", "labels": {"egress-gw": "maybe", "example.com/a.b": "c"},
            "managedFields": [
                {"manager": "egret", "operation": "Apply", "apiVersion": "v1", "time": "2026-11-22T19:56:38Z",
                 "fieldsType": "FieldsV1", "fieldsV1": {"f:metadata": {"f:labels": {"f:example.com/a.b": {}}}}},
                {"manager": "kubectl-label", "operation": "Update", "apiVersion": "v1", "time": "2026-11-22T19:56:39Z",
                 "fieldsType": "FieldsV1", "fieldsV1": {"f:metadata": {"f:labels": {".": {}, "f:egress-gw": {}}}}},
                {"manager": "recorder", "operation": "Update", "apiVersion": "v1", "time": "2026-11-22T19:56:38Z",
                 "fieldsType": "FieldsV1", "subresource": "status",
                 "fieldsV1": {"f:status": {"f:addresses": {".": {}, "k:{\"type\":\"Hostname\"}": {".": {}, "f:address": {}}}}}},
            ],
        },
        "spec": {"podCIDR": "10.1.2.0/24", "podCIDRs": ["10.1.2.0/24", "fd00:10:1:2::/64"], "unschedulable": true,
                 "taints": [{"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"},
                            {"key": "egret.dev/agent-not-ready", "effect": "NoExecute", "timeAdded": "2026-11-22T19:56:38Z"}]},
        "status": {
            "conditions": [{"type": "MemoryPressure", "status": "False"},
                           {"type": "Ready", "status": "True", "reason": "KubeletReady", "lastHeartbeatTime": null}],
            "addresses": [{"type": "InternalIP", "address": "172.18.0.3"}, {"type": "Hostname", "address": "kind-worker2"},
                          {"type": "InternalIP", "address": "fd00:18::3"}, {"type": "InternalIP", "address": "nonsense"}],
            "nodeInfo": {"machineID": "", "bootID": "4c5c8b69-9b6e-4f65-8a3c-1b1f6f0a5a0e", "kernelVersion": ""},
        },
    });
    let facts = Node {
        labels: Labels::from([("egress-gw".into(), "maybe".into()), ("example.com/a.b".into(), "c".into())]),
        addresses: vec!["172.18.0.3".parse().expect("an address"), "fd00:18::3".parse().expect("an address")],
        pod_cidrs: vec!["10.1.2.0/24".parse().expect("a network"), "fd00:10:1:2::/64".parse().expect("a network")],
        ready: true,
        unschedulable: true,
    };
    let name = NodeName::parse("kind-worker2").expect("a name");
    let uid = "248d2d37-96a0-415a-9d76-5a29b473ea64".to_owned();
    let owner = |manager: &str, operation, time: &str, key: &str| LabelManager {
        manager: manager.to_owned(),
        operation,
        time: Some(time.parse().expect("a time")),
        keys: BTreeSet::from([key.to_owned()]),
    };
    let label_managers = vec![
        owner("egret", Operation::Apply, "2026-11-22T19:56:38Z", "example.com/a.b"),
        owner("kubectl-label", Operation::Update, "2026-11-22T19:56:39Z", "egress-gw"),
    ];

    let whole = serde_json::from_value(node.clone()).expect("a node");
    let starting = Some("4c5c8b69-9b6e-4f65-8a3c-1b1f6f0a5a0e".to_owned());
    let meta = NodeMeta { uid: uid.clone(), label_managers, starting };
    assert_eq!(Nodes::<Whole>::read(whole), Some((name.clone(), (facts.clone(), meta))));

    let slim = serde_json::from_value(node).expect("a node");
    assert_eq!(Nodes::<Slim>::identity(&slim).version, "233");
    let meta = NodeMeta { uid, ..NodeMeta::default() };
    assert_eq!(Nodes::<Slim>::read(slim), Some((name, (facts, meta))));
}

#[test]
fn a_node_that_says_nothing_is_not_ready() {
    let node = serde_json::from_value(json!({"metadata": {"name": "ghost", "uid": "u"}, "spec": {}})).expect("a node");
    let (_, (facts, _)) = Nodes::<Slim>::read(node).expect("a name");
    assert_eq!(facts, Node::default());
}

fn pod(spec: &Value, status: &Value) -> Pod {
    let metadata = json!({"name": "tiefighter", "namespace": "batuu", "labels": {"class": "tiefighter"}, "resourceVersion": "227"});
    let wire = serde_json::from_value(json!({"metadata": metadata, "spec": spec, "status": status})).expect("a pod");
    let (name, pod) = Pods::read(wire).expect("a pod");
    assert_eq!(name, PodName { namespace: "batuu".to_owned(), name: "tiefighter".to_owned() });
    assert_eq!(pod.labels, Labels::from([("class".to_owned(), "tiefighter".to_owned())]));
    pod
}

#[test]
fn a_pod_is_where_it_runs_with_which_addresses_and_whether_it_still_does() {
    let spec =
        json!({"nodeName": "kind-worker", "containers": [{"name": "c", "image": "none"}], "dnsPolicy": "ClusterFirst"});
    let running = pod(
        &spec,
        &json!({"phase": "Running", "podIP": "10.1.1.177", "podIPs": [{"ip": "10.1.1.177"}, {"ip": "fd00::1"}]}),
    );
    assert_eq!(running.node, Some(NodeName::parse("kind-worker").expect("a name")));
    assert_eq!(
        running.addresses,
        ["10.1.1.177", "fd00::1"].map(|one| one.parse::<std::net::IpAddr>().expect("an address"))
    );
    assert!(running.routable());

    let alone = pod(&spec, &json!({"phase": "Running", "podIP": "10.1.1.177"}));
    assert_eq!(alone.addresses.len(), 1);
    assert!(pod(&spec, &json!({"phase": "Failed", "podIP": "10.1.1.177"})).finished);
    assert!(pod(&json!({"nodeName": "kind-worker", "hostNetwork": true}), &json!({"phase": "Running"})).host_network);
    assert_eq!(pod(&json!({"nodeName": null}), &json!({"phase": "Pending", "podIPs": null})).node, None);
}

#[test]
fn a_pod_is_terminating_from_the_moment_it_has_a_deletion_timestamp() {
    let read = |metadata: Value| {
        let wire = serde_json::from_value(json!({"metadata": metadata, "spec": {}, "status": {}})).expect("a pod");
        Pods::read(wire).expect("a pod").1.terminating
    };
    assert!(read(
        json!({"name": "tiefighter", "deletionTimestamp": "2026-11-28T12:00:00Z", "deletionGracePeriodSeconds": 30})
    ));
    assert!(!read(json!({"name": "tiefighter", "deletionTimestamp": null})));
    assert!(!read(json!({"name": "tiefighter"})));
}

#[test]
fn a_policy_is_its_spec_and_for_the_controller_its_managers_and_its_status() {
    let policy = json!({
        "apiVersion": "egret.dev/v1alpha1", "kind": "PublishedEgressPolicy",
        "metadata": {"name": "outpost", "uid": "u", "resourceVersion": "247", "generation": 2, "managedFields": [
            {"manager": "egret-controller", "operation": "Apply", "time": "2026-11-22T19:56:46Z",
             "fieldsV1": {"f:spec": {"f:fence": {}}}},
            {"manager": "egret-controller", "operation": "Apply", "subresource": "status", "time": "2026-11-22T19:56:47Z",
             "fieldsV1": {"f:status": {"f:revision": {}}}},
        ]},
        "spec": {"fence": 3, "priority": 0},
        "status": {"revision": "0123", "members": 2, "unheard": "of"},
    });
    let wire = serde_json::from_value(policy.clone()).expect("a policy");
    let (name, whole) = Policies::<Whole>::read(wire).expect("a policy");
    let writer = Manager {
        manager: "egret-controller".to_owned(),
        operation: Operation::Apply,
        time: Some("2026-11-22T19:56:46Z".parse().expect("a time")),
    };
    assert_eq!(name, "outpost");
    assert_eq!((whole.generation, whole.resource_version.as_str()), (2, "247"));
    assert_eq!(whole.managers, [writer]);
    assert_eq!(whole.status.map(|status| status.members), Some(2));

    let wire = serde_json::from_value(policy).expect("a policy");
    let (_, slim) = Policies::<Slim>::read(wire).expect("a policy");
    assert_eq!((slim.spec, slim.status, slim.managers), (json!({"fence": 3, "priority": 0}), None, Vec::new()));
}

#[test]
fn a_configuration_that_cannot_be_read_says_why_and_one_of_another_name_is_none() {
    let read = |name: &str, spec: Value| {
        let wire = serde_json::from_value(json!({"metadata": {"name": name, "uid": "u"}, "spec": spec}));
        Configs::<Slim>::read(wire.expect("a configuration")).map(|((), config)| config.spec)
    };
    assert_eq!(read("default", json!({"cluster": "default"})), Some(Err("missing field `revision`".to_owned())));
    assert_eq!(read("other", json!({})), None);
}

#[test]
fn the_status_of_another_version_is_empty_and_hides_no_node() {
    let wire = json!({"metadata": {"name": "kind-worker", "uid": "u"}, "spec": {}, "status": {"exits": "all of them"}});
    let (_, node) = EgressNodes::read(serde_json::from_value(wire).expect("a node")).expect("a node");
    assert_eq!(node, EgressNodeObject { uid: "u".to_owned(), ..EgressNodeObject::default() });
}
