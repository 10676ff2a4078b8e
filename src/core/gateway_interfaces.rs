//! What a gateway tells of its interfaces: enough for a preview to know with which address packets would leave, and by which router.
//!
//! It stands in an EgressNode's status and in a snapshot, and so is bounded, and has nothing that changes without a reason. Deliberately
//! absent: counters, MACs, and what nobody can leave by: the ends of pods' own links, and where kube-proxy keeps the addresses of Services.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::address_class::stays_on_link;
use super::host_network::{self, HostNetwork, HostRoute, InterfaceKind, KernelFeatures, is_of_services};
use super::labels::Labels;
use super::policy::{Egress, PolicySet};

/// Where there are more interfaces, or more addresses of one by which packets could leave, nothing is told: half of them would make a preview
/// say that an address is nowhere.
const MOST: usize = 64;
/// Routes of one interface beside its default routes. Where a CNI writes one for each node they say nothing of a way out.
const ROUTES: usize = 16;
/// Egress addresses that a node tells to have, as many as its status takes.
const HELD: usize = 1024;
/// What is not written down, because nearly every interface has it.
const ETHERNET: u32 = 1500;

/// An interface as a node tells of it.
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
    /// Its MTU, where it is not an Ethernet's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// Packets from where the main table does not lead are dropped (`rp_filter` is 1).
    #[serde(skip_serializing_if = "is_false")]
    pub strict: bool,
    /// Those of its addresses that only a policy that names them takes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub only_named: Vec<String>,
    /// What it is beside a device that sends: any of [`TRAITS`].
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub traits: Vec<String>,
}

/// What an interface may be beside a device that is up and has carrier.
pub const TRAITS: [&str; 5] = ["down", "no-carrier", "loopback", "dummy", "point-to-point"];

/// A route through an interface.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GatewayRoute {
    /// The destination; `0.0.0.0/0` and `::/0` are the default routes.
    pub to: String,
    /// The router; none: on the link.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub via: String,
    /// Lower wins.
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

/// What a node tells: nothing where no policy could choose it for a gateway, or where there is more than can be told.
pub fn told(host_network: &HostNetwork, set: &PolicySet, labels: &Labels) -> Vec<GatewayInterface> {
    let gateways = || set.policies.values().flat_map(|policy| &policy.gateways);
    if !gateways().any(|spec| spec.node.matches(labels)) {
        return Vec::new();
    }
    let named: BTreeSet<&str> = gateways()
        .filter_map(|spec| match &spec.egress {
            Egress::Interface(name) => Some(name.as_str()),
            Egress::Address(address) => host_network.holder(*address),
            Egress::DefaultRoute => None,
        })
        .collect();
    // Privacy addresses change every day, and a status only with a reason: of those that count only by name, the others say nothing.
    let by_name: BTreeSet<IpAddr> = gateways()
        .filter_map(|spec| match spec.egress {
            Egress::Address(address) => Some(address),
            Egress::Interface(_) | Egress::DefaultRoute => None,
        })
        .collect();
    let mut worth = host_network.clone();
    for interface in worth.interfaces.values_mut() {
        interface.only_named.retain(|address| {
            let told = by_name.contains(address);
            if !told {
                interface.addresses.retain(|net| net.addr() != *address);
            }
            told
        });
    }
    of(&worth, &named)
}

/// Which of the addresses that policies name are on this node now, by an interface that can send, where a policy could choose the node:
/// whoever places may follow them. What policies name bounds it.
pub fn held(host_network: &HostNetwork, set: &PolicySet, labels: &Labels) -> BTreeSet<IpAddr> {
    let gateways = set.policies.values().flat_map(|policy| &policy.gateways);
    let named = gateways.filter_map(|spec| match spec.egress {
        Egress::Address(address) if spec.node.matches(labels) => Some(address),
        _ => None,
    });
    let has = |address: &IpAddr| host_network.holders(*address).first().is_some_and(|(_, interface)| interface.works());
    named.collect::<BTreeSet<_>>().into_iter().filter(has).take(HELD).collect()
}

/// Interfaces of a ground. `named`: those that policies name. One without an address is told only then: a network plugin may make one for
/// each pod, and each pod that starts would be news.
pub fn of(host_network: &HostNetwork, named: &BTreeSet<&str>) -> Vec<GatewayInterface> {
    let leads = |name: &str| host_network.routes.iter().any(|route| route.interface == name);
    let worth = host_network.interfaces.iter().filter(|(name, interface)| {
        let is_named = named.contains(name.as_str());
        // Where neither a policy nor a route leads, many addresses are of something else: Services, the host's own daemons.
        let others = interface.addresses.len() > MOST && !is_named && !leads(name);
        (is_named || !interface.addresses.is_empty()) && !others && !is_of_services(name)
    });
    let told: Vec<GatewayInterface> = worth.map(|(name, interface)| one(name, interface, host_network)).collect();
    if told.len() > MOST || told.iter().any(|interface| interface.addresses.len() > MOST) { Vec::new() } else { told }
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
    // What Egret has loosened itself was strict.
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

/// The ground that a node told; none where it told nothing, or something that cannot be understood.
pub fn host_network(told: &[GatewayInterface]) -> Option<HostNetwork> {
    if told.is_empty() {
        return None;
    }
    // What a kernel can do is not told: both sides of a preview take it to be the same.
    let features = KernelFeatures { owned_tables: true, interface_kinds: true, ipv6: true };
    let mut host_network = HostNetwork { features, ..HostNetwork::default() };
    for interface in told {
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
            features: KernelFeatures { owned_tables: true, interface_kinds: true, ipv6: true },
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
    fn what_is_told_is_the_ground_again() {
        let told = of(&gateway(), &BTreeSet::from(["net2"]));
        assert_eq!(host_network(&told), Some(gateway()));
        assert_eq!(
            told[1].routes,
            [GatewayRoute { to: "10.9.0.0/16".to_owned(), via: "10.0.3.7".to_owned(), metric: 0 }]
        );
    }

    fn names(told: &[GatewayInterface]) -> Vec<&str> {
        told.iter().map(|interface| interface.name.as_str()).collect()
    }

    #[test]
    fn what_has_no_address_is_told_where_a_policy_names_it() {
        let mut host_network = gateway();
        for pod in 0..100 {
            host_network.interfaces.insert(format!("pod{pod}"), interface(&[]));
        }
        assert_eq!(names(&of(&host_network, &BTreeSet::new())), ["eth0", "net1"]);
        assert_eq!(names(&of(&host_network, &BTreeSet::from(["net2", "pod7"]))), ["eth0", "net1", "net2", "pod7"]);
    }

    #[test]
    fn addresses_of_services_are_not_told_and_keep_nothing_else_from_being_told() {
        let mut host_network = gateway();
        let many: Vec<String> = (0..100).map(|number| format!("10.96.0.{number}/32")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        host_network.interfaces.insert("kube-ipvs0".to_owned(), interface(&many[..3]));
        host_network.interfaces.insert("services".to_owned(), interface(&many));
        assert_eq!(names(&of(&host_network, &BTreeSet::new())), ["eth0", "net1"]);
        // Policies have addresses from there: a preview that knew of some alone would say that the others are missing.
        assert_eq!(of(&host_network, &BTreeSet::from(["services"])), []);
        host_network.routes.push(route("10.8.0.0/16", "services", None));
        assert_eq!(of(&host_network, &BTreeSet::new()), []);
    }

    #[test]
    fn half_a_list_is_never_given() {
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
        let told = of(&host_network, &BTreeSet::new());
        assert_eq!((told[0].routes.len(), told[0].routes[0].to.as_str()), (17, "0.0.0.0/0"));
    }

    #[test]
    fn what_decides_the_way_out_is_told_with_it() {
        let mut host_network = gateway();
        let mut add = |name: &str, interface| drop(host_network.interfaces.insert(name.to_owned(), interface));
        add("lo", host_network::Interface { kind: InterfaceKind::Loopback, ..interface(&["192.0.2.9/32"]) });
        let only_named = [net("10.0.5.9/32").addr()].into();
        add("down", host_network::Interface { up: false, only_named, ..interface(&["10.0.5.9/32"]) });
        add("wg0", host_network::Interface { point_to_point: true, ..interface(&["10.0.6.2/24"]) });
        host_network.routes.insert(0, route("10.0.6.0/24", "wg0", None));
        let again = super::host_network(&of(&host_network, &BTreeSet::from(["net2"]))).expect("a ground");
        assert_eq!(again.interfaces, host_network.interfaces);
    }

    fn policies(egress: &Egress) -> PolicySet {
        let text = match egress {
            Egress::Address(address) => format!(", egressIP: {address}"),
            Egress::Interface(_) | Egress::DefaultRoute => String::new(),
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
    fn a_node_that_could_be_chosen_tells_that_it_has_an_address_wherever_it_is() {
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
    fn privacy_addresses_are_not_told_unless_a_policy_names_them() {
        let labels = Labels::from([("gw".to_owned(), "a".to_owned())]);
        let privacy: IpAddr = "fd00::aaaa".parse().expect("an address");
        let mut host_network = gateway();
        let eth0 = host_network.interfaces.get_mut("eth0").expect("eth0");
        eth0.addresses.push(net("fd00::aaaa/64"));
        eth0.only_named.insert(privacy);
        let told = |egress| super::told(&host_network, &policies(egress), &labels)[0].clone();
        assert_eq!(told(&Egress::DefaultRoute).addresses, ["172.18.0.4/16", "fd00::4/64"]);
        let named = Egress::Address("10.0.3.42".parse().expect("an address"));
        assert_eq!(told(&named).only_named, Vec::<String>::new());
    }
}
