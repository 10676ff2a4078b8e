//! Asks on a link who has an address, and announces that this node has it: ARP (RFC 826, RFC 5227) and neighbour
//! discovery (RFC 4861).
//!
//! | message | IPv4 | IPv6 |
//! |---|---|---|
//! | question | ARP probe: request with sender address 0.0.0.0, to all | solicitation from the link-local address, to the address's solicited-node group |
//! | announcement | ARP announcement: request with sender and target address alike | advertisement with the override flag, to all nodes |
//! | claim | ARP probe to the holder; the target's hardware address, which no host reads, has the claim | solicitation, to the address's group, with an option of type 253 (RFC 4727) |
//! | answer to a claim | the same, to the host that claimed | the same, to all nodes: who claims an address is not in its group |
//!
//! The holder's kernel answers questions and claims alike, whether or not Egret runs there; only an agent gives way. Whoever may send such
//! packets on a link can take any address there anyway. Not here: when to ask and what follows (`core::assignment::holding`).

use std::collections::BTreeMap;
use std::io::IoSliceMut;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn6, recvfrom,
    recvmsg, sendto, setsockopt, socket, sockopt,
};
use rustix::net::{AddressFamily as Domain, SocketFlags, SocketType, eth, socket_with};

use crate::core::assignment::holding::{Heard, Message, Says};
use crate::core::state::net::Mac;

/// Marks what only Egret understands.
const CLAIM: [u8; 2] = *b"eg";
/// The third byte of [`Message::Give`] and of [`Message::Keep`]; 0 and 1 are claims.
const GIVES: u8 = 2;
const KEEPS: u8 = 3;
/// Most sources that a claim can report.
const MOST: u32 = 0xff_ffff;

/// `ff02::1`
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
/// Types of ICMPv6, and of options (RFC 4861; RFC 4727 for the experimental one).
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
const SOURCE_LINK: u8 = 1;
const TARGET_LINK: u8 = 2;
const EXPERIMENT: u8 = 253;
/// What no router has forwarded (RFC 4861, 7.1).
const FROM_THE_LINK: i32 = 255;

/// The sockets.
pub struct LinkSockets {
    arp: OwnedFd,
    /// None where IPv6 is switched off.
    icmp6: Option<OwnedFd>,
    links: BTreeMap<String, LinkAddr>,
}

impl LinkSockets {
    /// Opens the sockets in the network namespace of the calling thread.
    pub fn open() -> std::io::Result<Self> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let arp = socket_with(Domain::PACKET, SocketType::RAW, flags, Some(eth::ARP))?;
        Ok(Self { arp, icmp6: icmp6().ok(), links: BTreeMap::new() })
    }

    /// Reads the interfaces again: an index and a MAC address change when one is recreated.
    pub fn refresh(&mut self) -> std::io::Result<BTreeMap<String, Mac>> {
        let of_link = |one: nix::ifaddrs::InterfaceAddress| {
            Some((one.interface_name, one.address.as_ref()?.as_link_addr().copied()?))
        };
        self.links = getifaddrs()?.filter_map(of_link).collect();
        Ok(self.links.iter().filter_map(|(name, link)| Some((name.clone(), Mac(link.addr()?)))).collect())
    }

    /// Sends a message about an address. A link that is not there is no error: the next round knows of it.
    pub fn send(&self, link: &str, address: IpAddr, message: &Message) -> std::io::Result<()> {
        let Some(to) = self.links.get(link) else { return Ok(()) };
        let Some(own) = to.addr() else { return Ok(()) };
        match (address, &self.icmp6) {
            (IpAddr::V4(address), _) => {
                let frame = arp(own, address, message);
                sendto(self.arp.as_raw_fd(), &frame, to, MsgFlags::empty())?;
            }
            (IpAddr::V6(address), Some(socket)) => {
                let (group, packet) = neighbour(own, address, message);
                let index = u32::try_from(to.ifindex()).map_err(|_| Errno::ENODEV)?;
                let group = SockaddrIn6::from(SocketAddrV6::new(group, 0, 0, index));
                sendto(socket.as_raw_fd(), &packet, &group, MsgFlags::empty())?;
            }
            (IpAddr::V6(_), None) => return Err(Errno::EAFNOSUPPORT.into()),
        }
        Ok(())
    }

    /// What has come since the last call: the interface, the address and the message.
    pub fn received(&self) -> Vec<(String, IpAddr, Heard)> {
        let mut all = Vec::new();
        let mut frame = [0; 128];
        while let Ok((length, from)) = recvfrom::<LinkAddr>(self.arp.as_raw_fd(), &mut frame) {
            if let (Some(from), Some(read)) = (from, frame.get(..length).and_then(of_arp)) {
                all.extend(self.to_this_node(from.ifindex(), read));
            }
        }
        let Some(socket) = &self.icmp6 else { return all };
        while let Ok((index, read)) = neighbour_message(socket) {
            all.extend(read.and_then(|read| self.to_this_node(index, read)));
        }
        all
    }

    /// The message with its interface, if it is for this node.
    fn to_this_node<A: Into<IpAddr>>(&self, index: usize, read: Read<A>) -> Option<(String, IpAddr, Heard)> {
        let (name, link) = self.links.iter().find(|(_, link)| link.ifindex() == index)?;
        let ours = read.to.is_none_or(|to| link.addr() == Some(to.0));
        ours.then(|| (name.clone(), read.address.into(), read.heard))
    }
}

/// Wakes a thread that waits for packets.
#[derive(Debug, Clone)]
pub struct Waker(Arc<EventFd>);

impl Waker {
    /// No wake is pending.
    pub fn new() -> std::io::Result<Self> {
        Ok(Self(Arc::new(EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?)))
    }

    /// Ends the wait that goes on, or the next one.
    pub fn wake(&self) {
        // It cannot be written to where it is full, and then it wakes all the same.
        let _ = self.0.write(1);
    }

    /// Waits until a packet has come or this thread is woken, at most for this long.
    pub fn wait(&self, sockets: Option<&LinkSockets>, timeout: Duration) {
        let packets = sockets.map(|sockets| (sockets.arp.as_fd(), sockets.icmp6.as_ref().map(AsFd::as_fd)));
        let (arp, icmp6) = packets.unzip();
        let all = [Some(self.0.as_fd()), arp, icmp6.flatten()].into_iter().flatten();
        let mut all: Vec<PollFd<'_>> = all.map(|one| PollFd::new(one, PollFlags::POLLIN)).collect();
        let timeout = u16::try_from(timeout.as_millis()).unwrap_or(u16::MAX).max(1);
        // An interruption is as good as a timeout.
        let _ = poll(&mut all, PollTimeout::from(timeout));
        // It fails if this thread was not woken.
        let _ = self.0.read();
    }
}

fn icmp6() -> Result<OwnedFd, Errno> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let opened = socket(AddressFamily::Inet6, SockType::Raw, flags, SockProtocol::IcmpV6)?;
    setsockopt(&opened, sockopt::Ipv6MulticastHops, &FROM_THE_LINK)?;
    setsockopt(&opened, sockopt::Ipv6RecvHopLimit, &true)?;
    setsockopt(&opened, sockopt::Ipv6RecvPacketInfo, &true)?;
    Ok(opened)
}

/// What only Egret understands, in six bytes: the mark, what it is, and how many sources.
fn signed(message: &Message) -> Option<[u8; 6]> {
    let (kind, wanted) = match message {
        Message::Ask | Message::Announce => return None,
        Message::Claim { wanted, preferred, .. } => (u8::from(*preferred), *wanted),
        Message::Give { .. } => (GIVES, 0),
        Message::Keep { .. } => (KEEPS, 0),
    };
    let [_, high, middle, low] = wanted.min(MOST).to_be_bytes();
    Some([CLAIM[0], CLAIM[1], kind, high, middle, low])
}

fn read_signed(bytes: &[u8]) -> Option<Says> {
    let [e, g, kind, high, middle, low] = bytes.try_into().ok()?;
    let wanted = u32::from_be_bytes([0, high, middle, low]);
    match kind {
        _ if [e, g] != CLAIM => None,
        0 | 1 => Some(Says::Claims { wanted, preferred: kind == 1 }),
        GIVES => Some(Says::Gives),
        KEEPS => Some(Says::Keeps),
        _ => None,
    }
}

/// The host that a message is for; none: all.
fn to(message: &Message) -> Option<Mac> {
    match message {
        Message::Ask | Message::Announce => None,
        Message::Claim { to, .. } | Message::Give { to } | Message::Keep { to } => Some(*to),
    }
}

/// A message as it was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Read<A> {
    /// The address that it is about.
    address: A,
    /// The host that it is for; none: all.
    to: Option<Mac>,
    heard: Heard,
}

/// An Ethernet frame with an ARP packet.
fn arp(own: [u8; 6], address: Ipv4Addr, message: &Message) -> Vec<u8> {
    let to = to(message).map_or([0xff; 6], |to| to.0);
    let sender = if *message == Message::Announce { address } else { Ipv4Addr::UNSPECIFIED };
    let mut frame = Vec::with_capacity(60);
    frame.extend(to);
    frame.extend(own);
    // ARP; Ethernet, IPv4, their lengths, a request.
    frame.extend([0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, 1]);
    frame.extend(own);
    frame.extend(sender.octets());
    frame.extend(signed(message).unwrap_or_default());
    frame.extend(address.octets());
    // The least that Ethernet has.
    frame.resize(60, 0);
    frame
}

/// The address that an ARP packet is about, if it is one of those above.
fn of_arp(frame: &[u8]) -> Option<Read<Ipv4Addr>> {
    let to = Mac(frame.get(..6)?.try_into().ok()?);
    let packet = frame.get(14..42)?;
    if packet.get(..6)? != [0, 1, 0x08, 0, 6, 4] {
        return None;
    }
    let from = Mac(packet.get(8..14)?.try_into().ok()?);
    let address = |at: usize| Some(Ipv4Addr::from(<[u8; 4]>::try_from(packet.get(at..at + 4)?).ok()?));
    let (sender, target) = (address(14)?, address(24)?);
    if !sender.is_unspecified() {
        // Whoever sends with an address has it (RFC 5227, 2.4).
        return Some(Read { address: sender, to: None, heard: Heard { from, says: Says::Has } });
    }
    let says = read_signed(packet.get(18..24)?)?;
    Some(Read { address: target, to: Some(to), heard: Heard { from, says } })
}

/// An ICMPv6 message, and the group it goes to. The kernel fills the checksum in.
fn neighbour(own: [u8; 6], address: Ipv6Addr, message: &Message) -> (Ipv6Addr, Vec<u8>) {
    let announces = *message == Message::Announce;
    let (kind, flags, option) =
        if announces { (ADVERTISEMENT, 0x20, TARGET_LINK) } else { (SOLICITATION, 0, SOURCE_LINK) };
    let mut packet = vec![kind, 0, 0, 0, flags, 0, 0, 0];
    packet.extend(address.octets());
    packet.extend([option, 1]);
    packet.extend(own);
    if let (Some(signed), Some(to)) = (signed(message), to(message)) {
        packet.extend([EXPERIMENT, 2]);
        packet.extend(signed);
        packet.extend(to.0);
        packet.extend([0, 0]);
    }
    let [.., high, middle, low] = address.octets();
    let group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(high), u16::from_be_bytes([middle, low]));
    let to_all = matches!(message, Message::Announce | Message::Give { .. } | Message::Keep { .. });
    (if to_all { ALL_NODES } else { group }, packet)
}

/// The next packet: the index of its interface, and the message, if it is one.
fn neighbour_message(socket: &OwnedFd) -> Result<(usize, Option<Read<Ipv6Addr>>), Errno> {
    let mut bytes = [0; 512];
    let mut buffers = [IoSliceMut::new(&mut bytes)];
    let mut space = nix::cmsg_space!([u8; 64]);
    let (mut index, mut hops) = (0, 0);
    let length = {
        let received = recvmsg::<SockaddrIn6>(socket.as_raw_fd(), &mut buffers, Some(&mut space), MsgFlags::empty())?;
        for message in received.cmsgs()? {
            match message {
                ControlMessageOwned::Ipv6PacketInfo(info) => index = usize::try_from(info.ipi6_ifindex).unwrap_or(0),
                ControlMessageOwned::Ipv6HopLimit(limit) => hops = limit,
                _ => {}
            }
        }
        received.bytes
    };
    Ok((index, bytes.get(..length).filter(|_| hops == FROM_THE_LINK).and_then(of_neighbour)))
}

/// The address that a message of neighbour discovery is about, if it is one of those above.
fn of_neighbour(packet: &[u8]) -> Option<Read<Ipv6Addr>> {
    let (kind, code) = (*packet.first()?, *packet.get(1)?);
    if code != 0 || !matches!(kind, SOLICITATION | ADVERTISEMENT) {
        return None;
    }
    let address = Ipv6Addr::from(<[u8; 16]>::try_from(packet.get(8..24)?).ok()?);
    let mac = |bytes: Option<&[u8]>| Some(Mac(bytes?.try_into().ok()?));
    let (mut from, mut to, mut says) = (None, None, (kind == ADVERTISEMENT).then_some(Says::Has));
    let mut options = packet.get(24..)?;
    while let [of, length, ..] = options
        && *length > 0
    {
        let (option, rest) = options.split_at_checked(usize::from(*length) * 8)?;
        match (kind, *of) {
            (SOLICITATION, SOURCE_LINK) | (ADVERTISEMENT, TARGET_LINK) => {
                from = mac(option.get(2..8));
            }
            (SOLICITATION, EXPERIMENT) => {
                says = option.get(2..8).and_then(read_signed);
                to = Some(mac(option.get(8..14))?);
            }
            _ => {}
        }
        options = rest;
    }
    Some(Read { address, to, heard: Heard { from: from?, says: says? } })
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: [u8; 6] = [2, 0, 0, 0, 0, 7];
    const HOLDER: Mac = Mac([2, 0, 0, 0, 0, 9]);

    fn claim() -> Message {
        Message::Claim { to: HOLDER, wanted: 0x01_0203, preferred: true }
    }

    #[test]
    fn a_question_tells_nobody_anything_and_the_others_say_who_and_what_to_whom() {
        let address = Ipv4Addr::new(10, 0, 3, 100);
        let has = Heard { from: Mac(OWN), says: Says::Has };
        assert_eq!(of_arp(&arp(OWN, address, &Message::Ask)), None);
        assert_eq!(of_arp(&arp(OWN, address, &Message::Announce)), Some(Read { address, to: None, heard: has }));
        assert_eq!(arp(OWN, address, &claim())[..6], HOLDER.0);
        let address6: Ipv6Addr = "2001:db8::12:3456".parse().unwrap();
        let group: Ipv6Addr = "ff02::1:ff12:3456".parse().unwrap();
        let (to, packet) = neighbour(OWN, address6, &Message::Ask);
        assert_eq!((to, of_neighbour(&packet)), (group, None));
        let (to, packet) = neighbour(OWN, address6, &Message::Announce);
        let announced = Read { address: address6, to: None, heard: has };
        assert_eq!((to, of_neighbour(&packet)), (ALL_NODES, Some(announced)));
        // Only the holder is in the group of the address.
        for (message, says, group) in [
            (claim(), Says::Claims { wanted: 0x01_0203, preferred: true }, group),
            (Message::Give { to: HOLDER }, Says::Gives, ALL_NODES),
            (Message::Keep { to: HOLDER }, Says::Keeps, ALL_NODES),
        ] {
            let (heard, to) = (Heard { from: Mac(OWN), says }, Some(HOLDER));
            let frame = arp(OWN, address, &message);
            assert_eq!((of_arp(&frame), frame.len()), (Some(Read { address, to, heard }), 60));
            let (sent_to, packet) = neighbour(OWN, address6, &message);
            assert_eq!((of_neighbour(&packet), sent_to), (Some(Read { address: address6, to, heard }), group));
        }
    }

    #[test]
    fn the_answer_of_a_kernel_is_that_it_has_the_address() {
        let mut reply = arp(HOLDER.0, Ipv4Addr::new(10, 0, 3, 100), &Message::Announce);
        // To the one who asked, whose address was 0.0.0.0.
        reply[21] = 2;
        reply[32..38].copy_from_slice(&OWN);
        reply[38..42].fill(0);
        let heard = Heard { from: HOLDER, says: Says::Has };
        assert_eq!(of_arp(&reply), Some(Read { address: Ipv4Addr::new(10, 0, 3, 100), to: None, heard }));
    }

    #[test]
    fn what_is_cut_short_or_of_another_kind_is_passed_over() {
        let frame = arp(OWN, Ipv4Addr::new(10, 0, 3, 100), &claim());
        for length in 0..42 {
            assert_eq!(of_arp(&frame[..length]), None);
        }
        let (_, packet) = neighbour(OWN, "2001:db8::1".parse().unwrap(), &claim());
        for length in 0..packet.len() {
            let read = of_neighbour(&packet[..length]);
            assert_eq!(read, None, "{length}");
        }
        let mut other = packet;
        // An option without a length would never end.
        other[25] = 0;
        assert_eq!(of_neighbour(&other), None);
    }
}
