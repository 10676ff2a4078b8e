//! Connections in which only the server speaks: the source hands them to the next gateway if their address is there, and sees to it that
//! they are reset if it is not. And what a gateway believes.
//!
//! Not here: connections whose client speaks, which find their way alone (`failover`).

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use egret::core::state::net::Mac;
use egret::core::transfer::wire::Offer;
use egret::core::transfer::{ExitConnection, FlowProtocol};

use super::super::stranger::{STANDS_FOR_WORKER, exit_mac, send, tunnel_packet_to};
use super::{GATEWAY, MOVING, Outcome, STANDBY, Stand, announce, ip, with_standby};
use crate::lab::{Answer, Heard, LabError, Listener, OUTPOST, OUTPOST6, Options, wait_until};
use crate::outpost::stand::{DEADLINE, Document, labels};

/// The same in IPv6.
pub(super) const MOVING6: &str = "fd00:10:3::100";
/// Long for a server that speaks every 20 ms; its segments are sent again in growing intervals until one arrives.
const PATIENCE: Duration = Duration::from_secs(20);

/// A policy for each family, each with an address that both gateways may have; the first gateway has them.
pub(super) fn with_moving_addresses() -> Result<Stand, LabError> {
    let stand = Stand::up(Options { gateways: 2, ..Options::default() })?;
    hold_both(&stand, GATEWAY)?;
    stand.lab.outpost().allow([ip(MOVING), ip(MOVING6)]);
    let text = |name: &'static str, address: &str, destination: &str| {
        let egress = format!("nodeSelector: {{matchLabels: {{egress-gw: \"true\"}}}}, egressIP: \"{address}\"");
        let text = Document { name, egress, excluded: "", ..Document::default() }.text();
        text.replace("\"10.0.4.0/24\", \"fd00:10:4::/64\"", destination)
    };
    let files = [
        ("nodes/gateways.yaml", labels("kind-worker2, kind-worker3")),
        ("policies/four.yaml", text("four", MOVING, "\"10.0.4.0/24\"")),
        ("policies/six.yaml", text("six", MOVING6, "\"fd00:10:4::/64\"")),
    ];
    stand.push_saying("addresses that move", &files.each_ref().map(|(path, text)| (*path, text.as_str())))?;
    stand.await_answer("tiefighter", OUTPOST, Answer::Granted(ip(MOVING)))?;
    stand.await_answer("tiefighter", OUTPOST6, Answer::Granted(ip(MOVING6)))?;
    stand.await_settled()?;
    Ok(stand)
}

/// Gives both addresses to a node and tells the network, as keepalived does.
pub(super) fn hold_both(stand: &Stand, node: &str) -> Outcome {
    let namespace = stand.lab.node(node)?;
    namespace.ip_batch(&format!("addr replace {MOVING}/32 dev net1\naddr replace {MOVING6}/128 dev net1 nodad\n"))?;
    announce(&namespace, MOVING)?;
    // In place of an unsolicited neighbour advertisement.
    stand.lab.router().exec(["ip", "-6", "neigh", "flush", "dev", "br1"]).map(|_| ())
}

/// The gateway loses power.
pub(super) fn die(stand: &mut Stand) -> Outcome {
    stand.kill9(GATEWAY)?;
    stand.lab.node(GATEWAY)?.ip_batch("link set eth0 down\nlink set net1 down\n")
}

fn listeners(stand: &Stand) -> Result<Vec<(&'static str, Listener)>, LabError> {
    let lab = &stand.lab;
    let mut all = Vec::new();
    for _ in 0..3 {
        all.push(("TCP, IPv4", lab.listener("tiefighter", OUTPOST)?));
        all.push(("TCP, IPv6", lab.listener("tiefighter", OUTPOST6)?));
        all.push(("UDP, IPv4", lab.datagram_listener("tiefighter", OUTPOST)?));
        all.push(("UDP, IPv6", lab.datagram_listener("tiefighter", OUTPOST6)?));
    }
    for (what, listener) in &mut all {
        assert_eq!(listener.hears(PATIENCE), Heard::Tick, "{what}, before anything happens");
    }
    Ok(all)
}

/// What is heard of each once it is on its new way.
fn heard(all: &mut [(&'static str, Listener)]) -> BTreeSet<(&'static str, String)> {
    all.iter_mut().map(|(what, listener)| (*what, format!("{:?}", listener.hears(PATIENCE)))).collect()
}

fn ticks(all: &[&'static str]) -> BTreeSet<(&'static str, String)> {
    all.iter().map(|what| (*what, "Tick".to_owned())).collect()
}

#[test]
fn a_connection_in_which_only_the_server_speaks_lives_on_at_the_next_gateway_and_back_again() -> Outcome {
    let mut stand = with_moving_addresses()?;
    let mut all = listeners(&stand)?;
    die(&mut stand)?;
    hold_both(&stand, STANDBY)?;
    stand.await_words("kind-worker", "connections given to the gateway: 6 entered")?;
    let every = ["TCP, IPv4", "TCP, IPv6", "UDP, IPv4", "UDP, IPv6"];
    assert_eq!(heard(&mut all), ticks(&every), "{}\n{}", stand.log("kind-worker"), stand.log(STANDBY));
    // The gateway comes back with nothing in its memory, and the address with it.
    let gateway = stand.lab.node(GATEWAY)?;
    gateway.enter(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        for mark in 1..=4 {
            runtime.block_on(egret::kernel::conntrack::flush(mark, 0x1fff)).expect("connections can be deleted");
        }
    })?;
    stand.lab.node(STANDBY)?.ip_batch(&format!("addr del {MOVING}/32 dev net1\naddr del {MOVING6}/128 dev net1\n"))?;
    gateway.ip_batch("link set eth0 up\nlink set net1 up\nroute replace default via 172.18.0.1\n")?;
    stand.start(GATEWAY)?;
    hold_both(&stand, GATEWAY)?;
    stand.await_answer("tiefighter", OUTPOST, Answer::Granted(ip(MOVING)))?;
    let four: Vec<_> = heard(&mut all).into_iter().filter(|(what, _)| what.ends_with("IPv4")).collect();
    assert_eq!(four, Vec::from_iter(ticks(&["TCP, IPv4", "UDP, IPv4"])), "{}", stand.log("kind-worker"));
    Ok(())
}

#[test]
fn where_no_agent_runs_on_the_next_gateway_tcp_clients_are_made_to_speak() -> Outcome {
    let mut stand = with_moving_addresses()?;
    let mut all = listeners(&stand)?;
    // As if no agent had a socket there.
    stand.lab.node(STANDBY)?.nft(
        "table inet nobody { chain in { type filter hook input priority 0; iifname \"egret0\" udp dport 9180 drop; }; }",
    )?;
    die(&mut stand)?;
    hold_both(&stand, STANDBY)?;
    stand.await_words("kind-worker", "clients made to speak instead")?;
    all.retain(|(what, _)| what.starts_with("TCP"));
    assert_eq!(heard(&mut all), ticks(&["TCP, IPv4", "TCP, IPv6"]), "{}", stand.log("kind-worker"));
    Ok(())
}

#[test]
fn a_connection_that_gets_another_address_is_reset_though_its_client_is_silent() -> Outcome {
    let mut stand = with_standby()?;
    let mut all = vec![
        ("IPv4", stand.lab.listener("tiefighter", OUTPOST)?),
        ("IPv6", stand.lab.listener("tiefighter", OUTPOST6)?),
    ];
    for (what, listener) in &mut all {
        assert_eq!(listener.hears(PATIENCE), Heard::Tick, "{what}, before anything happens");
    }
    die(&mut stand)?;
    for (what, listener) in &mut all {
        let mut last = Heard::Silence;
        let ended = wait_until(DEADLINE, || {
            last = listener.hears(Duration::from_millis(200));
            matches!(last, Heard::Ended(_))
        });
        let reset = Heard::Ended(std::io::ErrorKind::ConnectionReset);
        assert!(ended && last == reset, "{what}: {last:?}\n{}", stand.log("kind-worker"));
    }
    stand.assert_no_leak_but(&[])
}

/// The connections of a gateway's connection tracking that lead to this port.
pub(crate) fn tracked(stand: &Stand, node: &str, port: u16) -> Result<Vec<String>, LabError> {
    let read = || std::fs::read_to_string("/proc/thread-self/net/nf_conntrack");
    let text = stand.lab.node(node)?.enter(read)?.map_err(LabError::doing("list connections"))?;
    let ours = text.lines().filter(|line| line.contains(&format!(" dport={port} ")));
    Ok(ours.map(str::to_owned).collect())
}

#[test]
fn a_gateway_believes_a_node_about_its_own_connections_to_where_policies_lead_and_nothing_else() -> Outcome {
    let stand = Stand::applied(Options { gateways: 2, ..Options::default() })?;
    let mac = exit_mac(&stand)?;
    let worker = stand.lab.node("kind-worker")?;
    let offer = |exit: [u8; 6], port: u16, to: IpAddr| {
        let destination = std::net::SocketAddr::new(to, port);
        let connection = ExitConnection { protocol: FlowProtocol::Tcp, port: 40_000, destination };
        Offer { transfer: 1, number: 0, exit: Mac(exit), connections: vec![connection] }.encode()
    };
    let packet = |from: Ipv4Addr, text: &[u8]| tunnel_packet_to(mac, from, (ip("169.254.90.3"), 9180), text);
    let (own, others) = (STANDS_FOR_WORKER, Ipv4Addr::new(10, 1, 3, 254));
    // The agent listens once its round is done.
    let listens = || {
        let sent = send(&worker, "172.18.0.2", &packet(own, &offer(mac, 7000, OUTPOST)));
        sent.is_ok() && tracked(&stand, GATEWAY, 7000).is_ok_and(|found| !found.is_empty())
    };
    assert!(wait_until(DEADLINE, listens), "{}", stand.log(GATEWAY));
    send(&worker, "172.18.0.2", &packet(others, &offer(mac, 7001, OUTPOST)))?;
    send(&worker, "172.18.0.2", &packet(Ipv4Addr::new(10, 1, 1, 177), &offer(mac, 7002, OUTPOST)))?;
    send(&worker, "172.18.0.2", &packet(own, &offer(mac, 7003, ip("10.0.5.1"))))?;
    send(&worker, "172.18.0.2", &packet(own, &offer([2, 9, 9, 9, 9, 9], 7004, OUTPOST)))?;
    let cut = offer(mac, 7005, OUTPOST);
    send(&worker, "172.18.0.2", &packet(own, &cut[..cut.len() - 1]))?;
    let router = stand.lab.router();
    router.exec(["ip", "address", "add", "172.18.0.77/24", "dev", "br0"])?;
    send(&router, "172.18.0.77", &packet(own, &offer(mac, 7006, OUTPOST)))?;
    // A pod has no way to the agent either.
    let pod = stand.lab.pod("tiefighter")?;
    pod.enter(|| {
        let socket = std::net::UdpSocket::bind("0.0.0.0:0");
        socket.and_then(|socket| socket.send_to(&offer(mac, 7007, OUTPOST), "169.254.90.3:9180"))
    })?
    .map_err(LabError::doing("send an offer from a pod"))?;
    // What comes last and is believed shows that the others were not on their way any more.
    send(&worker, "172.18.0.2", &packet(own, &offer(mac, 7008, OUTPOST)))?;
    assert!(
        wait_until(DEADLINE, || tracked(&stand, GATEWAY, 7008).is_ok_and(|found| !found.is_empty())),
        "a node's own connection is entered\n{}",
        stand.log(GATEWAY)
    );
    let entered = tracked(&stand, GATEWAY, 7008)?;
    assert!(
        entered.iter().all(|line| line.contains("ESTABLISHED src=10.1.1.254 dst=10.0.4.2 sport=40000")
            && line.contains("src=10.0.4.2 dst=10.0.3.42 sport=7008 dport=40000 [ASSURED] mark=1 ")),
        "{entered:#?}"
    );
    for port in 7001..=7007 {
        assert_eq!(tracked(&stand, GATEWAY, port)?, Vec::<String>::new(), "port {port}");
    }
    Ok(())
}
