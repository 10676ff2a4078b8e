//! Egress addresses that Egret puts on interfaces and moves: one holder at a time, nobody takes what another host has, and members keep
//! the address and their connections when its holder dies.
//!
//! Not here: when a node takes or gives an address (`core::assignment::holding`), and addresses that others move (`failover`).

use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::stand::{DEADLINE, Outcome, Stand, labels, print_figures};
use crate::lab::{Answer, Hammer, LabError, LongConnection, OUTPOST, OUTPOST6, Options, wait_until};

const GATEWAY: &str = "kind-worker2";
const STANDBY: &str = "kind-worker3";
const ADDRESS: &str = "10.0.3.100";
const ADDRESS6: &str = "fd00:10:3::100";

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// A policy that assigns both addresses, to the first of the gateways.
fn policy(assign: &str) -> String {
    let entry = |address: &str| {
        format!(
            "  - {{nodeSelector: {{matchLabels: {{egress-gw: \"true\"}}}}, egressIP: \"{address}\", assign: {assign}}}\n"
        )
    };
    let one = |name: &str, address: &str, destination: &str| {
        format!(
            "apiVersion: egret.dev/v1alpha1
kind: EgressPolicy
metadata: {{name: {name}}}
spec:
  selectors:
  - podSelector: {{matchLabels: {{org: empire, io.kubernetes.pod.namespace: batuu}}}}
  destinationCIDRs: [\"{destination}\"]
  egressGateways:
{}",
            entry(address)
        )
    };
    format!("{}---\n{}", one("outpost", ADDRESS, "10.0.4.0/24"), one("outpost6", ADDRESS6, "fd00:10:4::/64"))
}

fn with_assigned(gateways: u8, assign: &str) -> Outcome<Stand> {
    let stand = Stand::up(Options { gateways, ..Options::default() })?;
    stand.lab.outpost().allow([ip(ADDRESS), ip(ADDRESS6)]);
    // The first gateway has the addresses before there is another: on a slow machine the other may be first.
    let policy = policy(assign);
    let first = labels(GATEWAY);
    let files = [("nodes/gateways.yaml", first.as_str()), ("policies/outpost.yaml", policy.as_str())];
    stand.push_saying("addresses that Egret assigns", &files)?;
    stand.await_answer("tiefighter", OUTPOST, Answer::Granted(ip(ADDRESS)))?;
    stand.await_answer("tiefighter", OUTPOST6, Answer::Granted(ip(ADDRESS6)))?;
    let nodes: Vec<String> = (2..2 + gateways).map(|node| format!("kind-worker{node}")).collect();
    if gateways > 1 {
        stand.push("nodes/gateways.yaml", &labels(&nodes.join(", ")))?;
    }
    stand.await_settled()?;
    // A new holder keeps an address for a second, whoever asks for it.
    std::thread::sleep(Duration::from_millis(1500));
    stand.lab.forget()?;
    Ok(stand)
}

/// Whether a node has an address, by iproute2's word.
fn has(stand: &Stand, node: &str, address: &str) -> Outcome<bool> {
    let listed = stand.lab.node(node)?.exec(["ip", "-o", "address", "show", "to", address])?;
    Ok(!listed.trim().is_empty())
}

fn await_holder(stand: &Stand, node: &str) {
    for address in [ADDRESS, ADDRESS6] {
        await_holder_of(stand, node, address);
    }
}

fn await_holder_of(stand: &Stand, node: &str, address: &str) {
    let holds = || has(stand, node, address).unwrap_or(false);
    assert!(wait_until(DEADLINE, holds), "{node} has no {address}\n{}", stand.log(node));
}

fn first_good(hammer: &Hammer, since: Instant) -> Option<Duration> {
    let good =
        hammer.requests().into_iter().filter(|one| one.begun >= since && matches!(one.answer, Answer::Granted(_)));
    good.map(|request| (request.begun + request.took).duration_since(since)).min()
}

fn connections(stand: &Stand) -> Result<Vec<LongConnection>, LabError> {
    let mut all = Vec::new();
    for _ in 0..10 {
        for address in [OUTPOST, OUTPOST6] {
            all.push(stand.lab.long_connection("tiefighter", address)?);
            all.push(stand.lab.long_datagrams("tiefighter", address)?);
        }
    }
    for connection in &mut all {
        connection.echo()?;
    }
    Ok(all)
}

fn assert_alive(connections: &mut [LongConnection]) {
    let expected = [ADDRESS, ADDRESS, ADDRESS6, ADDRESS6].map(ip);
    for (place, connection) in connections.iter_mut().enumerate() {
        assert_eq!(connection.echo().ok(), Some(expected[place % 4]), "connection {place}");
    }
}

/// The holder dies; the standby takes its addresses, and everything goes on.
fn moves(kind: &str, die: impl FnOnce(&mut Stand) -> Outcome) -> Outcome<Stand> {
    let mut stand = with_assigned(2, "true")?;
    let mut alive = connections(&stand)?;
    let patience = Duration::from_millis(40);
    let hammers = [
        stand.lab.hasty_hammer("tiefighter", OUTPOST, patience)?,
        stand.lab.hasty_hammer("tiefighter", OUTPOST6, patience)?,
    ];
    die(&mut stand)?;
    // Until then the holder may have answered.
    let dead = Instant::now();
    await_holder(&stand, STANDBY);
    let answered = || hammers.iter().all(|hammer| first_good(hammer, dead).is_some());
    assert!(wait_until(DEADLINE, answered), "{kind}\n{}\n{}", stand.log("kind-worker"), stand.log(STANDBY));
    let took = hammers.iter().filter_map(|hammer| first_good(hammer, dead)).collect();
    print_figures(&format!("{kind}: from death to the first request with the same address"), took);
    assert_alive(&mut alive);
    for hammer in hammers {
        let wrong: Vec<_> = hammer.stop().into_iter().filter(|one| matches!(one.answer, Answer::Denied(_))).collect();
        assert_eq!(wrong, [], "{kind}");
    }
    stand.assert_no_leak_but(&[ip(ADDRESS), ip(ADDRESS6)])?;
    Ok(stand)
}

#[test]
fn an_address_whose_holder_has_no_power_moves_and_connections_live_on() -> Outcome {
    moves("power", |stand| {
        stand.kill9(GATEWAY)?;
        stand.lab.node(GATEWAY)?.ip_batch("link set eth0 down\nlink set net1 down\n")
    })
    .map(drop)
}

#[test]
fn an_address_whose_holder_loses_its_egress_interface_moves_and_stays_where_it_is() -> Outcome {
    let stand = moves("egress interface", |stand| stand.lab.node(GATEWAY)?.ip_batch("link set net1 down\n"))?;
    let gone = || [ADDRESS, ADDRESS6].iter().all(|address| !has(&stand, GATEWAY, address).unwrap_or(true));
    assert!(wait_until(DEADLINE, gone), "a node without carrier gives the address away");
    stand.lab.node(GATEWAY)?.ip_batch("link set net1 up\n")?;
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(12) {
        let logs = [GATEWAY, STANDBY, "kind-worker"].map(|node| stand.log(node)).join("\n");
        assert!(!has(&stand, GATEWAY, ADDRESS)?, "it looks first, and gives way\n{logs}");
        std::thread::sleep(Duration::from_millis(200));
    }
    await_holder(&stand, STANDBY);
    Ok(())
}

#[test]
fn an_address_whose_holder_no_source_reaches_moves_though_it_still_has_its_link() -> Outcome {
    moves("link to the nodes", |stand| stand.lab.node(GATEWAY)?.ip_batch("link set eth0 down\n")).map(drop)
}

#[test]
fn a_holder_that_is_cordoned_hands_its_addresses_over_without_a_lost_request() -> Outcome {
    let stand = with_assigned(2, "true")?;
    let mut alive = connections(&stand)?;
    // A first packet that is lost on the way is sent again after a second (RFC 6298, 2.1).
    let patience = Duration::from_secs(4);
    let hammers = [
        stand.lab.hasty_hammer("tiefighter", OUTPOST, patience)?,
        stand.lab.hasty_hammer("tiefighter", OUTPOST6, patience)?,
    ];
    stand.lab.cordon(GATEWAY)?;
    await_holder(&stand, STANDBY);
    assert_alive(&mut alive);
    std::thread::sleep(Duration::from_secs(5));
    for hammer in hammers {
        let requests = hammer.stop();
        let lost: Vec<_> = requests.iter().filter(|request| !matches!(request.answer, Answer::Granted(_))).collect();
        assert_eq!(lost, Vec::<&crate::lab::Request>::new(), "of {} requests", requests.len());
    }
    assert_alive(&mut alive);
    stand.assert_no_leak_but(&[ip(ADDRESS), ip(ADDRESS6)])
}

#[test]
fn egret_that_is_killed_on_the_holder_moves_nothing_and_the_next_process_takes_the_address_back() -> Outcome {
    let mut stand = with_assigned(2, "true")?;
    let hammer = stand.lab.hammer("tiefighter", OUTPOST)?;
    for _ in 0..2 {
        stand.kill9(GATEWAY)?;
        std::thread::sleep(Duration::from_secs(2));
        stand.start(GATEWAY)?;
        stand.await_settled()?;
    }
    assert!(has(&stand, GATEWAY, ADDRESS)? && !has(&stand, STANDBY, ADDRESS)?);
    let (code, plan) = stand.plan(GATEWAY)?;
    assert_eq!(code, Some(0), "nothing is to do: {plan}");
    let requests = hammer.stop();
    let other: Vec<_> = requests.iter().filter(|one| one.answer != Answer::Granted(ip(ADDRESS))).collect();
    assert_eq!(other, Vec::<&crate::lab::Request>::new(), "of {} requests\n{}", requests.len(), stand.logs());
    Ok(())
}

#[test]
fn an_address_returns_where_the_policy_says_so() -> Outcome {
    let mut stand = with_assigned(2, "{failback: true}")?;
    let mut alive = connections(&stand)?;
    stand.kill9(GATEWAY)?;
    stand.lab.node(GATEWAY)?.ip_batch("link set eth0 down\nlink set net1 down\n")?;
    await_holder(&stand, STANDBY);
    // As after a reboot; the kernel has taken the IPv6 addresses away with the link.
    stand.lab.node(GATEWAY)?.ip_batch(
        "address del 10.0.3.100/32 dev net1\nlink set eth0 up\nlink set net1 up\nroute replace default via 172.18.0.1\n\
         address add fd00:10:3::42/64 dev net1 nodad\n",
    )?;
    stand.start(GATEWAY)?;
    await_holder(&stand, GATEWAY);
    let given = || [ADDRESS, ADDRESS6].iter().all(|address| !has(&stand, STANDBY, address).unwrap_or(true));
    assert!(wait_until(DEADLINE, given));
    assert_alive(&mut alive);
    Ok(())
}

#[test]
fn an_address_that_another_host_has_is_not_taken_and_the_report_names_the_host() -> Outcome {
    let stand = Stand::up(Options { gateways: 2, ..Options::default() })?;
    stand.lab.outpost().allow([ip(ADDRESS), ip(ADDRESS6)]);
    stand.lab.router().ip_batch(&format!("address add {ADDRESS}/32 dev br1\n"))?;
    let (labels, policy) = (labels("kind-worker2, kind-worker3"), policy("true"));
    let files = [("nodes/gateways.yaml", labels.as_str()), ("policies/outpost.yaml", policy.as_str())];
    stand.push_saying("an address that is taken", &files)?;
    let link = stand.lab.router().exec(["ip", "-o", "link", "show", "dev", "br1"])?;
    let mac = link.split_whitespace().skip_while(|word| *word != "link/ether").nth(1).unwrap_or_default().to_owned();
    stand.await_report(GATEWAY, "the conflict", |report| {
        report.findings.iter().any(|one| one.finding.code == "address-conflict" && one.finding.message.contains(&mac))
    });
    assert!(!has(&stand, GATEWAY, ADDRESS)? && !has(&stand, STANDBY, ADDRESS)?);
    assert_eq!(stand.lab.ask("tiefighter", OUTPOST)?, Answer::NoAnswer, "dropped, not leaked");
    // The other host gives it up.
    stand.lab.router().ip_batch(&format!("address del {ADDRESS}/32 dev br1\n"))?;
    stand.await_answer("tiefighter", OUTPOST, Answer::Granted(ip(ADDRESS)))
}

#[test]
fn an_address_goes_with_its_policy_and_others_on_the_interface_stay() -> Outcome {
    let stand = with_assigned(1, "true")?;
    let listed = |stand: &Stand| stand.lab.node(GATEWAY)?.exec(["ip", "-o", "address", "show", "dev", "net1"]);
    assert!(listed(&stand)?.contains("10.0.3.100/32"), "{}", listed(&stand)?);
    // Somebody takes it away, and adds one of his own.
    stand.lab.node(GATEWAY)?.ip_batch("address del 10.0.3.100/32 dev net1\naddress add 10.0.3.77/32 dev net1\n")?;
    assert!(wait_until(DEADLINE, || has(&stand, GATEWAY, ADDRESS).unwrap_or(false)), "drift is corrected");
    stand.push_saying("no policies", &[("policies/outpost.yaml", "# none\n")])?;
    let gone = || [ADDRESS, ADDRESS6].iter().all(|address| !has(&stand, GATEWAY, address).unwrap_or(true));
    assert!(wait_until(DEADLINE, gone), "{}", listed(&stand)?);
    let left = listed(&stand)?;
    assert!(left.contains("10.0.3.42/24") && left.contains("10.0.3.77/32"), "{left}");
    Ok(())
}
