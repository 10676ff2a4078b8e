//! A cluster and a policy repository of any size, for the benchmarks.
//!
//! Deliberately absent: measuring.

use egret::core::facts::{Facts, Node, Pod, PodName};
use egret::core::labels::Labels;
use egret::core::name::NodeName;

const GATEWAYS: usize = 50;

pub(crate) fn path(number: usize) -> String {
    format!("policies/team-{}/policy-{number}.yaml", number % 100)
}

pub(crate) fn policy(number: usize, length: usize) -> String {
    let (a, b) = (number / 250, number % 250);
    let host = if length == 24 { 0 } else { 128 };
    format!(
        "apiVersion: cilium.io/v2
kind: CiliumEgressGatewayPolicy
metadata: {{name: policy-{number}}}
spec:
  selectors:
  - podSelector: {{matchLabels: {{app: app-{number}, io.kubernetes.pod.namespace: team-{}}}}}
  destinationCIDRs: [\"100.{a}.{b}.{host}/{length}\"]
  egressGateway: {{nodeSelector: {{matchLabels: {{gateway: \"g{}\"}}}}, interface: net1}}
",
        number % 100,
        number % GATEWAYS
    )
}

pub(crate) fn world(nodes: usize, pods: usize, policies: usize) -> Facts {
    let mut facts = Facts::default();
    for number in 0..nodes {
        let labels = Labels::from([("gateway".to_owned(), format!("g{number}"))]);
        let (high, low) = (number / 250, number % 250);
        let node = Node {
            labels,
            addresses: vec![format!("172.16.{high}.{low}").parse().expect("an address")],
            pod_cidrs: vec![format!("10.{high}.{low}.0/24").parse().expect("a network")],
            ready: true,
            unschedulable: false,
        };
        facts.nodes.insert(NodeName::parse(&format!("node-{number:05}")).expect("a name"), node);
    }
    for number in 0..pods {
        let node = number % nodes;
        let name = PodName { namespace: format!("team-{}", number % 100), name: format!("pod-{number}") };
        facts.pods.insert(name, pod(number % policies, &format!("node-{node:05}"), node, number / nodes));
    }
    facts
}

pub(crate) fn pod(app: usize, node: &str, node_number: usize, host: usize) -> Pod {
    let (high, low) = (node_number / 250, node_number % 250);
    Pod {
        labels: Labels::from([("app".to_owned(), format!("app-{app}"))]),
        node: NodeName::parse(node).ok(),
        addresses: vec![format!("10.{high}.{low}.{}", host + 2).parse().expect("an address")],
        host_network: false,
        finished: false,
        terminating: false,
    }
}
