//! What `kubectl get nodes,namespaces,pods -A -o json` prints of a cluster.

use egret::core::facts::{Facts, Node, Pod, PodName};
use egret::core::labels::Labels;
use egret::core::name::NodeName;
use serde_json::{Value, json};

pub(super) fn dump(facts: &Facts) -> String {
    let nodes = facts.nodes.iter().map(|(name, known)| node(name, known));
    let namespaces = facts.namespaces.iter().map(|(name, labels)| namespace(name, labels));
    let pods = facts.pods.iter().map(|(name, known)| pod(name, known));
    let items: Vec<Value> = nodes.chain(namespaces).chain(pods).collect();
    let list = json!({"apiVersion": "v1", "items": items, "kind": "List", "metadata": {"resourceVersion": ""}});
    format!("{list:#}\n")
}

fn node(name: &NodeName, node: &Node) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"annotations": {"node.alpha.kubernetes.io/ttl": "0"}, "labels": node.labels, "name": name.as_str()},
        "spec": {"podCIDR": node.pod_cidrs[0], "podCIDRs": node.pod_cidrs},
        "status": {
            "addresses": [
                {"address": node.addresses[0], "type": "InternalIP"},
                {"address": name.as_str(), "type": "Hostname"},
            ],
            "conditions": [{"message": "kubelet is posting ready status", "status": "True", "type": "Ready"}],
        },
    })
}

fn namespace(name: &str, labels: &Labels) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"labels": labels, "name": name},
        "spec": {"finalizers": ["kubernetes"]},
        "status": {"phase": "Active"},
    })
}

fn pod(name: &PodName, pod: &Pod) -> Value {
    let container = json!({
        "env": [{"name": "LOG_LEVEL", "value": "info"}, {"name": "PORT", "value": "8080"}],
        "image": "registry.example.org/team/service:1.27.3",
        "name": "main",
        "resources": {"limits": {"memory": "512Mi"}, "requests": {"cpu": "100m", "memory": "256Mi"}},
        "volumeMounts": [{"mountPath": "/var/run/secrets/kubernetes.io/serviceaccount", "name": "token"}],
    });
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "creationTimestamp": "2026-11-01T08:00:00Z",
            "labels": pod.labels,
            "name": name.name,
            "namespace": name.namespace,
            "ownerReferences": [{"apiVersion": "apps/v1", "controller": true, "kind": "ReplicaSet", "name": "service"}],
        },
        "spec": {
            "containers": [container],
            "hostNetwork": pod.host_network,
            "nodeName": pod.node.as_ref().map(NodeName::as_str),
            "tolerations": [{"effect": "NoExecute", "key": "node.kubernetes.io/not-ready", "operator": "Exists"}],
            "volumes": [{"name": "token", "projected": {"defaultMode": 420, "sources": []}}],
        },
        "status": {
            "conditions": [{"lastTransitionTime": "2026-11-01T08:00:02Z", "status": "True", "type": "Ready"}],
            "containerStatuses": [{"name": "main", "ready": true, "restartCount": 0}],
            "phase": if pod.finished { "Succeeded" } else { "Running" },
            "podIP": pod.addresses[0],
            "podIPs": [{"ip": pod.addresses[0]}],
        },
    })
}
