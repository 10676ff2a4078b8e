//! Tests of exits' routes out: which address, interface and route, and which finding where there is none.

use super::*;
use crate::core::host_network::{HostRoute, Interface, InterfaceKind, SourceTable, Unusable};
use crate::core::name::{self, NodeName};
use crate::core::policy::Egress;

fn net(text: &str) -> IpNet {
    text.parse().expect(text)
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect(text)
}

fn device(addresses: &[&str]) -> Interface {
    Interface {
        up: true,
        mtu: 1500,
        addresses: addresses.iter().map(|text| net(text)).collect(),
        ..Interface::default()
    }
}

/// `10.0.3.0/24 dev net1`, `default via 10.0.3.1 dev net1 metric 100 src 10.0.3.2`; IPv6 defaults are written `::/0`.
fn route(line: &str) -> HostRoute {
    let fields: Vec<&str> = line.split(' ').collect();
    let behind = |keyword: &str| fields.iter().position(|one| *one == keyword).map(|place| fields[place + 1]);
    HostRoute {
        destination: net(if fields[0] == "default" { "0.0.0.0/0" } else { fields[0] }),
        interface: behind("dev").expect(line).to_owned(),
        gateway: behind("via").map(ip),
        metric: behind("metric").map_or(0, |text| text.parse().expect(line)),
        source: behind("src").map(ip),
    }
}

/// A gateway with eth0 (the default route) and net1.
fn gateway() -> HostNetwork {
    let mut host_network = HostNetwork::default();
    host_network.interfaces.insert("eth0".to_owned(), device(&["172.18.0.3/24"]));
    host_network.interfaces.insert("net1".to_owned(), device(&["10.0.3.2/24"]));
    let routes = ["172.18.0.0/24 dev eth0", "10.0.3.0/24 dev net1", "default via 172.18.0.1 dev eth0 metric 100"];
    host_network.routes = routes.map(route).to_vec();
    host_network
}

fn exit(egress: Egress, hops: &[&str]) -> ExitKey {
    let next_hops = hops.iter().map(|hop| ip(hop)).collect();
    ExitKey { gateway: NodeName::parse("n2").expect("a name"), egress, next_hops }
}

fn interface(name: &str) -> Egress {
    Egress::Interface(name::Interface::parse(name).expect(name))
}

/// An exit's IPv4 result: `ADDRESS by INTERFACE` and its routes, and the codes of the findings.
fn out(egress: Egress, hops: &[&str], host_network: &HostNetwork) -> (Vec<String>, Vec<String>) {
    of_family(AddressFamily::V4, egress, hops, host_network)
}

fn of_family(
    family: AddressFamily,
    egress: Egress,
    hops: &[&str],
    host_network: &HostNetwork,
) -> (Vec<String>, Vec<String>) {
    let (routes, findings) = resolve(&exit(egress, hops), &[family], host_network);
    let mut lines = Vec::new();
    for way in routes.values() {
        lines.push(format!("{} by {}", way.address, way.interface));
        for route in &way.routes {
            let via = route.gateway.map(|gateway| format!(" via {gateway}")).unwrap_or_default();
            let onlink = if route.onlink { " onlink" } else { "" };
            lines.push(format!("{}{via} dev {}{onlink}", route.destination, route.interface));
        }
    }
    (lines, findings.into_iter().map(|finding| finding.code).collect())
}

fn message(egress: Egress, host_network: &HostNetwork) -> String {
    let (routes, findings) = resolve(&exit(egress, &[]), &[AddressFamily::V4], host_network);
    assert_eq!((routes.len(), findings.len()), (0, 1), "{findings:?}");
    findings[0].message.clone()
}

#[test]
fn a_vip_beside_a_wider_address_finds_its_router_in_the_wider_network() {
    let mut host_network = gateway();
    host_network.interfaces.insert("net1".to_owned(), device(&["10.0.3.2/24", "10.0.3.9/32"]));
    let (lines, findings) = out(Egress::Address(ip("10.0.3.9")), &[], &host_network);
    assert_eq!(lines, ["10.0.3.9 by net1", "0.0.0.0/0 via 10.0.3.1 dev net1", "10.0.3.0/24 dev net1"]);
    assert_eq!(findings, ["next-hop-assumed"]);
    host_network.interfaces.insert("net1".to_owned(), device(&["10.0.3.9/32"]));
    assert_eq!(out(Egress::Address(ip("10.0.3.9")), &[], &host_network).1, ["no-next-hop"]);
    // The first address of the network is this node's own.
    host_network.interfaces.insert("net1".to_owned(), device(&["10.0.3.2/24", "10.0.3.1/32"]));
    assert_eq!(out(interface("net1"), &[], &host_network).1, ["no-next-hop"]);
}

#[test]
fn an_interface_that_cannot_send_has_no_route_out_and_a_finding_names_the_reason() {
    let broken = |change: fn(&mut Interface)| {
        let mut host_network = gateway();
        change(host_network.interfaces.get_mut("net1").expect("net1"));
        host_network
    };
    let down = broken(|net1| net1.up = false);
    let pulled = broken(|net1| net1.no_carrier = true);
    let dropped = "; members' packets are dropped there";
    assert_eq!(message(interface("net1"), &down), format!("net1 is down{dropped}"));
    let named = Egress::Address(ip("10.0.3.2"));
    assert_eq!(message(named.clone(), &down), format!("net1, which has 10.0.3.2, is down{dropped}"));
    assert_eq!(message(named, &pulled), format!("net1, which has 10.0.3.2, is up and has no carrier{dropped}"));
    let (routes, findings) = resolve(&exit(interface("eth7"), &[]), &[AddressFamily::V4], &gateway());
    assert_eq!(
        (routes.len(), findings[0].message.as_str()),
        (0, format!("n2 has no interface eth7{dropped}").as_str())
    );
    let hint = findings[0].hint.as_deref().expect("a hint");
    assert_eq!(hint, "it may have another name now; with an address there are eth0, net1");
    let mut renamed = gateway();
    let mut net1 = renamed.interfaces.remove("net1").expect("net1");
    net1.other_names.insert("net1".to_owned());
    renamed.interfaces.insert("enp3s0".to_owned(), net1);
    let (lines, findings) = out(interface("net1"), &["10.0.3.1"], &renamed);
    assert_eq!((lines[0].as_str(), findings), ("10.0.3.2 by enp3s0", vec!["interface-renamed".to_owned()]));
}

#[test]
fn a_finding_names_what_an_interface_has_in_place_of_an_address() {
    let mut host_network = gateway();
    let net1 = host_network.interfaces.get_mut("net1").expect("net1");
    net1.only_named.insert(ip("10.0.3.2"));
    assert!(
        message(interface("net1"), &host_network).contains("no global IPv4 address but 10.0.3.2, which is deprecated")
    );
    assert_eq!(out(Egress::Address(ip("10.0.3.2")), &["10.0.3.1"], &host_network).0[0], "10.0.3.2 by net1");
    let net1 = host_network.interfaces.get_mut("net1").expect("net1");
    net1.addresses.clear();
    net1.only_named.clear();
    net1.unusable.insert(ip("10.0.3.2"), Unusable::Tentative);
    assert!(message(interface("net1"), &host_network).starts_with("10.0.3.2 on net1 is tentative"));
    host_network.interfaces.get_mut("net1").expect("net1").unusable.insert(ip("10.0.3.2"), Unusable::Duplicate);
    assert!(message(Egress::Address(ip("10.0.3.2")), &host_network).contains("(dadfailed)"));
}

#[test]
fn of_several_holders_one_that_sends_is_used_with_a_finding() {
    let mut host_network = gateway();
    host_network.interfaces.insert("a0".to_owned(), Interface { up: false, ..device(&["10.0.3.2/24"]) });
    let (lines, findings) = out(Egress::Address(ip("10.0.3.2")), &["10.0.3.1"], &host_network);
    assert_eq!((lines[0].as_str(), findings), ("10.0.3.2 by net1", vec!["egress-address-twice".to_owned()]));
    let mut host_network = gateway();
    let services = Interface { kind: InterfaceKind::Dummy, ..device(&["10.0.3.2/32", "10.0.3.77/32"]) };
    host_network.interfaces.insert("kube-ipvs0".to_owned(), services);
    assert_eq!(out(Egress::Address(ip("10.0.3.2")), &["10.0.3.1"], &host_network).1, Vec::<String>::new());
    assert!(message(Egress::Address(ip("10.0.3.77")), &host_network).contains("is only on kube-ipvs0"));
    assert!(message(interface("kube-ipvs0"), &host_network).contains("no packet leaves by it"));
}

#[test]
fn an_address_on_lo_or_a_dummy_leaves_by_the_routes_of_the_node() {
    let routes = [
        "0.0.0.0/0 via 172.18.0.1 dev eth0",
        "10.0.3.0/24 dev net1",
        "10.9.0.0/16 via 10.0.3.7 dev net1",
        "172.18.0.0/24 dev eth0",
    ];
    for (name, kind) in [("lo", InterfaceKind::Loopback), ("dummy0", InterfaceKind::Dummy)] {
        let mut host_network = gateway();
        host_network.interfaces.insert(name.to_owned(), Interface { kind, ..device(&["192.0.2.9/32"]) });
        host_network.interfaces.insert("lxc1".to_owned(), device(&[]));
        host_network.routes.extend(["10.9.0.0/16 via 10.0.3.7 dev net1", "10.1.2.7/32 dev lxc1"].map(route));
        let (lines, findings) = out(Egress::Address(ip("192.0.2.9")), &[], &host_network);
        assert_eq!((&lines[1..], findings), (&routes.map(str::to_owned)[..], vec![]));
        assert_eq!(lines[0], "192.0.2.9 by eth0");
        let (lines, findings) = out(Egress::Address(ip("192.0.2.9")), &["10.0.3.1"], &host_network);
        assert_eq!((lines[1].as_str(), findings), ("0.0.0.0/0 via 10.0.3.1 dev net1", vec![]));
        assert_eq!(lines[0], "192.0.2.9 by net1");
        host_network.routes.retain(|route| route.destination.prefix_len() > 0);
        assert_eq!(out(Egress::Address(ip("192.0.2.9")), &[], &host_network).1, ["no-next-hop"]);
    }
}

#[test]
fn an_address_uses_the_table_that_a_rule_names_for_it() {
    let mut host_network = gateway();
    let table = ["default via 10.0.3.254 dev net1", "10.7.0.0/16 via 10.0.3.7 dev net1"].map(route).to_vec();
    host_network.sources = vec![SourceTable { from: net("10.0.3.2/32"), routes: table }];
    let (lines, findings) = out(interface("net1"), &[], &host_network);
    let expected = ["10.0.3.2 by net1", "0.0.0.0/0 via 10.0.3.254 dev net1", "10.7.0.0/16 via 10.0.3.7 dev net1"];
    assert_eq!((lines, findings), (expected.map(str::to_owned).to_vec(), vec![]));
    // What it does not know is looked up in the main table.
    host_network.sources[0].routes.remove(0);
    let (lines, findings) = out(interface("net1"), &[], &host_network);
    assert_eq!((lines.len(), findings), (4, vec!["next-hop-assumed".to_owned()]));
    // A rule about other addresses does not concern this exit.
    host_network.sources[0].from = net("10.0.3.3/32");
    assert_eq!(out(interface("net1"), &[], &host_network).0.len(), 3);
}

#[test]
fn of_several_routes_the_lowest_metric_wins_and_then_the_first() {
    let mut host_network = gateway();
    let more = [
        "default via 10.0.3.200 dev net1 metric 300",
        "default via 10.0.3.5 dev net1 metric 50",
        "default via 10.0.3.4 dev net1 metric 50",
        "10.9.0.0/16 via 10.0.3.7 dev net1 metric 20",
        "10.9.0.0/16 via 10.0.3.8 dev net1 metric 10",
    ];
    host_network.routes.extend(more.map(route));
    let (lines, _) = out(interface("net1"), &[], &host_network);
    assert_eq!(lines[1], "0.0.0.0/0 via 10.0.3.5 dev net1");
    assert_eq!(lines[3], "10.9.0.0/16 via 10.0.3.8 dev net1");
}

#[test]
fn without_a_named_address_the_nodes_own_default_route_is_used() {
    let mut host_network = gateway();
    assert_eq!(out(Egress::DefaultRoute, &[], &host_network).0[0], "172.18.0.3 by eth0");
    // The interface of the better default route is down.
    host_network.routes.push(route("default via 10.0.3.1 dev net1 metric 200"));
    host_network.interfaces.get_mut("eth0").expect("eth0").no_carrier = true;
    assert_eq!(out(Egress::DefaultRoute, &[], &host_network).0[0], "10.0.3.2 by net1");
    // `src` is the source address of the node's own packets.
    let mut host_network = gateway();
    host_network.interfaces.insert("eth0".to_owned(), device(&["172.18.0.3/24", "172.18.0.8/24"]));
    host_network.routes[2] = route("default via 172.18.0.1 dev eth0 src 172.18.0.8");
    assert_eq!(out(Egress::DefaultRoute, &[], &host_network).0[0], "172.18.0.8 by eth0");
    // Between routers without addresses of their own (RFC 5549) the node's is on lo.
    let mut host_network = gateway();
    host_network.interfaces.insert("eth0".to_owned(), device(&[]));
    host_network
        .interfaces
        .insert("lo".to_owned(), Interface { kind: InterfaceKind::Loopback, ..device(&["192.0.2.1/32"]) });
    host_network.routes = vec![route("default via fe80::1 dev eth0")];
    let (lines, findings) = out(Egress::DefaultRoute, &[], &host_network);
    assert_eq!((lines, findings.len()), (vec!["192.0.2.1 by eth0".into(), "0.0.0.0/0 via fe80::1 dev eth0".into()], 0));
}

#[test]
fn a_point_to_point_link_needs_no_router() {
    let mut host_network = gateway();
    host_network.interfaces.insert("wg0".to_owned(), Interface { point_to_point: true, ..device(&["10.66.0.2/32"]) });
    let (lines, findings) = out(interface("wg0"), &[], &host_network);
    assert_eq!(lines, ["10.66.0.2 by wg0", "0.0.0.0/0 dev wg0"]);
    assert_eq!(findings, ["point-to-point"]);
}

#[test]
fn an_unusable_next_hop_removes_only_its_own_route() {
    let mut host_network = gateway();
    host_network.interfaces.insert("net1".to_owned(), device(&["10.0.3.2/24", "10.0.3.9/24"]));
    host_network.routes.push(route("default via 10.0.3.1 dev net1 metric 7"));
    for hop in ["10.0.3.9", "10.0.3.2", "172.18.0.3", "10.0.3.0", "10.0.3.255", "172.18.0.255"] {
        let (lines, findings) = out(interface("net1"), &[hop], &host_network);
        assert_eq!(lines, ["10.0.3.2 by net1", "10.0.3.0/24 dev net1"], "{hop}");
        assert_eq!(findings, ["bad-next-hop"], "{hop}");
    }
    assert_eq!(out(interface("net1"), &["10.0.9.1"], &host_network).0[1], "0.0.0.0/0 via 10.0.9.1 dev net1 onlink");
}

#[test]
fn ipv6_follows_the_same_rules() {
    let mut host_network = gateway();
    host_network.interfaces.insert("net1".to_owned(), device(&["10.0.3.2/24", "fd00:3::2/64", "fd00:3::9/128"]));
    host_network.routes.extend(["fd00:3::/64 dev net1 metric 256", "fe80::/64 dev net1 metric 256"].map(route));
    let (lines, findings) = of_family(AddressFamily::V6, Egress::Address(ip("fd00:3::9")), &[], &host_network);
    assert_eq!(lines, ["fd00:3::9 by net1", "::/0 via fd00:3::1 dev net1", "fd00:3::/64 dev net1"]);
    assert_eq!(findings, ["next-hop-assumed"]);
    host_network.routes.push(route("::/0 via fe80::1 dev net1 metric 1024"));
    let (lines, findings) = of_family(AddressFamily::V6, interface("net1"), &[], &host_network);
    assert_eq!((lines[1].as_str(), findings.len()), ("::/0 via fe80::1 dev net1", 0));
}
