//! Lists connections and ends chosen ones, each by its own tuple: deletes them, or lets them linger with a mark whose packets
//! are dropped. The plan chooses them ([`ConntrackFlush`]).

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};

use nix::errno::Errno;

use super::super::nft::socket::{self, ExchangeError, NetfilterSocket};
use super::super::nft::uapi::{NFPROTO_UNSPEC, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST};
use super::super::nft::wire::{self, Malformed, Message, Writer};
use super::{
    CTA_MARK, CTA_MARK_MASK, ConntrackError, IPCTNL_MSG_CT_DELETE, IPCTNL_MSG_CT_GET, IPCTNL_MSG_CT_NEW,
    NFNL_SUBSYS_CTNETLINK, exchange, missing, tracked,
};
use crate::core::plan::conntrack::{Connection, ConntrackFlush};

/// include/uapi/linux/netfilter/nfnetlink_conntrack.h.
pub(super) const CTA_TUPLE_ORIG: u16 = 1;
pub(super) const CTA_TUPLE_REPLY: u16 = 2;
pub(super) const CTA_STATUS: u16 = 3;
pub(super) const CTA_TIMEOUT: u16 = 7;
const CTA_ID: u16 = 12;
const CTA_ZONE: u16 = 18;
const CTA_FILTER: u16 = 25;
const CTA_FILTER_ORIG_FLAGS: u16 = 1;
pub(super) const CTA_TUPLE_IP: u16 = 1;
pub(super) const CTA_IP_V4_SRC: u16 = 1;
pub(super) const CTA_IP_V4_DST: u16 = 2;
pub(super) const CTA_IP_V6_SRC: u16 = 3;
pub(super) const CTA_IP_V6_DST: u16 = 4;
/// `CTA_FILTER_FLAG(CTA_IP_SRC)`, net/netfilter/nf_conntrack_netlink.c.
const BY_SOURCE: u32 = 1;
/// include/uapi/linux/netfilter/nf_conntrack_common.h.
pub(super) const IPS_SEEN_REPLY: u32 = 1 << 1;
pub(super) const IPS_ASSURED: u32 = 1 << 2;
const IPS_FIXED_TIMEOUT: u32 = 1 << 10;
/// linux/netfilter.h.
pub(super) const NFPROTO_IPV4: u8 = 2;
pub(super) const NFPROTO_IPV6: u8 = 10;
/// linux/netlink.h.
const NLA_F_NESTED: u16 = 0x8000;

/// Up to this many IPv4 addresses get a filtered dump each; more share one unfiltered dump. A filtered dump walks the
/// whole table too, but makes no message of what it leaves out.
///
/// IPv6 addresses always share one: the kernel's filter has the comparison inverted there, and leaves out what was
/// requested (`ctnetlink_filter_match_tuple`, net/netfilter/nf_conntrack_netlink.c: `!ipv6_addr_cmp`; seen on Linux
/// 6.18).
const SINGLY: usize = 16;

/// How many seconds the entry of a flushed connection lives on, if it lingers: long for a reply that is in flight, short for a
/// pod that waits.
const LINGERS: u32 = 1;

/// One connection, as a request identifies it.
pub(super) struct Entry {
    pub(super) family: u8,
    tuple: Vec<u8>,
    zone: Option<Vec<u8>>,
    id: Option<Vec<u8>>,
    status: u32,
    /// The mark with which it lingers.
    lingers: Option<u32>,
}

impl Entry {
    /// Names it in a request.
    pub(super) fn identify(&self, message: &mut Writer) {
        message.bytes(CTA_TUPLE_ORIG | NLA_F_NESTED, &self.tuple);
        if let Some(zone) = &self.zone {
            message.bytes(CTA_ZONE, zone);
        }
    }
}

/// Ends the chosen connections; the next packet of each starts a new connection, if it lingers after [`LINGERS`]. Returns
/// their number. Must be called within a tokio runtime; works in the network namespace of the calling thread.
pub async fn flush_sources(sources: &ConntrackFlush) -> Result<usize, ConntrackError> {
    let failed = |source| ConntrackError::Sources { doing: "flush", source };
    let mut socket =
        NetfilterSocket::open(socket::LARGE_BUFFER).map_err(|error| failed(ExchangeError::Socket(error)))?;
    let mut chosen = Vec::new();
    let few = sources.addresses.keys().filter(|address| address.is_ipv4()).count() <= SINGLY;
    let singly = |address: &IpAddr| Some(*address).filter(|address| few && address.is_ipv4());
    let listings: BTreeSet<(u8, Option<IpAddr>)> =
        sources.addresses.keys().map(|address| (family_of(*address), singly(address))).collect();
    for (family, source) in listings {
        list(&mut socket, (family, source), sources, &mut chosen).await?;
    }
    for entry in &chosen {
        if !linger(&mut socket, entry, sources.mask).await.map_err(failed)? {
            delete(&mut socket, entry).await.map_err(failed)?;
        }
    }
    if let Some(mark) = chosen.iter().find_map(|entry| entry.lingers) {
        for entry in overdue(&mut socket, (mark, sources.mask)).await.map_err(failed)? {
            delete(&mut socket, &entry).await.map_err(failed)?;
        }
    }
    Ok(chosen.len())
}

/// Deletes the connections whose mark under `mask` is `mark` and whose replies go to another address of the family than
/// `keep`; the next packet of each starts a new connection. Returns their number. Must be called within a tokio runtime;
/// works in the network namespace of the calling thread.
pub async fn flush_translated(mark: u32, mask: u32, keep: IpAddr) -> Result<usize, ConntrackError> {
    let failed = |source| ConntrackError::Exchange { doing: "flush", mark, mask, source };
    let mut chosen = Vec::new();
    let answer = |message: &Message<'_>| {
        if message.of_subsystem(NFNL_SUBSYS_CTNETLINK) == Some(IPCTNL_MSG_CT_NEW) {
            let (family, attributes) = message.netfilter()?;
            // Kernels without the filter list everything.
            let is_other = |one: &Connection| {
                one.mark & mask == mark && one.replies_to != keep && one.replies_to.is_ipv4() == keep.is_ipv4()
            };
            if connection(attributes)?.is_some_and(|connection| is_other(&connection)) {
                chosen.push(entry(family, attributes)?);
            }
        }
        Ok(())
    };
    exchange("flush", (mark, mask), (IPCTNL_MSG_CT_GET, NLM_F_DUMP), answer).await?;
    let mut socket =
        NetfilterSocket::open(socket::LARGE_BUFFER).map_err(|error| failed(ExchangeError::Socket(error)))?;
    for entry in &chosen {
        delete(&mut socket, entry).await.map_err(failed)?;
    }
    Ok(chosen.len())
}

/// The connections that an address began. Must be called within a tokio runtime; works in the network namespace of the calling thread.
pub async fn of_source(source: IpAddr) -> Result<Vec<Connection>, ConntrackError> {
    let mut socket = NetfilterSocket::open(socket::LARGE_BUFFER)
        .map_err(|error| ConntrackError::Sources { doing: "list", source: ExchangeError::Socket(error) })?;
    let mut found = Vec::new();
    let request = |sequence| {
        let kind = NFNL_SUBSYS_CTNETLINK << 8 | u16::from(IPCTNL_MSG_CT_GET);
        let mut writer = Writer::default();
        // Without the kernel's filter: on call, one dump of everything is right on every kernel.
        writer.message((kind, NLM_F_REQUEST | NLM_F_DUMP, sequence), (family_of(source), 0), |_| {});
        writer.finish().unwrap_or_default()
    };
    let answer = |message: &Message<'_>| {
        if message.of_subsystem(NFNL_SUBSYS_CTNETLINK) == Some(IPCTNL_MSG_CT_NEW) {
            let listed = connection(message.netfilter()?.1)?;
            found.extend(listed.filter(|connection| connection.source == source));
        }
        Ok(())
    };
    socket.ask(request, answer).await.map_err(|error| missing("list", error))?;
    Ok(found)
}

/// Whether connections are tracked here. Not every kernel reports that, so where there is no connection this creates one:
/// a datagram over `lo` to itself. Must be called within a tokio runtime; works in the network namespace of the calling
/// thread.
pub async fn at_work() -> Result<bool, ConntrackError> {
    if tracked().await? > 0 {
        return Ok(true);
    }
    // Without a working loopback it stays unknown, and the caller waits, which does no harm.
    let made = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|own| own.send_to(b"egret", own.local_addr()?));
    Ok(made.is_ok() && tracked().await? > 0)
}

pub(super) fn family_of(address: IpAddr) -> u8 {
    if address.is_ipv4() { NFPROTO_IPV4 } else { NFPROTO_IPV6 }
}

/// The kernel's filter came with Linux 5.8. An older kernel ignores the attribute and lists everything, or refuses: then
/// the request is repeated without it. The result is filtered here in any case.
async fn list(
    socket: &mut NetfilterSocket,
    (family, source): (u8, Option<IpAddr>),
    sources: &ConntrackFlush,
    chosen: &mut Vec<Entry>,
) -> Result<(), ConntrackError> {
    let before = chosen.len();
    let mut filter = source;
    loop {
        let request = |sequence| {
            let kind = NFNL_SUBSYS_CTNETLINK << 8 | u16::from(IPCTNL_MSG_CT_GET);
            let mut writer = Writer::default();
            writer.message((kind, NLM_F_REQUEST | NLM_F_DUMP, sequence), (family, 0), |message| {
                if let Some(source) = filter {
                    by_source(message, source);
                }
            });
            writer.finish().unwrap_or_default()
        };
        let answer = |message: &Message<'_>| {
            if message.of_subsystem(NFNL_SUBSYS_CTNETLINK) == Some(IPCTNL_MSG_CT_NEW) {
                let (family, attributes) = message.netfilter()?;
                if let Some(connection) = connection(attributes)?
                    && source.is_none_or(|source| source == connection.source)
                    && sources.include(&connection)
                {
                    let lingers = sources.lingers(&connection);
                    chosen.push(Entry { lingers, ..entry(family, attributes)? });
                }
            }
            Ok(())
        };
        match socket.ask(request, answer).await {
            Ok(()) => return Ok(()),
            Err(ExchangeError::Refused { .. }) if filter.is_some() => {
                filter = None;
                chosen.truncate(before);
            }
            Err(source) => return Err(missing("flush", source)),
        }
    }
}

/// `CTA_FILTER` names the parts of the tuple that count. Its flags are in host order (`NLA_U32`).
fn by_source(message: &mut Writer, source: IpAddr) {
    message.nested(CTA_TUPLE_ORIG, |tuple| {
        tuple.nested(CTA_TUPLE_IP, |addresses| match source {
            IpAddr::V4(source) => addresses.bytes(CTA_IP_V4_SRC, &source.octets()),
            IpAddr::V6(source) => addresses.bytes(CTA_IP_V6_SRC, &source.octets()),
        });
    });
    message.nested(CTA_FILTER, |filter| filter.bytes(CTA_FILTER_ORIG_FLAGS, &BY_SOURCE.to_ne_bytes()));
}

/// The relevant fields of an entry; none if it has no addresses, which no entry of these families lacks.
fn connection(attributes: &[u8]) -> Result<Option<Connection>, Malformed> {
    let address = |tuple, v4, v6| -> Result<Option<IpAddr>, Malformed> {
        let Some(tuple) = wire::find(attributes, tuple)? else { return Ok(None) };
        let Some(addresses) = wire::find(tuple, CTA_TUPLE_IP)? else { return Ok(None) };
        if let Some(octets) = wire::find(addresses, v4)? {
            return <[u8; 4]>::try_from(octets)
                .map(|octets| Some(octets.into()))
                .map_err(|_| Malformed { what: "address" });
        }
        let octets = wire::find(addresses, v6)?.map(<[u8; 16]>::try_from);
        octets.transpose().map(|octets| octets.map(IpAddr::from)).map_err(|_| Malformed { what: "address" })
    };
    let source = |tuple| address(tuple, CTA_IP_V4_SRC, CTA_IP_V6_SRC);
    let replies_to = address(CTA_TUPLE_REPLY, CTA_IP_V4_DST, CTA_IP_V6_DST)?;
    let (Some(from), Some(to), Some(replies_to)) = (source(CTA_TUPLE_ORIG)?, source(CTA_TUPLE_REPLY)?, replies_to)
    else {
        return Ok(None);
    };
    let status = wire::find_u32(attributes, CTA_STATUS)?.unwrap_or(0);
    Ok(Some(Connection {
        source: from,
        destination: to,
        // One without CTA_MARK has no mark.
        mark: wire::find_u32(attributes, CTA_MARK)?.unwrap_or(0),
        answered: status & IPS_SEEN_REPLY != 0,
        replies_to,
    }))
}

pub(super) fn entry(family: u8, attributes: &[u8]) -> Result<Entry, Malformed> {
    let copy = |kind| Ok(wire::find(attributes, kind)?.map(<[u8]>::to_vec));
    let tuple = copy(CTA_TUPLE_ORIG)?.ok_or(Malformed { what: "connection" })?;
    let status = wire::find_u32(attributes, CTA_STATUS)?.unwrap_or(0);
    Ok(Entry { family, tuple, zone: copy(CTA_ZONE)?, id: copy(CTA_ID)?, status, lingers: None })
}

/// Marks an entry and lets it end after [`LINGERS`], whatever packets it sees until then: with a fixed timeout they do not
/// prolong it (`__nf_ct_refresh_acct`, net/netfilter/nf_conntrack_core.c). False: it does not linger, or the kernel refuses.
async fn linger(socket: &mut NetfilterSocket, entry: &Entry, mask: u32) -> Result<bool, ExchangeError> {
    let Some(mark) = entry.lingers else { return Ok(false) };
    // Kernels refuse a status without these two if the entry has got them since it was listed
    // (`ctnetlink_change_status`).
    let status = entry.status | IPS_SEEN_REPLY | IPS_ASSURED | IPS_FIXED_TIMEOUT;
    let request = |sequence| {
        // Neither NLM_F_CREATE nor NLM_F_EXCL: it changes an entry that exists.
        let kind = NFNL_SUBSYS_CTNETLINK << 8 | u16::from(IPCTNL_MSG_CT_NEW);
        let mut writer = Writer::default();
        writer.message((kind, NLM_F_REQUEST | NLM_F_ACK, sequence), (entry.family, 0), |message| {
            entry.identify(message);
            message.number(CTA_STATUS, status);
            message.number(CTA_TIMEOUT, LINGERS);
            message.number(CTA_MARK, mark);
            message.number(CTA_MARK_MASK, mask);
        });
        writer.finish().unwrap_or_default()
    };
    match socket.ask(request, |_| Ok(())).await {
        Ok(()) => Ok(true),
        // It has ended meanwhile.
        Err(ExchangeError::Refused { errno, .. }) if socket::is(&errno, Errno::ENOENT) => Ok(true),
        Err(ExchangeError::Refused { .. }) => Ok(false),
        Err(other) => Err(other),
    }
}

/// Lingering entries that would live longer. The kernel changes the timeout first, then fixes it (`ctnetlink_change_conntrack`),
/// and a packet in between prolongs it: a connection of TCP by days, and all its packets would be dropped.
async fn overdue(socket: &mut NetfilterSocket, (mark, mask): (u32, u32)) -> Result<Vec<Entry>, ExchangeError> {
    let mut overdue = Vec::new();
    let request = |sequence| {
        let kind = NFNL_SUBSYS_CTNETLINK << 8 | u16::from(IPCTNL_MSG_CT_GET);
        let mut writer = Writer::default();
        writer.message((kind, NLM_F_REQUEST | NLM_F_DUMP, sequence), (NFPROTO_UNSPEC, 0), |message| {
            message.number(CTA_MARK, mark);
            message.number(CTA_MARK_MASK, mask);
        });
        writer.finish().unwrap_or_default()
    };
    let answer = |message: &Message<'_>| {
        if message.of_subsystem(NFNL_SUBSYS_CTNETLINK) == Some(IPCTNL_MSG_CT_NEW) {
            let (family, attributes) = message.netfilter()?;
            let found = wire::find_u32(attributes, CTA_MARK)?.unwrap_or(0);
            let left = wire::find_u32(attributes, CTA_TIMEOUT)?.unwrap_or(0);
            let fixed = wire::find_u32(attributes, CTA_STATUS)?.unwrap_or(0) & IPS_FIXED_TIMEOUT != 0;
            if found & mask == mark && fixed && left > LINGERS {
                overdue.push(entry(family, attributes)?);
            }
        }
        Ok(())
    };
    socket.ask(request, answer).await?;
    Ok(overdue)
}

/// By tuple and id: a newer connection with the same tuple stays.
pub(super) async fn delete(socket: &mut NetfilterSocket, entry: &Entry) -> Result<(), ExchangeError> {
    let request = |sequence| {
        let kind = NFNL_SUBSYS_CTNETLINK << 8 | u16::from(IPCTNL_MSG_CT_DELETE);
        let mut writer = Writer::default();
        writer.message((kind, NLM_F_REQUEST | NLM_F_ACK, sequence), (entry.family, 0), |message| {
            entry.identify(message);
            if let Some(id) = &entry.id {
                message.bytes(CTA_ID, id);
            }
        });
        writer.finish().unwrap_or_default()
    };
    match socket.ask(request, |_| Ok(())).await {
        // It has ended meanwhile.
        Err(ExchangeError::Refused { errno, .. }) if socket::is(&errno, Errno::ENOENT) => Ok(()),
        // Some kernels refuse to delete one that a flow table has offloaded. Its packets reach no rule of Egret's
        // either.
        Err(ExchangeError::Refused { errno, .. }) if socket::is(&errno, Errno::EBUSY) => Ok(()),
        other => other,
    }
}
