//! Assertions about the benchmarks' world, none of which is broken, so that none of them ends early.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use egret::core::host_network::{HostNetwork, Interface};
use egret::core::name::NodeName;
use ipnet::IpNet;

use crate::world::{APPS, Size, namespace, node_name};

/// One assertion: what a policy's pods reach leaves through some gateway. Of ten one is about every pod.
pub(crate) fn assertion(size: Size, number: usize) -> String {
    let (selector, destination, claim) = if number.is_multiple_of(10) {
        ("podSelector: {}".to_owned(), "10.0.0.0/8".to_owned(), "neverSteered: true".to_owned())
    } else {
        // Policies by a namespace's name and an app alone. Their /24 is the narrowest network that any policy has.
        let policy = number * 10 + number % 4;
        let (home, app) = (namespace(policy % size.namespaces()), APPS[policy / size.namespaces() % APPS.len()]);
        let addresses: Vec<String> = gateways(size).map(|(_, address)| address.to_string()).collect();
        (
            format!("podSelector: {{matchLabels: {{app: {app}, io.kubernetes.pod.namespace: {home}}}}}"),
            format!("44.{}.{}.0/24", policy / 256, policy % 256),
            format!("leavesAs: [{}]\n  orDropped: true", addresses.join(", ")),
        )
    };
    format!(
        "apiVersion: egret.dev/v1alpha1
kind: EgressAssertion
metadata: {{name: assertion-{number}}}
spec:
  selectors: [{{{selector}}}]
  destinationCIDRs: [{destination}]
  {claim}
"
    )
}

/// The nodes that are labelled as gateways, and the address of each.
fn gateways(size: Size) -> impl Iterator<Item = (NodeName, Ipv4Addr)> {
    (0..size.nodes).step_by(20).zip(1_u32..).map(|(node, gateway)| {
        let [.., high, low] = gateway.to_be_bytes();
        (node_name(node), Ipv4Addr::new(198, 18, high, low))
    })
}

/// What the gateways' kernels have.
pub(crate) fn host_networks(size: Size) -> BTreeMap<NodeName, HostNetwork> {
    let with = |address: Ipv4Addr| {
        let addresses = vec![IpNet::new(address.into(), 24).expect("a length")];
        let interface = Interface { up: true, addresses, ..Interface::default() };
        HostNetwork { interfaces: [("net1".to_owned(), interface)].into(), ..HostNetwork::default() }
    };
    gateways(size).map(|(node, address)| (node, with(address))).collect()
}
