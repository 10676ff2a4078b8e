//! Small random worlds, made so that things meet: few addresses, few labels, prefixes that lie inside each other.
//!
//! Deliberately absent: worlds that `policy::check` would refuse (no selector, host bits), and two pods with one address.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use egret::core::facts::{Facts, Node, Pod, PodName};
use egret::core::host_network::{HostNetwork, HostRoute, Interface, KernelFeatures};
use egret::core::labels::{Labels, Operator, Requirement, Selector};
use egret::core::name::{Interface as InterfaceName, NodeName, ObjectName};
use egret::core::policy::config::Config;
use egret::core::policy::{
    Egress, ExistingConnections, GatewaySpec, MemberSelector, OnNoGateway, Origin, Policy, PolicyId, PolicyKind,
    PolicySet, Suspend,
};
use ipnet::IpNet;
use jiff::Timestamp;
use proptest::collection::vec;
use proptest::option::weighted as maybe;
use proptest::prelude::*;
use proptest::sample::select;

use super::evaluate::Foreign;
use super::world::World;

/// Prefixes that lie inside, beside and on each other.
const PREFIXES: [&str; 17] = [
    "0.0.0.0/0",
    "10.0.0.0/8",
    "10.0.4.0/24",
    "10.0.4.0/28",
    "10.0.4.0/29",
    "10.0.4.8/29",
    "10.0.4.4/30",
    "10.0.4.0/32",
    "10.0.4.3/32",
    "10.0.4.15/32",
    "::/0",
    "fd00:4::/124",
    "fd00:4::/125",
    "fd00:4::4/126",
    "fd00:4::/128",
    "fd00:4::7/128",
    "10.1.2.0/25",
];

fn flag(probability: f64) -> impl Strategy<Value = bool> {
    proptest::bool::weighted(probability)
}

fn network(text: &str) -> IpNet {
    text.parse().expect("a prefix")
}

pub(crate) fn prefixes(count: std::ops::Range<usize>) -> impl Strategy<Value = Vec<IpNet>> {
    vec(select(&PREFIXES[..]), count).prop_map(|texts| texts.into_iter().map(network).collect())
}

fn one_of(key: &str, value: &str) -> Requirement {
    Requirement { key: key.to_owned(), operator: Operator::In([value.to_owned()].into()) }
}

/// A selector over the label `key`, which has the values `x` and `y` where it is there.
fn selector(key: &'static str) -> impl Strategy<Value = Selector> {
    let exists = Requirement { key: key.to_owned(), operator: Operator::Exists };
    let absent = Requirement { key: key.to_owned(), operator: Operator::DoesNotExist };
    let not_x = Requirement { key: key.to_owned(), operator: Operator::NotIn(["x".to_owned()].into()) };
    prop_oneof![
        3 => Just(vec![one_of(key, "x")]),
        2 => Just(vec![one_of(key, "y")]),
        2 => Just(Vec::new()),
        1 => Just(vec![exists]),
        1 => Just(vec![absent]),
        1 => Just(vec![not_x]),
    ]
    .prop_map(|requirements| Selector { requirements })
}

fn labels(key: &'static str) -> impl Strategy<Value = Labels> {
    maybe(0.8, select(&["x", "y"][..]))
        .prop_map(move |value| value.into_iter().map(|value| (key.to_owned(), value.to_owned())).collect())
}

pub(crate) fn member() -> impl Strategy<Value = MemberSelector> {
    let names = maybe(0.4, select(&["a", "b"][..]));
    let node = prop_oneof![3 => Just(Selector::default()), 1 => selector("zone")];
    (selector("team"), names, selector("app"), node).prop_map(|(namespace, name, pod, node)| {
        let namespace_name = name.into_iter().map(|name| Operator::In([name.to_owned()].into())).collect();
        MemberSelector { namespace, namespace_name, pod, node }
    })
}

fn egress() -> impl Strategy<Value = Egress> {
    prop_oneof![
        3 => Just(Egress::Interface(InterfaceName::parse("net1").expect("a name"))),
        1 => Just(Egress::Interface(InterfaceName::parse("net2").expect("a name"))),
        2 => Just(Egress::DefaultRoute),
        2 => (0_u8..5).prop_map(|n| Egress::Address(IpAddr::from([10, 0, 3, 42 + n]))),
        1 => (0_u16..5).prop_map(|n| Egress::Address(IpAddr::from([0xfd00, 3, 0, 0, 0, 0, 0, 42 + n]))),
        1 => (0_u8..5, 0_u16..5).prop_map(|(v4, v6)| {
            Egress::DualStack([10, 0, 3, 42 + v4].into(), [0xfd00, 3, 0, 0, 0, 0, 0, 42 + v6].into())
        }),
    ]
}

fn gateway() -> impl Strategy<Value = GatewaySpec> {
    let hops = prop_oneof![4 => Just(Vec::new()), 1 => Just(vec![IpAddr::from([10, 0, 3, 254])])];
    (selector("zone"), egress(), hops).prop_map(|(node, egress, next_hops)| GatewaySpec {
        node,
        egress,
        next_hops,
        assign: None,
    })
}

/// One policy; the number is its name.
pub(crate) fn policy(number: usize) -> impl Strategy<Value = Policy> {
    let gateways = prop_oneof![3 => vec(gateway(), 1), 1 => vec(gateway(), 2..4)];
    let suspended_until = prop_oneof![6 => Just(None), 1 => Just(Some(50)), 1 => Just(Some(150))];
    let choices = (flag(0.5), -1..2_i32, flag(0.7), flag(0.7), suspended_until);
    (vec(member(), 1..3), prefixes(1..4), prefixes(0..3), gateways, choices).prop_map(
        move |(selectors, destinations, excluded, gateways, (cilium, priority, drop, keep, until))| Policy {
            id: PolicyId {
                name: ObjectName::parse(&format!("p{number}")).expect("a name"),
                kind: if cilium { PolicyKind::Cilium } else { PolicyKind::Egret },
            },
            selectors,
            destinations,
            excluded,
            gateways,
            priority,
            on_no_gateway: if drop { OnNoGateway::Drop } else { OnNoGateway::Passthrough },
            existing_connections: if keep { ExistingConnections::Keep } else { ExistingConnections::Reset },
            suspend: until.map(|second| Suspend { until: at(second), owner: None, reason: "a window".to_owned() }),
            origin: Origin::default(),
        },
    )
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).expect("a time")
}

fn policies() -> impl Strategy<Value = BTreeMap<PolicyId, Policy>> {
    let several: Vec<_> = (0..5).map(|number| maybe(0.6, policy(number))).collect();
    several.prop_map(|several| several.into_iter().flatten().map(|policy| (policy.id.clone(), policy)).collect())
}

fn pod(number: u8) -> impl Strategy<Value = (PodName, Pod)> {
    let place = (0_u8..4, select(&["a", "b"][..]), labels("app"));
    (place, flag(0.1), flag(0.1), flag(0.05), flag(0.7)).prop_map(
        move |((node, namespace, labels), host_network, finished, unbound, dual)| {
            let mut addresses = vec![IpAddr::from([10, 1, node, 10 + number])];
            if dual {
                addresses.push(IpAddr::from([0xfd00, 1, u16::from(node), 0, 0, 0, 0, 0x10 + u16::from(number)]));
            }
            let name = PodName { namespace: namespace.to_owned(), name: format!("pod{number}") };
            let node = (!unbound).then(|| node_name(node));
            (name, Pod { labels, node, addresses, host_network, finished, terminating: false })
        },
    )
}

/// Up to eight pods on up to four nodes.
pub(crate) fn pods() -> impl Strategy<Value = BTreeMap<PodName, Pod>> {
    let several: Vec<_> = (0..8).map(|number| maybe(0.6, pod(number))).collect();
    several.prop_map(|several| several.into_iter().flatten().collect())
}

fn node_name(number: u8) -> NodeName {
    NodeName::parse(&format!("n{number}")).expect("a name")
}

fn node(number: u8) -> impl Strategy<Value = Node> {
    (labels("zone"), flag(0.85), flag(0.1), flag(0.8), flag(0.8)).prop_map(
        move |(labels, ready, unschedulable, tells, dual)| {
            let mut addresses = vec![IpAddr::from([172, 18, 0, 2 + number])];
            if dual {
                addresses.push(IpAddr::from([0xfd00, 0x18, 0, 0, 0, 0, 0, 2 + u16::from(number)]));
            }
            let v4 = Ipv4Addr::new(10, 1, number, 0);
            let v6 = Ipv6Addr::new(0xfd00, 1, u16::from(number), 0, 0, 0, 0, 0);
            let networks = vec![IpNet::new_assert(v4.into(), 24), IpNet::new_assert(v6.into(), 64)];
            Node { labels, addresses, pod_cidrs: if tells { networks } else { Vec::new() }, ready, unschedulable }
        },
    )
}

/// `eth0` with the default routes, `net1` with an egress address of one or both families, `net2` with none or another.
fn host_network(number: u8) -> impl Strategy<Value = HostNetwork> {
    let net1 = (flag(0.8), flag(0.8), flag(0.7));
    (net1, flag(0.4), flag(0.9), (flag(0.8), flag(0.7)), 0_u8..3).prop_map(
        move |((there, v4, v6), net2, ipv6, (default6, interface_kinds), rp_filter)| {
            let features = KernelFeatures { owned_tables: true, interface_kinds, resets: true, ipv6 };
            let mut host_network = HostNetwork { features, ..HostNetwork::default() };
            let mut add = |name: &str, addresses: Vec<String>| {
                let addresses = addresses.iter().map(|text| network(text)).collect();
                let interface = Interface { up: true, addresses, rp_filter, mtu: 1500, ..Interface::default() };
                host_network.interfaces.insert(name.to_owned(), interface);
            };
            let n = u16::from(number);
            add("eth0", vec![format!("172.18.0.{}/24", 2 + n), format!("fd00:18::{:x}/64", 2 + n)]);
            if there {
                let v4 = v4.then(|| format!("10.0.3.{}/24", 42 + n));
                let v6 = v6.then(|| format!("fd00:3::{:x}/64", 42 + n));
                add("net1", v4.into_iter().chain(v6).collect());
            }
            if net2 {
                add("net2", vec![format!("10.0.5.{}/24", 42 + n), format!("10.0.5.{}/24", 52 + n)]);
            }
            let route = |destination: &str, gateway: &str| HostRoute {
                destination: network(destination),
                interface: "eth0".to_owned(),
                gateway: Some(gateway.parse().expect("an address")),
                metric: 100,
                ..HostRoute::default()
            };
            host_network.routes.push(route("0.0.0.0/0", "172.18.0.1"));
            if default6 {
                host_network.routes.push(route("::/0", "fd00:18::1"));
            }
            host_network
        },
    )
}

fn config() -> impl Strategy<Value = Config> {
    (flag(0.6), flag(0.5), maybe(0.3, select(&PREFIXES[3..10]))).prop_map(|(pods, services, exempt)| Config {
        pod_cidrs: if pods { vec![network("10.1.0.0/16"), network("fd00:1::/32")] } else { Vec::new() },
        service_cidrs: if services { vec![network("10.0.4.12/30"), network("fd00:4::c/126")] } else { Vec::new() },
        exclusions: exempt.into_iter().map(network).collect(),
        ..Config::default()
    })
}

fn namespaces() -> BTreeMap<String, Labels> {
    [("a", "x"), ("b", "y")].map(|(name, team)| (name.to_owned(), one_label("team", team))).into()
}

fn one_label(key: &str, value: &str) -> Labels {
    Labels::from([(key.to_owned(), value.to_owned())])
}

/// A world of one to four nodes.
pub(crate) fn world() -> impl Strategy<Value = World> {
    let nodes: Vec<_> = (0..4).map(|number| (node(number), host_network(number))).collect();
    (1_usize..5, nodes, pods(), policies(), config(), flag(0.5)).prop_map(
        |(count, nodes, mut pods, policies, config, masquerade)| {
            let mut facts = Facts { namespaces: namespaces(), ..Facts::default() };
            let mut host_networks = BTreeMap::new();
            for (number, (node, host_network)) in (0_u8..).zip(nodes).take(count) {
                facts.nodes.insert(node_name(number), node);
                host_networks.insert(node_name(number), host_network);
            }
            pods.retain(|_, pod| pod.node.as_ref().is_none_or(|node| facts.nodes.contains_key(node)));
            facts.pods = pods;
            let set = PolicySet { policies, config, ..PolicySet::default() };
            World { set, facts, host_networks, now: at(100), masquerade, foreign: Foreign::default() }
        },
    )
}

/// A world and what becomes of it: policies come, go and change; pods come, go and move; nodes fall ill and recover.
pub(crate) fn change() -> impl Strategy<Value = (World, World)> {
    let fates = vec(0_u8..4, 8);
    let nodes: Vec<_> = (0..4).map(node).collect();
    (world(), policies(), pods(), nodes, fates.clone(), fates.clone(), fates).prop_map(
        |(old, policies, pods, nodes, of_policies, of_pods, of_nodes)| {
            let mut new = old.clone();
            new.set.policies = mix(&old.set.policies, &policies, &of_policies);
            new.facts.pods = mix(&old.facts.pods, &pods, &of_pods);
            for ((node, other), fate) in new.facts.nodes.values_mut().zip(nodes).zip(of_nodes) {
                if fate == 3 {
                    // Networks and addresses of a node do not change while it lives.
                    node.labels = other.labels;
                    node.ready = other.ready;
                    node.unschedulable = other.unschedulable;
                }
            }
            let nodes = &new.facts.nodes;
            new.facts.pods.retain(|_, pod| pod.node.as_ref().is_none_or(|node| nodes.contains_key(node)));
            (old, new)
        },
    )
}

/// A world with two sets of policies and two configurations, as the two sides of a preview. Every kernel has IPv6: snapshots of a cluster do
/// not say that one has none.
pub(crate) fn two_revisions() -> impl Strategy<Value = (World, World)> {
    (world(), policies(), vec(0_u8..4, 8), maybe(0.4, config())).prop_map(|(mut old, policies, fates, config)| {
        for host_network in old.host_networks.values_mut() {
            host_network.features.ipv6 = true;
        }
        let mut new = old.clone();
        new.set.policies = mix(&old.set.policies, &policies, &fates);
        new.set.config = config.unwrap_or(new.set.config);
        (old, new)
    })
}

/// Of everything in either, by its fate: as it was, as it was, gone, or as it is in the other.
fn mix<K: Ord + Clone, V: Clone>(old: &BTreeMap<K, V>, other: &BTreeMap<K, V>, fates: &[u8]) -> BTreeMap<K, V> {
    let keys: std::collections::BTreeSet<&K> = old.keys().chain(other.keys()).collect();
    keys.into_iter()
        .zip(fates.iter().cycle())
        .filter_map(|(key, fate)| {
            let value = match fate {
                0 | 1 => old.get(key),
                2 => None,
                _ => other.get(key),
            };
            value.map(|value| (key.clone(), value.clone()))
        })
        .collect()
}
