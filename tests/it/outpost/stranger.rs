//! Tunnel packets made by hand, as somebody on the nodes' network could send them: only known nodes are heard, each with what stands for it alone, and only for exits and destinations that policies name.
//!
//! The same bytes are sent by a stranger, who must not be heard, and by a node, who must: else the test would only show that the bytes are
//! wrong. Deliberately absent: pods, which never see the tunnel.

use std::net::{IpAddr, Ipv4Addr, UdpSocket};

use super::stand::{DEADLINE, Outcome, Stand};
use crate::lab::{DATAGRAMS, EGRESS, LabError, Namespace, OUTPOST, Options, wait_until};

/// Where gateways listen for the tunnel, and the first one's address.
const TUNNEL: &str = "172.18.0.3:4790";
/// The node's end of tiefighter.
const MEMBER: Ipv4Addr = Ipv4Addr::new(10, 1, 1, 177);

/// The MAC address of the exit, as the worker's own neighbour entry says it.
pub(super) fn exit_mac(stand: &Stand) -> Result<[u8; 6], LabError> {
    let neighbours =
        stand.lab.node("kind-worker")?.exec(["ip", "-4", "neigh", "show", "dev", "egret0", "169.254.128.1"])?;
    let words: Vec<&str> = neighbours.split_whitespace().collect();
    let mac = words.windows(2).find(|two| two[0] == "lladdr").map(|two| two[1]);
    let bytes: Option<Vec<u8>> =
        mac.map(|mac| mac.split(':').filter_map(|pair| u8::from_str_radix(pair, 16).ok()).collect());
    bytes
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or(LabError::Nonsense { what: "the neighbour that stands for the exit" })
}

/// What stands for kind-worker inside the tunnel.
pub(super) const STANDS_FOR_WORKER: Ipv4Addr = Ipv4Addr::new(10, 1, 1, 254);

/// VXLAN (RFC 7348), Ethernet to an exit, IPv4, and a datagram to `to` that says `text`.
pub(super) fn tunnel_packet(mac: [u8; 6], from: Ipv4Addr, to: IpAddr, text: &str) -> Vec<u8> {
    tunnel_packet_to(mac, from, (to, DATAGRAMS), text.as_bytes())
}

/// The same to any port.
pub(super) fn tunnel_packet_to(mac: [u8; 6], from: Ipv4Addr, (to, port): (IpAddr, u16), text: &[u8]) -> Vec<u8> {
    let length = |more: usize| u16::try_from(text.len() + more).expect("a short text").to_be_bytes();
    let mut packet = vec![0x08, 0, 0, 0, 0, 0, 1, 0];
    packet.extend(mac);
    packet.extend([0x02, 0, 172, 18, 0, 2, 0x08, 0x00]);
    let IpAddr::V4(outpost) = to else { unreachable!("a packet of IPv4") };
    let mut header = vec![0x45, 0];
    header.extend(length(28));
    header.extend([0, 1, 0, 0, 64, 17, 0, 0]);
    header.extend(from.octets());
    header.extend(outpost.octets());
    let sum = checksum(&header).to_be_bytes();
    header[10..12].copy_from_slice(&sum);
    packet.extend(header);
    // From port 4000; a datagram of IPv4 may go without a checksum.
    packet.extend([0x0f, 0xa0]);
    packet.extend(port.to_be_bytes());
    packet.extend(length(8));
    packet.extend([0, 0]);
    packet.extend(text);
    packet
}

/// RFC 1071.
fn checksum(header: &[u8]) -> u16 {
    let sum: u32 = header.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    !u16::try_from((sum & 0xffff) + (sum >> 16)).expect("ten words carry once")
}

pub(super) fn send(from: &Namespace, source: &str, packet: &[u8]) -> Outcome {
    send_to(from, source, TUNNEL, packet)
}

fn send_to(from: &Namespace, source: &str, to: &str, packet: &[u8]) -> Outcome {
    let sent = from.enter(|| UdpSocket::bind((source, 0)).and_then(|socket| socket.send_to(packet, to)))?;
    sent.map(|_| ()).map_err(LabError::doing(format!("send a tunnel packet from {source}")))
}

/// The texts of the datagrams that reached the outpost, with the address they bore.
fn received(stand: &Stand) -> Vec<(IpAddr, String)> {
    stand.lab.outpost().visits().into_iter().map(|visit| (visit.caller, visit.text)).collect()
}

#[test]
fn a_tunnel_packet_is_accepted_from_a_known_node_to_a_known_exit_and_from_nobody_else() -> Outcome {
    let stand = Stand::applied(Options::default())?;
    let mac = exit_mac(&stand)?;
    let (router, worker) = (stand.lab.router(), stand.lab.node("kind-worker")?);
    router.exec(["ip", "address", "add", "172.18.0.77/24", "dev", "br0"])?;
    let packet = |text| tunnel_packet(mac, STANDS_FOR_WORKER, OUTPOST, text);
    send(&router, "172.18.0.77", &packet("a stranger with the right exit"))?;
    send(&router, "172.18.0.1", &packet("the router with the right exit"))?;
    let (nobodys, elsewhere) = ([0x02, 0xe9, 9, 9, 9, 9], IpAddr::from([10, 0, 5, 1]));
    send(&worker, "172.18.0.2", &tunnel_packet(nobodys, STANDS_FOR_WORKER, OUTPOST, "a node to nobody's exit"))?;
    send(&worker, "172.18.0.2", &tunnel_packet(mac, MEMBER, OUTPOST, "a node with an address that stands for none"))?;
    send(&worker, "172.18.0.2", &tunnel_packet(mac, [10, 1, 2, 254].into(), OUTPOST, "a node in another's place"))?;
    send(&worker, "172.18.0.2", &tunnel_packet(mac, STANDS_FOR_WORKER, elsewhere, "a node to where no policy leads"))?;
    send_to(&worker, "172.18.0.2", "10.0.3.42:4790", &packet("a node to the egress address"))?;
    // Whoever may make a Service may lead one to a node's own address, and the CNI gives a pod's packet to another node its node's address.
    let service = "table ip service { chain come { type nat hook prerouting priority dstnat; \
                   udp dport 30000 dnat to 172.18.0.3:4790; }; }";
    stand.lab.node("kind-worker2")?.nft(service)?;
    send_to(&worker, "172.18.0.2", "172.18.0.3:30000", &packet("a Service that leads to the tunnel"))?;
    // What comes last and is heard shows that the others were not on their way any more.
    send(&worker, "172.18.0.2", &packet("a node"))?;
    assert!(wait_until(DEADLINE, || !received(&stand).is_empty()), "the packet of a node is well formed");
    assert_eq!(received(&stand), [(EGRESS, "a node".to_owned())]);
    stand.assert_no_leak_but(&[])
}
