//! A netlink socket of the netfilter subsystem: one request at a time, answers matched by sequence number.
//!
//! The kernel handles a request within `sendmsg`, so the answers are there at once; the only wait is for the socket to be
//! writable.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use netlink_sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket};
use nix::errno::Errno;
use nix::sys::socket::{setsockopt, sockopt};
use thiserror::Error;

use super::uapi::*;
use super::wire::{self, Malformed, Message, Messages};

/// `NETLINK_NETFILTER` of include/uapi/linux/netlink.h.
const NETLINK_NETFILTER: isize = 12;

/// Maximum size of one `recvmsg`: the kernel's dumps come in pieces of at most 32 KiB.
const DATAGRAM: usize = 256 * 1024;

/// A thousand errors about one batch overrun the default of 208 KiB, and then not even the first can be read.
pub(in crate::kernel) const LARGE_BUFFER: usize = 1 << 20;

/// Why a request failed.
#[derive(Debug, Error)]
pub enum ExchangeError {
    /// The socket failed.
    #[error("exchange messages with the kernel over netlink")]
    Socket(#[source] io::Error),
    /// The kernel refused.
    #[error("the kernel refused{}", .text.as_deref().map(|text| format!(" ({text})")).unwrap_or_default())]
    Refused {
        /// The kernel's extended error text, if any (`NLMSGERR_ATTR_MSG`).
        text: Option<String>,
        /// Its error number.
        #[source]
        errno: io::Error,
    },
    /// The answer is not valid netlink.
    #[error("read the kernel's answer")]
    Malformed(#[source] Malformed),
    /// The request is larger than a netlink socket may send here.
    #[error(
        "{bytes} bytes are more than a netlink socket may send at once here (net.core.wmem_max, without CAP_NET_ADMIN)"
    )]
    TooLarge {
        /// The size of the request in bytes.
        bytes: usize,
    },
    /// The socket overran: answers were lost.
    #[error("the kernel's answer was lost: it was more than the socket's buffer holds")]
    Lost,
    /// A dump that changed while it was read.
    #[error("the listing changed while it was read")]
    Interrupted,
}

/// The kernel's answer to one message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::kernel) struct Verdict {
    /// 0 for success, otherwise an error number.
    pub(in crate::kernel) errno: i32,
    /// Its extended error text.
    pub(in crate::kernel) text: Option<String>,
    /// The byte offset in the message that it is about.
    pub(in crate::kernel) offset: Option<u32>,
}

impl Verdict {
    /// Decodes `NLMSG_ERROR` or `NLMSG_DONE`; none for any other message.
    pub(in crate::kernel) fn read(message: &Message<'_>) -> Result<Option<Self>, Malformed> {
        if message.kind != NLMSG_ERROR && message.kind != NLMSG_DONE {
            return Ok(None);
        }
        let malformed = Malformed { what: "answer" };
        let errno = match message.body.get(..4) {
            Some(number) => wire::host_u32(number)?.cast_signed().checked_neg().ok_or(malformed)?,
            // A dump's end without an error number.
            None => 0,
        };
        let mut verdict = Self { errno, text: None, offset: None };
        if message.flags & NLM_F_ACK_TLVS != 0 {
            let attributes = message.body.get(echo_end(message, errno)?..).unwrap_or_default();
            verdict.text = wire::find_text(attributes, NLMSGERR_ATTR_MSG)?.map(str::to_owned);
            // Offsets are in host order, unlike netfilter's own numbers.
            verdict.offset = wire::find(attributes, NLMSGERR_ATTR_OFFS)?.map(wire::host_u32).transpose()?;
        }
        Ok(Some(verdict))
    }

    pub(in crate::kernel) fn into_result(self) -> Result<(), ExchangeError> {
        match self.errno {
            0 => Ok(()),
            errno => Err(ExchangeError::Refused { text: self.text, errno: io::Error::from_raw_os_error(errno) }),
        }
    }
}

/// Where the attributes of an answer begin: behind the error number and the echoed request, which may be its header
/// alone.
fn echo_end(message: &Message<'_>, errno: i32) -> Result<usize, Malformed> {
    if message.kind == NLMSG_DONE {
        return Ok(4);
    }
    if message.flags & NLM_F_CAPPED != 0 || errno == 0 {
        return Ok(20);
    }
    let length = message.body.get(4..8).ok_or(Malformed { what: "answer" })?;
    Ok(4 + wire::align(wire::host_u32(length)? as usize))
}

impl AsFd for NetfilterSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.socket_ref().as_fd()
    }
}

/// The socket.
pub(in crate::kernel) struct NetfilterSocket {
    socket: TokioSocket,
    port: u32,
    sequence: u32,
    send_buffer: usize,
    datagram: Vec<u8>,
}

impl NetfilterSocket {
    /// Opens a socket with a port of its own, in the network namespace of the calling thread. `receive_buffer` is its
    /// size in bytes.
    pub(in crate::kernel) fn open(receive_buffer: usize) -> io::Result<Self> {
        let mut socket = TokioSocket::new(NETLINK_NETFILTER)?;
        socket.socket_mut().bind_auto()?;
        socket.socket_ref().set_ext_ack(true)?;
        socket.socket_ref().set_cap_ack(true)?;
        let mut address = SocketAddr::new(0, 0);
        socket.socket_ref().get_address(&mut address)?;
        // A larger buffer is optional: where neither call is permitted the default remains, and an overrun is reported.
        let _ = setsockopt(socket.socket_ref(), sockopt::RcvBufForce, &receive_buffer)
            .or_else(|_| setsockopt(socket.socket_ref(), sockopt::RcvBuf, &receive_buffer));
        let port = address.port_number();
        Ok(Self { socket, port, sequence: 1, send_buffer: 0, datagram: Vec::with_capacity(DATAGRAM) })
    }

    /// Joins a multicast group.
    pub(in crate::kernel) fn join(&mut self, group: u32) -> io::Result<()> {
        self.socket.socket_mut().add_membership(group)
    }

    /// The netlink port, by which the kernel identifies the owner of a table.
    pub(in crate::kernel) fn port(&self) -> u32 {
        self.port
    }

    /// Reserves this many unused sequence numbers, and returns the first.
    pub(in crate::kernel) fn reserve(&mut self, count: u32) -> u32 {
        let first = self.sequence;
        self.sequence = self.sequence.wrapping_add(count);
        first
    }

    /// Sends all of it in one `sendmsg`: a batch in two would be two batches.
    pub(in crate::kernel) async fn send(&mut self, bytes: &[u8]) -> Result<(), ExchangeError> {
        self.make_room(bytes.len());
        match self.socket.send(bytes).await {
            Ok(_) => Ok(()),
            Err(error) if is(&error, Errno::EMSGSIZE) => Err(ExchangeError::TooLarge { bytes: bytes.len() }),
            Err(error) => Err(ExchangeError::Socket(error)),
        }
    }

    /// Enlarges the send buffer, if permitted; otherwise `send` reports the failure.
    fn make_room(&mut self, bytes: usize) {
        /// Below the smallest default (net.core.wmem_default) there is always room.
        const ALWAYS: usize = 64 * 1024;
        if bytes > self.send_buffer.max(ALWAYS) {
            let socket = self.socket.socket_ref();
            let _ = setsockopt(socket, sockopt::SndBufForce, &bytes)
                .or_else(|_| setsockopt(socket, sockopt::SndBuf, &bytes));
            self.send_buffer = bytes;
        }
    }

    /// The next datagram: one or more messages. After [`ExchangeError::Lost`], `receive_now` may return more.
    pub(in crate::kernel) async fn receive(&mut self) -> Result<&[u8], ExchangeError> {
        self.wait().await?;
        Ok(&self.datagram)
    }

    async fn wait(&mut self) -> Result<(), ExchangeError> {
        self.datagram.clear();
        match self.socket.recv(&mut self.datagram).await {
            Ok(()) => Ok(()),
            Err(error) if is(&error, Errno::ENOBUFS) => Err(ExchangeError::Lost),
            Err(error) => Err(ExchangeError::Socket(error)),
        }
    }

    /// A datagram that has already arrived; none if all are read.
    ///
    /// After an overrun everything has to be read: until then the kernel drops further messages without reporting it
    /// again (net/netlink/af_netlink.c, `NETLINK_S_CONGESTED`).
    pub(in crate::kernel) fn receive_now(&mut self) -> Option<&[u8]> {
        self.datagram.clear();
        loop {
            match self.socket.socket_ref().recv(&mut self.datagram, 0) {
                Ok(_) => return Some(&self.datagram),
                // Reported once for each overrun, so this ends.
                Err(error) if is(&error, Errno::ENOBUFS) || is(&error, Errno::EINTR) => {}
                Err(_) => return None,
            }
        }
    }

    /// Sends one message, built with its sequence number, and passes on every message of the answer, up to its end.
    pub(in crate::kernel) async fn ask(
        &mut self,
        request: impl FnOnce(u32) -> Vec<u8>,
        mut answer: impl FnMut(&Message<'_>) -> Result<(), Malformed>,
    ) -> Result<(), ExchangeError> {
        let sequence = self.reserve(1);
        let request = request(sequence);
        self.send(&request).await?;
        let mut interrupted = false;
        loop {
            if let Err(error) = self.wait().await {
                while self.receive_now().is_some() {}
                return Err(error);
            }
            for message in Messages(&self.datagram) {
                let message = message.map_err(ExchangeError::Malformed)?;
                if message.sequence != sequence {
                    // The rest of an abandoned answer.
                    continue;
                }
                interrupted |= message.flags & NLM_F_DUMP_INTR != 0;
                if message.kind == NLMSG_OVERRUN {
                    return Err(ExchangeError::Lost);
                }
                match Verdict::read(&message).map_err(ExchangeError::Malformed)? {
                    Some(_) if interrupted => return Err(ExchangeError::Interrupted),
                    Some(verdict) => return verdict.into_result(),
                    None => answer(&message).map_err(ExchangeError::Malformed)?,
                }
            }
        }
    }
}

/// Whether an error is this one.
pub(in crate::kernel) fn is(error: &io::Error, errno: Errno) -> bool {
    error.raw_os_error() == Some(errno as i32)
}
