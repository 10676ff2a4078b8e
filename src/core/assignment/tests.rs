//! Which node may have which address, on which interface.

use super::holding::{Hold, HoldingView};
use super::*;
use crate::core::facts::Node;
use crate::core::labels::{Operator, Requirement, Selector};
use crate::core::name::ObjectName;
use crate::core::placement::place;
use crate::core::policy::{
    Egress, ExistingConnections, GatewaySpec, MemberSelector, OnNoGateway, Origin, Policy, PolicyKind,
};
use crate::core::state::net::Mac;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn name(text: &str) -> NodeName {
    NodeName::parse(text).unwrap()
}

fn policy(text: &str, address: &str, assign: Option<Assign>) -> Policy {
    let requirement = Requirement { key: "gw".to_owned(), operator: Operator::Exists };
    Policy {
        id: PolicyId { name: ObjectName::parse(text).unwrap(), kind: PolicyKind::Egret },
        selectors: vec![MemberSelector::default()],
        destinations: vec!["10.0.4.0/24".parse().unwrap()],
        excluded: Vec::new(),
        gateways: vec![GatewaySpec {
            node: Selector { requirements: vec![requirement] },
            egress: Egress::Address(ip(address)),
            next_hops: Vec::new(),
            assign,
        }],
        priority: 0,
        on_no_gateway: OnNoGateway::Drop,
        existing_connections: ExistingConnections::Keep,
        suspend: None,
        origin: Origin::default(),
    }
}

fn set(policies: Vec<Policy>) -> PolicySet {
    let mut set = PolicySet::default();
    set.config.failover = Some(crate::core::policy::config::ProbeTiming::default());
    set.policies = policies.into_iter().map(|policy| (policy.id.clone(), policy)).collect();
    set
}

fn facts(gateways: &[&str]) -> Facts {
    let mut facts = Facts::default();
    for (place, node) in gateways.iter().enumerate() {
        let addresses = vec![IpAddr::from([172, 18, 0, u8::try_from(place).unwrap() + 2])];
        let labels = [("gw".to_owned(), String::new())].into();
        facts.nodes.insert(name(node), Node { ready: true, addresses, labels, ..Node::default() });
    }
    facts
}

fn network() -> HostNetwork {
    let with = |addresses: &[&str], kind| Interface {
        up: true,
        kind,
        addresses: addresses.iter().map(|net| net.parse().unwrap()).collect(),
        ..Interface::default()
    };
    let interfaces = [
        ("eth0", with(&["172.18.0.2/24"], InterfaceKind::Device)),
        ("lo", with(&["127.0.0.1/8"], InterfaceKind::Loopback)),
        ("net1", with(&["10.0.3.42/24", "10.0.3.99/32"], InterfaceKind::Device)),
    ];
    let interfaces = interfaces.into_iter().map(|(name, interface)| (name.to_owned(), interface)).collect();
    HostNetwork { interfaces, ..HostNetwork::default() }
}

fn on(link: &str, address: &str) -> InterfaceAddress {
    InterfaceAddress { link: link.to_owned(), address: IpNet::from(ip(address)) }
}

fn assignments(
    set: &PolicySet,
    nodes: &[&str],
    own: (&HostNetwork, &[InterfaceAddress]),
    view: &HoldingView,
) -> NodeAssignments {
    let facts = facts(nodes);
    let placement = place(set, &facts, jiff::Timestamp::UNIX_EPOCH);
    let observed = own.1.iter().cloned().collect();
    let input = AssignmentInput {
        node: &name("b"),
        set,
        placement: &placement,
        host_network: own.0,
        observed: &observed,
        holding: view,
    };
    of_node(&input)
}

fn codes(own: &NodeAssignments) -> Vec<&str> {
    own.findings.iter().map(|finding| finding.code.as_str()).collect()
}

fn seen(ours: bool) -> HoldingView {
    HoldingView::Seen(BTreeMap::from([(ip("10.0.3.100"), Hold { ours, conflict: None })]))
}

#[test]
fn an_address_goes_on_the_interface_with_its_network_and_only_once_it_may() {
    let set = set(vec![policy("outpost", "10.0.3.100", Some(Assign::default()))]);
    let network = network();
    let own = assignments(&set, &["b", "c"], (&network, &[]), &HoldingView::default());
    assert_eq!(own.addresses, BTreeSet::new(), "nobody has been asked yet");
    let claim = &own.claims[&ip("10.0.3.100")];
    assert_eq!((claim.link.as_str(), claim.rank, claim.placed, claim.present), ("net1", Some(0), true, false));
    assert_eq!(
        assignments(&set, &["b", "c"], (&network, &[]), &seen(true)).addresses,
        [on("net1", "10.0.3.100")].into()
    );
    let there = [on("net1", "10.0.3.100")];
    let kept = assignments(&set, &["b"], (&network, &there), &HoldingView::default());
    assert_eq!(kept.addresses, there.into(), "a new process leaves it");
    let there = [on("net1", "10.0.3.100")];
    assert_eq!(assignments(&set, &["b"], (&network, &there), &seen(false)).addresses, BTreeSet::new());
}

#[test]
fn standbys_have_turns_and_other_nodes_none() {
    let set = set(vec![policy("outpost", "10.0.3.100", Some(Assign::default()))]);
    let rank = |nodes: &[&str]| {
        let own = assignments(&set, nodes, (&network(), &[]), &HoldingView::default());
        own.claims.get(&ip("10.0.3.100")).map(|claim| (claim.rank, claim.placed))
    };
    assert_eq!(rank(&["a", "b", "c"]), Some((Some(0), false)));
    assert_eq!(rank(&["a", "aa", "b", "c"]), Some((Some(1), false)));
    assert_eq!(rank(&["a", "c"]), None);
}

#[test]
fn a_former_gateway_keeps_an_address_until_it_is_asked_for_it() {
    let set = set(vec![policy("outpost", "10.0.3.100", Some(Assign::default()))]);
    let there = [on("net1", "10.0.3.100")];
    let own = assignments(&set, &["a"], (&network(), &there), &HoldingView::default());
    assert_eq!((own.addresses.len(), own.claims[&ip("10.0.3.100")].rank), (1, None));
    let none = assignments(&PolicySet::default(), &["a"], (&network(), &there), &HoldingView::default());
    assert_eq!((none.addresses.len(), none.claims.len()), (0, 0), "no policy assigns it");
}

#[test]
fn an_interface_that_cannot_send_has_no_assigned_address() {
    let set = set(vec![policy("outpost", "10.0.3.100", Some(Assign::default()))]);
    let mut network = network();
    network.interfaces.get_mut("net1").unwrap().no_carrier = true;
    let there = [on("net1", "10.0.3.100")];
    let own = assignments(&set, &["b"], (&network, &there), &seen(true));
    assert_eq!((own.addresses.len(), own.claims[&ip("10.0.3.100")].works), (0, false));
}

#[test]
fn an_address_without_an_interface_is_a_finding_and_loopback_has_to_be_named() {
    let alone = set(vec![policy("outpost", "192.0.2.1", Some(Assign::default()))]);
    let own = assignments(&alone, &["b"], (&network(), &[]), &HoldingView::default());
    assert_eq!((codes(&own), own.claims.len()), (vec!["assign-no-interface"], 0));
    let named = |link: &str| {
        let interface = Some(crate::core::name::Interface::parse(link).unwrap());
        let set = set(vec![policy("outpost", "192.0.2.1", Some(Assign { interface, failback: false }))]);
        assignments(&set, &["b"], (&network(), &[]), HoldingView::PLACED)
    };
    assert_eq!((named("lo").addresses, codes(&named("lo"))), ([on("lo", "192.0.2.1")].into(), vec![]));
    assert!(named("lo").claims[&ip("192.0.2.1")].on_loopback);
    assert_eq!(codes(&named("net9")), ["assign-no-interface"]);
}

#[test]
fn of_policies_that_differ_the_first_counts() {
    let failback = Some(Assign { interface: None, failback: true });
    let both = set(vec![
        policy("b-later", "10.0.3.100", Some(Assign::default())),
        policy("a-first", "10.0.3.100", failback),
        policy("c-none", "10.0.3.100", None),
    ]);
    let own = assignments(&both, &["b"], (&network(), &[]), &HoldingView::default());
    assert_eq!((codes(&own), own.claims[&ip("10.0.3.100")].preferred), (vec!["assign-differs"], true));
    let message = &own.findings[0].message;
    assert!(message.contains("a-first and b-later assign 10.0.3.100"), "{message}");
}

#[test]
fn a_host_that_does_not_give_way_is_named() {
    let set = set(vec![policy("outpost", "10.0.3.100", Some(Assign::default()))]);
    let hold = Hold { ours: false, conflict: Some(Mac([2, 0, 0, 0, 0, 9])) };
    let view = HoldingView::Seen(BTreeMap::from([(ip("10.0.3.100"), hold)]));
    let own = assignments(&set, &["b"], (&network(), &[]), &view);
    assert_eq!(codes(&own), ["address-conflict"]);
    assert!(own.findings[0].message.contains("02:00:00:00:00:09"), "{}", own.findings[0].message);
}

#[test]
fn a_network_with_what_is_to_come_has_it_as_the_kernel_will_list_it() {
    let network = network();
    let (old, new) = (BTreeSet::from([on("net1", "10.0.3.99")]), BTreeSet::from([on("net1", "10.0.3.100")]));
    let applied = applied(&network, &old, &new);
    assert_eq!(applied.holder(ip("10.0.3.100")), Some("net1"));
    assert_eq!(applied.holder(ip("10.0.3.99")), None);
    let own = applied.interfaces["net1"].own_address(AddressFamily::V4);
    assert_eq!(own, Some(ip("10.0.3.42")), "it is no exit's address unless named");
}

#[test]
fn before_it_happens_every_node_that_may_get_an_address_counts_as_having_it() {
    let set = set(vec![policy("outpost", "10.0.3.100", Some(Assign::default()))]);
    let networks = BTreeMap::from([(name("a"), network()), (name("b"), network()), (name("z"), network())]);
    let mut facts = facts(&["a", "b"]);
    facts.nodes.insert(name("z"), Node::default());
    let expected = expected(&[&set], &facts, &networks);
    let has = |node: &str| expected[&name(node)].holder(ip("10.0.3.100")).is_some();
    assert_eq!((has("a"), has("b"), has("z")), (true, true, false));
}
