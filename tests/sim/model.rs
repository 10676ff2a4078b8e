//! What a seed's world asks for: teams of pods, gateways, and revisions of the repository; and which addresses a packet may leave with.
//!
//! It is so simple that it needs nothing of Egret's: team T, for network N, through the nodes that bear the group's label. Not here: what
//! the kernels make of it (`checker`).

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use serde_json::{Value, json};

use super::history::Files;
use super::random::Random;

/// The networks that policies name; a packet may also go to an address that none names.
pub(crate) const NETWORKS: u8 = 3;
pub(crate) const TEAMS: u8 = 4;
pub(crate) const GROUPS: u8 = 2;

/// An address in a network that policies name, or beyond them.
pub(crate) fn destination(network: u8) -> IpAddr {
    Ipv4Addr::new(10, 0, 4 + network, 7).into()
}

/// The address that node `number` has on `net1`.
pub(crate) fn egress_address(number: u8) -> IpAddr {
    Ipv4Addr::new(10, 0, 3, 40 + number).into()
}

pub(crate) fn node_address(number: u8) -> IpAddr {
    Ipv4Addr::new(172, 18, 0, 10 + number).into()
}

pub(crate) fn pod_address(node: u8, host: u8) -> IpAddr {
    Ipv4Addr::new(10, 244, node, host).into()
}

pub(crate) fn node_name(number: u8) -> String {
    format!("n{number}")
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ModelPolicy {
    pub(crate) team: u8,
    pub(crate) network: u8,
    pub(crate) group: u8,
}

/// What one commit means, with the last good version in the place of a document with an error.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Revision {
    pub(crate) policies: BTreeMap<String, ModelPolicy>,
    /// The nodes of each group.
    pub(crate) groups: BTreeMap<u8, BTreeSet<u8>>,
    /// Documents that have an error in this commit.
    pub(crate) broken: BTreeSet<String>,
    /// Files that have no say in the ways of packets.
    pub(crate) others: BTreeMap<String, String>,
}

impl Revision {
    /// The first one: some policies, and a gateway or two for each group.
    pub(crate) fn first(random: &mut Random, nodes: u8) -> Self {
        let mut revision = Self::default();
        for group in 0..GROUPS {
            revision.groups.insert(group, BTreeSet::new());
        }
        for node in 0..nodes.min(GROUPS + 1) {
            revision.groups.entry(node % GROUPS).or_default().insert(node);
        }
        for _ in 0..4 {
            revision.change(random, nodes, &BTreeSet::new());
        }
        revision
    }

    /// Changes one thing, or several. `stable` are the policies that were the same for so long that everybody knows their last good
    /// version.
    pub(crate) fn change(&mut self, random: &mut Random, nodes: u8, stable: &BTreeSet<String>) {
        self.broken.clear();
        let name = format!("p{}", random.below(8));
        match random.below(10) {
            0..5 => {
                let policy = ModelPolicy {
                    team: draw(random, TEAMS),
                    network: draw(random, NETWORKS),
                    group: draw(random, GROUPS),
                };
                self.policies.insert(name, policy);
            }
            5 | 6 => {
                self.policies.remove(&name);
            }
            7 => {
                // A bad edit: what was active stays so.
                if stable.contains(&name) {
                    self.broken.insert(name);
                }
            }
            8 => {
                // Many at once.
                for number in 8..8 + random.below(12) {
                    let policy = ModelPolicy {
                        team: draw(random, TEAMS),
                        network: draw(random, NETWORKS),
                        group: draw(random, GROUPS),
                    };
                    self.policies.insert(format!("p{number}"), policy);
                }
            }
            _ => {
                let (group, node) = (draw(random, GROUPS), draw(random, nodes));
                for members in self.groups.values_mut() {
                    members.remove(&node);
                }
                self.groups.entry(group).or_default().insert(node);
            }
        }
    }

    /// As documents.
    pub(crate) fn files(&self) -> Files {
        let mut files = Files::from_iter(self.others.clone());
        for (name, policy) in &self.policies {
            let ModelPolicy { team, network, group } = policy;
            let spelled = if self.broken.contains(name) { "podSelecter" } else { "podSelector" };
            let text = format!(
                "apiVersion: cilium.io/v2\nkind: CiliumEgressGatewayPolicy\nmetadata: {{name: {name}}}\nspec:\n  selectors:\n  - {spelled}: \
                 {{matchLabels: {{team: t{team}}}}}\n  destinationCIDRs: [\"10.0.{}.0/24\"]\n  egressGateway:\n    nodeSelector: \
                 {{matchLabels: {{egress: g{group}}}}}\n    interface: net1\n",
                4 + network,
            );
            files.insert(format!("policies/{name}.yaml"), text);
        }
        for (group, nodes) in &self.groups {
            if nodes.is_empty() {
                continue;
            }
            let nodes: Vec<String> = nodes.iter().map(|node| node_name(*node)).collect();
            let text = format!(
                "apiVersion: egret.dev/v1alpha1\nkind: NodeLabels\nmetadata: {{name: g{group}}}\nspec:\n  nodes: [{}]\n  labels: {{egress: g{group}}}\n",
                nodes.join(", "),
            );
            files.insert(format!("nodes/g{group}.yaml"), text);
        }
        files
    }

    /// Whether both ask for the same policies and labels.
    pub(crate) fn asks_the_same(&self, other: &Self) -> bool {
        (&self.policies, &self.groups) == (&other.policies, &other.groups)
    }

    /// The policy that decides of a team's packets to a network: of equal prefixes the first by name.
    pub(crate) fn decisive(&self, team: u8, network: u8) -> Option<&ModelPolicy> {
        self.policies.values().find(|policy| policy.team == team && policy.network == network)
    }

    /// The addresses that a team's packets to a network may leave with; none: they are not steered.
    pub(crate) fn addresses(&self, team: u8, network: u8) -> Option<BTreeSet<IpAddr>> {
        self.addresses_with(&self.groups, team, network)
    }

    /// The same with these nodes in the groups.
    pub(crate) fn addresses_with(
        &self,
        groups: &BTreeMap<u8, BTreeSet<u8>>,
        team: u8,
        network: u8,
    ) -> Option<BTreeSet<IpAddr>> {
        let mut found = None;
        for policy in self.policies.values().filter(|policy| policy.team == team && policy.network == network) {
            let nodes = groups.get(&policy.group).into_iter().flatten();
            found.get_or_insert_with(BTreeSet::new).extend(nodes.map(|node| egress_address(*node)));
        }
        found
    }
}

pub(crate) fn draw(random: &mut Random, end: u8) -> u8 {
    u8::try_from(random.below(usize::from(end))).expect("a small number")
}

/// The namespace of all pods.
pub(crate) fn namespace() -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "apps"}})
}

/// A Node as the kubelet and the control plane write it.
pub(crate) fn node(number: u8, ready: bool) -> Value {
    let name = node_name(number);
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        "spec": {"podCIDR": format!("10.244.{number}.0/24"), "podCIDRs": [format!("10.244.{number}.0/24")]},
        "status": {
            "addresses": [{"type": "InternalIP", "address": node_address(number)}],
            "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }, "reason": "Kubelet", "message": ""}],
        },
    })
}

/// A pod that runs.
pub(crate) fn pod(name: &str, team: u8, node: u8, address: IpAddr) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "apps", "labels": {"team": format!("t{team}")}},
        "spec": {"nodeName": node_name(node), "containers": [{"name": "app", "image": "app"}]},
        "status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]},
    })
}
