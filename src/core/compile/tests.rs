//! Tests of compile that need more than a folder of files: marks of before, marks used up, facts that contradict themselves.
//!
//! Whole states stand in tests/scenarios.

use super::*;
use crate::core::facts::{Node, Pod};
use crate::core::ground::{Features, GroundRoute, Interface};
use crate::core::placement::place;
use crate::core::plan::Listing;
use crate::core::policy::catalogue::{Catalogue, Change};
use crate::core::state::nft::{Chain, Family, Ruleset, Table};

/// A policy for the pods with org=ORG, through the node with the label gw=GATEWAY.
fn policy(name: &str, org: &str, destination: &str, gateway: &str) -> String {
    format!(
        "apiVersion: egret.dev/v1alpha1\nkind: EgressPolicy\nmetadata: {{name: {name}}}\nspec:\n  selectors:\n  \
         - podSelector: {{matchLabels: {{org: {org}}}}}\n  destinationCIDRs: [\"{destination}\"]\n  \
         egressGateway: {{nodeSelector: {{matchLabels: {{gw: \"{gateway}\"}}}}, interface: net1}}\n---\n"
    )
}

fn set(documents: &[String], config: &str) -> PolicySet {
    let config = format!("apiVersion: egret.dev/v1alpha1\nkind: Config\n{config}\n");
    let files = [("policies.yaml", documents.concat()), ("egret.yaml", config)];
    let mut catalogue = Catalogue::new("prod");
    catalogue.update(files.map(|(path, text)| (path.to_owned(), Change::Text(text))).into());
    assert_eq!(catalogue.diagnostics(), []);
    catalogue.policies().clone()
}

fn name(text: &str) -> NodeName {
    NodeName::parse(text).expect(text)
}

fn pod_name(text: &str) -> PodName {
    PodName { namespace: "batuu".to_owned(), name: text.to_owned() }
}

/// Nodes n1 to n4 with the labels gw=1 to gw=4, and pods of n1 by name, org and address.
fn facts(pods: &[(&str, &str, &str)]) -> Facts {
    let node = |number: u8| Node {
        labels: BTreeMap::from([("gw".to_owned(), number.to_string())]),
        addresses: vec![IpAddr::from([172, 18, 0, number])],
        pod_cidrs: vec![format!("10.1.{number}.0/24").parse().expect("a network")],
        ready: true,
        unschedulable: false,
    };
    let pod = |org: &str, address: &str| Pod {
        labels: BTreeMap::from([("org".to_owned(), org.to_owned())]),
        node: Some(name("n1")),
        addresses: vec![address.parse().expect(address)],
        ..Pod::default()
    };
    Facts {
        nodes: (1..=4).map(|number| (name(&format!("n{number}")), node(number))).collect(),
        namespaces: BTreeMap::new(),
        pods: pods.iter().map(|(of, org, address)| (pod_name(of), pod(org, address))).collect(),
        ..Facts::default()
    }
}

fn compiled(set: &PolicySet, facts: &Facts, ground: &Ground, marks: &Marks) -> Compiled {
    let placement = place(set, facts, "2026-06-01T12:00:00Z".parse().expect("a time"));
    compile(&Input { node: &name("n1"), set, placement: &placement, facts, ground, marks })
}

/// Of a map or set, the elements as text; policies' chains by what they are of.
fn elements(compiled: &Compiled, set: &str) -> Vec<String> {
    let listing = compiled.desired.nft[&Family::Inet].sets[set].elements.iter();
    listing
        .map(|(key, data)| {
            let text = crate::core::state::nft::element_text(key, data.as_ref());
            let named = |text: String, (name, of): (&String, &PolicyChain)| {
                text.replace(name.as_str(), &format!("{} through {}", of.policy, of.exit))
            };
            compiled.policy_chains.iter().fold(text, named)
        })
        .collect()
}

/// Exits with their ids, as text.
fn ids(compiled: &Compiled) -> Vec<(String, u32)> {
    compiled.exits.iter().map(|(key, exit)| (key.to_string(), exit.id)).collect()
}

#[test]
fn without_a_policy_there_is_nothing_but_labels() {
    let labels =
        "apiVersion: egret.dev/v1alpha1\nkind: NodeLabels\nmetadata: {name: l}\nspec: {nodes: [n1], labels: {a: b}}\n";
    let compiled = compiled(&set(&[labels.to_owned()], ""), &facts(&[]), &Ground::default(), &Marks::default());
    assert_eq!(Listing(&compiled.desired).to_string(), "labels\n\ta: \"b\"\n");
    assert_eq!(compiled, Compiled { desired: compiled.desired.clone(), ..Compiled::default() });
}

#[test]
fn an_exit_keeps_the_mark_that_the_kernel_remembers() {
    let set = set(&[policy("a", "empire", "10.0.4.0/24", "2"), policy("b", "empire", "10.0.5.0/24", "3")], "");
    let facts = facts(&[("tiefighter", "empire", "10.1.1.177")]);
    let exit = |identity: &str| Chain { comment: Some(identity.to_owned()), ..Chain::default() };
    let chains =
        BTreeMap::from([("exit_1".to_owned(), exit("n3 dev net1")), ("exit_2".to_owned(), exit("n9 dev gone"))]);
    let ruleset = Ruleset::from([(Family::Inet, Table { chains, ..Table::default() })]);
    let marks = Marks::observed(&ruleset, set.config.range);
    let compiled = compiled(&set, &facts, &Ground::default(), &marks);
    assert_eq!(ids(&compiled), [("n2 dev net1".to_owned(), 3), ("n3 dev net1".to_owned(), 1)]);
    assert_eq!(elements(&compiled, "exit_of_mark"), ["0x00000001 : goto exit_1", "0x00000003 : goto exit_3"]);
}

#[test]
fn members_of_an_exit_that_gets_no_mark_are_dropped_and_a_person_is_told() {
    let policies: Vec<String> = (2..=4)
        .map(|number| policy(&format!("p{number}"), "empire", &format!("10.0.{number}.0/24"), &number.to_string()))
        .collect();
    // Two bits: 1 and 2 for exits, 3 for replies.
    let set = set(&policies, "datapath: {markMask: \"0x3\"}");
    let compiled = compiled(&set, &facts(&[("t", "empire", "10.1.1.177")]), &Ground::default(), &Marks::default());
    assert_eq!(ids(&compiled), [("n2 dev net1".to_owned(), 1), ("n3 dev net1".to_owned(), 2)]);
    let group = compiled.groups.keys().next().expect("a group");
    assert_eq!(
        elements(&compiled, &format!("to4_{group}")),
        [
            "0.0.0.0-10.0.1.255 : accept",
            "10.0.2.0/24 : goto p2 through n2 dev net1",
            "10.0.3.0/24 : goto p3 through n3 dev net1",
            "10.0.4.0/24 : drop",
            "10.0.5.0-255.255.255.255 : accept",
        ]
    );
    let told = Finding::new(
        "marks-used-up",
        "n4 dev net1",
        "is exit number 3 of this node and marks are used up; its members are dropped",
    );
    assert_eq!(compiled.findings, [told.hint("a wider datapath.markMask in egret.yaml")]);
}

#[test]
fn of_two_pods_with_one_address_the_last_counts_and_a_person_is_told() {
    let set = set(&[policy("a", "empire", "10.0.4.0/24", "2")], "");
    let facts = facts(&[("one", "empire", "10.1.1.5"), ("two", "alliance", "10.1.1.5")]);
    let compiled = compiled(&set, &facts, &Ground::default(), &Marks::default());
    assert_eq!(elements(&compiled, "group_of4"), [] as [&str; 0]);
    assert_eq!(elements(&compiled, "others4"), ["10.1.1.5"]);
    let told =
        Finding::new("address-twice", "batuu/two", "has the address 10.1.1.5 of batuu/one too; batuu/two counts");
    assert_eq!(compiled.findings, [told]);
}

#[test]
fn a_kernel_without_ipv6_gets_ipv4_alone_and_a_person_is_told() {
    let set = set(&[policy("a", "empire", "10.0.4.0/24", "2"), policy("b", "empire", "2001:db8:4::/64", "2")], "");
    let compiled = compiled(&set, &facts(&[("t", "empire", "10.1.1.177")]), &Ground::default(), &Marks::default());
    let not_four: Vec<&String> =
        compiled.desired.nft[&Family::Inet].sets.keys().filter(|set| !set.contains('4')).collect();
    assert_eq!(
        not_four,
        ["exit_of_mac", "exit_of_mark", "exits", "multicast6", "nodes6", "peers6"],
        "tunnel packets of strangers are kept out, and what bears a mark is guarded, all the same"
    );
    assert!(compiled.desired.rules.iter().all(|rule| rule.family == AddressFamily::V4));
    let message = "policies name IPv6 destinations and this node's kernel has IPv6 switched off";
    assert_eq!(compiled.findings, [Finding::new("no-ipv6", "n1", message)]);
}

#[test]
fn pods_with_the_same_policies_are_one_group_and_each_policy_knows_its_members() {
    let set = set(&[policy("a", "empire", "10.0.4.0/24", "2"), policy("b", "alliance", "10.0.5.0/24", "3")], "");
    let facts = facts(&[
        ("t1", "empire", "10.1.1.1"),
        ("t2", "empire", "10.1.1.2"),
        ("x", "alliance", "10.1.1.3"),
        ("y", "hutt", "10.1.1.4"),
    ]);
    let compiled = compiled(&set, &facts, &Ground::default(), &Marks::default());
    let policies: BTreeSet<Vec<String>> =
        compiled.groups.values().map(|policies| policies.iter().map(ToString::to_string).collect()).collect();
    assert_eq!(policies, BTreeSet::from([vec!["a".to_owned()], vec!["b".to_owned()]]));
    let members: Vec<(String, Vec<PodName>)> =
        compiled.members.iter().map(|(policy, pods)| (policy.to_string(), pods.clone())).collect();
    let expected = [("a".to_owned(), vec![pod_name("t1"), pod_name("t2")]), ("b".to_owned(), vec![pod_name("x")])];
    assert_eq!(members, expected);
    let leaving: Vec<Vec<&PodName>> =
        compiled.exits.values().map(|exit| exit.members.values().flatten().collect()).collect();
    assert_eq!(leaving, [vec![&pod_name("t1"), &pod_name("t2")], vec![&pod_name("x")]]);
}

/// A ground whose interface below the tunnel carries packets of this many bytes.
fn below(mtu: u32) -> Ground {
    let eth0 = Interface { up: true, addresses: vec!["172.18.0.1/16".parse().expect("a network")], rp_filter: 0, mtu };
    let route = GroundRoute {
        destination: "0.0.0.0/0".parse().expect("a network"),
        interface: "eth0".to_owned(),
        gateway: Some(IpAddr::from([172, 18, 255, 254])),
        metric: 0,
    };
    Ground {
        interfaces: BTreeMap::from([("eth0".to_owned(), eth0)]),
        routes: vec![route],
        features: Features { owned_tables: true, interface_kinds: true, ipv6: true },
        ..Ground::default()
    }
}

#[test]
fn the_tunnel_is_as_large_as_the_network_below_and_the_configuration_let_it_be() {
    let facts = facts(&[("t", "empire", "10.1.1.177")]);
    let mtu = |config: &str, below_it: u32| {
        let set = set(&[policy("a", "empire", "10.0.4.0/24", "2")], config);
        compiled(&set, &facts, &below(below_it), &Marks::default()).desired.links["egret0"].mtu
    };
    let large = "datapath: {mtu: 8950}";
    let sizes = [mtu("", 1500), mtu("", 9000), mtu("", 1460), mtu(large, 9000), mtu(large, 1500), mtu(large, 0)];
    assert_eq!(sizes, [1450, 1450, 1410, 8950, 1450, 1450]);
}
