//! What a gateway tells of its interfaces: enough for a preview to know with which address packets would leave, and by which router.
//!
//! It stands in an EgressNode's status and in a snapshot, and so is bounded, and has nothing that changes without a reason. Deliberately
//! absent: counters, MACs, and the ends of pods' own links.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::ground::{self, Features, Ground, GroundRoute};
use super::labels::Labels;
use super::policy::{Egress, PolicySet};

/// More interfaces, or addresses of one, are not told at all: half of them would make a preview say that an address is nowhere.
const MOST: usize = 64;
/// Routes of one interface beside its default routes. Where a CNI writes one for each node they say nothing of a way out.
const ROUTES: usize = 16;
/// How the ends of pods' links begin. They have no address, and there is one for each pod.
const OF_PODS: [&str; 6] = ["veth", "lxc", "cali", "eni", "azv", "gke"];
/// What is not written down, because nearly every interface has it.
const ETHERNET: u32 = 1500;

/// An interface as a node tells of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its global addresses with the length of their network's prefix, the primary one first.
    pub addresses: Vec<String>,
    /// Routes of the main table through it, without those of its own networks.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<Route>,
    /// Its MTU, where it is not an Ethernet's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// Packets from where the main table does not lead are dropped (`rp_filter` is 1).
    #[serde(skip_serializing_if = "is_false")]
    pub strict: bool,
}

/// A route through an interface.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Route {
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
pub fn told(ground: &Ground, set: &PolicySet, labels: &Labels) -> Vec<Interface> {
    let gateways = || set.policies.values().flat_map(|policy| &policy.gateways);
    if !gateways().any(|spec| spec.node.matches(labels)) {
        return Vec::new();
    }
    let named: BTreeSet<&str> = gateways()
        .filter_map(|spec| match &spec.egress {
            Egress::Interface(name) => Some(name.as_str()),
            Egress::Address(_) | Egress::DefaultRoute => None,
        })
        .collect();
    of(ground, &named)
}

/// Interfaces of a ground. `named`: those without an address that are told whatever they are called.
pub fn of(ground: &Ground, named: &BTreeSet<&str>) -> Vec<Interface> {
    let of_pod = |name: &str| OF_PODS.iter().any(|prefix| name.starts_with(prefix)) && !named.contains(name);
    let worth = ground.interfaces.iter().filter(|(name, interface)| !interface.addresses.is_empty() || !of_pod(name));
    let told: Vec<Interface> = worth.map(|(name, interface)| one(name, interface, ground)).collect();
    if told.len() > MOST || told.iter().any(|interface| interface.addresses.len() > MOST) { Vec::new() } else { told }
}

fn one(name: &str, interface: &ground::Interface, ground: &Ground) -> Interface {
    let own: BTreeSet<IpNet> = interface.addresses.iter().map(IpNet::trunc).collect();
    let through = ground.routes.iter().filter(|route| route.interface == name);
    let through = through.filter(|route| route.gateway.is_some() || !own.contains(&route.destination));
    let (mut routes, others): (Vec<&GroundRoute>, Vec<&GroundRoute>) = through
        .filter(|route| !is_link_local(route.destination))
        .partition(|route| route.destination.prefix_len() == 0);
    routes.truncate(ROUTES);
    routes.extend(others.into_iter().take(ROUTES));
    // What Egret has loosened itself was strict.
    let filter = ground.loosened.get(name).copied().unwrap_or(interface.rp_filter).max(ground.rp_filter_all);
    Interface {
        name: name.to_owned(),
        addresses: interface.addresses.iter().map(ToString::to_string).collect(),
        routes: routes
            .into_iter()
            .map(|route| Route {
                to: route.destination.to_string(),
                via: route.gateway.map(|via| via.to_string()).unwrap_or_default(),
                metric: route.metric,
            })
            .collect(),
        mtu: (interface.mtu != ETHERNET).then_some(interface.mtu),
        strict: filter == 1,
    }
}

fn is_link_local(net: IpNet) -> bool {
    match net {
        IpNet::V4(net) => net.addr().is_link_local() || net.addr().is_multicast(),
        IpNet::V6(net) => net.addr().is_unicast_link_local() || net.addr().is_multicast(),
    }
}

/// The ground that a node told; none where it told nothing, or something that cannot be understood.
pub fn ground(told: &[Interface]) -> Option<Ground> {
    if told.is_empty() {
        return None;
    }
    // What a kernel can do is not told: both sides of a preview take it to be the same.
    let features = Features { owned_tables: true, blind_tunnels: false, ipv6: true };
    let mut ground = Ground { features, ..Ground::default() };
    for interface in told {
        let addresses = interface.addresses.iter().map(|text| text.parse().ok()).collect::<Option<Vec<IpNet>>>()?;
        let mut routes: BTreeMap<IpNet, GroundRoute> = BTreeMap::new();
        for net in addresses.iter().filter(|net| net.prefix_len() < net.max_prefix_len()) {
            let (destination, interface) = (net.trunc(), interface.name.clone());
            routes.insert(destination, GroundRoute { destination, interface, gateway: None, metric: 0 });
        }
        ground.routes.extend(routes.into_values());
        for route in &interface.routes {
            let gateway: Option<IpAddr> = if route.via.is_empty() { None } else { Some(route.via.parse().ok()?) };
            let (destination, interface) = (route.to.parse().ok()?, interface.name.clone());
            ground.routes.push(GroundRoute { destination, interface, gateway, metric: route.metric });
        }
        let known = ground::Interface {
            up: true,
            addresses,
            rp_filter: u8::from(interface.strict),
            mtu: interface.mtu.unwrap_or(ETHERNET),
        };
        ground.interfaces.insert(interface.name.clone(), known);
    }
    Some(ground)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn route(to: &str, interface: &str, via: Option<&str>) -> GroundRoute {
        let gateway = via.map(|via| via.parse().unwrap());
        GroundRoute { destination: net(to), interface: interface.to_owned(), gateway, metric: 0 }
    }

    fn interface(addresses: &[&str]) -> ground::Interface {
        let addresses = addresses.iter().map(|text| net(text)).collect();
        ground::Interface { up: true, addresses, rp_filter: 0, mtu: ETHERNET }
    }

    fn gateway() -> Ground {
        let mut ground =
            Ground { features: Features { owned_tables: true, blind_tunnels: false, ipv6: true }, ..Ground::default() };
        ground.interfaces = BTreeMap::from([
            ("eth0".to_owned(), interface(&["172.18.0.4/16", "fd00::4/64"])),
            ("net1".to_owned(), ground::Interface { rp_filter: 1, mtu: 9000, ..interface(&["10.0.3.42/24"]) }),
            ("net2".to_owned(), interface(&[])),
        ]);
        ground.routes = vec![
            route("172.18.0.0/16", "eth0", None),
            route("fd00::/64", "eth0", None),
            route("0.0.0.0/0", "eth0", Some("172.18.0.1")),
            route("10.0.3.0/24", "net1", None),
            route("10.9.0.0/16", "net1", Some("10.0.3.7")),
        ];
        ground
    }

    #[test]
    fn what_is_told_is_the_ground_again() {
        let told = of(&gateway(), &BTreeSet::new());
        assert_eq!(ground(&told), Some(gateway()));
        assert_eq!(told[1].routes, [Route { to: "10.9.0.0/16".to_owned(), via: "10.0.3.7".to_owned(), metric: 0 }]);
    }

    #[test]
    fn the_ends_of_pods_links_are_not_told_and_half_a_list_is_never_given() {
        let mut ground = gateway();
        for pod in 0..100 {
            ground.interfaces.insert(format!("lxc{pod}"), interface(&[]));
        }
        assert_eq!(of(&ground, &BTreeSet::new()), of(&gateway(), &BTreeSet::new()));
        assert_eq!(of(&ground, &BTreeSet::from(["lxc7"])).len(), 4, "one that a policy names is told");
        for number in 0..100 {
            ground.interfaces.insert(format!("vlan{number}"), interface(&["192.0.2.1/32"]));
        }
        assert_eq!(of(&ground, &BTreeSet::new()), []);
        assert_eq!(super::ground(&[]), None);
    }

    #[test]
    fn routes_to_other_nodes_leave_room_for_the_default_route() {
        let mut ground = gateway();
        let others = (0..200_u8).map(|node| route(&format!("10.1.{node}.0/24"), "eth0", Some("172.18.0.9")));
        ground.routes.splice(0..0, others.collect::<Vec<_>>());
        let told = of(&ground, &BTreeSet::new());
        assert_eq!((told[0].routes.len(), told[0].routes[0].to.as_str()), (17, "0.0.0.0/0"));
    }
}
