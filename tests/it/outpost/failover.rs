//! A gateway dies in one of many ways while members ask without pause: its standby carries them within a moment, nobody is seen with a
//! wrong address, and nobody but the data path told.
//!
//! Not here: when silence counts (`core::liveness`), and who stands in for whom (`core::placement::detour`).

mod figures;
mod survival;
pub(super) mod transfers;

use std::net::IpAddr;
use std::time::{Duration, Instant};

use egret::core::liveness::RECOVERY;

use super::stand::{DEADLINE, Document, Outcome, Stand, labels, print_figures};
use crate::lab::{Answer, EGRESS, EGRESS6, Hammer, OUTPOST, OUTPOST6, Options, wait_until};

const GATEWAY: &str = "kind-worker2";
const STANDBY: &str = "kind-worker3";
const OTHER: &str = "10.0.3.43";
const OTHER6: &str = "fd00:10:3::43";

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// The policy through the first of two gateways, the second standing by.
fn with_standby() -> Result<Stand, crate::lab::LabError> {
    let stand = Stand::up(Options { gateways: 2, ..Options::default() })?;
    let (labels, policy) = (labels("kind-worker2, kind-worker3"), Document::default().text());
    let files = [("nodes/gateways.yaml", labels.as_str()), ("policies/outpost.yaml", policy.as_str())];
    stand.push_saying("two gateways", &files)?;
    stand.await_granted("tiefighter")?;
    stand.await_settled()?;
    stand.lab.forget()?;
    Ok(stand)
}

/// Waits for a request begun after `since` with this answer; how long after it was begun.
fn first_with(hammer: &Hammer, answer: Answer, since: Instant, stand: &Stand) -> Duration {
    let found = || hammer.requests().into_iter().find(|request| request.begun >= since && request.answer == answer);
    assert!(
        wait_until(DEADLINE, || found().is_some()),
        "{answer} never came\n{}\n{}",
        stand.log("kind-worker"),
        stand.log(GATEWAY)
    );
    found().map(|request| request.begun.duration_since(since)).unwrap_or_default()
}

/// A gateway dies, its standby carries the members of another node.
fn survives(kind: &str, die: impl FnOnce(&mut Stand) -> Outcome) -> Outcome {
    let mut stand = with_standby()?;
    let hammers = [stand.lab.hammer("tiefighter", OUTPOST)?, stand.lab.hammer("tiefighter", OUTPOST6)?];
    let begun = Instant::now();
    first_with(&hammers[0], Answer::Granted(EGRESS), begun, &stand);
    let dead = Instant::now();
    die(&mut stand)?;
    let answers = [Answer::Granted(ip(OTHER)), Answer::Granted(ip(OTHER6))];
    let took = hammers.iter().zip(answers).map(|(hammer, answer)| first_with(hammer, answer, dead, &stand)).collect();
    print_figures(&format!("{kind}: from death to the first request through the standby"), took);
    for hammer in hammers {
        let wrong: Vec<_> =
            hammer.stop().into_iter().filter(|request| matches!(request.answer, Answer::Denied(_))).collect();
        assert_eq!(wrong, [], "{kind}");
    }
    stand.assert_no_leak_but(&[])
}

#[test]
fn a_gateway_without_power() -> Outcome {
    survives("power", |stand| {
        stand.kill9(GATEWAY)?;
        stand.lab.node(GATEWAY)?.ip_batch("link set eth0 down\nlink set net1 down\n")
    })
}

#[test]
fn a_gateway_whose_link_to_the_nodes_is_cut() -> Outcome {
    survives("link", |stand| stand.lab.node(GATEWAY)?.ip_batch("link set eth0 down\n"))
}

#[test]
fn a_gateway_whose_egress_interface_goes_down() -> Outcome {
    survives("egress interface", |stand| stand.lab.node(GATEWAY)?.ip_batch("link set net1 down\n"))
}

#[test]
fn a_gateway_whose_egress_interface_goes_down_while_egret_does_not_run_there() -> Outcome {
    survives("egress interface, no agent", |stand| {
        stand.kill9(GATEWAY)?;
        stand.lab.node(GATEWAY)?.ip_batch("link set net1 down\n")
    })
}

#[test]
fn a_gateway_that_loses_its_rules_while_egret_does_not_run_there() -> Outcome {
    survives("nft delete", |stand| {
        stand.kill9(GATEWAY)?;
        stand.lab.node(GATEWAY)?.nft("delete table inet egret; delete table netdev egret")
    })
}

#[test]
fn a_gateway_that_loses_its_tunnel_device_while_egret_does_not_run_there() -> Outcome {
    survives("tunnel device", |stand| {
        stand.kill9(GATEWAY)?;
        stand.lab.node(GATEWAY)?.ip_batch("link del egret0\n")
    })
}

#[test]
fn egret_that_is_killed_stopped_or_restarted_on_the_gateway_moves_nobody() -> Outcome {
    let mut stand = with_standby()?;
    let hammer = stand.lab.hammer("tiefighter", OUTPOST)?;
    let mut connection = stand.lab.long_connection("tiefighter", OUTPOST)?;
    for _ in 0..3 {
        stand.kill9(GATEWAY)?;
        std::thread::sleep(Duration::from_secs(1));
        stand.start(GATEWAY)?;
        assert_eq!(connection.echo()?, EGRESS);
    }
    let requests = hammer.stop();
    let other: Vec<_> = requests.iter().filter(|request| request.answer != Answer::Granted(EGRESS)).collect();
    assert_eq!(other, Vec::<&crate::lab::Request>::new(), "of {} requests", requests.len());
    stand.assert_no_leak_but(&[])
}

#[test]
fn members_return_once_the_gateway_has_answered_for_a_while_and_its_source_may_restart_meanwhile() -> Outcome {
    let mut stand = with_standby()?;
    let hammer = stand.lab.hammer("tiefighter", OUTPOST)?;
    first_with(&hammer, Answer::Granted(EGRESS), Instant::now(), &stand);
    let dead = Instant::now();
    stand.lab.node(GATEWAY)?.ip_batch("link set eth0 down\n")?;
    first_with(&hammer, Answer::Granted(ip(OTHER)), dead, &stand);
    // The next process finds the detour in the kernel.
    stand.kill9("kind-worker")?;
    stand.start("kind-worker")?;
    let (code, plan) = stand.plan("kind-worker")?;
    assert_eq!(code, Some(0), "a detour is no difference: {plan}");
    stand.lab.node(GATEWAY)?.ip_batch("link set eth0 up\nroute replace default via 172.18.0.1\n")?;
    let back = Instant::now();
    let took = first_with(&hammer, Answer::Granted(EGRESS), back, &stand);
    assert!(took + Duration::from_secs(1) >= RECOVERY, "it was trusted after {took:?}");
    let requests = hammer.stop();
    let mut course: Vec<Answer> =
        requests.iter().map(|request| request.answer).filter(|answer| *answer != Answer::NoAnswer).collect();
    course.dedup();
    assert_eq!(course, [EGRESS, ip(OTHER), EGRESS].map(Answer::Granted), "nobody bounces");
    stand.assert_no_leak_but(&[])
}

#[test]
fn a_silent_gateway_stands_in_the_report_of_each_source_and_leaves_it_again() -> Outcome {
    let stand = with_standby()?;
    stand.lab.node(GATEWAY)?.ip_batch("link set eth0 down\n")?;
    let silent = |report: &egret::core::report::history::NodeReport| {
        report
            .findings
            .iter()
            .any(|finding| finding.finding.code == "gateway-silent" && finding.finding.message.contains(STANDBY))
    };
    stand.await_report("kind-worker", "that its gateway is silent", silent);
    stand.lab.node(GATEWAY)?.ip_batch("link set eth0 up\nroute replace default via 172.18.0.1\n")?;
    stand.await_report("kind-worker", "that it is not", |report| !silent(report));
    Ok(())
}

#[test]
fn pods_on_a_gateway_that_loses_its_egress_interface_leave_by_the_standby() -> Outcome {
    let stand = with_standby()?;
    stand.lab.add_pod("deathstar-0", GATEWAY, &[("org", "empire")])?;
    stand.await_granted("deathstar-0")?;
    let hammer = stand.lab.hammer("deathstar-0", OUTPOST)?;
    first_with(&hammer, Answer::Granted(EGRESS), Instant::now(), &stand);
    let dead = Instant::now();
    stand.lab.node(GATEWAY)?.ip_batch("link set net1 down\n")?;
    let took = first_with(&hammer, Answer::Granted(ip(OTHER)), dead, &stand);
    print_figures("pods on the gateway itself: to the first request through the standby", vec![took]);
    stand.lab.node(GATEWAY)?.ip_batch("link set net1 up\n")?;
    first_with(&hammer, Answer::Granted(EGRESS), Instant::now(), &stand);
    let wrong: Vec<_> =
        hammer.stop().into_iter().filter(|request| matches!(request.answer, Answer::Denied(_))).collect();
    assert_eq!(wrong, []);
    stand.assert_no_leak_but(&[])
}

#[test]
fn a_gateway_that_is_cordoned_loses_no_request_and_keeps_its_connections() -> Outcome {
    let stand = with_standby()?;
    let mut connections = Vec::new();
    for _ in 0..50 {
        connections.push(stand.lab.long_connection("tiefighter", OUTPOST)?);
        connections.push(stand.lab.long_connection("tiefighter", OUTPOST6)?);
    }
    let hammers = [stand.lab.hammer("tiefighter", OUTPOST)?, stand.lab.hammer("tiefighter", OUTPOST6)?];
    first_with(&hammers[0], Answer::Granted(EGRESS), Instant::now(), &stand);
    let cordoned = Instant::now();
    stand.lab.cordon(GATEWAY)?;
    let took = vec![first_with(&hammers[0], Answer::Granted(ip(OTHER)), cordoned, &stand)];
    print_figures("a cordoned gateway: to the first request through the standby", took);
    first_with(&hammers[1], Answer::Granted(ip(OTHER6)), cordoned, &stand);
    for (place, connection) in connections.iter_mut().enumerate() {
        assert_eq!(connection.echo()?, [EGRESS, EGRESS6][place % 2], "live connections stay where they began");
    }
    for hammer in hammers {
        let requests = hammer.stop();
        let lost: Vec<_> = requests.iter().filter(|request| !matches!(request.answer, Answer::Granted(_))).collect();
        assert_eq!(lost, Vec::<&crate::lab::Request>::new(), "of {} requests", requests.len());
    }
    stand.assert_no_leak_but(&[])
}

#[test]
fn an_upgrade_of_all_nodes_one_after_the_other_loses_no_request_and_cuts_no_connection() -> Outcome {
    let mut stand = with_standby()?;
    let mut connections = Vec::new();
    for _ in 0..50 {
        connections.push((stand.lab.long_connection("tiefighter", OUTPOST)?, EGRESS));
        connections.push((stand.lab.long_connection("tiefighter", OUTPOST6)?, EGRESS6));
    }
    let hammers = [stand.lab.hammer("tiefighter", OUTPOST)?, stand.lab.hammer("tiefighter", OUTPOST6)?];
    for node in [GATEWAY, "kind-worker", STANDBY] {
        stand.terminate(node)?;
        stand.start(node)?;
        stand.await_settled()?;
    }
    for (connection, egress) in &mut connections {
        assert_eq!(connection.echo()?, *egress);
    }
    for (hammer, egress) in hammers.into_iter().zip([EGRESS, EGRESS6]) {
        let requests = hammer.stop();
        let other: Vec<_> = requests.iter().filter(|request| request.answer != Answer::Granted(egress)).collect();
        assert_eq!(other, Vec::<&crate::lab::Request>::new(), "of {} requests", requests.len());
    }
    stand.assert_no_leak_but(&[])
}

/// The address that both gateways may have; somebody else's daemon moves it, as keepalived does.
const MOVING: &str = "10.0.3.100";

/// Gives the moving address to a node and tells the network.
fn hold(stand: &Stand, node: &str) -> Outcome {
    let namespace = stand.lab.node(node)?;
    namespace.ip_batch(&format!("addr add {MOVING}/32 dev net1\n"))?;
    announce(&namespace, MOVING)
}

/// A gratuitous ARP (RFC 5227, 3).
fn announce(namespace: &crate::lab::Namespace, address: &str) -> Outcome {
    const ARP: &str = "import socket, sys
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW); s.bind(('net1', 0)); m = s.getsockname()[4]; ip = socket.inet_aton(sys.argv[1])
s.send(b'\\xff' * 6 + m + b'\\x08\\x06\\0\\x01\\x08\\0\\x06\\x04\\0\\x01' + m + ip + b'\\0' * 6 + ip)";
    namespace.exec(["python3", "-c", ARP, address]).map(|_| ())
}

#[test]
fn connections_live_on_when_their_address_moves_to_another_gateway() -> Outcome {
    let mut stand = Stand::up(Options { gateways: 2, ..Options::default() })?;
    hold(&stand, GATEWAY)?;
    stand.lab.outpost().allow([ip(MOVING)]);
    let egress = format!("nodeSelector: {{matchLabels: {{egress-gw: \"true\"}}}}, egressIP: {MOVING}");
    let (labels, policy) = (labels("kind-worker2, kind-worker3"), Document { egress, ..Document::default() }.text());
    let files = [("nodes/gateways.yaml", labels.as_str()), ("policies/outpost.yaml", policy.as_str())];
    stand.push_saying("an address that moves", &files)?;
    stand.await_answer("tiefighter", OUTPOST, Answer::Granted(ip(MOVING)))?;
    stand.await_settled()?;
    let mut connections = Vec::new();
    for _ in 0..20 {
        connections.push(stand.lab.long_connection("tiefighter", OUTPOST)?);
        connections.push(stand.lab.long_datagrams("tiefighter", OUTPOST)?);
    }
    for connection in &mut connections {
        assert_eq!(connection.echo()?, ip(MOVING));
    }
    let hammer = stand.lab.hammer("tiefighter", OUTPOST)?;
    stand.kill9(GATEWAY)?;
    stand.lab.node(GATEWAY)?.ip_batch("link set eth0 down\nlink set net1 down\n")?;
    let dead = Instant::now();
    hold(&stand, STANDBY)?;
    let took = first_with(&hammer, Answer::Granted(ip(MOVING)), dead, &stand);
    print_figures("an address moved by hand: from the move to the first request", vec![took]);
    let alive =
        connections.iter_mut().filter_map(|connection| connection.echo().ok()).filter(|seen| *seen == ip(MOVING));
    assert_eq!(alive.count(), 40, "connections that live on");
    let wrong: Vec<_> =
        hammer.stop().into_iter().filter(|request| matches!(request.answer, Answer::Denied(_))).collect();
    assert_eq!(wrong, []);
    Ok(())
}
