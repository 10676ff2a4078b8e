//! Sockets of transfers, inside the tunnel: a source's, which sends by an exit's mark, and a gateway's.
//!
//! Not here: what they carry (`core::transfer`).

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, setsockopt, socket, sockopt,
};
use tokio::net::UdpSocket;

use crate::core::compile::{TRANSFER_PORT, transfer_address};
use crate::core::state::nft::AddressFamily as Family;

/// The socket of a gateway. `mark`: that of replies, by which its answers are routed. Must be called within a tokio runtime.
///
/// No interface has its address, so it is transparent (CAP_NET_ADMIN).
pub fn listen(family: Family, mark: u32) -> io::Result<UdpSocket> {
    let own = open(family, mark)?;
    setsockopt(&own, sockopt::IpTransparent, &true)?;
    bind(own.as_raw_fd(), &SockaddrStorage::from(there(family)))?;
    ready(own)
}

/// The socket of a source. `mark`: that of the exit whose gateway it is for. Must be called within a tokio runtime.
pub fn towards(family: Family, mark: u32) -> io::Result<UdpSocket> {
    let own = open(family, mark)?;
    connect(own.as_raw_fd(), &SockaddrStorage::from(there(family)))?;
    ready(own)
}

fn there(family: Family) -> SocketAddr {
    SocketAddr::new(transfer_address(family), TRANSFER_PORT)
}

fn open(family: Family, mark: u32) -> io::Result<OwnedFd> {
    let family = if family == Family::V4 { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let own = socket(family, SockType::Datagram, flags, None)?;
    setsockopt(&own, sockopt::Mark, &mark)?;
    Ok(own)
}

fn ready(own: OwnedFd) -> io::Result<UdpSocket> {
    UdpSocket::from_std(std::net::UdpSocket::from(own))
}

/// The source of a datagram.
pub fn source(address: SocketAddr) -> IpAddr {
    address.ip().to_canonical()
}
