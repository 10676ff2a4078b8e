//! Tests of `compile` that need more than a folder of files: existing ids, exhausted ids, contradictory facts.
//!
//! tests/scenarios has whole states.

use super::*;
use crate::core::facts::{Node, Pod};
use crate::core::host_network::{HostRoute, Interface, KernelFeatures};
use crate::core::neighbour_resolution::Resolution;
use crate::core::placement::place;
use crate::core::plan::conntrack::{Connection, ConntrackFlush};
use crate::core::plan::{StateListing, Step, plan};
use crate::core::policy::catalogue::{Catalogue, FileUpdate};
use crate::core::state::nft::{Chain, Ruleset, Table, TableFamily};

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
    catalogue.update(files.map(|(path, text)| (path.to_owned(), FileUpdate::Text(text))).into());
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

fn compiled(set: &PolicySet, facts: &Facts, host_network: &HostNetwork, marks: &ExitIds) -> Compiled {
    let placement = place(set, facts, "2026-06-01T12:00:00Z".parse().expect("a time"));
    compile(&CompileInput {
        detours: &crate::core::detours::Detours::new(),
        node: &name("n1"),
        set,
        placement: &placement,
        facts,
        host_network,
        marks,
        refused: RefusedParts::NOTHING,
        assigned: &BTreeSet::new(),
    })
}

/// The elements of a map or set as text; policy chains by their policy and exit.
fn elements(compiled: &Compiled, set: &str) -> Vec<String> {
    let listing = compiled.desired.nft[&TableFamily::Inet].sets[set].elements.iter();
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
fn without_a_policy_only_labels_are_desired() {
    let labels =
        "apiVersion: egret.dev/v1alpha1\nkind: NodeLabels\nmetadata: {name: l}\nspec: {nodes: [n1], labels: {a: b}}\n";
    let compiled = compiled(&set(&[labels.to_owned()], ""), &facts(&[]), &HostNetwork::default(), &ExitIds::default());
    assert_eq!(StateListing(&compiled.desired).to_string(), "labels\n\ta: \"b\"\n");
    assert_eq!(compiled, Compiled { desired: compiled.desired.clone(), ..Compiled::default() });
}

#[test]
fn an_exit_keeps_its_mark_in_the_kernel() {
    let set = set(&[policy("a", "empire", "10.0.4.0/24", "2"), policy("b", "empire", "10.0.5.0/24", "3")], "");
    let facts = facts(&[("tiefighter", "empire", "10.1.1.177")]);
    let exit = |identity: &str| Chain { comment: Some(identity.to_owned()), ..Chain::default() };
    let chains =
        BTreeMap::from([("exit_1".to_owned(), exit("n3 dev net1")), ("exit_2".to_owned(), exit("n9 dev gone"))]);
    let ruleset = Ruleset::from([(TableFamily::Inet, Table { chains, ..Table::default() })]);
    let marks = ExitIds::observed(&ruleset, set.config.range);
    let compiled = compiled(&set, &facts, &HostNetwork::default(), &marks);
    assert_eq!(ids(&compiled), [("n2 dev net1".to_owned(), 3), ("n3 dev net1".to_owned(), 1)]);
    assert_eq!(elements(&compiled, "exit_of_mark"), ["0x00000001 : goto exit_1", "0x00000003 : goto exit_3"]);
}

#[test]
fn members_of_an_exit_without_a_free_id_are_dropped_and_a_finding_says_so() {
    let policies: Vec<String> = (2..=4)
        .map(|number| policy(&format!("p{number}"), "empire", &format!("10.0.{number}.0/24"), &number.to_string()))
        .collect();
    // Two bits: 1 and 2 for exits, 3 for replies.
    let set = set(&policies, "datapath: {markMask: \"0x3\"}");
    let compiled =
        compiled(&set, &facts(&[("t", "empire", "10.1.1.177")]), &HostNetwork::default(), &ExitIds::default());
    assert_eq!(ids(&compiled), [("n2 dev net1".to_owned(), 1), ("n3 dev net1".to_owned(), 2)]);
    let group = compiled.groups.keys().next().expect("a group");
    assert_eq!(
        elements(&compiled, &format!("to4_{group}")),
        [
            "0.0.0.0-10.0.1.255 : accept",
            "10.0.2.0/24 : goto p2 through n2 dev net1",
            "10.0.3.0/24 : goto p3 through n3 dev net1",
            "10.0.4.0/24 : goto drop_36b5f9e401332fad",
            "10.0.5.0-255.255.255.255 : accept",
        ]
    );
    let expected = Finding::new(
        "marks-used-up",
        "n4 dev net1",
        "is exit number 3 of this node and marks are used up; its members are dropped",
    );
    assert_eq!(compiled.findings, [expected.hint("a wider datapath.markMask in egret.yaml")]);
}

#[test]
fn of_two_pods_with_one_address_the_last_by_name_counts_and_a_finding_names_both() {
    let set = set(&[policy("a", "empire", "10.0.4.0/24", "2")], "");
    let facts = facts(&[("one", "empire", "10.1.1.5"), ("two", "alliance", "10.1.1.5")]);
    let compiled = compiled(&set, &facts, &HostNetwork::default(), &ExitIds::default());
    assert_eq!(elements(&compiled, "group_of4"), [] as [&str; 0]);
    assert_eq!(elements(&compiled, "others4"), ["10.1.1.5"]);
    let expected =
        Finding::new("address-twice", "batuu/two", "has the address 10.1.1.5 of batuu/one too; batuu/two counts");
    assert_eq!(compiled.findings, [expected]);
}

#[test]
fn of_two_pods_with_one_address_the_one_not_being_deleted_counts() {
    let set = set(&[policy("a", "empire", "10.0.4.0/24", "2")], "");
    for (gone, runs, (map, expected)) in
        [("one", "two", ("others4", "10.1.1.5")), ("two", "one", ("group_of4", "10.1.1.5 : goto "))]
    {
        let (empire, alliance) = ("empire", "alliance");
        let of = |name| if name == "one" { empire } else { alliance };
        let mut facts = facts(&[(gone, of(gone), "10.1.1.5"), (runs, of(runs), "10.1.1.5")]);
        facts.pods.get_mut(&pod_name(gone)).expect("a pod").terminating = true;
        let once = compiled(&set, &facts, &HostNetwork::default(), &ExitIds::default());
        let found = elements(&once, map);
        assert!(found[0].starts_with(expected), "{found:?}");
        assert_eq!(once.holders, BTreeMap::from([(IpAddr::from([10, 1, 1, 5]), pod_name(runs))]));
        assert_eq!(once.findings, [], "that is how pods end");
        // Alone, it keeps its address until it is gone.
        facts.pods.remove(&pod_name(runs));
        let once = compiled(&set, &facts, &HostNetwork::default(), &ExitIds::default());
        assert_eq!(once.holders, BTreeMap::from([(IpAddr::from([10, 1, 1, 5]), pod_name(gone))]));
    }
}

#[test]
fn a_kernel_without_ipv6_gets_only_ipv4_with_a_finding() {
    let set = set(&[policy("a", "empire", "10.0.4.0/24", "2"), policy("b", "empire", "2001:db8:4::/64", "2")], "");
    let compiled =
        compiled(&set, &facts(&[("t", "empire", "10.1.1.177")]), &HostNetwork::default(), &ExitIds::default());
    let not_four: Vec<&String> =
        compiled.desired.nft[&TableFamily::Inet].sets.keys().filter(|set| !set.contains('4')).collect();
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
    let compiled = compiled(&set, &facts, &HostNetwork::default(), &ExitIds::default());
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

/// A host network whose interface below the tunnel has this MTU.
fn below(mtu: u32) -> HostNetwork {
    let eth0 = Interface {
        up: true,
        addresses: vec!["172.18.0.1/16".parse().expect("a network")],
        mtu,
        ..Interface::default()
    };
    let route = HostRoute {
        destination: "0.0.0.0/0".parse().expect("a network"),
        interface: "eth0".to_owned(),
        gateway: Some(IpAddr::from([172, 18, 255, 254])),
        ..HostRoute::default()
    };
    HostNetwork {
        interfaces: BTreeMap::from([("eth0".to_owned(), eth0)]),
        routes: vec![route],
        features: KernelFeatures { owned_tables: true, interface_kinds: true, resets: true, ipv6: true },
        ..HostNetwork::default()
    }
}

#[test]
fn the_tunnel_mtu_is_the_smaller_of_configuration_and_underlay() {
    let facts = facts(&[("t", "empire", "10.1.1.177")]);
    let mtu = |config: &str, below_it: u32| {
        let set = set(&[policy("a", "empire", "10.0.4.0/24", "2")], config);
        compiled(&set, &facts, &below(below_it), &ExitIds::default()).desired.links["egret0"].mtu
    };
    let large = "datapath: {mtu: 8950}";
    let sizes = [mtu("", 1500), mtu("", 9000), mtu("", 1460), mtu(large, 9000), mtu(large, 1500), mtu(large, 0)];
    assert_eq!(sizes, [1450, 1450, 1410, 8950, 1450, 1450]);
}

/// The same with an egress interface.
fn gateway() -> HostNetwork {
    let mut host_network = below(1500);
    let net1 = Interface {
        addresses: vec!["10.0.3.42/24".parse().expect("a network")],
        ..host_network.interfaces["eth0"].clone()
    };
    host_network.interfaces.insert("net1".to_owned(), net1);
    host_network
}

/// For every step about routes, rules, neighbours and foreign sysctls in a plan from nothing: what has to be left out if
/// the kernel refuses it.
fn refusals(compiled: &Compiled, set: &PolicySet) -> Vec<(String, Vec<String>)> {
    use crate::core::plan::{Step, plan};
    let steps = plan(&compiled.desired, &NodeState::default(), set.config.range).steps;
    let parts = |step: &Step| {
        let refused = compiled.refused(step, "no", set.config.range);
        let exits = refused.exits.keys().map(ToString::to_string);
        exits.chain(refused.replies.keys().map(|key| format!("back to {}", key.destination))).collect()
    };
    steps.iter().map(|step| (step.to_string(), parts(step))).collect()
}

#[test]
fn a_step_belongs_to_its_exits_or_is_shared() {
    let set = set(&[policy("a", "empire", "10.0.4.0/24", "2"), policy("b", "empire", "10.0.5.0/24", "3")], "");
    let compiled = compiled(&set, &facts(&[("t", "empire", "10.1.1.177")]), &below(1500), &ExitIds::default());
    for (step, parts) in refusals(&compiled, &set) {
        let second = step.contains("9001") || step.contains("169.254.128.1 dev egret0 lladdr");
        let third = step.contains("9002") || step.contains("169.254.128.2 dev egret0 lladdr");
        let expected: &[&str] = match (second, third) {
            (true, false) => &["n2 dev net1"],
            (false, true) => &["n3 dev net1"],
            _ => &[],
        };
        assert_eq!(parts, expected, "{step}");
    }
}

/// In a cluster with policies of both families a gateway that has nothing to do in one of them is not silent there.
#[test]
fn an_exit_is_probed_in_the_families_that_its_policies_name() {
    let set = set(&[policy("a", "empire", "10.0.4.0/24", "2"), policy("b", "empire", "fd00:10:4::/64", "3")], "");
    let facts = facts(&[("t", "empire", "10.1.1.177")]);
    let compiled = compiled(&set, &facts, &gateway(), &ExitIds::default());
    let probed: Vec<(String, AddressFamily)> = compiled
        .probe_targets(DatapathConfig::default())
        .into_keys()
        .map(|(exit, family)| (exit.gateway.to_string(), family))
        .collect();
    assert_eq!(probed, [("n2".to_owned(), AddressFamily::V4), ("n3".to_owned(), AddressFamily::V6)]);
}

/// Routes as text, without those that only pass on to the main table.
fn routes_of(compiled: &Compiled) -> Vec<String> {
    let routes = compiled.desired.routes.iter();
    let steering = routes.filter(|(_, route)| **route != crate::core::state::net::Route::Throw);
    steering.map(|(key, route)| crate::core::state::net::route_text(key, route)).collect()
}

#[test]
fn a_refused_exit_drops_and_a_refused_return_path_is_left_out() {
    let set = set(&[policy("a", "empire", "10.0.4.0/24", "1"), policy("b", "empire", "10.0.5.0/24", "2")], "");
    let facts = facts(&[("t", "empire", "10.1.1.177")]);
    let host_network = gateway();
    let placement = place(&set, &facts, "2026-06-01T12:00:00Z".parse().expect("a time"));
    let marks = ExitIds::default();
    let input = |refused| {
        compile(&CompileInput {
            detours: &crate::core::detours::Detours::new(),
            node: &name("n1"),
            set: &set,
            placement: &placement,
            facts: &facts,
            host_network: &host_network,
            marks: &marks,
            refused,
            assigned: &BTreeSet::new(),
        })
    };
    let whole = input(RefusedParts::NOTHING);
    let refuse = |table: u32, destination: &str| {
        let routes = whole.desired.routes.iter();
        let (key, route) = routes
            .filter(|(key, _)| key.table == table && key.destination.to_string() == destination)
            .min_by_key(|(key, _)| key.metric)
            .expect("a route");
        whole.refused(&crate::core::plan::Step::SetRoute(key.clone(), route.clone(), None), "do it", set.config.range)
    };
    let mut refused = refuse(9001, "0.0.0.0/0");
    assert!(refused.extend(refuse(9002, "0.0.0.0/0")) && refused.extend(refuse(9000, "10.1.4.254/32")));
    assert!(!refused.extend(refuse(9001, "0.0.0.0/0")), "the same again is nothing new");
    assert!(refused.covers(&refuse(9002, "10.1.1.0/24")) && !refused.covers(&refuse(9000, "10.1.3.254/32")));
    let without = input(&refused);
    assert_eq!(
        routes_of(&without),
        [
            "default dev egret0 table 9000 proto egret",
            "10.1.2.254 encap ip id 1 src 172.18.0.1 dst 172.18.0.2 via 169.254.128.0 dev egret0 onlink table 9000 proto egret",
            "10.1.3.254 encap ip id 1 src 172.18.0.1 dst 172.18.0.3 via 169.254.128.0 dev egret0 onlink table 9000 proto egret",
            "local 169.254.90.3 dev egret0 table 9000 proto egret",
            "unreachable default table 9001 metric 4278198272 proto egret",
            "unreachable default table 9002 metric 4278198272 proto egret",
        ]
    );
    assert_eq!(whole.desired.rules, without.desired.rules, "their packets end in their tables");
    assert_eq!(elements(&whole, "leaves4"), ["0x00000001 . 10.0.3.42"]);
    assert_eq!(without.desired.nft[&TableFamily::Inet].sets.get("leaves4"), None, "nobody leaves");
    assert_what_refused_parts_mean_is_reported(&without);
}

/// Each part is reported at what it means for packets.
fn assert_what_refused_parts_mean_is_reported(without: &Compiled) {
    let found: Vec<(&str, &str)> = without
        .findings
        .iter()
        .filter(|finding| finding.code == "kernel-refused")
        .map(|finding| (finding.subject.as_str(), finding.message.as_str()))
        .collect();
    assert_eq!(
        found,
        [
            ("n1", "the kernel refuses to do it; replies to that node's pods are dropped"),
            (
                "n1 dev net1",
                "n1's kernel refuses to do it; members' packets are dropped there, and everything else is applied"
            ),
            (
                "n2 dev net1",
                "n1's kernel refuses to do it; members' packets are dropped here, and everything else is applied"
            ),
        ]
    );
}

#[test]
fn an_exit_whose_interface_does_not_forward_is_not_served_on_any_node() {
    let set = set(&[policy("a", "empire", "10.0.4.0/24", "1")], "");
    let facts = facts(&[("t", "empire", "10.1.1.177")]);
    let mut host_network = gateway();
    let node = &facts.nodes[&name("n1")];
    assert_eq!(unfit(&name("n1"), &node.labels, &set, &host_network), BTreeMap::new());
    host_network.forwarding.off4 = BTreeSet::from(["eth0".to_owned()]);
    assert_eq!(
        unfit(&name("n1"), &node.labels, &set, &host_network),
        BTreeMap::new(),
        "another interface's is nothing to it"
    );
    host_network.forwarding.off4 = BTreeSet::from(["net1".to_owned()]);
    let says = unfit(&name("n1"), &node.labels, &set, &host_network);
    assert_eq!(says, [("n1 dev net1".to_owned(), "net.ipv4.conf.net1.forwarding is 0".to_owned())].into());
    assert_eq!(unfit(&name("n2"), &facts.nodes[&name("n2")].labels, &set, &host_network), BTreeMap::new());
    let role =
        compiled(&set, &facts, &host_network, &ExitIds::default()).exits.into_values().next().expect("an exit").role;
    assert!(matches!(role, ExitRole::Own { routes, .. } if routes.is_empty()));

    let now = "2026-06-01T12:00:00Z".parse().expect("a time");
    let reports = crate::core::placement::GatewayReports { held: &facts.held, unfit: &[(name("n1"), says)].into() };
    let placement = crate::core::placement::place_with(&set, &facts, reports, now);
    assert_eq!(placement.exits, BTreeMap::new());
    assert_eq!(
        placement.findings.iter().map(|finding| finding.message.as_str()).collect::<Vec<_>>(),
        [
            "no node that matches gw=1 is fit: n1 does not forward packets for it; members' packets to its destinations are dropped"
        ]
    );
}

/// The plan reads the tables that are compiled here: by the names of their sets, and by where their chains lead.
#[test]
fn the_connections_to_flush_are_read_from_the_tables() {
    let sources = |desired: &Compiled, observed: &Compiled, range| -> Vec<ConntrackFlush> {
        let steps = plan(&desired.desired, &observed.desired, range).steps;
        let of = |step| if let Step::FlushSources(sources) = step { Some(sources) } else { None };
        steps.into_iter().filter_map(of).collect()
    };
    for (destination, pod, outside, inside) in [
        ("0.0.0.0/0", "10.1.1.5", "192.0.2.1", "10.1.2.9"),
        ("2000::/3", "2001:db8:1::5", "2001:db8:4::1", "2001:db8:1::9"),
    ] {
        let config = "podCIDRs: [\"10.1.0.0/16\", \"2001:db8:1::/64\"]";
        let document = policy("a", "empire", destination, "2");
        let (keep, reset) = (
            set(std::slice::from_ref(&document), config),
            set(&[document.replace("spec:\n", "spec:\n  existingConnections: Reset\n")], config),
        );
        let range = keep.config.range;
        let host_network = below(1500);
        let state = |set: &PolicySet, pods: &[(&str, &str, &str)], before: &Compiled| {
            let marks = ExitIds::observed(&before.desired.nft, range);
            compiled(set, &facts(pods), &host_network, &marks)
        };
        let nobody = state(&keep, &[], &Compiled::default());
        let (member, other) = ([("t", "empire", pod)], [("t", "hutt", pod)]);
        let is = |mark, destination: &str, answered| Connection {
            source: pod.parse().expect("an address"),
            destination: destination.parse().expect("an address"),
            mark,
            answered,
            replies_to: pod.parse().expect("an address"),
        };
        let mark = range.mark(1);

        let [comes] = &sources(&state(&keep, &member, &nobody), &nobody, range)[..] else { panic!("one step") };
        assert!(comes.include(&is(0, outside, true)) && !comes.include(&is(mark, outside, true)));
        assert!(comes.include(&is(mark, inside, true)) && !comes.include(&is(0, inside, true)));
        assert_eq!(
            comes.lingers(&is(0, outside, true)),
            range.flushed_mark(),
            "the mark whose packets the table drops"
        );

        let before = state(&keep, &other, &nobody);
        let [moves] = &sources(&state(&keep, &member, &before), &before, range)[..] else { panic!("one step") };
        assert!(moves.include(&is(0, outside, false)) && !moves.include(&is(0, outside, true)));
        assert!(!moves.include(&is(0, inside, false)));

        let before = state(&keep, &member, &nobody);
        let resets = sources(&state(&reset, &member, &before), &before, range);
        assert_eq!(resets.len(), 2, "ahead of the switch and behind it");
        for resets in resets {
            assert!(resets.include(&is(0, outside, true)) && !resets.include(&is(mark, outside, true)));
            assert!(!resets.include(&is(0, inside, true)));
        }

        let [gone] = &sources(&state(&keep, &[], &before), &before, range)[..] else { panic!("one step") };
        assert!(gone.include(&is(0, inside, true)));
    }
}

#[test]
fn no_tunnel_leads_to_this_nodes_own_address_or_to_one_that_two_nodes_claim() {
    let set = set(&[policy("a", "empire", "10.0.4.0/24", "1")], "");
    let mut facts = facts(&[]);
    let addresses = |facts: &mut Facts, of: &str, last: u8| {
        facts.nodes.get_mut(&name(of)).expect(of).addresses = vec![IpAddr::from([172, 18, 0, last])];
    };
    // n2 is a stale object: it has the address of n1, this node, which is its gateway.
    addresses(&mut facts, "n2", 1);
    facts.nodes.get_mut(&name("n2")).expect("n2").ready = false;
    addresses(&mut facts, "n4", 3);
    let compiled = compiled(&set, &facts, &below(1500), &ExitIds::default());
    let tunnels: Vec<&crate::core::state::net::Route> = compiled
        .desired
        .routes
        .values()
        .filter(|route| matches!(route, crate::core::state::net::Route::Via { encap: Some(_), .. }))
        .collect();
    assert_eq!(tunnels, Vec::<&crate::core::state::net::Route>::new());
    let shared: Vec<&str> = compiled
        .findings
        .iter()
        .filter(|finding| finding.code == "node-address-shared")
        .map(|finding| finding.message.as_str())
        .collect();
    let expected = [
        "172.18.0.1 is the InternalIP of n1 and n2; no tunnel leads there",
        "172.18.0.3 is the InternalIP of n3 and n4; no tunnel leads there",
    ];
    assert_eq!(shared, expected);
    assert_eq!(ids(&compiled), [("n1 dev net1".to_owned(), 1)], "the gateway goes on for others");
}

#[test]
fn nothing_is_sent_to_a_gateway_whose_address_is_this_nodes_own() {
    let set = set(&[policy("a", "empire", "10.0.4.0/24", "2")], "");
    let mut host_network = below(1500);
    let second = "172.18.0.2/16".parse().expect("a network");
    host_network.interfaces.get_mut("eth0").expect("eth0").addresses.push(second);
    let compiled = compiled(&set, &facts(&[("t", "empire", "10.1.1.177")]), &host_network, &ExitIds::default());
    assert!(compiled.findings.iter().any(|finding| finding.code == "peer-is-own-address"));
    // Its members' packets end in its table.
    let routes =
        compiled.desired.routes.iter().filter(|(key, _)| key.table == 9001 && key.destination.prefix_len() == 0);
    let routes: Vec<_> = routes.map(|(_, route)| route).collect();
    assert_eq!(routes, [&crate::core::state::net::Route::Unreachable]);
}

#[test]
fn a_router_that_does_not_answer_is_a_finding_only_where_packets_need_it() {
    let facts = facts(&[("a", "x", "10.1.1.7")]);
    let mut host_network = gateway();
    for (destination, router) in [("10.0.3.0/24", None), ("10.9.0.0/16", Some("10.0.3.8"))] {
        host_network.routes.push(HostRoute {
            destination: destination.parse().unwrap(),
            interface: "net1".to_owned(),
            gateway: router.map(|router| router.parse().unwrap()),
            ..HostRoute::default()
        });
    }
    for (hop, resolution) in
        [("10.0.3.254", Resolution::Failed), ("10.0.3.9", Resolution::Asking), ("10.0.3.8", Resolution::Failed)]
    {
        host_network.unresolved.insert(("net1".to_owned(), hop.parse().unwrap()), resolution);
        host_network.unresolved.insert(("eth0".to_owned(), hop.parse().unwrap()), Resolution::Failed);
    }
    let found = |destination: &str, hop: &str| {
        let document =
            policy("p", "x", destination, "1").replace("interface: net1", &format!("interface: net1, nextHop: {hop}"));
        let compiled = compiled(&set(&[document], ""), &facts, &host_network, &ExitIds::default());
        let silent = compiled.findings.iter().filter(|finding| finding.code.starts_with("next-hop-silent"));
        silent.map(|finding| format!("{}: {}", finding.code, finding.message)).collect::<Vec<_>>()
    };
    let silent = "next-hop-silent: 10.0.3.254, the IPv4 next hop on net1, does not answer";
    assert_eq!(found("10.0.4.0/24", "10.0.3.254"), [silent]);
    assert_eq!(found("10.0.4.0/24", "10.0.3.9"), [""; 0], "it was asked a moment ago");
    assert_eq!(found("10.0.4.0/24", "10.0.3.7"), [""; 0], "nothing is known of it");
    assert_eq!(found("10.0.3.128/25", "10.0.3.254"), [""; 0], "the destination is on the link");
    assert_eq!(
        found("10.9.4.0/24", "10.0.3.254"),
        ["next-hop-silent: 10.0.3.8, the IPv4 next hop on net1, does not answer"]
    );
    let in_part =
        "next-hop-silent-in-part: 10.0.3.8, the IPv4 next hop on net1, does not answer: 10.9.0.0/16 is not reached";
    assert_eq!(found("10.0.0.0/8", "10.0.3.7"), [""; 0], "the router of the most of it answers");
    assert_eq!(found("0.0.0.0/0", "10.0.3.254"), [silent], "whatever else is on the link");
    assert_eq!(found("10.9.0.0/16\", \"10.0.4.0/24", "10.0.3.7"), [in_part]);
    assert_eq!(
        found("10.9.0.0/16", "10.0.3.7"),
        [in_part.replace("-in-part", "").replace(": 10.9.0.0/16 is not reached", "")]
    );
}
