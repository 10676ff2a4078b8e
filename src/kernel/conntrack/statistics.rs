//! Reads the statistics of connection tracking in this network namespace.

use super::super::nft::socket::{self, ExchangeError, NetfilterSocket};
use super::super::nft::uapi::{NFPROTO_UNSPEC, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST};
use super::super::nft::wire::{self, Malformed, Message, Writer};
use super::{ConntrackError, NFNL_SUBSYS_CTNETLINK, missing};
use crate::core::conntrack::ConntrackStatistics;

/// include/uapi/linux/netfilter/nfnetlink_conntrack.h.
const IPCTNL_MSG_CT_GET_STATS_CPU: u8 = 4;
const IPCTNL_MSG_CT_GET_STATS: u8 = 5;
const CTA_STATS_GLOBAL_ENTRIES: u16 = 1;
const CTA_STATS_GLOBAL_MAX_ENTRIES: u16 = 2;
const CTA_STATS_INSERT_FAILED: u16 = 9;
const CTA_STATS_DROP: u16 = 10;
const CTA_STATS_EARLY_DROP: u16 = 11;

/// The number of tracked connections; 0 also where no rule has enabled tracking. Must be called within a tokio runtime;
/// works in the network namespace of the calling thread.
pub async fn tracked() -> Result<u32, ConntrackError> {
    Ok(global(&mut open()?).await?.entries)
}

/// All statistics, summed up over the CPUs. Must be called within a tokio runtime; works in the network namespace of the
/// calling thread.
pub async fn statistics() -> Result<ConntrackStatistics, ConntrackError> {
    let mut socket = open()?;
    let mut sum = global(&mut socket).await?;
    let add = |attributes: &[u8]| {
        for (kind, counter) in [
            (CTA_STATS_INSERT_FAILED, &mut sum.insert_failed),
            (CTA_STATS_DROP, &mut sum.dropped),
            (CTA_STATS_EARLY_DROP, &mut sum.early_dropped),
        ] {
            // Each CPU's counter wraps separately, which is the same as wrapping their sum.
            *counter = counter.wrapping_add(wire::find_u32(attributes, kind)?.unwrap_or(0));
        }
        Ok(())
    };
    ask(&mut socket, (IPCTNL_MSG_CT_GET_STATS_CPU, NLM_F_DUMP), add).await?;
    Ok(sum)
}

fn open() -> Result<NetfilterSocket, ConntrackError> {
    NetfilterSocket::open(socket::LARGE_BUFFER)
        .map_err(|error| ConntrackError::Sources { doing: "count", source: ExchangeError::Socket(error) })
}

async fn global(socket: &mut NetfilterSocket) -> Result<ConntrackStatistics, ConntrackError> {
    let mut global = ConntrackStatistics::default();
    let take = |attributes: &[u8]| {
        global.entries = wire::find_u32(attributes, CTA_STATS_GLOBAL_ENTRIES)?.unwrap_or(0);
        global.limit = wire::find_u32(attributes, CTA_STATS_GLOBAL_MAX_ENTRIES)?;
        Ok(())
    };
    ask(socket, (IPCTNL_MSG_CT_GET_STATS, NLM_F_ACK), take).await?;
    Ok(global)
}

/// Asks for statistics of a kind. The answers are messages of the same kind.
async fn ask(
    socket: &mut NetfilterSocket,
    (kind, flags): (u8, u16),
    mut take: impl FnMut(&[u8]) -> Result<(), Malformed>,
) -> Result<(), ConntrackError> {
    let request = |sequence| {
        let header = (NFNL_SUBSYS_CTNETLINK << 8 | u16::from(kind), NLM_F_REQUEST | flags, sequence);
        let mut writer = Writer::default();
        writer.message(header, (NFPROTO_UNSPEC, 0), |_| {});
        writer.finish().unwrap_or_default()
    };
    let answer = |message: &Message<'_>| {
        if message.of_subsystem(NFNL_SUBSYS_CTNETLINK) == Some(kind) { take(message.netfilter()?.1) } else { Ok(()) }
    };
    socket.ask(request, answer).await.map_err(|source| missing("count", source))
}
