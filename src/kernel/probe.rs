//! Sends probes: a TCP connection to the probes' address, with an exit's mark. A gateway that serves the exit answers with a reset.
//!
//! TCP, because the kernel limits the rate of ICMP errors for all senders together (`icmp_global_allow`, net/ipv4/icmp.c), but not of
//! resets; and because a socket of its own needs no raw packets and no right but that to set a mark (CAP_NET_ADMIN). Not here: when probes are due and what silence
//! means (`core::liveness`).

use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, connect, getsockopt, setsockopt, socket, sockopt,
};

/// A probe on its way. When it is dropped, nothing is sent.
#[derive(Debug)]
pub struct Probe {
    socket: OwnedFd,
    /// Sending failed at once: there is no route, for example.
    failed: Option<Errno>,
}

/// Why a probe could not be sent.
pub type SendError = Errno;

impl Probe {
    /// Sends a probe with a packet mark.
    pub fn send(mark: u32, to: SocketAddr) -> Result<Self, SendError> {
        let family = if to.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let socket = socket(family, SockType::Stream, flags, None)?;
        setsockopt(&socket, sockopt::Mark, &mark)?;
        let to = SockaddrStorage::from(to);
        let failed = match connect(socket.as_raw_fd(), &to) {
            Ok(()) | Err(Errno::EINPROGRESS) => None,
            Err(error) => Some(error),
        };
        Ok(Self { socket, failed })
    }

    /// Whether the gateway has answered; none: nothing has come yet. Any other error than a reset is no answer.
    pub fn answer(&self) -> Option<bool> {
        if let Some(error) = self.failed {
            return Some(error == Errno::ECONNREFUSED);
        }
        match getsockopt(&self.socket, sockopt::SocketError) {
            Ok(0) | Err(_) => None,
            Ok(error) => Some(Errno::from_raw(error) == Errno::ECONNREFUSED),
        }
    }

    /// Waits until one of these probes, or none, has an event, at most for this long.
    pub fn wait<'p>(probes: impl Iterator<Item = &'p Self>, timeout: Duration) {
        let events = PollFlags::POLLERR | PollFlags::POLLHUP;
        let mut descriptors: Vec<PollFd<'_>> = probes
            .filter(|probe| probe.failed.is_none())
            .map(|probe| PollFd::new(probe.socket.as_fd(), events))
            .collect();
        // Rounded up: a wait that ends early only comes again.
        let timeout = timeout.as_millis().saturating_add(1).min(u128::from(u16::MAX));
        let timeout = PollTimeout::from(u16::try_from(timeout).unwrap_or(u16::MAX));
        // An interruption is as good as a timeout.
        let _ = poll(&mut descriptors, timeout);
    }
}
