//! Tunnel packets made by hand, as somebody on the nodes' network could send them: only known nodes, and only known identifiers, are heard.
//!
//! The same bytes are sent by a stranger, who must not be heard, and by a node, who must: else the test would only show that the bytes are
//! wrong. Deliberately absent: pods, which never see the tunnel.

use std::net::{IpAddr, Ipv4Addr, UdpSocket};

use super::stand::{DEADLINE, Outcome, Stand};
use crate::lab::{EGRESS, LabError, Namespace, OUTPOST, Options, wait_until};

/// Where gateways listen for the tunnel, and the first one's address.
const TUNNEL: (Ipv4Addr, u16) = (Ipv4Addr::new(172, 18, 0, 3), 4790);
/// The node's end of tiefighter.
const MEMBER: Ipv4Addr = Ipv4Addr::new(10, 1, 1, 177);

/// The identifier of the exit, as the worker's own route says it.
pub(super) fn identifier(stand: &Stand) -> Result<u32, LabError> {
    let routes = stand.lab.node("kind-worker")?.exec(["ip", "-d", "route", "show", "table", "9001"])?;
    let words: Vec<&str> = routes.split_whitespace().collect();
    let id = words.windows(4).find(|four| four[..3] == ["encap", "ip", "id"]).and_then(|four| four[3].parse().ok());
    id.ok_or(LabError::Nonsense { what: "the route into the tunnel" })
}

/// VXLAN (RFC 7348), Ethernet to the gateway's tunnel device, IPv4, and a datagram from a member to the outpost that says `text`.
pub(super) fn tunnel_packet(vni: u32, text: &str) -> Vec<u8> {
    let length = |more: usize| u16::try_from(text.len() + more).expect("a short text").to_be_bytes();
    let mut packet = vec![0x08, 0, 0, 0];
    packet.extend((vni << 8).to_be_bytes());
    packet.extend([0x02, 0, 172, 18, 0, 3, 0x02, 0, 172, 18, 0, 2, 0x08, 0x00]);
    let IpAddr::V4(outpost) = OUTPOST else { unreachable!("the outpost's first address is of IPv4") };
    let mut header = vec![0x45, 0];
    header.extend(length(28));
    header.extend([0, 1, 0, 0, 64, 17, 0, 0]);
    header.extend(MEMBER.octets());
    header.extend(outpost.octets());
    let sum = checksum(&header).to_be_bytes();
    header[10..12].copy_from_slice(&sum);
    packet.extend(header);
    // Ports 4000 to 9001; a datagram of IPv4 may go without a checksum.
    packet.extend([0x0f, 0xa0, 0x23, 0x29]);
    packet.extend(length(8));
    packet.extend([0, 0]);
    packet.extend(text.as_bytes());
    packet
}

/// RFC 1071.
fn checksum(header: &[u8]) -> u16 {
    let sum: u32 = header.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    !u16::try_from((sum & 0xffff) + (sum >> 16)).expect("ten words carry once")
}

pub(super) fn send(from: &Namespace, source: &str, packet: &[u8]) -> Outcome {
    let sent = from.enter(|| UdpSocket::bind((source, 0)).and_then(|socket| socket.send_to(packet, TUNNEL)))?;
    sent.map(|_| ()).map_err(LabError::doing(format!("send a tunnel packet from {source}")))
}

/// The texts of the datagrams that reached the outpost, with the address they bore.
fn heard(stand: &Stand) -> Vec<(IpAddr, String)> {
    stand.lab.outpost().visits().into_iter().map(|visit| (visit.caller, visit.text)).collect()
}

#[test]
fn a_tunnel_packet_is_heard_from_a_known_node_with_a_known_identifier_and_from_nobody_else() -> Outcome {
    let stand = Stand::in_force(Options::default())?;
    let vni = identifier(&stand)?;
    let (router, worker) = (stand.lab.router(), stand.lab.node("kind-worker")?);
    router.exec(["ip", "address", "add", "172.18.0.77/24", "dev", "br0"])?;
    send(&router, "172.18.0.77", &tunnel_packet(vni, "a stranger with the right identifier"))?;
    send(&router, "172.18.0.1", &tunnel_packet(vni, "the router with the right identifier"))?;
    send(&worker, "172.18.0.2", &tunnel_packet(vni ^ 1, "a node with an identifier of nobody's"))?;
    // What comes last and is heard shows that the others were not on their way any more.
    send(&worker, "172.18.0.2", &tunnel_packet(vni, "a node"))?;
    assert!(wait_until(DEADLINE, || !heard(&stand).is_empty()), "the packet of a node is well formed");
    assert_eq!(heard(&stand), [(EGRESS, "a node".to_owned())]);
    stand.assert_no_leak_but(&[])
}
