//! Watches network sysctls below `/proc/sys/net` for writes by other processes.
//!
//! The kernel notifies about `forwarding` in both families and IPv4's `rp_filter` (`inet_netconf_notify_devconf` in
//! net/ipv4/devinet.c, `inet6_netconf_notify_devconf` in net/ipv6/addrconf.c), without the writer. For `disable_ipv6` it
//! notifies only where an address is added or removed with it, so these few files are polled.

use std::fs::read;
use std::io;
use std::time::Duration;

use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{AsyncSocket, AsyncSocketExt, TokioSocket};
use nix::errno::Errno;
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::nft::socket::is;
use super::nft::wire::{self, Malformed, Message, Messages};
use crate::core::state::ownership::TUNNEL;

/// include/uapi/linux/rtnetlink.h.
const RTM_NEWNETCONF: u16 = 80;
const RTNLGRP_IPV4_NETCONF: u32 = 24;
const RTNLGRP_IPV6_NETCONF: u32 = 25;
/// include/uapi/linux/netconf.h: whose setting it is, and which.
const NETCONFA_IFINDEX: u16 = 1;
const NETCONFA_FORWARDING: u16 = 2;
const NETCONFA_RP_FILTER: u16 = 3;
const NETCONFA_IFINDEX_DEFAULT: i32 = -2;
/// `struct netconfmsg`, padded.
const HEADER: usize = 4;

/// A datagram holds one or two small messages.
const DATAGRAM: usize = 16 * 1024;
/// Polling interval of sysctls without notification.
const READ: Duration = Duration::from_secs(5);

/// A change of a sysctl.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SettingEvent {
    /// A sysctl was written.
    Changed,
    /// The socket overran: changes were lost.
    Overrun,
}

/// The socket, and the last value read of each polled sysctl.
pub(super) struct Netconf {
    socket: TokioSocket,
    datagram: Vec<u8>,
    reads: Interval,
    read: [Option<Vec<u8>>; 2],
}

impl Netconf {
    /// Opens the socket in the network namespace of the calling thread. Must be called within a tokio runtime.
    pub(super) fn open() -> io::Result<Self> {
        let mut socket = TokioSocket::new(NETLINK_ROUTE)?;
        socket.socket_mut().bind_auto()?;
        for group in [RTNLGRP_IPV4_NETCONF, RTNLGRP_IPV6_NETCONF] {
            socket.socket_mut().add_membership(group)?;
        }
        let mut reads = interval(READ);
        reads.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ok(Self { socket, datagram: Vec::with_capacity(DATAGRAM), reads, read: polled() })
    }

    /// Waits for the next change. Cancel-safe.
    pub(super) async fn next(&mut self) -> io::Result<SettingEvent> {
        loop {
            self.datagram.clear();
            let received = tokio::select! {
                received = self.socket.recv(&mut self.datagram) => received,
                _ = self.reads.tick() => {
                    let now = polled();
                    if std::mem::replace(&mut self.read, now.clone()) == now {
                        continue;
                    }
                    return Ok(SettingEvent::Changed);
                }
            };
            match received {
                Ok(()) if concerns_us(&self.datagram) => return Ok(SettingEvent::Changed),
                Ok(()) => {}
                Err(error) if is(&error, Errno::ENOBUFS) => return Ok(SettingEvent::Overrun),
                Err(error) => return Err(error),
            }
        }
    }
}

/// The sysctls that the kernel does not notify about.
fn polled() -> [Option<Vec<u8>>; 2] {
    ["all", TUNNEL].map(|of| read(format!("/proc/sys/net/ipv6/conf/{of}/disable_ipv6")).ok())
}

/// Whether a datagram announces a write. A malformed one counts as a write.
fn concerns_us(datagram: &[u8]) -> bool {
    Messages(datagram).any(|message| message.and_then(|message| is_written(&message)).unwrap_or(true))
}

/// A write has a message with the one attribute; a message with all attributes announces a new interface, which its link
/// event covers.
fn is_written(message: &Message<'_>) -> Result<bool, Malformed> {
    if message.kind != RTM_NEWNETCONF {
        return Ok(false);
    }
    let attributes = message.body.get(HEADER..).ok_or(Malformed { what: "netconf header" })?;
    let index = wire::find(attributes, NETCONFA_IFINDEX)?.and_then(|number| number.try_into().ok());
    let has = |kind| wire::find(attributes, kind).map(|found| found.is_some());
    let of_future_interfaces = index.map(i32::from_ne_bytes) == Some(NETCONFA_IFINDEX_DEFAULT);
    Ok((has(NETCONFA_FORWARDING)? != has(NETCONFA_RP_FILTER)?) && !of_future_interfaces)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A message of this kind about this interface, with these settings.
    fn message(kind: u16, index: i32, settings: &[u16]) -> Vec<u8> {
        let mut body = vec![2, 0, 0, 0];
        for (setting, value) in [(NETCONFA_IFINDEX, index)].into_iter().chain(settings.iter().map(|one| (*one, 1))) {
            body.extend(8_u16.to_ne_bytes());
            body.extend(setting.to_ne_bytes());
            body.extend(value.to_ne_bytes());
        }
        let length = u32::try_from(16 + body.len()).expect("short");
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend([0; 10]);
        bytes.extend(body);
        bytes
    }

    #[test]
    fn a_sysctl_write_is_an_event_and_a_new_interface_is_not() {
        const ALL: i32 = -1;
        for index in [ALL, 7] {
            assert!(concerns_us(&message(RTM_NEWNETCONF, index, &[NETCONFA_FORWARDING])));
            assert!(concerns_us(&message(RTM_NEWNETCONF, index, &[NETCONFA_RP_FILTER])));
        }
        let new = message(RTM_NEWNETCONF, 7, &[NETCONFA_FORWARDING, NETCONFA_RP_FILTER, 4, 5]);
        assert!(!concerns_us(&new));
        assert!(!concerns_us(&message(RTM_NEWNETCONF, NETCONFA_IFINDEX_DEFAULT, &[NETCONFA_FORWARDING])));
        assert!(!concerns_us(&message(RTM_NEWNETCONF, 7, &[5])), "proxy_arp is nothing to us");
        assert!(!concerns_us(&message(RTM_NEWNETCONF + 1, 7, &[NETCONFA_FORWARDING])), "an interface that goes");
        let both = [new, message(RTM_NEWNETCONF, 7, &[NETCONFA_RP_FILTER])].concat();
        assert!(concerns_us(&both));
        assert!(concerns_us(&both[..both.len() - 1]), "what cannot be read is a reason to look");
    }
}
