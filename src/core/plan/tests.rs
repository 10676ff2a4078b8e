//! Tests of `plan`: whole plans as text, for each way in which a state can change.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::*;
use crate::core::compile::RP_FILTER_BEFORE;
use crate::core::state::net::{Mac, default_metric};
use crate::core::state::nft::{
    AddressFamily, BaseChain, Chain, ChainKind, ChainPolicy, DataType, Field, Hook, KeyType, NftRule, Set, Statement,
    Table, Verdict,
};

const RANGE: DatapathConfig = DatapathConfig { mask: 0x1fff, first: 9000, port: 4790, mtu: 1450 };

fn address(text: &str) -> IpAddr {
    text.parse().expect(text)
}

fn link(port: u16, mtu: u32) -> Link {
    Link { port, mac: Mac::of_node(address("172.18.0.2")), mtu, up: true, external: true }
}

fn neighbour(hop: &str, node: &str) -> Neighbour {
    Neighbour { link: "egret0".to_owned(), address: address(hop), mac: Mac::of_node(address(node)) }
}

fn key(destination: &str, table: u32, metric: u32) -> RouteKey {
    RouteKey { family: AddressFamily::V4, table, destination: destination.parse().expect(destination), metric }
}

fn via(hop: &str) -> Route {
    Route::Via { link: "egret0".to_owned(), gateway: Some(address(hop)), onlink: true, encap: None }
}

fn rule(id: u32) -> RoutingRule {
    RoutingRule {
        family: AddressFamily::V4,
        priority: RANGE.priority(id),
        mark: id,
        mask: RANGE.mask,
        from: None,
        table: 9000 + id,
        odd: None,
    }
}

fn rp_filter(link: &str) -> Sysctl {
    Sysctl { family: AddressFamily::V4, link: link.to_owned(), name: "rp_filter" }
}

/// An exit's chain, as `compile` makes it under a mask.
fn exit(identity: &str, mark: u32, mask: u32) -> Chain {
    let rules = vec![NftRule(vec![Statement::SetMark { field: Field::CtMark, keep: !mask, value: mark }])];
    Chain { base: None, comment: Some(identity.to_owned()), rules }
}

fn map(elements: &[(&str, &str)]) -> Set {
    let elements = elements.iter().map(|(from, chain)| {
        (ElementKey::Address(address(from)), Some(ElementData::Verdict(Verdict::Goto((*chain).to_owned()))))
    });
    Set { key: vec![KeyType::Ipv4Addr], data: Some(DataType::Verdict), interval: false, elements: elements.collect() }
}

fn before(interface: &str, value: u32) -> Set {
    let elements = BTreeMap::from([(ElementKey::Interface(interface.to_owned()), Some(ElementData::Mark(value)))]);
    Set { key: vec![KeyType::Ifname], data: Some(DataType::Mark), interval: false, elements }
}

fn table(chains: &[(&str, Chain)], sets: &[(&str, Set)]) -> Table {
    Table {
        owned: true,
        abandoned: false,
        chains: chains.iter().map(|(name, chain)| ((*name).to_owned(), chain.clone())).collect(),
        sets: sets.iter().map(|(name, set)| ((*name).to_owned(), set.clone())).collect(),
    }
}

fn only_table(table: Table) -> NodeState {
    NodeState { nft: BTreeMap::from([(TableFamily::Inet, table)]), ..NodeState::default() }
}

/// A node with one exit through the tunnel.
fn node(id: u32, hop: &str) -> NodeState {
    let name = format!("exit_{id}");
    NodeState {
        labels: BTreeMap::from([("rack".to_owned(), format!("r{id}"))]),
        links: BTreeMap::from([("egret0".to_owned(), link(4790, 1450))]),
        addresses: BTreeSet::from([InterfaceAddress {
            link: "egret0".to_owned(),
            address: "169.254.90.1/32".parse().expect("an address"),
        }]),
        sysctls: BTreeMap::from([(rp_filter("egret0"), "2".to_owned())]),
        rules: BTreeSet::from([rule(id)]),
        routes: BTreeMap::from([
            (key("0.0.0.0/0", 9000 + id, 0), via(hop)),
            (key("0.0.0.0/0", 9000 + id, 4_278_198_272), Route::Unreachable),
        ]),
        neighbours: BTreeSet::from([neighbour(hop, hop)]),
        nft: BTreeMap::from([(
            TableFamily::Inet,
            table(&[(&name, exit(hop, id, RANGE.mask))], &[("group_of4", map(&[("10.1.1.177", &name)]))]),
        )]),
    }
}

/// The plan's text; also checks that carrying it out leads to `desired`, and that a second plan is empty.
fn text(desired: &NodeState, observed: &NodeState) -> String {
    let plan = plan(desired, observed, RANGE);
    let mut state = observed.clone();
    plan.steps.iter().for_each(|step| simulate::apply(step, &mut state));
    assert_eq!(state, *desired);
    assert_eq!(super::plan(desired, &state, RANGE), Plan::default());
    plan.to_string()
}

#[test]
fn additions_come_before_the_switch_and_deletions_behind_it() {
    assert_eq!(
        text(&node(2, "172.18.0.4"), &node(1, "172.18.0.3")),
        "\
change  label  rack: \"r1\" → \"r2\"
set     neigh  172.18.0.4 dev egret0 lladdr 02:00:ac:12:00:04 nud permanent
add     route  unreachable default table 9002 metric 4278198272 proto egret
add     route  default via 172.18.0.4 dev egret0 onlink table 9002 proto egret
add     rule   502: from all fwmark 0x2/0x1fff lookup 9002 proto egret
flush   conn   mark 0x2/0x1fff
change  nft    inet add chain exit_2 { comment \"172.18.0.4\"; }
change  nft    inet add rule exit_2 ct mark set ct mark & 0xffffe000 | 0x00000002
change  nft    inet delete element group_of4 { 10.1.1.177 : goto exit_1 }
change  nft    inet add element group_of4 { 10.1.1.177 : goto exit_2 }
wait    packet until those in flight have passed
flush   conn   mark 0x1/0x1fff
remove  rule   501: from all fwmark 0x1/0x1fff lookup 9001 proto egret
remove  route  default via 172.18.0.3 dev egret0 onlink table 9001 proto egret
remove  route  unreachable default table 9001 metric 4278198272 proto egret
remove  neigh  172.18.0.3 dev egret0 lladdr 02:00:ac:12:00:03 nud permanent
change  nft    inet flush chain exit_1
change  nft    inet delete chain exit_1
"
    );
}

#[test]
fn the_plan_is_empty_where_the_state_is_reached() {
    assert_eq!(text(&node(1, "172.18.0.3"), &node(1, "172.18.0.3")), "");
}

#[test]
fn an_unused_node_gets_its_original_state_back() {
    assert_eq!(
        text(&NodeState::default(), &node(1, "172.18.0.3")),
        "\
remove  label  rack: \"r1\"
wait    packet until those in flight have passed
flush   conn   mark 0x1/0x1fff
remove  rule   501: from all fwmark 0x1/0x1fff lookup 9001 proto egret
remove  route  default via 172.18.0.3 dev egret0 onlink table 9001 proto egret
remove  route  unreachable default table 9001 metric 4278198272 proto egret
remove  link   egret0
change  nft    inet delete table
"
    );
}

#[test]
fn a_link_that_cannot_be_changed_is_recreated_with_everything_on_it() {
    let desired = node(1, "172.18.0.3");
    let mut observed = desired.clone();
    observed.links.insert("egret0".to_owned(), link(8472, 1450));
    assert_eq!(
        text(&desired, &observed),
        "\
remove  link   egret0
add     link   egret0 type vxlan external dstport 4790 nolearning address 02:00:ac:12:00:02 mtu 1450 down
change  link   egret0 type vxlan external dstport 4790 nolearning address 02:00:ac:12:00:02 mtu 1450 up
set     sysctl net.ipv4.conf.egret0.rp_filter = 2
add     addr   169.254.90.1/32 dev egret0
set     neigh  172.18.0.3 dev egret0 lladdr 02:00:ac:12:00:03 nud permanent
add     route  default via 172.18.0.3 dev egret0 onlink table 9001 proto egret
"
    );
}

#[test]
fn a_device_of_an_older_version_gives_up_the_port_before_the_tunnel_comes_up() {
    let desired = node(1, "172.18.0.3");
    let mut observed = desired.clone();
    observed.links = [("egret7".to_owned(), link(4790, 1450)), ("egret8".to_owned(), link(8472, 1450))].into();
    let steps = text(&desired, &observed);
    let links: Vec<&str> = steps.lines().filter(|line| line.contains(" link ")).collect();
    let expected = [
        "add     link   egret0 type vxlan external dstport 4790 nolearning address 02:00:ac:12:00:02 mtu 1450 down",
        "remove  link   egret7",
        "change  link   egret0 type vxlan external dstport 4790 nolearning address 02:00:ac:12:00:02 mtu 1450 up",
        "remove  link   egret8",
    ];
    assert_eq!(links, expected, "the other one has a port of its own and is removed when it is not used any more");
}

#[test]
fn a_smaller_mtu_is_changed_in_place() {
    let desired = node(1, "172.18.0.3");
    let mut observed = desired.clone();
    observed.links.insert("egret0".to_owned(), link(4790, 1400));
    assert_eq!(
        text(&desired, &observed),
        "change  link   egret0 type vxlan external dstport 4790 nolearning address 02:00:ac:12:00:02 mtu 1450 up\n"
    );
}

#[test]
fn a_neighbour_with_another_mac_address_is_replaced_in_place() {
    let desired = node(1, "172.18.0.3");
    let mut observed = desired.clone();
    observed.neighbours =
        BTreeSet::from([neighbour("172.18.0.3", "172.18.0.9"), neighbour("172.18.0.8", "172.18.0.8")]);
    assert_eq!(
        text(&desired, &observed),
        "\
set     neigh  172.18.0.3 dev egret0 lladdr 02:00:ac:12:00:03 nud permanent
remove  neigh  172.18.0.8 dev egret0 lladdr 02:00:ac:12:00:08 nud permanent
"
    );
}

#[test]
fn a_route_and_a_rule_that_differ_are_corrected() {
    let desired = node(1, "172.18.0.3");
    let mut observed = desired.clone();
    observed.routes.insert(key("0.0.0.0/0", 9001, 0), Route::Unknown("blackhole".to_owned()));
    observed.routes.insert(key("10.9.0.0/16", 9001, default_metric(AddressFamily::V4)), Route::Throw);
    observed.rules = BTreeSet::from([RoutingRule { odd: Some("iif eth0".to_owned()), ..rule(1) }]);
    assert_eq!(
        text(&desired, &observed),
        "\
change  route  default via 172.18.0.3 dev egret0 onlink table 9001 proto egret
add     rule   501: from all fwmark 0x1/0x1fff lookup 9001 proto egret
remove  rule   501: from all fwmark 0x1/0x1fff iif eth0 lookup 9001 proto egret
remove  route  throw 10.9.0.0/16 table 9001 proto egret
"
    );
}

#[test]
fn pods_that_start_stop_or_move_only_change_elements() {
    let (one, two) = (exit("a", 1, RANGE.mask), exit("b", 2, RANGE.mask));
    let state = |elements: &[(&str, &str)]| {
        only_table(table(&[("exit_1", one.clone()), ("exit_2", two.clone())], &[("group_of4", map(elements))]))
    };
    assert_eq!(
        text(
            &state(&[("10.1.1.1", "exit_1"), ("10.1.1.2", "exit_2"), ("10.1.1.3", "exit_1")]),
            &state(&[("10.1.1.1", "exit_1"), ("10.1.1.2", "exit_1"), ("10.1.1.4", "exit_1")])
        ),
        "\
flush   conn   from 10.1.1.3: those of an earlier pod
change  nft    inet delete element group_of4 { 10.1.1.2 : goto exit_1, 10.1.1.4 : goto exit_1 }
change  nft    inet add element group_of4 { 10.1.1.2 : goto exit_2, 10.1.1.3 : goto exit_1 }
wait    packet until those in flight have passed
flush   conn   from 10.1.1.4: all
"
    );
}

#[test]
fn without_tracking_live_connections_are_seen_before_the_first_switch() {
    let base =
        BaseChain { kind: ChainKind::Filter, hook: Hook::Prerouting, priority: -150, policy: ChainPolicy::Accept };
    let steer = Chain { base: Some(base), ..Chain::default() };
    let members = only_table(table(&[("group_a", Chain::default()), ("steer", steer.clone())], &[]));
    let plan_where = |untracked, desired: &NodeState, observed: &NodeState| {
        let plan = plan_with(desired, observed, RANGE, &PlanContext { untracked, ..PlanContext::default() });
        let mut state = observed.clone();
        plan.steps.iter().for_each(|step| simulate::apply(step, &mut state));
        assert_eq!(state, *desired);
        plan.to_string()
    };
    let nothing = NodeState::default();
    assert_eq!(
        plan_where(true, &members, &nothing),
        "\
change  nft    inet add table { flags owner,persist; }
change  nft    inet add chain steer { type filter hook prerouting priority -150; policy accept; }
change  nft    inet add rule steer ct state new accept
wait    conn   until live ones are seen
change  nft    inet add chain group_a
change  nft    inet flush chain steer
"
    );
    for (untracked, desired, observed) in [
        (false, &members, &nothing),
        // No pod is steered here.
        (true, &only_table(table(&[("steer", steer.clone())], &[])), &nothing),
        // An existing table has already enabled connection tracking.
        (true, &members, &only_table(table(&[("steer", steer)], &[]))),
    ] {
        assert!(!plan_where(untracked, desired, observed).contains("wait"));
    }
}

#[test]
fn a_table_of_another_shape_is_replaced_in_one_transaction() {
    let desired = only_table(table(&[("exit_1", exit("a", 1, RANGE.mask))], &[("group_of4", map(&[]))]));
    let interval = Set { interval: true, ..map(&[]) };
    let observed = only_table(table(&[("exit_1", exit("a", 1, RANGE.mask))], &[("group_of4", interval)]));
    let plan = plan(&desired, &observed, RANGE);
    assert_eq!(plan.steps.len(), 1, "one transaction: at no time is there no table");
    assert_eq!(
        text(&desired, &observed),
        "\
change  nft    inet delete table
change  nft    inet add table { flags owner,persist; }
change  nft    inet add map group_of4 { type ipv4_addr : verdict; }
change  nft    inet add chain exit_1 { comment \"a\"; }
change  nft    inet add rule exit_1 ct mark set ct mark & 0xffffe000 | 0x00000001
"
    );
}

/// Until the switch the old exit's chain still sets the mark, so only a flush behind it lasts.
#[test]
fn a_reassigned_mark_replaces_the_table_and_flushes_its_connections() {
    let desired = only_table(table(&[("exit_1", exit("b", 1, RANGE.mask))], &[]));
    let observed = only_table(table(&[("exit_1", exit("a", 1, RANGE.mask))], &[]));
    assert_eq!(
        text(&desired, &observed),
        "\
flush   conn   mark 0x1/0x1fff
change  nft    inet delete table
change  nft    inet add table { flags owner,persist; }
change  nft    inet add chain exit_1 { comment \"b\"; }
change  nft    inet add rule exit_1 ct mark set ct mark & 0xffffe000 | 0x00000001
wait    packet until those in flight have passed
flush   conn   mark 0x1/0x1fff
"
    );
}

#[test]
fn connections_with_a_mark_of_another_mask_are_flushed_behind_the_switch() {
    let desired = only_table(table(&[("exit_1", exit("a", 1, RANGE.mask))], &[]));
    let observed = only_table(table(&[("exit_1", exit("a", 0x0001_0000, 0x00ff_0000))], &[]));
    assert_eq!(
        text(&desired, &observed),
        "\
change  nft    inet flush chain exit_1
change  nft    inet add rule exit_1 ct mark set ct mark & 0xffffe000 | 0x00000001
wait    packet until those in flight have passed
flush   conn   mark 0x10000/0xff0000
"
    );
}

#[test]
fn an_abandoned_table_is_taken_over() {
    let desired = only_table(table(&[], &[("group_of4", map(&[]))]));
    let observed = only_table(Table { owned: false, abandoned: true, ..table(&[], &[("group_of4", map(&[]))]) });
    assert_eq!(text(&desired, &observed), "change  nft    inet add table { flags owner,persist; }\n");
}

/// The kernel refuses both in one transaction (tests/it/kernel_nft.rs).
#[test]
fn an_abandoned_table_is_taken_over_before_base_chains_are_added_to_it() {
    let base = BaseChain { kind: ChainKind::Filter, hook: Hook::Input, priority: 97, policy: ChainPolicy::Accept };
    let remember = Chain { base: Some(base), ..Chain::default() };
    let desired = only_table(table(&[("remember", remember)], &[]));
    let observed = only_table(Table { owned: false, abandoned: true, ..table(&[], &[]) });
    let plan = plan(&desired, &observed, RANGE);
    assert_eq!(plan.steps.len(), 2, "two transactions");
    assert_eq!(
        text(&desired, &observed),
        "\
change  nft    inet add table { flags owner,persist; }
change  nft    inet add chain remember { type filter hook input priority 97; policy accept; }
"
    );
}

#[test]
fn an_abandoned_ingress_table_without_its_chain_is_replaced_before_the_device_comes_up() {
    let base = BaseChain {
        kind: ChainKind::Filter,
        hook: Hook::Ingress("egret0".to_owned()),
        priority: 0,
        policy: ChainPolicy::Drop,
    };
    let arrive = Chain { base: Some(base), ..Chain::default() };
    let mut desired = node(1, "172.18.0.3");
    desired.nft.insert(TableFamily::Netdev, table(&[("arrive", arrive)], &[]));
    let mut observed = desired.clone();
    observed.links.clear();
    observed.nft.insert(TableFamily::Netdev, Table { owned: false, abandoned: true, ..table(&[], &[]) });
    let steps = text(&desired, &observed);
    let found: Vec<&str> = steps.lines().skip_while(|line| !line.contains("nft")).take(4).collect();
    let expected = [
        "change  nft    netdev delete table",
        "change  nft    netdev add table { flags owner,persist; }",
        "change  nft    netdev add chain arrive { type filter hook ingress device \"egret0\" priority 0; policy drop; }",
        "change  link   egret0 type vxlan external dstport 4790 nolearning address 02:00:ac:12:00:02 mtu 1450 up",
    ];
    assert_eq!(found, expected, "{steps}");
}

#[test]
fn a_table_that_was_never_owned_is_replaced_in_one_transaction() {
    let desired = only_table(table(&[], &[("group_of4", map(&[]))]));
    let observed = only_table(Table { owned: false, ..table(&[], &[("group_of4", map(&[]))]) });
    let plan = plan(&desired, &observed, RANGE);
    assert_eq!(plan.steps.len(), 1, "one transaction: at no time is there no table");
    assert_eq!(
        text(&desired, &observed),
        "\
change  nft    inet delete table
change  nft    inet add table { flags owner,persist; }
change  nft    inet add map group_of4 { type ipv4_addr : verdict; }
"
    );
}

#[test]
fn chains_are_filled_before_anything_leads_to_them_and_emptied_before_they_go() {
    let base =
        BaseChain { kind: ChainKind::Filter, hook: Hook::Prerouting, priority: -150, policy: ChainPolicy::Accept };
    let steer = |to: &str| {
        let rules = vec![NftRule(vec![Statement::Verdict(Verdict::Goto(to.to_owned()))])];
        Chain { base: Some(base.clone()), comment: None, rules }
    };
    let last = Chain { rules: vec![NftRule(vec![Statement::Verdict(Verdict::Drop)])], ..Chain::default() };
    assert_eq!(
        text(
            &only_table(table(&[("new", last.clone()), ("steer", steer("new"))], &[])),
            &only_table(table(&[("old", last), ("steer", steer("old"))], &[]))
        ),
        "\
change  nft    inet add chain new
change  nft    inet add rule new drop
change  nft    inet flush chain steer
change  nft    inet add rule steer goto new
wait    packet until those in flight have passed
change  nft    inet flush chain old
change  nft    inet delete chain old
"
    );
}

#[test]
fn a_filters_original_value_is_recorded_before_it_is_loosened() {
    let desired = NodeState {
        sysctls: BTreeMap::from([(rp_filter("net1"), "2".to_owned())]),
        ..only_table(table(&[("exit_1", exit("a", 1, RANGE.mask))], &[(RP_FILTER_BEFORE, before("net1", 1))]))
    };
    assert_eq!(
        text(&desired, &NodeState::default()),
        "\
change  nft    inet add table { flags owner,persist; }
change  nft    inet add map rp_filter_before { type ifname : mark; }
change  nft    inet add element rp_filter_before { \"net1\" : 0x00000001 }
set     sysctl net.ipv4.conf.net1.rp_filter = 2
flush   conn   mark 0x1/0x1fff
change  nft    inet add chain exit_1 { comment \"a\"; }
change  nft    inet add rule exit_1 ct mark set ct mark & 0xffffe000 | 0x00000001
"
    );
}

#[test]
fn a_filter_is_restored_before_its_record_is_deleted() {
    let observed = NodeState {
        sysctls: BTreeMap::from([(rp_filter("net1"), "2".to_owned())]),
        ..only_table(table(&[], &[(RP_FILTER_BEFORE, before("net1", 1))]))
    };
    assert_eq!(
        text(&NodeState::default(), &observed),
        "\
change  sysctl net.ipv4.conf.net1.rp_filter: 2 → 1
wait    packet until those in flight have passed
change  nft    inet delete table
"
    );
}
