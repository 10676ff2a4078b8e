//! Tests of nodes' inner addresses, and of the owner of an address.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{ends, uplinks};
use crate::core::facts::{Facts, Node};
use crate::core::host_network::{HostNetwork, HostRoute, Interface};
use crate::core::name::NodeName;
use crate::core::state::nft::AddressFamily;

fn name(text: &str) -> NodeName {
    NodeName::parse(text).unwrap()
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn node(addresses: &[&str], pod_cidrs: &[&str]) -> Node {
    Node {
        addresses: addresses.iter().map(|text| address(text)).collect(),
        pod_cidrs: pod_cidrs.iter().map(|text| text.parse().unwrap()).collect(),
        ready: true,
        ..Node::default()
    }
}

fn nodes(list: &[(&str, Node)]) -> Facts {
    Facts { nodes: list.iter().map(|(text, node)| (name(text), node.clone())).collect(), ..Facts::default() }
}

fn inner(nodes: &Facts, of: &str) -> [String; 2] {
    ends(nodes)[&name(of)].inner.map(|address| address.to_string())
}

#[test]
fn a_node_is_represented_by_an_address_of_its_pod_network_or_its_internal_ip() {
    let nodes = nodes(&[("a", node(&["172.18.0.2", "fd00::2"], &["10.1.1.0/24"])), ("b", node(&["172.18.0.3"], &[]))]);
    assert_eq!(inner(&nodes, "a"), ["10.1.1.254", "fd00::2"]);
    let [four, six] = inner(&nodes, "b");
    assert_eq!(four, "172.18.0.3");
    assert!(six.starts_with("fd65:6772:6574:0:"), "{six} is derived");
}

#[test]
fn a_pod_network_that_several_nodes_claim_represents_none() {
    let nodes = nodes(&[
        ("a", node(&["172.18.0.2"], &["10.88.0.0/16"])),
        ("b", node(&["172.18.0.3"], &["10.88.0.0/16"])),
        ("c", node(&["172.18.0.4"], &["10.88.4.0/24", "10.99.0.0/24"])),
    ]);
    assert_eq!(inner(&nodes, "a")[0], "172.18.0.2");
    assert_eq!(inner(&nodes, "b")[0], "172.18.0.3");
    assert_eq!(inner(&nodes, "c")[0], "10.99.0.254");
}

#[test]
fn no_nodes_address_represents_another() {
    let nodes = nodes(&[("a", node(&["10.0.1.9"], &["10.0.2.0/29"])), ("b", node(&["10.0.2.6"], &[]))]);
    assert_eq!(inner(&nodes, "a")[0], "10.0.2.5");
}

#[test]
fn an_internal_ip_that_two_nodes_claim_is_the_only_ready_ones_or_unowned() {
    let gone = Node { ready: false, ..node(&["172.18.0.2"], &[]) };
    let stale = nodes(&[("a", node(&["172.18.0.2"], &[])), ("old", gone)]);
    assert_eq!(ends(&stale)[&name("a")].outer, [address("172.18.0.2")]);
    assert_eq!(ends(&stale)[&name("old")].outer, [] as [IpAddr; 0]);
    let alike = nodes(&[("a", node(&["10.0.2.15"], &[])), ("b", node(&["10.0.2.15"], &[]))]);
    let ends = ends(&alike);
    assert_eq!(ends[&name("a")].to(&ends[&name("b")]), None);
    assert_ne!(ends[&name("a")].id, ends[&name("b")].id);
    assert_ne!(ends[&name("a")].inner, ends[&name("b")].inner);
}

#[test]
fn two_nodes_use_a_family_that_both_have() {
    let ends = ends(&nodes(&[
        ("dual", node(&["172.18.0.2", "fd00::2"], &[])),
        ("six", node(&["fd00::3"], &[])),
        ("four", node(&["172.18.0.4"], &[])),
    ]));
    let of = |text: &str| &ends[&name(text)];
    assert_eq!(of("dual").to(of("six")), Some((address("fd00::2"), address("fd00::3"))));
    assert_eq!(of("dual").to(of("four")), Some((address("172.18.0.2"), address("172.18.0.4"))));
    assert_eq!(of("six").to(of("four")), None);
    assert_eq!(of("six").inner(AddressFamily::V6), address("fd00::3"));
}

#[test]
fn uplinks_lead_out_of_the_node_and_not_to_pods() {
    let route = |destination: &str, interface: &str, gateway: Option<&str>| HostRoute {
        destination: destination.parse::<IpNet>().unwrap(),
        interface: interface.to_owned(),
        gateway: gateway.map(address),
        ..HostRoute::default()
    };
    let mut host_network = HostNetwork::default();
    let mut add = |name: &str, addresses: &[&str], bridge| {
        let addresses = addresses.iter().map(|text| text.parse().unwrap()).collect();
        host_network.interfaces.insert(name.to_owned(), Interface { bridge, addresses, ..Interface::default() });
    };
    add("eth0", &["172.18.0.200/24", "172.18.0.2/24"], false);
    add("eth3", &["172.21.0.2/24"], false);
    add("docker0", &["172.17.0.1/16"], true);
    add("antrea-gw0", &["10.1.1.1/24"], false);
    add("flannel.1", &["10.1.1.0/32"], false);
    add("veth-kindnet", &["10.1.1.1/32"], false);
    host_network.routes = vec![
        route("172.20.0.0/24", "eth1", None),
        route("0.0.0.0/0", "eth2", Some("10.9.0.1")),
        route("10.1.1.7/32", "lxc7", None),
        route("10.1.1.0/24", "cni0", None),
        route("10.1.2.0/24", "flannel.1", Some("10.1.2.0")),
        route("192.168.9.0/24", "lxc-vpn", Some("10.1.1.8")),
    ];
    let others = ends(&nodes(&[("b", node(&["172.20.0.3"], &[]))]));
    let pods = "10.1.0.0/16".parse::<IpNet>().unwrap();
    let found = uplinks(&host_network, &[address("172.18.0.2")], &others, |address| pods.contains(&address));
    assert_eq!(found.into_iter().collect::<Vec<_>>(), ["eth0", "eth1", "eth2", "eth3"]);
}
