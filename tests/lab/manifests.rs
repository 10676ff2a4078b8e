//! The lab's objects as `kubectl get … -o yaml` prints them: nodes.yaml, namespaces.yaml and pods.yaml in one folder.
//!
//! Deliberately absent: any YAML library. What kubectl prints is a text with one fixed form, and it is that form that a program must read,
//! and change one line of without touching the others.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs;
use std::net::IpAddr;
use std::path::Path;

use super::error::LabError;
use super::topology::{Node, Options, Pod};

/// When everything was made, as far as the manifests say.
const BORN: &str = "2026-11-22T19:56:38Z";

/// The nodes, with the labels that kind gives them.
pub(crate) fn nodes(options: &Options) -> String {
    list(options.nodes().iter().map(|node| self::node(options, node)))
}

fn node(options: &Options, node: &Node) -> String {
    let name = &node.name;
    let addresses: String = options
        .families(node.addresses())
        .iter()
        .fold(String::new(), |text, address| text + &format!("    - address: {address}\n      type: InternalIP\n"));
    let [cidr, cidr6] = node.pod_cidrs();
    let second = if options.ipv6 { format!("    - {cidr6}\n") } else { String::new() };
    format!(
        "- apiVersion: v1
  kind: Node
  metadata:
    annotations:
      node.alpha.kubernetes.io/ttl: \"0\"
    creationTimestamp: \"{BORN}\"
    labels:
      beta.kubernetes.io/arch: amd64
      beta.kubernetes.io/os: linux
      kubernetes.io/arch: amd64
      kubernetes.io/hostname: {name}
      kubernetes.io/os: linux
    name: {name}
    resourceVersion: \"{}\"
    uid: 248d2d37-96a0-415a-9d76-0000000000{:02x}
  spec:
    podCIDR: {cidr}
    podCIDRs:
    - {cidr}
{second}    providerID: kind://docker/kind/{name}
  status:
    addresses:
{addresses}    - address: {name}
      type: Hostname
    conditions:
    - lastHeartbeatTime: \"{BORN}\"
      lastTransitionTime: \"{BORN}\"
      message: kubelet has sufficient memory available
      reason: KubeletHasSufficientMemory
      status: \"False\"
      type: MemoryPressure
    - lastHeartbeatTime: \"{BORN}\"
      lastTransitionTime: \"{BORN}\"
      message: kubelet is posting ready status
      reason: KubeletReady
      status: \"True\"
      type: Ready
",
        200 + u32::from(node.index),
        node.index
    )
}

/// The namespaces of these pods, with the label that Kubernetes gives each.
pub(crate) fn namespaces<'a>(pods: impl IntoIterator<Item = &'a Pod>) -> String {
    let names: BTreeSet<&str> =
        pods.into_iter().map(|pod| pod.namespace.as_str()).chain(["default", "kube-system"]).collect();
    list(names.into_iter().enumerate().map(|(number, name)| {
        format!(
            "- apiVersion: v1
  kind: Namespace
  metadata:
    creationTimestamp: \"{BORN}\"
    labels:
      kubernetes.io/metadata.name: {name}
    name: {name}
    resourceVersion: \"40\"
    uid: 8f7c1a52-3f0e-4a6e-8d0e-0000000000{number:02x}
  spec:
    finalizers:
    - kubernetes
  status:
    phase: Active
"
        )
    }))
}

/// These pods, each with its node.
pub(crate) fn pods<'a>(options: &Options, pods: impl IntoIterator<Item = (&'a Pod, &'a Node)>) -> String {
    list(pods.into_iter().map(|(pod, node)| self::pod(options, pod, node)))
}

fn pod(options: &Options, pod: &Pod, node: &Node) -> String {
    let lines = |addresses: &[IpAddr]| {
        addresses.iter().fold(String::new(), |text, address| text + &format!("    - ip: {address}\n"))
    };
    let mut labels = String::new();
    for (key, value) in &pod.labels {
        // Quoted always: a value may look like a number or a truth value. Writing to a string cannot fail.
        let _ = writeln!(labels, "      {key}: \"{value}\"");
    }
    let labels = if labels.is_empty() { labels } else { format!("    labels:\n{labels}") };
    let (addresses, hosts) = (options.families(pod.addresses(node)), options.families(node.addresses()));
    let uses = lines(&addresses);
    let host_addresses = lines(&hosts);
    format!(
        "- apiVersion: v1
  kind: Pod
  metadata:
    creationTimestamp: \"{BORN}\"
{labels}    name: {}
    namespace: {}
    resourceVersion: \"{}\"
    uid: 5d1c2c0e-9a3b-4c68-b7a1-00000000{:02x}{:02x}
  spec:
    containers:
    - image: docker.io/cilium/json-mock
      name: spaceship
    nodeName: {}
    restartPolicy: Always
  status:
    hostIP: {}
    hostIPs:
{host_addresses}    phase: Running
    podIP: {}
    podIPs:
{uses}",
        pod.name,
        pod.namespace,
        1000 + u32::from(node.index) * 256 + u32::from(pod.host),
        node.index,
        pod.host,
        node.name,
        hosts[0],
        addresses[0],
    )
}

fn list(items: impl Iterator<Item = String>) -> String {
    let items = items.collect::<String>();
    // As kubectl prints a list that has none.
    let items = if items.is_empty() { "items: []\n".to_owned() } else { format!("items:\n{items}") };
    format!("apiVersion: v1\n{items}kind: List\nmetadata:\n  resourceVersion: \"\"\n")
}

/// The text of nodes.yaml with one node's condition Ready set, all else as it was; `None` where the node is not in it.
pub(crate) fn with_ready(text: &str, node: &str, ready: bool) -> Option<String> {
    let start = text.find(&format!("\n    name: {node}\n"))?;
    let length = text[start..].find("      type: Ready\n")?;
    let (before, condition) = text[..start + length].rsplit_once("      status: \"")?;
    let (_, end) = condition.split_once('"')?;
    let status = if ready { "True" } else { "False" };
    Some(format!("{before}      status: \"{status}\"{end}{}", &text[start + length..]))
}

/// The same with the node cordoned, as `kubectl cordon` does.
pub(crate) fn cordoned(text: &str, node: &str) -> Option<String> {
    let start = text.find(&format!("\n    name: {node}\n"))?;
    let behind = start + text[start..].find("\n  spec:\n")? + "\n  spec:\n".len();
    Some(format!("{}    unschedulable: true\n{}", &text[..behind], &text[behind..]))
}

/// Puts a text in place of a file in one step: it is written elsewhere in `scratch`, where nobody looks, and moved.
pub(crate) fn replace(file: &Path, text: &str, scratch: &Path) -> Result<(), LabError> {
    let name = file.file_name().unwrap_or_default();
    let written = scratch.join(name);
    fs::write(&written, text).map_err(LabError::doing(format!("write {}", written.display())))?;
    fs::rename(&written, file).map_err(LabError::doing(format!("put {} in place", file.display())))
}
