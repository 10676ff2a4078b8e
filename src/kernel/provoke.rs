//! Makes the client of a TCP connection speak: it gets a segment with a sequence number that is none of the connection's, and answers
//! with an acknowledgement (RFC 9293, 3.10.7.4), which takes the connection's present way.
//!
//! The segment is sent by a socket in repair mode, so that it needs no raw socket and no right but CAP_NET_ADMIN: such a socket is
//! connected without a packet, and sends a window probe when it leaves the mode (`tcp_send_window_probe`, net/ipv4/tcp_output.c). It is
//! sent to the address that the connection is translated to, and connection tracking turns it to the pod as any reply: a socket with
//! the pod's own address would be found for the pod's answer, which the kernel then does not forward (`ip_forward`). Not here: for
//! which connections.

use std::net::SocketAddr;
use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, setsockopt, socket, sockopt,
};

/// Sends a segment from the connection's other end to the address that its client is translated to. `mark`: that of replies.
pub fn provoke(translated: SocketAddr, server: SocketAddr, mark: u32) -> Result<(), Errno> {
    let family = if server.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let own = socket(family, SockType::Stream, SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&own, sockopt::Mark, &mark)?;
    setsockopt(&own, sockopt::IpTransparent, &true)?;
    setsockopt(&own, sockopt::TcpRepair, &ON)?;
    bind(own.as_raw_fd(), &SockaddrStorage::from(server))?;
    connect(own.as_raw_fd(), &SockaddrStorage::from(translated))?;
    setsockopt(&own, sockopt::TcpRepair, &OFF)?;
    // Back, or it would say goodbye when it is closed.
    setsockopt(&own, sockopt::TcpRepair, &ON)
}

/// `TCP_REPAIR_ON` and `TCP_REPAIR_OFF`, include/uapi/linux/tcp.h.
const ON: u32 = 1;
/// See [`ON`].
const OFF: u32 = 0;
