//! The gateway's egress address leaves, moves, comes back: it is followed at once, and while it is nowhere, members are dropped.
//!
//! Deliberately absent: a gateway that is gone as a whole (`claims`).

use std::net::IpAddr;

use super::stand::{DEADLINE, Document, HELD_BACK, Outcome, Stand, labels};
use crate::lab::{Answer, EGRESS, EGRESS6, EXCLUDED, LabError, LongConnection, OUTPOST, OUTPOST6, Options, wait_until};

/// Runs `ip` on the gateway.
fn ip(stand: &Stand, words: &str) -> Outcome {
    stand.lab.node("kind-worker2")?.exec(["ip"].into_iter().chain(words.split(' '))).map(|_| ())
}

fn moved_to() -> IpAddr {
    IpAddr::from([10, 0, 3, 52])
}

/// Waits until the gateway's report says that the address is missing, or that it is not.
fn await_finding(stand: &Stand, missing: bool) {
    stand.await_report("kind-worker2", "whether the egress address is there", |report| {
        report.findings.iter().any(|since| since.finding.code == "egress-address-missing") == missing
    });
}

#[test]
fn the_address_of_an_interface_is_followed_and_without_one_members_are_dropped() -> Outcome {
    let stand = Stand::applied(Options { rp_filter: 1, ..Options::default() })?;
    stand.lab.outpost().allow([EGRESS, EGRESS6, moved_to()]);
    // A flow that goes on keeps its entry alive, and with it the translation that it began with.
    let mut flow = stand.lab.long_datagrams("tiefighter", OUTPOST)?;
    assert_eq!(flow.echo()?, EGRESS);
    ip(&stand, "address del 10.0.3.42/24 dev net1")?;
    await_finding(&stand, true);
    assert_eq!(stand.lab.ask_within("tiefighter", OUTPOST, HELD_BACK)?, Answer::NoAnswer);
    stand.await_answer("tiefighter", OUTPOST6, Answer::Granted(EGRESS6))?;
    stand.assert_no_leak_but(&[])?;
    ip(&stand, "address add 10.0.3.52/24 dev net1")?;
    stand.await_answer("tiefighter", OUTPOST, Answer::Granted(moved_to()))?;
    await_finding(&stand, false);
    let follows = |flow: &mut LongConnection, to| wait_until(DEADLINE, || flow.echo().is_ok_and(|seen| seen == to));
    assert!(follows(&mut flow, moved_to()), "a flow gets the new address");
    // In this order: with the first address of a network the kernel takes its others away, too.
    ip(&stand, "address del 10.0.3.52/24 dev net1")?;
    ip(&stand, "address add 10.0.3.42/24 dev net1")?;
    stand.await_granted("tiefighter")?;
    stand.await_settled()?;
    stand.await_granted("tiefighter")?;
    assert!(follows(&mut flow, EGRESS), "and the old one again");
    stand.assert_no_leak_but(&[moved_to()])
}

#[test]
fn a_named_address_is_followed_from_one_interface_to_another() -> Outcome {
    let stand = Stand::up(Options::default())?;
    let egress = "nodeSelector: {matchLabels: {egress-gw: \"true\"}}, egressIP: 10.0.3.42".to_owned();
    let document = Document { egress, ..Document::default() }.text().replace(", \"fd00:10:4::/64\"", "");
    stand.lab.repository().write("nodes/gateways.yaml", &labels("kind-worker2"))?;
    stand.push("policies/outpost.yaml", &document.replace(", \"fd00:10:4::99/128\"", ""))?;
    stand.await_answer("tiefighter", OUTPOST, Answer::Granted(EGRESS))?;
    stand.lab.forget()?;
    // net2 is on the same network: the router finds the address behind it.
    let (router, gateway) = (stand.lab.router(), stand.lab.node("kind-worker2")?);
    router.exec(["ip", "link", "add", "n-second", "type", "veth", "peer", "name", "net2", "netns", gateway.name()])?;
    router.exec(["ip", "link", "set", "n-second", "master", "br1", "up"])?;
    ip(&stand, "link set net2 up")?;
    let turns: [(&str, &str); 2] = [("net1", "net2"), ("net2", "net1")];
    for (from, to) in turns {
        ip(&stand, &format!("address del 10.0.3.42/24 dev {from}"))?;
        await_finding(&stand, true);
        assert_eq!(stand.lab.ask_within("tiefighter", OUTPOST, HELD_BACK)?, Answer::NoAnswer);
        ip(&stand, &format!("address add 10.0.3.42/24 dev {to}"))?;
        await_finding(&stand, false);
        forget_neighbour(&router)?;
        stand.await_answer("tiefighter", OUTPOST, Answer::Granted(EGRESS))?;
        stand.await_settled()?;
    }
    stand.assert_no_leak_but(&[])
}

/// The router has learned behind which MAC the address was; who moves an address announces it, which `ip address add` does not.
fn forget_neighbour(router: &crate::lab::Namespace) -> Result<(), LabError> {
    router.exec(["ip", "neigh", "flush", "dev", "br1"]).map(|_| ())
}

/// The policy with another gateway, for IPv4 alone.
fn only_v4(egress: &str) -> String {
    let egress = format!("nodeSelector: {{matchLabels: {{egress-gw: \"true\"}}}}, {egress}");
    let text = Document { egress, ..Document::default() }.text();
    text.replace(", \"fd00:10:4::/64\"", "").replace(", \"fd00:10:4::99/128\"", "")
}

fn push_only_v4(stand: &Stand, egress: &str) -> Outcome {
    stand.lab.repository().write("nodes/gateways.yaml", &labels("kind-worker2"))?;
    stand.push("policies/outpost.yaml", &only_v4(egress))
}

/// Waits until the gateway's report has a finding, or has it no more.
fn await_code(stand: &Stand, code: &str, there: bool) {
    stand.await_report("kind-worker2", code, |report| {
        report.findings.iter().any(|since| since.finding.code == code) == there
    });
}

#[test]
fn a_vip_is_used_by_its_name_and_does_not_become_the_interfaces_own() -> Outcome {
    let stand = Stand::applied(Options::default())?;
    stand.lab.outpost().allow([EGRESS, EGRESS6, moved_to()]);
    // As kube-vip, keepalived and people add them: the newest is listed first in IPv6.
    for address in ["10.0.3.52/32 dev net1 preferred_lft 0", "10.0.3.53/24 dev net1", "fd00:10:3::52/64 dev net1 nodad"]
    {
        ip(&stand, &format!("address add {address}"))?;
    }
    ip(&stand, "address add fd00:10:3::53/128 dev net1 nodad")?;
    stand.await_settled()?;
    stand.await_granted("tiefighter")?;
    push_only_v4(&stand, "egressIP: 10.0.3.52")?;
    stand.await_answer("tiefighter", OUTPOST, Answer::Granted(moved_to()))?;
    await_code(&stand, "next-hop-assumed", true);
    stand.await_settled()?;
    stand.assert_no_leak_but(&[moved_to()])
}

#[test]
fn an_interface_that_goes_down_takes_its_own_exit_out_of_force_and_nothing_else() -> Outcome {
    let stand = Stand::up(Options::default())?;
    push_only_v4(&stand, "interface: net1")?;
    let other =
        only_v4("interface: eth0").replace("name: outpost", "name: other").replace("org: empire", "org: alliance");
    stand.push("policies/other.yaml", &other)?;
    stand.await_answer("tiefighter", OUTPOST, Answer::Granted(EGRESS))?;
    let eth0 = stand.lab.nodes()[1].addresses()[0];
    stand.await_answer("xwing", OUTPOST, Answer::Denied(eth0))?;
    stand.lab.forget()?;
    let router = stand.lab.router();
    #[expect(clippy::type_complexity, reason = "a table of cases")]
    let turns: [(&str, &dyn Fn(&str) -> Outcome); 2] = [
        ("interface-down", &|state: &str| ip(&stand, &format!("link set net1 {state}"))),
        ("no-carrier", &|state: &str| router.exec(["ip", "link", "set", "n-kind-worker2", state]).map(|_| ())),
    ];
    for (code, set) in turns {
        set("down")?;
        await_code(&stand, code, true);
        assert_eq!(stand.lab.ask_within("tiefighter", OUTPOST, HELD_BACK)?, Answer::NoAnswer);
        // Whatever else is asked for becomes active.
        stand.push("policies/other.yaml", &other.replace("10.0.4.99/32", "10.0.4.98/32"))?;
        stand.await_answer("xwing", EXCLUDED, Answer::Denied(eth0))?;
        stand.push("policies/other.yaml", &other)?;
        stand.await_settled()?;
        set("up")?;
        await_code(&stand, code, false);
        stand.await_answer("tiefighter", OUTPOST, Answer::Granted(EGRESS))?;
    }
    ip(&stand, "link set net1 down")?;
    ip(&stand, "link set net1 name enp3s0")?;
    ip(&stand, "link set enp3s0 up")?;
    await_finding(&stand, true);
    // A name that it had is as good.
    ip(&stand, "link property add dev enp3s0 altname net1")?;
    stand.await_answer("tiefighter", OUTPOST, Answer::Granted(EGRESS))?;
    await_code(&stand, "interface-renamed", true);
    let own = stand.lab.pod_addresses("xwing")?;
    stand.assert_no_leak_but(&[&[eth0][..], own.as_slice()].concat())
}

#[test]
fn a_next_hop_that_the_kernel_would_refuse_stops_nothing_else() -> Outcome {
    let stand = Stand::up(Options::default())?;
    ip(&stand, "address add 10.0.3.52/24 dev net1")?;
    let text = |hop: &str| {
        let text = only_v4("interface: net1");
        text.replace("annotations: {}", &format!("annotations: {{egret.dev/next-hop: {hop}}}"))
    };
    stand.lab.repository().write("nodes/gateways.yaml", &labels("kind-worker2"))?;
    stand.push("policies/outpost.yaml", &text("10.0.3.1"))?;
    stand.await_answer("tiefighter", OUTPOST, Answer::Granted(EGRESS))?;
    stand.lab.forget()?;
    for hop in ["10.0.3.255", "10.0.3.52", "10.0.3.0", "172.18.0.255"] {
        stand.push("policies/outpost.yaml", &text(hop))?;
        await_code(&stand, "bad-next-hop", true);
        assert_eq!(stand.lab.ask_within("tiefighter", OUTPOST, HELD_BACK)?, Answer::NoAnswer, "{hop}");
        stand.await_settled()?;
        stand.push("policies/outpost.yaml", &text("10.0.3.1"))?;
        stand.await_answer("tiefighter", OUTPOST, Answer::Granted(EGRESS))?;
        await_code(&stand, "bad-next-hop", false);
    }
    stand.assert_no_leak_but(&[])
}

#[test]
fn an_address_goes_by_the_table_that_a_rule_names_for_it() -> Outcome {
    let stand = Stand::up(Options::default())?;
    push_only_v4(&stand, "interface: net1")?;
    stand.await_answer("tiefighter", OUTPOST, Answer::Granted(EGRESS))?;
    stand.lab.forget()?;
    await_code(&stand, "next-hop-assumed", true);
    ip(&stand, "route add default via 10.0.3.1 dev net1 table 77")?;
    ip(&stand, "rule add from 10.0.3.42 lookup 77")?;
    await_code(&stand, "next-hop-assumed", false);
    stand.await_settled()?;
    stand.await_answer("tiefighter", OUTPOST, Answer::Granted(EGRESS))?;
    // Into nowhere: packets follow the table, whatever would be assumed without it.
    ip(&stand, "route replace default via 10.0.3.200 dev net1 table 77")?;
    stand.await_answer("tiefighter", OUTPOST, Answer::NoAnswer)?;
    ip(&stand, "rule del from 10.0.3.42 lookup 77")?;
    stand.await_answer("tiefighter", OUTPOST, Answer::Granted(EGRESS))?;
    await_code(&stand, "next-hop-assumed", true);
    stand.assert_no_leak_but(&[])
}

#[test]
fn an_address_on_lo_leaves_by_the_nodes_own_routes() -> Outcome {
    let stand = Stand::up(Options::default())?;
    let vip = IpAddr::from([192, 0, 2, 52]);
    stand.lab.outpost().allow([vip]);
    ip(&stand, "address add 192.0.2.52/32 dev lo")?;
    // As a router that speaks BGP with the node.
    stand.lab.router().exec(["ip", "route", "add", "192.0.2.52", "via", "172.18.0.3"])?;
    push_only_v4(&stand, "egressIP: 192.0.2.52")?;
    stand.await_answer("tiefighter", OUTPOST, Answer::Granted(vip))?;
    stand.lab.forget()?;
    // Several next hops: one of those that are alive is taken.
    ip(&stand, "route replace default nexthop via 172.18.0.1 dev eth0 nexthop via 10.0.3.1 dev net1 weight 5")?;
    stand.await_settled()?;
    stand.await_answer("tiefighter", OUTPOST, Answer::Granted(vip))?;
    stand.assert_no_leak_but(&[vip])
}

#[test]
fn of_two_interfaces_with_one_address_the_one_with_carrier_is_taken() -> Outcome {
    let stand = Stand::up(Options::default())?;
    push_only_v4(&stand, "egressIP: 10.0.3.42")?;
    stand.await_answer("tiefighter", OUTPOST, Answer::Granted(EGRESS))?;
    stand.lab.forget()?;
    ip(&stand, "link add a-dead type veth peer name a-peer")?;
    ip(&stand, "address add 10.0.3.42/32 dev a-dead")?;
    ip(&stand, "link set a-dead up")?;
    await_code(&stand, "egress-address-twice", true);
    stand.await_settled()?;
    stand.await_answer("tiefighter", OUTPOST, Answer::Granted(EGRESS))?;
    stand.assert_no_leak_but(&[])
}
