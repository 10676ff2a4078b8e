//! The interfaces that a gateway reports, so that a preview knows which address and router packets would use.
//!
//! They are part of an EgressNode's status and of a snapshot, so their size is bounded and they only change with the
//! network. Left out: counters, MAC addresses, and interfaces that no exit can use: pods' own links, and the one on which
//! kube-proxy keeps the addresses of Services.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::address_class::stays_on_link;
use super::host_network::{self, HostNetwork, HostRoute, InterfaceKind, KernelFeatures, is_of_services};
use super::labels::Labels;
use super::policy::{Egress, PolicySet};

/// With more interfaces, or more usable addresses on one, nothing is reported: from an incomplete list a preview would
/// conclude that an address is missing.
const MOST: usize = 64;
/// Maximum number of routes of an interface, default routes not counted. Where a CNI writes one for each node they are
/// irrelevant to exits.
const ROUTES: usize = 16;
/// Maximum number of egress addresses that a node reports, the limit of its status.
const HELD: usize = 1024;
/// The default MTU, which is left out.
const ETHERNET: u32 = 1500;

/// An interface as a node reports it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GatewayInterface {
    /// Its name.
    pub name: String,
    /// Its global addresses with the length of their network's prefix, the primary one first.
    pub addresses: Vec<String>,
    /// Routes of the main table through it, without those of its own networks.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<GatewayRoute>,
    /// Its MTU in bytes, unless it is Ethernet's default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// Its reverse-path filter is strict (`rp_filter` is 1).
    #[serde(skip_serializing_if = "is_false")]
    pub strict: bool,
    /// Those of its addresses that are used only if a policy names them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub only_named: Vec<String>,
    /// Its deviations from a device that can send: any of [`TRAITS`].
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub traits: Vec<String>,
}

/// How an interface may differ from a device that is up and has carrier.
pub const TRAITS: [&str; 5] = ["down", "no-carrier", "loopback", "dummy", "point-to-point"];

/// A route through an interface.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GatewayRoute {
    /// The destination; `0.0.0.0/0` and `::/0` are the default routes.
    pub to: String,
    /// The next hop; none: on the link.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub via: String,
    /// Lower values win.
    #[serde(skip_serializing_if = "is_zero")]
    pub metric: u32,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives references")]
fn is_false(value: &bool) -> bool {
    !value
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives references")]
fn is_zero(value: &u32) -> bool {
    *value == 0
}

/// What a node reports: nothing if no policy could choose it as a gateway, or if there is too much.
pub fn reported(host_network: &HostNetwork, set: &PolicySet, labels: &Labels) -> Vec<GatewayInterface> {
    let gateways = || set.policies.values().flat_map(|policy| &policy.gateways);
    if !gateways().any(|spec| spec.node.matches(labels)) {
        return Vec::new();
    }
    let interfaces = gateways().filter_map(|spec| match &spec.egress {
        Egress::Interface(name) => Some(name.as_str()),
        _ => None,
    });
    let holders = gateways().flat_map(|spec| spec.egress.addresses()).filter_map(|one| host_network.holder(one));
    let named: BTreeSet<&str> = interfaces.chain(holders).collect();
    // Privacy addresses change every day, which is no reason to change the status: addresses that are used only by name
    // are left out unless a policy names them.
    let by_name: BTreeSet<IpAddr> = gateways().flat_map(|spec| spec.egress.addresses()).collect();
    let mut worth = host_network.clone();
    for interface in worth.interfaces.values_mut() {
        interface.only_named.retain(|address| {
            let is_named = by_name.contains(address);
            if !is_named {
                interface.addresses.retain(|net| net.addr() != *address);
            }
            is_named
        });
    }
    of(&worth, &named)
}

/// The egress addresses of policies that this node has now, on an interface that can send, if a policy could choose the
/// node: placement follows them. The policies bound their number.
pub fn held(host_network: &HostNetwork, set: &PolicySet, labels: &Labels) -> BTreeSet<IpAddr> {
    let gateways = set.policies.values().flat_map(|policy| &policy.gateways);
    let named = gateways.filter(|spec| spec.egress.is_named() && spec.node.matches(labels));
    let named = named.flat_map(|spec| spec.egress.addresses());
    let has = |address: &IpAddr| host_network.holders(*address).first().is_some_and(|(_, interface)| interface.works());
    named.collect::<BTreeSet<_>>().into_iter().filter(has).take(HELD).collect()
}

/// The interfaces of a host network. `named`: those that policies name. One without an address is reported only then: a
/// network plugin may create one for each pod, and each pod start would change the status.
pub fn of(host_network: &HostNetwork, named: &BTreeSet<&str>) -> Vec<GatewayInterface> {
    let leads = |name: &str| host_network.routes.iter().any(|route| route.interface == name);
    let worth = host_network.interfaces.iter().filter(|(name, interface)| {
        let is_named = named.contains(name.as_str());
        // If neither a policy nor a route uses it, many addresses belong to something else: Services, the host's own
        // daemons.
        let others = interface.addresses.len() > MOST && !is_named && !leads(name);
        (is_named || !interface.addresses.is_empty()) && !others && !is_of_services(name)
    });
    let reported: Vec<GatewayInterface> = worth.map(|(name, interface)| one(name, interface, host_network)).collect();
    if reported.len() > MOST || reported.iter().any(|interface| interface.addresses.len() > MOST) {
        Vec::new()
    } else {
        reported
    }
}

fn one(name: &str, interface: &host_network::Interface, host_network: &HostNetwork) -> GatewayInterface {
    let own: BTreeSet<IpNet> = interface.addresses.iter().map(IpNet::trunc).collect();
    let through = host_network.routes.iter().filter(|route| route.interface == name);
    let through = through.filter(|route| route.gateway.is_some() || !own.contains(&route.destination));
    let (mut routes, others): (Vec<&HostRoute>, Vec<&HostRoute>) = through
        .filter(|route| !stays_on_link(route.destination))
        .partition(|route| route.destination.prefix_len() == 0);
    routes.truncate(ROUTES);
    routes.extend(others.into_iter().take(ROUTES));
    // A filter that Egret has loosened was strict.
    let filter =
        host_network.loosened.get(name).copied().unwrap_or(interface.rp_filter).max(host_network.rp_filter_all);
    GatewayInterface {
        name: name.to_owned(),
        addresses: interface.addresses.iter().map(ToString::to_string).collect(),
        routes: routes
            .into_iter()
            .map(|route| GatewayRoute {
                to: route.destination.to_string(),
                via: route.gateway.map(|via| via.to_string()).unwrap_or_default(),
                metric: route.metric,
            })
            .collect(),
        mtu: (interface.mtu != ETHERNET).then_some(interface.mtu),
        strict: filter == 1,
        only_named: interface.only_named.iter().map(ToString::to_string).collect(),
        traits: traits(interface),
    }
}

fn traits(interface: &host_network::Interface) -> Vec<String> {
    let is = [
        !interface.up,
        interface.no_carrier,
        interface.kind == InterfaceKind::Loopback,
        interface.kind == InterfaceKind::Dummy,
        interface.point_to_point,
    ];
    TRAITS.iter().zip(is).filter(|(_, is)| *is).map(|(name, _)| (*name).to_owned()).collect()
}

/// The host network that a node reported; none if it reported nothing, or something invalid.
pub fn host_network(reported: &[GatewayInterface]) -> Option<HostNetwork> {
    if reported.is_empty() {
        return None;
    }
    // Kernel features are not reported: both sides of a preview assume the same.
    let features = KernelFeatures { owned_tables: true, interface_kinds: true, resets: true, ipv6: true };
    let mut host_network = HostNetwork { features, ..HostNetwork::default() };
    for interface in reported {
        let addresses = interface.addresses.iter().map(|text| text.parse().ok()).collect::<Option<Vec<IpNet>>>()?;
        let mut routes: BTreeMap<IpNet, HostRoute> = BTreeMap::new();
        for net in addresses.iter().filter(|net| net.prefix_len() < net.max_prefix_len()) {
            let (destination, interface) = (net.trunc(), interface.name.clone());
            routes.insert(destination, HostRoute { destination, interface, ..HostRoute::default() });
        }
        host_network.routes.extend(routes.into_values());
        for route in &interface.routes {
            let gateway: Option<IpAddr> = if route.via.is_empty() { None } else { Some(route.via.parse().ok()?) };
            let (destination, interface) = (route.to.parse().ok()?, interface.name.clone());
            host_network.routes.push(HostRoute { destination, interface, gateway, metric: route.metric, source: None });
        }
        let only_named = interface.only_named.iter().map(|text| text.parse().ok()).collect::<Option<_>>()?;
        let is = |name: &str| interface.traits.iter().any(|one| one == name);
        let known = host_network::Interface {
            up: !is("down"),
            no_carrier: is("no-carrier"),
            kind: match (is("loopback"), is("dummy")) {
                (true, _) => InterfaceKind::Loopback,
                (false, true) => InterfaceKind::Dummy,
                (false, false) => InterfaceKind::Device,
            },
            point_to_point: is("point-to-point"),
            addresses,
            only_named,
            rp_filter: u8::from(interface.strict),
            mtu: interface.mtu.unwrap_or(ETHERNET),
            ..host_network::Interface::default()
        };
        host_network.interfaces.insert(interface.name.clone(), known);
    }
    Some(host_network)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn route(to: &str, interface: &str, via: Option<&str>) -> HostRoute {
        let gateway = via.map(|via| via.parse().unwrap());
        HostRoute { destination: net(to), interface: interface.to_owned(), gateway, ..HostRoute::default() }
    }

    fn interface(addresses: &[&str]) -> host_network::Interface {
        let addresses = addresses.iter().map(|text| net(text)).collect();
        host_network::Interface { up: true, addresses, mtu: ETHERNET, ..host_network::Interface::default() }
    }

    fn gateway() -> HostNetwork {
        let mut host_network = HostNetwork {
            features: KernelFeatures { owned_tables: true, interface_kinds: true, resets: true, ipv6: true },
            ..HostNetwork::default()
        };
        host_network.interfaces = BTreeMap::from([
            ("eth0".to_owned(), interface(&["172.18.0.4/16", "fd00::4/64"])),
            ("net1".to_owned(), host_network::Interface { rp_filter: 1, mtu: 9000, ..interface(&["10.0.3.42/24"]) }),
            ("net2".to_owned(), interface(&[])),
        ]);
        host_network.routes = vec![
            route("172.18.0.0/16", "eth0", None),
            route("fd00::/64", "eth0", None),
            route("0.0.0.0/0", "eth0", Some("172.18.0.1")),
            route("10.0.3.0/24", "net1", None),
            route("10.9.0.0/16", "net1", Some("10.0.3.7")),
        ];
        host_network
    }

    #[test]
    fn a_reported_host_network_is_read_back_unchanged() {
        let reported = of(&gateway(), &BTreeSet::from(["net2"]));
        assert_eq!(host_network(&reported), Some(gateway()));
        assert_eq!(
            reported[1].routes,
            [GatewayRoute { to: "10.9.0.0/16".to_owned(), via: "10.0.3.7".to_owned(), metric: 0 }]
        );
    }

    fn names(reported: &[GatewayInterface]) -> Vec<&str> {
        reported.iter().map(|interface| interface.name.as_str()).collect()
    }

    #[test]
    fn an_interface_without_addresses_is_reported_if_a_policy_names_it() {
        let mut host_network = gateway();
        for pod in 0..100 {
            host_network.interfaces.insert(format!("pod{pod}"), interface(&[]));
        }
        assert_eq!(names(&of(&host_network, &BTreeSet::new())), ["eth0", "net1"]);
        assert_eq!(names(&of(&host_network, &BTreeSet::from(["net2", "pod7"]))), ["eth0", "net1", "net2", "pod7"]);
    }

    #[test]
    fn service_addresses_are_not_reported_and_do_not_count_towards_the_limit() {
        let mut host_network = gateway();
        let many: Vec<String> = (0..100).map(|number| format!("10.96.0.{number}/32")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        host_network.interfaces.insert("kube-ipvs0".to_owned(), interface(&many[..3]));
        host_network.interfaces.insert("services".to_owned(), interface(&many));
        assert_eq!(names(&of(&host_network, &BTreeSet::new())), ["eth0", "net1"]);
        // Policies have addresses from there: with only some of them a preview would say that the others are missing.
        assert_eq!(of(&host_network, &BTreeSet::from(["services"])), []);
        host_network.routes.push(route("10.8.0.0/16", "services", None));
        assert_eq!(of(&host_network, &BTreeSet::new()), []);
    }

    #[test]
    fn an_incomplete_list_is_never_reported() {
        let mut host_network = gateway();
        for number in 0..100 {
            host_network.interfaces.insert(format!("vlan{number}"), interface(&["192.0.2.1/32"]));
        }
        assert_eq!(of(&host_network, &BTreeSet::new()), []);
        assert_eq!(super::host_network(&[]), None);
    }

    #[test]
    fn routes_to_other_nodes_leave_room_for_the_default_route() {
        let mut host_network = gateway();
        let others = (0..200_u8).map(|node| route(&format!("10.1.{node}.0/24"), "eth0", Some("172.18.0.9")));
        host_network.routes.splice(0..0, others.collect::<Vec<_>>());
        let reported = of(&host_network, &BTreeSet::new());
        assert_eq!((reported[0].routes.len(), reported[0].routes[0].to.as_str()), (17, "0.0.0.0/0"));
    }

    #[test]
    fn everything_that_decides_an_exits_route_is_reported() {
        let mut host_network = gateway();
        let mut add = |name: &str, interface| drop(host_network.interfaces.insert(name.to_owned(), interface));
        add("lo", host_network::Interface { kind: InterfaceKind::Loopback, ..interface(&["192.0.2.9/32"]) });
        let only_named = [net("10.0.5.9/32").addr()].into();
        add("down", host_network::Interface { up: false, only_named, ..interface(&["10.0.5.9/32"]) });
        add("wg0", host_network::Interface { point_to_point: true, ..interface(&["10.0.6.2/24"]) });
        host_network.routes.insert(0, route("10.0.6.0/24", "wg0", None));
        let again = super::host_network(&of(&host_network, &BTreeSet::from(["net2"]))).expect("a host network");
        assert_eq!(again.interfaces, host_network.interfaces);
    }

    fn policies(egress: &Egress) -> PolicySet {
        let text = match egress {
            Egress::Address(address) => format!(", egressIP: {address}"),
            _ => String::new(),
        };
        let text = format!(
            "apiVersion: cilium.io/v2\nkind: CiliumEgressGatewayPolicy\nmetadata: {{name: p}}\nspec:\n  selectors: [{{podSelector: {{}}}}]\n  \
             destinationCIDRs: [10.0.4.0/24]\n  egressGateway: {{nodeSelector: {{matchLabels: {{gw: a}}}}{text}}}\n"
        );
        let mut catalogue = crate::core::policy::catalogue::Catalogue::new("prod");
        let files = [("p.yaml".to_owned(), crate::core::policy::catalogue::FileUpdate::Text(text))];
        catalogue.update(files.into());
        assert_eq!(catalogue.diagnostics(), []);
        catalogue.policies().clone()
    }

    #[test]
    fn an_eligible_node_reports_named_addresses_on_any_interface() {
        let labels = Labels::from([("gw".to_owned(), "a".to_owned())]);
        let address: IpAddr = "10.0.3.9".parse().expect("an address");
        let set = policies(&Egress::Address(address));
        let mut host_network = gateway();
        let held = |host_network: &HostNetwork, labels: &Labels| {
            super::held(host_network, &set, labels).into_iter().collect::<Vec<_>>()
        };
        assert_eq!(held(&host_network, &labels), Vec::<IpAddr>::new());
        host_network.interfaces.insert("kube-ipvs0".to_owned(), interface(&["10.0.3.9/32"]));
        assert_eq!(held(&host_network, &labels), Vec::<IpAddr>::new(), "every node has it there");
        host_network
            .interfaces
            .insert("vip".to_owned(), host_network::Interface { up: false, ..interface(&["10.0.3.9/32"]) });
        assert_eq!(held(&host_network, &labels), Vec::<IpAddr>::new(), "it cannot send");
        let only_named = [address].into();
        host_network
            .interfaces
            .insert("vip".to_owned(), host_network::Interface { only_named, ..interface(&["10.0.3.9/32"]) });
        assert_eq!(held(&host_network, &labels), [address]);
        assert_eq!(held(&host_network, &Labels::new()), Vec::<IpAddr>::new(), "no policy could choose it");
    }

    #[test]
    fn privacy_addresses_are_reported_only_if_a_policy_names_them() {
        let labels = Labels::from([("gw".to_owned(), "a".to_owned())]);
        let privacy: IpAddr = "fd00::aaaa".parse().expect("an address");
        let mut host_network = gateway();
        let eth0 = host_network.interfaces.get_mut("eth0").expect("eth0");
        eth0.addresses.push(net("fd00::aaaa/64"));
        eth0.only_named.insert(privacy);
        let report = |egress| super::reported(&host_network, &policies(egress), &labels)[0].clone();
        assert_eq!(report(&Egress::DefaultRoute).addresses, ["172.18.0.4/16", "fd00::4/64"]);
        let named = Egress::Address("10.0.3.42".parse().expect("an address"));
        assert_eq!(report(&named).only_named, Vec::<String>::new());
    }
}
