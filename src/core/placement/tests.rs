//! Tests of placement on small clusters.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::*;
use crate::core::facts::Node;
use crate::core::labels::{Labels, Operator, Requirement, Selector};
use crate::core::name::ObjectName;
use crate::core::policy::{Egress, ExistingConnections, MemberSelector, Origin, PolicyKind, Suspend};

fn selector(key: &str, value: &str) -> Selector {
    Selector {
        requirements: vec![Requirement { key: key.into(), operator: Operator::In(BTreeSet::from([value.to_owned()])) }],
    }
}

fn gateway(key: &str, value: &str) -> GatewaySpec {
    GatewaySpec { node: selector(key, value), egress: Egress::DefaultRoute, next_hops: Vec::new(), assign: None }
}

fn policy(name: &str, gateways: Vec<GatewaySpec>) -> Policy {
    Policy {
        id: PolicyId { name: ObjectName::parse(name).unwrap(), kind: PolicyKind::Cilium },
        selectors: vec![MemberSelector { pod: selector("org", "empire"), ..MemberSelector::default() }],
        destinations: vec!["10.0.4.0/24".parse().unwrap()],
        excluded: Vec::new(),
        gateways,
        priority: 0,
        on_no_gateway: OnNoGateway::Drop,
        existing_connections: ExistingConnections::Keep,
        suspend: None,
        origin: Origin::default(),
    }
}

fn set(policies: Vec<Policy>) -> PolicySet {
    PolicySet {
        policies: policies.into_iter().map(|policy| (policy.id.clone(), policy)).collect(),
        ..PolicySet::default()
    }
}

fn facts(nodes: &[(&str, bool, bool)]) -> Facts {
    let mut facts = Facts::default();
    for (position, (name, ready, unschedulable)) in nodes.iter().enumerate() {
        let labels = Labels::from([("gw".to_owned(), "a".to_owned()), ("name".to_owned(), (*name).to_owned())]);
        let address = format!("172.18.0.{}", position + 2).parse().unwrap();
        let node =
            Node { labels, addresses: vec![address], ready: *ready, unschedulable: *unschedulable, ..Node::default() };
        facts.nodes.insert(NodeName::parse(name).unwrap(), node);
    }
    facts
}

fn gateways(placement: &Placement, name: &str) -> Vec<String> {
    let id = PolicyId { name: ObjectName::parse(name).unwrap(), kind: PolicyKind::Cilium };
    placement.policies[&id].exits.iter().map(|exit| exit.gateway.to_string()).collect()
}

#[test]
fn the_first_fit_node_by_name_is_the_gateway() {
    let facts = facts(&[("c", true, false), ("a", false, false), ("b", true, true), ("d", true, false)]);
    let placement = place(&set(vec![policy("p", vec![gateway("gw", "a")])]), &facts, Timestamp::UNIX_EPOCH);
    assert_eq!(gateways(&placement, "p"), ["c"]);
    let placed = placement.policies.values().next().unwrap();
    let unfit: Vec<String> = placed.choices[0].unfit.iter().map(|(node, why)| format!("{node} {why}")).collect();
    assert_eq!(unfit, ["a is not Ready", "b is cordoned"]);
}

#[test]
fn without_a_fit_node_a_finding_names_the_reason() {
    let facts = facts(&[("a", false, false)]);
    let placement = place(&set(vec![policy("p", vec![gateway("gw", "a")])]), &facts, Timestamp::UNIX_EPOCH);
    assert_eq!(gateways(&placement, "p"), Vec::<String>::new());
    assert_eq!(
        placement.findings[0].to_string(),
        "p: no node that matches gw=a is fit: a is not Ready; members' packets to its destinations are dropped"
    );
}

#[test]
fn a_removed_exit_moves_only_its_own_members() {
    let nodes: Vec<String> = (0..5).map(|n| format!("n{n}")).collect();
    let facts = facts(&nodes.iter().map(|name| (name.as_str(), true, false)).collect::<Vec<_>>());
    let all: Vec<GatewaySpec> = nodes.iter().map(|name| gateway("name", name)).collect();
    let exits = |gateways: &[GatewaySpec]| {
        place(&set(vec![policy("p", gateways.to_vec())]), &facts, Timestamp::UNIX_EPOCH)
            .policies
            .into_values()
            .next()
            .unwrap()
    };
    let (five, four) = (exits(&all), exits(&all[..4]));
    let mut share = BTreeMap::new();
    for number in 0..1000 {
        let pod = PodName { namespace: "batuu".into(), name: format!("pod-{number}") };
        let before = five.exit_of(&pod).unwrap();
        *share.entry(before.gateway.to_string()).or_insert(0) += 1;
        if before.gateway.as_str() != "n4" {
            assert_eq!(Some(before), four.exit_of(&pod), "{pod} moved although its exit is still there");
        }
    }
    assert!(share.len() == 5 && share.values().all(|count| (120..=280).contains(count)), "{share:?}");
}

#[test]
fn a_suspended_policy_is_inactive_until_the_suspension_ends() {
    let mut suspended = policy("p", vec![gateway("gw", "a")]);
    suspended.suspend =
        Some(Suspend { until: "2026-11-22T12:00:00Z".parse().unwrap(), owner: None, reason: "migration".into() });
    let set = set(vec![suspended]);
    let facts = facts(&[("a", true, false)]);
    assert!(place(&set, &facts, "2026-11-22T11:59:59Z".parse().unwrap()).policies.is_empty());
    assert_eq!(place(&set, &facts, "2026-11-22T12:00:00Z".parse().unwrap()).policies.len(), 1);
}

#[test]
fn an_identity_fits_into_a_comment_and_stays_unique() {
    let long = |last: &str| ExitKey {
        gateway: NodeName::parse(&format!("{}{last}", "a".repeat(200))).unwrap(),
        egress: Egress::DefaultRoute,
        next_hops: Vec::new(),
    };
    assert!(long("b").identity().len() <= 127);
    assert_ne!(long("b").identity(), long("c").identity());
}

fn naming(address: &str) -> GatewaySpec {
    GatewaySpec { egress: Egress::Address(address.parse().unwrap()), ..gateway("gw", "a") }
}

/// The nodes that report 10.0.3.9, and since which second.
fn held(by: &[(&str, i64)]) -> HeldAddresses {
    let address: IpAddr = "10.0.3.9".parse().unwrap();
    let since = |second| BTreeMap::from([(address, Timestamp::from_second(second).unwrap())]);
    by.iter().map(|(node, second)| (NodeName::parse(node).unwrap(), since(*second))).collect()
}

#[test]
fn the_node_that_reports_a_named_address_is_the_gateway_and_of_several_the_newest() {
    let set = set(vec![policy("p", vec![naming("10.0.3.9")])]);
    let mut facts = facts(&[("a", true, false), ("b", true, false), ("c", true, false), ("d", true, true)]);
    let chosen = |facts: &Facts, by: &[(&str, i64)]| {
        gateways(
            &place_with(
                &set,
                facts,
                GatewayReports { held: &held(by), unfit: &UnfitExits::new() },
                Timestamp::UNIX_EPOCH,
            ),
            "p",
        )
    };
    assert_eq!(chosen(&facts, &[]), ["a"], "no node reports it");
    assert_eq!(chosen(&facts, &[("b", 7)]), ["b"]);
    assert_eq!(chosen(&facts, &[("b", 7), ("c", 8)]), ["c"], "it was moved to the last");
    assert_eq!(chosen(&facts, &[("b", 8), ("c", 8)]), ["b"], "at the same time: by name");
    assert_eq!(chosen(&facts, &[("d", 9)]), ["a"], "one that is cordoned is not fit");
    facts.held = held(&[("c", 1)]);
    assert_eq!(gateways(&place(&set, &facts, Timestamp::UNIX_EPOCH), "p"), ["c"]);
    let by_route = super::tests::set(vec![policy("p", vec![gateway("gw", "a")])]);
    assert_eq!(gateways(&place(&by_route, &facts, Timestamp::UNIX_EPOCH), "p"), ["a"], "no address is named");
}

#[test]
fn a_snapshot_also_has_the_holders_of_addresses() {
    let mut facts = facts(&[("a", true, false), ("b", true, false)]);
    let mut host_network = crate::core::host_network::HostNetwork::default();
    let net1 = crate::core::host_network::Interface {
        up: true,
        addresses: vec!["10.0.3.9/24".parse().unwrap()],
        ..crate::core::host_network::Interface::default()
    };
    host_network.interfaces.insert("net1".to_owned(), net1);
    facts.host_networks.insert(NodeName::parse("b").unwrap(), host_network);
    let set = set(vec![policy("p", vec![naming("10.0.3.9")])]);
    assert_eq!(gateways(&place(&set, &facts, Timestamp::UNIX_EPOCH), "p"), ["b"]);
}

#[test]
fn nodes_with_the_same_address_are_not_gateways() {
    let mut facts = facts(&[("a", true, false), ("b", true, false), ("c", true, false)]);
    let shared: Vec<IpAddr> = vec!["10.0.2.15".parse().unwrap()];
    for name in ["a", "b"] {
        facts.nodes.get_mut(&NodeName::parse(name).unwrap()).unwrap().addresses.clone_from(&shared);
    }
    let set = set(vec![policy("p", vec![gateway("gw", "a")])]);
    let placement = place(&set, &facts, Timestamp::UNIX_EPOCH);
    assert_eq!(gateways(&placement, "p"), ["c"]);
    let unfit: Vec<String> = placement.policies.values().next().unwrap().choices[0]
        .unfit
        .iter()
        .map(|(node, why)| format!("{node} {why}"))
        .collect();
    assert_eq!(unfit, ["a shares its InternalIP 10.0.2.15 with b", "b shares its InternalIP 10.0.2.15 with a"]);
    // A stale Node object is not Ready: the machine that has the address now continues.
    facts.nodes.get_mut(&NodeName::parse("b").unwrap()).unwrap().ready = false;
    assert_eq!(gateways(&place(&set, &facts, Timestamp::UNIX_EPOCH), "p"), ["a"]);
}

#[test]
fn the_gateway_of_a_pair_is_the_node_that_got_its_addresses_last() {
    let (v4, v6): (Ipv4Addr, Ipv6Addr) = ("10.0.3.42".parse().unwrap(), "2001:db8::42".parse().unwrap());
    let pair = GatewaySpec { egress: Egress::DualStack(v4, v6), ..gateway("gw", "a") };
    let set = set(vec![policy("outpost", vec![pair])]);
    let facts = facts(&[("n1", true, false), ("n2", true, false), ("n3", true, false)]);
    let holding = |who: &[(&str, &[(IpAddr, i64)])]| -> HeldAddresses {
        let one = |(node, had): &(&str, &[(IpAddr, i64)])| {
            let had = had.iter().map(|(address, at)| (*address, Timestamp::from_second(*at).unwrap()));
            (NodeName::parse(node).unwrap(), had.collect())
        };
        who.iter().map(one).collect()
    };
    let choice = |held: &HeldAddresses| {
        let reports = GatewayReports { held, unfit: &UnfitExits::new() };
        let placed = place_with(&set, &facts, reports, Timestamp::UNIX_EPOCH);
        placed.policies.into_values().next().unwrap().exits[0].gateway.to_string()
    };
    let (v4, v6) = (IpAddr::V4(v4), IpAddr::V6(v6));
    assert_eq!(choice(&holding(&[])), "n1");
    assert_eq!(choice(&holding(&[("n2", &[(v4, 1), (v6, 1)])])), "n2");
    assert_eq!(choice(&holding(&[("n2", &[(v4, 1), (v6, 1)]), ("n3", &[(v4, 2), (v6, 2)])])), "n3");
    assert_eq!(
        choice(&holding(&[("n2", &[(v4, 1), (v6, 3)]), ("n3", &[(v4, 2)])])),
        "n2",
        "one vote each: the first by name"
    );
}

#[test]
fn a_request_of_a_pool_has_no_exit_and_says_what_it_waits_for() {
    let pool = ObjectName::parse("outpost").unwrap();
    let waiting = GatewaySpec { egress: Egress::Pool(PoolRequest { pool, addresses: 2 }), ..gateway("gw", "a") };
    let facts = facts(&[("n1", true, false)]);
    let alone = place(&set(vec![policy("outpost", vec![waiting.clone()])]), &facts, Timestamp::UNIX_EPOCH);
    assert_eq!(alone.exits, BTreeMap::new());
    let messages: Vec<&str> = alone.findings.iter().map(|finding| finding.message.as_str()).collect();
    assert_eq!(
        messages,
        ["waits for 2 addresses of the pool outpost; members' packets to its destinations are dropped"]
    );
    let beside = policy("outpost", vec![waiting, naming("10.0.3.42")]);
    let beside = place(&set(vec![beside]), &facts, Timestamp::UNIX_EPOCH);
    let messages: Vec<&str> = beside.findings.iter().map(|finding| finding.message.as_str()).collect();
    assert_eq!(messages, ["waits for 2 addresses of the pool outpost; the others of the policy carry its members"]);
    assert_eq!(beside.exits.len(), 1);
}
