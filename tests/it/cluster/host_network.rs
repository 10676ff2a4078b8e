//! What a cluster has that nobody else makes on a bare API server: nodes, namespaces with a service account, pods, and their statuses.
//!
//! Everything has the run's prefix, and is found and taken away by it. Deliberately absent: anything about other people's objects.

use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::api::{Api, JSON, Outcome, fault, message, name};
use super::chart;
use crate::lab::{Lab, Node, Pod, wait_until_every};

/// Where our custom objects are.
pub(super) const CUSTOM: &str = "/apis/egret.dev/v1alpha1";
/// What all prefixes begin with.
pub(super) const ALL: &str = "egret-test-";

const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces";
const EVENTS: &str = "/apis/events.k8s.io/v1/namespaces/default/events";
/// One run at a time in a cluster: definitions and the head of what is published are there once.
const LOCK: &str = "egret-test";
/// A holder that has been silent for this long is dead.
const DEAD: Duration = Duration::from_mins(1);
/// How often the lock, and what would be kubelets' leases, are renewed.
const BEAT: Duration = Duration::from_secs(8);
/// A namespace controller has said something about a deleted namespace by then. Without one, the suite takes its place.
const CONTROLLER: Duration = Duration::from_secs(4);
const DEADLINE: Duration = Duration::from_secs(90);

fn now() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}

/// A Node as the lab has it, under another name.
pub(super) fn make_node(api: &Api, prefix: &str, node: &Node, dual: bool) -> Outcome<Value> {
    let name = format!("{prefix}-{}", node.name);
    let families = if dual { 2 } else { 1 };
    let cidrs: Vec<String> = node.pod_cidrs().into_iter().take(families).collect();
    let object = json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux", chart::MARK: prefix}},
        "spec": {
            "podCIDR": cidrs[0], "podCIDRs": cidrs,
            // Where there is a scheduler, it is not to think that somebody runs pods here.
            "taints": [{"key": chart::MARK, "effect": "NoSchedule"}],
        },
    });
    api.create("/api/v1/nodes", &object)?;
    let mut addresses: Vec<Value> = Vec::new();
    for address in node.addresses().into_iter().take(families) {
        addresses.push(json!({"type": "InternalIP", "address": address.to_string()}));
    }
    addresses.push(json!({"type": "Hostname", "address": name}));
    let ready = json!({
        "type": "Ready", "status": "True", "reason": "KubeletReady", "message": "as a test says",
        "lastHeartbeatTime": second(), "lastTransitionTime": second(),
    });
    let status = json!({"status": {"addresses": addresses, "conditions": [ready]}});
    api.merge(&format!("/api/v1/nodes/{name}/status"), &status)
}

fn second() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// A Namespace with the service account that pods of it need: a controller would make it, if there were one.
pub(super) fn make_namespace(api: &Api, prefix: &str, name: &str) -> Outcome {
    // Whatever the cluster's default is: the pods are never run.
    let labels = json!({chart::MARK: prefix, "pod-security.kubernetes.io/enforce": "privileged"});
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}});
    api.create("/api/v1/namespaces", &namespace)?;
    let accounts = format!("/api/v1/namespaces/{name}/serviceaccounts");
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
    match api.create_soon(&accounts, &account) {
        Err(_) if api.get(&format!("{accounts}/default"))?.is_some() => Ok(()),
        made => made.map(|_| ()),
    }
}

/// The object of a pod that the lab has wired, on its node, with the addresses it has there.
pub(super) fn make_pod(api: &Api, prefix: &str, pod: &Pod, lab: &Lab) -> Outcome {
    let (namespace, node) = (format!("{prefix}-{}", pod.namespace), format!("{prefix}-{}", pod.node));
    let object = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": pod.name, "labels": pod.labels},
        "spec": {
            "nodeName": node, "automountServiceAccountToken": false, "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "spaceship", "image": "registry.invalid/spaceship:1"}],
            "tolerations": [{"operator": "Exists"}],
        },
    });
    let pods = format!("/api/v1/namespaces/{namespace}/pods");
    api.create_soon(&pods, &object)?;
    let addresses: Vec<String> = lab.pod_addresses(&pod.name)?.iter().map(ToString::to_string).collect();
    let ips: Vec<Value> = addresses.iter().map(|ip| json!({"ip": ip})).collect();
    let host = lab.nodes().iter().find(|one| one.name == pod.node).map(|one| one.addresses()[0].to_string());
    let status = json!({"status": {"phase": "Running", "podIP": addresses[0], "podIPs": ips, "hostIP": host}});
    api.merge(&format!("{pods}/{}/status", pod.name), &status).map(|_| ())
}

/// Refuses a cluster in which the suite could do harm.
pub(super) fn refuse_others(api: &Api) -> Outcome {
    for plural in ["publishedegresspolicies", "egressconfigs", "egressnodes"] {
        if let Some(object) = api.list(&format!("{CUSTOM}/{plural}"))?.first() {
            let why = format!(
                "{plural} {} is in the cluster: Egret is in use here, and a second controller would take its policies out of force",
                name(object)
            );
            return Err(fault(why));
        }
    }
    for node in api.list("/api/v1/nodes")? {
        if is_ours(&node) {
            return Err(fault(format!("Egret owns labels of node {}: it is in use in this cluster", name(&node))));
        }
    }
    Ok(())
}

/// Whether Egret's label manager owns something of a node.
pub(super) fn is_ours(node: &Value) -> bool {
    let managers = node["metadata"]["managedFields"].as_array().into_iter().flatten();
    managers.into_iter().any(|entry| {
        let labels = entry["fieldsV1"]["f:metadata"]["f:labels"].as_object();
        entry["manager"] == "egret" && labels.is_some_and(|labels| labels.keys().any(|key| key != "."))
    })
}

/// Takes away everything that bears a prefix. Goes on after a fault, and tells how many objects there were.
pub(super) fn sweep(api: &Api, prefix: &str) -> (usize, Vec<String>) {
    let (mut found, mut faults) = (0, Vec::new());
    let mut take = |what: Outcome<usize>| match what {
        Ok(number) => found += number,
        Err(fault) => faults.push(format!("{fault:?}")),
    };
    let named = |object: &Value| name(object).starts_with(prefix);
    take(delete_all(api, &format!("{CUSTOM}/publishedegresspolicies"), &named));
    let of_it = |object: &Value| object["spec"]["cluster"].as_str().is_some_and(|name| name.starts_with(prefix));
    take(delete_all(api, &format!("{CUSTOM}/egressconfigs"), &of_it));
    take(delete_all(api, &format!("{CUSTOM}/egressnodes"), &named));
    take(delete_namespaces(api, prefix));
    take(delete_all(api, "/api/v1/nodes", &named));
    take(delete_all(api, &format!("{LEASES}/kube-node-lease/leases"), &named));
    // EgressConfig `default` bears no prefix, but who wrote about it does.
    let of_ours = |text: &Value| text.as_str().is_some_and(|text| text.starts_with(prefix));
    let event = |object: &Value| of_ours(&object["regarding"]["name"]) || of_ours(&object["reportingInstance"]);
    take(delete_all(api, EVENTS, &event));
    take(chart::sweep(api, prefix));
    (found, faults)
}

fn delete_all(api: &Api, at: &str, which: &dyn Fn(&Value) -> bool) -> Outcome<usize> {
    let mut found = 0;
    for object in api.list(at)?.iter().filter(|object| which(object)) {
        api.delete(&format!("{at}/{}", name(object)))?;
        found += 1;
    }
    Ok(found)
}

/// What may lie in a namespace of ours: what the suite put there, and what controllers of a whole cluster add.
fn contents(namespace: &str) -> Vec<String> {
    let core = ["pods", "serviceaccounts", "configmaps", "events", "secrets"];
    let core = core.map(|plural| format!("/api/v1/namespaces/{namespace}/{plural}"));
    let rights = ["rolebindings", "roles"]
        .map(|plural| format!("/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}/{plural}"));
    core.into_iter().chain(rights).chain([format!("{LEASES}/{namespace}/leases")]).collect()
}

fn delete_namespaces(api: &Api, prefix: &str) -> Outcome<usize> {
    let there = api.list("/api/v1/namespaces")?;
    let ours: Vec<&str> = there.iter().map(name).filter(|name| name.starts_with(prefix)).collect();
    for namespace in &ours {
        for at in contents(namespace) {
            delete_all(api, &at, &|_| true)?;
        }
        api.delete(&format!("/api/v1/namespaces/{namespace}"))?;
    }
    let begun = Instant::now();
    for namespace in &ours {
        await_gone(api, namespace, begun)?;
    }
    Ok(ours.len())
}

/// Waits until a deleted namespace is gone. Where nobody has said a word about it, there is no namespace controller, and what that would do
/// at the end is done here: everything in it is gone, so its finalizer may go.
fn await_gone(api: &Api, namespace: &str, begun: Instant) -> Outcome {
    let path = format!("/api/v1/namespaces/{namespace}");
    let mut last = Ok(false);
    wait_until_every(Duration::from_millis(200), DEADLINE, || {
        last = is_gone(api, namespace, begun);
        !matches!(last, Ok(false))
    });
    if last? {
        return Ok(());
    }
    Err(fault(format!("the namespace {namespace} does not go away: {:?}", api.get(&path)?)))
}

/// Whether it is gone; does the controller's part where there is none.
fn is_gone(api: &Api, namespace: &str, begun: Instant) -> Outcome<bool> {
    let path = format!("/api/v1/namespaces/{namespace}");
    let Some(mut object) = api.get(&path)? else { return Ok(true) };
    let untouched = object["status"]["conditions"].as_array().is_none_or(Vec::is_empty);
    if untouched && begun.elapsed() > CONTROLLER {
        for at in contents(namespace) {
            delete_all(api, &at, &|_| true)?;
        }
        object["spec"]["finalizers"] = json!([]);
        match api.send("PUT", &format!("{path}/finalize"), JSON, &object)? {
            (200..300 | 404 | 409, _) => {}
            (code, answer) => {
                return Err(fault(format!("finalize namespace {namespace}: {code} {}", message(&answer))));
            }
        }
    }
    Ok(false)
}

/// The right to run in this cluster, and the nodes' heartbeat, renewed by a thread until it is dropped.
pub(super) struct Held {
    api: Api,
    nodes: Arc<Mutex<Vec<String>>>,
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Held {
    /// Waits for another run to end or to be found dead, and takes its place.
    pub(super) fn take(api: &Api, prefix: &str, say: &dyn Fn(&str)) -> Outcome<Self> {
        let (at, begun) = (format!("{LEASES}/default/leases"), Instant::now());
        loop {
            let lease = json!({
                "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": LOCK},
                "spec": {"holderIdentity": prefix, "leaseDurationSeconds": DEAD.as_secs(), "renewTime": now()},
            });
            match api.send("POST", &at, JSON, &lease)? {
                (200..300, _) => break,
                (409, _) => {}
                (code, answer) => return Err(fault(format!("POST {at}: {code} {}", message(&answer)))),
            }
            let other = api.get(&format!("{at}/{LOCK}"))?.unwrap_or_default();
            let renewed = other["spec"]["renewTime"].as_str().and_then(|time| time.parse::<jiff::Timestamp>().ok());
            let silent = renewed.map_or(i64::MAX, |time| jiff::Timestamp::now().duration_since(time).as_secs());
            if silent > DEAD.as_secs().cast_signed() {
                api.delete(&format!("{at}/{LOCK}"))?;
                continue;
            }
            if begun.elapsed() > DEAD * 2 {
                return Err(fault(format!("{} is running its tests in this cluster", other["spec"]["holderIdentity"])));
            }
            if begun.elapsed() < Duration::from_secs(1) {
                say(&format!("waiting for {}, which ran here {silent} s ago, to end", other["spec"]["holderIdentity"]));
            }
            // Another machine's run: its end can only be asked for.
            std::thread::sleep(Duration::from_secs(2));
        }
        let (stop, stopped) = channel::<()>();
        let (beating, nodes) = (api.clone(), Arc::<Mutex<Vec<String>>>::default());
        let alive = Arc::clone(&nodes);
        let thread = std::thread::spawn(move || {
            loop {
                // A beat that is missed is made up for by the next.
                drop(beating.merge(&format!("{LEASES}/default/leases/{LOCK}"), &json!({"spec": {"renewTime": now()}})));
                let nodes = alive.lock().unwrap_or_else(PoisonError::into_inner).clone();
                for node in &nodes {
                    beat(&beating, node);
                }
                if !matches!(stopped.recv_timeout(BEAT), Err(RecvTimeoutError::Timeout)) {
                    return;
                }
            }
        });
        Ok(Self { api: api.clone(), nodes, stop: Some(stop), thread: Some(thread) })
    }

    /// From now on this node's heart beats.
    pub(super) fn enliven(&self, node: &str) {
        beat(&self.api, node);
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner).push(node.to_owned());
    }

    /// Renews nothing any more, so that what is taken away now stays away. The right is kept.
    pub(super) fn be_quiet(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.be_quiet();
        // Somebody else takes a silent one's place, in the worst case.
        drop(self.api.delete(&format!("{LEASES}/default/leases/{LOCK}")));
    }
}

/// As a kubelet says that it is alive: a node controller, where there is one, would call the node unreachable otherwise.
fn beat(api: &Api, node: &str) {
    let at = format!("{LEASES}/kube-node-lease/leases");
    let spec = json!({"holderIdentity": node, "leaseDurationSeconds": 40, "renewTime": now()});
    let lease = json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": node}, "spec": spec,
    });
    let renewed = api.send("PATCH", &format!("{at}/{node}"), super::api::MERGE, &json!({"spec": spec}));
    if matches!(renewed, Ok((404, _))) {
        drop(api.send("POST", &at, JSON, &lease));
    }
}
