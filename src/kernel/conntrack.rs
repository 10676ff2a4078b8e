//! Connection tracking over netlink (ctnetlink): counts and deletes connections by mark, and those of pods' addresses
//! (`entries`), lists and enters those of exits (`flows`), listens to them (`events`), and reads its statistics (`statistics`).
//!
//! A live connection keeps its exit by its connection mark, so the connections of a removed exit must be deleted too.

mod entries;
mod events;
mod flows;
mod statistics;

pub use entries::{at_work, flush_sources, flush_translated, of_source};
pub use events::{FlowEvent, FlowEvents};
pub use flows::{Ends, Entered, Flow, FlowTable, Handle, NewFlow};
pub use statistics::{statistics, tracked};

use thiserror::Error;

use nix::errno::Errno;

use super::nft::socket::{self, ExchangeError, NetfilterSocket};
use super::nft::uapi::{NFPROTO_UNSPEC, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST};
use super::nft::wire::{self, Message, Writer};

/// include/uapi/linux/netfilter/nfnetlink.h and nfnetlink_conntrack.h.
const NFNL_SUBSYS_CTNETLINK: u16 = 1;
const IPCTNL_MSG_CT_NEW: u8 = 0;
const IPCTNL_MSG_CT_GET: u8 = 1;
const IPCTNL_MSG_CT_DELETE: u8 = 2;
const CTA_MARK: u16 = 8;
const CTA_MARK_MASK: u16 = 21;

/// Why connections could not be deleted or counted.
#[derive(Debug, Error)]
pub enum ConntrackError {
    /// The mask is empty, or the mark has bits outside it: that would select all connections, or none.
    #[error("{doing} connections with mark {mark:#x}/{mask:#x}: the mask is empty or does not cover the mark")]
    Mask {
        /// `flush` or `count`.
        doing: &'static str,
        /// The mark.
        mark: u32,
        /// Its mask.
        mask: u32,
    },
    /// The kernel has no ctnetlink: `CONFIG_NF_CT_NETLINK`.
    #[error("{doing} connections: this kernel has no ctnetlink (module nf_conntrack_netlink)")]
    Missing {
        /// `flush` or `count`.
        doing: &'static str,
    },
    /// The exchange about connections of pods' addresses failed.
    #[error("{doing} connections")]
    Sources {
        /// `flush` or `count`.
        doing: &'static str,
        /// The cause.
        #[source]
        source: ExchangeError,
    },
    /// The exchange failed.
    #[error("{doing} connections with mark {mark:#x}/{mask:#x}")]
    Exchange {
        /// `flush` or `count`.
        doing: &'static str,
        /// The mark.
        mark: u32,
        /// Its mask.
        mask: u32,
        /// The cause.
        #[source]
        source: ExchangeError,
    },
}

/// Deletes every connection, IPv4 and IPv6, whose mark under `mask` is `mark`; the next packet of each starts a new
/// connection. Must be called within a tokio runtime; works in the network namespace of the calling thread.
pub async fn flush(mark: u32, mask: u32) -> Result<(), ConntrackError> {
    exchange("flush", (mark, mask), (IPCTNL_MSG_CT_DELETE, NLM_F_ACK), |_| Ok(())).await
}

/// Counts the connections whose mark under `mask` is `mark`. Must be called within a tokio runtime; works in the network
/// namespace of the calling thread.
pub async fn count(mark: u32, mask: u32) -> Result<usize, ConntrackError> {
    let mut count = 0;
    let answer = |message: &Message<'_>| {
        if message.of_subsystem(NFNL_SUBSYS_CTNETLINK) == Some(IPCTNL_MSG_CT_NEW) {
            let (_, attributes) = message.netfilter()?;
            // Kernels without the filter list everything. An entry without CTA_MARK has mark 0.
            let found = wire::find_u32(attributes, CTA_MARK)?.unwrap_or(0);
            count += usize::from(found & mask == mark);
        }
        Ok(())
    };
    exchange("count", (mark, mask), (IPCTNL_MSG_CT_GET, NLM_F_DUMP), answer).await?;
    Ok(count)
}

async fn exchange(
    doing: &'static str,
    (mark, mask): (u32, u32),
    (kind, flags): (u8, u16),
    answer: impl FnMut(&Message<'_>) -> Result<(), wire::Malformed>,
) -> Result<(), ConntrackError> {
    if mask == 0 || mark & !mask != 0 {
        return Err(ConntrackError::Mask { doing, mark, mask });
    }
    let failed = |source| ConntrackError::Exchange { doing, mark, mask, source };
    let mut socket =
        NetfilterSocket::open(socket::LARGE_BUFFER).map_err(|error| failed(ExchangeError::Socket(error)))?;
    let request = |sequence| {
        let header = (NFNL_SUBSYS_CTNETLINK << 8 | u16::from(kind), NLM_F_REQUEST | flags, sequence);
        let mut writer = Writer::default();
        // NFPROTO_UNSPEC: both families.
        writer.message(header, (NFPROTO_UNSPEC, 0), |message| {
            message.number(CTA_MARK, mark);
            message.number(CTA_MARK_MASK, mask);
        });
        writer.finish().unwrap_or_default()
    };
    match socket.ask(request, answer).await {
        Ok(()) => Ok(()),
        // Already gone: not an error.
        Err(ExchangeError::Refused { errno, .. }) if socket::is(&errno, Errno::ENOENT) => Ok(()),
        // nfnetlink answers EINVAL for a subsystem that is not registered; with the module loaded this request is valid.
        Err(ExchangeError::Refused { errno, .. }) if socket::is(&errno, Errno::EINVAL) => {
            Err(ConntrackError::Missing { doing })
        }
        Err(source) => Err(failed(source)),
    }
}

/// nfnetlink answers EINVAL for a subsystem that is not registered.
fn missing(doing: &'static str, source: ExchangeError) -> ConntrackError {
    match source {
        ExchangeError::Refused { errno, .. } if socket::is(&errno, Errno::EINVAL) => ConntrackError::Missing { doing },
        source => ConntrackError::Sources { doing, source },
    }
}
