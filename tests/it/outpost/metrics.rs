//! What Egret tells of itself over HTTP, while real packets go: counters go up by exactly what was sent.
//!
//! Datagrams are counted one by one. Of TCP only the connections are: how many packets the kernel makes of a request is its own affair.
//! Deliberately absent: the server by itself (`serve`).

use std::collections::BTreeMap;
use std::net::{IpAddr, UdpSocket};
use std::time::{Duration, SystemTime};

use super::stand::{DEADLINE, Document, LISTEN, Outcome, Stand};
use super::stranger::{STANDS_FOR_WORKER, exit_mac, send, tunnel_packet};
use crate::lab::{Answer, DATAGRAMS, LabError, Namespace, OUTPOST, OUTPOST6, Options, Pod, get, wait_until};

const SOURCE: &str = "kind-worker";
const GATEWAY: &str = "kind-worker2";

/// The outpost's exit and policy, as labels.
const AT_SOURCE: &str = "{exit=\"kind-worker2 dev net1\",role=\"source\"}";
const AT_GATEWAY: &str = "{exit=\"kind-worker2 dev net1\",role=\"gateway\"}";
const CONNECTIONS: &str = "egret_policy_connections_total{policy=\"outpost\",kind=\"CiliumEgressGatewayPolicy\",\
    exit=\"kind-worker2 dev net1\"}";
const LEAKS: &str = "egret_leak_guard_dropped_packets_total";
const STARTS: &str = "egret_start_guard_dropped_packets_total";

/// IPv4 or IPv6, and UDP.
const HEADERS: [u64; 2] = [28, 48];

pub(super) fn fetch(stand: &Stand, node: &str, path: &str) -> Result<(u16, String), LabError> {
    let listen = LISTEN.parse().expect("an address and a port");
    stand.lab.node(node)?.enter(|| get(listen, path))?.map_err(LabError::doing(format!("ask {node} for {path}")))
}

fn await_ready(stand: &Stand, node: &str) {
    let mut last = None;
    let ready = wait_until(DEADLINE, || {
        last = fetch(stand, node, "/readyz").ok();
        last.as_ref().is_some_and(|(status, _)| *status == 200)
    });
    assert!(ready, "{node} says {last:?}");
}

/// The outpost's policy active on both nodes, without a member that has sent anything yet. A node of the lab tracks no connections
/// before Egret asks for it: the end of one that began before, and its retransmissions for half a minute, would be counted, too.
fn applied_without_traffic() -> Result<Stand, LabError> {
    let stand = Stand::up(Options::default())?;
    stand.push_outpost()?;
    for (node, exits) in [(SOURCE, "egret_exits{role=\"source\"}"), (GATEWAY, "egret_exits{role=\"gateway\"}")] {
        let known = || metrics(&stand, node).is_ok_and(|metrics| count(&metrics, exits) == 1);
        assert!(wait_until(DEADLINE, known), "{}", stand.log(node));
    }
    stand.lab.forget()?;
    Ok(stand)
}

/// Series and values. What is seen twice within a tenth of a second is the same, so there is a tenth of a second before.
fn metrics(stand: &Stand, node: &str) -> Result<BTreeMap<String, String>, LabError> {
    std::thread::sleep(Duration::from_millis(110));
    let page = fetch(stand, node, "/metrics")?.1;
    assert!(page.ends_with("# EOF\n"), "{page}");
    let series = page.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.rsplit_once(' '));
    Ok(series.map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
}

/// What the counters of a node have gained, when they have come to what is expected.
struct Counting<'a> {
    stand: &'a Stand,
    node: &'a str,
    before: BTreeMap<String, String>,
}

impl<'a> Counting<'a> {
    fn start(stand: &'a Stand, node: &'a str) -> Result<Self, LabError> {
        Ok(Self { stand, node, before: metrics(stand, node)? })
    }

    fn gained(&self, expected: &[(String, u64)]) {
        let expected: BTreeMap<&str, u64> = expected.iter().map(|(series, gain)| (series.as_str(), *gain)).collect();
        let mut gained = BTreeMap::new();
        wait_until(DEADLINE, || {
            let Ok(now) = metrics(self.stand, self.node) else { return false };
            let gain = |series: &str| count(&now, series).saturating_sub(count(&self.before, series));
            gained = expected.keys().map(|series| (*series, gain(series))).collect();
            gained == expected
        });
        assert_eq!(gained, expected, "on {}", self.node);
    }
}

/// A counter's value; 0 where there is none yet.
fn count(metrics: &BTreeMap<String, String>, series: &str) -> u64 {
    metrics.get(series).map_or(0, |value| value.parse().expect("a whole number"))
}

fn exit(what: &str, labels: &str) -> String {
    format!("egret_exit_{what}_total{labels}")
}

fn tunnel(reason: &str) -> String {
    format!("egret_tunnel_dropped_packets_total{{reason=\"{reason}\"}}")
}

/// Sends datagrams that nobody answers, all from one socket.
fn shout(pod: &Namespace, to: IpAddr, times: usize) -> Outcome {
    let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let sent = pod.enter(|| {
        let socket = UdpSocket::bind(any)?;
        (0..times).try_for_each(|_| socket.send_to(b"hear me", (to, DATAGRAMS)).map(|_| ()))
    })?;
    sent.map_err(LabError::doing(format!("send datagrams to {to}")))
}

#[test]
fn a_node_is_ready_when_its_policies_are_active_and_alive_all_the_time() -> Outcome {
    let mut stand = Stand::up(Options::default())?;
    assert_eq!(fetch(&stand, SOURCE, "/healthz")?, (200, "ok\n".to_owned()));
    assert_eq!(fetch(&stand, SOURCE, "/readyz")?, (503, "nothing has been read from Git yet\n".to_owned()));
    stand.push_outpost()?;
    stand.await_granted("tiefighter")?;
    for node in [SOURCE, GATEWAY] {
        await_ready(&stand, node);
        assert_eq!(fetch(&stand, node, "/healthz")?.0, 200);
    }
    let head = stand.lab.repository().in_bare(["rev-parse", "HEAD"])?;
    for (node, expected) in [(SOURCE, [0, 1, 1]), (GATEWAY, [1, 0, 0])] {
        let metrics = metrics(&stand, node)?;
        let seen = ["egret_exits{role=\"gateway\"}", "egret_exits{role=\"source\"}", "egret_members"];
        assert_eq!(seen.map(|series| count(&metrics, series)), expected, "{metrics:?}");
        assert_eq!(count(&metrics, &format!("egret_revision_info{{revision=\"{}\"}}", head.trim())), 1, "{metrics:?}");
        assert!(count(&metrics, "egret_reconcile_total{result=\"succeeded\"}") > 0, "{metrics:?}");
        let at: f64 = metrics["egret_git_last_success_timestamp_seconds"].parse().expect("a number");
        let age = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("a clock").as_secs_f64() - at;
        assert!((-1.0..60.0).contains(&age), "{metrics:?}");
    }

    // The next process finds the kernel's counters where the last one left them.
    let packets = exit("packets", AT_SOURCE);
    let before = count(&metrics(&stand, SOURCE)?, &packets);
    assert!(before > 0);
    stand.terminate(SOURCE)?;
    stand.start(SOURCE)?;
    assert!(wait_until(DEADLINE, || metrics(&stand, SOURCE).is_ok_and(|now| count(&now, &packets) >= before)));

    let counting = Counting::start(&stand, SOURCE)?;
    stand.lab.node(SOURCE)?.exec(["ip", "rule", "del", "priority", "501"])?;
    stand.await_corrected(SOURCE, "ip rule 501", 1);
    counting.gained(&[("egret_drift_total{class=\"missing\"}".to_owned(), 1)]);
    stand.lab.repository().remove("policies/outpost.yaml")?;
    stand.lab.repository().push("nobody is let through")?;
    let gone = || metrics(&stand, SOURCE).is_ok_and(|now| !now.keys().any(|series| series.contains("kind-worker2")));
    assert!(wait_until(DEADLINE, gone), "an exit that is gone has no series");
    Ok(())
}

#[test]
fn packets_and_connections_are_counted_at_both_ends_of_the_tunnel() -> Outcome {
    let stand = applied_without_traffic()?;
    let [source, gateway] = [Counting::start(&stand, SOURCE)?, Counting::start(&stand, GATEWAY)?];
    let said = [(OUTPOST, 10), (OUTPOST6, 7)];
    let (mut packets, mut bytes) = (0, 0);
    for ((outpost, times), headers) in said.into_iter().zip(HEADERS) {
        let mut datagrams = stand.lab.long_datagrams("tiefighter", outpost)?;
        for number in 1..=times {
            datagrams.echo()?;
            bytes += headers + format!("line {number}").len() as u64;
        }
        packets += times;
    }
    // Somebody else's packets are nobody's.
    assert!(matches!(stand.lab.ask("xwing", OUTPOST)?, Answer::Denied(_)));
    stand.lab.long_datagrams("xwing", OUTPOST)?.echo()?;
    source.gained(&[
        (exit("packets", AT_SOURCE), packets),
        (exit("bytes", AT_SOURCE), bytes),
        (CONNECTIONS.to_owned(), 2),
        (LEAKS.to_owned(), 0),
        (STARTS.to_owned(), 0),
    ]);
    gateway.gained(&[
        (exit("packets", AT_GATEWAY), packets),
        (exit("bytes", AT_GATEWAY), bytes),
        // Counted where the pod is, once.
        (CONNECTIONS.to_owned(), 0),
        (LEAKS.to_owned(), 0),
        (tunnel("node"), 0),
        (tunnel("address"), 0),
        (tunnel("exit"), 0),
    ]);
    for _ in 0..5 {
        stand.await_granted("tiefighter")?;
    }
    source.gained(&[(CONNECTIONS.to_owned(), 2 + 10)]);

    // Every packet of a member of such a policy is classified; a connection is one all the same.
    let annotations = "egret.dev/existing-connections: Reset";
    stand.push("policies/outpost.yaml", &Document { annotations, ..Document::default() }.text())?;
    stand.await_settled()?;
    let source = Counting::start(&stand, SOURCE)?;
    let mut datagrams = stand.lab.long_datagrams("tiefighter", OUTPOST)?;
    (0..8).try_for_each(|_| datagrams.echo().map(|_| ()))?;
    source.gained(&[(exit("packets", AT_SOURCE), 8), (CONNECTIONS.to_owned(), 1)]);
    Ok(())
}

#[test]
fn what_is_held_back_is_counted_by_who_held_it_back() -> Outcome {
    let stand = applied_without_traffic()?;
    let [source, gateway] = [Counting::start(&stand, SOURCE)?, Counting::start(&stand, GATEWAY)?];
    stand.lab.wire_pod(Pod::new("newborn", SOURCE, 50, &[("org", "empire")]))?;
    let newborn = stand.lab.pod("newborn")?;
    shout(&newborn, OUTPOST, 3)?;
    shout(&newborn, OUTPOST6, 2)?;
    source.gained(&[(STARTS.to_owned(), 5), (exit("packets", AT_SOURCE), 0), (CONNECTIONS.to_owned(), 0)]);

    // Somebody on the gateway translates before Egret does, to an address that is no exit's.
    let intruder = "table ip intruder { chain nat { type nat hook postrouting priority 90;
        udp dport 9001 ip saddr 10.1.1.254 snat to 10.0.3.1; }; }";
    stand.lab.node(GATEWAY)?.nft(intruder)?;
    shout(&stand.lab.pod("tiefighter")?, OUTPOST, 6)?;
    source.gained(&[(exit("packets", AT_SOURCE), 6), (CONNECTIONS.to_owned(), 1), (LEAKS.to_owned(), 0)]);
    gateway.gained(&[(exit("packets", AT_GATEWAY), 6), (LEAKS.to_owned(), 6)]);

    let mac = exit_mac(&stand)?;
    let (router, worker) = (stand.lab.router(), stand.lab.node(SOURCE)?);
    let packet = |mac, from, to| tunnel_packet(mac, from, to, "forged");
    let (nobodys, elsewhere) = ([0x02, 0xe9, 9, 9, 9, 9], IpAddr::from([10, 0, 5, 1]));
    send(&router, "172.18.0.1", &packet(mac, STANDS_FOR_WORKER, OUTPOST))?;
    send(&worker, "172.18.0.2", &packet(nobodys, STANDS_FOR_WORKER, OUTPOST))?;
    send(&worker, "172.18.0.2", &packet(nobodys, STANDS_FOR_WORKER, OUTPOST))?;
    send(&worker, "172.18.0.2", &packet(mac, [10, 1, 2, 254].into(), OUTPOST))?;
    send(&worker, "172.18.0.2", &packet(mac, STANDS_FOR_WORKER, elsewhere))?;
    gateway.gained(&[(tunnel("node"), 1), (tunnel("exit"), 2), (tunnel("source"), 1), (tunnel("destination"), 1)]);
    stand.assert_no_leak_but(&stand.lab.pod_addresses("xwing")?)
}

/// What is dropped for want of a gateway, and at a gateway without an address, is counted packet by packet; the log names the policy.
#[test]
fn what_is_dropped_has_a_counter_with_its_policy_and_reason_and_a_line_in_the_log() -> Outcome {
    let stand = applied_without_traffic()?;
    let dropped =
        |reason: &str| format!("egret_policy_dropped_packets_total{{policy=\"outpost\",reason=\"{reason}\"}}");
    let ready = |reason: &str| {
        format!("egret_policy_ready{{policy=\"outpost\",kind=\"CiliumEgressGatewayPolicy\",reason=\"{reason}\"}}")
    };
    let await_ready = |node: &str, reason: &str, value: &str| {
        let says = || metrics(&stand, node).is_ok_and(|now| now.get(&ready(reason)).is_some_and(|is| is == value));
        assert!(wait_until(DEADLINE, says), "{node} is {reason}: {:?}", metrics(&stand, node));
    };
    for node in [SOURCE, GATEWAY] {
        await_ready(node, "Programmed", "1");
    }
    let latency = "egret_probe_latency_seconds{exit=\"kind-worker2 dev net1\",family=\"ipv4\"}";
    assert!(wait_until(DEADLINE, || metrics(&stand, SOURCE).is_ok_and(|now| now.contains_key(latency))));
    let held = "egret_egress_address_held{address=\"10.0.3.42\"}";
    assert_eq!(count(&metrics(&stand, GATEWAY)?, held), 1);

    // The gateway has no address any more: IPv6 goes with it, or the exit would drop in one family only.
    let gateway = stand.lab.node(GATEWAY)?;
    gateway.exec(["ip", "address", "flush", "dev", "net1", "scope", "global"])?;
    await_ready(GATEWAY, "EgressIPMissing", "0");
    stand.await_words(
        GATEWAY,
        "members of outpost are dropped: kind-worker2 dev net1: net1 has no global IPv4 address",
    )?;
    let counting = Counting::start(&stand, GATEWAY)?;
    let before = count(&metrics(&stand, SOURCE)?, &exit("packets", AT_SOURCE));
    shout(&stand.lab.pod("tiefighter")?, OUTPOST, 7)?;
    let came = || metrics(&stand, SOURCE).is_ok_and(|now| count(&now, &exit("packets", AT_SOURCE)) >= before);
    assert!(wait_until(DEADLINE, came));
    counting.gained(&[(dropped("EgressIPMissing"), 7)]);
    gateway.exec(["ip", "address", "add", "10.0.3.42/24", "dev", "net1"])?;
    gateway.exec(["ip", "address", "add", "fd00:10:3::42/64", "dev", "net1", "nodad"])?;
    await_ready(GATEWAY, "Programmed", "1");
    stand.await_words(GATEWAY, "not any more: kind-worker2 dev net1: net1 has no global IPv4 address")?;

    // No gateway is fit any more.
    stand.lab.cordon(GATEWAY)?;
    await_ready(SOURCE, "NoGateway", "0");
    stand.await_words(SOURCE, "outpost has no gateway: no node that matches egress-gw=true is fit")?;
    let counting = Counting::start(&stand, SOURCE)?;
    shout(&stand.lab.pod("tiefighter")?, OUTPOST, 5)?;
    shout(&stand.lab.pod("tiefighter")?, OUTPOST6, 3)?;
    counting.gained(&[(dropped("NoGateway"), 8)]);
    Ok(())
}
