//! Pods that come, go and move while the lab stands.
//!
//! As in Kubernetes, the network of a pod is there before its addresses are told, and gone before its object is: both halves can be had
//! apart, as it is between them that packets leak.
//! Deliberately absent: a scheduler. The test says on which node.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::process::Command;
use std::sync::PoisonError;

use super::claim::growing;
use super::error::{LabError, run};
use super::namespace::Namespace;
use super::topology::{Node, Pod};
use super::{Lab, manifests, topology};

/// A pod that has a network.
pub(super) struct Wired {
    pub(super) pod: Pod,
    pub(super) node: Node,
    /// Whether the manifests tell of it.
    pub(super) announced: bool,
}

impl Lab {
    /// Adds a pod of namespace `batuu` with the first free addresses of a node and tells of it. Gives its addresses.
    pub(crate) fn add_pod(&self, name: &str, node: &str, labels: &[(&str, &str)]) -> Result<Vec<IpAddr>, LabError> {
        let host = self.free_host(node)?;
        let addresses = self.wire_pod(Pod::new(name, node, host, labels))?;
        self.announce_pod(name)?;
        Ok(addresses)
    }

    /// Gives a pod its network and tells nobody yet. Gives its addresses.
    pub(crate) fn wire_pod(&self, pod: Pod) -> Result<Vec<IpAddr>, LabError> {
        let node = self.known_node(&pod.node)?;
        let refuse = |reason| Err(LabError::Pod { name: pod.name.clone(), reason });
        let _growing = growing();
        let mut pods = self.pods();
        if pod.name.is_empty() || pod.name.len() > 11 {
            return refuse("its name must have 1 to 11 letters, as its link is called lxc-NAME");
        } else if pod.host == 0 || pod.host == 255 {
            return refuse("the last number of its addresses must be 1 to 254");
        } else if pods.contains_key(&pod.name) {
            return refuse("there is one of this name");
        } else if pods.values().any(|other| other.node == node && other.pod.host == pod.host) {
            return refuse("its addresses are another pod's");
        }
        self.claim.make_namespaces([pod.name.as_str()])?;
        let inside = self.claim.namespace(&pod.name);
        inside.sysctls(&topology::sysctls(&self.options, false, 0))?;
        let on_node = topology::pod_on_node(&self.options, &pod, &node, &inside);
        self.claim.namespace(&node.name).ip_batch(on_node.text())?;
        inside.ip_batch(topology::pod_inside(&self.options, &pod, &node).text())?;
        let addresses = self.options.families(pod.addresses(&node));
        pods.insert(pod.name.clone(), Wired { pod, node, announced: false });
        Ok(addresses)
    }

    /// Tells of a pod in the manifests.
    pub(crate) fn announce_pod(&self, name: &str) -> Result<(), LabError> {
        let mut pods = self.pods();
        pods.get_mut(name).ok_or_else(|| unknown(name))?.announced = true;
        self.tell_of_pods(&pods)
    }

    /// Takes a pod's network away and leaves its object as it is. What it had open is cut.
    pub(crate) fn unwire_pod(&self, name: &str) -> Result<(), LabError> {
        let pods = self.pods();
        let wired = pods.get(name).ok_or_else(|| unknown(name))?;
        // The link by itself first: a namespace goes away in its own time, and lives on while a client has a socket in it.
        self.claim.namespace(&wired.node.name).exec(["ip", "link", "delete", &wired.pod.link()])?;
        run(Command::new("ip").args(["netns", "delete", self.claim.namespace(name).name()]), "").map(|_| ())
    }

    /// Takes a pod away, network and object.
    pub(crate) fn remove_pod(&self, name: &str) -> Result<(), LabError> {
        self.unwire_pod(name)?;
        let mut pods = self.pods();
        pods.remove(name);
        self.tell_of_pods(&pods)
    }

    /// Lets a pod end on its node and start on another, with the first free addresses there. Gives these.
    pub(crate) fn move_pod(&self, name: &str, node: &str) -> Result<Vec<IpAddr>, LabError> {
        let host = self.free_host(node)?;
        let pod = self.pods().get(name).ok_or_else(|| unknown(name))?.pod.clone();
        self.remove_pod(name)?;
        let addresses = self.wire_pod(Pod { node: node.to_owned(), host, ..pod })?;
        self.announce_pod(name)?;
        Ok(addresses)
    }

    /// The addresses of a pod.
    pub(crate) fn pod_addresses(&self, name: &str) -> Result<Vec<IpAddr>, LabError> {
        let pods = self.pods();
        let wired = pods.get(name).ok_or_else(|| unknown(name))?;
        Ok(self.options.families(wired.pod.addresses(&wired.node)))
    }

    /// The namespace of a pod.
    pub(crate) fn pod(&self, name: &str) -> Result<Namespace, LabError> {
        self.pods().get(name).map(|_| self.claim.namespace(name)).ok_or_else(|| unknown(name))
    }

    /// The first number from 50 on that no pod of a node has.
    fn free_host(&self, node: &str) -> Result<u8, LabError> {
        let node = self.known_node(node)?;
        let pods = self.pods();
        let taken = |host| pods.values().any(|wired| wired.node == node && wired.pod.host == host);
        let full = LabError::Unknown { kind: "free address on node", name: node.name.clone() };
        (50..=254).find(|host| !taken(*host)).ok_or(full)
    }

    fn pods(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Wired>> {
        self.pods.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell_of_pods(&self, pods: &BTreeMap<String, Wired>) -> Result<(), LabError> {
        let told = || pods.values().filter(|wired| wired.announced).map(|wired| (&wired.pod, &wired.node));
        let write =
            |name: &str, text: &str| manifests::replace(&self.cluster_dir().join(name), text, self.claim.folder());
        // A namespace is there before the first pod in it.
        write("namespaces.yaml", &manifests::namespaces(told().map(|(pod, _)| pod)))?;
        write("pods.yaml", &manifests::pods(&self.options, told()))
    }
}

fn unknown(name: &str) -> LabError {
    LabError::Unknown { kind: "pod", name: name.to_owned() }
}
