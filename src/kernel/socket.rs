//! The rtnetlink socket: sends a message and returns its acknowledgement or dump, with the kernel's extended error text.
//!
//! rtnetlink's request types know only some attributes, and its errors lose the extended acknowledgement; hence plain
//! messages.

use futures::StreamExt;
use nix::errno::Errno;
use rtnetlink::Handle;
use rtnetlink::packet_core::{
    ErrorMessage, NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage,
    NetlinkPayload,
};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::sys::AsyncSocket;

/// Flags of a message that creates an object.
#[derive(Debug, Clone, Copy)]
pub(super) enum CreateMode {
    /// Create; an error if it exists.
    Create,
    /// Create or replace.
    Replace,
    /// Change or delete what exists.
    Plain,
}

/// Why a request failed: errno and the kernel's extended error text, if any.
#[derive(Debug, thiserror::Error)]
pub enum RouteError {
    /// The kernel refused.
    #[error("{}{} (errno {})", errno.desc(), if text.is_empty() { String::new() } else { format!(": {text}") }, *errno as i32)]
    Kernel {
        /// The error number.
        errno: Errno,
        /// The extended acknowledgement's text (`NLMSGERR_ATTR_MSG`, include/uapi/linux/netlink.h).
        text: String,
    },
    /// No answer: the connection's task has ended.
    #[error("the netlink connection is closed")]
    Closed,
    /// An interface that a step needs does not exist (any more).
    #[error("there is no interface {0}")]
    NoInterface(String),
}

impl RouteError {
    /// Whether permission was missing.
    pub fn is_permission(&self) -> bool {
        matches!(self, Self::Kernel { errno: Errno::EPERM | Errno::EACCES, .. })
    }

    /// Whether the object exists already.
    pub(super) fn is_exists(&self) -> bool {
        matches!(self, Self::Kernel { errno: Errno::EEXIST, .. })
    }

    /// Whether the object does not exist (any more).
    pub(super) fn is_missing(&self) -> bool {
        let missing = [Errno::ENOENT, Errno::ESRCH, Errno::ENODEV, Errno::EADDRNOTAVAIL];
        matches!(self, Self::Kernel { errno, .. } if missing.contains(errno))
    }
}

/// A route netlink socket and the task that serves it.
#[derive(Debug)]
pub(super) struct RouteSocket {
    handle: Handle,
    port: u32,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for RouteSocket {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl RouteSocket {
    /// Opens it in this thread's network namespace; must be called within a tokio runtime.
    pub(super) fn open() -> std::io::Result<Self> {
        // Strict checking enables dump filters, so that the kernel does not send thousands of foreign routes at all.
        let (mut connection, handle, _) = rtnetlink::new_connection_with_strict_check()?;
        let socket = connection.socket_mut().socket_mut();
        socket.set_ext_ack(true)?;
        socket.set_cap_ack(true)?;
        // Bound explicitly: before the first message the port would be 0, the kernel's own, and what the kernel does on
        // its own (routes deleted with their device) would be taken for this process's changes.
        let address = socket.bind_auto()?;
        let task = tokio::spawn(connection);
        Ok(Self { handle, port: address.port_number(), task })
    }

    /// The port number that the kernel's notifications bear when this socket caused them.
    pub(super) fn port(&self) -> u32 {
        self.port
    }

    /// Sends a message and waits until it has taken effect.
    pub(super) async fn execute(&self, message: RouteNetlinkMessage, manner: CreateMode) -> Result<(), RouteError> {
        let flags = match manner {
            CreateMode::Create => NLM_F_CREATE | NLM_F_EXCL,
            CreateMode::Replace => NLM_F_CREATE | NLM_F_REPLACE,
            CreateMode::Plain => 0,
        };
        self.exchange(message, NLM_F_REQUEST | NLM_F_ACK | flags).await.map(|_| ())
    }

    /// Sends a request for one object.
    pub(super) async fn get(&self, message: RouteNetlinkMessage) -> Result<Vec<RouteNetlinkMessage>, RouteError> {
        self.exchange(message, NLM_F_REQUEST | NLM_F_ACK).await
    }

    /// Sends a dump request and collects the answers.
    pub(super) async fn dump(&self, message: RouteNetlinkMessage) -> Result<Vec<RouteNetlinkMessage>, RouteError> {
        self.exchange(message, NLM_F_REQUEST | NLM_F_DUMP).await
    }

    /// Sends a request that has one answer.
    pub(super) async fn ask(&self, message: RouteNetlinkMessage) -> Result<Option<RouteNetlinkMessage>, RouteError> {
        Ok(self.exchange(message, NLM_F_REQUEST).await?.into_iter().next())
    }

    async fn exchange(&self, message: RouteNetlinkMessage, flags: u16) -> Result<Vec<RouteNetlinkMessage>, RouteError> {
        let mut request = NetlinkMessage::from(message);
        request.header.flags = flags;
        let mut answers = self.handle.clone().request(request).map_err(|_| RouteError::Closed)?;
        let mut messages = Vec::new();
        while let Some(answer) = answers.next().await {
            match answer.payload {
                NetlinkPayload::InnerMessage(message) => messages.push(message),
                NetlinkPayload::Error(ErrorMessage { code: Some(code), header, .. }) => {
                    let capped = answer.header.flags & NLM_F_CAPPED != 0;
                    let text = if answer.header.flags & NLM_F_ACK_TLVS == 0 {
                        String::new()
                    } else {
                        extended_text(&header, capped)
                    };
                    return Err(RouteError::Kernel { errno: Errno::from_raw(code.get().saturating_neg()), text });
                }
                _ => {}
            }
        }
        Ok(messages)
    }
}

/// The acknowledgement does not echo the failed request (include/uapi/linux/netlink.h).
const NLM_F_CAPPED: u16 = 0x100;
/// Extended acknowledgement attributes follow.
const NLM_F_ACK_TLVS: u16 = 0x200;
/// `NLMSGERR_ATTR_MSG`
const ATTRIBUTE_MESSAGE: u16 = 1;

/// The error text of an extended acknowledgement: attributes behind the header of the failed request, and behind the rest
/// of it unless it was capped. Never panics on malformed bytes.
fn extended_text(bytes: &[u8], capped: bool) -> String {
    let request =
        bytes.get(..4).map_or(0, |length| u32::from_ne_bytes([length[0], length[1], length[2], length[3]]) as usize);
    let skip = if capped { 16 } else { request.next_multiple_of(4) };
    let mut rest = bytes.get(skip..).unwrap_or_default();
    while let [low, high, kind_low, kind_high, ..] = rest {
        let length = usize::from(u16::from_ne_bytes([*low, *high]));
        let kind = u16::from_ne_bytes([*kind_low, *kind_high]) & 0x3fff;
        let Some(value) = rest.get(4..length) else { break };
        if kind == ATTRIBUTE_MESSAGE {
            return String::from_utf8_lossy(value).trim_end_matches('\0').to_owned();
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    String::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_extended_error_text_is_found_and_malformed_bytes_never_panic() {
        let mut bytes = vec![0u8; 16];
        bytes.extend([12, 0, 2, 0, 9, 9, 9, 9, 8, 8, 8, 8]);
        bytes.extend([9, 0, 1, 0]);
        bytes.extend(b"why.\0");
        assert_eq!(extended_text(&bytes, true), "why.");
        for length in 0..bytes.len() {
            let _ = extended_text(&bytes[..length], true);
            let _ = extended_text(&bytes[..length], false);
        }
        assert_eq!(extended_text(&[255; 64], true), "");
    }
}
