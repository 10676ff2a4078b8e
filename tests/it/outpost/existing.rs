//! `existingConnections` with flows that go on while their policy's gateway changes: TCP, UDP, and ICMP with one identifier, in both
//! families.
//!
//! Not here: connections that are older than any policy (`connections`), and gateways that fail (`failover`).

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::IpAddr;

use super::stand::{DEADLINE, Document, Outcome, Stand};
use crate::lab::{Answer, EGRESS, EGRESS6, LabError, LongConnection, OUTPOST, OUTPOST6, Options, wait_until};

const RESET: &str = "egret.dev/existing-connections: Reset";
const OTHER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 3, 43));
const OTHER6: IpAddr = IpAddr::V6(std::net::Ipv6Addr::new(0xfd00, 0x10, 3, 0, 0, 0, 0, 0x43));

/// An echo request, always with the same identifier, and whether it is answered within two seconds.
const PING: &str = "import socket, struct, sys
six = ':' in sys.argv[1]; seq = int(sys.argv[2])
s = socket.socket(socket.AF_INET6 if six else socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMPV6 if six else socket.IPPROTO_ICMP)
s.settimeout(2); ask, answer = (128, 129) if six else (8, 0)
body = struct.pack('!HH', 4242, seq) + b'outpost!'
sum = 0
for i in range(0, 12, 2): sum += body[i] * 256 + body[i + 1]
sum += ask * 256; sum = (sum >> 16) + (sum & 0xffff); sum += sum >> 16
s.sendto(struct.pack('!BBH', ask, 0, ~sum & 0xffff) + body, (sys.argv[1], 0))
try:
    while True:
        got = s.recv(1500); got = got if six else got[(got[0] & 15) * 4:]
        if got[0] == answer and got[4:8] == body[:4]: print('answered'); break
except TimeoutError: print('silence')";

/// A flow of echo requests.
struct Ping {
    to: IpAddr,
    sent: u16,
}

impl Ping {
    /// Sends one; the source that arrived at the router, if it was answered.
    fn echo(&mut self, stand: &Stand) -> Result<Option<IpAddr>, LabError> {
        stand.lab.forget()?;
        self.sent += 1;
        let (to, sent) = (self.to.to_string(), self.sent.to_string());
        let said = stand.lab.pod("tiefighter")?.exec(["python3", "-c", PING, &to, &sent])?;
        let sources: Vec<IpAddr> = stand.lab.sources_towards(self.to)?.into_keys().collect();
        assert!(sources.len() <= 1, "one request, from {sources:?}");
        Ok(sources.first().copied().filter(|_| said.trim() == "answered"))
    }
}

/// Long flows of one family.
struct Flows {
    tcp: LongConnection,
    udp: LongConnection,
    icmp: Ping,
}

fn flows(stand: &Stand) -> Result<Vec<Flows>, LabError> {
    let of_family = |to| {
        let tcp = stand.lab.long_connection("tiefighter", to)?;
        Ok(Flows { tcp, udp: stand.lab.long_datagrams("tiefighter", to)?, icmp: Ping { to, sent: 0 } })
    };
    [OUTPOST, OUTPOST6].into_iter().map(of_family).collect()
}

/// The addresses with which each flow is seen: TCP, UDP, ICMP.
fn seen(stand: &Stand, flows: &mut [Flows]) -> Result<Vec<[IpAddr; 3]>, LabError> {
    let nobody = || LabError::Nonsense { what: "an echo request without an answer" };
    let each = |flow: &mut Flows| Ok([flow.tcp.echo()?, flow.udp.echo()?, flow.icmp.echo(stand)?.ok_or_else(nobody)?]);
    flows.iter_mut().map(each).collect()
}

/// The outpost's policy on the first gateway, long flows, and the policy's move to the second one.
fn moved(annotations: &'static str) -> Result<(Stand, Vec<Flows>), LabError> {
    let stand = Stand::applied(Options { gateways: 2, ..Options::default() })?;
    // A flow that the machine is too slow to keep up would begin anew.
    for node in stand.lab.nodes() {
        for timeout in ["icmp_timeout", "icmpv6_timeout", "udp_timeout", "udp_timeout_stream"] {
            stand.lab.node(&node.name)?.sysctl(&format!("net.netfilter.nf_conntrack_{timeout}"), "600")?;
        }
    }
    if !annotations.is_empty() {
        stand.push("policies/outpost.yaml", &Document { annotations, ..Document::default() }.text())?;
        stand.await_settled()?;
    }
    let mut flows = flows(&stand)?;
    assert_eq!(seen(&stand, &mut flows)?, [[EGRESS; 3], [EGRESS6; 3]]);
    stand.push("policies/outpost.yaml", &Document { annotations, ..Document::through("kind-worker3") }.text())?;
    stand.await_answer("tiefighter", OUTPOST, Answer::Granted(OTHER))?;
    stand.await_answer("tiefighter", OUTPOST6, Answer::Granted(OTHER6))?;
    stand.await_settled()?;
    Ok((stand, flows))
}

#[test]
fn with_keep_long_flows_of_all_protocols_stay_on_their_gateway() -> Outcome {
    let (stand, mut flows) = moved("")?;
    for _ in 0..3 {
        assert_eq!(seen(&stand, &mut flows)?, [[EGRESS; 3], [EGRESS6; 3]], "{}", stand.log("kind-worker"));
    }
    let fresh = stand.lab.long_connection("tiefighter", OUTPOST)?.echo()?;
    assert_eq!(fresh, OTHER, "what begins now is not kept");
    stand.assert_no_leak_but(&[])
}

#[test]
fn with_keep_flows_of_a_gateway_that_fails_after_its_policy_has_left_it_go_on_by_the_new_one() -> Outcome {
    let (stand, mut flows) = moved("")?;
    assert_eq!(seen(&stand, &mut flows)?, [[EGRESS; 3], [EGRESS6; 3]]);
    // As at a switch, or for work on the interface: the node itself is well.
    stand.lab.node("kind-worker2")?.ip_batch("link set net1 down\n")?;
    for (flow, address) in flows.iter_mut().zip([OTHER, OTHER6]) {
        let follows = wait_until(DEADLINE, || flow.udp.echo().is_ok_and(|seen| seen == address));
        assert!(follows, "UDP to {}\n{}", flow.icmp.to, stand.log("kind-worker"));
        assert!(flow.tcp.echo().is_err(), "a connection cannot live with another address, and does not hang");
    }
    stand.assert_no_leak_but(&[])
}

#[test]
fn with_reset_tcp_is_reset_and_udp_and_icmp_go_on_by_the_new_gateway() -> Outcome {
    let (stand, mut flows) = moved(RESET)?;
    for (flow, address) in flows.iter_mut().zip([OTHER, OTHER6]) {
        let end = match flow.tcp.echo() {
            Err(LabError::System { source, .. }) => source.kind().to_string(),
            other => format!("{other:?}"),
        };
        assert_eq!(end, ErrorKind::ConnectionReset.to_string(), "{}", stand.log("kind-worker"));
        assert_eq!(flow.udp.echo()?, address);
        let mut last = BTreeSet::new();
        let arrives = wait_until(DEADLINE, || {
            let source = flow.icmp.echo(&stand).ok().flatten();
            last.insert(source);
            source == Some(address)
        });
        assert!(arrives, "{last:?}\n{}", stand.log("kind-worker"));
        assert_eq!(flow.icmp.echo(&stand)?, Some(address), "and stays there");
    }
    stand.assert_no_leak_but(&[])
}
